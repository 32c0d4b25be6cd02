//! ICMP errors (RFC 792, RFC 4443), as far as they speak of TCP segments that this host has sent.

use super::ip::{PROTO_ICMP, PROTO_ICMPV6, PROTO_TCP, Packet};
use crate::values::{Addr, Endpoint, Error, FourTuple, SeqNum};

/// What an ICMP error says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trouble {
    /// The segment did not arrive, with the error that Linux makes of it (icmp_err_convert, icmpv6_err_convert).
    Unreachable {
        error: Error,
        /// A router says so and not the host itself: it may pass, and a half-open connection does not last that long.
        on_the_way: bool,
    },
    /// The segment was too large for a link on its way; the largest packet that is not, or 0 from an old router.
    TooBig { mtu: u32 },
}

/// An ICMP error about a TCP segment. Names and number are ours as the segment had them: local end first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Notice {
    pub trouble: Trouble,
    pub tuple: FourTuple,
    pub seq: SeqNum,
}

/// Reads a packet of ICMP or ICMPv6. `None`: not an error, not about TCP, or cut off before the sequence number.
pub fn parse(packet: &Packet) -> Option<Notice> {
    let bytes = packet.payload;
    let (kind, code) = (*bytes.first()?, *bytes.get(1)?);
    let word = u32::from_be_bytes(bytes.get(4..8)?.try_into().ok()?);
    let trouble = match packet.proto {
        PROTO_ICMP => trouble_v4(kind, code, word)?,
        PROTO_ICMPV6 => trouble_v6(kind, code, word)?,
        _ => return None,
    };
    let (src, dst, segment) = quoted(bytes.get(8..)?)?;
    let head: &[u8; 8] = segment.get(..8)?.try_into().ok()?;
    let port = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    Some(Notice {
        trouble,
        tuple: FourTuple { local: Endpoint::new(src, port(0)), remote: Endpoint::new(dst, port(2)) },
        seq: SeqNum::new(u32::from_be_bytes([head[4], head[5], head[6], head[7]])),
    })
}

/// What the packet says in its own words: type, code, and the segment that it is about, from its TCP header on. For a packet that
/// [`parse`] has read.
pub fn words<'a>(packet: &Packet<'a>) -> Option<(u8, u8, &'a [u8])> {
    let bytes = packet.payload;
    Some((*bytes.first()?, *bytes.get(1)?, quoted(bytes.get(8..)?)?.2))
}

/// RFC 792: destination unreachable, time exceeded, parameter problem.
fn trouble_v4(kind: u8, code: u8, word: u32) -> Option<Trouble> {
    let (error, on_the_way) = match (kind, code) {
        (3, 4) => return Some(Trouble::TooBig { mtu: word & 0xffff }),
        (3, 0) => (Error::NetworkUnreachable, true),
        (3, 1) => (Error::HostUnreachable, true),
        (3, 2) => (Error::NoProtocolOption, false),
        (3, 3) => (Error::ConnectionRefused, false),
        (3, 5) => (Error::NotSupported, false),
        (3, 6 | 9 | 11) => (Error::NetworkUnreachable, false),
        (3, 7) => (Error::HostDown, false),
        (3, 8) => (Error::NoNetwork, false),
        (3, 10 | 12..=15) => (Error::HostUnreachable, false),
        // Not that fragments were missing: icmp_unreach passes over it.
        (11, code) if code != 1 => (Error::HostUnreachable, true),
        (12, _) => (Error::Protocol, true),
        _ => return None,
    };
    Some(Trouble::Unreachable { error, on_the_way })
}

/// RFC 4443: destination unreachable, packet too big, time exceeded, parameter problem, and what else is an error.
fn trouble_v6(kind: u8, code: u8, word: u32) -> Option<Trouble> {
    let error = match (kind, code) {
        (2, _) => return Some(Trouble::TooBig { mtu: word }),
        (1, 0) => Error::NetworkUnreachable,
        (1, 1 | 5 | 6) => Error::Access,
        (1, 2 | 3) => Error::HostUnreachable,
        (1, 4) => Error::ConnectionRefused,
        (3, _) => Error::HostUnreachable,
        // Parameter problems, and errors that were not thought of yet: they concern the upper layer too (RFC 4443 2.4 a).
        (..128, _) => Error::Protocol,
        _ => return None,
    };
    Some(Trouble::Unreachable { error, on_the_way: true })
}

/// The front of a packet of ours that came back: source, destination, and what follows the IP header. It was a first (or
/// only) fragment, and of TCP.
fn quoted(bytes: &[u8]) -> Option<(Addr, Addr, &[u8])> {
    match bytes.first()? >> 4 {
        4 => {
            let header = usize::from(bytes[0] & 15) * 4;
            let h: &[u8; 20] = bytes.get(..20)?.try_into().ok()?;
            let first = u16::from_be_bytes([h[6], h[7]]) & 0x1fff == 0;
            let addr = |at: usize| Addr::v4([h[at], h[at + 1], h[at + 2], h[at + 3]]);
            (first && header >= 20 && h[9] == PROTO_TCP).then_some(())?;
            Some((addr(12), addr(16), bytes.get(header..)?))
        }
        6 => {
            let h: &[u8; 40] = bytes.get(..40)?.try_into().ok()?;
            let addr = |at: usize| Addr::v6(core::array::from_fn(|i| h[at + i]));
            // This stack sends no extension headers.
            (h[6] == PROTO_TCP).then_some(())?;
            Some((addr(8), addr(24), &bytes[40..]))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ip;
    use proptest::prelude::*;

    fn error_about(v6: bool, kind: u8, code: u8, word: u32) -> Vec<u8> {
        let (src, dst) = if v6 {
            (Addr::v6([1; 16]), Addr::v6([2; 16]))
        } else {
            (Addr::v4([10, 0, 0, 1]), Addr::v4([10, 0, 0, 2]))
        };
        let mut bytes = vec![kind, code, 0, 0];
        bytes.extend(word.to_be_bytes());
        let mut header = [0u8; ip::MAX_HEADER_BYTES];
        let n = ip::Header { src, dst, proto: PROTO_TCP, ttl: 1, tos: 0, id: 0, payload_bytes: 20 }
            .emit(&mut header);
        bytes.extend(&header[..n]);
        bytes.extend([0x1f, 0x90, 0x00, 0x50, 1, 2, 3, 4]);
        bytes
    }

    fn packet(v6: bool, payload: &[u8]) -> Packet<'_> {
        let any = Addr::v4([10, 0, 0, 9]);
        let proto = if v6 { PROTO_ICMPV6 } else { PROTO_ICMP };
        Packet { src: any, dst: any, proto, ttl: 64, tos: 0, payload }
    }

    #[test]
    fn names_and_number_are_those_of_the_segment() {
        for (v6, kind, code) in [(false, 3, 3), (true, 1, 4)] {
            let bytes = error_about(v6, kind, code, 0);
            let notice = parse(&packet(v6, &bytes)).unwrap();
            assert_eq!((notice.tuple.local.port, notice.tuple.remote.port), (8080, 80));
            assert_eq!(notice.seq, SeqNum::new(0x0102_0304));
            assert!(matches!(notice.trouble, Trouble::Unreachable { error: Error::ConnectionRefused, .. }));
        }
    }

    #[test]
    fn a_smaller_link_tells_its_size() {
        let v4 = error_about(false, 3, 4, 0xdead_0514);
        assert_eq!(parse(&packet(false, &v4)).unwrap().trouble, Trouble::TooBig { mtu: 1300 });
        let v6 = error_about(true, 2, 0, 1280);
        assert_eq!(parse(&packet(true, &v6)).unwrap().trouble, Trouble::TooBig { mtu: 1280 });
    }

    #[test]
    fn what_is_no_error_about_tcp_is_nothing() {
        assert_eq!(parse(&packet(false, &error_about(false, 8, 0, 0))), None, "an echo request");
        let mut udp = error_about(false, 3, 3, 0);
        udp[8 + 9] = 17;
        assert_eq!(parse(&packet(false, &udp)), None);
        let whole = error_about(false, 3, 3, 0);
        for n in 0..whole.len() {
            assert_eq!(parse(&packet(false, &whole[..n])), None, "cut off at {n}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(v6: bool, bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = parse(&packet(v6, &bytes));
        }
    }
}
