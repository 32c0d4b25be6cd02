//! Which options a handshake offers and what two ends agree on. Shared by active opens and request sockets.

use super::TcpOptions;
use crate::fixed::StreamBuf;
use crate::values::{SeqNum, Sysctls};
use crate::wire::Header;
use bytemuck::Zeroable;

/// The MSS of a peer that announces none (RFC 9293 MUST-15); IPv6's 1220 differs, but Linux uses 536 for both.
pub const DEFAULT_MSS: u32 = 536;

/// What a completed handshake agreed on.
#[derive(Clone, Copy, Debug, Default, Zeroable)]
#[repr(C)]
pub struct Handshake {
    pub iss: SeqNum,
    pub irs: SeqNum,
    pub peer_mss: u32,
    /// The peer's window, scaled.
    pub window: u32,
    pub ts_recent: u32,
    /// Of the SYN-ACK; 0: not known.
    pub rtt_us: u32,
    pub peer_scale: u8,
    pub our_scale: u8,
    pub sack: bool,
    pub timestamps: bool,
}

/// What we can do, given what the peer's SYN says and the sysctls.
pub fn from_syn(syn: &Header, sysctls: &Sysctls, options: &TcpOptions) -> Handshake {
    let o = &syn.options;
    let scaling = o.window_scale.filter(|_| sysctls.tcp_window_scaling[0] != 0);
    let timestamps = o.timestamps.filter(|_| sysctls.tcp_timestamps[0] != 0);
    Handshake {
        irs: syn.seq,
        peer_mss: o.mss.map_or(DEFAULT_MSS, u32::from).max(sysctls.tcp_min_snd_mss[0] as u32),
        // A window in a SYN is never scaled (RFC 7323 2.2).
        window: u32::from(syn.window),
        ts_recent: timestamps.map_or(0, |t| t.val),
        peer_scale: scaling.unwrap_or(0),
        our_scale: if scaling.is_some() { window_scale(sysctls, options) } else { 0 },
        sack: o.sack_permitted && sysctls.tcp_sack[0] != 0,
        timestamps: timestamps.is_some(),
        ..Default::default()
    }
}

/// The MSS option that we send: what the path takes, or less where the user said so.
pub fn announced_mss(path_mss: u32, options: &TcpOptions) -> u32 {
    let user = if options.maxseg == 0 { u32::MAX } else { options.maxseg };
    path_mss.min(user).min(0xffff)
}

/// The shift that we offer: the smallest that expresses the largest window we may ever offer (tcp_select_initial_window).
pub fn window_scale(sysctls: &Sysctls, options: &TcpOptions) -> u8 {
    if sysctls.tcp_window_scaling[0] == 0 {
        return 0;
    }
    let largest = if options.rcvbuf != 0 {
        i64::from(options.rcvbuf)
    } else {
        sysctls.tcp_rmem[2].max(sysctls.rmem_max[0])
    };
    let mut space = largest.min(StreamBuf::MAX_BYTES as i64).max(1) as u64;
    if options.window_clamp != 0 {
        space = space.min(u64::from(options.window_clamp));
    }
    let bits = 64 - space.leading_zeros();
    bits.saturating_sub(16).min(14) as u8
}
