//! The doors: libc's symbols, overridden. Each asks whose descriptor it is; what is not ours goes to the real function,
//! untouched.
#![allow(clippy::missing_safety_doc, clippy::undocumented_unsafe_blocks)]

mod bare;
mod data;
mod descriptors;
mod numbers;
mod poll;
mod process;
mod raw;
mod signal;
mod socket;
mod stdio;
mod variadic;
