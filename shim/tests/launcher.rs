//! The launcher as a user meets it: what it starts, what it refuses and why, exit codes and messages.
//!
//! Where a precondition is missing (no static libc, not root), the test says so on stderr and passes.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};

const NOBODY: u32 = 65_534;

/// The launcher and an empty library beside it, in a directory of the test's own that any user can look into.
struct Installed {
    directory: PathBuf,
    launcher: PathBuf,
    /// One test at a time: a child forked by another thread while a program file is being written keeps it open for a
    /// moment, and a file open for writing cannot be executed (ETXTBSY).
    _turn: MutexGuard<'static, ()>,
}

static TURN: Mutex<()> = Mutex::new(());

impl Installed {
    fn new(test: &str) -> Installed {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let directory =
            std::env::temp_dir().join(format!("tcpreload-launcher-{}-{test}", std::process::id()));
        fs::create_dir_all(&directory).expect("a directory for the test");
        make_executable(&directory, 0o755);
        let launcher = directory.join("tcpreload");
        fs::copy(env!("CARGO_BIN_EXE_tcpreload"), &launcher).expect("the launcher is there");
        make_executable(&launcher, 0o755);
        assert!(compile("", &directory.join("libtcpreload.so"), &["-shared"]), "rustc needs cc as well");
        Installed { directory, launcher, _turn: turn }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn launch<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Output {
        output(Command::new(&self.launcher).args(args))
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn output(command: &mut Command) -> Output {
    for name in ["LD_PRELOAD", "TCPRELOAD_STRICT", "TCPRELOAD_SYSCTL", "TCPRELOAD_LIB", "RUST_LOG"] {
        command.env_remove(name);
    }
    command.output().expect("the launcher starts")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn root() -> bool {
    // SAFETY: reads a number.
    unsafe { libc::geteuid() == 0 }
}

fn skip(why: &str) {
    eprintln!("skipped: {why}");
}

/// Compiles `source`; false when that is not possible here.
fn compile(source: &str, to: &Path, flags: &[&str]) -> bool {
    let from = to.with_extension("c");
    fs::write(&from, source).expect("the source is written");
    let done = Command::new("cc").args(flags).arg("-o").arg(to).arg(&from).output();
    done.is_ok_and(|done| done.status.success())
}

fn make_executable(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("a mode can be set");
}

fn write_script(path: &Path, text: &str) {
    fs::write(path, text).expect("the script is written");
    make_executable(path, 0o755);
}

#[track_caller]
fn refused(output: &Output, reason: &str) {
    assert_eq!(output.status.code(), Some(126), "{}", stderr(output));
    assert!(stderr(output).contains(reason), "no '{reason}' in: {}", stderr(output));
    assert!(stdout(output).is_empty());
}

#[test]
fn the_program_gets_its_arguments_and_gives_its_status() {
    let installed = Installed::new("arguments");
    let output = installed.launch(["sh", "-c", "echo \"$0 $1 $2\"; exit 7", "a", "--help", "--strict"]);
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(7), "a --help --strict\n"));
}

#[test]
fn options_become_the_environment_of_the_library() {
    let installed = Installed::new("options");
    let output = installed.launch([
        "--sysctl",
        "net.core.somaxconn=128",
        "--sysctl=net.ipv4.tcp_rmem=4096 8192 16384",
        "--stats=/some/file",
        "--spin-us",
        "20",
        "--log=error",
        "env",
    ]);
    assert!(output.status.success(), "{}", stderr(&output));
    let environment = stdout(&output);
    for line in [
        &format!("LD_PRELOAD={}", installed.path("libtcpreload.so").display()),
        "TCPRELOAD_SYSCTL=net.core.somaxconn=128,net.ipv4.tcp_rmem=4096 8192 16384",
        "TCPRELOAD_STATS=/some/file",
        "TCPRELOAD_SPIN_US=20",
        "RUST_LOG=error",
    ] {
        assert!(environment.lines().any(|l| l == line), "no '{line}' in:\n{environment}");
    }
    assert!(!environment.contains("TCPRELOAD_STRICT"));
}

#[test]
fn what_cannot_be_found_or_run_is_told_as_env_does() {
    let installed = Installed::new("missing");
    let output = installed.launch(["no-such-program"]);
    assert_eq!(output.status.code(), Some(127));
    assert_eq!(stderr(&output), "tcpreload: no-such-program: No such file or directory\n");
    let output = installed.launch(["/etc/passwd"]);
    assert_eq!(output.status.code(), Some(126));
    assert_eq!(stderr(&output), "tcpreload: /etc/passwd: Permission denied\n");
}

#[test]
fn wrong_usage_is_the_launchers_own_failure() {
    let installed = Installed::new("usage");
    let cases: [&[&str]; 5] = [
        &[],
        &["--nonsense", "true"],
        &["--sysctl", "a.b=1", "true"],
        &["--sysctl", "x", "true"],
        &["--spin-us=x", "true"],
    ];
    for args in cases {
        let output = installed.launch(args);
        assert_eq!(output.status.code(), Some(125), "{args:?}: {}", stderr(&output));
        assert!(!output.stderr.is_empty() && output.stdout.is_empty());
    }
    for flag in ["--help", "--version"] {
        let output = installed.launch([flag]);
        assert!(output.status.success() && stdout(&output).contains("tcpreload") && output.stderr.is_empty());
    }
}

#[test]
fn the_library_can_be_named_and_must_be_there() {
    let installed = Installed::new("library");
    let output = output(
        Command::new("env").args(["TCPRELOAD_LIB=/no/such/file"]).arg(&installed.launcher).arg("true"),
    );
    assert_eq!(output.status.code(), Some(125));
    assert_eq!(stderr(&output), "tcpreload: TCPRELOAD_LIB=/no/such/file: no such file\n");
}

#[test]
fn static_programs_are_refused_also_behind_a_script() {
    let installed = Installed::new("static");
    let program = installed.path("static");
    if !compile("int main(void) { return 0; }", &program, &["-static"]) {
        return skip("cc -static does not work here");
    }
    refused(&installed.launch([&program]), "statically linked");
    let script = installed.path("script");
    write_script(&script, &format!("#! {} -x\n", program.display()));
    refused(&installed.launch([&script]), "statically linked");
    write_script(&script, &format!("#!/usr/bin/env {}\n", program.display()));
    refused(&installed.launch([&script]), "statically linked");
    write_script(&script, "#!/bin/sh\nexit 3\n");
    assert_eq!(installed.launch([&script]).status.code(), Some(3));
}

#[test]
fn go_musl_and_foreign_programs_are_refused() {
    let installed = Installed::new("foreign");
    let program = installed.path("program");
    let note = "asm(\".section .note.go.buildid,\\\"a\\\",@note\\n.long 4,4,4\\n.ascii \\\"Go\\\\0\\\\0\\\"\\n.long 1\\n.text\");";
    if !compile(&format!("{note}\nint main(void) {{ return 0; }}"), &program, &[]) {
        return skip("cc does not work here");
    }
    refused(&installed.launch([&program]), "Go program");
    assert!(compile(
        "int main(void) { return 0; }",
        &program,
        &["-Wl,--dynamic-linker=/lib/ld-musl-x86_64.so.1"]
    ));
    refused(&installed.launch([&program]), "musl");
    let mut bytes = fs::read(&program).expect("the program is there");
    bytes[18] ^= 0xff;
    fs::write(&program, &bytes).expect("e_machine is changed");
    refused(&installed.launch([&program]), "instruction set");
    bytes[4] = 1;
    fs::write(&program, &bytes).expect("the class is changed");
    refused(&installed.launch([&program]), "instruction set");
}

#[test]
fn programs_that_run_in_secure_mode_are_refused() {
    if !root() {
        return skip("only root can make a file of another user");
    }
    let installed = Installed::new("secure");
    let program = installed.path("true");
    fs::copy("/bin/true", &program).expect("a copy");
    for (user, group, mode, reason) in
        [(NOBODY, 0, 0o4755, "set-user-ID"), (0, NOBODY, 0o2755, "set-group-ID")]
    {
        chown(&program, Some(user), Some(group)).expect("root may");
        make_executable(&program, mode);
        refused(&installed.launch([&program]), reason);
    }
    // Root's own set-user-ID program gives root nothing, and the loader does not mind LD_PRELOAD then.
    chown(&program, Some(0), Some(0)).expect("root may");
    make_executable(&program, 0o4755);
    assert!(installed.launch([&program]).status.success());
}

#[test]
fn without_the_capability_it_warns_or_is_strict() {
    let installed = Installed::new("without");
    let without = ["--bounding-set=-net_raw", "--inh-caps=-net_raw"];
    let probe = Command::new("setpriv").args(without).arg("true").output();
    if !probe.is_ok_and(|probe| probe.status.success()) {
        return skip("setpriv cannot drop a capability here");
    }
    let setpriv = || {
        let mut command = Command::new("setpriv");
        command.args(without).arg(&installed.launcher);
        command
    };
    let warned = output(setpriv().args(["echo", "on"]));
    assert!(warned.status.success() && stdout(&warned) == "on\n");
    let line = stderr(&warned);
    assert!(
        line.starts_with("tcpreload: no CAP_NET_RAW: TCP will run on the kernel")
            && line.lines().count() == 1,
        "{line}"
    );
    let strict = output(setpriv().args(["--strict", "echo", "on"]));
    assert_eq!(strict.status.code(), Some(125));
    assert!(stderr(&strict).contains("no CAP_NET_RAW") && strict.stdout.is_empty());
}

#[test]
fn a_user_gets_the_capability_from_the_ambient_set_or_from_the_launchers_file() {
    if !root() {
        return skip("only root can become somebody else");
    }
    let installed = Installed::new("ambient");
    let as_nobody = |more: &[&str]| {
        let ids = [format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"), "--clear-groups".into()];
        output(Command::new("setpriv").args(ids).args(more).arg(&installed.launcher).args([
            "--strict",
            "grep",
            "CapEff",
            "/proc/self/status",
        ]))
    };
    let has_it = |output: &Output| {
        let text = stdout(output);
        let set = text.split_whitespace().nth(1).and_then(|hex| u64::from_str_radix(hex, 16).ok());
        set.is_some_and(|set| set & 1 << 13 != 0)
    };
    assert_eq!(as_nobody(&[]).status.code(), Some(125));
    let ambient = as_nobody(&["--inh-caps=+net_raw", "--ambient-caps=+net_raw"]);
    assert!(has_it(&ambient), "{}", stderr(&ambient));
    match Command::new("setcap").arg("cap_net_raw+ep").arg(&installed.launcher).status() {
        Ok(status) if status.success() => {
            let from_file = as_nobody(&[]);
            assert!(has_it(&from_file), "{}", stderr(&from_file));
        }
        _ => skip("setcap does not work here"),
    }
}
