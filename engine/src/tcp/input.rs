//! Segments in: RFC 9293 3.10.7, one check a function, in the RFC's order.
//!
//! A check returns `Some` when the segment's journey ends there.

use super::{Env, Outcome, Phase, Reply, Segment, State, Tcb, Timer, handshake};
use crate::fixed::ranges::Range;
use crate::values::{Counter, Instant, SeqNum};
use crate::wire::Flags;

/// PAWS does not hold after this long without news (RFC 7323 5.5).
const PAWS_IDLE_S: u32 = 24 * 24 * 60 * 60;
/// When a SYN goes again after a stale SYN-ACK: Linux's TCP_TIMEOUT_MIN, two ticks of its clock.
const SYN_AGAIN_MS: u64 = 8;
/// TIME-WAIT: Linux's TCP_TIMEWAIT_LEN. DEVIATES RFC 9293 MUST-13: not 2 MSL of the RFC's 2 minutes.
pub(super) const TIME_WAIT_MS: u64 = 60_000;

impl Tcb {
    /// Takes a segment. What it makes necessary to send comes out of [`Tcb::output`], and of the reply.
    pub fn input(&mut self, env: &mut Env, seg: &Segment) -> Outcome {
        self.totals.segs_in = self.totals.segs_in.wrapping_add(1);
        let outcome = match self.state {
            State::Closed | State::Listen => Outcome::ends(Reply::reset_for(seg)),
            State::SynSent => self.input_syn_sent(env, seg),
            State::TimeWait => self.input_time_wait(env, seg),
            _ => self.input_synchronized(env, seg),
        };
        if self.state == State::Closed { Outcome::ends(outcome.reply) } else { outcome }
    }

    /// RFC 9293 3.10.7.3.
    fn input_syn_sent(&mut self, env: &mut Env, seg: &Segment) -> Outcome {
        let h = seg.hdr;
        if h.flags.has(Flags::ACK) {
            // A stale SYN-ACK acknowledges what we never sent: the reset that RFC 9293 figure 8 shows.
            if h.ack.before_eq(self.snd.iss) || h.ack.after(self.snd.nxt) {
                // The SYN may have been taken for an old one meanwhile, and its answer lost: soon once more, as Linux does.
                if self.rec.backoff == 0 {
                    self.timers.set(Timer::Retransmit, env.now.plus_ms(SYN_AGAIN_MS));
                }
                return Outcome::reply(Reply::reset_for(seg));
            }
            if let Some(t) = h.options.timestamps
                && env.sysctls.tcp_timestamps[0] != 0
                && t.ecr != 0
                && (self.ts_now(env).wrapping_sub(t.ecr) as i32) < 0
            {
                env.counters.inc(Counter::PAWSActive);
                return Outcome::reply(Reply::reset_for(seg));
            }
        }
        if h.flags.has(Flags::RST) {
            if h.flags.has(Flags::ACK) {
                env.counters.inc(Counter::AttemptFails);
                self.end(env, libc::ECONNREFUSED);
            } else {
                env.counters.inc(Counter::DropState);
            }
            return Outcome::DONE;
        }
        if !h.flags.has(Flags::SYN) {
            env.counters.inc(Counter::DropState);
            return Outcome::DONE;
        }
        let agreed = handshake::from_syn(h, env.sysctls, &self.options);
        self.agree(env, &agreed);
        if agreed.our_scale == 0 && agreed.peer_scale == 0 && h.options.window_scale.is_none() {
            self.rcv.scale = 0;
        }
        if !h.flags.has(Flags::ACK) {
            return self.simultaneous_open();
        }
        self.snd.una = h.ack;
        self.snd.wl2 = h.ack;
        self.snd.wl1 = h.seq;
        self.syn_acknowledged(env);
        self.drop_acknowledged(env, h.ack);
        self.state = State::Established;
        self.established(env);
        self.syn_data_answered(env, seg);
        self.check_urgent(env, seg);
        self.acks.now = true;
        Outcome::ACCEPTED
    }

    /// RFC 9293 figure 7 (MUST-10): both sent a SYN; ours goes again, with an ACK.
    fn simultaneous_open(&mut self) -> Outcome {
        self.state = State::SynReceived;
        self.syn_due = true;
        Outcome::DONE
    }

    /// The handshake's round trip is over.
    pub(super) fn syn_acknowledged(&mut self, env: &mut Env) {
        if self.rtt.timing && self.rec.backoff == 0 {
            self.rtt.sample(env.now.us_since(self.rtt.timed_at) as u32);
        }
        self.rtt.timing = false;
        self.rec.backoff = 0;
        self.timers.cancel(Timer::Retransmit);
    }

    /// RFC 9293 3.10.7.4.
    fn input_synchronized(&mut self, env: &mut Env, seg: &Segment) -> Outcome {
        if let Some(outcome) = self
            .check_early(env, seg)
            .or_else(|| self.check_timestamp(env, seg))
            .or_else(|| self.check_sequence(env, seg))
            .or_else(|| self.check_reset(env, seg))
            .or_else(|| self.check_syn(env, seg))
            .or_else(|| self.check_ack_flag(env, seg))
            .or_else(|| self.check_ack_age(env, seg))
        {
            return outcome;
        }
        self.update_ts_recent(env, seg);
        self.rearm_keepalive(env);
        let ends_handshake = if self.is_early() {
            self.finish_early(env, seg)
        } else if self.state == State::SynReceived {
            self.finish_simultaneous_open(env, seg)
        } else {
            None
        };
        if let Some(outcome) = ends_handshake {
            return outcome;
        }
        if !self.process_ack(env, seg) {
            return self.challenge(env);
        }
        self.after_ack_transitions(env);
        if self.state == State::Closed {
            return Outcome::DONE;
        }
        if let Some(outcome) = self.check_data_after_close(env, seg) {
            return outcome;
        }
        self.check_urgent(env, seg);
        self.process_text(env, seg);
        self.process_fin(env, seg);
        self.schedule_ack(env, seg);
        Outcome::ACCEPTED
    }

    /// PAWS, RFC 7323 5.3. A segment without the option is let through, as Linux does.
    fn check_timestamp(&mut self, env: &mut Env, seg: &Segment) -> Option<Outcome> {
        if !self.is_timestamp_old(env.now, seg) || seg.hdr.flags.has(Flags::RST) {
            return None;
        }
        env.counters.inc(Counter::PAWSEstab);
        Some(self.answer_unacceptable(env, seg, Counter::TCPACKSkippedPAWS))
    }

    pub(super) fn is_timestamp_old(&self, now: Instant, seg: &Segment) -> bool {
        let Some(t) = seg.hdr.options.timestamps.filter(|_| self.ts.enabled) else { return false };
        let stale_recent = ((now.as_ms() / 1000) as u32).wrapping_sub(self.ts.recent_age_s) >= PAWS_IDLE_S;
        (t.val.wrapping_sub(self.ts.recent) as i32) < 0 && !stale_recent
    }

    /// RFC 9293 3.10.7.4 first check. The left edge is that of the last ACK (tcp_sequence), so that a retransmission of
    /// what was received since is seen as a duplicate, not as garbage.
    fn check_sequence(&mut self, env: &mut Env, seg: &Segment) -> Option<Outcome> {
        let right = self.rcv.nxt + self.offered();
        if !seg.end().before(self.rcv.wup) && !seg.hdr.seq.after(right) {
            return None;
        }
        env.counters.inc(Counter::DropWindow);
        if seg.hdr.flags.has(Flags::RST) {
            return Some(Outcome::DONE);
        }
        if !seg.payload.is_empty() && seg.end().before_eq(self.rcv.nxt) {
            env.counters.inc(Counter::DelayedACKLost);
            self.report_duplicate(env, seg.hdr.seq, seg.end());
            self.acks.now = true;
            return Some(Outcome::DONE);
        }
        Some(self.answer_unacceptable(env, seg, Counter::TCPACKSkippedSeq))
    }

    /// The ACK that an unacceptable segment gets; those without data or FIN at most one in tcp_invalid_ratelimit, so that
    /// two confused ends do not answer each other for ever (tcp_oow_rate_limited).
    fn answer_unacceptable(&mut self, env: &mut Env, seg: &Segment, skipped: Counter) -> Outcome {
        if (seg.is_empty() || seg.hdr.flags.has(Flags::SYN)) && self.is_over_limit(env, skipped) {
            return Outcome::DONE;
        }
        Outcome::reply(Some(self.ack_reply(env)))
    }

    /// Within tcp_invalid_ratelimit of the last one.
    pub(super) fn is_over_limit(&mut self, env: &mut Env, skipped: Counter) -> bool {
        let limit_us = env.sysctls.tcp_invalid_ratelimit[0] as u64 * 1000;
        if self.acks.last_oow.is_set() && env.now.us_since(self.acks.last_oow) < limit_us {
            env.counters.inc(skipped);
            return true;
        }
        self.acks.last_oow = env.now;
        false
    }

    /// RFC 5961 3.2: exactly at RCV.NXT it counts, elsewhere in the window it is challenged.
    fn check_reset(&mut self, env: &mut Env, seg: &Segment) -> Option<Outcome> {
        if !seg.hdr.flags.has(Flags::RST) {
            return None;
        }
        if seg.hdr.seq != self.rcv.nxt {
            self.suspect_reset();
            return Some(self.challenge(env));
        }
        let errno = match self.state {
            State::SynReceived => {
                env.counters.inc(Counter::AttemptFails);
                libc::ECONNREFUSED
            }
            State::CloseWait => {
                env.counters.inc(Counter::EstabResets);
                libc::EPIPE
            }
            State::Established => {
                env.counters.inc(Counter::EstabResets);
                libc::ECONNRESET
            }
            _ => libc::ECONNRESET,
        };
        self.end(env, errno);
        Some(Outcome::DONE)
    }

    /// RFC 5961 4.2.
    fn check_syn(&mut self, env: &mut Env, seg: &Segment) -> Option<Outcome> {
        if !seg.hdr.flags.has(Flags::SYN) {
            return None;
        }
        // Simultaneous open: the peer's SYN-ACK is what we wait for.
        if self.state == State::SynReceived
            && !self.is_early()
            && seg.hdr.flags.has(Flags::ACK)
            && seg.hdr.seq == self.rcv.irs
        {
            return None;
        }
        env.counters.inc(Counter::TCPSYNChallenge);
        Some(self.challenge(env))
    }

    fn check_ack_flag(&mut self, env: &mut Env, seg: &Segment) -> Option<Outcome> {
        if seg.hdr.flags.has(Flags::ACK) {
            return None;
        }
        env.counters.inc(Counter::DropState);
        Some(Outcome::DONE)
    }

    /// RFC 5961 5.2: an ACK older than what can still be under way is a guess. It would bring data in with it.
    fn check_ack_age(&mut self, env: &mut Env, seg: &Segment) -> Option<Outcome> {
        // As Linux: no older than all that was ever acknowledged.
        let oldest = u64::from(self.snd.max_wnd).min(self.totals.bytes_acked + 1) as u32;
        let (ack, una) = (seg.hdr.ack, self.snd.una);
        if self.state == State::SynReceived || !ack.before(una) || una - ack <= oldest {
            return None;
        }
        env.counters.inc(Counter::DropAck);
        Some(self.challenge(env))
    }

    /// A challenge ACK, within tcp_challenge_ack_limit a second.
    pub(super) fn challenge(&mut self, env: &mut Env) -> Outcome {
        let second = (env.now.as_ms() / 1000) as u32;
        if self.acks.challenge_second != second {
            self.acks.challenge_second = second;
            self.acks.challenges = 0;
        }
        if i64::from(self.acks.challenges) >= env.sysctls.tcp_challenge_ack_limit[0] {
            env.counters.inc(Counter::TCPACKSkippedChallenge);
            return Outcome::DONE;
        }
        self.acks.challenges += 1;
        env.counters.inc(Counter::TCPChallengeACK);
        Outcome::reply(Some(self.ack_reply(env)))
    }

    /// RFC 7323 4.3 (3): only what covers the last ACK sets TS.Recent.
    fn update_ts_recent(&mut self, env: &Env, seg: &Segment) {
        if let Some(t) = seg.hdr.options.timestamps.filter(|_| self.ts.enabled)
            && seg.hdr.seq.before_eq(self.rcv.wup)
            && (t.val.wrapping_sub(self.ts.recent) as i32) >= 0
        {
            self.ts.recent = t.val;
            self.ts.recent_age_s = (env.now.as_ms() / 1000) as u32;
        }
    }

    fn finish_simultaneous_open(&mut self, env: &mut Env, seg: &Segment) -> Option<Outcome> {
        if !(seg.hdr.ack.after(self.snd.una) && seg.hdr.ack.before_eq(self.snd.nxt)) {
            return Some(Outcome::reply(Reply::reset_for(seg)));
        }
        self.snd.una = self.snd.iss + 1;
        self.snd.wl1 = seg.hdr.seq;
        self.snd.wl2 = seg.hdr.ack;
        self.syn_acknowledged(env);
        self.syn_due = false;
        // The peer's SYN-ACK has a SYN that we have already: a duplicate, and those are answered.
        self.acks.now |= seg.hdr.flags.has(Flags::SYN);
        self.state = if self.fin_queued { State::FinWait1 } else { State::Established };
        self.established(env);
        if self.snd.una != self.snd.nxt {
            // Data was in our SYN, and the peer's has crossed it.
            self.send_flight_again();
        }
        None
    }

    /// Our FIN is acknowledged: the next state (RFC 9293 3.10.7.4, fifth check).
    fn after_ack_transitions(&mut self, env: &mut Env) {
        if !self.fin_queued || self.snd.una.before_eq(self.fin_seq()) {
            return;
        }
        match self.state {
            State::FinWait1 => {
                self.state = State::FinWait2;
                self.start_fin_wait2(env);
            }
            State::Closing => self.enter_time_wait(env),
            State::LastAck => self.end(env, 0),
            _ => {}
        }
    }

    /// Data for a program that has closed, or shut down reading and writing: it would be lost, so the peer is told
    /// (RFC 9293 3.6.1, tcp_rcv_state_process).
    fn check_data_after_close(&mut self, env: &mut Env, seg: &Segment) -> Option<Outcome> {
        let gone = self.orphan || self.recv_shutdown;
        if !gone || !matches!(self.state, State::FinWait1 | State::FinWait2) {
            return None;
        }
        let data_end = seg.hdr.seq + seg.payload.len() as u32;
        if seg.payload.is_empty() || data_end.before_eq(self.rcv.nxt) {
            return None;
        }
        env.counters.inc(Counter::TCPAbortOnData);
        let reply = Reply::reset_for(seg);
        self.end(env, libc::ECONNRESET);
        Some(Outcome::ends(reply))
    }

    /// The segment text: in order to the stream, out of order to where it will belong.
    fn process_text(&mut self, env: &mut Env, seg: &Segment) {
        if seg.payload.is_empty() || !self.state.may_receive() || self.rcv.fin {
            return;
        }
        self.totals.data_segs_in = self.totals.data_segs_in.wrapping_add(1);
        self.learn_segment_size(seg.payload.len());
        let (start, data) = self.trim(env, seg);
        if data.is_empty() {
            self.acks.now = true;
            return;
        }
        if start == self.rcv.nxt {
            self.take_in_order(env, data);
        } else {
            self.take_out_of_order(env, start, data);
        }
    }

    /// Cuts off what was received before and what lies beyond the window.
    fn trim<'a>(&mut self, env: &mut Env, seg: &Segment<'a>) -> (SeqNum, &'a [u8]) {
        let mut start = seg.hdr.seq;
        let mut data = seg.payload;
        if start.before(self.rcv.nxt) {
            let old = (self.rcv.nxt - start) as usize;
            let end = (start + data.len() as u32).earliest(self.rcv.nxt);
            if old >= data.len() {
                env.counters.inc(Counter::DelayedACKLost);
            }
            self.report_duplicate(env, start, end);
            data = data.get(old..).unwrap_or_default();
            start = self.rcv.nxt;
        }
        let right = self.rcv.nxt + self.offered();
        let room = if right.after(start) { (right - start) as usize } else { 0 };
        if data.len() > room {
            if room == 0 {
                env.counters.inc(Counter::TCPZeroWindowDrop);
            }
            data = &data[..room];
        }
        (start, data)
    }

    pub(super) fn take_in_order(&mut self, env: &mut Env, data: &[u8]) {
        let stored = self.recv.write(env.pool, data);
        if stored < data.len() {
            env.counters.inc(Counter::TCPRcvQDrop);
            self.acks.now = true;
        }
        self.rcv.nxt += stored as u32;
        self.totals.bytes_received += stored as u64;
        if !self.reorder.is_empty() {
            self.acks.now = true;
            self.join_out_of_order(env);
        }
    }

    /// A gap was filled: what waited behind it is in order now.
    fn join_out_of_order(&mut self, env: &mut Env) {
        while let Some(range) = self.reorder.first().filter(|r| r.start.before_eq(self.rcv.nxt)) {
            if range.end.after(self.rcv.nxt) {
                let new = range.end - self.rcv.nxt;
                self.recv.extend(new as usize);
                self.rcv.nxt = range.end;
                self.totals.bytes_received += u64::from(new);
                env.counters.inc(Counter::TCPOFOMerge);
            }
            self.reorder.remove_before(self.rcv.nxt);
        }
        self.unreported.remove_before(self.rcv.nxt);
    }

    fn take_out_of_order(&mut self, env: &mut Env, start: SeqNum, data: &[u8]) {
        self.acks.now = true;
        let range = Range::new(start, start + data.len() as u32);
        if self.reorder.covering(range).is_some() {
            env.counters.inc(Counter::TCPDSACKOfoSent);
            self.set_dsack(env, range.start, range.end);
            return;
        }
        let offset = self.recv.len() + (start - self.rcv.nxt) as usize;
        let stored = self.recv.write_at(env.pool, offset, data);
        if stored == 0 {
            env.counters.inc(Counter::TCPOFODrop);
            return;
        }
        let range = Range::new(start, start + stored as u32);
        if self.reorder.insert(range).is_err() {
            env.counters.inc(Counter::TCPOFODrop);
            return;
        }
        self.last_ooo = start;
        // Full: the lowest ranges are named in any case.
        let _ = self.unreported.insert(range);
        env.counters.inc(Counter::TCPOFOQueue);
    }

    fn report_duplicate(&mut self, env: &mut Env, start: SeqNum, end: SeqNum) {
        env.counters.inc(Counter::TCPDSACKOldSent);
        self.set_dsack(env, start, end);
    }

    /// RFC 2883: the next ACK names the duplicate in its first block.
    fn set_dsack(&mut self, env: &Env, start: SeqNum, end: SeqNum) {
        if self.sack_ok && env.sysctls.tcp_dsack[0] != 0 && start.before(end) {
            self.acks.dsack = true;
            self.acks.dsack_start = start;
            self.acks.dsack_end = end;
        }
    }

    /// RFC 9293 3.10.7.4, eighth check.
    fn process_fin(&mut self, env: &mut Env, seg: &Segment) {
        if seg.hdr.flags.has(Flags::FIN) && self.rcv.fin && seg.end().before_eq(self.rcv.nxt) {
            // Our ACK was lost, or is late.
            env.counters.inc(Counter::DelayedACKLost);
            self.report_duplicate(env, seg.hdr.seq, seg.end());
            self.acks.now = true;
        }
        if seg.hdr.flags.has(Flags::FIN) && !self.rcv.fin {
            let at = seg.hdr.seq + seg.payload.len() as u32;
            if at.after_eq(self.rcv.nxt) && at.before_eq(self.rcv.nxt + self.offered()) {
                self.rcv.fin_pending = true;
                self.rcv.fin_at = at;
                self.acks.now = true;
            }
        }
        if !self.rcv.fin_pending || self.rcv.fin_at != self.rcv.nxt {
            return;
        }
        self.rcv.fin_pending = false;
        self.rcv.fin = true;
        // Something may have come for after the FIN: it is dropped (tcp_fin).
        self.discard_out_of_order(env);
        self.rcv.nxt += 1;
        self.acks.now = true;
        match self.state {
            State::Established | State::SynReceived => self.state = State::CloseWait,
            State::FinWait1 => self.state = State::Closing,
            State::FinWait2 => self.enter_time_wait(env),
            _ => {}
        }
    }

    pub(super) fn enter_time_wait(&mut self, env: &mut Env) {
        self.state = State::TimeWait;
        self.timers.clear();
        self.timers.set(Timer::Final, env.now.plus_ms(TIME_WAIT_MS));
        self.rec.phase = Phase::Open;
        env.counters.inc(Counter::TW);
    }

    /// RFC 9293 3.10.7.4 for TIME-WAIT, as tcp_timewait_state_process. A SYN that may open a new connection is the
    /// listener's business: see [`Tcb::time_wait_yields_to`].
    fn input_time_wait(&mut self, env: &mut Env, seg: &Segment) -> Outcome {
        let f = seg.hdr.flags;
        let paws = self.is_timestamp_old(env.now, seg);
        if !paws && seg.hdr.seq == self.rcv.nxt && (seg.is_empty() || f.has(Flags::RST)) {
            // The end of an orderly close, not a question; or an assassination (RFC 1337).
            if !f.has(Flags::RST) {
                self.restart_time_wait(env);
            } else if env.sysctls.tcp_rfc1337[0] == 0 {
                self.end(env, 0);
            }
            if let Some(t) = seg.hdr.options.timestamps.filter(|_| self.ts.enabled) {
                self.ts.recent = t.val;
                self.ts.recent_age_s = (env.now.as_ms() / 1000) as u32;
            }
            return Outcome::DONE;
        }
        if paws {
            env.counters.inc(Counter::PAWSEstab);
        }
        if f.has(Flags::RST) {
            return Outcome::DONE;
        }
        // A SYN may be an old duplicate, or a new one whose number happens to be lower: it does not prolong the wait.
        if paws || f.has(Flags::ACK) {
            self.restart_time_wait(env);
        }
        self.answer_unacceptable(env, seg, Counter::TCPACKSkippedTimeWait)
    }

    fn restart_time_wait(&mut self, env: &Env) {
        self.timers.set(Timer::Final, env.now.plus_ms(TIME_WAIT_MS));
    }

    /// Whether a SYN may replace this connection in TIME-WAIT: it is later than all that came before, by sequence number or
    /// by timestamp (RFC 9293 MAY-2, RFC 6191).
    pub fn time_wait_yields_to(&self, now: Instant, seg: &Segment) -> bool {
        let f = seg.hdr.flags;
        if self.state != State::TimeWait
            || !f.has(Flags::SYN)
            || f.any(Flags::RST | Flags::ACK)
            || self.is_timestamp_old(now, seg)
        {
            return false;
        }
        let later_ts = seg
            .hdr
            .options
            .timestamps
            .is_some_and(|t| self.ts.enabled && (t.val.wrapping_sub(self.ts.recent) as i32) > 0);
        seg.hdr.seq.after(self.rcv.nxt) || later_ts
    }

    /// TIME-WAIT is over before its time. What was not read yet can still be.
    pub fn end_time_wait(&mut self, env: &mut Env) {
        self.end(env, 0);
    }

    /// The sequence number from which a connection that takes over this one's names may start (tcp_tw_reuse).
    pub fn next_iss(&self) -> SeqNum {
        self.snd.nxt + 65_535 + 2
    }

    /// The peer's segment size, from what it sends: frames that were merged on the way count as full ones.
    fn learn_segment_size(&mut self, len: usize) {
        let len = (len as u32).min(self.rcv.adv_mss);
        if len >= self.rcv.mss {
            self.rcv.mss = len;
        } else if len > 536 && len < self.rcv.mss / 2 {
            self.rcv.mss = self.rcv.mss / 2 + len / 2;
        }
    }

    /// When the ACK of what was received leaves: RFC 9293 3.8.6.3, RFC 5681 4.2, and Linux's quick and delayed modes.
    fn schedule_ack(&mut self, env: &mut Env, seg: &Segment) {
        if seg.payload.is_empty() || self.acks.now {
            self.note_arrival(env, seg);
            return;
        }
        let unacked = self.rcv.nxt - self.rcv.wup;
        if unacked == 0 {
            return;
        }
        let quick = self.acks.quick_by_user || (self.acks.quick > 0 && !self.acks.pingpong);
        if unacked > self.rcv.mss || quick {
            self.acks.now = true;
            self.acks.quick = self.acks.quick.saturating_sub(1);
        } else if !self.timers.is_set(Timer::DelayedAck) {
            self.timers.set(Timer::DelayedAck, env.now.plus_ms(super::timers::DELAYED_ACK_MS));
        }
        self.note_arrival(env, seg);
    }

    fn note_arrival(&mut self, env: &Env, seg: &Segment) {
        if !seg.payload.is_empty() {
            self.acks.last_received = env.now;
        }
    }
}
