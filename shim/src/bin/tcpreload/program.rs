//! What a program file is: found as execvp(3) finds it, followed through `#!`, and checked for what a preloaded library
//! cannot serve.

use crate::privilege;
use object::elf;
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, ReadCache, ReadRef};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Error, ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Interpreters of interpreters that Linux follows before it gives up with ELOOP.
const MAX_INTERPRETERS: usize = 5;

/// Bytes of the first line that Linux looks at (BINPRM_BUF_SIZE).
const FIRST_LINE_BYTES: usize = 256;

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
    let Ok(c_path) = std::ffi::CString::new(path.as_os_str().as_bytes()) else { return Lookup::NotFound };
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
        let Ok(mut file) = File::open(&path) else {
            // Executable but not readable: nothing to see, and nothing against it.
            return Ok(());
        };
        let mut head = Vec::new();
        let read = file.by_ref().take(FIRST_LINE_BYTES as u64).read_to_end(&mut head);
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

fn check_elf(path: &Path, file: &File) -> Result<(), String> {
    let metadata = file.metadata().map_err(|e| e.to_string())?;
    if let Some(reason) = privilege::secure_mode(path, &metadata) {
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
    let own = File::open("/proc/self/exe").ok().map(ReadCache::new);
    let own = own.as_ref().and_then(|cache| elf::FileHeader64::<Endianness>::parse(cache).ok());
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
            Some(loader) if file_name(loader).starts_with(b"ld-musl") => {
                Err("it is linked with musl, and the library needs glibc".to_string())
            }
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
