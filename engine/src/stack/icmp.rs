//! ICMP errors about segments of ours (RFC 5927, RFC 9293 3.9.2.2): to the connection, or to the half-open one, that sent them.

use super::connections::{Before, env, path_mss};
use super::listen::RequestId;
use super::{ConnId, Stack};
use crate::tcp::{Env, Fate, Outcome};
use crate::values::link::RxChecksum;
use crate::values::{Counter, Instant, RxMeta};
use crate::wire::Sum;
use crate::wire::icmp::{self, Notice, Trouble};
use crate::wire::ip::{PROTO_ICMPV6, Packet};

/// No path is believed to take less: Linux's min_pmtu, against errors that are made up to slow a connection down.
const LEAST_MTU_V4: u32 = 552;
/// Every link takes that much (RFC 8200 5, RFC 8201 4).
const LEAST_MTU_V6: u32 = 1280;

impl Stack {
    pub(super) fn icmp_input(&mut self, now: Instant, meta: &RxMeta, packet: &Packet) {
        if meta.checksum != RxChecksum::Verified && !is_intact(packet) {
            self.core.counters.inc(Counter::IcmpInErrors);
            return;
        }
        let Some(mut notice) = icmp::parse(packet) else { return };
        self.core.counters.inc(Counter::IcmpErrors);
        notice.tuple.remote.scope = self.core.interfaces.scope_of(meta.ifindex, notice.tuple.remote.addr);
        if let Some(id) = self.find_conn(&notice.tuple) {
            if packet.ttl < self.conns[id].min_ttl {
                self.core.counters.inc(Counter::TCPMinTTLDrop);
                return;
            }
            self.conn_trouble(now, id, &notice, packet);
        } else if let Some(id) = self.find_request(&notice.tuple) {
            self.request_trouble(id, &notice);
        }
    }

    fn conn_trouble(&mut self, now: Instant, id: ConnId, notice: &Notice, packet: &Packet) {
        let core = &mut *self.core;
        core.in_work = Some(id);
        let conn = &mut self.conns[id];
        let before = Before::of(conn);
        let mut env = env!(self, core, now);
        let outcome: Outcome = match notice.trouble {
            Trouble::Unreachable { error, .. } => conn.tcb.unreachable(&mut env, notice.seq, error),
            Trouble::TooBig { mtu } => {
                let peer = notice.tuple.remote.addr;
                let mss = match peer.is_v4() {
                    true => path_mss(mtu.max(LEAST_MTU_V4), peer),
                    // A router that takes less lies (RFC 8201 4), and Linux does not believe the half of it.
                    false if mtu < LEAST_MTU_V6 => u32::MAX,
                    false => path_mss(mtu, peer),
                };
                conn.tcb.path_shrank(&mut env, notice.seq, mss)
            }
        };
        if let Trouble::Unreachable { error, .. } = notice.trouble {
            match outcome.fate {
                Fate::Ends => self.queue_report(id, error, notice.tuple.remote, packet),
                Fate::Lives => self.harden(id),
            }
        }
        self.settle(now, id, before, outcome);
    }

    /// With IP_RECVERR, what a connection that lives would only remember, its next call tells.
    fn harden(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let is_v4 = conn.tuple.remote.addr.is_v4();
        let Some(socket) = conn.socket else { return };
        let Some(s) = self.sockets.get_mut(socket).filter(|s| s.options.wants_errors(is_v4)) else { return };
        let error = conn.tcb.take_soft_error();
        if error != 0 {
            s.error = error;
            self.report_error(socket);
        }
    }

    /// tcp_req_err: what a router on the way says ends a half-open connection; what the peer itself says does not, for it is
    /// the peer that began.
    fn request_trouble(&mut self, id: RequestId, notice: &Notice) {
        if self.requests[id].iss() != notice.seq {
            self.core.counters.inc(Counter::OutOfWindowIcmps);
        } else if let Trouble::Unreachable { on_the_way: true, .. } = notice.trouble {
            self.remove_request(id);
            self.core.counters.inc(Counter::ListenDrops);
        }
    }
}

/// A packet from this host has a whole checksum too: ICMP is not left to hardware.
fn is_intact(packet: &Packet) -> bool {
    let mut sum = Sum::default();
    if packet.proto == PROTO_ICMPV6 {
        sum = sum.pseudo(packet.src, packet.dst, PROTO_ICMPV6, packet.payload.len());
    }
    sum.plus(packet.payload).finish() == 0
}
