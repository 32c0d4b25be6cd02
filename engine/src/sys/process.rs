//! System calls about processes, threads and signals.

use super::{SysResult, close, fd_of, open, read, syscall6};
use core::ffi::{CStr, c_int, c_void};
use std::os::fd::RawFd;

/// fork(2) without libc's handlers; 0 in the child.
///
/// # Safety
/// The child must restrict itself to what is safe with memory as it was in a process that may have had other threads.
pub unsafe fn fork() -> SysResult<i32> {
    // SAFETY: no new stack, no pointers; the caller's contract.
    unsafe { sys!(SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) }.map(|pid| pid as i32)
}

/// Every signal back to its default, so that no handler of the program runs.
pub fn default_signals() {
    // struct kernel_sigaction: handler, flags, restorer, mask. All zero is SIG_DFL.
    let action = [0u64; 4];
    for signal in 1..=64 {
        // SAFETY: the struct is a local; SIGKILL and SIGSTOP are refused.
        let _ = unsafe { sys!(SYS_rt_sigaction, signal, action.as_ptr(), 0, 8) };
    }
}

/// Soft and hard limit.
pub fn getrlimit(resource: u32) -> SysResult<(u64, u64)> {
    let mut limit = [0u64; 2];
    // SAFETY: the kernel writes two words.
    unsafe { sys!(SYS_prlimit64, 0, resource, 0, limit.as_mut_ptr()) }?;
    Ok((limit[0], limit[1]))
}

pub fn setrlimit(resource: u32, limit: (u64, u64)) -> SysResult<()> {
    let limit = [limit.0, limit.1];
    // SAFETY: the kernel reads two words.
    unsafe { sys!(SYS_prlimit64, 0, resource, limit.as_ptr(), 0) }.map(drop)
}

pub fn getpid() -> i32 {
    // SAFETY: no pointers; cannot fail.
    unsafe { sys!(SYS_getpid) }.unwrap_or(0) as i32
}

pub fn gettid() -> i32 {
    // SAFETY: no pointers; cannot fail.
    unsafe { sys!(SYS_gettid) }.unwrap_or(0) as i32
}

/// What libc and the kernel know of the calling thread, for a child that is made behind libc's back: libc tells owners of
/// mutexes by a number in the thread's block, which such a child inherits from its parent, and the kernel forgets the list of
/// robust mutexes. See set_tid_address(2), get_robust_list(2).
pub struct ThreadRecord {
    tid: *mut i32,
    robust_list: *mut c_void,
    robust_bytes: usize,
}

impl ThreadRecord {
    /// Of the calling thread. `None`: this kernel does not say (PR_GET_TID_ADDRESS needs CONFIG_CHECKPOINT_RESTORE).
    pub fn of_this_thread() -> Option<ThreadRecord> {
        let mut record =
            ThreadRecord { tid: core::ptr::null_mut(), robust_list: core::ptr::null_mut(), robust_bytes: 0 };
        // SAFETY: the kernel fills in locals.
        unsafe {
            sys!(SYS_prctl, libc::PR_GET_TID_ADDRESS, core::ptr::from_mut(&mut record.tid)).ok()?;
            let (list, bytes) =
                (core::ptr::from_mut(&mut record.robust_list), core::ptr::from_mut(&mut record.robust_bytes));
            sys!(SYS_get_robust_list, 0, list, bytes).ok()?;
        }
        // SAFETY: where libc keeps the number, it is this thread's; anything else is not libc's.
        (!record.tid.is_null() && unsafe { record.tid.read() } == gettid()).then_some(record)
    }

    /// In the child, whose memory is a copy of the parent's: the record says who it is.
    pub fn renew(&self) {
        // SAFETY: the addresses are the thread's own in the parent, and the child's memory has the same places.
        unsafe {
            self.tid.write(gettid());
            // Refused for a wrong size only, and this one is the kernel's own.
            let _ = sys!(SYS_set_robust_list, self.robust_list, self.robust_bytes);
        }
    }
}

/// The CPU that this thread runs on.
pub fn current_cpu() -> i32 {
    let mut cpu = 0u32;
    // SAFETY: the number is a local; the others are not asked for.
    let _ = unsafe { sys!(SYS_getcpu, &raw mut cpu, 0, 0) };
    cpu as i32
}

/// Sends `signal` to one thread of this process.
pub fn tgkill(pid: i32, tid: i32, signal: c_int) -> SysResult<()> {
    // SAFETY: no pointers.
    unsafe { sys!(SYS_tgkill, pid, tid, signal) }.map(drop)
}

/// Whether a process of that number exists (EPERM counts as existing).
pub fn process_exists(pid: i32) -> bool {
    // SAFETY: no pointers; signal 0 only asks.
    !matches!(unsafe { sys!(SYS_kill, pid, 0) }, Err(libc::ESRCH))
}

/// What /proc says of a process: its state, and when it was started, in ticks since boot. `None`: there is none.
pub fn process_stat(pid: i32) -> Option<(u8, u64)> {
    let path = std::ffi::CString::new(format!("/proc/{pid}/stat")).ok()?;
    let fd = open(&path, libc::O_RDONLY | libc::O_CLOEXEC).ok()?;
    let mut stat = [0u8; 1024];
    let n = read(fd, &mut stat);
    let _ = close(fd);
    let stat = &stat[..n.ok()?];
    // The state follows the name, which is in brackets and may hold anything; the start is the 20th word from there.
    let after = stat.iter().rposition(|&b| b == b')')? + 2;
    let mut words = stat.get(after..)?.split(|&b| b == b' ');
    let state = *words.next()?.first()?;
    let started = core::str::from_utf8(words.nth(18)?).ok()?.parse().ok()?;
    Some((state, started))
}

/// Whether a process of that number runs, or could: one that has ended and is not waited for yet does not.
pub fn process_lives(pid: i32) -> bool {
    process_stat(pid).is_some_and(|(state, _)| !matches!(state, b'Z' | b'X'))
}

/// A descriptor that is readable when the process has ended.
pub fn pidfd_open(pid: i32) -> SysResult<RawFd> {
    // SAFETY: no pointers.
    unsafe { sys!(SYS_pidfd_open, pid, 0) }.map(fd_of)
}

/// Takes a child that was made with no signal to tell of its end; other waits do not see it.
pub fn wait_for_clone(pid: i32) {
    // SAFETY: no pointers: nobody asks for the status.
    while unsafe { sys!(SYS_wait4, pid, 0, libc::__WCLONE, 0) } == Err(libc::EINTR) {}
}

/// Replaces the signal mask of this thread, and gives the old one.
pub fn signal_mask(mask: u64) -> u64 {
    let mut old = 0u64;
    // SAFETY: both masks are locals of the size that is given.
    let _ = unsafe { sys!(SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const mask, &raw mut old, 8) };
    old
}

/// Signals that this thread has been sent, or its process, and that wait.
pub fn pending_signals() -> u64 {
    let mut pending = 0u64;
    // SAFETY: the set is a local of the size that is given.
    let _ = unsafe { sys!(SYS_rt_sigpending, &raw mut pending, 8) };
    pending
}

/// Blocks these signals and gives a descriptor that is readable when one of them is pending.
pub fn signalfd(mask: u64) -> SysResult<RawFd> {
    let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
    // SAFETY: the mask is a local of the size that is given.
    let fd = unsafe { sys!(SYS_signalfd4, -1isize, &raw const mask, 8, flags) }?;
    signal_mask(mask);
    Ok(fd_of(fd))
}

/// prctl(2) of the commands that take a number.
pub fn prctl(command: c_int, value: usize) -> SysResult<usize> {
    // SAFETY: callers use commands without pointers.
    unsafe { sys!(SYS_prctl, command, value, 0, 0, 0) }
}

/// PR_GET_CHILD_SUBREAPER.
pub fn is_subreaper() -> bool {
    let mut is: c_int = 0;
    // SAFETY: the kernel writes an int.
    unsafe { sys!(SYS_prctl, libc::PR_GET_CHILD_SUBREAPER, &raw mut is, 0, 0, 0) }.is_ok() && is != 0
}

/// setsid(2).
pub fn new_session() {
    // SAFETY: no pointers. A leader of a group already has what it wants.
    let _ = unsafe { sys!(SYS_setsid) };
}

/// chdir(2).
pub fn change_directory(path: &CStr) -> SysResult<()> {
    // SAFETY: the path ends with NUL.
    unsafe { sys!(SYS_chdir, path.as_ptr()) }.map(drop)
}

/// execve(2); the errno, if it returns.
///
/// # Safety
/// `argv` and `envp` are arrays of strings that end with a null pointer.
pub unsafe fn execve(
    path: &CStr,
    argv: *const *const core::ffi::c_char,
    envp: *const *const core::ffi::c_char,
) -> i32 {
    // SAFETY: the caller's contract.
    unsafe { sys!(SYS_execve, path.as_ptr(), argv, envp) }.map_or_else(|errno| errno, |_| 0)
}

/// Ends this process at once.
pub fn exit_group(status: c_int) -> ! {
    loop {
        // SAFETY: does not return.
        let _ = unsafe { sys!(SYS_exit_group, status) };
    }
}
