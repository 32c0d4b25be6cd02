//! Wire formats: bytes to plain structs and back. No state, no allocation, nothing that a hostile packet could break.

pub mod checksum;
pub mod icmp;
pub mod ip;
pub mod tcp;

pub use checksum::Sum;
pub use tcp::{Cookie, Flags, Header, Options, SackBlocks, Timestamps};

/// Why bytes from the network were not taken. Never an error of the program: a counted drop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Malformed {
    /// Shorter than its headers say, or than any header is.
    Truncated,
    /// An IP version, header length or data offset that cannot be.
    Header,
    /// The IPv4 header checksum is wrong.
    IpChecksum,
    /// A fragment of a larger packet.
    Fragment,
}
