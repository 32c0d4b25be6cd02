//! A hierarchical timing wheel: four levels of 64 slots at 1 ms, 64 ms, 4 s and 4.4 min. Insertion, cancellation and expiry
//! are constant-time. A timer never fires before its deadline and, if the wheel is turned in time, less than a
//! millisecond after it.
//!
//! An entry is a row of its own table, so the wheel needs not know whose deadline it is: the owner is an opaque
//! [`TimerKey`].

use super::Id;
use super::list::{Linked, Links, List};
use super::memory::{Memory, Shared};
use super::table::{Table, TableState, extents_for};
use crate::values::Instant;
use crate::values::limits::MAX_TIMERS;
use bytemuck::Zeroable;

const SLOTS: usize = 64;
const LEVELS: usize = 4;
/// Deadlines further off than this are held at this distance and looked at again.
const SPAN_MS: u64 = (1 << (6 * LEVELS)) - (1 << (6 * (LEVELS - 1)));
const DIR: usize = extents_for(MAX_TIMERS, size_of::<Timer>());

/// Whose timer it is; the wheel only hands it back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Zeroable)]
#[repr(C)]
pub struct TimerKey {
    pub kind: u64,
    pub id: u64,
}

/// A scheduled timer.
#[derive(Zeroable)]
#[repr(C)]
pub struct Timer {
    key: TimerKey,
    deadline: Instant,
    /// Level * SLOTS + slot, where it hangs now.
    place: u32,
    links: Links<Timer>,
}

pub type TimerId = Id<Timer>;

enum Slot {}

impl Linked<Slot> for Timer {
    fn links(&self) -> &Links<Self> {
        &self.links
    }
    fn links_mut(&mut self) -> &mut Links<Self> {
        &mut self.links
    }
}

/// In the arena: slots and the table of entries.
#[derive(Zeroable)]
#[repr(C)]
pub struct WheelState {
    /// The millisecond up to which everything has fired.
    now_ms: u64,
    occupied: [u64; LEVELS],
    slots: [[List<Timer, Slot>; SLOTS]; LEVELS],
}

/// One process's view of the wheel.
pub struct Wheel {
    state: Shared<WheelState>,
    timers: Table<Timer, DIR>,
}

impl Wheel {
    pub fn new(state: Shared<WheelState>, table: Shared<TableState<DIR>>, memory: Memory) -> Wheel {
        Wheel { state, timers: Table::new(table, memory, MAX_TIMERS) }
    }

    /// A wheel of its own, for tests.
    pub fn leak() -> Wheel {
        Wheel::new(Shared::leak(), Shared::leak(), Memory::leak(64))
    }

    /// Timers scheduled.
    pub fn len(&self) -> usize {
        self.timers.len()
    }

    pub fn is_empty(&self) -> bool {
        self.timers.is_empty()
    }

    /// Sets or moves a timer: `timer` is what an earlier call returned for this owner. `None` when the table is full.
    pub fn schedule(&mut self, timer: Option<TimerId>, key: TimerKey, deadline: Instant) -> Option<TimerId> {
        let id = match timer {
            Some(id) if self.timers.get(id).is_some() => {
                self.unhang(id);
                id
            }
            _ => {
                let fresh = Timer { key, deadline, place: 0, links: Links::default() };
                self.timers.insert(fresh).ok()?
            }
        };
        let entry = &mut self.timers[id];
        entry.deadline = deadline;
        entry.key = key;
        self.hang(id);
        Some(id)
    }

    pub fn cancel(&mut self, timer: TimerId) {
        if self.timers.get(timer).is_some() {
            self.unhang(timer);
            self.timers.remove(timer);
        }
    }

    /// When `timer` is due; `None` for one that has fired or was cancelled.
    pub fn deadline(&self, timer: TimerId) -> Option<Instant> {
        self.timers.get(timer).map(|t| t.deadline)
    }

    fn hang(&mut self, id: TimerId) {
        let now = self.state.now_ms;
        let due = self.timers[id].deadline.as_us().div_ceil(1000).clamp(now + 1, now + SPAN_MS);
        let level = ((63 - ((due ^ now) | 63).leading_zeros() as usize) / 6).min(LEVELS - 1);
        let slot = (due >> (6 * level)) as usize % SLOTS;
        self.timers[id].place = (level * SLOTS + slot) as u32;
        self.state.slots[level][slot].push_back(&mut self.timers, id);
        self.state.occupied[level] |= 1 << slot;
    }

    fn unhang(&mut self, id: TimerId) {
        let place = self.timers[id].place as usize;
        let (level, slot) = (place / SLOTS, place % SLOTS);
        self.state.slots[level][slot].remove(&mut self.timers, id);
        if self.state.slots[level][slot].is_empty() {
            self.state.occupied[level] &= !(1 << slot);
        }
    }

    /// A lower bound of the next expiry, exact for timers within 64 ms; `None` when nothing is scheduled. Looking again at
    /// that time costs a cascade at most.
    pub fn next_deadline(&self) -> Option<Instant> {
        let now = self.state.now_ms;
        (0..LEVELS)
            .filter_map(|level| self.next_in_level(level, now))
            .min()
            .map(|ms| Instant::from_us(ms * 1000))
    }

    fn next_in_level(&self, level: usize, now: u64) -> Option<u64> {
        let shift = 6 * level as u32;
        let position = now >> shift;
        // Slots are looked at in the order in which time reaches them, the next one first.
        let ahead = self.state.occupied[level].rotate_right((position as u32 + 1) % 64);
        if ahead == 0 {
            return None;
        }
        let first = position + 1 + u64::from(ahead.trailing_zeros());
        if level == 0 {
            return Some(first);
        }
        // Exact where it is cheap: the slot's own entries, when they are few.
        let slot = &self.state.slots[level][first as usize % SLOTS];
        let mut at = slot.front();
        let mut exact = u64::MAX;
        for _ in 0..8 {
            let Some(id) = at else { return Some(exact.max(first << shift)) };
            exact = exact.min(self.timers[id].deadline.as_us().div_ceil(1000));
            at = slot.next(&self.timers, id);
        }
        Some(first << shift)
    }

    /// Turns the wheel to `now` and returns one timer that is due, removed; call until `None`.
    pub fn expire(&mut self, now: Instant) -> Option<TimerKey> {
        let target = now.as_ms();
        loop {
            let here = self.state.now_ms as usize % SLOTS;
            if let Some(id) = self.state.slots[0][here].front() {
                self.unhang(id);
                let timer = &self.timers[id];
                if timer.deadline > now {
                    // Held at the end of the span, or a slot that is reached within its own millisecond.
                    self.hang(id);
                    continue;
                }
                let key = timer.key;
                self.timers.remove(id);
                return Some(key);
            }
            if self.state.now_ms >= target {
                return None;
            }
            self.advance(target);
        }
    }

    /// Moves on to the next millisecond at which something may happen, or to `target`.
    fn advance(&mut self, target: u64) {
        let from = self.state.now_ms;
        if self.timers.is_empty() {
            self.state.now_ms = target;
            return;
        }
        // Within the current round of level 0, skip empty slots; at its end, take the next slots of higher levels apart.
        let round_end = (from | 63) + 1;
        let rest = self.state.occupied[0] & !((2u64 << (from % 64)).wrapping_sub(1));
        let next = if rest != 0 && from % 64 != 63 {
            (from & !63) + u64::from(rest.trailing_zeros())
        } else {
            round_end
        };
        self.state.now_ms = next.min(target);
        if self.state.now_ms == round_end {
            self.cascade();
        }
    }

    fn cascade(&mut self) {
        let now = self.state.now_ms;
        for level in 1..LEVELS {
            let slot = (now >> (6 * level)) as usize % SLOTS;
            let mut pending = core::mem::take(&mut self.state.slots[level][slot]);
            self.state.occupied[level] &= !(1 << slot);
            while let Some(id) = pending.pop_front(&mut self.timers) {
                self.hang_at_or_after(id, now);
            }
            if slot != 0 {
                break;
            }
        }
    }

    /// As `hang`, but a timer due this very millisecond goes to the slot under the hand.
    fn hang_at_or_after(&mut self, id: TimerId, now: u64) {
        let due = self.timers[id].deadline.as_us().div_ceil(1000);
        if due <= now {
            let slot = now as usize % SLOTS;
            self.timers[id].place = slot as u32;
            self.state.slots[0][slot].push_back(&mut self.timers, id);
            self.state.occupied[0] |= 1 << slot;
        } else {
            self.hang(id);
        }
    }

    /// Rebuilds every list from the entries themselves, after the holder of the lock died in the middle.
    pub fn repair(&mut self) {
        self.timers.repair();
        let ids: Vec<TimerId> = self.timers.ids().collect();
        let now_ms = self.state.now_ms;
        *self.state = WheelState { now_ms, ..WheelState::zeroed() };
        for id in ids {
            self.timers[id].links = Links::default();
            self.hang(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(id: u64) -> TimerKey {
        TimerKey { kind: 1, id }
    }

    #[test]
    fn fires_in_time_and_never_early() {
        let mut w = Wheel::leak();
        let start = 123_456_789;
        while w.expire(Instant::from_us(start)).is_some() {}
        for (n, ms) in
            [1u64, 5, 63, 64, 65, 200, 4095, 4096, 4097, 70_000, 7_200_000, 40_000_000].iter().enumerate()
        {
            w.schedule(None, key(n as u64), Instant::from_us(start + ms * 1000)).unwrap();
            let _ = n;
        }
        let mut fired = Vec::new();
        let mut now = start;
        while !w.is_empty() {
            let next = w.next_deadline().unwrap();
            assert!(next.as_us() > now, "progress");
            now = next.as_us();
            while let Some(k) = w.expire(next) {
                fired.push((k.id, (now - start).div_ceil(1000)));
            }
        }
        let want = [1, 5, 63, 64, 65, 200, 4095, 4096, 4097, 70_000, 7_200_000, 40_000_000];
        assert_eq!(fired.len(), want.len());
        for ((id, at), (n, want)) in fired.iter().zip(want.iter().enumerate()) {
            assert_eq!(*id, n as u64);
            assert!(*at >= *want && *at <= *want + 1, "{at} for {want}");
        }
    }

    proptest! {
        #[test]
        fn agrees_with_a_sorted_list(ops in proptest::collection::vec((0u64..20, 1u64..300_000_000, 0u8..4), 1..120)) {
            let mut w = Wheel::leak();
            let mut ids = [None; 20];
            let mut model: std::collections::BTreeMap<u64, u64> = Default::default();
            let mut now = 1_000_000u64;
            for (who, delta, op) in ops {
                match op {
                    0 => {
                        if let Some(id) = ids[who as usize].take() { w.cancel(id); }
                        model.remove(&who);
                    }
                    1 | 2 => {
                        ids[who as usize] = w.schedule(ids[who as usize], key(who), Instant::from_us(now + delta));
                        model.insert(who, now + delta);
                    }
                    _ => {
                        now += delta / 7;
                        while let Some(k) = w.expire(Instant::from_us(now)) {
                            let due = model.remove(&k.id);
                            prop_assert!(due.is_some_and(|d| d <= now), "{:?} at {}", due, now);
                            ids[k.id as usize] = None;
                        }
                        for (who, &due) in &model {
                            prop_assert!(due > now - now % 1000, "{who} due {due} is late at {now}");
                        }
                    }
                }
                prop_assert_eq!(w.len(), model.len());
                if let Some(first) = model.values().min() {
                    prop_assert!(w.next_deadline().unwrap().as_us() <= first.div_ceil(1000) * 1000);
                }
            }
        }
    }
}
