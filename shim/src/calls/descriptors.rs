//! dup, close, fcntl, ioctl on our sockets and on the engine's own descriptors.

use crate::abi;
use crate::block;
use crate::epoll;
use crate::errno::{Errno, Outcome};
use crate::fdtable::{self, Kind};
use crate::owners;
use crate::portguard;
use crate::runtime::{self, Locked, Runtime};
use engine::stack::{Ready, SockId};
use engine::values::{Error, Instant};
use std::os::fd::RawFd;

const SIOCINQ: u64 = 0x541b;
const SIOCOUTQ: u64 = 0x5411;
const SIOCOUTQNSD: u64 = 0x894b;
const SIOCATMARK: u64 = 0x8905;
const FIONBIO: u64 = 0x5421;
const FIOASYNC: u64 = 0x5452;
const FIOSETOWN: u64 = 0x8901;
const SIOCSPGRP: u64 = 0x8902;

/// Whether `fd` is one of the engine's own, which the program must neither close nor replace.
pub fn is_engines(fd: RawFd) -> bool {
    runtime::attached().is_some_and(|rt| fdtable::is_engine(fd) || rt.owns_fd(fd))
}

/// `fd` is about to be closed or replaced by the program: our side of it. The number is free in the table from here on.
pub fn forget(fd: RawFd) {
    let Some(kind) = fdtable::take(fd) else { return };
    let Some(rt) = runtime::attached() else { return };
    // Inside of a signal handler that interrupted the engine the reference cannot be given back; it lives until exit.
    let Ok(mut locked) = rt.lock() else { return };
    match kind {
        Kind::Socket(id) => {
            linger(rt, &mut locked, id);
            let (stack, now) = locked.stack_now();
            stack.release(now, id);
        }
        Kind::Epoll(set) => locked.stack().epoll_release(set),
        Kind::Foreign => {}
    }
}

/// SO_LINGER with a time: close(2) of the last descriptor waits until all is acknowledged, or the time is over. The wait
/// happens after the FIN is queued, as in Linux.
fn linger(rt: &'static Runtime, locked: &mut Locked, id: SockId) {
    let Some(o) = locked.stack().options(id) else { return };
    let (on, seconds) = (o.linger_on, o.linger_s);
    if !on || seconds == 0 || locked.stack().refs(id) != 1 {
        return;
    }
    if locked.stack().has_unread(id) {
        return;
    }
    let (stack, now) = locked.stack_now();
    if stack.shutdown(now, id, engine::stack::ShutdownHow::Write).is_err() {
        return;
    }
    let deadline = now.plus_ms(u64::from(seconds) * 1000);
    locked.unlocked(|| wait_until_acknowledged(rt, id, deadline));
}

fn wait_until_acknowledged(rt: &Runtime, id: SockId, deadline: Instant) {
    let how = block::Waiting {
        socket: id,
        interest: Ready::ALL,
        exclusive: false,
        deadline: Some(deadline),
        nonblocking: false,
    };
    let Ok(locked) = rt.lock() else { return };
    // However it ends, the close goes on.
    let _ = block::until(locked, &how, |l, _| match l.stack().unsent_bytes(id) {
        Ok((0, _)) | Err(_) => Ok(()),
        Ok(_) => {
            l.stack().watch_acks(id);
            Err(Error::WouldBlock)
        }
    });
}

/// The kernel has handed out `fd` for a new socket of ours, and the lock is held: what the table still says of the number was
/// closed unseen.
pub fn evict(locked: &mut Locked, fd: RawFd) {
    match fdtable::take(fd) {
        Some(Kind::Socket(id)) => {
            let (stack, now) = locked.stack_now();
            stack.release(now, id);
        }
        Some(Kind::Epoll(set)) => locked.stack().epoll_release(set),
        _ => {}
    }
}

/// The kernel has handed out `fd` for something that is not ours. What the table still says of it was closed unseen.
pub fn handed_out(fd: RawFd) {
    forget(fd);
    fdtable::set_foreign(fd);
}

/// `new` is a duplicate of `old`, made by the kernel.
pub fn duplicated(old: RawFd, new: RawFd) {
    if old == new {
        return;
    }
    let Some((rt, kind)) = fdtable::lookup(old) else {
        fdtable::set_foreign(new);
        epoll::note_dup(old, new);
        return;
    };
    let Ok(mut locked) = rt.lock() else { return };
    match kind {
        Kind::Socket(id) => {
            locked.stack().retain(id);
            fdtable::set_socket(new, id);
        }
        Kind::Epoll(set) => {
            locked.stack().epoll_retain(set);
            fdtable::set_epoll(new, set);
            epoll::note_dup(old, new);
        }
        Kind::Foreign => {}
    }
}

/// The program closes `first..=last`: our side of those that are open, and the ranges that the kernel may close without
/// touching the engine's own descriptors.
pub fn close_range(first: u32, last: u32) -> Vec<(u32, u32)> {
    let top = last.min(i32::MAX as u32) as RawFd;
    if first as i64 <= top as i64 {
        let ours: Vec<RawFd> = fdtable::ours_in(first as RawFd, top).map(|(fd, _)| fd).collect();
        ours.into_iter().for_each(forget);
    }
    let mut keep: Vec<u32> = match runtime::attached() {
        Some(rt) => {
            let guards = rt.lock().map_or_else(|_| Vec::new(), |locked| portguard::fds(&locked));
            rt.own_fds().into_iter().chain(guards).filter(|&f| f >= 0).map(|f| f as u32).collect()
        }
        None => Vec::new(),
    };
    keep.retain(|f| (first..=last).contains(f));
    keep.sort_unstable();
    let mut ranges = Vec::new();
    let mut from = first;
    for fd in keep {
        if from < fd {
            ranges.push((from, fd - 1));
        }
        from = fd + 1;
    }
    if from <= last {
        ranges.push((from, last));
    }
    ranges
}

/// F_SETFL on one of our sockets, and the kernel socket has it already.
pub fn set_flags(rt: &Runtime, fd: RawFd, id: SockId, flags: i32) -> Outcome<()> {
    let mut locked = rt.lock()?;
    set_nonblocking(&mut locked, id, flags & libc::O_NONBLOCK != 0)?;
    owners::set_async(&mut locked, fd, id, flags & libc::O_ASYNC != 0)
}

fn set_nonblocking(locked: &mut Locked, id: SockId, on: bool) -> Outcome<()> {
    locked.stack().options_mut(id).ok_or(Errno(libc::EBADF))?.nonblocking = on;
    Ok(())
}

/// An ioctl on one of our sockets; `None`: the kernel socket answers.
pub fn ioctl(rt: &Runtime, id: SockId, request: u64, arg: *mut libc::c_void) -> Outcome<Option<i32>> {
    let give = |n: usize| abi::write(arg.cast::<i32>(), n.min(i32::MAX as usize) as i32).map(|()| Some(0));
    match request {
        SIOCINQ => {
            let mut locked = rt.lock()?;
            locked.turn_if_due();
            let n = locked.stack().readable_bytes(id)?;
            drop(locked);
            give(n)
        }
        SIOCOUTQ | SIOCOUTQNSD => {
            let mut locked = rt.lock()?;
            locked.turn_if_due();
            let (unacked, unsent) = locked.stack().unsent_bytes(id)?;
            drop(locked);
            give(if request == SIOCOUTQ { unacked } else { unsent })
        }
        SIOCATMARK => give(is_at_mark(rt, id)? as usize),
        _ => Ok(None),
    }
}

/// sockatmark(3), SIOCATMARK: 1 or 0.
pub fn is_at_mark(rt: &Runtime, id: SockId) -> Outcome<i32> {
    let mut locked = rt.lock()?;
    locked.turn_if_due();
    Ok(locked.stack().is_at_mark(id).into())
}

/// An ioctl that the kernel has accepted.
pub fn ioctl_done(
    rt: &Runtime,
    fd: RawFd,
    id: SockId,
    request: u64,
    arg: *const libc::c_void,
) -> Outcome<()> {
    match request {
        FIONBIO => set_nonblocking(&mut rt.lock()?, id, abi::read(arg.cast::<i32>())? != 0),
        FIOASYNC => owners::set_async(&mut rt.lock()?, fd, id, abi::read(arg.cast::<i32>())? != 0),
        FIOSETOWN | SIOCSPGRP => owners::changed(rt, fd, id),
        _ => Ok(()),
    }
}
