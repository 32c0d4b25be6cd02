//! fork, exec and exit.
//!
//! All state is in the arena, which fork passes on by memory; what has to be right are the references: each descriptor of
//! each process holds one, counted for that process. They are taken before a fork, so that a parent that closes at once takes
//! nothing away from its child, and given back at exec (close-on-exec) and at exit; what a process does not give back because
//! it is killed, the companion does.
//!
//! **exec.** Sockets without close-on-exec survive it. The new program finds in its environment whose they are
//! (TCPRELOAD_FAMILY), gets the arena from the companion, and counts what it has. What does not survive is given back when
//! the exec has happened: the companion sees it by a pipe that is closed on exec. What others hold as well is given back before.
//!
//! **Unfinished business.** A program that has closed or ended may still owe its peers data and a FIN, and its guards keep the
//! kernel from resetting them meanwhile. That is the companion's; where there is none, the last process of a family leaves a
//! lingering child behind that drives until all that is done, and is gone then; it holds nothing of the program's.

use crate::calls::descriptors;
use crate::companion;
use crate::errno::{Errno, Outcome};
use crate::fdtable::{self, Kind};
use crate::portguard;
use crate::runtime::{self, Locked, Runtime};
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use core::time::Duration;
use engine::shared::Words;
use engine::shared::messages::{Message, Subject};
use engine::stack::{Holder, SockId};
use engine::sys;
use parking_lot::Mutex;
use std::os::fd::RawFd;

/// The process that has left already: exit handlers run once.
static LEFT: AtomicI32 = AtomicI32::new(0);

/// A process for which the list of the family had no place: what it holds is counted, and not given back if it is killed.
const UNCOUNTED: Holder = Holder::MAX;

/// This process's place in the family.
static HOLDER: AtomicU32 = AtomicU32::new(UNCOUNTED);
/// Its number means nothing to the others: it is in another PID namespace.
static ELSEWHERE: AtomicBool = AtomicBool::new(false);

pub fn holder() -> Holder {
    HOLDER.load(Ordering::Relaxed)
}

/// This process is the first of a new family.
pub fn found(words: &Words) {
    let place = words.expect_process(sys::getpid() as u32).unwrap_or(UNCOUNTED);
    // Also where it is the first of a PID namespace: the others' numbers are of the same one.
    HOLDER.store(place, Ordering::Relaxed);
    say_who(words, place, sys::getpid());
}

/// This process has that place.
fn be(words: &Words, place: Holder) {
    HOLDER.store(place, Ordering::Relaxed);
    let pid = sys::getpid();
    if pid == 1 {
        ELSEWHERE.store(true, Ordering::Relaxed);
    }
    if !ELSEWHERE.load(Ordering::Relaxed) {
        say_who(words, place, pid);
    } else if pid != 1 {
        words.process_is_there(place, 0, 0);
    }
}

fn say_who(words: &Words, place: Holder, pid: i32) {
    words.process_is_there(place, pid as u32, sys::process_stat(pid).map_or(0, |(_, started)| started));
}

/// This program was started with sockets of a family that it has just joined: it counts what it has.
pub fn arrive(rt: &Runtime, open: impl Iterator<Item = (RawFd, u64)>) {
    let Ok(mut locked) = rt.lock() else { return };
    let pid = sys::getpid() as u32;
    let place = rt.words().holder_of(pid).or_else(|| rt.words().expect_process(pid)).unwrap_or(UNCOUNTED);
    be(rt.words(), place);
    let mut found = Vec::new();
    for (fd, cookie) in open {
        if let Some(id) = locked.stack().socket_by_cookie(cookie) {
            fdtable::set_socket(fd, id);
            found.push(id);
        }
    }
    let (stack, now) = locked.stack_now();
    stack.settle_process(now, place, &found);
    rt.words().process_execs(place, false);
    drop(locked);
    rt.ring_companion();
}

/// What this process holds, `place` holds as well: a child that is about to be. By this process's own table, whose length is
/// what a fork costs, and which says the same where the list of the family had no place for one of the two.
fn retain_all(locked: &mut Locked, place: Holder) {
    locked.stack().set_holder(place);
    for (_, kind) in fdtable::ours() {
        match kind {
            Kind::Socket(id) => locked.stack().retain(id),
            Kind::Epoll(set) => locked.stack().epoll_retain(set),
            Kind::Foreign => {}
        }
    }
    portguard::ports().into_iter().for_each(|port| locked.stack().port_copied(port));
    locked.stack().set_holder(holder());
}

/// The guards of this process are gone.
fn drop_guards(locked: &mut Locked) {
    portguard::ports().into_iter().for_each(|port| locked.stack().port_copy_gone(port));
}

/// Gives back what this process holds, table entries aside.
fn release_all(locked: &mut Locked, held: impl Iterator<Item = (RawFd, Kind)>) {
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
}

/// The place of a process that ends, or never was, is free, and what it still holds is given back.
fn vacate(rt: &Runtime, locked: &mut Locked, place: Holder) {
    if place != UNCOUNTED {
        let (stack, now) = locked.stack_now();
        stack.release_process(now, place);
        rt.words().process_is_gone(place);
    }
}

/// fork(2) through `real`.
pub fn fork(real: impl FnOnce() -> libc::pid_t) -> libc::pid_t {
    let Some(rt) = runtime::attached() else { return real() };
    // Held over the fork: no other thread is in the middle of what the child will go on with. It stays the parent's.
    let mut locked = rt.lock().ok();
    let mut place = UNCOUNTED;
    if let Some(locked) = &mut locked {
        place = rt.words().expect_process(sys::getpid() as u32).unwrap_or(UNCOUNTED);
        retain_all(locked, place);
    }
    let pid = real();
    if pid == 0 {
        core::mem::forget(locked);
        crate::wait::forget_busy();
        be(rt.words(), place);
        return 0;
    }
    let errno = crate::errno::get();
    if let Some(mut locked) = locked {
        if pid < 0 {
            // The child never was.
            locked.stack().set_holder(place);
            release_all(&mut locked, fdtable::ours());
            drop_guards(&mut locked);
            locked.stack().set_holder(holder());
            vacate(rt, &mut locked, place);
        } else if !ELSEWHERE.load(Ordering::Relaxed) {
            // Both sides note the child, so that neither can end first and take itself for the last.
            rt.words().process_is_there(place, pid as u32, 0);
        }
        drop(locked);
    }
    if pid > 0 {
        rt.ring_companion();
    }
    crate::errno::set(errno);
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

/// What an exec that may fail has done.
pub struct Departure {
    rt: &'static Runtime,
    /// Given back before it.
    released: Vec<(RawFd, Kind)>,
    guards: bool,
    /// The companion waits for the end of this pipe.
    pipe: Option<RawFd>,
    /// This process has given up its place.
    left: bool,
    /// TCPRELOAD_FAMILY for the new program.
    pub family: Option<String>,
    pub goes_on: GoesOn,
}

/// What a program is started with, in view of one that cannot be preloaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GoesOn {
    Nothing,
    /// Sockets of ours that nothing can be done for.
    Others,
    /// What a relay serves, or an error has to stand for (`relay::concerns`).
    Concerns,
}

impl GoesOn {
    fn of(locked: &mut Locked, survivors: &[(RawFd, SockId)]) -> GoesOn {
        if survivors.iter().any(|&(fd, id)| crate::relay::concerns(fd, locked.stack().phase(id))) {
            GoesOn::Concerns
        } else if survivors.is_empty() {
            GoesOn::Nothing
        } else {
            GoesOn::Others
        }
    }
}

/// Our sockets that an exec leaves open, each with its descriptor.
fn survivors() -> Vec<(RawFd, SockId)> {
    let stays = |fd| sys::fcntl(fd, libc::F_GETFD, 0).is_ok_and(|flags| flags as i32 & libc::FD_CLOEXEC == 0);
    let sockets = fdtable::ours().filter_map(|(fd, kind)| match kind {
        Kind::Socket(id) => Some((fd, id)),
        _ => None,
    });
    sockets.filter(|&(fd, _)| stays(fd)).collect()
}

/// What the environment of a program says that is started with these.
fn family_name(rt: &Runtime, survivors: &[(RawFd, SockId)]) -> Option<String> {
    let cookies: Vec<u64> = survivors.iter().filter_map(|&(fd, _)| sys::socket_cookie(fd).ok()).collect();
    (!cookies.is_empty()).then(|| companion::FamilyName::of(rt, cookies).to_text())
}

/// An exec is about to happen. Sockets that survive it stay this process's; of the others, what somebody else holds as well is
/// given back now, and the rest when it has happened: should it fail, they must still be there.
pub fn before_exec() -> Option<Departure> {
    let rt = runtime::attached()?;
    let there = companion::is_there(rt);
    let survivors = if there { survivors() } else { Vec::new() };
    let mut locked = rt.lock().ok()?;
    let mut departure = Departure {
        rt,
        released: Vec::new(),
        guards: false,
        pipe: None,
        left: false,
        family: None,
        goes_on: GoesOn::of(&mut locked, &survivors),
    };
    let mut alone = 0;
    for (fd, kind) in fdtable::ours() {
        let elsewhere = match kind {
            Kind::Socket(_) if survivors.iter().any(|s| s.0 == fd) => continue,
            Kind::Socket(id) => locked.stack().refs(id) > 1,
            Kind::Epoll(set) => locked.stack().epoll_refs(set) > 1,
            Kind::Foreign => continue,
        };
        if elsewhere {
            // One at a time: with the next descriptor of the same socket this may be the last.
            release_all(&mut locked, core::iter::once((fd, kind)));
            departure.released.push((fd, kind));
        } else {
            alone += 1;
        }
    }
    portguard::show_the_rest(&mut locked);
    drop_guards(&mut locked);
    departure.guards = true;
    let ids: Vec<SockId> = survivors.iter().map(|s| s.1).collect();
    locked.stack().exec_begins(holder(), &ids);
    rt.words().process_execs(holder(), true);
    if survivors.is_empty() && (alone == 0 || !there) {
        // Nothing of ours goes on in this process.
        rt.words().process_leaves(holder());
        departure.left = true;
    }
    drop(locked);
    departure.family = family_name(rt, &survivors);
    if alone > 0 && there {
        departure.pipe = announce_exec(rt);
    }
    Some(departure)
}

/// Tells the companion of an exec, with the reading end of a pipe whose other end is closed by it. Gives that other end.
fn announce_exec(rt: &Runtime) -> Option<RawFd> {
    let mut pipe = [-1; 2];
    sys::pipe(&mut pipe).ok()?;
    let message = Message { holder: holder(), ..Message::new(Subject::Exec) };
    let sent = companion::send(rt, message, &pipe[..1]);
    let _ = sys::close(pipe[0]);
    if let Err(errno) = sent {
        log::debug!("an exec could not be announced: {}", std::io::Error::from_raw_os_error(errno));
        let _ = sys::close(pipe[1]);
        return None;
    }
    rt.ring_companion();
    sys::move_high(pipe[1]).ok()
}

impl Departure {
    /// The exec failed.
    pub fn undo(self) {
        let Ok(mut locked) = self.rt.lock() else { return };
        if self.left {
            be(self.rt.words(), holder());
        }
        locked.stack().exec_failed(holder());
        self.rt.words().process_execs(holder(), false);
        if self.guards {
            portguard::ports().into_iter().for_each(|port| locked.stack().port_copied(port));
        }
        for (_, kind) in self.released {
            match kind {
                Kind::Socket(id) => locked.stack().retain(id),
                Kind::Epoll(set) => locked.stack().epoll_retain(set),
                Kind::Foreign => {}
            }
        }
        drop(locked);
        if let Some(pipe) = self.pipe {
            // Before the pipe is closed, which would say that it has happened.
            let message = Message { holder: holder(), ..Message::new(Subject::ExecFailed) };
            if let Err(errno) = companion::send(self.rt, message, &[]) {
                log::debug!("a failed exec: {}", std::io::Error::from_raw_os_error(errno));
            }
            let _ = sys::close(pipe);
        }
    }
}

/// A child that libc makes and that execs at once (posix_spawn).
pub struct Spawning {
    rt: &'static Runtime,
    place: Holder,
    pub family: String,
    pub goes_on: GoesOn,
}

/// What lists of file actions duplicate: the list's address, a descriptor of ours, and the number that it gets. Only touched under the arena's lock, which
/// fork holds.
static DUPLICATED: Mutex<Vec<(usize, RawFd, RawFd)>> = Mutex::new(Vec::new());

/// A list of file actions duplicates `fd` to `new`, close-on-exec or not.
pub fn spawn_will_duplicate(actions: usize, fd: RawFd, new: RawFd) {
    if let Some((rt, _)) = fdtable::socket(fd)
        && let Ok(_locked) = rt.lock()
    {
        let mut lists = DUPLICATED.lock();
        if !lists.contains(&(actions, fd, new)) {
            lists.push((actions, fd, new));
        }
    }
}

/// The list is no more.
pub fn spawn_forgets(actions: usize) {
    if let Some(rt) = runtime::attached()
        && let Ok(_locked) = rt.lock()
    {
        DUPLICATED.lock().retain(|d| d.0 != actions);
    }
}

/// Before it is made. `None`: it will have no sockets of ours, or nobody could count them for it.
pub fn before_spawn(actions: usize) -> Option<Spawning> {
    let rt = runtime::attached().filter(|rt| companion::is_there(rt))?;
    let mut survivors = survivors();
    let lists: Vec<(usize, RawFd, RawFd)> =
        rt.lock().ok().map(|_locked| DUPLICATED.lock().clone()).unwrap_or_default();
    // Those that are there under another number.
    let mut moved = Vec::new();
    for &(_, fd, new) in lists.iter().filter(|d| d.0 == actions) {
        if let Some((_, id)) = fdtable::socket(fd) {
            moved.push((new, id));
            // In front: the list in the environment is short, and others are often closed by a further action.
            survivors.retain(|s| s.1 != id);
            survivors.insert(0, (fd, id));
        }
    }
    let family = family_name(rt, &survivors)?;
    let mut locked = rt.lock().ok()?;
    let place = rt.words().expect_process(sys::getpid() as u32)?;
    moved.extend(&survivors);
    let goes_on = GoesOn::of(&mut locked, &moved);
    // Held for the child until it counts them itself, or ends.
    let ids: Vec<SockId> = survivors.iter().map(|s| s.1).collect();
    locked.stack().retain_for(place, &ids);
    Some(Spawning { rt, place, family, goes_on })
}

impl Spawning {
    /// It was made; `None`: it was not.
    pub fn done(self, pid: Option<i32>) {
        let Ok(mut locked) = self.rt.lock() else { return };
        let words = self.rt.words();
        match pid {
            // It may have counted already.
            Some(pid) if words.holder_of(pid as u32).is_none() && !ELSEWHERE.load(Ordering::Relaxed) => {
                words.process_is_there(self.place, pid as u32, 0);
            }
            _ => vacate(self.rt, &mut locked, self.place),
        }
        drop(locked);
        self.rt.ring_companion();
    }
}

/// What the end of this process means for the engine: its descriptors are closed, as the kernel would close them.
pub fn goodbye() {
    let Some(rt) = runtime::attached() else { return };
    if crate::confined::is_confined() {
        // The companion does it, as for one that is killed.
        return;
    }
    let me = sys::getpid();
    if LEFT.swap(me, Ordering::AcqRel) == me {
        return;
    }
    let held: Vec<(RawFd, Kind)> = fdtable::ours().collect();
    for (fd, _) in &held {
        fdtable::take(*fd);
    }
    let Ok(mut locked) = rt.lock() else { return };
    portguard::show_the_rest(&mut locked);
    // The kernel would have seen to what has arrived: the last ACK of a handshake decides whether its peer is told of the end.
    locked.turn_if_due();
    release_all(&mut locked, held.into_iter());
    drop_guards(&mut locked);
    let place = holder();
    vacate(rt, &mut locked, place);
    drop(locked);
    if has_others(rt) {
        if let Ok(mut locked) = rt.lock() {
            // Somebody must watch.
            locked.stack().wake_any(None);
        }
    } else if !companion::can_be_relied_on(rt) {
        last_of_family(rt);
    } else if let Ok(mut locked) = rt.lock() {
        // What is not done yet the companion does, and writes them then.
        let done = !locked.stack().has_unfinished_business();
        drop(locked);
        if done {
            write_stats(rt);
        }
    }
}

/// Whether other processes of the family live. Where there is no companion, those that were killed are found here.
fn has_others(rt: &Runtime) -> bool {
    if companion::is_there(rt) {
        return rt.words().has_members();
    }
    let mut any = false;
    for process in rt.words().processes() {
        if process.pid == 0 || sys::process_lives(process.pid as i32) {
            any |= !process.is_leaving;
        } else if let Ok(mut locked) = rt.lock() {
            vacate(rt, &mut locked, process.holder);
        }
    }
    any
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

/// TCPRELOAD_STATS: the counters as one line of JSON, once.
fn write_stats(rt: &Runtime) {
    let Some(path) = &rt.config.stats else { return };
    if rt.words().companion.stats_written.swap(1, Ordering::AcqRel) != 0 {
        return;
    }
    let Ok(mut locked) = rt.lock() else { return };
    let line = locked.stack().counters().to_json_line();
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
