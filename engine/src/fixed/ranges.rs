//! A small ordered set of disjoint ranges of sequence numbers: what arrived out of order, what the peer has SACKed.
//!
//! Invariants: ranges are non-empty, sorted, and neither overlap nor touch. All lie within half the sequence space.

use crate::values::SeqNum;
use bytemuck::Zeroable;

/// Half-open: `start` is in it, `end` is not.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Zeroable)]
#[repr(C)]
pub struct Range {
    pub start: SeqNum,
    pub end: SeqNum,
}

impl Range {
    pub fn new(start: SeqNum, end: SeqNum) -> Range {
        Range { start, end }
    }

    pub fn len(&self) -> u32 {
        self.end - self.start
    }

    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }
}

#[derive(Clone, Copy, Zeroable)]
#[repr(C)]
pub struct RangeSet<const N: usize> {
    len: u32,
    ranges: [Range; N],
}

impl<const N: usize> Default for RangeSet<N> {
    fn default() -> Self {
        Self::zeroed()
    }
}

/// The set has no room for one more range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoRoom;

impl<const N: usize> RangeSet<N> {
    pub fn as_slice(&self) -> &[Range] {
        &self.ranges[..self.len as usize]
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Sequence numbers in the set.
    pub fn total(&self) -> u32 {
        self.as_slice().iter().map(Range::len).sum()
    }

    pub fn first(&self) -> Option<Range> {
        self.as_slice().first().copied()
    }

    pub fn last(&self) -> Option<Range> {
        self.as_slice().last().copied()
    }

    /// The range that covers all of `r`.
    pub fn covering(&self, r: Range) -> Option<Range> {
        self.as_slice().iter().copied().find(|x| x.start.before_eq(r.start) && r.end.before_eq(x.end))
    }

    /// The range that `seq` is in.
    pub fn containing(&self, seq: SeqNum) -> Option<Range> {
        self.as_slice().iter().copied().find(|x| seq.after_eq(x.start) && seq.before(x.end))
    }

    /// Adds `r`, merged with what it overlaps or touches. Returns how many numbers were new and the merged range.
    pub fn insert(&mut self, r: Range) -> Result<(u32, Range), NoRoom> {
        debug_assert!(!r.is_empty());
        let len = self.len as usize;
        let first = self.as_slice().iter().position(|x| r.start.before_eq(x.end)).unwrap_or(len);
        let after =
            self.ranges[first..len].iter().position(|x| r.end.before(x.start)).map_or(len, |n| first + n);
        if first == after {
            if len == N {
                return Err(NoRoom);
            }
            self.ranges.copy_within(first..len, first + 1);
            self.ranges[first] = r;
            self.len += 1;
            return Ok((r.len(), r));
        }
        let had: u32 = self.ranges[first..after].iter().map(Range::len).sum();
        let merged =
            Range::new(r.start.earliest(self.ranges[first].start), r.end.latest(self.ranges[after - 1].end));
        self.ranges[first] = merged;
        self.ranges.copy_within(after..len, first + 1);
        self.len -= (after - first - 1) as u32;
        Ok((merged.len() - had, merged))
    }

    /// Removes every number before `seq`.
    pub fn remove_before(&mut self, seq: SeqNum) {
        let len = self.len as usize;
        let keep = self.as_slice().iter().position(|x| seq.before(x.end)).unwrap_or(len);
        self.ranges.copy_within(keep..len, 0);
        self.len -= keep as u32;
        if let Some(x) = self.ranges[..self.len as usize].first_mut()
            && x.start.before(seq)
        {
            x.start = seq;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn behaves_like_a_set(base: u32, ops in proptest::collection::vec((0u32..400, 1u32..40, 0u8..5), 1..60)) {
            let mut set = RangeSet::<256>::default();
            let mut model = BTreeSet::new();
            let at = |n: u32| SeqNum(base.wrapping_add(n));
            for (start, len, op) in ops {
                if op == 0 {
                    set.remove_before(at(start));
                    model.retain(|&n| n >= start);
                } else {
                    let (new, merged) = set.insert(Range::new(at(start), at(start + len))).unwrap();
                    let before = model.len();
                    model.extend(start..start + len);
                    prop_assert_eq!(new as usize, model.len() - before);
                    prop_assert!(merged.len() >= len);
                }
                prop_assert_eq!(set.total() as usize, model.len());
                for n in 0..450 {
                    prop_assert_eq!(set.containing(at(n)).is_some(), model.contains(&n));
                }
                for pair in set.as_slice().windows(2) {
                    prop_assert!(pair[0].end.before(pair[1].start));
                }
            }
        }
    }

    #[test]
    fn a_full_set_still_merges() {
        let mut set = RangeSet::<2>::default();
        let r = |a, b| Range::new(SeqNum(a), SeqNum(b));
        set.insert(r(10, 20)).unwrap();
        set.insert(r(30, 40)).unwrap();
        assert_eq!(set.insert(r(50, 60)), Err(NoRoom));
        assert_eq!(set.insert(r(20, 30)), Ok((10, r(10, 40))));
    }
}
