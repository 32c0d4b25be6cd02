//! TCP Fast Open (RFC 7413) on one connection, as Linux has it.
//!
//! | end | what differs from an ordinary handshake |
//! | --- | --- |
//! | active | the first SYN asks for a cookie, or carries one and data; what the SYN-ACK leaves out is sent again at once |
//! | passive | with a good cookie the connection exists from the SYN on: it is read and written before the handshake ends |
//!
//! Cookies are made, checked and kept by the stack. Until the SYN-ACK is acknowledged a passive connection is *early*: in
//! SYN-RECEIVED, or in FIN-WAIT-1 once its program has closed it. Its timer repeats the SYN-ACK and nothing else.

use super::{Env, Handshake, OpenParams, OutSegment, Outcome, Reply, Segment, State, Tcb, Timer, handshake};
use crate::values::{Counter, Instant};
use crate::wire::tcp::{Cookie, CookieForm, MAX_OPTION_BYTES};
use crate::wire::{Flags, Options, Timestamps};
use bytemuck::Zeroable;

/// Time-outs in a row after which something on the way seems to swallow what Fast Open sends.
const SUSPECT_TIMEOUTS: u8 = 2;

/// What became of the attempt to send data in the SYN (tcpi_fastopen_client_fail).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Zeroable)]
#[repr(u8)]
pub enum ClientFail {
    #[default]
    Unknown = 0,
    CookieUnavailable = 1,
    DataNotAcked = 2,
    SynRetransmitted = 3,
}

#[derive(Clone, Copy, Zeroable)]
#[repr(C)]
pub struct FastOpen {
    /// The option of the first SYN or SYN-ACK; none of those that are sent again.
    option: Cookie,
    /// In which form our SYN had it; Absent: it had none.
    asked: CookieForm,
    client_fail: ClientFail,
    /// Our SYN carried data.
    syn_data: bool,
    /// A SYN's data has arrived: ours at the peer, or the peer's here.
    syn_data_acked: bool,
    /// The SYN has not left (TCP_FASTOPEN_CONNECT: it leaves with the first write).
    deferred: bool,
    early: bool,
    /// A RST has ended it while it was early.
    early_reset: bool,
    /// Early, but accept(2) has given it to the program.
    accepted: bool,
    /// connect(2) has sent a SYN that asks for a cookie, because of TCP_FASTOPEN_CONNECT: Linux takes it for an attempt under way
    /// for as long as the connection lives (tp->fastopen_req).
    begun: bool,
    /// Something seems to swallow what Fast Open sends.
    blackhole: bool,
    /// Fast Open was paused before: what this connection receives shows that it may go on.
    probes_pause: bool,
    /// Bytes that the first SYN still has room for.
    room: u32,
}

/// What a SYN-ACK tells of the peer, for later connections (tcp_rcv_fastopen_synack).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lesson {
    pub mss: u32,
    /// The peer's cookie, if it sent one.
    pub cookie: Cookie,
    /// It has not answered to this form of the option.
    pub unanswered: CookieForm,
}

/// What the end of a connection tells of the path (tcp_fastopen_active_disable_ofo_check).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Nothing,
    Blackhole,
    /// Fast Open works again.
    Works,
}

impl Tcb {
    pub(super) fn hold_syn(&mut self) {
        self.fast.deferred = true;
    }

    pub(super) fn release_syn(&mut self) {
        self.fast.deferred = false;
    }

    /// Its SYN waits, for the first write to the socket.
    pub fn is_deferred(&self) -> bool {
        self.fast.deferred && self.state == State::SynSent
    }

    /// The first SYN has this option.
    pub fn set_syn_option(&mut self, option: Cookie) {
        self.fast.option = option;
        self.fast.asked = option.form;
    }

    pub fn begin_without_data(&mut self) {
        self.fast.begun = true;
    }

    pub fn has_begun_without_data(&self) -> bool {
        self.fast.begun
    }

    /// There was no cookie for the data.
    pub fn lacks_cookie(&mut self) {
        self.fast.client_fail = ClientFail::CookieUnavailable;
    }

    /// Fast Open was paused, and is tried again with this connection.
    pub fn probe_pause(&mut self) {
        self.fast.probes_pause = true;
    }

    /// The first SYN may carry data: as much as the path takes and, where it is known, the peer (`peer_mss`, else 0), all options
    /// taken off that anybody may add on the way (tcp_send_syn_data).
    pub fn allow_syn_data(&mut self, peer_mss: u32) {
        let peer = if peer_mss == 0 { u32::MAX } else { peer_mss };
        let mss = handshake::announced_mss(self.path_mss, &self.options).min(peer);
        self.fast.room = mss.saturating_sub(MAX_OPTION_BYTES as u32);
    }

    /// Data for the first SYN; the number of bytes that it has room for.
    pub fn write_syn(&mut self, env: &mut Env, data: &[u8]) -> usize {
        let n = data.len().min(self.fast.room as usize);
        let n = self.send.write(env.pool, &data[..n]);
        self.fast.room -= n as u32;
        n
    }

    /// Our SYN is too large for a link on the way: it goes without data (tcp_simple_retransmit).
    pub(super) fn shrink_syn(&mut self) {
        self.syn_due |= self.fast.syn_data;
    }

    /// The data for the SYN could not be had: it asks for a cookie, as if there were none.
    pub fn forgo_syn_data(&mut self) {
        if self.fast.option.is_full() {
            self.fast.option = Cookie::request(self.fast.option.form);
        }
    }

    /// The option and the number of payload bytes of the first SYN, which leaves now.
    pub(super) fn fill_syn(&mut self, env: &mut Env) -> (Cookie, usize) {
        let len = self.send.len();
        self.fast.room = 0;
        self.fast.syn_data = len > 0;
        if len > 0 {
            env.counters.inc(Counter::TCPOrigDataSent);
            self.totals.bytes_sent += len as u64;
            self.totals.data_segs_out += 1;
        }
        (core::mem::take(&mut self.fast.option), len)
    }

    /// The SYN-ACK has come: what of the SYN's data it acknowledges, and data of its own. What is not acknowledged leaves with
    /// the ACK.
    pub(super) fn syn_data_answered(&mut self, env: &mut Env, seg: &Segment) {
        if self.fast.asked == CookieForm::Absent && !self.fast.syn_data {
            return;
        }
        if self.fast.syn_data && self.snd.una != self.snd.nxt {
            self.fast.client_fail =
                if self.totals.retrans > 0 { ClientFail::SynRetransmitted } else { ClientFail::DataNotAcked };
            env.counters.inc(Counter::TCPFastOpenActiveFail);
            self.send_flight_again();
            return;
        }
        if self.fast.syn_data {
            self.fast.syn_data_acked = true;
            env.counters.inc(Counter::TCPFastOpenActive);
        }
        self.take_syn_text(env, seg);
    }

    /// The data of a SYN or SYN-ACK.
    fn take_syn_text(&mut self, env: &mut Env, seg: &Segment) {
        if seg.payload.is_empty() {
            return;
        }
        let room = self.offered() as usize;
        self.totals.data_segs_in += 1;
        self.take_in_order(env, &seg.payload[..seg.payload.len().min(room)]);
        self.fast.syn_data_acked = true;
    }

    /// What the SYN-ACK `seg` has taught, where the SYN had an option or data.
    pub fn lesson(&self, seg: &Segment) -> Option<Lesson> {
        if self.fast.asked == CookieForm::Absent && !self.fast.syn_data {
            return None;
        }
        let asked = self.fast.asked != CookieForm::Absent;
        // A cookie that was not asked for is ignored.
        let cookie = if asked { seg.hdr.options.fast_open } else { Cookie::NONE };
        let silent = cookie.is_absent() && !self.fast.syn_data && self.totals.retrans == 0;
        Some(Lesson {
            mss: seg.hdr.options.mss.map_or(handshake::DEFAULT_MSS, u32::from),
            cookie,
            unanswered: if silent { self.fast.asked } else { CookieForm::Absent },
        })
    }

    /// CLOSED to SYN-RECEIVED with a SYN whose cookie is good: its data can be read at once. The SYN-ACK, with `option`, leaves
    /// with the next output.
    pub fn open_early(
        &mut self,
        env: &mut Env,
        p: &OpenParams,
        h: &Handshake,
        option: Cookie,
        seg: &Segment,
    ) {
        self.start_passive(env, p, h, State::SynReceived);
        self.fast.early = true;
        self.fast.option = option;
        self.syn_due = true;
        self.take_syn_text(env, seg);
        self.rcv.wup = self.rcv.nxt;
        self.acks.now = false;
    }

    pub(super) fn end_early(&mut self) {
        self.fast.early = false;
    }

    pub fn is_early(&self) -> bool {
        self.fast.early
    }

    pub fn accepted(&mut self) {
        self.fast.accepted = true;
    }

    /// Nobody has seen the attempt succeed yet.
    pub(super) fn is_attempt(&self) -> bool {
        match self.state {
            State::SynSent => true,
            State::SynReceived => !(self.fast.early && self.fast.accepted),
            _ => false,
        }
    }

    /// It has ended by a RST before its SYN-ACK was acknowledged.
    pub fn was_reset_early(&self) -> bool {
        self.fast.early_reset
    }

    pub(super) fn output_synack(&mut self, env: &mut Env) -> Option<OutSegment> {
        if !self.fast.early || !core::mem::take(&mut self.syn_due) {
            return None;
        }
        let first = !self.timers.is_set(Timer::Retransmit) && self.rec.backoff == 0;
        if first {
            self.rtt.timing = true;
            self.rtt.timed_seq = self.snd.iss + 1;
            self.rtt.timed_at = env.now;
        } else {
            self.rtt.timing = false;
            self.count_retransmission(env, 1, 0);
            env.counters.inc(Counter::TCPSynRetrans);
        }
        self.arm_synack_timer(env);
        self.totals.segs_out += 1;
        let scaled = self.rcv.scale != 0 || self.snd.scale != 0;
        Some(OutSegment {
            seq: self.snd.iss,
            ack: self.rcv.nxt,
            flags: Flags::SYN | Flags::ACK,
            window: self.initial_window() as u16,
            options: Options {
                mss: Some(handshake::announced_mss(self.path_mss, &self.options) as u16),
                window_scale: scaled.then_some(self.rcv.scale),
                sack_permitted: self.sack_ok,
                timestamps: self
                    .ts
                    .enabled
                    .then(|| Timestamps { val: self.ts_now(env), ecr: self.ts.recent }),
                fast_open: core::mem::take(&mut self.fast.option),
                ..Options::default()
            },
            payload_offset: 0,
            payload_len: 0,
            gso_size: 0,
            urgent: 0,
        })
    }

    /// A time-out of its own, whatever else is in flight. A SYN that came again does not put it off.
    fn arm_synack_timer(&mut self, env: &Env) {
        if !self.timers.is_set(Timer::Retransmit) {
            self.timers.set(Timer::Retransmit, env.now.plus_us(self.rtt.backed_off_us(self.rec.backoff)));
        }
    }

    /// tcp_fastopen_synack_timer: once more than for a request socket.
    pub(super) fn on_synack_timeout(&mut self, env: &mut Env) {
        // The second time what was sent meanwhile counts as lost, too. It leaves again when the SYN-ACK is acknowledged.
        if self.rec.backoff == 1 && self.snd.una != self.snd.nxt {
            self.enter_loss(env);
        } else {
            env.counters.inc(Counter::TCPTimeouts);
        }
        let retries = match self.options.syncnt {
            0 => env.sysctls.tcp_synack_retries[0] as u32 + 1,
            n => n,
        };
        if u32::from(self.rec.backoff) >= retries {
            env.counters.add(Counter::AttemptFails, u64::from(self.state == State::SynReceived));
            env.counters.inc(Counter::TCPAbortOnTimeout);
            self.end(env, libc::ETIMEDOUT);
            return;
        }
        self.rec.backoff += 1;
        self.syn_due = true;
    }

    /// A segment for an early connection, before anything else looks at it: tcp_check_req, in its order.
    pub(super) fn check_early(&mut self, env: &mut Env, seg: &Segment) -> Option<Outcome> {
        if !self.fast.early {
            return None;
        }
        let f = seg.hdr.flags;
        let paws = self.is_timestamp_old(env.now, seg);
        if seg.hdr.seq == self.rcv.irs && f.has(Flags::SYN) && !f.any(Flags::ACK | Flags::RST) && !paws {
            // Our answer was lost.
            self.syn_due = !self.is_over_limit(env, Counter::TCPACKSkippedSynRecv);
            return Some(Outcome::DONE);
        }
        if paws || !seg.lies_in(self.rcv.nxt, self.rcv.wnd) {
            if paws {
                env.counters.inc(Counter::PAWSEstab);
            }
            let silent = f.has(Flags::RST)
                || ((seg.is_empty() || f.has(Flags::SYN))
                    && self.is_over_limit(env, Counter::TCPACKSkippedSynRecv));
            return Some(if silent { Outcome::DONE } else { Outcome::reply(Some(self.ack_reply(env))) });
        }
        let other_syn = f.has(Flags::SYN) && seg.hdr.seq != self.rcv.irs;
        if f.has(Flags::RST) && seg.hdr.seq != self.rcv.nxt {
            let skipped = self.is_over_limit(env, Counter::TCPACKSkippedChallenge);
            return Some(if skipped { Outcome::DONE } else { self.challenge(env) });
        }
        if f.has(Flags::RST) {
            // Linux counts it as a request and as a connection.
            env.counters.add(Counter::AttemptFails, 2);
            self.fast.early_reset = true;
            self.end(env, libc::ECONNRESET);
            return Some(Outcome::DONE);
        }
        if other_syn {
            // Perhaps from somebody who wants it gone: the sender is refused, the connection stays.
            env.counters.inc(Counter::AttemptFails);
            return Some(Outcome::reply(Reply::reset_for(seg)));
        }
        if !f.has(Flags::ACK) {
            env.counters.inc(Counter::DropState);
            return Some(Outcome::DONE);
        }
        None
    }

    /// The SYN-ACK is acknowledged (tcp_rcv_synrecv_state_fastopen): what was sent meanwhile gets the timer.
    pub(super) fn finish_early(&mut self, env: &mut Env, seg: &Segment) -> Option<Outcome> {
        if seg.hdr.ack.before(self.snd.una) || seg.hdr.ack.after(self.snd.nxt) {
            return Some(Outcome::reply(Reply::reset_for(seg)));
        }
        // Linux does not time it where the program has closed meanwhile.
        self.rtt.timing &= self.state == State::SynReceived;
        self.syn_acknowledged(env);
        self.end_early();
        self.syn_due = false;
        self.rec.stalled_since = Instant::ZERO;
        if self.snd.una != self.snd.nxt {
            self.arm_retransmit(env);
        }
        if self.state == State::SynReceived {
            self.state = if self.fin_queued { State::FinWait1 } else { State::Established };
        }
        self.snd.last_sent = env.now;
        self.rearm_keepalive(env);
        None
    }

    /// A retransmission time-out, before it is counted; `expired`: the last one (tcp_fastopen_active_detect_blackhole).
    pub(super) fn suspect_blackhole(&mut self, expired: bool) {
        let fast = self.fast.asked != CookieForm::Absent || self.fast.syn_data || self.fast.syn_data_acked;
        let timeouts = self.rec.backoff;
        self.fast.blackhole |=
            fast && (timeouts == SUSPECT_TIMEOUTS || (timeouts < SUSPECT_TIMEOUTS && expired));
    }

    /// A RST that is not where it should be, before any data: somebody on the way does not like Fast Open.
    pub(super) fn suspect_reset(&mut self) {
        self.fast.blackhole |= self.fast.asked != CookieForm::Absent
            && self.totals.data_segs_in == 0
            && self.state == State::Established;
    }

    /// Told once.
    pub fn take_blackhole(&mut self) -> bool {
        core::mem::take(&mut self.fast.blackhole)
    }

    /// The connection is over. Told once.
    pub fn take_verdict(&mut self) -> Verdict {
        if core::mem::take(&mut self.fast.asked) == CookieForm::Absent {
            return Verdict::Nothing;
        }
        match self.totals.data_segs_in {
            // A FIN and nothing of what should have come before it.
            0 if self.rcv.fin_pending => Verdict::Blackhole,
            1.. if self.fast.probes_pause => Verdict::Works,
            _ => Verdict::Nothing,
        }
    }

    /// tcpi_options' TCPI_OPT_SYN_DATA and tcpi_fastopen_client_fail.
    pub(super) fn fast_open_info(&self) -> (bool, u8) {
        (self.fast.syn_data_acked, self.fast.client_fail as u8)
    }
}
