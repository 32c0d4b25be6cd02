//! poll and select over our sockets and others in one set.

use crate::abi;
use crate::cancel::CANCELED;
use crate::epoll;
use crate::errno::{Errno, Outcome};
use crate::fdtable::{self, Kind};
use crate::round;
use crate::runtime::{Locked, Runtime};
use crate::wait::{Sleeper, Watch, Woken};
use core::time::Duration;
use engine::stack::Ready;
use engine::sys;

/// Whether any of the descriptors is ours; if not, the call is the kernel's.
pub fn concerns_us(fds: *const libc::pollfd, count: usize) -> Option<&'static Runtime> {
    let rt = crate::runtime::attached()?;
    // More than there can be descriptors is for the kernel to refuse.
    if count > 256 && count > sys::getrlimit(libc::RLIMIT_NOFILE as u32).map_or(1024, |l| l.0) as usize {
        return None;
    }
    let bytes = abi::bytes(fds.cast(), count * size_of::<libc::pollfd>()).ok()?;
    let fds: *const libc::pollfd = bytes.as_ptr().cast();
    (0..count).any(|n| fdtable::lookup(fd_at(fds, n)).is_some()).then_some(rt)
}

fn fd_at(fds: *const libc::pollfd, n: usize) -> i32 {
    // SAFETY: callers stay within the array that was checked to be readable.
    unsafe { (*fds.add(n)).fd }
}

/// A poll over `fds`, at least one of which is ours: sets `revents`, returns how many are not zero.
///
/// # Errors
/// EINTR, ENOMEM.
pub fn poll(
    rt: &Runtime,
    fds: &mut [libc::pollfd],
    timeout: Option<Duration>,
    mask: Option<u64>,
) -> Outcome<i32> {
    let deadline = epoll::deadline_of(timeout);
    let watch = Watch::over(rt);
    // The kernel's share, with our own masked out.
    let mut kernel: Vec<libc::pollfd> = Vec::with_capacity(fds.len());
    let mut places: Vec<usize> = Vec::with_capacity(fds.len());
    for (n, f) in fds.iter().enumerate() {
        match fdtable::lookup(f.fd) {
            Some((_, Kind::Socket(_))) => {}
            // The kernel's part of an epoll descriptor wakes us; what it is worth is asked of both parts.
            _ => {
                if f.fd >= 0 {
                    kernel.push(libc::pollfd { fd: f.fd, events: f.events, revents: 0 });
                    places.push(n);
                }
            }
        }
    }
    // Declared after the watch, which takes the lock at its end.
    let mut locked = rt.lock()?;
    loop {
        locked.turn_if_due();
        let ours = look(&mut locked, fds);
        if !kernel.is_empty() {
            drop(locked);
            if look_kernel(fds, &mut kernel, &places)? || ours {
                return Ok(tell(fds));
            }
            locked = rt.lock()?;
        } else if ours {
            return Ok(tell(fds));
        }
        if deadline.is_some_and(|d| sys::monotonic_now() >= d) {
            return Ok(0);
        }
        let sleeper = Sleeper::register(rt, &mut locked)?;
        for f in fds.iter() {
            let tied = match fdtable::lookup(f.fd) {
                Some((_, Kind::Socket(id))) => {
                    let interest = Ready(f.events as u16 as u32);
                    locked.stack().wait_on(sleeper.id, id, interest, false)
                }
                Some((_, Kind::Epoll(set))) => locked.stack().wait_on_set(sleeper.id, set, false),
                _ => Ok(()),
            };
            if let Err(error) = tied {
                sleeper.unregister(&mut locked);
                return Err(error.into());
            }
        }
        // Something may have come while the kernel was asked.
        let ready = !kernel.is_empty() && look(&mut locked, fds);
        drop(locked);
        watch.note();
        let woken = if ready { sleeper.stays_awake() } else { sleeper.sleep(&mut kernel, deadline, mask) };
        locked = rt.lock()?;
        sleeper.unregister(&mut locked);
        if woken == Woken::Cancelled {
            return Err(CANCELED);
        }
        if woken == Woken::Interrupted {
            let ready = look(&mut locked, fds);
            return if ready { Ok(tell(fds)) } else { Err(Errno(libc::EINTR)) };
        }
    }
}

/// How many are ready: the program is told.
fn tell(fds: &[libc::pollfd]) -> i32 {
    let ready = fds.iter().filter(|f| f.revents != 0).count();
    round::begins(ready);
    ready as i32
}

/// Sets the `revents` of what is ours; true when any is not zero.
fn look(locked: &mut Locked, fds: &mut [libc::pollfd]) -> bool {
    let mut any = false;
    for f in fds {
        let ready = match fdtable::lookup(f.fd) {
            Some((_, Kind::Socket(id))) => {
                let wanted = Ready(f.events as u16 as u32) | Ready::ALWAYS;
                (locked.stack().readiness(id) & wanted).0 as u16 as i16
            }
            Some((_, Kind::Epoll(set))) if epoll::is_ready(locked, f.fd, set) => {
                f.events & (libc::POLLIN | libc::POLLRDNORM)
            }
            _ => 0,
        };
        f.revents = ready;
        any |= ready != 0;
    }
    any
}

fn look_kernel(fds: &mut [libc::pollfd], kernel: &mut [libc::pollfd], places: &[usize]) -> Outcome<bool> {
    if kernel.is_empty() {
        return Ok(false);
    }
    let n = sys::ppoll(kernel, Some(Duration::ZERO), None)?;
    for (k, &at) in kernel.iter_mut().zip(places) {
        if k.revents != 0 {
            fds[at].revents |= k.revents;
        }
        k.revents = 0;
    }
    Ok(n > 0)
}

/// A select over sets of which at least one member is ours: as poll, and back. Sets hold `nfds` bits, which may be more
/// than FD_SETSIZE.
///
/// # Errors
/// EBADF, EINTR, EINVAL.
pub fn select(
    rt: &Runtime,
    nfds: i32,
    sets: [Option<&mut [u8]>; 3],
    timeout: Option<Duration>,
    mask: Option<u64>,
) -> Outcome<i32> {
    // What select calls readable, writable and exceptional (POLLIN_SET and so on in the kernel).
    const READ: i16 = libc::POLLIN | libc::POLLHUP | libc::POLLERR | libc::POLLRDNORM | libc::POLLRDBAND;
    const WRITE: i16 = libc::POLLOUT | libc::POLLERR | libc::POLLWRNORM | libc::POLLWRBAND;
    const EXCEPT: i16 = libc::POLLPRI;
    const MEANING: [i16; 3] = [READ, WRITE, EXCEPT];
    const ASK: [i16; 3] = [libc::POLLIN, libc::POLLOUT, libc::POLLPRI];
    let has = |set: &Option<&mut [u8]>, fd: i32| {
        set.as_ref().is_some_and(|s| s[fd as usize / 8] >> (fd % 8) & 1 != 0)
    };
    let mut fds = Vec::new();
    for fd in 0..nfds {
        let events = (0..3).filter(|&n| has(&sets[n], fd)).fold(0, |e, n| e | ASK[n]);
        if events != 0 {
            fds.push(libc::pollfd { fd, events, revents: 0 });
        }
    }
    let asked: Vec<(i32, i16)> = fds.iter().map(|f| (f.fd, f.events)).collect();
    poll(rt, &mut fds, timeout, mask)?;
    if fds.iter().any(|f| f.revents & libc::POLLNVAL != 0) {
        return Err(Errno(libc::EBADF));
    }
    let mut count = 0;
    for (n, set) in sets.into_iter().enumerate() {
        let Some(set) = set else { continue };
        set.fill(0);
        for (f, &(fd, events)) in fds.iter().zip(&asked) {
            if events & ASK[n] != 0 && f.revents & MEANING[n] != 0 {
                set[fd as usize / 8] |= 1 << (fd % 8);
                count += 1;
            }
        }
    }
    Ok(count)
}
