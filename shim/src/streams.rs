//! C's streams on our sockets: each is one of fopencookie(3), with a number. A program that is started with a socket of ours as its
//! standard input or output gets such a stream under that name, before it runs.

use crate::abi::Cursor;
use crate::calls::{data, descriptors};
use crate::errno::{self, Errno, Outcome};
use crate::{fdtable, runtime};
use core::ffi::{c_char, c_int, c_void};
use engine::sys;
use libc::FILE;
use parking_lot::Mutex;
use std::os::fd::RawFd;

/// cookie_io_functions_t.
#[repr(C)]
struct Functions {
    read: extern "C" fn(*mut c_void, *mut c_char, usize) -> isize,
    write: extern "C" fn(*mut c_void, *const c_char, usize) -> isize,
    seek: extern "C" fn(*mut c_void, *mut i64, c_int) -> c_int,
    close: extern "C" fn(*mut c_void) -> c_int,
}

unsafe extern "C" {
    fn fopencookie(cookie: *mut c_void, mode: *const c_char, functions: Functions) -> *mut FILE;
}

/// The streams that are open, by number. Only touched under the arena's lock, which fork holds.
static OPEN: Mutex<Vec<(RawFd, usize)>> = Mutex::new(Vec::new());

/// fdopen(3) on one of our sockets.
///
/// # Errors
/// EINVAL: a mode that no stream has. ENOMEM.
pub fn open(fd: RawFd, mode: *const c_char) -> Outcome<*mut FILE> {
    // SAFETY: a string, as the caller of fdopen owes it.
    let first = unsafe { mode.read() } as u8;
    if !matches!(first, b'r' | b'w' | b'a') {
        return Err(Errno(libc::EINVAL));
    }
    let functions = Functions { read, write, seek, close };
    // SAFETY: the functions live as long as the library; the cookie is the number and is never followed.
    let stream = unsafe { fopencookie(fd as usize as *mut c_void, mode, functions) };
    if stream.is_null() {
        return Err(Errno(libc::ENOMEM));
    }
    if let Some(rt) = runtime::attached() {
        let _locked = rt.lock()?;
        OPEN.lock().push((fd, stream as usize));
    }
    Ok(stream)
}

unsafe extern "C" {
    static mut stdin: *mut FILE;
    static mut stdout: *mut FILE;
    static mut stderr: *mut FILE;
}

/// The standard streams of a program that has inherited sockets. All that is done when the library is loaded, and nothing where
/// the environment has no family.
#[cfg(not(test))]
#[used]
#[unsafe(link_section = ".init_array")]
static AT_START: extern "C" fn() = at_start;

#[cfg(not(test))]
extern "C" fn at_start() {
    if crate::environment::family().is_some() {
        let _ = errno::run(stand_in);
    }
}

#[cfg_attr(test, allow(dead_code))]
fn stand_in() -> Outcome<()> {
    let places = [(&raw mut stdin, c"r"), (&raw mut stdout, c"w"), (&raw mut stderr, c"w")];
    for (fd, (place, mode)) in places.into_iter().enumerate() {
        if fdtable::socket(fd as RawFd).is_none() {
            continue;
        }
        let stream = open(fd as RawFd, mode.as_ptr())?;
        // SAFETY: libc's variable, before the program runs: no other thread is there to use it. The stream was just made.
        unsafe {
            if fd == 2 {
                libc::setvbuf(stream, core::ptr::null_mut(), libc::_IONBF, 0);
            }
            place.write(stream);
        }
    }
    Ok(())
}

/// The number of a stream that [`open`] made.
pub fn number_of(stream: *mut FILE) -> Option<RawFd> {
    let _locked = runtime::attached()?.lock().ok()?;
    OPEN.lock().iter().find(|s| s.1 == stream as usize).map(|s| s.0)
}

/// Writes out what is left in the streams of this process.
pub fn flush() {
    let Some(rt) = runtime::attached() else { return };
    let Ok(locked) = rt.lock() else { return };
    let open: Vec<usize> = OPEN.lock().iter().map(|s| s.1).collect();
    drop(locked);
    for stream in open {
        // SAFETY: a stream that was not closed; those that are go from the list first.
        unsafe { libc::fflush(stream as *mut FILE) };
    }
}

fn number(cookie: *mut c_void) -> RawFd {
    cookie as usize as RawFd
}

extern "C" fn read(cookie: *mut c_void, to: *mut c_char, len: usize) -> isize {
    let fd = number(cookie);
    errno::size(|| match fdtable::socket(fd) {
        Some((rt, id)) => data::read(rt, id, Cursor::buffer(to.cast(), len)),
        // Something else has the number by now.
        None => Ok(sys::read(fd, crate::abi::bytes_mut(to.cast(), len)?)?),
    })
}

extern "C" fn write(cookie: *mut c_void, from: *const c_char, len: usize) -> isize {
    // fopencookie(3): zero is an error, a negative number is not known.
    match errno::int(|| send_all(number(cookie), from.cast(), len).map(|()| 0)) {
        0 => len as isize,
        _ => 0,
    }
}

/// Writes all of it, as stdio does.
///
/// # Errors
/// What write(2) says.
pub fn send_all(fd: RawFd, from: *const c_void, len: usize) -> Outcome<()> {
    let mut done = 0;
    while done < len {
        let rest = from.wrapping_byte_add(done);
        done += match fdtable::socket(fd) {
            Some((rt, id)) => data::send(rt, id, Cursor::buffer(rest, len - done), 0)?,
            None => sys::write(fd, crate::abi::bytes(rest, len - done)?)?,
        };
    }
    Ok(())
}

extern "C" fn seek(_: *mut c_void, _: *mut i64, _: c_int) -> c_int {
    errno::set(libc::ESPIPE);
    -1
}

extern "C" fn close(cookie: *mut c_void) -> c_int {
    let fd = number(cookie);
    errno::int(|| {
        if let Some(rt) = runtime::attached() {
            let _locked = rt.lock()?;
            OPEN.lock().retain(|s| s.0 != fd);
        }
        descriptors::forget(fd);
        sys::close(fd)?;
        Ok(0)
    })
}
