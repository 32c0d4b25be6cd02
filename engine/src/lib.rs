//! The TCP engine of tcpreload.
//!
//! Floors, lowest first; a file uses its own floor and those below, never one above:
//!
//! | floor | what it is |
//! | --- | --- |
//! | [`values`], [`sys`] | time, sequence numbers, addresses, errors, counters, sysctls, limits; bare system calls |
//! | [`fixed`] | containers that live in one fixed-layout block of memory shared by several processes |
//! | [`wire`] | bytes to plain structs and back |
//! | [`tcp`] | one connection |
//! | [`stack`] | many connections: demultiplexing, listen queues, sockets, readiness |
//! | [`device`] | packet sockets: frames in and out |
//! | [`shared`] | the arena and its lock: one stack, several processes |
//! | [`driver`] | one turn: device, stack, device |
#![deny(unsafe_code)]

pub mod device;
pub mod driver;
pub mod fixed;
pub mod shared;
pub mod stack;
pub mod sys;
pub mod tcp;
pub mod values;
pub mod wire;
