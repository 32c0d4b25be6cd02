//! The TCP descriptors of another process: which kernel socket each one is, and whether the kernel serves it.

use engine::values::{Addr, Endpoint};
use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// A socket descriptor of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    pub fd: i32,
    pub inode: u64,
    /// SO_COOKIE, by which the engine knows the socket; none where the process may not be looked into.
    pub cookie: Option<u64>,
    /// It only keeps the kernel away from a port that the engine serves.
    pub guard: bool,
    /// It stands where the library keeps descriptors of its own, such as a second one for a listener.
    pub is_engines: bool,
}

/// All socket descriptors of `pid`, of whatever kind.
pub fn of(pid: i32) -> Vec<Descriptor> {
    let pidfd = pidfd_open(pid);
    let top = highest_of_program(pid);
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let fd = entry.file_name().to_str()?.parse().ok()?;
            let link = fs::read_link(entry.path()).ok()?;
            let inode = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()?;
            let copy = pidfd.as_ref().and_then(|pidfd| pidfd_getfd(pidfd, fd));
            let cookie = copy.as_ref().and_then(|copy| engine::sys::socket_cookie(copy.as_raw_fd()).ok());
            let guard = copy.is_some_and(|copy| is_guard(&copy));
            Some(Descriptor { fd, inode, cookie, guard, is_engines: fd >= top })
        })
        .collect()
}

/// Where the library's own descriptors begin (`engine::sys::move_high`).
fn highest_of_program(pid: i32) -> i32 {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap_or_default();
    let Some(line) = limits.lines().find_map(|line| line.strip_prefix("Max open files")) else {
        return i32::MAX;
    };
    let mut numbers = line.split_whitespace().map_while(|word| word.parse::<u64>().ok());
    let (Some(soft), Some(hard)) = (numbers.next(), numbers.next()) else { return i32::MAX };
    i32::try_from(engine::sys::floor_of_own(soft, hard)).unwrap_or(i32::MAX)
}

/// Guards drop what was routed: no TTL below 255 is let in.
fn is_guard(socket: &OwnedFd) -> bool {
    [(libc::IPPROTO_IP, libc::IP_MINTTL), (libc::IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT)]
        .into_iter()
        .any(|(level, name)| engine::sys::getsockopt_int(socket.as_raw_fd(), level, name) == Ok(255))
}

fn pidfd_open(pid: i32) -> Option<OwnedFd> {
    // SAFETY: takes numbers; a descriptor that it returns is new and ours.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

fn pidfd_getfd(pidfd: &OwnedFd, fd: i32) -> Option<OwnedFd> {
    // SAFETY: takes numbers; a descriptor that it returns is new and ours.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0) })
}

fn owned(answer: libc::c_long) -> Option<OwnedFd> {
    let fd = i32::try_from(answer).ok().filter(|&fd| fd >= 0)?;
    // SAFETY: a new descriptor that nobody else knows of.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A line of /proc/PID/net/tcp: a socket of the kernel's own TCP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelSocket {
    pub local: Endpoint,
    pub remote: Endpoint,
    pub state: &'static str,
    pub send_q: u64,
    pub recv_q: u64,
}

/// The kernel's TCP sockets in the network namespace of `pid`, by inode.
pub fn kernel_sockets(pid: i32) -> BTreeMap<u64, KernelSocket> {
    ["tcp", "tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(format!("/proc/{pid}/net/{table}")).ok())
        .flat_map(|text| text.lines().skip(1).filter_map(kernel_socket).collect::<Vec<_>>())
        .collect()
}

fn kernel_socket(line: &str) -> Option<(u64, KernelSocket)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (send_q, recv_q) = words.get(4)?.split_once(':')?;
    let socket = KernelSocket {
        local: endpoint(words.get(1)?)?,
        remote: endpoint(words.get(2)?)?,
        state: state(u8::from_str_radix(words.get(3)?, 16).ok()?),
        send_q: u64::from_str_radix(send_q, 16).ok()?,
        recv_q: u64::from_str_radix(recv_q, 16).ok()?,
    };
    Some((words.get(9)?.parse().ok()?, socket))
}

/// `0100007F:1F90`: 32-bit words in host byte order, then the port.
fn endpoint(text: &str) -> Option<Endpoint> {
    let (addr, port) = text.split_once(':')?;
    let mut bytes = Vec::with_capacity(16);
    for at in (0..addr.len()).step_by(8) {
        bytes.extend(u32::from_str_radix(addr.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    }
    let addr = match bytes.len() {
        4 => Addr::v4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]).octets()),
        16 => Addr::v6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).octets()),
        _ => return None,
    };
    Some(Endpoint::new(addr, u16::from_str_radix(port, 16).ok()?))
}

/// The kernel's numbers for the states (include/net/tcp_states.h), in the words of ss(8).
fn state(number: u8) -> &'static str {
    const NAMES: [&str; 13] = [
        "UNKNOWN",
        "ESTAB",
        "SYN-SENT",
        "SYN-RECV",
        "FIN-WAIT-1",
        "FIN-WAIT-2",
        "TIME-WAIT",
        "UNCONN",
        "CLOSE-WAIT",
        "LAST-ACK",
        "LISTEN",
        "CLOSING",
        "SYN-RECV",
    ];
    NAMES.get(usize::from(number)).copied().unwrap_or("UNKNOWN")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_proc_net_tcp() {
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000005 00:00000000 00000000     0        0 8104 1 0 100";
        let (inode, socket) = kernel_socket(line).unwrap();
        assert_eq!((inode, socket.state, socket.recv_q, socket.send_q), (8104, "LISTEN", 5, 0));
        assert_eq!(socket.local.to_string(), "127.0.0.1:8080");
        let six = endpoint("00000000000000000000000001000000:0016").unwrap();
        assert_eq!(six.to_string(), "[::1]:22");
        assert!(kernel_socket("garbage").is_none() && endpoint("12:34").is_none());
    }

    #[test]
    fn own_sockets_are_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let pid = std::process::id() as i32;
        let mine =
            of(pid).into_iter().find(|d| d.fd == listener.as_raw_fd()).expect("a descriptor of our own");
        assert!(!mine.guard && mine.cookie.is_some());
        let kernel = &kernel_sockets(pid)[&mine.inode];
        assert_eq!(kernel.local.port, listener.local_addr().unwrap().port());
        assert_eq!(kernel.state, "LISTEN");
    }
}
