//! Which signals restart a call: as much of sigaction(2) as has to be known.
//!
//! ppoll never restarts by itself, so after EINTR the question is whether the handler that ran was installed with SA_RESTART.
//! Which handler ran is not known. While all handlers agree, the answer is theirs; where they differ, the call returns
//! EINTR, which every program must expect of at least one of them.

use core::sync::atomic::{AtomicU64, Ordering};

/// Signals with a handler, by the flag; bit n-1 for signal n.
static RESTARTING: AtomicU64 = AtomicU64::new(0);
static INTERRUPTING: AtomicU64 = AtomicU64::new(0);

/// A handler was installed, or taken away (default, ignored).
pub fn installed(signal: i32, handled: bool, restart: bool) {
    if !(1..=64).contains(&signal) {
        return;
    }
    let bit = 1u64 << (signal - 1);
    RESTARTING.fetch_and(!bit, Ordering::Relaxed);
    INTERRUPTING.fetch_and(!bit, Ordering::Relaxed);
    if handled {
        let set = if restart { &RESTARTING } else { &INTERRUPTING };
        set.fetch_or(bit, Ordering::Relaxed);
    }
}

/// siginterrupt(3).
pub fn set_interrupting(signal: i32, interrupting: bool) {
    if (1..=64).contains(&signal) {
        let bit = 1u64 << (signal - 1);
        let handled = (RESTARTING.load(Ordering::Relaxed) | INTERRUPTING.load(Ordering::Relaxed)) & bit != 0;
        installed(signal, handled, !interrupting);
    }
}

/// Whether an interrupted call goes on: every handler says SA_RESTART (or the signal had none and only stopped us).
pub fn restarts() -> bool {
    INTERRUPTING.load(Ordering::Relaxed) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handlers_decide_together() {
        assert!(restarts());
        installed(10, true, true);
        assert!(restarts());
        installed(12, true, false);
        assert!(!restarts());
        installed(12, false, false);
        assert!(restarts());
        set_interrupting(10, true);
        assert!(!restarts());
        installed(10, false, false);
    }
}
