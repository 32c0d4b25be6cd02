//! ICMP errors about a connection's segments: RFC 9293 3.9.2.2, RFC 5927, and Linux's tcp_v4_err where they leave a choice.

use super::{Env, Outcome, State, Tcb};
use crate::values::{Counter, Error, SeqNum};

impl Tcb {
    /// Whether an ICMP error quotes something that is in flight. Anyone can send one: the number is what a blind attacker does
    /// not know (RFC 5927 4.1).
    fn quotes_flight(&mut self, env: &mut Env, seq: SeqNum) -> bool {
        if matches!(self.state, State::Closed | State::TimeWait | State::Listen) {
            return false;
        }
        let oldest = if self.is_early() { self.snd.iss } else { self.snd.una };
        let plausible = oldest.before_eq(seq) && seq.before_eq(self.snd.nxt);
        if !plausible {
            env.counters.inc(Counter::OutOfWindowIcmps);
        }
        plausible
    }

    /// A segment did not arrive. An attempt to connect ends with the error; a connection goes on trying, and the error
    /// is what it ends with if it has to give up, or what SO_ERROR tells.
    pub fn unreachable(&mut self, env: &mut Env, seq: SeqNum, error: Error) -> Outcome {
        if !self.quotes_flight(env, seq) {
            return Outcome::DONE;
        }
        if self.is_attempt() {
            env.counters.inc(Counter::AttemptFails);
            self.end(env, error.errno());
            return Outcome::ends(None);
        }
        self.soft_error = error.errno();
        Outcome::DONE
    }

    /// What SO_ERROR tells of a connection that lives: the error of the last ICMP, once.
    pub fn take_soft_error(&mut self) -> i32 {
        core::mem::take(&mut self.soft_error)
    }

    /// A link on the way takes no more than `path_mss` bytes of TCP options and data. What is in flight is sent again in smaller
    /// segments, without a cut of the window: no congestion was told (RFC 1191 6.5, tcp_simple_retransmit).
    pub fn path_shrank(&mut self, env: &mut Env, seq: SeqNum, path_mss: u32) -> Outcome {
        if !self.quotes_flight(env, seq) || path_mss >= self.path_mss {
            return Outcome::DONE;
        }
        match self.state {
            State::SynSent => self.shrink_syn(),
            _ if self.state.is_synchronized() || self.is_early() => {}
            _ => return Outcome::DONE,
        }
        self.path_mss = path_mss;
        if self.state == State::SynSent {
            return Outcome::DONE;
        }
        let options = if self.ts.enabled { 12 } else { 0 };
        self.snd.mss = self.snd.mss.min(path_mss.saturating_sub(options)).max(36);
        self.cc.set_mss(self.snd.mss);
        if self.snd.una != self.snd.nxt {
            self.send_flight_again();
        }
        Outcome::DONE
    }
}
