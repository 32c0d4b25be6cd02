//! Connections in TIME-WAIT: how many there may be, and who may take over their names.
//!
//! They are entries of the table like any other, in the order of their coming; the control block answers their segments
//! (RFC 9293 3.10.7.4, tcp_timewait_state_process).

use super::connections::env;
use super::{ConnId, Stack};
use crate::tcp::{Env, Segment, State};
use crate::values::{Counter, FourTuple, Instant, SeqNum};

/// A TIME-WAIT may be reused by connect after this long (tcp_tw_reuse_delay).
const REUSE_AFTER_US: u64 = 1_000_000;

/// Whether a connection between two endpoints may be opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Vacancy {
    Free,
    Taken,
    /// A TIME-WAIT has to go first. The new connection starts beyond its last sequence number.
    Reusable(ConnId, SeqNum),
}

impl Stack {
    /// A connection has come to TIME-WAIT. Beyond tcp_max_tw_buckets it ends at once instead.
    pub(super) fn time_wait_began(&mut self, now: Instant, id: ConnId) {
        let core = &mut *self.core;
        core.time_waits.push_back(&mut self.conns, id);
        if core.time_waits.len() as i64 > core.sysctls.tcp_max_tw_buckets[0] {
            core.counters.inc(Counter::TCPTimeWaitOverflow);
            self.end_time_wait(now, id);
        }
    }

    /// The names are free from here on. A socket that still holds the connection keeps what it has not read.
    pub(super) fn end_time_wait(&mut self, now: Instant, id: ConnId) {
        let core = &mut *self.core;
        let Some(conn) = self.conns.get_mut(id) else { return };
        let mut env = env!(self, core, now);
        conn.tcb.end_time_wait(&mut env);
        self.conn_ended(id);
    }

    /// The table of connections is full: the oldest TIME-WAIT makes room. Where a socket keeps the entry, the next one has to.
    pub(super) fn evict_time_wait(&mut self) {
        while let Some(id) = self.core.time_waits.front() {
            self.core.counters.inc(Counter::TWKilled);
            let frees = self.conns[id].socket.is_none();
            self.end_time_wait(Instant::ZERO, id);
            if frees {
                break;
            }
        }
    }

    /// A SYN that a connection in TIME-WAIT makes way for: the sequence number to answer with. The names are free then, for
    /// whoever has the port's guard.
    pub(super) fn yield_to_syn(
        &mut self,
        now: Instant,
        id: ConnId,
        tuple: &FourTuple,
        seg: &Segment,
    ) -> Option<SeqNum> {
        let tcb = &self.conns[id].tcb;
        let listens = self.find_listener(tuple).is_some() || self.is_given(self.conns[id].port);
        if !tcb.time_wait_yields_to(now, seg) || !listens {
            return None;
        }
        let iss = tcb.next_iss();
        self.end_time_wait(now, id);
        Some(iss)
    }

    /// Whether connect(2) may use these names: tcp_twsk_unique. Timestamps make an old connection's stragglers harmless.
    pub(super) fn vacancy(&self, now: Instant, tuple: &FourTuple) -> Vacancy {
        let Some(id) = self.find_conn(tuple) else { return Vacancy::Free };
        let tcb = &self.conns[id].tcb;
        let allowed = match self.core.sysctls.tcp_tw_reuse[0] {
            0 => false,
            1 => true,
            _ => tuple.local.addr.is_loopback() || tuple.remote.addr.is_loopback(),
        };
        let reusable = tcb.state() == State::TimeWait
            && tcb.ts.enabled
            && allowed
            && now.us_since(tcb.time_wait_since()) > REUSE_AFTER_US;
        if reusable { Vacancy::Reusable(id, tcb.next_iss()) } else { Vacancy::Taken }
    }
}
