//! The companion: a small process beside each arena, which closes what a process held that ended without a word, keeps the
//! guards of connections that outlive their program, and runs the stack while nobody waits. What it does is in
//! `bin/tcpreload/companion`; here is how it is started, and how the family speaks to it.
//!
//! It is nobody's child: a child of a child, which ends at once and which no wait(2) of the program's sees. Both are made on the
//! program's own memory, as vfork makes them, so that a large program is not copied, and the second becomes the program
//! `tcpreload` beside the library, without the library. It has no descriptor but the engine's.
//!
//! One that was killed is found dead by the next call of any process of the family, which starts another. Where it cannot be
//! had (the program file is not there; the family's first process is the first of a PID namespace, and would become
//! its parent), the last process of the family leaves a lingering child behind that finishes what is owed (see `process`).

use crate::environment;
use crate::runtime::Runtime;
use core::ffi::{c_char, c_int, c_void};
use core::ptr::null;
use core::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering, fence};
use core::time::Duration;
use engine::shared::messages::{self, Message, Subject};
use engine::shared::words::{companion as state, sleep};
use engine::sys;
use engine::values::{Endpoint, Instant};
use std::ffi::{CString, OsString};
use std::os::fd::RawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// A companion that lives less than this lives short; after this many of them one after the other no more are started.
const SHORT_US: u64 = 1_000_000;
const SHORT_LIVES: u32 = 10;
/// One that has not come up after this time is looked for.
const COMES_UP_US: u64 = 500_000;
/// A start that was begun by a process which then died is given up after this time.
const PATIENCE_US: u64 = 2_000_000;
/// How long another family's companion has for its answer.
const ANSWER: Duration = Duration::from_millis(500);

/// Sees to it that there is a companion, if there can be one. Loads when there is nothing to do.
pub fn ensure(rt: &Runtime) {
    let words = &rt.words().companion;
    let now = sys::monotonic_now();
    let old = words.state.load(Ordering::Acquire);
    let since = now.us_since(Instant::from_us(words.started_us.load(Ordering::Acquire)));
    let due = match old {
        state::NONE => true,
        state::STARTING => since > PATIENCE_US,
        state::STARTED if words.has_died() => {
            if since > SHORT_US {
                words.short_lives.store(0, Ordering::Release);
            } else if words.short_lives.fetch_add(1, Ordering::AcqRel) >= SHORT_LIVES {
                give_up(rt, "it dies again and again");
                return;
            }
            true
        }
        state::STARTED if words.pid.load(Ordering::Acquire) == 0 && since > COMES_UP_US => {
            // Finds out whether anybody has its socket.
            let _ = connected(rt);
            return;
        }
        _ => false,
    };
    if !due
        || words.state.compare_exchange(old, state::STARTING, Ordering::AcqRel, Ordering::Relaxed).is_err()
    {
        return;
    }
    words.started_us.store(now.as_us(), Ordering::Release);
    words.pid.store(0, Ordering::Release);
    words.generation.fetch_add(1, Ordering::AcqRel);
    if words.life.is_abandoned() {
        // The dead one's: whoever starts the next takes the news.
        words.life.lock();
        words.life.unlock();
    }
    match start(rt) {
        Ok(()) => words.state.store(state::STARTED, Ordering::Release),
        Err(why) => give_up(rt, &why),
    }
    if old == state::STARTED {
        log::info!("the companion was gone, and another was started");
    }
}

/// There will be none.
fn give_up(rt: &Runtime, why: &str) {
    rt.words().companion.state.store(state::UNAVAILABLE, Ordering::Release);
    log::warn!("no companion ({why}): {WITHOUT}");
}

/// Whether it has come up, or still may; for those who are about to rely on it. It has its socket from its start to its end.
pub fn can_be_relied_on(rt: &Runtime) -> bool {
    let words = &rt.words().companion;
    if is_there(rt) && words.pid.load(Ordering::Acquire) == 0 {
        // Says so itself if nobody has the socket.
        let _ = connected(rt);
    }
    is_there(rt)
}

/// The companion that has this process's guards.
static INTRODUCED: AtomicU32 = AtomicU32::new(0);

/// Before every lock: a few loads. If the companion has died, another is started; if there is a new one, it gets the guards.
#[inline]
pub fn look(rt: &Runtime) {
    let words = &rt.words().companion;
    let is_new = words.generation.load(Ordering::Relaxed) != INTRODUCED.load(Ordering::Relaxed);
    if (words.needs_attention() || is_new) && !crate::confined::is_confined() {
        look_after(rt);
    }
}

#[cold]
fn look_after(rt: &Runtime) {
    let words = &rt.words().companion;
    if words.needs_attention() {
        ensure(rt);
    }
    let state = words.state.load(Ordering::Acquire);
    let generation = words.generation.load(Ordering::Acquire);
    if state != state::STARTING
        && INTRODUCED.swap(generation, Ordering::AcqRel) != generation
        && state == state::STARTED
    {
        crate::portguard::introduce(rt);
    }
}

const WITHOUT: &str = "while the program neither waits nor calls nothing is received, and what it has not sent when it is \
                       killed is lost";

/// Whether a companion looks after this family.
pub fn is_there(rt: &Runtime) -> bool {
    let words = &rt.words().companion;
    words.state.load(Ordering::Acquire) == state::STARTED && !words.has_died()
}

/// Rings if the companion sleeps until somebody rings: nobody watches the packet sockets any more.
pub fn nobody_watches(rt: &Runtime) {
    // Behind what made it so: the companion says how it sleeps and then looks, we do it the other way round.
    fence(Ordering::SeqCst);
    if rt.words().companion.sleep.load(Ordering::SeqCst) == sleep::DEEP {
        ring(rt);
    }
}

/// A process has come: the companion is to watch it.
pub fn ring(rt: &Runtime) {
    rt.ring_companion();
}

/// A deadline was set earlier than the one that the companion sleeps for.
pub fn notify_if_earlier(rt: &Runtime, deadline: Option<Instant>) {
    let words = &rt.words().companion;
    if let Some(deadline) = deadline
        && words.sleep.load(Ordering::Acquire) == sleep::WATCHING
        && deadline.as_us() < words.deadline_us.load(Ordering::Acquire)
    {
        words.deadline_us.store(deadline.as_us(), Ordering::Release);
        ring(rt);
    }
}

/// Whether it sleeps until some deadline.
pub fn is_watching(rt: &Runtime) -> bool {
    rt.words().companion.sleep.load(Ordering::Acquire) == sleep::WATCHING
}

/// It looks every few milliseconds whether anybody drives; asked under the lock, without which it does not begin to sleep longer.
pub fn ticks(rt: &Runtime) -> bool {
    let words = &rt.words().companion;
    words.pid.load(Ordering::Acquire) != 0 && words.sleep.load(Ordering::Acquire) == sleep::LIGHT
}

// ---------------------------------------------------------------------------------------------------------------- start

/// What the two children need. Nothing in it is made by them: other threads of the program may be anywhere.
struct Start {
    paths: Vec<CString>,
    argv: Vec<*const c_char>,
    envp: [*const c_char; 1],
    /// What stays open, ascending.
    keep: Vec<RawFd>,
    stack: *mut c_void,
    /// Why it failed; 0: it did not.
    errno: AtomicI32,
}

const STACK_BYTES: usize = 64 * 1024;

fn start(rt: &Runtime) -> Result<(), String> {
    if sys::getpid() == 1 {
        return Err("this is the first process of its PID namespace".to_string());
    }
    let paths = program_paths();
    if paths.is_empty() {
        return Err("it is not known where the library is".to_string());
    }
    let os = |errno: i32| std::io::Error::from_raw_os_error(errno).to_string();
    let words = &rt.words().companion;
    let seed = sys::random_seed();
    let secret = sys::random_seed();
    words.secret[0].store(secret[0], Ordering::Release);
    words.secret[1].store(secret[1], Ordering::Release);
    words.name.store(seed[0], Ordering::Release);
    let listening = messages::listen(seed[0]).map_err(os)?;
    let started = start_with(rt, listening, paths).map_err(os);
    let _ = sys::close(listening);
    started
}

fn start_with(rt: &Runtime, listening: RawFd, paths: Vec<CString>) -> Result<(), i32> {
    let stats = rt.config.stats.as_ref().map(|path| absolute(path.as_bytes())).unwrap_or_default();
    let descriptors = rt.descriptors(listening);
    let args: Vec<CString> = [&b"tcpreload"[..], b"--companion", descriptors.as_bytes(), &stats]
        .into_iter()
        .map(|arg| CString::new(arg).map_err(|_| libc::EINVAL))
        .collect::<Result<_, _>>()?;
    let mut argv: Vec<*const c_char> = args.iter().map(|arg| arg.as_ptr()).collect();
    argv.push(null());
    let mut keep: Vec<RawFd> = rt.own_fds().into_iter().filter(|&fd| fd >= 0 && fd != connection()).collect();
    keep.push(listening);
    keep.sort_unstable();
    let mut stacks = vec![0u128; 2 * STACK_BYTES / 16];
    let at = stacks.as_mut_ptr().cast::<u8>();
    // Stacks grow downwards: each begins at the end of its half.
    let top = |n: usize| at.wrapping_add(n * STACK_BYTES).cast::<c_void>();
    let start = Start { paths, argv, envp: [null()], keep, stack: top(2), errno: AtomicI32::new(0) };
    // Handlers of the program must not run in the children, which share its memory.
    let mask = sys::signal_mask(u64::MAX);
    // A program that takes in orphans would get the companion for a child.
    let reaper = sys::is_subreaper();
    if reaper {
        let _ = sys::prctl(libc::PR_SET_CHILD_SUBREAPER, 0);
    }
    let child = clone_onto(first_child, top(1), &start);
    if let Ok(pid) = child {
        sys::wait_for_clone(pid);
    }
    if reaper {
        let _ = sys::prctl(libc::PR_SET_CHILD_SUBREAPER, 1);
    }
    sys::signal_mask(mask);
    child?;
    match start.errno.load(Ordering::Acquire) {
        0 => Ok(()),
        errno => Err(errno),
    }
}

/// A child on our memory, which has stopped using it when this returns: it has ended or become another program.
fn clone_onto(
    run: extern "C" fn(*mut c_void) -> c_int,
    stack: *mut c_void,
    start: &Start,
) -> Result<i32, i32> {
    // No signal tells of its end, and so no wait of the program's takes it for one of its children.
    let flags = libc::CLONE_VM | libc::CLONE_VFORK;
    let arg = core::ptr::from_ref(start).cast_mut().cast();
    // SAFETY: the function fits, the stack is its own, and what it is given outlives it: this thread waits.
    let pid = unsafe { libc::clone(run, stack, flags, arg) };
    if pid < 0 { Err(crate::errno::get()) } else { Ok(pid) }
}

/// Only there to end, so that its child is nobody's.
extern "C" fn first_child(arg: *mut c_void) -> c_int {
    // SAFETY: the parent waits, and keeps it.
    let start = unsafe { &*arg.cast::<Start>() };
    sys::new_session();
    if let Err(errno) = clone_onto(second_child, start.stack, start) {
        start.errno.store(errno, Ordering::Release);
    }
    0
}

/// Becomes the companion. System calls only.
extern "C" fn second_child(arg: *mut c_void) -> c_int {
    // SAFETY: the parent's parent waits, and keeps it.
    let start = unsafe { &*arg.cast::<Start>() };
    // Descriptors and dispositions are copies, and its own.
    sys::default_signals();
    sys::signal_mask(0);
    let mut from = 0;
    for &fd in &start.keep {
        if from < fd as u32 {
            let _ = sys::close_range(from, fd as u32 - 1, 0);
        }
        let _ = sys::fcntl(fd, libc::F_SETFD, 0);
        from = fd as u32 + 1;
    }
    let _ = sys::close_range(from, u32::MAX, 0);
    let _ = sys::change_directory(c"/");
    let mut errno = libc::ENOENT;
    for path in &start.paths {
        // SAFETY: both arrays end with a null pointer.
        errno = unsafe { sys::execve(path, start.argv.as_ptr(), start.envp.as_ptr()) };
    }
    start.errno.store(errno, Ordering::Release);
    1
}

/// Where the program may be: where the launcher says (TCPRELOAD_COMPANION), beside the library, in ../bin of its directory.
pub fn program_paths() -> Vec<CString> {
    let mut paths = Vec::new();
    if let Some(named) = std::env::var_os("TCPRELOAD_COMPANION").filter(|v| !v.is_empty()) {
        paths.push(named);
    }
    if let Some(library) = environment::own_path() {
        let library = library.to_bytes();
        let directory = &library[..library.iter().rposition(|&b| b == b'/').unwrap_or(0)];
        for place in [&b"/tcpreload"[..], b"/../bin/tcpreload"] {
            paths.push(OsString::from_vec([directory, place].concat()));
        }
    }
    paths.into_iter().filter_map(|path| CString::new(path.as_bytes()).ok()).collect()
}

/// The companion runs in another directory.
fn absolute(path: &[u8]) -> Vec<u8> {
    match std::env::current_dir() {
        Ok(here) if !path.starts_with(b"/") => [here.as_os_str().as_bytes(), b"/", path].concat(),
        _ => path.to_vec(),
    }
}

// ------------------------------------------------------------------------------------------------------------- messages

/// This process's connection: `generation << 32 | descriptor + 1`. Children inherit it; messages are whole.
static CONNECTION: AtomicU64 = AtomicU64::new(0);

/// The descriptor of the connection; -1: none.
pub fn connection() -> RawFd {
    CONNECTION.load(Ordering::Acquire) as u32 as RawFd - 1
}

/// The connection to the present companion, made if it has to be.
fn connected(rt: &Runtime) -> Result<RawFd, i32> {
    let words = &rt.words().companion;
    let generation = words.generation.load(Ordering::Acquire);
    let known = CONNECTION.load(Ordering::Acquire);
    if known != 0 && (known >> 32) as u32 == generation {
        return Ok(known as u32 as RawFd - 1);
    }
    let fd = match messages::connect(words.name.load(Ordering::Acquire)) {
        Err(libc::ECONNREFUSED) if words.pid.load(Ordering::Acquire) == 0 => {
            // It was killed before it was there.
            return if start_again(rt) { connected(rt) } else { Err(libc::ECONNREFUSED) };
        }
        other => sys::move_high(other?)?,
    };
    let new = u64::from(generation) << 32 | (fd as u64 + 1);
    if CONNECTION.compare_exchange(known, new, Ordering::AcqRel, Ordering::Acquire).is_err() {
        let _ = sys::close(fd);
        return connected(rt);
    }
    crate::fdtable::set_engine(fd);
    if known != 0 {
        crate::fdtable::take(known as u32 as RawFd - 1);
        let _ = sys::close(known as u32 as RawFd - 1);
    }
    Ok(fd)
}

/// One that has not come up is given up, and another started. False: there is none.
fn start_again(rt: &Runtime) -> bool {
    let words = &rt.words().companion;
    let started =
        words.state.compare_exchange(state::STARTED, state::NONE, Ordering::AcqRel, Ordering::Acquire);
    if started.is_ok() {
        if words.short_lives.fetch_add(1, Ordering::AcqRel) >= SHORT_LIVES {
            give_up(rt, "it does not come up");
        } else {
            ensure(rt);
        }
    }
    is_there(rt)
}

/// How often the companion is rung for to make room in its queue, and how long it has each time.
const ATTEMPTS: usize = 500;
const MAKES_ROOM: Duration = Duration::from_micros(200);

/// Sends a message of this family's, if there is room in the companion's queue. Nobody is woken for it: the companion finds it
/// when it looks next.
///
/// # Errors
/// EAGAIN, ETOOMANYREFS: there is no room. Else: there is no companion, or this process cannot reach it (another network
/// namespace).
pub fn try_send(rt: &Runtime, message: Message, fds: &[RawFd]) -> Result<(), i32> {
    if !is_there(rt) {
        return Err(libc::ECONNREFUSED);
    }
    let message = Message { secret: rt.words().companion.secret(), ..message };
    message.send(connected(rt)?, fds)
}

/// As [`try_send`], and waits for room: never while the lock is held, which the companion needs to make some.
///
/// # Errors
/// As [`try_send`]; EAGAIN when the companion has not made room for a long time (it was stopped).
pub fn send(rt: &Runtime, message: Message, fds: &[RawFd]) -> Result<(), i32> {
    for _ in 0..ATTEMPTS {
        match try_send(rt, message, fds) {
            Err(libc::EAGAIN | libc::ETOOMANYREFS) => {
                ring(rt);
                let _ = sys::ppoll(&mut [], Some(MAKES_ROOM), None);
            }
            other => return other,
        }
    }
    Err(libc::EAGAIN)
}

/// The answer to a question, on a connection of its own.
fn ask(name: u64, question: Message, wait: Duration) -> Result<(RawFd, Message, Vec<RawFd>), i32> {
    ask_over(messages::connect(name)?, question, &[], wait)
}

/// The answer to a question over the connection `fd`, which is closed where there is none.
fn ask_over(
    fd: RawFd,
    question: Message,
    fds: &[RawFd],
    wait: Duration,
) -> Result<(RawFd, Message, Vec<RawFd>), i32> {
    let answer = question.send(fd, fds).and_then(|()| {
        let mut fds = [libc::pollfd { fd, events: libc::POLLIN, revents: 0 }];
        let end = sys::monotonic_now().plus_us(wait.as_micros() as u64);
        while let left @ 1.. = end.us_since(sys::monotonic_now()) {
            match sys::ppoll(&mut fds, Some(Duration::from_micros(left)), None) {
                Ok(0) | Err(libc::EINTR) => continue,
                _ => break,
            }
        }
        messages::receive(fd)?.ok_or(libc::ECONNRESET)
    });
    match answer {
        Ok((message, fds)) => Ok((fd, message, fds)),
        Err(errno) => {
            let _ = sys::close(fd);
            Err(errno)
        }
    }
}

/// A guard that another family has given up for this one.
pub struct Given {
    pub guard: RawFd,
    pub local: Endpoint,
    /// Stands as long as that family goes on with connections of the port.
    pub connection: RawFd,
}

/// Has our own companion drop the guards that nothing needs any more: when this returns, they are gone.
pub fn drop_guards(rt: &Runtime) {
    let words = &rt.words().companion;
    if is_there(rt) {
        let question = Message { secret: words.secret(), ..Message::new(Subject::Give) };
        if let Ok((connection, _, _)) = ask(words.name.load(Ordering::Acquire), question, ANSWER) {
            let _ = sys::close(connection);
        }
    }
}

/// The kernel says that `local` is in use, and no guard of ours is: asks the companions of other families whether theirs is,
/// and whether they need it.
pub fn ask_others_for_guard(rt: &Runtime, local: Endpoint, reuse_addr: bool) -> Option<Given> {
    let own = rt.words().companion.name.load(Ordering::Acquire);
    let question = Message { local, flag: reuse_addr, ..Message::new(Subject::Give) };
    for name in names().into_iter().filter(|&name| name != own) {
        let Ok((connection, answer, fds)) = ask(name, question, ANSWER) else { continue };
        if answer.subject == Subject::Given
            && let [guard] = fds[..]
        {
            return Some(Given { guard, local: answer.local, connection });
        }
        fds.into_iter().chain([connection]).for_each(|fd| sys::close(fd).unwrap_or(()));
    }
    None
}

/// The companions of this network namespace.
fn names() -> Vec<u64> {
    let mut text = Vec::new();
    if let Ok(fd) = sys::open(c"/proc/thread-self/net/unix", libc::O_RDONLY | libc::O_CLOEXEC) {
        let mut part = [0; 16 * 1024];
        while let Ok(n @ 1..) = sys::read(fd, &mut part) {
            text.extend_from_slice(&part[..n]);
        }
        let _ = sys::close(fd);
    }
    let mut names: Vec<u64> = String::from_utf8_lossy(&text)
        .lines()
        .filter_map(|line| line.split_once(&format!("@{}", messages::NAME)))
        .filter_map(|(_, number)| u64::from_str_radix(number.get(..16)?, 16).ok())
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

// ------------------------------------------------------------------------------------------------------------ families

/// What a new program image finds in its environment when sockets of ours survive the exec: TCPRELOAD_FAMILY.
pub struct FamilyName {
    name: u64,
    secret: [u64; 2],
    /// SO_COOKIE of the sockets that survive, or of the first of them.
    pub cookies: Vec<u64>,
}

pub const FAMILY: &str = "TCPRELOAD_FAMILY";

/// More survivors than this are not listed: one is enough to know that there are some.
const LISTED: usize = 16;

impl FamilyName {
    pub fn of(rt: &Runtime, mut cookies: Vec<u64>) -> FamilyName {
        let words = &rt.words().companion;
        cookies.truncate(LISTED);
        FamilyName { name: words.name.load(Ordering::Acquire), secret: words.secret(), cookies }
    }

    pub fn to_text(&self) -> String {
        let cookies: Vec<String> = self.cookies.iter().map(|c| format!("{c:x}")).collect();
        format!("{:x}:{:x}:{:x}:{}", self.name, self.secret[0], self.secret[1], cookies.join(","))
    }

    pub fn parse(text: &str) -> Option<FamilyName> {
        let mut parts = text.split(':');
        let mut number = || u64::from_str_radix(parts.next()?, 16).ok();
        let (name, secret) = (number()?, [number()?, number()?]);
        let cookies =
            parts.next()?.split(',').map(|c| u64::from_str_radix(c, 16).ok()).collect::<Option<_>>()?;
        Some(FamilyName { name, secret, cookies })
    }

    /// What a process of the family has to have.
    ///
    /// # Errors
    /// The errno: its companion is gone, or does not know us.
    pub fn attach(&self) -> Result<Belongings, i32> {
        let question = Message { secret: self.secret, ..Message::new(Subject::Attach) };
        Belongings::of(ask(self.name, question, ANSWER * 4)?)
    }
}

/// What a process of a family has to have.
pub struct Belongings {
    /// Arena, rings, those to send through, eventfds.
    pub fds: Vec<RawFd>,
    /// How many rings there are.
    pub rings: usize,
    pub has_ipv6: bool,
}

impl Belongings {
    fn of((connection, answer, fds): (RawFd, Message, Vec<RawFd>)) -> Result<Belongings, i32> {
        let _ = sys::close(connection);
        if answer.subject != Subject::Attached {
            fds.into_iter().for_each(|fd| sys::close(fd).unwrap_or(()));
            return Err(libc::EPERM);
        }
        Ok(Belongings { fds, rings: answer.id as usize, has_ipv6: answer.flag })
    }

    /// Those of the family that one of the sockets is of. Anybody may call himself a companion: what is said by another user than
    /// our own, or root, is not asked for.
    pub fn claim(sockets: &[RawFd]) -> Option<Belongings> {
        let ask_one = |name| {
            let connection = messages::connect(name)?;
            if !messages::is_ours_or_roots(connection) {
                let _ = sys::close(connection);
                return Err(libc::EPERM);
            }
            Belongings::of(ask_over(connection, Message::new(Subject::Claim), sockets, ANSWER)?)
        };
        names().into_iter().find_map(|name| ask_one(name).ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_family_is_text() {
        let name = FamilyName { name: u64::MAX, secret: [0, 7], cookies: vec![1, 0xabc] };
        let text = name.to_text();
        let read = FamilyName::parse(&text).unwrap();
        assert_eq!((read.name, read.secret, read.cookies), (u64::MAX, [0, 7], vec![1, 0xabc]));
        assert!(FamilyName::parse("1:2:3:").is_none() && FamilyName::parse("nonsense").is_none());
    }
}
