//! Sequence numbers: RFC 9293 section 3.4, arithmetic modulo 2^32.

use bytemuck::Zeroable;
use core::fmt;
use core::ops::{Add, AddAssign, Sub};

/// A sequence number. It has no order of its own (`Ord` would be wrong across the wrap): ask `before` and `after`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash, Zeroable)]
#[repr(transparent)]
pub struct SeqNum(pub u32);

impl SeqNum {
    pub const fn new(n: u32) -> SeqNum {
        SeqNum(n)
    }

    /// SND.x < SND.y of the RFC: true when `self` comes before `other` in the half of the space that ends there.
    pub const fn before(self, other: SeqNum) -> bool {
        (self.0.wrapping_sub(other.0) as i32) < 0
    }

    pub const fn before_eq(self, other: SeqNum) -> bool {
        !other.before(self)
    }

    pub const fn after(self, other: SeqNum) -> bool {
        other.before(self)
    }

    pub const fn after_eq(self, other: SeqNum) -> bool {
        !self.before(other)
    }

    /// `start` <= self < `start` + `len`.
    pub const fn in_window(self, start: SeqNum, len: u32) -> bool {
        self.0.wrapping_sub(start.0) < len
    }

    /// The later of the two.
    pub const fn latest(self, other: SeqNum) -> SeqNum {
        if self.before(other) { other } else { self }
    }

    /// The earlier of the two.
    pub const fn earliest(self, other: SeqNum) -> SeqNum {
        if self.before(other) { self } else { other }
    }
}

impl Add<u32> for SeqNum {
    type Output = SeqNum;
    fn add(self, n: u32) -> SeqNum {
        SeqNum(self.0.wrapping_add(n))
    }
}

impl AddAssign<u32> for SeqNum {
    fn add_assign(&mut self, n: u32) {
        self.0 = self.0.wrapping_add(n);
    }
}

impl Sub<u32> for SeqNum {
    type Output = SeqNum;
    fn sub(self, n: u32) -> SeqNum {
        SeqNum(self.0.wrapping_sub(n))
    }
}

impl Sub for SeqNum {
    type Output = u32;
    /// The distance from `start` forward to `self`, modulo 2^32.
    fn sub(self, start: SeqNum) -> u32 {
        self.0.wrapping_sub(start.0)
    }
}

impl fmt::Debug for SeqNum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::SeqNum;

    #[test]
    fn order_wraps() {
        let a = SeqNum(u32::MAX - 1);
        let b = a + 4;
        assert!(a.before(b) && b.after(a) && !b.before(a));
        assert_eq!(b - a, 4);
        assert_eq!(a.latest(b), b);
        assert!(b.in_window(a, 5) && !b.in_window(a, 4));
    }
}
