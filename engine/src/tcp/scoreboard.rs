//! What is in flight, in order: when each part was sent, whether it was sent again, and what is thought to have become of it
//! (RFC 2018, RFC 6675, RFC 8985 5).
//!
//! A connection sends up to 64 KB at a time; what leaves together is one [`Span`] until SACKs and losses cut it up. The board has a
//! fixed number of spans. When they are used up, neighbours in the same state become one, which counts as sent when its later part
//! was: a loss is then found later, never where there is none.
//!
//! Invariants: spans are not empty and follow each other without gaps, from SND.UNA to SND.NXT.

use crate::fixed::ranges::Range;
use crate::values::limits::FLIGHT_SPANS;
use crate::values::{Instant, SeqNum};
use bytemuck::Zeroable;

/// Where a part of the flight is thought to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Zeroable)]
#[repr(u8)]
pub enum Place {
    /// On its way, or arrived and not acknowledged yet.
    #[default]
    Network = 0,
    /// Lost, and not sent again since.
    Lost = 1,
    /// With the peer, out of order.
    Sacked = 2,
}

/// A time in microseconds that wraps after 71 minutes; compared within half of that.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Zeroable)]
#[repr(transparent)]
pub struct Micros(u32);

impl Micros {
    pub fn of(t: Instant) -> Micros {
        Micros(t.as_us() as u32)
    }

    pub fn after(self, other: Micros) -> bool {
        (self.0.wrapping_sub(other.0) as i32) > 0
    }

    /// Microseconds from `earlier` to this; 0 if it is not earlier.
    pub fn since(self, earlier: Micros) -> u32 {
        (self.0.wrapping_sub(earlier.0) as i32).max(0) as u32
    }

    fn latest(self, other: Micros) -> Micros {
        if other.after(self) { other } else { self }
    }
}

/// A part of the flight.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Zeroable)]
#[repr(C)]
pub struct Span {
    /// The number after it. It begins where the span before it ends.
    pub end: SeqNum,
    /// When it was sent last.
    pub sent: Micros,
    pub place: Place,
    /// It was sent more than once.
    pub again: bool,
    _pad: [u8; 2],
}

impl Span {
    /// Whether two neighbours may be one without anything being lost. Of what is lost or SACKed nobody asks when it was sent.
    fn is_like(&self, next: &Span) -> bool {
        self.place == next.place
            && match self.place {
                Place::Network => self.again == next.again && self.sent == next.sent,
                Place::Lost => self.again == next.again,
                Place::Sacked => true,
            }
    }

    /// This one and the one after it.
    fn and(&self, next: &Span) -> Span {
        Span { end: next.end, sent: self.sent.latest(next.sent), again: self.again || next.again, ..*self }
    }
}

#[derive(Clone, Copy, Zeroable)]
#[repr(C)]
pub struct Scoreboard {
    start: SeqNum,
    len: u32,
    spans: [Span; FLIGHT_SPANS],
}

impl Scoreboard {
    /// Nothing is in flight; `una` is sent next.
    pub fn restart(&mut self, una: SeqNum) {
        self.start = una;
        self.len = 0;
    }

    pub fn spans(&self) -> &[Span] {
        &self.spans[..self.len as usize]
    }

    fn end(&self) -> SeqNum {
        self.spans().last().map_or(self.start, |s| s.end)
    }

    /// Bytes in `place`.
    fn bytes(&self, place: Place) -> u32 {
        self.ranges().filter(|(_, s)| s.place == place).map(|(r, _)| r.len()).sum()
    }

    /// Bytes that the network is thought to hold (RFC 6675's pipe).
    pub fn in_network(&self) -> u32 {
        self.bytes(Place::Network)
    }

    pub fn lost(&self) -> u32 {
        self.bytes(Place::Lost)
    }

    pub fn sacked(&self) -> u32 {
        self.bytes(Place::Sacked)
    }

    /// The end of the highest data that the peer has SACKed.
    pub fn highest_sacked(&self) -> Option<SeqNum> {
        self.spans().iter().rev().find(|s| s.place == Place::Sacked).map(|s| s.end)
    }

    /// Every span with its range.
    pub fn ranges(&self) -> impl Iterator<Item = (Range, &Span)> {
        self.spans().iter().scan(self.start, |at, span| {
            let start = core::mem::replace(at, span.end);
            Some((Range::new(start, span.end), span))
        })
    }

    /// The first range that is lost.
    pub fn first_lost(&self) -> Option<Range> {
        self.ranges().find(|(_, s)| s.place == Place::Lost).map(|(range, _)| range)
    }

    /// New data up to `end` leaves. It joins what was sent up to `grain_us` before it.
    pub fn sent(&mut self, end: SeqNum, now: Micros, grain_us: u32) {
        if !end.after(self.end()) {
            return;
        }
        let new = Span { end, sent: now, place: Place::Network, again: false, _pad: [0; 2] };
        let len = self.len as usize;
        if let Some(last) = self.spans[..len].last_mut()
            && (last.place, last.again) == (Place::Network, false)
            && now.since(last.sent) <= grain_us
        {
            *last = last.and(&new);
            return;
        }
        if len == FLIGHT_SPANS && !self.make_room() {
            // Nothing but SACKed spans and holes: one SACK is forgotten, as a sender may (RFC 2018 5).
            let last = &mut self.spans[len - 1];
            *last = Span { sent: now, ..last.and(&new) };
            last.place = Place::Network;
            return;
        }
        self.spans[self.len as usize] = new;
        self.len += 1;
    }

    /// What is not SACKed in `range` has left again.
    pub fn sent_again(&mut self, range: Range, now: Micros) {
        self.change(range, |span| {
            if span.place != Place::Sacked {
                *span = Span { sent: now, place: Place::Network, again: true, ..*span };
            }
        });
    }

    /// The peer has `range`, out of order. `news` sees what it was not known to have. Returns how many bytes those are.
    pub fn sack(&mut self, range: Range, mut news: impl FnMut(Range, &Span)) -> u32 {
        let before = self.sacked();
        for (part, span) in self.ranges() {
            let part = Range::new(part.start.latest(range.start), part.end.earliest(range.end));
            if part.start.before(part.end) && span.place != Place::Sacked {
                news(part, span);
            }
        }
        self.change(range, |span| span.place = Place::Sacked);
        self.sacked() - before
    }

    /// All before `una` is acknowledged. `news` sees what the peer was not known to have. Returns how many bytes those are.
    pub fn acknowledge(&mut self, una: SeqNum, mut news: impl FnMut(Range, &Span)) -> u32 {
        let mut delivered = 0;
        let mut gone = 0;
        for (range, span) in self.ranges() {
            let part = Range::new(range.start, range.end.earliest(una));
            if !part.start.before(part.end) {
                break;
            }
            gone += usize::from(part.end == range.end);
            if span.place != Place::Sacked {
                delivered += part.len();
                news(part, span);
            }
        }
        self.spans.copy_within(gone..self.len as usize, 0);
        self.len -= gone as u32;
        self.start = self.start.latest(una);
        delivered
    }

    /// Of what the network is thought to hold, that for which `is_lost` says so is lost. Returns how many bytes.
    pub fn lose(&mut self, mut is_lost: impl FnMut(Range, &Span) -> bool) -> u32 {
        let mut lost = 0;
        let mut start = self.start;
        for n in 0..self.len as usize {
            let span = self.spans[n];
            let range = Range::new(core::mem::replace(&mut start, span.end), span.end);
            if span.place == Place::Network && is_lost(range, &span) {
                self.spans[n].place = Place::Lost;
                lost += range.len();
            }
        }
        if lost > 0 {
            self.merge();
        }
        lost
    }

    /// What of `range` the network is thought to hold is lost.
    pub fn lose_range(&mut self, range: Range) {
        self.change(range, |span| {
            if span.place == Place::Network {
                span.place = Place::Lost;
            }
        });
    }

    /// What was taken for lost was not: it is on its way.
    pub fn find_again(&mut self) {
        self.spans[..self.len as usize]
            .iter_mut()
            .filter(|s| s.place == Place::Lost)
            .for_each(|s| s.place = Place::Network);
        self.merge();
    }

    /// What was SACKed is not there any more (RFC 2018 8).
    pub fn forget_sacked(&mut self) {
        self.spans[..self.len as usize]
            .iter_mut()
            .filter(|s| s.place == Place::Sacked)
            .for_each(|s| s.place = Place::Network);
        self.merge();
    }

    /// Applies `f` to what lies in `range`. Nothing changes where there are not spans enough.
    fn change(&mut self, range: Range, f: impl Fn(&mut Span)) {
        if self.cut(range.start) && self.cut(range.end) {
            let mut start = self.start;
            for span in &mut self.spans[..self.len as usize] {
                let from = core::mem::replace(&mut start, span.end);
                if from.after_eq(range.start) && span.end.before_eq(range.end) {
                    f(span);
                }
            }
        }
        self.merge();
    }

    /// Makes `at` the border of two spans. False: there is no room for another.
    fn cut(&mut self, at: SeqNum) -> bool {
        let inside = |range: Range| range.start.before(at) && at.before(range.end);
        if !self.ranges().any(|(range, _)| inside(range)) {
            return true;
        }
        if self.len as usize == FLIGHT_SPANS && !self.make_room() {
            return false;
        }
        // Spans that are one now may have moved the border.
        let around = self.ranges().position(|(range, _)| inside(range));
        if let Some(n) = around {
            self.spans.copy_within(n..self.len as usize, n + 1);
            self.spans[n].end = at;
            self.len += 1;
        }
        true
    }

    /// Neighbours that are alike become one.
    fn merge(&mut self) {
        let mut kept = 0;
        for n in 0..self.len as usize {
            let span = self.spans[n];
            if kept > 0 && self.spans[kept - 1].is_like(&span) {
                self.spans[kept - 1] = self.spans[kept - 1].and(&span);
            } else {
                self.spans[kept] = span;
                kept += 1;
            }
        }
        self.len = kept as u32;
    }

    /// Makes one of the two neighbours in the same state that were sent closest to each other. False: there are none.
    fn make_room(&mut self) -> bool {
        let closest = (1..self.len as usize)
            .filter(|&n| self.spans[n - 1].place == self.spans[n].place)
            .min_by_key(|&n| {
                let (a, b) = (self.spans[n - 1].sent, self.spans[n].sent);
                a.since(b).max(b.since(a))
            });
        let Some(n) = closest else { return false };
        self.spans[n - 1] = self.spans[n - 1].and(&self.spans[n]);
        self.spans.copy_within(n + 1..self.len as usize, n);
        self.len -= 1;
        true
    }

    /// # Panics
    /// When an invariant does not hold.
    pub fn check(&self, una: SeqNum, nxt: SeqNum) {
        assert_eq!((self.start, self.end()), (una, nxt), "the scoreboard covers the flight");
        assert!(self.ranges().all(|(r, _)| r.start.before(r.end)), "an empty span");
        assert!(self.spans().first().is_none_or(|s| s.place != Place::Sacked), "SACKed at una");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A number in flight, as a model of the board keeps it.
    #[derive(Clone, Copy, PartialEq, Debug)]
    struct One {
        place: Place,
        sent: u32,
    }

    proptest! {
        /// Every number is where a plain array has it; only when the board is full may a SACK or a loss be missed, and
        /// times be later.
        #[test]
        fn behaves_like_an_array(base: u32, ops in proptest::collection::vec((0u32..600, 1u32..60, 0u8..6), 1..200)) {
            let mut board = Scoreboard::zeroed();
            let at = |n: u32| SeqNum(base.wrapping_add(n));
            board.restart(at(0));
            let (mut una, mut flight) = (0u32, Vec::<One>::new());
            for (now, (start, len, op)) in (1u32..).zip(ops) {
                let nxt = una + flight.len() as u32;
                let from = (una + start % (nxt - una + 1)).min(nxt);
                let to = (from + len).min(nxt);
                let part = (from - una) as usize..(to - una) as usize;
                let range = Range::new(at(from), at(to));
                match op {
                    0 | 1 => {
                        board.sent(at(nxt + len), Micros(now), 0);
                        flight.extend((0..len).map(|_| One { place: Place::Network, sent: now }));
                    }
                    // The first number is never SACKed without being acknowledged.
                    2 if from > una && from < to => {
                        let new = flight[part.clone()].iter().filter(|o| o.place != Place::Sacked).count();
                        let mut seen = 0;
                        let said = board.sack(range, |r, _| seen += r.len());
                        prop_assert_eq!((said, seen), (new as u32, new as u32));
                        flight[part].iter_mut().for_each(|o| o.place = Place::Sacked);
                    }
                    3 if from < to => {
                        board.lose_range(range);
                        flight[part].iter_mut().filter(|o| o.place == Place::Network).for_each(|o| o.place = Place::Lost);
                    }
                    4 if from < to => {
                        board.sent_again(range, Micros(now));
                        let others = flight[part].iter_mut().filter(|o| o.place != Place::Sacked);
                        others.for_each(|o| *o = One { place: Place::Network, sent: now });
                    }
                    5 => {
                        let rest = flight.split_off((from - una) as usize);
                        let new = flight.iter().filter(|o| o.place != Place::Sacked).count();
                        let mut seen = 0;
                        prop_assert_eq!(board.acknowledge(at(from), |r, _| seen += r.len()), new as u32);
                        prop_assert_eq!(seen, new as u32);
                        (una, flight) = (from, rest);
                        if flight.first().is_some_and(|o| o.place == Place::Sacked) {
                            board.forget_sacked();
                            flight.iter_mut().filter(|o| o.place == Place::Sacked).for_each(|o| o.place = Place::Network);
                        }
                    }
                    _ => {}
                }
                board.check(at(una), at(una + flight.len() as u32));
                for (range, span) in board.ranges() {
                    let part = (range.start - at(una)) as usize..(range.end - at(una)) as usize;
                    for one in &flight[part] {
                        prop_assert_eq!(one.place, span.place);
                        if one.place == Place::Network && !span.again {
                            prop_assert!(one.sent <= span.sent.0);
                        }
                    }
                }
                if board.len as usize > FLIGHT_SPANS - 3 {
                    break;
                }
            }
        }
    }

    /// Every second segment SACKed, more of them than there are spans: some SACKs are missed, nothing else goes wrong.
    #[test]
    fn a_full_board_goes_on() {
        let mut board = Scoreboard::zeroed();
        board.restart(SeqNum(0));
        board.sent(SeqNum(400), Micros(1), 0);
        for n in 0..200 {
            board.sack(Range::new(SeqNum(2 * n + 1), SeqNum(2 * n + 2)), |_, _| ());
            board.check(SeqNum(0), SeqNum(400));
        }
        assert!(board.sacked() >= FLIGHT_SPANS as u32 / 2 - 1 && board.len as usize <= FLIGHT_SPANS);
        board.sent(SeqNum(500), Micros(2), 0);
        board.check(SeqNum(0), SeqNum(500));
        board.sent(SeqNum(600), Micros(3), 0);
        board.check(SeqNum(0), SeqNum(600));
        let mut times = board.spans().iter().rev().take(1).map(|s| s.sent);
        assert_eq!(times.next(), Some(Micros(3)));
        board.acknowledge(SeqNum(600), |_, _| ());
        board.check(SeqNum(600), SeqNum(600));
    }

    #[test]
    fn what_leaves_together_is_one_span() {
        let mut board = Scoreboard::zeroed();
        board.restart(SeqNum(0));
        board.sent(SeqNum(100), Micros(10), 5);
        board.sent(SeqNum(200), Micros(15), 5);
        board.sent(SeqNum(300), Micros(30), 5);
        let spans: Vec<_> = board.spans().iter().map(|s| (s.end.0, s.sent.0)).collect();
        assert_eq!(spans, [(200, 15), (300, 30)]);
    }
}
