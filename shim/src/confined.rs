//! A process that has put itself under seccomp(2): sshd's child before the password, a browser's renderer.
//!
//! Such a process has said which system calls it will make, and those of an engine are not among them: the first sendmmsg would
//! be its end. What is in every such list are reading and writing what is open, futex and poll. So from then on its calls do
//! their work in the arena alone: what they have to send stays there and the companion is rung, by a write to an eventfd; it
//! drives, and what arrives wakes them by futex or eventfd. The rest of the family is not concerned.
//!
//! A thread that drives gives that up, too: the filter may be meant for the others as well. Pointers are not checked any more (a
//! bad one is SIGSEGV and not EFAULT), SIGPIPE is not raised (EPIPE is returned), and new sockets are the kernel's. A filter that the program was started under is the administrator's, and is not looked at.

use crate::companion;
use crate::runtime::{self, Runtime};
use core::sync::atomic::{AtomicI32, Ordering};
use engine::sys;

/// seccomp(2): SECCOMP_SET_MODE_STRICT and SECCOMP_SET_MODE_FILTER.
const MODES: core::ops::RangeInclusive<u64> = 0..=1;

/// This process's number, once it is confined; 0 before.
static SINCE: AtomicI32 = AtomicI32::new(0);

#[inline]
pub fn is_confined() -> bool {
    SINCE.load(Ordering::Relaxed) != 0
}

/// This process's number without a system call, if it is confined.
#[inline]
pub fn pid() -> Option<i32> {
    Some(SINCE.load(Ordering::Relaxed)).filter(|&pid| pid != 0)
}

/// Whether prctl(2) with these arguments confines its caller.
pub fn by_prctl(option: i32, mode: u64) -> bool {
    option == libc::PR_SET_SECCOMP
        && (mode == libc::SECCOMP_MODE_STRICT.into() || mode == libc::SECCOMP_MODE_FILTER.into())
}

/// The same of seccomp(2).
pub fn by_seccomp(operation: u64) -> bool {
    MODES.contains(&operation)
}

/// `enter` is the system call that confines the process; 0 or more: it has.
pub fn enter<T: PartialOrd + From<i32>>(enter: impl FnOnce() -> T) -> T {
    let pid = sys::getpid();
    if let Some(rt) = runtime::attached() {
        prepare(rt);
    }
    // Before it is so: other threads may be confined by the same call (SECCOMP_FILTER_FLAG_TSYNC).
    let before = SINCE.swap(pid, Ordering::SeqCst);
    let result = enter();
    if result < T::from(0) {
        SINCE.store(before, Ordering::SeqCst);
    }
    result
}

/// The last occasion: to start a companion, to hand over the guards, to send what is ready.
fn prepare(rt: &Runtime) {
    let has_companion = companion::can_be_relied_on(rt);
    let mut has_memory = false;
    if let Ok(mut locked) = rt.lock() {
        locked.turn();
        has_memory = locked.stack().back_memory();
    }
    if !has_companion {
        log::warn!("seccomp without a companion: this process's TCP will stand still");
    } else if !has_memory {
        log::warn!(
            "seccomp with RLIMIT_FSIZE: when the arena has to grow, this process will be killed for it"
        );
    }
}
