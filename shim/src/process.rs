//! fork, exec and exit.
//!
//! All state is in the arena, which fork passes on by memory; what has to be right are the references: each descriptor of
//! each process holds one. They are taken before a fork, so that a parent that closes at once takes nothing away from its
//! child, and given back at exec (close-on-exec) and at exit.
//!
//! **Unfinished business.** A program that has closed or ended may still owe its peers data and a FIN, and its guards keep the
//! kernel from resetting them meanwhile. The last process of a family leaves a lingering child behind that drives until
//! all that is done, and is gone then; nobody waits for it, and it holds nothing of the program's.

use crate::calls::descriptors;
use crate::errno::{Errno, Outcome};
use crate::fdtable::{self, Kind};
use crate::portguard;
use crate::runtime::{self, Locked, Runtime};
use core::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use core::time::Duration;
use engine::sys;
use engine::values::Counter;
use std::os::fd::RawFd;

/// The process that has left already: exit handlers run once.
static LEFT: AtomicI32 = AtomicI32::new(0);

/// One more reference to everything that is ours, for a child that is about to be.
fn retain_all(locked: &mut Locked) {
    for (_, kind) in fdtable::ours() {
        match kind {
            Kind::Socket(id) => locked.stack().retain(id),
            Kind::Epoll(set) => locked.stack().epoll_retain(set),
            Kind::Foreign => {}
        }
    }
    portguard::ports().into_iter().for_each(|port| locked.stack().port_copied(port));
}

/// The guards of this process (or of a child that never was) are gone.
fn drop_guards(rt: &Runtime) {
    if let Ok(mut locked) = rt.lock() {
        portguard::ports().into_iter().for_each(|port| locked.stack().port_copy_gone(port));
    }
}

/// Gives back what this process (or a child that never was) holds, table entries aside.
fn release_all(rt: &Runtime, held: impl Iterator<Item = (RawFd, Kind)>) -> Outcome<()> {
    let mut locked = rt.lock()?;
    for (_, kind) in held {
        match kind {
            Kind::Socket(id) => {
                let (stack, now) = locked.stack_now();
                stack.release(now, id);
            }
            Kind::Epoll(set) => locked.stack().epoll_release(set),
            Kind::Foreign => {}
        }
    }
    Ok(())
}

/// fork(2) through `real`.
pub fn fork(real: impl FnOnce() -> libc::pid_t) -> libc::pid_t {
    let Some(rt) = runtime::attached() else { return real() };
    // Held over the fork: no other thread is in the middle of what the child will go on with. It stays the parent's.
    let mut locked = rt.lock().ok();
    if let Some(locked) = &mut locked {
        retain_all(locked);
    }
    let pid = real();
    if pid == 0 {
        core::mem::forget(locked);
        crate::wait::forget_busy();
    } else {
        let errno = crate::errno::get();
        let retained = locked.is_some();
        drop(locked);
        if pid < 0 && retained {
            let _ = release_all(rt, fdtable::ours());
            drop_guards(rt);
        }
        crate::errno::set(errno);
    }
    // Both sides note the child, so that neither can end first and take itself for the last.
    match pid {
        0 => rt.words().join(sys::getpid() as u32),
        1.. => rt.words().join(pid as u32),
        _ => {}
    }
    pid
}

/// vfork(2), as a fork whose parent waits until the child has gone on to exec or exit. A child that shared our memory would
/// change the parent's tables with every descriptor that it closes.
pub fn vfork(real: impl FnOnce() -> libc::pid_t) -> libc::pid_t {
    if runtime::attached().is_none() {
        return real();
    }
    let mut pipe = [-1i32; 2];
    if sys::pipe(&mut pipe).is_err() {
        return fork(real);
    }
    let pid = fork(real);
    if pid == 0 {
        let _ = sys::close(pipe[0]);
        // Closed by exec or by the end, above the numbers that the program expects.
        let _ = sys::move_high(pipe[1]);
        return 0;
    }
    let errno = crate::errno::get();
    let _ = sys::close(pipe[1]);
    if pid > 0 {
        while sys::read(pipe[0], &mut [0]) == Err(libc::EINTR) {}
    }
    let _ = sys::close(pipe[0]);
    crate::errno::set(errno);
    pid
}

/// daemon(3): libc's own would fork past us.
pub fn daemon(nochdir: bool, noclose: bool, real_fork: impl FnOnce() -> libc::pid_t) -> Outcome<i32> {
    match fork(real_fork) {
        -1 => return Err(Errno(crate::errno::get())),
        0 => {}
        _ => leave(0),
    }
    // SAFETY: plain calls of libc that are not overridden.
    unsafe {
        if libc::setsid() == -1 {
            return Err(Errno(crate::errno::get()));
        }
        if !nochdir && libc::chdir(c"/".as_ptr()) == -1 {
            return Err(Errno(crate::errno::get()));
        }
    }
    if !noclose {
        let null = sys::open(c"/dev/null", libc::O_RDWR)?;
        for fd in 0..3 {
            descriptors::forget(fd);
            sys::dup3(null, fd, 0).map(drop).or_else(|e| if e == libc::EINVAL { Ok(()) } else { Err(e) })?;
        }
        if null > 2 {
            sys::close(null)?;
        }
    }
    Ok(0)
}

/// An exec is about to happen. The new program will know nothing of our sockets, close-on-exec or not: this process's
/// references are given back, or a connection that it once inherited would never end. What nobody else holds is left alone:
/// should the exec fail, it must still be there.
pub fn before_exec() -> Vec<(RawFd, Kind)> {
    let Some(rt) = runtime::attached() else { return Vec::new() };
    let mut released = Vec::new();
    if let Ok(mut locked) = rt.lock() {
        released.extend(fdtable::ours().filter(|&(_, kind)| match kind {
            Kind::Socket(id) => locked.stack().refs(id) > 1,
            Kind::Epoll(set) => locked.stack().epoll_refs(set) > 1,
            Kind::Foreign => false,
        }));
    }
    let _ = release_all(rt, released.iter().copied());
    drop_guards(rt);
    rt.words().leave(sys::getpid() as u32);
    released
}

/// The exec failed.
pub fn exec_failed(released: &[(RawFd, Kind)]) {
    let Some(rt) = runtime::attached() else { return };
    rt.words().join(sys::getpid() as u32);
    let Ok(mut locked) = rt.lock() else { return };
    portguard::ports().into_iter().for_each(|port| locked.stack().port_copied(port));
    for (_, kind) in released {
        match *kind {
            Kind::Socket(id) => locked.stack().retain(id),
            Kind::Epoll(set) => locked.stack().epoll_retain(set),
            Kind::Foreign => {}
        }
    }
}

/// What the end of this process means for the engine: its descriptors are closed, as the kernel would close them.
pub fn goodbye() {
    let Some(rt) = runtime::attached() else { return };
    let me = sys::getpid();
    if LEFT.swap(me, Ordering::AcqRel) == me {
        return;
    }
    let held: Vec<(RawFd, Kind)> = fdtable::ours().collect();
    for (fd, _) in &held {
        fdtable::take(*fd);
    }
    if release_all(rt, held.into_iter()).is_err() {
        return;
    }
    drop_guards(rt);
    rt.words().leave(me as u32);
    if !rt.words().has_members(|pid| sys::process_lives(pid as i32)) {
        last_of_family(rt);
    } else if let Ok(mut locked) = rt.lock() {
        // Others go on: somebody must watch.
        locked.stack().wake_any(None);
    }
}

fn last_of_family(rt: &Runtime) {
    let Ok(mut locked) = rt.lock() else { return };
    let unfinished = locked.stack().has_unfinished_business();
    drop(locked);
    if !unfinished {
        write_stats(rt);
        return;
    }
    // SAFETY: the child runs nothing but the engine, on memory that is consistent: this thread holds no lock of the engine.
    let pid = unsafe { sys::fork() };
    if pid == Ok(0) {
        linger(rt);
    }
    if pid.is_err() {
        write_stats(rt);
    }
}

/// The lingering child: drives until nothing is left to do. Its end closes the guards.
fn linger(rt: &Runtime) -> ! {
    // SAFETY: not overridden; a new session keeps the terminal's signals away.
    unsafe { libc::setsid() };
    // Handlers of the program would run the program.
    sys::default_signals();
    for (first, last) in descriptors::close_range(0, u32::MAX) {
        let _ = sys::close_range(first, last, 0);
    }
    static DONE: AtomicBool = AtomicBool::new(false);
    while !DONE.load(Ordering::Relaxed) {
        let Ok(mut locked) = rt.lock() else { break };
        locked.turn();
        if !locked.stack().has_unfinished_business() {
            break;
        }
        let now = locked.now();
        let deadline = locked.stack().next_deadline();
        drop(locked);
        let mut fds: Vec<libc::pollfd> =
            rt.poll_fds().iter().map(|&fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 }).collect();
        let wait = deadline.map_or(1_000_000, |d| d.us_since(now)).clamp(500, 1_000_000);
        let _ = sys::ppoll(&mut fds, Some(Duration::from_micros(wait)), None);
    }
    write_stats(rt);
    sys::exit_group(0)
}

/// TCPRELOAD_STATS: the counters as one line of JSON.
fn write_stats(rt: &Runtime) {
    let Some(path) = &rt.config.stats else { return };
    let Ok(mut locked) = rt.lock() else { return };
    let mut line = String::from("{");
    for (counter, value) in locked.stack().counters().iter() {
        if line.len() > 1 {
            line.push(',');
        }
        line.push_str(&format!("\"{}\":{value}", counter.name()));
    }
    line.push_str("}\n");
    debug_assert!(line.contains(Counter::PassiveOpens.name()));
    drop(locked);
    match sys::open(path, libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND | libc::O_CLOEXEC) {
        Ok(fd) => {
            let _ = sys::write(fd, line.as_bytes());
            let _ = sys::close(fd);
        }
        Err(errno) => crate::log::tell(&format!(
            "TCPRELOAD_STATS={}: {}",
            path.to_string_lossy(),
            std::io::Error::from_raw_os_error(errno)
        )),
    }
}

/// _exit(2) and its relatives.
pub fn leave(status: i32) -> ! {
    goodbye();
    sys::exit_group(status)
}

/// exit(3) and the return from main end here: behind all that the program does at its end, which may use its sockets.
#[cfg(not(test))]
#[used]
#[unsafe(link_section = ".fini_array")]
static AT_EXIT: extern "C" fn() = at_exit;

#[cfg(not(test))]
extern "C" fn at_exit() {
    let _ = crate::errno::run(|| {
        // libc flushes what is left in streams even later.
        crate::streams::flush();
        goodbye();
        Ok(())
    });
}
