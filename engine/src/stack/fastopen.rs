//! TCP Fast Open between connections (RFC 7413): the cookies that are given out, those that were got, and connections that are
//! made at the SYN. What one connection does is in `tcp/fastopen.rs`.
//!
//! A cookie is Linux's: SipHash-2-4 of the two addresses, so that it is good at another server with the same key, the kernel's
//! included. Of each pair of addresses the cookie and the MSS of the peer are remembered, for all processes of the family.

use super::connections::{Before, env};
use super::{ConnId, SockId, SocketPhase, Stack};
use crate::fixed::TimerKey;
use crate::stack::ready::Ready;
use crate::tcp::fastopen::{Lesson, Verdict};
use crate::tcp::isn::Key;
use crate::tcp::{Env, Handshake, Outcome, Segment, State};
use crate::values::limits::{FAST_OPEN_PEERS, FAST_OPEN_WAYS};
use crate::values::signal::Event;
use crate::values::{Addr, Counter, Error, FourTuple, Instant, RxMeta, Sysctls, error::Result};
use crate::wire::tcp::{Cookie, CookieForm};
use bytemuck::Zeroable;

/// Bits of net.ipv4.tcp_fastopen.
const CLIENT: i64 = 1;
const SERVER: i64 = 2;
const CLIENT_WITHOUT_COOKIE: i64 = 4;
const SERVER_WITHOUT_COOKIE: i64 = 0x200;
const EVERY_LISTENER: i64 = 0x400;
/// How long a connection that was reset before its handshake ended counts against its listener: an attacker who sends from
/// forged addresses is answered by their owners with a RST.
const HELD_MS: u64 = 60_000;
/// The pause after a blackhole doubles so many times.
const MOST_DOUBLINGS: u32 = 6;
/// What keyed hashes are for, here.
const PEER: u64 = 7;
const OWN_KEY: u64 = 8;

/// A timer of the wheel: a connection that was reset early no longer counts.
pub(super) const TIMER_HELD: u64 = 3;

/// What cookies are made with, and what older ones were made with.
#[derive(Clone, Copy, Zeroable, Default)]
#[repr(C)]
pub struct Keys {
    primary: Key,
    backup: Key,
    /// How many there are.
    count: u32,
    _pad: u32,
}

impl Keys {
    /// From TCP_FASTOPEN_KEY.
    ///
    /// # Errors
    /// Invalid: not 16 or 32 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Keys> {
        let word = |n: usize| u64::from_le_bytes(core::array::from_fn(|i| bytes[8 * n + i]));
        let primary = match bytes.len() {
            16 | 32 => Key([word(0), word(1)]),
            _ => return Err(Error::Invalid),
        };
        if bytes.len() == 16 {
            return Ok(Keys { primary, count: 1, ..Keys::default() });
        }
        Ok(Keys { primary, backup: Key([word(2), word(3)]), count: 2, _pad: 0 })
    }

    /// As TCP_FASTOPEN_KEY gives them back: none, one or two.
    pub fn bytes(&self) -> Vec<u8> {
        let keys = [self.primary, self.backup];
        keys[..self.count as usize].iter().flat_map(|k| k.0).flat_map(u64::to_le_bytes).collect()
    }

    /// net.ipv4.tcp_fastopen_key; where that says nothing, a secret of this stack.
    fn of_stack(sysctls: &Sysctls, own: &Key) -> Keys {
        let words = &sysctls.tcp_fastopen_key;
        let key = |at: usize| {
            let half = |n: usize| words[n] as u64 | (words[n + 1] as u64) << 32;
            Key([half(at), half(at + 2)])
        };
        let is_set = |at: usize| words[at..at + 4].iter().any(|&w| w != 0);
        if !is_set(0) {
            let primary = Key([own.hash(&[OWN_KEY, 0]), own.hash(&[OWN_KEY, 1])]);
            return Keys { primary, count: 1, ..Keys::default() };
        }
        Keys { primary: key(0), backup: key(4), count: 1 + u32::from(is_set(4)), _pad: 0 }
    }
}

/// The cookie for connections from `client` to `server` (__tcp_fastopen_cookie_gen_cipher).
fn make(key: &Key, client: Addr, server: Addr) -> [u8; 8] {
    let word = |bytes: &[u8]| u64::from_le_bytes(core::array::from_fn(|i| bytes[i]));
    let hash = if client.is_v4() {
        let (c, s) = (client.octets_v4(), server.octets_v4());
        key.hash(&[word(&[c[0], c[1], c[2], c[3], s[0], s[1], s[2], s[3]])])
    } else {
        key.hash(&[word(&client.0), word(&client.0[8..]), word(&server.0), word(&server.0[8..])])
    };
    hash.to_le_bytes()
}

/// A listener's side: TCP_FASTOPEN, TCP_FASTOPEN_KEY, and the connections whose handshakes have not ended.
#[derive(Clone, Copy, Zeroable)]
#[repr(C)]
pub(super) struct FastQueue {
    /// TCP_FASTOPEN; 0: none is made at the SYN.
    pub max: u32,
    pub len: u32,
    /// Those that were reset meanwhile; see HELD_MS.
    held: u32,
    _pad: u32,
    keys: Keys,
}

impl FastQueue {
    /// listen(2) begins with an empty one.
    pub fn begin(&mut self) {
        (self.len, self.held) = (0, 0);
    }
}

/// What is remembered of a pair of addresses (tcp_fastopen_metrics).
#[derive(Clone, Copy, Zeroable)]
#[repr(C)]
struct Peer {
    local: Addr,
    remote: Addr,
    used_at: Instant,
    cookie: Cookie,
    /// The form that it did not answer to last: the other one is tried next.
    unanswered: CookieForm,
    _pad: [u8; 1],
    mss: u32,
}

/// Sets of a few peers; in a full one the peer that was not used for the longest time makes room.
#[derive(Zeroable)]
#[repr(C)]
pub(super) struct Peers([[Peer; FAST_OPEN_WAYS]; FAST_OPEN_PEERS / FAST_OPEN_WAYS]);

impl Peers {
    fn set_of(&mut self, key: &Key, tuple: &FourTuple) -> &mut [Peer; FAST_OPEN_WAYS] {
        let mut pair = *tuple;
        (pair.local.port, pair.remote.port) = (0, 0);
        let sets = self.0.len() as u64;
        &mut self.0[(key.of_tuple(&pair, PEER) % sets) as usize]
    }

    fn find(&mut self, key: &Key, tuple: &FourTuple, now: Instant) -> Option<&mut Peer> {
        let (local, remote) = (tuple.local.addr, tuple.remote.addr);
        let peer = self
            .set_of(key, tuple)
            .iter_mut()
            .find(|p| p.used_at.is_set() && p.local == local && p.remote == remote)?;
        peer.used_at = now;
        Some(peer)
    }

    fn find_or_make(&mut self, key: &Key, tuple: &FourTuple, now: Instant) -> Option<&mut Peer> {
        if self.find(key, tuple, now).is_none() {
            let oldest = self.set_of(key, tuple).iter_mut().min_by_key(|p| p.used_at.as_us())?;
            *oldest =
                Peer { local: tuple.local.addr, remote: tuple.remote.addr, used_at: now, ..Peer::zeroed() };
        }
        self.find(key, tuple, now)
    }
}

/// Fast Open rests, because something on the way seemed to swallow it (tcp_fastopen_active_disable).
#[derive(Clone, Copy, Zeroable)]
#[repr(C)]
pub(super) struct Pause {
    since: Instant,
    /// Times in a row.
    times: u32,
    _pad: u32,
}

impl Pause {
    /// The n-th pause is 2^(n-1) times tcp_fastopen_blackhole_timeout_sec.
    fn is_on(&self, now: Instant, sysctls: &Sysctls) -> bool {
        let seconds = sysctls.tcp_fastopen_blackhole_timeout_sec[0] as u64;
        let doublings = self.times.saturating_sub(1).min(MOST_DOUBLINGS);
        self.times != 0 && seconds != 0 && now.us_since(self.since) < (seconds << doublings) * 1_000_000
    }
}

/// What the first SYN may have (tcp_fastopen_cookie_check).
enum Permit {
    /// Data, with the cookie or, where none is needed, without; `mss` is the peer's, or 0.
    Data { cookie: Cookie, mss: u32 },
    /// This option at most.
    Option(Cookie),
}

/// What a SYN leads to.
pub(super) enum AtSyn {
    /// An ordinary handshake, whose first SYN-ACK has this option.
    Ordinary(Cookie),
    /// The connection is there.
    Made,
}

impl Stack {
    /// Whether a client may use it at all.
    pub fn may_fast_open(&self) -> bool {
        self.core.sysctls.tcp_fastopen[0] & CLIENT != 0
    }

    /// connect(2) has succeeded in name only: the SYN waits for data.
    pub fn is_deferred(&self, id: SockId) -> bool {
        self.sockets.get(id).is_some_and(|s| {
            s.phase == SocketPhase::Connecting
                && s.conn.and_then(|c| self.conns.get(c)).is_some_and(|c| c.tcb.is_deferred())
        })
    }

    /// connect(2) has asked for a cookie: MSG_FASTOPEN is EALREADY.
    pub fn fast_open_has_begun(&self, id: SockId) -> bool {
        let conn = self.sockets.get(id).and_then(|s| s.conn).and_then(|c| self.conns.get(c));
        conn.is_some_and(|c| c.tcb.has_begun_without_data())
    }

    fn permit(&mut self, now: Instant, id: ConnId, without_cookie: bool) -> Permit {
        let core = &mut *self.core;
        let conn = &mut self.conns[id];
        let known = core.peers.find(&core.key, &conn.tuple, now);
        let (mss, cookie, unanswered) =
            known.map_or((0, Cookie::NONE, CookieForm::Absent), |p| (p.mss, p.cookie, p.unanswered));
        if core.fast_pause.is_on(now, &core.sysctls) {
            return Permit::Option(Cookie::NONE);
        }
        if core.fast_pause.times != 0 {
            conn.tcb.probe_pause();
        }
        if without_cookie || core.sysctls.tcp_fastopen[0] & CLIENT_WITHOUT_COOKIE != 0 {
            return Permit::Data { cookie: Cookie::NONE, mss };
        }
        if cookie.is_full() {
            return Permit::Data { cookie, mss };
        }
        conn.tcb.lacks_cookie();
        Permit::Option(Cookie::request(match unanswered {
            CookieForm::Standard => CookieForm::Experiment,
            _ => CookieForm::Standard,
        }))
    }

    /// TCP_FASTOPEN_CONNECT: a connection that was made for connect(2), its SYN not sent.
    ///
    /// # Errors
    /// InProgress: there is no cookie, and the SYN that asks for one is on its way.
    pub(super) fn connect_deferred(&mut self, now: Instant, id: ConnId, without_cookie: bool) -> Result<()> {
        let permit = self.permit(now, id, without_cookie);
        let core = &mut *self.core;
        let conn = &mut self.conns[id];
        match permit {
            Permit::Data { .. } => Ok(()),
            Permit::Option(option) => {
                conn.tcb.set_syn_option(option);
                conn.tcb.begin_without_data();
                conn.tcb.send_syn(&mut env!(self, core, now));
                self.touch(id);
                Err(Error::InProgress)
            }
        }
    }

    /// The SYN leaves, with what [`Stack::write_syn`] gives it until the lock is given back: the first write to a deferred
    /// connection, or MSG_FASTOPEN.
    ///
    /// # Errors
    /// NotConnected: there is no connection that waits for it.
    pub fn open_with_data(&mut self, now: Instant, id: SockId) -> Result<()> {
        let s = self.sockets.get(id).ok_or(Error::BadDescriptor)?;
        let without_cookie = s.options.fastopen_no_cookie;
        let conn_id = s.conn.filter(|_| self.is_deferred(id)).ok_or(Error::NotConnected)?;
        let permit = self.permit(now, conn_id, without_cookie);
        let core = &mut *self.core;
        core.in_work = Some(conn_id);
        let tcb = &mut self.conns[conn_id].tcb;
        match permit {
            Permit::Data { cookie, mss } => {
                tcb.set_syn_option(cookie);
                tcb.allow_syn_data(mss);
            }
            Permit::Option(option) => tcb.set_syn_option(option),
        }
        tcb.send_syn(&mut env!(self, core, now));
        self.touch(conn_id);
        Ok(())
    }

    /// Data for a SYN that has not left; the number of bytes taken.
    pub fn write_syn(&mut self, now: Instant, id: SockId, data: &[u8]) -> usize {
        let core = &mut *self.core;
        let conn = self.sockets.get(id).and_then(|s| s.conn).and_then(|c| self.conns.get_mut(c));
        conn.map_or(0, |c| c.tcb.write_syn(&mut env!(self, core, now), data))
    }

    /// There is no data after all.
    pub fn forgo_syn_data(&mut self, id: SockId) {
        let conn = self.sockets.get(id).and_then(|s| s.conn).and_then(|c| self.conns.get_mut(c));
        if let Some(conn) = conn {
            conn.tcb.forgo_syn_data();
        }
    }

    /// A connection in SYN-SENT has had its answer.
    pub(super) fn learn_from_synack(&mut self, now: Instant, id: ConnId, seg: &Segment) {
        let core = &mut *self.core;
        let Some(conn) = self.conns.get(id) else { return };
        let Some(Lesson { mss, cookie, unanswered }) = conn.tcb.lesson(seg) else { return };
        let Some(peer) = core.peers.find_or_make(&core.key, &conn.tuple, now) else { return };
        peer.mss = mss;
        if cookie.is_full() {
            peer.cookie = cookie;
        } else if unanswered != CookieForm::Absent && !peer.cookie.is_full() {
            peer.unanswered = unanswered;
        }
    }

    /// After something happened to a connection that counts in a listener's queue, or that may have met a blackhole.
    pub(super) fn settle_fast_open(&mut self, now: Instant, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let swallowed = conn.tcb.take_blackhole();
        // Once more than was told: for as long as its forged sender may send others.
        let holds = conn.tcb.was_reset_early() && conn.socket.is_some();
        if !conn.tcb.is_early()
            && let Some(listener) = self.leave_fast_queue(id).filter(|_| holds)
            && let Some(s) = self.sockets.get_mut(listener).filter(|s| s.phase == SocketPhase::Listening)
        {
            s.fast.held += 1;
            let key = TimerKey { kind: TIMER_HELD, id: listener.to_raw() };
            if self.wheel.schedule(None, key, now.plus_ms(HELD_MS)).is_none() {
                s.fast.held -= 1;
            }
        }
        if swallowed {
            self.pause_fast_open(now);
        }
        if matches!(self.conns[id].tcb.state(), State::TimeWait | State::Closed) {
            self.judge_fast_open(id);
        }
    }

    pub(super) fn held_timer(&mut self, raw: u64) {
        if let Some(s) = SockId::from_raw(raw).and_then(|id| self.sockets.get_mut(id)) {
            s.fast.held = s.fast.held.saturating_sub(1);
        }
    }

    /// A connection's handshake has ended, one way or the other: the listener in whose queue it was.
    pub(super) fn leave_fast_queue(&mut self, id: ConnId) -> Option<SockId> {
        let listener = self.conns.get_mut(id)?.fast_queue.take()?;
        let s = self.sockets.get_mut(listener)?;
        s.fast.len = s.fast.len.saturating_sub(1);
        Some(listener)
    }

    fn pause_fast_open(&mut self, now: Instant) {
        let core = &mut *self.core;
        if core.sysctls.tcp_fastopen_blackhole_timeout_sec[0] == 0 {
            return;
        }
        core.fast_pause.since = now;
        core.fast_pause.times = core.fast_pause.times.saturating_add(1);
        core.counters.inc(Counter::TCPFastOpenBlackhole);
    }

    /// A connection is over: what it says of Fast Open.
    pub(super) fn judge_fast_open(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let heard = conn.tcb.last_heard();
        match conn.tcb.take_verdict() {
            Verdict::Nothing => {}
            Verdict::Blackhole => self.pause_fast_open(heard),
            Verdict::Works if !conn.tuple.remote.addr.is_loopback() => self.core.fast_pause.times = 0,
            Verdict::Works => {}
        }
    }

    /// TCP_FASTOPEN_KEY.
    ///
    /// # Errors
    /// Invalid: not 16 or 32 bytes.
    pub fn set_fastopen_key(&mut self, id: SockId, key: &[u8]) -> Result<()> {
        self.sockets.get_mut(id).ok_or(Error::BadDescriptor)?.fast.keys = Keys::from_bytes(key)?;
        Ok(())
    }

    /// The keys that the socket was given.
    pub fn fastopen_key(&self, id: SockId) -> Option<Vec<u8>> {
        self.sockets.get(id).map(|s| s.fast.keys.bytes())
    }

    /// TCP_FASTOPEN, and what listen(2) makes of it where the sysctl wants Fast Open on every listener.
    pub(super) fn tune_fast_queue(&mut self, id: SockId, len: u32) {
        let most = self.core.sysctls.somaxconn[0].clamp(0, i64::from(i32::MAX)) as u32;
        self.sockets[id].fast.max = len.min(most);
    }

    pub(super) fn listen_fast(&mut self, id: SockId) {
        self.sockets[id].fast.begin();
        let wanted = self.core.sysctls.tcp_fastopen[0];
        if wanted & EVERY_LISTENER != 0 && wanted & SERVER != 0 && self.sockets[id].fast.max == 0 {
            self.tune_fast_queue(id, self.sockets[id].backlog);
        }
    }

    /// A SYN for a listener with room in both its queues: tcp_try_fastopen.
    pub(super) fn fast_open_at_syn(
        &mut self,
        now: Instant,
        listener: SockId,
        tuple: &FourTuple,
        meta: &RxMeta,
        seg: &Segment,
        h: &Handshake,
        mss: u32,
        ts_offset: u32,
    ) -> AtSyn {
        let core = &mut *self.core;
        let s = &self.sockets[listener];
        let option = seg.hdr.options.fast_open;
        if option.is_request() {
            core.counters.inc(Counter::TCPFastOpenCookieReqd);
        }
        let wanted = core.sysctls.tcp_fastopen[0];
        if wanted & SERVER == 0 || (seg.payload.is_empty() && option.is_absent()) || s.fast.max == 0 {
            return AtSyn::Ordinary(Cookie::NONE);
        }
        if s.fast.len + s.fast.held >= s.fast.max {
            core.counters.inc(Counter::TCPFastOpenListenOverflow);
            return AtSyn::Ordinary(Cookie::NONE);
        }
        let keys = match s.fast.keys {
            keys if keys.count != 0 => keys,
            _ => Keys::of_stack(&core.sysctls, &core.key),
        };
        let cookie_by = |key: &Key| Cookie::new(option.form, &make(key, tuple.remote.addr, tuple.local.addr));
        let fresh = cookie_by(&keys.primary);
        let mut answer = Cookie::NONE;
        if !s.options.fastopen_no_cookie && wanted & SERVER_WITHOUT_COOKIE == 0 {
            if option.is_absent() {
                return AtSyn::Ordinary(Cookie::NONE);
            }
            if option.is_request() {
                return AtSyn::Ordinary(fresh);
            }
            if option != fresh {
                if keys.count < 2 || option != cookie_by(&keys.backup) {
                    core.counters.inc(Counter::TCPFastOpenPassiveFail);
                    return AtSyn::Ordinary(fresh);
                }
                answer = fresh;
            }
        }
        if !self.make_early_child(now, listener, tuple, meta, seg, h, mss, ts_offset, answer) {
            self.core.counters.inc(Counter::TCPFastOpenPassiveFail);
            return AtSyn::Ordinary(fresh);
        }
        let core = &mut *self.core;
        if answer.is_full() {
            core.counters.inc(Counter::TCPFastOpenPassiveAltKey);
        }
        core.counters.inc(Counter::TCPFastOpenPassive);
        AtSyn::Made
    }

    /// LISTEN to SYN-RECEIVED, in the accept queue at once (tcp_fastopen_create_child). False: there is no room for it.
    fn make_early_child(
        &mut self,
        now: Instant,
        listener: SockId,
        tuple: &FourTuple,
        meta: &RxMeta,
        seg: &Segment,
        h: &Handshake,
        mss: u32,
        ts_offset: u32,
        answer: Cookie,
    ) -> bool {
        let Some(id) = self.child_of(listener, tuple, meta) else { return false };
        let params = self.open_params(listener, h, mss, ts_offset);
        let core = &mut *self.core;
        let conn = &mut self.conns[id];
        conn.fast_queue = Some(listener);
        let before = Before::of(conn);
        conn.tcb.open_early(&mut env!(self, core, now), &params, h, answer, seg);
        let s = &mut self.sockets[listener];
        s.fast.len += 1;
        s.accept_queue.push_back(&mut self.conns, id);
        self.settle(now, id, before, Outcome::DONE);
        self.notify(listener, Ready::IN);
        self.signal(listener, Event::Readable);
        true
    }
}

/// Whether a socket in this state may be told of TCP_FASTOPEN and its kin.
pub(super) fn may_be_tuned(state: State) -> bool {
    matches!(state, State::Closed | State::Listen)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// That they are shows in python-tests/play.py (fast_open) and scenarios.py ("fast open, keys"); here the hash and the bytes'
    /// order.
    #[test]
    fn cookies_are_linuxs() {
        let bytes: Vec<u8> = (0..16).collect();
        let key = Keys::from_bytes(&bytes).unwrap();
        let mut sysctls = Sysctls::default();
        sysctls.set("net.ipv4.tcp_fastopen_key", "03020100-07060504-0b0a0908-0f0e0d0c").unwrap();
        let same = Keys::of_stack(&sysctls, &Key([1, 2]));
        assert_eq!((key.primary.0, key.count), (same.primary.0, same.count));
        assert_eq!(key.bytes(), bytes);
        // SipHash-2-4's own vector for the message 00..07.
        let (c, s) = (Addr::v4([0, 1, 2, 3]), Addr::v4([4, 5, 6, 7]));
        assert_eq!(make(&key.primary, c, s), 0x93f5_f579_9a93_2462_u64.to_le_bytes());
        // ... and for 00..1f.
        let (c, s) = (core::array::from_fn(|i| i as u8), core::array::from_fn(|i| 16 + i as u8));
        assert_eq!(make(&key.primary, Addr::v6(c), Addr::v6(s)), 0x7127_512f_72f2_7cce_u64.to_le_bytes());
    }
}
