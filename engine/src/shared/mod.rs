//! The arena: one block of memory that a family of processes shares, its lock, and the words they sleep on.
//!
//! The lock is the borrow: [`Arena::lock`] is the only way to a `&mut Stack`. Below this floor nothing knows that
//! several processes are at work. Unsafe code is at home here.
#![allow(unsafe_code)]

pub mod arena;
pub mod inspect;
pub mod lock;
pub mod messages;
pub mod relay;
pub mod words;

pub use arena::{Arena, Guard};
pub use inspect::Inspector;
pub use words::{CompanionWords, Process, RoleWords, Words};
