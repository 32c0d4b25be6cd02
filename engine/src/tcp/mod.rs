//! One connection: RFC 9293 and what a peer expects of Linux on top.
//!
//! A [`Tcb`] knows nothing of sockets, tables or devices. Time, the payload pool, the counters and the sysctls come in with
//! each call as an [`Env`]; the call order is
//!
//! 1. [`Tcb::open_active`] and [`Tcb::send_syn`], or [`Tcb::open_passive`], or [`Tcb::open_early`],
//! 2. [`Tcb::input`] for each segment, [`Tcb::on_timers`] when [`Tcb::next_deadline`] has come, the user's calls in between,
//! 3. after each of them [`Tcb::output`] until it says `None`.
//!
//! | file | what |
//! | --- | --- |
//! | `state` | the states, and which of them may send or receive |
//! | `handshake` | which options are offered and agreed |
//! | `fastopen` | data in the SYN, and use before the handshake ends (RFC 7413) |
//! | `input` | segments in: a sequence of checks in the order of RFC 9293 3.10.7 |
//! | `ack` | what an acceptable ACK does: window, recovery, undo |
//! | `scoreboard`, `rack` | what is in flight; what of it is lost |
//! | `output` | the next segment that may leave |
//! | `timers` | the timer table and what each timer does |
//! | `trouble` | ICMP errors: unreachable peers, smaller links |
//! | `urgent` | urgent data, out and in |
//! | `user` | write, read, shutdown, close, abort |
//! | `window` | the receive window and its buffer |
//! | `rtt`, `congestion` | estimates: RFC 6298, CUBIC (RFC 9438) and NewReno |
//! | `isn` | initial sequence numbers and keyed hashes |

mod ack;
pub mod congestion;
pub mod fastopen;
pub mod handshake;
mod input;
pub mod isn;
mod output;
mod rack;
pub mod rtt;
mod scoreboard;
pub mod state;
mod timers;
mod trouble;
mod urgent;
pub mod user;
mod window;

#[cfg(test)]
mod tests;

pub use handshake::Handshake;
pub use output::{OutSegment, TxLimits};
pub use state::State;
pub use timers::Timer;
pub use urgent::{Urgent, UrgentNews};
pub use user::TcpInfo;

use crate::fixed::{Pool, RangeSet, StreamBuf};
use crate::values::limits::{REORDER_RANGES, UNREPORTED_RANGES};
use crate::values::{Counter, Counters, Instant, SeqNum, Sysctls};
use crate::wire::{Flags, Header, Timestamps};
use bytemuck::Zeroable;
use congestion::Congestion;
use fastopen::FastOpen;
use rtt::Rtt;
use scoreboard::{Micros, Scoreboard};
use timers::TimerTable;

/// What every call needs from outside.
pub struct Env<'a> {
    pub now: Instant,
    pub pool: &'a mut Pool,
    pub counters: &'a mut Counters,
    pub sysctls: &'a Sysctls,
}

/// A segment that arrived: IP is checked, the checksum is right, it is for this connection.
#[derive(Clone, Copy)]
pub struct Segment<'a> {
    pub hdr: &'a Header,
    pub payload: &'a [u8],
}

impl Segment<'_> {
    /// SEG.LEN: payload, SYN and FIN.
    pub fn len(&self) -> u32 {
        self.hdr.seq_len(self.payload.len())
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The sequence number after the segment.
    pub fn end(&self) -> SeqNum {
        self.hdr.seq + self.len()
    }

    /// Any of it lies in a window, or it is an empty one at an edge (tcp_in_window).
    pub fn lies_in(&self, start: SeqNum, size: u32) -> bool {
        let (seq, end, right) = (self.hdr.seq, self.end(), start + size);
        seq == start || (end.after(start) && seq.before(right)) || (seq == right && seq == end)
    }
}

/// A segment without data that answers another one outside of the stream: RST, challenge ACK, ACK of an unacceptable segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reply {
    pub seq: SeqNum,
    pub ack: SeqNum,
    pub flags: Flags,
    pub window: u16,
    /// The urgent pointer, with URG.
    pub urgent: u16,
    pub timestamps: Option<Timestamps>,
}

impl Reply {
    /// The RST that CLOSED sends (RFC 9293 3.10.7.1); `None` for a RST.
    pub fn reset_for(seg: &Segment) -> Option<Reply> {
        if seg.hdr.flags.has(Flags::RST) {
            return None;
        }
        let (seq, ack, flags) = if seg.hdr.flags.has(Flags::ACK) {
            (seg.hdr.ack, SeqNum(0), Flags::RST)
        } else {
            (SeqNum(0), seg.end(), Flags::RST | Flags::ACK)
        };
        Some(Reply { seq, ack, flags, window: 0, urgent: 0, timestamps: None })
    }
}

/// What becomes of the connection after a segment or a timer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Fate {
    #[default]
    Lives,
    /// CLOSED: forget the connection, once its socket (if it still has one) has seen the error.
    Ends,
}

/// What the caller has to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Outcome {
    pub reply: Option<Reply>,
    pub fate: Fate,
    /// The segment passed every check: sequence number, acknowledgment, flags. Only the peer, or someone who sees its
    /// traffic, can have sent it.
    pub acceptable: bool,
}

impl Outcome {
    pub const DONE: Outcome = Outcome { reply: None, fate: Fate::Lives, acceptable: false };
    const ACCEPTED: Outcome = Outcome { acceptable: true, ..Outcome::DONE };

    fn reply(reply: Option<Reply>) -> Outcome {
        Outcome { reply, ..Outcome::DONE }
    }

    fn ends(reply: Option<Reply>) -> Outcome {
        Outcome { reply, fate: Fate::Ends, ..Outcome::DONE }
    }
}

/// Send sequence variables, RFC 9293 3.3.1.
#[derive(Clone, Copy, Zeroable)]
#[repr(C)]
pub struct Snd {
    pub iss: SeqNum,
    pub una: SeqNum,
    pub nxt: SeqNum,
    /// In bytes, scaled.
    pub wnd: u32,
    pub wl1: SeqNum,
    pub wl2: SeqNum,
    /// The largest window that the peer has offered.
    pub max_wnd: u32,
    /// Shift of the windows that the peer offers.
    pub scale: u8,
    /// Urgent data is not acknowledged yet.
    urgent: bool,
    _pad: [u8; 2],
    /// Bytes of payload in a full segment, timestamps taken off.
    pub mss: u32,
    /// The sequence number of the first byte in the send buffer.
    base: SeqNum,
    /// Since when the last data was sent, for slow start after idle.
    last_sent: Instant,
    /// The end of the last small segment, for Nagle as Minshall changed it.
    small_end: SeqNum,
    /// One past the last urgent byte.
    up: SeqNum,
}

/// Receive sequence variables, RFC 9293 3.3.1.
#[derive(Clone, Copy, Zeroable)]
#[repr(C)]
pub struct Rcv {
    pub irs: SeqNum,
    pub nxt: SeqNum,
    /// RCV.NXT when the last ACK was sent.
    pub wup: SeqNum,
    /// The window offered with that ACK, in bytes, scaled.
    pub wnd: u32,
    /// Shift of the windows that we offer.
    pub scale: u8,
    _pad: [u8; 3],
    /// The segment size that the peer seems to use.
    mss: u32,
    /// The MSS that we announced.
    pub adv_mss: u32,
    /// The buffer: bytes that may be held, and so the largest window.
    pub limit: u32,
    /// It was set by SO_RCVBUF and does not grow by itself.
    limit_fixed: bool,
    _pad2: [u8; 3],
    /// Bound by what the receive ring of the device can hold.
    device_limit: u32,
    /// Autotuning: since when, and bytes read since.
    space_time: Instant,
    space_read: u32,
    /// The largest read in one such period.
    pub space: u32,
    /// A FIN was received, and is at `nxt` - 1.
    fin: bool,
    /// A FIN waits at `fin_at` for the bytes before it.
    fin_pending: bool,
    urgent: Urgent,
    urgent_byte: u8,
    fin_at: SeqNum,
    /// The urgent byte itself, not what follows it.
    up: SeqNum,
    /// Reading has passed the FIN.
    fin_read: bool,
    _pad3: [u8; 3],
}

/// RFC 7323 timestamps.
#[derive(Clone, Copy, Zeroable)]
#[repr(C)]
pub struct Ts {
    pub recent: u32,
    /// Added to the clock.
    pub offset: u32,
    /// When `recent` was set, seconds.
    recent_age_s: u32,
    pub enabled: bool,
    _pad: [u8; 3],
}

/// When ACKs leave.
#[derive(Clone, Copy, Zeroable)]
#[repr(C)]
struct Acks {
    /// An ACK must leave with the next output.
    now: bool,
    /// The exchange looks interactive: ACKs wait for data to ride on.
    pingpong: bool,
    /// ACKs to be sent at once before delaying begins.
    quick: u8,
    /// TCP_QUICKACK given by the user.
    pub quick_by_user: bool,
    /// A DSACK block to report.
    dsack: bool,
    _pad: [u8; 3],
    dsack_start: SeqNum,
    dsack_end: SeqNum,
    last_received: Instant,
    /// When the last ACK for an unacceptable segment was sent.
    last_oow: Instant,
    /// Challenge ACKs: a count in the current second.
    challenge_second: u32,
    challenges: u32,
}

/// Loss recovery.
#[derive(Clone, Copy, Zeroable)]
#[repr(C)]
struct Recovery {
    phase: Phase,
    /// The ACK of something that was not sent again shows that the time-out was needless.
    frto: bool,
    /// The first of two window probes is out, which tells of urgent data.
    urgent_probed: bool,
    _pad: u8,
    /// Recovery ends when this is acknowledged.
    point: SeqNum,
    rack: rack::Rack,
    /// Segments by which the network is known to reorder.
    reordering: u32,
    dup_acks: u32,
    /// Clock of the first retransmission, for the Eifel test (RFC 3522); 0: undo is not possible.
    retrans_stamp: u32,
    prior_cwnd: u32,
    prior_ssthresh: u32,
    /// Bytes that may be sent in recovery beyond the flight (RFC 6937).
    prr_delivered: u32,
    prr_out: u32,
    /// Of the bytes that were sent again, those that no DSACK has shown to be unnecessary.
    undo_bytes: u32,
    recover_flight: u32,
    /// Retransmission time-outs in a row.
    backoff: u8,
    /// Keepalive or window probes unanswered.
    probes: u8,
    /// A tail loss probe is out.
    tlp_out: bool,
    /// Send a probe.
    tlp_now: bool,
    /// It was the last segment once more, not a new one.
    tlp_again: bool,
    _pad2: [u8; 3],
    /// What acknowledges the probe.
    tlp_end: SeqNum,
    /// When data was first sent again without an answer, for R1, R2 and TCP_USER_TIMEOUT.
    stalled_since: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Zeroable)]
#[repr(u8)]
enum Phase {
    #[default]
    Open = 0,
    /// Fast recovery.
    Recovery = 1,
    /// After a retransmission time-out.
    Loss = 2,
}

/// What the user has set; copied from the socket or inherited from the listener.
#[derive(Clone, Copy, Zeroable, Debug, Default)]
#[repr(C)]
pub struct TcpOptions {
    pub nodelay: bool,
    pub cork: bool,
    pub keepalive: bool,
    pub quickack_off: bool,
    /// NewReno instead of CUBIC.
    pub reno: bool,
    /// SO_OOBINLINE.
    pub oob_inline: bool,
    /// Bytes; 0: the sysctl and autotuning decide.
    pub sndbuf: u32,
    pub rcvbuf: u32,
    /// Seconds; 0: the sysctl.
    pub keepidle_s: u32,
    pub keepintvl_s: u32,
    pub keepcnt: u32,
    /// Milliseconds; 0: none.
    pub user_timeout_ms: u32,
    /// SYN retransmissions; 0: the sysctl.
    pub syncnt: u32,
    /// FIN-WAIT-2 of an orphan, seconds; 0: the sysctl, negative: none.
    pub linger2_s: i32,
    /// TCP_MAXSEG; 0: none.
    pub maxseg: u32,
    /// TCP_WINDOW_CLAMP; 0: none.
    pub window_clamp: u32,
    /// Unsent bytes below which the socket is writable; 0: the sysctl.
    pub notsent_lowat: u32,
}

/// Totals of a connection, for TCP_INFO.
#[derive(Clone, Copy, Zeroable, Debug, Default)]
#[repr(C)]
pub struct Totals {
    pub bytes_acked: u64,
    pub bytes_received: u64,
    pub bytes_sent: u64,
    pub bytes_retrans: u64,
    pub segs_in: u32,
    pub segs_out: u32,
    pub data_segs_in: u32,
    pub data_segs_out: u32,
    pub retrans: u32,
    pub dsacks: u32,
}

/// The transmission control block. All zero: CLOSED.
#[derive(Zeroable)]
#[repr(C)]
pub struct Tcb {
    state: State,
    /// The connection began with our SYN.
    active: bool,
    /// The user has closed: nobody will read.
    orphan: bool,
    /// A FIN is queued behind the send buffer.
    fin_queued: bool,
    /// The SYN (or SYN-ACK) has to be sent.
    syn_due: bool,
    /// A keepalive or window probe has to be sent.
    probe_due: bool,
    sack_ok: bool,
    /// cwnd, not the user, limits the flow.
    cwnd_limited: bool,
    /// The user has shut down reading.
    recv_shutdown: bool,
    /// MSG_MORE was given with the last write.
    more_coming: bool,
    urgent_news: UrgentNews,
    /// The errno that ended it, or 0.
    error: i32,
    /// The errno of the last ICMP error, or 0; see `trouble`.
    soft_error: i32,
    pub snd: Snd,
    pub rcv: Rcv,
    pub ts: Ts,
    acks: Acks,
    rec: Recovery,
    pub rtt: Rtt,
    pub cc: Congestion,
    timers: TimerTable,
    pub options: TcpOptions,
    pub totals: Totals,
    /// What is in flight, and what has become of it.
    board: Scoreboard,
    /// What was received above RCV.NXT.
    reorder: RangeSet<REORDER_RANGES>,
    /// Of that, what no SACK block has named yet. A turn takes many segments and sends few ACKs: none of the news may be lost,
    /// or the peer sends again what is here.
    unreported: RangeSet<UNREPORTED_RANGES>,
    /// The range that was received last, to report it first.
    last_ooo: SeqNum,
    /// MSS of the path: MTU less headers, options not counted.
    path_mss: u32,
    fast: FastOpen,
    send: StreamBuf,
    recv: StreamBuf,
}

/// What a new connection starts from.
#[derive(Clone, Copy, Debug)]
pub struct OpenParams {
    pub iss: SeqNum,
    /// MTU of the path less IP and TCP headers.
    pub path_mss: u32,
    /// Bytes that the device can take in for one connection.
    pub device_limit: u32,
    pub ts_offset: u32,
    pub options: TcpOptions,
}

impl Tcb {
    pub fn state(&self) -> State {
        self.state
    }

    pub fn is_orphan(&self) -> bool {
        self.orphan
    }

    /// The errno that ended the connection, 0 if none did. Reading does not clear it: that is the socket's business.
    pub fn error(&self) -> i32 {
        self.error
    }

    pub fn clear_error(&mut self) {
        self.error = 0;
    }

    /// CLOSED to SYN-SENT. The SYN waits for [`Tcb::send_syn`].
    pub fn open_active(&mut self, env: &mut Env, p: &OpenParams) {
        self.start(env, p);
        self.active = true;
        self.state = State::SynSent;
        self.rcv.scale = handshake::window_scale(env.sysctls, &p.options);
        self.snd.nxt = p.iss;
        self.hold_syn();
    }

    /// The SYN leaves with the next output.
    pub fn send_syn(&mut self, env: &mut Env) {
        self.release_syn();
        self.syn_due = true;
        env.counters.inc(Counter::ActiveOpens);
    }

    /// CLOSED to ESTABLISHED: a handshake that a listener has completed.
    pub fn open_passive(&mut self, env: &mut Env, p: &OpenParams, h: &Handshake) {
        self.start_passive(env, p, h, State::Established);
    }

    fn start_passive(&mut self, env: &mut Env, p: &OpenParams, h: &Handshake, state: State) {
        self.start(env, p);
        self.state = state;
        self.snd.nxt = p.iss + 1;
        self.snd.una = p.iss + 1;
        self.agree(env, h);
        self.rcv.scale = h.our_scale;
        if h.rtt_us != 0 {
            self.rtt.sample(h.rtt_us);
        }
        self.established(env);
        env.counters.inc(Counter::PassiveOpens);
    }

    fn start(&mut self, env: &mut Env, p: &OpenParams) {
        *self = Tcb::zeroed();
        self.options = p.options;
        self.path_mss = p.path_mss;
        self.snd.iss = p.iss;
        self.snd.una = p.iss;
        self.snd.base = p.iss + 1;
        self.snd.small_end = p.iss;
        self.ts.offset = p.ts_offset;
        self.rcv.adv_mss = handshake::announced_mss(p.path_mss, &p.options);
        self.rcv.device_limit = p.device_limit;
        self.rec.reordering = rack::usual_reordering(env.sysctls);
        self.rtt = Rtt::new();
        self.acks.quick = 16;
        // Before the handshake the peer's MSS counts as 536 (RFC 9293 MUST-15).
        self.snd.mss = 536;
        self.init_receive_limit(env);
        self.cc = Congestion::new(self.snd.mss, p.options.reno);
    }

    /// Takes over what the handshake agreed on.
    fn agree(&mut self, env: &mut Env, h: &Handshake) {
        self.rcv.irs = h.irs;
        self.rcv.nxt = h.irs + 1;
        self.rcv.wup = self.rcv.nxt;
        self.last_ooo = self.rcv.nxt;
        self.snd.scale = h.peer_scale;
        self.snd.wnd = h.window;
        self.snd.max_wnd = h.window;
        self.snd.wl1 = h.irs;
        self.snd.wl2 = self.snd.iss;
        self.sack_ok = h.sack;
        self.ts.enabled = h.timestamps;
        self.ts.recent = h.ts_recent;
        self.ts.recent_age_s = (env.now.as_ms() / 1000) as u32;
        self.set_mss(h.peer_mss);
        self.rcv.mss = self.snd.mss.min(self.rcv.adv_mss).max(64);
    }

    /// The effective send MSS (RFC 9293 3.7.1): the peer's, the path's, the user's, less options.
    fn set_mss(&mut self, peer_mss: u32) {
        let user = if self.options.maxseg == 0 { u32::MAX } else { self.options.maxseg };
        let options = if self.ts.enabled { 12 } else { 0 };
        self.snd.mss = peer_mss.min(self.path_mss).min(user).saturating_sub(options).max(36);
        self.cc.set_mss(self.snd.mss);
    }

    fn established(&mut self, env: &mut Env) {
        self.board.restart(self.snd.una);
        self.board.sent(self.snd.nxt, Micros::of(env.now), 0);
        self.rec.rack.restart(self.snd.una);
        self.cc = Congestion::new(self.snd.mss, self.options.reno);
        self.rcv.wnd = self.rcv.wnd.max(self.initial_window());
        self.rcv.space_time = env.now;
        self.acks.last_received = env.now;
        self.snd.last_sent = env.now;
        self.rearm_keepalive(env);
    }

    /// When something acceptable came last.
    pub fn last_heard(&self) -> Instant {
        self.acks.last_received
    }

    /// When TIME-WAIT began.
    pub fn time_wait_since(&self) -> Instant {
        let end = self.timers.earliest().unwrap_or_default();
        Instant::from_us(end.as_us().saturating_sub(input::TIME_WAIT_MS * 1000))
    }

    /// TSval now.
    fn ts_now(&self, env: &Env) -> u32 {
        (env.now.as_ms() as u32).wrapping_add(self.ts.offset)
    }

    /// A pure ACK as a reply: outside of the stream's own bookkeeping.
    fn ack_reply(&self, env: &Env) -> Reply {
        let urgent = self.urgent_pointer(self.snd.nxt);
        Reply {
            seq: self.snd.nxt,
            ack: self.rcv.nxt,
            flags: if urgent.is_some() { Flags::ACK | Flags::URG } else { Flags::ACK },
            window: (self.offered() >> self.rcv.scale).min(0xffff) as u16,
            urgent: urgent.unwrap_or(0),
            timestamps: self.ts.enabled.then(|| Timestamps { val: self.ts_now(env), ecr: self.ts.recent }),
        }
    }

    /// The RST that aborts this connection. It offers the window as any segment does (tcp_send_active_reset).
    fn reset_reply(&self, env: &Env) -> Reply {
        let ack = self.ack_reply(env);
        Reply { flags: ack.flags | Flags::RST, ..ack }
    }

    /// To CLOSED, with an error for the user (0: none). Buffers that nobody can use any more are given back.
    fn end(&mut self, env: &mut Env, errno: i32) {
        self.error = errno;
        self.state = State::Closed;
        self.timers.clear();
        self.send.clear(env.pool);
        self.syn_due = false;
        self.probe_due = false;
        self.acks.now = false;
        self.fin_queued = false;
        self.end_early();
        self.discard_out_of_order(env);
        if self.orphan {
            self.recv.clear(env.pool);
        }
    }

    /// Gives every chunk back. The last call on a connection.
    pub fn release(&mut self, pool: &mut Pool) {
        self.send.clear(pool);
        self.recv.clear(pool);
        self.reorder.clear();
        self.unreported.clear();
    }

    /// Every chunk that this connection owns, for the repair of the pool.
    pub fn owned_chunks<'a>(&'a self, pool: &'a Pool) -> impl Iterator<Item = crate::fixed::ChunkId> + 'a {
        self.send.owned(pool).chain(self.recv.owned(pool))
    }

    /// Invariants. Called after every step of a simulation.
    ///
    /// # Panics
    /// When one does not hold.
    pub fn check(&self) {
        if matches!(self.state, State::Closed | State::SynSent) {
            return;
        }
        let fin = u32::from(self.fin_queued);
        assert!(self.snd.una.before_eq(self.snd.nxt), "una {:?} nxt {:?}", self.snd.una, self.snd.nxt);
        assert!(
            self.snd.nxt.before_eq(self.snd.base + self.send.len() as u32 + fin),
            "nxt beyond what was written"
        );
        assert!(!self.snd.urgent || self.snd.up.after(self.snd.una), "urgent data that is acknowledged");
        if self.state.is_synchronized() {
            self.board.check(self.snd.una, self.snd.nxt);
        }
        assert!(
            self.reorder.first().is_none_or(|r| r.start.after(self.rcv.nxt)),
            "in order in the reorder set"
        );
        assert!(self.recv.len() <= StreamBuf::MAX_BYTES);
        assert!(self.cc.cwnd >= self.cc.mss(), "cwnd {} below a segment", self.cc.cwnd);
    }
}
