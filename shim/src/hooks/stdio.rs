//! Standard I/O on a socket. libc's streams read, write and close inside of libc, past every symbol: a stream on a socket of
//! ours is one of fopencookie(3), whose functions come back through the doors. dprintf is formatted first and then sent.

use crate::errno::{self, Errno};
use crate::fdtable;
use crate::hooks::variadic::{VaList, variadic};
use crate::streams;
use core::ffi::{c_char, c_int, c_void};
use libc::FILE;
use redhook::{hook, real};

unsafe extern "C" {
    fn vasprintf(text: *mut *mut c_char, format: *const c_char, list: *mut VaList) -> c_int;
    fn __vasprintf_chk(
        text: *mut *mut c_char,
        flag: c_int,
        format: *const c_char,
        list: *mut VaList,
    ) -> c_int;
}

hook! {
    unsafe fn fdopen(fd: c_int, mode: *const c_char) -> *mut FILE => tcpreload_fdopen {
        if fdtable::socket(fd).is_none() {
            return unsafe { real!(fdopen)(fd, mode) };
        }
        errno::run(|| streams::open(fd, mode)).unwrap_or_else(|Errno(e)| {
            errno::set(e);
            core::ptr::null_mut()
        })
    }
}

macro_rules! number_of_stream {
    ($name:ident, $hook:ident) => {
        hook! {
            unsafe fn $name(stream: *mut FILE) -> c_int => $hook {
                let fd = unsafe { real!($name)(stream) };
                // A stream of fopencookie has no number, but ours have.
                if fd < 0 { streams::number_of(stream).unwrap_or(fd) } else { fd }
            }
        }
    };
}

number_of_stream!(fileno, tcpreload_fileno);
number_of_stream!(fileno_unlocked, tcpreload_fileno_unlocked);

/// Sends what `format` makes of it, or asks libc if the descriptor is not ours.
unsafe fn print(
    fd: c_int,
    format: impl FnOnce(*mut *mut c_char) -> c_int,
    theirs: impl FnOnce() -> c_int,
) -> c_int {
    if fdtable::socket(fd).is_none() {
        return theirs();
    }
    let mut text = core::ptr::null_mut();
    let len = format(&mut text);
    if len < 0 {
        return len;
    }
    let sent = errno::int(|| streams::send_all(fd, text.cast(), len as usize).map(|()| len));
    // SAFETY: made by vasprintf.
    unsafe { libc::free(text.cast::<c_void>()) };
    sent
}

hook! {
    unsafe fn vdprintf(fd: c_int, format: *const c_char, list: *mut VaList) -> c_int => tcpreload_vdprintf {
        unsafe { print(fd, |text| vasprintf(text, format, list), || real!(vdprintf)(fd, format, list)) }
    }
}

hook! {
    unsafe fn __vdprintf_chk(fd: c_int, flag: c_int, format: *const c_char, list: *mut VaList) -> c_int => tcpreload_reserved_vdprintf_chk {
        unsafe {
            print(fd, |text| __vasprintf_chk(text, flag, format, list), || real!(__vdprintf_chk)(fd, flag, format, list))
        }
    }
}

unsafe extern "C" fn dprintf_list(fd: c_int, format: *const c_char, list: *mut VaList) -> c_int {
    unsafe { tcpreload_vdprintf(fd, format, list) }
}

unsafe extern "C" fn dprintf_chk_list(
    fd: c_int,
    flag: c_int,
    format: *const c_char,
    list: *mut VaList,
) -> c_int {
    unsafe { tcpreload_reserved_vdprintf_chk(fd, flag, format, list) }
}

variadic!(dprintf, 2, "rdx", "x2", dprintf_list);
variadic!(__dprintf_chk, 3, "rcx", "x3", dprintf_chk_list);
