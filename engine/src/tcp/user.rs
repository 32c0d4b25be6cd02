//! The user's calls: RFC 9293 3.9.1 and 3.10.

use super::{Env, Reply, State, Tcb, Urgent};
use crate::fixed::StreamBuf;
use crate::values::{Counter, SeqNum};

/// What close(2) of the last descriptor led to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CloseAction {
    /// The connection ends in order, on its own.
    Lingers,
    /// It is gone at once.
    Gone,
    /// It is gone at once, and the peer is told with a RST.
    Reset(Reply),
}

/// A connection as TCP_INFO and ss show it. Times in microseconds, sizes in bytes unless the name says segments.
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpInfo {
    pub state: u8,
    pub ca_state: u8,
    pub retransmits: u8,
    pub probes: u8,
    pub backoff: u8,
    pub timestamps: bool,
    pub sack: bool,
    pub snd_wscale: u8,
    pub rcv_wscale: u8,
    pub rto_us: u32,
    pub ato_us: u32,
    pub snd_mss: u32,
    pub rcv_mss: u32,
    pub unacked_segments: u32,
    pub sacked_segments: u32,
    pub lost_segments: u32,
    pub last_data_sent_ms: u32,
    pub last_data_recv_ms: u32,
    pub pmtu: u32,
    pub rtt_us: u32,
    pub rttvar_us: u32,
    pub min_rtt_us: u32,
    pub ssthresh_segments: u32,
    pub cwnd_segments: u32,
    pub advmss: u32,
    pub reordering: u32,
    pub rcv_space: u32,
    pub rcv_ssthresh: u32,
    pub total_retrans: u32,
    pub bytes_acked: u64,
    pub bytes_received: u64,
    pub bytes_sent: u64,
    pub bytes_retrans: u64,
    pub segs_out: u32,
    pub segs_in: u32,
    pub data_segs_in: u32,
    pub data_segs_out: u32,
    pub notsent_bytes: u32,
    pub snd_wnd: u32,
    pub rcv_wnd: u32,
    /// Data went in a SYN (RFC 7413).
    pub syn_data: bool,
    pub fastopen_client_fail: u8,
}

impl Tcb {
    /// Bytes that the send buffer holds at most: SO_SNDBUF, or what the congestion window can use (tcp_sndbuf_expand).
    fn send_limit(&self, env: &Env) -> u32 {
        if self.options.sndbuf != 0 {
            return self.options.sndbuf.min(StreamBuf::MAX_BYTES as u32);
        }
        let window = self.cc.cwnd.max(10 * self.snd.mss);
        let wanted = window.saturating_mul(2).saturating_add(env.sysctls.tcp_wmem[1] as u32);
        let most = (env.sysctls.tcp_wmem[2]).min(StreamBuf::MAX_BYTES as i64 / 2) as u32;
        wanted.min(most.max(4096))
    }

    /// Room in the send buffer.
    pub fn send_space(&self, env: &Env) -> usize {
        (self.send_limit(env) as usize).saturating_sub(self.send.len())
    }

    /// EPOLLOUT: at least a third of the buffer is free (sk_stream_is_writeable), and few enough bytes are unsent.
    pub fn is_writable(&self, env: &Env) -> bool {
        let lowat = match self.options.notsent_lowat {
            0 => env.sysctls.tcp_notsent_lowat[0].min(i64::from(u32::MAX)) as u32,
            own => own,
        };
        self.send_space(env) >= self.send.len() / 2
            && self.send_space(env) > 0
            && self.unsent() < lowat.max(1)
    }

    /// Appends what fits; the caller has checked that the state allows it. `more`: MSG_MORE.
    pub fn write(&mut self, env: &mut Env, data: &[u8], more: bool) -> usize {
        let room = self.send_space(env);
        let n = self.send.write(env.pool, &data[..data.len().min(room)]);
        self.more_coming = more;
        n
    }

    /// The sequence number behind what was written.
    pub fn written_end(&self) -> SeqNum {
        self.snd.base + self.send.len() as u32
    }

    /// In-order bytes that wait, an urgent one among them.
    pub fn readable_bytes(&self) -> usize {
        self.recv.len()
    }

    /// Whether a reader is to be told of what waits: as much as SO_RCVLOWAT wants, or all that the window lets come
    /// (tcp_epollin_ready).
    pub fn is_readable(&self, lowat: u32) -> bool {
        let waiting = self.recv.len();
        waiting >= lowat.max(1) as usize || (waiting > 0 && self.offered() <= self.window_step())
    }

    /// Written and not yet acknowledged (SIOCOUTQ).
    pub fn unacked_bytes(&self) -> usize {
        let fin_out = self.fin_queued && self.snd.nxt.after(self.fin_seq());
        self.send.len() + usize::from(fin_out && self.snd.una.before_eq(self.fin_seq()))
    }

    /// Written and not yet sent (SIOCOUTQNSD).
    pub fn unsent_bytes(&self) -> usize {
        self.unsent() as usize
    }

    /// Copies from `offset` of what waits.
    pub fn peek(&self, env: &Env, offset: usize, out: &mut [u8]) -> usize {
        self.recv.peek(env.pool, offset, out)
    }

    /// Takes `n` bytes that were peeked.
    pub fn consume(&mut self, env: &mut Env, n: usize) {
        self.recv.consume(env.pool, n);
        if self.rcv.fin && self.recv.is_empty() {
            self.read_fin();
        }
        if self.rcv.urgent != Urgent::None {
            self.pass_mark();
        }
        self.after_read(env, n);
    }

    /// Nothing more will come: the peer's FIN is reached, reading is shut down, or the connection has ended.
    pub fn at_eof(&self) -> bool {
        self.rcv.fin || self.recv_shutdown || self.state == State::Closed
    }

    /// Reading has come to the FIN.
    pub fn read_fin(&mut self) {
        self.rcv.fin_read = true;
    }

    /// The peer's FIN has been received.
    pub fn received_fin(&self) -> bool {
        self.rcv.fin
    }

    pub fn is_recv_shutdown(&self) -> bool {
        self.recv_shutdown
    }

    /// Our side is closed for writing.
    pub fn is_send_shutdown(&self) -> bool {
        self.fin_queued
            || !(self.state.may_send() || matches!(self.state, State::SynSent | State::SynReceived))
    }

    /// As Linux has it, this only tells the user that there is nothing more: what arrives all the same is acknowledged and
    /// can be read.
    pub fn shutdown_recv(&mut self) {
        self.recv_shutdown = true;
    }

    /// A FIN behind what was written.
    pub fn shutdown_send(&mut self, env: &mut Env) {
        match self.state {
            State::Established => self.state = State::FinWait1,
            State::CloseWait => self.state = State::LastAck,
            // The FIN follows when the handshake is done.
            State::SynReceived => {}
            _ => return,
        }
        self.fin_queued = true;
        self.more_coming = false;
        self.options.cork = false;
        let _ = env;
    }

    /// The last descriptor is closed. `linger_zero`: SO_LINGER with time 0.
    pub fn close(&mut self, env: &mut Env, linger_zero: bool) -> CloseAction {
        self.orphan = true;
        let unread = !self.recv.is_empty();
        if !matches!(self.state, State::TimeWait) {
            self.recv.clear(env.pool);
            self.reorder.clear();
            self.unreported.clear();
        }
        match self.state {
            State::Closed | State::Listen => CloseAction::Gone,
            State::SynSent => {
                self.end(env, 0);
                CloseAction::Gone
            }
            State::TimeWait => {
                self.recv.clear(env.pool);
                CloseAction::Lingers
            }
            _ if linger_zero || unread => {
                // RFC 2525 2.17, RFC 9293 SHLD-3: unread data was lost, the peer must know.
                env.counters.inc(if unread { Counter::TCPAbortOnClose } else { Counter::TCPAbortOnData });
                let reply = self.reset_reply(env);
                self.end(env, 0);
                CloseAction::Reset(reply)
            }
            _ => {
                self.shutdown_send(env);
                if self.state == State::SynReceived && self.is_early() {
                    self.state = State::FinWait1;
                }
                self.start_fin_wait2(env);
                if self.state == State::Closed { CloseAction::Gone } else { CloseAction::Lingers }
            }
        }
    }

    /// RFC 9293 3.10.5; `None` where nobody has to be told. The error is what the user will see.
    pub fn abort(&mut self, env: &mut Env, errno: i32) -> Option<Reply> {
        let reply = (self.state.is_synchronized() && self.state != State::TimeWait
            || self.state == State::SynReceived)
            .then(|| self.reset_reply(env));
        self.end(env, errno);
        reply
    }

    /// TCP_QUICKACK: ACK at once, and now.
    pub fn set_quickack(&mut self, on: bool) {
        self.acks.quick_by_user = on;
        self.acks.pingpong = !on;
        if on && self.rcv.nxt != self.rcv.wup {
            self.acks.now = true;
        }
    }

    /// TCP_CORK or TCP_NODELAY changed: what was held back may go.
    pub fn options_changed(&mut self) {
        if !self.options.cork {
            self.more_coming = false;
        }
    }

    pub fn info(&self, env: &Env) -> TcpInfo {
        let mss = self.snd.mss.max(1);
        let (syn_data, fastopen_client_fail) = self.fast_open_info();
        let since = |t: crate::values::Instant| (env.now.us_since(t) / 1000).min(u64::from(u32::MAX)) as u32;
        TcpInfo {
            state: self.state.linux_number(),
            ca_state: [0, 3, 4][self.rec.phase as usize],
            retransmits: self.rec.backoff,
            probes: self.rec.probes,
            backoff: self.rec.backoff,
            timestamps: self.ts.enabled,
            sack: self.sack_ok,
            snd_wscale: self.snd.scale,
            rcv_wscale: self.rcv.scale,
            rto_us: self.rtt.rto_us,
            ato_us: 40_000,
            snd_mss: self.snd.mss,
            rcv_mss: self.rcv.mss,
            unacked_segments: (self.snd.nxt - self.snd.una).div_ceil(mss),
            sacked_segments: self.board.sacked().div_ceil(mss),
            lost_segments: self.board.lost().div_ceil(mss),
            last_data_sent_ms: since(self.snd.last_sent),
            last_data_recv_ms: since(self.acks.last_received),
            pmtu: self.path_mss + 40,
            rtt_us: self.rtt.srtt_us,
            rttvar_us: self.rtt.rttvar_us,
            min_rtt_us: self.rtt.min_us,
            ssthresh_segments: if self.cc.ssthresh == u32::MAX {
                0x7fff_ffff
            } else {
                self.cc.ssthresh / mss
            },
            cwnd_segments: self.cc.cwnd / mss,
            advmss: self.rcv.adv_mss,
            reordering: self.rec.reordering,
            rcv_space: self.rcv.space,
            rcv_ssthresh: self.rcv.limit,
            total_retrans: self.totals.retrans,
            bytes_acked: self.totals.bytes_acked,
            bytes_received: self.totals.bytes_received,
            bytes_sent: self.totals.bytes_sent,
            bytes_retrans: self.totals.bytes_retrans,
            segs_out: self.totals.segs_out,
            segs_in: self.totals.segs_in,
            data_segs_in: self.totals.data_segs_in,
            data_segs_out: self.totals.data_segs_out,
            notsent_bytes: self.unsent(),
            snd_wnd: self.snd.wnd,
            rcv_wnd: self.offered(),
            syn_data,
            fastopen_client_fail,
        }
    }
}
