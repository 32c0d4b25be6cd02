//! `tcpreload --companion`: the small process beside each arena, started by the library with nothing but the engine's
//! descriptors. It stands in for the kernel where a library cannot:
//!
//! - **Death is close.** It watches the processes of the family. What one held that ended without a word is closed: data that
//!   was written still goes out, and then the FIN; a RST where data was left unread.
//! - **It keeps the guards**, so that the kernel does not reset connections that outlive their program, and gives one up to
//!   another family that wants to listen on its port, by the rules that Linux has for bind(2).
//! - **It drives when nobody waits**: handshakes, acknowledgments and retransmissions go on while the program computes.
//! - It passes the arena on to a program that is started, by exec, with sockets of ours.
//!
//! It costs nothing while the program drives. As long as a thread of the family waits on the packet sockets, it sleeps until
//! somebody rings, which the thread does when it gives that up after a long wait. While the family is busy it looks every few
//! milliseconds whether somebody has taken a turn lately. If nobody has, and nobody waits, it watches the packet sockets itself.
//! So it wakes neither for a packet that the program takes, nor at all while everything idles.
//!
//! It also sends the signals of the family's sockets (SIGIO), which look as if the kernel had sent them: it has.
//!
//! It ends when the family has ended and the arena is empty, TIME-WAIT included. Asked to end earlier (SIGTERM, which whoever
//! stops a service sends to all of its processes), it stays as long as the family does, and then only finishes what is owed.

mod family;
mod requests;
mod seat;
mod signals;

use core::cell::Cell;
use core::time::Duration;
use engine::shared::messages::Message;
use engine::shared::words::sleep;
use engine::stack::{COMPANION, IN_FLIGHT, PortId, Stack};
use engine::sys;
use engine::values::Instant;
use family::Watched;
use requests::{Connection, GivenAway};
use seat::{Descriptors, Seat};
use signals::Signals;
use std::collections::BTreeMap;
use std::ffi::{CString, OsString};
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;
use std::sync::atomic::{Ordering, fence};

/// The argument that starts it, before the descriptors and the file for the counters.
pub const ARGUMENT: &str = "--companion";

/// How often it looks while the family is busy. Nothing is sent or acknowledged later than that.
const TICK_US: u64 = 4_000;
/// A driver that has waited for this long is one that waits.
const SETTLED_US: u64 = 20_000;
/// How often it looks, in a family of several processes, whether the driver has been stopped: while the family was active
/// lately, and after that.
const STOPPED_US: u64 = 100_000;
const STOPPED_IDLE_US: u64 = 1_000_000;
const IDLE_US: u64 = 10_000_000;

/// How long it takes to finish what is owed when it was asked to end.
const GRACE_US: u64 = 10_000_000;

/// Families that have ended and are only in TIME-WAIT, in one network namespace. Beyond that it ends at once, as Linux
/// ends one beyond tcp_max_tw_buckets: a shell that starts thousands of clients must not be left with as many processes.
const RESTING: u32 = 16;

struct Companion {
    seat: Seat,
    /// Signals that ask it to end.
    signals: RawFd,
    /// Since when it is asked to.
    asked_to_end: Option<Instant>,
    /// Something was said, or may have been.
    called: bool,
    /// The socket that it is asked by.
    listening: RawFd,
    connections: Vec<Connection>,
    /// Who wants a guard, and what of.
    asked: Vec<(RawFd, Message)>,
    watched: BTreeMap<u32, Watched>,
    /// The family has more than one process.
    several: bool,
    /// Execs under way: whose, and the pipe that ends with it.
    execs: Vec<(u32, RawFd)>,
    guards: Vec<(PortId, RawFd)>,
    /// Of those, the ones that have just come.
    arrived: Vec<PortId>,
    /// Ports whose guard is another family's now, with the connection that tells it that we go on.
    given: Vec<GivenAway>,
    /// Ports whose guard was another family's, with the connection that tells that it goes on.
    guests: Vec<(PortId, RawFd)>,
    /// What the stack's count of ports given up was when the guards were looked through.
    swept: u64,
    /// What the family's heartbeat was, and when that was noticed to be new.
    heartbeat: u64,
    beat_at: Instant,
    /// Frames waited at the last look at a driver that may have been stopped.
    waited: bool,
    stats: Option<CString>,
    sender: Signals,
    /// The place among the families in TIME-WAIT.
    rest: Option<RawFd>,
}

/// How to sleep next.
enum Mode {
    /// Until something is said, or for a time.
    Sleep { how: u32, at_most_us: Option<u64> },
    /// On the packet sockets.
    Watch,
}

/// Runs until the family is gone.
pub fn run(args: &[OsString]) -> ExitCode {
    let text = args.get(2).and_then(|a| a.to_str()).unwrap_or_default();
    let Some(descriptors) = Descriptors::parse(text) else {
        eprintln!("tcpreload: {ARGUMENT} is for the library");
        return ExitCode::FAILURE;
    };
    let stats = args.get(3).filter(|a| !a.is_empty()).and_then(|a| CString::new(a.as_bytes()).ok());
    match Companion::new(&descriptors, stats) {
        Ok(mut companion) => {
            companion.live();
            ExitCode::SUCCESS
        }
        // Nobody listens: the library finds out that it has not come up.
        Err(_) => ExitCode::FAILURE,
    }
}

impl Companion {
    fn new(descriptors: &Descriptors, stats: Option<CString>) -> Result<Companion, String> {
        let signals = settle_down();
        let mut seat = Seat::take(descriptors)?;
        // From here on the kernel notes its death.
        seat.words().companion.life.lock();
        seat.words().companion.pid.store(sys::getpid() as u32, Ordering::Release);
        seat.words().companion.sleep.store(sleep::LIGHT, Ordering::Release);
        let broken = "the lock is broken";
        let swept = seat.visit(|stack, now| {
            // What the one before it had.
            stack.release_process(now, COMPANION);
            stack.guests_forgotten();
            stack.ports_given_up()
        });
        Ok(Companion {
            seat,
            signals,
            asked_to_end: None,
            called: true,
            listening: descriptors.listening,
            connections: Vec::new(),
            asked: Vec::new(),
            watched: BTreeMap::new(),
            several: false,
            execs: Vec::new(),
            guards: Vec::new(),
            arrived: Vec::new(),
            given: Vec::new(),
            guests: Vec::new(),
            swept: swept.ok_or(broken)?,
            heartbeat: 0,
            beat_at: sys::monotonic_now(),
            waited: false,
            stats,
            sender: Signals::default(),
            rest: None,
        })
    }

    fn live(&mut self) {
        loop {
            if core::mem::take(&mut self.called) {
                self.attend();
            }
            if self.is_over() {
                return;
            }
            self.send_what_waits();
            self.send_signals();
            match self.mode() {
                Mode::Watch => self.watch(),
                Mode::Sleep { how, at_most_us } => self.sleep(how, at_most_us),
            }
        }
    }

    /// Everything but the network.
    fn attend(&mut self) {
        if self.asked_to_end.is_none() && sys::poll_one(self.signals, libc::POLLIN) != 0 {
            self.asked_to_end = Some(sys::monotonic_now());
            close(core::mem::replace(&mut self.signals, -1));
        }
        self.hear();
        self.look_after_execs();
        self.look_after_processes();
        self.answer();
        self.look_after_ports();
        if self.seat.words().companion.signals.swap(0, Ordering::AcqRel) != 0 {
            // They come out with the lock.
            self.seat.visit(|_, _| ());
        }
    }

    /// Guards of ports that nothing needs any more are dropped, and so are connections about ports.
    pub fn look_after_ports(&mut self) {
        let (guards, given, swept) = (&mut self.guards, &mut self.given, self.swept);
        let dropped = Cell::new(Vec::new());
        let drop_dead = |stack: &mut Stack| {
            let mut dead = dropped.take();
            if stack.ports_given_up() != swept {
                guards.retain(|&(port, fd)| {
                    let alive = stack.port_is_alive(port);
                    if !alive {
                        close(fd);
                        dead.push(port);
                    }
                    alive
                });
            }
            let any = !dead.is_empty();
            dropped.set(dead);
            any
        };
        // What came while they were open the kernel has dropped: it is answered in between.
        let done = self.seat.visit_after(drop_dead, |stack, _| {
            let now = stack.ports_given_up();
            dropped.take().into_iter().for_each(|port| stack.port_copy_gone(port));
            given.retain(|g| {
                let goes_on = stack.port_in_use(g.port);
                if !goes_on {
                    close(g.connection);
                }
                goes_on
            });
            now
        });
        if let Some(swept) = done {
            self.swept = swept;
        }
    }

    fn mode(&mut self) -> Mode {
        let now = sys::monotonic_now();
        let role = &self.seat.words().role;
        let beat = role.heartbeat_us.load(Ordering::Relaxed);
        let is_new = beat != self.heartbeat;
        if is_new {
            self.heartbeat = beat;
            self.beat_at = now;
        }
        let quiet_us = now.us_since(self.beat_at);
        if self.somebody_waits() {
            if quiet_us < SETTLED_US || self.held_us() != 0 {
                return Mode::Sleep { how: sleep::LIGHT, at_most_us: Some(TICK_US) };
            }
            if self.several && self.is_driver_stopped(is_new) {
                return Mode::Watch;
            }
            let look_us = if quiet_us < IDLE_US { STOPPED_US } else { STOPPED_IDLE_US };
            return Mode::Sleep { how: sleep::DEEP, at_most_us: self.several.then_some(look_us) };
        }
        self.waited = false;
        if quiet_us < TICK_US {
            Mode::Sleep { how: sleep::LIGHT, at_most_us: Some(TICK_US) }
        } else {
            Mode::Watch
        }
    }

    /// Something that could be sent has waited for more so long that the thread it comes from must have other things to do.
    fn send_what_waits(&mut self) {
        let held = self.held_us();
        if held != 0 && sys::monotonic_now().us_since(Instant::from_us(held)) >= TICK_US / 2 {
            // What is sent leaves with the lock.
            self.seat.visit(|_, _| ());
        }
    }

    /// Signals that were due when the lock was last given back.
    fn send_signals(&mut self) {
        for signal in self.seat.signals.drain(..) {
            self.sender.send(signal);
        }
    }

    fn held_us(&self) -> u64 {
        self.seat.words().role.held_us.load(Ordering::SeqCst)
    }

    /// A thread of the family watches the packet sockets, or looks at them every so often.
    fn somebody_waits(&self) -> bool {
        let role = &self.seat.words().role;
        role.holder.load(Ordering::SeqCst) != 0 || role.deputy.load(Ordering::SeqCst) != 0
    }

    /// Frames that waited at the last look wait still, and nobody has taken a turn in between.
    fn is_driver_stopped(&mut self, has_beaten: bool) -> bool {
        let wait = self.seat.frames_wait();
        let stopped = wait && self.waited && !has_beaten;
        self.waited = wait;
        stopped
    }

    /// Runs the stack, and waits for frames and timers.
    fn watch(&mut self) {
        let (mut deadline, swept) = (None, self.swept);
        let mut given_up = swept;
        self.seat.drive(|stack, words| {
            let next = stack.next_deadline();
            given_up = stack.ports_given_up();
            let until = next.unwrap_or(Instant::FAR);
            words.companion.deadline_us.store(until.as_us(), Ordering::Release);
            words.companion.sleep.store(sleep::WATCHING, Ordering::Release);
            deadline = next;
        });
        // What the turn has ended may be what we live for, and what we keep guards for.
        if !self.seat.words().has_members() && self.is_over() {
            return;
        }
        self.send_signals();
        self.called |= given_up != swept;
        let mut left = deadline.map(|d| d.us_since(sys::monotonic_now()));
        if self.called {
            left = Some(0);
        }
        self.wait(left, true);
        self.seat.words().companion.sleep.store(sleep::LIGHT, Ordering::Release);
    }

    fn sleep(&mut self, how: u32, at_most_us: Option<u64>) {
        self.seat.words().companion.sleep.store(how, Ordering::SeqCst);
        // First said, then looked; whoever gives the driving up does it the other way round.
        fence(Ordering::SeqCst);
        if how != sleep::DEEP || (self.somebody_waits() && self.held_us() == 0) {
            self.wait(at_most_us, false);
        }
        self.seat.words().companion.sleep.store(sleep::LIGHT, Ordering::SeqCst);
    }

    /// Waits for whatever may be said to it, and for frames if `frames`.
    fn wait(&mut self, at_most_us: Option<u64>, frames: bool) {
        let mut fds: Vec<libc::pollfd> = Vec::with_capacity(16);
        let mut add = |fd: RawFd, events: i16| fds.push(libc::pollfd { fd, events, revents: 0 });
        add(self.seat.bell(), libc::POLLIN);
        add(self.listening, libc::POLLIN);
        add(self.signals, libc::POLLIN);
        self.watched.values().for_each(|w| add(w.pidfd, libc::POLLIN));
        // The end of a pipe is told without being asked for, and so is that of a connection.
        self.execs.iter().for_each(|e| add(e.1, 0));
        self.guests.iter().for_each(|g| add(g.1, 0));
        self.connections.iter().for_each(|c| add(c.fd, c.events()));
        let spoken = fds.len();
        let mut add = |fd: RawFd, events: i16| fds.push(libc::pollfd { fd, events, revents: 0 });
        if frames {
            self.seat.rings().iter().for_each(|&fd| add(fd, libc::POLLIN));
        }
        // No signal can interrupt it.
        let _ = sys::ppoll(&mut fds, at_most_us.map(Duration::from_micros), None);
        self.called |= fds[..spoken].iter().any(|f| f.revents != 0);
        if fds[0].revents != 0 {
            let _ = sys::read(self.seat.bell(), &mut [0; 8]);
        }
    }

    /// The family is gone, and nothing is left to do for it.
    fn is_over(&mut self) -> bool {
        if self.seat.words().has_members() {
            return false;
        }
        if self.seat.frames_wait() {
            // Whoever has sent it is to be answered, the last time.
            self.seat.drive(|_, _| ());
        }
        let left = self.seat.visit(|stack, now| {
            // What was on its way in messages arrives nowhere any more.
            stack.release_process(now, IN_FLIGHT);
            (stack.has_unfinished_business(), stack.has_connections())
        });
        match left {
            None => true,
            Some((unfinished, connections)) => {
                let asked_us = self.asked_to_end.map(|at| sys::monotonic_now().us_since(at));
                if unfinished && asked_us.is_none_or(|us| us < GRACE_US) {
                    return false;
                }
                self.write_stats();
                !connections || asked_us.is_some() || !self.may_rest()
            }
        }
    }

    /// Whether there is a place among the families in TIME-WAIT. A place is a name that one process can have.
    fn may_rest(&mut self) -> bool {
        if self.rest.is_none() {
            self.rest = (0..RESTING).find_map(|n| {
                let fd = sys::socket(libc::AF_UNIX, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0).ok()?;
                let mut name = (libc::AF_UNIX as u16).to_ne_bytes().to_vec();
                name.extend_from_slice(format!("\0tcpreload-rests/{n}").as_bytes());
                sys::bind(fd, &name).map(|()| fd).inspect_err(|_| close(fd)).ok()
            });
        }
        self.rest.is_some()
    }

    /// TCPRELOAD_STATS, once.
    fn write_stats(&mut self) {
        let Some(path) = &self.stats else { return };
        if self.seat.words().companion.stats_written.swap(1, Ordering::AcqRel) != 0 {
            return;
        }
        let Some(line) = self.seat.visit(|stack, _| stack.counters().to_json_line()) else { return };
        // Where the file cannot be written there is nobody to be told: the program is gone, and so is its standard error.
        if let Ok(fd) = sys::open(path, libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND | libc::O_CLOEXEC) {
            let _ = sys::write(fd, line.as_bytes());
            close(fd);
        }
    }
}

fn close(fd: RawFd) {
    // A descriptor of our own, which is open.
    let _ = sys::close(fd);
}

/// What a process needs that nobody started and nobody waits for: standard descriptors that lead nowhere, room for the
/// family's guards, and no privilege. Gives the descriptor of the signals that ask it to end.
fn settle_down() -> RawFd {
    while let Ok(null) = sys::open(c"/dev/null", libc::O_RDWR) {
        if null > 2 {
            close(null);
            break;
        }
    }
    if let Ok((soft, hard)) = sys::getrlimit(libc::RLIMIT_NOFILE as u32)
        && soft < hard
    {
        // Where it cannot be raised there is less room.
        let _ = sys::setrlimit(libc::RLIMIT_NOFILE as u32, (hard, hard));
    }
    // Its sockets were made by the library; to use them takes no capability.
    for set in [caps::CapSet::Ambient, caps::CapSet::Effective, caps::CapSet::Permitted] {
        // A kernel without ambient capabilities has none to drop.
        let _ = caps::clear(None, set);
    }
    let _ = sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1);
    let asking = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT];
    // Without it a signal ends us, and the family starts another.
    sys::signalfd(asking.iter().fold(0, |mask, signal| mask | 1 << (signal - 1))).unwrap_or(-1)
}
