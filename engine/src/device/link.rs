//! A simulated cable: [`Device`] and [`TxSink`] of two ends in virtual time, that delays, loses, reorders and duplicates from
//! a seed. With [`crate::driver::turn`] on either side, everything above the packet sockets runs as it does in a program.

use super::{Device, DeviceState};
use crate::stack::{TxPacket, TxSink};
use crate::values::link::{PacketType, RxChecksum};
use crate::values::{Counters, Instant, InterfaceTable, Path, RxMeta};
use crate::wire::ip::{self, PROTO_TCP};
use std::cell::RefCell;
use std::rc::Rc;

/// The interface number of the cable at both ends.
pub const IFINDEX: u32 = 2;

/// What the cable does to packets: of a thousand, and in microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    pub lost: u64,
    pub doubled: u64,
    pub delay_us: u64,
    /// Added to the delay, anew for each packet: those that are sent close to each other overtake.
    pub jitter_us: u64,
}

struct Cable {
    seed: u64,
    weather: Weather,
    /// When it arrives, at which end, and what.
    under_way: Vec<(u64, usize, Vec<u8>)>,
}

impl Cable {
    fn random(&mut self, below: u64) -> u64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        self.seed % below.max(1)
    }

    fn carry(&mut self, now: u64, to: usize, packet: &[u8]) {
        let w = self.weather;
        if self.random(1000) < w.lost {
            return;
        }
        let copies = 1 + u64::from(self.random(1000) < w.doubled);
        for _ in 0..copies {
            let at = now + w.delay_us + self.random(w.jitter_us + 1);
            self.under_way.push((at, to, packet.to_vec()));
        }
    }
}

/// One end of a cable.
pub struct End {
    cable: Rc<RefCell<Cable>>,
    side: usize,
    now: u64,
}

/// The two ends of a new cable.
pub fn cable(seed: u64, weather: Weather) -> [End; 2] {
    let cable = Rc::new(RefCell::new(Cable { seed: seed | 1, weather, under_way: Vec::new() }));
    [0, 1].map(|side| End { cable: Rc::clone(&cable), side, now: 0 })
}

impl End {
    /// Virtual time goes on.
    pub fn set_time(&mut self, now: Instant) {
        self.now = now.as_us();
    }

    /// When the next packet arrives at this end.
    pub fn next_arrival(&self) -> Option<Instant> {
        let cable = self.cable.borrow();
        cable.under_way.iter().filter(|p| p.1 == self.side).map(|p| Instant::from_us(p.0)).min()
    }

    /// What sends into this end.
    pub fn sink(&self) -> Sink {
        Sink { cable: Rc::clone(&self.cable), to: 1 - self.side, now: self.now }
    }

    fn take(&mut self) -> Option<Vec<u8>> {
        let mut cable = self.cable.borrow_mut();
        let due = cable.under_way.iter().enumerate().filter(|(_, p)| p.1 == self.side && p.0 <= self.now);
        let first = due.min_by_key(|(n, p)| (p.0, *n)).map(|(n, _)| n)?;
        Some(cable.under_way.remove(first).2)
    }
}

impl Device for End {
    fn receive(
        &mut self,
        _: &mut DeviceState,
        budget: usize,
        taker: &mut dyn FnMut(&RxMeta, &[u8]),
    ) -> usize {
        let meta = RxMeta {
            ifindex: IFINDEX,
            to: PacketType::Host,
            checksum: RxChecksum::Partial,
            source: Path::ROUTED,
        };
        (0..budget).map_while(|_| self.take()).map(|packet| taker(&meta, &packet)).count()
    }

    fn ready(&self, _: &DeviceState) -> bool {
        self.next_arrival().is_some_and(|at| at.as_us() <= self.now)
    }

    fn refresh(&mut self, _: &mut DeviceState, _: &mut InterfaceTable, _: Instant, _: bool) {}

    fn count_drops(&mut self, _: &mut DeviceState, _: &mut Counters, _: Instant) {}
}

/// What a link carries of a packet that the stack sends: one IP packet, or as many as it is to be cut into.
pub fn cut(p: &TxPacket<'_>) -> Vec<Vec<u8>> {
    let payload = p.payload.concat();
    assert_eq!(payload.len(), p.payload_len);
    let size = if p.gso_size == 0 { payload.len().max(1) } else { p.gso_size.into() };
    let count = payload.len().div_ceil(size).max(1);
    let packet = |n: usize| {
        let piece = &payload[n * size..payload.len().min((n + 1) * size)];
        let mut tcp = p.tcp.to_vec();
        let seq = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]).wrapping_add((n * size) as u32);
        tcp[4..8].copy_from_slice(&seq.to_be_bytes());
        if n + 1 < count {
            // FIN and PSH are the last one's.
            tcp[13] &= !9;
        }
        let payload_bytes = tcp.len() + piece.len();
        let header = ip::Header {
            src: p.src,
            dst: p.dst,
            proto: PROTO_TCP,
            ttl: p.ttl,
            tos: p.tos,
            id: p.ip_id,
            payload_bytes,
        };
        let mut bytes = vec![0; ip::MAX_HEADER_BYTES];
        let len = header.emit(&mut bytes);
        bytes.truncate(len);
        bytes.extend(tcp);
        bytes.extend(piece);
        bytes
    };
    (0..count).map(packet).collect()
}

/// What sends into an end.
pub struct Sink {
    cable: Rc<RefCell<Cable>>,
    to: usize,
    now: u64,
}

impl TxSink for Sink {
    fn transmit(&mut self, p: &TxPacket<'_>) {
        let mut cable = self.cable.borrow_mut();
        cut(p).iter().for_each(|packet| cable.carry(self.now, self.to, packet));
    }
}

mod tests {
    use super::*;
    use crate::driver::turn;
    use crate::stack::{PortKind, RecvFlags, Route, SendFlags, ShutdownHow, SockId, Stack};
    use crate::values::iface::{Interface, LocalAddr};
    use crate::values::{Addr, Counter, Endpoint, Error, Family, Sysctls};
    use bytemuck::Zeroable;

    const ADDRS: [Addr; 2] = [Addr::v4([10, 0, 0, 1]), Addr::v4([10, 0, 0, 2])];
    const BYTES: usize = 150_000;

    /// What a side sends: its number and the position decide each byte.
    fn byte(side: usize, at: usize) -> u8 {
        (at.wrapping_mul(31) >> 3) as u8 ^ (side as u8 * 0x55)
    }

    struct Host {
        stack: Stack,
        end: End,
        state: DeviceState,
        socket: Option<SockId>,
        sent: usize,
        got: usize,
        ended: bool,
        closed: bool,
    }

    impl Host {
        fn new(side: usize, end: End) -> Host {
            let mut stack = Stack::leak(64);
            stack.start([side as u64 + 1, 7], Sysctls::default(), 1 << 20);
            let table = stack.interfaces_mut();
            table.add_interface(Interface::new(IFINDEX, 1500, false));
            let broadcast = Addr::v4([10, 0, 0, 255]);
            table.add_addr(LocalAddr { addr: ADDRS[side], broadcast, ifindex: IFINDEX, prefix_len: 24 });
            let state = DeviceState::zeroed();
            Host { stack, end, state, socket: None, sent: 0, got: 0, ended: false, closed: false }
        }

        fn bound(&mut self, local: Endpoint) -> SockId {
            let id = self.stack.socket_create(Family::V4, u64::from(local.port)).unwrap();
            let guard = self.stack.port_create(local, PortKind::Bound).unwrap();
            self.stack.bound(id, local, None);
            self.stack.set_port(id, guard);
            id
        }

        /// Closes the connection when all is sent and read.
        fn close_when_done(&mut self, now: Instant) {
            if self.ended && self.sent == BYTES && !self.closed {
                let id = self.socket.unwrap();
                self.stack.release(now, id);
                self.closed = true;
            }
        }

        /// The program: writes what fits, reads what is there, and says when it has sent all.
        fn work(&mut self, side: usize, now: Instant) {
            let Some(id) = self.socket.filter(|_| !self.closed) else { return };
            while self.sent < BYTES {
                let piece: Vec<u8> =
                    (self.sent..BYTES.min(self.sent + 9000)).map(|at| byte(side, at)).collect();
                match self.stack.send(now, id, &[&piece], SendFlags::default()) {
                    Ok(n) => self.sent += n,
                    Err(_) => break,
                }
                if self.sent == BYTES {
                    self.stack.shutdown(now, id, ShutdownHow::Write).unwrap();
                }
            }
            let mut buffer = [0u8; 5000];
            let how = RecvFlags { peek: false, discard: false };
            while !self.ended {
                match self.stack.recv(now, id, &mut [&mut buffer], how, 0) {
                    Ok(0) => self.ended = true,
                    Ok(n) => {
                        for (k, b) in buffer[..n].iter().enumerate() {
                            assert_eq!(
                                *b,
                                byte(1 - side, self.got + k),
                                "byte {} of side {side}",
                                self.got + k
                            );
                        }
                        self.got += n;
                    }
                    Err(_) => break,
                }
            }
        }
    }

    /// Both ways at once over one connection, until both have seen the other's end, have closed, and TIME-WAIT is over. When they
    /// had seen it, and how many segments were sent again.
    fn exchange(seed: u64, weather: Weather) -> (u64, u64) {
        let mut now = 1_000_000;
        let mut hosts: Vec<Host> =
            cable(seed, weather).into_iter().enumerate().map(|(side, end)| Host::new(side, end)).collect();
        let listener = hosts[1].bound(Endpoint::new(Addr::ANY_V4, 80));
        hosts[1].stack.listen(listener, 8).unwrap();
        let client = hosts[0].bound(Endpoint::new(ADDRS[0], 40_000));
        let route = Route { source: ADDRS[0], mtu: 1500 };
        let at = Instant::from_us(now);
        let begun = hosts[0].stack.connect(at, client, Endpoint::new(ADDRS[1], 80), &route);
        assert_eq!(begun, Err(Error::InProgress));
        hosts[0].socket = Some(client);
        let is_over = |hosts: &[Host]| hosts.iter().all(|h| h.ended && !h.stack.has_connections());
        let mut took = 0;
        while !is_over(&hosts) {
            assert!(now < 600_000_000, "seed {seed}: {} and {} bytes", hosts[0].got, hosts[1].got);
            let at = Instant::from_us(now);
            for (side, host) in hosts.iter_mut().enumerate() {
                host.end.set_time(at);
                let mut sink = host.end.sink();
                turn(&mut host.stack, &mut host.end, &mut sink, &mut host.state, at);
                if host.socket.is_none()
                    && let Ok(accepted) = host.stack.accept_begin(listener)
                {
                    host.socket = Some(host.stack.accept_finish(accepted, 99).unwrap());
                }
                host.work(side, at);
                host.close_when_done(at);
                host.stack.transmit(at, &mut sink);
            }
            if took == 0 && hosts.iter().all(|h| h.ended) {
                took = now;
            }
            let next = |h: &Host| h.end.next_arrival().into_iter().chain(h.stack.next_deadline()).min();
            now = hosts.iter().filter_map(next).min().map_or(now + 1000, |t| t.as_us().max(now + 1));
        }
        assert!(hosts.iter().all(|h| h.got == BYTES));
        // Nothing is left in either arena: no connection, and with the listener no socket.
        hosts[1].stack.release(Instant::from_us(now), listener);
        assert!(hosts.iter().all(|h| h.stack.socket_count() == 0), "seed {seed}");
        let again = hosts.iter().map(|h| h.stack.counters().value(Counter::RetransSegs)).sum::<u64>();
        assert!(again > 0 || weather.lost == 0, "seed {seed}: the cable has lost nothing");
        (took, again)
    }

    #[test]
    fn a_quiet_cable_carries_all_soon() {
        let (took, again) = exchange(1, Weather { lost: 0, doubled: 0, delay_us: 1000, jitter_us: 0 });
        assert!(took < 1_200_000 && again == 0, "{took} us, {again} segments again");
    }

    #[test]
    fn streams_are_whole_in_any_weather() {
        for seed in 1..=40 {
            exchange(seed, Weather { lost: seed % 8 * 10, doubled: 20, delay_us: 2000, jitter_us: 3000 });
        }
    }
}
