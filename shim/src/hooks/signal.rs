//! sigaction and its relatives, pthread_cancel: the real ones do the work; which handlers restart calls is noted, and which
//! threads are cancelled.

use crate::{cancel, signals};
use core::ffi::c_int;
use libc::{sigaction as SigAction, sighandler_t};
use redhook::{hook, real};

fn is_handler(h: sighandler_t) -> bool {
    h != libc::SIG_DFL && h != libc::SIG_IGN
}

hook! {
    unsafe fn sigaction(number: c_int, new: *const SigAction, old: *mut SigAction) -> c_int => tcpreload_sigaction {
        unsafe {
            let result = real!(sigaction)(number, new, old);
            if result == 0 && !new.is_null() {
                let restart = (*new).sa_flags & libc::SA_RESTART != 0;
                signals::installed(number, is_handler((*new).sa_sigaction), restart);
            }
            result
        }
    }
}

hook! {
    unsafe fn signal(number: c_int, handler: sighandler_t) -> sighandler_t => tcpreload_signal {
        let old = unsafe { real!(signal)(number, handler) };
        if old != libc::SIG_ERR {
            // BSD semantics: calls restart.
            signals::installed(number, is_handler(handler), true);
        }
        old
    }
}

hook! {
    unsafe fn siginterrupt(number: c_int, interrupting: c_int) -> c_int => tcpreload_siginterrupt {
        let result = unsafe { real!(siginterrupt)(number, interrupting) };
        if result == 0 {
            signals::set_interrupting(number, interrupting != 0);
        }
        result
    }
}

hook! {
    unsafe fn pthread_cancel(thread: libc::pthread_t) -> c_int => tcpreload_pthread_cancel {
        let result = unsafe { real!(pthread_cancel)(thread) };
        if result == 0 {
            let _ = crate::errno::run(|| {
                cancel::note(thread);
                Ok(())
            });
        }
        result
    }
}
