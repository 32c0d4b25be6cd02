//! Bytes in and out.

use crate::abi::{self, Cursor};
use crate::block;
use crate::calls::socket::{waiting_to_receive, waiting_to_send};
use crate::errno::{Errno, Outcome};
use crate::round;
use crate::runtime::{Locked, Runtime};
use engine::stack::{Ready, RecvFlags, SendFlags, SockId};
use engine::sys;
use engine::values::Error;
use std::os::fd::RawFd;

/// Bytes that sendfile and splice carry at a time.
const CARRY: usize = 64 * 1024;

/// send, write, and all their relatives: blocks until everything is in the send buffer, or returns what was taken.
///
/// # Errors
/// EAGAIN, EPIPE (with SIGPIPE unless `flags` has MSG_NOSIGNAL), ECONNRESET ..., EFAULT, EINTR.
pub fn send(rt: &Runtime, id: SockId, mut data: Cursor, flags: i32) -> Outcome<usize> {
    if flags & libc::MSG_OOB != 0 {
        return Err(Errno(libc::EOPNOTSUPP));
    }
    let mut fault = None;
    let more = flags & libc::MSG_MORE != 0;
    let mut locked = rt.lock()?;
    locked.be_patient();
    round::answers();
    let waiting = waiting_to_send(&mut locked, id)?.or_nonblocking(flags & libc::MSG_DONTWAIT != 0);
    let result = block::until(locked, &waiting, |l, interrupted| {
        match send_some(l, id, &mut data, more, &mut fault) {
            Err(Error::WouldBlock) if interrupted && data.done > 0 => Ok(()),
            other => other,
        }
    });
    if data.done > 0 {
        return Ok(data.done);
    }
    match (result, fault) {
        (_, Some(errno)) => Err(errno),
        (Ok(()), None) => Ok(0),
        (Err(errno), None) => {
            if errno.0 == libc::EPIPE && flags & libc::MSG_NOSIGNAL == 0 && !crate::confined::is_confined() {
                let _ = sys::tgkill(sys::getpid(), sys::gettid(), libc::SIGPIPE);
            }
            Err(errno)
        }
    }
}

/// As much as the send buffer takes; WouldBlock while something is left.
fn send_some(
    l: &mut Locked,
    id: SockId,
    data: &mut Cursor,
    more: bool,
    fault: &mut Option<Errno>,
) -> Result<(), Error> {
    loop {
        let piece = match data.readable() {
            Ok(Some(piece)) => piece,
            Ok(None) => {
                // A call without bytes still tells of errors.
                if data.total == 0 {
                    let (stack, now) = l.stack_now();
                    stack.send(now, id, &[], SendFlags { more })?;
                }
                return Ok(());
            }
            Err(errno) => {
                *fault = Some(errno);
                return Ok(());
            }
        };
        let last = data.done + piece.len() >= data.total;
        let (stack, now) = l.stack_now();
        let n = stack.send(now, id, &[piece], SendFlags { more: more || !last })?;
        data.advance(n);
    }
}

/// read, readv: as [`recv`], but nothing is asked of the socket for nothing (the kernel's read path returns first).
///
/// # Errors
/// As [`recv`].
pub fn read(rt: &Runtime, id: SockId, data: Cursor) -> Outcome<usize> {
    if data.total == 0 { Ok(0) } else { recv(rt, id, data, 0) }
}

/// recv and its relatives.
///
/// # Errors
/// EAGAIN, ENOTCONN, ECONNRESET ..., EFAULT, EINTR, EINVAL (MSG_OOB without urgent data).
pub fn recv(rt: &Runtime, id: SockId, mut data: Cursor, flags: i32) -> Outcome<usize> {
    if flags & libc::MSG_OOB != 0 {
        let listening = rt.lock()?.stack().is_listening(id);
        return Err(Errno(if listening { libc::ENOTCONN } else { libc::EINVAL }));
    }
    if flags & libc::MSG_ERRQUEUE != 0 {
        return Err(Errno(libc::EAGAIN));
    }
    let how = RecvFlags { peek: flags & libc::MSG_PEEK != 0, discard: flags & libc::MSG_TRUNC != 0 };
    let wait_all = flags & libc::MSG_WAITALL != 0 && data.total > 0;
    let mut fault = None;
    let mut locked = rt.lock()?;
    locked.be_patient();
    let waiting = waiting_to_receive(&mut locked, id, Ready::IN | Ready::RDHUP, false)?
        .or_nonblocking(flags & libc::MSG_DONTWAIT != 0);
    let result = block::until(locked, &waiting, |l, interrupted| {
        match recv_some(l, id, &mut data, how, wait_all, &mut fault) {
            Err(Error::WouldBlock) if interrupted && data.done > 0 => Ok(()),
            other => other,
        }
    });
    if data.done > 0 {
        return Ok(data.done);
    }
    match (result, fault) {
        (_, Some(errno)) => Err(errno),
        (Ok(()), None) => Ok(0),
        (Err(errno), None) => Err(errno),
    }
}

/// What is there, up to the end of the buffers. WouldBlock: nothing yet, or not all of what MSG_WAITALL wants.
fn recv_some(
    l: &mut Locked,
    id: SockId,
    data: &mut Cursor,
    how: RecvFlags,
    wait_all: bool,
    fault: &mut Option<Errno>,
) -> Result<(), Error> {
    if data.total == 0 {
        return recv_nothing(l, id);
    }
    loop {
        let piece = match piece_of(data, how) {
            Ok(Some(piece)) => piece,
            Ok(None) => return Ok(()),
            Err(errno) => {
                *fault = Some(errno);
                return Ok(());
            }
        };
        let offset = if how.peek { data.done } else { 0 };
        let (stack, now) = l.stack_now();
        let n = match stack.recv(now, id, &mut [piece], how, offset) {
            // The end of what is there: enough, unless all was asked for.
            Err(Error::WouldBlock) if data.done > 0 && !wait_all => return Ok(()),
            other => other?,
        };
        if n == 0 {
            return Ok(());
        }
        data.advance(n);
    }
}

fn piece_of<'a>(data: &mut Cursor<'a>, how: RecvFlags) -> Outcome<Option<&'a mut [u8]>> {
    if how.discard {
        // MSG_TRUNC drops the bytes: the buffer need not exist, only its length counts.
        let left = data.total - data.done;
        if left == 0 {
            return Ok(None);
        }
        return Ok(Some(discarded(left)));
    }
    data.writable()
}

/// A place for bytes that nobody wants: never written, see RecvFlags::discard.
fn discarded<'a>(len: usize) -> &'a mut [u8] {
    // SAFETY: discarding receives look at the length alone; the range is never read or written. A dangling, non-null,
    // aligned pointer is what an empty or untouched slice of bytes may have; the length is bound by the address space.
    unsafe {
        core::slice::from_raw_parts_mut(core::ptr::NonNull::<u8>::dangling().as_ptr(), len.min(1 << 30))
    }
}

/// A receive of zero bytes waits for data like any other, and then takes none.
fn recv_nothing(l: &mut Locked, id: SockId) -> Result<(), Error> {
    let mut byte = [0u8];
    let (stack, now) = l.stack_now();
    let peek = RecvFlags { peek: true, discard: false };
    stack.recv(now, id, &mut [&mut byte], peek, 0).map(drop)
}

/// sendmsg(2). Control messages have no meaning for TCP here; a destination is ignored, as on a connected stream.
pub fn sendmsg(rt: &Runtime, id: SockId, message: *const libc::msghdr, flags: i32) -> Outcome<usize> {
    let m = abi::read(message)?;
    let data = message_pieces(&m)?;
    send(rt, id, data, flags)
}

/// recvmsg(2). The address stays untouched with length 0, as Linux leaves it for TCP.
pub fn recvmsg(rt: &Runtime, id: SockId, message: *mut libc::msghdr, flags: i32) -> Outcome<usize> {
    let mut m = abi::read(message.cast_const())?;
    let data = message_pieces(&m)?;
    let n = recv(rt, id, data, flags)?;
    m.msg_namelen = 0;
    m.msg_controllen = 0;
    m.msg_flags = flags & libc::MSG_CMSG_CLOEXEC;
    abi::write(message, m)?;
    Ok(n)
}

fn message_pieces<'a>(m: &libc::msghdr) -> Outcome<Cursor<'a>> {
    if m.msg_iovlen as usize > 1024 {
        return Err(Errno(libc::EMSGSIZE));
    }
    Cursor::iovecs(m.msg_iov, m.msg_iovlen as usize)
}

/// sendmmsg(2): stops at the first that cannot be sent whole.
pub fn sendmmsg(
    rt: &Runtime,
    id: SockId,
    messages: *mut libc::mmsghdr,
    count: u32,
    flags: i32,
) -> Outcome<i32> {
    for n in 0..count.min(1024) {
        let at = messages.wrapping_add(n as usize);
        let sent = abi::read(at.cast_const()).and_then(|m| {
            let data = message_pieces(&m.msg_hdr)?;
            let total = data.total;
            Ok((send(rt, id, data, flags)?, total))
        });
        match sent {
            Ok((len, total)) => {
                let mut m = abi::read(at.cast_const())?;
                m.msg_len = len as u32;
                abi::write(at, m)?;
                if len < total {
                    return Ok(n as i32 + 1);
                }
            }
            Err(errno) if n == 0 => return Err(errno),
            Err(_) => return Ok(n as i32),
        }
    }
    Ok(count.min(1024) as i32)
}

/// recvmmsg(2): MSG_WAITFORONE makes all but the first not wait.
pub fn recvmmsg(
    rt: &Runtime,
    id: SockId,
    messages: *mut libc::mmsghdr,
    count: u32,
    flags: i32,
) -> Outcome<i32> {
    let mut flags = flags;
    for n in 0..count.min(1024) {
        let at = messages.wrapping_add(n as usize);
        // The header is the first field.
        match recvmsg(rt, id, at.cast(), flags & !libc::MSG_WAITFORONE) {
            Ok(len) => {
                let mut m = abi::read(at.cast_const())?;
                m.msg_len = len as u32;
                abi::write(at, m)?;
                if len == 0 {
                    return Ok(n as i32 + 1);
                }
            }
            Err(errno) if n == 0 => return Err(errno),
            Err(_) => return Ok(n as i32),
        }
        if flags & libc::MSG_WAITFORONE != 0 {
            flags |= libc::MSG_DONTWAIT;
        }
    }
    Ok(count.min(1024) as i32)
}

/// sendfile(2) from a file to one of our sockets. What was read and could not be sent is read again: nothing is lost.
pub fn sendfile(rt: &Runtime, id: SockId, file: RawFd, offset: *mut i64, count: usize) -> Outcome<usize> {
    let explicit = !offset.is_null();
    let start =
        if explicit { abi::read(offset.cast_const())? } else { sys::lseek(file, 0, libc::SEEK_CUR)? as i64 };
    if start < 0 {
        return Err(Errno(libc::EINVAL));
    }
    let mut buffer = vec![0u8; CARRY.min(count.max(1))];
    let mut done = 0;
    let mut error = None;
    while done < count {
        let want = buffer.len().min(count - done);
        let got = match sys::pread(file, &mut buffer[..want], start as u64 + done as u64) {
            Ok(0) => break,
            Ok(n) => n,
            Err(errno) => {
                error = Some(Errno(errno));
                break;
            }
        };
        match send(rt, id, Cursor::buffer(buffer.as_ptr().cast(), got), 0) {
            Ok(n) => {
                done += n;
                if n < got {
                    break;
                }
            }
            Err(errno) => {
                error = Some(errno);
                break;
            }
        }
    }
    if let (0, Some(errno)) = (done, error) {
        return Err(errno);
    }
    if explicit {
        abi::write(offset, start + done as i64)?;
    } else {
        sys::lseek(file, start + done as i64, libc::SEEK_SET)?;
    }
    Ok(done)
}

/// splice(2) from a pipe into one of our sockets, or from one of our sockets into a pipe, by copying.
pub fn splice_in(rt: &Runtime, id: SockId, pipe: RawFd, len: usize, flags: u32) -> Outcome<usize> {
    // What leaves the pipe must find room: as much as the socket takes at once.
    let dontwait = flags & libc::SPLICE_F_NONBLOCK != 0;
    if dontwait {
        let mut locked = rt.lock()?;
        locked.turn_if_due();
        if !locked.stack().readiness(id).any(Ready::OUT) {
            return Err(Errno(libc::EAGAIN));
        }
    }
    let mut buffer = vec![0u8; len.clamp(1, 4096)];
    let got = sys::read(pipe, &mut buffer)?;
    let mut done = 0;
    while done < got {
        // Taken from the pipe: it has to get into the socket, whatever O_NONBLOCK says.
        let rest = &buffer[done..got];
        let mut locked = rt.lock()?;
        let waiting = block::Waiting { nonblocking: false, ..waiting_to_send(&mut locked, id)? };
        let mut data = Cursor::buffer(rest.as_ptr().cast(), rest.len());
        let mut fault = None;
        let sent = block::until(locked, &waiting, |l, _| send_some(l, id, &mut data, false, &mut fault));
        done += data.done;
        match sent {
            Err(errno) if errno.0 != libc::EINTR => return if done > 0 { Ok(done) } else { Err(errno) },
            _ => {}
        }
    }
    Ok(got)
}

pub fn splice_out(rt: &Runtime, id: SockId, pipe: RawFd, len: usize, flags: u32) -> Outcome<usize> {
    let room = if sys::poll_one(pipe, libc::POLLOUT) != 0 { len.clamp(1, 4096) } else { 0 };
    let dontwait = flags & libc::SPLICE_F_NONBLOCK != 0;
    if room == 0 && dontwait {
        return Err(Errno(libc::EAGAIN));
    }
    let mut buffer = vec![0u8; room.max(1)];
    let extra = if dontwait { libc::MSG_DONTWAIT } else { 0 };
    let got = recv(rt, id, Cursor::buffer(buffer.as_mut_ptr().cast(), buffer.len()), extra)?;
    let mut done = 0;
    while done < got {
        match sys::write(pipe, &buffer[done..got]) {
            Ok(n) => done += n,
            Err(libc::EAGAIN) => {
                sys::poll_until(pipe, libc::POLLOUT);
            }
            Err(libc::EINTR) => {}
            Err(errno) => return if done > 0 { Ok(done) } else { Err(Errno(errno)) },
        }
    }
    Ok(got)
}
