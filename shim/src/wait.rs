//! Sleeping. Whoever waits, drives.
//!
//! A thread that has nothing to do takes the driver's role if it is free: it waits in ppoll for frames, for its own
//! descriptors and for the next timer, and runs the stack for all. Threads that find the role taken sleep until the driver
//! wakes them: on an eventfd of the arena's pool, or on their futex word when the pool is used up and they watch no kernel
//! descriptor.
//!
//! The role is a lease. A driver that leaves with its own result wakes one sleeper, which takes over. One that was killed is
//! found out by the sleepers of other processes, which look twice a second; a family of one process sleeps without looking.
//!
//! No wake-up is lost: a thread registers as a waiter and finds that there is nothing for it under one hold of the lock, and
//! before a driver sleeps it looks once more, under the lock, at whether it was woken.

use crate::errno::Errno;
use crate::runtime::{Locked, Runtime};
use core::sync::atomic::Ordering;
use core::time::Duration;
use engine::driver::TURN_BUDGET;
use engine::stack::{WaiterId, WakeKind};
use engine::sys;
use engine::values::Instant;

/// Kernel descriptors beside our own that are polled without allocation.
const INLINE_FDS: usize = 16;
/// How often sleepers look whether a driver in another process is still alive.
const LEASE_CHECK: Duration = Duration::from_millis(500);
/// How often a sleeper looks that has a kernel descriptor to watch and found no eventfd free.
const NO_EVENT_FD: Duration = Duration::from_millis(1);

/// Why a sleep ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Woken {
    /// What the waiter waits for may have come.
    Ready,
    /// A kernel descriptor of interest is ready.
    Kernel,
    TimedOut,
    /// A signal handler ran.
    Interrupted,
}

/// A thread that is about to sleep: registered with the stack, with an eventfd of the pool if one was free.
pub struct Sleeper<'r> {
    rt: &'r Runtime,
    pub id: WaiterId,
    event_fd: Option<u16>,
}

impl<'r> Sleeper<'r> {
    /// Registers this thread. The caller ties it to what it waits for, under the same lock.
    pub fn register(rt: &'r Runtime, locked: &mut Locked) -> Result<Sleeper<'r>, Errno> {
        let event_fd = rt.claim_event_fd();
        let kind = event_fd.map_or(WakeKind::Futex, WakeKind::EventFd);
        match locked.stack().waiter_begin(sys::getpid() as u32, kind) {
            Ok(id) => {
                if let Some(word) = rt.waiter_words().get(id.index() as usize) {
                    word.store(0, Ordering::Release);
                }
                Ok(Sleeper { rt, id, event_fd })
            }
            Err(error) => {
                rt.give_event_fd(event_fd);
                Err(error.into())
            }
        }
    }

    /// Takes the registration back. True: a wake-up was meant for this thread, and if it does not look for itself it must
    /// pass it on.
    pub fn unregister(self, locked: &mut Locked) -> bool {
        let woken = locked.stack().waiter_end(self.id);
        if let Some(n) = self.event_fd {
            // A wake-up that came late must not wake the next owner.
            self.rt.drain_event_fd(n);
        }
        self.rt.give_event_fd(self.event_fd);
        woken
    }

    fn is_woken(&self) -> bool {
        self.rt.waiter_words().get(self.id.index() as usize).is_none_or(|w| w.load(Ordering::Acquire) != 0)
    }

    /// Sleeps, and drives meanwhile if nobody else does. `fds`: kernel descriptors of interest. `mask`: the signal mask
    /// while sleeping.
    pub fn sleep(&self, fds: &mut [libc::pollfd], deadline: Option<Instant>, mask: Option<u64>) -> Woken {
        let role = self.rt.role();
        let me = me();
        loop {
            if self.is_woken() {
                return Woken::Ready;
            }
            if deadline.is_some_and(|d| sys::monotonic_now() >= d) {
                return Woken::TimedOut;
            }
            let holder = role.holder.load(Ordering::Acquire);
            let free = holder == 0 || is_dead(holder);
            let taken = free
                && self.event_fd.is_some()
                && role.holder.compare_exchange(holder, me, Ordering::AcqRel, Ordering::Acquire).is_ok();
            let woken = if taken {
                let woken = self.drive(fds, deadline, mask);
                self.leave_role(me);
                Some(woken)
            } else {
                self.sleep_beside(fds, deadline, mask, holder)
            };
            if let Some(woken) = woken {
                return woken;
            }
        }
    }

    /// The driver's loop, until there is something for this thread itself.
    fn drive(&self, fds: &mut [libc::pollfd], deadline: Option<Instant>, mask: Option<u64>) -> Woken {
        let role = self.rt.role();
        let spin_us = self.rt.config.spin_us;
        let mut spin_until = sys::monotonic_now().plus_us(spin_us);
        loop {
            let Ok(mut locked) = self.rt.lock() else { return Woken::Interrupted };
            let turn = locked.turn();
            if self.is_woken() || locked.stack().is_waiter_woken(self.id) {
                locked.stack().waiter_looks(self.id);
                return Woken::Ready;
            }
            let now = locked.now();
            if deadline.is_some_and(|d| now >= d) {
                return Woken::TimedOut;
            }
            if turn.frames == TURN_BUDGET {
                continue;
            }
            if turn.frames > 0 {
                spin_until = now.plus_us(spin_us);
            }
            if spin_us > 0 && now < spin_until {
                // TCPRELOAD_SPIN_US: a frame that comes soon finds us awake.
                drop(locked);
                core::hint::spin_loop();
                continue;
            }
            let wake_at = earliest(locked.stack().next_deadline(), deadline);
            // Set under the lock: whoever makes an earlier deadline after this sees it and rings.
            role.deadline_us.store(wake_at.unwrap_or(Instant::FAR).as_us(), Ordering::Release);
            role.wake_slot.store(self.event_fd.map_or(0, |n| u32::from(n) + 1), Ordering::Release);
            drop(locked);
            let timeout = wake_at.map(|t| Duration::from_micros(t.us_since(sys::monotonic_now())));
            let result = self.poll(self.rt.poll_fds(), fds, timeout, mask);
            role.wake_slot.store(0, Ordering::Release);
            role.heartbeat_us.store(now.as_us(), Ordering::Relaxed);
            match result {
                Err(libc::EINTR) => return Woken::Interrupted,
                Ok(true) => return Woken::Kernel,
                _ => {}
            }
        }
    }

    /// The role is given up; if others sleep, one of them takes over.
    fn leave_role(&self, me: u64) {
        let role = self.rt.role();
        let _ = role.holder.compare_exchange(me, 0, Ordering::AcqRel, Ordering::Acquire);
        role.turns.fetch_add(1, Ordering::Relaxed);
        if role.sleepers.load(Ordering::Acquire) > 0
            && let Ok(mut locked) = self.rt.lock()
        {
            locked.stack().wake_any(Some(self.id));
        }
    }

    /// Somebody else drives. `None`: look again.
    fn sleep_beside(
        &self,
        fds: &mut [libc::pollfd],
        deadline: Option<Instant>,
        mask: Option<u64>,
        holder: u64,
    ) -> Option<Woken> {
        let role = self.rt.role();
        let now = sys::monotonic_now();
        let mut timeout = deadline.map(|d| Duration::from_micros(d.us_since(now)));
        if holder >> 32 != sys::getpid() as u64 {
            timeout = Some(timeout.map_or(LEASE_CHECK, |t| t.min(LEASE_CHECK)));
        }
        role.sleepers.fetch_add(1, Ordering::AcqRel);
        // The role may have become free since it was looked at: whoever left then saw no sleeper.
        let left = role.holder.load(Ordering::Acquire) != holder;
        let result = if left {
            Ok(false)
        } else if self.event_fd.is_some() {
            self.poll(&[], fds, timeout, mask)
        } else if fds.is_empty() && mask.is_none() {
            self.wait_on_word(timeout)
        } else {
            let short = timeout.map_or(NO_EVENT_FD, |t| t.min(NO_EVENT_FD));
            self.poll(&[], fds, Some(short), mask)
        };
        role.sleepers.fetch_sub(1, Ordering::AcqRel);
        match result {
            Err(libc::EINTR) => Some(Woken::Interrupted),
            Ok(true) => Some(Woken::Kernel),
            // Woken to take over the role? Then there may be nothing ready: the caller looks, and comes back.
            _ if self.is_woken() => Some(Woken::Ready),
            _ => None,
        }
    }

    fn wait_on_word(&self, timeout: Option<Duration>) -> Result<bool, i32> {
        let Some(word) = self.rt.waiter_words().get(self.id.index() as usize) else { return Ok(false) };
        match sys::futex_wait(word, 0, timeout) {
            Err(libc::EINTR) => Err(libc::EINTR),
            _ => Ok(false),
        }
    }

    /// ppoll over our own descriptors, this thread's eventfd and the program's. True: one of the program's is ready.
    fn poll(
        &self,
        own: &[i32],
        fds: &mut [libc::pollfd],
        timeout: Option<Duration>,
        mask: Option<u64>,
    ) -> Result<bool, i32> {
        let mut inline = [libc::pollfd { fd: -1, events: 0, revents: 0 }; INLINE_FDS + 8];
        let mut heap;
        let count = own.len() + 1 + fds.len();
        let all: &mut [libc::pollfd] = if count <= inline.len() {
            &mut inline[..count]
        } else {
            heap = vec![libc::pollfd { fd: -1, events: 0, revents: 0 }; count];
            &mut heap
        };
        for (slot, &fd) in all.iter_mut().zip(own) {
            *slot = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        }
        let event_fd = self.event_fd.map_or(-1, |n| self.rt.event_fds()[n as usize]);
        all[own.len()] = libc::pollfd { fd: event_fd, events: libc::POLLIN, revents: 0 };
        all[own.len() + 1..].copy_from_slice(fds);
        sys::ppoll(all, timeout, mask)?;
        if all[own.len()].revents != 0
            && let Some(n) = self.event_fd
        {
            self.rt.drain_event_fd(n);
        }
        fds.copy_from_slice(&all[own.len() + 1..]);
        Ok(fds.iter().any(|f| f.revents != 0))
    }
}

/// This thread, as the role's holder.
fn me() -> u64 {
    (sys::getpid() as u64) << 32 | sys::gettid() as u64
}

/// The holder's process is gone. (A thread that ends while it drives does not exist: it would have to end inside ppoll.)
fn is_dead(holder: u64) -> bool {
    let pid = (holder >> 32) as i32;
    pid != sys::getpid() && !sys::process_exists(pid)
}

fn earliest(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    a.into_iter().chain(b).min()
}

/// A call of another thread has set a deadline earlier than the one that the driver sleeps for.
pub fn notify_driver_if_earlier(rt: &Runtime, deadline: Option<Instant>) {
    let role = rt.role();
    let slot = role.wake_slot.load(Ordering::Acquire);
    if slot == 0 {
        return;
    }
    if let Some(deadline) = deadline
        && deadline.as_us() < role.deadline_us.load(Ordering::Acquire)
    {
        role.deadline_us.store(deadline.as_us(), Ordering::Release);
        rt.ring((slot - 1) as u16);
    }
}
