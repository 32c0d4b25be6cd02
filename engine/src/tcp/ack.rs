//! What an acceptable ACK does: the send window, the scoreboard, recovery (RFC 6937), undo. What is lost is decided in `rack`.

use super::rack::{self, Deliveries};
use super::scoreboard::Place;
use super::{Env, Phase, Segment, Tcb, Timer};
use crate::fixed::ranges::Range;
use crate::values::{Counter, SeqNum};
use crate::wire::Flags;

/// What one ACK brought.
#[derive(Clone, Copy, Default)]
struct News {
    /// Bytes acknowledged cumulatively.
    acked: u32,
    /// Bytes that were not known to have arrived.
    delivered: u32,
    dsack: bool,
    window_changed: bool,
    /// Of what was in flight at a time-out, something that was not sent again has arrived.
    originals: bool,
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
        let mut delivered = self.deliveries(env, seg);
        if ack.before(self.snd.una) {
            self.take_sack(env, seg, &mut news, &mut delivered);
            self.note_deliveries(env, &delivered);
            return true;
        }
        news.window_changed = self.update_send_window(seg);
        news.acked = ack - self.snd.una;
        if seg.payload.is_empty() && news.acked > 0 {
            env.counters.inc(Counter::TCPPureAcks);
        }
        let flight = self.flight_not_sacked();
        self.advance_una(env, seg, ack, &mut news, &mut delivered);
        self.take_sack(env, seg, &mut news, &mut delivered);
        self.note_deliveries(env, &delivered);
        news.originals = delivered.originals;
        self.end_loss_probe(env, &news);
        self.detect_loss(env, seg, &news, flight);
        self.adjust_cwnd(env, &news);
        self.rearm_after_ack(env, news.acked > 0);
        true
    }

    /// RFC 9293 3.10.7.4: SND.WL1 and SND.WL2 keep an old segment from setting the window. One that is shut counts at once
    /// (tcp_may_update_window).
    fn update_send_window(&mut self, seg: &Segment) -> bool {
        let (seq, ack) = (seg.hdr.seq, seg.hdr.ack);
        let wnd = u32::from(seg.hdr.window) << self.snd.scale;
        let newer = ack.after(self.snd.una)
            || seq.after(self.snd.wl1)
            || (seq == self.snd.wl1 && (wnd > self.snd.wnd || wnd == 0));
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
    fn advance_una(
        &mut self,
        env: &mut Env,
        seg: &Segment,
        ack: SeqNum,
        news: &mut News,
        delivered: &mut Deliveries,
    ) {
        if news.acked == 0 {
            return;
        }
        self.snd.una = ack;
        if self.snd.urgent {
            self.judge_urgent();
        }
        self.drop_acknowledged(env, ack);
        news.delivered += self.board.acknowledge(ack, |part, span| delivered.take(part, span));
        if self.board.spans().first().is_some_and(|s| s.place == Place::Sacked) {
            // The peer holds what follows and yet does not acknowledge it: it has dropped it (RFC 2018 8).
            env.counters.inc(Counter::TCPSACKReneging);
            self.board.back_on_its_way(Place::Sacked);
        }
        self.sample_rtt(env, seg, ack);
        self.rec.backoff = 0;
        self.rec.dup_acks = 0;
        self.rec.stalled_since = crate::values::Instant::ZERO;
    }

    /// Bytes below `ack` need not be kept.
    pub(super) fn drop_acknowledged(&mut self, env: &mut Env, ack: SeqNum) {
        let data = if ack.after(self.snd.base) { (ack - self.snd.base) as usize } else { 0 };
        let data = data.min(self.send.len());
        self.send.consume(env.pool, data);
        self.send.shrink_if_empty(env.pool, false);
        self.snd.base += data as u32;
        self.totals.bytes_acked += data as u64;
    }

    /// RFC 8985 7.4: the probe is acknowledged. Where it was a repetition and nothing says that it arrived twice, it has repaired
    /// a loss that nobody saw.
    fn end_loss_probe(&mut self, env: &mut Env, news: &News) {
        if !self.rec.tlp_out || self.snd.una.before(self.rec.tlp_end) || news.acked == 0 {
            return;
        }
        self.rec.tlp_out = false;
        if self.rec.tlp_again && !news.dsack && self.rec.phase == Phase::Open {
            env.counters.inc(Counter::TCPLossProbeRecovery);
            self.cc.on_loss();
            self.cc.cwnd = self.cc.ssthresh;
        }
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

    fn take_sack(&mut self, env: &mut Env, seg: &Segment, news: &mut News, delivered: &mut Deliveries) {
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
            news.delivered +=
                self.board.sack(Range::new(start, end), |part, span| delivered.take(part, span));
        }
    }

    /// A duplicate arrived at the peer: if every retransmission of this recovery was one, it was no loss.
    fn on_dsack(&mut self, env: &mut Env, len: u32) {
        env.counters.inc(Counter::TCPDSACKRecv);
        self.totals.dsacks = self.totals.dsacks.wrapping_add(1);
        self.widen_reordering_window(env);
        if self.rec.undo_bytes == 0 || self.rec.prior_cwnd == 0 || len > 1 << 20 {
            return;
        }
        self.rec.undo_bytes = self.rec.undo_bytes.saturating_sub(len);
        if self.rec.undo_bytes == 0 {
            self.undo(env);
        }
    }

    /// The reduction was a mistake: back to the window before it, and what was taken for lost is on its way.
    fn undo(&mut self, env: &mut Env) {
        let (cwnd, ssthresh) = (self.rec.prior_cwnd, self.rec.prior_ssthresh);
        env.counters.inc(if self.rec.phase == Phase::Loss {
            Counter::TCPSpuriousRTOs
        } else {
            Counter::TCPFullUndo
        });
        self.board.back_on_its_way(Place::Lost);
        self.cc.undo(cwnd, ssthresh);
        self.rec.prior_cwnd = 0;
        self.rec.phase = Phase::Open;
    }

    fn detect_loss(&mut self, env: &mut Env, seg: &Segment, news: &News, flight: u32) {
        if self.rec.phase != Phase::Open && self.snd.una.after_eq(self.rec.point) {
            self.leave_recovery();
        }
        if self.snd.una == self.snd.nxt {
            self.timers.cancel(Timer::Reordering);
            return;
        }
        if self.rec.phase != Phase::Open
            && (news.acked > 0 && self.eifel_spurious(seg) || self.original_arrived(news))
        {
            self.undo(env);
            return;
        }
        if !self.sack_ok {
            return self.detect_by_duplicates(env, seg, news, flight);
        }
        let (_, again) = self.mark_lost(env);
        let news_is_bad = match self.rec.phase {
            // Some of it may have been sent after the last recovery began.
            Phase::Open => self.board.lost() > 0,
            Phase::Loss => again,
            Phase::Recovery => false,
        };
        if news_is_bad {
            env.counters.inc(Counter::TCPSackRecovery);
            self.enter_recovery(flight);
        }
    }

    /// After a time-out, an ACK of what was not sent again: nothing had been lost (RFC 5682, as tcp_process_loss).
    fn original_arrived(&self, news: &News) -> bool {
        self.rec.phase == Phase::Loss
            && self.rec.frto
            && self.rec.prior_cwnd != 0
            && self.sack_ok
            && news.originals
    }

    /// RFC 3522: the first ACK after a retransmission echoes a time before it: the original had arrived.
    fn eifel_spurious(&self, seg: &Segment) -> bool {
        self.rec.prior_cwnd != 0
            && self.rec.retrans_stamp != 0
            && seg.hdr.options.timestamps.is_some_and(|t| {
                self.ts.enabled && t.ecr != 0 && (t.ecr.wrapping_sub(self.rec.retrans_stamp) as i32) < 0
            })
    }

    /// RFC 5681 3.2 and NewReno (RFC 6582), for a peer without SACK.
    fn detect_by_duplicates(&mut self, env: &mut Env, seg: &Segment, news: &News, flight: u32) {
        let flags = seg.hdr.flags;
        if news.acked > 0 {
            if self.rec.phase == Phase::Recovery {
                // A partial ACK: the next hole.
                self.lose_head();
            }
            return;
        }
        if !seg.payload.is_empty() || news.window_changed || flags.any(Flags::SYN | Flags::FIN) {
            return;
        }
        self.rec.dup_acks += 1;
        // Fewer where fewer are in flight (RFC 5827).
        let segments = (self.snd.nxt - self.snd.una).div_ceil(self.snd.mss);
        let enough =
            if self.unsent() == 0 { self.rec.reordering.min(segments - 1) } else { self.rec.reordering };
        if self.rec.phase == Phase::Open && self.rec.dup_acks >= enough.max(1) {
            env.counters.inc(Counter::TCPRenoRecovery);
            self.lose_head();
            self.enter_recovery(flight);
        }
    }

    fn lose_head(&mut self) {
        let una = self.snd.una;
        self.board.lose_range(Range::new(una, (una + self.snd.mss).earliest(self.snd.nxt)));
    }

    /// Something is lost. `flight`: the bytes that were not SACKed before this was known.
    pub(super) fn enter_recovery(&mut self, flight: u32) {
        self.rec.recover_flight = flight.max(self.snd.mss);
        self.remember_window();
        self.cc.on_loss();
        self.rec.phase = Phase::Recovery;
        self.rec.point = self.snd.nxt;
        self.rec.prr_delivered = 0;
        self.rec.prr_out = 0;
        self.rec.undo_bytes = 0;
        self.rec.retrans_stamp = 0;
        self.stop_loss_probe();
    }

    /// Something better than a probe has been done.
    fn stop_loss_probe(&mut self) {
        self.timers.cancel(Timer::LossProbe);
        (self.rec.tlp_now, self.rec.tlp_out) = (false, false);
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
        self.rec.dup_acks = 0;
        self.narrow_reordering_window();
    }

    /// The retransmission timer has run out (RFC 6298 5.4-5.6, RFC 5681 3.1).
    pub(super) fn enter_loss(&mut self, env: &mut Env) {
        env.counters.inc(Counter::TCPTimeouts);
        if self.rec.phase != Phase::Loss {
            if self.rec.phase == Phase::Open {
                self.remember_window();
                self.cc.on_loss();
            }
            self.forget_reordering(env);
            self.rec.undo_bytes = 0;
            self.rec.retrans_stamp = 0;
        }
        // Not when the first repetition was not answered either: then the ACK of an original says nothing (tcp_enter_loss).
        self.rec.frto = env.sysctls.tcp_frto[0] != 0 && self.rec.phase != Phase::Loss;
        self.mark_lost_by_timeout(env);
        self.start_from_loss();
        self.cc.on_timeout(self.pipe());
    }

    /// What is in flight leaves once more, without a cut of the window: no congestion was told (tcp_simple_retransmit,
    /// tcp_non_congestion_loss_retransmit).
    pub(super) fn send_flight_again(&mut self) {
        if self.rec.phase == Phase::Open {
            self.remember_window();
            self.cc.ssthresh = self.cc.ssthresh.max(self.cc.cwnd / 4 * 3);
        }
        // Nothing was sent again for this yet.
        self.rec.undo_bytes = 0;
        self.rec.retrans_stamp = 0;
        self.take_all_for_lost();
    }

    /// All that is in flight and not SACKed is to be sent again.
    pub(super) fn take_all_for_lost(&mut self) {
        self.board.lose(|_, _| true);
        self.rec.frto = false;
        self.start_from_loss();
    }

    fn start_from_loss(&mut self) {
        self.rec.phase = Phase::Loss;
        self.rec.point = self.snd.nxt;
        self.rec.prr_out = 0;
        self.rtt.timing = false;
        self.stop_loss_probe();
        self.timers.cancel(Timer::Reordering);
    }

    /// A time-out although enough was SACKed to show the loss at the usual distance: the path does not reorder as much as
    /// was thought, and the greater distance only keeps losses from being seen (tcp_enter_loss).
    fn forget_reordering(&mut self, env: &Env) {
        let usual = rack::usual_reordering(env.sysctls);
        if self.board.sacked() >= usual * self.snd.mss {
            self.rec.reordering = self.rec.reordering.min(usual);
        }
    }

    /// Bytes that the network is thought to hold (RFC 6675 4).
    pub(super) fn pipe(&self) -> u32 {
        self.board.in_network()
    }

    /// The next range to send again: lost, and not sent again since.
    pub(super) fn next_lost(&self) -> Option<Range> {
        self.board.first_lost()
    }

    fn adjust_cwnd(&mut self, env: &mut Env, news: &News) {
        match self.rec.phase {
            Phase::Recovery => self.reduce(news.delivered),
            Phase::Loss | Phase::Open => {
                if news.acked > 0 && (self.cwnd_limited || self.rec.phase == Phase::Loss) {
                    self.cc.on_ack(env.now, news.acked, self.rtt.srtt_us);
                }
            }
        }
    }

    /// Proportional rate reduction, RFC 6937 with the slow-start bound.
    pub(super) fn reduce(&mut self, delivered: u32) {
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
