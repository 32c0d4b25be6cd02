//! Segments made by hand, for what a well-behaved peer does not send: requests and TIME-WAIT.

use super::*;
use crate::stack::options::SockOpt;
use crate::values::SeqNum;
use crate::wire::tcp::MAX_HEADER_BYTES;
use crate::wire::{Flags, Header, Options, Timestamps};

const CLIENT: u16 = 40_000;
const IRS: SeqNum = SeqNum(1000);

/// A client of which every segment is made by hand, facing the listener on port 80 of `b`.
struct ByHand {
    n: Net,
    listener: SockId,
}

impl ByHand {
    fn new(backlog: i32) -> ByHand {
        Self::with(backlog, Sysctls::default())
    }

    fn with(backlog: i32, sysctls: Sysctls) -> ByHand {
        let mut n = Net::with(sysctls);
        let listener = n.b.listener(80, backlog);
        ByHand { n, listener }
    }

    /// Sends a segment and gives what is answered at once.
    fn say(
        &mut self,
        flags: Flags,
        seq: SeqNum,
        ack: SeqNum,
        ts: Option<u32>,
        payload: &[u8],
    ) -> Vec<Header> {
        self.say_from(CLIENT, flags, seq, ack, ts, payload)
    }

    fn say_from(
        &mut self,
        port: u16,
        flags: Flags,
        seq: SeqNum,
        ack: SeqNum,
        ts: Option<u32>,
        payload: &[u8],
    ) -> Vec<Header> {
        let syn = flags.has(Flags::SYN);
        let hdr = Header {
            src_port: port,
            dst_port: 80,
            seq,
            ack,
            flags,
            window: 5000,
            options: Options {
                mss: syn.then_some(1460),
                timestamps: ts.map(|val| Timestamps { val, ecr: 0 }),
                ..Options::default()
            },
            ..Header::default()
        };
        let mut tcp = [0; MAX_HEADER_BYTES];
        let tcp_len = hdr.emit(&mut tcp);
        let payload_bytes = tcp_len + payload.len();
        let header = ip::Header { src: A, dst: B, proto: PROTO_TCP, ttl: 64, tos: 0, id: 1, payload_bytes };
        let mut bytes = vec![0; ip::MAX_HEADER_BYTES];
        let len = header.emit(&mut bytes);
        bytes.truncate(len);
        bytes.extend_from_slice(&tcp[..tcp_len]);
        bytes.extend_from_slice(payload);
        self.n.deliver(true, &bytes);
        self.heard()
    }

    /// What `b` has sent.
    fn heard(&mut self) -> Vec<Header> {
        let mut out = Out::default();
        let now = self.n.time();
        self.n.b.stack.transmit(now, &mut out);
        self.n.b.stack.check();
        out.0.iter().map(|p| Header::parse(ip::Packet::parse(p).unwrap().payload).unwrap().0).collect()
    }

    /// Lets time pass at `b`; what it has sent meanwhile.
    fn wait(&mut self, ms: u64) -> Vec<Header> {
        let end = self.n.now + ms * 1000;
        let mut heard = self.heard();
        while let Some(at) = self.n.b.stack.next_deadline().filter(|t| t.as_us() <= end) {
            self.n.now = self.n.now.max(at.as_us());
            let now = self.n.time();
            self.n.b.stack.handle_timers(now);
            heard.extend(self.heard());
        }
        self.n.now = end;
        heard
    }

    fn count(&self, counter: Counter) -> u64 {
        self.n.b.stack.counters().value(counter)
    }

    /// Opens a request: the SYN-ACK's sequence number.
    fn request(&mut self, ts: Option<u32>) -> SeqNum {
        let answer = self.say(Flags::SYN, IRS, SeqNum(0), ts, b"");
        assert_eq!(answer.len(), 1);
        assert_eq!((answer[0].flags, answer[0].ack), (Flags::SYN | Flags::ACK, IRS + 1));
        answer[0].seq
    }

    fn request_from(&mut self, port: u16) -> SeqNum {
        self.say_from(port, Flags::SYN, IRS, SeqNum(0), None, b"")[0].seq
    }

    fn states(&self) -> Vec<State> {
        self.n.b.stack.snapshot().iter().map(|i| i.state).collect()
    }

    /// Opens a connection and lets the server close it first: it is in TIME-WAIT. The server's next sequence number.
    fn time_wait(&mut self, ts: Option<u32>) -> SeqNum {
        let iss = self.request(ts);
        self.say(Flags::ACK, IRS + 1, iss + 1, ts, b"");
        let s = self.n.b.accept(self.listener).unwrap();
        let now = self.n.time();
        self.n.b.stack.release(now, s);
        assert_eq!(self.heard()[0].flags, Flags::FIN | Flags::ACK);
        let answer = self.say(Flags::FIN | Flags::ACK, IRS + 1, iss + 2, ts, b"");
        assert_eq!((answer[0].flags, answer[0].ack), (Flags::ACK, IRS + 2));
        assert_eq!(self.states(), [State::Listen, State::TimeWait]);
        iss + 2
    }
}

#[test]
fn synacks_are_repeated_and_given_up() {
    let mut t = ByHand::new(5);
    let began = t.n.now;
    t.request(None);
    let mut times = Vec::new();
    for _ in 0..100 {
        if !t.wait(1000).is_empty() {
            times.push((t.n.now - began) / 1_000_000);
        }
    }
    assert_eq!(times, [1, 3, 7, 15, 31]);
    assert_eq!(t.states(), [State::Listen]);
    assert_eq!((t.count(Counter::TCPSynRetrans), t.count(Counter::TCPTimeouts)), (5, 6));
}

/// While the queue is more than half full, those in it are given up after two repetitions; once four of nine are gone, it is
/// not, and the other five have all of theirs.
#[test]
fn a_crowded_queue_gives_up_sooner() {
    let mut t = ByHand::new(10);
    for n in 0..9 {
        t.say_from(CLIENT + n, Flags::SYN, IRS, SeqNum(0), None, b"");
    }
    let heard = t.wait(100_000);
    assert_eq!(heard.len(), 4 * 2 + 5 * 5);
    assert_eq!(t.states(), [State::Listen]);
}

#[test]
fn an_acknowledgment_of_another_number_gets_a_reset_and_changes_nothing() {
    let mut t = ByHand::new(5);
    let iss = t.request(None);
    for seq in [IRS + 1, IRS + 500_000] {
        let answer = t.say(Flags::ACK, seq, iss + 77, None, b"");
        assert_eq!((answer[0].flags, answer[0].seq), (Flags::RST, iss + 77));
    }
    assert!(t.say(Flags::RST | Flags::ACK, IRS + 1, iss + 77, None, b"").is_empty());
    assert_eq!(t.states(), [State::Listen, State::SynReceived]);
    assert!(t.say(Flags::ACK, IRS + 1, iss + 1, None, b"").is_empty());
    assert_eq!(t.states(), [State::Listen, State::Established]);
}

#[test]
fn resets_and_strange_syns_end_a_request() {
    let mut t = ByHand::new(5);
    t.request(None);
    assert!(t.say(Flags::RST, IRS + 70_000, SeqNum(0), None, b"").is_empty());
    assert_eq!(t.states(), [State::Listen, State::SynReceived]);
    assert!(t.say(Flags::RST, IRS + 1, SeqNum(0), None, b"").is_empty());
    assert_eq!(t.states(), [State::Listen]);
    t.request(None);
    // A new SYN within the window: the old one's sender has forgotten, and so do we.
    let answer = t.say(Flags::SYN, IRS + 10, SeqNum(0), None, b"");
    assert_eq!((answer[0].flags, answer[0].ack), (Flags::RST | Flags::ACK, IRS + 11));
    assert_eq!(t.states(), [State::Listen]);
    assert_eq!((t.count(Counter::EmbryonicRsts), t.count(Counter::AttemptFails)), (2, 2));
}

#[test]
fn old_timestamps_and_far_segments_get_one_ack_in_a_while() {
    let mut t = ByHand::new(5);
    let iss = t.request(Some(500));
    let answer = t.say(Flags::ACK, IRS + 1, iss + 1, Some(499), b"");
    assert_eq!((answer[0].flags, answer[0].ack), (Flags::ACK, IRS + 1));
    assert!(t.say(Flags::ACK, IRS + 1, iss + 1, Some(499), b"").is_empty(), "within tcp_invalid_ratelimit");
    assert_eq!(t.say(Flags::ACK, IRS + 80_000, iss + 1, Some(501), b"data").len(), 1, "data is not limited");
    assert_eq!((t.count(Counter::PAWSEstab), t.count(Counter::TCPACKSkippedSynRecv)), (2, 1));
    t.say(Flags::ACK, IRS + 1, iss + 1, Some(501), b"");
    assert_eq!(t.states(), [State::Listen, State::Established]);
}

#[test]
fn a_repeated_syn_is_answered_again_but_not_at_any_rate() {
    let mut t = ByHand::new(5);
    let iss = t.request(None);
    let again = t.say(Flags::SYN, IRS, SeqNum(0), None, b"");
    assert_eq!((again[0].flags, again[0].seq), (Flags::SYN | Flags::ACK, iss));
    assert!(t.say(Flags::SYN, IRS, SeqNum(0), None, b"").is_empty());
    t.wait(600);
    assert_eq!(t.say(Flags::SYN, IRS, SeqNum(0), None, b"").len(), 1);
    assert_eq!(t.states(), [State::Listen, State::SynReceived]);
}

#[test]
fn data_with_the_final_ack_is_delivered_and_a_full_queue_lets_it_come_again() {
    let mut t = ByHand::new(1);
    let first = t.request(None);
    t.say(Flags::ACK, IRS + 1, first + 1, None, b"first");
    let listener = t.listener;
    let s = t.n.b.accept(listener).unwrap();
    let now = t.n.time();
    assert_eq!(read_all(&mut t.n.b.stack, now, s).unwrap(), b"first");
    let iss = t.request_from(CLIENT + 9);
    t.say_from(CLIENT + 9, Flags::ACK, IRS + 1, iss + 1, None, b"");
    // Two requests at once, room for one.
    let mut isses = Vec::new();
    for n in 1..3 {
        isses.push(t.request_from(CLIENT + n));
    }
    for n in 0..2 {
        t.say_from(CLIENT + 1 + n, Flags::ACK, IRS + 1, isses[usize::from(n)] + 1, None, b"data");
    }
    assert_eq!((t.count(Counter::ListenOverflows), t.count(Counter::ListenDrops)), (1, 1));
    t.n.b.accept(listener).unwrap();
    t.n.b.accept(listener).unwrap();
    let again = t.wait(1500);
    assert!(again.iter().any(|h| h.flags == Flags::SYN | Flags::ACK && h.seq == isses[1]), "{again:?}");
    t.say_from(CLIENT + 2, Flags::ACK, IRS + 1, isses[1] + 1, None, b"data");
    let s = t.n.b.accept(listener).unwrap();
    let now = t.n.time();
    assert_eq!(read_all(&mut t.n.b.stack, now, s).unwrap(), b"data");
}

#[test]
fn cookies_are_looked_for_only_lately_and_never_forged() {
    let mut sysctls = Sysctls::default();
    sysctls.set("net.ipv4.tcp_syncookies", "2").unwrap();
    let mut t = ByHand::with(5, sysctls);
    // None was sent yet: an ACK is just wrong.
    assert_eq!(t.say(Flags::ACK, IRS + 1, SeqNum(9), None, b"")[0].flags, Flags::RST);
    assert_eq!(t.count(Counter::SyncookiesFailed), 0);
    let iss = t.request_by_cookie();
    assert_eq!(t.say(Flags::ACK, IRS + 1, iss + 2, None, b"")[0].flags, Flags::RST);
    assert_eq!(t.say(Flags::ACK, IRS + 50, iss + 1, None, b"")[0].flags, Flags::RST);
    assert_eq!(t.count(Counter::SyncookiesFailed), 2);
    t.wait(125_000);
    assert_eq!(t.say(Flags::ACK, IRS + 1, iss + 1, None, b"")[0].flags, Flags::RST, "too old");
    let iss = t.request_by_cookie();
    assert!(t.say(Flags::ACK, IRS + 1, iss + 1, None, b"").is_empty());
    assert_eq!(t.states(), [State::Listen, State::Established]);
}

impl ByHand {
    fn request_by_cookie(&mut self) -> SeqNum {
        let iss = self.request(None);
        assert_eq!(self.states(), [State::Listen]);
        iss
    }
}

#[test]
fn time_wait_answers_what_is_late_and_makes_way_for_what_is_new() {
    let mut t = ByHand::new(5);
    let nxt = t.time_wait(Some(100));
    // The peer's FIN again: it did not hear us.
    let answer = t.say(Flags::FIN | Flags::ACK, IRS + 1, nxt, Some(100), b"");
    assert_eq!((answer[0].flags, answer[0].ack, answer[0].seq), (Flags::ACK, IRS + 2, nxt));
    // Late data is answered, an ACK in place is not.
    assert_eq!(t.say(Flags::ACK, IRS - 50, nxt, Some(100), b"late").len(), 1);
    assert!(t.say(Flags::ACK, IRS + 2, nxt, Some(101), b"").is_empty());
    // An old SYN, by number and by timestamp.
    t.wait(600);
    assert_eq!(t.say(Flags::SYN, IRS, SeqNum(0), Some(99), b"")[0].flags, Flags::ACK);
    assert!(
        t.say(Flags::SYN, IRS + 9000, SeqNum(0), Some(99), b"").is_empty(),
        "later, but of an older time"
    );
    assert_eq!(t.states(), [State::Listen, State::TimeWait]);
    // A later timestamp is enough (RFC 6191).
    let answer = t.say(Flags::SYN, IRS - 1000, SeqNum(0), Some(102), b"");
    assert_eq!((answer[0].flags, answer[0].seq), (Flags::SYN | Flags::ACK, nxt + 65_537));
    assert_eq!(t.states(), [State::Listen, State::SynReceived]);
}

#[test]
fn time_wait_ends_after_a_minute_or_by_assassination() {
    let mut t = ByHand::new(5);
    t.time_wait(None);
    t.wait(59_000);
    assert_eq!(t.states(), [State::Listen, State::TimeWait]);
    t.wait(1100);
    assert_eq!(t.states(), [State::Listen]);
    let nxt = t.time_wait(None);
    t.say(Flags::RST, IRS + 1, nxt, None, b"");
    assert_eq!(t.states(), [State::Listen, State::TimeWait], "not the number that is expected");
    t.say(Flags::RST, IRS + 2, nxt, None, b"");
    assert_eq!(t.states(), [State::Listen]);
    let mut sysctls = Sysctls::default();
    sysctls.set("net.ipv4.tcp_rfc1337", "1").unwrap();
    let mut t = ByHand::with(5, sysctls);
    let nxt = t.time_wait(None);
    t.say(Flags::RST, IRS + 2, nxt, None, b"");
    assert_eq!(t.states(), [State::Listen, State::TimeWait], "RFC 1337");
}

#[test]
fn a_socket_keeps_what_it_has_not_read_when_its_names_are_taken_over() {
    let mut t = ByHand::new(5);
    let iss = t.request(None);
    t.say(Flags::ACK, IRS + 1, iss + 1, None, b"");
    let listener = t.listener;
    let s = t.n.b.accept(listener).unwrap();
    let now = t.n.time();
    t.n.b.stack.shutdown(now, s, ShutdownHow::Write).unwrap();
    t.heard();
    t.say(Flags::FIN | Flags::ACK, IRS + 1, iss + 2, None, b"unread");
    assert_eq!(t.states(), [State::Listen, State::TimeWait]);
    let answer = t.say(Flags::SYN, IRS + 100_000, SeqNum(0), None, b"");
    assert_eq!(answer[0].flags, Flags::SYN | Flags::ACK);
    assert_eq!(read_all(&mut t.n.b.stack, now, s).unwrap(), b"unread");
    assert_eq!(read_all(&mut t.n.b.stack, now, s).unwrap(), b"");
    t.n.b.stack.release(now, s);
    assert_eq!(t.states(), [State::Listen, State::SynReceived]);
}

#[test]
fn time_waits_are_bounded() {
    let mut sysctls = Sysctls::default();
    sysctls.set("net.ipv4.tcp_max_tw_buckets", "0").unwrap();
    let mut t = ByHand::with(5, sysctls);
    let iss = t.request(None);
    t.say(Flags::ACK, IRS + 1, iss + 1, None, b"");
    let listener = t.listener;
    let s = t.n.b.accept(listener).unwrap();
    let now = t.n.time();
    t.n.b.stack.release(now, s);
    t.heard();
    t.say(Flags::FIN | Flags::ACK, IRS + 1, iss + 2, None, b"");
    assert_eq!(t.states(), [State::Listen]);
    assert_eq!(t.count(Counter::TCPTimeWaitOverflow), 1);
}

#[test]
fn connect_reuses_a_time_wait_where_it_may() {
    let mut sysctls = Sysctls::default();
    sysctls.set("net.ipv4.tcp_tw_reuse", "1").unwrap();
    let mut n = Net::with(sysctls);
    let l = n.b.listener(80, 5);
    let (c, s) = n.connected(l, 80);
    let now = n.time();
    let local = n.a.stack.local(c).unwrap();
    n.a.stack.release(now, c);
    n.b.stack.release(now, s);
    n.settle();
    let again = |n: &mut Net| {
        let id = n.a.socket();
        let guard = n.a.stack.port_covering(local.addr, local.port).unwrap();
        n.a.stack.bound(id, local, Some(guard));
        let now = n.time();
        n.a.stack.connect(now, id, Endpoint::new(B, 80), &Route { source: A, mtu: 1500 })
    };
    assert_eq!(again(&mut n), Err(Error::AddressNotAvailable), "not within a second");
    n.pass(1500);
    assert_eq!(again(&mut n), Err(Error::InProgress));
    n.settle();
    assert_eq!(n.a.stack.counters().value(Counter::TWRecycled), 1);
    assert!(n.a.stack.snapshot().iter().any(|i| i.state == State::Established));
}

/// Segments, calls and time in any order: nothing panics, nothing leaks, the invariants hold, and the listener still serves.
#[test]
fn anything_may_come_in_any_order() {
    let mut early = 0;
    for seed in 0..12u64 {
        for cookies in ["0", "1", "2"] {
            early += chaos(seed, cookies);
        }
    }
    assert!(early > 50, "{early} connections only were made at the SYN");
}

/// How many connections were made at the SYN.
fn chaos(seed: u64, cookies: &str) -> u64 {
    let mut state = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut rand = move |n: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 20) % n
    };
    let mut sysctls = Sysctls::default();
    sysctls.set("net.ipv4.tcp_syncookies", cookies).unwrap();
    sysctls.set("net.ipv4.tcp_abort_on_overflow", ["0", "1"][rand(2) as usize]).unwrap();
    sysctls.set("net.ipv4.tcp_max_tw_buckets", ["3", "1000"][rand(2) as usize]).unwrap();
    // 514: with TCP_FASTOPEN, a SYN with data makes a connection without any cookie.
    sysctls.set("net.ipv4.tcp_fastopen", ["1", "514"][rand(2) as usize]).unwrap();
    let mut t = ByHand::with(rand(4) as i32, sysctls);
    let listener = t.listener;
    let now = t.n.time();
    t.n.b.stack.set_option(now, listener, SockOpt::FastOpen, rand(4) as i64).unwrap();
    let mut sockets = Vec::new();
    // What the stack has said last to each of a few ports.
    let mut heard = [Header::default(); 5];
    let mut next = [IRS; 5];
    for _ in 0..1500 {
        let port = rand(5) as usize;
        let flags = [
            Flags::SYN,
            Flags::ACK,
            Flags::ACK,
            Flags::PSH | Flags::ACK,
            Flags::FIN | Flags::ACK,
            Flags::RST,
            Flags::SYN | Flags::ACK,
            Flags(rand(256) as u8),
        ][rand(8) as usize];
        let near = |to: SeqNum, r: u64| match r {
            0 => to + 1,
            1 => to - 1,
            2 => to + 70_000,
            3 => to - 2_000_000,
            _ => to,
        };
        let seq = near(next[port], rand(12));
        let ack = near(heard[port].seq + heard[port].seq_len(0), rand(12));
        let ts = (rand(3) > 0).then(|| (t.n.now / 1000 + 10_000) as u32 - rand(2) as u32 * 5000);
        let payload = vec![seed as u8; [0, 0, 1, 100, 1460][rand(5) as usize]];
        let answers = t.say_from(CLIENT + port as u16, flags, seq, ack, ts, &payload);
        for answer in &answers {
            heard[usize::from(answer.dst_port - CLIENT)] = *answer;
            next[usize::from(answer.dst_port - CLIENT)] = answer.ack;
        }
        let now = t.n.time();
        match rand(14) {
            0 => drop(t.wait([1, 300, 2000, 70_000][rand(4) as usize])),
            1..=3 => sockets.extend(t.n.b.accept(listener)),
            4 if !sockets.is_empty() => {
                let id = sockets.swap_remove(rand(sockets.len() as u64) as usize);
                t.n.b.stack.release(now, id);
            }
            5 if !sockets.is_empty() => {
                let id = sockets[rand(sockets.len() as u64) as usize];
                let how = [ShutdownHow::Read, ShutdownHow::Write, ShutdownHow::Both][rand(3) as usize];
                let _ = t.n.b.stack.shutdown(now, id, how);
            }
            6 if !sockets.is_empty() => {
                let id = sockets[rand(sockets.len() as u64) as usize];
                let _ = read_all(&mut t.n.b.stack, now, id);
                let _ = t.n.b.stack.send(now, id, &[&[1; 3000]], SendFlags::default());
            }
            7 if rand(30) == 0 => {
                let shut = t.n.b.stack.shutdown(now, listener, ShutdownHow::Read);
                assert_eq!(shut, Ok(()), "seed {seed}");
                t.n.b.stack.listen(listener, rand(4) as i32).unwrap();
            }
            _ => {}
        }
        t.heard();
    }
    // Everything comes to an end.
    let now = t.n.time();
    for id in sockets {
        t.n.b.stack.release(now, id);
    }
    while let Ok(id) = t.n.b.accept(listener) {
        t.n.b.stack.release(now, id);
    }
    t.wait(2_000_000);
    assert_eq!(t.states(), [State::Listen], "seed {seed}, cookies {cookies}");
    let used: usize =
        t.n.b
            .stack
            .usage()
            .iter()
            .filter(|u| !["sockets", "ports", "holds"].contains(&u.0))
            .map(|u| u.1)
            .sum();
    assert_eq!(used, 0, "seed {seed}: {:?}", t.n.b.stack.usage());
    assert_eq!(t.n.b.stack.sockets[listener].fast.len, 0, "seed {seed}: connections that are gone count");
    t.say_from(CLIENT + 99, Flags::SYN, IRS, SeqNum(0), None, b"");
    assert_eq!(t.n.b.stack.counters().value(Counter::TableFull), 0);
    t.n.b.stack.counters().value(Counter::TCPFastOpenPassive)
}
