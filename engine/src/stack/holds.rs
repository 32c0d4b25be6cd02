//! Who holds what: each reference to a socket, an epoll set or a guarded port belongs to a process, so that the end of a
//! process, whatever its kind, can give back exactly what it held.
//!
//! A process is a number here, its place in the family's list; 0 stands for descriptors that are on their way in a message
//! and in nobody's table. The calls of a view are counted for the process that the view was told of
//! ([`Stack::set_holder`]). The counts of references in sockets, sets and ports are the sums of what is noted here; after a
//! death inside of the lock they are made again from it.
//!
//! Where the table is full a reference is counted and not noted: it is given back in order, but not by a death.

use super::ports::Port;
use super::view::{Ports, Sets, Sockets};
use super::{EpollId, PortId, SockId, Stack};
use crate::fixed::Id;
use crate::fixed::list::{Linked, Links, List};
use crate::values::limits::MAX_PROCESSES;
use crate::values::{Counter, Instant};
use bytemuck::Zeroable;

/// The place of a process in the list of its family.
pub type Holder = u32;

/// References of nobody: descriptors in messages.
pub const IN_FLIGHT: Holder = 0;

/// The companion, which keeps guards: behind the processes of the family.
pub const COMPANION: Holder = MAX_PROCESSES as Holder;

/// References of one process to one thing.
#[derive(Zeroable)]
#[repr(C)]
pub struct Hold {
    socket: Option<SockId>,
    set: Option<EpollId>,
    port: Option<PortId>,
    holder: Holder,
    count: u32,
    /// An exec is under way, which that many of them survive.
    keeps: u32,
    _pad: u32,
    on_target: Links<Hold>,
}

/// The list of all holds of one thing.
pub enum OfTarget {}

impl Linked<OfTarget> for Hold {
    fn links(&self) -> &Links<Self> {
        &self.on_target
    }
    fn links_mut(&mut self) -> &mut Links<Self> {
        &mut self.on_target
    }
}

/// What can be held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Held {
    Socket(SockId),
    Set(EpollId),
    Port(PortId),
}

impl Hold {
    fn held(&self) -> Option<Held> {
        let socket = self.socket.map(Held::Socket);
        socket.or(self.set.map(Held::Set)).or(self.port.map(Held::Port))
    }
}

/// References to one thing: how many, and whose.
#[derive(Zeroable)]
#[repr(C)]
pub struct Refs {
    count: u32,
    _pad: u32,
    holds: List<Hold, OfTarget>,
}

impl Refs {
    pub fn count(&self) -> u32 {
        self.count
    }

    pub fn any(&self) -> bool {
        self.count > 0
    }
}

/// The references to `held`; `None` when it is gone.
fn refs_of<'a>(
    sockets: &'a mut Sockets,
    sets: &'a mut Sets,
    ports: &'a mut Ports,
    held: Held,
) -> Option<&'a mut Refs> {
    match held {
        Held::Socket(id) => sockets.get_mut(id).map(|s| &mut s.refs),
        Held::Set(id) => sets.get_mut(id).map(|s| &mut s.refs),
        Held::Port(id) => ports.get_mut(id).map(Port::copies_mut),
    }
}

impl Stack {
    /// From now on this view counts for `holder`.
    pub fn set_holder(&mut self, holder: Holder) {
        self.holder = holder;
    }

    fn refs_of(&mut self, held: Held) -> Option<&mut Refs> {
        refs_of(&mut self.sockets, &mut self.sets, &mut self.ports, held)
    }

    fn find_hold(&mut self, held: Held) -> Option<Id<Hold>> {
        let mut at = self.refs_of(held)?.holds.front();
        while let Some(id) = at {
            let hold = self.holds.get(id)?;
            if hold.holder == self.holder {
                return Some(id);
            }
            at = hold.on_target.next_id();
        }
        None
    }

    /// One more reference, of the present holder's.
    pub(super) fn hold(&mut self, held: Held) {
        let Some(refs) = self.refs_of(held) else { return };
        refs.count += 1;
        if let Some(id) = self.find_hold(held) {
            self.holds[id].count += 1;
            return;
        }
        let mut hold = Hold { holder: self.holder, count: 1, ..Hold::zeroed() };
        match held {
            Held::Socket(id) => hold.socket = Some(id),
            Held::Set(id) => hold.set = Some(id),
            Held::Port(id) => hold.port = Some(id),
        }
        let Ok(id) = self.holds.insert(hold) else {
            self.core.counters.inc(Counter::TableFull);
            return;
        };
        if let Some(refs) = refs_of(&mut self.sockets, &mut self.sets, &mut self.ports, held) {
            refs.holds.push_back(&mut self.holds, id);
        }
    }

    /// One reference of the present holder's fewer. How many are left, over all; `None`: there is no such thing.
    pub(super) fn unhold(&mut self, held: Held) -> Option<u32> {
        let refs = self.refs_of(held)?;
        refs.count = refs.count.saturating_sub(1);
        let left = refs.count;
        if let Some(id) = self.find_hold(held) {
            let hold = &mut self.holds[id];
            hold.count = hold.count.saturating_sub(1);
            if hold.count == 0 {
                self.drop_hold(held, id);
            }
        }
        Some(left)
    }

    fn drop_hold(&mut self, held: Held, id: Id<Hold>) {
        if let Some(refs) = refs_of(&mut self.sockets, &mut self.sets, &mut self.ports, held) {
            refs.holds.remove(&mut self.holds, id);
        }
        self.holds.remove(id);
    }

    /// The thing is about to go, with all that is noted of it.
    pub(super) fn drop_holds(&mut self, held: Held) {
        while let Some(id) = self.refs_of(held).and_then(|refs| refs.holds.front()) {
            self.drop_hold(held, id);
        }
    }

    /// All that a process holds, each with how often, and how often it survives the exec that is under way.
    fn holds_of(&self, holder: Holder) -> Vec<(Held, u32, u32)> {
        let theirs = self.holds.iter().filter(|(_, hold)| hold.holder == holder);
        theirs.filter_map(|(_, hold)| Some((hold.held()?, hold.count, hold.keeps))).collect()
    }

    /// Whether anything is noted as held by that process.
    pub fn holds_anything(&self, holder: Holder) -> bool {
        self.holds.iter().any(|(_, hold)| hold.holder == holder)
    }

    fn release_held(&mut self, now: Instant, held: Held) {
        match held {
            Held::Socket(id) => self.release(now, id),
            Held::Set(id) => self.epoll_release(id),
            Held::Port(id) => self.port_copy_gone(id),
        }
    }

    fn as_holder<T>(&mut self, holder: Holder, act: impl FnOnce(&mut Stack) -> T) -> T {
        let me = core::mem::replace(&mut self.holder, holder);
        let result = act(self);
        self.holder = me;
        result
    }

    /// A process has ended, or a child never was: all that it held is closed. It may have been the one that was woken for a
    /// connection (EPOLLEXCLUSIVE) and has not taken it: another is.
    pub fn release_process(&mut self, now: Instant, holder: Holder) {
        let theirs = self.holds_of(holder);
        self.as_holder(holder, |stack| {
            for &(held, count, _) in &theirs {
                (0..count).for_each(|_| stack.release_held(now, held));
            }
        });
        for (held, ..) in theirs {
            if let Held::Socket(id) = held
                && self.is_listening(id)
            {
                self.pass_on(id);
            }
        }
    }

    /// Descriptors of these sockets become `holder`'s: of a child that is about to be spawned.
    pub fn retain_for(&mut self, holder: Holder, sockets: &[SockId]) {
        self.as_holder(holder, |stack| sockets.iter().for_each(|&id| stack.retain(id)));
    }

    /// A guard is sent to the companion, or has arrived there: from the first of these on, its copy counts.
    pub fn guard_shown(&mut self, id: PortId) {
        self.as_holder(COMPANION, |stack| {
            if stack.find_hold(Held::Port(id)).is_none() {
                stack.port_copied(id);
            }
        });
    }

    /// It could not be sent.
    pub fn guard_not_shown(&mut self, id: PortId) {
        self.as_holder(COMPANION, |stack| stack.port_copy_gone(id));
    }

    /// A descriptor of the present holder's leaves in a message.
    pub fn retain_in_flight(&mut self, id: SockId) {
        self.as_holder(IN_FLIGHT, |stack| stack.retain(id));
    }

    /// A descriptor in a message was not sent after all, or has arrived and is counted for its receiver.
    pub fn release_in_flight(&mut self, now: Instant, id: SockId) {
        self.as_holder(IN_FLIGHT, |stack| {
            // One that departed from another family, or before this arena was, is not counted.
            if stack.find_hold(Held::Socket(id)).is_some() {
                stack.release(now, id);
            }
        });
    }

    /// An exec of `holder` begins, which descriptors of these sockets survive, and nothing else.
    pub fn exec_begins(&mut self, holder: Holder, survivors: &[SockId]) {
        self.exec_failed(holder);
        self.as_holder(holder, |stack| {
            for &socket in survivors {
                if let Some(id) = stack.find_hold(Held::Socket(socket)) {
                    stack.holds[id].keeps += 1;
                }
            }
        });
    }

    pub fn exec_failed(&mut self, holder: Holder) {
        for id in self.holds.ids().collect::<Vec<_>>() {
            if self.holds[id].holder == holder {
                self.holds[id].keeps = 0;
            }
        }
    }

    /// The exec has happened: what does not survive it is closed.
    pub fn exec_happened(&mut self, now: Instant, holder: Holder) {
        let theirs = self.holds_of(holder);
        self.as_holder(holder, |stack| {
            for (held, count, keeps) in theirs {
                (keeps..count).for_each(|_| stack.release_held(now, held));
            }
        });
        self.exec_failed(holder);
    }

    /// A process that was started with descriptors of ours has counted them: these and nothing else it holds.
    pub fn settle_process(&mut self, now: Instant, holder: Holder, found: &[SockId]) {
        let before = self.holds_of(holder);
        self.retain_for(holder, found);
        self.as_holder(holder, |stack| {
            for (held, count, _) in before {
                (0..count).for_each(|_| stack.release_held(now, held));
            }
        });
        self.exec_failed(holder);
    }

    /// After the lock's holder died: lists and counts made again. What nobody holds any more is closed.
    pub(super) fn rebuild_holds(&mut self, now: Instant) {
        let sockets: Vec<Held> = self.sockets.ids().map(Held::Socket).collect();
        let sets: Vec<Held> = self.sets.ids().map(Held::Set).collect();
        let ports: Vec<Held> = self.ports.ids().map(Held::Port).collect();
        for held in sockets.into_iter().chain(sets).chain(ports) {
            if let Some(refs) = self.refs_of(held) {
                *refs = Refs::zeroed();
            }
        }
        for id in self.holds.ids().collect::<Vec<_>>() {
            let hold = &mut self.holds[id];
            hold.on_target = Links::default();
            let count = hold.count;
            let refs = hold
                .held()
                .filter(|_| count > 0)
                .and_then(|held| refs_of(&mut self.sockets, &mut self.sets, &mut self.ports, held));
            match refs {
                Some(refs) => {
                    refs.count += count;
                    refs.holds.push_back(&mut self.holds, id);
                }
                None => drop(self.holds.remove(id)),
            }
        }
        for id in self.sockets.ids().collect::<Vec<_>>() {
            if self.refs(id) == 0 {
                self.release(now, id);
            }
        }
        for id in self.sets.ids().collect::<Vec<_>>() {
            if self.epoll_refs(id) == 0 {
                self.epoll_release(id);
            }
        }
        for id in self.ports.ids().collect::<Vec<_>>() {
            if !self.port_is_alive(id) {
                self.port_copy_gone(id);
            }
        }
    }
}
