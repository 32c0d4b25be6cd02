//! The pieces of the arena, and a process's view of them.
#![allow(unsafe_code)]

use super::epoll::{EpollItem, EpollSet};
use super::fastopen::{Pause, Peers};
use super::holds::{Hold, Holder};
use super::listen::ByRequest;
use super::notes::Note;
use super::ports::{ByNumber, Port};
use super::ready::{OnWakeList, WaitLink, Waiter};
use super::signals::SignalQueue;
use super::transmit::ReplyQueue;
use super::{ByCookie, ByPort, ByTuple, Conn, ConnId, Output, Request, Socket, TimeWaits};
use crate::fixed::pool::PoolState;
use crate::fixed::table::{TableState, extents_for};
use crate::fixed::wheel::{Timer, WheelState};
use crate::fixed::{Index, List, Memory, Pool, Shared, Table, Wheel};
use crate::tcp::isn::Key;
use crate::values::limits::{
    MAX_CHUNKS, MAX_CONNECTIONS, MAX_EPOLL_ITEMS, MAX_EPOLL_SETS, MAX_HOLDS, MAX_NOTES, MAX_PORTS,
    MAX_REQUESTS, MAX_SOCKETS, MAX_TIMERS, MAX_WAIT_LINKS, MAX_WAITERS,
};
use crate::values::{Counters, InterfaceTable, PortSet, Sysctls};
use bytemuck::Zeroable;
use core::ptr::NonNull;

const SOCKET_DIR: usize = extents_for(MAX_SOCKETS, size_of::<Socket>());
const CONN_DIR: usize = extents_for(MAX_CONNECTIONS, size_of::<Conn>());
const REQUEST_DIR: usize = extents_for(MAX_REQUESTS, size_of::<Request>());
const PORT_DIR: usize = extents_for(MAX_PORTS, size_of::<Port>());
const WAITER_DIR: usize = extents_for(MAX_WAITERS, size_of::<Waiter>());
const LINK_DIR: usize = extents_for(MAX_WAIT_LINKS, size_of::<WaitLink>());
const SET_DIR: usize = extents_for(MAX_EPOLL_SETS, size_of::<EpollSet>());
const ITEM_DIR: usize = extents_for(MAX_EPOLL_ITEMS, size_of::<EpollItem>());
const HOLD_DIR: usize = extents_for(MAX_HOLDS, size_of::<Hold>());
const NOTE_DIR: usize = extents_for(MAX_NOTES, size_of::<Note>());
const TIMER_DIR: usize = extents_for(MAX_TIMERS, size_of::<Timer>());

pub(super) type Sockets = Table<Socket, SOCKET_DIR>;
pub(super) type Conns = Table<Conn, CONN_DIR>;
pub(super) type Ports = Table<Port, PORT_DIR>;
pub(super) type Sets = Table<EpollSet, SET_DIR>;
pub(super) type Holds = Table<Hold, HOLD_DIR>;

/// Everything of a stack that is in the arena, extents aside. All zero: an empty stack.
#[derive(Zeroable)]
#[repr(C)]
pub struct ArenaState {
    pool: PoolState,
    wheel: WheelState,
    timers: TableState<TIMER_DIR>,
    sockets: TableState<SOCKET_DIR>,
    conns: TableState<CONN_DIR>,
    requests: TableState<REQUEST_DIR>,
    ports: TableState<PORT_DIR>,
    waiters: TableState<WAITER_DIR>,
    links: TableState<LINK_DIR>,
    sets: TableState<SET_DIR>,
    items: TableState<ITEM_DIR>,
    holds: TableState<HOLD_DIR>,
    notes: TableState<NOTE_DIR>,
    core: Core,
}

/// What is not a table of entries.
#[derive(Zeroable)]
#[repr(C)]
pub(super) struct Core {
    pub key: Key,
    pub counters: Counters,
    pub sysctls: Sysctls,
    pub interfaces: InterfaceTable,
    pub by_tuple: Index<Conn, ByTuple, 65_536>,
    pub by_request: Index<Request, ByRequest, 16_384>,
    pub by_port: Index<Socket, ByPort, 4096>,
    pub by_cookie: Index<Socket, ByCookie, 16_384>,
    pub by_number: Index<Port, ByNumber, 4096>,
    /// The connection that the lock's holder works on. Beside what every holder touches.
    pub in_work: Option<ConnId>,
    pub output: List<Conn, Output>,
    pub time_waits: List<Conn, TimeWaits>,
    pub replies: ReplyQueue,
    pub peers: Peers,
    pub fast_pause: Pause,
    pub wakes: List<Waiter, OnWakeList>,
    pub signals: SignalQueue,
    pub port_set: PortSet,
    pub ports_version: u64,
    pub ports_given_up: u64,
    /// Bound of one connection's window, from what the receive rings hold.
    pub device_limit: u32,
    pub ip_id: u32,
    /// A pseudo-random walk, for ports.
    pub walk: u64,
}

/// One process's view of a stack.
pub struct Stack {
    pub(super) pool: Pool,
    pub(super) wheel: Wheel,
    pub(super) sockets: Sockets,
    pub(super) conns: Conns,
    pub(super) requests: Table<Request, REQUEST_DIR>,
    pub(super) ports: Ports,
    pub(super) waiters: Table<Waiter, WAITER_DIR>,
    pub(super) links: Table<WaitLink, LINK_DIR>,
    pub(super) sets: Sets,
    pub(super) items: Table<EpollItem, ITEM_DIR>,
    pub(super) holds: Holds,
    pub(super) notes: Table<Note, NOTE_DIR>,
    pub(super) core: Shared<Core>,
    /// For whom this view counts references.
    pub(super) holder: Holder,
}

impl Stack {
    /// A view over an arena.
    ///
    /// # Safety
    /// `state` leads to an `ArenaState` (all-zero will do) that stays mapped as long as the view lives, `memory` to its
    /// extents; both are touched by nobody else while the view is used: the arena's lock sees to that.
    pub unsafe fn view(state: NonNull<ArenaState>, memory: Memory) -> Stack {
        let p = state.as_ptr();
        macro_rules! piece {
            ($field:ident) => {
                // SAFETY: a field of the state; fields are disjoint; the caller's contract covers the rest.
                unsafe { Shared::new(NonNull::new_unchecked(&raw mut (*p).$field)) }
            };
        }
        Stack {
            pool: Pool::new(piece!(pool), memory, MAX_CHUNKS),
            wheel: Wheel::new(piece!(wheel), piece!(timers), memory),
            sockets: Table::new(piece!(sockets), memory, MAX_SOCKETS),
            conns: Table::new(piece!(conns), memory, MAX_CONNECTIONS),
            requests: Table::new(piece!(requests), memory, MAX_REQUESTS),
            ports: Table::new(piece!(ports), memory, MAX_PORTS),
            waiters: Table::new(piece!(waiters), memory, MAX_WAITERS),
            links: Table::new(piece!(links), memory, MAX_WAIT_LINKS),
            sets: Table::new(piece!(sets), memory, MAX_EPOLL_SETS),
            items: Table::new(piece!(items), memory, MAX_EPOLL_ITEMS),
            holds: Table::new(piece!(holds), memory, MAX_HOLDS),
            notes: Table::new(piece!(notes), memory, MAX_NOTES),
            core: piece!(core),
            holder: super::IN_FLIGHT,
        }
    }

    /// A stack of its own with `extents` extents, for tests.
    pub fn leak(extents: u32) -> Stack {
        let layout = core::alloc::Layout::new::<ArenaState>();
        // SAFETY: a fresh zeroed block of the right layout, leaked, known to this view alone.
        unsafe {
            let at = std::alloc::alloc_zeroed(layout).cast::<ArenaState>();
            Stack::view(NonNull::new(at).expect("memory for a test"), Memory::leak(extents))
        }
    }

    /// Gives a fresh arena its secret and its settings.
    pub fn start(&mut self, seed: [u64; 2], sysctls: Sysctls, device_limit: u32) {
        let core = &mut *self.core;
        core.key = Key(seed);
        core.sysctls = sysctls;
        core.device_limit = device_limit;
        core.walk = seed[0] ^ seed[1] | 1;
    }

    pub fn counters(&self) -> &Counters {
        &self.core.counters
    }

    pub fn counters_mut(&mut self) -> &mut Counters {
        &mut self.core.counters
    }

    pub fn sysctls(&self) -> &Sysctls {
        &self.core.sysctls
    }

    pub fn interfaces(&self) -> &InterfaceTable {
        &self.core.interfaces
    }

    pub fn interfaces_mut(&mut self) -> &mut InterfaceTable {
        &mut self.core.interfaces
    }
}
