//! `tcpreload ss`: the sockets of programs that run under tcpreload, as ss(8) shows the kernel's.

use crate::descriptors::{self, Descriptor};
use crate::family::{self, Family, Process};
use clap::Parser;
use engine::stack::SocketInfo;
use engine::tcp::State;
use engine::values::{Addr, Endpoint};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

/// TCP sockets of programs that run under tcpreload: connections, or with -l listeners, or with -a all.
#[derive(Parser, Debug)]
#[command(name = "tcpreload ss", version)]
pub struct Options {
    /// Listening sockets only
    #[arg(short, long)]
    listening: bool,

    /// All sockets, whatever their state
    #[arg(short, long)]
    all: bool,

    /// TCP only (always so)
    #[arg(short, long)]
    tcp: bool,

    /// Numbers instead of names of services (always so)
    #[arg(short, long)]
    numeric: bool,

    /// Processes and descriptors that hold each socket
    #[arg(short, long)]
    processes: bool,

    /// What TCP knows of each connection: congestion window, round-trip time and so on
    #[arg(short, long)]
    info: bool,

    /// How much of each table is in use, for each stack
    #[arg(short, long)]
    summary: bool,

    /// No header line
    #[arg(short = 'H', long)]
    no_header: bool,

    /// A JSON array, one object for each socket
    #[arg(short, long)]
    json: bool,

    /// Only the sockets of this process and of those that share its stack
    #[arg(long, value_name = "PID")]
    pid: Option<i32>,
}

pub fn run(options: Options) -> ExitCode {
    let found = family::find(options.pid);
    found.complain();
    if options.pid.is_some() && found.families.is_empty() && found.strangers.is_empty() {
        return found.no_stack(options.pid);
    }
    if options.summary {
        return crate::print(&summary(&found.families, options.json));
    }
    let mut rows = Vec::new();
    for family in &found.families {
        rows.extend(family_rows(family));
    }
    for stranger in &found.strangers {
        rows.extend(kernel_rows(&stranger.process, &descriptors::of(stranger.process.pid), &stranger.reason));
    }
    rows.retain(|row| options.wants(row.state));
    rows.sort_by_key(|row| (row.state != "LISTEN", row.local.port));
    crate::print(&if options.json { as_json(&rows) } else { as_table(&rows, &options) })
}

/// A line, or an object, for each stack.
fn summary(families: &[Family], as_json: bool) -> String {
    let mut text = String::new();
    let mut objects = Vec::new();
    for family in families {
        let usage = family.inspector.look(|stack| stack.usage());
        let pids: Vec<i32> = family.processes.iter().map(|process| process.pid).collect();
        let names: BTreeSet<&str> = family.processes.iter().map(|process| process.name.as_str()).collect();
        let names: Vec<&str> = names.into_iter().collect();
        let numbers: Vec<String> = usage.iter().map(|(name, used)| format!("{name} {used}")).collect();
        text += &format!("{}, {} processes: {}\n", names.join(" "), pids.len(), numbers.join(", "));
        let usage: serde_json::Map<String, Value> =
            usage.iter().map(|&(name, used)| (name.to_string(), used.into())).collect();
        objects.push(json!({"processes": pids, "usage": usage}));
    }
    if as_json { format!("{}\n", Value::Array(objects)) } else { text }
}

impl Options {
    /// Without -l and -a, what ss(8) calls connected: neither listening nor closed, nor only half a connection.
    fn wants(&self, state: &str) -> bool {
        match (self.all, self.listening) {
            (true, _) => true,
            (false, true) => state == "LISTEN",
            (false, false) => !["LISTEN", "UNCONN", "SYN-RECV", "TIME-WAIT"].contains(&state),
        }
    }
}

/// One socket.
struct Row {
    state: &'static str,
    recv_q: u64,
    send_q: u64,
    local: Endpoint,
    remote: Endpoint,
    users: Vec<User>,
    stack: Stack,
    /// Of connections only.
    info: Option<SocketInfo>,
}

struct User {
    process: Process,
    fd: i32,
}

/// Whose TCP serves a socket.
enum Stack {
    Tcpreload,
    /// The kernel's, and why.
    Kernel(String),
}

/// The sockets of one stack, then those that its processes have on the kernel.
fn family_rows(family: &Family) -> Vec<Row> {
    let descriptors: Vec<(&Process, Vec<Descriptor>)> =
        family.processes.iter().map(|process| (process, descriptors::of(process.pid))).collect();
    let sockets = family.inspector.look(|stack| stack.snapshot());
    let known: BTreeSet<u64> = sockets.iter().map(|socket| socket.cookie).collect();
    let mut users: BTreeMap<u64, Vec<User>> = BTreeMap::new();
    for (process, descriptors) in &descriptors {
        for descriptor in descriptors.iter().filter(|descriptor| !descriptor.is_engines) {
            if let Some(cookie) = descriptor.cookie.filter(|cookie| known.contains(cookie)) {
                users
                    .entry(cookie)
                    .or_default()
                    .push(User { process: (*process).clone(), fd: descriptor.fd });
            }
        }
    }
    let mut rows: Vec<Row> = sockets
        .iter()
        .map(|socket| Row::of_engine(socket, users.remove(&socket.cookie).unwrap_or_default()))
        .collect();
    for (process, mut descriptors) in descriptors {
        descriptors.retain(|d| d.cookie.is_none_or(|cookie| !known.contains(&cookie)));
        rows.extend(kernel_rows(process, &descriptors, "not taken over"));
    }
    rows
}

/// The sockets of a process that the kernel serves.
fn kernel_rows(process: &Process, descriptors: &[Descriptor], reason: &str) -> Vec<Row> {
    let sockets = descriptors::kernel_sockets(process.pid);
    let served = descriptors.iter().filter(|d| !d.guard).filter_map(|d| Some((d, sockets.get(&d.inode)?)));
    served
        .map(|(descriptor, socket)| Row {
            state: socket.state,
            recv_q: socket.recv_q,
            send_q: socket.send_q,
            local: socket.local,
            remote: socket.remote,
            users: vec![User { process: process.clone(), fd: descriptor.fd }],
            stack: Stack::Kernel(reason.to_string()),
            info: None,
        })
        .collect()
}

fn port(endpoint: Endpoint) -> String {
    match endpoint.port {
        0 => "*".to_string(),
        port => port.to_string(),
    }
}

/// `[::1]:80`, `0.0.0.0:*`.
fn address(endpoint: Endpoint) -> String {
    if endpoint.addr.is_v4() {
        format!("{}:{}", endpoint.addr, port(endpoint))
    } else {
        format!("[{}]:{}", endpoint.addr, port(endpoint))
    }
}

impl Row {
    fn of_engine(socket: &SocketInfo, users: Vec<User>) -> Row {
        let connection = !matches!(socket.state, State::Listen | State::Closed) && socket.mss != 0;
        Row {
            state: socket.state.ss_name(),
            recv_q: socket.recv_q.into(),
            send_q: socket.send_q.into(),
            local: socket.local,
            // A listener has no peer: the wildcard of its own family.
            remote: if socket.remote.port == 0 {
                Endpoint::new(Addr::any(socket.local.addr.family()), 0)
            } else {
                socket.remote
            },
            users,
            stack: Stack::Tcpreload,
            info: connection.then_some(*socket),
        }
    }

    fn users(&self) -> String {
        if self.users.is_empty() {
            return String::new();
        }
        let users: Vec<String> = self
            .users
            .iter()
            .map(|user| format!("(\"{}\",pid={},fd={})", user.process.name, user.process.pid, user.fd))
            .collect();
        format!("users:({})", users.join(","))
    }

    fn stack(&self) -> String {
        match &self.stack {
            Stack::Tcpreload => "tcpreload".to_string(),
            Stack::Kernel(reason) => format!("kernel ({reason})"),
        }
    }

    fn cells(&self, processes: bool) -> Vec<String> {
        let mut cells = vec![
            self.state.to_string(),
            self.recv_q.to_string(),
            self.send_q.to_string(),
            address(self.local),
            address(self.remote),
            self.stack(),
        ];
        cells.extend(processes.then(|| self.users()));
        cells
    }
}

/// In the words, units and order of `ss -i`.
fn info_line(info: &SocketInfo) -> String {
    let ms = |us: u32| f64::from(us) / 1000.0;
    format!(
        "rto:{} rtt:{}/{} mss:{} cwnd:{} bytes_acked:{} bytes_received:{} retrans:{} \
         rcv_space:{} rcv_ssthresh:{} snd_wnd:{} rcv_wnd:{}",
        ms(info.rto_us),
        ms(info.rtt_us),
        ms(info.rttvar_us),
        info.mss,
        info.cwnd_segments,
        info.bytes_acked,
        info.bytes_received,
        info.retrans,
        info.rcv_space,
        info.rcv_ssthresh,
        info.snd_wnd,
        info.rcv_wnd,
    )
}

fn info_json(info: &SocketInfo) -> Value {
    json!({
        "rto_us": info.rto_us,
        "rtt_us": info.rtt_us,
        "rttvar_us": info.rttvar_us,
        "mss": info.mss,
        "cwnd": info.cwnd_segments,
        "bytes_acked": info.bytes_acked,
        "bytes_received": info.bytes_received,
        "retrans": info.retrans,
        "rcv_space": info.rcv_space,
        "rcv_ssthresh": info.rcv_ssthresh,
        "snd_wnd": info.snd_wnd,
        "rcv_wnd": info.rcv_wnd,
    })
}

fn as_table(rows: &[Row], options: &Options) -> String {
    let mut table: Vec<Vec<String>> = Vec::new();
    if !options.no_header {
        let names =
            ["State", "Recv-Q", "Send-Q", "Local Address:Port", "Peer Address:Port", "Stack", "Process"];
        let shown = if options.processes { names.len() } else { names.len() - 1 };
        table.push(names[..shown].iter().map(|name| (*name).to_string()).collect());
    }
    table.extend(rows.iter().map(|row| row.cells(options.processes)));
    let columns = table.first().map_or(0, Vec::len);
    let widths: Vec<usize> =
        (0..columns).map(|column| table.iter().map(|cells| cells[column].len()).max().unwrap_or(0)).collect();
    let header = table.len() - rows.len();
    let mut text = String::new();
    for (number, cells) in table.iter().enumerate() {
        let line: Vec<String> =
            cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text += line.join("  ").trim_end();
        text.push('\n');
        let info = number.checked_sub(header).and_then(|row| rows[row].info.as_ref());
        if let (true, Some(info)) = (options.info, info) {
            text += &format!("\t {}\n", info_line(info));
        }
    }
    text
}

fn as_json(rows: &[Row]) -> String {
    let rows: Vec<Value> = rows
        .iter()
        .map(|row| {
            let reason = match &row.stack {
                Stack::Tcpreload => Value::Null,
                Stack::Kernel(reason) => reason.as_str().into(),
            };
            let users: Vec<Value> = row
                .users
                .iter()
                .map(|user| json!({"name": user.process.name, "pid": user.process.pid, "fd": user.fd}))
                .collect();
            json!({
                "state": row.state,
                "recv_q": row.recv_q,
                "send_q": row.send_q,
                "local": {"address": row.local.addr.to_string(), "port": row.local.port},
                "peer": {"address": row.remote.addr.to_string(), "port": row.remote.port},
                "stack": if reason.is_null() { "tcpreload" } else { "kernel" },
                "reason": reason,
                "processes": users,
                "info": row.info.as_ref().map(info_json),
            })
        })
        .collect();
    format!("{}\n", Value::Array(rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener() -> Row {
        Row {
            state: "LISTEN",
            recv_q: 1,
            send_q: 128,
            local: Endpoint::new(Addr::v4([0, 0, 0, 0]), 8080),
            remote: Endpoint::new(Addr::v4([0, 0, 0, 0]), 0),
            users: vec![User { process: Process { pid: 12, name: "python3".into() }, fd: 3 }],
            stack: Stack::Kernel("no CAP_NET_RAW".into()),
            info: None,
        }
    }

    #[test]
    fn columns_are_those_of_ss_and_the_stack() {
        let options = Options::try_parse_from(["ss", "-ltnp"]).unwrap();
        let text = as_table(&[listener()], &options);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1][..5], ["LISTEN", "1", "128", "0.0.0.0:8080", "0.0.0.0:*"]);
        assert!(
            text.contains("kernel (no CAP_NET_RAW)") && text.contains("users:((\"python3\",pid=12,fd=3))")
        );
        let bare = Options::try_parse_from(["ss", "-H"]).unwrap();
        assert_eq!(as_table(&[], &bare), "");
    }

    #[test]
    fn json_has_every_field() {
        let rows: Value = serde_json::from_str(&as_json(&[listener()])).unwrap();
        assert_eq!(rows[0]["local"]["port"], 8080);
        assert_eq!((&rows[0]["stack"], &rows[0]["reason"]), (&"kernel".into(), &"no CAP_NET_RAW".into()));
        assert_eq!(rows[0]["processes"][0]["fd"], 3);
        assert_eq!(rows[0]["info"], Value::Null);
    }

    #[test]
    fn states_are_chosen_as_ss_does() {
        let wants = |flags: &[&str], state| {
            Options::try_parse_from(std::iter::once(&"ss").chain(flags)).unwrap().wants(state)
        };
        assert!(wants(&[], "ESTAB") && !wants(&[], "LISTEN") && !wants(&[], "TIME-WAIT"));
        assert!(wants(&["-l"], "LISTEN") && !wants(&["-l"], "ESTAB"));
        assert!(wants(&["-a"], "LISTEN") && wants(&["-a"], "TIME-WAIT"));
    }
}
