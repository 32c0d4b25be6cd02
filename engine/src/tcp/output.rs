//! The next segment that may leave: one function, [`Tcb::output`], asked until it says `None`.

use super::scoreboard::Micros;
use super::timers::CORK_MS;
use super::{Env, Phase, State, Tcb, Timer, handshake};
use crate::fixed::ranges::Range;
use crate::values::{Counter, SeqNum};
use crate::wire::{Flags, Options, SackBlocks, Timestamps};

/// What the path allows.
#[derive(Clone, Copy, Debug)]
pub struct TxLimits {
    /// Payload of one (large) segment; at least one MSS is always allowed.
    pub max_bytes: u32,
}

/// A segment to be sent. Its payload lies in the send buffer: see [`Tcb::payload`].
#[derive(Clone, Copy, Debug)]
pub struct OutSegment {
    pub seq: SeqNum,
    pub ack: SeqNum,
    pub flags: Flags,
    pub window: u16,
    pub options: Options,
    pub payload_offset: usize,
    pub payload_len: usize,
    /// Payload of each segment that the device makes of it; 0: it is one.
    pub gso_size: u16,
    /// The urgent pointer, with URG.
    pub urgent: u16,
}

impl Tcb {
    /// Whether [`Tcb::output`] may have something. Cheap, and true once too often rather than once too rarely.
    pub fn wants_output(&self) -> bool {
        self.acks.now
            || self.syn_due
            || self.probe_due
            || self.rec.tlp_now
            || self.rec.phase != Phase::Open
            || self.unsent() > 0
            || (self.fin_queued && self.snd.nxt.before_eq(self.fin_seq()))
    }

    /// The bytes of a segment that `output` gave.
    pub fn payload<'a>(
        &'a self,
        pool: &'a crate::fixed::Pool,
        seg: &OutSegment,
    ) -> impl Iterator<Item = &'a [u8]> {
        self.send.slices(pool, seg.payload_offset, seg.payload_len)
    }

    /// The next segment that may leave now.
    pub fn output(&mut self, env: &mut Env, limits: &TxLimits) -> Option<OutSegment> {
        match self.state {
            State::Closed | State::Listen => return None,
            State::SynSent => return self.output_syn(env),
            State::SynReceived if !self.is_early() => return self.output_syn(env),
            _ => {}
        }
        let seg = self
            .output_synack(env)
            .or_else(|| self.output_probe(env))
            .or_else(|| self.output_again(env, limits))
            .or_else(|| self.output_new(env, limits))
            .or_else(|| self.output_ack(env));
        if seg.is_none() {
            self.arm_persist(env);
        }
        seg
    }

    /// Bytes written by the user and never sent.
    pub(super) fn unsent(&self) -> u32 {
        let end = self.snd.base + self.send.len() as u32;
        if self.snd.nxt.before(end) { end - self.snd.nxt } else { 0 }
    }

    /// Where our FIN is, or will be.
    pub(super) fn fin_seq(&self) -> SeqNum {
        self.snd.base + self.send.len() as u32
    }

    /// shutdown(2) before the handshake has ended waits for its end.
    fn fin_may_leave(&self) -> bool {
        self.fin_queued && self.state != State::SynReceived
    }

    fn output_syn(&mut self, env: &mut Env) -> Option<OutSegment> {
        if !core::mem::take(&mut self.syn_due) {
            return None;
        }
        let answer = self.state == State::SynReceived;
        let (mut fast_open, mut payload_len) = Default::default();
        if self.snd.nxt == self.snd.iss {
            (fast_open, payload_len) = self.fill_syn(env);
            self.snd.nxt = self.snd.iss + 1 + payload_len as u32;
            self.rtt.timing = true;
            self.rtt.timed_at = env.now;
            self.rtt.timed_seq = self.snd.nxt;
            self.snd.last_sent = env.now;
        } else {
            self.rtt.timing = false;
            self.count_retransmission(env, 1, 0);
            env.counters.inc(Counter::TCPSynRetrans);
        }
        let s = env.sysctls;
        let options = Options {
            mss: Some(handshake::announced_mss(self.path_mss, &self.options) as u16),
            // Also where both ends sent a SYN and the other's had none of these: it is the first SYN again, with an ACK.
            window_scale: (s.tcp_window_scaling[0] != 0).then_some(self.rcv.scale),
            sack_permitted: s.tcp_sack[0] != 0,
            timestamps: (s.tcp_timestamps[0] != 0)
                .then(|| Timestamps { val: self.ts_now(env), ecr: if answer { self.ts.recent } else { 0 } }),
            sack: SackBlocks::default(),
            fast_open,
        };
        self.arm_syn_timer(env);
        self.totals.segs_out += 1;
        let window = self.initial_window();
        if answer {
            self.rcv.wup = self.rcv.nxt;
        }
        self.rcv.wnd = window;
        Some(OutSegment {
            seq: self.snd.iss,
            ack: if answer { self.rcv.nxt } else { SeqNum(0) },
            flags: if answer { Flags::SYN | Flags::ACK } else { Flags::SYN },
            window: window as u16,
            options,
            payload_offset: 0,
            payload_len,
            gso_size: 0,
            urgent: 0,
        })
    }

    /// Keepalive and zero-window probes: an old sequence number that the peer must answer (RFC 9293 3.8.4, 3.8.6.1).
    fn output_probe(&mut self, env: &mut Env) -> Option<OutSegment> {
        if !self.probe_due {
            return None;
        }
        let unsent = self.unsent();
        let room = self.window_room().min(self.snd.mss);
        let fits = unsent > 0 && room > 0 && self.snd.una == self.snd.nxt;
        // Urgent data is told of first, by a probe of its own.
        if !fits && self.may_probe_urgently() && !core::mem::replace(&mut self.rec.urgent_probed, true) {
            env.counters.inc(Counter::TCPWinProbe);
            return Some(self.segment(env, self.snd.una, Flags::ACK, 0, 0, 0));
        }
        self.probe_due = false;
        self.rec.urgent_probed = false;
        if fits {
            // The window takes a part: better than a bare probe.
            let len = unsent.min(room);
            return Some(self.send_data(env, len, 0));
        }
        Some(self.segment(env, self.snd.una - 1, Flags::ACK, 0, 0, 0))
    }

    /// What is lost, or the tail once more as a probe.
    fn output_again(&mut self, env: &mut Env, limits: &TxLimits) -> Option<OutSegment> {
        if self.rec.phase == Phase::Open {
            return self.output_loss_probe(env);
        }
        if self.is_early() {
            return None;
        }
        let lost = self.next_lost()?;
        let pipe = self.pipe();
        let room = if self.cc.cwnd > pipe {
            self.cc.cwnd - pipe
        } else if self.rec.prr_out == 0 {
            self.snd.mss
        } else {
            return None;
        };
        // Whole segments, as far as the window before the loss went (SHLD-16 lets it beyond the present one).
        let most = room.min(self.largest(limits)).max(self.snd.mss) / self.snd.mss * self.snd.mss;
        let len = lost.len().min(most);
        let counter = match self.rec.phase {
            Phase::Loss => Counter::TCPSlowStartRetrans,
            _ => Counter::TCPFastRetrans,
        };
        env.counters.add(counter, u64::from(len.div_ceil(self.snd.mss)));
        self.rec.prr_out = self.rec.prr_out.saturating_add(len);
        self.rec.undo_bytes = self.rec.undo_bytes.saturating_add(len);
        Some(self.send_again(env, lost.start, len))
    }

    /// RFC 8985 7.3: new data if there is some, else the last segment.
    fn output_loss_probe(&mut self, env: &mut Env) -> Option<OutSegment> {
        if !core::mem::take(&mut self.rec.tlp_now) || self.snd.una == self.snd.nxt {
            return None;
        }
        let unsent = self.unsent();
        self.rec.tlp_again = unsent == 0 || self.window_room() < self.snd.mss.min(unsent);
        let probe = if self.rec.tlp_again {
            let len = (self.snd.nxt - self.snd.una).min(self.snd.mss);
            self.send_again(env, self.snd.nxt - len, len)
        } else {
            self.send_data(env, unsent.min(self.snd.mss), 0)
        };
        self.rec.tlp_end = self.snd.nxt;
        Some(probe)
    }

    /// Sequence numbers `start..start + len` once more; a FIN among them is a flag, not a byte.
    fn send_again(&mut self, env: &mut Env, start: SeqNum, len: u32) -> OutSegment {
        let mut data = len;
        let mut flags = Flags::ACK;
        if self.fin_queued && (start + len).after(self.fin_seq()) {
            data -= 1;
            flags = flags | Flags::FIN;
        }
        if start + data == self.fin_seq() {
            flags = flags | Flags::PSH;
        }
        if self.rec.retrans_stamp == 0 {
            self.rec.retrans_stamp = self.ts_now(env).max(1);
        }
        self.board.sent_again(Range::new(start, start + len), Micros::of(env.now));
        // Karn: an ACK of this range no longer tells a round trip.
        self.rtt.timing = false;
        self.count_retransmission(env, len.div_ceil(self.snd.mss), data);
        if !self.timers.is_set(Timer::Retransmit) {
            self.arm_retransmit(env);
        }
        self.segment(env, start, flags, (start - self.snd.base) as usize, data as usize, self.gso(data))
    }

    pub(super) fn count_retransmission(&mut self, env: &mut Env, segments: u32, bytes: u32) {
        env.counters.add(Counter::RetransSegs, u64::from(segments));
        self.totals.retrans = self.totals.retrans.wrapping_add(segments);
        self.totals.bytes_retrans += u64::from(bytes);
    }

    fn gso(&self, len: u32) -> u16 {
        if len > self.snd.mss { self.snd.mss.min(0xffff) as u16 } else { 0 }
    }

    /// Bytes of the largest segment that may leave now. The urgent pointer of each is its own, so a large one cannot be cut behind
    /// our back.
    fn largest(&self, limits: &TxLimits) -> u32 {
        if self.snd.urgent { self.snd.mss } else { limits.max_bytes.max(self.snd.mss) }
    }

    /// What the peer's window still takes.
    fn window_room(&self) -> u32 {
        let edge = self.snd.una + self.snd.wnd;
        if edge.after(self.snd.nxt) { edge - self.snd.nxt } else { 0 }
    }

    fn output_new(&mut self, env: &mut Env, limits: &TxLimits) -> Option<OutSegment> {
        let unsent = self.unsent();
        if unsent == 0 {
            return self.output_fin(env);
        }
        self.restart_after_idle(env);
        let pipe = self.pipe();
        let cwnd_room = self.cc.cwnd.saturating_sub(pipe);
        let window_room = self.window_room();
        // It holds until the next attempt to send, for all the ACKs that arrive before it.
        self.cwnd_limited = cwnd_room < unsent.min(window_room);
        let room = window_room.min(cwnd_room).min(self.largest(limits));
        let len = self.send_amount(unsent, room, pipe)?;
        let gso = self.gso(len);
        Some(self.send_data(env, len, gso))
    }

    /// How much of `unsent` leaves now: whole segments as far as there is room; a partial one by Nagle's rule as Minshall
    /// changed it (RFC 9293 SHLD-7, MUST-17) and the sender's silly-window avoidance (MUST-38).
    fn send_amount(&self, unsent: u32, room: u32, pipe: u32) -> Option<u32> {
        let mss = self.snd.mss;
        let whole = unsent.min(room) / mss * mss;
        if unsent <= room {
            if unsent.is_multiple_of(mss) || self.may_send_partial() {
                return Some(unsent);
            }
            return (whole > 0).then_some(whole);
        }
        if whole > 0 {
            return Some(whole);
        }
        // Less than a segment fits. Into half the largest window that the peer ever had, it goes.
        (room > 0 && pipe == 0 && room >= self.snd.max_wnd / 2).then_some(room)
    }

    fn may_send_partial(&self) -> bool {
        // What is urgent waits for nothing (tcp_nagle_test).
        if self.fin_queued || self.snd.urgent {
            return true;
        }
        if self.options.cork || self.more_coming {
            return false;
        }
        self.options.nodelay || !self.snd.small_end.after(self.snd.una)
    }

    fn send_data(&mut self, env: &mut Env, len: u32, gso_size: u16) -> OutSegment {
        let seq = self.snd.nxt;
        let mut flags = Flags::ACK;
        if len == self.unsent() {
            // RFC 9293 MUST-61.
            flags = flags | Flags::PSH;
            if self.fin_may_leave() {
                flags = flags | Flags::FIN;
            }
        }
        if !len.is_multiple_of(self.snd.mss) {
            self.snd.small_end = seq + len;
        }
        if self.rec.phase == Phase::Recovery {
            self.rec.prr_out = self.rec.prr_out.saturating_add(len);
        }
        self.note_data_sent(env, seq + len);
        self.snd.nxt = seq + len + u32::from(flags.has(Flags::FIN));
        self.note_flight(env);
        env.counters.add(Counter::TCPOrigDataSent, u64::from(len.div_ceil(self.snd.mss)));
        self.totals.bytes_sent += u64::from(len);
        self.totals.data_segs_out = self.totals.data_segs_out.wrapping_add(len.div_ceil(self.snd.mss));
        self.segment(env, seq, flags, (seq - self.snd.base) as usize, len as usize, gso_size)
    }

    fn output_fin(&mut self, env: &mut Env) -> Option<OutSegment> {
        if !self.fin_may_leave() || self.snd.nxt != self.fin_seq() {
            return None;
        }
        let seq = self.snd.nxt;
        self.note_data_sent(env, seq + 1);
        self.snd.nxt = seq + 1;
        self.note_flight(env);
        Some(self.segment(env, seq, Flags::FIN | Flags::ACK, 0, 0, 0))
    }

    /// Timers and estimates, when something leaves that will be acknowledged.
    fn note_data_sent(&mut self, env: &mut Env, end: SeqNum) {
        if !self.rtt.timing && self.rec.phase == Phase::Open {
            self.rtt.timing = true;
            self.rtt.timed_seq = end;
            self.rtt.timed_at = env.now;
        }
        // A reply soon after a request: an interactive exchange, in which ACKs ride on data.
        if env.now.us_since(self.acks.last_received) < DELAYED_ACK_US {
            self.acks.pingpong = true;
        }
        self.snd.last_sent = env.now;
        if !self.timers.is_set(Timer::Retransmit) {
            self.arm_retransmit(env);
        }
        self.timers.cancel(Timer::Persist);
    }

    /// What has just left is in flight. Times need not be finer than what a reordering network is given.
    fn note_flight(&mut self, env: &Env) {
        self.board.sent(self.snd.nxt, Micros::of(env.now), self.rtt.min_us / 16);
        self.arm_loss_probe(env);
    }

    /// RFC 2861, tcp_slow_start_after_idle.
    fn restart_after_idle(&mut self, env: &Env) {
        if env.sysctls.tcp_slow_start_after_idle[0] == 0 || self.snd.una != self.snd.nxt {
            return;
        }
        let idle = env.now.us_since(self.snd.last_sent);
        let rto = u64::from(self.rtt.rto_us);
        if idle > rto {
            self.cc.on_idle((idle / rto).min(32) as u32);
            self.snd.last_sent = env.now;
        }
    }

    fn output_ack(&mut self, env: &mut Env) -> Option<OutSegment> {
        if !self.acks.now {
            return None;
        }
        Some(self.segment(env, self.snd.nxt, Flags::ACK, 0, 0, 0))
    }

    /// Every segment of a synchronized connection: it acknowledges, offers a window, and reports what is out of order.
    fn segment(
        &mut self,
        env: &mut Env,
        seq: SeqNum,
        flags: Flags,
        payload_offset: usize,
        payload_len: usize,
        gso_size: u16,
    ) -> OutSegment {
        let window = self.window_to_offer();
        self.window_sent(env, window);
        // A full segment has no room for SACK blocks: where there are some, a pure ACK follows that carries them.
        let reports = self.acks.dsack || !self.reorder.is_empty();
        let with_blocks = payload_len == 0;
        self.acks.now &= reports && !with_blocks;
        self.timers.cancel(Timer::DelayedAck);
        self.totals.segs_out = self.totals.segs_out.wrapping_add(1);
        let options = self.options_for(env, with_blocks);
        self.acks.now |= with_blocks && !self.unreported.is_empty();
        let mut segment = OutSegment {
            seq,
            ack: self.rcv.nxt,
            flags,
            window: (window >> self.rcv.scale).min(0xffff) as u16,
            options,
            payload_offset,
            payload_len,
            gso_size,
            urgent: 0,
        };
        if self.snd.urgent {
            self.point_at_urgent(&mut segment);
        }
        segment
    }

    fn options_for(&mut self, env: &Env, with_blocks: bool) -> Options {
        let timestamps = self.ts.enabled.then(|| Timestamps { val: self.ts_now(env), ecr: self.ts.recent });
        let sack = if with_blocks { self.sack_blocks() } else { SackBlocks::default() };
        Options { timestamps, sack, ..Options::default() }
    }

    /// RFC 2018 4 and RFC 2883: the duplicate first, then what no ACK has named yet, then the range that was received last, then
    /// the others. What finds no room is named by the next ACK, which follows at once. The news come in the order of their
    /// numbers, which is that of their arrival: a sender that reads of the latest first takes the others for lost (RFC 8985).
    fn sack_blocks(&mut self) -> SackBlocks {
        let mut blocks = SackBlocks::default();
        if !self.sack_ok {
            self.unreported.clear();
            return blocks;
        }
        // With timestamps the header has room for three.
        let most = if self.ts.enabled { 3 } else { 4 };
        let mut named = 0;
        if core::mem::take(&mut self.acks.dsack) {
            blocks.push(self.acks.dsack_start, self.acks.dsack_end);
            named += 1;
        }
        let mut done = [None; 4];
        let candidates = self
            .unreported
            .as_slice()
            .iter()
            .filter_map(|r| self.reorder.containing(r.start))
            .chain(self.reorder.containing(self.last_ooo))
            .chain(self.reorder.as_slice().iter().copied());
        for r in candidates {
            if named == most {
                break;
            }
            if !done.contains(&Some(r)) {
                blocks.push(r.start, r.end);
                done[named] = Some(r);
                named += 1;
            }
        }
        self.forget_reported(&done);
        blocks
    }

    /// What lies in the ranges that an ACK names is reported.
    fn forget_reported(&mut self, named: &[Option<Range>]) {
        if self.unreported.is_empty() {
            return;
        }
        let all = self.unreported;
        self.unreported.clear();
        for r in all.as_slice() {
            if !named.iter().flatten().any(|n| n.start.before_eq(r.start) && r.end.before_eq(n.end)) {
                // There was room for all of them.
                let _ = self.unreported.insert(*r);
            }
        }
    }

    /// Nothing may leave although something waits: the peer's window is shut, or TCP_CORK holds a partial segment.
    fn arm_persist(&mut self, env: &Env) {
        if self.unsent() == 0
            || self.snd.una != self.snd.nxt
            || self.timers.is_set(Timer::Persist)
            || self.is_early()
        {
            return;
        }
        let at = if self.snd.wnd < self.snd.mss.min(self.unsent()) {
            env.now.plus_us(self.rtt.backed_off_us(self.rec.backoff))
        } else {
            env.now.plus_ms(CORK_MS)
        };
        self.timers.set(Timer::Persist, at);
    }
}

const DELAYED_ACK_US: u64 = super::timers::DELAYED_ACK_MS * 1000;
