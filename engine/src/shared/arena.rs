//! The memory of one family: a memfd, mapped shared by each of its processes.
//!
//! Layout: [`Header`] (lock, words, memory accounting, device state, stack state), then extents. The full capacity is
//! mapped at once, the file behind it is grown as extents are handed out, so that mlockall(2) finds little to lock. A fresh
//! file is all zero, and all zero is an empty stack: only the lock has to be made.
//!
//! Invariant: nothing in the mapping is an address. Each process maps it where it likes.

use super::lock::{Outcome, RobustLock};
use super::words::Words;
use crate::device::DeviceState;
use crate::fixed::memory::MemoryState;
use crate::fixed::{Memory, Shared};
use crate::stack::{ArenaState, Stack};
use crate::sys;
use crate::values::limits::{EXTENT_BYTES, MAX_EXTENTS};
use core::cell::UnsafeCell;
use core::mem::{offset_of, size_of};
use core::ptr::NonNull;
use core::time::Duration;
use std::os::fd::RawFd;

/// "tcpreld" and a version: changes whenever the layout does. The sizes of the structs are checked beside it.
const MAGIC: u64 = u64::from_le_bytes(*b"tcpreld\x01");

/// The name of the memfd; /proc/PID/fd shows it as `/memfd:tcpreload (deleted)`.
pub const MEMFD_NAME: &core::ffi::CStr = c"tcpreload";

/// The front of the file.
#[repr(C)]
struct Header {
    magic: u64,
    /// `size_of::<Header>()` of the build that made the file.
    header_bytes: u64,
    extents: u64,
    lock: RobustLock,
    memory: MemoryState,
    words: Words,
    device: DeviceState,
    stack: ArenaState,
}

const HEADER_BYTES: usize = size_of::<Header>().next_multiple_of(EXTENT_BYTES);

/// Why an arena could not be made or opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ArenaError {
    /// A system call failed with this errno.
    Os(i32),
    /// The file is not an arena of this build.
    Foreign,
}

impl core::fmt::Display for ArenaError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            ArenaError::Os(errno) => write!(f, "{}", std::io::Error::from_raw_os_error(*errno)),
            ArenaError::Foreign => f.write_str("made by another version of tcpreload"),
        }
    }
}

/// One process's mapping of an arena.
pub struct Arena {
    header: NonNull<Header>,
    mapped_bytes: usize,
    fd: RawFd,
    stack: UnsafeCell<Stack>,
    device: UnsafeCell<Shared<DeviceState>>,
}

// SAFETY: the stack and the device state are only reached through `lock`, one thread at a time; the rest is atomics.
unsafe impl Sync for Arena {}
// SAFETY: nothing in it belongs to a thread.
unsafe impl Send for Arena {}

impl Arena {
    /// Makes a fresh arena, its memfd above the program's descriptors and closed on exec.
    ///
    /// # Errors
    /// [`ArenaError::Os`]: no memory, no descriptor, or RLIMIT_FSIZE forbids it.
    pub fn create() -> Result<Arena, ArenaError> {
        let fd = sys::memfd_create(MEMFD_NAME, libc::MFD_CLOEXEC).map_err(ArenaError::Os)?;
        let fd = sys::move_high(fd).map_err(ArenaError::Os)?;
        let arena = grow_file(fd, HEADER_BYTES + 16 * EXTENT_BYTES)
            .and_then(|()| map_largest(fd))
            .map_err(ArenaError::Os)
            .and_then(|(at, extents)| Arena::format(at, extents, fd));
        if arena.is_err() {
            let _ = sys::close(fd);
        }
        arena
    }

    fn format(at: NonNull<u8>, extents: u32, fd: RawFd) -> Result<Arena, ArenaError> {
        let header = at.cast::<Header>();
        // SAFETY: a fresh mapping of at least HEADER_BYTES, zeroed, that nobody else knows of.
        unsafe {
            (*header.as_ptr()).lock.init().map_err(ArenaError::Os)?;
            (*header.as_ptr()).words.companion.life.init().map_err(ArenaError::Os)?;
            (*header.as_ptr()).extents = u64::from(extents);
            (*header.as_ptr()).header_bytes = size_of::<Header>() as u64;
            (*header.as_ptr()).magic = MAGIC;
            Ok(Arena::view(header, extents, fd, true))
        }
    }

    /// Maps an arena that another process made, through its descriptor. `grow` says whether this process may enlarge it.
    ///
    /// # Errors
    /// [`ArenaError::Foreign`] when the file is not an arena of this build.
    pub fn open(fd: RawFd, grow: bool) -> Result<Arena, ArenaError> {
        let bytes = sys::file_size(fd).map_err(ArenaError::Os)? as usize;
        if bytes < HEADER_BYTES {
            return Err(ArenaError::Foreign);
        }
        let at = map(fd, HEADER_BYTES).map_err(ArenaError::Os)?.cast::<Header>();
        // SAFETY: HEADER_BYTES of the file are there and mapped; any bytes are valid integers.
        let (magic, header_bytes, extents) =
            unsafe { ((*at.as_ptr()).magic, (*at.as_ptr()).header_bytes, (*at.as_ptr()).extents) };
        // SAFETY: mapped just above, not referenced any more.
        unsafe { sys::munmap(at.as_ptr().cast(), HEADER_BYTES) };
        if magic != MAGIC || header_bytes != size_of::<Header>() as u64 || extents > MAX_EXTENTS as u64 {
            return Err(ArenaError::Foreign);
        }
        let at = map(fd, HEADER_BYTES + extents as usize * EXTENT_BYTES).map_err(ArenaError::Os)?;
        // SAFETY: an arena of this very layout, by the checks above.
        Ok(unsafe { Arena::view(at.cast(), extents as u32, fd, grow) })
    }

    /// # Safety
    /// `header` is the start of a mapping of HEADER_BYTES and `extents` extents that holds an arena of this layout.
    unsafe fn view(header: NonNull<Header>, extents: u32, fd: RawFd, may_grow: bool) -> Arena {
        let grow = if may_grow { grow_memfd } else { |_, _| false };
        let field = |offset: usize| header.cast::<u8>().as_ptr().wrapping_add(offset);
        let at = |offset: usize| NonNull::new(field(offset)).unwrap_or(header.cast());
        // SAFETY: all within the mapping (caller); the lock of this arena guards them.
        unsafe {
            let memory = Memory::new(
                at(offset_of!(Header, memory)).cast(),
                at(HEADER_BYTES),
                extents,
                grow,
                fd as u64,
            );
            let stack = Stack::view(at(offset_of!(Header, stack)).cast::<ArenaState>(), memory);
            let device = Shared::new(at(offset_of!(Header, device)).cast::<DeviceState>());
            Arena {
                header,
                mapped_bytes: HEADER_BYTES + extents as usize * EXTENT_BYTES,
                fd,
                stack: UnsafeCell::new(stack),
                device: UnsafeCell::new(device),
            }
        }
    }

    /// The memfd. It belongs to the arena.
    pub fn fd(&self) -> RawFd {
        self.fd
    }

    /// The words that need no lock.
    pub fn words(&self) -> &Words {
        // SAFETY: mapped as long as the arena lives; atomics only.
        unsafe { &(*self.header.as_ptr()).words }
    }

    fn raw_lock(&self) -> &RobustLock {
        // SAFETY: mapped as long as the arena lives, and never moved.
        unsafe { &(*self.header.as_ptr()).lock }
    }

    /// Takes the lock. If its last holder died inside, the stack is repaired first.
    ///
    /// `None` when this very thread holds it already (a signal handler that interrupted the engine).
    pub fn lock(&self) -> Option<Guard<'_>> {
        self.guard(self.raw_lock().lock())
    }

    /// As [`Arena::lock`], but also `None` when the lock could not be had within `wait`.
    pub fn lock_within(&self, wait: Duration) -> Option<Guard<'_>> {
        self.guard(self.raw_lock().lock_within(wait))
    }

    fn guard(&self, outcome: Outcome) -> Option<Guard<'_>> {
        if matches!(outcome, Outcome::Recursive | Outcome::Unavailable) {
            return None;
        }
        // SAFETY: this thread holds the lock from here until `_held` is dropped, which is when the references end; the
        // stack and the device state are disjoint.
        let guard = unsafe {
            Guard {
                stack: &mut *self.stack.get(),
                device: &mut *self.device.get(),
                _held: Held(self.raw_lock()),
            }
        };
        if outcome == Outcome::Taken {
            guard.stack.work_begins();
        } else {
            guard.stack.repair(sys::monotonic_now());
            guard.device.tear();
        }
        Some(guard)
    }

    /// The device state without the lock: a hint that may be out of date.
    pub fn peek_device(&self) -> &DeviceState {
        // SAFETY: plain words that are read as they are; the view itself does not change.
        unsafe { &*self.device.get() }
    }

    /// The stack without the lock, for an inspector that could not get it: a picture that may be torn.
    pub(super) fn peek(&self) -> &Stack {
        // SAFETY: the view is plain data of this process; what it leads to is read as it is.
        unsafe { &*self.stack.get() }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: the mapping belongs to this view, and no guard outlives it.
        unsafe { sys::munmap(self.header.as_ptr().cast(), self.mapped_bytes) };
        let _ = sys::close(self.fd);
    }
}

/// The lock, held. Giving it up is dropping it.
pub struct Guard<'a> {
    pub stack: &'a mut Stack,
    pub device: &'a mut DeviceState,
    _held: Held<'a>,
}

/// What unlocks; a field of its own so that a guard can be taken apart.
struct Held<'a>(&'a RobustLock);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.unlock();
    }
}

/// Maps `bytes` of the file, shared, and keeps them out of core dumps.
fn map(fd: RawFd, bytes: usize) -> Result<NonNull<u8>, i32> {
    let flags = libc::MAP_SHARED | libc::MAP_NORESERVE;
    let at = sys::mmap(bytes, libc::PROT_READ | libc::PROT_WRITE, flags, fd, 0)?;
    // SAFETY: the range was mapped just above; the advice changes no contents.
    unsafe { libc::madvise(at.as_ptr().cast(), bytes, libc::MADV_DONTDUMP) };
    Ok(at)
}

/// Maps as much address space as RLIMIT_AS leaves: 1 GiB, or less in powers of four down to 64 MiB.
fn map_largest(fd: RawFd) -> Result<(NonNull<u8>, u32), i32> {
    let mut extents = MAX_EXTENTS;
    loop {
        match map(fd, HEADER_BYTES + extents * EXTENT_BYTES) {
            Ok(at) => return Ok((at, extents as u32)),
            Err(errno) if extents <= MAX_EXTENTS / 16 => return Err(errno),
            Err(_) => extents /= 4,
        }
    }
}

fn grow_memfd(fd: u64, extents: u32) -> bool {
    grow_file(fd as RawFd, HEADER_BYTES + extents as usize * EXTENT_BYTES).is_ok()
}

/// Grows the file to `bytes`. Beyond RLIMIT_FSIZE the kernel would raise SIGXFSZ in the program: the limit is lifted for
/// the moment where the hard limit allows it, and the file stays as it is where it does not.
fn grow_file(fd: RawFd, bytes: usize) -> Result<(), i32> {
    let wanted = bytes as u64;
    let limit = sys::getrlimit(libc::RLIMIT_FSIZE)?;
    if wanted <= limit.0 {
        return sys::ftruncate(fd, wanted);
    }
    if wanted > limit.1 {
        return Err(libc::EFBIG);
    }
    sys::setrlimit(libc::RLIMIT_FSIZE, (limit.1, limit.1))?;
    let grown = sys::ftruncate(fd, wanted);
    sys::setrlimit(libc::RLIMIT_FSIZE, limit)?;
    grown
}
