//! setsockopt and getsockopt: levels, names and structs, to the engine's options and back.
//!
//! | kind | what happens |
//! | --- | --- |
//! | in [`simple`] | a number: the engine keeps it; those that bind(2) needs go to the kernel socket too |
//! | structs and strings | here: SO_LINGER, time-outs, TCP_INFO, TCP_CONGESTION, TCP_FASTOPEN_KEY |
//! | everything else | the kernel socket answers, which knows what Linux refuses and accepts; never what would show the guard |

use crate::abi;
use crate::errno::{Errno, Outcome};
use crate::runtime::Runtime;
use engine::shared::relay;
use engine::stack::SockId;
use engine::stack::options::SockOpt;
use engine::sys;
use engine::tcp::{State, TcpInfo};
use engine::values::Family;
use std::os::fd::RawFd;

const EINVAL: Errno = Errno(libc::EINVAL);
const SO_RCVTIMEO_NEW: i32 = 66;
const SO_SNDTIMEO_NEW: i32 = 67;
const SO_TIMESTAMP_OLD: i32 = 29;
const TCP_INQ: i32 = 36;
const TCP_ULP: i32 = 31;
const TCP_FASTOPEN: i32 = 23;
const TCP_FASTOPEN_CONNECT: i32 = 30;
const TCP_FASTOPEN_KEY: i32 = 33;
const TCP_FASTOPEN_NO_COOKIE: i32 = 34;
const TCP_MD5SIG: i32 = 14;
const TCP_MD5SIG_EXT: i32 = 32;
const IP_MINTTL: i32 = 21;
const IPV6_ADDRFORM: i32 = 1;
const IPV6_MTU: i32 = 24;
const IPV6_RECVERR: i32 = 25;
const IP_PROTOCOL: i32 = 52;
const TCP_QUEUE_SEQ: i32 = 21;
/// struct tcp_md5sig.
const MD5SIG_BYTES: u32 = 216;
const IPV6_MINHOPCOUNT: i32 = 73;
const IPV6_AUTOFLOWLABEL: i32 = 70;
const IPV6_ADDR_PREFERENCES: i32 = 72;
const SO_BINDTOIFINDEX: i32 = 62;

/// An option whose value is a number, and whether the kernel socket has to have it as well.
fn simple(level: i32, name: i32) -> Option<(SockOpt, bool)> {
    Some(match (level, name) {
        (libc::SOL_SOCKET, libc::SO_REUSEADDR) => (SockOpt::ReuseAddr, true),
        (libc::SOL_SOCKET, libc::SO_REUSEPORT) => (SockOpt::ReusePort, true),
        (libc::SOL_SOCKET, libc::SO_KEEPALIVE) => (SockOpt::KeepAlive, false),
        (libc::SOL_SOCKET, libc::SO_BROADCAST) => (SockOpt::Broadcast, false),
        (libc::SOL_SOCKET, libc::SO_OOBINLINE) => (SockOpt::OobInline, false),
        (libc::SOL_SOCKET, libc::SO_DONTROUTE) => (SockOpt::DontRoute, false),
        (libc::SOL_SOCKET, SO_TIMESTAMP_OLD) => (SockOpt::Timestamp, false),
        (libc::SOL_SOCKET, libc::SO_SNDBUF) => (SockOpt::SndBuf, false),
        (libc::SOL_SOCKET, libc::SO_RCVBUF) => (SockOpt::RcvBuf, false),
        (libc::SOL_SOCKET, libc::SO_RCVLOWAT) => (SockOpt::RcvLowat, false),
        (libc::SOL_SOCKET, libc::SO_ZEROCOPY) => (SockOpt::ZeroCopy, false),
        (libc::SOL_SOCKET, libc::SO_PRIORITY) => (SockOpt::Priority, true),
        (libc::SOL_SOCKET, libc::SO_MARK) => (SockOpt::Mark, true),
        (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY) => (SockOpt::V6Only, true),
        (libc::IPPROTO_IP, libc::IP_TOS) => (SockOpt::Tos, true),
        (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => (SockOpt::Tclass, true),
        (libc::IPPROTO_IP, libc::IP_TTL) => (SockOpt::Ttl, true),
        (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS) => (SockOpt::Hops, true),
        (libc::IPPROTO_IPV6, IPV6_MINHOPCOUNT) => (SockOpt::MinHops, false),
        (libc::IPPROTO_IPV6, IPV6_AUTOFLOWLABEL) => (SockOpt::AutoFlow, true),
        (libc::IPPROTO_IP, IP_MINTTL) => (SockOpt::MinTtl, false),
        (libc::IPPROTO_IP, libc::IP_RECVERR) => (SockOpt::RecvErr, true),
        (libc::IPPROTO_IPV6, IPV6_RECVERR) => (SockOpt::RecvErr6, true),
        (libc::IPPROTO_IP, libc::IP_FREEBIND) => (SockOpt::Freebind, true),
        (libc::IPPROTO_TCP, libc::TCP_NODELAY) => (SockOpt::NoDelay, false),
        (libc::IPPROTO_TCP, libc::TCP_CORK) => (SockOpt::Cork, false),
        (libc::IPPROTO_TCP, libc::TCP_MAXSEG) => (SockOpt::MaxSeg, false),
        (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE) => (SockOpt::KeepIdle, false),
        (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL) => (SockOpt::KeepIntvl, false),
        (libc::IPPROTO_TCP, libc::TCP_KEEPCNT) => (SockOpt::KeepCnt, false),
        (libc::IPPROTO_TCP, libc::TCP_SYNCNT) => (SockOpt::SynCnt, false),
        (libc::IPPROTO_TCP, libc::TCP_LINGER2) => (SockOpt::Linger2, false),
        (libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT) => (SockOpt::DeferAccept, false),
        (libc::IPPROTO_TCP, libc::TCP_WINDOW_CLAMP) => (SockOpt::WindowClamp, false),
        (libc::IPPROTO_TCP, libc::TCP_QUICKACK) => (SockOpt::QuickAck, false),
        (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT) => (SockOpt::UserTimeout, false),
        (libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT) => (SockOpt::NotsentLowat, false),
        (libc::IPPROTO_TCP, TCP_INQ) => (SockOpt::Inq, false),
        (libc::IPPROTO_TCP, TCP_FASTOPEN) => (SockOpt::FastOpen, false),
        (libc::IPPROTO_TCP, TCP_FASTOPEN_CONNECT) => (SockOpt::FastOpenConnect, false),
        (libc::IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE) => (SockOpt::FastOpenNoCookie, false),
        _ => return None,
    })
}

/// setsockopt(2).
pub fn set(
    rt: &Runtime,
    fd: RawFd,
    id: SockId,
    level: i32,
    name: i32,
    at: *const libc::c_void,
    len: u32,
) -> Outcome<i32> {
    if (len as i32) < 0 {
        return Err(EINVAL);
    }
    if level == relay::LEVEL {
        return crate::relay::set_option(rt, id, name, if len == 8 { abi::read(at.cast())? } else { 0 });
    }
    if let Some((opt, kernel_too)) = known(rt, id, level, name)? {
        let value = number(level, name, at, len)?;
        if kernel_too {
            sys::setsockopt_value(fd, level, name, &value)?;
        }
        let mut locked = rt.lock()?;
        let (stack, now) = locked.stack_now();
        stack.set_option(now, id, opt, i64::from(value))?;
        return Ok(0);
    }
    match (level, name) {
        (libc::SOL_SOCKET, libc::SO_LINGER) => {
            if (len as usize) < size_of::<libc::linger>() {
                return Err(EINVAL);
            }
            let l = abi::read(at.cast::<libc::linger>())?;
            let mut locked = rt.lock()?;
            let o = locked.stack().options_mut(id).ok_or(Errno(libc::EBADF))?;
            o.linger_on = l.l_onoff != 0;
            // Switched off, it keeps the time; a negative one is as good as for ever.
            if o.linger_on {
                o.linger_s = if l.l_linger < 0 { i32::MAX as u32 } else { l.l_linger as u32 };
            }
            Ok(0)
        }
        (libc::SOL_SOCKET, libc::SO_RCVTIMEO | SO_RCVTIMEO_NEW) => {
            let us = timeout(at, len)?;
            rt.lock()?.stack().options_mut(id).ok_or(Errno(libc::EBADF))?.rcvtimeo_us = us;
            Ok(0)
        }
        (libc::SOL_SOCKET, libc::SO_SNDTIMEO | SO_SNDTIMEO_NEW) => {
            let us = timeout(at, len)?;
            rt.lock()?.stack().options_mut(id).ok_or(Errno(libc::EBADF))?.sndtimeo_us = us;
            Ok(0)
        }
        (libc::IPPROTO_TCP, libc::TCP_CONGESTION) => set_congestion(rt, fd, id, at, len),
        // These would change the guard, or show it.
        (libc::IPPROTO_TCP, TCP_MD5SIG | TCP_MD5SIG_EXT) => {
            number(level, name, at, len)?;
            Err(if len < MD5SIG_BYTES { EINVAL } else { Errno(libc::ENOPROTOOPT) })
        }
        // Of a connection, which the kernel socket is not.
        (libc::IPPROTO_TCP, TCP_QUEUE_SEQ) if rt.lock()?.stack().tcp_state(id) != State::Closed => {
            Err(Errno(libc::EPERM))
        }
        (libc::IPPROTO_TCP, TCP_ULP) => Err(Errno(libc::ENOENT)),
        (libc::SOL_SOCKET, libc::SO_ATTACH_FILTER | libc::SO_DETACH_FILTER | libc::SO_ATTACH_BPF) => {
            number(level, name, at, len).map(|_| 0)
        }
        (libc::IPPROTO_TCP, TCP_FASTOPEN_KEY) => {
            if !matches!(len, 16 | 32) {
                return Err(EINVAL);
            }
            let key = abi::bytes(at, len as usize)?;
            rt.lock()?.stack().set_fastopen_key(id, key)?;
            Ok(0)
        }
        (libc::IPPROTO_IPV6, IPV6_ADDRFORM) => {
            if number(level, name, at, len)? != libc::AF_INET {
                return Err(EINVAL);
            }
            rt.lock()?.stack().become_v4(id)?;
            Ok(0)
        }
        _ => {
            // SAFETY: the program's pointer, for the kernel to judge.
            unsafe { sys::setsockopt_at(fd, level, name, at, len) }?;
            if matches!(
                (level, name),
                (libc::SOL_SOCKET, libc::SO_BINDTODEVICE | SO_BINDTOIFINDEX)
                    | (libc::IPPROTO_IPV6, IPV6_ADDR_PREFERENCES)
            ) {
                rt.lock()?.stack().options_mut(id).ok_or(Errno(libc::EBADF))?.own_route = true;
            }
            Ok(0)
        }
    }
}

/// [`simple`], where the socket's family has the level: IPv4 sockets know nothing of IPv6's options.
fn known(rt: &Runtime, id: SockId, level: i32, name: i32) -> Outcome<Option<(SockOpt, bool)>> {
    if level == libc::IPPROTO_IPV6 && rt.lock()?.stack().family(id) == Some(Family::V4) {
        return Err(Errno(libc::ENOPROTOOPT));
    }
    Ok(simple(level, name))
}

/// A number of four bytes; at level IP one byte will do, and for some none; at level IPV6, no pointer is 0.
fn number(level: i32, name: i32, at: *const libc::c_void, len: u32) -> Outcome<i32> {
    match (level, len as usize) {
        (libc::IPPROTO_IPV6, 4..) if at.is_null() => Ok(0),
        (libc::IPPROTO_IPV6, 0..4) if name == IPV6_AUTOFLOWLABEL => Ok(0),
        (_, 4..) => abi::read(at.cast::<i32>()),
        (libc::IPPROTO_IP, 1..) => Ok(i32::from(abi::read(at.cast::<u8>())?)),
        (libc::IPPROTO_IP, 0) if matches!(name, libc::IP_TOS | libc::IP_RECVERR) => Ok(0),
        _ => Err(EINVAL),
    }
}

/// A struct timeval as microseconds; zero is none, negative is none at once (sock_set_timeout).
fn timeout(at: *const libc::c_void, len: u32) -> Outcome<u64> {
    if (len as usize) < size_of::<libc::timeval>() {
        return Err(EINVAL);
    }
    let t = abi::read(at.cast::<libc::timeval>())?;
    if !(0..1_000_000).contains(&t.tv_usec) {
        return Err(Errno(libc::EDOM));
    }
    if t.tv_sec < 0 {
        return Ok(1);
    }
    Ok((t.tv_sec as u64).saturating_mul(1_000_000).saturating_add(t.tv_usec as u64))
}

fn set_congestion(rt: &Runtime, fd: RawFd, id: SockId, at: *const libc::c_void, len: u32) -> Outcome<i32> {
    if len == 0 {
        return Err(EINVAL);
    }
    let name = abi::bytes(at, (len as usize).min(15))?;
    let name = name.split(|&b| b == 0).next().unwrap_or_default();
    let value = match name {
        b"cubic" => 0,
        b"reno" => 1,
        b"" => return Err(Errno(libc::ENOENT)),
        // What the kernel has and we have not: as a kernel without that module.
        _ => {
            sys::setsockopt(fd, libc::IPPROTO_TCP, libc::TCP_CONGESTION, name)?;
            return Err(Errno(libc::ENOENT));
        }
    };
    let mut locked = rt.lock()?;
    let (stack, now) = locked.stack_now();
    stack.set_option(now, id, SockOpt::Congestion, value)?;
    Ok(0)
}

/// getsockopt(2).
pub fn get(
    rt: &Runtime,
    fd: RawFd,
    id: SockId,
    level: i32,
    name: i32,
    at: *mut libc::c_void,
    len_at: *mut libc::socklen_t,
) -> Outcome<i32> {
    if level == relay::LEVEL {
        abi::write(at.cast::<i32>(), crate::relay::option(rt, id, name)?)?;
        return Ok(0);
    }
    let option = known(rt, id, level, name).map_err(|errno| match errno {
        // ip_getsockopt has another word for it than ip_setsockopt.
        Errno(libc::ENOPROTOOPT) => Errno(libc::EOPNOTSUPP),
        errno => errno,
    })?;
    let ours = matches!(level, libc::SOL_SOCKET | libc::IPPROTO_IP | libc::IPPROTO_TCP)
        || (level == libc::IPPROTO_IPV6 && matches!(name, IPV6_ADDRFORM | IPV6_MTU));
    if option.is_none() && !ours {
        // Refused before anything is read.
        // SAFETY: the program's pointers, for the kernel to judge.
        unsafe { sys::getsockopt_at(fd, level, name, at, len_at) }?;
        return Ok(0);
    }
    let room = abi::read(len_at.cast_const())?;
    // do_ipv6_getsockopt takes it for unsigned.
    let room = if level == libc::IPPROTO_IPV6 { room.min(4) } else { room };
    if (room as i32) < 0 {
        return Err(EINVAL);
    }
    let room = room as usize;
    let give = |bytes: &[u8]| -> Outcome<i32> {
        let n = bytes.len().min(room);
        abi::bytes_mut(at, n)?.copy_from_slice(&bytes[..n]);
        abi::write(len_at, n as libc::socklen_t)?;
        Ok(0)
    };
    let give_number = |value: i64| give(&(value as i32).to_ne_bytes());
    if let Some((opt, _)) = option {
        let value = rt.lock()?.stack().get_option(id, opt)?;
        // do_ip_getsockopt: one byte where the program has room for one only.
        if level == libc::IPPROTO_IP && (1..4).contains(&room) && (0..=255).contains(&value) {
            return give(&[value as u8]);
        }
        return give_number(value);
    }
    match (level, name) {
        (libc::SOL_SOCKET, libc::SO_ERROR) => {
            let mut locked = rt.lock()?;
            locked.turn_if_due();
            let error = locked.stack().take_error(id);
            drop(locked);
            give_number(error.into())
        }
        (libc::SOL_SOCKET, libc::SO_ACCEPTCONN) => {
            let listening = rt.lock()?.stack().is_listening(id);
            give_number(listening.into())
        }
        (libc::SOL_SOCKET, libc::SO_TYPE) => give_number(libc::SOCK_STREAM.into()),
        (libc::SOL_SOCKET, libc::SO_PROTOCOL) => give_number(libc::IPPROTO_TCP.into()),
        (libc::SOL_SOCKET, libc::SO_DOMAIN) => {
            let family = rt.lock()?.stack().family(id);
            give_number(if family == Some(Family::V6) { libc::AF_INET6 } else { libc::AF_INET }.into())
        }
        (libc::SOL_SOCKET, libc::SO_LINGER) => {
            let mut locked = rt.lock()?;
            let o = locked.stack().options(id).ok_or(Errno(libc::EBADF))?;
            let l = libc::linger { l_onoff: o.linger_on.into(), l_linger: o.linger_s as i32 };
            drop(locked);
            give(sys::as_bytes(&l))
        }
        (libc::SOL_SOCKET, libc::SO_RCVTIMEO | SO_RCVTIMEO_NEW) => {
            let us = rt.lock()?.stack().options(id).map_or(0, |o| o.rcvtimeo_us);
            give(sys::as_bytes(&timeval(us)))
        }
        (libc::SOL_SOCKET, libc::SO_SNDTIMEO | SO_SNDTIMEO_NEW) => {
            let us = rt.lock()?.stack().options(id).map_or(0, |o| o.sndtimeo_us);
            give(sys::as_bytes(&timeval(us)))
        }
        (libc::IPPROTO_TCP, libc::TCP_INFO) => {
            let mut locked = rt.lock()?;
            locked.turn_if_due();
            let (stack, now) = locked.stack_now();
            let info = stack.tcp_info(now, id).ok_or(Errno(libc::EBADF))?;
            drop(locked);
            give(&encode_info(&info))
        }
        (libc::IPPROTO_TCP, libc::TCP_CONGESTION) => {
            let reno = rt.lock()?.stack().get_option(id, SockOpt::Congestion)?;
            let mut text = [0u8; 16];
            let name: &[u8] = if reno != 0 { b"reno" } else { b"cubic" };
            text[..name.len()].copy_from_slice(name);
            give(&text)
        }
        (libc::IPPROTO_TCP, TCP_ULP) => give(&[]),
        (libc::IPPROTO_TCP, TCP_FASTOPEN_KEY) => {
            let key = rt.lock()?.stack().fastopen_key(id).ok_or(Errno(libc::EBADF))?;
            give(&key)
        }
        // The port, as it happens; the kernel socket of a connection has none.
        (libc::IPPROTO_IP, IP_PROTOCOL) => {
            let local = rt.lock()?.stack().local(id).ok_or(Errno(libc::EBADF))?;
            give_number(local.port.into())
        }
        // Filled as far as the program says, which may not be more than there is.
        (libc::SOL_SOCKET, libc::SO_PEERNAME) => {
            let mut locked = rt.lock()?;
            let stack = locked.stack();
            let family = stack.family(id).ok_or(Errno(libc::EBADF))?;
            let peer = stack.last_peer(id).ok_or(Errno(libc::ENOTCONN))?;
            drop(locked);
            let mut out = [0; 28];
            let len = abi::encode_sockaddr(&peer, family, &mut out);
            if len < room { Err(EINVAL) } else { give(&out[..room]) }
        }
        // Whoever asks drives, or will.
        (libc::SOL_SOCKET, libc::SO_INCOMING_CPU) if rt.lock()?.stack().last_peer(id).is_some() => {
            let chosen = sys::getsockopt_int(fd, level, name)?;
            give_number(if chosen == -1 { sys::current_cpu() } else { chosen }.into())
        }
        (libc::IPPROTO_IP, libc::IP_MTU) | (libc::IPPROTO_IPV6, IPV6_MTU) => {
            let mut locked = rt.lock()?;
            let (stack, now) = locked.stack_now();
            let pmtu = stack.tcp_info(now, id).map_or(0, |info| info.pmtu);
            drop(locked);
            if pmtu == 0 { Err(Errno(libc::ENOTCONN)) } else { give_number(pmtu.into()) }
        }
        (libc::IPPROTO_IPV6, IPV6_ADDRFORM) => {
            let established = rt.lock()?.stack().tcp_state(id) == State::Established;
            if established { give_number(libc::AF_INET6.into()) } else { Err(Errno(libc::ENOTCONN)) }
        }
        _ => {
            // SAFETY: the program's pointers, for the kernel to judge.
            unsafe { sys::getsockopt_at(fd, level, name, at, len_at) }?;
            Ok(0)
        }
    }
}

fn timeval(us: u64) -> libc::timeval {
    libc::timeval { tv_sec: (us / 1_000_000) as i64, tv_usec: (us % 1_000_000) as i64 }
}

/// struct tcp_info of Linux 6.18; what is behind the windows is counted as never.
fn encode_info(i: &TcpInfo) -> [u8; 280] {
    let mut out = [0u8; 280];
    let flags = u8::from(i.timestamps)
        | u8::from(i.sack) << 1
        | u8::from(i.snd_wscale != 0 || i.rcv_wscale != 0) << 2
        | u8::from(i.syn_data) << 5;
    out[..8].copy_from_slice(&[
        i.state,
        i.ca_state,
        i.retransmits,
        i.probes,
        i.backoff,
        flags,
        i.snd_wscale & 15 | i.rcv_wscale << 4,
        i.fastopen_client_fail << 1,
    ]);
    let words = [
        i.rto_us,
        i.ato_us,
        i.snd_mss,
        i.rcv_mss,
        i.unacked_segments,
        i.sacked_segments,
        i.lost_segments,
        0,
        0,
        i.last_data_sent_ms,
        0,
        i.last_data_recv_ms,
        i.last_data_recv_ms,
        i.pmtu,
        i.rcv_ssthresh,
        i.rtt_us,
        i.rttvar_us,
        i.ssthresh_segments,
        i.cwnd_segments,
        i.advmss,
        i.reordering,
        0,
        i.rcv_space,
        i.total_retrans,
    ];
    let mut at = 8;
    for w in words {
        out[at..at + 4].copy_from_slice(&w.to_ne_bytes());
        at += 4;
    }
    // Pacing rates: not paced.
    for q in [u64::MAX, u64::MAX, i.bytes_acked, i.bytes_received] {
        out[at..at + 8].copy_from_slice(&q.to_ne_bytes());
        at += 8;
    }
    for w in [i.segs_out, i.segs_in, i.notsent_bytes, i.min_rtt_us, i.data_segs_in, i.data_segs_out] {
        out[at..at + 4].copy_from_slice(&w.to_ne_bytes());
        at += 4;
    }
    // Delivery rate, busy, rwnd-limited and sndbuf-limited times; then delivered segments.
    at += 4 * 8 + 2 * 4;
    for q in [i.bytes_sent, i.bytes_retrans] {
        out[at..at + 8].copy_from_slice(&q.to_ne_bytes());
        at += 8;
    }
    // DSACKs, reorderings seen, out-of-order packets; then the windows.
    at += 3 * 4;
    out[at..at + 4].copy_from_slice(&i.snd_wnd.to_ne_bytes());
    out[at + 4..at + 8].copy_from_slice(&i.rcv_wnd.to_ne_bytes());
    out
}
