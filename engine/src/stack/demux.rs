//! A packet's way to its connection, to a listener, or to a drop with a reason.

use super::connections::{Before, env};
use super::{ConnId, Stack};
use crate::tcp::{Env, Segment, State};
use crate::values::link::{PacketType, RxChecksum};
use crate::values::{Counter, Endpoint, FourTuple, Instant, RxMeta};
use crate::wire::ip::{PROTO_ICMP, PROTO_ICMPV6, PROTO_TCP, Packet};
use crate::wire::{Header, Malformed, Sum};

impl Stack {
    /// Takes a packet that starts at its IP header. What the kernel would not hand to a socket is dropped and counted.
    ///
    /// False: the destination is no address of this host that is known; perhaps it is new.
    pub fn handle_frame(&mut self, now: Instant, meta: &RxMeta, ip: &[u8]) -> bool {
        let core = &mut *self.core;
        core.counters.inc(Counter::RxFrames);
        if meta.to != PacketType::Host {
            core.counters.inc(Counter::DropNotHost);
            return true;
        }
        let packet = match Packet::parse(ip) {
            Ok(packet) => packet,
            Err(reason) => {
                core.counters.inc(reason_of(reason));
                return true;
            }
        };
        if !matches!(packet.proto, PROTO_TCP | PROTO_ICMP | PROTO_ICMPV6) {
            return true;
        }
        if let Err(reason) = core.interfaces.accepts(meta.ifindex, packet.src, packet.dst) {
            core.counters.inc(reason);
            return reason != Counter::DropNotLocal;
        }
        if packet.proto != PROTO_TCP {
            self.icmp_input(now, meta, &packet);
            return true;
        }
        core.counters.inc(Counter::InSegs);
        let Ok((hdr, offset)) = Header::parse(packet.payload) else {
            core.counters.inc(Counter::InErrs);
            return true;
        };
        if meta.checksum == RxChecksum::Unverified {
            let sum = Sum::default()
                .pseudo(packet.src, packet.dst, PROTO_TCP, packet.payload.len())
                .plus(packet.payload);
            if sum.finish() != 0 {
                core.counters.inc(Counter::InErrs);
                core.counters.inc(Counter::InCsumErrors);
                return true;
            }
        }
        let scope = core.interfaces.scope_of(meta.ifindex, packet.src);
        let tuple = FourTuple {
            local: Endpoint::new(packet.dst, hdr.dst_port),
            remote: Endpoint::with_scope(packet.src, hdr.src_port, scope),
        };
        self.demux(now, &tuple, meta, packet.ttl, &Segment { hdr: &hdr, payload: &packet.payload[offset..] });
        true
    }

    fn demux(&mut self, now: Instant, tuple: &FourTuple, meta: &RxMeta, ttl: u8, seg: &Segment) {
        let mut iss = None;
        if let Some(id) = self.find_conn(tuple) {
            if ttl < self.conns[id].min_ttl {
                self.core.counters.inc(Counter::TCPMinTTLDrop);
                return;
            }
            iss = self.yield_to_syn(now, id, tuple, seg);
            if iss.is_none() {
                self.conn_input(now, id, meta, seg);
                return;
            }
        }
        if let Some(id) = self.find_request(tuple) {
            self.request_input(now, id, meta, seg);
        } else if let Some(id) = self.find_listener(tuple) {
            self.listener_input(now, id, tuple, meta, seg, iss);
        } else {
            self.unclaimed(tuple, meta, seg);
        }
    }

    fn conn_input(&mut self, now: Instant, id: ConnId, meta: &RxMeta, seg: &Segment) {
        let core = &mut *self.core;
        core.in_work = Some(id);
        let conn = &mut self.conns[id];
        let before = Before::of(conn);
        let mut env = env!(self, core, now);
        let opens = conn.tcb.state() == State::SynSent;
        let outcome = conn.tcb.input(&mut env, seg);
        // Not for what was merely addressed to it: a forged segment must not turn the connection's traffic to its sender.
        if outcome.acceptable {
            conn.path = meta.source;
            if opens {
                self.learn_from_synack(now, id, seg);
            }
        }
        self.settle(now, id, before, outcome);
    }

    /// No connection, no listener. On a port whose guard we hold the kernel is silent, so the reset that Linux would
    /// send is ours to send (RFC 9293 3.10.7.1).
    fn unclaimed(&mut self, tuple: &FourTuple, meta: &RxMeta, seg: &Segment) {
        if self.port_covering(tuple.local.addr, tuple.local.port).is_none() {
            self.core.counters.inc(Counter::DropNotOurs);
            return;
        }
        self.refuse(tuple, meta.source, seg);
    }
}

fn reason_of(malformed: Malformed) -> Counter {
    match malformed {
        Malformed::Fragment => Counter::DropFragment,
        Malformed::IpChecksum => Counter::InCsumErrorsIp,
        Malformed::Truncated | Malformed::Header => Counter::DropBadIp,
    }
}
