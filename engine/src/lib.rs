//! The TCP engine of tcpreload.
//!
//! Floors, lowest first; a file uses its own floor and those below, never one above:
//!
//! | floor | what it is |
//! | --- | --- |
//! | [`values`] | time, sequence numbers, addresses, errors, counters, sysctls, limits |
//! | [`fixed`] | containers that live in one fixed-layout block of memory shared by several processes |
#![deny(unsafe_code)]

pub mod fixed;
pub mod stack;
pub mod sys;
pub mod tcp;
pub mod values;
pub mod wire;
