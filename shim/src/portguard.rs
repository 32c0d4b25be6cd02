//! Guards: kernel sockets in LISTEN whose rule drops every segment, so that the kernel neither serves our ports nor resets
//! our connections, and nobody else can bind them.
//!
//! The rule needs no privilege: a TCP-MD5 key for every peer (segments without a signature are dropped in silence), and a
//! minimum TTL of 255, which drops nearly all of them earlier and cheaper. The rule comes first, listen second: a guard
//! whose rule could not be set never listens, for then the kernel would serve the port.
//!
//! A guard is a descriptor above the program's. The stack says which ports are still needed; [`sweep`] drops the rest.

use crate::companion;
use crate::fdtable;
use crate::runtime::{Locked, Runtime};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use core::time::Duration;
use engine::shared::messages::{Message, Subject};
use engine::stack::{PortId, PortKind, SockId};
use engine::sys;
use engine::values::{Addr, Endpoint, Family};
use parking_lot::Mutex;
use std::os::fd::RawFd;

const TCP_MD5SIG_EXT: i32 = 32;
const TCP_MD5SIG_FLAG_PREFIX: u8 = 1;
const IP_MINTTL: i32 = 21;
const IPV6_MINHOPCOUNT: i32 = 73;

/// struct tcp_md5sig.
#[repr(C)]
#[derive(Clone, Copy)]
struct Md5Sig {
    addr: [u8; 128],
    flags: u8,
    prefix_len: u8,
    key_len: u16,
    ifindex: i32,
    key: [u8; 80],
}

/// A guard of this process.
struct Guard {
    port: PortId,
    fd: RawFd,
    /// The companion has it.
    shown: bool,
}

/// Guards of this process. Only touched under the arena's lock, which fork holds: neither a signal handler nor a child finds it
/// locked.
static GUARDS: Mutex<Vec<Guard>> = Mutex::new(Vec::new());
/// How many of them are not shown.
static UNSHOWN: AtomicUsize = AtomicUsize::new(0);
/// How long a process that ends waits for the companion to have them.
const LAST_CHANCE: Duration = Duration::from_millis(200);
/// How long the companion has to make room in its queue, each time.
const MAKES_ROOM_US: u64 = 1_000;
/// When it is to be asked again, microseconds.
static TRY_AGAIN_US: AtomicU64 = AtomicU64::new(0);
/// What the stack's count of ports given up was at the last sweep.
static SWEPT: AtomicU64 = AtomicU64::new(0);

/// Puts the rule on `fd`.
fn set_rule(fd: RawFd, family: Family) -> Result<(), i32> {
    let keys: &[Addr] = match family {
        Family::V4 => &[Addr::ANY_V4],
        Family::V6 => &[Addr::ANY_V6, Addr::ANY_V4],
    };
    for &peer in keys {
        let mut sig = Md5Sig {
            addr: [0; 128],
            flags: TCP_MD5SIG_FLAG_PREFIX,
            prefix_len: 0,
            key_len: 16,
            ifindex: 0,
            key: [0; 80],
        };
        if !sys::random_bytes(&mut sig.key[..16]) {
            return Err(libc::EAGAIN);
        }
        match family {
            Family::V4 => sig.addr[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes()),
            Family::V6 => {
                sig.addr[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
                sig.addr[8..24].copy_from_slice(&peer.0);
            }
        }
        sys::setsockopt_value(fd, libc::IPPROTO_TCP, TCP_MD5SIG_EXT, &sig)?;
    }
    // Cheaper drops; the key alone is enough where these are not to be had.
    let _ = sys::setsockopt_value(fd, libc::IPPROTO_IP, IP_MINTTL, &255i32);
    if family == Family::V6 {
        let _ = sys::setsockopt_value(fd, libc::IPPROTO_IPV6, IPV6_MINHOPCOUNT, &255i32);
    }
    Ok(())
}

/// Where the kernel has no TCP-MD5 (FIPS): a socket filter that drops all; asks for CAP_NET_ADMIN on current kernels.
fn set_filter(fd: RawFd) -> Result<(), i32> {
    let drop_all = libc::sock_filter { code: 6, jt: 0, jf: 0, k: 0 };
    let fprog = libc::sock_fprog { len: 1, filter: core::ptr::from_ref(&drop_all).cast_mut() };
    sys::setsockopt_value(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &fprog)
}

/// Makes the bound kernel socket `fd` a guard, held by a descriptor of our own.
fn raise(fd: RawFd, family: Family) -> Result<RawFd, i32> {
    set_rule(fd, family).or_else(|errno| set_filter(fd).map_err(|_| errno))?;
    let held = sys::move_high(sys::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0)? as RawFd)?;
    if let Err(errno) = sys::listen(held, 1) {
        let _ = sys::close(held);
        return Err(errno);
    }
    Ok(held)
}

/// A guard on the address that the program has bound `fd` to, registered with the stack.
///
/// # Errors
/// The errno; the port is then the kernel's, and must stay so.
pub fn guard_bound(
    locked: &mut Locked,
    fd: RawFd,
    id: SockId,
    local: Endpoint,
    family: Family,
) -> Result<PortId, i32> {
    let held = raise(fd, family)?;
    let mut local = local;
    if local.port == 0 {
        // IP_BIND_ADDRESS_NO_PORT: the kernel has chosen one only now.
        local.port = port_of(held)?;
    }
    let local = locked.stack().as_guarded(id, local);
    register(locked, held, local, PortKind::Bound)
}

fn keep(port: PortId, fd: RawFd) {
    GUARDS.lock().push(Guard { port, fd, shown: false });
    UNSHOWN.fetch_add(1, Ordering::Relaxed);
    fdtable::set_engine(fd);
}

/// Shows the companion those guards that it does not have: connections may outlive this process, and only with the guard can it
/// go on with them. Never waits, for the companion needs the lock to make room in its queue: what finds no room is tried again
/// when a thread leaves the engine a moment later, and when this process ends.
fn show(locked: &mut Locked) {
    let rt = locked.runtime();
    for guard in GUARDS.lock().iter_mut().filter(|g| !g.shown) {
        // Counted first: as long as any copy of it is open, the resets for the port are ours to send.
        locked.stack().guard_shown(guard.port);
        let message = Message { id: guard.port.to_raw(), ..Message::new(Subject::Guard) };
        if let Err(errno) = companion::try_send(rt, message, &[guard.fd]) {
            locked.stack().guard_not_shown(guard.port);
            if matches!(errno, libc::EAGAIN | libc::ETOOMANYREFS) {
                TRY_AGAIN_US.store(sys::monotonic_now().plus_us(MAKES_ROOM_US).as_us(), Ordering::Relaxed);
                return rt.ring_companion();
            }
            // There is none, and the next one is introduced to them all; or this process cannot reach it (another network
            // namespace), and never will.
            log::debug!("a guard without a companion: {}", std::io::Error::from_raw_os_error(errno));
        }
        guard.shown = true;
        UNSHOWN.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether there are guards that the companion should have, and has not.
pub fn some_unshown() -> bool {
    UNSHOWN.load(Ordering::Relaxed) != 0
}

/// The end of this process: the last chance of those guards. A companion that makes no room for long is stopped.
pub fn show_the_rest(locked: &mut Locked) {
    let end = sys::monotonic_now().plus_us(LAST_CHANCE.as_micros() as u64);
    while some_unshown() {
        show(locked);
        if !some_unshown() || sys::monotonic_now() >= end {
            return;
        }
        locked.unlocked(|| {
            let _ = sys::ppoll(&mut [], Some(Duration::from_micros(MAKES_ROOM_US)), None);
        });
    }
}

/// There is a new companion, which has none of the guards yet.
pub fn introduce(rt: &Runtime) {
    let Ok(mut locked) = rt.lock() else { return };
    let mut guards = GUARDS.lock();
    guards.iter_mut().for_each(|g| g.shown = false);
    UNSHOWN.store(guards.len(), Ordering::Relaxed);
    drop(guards);
    show(&mut locked);
}

/// The kernel says that `local` is in use: a guard of another family's, which has no listener there any more, is ours from now
/// on. `None`: it is somebody else's.
pub fn take_over(locked: &mut Locked, local: Endpoint, reuse_addr: bool) -> Option<PortId> {
    let rt = locked.runtime();
    let given = locked.unlocked(|| companion::ask_others_for_guard(rt, local, reuse_addr))?;
    let held = sys::move_high(given.guard).unwrap_or(given.guard);
    let registered = register(locked, held, given.local, PortKind::Bound);
    if let Ok(port) = registered {
        log::info!("the guard on {} was another program's, whose connections go on", given.local);
        locked.stack().guest_came(port);
        let message = Message { id: port.to_raw(), ..Message::new(Subject::Guest) };
        if locked.unlocked(|| companion::send(rt, message, &[given.connection])).is_err() {
            // Nobody would see that the other family is done.
            locked.stack().guest_left(port);
        }
    }
    let _ = sys::close(given.connection);
    registered.ok()
}

fn register(locked: &mut Locked, held: RawFd, local: Endpoint, kind: PortKind) -> Result<PortId, i32> {
    match locked.stack().port_create(local, kind) {
        Ok(port) => {
            keep(port, held);
            show(locked);
            locked.sync_filter();
            Ok(port)
        }
        Err(error) => {
            let _ = sys::close(held);
            Err(error.errno())
        }
    }
}

/// A new guard for the stock: on a port of the kernel's choice, for connections from any address of the family.
///
/// # Errors
/// The errno: EADDRNOTAVAIL when the range is used up, EMFILE ...
pub fn add_stock(locked: &mut Locked, family: Family) -> Result<PortId, i32> {
    let domain = match family {
        Family::V4 => libc::AF_INET,
        Family::V6 => libc::AF_INET6,
    };
    let fd = sys::socket(domain, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0)?;
    let raised = bind_any(fd, family).and_then(|port| Ok((port, raise(fd, family)?)));
    let _ = sys::close(fd);
    let (port, held) = match raised {
        // connect(2) speaks of addresses, not of bind(2)'s.
        Err(libc::EADDRINUSE) => return Err(libc::EADDRNOTAVAIL),
        other => other?,
    };
    let local = match family {
        Family::V4 => Addr::ANY_V4,
        Family::V6 => Addr::ANY_V6_ALONE,
    };
    register(locked, held, Endpoint::new(local, port), PortKind::Stock)
}

fn bind_any(fd: RawFd, family: Family) -> Result<u16, i32> {
    if family == Family::V6 {
        // `::` for IPv6 alone: the same number stays free for IPv4.
        sys::setsockopt_value(fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, &1i32)?;
    }
    let mut name = [0u8; 28];
    let len = engine::device::sockaddr(Addr::any(family), 0, 0, &mut name);
    if family == Family::V6 {
        name[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
    }
    sys::bind(fd, &name[..len])?;
    port_of(fd)
}

fn port_of(fd: RawFd) -> Result<u16, i32> {
    let mut name = [0u8; 28];
    sys::getsockname(fd, &mut name)?;
    Ok(u16::from_be_bytes([name[2], name[3]]))
}

/// Drops the guards whose ports the stack no longer needs. Cheap when nothing was given up; called whenever a thread leaves
/// the engine.
pub fn sweep(locked: &mut Locked) {
    if some_unshown() && locked.now().as_us() >= TRY_AGAIN_US.load(Ordering::Relaxed) {
        show(locked);
    }
    let given_up = locked.stack().ports_given_up();
    if SWEPT.load(Ordering::Relaxed) == given_up {
        return;
    }
    if SWEPT.swap(given_up, Ordering::Relaxed) == given_up {
        return;
    }
    let mut dropped = Vec::new();
    GUARDS.lock().retain(|guard| {
        let alive = locked.stack().port_is_alive(guard.port);
        if !alive {
            fdtable::take(guard.fd);
            let _ = sys::close(guard.fd);
            UNSHOWN.fetch_sub(usize::from(!guard.shown), Ordering::Relaxed);
            dropped.push(guard.port);
        }
        alive
    });
    if !dropped.is_empty() {
        // What came while it was open the kernel has dropped: to answer it is ours, and the port has to be for that.
        locked.turn();
        dropped.into_iter().for_each(|port| locked.stack().port_copy_gone(port));
        // The companion has it as well, and the port is to be free.
        locked.runtime().ring_companion();
    }
}

/// Every guard's descriptor.
pub fn fds(_: &Locked) -> Vec<RawFd> {
    GUARDS.lock().iter().map(|g| g.fd).collect()
}

/// The port of every guard.
pub fn ports() -> Vec<PortId> {
    GUARDS.lock().iter().map(|g| g.port).collect()
}
