//! select poll epoll and their variants.

use crate::abi;
use crate::epoll;
use crate::errno::{self, Errno, Outcome};
use crate::fdtable::{self, Kind};
use crate::poll as polling;
use crate::round;
use core::ffi::{c_int, c_void};
use core::time::Duration;
use libc::{epoll_event, nfds_t, pollfd, sigset_t, timespec, timeval};
use redhook::{hook, real};

macro_rules! poll_door {
    ($name:ident, $hook:ident $(, $extra:ident)?) => {
        hook! {
            unsafe fn $name(fds: *mut pollfd, count: nfds_t, timeout: c_int $(, $extra: usize)?) -> c_int => $hook {
                match polling::concerns_us(fds, count as usize) {
                    Some(rt) => errno::int(|| {
                        let fds = array(fds, count)?;
                        polling::poll(rt, fds, epoll::milliseconds(timeout), None)
                    }),
                    None => {
                        round::pauses();
                        unsafe { real!($name)(fds, count, timeout $(, $extra)?) }
                    }
                }
            }
        }
    };
}

poll_door!(poll, tcpreload_poll);
poll_door!(__poll, tcpreload_reserved_poll);
poll_door!(__poll_chk, tcpreload_reserved_poll_chk, fds_bytes);

fn array<'a>(fds: *mut pollfd, count: nfds_t) -> Outcome<&'a mut [pollfd]> {
    let bytes = abi::bytes_mut(fds.cast(), count as usize * size_of::<pollfd>())?;
    // SAFETY: writable for `count` entries, as just checked; any bytes are a pollfd.
    Ok(unsafe { core::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), count as usize) })
}

/// A timespec that the kernel would take; null waits for ever.
fn timespec_of(at: *const timespec) -> Outcome<Option<Duration>> {
    if at.is_null() {
        return Ok(None);
    }
    let t = abi::read(at)?;
    if t.tv_sec < 0 || !(0..1_000_000_000).contains(&t.tv_nsec) {
        return Err(Errno(libc::EINVAL));
    }
    Ok(Some(Duration::new(t.tv_sec as u64, t.tv_nsec as u32)))
}

/// The part of a signal mask that the kernel knows: 64 bits.
fn mask_of(at: *const sigset_t) -> Outcome<Option<u64>> {
    if at.is_null() { Ok(None) } else { abi::read(at.cast::<u64>()).map(Some) }
}

macro_rules! ppoll_door {
    ($name:ident, $hook:ident $(, $extra:ident)?) => {
        hook! {
            unsafe fn $name(fds: *mut pollfd, count: nfds_t, timeout: *const timespec, mask: *const sigset_t $(, $extra: usize)?) -> c_int => $hook {
                match polling::concerns_us(fds, count as usize) {
                    Some(rt) => errno::int(|| {
                        let (timeout, mask) = (timespec_of(timeout)?, mask_of(mask)?);
                        polling::poll(rt, array(fds, count)?, timeout, mask)
                    }),
                    None => {
                        round::pauses();
                        unsafe { real!($name)(fds, count, timeout, mask $(, $extra)?) }
                    }
                }
            }
        }
    };
}

ppoll_door!(ppoll, tcpreload_ppoll);
ppoll_door!(__ppoll_chk, tcpreload_reserved_ppoll_chk, fds_bytes);

/// A set of `nfds` bits; fd_set is an array of longs.
fn set_of<'a>(at: *mut c_void, nfds: c_int) -> Outcome<Option<&'a mut [u8]>> {
    if at.is_null() {
        return Ok(None);
    }
    abi::bytes_mut(at, (nfds as usize).div_ceil(64) * 8).map(Some)
}

/// Whether a descriptor of any of the sets is ours.
fn select_concerns_us(nfds: c_int, sets: [*mut c_void; 3]) -> Option<&'static crate::runtime::Runtime> {
    let rt = crate::runtime::attached()?;
    for at in sets {
        let Ok(Some(set)) = set_of(at, nfds.max(0)) else { continue };
        for fd in 0..nfds {
            if set[fd as usize / 8] >> (fd % 8) & 1 != 0 && fdtable::lookup(fd).is_some() {
                return Some(rt);
            }
        }
    }
    None
}

macro_rules! select_door {
    ($name:ident, $hook:ident) => {
        hook! {
            unsafe fn $name(nfds: c_int, r: *mut c_void, w: *mut c_void, e: *mut c_void, timeout: *mut timeval) -> c_int => $hook {
                let Some(rt) = select_concerns_us(nfds, [r, w, e]) else {
                    round::pauses();
                    return unsafe { real!($name)(nfds, r, w, e, timeout) };
                };
                errno::int(|| {
                    let wait = if timeout.is_null() { None } else {
                        let t = abi::read(timeout.cast_const())?;
                        if t.tv_sec < 0 || t.tv_usec < 0 {
                            return Err(Errno(libc::EINVAL));
                        }
                        Some(Duration::from_micros(t.tv_sec as u64 * 1_000_000 + t.tv_usec as u64))
                    };
                    let begin = engine::sys::monotonic_now();
                    let sets = [set_of(r, nfds)?, set_of(w, nfds)?, set_of(e, nfds)?];
                    let result = polling::select(rt, nfds, sets, wait, None);
                    // Linux tells how much time was left.
                    if let Some(wait) = wait {
                        let left = wait.saturating_sub(engine::sys::monotonic_now() - begin);
                        let t = timeval { tv_sec: left.as_secs() as i64, tv_usec: left.subsec_micros().into() };
                        abi::write(timeout, t)?;
                    }
                    result
                })
            }
        }
    };
}

select_door!(select, tcpreload_select);
select_door!(__select, tcpreload_reserved_select);

hook! {
    unsafe fn pselect(nfds: c_int, r: *mut c_void, w: *mut c_void, e: *mut c_void, timeout: *const timespec, mask: *const sigset_t) -> c_int => tcpreload_pselect {
        let Some(rt) = select_concerns_us(nfds, [r, w, e]) else {
            round::pauses();
            return unsafe { real!(pselect)(nfds, r, w, e, timeout, mask) };
        };
        errno::int(|| {
            let (timeout, mask) = (timespec_of(timeout)?, mask_of(mask)?);
            polling::select(rt, nfds, [set_of(r, nfds)?, set_of(w, nfds)?, set_of(e, nfds)?], timeout, mask)
        })
    }
}

hook! {
    unsafe fn epoll_create(size: c_int) -> c_int => tcpreload_epoll_create {
        let fd = unsafe { real!(epoll_create)(size) };
        if fd >= 0 {
            epoll::note_created(fd);
        }
        fd
    }
}

hook! {
    unsafe fn epoll_create1(flags: c_int) -> c_int => tcpreload_epoll_create1 {
        let fd = unsafe { real!(epoll_create1)(flags) };
        if fd >= 0 {
            epoll::note_created(fd);
        }
        fd
    }
}

hook! {
    unsafe fn epoll_ctl(epfd: c_int, op: c_int, fd: c_int, event: *mut epoll_event) -> c_int => tcpreload_epoll_ctl {
        match fdtable::lookup(fd) {
            Some((rt, Kind::Socket(id))) => errno::int(|| epoll::ctl(rt, epfd, op, fd, id, event)),
            _ => {
                if op == libc::EPOLL_CTL_ADD {
                    epoll::note_kernel_member(epfd);
                }
                let result = unsafe { real!(epoll_ctl)(epfd, op, fd, event) };
                if result != 0 || !epoll::may_be_epoll(fd) {
                    return result;
                }
                errno::int(|| epoll::nest(epfd, op, fd, event, result))
            }
        }
    }
}

fn set_at(epfd: c_int) -> Option<(&'static crate::runtime::Runtime, engine::stack::EpollId)> {
    match epoll::wait_set(epfd)? {
        (rt, Kind::Epoll(set)) => Some((rt, set)),
        _ => None,
    }
}

hook! {
    unsafe fn epoll_wait(epfd: c_int, events: *mut epoll_event, max: c_int, timeout: c_int) -> c_int => tcpreload_epoll_wait {
        match set_at(epfd) {
            Some((rt, set)) => errno::int(|| epoll::wait(rt, epfd, set, events, max, epoll::milliseconds(timeout), None)),
            None => {
                round::pauses();
                unsafe { real!(epoll_wait)(epfd, events, max, timeout) }
            }
        }
    }
}

hook! {
    unsafe fn epoll_pwait(epfd: c_int, events: *mut epoll_event, max: c_int, timeout: c_int, mask: *const sigset_t) -> c_int => tcpreload_epoll_pwait {
        match set_at(epfd) {
            Some((rt, set)) => errno::int(|| epoll::wait(rt, epfd, set, events, max, epoll::milliseconds(timeout), mask_of(mask)?)),
            None => {
                round::pauses();
                unsafe { real!(epoll_pwait)(epfd, events, max, timeout, mask) }
            }
        }
    }
}

hook! {
    unsafe fn epoll_pwait2(epfd: c_int, events: *mut epoll_event, max: c_int, timeout: *const timespec, mask: *const sigset_t) -> c_int => tcpreload_epoll_pwait2 {
        match set_at(epfd) {
            Some((rt, set)) => errno::int(|| epoll::wait(rt, epfd, set, events, max, timespec_of(timeout)?, mask_of(mask)?)),
            None => {
                round::pauses();
                unsafe { real!(epoll_pwait2)(epfd, events, max, timeout, mask) }
            }
        }
    }
}
