//! The passive open, as Linux does it: a queue of request sockets, a queue of connections to be accepted, and what happens
//! when either is full.
//!
//! A SYN makes a [`Request`], which answers with a SYN-ACK and sends it again until the final ACK comes or
//! tcp_synack_retries is used up. The final ACK makes a connection and puts it into the accept queue, which holds
//! backlog + 1. While the accept queue is full, SYNs are dropped, and so are final ACKs, so that the SYN-ACK goes out again
//! and the peer has another try. When the queue of requests is full, the answer is a cookie: a SYN-ACK that needs no memory.
//!
//! Why a stale SYN opens nothing: its SYN-ACK acknowledges a number that the peer has not sent, and the peer answers with
//! a RST (RFC 9293 3.5, figure 8), which removes the request.

use super::connections::{Before, TIMER_REQUEST, env, path_mss};
use super::cookie;
use super::fastopen::AtSyn;
use super::{ConnId, SockId, SocketPhase, Stack};
use crate::fixed::hash::Chained;
use crate::fixed::{Id, TimerId, TimerKey};
use crate::stack::ready::Ready;
use crate::tcp::handshake::{self, Handshake};
use crate::tcp::{Env, OpenParams, Reply, Segment, isn};
use crate::values::signal::Event;
use crate::values::{Counter, Endpoint, Error, FourTuple, Instant, RxMeta, SeqNum, error::Result};
use crate::values::{Path, Sysctls};
use crate::wire::{Cookie, Flags, Header, Options, Timestamps};
use bytemuck::Zeroable;

/// First time-out of a SYN-ACK (TCP_TIMEOUT_INIT), doubled each time.
const FIRST_TIMEOUT_MS: u64 = 1000;
const MAX_TIMEOUT_MS: u64 = 120_000;
/// What a SYN-ACK offers, and so what a segment for a request may lie in.
const SYNACK_WINDOW: u32 = 0xffff;
/// TCP_SYNCOOKIE_VALID: how long after the last cookie of a listener they are looked for.
const COOKIE_VALID_US: u64 = 120_000_000;

/// A half-open connection: SYN-RECEIVED, passive.
#[derive(Zeroable)]
#[repr(C)]
pub struct Request {
    tuple: FourTuple,
    listener: Option<SockId>,
    handshake: Handshake,
    path: Path,
    path_mss: u32,
    ts_offset: u32,
    sent_at: Instant,
    /// When an ACK for a segment that does not fit was sent.
    last_oow: Instant,
    /// The final ACK came, but the accept queue was full (or TCP_DEFER_ACCEPT waits for data).
    acked: bool,
    /// The SYN-ACK was sent more than once.
    resent: bool,
    _pad: [u8; 2],
    timeouts: u32,
    pub(super) timer: Option<TimerId>,
    chain: Option<RequestId>,
}

impl Request {
    /// The sequence number of the SYN-ACK.
    pub(super) fn iss(&self) -> SeqNum {
        self.handshake.iss
    }

    pub(super) fn local(&self) -> Endpoint {
        self.tuple.local
    }

    pub(super) fn remote(&self) -> Endpoint {
        self.tuple.remote
    }

    pub(super) fn is_of(&self, listener: SockId) -> bool {
        self.listener == Some(listener)
    }
}

pub type RequestId = Id<Request>;

/// The index of request sockets by their names.
pub enum ByRequest {}

impl Chained<ByRequest> for Request {
    fn chain(&self) -> Option<RequestId> {
        self.chain
    }
    fn set_chain(&mut self, next: Option<RequestId>) {
        self.chain = next;
    }
}

impl Stack {
    /// listen(2): also again, with another backlog. The guard is up, [`Stack::set_port`] was called.
    ///
    /// # Errors
    /// Invalid: the socket is not of a state that may listen. AddressInUse: another socket of ours listens there.
    pub fn listen(&mut self, id: SockId, backlog: i32) -> Result<()> {
        let core = &mut *self.core;
        let s = self.sockets.get_mut(id).ok_or(Error::BadDescriptor)?;
        // Unsigned, as in Linux: a negative backlog is the largest.
        let backlog = (backlog as u32).min(core.sysctls.somaxconn[0].clamp(0, i64::from(i32::MAX)) as u32);
        match s.phase {
            SocketPhase::Listening => {
                s.backlog = backlog;
                return Ok(());
            }
            SocketPhase::Connecting | SocketPhase::Connected => return Err(Error::Invalid),
            SocketPhase::Unconnected => {}
        }
        let local = s.local;
        let shares = s.options.reuse_port;
        let taken = core.by_port.find(&self.sockets, u64::from(local.port), |l| {
            l.local == local && !(shares && l.options.reuse_port)
        });
        if taken.is_some() {
            return Err(Error::AddressInUse);
        }
        let s = &mut self.sockets[id];
        s.backlog = backlog;
        s.phase = SocketPhase::Listening;
        s.shut = 0;
        // inet_csk_delack_init
        s.options.tcp.quickack_off = false;
        core.by_port.insert(&mut self.sockets, u64::from(local.port), id);
        self.listen_fast(id);
        Ok(())
    }

    /// A listener ends: half-open connections are forgotten, those that wait to be accepted are reset.
    pub(super) fn stop_listening(&mut self, now: Instant, id: SockId) {
        let core = &mut *self.core;
        let Some(s) = self.sockets.get_mut(id) else { return };
        s.phase = SocketPhase::Unconnected;
        let port = s.local.port;
        core.by_port.remove(&mut self.sockets, u64::from(port), id);
        if self.sockets[id].syn_queue > 0 {
            let mine: Vec<RequestId> =
                self.requests.iter().filter(|(_, r)| r.listener == Some(id)).map(|(r, _)| r).collect();
            mine.into_iter().for_each(|r| self.remove_request(r));
        }
        while let Some(conn_id) = self.sockets[id].accept_queue.pop_front(&mut self.conns) {
            let core = &mut *self.core;
            let conn = &mut self.conns[conn_id];
            conn.listener = None;
            let (tuple, path) = (conn.tuple, conn.path);
            let mut env = env!(self, core, now);
            if let Some(reply) = conn.tcb.abort(&mut env, 0) {
                self.queue_reply(&tuple, path, &reply);
            }
            self.remove_conn(conn_id);
        }
    }

    /// The listener for packets to `local`: a specific address before a wildcard, IPv4's before IPv6's.
    /// Of an SO_REUSEPORT group, the one that the hash of the connection falls on.
    pub(super) fn find_listener(&self, tuple: &FourTuple) -> Option<SockId> {
        let first = self.first_listener(tuple.local)?;
        let s = &self.sockets[first];
        if !s.options.reuse_port {
            return Some(first);
        }
        let port = u64::from(tuple.local.port);
        let local = s.local;
        let mut group = 0;
        self.core.by_port.find(&self.sockets, port, |l| {
            group += u64::from(l.local == local);
            false
        });
        let mut left = self.core.key.of_tuple(tuple, 5) % group.max(1);
        self.core.by_port.find(&self.sockets, port, |l| {
            l.local == local
                && (left == 0 || {
                    left -= 1;
                    false
                })
        })
    }

    fn first_listener(&self, local: Endpoint) -> Option<SockId> {
        let port = u64::from(local.port);
        let find = |matches: &dyn Fn(&super::Socket) -> bool| {
            self.core.by_port.find(&self.sockets, port, |s| s.local.port == local.port && matches(s))
        };
        find(&|s| s.local.addr == local.addr)
            .or_else(|| find(&|s| local.addr.is_v4() && s.local.addr == crate::values::Addr::ANY_V4))
            .or_else(|| {
                find(&|s| {
                    s.local.addr == crate::values::Addr::ANY_V6 && !(local.addr.is_v4() && s.options.v6only)
                })
            })
    }

    pub(super) fn find_request(&self, tuple: &FourTuple) -> Option<RequestId> {
        let hash = self.core.key.of_tuple(tuple, 0);
        self.core.by_request.find(&self.requests, hash, |r| r.tuple == *tuple)
    }

    /// A segment for a listener that belongs to no request: RFC 9293 3.10.7.2.
    pub(super) fn listener_input(
        &mut self,
        now: Instant,
        id: SockId,
        tuple: &FourTuple,
        meta: &RxMeta,
        seg: &Segment,
        iss: Option<SeqNum>,
    ) {
        let f = seg.hdr.flags;
        if f.has(Flags::RST) {
            self.core.counters.inc(Counter::DropState);
        } else if f.has(Flags::ACK) {
            if f.has(Flags::SYN) || !self.cookie_input(now, id, tuple, meta, seg) {
                self.refuse(tuple, meta.source, seg);
            }
        } else if f.has(Flags::SYN) && !f.has(Flags::FIN) {
            self.syn_input(now, id, tuple, meta, seg, iss);
        } else {
            self.core.counters.inc(Counter::DropState);
        }
    }

    /// tcp_conn_request.
    fn syn_input(
        &mut self,
        now: Instant,
        id: SockId,
        tuple: &FourTuple,
        meta: &RxMeta,
        seg: &Segment,
        iss: Option<SeqNum>,
    ) {
        let core = &mut *self.core;
        let s = &self.sockets[id];
        let cookies = core.sysctls.tcp_syncookies[0];
        let mut want_cookie = false;
        // inet_csk_reqsk_queue_is_full (since Linux 6.14 one more than before): python-tests/queues.py, backlog 0.
        if (cookies == 2 || s.syn_queue > s.backlog) && iss.is_none() {
            if cookies == 0 {
                core.counters.inc(Counter::TCPReqQFullDrop);
                core.counters.inc(Counter::ListenDrops);
                return;
            }
            core.counters.inc(Counter::TCPReqQFullDoCookies);
            want_cookie = true;
        }
        if s.accept_queue.len() as u32 > s.backlog {
            core.counters.inc(Counter::ListenOverflows);
            core.counters.inc(Counter::ListenDrops);
            return;
        }
        // Without cookies the last quarter of tcp_max_syn_backlog is for peers that are known; none is.
        let max = core.sysctls.tcp_max_syn_backlog[0];
        if !want_cookie && cookies == 0 && iss.is_none() && max - i64::from(s.syn_queue) < max >> 2 {
            core.counters.inc(Counter::ListenDrops);
            return;
        }
        let options = s.options;
        let mut h = handshake::from_syn(seg.hdr, &core.sysctls, &options.tcp);
        let ts_offset = isn::timestamp_offset(&core.key, tuple);
        let mss = path_mss(core.interfaces.mtu(meta.ifindex), tuple.remote.addr);
        if want_cookie {
            // Without timestamps there is nowhere to keep the other options.
            if !h.timestamps {
                h.sack = false;
                h.peer_scale = 0;
                h.our_scale = 0;
            }
            h.iss = cookie::make(&core.key, tuple, now, &h);
            core.counters.inc(Counter::SyncookiesSent);
            self.sockets[id].cookies_at = now;
            let tsval = cookie::timestamp(&h, now, ts_offset);
            let window = synack_window(&options.tcp, &core.sysctls, core.device_limit);
            let header = synack(&h, tuple, mss, tsval, &options.tcp, window);
            self.queue_header(tuple, meta.source, &header, &options);
            return;
        }
        h.iss = iss.unwrap_or_else(|| isn::initial_sequence(&core.key, tuple, now));
        let AtSyn::Ordinary(answer) = self.fast_open_at_syn(now, id, tuple, meta, seg, &h, mss, ts_offset)
        else {
            return;
        };
        let core = &mut *self.core;
        let request = Request {
            tuple: *tuple,
            listener: Some(id),
            handshake: h,
            path: meta.source,
            path_mss: mss,
            ts_offset,
            sent_at: now,
            ..Request::zeroed()
        };
        let Ok(request_id) = self.requests.insert(request) else {
            core.counters.inc(Counter::TableFull);
            core.counters.inc(Counter::ListenDrops);
            return;
        };
        let hash = core.key.of_tuple(tuple, 0);
        core.by_request.insert(&mut self.requests, hash, request_id);
        let s = &mut self.sockets[id];
        s.syn_queue += 1;
        s.syn_young += 1;
        self.arm_request(now, request_id);
        self.send_synack(now, request_id, answer);
    }

    fn arm_request(&mut self, now: Instant, id: RequestId) {
        let r = &mut self.requests[id];
        let ms = (FIRST_TIMEOUT_MS << r.timeouts.min(10)).min(MAX_TIMEOUT_MS);
        let key = TimerKey { kind: TIMER_REQUEST, id: id.to_raw() };
        r.timer = self.wheel.schedule(r.timer, key, now.plus_ms(ms));
    }

    /// `fast_open`: a cookie for the peer, which only the first SYN-ACK brings.
    fn send_synack(&mut self, now: Instant, id: RequestId, fast_open: Cookie) {
        let core = &*self.core;
        let r = &self.requests[id];
        let Some(s) = r.listener.and_then(|l| self.sockets.get(l)) else { return };
        let tsval = (now.as_ms() as u32).wrapping_add(r.ts_offset);
        let window = synack_window(&s.options.tcp, &core.sysctls, core.device_limit);
        let mut header = synack(&r.handshake, &r.tuple, r.path_mss, tsval, &s.options.tcp, window);
        header.options.fast_open = fast_open;
        let (tuple, path, options) = (r.tuple, r.path, s.options);
        self.queue_header(&tuple, path, &header, &options);
    }

    /// reqsk_timer_handler.
    pub(super) fn request_timer(&mut self, now: Instant, raw: u64) {
        let Some(id) = RequestId::from_raw(raw) else { return };
        let core = &mut *self.core;
        let Some(r) = self.requests.get_mut(id) else { return };
        r.timer = None;
        let Some(s) = r.listener.and_then(|l| self.sockets.get_mut(l)) else {
            self.remove_request(id);
            return;
        };
        core.counters.inc(Counter::TCPTimeouts);
        let retries = match s.options.tcp.syncnt {
            0 => core.sysctls.tcp_synack_retries[0] as u32,
            n => n,
        };
        let retries = fewer_when_crowded(retries, s.syn_queue, s.syn_young, s.backlog);
        // syn_ack_recalc
        let defer = defer_timeouts(s.options.defer_accept_s);
        let expired = r.timeouts >= retries && (defer == 0 || !r.acked || r.timeouts >= defer);
        // While data is waited for nothing is sent; in the end the peer has one more chance. Once acknowledged with the
        // accept queue full, the SYN-ACK is all that can make the peer try again.
        let resend = defer == 0 || !r.acked || r.timeouts + 1 >= defer;
        if expired {
            self.remove_request(id);
            return;
        }
        if r.timeouts == 0 {
            s.syn_young = s.syn_young.saturating_sub(1);
        }
        r.timeouts += 1;
        self.arm_request(now, id);
        if resend {
            self.resend_synack(now, id);
        }
    }

    /// inet_rtx_syn_ack.
    fn resend_synack(&mut self, now: Instant, id: RequestId) {
        self.core.counters.inc(Counter::TCPSynRetrans);
        self.core.counters.inc(Counter::RetransSegs);
        self.requests[id].resent = true;
        self.send_synack(now, id, Cookie::NONE);
    }

    pub(super) fn remove_request(&mut self, id: RequestId) {
        let core = &mut *self.core;
        let Some(r) = self.requests.get_mut(id) else { return };
        let hash = core.key.of_tuple(&r.tuple, 0);
        let (listener, timer, young) = (r.listener, r.timer.take(), r.timeouts == 0);
        core.by_request.remove(&mut self.requests, hash, id);
        if let Some(timer) = timer {
            self.wheel.cancel(timer);
        }
        if let Some(s) = listener.and_then(|l| self.sockets.get_mut(l)) {
            s.syn_queue = s.syn_queue.saturating_sub(1);
            s.syn_young = s.syn_young.saturating_sub(u32::from(young));
        }
        self.requests.remove(id);
    }

    /// A segment for a half-open connection: tcp_check_req, in its order.
    pub(super) fn request_input(&mut self, now: Instant, id: RequestId, meta: &RxMeta, seg: &Segment) {
        let r = &self.requests[id];
        let (h, tuple) = (r.handshake, r.tuple);
        let f = seg.hdr.flags;
        let ts = seg.hdr.options.timestamps.filter(|_| h.timestamps);
        let paws = ts.is_some_and(|t| (t.val.wrapping_sub(h.ts_recent) as i32) < 0);
        if seg.hdr.seq == h.irs && f.has(Flags::SYN) && !f.any(Flags::ACK | Flags::RST) && !paws {
            self.repeated_syn(now, id);
            return;
        }
        // Not the answer to our SYN-ACK: the listener's business, which knows no such connection (RFC 9293 3.10.7.2).
        if f.has(Flags::ACK) && seg.hdr.ack != h.iss + 1 {
            if let Some(listener) = r.listener {
                self.listener_input(now, listener, &tuple, meta, seg, None);
            }
            return;
        }
        if paws || !seg.lies_in(h.irs + 1, SYNACK_WINDOW) {
            self.answer_unacceptable(now, id, meta, seg, paws);
            return;
        }
        if f.has(Flags::RST) && seg.hdr.seq != h.irs + 1 {
            self.challenge_reset(now, id, meta);
            return;
        }
        // A SYN at IRS is the one that we know.
        let other_syn = f.has(Flags::SYN) && seg.hdr.seq != h.irs;
        if f.has(Flags::RST) || other_syn {
            self.core.counters.inc(Counter::AttemptFails);
            self.embryonic_reset(id, meta, seg);
        } else if f.has(Flags::ACK) {
            self.final_ack(now, id, meta, seg);
        } else {
            self.core.counters.inc(Counter::DropState);
        }
    }

    /// The SYN came again, so our answer was lost: it goes again too, within tcp_invalid_ratelimit.
    fn repeated_syn(&mut self, now: Instant, id: RequestId) {
        if self.is_over_limit(now, id) {
            self.core.counters.inc(Counter::TCPACKSkippedSynRecv);
            return;
        }
        self.resend_synack(now, id);
        self.arm_request(now, id);
    }

    /// tcp_oow_rate_limited, for segments without data.
    fn is_over_limit(&mut self, now: Instant, id: RequestId) -> bool {
        let limit_us = self.core.sysctls.tcp_invalid_ratelimit[0] as u64 * 1000;
        let r = &mut self.requests[id];
        if r.last_oow.is_set() && now.us_since(r.last_oow) < limit_us {
            return true;
        }
        r.last_oow = now;
        false
    }

    fn answer_unacceptable(&mut self, now: Instant, id: RequestId, meta: &RxMeta, seg: &Segment, paws: bool) {
        if paws {
            self.core.counters.inc(Counter::PAWSEstab);
        }
        if seg.hdr.flags.has(Flags::RST) {
            return;
        }
        if (seg.is_empty() || seg.hdr.flags.has(Flags::SYN)) && self.is_over_limit(now, id) {
            self.core.counters.inc(Counter::TCPACKSkippedSynRecv);
            return;
        }
        let tuple = self.requests[id].tuple;
        let reply = self.request_ack(now, id);
        self.queue_reply(&tuple, meta.source, &reply);
    }

    /// A RST in the window, but not where it should be (RFC 5961 3.2; Linux since 6.18: python-tests/play.py, embryo).
    fn challenge_reset(&mut self, now: Instant, id: RequestId, meta: &RxMeta) {
        if self.is_over_limit(now, id) {
            self.core.counters.inc(Counter::TCPACKSkippedChallenge);
            return;
        }
        self.core.counters.inc(Counter::TCPChallengeACK);
        let tuple = self.requests[id].tuple;
        let reply = self.request_ack(now, id);
        self.queue_reply(&tuple, meta.source, &reply);
    }

    /// The end of a request by a RST, or by a segment that deserves one.
    fn embryonic_reset(&mut self, id: RequestId, meta: &RxMeta, seg: &Segment) {
        let tuple = self.requests[id].tuple;
        self.core.counters.inc(Counter::EmbryonicRsts);
        self.reset_segment(&tuple, meta, seg);
        self.remove_request(id);
    }

    fn reset_segment(&mut self, tuple: &FourTuple, meta: &RxMeta, seg: &Segment) {
        if let Some(reply) = Reply::reset_for(seg) {
            self.queue_reply(tuple, meta.source, &reply);
        }
    }

    fn request_ack(&self, now: Instant, id: RequestId) -> Reply {
        let r = &self.requests[id];
        let h = &r.handshake;
        Reply {
            seq: h.iss + 1,
            ack: h.irs + 1,
            flags: Flags::ACK,
            window: 0xffff >> h.our_scale,
            urgent: 0,
            timestamps: h.timestamps.then(|| Timestamps {
                val: (now.as_ms() as u32).wrapping_add(r.ts_offset),
                ecr: h.ts_recent,
            }),
        }
    }

    /// The third segment of the handshake.
    fn final_ack(&mut self, now: Instant, id: RequestId, meta: &RxMeta, seg: &Segment) {
        let core = &mut *self.core;
        let r = &mut self.requests[id];
        let Some(listener) = r.listener else { return };
        let Some(s) = self.sockets.get(listener) else { return };
        let defer = defer_timeouts(s.options.defer_accept_s);
        if r.timeouts < defer && seg.is_empty() {
            r.acked = true;
            core.counters.inc(Counter::TCPDeferAcceptDrop);
            return;
        }
        if s.accept_queue.len() as u32 > s.backlog {
            core.counters.inc(Counter::ListenOverflows);
            core.counters.inc(Counter::ListenDrops);
            if core.sysctls.tcp_abort_on_overflow[0] == 0 {
                r.acked = true;
                return;
            }
            self.embryonic_reset(id, meta, seg);
            return;
        }
        let mut h = r.handshake;
        h.window = u32::from(seg.hdr.window) << h.peer_scale;
        if let Some(t) = seg.hdr.options.timestamps.filter(|_| h.timestamps && seg.hdr.seq == h.irs + 1) {
            h.ts_recent = t.val;
        }
        // Karn: not when the ACK may be that of an earlier SYN-ACK.
        if !r.resent {
            h.rtt_us = now.us_since(r.sent_at).min(10_000_000) as u32;
        }
        let (tuple, mss, ts_offset) = (r.tuple, r.path_mss, r.ts_offset);
        self.remove_request(id);
        self.make_child(now, listener, &tuple, meta, &h, mss, ts_offset, seg);
    }

    /// SYN-RECEIVED to ESTABLISHED: the connection, with the listener's options, in the accept queue. What the segment
    /// carries beyond the ACK is taken like any other data.
    fn make_child(
        &mut self,
        now: Instant,
        listener: SockId,
        tuple: &FourTuple,
        meta: &RxMeta,
        h: &Handshake,
        mss: u32,
        ts_offset: u32,
        seg: &Segment,
    ) {
        let Some(id) = self.child_of(listener, tuple, meta) else {
            self.core.counters.inc(Counter::ListenDrops);
            return;
        };
        let params = self.open_params(listener, h, mss, ts_offset);
        let core = &mut *self.core;
        let conn = &mut self.conns[id];
        let mut env = env!(self, core, now);
        conn.tcb.open_passive(&mut env, &params, h);
        let before = Before::of(conn);
        let outcome = conn.tcb.input(&mut env, seg);
        self.sockets[listener].accept_queue.push_back(&mut self.conns, id);
        self.settle(now, id, before, outcome);
        self.notify(listener, Ready::IN);
        self.signal(listener, Event::Readable);
    }

    /// How a listener's connection begins.
    pub(super) fn open_params(
        &self,
        listener: SockId,
        h: &Handshake,
        mss: u32,
        ts_offset: u32,
    ) -> OpenParams {
        OpenParams {
            iss: h.iss,
            path_mss: mss,
            device_limit: self.core.device_limit,
            ts_offset,
            options: self.sockets[listener].options.tcp,
        }
    }

    /// A connection of a listener's, its control block still CLOSED.
    pub(super) fn child_of(&mut self, listener: SockId, tuple: &FourTuple, meta: &RxMeta) -> Option<ConnId> {
        let s = &self.sockets[listener];
        let (options, port) = (s.options, s.port);
        let id = self.conn_create(*tuple, port, options.reuse_addr).ok()?;
        let core = &*self.core;
        let conn = &mut self.conns[id];
        conn.path = meta.source;
        conn.listener = Some(listener);
        conn.take_marks(&options, &core.key, &core.sysctls);
        Some(id)
    }

    /// An ACK without a request: perhaps it brings a cookie back. False when it does not.
    fn cookie_input(
        &mut self,
        now: Instant,
        id: SockId,
        tuple: &FourTuple,
        meta: &RxMeta,
        seg: &Segment,
    ) -> bool {
        let core = &mut *self.core;
        let s = &self.sockets[id];
        // Only where cookies went out lately (tcp_synq_no_recent_overflow): else every ACK would be a guess for free.
        let lately = s.cookies_at.is_set() && now.us_since(s.cookies_at) <= COOKIE_VALID_US;
        if core.sysctls.tcp_syncookies[0] == 0 || !lately {
            return false;
        }
        let options = s.options;
        let ts_offset = isn::timestamp_offset(&core.key, tuple);
        let Some(mut h) = cookie::check(&core.key, tuple, now, seg.hdr, &core.sysctls) else {
            core.counters.inc(Counter::SyncookiesFailed);
            return false;
        };
        core.counters.inc(Counter::SyncookiesRecv);
        if s.accept_queue.len() as u32 > s.backlog {
            core.counters.inc(Counter::ListenOverflows);
            core.counters.inc(Counter::ListenDrops);
            return true;
        }
        if h.our_scale != 0 {
            h.our_scale = handshake::window_scale(&core.sysctls, &options.tcp);
        }
        h.window = u32::from(seg.hdr.window) << h.peer_scale;
        let mss = path_mss(core.interfaces.mtu(meta.ifindex), tuple.remote.addr);
        self.make_child(now, id, tuple, meta, &h, mss, ts_offset, seg);
        true
    }
}

/// TCP_DEFER_ACCEPT in SYN-ACK time-outs (secs_to_retrans).
pub(super) fn defer_timeouts(seconds: u32) -> u32 {
    (0..=u32::from(u8::MAX)).find(|&n| defer_seconds(n) >= seconds).unwrap_or(u32::from(u8::MAX))
}

/// And back (retrans_to_secs): the whole time of that many time-outs.
pub(super) fn defer_seconds(timeouts: u32) -> u32 {
    (0..timeouts).map(|n| 1u32.checked_shl(n).unwrap_or(u32::MAX).min(120)).sum()
}

/// A queue more than half full is for the young: those that wait longer get fewer repetitions (reqsk_timer_handler).
fn fewer_when_crowded(mut retries: u32, queue: u32, young: u32, backlog: u32) -> u32 {
    if queue * 2 > backlog.max(8) {
        let mut young = young.saturating_mul(2);
        while retries > 2 && queue >= young {
            retries -= 1;
            young = young.saturating_mul(2);
        }
    }
    retries
}

fn synack_window(options: &crate::tcp::TcpOptions, sysctls: &Sysctls, device_limit: u32) -> u16 {
    let own = match options.rcvbuf {
        0 => (sysctls.tcp_rmem[1] / 2) as u32,
        n => n / 2,
    };
    let clamp = if options.window_clamp == 0 { u32::MAX } else { options.window_clamp };
    own.min(device_limit).min(clamp).clamp(1152, 0xffff) as u16
}

fn synack(
    h: &Handshake,
    tuple: &FourTuple,
    path_mss: u32,
    tsval: u32,
    options: &crate::tcp::TcpOptions,
    window: u16,
) -> Header {
    Header {
        src_port: tuple.local.port,
        dst_port: tuple.remote.port,
        seq: h.iss,
        ack: h.irs + 1,
        flags: Flags::SYN | Flags::ACK,
        window,
        urgent: 0,
        options: Options {
            mss: Some(handshake::announced_mss(path_mss, options) as u16),
            window_scale: (h.our_scale != 0 || h.peer_scale != 0).then_some(h.our_scale),
            sack_permitted: h.sack,
            timestamps: h.timestamps.then_some(Timestamps { val: tsval, ecr: h.ts_recent }),
            ..Options::default()
        },
    }
}
