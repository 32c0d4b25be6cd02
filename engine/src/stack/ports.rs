//! Ports whose guard this arena holds: the kernel swallows all that comes to them, so the engine must answer, and the kernel
//! refuses a second bind, so the engine must arbitrate.
//!
//! A port entry lives as long as something uses it: a listener, its connections, a client's connections. Clients' ports are
//! kept in stock, since a guard costs more than a handshake. The guards themselves are descriptors of the C edge, which asks
//! [`Stack::port_is_alive`].

use super::holds::{Held, Refs};
use super::time_wait::Vacancy;
use super::{SockId, SocketPhase, Stack};
use crate::fixed::Id;
use crate::fixed::hash::Chained;
use crate::values::{Addr, Endpoint, Error, FourTuple, Instant, PortSet, error::Result};
use bytemuck::Zeroable;

/// Client ports kept in stock when nothing uses them.
const STOCK: usize = 2048;
/// Until the stock has this many ports, one is not used again before it has rested.
const RESTED: usize = 128;
const REST_US: u64 = 1_000_000;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Zeroable)]
#[repr(u32)]
pub enum PortKind {
    /// Bound by the program: a listener, or a client that chose its port.
    #[default]
    Bound = 0,
    /// A guard on a port of the kernel's choice, for connect(2) of unbound sockets; reused.
    Stock = 1,
}

#[derive(Zeroable)]
#[repr(C)]
pub struct Port {
    /// Where the guard is bound; a wildcard covers every address.
    pub(super) local: Endpoint,
    pub(super) kind: PortKind,
    /// Sockets and connections that use it.
    pub(super) refs: u32,
    /// ... of these, those without SO_REUSEADDR.
    pub(super) strict: u32,
    /// Processes that hold a descriptor of the guard.
    pub(super) copies: Refs,
    /// Nothing uses it any more: the guards are to be dropped, and until the last is, resets are ours to send.
    pub(super) dead: u32,
    /// Its guard was given to another family: connections of it go on, all else that comes to it is the other's.
    pub(super) given: u32,
    /// Families that have given their guard of this address to this one, and go on with connections of it.
    pub(super) guests: u32,
    pub(super) _pad: u32,
    /// When a connection was last opened from it.
    pub(super) used_at: Instant,
    pub(super) chain: Option<PortId>,
}

impl Port {
    pub fn number(&self) -> u16 {
        self.local.port
    }

    pub(super) fn clear_chain(&mut self) {
        self.chain = None;
    }

    pub(super) fn copies_mut(&mut self) -> &mut Refs {
        &mut self.copies
    }
}

pub type PortId = Id<Port>;

/// The index of ports by number.
pub enum ByNumber {}

impl Chained<ByNumber> for Port {
    fn chain(&self) -> Option<PortId> {
        self.chain
    }
    fn set_chain(&mut self, next: Option<PortId>) {
        self.chain = next;
    }
}

/// Whether a guard bound to `guard` swallows what comes to `addr`.
pub(super) fn covers(guard: Addr, addr: Addr) -> bool {
    guard == addr
        || guard == Addr::ANY_V6
        || (guard == Addr::ANY_V4 && addr.is_v4())
        || (guard == Addr::ANY_V6_ALONE && !addr.is_v4() && addr != Addr::ANY_V6)
}

fn overlap(a: Addr, b: Addr) -> bool {
    covers(a, b) || covers(b, a)
}

impl Stack {
    /// A guard is up on `local`.
    ///
    /// # Errors
    /// NoBuffers: too many ports.
    pub fn port_create(&mut self, local: Endpoint, kind: PortKind) -> Result<PortId> {
        let port = Port { local, kind, ..Port::zeroed() };
        let id = self.ports.insert(port).map_err(|_| Error::NoBuffers)?;
        let core = &mut *self.core;
        core.by_number.insert(&mut self.ports, u64::from(local.port), id);
        if !core.port_set.contains(local.port) {
            let range = core.sysctls.ip_local_port_range;
            let in_range = (range[0]..=range[1]).contains(&i64::from(local.port));
            if kind == PortKind::Stock && in_range {
                core.port_set.insert(range[0] as u16, range[1] as u16);
            } else {
                core.port_set.insert(local.port, local.port);
            }
            core.ports_version += 1;
        }
        self.hold(Held::Port(id));
        Ok(id)
    }

    /// Whether the guard of this port is still needed.
    pub fn port_is_alive(&self, id: PortId) -> bool {
        self.ports.get(id).is_some_and(|p| p.dead == 0 && p.given == 0)
    }

    /// What the packet filter has to let through, and a number that changes with it.
    pub fn owned_ports(&self) -> (&PortSet, u64) {
        (&self.core.port_set, self.core.ports_version)
    }

    /// Changes whenever a port is given up: time to look which guards are still needed.
    pub fn ports_given_up(&self) -> u64 {
        self.core.ports_given_up
    }

    /// The entry whose guard covers `addr`:`port`.
    pub fn port_covering(&self, addr: Addr, port: u16) -> Option<PortId> {
        self.core.by_number.find(&self.ports, u64::from(port), |p| {
            p.given == 0 && p.local.port == port && covers(p.local.addr, addr)
        })
    }

    pub(super) fn port_retain(&mut self, id: PortId, reuse_addr: bool) {
        if let Some(p) = self.ports.get_mut(id) {
            p.refs += 1;
            p.strict += u32::from(!reuse_addr);
            p.dead = 0;
        }
    }

    pub(super) fn port_release(&mut self, id: PortId, reuse_addr: bool) {
        let many = self.ports.len() > STOCK;
        let Some(p) = self.ports.get_mut(id) else { return };
        p.refs = p.refs.saturating_sub(1);
        p.strict = p.strict.saturating_sub(u32::from(!reuse_addr));
        if p.refs > 0 || (p.kind == PortKind::Stock && !many) {
            return;
        }
        self.port_give_up(id);
    }

    fn port_give_up(&mut self, id: PortId) {
        self.ports[id].dead = 1;
        self.core.ports_given_up += 1;
        if !self.ports[id].copies.any() {
            self.port_remove(id);
        }
    }

    /// A program wants to bind `local`: ports in stock that nothing uses are not in its way, the kernel would not hold them.
    pub fn retire_stock(&mut self, local: Endpoint) {
        let idle = |p: &Port| {
            p.kind == PortKind::Stock
                && (p.refs, p.dead) == (0, 0)
                && p.local.port == local.port
                && overlap(p.local.addr, local.addr)
        };
        while let Some(id) = self.core.by_number.find(&self.ports, u64::from(local.port), idle) {
            self.port_give_up(id);
        }
    }

    /// A fork has copied the guard's descriptor to one more process.
    pub fn port_copied(&mut self, id: PortId) {
        self.hold(Held::Port(id));
    }

    /// A process has dropped its descriptor of the guard.
    pub fn port_copy_gone(&mut self, id: PortId) {
        let is_last = self.unhold(Held::Port(id)) == Some(0);
        if is_last && self.ports.get(id).is_some_and(|p| p.dead != 0) {
            self.port_remove(id);
        }
    }

    /// A connection is opened from it.
    pub(super) fn port_used(&mut self, now: Instant, id: Option<PortId>) {
        if let Some(p) = id.and_then(|id| self.ports.get_mut(id)) {
            p.used_at = now;
        }
    }

    /// A user of the port has set or cleared SO_REUSEADDR.
    pub(super) fn port_strictness(&mut self, id: Option<PortId>, reuse_addr: bool) {
        if let Some(p) = id.and_then(|id| self.ports.get_mut(id)) {
            p.strict = if reuse_addr { p.strict.saturating_sub(1) } else { p.strict + 1 };
        }
    }

    fn port_remove(&mut self, id: PortId) {
        self.drop_holds(Held::Port(id));
        let core = &mut *self.core;
        let number = self.ports[id].local.port;
        core.by_number.remove(&mut self.ports, u64::from(number), id);
        self.ports.remove(id);
        // Made again from what is left.
        core.port_set.clear();
        let range = core.sysctls.ip_local_port_range;
        for (_, p) in self.ports.iter() {
            let in_range = (range[0]..=range[1]).contains(&i64::from(p.local.port));
            if p.kind == PortKind::Stock && in_range {
                core.port_set.insert(range[0] as u16, range[1] as u16);
            } else {
                core.port_set.insert(p.local.port, p.local.port);
            }
        }
        core.ports_version += 1;
    }

    /// bind(2) where our own guard made the kernel refuse: whether Linux would have allowed it, had our sockets been its own
    /// (inet_csk_get_port). Gives the entry to use.
    ///
    /// # Errors
    /// EADDRINUSE.
    pub fn may_bind(&self, id: SockId, local: Endpoint) -> Result<PortId> {
        let s = self.sockets.get(id).ok_or(Error::BadDescriptor)?;
        let in_way =
            |p: &Port| p.given == 0 && p.local.port == local.port && overlap(p.local.addr, local.addr);
        let port = self
            .core
            .by_number
            .find(&self.ports, u64::from(local.port), in_way)
            .ok_or(Error::AddressInUse)?;
        let listener = self
            .core
            .by_port
            .find(&self.sockets, u64::from(local.port), |l| {
                l.local.port == local.port && overlap(l.span(), local.addr)
            })
            .is_some();
        let p = &self.ports[port];
        let allowed = p.kind == PortKind::Bound
            && (p.refs == 0 || (s.options.reuse_addr && p.strict == 0))
            && !listener
            && covers(p.local.addr, local.addr);
        if allowed { Ok(port) } else { Err(Error::AddressInUse) }
    }

    /// `local` as the address of a guard of this socket's.
    pub fn as_guarded(&self, id: SockId, local: Endpoint) -> Endpoint {
        let addr = self.sockets.get(id).map_or(local.addr, |s| s.guarded(local.addr));
        Endpoint::with_scope(addr, local.port, local.scope)
    }

    /// Whether a guard that is needed is in the way of a bind to `local`.
    pub fn port_is_live_at(&self, local: Endpoint) -> bool {
        let in_way = |p: &Port| {
            p.dead == 0 && p.given == 0 && p.local.port == local.port && overlap(p.local.addr, local.addr)
        };
        self.core.by_number.find(&self.ports, u64::from(local.port), in_way).is_some()
    }

    /// Another family, told by `reuse_addr` whether its socket has SO_REUSEADDR, wants to bind `local`, and this one's guard is
    /// in its way: the entry whose guard may be given to it, by the rules of [`Stack::may_bind`].
    pub fn may_give(&self, local: Endpoint, reuse_addr: bool) -> Option<PortId> {
        let port = self.core.by_number.find(&self.ports, u64::from(local.port), |p| {
            p.given == 0 && p.local.port == local.port && overlap(p.local.addr, local.addr)
        })?;
        let listener = self.core.by_port.find(&self.sockets, u64::from(local.port), |l| {
            l.local.port == local.port && overlap(l.span(), local.addr)
        });
        let p = &self.ports[port];
        let allowed = p.kind == PortKind::Bound
            && (p.refs == 0 || (reuse_addr && p.strict == 0))
            && listener.is_none()
            && covers(p.local.addr, local.addr);
        allowed.then_some(port)
    }

    /// The guard of this entry is another family's from now on: what belongs to no connection of ours is none of our
    /// business any more. Gives the address that it is bound to.
    pub fn port_given(&mut self, id: PortId) -> Option<Endpoint> {
        let p = self.ports.get_mut(id)?;
        p.given = 1;
        self.core.ports_given_up += 1;
        Some(p.local)
    }

    /// Nobody took it: the guard stays here.
    pub fn port_not_given(&mut self, id: PortId) {
        if let Some(p) = self.ports.get_mut(id) {
            p.given = 0;
        }
    }

    /// Whether a connection's port was given to another family.
    pub(super) fn is_given(&self, port: Option<PortId>) -> bool {
        port.and_then(|id| self.ports.get(id)).is_some_and(|p| p.given != 0)
    }

    /// Families that have given the guard on `local` to this one, and go on with connections of theirs, are one more.
    pub fn guest_came(&mut self, id: PortId) {
        if let Some(p) = self.ports.get_mut(id) {
            p.guests += 1;
        }
    }

    /// One of those families has nothing left to go on with.
    pub fn guest_left(&mut self, id: PortId) {
        if let Some(p) = self.ports.get_mut(id) {
            p.guests = p.guests.saturating_sub(1);
        }
    }

    /// Nobody knows any more whether the families that gave guards to this one are still there.
    pub fn guests_forgotten(&mut self) {
        for id in self.ports.ids().collect::<Vec<_>>() {
            self.ports[id].guests = 0;
        }
    }

    /// Whether a segment for `addr`:`port` that fits nothing here may belong to another family's connection.
    pub(super) fn has_guests(&self, addr: Addr, port: u16) -> bool {
        self.port_covering(addr, port).is_some_and(|id| self.ports[id].guests > 0)
    }

    /// Whether any connection or socket still uses this entry.
    pub fn port_in_use(&self, id: PortId) -> bool {
        self.ports.get(id).is_some_and(|p| p.refs > 0)
    }

    /// The socket has `local`, given by the kernel or by [`Stack::may_bind`] (then with its entry).
    pub fn bound(&mut self, id: SockId, local: Endpoint, port: Option<PortId>) {
        let Some(s) = self.sockets.get_mut(id) else { return };
        s.local = local;
        s.bound = true;
        // An address of IPv6's (__inet6_bind).
        s.options.v6only |= !local.addr.is_v4() && local.addr != Addr::ANY_V6;
        let reuse = s.options.reuse_addr;
        if let Some(port) = port {
            s.port = Some(port);
            self.port_retain(port, reuse);
        }
    }

    /// The next acknowledgment wakes whoever waits for room on this socket, however much room there is.
    pub fn watch_acks(&mut self, id: SockId) {
        if let Some(c) = self.sockets.get(id).and_then(|s| s.conn).and_then(|c| self.conns.get_mut(c)) {
            c.watch_acks();
        }
    }

    /// Wakes one more waiter for what one that left did not take.
    pub fn pass_on(&mut self, id: SockId) {
        let ready = self.readiness(id);
        if !ready.is_empty() {
            self.notify(id, ready);
        }
    }

    pub fn is_bound(&self, id: SockId) -> bool {
        self.sockets.get(id).is_some_and(|s| s.bound)
    }

    /// The guard entry that a socket holds.
    pub fn port_of(&self, id: SockId) -> Option<PortId> {
        self.sockets.get(id)?.port
    }

    /// Ties a socket to a guard: that of its own address, or for an unbound one that connects, one of the stock.
    pub fn set_port(&mut self, id: SockId, port: PortId) {
        let Some(number) = self.ports.get(port).map(Port::number) else { return };
        let Some(s) = self.sockets.get_mut(id) else { return };
        s.local.port = number;
        let reuse = s.options.reuse_addr;
        let old = s.port.replace(port);
        if old != Some(port) {
            self.port_retain(port, reuse);
            if let Some(old) = old {
                self.port_release(old, reuse);
            }
        }
    }

    /// A port from the stock that no connection between `local` and `remote` uses, chosen unpredictably (RFC 6056), or whose
    /// TIME-WAIT may be reused. `None`: a new guard is needed.
    pub fn pick_port(&mut self, now: Instant, local: Addr, remote: Endpoint, rested: bool) -> Option<PortId> {
        let stock: usize = self.ports.len();
        if stock == 0 {
            return None;
        }
        // A few random tries; when most of the stock is in use towards this peer, a new guard is cheaper than a search.
        let mut best: Option<PortId> = None;
        for _ in 0..16 {
            let core = &mut *self.core;
            core.walk ^= core.walk << 13;
            core.walk ^= core.walk >> 7;
            core.walk ^= core.walk << 17;
            let index = (core.walk % self.ports.high() as u64) as u32;
            let Some(id) = self.ports.id_at(index) else { continue };
            let p = &self.ports[id];
            if p.kind != PortKind::Stock || !covers(p.local.addr, local) {
                continue;
            }
            let tuple = FourTuple { local: Endpoint::new(local, p.local.port), remote };
            if best.is_none_or(|b| p.used_at < self.ports[b].used_at)
                && self.vacancy(now, &tuple) != Vacancy::Taken
            {
                best = Some(id);
            }
        }
        let id = best?;
        // The peer may keep the last connection of these names in TIME-WAIT: a port that has rested is better.
        if rested && stock < RESTED && now.us_since(self.ports[id].used_at) < REST_US {
            return None;
        }
        Some(id)
    }

    /// Whether some listener or connection makes the socket's address its own.
    pub fn is_unbound(&self, id: SockId) -> bool {
        self.sockets.get(id).is_some_and(|s| !s.bound && s.phase == SocketPhase::Unconnected)
    }
}
