//! IPv4 (RFC 791) and IPv6 (RFC 8200) headers, as far as a TCP host meets them.

use super::{Malformed, Sum};
use crate::values::{Addr, Family};

pub const PROTO_ICMP: u8 = 1;
pub const PROTO_TCP: u8 = 6;
pub const PROTO_ICMPV6: u8 = 58;
/// The largest header that [`Header::emit`] makes.
pub const MAX_HEADER_BYTES: usize = 40;

/// A packet, checked: its header is whole, the payload is what the length field says (link padding trimmed).
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    pub src: Addr,
    pub dst: Addr,
    pub proto: u8,
    pub ttl: u8,
    /// Type of service or traffic class: DSCP and ECN.
    pub tos: u8,
    pub payload: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Reads a packet that starts at the IP header. IPv4 options and IPv6 extension headers are skipped.
    pub fn parse(bytes: &'a [u8]) -> Result<Packet<'a>, Malformed> {
        match bytes.first().ok_or(Malformed::Truncated)? >> 4 {
            4 => parse_v4(bytes),
            6 => parse_v6(bytes),
            _ => Err(Malformed::Header),
        }
    }
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn parse_v4(bytes: &[u8]) -> Result<Packet<'_>, Malformed> {
    if bytes.len() < 20 {
        return Err(Malformed::Truncated);
    }
    let header = usize::from(bytes[0] & 15) * 4;
    let total = usize::from(be16(bytes, 2));
    if header < 20 || total < header {
        return Err(Malformed::Header);
    }
    if total > bytes.len() {
        return Err(Malformed::Truncated);
    }
    if Sum::default().plus(&bytes[..header]).finish() != 0 {
        return Err(Malformed::IpChecksum);
    }
    // More fragments, or an offset.
    if be16(bytes, 6) & 0x3fff != 0 {
        return Err(Malformed::Fragment);
    }
    Ok(Packet {
        src: Addr::v4([bytes[12], bytes[13], bytes[14], bytes[15]]),
        dst: Addr::v4([bytes[16], bytes[17], bytes[18], bytes[19]]),
        proto: bytes[9],
        ttl: bytes[8],
        tos: bytes[1],
        payload: &bytes[header..total],
    })
}

fn parse_v6(bytes: &[u8]) -> Result<Packet<'_>, Malformed> {
    if bytes.len() < 40 {
        return Err(Malformed::Truncated);
    }
    let total = 40 + usize::from(be16(bytes, 4));
    if total > bytes.len() {
        return Err(Malformed::Truncated);
    }
    let (proto, offset) = skip_extensions(&bytes[..total], bytes[6])?;
    let addr = |at: usize| Addr::v6(core::array::from_fn(|i| bytes[at + i]));
    Ok(Packet {
        src: addr(8),
        dst: addr(24),
        proto,
        ttl: bytes[7],
        tos: (bytes[0] << 4) | (bytes[1] >> 4),
        payload: &bytes[offset..total],
    })
}

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
/// Types of routing headers.
const RPL: u8 = 3;
const SRV6: u8 = 4;
const DESTINATION: u8 = 60;

/// Walks hop-by-hop, routing and destination options (RFC 8200 4), and what refuses a packet there refuses it here. A fragment
/// header means a fragment, unless it says that it is all of it (RFC 6946).
fn skip_extensions(bytes: &[u8], first: u8) -> Result<(u8, usize), Malformed> {
    let (mut proto, mut at, mut was_fragment) = (first, 40, false);
    loop {
        let len = match proto {
            HOP_BY_HOP | ROUTING | DESTINATION => {
                let blocks = bytes.get(at + 1).ok_or(Malformed::Truncated)?;
                (usize::from(*blocks) + 1) * 8
            }
            FRAGMENT => 8,
            _ => return Ok((proto, at)),
        };
        let header = bytes.get(at..at + len).ok_or(Malformed::Truncated)?;
        let refused = match proto {
            HOP_BY_HOP => at != 40 || !are_options_passable(&header[2..], proto),
            DESTINATION => !are_options_passable(&header[2..], proto),
            // With segments left it is not at its end, and this host forwards nothing (RFC 5095). RPL's and SRv6's are taken
            // where an interface says so only.
            ROUTING => header[3] != 0 || matches!(header[2], RPL | SRV6),
            _ => core::mem::replace(&mut was_fragment, true),
        };
        if refused {
            return Err(Malformed::Header);
        }
        if proto == FRAGMENT && be16(header, 2) & 0xfff9 != 0 {
            return Err(Malformed::Fragment);
        }
        proto = header[0];
        at += len;
    }
}

/// Whether the options of a header let the packet pass: none that is unknown and says to drop it, and not more of them, nor
/// more padding, than Linux takes (ip6_parse_tlv).
fn are_options_passable(mut options: &[u8], proto: u8) -> bool {
    const PAD_1: u8 = 0;
    const PAD_N: u8 = 1;
    const ROUTER_ALERT: u8 = 5;
    let (mut count, mut padding) = (0, 0);
    while let Some(&kind) = options.first() {
        let len = match (kind, options.get(1)) {
            (PAD_1, _) => 1,
            (_, Some(&len)) => 2 + usize::from(len),
            (_, None) => return false,
        };
        let Some(option) = options.get(..len) else { return false };
        match kind {
            PAD_1 => padding += 1,
            PAD_N => {
                padding += len;
                if option[2..].iter().any(|&byte| byte != 0) {
                    return false;
                }
            }
            _ => {
                (count, padding) = (count + 1, 0);
                let alert = kind == ROUTER_ALERT && proto == HOP_BY_HOP && len == 4;
                // The upper two bits say what who does not know it shall do; 0 is to go on.
                if !alert && (kind >> 6 != 0 || (kind == ROUTER_ALERT && proto == HOP_BY_HOP)) {
                    return false;
                }
            }
        }
        if padding > 7 || count > 8 {
            return false;
        }
        options = &options[len..];
    }
    true
}

/// Puts a flow label into an IPv6 header that was emitted.
pub fn set_flow_label(header: &mut [u8], label: u32) {
    let label = label.to_be_bytes();
    header[1] = header[1] & 0xf0 | label[1] & 0x0f;
    header[2..4].copy_from_slice(&label[2..]);
}

/// A header to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    pub src: Addr,
    pub dst: Addr,
    pub proto: u8,
    pub ttl: u8,
    pub tos: u8,
    /// IPv4 identification.
    pub id: u16,
    /// Bytes after this header.
    pub payload_bytes: usize,
}

impl Header {
    pub fn len_for(family: Family) -> usize {
        match family {
            Family::V4 => 20,
            Family::V6 => 40,
        }
    }

    /// Writes the header, checksum and "don't fragment" included, at the front of `out` and returns its length.
    ///
    /// # Panics
    /// When `out` is shorter than [`MAX_HEADER_BYTES`].
    pub fn emit(&self, out: &mut [u8]) -> usize {
        match self.dst.family() {
            Family::V4 => {
                let total = (20 + self.payload_bytes).min(0xffff) as u16;
                out[..20].fill(0);
                out[0] = 0x45;
                out[1] = self.tos;
                out[2..4].copy_from_slice(&total.to_be_bytes());
                out[4..6].copy_from_slice(&self.id.to_be_bytes());
                // DF: a router with a smaller link says so (RFC 1191).
                out[6] = 0x40;
                out[8] = self.ttl;
                out[9] = self.proto;
                out[12..16].copy_from_slice(&self.src.octets_v4());
                out[16..20].copy_from_slice(&self.dst.octets_v4());
                let sum = Sum::default().plus(&out[..20]).finish();
                out[10..12].copy_from_slice(&sum.to_be_bytes());
                20
            }
            Family::V6 => {
                out[0] = 0x60 | (self.tos >> 4);
                out[1] = self.tos << 4;
                out[2..4].fill(0);
                out[4..6].copy_from_slice(&(self.payload_bytes.min(0xffff) as u16).to_be_bytes());
                out[6] = self.proto;
                out[7] = self.ttl;
                out[8..24].copy_from_slice(&self.src.0);
                out[24..40].copy_from_slice(&self.dst.0);
                40
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(v6: bool, payload_bytes: usize) -> Header {
        let (src, dst) = if v6 {
            (Addr::v6([1; 16]), Addr::v6([2; 16]))
        } else {
            (Addr::v4([10, 0, 0, 1]), Addr::v4([10, 0, 0, 2]))
        };
        Header { src, dst, proto: PROTO_TCP, ttl: 64, tos: 0x2e, id: 7, payload_bytes }
    }

    #[test]
    fn padding_is_trimmed_and_fragments_are_told() {
        let mut bytes = [0u8; 64];
        header(false, 3).emit(&mut bytes);
        let p = Packet::parse(&bytes).unwrap();
        assert_eq!((p.payload.len(), p.tos, p.ttl), (3, 0x2e, 64));
        bytes[6] |= 0x20;
        assert_eq!(Packet::parse(&bytes).unwrap_err(), Malformed::IpChecksum);
        let fixed = u16::from_be_bytes([bytes[10], bytes[11]]).wrapping_sub(0x2000);
        bytes[10..12].copy_from_slice(&fixed.to_be_bytes());
        assert_eq!(Packet::parse(&bytes).unwrap_err(), Malformed::Fragment);
    }

    #[test]
    fn extension_headers_are_skipped() {
        let mut bytes = [0u8; 72];
        let mut h = header(true, 28);
        h.proto = 0;
        h.emit(&mut bytes);
        bytes[40..44].copy_from_slice(&[60, 0, 1, 4]);
        bytes[48..52].copy_from_slice(&[PROTO_TCP, 0, 1, 4]);
        let p = Packet::parse(&bytes).unwrap();
        assert_eq!((p.proto, p.payload.len()), (PROTO_TCP, 12));
    }

    proptest! {
        #[test]
        fn what_is_emitted_is_read(v6: bool, len in 0usize..100) {
            let mut bytes = vec![0u8; 140];
            let h = header(v6, len);
            let n = h.emit(&mut bytes);
            let p = Packet::parse(&bytes[..n + len]).unwrap();
            prop_assert_eq!((p.src, p.dst, p.payload.len(), p.tos), (h.src, h.dst, len, h.tos));
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Packet::parse(&bytes);
        }
    }
}
