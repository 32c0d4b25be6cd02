//! What an acceptable ACK does: the send window, the scoreboard (RFC 2018, 6675), loss detection, recovery (RFC 6937), undo.
//!
//! Loss is found by distance: a hole is lost when data `reordering` segments above it has been SACKed. The distance grows
//! when a retransmission turns out to have been unnecessary (DSACK, or the echo of an older timestamp), so that a path
//! that reorders is not taken for one that loses.

use super::{Env, Phase, Segment, Tcb, Timer};
use crate::fixed::ranges::Range;
use crate::values::{Counter, SeqNum};
use crate::wire::Flags;

/// Linux's tcp_max_reordering.
const MAX_REORDERING: u32 = 300;

/// What one ACK brought.
#[derive(Clone, Copy, Default)]
struct News {
    /// Bytes acknowledged cumulatively.
    acked: u32,
    /// Bytes that were not known to have arrived.
    delivered: u32,
    dsack: bool,
    window_changed: bool,
}

impl Tcb {
    /// Takes the acknowledgment of a segment. False: it is of what was never sent; the segment is to be challenged, and that
    /// is all (RFC 9293 3.10.7.4, fifth check).
    pub(super) fn process_ack(&mut self, env: &mut Env, seg: &Segment) -> bool {
        let ack = seg.hdr.ack;
        if ack.after(self.snd.nxt) {
            env.counters.inc(Counter::DropAck);
            return false;
        }
        self.rec.probes = 0;
        self.soft_error = 0;
        let mut news = News::default();
        if ack.before(self.snd.una) {
            self.take_sack(env, seg, &mut news);
            return true;
        }
        news.window_changed = self.update_send_window(seg);
        news.acked = ack - self.snd.una;
        if seg.payload.is_empty() && news.acked > 0 {
            env.counters.inc(Counter::TCPPureAcks);
        }
        let was_sacked = self.sacked.total();
        self.advance_una(env, seg, ack, news.acked);
        let left = self.sacked.total();
        news.delivered = news.acked.saturating_sub(was_sacked - left);
        self.take_sack(env, seg, &mut news);
        self.detect_loss(env, seg, &news);
        self.adjust_cwnd(env, &news);
        self.rearm_after_ack(env, news.acked > 0);
        true
    }

    /// RFC 9293 3.10.7.4: SND.WL1 and SND.WL2 keep an old segment from setting the window.
    fn update_send_window(&mut self, seg: &Segment) -> bool {
        let (seq, ack) = (seg.hdr.seq, seg.hdr.ack);
        let wnd = u32::from(seg.hdr.window) << self.snd.scale;
        let newer =
            ack.after(self.snd.una) || seq.after(self.snd.wl1) || (seq == self.snd.wl1 && wnd > self.snd.wnd);
        if !newer {
            return wnd != self.snd.wnd;
        }
        self.snd.wl1 = seq;
        self.snd.wl2 = ack;
        let changed = wnd != self.snd.wnd;
        self.snd.wnd = wnd;
        self.snd.max_wnd = self.snd.max_wnd.max(wnd);
        changed
    }

    /// Drops what is acknowledged from the buffer and the scoreboard, and times the round trip (Karn, MUST-18).
    fn advance_una(&mut self, env: &mut Env, seg: &Segment, ack: SeqNum, acked: u32) {
        if acked == 0 {
            return;
        }
        self.snd.una = ack;
        let data = if ack.after(self.snd.base) { (ack - self.snd.base) as usize } else { 0 };
        let data = data.min(self.send.len());
        self.send.consume(env.pool, data);
        self.send.shrink_if_empty(env.pool, false);
        self.snd.base += data as u32;
        self.totals.bytes_acked += data as u64;
        self.sacked.remove_before(ack);
        if self.sacked.first().is_some_and(|r| r.start == ack) {
            // The peer holds what follows and yet does not acknowledge it: it has dropped it (RFC 2018 8).
            env.counters.inc(Counter::TCPSACKReneging);
            self.sacked.clear();
        }
        self.sample_rtt(env, seg, ack);
        self.rec.backoff = 0;
        self.rec.dup_acks = 0;
        self.rec.stalled_since = crate::values::Instant::ZERO;
        if self.rec.tlp_out {
            self.rec.tlp_out = false;
        }
        self.rec.rxt_nxt = self.rec.rxt_nxt.latest(ack);
        self.rec.lost_edge = self.rec.lost_edge.latest(ack);
    }

    fn sample_rtt(&mut self, env: &Env, seg: &Segment, ack: SeqNum) {
        if self.rtt.timing && ack.after_eq(self.rtt.timed_seq) {
            self.rtt.timing = false;
            self.rtt.sample(env.now.us_since(self.rtt.timed_at) as u32);
        } else if self.rec.phase != Phase::Open
            && let Some(t) = seg.hdr.options.timestamps.filter(|t| self.ts.enabled && t.ecr != 0)
        {
            // RFC 7323 4.1: the echo tells which transmission it was, so a retransmission can be timed.
            let ms = self.ts_now(env).wrapping_sub(t.ecr);
            if (ms as i32) >= 0 && ms < 120_000 {
                self.rtt.sample(ms.max(1) * 1000);
            }
        }
    }

    fn take_sack(&mut self, env: &mut Env, seg: &Segment, news: &mut News) {
        if !self.sack_ok {
            return;
        }
        let blocks = seg.hdr.options.sack.as_slice();
        if let Some(&(start, end)) = blocks.first()
            && is_dsack(start, end, seg.hdr.ack, blocks.get(1))
        {
            news.dsack = true;
            self.on_dsack(env, end - start);
        }
        for &(start, end) in blocks {
            // Outside of what is in flight: old news, or nonsense.
            if !start.after(self.snd.una) || !start.before(end) || end.after(self.snd.nxt) {
                continue;
            }
            if let Ok((new, _)) = self.sacked.insert(Range::new(start, end)) {
                news.delivered += new;
            }
        }
    }

    /// A duplicate arrived at the peer: if every retransmission of this recovery was one, it was no loss.
    fn on_dsack(&mut self, env: &mut Env, len: u32) {
        env.counters.inc(Counter::TCPDSACKRecv);
        self.totals.dsacks = self.totals.dsacks.wrapping_add(1);
        if self.rec.undo_bytes == 0 || self.rec.prior_cwnd == 0 || len > 1 << 20 {
            return;
        }
        self.rec.undo_bytes = self.rec.undo_bytes.saturating_sub(len);
        if self.rec.undo_bytes == 0 {
            self.undo(env);
        }
    }

    /// The reduction was a mistake: back to the window before it, and a greater distance from now on.
    fn undo(&mut self, env: &mut Env) {
        let (cwnd, ssthresh) = (self.rec.prior_cwnd, self.rec.prior_ssthresh);
        if self.rec.phase == Phase::Loss {
            env.counters.inc(Counter::TCPSpuriousRTOs);
        } else {
            env.counters.inc(Counter::TCPSACKReorder);
        }
        self.rec.reordering = (self.rec.reordering * 2).min(MAX_REORDERING);
        self.cc.undo(cwnd, ssthresh);
        self.rec.prior_cwnd = 0;
        self.rec.phase = Phase::Open;
    }

    /// Segments of SACKed data above a hole that make it a loss. Fewer where fewer are in flight (RFC 5827).
    fn loss_distance(&self) -> u32 {
        let flight = (self.snd.nxt - self.snd.una).div_ceil(self.snd.mss);
        let idle = self.unsent() == 0;
        if idle && flight <= self.rec.reordering {
            flight.saturating_sub(1).max(1)
        } else {
            self.rec.reordering
        }
    }

    fn detect_loss(&mut self, env: &mut Env, seg: &Segment, news: &News) {
        if self.rec.phase != Phase::Open && self.snd.una.after_eq(self.rec.point) {
            self.leave_recovery();
        }
        if self.snd.una == self.snd.nxt {
            return;
        }
        if self.rec.phase != Phase::Open && news.acked > 0 && self.eifel_spurious(seg) {
            self.undo(env);
            return;
        }
        if self.sack_ok { self.detect_by_sack(env) } else { self.detect_by_duplicates(env, seg, news) }
    }

    /// RFC 3522: the first ACK after a retransmission echoes a time before it: the original had arrived.
    fn eifel_spurious(&self, seg: &Segment) -> bool {
        self.rec.prior_cwnd != 0
            && self.rec.retrans_stamp != 0
            && seg.hdr.options.timestamps.is_some_and(|t| {
                self.ts.enabled && t.ecr != 0 && (t.ecr.wrapping_sub(self.rec.retrans_stamp) as i32) < 0
            })
    }

    fn detect_by_sack(&mut self, env: &mut Env) {
        let Some(highest) = self.sacked.last().map(|r| r.end) else { return };
        let distance = self.loss_distance() * self.snd.mss;
        if self.rec.phase == Phase::Loss {
            return;
        }
        // Compared as distances from una: the edge must not wrap below it.
        let reach = highest - self.snd.una;
        if reach <= distance {
            return;
        }
        let edge = self.snd.una + (reach - distance);
        if self.rec.phase == Phase::Open {
            env.counters.inc(Counter::TCPSackRecovery);
            self.enter_recovery();
        }
        self.rec.lost_edge = self.rec.lost_edge.latest(edge);
        // Data sent after the head was sent again has arrived, the head has not: it was lost again.
        if self.rec.rxt_nxt.after(self.snd.una) && highest.after(self.rec.head_mark + distance) {
            env.counters.inc(Counter::TCPLostRetransmit);
            self.rec.rxt_nxt = self.snd.una;
        }
    }

    /// RFC 5681 3.2 and NewReno (RFC 6582), for a peer without SACK.
    fn detect_by_duplicates(&mut self, env: &mut Env, seg: &Segment, news: &News) {
        let flags = seg.hdr.flags;
        if news.acked > 0 {
            if self.rec.phase == Phase::Recovery {
                // A partial ACK: the next hole.
                self.rec.lost_edge = (self.snd.una + self.snd.mss).earliest(self.snd.nxt);
                self.rec.rxt_nxt = self.snd.una;
            }
            return;
        }
        if !seg.payload.is_empty() || news.window_changed || flags.any(Flags::SYN | Flags::FIN) {
            return;
        }
        self.rec.dup_acks += 1;
        if self.rec.phase == Phase::Open
            && self.rec.dup_acks >= self.rec.reordering.min(self.loss_distance().max(1))
        {
            env.counters.inc(Counter::TCPRenoRecovery);
            self.enter_recovery();
            self.rec.lost_edge = (self.snd.una + self.snd.mss).earliest(self.snd.nxt);
        }
    }

    fn enter_recovery(&mut self) {
        self.rec.recover_flight = self.pipe().max(self.snd.mss);
        self.remember_window();
        self.cc.on_loss();
        self.rec.phase = Phase::Recovery;
        self.rec.point = self.snd.nxt;
        self.rec.rxt_nxt = self.snd.una;
        self.rec.lost_edge = self.snd.una;
        self.rec.head_mark = self.snd.nxt;
        self.rec.prr_delivered = 0;
        self.rec.prr_out = 0;
        self.rec.undo_bytes = 0;
        self.rec.retrans_stamp = 0;
        self.timers.cancel(Timer::LossProbe);
    }

    pub(super) fn remember_window(&mut self) {
        self.rec.prior_cwnd = self.cc.cwnd;
        self.rec.prior_ssthresh = self.cc.ssthresh;
    }

    fn leave_recovery(&mut self) {
        if self.rec.phase == Phase::Recovery {
            self.cc.cwnd = self.cc.ssthresh.max(self.snd.mss);
        }
        self.rec.phase = Phase::Open;
        self.rec.rxt_nxt = self.snd.una;
        self.rec.lost_edge = self.snd.una;
        self.rec.dup_acks = 0;
    }

    /// The retransmission timer has run out: all that is not SACKed counts as lost (RFC 6298 5.4-5.6, RFC 5681 3.1).
    pub(super) fn enter_loss(&mut self, env: &mut Env) {
        env.counters.inc(Counter::TCPTimeouts);
        if self.rec.phase != Phase::Loss {
            if self.rec.phase == Phase::Open {
                self.remember_window();
                self.cc.on_loss();
            }
            self.forget_reordering(env);
            self.rec.prr_out = 0;
            self.rec.undo_bytes = 0;
            self.rec.retrans_stamp = 0;
        }
        self.cc.on_timeout();
        self.take_all_for_lost();
    }

    /// All that is in flight and not SACKed is to be sent again, from the start on.
    pub(super) fn take_all_for_lost(&mut self) {
        self.rec.phase = Phase::Loss;
        self.rec.point = self.snd.nxt;
        self.rec.lost_edge = self.snd.nxt;
        self.rec.rxt_nxt = self.snd.una;
        self.rec.head_mark = self.snd.nxt;
        self.rtt.timing = false;
        self.timers.cancel(Timer::LossProbe);
    }

    /// A time-out although enough was SACKed to show the loss at the usual distance: the path does not reorder as much as
    /// was thought, and the greater distance only keeps losses from being seen (tcp_enter_loss).
    fn forget_reordering(&mut self, env: &Env) {
        let usual = env.sysctls.tcp_reordering[0].clamp(1, i64::from(MAX_REORDERING)) as u32;
        if self.sacked.total() >= usual * self.snd.mss {
            self.rec.reordering = self.rec.reordering.min(usual);
        }
    }

    /// Bytes that the network is thought to hold (RFC 6675 4).
    pub(super) fn pipe(&self) -> u32 {
        let (una, nxt) = (self.snd.una, self.snd.nxt);
        if self.rec.phase == Phase::Open {
            return (nxt - una).saturating_sub(self.sacked.total());
        }
        let edge = self.rec.lost_edge.latest(una).earliest(nxt);
        let again = self.rec.rxt_nxt.latest(una).earliest(edge);
        self.unsacked(edge, nxt) + self.unsacked(una, again)
    }

    fn unsacked(&self, from: SeqNum, to: SeqNum) -> u32 {
        let mut n = to - from;
        for r in self.sacked.as_slice() {
            let (a, b) = (r.start.latest(from), r.end.earliest(to));
            if a.before(b) {
                n -= b - a;
            }
        }
        n
    }

    /// The next range to send again: lost, not SACKed, not sent again yet.
    pub(super) fn next_lost(&self) -> Option<Range> {
        if self.rec.phase == Phase::Open {
            return None;
        }
        let mut start = self.rec.rxt_nxt.latest(self.snd.una);
        for r in self.sacked.as_slice() {
            if start.before(r.start) {
                let end = r.start.earliest(self.rec.lost_edge);
                return start.before(end).then(|| Range::new(start, end));
            }
            start = start.latest(r.end);
        }
        let end = self.rec.lost_edge.earliest(self.snd.nxt);
        start.before(end).then(|| Range::new(start, end))
    }

    fn adjust_cwnd(&mut self, env: &mut Env, news: &News) {
        match self.rec.phase {
            Phase::Recovery => self.prr(news.delivered),
            Phase::Loss | Phase::Open => {
                if news.acked > 0 && (self.cwnd_limited || self.rec.phase == Phase::Loss) {
                    self.cc.on_ack(env.now, news.acked, self.rtt.srtt_us);
                }
            }
        }
    }

    /// Proportional rate reduction, RFC 6937 with the slow-start bound.
    fn prr(&mut self, delivered: u32) {
        let (mss, ssthresh, pipe) = (self.snd.mss, self.cc.ssthresh, self.pipe());
        self.rec.prr_delivered = self.rec.prr_delivered.saturating_add(delivered);
        let may = if pipe > ssthresh {
            let share = u64::from(self.rec.prr_delivered) * u64::from(ssthresh)
                / u64::from(self.rec.recover_flight.max(1));
            (share as u32).saturating_sub(self.rec.prr_out)
        } else {
            let limit = self.rec.prr_delivered.saturating_sub(self.rec.prr_out).max(delivered) + mss;
            (ssthresh - pipe).min(limit)
        };
        // The first retransmission leaves in any case.
        let first = if self.rec.prr_out == 0 { mss } else { 0 };
        self.cc.cwnd = pipe.saturating_add(may.max(first)).max(mss);
    }
}

/// RFC 2883 4: the first block lies below the ACK, or within the second block.
fn is_dsack(start: SeqNum, end: SeqNum, ack: SeqNum, second: Option<&(SeqNum, SeqNum)>) -> bool {
    start.before(end)
        && (start.before(ack) || second.is_some_and(|s| s.0.before_eq(start) && end.before_eq(s.1)))
}
