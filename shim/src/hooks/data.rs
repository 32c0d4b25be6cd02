//! Bytes in and out.

use crate::abi::Cursor;
use crate::calls::data::{self, Destination};
use crate::errno::{self, Errno};
use crate::fdtable;
use crate::hooks::bare::bare;
use crate::passing;
use crate::runtime::Runtime;
use core::ffi::{c_int, c_uint, c_void};
use engine::stack::SockId;
use libc::{iovec, mmsghdr, msghdr, off_t, size_t, sockaddr, socklen_t, ssize_t, timespec};
use redhook::{hook, real};

/// A door that receives into one buffer.
macro_rules! receive {
    ($name:ident, $hook:ident, ($fd:ident, $buf:ident, $len:ident $(, $more:ident : $t:ty)*), $flags:expr) => {
        hook! {
            unsafe fn $name($fd: c_int, $buf: *mut c_void, $len: size_t $(, $more: $t)*) -> ssize_t => $hook {
                match fdtable::socket($fd) {
                    Some((rt, id)) => errno::size(|| data::recv(rt, id, Cursor::buffer($buf, $len), $flags)),
                    None => unsafe { real!($name)($fd, $buf, $len $(, $more)*) },
                }
            }
        }
    };
}

/// A door that sends from one buffer.
macro_rules! send {
    ($name:ident, $hook:ident, ($fd:ident, $buf:ident, $len:ident $(, $more:ident : $t:ty)*), $flags:expr) => {
        hook! {
            unsafe fn $name($fd: c_int, $buf: *const c_void, $len: size_t $(, $more: $t)*) -> ssize_t => $hook {
                match fdtable::socket($fd) {
                    Some((rt, id)) => errno::size(|| data::send(rt, id, Cursor::buffer($buf, $len), $flags)),
                    None => unsafe { real!($name)($fd, $buf, $len $(, $more)*) },
                }
            }
        }
    };
}

macro_rules! read_door {
    ($name:ident, $hook:ident) => {
        hook! {
            unsafe fn $name(fd: c_int, buf: *mut c_void, len: size_t) -> ssize_t => $hook {
                match fdtable::socket(fd) {
                    Some((rt, id)) => errno::size(|| data::read(rt, id, Cursor::buffer(buf, len))),
                    None => unsafe { real!($name)(fd, buf, len) },
                }
            }
        }
    };
}

read_door!(read, tcpreload_read);
read_door!(__read, tcpreload_reserved_read);
receive!(recv, tcpreload_recv, (fd, buf, len, flags: c_int), flags);
receive!(__recv, tcpreload_reserved_recv, (fd, buf, len, flags: c_int), flags);
send!(write, tcpreload_write, (fd, buf, len), 0);
send!(__write, tcpreload_reserved_write, (fd, buf, len), 0);
send!(send, tcpreload_send, (fd, buf, len, flags: c_int), flags);
send!(__send, tcpreload_reserved_send, (fd, buf, len, flags: c_int), flags);

hook! {
    unsafe fn sendto(fd: c_int, buf: *const c_void, len: size_t, flags: c_int, addr: *const sockaddr, addr_len: socklen_t) -> ssize_t => tcpreload_sendto {
        match fdtable::socket(fd) {
            Some((rt, id)) => errno::size(|| {
                data::send_to(rt, id, Cursor::buffer(buf, len), flags, Some(Destination { fd, addr, len: addr_len }))
            }),
            None => unsafe { real!(sendto)(fd, buf, len, flags, addr, addr_len) },
        }
    }
}

hook! {
    unsafe fn recvfrom(fd: c_int, buf: *mut c_void, len: size_t, flags: c_int, addr: *mut sockaddr, addr_len: *mut socklen_t) -> ssize_t => tcpreload_recvfrom {
        match fdtable::socket(fd) {
            Some((rt, id)) => errno::size(|| receive_from(rt, id, Cursor::buffer(buf, len), flags, addr, addr_len)),
            None => unsafe { real!(recvfrom)(fd, buf, len, flags, addr, addr_len) },
        }
    }
}

fn receive_from(
    rt: &'static Runtime,
    id: SockId,
    into: Cursor,
    flags: c_int,
    addr: *mut sockaddr,
    addr_len: *mut socklen_t,
) -> errno::Outcome<usize> {
    let n = data::recv(rt, id, into, flags)?;
    // TCP gives no address: its length is zero.
    if !addr.is_null() && !addr_len.is_null() {
        crate::abi::write(addr_len, 0)?;
    }
    Ok(n)
}

// _FORTIFY_SOURCE: the compiler has made these of the calls above; the extra argument is the buffer's size.
hook! {
    unsafe fn __read_chk(fd: c_int, buf: *mut c_void, len: size_t, size: size_t) -> ssize_t => tcpreload_reserved_read_chk {
        match fdtable::socket(fd) {
            Some((rt, id)) if len <= size => errno::size(|| data::recv(rt, id, Cursor::buffer(buf, len), 0)),
            _ => unsafe { real!(__read_chk)(fd, buf, len, size) },
        }
    }
}

hook! {
    unsafe fn __recv_chk(fd: c_int, buf: *mut c_void, len: size_t, size: size_t, flags: c_int) -> ssize_t => tcpreload_reserved_recv_chk {
        match fdtable::socket(fd) {
            Some((rt, id)) if len <= size => errno::size(|| data::recv(rt, id, Cursor::buffer(buf, len), flags)),
            _ => unsafe { real!(__recv_chk)(fd, buf, len, size, flags) },
        }
    }
}

hook! {
    unsafe fn __recvfrom_chk(fd: c_int, buf: *mut c_void, len: size_t, size: size_t, flags: c_int, addr: *mut sockaddr, addr_len: *mut socklen_t) -> ssize_t => tcpreload_reserved_recvfrom_chk {
        match fdtable::socket(fd) {
            Some((rt, id)) if len <= size => errno::size(|| receive_from(rt, id, Cursor::buffer(buf, len), flags, addr, addr_len)),
            _ => unsafe { real!(__recvfrom_chk)(fd, buf, len, size, flags, addr, addr_len) },
        }
    }
}

hook! {
    unsafe fn readv(fd: c_int, iov: *const iovec, count: c_int) -> ssize_t => tcpreload_readv {
        match fdtable::socket(fd) {
            Some((rt, id)) => errno::size(|| data::read(rt, id, pieces(iov, count)?)),
            None => unsafe { real!(readv)(fd, iov, count) },
        }
    }
}

hook! {
    unsafe fn writev(fd: c_int, iov: *const iovec, count: c_int) -> ssize_t => tcpreload_writev {
        match fdtable::socket(fd) {
            Some((rt, id)) => errno::size(|| data::send(rt, id, pieces(iov, count)?, 0)),
            None => unsafe { real!(writev)(fd, iov, count) },
        }
    }
}

fn pieces<'a>(iov: *const iovec, count: c_int) -> errno::Outcome<Cursor<'a>> {
    Cursor::iovecs(iov, usize::try_from(count).map_err(|_| Errno(libc::EINVAL))?)
}

/// Positioned calls: a socket has no position, -1 means "none".
macro_rules! positioned_vector {
    ($name:ident, $hook:ident, $call:ident) => {
        hook! {
            unsafe fn $name(fd: c_int, iov: *const iovec, count: c_int, offset: off_t, flags: c_int) -> ssize_t => $hook {
                match fdtable::socket(fd) {
                    Some((rt, id)) => errno::size(|| match (offset, flags & !8) {
                        // RWF_NOWAIT is all that a socket knows.
                        (-1, 0) => data::$call(rt, id, pieces(iov, count)?, if flags & 8 != 0 { libc::MSG_DONTWAIT } else { 0 }),
                        (-1, _) => Err(Errno(libc::EOPNOTSUPP)),
                        _ => Err(Errno(libc::ESPIPE)),
                    }),
                    None => unsafe { real!($name)(fd, iov, count, offset, flags) },
                }
            }
        }
    };
}

positioned_vector!(preadv2, tcpreload_preadv2, recv);
positioned_vector!(preadv64v2, tcpreload_preadv64v2, recv);
positioned_vector!(pwritev2, tcpreload_pwritev2, send);
positioned_vector!(pwritev64v2, tcpreload_pwritev64v2, send);

bare! {
    unsafe fn sendmsg(fd: c_int, message: *const msghdr, flags: c_int) -> ssize_t, real => {
        match whose(fd, message) {
            Message::Ours => our_sendmsg(fd, message, flags),
            Message::Theirs => unsafe { real(fd, message, flags) },
            Message::Carrying => {
                passing::departing(message);
                let sent = unsafe { real(fd, message, flags) };
                if sent < 0 {
                    passing::stayed(message);
                }
                sent
            }
        }
    }
}

bare! {
    unsafe fn recvmsg(fd: c_int, message: *mut msghdr, flags: c_int) -> ssize_t, real => {
        match whose(fd, message) {
            Message::Ours => our_recvmsg(fd, message, flags),
            Message::Theirs => unsafe { real(fd, message, flags) },
            Message::Carrying => {
                let received = unsafe { real(fd, message, flags) };
                if received >= 0 {
                    passing::arrived(message, flags & libc::MSG_PEEK != 0);
                }
                received
            }
        }
    }
}

#[repr(C)]
enum Message {
    Ours,
    Theirs,
    /// ... and it has room for descriptors.
    Carrying,
}

extern "C" fn whose(fd: c_int, message: *const msghdr) -> Message {
    match fdtable::socket(fd) {
        Some(_) => Message::Ours,
        None if passing::may_carry(message) => Message::Carrying,
        None => Message::Theirs,
    }
}

#[inline(never)]
extern "C" fn our_sendmsg(fd: c_int, message: *const msghdr, flags: c_int) -> ssize_t {
    errno::size(|| {
        let (rt, id) = fdtable::socket(fd).ok_or(Errno(libc::EBADF))?;
        data::sendmsg(rt, fd, id, message, flags)
    })
}

#[inline(never)]
extern "C" fn our_recvmsg(fd: c_int, message: *mut msghdr, flags: c_int) -> ssize_t {
    errno::size(|| {
        let (rt, id) = fdtable::socket(fd).ok_or(Errno(libc::EBADF))?;
        data::recvmsg(rt, id, message, flags)
    })
}

macro_rules! sendmmsg_door {
    ($name:ident, $hook:ident) => {
        hook! {
            unsafe fn $name(fd: c_int, messages: *mut mmsghdr, count: c_uint, flags: c_int) -> c_int => $hook {
                match fdtable::socket(fd) {
                    Some((rt, id)) => errno::int(|| data::sendmmsg(rt, fd, id, messages, count, flags)),
                    None => unsafe { real!($name)(fd, messages, count, flags) },
                }
            }
        }
    };
}

sendmmsg_door!(sendmmsg, tcpreload_sendmmsg);
sendmmsg_door!(__sendmmsg, tcpreload_reserved_sendmmsg);

hook! {
    unsafe fn recvmmsg(fd: c_int, messages: *mut mmsghdr, count: c_uint, flags: c_int, timeout: *mut timespec) -> c_int => tcpreload_recvmmsg {
        match fdtable::socket(fd) {
            Some((rt, id)) => errno::int(|| data::recvmmsg(rt, id, messages, count, flags)),
            None => unsafe { real!(recvmmsg)(fd, messages, count, flags, timeout) },
        }
    }
}

macro_rules! send_file {
    ($name:ident, $hook:ident) => {
        hook! {
            unsafe fn $name(out: c_int, file: c_int, offset: *mut off_t, count: size_t) -> ssize_t => $hook {
                match (fdtable::socket(out), fdtable::socket(file)) {
                    // A socket is no source for sendfile: it has no pages.
                    (_, Some(_)) => errno::size(|| Err(Errno(libc::EINVAL))),
                    (Some((rt, id)), None) => errno::size(|| data::sendfile(rt, id, file, offset, count)),
                    (None, None) => unsafe { real!($name)(out, file, offset, count) },
                }
            }
        }
    };
}

send_file!(sendfile, tcpreload_sendfile);
send_file!(sendfile64, tcpreload_sendfile64);

hook! {
    unsafe fn splice(from: c_int, from_offset: *mut off_t, to: c_int, to_offset: *mut off_t, len: size_t, flags: c_uint) -> ssize_t => tcpreload_splice {
        match (fdtable::socket(from), fdtable::socket(to)) {
            (Some((rt, id)), None) => errno::size(|| {
                if from_offset.is_null() { data::splice_out(rt, id, to, len, flags) } else { Err(Errno(libc::EINVAL)) }
            }),
            (None, Some((rt, id))) => errno::size(|| {
                if to_offset.is_null() { data::splice_in(rt, id, from, len, flags) } else { Err(Errno(libc::EINVAL)) }
            }),
            // One side has to be a pipe.
            (Some(_), Some(_)) => errno::size(|| Err(Errno(libc::EINVAL))),
            (None, None) => unsafe { real!(splice)(from, from_offset, to, to_offset, len, flags) },
        }
    }
}
