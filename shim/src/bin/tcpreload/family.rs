//! Running programs that were started with the library: families that share a stack, and processes without one.
//!
//! A stack is a memfd by the name `tcpreload`; every process that shares it has it open, so /proc/PID/fd finds it, and its
//! inode tells two of them apart. A process that has the library loaded, or was meant to, but has no stack, runs its TCP on
//! the kernel.

use crate::companion::ARGUMENT;
use crate::program;
use engine::shared::Inspector;
use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What readlink says of the arena's descriptor.
const ARENA_LINK: &str = "/memfd:tcpreload (deleted)";

const LIBRARY: &str = "libtcpreload.so";

/// Bit of CAP_NET_RAW in the masks of /proc/PID/status.
const CAP_NET_RAW: u64 = 1 << 13;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pub pid: i32,
    pub name: String,
}

/// Processes that share one stack; none, where they have ended and connections of theirs have not.
pub struct Family {
    pub inspector: Inspector,
    pub processes: Vec<Process>,
}

/// A process that is meant to be served by this stack and is not, with the reason.
pub struct Stranger {
    pub process: Process,
    pub reason: String,
}

#[derive(Default)]
pub struct Found {
    pub families: Vec<Family>,
    pub strangers: Vec<Stranger>,
    /// Stacks that could not be opened, with the reason.
    pub closed: Vec<String>,
}

impl Found {
    /// Says on stderr which stacks are there but could not be looked into.
    pub fn complain(&self) {
        for why in &self.closed {
            eprintln!("tcpreload: {why}");
        }
    }

    /// The answer where a process was named that has nothing to show.
    pub fn no_stack(&self, pid: Option<i32>) -> ExitCode {
        if let (Some(pid), true) = (pid, self.closed.is_empty()) {
            let why = match self.strangers.first() {
                Some(stranger) => format!("TCP runs on the kernel: {}", stranger.reason),
                None if Path::new(&format!("/proc/{pid}")).exists() => {
                    "not started by tcpreload, or another user's".to_string()
                }
                None => "no such process".to_string(),
            };
            eprintln!("tcpreload: {pid}: {why}");
        }
        ExitCode::FAILURE
    }
}

/// Looks through /proc: with `pid` for the family of that process, else, like ss(8) and nstat(8), in this network namespace.
pub fn find(pid: Option<i32>) -> Found {
    let here = network_of("self");
    let mut found = Found::default();
    let mut arenas: BTreeMap<(u64, u64), (PathBuf, Vec<Process>)> = BTreeMap::new();
    for process in processes() {
        if pid.is_none() && network_of(&process.pid.to_string()) != here {
            continue;
        }
        match arena_of(process.pid) {
            Some((key, path)) => {
                let processes = &mut arenas.entry(key).or_insert((path, Vec::new())).1;
                // It has descriptors of what others serve, and serves nothing itself.
                if !is_companion(process.pid) {
                    processes.push(process);
                }
            }
            None if pid.is_none_or(|pid| pid == process.pid) => {
                found.strangers.extend(reason(process.pid).map(|reason| Stranger { process, reason }));
            }
            None => {}
        }
    }
    for (path, processes) in arenas.into_values() {
        if pid.is_some_and(|pid| processes.iter().all(|p| p.pid != pid)) {
            continue;
        }
        match open(&path) {
            Ok(inspector) => found.families.push(Family { inspector, processes }),
            Err(why) => found.closed.push(match processes.first() {
                Some(process) => format!("{} (pid {}): {why}", process.name, process.pid),
                None => format!("a program that has ended: {why}"),
            }),
        }
    }
    found
}

fn open(path: &Path) -> Result<Inspector, String> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|e| e.to_string())?;
    Inspector::open(&path).map_err(|e| e.to_string())
}

/// The companion of a family.
fn is_companion(pid: i32) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|&b| b == 0).nth(1) == Some(ARGUMENT.as_bytes())
}

/// The network namespace of a process, where this user may know it.
fn network_of(process: &str) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{process}/ns/net")).ok()
}

fn processes() -> impl Iterator<Item = Process> {
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let name = fs::read_to_string(entry.path().join("comm")).ok()?;
        Some(Process { pid, name: name.trim_end().to_string() })
    })
}

/// The arena that a process has open: device and inode, and a path to it.
fn arena_of(pid: i32) -> Option<((u64, u64), PathBuf)> {
    fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten().map(|entry| entry.path()).find_map(|path| {
        if fs::read_link(&path).ok()? != Path::new(ARENA_LINK) {
            return None;
        }
        let file = fs::metadata(&path).ok()?;
        Some(((file.dev(), file.ino()), path))
    })
}

/// Why a process that has no stack has none; `None` for a process that was never meant to have one.
fn reason(pid: i32) -> Option<String> {
    let loaded = contains(&format!("/proc/{pid}/maps"), LIBRARY);
    if !loaded {
        if !contains(&format!("/proc/{pid}/environ"), LIBRARY) {
            return None;
        }
        return program::check(Path::new(&format!("/proc/{pid}/exe"))).err();
    }
    let raw = effective_capabilities(pid).is_some_and(|set| set & CAP_NET_RAW != 0);
    Some(if raw { "no stack made" } else { "no CAP_NET_RAW" }.to_string())
}

fn contains(path: &str, text: &str) -> bool {
    fs::read(path).is_ok_and(|bytes| bytes.windows(text.len()).any(|part| part == text.as_bytes()))
}

fn effective_capabilities(pid: i32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(set.trim(), 16).ok()
}
