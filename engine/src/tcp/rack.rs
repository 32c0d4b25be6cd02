//! Loss detection by time: RACK (RFC 8985). A segment is lost when one that was sent after it has been delivered, and the time in
//! which the network may have reordered the two is over.
//!
//! That time is none at first: three SACKed segments mean a loss, as ever. When reordering is seen, it is a quarter of the
//! smallest round trip, and more when DSACKs show that it was not enough.

use super::scoreboard::{Micros, Span};
use super::{Env, Phase, Segment, Tcb, Timer};
use crate::fixed::ranges::Range;
use crate::values::{Counter, SeqNum};
use bytemuck::Zeroable;

/// Linux's tcp_max_reordering.
const MAX_REORDERING: u32 = 300;
/// Recoveries for which a wider window of reordering is kept (TCP_RACK_RECOVERY_THRESH).
const KEEP_STEPS: u8 = 16;
/// Added to the timer that looks for losses again (TCP_TIMEOUT_MIN_US): ACKs that are under way may make it needless.
const TIMER_SLACK_US: u32 = 2_000;
/// Bits of net.ipv4.tcp_recovery.
const STATIC_WINDOW: i64 = 2;
const NO_DISTANCE: i64 = 4;

/// What RACK knows of a connection (RFC 8985 5.2).
#[derive(Clone, Copy, Zeroable)]
#[repr(C)]
pub(super) struct Rack {
    /// Of all that was delivered, what was sent last: when, and where it ends.
    sent: Micros,
    end: SeqNum,
    /// The round trip of that.
    rtt_us: u32,
    /// The highest number that was ever SACKed.
    forward: SeqNum,
    /// SND.NXT when the window of reordering was widened last.
    widened_at: SeqNum,
    /// Something was delivered.
    valid: bool,
    reordered: bool,
    /// The window of reordering, in quarters of the smallest round trip, less one.
    more_steps: u8,
    /// For how many more recoveries.
    keep: u8,
}

impl Rack {
    pub fn restart(&mut self, una: SeqNum) {
        *self = Rack { forward: una, ..Rack::zeroed() };
    }

    /// Whether a segment that was sent at `sent` and ends at `end` was sent before what was delivered.
    fn is_later_than(&self, sent: Micros, end: SeqNum) -> bool {
        self.valid && (self.sent.after(sent) || (self.sent == sent && self.end.after(end)))
    }
}

/// What an ACK says of parts of the flight that were not known to have arrived, gathered while the scoreboard is walked over.
pub(super) struct Deliveries {
    now: Micros,
    min_rtt_us: u32,
    /// The echoed timestamp as a time of sending, where it can be had: what was sent again later cannot be what arrived.
    echoed: Option<Micros>,
    latest: Option<(Micros, SeqNum)>,
    /// The lowest number of what was sent only once.
    lowest_first: Option<SeqNum>,
    /// What was in flight when a recovery began, or a time-out came, ends here.
    point: SeqNum,
    /// Something of that which was not sent again has arrived.
    pub originals: bool,
}

impl Deliveries {
    pub fn take(&mut self, part: Range, span: &Span) {
        if !span.again {
            self.originals |= part.start.before(self.point);
            if self.lowest_first.is_none_or(|low| part.start.before(low)) {
                self.lowest_first = Some(part.start);
            }
        } else if self.now.since(span.sent) < self.min_rtt_us
            || self.echoed.is_some_and(|at| span.sent.after(at))
        {
            // It arrived before the repetition can have: the original did (RFC 8985 6.2 step 2).
            return;
        }
        if self
            .latest
            .is_none_or(|(sent, end)| span.sent.after(sent) || (span.sent == sent && part.end.after(end)))
        {
            self.latest = Some((span.sent, part.end));
        }
    }
}

impl Tcb {
    pub(super) fn deliveries(&self, env: &Env, seg: &Segment) -> Deliveries {
        // The clock of timestamps has milliseconds: what was sent within the same one may be meant.
        let echoed = seg.hdr.options.timestamps.filter(|t| self.ts.enabled && t.ecr != 0).and_then(|t| {
            let ms = self.ts_now(env).wrapping_sub(t.ecr);
            let ago_us =
                u64::from(ms).checked_mul(1000).filter(|&us| ms < 120_000 && us <= env.now.as_us())?;
            Some(Micros::of(crate::values::Instant::from_us(env.now.as_us() - ago_us + 1000)))
        });
        Deliveries {
            now: Micros::of(env.now),
            min_rtt_us: self.rtt.min_us,
            echoed,
            latest: None,
            lowest_first: None,
            point: self.rec.point,
            originals: false,
        }
    }

    /// RFC 8985 6.2, steps 2 and 3: the latest delivery, and whether there was reordering.
    pub(super) fn note_deliveries(&mut self, env: &mut Env, news: &Deliveries) {
        let rack = &mut self.rec.rack;
        if let Some((sent, end)) = news.latest {
            rack.rtt_us = news.now.since(sent);
            if !rack.is_later_than(sent, end) {
                (rack.sent, rack.end, rack.valid) = (sent, end, true);
            }
        }
        if let Some(low) = news.lowest_first
            && low.before(rack.forward)
        {
            // Below what was there already, and not because it was lost.
            let by = (rack.forward - low).div_ceil(self.snd.mss);
            env.counters.inc(if self.ts.enabled { Counter::TCPTSReorder } else { Counter::TCPSACKReorder });
            rack.reordered = true;
            self.rec.reordering = self.rec.reordering.max(by.min(MAX_REORDERING));
        }
        if let Some(high) = self.board.highest_sacked() {
            rack.forward = rack.forward.latest(high);
        }
        rack.forward = rack.forward.latest(self.snd.una);
    }

    /// A duplicate arrived at the peer: the window of reordering was too small, at most once a round trip (RFC 8985 6.2 step 4).
    pub(super) fn widen_reordering_window(&mut self, env: &Env) {
        let rack = &mut self.rec.rack;
        if env.sysctls.tcp_recovery[0] & STATIC_WINDOW != 0 || self.snd.una.before(rack.widened_at) {
            return;
        }
        rack.widened_at = self.snd.nxt;
        rack.more_steps = rack.more_steps.saturating_add(1);
        rack.keep = KEEP_STEPS;
    }

    /// A recovery is over.
    pub(super) fn narrow_reordering_window(&mut self) {
        let rack = &mut self.rec.rack;
        rack.keep = rack.keep.saturating_sub(1);
        if rack.keep == 0 {
            rack.more_steps = 0;
        }
    }

    /// How long the network may hold back what was sent before something that has arrived.
    fn reordering_window_us(&self, env: &Env) -> u32 {
        if !self.rec.rack.reordered {
            if self.rec.phase != Phase::Open {
                return 0;
            }
            let enough = self.rec.reordering.saturating_mul(self.snd.mss);
            if self.board.sacked() >= enough && env.sysctls.tcp_recovery[0] & NO_DISTANCE == 0 {
                return 0;
            }
        }
        let steps = u32::from(self.rec.rack.more_steps) + 1;
        (self.rtt.min_us / 4).saturating_mul(steps).min(self.rtt.srtt_us / 8)
    }

    /// RFC 8985 6.2 step 5: marks what is lost, and sets the timer for what may be soon. Returns how many bytes are lost, and
    /// whether some of them had been sent again already.
    pub(super) fn mark_lost(&mut self, env: &mut Env) -> (u32, bool) {
        let rack = self.rec.rack;
        let patience = rack.rtt_us.saturating_add(self.reordering_window_us(env));
        let now = Micros::of(env.now);
        let mut soon = 0;
        let mut again = 0;
        let lost = self.board.lose(|range, span| {
            if !rack.is_later_than(span.sent, span.end) {
                return false;
            }
            let waited = now.since(span.sent);
            if waited < patience {
                soon = soon.max(patience - waited);
                return false;
            }
            again += if span.again { range.len() } else { 0 };
            true
        });
        env.counters.add(Counter::TCPLostRetransmit, u64::from(again.div_ceil(self.snd.mss)));
        if soon > 0 {
            self.timers.set(Timer::Reordering, env.now.plus_us(u64::from(soon + TIMER_SLACK_US)));
        } else {
            self.timers.cancel(Timer::Reordering);
        }
        (lost, again > 0)
    }

    /// A time-out: the head is lost, and what was sent so long ago that its ACK would be here (tcp_timeout_mark_lost).
    pub(super) fn mark_lost_by_timeout(&mut self, env: &Env) {
        let now = Micros::of(env.now);
        let una = self.snd.una;
        let rtt = self.rec.rack.rtt_us;
        self.board.lose(|range, span| range.start == una || now.since(span.sent) >= rtt);
    }

    /// The time for reordering is over.
    pub(super) fn on_reordering_timer(&mut self, env: &mut Env) {
        if self.snd.una == self.snd.nxt {
            return;
        }
        let flight = self.flight_not_sacked();
        let (lost, _) = self.mark_lost(env);
        if lost > 0 && self.rec.phase == Phase::Open {
            self.enter_recovery(flight);
            self.reduce(0);
        }
        if !self.timers.is_set(Timer::Retransmit) {
            self.arm_retransmit(env);
        }
    }

    /// Bytes of the flight that the peer has not SACKed.
    pub(super) fn flight_not_sacked(&self) -> u32 {
        (self.snd.nxt - self.snd.una).saturating_sub(self.board.sacked())
    }
}
