//! `tcpreload --relay PATH ARGV0 ARGS...`: what the library starts in the place of a program that is handed connections of ours and
//! cannot be preloaded.
//!
//! It is preloaded itself, so that its own calls work on those connections. For each connection on descriptor 0, 1 or 2 it makes a
//! pair of Unix sockets, leaves a relay process behind that carries bytes between the connection and one end of the pair ([`pump`]),
//! puts the other end in the connection's place, and becomes the program. A listener is replaced by a socket that does not
//! listen: accept(2) fails there, where it would wait for ever.
//!
//! The program's process is this one, so it must look as the program's parent left it: nothing of Rust's start is left (SIGPIPE,
//! closed standard descriptors), and the relay is nobody's child that a wait(2) of the program's would see.

mod pump;

use crate::{EXIT_LAUNCHER, program};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use engine::shared::relay::PHASE;
use engine::stack::SocketPhase;
use engine::sys;
use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;

/// The argument that starts it.
pub const ARGUMENT: &str = "--relay";

/// The library sets it where the program was to be started with an empty LD_PRELOAD.
const OFF: &str = "TCPRELOAD_RELAY_OFF";

pub fn run(args: &[OsString]) -> ExitCode {
    let [_, _, path, argv @ ..] = args else {
        say(&format!("{ARGUMENT} is the library's"));
        return ExitCode::from(EXIT_LAUNCHER);
    };
    for socket in handed() {
        match socket.phase {
            Phase::Connected => relay(&socket),
            Phase::Listening => deafen(&socket),
        }
    }
    become_program(path, argv)
}

/// On standard error, which may be the connection.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "tcpreload: {text}");
}

// ------------------------------------------------------------------------------------------------------------ the sockets

#[derive(PartialEq, Eq)]
enum Phase {
    Connected,
    Listening,
}

/// A socket of ours and the numbers that it has.
struct Handed {
    numbers: Vec<RawFd>,
    cookie: u64,
    phase: Phase,
}

/// Connections among the standard descriptors, and listeners.
fn handed() -> Vec<Handed> {
    let mut all: Vec<Handed> = Vec::new();
    for fd in open_descriptors() {
        let phase = match phase(fd) {
            Some(n) if n == SocketPhase::Listening as i32 => Phase::Listening,
            Some(n) if n != SocketPhase::Unconnected as i32 && fd <= 2 => Phase::Connected,
            _ => continue,
        };
        let Ok(cookie) = sys::socket_cookie(fd) else { continue };
        match all.iter_mut().find(|one| one.cookie == cookie) {
            Some(one) => one.numbers.push(fd),
            None => all.push(Handed { numbers: vec![fd], cookie, phase }),
        }
    }
    all
}

fn open_descriptors() -> Vec<RawFd> {
    let entries = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let mut all: Vec<RawFd> = entries.filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
    all.extend(0..=2);
    all.sort_unstable();
    all.dedup();
    all
}

/// What the library says of a socket; `None`: it is none of ours.
fn phase(fd: RawFd) -> Option<i32> {
    let (mut phase, mut len) = (0i32, size_of::<i32>() as libc::socklen_t);
    // SAFETY: the number and its length are locals.
    let answer = unsafe {
        libc::getsockopt(fd, engine::shared::relay::LEVEL, PHASE, (&raw mut phase).cast(), &raw mut len)
    };
    (answer == 0).then_some(phase)
}

/// Puts a socket that does not listen in the place of a listener.
fn deafen(listener: &Handed) {
    let mut domain = [0; 4];
    let _ = sys::getsockopt(listener.numbers[0], libc::SOL_SOCKET, libc::SO_DOMAIN, &mut domain);
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
    let Ok(deaf) = sys::socket(i32::from_ne_bytes(domain), kind, 0) else { return };
    copy_flags(listener.numbers[0], deaf);
    listener.numbers.iter().for_each(|&number| put(deaf, number));
    close(deaf);
}

/// Makes a relay for a connection, and puts the program's end in its place.
fn relay(connection: &Handed) {
    let Some([program, relay]) = pair() else { return };
    copy_flags(connection.numbers[0], program);
    if !start(connection.numbers[0], program, relay) {
        // The program finds the end of its data, which is better than a socket that was never connected.
        say(&format!("no relay could be started ({})", std::io::Error::last_os_error()));
    }
    close(relay);
    connection.numbers.iter().for_each(|&number| put(program, number));
    close(program);
    // Behind the last close: one of any descriptor gives the lock up, and so does the end of the program.
    lock(connection.numbers[0], libc::F_SETLK);
}

fn pair() -> Option<[RawFd; 2]> {
    let mut ends = [-1; 2];
    // SAFETY: room for two descriptors.
    let made = unsafe {
        libc::socketpair(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0, ends.as_mut_ptr())
    };
    (made == 0).then_some(ends)
}

fn copy_flags(from: RawFd, to: RawFd) {
    if let Ok(flags) = sys::fcntl(from, libc::F_GETFL, 0) {
        let _ = sys::fcntl(to, libc::F_SETFL, flags & libc::O_NONBLOCK as usize);
    }
}

fn put(fd: RawFd, number: RawFd) {
    // SAFETY: numbers only.
    unsafe { libc::dup2(fd, number) };
}

fn close(fd: RawFd) {
    // SAFETY: a descriptor that nothing else uses.
    unsafe { libc::close(fd) };
}

/// A lock on a whole file (fcntl(2)). A process has it until it closes a descriptor of the file, or ends; an exec keeps it.
fn lock(fd: RawFd, command: i32) -> bool {
    // SAFETY: all zero is a value of it: from the first byte to the last.
    let mut whole: libc::flock = unsafe { core::mem::zeroed() };
    whole.l_type = libc::F_WRLCK as libc::c_short;
    // SAFETY: the struct is a local.
    unsafe { libc::fcntl(fd, command, &raw const whole) != -1 }
}

// -------------------------------------------------------------------------------------------------------------- the relay

/// Starts the relay process. It begins when the exec closes a pipe that is left open here.
fn start(connection: RawFd, program: RawFd, relay: RawFd) -> bool {
    let (mut go, mut ready) = ([-1; 2], [-1; 2]);
    if sys::pipe(&mut go).is_err() || sys::pipe(&mut ready).is_err() {
        return false;
    }
    // A program that takes in orphans would get the relay for a child.
    let reaper = sys::is_subreaper();
    if reaper {
        let _ = sys::prctl(libc::PR_SET_CHILD_SUBREAPER, 0);
    }
    // SAFETY: this process has one thread.
    let child = unsafe { libc::fork() };
    if child == 0 {
        sys::new_session();
        // SAFETY: the same.
        if unsafe { libc::fork() } == 0 {
            close(go[1]);
            close(ready[0]);
            pump::run(pump::Ends { connection, program, relay, go: go[0], ready: ready[1] });
        }
        // SAFETY: ends the process.
        unsafe { libc::_exit(0) };
    }
    if child > 0 {
        take_child(child);
    }
    if reaper {
        let _ = sys::prctl(libc::PR_SET_CHILD_SUBREAPER, 1);
    }
    close(go[0]);
    close(ready[1]);
    let up = child > 0 && matches!(sys::read(ready[0], &mut [0]), Ok(1));
    close(ready[0]);
    up
}

/// Waits for the child, and takes back the signal that has told of its end.
fn take_child(child: i32) {
    // SAFETY: nobody asks for the status; where SIGCHLD is ignored the wait still waits.
    while unsafe { libc::waitpid(child, core::ptr::null_mut(), 0) } == -1
        && std::io::Error::last_os_error().kind() == std::io::ErrorKind::Interrupted
    {}
    // SAFETY: dispositions without handlers.
    unsafe {
        let before = libc::signal(libc::SIGCHLD, libc::SIG_IGN);
        libc::signal(libc::SIGCHLD, before);
    }
}

// ------------------------------------------------------------------------------------------------------------ the program

/// How this process was started, before Rust's runtime changed it.
static IGNORES_SIGPIPE: AtomicBool = AtomicBool::new(false);
static CLOSED: AtomicU32 = AtomicU32::new(0);

#[used]
#[unsafe(link_section = ".init_array")]
static AT_START: extern "C" fn() = look;

extern "C" fn look() {
    // SAFETY: all zero is a value of it, and it is a local.
    unsafe {
        let mut action: libc::sigaction = core::mem::zeroed();
        libc::sigaction(libc::SIGPIPE, core::ptr::null(), &raw mut action);
        IGNORES_SIGPIPE.store(action.sa_sigaction == libc::SIG_IGN, Ordering::Relaxed);
    }
    for fd in 0..=2 {
        if sys::fcntl(fd, libc::F_GETFD, 0).is_err() {
            CLOSED.fetch_or(1 << fd, Ordering::Relaxed);
        }
    }
}

/// Whether it is not a program but a text, for a shell to read.
fn is_text(path: &Path) -> bool {
    let mut head = [0; 4];
    File::open(path).is_ok_and(|mut file| file.read_exact(&mut head).is_err() || head != *b"\x7fELF")
}

fn become_program(path: &OsString, argv: &[OsString]) -> ExitCode {
    let needs_none = program::check(Path::new(path)).is_err_and(|why| why == program::MUSL);
    let is_text = is_text(Path::new(path));
    let text = |word: &OsString| CString::new(word.as_bytes()).unwrap_or_default();
    let path = text(path);
    let argv: Vec<CString> = argv.iter().map(text).collect();
    let mut pointers: Vec<*const libc::c_char> = argv.iter().map(|word| word.as_ptr()).collect();
    pointers.push(core::ptr::null());
    if needs_none || std::env::var_os(OFF).is_some() {
        // SAFETY: this process has one thread.
        unsafe {
            std::env::remove_var(OFF);
            std::env::set_var("LD_PRELOAD", "");
        }
    }
    for fd in (0..=2).filter(|fd| CLOSED.load(Ordering::Relaxed) & 1 << fd != 0) {
        close(fd);
    }
    let pipe = if IGNORES_SIGPIPE.load(Ordering::Relaxed) { libc::SIG_IGN } else { libc::SIG_DFL };
    // SAFETY: a disposition without a handler; strings, and arrays of them that end with a null.
    unsafe {
        libc::signal(libc::SIGPIPE, pipe);
        libc::execv(path.as_ptr(), pointers.as_ptr());
        if std::io::Error::last_os_error().raw_os_error() == Some(libc::ENOEXEC) && is_text {
            // A file without `#!` is given to the shell. With a slash in it, it is not searched for.
            libc::execvp(path.as_ptr(), pointers.as_ptr());
        }
    }
    let error = std::io::Error::last_os_error();
    say(&format!("{}: {error}", path.to_string_lossy()));
    ExitCode::from(if error.kind() == std::io::ErrorKind::NotFound {
        crate::EXIT_NOT_FOUND
    } else {
        crate::EXIT_CANNOT_RUN
    })
}
