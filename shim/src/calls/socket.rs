//! socket, bind, listen, accept, connect, shutdown, names.

use crate::abi::{self, SockAddr};
use crate::block::{self, Waiting};
use crate::calls::descriptors;
use crate::errno::{Errno, Outcome};
use crate::runtime::{self, Locked, Runtime};
use crate::{companion, config, fdtable, portguard};
use core::sync::atomic::{AtomicBool, Ordering};
use engine::stack::{Accepted, PortId, Ready, Route, ShutdownHow, SockId, SocketPhase};
use engine::sys;
use engine::tcp::State;
use engine::values::{Addr, Endpoint, Error, Family};
use std::os::fd::RawFd;

/// Whether socket(2) with these arguments makes a TCP socket.
pub fn is_tcp(domain: i32, kind: i32, protocol: i32) -> Option<Family> {
    let family = match domain {
        libc::AF_INET => Family::V4,
        libc::AF_INET6 => Family::V6,
        _ => return None,
    };
    let stream = kind & !(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) == libc::SOCK_STREAM;
    (stream && matches!(protocol, 0 | libc::IPPROTO_TCP)).then_some(family)
}

/// The kernel has made `fd`, a TCP socket: it becomes ours, or the kernel's for good, with a reason told once.
///
/// # Errors
/// EPERM in strict mode where the socket would run on the kernel's TCP; `fd` is closed then.
pub fn adopt(fd: RawFd, family: Family, nonblocking: bool) -> Outcome<i32> {
    let rt = match runtime::attach() {
        Ok(rt) => rt,
        Err(reason) => return left_to_kernel(fd, &reason.to_string()),
    };
    let cookie = sys::socket_cookie(fd)?;
    let mut locked = rt.lock()?;
    match locked.stack().socket_create(family, cookie) {
        Ok(id) => {
            if let Some(o) = locked.stack().options_mut(id) {
                o.nonblocking = nonblocking;
            }
            descriptors::evict(&mut locked, fd);
            fdtable::set_socket(fd, id);
            Ok(fd)
        }
        Err(error) => {
            drop(locked);
            left_to_kernel(fd, &format!("{error}, a socket is left to the kernel"))
        }
    }
}

/// A socket that runs on the kernel's TCP: told once on standard error (unless the launcher has, TCPRELOAD_TOLD), an error
/// in strict mode.
fn left_to_kernel(fd: RawFd, reason: &str) -> Outcome<i32> {
    static TOLD: AtomicBool = AtomicBool::new(false);
    fdtable::set_foreign(fd);
    log::warn!("descriptor {fd}: {reason}");
    if !TOLD.swap(true, Ordering::Relaxed) && std::env::var_os("TCPRELOAD_TOLD").is_none() {
        crate::log::tell(reason);
    }
    if config::is_strict() {
        let _ = sys::close(fd);
        return Err(Errno(libc::EPERM));
    }
    Ok(fd)
}

/// bind(2). The kernel binds the socket that stands for ours: it arbitrates between programs. Where one of our own guards
/// is in its way, the engine arbitrates as Linux would.
pub fn bind(
    rt: &Runtime,
    fd: RawFd,
    id: SockId,
    addr: *const libc::sockaddr,
    len: libc::socklen_t,
) -> Outcome<i32> {
    let mut locked = rt.lock()?;
    let family = locked.stack().family(id).ok_or(Errno(libc::EBADF))?;
    let raw = abi::bytes(addr.cast(), (len as usize).min(128))?;
    if len as usize > 128 {
        return Err(Errno(libc::EINVAL));
    }
    check_bind_address(raw, family)?;
    if locked.stack().phase(id) == SocketPhase::Connected && locked.stack().tcp_state(id) == State::Closed {
        // A connection that has ended leaves its socket without an address in Linux; what is bound here serves nothing.
        sys::bind(fd, raw)?;
        return Ok(0);
    }
    if locked.stack().is_bound(id) || locked.stack().phase(id) != SocketPhase::Unconnected {
        return Err(Errno(libc::EINVAL));
    }
    match sys::bind(fd, raw) {
        Ok(()) => {
            let local = kernel_name(fd, family)?;
            locked.stack().bound(id, local, None);
            Ok(0)
        }
        Err(libc::EADDRINUSE) => {
            let SockAddr::Inet(local) = abi::sockaddr(addr, len, family)? else {
                return Err(Errno(libc::EADDRINUSE));
            };
            let port = bind_among_guards(&mut locked, fd, raw, id, local)?;
            let local = if port.is_none() { kernel_name(fd, family)? } else { local };
            locked.stack().bound(id, local, port);
            Ok(0)
        }
        Err(errno) => Err(Errno(errno)),
    }
}

/// The kernel refuses to bind: because of a guard of ours, which may serve this socket as well; of one that nothing needs any
/// more; or of another family's, which only goes on with old connections. `None`: it binds now.
fn bind_among_guards(
    locked: &mut Locked,
    fd: RawFd,
    raw: &[u8],
    id: SockId,
    local: Endpoint,
) -> Outcome<Option<PortId>> {
    let local = locked.stack().as_guarded(id, local);
    let allowed = locked.stack().may_bind(id, local);
    if let Ok(port) = allowed
        && locked.stack().port_is_alive(port)
    {
        return Ok(Some(port));
    }
    locked.stack().retire_stock(local);
    portguard::sweep(locked);
    if locked.stack().port_is_live_at(local) {
        return Err(Errno(libc::EADDRINUSE));
    }
    let rt = locked.runtime();
    locked.unlocked(|| companion::drop_guards(rt));
    let refused = match sys::bind(fd, raw) {
        Ok(()) => return Ok(None),
        Err(errno) => Errno(errno),
    };
    // Some process of ours has not dropped it yet, and it may as well be used again.
    if allowed.is_ok()
        && let Ok(port) = locked.stack().may_bind(id, local)
    {
        return Ok(Some(port));
    }
    let reuse = locked.stack().options(id).is_some_and(|o| o.reuse_addr);
    match portguard::take_over(locked, local, reuse) {
        Some(port) => Ok(Some(port)),
        // Those that were asked have dropped what they did not need either.
        None => sys::bind(fd, raw).map(|()| None).map_err(|_| refused),
    }
}

/// What inet_bind looks at before it looks at the socket.
fn check_bind_address(raw: &[u8], family: Family) -> Outcome<()> {
    let (least, own) = match family {
        Family::V4 => (16, libc::AF_INET),
        Family::V6 => (24, libc::AF_INET6),
    };
    if raw.len() < least {
        return Err(Errno(libc::EINVAL));
    }
    let given = i32::from(u16::from_ne_bytes([raw[0], raw[1]]));
    // An old mistake that IPv4 puts up with: AF_UNSPEC and the wildcard.
    let forgiven = family == Family::V4 && given == libc::AF_UNSPEC && raw[4..8] == [0; 4];
    if given == own || forgiven { Ok(()) } else { Err(Errno(libc::EAFNOSUPPORT)) }
}

/// The address that the kernel has given to `fd`.
fn kernel_name(fd: RawFd, family: Family) -> Outcome<Endpoint> {
    let mut name = [0u8; 28];
    sys::getsockname(fd, &mut name)?;
    let port = u16::from_be_bytes([name[2], name[3]]);
    Ok(match family {
        Family::V4 => Endpoint::new(Addr::v4([name[4], name[5], name[6], name[7]]), port),
        Family::V6 => {
            let scope = u32::from_ne_bytes([name[24], name[25], name[26], name[27]]);
            Endpoint::with_scope(Addr::v6(core::array::from_fn(|i| name[8 + i])), port, scope)
        }
    })
}

/// listen(2): the guard goes up, then the engine listens.
pub fn listen(rt: &Runtime, fd: RawFd, id: SockId, backlog: i32) -> Outcome<i32> {
    let mut locked = rt.lock()?;
    let family = locked.stack().family(id).ok_or(Errno(libc::EBADF))?;
    match locked.stack().phase(id) {
        SocketPhase::Listening => {
            locked.stack().listen(id, backlog)?;
            return Ok(0);
        }
        SocketPhase::Unconnected => {}
        _ => return Err(Errno(libc::EINVAL)),
    }
    if !locked.stack().is_bound(id) {
        // As Linux: a port of the kernel's choice.
        let mut name = [0u8; 28];
        let len = engine::device::sockaddr(Addr::any(family), 0, 0, &mut name);
        sys::bind(fd, &name[..len])?;
        let local = kernel_name(fd, family)?;
        locked.stack().bound(id, local, None);
    }
    if locked.stack().port_of(id).is_none() {
        let local = locked.stack().local(id).ok_or(Errno(libc::EBADF))?;
        match portguard::guard_bound(&mut locked, fd, id, local, family) {
            Ok(port) => locked.stack().set_port(id, port),
            Err(libc::EADDRINUSE) => return Err(Errno(libc::EADDRINUSE)),
            Err(errno) => {
                let reason = std::io::Error::from_raw_os_error(errno);
                let reason = format!("no guard for {local} ({reason}), this listener is left to the kernel");
                return hand_back(locked, fd, id, backlog, &reason);
            }
        }
    }
    locked.stack().listen(id, backlog)?;
    if let Some(local) = locked.stack().local(id) {
        log::info!("descriptor {fd} listens on {local}, backlog {backlog}");
    }
    Ok(0)
}

/// The port cannot be guarded: the socket becomes the kernel's, before anybody has connected to it.
fn hand_back(mut locked: Locked, fd: RawFd, id: SockId, backlog: i32, reason: &str) -> Outcome<i32> {
    let (stack, now) = locked.stack_now();
    stack.release(now, id);
    drop(locked);
    left_to_kernel(fd, reason)?;
    sys::listen(fd, backlog)?;
    Ok(0)
}

/// accept(2) and accept4(2).
pub fn accept(
    rt: &Runtime,
    id: SockId,
    addr: *mut libc::sockaddr,
    len: *mut libc::socklen_t,
    flags: i32,
) -> Outcome<i32> {
    if flags & !(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) != 0 {
        return Err(Errno(libc::EINVAL));
    }
    let mut locked = rt.lock()?;
    let waiting = waiting_to_receive(&mut locked, id, Ready::IN, true)?;
    let (fd, accepted, connection) = block::until(locked, &waiting, |l, _| {
        let accepted = l.stack().accept_begin(id)?;
        // Under one hold of the lock: a connection is either in the queue or some descriptor's.
        Ok(descriptor_for(l, id, accepted, flags).map(|(fd, connection)| (fd, accepted, connection)))
    })??;
    if !addr.is_null() {
        // As Linux: a bad address loses the connection, not the descriptor table.
        let mut locked = rt.lock()?;
        let family = locked.stack().family(connection).unwrap_or(accepted.tuple.local.addr.family());
        if let Err(errno) = abi::give_sockaddr(&accepted.tuple.remote, family, addr, len) {
            fdtable::take(fd);
            let (stack, now) = locked.stack_now();
            stack.release(now, connection);
            let _ = sys::close(fd);
            return Err(errno);
        }
    }
    Ok(fd)
}

/// Makes the descriptor of a connection that was taken off the accept queue; where that fails, it is in the queue again.
fn descriptor_for(
    locked: &mut Locked,
    listener: SockId,
    accepted: Accepted,
    flags: i32,
) -> Outcome<(RawFd, SockId)> {
    let family = locked.stack().family(listener).unwrap_or(accepted.tuple.local.addr.family());
    let domain = match family {
        Family::V4 => libc::AF_INET,
        Family::V6 => libc::AF_INET6,
    };
    let made = sys::socket(domain, libc::SOCK_STREAM | flags, libc::IPPROTO_TCP)
        .and_then(|fd| Ok((fd, sys::socket_cookie(fd).inspect_err(|_| sys::close(fd).unwrap_or(()))?)));
    let (fd, cookie) = match made {
        Ok(made) => made,
        Err(errno) => {
            locked.stack().accept_undo(accepted);
            return Err(Errno(errno));
        }
    };
    match locked.stack().accept_finish(accepted, cookie) {
        Ok(id) => {
            if let Some(o) = locked.stack().options_mut(id) {
                o.nonblocking = flags & libc::SOCK_NONBLOCK != 0;
            }
            descriptors::evict(locked, fd);
            fdtable::set_socket(fd, id);
            log::debug!("descriptor {fd}: accepted {} on {}", accepted.tuple.remote, accepted.tuple.local);
            Ok((fd, id))
        }
        Err(error) => {
            let _ = sys::close(fd);
            Err(error.into())
        }
    }
}

/// How a call that receives waits: O_NONBLOCK, SO_RCVTIMEO.
pub fn waiting_to_receive(
    locked: &mut Locked,
    id: SockId,
    interest: Ready,
    exclusive: bool,
) -> Outcome<Waiting> {
    let o = locked.stack().options(id).ok_or(Errno(libc::EBADF))?;
    Ok(Waiting {
        socket: id,
        interest,
        exclusive,
        deadline: block::deadline(o.rcvtimeo_us),
        nonblocking: o.nonblocking,
    })
}

/// How a call that sends waits: O_NONBLOCK, SO_SNDTIMEO.
pub fn waiting_to_send(locked: &mut Locked, id: SockId) -> Outcome<Waiting> {
    let o = locked.stack().options(id).ok_or(Errno(libc::EBADF))?;
    Ok(Waiting {
        socket: id,
        interest: Ready::OUT,
        exclusive: false,
        deadline: block::deadline(o.sndtimeo_us),
        nonblocking: o.nonblocking,
    })
}

/// connect(2).
pub fn connect(
    rt: &Runtime,
    fd: RawFd,
    id: SockId,
    addr: *const libc::sockaddr,
    len: libc::socklen_t,
) -> Outcome<i32> {
    let mut locked = rt.lock()?;
    let family = locked.stack().family(id).ok_or(Errno(libc::EBADF))?;
    let remote = match abi::sockaddr(addr, len, family) {
        Ok(SockAddr::Unspecified) => {
            let (stack, now) = locked.stack_now();
            stack.disconnect(now, id);
            return Ok(0);
        }
        Ok(SockAddr::Inet(remote)) => Ok(remote),
        // __inet_stream_connect: what is wrong with an address that could be copied, a socket that is connected is not told.
        Err(errno) if errno.0 != libc::EFAULT && (2..=128).contains(&len) => Err(errno),
        Err(errno) => return Err(errno),
    };
    let begun = match locked.stack().phase(id) {
        SocketPhase::Unconnected => {
            let (remote, route) = reach(rt, &mut locked, fd, id, family, remote?)?;
            let (stack, now) = locked.stack_now();
            stack.connect(now, id, remote, &route).map_err(Errno::from)
        }
        // Until the program writes, which another thread may do (TCP_FASTOPEN_CONNECT).
        SocketPhase::Connecting if locked.stack().is_deferred(id) => Err(Errno(libc::EISCONN)),
        SocketPhase::Connecting => {
            locked.turn_if_due();
            locked.stack().connect_result(id).map_err(Errno::from)
        }
        _ => Err(Errno(libc::EISCONN)),
    };
    let waiting = waiting_to_send(&mut locked, id)?;
    match begun {
        Err(Errno(libc::EINPROGRESS | libc::EALREADY)) if !waiting.nonblocking => {}
        Err(Errno(libc::EISCONN)) if !waiting.nonblocking && locked.stack().is_deferred(id) => {}
        other => return other.map(|()| 0),
    }
    await_connection(locked, &waiting).map(|()| 0)
}

/// Until the attempt has ended.
pub fn await_connection(locked: Locked, waiting: &Waiting) -> Outcome<()> {
    let timed = waiting.deadline.is_some();
    block::until(locked, waiting, |l, _| match l.stack().connect_result(waiting.socket) {
        Err(Error::Already) => Err(Error::WouldBlock),
        other => other,
    })
    .map_err(|errno| match errno {
        // The attempt goes on after a time-out, and after a signal.
        Errno(libc::EAGAIN) if timed => Errno(libc::EINPROGRESS),
        errno => errno,
    })
}

/// The way to `remote`, as connect(2) understands it, and a port to come from.
pub fn reach(
    rt: &Runtime,
    locked: &mut Locked,
    fd: RawFd,
    id: SockId,
    family: Family,
    mut remote: Endpoint,
) -> Outcome<(Endpoint, Route)> {
    let own = locked.stack().local(id).map_or(Addr::any(family), |l| l.addr);
    let mapped = family == Family::V6 && own.is_v4();
    if remote.addr.is_unspecified() {
        // "This host": the loopback address, of IPv4 also where the socket's own address is one.
        remote.addr = if remote.addr.is_v4() || mapped {
            Addr::v4([127, 0, 0, 1])
        } else {
            Addr::v6([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1])
        };
    }
    // One family's address does not reach the other's (tcp_v6_connect, c-tests/six.c).
    if mapped && !remote.addr.is_v4() {
        return Err(Errno(libc::EAFNOSUPPORT));
    }
    if family == Family::V6 && remote.addr.is_v4() && locked.stack().options(id).is_some_and(|o| o.v6only) {
        return Err(Errno(libc::ENETUNREACH));
    }
    if remote.addr.is_multicast() || remote.addr.is_limited_broadcast() {
        return Err(Errno(libc::ENETUNREACH));
    }
    if remote.addr.is_link_local_v6() {
        let device = engine::device::device_of(fd)?;
        if remote.scope != 0 && device != 0 && remote.scope != device {
            return Err(Errno(libc::EINVAL));
        }
        remote.scope = remote.scope.max(device);
    }
    let like = locked.stack().options(id).is_some_and(|o| o.own_route).then_some(fd);
    let route = rt.route(remote.addr, remote.scope, like).map_err(|errno| match errno {
        // A broadcast address: TCP cannot reach it, whatever SO_BROADCAST says.
        libc::EACCES => Errno(libc::ENETUNREACH),
        errno => Errno(errno),
    })?;
    let now = locked.now();
    if locked.stack().is_bound(id) {
        guard_for_connect(locked, fd, id, family)?;
    } else {
        let port = match locked.stack().pick_port(now, route.source, remote, true) {
            Some(port) => port,
            None => match portguard::add_stock(locked, route.source.family()) {
                Ok(port) => port,
                // No descriptor for one more guard: one of those there are, rested or not.
                Err(errno) => {
                    locked.stack().pick_port(now, route.source, remote, false).ok_or(Errno(errno))?
                }
            },
        };
        locked.stack().set_port(id, port);
    }
    log::debug!("descriptor {fd}: connecting to {remote} from {}, MTU {}", route.source, route.mtu);
    Ok((remote, Route { source: route.source, mtu: route.mtu }))
}

/// A guard for the address that the program has bound.
fn guard_for_connect(locked: &mut Locked, fd: RawFd, id: SockId, family: Family) -> Outcome<()> {
    if locked.stack().port_of(id).is_some() {
        return Ok(());
    }
    let local = locked.stack().local(id).ok_or(Errno(libc::EBADF))?;
    let port = match portguard::guard_bound(locked, fd, id, local, family) {
        Ok(port) => port,
        // Two of our sockets were bound to it with SO_REUSEADDR before either connected: one guard serves both.
        Err(libc::EADDRINUSE) => {
            locked.stack().port_covering(local.addr, local.port).ok_or(Errno(libc::EADDRINUSE))?
        }
        Err(errno) => return Err(Errno(errno)),
    };
    locked.stack().set_port(id, port);
    Ok(())
}

pub fn shutdown(rt: &Runtime, id: SockId, how: i32) -> Outcome<i32> {
    let how = match how {
        libc::SHUT_RD => ShutdownHow::Read,
        libc::SHUT_WR => ShutdownHow::Write,
        libc::SHUT_RDWR => ShutdownHow::Both,
        _ => return Err(Errno(libc::EINVAL)),
    };
    crate::relay::settle(rt, id, engine::shared::relay::Question::Written)?;
    let mut locked = rt.lock()?;
    // What the peer has done in the meantime counts.
    locked.turn_if_due();
    let (stack, now) = locked.stack_now();
    stack.shutdown(now, id, how)?;
    Ok(0)
}

pub fn getsockname(
    rt: &Runtime,
    id: SockId,
    addr: *mut libc::sockaddr,
    len: *mut libc::socklen_t,
) -> Outcome<i32> {
    let mut locked = rt.lock()?;
    let family = locked.stack().family(id).ok_or(Errno(libc::EBADF))?;
    let mut local = locked.stack().local(id).ok_or(Errno(libc::EBADF))?;
    if local.addr.is_link_local_v6() && local.scope == 0 {
        // A connection's own address, on the link that its peer is on.
        local.scope = locked.stack().remote(id).map_or(0, |remote| remote.scope);
    }
    abi::give_sockaddr(&local, family, addr, len)?;
    Ok(0)
}

pub fn getpeername(
    rt: &Runtime,
    id: SockId,
    addr: *mut libc::sockaddr,
    len: *mut libc::socklen_t,
) -> Outcome<i32> {
    let mut locked = rt.lock()?;
    locked.turn_if_due();
    let family = locked.stack().family(id).ok_or(Errno(libc::EBADF))?;
    let remote = locked.stack().remote(id)?;
    abi::give_sockaddr(&remote, family, addr, len)?;
    Ok(0)
}
