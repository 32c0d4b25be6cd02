//! What a program file is: found as execvp(3) finds it, followed through `#!`, and checked for what a preloaded library
//! cannot serve. The launcher looks before it starts a program, the library before it hands one a socket.

use engine::sys;
use object::elf;
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, ReadCache, ReadRef};
use std::ffi::{CString, OsStr, OsString};
use std::fs::Metadata;
use std::io::{Error, ErrorKind, Read, Seek, SeekFrom};
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Interpreters of interpreters that Linux follows before it gives up with ELOOP.
const MAX_INTERPRETERS: usize = 5;

/// Bytes of the first line that Linux looks at (BINPRM_BUF_SIZE).
const FIRST_LINE_BYTES: usize = 256;

/// Why a program of musl's cannot be preloaded. Its loader does not start it at all where the library is named.
pub const MUSL: &str = "it is linked with musl, and the library needs glibc";

pub enum Lookup {
    Found(PathBuf),
    /// There is such a file, but it cannot be executed.
    NotExecutable(Error),
    NotFound,
}

/// Looks for a program: a name with a slash is a path, any other is searched for in PATH.
pub fn find(name: &OsStr) -> Lookup {
    if name.as_bytes().contains(&b'/') {
        return executable(Path::new(name));
    }
    // What confstr(_CS_PATH) says, and execvp(3) uses, where there is no PATH.
    let path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/bin:/usr/bin"));
    let mut refused = Lookup::NotFound;
    for directory in std::env::split_paths(&path).filter(|_| !name.is_empty()) {
        let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { &directory };
        match executable(&directory.join(name)) {
            Lookup::NotFound => {}
            found @ Lookup::Found(_) => return found,
            other => refused = other,
        }
    }
    refused
}

fn executable(path: &Path) -> Lookup {
    match path.metadata() {
        Ok(file) if file.is_dir() => return Lookup::NotExecutable(Error::from_raw_os_error(libc::EISDIR)),
        Ok(_) => {}
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Lookup::NotFound;
        }
        Err(e) => return Lookup::NotExecutable(e),
    }
    let Ok(c_path) = CString::new(path.as_os_str().as_bytes()) else { return Lookup::NotFound };
    // SAFETY: a terminated string.
    if unsafe { libc::faccessat(libc::AT_FDCWD, c_path.as_ptr(), libc::X_OK, libc::AT_EACCESS) } != 0 {
        return Lookup::NotExecutable(Error::last_os_error());
    }
    Lookup::Found(path.to_path_buf())
}

/// Checks that a preloaded library gets into the program that `path` names, directly or by `#!`.
///
/// # Errors
/// A sentence with the reason why it would not, or why the program would pass it by.
pub fn check(path: &Path) -> Result<(), String> {
    let mut path = path.to_path_buf();
    for _ in 0..MAX_INTERPRETERS {
        let Ok(file) = Reader::open(&path) else {
            // Executable but not readable: nothing to see, and nothing against it.
            return Ok(());
        };
        let mut head = Vec::new();
        let mut reader = &file;
        let read = reader.by_ref().take(FIRST_LINE_BYTES as u64).read_to_end(&mut head);
        if read.is_err() {
            return Ok(());
        }
        if head.starts_with(&elf::ELFMAG) {
            return check_elf(&path, &file);
        }
        // Without `#!`, execvp(3) gives the file to /bin/sh.
        let script = interpreter(&head).unwrap_or_else(|| Interpreter::plain("/bin/sh"));
        path = match script.behind_env() {
            Some(name) => match find(&name) {
                Lookup::Found(path) => path,
                _ => return Ok(()),
            },
            None => script.path,
        };
    }
    Ok(())
}

/// The `#!` line of a script.
#[derive(Debug, PartialEq, Eq)]
struct Interpreter {
    path: PathBuf,
    /// Linux passes all that follows as one argument.
    argument: OsString,
}

impl Interpreter {
    fn plain(path: &str) -> Interpreter {
        Interpreter { path: path.into(), argument: OsString::new() }
    }

    /// The command in `#!/usr/bin/env [-S] [NAME=VALUE] COMMAND`.
    fn behind_env(&self) -> Option<OsString> {
        if self.path.file_name()? != "env" {
            return None;
        }
        self.argument
            .as_bytes()
            .split(|b| b" \t".contains(b))
            .map(|word| word.strip_prefix(b"-S").unwrap_or(word))
            .find(|word| !word.is_empty() && word[0] != b'-' && !word.contains(&b'='))
            .map(|word| OsStr::from_bytes(word).to_os_string())
    }
}

fn interpreter(head: &[u8]) -> Option<Interpreter> {
    let line = head.strip_prefix(b"#!")?.split(|&b| b == b'\n').next()?.trim_ascii();
    let end = line.iter().position(|b| b" \t".contains(b)).unwrap_or(line.len());
    let (path, argument) = line.split_at(end);
    (!path.is_empty()).then(|| Interpreter {
        path: PathBuf::from(OsStr::from_bytes(path)),
        argument: OsStr::from_bytes(argument.trim_ascii()).to_os_string(),
    })
}

/// A file that is read by system calls: the library must not come back through its own overrides.
struct Reader {
    fd: RawFd,
    at: core::cell::Cell<u64>,
}

impl Reader {
    fn open(path: &Path) -> Result<Reader, i32> {
        let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| libc::ENOENT)?;
        let fd = sys::open(&path, libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NONBLOCK)?;
        Ok(Reader { fd, at: core::cell::Cell::new(0) })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = sys::close(self.fd);
    }
}

impl Read for &Reader {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let n = sys::pread(self.fd, out, self.at.get()).map_err(Error::from_raw_os_error)?;
        self.at.set(self.at.get() + n as u64);
        Ok(n)
    }
}

impl Seek for &Reader {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        let (base, by) = match to {
            SeekFrom::Start(at) => (at, 0),
            SeekFrom::Current(by) => (self.at.get(), by),
            SeekFrom::End(by) => (sys::file_size(self.fd).map_err(Error::from_raw_os_error)?, by),
        };
        let at = base.checked_add_signed(by).ok_or(ErrorKind::InvalidInput)?;
        self.at.set(at);
        Ok(at)
    }
}

fn check_elf(path: &Path, file: &Reader) -> Result<(), String> {
    let metadata = path.metadata().map_err(|e| e.to_string())?;
    if let Some(reason) = secure_mode(path, &metadata) {
        return Err(reason);
    }
    let cache = ReadCache::new(file);
    let header = match elf::FileHeader64::<Endianness>::parse(&cache) {
        Ok(header) if same_machine(header) => header,
        // Broken, of 32 bits, or for another machine: the header's class and byte order say so to `parse`.
        _ => {
            return Err(
                "it is not made for this machine's 64-bit instruction set, and the library is".to_string()
            );
        }
    };
    let traits = Traits::read(header, &cache).map_err(|e| format!("its ELF headers are broken: {e}"))?;
    traits.verdict(path)
}

fn same_machine(header: &elf::FileHeader64<Endianness>) -> bool {
    let own = Reader::open(Path::new("/proc/self/exe")).ok();
    let cache = own.as_ref().map(ReadCache::new);
    let own = cache.as_ref().and_then(|cache| elf::FileHeader64::<Endianness>::parse(cache).ok());
    match (own, header.endian()) {
        (Some(own), Ok(endian)) => {
            own.e_ident().data == header.e_ident().data && own.e_machine(endian) == header.e_machine(endian)
        }
        _ => true,
    }
}

/// What decides whether a program can be preloaded.
struct Traits {
    /// The loader (PT_INTERP), which is what reads LD_PRELOAD; none in a static program.
    loader: Option<PathBuf>,
    go: bool,
}

impl Traits {
    fn read<'a, R: ReadRef<'a>>(header: &elf::FileHeader64<Endianness>, data: R) -> object::Result<Traits> {
        let endian = header.endian()?;
        let mut traits = Traits { loader: None, go: false };
        for segment in header.program_headers(endian, data)? {
            if let Some(loader) = segment.interpreter(endian, data)? {
                traits.loader = Some(PathBuf::from(OsStr::from_bytes(loader)));
            }
            if let Ok(Some(mut notes)) = segment.notes(endian, data) {
                while let Ok(Some(note)) = notes.next() {
                    traits.go |= note.name() == b"Go";
                }
            }
        }
        // An external linker may leave the note out of the segments; the section stays, unless it was stripped.
        if let Ok(sections) = header.sections(endian, data) {
            traits.go |= [&b".go.buildinfo"[..], b".note.go.buildid"]
                .iter()
                .any(|name| sections.section_by_name(endian, name).is_some());
        }
        Ok(traits)
    }

    fn verdict(&self, path: &Path) -> Result<(), String> {
        if self.go {
            return Err(
                "it is a Go program, which makes its system calls itself and passes libc by".to_string()
            );
        }
        match &self.loader {
            None if is_loader(path) => Ok(()),
            None => Err("it is statically linked, there is no loader to read LD_PRELOAD".to_string()),
            Some(loader) if file_name(loader).starts_with(b"ld-musl") => Err(MUSL.to_string()),
            Some(_) => Ok(()),
        }
    }
}

/// The loader itself, started as a program: `ld-linux-x86-64.so.2 PROGRAM`. It has no PT_INTERP and reads LD_PRELOAD.
fn is_loader(path: &Path) -> bool {
    path.canonicalize().is_ok_and(|path| file_name(&path).starts_with(b"ld-"))
}

fn file_name(path: &Path) -> &[u8] {
    path.file_name().unwrap_or_default().as_bytes()
}

/// Why the loader would run this file in secure mode and ignore LD_PRELOAD (ld.so(8), "Secure-execution mode"); `None`
/// when it would not. A set-user-ID file that changes nothing, as root's own run by root, is not run so.
fn secure_mode(path: &Path, file: &Metadata) -> Option<String> {
    if no_new_privileges() || on_nosuid_mount(path) {
        return None;
    }
    // SAFETY: these read numbers and cannot fail.
    let (uid, gid) = unsafe { (libc::getuid(), libc::getgid()) };
    // Without the group's execute bit, set-group-ID once meant mandatory locking and changes nothing here.
    let sets_group = file.mode() & libc::S_ISGID != 0 && file.mode() & libc::S_IXGRP != 0;
    if file.mode() & libc::S_ISUID != 0 && file.uid() != uid {
        return Some(format!(
            "it is set-user-ID (to {}), and the loader ignores LD_PRELOAD for such programs",
            file.uid()
        ));
    }
    if sets_group && file.gid() != gid {
        return Some(format!(
            "it is set-group-ID (to {}), and the loader ignores LD_PRELOAD for such programs",
            file.gid()
        ));
    }
    (uid != 0 && has_file_capabilities(path))
        .then(|| "it has file capabilities, and the loader ignores LD_PRELOAD for such programs".to_string())
}

fn no_new_privileges() -> bool {
    sys::prctl(libc::PR_GET_NO_NEW_PRIVS, 0) == Ok(1)
}

fn on_nosuid_mount(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return false };
    let mut answer = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: a terminated string and room for the answer, which is read only after success.
    unsafe {
        libc::statvfs(path.as_ptr(), answer.as_mut_ptr()) == 0
            && answer.assume_init().f_flag & libc::ST_NOSUID != 0
    }
}

fn has_file_capabilities(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return false };
    // SAFETY: two terminated strings; a size of zero asks for the length only.
    unsafe { libc::getxattr(path.as_ptr(), c"security.capability".as_ptr(), std::ptr::null_mut(), 0) > 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn behind(line: &str) -> Option<String> {
        let found = interpreter(line.as_bytes())?.behind_env()?;
        Some(found.to_string_lossy().into_owned())
    }

    #[test]
    fn first_lines() {
        let script = interpreter(b"#! /usr/bin/python3 -u -v\nprint()").unwrap();
        assert_eq!(
            (script.path.to_str(), script.argument.to_str()),
            (Some("/usr/bin/python3"), Some("-u -v"))
        );
        assert_eq!(interpreter(b"#!\n"), None);
        assert_eq!(interpreter(b"echo hello\n"), None);
        assert_eq!(behind("#!/bin/sh\n"), None);
        assert_eq!(behind("#!/usr/bin/env python3\n").as_deref(), Some("python3"));
        assert_eq!(behind("#!/usr/bin/env -S A=b python3 -u\n").as_deref(), Some("python3"));
        assert_eq!(behind("#!/usr/bin/env -Spython3 -u\n").as_deref(), Some("python3"));
    }

    #[test]
    fn names_are_searched_for_as_execvp_does() {
        assert!(matches!(find(OsStr::new("sh")), Lookup::Found(_)));
        assert!(matches!(find(OsStr::new("/bin/sh")), Lookup::Found(_)));
        assert!(matches!(find(OsStr::new("no such program")), Lookup::NotFound));
        assert!(matches!(find(OsStr::new("")), Lookup::NotFound));
        assert!(matches!(find(OsStr::new("/etc/passwd")), Lookup::NotExecutable(_)));
        assert!(matches!(find(OsStr::new("/etc")), Lookup::NotExecutable(_)));
    }

    #[test]
    fn ordinary_programs_pass() {
        assert_eq!(check(Path::new("/bin/sh")), Ok(()));
    }
}
