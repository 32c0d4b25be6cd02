//! `tcpreload PROGRAM ARGS`: starts a program with its TCP served by the engine.
//! `tcpreload ss` and `tcpreload nstat` look into programs that run so.
//!
//! The first argument decides: `ss` and `nstat` are the tools, `--companion` and `--relay` are what the library starts, everything else is the launcher's. A program of such a
//! name is started with `tcpreload -- ss`.

mod companion;
mod descriptors;
mod family;
mod launch;
mod nstat;
mod privilege;
#[path = "../../program.rs"]
mod program;
mod relay;
mod ss;

use clap::Parser;
use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

/// What env(1), nice(1) and timeout(1) answer when they fail themselves, before the program could.
pub const EXIT_LAUNCHER: u8 = 125;
/// Found, but it cannot be run (or not with a preloaded library).
pub const EXIT_CANNOT_RUN: u8 = 126;
/// Not found.
pub const EXIT_NOT_FOUND: u8 = 127;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    match args.get(1).and_then(|word| word.to_str()) {
        Some(companion::ARGUMENT) => companion::run(&args),
        Some(relay::ARGUMENT) => relay::run(&args),
        Some("ss") => tool(&args, ss::run),
        Some("nstat") => tool(&args, nstat::run),
        _ => launcher(&args),
    }
}

fn launcher(args: &[OsString]) -> ExitCode {
    match launch::Options::try_parse_from(args) {
        Ok(options) => launch::run(options),
        Err(usage) => usage_exit(&usage, EXIT_LAUNCHER),
    }
}

/// Runs one of the inspection tools on the arguments behind its name.
fn tool<O: Parser>(args: &[OsString], run: fn(O) -> ExitCode) -> ExitCode {
    match O::try_parse_from(&args[1..]) {
        Ok(options) => run(options),
        Err(usage) => usage_exit(&usage, 2),
    }
}

fn usage_exit(usage: &clap::Error, code: u8) -> ExitCode {
    // The text goes to stdout for --help and --version, else to stderr; where it cannot be written nobody reads it.
    let _ = usage.print();
    if usage.use_stderr() { ExitCode::from(code) } else { ExitCode::SUCCESS }
}

/// Prints the output of a tool. A reader that has gone (`| head`) is no failure.
pub fn print(text: &str) -> ExitCode {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("tcpreload: stdout: {e}");
            ExitCode::FAILURE
        }
    }
}
