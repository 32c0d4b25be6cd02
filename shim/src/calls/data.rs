//! Bytes in and out.

use crate::abi::{self, Cursor, SockAddr};
use crate::block;
use crate::calls::errqueue;
use crate::calls::socket::{await_connection, reach, waiting_to_receive, waiting_to_send};
use crate::errno::{Errno, Outcome};
use crate::relay;
use crate::round;
use crate::runtime::{Locked, Runtime};
use engine::shared::relay::Question;
use engine::stack::{Ready, RecvFlags, SendFlags, SockId, SocketPhase, ZeroCopy};
use engine::sys;
use engine::values::Error;
use std::os::fd::RawFd;

const EINVAL: Errno = Errno(libc::EINVAL);
const MSG_FASTOPEN: i32 = 0x2000_0000;
/// Bytes that sendfile and splice carry at a time.
const CARRY: usize = 64 * 1024;

/// Where sendto(2) and sendmsg(2) want to send: a stream looks at it with MSG_FASTOPEN only.
#[derive(Clone, Copy)]
pub struct Destination {
    pub fd: RawFd,
    pub addr: *const libc::sockaddr,
    pub len: libc::socklen_t,
}

/// send, write, and all their relatives: blocks until everything is in the send buffer, or returns what was taken.
///
/// # Errors
/// EAGAIN, EPIPE (with SIGPIPE unless `flags` has MSG_NOSIGNAL), ECONNRESET ..., EFAULT, EINTR.
pub fn send(rt: &Runtime, id: SockId, data: Cursor, flags: i32) -> Outcome<usize> {
    send_to(rt, id, data, flags, None)
}

/// What is asked of a relay before a call sends.
fn written(nonblocking: bool) -> Question {
    if nonblocking { Question::WrittenNow } else { Question::Written }
}

/// [`send`], which with MSG_FASTOPEN connects first.
///
/// # Errors
/// As [`send`], and those of connect.
pub fn send_to(
    rt: &Runtime,
    id: SockId,
    mut data: Cursor,
    flags: i32,
    to: Option<Destination>,
) -> Outcome<usize> {
    let mut fault = None;
    let (more, urgent) = (flags & libc::MSG_MORE != 0, flags & libc::MSG_OOB != 0);
    relay::settle(rt, id, written(flags & libc::MSG_DONTWAIT != 0))?;
    let mut locked = rt.lock()?;
    // Urgent bytes that left together would be one.
    if !urgent {
        locked.be_patient();
    }
    round::answers();
    let waiting = waiting_to_send(&mut locked, id)?.or_nonblocking(flags & libc::MSG_DONTWAIT != 0);
    let noted = flags & libc::MSG_ZEROCOPY != 0 && locked.stack().wants_note(id, data.total)?;
    let zerocopy = if noted { ZeroCopy::Begins(data.total as u64) } else { ZeroCopy::No };
    let mut how = SendFlags { more, urgent, zerocopy };
    if flags & MSG_FASTOPEN != 0 || locked.stack().is_deferred(id) {
        let begun = locked.stack().fast_open_has_begun(id);
        match fast_open(rt, &mut locked, id, &mut data, to) {
            Ok(()) => {}
            Err(Errno(libc::EINPROGRESS | libc::EALREADY)) if !waiting.nonblocking && !begun => {
                match await_connection(locked, &waiting) {
                    Err(Errno(libc::EINPROGRESS)) if data.done > 0 => return sent(rt, id, &data, &how),
                    other => other?,
                }
                locked = rt.lock()?;
            }
            Err(Errno(libc::EINPROGRESS)) if data.done > 0 => {
                drop(locked);
                return sent(rt, id, &data, &how);
            }
            Err(errno) => return Err(errno),
        }
    }
    let result = block::until(locked, &waiting, |l, interrupted| {
        match send_some(l, id, &mut data, &mut how, &mut fault) {
            Err(Error::WouldBlock) if interrupted && data.done > 0 => Ok(()),
            other => other,
        }
    });
    if data.done > 0 {
        return sent(rt, id, &data, &how);
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

/// How much a call has sent. MSG_ZEROCOPY of what went in a SYN has nothing to wait for.
fn sent(rt: &Runtime, id: SockId, data: &Cursor, how: &SendFlags) -> Outcome<usize> {
    if matches!(how.zerocopy, ZeroCopy::Begins(_)) {
        rt.lock()?.stack().note_at_once(id);
    }
    Ok(data.done)
}

/// The first half of a send that connects: MSG_FASTOPEN, or the first write after a connect(2) with TCP_FASTOPEN_CONNECT. The SYN
/// takes what it has room for (tcp_sendmsg_fastopen, __inet_stream_connect).
///
/// # Errors
/// EINPROGRESS: the SYN is on its way. EALREADY, EISCONN, EOPNOTSUPP, and those of connect.
fn fast_open(
    rt: &Runtime,
    locked: &mut Locked,
    id: SockId,
    data: &mut Cursor,
    to: Option<Destination>,
) -> Outcome<()> {
    if !locked.stack().may_fast_open() {
        return Err(Errno(libc::EOPNOTSUPP));
    }
    let family = locked.stack().family(id).ok_or(Errno(libc::EBADF))?;
    let to = to.filter(|t| !t.addr.is_null());
    if let Some(t) = to
        && t.len as usize >= size_of::<libc::sa_family_t>()
        && i32::from(abi::read(t.addr.cast::<libc::sa_family_t>())?) == libc::AF_UNSPEC
    {
        return Err(Errno(libc::EOPNOTSUPP));
    }
    if locked.stack().fast_open_has_begun(id) {
        return Err(Errno(libc::EALREADY));
    }
    match locked.stack().phase(id) {
        SocketPhase::Listening | SocketPhase::Connected => return Err(Errno(libc::EISCONN)),
        SocketPhase::Connecting if locked.stack().is_deferred(id) => {
            let (stack, now) = locked.stack_now();
            stack.open_with_data(now, id)?;
        }
        SocketPhase::Connecting => {
            locked.turn_if_due();
            return Ok(locked.stack().connect_result(id)?);
        }
        SocketPhase::Unconnected => {
            let t = to.ok_or(EINVAL)?;
            let SockAddr::Inet(remote) = abi::sockaddr(t.addr, t.len, family)? else { return Err(EINVAL) };
            let (remote, route) = reach(rt, locked, t.fd, id, family, remote)?;
            let (stack, now) = locked.stack_now();
            stack.connect_with_data(now, id, remote, &route)?;
        }
    }
    fill_syn(locked, id, data);
    Err(Errno(libc::EINPROGRESS))
}

/// What the SYN has room for. A bad pointer shows when the rest is sent.
fn fill_syn(locked: &mut Locked, id: SockId, data: &mut Cursor) {
    loop {
        match data.readable() {
            Ok(Some(piece)) => {
                let (stack, now) = locked.stack_now();
                let n = stack.write_syn(now, id, piece);
                data.advance(n);
                if n < piece.len() {
                    return;
                }
            }
            Ok(None) => return,
            Err(_) => {
                if data.done == 0 {
                    locked.stack().forgo_syn_data(id);
                }
                return;
            }
        }
    }
}

/// As much as the send buffer takes; WouldBlock while something is left.
fn send_some(
    l: &mut Locked,
    id: SockId,
    data: &mut Cursor,
    how: &mut SendFlags,
    fault: &mut Option<Errno>,
) -> Result<(), Error> {
    loop {
        let piece = match data.readable() {
            Ok(Some(piece)) => piece,
            Ok(None) => {
                // A call without bytes still tells of errors.
                if data.total == 0 {
                    let (stack, now) = l.stack_now();
                    stack.send(now, id, &[], *how)?;
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
        let n = stack.send(now, id, &[piece], SendFlags { more: how.more || !last, ..*how })?;
        data.advance(n);
        if how.zerocopy != ZeroCopy::No {
            how.zerocopy = ZeroCopy::GoesOn;
        }
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
    if flags & libc::MSG_ERRQUEUE != 0 {
        return errqueue::read(rt, id, &mut data);
    }
    relay::settle(rt, id, Question::Read)?;
    if flags & libc::MSG_OOB != 0 {
        return Ok(recv_urgent(rt, id, &mut data, flags)?.unwrap_or(0));
    }
    let how = RecvFlags { peek: flags & libc::MSG_PEEK != 0, discard: flags & libc::MSG_TRUNC != 0 };
    let wait_all = flags & libc::MSG_WAITALL != 0 && data.total > 0;
    let mut fault = None;
    let mut locked = rt.lock()?;
    locked.be_patient();
    let waiting = waiting_to_receive(&mut locked, id, Ready::IN | Ready::RDHUP | Ready::READER, false)?
        .or_nonblocking(flags & libc::MSG_DONTWAIT != 0);
    let result = block::until(locked, &waiting, |l, interrupted| {
        // The byte that reading would skip stays there for the program's handler.
        if interrupted && data.done == 0 && l.stack().is_at_mark(id) && !waiting.goes_on() {
            return Err(Error::WouldBlock);
        }
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
        // What was received comes before an error, which the next call tells; and before the urgent byte.
        if data.done > 0 && stack.read_ends(id, offset) {
            return Ok(());
        }
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
    let (stack, now) = l.stack_now();
    let peek = RecvFlags { peek: true, discard: false };
    stack.recv(now, id, &mut [], peek, 0).map(drop)
}

/// recv with MSG_OOB: the bytes stored, one at most; `None`: none will come. Like Linux it never waits, takes the byte before it
/// finds that the buffer is bad, and also where there is no room for it.
fn recv_urgent(rt: &Runtime, id: SockId, data: &mut Cursor, flags: i32) -> Outcome<Option<usize>> {
    let mut locked = rt.lock()?;
    locked.turn_if_due();
    let byte = locked.stack().recv_urgent(id, flags & libc::MSG_PEEK != 0)?;
    drop(locked);
    let Some(byte) = byte else { return Ok(None) };
    if data.total == 0 {
        return Ok(Some(0));
    }
    if flags & libc::MSG_TRUNC == 0
        && let Some(room) = data.writable()?
    {
        room[0] = byte;
    }
    Ok(Some(1))
}

/// sendmsg(2). Control messages have no meaning for TCP here.
pub fn sendmsg(
    rt: &Runtime,
    fd: RawFd,
    id: SockId,
    message: *const libc::msghdr,
    flags: i32,
) -> Outcome<usize> {
    let m = abi::read(message)?;
    let data = message_pieces(&m)?;
    send_to(rt, id, data, flags, Some(destination_of(fd, &m)))
}

fn destination_of(fd: RawFd, m: &libc::msghdr) -> Destination {
    Destination { fd, addr: m.msg_name.cast_const().cast(), len: m.msg_namelen }
}

/// recvmsg(2). The address stays untouched with length 0, as Linux leaves it for TCP.
pub fn recvmsg(rt: &Runtime, id: SockId, message: *mut libc::msghdr, flags: i32) -> Outcome<usize> {
    let mut m = abi::read(message.cast_const())?;
    let mut data = message_pieces(&m)?;
    if flags & libc::MSG_ERRQUEUE != 0 {
        let n = errqueue::receive(rt, id, &mut m, &mut data, flags)?;
        abi::write(message, m)?;
        return Ok(n);
    }
    m.msg_flags = flags & libc::MSG_CMSG_CLOEXEC;
    let n = if flags & libc::MSG_OOB != 0 {
        let room = data.total;
        let got = recv_urgent(rt, id, &mut data, flags)?;
        if got.is_some() {
            m.msg_flags |= if room == 0 { libc::MSG_OOB | libc::MSG_TRUNC } else { libc::MSG_OOB };
        }
        got.unwrap_or(0)
    } else {
        recv(rt, id, data, flags)?
    };
    m.msg_namelen = 0;
    m.msg_controllen = 0;
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
    fd: RawFd,
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
            Ok((send_to(rt, id, data, flags, Some(destination_of(fd, &m.msg_hdr)))?, total))
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
                if len == 0 || m.msg_hdr.msg_flags & libc::MSG_OOB != 0 {
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
    relay::settle(rt, id, written(dontwait))?;
    let got = sys::read(pipe, &mut buffer)?;
    let mut done = 0;
    while done < got {
        // Taken from the pipe: it has to get into the socket, whatever O_NONBLOCK says.
        let rest = &buffer[done..got];
        let mut locked = rt.lock()?;
        let waiting = block::Waiting { nonblocking: false, ..waiting_to_send(&mut locked, id)? };
        let mut data = Cursor::buffer(rest.as_ptr().cast(), rest.len());
        if locked.stack().is_deferred(id) {
            match fast_open(rt, &mut locked, id, &mut data, None) {
                Err(Errno(libc::EINPROGRESS)) => await_connection(locked, &waiting)?,
                other => other?,
            }
            locked = rt.lock()?;
        }
        let mut fault = None;
        let sent = block::until(locked, &waiting, |l, _| {
            send_some(l, id, &mut data, &mut SendFlags::default(), &mut fault)
        });
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
    // It goes no further than the mark, and does not pass it (tcp_splice_read).
    let mut locked = rt.lock()?;
    locked.turn_if_due();
    if locked.stack().is_at_mark(id) && locked.stack().has_unread(id) {
        // SPLICE_F_NONBLOCK is of the pipe.
        let nonblocking = waiting_to_receive(&mut locked, id, Ready::IN, false)?.nonblocking;
        return if nonblocking { Err(Errno(libc::EAGAIN)) } else { Ok(0) };
    }
    drop(locked);
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
