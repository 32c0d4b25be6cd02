//! This process's part in a family: the mapped arena, its packet sockets, and the way in and out of the lock.
//!
//! An arena is made at the first TCP socket of a process that inherited none; fork passes it on by memory, and a program that
//! is started by exec with sockets of ours gets it from the companion. Everything here that is not in the arena is the same in parent and child: descriptors keep their numbers, mappings their places.
//!
//! [`Locked`] is the working state of a thread inside of the engine. When it ends, what the stack has to send leaves, the
//! packet filter follows the ports that the stack owns, the lock is given back, and then the threads are woken that the
//! stack wants to wake: never while the lock is held.

use crate::companion::Belongings;
use crate::config::Config;
use crate::confined;
use crate::owners::Outgoing;
use core::cell::UnsafeCell;
use core::mem::ManuallyDrop;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use engine::device::{Device, PacketDevice, Transmitter, WINDOW_LIMIT};
use engine::driver::{self, Turn};
use engine::shared::arena::{Arena, ArenaError, Guard};
use engine::shared::{RoleWords, Words};
use engine::stack::Stack;
use engine::sys;
use engine::values::limits::MAX_WAITERS;
use engine::values::{Counter, Error, Instant};
use parking_lot::Mutex;
use std::os::fd::RawFd;

/// Eventfds of one arena: threads that sleep in ppoll beside kernel descriptors at the same time, over all processes. More
/// of them than these look again every millisecond.
const EVENT_FDS: usize = 32;

/// Why this process has no arena and its TCP runs on the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fallback {
    /// Packet sockets need CAP_NET_RAW.
    NoCapability,
    /// The packet sockets could not be made, with the errno.
    NoDevice(i32),
    /// The arena could not be made, with the errno.
    NoArena(i32),
    /// The environment says something wrong; it was told.
    BadConfig,
    /// The process has put itself under seccomp: what a stack does may end it.
    Confined,
}

impl core::fmt::Display for Fallback {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let os = |errno: &i32| std::io::Error::from_raw_os_error(*errno);
        match self {
            Fallback::NoCapability => f.write_str("no CAP_NET_RAW, TCP runs on the kernel"),
            Fallback::NoDevice(e) => write!(f, "no packet sockets ({}), TCP runs on the kernel", os(e)),
            Fallback::BadConfig => f.write_str("bad settings, TCP runs on the kernel"),
            Fallback::Confined => f.write_str("under seccomp, new TCP sockets are the kernel's"),
            Fallback::NoArena(e) => write!(f, "no memory for the stack ({}), TCP runs on the kernel", os(e)),
        }
    }
}

/// What a process holds of its family.
pub struct Runtime {
    arena: Arena,
    device: UnsafeCell<PacketDevice>,
    /// Transmitters that no thread uses at the moment.
    transmitters: Mutex<Vec<Transmitter>>,
    poll_fds: Vec<RawFd>,
    event_fds: Vec<RawFd>,
    /// The eventfd that wakes the companion.
    bell: RawFd,
    pub config: Config,
    /// CPUs that this process may use.
    pub cpus: u32,
}

// SAFETY: the device is only touched by the thread that holds the arena's lock; the rest is read-only.
unsafe impl Sync for Runtime {}

static ATTACHED: AtomicPtr<Runtime> = AtomicPtr::new(core::ptr::null_mut());
static FAILED: Mutex<Option<Fallback>> = Mutex::new(None);

/// Whether this program has looked for sockets of ours that it was started with.
static LOOKED: AtomicBool = AtomicBool::new(false);

/// This process's runtime, if it has one. Costs a load or two; async-signal-safe, the first time aside.
#[inline]
pub fn attached() -> Option<&'static Runtime> {
    let at = ATTACHED.load(Ordering::Acquire);
    if at.is_null() && !LOOKED.load(Ordering::Relaxed) {
        return look_for_inheritance();
    }
    // SAFETY: null, or a leaked Runtime that was complete before its address was stored.
    unsafe { at.as_ref() }
}

/// The first call of a program: if it was started with sockets of ours (by exec or posix_spawn), it joins their family.
#[cold]
fn look_for_inheritance() -> Option<&'static Runtime> {
    if LOOKED.swap(true, Ordering::AcqRel) {
        return None;
    }
    let name = crate::environment::family()?;
    let errno = crate::errno::get();
    let there = |cookie: &u64| name.cookies.contains(cookie);
    let (soft, _) = sys::getrlimit(libc::RLIMIT_NOFILE as u32).unwrap_or((1024, 0));
    let mine = || (0..soft.min(1 << 16) as RawFd).filter_map(|fd| Some((fd, sys::socket_cookie(fd).ok()?)));
    let joined = mine().any(|(_, cookie)| there(&cookie)).then(|| Runtime::join(|| name.attach()));
    let runtime = match joined {
        Some(Ok(runtime)) => {
            let runtime: &'static Runtime = Box::leak(Box::new(runtime));
            ATTACHED.store(core::ptr::from_ref(runtime).cast_mut(), Ordering::Release);
            crate::process::arrive(runtime, mine());
            Some(runtime)
        }
        Some(Err(reason)) => {
            log::warn!("sockets of another program's are not to be had: {reason}");
            None
        }
        None => None,
    };
    crate::errno::set(errno);
    runtime
}

/// A process that has no family has got descriptors in a message. If one of them is a family's socket, it joins that one.
pub fn join_by_message(fds: &[RawFd]) -> Option<&'static Runtime> {
    if confined::is_confined() {
        return None;
    }
    let sockets: Vec<RawFd> = fds.iter().copied().filter(|&fd| may_be_ours(fd)).collect();
    if sockets.is_empty() {
        return None;
    }
    let failed = FAILED.lock();
    if failed.is_some() || attached().is_some() {
        return attached();
    }
    let belongings = Belongings::claim(&sockets)?;
    let runtime = match Runtime::join(|| Ok(belongings)) {
        Ok(runtime) => Box::leak(Box::new(runtime)),
        Err(reason) => {
            log::warn!("a socket of another program's is not to be had: {reason}");
            return None;
        }
    };
    ATTACHED.store(core::ptr::from_ref(runtime).cast_mut(), Ordering::Release);
    let open = sockets.iter().filter_map(|&fd| Some((fd, sys::socket_cookie(fd).ok()?)));
    crate::process::arrive(runtime, open);
    Some(runtime)
}

/// A TCP socket that the kernel knows no peer of: what a socket of ours looks like, connected or not.
fn may_be_ours(fd: RawFd) -> bool {
    let mut number = [0; 4];
    let is_tcp = sys::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PROTOCOL, &mut number).is_ok()
        && i32::from_ne_bytes(number) == libc::IPPROTO_TCP;
    let mut state = [0; 1];
    is_tcp
        && sys::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, &mut state).is_ok()
        && matches!(state[0], TCP_CLOSE | TCP_LISTEN)
}

/// States of the kernel's, as TCP_INFO has them. A listener of ours is a guard.
const TCP_CLOSE: u8 = 7;
const TCP_LISTEN: u8 = 10;

/// This process's runtime, made at the first call.
///
/// # Errors
/// Why TCP has to run on the kernel. The first failure is remembered: a process does not change stacks half-way.
pub fn attach() -> Result<&'static Runtime, Fallback> {
    if confined::is_confined() {
        return Err(Fallback::Confined);
    }
    if let Some(runtime) = attached() {
        return Ok(runtime);
    }
    let mut failed = FAILED.lock();
    if let Some(runtime) = attached() {
        return Ok(runtime);
    }
    if let Some(reason) = *failed {
        return Err(reason);
    }
    match Runtime::create() {
        Ok(runtime) => {
            let runtime: &'static Runtime = Box::leak(Box::new(runtime));
            ATTACHED.store(core::ptr::from_ref(runtime).cast_mut(), Ordering::Release);
            crate::companion::ensure(runtime);
            Ok(runtime)
        }
        Err(reason) => {
            *failed = Some(reason);
            Err(reason)
        }
    }
}

impl From<ArenaError> for Fallback {
    fn from(error: ArenaError) -> Fallback {
        match error {
            ArenaError::Os(errno) => Fallback::NoArena(errno),
            ArenaError::Foreign => Fallback::NoArena(libc::EINVAL),
        }
    }
}

/// What comes before the first arena of a process.
fn get_ready() -> Result<Config, Fallback> {
    crate::log::start();
    let config = Config::read().map_err(|text| {
        crate::log::tell(&text);
        Fallback::BadConfig
    })?;
    crate::fdtable::start().map_err(Fallback::NoArena)?;
    Ok(config)
}

impl Runtime {
    fn create() -> Result<Runtime, Fallback> {
        let config = get_ready()?;
        let mut device = PacketDevice::open().map_err(|errno| match errno {
            libc::EPERM | libc::EACCES => Fallback::NoCapability,
            errno => Fallback::NoDevice(errno),
        })?;
        let arena = Arena::create()?;
        crate::process::found(arena.words());
        let guard = arena.lock().ok_or(Fallback::NoArena(libc::EDEADLK))?;
        guard.stack.start(sys::random_seed(), config.sysctls, WINDOW_LIMIT);
        device.refresh(guard.device, guard.stack.interfaces_mut(), sys::monotonic_now(), true);
        drop(guard);
        let event_fds = (0..=EVENT_FDS).map_while(|_| high_event_fd().ok()).collect();
        Ok(Runtime::of(arena, device, event_fds, config))
    }

    /// The last of `event_fds` is the companion's bell.
    fn of(arena: Arena, device: PacketDevice, mut event_fds: Vec<RawFd>, config: Config) -> Runtime {
        let bell = event_fds.pop().unwrap_or(-1);
        let poll_fds = device.poll_fds().to_vec();
        let cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
        Runtime {
            arena,
            device: UnsafeCell::new(device),
            transmitters: Mutex::new(Vec::new()),
            poll_fds,
            event_fds,
            bell,
            config,
            cpus,
        }
    }

    /// The runtime of a family that has sockets of this process's, with what that family gives.
    fn join(belongings: impl FnOnce() -> Result<Belongings, i32>) -> Result<Runtime, Fallback> {
        let config = get_ready()?;
        let Belongings { fds, rings, has_ipv6 } = belongings().map_err(Fallback::NoArena)?;
        let mut fds = fds.into_iter().map(|fd| sys::move_high(fd).unwrap_or(fd));
        let mut next = || fds.next().ok_or(Fallback::NoArena(libc::EBADMSG));
        let arena = next()?;
        let ring_fds: Vec<RawFd> = (0..rings).map(|_| next()).collect::<Result<_, _>>()?;
        let tx = [next()?, next()?, if has_ipv6 { next()? } else { -1 }];
        let arena = Arena::open(arena, true)?;
        let device = PacketDevice::adopt(&ring_fds, tx).map_err(Fallback::NoDevice)?;
        Ok(Runtime::of(arena, device, fds.collect(), config))
    }

    /// The engine's descriptors as an argument of the companion's.
    pub fn descriptors(&self, listening: RawFd) -> String {
        // SAFETY: the descriptors of a device are fixed when it is made.
        let tx = unsafe { (*self.device.get()).tx_fds() };
        let list = |fds: &[RawFd]| fds.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let events: Vec<RawFd> = self.event_fds.iter().copied().chain([self.bell]).collect();
        let parts = [&[self.arena.fd(), listening][..], &self.poll_fds, &tx, &events];
        parts.map(list).join(";")
    }

    /// Takes the lock.
    ///
    /// # Errors
    /// [`Error::Interrupted`] when this very thread is inside already: the caller is a signal handler that interrupted
    /// the engine.
    pub fn lock(&self) -> Result<Locked<'_>, Error> {
        crate::companion::look(self);
        let guard = self.arena.lock().ok_or(Error::Interrupted)?;
        guard.stack.set_holder(crate::process::holder());
        // SAFETY: the lock is held as long as `guard` lives.
        let device = unsafe { &mut *self.device.get() };
        Ok(Locked {
            runtime: self,
            guard: ManuallyDrop::new(guard),
            device,
            tx: None,
            now: Instant::ZERO,
            patient: false,
        })
    }

    /// A transmitter that no thread uses.
    fn transmitter(&self, device: &PacketDevice) -> Transmitter {
        // Not waited for: after a fork it may be locked for ever.
        let spare = self.transmitters.try_lock().and_then(|mut pool| pool.pop());
        spare.unwrap_or_else(|| device.transmitter())
    }

    pub fn words(&self) -> &Words {
        self.arena.words()
    }

    /// The futex words of sleeping threads, by the index of their waiter.
    pub fn waiter_words(&self) -> &[AtomicU32; MAX_WAITERS] {
        &self.words().waiters
    }

    pub fn role(&self) -> &RoleWords {
        &self.words().role
    }

    /// The eventfds of the arena; `WakeKind::EventFd(n)` names the n-th.
    pub fn event_fds(&self) -> &[RawFd] {
        &self.event_fds
    }

    /// The packet sockets, for a driver's ppoll.
    pub fn poll_fds(&self) -> &[RawFd] {
        &self.poll_fds
    }

    /// Whether `fd` is one of the engine's own descriptors, which the program must not close.
    pub fn owns_fd(&self, fd: RawFd) -> bool {
        fd == self.arena.fd()
            || fd == self.bell
            || self.event_fds.contains(&fd)
            || self.poll_fds.contains(&fd)
            // SAFETY: the descriptors of a device are fixed when it is made; reading them races with nothing.
            || unsafe { (*self.device.get()).owns_fd(fd) }
    }

    /// A free eventfd of the pool.
    pub fn claim_event_fd(&self) -> Option<u16> {
        let pool = &self.role().event_fds;
        let mut used = pool.load(Ordering::Relaxed);
        loop {
            let n = (!used).trailing_zeros();
            if n as usize >= self.event_fds.len() {
                return None;
            }
            match pool.compare_exchange_weak(used, used | 1 << n, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Some(n as u16),
                Err(now) => used = now,
            }
        }
    }

    pub fn give_event_fd(&self, n: Option<u16>) {
        if let Some(n) = n {
            self.role().event_fds.fetch_and(!(1 << n), Ordering::AcqRel);
        }
    }

    /// Takes what was rung off an eventfd.
    pub fn drain_event_fd(&self, n: u16) {
        if let Some(&fd) = self.event_fds.get(n as usize) {
            // Not readable: nobody rang.
            let _ = sys::read(fd, &mut [0; 8]);
        }
    }

    /// Every descriptor of the engine in this process, guards aside.
    pub fn own_fds(&self) -> Vec<RawFd> {
        // SAFETY: the descriptors of a device are fixed when it is made.
        let device = unsafe { &*self.device.get() };
        let events = self.event_fds.iter().copied();
        let others = [self.bell, self.arena.fd(), crate::companion::connection()];
        device.all_fds().chain(events).chain(others).collect()
    }

    /// Asks the kernel how `dst` is reached, by a socket with the options of `like`.
    pub fn route(
        &self,
        dst: engine::values::Addr,
        scope: u32,
        like: Option<RawFd>,
    ) -> Result<engine::stack::Route, i32> {
        // SAFETY: routing touches no state of the device.
        unsafe { (*self.device.get()).route(dst, scope, like) }
    }

    /// Wakes the companion. Without a bell it looks when it looks.
    pub fn ring_companion(&self) {
        sys::ring(self.bell);
    }

    /// Makes the n-th eventfd readable.
    pub fn ring(&self, n: u16) {
        if let Some(&fd) = self.event_fds.get(n as usize) {
            sys::ring(fd);
        }
    }
}

fn high_event_fd() -> Result<RawFd, i32> {
    sys::move_high(sys::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?)
}

/// A thread inside of the engine.
pub struct Locked<'a> {
    runtime: &'a Runtime,
    guard: ManuallyDrop<Guard<'a>>,
    device: &'a mut PacketDevice,
    /// Taken when there is something to send.
    tx: Option<Transmitter>,
    now: Instant,
    /// What there is to send may wait for more.
    patient: bool,
}

impl<'a> Locked<'a> {
    /// A call of many in a round of the program's: what it has to send may wait for the next.
    pub fn be_patient(&mut self) {
        self.patient = true;
    }

    /// Not any more: this thread is about to sleep.
    pub fn be_impatient(&mut self) {
        self.patient = false;
    }

    pub fn runtime(&self) -> &'a Runtime {
        self.runtime
    }

    pub fn stack(&mut self) -> &mut Stack {
        self.guard.stack
    }

    /// The time, read once for as long as the lock is held or until the next turn.
    pub fn now(&mut self) -> Instant {
        if !self.now.is_set() {
            self.now = sys::monotonic_now();
        }
        self.now
    }

    /// The stack and the time, for calls that take both.
    pub fn stack_now(&mut self) -> (&mut Stack, Instant) {
        let now = self.now();
        (self.guard.stack, now)
    }

    /// Frames wait in the ring. A load, no system call.
    pub fn frames_waiting(&self) -> bool {
        self.device.ready(self.guard.device)
    }

    /// Receives, runs timers, sends.
    pub fn turn(&mut self) -> Turn {
        if confined::is_confined() {
            return Turn { frames: 0 };
        }
        self.now = sys::monotonic_now();
        self.runtime.role().heartbeat_us.store(self.now.as_us(), Ordering::Relaxed);
        self.runtime.role().nothing_is_held();
        let guard = &mut *self.guard;
        let tx = self.tx.get_or_insert_with(|| self.runtime.transmitter(self.device));
        driver::turn(guard.stack, self.device, tx, guard.device, self.now)
    }

    /// A turn, if there is anything to do in one: frames in the ring or a timer that is due.
    ///
    /// True: it was taken.
    pub fn turn_if_due(&mut self) -> bool {
        let due = self.frames_waiting()
            || self.guard.stack.next_deadline().is_some_and(|d| d <= sys::monotonic_now());
        if due {
            self.turn();
        }
        due
    }

    /// Gives the lock back for the time of `during`, and takes it again.
    pub fn unlocked<T>(&mut self, during: impl FnOnce() -> T) -> T {
        self.leave();
        let result = during();
        // Taken by this thread before, and given back: it can be had again.
        assert!(self.take_again(), "the lock was ours a moment ago");
        result
    }

    /// Lets the packet filter follow the ports that the stack owns; to be called before a guard or a SYN depends on it.
    pub fn sync_filter(&mut self) {
        let guard = &mut *self.guard;
        self.device.follow_ports(guard.stack, guard.device);
    }
}

/// How often a call that sends looks for what its segments have brought about.
const SETTLE_TURNS: usize = 4;

/// Wakes that one thread hands out after it gave the lock back; more than these are handed out while it is held.
const WAKE_BATCH: usize = 32;

impl Locked<'_> {
    /// The way out; see the head of this file.
    fn leave(&mut self) {
        if confined::is_confined() {
            return self.leave_it_to_the_companion();
        }
        for turn in 0.. {
            crate::portguard::sweep(self);
            self.sync_filter();
            if !self.waits_for_more() {
                self.stage();
            }
            self.give_back();
            let Some(tx) = self.tx.as_mut().filter(|tx| !tx.is_empty()) else { return };
            tx.flush();
            // A peer on this machine has answered already, perhaps one of our own.
            let again = turn < SETTLE_TURNS && self.device.ready(self.runtime.arena.peek_device());
            if !again || !self.take_again() {
                return;
            }
            self.turn();
        }
    }

    /// The way out of a process that must make no system call for it: what there is to send has waited long enough.
    fn leave_it_to_the_companion(&mut self) {
        let owes = self.guard.stack.has_output();
        if owes {
            self.runtime.role().held_us.store(1, Ordering::SeqCst);
        }
        self.give_back();
        if owes {
            self.runtime.ring_companion();
        }
    }

    /// What is there to be sent is left there. Not where something is on its way already.
    fn waits_for_more(&mut self) -> bool {
        let waits = self.patient
            && self.tx.as_ref().is_none_or(Transmitter::is_empty)
            && self.guard.stack.has_output()
            && crate::round::goes_on(self.runtime, || self.now());
        if waits {
            self.guard.stack.counters_mut().inc(Counter::TxHeld);
        }
        waits
    }

    /// What the stack has to send becomes packets.
    fn stage(&mut self) {
        if self.guard.stack.has_output() {
            let now = self.now();
            self.runtime.role().nothing_is_held();
            let tx = self.tx.get_or_insert_with(|| self.runtime.transmitter(self.device));
            tx.report(self.guard.stack.counters_mut());
            self.guard.stack.transmit(now, tx);
        }
    }

    /// Unlocks, and wakes.
    fn give_back(&mut self) {
        let rt = self.runtime;
        let mut wakes = [const { None }; WAKE_BATCH];
        let mut count = 0;
        while let Some(wake) = self.guard.stack.take_wake() {
            if count == WAKE_BATCH {
                rt.words().wake(wake, &rt.event_fds);
            } else {
                wakes[count] = Some(wake);
                count += 1;
            }
        }
        // Only a driver that sleeps has to know of an earlier deadline.
        let sleeps = rt.role().wake_slot.load(Ordering::Acquire) != 0 || crate::companion::is_watching(rt);
        let next_deadline = if sleeps { self.guard.stack.next_deadline() } else { None };
        let signals = self.guard.stack.has_signals().then(|| Outgoing::take(rt, self.guard.stack));
        // SAFETY: the guard is not used again before `take_again` replaces it.
        unsafe { ManuallyDrop::drop(&mut self.guard) };
        wakes.iter().take(count).flatten().for_each(|wake| rt.words().wake(*wake, &rt.event_fds));
        crate::wait::notify_driver_if_earlier(rt, next_deadline);
        if let Some(signals) = signals {
            signals.send(rt);
        }
    }

    /// Locks again. False: not to be had.
    fn take_again(&mut self) -> bool {
        let Some(guard) = self.runtime.arena.lock() else { return false };
        self.guard = ManuallyDrop::new(guard);
        self.now = Instant::ZERO;
        true
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.leave();
        if let Some(tx) = self.tx.take()
            && let Some(mut pool) = self.runtime.transmitters.try_lock()
        {
            pool.push(tx);
        }
    }
}
