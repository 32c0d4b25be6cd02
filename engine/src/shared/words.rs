//! The words of the arena that are read and written without the lock: what sleepers sleep on, and who drives.

use crate::values::limits::{MAX_PROCESSES, MAX_WAITERS};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Lives in the arena beside the stack. All zero: nobody sleeps, nobody drives.
#[repr(C)]
pub struct Words {
    /// A futex word for each waiter, by the index of its handle: 0 asleep (or not in use), 1 woken.
    pub waiters: [AtomicU32; MAX_WAITERS],
    pub role: RoleWords,
    /// Processes of the family, in no order; 0: a free place.
    pub pids: [AtomicU32; MAX_PROCESSES],
}

impl Words {
    /// A process joins. Twice is once; beyond [`MAX_PROCESSES`] it is not counted.
    pub fn join(&self, pid: u32) {
        if self.pids.iter().any(|p| p.load(Ordering::Acquire) == pid) {
            return;
        }
        for place in &self.pids {
            if place.compare_exchange(0, pid, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                return;
            }
        }
    }

    /// A process leaves.
    pub fn leave(&self, pid: u32) {
        for place in &self.pids {
            let _ = place.compare_exchange(pid, 0, Ordering::AcqRel, Ordering::Relaxed);
        }
    }

    /// Whether any process is left that `is_alive`; the dead are forgotten.
    pub fn has_members(&self, is_alive: impl Fn(u32) -> bool) -> bool {
        let mut any = false;
        for place in &self.pids {
            match place.load(Ordering::Acquire) {
                0 => {}
                pid if is_alive(pid) => any = true,
                pid => self.leave(pid),
            }
        }
        any
    }
}

/// Who drives: the thread that waits on the packet sockets for all. A lease, not a lock: see `wait` of the shim.
#[repr(C)]
pub struct RoleWords {
    /// `pid << 32 | tid` of the driver; 0: the role is free.
    pub holder: AtomicU64,
    /// When somebody last took a turn, microseconds of CLOCK_MONOTONIC.
    pub heartbeat_us: AtomicU64,
    /// Until when the driver sleeps if nothing happens, microseconds; `u64::MAX` for ever.
    pub deadline_us: AtomicU64,
    /// Which eventfd of the pool wakes the driver, plus one; 0 when it is not asleep.
    pub wake_slot: AtomicU32,
    /// Threads asleep that could drive.
    pub sleepers: AtomicU32,
    /// `pid << 32 | tid` of the sleeper that looks every so often whether anybody drives; 0: none.
    pub deputy: AtomicU64,
    /// Threads that were woken with something to do and have not come back to sleep.
    pub busy: AtomicU32,
    _pad: AtomicU32,
    /// Eventfds of the pool in use, one bit each.
    pub event_fds: AtomicU64,
    _spare: [AtomicU32; 12],
}
