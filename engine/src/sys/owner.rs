//! Signals of descriptors: F_SETOWN and its relatives, and how a process can send what the kernel would.

use super::{SysResult, fcntl, getpid, gettid, syscall6};
use crate::values::signal::{Event, OwnerKind, Signal};
use core::ffi::c_int;
use core::mem::size_of;
use std::os::fd::RawFd;

const F_SETSIG: c_int = 10;
const F_GETSIG: c_int = 11;
const F_SETOWN_EX: c_int = 15;
const F_GETOWN_EX: c_int = 16;

/// struct f_owner_ex.
#[repr(C)]
struct OwnerEx {
    kind: c_int,
    id: c_int,
}

/// Who is told of what happens to a descriptor. A dead one is nobody.
pub fn owner(fd: RawFd) -> SysResult<(OwnerKind, i32)> {
    let mut owner = OwnerEx { kind: 0, id: 0 };
    fcntl(fd, F_GETOWN_EX, &raw mut owner as usize)?;
    Ok(match (owner.id, owner.kind) {
        (0, _) => (OwnerKind::Nobody, 0),
        (id, 0) => (OwnerKind::Thread, id),
        (id, 1) => (OwnerKind::Process, id),
        (id, _) => (OwnerKind::Group, id),
    })
}

/// F_GETSIG.
pub fn owner_signal(fd: RawFd) -> SysResult<u8> {
    fcntl(fd, F_GETSIG, 0).map(|n| n as u8)
}

/// Makes `fd` send its signals to where `signal` goes.
pub fn arm(fd: RawFd, signal: &Signal, is_async: bool) -> SysResult<()> {
    let kind = match signal.to.kind {
        OwnerKind::Nobody => return Err(libc::ESRCH),
        OwnerKind::Thread => 0,
        OwnerKind::Process => 1,
        OwnerKind::Group => 2,
    };
    let owner = OwnerEx { kind, id: signal.to.id };
    fcntl(fd, F_SETOWN_EX, &raw const owner as usize)?;
    fcntl(fd, F_SETSIG, signal.to.number.into())?;
    let flags = if is_async { libc::O_ASYNC | libc::O_NONBLOCK } else { libc::O_NONBLOCK };
    fcntl(fd, libc::F_SETFL, flags as usize).map(drop)
}

/// siginfo_t as sent for a descriptor.
#[repr(C)]
struct Info {
    number: c_int,
    errno: c_int,
    code: c_int,
    _pad: c_int,
    band: i64,
    fd: c_int,
    _rest: [c_int; 25],
}

/// Sends it, as well as one process may send it to another: what the kernel alone says is said to this one only, and others are
/// told SI_SIGIO, or nothing.
///
/// # Errors
/// ESRCH, EPERM: nobody is to be told, and nobody has to know.
pub fn send_signal(signal: &Signal) -> SysResult<()> {
    const SI_SIGIO: c_int = -5;
    const SI_KERNEL: c_int = 0x80;
    const _: () = assert!(size_of::<Info>() == 128);
    let to = &signal.to;
    let (plain, number) = match (signal.event, to.number) {
        (Event::Urgent, _) => (true, libc::SIGURG),
        (_, 0) => (true, libc::SIGIO),
        (_, number) => (false, number.into()),
    };
    let (me, my_thread) = (getpid(), gettid());
    let mine =
        to.kind == OwnerKind::Process && to.id == me || to.kind == OwnerKind::Thread && to.id == my_thread;
    if to.kind == OwnerKind::Group || (plain && !mine) {
        let pid = if to.kind == OwnerKind::Group { -to.id } else { to.id };
        let call = if to.kind == OwnerKind::Thread { libc::SYS_tkill } else { libc::SYS_kill };
        // SAFETY: no pointers.
        return unsafe { syscall6(call, [pid as usize, number as usize, 0, 0, 0, 0]) }.map(drop);
    }
    let (code, band, fd) = match plain {
        true => (SI_KERNEL, 0, 0),
        false if mine => (signal.event.code(), signal.event.band(), to.fd),
        false => (SI_SIGIO, signal.event.band(), to.fd),
    };
    let info = Info { number, errno: 0, code, _pad: 0, band, fd, _rest: [0; 25] };
    let at = &raw const info as usize;
    // The kernel takes such a code from a thread for itself only; for the process, by its own number.
    let (call, args) = match to.kind {
        OwnerKind::Thread => {
            (libc::SYS_rt_tgsigqueueinfo, [me as usize, to.id as usize, number as usize, at, 0, 0])
        }
        _ => {
            let pid = if mine { my_thread } else { to.id };
            (libc::SYS_rt_sigqueueinfo, [pid as usize, number as usize, at, 0, 0, 0])
        }
    };
    // SAFETY: the information is a local of the kernel's size.
    match unsafe { syscall6(call, args) } {
        // A thread of another process.
        Err(libc::ESRCH) if to.kind == OwnerKind::Thread => {
            // SAFETY: as above.
            unsafe { syscall6(libc::SYS_rt_sigqueueinfo, [to.id as usize, number as usize, at, 0, 0, 0]) }
                .map(drop)
        }
        other => other.map(drop),
    }
}
