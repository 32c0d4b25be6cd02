//! System calls, made directly.
//!
//! Inside the preload library libc's `read`, `poll`, `syscall` and the like are our own overrides; the engine and the shim
//! must not reach them. So every kernel call of theirs is one of these: an instruction, no libc, no errno. All return
//! `Result<_, i32>` with the positive errno.
#![allow(unsafe_code)]

use crate::values::Instant;
use core::ffi::{CStr, c_int, c_void};
use core::mem::{MaybeUninit, size_of, size_of_val};
use core::ptr::{NonNull, null, null_mut};
use core::sync::atomic::AtomicU32;
use std::os::fd::RawFd;

/// What a system call gives: a value, or the errno.
pub type SysResult<T> = Result<T, i32>;

/// The bare system call; a negative result in the errno range is an error.
///
/// # Safety
/// As the call itself demands of its arguments.
#[cfg(target_arch = "x86_64")]
#[inline]
pub unsafe fn syscall6(nr: i64, a: [usize; 6]) -> SysResult<usize> {
    let result: isize;
    // SAFETY: the kernel's calling convention: rcx and r11 are clobbered, memory as the call does.
    unsafe {
        core::arch::asm!(
            "syscall",
            inlateout("rax") nr as isize => result,
            in("rdi") a[0], in("rsi") a[1], in("rdx") a[2],
            in("r10") a[3], in("r8") a[4], in("r9") a[5],
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    outcome(result)
}

/// The bare system call; a negative result in the errno range is an error.
///
/// # Safety
/// As the call itself demands of its arguments.
#[cfg(target_arch = "aarch64")]
#[inline]
pub unsafe fn syscall6(nr: i64, a: [usize; 6]) -> SysResult<usize> {
    let result: isize;
    // SAFETY: the kernel's calling convention: x8 the number, x0-x5 the arguments, x0 the result.
    unsafe {
        core::arch::asm!(
            "svc 0",
            in("x8") nr,
            inlateout("x0") a[0] as isize => result,
            in("x1") a[1], in("x2") a[2], in("x3") a[3], in("x4") a[4], in("x5") a[5],
            options(nostack),
        );
    }
    outcome(result)
}

fn outcome(result: isize) -> SysResult<usize> {
    if (-4095..0).contains(&result) { Err(-result as i32) } else { Ok(result as usize) }
}

macro_rules! sys {
    ($nr:ident $(, $arg:expr)*) => {{
        let args = [$($arg as usize),*];
        let mut all = [0usize; 6];
        all[..args.len()].copy_from_slice(&args);
        syscall6(libc::$nr as i64, all)
    }};
    ($nr:ident) => { syscall6(libc::$nr as i64, [0; 6]) };
}

mod owner;
mod process;
pub use owner::*;
pub use process::*;

fn fd_of(n: usize) -> RawFd {
    n as RawFd
}

pub fn socket(domain: c_int, kind: c_int, protocol: c_int) -> SysResult<RawFd> {
    // SAFETY: no pointers.
    unsafe { sys!(SYS_socket, domain, kind, protocol) }.map(fd_of)
}

/// `addr` is a sockaddr of any family, as bytes.
pub fn bind(fd: RawFd, addr: &[u8]) -> SysResult<()> {
    // SAFETY: the slice is readable for its length.
    unsafe { sys!(SYS_bind, fd, addr.as_ptr(), addr.len()) }.map(drop)
}

/// `addr` is a sockaddr of any family, as bytes.
pub fn connect(fd: RawFd, addr: &[u8]) -> SysResult<()> {
    // SAFETY: the slice is readable for its length.
    unsafe { sys!(SYS_connect, fd, addr.as_ptr(), addr.len()) }.map(drop)
}

pub fn listen(fd: RawFd, backlog: c_int) -> SysResult<()> {
    // SAFETY: no pointers.
    unsafe { sys!(SYS_listen, fd, backlog) }.map(drop)
}

/// accept4(2): closed on exec, and never waiting.
pub fn accept(fd: RawFd) -> SysResult<RawFd> {
    // SAFETY: no pointers: nobody asks for the address.
    unsafe { sys!(SYS_accept4, fd, 0, 0, libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) }.map(fd_of)
}

/// SO_PEERCRED: the user at the other end of a connected Unix socket.
pub fn peer_user(fd: RawFd) -> SysResult<u32> {
    let mut credentials = [0u8; 12];
    getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, &mut credentials)?;
    Ok(u32::from_ne_bytes(core::array::from_fn(|i| credentials[4 + i])))
}

pub fn shutdown(fd: RawFd, how: c_int) -> SysResult<()> {
    // SAFETY: no pointers.
    unsafe { sys!(SYS_shutdown, fd, how) }.map(drop)
}

/// Fills `out` with a sockaddr and returns its length.
pub fn getsockname(fd: RawFd, out: &mut [u8]) -> SysResult<usize> {
    let mut len = out.len() as libc::socklen_t;
    // SAFETY: the slice is writable for `len`.
    unsafe { sys!(SYS_getsockname, fd, out.as_mut_ptr(), &raw mut len) }.map(|_| len as usize)
}

pub fn setsockopt(fd: RawFd, level: c_int, name: c_int, value: &[u8]) -> SysResult<()> {
    // SAFETY: the slice is readable for its length.
    unsafe { sys!(SYS_setsockopt, fd, level, name, value.as_ptr(), value.len()) }.map(drop)
}

/// A program's own setsockopt: the kernel looks at its pointers.
///
/// # Safety
/// None but the program's: the kernel reads what is there, or gives EFAULT.
pub unsafe fn setsockopt_at(
    fd: RawFd,
    level: c_int,
    name: c_int,
    at: *const c_void,
    len: u32,
) -> SysResult<()> {
    // SAFETY: as the caller vouches for.
    unsafe { sys!(SYS_setsockopt, fd, level, name, at, len) }.map(drop)
}

/// A program's own getsockopt.
///
/// # Safety
/// The kernel writes where the program wants it, or gives EFAULT.
pub unsafe fn getsockopt_at(
    fd: RawFd,
    level: c_int,
    name: c_int,
    at: *mut c_void,
    len: *mut u32,
) -> SysResult<()> {
    // SAFETY: as the caller vouches for.
    unsafe { sys!(SYS_getsockopt, fd, level, name, at, len) }.map(drop)
}

/// `setsockopt` with a plain value: an int, or a C struct without padding.
pub fn setsockopt_value<T: Copy>(fd: RawFd, level: c_int, name: c_int, value: &T) -> SysResult<()> {
    // SAFETY: `value` is readable for its size.
    unsafe { sys!(SYS_setsockopt, fd, level, name, core::ptr::from_ref(value), size_of::<T>()) }.map(drop)
}

/// Fills `out` and returns the length that the kernel gave.
pub fn getsockopt(fd: RawFd, level: c_int, name: c_int, out: &mut [u8]) -> SysResult<usize> {
    let mut len = out.len() as libc::socklen_t;
    // SAFETY: the slice is writable for `len`.
    unsafe { sys!(SYS_getsockopt, fd, level, name, out.as_mut_ptr(), &raw mut len) }.map(|_| len as usize)
}

pub fn getsockopt_int(fd: RawFd, level: c_int, name: c_int) -> SysResult<c_int> {
    let mut value = [0u8; 4];
    getsockopt(fd, level, name, &mut value)?;
    Ok(c_int::from_ne_bytes(value))
}

/// SO_COOKIE: what names a kernel socket across dup, fork, exec and SCM_RIGHTS.
pub fn socket_cookie(fd: RawFd) -> SysResult<u64> {
    let mut value = [0u8; 8];
    getsockopt(fd, libc::SOL_SOCKET, 57, &mut value)?;
    Ok(u64::from_ne_bytes(value))
}

/// # Safety
/// Every pointer in `message` is good for what the call does with it.
pub unsafe fn sendmsg(fd: RawFd, message: &libc::msghdr, flags: c_int) -> SysResult<usize> {
    // SAFETY: the caller's contract.
    unsafe { sys!(SYS_sendmsg, fd, core::ptr::from_ref(message), flags) }
}

/// Sends bytes and descriptors over a connected Unix socket, without waiting and without SIGPIPE.
pub fn send_with_fds(fd: RawFd, data: &[u8], fds: &[RawFd]) -> SysResult<()> {
    let head = size_of::<libc::cmsghdr>();
    // Words, so that the header in it is aligned.
    let mut control = vec![0u64; (head + size_of_val(fds)).div_ceil(8)];
    // SAFETY: room for a header and the descriptors behind it.
    unsafe {
        let at = control.as_mut_ptr().cast::<libc::cmsghdr>();
        (*at).cmsg_len = (head + size_of_val(fds)) as _;
        (*at).cmsg_level = libc::SOL_SOCKET;
        (*at).cmsg_type = libc::SCM_RIGHTS;
        core::ptr::copy_nonoverlapping(fds.as_ptr().cast::<u8>(), at.add(1).cast(), size_of_val(fds));
    }
    let mut part = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    // SAFETY: all zero is a value of it.
    let mut message: libc::msghdr = unsafe { core::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    if !fds.is_empty() {
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = (control.len() * 8) as _;
    }
    // SAFETY: every pointer leads to a local or to the slices.
    unsafe { sendmsg(fd, &message, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT) }.map(drop)
}

/// Receives bytes and up to `most` descriptors, closed on exec, without waiting.
pub fn recv_with_fds(fd: RawFd, data: &mut [u8], most: usize) -> SysResult<(usize, Vec<RawFd>)> {
    let head = size_of::<libc::cmsghdr>();
    let mut control = vec![0u64; (head + most * size_of::<RawFd>()).div_ceil(8)];
    let mut part = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: data.len() };
    // SAFETY: all zero is a value of it.
    let mut message: libc::msghdr = unsafe { core::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = (control.len() * 8) as _;
    // SAFETY: every pointer leads to a local or to the slice.
    let n = unsafe { recvmsg(fd, &mut message, libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT) }?;
    let mut fds = Vec::new();
    if message.msg_controllen as usize >= head {
        // SAFETY: the kernel has written a header, and `cmsg_len` bytes with it, within the room.
        unsafe {
            let at = control.as_ptr().cast::<libc::cmsghdr>();
            let rights = ((*at).cmsg_level, (*at).cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS);
            let count = ((*at).cmsg_len as usize - head) / size_of::<RawFd>();
            if rights {
                let first = at.add(1).cast::<RawFd>();
                fds.extend((0..count.min(most)).map(|n| first.add(n).read_unaligned()));
            }
        }
    }
    Ok((n, fds))
}

/// # Safety
/// Every pointer in `messages` is good for what the call does with it.
pub unsafe fn sendmmsg(fd: RawFd, messages: &mut [libc::mmsghdr], flags: c_int) -> SysResult<usize> {
    // SAFETY: the caller's contract.
    unsafe { sys!(SYS_sendmmsg, fd, messages.as_mut_ptr(), messages.len(), flags) }
}

/// # Safety
/// Every pointer in `message` is good for what the call does with it.
pub unsafe fn recvmsg(fd: RawFd, message: &mut libc::msghdr, flags: c_int) -> SysResult<usize> {
    // SAFETY: the caller's contract.
    unsafe { sys!(SYS_recvmsg, fd, core::ptr::from_mut(message), flags) }
}

/// # Safety
/// Every pointer in `messages` is good for what the call does with it.
pub unsafe fn recvmmsg(fd: RawFd, messages: &mut [libc::mmsghdr], flags: c_int) -> SysResult<usize> {
    // SAFETY: the caller's contract.
    unsafe { sys!(SYS_recvmmsg, fd, messages.as_mut_ptr(), messages.len(), flags, 0) }
}

pub fn send(fd: RawFd, data: &[u8], flags: c_int) -> SysResult<usize> {
    // SAFETY: the slice is readable for its length.
    unsafe { sys!(SYS_sendto, fd, data.as_ptr(), data.len(), flags, 0, 0) }
}

pub fn sendto(fd: RawFd, data: &[u8], flags: c_int, addr: &[u8]) -> SysResult<usize> {
    // SAFETY: both slices are readable for their lengths.
    unsafe { sys!(SYS_sendto, fd, data.as_ptr(), data.len(), flags, addr.as_ptr(), addr.len()) }
}

pub fn recv(fd: RawFd, out: &mut [u8], flags: c_int) -> SysResult<usize> {
    // SAFETY: the slice is writable for its length.
    unsafe { sys!(SYS_recvfrom, fd, out.as_mut_ptr(), out.len(), flags, 0, 0) }
}

pub fn open(path: &CStr, flags: c_int) -> SysResult<RawFd> {
    // SAFETY: the path ends with NUL.
    unsafe { sys!(SYS_openat, libc::AT_FDCWD as isize, path.as_ptr(), flags, 0o600) }.map(fd_of)
}

pub fn close(fd: RawFd) -> SysResult<()> {
    // SAFETY: no pointers.
    unsafe { sys!(SYS_close, fd) }.map(drop)
}

pub fn read(fd: RawFd, out: &mut [u8]) -> SysResult<usize> {
    // SAFETY: the slice is writable for its length.
    unsafe { sys!(SYS_read, fd, out.as_mut_ptr(), out.len()) }
}

pub fn write(fd: RawFd, data: &[u8]) -> SysResult<usize> {
    // SAFETY: the slice is readable for its length.
    unsafe { sys!(SYS_write, fd, data.as_ptr(), data.len()) }
}

/// A fcntl with an integer argument.
pub fn fcntl(fd: RawFd, command: c_int, arg: usize) -> SysResult<usize> {
    // SAFETY: commands with pointers are the caller's to avoid; integers cannot harm.
    unsafe { sys!(SYS_fcntl, fd, command, arg) }
}

/// # Safety
/// `arg` is what the request demands.
pub unsafe fn ioctl(fd: RawFd, request: u64, arg: *mut c_void) -> SysResult<usize> {
    // SAFETY: the caller's contract.
    unsafe { sys!(SYS_ioctl, fd, request, arg) }
}

/// ppoll(2). `timeout`: `None` waits for ever. `mask`: the signal mask while waiting, as 8 bytes.
pub fn ppoll(
    fds: &mut [libc::pollfd],
    timeout: Option<core::time::Duration>,
    mask: Option<u64>,
) -> SysResult<usize> {
    let time = timeout.map(|d| libc::timespec { tv_sec: d.as_secs() as _, tv_nsec: d.subsec_nanos() as _ });
    let mask_at = mask.as_ref().map_or(null(), core::ptr::from_ref);
    // The kernel writes the remaining time back: give it a copy.
    let mut copy = time;
    let time_at = copy.as_mut().map_or(null_mut(), core::ptr::from_mut);
    // SAFETY: the slice is writable; the other pointers are null or lead to locals.
    unsafe { sys!(SYS_ppoll, fds.as_mut_ptr(), fds.len(), time_at, mask_at, 8) }
}

/// What poll says of one descriptor now.
pub fn poll_one(fd: RawFd, events: i16) -> i16 {
    let mut fds = [libc::pollfd { fd, events, revents: 0 }];
    match ppoll(&mut fds, Some(core::time::Duration::ZERO), None) {
        Ok(_) => fds[0].revents,
        Err(_) => 0,
    }
}

/// Whether `fd` is an epoll descriptor: removing a descriptor from itself is EINVAL for all others, and for these as well,
/// but removing one that is not in the set is ENOENT for these alone.
pub fn is_epoll(fd: RawFd) -> bool {
    let mut event = libc::epoll_event { events: 0, u64: 0 };
    let Ok(stranger) = eventfd(0, libc::EFD_CLOEXEC) else { return false };
    // SAFETY: the event is a local.
    let answer = unsafe { sys!(SYS_epoll_ctl, fd, libc::EPOLL_CTL_DEL, stranger, &raw mut event) };
    let _ = close(stranger);
    answer == Err(libc::ENOENT)
}

/// epoll_pwait(2); -1 waits for ever.
///
/// # Safety
/// `events` has room for `max` events.
pub unsafe fn epoll_pwait(
    epfd: RawFd,
    events: *mut libc::epoll_event,
    max: c_int,
    timeout_ms: c_int,
    mask: Option<u64>,
) -> SysResult<usize> {
    let mask_at = mask.as_ref().map_or(null(), core::ptr::from_ref);
    // SAFETY: the caller's contract; the mask is null or a local.
    unsafe { sys!(SYS_epoll_pwait, epfd, events, max, timeout_ms, mask_at, 8) }
}

/// Waits until a descriptor is ready, whatever signals come.
pub fn poll_until(fd: RawFd, events: i16) {
    let mut fds = [libc::pollfd { fd, events, revents: 0 }];
    while ppoll(&mut fds, None, None) == Err(libc::EINTR) {}
}

pub fn lseek(fd: RawFd, offset: i64, whence: c_int) -> SysResult<usize> {
    // SAFETY: no pointers.
    unsafe { sys!(SYS_lseek, fd, offset, whence) }
}

pub fn pread(fd: RawFd, out: &mut [u8], offset: u64) -> SysResult<usize> {
    // SAFETY: the slice is writable for its length.
    unsafe { sys!(SYS_pread64, fd, out.as_mut_ptr(), out.len(), offset) }
}

pub fn pipe(out: &mut [RawFd; 2]) -> SysResult<()> {
    // SAFETY: room for two descriptors.
    unsafe { sys!(SYS_pipe2, out.as_mut_ptr(), libc::O_CLOEXEC) }.map(drop)
}

/// Two ends of a Unix stream.
pub fn socketpair(out: &mut [RawFd; 2]) -> SysResult<()> {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
    // SAFETY: room for two descriptors.
    unsafe { sys!(SYS_socketpair, libc::AF_UNIX, kind, 0, out.as_mut_ptr()) }.map(drop)
}

pub fn dup3(fd: RawFd, new: RawFd, flags: c_int) -> SysResult<RawFd> {
    // SAFETY: no pointers.
    unsafe { sys!(SYS_dup3, fd, new, flags) }.map(fd_of)
}

pub fn close_range(first: u32, last: u32, flags: u32) -> SysResult<()> {
    // SAFETY: no pointers.
    unsafe { sys!(SYS_close_range, first, last, flags) }.map(drop)
}

/// Makes an eventfd readable. Only a full counter or a closed descriptor can refuse, and then who waits for it is awake or gone.
pub fn ring(eventfd: RawFd) {
    let _ = write(eventfd, &1u64.to_ne_bytes());
}

pub fn eventfd(value: u32, flags: c_int) -> SysResult<RawFd> {
    // SAFETY: no pointers.
    unsafe { sys!(SYS_eventfd2, value, flags) }.map(fd_of)
}

pub fn memfd_create(name: &CStr, flags: u32) -> SysResult<RawFd> {
    // SAFETY: the name ends with NUL.
    unsafe { sys!(SYS_memfd_create, name.as_ptr(), flags) }.map(fd_of)
}

pub fn ftruncate(fd: RawFd, bytes: u64) -> SysResult<()> {
    // SAFETY: no pointers.
    unsafe { sys!(SYS_ftruncate, fd, bytes) }.map(drop)
}

/// The size of the file behind `fd`.
pub fn file_size(fd: RawFd) -> SysResult<u64> {
    let mut stat = MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: the struct is writable; the kernel's and libc's `stat` are the same on the supported machines.
    unsafe {
        sys!(SYS_fstat, fd, stat.as_mut_ptr())?;
        Ok(stat.assume_init().st_size as u64)
    }
}

/// Maps `bytes` of `fd` (-1: anonymous) where the kernel likes.
pub fn mmap(bytes: usize, prot: c_int, flags: c_int, fd: RawFd, offset: u64) -> SysResult<NonNull<u8>> {
    // SAFETY: a new mapping at a place of the kernel's choice disturbs nothing (callers pass no MAP_FIXED).
    let at = unsafe { sys!(SYS_mmap, 0, bytes, prot, flags, fd as isize, offset) }?;
    NonNull::new(at as *mut u8).ok_or(libc::ENOMEM)
}

/// # Safety
/// The range was mapped by `mmap` and nothing refers to it any more.
pub unsafe fn munmap(at: *mut c_void, bytes: usize) {
    // SAFETY: the caller's contract. Only a wrong range could fail.
    let _ = unsafe { sys!(SYS_munmap, at, bytes) };
}

/// Sleeps while `word` is `expected`, at most for `timeout`. Any return may be spurious.
///
/// # Errors
/// EAGAIN (the word differs), ETIMEDOUT, EINTR.
pub fn futex_wait(word: &AtomicU32, expected: u32, timeout: Option<core::time::Duration>) -> SysResult<()> {
    let time = timeout.map(|d| libc::timespec { tv_sec: d.as_secs() as _, tv_nsec: d.subsec_nanos() as _ });
    let time_at = time.as_ref().map_or(null(), core::ptr::from_ref);
    // SAFETY: the word lives as long as the borrow; the time is null or a local.
    unsafe { sys!(SYS_futex, core::ptr::from_ref(word), libc::FUTEX_WAIT, expected, time_at, 0, 0) }.map(drop)
}

/// Wakes up to `count` sleepers of `word`, in any process that maps it.
pub fn futex_wake(word: &AtomicU32, count: u32) {
    // SAFETY: the word lives as long as the borrow. Waking cannot fail on a valid address.
    let _ = unsafe { sys!(SYS_futex, core::ptr::from_ref(word), libc::FUTEX_WAKE, count, 0, 0, 0) };
}

/// Fills `out` with randomness; false when the kernel has none (before it is seeded).
pub fn random_bytes(out: &mut [u8]) -> bool {
    // SAFETY: the slice is writable for its length.
    unsafe { sys!(SYS_getrandom, out.as_mut_ptr(), out.len(), 0) }.is_ok_and(|n| n == out.len())
}

/// A key for hashes and initial sequence numbers.
pub fn random_seed() -> [u64; 2] {
    let mut bytes = [0u8; 16];
    if !random_bytes(&mut bytes) {
        // No randomness: time and address-space layout are all there is.
        let mark = 0u8;
        let at = core::ptr::from_ref(&mark) as u64;
        return [monotonic_now().as_us() ^ at.rotate_left(17), at ^ u64::from(getpid() as u32) << 32];
    }
    let half = |n: usize| u64::from_ne_bytes(core::array::from_fn(|i| bytes[n * 8 + i]));
    [half(0), half(1)]
}

/// CLOCK_MONOTONIC, from the vDSO.
pub fn monotonic_now() -> Instant {
    let mut time = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: fills the struct; libc's clock_gettime is not overridden and cannot fail for this clock.
    let time = unsafe {
        libc::clock_gettime(libc::CLOCK_MONOTONIC, time.as_mut_ptr());
        time.assume_init()
    };
    Instant::from_us(time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1000)
}

/// Held while the limit of descriptors is raised.
static RAISING: std::sync::Mutex<()> = std::sync::Mutex::new(());

/// Where the engine's own descriptors begin, by the soft and the hard limit of open files: at the soft limit, or where there
/// is nothing above it, in its last quarter.
pub fn floor_of_own(soft: u64, hard: u64) -> u64 {
    /// A floor above this would only make the kernel's table of descriptors, which fork copies, larger.
    const HIGHEST: u64 = 1 << 16;
    if hard > soft && soft < HIGHEST { soft } else { (soft - soft / 4).min(HIGHEST) }
}

/// Moves a descriptor of the engine's own above what the program can open, so that it neither takes a number that the
/// program expects nor falls to a loop that closes "everything". The old number is closed. Above the soft limit where the
/// hard limit leaves room, else as high as the soft limit allows.
///
/// The limit is raised for the moment of the call only; descriptors above it stay usable, also after fork and exec.
///
/// # Errors
/// Those of fcntl(2).
pub fn move_high(fd: RawFd) -> SysResult<RawFd> {
    const ROOM: u64 = 1 << 14;
    // The limit is the process's: two threads that raise and restore it at once would leave it wrong. After a fork the lock
    // may be held by a thread that is not there: then it is not waited for long.
    let _alone = (0..1000).find_map(|_| match RAISING.try_lock() {
        Ok(guard) => Some(guard),
        Err(_) => {
            std::thread::yield_now();
            None
        }
    });
    let (soft, hard) = getrlimit(libc::RLIMIT_NOFILE as u32)?;
    let want = soft.saturating_add(ROOM).min(hard).min(1 << 30);
    let floor = floor_of_own(soft, hard);
    let raised = floor == soft && setrlimit(libc::RLIMIT_NOFILE as u32, (want, hard)).is_ok();
    let floor = if raised { floor } else { floor_of_own(soft, soft) };
    let moved = fcntl(fd, libc::F_DUPFD_CLOEXEC, floor as usize);
    if raised {
        setrlimit(libc::RLIMIT_NOFILE as u32, (soft, hard))?;
    }
    match moved {
        Ok(moved) => {
            close(fd)?;
            Ok(fd_of(moved))
        }
        // No room up there: it stays where it is.
        Err(libc::EMFILE) => {
            fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC as usize)?;
            Ok(fd)
        }
        Err(errno) => Err(errno),
    }
}

/// Whether the byte at `at` of this process can be read: asked of the kernel, so that a bad address is an answer and not
/// a fault.
pub fn probe_read(at: usize) -> bool {
    let mut byte = 0u8;
    let local = libc::iovec { iov_base: core::ptr::from_mut(&mut byte).cast(), iov_len: 1 };
    let remote = libc::iovec { iov_base: at as *mut c_void, iov_len: 1 };
    // SAFETY: the kernel copies one byte into a local, or refuses.
    unsafe {
        sys!(
            SYS_process_vm_readv,
            getpid(),
            core::ptr::from_ref(&local),
            1,
            core::ptr::from_ref(&remote),
            1,
            0
        )
    }
    .is_ok()
}

/// Whether the byte at `at` can be written: the kernel is asked to write what is there already. The caller is about to
/// write there, so nobody else should be.
pub fn probe_write(at: usize) -> bool {
    let mut byte = 0u8;
    let local = libc::iovec { iov_base: core::ptr::from_mut(&mut byte).cast(), iov_len: 1 };
    let remote = libc::iovec { iov_base: at as *mut c_void, iov_len: 1 };
    // SAFETY: the kernel copies one byte out of the program's memory and back, or refuses.
    unsafe {
        let (l, r) = (core::ptr::from_ref(&local), core::ptr::from_ref(&remote));
        sys!(SYS_process_vm_readv, getpid(), l, 1, r, 1, 0).is_ok()
            && sys!(SYS_process_vm_writev, getpid(), l, 1, r, 1, 0).is_ok()
    }
}

/// A `sockaddr_in`/`sockaddr_in6` or other C struct as bytes, for the calls above.
pub fn as_bytes<T: Copy>(value: &T) -> &[u8] {
    // SAFETY: used with C structs without padding; readable for their size.
    unsafe { core::slice::from_raw_parts(core::ptr::from_ref(value).cast(), size_of_val(value)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moved_descriptors_stand_above_the_limit() {
        let fd = move_high(eventfd(0, 0).unwrap()).unwrap();
        let (soft, _) = getrlimit(libc::RLIMIT_NOFILE as u32).unwrap();
        assert!(fd as u64 >= floor_of_own(soft, soft));
        assert_eq!(write(fd, &7u64.to_ne_bytes()), Ok(8));
        let mut out = [0; 8];
        assert_eq!(read(fd, &mut out), Ok(8));
        assert_eq!(u64::from_ne_bytes(out), 7);
        close(fd).unwrap();
        assert_eq!(close(fd), Err(libc::EBADF));
    }

    #[test]
    fn errors_are_errnos() {
        assert_eq!(socket(-1, 0, 0), Err(libc::EAFNOSUPPORT));
        assert_eq!(read(-1, &mut [0]), Err(libc::EBADF));
        assert_eq!(futex_wait(&AtomicU32::new(1), 0, None), Err(libc::EAGAIN));
    }
}
