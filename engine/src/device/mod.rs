//! Frames in and out of a real machine: packet sockets and raw sockets, CAP_NET_RAW and nothing else.
//!
//! | file | what |
//! | --- | --- |
//! | `ring` | receive: mapped TPACKET_V2 rings |
//! | `filter` | which frames the kernel copies into them |
//! | `transmit` | AF_PACKET with GSO where the next hop is known, raw IP else |
//! | `diag` | whether the kernel has a connection of the same names |
//! | `interfaces` | what is known of interfaces, addresses and routes |
//!
//! **Receive.** For each family two rings, told apart by length in their filters and merged by time: many small slots, so
//! that a burst of a thousand SYNs is not lost, and a few that hold a 64 KB frame of a local peer. Rings are not bound by
//! rmem_max (a socket queue of the default size holds four frames of 64 KB), cost no system call while frames wait, and
//! are mapped before fork, so that every process of a family reads the same ones: the positions are in [`DeviceState`], in
//! the arena. For small frames a ring takes 1.31 times what the kernel's own stack takes in requests, recvmmsg 1.22;
//! with slots that hold 64 KB recvmmsg has the edge (0.93 against 0.85), which the merged pair leaves lying in exchange for
//! the bursts. TPACKET_V3 would add a millisecond to every request.
//!
//! **Transmit.** Small packets are staged under the lock and leave in one sendmmsg after it: sending wakes the peer, if it is
//! on this machine, and must not let it run while others wait for the lock. Large ones go by reference, at once. Qdiscs are not
//! bypassed: tcpdump sees what leaves.
#![allow(unsafe_code)]

mod diag;
mod filter;
mod interfaces;
#[cfg(test)]
pub mod link;
mod ring;
mod transmit;

use crate::stack::{Route, Stack};
use crate::sys;
use crate::values::link::PacketType;
use crate::values::{Addr, Counter, Counters, Family, Instant, InterfaceTable, RxMeta};
use bytemuck::Zeroable;
use ring::{Ring, Shape};
use std::os::fd::RawFd;
pub use transmit::Transmitter;
use transmit::TxSockets;

pub use interfaces::{device_of, sockaddr};

/// What of a device is shared by the processes of a family.
#[derive(Zeroable)]
#[repr(C)]
pub struct DeviceState {
    /// Next slot of each ring.
    heads: [u32; RINGS],
    /// Which version of the stack's ports the filters have.
    pub filter_version: u64,
    /// When interfaces and addresses were last read.
    refreshed: Instant,
    /// When the drop counts were last read.
    drops_read: Instant,
    /// Not 0: whoever read the rings last has died of it, perhaps between two of its steps.
    torn: u32,
    _pad: u32,
}

impl DeviceState {
    /// The last holder of the lock has died inside.
    pub fn tear(&mut self) {
        self.torn = 1;
    }
}

const RINGS: usize = 4;
/// Bytes that one connection's window may promise: what the large ring takes in full frames, halved for two connections
/// that burst at once.
pub const WINDOW_LIMIT: u32 = 2 << 20;
/// Interfaces are looked at again at most this often for an unknown address ...
const REFRESH_US: u64 = 50_000;
/// ... and at least this often while frames come.
const STALE_US: u64 = 5_000_000;

/// A way to receive and send.
pub trait Device {
    /// Hands over up to `budget` frames, each from its IP header on; returns how many.
    fn receive(
        &mut self,
        state: &mut DeviceState,
        budget: usize,
        taker: &mut dyn FnMut(&RxMeta, &[u8]),
    ) -> usize;

    /// Frames wait. A load, no system call.
    fn ready(&self, state: &DeviceState) -> bool;

    /// Reads interfaces and addresses again, if that was not done just now.
    fn refresh(&mut self, state: &mut DeviceState, table: &mut InterfaceTable, now: Instant, unknown: bool);

    /// Counts what the rings had to drop.
    fn count_drops(&mut self, state: &mut DeviceState, counters: &mut Counters, now: Instant);
}

/// Packet sockets of one arena. The descriptors and mappings are the same in every process of the family.
pub struct PacketDevice {
    rings: Vec<Ring>,
    fds: Vec<RawFd>,
    tx: TxSockets,
}

impl PacketDevice {
    /// Opens everything, filters shut. The descriptors stand above the program's.
    ///
    /// # Errors
    /// The errno; EPERM without CAP_NET_RAW.
    pub fn open() -> Result<PacketDevice, i32> {
        let mut rings = Vec::new();
        for family in [Family::V4, Family::V6] {
            for shape in [Shape::Small, Shape::Large] {
                match Ring::open(family, shape) {
                    Ok(ring) => rings.push(ring),
                    // A kernel without IPv6 has no such protocol to tap.
                    Err(libc::EAFNOSUPPORT) if family == Family::V6 => {}
                    Err(errno) => return Err(errno),
                }
            }
        }
        let tx = TxSockets::open()?;
        let fds = rings.iter().map(Ring::fd).collect();
        Ok(PacketDevice { rings, fds, tx })
    }

    /// Those that another process of the family has opened: `rings` in the order of [`PacketDevice::poll_fds`], and what
    /// [`PacketDevice::tx_fds`] gives there.
    ///
    /// # Errors
    /// The errno of mmap(2).
    pub fn adopt(rings: &[RawFd], tx: [RawFd; 3]) -> Result<PacketDevice, i32> {
        let kinds = [Family::V4, Family::V6].into_iter().flat_map(|f| [(f, Shape::Small), (f, Shape::Large)]);
        let rings: Result<Vec<Ring>, i32> =
            rings.iter().zip(kinds).map(|(&fd, (family, shape))| Ring::adopt(fd, family, shape)).collect();
        let rings = rings?;
        let fds = rings.iter().map(Ring::fd).collect();
        Ok(PacketDevice { rings, fds, tx: TxSockets::adopt(tx) })
    }

    /// The descriptors that it sends through: AF_PACKET, raw IPv4, raw IPv6 (-1: no IPv6 here).
    pub fn tx_fds(&self) -> [RawFd; 3] {
        self.tx.fds()
    }

    /// A transmitter of this thread's own, over the device's sockets.
    pub fn transmitter(&self) -> Transmitter {
        Transmitter::new(self.tx)
    }

    /// What a driver polls.
    pub fn poll_fds(&self) -> &[RawFd] {
        &self.fds
    }

    pub fn owns_fd(&self, fd: RawFd) -> bool {
        self.fds.contains(&fd) || self.tx.fds().contains(&fd)
    }

    /// Every descriptor of the device.
    pub fn all_fds(&self) -> impl Iterator<Item = RawFd> + '_ {
        self.fds.iter().copied().chain(self.tx.fds())
    }

    /// Lets the packet filters follow the ports that the stack owns: what is for those passes, and nothing else.
    pub fn follow_ports(&mut self, stack: &Stack, state: &mut DeviceState) {
        let (ports, version) = stack.owned_ports();
        if version != state.filter_version {
            self.rings.iter().for_each(|ring| ring.set_filter(ports));
            state.filter_version = version;
        }
    }

    /// Where packets to `dst` come from and how large they may be; for a socket with options of its own, as it would have it.
    ///
    /// # Errors
    /// The errno of the routing decision: ENETUNREACH, EHOSTUNREACH ...
    pub fn route(&self, dst: Addr, scope: u32, like: Option<RawFd>) -> Result<Route, i32> {
        interfaces::route(dst, scope, like)
    }

    /// The rings of one family whose next slot is full: small, large.
    fn next_of(&self, state: &DeviceState, first: usize) -> Option<usize> {
        let pair = self.rings.get(first..first + 2)?;
        // Small first: a large frame that came before the small one is visible if the small one is.
        let small = pair[0].stamp(state.heads[first]);
        let large = pair[1].stamp(state.heads[first + 1]);
        match (small, large) {
            (None, None) => None,
            (Some(_), None) => Some(first),
            (None, Some(_)) => Some(first + 1),
            (Some(s), Some(l)) => Some(if l < s { first + 1 } else { first }),
        }
    }
}

impl Device for PacketDevice {
    fn receive(
        &mut self,
        state: &mut DeviceState,
        budget: usize,
        taker: &mut dyn FnMut(&RxMeta, &[u8]),
    ) -> usize {
        if core::mem::take(&mut state.torn) != 0 {
            self.rings.iter().zip(&state.heads).for_each(|(ring, &head)| ring.mend(head));
        }
        let mut count = 0;
        for first in [0, 2] {
            while count < budget
                && let Some(n) = self.next_of(state, first)
            {
                self.rings[n].take(&mut state.heads[n], taker);
                count += 1;
            }
        }
        count
    }

    fn ready(&self, state: &DeviceState) -> bool {
        self.rings.iter().zip(&state.heads).any(|(ring, &head)| ring.stamp(head).is_some())
    }

    fn refresh(&mut self, state: &mut DeviceState, table: &mut InterfaceTable, now: Instant, unknown: bool) {
        let age = now.us_since(state.refreshed);
        if !state.refreshed.is_set() || age >= STALE_US || (unknown && age >= REFRESH_US) {
            state.refreshed = now;
            interfaces::read(table);
        }
    }

    fn count_drops(&mut self, state: &mut DeviceState, counters: &mut Counters, now: Instant) {
        if now.us_since(state.drops_read) < 100_000 {
            return;
        }
        state.drops_read = now;
        for ring in &self.rings {
            counters.add(Counter::RxRingFull, u64::from(ring.drops()));
        }
    }
}

fn packet_type(sll: u8) -> PacketType {
    match sll {
        0 => PacketType::Host,
        1 => PacketType::Broadcast,
        2 => PacketType::Multicast,
        3 => PacketType::OtherHost,
        _ => PacketType::Outgoing,
    }
}

/// A socket moved above the program's descriptors.
fn high_socket(domain: i32, kind: i32, protocol: i32) -> Result<RawFd, i32> {
    sys::move_high(sys::socket(domain, kind | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, protocol)?)
}
