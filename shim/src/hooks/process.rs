//! fork exec exit.

use crate::errno;
use crate::process;
use core::ffi::{c_char, c_int};
use libc::pid_t;
use redhook::{hook, real};

hook! {
    unsafe fn fork() -> pid_t => tcpreload_fork {
        process::fork(|| unsafe { real!(fork)() })
    }
}

hook! {
    unsafe fn _Fork() -> pid_t => tcpreload_raw_fork {
        process::fork(|| unsafe { real!(_Fork)() })
    }
}

hook! {
    unsafe fn vfork() -> pid_t => tcpreload_vfork {
        // The real vfork cannot be called from a function that returns; fork can. (`libc::fork` would be our own.)
        process::vfork(|| unsafe { real!(fork)() })
    }
}

hook! {
    unsafe fn daemon(nochdir: c_int, noclose: c_int) -> c_int => tcpreload_daemon {
        if crate::runtime::attached().is_none() {
            return unsafe { real!(daemon)(nochdir, noclose) };
        }
        errno::int(|| process::daemon(nochdir != 0, noclose != 0, || unsafe { real!(fork)() }))
    }
}

macro_rules! exec_door {
    ($name:ident, $hook:ident, ($($arg:ident : $t:ty),*)) => {
        hook! {
            unsafe fn $name($($arg: $t),*) -> c_int => $hook {
                let released = process::before_exec();
                let result = unsafe { real!($name)($($arg),*) };
                let failure = errno::get();
                process::exec_failed(&released);
                errno::set(failure);
                result
            }
        }
    };
}

type Strings = *const *const c_char;
exec_door!(execve, tcpreload_execve, (path: *const c_char, argv: Strings, envp: Strings));
exec_door!(execv, tcpreload_execv, (path: *const c_char, argv: Strings));
exec_door!(execvp, tcpreload_execvp, (file: *const c_char, argv: Strings));
exec_door!(execvpe, tcpreload_execvpe, (file: *const c_char, argv: Strings, envp: Strings));
exec_door!(fexecve, tcpreload_fexecve, (fd: c_int, argv: Strings, envp: Strings));
exec_door!(execveat, tcpreload_execveat, (dir: c_int, path: *const c_char, argv: Strings, envp: Strings, flags: c_int));

macro_rules! exit_door {
    ($name:ident, $hook:ident) => {
        hook! {
            unsafe fn $name(status: c_int) => $hook {
                let _ = errno::run(|| { process::goodbye(); Ok(()) });
                unsafe { real!($name)(status) }
            }
        }
    };
}

exit_door!(_exit, tcpreload_exit_now);
exit_door!(_Exit, tcpreload_exit_c99);
exit_door!(quick_exit, tcpreload_quick_exit);
