//! The processes of the family: who is there, and what the end of one means.

use super::{Companion, close};
use engine::shared::Process;
use engine::sys;
use std::os::fd::RawFd;
use std::sync::atomic::Ordering;

/// A process that is watched.
pub struct Watched {
    pid: u32,
    /// Readable when it has ended.
    pub pidfd: RawFd,
}

impl Companion {
    /// Watches those that have come, and closes what those held that have ended.
    pub fn look_after_processes(&mut self) {
        self.several = self.seat.words().processes().filter(|p| !p.is_leaving).nth(1).is_some();
        let there: Vec<Process> = self.seat.words().processes().filter(|p| p.pid != 0).collect();
        for process in &there {
            let known = self.watched.get(&process.holder).is_some_and(|w| w.pid == process.pid);
            if !known && !process.is_expected {
                self.forget(process.holder);
                match watch(process) {
                    Some(pidfd) => {
                        self.watched.insert(process.holder, Watched { pid: process.pid, pidfd });
                    }
                    None => self.ended(*process),
                }
            }
        }
        // An expected child whose parent has ended, before it could say who it is, never was or has ended as well.
        for process in there.iter().filter(|p| p.is_expected) {
            if !lives(process.pid as i32) {
                self.ended(*process);
            }
        }
        let strangers: Vec<u32> = self
            .watched
            .iter()
            .filter(|(holder, w)| !there.iter().any(|p| p.holder == **holder && p.pid == w.pid))
            .map(|(&holder, _)| holder)
            .collect();
        strangers.into_iter().for_each(|holder| self.forget(holder));
        let ended: Vec<Process> = there
            .into_iter()
            .filter(|p| {
                self.watched.get(&p.holder).is_some_and(|w| sys::poll_one(w.pidfd, libc::POLLIN) != 0)
            })
            .collect();
        for process in ended {
            self.forget(process.holder);
            self.ended(process);
        }
    }

    fn forget(&mut self, holder: u32) {
        if let Some(watched) = self.watched.remove(&holder) {
            close(watched.pidfd);
        }
    }

    /// A process has ended. If it has said goodbye, there is nothing to do.
    fn ended(&mut self, process: Process) {
        let words = self.seat.words();
        if !words.processes().any(|p| p == process) {
            return;
        }
        let pid = process.pid;
        let driver = |word: u64| word >> 32 == u64::from(pid);
        for word in [&words.role.holder, &words.role.deputy] {
            let holder = word.load(Ordering::Acquire);
            if !process.is_expected && driver(holder) {
                let _ = word.compare_exchange(holder, 0, Ordering::AcqRel, Ordering::Acquire);
            }
        }
        // The kernel would have seen to what had arrived: the last ACK of a handshake decides whether its peer is told of the end.
        self.seat.drive(|_, _| ());
        self.seat.visit_with_words(|stack, now, words| {
            stack.release_process(now, process.holder);
            if !process.is_expected {
                let event_fds = stack.waiters_of_process_gone(pid);
                words.role.event_fds.fetch_and(!event_fds, Ordering::AcqRel);
            }
            // Counted by threads that may have been killed: made right where it is known what is right.
            if stack.waiter_count() == 0 {
                words.role.sleepers.store(0, Ordering::Release);
            }
            words.role.busy.store(0, Ordering::Release);
            words.process_is_gone(process.holder);
            // Others go on: somebody must watch.
            stack.wake_any(None);
        });
    }

    /// Execs that have happened: the pipe's other end is closed.
    pub fn look_after_execs(&mut self) {
        let happened: Vec<(u32, RawFd)> = self
            .execs
            .iter()
            .copied()
            .filter(|&(_, pipe)| sys::poll_one(pipe, libc::POLLIN) & libc::POLLHUP != 0)
            .collect();
        for (holder, pipe) in happened {
            // It may just be told that it has failed: that was sent before the pipe was closed.
            self.hear();
            if !self.execs.contains(&(holder, pipe)) {
                continue;
            }
            self.execs.retain(|e| *e != (holder, pipe));
            close(pipe);
            self.seat.visit_with_words(|stack, now, words| {
                // The new program may have been faster, and counted what it has.
                if words.is_in_exec(holder) {
                    stack.exec_happened(now, holder);
                    words.process_execs(holder, false);
                    if !stack.holds_anything(holder) {
                        words.process_leaves(holder);
                    }
                }
            });
        }
    }
}

/// It may not be seen where /proc is not, or is another's.
fn lives(pid: i32) -> bool {
    match sys::process_stat(pid) {
        Some((state, _)) => !matches!(state, b'Z' | b'X'),
        None => sys::process_exists(pid),
    }
}

/// A descriptor that tells of its end. `None`: it has ended, and its number may be another's by now.
fn watch(process: &Process) -> Option<RawFd> {
    let pidfd = sys::pidfd_open(process.pid as i32).ok()?;
    let started = sys::process_stat(process.pid as i32).map(|(_, started)| started);
    if process.started != 0 && started.is_some_and(|started| started != process.started) {
        close(pidfd);
        return None;
    }
    Some(pidfd)
}
