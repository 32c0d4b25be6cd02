//! socket bind listen accept connect shutdown names options.

use crate::calls::{descriptors, options, socket as calls};
use crate::errno::{self, Errno};
use crate::fdtable;
use crate::hooks::bare::bare;
use crate::hooks::numbers::handed_out;
use core::ffi::{c_int, c_void};
use libc::{sockaddr, socklen_t};
use redhook::{hook, real};

macro_rules! socket_door {
    ($name:ident, $hook:ident) => {
        hook! {
            unsafe fn $name(domain: c_int, kind: c_int, protocol: c_int) -> c_int => $hook {
                let fd = unsafe { real!($name)(domain, kind, protocol) };
                if fd < 0 {
                    return fd;
                }
                match calls::is_tcp(domain, kind, protocol) {
                    Some(family) => errno::int(|| calls::adopt(fd, family, kind & libc::SOCK_NONBLOCK != 0)),
                    None => {
                        descriptors::handed_out(fd);
                        fd
                    }
                }
            }
        }
    };
}

socket_door!(socket, tcpreload_socket);
socket_door!(__socket, tcpreload_reserved_socket);

hook! {
    unsafe fn bind(fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int => tcpreload_bind {
        match fdtable::socket(fd) {
            Some((rt, id)) => errno::int(|| calls::bind(rt, fd, id, addr, len)),
            None => unsafe { real!(bind)(fd, addr, len) },
        }
    }
}

hook! {
    unsafe fn listen(fd: c_int, backlog: c_int) -> c_int => tcpreload_listen {
        match fdtable::socket(fd) {
            Some((rt, id)) => errno::int(|| calls::listen(rt, fd, id, backlog)),
            None => unsafe { real!(listen)(fd, backlog) },
        }
    }
}

bare! {
    unsafe fn accept(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> c_int, real => {
        if is_ours(fd) {
            return our_accept(fd, addr, len, 0);
        }
        let new = unsafe { real(fd, addr, len) };
        handed_out(new);
        new
    }
}

bare! {
    unsafe fn accept4(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t, flags: c_int) -> c_int, real => {
        if is_ours(fd) {
            return our_accept(fd, addr, len, flags);
        }
        let new = unsafe { real(fd, addr, len, flags) };
        handed_out(new);
        new
    }
}

extern "C" fn is_ours(fd: c_int) -> bool {
    fdtable::socket(fd).is_some()
}

#[inline(never)]
extern "C" fn our_accept(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t, flags: c_int) -> c_int {
    errno::int(|| {
        let (rt, id) = fdtable::socket(fd).ok_or(Errno(libc::EBADF))?;
        calls::accept(rt, id, addr, len, flags)
    })
}

hook! {
    unsafe fn connect(fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int => tcpreload_connect {
        match fdtable::socket(fd) {
            Some((rt, id)) => errno::int(|| calls::connect(rt, fd, id, addr, len)),
            None => unsafe { real!(connect)(fd, addr, len) },
        }
    }
}

hook! {
    unsafe fn __connect(fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int => tcpreload_reserved_connect {
        match fdtable::socket(fd) {
            Some((rt, id)) => errno::int(|| calls::connect(rt, fd, id, addr, len)),
            None => unsafe { real!(__connect)(fd, addr, len) },
        }
    }
}

hook! {
    unsafe fn shutdown(fd: c_int, how: c_int) -> c_int => tcpreload_shutdown {
        match fdtable::socket(fd) {
            Some((rt, id)) => errno::int(|| calls::shutdown(rt, id, how)),
            None => unsafe { real!(shutdown)(fd, how) },
        }
    }
}

hook! {
    unsafe fn getsockname(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> c_int => tcpreload_getsockname {
        match fdtable::socket(fd) {
            Some((rt, id)) => errno::int(|| calls::getsockname(rt, id, addr, len)),
            None => unsafe { real!(getsockname)(fd, addr, len) },
        }
    }
}

hook! {
    unsafe fn getpeername(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> c_int => tcpreload_getpeername {
        match fdtable::socket(fd) {
            Some((rt, id)) => errno::int(|| calls::getpeername(rt, id, addr, len)),
            None => unsafe { real!(getpeername)(fd, addr, len) },
        }
    }
}

hook! {
    unsafe fn setsockopt(fd: c_int, level: c_int, name: c_int, value: *const c_void, len: socklen_t) -> c_int => tcpreload_setsockopt {
        match fdtable::socket(fd) {
            Some((rt, id)) => errno::int(|| options::set(rt, fd, id, level, name, value, len)),
            None => unsafe { real!(setsockopt)(fd, level, name, value, len) },
        }
    }
}

hook! {
    unsafe fn getsockopt(fd: c_int, level: c_int, name: c_int, value: *mut c_void, len: *mut socklen_t) -> c_int => tcpreload_getsockopt {
        match fdtable::socket(fd) {
            Some((rt, id)) => errno::int(|| options::get(rt, fd, id, level, name, value, len)),
            None => unsafe { real!(getsockopt)(fd, level, name, value, len) },
        }
    }
}

hook! {
    unsafe fn sockatmark(fd: c_int) -> c_int => tcpreload_sockatmark {
        match fdtable::socket(fd) {
            Some((rt, id)) => errno::int(|| descriptors::is_at_mark(rt, id)),
            None => unsafe { real!(sockatmark)(fd) },
        }
    }
}
