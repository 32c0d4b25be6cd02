//! The program's calls, as Linux answers them; what would block is [`Error::WouldBlock`].

use super::holds::Held;
use super::time_wait::Vacancy;
use super::{Conn, ConnId, SockId, Socket, SocketPhase, Stack};
use crate::fixed::TimerKey;
use crate::stack::ready::Ready;
use crate::tcp::user::CloseAction;
use crate::tcp::{Env, Fate, OpenParams, Outcome, State, TcpInfo, isn};
use crate::values::{Addr, Counter, Endpoint, Error, Family, FourTuple, Instant, Path, error::Result};
use bytemuck::Zeroable;

/// Kinds of timers in the wheel.
pub(super) const TIMER_CONN: u64 = 1;
pub(super) const TIMER_REQUEST: u64 = 2;

/// How a destination is reached.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// The address that connections to it come from.
    pub source: Addr,
    pub mtu: u32,
}

/// What accept(2) got: a connection that no descriptor names yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Accepted {
    conn: ConnId,
    listener: SockId,
    pub tuple: FourTuple,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SendFlags {
    /// MSG_MORE.
    pub more: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RecvFlags {
    pub peek: bool,
    /// MSG_TRUNC: count the bytes and drop them.
    pub discard: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ShutdownHow {
    Read,
    Write,
    Both,
}

impl ShutdownHow {
    fn bits(self) -> u8 {
        match self {
            ShutdownHow::Read => 1,
            ShutdownHow::Write => 2,
            ShutdownHow::Both => 3,
        }
    }
}

/// What of a connection can make a socket ready, before something happens to it.
#[derive(Clone, Copy)]
pub(super) struct Before {
    readable: usize,
    eof: bool,
    state: State,
}

impl Before {
    pub fn of(conn: &Conn) -> Before {
        let t = &conn.tcb;
        Before { readable: t.readable_bytes(), eof: t.at_eof(), state: t.state() }
    }
}

macro_rules! env {
    ($stack:ident, $core:ident, $now:expr) => {
        Env { now: $now, pool: &mut $stack.pool, counters: &mut $core.counters, sysctls: &$core.sysctls }
    };
}
pub(super) use env;

impl Stack {
    /// A fresh socket with one descriptor. `cookie` names the kernel socket that stands for it.
    ///
    /// # Errors
    /// NoBuffers: the table is full.
    pub fn socket_create(&mut self, family: Family, cookie: u64) -> Result<SockId> {
        let socket =
            Socket { cookie, family, local: Endpoint::new(Addr::any(family), 0), ..Socket::zeroed() };
        let Ok(id) = self.sockets.insert(socket) else {
            self.core.counters.inc(Counter::TableFull);
            return Err(Error::NoBuffers);
        };
        let core = &mut *self.core;
        core.by_cookie.insert(&mut self.sockets, cookie, id);
        self.hold(Held::Socket(id));
        Ok(id)
    }

    /// The socket whose kernel socket has this SO_COOKIE.
    pub fn socket_by_cookie(&self, cookie: u64) -> Option<SockId> {
        self.core.by_cookie.find(&self.sockets, cookie, |s| s.cookie == cookie)
    }

    pub fn family(&self, id: SockId) -> Option<Family> {
        self.sockets.get(id).map(|s| s.family)
    }

    /// One more descriptor: dup, fork.
    pub fn retain(&mut self, id: SockId) {
        self.hold(Held::Socket(id));
    }

    pub fn refs(&self, id: SockId) -> u32 {
        self.sockets.get(id).map_or(0, |s| s.refs.count())
    }

    /// One descriptor fewer. With the last the socket is closed as close(2) closes it; the connection ends in order, on
    /// its own, unless data was left unread or SO_LINGER says otherwise.
    pub fn release(&mut self, now: Instant, id: SockId) {
        if self.unhold(Held::Socket(id)) != Some(0) {
            return;
        }
        if self.phase(id) == SocketPhase::Listening {
            self.stop_listening(now, id);
        }
        self.forget_readiness(id);
        let s = &self.sockets[id];
        let (conn, port, reuse) = (s.conn, s.port, s.options.reuse_addr);
        let linger_zero = s.options.linger_on && s.options.linger_s == 0;
        if let Some(conn) = conn {
            self.close_conn(now, conn, linger_zero);
        }
        if let Some(port) = port {
            self.port_release(port, reuse);
        }
        self.drop_holds(Held::Socket(id));
        let cookie = self.sockets[id].cookie;
        let core = &mut *self.core;
        core.by_cookie.remove(&mut self.sockets, cookie, id);
        self.sockets.remove(id);
    }

    fn close_conn(&mut self, now: Instant, id: ConnId, linger_zero: bool) {
        let core = &mut *self.core;
        let Some(conn) = self.conns.get_mut(id) else { return };
        core.in_work = Some(id);
        conn.socket = None;
        let mut env = env!(self, core, now);
        let (tuple, path) = (conn.tuple, conn.path);
        match conn.tcb.close(&mut env, linger_zero) {
            CloseAction::Gone => self.remove_conn(id),
            CloseAction::Reset(reply) => {
                self.queue_reply(&tuple, path, &reply);
                self.remove_conn(id);
            }
            CloseAction::Lingers => self.touch(id),
        }
    }

    /// Forgets a connection altogether.
    pub(super) fn remove_conn(&mut self, id: ConnId) {
        self.unindex_conn(id);
        let core = &mut *self.core;
        let Some(conn) = self.conns.get_mut(id) else { return };
        conn.tcb.release(&mut self.pool);
        let (socket, listener) = (conn.socket, conn.listener);
        core.output.remove(&mut self.conns, id);
        if let Some(l) = listener.and_then(|l| self.sockets.get_mut(l)) {
            l.accept_queue.remove(&mut self.conns, id);
        }
        if let Some(s) = socket.and_then(|s| self.sockets.get_mut(s)) {
            s.conn = None;
        }
        self.conns.remove(id);
    }

    /// The network no longer finds it: no index, no timer, no port.
    pub(super) fn unindex_conn(&mut self, id: ConnId) {
        let core = &mut *self.core;
        let Some(conn) = self.conns.get_mut(id) else { return };
        let (indexed, timer, port) = (conn.indexed, conn.timer.take(), conn.port.take());
        let reuse = conn.reuse_addr;
        conn.indexed = false;
        conn.timer_at = Instant::ZERO;
        core.time_waits.remove(&mut self.conns, id);
        let conn = &self.conns[id];
        let hash = core.key.of_tuple(&conn.tuple, 0);
        if indexed {
            core.by_tuple.remove(&mut self.conns, hash, id);
        }
        if let Some(timer) = timer {
            self.wheel.cancel(timer);
        }
        if let Some(port) = port {
            self.port_release(port, reuse);
        }
    }

    pub(super) fn find_conn(&self, tuple: &FourTuple) -> Option<ConnId> {
        let hash = self.core.key.of_tuple(tuple, 0);
        self.core.by_tuple.find(&self.conns, hash, |c| c.tuple == *tuple)
    }

    /// A connection in the tables, its control block still CLOSED.
    pub(super) fn conn_create(
        &mut self,
        tuple: FourTuple,
        port: Option<PortIdOf>,
        reuse: bool,
    ) -> Result<ConnId> {
        let ttl = self.core.sysctls.ip_default_ttl[0] as u8;
        let conn = Conn { tuple, port, ttl, reuse_addr: reuse, indexed: true, ..Conn::zeroed() };
        let inserted = match self.conns.insert(conn) {
            Ok(id) => Ok(id),
            Err(conn) => {
                self.evict_time_wait();
                self.conns.insert(conn)
            }
        };
        let Ok(id) = inserted else {
            self.core.counters.inc(Counter::TableFull);
            return Err(Error::NoBuffers);
        };
        let core = &mut *self.core;
        let hash = core.key.of_tuple(&tuple, 0);
        core.by_tuple.insert(&mut self.conns, hash, id);
        if let Some(port) = port {
            self.port_retain(port, reuse);
        }
        Ok(id)
    }

    /// connect(2): begins, goes on with, or ends an attempt. The socket's local address is set; a port with a guard
    /// belongs to it.
    ///
    /// # Errors
    /// InProgress: a SYN is on its way. IsConnected, Already, and what the attempt ended with: ConnectionRefused, TimedOut ...
    pub fn connect(&mut self, now: Instant, id: SockId, remote: Endpoint, route: &Route) -> Result<()> {
        let s = self.sockets.get(id).ok_or(Error::BadDescriptor)?;
        match s.phase {
            SocketPhase::Listening | SocketPhase::Connected => return Err(Error::IsConnected),
            SocketPhase::Connecting => return self.connect_result(id),
            SocketPhase::Unconnected => {}
        }
        let (options, port, bound) = (s.options, s.port, s.local);
        let scope = if remote.addr.is_link_local_v6() { remote.scope } else { 0 };
        let source = if bound.addr.is_unspecified() { route.source } else { bound.addr };
        let local = Endpoint::with_scope(source, bound.port, 0);
        let tuple = FourTuple { local, remote: Endpoint::with_scope(remote.addr, remote.port, scope) };
        let old_end = match self.vacancy(now, &tuple) {
            Vacancy::Free => None,
            Vacancy::Taken => {
                self.disconnect(now, id);
                return Err(Error::AddressNotAvailable);
            }
            Vacancy::Reusable(old, iss) => {
                self.core.counters.inc(Counter::TWRecycled);
                self.end_time_wait(now, old);
                Some(iss)
            }
        };
        let conn_id =
            self.conn_create(tuple, port, options.reuse_addr).inspect_err(|_| self.disconnect(now, id))?;
        self.port_used(now, port);
        let core = &mut *self.core;
        let params = OpenParams {
            iss: old_end.unwrap_or_else(|| isn::initial_sequence(&core.key, &tuple, now)),
            path_mss: path_mss(route.mtu, tuple.remote.addr),
            device_limit: core.device_limit,
            ts_offset: isn::timestamp_offset(&core.key, &tuple),
            options: options.tcp,
        };
        let conn = &mut self.conns[conn_id];
        conn.socket = Some(id);
        conn.path = Path::ROUTED;
        conn.tos = options.tos;
        if options.ttl != 0 {
            conn.ttl = options.ttl;
        }
        let mut env = env!(self, core, now);
        conn.tcb.open_active(&mut env, &params);
        let s = &mut self.sockets[id];
        s.local = tuple.local;
        s.remote = tuple.remote;
        s.conn = Some(conn_id);
        s.error = 0;
        s.phase = SocketPhase::Connecting;
        self.touch(conn_id);
        Err(Error::InProgress)
    }

    /// How an attempt stands: Ok once, when it has succeeded.
    ///
    /// # Errors
    /// Already: still under way; else what ended it.
    pub fn connect_result(&mut self, id: SockId) -> Result<()> {
        let s = self.sockets.get_mut(id).ok_or(Error::BadDescriptor)?;
        if s.phase != SocketPhase::Connecting {
            return if s.phase == SocketPhase::Connected { Ok(()) } else { Err(Error::NotConnected) };
        }
        let state = s.conn.and_then(|c| self.conns.get(c)).map_or(State::Closed, |c| c.tcb.state());
        match state {
            State::SynSent | State::SynReceived => Err(Error::Already),
            State::Closed => {
                let error = Error::from_errno(s.error).unwrap_or(Error::ConnectionAborted);
                s.error = 0;
                self.disconnect(Instant::ZERO, id);
                Err(error)
            }
            _ => {
                s.phase = SocketPhase::Connected;
                Ok(())
            }
        }
    }

    /// tcp_disconnect: the socket is as new (connect with AF_UNSPEC, shutdown of an attempt or a listener, after a failed
    /// attempt). A peer is told with a RST, and SO_ERROR tells the program. An address that it had not chosen is forgotten.
    pub fn disconnect(&mut self, now: Instant, id: SockId) {
        if self.phase(id) == SocketPhase::Listening {
            self.stop_listening(now, id);
        }
        let Some(s) = self.sockets.get_mut(id) else { return };
        let conn = s.conn.take();
        let port = if s.bound { None } else { s.port.take() };
        let reuse = s.options.reuse_addr;
        s.phase = SocketPhase::Unconnected;
        s.remote = Endpoint::default();
        s.shut = 0;
        if !s.bound {
            // The number stays readable, as in Linux, but it is nobody's.
            s.local = Endpoint::new(Addr::any(s.family), s.local.port);
        }
        if let Some(conn) = conn {
            self.abandon(now, id, conn);
        }
        if let Some(port) = port {
            self.port_release(port, reuse);
        }
        self.notify(id, Ready::ALL);
    }

    /// The connection of a socket that is disconnected. TIME-WAIT goes on without it.
    fn abandon(&mut self, now: Instant, id: SockId, conn_id: ConnId) {
        let core = &mut *self.core;
        let Some(conn) = self.conns.get_mut(conn_id) else { return };
        conn.socket = None;
        if conn.tcb.state() == State::TimeWait {
            return;
        }
        if conn.tcb.state() != State::Closed
            && let Some(s) = self.sockets.get_mut(id)
        {
            s.error = libc::ECONNRESET;
        }
        let (tuple, path) = (conn.tuple, conn.path);
        let mut env = env!(self, core, now);
        if let Some(reply) = conn.tcb.abort(&mut env, 0) {
            self.queue_reply(&tuple, path, &reply);
        }
        self.remove_conn(conn_id);
    }

    pub fn phase(&self, id: SockId) -> SocketPhase {
        self.sockets.get(id).map_or(SocketPhase::Unconnected, |s| s.phase)
    }

    pub fn tcp_state(&self, id: SockId) -> State {
        let Some(s) = self.sockets.get(id) else { return State::Closed };
        if s.phase == SocketPhase::Listening {
            return State::Listen;
        }
        // As Linux has it, a TIME-WAIT is no longer the socket's.
        match s.conn.and_then(|c| self.conns.get(c)).map_or(State::Closed, |c| c.tcb.state()) {
            State::TimeWait => State::Closed,
            state => state,
        }
    }

    /// getsockname(2).
    pub fn local(&self, id: SockId) -> Option<Endpoint> {
        self.sockets.get(id).map(|s| s.local)
    }

    /// getpeername(2).
    ///
    /// # Errors
    /// NotConnected.
    pub fn remote(&self, id: SockId) -> Result<Endpoint> {
        match self.tcp_state(id) {
            State::Closed | State::SynSent | State::Listen => Err(Error::NotConnected),
            _ => self.sockets.get(id).map(|s| s.remote).ok_or(Error::BadDescriptor),
        }
    }

    /// SO_ERROR: told once. Where nothing went wrong for good, what ICMP says of the peer (sk_err_soft).
    pub fn take_error(&mut self, id: SockId) -> i32 {
        let Some(s) = self.sockets.get_mut(id) else { return 0 };
        match core::mem::take(&mut s.error) {
            0 => s.conn.and_then(|c| self.conns.get_mut(c)).map_or(0, |c| c.tcb.take_soft_error()),
            error => error,
        }
    }

    /// accept(2), first half: the oldest connection of the accept queue, taken off. [`Stack::accept_finish`] or
    /// [`Stack::accept_undo`] must follow.
    ///
    /// # Errors
    /// Invalid: not listening. WouldBlock: the queue is empty.
    pub fn accept_begin(&mut self, id: SockId) -> Result<Accepted> {
        let s = self.sockets.get_mut(id).ok_or(Error::BadDescriptor)?;
        if s.phase != SocketPhase::Listening {
            return Err(Error::Invalid);
        }
        let conn = s.accept_queue.pop_front(&mut self.conns).ok_or(Error::WouldBlock)?;
        // It keeps its listener until it has a socket: whoever dies in between leaves it in the queue.
        Ok(Accepted { conn, listener: id, tuple: self.conns[conn].tuple })
    }

    /// accept(2), second half: the connection gets a socket with one descriptor.
    ///
    /// # Errors
    /// NoBuffers: the table is full; the connection is back in the queue. ConnectionAborted: it ended meanwhile.
    pub fn accept_finish(&mut self, accepted: Accepted, cookie: u64) -> Result<SockId> {
        if self.conns.get(accepted.conn).is_none() {
            return Err(Error::ConnectionAborted);
        }
        let (options, family) = match self.sockets.get(accepted.listener) {
            Some(l) => (l.options, l.family),
            // The listener was closed in between: the connection stands all the same.
            None => (Default::default(), accepted.tuple.local.addr.family()),
        };
        let id = match self.socket_create(family, cookie) {
            Ok(id) => id,
            Err(error) => {
                self.accept_undo(accepted);
                return Err(error);
            }
        };
        let conn = self.conns.get_mut(accepted.conn).ok_or(Error::ConnectionAborted)?;
        conn.socket = Some(id);
        conn.listener = None;
        let s = &mut self.sockets[id];
        s.options = options;
        // sk_clone: all but the priority is the listener's.
        s.options.priority = 0;
        s.phase = SocketPhase::Connected;
        s.bound = true;
        s.local = accepted.tuple.local;
        s.remote = accepted.tuple.remote;
        s.conn = Some(accepted.conn);
        s.error = conn.tcb.error();
        conn.tcb.clear_error();
        Ok(id)
    }

    /// The descriptor could not be made: the connection goes back to the front of the queue.
    pub fn accept_undo(&mut self, accepted: Accepted) {
        let Some(conn) = self.conns.get_mut(accepted.conn) else { return };
        match self.sockets.get_mut(accepted.listener) {
            Some(l) if l.phase == SocketPhase::Listening => {
                conn.listener = Some(accepted.listener);
                l.accept_queue.push_front(&mut self.conns, accepted.conn);
                self.notify(accepted.listener, Ready::IN);
            }
            _ => {
                conn.listener = None;
                self.close_conn(Instant::from_us(1), accepted.conn, true);
            }
        }
    }

    /// Appends to the send buffer; the number of bytes taken.
    ///
    /// # Errors
    /// WouldBlock (no room, or the handshake is not done), BrokenPipe, and a pending SO_ERROR.
    pub fn send(&mut self, now: Instant, id: SockId, bufs: &[&[u8]], flags: SendFlags) -> Result<usize> {
        let core = &mut *self.core;
        let s = self.sockets.get_mut(id).ok_or(Error::BadDescriptor)?;
        if s.error != 0 {
            let errno = core::mem::take(&mut s.error);
            return Err(Error::from_errno(errno).unwrap_or(Error::BrokenPipe));
        }
        if s.shut & 2 != 0 {
            return Err(Error::BrokenPipe);
        }
        let conn_id = s.conn.ok_or(Error::BrokenPipe)?;
        let conn = self.conns.get_mut(conn_id).ok_or(Error::BrokenPipe)?;
        core.in_work = Some(conn_id);
        match conn.tcb.state() {
            State::SynSent | State::SynReceived => return Err(Error::WouldBlock),
            state if !state.may_send() => return Err(Error::BrokenPipe),
            _ => {}
        }
        let mut env = env!(self, core, now);
        let mut done = 0;
        let mut full = false;
        for (n, buf) in bufs.iter().enumerate() {
            let more = flags.more || n + 1 < bufs.len();
            let taken = conn.tcb.write(&mut env, buf, more);
            done += taken;
            if taken < buf.len() {
                full = true;
                break;
            }
        }
        if full {
            conn.no_space = true;
        }
        let asked = bufs.iter().any(|b| !b.is_empty());
        self.touch(conn_id);
        if done == 0 && asked { Err(Error::WouldBlock) } else { Ok(done) }
    }

    /// Reads what waits; 0 at the end of the stream.
    ///
    /// # Errors
    /// WouldBlock, NotConnected, and a pending SO_ERROR.
    pub fn recv(
        &mut self,
        now: Instant,
        id: SockId,
        bufs: &mut [&mut [u8]],
        flags: RecvFlags,
        offset: usize,
    ) -> Result<usize> {
        let core = &mut *self.core;
        let s = self.sockets.get_mut(id).ok_or(Error::BadDescriptor)?;
        if s.phase == SocketPhase::Listening {
            return Err(Error::NotConnected);
        }
        let Some(conn_id) = s.conn else {
            return match core::mem::take(&mut s.error) {
                0 if s.shut & 1 != 0 => Ok(0),
                0 => Err(Error::NotConnected),
                errno => Err(Error::from_errno(errno).unwrap_or(Error::NotConnected)),
            };
        };
        let conn = self.conns.get_mut(conn_id).ok_or(Error::NotConnected)?;
        core.in_work = Some(conn_id);
        let waiting = conn.tcb.readable_bytes().saturating_sub(offset);
        if waiting == 0 {
            return if offset > 0 {
                Err(Error::WouldBlock)
            } else if conn.tcb.received_fin() {
                // SOCK_DONE: the end of the stream comes before an error that followed it.
                Ok(0)
            } else if s.error != 0 {
                let errno = core::mem::take(&mut s.error);
                Err(Error::from_errno(errno).unwrap_or(Error::ConnectionReset))
            } else if conn.tcb.at_eof() || s.shut & 1 != 0 {
                Ok(0)
            } else {
                Err(Error::WouldBlock)
            };
        }
        let mut env = env!(self, core, now);
        let mut done = 0;
        for buf in bufs.iter_mut() {
            let n = if flags.discard {
                buf.len().min(waiting - done)
            } else {
                conn.tcb.peek(&env, offset + done, buf)
            };
            done += n;
            if n < buf.len() {
                break;
            }
        }
        if !flags.peek {
            conn.tcb.consume(&mut env, done);
            if conn.tcb.wants_output() {
                self.touch(conn_id);
            }
        }
        Ok(done)
    }

    /// shutdown(2).
    ///
    /// # Errors
    /// NotConnected.
    pub fn shutdown(&mut self, now: Instant, id: SockId, how: ShutdownHow) -> Result<()> {
        // inet_shutdown
        match self.tcp_state(id) {
            State::Closed => {
                // Refused, and noted all the same.
                self.sockets.get_mut(id).ok_or(Error::BadDescriptor)?.shut |= how.bits();
                return Err(Error::NotConnected);
            }
            State::Listen if how == ShutdownHow::Write => return Ok(()),
            State::Listen | State::SynSent => {
                self.disconnect(now, id);
                return Ok(());
            }
            _ => {}
        }
        let core = &mut *self.core;
        let s = self.sockets.get_mut(id).ok_or(Error::BadDescriptor)?;
        let Some(conn_id) = s.conn else { return Err(Error::NotConnected) };
        s.shut |= how.bits();
        let Some(conn) = self.conns.get_mut(conn_id) else { return Err(Error::NotConnected) };
        let before = Before::of(conn);
        let mut env = env!(self, core, now);
        if how != ShutdownHow::Write {
            conn.tcb.shutdown_recv();
        }
        if how != ShutdownHow::Read {
            conn.tcb.shutdown_send(&mut env);
        }
        self.settle(now, conn_id, before, Outcome::DONE);
        // Whoever sleeps on it looks again, whatever it waited for.
        self.notify(id, Ready::ALL);
        Ok(())
    }

    /// FIONREAD.
    ///
    /// # Errors
    /// Invalid: a listener.
    pub fn readable_bytes(&self, id: SockId) -> Result<usize> {
        let s = self.sockets.get(id).ok_or(Error::BadDescriptor)?;
        if s.phase == SocketPhase::Listening {
            return Err(Error::Invalid);
        }
        Ok(s.conn.and_then(|c| self.conns.get(c)).map_or(0, |c| c.tcb.readable_bytes()))
    }

    /// SIOCOUTQ and SIOCOUTQNSD: bytes not acknowledged, and bytes not sent.
    ///
    /// # Errors
    /// Invalid: a listener.
    pub fn unsent_bytes(&self, id: SockId) -> Result<(usize, usize)> {
        let s = self.sockets.get(id).ok_or(Error::BadDescriptor)?;
        if s.phase == SocketPhase::Listening {
            return Err(Error::Invalid);
        }
        let conn = s.conn.and_then(|c| self.conns.get(c));
        Ok(conn.map_or((0, 0), |c| (c.tcb.unacked_bytes(), c.tcb.unsent_bytes())))
    }

    pub fn tcp_info(&mut self, now: Instant, id: SockId) -> Option<TcpInfo> {
        let state = self.tcp_state(id);
        let core = &mut *self.core;
        let s = self.sockets.get(id)?;
        if s.phase == SocketPhase::Listening {
            return Some(TcpInfo {
                state: State::Listen.linux_number(),
                // As Linux: the queues of a listener.
                unacked_segments: s.accept_queue.len() as u32,
                sacked_segments: s.backlog,
                ..TcpInfo::default()
            });
        }
        let Some(conn) = s.conn.and_then(|c| self.conns.get(c)) else {
            return Some(TcpInfo { state: State::Closed.linux_number(), ..TcpInfo::default() });
        };
        let env = env!(self, core, now);
        let mut info = conn.tcb.info(&env);
        info.state = state.linux_number();
        Some(info)
    }

    /// Something may have to be sent, or a timer to be set.
    pub(super) fn touch(&mut self, id: ConnId) {
        let core = &mut *self.core;
        if self.conns.get(id).is_some_and(|c| c.tcb.wants_output()) {
            core.output.push_back(&mut self.conns, id);
        }
        self.schedule_timer(id);
    }

    /// Sees to it that the wheel fires no later than the connection's earliest deadline. A later deadline costs nothing: the
    /// timer fires, finds that it is early, and is set again.
    pub(super) fn schedule_timer(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let Some(deadline) = conn.tcb.next_deadline() else { return };
        if conn.timer.is_some() && conn.timer_at <= deadline {
            return;
        }
        let key = TimerKey { kind: TIMER_CONN, id: id.to_raw() };
        conn.timer = self.wheel.schedule(conn.timer, key, deadline);
        conn.timer_at = deadline;
        if conn.timer.is_none() {
            self.core.counters.inc(Counter::TableFull);
        }
    }

    /// When [`Stack::handle_timers`] has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.wheel.next_deadline()
    }

    /// Runs every timer that is due.
    pub fn handle_timers(&mut self, now: Instant) {
        while let Some(key) = self.wheel.expire(now) {
            match key.kind {
                TIMER_CONN => {
                    if let Some(id) = ConnId::from_raw(key.id) {
                        self.conn_timer(now, id);
                    }
                }
                TIMER_REQUEST => self.request_timer(now, key.id),
                _ => {}
            }
        }
    }

    fn conn_timer(&mut self, now: Instant, id: ConnId) {
        let core = &mut *self.core;
        let Some(conn) = self.conns.get_mut(id) else { return };
        core.in_work = Some(id);
        conn.timer = None;
        if conn.tcb.next_deadline().is_none_or(|d| d > now) {
            self.schedule_timer(id);
            return;
        }
        let before = Before::of(conn);
        let mut env = env!(self, core, now);
        let outcome = conn.tcb.on_timers(&mut env);
        self.settle(now, id, before, outcome);
    }

    /// After something happened to a connection: replies, output, timers, readiness, and its end.
    pub(super) fn settle(&mut self, now: Instant, id: ConnId, before: Before, outcome: Outcome) {
        let core = &mut *self.core;
        let Some(conn) = self.conns.get_mut(id) else { return };
        let (tuple, path, socket) = (conn.tuple, conn.path, conn.socket);
        let after = Before::of(conn);
        let mut what = Ready::NONE;
        if after.readable > before.readable || (after.eof && !before.eof) {
            what = what | Ready::IN;
        }
        if after.eof && !before.eof {
            what = what | Ready::RDHUP;
        }
        if after.state != before.state {
            what = what | changed(before.state, after.state);
        }
        if conn.no_space && socket.is_some() {
            let env = env!(self, core, Instant::ZERO);
            if conn.tcb.is_send_shutdown() || conn.tcb.is_writable(&env) {
                conn.no_space = false;
                what = what | Ready::OUT;
            }
        }
        if let Some(reply) = outcome.reply {
            self.queue_reply(&tuple, path, &reply);
        }
        if outcome.fate == Fate::Ends {
            self.conn_ended(id);
        } else {
            self.touch(id);
            if after.state == State::TimeWait && before.state != State::TimeWait {
                self.time_wait_began(now, id);
            }
        }
        if let Some(socket) = socket
            && !what.is_empty()
        {
            self.notify(socket, what);
        }
    }

    /// The connection is CLOSED: its socket keeps it, for what is unread and for the error; without one it is forgotten.
    pub(super) fn conn_ended(&mut self, id: ConnId) {
        self.unindex_conn(id);
        let Some(conn) = self.conns.get_mut(id) else { return };
        if let Some(s) = conn.socket.and_then(|s| self.sockets.get_mut(s)) {
            if conn.tcb.error() != 0 {
                s.error = conn.tcb.error();
                conn.tcb.clear_error();
            }
        } else if conn.listener.is_none() {
            self.remove_conn(id);
        }
    }

    /// Whether all that this arena still has to do is done: no connection with unsent or unacknowledged data or an
    /// unfinished close.
    pub fn has_unfinished_business(&self) -> bool {
        self.conns
            .iter()
            .any(|(_, c)| c.socket.is_none() && !matches!(c.tcb.state(), State::TimeWait | State::Closed))
    }

    /// Whether there are connections at all, those in TIME-WAIT included.
    pub fn has_connections(&self) -> bool {
        !self.conns.is_empty()
    }

    /// The lock is held by somebody who begins: nothing is in work yet.
    pub fn work_begins(&mut self) {
        self.core.in_work = None;
    }

    /// After the lock's holder died: the connection that it worked on may be half-changed, and is reset; a connection that
    /// its socket does not know is nobody's.
    pub(super) fn reset_broken(&mut self, now: Instant) {
        for id in self.conns.ids().collect::<Vec<_>>() {
            let conn = &self.conns[id];
            let strays = match conn.socket {
                Some(s) => self.sockets.get(s).is_none_or(|s| s.conn != Some(id)),
                // Begun, and not yet in a queue; or taken out of one.
                None => {
                    let ends = conn.tcb.is_orphan() || conn.tcb.state() == State::TimeWait;
                    !ends && conn.listener.is_none_or(|l| self.sockets.get(l).is_none())
                }
            };
            if strays {
                self.close_conn(now, id, true);
            }
        }
        for id in self.sockets.ids().collect::<Vec<_>>() {
            if self.sockets[id].conn.is_some_and(|c| self.conns.get(c).is_none()) {
                self.sockets[id].conn = None;
            }
        }
        let Some(id) = self.core.in_work.take() else { return };
        let core = &mut *self.core;
        let Some(conn) = self.conns.get_mut(id) else { return };
        let (tuple, path, socket) = (conn.tuple, conn.path, conn.socket);
        let mut env = env!(self, core, now);
        let reply = conn.tcb.abort(&mut env, libc::ECONNRESET);
        if let Some(reply) = reply {
            self.queue_reply(&tuple, path, &reply);
        }
        if let Some(s) = socket.and_then(|s| self.sockets.get_mut(s)) {
            s.error = libc::ECONNRESET;
        }
        self.conn_ended(id);
        if let Some(socket) = socket {
            self.notify(socket, Ready::ALL);
        }
    }

    /// Sockets that some descriptor names.
    pub fn socket_count(&self) -> usize {
        self.sockets.len()
    }
}

type PortIdOf = super::PortId;

/// What a change of state makes ready.
fn changed(before: State, after: State) -> Ready {
    match (before, after) {
        (_, State::Closed) => Ready::ALL,
        (State::SynSent | State::SynReceived, _) => Ready::OUT,
        (_, State::CloseWait | State::LastAck | State::Closing | State::TimeWait) => {
            Ready::IN | Ready::RDHUP | Ready::HUP
        }
        _ => Ready::NONE,
    }
}

/// MTU less IP and TCP headers.
pub(super) fn path_mss(mtu: u32, peer: Addr) -> u32 {
    let headers = if peer.is_v4() { 40 } else { 60 };
    mtu.saturating_sub(headers).clamp(48, 65_535 - 40)
}
