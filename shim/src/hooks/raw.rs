//! syscall(2): programs and runtimes that go past libc's functions, but not past libc.
//!
//! Every number that another door knows is sent through that door. io_uring would carry calls past all of them: programs are
//! told that this kernel has none, and fall back.

use core::ffi::{c_int, c_long, c_void};
use redhook::{hook, real};

unsafe extern "C" {
    fn close(fd: c_int) -> c_int;
    fn dup(fd: c_int) -> c_int;
    fn dup3(fd: c_int, new: c_int, flags: c_int) -> c_int;
    fn close_range(first: u32, last: u32, flags: c_int) -> c_int;
    fn read(fd: c_int, buf: *mut c_void, len: usize) -> isize;
    fn write(fd: c_int, buf: *const c_void, len: usize) -> isize;
    fn readv(fd: c_int, iov: *const libc::iovec, count: c_int) -> isize;
    fn writev(fd: c_int, iov: *const libc::iovec, count: c_int) -> isize;
    fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int;
    fn bind(fd: c_int, addr: *const libc::sockaddr, len: u32) -> c_int;
    fn listen(fd: c_int, backlog: c_int) -> c_int;
    fn accept4(fd: c_int, addr: *mut libc::sockaddr, len: *mut u32, flags: c_int) -> c_int;
    fn connect(fd: c_int, addr: *const libc::sockaddr, len: u32) -> c_int;
    fn shutdown(fd: c_int, how: c_int) -> c_int;
    fn sendto(
        fd: c_int,
        buf: *const c_void,
        len: usize,
        flags: c_int,
        addr: *const libc::sockaddr,
        alen: u32,
    ) -> isize;
    fn recvfrom(
        fd: c_int,
        buf: *mut c_void,
        len: usize,
        flags: c_int,
        addr: *mut libc::sockaddr,
        alen: *mut u32,
    ) -> isize;
    fn sendmsg(fd: c_int, m: *const libc::msghdr, flags: c_int) -> isize;
    fn recvmsg(fd: c_int, m: *mut libc::msghdr, flags: c_int) -> isize;
    fn setsockopt(fd: c_int, level: c_int, name: c_int, v: *const c_void, len: u32) -> c_int;
    fn getsockopt(fd: c_int, level: c_int, name: c_int, v: *mut c_void, len: *mut u32) -> c_int;
    fn getsockname(fd: c_int, addr: *mut libc::sockaddr, len: *mut u32) -> c_int;
    fn getpeername(fd: c_int, addr: *mut libc::sockaddr, len: *mut u32) -> c_int;
    fn epoll_ctl(epfd: c_int, op: c_int, fd: c_int, event: *mut libc::epoll_event) -> c_int;
    fn epoll_pwait(
        epfd: c_int,
        ev: *mut libc::epoll_event,
        max: c_int,
        t: c_int,
        mask: *const libc::sigset_t,
    ) -> c_int;
    fn fcntl(fd: c_int, command: c_int, arg: libc::c_ulong) -> c_int;
    fn ioctl(fd: c_int, request: libc::c_ulong, arg: *mut c_void) -> c_int;
    fn _exit(status: c_int);
}

hook! {
    unsafe fn syscall(nr: c_long, a: c_long, b: c_long, c: c_long, d: c_long, e: c_long, f: c_long) -> c_long => tcpreload_syscall {
        if crate::runtime::attached().is_none() && !matches!(nr, libc::SYS_socket | libc::SYS_io_uring_setup) {
            return unsafe { real!(syscall)(nr, a, b, c, d, e, f) };
        }
        let fd = a as c_int;
        unsafe {
            match nr {
                libc::SYS_close => close(fd).into(),
                libc::SYS_dup => dup(fd).into(),
                libc::SYS_dup3 => dup3(fd, b as c_int, c as c_int).into(),
                libc::SYS_close_range => close_range(a as u32, b as u32, c as c_int).into(),
                libc::SYS_read => read(fd, b as *mut _, c as usize) as c_long,
                libc::SYS_write => write(fd, b as *const _, c as usize) as c_long,
                libc::SYS_readv => readv(fd, b as *const _, c as c_int) as c_long,
                libc::SYS_writev => writev(fd, b as *const _, c as c_int) as c_long,
                libc::SYS_socket => socket(fd, b as c_int, c as c_int).into(),
                libc::SYS_bind => bind(fd, b as *const _, c as u32).into(),
                libc::SYS_listen => listen(fd, b as c_int).into(),
                libc::SYS_accept4 => accept4(fd, b as *mut _, c as *mut _, d as c_int).into(),
                libc::SYS_accept => accept4(fd, b as *mut _, c as *mut _, 0).into(),
                libc::SYS_connect => connect(fd, b as *const _, c as u32).into(),
                libc::SYS_shutdown => shutdown(fd, b as c_int).into(),
                libc::SYS_sendto => sendto(fd, b as *const _, c as usize, d as c_int, e as *const _, f as u32) as c_long,
                libc::SYS_recvfrom => recvfrom(fd, b as *mut _, c as usize, d as c_int, e as *mut _, f as *mut _) as c_long,
                libc::SYS_sendmsg => sendmsg(fd, b as *const _, c as c_int) as c_long,
                libc::SYS_recvmsg => recvmsg(fd, b as *mut _, c as c_int) as c_long,
                libc::SYS_setsockopt => setsockopt(fd, b as c_int, c as c_int, d as *const _, e as u32).into(),
                libc::SYS_getsockopt => getsockopt(fd, b as c_int, c as c_int, d as *mut _, e as *mut _).into(),
                libc::SYS_getsockname => getsockname(fd, b as *mut _, c as *mut _).into(),
                libc::SYS_getpeername => getpeername(fd, b as *mut _, c as *mut _).into(),
                libc::SYS_epoll_ctl => epoll_ctl(fd, b as c_int, c as c_int, d as *mut _).into(),
                libc::SYS_epoll_pwait => epoll_pwait(fd, b as *mut _, c as c_int, d as c_int, e as *const _).into(),
                libc::SYS_fcntl => fcntl(fd, b as c_int, c as libc::c_ulong).into(),
                libc::SYS_ioctl => ioctl(fd, b as libc::c_ulong, c as *mut _).into(),
                libc::SYS_exit_group => {
                    _exit(fd);
                    0
                }
                libc::SYS_io_uring_setup => {
                    crate::errno::set(libc::ENOSYS);
                    -1
                }
                _ => real!(syscall)(nr, a, b, c, d, e, f),
            }
        }
    }
}
