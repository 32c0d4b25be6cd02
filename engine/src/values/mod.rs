//! The lowest floor: plain values that every other floor speaks in.
//!
//! Nothing here knows of sockets, memory or the kernel; everything is `Copy` and, where it is stored in the arena,
//! valid when all its bytes are zero.

pub mod addr;
pub mod counters;
pub mod error;
pub mod iface;
pub mod limits;
pub mod link;
pub mod seq;
pub mod signal;
pub mod sysctl;
pub mod time;

pub use addr::{Addr, Endpoint, Family, FourTuple};
pub use counters::{Counter, Counters};
pub use error::Error;
pub use iface::InterfaceTable;
pub use link::{Path, PortSet, RxMeta};
pub use seq::SeqNum;
pub use sysctl::Sysctls;
pub use time::Instant;
