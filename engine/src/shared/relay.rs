//! Relays: processes that carry bytes between a connection of ours and a program that cannot be preloaded (`tcpreload --relay`).
//!
//! What such a program has written may be with its relay still when it has ended, and what it has read may still be in the
//! connection. So whoever else uses the connection asks its relay first to have done what is due. Which connections have one
//! is noted here, in the arena; the question goes over an abstract Unix socket of the relay's.

use crate::stack::SockId;
use crate::sys;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::os::fd::RawFd;

/// Relays that a family has at the same time, each with its connection. For more of them nobody waits.
const MAX_RELAYS: usize = 512;

/// The level of the socket options by which a relay speaks to the library that is loaded into it. Linux has none of that number.
pub const LEVEL: i32 = 0x7463_7072;
/// setsockopt: this process is the relay of this connection, under a name (8 bytes); 0: it is no longer.
pub const RELAYED: i32 = 1;
/// getsockopt: the phase of a socket of ours, a `SocketPhase` as a number.
pub const PHASE: i32 = 2;

/// Lives in the arena. All zero: there is none.
#[repr(C)]
pub struct RelayWords {
    /// How many there are.
    count: AtomicU32,
    _pad: AtomicU32,
    relays: [RelayWord; MAX_RELAYS],
}

#[repr(C)]
struct RelayWord {
    /// The socket, as a number.
    socket: AtomicU64,
    /// What names its Unix socket; 0: not said yet, and nobody asks it.
    name: AtomicU64,
    /// The relay's process, which takes the place with this, first of all: wherever it is killed, the place can be had again. 0: free.
    pid: AtomicU32,
    _pad: AtomicU32,
}

/// A relay, as others see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Relay {
    place: usize,
    socket: u64,
    pub name: u64,
    pub pid: u32,
}

impl RelayWords {
    #[inline]
    pub fn any(&self) -> bool {
        self.count.load(Ordering::Relaxed) != 0
    }

    /// Process `pid` becomes the relay of that socket. False: there is no place.
    pub fn note(&self, socket: SockId, name: u64, pid: u32) -> bool {
        let take =
            |r: &&RelayWord| r.pid.compare_exchange(0, pid, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        let Some(place) = self.relays.iter().find(take) else { return false };
        place.socket.store(socket.to_raw(), Ordering::Release);
        self.count.fetch_add(1, Ordering::AcqRel);
        place.name.store(name, Ordering::Release);
        true
    }

    /// Gives back the places of those that were killed.
    pub fn sweep(&self, lives: impl Fn(u32) -> bool) {
        for place in &self.relays {
            let pid = place.pid.load(Ordering::Acquire);
            if pid != 0 && !lives(pid) {
                self.give_back(place, place.name.load(Ordering::Acquire), pid);
            }
        }
    }

    /// Those of one socket.
    pub fn of(&self, socket: SockId) -> impl Iterator<Item = Relay> + '_ {
        self.all().filter(move |relay| relay.socket == socket.to_raw())
    }

    pub fn all(&self) -> impl Iterator<Item = Relay> + '_ {
        self.relays.iter().enumerate().filter_map(|(place, r)| {
            let socket = r.socket.load(Ordering::Acquire);
            let (name, pid) = (r.name.load(Ordering::Acquire), r.pid.load(Ordering::Acquire));
            (name != 0).then_some(Relay { place, socket, name, pid })
        })
    }

    /// It has ended, by itself or not.
    pub fn forget(&self, relay: Relay) {
        self.give_back(&self.relays[relay.place], relay.name, relay.pid);
    }

    fn give_back(&self, place: &RelayWord, name: u64, pid: u32) {
        let was = place.name.compare_exchange(name, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if was && place.pid.compare_exchange(pid, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok() && name != 0
        {
            // One that was killed before it was counted makes it no less than none.
            let _ = self.count.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |n| n.checked_sub(1));
        }
    }
}

/// What is asked of a relay before its connection is used by somebody else. It answers by closing the question.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Question {
    /// That what the program has read is gone from the connection.
    Read = 1,
    /// That what the program has written is in the connection.
    Written = 2,
    /// The same, as far as there is room.
    WrittenNow = 3,
}

impl Question {
    fn of(number: u8) -> Option<Question> {
        [Question::Read, Question::Written, Question::WrittenNow].into_iter().find(|q| *q as u8 == number)
    }
}

const PREFIX: &[u8; 18] = b"\0\0\0tcpreload-relay";

/// An abstract address. Nothing is allocated: who asks may be a signal handler.
fn address(name: u64) -> [u8; PREFIX.len() + 17] {
    let mut out = [b'/'; PREFIX.len() + 17];
    out[..PREFIX.len()].copy_from_slice(PREFIX);
    out[..2].copy_from_slice(&(libc::AF_UNIX as u16).to_ne_bytes());
    for (n, digit) in out[PREFIX.len() + 1..].iter_mut().enumerate() {
        *digit = b"0123456789abcdef"[(name >> (60 - 4 * n) & 15) as usize];
    }
    out
}

const KIND: i32 = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
const BACKLOG: i32 = 128;

/// A relay's socket, which does not block.
///
/// # Errors
/// The errno.
pub fn listen(name: u64) -> Result<RawFd, i32> {
    let fd = sys::socket(libc::AF_UNIX, KIND | libc::SOCK_NONBLOCK, 0)?;
    let listening = sys::bind(fd, &address(name)).and_then(|()| sys::listen(fd, BACKLOG));
    listening.map(|()| fd).inspect_err(|_| sys::close(fd).unwrap_or(()))
}

/// Asks, and waits for the answer.
///
/// # Errors
/// ECONNREFUSED: there is no such relay any more. EINTR.
pub fn ask(name: u64, question: Question) -> Result<(), i32> {
    let fd = sys::socket(libc::AF_UNIX, KIND, 0)?;
    let answer = sys::connect(fd, &address(name)).and_then(|()| {
        sys::send(fd, &[question as u8], libc::MSG_NOSIGNAL)?;
        sys::read(fd, &mut [0]).map(drop)
    });
    let _ = sys::close(fd);
    match answer {
        // It ended over it, with all done.
        Err(libc::ECONNRESET | libc::EPIPE) => Ok(()),
        other => other,
    }
}

/// What is asked over a connection that the relay has accepted. `None`: nothing that makes sense.
pub fn question(fd: RawFd) -> Option<Question> {
    let mut byte = [0];
    match sys::read(fd, &mut byte) {
        Ok(1) => Question::of(byte[0]),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixed::Id;

    #[test]
    fn relays_come_and_go() {
        // SAFETY: zero is a value of every atomic.
        let words: Box<RelayWords> = unsafe { Box::new(core::mem::zeroed()) };
        let socket = |n: u64| -> SockId { Id::from_raw(n << 32 | 7).expect("a handle") };
        assert!(!words.any() && words.note(socket(1), 9, 100) && words.any());
        assert!(words.note(socket(3), 10, 101) && words.note(socket(1), 11, 102));
        let names: Vec<u64> = words.of(socket(1)).map(|r| r.name).collect();
        assert_eq!(names, [9, 11]);
        let first = words.of(socket(1)).next().expect("it is there");
        words.forget(first);
        words.forget(first);
        assert_eq!((words.all().count(), words.count.load(Ordering::Relaxed)), (2, 2));
    }

    #[test]
    fn a_relay_that_is_killed_keeps_no_place() {
        // SAFETY: zero is a value of every atomic.
        let words: Box<RelayWords> = unsafe { Box::new(core::mem::zeroed()) };
        let socket: SockId = Id::from_raw(1 << 32 | 7).expect("a handle");
        // Before it has said its name, and after.
        words.relays[0].pid.store(100, Ordering::Relaxed);
        assert!(
            (1..MAX_RELAYS as u32).all(|n| words.note(socket, 9, 100 + n)) && !words.note(socket, 9, 999)
        );
        words.sweep(|pid| pid > 101);
        assert!(words.note(socket, 9, 999) && words.note(socket, 9, 1000) && !words.note(socket, 9, 1001));
        words.sweep(|_| false);
        assert!(!words.any());
    }

    #[test]
    fn a_question_is_answered_by_its_end() {
        let name = sys::random_seed()[0];
        assert_eq!(ask(name, Question::Read), Err(libc::ECONNREFUSED));
        let listening = listen(name).unwrap();
        let asker = std::thread::spawn(move || ask(name, Question::Written));
        sys::poll_until(listening, libc::POLLIN);
        let asked = sys::accept(listening).unwrap();
        sys::poll_until(asked, libc::POLLIN);
        assert_eq!(question(asked), Some(Question::Written));
        [asked, listening].into_iter().for_each(|fd| sys::close(fd).unwrap());
        assert_eq!(asker.join().unwrap(), Ok(()));
    }
}
