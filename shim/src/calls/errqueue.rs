//! recvmsg(2) with MSG_ERRQUEUE: what has become of sends with MSG_ZEROCOPY, and ICMP errors, as ip_recv_error and ipv6_recv_error tell it.

use crate::abi::{self, Cursor};
use crate::errno::{Errno, Outcome};
use crate::runtime::Runtime;
use engine::stack::{SockId, Told};
use engine::sys;
use engine::values::{Endpoint, Family};
use std::time::{SystemTime, UNIX_EPOCH};

const IPV6_RECVERR: i32 = 25;
const SO_EE_ORIGIN_ICMP: u8 = 2;
const SO_EE_ORIGIN_ICMP6: u8 = 3;
const SO_EE_ORIGIN_ZEROCOPY: u8 = 5;
const SO_EE_CODE_ZEROCOPY_COPIED: u8 = 1;
const SCM_TIMESTAMP: i32 = 29;

/// recv(2): the oldest entry without its control message.
///
/// # Errors
/// EAGAIN: the queue is empty; a blocking socket does not wait for it. EFAULT.
pub fn read(rt: &Runtime, id: SockId, data: &mut Cursor) -> Outcome<usize> {
    match take(rt, id)? {
        Told::Completed(_) => Ok(0),
        Told::Report(report) => give(data, &report.quoted[..usize::from(report.quoted_bytes)]),
    }
}

fn take(rt: &Runtime, id: SockId) -> Outcome<Told> {
    let mut locked = rt.lock()?;
    locked.turn_if_due();
    Ok(locked.stack().take_note(id)?)
}

/// recvmsg(2). A notification has neither data nor an address; of an ICMP error, data is the segment that it quotes, and the
/// address where that went.
///
/// # Errors
/// EAGAIN, EFAULT.
pub fn receive(
    rt: &Runtime,
    id: SockId,
    m: &mut libc::msghdr,
    data: &mut Cursor,
    flags: i32,
) -> Outcome<usize> {
    let told = take(rt, id)?;
    let mut locked = rt.lock()?;
    let family = locked.stack().family(id).ok_or(Errno(libc::EBADF))?;
    let stamped = locked.stack().options(id).is_some_and(|o| o.timestamp);
    drop(locked);
    let mut done = 0;
    m.msg_flags = flags & libc::MSG_CMSG_CLOEXEC | libc::MSG_ERRQUEUE;
    let mut name_bytes = 0;
    // struct sock_extended_err, and the offender's address.
    let mut entry = [0; 16 + 28];
    match told {
        Told::Completed(told) => {
            entry[4] = SO_EE_ORIGIN_ZEROCOPY;
            entry[6] = if told.copied { SO_EE_CODE_ZEROCOPY_COPIED } else { 0 };
            entry[8..12].copy_from_slice(&told.first.to_ne_bytes());
            entry[12..16].copy_from_slice(&told.last.to_ne_bytes());
        }
        Told::Report(report) => {
            let quoted = &report.quoted[..usize::from(report.quoted_bytes)];
            done = give(data, quoted)?;
            if done < quoted.len() {
                m.msg_flags |= libc::MSG_TRUNC;
            }
            name_bytes = name(m, &report.destination, family)?;
            entry[..4].copy_from_slice(&report.errno.to_ne_bytes());
            entry[4] = if report.is_v6 { SO_EE_ORIGIN_ICMP6 } else { SO_EE_ORIGIN_ICMP };
            entry[5] = report.kind;
            entry[6] = report.code;
            let mut offender = [0; 28];
            abi::encode_sockaddr(&Endpoint::new(report.offender, 0), family, &mut offender);
            entry[16..].copy_from_slice(&offender);
        }
    }
    m.msg_namelen = name_bytes;
    let mut control = Control::of(m);
    if stamped {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = libc::timeval { tv_sec: now.as_secs() as i64, tv_usec: now.subsec_micros().into() };
        control.put(libc::SOL_SOCKET, SCM_TIMESTAMP, sys::as_bytes(&now))?;
    }
    match family {
        Family::V4 => control.put(libc::SOL_IP, libc::IP_RECVERR, &entry[..16 + 16])?,
        Family::V6 => control.put(libc::SOL_IPV6, IPV6_RECVERR, &entry)?,
    }
    control.finish(m);
    Ok(done)
}

/// As much as the program has room for.
fn give(data: &mut Cursor, bytes: &[u8]) -> Outcome<usize> {
    while data.done < bytes.len()
        && let Some(room) = data.writable()?
    {
        let left = &bytes[data.done..];
        let n = left.len().min(room.len());
        room[..n].copy_from_slice(&left[..n]);
        data.advance(n);
    }
    Ok(data.done)
}

/// msg_name, cut off where the program has less room; its whole length is told.
fn name(m: &libc::msghdr, of: &Endpoint, family: Family) -> Outcome<libc::socklen_t> {
    let mut out = [0; 28];
    let len = abi::encode_sockaddr(of, family, &mut out);
    if m.msg_name.is_null() {
        return Ok(0);
    }
    let room = len.min(m.msg_namelen as usize);
    abi::bytes_mut(m.msg_name, room)?.copy_from_slice(&out[..room]);
    Ok(len as libc::socklen_t)
}

/// The program's room for control messages, being filled as put_cmsg does.
struct Control {
    at: *mut u8,
    room: usize,
    used: usize,
    is_cut: bool,
}

impl Control {
    fn of(m: &libc::msghdr) -> Control {
        let room = if m.msg_control.is_null() { 0 } else { m.msg_controllen };
        Control { at: m.msg_control.cast(), room, used: 0, is_cut: false }
    }

    /// # Errors
    /// EFAULT.
    fn put(&mut self, level: i32, kind: i32, data: &[u8]) -> Outcome<()> {
        const HEADER: usize = size_of::<libc::cmsghdr>();
        if self.room - self.used < HEADER {
            self.is_cut = true;
            return Ok(());
        }
        let left = self.room - self.used;
        let len = (HEADER + data.len()).min(left);
        self.is_cut |= len < HEADER + data.len();
        let at = self.at.wrapping_add(self.used);
        let out = abi::bytes_mut(at.cast(), len)?;
        out[..8].copy_from_slice(&len.to_ne_bytes());
        out[8..12].copy_from_slice(&level.to_ne_bytes());
        out[12..16].copy_from_slice(&kind.to_ne_bytes());
        out[HEADER..].copy_from_slice(&data[..len - HEADER]);
        self.used += len.next_multiple_of(size_of::<usize>()).min(left);
        Ok(())
    }

    fn finish(self, m: &mut libc::msghdr) {
        m.msg_controllen = self.used;
        if self.is_cut {
            m.msg_flags |= libc::MSG_CTRUNC;
        }
    }
}
