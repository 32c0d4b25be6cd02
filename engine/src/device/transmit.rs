//! Packets out.
//!
//! Where the next hop is known (the answer to where the connection's last segment came from), AF_PACKET takes the frame
//! with a partial checksum and, for large segments, as GSO. Everywhere else, on lo and for first segments, a raw IP
//! socket: the kernel routes, and the checksum has to be whole.

use super::high_socket;
use super::interfaces::sockaddr;
use crate::stack::{TxPacket, TxSink};
use crate::sys;
use crate::values::{Counter, Counters, Family, FourTuple};
use crate::wire::Sum;
use crate::wire::ip::{self, PROTO_TCP};
use core::mem::{MaybeUninit, size_of};
use std::os::fd::RawFd;

/// Messages of one sendmmsg.
const BATCH: usize = 64;
/// Payloads up to this are copied and wait for the batch; larger ones go by reference, at once.
const COPY_BYTES: usize = 4096;
const STAGING_BYTES: usize = 256 * 1024;
const VNET_HEADER: usize = 10;
const ETHERNET: usize = 14;
const MAX_HEADERS: usize = VNET_HEADER + ETHERNET + ip::MAX_HEADER_BYTES + crate::wire::tcp::MAX_HEADER_BYTES;
const MAX_PIECES: usize = 24;

const PACKET_VNET_HDR: i32 = 15;
const IPV6_HDRINCL: i32 = 36;
const NEEDS_CSUM: u8 = 1;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Direct,
    RawV4,
    RawV6,
}

#[derive(Clone, Copy)]
struct Staged {
    way: Way,
    at: usize,
    len: usize,
    addr: [u8; 28],
    addr_len: usize,
}

/// The sockets that packets leave through.
#[derive(Clone, Copy)]
pub struct TxSockets {
    direct: RawFd,
    raw_v4: RawFd,
    /// -1 on a kernel without IPv6.
    raw_v6: RawFd,
}

impl TxSockets {
    pub fn open() -> Result<TxSockets, i32> {
        // Protocol 0: this socket receives nothing.
        let direct = high_socket(libc::AF_PACKET, libc::SOCK_RAW, 0)?;
        sys::setsockopt_value(direct, libc::SOL_PACKET, PACKET_VNET_HDR, &1i32)?;
        let raw_v4 = high_socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_RAW)?;
        let raw_v6 = match high_socket(libc::AF_INET6, libc::SOCK_RAW, libc::IPPROTO_RAW) {
            Ok(fd) => {
                sys::setsockopt_value(fd, libc::IPPROTO_IPV6, IPV6_HDRINCL, &1i32)?;
                fd
            }
            Err(_) => -1,
        };
        // As much as allowed without privilege: a full queue is a lost segment.
        for fd in [direct, raw_v4, raw_v6] {
            let _ = sys::setsockopt_value(fd, libc::SOL_SOCKET, libc::SO_SNDBUF, &(4i32 << 20));
        }
        Ok(TxSockets { direct, raw_v4, raw_v6 })
    }

    /// Those that another process of the family has opened, in the order of [`TxSockets::fds`].
    pub fn adopt(fds: [RawFd; 3]) -> TxSockets {
        let [direct, raw_v4, raw_v6] = fds;
        TxSockets { direct, raw_v4, raw_v6 }
    }

    pub fn fds(&self) -> [RawFd; 3] {
        [self.direct, self.raw_v4, self.raw_v6]
    }
}

/// Packets on their way out, of one thread that is inside of the engine.
pub struct Transmitter {
    sockets: TxSockets,
    staging: Vec<u8>,
    used: usize,
    staged: Vec<Staged>,
    /// Counted until the next report.
    errors: u64,
    frames: u64,
}

impl TxSink for Transmitter {
    fn transmit(&mut self, packet: &TxPacket<'_>) {
        Transmitter::transmit(self, packet);
    }

    fn is_kernels(&mut self, tuple: &FourTuple) -> bool {
        super::diag::kernel_serves(tuple)
    }
}

impl Transmitter {
    pub fn new(sockets: TxSockets) -> Transmitter {
        Transmitter {
            sockets,
            staging: vec![0; STAGING_BYTES],
            used: 0,
            staged: Vec::with_capacity(BATCH),
            errors: 0,
            frames: 0,
        }
    }

    /// Takes a packet: copies it, or sends it now.
    pub fn transmit(&mut self, p: &TxPacket<'_>) {
        if p.path.is_direct() {
            self.transmit_direct(p);
        } else if p.gso_size == 0 {
            self.transmit_raw(p);
        } else {
            self.cut_up(p);
        }
    }

    fn make_room(&mut self, bytes: usize) {
        if self.staged.len() == BATCH || self.used + bytes > self.staging.len() {
            self.send_staged();
        }
    }

    fn transmit_direct(&mut self, p: &TxPacket<'_>) {
        let copy = p.payload_len <= COPY_BYTES;
        let bytes = MAX_HEADERS + if copy { p.payload_len } else { 0 };
        self.make_room(bytes);
        let at = self.used;
        let headers = direct_headers(p, &mut self.staging[at..at + MAX_HEADERS]);
        let mut addr = [0; 28];
        let addr_len = link_address(p, &mut addr);
        if copy {
            let mut end = at + headers;
            for piece in p.payload {
                self.staging[end..end + piece.len()].copy_from_slice(piece);
                end += piece.len();
            }
            self.used = end;
            self.staged.push(Staged { way: Way::Direct, at, len: end - at, addr, addr_len });
            return;
        }
        self.send_staged();
        self.send_by_reference(at, headers, p, &addr[..addr_len]);
    }

    /// One large packet: its headers from the staging area, its payload from where it is.
    fn send_by_reference(&mut self, at: usize, headers: usize, p: &TxPacket<'_>, addr: &[u8]) {
        let mut pieces = [libc::iovec { iov_base: core::ptr::null_mut(), iov_len: 0 }; MAX_PIECES];
        let head = &self.staging[at..at + headers];
        pieces[0] = libc::iovec { iov_base: head.as_ptr().cast_mut().cast(), iov_len: head.len() };
        let mut count = 1;
        for piece in p.payload.iter().take(MAX_PIECES - 1) {
            pieces[count] = libc::iovec { iov_base: piece.as_ptr().cast_mut().cast(), iov_len: piece.len() };
            count += 1;
        }
        let message = message(&mut pieces[..count], addr);
        // SAFETY: every pointer leads to a slice that outlives the call; the kernel only reads.
        match unsafe { sys::sendmsg(self.sockets.direct, &message, libc::MSG_DONTWAIT) } {
            Ok(_) => self.frames += 1,
            Err(_) => self.errors += 1,
        }
    }

    fn transmit_raw(&mut self, p: &TxPacket<'_>) {
        let family = p.dst.family();
        let bytes = MAX_HEADERS + p.payload_len;
        self.make_room(bytes);
        let at = self.used;
        let header = ip_header(p, p.payload_len, p.ip_id);
        let ip_len = header.emit(&mut self.staging[at..at + ip::MAX_HEADER_BYTES]);
        if !p.dst.is_v4() {
            ip::set_flow_label(&mut self.staging[at..at + ip_len], p.flow);
        }
        let tcp_at = at + ip_len;
        let mut end = tcp_at + p.tcp.len();
        self.staging[tcp_at..end].copy_from_slice(p.tcp);
        for piece in p.payload {
            self.staging[end..end + piece.len()].copy_from_slice(piece);
            end += piece.len();
        }
        let sum = Sum::default()
            .pseudo(p.src, p.dst, PROTO_TCP, end - tcp_at)
            .plus(&self.staging[tcp_at..end])
            .finish();
        self.staging[tcp_at + 16..tcp_at + 18].copy_from_slice(&sum.to_be_bytes());
        let mut addr = [0; 28];
        // The port of a raw IPv6 destination must be zero.
        let addr_len = sockaddr(p.dst, 0, p.scope, &mut addr);
        let way = if family == Family::V4 { Way::RawV4 } else { Way::RawV6 };
        self.used = end;
        self.staged.push(Staged { way, at, len: end - at, addr, addr_len });
    }

    /// Software segmentation: what a device would do with a GSO packet.
    fn cut_up(&mut self, p: &TxPacket<'_>) {
        let whole: Vec<u8> = p.payload.concat();
        let size = p.gso_size as usize;
        let last = whole.len().div_ceil(size) - 1;
        for (n, piece) in whole.chunks(size).enumerate() {
            let mut tcp = [0u8; crate::wire::tcp::MAX_HEADER_BYTES];
            tcp[..p.tcp.len()].copy_from_slice(p.tcp);
            let seq = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]).wrapping_add((n * size) as u32);
            tcp[4..8].copy_from_slice(&seq.to_be_bytes());
            if n != last {
                // FIN and PSH belong to the last.
                tcp[13] &= !9;
            }
            self.transmit_raw(&TxPacket {
                tcp: &tcp[..p.tcp.len()],
                payload: &[piece],
                payload_len: piece.len(),
                gso_size: 0,
                ip_id: p.ip_id.wrapping_add(n as u16),
                ..*p
            });
        }
    }

    /// Reports what was sent and what was refused since the last report.
    pub fn report(&mut self, counters: &mut Counters) {
        if self.frames != 0 {
            counters.add(Counter::TxFrames, core::mem::take(&mut self.frames));
        }
        if self.errors != 0 {
            counters.add(Counter::TxErrors, core::mem::take(&mut self.errors));
        }
    }

    pub fn is_empty(&self) -> bool {
        self.staged.is_empty()
    }

    /// Sends what is staged.
    pub fn flush(&mut self) {
        self.send_staged();
    }

    fn send_staged(&mut self) {
        let mut from = 0;
        while from < self.staged.len() {
            let way = self.staged[from].way;
            let run = self.staged[from..].iter().take_while(|s| s.way == way).count();
            self.send_run(from, run);
            from += run;
        }
        self.staged.clear();
        self.used = 0;
    }

    /// Messages of one way, in as few calls as possible. A message that the kernel refuses is lost, like a packet on the
    /// way: TCP sends it again.
    fn send_run(&mut self, from: usize, run: usize) {
        let fd = match self.staged[from].way {
            Way::Direct => self.sockets.direct,
            Way::RawV4 => self.sockets.raw_v4,
            Way::RawV6 => self.sockets.raw_v6,
        };
        let mut pieces = [const { MaybeUninit::<libc::iovec>::uninit() }; BATCH];
        let mut messages = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; BATCH];
        for (n, s) in self.staged[from..from + run].iter().enumerate() {
            let bytes = &self.staging[s.at..s.at + s.len];
            let piece = pieces[n]
                .write(libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() });
            let msg_hdr = message(core::slice::from_mut(piece), &s.addr[..s.addr_len]);
            messages[n].write(libc::mmsghdr { msg_hdr, msg_len: 0 });
        }
        // SAFETY: the first `run` were written just above.
        let messages =
            unsafe { core::slice::from_raw_parts_mut(messages.as_mut_ptr().cast::<libc::mmsghdr>(), run) };
        let mut done = 0;
        while done < run {
            // SAFETY: every pointer leads to the staging area or to locals; the kernel only reads them.
            match unsafe { sys::sendmmsg(fd, &mut messages[done..], libc::MSG_DONTWAIT) } {
                Ok(sent) if sent > 0 => {
                    self.frames += sent as u64;
                    done += sent;
                }
                _ => {
                    self.errors += 1;
                    done += 1;
                }
            }
        }
    }
}

fn message(pieces: &mut [libc::iovec], addr: &[u8]) -> libc::msghdr {
    // SAFETY: zero is a value of msghdr.
    let mut m: libc::msghdr = unsafe { core::mem::zeroed() };
    m.msg_name = addr.as_ptr().cast_mut().cast();
    m.msg_namelen = addr.len() as libc::socklen_t;
    m.msg_iov = pieces.as_mut_ptr();
    m.msg_iovlen = pieces.len() as _;
    m
}

fn ip_header(p: &TxPacket<'_>, payload_len: usize, id: u16) -> ip::Header {
    ip::Header {
        src: p.src,
        dst: p.dst,
        proto: PROTO_TCP,
        ttl: p.ttl,
        tos: p.tos,
        id,
        payload_bytes: p.tcp.len() + payload_len,
    }
}

/// Virtio, Ethernet, IP and TCP headers; returns their length.
fn direct_headers(p: &TxPacket<'_>, out: &mut [u8]) -> usize {
    let v4 = p.dst.is_v4();
    let ip_at = VNET_HEADER + ETHERNET;
    let ip_len = ip_header(p, p.payload_len, p.ip_id).emit(&mut out[ip_at..]);
    if !v4 {
        ip::set_flow_label(&mut out[ip_at..], p.flow);
    }
    let tcp_at = ip_at + ip_len;
    let end = tcp_at + p.tcp.len();
    out[tcp_at..end].copy_from_slice(p.tcp);
    // A partial checksum: the pseudo-header's sum, to which the device adds the rest.
    let partial = Sum::default().pseudo(p.src, p.dst, PROTO_TCP, p.tcp.len() + p.payload_len).fold();
    out[tcp_at + 16..tcp_at + 18].copy_from_slice(&partial.to_be_bytes());

    let gso = match (p.gso_size, v4) {
        (0, _) => 0,
        (_, true) => GSO_TCPV4,
        (_, false) => GSO_TCPV6,
    };
    out[0] = NEEDS_CSUM;
    out[1] = gso;
    // All fields of this header are in host order.
    out[2..4].copy_from_slice(&((end - VNET_HEADER) as u16).to_ne_bytes());
    out[4..6].copy_from_slice(&p.gso_size.to_ne_bytes());
    out[6..8].copy_from_slice(&((tcp_at - VNET_HEADER) as u16).to_ne_bytes());
    out[8..10].copy_from_slice(&16u16.to_ne_bytes());

    out[10..16].copy_from_slice(&p.path.peer_mac);
    out[16..22].copy_from_slice(&p.path.own_mac);
    out[22..24].copy_from_slice(&ethertype(v4).to_be_bytes());
    end
}

fn ethertype(v4: bool) -> u16 {
    (if v4 { libc::ETH_P_IP } else { libc::ETH_P_IPV6 }) as u16
}

fn link_address(p: &TxPacket<'_>, out: &mut [u8; 28]) -> usize {
    let mut mac = [0; 8];
    mac[..6].copy_from_slice(&p.path.peer_mac);
    let addr = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: ethertype(p.dst.is_v4()).to_be(),
        sll_ifindex: p.path.ifindex as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: mac,
    };
    let len = size_of::<libc::sockaddr_ll>();
    out[..len].copy_from_slice(sys::as_bytes(&addr));
    len
}
