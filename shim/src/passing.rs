//! Descriptors in messages (SCM_RIGHTS). One of ours that is on its way in a Unix socket is held by nobody's table, and the
//! sender may close its own at once: a reference goes with it, which the receiver takes over. One whose message is lost, or
//! goes to a program of another family, keeps its socket open until the family ends. In the arena it is counted for
//! nobody in particular meanwhile.

use crate::abi;
use crate::calls::descriptors;
use crate::errno::{self, Outcome};
use crate::fdtable;
use crate::runtime::{self, Runtime};
use engine::stack::SockId;
use std::os::fd::RawFd;

/// Calls `each` with every descriptor in the control messages of `message`.
fn descriptors_in(message: *const libc::msghdr, mut each: impl FnMut(RawFd)) -> Outcome<()> {
    let m = abi::read(message)?;
    let control = abi::bytes(m.msg_control, m.msg_controllen as usize)?;
    let head = size_of::<libc::cmsghdr>();
    let mut at = 0;
    while at + head <= control.len() {
        let c = abi::read(control[at..].as_ptr().cast::<libc::cmsghdr>())?;
        let len = c.cmsg_len as usize;
        if len < head || len > control.len() - at {
            break;
        }
        if (c.cmsg_level, c.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            for fd in control[at + head..at + len].chunks_exact(size_of::<RawFd>()) {
                each(RawFd::from_ne_bytes([fd[0], fd[1], fd[2], fd[3]]));
            }
        }
        at += len.next_multiple_of(size_of::<usize>());
    }
    Ok(())
}

/// Whether a message can have descriptors in it.
pub fn may_carry(message: *const libc::msghdr) -> bool {
    abi::read(message)
        .is_ok_and(|m| !m.msg_control.is_null() && m.msg_controllen as usize >= size_of::<libc::cmsghdr>())
}

fn ours_in(message: *const libc::msghdr) -> Vec<(&'static Runtime, SockId)> {
    let mut ours = Vec::new();
    // What cannot be read is the kernel's to refuse.
    let _ = descriptors_in(message, |fd| ours.extend(fdtable::socket(fd)));
    ours
}

/// A message is about to be sent: what is ours in it gets a reference.
pub extern "C" fn departing(message: *const libc::msghdr) {
    let _ = errno::run(|| {
        for (rt, id) in ours_in(message) {
            rt.lock()?.stack().retain_in_flight(id);
        }
        Ok(())
    });
}

/// It was not sent after all.
pub extern "C" fn stayed(message: *const libc::msghdr) {
    let failure = errno::get();
    let _ = errno::run(|| {
        for (rt, id) in ours_in(message) {
            let mut locked = rt.lock()?;
            let (stack, now) = locked.stack_now();
            stack.release_in_flight(now, id);
        }
        Ok(())
    });
    errno::set(failure);
}

/// A message was received. What was only peeked at will arrive once more, and this copy has a reference of its own. A process
/// that has no family yet joins that of what it has got.
pub extern "C" fn arrived(message: *const libc::msghdr, peeked: bool) {
    let failure = errno::get();
    let _ = errno::run(|| {
        if runtime::attached().is_some() {
            return descriptors_in(message, |fd| {
                descriptors::forget(fd);
                if peeked {
                    fdtable::recognise(fd)
                } else {
                    fdtable::take_over(fd)
                };
            });
        }
        let mut fds = Vec::new();
        descriptors_in(message, |fd| fds.push(fd))?;
        let Some(rt) = runtime::join_by_message(&fds) else { return Ok(()) };
        for (_, id) in fds.iter().filter_map(|&fd| fdtable::socket(fd)).filter(|_| !peeked) {
            let mut locked = rt.lock()?;
            let (stack, now) = locked.stack_now();
            stack.release_in_flight(now, id);
        }
        Ok(())
    });
    errno::set(failure);
}
