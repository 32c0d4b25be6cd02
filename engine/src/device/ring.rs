//! A TPACKET_V2 receive ring.
//!
//! Invariant: the slot at the head belongs to us while its status says TP_STATUS_USER, and to the kernel after we have
//! written TP_STATUS_KERNEL. Whoever holds the arena's lock reads; there is one reader at a time over all processes.

use super::{filter, high_socket, packet_type};
use crate::sys;
use crate::values::link::{Path, RxChecksum};
use crate::values::{Family, PortSet, RxMeta};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering};
use std::os::fd::RawFd;

/// Which frames a ring is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// Up to [`SMALL_FRAME_BYTES`].
    Small,
    Large,
}

/// The longest frame that goes to a small slot: an Ethernet frame with a VLAN tag and room to spare.
pub const SMALL_FRAME_BYTES: u32 = 1800;

/// An odd number of cache lines: the heads of slots that are a power of two apart would share few of the cache's sets, and
/// each frame would throw out the one that is looked at next.
const SMALL_SLOT: u32 = 31 * 64;
/// 64 KB, a link header, and the ring's own headers, in pages.
const LARGE_SLOT: u32 = 17 * 4096;
const SMALL_BLOCK: u32 = 64 * 1024;
/// Fifteen slots of 17 pages fill 255 of 256 pages.
const LARGE_BLOCK: u32 = 15 * LARGE_SLOT;

const VNET_HEADER: usize = 10;
const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const CSUM_VALID: u32 = 1 << 7;
const ARPHRD_ETHER: u16 = 1;

const PACKET_RX_RING: i32 = 5;
const PACKET_STATISTICS: i32 = 6;
const PACKET_VERSION: i32 = 10;
const PACKET_VNET_HDR: i32 = 15;
const TPACKET_V2: i32 = 1;
const TP_STATUS_KERNEL: u32 = 0;
const TP_STATUS_USER: u32 = 1;

/// struct tpacket2_hdr and, behind it, struct sockaddr_ll.
#[repr(C)]
struct SlotHeader {
    status: AtomicU32,
    len: u32,
    snaplen: u32,
    mac: u16,
    net: u16,
    sec: u32,
    nsec: u32,
    vlan_tci: u16,
    vlan_tpid: u16,
    padding: [u8; 4],
    sll: libc::sockaddr_ll,
}

/// Bytes of a slot, bytes of a block, blocks.
fn geometry(family: Family, shape: Shape) -> (u32, u32, u32) {
    match (shape, family) {
        (Shape::Small, Family::V4) => (SMALL_SLOT, SMALL_BLOCK, 64),
        (Shape::Small, Family::V6) => (SMALL_SLOT, SMALL_BLOCK, 32),
        (Shape::Large, Family::V4) => (LARGE_SLOT, LARGE_BLOCK, 4),
        (Shape::Large, Family::V6) => (LARGE_SLOT, LARGE_BLOCK, 2),
    }
}

pub struct Ring {
    fd: RawFd,
    family: Family,
    shape: Shape,
    at: NonNull<u8>,
    slots: u32,
}

impl Ring {
    /// A bound ring whose filter lets nothing through.
    pub fn open(family: Family, shape: Shape) -> Result<Ring, i32> {
        let fd = high_socket(libc::AF_PACKET, libc::SOCK_RAW, 0)?;
        let ring = Ring::set_up(fd, family, shape);
        if ring.is_err() {
            let _ = sys::close(fd);
        }
        ring
    }

    /// A ring that another process of the family has set up.
    pub fn adopt(fd: RawFd, family: Family, shape: Shape) -> Result<Ring, i32> {
        let (slot, block, blocks) = geometry(family, shape);
        let bytes = block as usize * blocks as usize;
        let at = sys::mmap(bytes, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, fd, 0)?;
        Ok(Ring { fd, family, shape, at, slots: block / slot * blocks })
    }

    fn set_up(fd: RawFd, family: Family, shape: Shape) -> Result<Ring, i32> {
        sys::setsockopt_value(fd, libc::SOL_PACKET, PACKET_VERSION, &TPACKET_V2)?;
        sys::setsockopt_value(fd, libc::SOL_PACKET, PACKET_VNET_HDR, &1i32)?;
        let (slot, block, blocks) = geometry(family, shape);
        // struct tpacket_req.
        let request = [block, blocks, slot, block / slot * blocks];
        sys::setsockopt_value(fd, libc::SOL_PACKET, PACKET_RX_RING, &request)?;
        let ring = Ring::adopt(fd, family, shape)?;
        ring.set_filter(&PortSet::new());
        let protocol = match family {
            Family::V4 => libc::ETH_P_IP,
            Family::V6 => libc::ETH_P_IPV6,
        };
        let addr = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: (protocol as u16).to_be(),
            sll_ifindex: 0,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        sys::bind(fd, sys::as_bytes(&addr))?;
        Ok(ring)
    }

    pub fn fd(&self) -> RawFd {
        self.fd
    }

    pub fn set_filter(&self, ports: &PortSet) {
        filter::attach(self.fd, self.family, self.shape, ports);
    }

    fn slot(&self, index: u32) -> &SlotHeader {
        let (slot, block) = match self.shape {
            Shape::Small => (SMALL_SLOT, SMALL_BLOCK),
            Shape::Large => (LARGE_SLOT, LARGE_BLOCK),
        };
        let per_block = block / slot;
        let index = index % self.slots;
        let offset = (index / per_block * block + index % per_block * slot) as usize;
        // SAFETY: within the mapping, aligned to 16; the kernel writes it, the status word tells whose it is.
        unsafe { &*self.at.as_ptr().add(offset).cast::<SlotHeader>() }
    }

    /// When the frame at `head` arrived; `None`: there is none.
    #[inline]
    pub fn stamp(&self, head: u32) -> Option<(u32, u32)> {
        let slot = self.slot(head);
        (slot.status.load(Ordering::Acquire) & TP_STATUS_USER != 0).then_some((slot.sec, slot.nsec))
    }

    /// Hands the frame at `head` over and gives its slot back.
    pub fn take(&self, head: &mut u32, taker: &mut dyn FnMut(&RxMeta, &[u8])) {
        let slot = self.slot(*head);
        let status = slot.status.load(Ordering::Acquire);
        let base = core::ptr::from_ref(slot).cast::<u8>();
        let (mac, net) = (slot.mac as usize, slot.net as usize);
        let end = mac + slot.snaplen as usize;
        // A frame that was cut off (longer than any slot) is of no use.
        if slot.snaplen == slot.len && net >= mac && end > net && mac >= VNET_HEADER {
            // SAFETY: the kernel has written `mac - VNET_HEADER .. mac + snaplen` within the slot, which is ours until the
            // status is written.
            let (vnet, link, ip) = unsafe {
                (
                    core::slice::from_raw_parts(base.add(mac - VNET_HEADER), VNET_HEADER),
                    core::slice::from_raw_parts(base.add(mac), net - mac),
                    core::slice::from_raw_parts(base.add(net), end - net),
                )
            };
            taker(&meta(slot, status, vnet, link), ip);
        }
        // The head first. Who dies in between leaves a slot behind that is not given back, which [`Ring::mend`] does; a head
        // that is behind the kernel's would see nothing any more.
        *head = (*head + 1) % self.slots;
        slot.status.store(TP_STATUS_KERNEL, Ordering::Release);
    }

    /// Gives back the slot before `head`, which a reader that died in [`Ring::take`] may have left. A ring that is full to the
    /// last slot looks the same from behind, but not from ahead. Where frames wait, it is left: it is taken once more when the head
    /// comes round, an old duplicate as any network may bring one.
    pub fn mend(&self, head: u32) {
        if self.stamp(head).is_none() {
            self.slot(head + self.slots - 1).status.store(TP_STATUS_KERNEL, Ordering::Release);
        }
    }

    /// Frames that found no slot since the last call.
    pub fn drops(&self) -> u32 {
        let mut stats = [0u8; 8];
        match sys::getsockopt(self.fd, libc::SOL_PACKET, PACKET_STATISTICS, &mut stats) {
            Ok(_) => u32::from_ne_bytes([stats[4], stats[5], stats[6], stats[7]]),
            Err(_) => 0,
        }
    }
}

fn meta(slot: &SlotHeader, status: u32, vnet: &[u8], link: &[u8]) -> RxMeta {
    let checksum = if vnet[0] & NEEDS_CSUM != 0 {
        RxChecksum::Partial
    } else if vnet[0] & DATA_VALID != 0 || status & CSUM_VALID != 0 {
        RxChecksum::Verified
    } else {
        RxChecksum::Unverified
    };
    let ifindex = slot.sll.sll_ifindex as u32;
    let source = if slot.sll.sll_hatype == ARPHRD_ETHER && link.len() >= 14 {
        let mac = |at: usize| core::array::from_fn(|i| link[at + i]);
        Path { ifindex, own_mac: mac(0), peer_mac: mac(6) }
    } else {
        Path::ROUTED
    };
    RxMeta { ifindex, to: packet_type(slot.sll.sll_pkttype), checksum, source }
}

// SAFETY: the mapping is valid in every thread; exclusion among readers is the arena's lock.
unsafe impl Send for Ring {}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ring without a kernel: the slots are what the test writes there.
    fn ring() -> Ring {
        let (slot, block, blocks) = geometry(Family::V4, Shape::Small);
        let words = vec![0u128; (block * blocks) as usize / 16].leak();
        Ring {
            fd: -1,
            family: Family::V4,
            shape: Shape::Small,
            at: NonNull::from(words).cast(),
            slots: block / slot * blocks,
        }
    }

    fn arrives(ring: &Ring, at: u32) {
        assert_eq!(
            ring.slot(at).status.swap(TP_STATUS_USER, Ordering::AcqRel),
            TP_STATUS_KERNEL,
            "slot {at}"
        );
    }

    #[test]
    fn a_reader_that_dies_behind_the_head_leaves_no_slot_behind() {
        let ring = ring();
        let mut head = 0;
        arrives(&ring, 0);
        ring.take(&mut head, &mut |_, _| ());
        assert_eq!(head, 1);
        // It has died before it gave slot 0 back.
        arrives(&ring, 0);
        ring.mend(head);
        (1..ring.slots).for_each(|at| arrives(&ring, at));
        arrives(&ring, 0);
        // Full: nothing was left behind, and nothing is given away.
        ring.mend(head);
        for _ in 0..ring.slots {
            assert!(ring.stamp(head).is_some());
            ring.take(&mut head, &mut |_, _| ());
        }
        assert_eq!(ring.stamp(head), None);
    }

    #[test]
    fn a_slot_that_was_left_behind_frames_is_taken_once_more() {
        let ring = ring();
        let mut head = 0;
        arrives(&ring, 0);
        ring.take(&mut head, &mut |_, _| ());
        // As before, and another frame waits already.
        arrives(&ring, 0);
        arrives(&ring, 1);
        ring.mend(head);
        (2..ring.slots).for_each(|at| arrives(&ring, at));
        // The kernel finds no slot now, until what it waits for is taken.
        (0..ring.slots).for_each(|_| ring.take(&mut head, &mut |_, _| ()));
        assert_eq!((ring.stamp(head), head), (None, 1));
        arrives(&ring, 1);
    }

    #[test]
    fn slots_have_room_for_what_the_kernel_puts_before_a_frame() {
        // tpacket_rcv: the ring's header, room for a link header, and the virtio header before it.
        let before = (size_of::<SlotHeader>() + 16).next_multiple_of(16) + VNET_HEADER;
        let (slot, block, _) = geometry(Family::V4, Shape::Small);
        assert!(before + SMALL_FRAME_BYTES as usize <= slot as usize);
        assert_eq!((slot % 16, block % 4096), (0, 0));
        let (slot, block, _) = geometry(Family::V4, Shape::Large);
        assert!(before + 65_535 + 18 <= slot as usize);
        assert_eq!((slot % 16, block % 4096), (0, 0));
    }
}
