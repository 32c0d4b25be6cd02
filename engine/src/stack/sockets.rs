//! The program's calls, as Linux answers them; what would block is [`Error::WouldBlock`].

use super::connections::{Before, env, path_mss};
use super::holds::Held;
use super::notes::ZeroCopy;
use super::time_wait::Vacancy;
use super::{ConnId, SockId, Socket, SocketPhase, Stack};
use crate::stack::ready::Ready;
use crate::tcp::{Env, OpenParams, Outcome, State, TcpInfo, Urgent, isn};
use crate::values::signal::Event;
use crate::values::{Addr, Counter, Endpoint, Error, Family, FourTuple, Instant, Path, error::Result};
use bytemuck::Zeroable;
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
    /// MSG_OOB: the last byte is urgent.
    pub urgent: bool,
    pub zerocopy: ZeroCopy,
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
        self.drop_notes(id);
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
        let (fast, without_cookie) = (s.options.fastopen_connect, s.options.fastopen_no_cookie);
        let conn_id = self.prepare_connection(now, id, remote, route)?;
        if fast {
            return self.connect_deferred(now, conn_id, without_cookie);
        }
        let core = &mut *self.core;
        self.conns[conn_id].tcb.send_syn(&mut env!(self, core, now));
        self.touch(conn_id);
        Err(Error::InProgress)
    }

    /// sendto(2) with MSG_FASTOPEN on an unconnected socket: as connect, and [`Stack::write_syn`] may follow.
    ///
    /// # Errors
    /// As connect.
    pub fn connect_with_data(
        &mut self,
        now: Instant,
        id: SockId,
        remote: Endpoint,
        route: &Route,
    ) -> Result<()> {
        self.prepare_connection(now, id, remote, route)?;
        self.open_with_data(now, id)
    }

    /// A connection in SYN-SENT whose SYN waits to be let go.
    fn prepare_connection(
        &mut self,
        now: Instant,
        id: SockId,
        remote: Endpoint,
        route: &Route,
    ) -> Result<ConnId> {
        let s = self.sockets.get(id).ok_or(Error::BadDescriptor)?;
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
        conn.take_marks(&options, &core.key, &core.sysctls);
        let mut env = env!(self, core, now);
        conn.tcb.open_active(&mut env, &params);
        let s = &mut self.sockets[id];
        s.local = tuple.local;
        s.remote = tuple.remote;
        s.conn = Some(conn_id);
        s.error = 0;
        s.phase = SocketPhase::Connecting;
        Ok(conn_id)
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
        self.signal(id, Event::Error);
    }

    /// The connection of a socket that is disconnected. TIME-WAIT goes on without it.
    fn abandon(&mut self, now: Instant, id: SockId, conn_id: ConnId) {
        self.notes_given_up(conn_id);
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

    /// Whom the socket was connected to last.
    pub fn last_peer(&self, id: SockId) -> Option<Endpoint> {
        self.sockets.get(id).map(|s| s.remote).filter(|peer| peer.port != 0)
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
        // sk_clone: all but the priority is the listener's; inet_csk_clone_lock: and what concerns its queue.
        s.options.priority = 0;
        s.options.defer_accept_s = 0;
        s.phase = SocketPhase::Connected;
        s.bound = true;
        s.local = accepted.tuple.local;
        s.remote = accepted.tuple.remote;
        s.conn = Some(accepted.conn);
        s.error = conn.tcb.error();
        conn.tcb.clear_error();
        conn.tcb.accepted();
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
            State::SynReceived if conn.tcb.is_early() => {}
            State::SynSent | State::SynReceived => return Err(Error::WouldBlock),
            state if !state.may_send() => return Err(Error::BrokenPipe),
            _ => {}
        }
        let start = conn.tcb.written_end();
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
        if flags.urgent && done > 0 {
            conn.tcb.mark_urgent();
        }
        if done > 0 && flags.zerocopy != ZeroCopy::No {
            self.note_wrote(id, flags.zerocopy, start);
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
        let span = conn.tcb.readable_span(offset);
        let waiting = span.len;
        let skipped = usize::from(span.skips && !flags.peek);
        // A read of nothing is content with a byte that others skip.
        if bufs.is_empty() && conn.tcb.readable_bytes() > 0 {
            return Ok(0);
        }
        if waiting == 0 {
            if skipped > 0 {
                conn.tcb.consume(&mut env!(self, core, now), skipped);
                self.touch(conn_id);
                // What else there is to be told is the next attempt's.
                return self.recv(now, id, bufs, flags, offset);
            }
            return if offset > 0 {
                Err(Error::WouldBlock)
            } else if conn.tcb.received_fin() {
                // SOCK_DONE: the end of the stream comes before an error that followed it.
                if !flags.peek {
                    conn.tcb.read_fin();
                }
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
            let most = buf.len().min(waiting - done);
            let n =
                if flags.discard { most } else { conn.tcb.peek(&env, span.from + done, &mut buf[..most]) };
            done += n;
            if n < buf.len() {
                break;
            }
        }
        if !flags.peek {
            conn.tcb.consume(&mut env, skipped + done);
            if conn.tcb.wants_output() {
                self.touch(conn_id);
            }
        }
        Ok(done)
    }

    /// Whether a read that has some bytes goes no further: nothing waits but an error, or it has come to the mark. `offset`: of its
    /// bytes, those that are still in the stream.
    pub fn read_ends(&self, id: SockId, offset: usize) -> bool {
        let Some(s) = self.sockets.get(id) else { return false };
        match s.conn.and_then(|c| self.conns.get(c)) {
            Some(c) => (s.error != 0 && c.tcb.readable_bytes() == 0) || c.tcb.bytes_to_mark() == Some(offset),
            None => s.error != 0,
        }
    }

    /// recv(2) with MSG_OOB: the urgent byte; `None` where none will come. It never waits (tcp_recv_urg).
    ///
    /// # Errors
    /// Invalid: there is none, it was read, or SO_OOBINLINE has it in the stream. WouldBlock: it is announced, and not here.
    /// NotConnected: a listener, or a connection that was cut off.
    pub fn recv_urgent(&mut self, id: SockId, peek: bool) -> Result<Option<u8>> {
        let s = self.sockets.get(id).ok_or(Error::BadDescriptor)?;
        if s.phase == SocketPhase::Listening {
            return Err(Error::NotConnected);
        }
        let tcb = &mut s.conn.and_then(|c| self.conns.get_mut(c)).ok_or(Error::Invalid)?.tcb;
        let closed = matches!(tcb.state(), State::Closed | State::TimeWait);
        if tcb.options.oob_inline || matches!(tcb.urgent(), Urgent::None | Urgent::Read) {
            return Err(Error::Invalid);
        }
        if closed && !tcb.received_fin() {
            return Err(Error::NotConnected);
        }
        match tcb.take_urgent(peek) {
            Some(byte) => Ok(Some(byte)),
            None if closed || tcb.at_eof() || s.shut & 1 != 0 => Ok(None),
            None => Err(Error::WouldBlock),
        }
    }

    /// SIOCATMARK.
    pub fn is_at_mark(&self, id: SockId) -> bool {
        let conn = self.sockets.get(id).and_then(|s| s.conn).and_then(|c| self.conns.get(c));
        conn.is_some_and(|c| c.tcb.is_at_mark())
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

    /// FIONREAD: no further than the mark.
    ///
    /// # Errors
    /// Invalid: a listener.
    pub fn readable_bytes(&self, id: SockId) -> Result<usize> {
        let s = self.sockets.get(id).ok_or(Error::BadDescriptor)?;
        if s.phase == SocketPhase::Listening {
            return Err(Error::Invalid);
        }
        Ok(s.conn.and_then(|c| self.conns.get(c)).map_or(0, |c| c.tcb.readable_to_mark()))
    }

    /// Whether close(2) would lose something that came in.
    pub fn has_unread(&self, id: SockId) -> bool {
        let conn = self.sockets.get(id).and_then(|s| s.conn).and_then(|c| self.conns.get(c));
        conn.is_some_and(|c| c.tcb.readable_bytes() > 0)
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
        let longer_header = if conn.tuple.remote.addr.is_v4() { 0 } else { 20 };
        let env = env!(self, core, now);
        let mut info = conn.tcb.info(&env);
        info.state = state.linux_number();
        info.pmtu += longer_header;
        Some(info)
    }

    /// Sockets that some descriptor names.
    pub fn socket_count(&self) -> usize {
        self.sockets.len()
    }
}
