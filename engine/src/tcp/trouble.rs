//! ICMP errors about a connection's segments: RFC 9293 3.9.2.2, RFC 5927, and Linux's tcp_v4_err where they leave a choice.

use super::{Env, Outcome, Phase, State, Tcb};
use crate::values::{Counter, Error, SeqNum};

impl Tcb {
    /// Whether an ICMP error quotes something that is in flight. Anyone can send one: the number is what a blind attacker does
    /// not know (RFC 5927 4.1).
    fn quotes_flight(&mut self, env: &mut Env, seq: SeqNum) -> bool {
        if matches!(self.state, State::Closed | State::TimeWait | State::Listen) {
            return false;
        }
        let plausible = self.snd.una.before_eq(seq) && seq.before_eq(self.snd.nxt);
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
        if matches!(self.state, State::SynSent | State::SynReceived) {
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
        if !self.quotes_flight(env, seq) || !self.state.is_synchronized() {
            return Outcome::DONE;
        }
        if path_mss >= self.path_mss {
            return Outcome::DONE;
        }
        self.path_mss = path_mss;
        let options = if self.ts.enabled { 12 } else { 0 };
        self.snd.mss = self.snd.mss.min(path_mss.saturating_sub(options)).max(36);
        self.cc.set_mss(self.snd.mss);
        if self.snd.una != self.snd.nxt {
            if self.rec.phase == Phase::Open {
                self.remember_window();
                self.cc.ssthresh = self.cc.ssthresh.max(self.cc.cwnd / 4 * 3);
            }
            // Nothing was sent again for this yet.
            self.rec.undo_bytes = 0;
            self.rec.retrans_stamp = 0;
            self.take_all_for_lost();
        }
        Outcome::DONE
    }
}
