//! The block of memory that everything lives in, and the two ways to look into it.
//!
//! A block is `extents` extents of [`EXTENT_BYTES`]; tables and the payload pool take extents from its front, and the
//! file behind it grows as they do. This file and `table.rs` are the only ones below `shared/` that hold raw pointers.
#![allow(unsafe_code)]

use super::Item;
use crate::values::limits::EXTENT_BYTES;
use bytemuck::Zeroable;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;

/// In the arena: how far the block is in use. All-zero: not at all.
#[derive(Zeroable)]
#[repr(C)]
pub struct MemoryState {
    /// Extents handed out.
    used: u32,
    /// Extents with memory behind them; at least `used`.
    backed: u32,
}

/// Asks the owner of the block to put memory behind its first `extents` extents; false when that cannot be had.
pub type Grow = fn(context: u64, extents: u32) -> bool;

/// One process's view of the block. Copies are equal views; whoever holds the lock of the arena may use them.
#[derive(Clone, Copy)]
pub struct Memory {
    state: NonNull<MemoryState>,
    base: NonNull<u8>,
    capacity: u32,
    grow: Grow,
    context: u64,
}

// SAFETY: the pointers lead to memory that is valid in every thread of the process; exclusion is the lock's business.
unsafe impl Send for Memory {}

impl Memory {
    /// A view of the block at `base`, `capacity` extents long.
    ///
    /// # Safety
    /// `base` is aligned to a page and `capacity * EXTENT_BYTES` of address space behind it stay mapped as long as any copy
    /// of the view lives; bytes that `grow` has backed can be read and written; `state` likewise. Nobody else touches them
    /// while a caller uses the view: the arena's lock, or a single owner, sees to that.
    pub unsafe fn new(
        state: NonNull<MemoryState>,
        base: NonNull<u8>,
        capacity: u32,
        grow: Grow,
        context: u64,
    ) -> Memory {
        Memory { state, base, capacity, grow, context }
    }

    /// A private block of `extents` extents of its own, for tests and tools; it is never given back.
    pub fn leak(extents: u32) -> Memory {
        let bytes = extents as usize * EXTENT_BYTES;
        let layout = core::alloc::Layout::from_size_align(bytes, EXTENT_BYTES).expect("a sane size");
        // SAFETY: the layout is not empty; alloc_zeroed returns null or fresh zeroed memory of that layout.
        let base = NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) }).expect("memory for a test");
        let state = NonNull::from(Box::leak(Box::new(MemoryState { used: 0, backed: extents })));
        // SAFETY: both blocks were just made, are leaked and belong to this view alone.
        unsafe { Memory::new(state, base, extents, |_, _| true, 0) }
    }

    /// Takes the next extent; `None` when the block is used up or the file cannot grow.
    pub fn take_extent(&self) -> Option<u32> {
        // SAFETY: `new`'s contract: valid, and nobody else uses it now.
        let state = unsafe { &mut *self.state.as_ptr() };
        if state.used >= self.capacity {
            return None;
        }
        if state.used >= state.backed {
            let want = (state.used + 16).min(self.capacity);
            if !(self.grow)(self.context, want) {
                return None;
            }
            state.backed = want;
        }
        state.used += 1;
        Some(state.used - 1)
    }

    /// Backs all that the block may ever hand out. False: the file cannot grow so far, and may still do so later.
    pub fn back_all(&self) -> bool {
        // SAFETY: as in `take_extent`.
        let state = unsafe { &mut *self.state.as_ptr() };
        let backed = state.backed >= self.capacity || (self.grow)(self.context, self.capacity);
        if backed {
            state.backed = self.capacity;
        }
        backed
    }

    /// Extents handed out so far.
    pub fn used(&self) -> u32 {
        // SAFETY: as in `take_extent`.
        unsafe { (*self.state.as_ptr()).used }
    }

    /// The first byte of an extent that was handed out.
    pub fn extent(&self, number: u32) -> NonNull<u8> {
        assert!(number < self.used(), "extent {number} was never handed out");
        // SAFETY: within the mapping, by the assertion and `new`'s contract.
        unsafe { self.base.add(number as usize * EXTENT_BYTES) }
    }
}

/// A plain struct in the arena, reached through the view of this process. References come into being only when it is
/// used, so nothing is assumed about the bytes between two turns of the lock.
pub struct Shared<T>(NonNull<T>);

// SAFETY: as for `Memory`.
unsafe impl<T: Send> Send for Shared<T> {}

impl<T: Item> Shared<T> {
    /// # Safety
    /// `at` is aligned, points to initialised memory (all-zero will do) that stays mapped as long as the view lives, and no
    /// other reference to it is used while this view is: the arena's lock, or a single owner, sees to that.
    pub unsafe fn new(at: NonNull<T>) -> Shared<T> {
        Shared(at)
    }

    /// A private zeroed value of its own, for tests and tools; it is never given back.
    pub fn leak() -> Shared<T> {
        let layout = core::alloc::Layout::new::<T>();
        // SAFETY: T is not zero-sized in any use (checked), zero bytes are a value of it (`Item`).
        let at = unsafe {
            assert!(layout.size() > 0);
            std::alloc::alloc_zeroed(layout).cast::<T>()
        };
        Shared(NonNull::new(at).expect("memory for a test"))
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: `new`'s contract.
        unsafe { self.0.as_ref() }
    }
}

impl<T> DerefMut for Shared<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: `new`'s contract; `&mut self` is the only view in use.
        unsafe { self.0.as_mut() }
    }
}
