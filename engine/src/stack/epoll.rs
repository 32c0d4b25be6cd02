//! Epoll sets: registrations, the list of what may be ready, and what epoll_wait(2) gives.
//!
//! A set reports what is on its ready list *and* is ready when it is collected, as Linux does: the event only says "look
//! again".

use super::holds::{Held, Refs};
use super::ready::{OnTarget, Ready, WaitLink, s_next_link};
use super::{SockId, Stack};
use crate::fixed::Id;
use crate::fixed::list::{Linked, Links, List};
use crate::values::{Error, error::Result};
use bytemuck::Zeroable;

pub type EpollId = Id<EpollSet>;

/// The engine's part of an epoll descriptor.
#[derive(Zeroable)]
#[repr(C)]
pub struct EpollSet {
    /// Descriptors of the set, over all processes.
    pub(super) refs: Refs,
    pub(super) items: List<EpollItem, OfSet>,
    pub(super) ready: List<EpollItem, OnReadyList>,
    pub(super) waits: List<WaitLink, OnTarget>,
    /// Registrations of this set in others.
    pub(super) outer: List<EpollItem, OnSocket>,
}

/// One registration: a socket under one descriptor number.
#[derive(Zeroable)]
#[repr(C)]
pub struct EpollItem {
    pub(super) set: Option<EpollId>,
    pub(super) socket: Option<SockId>,
    /// Or another set: nested epoll.
    pub(super) inner: Option<EpollId>,
    pub(super) data: u64,
    pub(super) events: u32,
    pub(super) fd: i32,
    pub(super) on_socket: Links<EpollItem>,
    pub(super) of_set: Links<EpollItem>,
    pub(super) on_ready: Links<EpollItem>,
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

const EPOLLWAKEUP: u32 = 1 << 29;

/// Flags of a registration, as against events.
const EPOLL_FLAGS: u32 = EPOLLONESHOT | EPOLLET | EPOLLEXCLUSIVE | EPOLLWAKEUP;

/// What may stand beside EPOLLEXCLUSIVE: EPOLLEXCLUSIVE_OK_BITS.
const EXCLUSIVE_MAY: u32 = EPOLLEXCLUSIVE | EPOLLET | EPOLLWAKEUP | 0x001 | 0x004 | Ready::ALWAYS.0;

impl EpollItem {
    /// What it is told of: nothing, when it is a one-shot that has fired.
    pub(super) fn wanted(&self) -> Ready {
        Ready(self.events & !EPOLL_FLAGS)
    }

    pub(super) fn is_exclusive(&self) -> bool {
        self.events & EPOLLEXCLUSIVE != 0
    }

    /// EPOLLERR and EPOLLHUP are told whether asked for or not.
    fn want(&mut self, event: EpollEvent) {
        self.events = event.events | Ready::ALWAYS.0;
        self.data = event.data;
    }
}

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

/// The items of one socket.
pub enum OnSocket {}

/// The items of one epoll set.
pub enum OfSet {}

/// The items of a set that may be ready.
pub enum OnReadyList {}

/// Events in a round of a server that has connections to accept as well.
const SHORT_ROUND: usize = 64;

impl Stack {
    /// Puts an item on its set's ready list. Whether a thread that waits for the set was woken for it.
    pub(super) fn make_ready(&mut self, item: Id<EpollItem>) -> bool {
        let Some(set_id) = self.items[item].set else { return false };
        let Some(set) = self.sets.get_mut(set_id) else { return false };
        set.ready.push_back(&mut self.items, item);
        let woke = self.wake_one_of_set(set_id);
        // Nesting is five deep at most (EP_MAX_NESTS), and acyclic: epoll_nest sees to both.
        let mut outer = self.sets.get(set_id).and_then(|s| s.outer.front());
        while let Some(o) = outer {
            outer = <EpollItem as Linked<OnSocket>>::links(&self.items[o]).next_id();
            if self.items[o].wanted().any(Ready::IN) {
                self.make_ready(o);
            }
        }
        woke
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

    /// Wakes one thread that waits for the set, and those that poll it. Whether there was any.
    pub(super) fn wake_one_of_set(&mut self, set_id: EpollId) -> bool {
        let mut link = self.sets.get(set_id).and_then(|s| s.waits.front());
        let mut woke = false;
        while let Some(l) = link {
            link = s_next_link(&self.links, l);
            let (waiter, exclusive) = (self.links[l].waiter, self.links[l].exclusive != 0);
            if let Some(w) = waiter
                && self.wake_waiter(w)
            {
                woke = true;
                if exclusive {
                    break;
                }
            }
        }
        woke
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
        let exclusive = op != EpollOp::Delete && event.events & EPOLLEXCLUSIVE != 0;
        if exclusive && (op == EpollOp::Modify || event.events & !EXCLUSIVE_MAY != 0) {
            return Err(Error::Invalid);
        }
        match (op, found) {
            (EpollOp::Add, Some(_)) => Err(Error::Exists),
            (EpollOp::Add, None) => self.add_item(set, fd, socket, event),
            (EpollOp::Modify, Some(item)) => {
                if self.items[item].is_exclusive() {
                    return Err(Error::Invalid);
                }
                self.items[item].want(event);
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
                let mut item = EpollItem { set: Some(set), inner: Some(inner), fd, ..EpollItem::zeroed() };
                item.want(event);
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
                self.items[id].want(event);
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
        let mut item = EpollItem { set: Some(set), socket: Some(socket), fd, ..EpollItem::zeroed() };
        item.want(event);
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
    pub(super) fn look_again(&mut self, item: Id<EpollItem>) {
        let wanted = self.items[item].wanted();
        if self.item_readiness(item).any(wanted) {
            self.make_ready(item);
        }
    }

    pub(super) fn remove_item(&mut self, id: Id<EpollItem>) {
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

    /// Puts listeners that have connections to accept first. Whether there are any.
    ///
    /// A server of the usual kind accepts one connection in each round of its loop (nginx without multi_accept). It runs its own
    /// stack, so where it is the bottleneck every client waits on it, a round serves all of them, and new ones would be
    /// accepted a few hundred a second. In Linux, where clients pay for what is delivered to the server, rounds are shorter.
    fn listeners_first(&mut self, set_id: EpollId) -> bool {
        let mut any = false;
        let mut at = self.sets.get(set_id).and_then(|s| s.ready.front());
        while let Some(id) = at {
            at = <EpollItem as Linked<OnReadyList>>::links(&self.items[id]).next_id();
            let socket = self.items[id].socket.and_then(|s| self.sockets.get(s));
            if socket.is_some_and(|s| s.is_listening() && !s.accept_queue.is_empty())
                && let Some(set) = self.sets.get_mut(set_id)
            {
                set.ready.remove(&mut self.items, id);
                set.ready.push_front(&mut self.items, id);
                any = true;
            }
        }
        any
    }

    /// What epoll_wait(2) returns now: up to `max` events. Level-triggered items stay at the end of the ready list, so
    /// that a small `max` does not starve the others.
    pub fn epoll_collect(&mut self, set_id: EpollId, max: usize, mut give: impl FnMut(EpollEvent)) -> usize {
        let mut count = 0;
        let pending = self.sets.get(set_id).map_or(0, |s| s.ready.len());
        let short = pending > SHORT_ROUND && self.listeners_first(set_id);
        let max = if short { max.min(SHORT_ROUND) } else { max };
        for _ in 0..pending {
            if count == max {
                break;
            }
            let Some(set) = self.sets.get_mut(set_id) else { break };
            let Some(id) = set.ready.pop_front(&mut self.items) else { break };
            let item = &self.items[id];
            let (events, data, wanted) = (item.events, item.data, item.wanted());
            if wanted.is_empty() {
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
            let wanted = self.items[id].wanted();
            if !wanted.is_empty() && self.item_readiness(id).any(wanted) {
                return true;
            }
        }
        false
    }
}
