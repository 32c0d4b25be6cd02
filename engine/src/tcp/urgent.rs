//! Urgent data: RFC 9293 3.8.5 and RFC 6093, as Linux has it.
//!
//! | end | what there is |
//! | --- | --- |
//! | sender | SND.UP, one past the last byte that was sent with MSG_OOB; until it is acknowledged, segments before it point at it, no partial one is held back and none is larger than the MSS |
//! | receiver | RCV.UP, the mark: the byte before the one that the peer points at (all of it, with net.ipv4.tcp_stdurg); it is copied out when it arrives, and stays in the stream, where reading stops before it and then skips it |
//!
//! With SO_OOBINLINE it is read where it is. A later pointer replaces an earlier one, whose byte is ordinary from then on.

use super::output::OutSegment;
use super::{Env, Segment, Tcb};
use crate::fixed::ranges::Range;
use crate::values::SeqNum;
use crate::wire::Flags;
use bytemuck::Zeroable;

/// What has become of the urgent byte at RCV.UP.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Zeroable)]
#[repr(u8)]
pub enum Urgent {
    /// There is none, or reading has passed it.
    #[default]
    None = 0,
    /// The peer has pointed at it.
    Announced = 1,
    Arrived = 2,
    /// The program has read it with MSG_OOB.
    Read = 3,
}

/// What happened since it was asked last.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Zeroable)]
#[repr(C)]
pub struct UrgentNews {
    /// The peer points at a new urgent byte: SIGURG.
    pub announced: bool,
    /// The byte can be read with MSG_OOB.
    pub arrived: bool,
}

impl UrgentNews {
    pub fn is_empty(self) -> bool {
        self == UrgentNews::default()
    }
}

/// What an ordinary read may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// From the first byte that was not read.
    pub from: usize,
    pub len: usize,
    /// The urgent byte before them is skipped.
    pub skips: bool,
}

impl Tcb {
    /// What was written last ends with an urgent byte (tcp_mark_urg).
    pub fn mark_urgent(&mut self) {
        self.snd.up = self.fin_seq();
        self.judge_urgent();
    }

    /// Whether the peer lacks something that is urgent.
    pub(super) fn judge_urgent(&mut self) {
        self.snd.urgent = self.snd.up.after(self.snd.una);
    }

    /// A segment that leaves points at urgent data that lies beyond its beginning (tcp_transmit_skb).
    pub(super) fn urgent_pointer(&self, seq: SeqNum) -> Option<u16> {
        if !self.snd.urgent || !seq.before(self.snd.up) {
            return None;
        }
        match u16::try_from(self.snd.up - seq) {
            Ok(near) => Some(near),
            // As far as a pointer goes; but what is sent again says nothing that the peer may have passed.
            Err(_) => (seq + 0xffff).after(self.snd.nxt).then_some(0xffff),
        }
    }

    pub(super) fn point_at_urgent(&self, segment: &mut OutSegment) {
        if let Some(pointer) = self.urgent_pointer(segment.seq) {
            segment.flags = segment.flags | Flags::URG;
            segment.urgent = pointer;
        }
    }

    /// A window probe can tell the peer of urgent data that its window does not take (tcp_write_wakeup).
    pub(super) fn may_probe_urgently(&self) -> bool {
        self.snd.urgent && self.snd.up - self.snd.una <= 0xffff
    }

    /// The URG bit, and the byte that was announced: RFC 9293 3.10.7.4, sixth check (tcp_urg).
    pub(super) fn check_urgent(&mut self, env: &mut Env, seg: &Segment) {
        if seg.hdr.flags.has(Flags::URG) {
            self.take_urgent_pointer(env, seg);
        }
        if self.rcv.urgent == Urgent::Announced {
            self.take_urgent_byte(seg);
        }
    }

    /// tcp_check_urg.
    fn take_urgent_pointer(&mut self, env: &mut Env, seg: &Segment) {
        // One past the byte, as BSD has it: DEVIATES RFC 1122 4.2.2.4, and is what RFC 6093 3.2 recommends.
        let past = u32::from(seg.hdr.urgent != 0 && env.sysctls.tcp_stdurg[0] == 0);
        let up = seg.hdr.seq + (u32::from(seg.hdr.urgent) - past);
        // A byte that is here already is ordinary.
        if up.before(self.rcv.nxt) || self.copied().after(up) {
            return;
        }
        if self.rcv.urgent != Urgent::None && !up.after(self.rcv.up) {
            return;
        }
        // What comes now must not make an ordinary byte of one that is about to be skipped.
        if self.is_at_mark() && !self.options.oob_inline && !self.recv.is_empty() {
            self.recv.consume(env.pool, 1);
        }
        self.rcv.up = up;
        self.rcv.urgent = Urgent::Announced;
        self.urgent_news.announced = true;
    }

    /// It is taken from whichever segment has it, in order or not. DEVIATES Linux, which takes a byte of the header for it where
    /// a segment begins a little behind it.
    fn take_urgent_byte(&mut self, seg: &Segment) {
        let start = seg.hdr.seq + u32::from(seg.hdr.flags.has(Flags::SYN));
        let text = Range::new(start, start + seg.payload.len() as u32);
        if self.rcv.up.before(text.start) || !self.rcv.up.before(text.end) {
            return;
        }
        self.rcv.urgent_byte = seg.payload[(self.rcv.up - text.start) as usize];
        self.rcv.urgent = Urgent::Arrived;
        self.urgent_news.arrived = true;
    }

    /// Told once.
    pub fn take_urgent_news(&mut self) -> UrgentNews {
        core::mem::take(&mut self.urgent_news)
    }

    pub fn urgent(&self) -> Urgent {
        self.rcv.urgent
    }

    /// The sequence number of the next byte that is read.
    fn copied(&self) -> SeqNum {
        let unread_fin = self.rcv.fin && !self.rcv.fin_read;
        self.rcv.nxt - u32::from(unread_fin) - self.recv.len() as u32
    }

    /// How many bytes lie before the mark.
    pub fn bytes_to_mark(&self) -> Option<usize> {
        (self.rcv.urgent != Urgent::None).then(|| (self.rcv.up - self.copied()) as usize)
    }

    /// The next byte is the urgent one, whether it can be read or not (SIOCATMARK).
    pub fn is_at_mark(&self) -> bool {
        self.bytes_to_mark() == Some(0)
    }

    /// A byte that ordinary reading skips comes next.
    pub fn skips_next(&self) -> bool {
        !self.options.oob_inline && self.is_at_mark()
    }

    /// What a read may take that has `taken` bytes and did not take them out of the stream: never across the mark.
    pub fn readable_span(&self, taken: usize) -> Span {
        let len = self.recv.len();
        match self.bytes_to_mark() {
            Some(0) if !self.options.oob_inline && len > 0 => {
                Span { from: taken + 1, len: (len - 1).saturating_sub(taken), skips: true }
            }
            Some(ahead @ 1..) => {
                Span { from: taken, len: len.min(ahead).saturating_sub(taken), skips: false }
            }
            _ => Span { from: taken, len: len.saturating_sub(taken), skips: false },
        }
    }

    /// FIONREAD: what comes before the mark (tcp_inq).
    pub fn readable_to_mark(&self) -> usize {
        let len = self.recv.len();
        match self.bytes_to_mark() {
            Some(ahead) if !self.options.oob_inline => len.min(ahead),
            _ => len,
        }
    }

    /// Reading has passed the mark.
    pub(super) fn pass_mark(&mut self) {
        if self.rcv.urgent != Urgent::None && self.copied().after(self.rcv.up) {
            self.rcv.urgent = Urgent::None;
        }
    }

    /// recv(2) with MSG_OOB: the byte, if it is here and was not read.
    pub fn take_urgent(&mut self, peek: bool) -> Option<u8> {
        if self.rcv.urgent != Urgent::Arrived {
            return None;
        }
        if !peek {
            self.rcv.urgent = Urgent::Read;
        }
        Some(self.rcv.urgent_byte)
    }
}
