//! Round-trip time and retransmission time-out: RFC 6298, with Linux's bounds.

use bytemuck::Zeroable;

/// RTO before the first measurement (RFC 6298 2.1).
pub const INITIAL_RTO_US: u32 = 1_000_000;
/// TCP_RTO_MIN of Linux. DEVIATES RFC 6298 2.4: the RFC has one second.
pub const MIN_RTO_US: u32 = 200_000;
/// TCP_RTO_MAX of Linux.
pub const MAX_RTO_US: u32 = 120_000_000;

#[derive(Clone, Copy, Zeroable, Debug)]
#[repr(C)]
pub struct Rtt {
    /// Microseconds; 0: not measured yet.
    pub srtt_us: u32,
    pub rttvar_us: u32,
    pub rto_us: u32,
    /// The smallest sample; 0: none.
    pub min_us: u32,
    /// The segment being timed: the ACK of this number ends the measurement.
    pub(super) timed_seq: crate::values::SeqNum,
    pub(super) timing: bool,
    _pad: [u8; 3],
    pub(super) timed_at: crate::values::Instant,
}

impl Rtt {
    pub fn new() -> Rtt {
        Rtt { rto_us: INITIAL_RTO_US, ..Rtt::zeroed() }
    }

    /// RFC 6298 section 2.
    pub fn sample(&mut self, us: u32) {
        let us = us.max(1);
        self.min_us = if self.min_us == 0 { us } else { self.min_us.min(us) };
        if self.srtt_us == 0 {
            self.srtt_us = us;
            self.rttvar_us = us / 2;
        } else {
            let delta = self.srtt_us.abs_diff(us);
            self.rttvar_us = (3 * u64::from(self.rttvar_us) + u64::from(delta)).div_ceil(4) as u32;
            self.srtt_us = ((7 * u64::from(self.srtt_us) + u64::from(us)) / 8) as u32;
        }
        let var = (4 * u64::from(self.rttvar_us)).max(u64::from(MIN_RTO_US));
        self.rto_us = (u64::from(self.srtt_us) + var).min(u64::from(MAX_RTO_US)) as u32;
    }

    /// The RTO after `backoff` time-outs in a row.
    pub fn backed_off_us(&self, backoff: u8) -> u64 {
        (u64::from(self.rto_us) << backoff.min(20)).min(u64::from(MAX_RTO_US))
    }
}

impl Default for Rtt {
    fn default() -> Self {
        Rtt::new()
    }
}
