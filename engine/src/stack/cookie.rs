//! SYN cookies: the request packed into the sequence number and, with timestamps, into the low bits of TSval. The layout is
//! Linux's: a keyed hash, the minute, and an index into a table of MSS values; window scale and SACK in six bits of TSval.

use crate::tcp::Handshake;
use crate::tcp::isn::Key;
use crate::values::{FourTuple, Instant, SeqNum, Sysctls};
use crate::wire::Header;

/// Linux's msstab, for IPv4 and IPv6.
const MSS_V4: [u32; 4] = [536, 1300, 1440, 1460];
const MSS_V6: [u32; 4] = [1220, 1420, 1440, 8940];
/// Minutes that a cookie is good for.
const MAX_AGE: u32 = 2;
const OPTION_BITS: u32 = 6;
const NO_SCALE: u32 = 15;

fn table(tuple: &FourTuple) -> &'static [u32; 4] {
    if tuple.remote.addr.is_v4() { &MSS_V4 } else { &MSS_V6 }
}

fn minute(now: Instant) -> u32 {
    (now.as_ms() / 60_000) as u32
}

pub fn make(key: &Key, tuple: &FourTuple, now: Instant, h: &Handshake) -> SeqNum {
    let index = table(tuple).iter().rposition(|&m| m <= h.peer_mss).unwrap_or(0) as u32;
    let count = minute(now);
    let first = key.of_tuple(tuple, 3) as u32;
    let second = key.of_tuple(tuple, 4 + (u64::from(count) << 8)) as u32;
    let low = second.wrapping_add(index) & 0x00ff_ffff;
    SeqNum(first.wrapping_add(h.irs.0).wrapping_add(count << 24).wrapping_add(low))
}

pub fn timestamp(h: &Handshake, now: Instant, ts_offset: u32) -> u32 {
    let clock = (now.as_ms() as u32).wrapping_add(ts_offset);
    if !h.timestamps {
        return clock;
    }
    let scale = if h.our_scale == 0 && h.peer_scale == 0 { NO_SCALE } else { u32::from(h.peer_scale) };
    let bits = scale | u32::from(h.sack) << 4;
    let packed = clock & !((1 << OPTION_BITS) - 1) | bits;
    // Never later than the clock: the peer's echo must not seem to come from the future.
    if packed > clock { packed.wrapping_sub(1 << OPTION_BITS) } else { packed }
}

pub fn check(
    key: &Key,
    tuple: &FourTuple,
    now: Instant,
    hdr: &Header,
    sysctls: &Sysctls,
) -> Option<Handshake> {
    let iss = hdr.ack - 1;
    let irs = hdr.seq - 1;
    let first = key.of_tuple(tuple, 3) as u32;
    let rest = iss.0.wrapping_sub(first).wrapping_sub(irs.0);
    let now = minute(now);
    let age = now.wrapping_sub(rest >> 24) & 0xff;
    if age >= MAX_AGE {
        return None;
    }
    let count = now.wrapping_sub(age);
    let second = key.of_tuple(tuple, 4 + (u64::from(count) << 8)) as u32;
    let index = rest.wrapping_sub(second) & 0x00ff_ffff;
    let peer_mss = *table(tuple).get(index as usize)?;
    let mut h = Handshake { iss, irs, peer_mss, ..Handshake::default() };
    if let Some(t) = hdr.options.timestamps {
        // cookie_timestamp_decode: what is switched off now cannot have been agreed on.
        if sysctls.tcp_timestamps[0] == 0 {
            return None;
        }
        h.timestamps = true;
        h.ts_recent = t.val;
        let bits = t.ecr & ((1 << OPTION_BITS) - 1);
        h.sack = bits >> 4 & 1 != 0;
        if h.sack && sysctls.tcp_sack[0] == 0 || bits & 15 != NO_SCALE && sysctls.tcp_window_scaling[0] == 0 {
            return None;
        }
        if bits & 15 != NO_SCALE {
            h.peer_scale = (bits & 15) as u8;
            // Set by the caller to what we offered.
            h.our_scale = 1;
        }
    }
    Some(h)
}
