//! From the engine's results to C's: -1 and errno. The one place where panics end.

use crate::cancel;
use engine::values::Error;

/// What a call on one of our descriptors came to; the error is an errno.
pub type Outcome<T> = Result<T, Errno>;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Errno(pub i32);

impl From<Error> for Errno {
    fn from(e: Error) -> Errno {
        Errno(e.errno())
    }
}

impl From<i32> for Errno {
    fn from(errno: i32) -> Errno {
        Errno(errno)
    }
}

pub fn set(errno: i32) {
    // SAFETY: libc gives the calling thread's errno, always valid.
    unsafe { *libc::__errno_location() = errno };
}

pub fn get() -> i32 {
    // SAFETY: as above.
    unsafe { *libc::__errno_location() }
}

/// Runs the body of a hook. A panic is a defect: the program gets EIO, the log says why, and the kernel is not asked to
/// do the call a second time.
pub fn run<T>(body: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)) {
        Ok(outcome) => outcome,
        Err(_) => {
            log::error!("a call inside of tcpreload failed; the program gets EIO");
            Err(Errno(libc::EIO))
        }
    }
}

/// Runs the body of a hook in which a thread can be cancelled.
fn run_cancellable<T>(body: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    let outcome = run(body);
    if matches!(outcome, Err(cancel::CANCELED)) {
        cancel::act();
    }
    outcome
}

/// For calls that return an int: 0 or a descriptor, or -1.
pub fn int(body: impl FnOnce() -> Outcome<i32>) -> i32 {
    match run_cancellable(body) {
        Ok(value) => value,
        Err(errno) => {
            set(errno.0);
            -1
        }
    }
}

/// For calls that return a count of bytes, or -1.
pub fn size(body: impl FnOnce() -> Outcome<usize>) -> isize {
    match run_cancellable(body) {
        Ok(n) => n as isize,
        Err(errno) => {
            set(errno.0);
            -1
        }
    }
}
