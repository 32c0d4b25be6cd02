//! Whatever hands out a new number: an entry that the table still has for it is of a descriptor that was closed by a door
//! which nobody watched (fclose closes inside of libc). It goes, and its socket with it; a file is never taken for one.

use crate::calls::descriptors;
use crate::errno;
use core::ffi::{c_char, c_int, c_uint, c_ulong, c_void};
use redhook::{hook, real};

pub(super) extern "C" fn handed_out(fd: c_int) {
    if fd >= 0 {
        let _ = errno::run(|| {
            descriptors::handed_out(fd);
            Ok(())
        });
    }
}

/// Functions that return the number.
macro_rules! number_door {
    ($name:ident, $hook:ident, ($($arg:ident : $t:ty),*)) => {
        hook! {
            unsafe fn $name($($arg: $t),*) -> c_int => $hook {
                let fd = unsafe { real!($name)($($arg),*) };
                handed_out(fd);
                fd
            }
        }
    };
}

// The mode is variadic in C; on the supported machines it is passed like any other.
number_door!(open, tcpreload_open, (path: *const c_char, flags: c_int, mode: c_ulong));
number_door!(open64, tcpreload_open64, (path: *const c_char, flags: c_int, mode: c_ulong));
number_door!(openat, tcpreload_openat, (dir: c_int, path: *const c_char, flags: c_int, mode: c_ulong));
number_door!(openat64, tcpreload_openat64, (dir: c_int, path: *const c_char, flags: c_int, mode: c_ulong));
number_door!(__open_2, tcpreload_checked_open, (path: *const c_char, flags: c_int));
number_door!(__open64_2, tcpreload_checked_open64, (path: *const c_char, flags: c_int));
number_door!(__openat_2, tcpreload_checked_openat, (dir: c_int, path: *const c_char, flags: c_int));
number_door!(__openat64_2, tcpreload_checked_openat64, (dir: c_int, path: *const c_char, flags: c_int));
number_door!(creat, tcpreload_creat, (path: *const c_char, mode: c_uint));
number_door!(creat64, tcpreload_creat64, (path: *const c_char, mode: c_uint));
number_door!(eventfd, tcpreload_eventfd, (value: c_uint, flags: c_int));
number_door!(timerfd_create, tcpreload_timerfd_create, (clock: c_int, flags: c_int));
number_door!(signalfd, tcpreload_signalfd, (fd: c_int, mask: *const c_void, flags: c_int));
number_door!(inotify_init, tcpreload_inotify_init, ());
number_door!(inotify_init1, tcpreload_inotify_init1, (flags: c_int));
number_door!(memfd_create, tcpreload_memfd_create, (name: *const c_char, flags: c_uint));

number_door!(mkstemp, tcpreload_mkstemp, (path: *mut c_char));
number_door!(mkstemp64, tcpreload_mkstemp64, (path: *mut c_char));
number_door!(mkostemp, tcpreload_mkostemp, (path: *mut c_char, flags: c_int));
number_door!(mkostemp64, tcpreload_mkostemp64, (path: *mut c_char, flags: c_int));
number_door!(shm_open, tcpreload_shm_open, (name: *const c_char, flags: c_int, mode: c_uint));
number_door!(posix_openpt, tcpreload_posix_openpt, (flags: c_int));
number_door!(pidfd_open, tcpreload_pidfd_open, (pid: libc::pid_t, flags: c_uint));

/// Functions that open a file inside of libc and return what stands for it.
macro_rules! stream_door {
    ($name:ident, $hook:ident, ($($arg:ident),*) -> $stream:ty, $number:path) => {
        hook! {
            unsafe fn $name($($arg: *const c_char),*) -> *mut $stream => $hook {
                unsafe {
                    let stream = real!($name)($($arg),*);
                    if !stream.is_null() && crate::runtime::attached().is_some() {
                        handed_out($number(stream));
                    }
                    stream
                }
            }
        }
    };
}

stream_door!(fopen, tcpreload_fopen, (path, mode) -> libc::FILE, libc::fileno);
stream_door!(fopen64, tcpreload_fopen64, (path, mode) -> libc::FILE, libc::fileno);
stream_door!(opendir, tcpreload_opendir, (path) -> libc::DIR, libc::dirfd);

/// Functions that fill an array of two numbers, which libc has checked by then.
unsafe fn both_handed_out(result: c_int, fds: *const c_int) {
    if result == 0 {
        // SAFETY: the real function has written both.
        unsafe {
            handed_out(fds.read());
            handed_out(fds.add(1).read());
        }
    }
}

hook! {
    unsafe fn pipe(fds: *mut c_int) -> c_int => tcpreload_pipe {
        unsafe {
            let result = real!(pipe)(fds);
            both_handed_out(result, fds);
            result
        }
    }
}

hook! {
    unsafe fn pipe2(fds: *mut c_int, flags: c_int) -> c_int => tcpreload_pipe2 {
        unsafe {
            let result = real!(pipe2)(fds, flags);
            both_handed_out(result, fds);
            result
        }
    }
}

hook! {
    unsafe fn socketpair(domain: c_int, kind: c_int, protocol: c_int, fds: *mut c_int) -> c_int => tcpreload_socketpair {
        unsafe {
            let result = real!(socketpair)(domain, kind, protocol, fds);
            both_handed_out(result, fds);
            result
        }
    }
}
