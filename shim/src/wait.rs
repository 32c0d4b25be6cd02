//! Sleeping. Whoever waits, drives.
//!
//! A thread that has nothing to do takes the driver's role if it is free: it waits in ppoll for frames, for its own
//! descriptors and for the next timer, and runs the stack for all. Threads that find the role taken sleep until the driver
//! wakes them: on their futex word, or on an eventfd of the arena's pool if they watch kernel descriptors as well.
//!
//! The role is a lease. A driver that leaves with its own result wakes one sleeper, which takes over. One that was killed is
//! found out by the companion; where there is none, by the sleepers of other processes, which look twice a second, and a
//! family of one process sleeps without looking.
//!
//! **When more threads are awake than there are CPUs**, nobody drives: each of them looks at the ring anyway when it comes
//! back for more, and a driver would only be woken for every frame, to wake others that cannot run yet (a server with a
//! thread for each connection, under an interpreter's lock, for example). One of the sleepers, the deputy, looks every
//! millisecond whether somebody has taken a turn, and drives if not.
//!
//! No wake-up is lost: a thread registers as a waiter and finds that there is nothing for it under one hold of the lock, and
//! before a driver sleeps it looks once more, under the lock, at whether it was woken.

use crate::cancel;
use crate::companion;
use crate::confined;
use crate::errno::Errno;
use crate::runtime::{Locked, Runtime};
use core::cell::Cell;
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
/// ... where the companion looks as well, and may have been killed with the driver.
const SECOND_CHECK: Duration = Duration::from_secs(10);
/// How often a sleeper looks that has a kernel descriptor to watch and found no eventfd free.
const NO_EVENT_FD: Duration = Duration::from_millis(1);
/// How often a driver looks whether the companion takes the guards that it has no room for.
const UNSHOWN_GUARDS: Duration = Duration::from_millis(20);

/// How often the deputy looks.
const DEPUTY_TICK: Duration = Duration::from_millis(1);

/// Whether this thread counts among the busy ones of the arena. A thread that ends is not busy any more.
struct Busy(Cell<bool>);

impl Busy {
    fn set(&self, rt: &Runtime, busy: bool) {
        if self.0.replace(busy) == busy {
            return;
        }
        let count = &rt.role().busy;
        if busy {
            count.fetch_add(1, Ordering::AcqRel);
        } else {
            let _ = count.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |n| n.checked_sub(1));
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if let Some(rt) = crate::runtime::attached() {
            self.set(rt, false);
        }
    }
}

thread_local! {
    static BUSY: Busy = const { Busy(Cell::new(false)) };
}

/// This thread is awake (or sleeps again). Late in its life it may have lost its count, and does not matter.
fn set_busy(rt: &Runtime, busy: bool) {
    let _ = BUSY.try_with(|b| b.set(rt, busy));
}

/// In the child of a fork: the parent's thread is the one that was counted.
pub fn forget_busy() {
    let _ = BUSY.try_with(|b| b.0.set(false));
}

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
    /// The thread is to end (pthread_cancel).
    Cancelled,
}

/// A thread that is about to sleep: registered with the stack, with an eventfd of the pool if one was free.
pub struct Sleeper<'r> {
    rt: &'r Runtime,
    pub id: WaiterId,
    /// This thread, as the role's holder: process and thread number.
    me: u64,
    event_fd: Cell<Option<u16>>,
    aside: SignalsAside,
}

impl<'r> Sleeper<'r> {
    /// Registers this thread. The caller ties it to what it waits for, under the same lock.
    pub fn register(rt: &'r Runtime, locked: &mut Locked) -> Result<Sleeper<'r>, Errno> {
        set_busy(rt, false);
        let me = me();
        let id = locked.stack().waiter_begin((me >> 32) as u32, WakeKind::Futex)?;
        if let Some(word) = rt.waiter_words().get(id.index() as usize) {
            word.store(0, Ordering::Release);
        }
        let aside = SignalsAside::where_sent(rt);
        Ok(Sleeper { rt, id, me, event_fd: Cell::new(None), aside })
    }

    /// Takes the registration back. True: a wake-up was meant for this thread, and if it does not look for itself it must
    /// pass it on.
    pub fn unregister(self, locked: &mut Locked) -> bool {
        let woken = locked.stack().waiter_end(self.id);
        if let Some(n) = self.event_fd.get() {
            // A wake-up that came late must not wake the next owner.
            self.rt.drain_event_fd(n);
        }
        self.rt.give_event_fd(self.event_fd.get());
        woken
    }

    fn is_woken(&self) -> bool {
        self.rt.waiter_words().get(self.id.index() as usize).is_none_or(|w| w.load(Ordering::Acquire) != 0)
    }

    /// From now on an eventfd wakes this thread. False: the pool is used up.
    fn claim_event_fd(&self) -> bool {
        if self.event_fd.get().is_some() {
            return true;
        }
        let Some(n) = self.rt.claim_event_fd() else { return false };
        let Ok(mut locked) = self.rt.lock() else {
            self.rt.give_event_fd(Some(n));
            return false;
        };
        locked.stack().waiter_kind(self.id, WakeKind::EventFd(n));
        // A wake-up that was decided before goes to the futex word, perhaps only after we sleep on the eventfd.
        if locked.stack().is_waiter_woken(self.id)
            && let Some(word) = self.rt.waiter_words().get(self.id.index() as usize)
        {
            word.store(1, Ordering::Release);
        }
        self.event_fd.set(Some(n));
        true
    }

    /// Sleeps, and drives meanwhile if nobody else does. `fds`: kernel descriptors of interest. `mask`: the signal mask
    /// while sleeping.
    pub fn sleep(&self, fds: &mut [libc::pollfd], deadline: Option<Instant>, mask: Option<u64>) -> Woken {
        let mut woken = self.sleep_somehow(fds, deadline, mask.or(self.aside.0.get()));
        if self.aside.take_back() && woken == Woken::Ready {
            woken = Woken::Interrupted;
        }
        // However it ended, asleep or driving: a deputy that is awake looks after nothing.
        if self.is_deputy() {
            self.resign();
        }
        if matches!(woken, Woken::Ready | Woken::Kernel) {
            set_busy(self.rt, true);
        }
        woken
    }

    /// It need not sleep after all. Not under the lock: signals that have come meanwhile are taken now.
    pub fn stays_awake(&self) -> Woken {
        self.aside.take_back();
        Woken::Ready
    }

    fn sleep_somehow(&self, fds: &mut [libc::pollfd], deadline: Option<Instant>, mask: Option<u64>) -> Woken {
        let is_plain = fds.is_empty() && mask.is_none();
        if !is_plain {
            self.claim_event_fd();
        }
        loop {
            if cancel::is_due() {
                return Woken::Cancelled;
            }
            if self.is_woken() {
                return Woken::Ready;
            }
            if deadline.is_some_and(|d| sys::monotonic_now() >= d) {
                return Woken::TimedOut;
            }
            if let Some(woken) = self.try_to_drive(fds, deadline, mask) {
                return woken;
            }
            if let Some(woken) = self.sleep_beside(fds, deadline, mask) {
                return woken;
            }
        }
    }

    /// Takes the role if it is free and wanted. `None`: somebody else has it, or nobody should.
    fn try_to_drive(
        &self,
        fds: &mut [libc::pollfd],
        deadline: Option<Instant>,
        mask: Option<u64>,
    ) -> Option<Woken> {
        if confined::is_confined() {
            if self.is_deputy() {
                self.resign();
            }
            return None;
        }
        let role = self.rt.role();
        let holder = role.holder.load(Ordering::Acquire);
        if holder != 0 && !self.is_dead(holder) {
            return None;
        }
        if self.others_will_look() && self.be_deputy() {
            return None;
        }
        if !self.claim_event_fd()
            || role.holder.compare_exchange(holder, self.me, Ordering::AcqRel, Ordering::Acquire).is_err()
        {
            return None;
        }
        let woken = self.drive(fds, deadline, mask);
        self.leave_role();
        woken
    }

    /// The holder's process is gone. (A thread that ends while it drives does not exist: it would have to end inside ppoll.)
    fn is_dead(&self, holder: u64) -> bool {
        holder >> 32 != self.me >> 32 && !sys::process_exists((holder >> 32) as i32)
    }

    /// More threads are awake than there are CPUs.
    fn others_will_look(&self) -> bool {
        self.rt.role().busy.load(Ordering::Acquire) >= self.rt.cpus
    }

    /// True: there is a deputy, this thread or another, and somebody has taken a turn lately.
    fn be_deputy(&self) -> bool {
        let role = self.rt.role();
        let last = Instant::from_us(role.heartbeat_us.load(Ordering::Relaxed));
        let lately = sys::monotonic_now().us_since(last) < DEPUTY_TICK.as_micros() as u64;
        let deputy = role.deputy.load(Ordering::Acquire);
        if deputy != self.me {
            // One that is gone is noticed by those that come when nobody has looked lately.
            let is_gone = || sys::tgkill((deputy >> 32) as i32, deputy as i32, 0) == Err(libc::ESRCH);
            if deputy == 0 || (!lately && is_gone()) {
                let _ = role.deputy.compare_exchange(deputy, self.me, Ordering::AcqRel, Ordering::Acquire);
            }
            return true;
        }
        if lately {
            return true;
        }
        // Those that were thought to be awake have other things to do.
        role.busy.store(0, Ordering::Release);
        false
    }

    fn is_deputy(&self) -> bool {
        self.rt.role().deputy.load(Ordering::Acquire) == self.me
    }

    /// The driver's loop, until there is something for this thread itself. `None`: another thread has confined the process, and
    /// the companion drives from now on.
    fn drive(&self, fds: &mut [libc::pollfd], deadline: Option<Instant>, mask: Option<u64>) -> Option<Woken> {
        let role = self.rt.role();
        let spin_us = self.rt.config.spin_us;
        let mut spin_until = sys::monotonic_now().plus_us(spin_us);
        while !confined::is_confined() {
            let Ok(mut locked) = self.rt.lock() else { return Some(Woken::Interrupted) };
            let turn = locked.turn();
            if self.is_woken() || locked.stack().is_waiter_woken(self.id) {
                locked.stack().waiter_looks(self.id);
                return Some(Woken::Ready);
            }
            let now = locked.now();
            if deadline.is_some_and(|d| now >= d) {
                return Some(Woken::TimedOut);
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
            let mut wake_at = earliest(locked.stack().next_deadline(), deadline);
            if crate::portguard::some_unshown() {
                wake_at = earliest(wake_at, Some(now.plus_us(UNSHOWN_GUARDS.as_micros() as u64)));
            }
            // Set under the lock: whoever makes an earlier deadline after this sees it and rings.
            role.deadline_us.store(wake_at.unwrap_or(Instant::FAR).as_us(), Ordering::Release);
            role.wake_slot.store(self.event_fd.get().map_or(0, |n| u32::from(n) + 1), Ordering::Release);
            drop(locked);
            let timeout = wake_at.map(|t| Duration::from_micros(t.us_since(sys::monotonic_now())));
            let result = self.poll(self.rt.poll_fds(), fds, timeout, mask);
            role.wake_slot.store(0, Ordering::Release);
            match result {
                Err(libc::EINTR) => return Some(Woken::Interrupted),
                Ok(true) => return Some(Woken::Kernel),
                _ => {}
            }
        }
        None
    }

    /// The role is given up; if others sleep, one of them takes over, unless enough threads are awake to look themselves.
    fn leave_role(&self) {
        let role = self.rt.role();
        let _ = role.holder.compare_exchange(self.me, 0, Ordering::AcqRel, Ordering::Acquire);
        companion::nobody_watches(self.rt);
        let watched = self.others_will_look() && role.deputy.load(Ordering::Acquire) != 0;
        if role.sleepers.load(Ordering::Acquire) > 0
            && !watched
            && let Ok(mut locked) = self.rt.lock()
        {
            locked.stack().wake_any(Some(self.id));
        }
    }

    /// Somebody else drives, or nobody has to. `None`: look again.
    fn sleep_beside(
        &self,
        fds: &mut [libc::pollfd],
        deadline: Option<Instant>,
        mask: Option<u64>,
    ) -> Option<Woken> {
        let role = self.rt.role();
        let now = sys::monotonic_now();
        let mut timeout = deadline.map(|d| Duration::from_micros(d.us_since(now)));
        let mut at_most = |t: Duration| timeout = Some(timeout.map_or(t, |old| old.min(t)));
        let watcher = match role.holder.load(Ordering::Acquire) {
            0 => role.deputy.load(Ordering::Acquire),
            holder => holder,
        };
        if self.is_deputy() {
            at_most(DEPUTY_TICK);
        } else if watcher != 0 && watcher >> 32 != self.me >> 32 {
            at_most(if companion::is_there(self.rt) { SECOND_CHECK } else { LEASE_CHECK });
        }
        role.sleepers.fetch_add(1, Ordering::AcqRel);
        // The role may have become free since it was looked at, by somebody who saw no sleeper.
        let unwatched = role.holder.load(Ordering::Acquire) == 0
            && role.deputy.load(Ordering::Acquire) == 0
            && !confined::is_confined();
        let result = if unwatched || self.is_woken() {
            Ok(false)
        } else if self.event_fd.get().is_some() {
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

    /// The deputy leaves. If the role is vacant and others sleep, one of them looks after it.
    fn resign(&self) {
        let role = self.rt.role();
        let _ = role.deputy.compare_exchange(self.me, 0, Ordering::AcqRel, Ordering::Acquire);
        companion::nobody_watches(self.rt);
        if role.holder.load(Ordering::Acquire) == 0
            && role.sleepers.load(Ordering::Acquire) > 0
            && let Ok(mut locked) = self.rt.lock()
        {
            locked.stack().wake_any(Some(self.id));
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
        let event_fd = self.event_fd.get().map_or(-1, |n| self.rt.event_fds()[n as usize]);
        all[own.len()] = libc::pollfd { fd: event_fd, events: libc::POLLIN, revents: 0 };
        all[own.len() + 1..].copy_from_slice(fds);
        sys::ppoll(all, timeout, mask)?;
        if all[own.len()].revents != 0
            && let Some(n) = self.event_fd.get()
        {
            self.rt.drain_event_fd(n);
        }
        fds.copy_from_slice(&all[own.len() + 1..]);
        Ok(fds.iter().any(|f| f.revents != 0))
    }
}

/// A signal for something that has come to a socket is to interrupt a call that sleeps; but what has come may wake the thread as
/// well, to drive. So in a family where sockets send signals (O_ASYNC), they come to a thread in the call only while it sleeps. Holds
/// the mask that the thread had.
struct SignalsAside(Cell<Option<u64>>);

impl SignalsAside {
    fn where_sent(rt: &Runtime) -> SignalsAside {
        let sent = rt.role().signals_sent.load(Ordering::Relaxed) != 0 && !confined::is_confined();
        SignalsAside(Cell::new(sent.then(|| sys::signal_mask(u64::MAX))))
    }

    /// True: a signal has come meanwhile, and is taken now.
    fn take_back(&self) -> bool {
        let Some(mask) = self.0.take() else { return false };
        let has_come = sys::pending_signals() & !mask != 0;
        sys::signal_mask(mask);
        has_come
    }
}

impl Drop for SignalsAside {
    fn drop(&mut self) {
        self.take_back();
    }
}

/// Lives as long as a call that may sleep. A thread that was woken to look after the role and then found a result of its own
/// returns to the program without having done so: if nobody drives and nobody is deputy, another sleeper is woken for it.
pub struct Watch<'r> {
    rt: &'r Runtime,
    slept: Cell<bool>,
}

impl<'r> Watch<'r> {
    pub fn over(rt: &'r Runtime) -> Watch<'r> {
        Watch { rt, slept: Cell::new(false) }
    }

    /// The call has slept.
    pub fn note(&self) {
        self.slept.set(true);
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        let role = self.rt.role();
        let vacant = || role.holder.load(Ordering::Acquire) == 0 && role.deputy.load(Ordering::Acquire) == 0;
        if self.slept.get()
            && vacant()
            && role.sleepers.load(Ordering::Acquire) > 0
            && let Ok(mut locked) = self.rt.lock()
        {
            locked.stack().wake_any(None);
        }
    }
}

/// This thread, as the role's holder.
fn me() -> u64 {
    if let Some(pid) = confined::pid() {
        // It takes no role; which of its threads this is does not matter.
        return (pid as u64) << 32;
    }
    (sys::getpid() as u64) << 32 | sys::gettid() as u64
}

fn earliest(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    a.into_iter().chain(b).min()
}

/// A call of another thread has set a deadline earlier than the one that the driver sleeps for.
pub fn notify_driver_if_earlier(rt: &Runtime, deadline: Option<Instant>) {
    companion::notify_if_earlier(rt, deadline);
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
