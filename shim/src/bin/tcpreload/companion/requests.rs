//! What is said to the companion, and what it answers.

use super::{Companion, close};
use engine::shared::messages::{self, Message, Subject};
use engine::stack::PortId;
use engine::sys;
use std::os::fd::RawFd;

/// Connections that may be there and have said nothing yet.
const SILENT: usize = 64;

/// Whoever has connected.
pub struct Connection {
    pub fd: RawFd,
    /// A process of the family that sends guards: those can wait.
    is_patient: bool,
}

impl Connection {
    pub fn events(&self) -> i16 {
        if self.is_patient { 0 } else { libc::POLLIN }
    }
}

/// A port whose guard is another family's now.
pub struct GivenAway {
    pub port: PortId,
    pub connection: RawFd,
}

impl Companion {
    /// Takes all that was said.
    pub fn hear(&mut self) {
        while let Ok(fd) = sys::accept(self.listening) {
            self.connections.push(Connection { fd, is_patient: false });
            self.dismiss_the_silent();
        }
        let mut n = 0;
        while n < self.connections.len() {
            if self.hear_one(n) {
                n += 1;
            } else {
                self.connections.remove(n);
            }
        }
        self.count_arrived();
        let (guests, seat) = (&mut self.guests, &mut self.seat);
        guests.retain(|&(port, fd)| {
            let goes_on = sys::poll_one(fd, libc::POLLIN) == 0;
            if !goes_on {
                seat.visit(|stack, _| stack.guest_left(port));
                close(fd);
            }
            goes_on
        });
    }

    /// Anybody on this machine may connect and say nothing. Those of the family, and those who ask, speak at once.
    fn dismiss_the_silent(&mut self) {
        let mut silent = self.connections.iter().enumerate().filter(|(_, c)| !c.is_patient).map(|(n, _)| n);
        let Some(oldest) = silent.next().filter(|_| silent.count() >= SILENT) else { return };
        let goes_on = self.hear_one(oldest);
        let connection = &self.connections[oldest];
        if goes_on && connection.is_patient {
            return;
        }
        if goes_on {
            close(connection.fd);
        }
        self.connections.remove(oldest);
    }

    /// Answers those who want a guard: behind what the family has said, and what has become of its processes.
    pub fn answer(&mut self) {
        for (connection, question) in core::mem::take(&mut self.asked) {
            self.give(connection, &question);
        }
    }

    /// What came over one connection; who wants a guard is answered later. False: that was all, for ever.
    fn hear_one(&mut self, n: usize) -> bool {
        let fd = self.connections[n].fd;
        loop {
            match messages::receive(fd) {
                Ok(Some((message, fds))) => {
                    let is_ours = message.secret == self.seat.words().companion.secret();
                    if message.subject == Subject::Give {
                        fds.into_iter().for_each(close);
                        self.asked.push((fd, message));
                        return false;
                    }
                    let claims =
                        message.subject == Subject::Claim && self.may_ask(fd) && self.knows_one_of(&fds);
                    if claims {
                        self.let_in(fd);
                    }
                    if claims || !is_ours {
                        fds.into_iter().for_each(close);
                        if !claims {
                            let _ = Message::new(Subject::Refused).send(fd, &[]);
                        }
                        close(fd);
                        return false;
                    }
                    self.connections[n].is_patient = true;
                    self.obey(fd, &message, fds);
                }
                Err(libc::EAGAIN) => return true,
                Ok(None) | Err(_) => {
                    close(fd);
                    return false;
                }
            }
        }
    }

    /// A message of the family's.
    fn obey(&mut self, connection: RawFd, message: &Message, mut fds: Vec<RawFd>) {
        match message.subject {
            Subject::Guard => {
                if let Some(fd) = fds.pop() {
                    self.keep_guard(message.id, fd);
                }
            }
            Subject::Exec => {
                if let Some(pipe) = fds.pop() {
                    self.execs.push((message.holder, pipe));
                }
            }
            Subject::ExecFailed => self.execs.retain(|&(holder, pipe)| {
                let other = holder != message.holder;
                if !other {
                    close(pipe);
                }
                other
            }),
            Subject::Attach => self.let_in(connection),
            Subject::Guest => {
                if let (Some(fd), Some(port)) = (fds.pop(), PortId::from_raw(message.id)) {
                    self.guests.push((port, fd));
                }
            }
            Subject::Give | Subject::Claim | Subject::Attached | Subject::Given | Subject::Refused => {}
        }
        fds.into_iter().for_each(close);
    }

    /// Gives all that a process of the family has to have.
    fn let_in(&self, connection: RawFd) {
        let (rings, flag) = (self.seat.rings().len() as u64, self.seat.has_ipv6());
        let answer = Message { id: rings, flag, ..Message::new(Subject::Attached) };
        let all: Vec<RawFd> = self.seat.descriptors().collect();
        // Who asked and went away needs no answer.
        let _ = answer.send(connection, &all);
    }

    /// Whether one of them is a socket of the family's.
    fn knows_one_of(&mut self, fds: &[RawFd]) -> bool {
        let cookies: Vec<u64> = fds.iter().filter_map(|&fd| sys::socket_cookie(fd).ok()).collect();
        let known = self.seat.visit(|stack, _| cookies.iter().any(|&c| stack.socket_by_cookie(c).is_some()));
        known.unwrap_or(false)
    }

    fn keep_guard(&mut self, port: u64, fd: RawFd) {
        let Some(port) = PortId::from_raw(port) else { return close(fd) };
        if self.guards.iter().any(|g| g.0 == port) {
            return close(fd);
        }
        self.guards.push((port, fd));
        self.arrived.push(port);
    }

    /// Guards that have arrived are counted. They were when they were sent, but perhaps for the companion before this one. If
    /// nothing needs one any more, it is dropped with the next look at the ports. Under one hold of the lock: whoever sends
    /// many wants it as well, and room in the queue.
    fn count_arrived(&mut self) {
        let arrived = core::mem::take(&mut self.arrived);
        if !arrived.is_empty() {
            self.seat.visit(|stack, _| arrived.iter().for_each(|&port| stack.guard_shown(port)));
            self.swept = u64::MAX;
        }
    }

    /// Another family asks for a guard. The connection then says that we go on with the connections of the port.
    fn give(&mut self, connection: RawFd, request: &Message) {
        // Those that were killed a moment ago listen no more, and what nobody needs is free.
        self.look_after_processes();
        self.look_after_ports();
        let other = request.secret != self.seat.words().companion.secret();
        let given =
            (other && self.may_ask(connection)).then(|| self.give_guard(connection, request)).flatten();
        match given {
            Some(port) => self.given.push(GivenAway { port, connection }),
            None => {
                let _ = Message::new(Subject::Refused).send(connection, &[]);
                close(connection);
            }
        }
    }

    /// Who asks is of our user, or root.
    fn may_ask(&self, connection: RawFd) -> bool {
        // SAFETY: no arguments, cannot fail.
        let me = unsafe { libc::geteuid() };
        sys::peer_user(connection).is_ok_and(|user| user == me || user == 0)
    }

    fn give_guard(&mut self, connection: RawFd, request: &Message) -> Option<PortId> {
        let guards = &self.guards;
        let (port, guard, local) = self
            .seat
            .visit(|stack, _| {
                let port = stack.may_give(request.local, request.flag)?;
                let guard = guards.iter().find(|g| g.0 == port)?.1;
                // Said before the other one begins to answer for the port.
                let local = stack.port_given(port)?;
                Some((port, guard, local))
            })
            .flatten()?;
        let answer = Message { local, ..Message::new(Subject::Given) };
        if answer.send(connection, &[guard]).is_err() {
            // It has gone away meanwhile; our old connections still need the guard.
            self.seat.visit(|stack, _| stack.port_not_given(port));
            return None;
        }
        Some(port)
    }
}
