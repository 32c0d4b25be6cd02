//! What a call on one of our descriptors does. C comes in as numbers and pointers, goes through `abi`, and ends in one or two
//! calls of the engine.

pub mod data;
pub mod descriptors;
pub mod errqueue;
pub mod options;
pub mod socket;
