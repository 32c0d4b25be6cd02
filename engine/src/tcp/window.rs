//! The receive side's space: how much is offered, when it grows, when the peer is told.

use super::{Env, Tcb};
use crate::fixed::StreamBuf;
use crate::values::Counter;

impl Tcb {
    /// The buffer that a connection starts with: half of `tcp_rmem[1]`, as Linux offers with its default scale; or what
    /// SO_RCVBUF says.
    pub(super) fn init_receive_limit(&mut self, env: &Env) {
        self.rcv.limit_fixed = self.options.rcvbuf != 0;
        let bytes = match self.options.rcvbuf {
            0 => (env.sysctls.tcp_rmem[1] / 2) as u32,
            fixed => fixed / 2,
        };
        self.rcv.limit = self.bound_limit(bytes);
        self.rcv.wnd = self.initial_window();
    }

    fn bound_limit(&self, bytes: u32) -> u32 {
        let clamp = if self.options.window_clamp == 0 { u32::MAX } else { self.options.window_clamp };
        bytes.min(clamp).min(self.rcv.device_limit).min(StreamBuf::MAX_BYTES as u32).max(1152)
    }

    /// SO_RCVBUF was set on a live connection.
    pub fn set_receive_buffer(&mut self, bytes: u32) {
        self.options.rcvbuf = bytes;
        self.rcv.limit_fixed = true;
        self.rcv.limit = self.bound_limit(bytes / 2);
    }

    /// What a SYN or SYN-ACK offers: not scaled (RFC 7323 2.2).
    pub(super) fn initial_window(&self) -> u32 {
        self.rcv.limit.min(0xffff)
    }

    /// What is left of the window that the peer was told of.
    pub(crate) fn offered(&self) -> u32 {
        let edge = self.rcv.wup + self.rcv.wnd;
        if edge.after(self.rcv.nxt) { edge - self.rcv.nxt } else { 0 }
    }

    /// Room in the buffer for bytes from RCV.NXT on; those that wait out of order lie within it.
    fn space(&self) -> u32 {
        self.rcv.limit.saturating_sub(self.recv.len() as u32)
    }

    /// What the window grows by at least: a segment, or half of a buffer that is smaller than two.
    pub(super) fn window_step(&self) -> u32 {
        self.rcv.mss.min(self.rcv.limit / 2).max(1)
    }

    /// The window to offer now. RFC 9293 SHLD-14: never shrinks; 3.8.6.2.2 (MUST-39): does not grow by crumbs, nor, as
    /// Linux has it, from a buffer of which less than a sixteenth is free.
    pub(super) fn window_to_offer(&self) -> u32 {
        let offered = self.offered();
        let space = self.space().min(0xffff << self.rcv.scale);
        let step = self.window_step();
        let crumbs = space < offered.saturating_add(step) && space != self.rcv.limit;
        let wanted = if crumbs || space < self.rcv.limit / 16 { offered } else { space.max(offered) };
        // What the scale cannot express is rounded up where the old edge demands it, else down.
        let unit = 1u32 << self.rcv.scale;
        if wanted == offered { wanted.div_ceil(unit) * unit } else { wanted / unit * unit }.max(offered)
    }

    /// An ACK with `window` leaves.
    pub(super) fn window_sent(&mut self, env: &mut Env, window: u32) {
        match (self.offered(), window) {
            (0, 1..) => env.counters.inc(Counter::TCPFromZeroWindowAdv),
            (1.., 0) => env.counters.inc(Counter::TCPToZeroWindowAdv),
            _ => {}
        }
        self.rcv.wup = self.rcv.nxt;
        self.rcv.wnd = window;
    }

    /// The user has read `bytes`: let the buffer grow with the flow, and tell the peer of room when it is worth a segment.
    pub(super) fn after_read(&mut self, env: &mut Env, bytes: usize) {
        self.autotune(env, bytes as u32);
        self.recv.shrink_if_empty(env.pool, !self.reorder.is_empty());
        if !self.state.may_receive() {
            return;
        }
        let offered = self.offered();
        // tcp_cleanup_rbuf: at least doubled. 2 * offered <= limit keeps a large window from being updated at each read.
        if offered.saturating_mul(2) <= self.rcv.limit {
            let wanted = self.window_to_offer();
            if wanted > 0 && wanted >= offered.saturating_mul(2) {
                self.acks.now = true;
            }
        }
    }

    /// Dynamic right-sizing (tcp_rcv_space_adjust): what the user reads in a round trip, doubled, must fit.
    fn autotune(&mut self, env: &Env, bytes: u32) {
        self.rcv.space_read = self.rcv.space_read.saturating_add(bytes);
        let rtt = u64::from(self.rtt.srtt_us.max(200));
        if env.now.us_since(self.rcv.space_time) < rtt {
            return;
        }
        if self.rcv.space_read > self.rcv.space {
            self.rcv.space = self.rcv.space_read;
            if env.sysctls.tcp_moderate_rcvbuf[0] != 0 && !self.rcv.limit_fixed {
                let wanted = self.rcv.space.saturating_mul(2).saturating_add(16 * self.rcv.adv_mss);
                let most = (env.sysctls.tcp_rmem[2] / 2).min(i64::from(u32::MAX)) as u32;
                let grown = self.bound_limit(wanted.min(most));
                self.rcv.limit = self.rcv.limit.max(grown);
            }
        }
        self.rcv.space_read = 0;
        self.rcv.space_time = env.now;
    }

    /// Forgets what was received out of order; the peer will send it again. Its chunks go with the buffer.
    pub(super) fn discard_out_of_order(&mut self, env: &mut Env) {
        self.reorder.clear();
        self.unreported.clear();
        self.recv.shrink_if_empty(env.pool, false);
    }
}
