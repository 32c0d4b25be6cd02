//! Connections that are handed to a program which cannot be preloaded: statically linked, Go, musl, set-user-ID, or started with
//! `LD_PRELOAD=`. It would find a kernel socket that is not connected.
//!
//! In its place `tcpreload --relay` is started, which finds the connection on descriptor 0, 1 or 2, leaves a relay process behind, and
//! becomes that program with a Unix socket there; see `bin/tcpreload/relay`. What is here is the decision, and the order between
//! the relay and others that hold the connection: before one of them reads, writes or shuts it down, the relay has done what it
//! owes ([`settle`]).

use crate::companion;
use crate::environment;
use crate::errno::{Errno, Outcome};
use crate::program::{self, Lookup};
use crate::runtime::Runtime;
use core::ffi::{CStr, c_char, c_int};
use core::ptr::null;
use core::sync::atomic::{AtomicBool, Ordering};
use engine::shared::relay::{self, Question, RelayWords};
use engine::stack::{SockId, SocketPhase};
use engine::sys;
use std::ffi::{CString, OsStr};
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

// ------------------------------------------------------------------------------------------------------------- the order

/// Before somebody else than a relay uses this connection. A load, where the family has no relays.
///
/// # Errors
/// EINTR, while the connection has no room for what was written.
#[inline]
pub fn settle(rt: &Runtime, id: SockId, question: Question) -> Outcome<()> {
    if rt.words().relays.any() { ask(rt, id, question) } else { Ok(()) }
}

#[cold]
fn ask(rt: &Runtime, id: SockId, question: Question) -> Outcome<()> {
    let relays = &rt.words().relays;
    // A process under seccomp may not ask. A relay that asked another one could be asked by it.
    if crate::confined::is_confined() || is_relay(relays) {
        return Ok(());
    }
    let nonblocking = rt.lock()?.stack().options(id).is_some_and(|o| o.nonblocking);
    let question = if nonblocking && question == Question::Written { Question::WrittenNow } else { question };
    for one in relays.of(id) {
        loop {
            match relay::ask(one.name, question) {
                Ok(()) => {}
                Err(libc::EINTR) if question == Question::Written => return Err(Errno(libc::EINTR)),
                Err(libc::EINTR) => continue,
                Err(libc::ECONNREFUSED) => relays.forget(one),
                Err(errno) => log::warn!("a relay: {}", std::io::Error::from_raw_os_error(errno)),
            }
            break;
        }
    }
    Ok(())
}

fn is_relay(relays: &RelayWords) -> bool {
    let me = sys::getpid() as u32;
    relays.all().any(|relay| relay.pid == me)
}

/// setsockopt at the relays' own level.
pub fn set_option(rt: &Runtime, id: SockId, name: c_int, value: u64) -> Outcome<i32> {
    if name != relay::RELAYED {
        return Err(Errno(libc::ENOPROTOOPT));
    }
    let (relays, me) = (&rt.words().relays, sys::getpid() as u32);
    if value == 0 {
        relays.of(id).filter(|one| one.pid == me).for_each(|one| relays.forget(one));
        return Ok(0);
    }
    if relays.note(id, value, me) {
        return Ok(0);
    }
    // Those that were killed are still there.
    relays.sweep(|pid| sys::process_lives(pid as i32));
    if relays.note(id, value, me) { Ok(0) } else { Err(Errno(libc::ENOSPC)) }
}

/// getsockopt at that level: what this socket is.
pub fn option(rt: &Runtime, id: SockId, name: c_int) -> Outcome<c_int> {
    if name != relay::PHASE {
        return Err(Errno(libc::ENOPROTOOPT));
    }
    STARTED_BY_US.store(true, Ordering::Relaxed);
    Ok(rt.lock()?.stack().phase(id) as c_int)
}

// ---------------------------------------------------------------------------------------------------------- the decision

/// This is `tcpreload --relay`, which execs as it means to.
static STARTED_BY_US: AtomicBool = AtomicBool::new(false);

/// Whether a socket that a program is started with, under that number, is one to be looked after: a connection as a standard
/// descriptor, or a listener, which as a kernel socket would let accept(2) wait for ever.
pub fn concerns(number: RawFd, phase: SocketPhase) -> bool {
    match phase {
        SocketPhase::Connected | SocketPhase::Connecting => (0..=2).contains(&number),
        SocketPhase::Listening => true,
        SocketPhase::Unconnected => false,
    }
}

/// How an exec names its program.
#[derive(Clone, Copy)]
pub enum Door<'a> {
    Path(&'a CStr),
    /// Searched for in PATH, where it has no slash.
    File(&'a CStr),
    Open(RawFd),
    /// Below an open directory.
    Under(RawFd, &'a CStr),
}

impl Door<'_> {
    /// The file that will be executed. `None`: there is none, and the exec will say so.
    fn file(self) -> Option<PathBuf> {
        let as_path = |path: &CStr| PathBuf::from(OsStr::from_bytes(path.to_bytes()));
        let path = match self {
            Door::File(name) => match program::find(OsStr::from_bytes(name.to_bytes())) {
                Lookup::Found(path) => path,
                _ => return None,
            },
            Door::Path(path) => as_path(path),
            Door::Under(_, path) if path.to_bytes().starts_with(b"/") => as_path(path),
            Door::Under(libc::AT_FDCWD, path) => as_path(path),
            Door::Under(directory, path) => behind(directory)?.join(as_path(path)),
            Door::Open(fd) => behind(fd)?,
        };
        // What has no slash would be searched for.
        let path = if path.as_os_str().as_bytes().contains(&b'/') { path } else { Path::new(".").join(path) };
        match program::find(path.as_os_str()) {
            Lookup::Found(path) => Some(path),
            Lookup::NotFound => None,
            Lookup::NotExecutable(why) => {
                log::debug!("{}: {why}", path.display());
                None
            }
        }
    }
}

/// What is open as `fd`, by a name that is good in the next program as well.
fn behind(fd: RawFd) -> Option<PathBuf> {
    use std::os::unix::fs::MetadataExt;
    let link = PathBuf::from(format!("/proc/self/fd/{fd}"));
    let named = std::fs::read_link(&link).ok()?;
    let (open, there) = (link.metadata().ok()?, named.metadata());
    if there.is_ok_and(|there| (there.dev(), there.ino()) == (open.dev(), open.ino())) {
        return Some(named);
    }
    // A file without a name: a descriptor that stays open.
    let stays = sys::fcntl(fd, libc::F_DUPFD, 3).ok()?;
    Some(PathBuf::from(format!("/proc/self/fd/{stays}")))
}

/// What is started in a program's place.
pub struct Detour {
    /// Where `tcpreload` may be.
    paths: Vec<CString>,
    /// `--relay`, and what follows it.
    words: Vec<*const c_char>,
    _file: CString,
}

#[cfg(target_arch = "x86_64")]
const LOADER: &CStr = c"/lib64/ld-linux-x86-64.so.2";
#[cfg(target_arch = "aarch64")]
const LOADER: &CStr = c"/lib/ld-linux-aarch64.so.1";

impl Detour {
    /// Tries one place after the other, until `start` gives 0.
    ///
    /// # Errors
    /// The errno of the last.
    pub fn start(&self, mut start: impl FnMut(&CStr, *const *const c_char) -> c_int) -> Result<(), i32> {
        let mut failure = libc::ENOENT;
        for path in &self.paths {
            let place = Path::new(OsStr::from_bytes(path.to_bytes()));
            let mut argv = vec![c"tcpreload".as_ptr()];
            // With capabilities of its own (setcap) it would not be preloaded: those count for what is executed, not for
            // what a loader loads.
            let is_secure = program::check(place).is_err();
            if is_secure {
                argv.push(path.as_ptr());
            }
            argv.extend(&self.words);
            failure = start(if is_secure { LOADER } else { path }, argv.as_ptr());
            if failure == 0 {
                return Ok(());
            }
        }
        Err(failure)
    }
}

/// A program is about to be started with sockets of ours that [`concerns`] names; `None`: it can be preloaded.
///
/// # Safety
/// `argv` and `envp` are null, or arrays of strings with a null at their end.
pub unsafe fn detour(door: Door, argv: *const *const c_char, envp: *const *const c_char) -> Option<Detour> {
    if STARTED_BY_US.load(Ordering::Relaxed) || crate::confined::is_confined() {
        return None;
    }
    let file = door.file()?;
    // SAFETY: as the caller vouches for.
    let is_off = unsafe { environment::is_switched_off(envp) };
    let why = match program::check(&file) {
        Err(why) => why,
        Ok(()) if is_off => "it is started with LD_PRELOAD=".to_string(),
        Ok(()) => return None,
    };
    log::warn!(
        "{} gets sockets of ours and cannot be preloaded ({why}): its standard descriptors are relayed",
        file.display()
    );
    let file = CString::new(file.into_os_string().as_bytes()).ok()?;
    let mut words = vec![c"--relay".as_ptr(), file.as_ptr()];
    // SAFETY: as the caller vouches for.
    words.extend(unsafe { environment::strings(argv) }.iter().map(|word| word.as_ptr()));
    words.push(null());
    Some(Detour { paths: companion::program_paths(), words, _file: file })
}

/// A program is about to be started with other connections of ours. Said once.
pub fn tell_of_others(door: Door) {
    static TOLD: AtomicBool = AtomicBool::new(false);
    if log::log_enabled!(log::Level::Warn)
        && !STARTED_BY_US.load(Ordering::Relaxed)
        && let Some(file) = door.file()
        && let Err(why) = program::check(&file)
        && !TOLD.swap(true, Ordering::Relaxed)
    {
        log::warn!(
            "{} cannot be preloaded ({why}): connections of ours above descriptor 2 are not connected in it",
            file.display()
        );
    }
}

/// `tcpreload` could not be started in a program's place.
pub fn tell_of_failure(errno: i32) {
    log::warn!(
        "no relay ({}): the program finds sockets that are not connected",
        std::io::Error::from_raw_os_error(errno)
    );
}
