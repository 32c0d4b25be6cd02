//! Signals of our sockets: F_SETOWN and its relatives, O_ASYNC.
//!
//! The kernel socket has them all, and answers what is asked; what it was told is told to the stack, which knows when a signal is
//! due. The companion sends it, for it can make the kernel say what only the kernel may say (`signals` of the companion). Where there
//! is none, whoever has brought it about does as well as a process can.

use crate::companion;
use crate::confined;
use crate::errno::Outcome;
use crate::runtime::{Locked, Runtime};
use core::sync::atomic::Ordering;
use engine::stack::{SockId, Stack};
use engine::sys;
use engine::values::signal::{OwnerKind, Signal};
use std::os::fd::RawFd;

/// fcntl(2) or ioctl(2) has changed the owner or the signal.
pub fn changed(rt: &Runtime, fd: RawFd, id: SockId) -> Outcome<()> {
    let (kind, who) = sys::owner(fd)?;
    let number = sys::owner_signal(fd)?;
    let is_process = matches!(kind, OwnerKind::Process | OwnerKind::Thread);
    // Under seccomp no file may be opened.
    let started = if is_process && !confined::is_confined() {
        sys::process_stat(who).map_or(0, |(_, started)| started)
    } else {
        0
    };
    Ok(rt.lock()?.stack().set_owner(id, kind, who, started, number)?)
}

/// F_SETFL or FIOASYNC.
pub fn set_async(locked: &mut Locked, fd: RawFd, id: SockId, on: bool) -> Outcome<()> {
    if on {
        locked.runtime().role().signals_sent.store(1, Ordering::Relaxed);
    }
    Ok(locked.stack().set_async(id, on, fd)?)
}

/// Signals that are sent when the lock is given back.
pub struct Outgoing {
    /// They stay in the stack.
    by_companion: bool,
    here: [Signal; AT_ONCE],
}

/// More than these wait for the next hold of the lock.
const AT_ONCE: usize = 16;

impl Outgoing {
    /// To be taken under the lock.
    #[cold]
    pub fn take(rt: &Runtime, stack: &mut Stack) -> Outgoing {
        let by_companion = confined::is_confined() || companion::is_there(rt);
        // One that is for nobody is sent to nobody.
        let mut next = || if by_companion { None } else { stack.take_signal() };
        Outgoing { by_companion, here: core::array::from_fn(|_| next().unwrap_or_default()) }
    }

    #[cold]
    pub fn send(self, rt: &Runtime) {
        if self.by_companion {
            rt.words().companion.signals.store(1, Ordering::Release);
            rt.ring_companion();
        }
        for signal in self.here.iter().filter(|s| s.to.kind != OwnerKind::Nobody) {
            // Nobody is told where the owner is gone, or may not be told.
            let _ = sys::send_signal(signal);
        }
    }
}
