//! The error queue of a socket: what recvmsg(2) with MSG_ERRQUEUE tells, beside the stream.
//!
//! Here are ICMP errors that an attempt to connect ends with, and the notifications of MSG_ZEROCOPY. Each call that has sent something has a number, a count from 0 that wraps; when
//! its bytes are acknowledged, or given up, the queue says so, for a range of calls at once where it can. Nothing is sent from the
//! program's own pages: the bytes are copied, as Linux does on `lo`, and the notification says that too. Bounds, merging and
//! order are those of msg_zerocopy_realloc and __msg_zerocopy_callback (c-tests/zerocopy.c).

use super::{ConnId, SockId, Stack};
use crate::fixed::Id;
use crate::fixed::list::{Linked, Links, List};
use crate::values::signal::Event;
use crate::values::{Addr, Counter, Endpoint, Error, SeqNum, error::Result};
use crate::wire::icmp;
use crate::wire::ip::Packet;
use bytemuck::Zeroable;

pub type NoteId = Id<Note>;

/// What net.core.optmem_max is charged for a notification, and what it must have room for before (Linux 6.x on 64 bits).
const NOTE_CHARGE: i64 = 832;
const NOTE_ROOM: i64 = 576;
/// Calls and bytes that one notification stands for at most.
const MOST_CALLS: u32 = u16::MAX as u32 - 1;
const MOST_BYTES: u64 = (1 << 19) - 1;
/// Plain bytes behind a notification's own that still are in one buffer with them.
const ONE_BUFFER: u32 = 32 * 1024;

/// Bytes of a segment that an ICMP error quotes which are kept: a TCP header with all of its options.
pub const QUOTED_BYTES: usize = 60;
/// ICMP errors that a socket keeps unread.
const MOST_REPORTS: usize = 128;

/// An ICMP error.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Zeroable)]
#[repr(C)]
pub struct Report {
    pub errno: i32,
    pub kind: u8,
    pub code: u8,
    pub quoted_bytes: u8,
    pub is_v6: bool,
    /// Who says so, and of which destination.
    pub offender: Addr,
    pub destination: Endpoint,
    pub quoted: [u8; QUOTED_BYTES],
}

/// A notification: waiting for its bytes to be acknowledged, or queued.
#[derive(Zeroable)]
#[repr(C)]
pub struct Note {
    socket: Option<SockId>,
    links: Links<Note>,
    /// The first call, and how many.
    first: u32,
    calls: u32,
    /// The bytes, and what the calls have asked for.
    start: SeqNum,
    end: SeqNum,
    bytes: u64,
    is_queued: bool,
    /// Nothing of it was ever sent.
    unsent: bool,
    /// It is an ICMP error, and nothing else.
    is_report: bool,
    _pad: [u8; 5],
    report: Report,
}

/// The notifications of a socket, in one of its two lists.
pub enum OfSocket {}

impl Linked<OfSocket> for Note {
    fn links(&self) -> &Links<Self> {
        &self.links
    }
    fn links_mut(&mut self) -> &mut Links<Self> {
        &mut self.links
    }
}

/// What a socket has of notifications.
#[derive(Zeroable)]
#[repr(C)]
pub struct Notes {
    /// Not told yet: their bytes are on their way.
    pending: List<Note, OfSocket>,
    queued: List<Note, OfSocket>,
    /// The number of the next call.
    next: u32,
    _pad: u32,
}

impl Notes {
    pub fn any_queued(&self) -> bool {
        !self.queued.is_empty()
    }
}

/// What the error queue tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Told {
    Completed(Completed),
    Report(Report),
}

/// Sends with MSG_ZEROCOPY whose bytes are no longer needed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Completed {
    pub first: u32,
    pub last: u32,
    /// SO_EE_CODE_ZEROCOPY_COPIED.
    pub copied: bool,
}

/// A part of a send(2) with MSG_ZEROCOPY.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ZeroCopy {
    #[default]
    No,
    /// Its first bytes; it has so many in all.
    Begins(u64),
    GoesOn,
}

impl Stack {
    /// Whether a send of that many bytes with MSG_ZEROCOPY is to be notified of.
    ///
    /// # Errors
    /// NoBuffers: as many notifications as net.core.optmem_max allows are not read yet.
    pub fn wants_note(&self, id: SockId, bytes: usize) -> Result<bool> {
        let s = self.sockets.get(id).ok_or(Error::BadDescriptor)?;
        if bytes == 0 || !s.options.zerocopy {
            return Ok(false);
        }
        let notes = (s.notes.pending.len() + s.notes.queued.len()) as i64;
        let room = self.core.sysctls.optmem_max[0] - notes * NOTE_CHARGE >= NOTE_ROOM
            && self.notes.len() < self.notes.limit();
        let shares = || {
            let end = s.conn.and_then(|c| self.conns.get(c))?.tcb.written_end();
            self.open_note(id, end, bytes as u64)
        };
        if room || shares().is_some() { Ok(true) } else { Err(Error::NoBuffers) }
    }

    /// The notification that a call of `bytes`, written behind `end`, shares with the one before it: what that has written is
    /// not all sent.
    fn open_note(&self, id: SockId, end: SeqNum, bytes: u64) -> Option<NoteId> {
        let s = self.sockets.get(id)?;
        let last = s.notes.pending.back()?;
        let note = self.notes.get(last)?;
        let tcb = &self.conns.get(s.conn?)?.tcb;
        let shares = note.end.after(tcb.snd.nxt)
            && end - note.end < ONE_BUFFER
            && note.calls < MOST_CALLS
            && note.bytes + bytes <= MOST_BYTES;
        shares.then_some(last)
    }

    /// A call has written the bytes from `start` on.
    pub(super) fn note_wrote(&mut self, id: SockId, call: ZeroCopy, start: SeqNum) {
        if let ZeroCopy::Begins(bytes) = call {
            self.note_begins(id, start, bytes);
        }
        let Some(s) = self.sockets.get(id) else { return };
        let Some(tcb) = s.conn.and_then(|c| self.conns.get(c)).map(|c| &c.tcb) else { return };
        if call != ZeroCopy::No
            && let Some(note) = s.notes.pending.back().and_then(|n| self.notes.get_mut(n))
        {
            note.end = tcb.written_end();
        }
    }

    fn note_begins(&mut self, id: SockId, start: SeqNum, bytes: u64) {
        let open = self.open_note(id, start, bytes);
        let Some(s) = self.sockets.get_mut(id) else { return };
        let first = s.notes.next;
        s.notes.next = first.wrapping_add(1);
        if let Some(note) = open.and_then(|n| self.notes.get_mut(n)) {
            note.calls += 1;
            note.bytes += bytes;
            return;
        }
        let Some(conn) = s.conn.and_then(|c| self.conns.get_mut(c)) else { return };
        let note = Note { socket: Some(id), first, calls: 1, start, end: start, bytes, ..Note::zeroed() };
        let Ok(note) = self.notes.insert(note) else {
            self.core.counters.inc(Counter::TableFull);
            return;
        };
        conn.notes_wait = true;
        s.notes.pending.push_back(&mut self.notes, note);
    }

    /// All that the call had to send is in the SYN: there is nothing to wait for.
    pub fn note_at_once(&mut self, id: SockId) {
        let Some(s) = self.sockets.get_mut(id) else { return };
        let first = s.notes.next;
        s.notes.next = first.wrapping_add(1);
        let note = Note { socket: Some(id), first, calls: 1, ..Note::zeroed() };
        if let Ok(note) = self.notes.insert(note) {
            self.queue_note(id, note);
            self.report_error(id);
        }
    }

    /// Something happened to a connection: the notifications of what is acknowledged by now. True: there are some.
    pub(super) fn notes_acknowledged(&mut self, conn: ConnId) -> bool {
        let mut any = false;
        while let Some((id, note, una)) = self.first_pending(conn) {
            if self.notes[note].end.after(una) {
                return any;
            }
            self.take_pending(id, note);
            self.queue_note(id, note);
            self.signal(id, Event::Error);
            any = true;
        }
        if let Some(conn) = self.conns.get_mut(conn) {
            conn.notes_wait = false;
        }
        any
    }

    fn first_pending(&self, conn: ConnId) -> Option<(SockId, NoteId, SeqNum)> {
        let conn = self.conns.get(conn)?;
        let id = conn.socket?;
        Some((id, self.sockets.get(id)?.notes.pending.front()?, conn.tcb.snd.una))
    }

    fn take_pending(&mut self, id: SockId, note: NoteId) {
        if let Some(s) = self.sockets.get_mut(id) {
            s.notes.pending.remove(&mut self.notes, note);
        }
    }

    /// The connection ends: what was to be notified of is given up, first what was not sent (tcp_write_queue_purge).
    pub(super) fn notes_given_up(&mut self, conn: ConnId) {
        let Some(c) = self.conns.get_mut(conn) else { return };
        c.notes_wait = false;
        let (nxt, Some(id)) = (c.tcb.snd.nxt, c.socket) else { return };
        let mut all = Vec::new();
        while let Some((_, note, _)) = self.first_pending(conn) {
            self.take_pending(id, note);
            let n = &mut self.notes[note];
            n.unsent = nxt.before_eq(n.start);
            all.push((!n.unsent, note));
        }
        if all.is_empty() {
            return;
        }
        all.sort_by_key(|&(was_sent, _)| was_sent);
        all.into_iter().for_each(|(_, note)| self.queue_note(id, note));
        self.report_error(id);
    }

    /// Behind the last one in the queue, or as a part of it.
    fn queue_note(&mut self, id: SockId, note: NoteId) {
        let Some(s) = self.sockets.get_mut(id) else { return };
        let (first, calls) = (self.notes[note].first, self.notes[note].calls);
        if let Some(last) = s.notes.queued.back().and_then(|n| self.notes.get_mut(n))
            && !last.is_report
            && last.first.wrapping_add(last.calls) == first
            && let Some(sum) = last.calls.checked_add(calls)
        {
            last.calls = sum;
            self.notes.remove(note);
            return;
        }
        self.notes[note].is_queued = true;
        s.notes.queued.push_back(&mut self.notes, note);
    }

    /// recvmsg(2) with MSG_ERRQUEUE: the oldest entry. Where there are more, who waits is told again. An ICMP error that was read
    /// is no pending error any more; the next one is (sock_dequeue_err_skb).
    ///
    /// # Errors
    /// WouldBlock: none.
    pub fn take_note(&mut self, id: SockId) -> Result<Told> {
        let s = self.sockets.get_mut(id).ok_or(Error::BadDescriptor)?;
        let note = s.notes.queued.pop_front(&mut self.notes).ok_or(Error::WouldBlock)?;
        let more = s.notes.any_queued();
        let n = &self.notes[note];
        let told = if n.is_report {
            Told::Report(n.report)
        } else {
            let last = n.first.wrapping_add(n.calls - 1);
            Told::Completed(Completed { first: n.first, last, copied: !n.unsent })
        };
        self.notes.remove(note);
        let next = s.notes.queued.front().and_then(|n| self.notes.get(n)).filter(|n| n.is_report);
        match (next, told) {
            (Some(next), _) => s.error = next.report.errno,
            (None, Told::Report(_)) => s.error = 0,
            _ => {}
        }
        if more {
            self.report_error(id);
        }
        Ok(told)
    }

    /// An ICMP error has ended an attempt to connect (ip_icmp_error; ipv6_icmp_error asks for IPV6_RECVERR).
    pub(super) fn queue_report(
        &mut self,
        conn: ConnId,
        error: Error,
        destination: Endpoint,
        packet: &Packet,
    ) {
        let Some(id) = self.conns.get(conn).and_then(|c| c.socket) else { return };
        let Some(s) = self.sockets.get_mut(id) else { return };
        let is_v6 = !destination.addr.is_v4();
        let Some((kind, code, segment)) = icmp::words(packet) else { return };
        if (is_v6 && !s.options.recverr6) || s.notes.queued.len() >= MOST_REPORTS {
            return;
        }
        let mut quoted = [0; QUOTED_BYTES];
        let n = segment.len().min(QUOTED_BYTES);
        quoted[..n].copy_from_slice(&segment[..n]);
        let report = Report {
            errno: error.errno(),
            kind,
            code,
            quoted_bytes: n as u8,
            is_v6,
            offender: packet.src,
            destination,
            quoted,
        };
        let note = Note { socket: Some(id), is_queued: true, is_report: true, report, ..Note::zeroed() };
        if let Ok(note) = self.notes.insert(note) {
            s.notes.queued.push_back(&mut self.notes, note);
            self.report_error(id);
        }
    }

    /// IP_RECVERR was switched off.
    pub(super) fn drop_queued_notes(&mut self, id: SockId) {
        let Some(s) = self.sockets.get_mut(id) else { return };
        while let Some(note) = s.notes.queued.pop_front(&mut self.notes) {
            self.notes.remove(note);
        }
    }

    /// The socket is closed: nobody is told.
    pub(super) fn drop_notes(&mut self, id: SockId) {
        self.drop_queued_notes(id);
        let Some(s) = self.sockets.get_mut(id) else { return };
        while let Some(note) = s.notes.pending.pop_front(&mut self.notes) {
            self.notes.remove(note);
        }
    }

    /// After the lock's holder died: the lists made again. What had no place in one is forgotten with its socket.
    pub(super) fn rebuild_notes(&mut self) {
        for id in self.sockets.ids().collect::<Vec<_>>() {
            let notes = &mut self.sockets[id].notes;
            (notes.pending, notes.queued) = (List::default(), List::default());
        }
        let mut all: Vec<(u32, NoteId)> = self.notes.iter().map(|(id, n)| (n.first, id)).collect();
        all.sort_unstable_by_key(|&(first, _)| first);
        for (_, note) in all {
            let n = &mut self.notes[note];
            n.links = Links::default();
            let (socket, is_queued) = (n.socket, n.is_queued);
            match socket.and_then(|s| self.sockets.get_mut(s)) {
                Some(s) if is_queued => s.notes.queued.push_back(&mut self.notes, note),
                Some(s) => s.notes.pending.push_back(&mut self.notes, note),
                None => {
                    self.notes.remove(note);
                }
            }
        }
    }
}
