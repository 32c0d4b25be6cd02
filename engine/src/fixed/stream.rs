//! A stream of bytes over pool chunks, with random access.
//!
//! The stream occupies positions `start..end`; position `p` lives in chunk `p / CHUNK_BYTES` of a ring of chunks, so a
//! byte is found without walking, and bytes that arrive out of order are written where they belong, beyond `end`, before
//! those in between exist. Up to [`INLINE`] chunks are named inside the buffer; a larger one names its chunks in two index
//! chunks. An empty buffer holds no chunk.
//!
//! Callers speak in offsets from `start`; what a position means in sequence numbers is theirs to know.

use super::pool::{ChunkId, Pool};
use crate::values::limits::{CHUNK_BYTES, STREAM_CHUNKS};
use bytemuck::Zeroable;

/// Chunks named inside the buffer itself.
const INLINE: usize = 8;
const PER_INDEX: usize = CHUNK_BYTES / 4;
const INDEXES: usize = STREAM_CHUNKS / PER_INDEX;
const C: u64 = CHUNK_BYTES as u64;

#[derive(Zeroable)]
#[repr(C)]
pub struct StreamBuf {
    start: u64,
    end: u64,
    /// One past the highest chunk number that may be present.
    top: u64,
    inline: [Option<ChunkId>; INLINE],
    /// Chunks that hold chunk names, once the buffer spans more than `INLINE`.
    index: [Option<ChunkId>; INDEXES],
}

impl Default for StreamBuf {
    fn default() -> Self {
        Self::zeroed()
    }
}

impl StreamBuf {
    /// The largest number of bytes that can be held at any alignment.
    pub const MAX_BYTES: usize = (STREAM_CHUNKS - 1) * CHUNK_BYTES;

    /// Contiguous bytes held.
    pub fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    fn is_large(&self) -> bool {
        self.index[0].is_some()
    }

    fn slot(&self, pool: &Pool, chunk: u64) -> Option<ChunkId> {
        if !self.is_large() {
            return self.inline[chunk as usize % INLINE];
        }
        let at = chunk as usize % STREAM_CHUNKS;
        let words: &[Option<ChunkId>; PER_INDEX] = names(pool.bytes(self.index[at / PER_INDEX]?));
        words[at % PER_INDEX]
    }

    fn set_slot(&mut self, pool: &mut Pool, chunk: u64, id: Option<ChunkId>) {
        if !self.is_large() {
            self.inline[chunk as usize % INLINE] = id;
            return;
        }
        let at = chunk as usize % STREAM_CHUNKS;
        if let Some(index) = self.index[at / PER_INDEX] {
            names_mut(pool.bytes_mut(index))[at % PER_INDEX] = id;
        }
    }

    /// Moves the names of the chunks out to index chunks; false when the pool is full.
    fn enlarge(&mut self, pool: &mut Pool) -> bool {
        let mut index = [None; INDEXES];
        for n in 0..INDEXES {
            let Some(id) = pool.take() else {
                index.iter().flatten().for_each(|&id| pool.give(id));
                return false;
            };
            pool.bytes_mut(id).fill(0);
            index[n] = Some(id);
        }
        let old = core::mem::replace(&mut self.inline, [None; INLINE]);
        self.index = index;
        let first = self.start / C;
        for chunk in first..self.top.min(first + INLINE as u64) {
            self.set_slot(pool, chunk, old[chunk as usize % INLINE]);
        }
        true
    }

    /// The chunk that holds position `chunk * CHUNK_BYTES`, taken from the pool if it is not there yet.
    fn chunk_for_write(&mut self, pool: &mut Pool, chunk: u64) -> Option<ChunkId> {
        let span = chunk - self.start / C + 1;
        if span > STREAM_CHUNKS as u64 || (span > INLINE as u64 && !self.is_large() && !self.enlarge(pool)) {
            return None;
        }
        if let Some(id) = self.slot(pool, chunk) {
            return Some(id);
        }
        let id = pool.take()?;
        self.set_slot(pool, chunk, Some(id));
        self.top = self.top.max(chunk + 1);
        Some(id)
    }

    /// Stores `data` at `offset` from the start, within or beyond what is held, without moving the end. Returns how many
    /// bytes were stored: fewer than given when the pool or the buffer is full.
    pub fn write_at(&mut self, pool: &mut Pool, offset: usize, data: &[u8]) -> usize {
        let mut done = 0;
        while done < data.len() {
            let at = self.start + (offset + done) as u64;
            let Some(id) = self.chunk_for_write(pool, at / C) else { break };
            let within = (at % C) as usize;
            let n = (CHUNK_BYTES - within).min(data.len() - done);
            pool.bytes_mut(id)[within..within + n].copy_from_slice(&data[done..done + n]);
            done += n;
        }
        done
    }

    /// Appends at the end. Returns how many bytes were stored.
    pub fn write(&mut self, pool: &mut Pool, data: &[u8]) -> usize {
        let n = self.write_at(pool, self.len(), data);
        self.end += n as u64;
        n
    }

    /// Takes `n` bytes beyond the end, which were stored by `write_at`, into the stream.
    pub fn extend(&mut self, n: usize) {
        self.end += n as u64;
        debug_assert!(self.end <= self.top * C);
    }

    /// The bytes `offset..offset + len` from the start, in pieces. Stops early at the end of what was stored.
    pub fn slices<'a>(&'a self, pool: &'a Pool, offset: usize, len: usize) -> Slices<'a> {
        Slices { buf: self, pool, at: self.start + offset as u64, end: self.start + (offset + len) as u64 }
    }

    /// Copies from `offset` on into `out`; returns the bytes copied.
    pub fn peek(&self, pool: &Pool, offset: usize, out: &mut [u8]) -> usize {
        let len = out.len().min(self.len().saturating_sub(offset));
        let mut done = 0;
        for piece in self.slices(pool, offset, len) {
            out[done..done + piece.len()].copy_from_slice(piece);
            done += piece.len();
        }
        done
    }

    /// Drops `n` bytes at the start and gives back the chunks that they filled. What was written beyond the end stays.
    pub fn consume(&mut self, pool: &mut Pool, n: usize) {
        debug_assert!(n <= self.len());
        let from = self.start / C;
        self.start += n as u64;
        for chunk in from..self.start / C {
            self.free_chunk(pool, chunk);
        }
    }

    fn free_chunk(&mut self, pool: &mut Pool, chunk: u64) {
        if let Some(id) = self.slot(pool, chunk) {
            self.set_slot(pool, chunk, None);
            pool.give(id);
        }
    }

    /// Gives everything back if no byte is held; `beyond` says that bytes were written past the end and must stay.
    pub fn shrink_if_empty(&mut self, pool: &mut Pool, beyond: bool) {
        if self.is_empty() && !beyond && self.top > 0 {
            self.clear(pool);
        }
    }

    /// Drops everything, also what was written beyond the end.
    pub fn clear(&mut self, pool: &mut Pool) {
        for chunk in self.start / C..self.top {
            self.free_chunk(pool, chunk);
        }
        for id in self.index.iter().flatten() {
            pool.give(*id);
        }
        *self = StreamBuf::zeroed();
    }

    /// Every chunk this buffer owns, for the repair of the pool.
    pub fn owned<'a>(&'a self, pool: &'a Pool) -> impl Iterator<Item = ChunkId> + 'a {
        let data = (self.start / C..self.top).filter_map(|chunk| self.slot(pool, chunk));
        data.chain(self.index.iter().flatten().copied())
    }
}

fn names(bytes: &[u8; CHUNK_BYTES]) -> &[Option<ChunkId>; PER_INDEX] {
    bytemuck_names::of(bytes)
}

fn names_mut(bytes: &mut [u8; CHUNK_BYTES]) -> &mut [Option<ChunkId>; PER_INDEX] {
    bytemuck_names::of_mut(bytes)
}

/// An index chunk read as the names in it.
#[allow(unsafe_code)]
mod bytemuck_names {
    use super::{CHUNK_BYTES, ChunkId, PER_INDEX};

    pub fn of(bytes: &[u8; CHUNK_BYTES]) -> &[Option<ChunkId>; PER_INDEX] {
        debug_assert!(bytes.as_ptr().cast::<u32>().is_aligned());
        // SAFETY: same size; chunks are page-aligned; every 32-bit pattern is an `Option<ChunkId>` (zero is `None`).
        unsafe { &*bytes.as_ptr().cast() }
    }

    pub fn of_mut(bytes: &mut [u8; CHUNK_BYTES]) -> &mut [Option<ChunkId>; PER_INDEX] {
        debug_assert!(bytes.as_ptr().cast::<u32>().is_aligned());
        // SAFETY: as `of`, exclusively.
        unsafe { &mut *bytes.as_mut_ptr().cast() }
    }
}

/// Pieces of a stream; see [`StreamBuf::slices`].
pub struct Slices<'a> {
    buf: &'a StreamBuf,
    pool: &'a Pool,
    at: u64,
    end: u64,
}

impl<'a> Iterator for Slices<'a> {
    type Item = &'a [u8];
    fn next(&mut self) -> Option<&'a [u8]> {
        if self.at >= self.end {
            return None;
        }
        let id = self.buf.slot(self.pool, self.at / C)?;
        let within = (self.at % C) as usize;
        let n = (CHUNK_BYTES - within).min((self.end - self.at) as usize);
        self.at += n as u64;
        Some(&self.pool.bytes(id)[within..within + n])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn content(buf: &StreamBuf, pool: &Pool) -> Vec<u8> {
        let mut out = vec![0; buf.len()];
        assert_eq!(buf.peek(pool, 0, &mut out), out.len());
        out
    }

    #[test]
    fn out_of_order_bytes_wait_beyond_the_end() {
        let mut pool = Pool::leak(64);
        let mut b = StreamBuf::default();
        assert_eq!(b.write(&mut pool, b"abc"), 3);
        assert_eq!(b.write_at(&mut pool, 6, b"ghi"), 3);
        assert_eq!(b.write(&mut pool, b"def"), 3);
        b.extend(3);
        assert_eq!(content(&b, &pool), b"abcdefghi");
        b.consume(&mut pool, 9);
        b.shrink_if_empty(&mut pool, false);
        assert_eq!(pool.used(), 0);
    }

    #[test]
    fn a_full_pool_stores_what_fits() {
        let mut pool = Pool::leak(16);
        let mut b = StreamBuf::default();
        let stored = b.write(&mut pool, &vec![7; 40 * CHUNK_BYTES]);
        assert_eq!(stored, 14 * CHUNK_BYTES, "two of the sixteen chunks name the others");
        b.clear(&mut pool);
        assert_eq!(pool.used(), 0);
    }

    #[test]
    fn the_largest_buffer_is_bounded() {
        let mut pool = Pool::leak(STREAM_CHUNKS + 64);
        let mut b = StreamBuf::default();
        let stored = b.write(&mut pool, &vec![1; StreamBuf::MAX_BYTES + 3 * CHUNK_BYTES]);
        assert!(stored >= StreamBuf::MAX_BYTES);
        b.consume(&mut pool, 5 * CHUNK_BYTES + 1);
        assert_eq!(b.write(&mut pool, &vec![2; CHUNK_BYTES]), CHUNK_BYTES);
        b.clear(&mut pool);
        assert_eq!(pool.used(), 0);
    }

    proptest! {
        #[test]
        fn behaves_like_a_vec(ops in proptest::collection::vec((0u8..4, 0usize..30_000), 1..80)) {
            let mut pool = Pool::leak(4096);
            let mut b = StreamBuf::default();
            let mut model: Vec<u8> = Vec::new();
            let mut seed = 1u8;
            for (op, n) in ops {
                match op {
                    0 | 1 => {
                        let data: Vec<u8> = (0..n).map(|i| (i as u8).wrapping_mul(seed)).collect();
                        seed = seed.wrapping_add(2);
                        prop_assert_eq!(b.write(&mut pool, &data), n);
                        model.extend_from_slice(&data);
                    }
                    2 => {
                        let n = n.min(model.len());
                        b.consume(&mut pool, n);
                        model.drain(..n);
                        b.shrink_if_empty(&mut pool, false);
                    }
                    _ => {
                        let off = n.min(model.len());
                        let mut out = vec![0; 5000];
                        let got = b.peek(&pool, off, &mut out);
                        prop_assert_eq!(&out[..got], &model[off..(off + 5000).min(model.len())]);
                    }
                }
                prop_assert_eq!(b.len(), model.len());
                prop_assert_eq!(b.owned(&pool).count(), pool.used());
            }
            prop_assert_eq!(content(&b, &pool), model);
            b.clear(&mut pool);
            prop_assert_eq!(pool.used(), 0);
        }
    }
}
