//! From what a connection wants to send to a packet.

use super::options::SocketOptions;
use super::{ConnId, Stack};
use crate::tcp::isn::Key;
use crate::tcp::{Env, Reply, Segment, TxLimits};
use crate::values::limits::CHUNK_BYTES;
use crate::values::{Addr, Counter, FourTuple, Instant, Path, SeqNum, Sysctls};
use crate::wire::tcp::MAX_HEADER_BYTES;
use crate::wire::{Cookie, Flags, Header, Options, Timestamps};
use bytemuck::Zeroable;

/// Payload of the largest segment handed to a device that cuts it up itself: an IP packet holds 65,535 bytes.
const GSO_BYTES: u32 = 65_535 - 40 - MAX_HEADER_BYTES as u32;
/// Chunks that GSO_BYTES can touch.
const MAX_SLICES: usize = GSO_BYTES as usize / CHUNK_BYTES + 2;
/// What the keyed hash is for, here.
const LABEL: u64 = 6;
/// Replies that wait for the next transmission; more than these are dropped, as a full queue would.
const MAX_REPLIES: usize = 1024;

/// A TCP segment on its way out, IP header still to be made.
#[derive(Debug)]
pub struct TxPacket<'a> {
    pub path: Path,
    pub src: Addr,
    pub dst: Addr,
    /// Interface of a link-local destination, else 0.
    pub scope: u32,
    pub tos: u8,
    pub ttl: u8,
    /// The flow label, where it goes out in IPv6.
    pub flow: u32,
    pub ip_id: u16,
    /// Header and options, checksum field zero.
    pub tcp: &'a [u8],
    pub payload: &'a [&'a [u8]],
    pub payload_len: usize,
    /// Payload bytes of each packet that this one is to be cut into; 0: none.
    pub gso_size: u16,
}

/// Takes packets: a device, or a simulated link.
pub trait TxSink {
    fn transmit(&mut self, packet: &TxPacket<'_>);

    /// Whether the kernel has a connection of these names: then a RST for it is not ours to send.
    fn is_kernels(&mut self, _tuple: &FourTuple) -> bool {
        false
    }
}

/// Segments that belong to no connection (or to none any more).
#[derive(Clone, Copy, Zeroable)]
#[repr(C)]
pub(super) struct QueuedReply {
    tuple: FourTuple,
    path: Path,
    seq: u32,
    ack: u32,
    ts_val: u32,
    ts_ecr: u32,
    window: u16,
    flags: u8,
    has_ts: u8,
    tos: u8,
    ttl: u8,
    ttl_set: u8,
    auto_flow: u8,
    /// Options of a SYN-ACK.
    mss: u16,
    wscale: u8,
    has_wscale: u8,
    sack_permitted: u8,
    /// A RST for a segment that nobody claims: it may be the kernel's.
    is_refusal: u8,
    urgent: u16,
    fast_open: Cookie,
}

#[derive(Zeroable)]
#[repr(C)]
pub(super) struct ReplyQueue {
    len: u32,
    _pad: u32,
    queue: [QueuedReply; MAX_REPLIES],
}

impl ReplyQueue {
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn push(&mut self, reply: QueuedReply) -> bool {
        let Some(slot) = self.queue.get_mut(self.len as usize) else { return false };
        *slot = reply;
        self.len += 1;
        true
    }
}

impl Stack {
    /// Whether [`Stack::transmit`] has something to do.
    pub fn has_output(&self) -> bool {
        !self.core.output.is_empty() || !self.core.replies.is_empty()
    }

    /// Backs all memory that the stack may ever use. False: it could not be had.
    pub fn back_memory(&mut self) -> bool {
        self.pool.back_all()
    }

    /// Notes a reply for the next transmission.
    pub(super) fn queue_reply(&mut self, tuple: &FourTuple, path: Path, reply: &Reply) {
        self.push_reply(QueuedReply::of(tuple, path, reply));
    }

    /// The RST for a segment that belongs to nothing here (RFC 9293 3.10.7.1), none for a RST, and none where it may be of a
    /// connection that another family goes on with (a SYN is not: that one has nothing to accept it).
    pub(super) fn refuse(&mut self, tuple: &FourTuple, path: Path, seg: &Segment) {
        if !seg.hdr.flags.has(Flags::SYN) && self.has_guests(tuple.local.addr, tuple.local.port) {
            self.core.counters.inc(Counter::DropNotOurs);
            return;
        }
        if let Some(reply) = Reply::reset_for(seg) {
            self.push_reply(QueuedReply { is_refusal: 1, ..QueuedReply::of(tuple, path, &reply) });
        }
    }

    /// Notes a SYN-ACK (or another segment with options of its own).
    pub(super) fn queue_header(
        &mut self,
        tuple: &FourTuple,
        path: Path,
        h: &Header,
        options: &SocketOptions,
    ) {
        let marks = options.marks(tuple.remote.addr);
        let t = h.options.timestamps.unwrap_or_default();
        let queued = QueuedReply {
            tuple: *tuple,
            path,
            seq: h.seq.0,
            ack: h.ack.0,
            ts_val: t.val,
            ts_ecr: t.ecr,
            window: h.window,
            flags: h.flags.0,
            has_ts: u8::from(h.options.timestamps.is_some()),
            tos: marks.tos,
            ttl_set: u8::from(marks.ttl.is_some()),
            ttl: marks.ttl.unwrap_or(0),
            auto_flow: options.auto_flow,
            mss: h.options.mss.unwrap_or(0),
            wscale: h.options.window_scale.unwrap_or(0),
            has_wscale: u8::from(h.options.window_scale.is_some()),
            sack_permitted: u8::from(h.options.sack_permitted),
            fast_open: h.options.fast_open,
            ..QueuedReply::zeroed()
        };
        self.push_reply(queued);
    }

    fn push_reply(&mut self, queued: QueuedReply) {
        let core = &mut *self.core;
        if !core.replies.push(queued) {
            core.counters.inc(Counter::TxErrors);
        }
    }

    /// Sends everything that may leave now.
    pub fn transmit(&mut self, now: Instant, sink: &mut impl TxSink) {
        self.transmit_replies(sink);
        // Each connection once: what does not leave now waits for an ACK or a timer, which puts it on the list again.
        for _ in 0..self.core.output.len() {
            let Some(id) = self.core.output.pop_front(&mut self.conns) else { break };
            self.transmit_connection(now, id, sink);
        }
    }

    fn transmit_replies(&mut self, sink: &mut impl TxSink) {
        let core = &mut *self.core;
        let count = core::mem::take(&mut core.replies.len) as usize;
        for r in &core.replies.queue[..count] {
            if r.is_refusal != 0 && sink.is_kernels(&r.tuple) {
                core.counters.inc(Counter::DropNotOurs);
                continue;
            }
            core.ip_id = core.ip_id.wrapping_add(1);
            core.counters.inc(Counter::OutSegs);
            let header = r.header();
            if header.flags.has(Flags::RST) {
                core.counters.inc(Counter::OutRsts);
            }
            let mut tcp = [0; MAX_HEADER_BYTES];
            let len = header.emit(&mut tcp);
            sink.transmit(&TxPacket {
                path: r.path,
                src: r.tuple.local.addr,
                dst: r.tuple.remote.addr,
                scope: r.tuple.remote.scope,
                tos: r.tos,
                ttl: if r.ttl_set != 0 { r.ttl } else { core.sysctls.ip_default_ttl[0] as u8 },
                flow: flow_label(&core.key, &core.sysctls, &r.tuple, r.auto_flow),
                ip_id: core.ip_id as u16,
                tcp: &tcp[..len],
                payload: &[],
                payload_len: 0,
                gso_size: 0,
            });
        }
    }

    fn transmit_connection(&mut self, now: Instant, id: ConnId, sink: &mut impl TxSink) {
        let core = &mut *self.core;
        let Some(conn) = self.conns.get_mut(id) else { return };
        core.in_work = Some(id);
        let direct = conn.path.is_direct();
        let limits = TxLimits { max_bytes: if direct { GSO_BYTES } else { conn.tcb.snd.mss } };
        loop {
            let mut env =
                Env { now, pool: &mut self.pool, counters: &mut core.counters, sysctls: &core.sysctls };
            let Some(seg) = conn.tcb.output(&mut env, &limits) else { break };
            let mut slices: [&[u8]; MAX_SLICES] = [&[]; MAX_SLICES];
            let mut count = 0;
            for slice in conn.tcb.payload(&self.pool, &seg).take(MAX_SLICES) {
                slices[count] = slice;
                count += 1;
            }
            let segments = match seg.gso_size {
                0 => 1,
                size => seg.payload_len.div_ceil(size as usize),
            };
            core.counters.add(Counter::OutSegs, segments as u64);
            core.ip_id = core.ip_id.wrapping_add(segments as u32);
            let header = Header {
                src_port: conn.tuple.local.port,
                dst_port: conn.tuple.remote.port,
                seq: seg.seq,
                ack: seg.ack,
                flags: seg.flags,
                window: seg.window,
                urgent: seg.urgent,
                options: seg.options,
            };
            let mut tcp = [0; MAX_HEADER_BYTES];
            let len = header.emit(&mut tcp);
            sink.transmit(&TxPacket {
                path: conn.path,
                src: conn.tuple.local.addr,
                dst: conn.tuple.remote.addr,
                scope: conn.tuple.remote.scope,
                tos: conn.tos,
                ttl: conn.ttl,
                flow: conn.flow,
                ip_id: core.ip_id.wrapping_sub(segments as u32) as u16,
                tcp: &tcp[..len],
                payload: &slices[..count],
                payload_len: seg.payload_len,
                gso_size: seg.gso_size,
            });
        }
        self.schedule_timer(id);
    }
}

/// The label of a connection's packets in IPv6 (RFC 6437): routers that share a load among paths look at it. `wish` is what
/// IPV6_AUTOFLOWLABEL says, or 0 for the sysctl.
pub(super) fn flow_label(key: &Key, sysctls: &Sysctls, tuple: &FourTuple, wish: u8) -> u32 {
    let wanted = match sysctls.auto_flowlabels[0] {
        0 => false,
        1 => wish != 1,
        2 => wish == 2,
        _ => true,
    };
    if !wanted || tuple.remote.addr.is_v4() { 0 } else { key.of_tuple(tuple, LABEL) as u32 & 0xf_ffff }
}

impl QueuedReply {
    fn of(tuple: &FourTuple, path: Path, reply: &Reply) -> QueuedReply {
        let t = reply.timestamps.unwrap_or_default();
        QueuedReply {
            tuple: *tuple,
            path,
            seq: reply.seq.0,
            ack: reply.ack.0,
            ts_val: t.val,
            ts_ecr: t.ecr,
            window: reply.window,
            urgent: reply.urgent,
            flags: reply.flags.0,
            has_ts: u8::from(reply.timestamps.is_some()),
            ..QueuedReply::zeroed()
        }
    }

    fn header(&self) -> Header {
        Header {
            src_port: self.tuple.local.port,
            dst_port: self.tuple.remote.port,
            seq: SeqNum(self.seq),
            ack: SeqNum(self.ack),
            flags: Flags(self.flags),
            window: self.window,
            urgent: self.urgent,
            options: Options {
                mss: (self.mss != 0).then_some(self.mss),
                window_scale: (self.has_wscale != 0).then_some(self.wscale),
                sack_permitted: self.sack_permitted != 0,
                fast_open: self.fast_open,
                timestamps: (self.has_ts != 0).then_some(Timestamps { val: self.ts_val, ecr: self.ts_ecr }),
                ..Options::default()
            },
        }
    }
}
