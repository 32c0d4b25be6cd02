//! One turn of the engine: frames in, timers, segments out. What is sent is staged; it leaves when the lock is given back.
//!
//! Whoever holds the arena's lock may take a turn; nothing here sleeps or wakes anybody.

use crate::device::{Device, DeviceState};
use crate::stack::{Stack, TxSink};
use crate::values::Instant;

/// Frames taken in one turn at most, so that a flood cannot keep the lock.
pub const TURN_BUDGET: usize = 256;

/// What a turn found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Turn {
    /// Frames taken; [`TURN_BUDGET`] means that more may wait.
    pub frames: usize,
}

/// Receives what waits, up to the budget, runs the timers that are due, and hands what came of it to `sink`.
pub fn turn<D: Device>(
    stack: &mut Stack,
    device: &mut D,
    sink: &mut impl TxSink,
    state: &mut DeviceState,
    now: Instant,
) -> Turn {
    let mut unknown = false;
    let frames =
        device.receive(state, TURN_BUDGET, &mut |meta, ip| unknown |= !stack.handle_frame(now, meta, ip));
    if frames > 0 {
        device.refresh(state, stack.interfaces_mut(), now, unknown);
        device.count_drops(state, stack.counters_mut(), now);
    }
    if stack.next_deadline().is_some_and(|deadline| deadline <= now) {
        stack.handle_timers(now);
    }
    if stack.has_output() {
        stack.transmit(now, sink);
    }
    Turn { frames }
}
