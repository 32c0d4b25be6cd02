//! Time as the engine sees it: an argument, never a clock it reads itself.

use bytemuck::Zeroable;
use core::fmt;
use core::ops::{Add, AddAssign, Sub};
use core::time::Duration;

/// A point in time: microseconds of CLOCK_MONOTONIC, the same in every process of a family. Zero means "never set".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash, Zeroable)]
#[repr(transparent)]
pub struct Instant(u64);

impl Instant {
    pub const ZERO: Instant = Instant(0);
    /// Later than any time that a clock will show.
    pub const FAR: Instant = Instant(u64::MAX);

    pub const fn from_us(us: u64) -> Instant {
        Instant(us)
    }

    pub const fn as_us(self) -> u64 {
        self.0
    }

    pub const fn as_ms(self) -> u64 {
        self.0 / 1000
    }

    pub const fn is_set(self) -> bool {
        self.0 != 0
    }

    /// Microseconds from `earlier` to `self`; zero when `earlier` is not earlier.
    pub const fn us_since(self, earlier: Instant) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    pub const fn plus_us(self, us: u64) -> Instant {
        Instant(self.0.saturating_add(us))
    }

    pub const fn plus_ms(self, ms: u64) -> Instant {
        self.plus_us(ms.saturating_mul(1000))
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;
    fn add(self, d: Duration) -> Instant {
        Instant(self.0.saturating_add(u64::try_from(d.as_micros()).unwrap_or(u64::MAX)))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, d: Duration) {
        *self = *self + d;
    }
}

impl Sub for Instant {
    type Output = Duration;
    /// Saturates at zero.
    fn sub(self, earlier: Instant) -> Duration {
        Duration::from_micros(self.us_since(earlier))
    }
}

impl fmt::Debug for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}s", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}
