//! Congestion control: slow start and avoidance (RFC 5681), CUBIC (RFC 9438) or NewReno. All in bytes.

use crate::values::Instant;
use bytemuck::Zeroable;

/// RFC 6928.
const INITIAL_SEGMENTS: u32 = 10;
/// CUBIC's C and beta, RFC 9438 4.1 and 4.6.
const C: f64 = 0.4;
const BETA: f64 = 0.7;
/// No window needs more than this (what a stream buffer holds, doubled).
const MAX_CWND: u32 = 32 << 20;

#[derive(Clone, Copy, Zeroable, Debug)]
#[repr(C)]
pub struct Congestion {
    /// Bytes.
    pub cwnd: u32,
    pub ssthresh: u32,
    mss: u32,
    reno: u32,
    /// Bytes acknowledged and not yet turned into growth.
    credit: u32,
    _pad: u32,
    /// When the current stage of avoidance began; unset: not yet.
    epoch: Instant,
    /// Window before the last reduction, in segments.
    w_max: f64,
    /// Seconds until w_max is reached again.
    k: f64,
    /// Estimate of what Reno would have, in segments.
    w_est: f64,
}

impl Congestion {
    pub fn new(mss: u32, reno: bool) -> Congestion {
        Congestion {
            cwnd: INITIAL_SEGMENTS * mss,
            ssthresh: u32::MAX,
            mss,
            reno: u32::from(reno),
            ..Congestion::zeroed()
        }
    }

    pub fn mss(&self) -> u32 {
        self.mss
    }

    pub fn name(&self) -> &'static str {
        if self.reno != 0 { "reno" } else { "cubic" }
    }

    pub fn set_reno(&mut self, reno: bool) {
        self.reno = u32::from(reno);
    }

    pub fn set_mss(&mut self, mss: u32) {
        self.mss = mss;
        self.cwnd = self.cwnd.max(mss);
    }

    pub fn in_slow_start(&self) -> bool {
        self.cwnd < self.ssthresh
    }

    /// `acked` bytes were acknowledged while the flow was limited by cwnd.
    pub fn on_ack(&mut self, now: Instant, acked: u32, srtt_us: u32) {
        let mut acked = acked;
        if self.in_slow_start() {
            let room = self.ssthresh - self.cwnd;
            let take = acked.min(room);
            self.cwnd = (self.cwnd + take).min(MAX_CWND);
            acked -= take;
            if acked == 0 {
                return;
            }
        }
        let target = if self.reno != 0 { None } else { Some(self.cubic_target(now, acked, srtt_us)) };
        self.grow(acked, target);
    }

    /// Reno: a segment per window. CUBIC: towards `target` segments within a round trip.
    fn grow(&mut self, acked: u32, target: Option<f64>) {
        self.credit = self.credit.saturating_add(acked);
        let cwnd_segments = f64::from(self.cwnd) / f64::from(self.mss);
        let per_segment = match target {
            None => self.cwnd,
            Some(t) if t > cwnd_segments => {
                // cwnd acknowledged bytes make (target - cwnd) segments, at most half a window a round trip.
                let step = (t - cwnd_segments).min(cwnd_segments / 2.0);
                (f64::from(self.cwnd) / step).min(f64::from(u32::MAX)) as u32
            }
            // The plateau: nearly no growth.
            Some(_) => self.cwnd.saturating_mul(100),
        }
        .max(1);
        if self.credit >= per_segment {
            let segments = self.credit / per_segment;
            self.credit -= segments * per_segment;
            self.cwnd = self.cwnd.saturating_add(segments.saturating_mul(self.mss)).min(MAX_CWND);
        }
    }

    fn cubic_target(&mut self, now: Instant, acked: u32, srtt_us: u32) -> f64 {
        let cwnd = f64::from(self.cwnd) / f64::from(self.mss);
        if !self.epoch.is_set() {
            self.epoch = now;
            self.w_est = cwnd;
            if self.w_max > cwnd {
                self.k = ((self.w_max - cwnd) / C).cbrt();
            } else {
                self.k = 0.0;
                self.w_max = cwnd;
            }
        }
        // RFC 9438 4.3: what Reno would have by now.
        let alpha = 3.0 * (1.0 - BETA) / (1.0 + BETA);
        self.w_est += alpha * f64::from(acked) / f64::from(self.cwnd);
        let t = (now.us_since(self.epoch) + u64::from(srtt_us)) as f64 / 1e6;
        let cubic = C * (t - self.k).powi(3) + self.w_max;
        cubic.max(self.w_est)
    }

    /// A loss was found: the new ssthresh, and CUBIC's memory of the window that was too large.
    pub fn on_loss(&mut self) {
        let cwnd = f64::from(self.cwnd) / f64::from(self.mss);
        self.epoch = Instant::ZERO;
        self.credit = 0;
        let beta = if self.reno != 0 { 0.5 } else { BETA };
        // Fast convergence, RFC 9438 4.7.
        self.w_max = if cwnd < self.w_max { cwnd * (1.0 + BETA) / 2.0 } else { cwnd };
        self.ssthresh = ((f64::from(self.cwnd) * beta) as u32).max(2 * self.mss);
    }

    /// A retransmission time-out: one segment beside what is still in the network (RFC 5681 3.1).
    pub fn on_timeout(&mut self, pipe: u32) {
        self.cwnd = pipe.saturating_add(self.mss);
    }

    /// Idle for longer than an RTO: halve for each RTO down to the initial window (RFC 2861).
    pub fn on_idle(&mut self, rtos: u32) {
        let floor = (INITIAL_SEGMENTS * self.mss).min(self.cwnd);
        self.ssthresh = self.ssthresh.max(self.cwnd / 4 * 3);
        for _ in 0..rtos.min(32) {
            self.cwnd = (self.cwnd / 2).max(floor);
        }
        self.epoch = Instant::ZERO;
    }

    pub fn undo(&mut self, cwnd: u32, ssthresh: u32) {
        self.cwnd = self.cwnd.max(cwnd);
        self.ssthresh = self.ssthresh.max(ssthresh);
        self.epoch = Instant::ZERO;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_start_doubles_and_avoidance_does_not() {
        let mut c = Congestion::new(1000, true);
        c.on_ack(Instant::from_us(1), 10_000, 1000);
        assert_eq!(c.cwnd, 20_000);
        c.on_loss();
        c.cwnd = c.ssthresh;
        assert_eq!(c.cwnd, 10_000);
        c.on_ack(Instant::from_us(2), 10_000, 1000);
        assert_eq!(c.cwnd, 11_000);
    }

    #[test]
    fn cubic_returns_to_the_old_window_after_k_seconds() {
        let mut c = Congestion::new(1000, false);
        c.cwnd = 100_000;
        c.ssthresh = 100_000;
        c.on_loss();
        c.cwnd = c.ssthresh;
        let k = (100.0f64 * 0.3 / C).cbrt();
        let mut now = 1_000_000;
        while c.cwnd < 99_000 {
            c.on_ack(Instant::from_us(now), c.cwnd, 100_000);
            now += 100_000;
        }
        let took = (now - 1_000_000) as f64 / 1e6;
        assert!(took > 0.5 * k && took < 1.2 * k, "{took} s, K is {k} s");
    }
}
