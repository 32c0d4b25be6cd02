//! What `tcpreload ss` shows, and the invariants of a whole stack.

use super::{SocketPhase, Stack};
use crate::tcp::State;
use crate::values::Endpoint;

/// A line of `ss`.
#[derive(Clone, Copy, Debug)]
pub struct SocketInfo {
    pub state: State,
    /// Bytes unread; of a listener: connections that wait.
    pub recv_q: u32,
    /// Bytes not acknowledged; of a listener: the bound of its accept queue.
    pub send_q: u32,
    /// Request sockets of a listener.
    pub syn_q: u32,
    pub local: Endpoint,
    pub remote: Endpoint,
    /// Descriptors that name it; 0: closed by the program, or not accepted yet.
    pub refs: u32,
    pub cookie: u64,
    pub cwnd_segments: u32,
    pub mss: u32,
    pub rtt_us: u32,
    pub rttvar_us: u32,
    pub rto_us: u32,
    pub retrans: u32,
    pub bytes_acked: u64,
    pub bytes_received: u64,
    /// What was read in one round trip, the measure of the buffer's growth; and the bound of the buffer.
    pub rcv_space: u32,
    pub rcv_ssthresh: u32,
    /// Windows in bytes: the peer's, and what is left of ours.
    pub snd_wnd: u32,
    pub rcv_wnd: u32,
}

impl Stack {
    /// Every listener and connection, request sockets included.
    pub fn snapshot(&self) -> Vec<SocketInfo> {
        let empty = SocketInfo {
            state: State::Closed,
            recv_q: 0,
            send_q: 0,
            syn_q: 0,
            local: Endpoint::default(),
            remote: Endpoint::default(),
            refs: 0,
            cookie: 0,
            cwnd_segments: 0,
            mss: 0,
            rtt_us: 0,
            rttvar_us: 0,
            rto_us: 0,
            retrans: 0,
            bytes_acked: 0,
            bytes_received: 0,
            rcv_space: 0,
            rcv_ssthresh: 0,
            snd_wnd: 0,
            rcv_wnd: 0,
        };
        let listeners = self.sockets.iter().filter(|(_, s)| s.conn.is_none()).map(|(_, s)| SocketInfo {
            state: if s.phase == SocketPhase::Listening { State::Listen } else { State::Closed },
            recv_q: s.accept_queue.len() as u32,
            send_q: s.backlog,
            syn_q: s.syn_queue,
            local: s.local,
            refs: s.refs.count(),
            cookie: s.cookie,
            ..empty
        });
        let conns = self.conns.iter().map(|(_, c)| {
            let t = &c.tcb;
            let socket = c.socket.and_then(|s| self.sockets.get(s));
            SocketInfo {
                state: t.state(),
                recv_q: t.readable_bytes() as u32,
                send_q: t.unacked_bytes() as u32,
                local: c.tuple.local,
                remote: c.tuple.remote,
                refs: socket.map_or(0, |s| s.refs.count()),
                cookie: socket.map_or(0, |s| s.cookie),
                cwnd_segments: t.cc.cwnd / t.snd.mss.max(1),
                mss: t.snd.mss,
                rtt_us: t.rtt.srtt_us,
                rttvar_us: t.rtt.rttvar_us,
                rto_us: t.rtt.rto_us,
                retrans: t.totals.retrans,
                bytes_acked: t.totals.bytes_acked,
                bytes_received: t.totals.bytes_received,
                rcv_space: t.rcv.space,
                rcv_ssthresh: t.rcv.limit,
                snd_wnd: t.snd.wnd,
                rcv_wnd: t.offered(),
                ..empty
            }
        });
        let requests = self.requests.iter().map(|(_, r)| SocketInfo {
            state: State::SynReceived,
            local: r.local(),
            remote: r.remote(),
            ..empty
        });
        listeners.chain(conns).chain(requests).collect()
    }

    /// Descriptors of an epoll set, over all processes.
    pub fn epoll_refs(&self, id: super::EpollId) -> u32 {
        self.sets.get(id).map_or(0, |s| s.refs.count())
    }

    /// What is in use of each table: what must be flat over hours.
    pub fn usage(&self) -> [(&'static str, usize); 11] {
        [
            ("chunks", self.pool.used()),
            ("connections", self.conns.len()),
            ("sockets", self.sockets.len()),
            ("requests", self.requests.len()),
            ("ports", self.ports.len()),
            ("waiters", self.waiters.len()),
            ("timers", self.wheel.len()),
            ("epoll_sets", self.sets.len()),
            ("epoll_items", self.items.len()),
            ("wait_links", self.links.len()),
            ("holds", self.holds.len()),
        ]
    }

    /// Invariants over all tables.
    ///
    /// # Panics
    /// When one does not hold.
    pub fn check(&self) {
        let mut chunks = 0;
        for (id, c) in self.conns.iter() {
            c.tcb.check();
            chunks += c.tcb.owned_chunks(&self.pool).count();
            if c.indexed {
                assert_eq!(self.find_conn(&c.tuple), Some(id), "{:?} is not in the index", c.tuple);
            }
            if let Some(s) = c.socket {
                assert_eq!(
                    self.sockets.get(s).and_then(|s| s.conn),
                    Some(id),
                    "a socket lost its connection"
                );
            }
            if c.tcb.next_deadline().is_some() && c.indexed {
                assert!(c.timer.is_some(), "a deadline without a timer: {:?}", c.tcb.state());
            }
        }
        assert_eq!(chunks, self.pool.used(), "chunks without an owner");
        for (id, s) in self.sockets.iter() {
            assert!(s.refs.any(), "a socket without a descriptor");
            assert_eq!(self.socket_by_cookie(s.cookie), Some(id));
            let queued = self.conns.iter().filter(|(_, c)| c.listener == Some(id)).count();
            assert_eq!(queued, s.accept_queue.len(), "accept queue");
            let requests = self.requests.iter().filter(|(_, r)| r.is_of(id)).count();
            assert_eq!(requests, s.syn_queue as usize, "SYN queue");
        }
    }
}
