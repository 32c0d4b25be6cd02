//! The payload pool: chunks of one page, taken on demand and given back at once.
//!
//! Invariant: a chunk is either on the free list or owned by exactly one stream buffer.
#![allow(unsafe_code)]

use super::memory::{Memory, Shared};
use crate::values::limits::{CHUNK_BYTES, EXTENT_BYTES, MAX_CHUNKS};
use bytemuck::{Zeroable, ZeroableInOption};
use core::num::NonZeroU32;

const PER_EXTENT: usize = EXTENT_BYTES / CHUNK_BYTES;
const DIRECTORY: usize = MAX_CHUNKS / PER_EXTENT;

/// Names a chunk: its index plus one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct ChunkId(NonZeroU32);

// SAFETY: transparent wrapper of NonZeroU32, for which zero is `None`.
unsafe impl ZeroableInOption for ChunkId {}

/// In the arena: the directory and the free list of the pool.
#[derive(Zeroable)]
#[repr(C)]
pub struct PoolState {
    /// Chunks in use.
    used: u32,
    /// Chunks ever taken.
    high: u32,
    /// First free chunk; the rest are chained through their first four bytes.
    free: Option<ChunkId>,
    extents: u32,
    directory: [u32; DIRECTORY],
}

/// One process's view of the pool.
pub struct Pool {
    state: Shared<PoolState>,
    memory: Memory,
    limit: u32,
}

impl Pool {
    /// A view over `state`, at most `limit` chunks.
    pub fn new(state: Shared<PoolState>, memory: Memory, limit: usize) -> Pool {
        Pool { state, memory, limit: limit.min(MAX_CHUNKS) as u32 }
    }

    /// Chunks in use.
    pub fn used(&self) -> usize {
        self.state.used as usize
    }

    /// Chunks that can still be taken, memory permitting.
    pub fn available(&self) -> usize {
        (self.limit - self.state.used.min(self.limit)) as usize
    }

    fn at(&self, id: ChunkId) -> *mut u8 {
        let index = id.0.get() as usize - 1;
        debug_assert!(index < self.state.high as usize);
        let extent = self.state.directory[index / PER_EXTENT];
        // SAFETY: chunks are numbered within extents that the directory holds.
        unsafe { self.memory.extent(extent).as_ptr().add(index % PER_EXTENT * CHUNK_BYTES) }
    }

    /// Backs all the memory there is, for a process that will not be able to; see [`Memory::back_all`].
    pub fn back_all(&self) -> bool {
        self.memory.back_all()
    }

    /// Takes a chunk, contents unspecified; `None` when the pool is full.
    pub fn take(&mut self) -> Option<ChunkId> {
        let id = match self.state.free {
            Some(id) => {
                // SAFETY: a free chunk's first four bytes are the next free chunk, or zero (`take` and `give` alone write it).
                self.state.free = NonZeroU32::new(unsafe { self.at(id).cast::<u32>().read() }).map(ChunkId);
                id
            }
            None => self.fresh()?,
        };
        self.state.used += 1;
        Some(id)
    }

    fn fresh(&mut self) -> Option<ChunkId> {
        if self.state.high >= self.limit {
            return None;
        }
        let part = self.state.high as usize / PER_EXTENT;
        if part >= self.state.extents as usize {
            self.state.directory[part] = self.memory.take_extent()?;
            self.state.extents += 1;
        }
        self.state.high += 1;
        NonZeroU32::new(self.state.high).map(ChunkId)
    }

    /// Gives a chunk back.
    pub fn give(&mut self, id: ChunkId) {
        debug_assert!(self.state.used > 0);
        let next = self.state.free.map_or(0, |c| c.0.get());
        // SAFETY: the chunk is the caller's, and is nobody's from here on.
        unsafe { self.at(id).cast::<u32>().write(next) };
        self.state.free = Some(id);
        self.state.used -= 1;
    }

    pub fn bytes(&self, id: ChunkId) -> &[u8; CHUNK_BYTES] {
        // SAFETY: in bounds, initialised (the block starts zeroed), borrowed as long as the pool is.
        unsafe { &*self.at(id).cast() }
    }

    pub fn bytes_mut(&mut self, id: ChunkId) -> &mut [u8; CHUNK_BYTES] {
        // SAFETY: as `bytes`, exclusively.
        unsafe { &mut *self.at(id).cast() }
    }

    /// Rebuilds the free list after the holder of the lock died: every chunk that `owned` does not name becomes free.
    pub fn repair(&mut self, owned: impl Iterator<Item = ChunkId>) {
        let mut in_use = vec![false; self.state.high as usize];
        for id in owned {
            in_use[id.0.get() as usize - 1] = true;
        }
        self.state.free = None;
        self.state.used = self.state.high;
        for index in (0..self.state.high).rev() {
            if !in_use[index as usize]
                && let Some(n) = NonZeroU32::new(index + 1)
            {
                self.give(ChunkId(n));
            }
        }
    }

    /// A pool of its own, for tests.
    pub fn leak(chunks: usize) -> Pool {
        Pool::new(Shared::leak(), Memory::leak(chunks.div_ceil(PER_EXTENT) as u32), chunks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_gives_and_ends() {
        let mut p = Pool::leak(32);
        let all: Vec<_> = (0..32).map(|_| p.take().unwrap()).collect();
        assert!(p.take().is_none());
        for (n, &id) in all.iter().enumerate() {
            p.bytes_mut(id).fill(n as u8);
        }
        assert!(all.iter().enumerate().all(|(n, &id)| p.bytes(id).iter().all(|&b| b == n as u8)));
        p.give(all[5]);
        p.give(all[9]);
        assert_eq!((p.take(), p.take(), p.take()), (Some(all[9]), Some(all[5]), None));
        p.repair(all[..16].iter().copied());
        assert_eq!(p.used(), 16);
        assert_eq!(p.take(), Some(all[16]));
    }
}
