//! Signals of the family's sockets, sent by the kernel itself.
//!
//! What a signal of a descriptor says - POLL_IN, SI_KERNEL - one process may not say to another. But the kernel says it, of any
//! descriptor that has an owner: so a pipe, a Unix stream or a fresh TCP socket gets the number of the program's descriptor, its
//! owner and its signal, and then the event happens to it. That needs a table of descriptors in which every number is free, and so a
//! thread of its own, which is there from the first signal on.

use super::close;
use engine::sys::{self, SysResult};
use engine::values::signal::{Event, OwnerKind, Signal};
use std::os::fd::RawFd;
use std::sync::mpsc::{Sender, channel};
use std::thread::{Builder, JoinHandle};

/// close_range(2): in a table of one's own.
const CLOSE_RANGE_UNSHARE: u32 = 2;

/// The way to the thread; none before the first signal, or where there is no thread to be had.
#[derive(Default)]
pub struct Signals {
    to: Option<Sender<Signal>>,
    thread: Option<JoinHandle<()>>,
}

impl Signals {
    pub fn send(&mut self, signal: Signal) {
        if self.to.is_none() {
            let (to, from) = channel::<Signal>();
            let live = move || {
                let alone = sys::close_range(0, u32::MAX, CLOSE_RANGE_UNSHARE).is_ok();
                from.iter().for_each(|signal| deliver(&signal, alone));
            };
            if let Ok(thread) = Builder::new().stack_size(64 * 1024).spawn(live) {
                (self.to, self.thread) = (Some(to), Some(thread));
            }
        }
        match &self.to {
            Some(to) if to.send(signal).is_ok() => {}
            _ => deliver(&signal, false),
        }
    }
}

impl Drop for Signals {
    /// What is to be sent is sent.
    fn drop(&mut self) {
        self.to = None;
        if let Some(thread) = self.thread.take() {
            // One that has panicked sends no more.
            let _ = thread.join();
        }
    }
}

/// `alone`: every number is free in this thread's table.
fn deliver(signal: &Signal, alone: bool) {
    if is_gone(signal) {
        return;
    }
    match if alone { bring_about(signal) } else { Err(libc::EBADF) } {
        // The owner is gone.
        Ok(()) | Err(libc::ESRCH) => {}
        Err(_) => {
            // It may not be told, then.
            let _ = sys::send_signal(signal);
        }
    }
    if alone {
        // Whatever is left.
        let _ = sys::close_range(0, u32::MAX, 0);
    }
}

/// The owner's number is another's by now.
fn is_gone(signal: &Signal) -> bool {
    let to = &signal.to;
    let started = || sys::process_stat(to.id).map(|(_, started)| started);
    to.kind != OwnerKind::Group && to.started != 0 && started().is_some_and(|s| s != to.started)
}

/// The event, of a descriptor with the right number.
fn bring_about(signal: &Signal) -> SysResult<()> {
    let number = signal.to.fd;
    let mut ends = [-1; 2];
    match signal.event {
        Event::Readable => {
            sys::pipe(&mut ends)?;
            let [_, far] = place(ends, 0, number)?;
            sys::arm(number, signal, true)?;
            sys::write(far, b"x")?;
        }
        Event::Writable => {
            sys::pipe(&mut ends)?;
            let [far, _] = place(ends, 1, number)?;
            sys::write(number, b"x")?;
            sys::arm(number, signal, true)?;
            sys::read(far, &mut [0])?;
        }
        Event::HangUp => {
            sys::socketpair(&mut ends)?;
            let [_, far] = place(ends, 0, number)?;
            sys::arm(number, signal, true)?;
            sys::shutdown(far, libc::SHUT_RDWR)?;
        }
        Event::Urgent => {
            sys::socketpair(&mut ends)?;
            let [_, far] = place(ends, 0, number)?;
            sys::arm(number, signal, signal.to.is_async)?;
            sys::send(far, b"x", libc::MSG_OOB)?;
        }
        Event::Error => {
            let fd = sys::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0)?;
            place([fd, -1], 0, number)?;
            sys::arm(number, signal, true)?;
            let unspecified = [0; 16];
            sys::connect(number, &unspecified)?;
        }
    }
    // What happens next to it is no event of the program's.
    close(number);
    Ok(())
}

/// Gives one of the two the number, and the other one a number that is not it.
fn place(mut ends: [RawFd; 2], which: usize, number: RawFd) -> SysResult<[RawFd; 2]> {
    if ends[1 - which] == number {
        ends[1 - which] = sys::fcntl(number, libc::F_DUPFD_CLOEXEC, number as usize + 1)? as RawFd;
    }
    if ends[which] != number {
        sys::dup3(ends[which], number, libc::O_CLOEXEC)?;
        close(ends[which]);
        ends[which] = number;
    }
    Ok(ends)
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::values::signal::Owner;

    const NUMBER: u8 = 44;

    /// What this thread has been sent: signal, code, band and descriptor.
    fn received() -> Vec<(i32, i32, i64, i32)> {
        let mut set = 0u64;
        for signal in [NUMBER.into(), libc::SIGIO, libc::SIGURG] {
            set |= 1 << (signal - 1);
        }
        let mut all = Vec::new();
        loop {
            let (mut info, none) = ([0i32; 32], [0i64; 2]);
            let args = [&raw const set as usize, &raw mut info as usize, &raw const none as usize, 8, 0, 0];
            // SAFETY: pointers to locals of the kernel's sizes.
            let Ok(number) = (unsafe { sys::syscall6(libc::SYS_rt_sigtimedwait, args) }) else { return all };
            let band = i64::from(info[4]) | i64::from(info[5]) << 32;
            all.push((number as i32, info[2], band, info[6]));
        }
    }

    /// Each as the kernel sends it for a TCP socket (c-tests/sigio.c).
    #[test]
    fn the_kernel_says_what_has_happened() {
        let told = std::thread::spawn(|| {
            sys::signal_mask(u64::MAX);
            sys::close_range(0, u32::MAX, CLOSE_RANGE_UNSHARE).unwrap();
            let me = sys::gettid();
            let about = |event, number, is_async| {
                let to =
                    Owner { kind: OwnerKind::Thread, id: me, fd: 0, is_async, number, ..Owner::default() };
                (0..3).map(|fd| Signal::new(Owner { fd, ..to }, event)).for_each(|s| deliver(&s, true));
                received()
            };
            let events = [Event::Readable, Event::Writable, Event::Error, Event::HangUp];
            let spoken = events.map(|e| about(e, NUMBER, true));
            let silent = events.map(|e| about(e, 0, true));
            let urgent = [(0, false), (NUMBER, false), (0, true), (NUMBER, true)];
            (spoken, silent, urgent.map(|(number, is_async)| about(Event::Urgent, number, is_async)))
        });
        let (spoken, silent, urgent) = told.join().unwrap();
        let by_number = |code, band| (0..3).map(|fd| (NUMBER.into(), code, band, fd)).collect::<Vec<_>>();
        assert_eq!(spoken[0], by_number(1, 0x41));
        assert_eq!(spoken[1], by_number(2, 0x304));
        assert_eq!(spoken[2], by_number(4, 0x8));
        assert_eq!(spoken[3], by_number(6, 0x18));
        // They are not queued.
        assert!(silent.iter().all(|s| s[..] == [(libc::SIGIO, 0x80, 0, 0)]), "{silent:?}");
        let sigurg = (libc::SIGURG, 0x80, 0, 0);
        assert_eq!(urgent[0], [sigurg]);
        assert_eq!(urgent[1], [sigurg]);
        assert_eq!(urgent[2], [sigurg, (libc::SIGIO, 0x80, 0, 0)]);
        let last = [(NUMBER.into(), 5, 0x82, 2), (NUMBER.into(), 1, 0x41, 2)];
        assert_eq!(urgent[3][0], sigurg);
        assert_eq!(urgent[3][5..], last);
    }

    #[test]
    fn a_number_that_is_another_processes_by_now_is_let_alone() {
        let me = sys::process_stat(sys::getpid()).unwrap().1;
        let to = |kind, started| Owner { kind, id: sys::getpid(), started, ..Owner::default() };
        assert!(!is_gone(&Signal::new(to(OwnerKind::Process, me), Event::Readable)));
        assert!(is_gone(&Signal::new(to(OwnerKind::Process, me + 1), Event::Readable)));
        assert!(!is_gone(&Signal::new(to(OwnerKind::Process, 0), Event::Readable)));
        assert!(!is_gone(&Signal::new(to(OwnerKind::Group, me + 1), Event::Readable)));
    }
}
