//! The program's memory and C's structs. Pointers become slices and values here and travel no further.
//!
//! A bad pointer is EFAULT, not a crash. The cheap part of the check is the address itself; the rest asks the kernel, once for
//! each page, and remembers the answer for a while: a program that unmaps a buffer and then passes it all the same would
//! still crash, which costs nobody data.

use crate::errno::{Errno, Outcome};
use core::marker::PhantomData;
use core::sync::atomic::{AtomicUsize, Ordering};
use engine::sys;
use engine::values::{Addr, Endpoint, Family};

const EFAULT: Errno = Errno(libc::EFAULT);
const EINVAL: Errno = Errno(libc::EINVAL);
/// No mapping starts below this (vm.mmap_min_addr), and none ends above the other.
const LOWEST: usize = 4096;
const HIGHEST: usize = 0x7fff_ffff_f000;
const PAGE: usize = 4096;
/// Pages remembered, a power of two.
const REMEMBERED: usize = 2048;
/// UIO_MAXIOV.
const MAX_PIECES: usize = 1024;

/// Pages that were good when the kernel was asked: number times two, plus one where they can be written. Each has one place,
/// and the latest is remembered.
static GOOD_PAGES: [AtomicUsize; REMEMBERED] = [const { AtomicUsize::new(0) }; REMEMBERED];

/// The place of a page: heaps of threads are aligned alike, so all bits of the number count.
fn place_of(page: usize) -> &'static AtomicUsize {
    &GOOD_PAGES[page.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (usize::BITS - REMEMBERED.trailing_zeros())]
}

fn check(at: usize, len: usize, write: bool) -> Outcome<()> {
    if len == 0 {
        return Ok(());
    }
    let end = at.checked_add(len).ok_or(EFAULT)?;
    if at < LOWEST || end > HIGHEST {
        return Err(EFAULT);
    }
    // The first and the last page: what lies between is almost always of one mapping with them.
    check_page(at, write)?;
    if (end - 1) / PAGE != at / PAGE { check_page(end - 1, write) } else { Ok(()) }
}

fn check_page(at: usize, write: bool) -> Outcome<()> {
    let page = at / PAGE;
    let place = place_of(page);
    let known = place.load(Ordering::Relaxed);
    let mark = page << 1 | usize::from(write);
    if known == mark || known == page << 1 | 1 || crate::confined::is_confined() {
        return Ok(());
    }
    if sys::probe_read(at) && (!write || sys::probe_write(at)) {
        place.store(mark, Ordering::Relaxed);
        Ok(())
    } else {
        Err(EFAULT)
    }
}

/// Bytes that the program lets us read.
pub fn bytes<'a>(at: *const libc::c_void, len: usize) -> Outcome<&'a [u8]> {
    if len == 0 {
        return Ok(&[]);
    }
    check(at as usize, len, false)?;
    // SAFETY: readable, as just checked; the program may change them meanwhile, which spoils its own data only.
    Ok(unsafe { core::slice::from_raw_parts(at.cast(), len) })
}

/// Bytes that the program lets us write.
pub fn bytes_mut<'a>(at: *mut libc::c_void, len: usize) -> Outcome<&'a mut [u8]> {
    if len == 0 {
        return Ok(&mut []);
    }
    check(at as usize, len, true)?;
    // SAFETY: writable, as just checked.
    Ok(unsafe { core::slice::from_raw_parts_mut(at.cast(), len) })
}

/// A value of a C type.
pub fn read<T: Copy>(at: *const T) -> Outcome<T> {
    check(at as usize, size_of::<T>(), false)?;
    // SAFETY: readable for its size; alignment is not relied on; C structs of integers have no invalid patterns.
    Ok(unsafe { at.read_unaligned() })
}

pub fn write<T: Copy>(at: *mut T, value: T) -> Outcome<()> {
    check(at as usize, size_of::<T>(), true)?;
    // SAFETY: writable for its size; alignment is not relied on.
    unsafe { at.write_unaligned(value) };
    Ok(())
}

/// The position in a program's iovecs (or in one buffer).
pub struct Cursor<'a> {
    single: libc::iovec,
    pieces: *const libc::iovec,
    count: usize,
    index: usize,
    offset: usize,
    /// Bytes in all.
    pub total: usize,
    /// Bytes done.
    pub done: usize,
    program: PhantomData<&'a [u8]>,
}

impl<'a> Cursor<'a> {
    pub fn buffer(at: *const libc::c_void, len: usize) -> Cursor<'a> {
        let len = len.min(isize::MAX as usize);
        let single = libc::iovec { iov_base: at.cast_mut(), iov_len: len };
        Cursor {
            single,
            pieces: core::ptr::null(),
            count: 1,
            index: 0,
            offset: 0,
            total: len,
            done: 0,
            program: PhantomData,
        }
    }

    /// # Errors
    /// EINVAL: negative or too large a count or sum; EMSGSIZE is sendmsg's own. EFAULT.
    pub fn iovecs(at: *const libc::iovec, count: usize) -> Outcome<Cursor<'a>> {
        if count > MAX_PIECES {
            return Err(EINVAL);
        }
        let mut total = 0usize;
        if count > 0 {
            bytes(at.cast(), count * size_of::<libc::iovec>())?;
        }
        for n in 0..count {
            // SAFETY: within the array that was just checked.
            let piece = unsafe { at.add(n).read_unaligned() };
            if piece.iov_len > isize::MAX as usize {
                return Err(EINVAL);
            }
            total = total.checked_add(piece.iov_len).filter(|t| *t <= isize::MAX as usize).ok_or(EINVAL)?;
        }
        let single = libc::iovec { iov_base: core::ptr::null_mut(), iov_len: 0 };
        Ok(Cursor { single, pieces: at, count, index: 0, offset: 0, total, done: 0, program: PhantomData })
    }

    fn piece(&self) -> Option<libc::iovec> {
        if self.index >= self.count {
            return None;
        }
        if self.pieces.is_null() {
            return Some(self.single);
        }
        // SAFETY: checked in `iovecs`; the array is the program's and stays for the call.
        Some(unsafe { self.pieces.add(self.index).read_unaligned() })
    }

    fn next_piece(&mut self) -> Option<(*mut libc::c_void, usize)> {
        loop {
            let p = self.piece()?;
            if self.offset < p.iov_len {
                return Some((p.iov_base.wrapping_byte_add(self.offset), p.iov_len - self.offset));
            }
            self.index += 1;
            self.offset = 0;
        }
    }

    /// The bytes from the position to the end of its piece; `None` at the end.
    pub fn readable(&mut self) -> Outcome<Option<&'a [u8]>> {
        self.next_piece().map(|(at, len)| bytes(at, len)).transpose()
    }

    pub fn writable(&mut self) -> Outcome<Option<&'a mut [u8]>> {
        self.next_piece().map(|(at, len)| bytes_mut(at, len)).transpose()
    }

    pub fn advance(&mut self, n: usize) {
        self.offset += n;
        self.done += n;
    }
}

/// A socket address that the program passed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SockAddr {
    Unspecified,
    Inet(Endpoint),
}

/// Reads a sockaddr for a socket of `family`.
///
/// # Errors
/// EFAULT, EINVAL (too short or too long), EAFNOSUPPORT.
pub fn sockaddr(at: *const libc::sockaddr, len: libc::socklen_t, family: Family) -> Outcome<SockAddr> {
    if len as usize > size_of::<libc::sockaddr_storage>() {
        return Err(EINVAL);
    }
    let b = bytes(at.cast(), len as usize)?;
    if b.len() < size_of::<u16>() {
        return Err(EINVAL);
    }
    let port = |b: &[u8]| u16::from_be_bytes([b[2], b[3]]);
    match (i32::from(u16::from_ne_bytes([b[0], b[1]])), family) {
        (libc::AF_UNSPEC, _) => Ok(SockAddr::Unspecified),
        (libc::AF_INET, Family::V4) => {
            if b.len() < 16 {
                return Err(EINVAL);
            }
            Ok(SockAddr::Inet(Endpoint::new(Addr::v4([b[4], b[5], b[6], b[7]]), port(b))))
        }
        (libc::AF_INET6, Family::V6) => {
            if b.len() < 24 {
                return Err(EINVAL);
            }
            let scope = if b.len() >= 28 { u32::from_ne_bytes([b[24], b[25], b[26], b[27]]) } else { 0 };
            let addr = Addr::v6(core::array::from_fn(|i| b[8 + i]));
            Ok(SockAddr::Inet(Endpoint::with_scope(addr, port(b), scope)))
        }
        (_, Family::V4) if b.len() < 16 => Err(EINVAL),
        (_, Family::V6) if b.len() < 24 => Err(EINVAL),
        _ => Err(Errno(libc::EAFNOSUPPORT)),
    }
}

/// Gives an address to the program, as getsockname does: cut off at the length that it has room for, with the whole
/// length told.
///
/// # Errors
/// EFAULT; EINVAL for a negative length.
pub fn give_sockaddr(
    endpoint: &Endpoint,
    family: Family,
    at: *mut libc::sockaddr,
    len_at: *mut libc::socklen_t,
) -> Outcome<()> {
    let room = read(len_at)?;
    if (room as i32) < 0 {
        return Err(EINVAL);
    }
    let mut out = [0u8; 28];
    let len = encode_sockaddr(endpoint, family, &mut out);
    let n = len.min(room as usize);
    bytes_mut(at.cast(), n)?.copy_from_slice(&out[..n]);
    write(len_at, len as libc::socklen_t)
}

/// An address as the program knows it; how long it is.
pub fn encode_sockaddr(endpoint: &Endpoint, family: Family, out: &mut [u8; 28]) -> usize {
    match family {
        Family::V4 => engine::device::sockaddr(v4_of(endpoint.addr), endpoint.port, 0, out),
        Family::V6 => {
            out[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
            out[2..4].copy_from_slice(&endpoint.port.to_be_bytes());
            out[8..24].copy_from_slice(&endpoint.addr.0);
            out[24..28].copy_from_slice(&endpoint.scope.to_ne_bytes());
            28
        }
    }
}

fn v4_of(addr: Addr) -> Addr {
    if addr.is_v4() { addr } else { Addr::ANY_V4 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_pointers_are_faults() {
        let fault = Err(EFAULT);
        assert_eq!(bytes(core::ptr::null(), 1).map(<[u8]>::len), fault);
        assert_eq!(bytes(8 as *const _, 1).map(<[u8]>::len), fault);
        assert_eq!(bytes(usize::MAX as *const _, 1).map(<[u8]>::len), fault);
        assert_eq!(bytes(0x1234_5000 as *const _, 1).map(<[u8]>::len), fault);
        let good = [1u8, 2, 3];
        assert_eq!(bytes(good.as_ptr().cast(), 3), Ok(&good[..]));
        static READ_ONLY: [u8; 4] = [1; 4];
        assert!(bytes_mut(READ_ONLY.as_ptr().cast_mut().cast(), 4).is_err());
    }

    #[test]
    fn a_cursor_walks_over_empty_pieces() {
        let (a, b) = ([1u8, 2], [3u8]);
        let piece = |s: &[u8]| libc::iovec { iov_base: s.as_ptr().cast_mut().cast(), iov_len: s.len() };
        let v = [piece(&[]), piece(&a), piece(&[]), piece(&b)];
        let mut c = Cursor::iovecs(v.as_ptr(), 4).unwrap();
        assert_eq!(c.total, 3);
        assert_eq!(c.readable().unwrap(), Some(&a[..]));
        c.advance(1);
        assert_eq!(c.readable().unwrap(), Some(&a[1..]));
        c.advance(1);
        assert_eq!(c.readable().unwrap(), Some(&b[..]));
        c.advance(1);
        assert!(c.done == c.total && c.readable().unwrap().is_none());
    }
}
