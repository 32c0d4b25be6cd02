//! What the link tells of a frame, and how to send one back.

use bytemuck::Zeroable;

/// Whom the link layer addressed a frame to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PacketType {
    Host,
    Broadcast,
    Multicast,
    OtherHost,
    Outgoing,
}

/// What is known of the TCP checksum of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RxChecksum {
    /// The hardware has verified it.
    Verified,
    /// The sender is on this machine and has left it to hardware that there is not: nothing to verify (DESIGN P2).
    Partial,
    /// It has to be verified.
    Unverified,
}

/// What comes with a received packet.
#[derive(Clone, Copy, Debug)]
pub struct RxMeta {
    pub ifindex: u32,
    pub to: PacketType,
    pub checksum: RxChecksum,
    /// Where a reply can be sent.
    pub source: Path,
}

/// How packets of a connection leave. All-zero: routed by the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Zeroable)]
#[repr(C)]
pub struct Path {
    /// The interface of an Ethernet-like link; 0: through a raw IP socket, routed by the kernel.
    pub ifindex: u32,
    /// The next hop, and our own address on the link.
    pub peer_mac: [u8; 6],
    pub own_mac: [u8; 6],
}

impl Path {
    pub const ROUTED: Path = Path { ifindex: 0, peer_mac: [0; 6], own_mac: [0; 6] };

    pub fn is_direct(self) -> bool {
        self.ifindex != 0
    }
}

/// Destination ports that the packet filter lets through: a superset of what the stack owns.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Zeroable)]
#[repr(C)]
pub struct PortSet {
    len: u32,
    ranges: [(u16, u16); PortSet::MAX],
}

impl PortSet {
    pub const MAX: usize = 64;

    pub const fn new() -> PortSet {
        PortSet { len: 0, ranges: [(0, 0); PortSet::MAX] }
    }

    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Adds `first..=last`; when there is no room, the last range grows to cover it too.
    pub fn insert(&mut self, first: u16, last: u16) {
        if self.as_slice().iter().any(|r| r.0 <= first && last <= r.1) {
            return;
        }
        let len = self.len as usize;
        if len < PortSet::MAX {
            self.ranges[len] = (first, last);
            self.len += 1;
        } else {
            let r = &mut self.ranges[len - 1];
            *r = (r.0.min(first), r.1.max(last));
        }
    }

    pub fn as_slice(&self) -> &[(u16, u16)] {
        &self.ranges[..self.len as usize]
    }

    pub fn contains(&self, port: u16) -> bool {
        self.as_slice().iter().any(|r| r.0 <= port && port <= r.1)
    }
}

impl Default for PortSet {
    fn default() -> Self {
        PortSet::new()
    }
}
