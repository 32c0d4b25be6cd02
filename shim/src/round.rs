//! Rounds: the program was told of several events, and works through them one after the other.
//!
//! A segment that leaves alone costs a system call, and often the processor: the peer on this machine is woken and runs. So
//! what is sent in a round waits for the answers to the events behind it, for a moment and for a few of them. It waits in the
//! stack, ready to be sent by whoever takes the lock next for anything else. Should nobody, because the program computes in the
//! middle of a round, the companion sends it: it looks every few milliseconds while there is traffic.

use crate::companion;
use crate::runtime::Runtime;
use core::cell::Cell;
use core::sync::atomic::{Ordering, fence};
use engine::values::Instant;

/// How many answers leave together.
const COMPANY: u32 = 32;
/// How long the first of them waits for the others.
const PATIENCE_US: u64 = 100;

/// What a thread is in the middle of.
struct Round {
    /// Events that were not answered yet.
    left: Cell<u32>,
    /// Answers that wait.
    held: Cell<u32>,
    /// The last of them is not sent yet, or left waiting.
    fresh: Cell<bool>,
}

thread_local! {
    static ROUND: Round =
        const { Round { left: Cell::new(0), held: Cell::new(0), fresh: Cell::new(false) } };
}

/// The program is told of `events`.
pub fn begins(events: usize) {
    // Late in a thread's life there are no rounds any more.
    let _ = ROUND.try_with(|round| {
        round.left.set(events as u32);
        round.held.set(0);
    });
}

/// The program has answered one.
pub fn answers() {
    let _ = ROUND.try_with(|round| {
        round.left.set(round.left.get().saturating_sub(1));
        round.held.set(round.held.get() + 1);
        round.fresh.set(true);
    });
}

/// Whether what is there to be sent may wait for more; asked under the lock. `now` reads the clock.
pub fn goes_on(rt: &Runtime, now: impl FnOnce() -> Instant) -> bool {
    let waits = |round: &Round| {
        let fresh = round.fresh.replace(false);
        let (left, held) = (round.left.get(), round.held.get());
        // What the read of a lone event has brought about has no company to wait for.
        let has_company = left > 0 && held < COMPANY && (fresh || left > 1 || held > 0);
        let waits = has_company && may_wait(rt, fresh, now);
        if !waits {
            round.held.set(0);
        }
        waits
    };
    ROUND.try_with(waits).unwrap_or(false)
}

/// It has not waited for long, and the companion will see in time that it does. How long, is asked when the program reads the
/// next request, and not again with each answer: to read the clock is a good part of what such a call costs.
fn may_wait(rt: &Runtime, fresh: bool, now: impl FnOnce() -> Instant) -> bool {
    let held = &rt.role().held_us;
    let in_time = match held.load(Ordering::Relaxed) {
        0 => {
            held.store(now().as_us(), Ordering::Relaxed);
            // First said, then looked; the companion, before it sleeps for longer, does the same.
            fence(Ordering::SeqCst);
            true
        }
        since => fresh || now().us_since(Instant::from_us(since)) < PATIENCE_US,
    };
    in_time && companion::ticks(rt)
}

/// The program waits for something that is not ours.
pub fn pauses() {
    let held = ROUND.try_with(|round| round.held.replace(0)).unwrap_or(0);
    if held > 0
        && let Some(rt) = crate::runtime::attached()
    {
        // What is there to be sent leaves with the lock.
        drop(rt.lock());
    }
}
