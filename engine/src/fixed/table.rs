//! A slab that grows by extents: stable slots, typed handles, generations.
//!
//! Invariants: a slot's generation is odd while it is in use and grows by one at each insertion and removal, so a stale
//! handle never finds a later tenant (until 2^31 tenants later). Free slots form a list by index.
#![allow(unsafe_code)]

use super::memory::{Memory, Shared};
use super::{Id, Item};
use crate::values::limits::EXTENT_BYTES;
use bytemuck::Zeroable;
use core::marker::PhantomData;
use core::mem::size_of;

/// In the arena: the directory of a table. `DIR` bounds its extents.
#[derive(Zeroable)]
#[repr(C)]
pub struct TableState<const DIR: usize> {
    /// Slots in use.
    live: u32,
    /// Slots ever used; those beyond are zero.
    high: u32,
    /// First free slot, plus one.
    free: u32,
    extents: u32,
    /// Which extent of the block holds the n-th part of the table.
    directory: [u32; DIR],
}

#[repr(C)]
struct Slot<T> {
    generation: u32,
    /// While free: the next free slot, plus one.
    next_free: u32,
    value: T,
}

/// One process's view of a table of `T`.
pub struct Table<T, const DIR: usize> {
    state: Shared<TableState<DIR>>,
    memory: Memory,
    limit: u32,
    of: PhantomData<T>,
}

impl<T: Item, const DIR: usize> Table<T, DIR> {
    /// Slots in one extent.
    pub const PER_EXTENT: usize = EXTENT_BYTES / size_of::<Slot<T>>();

    /// A view over `state`, at most `limit` entries (less where `DIR` extents hold less).
    pub fn new(state: Shared<TableState<DIR>>, memory: Memory, limit: usize) -> Self {
        const { assert!(size_of::<Slot<T>>() <= EXTENT_BYTES, "an entry must fit in an extent") };
        let limit = limit.min(DIR * Self::PER_EXTENT) as u32;
        Table { state, memory, limit, of: PhantomData }
    }

    pub fn len(&self) -> usize {
        self.state.live as usize
    }

    pub fn is_empty(&self) -> bool {
        self.state.live == 0
    }

    /// Slots ever used: indexes are below this.
    pub fn high(&self) -> u32 {
        self.state.high
    }

    pub fn limit(&self) -> usize {
        self.limit as usize
    }

    fn slot(&self, index: u32) -> *mut Slot<T> {
        debug_assert!(index < self.state.high);
        let extent = self.state.directory[index as usize / Self::PER_EXTENT];
        // SAFETY: `high` only covers slots whose extent is in the directory; the offset stays inside of the extent.
        unsafe {
            self.memory.extent(extent).as_ptr().cast::<Slot<T>>().add(index as usize % Self::PER_EXTENT)
        }
    }

    /// Puts `value` into a free slot; gives it back when the table or the block is full.
    pub fn insert(&mut self, value: T) -> Result<Id<T>, T> {
        let index = match self.state.free {
            0 => match self.fresh_slot() {
                Some(index) => index,
                None => return Err(value),
            },
            plus_one => {
                let index = plus_one - 1;
                // SAFETY: `slot` is in bounds; free slots hold an initialised header.
                self.state.free = unsafe { (*self.slot(index)).next_free };
                index
            }
        };
        self.state.live += 1;
        let slot = self.slot(index);
        // SAFETY: in bounds, ours alone, and nothing in it needs dropping (`Item` values own nothing).
        unsafe {
            (*slot).generation = (*slot).generation.wrapping_add(1);
            (*slot).next_free = 0;
            core::ptr::write(&raw mut (*slot).value, value);
            Ok(Id::new(index, (*slot).generation))
        }
    }

    fn fresh_slot(&mut self) -> Option<u32> {
        let index = self.state.high;
        if index >= self.limit {
            return None;
        }
        let part = index as usize / Self::PER_EXTENT;
        if part >= self.state.extents as usize {
            self.state.directory[part] = self.memory.take_extent()?;
            self.state.extents += 1;
        }
        self.state.high += 1;
        Some(index)
    }

    /// Empties the slot of `id`; false when it is not that entry's any more.
    pub fn remove(&mut self, id: Id<T>) -> bool {
        if self.get(id).is_none() {
            return false;
        }
        let slot = self.slot(id.index());
        let next = self.state.free;
        // SAFETY: in bounds, in use, ours alone.
        unsafe {
            (*slot).generation = (*slot).generation.wrapping_add(1);
            (*slot).next_free = next;
        }
        self.state.free = id.index() + 1;
        self.state.live -= 1;
        true
    }

    pub fn get(&self, id: Id<T>) -> Option<&T> {
        if id.index() >= self.state.high {
            return None;
        }
        // SAFETY: in bounds; a shared borrow of the table covers the reference.
        let slot = unsafe { &*self.slot(id.index()) };
        (slot.generation == id.generation()).then_some(&slot.value)
    }

    pub fn get_mut(&mut self, id: Id<T>) -> Option<&mut T> {
        if id.index() >= self.state.high {
            return None;
        }
        // SAFETY: in bounds; the exclusive borrow of the table covers the reference.
        let slot = unsafe { &mut *self.slot(id.index()) };
        (slot.generation == id.generation()).then_some(&mut slot.value)
    }

    /// The handle of whatever is in the slot now.
    pub fn id_at(&self, index: u32) -> Option<Id<T>> {
        if index >= self.state.high {
            return None;
        }
        // SAFETY: in bounds.
        let generation = unsafe { (*self.slot(index)).generation };
        (generation & 1 == 1).then(|| Id::new(index, generation))
    }

    /// All handles in use, by slot.
    pub fn ids(&self) -> impl Iterator<Item = Id<T>> + '_ {
        (0..self.state.high).filter_map(|index| self.id_at(index))
    }

    /// All entries, by slot.
    pub fn iter(&self) -> impl Iterator<Item = (Id<T>, &T)> + '_ {
        self.ids().filter_map(|id| self.get(id).map(|value| (id, value)))
    }

    /// Rebuilds the free list and the count from the slots themselves, after the holder of the lock died in the middle.
    pub fn repair(&mut self) {
        self.state.free = 0;
        self.state.live = 0;
        for index in (0..self.state.high).rev() {
            let next = self.state.free;
            // SAFETY: in bounds, ours alone.
            unsafe {
                let slot = self.slot(index);
                if (*slot).generation & 1 == 0 {
                    (*slot).next_free = next;
                    self.state.free = index + 1;
                } else {
                    self.state.live += 1;
                }
            }
        }
    }
}

impl<T: Item, const DIR: usize> core::ops::Index<Id<T>> for Table<T, DIR> {
    type Output = T;
    /// # Panics
    /// When `id` is stale. For handles that an invariant keeps alive; others go through `get`.
    fn index(&self, id: Id<T>) -> &T {
        self.get(id).expect("a live handle")
    }
}

impl<T: Item, const DIR: usize> core::ops::IndexMut<Id<T>> for Table<T, DIR> {
    fn index_mut(&mut self, id: Id<T>) -> &mut T {
        self.get_mut(id).expect("a live handle")
    }
}

/// Extents that a table of `count` entries of `size` bytes needs at most.
pub const fn extents_for(count: usize, size: usize) -> usize {
    let per_extent = EXTENT_BYTES / ((size + 8).div_ceil(8) * 8);
    count.div_ceil(per_extent)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(limit: usize) -> Table<u64, 8> {
        Table::new(Shared::leak(), Memory::leak(8), limit)
    }

    #[test]
    fn handles_go_stale() {
        let mut t = table(100);
        let a = t.insert(1).unwrap();
        assert_eq!(t[a], 1);
        assert!(t.remove(a) && !t.remove(a));
        let b = t.insert(2).unwrap();
        assert_eq!(b.index(), a.index());
        assert!(t.get(a).is_none() && t[b] == 2);
        assert_eq!(Id::<u64>::from_raw(b.to_raw()), Some(b));
    }

    #[test]
    fn limit_and_memory_bound_it() {
        let mut t = table(3);
        let ids: Vec<_> = (0..3).map(|n| t.insert(n).unwrap()).collect();
        assert_eq!(t.insert(9), Err(9));
        t.remove(ids[1]);
        assert!(t.insert(7).is_ok());
        let mut t: Table<u64, 8> = Table::new(Shared::leak(), Memory::leak(1), 1 << 20);
        let mut n = 0;
        while t.insert(n).is_ok() {
            n += 1;
        }
        assert_eq!(n as usize, Table::<u64, 8>::PER_EXTENT);
    }

    #[test]
    fn repair_finds_every_live_entry() {
        let mut t = table(100);
        let ids: Vec<_> = (0..10).map(|n| t.insert(n).unwrap()).collect();
        t.remove(ids[3]);
        t.remove(ids[7]);
        t.state.free = 77;
        t.state.live = 1;
        t.repair();
        assert_eq!(t.len(), 8);
        let again: Vec<_> = (0..2).map(|n| t.insert(n).unwrap().index()).collect();
        assert_eq!(again, [3, 7]);
    }
}
