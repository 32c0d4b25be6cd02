//! The launcher: checks that preloading can work, sets the environment, becomes the program.

use crate::privilege::{self, Grant};
use crate::program::{self, Lookup};
use crate::{EXIT_CANNOT_RUN, EXIT_LAUNCHER, EXIT_NOT_FOUND};
use clap::Parser;
use engine::values::Sysctls;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const LIBRARY: &str = "libtcpreload.so";

/// Start PROGRAM with its TCP sockets served by tcpreload's own TCP stack instead of the kernel's.
#[derive(Parser, Debug)]
#[command(
    name = "tcpreload",
    version,
    override_usage = "tcpreload [OPTIONS] PROGRAM [ARGS]...\n       tcpreload ss|nstat [OPTIONS]",
    after_help = "Tools:\n  tcpreload ss      sockets of running programs, like ss(8)\n  tcpreload nstat   \
                  their TCP counters, like nstat(8)\n\nPROGRAM's exit status is passed on; 125: tcpreload failed, 126: \
                  PROGRAM cannot be run this way, 127: not found."
)]
pub struct Options {
    /// Fail where TCP would have to run on the kernel, instead of letting it (TCPRELOAD_STRICT=1)
    #[arg(long)]
    strict: bool,

    /// Override a sysctl for this program, e.g. net.core.somaxconn=128; may be repeated (TCPRELOAD_SYSCTL)
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_sysctl)]
    sysctl: Vec<String>,

    /// Write the stack's counters to FILE when the program ends (TCPRELOAD_STATS)
    #[arg(long, value_name = "FILE")]
    stats: Option<PathBuf>,

    /// Log to stderr: error, warn, info, debug, trace, or a filter such as tcpreload=debug (RUST_LOG)
    #[arg(long, value_name = "LEVEL")]
    log: Option<String>,

    /// Spin this long before a waiting thread sleeps: less latency, more CPU (TCPRELOAD_SPIN_US)
    #[arg(long, value_name = "MICROSECONDS", value_parser = clap::value_parser!(u32).range(..=10_000))]
    spin_us: Option<u32>,

    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "PROGRAM", hide = true)]
    command: Vec<OsString>,
}

/// Checks `NAME=VALUE` against the names and ranges that the engine knows.
fn parse_sysctl(text: &str) -> Result<String, String> {
    let (name, value) = text.split_once('=').ok_or("not of the form NAME=VALUE")?;
    let (name, value) = (name.trim(), value.trim());
    Sysctls::default().set(name, value)?;
    Ok(format!("{name}={value}"))
}

/// Replaces this process by the program; returns only when that is not possible.
pub fn run(options: Options) -> ExitCode {
    match prepare(&options) {
        Ok(mut command) => {
            let error = command.exec();
            let program = options.command[0].display();
            let not_found = error.kind() == std::io::ErrorKind::NotFound;
            fail(
                if not_found { EXIT_NOT_FOUND } else { EXIT_CANNOT_RUN },
                &format!("{program}: {}", plain(&error)),
            )
        }
        Err(Failure { code, message }) => fail(code, &message),
    }
}

fn fail(code: u8, message: &str) -> ExitCode {
    eprintln!("tcpreload: {message}");
    ExitCode::from(code)
}

/// An I/O error as libc's strerror words it.
fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_string()
}

struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    fn new(code: u8, message: impl Into<String>) -> Failure {
        Failure { code, message: message.into() }
    }
}

fn prepare(options: &Options) -> Result<Command, Failure> {
    let name = &options.command[0];
    let path = match program::find(name) {
        Lookup::Found(path) => path,
        Lookup::NotExecutable(why) => {
            return Err(Failure::new(EXIT_CANNOT_RUN, format!("{}: {}", name.display(), plain(&why))));
        }
        Lookup::NotFound => {
            return Err(Failure::new(
                EXIT_NOT_FOUND,
                format!("{}: No such file or directory", name.display()),
            ));
        }
    };
    program::check(&path).map_err(|why| {
        Failure::new(EXIT_CANNOT_RUN, format!("{}: cannot be preloaded: {why}", name.display()))
    })?;
    let library = library().map_err(|why| Failure::new(EXIT_LAUNCHER, why))?;
    let told = check_grant(options)?;

    let mut command = Command::new(&path);
    if told {
        // The library would say it again, in each process that opens a socket.
        command.env("TCPRELOAD_TOLD", "1");
    }
    command.arg0(name).args(&options.command[1..]);
    if let Some(own) = companion_for(&library) {
        command.env("TCPRELOAD_COMPANION", own);
    }
    command.env("LD_PRELOAD", prepend(library.as_os_str(), std::env::var_os("LD_PRELOAD").as_deref()));
    set_options(&mut command, options)?;
    Ok(command)
}

/// Sees to it that the program can open packet sockets, or says that it cannot; true when it said so.
fn check_grant(options: &Options) -> Result<bool, Failure> {
    let Grant::Missing(why) = privilege::grant_net_raw() else { return Ok(false) };
    if options.strict {
        return Err(Failure::new(EXIT_LAUNCHER, format!("{why}; {}", privilege::HOW_TO_GRANT)));
    }
    let consequence = match std::env::var_os("TCPRELOAD_STRICT") {
        Some(value) if value == "1" => "TCP sockets will be refused (TCPRELOAD_STRICT=1)",
        _ => "TCP will run on the kernel",
    };
    eprintln!("tcpreload: {why}: {consequence}; {}", privilege::HOW_TO_GRANT);
    Ok(true)
}

fn set_options(command: &mut Command, options: &Options) -> Result<(), Failure> {
    if options.strict {
        command.env("TCPRELOAD_STRICT", "1");
    }
    if !options.sysctl.is_empty() {
        let mut list =
            std::env::var("TCPRELOAD_SYSCTL").ok().filter(|v| !v.is_empty()).into_iter().collect::<Vec<_>>();
        list.extend(options.sysctl.iter().cloned());
        command.env("TCPRELOAD_SYSCTL", list.join(","));
    }
    if let Some(file) = &options.stats {
        // The program may change its directory before the counters are written.
        let file = std::path::absolute(file)
            .map_err(|e| Failure::new(EXIT_LAUNCHER, format!("{}: {}", file.display(), plain(&e))))?;
        command.env("TCPRELOAD_STATS", file);
    }
    if let Some(level) = &options.log {
        command.env("RUST_LOG", level);
    }
    if let Some(us) = options.spin_us {
        command.env("TCPRELOAD_SPIN_US", us.to_string());
    }
    Ok(())
}

/// The library: named by TCPRELOAD_LIB, beside this executable, or in ../lib of its directory.
fn library() -> Result<PathBuf, String> {
    let library = match std::env::var_os("TCPRELOAD_LIB").filter(|v| !v.is_empty()) {
        Some(named) => {
            let named = std::path::absolute(&named).map_err(|e| format!("TCPRELOAD_LIB: {}", plain(&e)))?;
            if !named.is_file() {
                return Err(format!("TCPRELOAD_LIB={}: no such file", named.display()));
            }
            named
        }
        None => library_near(&own_directory()?)?,
    };
    // ld.so(8): names in LD_PRELOAD are separated by blanks or colons, and there is no way to quote either.
    if library.as_os_str().as_bytes().iter().any(|b| b" \t\n:".contains(b)) {
        return Err(format!("'{}': a path with a blank or a colon cannot be preloaded", library.display()));
    }
    Ok(library)
}

/// This program, which is the companion's as well, where the library would not find it: neither beside it nor in ../bin.
fn companion_for(library: &Path) -> Option<PathBuf> {
    let directory = library.parent()?;
    let found = [directory.join("tcpreload"), directory.join("../bin/tcpreload")].iter().any(|p| p.is_file());
    if found { None } else { std::env::current_exe().ok() }
}

fn own_directory() -> Result<PathBuf, String> {
    let exe = std::env::current_exe().map_err(|e| format!("/proc/self/exe: {}", plain(&e)))?;
    Ok(exe.parent().unwrap_or(Path::new("/")).to_path_buf())
}

fn library_near(directory: &Path) -> Result<PathBuf, String> {
    let places = [Some(directory.to_path_buf()), directory.parent().map(|above| above.join("lib"))];
    places.iter().flatten().map(|place| place.join(LIBRARY)).find(|path| path.is_file()).ok_or_else(|| {
        format!("{LIBRARY} is neither in {} nor in ../lib; TCPRELOAD_LIB can name it", directory.display())
    })
}

/// `library` in front of what is preloaded already; unchanged where it is there already.
fn prepend(library: &OsStr, present: Option<&OsStr>) -> OsString {
    let present = present.unwrap_or_default();
    if present.as_bytes().split(|b| b" \t\n:".contains(b)).any(|name| name == library.as_bytes()) {
        return present.to_os_string();
    }
    let mut list = library.to_os_string();
    if !present.is_empty() {
        list.push(":");
        list.push(present);
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Options, clap::Error> {
        Options::try_parse_from(std::iter::once("tcpreload").chain(words.iter().copied()))
    }

    #[test]
    fn the_command_line_is_valid() {
        use clap::CommandFactory;
        Options::command().debug_assert();
    }

    #[test]
    fn arguments_of_the_program_are_left_alone() {
        let options = parse(&["--strict", "wrk", "--help", "--strict", "-c1", "--", "-x"]).unwrap();
        assert!(options.strict);
        assert_eq!(options.command, ["wrk", "--help", "--strict", "-c1", "--", "-x"]);
        assert_eq!(parse(&["--", "ss", "-l"]).unwrap().command, ["ss", "-l"]);
        assert!(parse(&["--nonsense", "wrk"]).is_err() && parse(&[]).is_err());
    }

    #[test]
    fn sysctls_are_checked() {
        assert_eq!(parse_sysctl("net.core.somaxconn = 128"), Ok("net.core.somaxconn=128".to_string()));
        assert!(parse_sysctl("net.core.somaxconn").is_err() && parse_sysctl("net.core.nothing=1").is_err());
    }

    #[test]
    fn what_is_preloaded_already_stays() {
        let library = OsStr::new("/x/libtcpreload.so");
        assert_eq!(prepend(library, None), "/x/libtcpreload.so");
        assert_eq!(prepend(library, Some(OsStr::new("a.so b.so"))), "/x/libtcpreload.so:a.so b.so");
        assert_eq!(prepend(library, Some(OsStr::new("a.so:/x/libtcpreload.so"))), "a.so:/x/libtcpreload.so");
    }
}
