//! syscall(2): programs and runtimes that go past libc's functions, but not past libc.
//!
//! Every number that another door knows is sent through that door. io_uring would carry calls past all of them: programs are
//! told that this kernel has none, and fall back.

use crate::calls::descriptors;
use crate::{abi, confined, errno, process};
use core::ffi::{c_char, c_int, c_long, c_uint, c_ulong, c_void};
use engine::sys;
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
    fn epoll_pwait2(
        epfd: c_int,
        ev: *mut libc::epoll_event,
        max: c_int,
        t: *const libc::timespec,
        mask: *const libc::sigset_t,
    ) -> c_int;
    fn epoll_create1(flags: c_int) -> c_int;
    fn ppoll(
        fds: *mut libc::pollfd,
        n: c_ulong,
        t: *const libc::timespec,
        mask: *const libc::sigset_t,
    ) -> c_int;
    fn pselect(
        n: c_int,
        r: *mut libc::fd_set,
        w: *mut libc::fd_set,
        e: *mut libc::fd_set,
        t: *const libc::timespec,
        mask: *const libc::sigset_t,
    ) -> c_int;
    fn sendmmsg(fd: c_int, m: *mut libc::mmsghdr, count: c_uint, flags: c_int) -> c_int;
    fn recvmmsg(
        fd: c_int,
        m: *mut libc::mmsghdr,
        count: c_uint,
        flags: c_int,
        t: *mut libc::timespec,
    ) -> c_int;
    fn sendfile(out: c_int, file: c_int, offset: *mut i64, count: usize) -> isize;
    fn splice(from: c_int, fo: *mut i64, to: c_int, t_o: *mut i64, len: usize, flags: c_uint) -> isize;
    fn preadv2(fd: c_int, iov: *const libc::iovec, count: c_int, offset: i64, flags: c_int) -> isize;
    fn pwritev2(fd: c_int, iov: *const libc::iovec, count: c_int, offset: i64, flags: c_int) -> isize;
    fn socketpair(domain: c_int, kind: c_int, protocol: c_int, fds: *mut c_int) -> c_int;
    fn pipe2(fds: *mut c_int, flags: c_int) -> c_int;
    fn execve(path: *const c_char, argv: *const *const c_char, envp: *const *const c_char) -> c_int;
    fn fcntl(fd: c_int, command: c_int, arg: c_ulong) -> c_int;
    fn ioctl(fd: c_int, request: c_ulong, arg: *mut c_void) -> c_int;
    fn _exit(status: c_int);
}

/// The arguments of a system call.
type Arguments = [c_long; 6];

/// Calls on descriptors, whatever they are.
unsafe fn on_descriptors(nr: c_long, [a, b, c, d, _, f]: Arguments) -> Option<c_long> {
    let fd = a as c_int;
    Some(unsafe {
        match nr {
            libc::SYS_close => close(fd).into(),
            libc::SYS_dup => dup(fd).into(),
            libc::SYS_dup3 => dup3(fd, b as c_int, c as c_int).into(),
            libc::SYS_close_range => close_range(a as u32, b as u32, c as c_int).into(),
            libc::SYS_fcntl => fcntl(fd, b as c_int, c as c_ulong).into(),
            libc::SYS_ioctl => ioctl(fd, b as c_ulong, c as *mut _).into(),
            libc::SYS_read => read(fd, b as *mut _, c as usize) as c_long,
            libc::SYS_write => write(fd, b as *const _, c as usize) as c_long,
            libc::SYS_readv => readv(fd, b as *const _, c as c_int) as c_long,
            libc::SYS_writev => writev(fd, b as *const _, c as c_int) as c_long,
            // The offset comes in two halves, the second of which 64-bit machines ignore.
            libc::SYS_preadv2 => preadv2(fd, b as *const _, c as c_int, d, f as c_int) as c_long,
            libc::SYS_pwritev2 => pwritev2(fd, b as *const _, c as c_int, d, f as c_int) as c_long,
            libc::SYS_socketpair => socketpair(fd, b as c_int, c as c_int, d as *mut _).into(),
            libc::SYS_pipe2 => pipe2(a as *mut _, b as c_int).into(),
            _ => return None,
        }
    })
}

/// Calls on sockets.
unsafe fn on_sockets(nr: c_long, [a, b, c, d, e, f]: Arguments) -> Option<c_long> {
    let fd = a as c_int;
    Some(unsafe {
        match nr {
            libc::SYS_socket => socket(fd, b as c_int, c as c_int).into(),
            libc::SYS_bind => bind(fd, b as *const _, c as u32).into(),
            libc::SYS_listen => listen(fd, b as c_int).into(),
            libc::SYS_accept4 => accept4(fd, b as *mut _, c as *mut _, d as c_int).into(),
            libc::SYS_accept => accept4(fd, b as *mut _, c as *mut _, 0).into(),
            libc::SYS_connect => connect(fd, b as *const _, c as u32).into(),
            libc::SYS_shutdown => shutdown(fd, b as c_int).into(),
            libc::SYS_sendto => {
                sendto(fd, b as *const _, c as usize, d as c_int, e as *const _, f as u32) as c_long
            }
            libc::SYS_recvfrom => {
                recvfrom(fd, b as *mut _, c as usize, d as c_int, e as *mut _, f as *mut _) as c_long
            }
            libc::SYS_sendmsg => sendmsg(fd, b as *const _, c as c_int) as c_long,
            libc::SYS_recvmsg => recvmsg(fd, b as *mut _, c as c_int) as c_long,
            libc::SYS_sendmmsg => sendmmsg(fd, b as *mut _, c as c_uint, d as c_int).into(),
            libc::SYS_recvmmsg => recvmmsg(fd, b as *mut _, c as c_uint, d as c_int, e as *mut _).into(),
            libc::SYS_sendfile => sendfile(fd, b as c_int, c as *mut _, d as usize) as c_long,
            libc::SYS_splice => {
                splice(fd, b as *mut _, c as c_int, d as *mut _, e as usize, f as c_uint) as c_long
            }
            libc::SYS_setsockopt => setsockopt(fd, b as c_int, c as c_int, d as *const _, e as u32).into(),
            libc::SYS_getsockopt => getsockopt(fd, b as c_int, c as c_int, d as *mut _, e as *mut _).into(),
            libc::SYS_getsockname => getsockname(fd, b as *mut _, c as *mut _).into(),
            libc::SYS_getpeername => getpeername(fd, b as *mut _, c as *mut _).into(),
            _ => return None,
        }
    })
}

/// Calls that wait for readiness.
unsafe fn on_readiness(nr: c_long, [a, b, c, d, e, f]: Arguments) -> Option<c_long> {
    let fd = a as c_int;
    Some(unsafe {
        match nr {
            libc::SYS_epoll_create1 => epoll_create1(fd).into(),
            libc::SYS_epoll_ctl => epoll_ctl(fd, b as c_int, c as c_int, d as *mut _).into(),
            libc::SYS_epoll_pwait => {
                epoll_pwait(fd, b as *mut _, c as c_int, d as c_int, e as *const _).into()
            }
            libc::SYS_epoll_pwait2 => {
                epoll_pwait2(fd, b as *mut _, c as c_int, d as *const _, e as *const _).into()
            }
            libc::SYS_ppoll => ppoll(a as *mut _, b as c_ulong, c as *const _, d as *const _).into(),
            libc::SYS_pselect6 => {
                // The mask comes with its size, both behind one pointer.
                let mask =
                    if f == 0 { core::ptr::null() } else { (f as *const *const libc::sigset_t).read() };
                pselect(fd, b as *mut _, c as *mut _, d as *mut _, e as *const _, mask).into()
            }
            _ => return None,
        }
    })
}

/// Calls that only older machines have.
#[cfg(target_arch = "x86_64")]
unsafe fn on_old_ones(nr: c_long, [a, b, c, d, e, _]: Arguments) -> Option<c_long> {
    unsafe extern "C" {
        fn dup2(fd: c_int, new: c_int) -> c_int;
        fn poll(fds: *mut libc::pollfd, n: c_ulong, timeout: c_int) -> c_int;
        fn select(
            n: c_int,
            r: *mut libc::fd_set,
            w: *mut libc::fd_set,
            e: *mut libc::fd_set,
            t: *mut libc::timeval,
        ) -> c_int;
        fn fork() -> libc::pid_t;
    }
    let fd = a as c_int;
    Some(unsafe {
        match nr {
            libc::SYS_dup2 => dup2(fd, b as c_int).into(),
            libc::SYS_pipe => pipe2(a as *mut _, 0).into(),
            libc::SYS_poll => poll(a as *mut _, b as c_ulong, c as c_int).into(),
            libc::SYS_select => select(fd, b as *mut _, c as *mut _, d as *mut _, e as *mut _).into(),
            libc::SYS_epoll_create if fd > 0 => epoll_create1(0).into(),
            libc::SYS_epoll_wait => {
                epoll_pwait(fd, b as *mut _, c as c_int, d as c_int, core::ptr::null()).into()
            }
            libc::SYS_fork | libc::SYS_vfork => fork().into(),
            _ => return None,
        }
    })
}

#[cfg(not(target_arch = "x86_64"))]
unsafe fn on_old_ones(_: c_long, _: Arguments) -> Option<c_long> {
    None
}

/// clone(2) past libc, without CLONE_VM. The child takes locks by libc's calls: it has to be told who it is.
unsafe fn clone_as_fork(nr: c_long, [a, b, c, d, e, f]: Arguments) -> c_long {
    let record = sys::ThreadRecord::of_this_thread();
    if record.is_none() {
        log::warn!(
            "a child made by clone(2) cannot use the sockets that it inherits: the kernel does not tell where libc keeps thread numbers"
        );
    }
    let made = || {
        let pid = unsafe { real!(syscall)(nr, a, b, c, d, e, f) } as libc::pid_t;
        if pid == 0
            && let Some(record) = &record
        {
            record.renew();
        }
        pid
    };
    process::fork(made).into()
}

/// Whether a call hands out a number: what the table says of it is old.
fn gives_number(nr: c_long) -> bool {
    #[cfg(target_arch = "x86_64")]
    if matches!(
        nr,
        libc::SYS_open | libc::SYS_creat | libc::SYS_eventfd | libc::SYS_signalfd | libc::SYS_inotify_init
    ) {
        return true;
    }
    matches!(
        nr,
        libc::SYS_openat
            | libc::SYS_openat2
            | libc::SYS_eventfd2
            | libc::SYS_timerfd_create
            | libc::SYS_signalfd4
            | libc::SYS_inotify_init1
            | libc::SYS_memfd_create
            | libc::SYS_pidfd_open
            | libc::SYS_pidfd_getfd
    )
}

hook! {
    unsafe fn syscall(nr: c_long, a: c_long, b: c_long, c: c_long, d: c_long, e: c_long, f: c_long) -> c_long => tcpreload_syscall {
        if nr == libc::SYS_io_uring_setup {
            errno::set(libc::ENOSYS);
            return -1;
        }
        let arguments = [a, b, c, d, e, f];
        unsafe {
            if nr == libc::SYS_socket {
                return socket(a as c_int, b as c_int, c as c_int).into();
            }
            if nr == libc::SYS_execve {
                return execve(a as *const _, b as *const _, c as *const _).into();
            }
            let confines = (nr == libc::SYS_prctl && confined::by_prctl(a as c_int, b as u64))
                || (nr == libc::SYS_seccomp && confined::by_seccomp(a as u64));
            if confines {
                return confined::enter(|| real!(syscall)(nr, a, b, c, d, e, f));
            }
            if crate::runtime::attached().is_none() {
                return real!(syscall)(nr, a, b, c, d, e, f);
            }
            let known = on_descriptors(nr, arguments)
                .or_else(|| on_sockets(nr, arguments))
                .or_else(|| on_readiness(nr, arguments))
                .or_else(|| on_old_ones(nr, arguments));
            if let Some(result) = known {
                return result;
            }
            match nr {
                libc::SYS_exit_group => {
                    _exit(a as c_int);
                    0
                }
                // A fork by another name; a thread (CLONE_VM) is none.
                libc::SYS_clone if a & c_long::from(libc::CLONE_VM) == 0 => clone_as_fork(nr, arguments),
                libc::SYS_clone3 if abi::read(a as *const u64).is_ok_and(|f| f & libc::CLONE_VM as u64 == 0) => {
                    clone_as_fork(nr, arguments)
                }
                _ => {
                    let result = real!(syscall)(nr, a, b, c, d, e, f);
                    if result >= 0 && gives_number(nr) {
                        descriptors::handed_out(result as c_int);
                    }
                    result
                }
            }
        }
    }
}
