//! The companion's seat in the engine: the mapped arena, the packet sockets, and the way in and out of the lock.

use engine::device::{Device, PacketDevice, Transmitter};
use engine::driver::{self, TURN_BUDGET};
use engine::shared::Words;
use engine::shared::arena::Arena;
use engine::stack::{COMPANION, Stack};
use engine::sys;
use engine::values::Instant;
use engine::values::signal::Signal;
use std::os::fd::RawFd;

/// Rounds in which what was sent may bring something about at once.
const SETTLE_TURNS: usize = 8;

pub struct Seat {
    arena: Arena,
    device: PacketDevice,
    tx: Transmitter,
    /// The family's eventfds, the companion's bell last.
    events: Vec<RawFd>,
    rings: Vec<RawFd>,
    /// Signals that were due, and are to be sent.
    pub signals: Vec<Signal>,
}

/// The numbers of the descriptors that the companion was started with, or a program of the family is given.
pub struct Descriptors {
    pub arena: RawFd,
    pub listening: RawFd,
    pub rings: Vec<RawFd>,
    pub tx: [RawFd; 3],
    pub events: Vec<RawFd>,
}

impl Descriptors {
    /// `arena,listening;rings;sending;events`, as the library writes it.
    pub fn parse(text: &str) -> Option<Descriptors> {
        let lists: Vec<Vec<RawFd>> = text
            .split(';')
            .map(|list| list.split(',').map(|n| n.parse().ok()).collect::<Option<Vec<RawFd>>>())
            .collect::<Option<_>>()?;
        let [first, rings, tx, events] = &lists[..] else { return None };
        let [arena, listening] = first[..] else { return None };
        let tx = <[RawFd; 3]>::try_from(&tx[..]).ok()?;
        Some(Descriptors { arena, listening, rings: rings.clone(), tx, events: events.clone() })
    }
}

impl Seat {
    pub fn take(d: &Descriptors) -> Result<Seat, String> {
        let os = |errno: i32| std::io::Error::from_raw_os_error(errno).to_string();
        let arena = Arena::open(d.arena, true).map_err(|e| e.to_string())?;
        let device = PacketDevice::adopt(&d.rings, d.tx).map_err(os)?;
        let tx = device.transmitter();
        Ok(Seat { arena, device, tx, events: d.events.clone(), rings: d.rings.clone(), signals: Vec::new() })
    }

    pub fn words(&self) -> &Words {
        self.arena.words()
    }

    pub fn bell(&self) -> RawFd {
        self.events.last().copied().unwrap_or(-1)
    }

    /// The packet sockets.
    pub fn rings(&self) -> &[RawFd] {
        &self.rings
    }

    /// What a program of the family is given: arena, rings, sending, eventfds.
    pub fn descriptors(&self) -> impl Iterator<Item = RawFd> + '_ {
        let tx = self.device.tx_fds().into_iter().filter(|&fd| fd >= 0);
        [self.arena.fd()]
            .into_iter()
            .chain(self.rings.iter().copied())
            .chain(tx)
            .chain(self.events.iter().copied())
    }

    pub fn has_ipv6(&self) -> bool {
        self.device.tx_fds()[2] >= 0
    }

    /// Frames wait that nobody has looked at. Loads.
    pub fn frames_wait(&self) -> bool {
        self.device.ready(self.arena.peek_device())
    }

    /// Does something to the stack, and sends what comes of it. `None`: the lock is broken for good.
    pub fn visit<T>(&mut self, act: impl FnOnce(&mut Stack, Instant) -> T) -> Option<T> {
        self.visit_with_words(|stack, now, _| act(stack, now))
    }

    /// As [`Seat::visit`], with a turn before it if `prepare` says so, all without giving the lock back in between.
    pub fn visit_after<T>(
        &mut self,
        prepare: impl FnOnce(&mut Stack) -> bool,
        act: impl FnOnce(&mut Stack, Instant) -> T,
    ) -> Option<T> {
        let mut act = Some(act);
        let mut result = None;
        self.rounds(false, prepare, |stack, now, _| {
            if let Some(act) = act.take() {
                result = Some(act(stack, now));
            }
        });
        result
    }

    pub fn visit_with_words<T>(&mut self, act: impl FnOnce(&mut Stack, Instant, &Words) -> T) -> Option<T> {
        let mut act = Some(act);
        let mut result = None;
        self.rounds(
            false,
            |_| false,
            |stack, now, words| {
                if let Some(act) = act.take() {
                    result = Some(act(stack, now, words));
                }
            },
        );
        result
    }

    /// Receives, runs timers, sends, until nothing is left to do. `sleeping` is called under the lock, while nobody can set an
    /// earlier deadline than the one it sees.
    pub fn drive(&mut self, mut sleeping: impl FnMut(&Stack, &Words)) {
        self.rounds(true, |_| false, |stack, _, words| sleeping(stack, words));
    }

    /// Turns (if `turn`, or `prepare` says so) and visits, until what was sent brings about nothing more.
    fn rounds(
        &mut self,
        turn: bool,
        prepare: impl FnOnce(&mut Stack) -> bool,
        mut visit: impl FnMut(&mut Stack, Instant, &Words),
    ) {
        let (mut turn, mut prepare) = (turn, Some(prepare));
        for _ in 0..SETTLE_TURNS {
            let Some(guard) = self.arena.lock() else { return };
            guard.stack.set_holder(COMPANION);
            let now = sys::monotonic_now();
            self.arena.words().role.nothing_is_held();
            if prepare.take().is_some_and(|prepare| prepare(guard.stack)) || turn {
                while driver::turn(guard.stack, &mut self.device, &mut self.tx, guard.device, now).frames
                    == TURN_BUDGET
                {}
            }
            visit(guard.stack, now, self.arena.words());
            self.device.follow_ports(guard.stack, guard.device);
            if guard.stack.has_output() {
                self.tx.report(guard.stack.counters_mut());
                guard.stack.transmit(now, &mut self.tx);
            }
            let mut wakes = Vec::new();
            while let Some(wake) = guard.stack.take_wake() {
                wakes.push(wake);
            }
            while let Some(signal) = guard.stack.take_signal() {
                self.signals.push(signal);
            }
            drop(guard);
            wakes.into_iter().for_each(|wake| self.words().wake(wake, &self.events));
            if self.tx.is_empty() {
                return;
            }
            self.tx.flush();
            // A peer on this machine has answered already.
            if !self.frames_wait() {
                return;
            }
            turn = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_read_as_they_are_written() {
        let d = Descriptors::parse("5,6;7,8;9,10,-1;11,12,13").unwrap();
        assert_eq!((d.arena, d.listening, d.rings, d.tx), (5, 6, vec![7, 8], [9, 10, -1]));
        assert_eq!(d.events, [11, 12, 13]);
        assert!(Descriptors::parse("5;7;9,10,-1;11").is_none() && Descriptors::parse("").is_none());
    }
}
