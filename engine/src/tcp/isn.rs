//! Keyed hashes: initial sequence numbers (RFC 6528), timestamp offsets, SYN cookies and the hash of the demultiplexer.

use crate::values::{FourTuple, Instant, SeqNum};
use bytemuck::Zeroable;

/// A secret of one arena.
#[derive(Clone, Copy, Zeroable, Default)]
#[repr(C)]
pub struct Key(pub [u64; 2]);

impl Key {
    /// SipHash-2-4 of up to a few words.
    pub fn hash(&self, words: &[u64]) -> u64 {
        let [k0, k1] = self.0;
        let mut v = [
            k0 ^ 0x736f_6d65_7073_6575,
            k1 ^ 0x646f_7261_6e64_6f6d,
            k0 ^ 0x6c79_6765_6e65_7261,
            k1 ^ 0x7465_6462_7974_6573,
        ];
        for &m in words.iter().chain(&[(words.len() as u64 * 8) << 56]) {
            v[3] ^= m;
            round(&mut v);
            round(&mut v);
            v[0] ^= m;
        }
        v[2] ^= 0xff;
        (0..4).for_each(|_| round(&mut v));
        v[0] ^ v[1] ^ v[2] ^ v[3]
    }

    /// Of a connection, and what it is for.
    pub fn of_tuple(&self, t: &FourTuple, purpose: u64) -> u64 {
        let half = |a: &[u8; 16], n: usize| u64::from_ne_bytes(core::array::from_fn(|i| a[n * 8 + i]));
        let ports = u64::from(t.local.port) << 16 | u64::from(t.remote.port);
        self.hash(&[
            half(&t.local.addr.0, 0),
            half(&t.local.addr.0, 1),
            half(&t.remote.addr.0, 0),
            half(&t.remote.addr.0, 1),
            ports | purpose << 32,
        ])
    }
}

fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[2] = v[2].rotate_left(32);
}

/// RFC 6528: a clock of 64 ns ticks, as Linux has it, plus a keyed hash of the connection.
pub fn initial_sequence(key: &Key, t: &FourTuple, now: Instant) -> SeqNum {
    let clock = (now.as_us() as u128 * 1000 / 64) as u32;
    SeqNum((key.of_tuple(t, 1) as u32).wrapping_add(clock))
}

/// What a connection's timestamps start from: the same for every connection between two addresses, so that a later one's
/// are later (RFC 7323 7.1, and what lets a TIME-WAIT be reused safely).
pub fn timestamp_offset(key: &Key, t: &FourTuple) -> u32 {
    let mut pair = *t;
    pair.local.port = 0;
    pair.remote.port = 0;
    key.of_tuple(&pair, 2) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_reference_vectors() {
        // SipHash-2-4, key 00..0f, messages of 0 and 8 bytes 00..07.
        let key = Key([0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908]);
        assert_eq!(key.hash(&[]), 0x726f_db47_dd0e_0e31);
        assert_eq!(key.hash(&[0x0706_0504_0302_0100]), 0x93f5_f579_9a93_2462);
    }

    #[test]
    fn later_connections_start_later() {
        let key = Key([1, 2]);
        let t = FourTuple::default();
        let a = initial_sequence(&key, &t, Instant::from_us(1_000_000));
        let b = initial_sequence(&key, &t, Instant::from_us(2_000_000));
        assert_eq!(b - a, 15_625_000);
    }
}
