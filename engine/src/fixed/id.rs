//! Typed handles: an index and the generation that it is good for.

use bytemuck::ZeroableInOption;
use core::fmt;
use core::hash::{Hash, Hasher};
use core::marker::PhantomData;
use core::num::NonZeroU64;

/// Names one slot of one table, as long as what was in it then is still in it. `Option<Id<T>>` takes 8 bytes and is
/// `None` when they are zero.
pub struct Id<T>(NonZeroU64, PhantomData<fn() -> T>);

// SAFETY: `Id` is a transparent wrapper of NonZeroU64 (plus a zero-sized marker), for which all-zero is `None`.
#[allow(unsafe_code)]
unsafe impl<T> ZeroableInOption for Id<T> {}

impl<T> Id<T> {
    /// `generation` is odd for a slot in use, hence never zero.
    pub(super) fn new(index: u32, generation: u32) -> Id<T> {
        let raw = (u64::from(generation) << 32) | u64::from(index);
        Id(NonZeroU64::new(raw | 1 << 32).unwrap_or(NonZeroU64::MIN), PhantomData)
    }

    pub fn index(self) -> u32 {
        self.0.get() as u32
    }

    pub fn generation(self) -> u32 {
        (self.0.get() >> 32) as u32
    }

    /// The handle as one number, for words that other code stores without knowing the type.
    pub fn to_raw(self) -> u64 {
        self.0.get()
    }

    /// The inverse of [`Id::to_raw`]; `None` for a number that no handle has.
    pub fn from_raw(raw: u64) -> Option<Id<T>> {
        if raw >> 32 & 1 == 0 { None } else { NonZeroU64::new(raw).map(|n| Id(n, PhantomData)) }
    }
}

impl<T> Clone for Id<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Id<T> {}
impl<T> PartialEq for Id<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}
impl<T> Eq for Id<T> {}
impl<T> Hash for Id<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}
impl<T> fmt::Debug for Id<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}.{}", self.index(), self.generation())
    }
}
