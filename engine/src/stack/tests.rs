//! Two stacks and a seeded link, in virtual time.

use super::*;
use crate::device::link;
use crate::stack::ready::Ready;
use crate::tcp::State;
use crate::values::iface::{Interface, LocalAddr};
use crate::values::link::{PacketType, RxChecksum};
use crate::values::{Addr, Counter, Error, RxMeta, Sysctls};
use crate::wire::ip::{self, PROTO_TCP};
use std::collections::VecDeque;

mod fastopen;
mod icmp;
mod notes;
mod segments;
mod signals;
mod urgent;

const A: Addr = Addr::v4([10, 0, 0, 1]);
const B: Addr = Addr::v4([10, 0, 0, 2]);

/// Collects packets as whole IP packets, cut up as a device would.
#[derive(Default)]
struct Out(Vec<Vec<u8>>);

impl TxSink for Out {
    fn transmit(&mut self, p: &TxPacket<'_>) {
        self.0.extend(link::cut(p));
    }
}

struct Host {
    stack: Stack,
    next_cookie: u64,
}

impl Host {
    fn new(addr: Addr, sysctls: Sysctls) -> Host {
        let mut stack = Stack::leak(600);
        stack.start([addr.0[15].into(), 7], sysctls, 4 << 20);
        let t = stack.interfaces_mut();
        t.add_interface(Interface::new(2, 1500, false));
        t.add_addr(LocalAddr { addr, broadcast: Addr::v4([10, 0, 0, 255]), ifindex: 2, prefix_len: 24 });
        Host { stack, next_cookie: 1 }
    }

    fn socket(&mut self) -> SockId {
        self.next_cookie += 1;
        self.stack.socket_create(Family::V4, self.next_cookie).unwrap()
    }

    fn listener(&mut self, port: u16, backlog: i32) -> SockId {
        let id = self.socket();
        let local = Endpoint::new(Addr::ANY_V4, port);
        let guard = self.stack.port_create(local, PortKind::Bound).unwrap();
        self.stack.bound(id, local, None);
        self.stack.set_port(id, guard);
        self.stack.listen(id, backlog).unwrap();
        id
    }

    /// What the C edge does with the guards of ports that nothing uses any more.
    fn sweep(&mut self) {
        for id in self.stack.ports.ids().collect::<Vec<_>>() {
            if !self.stack.port_is_alive(id) {
                self.stack.port_copy_gone(id);
            }
        }
    }

    fn accept(&mut self, listener: SockId) -> Result<SockId, Error> {
        let accepted = self.stack.accept_begin(listener)?;
        self.next_cookie += 1;
        self.stack.accept_finish(accepted, self.next_cookie)
    }
}

struct Net {
    a: Host,
    b: Host,
    now: u64,
    wire: VecDeque<(u64, bool, Vec<u8>)>,
    next_port: u16,
}

impl Net {
    fn new() -> Net {
        Net::with(Sysctls::default())
    }

    fn with(sysctls: Sysctls) -> Net {
        let (a, b) = (Host::new(A, sysctls), Host::new(B, sysctls));
        Net { a, b, now: 1_000_000, wire: VecDeque::new(), next_port: 40_000 }
    }

    fn time(&self) -> Instant {
        Instant::from_us(self.now)
    }

    fn connect(&mut self, port: u16) -> SockId {
        let id = self.a.socket();
        self.next_port += 1;
        let local = Endpoint::new(A, self.next_port);
        let guard = self.a.stack.port_create(local, PortKind::Bound).unwrap();
        self.a.stack.bound(id, local, None);
        self.a.stack.set_port(id, guard);
        let route = Route { source: A, mtu: 1500 };
        let now = self.time();
        assert_eq!(self.a.stack.connect(now, id, Endpoint::new(B, port), &route), Err(Error::InProgress));
        id
    }

    /// Sends and delivers until nothing is on the wire; time moves by the delay of the link only.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            let now = self.time();
            for to_b in [true, false] {
                let mut out = Out::default();
                let host = if to_b { &mut self.a } else { &mut self.b };
                host.stack.transmit(now, &mut out);
                for bytes in out.0 {
                    self.wire.push_back((self.now + 100, to_b, bytes));
                }
            }
            let Some((at, to_b, bytes)) = self.wire.pop_front() else { return };
            self.now = self.now.max(at);
            self.deliver(to_b, &bytes);
        }
        panic!("two stacks that never fall silent");
    }

    fn deliver(&mut self, to_b: bool, bytes: &[u8]) {
        let now = self.time();
        let meta =
            RxMeta { ifindex: 2, to: PacketType::Host, checksum: RxChecksum::Partial, source: Path::ROUTED };
        let host = if to_b { &mut self.b } else { &mut self.a };
        host.stack.handle_frame(now, &meta, bytes);
        host.stack.check();
    }

    /// Lets time pass, timers included.
    fn pass(&mut self, ms: u64) {
        let end = self.now + ms * 1000;
        loop {
            self.settle();
            let next =
                [self.a.stack.next_deadline(), self.b.stack.next_deadline()].into_iter().flatten().min();
            let Some(next) = next.filter(|t| t.as_us() <= end) else { break };
            self.now = self.now.max(next.as_us());
            let now = self.time();
            self.a.stack.handle_timers(now);
            self.b.stack.handle_timers(now);
        }
        self.now = end;
    }

    fn connected(&mut self, listener: SockId, port: u16) -> (SockId, SockId) {
        let client = self.connect(port);
        self.settle();
        assert_eq!(self.a.stack.connect_result(client), Ok(()));
        (client, self.b.accept(listener).unwrap())
    }
}

fn read_all(stack: &mut Stack, now: Instant, id: SockId) -> Result<Vec<u8>, Error> {
    let mut buf = vec![0; 100_000];
    let n = stack.recv(now, id, &mut [&mut buf[..]], RecvFlags::default(), 0)?;
    buf.truncate(n);
    Ok(buf)
}

#[test]
fn a_connection_from_birth_to_time_wait() {
    let mut n = Net::new();
    let l = n.b.listener(80, 5);
    assert_eq!(n.b.stack.readiness(l), Ready::NONE);
    let (c, s) = n.connected(l, 80);
    let now = n.time();
    assert_eq!(n.a.stack.send(now, c, &[b"hello"], SendFlags::default()), Ok(5));
    n.settle();
    assert!(n.b.stack.readiness(s).any(Ready::IN));
    assert_eq!(read_all(&mut n.b.stack, now, s).unwrap(), b"hello");
    assert_eq!(read_all(&mut n.b.stack, now, s), Err(Error::WouldBlock));
    n.a.stack.release(now, c);
    n.settle();
    assert_eq!(read_all(&mut n.b.stack, now, s).unwrap(), b"");
    assert_eq!(n.b.stack.tcp_state(s), State::CloseWait);
    n.b.stack.release(now, s);
    n.settle();
    let states: Vec<_> = n.a.stack.snapshot().iter().map(|i| i.state).collect();
    assert_eq!(states, [State::TimeWait]);
    n.pass(61_000);
    assert!(n.a.stack.snapshot().is_empty());
    n.a.sweep();
    assert_eq!(n.a.stack.usage().iter().map(|u| u.1).sum::<usize>(), 0, "{:?}", n.a.stack.usage());
    n.b.stack.release(now, l);
    n.b.sweep();
    assert_eq!(n.b.stack.usage().iter().map(|u| u.1).sum::<usize>(), 0);
}

/// Measured on Linux with c-tests: listen(4), nobody accepts, ten clients: five connect.
#[test]
fn a_full_accept_queue_drops_syns_and_final_acks() {
    let mut n = Net::new();
    let l = n.b.listener(80, 4);
    let clients: Vec<_> = (0..10)
        .map(|_| {
            let c = n.connect(80);
            n.pass(1200);
            c
        })
        .collect();
    let up = clients.iter().filter(|&&c| n.a.stack.connect_result(c).is_ok()).count();
    assert_eq!(up, 5);
    let c = n.b.stack.counters();
    assert!(c.value(Counter::ListenOverflows) >= 5);
    assert_eq!(c.value(Counter::ListenOverflows), c.value(Counter::ListenDrops));
    let info = n.b.stack.snapshot();
    let listener = info.iter().find(|i| i.state == State::Listen).unwrap();
    assert_eq!((listener.recv_q, listener.send_q), (5, 4));
    n.pass(200_000);
    for &c in &clients[5..] {
        assert_eq!(n.a.stack.connect_result(c), Err(Error::TimedOut));
    }
    let now = n.time();
    n.b.stack.release(now, l);
    n.settle();
    for &c in &clients[..5] {
        assert_eq!(read_all(&mut n.a.stack, now, c), Err(Error::ConnectionReset));
    }
}

#[test]
fn abort_on_overflow_resets_the_final_ack() {
    let mut sysctls = Sysctls::default();
    sysctls.set("net.ipv4.tcp_abort_on_overflow", "1").unwrap();
    let mut n = Net::with(sysctls);
    n.b.listener(80, 2);
    for _ in 0..2 {
        n.connect(80);
        n.settle();
    }
    // Room for one more; both SYNs pass before either connection is in the queue.
    let (c1, c2) = (n.connect(80), n.connect(80));
    n.settle();
    assert_eq!(n.a.stack.connect_result(c1), Ok(()));
    // The SYN-ACK came before the reset, but nobody asked in between.
    assert_eq!(n.a.stack.connect_result(c2), Err(Error::ConnectionReset));
    assert_eq!(n.b.stack.counters().value(Counter::ListenOverflows), 1);
}

#[test]
fn cookies_open_connections_without_memory() {
    let mut sysctls = Sysctls::default();
    sysctls.set("net.ipv4.tcp_syncookies", "2").unwrap();
    let mut n = Net::with(sysctls);
    let l = n.b.listener(80, 10);
    let (c, s) = n.connected(l, 80);
    let now = n.time();
    assert_eq!(n.b.stack.counters().value(Counter::SyncookiesRecv), 1);
    let data = vec![9u8; 60_000];
    let mut sent = 0;
    let mut got = Vec::new();
    while got.len() < data.len() {
        sent += n.a.stack.send(now, c, &[&data[sent..]], SendFlags::default()).unwrap_or(0);
        n.pass(50);
        got.extend(read_all(&mut n.b.stack, now, s).unwrap_or_default());
    }
    assert_eq!(got, data);
    let info = n.b.stack.tcp_info(now, s).unwrap();
    assert!(
        info.sack && info.timestamps && info.snd_wscale > 0,
        "options came back in the timestamp: {info:?}"
    );
}

#[test]
fn nobody_listens() {
    let mut n = Net::new();
    // A guarded port without a listener: the kernel is silent there, the reset is ours.
    n.b.stack.port_create(Endpoint::new(B, 81), PortKind::Bound).unwrap();
    let c = n.connect(81);
    n.settle();
    assert_eq!(n.a.stack.connect_result(c), Err(Error::ConnectionRefused));
    assert_eq!(n.b.stack.counters().value(Counter::OutRsts), 1);
    // A port that is not ours: not our business.
    let c = n.connect(82);
    n.settle();
    assert_eq!(n.a.stack.connect_result(c), Err(Error::Already));
    assert_eq!(n.b.stack.counters().value(Counter::DropNotOurs), 1);
}

#[test]
fn a_stale_syn_never_becomes_a_connection() {
    let mut n = Net::new();
    n.b.listener(80, 5);
    n.connect(80);
    let mut out = Out::default();
    let now = n.time();
    n.a.stack.transmit(now, &mut out);
    let syn = out.0.remove(0);
    // The client has given up since; its old SYN arrives late.
    for id in n.a.stack.sockets.ids().collect::<Vec<_>>() {
        n.a.stack.release(now, id);
    }
    n.a.stack.port_create(Endpoint::new(A, n.next_port), PortKind::Bound).unwrap();
    n.deliver(true, &syn);
    n.settle();
    assert_eq!(n.b.stack.counters().value(Counter::PassiveOpens), 0);
    assert_eq!(n.b.stack.counters().value(Counter::EmbryonicRsts), 1);
    assert!(n.b.stack.snapshot().iter().all(|i| i.state == State::Listen));
}

#[test]
fn epoll_levels_edges_and_one_shots() {
    const ET: u32 = 1 << 31;
    const ONESHOT: u32 = 1 << 30;
    let mut n = Net::new();
    let l = n.b.listener(80, 5);
    let (c, s) = n.connected(l, 80);
    let st = &mut n.b.stack;
    let sets: Vec<_> = [1, 1 | ET, 1 | ONESHOT]
        .into_iter()
        .map(|events| {
            let set = st.epoll_create().unwrap();
            st.epoll_ctl(set, EpollOp::Add, 7, s, EpollEvent { events, data: 42 }).unwrap();
            set
        })
        .collect();
    let event = EpollEvent { events: 1, data: 42 };
    assert_eq!(st.epoll_ctl(sets[0], EpollOp::Add, 7, s, event), Err(Error::Exists));
    assert_eq!(st.epoll_ctl(sets[0], EpollOp::Modify, 8, s, event), Err(Error::NoEntry));
    let now = n.time();
    let count = |n: &mut Net| -> Vec<usize> {
        sets.iter().map(|&set| n.b.stack.epoll_collect(set, 4, |_| {})).collect()
    };
    assert_eq!(count(&mut n), [0, 0, 0]);
    n.a.stack.send(now, c, &[b"x"], SendFlags::default()).unwrap();
    n.settle();
    assert_eq!(count(&mut n), [1, 1, 1]);
    assert_eq!(count(&mut n), [1, 0, 0]);
    n.a.stack.send(now, c, &[b"y"], SendFlags::default()).unwrap();
    n.settle();
    assert_eq!(count(&mut n), [1, 1, 0]);
    n.b.stack.epoll_ctl(sets[2], EpollOp::Modify, 7, s, EpollEvent { events: 1 | ONESHOT, data: 1 }).unwrap();
    assert_eq!(count(&mut n), [1, 0, 1]);
    n.b.stack.release(now, s);
    assert_eq!(count(&mut n), [0, 0, 0]);
}

#[test]
fn waiters_are_woken_once_and_by_what_they_wait_for() {
    let mut n = Net::new();
    let l = n.b.listener(80, 5);
    let w1 = n.b.stack.waiter_begin(1, WakeKind::Futex).unwrap();
    let w2 = n.b.stack.waiter_begin(1, WakeKind::EventFd(3)).unwrap();
    n.b.stack.wait_on(w1, l, Ready::IN, true).unwrap();
    n.b.stack.wait_on(w2, l, Ready::IN, true).unwrap();
    n.connect(80);
    n.settle();
    assert_eq!(n.b.stack.take_wake(), Some(Wake { waiter: w1.index(), kind: WakeKind::Futex }));
    assert_eq!(n.b.stack.take_wake(), None, "one connection, one waiter");
    n.connect(80);
    n.settle();
    assert_eq!(n.b.stack.take_wake(), Some(Wake { waiter: w2.index(), kind: WakeKind::EventFd(3) }));
    assert!(n.b.stack.waiter_end(w1));
    n.b.stack.waiter_end(w2);
    assert_eq!(n.b.stack.waiter_count(), 0);
}

#[test]
fn bad_packets_are_counted_and_nothing_else() {
    let mut n = Net::new();
    let l = n.b.listener(80, 50);
    let (c, s) = n.connected(l, 80);
    let now = n.time();
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut rand = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    n.a.stack.send(now, c, &[&[7; 900]], SendFlags::default()).unwrap();
    let mut out = Out::default();
    n.a.stack.transmit(now, &mut out);
    let good = out.0.remove(0);
    for _ in 0..30_000 {
        let mut bad = good.clone();
        for _ in 0..1 + rand() % 3 {
            let at = (rand() % 60) as usize;
            bad[at] = rand() as u8;
        }
        if rand() % 4 == 0 {
            bad.truncate((rand() % good.len() as u64) as usize);
        } else {
            // A right IP checksum, so that TCP sees it.
            bad[10..12].fill(0);
            let sum = crate::wire::Sum::default().plus(&bad[..20]).finish();
            bad[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        let meta =
            RxMeta { ifindex: 2, to: PacketType::Host, checksum: RxChecksum::Partial, source: Path::ROUTED };
        n.b.stack.handle_frame(now, &meta, &bad);
        let mut sink = Out::default();
        n.b.stack.transmit(now, &mut sink);
    }
    n.b.stack.check();
    let counters = n.b.stack.counters();
    assert!(counters.value(Counter::DropBadIp) > 0 && counters.value(Counter::DropNotLocal) > 0);
    let _ = s;
}

/// Answers leave to where the last segment came from that only the peer can have sent.
#[test]
fn a_forged_segment_does_not_turn_the_traffic_to_its_sender() {
    let mut n = Net::new();
    let l = n.b.listener(80, 4);
    let (_, server) = n.connected(l, 80);
    let conn = n.b.stack.sockets[server].conn.unwrap();
    let elsewhere = Path { ifindex: 2, peer_mac: [2, 0, 0, 0, 0, 9], own_mac: [2, 0, 0, 0, 0, 1] };
    let tuple = n.b.stack.conns[conn].tuple;
    let (nxt, una) = (n.b.stack.conns[conn].tcb.rcv.nxt, n.b.stack.conns[conn].tcb.snd.una);
    use crate::wire::{Flags, Header};
    for (seq, ack, flags, turns) in [
        (nxt + 7_000_000, una, Flags::RST, false),
        (nxt, una, Flags::PSH, false),
        (nxt - 100_000, una, Flags::ACK, false),
        (nxt, una + 100, Flags::ACK, false),
        (nxt, una - 100_000, Flags::ACK, false),
        (nxt, una, Flags::ACK, true),
    ] {
        let hdr = Header {
            src_port: tuple.remote.port,
            dst_port: tuple.local.port,
            seq,
            ack,
            flags,
            window: 100,
            ..Header::default()
        };
        let mut bytes = vec![0; ip::MAX_HEADER_BYTES];
        let mut tcp = [0; crate::wire::tcp::MAX_HEADER_BYTES];
        let tcp_len = hdr.emit(&mut tcp);
        let header =
            ip::Header { src: A, dst: B, proto: PROTO_TCP, ttl: 64, tos: 0, id: 1, payload_bytes: tcp_len };
        let len = header.emit(&mut bytes);
        bytes.truncate(len);
        bytes.extend_from_slice(&tcp[..tcp_len]);
        let meta =
            RxMeta { ifindex: 2, to: PacketType::Host, checksum: RxChecksum::Partial, source: elsewhere };
        let now = n.time();
        n.b.stack.handle_frame(now, &meta, &bytes);
        assert_eq!(n.b.stack.conns[conn].path == elsewhere, turns, "seq {seq:?} ack {ack:?} {flags:?}");
    }
}

#[test]
fn repair_after_a_death_in_the_lock_keeps_what_is_whole() {
    let mut n = Net::new();
    let l = n.b.listener(80, 50);
    let (c, s) = n.connected(l, 80);
    let set = n.b.stack.epoll_create().unwrap();
    n.b.stack.epoll_ctl(set, EpollOp::Add, 7, s, EpollEvent { events: 1, data: 42 }).unwrap();
    let w = n.b.stack.waiter_begin(1, WakeKind::Futex).unwrap();
    n.b.stack.wait_on_set(w, set, true).unwrap();
    n.b.stack.work_begins();
    let now = n.time();
    n.b.stack.repair(now);
    n.b.stack.check();
    assert!(n.b.stack.take_wake().is_some(), "sleepers look for themselves");
    n.a.stack.send(now, c, &[b"still here"], SendFlags::default()).unwrap();
    n.settle();
    assert_eq!(n.b.stack.epoll_collect(set, 1, |_| {}), 1);
    assert_eq!(read_all(&mut n.b.stack, now, s).unwrap(), b"still here");
    let (c2, s2) = n.connected(l, 80);
    n.a.stack.send(now, c2, &[b"and new ones"], SendFlags::default()).unwrap();
    n.settle();
    assert_eq!(read_all(&mut n.b.stack, now, s2).unwrap(), b"and new ones");
}

/// A loop that takes one connection a round still takes it soon, however many others are ready.
#[test]
fn a_listener_comes_first_where_many_are_ready() {
    let mut n = Net::new();
    let l = n.b.listener(80, 200);
    let set = n.b.stack.epoll_create().unwrap();
    let event = |data| EpollEvent { events: Ready::IN.0, data };
    for data in 1..=100 {
        let (c, s) = n.connected(l, 80);
        n.b.stack.epoll_ctl(set, EpollOp::Add, data as i32, s, event(data)).unwrap();
        let now = n.time();
        n.a.stack.send(now, c, &[b"x"], SendFlags::default()).unwrap();
    }
    n.b.stack.epoll_ctl(set, EpollOp::Add, 1000, l, event(0)).unwrap();
    n.settle();
    let round = |n: &mut Net| {
        let mut got = Vec::new();
        n.b.stack.epoll_collect(set, 512, |e| got.push(e.data));
        got
    };
    assert_eq!(round(&mut n), (1..=100).collect::<Vec<_>>(), "nothing to accept");
    n.connect(80);
    n.connect(80);
    n.settle();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..2 {
        let got = round(&mut n);
        assert_eq!((got[0], got.len()), (0, 64));
        seen.extend(got);
    }
    assert_eq!(seen.len(), 101, "and the others have their turns");
    n.b.accept(l).unwrap();
    n.b.accept(l).unwrap();
    assert_eq!(round(&mut n).len(), 100);
}

/// Descriptors of two processes, one of which dies: what only it held is closed, and the peer is told.
#[test]
fn a_process_that_ends_gives_back_what_it_held() {
    let mut n = Net::new();
    let l = n.b.listener(80, 50);
    let (c, s) = n.connected(l, 80);
    let set = n.b.stack.epoll_create().unwrap();
    n.b.stack.retain_for(5, &[l, s]);
    n.b.stack.set_holder(5);
    n.b.stack.epoll_retain(set);
    n.b.stack.set_holder(IN_FLIGHT);
    assert_eq!((n.b.stack.refs(l), n.b.stack.refs(s), n.b.stack.epoll_refs(set)), (2, 2, 2));
    let now = n.time();
    // The first closes the connection; a death inside of the lock changes nothing of that.
    n.b.stack.release(now, s);
    n.b.stack.work_begins();
    n.b.stack.repair(now);
    n.b.stack.check();
    assert_eq!((n.b.stack.refs(l), n.b.stack.refs(s), n.b.stack.epoll_refs(set)), (2, 1, 2));
    n.b.stack.release_process(now, 5);
    n.settle();
    assert_eq!((n.b.stack.refs(l), n.b.stack.refs(s), n.b.stack.epoll_refs(set)), (1, 0, 1));
    assert_eq!(read_all(&mut n.a.stack, now, c).unwrap(), b"");
    n.b.stack.release_process(now, IN_FLIGHT);
    assert_eq!((n.b.stack.refs(l), n.b.stack.socket_count()), (0, 0));
}

/// Two workers with a set each: one is woken for a connection, and the other one when that dies before it has accepted it.
#[test]
fn an_exclusive_wake_up_does_not_die_with_its_worker() {
    const EXCLUSIVE: EpollEvent = EpollEvent { events: 1 | 1 << 28, data: 0 };
    let mut n = Net::new();
    let l = n.b.listener(80, 50);
    let st = &mut n.b.stack;
    let waiters = [5, 6].map(|holder| {
        st.retain_for(holder, &[l]);
        st.set_holder(holder);
        let set = st.epoll_create().unwrap();
        st.epoll_ctl(set, EpollOp::Add, 7, l, EXCLUSIVE).unwrap();
        let waiter = st.waiter_begin(holder, WakeKind::Futex).unwrap();
        st.wait_on_set(waiter, set, true).unwrap();
        waiter
    });
    st.set_holder(IN_FLIGHT);
    n.connect(80);
    n.settle();
    let now = n.time();
    let st = &mut n.b.stack;
    let woken = |st: &Stack| waiters.map(|w| st.is_waiter_woken(w));
    assert_eq!(woken(st), [true, false]);
    st.waiter_end(waiters[0]);
    assert!(!st.is_waiter_woken(waiters[1]));
    st.release_process(now, 5);
    assert!(st.is_waiter_woken(waiters[1]));
}

/// An exec closes what does not survive it, and nothing when it fails.
#[test]
fn an_exec_closes_what_does_not_survive_it() {
    let mut n = Net::new();
    let l = n.b.listener(80, 50);
    let (_, s) = n.connected(l, 80);
    let now = n.time();
    n.b.stack.retain(s);
    n.b.stack.exec_begins(IN_FLIGHT, &[s]);
    n.b.stack.exec_failed(IN_FLIGHT);
    n.b.stack.exec_begins(IN_FLIGHT, &[s]);
    n.b.stack.exec_happened(now, IN_FLIGHT);
    assert_eq!((n.b.stack.refs(l), n.b.stack.refs(s)), (0, 1));
    n.b.stack.settle_process(now, IN_FLIGHT, &[s, s, s]);
    assert_eq!(n.b.stack.refs(s), 3);
}

/// The connection that was in work when the lock's holder died is reset, and no other.
#[test]
fn a_death_in_the_lock_resets_the_connection_in_work() {
    let mut n = Net::new();
    let l = n.b.listener(80, 50);
    let (_, s1) = n.connected(l, 80);
    let (c2, s2) = n.connected(l, 80);
    let now = n.time();
    n.b.stack.work_begins();
    n.b.stack.send(now, s2, &[b"half"], SendFlags::default()).unwrap();
    n.b.stack.repair(now);
    n.b.stack.check();
    assert_eq!(n.b.stack.tcp_state(s2), State::Closed);
    assert_eq!(n.b.stack.tcp_state(s1), State::Established);
    n.settle();
    let mut byte = [0];
    let read = n.a.stack.recv(now, c2, &mut [&mut byte], RecvFlags::default(), 0);
    assert_eq!(read, Err(Error::ConnectionReset));
}

/// A port whose guard another family has: connections go on there and here, and neither side resets the other's.
#[test]
fn a_port_that_was_given_away_keeps_its_connections() {
    let mut n = Net::new();
    let l = n.b.listener(80, 50);
    let port = n.b.stack.port_of(l).unwrap();
    let (c, s) = n.connected(l, 80);
    let (now, local) = (n.time(), Endpoint::new(B, 80));
    assert_eq!(n.b.stack.may_give(local, true), None, "somebody listens");
    n.b.stack.release(now, l);
    assert_eq!(n.b.stack.may_give(local, false), None, "a connection is there");
    n.b.stack.port_given(port).unwrap();
    assert!(!n.b.stack.port_is_alive(port) && n.b.stack.port_in_use(port));
    n.a.stack.send(now, c, &[b"goes on"], SendFlags::default()).unwrap();
    n.settle();
    assert_eq!(read_all(&mut n.b.stack, now, s).unwrap(), b"goes on");
    // What is not ours is not refused any more: the other family does that.
    let stranger = n.connect(80);
    n.settle();
    assert_eq!(n.a.stack.connect_result(stranger), Err(Error::Already));
}

/// Between its place in the queue and its socket, a connection is not lost.
#[test]
fn a_death_in_accept_leaves_the_connection_in_the_queue() {
    let mut n = Net::new();
    let l = n.b.listener(80, 50);
    let c = n.connect(80);
    n.settle();
    assert_eq!(n.a.stack.connect_result(c), Ok(()));
    n.b.stack.work_begins();
    n.b.stack.accept_begin(l).unwrap();
    let now = n.time();
    n.b.stack.repair(now);
    n.b.stack.check();
    let s = n.b.accept(l).unwrap();
    n.a.stack.send(now, c, &[b"served"], SendFlags::default()).unwrap();
    n.settle();
    assert_eq!(read_all(&mut n.b.stack, now, s).unwrap(), b"served");
}
