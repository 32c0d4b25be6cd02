//! Readiness as poll(2) sees it, the threads that wait for it, and epoll sets.
//!
//! A sleeping thread is a [`Waiter`]; a [`WaitLink`] ties it to a socket or an epoll set. When something happens to a
//! socket, [`Stack::notify`] wakes the waiters that are interested and puts the socket's epoll items on their sets' ready
//! lists. Registration and the check before it happen under one hold of the arena's lock, so no wake-up is lost.
//!
//! An epoll set reports what is on its ready list *and* is ready when it is collected, as Linux does: the event only
//! says "look again".

use super::holds::{Held, Refs};
use super::{SockId, Socket, SocketPhase, Stack};
use crate::fixed::Id;
use crate::fixed::list::{Linked, Links, List};
use crate::tcp::{Env, State};
use crate::values::{Error, Instant, error::Result};
use bytemuck::Zeroable;
use core::ops::{BitAnd, BitOr};

/// EPOLL bits, which are poll's where both have one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Zeroable)]
#[repr(transparent)]
pub struct Ready(pub u32);

impl Ready {
    pub const NONE: Ready = Ready(0);
    pub const IN: Ready = Ready(0x001 | 0x040);
    pub const PRI: Ready = Ready(0x002);
    pub const OUT: Ready = Ready(0x004 | 0x100);
    pub const ERR: Ready = Ready(0x008);
    pub const HUP: Ready = Ready(0x010);
    pub const RDHUP: Ready = Ready(0x2000);
    /// Reported whether asked for or not.
    pub const ALWAYS: Ready = Ready(0x008 | 0x010);
    pub const ALL: Ready = Ready(0x2000 | 0x1ff);

    pub const fn any(self, other: Ready) -> bool {
        self.0 & other.0 != 0
    }

    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl BitOr for Ready {
    type Output = Ready;
    fn bitor(self, other: Ready) -> Ready {
        Ready(self.0 | other.0)
    }
}

impl BitAnd for Ready {
    type Output = Ready;
    fn bitand(self, other: Ready) -> Ready {
        Ready(self.0 & other.0)
    }
}

/// How a sleeping thread is woken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WakeKind {
    /// Its futex word alone.
    Futex,
    /// Its futex word is set, and this eventfd of the arena's pool made readable.
    EventFd(u16),
}

/// A thread to be woken, after the lock was given back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wake {
    /// Index of its futex word.
    pub waiter: u32,
    pub kind: WakeKind,
}

pub type WaiterId = Id<Waiter>;

/// A thread that sleeps, or is about to.
#[derive(Zeroable)]
#[repr(C)]
pub struct Waiter {
    links: List<WaitLink, OfWaiter>,
    wake_links: Links<Waiter>,
    /// Eventfd plus one; 0: futex.
    event_fd: u32,
    /// A wake-up is on its way.
    woken: u32,
    pub pid: u32,
    _pad: u32,
}

/// The list of waiters to be woken.
pub enum OnWakeList {}
/// The links of one waiter.
pub enum OfWaiter {}
/// The links of one socket or epoll set.
pub enum OnTarget {}
/// The items of one socket.
pub enum OnSocket {}
/// The items of one epoll set.
pub enum OfSet {}
/// The items of a set that may be ready.
pub enum OnReadyList {}

impl Linked<OnWakeList> for Waiter {
    fn links(&self) -> &Links<Self> {
        &self.wake_links
    }
    fn links_mut(&mut self) -> &mut Links<Self> {
        &mut self.wake_links
    }
}

/// A waiter's interest in one thing.
#[derive(Zeroable)]
#[repr(C)]
pub struct WaitLink {
    waiter: Option<WaiterId>,
    socket: Option<SockId>,
    set: Option<EpollId>,
    interest: Ready,
    /// One such waiter is woken for an event, not all.
    exclusive: u32,
    on_target: Links<WaitLink>,
    of_waiter: Links<WaitLink>,
}

impl Linked<OnTarget> for WaitLink {
    fn links(&self) -> &Links<Self> {
        &self.on_target
    }
    fn links_mut(&mut self) -> &mut Links<Self> {
        &mut self.on_target
    }
}

impl Linked<OfWaiter> for WaitLink {
    fn links(&self) -> &Links<Self> {
        &self.of_waiter
    }
    fn links_mut(&mut self) -> &mut Links<Self> {
        &mut self.of_waiter
    }
}

pub type EpollId = Id<EpollSet>;

/// The engine's part of an epoll descriptor.
#[derive(Zeroable)]
#[repr(C)]
pub struct EpollSet {
    /// Descriptors of the set, over all processes.
    pub(super) refs: Refs,
    items: List<EpollItem, OfSet>,
    ready: List<EpollItem, OnReadyList>,
    waits: List<WaitLink, OnTarget>,
    /// Registrations of this set in others.
    outer: List<EpollItem, OnSocket>,
}

/// One registration: a socket under one descriptor number.
#[derive(Zeroable)]
#[repr(C)]
pub struct EpollItem {
    set: Option<EpollId>,
    socket: Option<SockId>,
    /// Or another set: nested epoll.
    inner: Option<EpollId>,
    data: u64,
    events: u32,
    fd: i32,
    on_socket: Links<EpollItem>,
    of_set: Links<EpollItem>,
    on_ready: Links<EpollItem>,
}

impl Linked<OnSocket> for EpollItem {
    fn links(&self) -> &Links<Self> {
        &self.on_socket
    }
    fn links_mut(&mut self) -> &mut Links<Self> {
        &mut self.on_socket
    }
}

impl Linked<OfSet> for EpollItem {
    fn links(&self) -> &Links<Self> {
        &self.of_set
    }
    fn links_mut(&mut self) -> &mut Links<Self> {
        &mut self.of_set
    }
}

impl Linked<OnReadyList> for EpollItem {
    fn links(&self) -> &Links<Self> {
        &self.on_ready
    }
    fn links_mut(&mut self) -> &mut Links<Self> {
        &mut self.on_ready
    }
}

const EPOLLONESHOT: u32 = 1 << 30;
const EPOLLET: u32 = 1 << 31;
const EPOLLEXCLUSIVE: u32 = 1 << 28;
/// Flags of a registration, as against events.
const EPOLL_FLAGS: u32 = EPOLLONESHOT | EPOLLET | EPOLLEXCLUSIVE | 1 << 29;

/// What epoll_ctl(2) does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EpollOp {
    Add,
    Modify,
    Delete,
}

/// What epoll_wait(2) gives.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EpollEvent {
    pub events: u32,
    pub data: u64,
}

impl Stack {
    /// What poll(2) reports of a socket: tcp_poll.
    pub fn readiness(&mut self, id: SockId) -> Ready {
        let core = &mut *self.core;
        let Some(s) = self.sockets.get(id) else { return Ready::ERR | Ready::HUP };
        if s.phase == SocketPhase::Listening {
            return if s.accept_queue.is_empty() { Ready::NONE } else { Ready::IN };
        }
        let err = if s.error != 0 { Ready::ERR } else { Ready::NONE };
        let Some(conn) = s.conn.and_then(|c| self.conns.get_mut(c)) else {
            // Never connected: closed, yet writable as far as tcp_poll can tell.
            let shut = match s.shut {
                1 => Ready::IN | Ready::RDHUP,
                3 => Ready::IN | Ready::RDHUP | Ready::HUP,
                _ => Ready::NONE,
            };
            return Ready::OUT | Ready::HUP | err | shut;
        };
        let env = Env {
            now: Instant::ZERO,
            pool: &mut self.pool,
            counters: &mut core.counters,
            sysctls: &core.sysctls,
        };
        let tcb = &conn.tcb;
        let mut ready = err;
        let closed = matches!(tcb.state(), State::Closed | State::TimeWait);
        // A shutdown before the connection stays in force (c-tests/binding.c).
        let rcv_shut = tcb.at_eof() || s.shut & 1 != 0;
        let snd_shut = tcb.is_send_shutdown() || s.shut & 2 != 0;
        if closed || (rcv_shut && snd_shut) {
            ready = ready | Ready::HUP;
        }
        if rcv_shut {
            ready = ready | Ready::IN | Ready::RDHUP;
        }
        if matches!(tcb.state(), State::SynSent | State::SynReceived) {
            return ready;
        }
        if tcb.readable_bytes() >= s.options.rcvlowat.max(1) as usize {
            ready = ready | Ready::IN;
        }
        if snd_shut || tcb.is_writable(&env) {
            ready = ready | Ready::OUT;
        } else {
            conn.no_space = true;
        }
        ready
    }

    /// Something happened to a socket: wakes who waits for any of `what`.
    pub(super) fn notify(&mut self, id: SockId, what: Ready) {
        let Some(s) = self.sockets.get(id) else { return };
        let (mut link, mut item) = (s.waits.front(), s.items.front());
        let mut woke_exclusive = false;
        while let Some(l) = link {
            let entry = &self.links[l];
            link = s_next_link(&self.links, l);
            let wanted = entry.interest | Ready::ALWAYS;
            // The end of a listener concerns all that wait for it.
            let one_is_enough = entry.exclusive != 0 && woke_exclusive && !what.any(Ready::HUP);
            if !wanted.any(what) || one_is_enough {
                continue;
            }
            let (waiter, exclusive) = (entry.waiter, entry.exclusive != 0);
            if let Some(w) = waiter
                && self.wake_waiter(w)
            {
                woke_exclusive |= exclusive;
            }
        }
        while let Some(i) = item {
            item = <EpollItem as Linked<OnSocket>>::links(&self.items[i]).next_id();
            let entry = &self.items[i];
            let wanted = Ready(entry.events & !EPOLL_FLAGS) | Ready::ALWAYS;
            // A one-shot that has fired has no events left.
            if entry.events & !EPOLL_FLAGS != 0 && wanted.any(what) {
                self.make_ready(i);
            }
        }
    }

    fn make_ready(&mut self, item: Id<EpollItem>) {
        let Some(set_id) = self.items[item].set else { return };
        let Some(set) = self.sets.get_mut(set_id) else { return };
        set.ready.push_back(&mut self.items, item);
        self.wake_one_of_set(set_id);
        // Nesting is five deep at most (EP_MAX_NESTS), and acyclic: epoll_nest sees to both.
        let mut outer = self.sets.get(set_id).and_then(|s| s.outer.front());
        while let Some(o) = outer {
            outer = <EpollItem as Linked<OnSocket>>::links(&self.items[o]).next_id();
            if self.items[o].events & Ready::IN.0 != 0 {
                self.make_ready(o);
            }
        }
    }

    /// Readiness of what an item stands for.
    fn item_readiness(&mut self, id: Id<EpollItem>) -> Ready {
        let (socket, inner) = (self.items[id].socket, self.items[id].inner);
        match (socket, inner) {
            (Some(socket), _) => self.readiness(socket),
            (None, Some(inner)) if self.epoll_ready(inner) => Ready::IN,
            _ => Ready::NONE,
        }
    }

    fn wake_one_of_set(&mut self, set_id: EpollId) {
        let mut link = self.sets.get(set_id).and_then(|s| s.waits.front());
        while let Some(l) = link {
            link = s_next_link(&self.links, l);
            let (waiter, exclusive) = (self.links[l].waiter, self.links[l].exclusive != 0);
            if let Some(w) = waiter
                && self.wake_waiter(w)
                && exclusive
            {
                break;
            }
        }
    }

    /// Puts a waiter on the wake list; false when it is on its way already.
    pub fn wake_waiter(&mut self, id: WaiterId) -> bool {
        let Some(w) = self.waiters.get_mut(id) else { return false };
        if w.woken != 0 {
            return false;
        }
        w.woken = 1;
        self.core.wakes.push_back(&mut self.waiters, id);
        true
    }

    /// The next thread to be woken.
    pub fn take_wake(&mut self) -> Option<Wake> {
        let id = self.core.wakes.pop_front(&mut self.waiters)?;
        let w = self.waiters.get(id)?;
        let kind = match w.event_fd {
            0 => WakeKind::Futex,
            n => WakeKind::EventFd((n - 1) as u16),
        };
        Some(Wake { waiter: id.index(), kind })
    }

    /// Registers a thread that is about to sleep. Its futex word is at the handle's index.
    ///
    /// # Errors
    /// NoMemory: [`crate::values::limits::MAX_WAITERS`] threads sleep already.
    pub fn waiter_begin(&mut self, pid: u32, kind: WakeKind) -> Result<WaiterId> {
        let event_fd = match kind {
            WakeKind::Futex => 0,
            WakeKind::EventFd(n) => u32::from(n) + 1,
        };
        self.waiters.insert(Waiter { pid, event_fd, ..Waiter::zeroed() }).map_err(|_| Error::NoMemory)
    }

    /// Ties a waiter to a socket. `exclusive`: one of several such waiters is woken, as accept(2) wants it.
    pub fn wait_on(
        &mut self,
        waiter: WaiterId,
        socket: SockId,
        interest: Ready,
        exclusive: bool,
    ) -> Result<()> {
        let link = WaitLink {
            waiter: Some(waiter),
            socket: Some(socket),
            interest,
            exclusive: u32::from(exclusive),
            ..WaitLink::zeroed()
        };
        if !interest.any(Ready::IN) {
            // A writer waits for room: the next ACK that makes some must tell.
            self.readiness(socket);
        }
        let id = self.links.insert(link).map_err(|_| Error::NoMemory)?;
        let Some(s) = self.sockets.get_mut(socket) else {
            self.links.remove(id);
            return Err(Error::BadDescriptor);
        };
        s.waits.push_back(&mut self.links, id);
        self.link_to_waiter(waiter, id)
    }

    /// Ties a waiter to an epoll set: as epoll_wait (one is woken for an event) or as poll on the epoll descriptor (all).
    pub fn wait_on_set(&mut self, waiter: WaiterId, set: EpollId, exclusive: bool) -> Result<()> {
        let link = WaitLink {
            waiter: Some(waiter),
            set: Some(set),
            exclusive: u32::from(exclusive),
            ..WaitLink::zeroed()
        };
        let id = self.links.insert(link).map_err(|_| Error::NoMemory)?;
        let Some(s) = self.sets.get_mut(set) else {
            self.links.remove(id);
            return Err(Error::BadDescriptor);
        };
        s.waits.push_back(&mut self.links, id);
        self.link_to_waiter(waiter, id)
    }

    fn link_to_waiter(&mut self, waiter: WaiterId, link: Id<WaitLink>) -> Result<()> {
        let w = self.waiters.get_mut(waiter).ok_or(Error::Invalid)?;
        w.links.push_back(&mut self.links, link);
        Ok(())
    }

    /// A waiter changes the way it is woken.
    pub fn waiter_kind(&mut self, id: WaiterId, kind: WakeKind) {
        if let Some(w) = self.waiters.get_mut(id) {
            w.event_fd = match kind {
                WakeKind::Futex => 0,
                WakeKind::EventFd(n) => u32::from(n) + 1,
            };
        }
    }

    /// Whether a wake-up is on its way to this waiter.
    pub fn is_waiter_woken(&self, id: WaiterId) -> bool {
        self.waiters.get(id).is_none_or(|w| w.woken != 0)
    }

    /// The waiter looks for itself: no need to wake it.
    pub fn waiter_looks(&mut self, id: WaiterId) {
        self.core.wakes.remove(&mut self.waiters, id);
    }

    /// The thread no longer sleeps. True when a wake-up was meant for it: one that leaves without having looked for what
    /// it was woken for must hand it on.
    pub fn waiter_end(&mut self, id: WaiterId) -> bool {
        let Some(w) = self.waiters.get_mut(id) else { return false };
        let woken = w.woken != 0;
        let mut links = core::mem::take(&mut w.links);
        self.core.wakes.remove(&mut self.waiters, id);
        while let Some(link) = links.pop_front(&mut self.links) {
            let (socket, set) = (self.links[link].socket, self.links[link].set);
            if let Some(s) = socket.and_then(|s| self.sockets.get_mut(s)) {
                s.waits.remove(&mut self.links, link);
            }
            if let Some(s) = set.and_then(|s| self.sets.get_mut(s)) {
                s.waits.remove(&mut self.links, link);
            }
            self.links.remove(link);
        }
        self.waiters.remove(id);
        woken
    }

    /// Threads asleep.
    pub fn waiter_count(&self) -> usize {
        self.waiters.len()
    }

    /// The threads of a process that has ended sleep no more. What they were woken for and have not looked at is for others.
    /// Gives the eventfds that they had, one bit each.
    pub fn waiters_of_process_gone(&mut self, pid: u32) -> u64 {
        let theirs: Vec<WaiterId> =
            self.waiters.iter().filter(|(_, w)| w.pid == pid).map(|(id, _)| id).collect();
        let mut event_fds = 0;
        for id in theirs {
            let w = &self.waiters[id];
            if w.event_fd != 0 {
                event_fds |= 1 << (w.event_fd - 1);
            }
            let woken = w.woken != 0;
            let mut targets = Vec::new();
            let mut link = w.links.front();
            while let Some(l) = link.filter(|_| woken) {
                targets.push((self.links[l].socket, self.links[l].set));
                link = <WaitLink as Linked<OfWaiter>>::links(&self.links[l]).next_id();
            }
            self.waiter_end(id);
            for (socket, set) in targets {
                if let Some(socket) = socket {
                    self.pass_on(socket);
                }
                if let Some(set) = set
                    && self.epoll_ready(set)
                {
                    self.wake_one_of_set(set);
                }
            }
        }
        event_fds
    }

    /// Wakes every sleeper of a process, to look again.
    pub fn wake_process(&mut self, pid: u32) {
        let theirs: Vec<WaiterId> =
            self.waiters.iter().filter(|(_, w)| w.pid == pid).map(|(id, _)| id).collect();
        for id in theirs {
            self.wake_waiter(id);
        }
    }

    /// Wakes some sleeper that is not `except`, to take over the driving. True when there was one.
    pub fn wake_any(&mut self, except: Option<WaiterId>) -> bool {
        let next = self.waiters.iter().find(|(id, w)| Some(*id) != except && w.woken == 0).map(|(id, _)| id);
        next.is_some_and(|id| self.wake_waiter(id))
    }

    /// The engine's part of a new epoll descriptor.
    pub fn epoll_create(&mut self) -> Result<EpollId> {
        let id = self.sets.insert(EpollSet::zeroed()).map_err(|_| Error::NoMemory)?;
        self.hold(Held::Set(id));
        Ok(id)
    }

    pub fn epoll_retain(&mut self, id: EpollId) {
        self.hold(Held::Set(id));
    }

    /// A descriptor of the set was closed; with the last one its registrations go.
    pub fn epoll_release(&mut self, id: EpollId) {
        if self.unhold(Held::Set(id)) != Some(0) {
            return;
        }
        self.drop_holds(Held::Set(id));
        while let Some(item) = self.sets[id].items.front() {
            self.remove_item(item);
        }
        while let Some(item) = self.sets[id].outer.front() {
            self.remove_item(item);
        }
        while let Some(link) = self.sets[id].waits.front() {
            if let Some(w) = self.links[link].waiter {
                self.wake_waiter(w);
            }
            self.sets[id].waits.remove(&mut self.links, link);
            self.links[link].set = None;
        }
        self.sets.remove(id);
    }

    /// epoll_ctl(2) for an engine socket, known to the set by its descriptor number too, as in Linux.
    ///
    /// # Errors
    /// EEXIST, ENOENT, EINVAL (EPOLLEXCLUSIVE where it may not be), ENOMEM.
    pub fn epoll_ctl(
        &mut self,
        set: EpollId,
        op: EpollOp,
        fd: i32,
        socket: SockId,
        event: EpollEvent,
    ) -> Result<()> {
        let found = self.find_item(set, fd, socket);
        let exclusive = event.events & EPOLLEXCLUSIVE != 0;
        match (op, found) {
            (EpollOp::Add, Some(_)) => Err(Error::Exists),
            (EpollOp::Add, None) => {
                let allowed = EPOLLEXCLUSIVE | EPOLLET | 1 << 29 | Ready::ALL.0;
                if exclusive && event.events & !allowed != 0 {
                    return Err(Error::Invalid);
                }
                self.add_item(set, fd, socket, event)
            }
            (EpollOp::Modify, Some(item)) => {
                if exclusive || self.items[item].events & EPOLLEXCLUSIVE != 0 {
                    return Err(Error::Invalid);
                }
                self.items[item].events = event.events;
                self.items[item].data = event.data;
                self.look_again(item);
                Ok(())
            }
            (EpollOp::Delete, Some(item)) => {
                self.remove_item(item);
                Ok(())
            }
            (_, None) => Err(Error::NoEntry),
        }
    }

    /// epoll_ctl(2) for another set, `fd`, whose kernel part the kernel's set has already.
    ///
    /// # Errors
    /// ELOOP is the kernel's to give, which knows all sets; EEXIST, ENOENT, ENOMEM.
    pub fn epoll_nest(
        &mut self,
        set: EpollId,
        op: EpollOp,
        fd: i32,
        inner: EpollId,
        event: EpollEvent,
    ) -> Result<()> {
        let mut at = self.sets.get(inner).and_then(|s| s.outer.front());
        let mut found = None;
        while let Some(id) = at {
            if self.items[id].set == Some(set) && self.items[id].fd == fd {
                found = Some(id);
            }
            at = <EpollItem as Linked<OnSocket>>::links(&self.items[id]).next_id();
        }
        match (op, found) {
            (EpollOp::Add, Some(_)) => Err(Error::Exists),
            (EpollOp::Add, None) => {
                let item = EpollItem {
                    set: Some(set),
                    inner: Some(inner),
                    data: event.data,
                    events: event.events,
                    fd,
                    ..EpollItem::zeroed()
                };
                let id = self.items.insert(item).map_err(|_| Error::NoMemory)?;
                if let Some(s) = self.sets.get_mut(inner) {
                    s.outer.push_back(&mut self.items, id);
                }
                if let Some(s) = self.sets.get_mut(set) {
                    s.items.push_back(&mut self.items, id);
                }
                self.look_again(id);
                Ok(())
            }
            (EpollOp::Modify, Some(id)) => {
                self.items[id].events = event.events;
                self.items[id].data = event.data;
                self.look_again(id);
                Ok(())
            }
            (EpollOp::Delete, Some(id)) => {
                self.remove_item(id);
                Ok(())
            }
            (_, None) => Err(Error::NoEntry),
        }
    }

    fn find_item(&self, set: EpollId, fd: i32, socket: SockId) -> Option<Id<EpollItem>> {
        let mut at = self.sockets.get(socket)?.items.front();
        while let Some(id) = at {
            let item = &self.items[id];
            if item.set == Some(set) && item.fd == fd {
                return Some(id);
            }
            at = <EpollItem as Linked<OnSocket>>::links(item).next_id();
        }
        None
    }

    fn add_item(&mut self, set: EpollId, fd: i32, socket: SockId, event: EpollEvent) -> Result<()> {
        let item = EpollItem {
            set: Some(set),
            socket: Some(socket),
            data: event.data,
            events: event.events,
            fd,
            ..EpollItem::zeroed()
        };
        let id = self.items.insert(item).map_err(|_| Error::NoMemory)?;
        if let Some(s) = self.sockets.get_mut(socket) {
            s.items.push_back(&mut self.items, id);
        }
        if let Some(s) = self.sets.get_mut(set) {
            s.items.push_back(&mut self.items, id);
        }
        self.look_again(id);
        Ok(())
    }

    /// Ready at this moment? Then it is reported, edge-triggered or not.
    fn look_again(&mut self, item: Id<EpollItem>) {
        let wanted = Ready(self.items[item].events & !EPOLL_FLAGS) | Ready::ALWAYS;
        if self.item_readiness(item).any(wanted) {
            self.make_ready(item);
        }
    }

    fn remove_item(&mut self, id: Id<EpollItem>) {
        let (set, socket, inner) = (self.items[id].set, self.items[id].socket, self.items[id].inner);
        if let Some(s) = inner.and_then(|s| self.sets.get_mut(s)) {
            s.outer.remove(&mut self.items, id);
        }
        if let Some(s) = set.and_then(|s| self.sets.get_mut(s)) {
            s.ready.remove(&mut self.items, id);
            s.items.remove(&mut self.items, id);
        }
        if let Some(s) = socket.and_then(|s| self.sockets.get_mut(s)) {
            s.items.remove(&mut self.items, id);
        }
        self.items.remove(id);
    }

    /// What epoll_wait(2) returns now: up to `max` events. Level-triggered items stay at the end of the ready list, so
    /// that a small `max` does not starve the others.
    pub fn epoll_collect(&mut self, set_id: EpollId, max: usize, mut give: impl FnMut(EpollEvent)) -> usize {
        let mut count = 0;
        let pending = self.sets.get(set_id).map_or(0, |s| s.ready.len());
        for _ in 0..pending {
            if count == max {
                break;
            }
            let Some(set) = self.sets.get_mut(set_id) else { break };
            let Some(id) = set.ready.pop_front(&mut self.items) else { break };
            let item = &self.items[id];
            let (events, data) = (item.events, item.data);
            let wanted = Ready(events & !EPOLL_FLAGS) | Ready::ALWAYS;
            if events & !EPOLL_FLAGS == 0 {
                continue;
            }
            let ready = self.item_readiness(id) & wanted;
            if ready.is_empty() {
                continue;
            }
            give(EpollEvent { events: ready.0, data });
            count += 1;
            if events & EPOLLONESHOT != 0 {
                self.items[id].events &= EPOLL_FLAGS;
            } else if events & EPOLLET == 0
                && let Some(set) = self.sets.get_mut(set_id)
            {
                set.ready.push_back(&mut self.items, id);
            }
        }
        // What is left, another thread that waits on this set may take.
        if self.sets.get(set_id).is_some_and(|s| !s.ready.is_empty() && !s.waits.is_empty()) {
            self.wake_one_of_set(set_id);
        }
        count
    }

    /// Whether [`Stack::epoll_collect`] would give something: what poll(2) says of an epoll descriptor.
    pub fn epoll_ready(&mut self, set_id: EpollId) -> bool {
        let mut at = self.sets.get(set_id).and_then(|s| s.ready.front());
        while let Some(id) = at {
            at = <EpollItem as Linked<OnReadyList>>::links(&self.items[id]).next_id();
            let item = &self.items[id];
            let wanted = Ready(item.events & !EPOLL_FLAGS) | Ready::ALWAYS;
            if item.events & !EPOLL_FLAGS != 0 && self.item_readiness(id).any(wanted) {
                return true;
            }
        }
        false
    }

    /// The last descriptor of a socket is closed: it leaves every epoll set, and who sleeps on it looks again.
    pub(super) fn forget_readiness(&mut self, id: SockId) {
        while let Some(item) = self.sockets.get(id).and_then(|s| s.items.front()) {
            self.remove_item(item);
        }
        while let Some(link) = self.sockets.get(id).and_then(|s| s.waits.front()) {
            if let Some(w) = self.links[link].waiter {
                self.wake_waiter(w);
            }
            if let Some(s) = self.sockets.get_mut(id) {
                s.waits.remove(&mut self.links, link);
            }
            self.links[link].socket = None;
        }
    }

    /// After the lock's holder died: every list made again, every sleeper woken.
    pub(super) fn rebuild_readiness(&mut self) {
        self.core.wakes = List::default();
        for id in self.sockets.ids().collect::<Vec<_>>() {
            self.sockets[id].waits = List::default();
            self.sockets[id].items = List::default();
        }
        for id in self.sets.ids().collect::<Vec<_>>() {
            self.sets[id].waits = List::default();
            self.sets[id].items = List::default();
            self.sets[id].ready = List::default();
            self.sets[id].outer = List::default();
        }
        for id in self.waiters.ids().collect::<Vec<_>>() {
            self.waiters[id].links = List::default();
            self.waiters[id].wake_links = Links::default();
            self.waiters[id].woken = 0;
        }
        for id in self.links.ids().collect::<Vec<_>>() {
            let l = &mut self.links[id];
            l.on_target = Links::default();
            l.of_waiter = Links::default();
            let (waiter, socket, set) = (l.waiter, l.socket, l.set);
            let Some(w) = waiter.and_then(|w| self.waiters.get_mut(w)) else {
                self.links.remove(id);
                continue;
            };
            w.links.push_back(&mut self.links, id);
            if let Some(s) = socket.and_then(|s| self.sockets.get_mut(s)) {
                s.waits.push_back(&mut self.links, id);
            } else if let Some(s) = set.and_then(|s| self.sets.get_mut(s)) {
                s.waits.push_back(&mut self.links, id);
            }
        }
        for id in self.items.ids().collect::<Vec<_>>() {
            let i = &mut self.items[id];
            i.on_socket = Links::default();
            i.of_set = Links::default();
            i.on_ready = Links::default();
            let set = i.set.filter(|&s| self.sets.get(s).is_some());
            let socket = i.socket.filter(|&s| self.sockets.get(s).is_some());
            let inner = i.inner.filter(|&s| self.sets.get(s).is_some());
            let Some(set) = set.filter(|_| socket.is_some() || inner.is_some()) else {
                self.items.remove(id);
                continue;
            };
            if let Some(socket) = socket {
                self.sockets[socket].items.push_back(&mut self.items, id);
            } else if let Some(inner) = inner {
                self.sets[inner].outer.push_back(&mut self.items, id);
            }
            self.sets[set].items.push_back(&mut self.items, id);
            self.sets[set].ready.push_back(&mut self.items, id);
        }
        for id in self.waiters.ids().collect::<Vec<_>>() {
            self.wake_waiter(id);
        }
    }
}

fn s_next_link<const D: usize>(
    links: &crate::fixed::Table<WaitLink, D>,
    id: Id<WaitLink>,
) -> Option<Id<WaitLink>> {
    <WaitLink as Linked<OnTarget>>::links(&links[id]).next_id()
}

impl Socket {
    pub fn is_listening(&self) -> bool {
        self.phase == SocketPhase::Listening
    }
}
