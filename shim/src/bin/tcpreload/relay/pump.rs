//! The relay process: between a connection of ours and the end of a pair whose other end the program has.
//!
//! | from | to | how |
//! | --- | --- | --- |
//! | connection | program | looked at (MSG_PEEK) and written to the pair; it leaves the connection when the program has read it |
//! | program | connection | read and written |
//!
//! So what the program has not read stays in the connection for others that hold it: the shell that has started it, or the engine,
//! for which unread data at the last close is a reset. How much the program has read is known to the byte as long as a descriptor of
//! its own end is held here. That would hide that the program closes its end, and so there is a lock on it (fcntl(2)) which the
//! program has without knowing, until it closes a descriptor of it or ends; a thread waits for that. From then on a part of
//! what was written counts as read when all of it was.
//!
//! Others that use the connection ask first (`engine::shared::relay`), and are answered when what the program did is done.

use super::{close, lock};
use engine::shared::relay::{self, LEVEL, Question, RELAYED};
use engine::sys;
use std::os::fd::RawFd;

/// What may be on its way to the program, and has not been read.
const IN_FLIGHT: usize = 64 * 1024;
/// What is read from the program at a time.
const PIECE: usize = 64 * 1024;

/// What a relay is started with.
pub struct Ends {
    pub connection: RawFd,
    pub program: RawFd,
    pub relay: RawFd,
    /// Closed at its other end when the program has begun.
    pub go: RawFd,
    /// Written to when the relay is there.
    pub ready: RawFd,
}

/// Does not return.
pub fn run(ends: Ends) -> ! {
    let done = std::panic::catch_unwind(|| {
        if let Some(mut pump) = Pump::prepare(ends) {
            pump.pump();
            pump.say_who(0);
        }
    });
    // SAFETY: ends the process, and with it what it holds of the connection.
    unsafe { libc::_exit(i32::from(done.is_err())) }
}

struct Pump {
    /// The connection.
    tcp: RawFd,
    /// This end of the pair.
    end: RawFd,
    /// The program's, as long as the program has closed no descriptor of it.
    theirs: Option<RawFd>,
    listening: RawFd,
    epoll: RawFd,
    /// Readable when the program has closed a descriptor, or ended.
    left: RawFd,
    /// Bytes that were given to the program, and are in the connection still.
    given: usize,
    buffer: Vec<u8>,
    /// What the program has written and the connection has not taken.
    out: Vec<u8>,
    out_at: usize,
    /// Nothing more goes to the program.
    inward_done: bool,
    /// Nothing more comes from the program.
    outward_done: bool,
    /// The program was ended with data unread.
    left_unread: bool,
    /// The connection was reset, or is broken otherwise.
    broken: bool,
    /// All of the program's descriptors are closed.
    gone: bool,
    /// Those who wait for what was written to be in the connection.
    askers: Vec<RawFd>,
}

impl Pump {
    fn prepare(ends: Ends) -> Option<Pump> {
        // SAFETY: numbers.
        let tcp = unsafe { libc::fcntl(ends.connection, libc::F_DUPFD_CLOEXEC, 3) };
        let null = sys::open(c"/dev/null", libc::O_RDWR | libc::O_CLOEXEC).ok()?;
        (0..=2).for_each(|number| super::put(null, number));
        close_but([tcp, ends.program, ends.relay, ends.go, ends.ready]);
        sys::default_signals();
        // The connection's own call says so without it; the pair's are told not to.
        sys::signal_mask(0);
        let _ = sys::change_directory(c"/");
        let name = sys::random_seed()[0] | 1;
        let listening = relay::listen(name).ok()?;
        // SAFETY: numbers.
        let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        let left = sys::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK).ok()?;
        let pump = Pump {
            tcp,
            end: ends.relay,
            theirs: Some(ends.program),
            listening,
            epoll,
            left,
            given: 0,
            buffer: vec![0; IN_FLIGHT],
            out: Vec::with_capacity(PIECE),
            out_at: 0,
            inward_done: false,
            outward_done: false,
            left_unread: false,
            broken: false,
            gone: false,
            askers: Vec::new(),
        };
        let edges = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;
        pump.watch(tcp, edges)?;
        pump.watch(pump.end, edges)?;
        pump.watch(listening, libc::EPOLLIN)?;
        pump.watch(left, libc::EPOLLIN)?;
        // Without a place in the list nobody waits for it, and it serves all the same.
        pump.say_who(name);
        sys::write(ends.ready, &[1]).ok()?;
        close(ends.ready);
        while sys::read(ends.go, &mut [0]) == Err(libc::EINTR) {}
        close(ends.go);
        let theirs = ends.program;
        std::thread::spawn(move || {
            while !lock(theirs, libc::F_SETLKW)
                && std::io::Error::last_os_error().kind() == std::io::ErrorKind::Interrupted
            {}
            sys::ring(left);
        });
        Some(pump)
    }

    fn watch(&self, fd: RawFd, events: i32) -> Option<()> {
        let mut event = libc::epoll_event { events: events as u32, u64: fd as u64 };
        // SAFETY: the struct is a local.
        let added = unsafe { libc::epoll_ctl(self.epoll, libc::EPOLL_CTL_ADD, fd, &raw mut event) };
        (added == 0).then_some(())
    }

    /// Whose relay this process is: others find it under that name; 0: nobody's any more.
    fn say_who(&self, name: u64) {
        let len = size_of::<u64>() as libc::socklen_t;
        // SAFETY: the number is a local.
        unsafe { libc::setsockopt(self.tcp, LEVEL, RELAYED, (&raw const name).cast(), len) };
    }

    /// All events are edges: nothing is waited for before everything was tried.
    fn pump(&mut self) {
        loop {
            let moved = self.settle() | self.inward() | self.outward();
            if moved {
                continue;
            }
            if self.out.is_empty() {
                self.answer();
                if self.gone {
                    return;
                }
            }
            self.wait();
        }
    }

    fn wait(&mut self) {
        // SAFETY: all zero is a value of it.
        let mut events: [libc::epoll_event; 8] = unsafe { core::mem::zeroed() };
        // SAFETY: room for eight.
        let n = unsafe { libc::epoll_wait(self.epoll, events.as_mut_ptr(), 8, -1) };
        for event in events.iter().take(n.max(0) as usize) {
            let fd = event.u64 as RawFd;
            if fd == self.left {
                self.let_go();
            } else if fd == self.listening {
                self.serve();
            }
        }
    }

    // ---------------------------------------------------------------------------------------------------- to the program

    /// What the program has read leaves the connection.
    fn settle(&mut self) -> bool {
        if self.given == 0 {
            return false;
        }
        let read = self.given.saturating_sub(self.unread());
        let mut left = read;
        while left > 0 {
            match receive(self.tcp, &mut self.buffer[..left], libc::MSG_TRUNC) {
                Ok(n @ 1..) => left -= n,
                // Somebody else has read it.
                _ => break,
            }
        }
        self.given -= read;
        read > 0
    }

    /// How much of what was given the program has not read. Once it may have closed its end, this is all or nothing.
    fn unread(&mut self) -> usize {
        if let Some(theirs) = self.theirs {
            return ioctl(theirs, libc::FIONREAD).min(self.given);
        }
        // In this order: at the end of the program the error is there before the queue is emptied.
        let queued = ioctl(self.end, libc::TIOCOUTQ);
        self.left_unread |=
            sys::getsockopt_int(self.end, libc::SOL_SOCKET, libc::SO_ERROR) == Ok(libc::ECONNRESET);
        // The last of them may still be counted, as one, while this end is told of its end.
        if queued > 1 || self.left_unread { self.given } else { 0 }
    }

    /// From the connection to the program.
    fn inward(&mut self) -> bool {
        if self.inward_done || IN_FLIGHT - self.given < IN_FLIGHT / 4 {
            return false;
        }
        match receive(self.tcp, &mut self.buffer, libc::MSG_PEEK) {
            Ok(n) if n > self.given => match send(self.end, &self.buffer[self.given..n]) {
                Ok(n) => {
                    self.given += n;
                    true
                }
                Err(libc::EAGAIN) => false,
                // It reads no more.
                Err(_) => self.end_inward(),
            },
            // The end is seen when the program has read all that came before it.
            Ok(0) if self.given == 0 && !self.broken => {
                let _ = sys::shutdown(self.end, libc::SHUT_WR);
                self.end_inward()
            }
            Ok(0) if self.given == 0 => self.break_off(),
            Err(errno) if errno != libc::EAGAIN && errno != libc::EINTR => self.break_off(),
            _ => false,
        }
    }

    fn end_inward(&mut self) -> bool {
        self.inward_done = true;
        true
    }

    /// The connection is broken, and the program has got what came before: its next read says ECONNRESET, its next write EPIPE.
    fn break_off(&mut self) -> bool {
        self.broken = true;
        self.inward_done = true;
        self.outward_done = true;
        self.out.clear();
        // A Unix socket is reset when it is closed with data unread.
        let unread = self.theirs.is_some_and(|theirs| send(theirs, &[0]).is_ok());
        if unread {
            // The number stays this end's, for who looks at it.
            let _ = sys::open(c"/dev/null", libc::O_RDWR | libc::O_CLOEXEC).map(|null| {
                super::put(null, self.end);
                close(null);
            });
        } else {
            let _ = sys::shutdown(self.end, libc::SHUT_RDWR);
        }
        if self.theirs.is_none() {
            self.gone = true;
        }
        true
    }

    // -------------------------------------------------------------------------------------------------- from the program

    /// From the program to the connection.
    fn outward(&mut self) -> bool {
        if self.out.is_empty() && !self.outward_done {
            self.out.resize(PIECE, 0);
            let got = receive(self.end, &mut self.out, 0);
            self.out.truncate(*got.as_ref().unwrap_or(&0));
            self.out_at = 0;
            match got {
                Ok(0) => return self.end_outward(),
                Err(libc::ECONNRESET) => {
                    self.left_unread = true;
                    return true;
                }
                _ => {}
            }
        }
        if self.out.is_empty() {
            // It has said its end before.
            if self.outward_done
                && self.theirs.is_none()
                && !self.gone
                && state(self.end) & libc::POLLHUP != 0
            {
                self.gone = true;
                return true;
            }
            return false;
        }
        match send(self.tcp, &self.out[self.out_at..]) {
            Ok(n) => {
                self.out_at += n;
                if self.out_at == self.out.len() {
                    self.out.clear();
                }
                true
            }
            Err(libc::EAGAIN | libc::EINTR) => false,
            Err(errno) => {
                // What was received comes before an error; a shut-down direction is none.
                self.broken |= errno != libc::EPIPE || state(self.tcp) & libc::POLLHUP != 0;
                self.out.clear();
                self.outward_done = true;
                let _ = sys::shutdown(self.end, libc::SHUT_RD);
                true
            }
        }
    }

    /// The program writes no more: it has said so, or all of its descriptors are closed.
    fn end_outward(&mut self) -> bool {
        self.outward_done = true;
        if self.theirs.is_none() && state(self.end) & libc::POLLHUP != 0 {
            self.gone = true;
        } else {
            // SAFETY: numbers.
            unsafe { libc::shutdown(self.tcp, libc::SHUT_WR) };
        }
        true
    }

    /// The program has closed a descriptor of its end, or ended: without ours the rest is seen.
    fn let_go(&mut self) {
        let _ = sys::read(self.left, &mut [0; 8]);
        self.settle();
        if let Some(theirs) = self.theirs.take() {
            close(theirs);
        }
        if self.broken && self.inward_done {
            self.gone = true;
        }
    }

    // ---------------------------------------------------------------------------------------------------------- questions

    fn serve(&mut self) {
        while let Ok(asker) = sys::accept(self.listening) {
            let mut fds = [libc::pollfd { fd: asker, events: libc::POLLIN, revents: 0 }];
            let _ = sys::ppoll(&mut fds, Some(core::time::Duration::from_secs(1)), None);
            match relay::question(asker) {
                Some(Question::Written) => self.askers.push(asker),
                Some(Question::Read) => {
                    self.settle();
                    close(asker);
                }
                Some(Question::WrittenNow) => {
                    while self.outward() {}
                    close(asker);
                }
                None => close(asker),
            }
        }
    }

    /// All that the program has written is in the connection.
    fn answer(&mut self) {
        self.askers.drain(..).for_each(close);
    }
}

/// Closes all but these, and what the library keeps.
fn close_but(mut keep: [RawFd; 5]) {
    keep.sort_unstable();
    let mut from = 3;
    for fd in keep.into_iter().map(|fd| fd as u32).chain([u32::MAX]) {
        if from < fd {
            // SAFETY: descriptors that nothing here uses.
            unsafe { libc::close_range(from, fd - 1, 0) };
        }
        from = fd.saturating_add(1);
    }
}

/// What poll(2) says of it now.
fn state(fd: RawFd) -> i16 {
    let mut one = libc::pollfd { fd, events: libc::POLLRDHUP, revents: 0 };
    // SAFETY: the struct is a local.
    unsafe { libc::poll(&raw mut one, 1, 0) };
    one.revents
}

fn ioctl(fd: RawFd, request: libc::Ioctl) -> usize {
    let mut n: libc::c_int = 0;
    // SAFETY: these give a number.
    let answer = unsafe { libc::ioctl(fd, request, &raw mut n) };
    if answer == 0 { n.max(0) as usize } else { 0 }
}

fn receive(fd: RawFd, into: &mut [u8], flags: i32) -> Result<usize, i32> {
    // SAFETY: the slice is writable.
    let n = unsafe { libc::recv(fd, into.as_mut_ptr().cast(), into.len(), flags | libc::MSG_DONTWAIT) };
    usize::try_from(n).map_err(|_| errno())
}

fn send(fd: RawFd, data: &[u8]) -> Result<usize, i32> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the slice is readable.
    let n = unsafe { libc::send(fd, data.as_ptr().cast(), data.len(), flags) };
    usize::try_from(n).map_err(|_| errno())
}

fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}
