//! Connections, whoever has them: made, found by their names, driven by segments and timers, and forgotten.

use super::fastopen::TIMER_HELD;
use super::transmit::flow_label;
use super::{Conn, ConnId, PortId, Stack};
use crate::fixed::TimerKey;
use crate::stack::ready::Ready;
use crate::tcp::user::CloseAction;
use crate::tcp::{Env, Fate, Outcome, State};
use crate::values::signal::Event;
use crate::values::{Addr, Counter, Error, FourTuple, Instant, error::Result};
use bytemuck::Zeroable;

/// Kinds of timers in the wheel.
pub(super) const TIMER_CONN: u64 = 1;
pub(super) const TIMER_REQUEST: u64 = 2;

/// What of a connection can make a socket ready, before something happens to it.
#[derive(Clone, Copy)]
pub(super) struct Before {
    pub(super) readable: usize,
    eof: bool,
    pub(super) fin: bool,
    pub(super) state: State,
}

impl Before {
    pub fn of(conn: &Conn) -> Before {
        let t = &conn.tcb;
        Before { readable: t.readable_bytes(), eof: t.at_eof(), fin: t.received_fin(), state: t.state() }
    }
}

macro_rules! env {
    ($stack:ident, $core:ident, $now:expr) => {
        Env { now: $now, pool: &mut $stack.pool, counters: &mut $core.counters, sysctls: &$core.sysctls }
    };
}
pub(super) use env;

impl Stack {
    pub(super) fn close_conn(&mut self, now: Instant, id: ConnId, linger_zero: bool) {
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
        self.judge_fast_open(id);
        self.leave_fast_queue(id);
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
        port: Option<PortId>,
        reuse: bool,
    ) -> Result<ConnId> {
        let ttl = self.core.sysctls.ip_default_ttl[0] as u8;
        let flow = flow_label(&self.core.key, &self.core.sysctls, &tuple, 0);
        let conn = Conn { tuple, port, ttl, flow, reuse_addr: reuse, indexed: true, ..Conn::zeroed() };
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
                TIMER_HELD => self.held_timer(key.id),
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
        let urgent = conn.tcb.take_urgent_news();
        let mut what = Ready::NONE;
        let mut has_room = false;
        // Less than SO_RCVLOWAT is not told of: tcp_data_ready. Urgent data is, and what else comes is news to who waits for it.
        let lowat = || socket.and_then(|s| self.sockets.get(s)).map_or(1, |s| s.options.rcvlowat);
        let enough = after.readable > before.readable && conn.tcb.is_readable(lowat());
        if enough || (after.eof && !before.eof) || urgent.arrived {
            what = what | Ready::IN | Ready::PRI;
        }
        if urgent.announced {
            what = what | Ready::URGENT;
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
                has_room = true;
                what = what | Ready::OUT;
            }
        }
        if conn.notes_wait && self.notes_acknowledged(id) {
            what = what | Ready::ERR;
        }
        if let Some(reply) = outcome.reply {
            self.queue_reply(&tuple, path, &reply);
        }
        self.settle_fast_open(now, id);
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
            self.signal_changes(socket, before, after, has_room, urgent);
        }
    }

    /// The connection is CLOSED: its socket keeps it, for what is unread and for the error; without one it is forgotten.
    pub(super) fn conn_ended(&mut self, id: ConnId) {
        self.notes_given_up(id);
        self.unindex_conn(id);
        let Some(conn) = self.conns.get_mut(id) else { return };
        if let Some(s) = conn.socket.and_then(|s| self.sockets.get_mut(s)) {
            if conn.tcb.error() != 0 {
                s.error = conn.tcb.error();
                conn.tcb.clear_error();
                if let Some(socket) = conn.socket {
                    self.signal(socket, Event::Error);
                }
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
}

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
