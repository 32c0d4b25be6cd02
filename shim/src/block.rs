//! Blocking calls: try, sleep, try again; time-outs, signals.

use crate::cancel::CANCELED;
use crate::errno::{Errno, Outcome};
use crate::runtime::Locked;
use crate::signals;
use crate::wait::{Sleeper, Watch, Woken};
use engine::stack::{Ready, SockId};
use engine::sys;
use engine::values::{Error, Instant};

/// How a blocking call waits.
#[derive(Clone, Copy)]
pub struct Waiting {
    pub socket: SockId,
    pub interest: Ready,
    /// Of several such waiters, one is woken for an event.
    pub exclusive: bool,
    /// When to give up (SO_RCVTIMEO, SO_SNDTIMEO); a call with one is never restarted (signal(7)).
    pub deadline: Option<Instant>,
    /// Do not wait at all.
    pub nonblocking: bool,
}

impl Waiting {
    /// After a signal handler the call goes on.
    pub fn goes_on(&self) -> bool {
        self.deadline.is_none() && signals::restarts()
    }

    /// Not to wait, where `nonblocking` (MSG_DONTWAIT).
    pub fn or_nonblocking(self, nonblocking: bool) -> Waiting {
        Waiting { nonblocking: self.nonblocking || nonblocking, ..self }
    }
}

/// Attempts a call until it gives something other than [`Error::WouldBlock`]. The attempt is told when a signal handler has
/// run meanwhile: a call that has done a part of its work then returns the part, SA_RESTART or not.
///
/// `locked` is the caller's hold of the lock: the first attempt is made under it, and so is the one after each sleep. A call
/// that finds what it wants takes the lock once.
///
/// # Errors
/// What the attempt gives; EAGAIN at once where the call must not block, and when the time is up; EINTR.
pub fn until<T>(
    locked: Locked,
    how: &Waiting,
    mut attempt: impl FnMut(&mut Locked, bool) -> Result<T, Error>,
) -> Outcome<T> {
    let rt = locked.runtime();
    let watch = Watch::over(rt);
    // Declared after the watch, which takes the lock at its end.
    let mut locked = locked;
    let mut interrupted = false;
    loop {
        match attempt(&mut locked, interrupted) {
            Err(Error::WouldBlock) => {}
            other => return Ok(other?),
        }
        // Nothing yet: perhaps it waits in the ring.
        if locked.turn_if_due() {
            match attempt(&mut locked, interrupted) {
                Err(Error::WouldBlock) => {}
                other => return Ok(other?),
            }
        }
        if how.nonblocking || how.deadline.is_some_and(|d| sys::monotonic_now() >= d) {
            return Err(Error::WouldBlock.into());
        }
        if interrupted && !how.goes_on() {
            return Err(Errno(libc::EINTR));
        }
        locked.be_impatient();
        let sleeper = Sleeper::register(rt, &mut locked)?;
        if let Err(error) = locked.stack().wait_on(sleeper.id, how.socket, how.interest, how.exclusive) {
            sleeper.unregister(&mut locked);
            return Err(error.into());
        }
        drop(locked);
        watch.note();
        let woken = sleeper.sleep(&mut [], how.deadline, None);
        locked = rt.lock()?;
        let meant = sleeper.unregister(&mut locked);
        interrupted = woken == Woken::Interrupted;
        if meant && woken != Woken::Ready && how.exclusive {
            locked.stack().pass_on(how.socket);
        }
        if woken == Woken::Cancelled {
            return Err(CANCELED);
        }
    }
}

/// A time-out of a socket option, from now on.
pub fn deadline(timeout_us: u64) -> Option<Instant> {
    (timeout_us != 0).then(|| sys::monotonic_now().plus_us(timeout_us))
}
