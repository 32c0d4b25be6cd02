//! Readiness as poll(2) sees it, and the threads that wait for it.
//!
//! A sleeping thread is a [`Waiter`]; a [`WaitLink`] ties it to a socket or an epoll set. When something happens to a
//! socket, [`Stack::notify`] wakes the waiters that are interested and puts the socket's epoll items on their sets' ready
//! lists. Registration and the check before it happen under one hold of the arena's lock, so no wake-up is lost.

use super::epoll::{EpollId, EpollItem, OnSocket};
use super::{SockId, Socket, SocketPhase, Stack};
use crate::fixed::Id;
use crate::fixed::list::{Linked, Links, List};
use crate::tcp::{Env, State, Urgent};
use crate::values::signal::Event;
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
    /// The peer has announced urgent data: no event of poll(2), but that of SIGURG (sk_send_sigurg).
    pub const URGENT: Ready = Ready(0x1_0000);
    pub const RDHUP: Ready = Ready(0x2000);
    /// Of a waiter: it reads, and is not to be told by a signal as well.
    pub const READER: Ready = Ready(1 << 24);
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
    pub(super) links: List<WaitLink, OfWaiter>,
    pub(super) wake_links: Links<Waiter>,
    /// Eventfd plus one; 0: futex.
    pub(super) event_fd: u32,
    /// A wake-up is on its way.
    pub(super) woken: u32,
    pub pid: u32,
    pub(super) _pad: u32,
}

/// The list of waiters to be woken.
pub enum OnWakeList {}
/// The links of one waiter.
pub enum OfWaiter {}
/// The links of one socket or epoll set.
pub enum OnTarget {}
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
    pub(super) waiter: Option<WaiterId>,
    pub(super) socket: Option<SockId>,
    pub(super) set: Option<EpollId>,
    pub(super) interest: Ready,
    /// One such waiter is woken for an event, not all.
    pub(super) exclusive: u32,
    pub(super) on_target: Links<WaitLink>,
    pub(super) of_waiter: Links<WaitLink>,
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
impl Stack {
    /// What poll(2) reports of a socket: tcp_poll.
    pub fn readiness(&mut self, id: SockId) -> Ready {
        let core = &mut *self.core;
        let Some(s) = self.sockets.get(id) else { return Ready::ERR | Ready::HUP };
        if s.phase == SocketPhase::Listening {
            return if s.accept_queue.is_empty() { Ready::NONE } else { Ready::IN };
        }
        let err = if s.error != 0 || s.notes.any_queued() { Ready::ERR } else { Ready::NONE };
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
        match tcb.state() {
            // A write makes the SYN leave.
            State::SynSent if tcb.is_deferred() => return ready | Ready::OUT,
            State::SynSent => return ready,
            State::SynReceived if !tcb.is_early() => return ready,
            _ => {}
        }
        let mut lowat = s.options.rcvlowat;
        if tcb.urgent() != Urgent::None {
            // An urgent byte that comes next is not one that can be read.
            lowat = lowat.max(1) + u32::from(tcb.skips_next());
            if tcb.urgent() == Urgent::Arrived {
                ready = ready | Ready::PRI;
            }
        }
        if tcb.is_readable(lowat) {
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
            let (wanted, exclusive) = (self.items[i].wanted(), self.items[i].is_exclusive());
            let one_is_enough = exclusive && woke_exclusive && !what.any(Ready::HUP);
            // A one-shot that has fired wants nothing.
            if wanted.any(what) && !one_is_enough {
                woke_exclusive |= self.make_ready(i) && exclusive;
            }
        }
    }

    /// sk_error_report: there is an error, or something in the error queue.
    pub(super) fn report_error(&mut self, id: SockId) {
        self.notify(id, Ready::ERR);
        self.signal(id, Event::Error);
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
}

pub(super) fn s_next_link<const D: usize>(
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
