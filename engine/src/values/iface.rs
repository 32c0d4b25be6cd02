//! What is known of the host's interfaces and addresses, and the refusals that the kernel makes before TCP: a tap sees
//! packets that the kernel would never hand to a socket, so they are made again here.

use super::limits::{MAX_INTERFACES, MAX_LOCAL_ADDRS};
use super::{Addr, Counter};
use bytemuck::Zeroable;

#[derive(Clone, Copy, Debug, Default, Zeroable)]
#[repr(C)]
pub struct Interface {
    pub ifindex: u32,
    pub mtu: u32,
    /// 1 for a loopback interface.
    pub loopback: u32,
    _pad: u32,
}

#[derive(Clone, Copy, Debug, Default, Zeroable)]
#[repr(C)]
pub struct LocalAddr {
    pub addr: Addr,
    pub broadcast: Addr,
    /// Of a link-local address; 0 for others.
    pub ifindex: u32,
    pub prefix_len: u32,
}

/// Plain data, refreshed by the device.
#[derive(Clone, Copy, Zeroable)]
#[repr(C)]
pub struct InterfaceTable {
    interfaces: [Interface; MAX_INTERFACES],
    addrs: [LocalAddr; MAX_LOCAL_ADDRS],
    interface_count: u32,
    addr_count: u32,
}

impl Interface {
    pub fn new(ifindex: u32, mtu: u32, loopback: bool) -> Interface {
        Interface { ifindex, mtu, loopback: u32::from(loopback), _pad: 0 }
    }
}

impl InterfaceTable {
    pub fn clear(&mut self) {
        self.interface_count = 0;
        self.addr_count = 0;
    }

    pub fn add_interface(&mut self, interface: Interface) {
        if let Some(slot) = self.interfaces.get_mut(self.interface_count as usize) {
            *slot = interface;
            self.interface_count += 1;
        }
    }

    pub fn add_addr(&mut self, addr: LocalAddr) {
        if let Some(slot) = self.addrs.get_mut(self.addr_count as usize) {
            *slot = addr;
            self.addr_count += 1;
        }
    }

    pub fn interface(&self, ifindex: u32) -> Option<&Interface> {
        self.interfaces[..self.interface_count as usize].iter().find(|i| i.ifindex == ifindex)
    }

    pub fn addrs(&self) -> &[LocalAddr] {
        &self.addrs[..self.addr_count as usize]
    }

    pub fn is_loopback(&self, ifindex: u32) -> bool {
        self.interface(ifindex).is_some_and(|i| i.loopback != 0)
    }

    /// The MTU of an interface; 1500 for one that is not known (yet).
    pub fn mtu(&self, ifindex: u32) -> u32 {
        self.interface(ifindex).map_or(1500, |i| i.mtu)
    }

    /// An address of this host; all of 127/8 is.
    pub fn is_local(&self, addr: Addr) -> bool {
        addr.is_loopback() || self.addrs().iter().any(|a| a.addr == addr)
    }

    /// The interface that gives a link-local source its meaning, for a packet that came by `ifindex`; 0 for any other source. What
    /// a host sends to itself comes by lo, and belongs to the link of its address.
    pub fn scope_of(&self, ifindex: u32, src: Addr) -> u32 {
        if !src.is_link_local_v6() {
            return 0;
        }
        let own = self.addrs().iter().find(|a| a.addr == src).filter(|_| self.is_loopback(ifindex));
        own.map_or(ifindex, |a| a.ifindex)
    }

    fn is_broadcast(&self, addr: Addr) -> bool {
        addr.is_limited_broadcast()
            || (addr.is_v4()
                && self.addrs().iter().any(|a| a.broadcast == addr && !a.broadcast.is_unspecified()))
    }

    /// Whether the kernel would hand a TCP packet from `src` to `dst`, arrived on `ifindex`, to a socket of this host.
    ///
    /// Weak host model, as Linux: a local address is good on any interface, but loopback addresses only on lo, and
    /// a source that is our own only through lo (martians, rp_filter or not: no reply could reach it).
    pub fn accepts(&self, ifindex: u32, src: Addr, dst: Addr) -> Result<(), Counter> {
        // 240/4 is nobody's, so nothing leads back to it.
        let reserved = src.is_v4() && src.octets_v4()[0] >= 240;
        if src.is_multicast() || src.is_unspecified() || reserved || self.is_broadcast(src) {
            return Err(Counter::DropMartian);
        }
        if dst.is_multicast() || self.is_broadcast(dst) || dst.is_unspecified() {
            return Err(Counter::DropMartian);
        }
        if !self.is_loopback(ifindex) && (src.is_loopback() || dst.is_loopback() || self.is_local(src)) {
            return Err(Counter::DropMartian);
        }
        if !self.is_local(dst) {
            return Err(Counter::DropNotLocal);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_the_kernel_refuses() {
        let mut t = InterfaceTable::zeroed();
        t.add_interface(Interface::new(1, 65536, true));
        t.add_interface(Interface::new(2, 1500, false));
        let (us, peer) = (Addr::v4([10, 0, 0, 1]), Addr::v4([10, 0, 0, 2]));
        let broadcast = Addr::v4([10, 0, 0, 255]);
        t.add_addr(LocalAddr { addr: us, broadcast, ifindex: 2, prefix_len: 24 });
        let lo = Addr::v4([127, 0, 0, 1]);
        assert_eq!(t.accepts(2, peer, us), Ok(()));
        assert_eq!(t.accepts(1, us, us), Ok(()));
        assert_eq!(t.accepts(1, lo, Addr::v4([127, 9, 9, 9])), Ok(()));
        for (ifindex, src, dst) in [
            (2, peer, lo),
            (2, lo, us),
            (2, us, us),
            (2, peer, broadcast),
            (2, broadcast, us),
            (2, Addr::ANY_V4, us),
        ] {
            assert_eq!(t.accepts(ifindex, src, dst), Err(Counter::DropMartian), "{src} {dst}");
        }
        assert_eq!(t.accepts(2, peer, Addr::v4([10, 0, 0, 9])), Err(Counter::DropNotLocal));
    }

    #[test]
    fn a_link_local_source_belongs_to_a_link() {
        let mut t = InterfaceTable::zeroed();
        t.add_interface(Interface::new(1, 65536, true));
        t.add_interface(Interface::new(2, 1500, false));
        let link_local = |last| Addr::v6([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
        t.add_addr(LocalAddr { addr: link_local(1), broadcast: Addr::ANY_V6, ifindex: 2, prefix_len: 64 });
        assert_eq!(t.scope_of(2, link_local(9)), 2);
        assert_eq!(t.scope_of(1, link_local(1)), 2);
        assert_eq!(t.scope_of(2, Addr::v6([1; 16])), 0);
    }
}
