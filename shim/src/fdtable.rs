//! Whose descriptor is it? A table of this process by descriptor number: lock-free, async-signal-safe, a load for a foreign
//! descriptor and less than that while the process has no arena.
//!
//! An entry that says "unknown" is settled at its first use: SO_COOKIE names the kernel socket, and the arena knows its
//! own. So a descriptor that came by a door that nobody watched is recognised all the same.

use crate::runtime::{self, Runtime};
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use engine::stack::{EpollId, SockId, Stack};
use engine::sys;
use std::os::fd::RawFd;

/// Numbers beyond this are always foreign. The pages of the table are touched as numbers are used.
const ENTRIES: usize = 1 << 20;

const UNKNOWN: u64 = 0;
const FOREIGN: u64 = 1;
const ENGINE: u64 = 2;
const EPOLL_BIT: u64 = 1 << 63;

/// What a descriptor is to us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Foreign,
    Socket(SockId),
    /// An epoll descriptor that holds, or has held, sockets of ours.
    Epoll(EpollId),
}

static TABLE: AtomicPtr<AtomicU64> = AtomicPtr::new(core::ptr::null_mut());

/// Makes the table, when the arena is made.
pub fn start() -> Result<(), i32> {
    if TABLE.load(Ordering::Acquire).is_null() {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let at = sys::mmap(ENTRIES * 8, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)?;
        TABLE.store(at.as_ptr().cast(), Ordering::Release);
    }
    Ok(())
}

fn entry(fd: RawFd) -> Option<&'static AtomicU64> {
    let table = TABLE.load(Ordering::Acquire);
    if table.is_null() || fd < 0 || fd as usize >= ENTRIES {
        return None;
    }
    // SAFETY: within the mapping, which is never given back.
    Some(unsafe { &*table.add(fd as usize) })
}

fn decode(word: u64) -> Kind {
    if word & EPOLL_BIT != 0 {
        EpollId::from_raw(word & !EPOLL_BIT).map_or(Kind::Foreign, Kind::Epoll)
    } else {
        SockId::from_raw(word).map_or(Kind::Foreign, Kind::Socket)
    }
}

/// What `fd` is, and the runtime that it belongs to.
#[inline]
pub fn lookup(fd: RawFd) -> Option<(&'static Runtime, Kind)> {
    let rt = runtime::attached()?;
    let word = entry(fd)?.load(Ordering::Relaxed);
    match word {
        FOREIGN | ENGINE => None,
        UNKNOWN => recognise(fd),
        word => Some((rt, decode(word))),
    }
}

/// One of our sockets?
#[inline]
pub fn socket(fd: RawFd) -> Option<(&'static Runtime, SockId)> {
    match lookup(fd)? {
        (rt, Kind::Socket(id)) => Some((rt, id)),
        _ => None,
    }
}

/// The first use of a number: asks the kernel for the cookie, and the arena whether it knows it. A descriptor that came by a
/// door that nobody watched is one more of its socket.
#[cold]
pub fn recognise(fd: RawFd) -> Option<(&'static Runtime, Kind)> {
    identify(fd, |stack, id| stack.retain(id))
}

/// A descriptor arrives whose reference was taken when it departed.
pub fn take_over(fd: RawFd) -> Option<(&'static Runtime, Kind)> {
    identify(fd, |stack, id| {
        stack.retain(id);
        stack.release_in_flight(sys::monotonic_now(), id);
    })
}

fn identify(fd: RawFd, count: impl FnOnce(&mut Stack, SockId)) -> Option<(&'static Runtime, Kind)> {
    let rt = runtime::attached()?;
    let Ok(cookie) = sys::socket_cookie(fd) else {
        // Not a socket: remembered. Not open: it may become one.
        if sys::fcntl(fd, libc::F_GETFD, 0).is_ok() {
            set(fd, FOREIGN);
        }
        return None;
    };
    // In a signal handler inside of the engine nothing can be settled: this once it counts as foreign.
    let mut locked = rt.lock().ok()?;
    match locked.stack().socket_by_cookie(cookie) {
        Some(id) => {
            // Another thread may have been faster.
            let known = entry(fd).is_some_and(|e| e.load(Ordering::Relaxed) == id.to_raw());
            if !known {
                count(locked.stack(), id);
                set_socket(fd, id);
            }
            Some((rt, Kind::Socket(id)))
        }
        None => {
            set(fd, FOREIGN);
            None
        }
    }
}

fn set(fd: RawFd, word: u64) {
    if let Some(e) = entry(fd) {
        e.store(word, Ordering::Relaxed);
    }
}

pub fn set_socket(fd: RawFd, id: SockId) {
    note(fd);
    set(fd, id.to_raw());
}

pub fn set_epoll(fd: RawFd, id: EpollId) {
    note(fd);
    set(fd, id.to_raw() | EPOLL_BIT);
}

/// The number was given to something that is not ours.
pub fn set_foreign(fd: RawFd) {
    set(fd, FOREIGN);
}

/// A descriptor of the engine's own, which the program must neither close nor replace.
pub fn set_engine(fd: RawFd) {
    set(fd, ENGINE);
}

/// Whether `fd` was marked by [`set_engine`].
#[inline]
pub fn is_engine(fd: RawFd) -> bool {
    entry(fd).is_some_and(|e| e.load(Ordering::Relaxed) == ENGINE)
}

/// The number is free, or about to be: gives what it was.
pub fn take(fd: RawFd) -> Option<Kind> {
    let word = entry(fd)?.swap(UNKNOWN, Ordering::Relaxed);
    match decode(word) {
        Kind::Foreign => None,
        kind => Some(kind),
    }
}

/// Every number in `first..=last` that is ours.
pub fn ours_in(first: RawFd, last: RawFd) -> impl Iterator<Item = (RawFd, Kind)> {
    let last = last.min(HIGHEST.load(Ordering::Relaxed) as RawFd);
    (first.max(0)..=last).filter_map(|fd| match decode(entry(fd)?.load(Ordering::Relaxed)) {
        Kind::Foreign => None,
        kind => Some((fd, kind)),
    })
}

/// Every number that is ours.
pub fn ours() -> impl Iterator<Item = (RawFd, Kind)> {
    ours_in(0, RawFd::MAX)
}

/// The highest number that was ever ours, so that a walk over the table is short.
static HIGHEST: AtomicU64 = AtomicU64::new(0);

/// A number becomes ours.
fn note(fd: RawFd) {
    HIGHEST.fetch_max(fd.max(0) as u64, Ordering::Relaxed);
}
