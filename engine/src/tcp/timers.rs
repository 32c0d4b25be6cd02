//! The timer table of a connection, and what each timer does when it is due.

use super::{Env, Outcome, State, Tcb};
use crate::values::{Counter, Instant};
use bytemuck::Zeroable;

/// Linux's TCP_DELACK_MIN. RFC 9293 MUST-40 allows up to 500 ms.
pub(super) const DELAYED_ACK_MS: u64 = 40;
/// How long TCP_CORK holds a partial segment.
pub(super) const CORK_MS: u64 = 200;
/// First time-outs of a SYN that do not double (tcp_syn_linear_timeouts).
const SYN_LINEAR: u8 = 4;

/// What can be due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum Timer {
    Retransmit,
    LossProbe,
    /// What may be reordered is lost if it is not acknowledged by then.
    Reordering,
    /// Zero-window probes, and what TCP_CORK holds back.
    Persist,
    DelayedAck,
    Keepalive,
    /// The end of FIN-WAIT-2 (of an orphan) or TIME-WAIT.
    Final,
}

const TIMERS: [Timer; 7] = [
    Timer::Retransmit,
    Timer::LossProbe,
    Timer::Reordering,
    Timer::Persist,
    Timer::DelayedAck,
    Timer::Keepalive,
    Timer::Final,
];

/// Deadlines; an unset one is zero.
#[derive(Clone, Copy, Zeroable)]
#[repr(C)]
pub(super) struct TimerTable([Instant; TIMERS.len()]);

impl TimerTable {
    pub fn set(&mut self, timer: Timer, at: Instant) {
        self.0[timer as usize] = at;
    }

    pub fn cancel(&mut self, timer: Timer) {
        self.0[timer as usize] = Instant::ZERO;
    }

    pub fn is_set(&self, timer: Timer) -> bool {
        self.0[timer as usize].is_set()
    }

    pub fn clear(&mut self) {
        self.0 = [Instant::ZERO; TIMERS.len()];
    }

    pub fn earliest(&self) -> Option<Instant> {
        self.0.iter().copied().filter(|t| t.is_set()).min()
    }

    fn take_due(&mut self, now: Instant) -> Option<Timer> {
        let timer = TIMERS.into_iter().find(|&t| self.is_set(t) && self.0[t as usize] <= now)?;
        self.cancel(timer);
        Some(timer)
    }
}

impl Tcb {
    /// When [`Tcb::on_timers`] has something to do; `None`: nothing is scheduled.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.timers.earliest()
    }

    /// Runs every timer that is due.
    pub fn on_timers(&mut self, env: &mut Env) -> Outcome {
        let mut reply = None;
        while let Some(timer) = self.timers.take_due(env.now) {
            match timer {
                Timer::Retransmit => reply = self.on_retransmit(env).or(reply),
                Timer::LossProbe => self.on_loss_probe(env),
                Timer::Reordering => self.on_reordering_timer(env),
                Timer::Persist => reply = self.on_persist(env).or(reply),
                Timer::DelayedAck => self.on_delayed_ack(env),
                Timer::Keepalive => reply = self.on_keepalive(env).or(reply),
                Timer::Final => self.end(env, 0),
            }
        }
        if self.state == State::Closed { Outcome::ends(reply) } else { Outcome::reply(reply) }
    }

    fn on_retransmit(&mut self, env: &mut Env) -> Option<super::Reply> {
        if !self.rec.stalled_since.is_set() {
            self.rec.stalled_since = self.snd.last_sent;
        }
        if self.is_early() {
            self.on_synack_timeout(env);
            return None;
        }
        if matches!(self.state, State::SynSent | State::SynReceived) {
            self.on_syn_timeout(env);
            return None;
        }
        if self.snd.una == self.snd.nxt {
            return None;
        }
        let expired = self.has_timed_out(env);
        self.suspect_blackhole(expired);
        if expired {
            return self.give_up(env);
        }
        self.enter_loss(env);
        self.rec.backoff = self.rec.backoff.saturating_add(1);
        self.arm_retransmit(env);
        None
    }

    fn on_syn_timeout(&mut self, env: &mut Env) {
        let retries = match self.options.syncnt {
            0 => env.sysctls.tcp_syn_retries[0] as u32,
            n => n,
        };
        let user = u64::from(self.options.user_timeout_ms) * 1000;
        let too_long = user != 0 && env.now.us_since(self.rec.stalled_since) >= user;
        let expired = u32::from(self.rec.backoff) >= retries || too_long;
        self.suspect_blackhole(expired);
        if expired {
            env.counters.inc(Counter::AttemptFails);
            env.counters.inc(Counter::TCPAbortOnTimeout);
            self.end(env, libc::ETIMEDOUT);
            return;
        }
        env.counters.inc(Counter::TCPTimeouts);
        self.rec.backoff += 1;
        self.rtt.timing = false;
        self.syn_due = true;
    }

    /// The RTO of a SYN: doubled, but not the first times.
    pub(super) fn arm_syn_timer(&mut self, env: &Env) {
        let doublings = self.rec.backoff.saturating_sub(SYN_LINEAR);
        self.timers.set(Timer::Retransmit, env.now.plus_us(self.rtt.backed_off_us(doublings)));
    }

    pub(super) fn arm_retransmit(&mut self, env: &Env) {
        self.timers.set(Timer::Retransmit, env.now.plus_us(self.rtt.backed_off_us(self.rec.backoff)));
    }

    /// R2 of RFC 9293 3.8.3, as retransmits_timed_out has it: the time that `retries` time-outs take from 200 ms on.
    fn has_timed_out(&self, env: &Env) -> bool {
        let waited_us = env.now.us_since(self.rec.stalled_since);
        if self.options.user_timeout_ms != 0 && !self.orphan {
            return waited_us >= u64::from(self.options.user_timeout_ms) * 1000;
        }
        let retries = if self.orphan {
            match env.sysctls.tcp_orphan_retries[0] {
                0 => 8,
                n => n,
            }
        } else {
            env.sysctls.tcp_retries2[0]
        } as u32;
        const LINEAR_FROM: u32 = 9;
        let base = u64::from(super::rtt::MIN_RTO_US);
        let most = u64::from(super::rtt::MAX_RTO_US);
        let bound = if retries <= LINEAR_FROM {
            ((2u64 << retries) - 1) * base
        } else {
            ((2u64 << LINEAR_FROM) - 1) * base + u64::from(retries - LINEAR_FROM) * most
        };
        waited_us >= bound && u32::from(self.rec.backoff) >= retries.min(LINEAR_FROM)
    }

    fn give_up(&mut self, env: &mut Env) -> Option<super::Reply> {
        env.counters.inc(Counter::TCPAbortOnTimeout);
        let reply = self.orphan.then(|| self.reset_reply(env));
        // What ICMP said of the peer is more than that it was silent.
        let errno = if self.soft_error != 0 { self.soft_error } else { libc::ETIMEDOUT };
        self.end(env, errno);
        reply
    }

    /// RFC 8985 7: the tail was perhaps lost; one more segment brings the SACK that tells.
    fn on_loss_probe(&mut self, env: &mut Env) {
        if self.rec.phase == super::Phase::Open && self.snd.una != self.snd.nxt && !self.rec.tlp_out {
            self.rec.tlp_now = true;
            self.rec.tlp_out = true;
            env.counters.inc(Counter::TCPLossProbes);
        }
    }

    /// Probe time-out: two round trips, and time for a delayed ACK when one segment is out.
    pub(super) fn arm_loss_probe(&mut self, env: &Env) {
        if env.sysctls.tcp_early_retrans[0] < 3
            || !self.sack_ok
            || self.rtt.srtt_us == 0
            || self.rec.phase != super::Phase::Open
            || self.rec.tlp_out
        {
            return;
        }
        let single = self.snd.nxt - self.snd.una <= self.snd.mss;
        let delay = if single { u64::from(super::rtt::MIN_RTO_US) } else { 2_000 };
        let pto = 2 * u64::from(self.rtt.srtt_us) + delay;
        if pto < self.rtt.backed_off_us(self.rec.backoff) {
            self.timers.set(Timer::LossProbe, env.now.plus_us(pto));
        }
    }

    /// After an ACK: RFC 6298 5.2 and 5.3.
    pub(super) fn rearm_after_ack(&mut self, env: &Env, advanced: bool) {
        if self.snd.una == self.snd.nxt {
            self.timers.cancel(Timer::Retransmit);
            self.timers.cancel(Timer::LossProbe);
        } else if advanced {
            self.arm_retransmit(env);
            self.arm_loss_probe(env);
        }
        if self.snd.wnd != 0 {
            self.end_persist();
        }
    }

    /// The window is open. What the probes have waited is no sign of a path that does not answer: neither the next time-out
    /// nor R2 counts it (tcp_ack_probe).
    fn end_persist(&mut self) {
        self.timers.cancel(Timer::Persist);
        if self.snd.una == self.snd.nxt {
            self.rec.backoff = 0;
            self.rec.stalled_since = crate::values::Instant::ZERO;
        }
    }

    fn on_persist(&mut self, env: &mut Env) -> Option<super::Reply> {
        if self.unsent() == 0 || self.snd.una != self.snd.nxt {
            return None;
        }
        if self.snd.wnd >= self.snd.mss.min(self.unsent()) {
            // The window is open: TCP_CORK held it back long enough.
            self.probe_due = true;
            return None;
        }
        if !self.rec.stalled_since.is_set() {
            self.rec.stalled_since = env.now;
        }
        let most = if self.orphan { 8 } else { env.sysctls.tcp_retries2[0] };
        let user = u64::from(self.options.user_timeout_ms) * 1000;
        let user_over = user != 0 && env.now.us_since(self.rec.stalled_since) >= user;
        // RFC 9293 MUST-37: open for ever as long as probes are answered.
        if i64::from(self.rec.probes) >= most || user_over {
            return self.give_up(env);
        }
        self.rec.probes = self.rec.probes.saturating_add(1);
        self.rec.backoff = self.rec.backoff.saturating_add(1);
        self.probe_due = true;
        env.counters.inc(Counter::TCPWinProbe);
        self.timers.set(Timer::Persist, env.now.plus_us(self.rtt.backed_off_us(self.rec.backoff)));
        None
    }

    fn on_delayed_ack(&mut self, env: &mut Env) {
        if self.rcv.nxt == self.rcv.wup {
            return;
        }
        // The peer waits for ACKs that no data carries: not an interactive exchange after all.
        self.acks.pingpong = false;
        self.acks.now = true;
        env.counters.inc(Counter::DelayedACKs);
    }

    /// RFC 9293 3.8.4 (MUST-24 to -29).
    pub(super) fn rearm_keepalive(&mut self, env: &Env) {
        if !self.options.keepalive || !self.state.is_synchronized() || self.state == State::TimeWait {
            return;
        }
        self.timers.set(Timer::Keepalive, env.now.plus_ms(self.keepidle_ms(env)));
    }

    fn keepidle_ms(&self, env: &Env) -> u64 {
        1000 * seconds_or(self.options.keepidle_s, env.sysctls.tcp_keepalive_time[0])
    }

    /// SO_KEEPALIVE was switched.
    pub fn set_keepalive(&mut self, env: &Env, on: bool) {
        self.options.keepalive = on;
        if on { self.rearm_keepalive(env) } else { self.timers.cancel(Timer::Keepalive) }
    }

    fn on_keepalive(&mut self, env: &mut Env) -> Option<super::Reply> {
        let interval_ms = 1000 * seconds_or(self.options.keepintvl_s, env.sysctls.tcp_keepalive_intvl[0]);
        if self.snd.una != self.snd.nxt || self.unsent() > 0 {
            self.rearm_keepalive(env);
            return None;
        }
        let most = seconds_or(self.options.keepcnt, env.sysctls.tcp_keepalive_probes[0]);
        if u64::from(self.rec.probes) >= most {
            env.counters.inc(Counter::TCPAbortOnTimeout);
            let reply = self.reset_reply(env);
            self.end(env, libc::ETIMEDOUT);
            return Some(reply);
        }
        self.rec.probes = self.rec.probes.saturating_add(1);
        self.probe_due = true;
        env.counters.inc(Counter::TCPKeepAlive);
        self.timers.set(Timer::Keepalive, env.now.plus_ms(interval_ms));
        None
    }

    /// An orphan does not stay in FIN-WAIT-2 for ever (tcp_fin_timeout, TCP_LINGER2).
    pub(super) fn start_fin_wait2(&mut self, env: &mut Env) {
        if !self.orphan || self.state != State::FinWait2 {
            return;
        }
        if self.options.linger2_s < 0 {
            env.counters.inc(Counter::TCPAbortOnLinger);
            self.end(env, 0);
            return;
        }
        let seconds = seconds_or(self.options.linger2_s as u32, env.sysctls.tcp_fin_timeout[0]);
        self.timers.set(Timer::Final, env.now.plus_ms(1000 * seconds));
    }
}

fn seconds_or(own: u32, sysctl: i64) -> u64 {
    if own != 0 { u64::from(own) } else { sysctl.max(0) as u64 }
}
