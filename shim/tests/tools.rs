//! `tcpreload ss` and `tcpreload nstat` against live processes: this one, with a stack of its own, and one whose TCP is on the
//! kernel.

use engine::shared::arena::Arena;
use engine::stack::PortKind;
use engine::values::{Addr, Counter, Endpoint, Family, Sysctls};
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::fd::AsRawFd;
use std::process::{Command, Output, Stdio};

fn tool(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tcpreload")).args(args).output().expect("the tool starts")
}

fn json(output: &Output) -> serde_json::Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// A stack with one listener on 127.0.0.1:`port`, named by the cookie of `identity`.
fn stack_with_listener(identity: &impl AsRawFd, port: u16) -> Arena {
    let arena = Arena::create().expect("an arena");
    let cookie = engine::sys::socket_cookie(identity.as_raw_fd()).expect("SO_COOKIE");
    let guard = arena.lock().expect("nobody else has it");
    guard.stack.start([1, 2], Sysctls::default(), 1 << 20);
    let socket = guard.stack.socket_create(Family::V4, cookie).expect("a socket");
    let local = Endpoint::new(Addr::v4([127, 0, 0, 1]), port);
    let entry = guard.stack.port_create(local, PortKind::Bound).expect("a port");
    guard.stack.bound(socket, local, None);
    guard.stack.set_port(socket, entry);
    guard.stack.listen(socket, 77).expect("it listens");
    guard.stack.counters_mut().add(Counter::PassiveOpens, 41);
    drop(guard);
    arena
}

#[test]
fn a_live_stack_is_shown() {
    // The kernel's listener stands for the guard that holds the port.
    let identity = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = identity.local_addr().expect("bound").port();
    let arena = stack_with_listener(&identity, port);
    let pid = std::process::id().to_string();

    let rows = json(&tool(&["ss", "-ltnp", "--json", "--pid", &pid]));
    let mine: Vec<_> =
        rows.as_array().expect("an array").iter().filter(|r| r["local"]["port"] == port).collect();
    assert_eq!(mine.len(), 1, "{rows}");
    assert_eq!((&mine[0]["state"], &mine[0]["stack"]), (&"LISTEN".into(), &"tcpreload".into()));
    assert_eq!((&mine[0]["recv_q"], &mine[0]["send_q"]), (&0.into(), &77.into()));
    assert_eq!(mine[0]["processes"][0]["fd"], identity.as_raw_fd());
    assert_eq!(mine[0]["processes"][0]["pid"], std::process::id());

    let text = String::from_utf8(tool(&["ss", "-l", "--pid", &pid]).stdout).expect("text");
    let line = text.lines().find(|l| l.contains(&format!("127.0.0.1:{port}"))).expect("the listener");
    assert_eq!(line.split_whitespace().collect::<Vec<_>>()[..3], ["LISTEN", "0", "77"]);

    let counters = json(&tool(&["nstat", "--json", "--pid", &pid]));
    assert_eq!((&counters["TcpPassiveOpens"], &counters["TcpActiveOpens"]), (&41.into(), &0.into()));
    let text = String::from_utf8(tool(&["nstat", "--pid", &pid]).stdout).expect("text");
    assert!(text.contains("TcpPassiveOpens") && !text.contains("TcpActiveOpens"));

    // The holder of the lock is stopped: the picture is taken without it.
    let held = arena.lock().expect("nobody else has it");
    let counters = json(&tool(&["nstat", "--json", "--pid", &pid]));
    assert_eq!(counters["TcpPassiveOpens"], 41);
    drop(held);
}

#[test]
fn a_process_without_a_stack_is_told_why() {
    let output = tool(&["nstat", "--pid", "1"]);
    assert!(!output.status.success() && output.stdout.is_empty() && !output.stderr.is_empty());
    let output = tool(&["ss", "--pid", "999999999"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "tcpreload: 999999999: no such process\n");
}

const LISTENS: &str = r#"
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>
int main(void) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(fd, (struct sockaddr *)&a, len) || listen(fd, 5) || getsockname(fd, (struct sockaddr *)&a, &len)) return 1;
    printf("%d\n", ntohs(a.sin_port));
    fflush(stdout);
    return getchar() != EOF;
}
"#;

#[test]
fn a_socket_on_the_kernel_is_shown_with_the_reason() {
    let directory = std::env::temp_dir().join(format!("tcpreload-tools-{}", std::process::id()));
    fs::create_dir_all(&directory).expect("a directory for the test");
    let compile = |name: &str, source: &str, flags: &[&str]| {
        let from = directory.join(name).with_extension("c");
        fs::write(&from, source).expect("the source is written");
        let mut cc = Command::new("cc");
        assert!(
            cc.args(flags).arg("-o").arg(directory.join(name)).arg(&from).status().expect("cc").success()
        );
    };
    compile("listens", LISTENS, &[]);
    // A library of the right name that does nothing.
    compile("libtcpreload.so", "", &["-shared"]);
    let mut child = Command::new("setpriv")
        .args(["--bounding-set=-net_raw", "--inh-caps=-net_raw"])
        .arg(directory.join("listens"))
        .env("LD_PRELOAD", directory.join("libtcpreload.so"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("setpriv is there");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("its port");
    if let Ok(port) = line.trim().parse::<u16>() {
        let rows = json(&tool(&["ss", "-lp", "--json", "--pid", &child.id().to_string()]));
        assert_eq!(rows.as_array().map(Vec::len), Some(1), "{rows}");
        assert_eq!(rows[0]["local"]["port"], port);
        assert_eq!((&rows[0]["stack"], &rows[0]["reason"]), (&"kernel".into(), &"no CAP_NET_RAW".into()));
    } else {
        eprintln!("skipped: setpriv cannot drop a capability here");
    }
    drop(child.stdin.take());
    child.wait().expect("it ends");
    fs::remove_dir_all(&directory).expect("cleaned up");
}
