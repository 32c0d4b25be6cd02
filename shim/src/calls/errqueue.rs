//! recvmsg(2) with MSG_ERRQUEUE: what has become of sends with MSG_ZEROCOPY, as ip_recv_error and ipv6_recv_error tell it.

use crate::abi;
use crate::errno::{Errno, Outcome};
use crate::runtime::Runtime;
use engine::stack::{Completed, SockId};
use engine::sys;
use engine::values::Family;
use std::time::{SystemTime, UNIX_EPOCH};

const IPV6_RECVERR: i32 = 25;
const SO_EE_ORIGIN_ZEROCOPY: u8 = 5;
const SO_EE_CODE_ZEROCOPY_COPIED: u8 = 1;
const SCM_TIMESTAMP: i32 = 29;

/// The oldest entry of the queue, without its control message: recv(2).
///
/// # Errors
/// EAGAIN: the queue is empty; a blocking socket does not wait for it.
pub fn take(rt: &Runtime, id: SockId) -> Outcome<Completed> {
    let mut locked = rt.lock()?;
    locked.turn_if_due();
    Ok(locked.stack().take_note(id)?)
}

/// recvmsg(2). An entry has no data and no address.
///
/// # Errors
/// EAGAIN, EFAULT.
pub fn receive(rt: &Runtime, id: SockId, m: &mut libc::msghdr, flags: i32) -> Outcome<()> {
    let told = take(rt, id)?;
    let mut locked = rt.lock()?;
    let family = locked.stack().family(id).ok_or(Errno(libc::EBADF))?;
    let stamped = locked.stack().options(id).is_some_and(|o| o.timestamp);
    drop(locked);
    m.msg_namelen = 0;
    m.msg_flags = flags & libc::MSG_CMSG_CLOEXEC | libc::MSG_ERRQUEUE;
    let mut control = Control::of(m);
    if stamped {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = libc::timeval { tv_sec: now.as_secs() as i64, tv_usec: now.subsec_micros().into() };
        control.put(libc::SOL_SOCKET, SCM_TIMESTAMP, sys::as_bytes(&now))?;
    }
    // struct sock_extended_err, and the offender's address, which nobody is.
    let mut entry = [0; 16 + 28];
    entry[4] = SO_EE_ORIGIN_ZEROCOPY;
    entry[6] = if told.copied { SO_EE_CODE_ZEROCOPY_COPIED } else { 0 };
    entry[8..12].copy_from_slice(&told.first.to_ne_bytes());
    entry[12..16].copy_from_slice(&told.last.to_ne_bytes());
    match family {
        Family::V4 => control.put(libc::SOL_IP, libc::IP_RECVERR, &entry[..16 + 16])?,
        Family::V6 => control.put(libc::SOL_IPV6, IPV6_RECVERR, &entry)?,
    }
    control.finish(m);
    Ok(())
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
