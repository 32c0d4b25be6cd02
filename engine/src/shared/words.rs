//! The words of the arena that are read and written without the lock: what sleepers sleep on, who drives, which processes
//! there are, and how the companion does.

use super::lock::RobustLock;
use super::relay::RelayWords;
use crate::stack::{Holder, Wake, WakeKind};
use crate::sys;
use crate::values::limits::{MAX_PROCESSES, MAX_WAITERS};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::os::fd::RawFd;

/// Lives in the arena beside the stack. All zero: nobody sleeps, nobody drives. The lock in it is made with the arena.
#[repr(C)]
pub struct Words {
    /// A futex word for each waiter, by the index of its handle: 0 asleep (or not in use), 1 woken.
    pub waiters: [AtomicU32; MAX_WAITERS],
    pub role: RoleWords,
    /// Processes of the family. The first place is never used: as a holder it stands for descriptors in messages.
    processes: [ProcessWords; MAX_PROCESSES],
    pub companion: CompanionWords,
    pub relays: RelayWords,
}

/// A place in the list of processes.
#[repr(C)]
struct ProcessWords {
    /// One of `FREE`, `EXPECTED`, `THERE`, `LEAVING`.
    state: AtomicU32,
    /// `EXPECTED`: the process that forks; `THERE`: the process itself, 0 where its number means nothing to others
    /// (another PID namespace).
    pid: AtomicU32,
    /// When it was started, as /proc/PID/stat has it; 0: not known.
    started: AtomicU64,
    /// It is in an exec, and what does not survive that is still counted. Changed under the lock.
    execs: AtomicU32,
    _pad: AtomicU32,
}

const FREE: u32 = 0;
const EXPECTED: u32 = 1;
const THERE: u32 = 2;
const LEAVING: u32 = 3;

/// A process of the family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Process {
    /// Its place, by which the stack knows what it holds.
    pub holder: Holder,
    /// 0: not known.
    pub pid: u32,
    /// When it was started, by the kernel's clock; 0: not known. With `pid` this names a process for good.
    pub started: u64,
    /// A child that its parent, `pid`, is about to make.
    pub is_expected: bool,
    /// It becomes, or has become, a program that has nothing of the family's. Its place is kept in case that fails.
    pub is_leaving: bool,
}

impl Words {
    /// Wakes a sleeping thread; `event_fds` are the arena's, as this process has them. Never while the lock is held.
    pub fn wake(&self, wake: Wake, event_fds: &[RawFd]) {
        let Some(word) = self.waiters.get(wake.waiter as usize) else { return };
        // Also where the word says "woken" already: that may be a late wake-up of the waiter that had this index before, which
        // went another way (an eventfd, a futex) than the present one sleeps.
        word.store(1, Ordering::Release);
        match wake.kind {
            WakeKind::Futex => sys::futex_wake(word, 1),
            WakeKind::EventFd(n) => {
                if let Some(&fd) = event_fds.get(n as usize) {
                    sys::ring(fd);
                }
            }
        }
    }

    /// A place for a child that process `parent` is about to make. `None`: [`MAX_PROCESSES`] are there.
    pub fn expect_process(&self, parent: u32) -> Option<Holder> {
        let (n, place) = self.processes.iter().enumerate().skip(1).find(|(_, p)| {
            p.state.compare_exchange(FREE, EXPECTED, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        })?;
        place.pid.store(parent, Ordering::Release);
        Some(n as Holder)
    }

    /// The process of that place is there; said by itself or by its parent, whoever comes first.
    pub fn process_is_there(&self, holder: Holder, pid: u32, started: u64) {
        let Some(place) = self.processes.get(holder as usize) else { return };
        // Both say the same, except that only the process itself knows when it was started.
        place.pid.store(pid, Ordering::Release);
        if started != 0 {
            place.started.store(started, Ordering::Release);
        }
        place.state.store(THERE, Ordering::Release);
    }

    /// The process execs, and nothing of ours goes on in it; [`Words::process_is_there`] takes it back.
    pub fn process_leaves(&self, holder: Holder) {
        if let Some(place) = self.processes.get(holder as usize) {
            place.state.store(LEAVING, Ordering::Release);
        }
    }

    /// Processes that are there or will be.
    pub fn has_members(&self) -> bool {
        self.processes().any(|p| !p.is_leaving)
    }

    /// An exec begins, or is over: what that means for what the process holds is said under the same hold of the lock.
    pub fn process_execs(&self, holder: Holder, execs: bool) {
        if let Some(place) = self.processes.get(holder as usize) {
            place.execs.store(u32::from(execs), Ordering::Release);
        }
    }

    pub fn is_in_exec(&self, holder: Holder) -> bool {
        self.processes.get(holder as usize).is_some_and(|p| p.execs.load(Ordering::Acquire) != 0)
    }

    /// The place is free. What its process held was given back before, under the lock.
    pub fn process_is_gone(&self, holder: Holder) {
        let Some(place) = self.processes.get(holder as usize) else { return };
        place.pid.store(0, Ordering::Release);
        place.started.store(0, Ordering::Release);
        place.execs.store(0, Ordering::Release);
        place.state.store(FREE, Ordering::Release);
    }

    pub fn processes(&self) -> impl Iterator<Item = Process> + '_ {
        self.processes.iter().enumerate().skip(1).filter_map(|(n, place)| {
            let state = place.state.load(Ordering::Acquire);
            (state != FREE).then(|| Process {
                holder: n as Holder,
                pid: place.pid.load(Ordering::Acquire),
                started: place.started.load(Ordering::Acquire),
                is_expected: state == EXPECTED,
                is_leaving: state == LEAVING,
            })
        })
    }

    /// The place of a process that is there.
    pub fn holder_of(&self, pid: u32) -> Option<Holder> {
        self.processes().find(|p| p.pid == pid && !p.is_expected).map(|p| p.holder)
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
    /// Since when something that could be sent waits for more, microseconds; 0: nothing does. Changed under the lock.
    pub held_us: AtomicU64,
    /// Some socket has had O_ASYNC.
    pub signals_sent: AtomicU32,
    _spare: [AtomicU32; 9],
}

impl RoleWords {
    /// What could be sent is being sent; said under the lock.
    #[inline]
    pub fn nothing_is_held(&self) {
        if self.held_us.load(Ordering::Relaxed) != 0 {
            self.held_us.store(0, Ordering::Relaxed);
        }
    }
}

/// How the companion sleeps.
pub mod sleep {
    /// Not for long: it looks again within milliseconds.
    pub const LIGHT: u32 = 0;
    /// Until somebody rings: a thread of the family watches the packet sockets. Who gives that up has to ring.
    pub const DEEP: u32 = 1;
    /// It watches the packet sockets itself, until `deadline_us`. Who makes an earlier deadline has to ring.
    pub const WATCHING: u32 = 2;
}

/// Whether there is a companion.
pub mod companion {
    /// Not started yet.
    pub const NONE: u32 = 0;
    /// Some process starts it.
    pub const STARTING: u32 = 1;
    /// Started: it has the listening socket, or will have it in a moment.
    pub const STARTED: u32 = 2;
    /// It cannot be had.
    pub const UNAVAILABLE: u32 = 3;
}

/// The companion and those who need it.
#[repr(C)]
pub struct CompanionWords {
    /// Held by the companion as long as it lives: the kernel notes its death in it.
    pub life: RobustLock,
    /// One of [`companion`].
    pub state: AtomicU32,
    pub pid: AtomicU32,
    /// One of [`sleep`].
    pub sleep: AtomicU32,
    /// Counts the companions, so that descriptors of an old one are told from those of the present one.
    pub generation: AtomicU32,
    /// When it was started last, microseconds.
    pub started_us: AtomicU64,
    /// Until when it sleeps while it is [`sleep::WATCHING`].
    pub deadline_us: AtomicU64,
    /// What names its socket.
    pub name: AtomicU64,
    /// Known to the family only: who says it belongs to it.
    pub secret: [AtomicU64; 2],
    /// The counters were written (TCPRELOAD_STATS).
    pub stats_written: AtomicU32,
    /// Companions that have died soon after their start, one after the other.
    pub short_lives: AtomicU32,
    /// Signals wait in the stack, for the companion to send them.
    pub signals: AtomicU32,
    _spare: [AtomicU32; 5],
}

impl CompanionWords {
    /// It was there, and has died.
    #[inline]
    pub fn has_died(&self) -> bool {
        self.state.load(Ordering::Acquire) == companion::STARTED && self.life.is_abandoned()
    }

    /// It has to be started, again perhaps, or has not come up yet. Not where it cannot be had: there is nothing to be done then,
    /// and this is asked before every lock.
    #[inline]
    pub fn needs_attention(&self) -> bool {
        match self.state.load(Ordering::Acquire) {
            companion::UNAVAILABLE => false,
            companion::STARTED => self.pid.load(Ordering::Relaxed) == 0 || self.life.is_abandoned(),
            _ => true,
        }
    }

    pub fn secret(&self) -> [u64; 2] {
        [self.secret[0].load(Ordering::Acquire), self.secret[1].load(Ordering::Acquire)]
    }
}
