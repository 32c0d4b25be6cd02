//! Many connections: everything between an IP packet and the calls of a program.
//!
//! A [`Stack`] is this process's view of one arena. All its methods take `&mut self`, never block and never wait: time,
//! frames and calls go in, packets ([`Stack::transmit`]) and wake-ups ([`Stack::take_wake`]) come out.
//!
//! | file | what |
//! | --- | --- |
//! | `view` | the pieces of the arena and how a view is made of them |
//! | `sockets` | socket, connect, send, recv, shutdown, close as the program calls them |
//! | `connections` | connections, whoever has them: made, found, driven, forgotten |
//! | `listen` | SYN queue and accept queue: the passive open |
//! | `cookie` | SYN cookies |
//! | `fastopen` | TCP Fast Open: its cookies, connections that are made at the SYN |
//! | `demux` | a packet's way to its connection, listener, or to a drop with a reason |
//! | `icmp` | ICMP errors, to whom they concern |
//! | `time_wait` | connections that are over, and who may take their names |
//! | `ports` | which ports are guarded, for whom, and whether one may be bound again |
//! | `holds` | which process holds what, and what its end closes |
//! | `ready` | readiness as poll(2) sees it, and sleeping threads |
//! | `epoll` | epoll sets |
//! | `notes` | error queues: what has become of MSG_ZEROCOPY, ICMP errors |
//! | `signals` | which events send a signal, and to whom |
//! | `transmit` | from a connection's next segment to a packet |
//! | `options` | socket options |
//! | `repair` | after a death inside of the lock |
//! | `inspect` | what `tcpreload ss` shows |

mod connections;
mod cookie;
mod demux;
mod epoll;
mod fastopen;
mod holds;
mod icmp;
mod inspect;
mod listen;
mod notes;
pub mod options;
mod ports;
mod ready;
mod repair;
mod signals;
mod sockets;
mod time_wait;
mod transmit;
mod view;

#[cfg(test)]
mod tests;

pub use epoll::{EpollEvent, EpollId, EpollItem, EpollOp, EpollSet};
pub use holds::{COMPANION, Holder, IN_FLIGHT};
pub use inspect::SocketInfo;
pub use listen::Request;
pub use notes::{Completed, Report, Told, ZeroCopy};
pub use options::SocketOptions;
pub use ports::{Port, PortId, PortKind};
pub use ready::{Ready, WaitLink, Waiter, WaiterId, Wake, WakeKind};
pub use sockets::{Accepted, RecvFlags, Route, SendFlags, ShutdownHow};
pub use transmit::{TxPacket, TxSink};
pub use view::{ArenaState, Stack};

use self::fastopen::FastQueue;
use self::holds::Refs;
use self::notes::Notes;
use crate::fixed::hash::Chained;
use crate::fixed::list::{Linked, Links, List};
use crate::fixed::{Id, TimerId};
use crate::tcp::Tcb;
use crate::tcp::isn::Key;
use crate::values::signal::Owner;
use crate::values::{Addr, Endpoint, Family, FourTuple, Instant, Path, Sysctls};
use bytemuck::Zeroable;

pub type SockId = Id<Socket>;
pub type ConnId = Id<Conn>;

/// How far a socket has come, as Linux's socket states.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Zeroable)]
#[repr(u8)]
pub enum SocketPhase {
    #[default]
    Unconnected = 0,
    Connecting = 1,
    Connected = 2,
    Listening = 3,
}

/// What a descriptor names.
#[derive(Zeroable)]
#[repr(C)]
pub struct Socket {
    /// SO_COOKIE of the kernel socket that stands for it.
    cookie: u64,
    /// Descriptors, over all processes.
    refs: Refs,
    family: Family,
    phase: SocketPhase,
    /// bind(2) was called, or the engine chose an address.
    bound: bool,
    /// shutdown(2) before or without a connection.
    shut: u8,
    /// SO_ERROR.
    error: i32,
    pub options: SocketOptions,
    pub local: Endpoint,
    remote: Endpoint,
    conn: Option<ConnId>,
    port: Option<PortId>,
    /// Listening: the bound of the accept queue, and the connections in it.
    backlog: u32,
    accept_queue: List<Conn, Accept>,
    /// Request sockets of this listener.
    syn_queue: u32,
    /// ... of these, those whose SYN-ACK was not sent again yet.
    syn_young: u32,
    /// When the last SYN cookie was sent.
    cookies_at: Instant,
    fast: FastQueue,
    waits: List<WaitLink, ready::OnTarget>,
    items: List<EpollItem, epoll::OnSocket>,
    notes: Notes,
    owner: Owner,
    cookie_chain: Option<SockId>,
    port_chain: Option<SockId>,
}

/// A connection: its control block and its place in the stack.
#[derive(Zeroable)]
#[repr(C)]
pub struct Conn {
    pub tcb: Tcb,
    pub tuple: FourTuple,
    /// Where its last acceptable segment came from.
    path: Path,
    /// The socket that owns it; none while it waits to be accepted, and after close.
    socket: Option<SockId>,
    /// The listener in whose accept queue it waits.
    listener: Option<SockId>,
    /// The listener in whose Fast Open queue it counts.
    fast_queue: Option<SockId>,
    port: Option<PortId>,
    timer: Option<TimerId>,
    /// When `timer` fires.
    timer_at: Instant,
    chain: Option<ConnId>,
    accept_links: Links<Conn>,
    output_links: Links<Conn>,
    time_wait_links: Links<Conn>,
    tos: u8,
    ttl: u8,
    /// Found by the demultiplexer.
    indexed: bool,
    /// A writer waits for room.
    no_space: bool,
    reuse_addr: bool,
    /// Segments with a smaller TTL are dropped (IP_MINTTL).
    min_ttl: u8,
    /// Notifications of its socket's wait for acknowledgments.
    notes_wait: bool,
    _pad: [u8; 1],
    /// Its flow label in IPv6.
    flow: u32,
}

/// The list of a listener's connections that wait for accept(2).
pub enum Accept {}
/// The list of connections that may have something to send.
pub enum Output {}
/// The list of connections in TIME-WAIT, oldest first.
pub enum TimeWaits {}
/// The index of connections by their names.
pub enum ByTuple {}
/// The index of sockets by SO_COOKIE.
pub enum ByCookie {}
/// The index of listeners by port.
pub enum ByPort {}

impl Socket {
    /// Its own address, as that of a guard.
    fn span(&self) -> Addr {
        self.guarded(self.local.addr)
    }

    /// `addr` as that of a guard of this socket's.
    fn guarded(&self, addr: Addr) -> Addr {
        if self.options.v6only && addr == Addr::ANY_V6 { Addr::ANY_V6_ALONE } else { addr }
    }
}

impl Conn {
    fn watch_acks(&mut self) {
        self.no_space = true;
    }

    /// What its socket's options say of its packets' IP headers.
    fn take_marks(&mut self, options: &SocketOptions, key: &Key, sysctls: &Sysctls) {
        let marks = options.marks(self.tuple.remote.addr);
        self.tos = marks.tos;
        self.min_ttl = marks.min_ttl;
        self.ttl = marks.ttl.unwrap_or(self.ttl);
        self.flow = transmit::flow_label(key, sysctls, &self.tuple, options.auto_flow);
    }
}

impl Linked<Accept> for Conn {
    fn links(&self) -> &Links<Self> {
        &self.accept_links
    }
    fn links_mut(&mut self) -> &mut Links<Self> {
        &mut self.accept_links
    }
}

impl Linked<Output> for Conn {
    fn links(&self) -> &Links<Self> {
        &self.output_links
    }
    fn links_mut(&mut self) -> &mut Links<Self> {
        &mut self.output_links
    }
}

impl Linked<TimeWaits> for Conn {
    fn links(&self) -> &Links<Self> {
        &self.time_wait_links
    }
    fn links_mut(&mut self) -> &mut Links<Self> {
        &mut self.time_wait_links
    }
}

impl Chained<ByTuple> for Conn {
    fn chain(&self) -> Option<ConnId> {
        self.chain
    }
    fn set_chain(&mut self, next: Option<ConnId>) {
        self.chain = next;
    }
}

impl Chained<ByCookie> for Socket {
    fn chain(&self) -> Option<SockId> {
        self.cookie_chain
    }
    fn set_chain(&mut self, next: Option<SockId>) {
        self.cookie_chain = next;
    }
}

impl Chained<ByPort> for Socket {
    fn chain(&self) -> Option<SockId> {
        self.port_chain
    }
    fn set_chain(&mut self, next: Option<SockId>) {
        self.port_chain = next;
    }
}
