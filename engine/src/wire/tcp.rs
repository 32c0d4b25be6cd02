//! The TCP header (RFC 9293 3.1) and its options: MSS, window scale and timestamps (RFC 7323), SACK (RFC 2018), Fast Open
//! (RFC 7413).

use super::Malformed;
use crate::values::SeqNum;
use bytemuck::Zeroable;
use core::fmt;
use core::ops::BitOr;

/// The largest header: 15 words.
pub const MAX_HEADER_BYTES: usize = 60;
const FIXED: usize = 20;
/// What options may take of it.
pub const MAX_OPTION_BYTES: usize = MAX_HEADER_BYTES - FIXED;

#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(pub u8);

impl Flags {
    pub const NONE: Flags = Flags(0);
    pub const FIN: Flags = Flags(1);
    pub const SYN: Flags = Flags(2);
    pub const RST: Flags = Flags(4);
    pub const PSH: Flags = Flags(8);
    pub const ACK: Flags = Flags(16);
    pub const URG: Flags = Flags(32);
    pub const ECE: Flags = Flags(64);
    pub const CWR: Flags = Flags(128);

    /// All of `other` are set.
    pub const fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Any of `other` is set.
    pub const fn any(self, other: Flags) -> bool {
        self.0 & other.0 != 0
    }
}

impl BitOr for Flags {
    type Output = Flags;
    fn bitor(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
}

impl fmt::Debug for Flags {
    /// As tcpdump prints them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (flag, c) in [(Flags::FIN, 'F'), (Flags::SYN, 'S'), (Flags::RST, 'R'), (Flags::PSH, 'P')] {
            if self.has(flag) {
                write!(f, "{c}")?;
            }
        }
        if self.has(Flags::ACK) { f.write_str(".") } else { Ok(()) }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Timestamps {
    /// TSval.
    pub val: u32,
    /// TSecr.
    pub ecr: u32,
}

/// Up to four blocks, the most recent first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SackBlocks {
    len: u8,
    blocks: [(SeqNum, SeqNum); 4],
}

impl SackBlocks {
    pub fn as_slice(&self) -> &[(SeqNum, SeqNum)] {
        &self.blocks[..self.len as usize]
    }

    /// False when there are four already.
    pub fn push(&mut self, start: SeqNum, end: SeqNum) -> bool {
        if self.len as usize == self.blocks.len() {
            return false;
        }
        self.blocks[self.len as usize] = (start, end);
        self.len += 1;
        true
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Keeps the first `n`.
    pub fn truncate(&mut self, n: usize) {
        self.len = self.len.min(n as u8);
    }
}

/// How a cookie is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Zeroable)]
#[repr(u8)]
pub enum CookieForm {
    /// There is none.
    #[default]
    Absent = 0,
    /// Kind 34 (RFC 7413 4.1.1).
    Standard = 1,
    /// The experiment before it: kind 254 with a magic number (RFC 6994).
    Experiment = 2,
}

/// The Fast Open option: a cookie, or without bytes the wish for one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Zeroable)]
#[repr(C)]
pub struct Cookie {
    pub form: CookieForm,
    len: u8,
    bytes: [u8; Cookie::MOST],
}

impl Cookie {
    /// Lengths that a cookie may have.
    pub const LEAST: usize = 4;
    pub const MOST: usize = 16;
    pub const NONE: Cookie = Cookie { form: CookieForm::Absent, len: 0, bytes: [0; Cookie::MOST] };
    const STANDARD_KIND: u8 = 34;
    const EXPERIMENT_KIND: u8 = 254;
    const MAGIC: [u8; 2] = [0xf9, 0x89];

    pub fn new(form: CookieForm, cookie: &[u8]) -> Cookie {
        let mut bytes = [0; Cookie::MOST];
        let len = cookie.len().min(Cookie::MOST);
        bytes[..len].copy_from_slice(&cookie[..len]);
        Cookie { form, len: len as u8, bytes }
    }

    pub const fn request(form: CookieForm) -> Cookie {
        Cookie { form, ..Cookie::NONE }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    pub fn is_absent(&self) -> bool {
        self.form == CookieForm::Absent
    }

    /// It asks for a cookie.
    pub fn is_request(&self) -> bool {
        !self.is_absent() && self.len == 0
    }

    /// There are bytes to be checked, or to be kept.
    pub fn is_full(&self) -> bool {
        !self.is_absent() && self.len > 0
    }

    /// An option's body. A length that no cookie has is no option (tcp_parse_fastopen_option).
    fn parse(form: CookieForm, body: &[u8]) -> Cookie {
        match body.len() {
            0 => Cookie::request(form),
            n if n % 2 == 0 && (Cookie::LEAST..=Cookie::MOST).contains(&n) => Cookie::new(form, body),
            _ => Cookie::NONE,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Options {
    pub mss: Option<u16>,
    pub window_scale: Option<u8>,
    pub sack_permitted: bool,
    pub timestamps: Option<Timestamps>,
    pub sack: SackBlocks,
    pub fast_open: Cookie,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Header {
    pub src_port: u16,
    pub dst_port: u16,
    pub seq: SeqNum,
    /// Meaningful with ACK.
    pub ack: SeqNum,
    pub flags: Flags,
    /// As on the wire, not scaled.
    pub window: u16,
    pub urgent: u16,
    pub options: Options,
}

fn be16(b: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([b[at], b[at + 1]])
}

fn be32(b: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

impl Header {
    /// Reads a segment's header; the second value is where the payload starts.
    pub fn parse(bytes: &[u8]) -> Result<(Header, usize), Malformed> {
        if bytes.len() < FIXED {
            return Err(Malformed::Truncated);
        }
        let offset = usize::from(bytes[12] >> 4) * 4;
        if offset < FIXED {
            return Err(Malformed::Header);
        }
        if offset > bytes.len() {
            return Err(Malformed::Truncated);
        }
        let header = Header {
            src_port: be16(bytes, 0),
            dst_port: be16(bytes, 2),
            seq: SeqNum(be32(bytes, 4)),
            ack: SeqNum(be32(bytes, 8)),
            flags: Flags(bytes[13]),
            window: be16(bytes, 14),
            urgent: be16(bytes, 18),
            options: Options::parse(&bytes[FIXED..offset], Flags(bytes[13]).has(Flags::SYN)),
        };
        Ok((header, offset))
    }

    /// Writes the header with its options in Linux's order, padded, checksum zero; returns its length.
    ///
    /// # Panics
    /// When `out` is shorter than [`MAX_HEADER_BYTES`].
    pub fn emit(&self, out: &mut [u8]) -> usize {
        out[0..2].copy_from_slice(&self.src_port.to_be_bytes());
        out[2..4].copy_from_slice(&self.dst_port.to_be_bytes());
        out[4..8].copy_from_slice(&self.seq.0.to_be_bytes());
        out[8..12].copy_from_slice(&self.ack.0.to_be_bytes());
        let len = FIXED + self.options.emit(&mut out[FIXED..MAX_HEADER_BYTES]);
        out[12] = (len / 4 << 4) as u8;
        out[13] = self.flags.0;
        out[14..16].copy_from_slice(&self.window.to_be_bytes());
        out[16..18].fill(0);
        out[18..20].copy_from_slice(&self.urgent.to_be_bytes());
        len
    }

    /// Sequence numbers that the segment takes, SYN and FIN included (SEG.LEN).
    pub fn seq_len(&self, payload: usize) -> u32 {
        payload as u32 + u32::from(self.flags.has(Flags::SYN)) + u32::from(self.flags.has(Flags::FIN))
    }
}

impl Options {
    /// RFC 9293 MUST-5, -6, -7, -64: any order, any alignment, unknown ones skipped, bad lengths survived (as Linux does, by
    /// ignoring the rest). MSS, window scale, SACK-permitted and cookies count in a SYN only (MUST-65).
    fn parse(mut bytes: &[u8], syn: bool) -> Options {
        let mut o = Options::default();
        while let Some(&kind) = bytes.first() {
            match kind {
                0 => break,
                1 => {
                    bytes = &bytes[1..];
                    continue;
                }
                _ => {}
            }
            let Some(&len) = bytes.get(1) else { break };
            let len = usize::from(len);
            if len < 2 || len > bytes.len() {
                break;
            }
            let body = &bytes[2..len];
            match (kind, body.len()) {
                (2, 2) if syn && be16(body, 0) != 0 => o.mss = Some(be16(body, 0)),
                // RFC 7323 2.3: larger shifts count as 14.
                (3, 1) if syn => o.window_scale = Some(body[0].min(14)),
                (4, 0) if syn => o.sack_permitted = true,
                (5, n) if n % 8 == 0 && !syn => {
                    for b in body.chunks_exact(8) {
                        o.sack.push(SeqNum(be32(b, 0)), SeqNum(be32(b, 4)));
                    }
                }
                (Cookie::STANDARD_KIND, _) if syn => o.fast_open = Cookie::parse(CookieForm::Standard, body),
                (Cookie::EXPERIMENT_KIND, 2..) if syn && body[..2] == Cookie::MAGIC => {
                    o.fast_open = Cookie::parse(CookieForm::Experiment, &body[2..]);
                }
                (8, 8) => o.timestamps = Some(Timestamps { val: be32(body, 0), ecr: be32(body, 4) }),
                _ => {}
            }
            bytes = &bytes[len..];
        }
        o
    }

    /// Bytes that these options take in a header.
    pub fn len(&self) -> usize {
        self.emit(&mut [0; MAX_HEADER_BYTES - FIXED])
    }

    pub fn is_empty(&self) -> bool {
        *self == Options::default()
    }

    /// SYN: MSS, SACK-permitted with timestamps (or NOP NOP timestamps), NOP window scale, cookie. Others: NOP NOP timestamps, NOP
    /// NOP SACK. As many SACK blocks as fit.
    fn emit(&self, out: &mut [u8]) -> usize {
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            out[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        if let Some(mss) = self.mss {
            put(&[2, 4]);
            put(&mss.to_be_bytes());
        }
        if let Some(t) = self.timestamps {
            put(if self.sack_permitted { &[4, 2, 8, 10] } else { &[1, 1, 8, 10] });
            put(&t.val.to_be_bytes());
            put(&t.ecr.to_be_bytes());
        } else if self.sack_permitted {
            put(&[1, 1, 4, 2]);
        }
        if let Some(shift) = self.window_scale {
            put(&[1, 3, 3, shift]);
        }
        if !self.sack.is_empty() {
            let room = if self.timestamps.is_some() { 3 } else { 4 };
            let blocks = &self.sack.as_slice()[..self.sack.as_slice().len().min(room)];
            put(&[1, 1, 5, 2 + 8 * blocks.len() as u8]);
            for (start, end) in blocks {
                put(&start.0.to_be_bytes());
                put(&end.0.to_be_bytes());
            }
        }
        let cookie = self.fast_open.bytes();
        match self.fast_open.form {
            CookieForm::Absent => return at,
            CookieForm::Standard => put(&[Cookie::STANDARD_KIND, 2 + cookie.len() as u8]),
            CookieForm::Experiment => {
                put(&[Cookie::EXPERIMENT_KIND, 4 + cookie.len() as u8]);
                put(&Cookie::MAGIC);
            }
        }
        put(cookie);
        let odd = at % 4;
        if odd != 0 {
            out[at..at + 4 - odd].fill(1);
            at += 4 - odd;
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_syn_looks_as_linux_sends_it() {
        let h = Header {
            flags: Flags::SYN,
            options: Options {
                mss: Some(1460),
                sack_permitted: true,
                timestamps: Some(Timestamps { val: 1, ecr: 0 }),
                window_scale: Some(7),
                ..Default::default()
            },
            ..Default::default()
        };
        let mut out = [0xee; 60];
        assert_eq!(h.emit(&mut out), 40);
        assert_eq!(out[20..40], [2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7]);
    }

    #[test]
    fn cookies_of_both_forms() {
        let cookie = Cookie::new(CookieForm::Standard, &[1, 2, 3, 4, 5, 6, 7, 8]);
        let mut h = Header { flags: Flags::SYN, ..Default::default() };
        let mut out = [0xee; 60];
        for (fast_open, bytes) in [
            (cookie, &[34u8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1][..]),
            (Cookie::request(CookieForm::Standard), &[34, 2, 1, 1]),
            (
                Cookie { form: CookieForm::Experiment, ..cookie },
                &[254, 12, 0xf9, 0x89, 1, 2, 3, 4, 5, 6, 7, 8],
            ),
            (Cookie::request(CookieForm::Experiment), &[254, 4, 0xf9, 0x89]),
        ] {
            h.options.fast_open = fast_open;
            let n = h.emit(&mut out);
            assert_eq!(&out[20..n], bytes);
            assert_eq!(Header::parse(&out[..n]).unwrap().0.options.fast_open, fast_open);
            // In a SYN only.
            out[13] = Flags::ACK.0;
            assert!(Header::parse(&out[..n]).unwrap().0.options.fast_open.is_absent());
        }
        for wrong in [&[34u8, 4, 1, 2][..], &[34, 7, 1, 2, 3, 4, 5], &[34, 20], &[254, 4, 0xf9, 0x88]] {
            let mut body = [0; 20];
            body[..wrong.len()].copy_from_slice(wrong);
            assert!(Options::parse(&body, true).fast_open.is_absent(), "{wrong:?}");
        }
    }

    #[test]
    fn bad_option_lengths_are_survived() {
        for tail in [&[2u8, 4, 5][..], &[8, 0, 0, 0], &[8, 1, 0, 0], &[5, 200, 0, 0], &[3]] {
            let mut bytes = vec![0u8; 20];
            bytes.extend_from_slice(tail);
            while !bytes.len().is_multiple_of(4) {
                bytes.push(0);
            }
            bytes[12] = (bytes.len() / 4 << 4) as u8;
            assert!(Header::parse(&bytes).is_ok());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            if let Ok((h, offset)) = Header::parse(&bytes) {
                prop_assert!(offset <= bytes.len());
                let _ = h.emit(&mut [0; 60]);
            }
        }

        #[test]
        fn what_is_emitted_is_read(seq: u32, ack: u32, flags in 0u8..64, window: u16, ts in proptest::option::of((any::<u32>(), any::<u32>())), blocks in 0u32..5) {
            let mut h = Header { src_port: 1, dst_port: 2, seq: SeqNum(seq), ack: SeqNum(ack), flags: Flags(flags), window, ..Default::default() };
            h.options.timestamps = ts.map(|(val, ecr)| Timestamps { val, ecr });
            if !h.flags.has(Flags::SYN) {
                for n in 0..blocks.min(if ts.is_some() { 3 } else { 4 }) {
                    h.options.sack.push(SeqNum(n * 10), SeqNum(n * 10 + 5));
                }
            } else {
                h.options.mss = Some(1200);
            }
            let mut out = [0; 60];
            let n = h.emit(&mut out);
            prop_assert_eq!(n % 4, 0);
            prop_assert_eq!(Header::parse(&out[..n]).unwrap(), (h, n));
        }
    }
}
