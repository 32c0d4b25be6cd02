//! epoll: the program's descriptor stays a real one and kernel descriptors stay in it; our sockets are kept in a set of the
//! arena beside it, never in the real one (the kernel socket that stands for one would always report HUP).
//!
//! Under load a wait costs no system call for our sockets: the ring and the ready list are memory. The kernel's part is
//! asked only when something of the kernel's was ever added.

use crate::abi;
use crate::calls::descriptors;
use crate::cancel::CANCELED;
use crate::errno::{Errno, Outcome};
use crate::fdtable::{self, Kind};
use crate::round;
use crate::runtime::{Locked, Runtime};
use crate::wait::{Sleeper, Watch, Woken};
use core::sync::atomic::{AtomicI32, AtomicU8, Ordering};
use core::time::Duration;
use engine::stack::{EpollEvent, EpollId, EpollOp, SockId};
use engine::sys;
use engine::values::Instant;
use std::os::fd::RawFd;

/// Events collected in one call at most; a program that asks for more gets them with the next.
const BATCH: usize = 256;
const EINVAL: Errno = Errno(libc::EINVAL);
const EP_MAX_EVENTS: i32 = i32::MAX / 12;

/// In [`HAS_KERNEL`]: a kernel descriptor was added; the kernel is asked first the next time that one event is wanted.
const ADDED: u8 = 1;
const TURN: u8 = 2;

/// Whether an epoll descriptor ever had a kernel descriptor added, by number. Numbers above count as if.
static HAS_KERNEL: [AtomicU8; 4096] = [const { AtomicU8::new(0) }; 4096];

/// A kernel descriptor is added to `epfd`.
pub fn note_kernel_member(epfd: RawFd) {
    if let Some(flag) = HAS_KERNEL.get(epfd as usize) {
        flag.fetch_or(ADDED, Ordering::Relaxed);
    }
}

/// A fresh epoll descriptor.
pub fn note_created(epfd: RawFd) {
    if let Some(flag) = HAS_KERNEL.get(epfd as usize) {
        flag.store(0, Ordering::Relaxed);
    }
    descriptors::handed_out(epfd);
    CREATED.fetch_max(epfd, Ordering::Relaxed);
    wait_set(epfd);
}

/// The highest number that an epoll descriptor ever had.
static CREATED: AtomicI32 = AtomicI32::new(-1);

/// Whether `fd` can be an epoll descriptor: asked of every kernel descriptor that is added to a set.
pub fn may_be_epoll(fd: RawFd) -> bool {
    fd <= CREATED.load(Ordering::Relaxed) && crate::runtime::attached().is_some() && sys::is_epoll(fd)
}

/// A duplicate of an epoll descriptor.
pub fn note_dup(old: RawFd, new: RawFd) {
    if let Some(flag) = HAS_KERNEL.get(new as usize) {
        flag.store(u8::from(has_kernel_members(old)), Ordering::Relaxed);
    }
}

fn has_kernel_members(epfd: RawFd) -> bool {
    HAS_KERNEL.get(epfd as usize).is_none_or(|f| f.load(Ordering::Relaxed) & ADDED != 0)
}

/// Each set has its own turns: two that are waited for one after the other would else have the same half of them each.
fn is_kernels_turn(epfd: RawFd) -> bool {
    HAS_KERNEL[epfd as usize % HAS_KERNEL.len()].fetch_xor(TURN, Ordering::Relaxed) & TURN != 0
}

/// epoll_ctl on one of our sockets.
///
/// # Errors
/// EBADF, EINVAL (not an epoll descriptor), EEXIST, ENOENT, ENOMEM, EFAULT.
pub fn ctl(
    rt: &Runtime,
    epfd: RawFd,
    op: i32,
    fd: RawFd,
    socket: SockId,
    event: *const libc::epoll_event,
) -> Outcome<i32> {
    let op = match op {
        libc::EPOLL_CTL_ADD => EpollOp::Add,
        libc::EPOLL_CTL_MOD => EpollOp::Modify,
        libc::EPOLL_CTL_DEL => EpollOp::Delete,
        _ => return Err(EINVAL),
    };
    let event = if op == EpollOp::Delete {
        EpollEvent::default()
    } else {
        let e = abi::read(event)?;
        EpollEvent { events: e.events, data: e.u64 }
    };
    let set = set_of(rt, epfd, op)?;
    let mut locked = rt.lock()?;
    locked.stack().epoll_ctl(set, op, fd, socket, event)?;
    Ok(0)
}

/// epoll_ctl of another epoll descriptor: the kernel's set holds its kernel part (and knows of loops), the arena's set the
/// other. `result` is what the kernel said.
pub fn nest(epfd: RawFd, op: i32, fd: RawFd, event: *const libc::epoll_event, result: i32) -> Outcome<i32> {
    let Some((rt, Kind::Epoll(inner))) = wait_set(fd) else { return Ok(result) };
    let Some((_, Kind::Epoll(outer))) = wait_set(epfd) else { return Ok(result) };
    let op = match op {
        libc::EPOLL_CTL_ADD => EpollOp::Add,
        libc::EPOLL_CTL_MOD => EpollOp::Modify,
        _ => EpollOp::Delete,
    };
    let event = if op == EpollOp::Delete {
        EpollEvent::default()
    } else {
        let e = abi::read(event)?;
        EpollEvent { events: e.events, data: e.u64 }
    };
    rt.lock()?.stack().epoll_nest(outer, op, fd, inner, event)?;
    Ok(result)
}

/// The set beside an epoll descriptor, made if it has none yet and this process has an arena: a thread that waits must
/// see what another adds meanwhile.
pub fn wait_set(epfd: RawFd) -> Option<(&'static Runtime, Kind)> {
    match fdtable::lookup(epfd) {
        Some((rt, Kind::Epoll(set))) => Some((rt, Kind::Epoll(set))),
        Some(_) => None,
        None => {
            let rt = crate::runtime::attached()?;
            if !sys::is_epoll(epfd) {
                return None;
            }
            let set = rt.lock().ok()?.stack().epoll_create().ok()?;
            fdtable::set_epoll(epfd, set);
            Some((rt, Kind::Epoll(set)))
        }
    }
}

/// The arena's set beside `epfd`, made when the first of our sockets is added.
fn set_of(rt: &Runtime, epfd: RawFd, op: EpollOp) -> Outcome<EpollId> {
    match fdtable::lookup(epfd) {
        Some((_, Kind::Epoll(set))) => return Ok(set),
        Some((_, Kind::Socket(_))) => return Err(EINVAL),
        _ => {}
    }
    if !sys::is_epoll(epfd) {
        let open = sys::fcntl(epfd, libc::F_GETFD, 0).is_ok();
        return Err(if open { EINVAL } else { Errno(libc::EBADF) });
    }
    if op != EpollOp::Add {
        return Err(Errno(libc::ENOENT));
    }
    let set = rt.lock()?.stack().epoll_create()?;
    fdtable::set_epoll(epfd, set);
    Ok(set)
}

/// epoll_wait and its variants on a descriptor with a set of ours. `timeout`: `None` waits for ever.
///
/// # Errors
/// EINVAL, EFAULT, EINTR.
pub fn wait(
    rt: &Runtime,
    epfd: RawFd,
    set: EpollId,
    events: *mut libc::epoll_event,
    max: i32,
    timeout: Option<Duration>,
    mask: Option<u64>,
) -> Outcome<i32> {
    if max <= 0 || max > EP_MAX_EVENTS {
        return Err(EINVAL);
    }
    let out = Out::new(events, (max as usize).min(BATCH));
    let kernel = has_kernel_members(epfd);
    // Where there is room for one event only, the two parts of the set take turns.
    let kernel_first = kernel && out.max == 1 && is_kernels_turn(epfd);
    let deadline = timeout.map(|t| sys::monotonic_now() + t);
    let watch = Watch::over(rt);
    // Declared after the watch, which takes the lock at its end.
    let mut locked = rt.lock()?;
    loop {
        if kernel_first {
            drop(locked);
            if out.add_kernel(epfd, 0)? > 0 {
                return Ok(1);
            }
            locked = rt.lock()?;
        }
        let found = look(&mut locked, set, &out, kernel)?;
        let tell = |total: usize| {
            round::begins(found);
            Ok(total as i32)
        };
        if kernel {
            drop(locked);
            let total = out.add_kernel(epfd, found)?;
            if total > 0 {
                return tell(total);
            }
            locked = rt.lock()?;
        } else if found > 0 {
            return tell(found);
        }
        if deadline.is_some_and(|d| sys::monotonic_now() >= d) {
            return Ok(0);
        }
        let sleeper = Sleeper::register(rt, &mut locked)?;
        if let Err(error) = locked.stack().wait_on_set(sleeper.id, set, true) {
            sleeper.unregister(&mut locked);
            return Err(error.into());
        }
        // Something may have come while the kernel was asked.
        let ready = kernel && locked.stack().epoll_ready(set);
        drop(locked);
        let woken = if ready {
            sleeper.stays_awake()
        } else {
            let mut fds = [libc::pollfd { fd: epfd, events: libc::POLLIN, revents: 0 }];
            watch.note();
            sleeper.sleep(if kernel { &mut fds } else { &mut [] }, deadline, mask)
        };
        locked = rt.lock()?;
        sleeper.unregister(&mut locked);
        if woken == Woken::Cancelled {
            return Err(CANCELED);
        }
        if woken == Woken::Interrupted {
            let found = look(&mut locked, set, &out, false)?;
            round::begins(found);
            return if found > 0 { Ok(found as i32) } else { Err(Errno(libc::EINTR)) };
        }
    }
}

/// What is ready now, after a look at the ring. `and_kernel`: the last place of several is the kernel's, so that neither part
/// starves the other.
///
/// # Errors
/// EFAULT, where there is something to tell and nowhere to put it; it stays.
fn look(locked: &mut Locked, set: EpollId, out: &Out, and_kernel: bool) -> Outcome<usize> {
    locked.turn_if_due();
    if !out.writable {
        return if locked.stack().epoll_ready(set) { Err(Errno(libc::EFAULT)) } else { Ok(0) };
    }
    let room = if and_kernel && out.max > 1 { out.max - 1 } else { out.max };
    let mut n = 0;
    Ok(locked.stack().epoll_collect(set, room, |event| {
        out.put(n, &event);
        n += 1;
    }))
}

/// The program's array.
struct Out {
    at: *mut libc::epoll_event,
    max: usize,
    writable: bool,
}

impl Out {
    fn new(at: *mut libc::epoll_event, max: usize) -> Out {
        Out { at, max, writable: abi::bytes_mut(at.cast(), max * size_of::<libc::epoll_event>()).is_ok() }
    }

    fn put(&self, index: usize, e: &EpollEvent) {
        assert!(self.writable && index < self.max);
        // SAFETY: within the array that was checked to be writable.
        unsafe { self.at.add(index).write_unaligned(libc::epoll_event { events: e.events, u64: e.data }) };
    }

    /// Adds what the kernel has, behind what is there.
    fn add_kernel(&self, epfd: RawFd, found: usize) -> Outcome<usize> {
        if found == self.max {
            return Ok(found);
        }
        // SAFETY: the rest of the array; where it cannot be written, the kernel says so and writes nothing.
        let n = unsafe { sys::epoll_pwait(epfd, self.at.add(found), (self.max - found) as i32, 0, None) }?;
        Ok(if n == 0 { found } else { self.without_doubles(found, n) })
    }

    /// A nested set may be ready on both sides: it is one registration, and is reported once.
    fn without_doubles(&self, ours: usize, theirs: usize) -> usize {
        let mut count = ours;
        for n in ours..ours + theirs {
            // SAFETY: all below `ours + theirs` were written, within the array.
            unsafe {
                let event = self.at.add(n).read_unaligned();
                let known = (0..ours).any(|i| {
                    let e = self.at.add(i).read_unaligned();
                    (e.u64, e.events) == (event.u64, event.events)
                });
                if !known {
                    self.at.add(count).write_unaligned(event);
                    count += 1;
                }
            }
        }
        count
    }
}

/// poll(2) on an epoll descriptor with a set of ours.
pub fn is_ready(locked: &mut Locked, epfd: RawFd, set: EpollId) -> bool {
    locked.stack().epoll_ready(set) || (has_kernel_members(epfd) && sys::poll_one(epfd, libc::POLLIN) != 0)
}

/// A deadline from a time-out in milliseconds; negative waits for ever.
pub fn milliseconds(ms: i32) -> Option<Duration> {
    (ms >= 0).then(|| Duration::from_millis(ms as u64))
}

/// When a time-out is over.
pub fn deadline_of(timeout: Option<Duration>) -> Option<Instant> {
    timeout.map(|t| sys::monotonic_now() + t)
}
