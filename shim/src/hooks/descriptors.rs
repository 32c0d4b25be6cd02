//! close dup fcntl ioctl.

use crate::calls::descriptors as calls;
use crate::errno::{self, Errno};
use crate::fdtable;
use crate::owners;
use core::ffi::{c_int, c_uint, c_ulong, c_void};
use engine::sys;
use redhook::{hook, real};

const F_SETSIG: c_int = 10;
const F_SETOWN_EX: c_int = 15;

macro_rules! close_door {
    ($name:ident, $hook:ident) => {
        hook! {
            unsafe fn $name(fd: c_int) -> c_int => $hook {
                if calls::is_engines(fd) {
                    // To the program these do not exist.
                    errno::set(libc::EBADF);
                    return -1;
                }
                let _ = errno::run(|| { calls::forget(fd); Ok(()) });
                unsafe { real!($name)(fd) }
            }
        }
    };
}

close_door!(close, tcpreload_close);
close_door!(__close, tcpreload_reserved_close);

hook! {
    unsafe fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int => tcpreload_close_range {
        const CLOSE_RANGE_CLOEXEC: c_int = 4;
        if first > last || flags & CLOSE_RANGE_CLOEXEC != 0 || crate::runtime::attached().is_none() {
            return unsafe { real!(close_range)(first, last, flags) };
        }
        errno::int(|| {
            for (first, last) in calls::close_range(first, last) {
                sys::close_range(first, last, flags as u32)?;
            }
            Ok(0)
        })
    }
}

hook! {
    unsafe fn closefrom(first: c_int) => tcpreload_closefrom {
        if crate::runtime::attached().is_none() {
            return unsafe { real!(closefrom)(first) };
        }
        let _ = errno::run(|| {
            for (first, last) in calls::close_range(first.max(0) as u32, u32::MAX) {
                sys::close_range(first, last, 0)?;
            }
            Ok(())
        });
    }
}

hook! {
    unsafe fn dup(fd: c_int) -> c_int => tcpreload_dup {
        let new = unsafe { real!(dup)(fd) };
        if new >= 0 {
            duplicated(fd, new);
        }
        new
    }
}

/// `new` is one more descriptor of `fd`; what the table still says of the number was replaced, or closed unseen.
fn duplicated(fd: c_int, new: c_int) {
    let _ = errno::run(|| {
        calls::forget(new);
        calls::duplicated(fd, new);
        Ok(())
    });
}

macro_rules! dup2_door {
    ($name:ident, $hook:ident) => {
        hook! {
            unsafe fn $name(fd: c_int, new: c_int) -> c_int => $hook {
                if calls::is_engines(new) {
                    errno::set(libc::EBADF);
                    return -1;
                }
                let made = unsafe { real!($name)(fd, new) };
                if made >= 0 && fd != new {
                    duplicated(fd, new);
                }
                made
            }
        }
    };
}

dup2_door!(dup2, tcpreload_dup2);
dup2_door!(__dup2, tcpreload_reserved_dup2);

hook! {
    unsafe fn dup3(fd: c_int, new: c_int, flags: c_int) -> c_int => tcpreload_dup3 {
        if calls::is_engines(new) {
            errno::set(libc::EBADF);
            return -1;
        }
        let made = unsafe { real!(dup3)(fd, new, flags) };
        if made >= 0 {
            duplicated(fd, new);
        }
        made
    }
}

// The third argument is variadic in C; on the supported machines it is passed like any other.
macro_rules! fcntl_door {
    ($name:ident, $hook:ident) => {
        hook! {
            unsafe fn $name(fd: c_int, command: c_int, arg: c_ulong) -> c_int => $hook {
                let result = unsafe { real!($name)(fd, command, arg) };
                if result < 0 {
                    return result;
                }
                match command {
                    libc::F_DUPFD | libc::F_DUPFD_CLOEXEC => duplicated(fd, result),
                    libc::F_SETFL => {
                        if let Some((rt, id)) = fdtable::socket(fd) {
                            let set = || calls::set_flags(rt, fd, id, arg as c_int).map(|()| result);
                            return errno::int(set);
                        }
                    }
                    libc::F_SETOWN | F_SETOWN_EX | F_SETSIG => {
                        if let Some((rt, id)) = fdtable::socket(fd) {
                            return errno::int(|| owners::changed(rt, fd, id).map(|()| result));
                        }
                    }
                    _ => {}
                }
                result
            }
        }
    };
}

fcntl_door!(fcntl, tcpreload_fcntl);
fcntl_door!(fcntl64, tcpreload_fcntl64);
fcntl_door!(__fcntl, tcpreload_reserved_fcntl);

hook! {
    unsafe fn ioctl(fd: c_int, request: c_ulong, arg: *mut c_void) -> c_int => tcpreload_ioctl {
        let Some((rt, id)) = fdtable::socket(fd) else {
            return unsafe { real!(ioctl)(fd, request, arg) };
        };
        let answered = errno::run(|| calls::ioctl(rt, id, request & 0xffff_ffff, arg));
        match answered {
            Ok(Some(value)) => value,
            Err(Errno(e)) => {
                errno::set(e);
                -1
            }
            Ok(None) => {
                let result = unsafe { real!(ioctl)(fd, request, arg) };
                if result >= 0 {
                    let request = request & 0xffff_ffff;
                    return errno::int(|| calls::ioctl_done(rt, fd, id, request, arg).map(|()| result));
                }
                result
            }
        }
    }
}
