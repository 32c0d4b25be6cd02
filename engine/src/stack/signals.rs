//! Which events of a socket send a signal: where Linux calls sk_wake_async and sk_send_sigurg (c-tests/sigio.c).
//!
//! Signals are queued here and sent by whoever takes them out, without the lock. Where more wait than the queue holds, the latest
//! are lost, as they are beyond RLIMIT_SIGPENDING.

use super::connections::Before;
use super::ready::{Ready, WaitLink, s_next_link};
use super::{SockId, Stack};
use crate::fixed::Id;
use crate::tcp::{State, UrgentNews};
use crate::values::signal::{Event, OwnerKind, Signal};
use crate::values::{Counter, Error, error::Result};
use bytemuck::Zeroable;

const MOST: usize = 256;

/// Signals that wait to be sent.
#[derive(Zeroable)]
#[repr(C)]
pub(super) struct SignalQueue {
    first: u32,
    len: u32,
    ring: [Signal; MOST],
}

impl SignalQueue {
    fn place(&self, n: u32) -> usize {
        (self.first.wrapping_add(n)) as usize % MOST
    }

    fn push(&mut self, signal: Signal) -> bool {
        let fits = (self.len as usize) < MOST;
        if fits {
            let at = self.place(self.len);
            self.ring[at] = signal;
            self.len += 1;
        }
        fits
    }

    fn pop(&mut self) -> Option<Signal> {
        self.len = self.len.checked_sub(1)?;
        let at = self.place(0);
        self.first = self.first.wrapping_add(1);
        Some(self.ring[at])
    }
}

impl Stack {
    /// F_SETOWN_EX and F_SETSIG.
    ///
    /// # Errors
    /// BadDescriptor: a stale handle.
    pub fn set_owner(
        &mut self,
        id: SockId,
        kind: OwnerKind,
        who: i32,
        started: u64,
        number: u8,
    ) -> Result<()> {
        let s = self.sockets.get_mut(id).ok_or(Error::BadDescriptor)?;
        (s.owner.kind, s.owner.id, s.owner.started, s.owner.number) = (kind, who, started, number);
        Ok(())
    }

    /// O_ASYNC, set by that descriptor; the one that it was first set by counts.
    ///
    /// # Errors
    /// BadDescriptor: a stale handle.
    pub fn set_async(&mut self, id: SockId, on: bool, fd: i32) -> Result<()> {
        let s = self.sockets.get_mut(id).ok_or(Error::BadDescriptor)?;
        if on && !s.owner.is_async {
            s.owner.fd = fd;
        }
        s.owner.is_async = on;
        Ok(())
    }

    /// An event of those that O_ASYNC asks for.
    pub(super) fn signal(&mut self, id: SockId, event: Event) {
        let Some(s) = self.sockets.get(id) else { return };
        let owner = s.owner;
        if owner.is_async && owner.kind != OwnerKind::Nobody {
            let is_told_already = matches!(event, Event::Readable | Event::HangUp) && self.somebody_reads(id);
            if !is_told_already {
                self.queue_signal(Signal::new(owner, event));
            }
        }
    }

    /// Urgent data was announced: SIGURG to the socket's owner, with O_ASYNC or without (sk_send_sigurg). With it, this says as well
    /// that there is something to read: the kernel's own way to send it, of which `signals` of the companion makes use, does.
    pub(super) fn signal_urgent(&mut self, id: SockId) {
        let Some(s) = self.sockets.get(id) else { return };
        let owner = s.owner;
        if owner.kind != OwnerKind::Nobody {
            self.queue_signal(Signal::new(owner, Event::Urgent));
        }
    }

    fn queue_signal(&mut self, signal: Signal) {
        if !self.core.signals.push(signal) {
            self.core.counters.inc(Counter::TableFull);
        }
    }

    /// A thread sleeps in recv(2): SOCKWQ_ASYNC_WAITDATA.
    fn somebody_reads(&self, id: SockId) -> bool {
        let mut link: Option<Id<WaitLink>> = self.sockets.get(id).and_then(|s| s.waits.front());
        while let Some(l) = link {
            if self.links[l].interest.any(Ready::READER) {
                return true;
            }
            link = s_next_link(&self.links, l);
        }
        false
    }

    /// What has become of a socket's connection sends signals. `has_room`: again.
    pub(super) fn signal_changes(
        &mut self,
        id: SockId,
        before: Before,
        after: Before,
        has_room: bool,
        urgent: UrgentNews,
    ) {
        if urgent.announced {
            self.signal_urgent(id);
        }
        let Some(s) = self.sockets.get(id) else { return };
        if !s.owner.is_async {
            return;
        }
        let tcb = s.conn.and_then(|c| self.conns.get(c)).map(|c| &c.tcb);
        let enough = after.fin || tcb.is_some_and(|t| t.is_readable(s.options.rcvlowat));
        let sends_no_more = s.shut & 2 != 0 || tcb.is_none_or(|t| t.is_send_shutdown());
        if matches!(before.state, State::SynSent | State::SynReceived) && after.state.is_synchronized() {
            self.signal(id, Event::Writable);
        }
        // tcp_urg, which tells of the byte, and then tcp_data_queue; the first of them is told with the announcement.
        let ends = after.fin && !before.fin;
        // An urgent byte that takes another's place is news, too.
        let grows = !ends && enough && (after.readable > before.readable || urgent.arrived);
        let told = usize::from(urgent.arrived) + usize::from(grows);
        for _ in usize::from(urgent.announced)..told {
            self.signal(id, Event::Readable);
        }
        if ends {
            // tcp_fin, and then tcp_data_queue.
            self.signal(id, if sends_no_more { Event::HangUp } else { Event::Readable });
            self.signal(id, Event::Readable);
        }
        if has_room && !sends_no_more {
            self.signal(id, Event::Writable);
        }
    }

    /// Whether signals wait to be sent.
    pub fn has_signals(&self) -> bool {
        self.core.signals.len != 0
    }

    /// The next signal to be sent.
    pub fn take_signal(&mut self) -> Option<Signal> {
        self.core.signals.pop()
    }
}
