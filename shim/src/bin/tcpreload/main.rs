//! `tcpreload PROGRAM ARGS`: starts a program with its TCP served by the engine.
//! `tcpreload ss` and `tcpreload nstat` look into programs that run so.
//!
//! The first argument decides: `ss` and `nstat` are the tools, everything else is the launcher's. A program of such a
//! name is started with `tcpreload -- ss`.

mod launch;
mod privilege;
mod program;

use clap::Parser;
use std::ffi::OsString;
use std::process::ExitCode;

/// What env(1), nice(1) and timeout(1) answer when they fail themselves, before the program could.
pub const EXIT_LAUNCHER: u8 = 125;
/// Found, but it cannot be run (or not with a preloaded library).
pub const EXIT_CANNOT_RUN: u8 = 126;
/// Not found.
pub const EXIT_NOT_FOUND: u8 = 127;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    launcher(&args)
}

fn launcher(args: &[OsString]) -> ExitCode {
    match launch::Options::try_parse_from(args) {
        Ok(options) => launch::run(options),
        Err(usage) => usage_exit(&usage, EXIT_LAUNCHER),
    }
}

fn usage_exit(usage: &clap::Error, code: u8) -> ExitCode {
    // The text goes to stdout for --help and --version, else to stderr; where it cannot be written nobody reads it.
    let _ = usage.print();
    if usage.use_stderr() { ExitCode::from(code) } else { ExitCode::SUCCESS }
}
