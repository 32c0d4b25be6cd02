//! Socket options. The C edge turns levels, names and structs into [`SockOpt`] and numbers; ranges and effects are here.

use super::fastopen::may_be_tuned;
use super::listen::{defer_seconds, defer_timeouts};
use super::transmit::flow_label;
use super::{SockId, SocketPhase, Stack};
use crate::tcp::{Env, State, TcpOptions};
use crate::values::{Addr, Error, Family, Instant, error::Result};
use bytemuck::Zeroable;

/// The smallest buffers, SOCK_MIN_SNDBUF and SOCK_MIN_RCVBUF of Linux.
const MIN_SNDBUF: i64 = 4608;
const MIN_RCVBUF: i64 = 2304;

#[derive(Clone, Copy, Zeroable, Debug, Default)]
#[repr(C)]
pub struct SocketOptions {
    pub tcp: TcpOptions,
    pub reuse_addr: bool,
    pub reuse_port: bool,
    pub broadcast: bool,
    pub dont_route: bool,
    pub timestamp: bool,
    pub v6only: bool,
    pub linger_on: bool,
    pub freebind: bool,
    pub tcp_inq: bool,
    pub zerocopy: bool,
    /// IP_RECVERR and IPV6_RECVERR.
    pub recverr: bool,
    pub recverr6: bool,
    /// TCP_FASTOPEN_CONNECT and TCP_FASTOPEN_NO_COOKIE.
    pub fastopen_connect: bool,
    pub fastopen_no_cookie: bool,
    /// O_NONBLOCK, which belongs to the open file description and so to the socket.
    pub nonblocking: bool,
    pub tos: u8,
    /// 0: the sysctl.
    pub ttl: u8,
    /// IP_MINTTL; 0: none.
    pub min_ttl: u8,
    /// The same for what goes out in IPv6: IPV6_TCLASS, IPV6_UNICAST_HOPS (and 1, for 0 is a value; 0: the default), and
    /// IPV6_MINHOPCOUNT.
    pub tclass: u8,
    pub min_hops: u8,
    pub hops: u16,
    /// IPV6_AUTOFLOWLABEL: 0 the sysctl, 1 no, 2 yes.
    pub auto_flow: u8,
    /// Options that routing looks at are set, on the kernel socket.
    pub own_route: bool,
    pub linger_s: u32,
    /// 0 counts as 1.
    pub rcvlowat: u32,
    /// Seconds of TCP_DEFER_ACCEPT.
    pub defer_accept_s: u32,
    pub priority: u32,
    pub mark: u32,
    /// SO_SNDBUF and SO_RCVBUF as read back; 0: not set.
    pub sndbuf: u32,
    pub rcvbuf: u32,
    _pad: u32,
    /// Microseconds; 0: none.
    pub rcvtimeo_us: u64,
    pub sndtimeo_us: u64,
}

/// What a socket's options make of the IP header.
#[derive(Clone, Copy)]
pub(super) struct Marks {
    pub tos: u8,
    /// None: the default.
    pub ttl: Option<u8>,
    pub min_ttl: u8,
}

impl SocketOptions {
    /// Whether ICMP errors of a connection in that family are to be told at once.
    pub(super) fn wants_errors(&self, is_v4: bool) -> bool {
        if is_v4 { self.recverr } else { self.recverr6 }
    }

    /// In the family of a connection, which may be IPv4 for a socket of IPv6.
    pub(super) fn marks(&self, peer: Addr) -> Marks {
        if peer.is_v4() {
            Marks { tos: self.tos, ttl: (self.ttl != 0).then_some(self.ttl), min_ttl: self.min_ttl }
        } else {
            Marks { tos: self.tclass, ttl: self.hops.checked_sub(1).map(|n| n as u8), min_ttl: self.min_hops }
        }
    }
}

/// Options whose value is one number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SockOpt {
    ReuseAddr,
    ReusePort,
    KeepAlive,
    Broadcast,
    OobInline,
    DontRoute,
    Timestamp,
    SndBuf,
    RcvBuf,
    RcvLowat,
    Priority,
    Mark,
    V6Only,
    Tos,
    Ttl,
    MinTtl,
    Tclass,
    Hops,
    MinHops,
    AutoFlow,
    Freebind,
    ZeroCopy,
    RecvErr,
    RecvErr6,
    NoDelay,
    Cork,
    MaxSeg,
    KeepIdle,
    KeepIntvl,
    KeepCnt,
    SynCnt,
    Linger2,
    DeferAccept,
    WindowClamp,
    QuickAck,
    UserTimeout,
    NotsentLowat,
    Inq,
    /// TCP_FASTOPEN: how many connections of a listener's may be used before their handshakes end.
    FastOpen,
    FastOpenConnect,
    FastOpenNoCookie,
    /// TCP_CONGESTION: 0 cubic, 1 reno.
    Congestion,
}

/// A length as the kernel compares it: negative ones are very large.
fn unsigned(value: i64) -> i64 {
    i64::from(value as u32)
}

impl Stack {
    /// Sets an option, with Linux's ranges and side effects.
    ///
    /// # Errors
    /// EINVAL out of range, EBADF for a stale handle.
    pub fn set_option(&mut self, now: Instant, id: SockId, opt: SockOpt, value: i64) -> Result<()> {
        let is_closed = self.tcp_state(id) == State::Closed;
        let core = &mut *self.core;
        let s = self.sockets.get_mut(id).ok_or(Error::BadDescriptor)?;
        let on = value != 0;
        let in_range =
            |min: i64, max: i64| if (min..=max).contains(&value) { Ok(value) } else { Err(Error::Invalid) };
        let o = &mut s.options;
        match opt {
            SockOpt::ReuseAddr => return self.set_reuse_addr(id, on),
            SockOpt::ReusePort => o.reuse_port = on,
            SockOpt::KeepAlive => o.tcp.keepalive = on,
            SockOpt::Broadcast => o.broadcast = on,
            SockOpt::OobInline => o.tcp.oob_inline = on,
            SockOpt::DontRoute => o.dont_route = on,
            SockOpt::Timestamp => o.timestamp = on,
            // The kernel doubles what is asked for, to cover its own overhead, and gives back the doubled value.
            SockOpt::SndBuf => {
                let capped = unsigned(value).min(core.sysctls.wmem_max[0]);
                o.sndbuf = (capped * 2).max(MIN_SNDBUF) as u32;
                o.tcp.sndbuf = o.sndbuf;
            }
            SockOpt::RcvBuf => {
                let capped = unsigned(value).min(core.sysctls.rmem_max[0]);
                o.rcvbuf = (capped * 2).max(MIN_RCVBUF) as u32;
                o.tcp.rcvbuf = o.rcvbuf;
            }
            // tcp_set_rcvlowat: never more than half of what the buffer can become.
            SockOpt::RcvLowat => {
                let buffer = if o.rcvbuf != 0 { i64::from(o.rcvbuf) } else { core.sysctls.tcp_rmem[2] };
                let wanted = if value < 0 { i64::from(i32::MAX) } else { value };
                o.rcvlowat = wanted.min(buffer / 2).max(1) as u32;
            }
            SockOpt::Priority => o.priority = value as u32,
            SockOpt::Mark => {
                o.mark = value as u32;
                o.own_route = true;
            }
            SockOpt::V6Only => {
                if s.bound || s.local.port != 0 || s.family != Family::V6 {
                    return Err(Error::Invalid);
                }
                s.options.v6only = on;
            }
            // The ECN bits are TCP's.
            SockOpt::Tos => o.tos = (value & 0xfc) as u8,
            SockOpt::Ttl => o.ttl = if value == -1 { 0 } else { in_range(1, 255)? as u8 },
            SockOpt::MinTtl => o.min_ttl = in_range(0, 255)? as u8,
            SockOpt::Tclass => o.tclass = (in_range(-1, 255)?.max(0) & 0xfc) as u8,
            SockOpt::Hops => o.hops = (in_range(-1, 255)? + 1) as u16,
            SockOpt::MinHops => o.min_hops = in_range(0, 255)? as u8,
            SockOpt::AutoFlow => o.auto_flow = 1 + u8::from(on),
            SockOpt::Freebind => o.freebind = on,
            SockOpt::ZeroCopy => o.zerocopy = in_range(0, 1)? != 0,
            SockOpt::RecvErr | SockOpt::RecvErr6 => {
                let option = if opt == SockOpt::RecvErr { &mut o.recverr } else { &mut o.recverr6 };
                *option = on;
                if !on {
                    self.drop_queued_notes(id);
                }
                return Ok(());
            }
            SockOpt::NoDelay => o.tcp.nodelay = on,
            SockOpt::Cork => o.tcp.cork = on,
            SockOpt::MaxSeg => o.tcp.maxseg = if value == 0 { 0 } else { in_range(88, 32_767)? as u32 },
            SockOpt::KeepIdle => o.tcp.keepidle_s = in_range(1, 32_767)? as u32,
            SockOpt::KeepIntvl => o.tcp.keepintvl_s = in_range(1, 32_767)? as u32,
            SockOpt::KeepCnt => o.tcp.keepcnt = in_range(1, 127)? as u32,
            SockOpt::SynCnt => o.tcp.syncnt = in_range(1, 127)? as u32,
            SockOpt::Linger2 => o.tcp.linger2_s = if value < 0 { -1 } else { value.min(120) as i32 },
            SockOpt::DeferAccept => o.defer_accept_s = value.max(0) as u32,
            // tcp_set_window_clamp: no less than the least receive buffer's half, and none only before a connection.
            SockOpt::WindowClamp if value == 0 && !is_closed => return Err(Error::Invalid),
            SockOpt::WindowClamp if value == 0 => o.tcp.window_clamp = 0,
            SockOpt::WindowClamp => o.tcp.window_clamp = value.max(MIN_RCVBUF / 2) as u32,
            SockOpt::QuickAck => o.tcp.quickack_off = !on,
            SockOpt::UserTimeout => o.tcp.user_timeout_ms = in_range(0, i64::from(i32::MAX))? as u32,
            SockOpt::NotsentLowat => o.tcp.notsent_lowat = value as u32,
            SockOpt::Inq => o.tcp_inq = in_range(0, 1)? != 0,
            SockOpt::FastOpen | SockOpt::FastOpenConnect | SockOpt::FastOpenNoCookie => {
                return self.set_fast_open(id, opt, value);
            }
            SockOpt::Congestion => o.tcp.reno = on,
        }
        self.apply_option(now, id, opt, on);
        Ok(())
    }

    fn set_fast_open(&mut self, id: SockId, opt: SockOpt, value: i64) -> Result<()> {
        let state = self.tcp_state(id);
        if value < 0 || (opt != SockOpt::FastOpen && value > 1) {
            return Err(Error::Invalid);
        }
        if opt == SockOpt::FastOpenConnect && !self.may_fast_open() {
            return Err(Error::NotSupported);
        }
        let listens = state == State::Listen;
        if !may_be_tuned(state) || (listens && opt == SockOpt::FastOpenConnect) {
            return Err(Error::Invalid);
        }
        let o = &mut self.sockets.get_mut(id).ok_or(Error::BadDescriptor)?.options;
        match opt {
            SockOpt::FastOpenConnect => o.fastopen_connect = value != 0,
            SockOpt::FastOpenNoCookie => o.fastopen_no_cookie = value != 0,
            _ => self.tune_fast_queue(id, value as u32),
        }
        Ok(())
    }

    /// SO_REUSEADDR counts when others want to bind the port, whenever it was set.
    fn set_reuse_addr(&mut self, id: SockId, on: bool) -> Result<()> {
        let s = self.sockets.get_mut(id).ok_or(Error::BadDescriptor)?;
        let was = core::mem::replace(&mut s.options.reuse_addr, on);
        let (port, conn) = (s.port, s.conn);
        if was != on {
            self.port_strictness(port, on);
        }
        if let Some(c) = conn.and_then(|c| self.conns.get_mut(c)) {
            let was = core::mem::replace(&mut c.reuse_addr, on);
            let port = c.port;
            if was != on {
                self.port_strictness(port, on);
            }
        }
        Ok(())
    }

    /// Carries an option over to a live connection.
    fn apply_option(&mut self, now: Instant, id: SockId, opt: SockOpt, on: bool) {
        let core = &mut *self.core;
        let Some(s) = self.sockets.get(id) else { return };
        let options = s.options;
        let Some(conn_id) = s.conn else { return };
        let Some(conn) = self.conns.get_mut(conn_id) else { return };
        let env = Env { now, pool: &mut self.pool, counters: &mut core.counters, sysctls: &core.sysctls };
        conn.tcb.options = options.tcp;
        let marks = options.marks(conn.tuple.remote.addr);
        match opt {
            SockOpt::KeepAlive | SockOpt::KeepIdle => conn.tcb.set_keepalive(&env, options.tcp.keepalive),
            SockOpt::RcvBuf => conn.tcb.set_receive_buffer(options.tcp.rcvbuf),
            SockOpt::Congestion => conn.tcb.cc.set_reno(on),
            SockOpt::QuickAck => conn.tcb.set_quickack(on),
            SockOpt::Tos | SockOpt::Tclass => conn.tos = marks.tos,
            SockOpt::MinTtl | SockOpt::MinHops => conn.min_ttl = marks.min_ttl,
            SockOpt::Ttl | SockOpt::Hops => {
                conn.ttl = marks.ttl.unwrap_or(core.sysctls.ip_default_ttl[0] as u8)
            }
            SockOpt::AutoFlow => {
                conn.flow = flow_label(&core.key, &core.sysctls, &conn.tuple, options.auto_flow)
            }
            SockOpt::NoDelay | SockOpt::Cork => conn.tcb.options_changed(),
            _ => {}
        }
        self.touch(conn_id);
    }

    /// Reads an option.
    ///
    /// # Errors
    /// EBADF for a stale handle.
    pub fn get_option(&mut self, id: SockId, opt: SockOpt) -> Result<i64> {
        let core = &*self.core;
        let s = self.sockets.get(id).ok_or(Error::BadDescriptor)?;
        let o = &s.options;
        let tcb = s.conn.and_then(|c| self.conns.get(c)).map(|c| &c.tcb);
        let or = |own: u32, sysctl: i64| if own != 0 { i64::from(own) } else { sysctl };
        Ok(match opt {
            SockOpt::ReuseAddr => o.reuse_addr.into(),
            SockOpt::ReusePort => o.reuse_port.into(),
            SockOpt::KeepAlive => o.tcp.keepalive.into(),
            SockOpt::Broadcast => o.broadcast.into(),
            SockOpt::OobInline => o.tcp.oob_inline.into(),
            SockOpt::DontRoute => o.dont_route.into(),
            SockOpt::Timestamp => o.timestamp.into(),
            SockOpt::SndBuf => or(o.sndbuf, core.sysctls.tcp_wmem[1]),
            SockOpt::RcvBuf => or(o.rcvbuf, core.sysctls.tcp_rmem[1]),
            SockOpt::RcvLowat => i64::from(o.rcvlowat.max(1)),
            SockOpt::Priority => o.priority.into(),
            SockOpt::Mark => o.mark.into(),
            SockOpt::V6Only => o.v6only.into(),
            SockOpt::Tos => o.tos.into(),
            SockOpt::Ttl => or(u32::from(o.ttl), core.sysctls.ip_default_ttl[0]),
            SockOpt::MinTtl => o.min_ttl.into(),
            SockOpt::Tclass => o.tclass.into(),
            SockOpt::Hops => or(o.hops.into(), core.sysctls.ip_default_ttl[0] + 1) - 1,
            SockOpt::MinHops => o.min_hops.into(),
            SockOpt::AutoFlow => match o.auto_flow {
                0 => matches!(core.sysctls.auto_flowlabels[0], 1 | 3).into(),
                set => (set == 2).into(),
            },
            SockOpt::Freebind => o.freebind.into(),
            SockOpt::ZeroCopy => o.zerocopy.into(),
            SockOpt::RecvErr => o.recverr.into(),
            SockOpt::RecvErr6 => o.recverr6.into(),
            SockOpt::NoDelay => o.tcp.nodelay.into(),
            SockOpt::Cork => o.tcp.cork.into(),
            // Before a connection: what the user set, or the default MSS; after: the one in use.
            SockOpt::MaxSeg => match tcb.filter(|t| t.state() != State::Closed) {
                Some(t) => t.snd.mss.into(),
                None => or(o.tcp.maxseg, 536),
            },
            SockOpt::KeepIdle => or(o.tcp.keepidle_s, core.sysctls.tcp_keepalive_time[0]),
            SockOpt::KeepIntvl => or(o.tcp.keepintvl_s, core.sysctls.tcp_keepalive_intvl[0]),
            SockOpt::KeepCnt => or(o.tcp.keepcnt, core.sysctls.tcp_keepalive_probes[0]),
            SockOpt::SynCnt => or(o.tcp.syncnt, core.sysctls.tcp_syn_retries[0]),
            SockOpt::Linger2 => match o.tcp.linger2_s {
                0 => core.sysctls.tcp_fin_timeout[0],
                n => n.into(),
            },
            // In whole time-outs, rounded up.
            SockOpt::DeferAccept => defer_seconds(defer_timeouts(o.defer_accept_s)).into(),
            SockOpt::WindowClamp => o.tcp.window_clamp.into(),
            SockOpt::QuickAck => (!o.tcp.quickack_off).into(),
            SockOpt::UserTimeout => o.tcp.user_timeout_ms.into(),
            SockOpt::NotsentLowat => o.tcp.notsent_lowat.into(),
            SockOpt::Inq => o.tcp_inq.into(),
            SockOpt::FastOpen => s.fast.max.into(),
            SockOpt::FastOpenConnect => o.fastopen_connect.into(),
            SockOpt::FastOpenNoCookie => o.fastopen_no_cookie.into(),
            SockOpt::Congestion => o.tcp.reno.into(),
        })
    }

    /// IPV6_ADDRFORM: a connection of IPv4's on a socket of IPv6 becomes a socket of IPv4.
    ///
    /// # Errors
    /// ENOTCONN, EADDRNOTAVAIL for a connection of IPv6's.
    pub fn become_v4(&mut self, id: SockId) -> Result<()> {
        let established = self.tcp_state(id) == State::Established;
        let s = self.sockets.get_mut(id).ok_or(Error::BadDescriptor)?;
        if !established {
            return Err(Error::NotConnected);
        }
        if s.options.v6only || !s.remote.addr.is_v4() {
            return Err(Error::AddressNotAvailable);
        }
        s.family = Family::V4;
        Ok(())
    }

    /// SO_ACCEPTCONN.
    pub fn is_listening(&self, id: SockId) -> bool {
        self.sockets.get(id).is_some_and(|s| s.phase == SocketPhase::Listening)
    }

    /// The options themselves, for those that the C edge keeps (linger, time-outs).
    pub fn options(&self, id: SockId) -> Option<&SocketOptions> {
        self.sockets.get(id).map(|s| &s.options)
    }

    pub fn options_mut(&mut self, id: SockId) -> Option<&mut SocketOptions> {
        self.sockets.get_mut(id).map(|s| &mut s.options)
    }
}
