//! The Internet checksum, RFC 1071.

use crate::values::{Addr, Family};

/// A one's-complement sum in the making.
#[derive(Clone, Copy, Default, Debug)]
pub struct Sum(u64);

impl Sum {
    /// Adds bytes that start at an even offset of the summed data.
    pub fn plus(mut self, bytes: &[u8]) -> Sum {
        let mut sum = self.0;
        let mut chunks = bytes.chunks_exact(8);
        for c in &mut chunks {
            let word = u64::from_be_bytes([c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]]);
            sum += (word >> 32) + (word & 0xffff_ffff);
        }
        let mut pairs = chunks.remainder().chunks_exact(2);
        for p in &mut pairs {
            sum += u64::from(u16::from_be_bytes([p[0], p[1]]));
        }
        if let [last] = pairs.remainder() {
            sum += u64::from(*last) << 8;
        }
        self.0 = sum;
        self
    }

    /// Adds the pseudo-header of RFC 9293 3.1 (IPv4) or RFC 8200 8.1 (IPv6).
    pub fn pseudo(self, src: Addr, dst: Addr, protocol: u8, len: usize) -> Sum {
        let sum = match dst.family() {
            Family::V4 => self.plus(&src.octets_v4()).plus(&dst.octets_v4()),
            Family::V6 => self.plus(&src.0).plus(&dst.0),
        };
        Sum(sum.0 + u64::from(protocol) + len as u64)
    }

    /// Folded to 16 bits, not complemented: what a partial checksum starts from.
    pub fn fold(self) -> u16 {
        let mut sum = self.0;
        while sum >> 16 != 0 {
            sum = (sum >> 16) + (sum & 0xffff);
        }
        sum as u16
    }

    /// The checksum field. Over data that includes a right checksum it is zero.
    pub fn finish(self) -> u16 {
        !self.fold()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_rfc_1071() {
        assert_eq!(Sum::default().plus(&[0, 1, 0xf2, 3, 0xf4, 0xf5, 0xf6, 0xf7]).fold(), 0xddf2);
        let data: Vec<u8> = (0..77u8).collect();
        let whole = Sum::default().plus(&data).finish();
        assert_eq!(Sum::default().plus(&data[..40]).plus(&data[40..]).finish(), whole);
    }
}
