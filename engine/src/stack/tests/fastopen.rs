//! TCP Fast Open between two stacks (RFC 7413).

use super::*;
use crate::stack::options::SockOpt;

fn net(settings: &[(&str, &str)]) -> Net {
    let mut sysctls = Sysctls::default();
    sysctls.set("net.ipv4.tcp_fastopen", "3").unwrap();
    for (name, value) in settings {
        sysctls.set(&format!("net.ipv4.{name}"), value).unwrap();
    }
    Net::with(sysctls)
}

impl Net {
    fn fast_listener(&mut self, queue: i64) -> SockId {
        let l = self.b.listener(80, 50);
        let now = self.time();
        self.b.stack.set_option(now, l, SockOpt::FastOpen, queue).unwrap();
        l
    }

    /// A client's socket with an address of its own.
    fn fast_socket(&mut self) -> SockId {
        let id = self.a.socket();
        self.next_port += 1;
        let local = Endpoint::new(A, self.next_port);
        let guard = self.a.stack.port_create(local, PortKind::Bound).unwrap();
        self.a.stack.bound(id, local, None);
        self.a.stack.set_port(id, guard);
        id
    }

    /// sendto(2) with MSG_FASTOPEN: the socket, and how many bytes the SYN has taken.
    fn send_fast(&mut self, data: &[u8]) -> (SockId, usize) {
        let id = self.fast_socket();
        let (now, route) = (self.time(), Route { source: A, mtu: 1500 });
        self.a.stack.connect_with_data(now, id, Endpoint::new(B, 80), &route).unwrap();
        (id, self.a.stack.write_syn(now, id, data))
    }

    /// A first connection, which brings the cookie.
    fn get_cookie(&mut self, listener: SockId) {
        let (c, taken) = self.send_fast(b"early");
        assert_eq!(taken, 0, "there is no cookie yet");
        self.settle();
        assert_eq!(self.a.stack.connect_result(c), Ok(()));
        let s = self.b.accept(listener).unwrap();
        let now = self.time();
        assert_eq!(self.a.stack.tcp_info(now, c).unwrap().fastopen_client_fail, 1);
        self.b.stack.release(now, s);
        self.a.stack.release(now, c);
        self.settle();
    }

    /// What one side has to send now, taken off the wire.
    fn sent_by(&mut self, a: bool) -> Vec<Vec<u8>> {
        let mut out = Out::default();
        let now = self.time();
        let host = if a { &mut self.a } else { &mut self.b };
        host.stack.transmit(now, &mut out);
        out.0
    }

    fn count(&self, a: bool, counter: Counter) -> u64 {
        (if a { &self.a } else { &self.b }).stack.counters().value(counter)
    }
}

fn header_of(packet: &[u8]) -> (crate::wire::Header, Vec<u8>) {
    let packet = ip::Packet::parse(packet).unwrap();
    let (hdr, offset) = crate::wire::Header::parse(packet.payload).unwrap();
    (hdr, packet.payload[offset..].to_vec())
}

#[test]
fn the_second_connection_is_read_and_answered_before_its_handshake_ends() {
    let mut n = net(&[]);
    let l = n.fast_listener(5);
    n.get_cookie(l);
    assert_eq!(n.count(false, Counter::TCPFastOpenCookieReqd), 1);
    assert_eq!(
        (n.count(true, Counter::TCPFastOpenActive), n.count(false, Counter::TCPFastOpenPassive)),
        (0, 0)
    );

    let (c, taken) = n.send_fast(b"hello");
    assert_eq!(taken, 5);
    let syn = n.sent_by(true).remove(0);
    assert_eq!(header_of(&syn).1, b"hello");
    n.deliver(true, &syn);
    let s = n.b.accept(l).unwrap();
    assert_eq!(n.b.stack.tcp_state(s), State::SynReceived);
    let now = n.time();
    assert_eq!(read_all(&mut n.b.stack, now, s).unwrap(), b"hello");
    assert_eq!(n.b.stack.send(now, s, &[b"world"], SendFlags::default()), Ok(5));
    let answers = n.sent_by(false);
    let (synack, _) = header_of(&answers[0]);
    assert_eq!(synack.ack, header_of(&syn).0.seq + 6);
    assert_eq!(header_of(&answers[1]).1, b"world");
    answers.iter().for_each(|p| n.deliver(false, p));
    n.settle();
    assert_eq!(n.a.stack.connect_result(c), Ok(()));
    assert_eq!(n.b.stack.tcp_state(s), State::Established);
    assert_eq!(read_all(&mut n.a.stack, now, c).unwrap(), b"world");
    assert_eq!(
        (n.count(true, Counter::TCPFastOpenActive), n.count(false, Counter::TCPFastOpenPassive)),
        (1, 1)
    );
    for info in [n.a.stack.tcp_info(now, c), n.b.stack.tcp_info(now, s)] {
        assert!(info.unwrap().syn_data);
    }
    // Nothing of it is left over.
    n.b.stack.release(now, s);
    n.a.stack.release(now, c);
    n.pass(61_000);
    assert!(n.b.stack.snapshot().iter().all(|i| i.state == State::Listen));
}

#[test]
fn the_first_syn_carries_what_fits_and_leaves_room_for_options() {
    let mut n = net(&[]);
    let l = n.fast_listener(5);
    n.get_cookie(l);
    let (c, taken) = n.send_fast(&[7; 5000]);
    assert_eq!(taken, 1420);
    n.settle();
    assert_eq!(n.a.stack.connect_result(c), Ok(()));
    let now = n.time();
    let s = n.b.accept(l).unwrap();
    assert_eq!(read_all(&mut n.b.stack, now, s).unwrap(), [7; 1420]);
}

#[test]
fn a_lost_syn_is_followed_by_an_ordinary_one_and_its_data_by_the_ack() {
    let mut n = net(&[]);
    let l = n.fast_listener(5);
    n.get_cookie(l);
    let (c, _) = n.send_fast(b"hello");
    assert_eq!(n.sent_by(true).len(), 1);
    n.now += 1_100_000;
    let now = n.time();
    n.a.stack.handle_timers(now);
    let again = n.sent_by(true).remove(0);
    let (hdr, payload) = header_of(&again);
    assert!(hdr.options.fast_open.is_absent() && payload.is_empty(), "{hdr:?}");
    n.deliver(true, &again);
    n.pass(100);
    assert_eq!(n.a.stack.connect_result(c), Ok(()));
    let s = n.b.accept(l).unwrap();
    let now = n.time();
    assert_eq!(read_all(&mut n.b.stack, now, s).unwrap(), b"hello");
    assert_eq!(n.a.stack.tcp_info(now, c).unwrap().fastopen_client_fail, 3);
    assert_eq!(
        (n.count(true, Counter::TCPFastOpenActive), n.count(true, Counter::TCPFastOpenActiveFail)),
        (0, 1)
    );
    assert_eq!(n.count(false, Counter::TCPFastOpenPassive), 0);
}

#[test]
fn a_lost_synack_is_sent_again_and_the_data_counts_once() {
    for reply in [false, true] {
        let mut n = net(&[]);
        let l = n.fast_listener(5);
        n.get_cookie(l);
        let (c, _) = n.send_fast(b"hello");
        let syn = n.sent_by(true).remove(0);
        n.deliver(true, &syn);
        let s = n.b.accept(l).unwrap();
        let now = n.time();
        assert_eq!(read_all(&mut n.b.stack, now, s).unwrap(), b"hello");
        if reply {
            n.b.stack.send(now, s, &[b"world"], SendFlags::default()).unwrap();
        }
        assert_eq!(n.sent_by(false).len(), 1 + usize::from(reply), "all lost");
        // Both ends' timers come, and the client's SYN is answered as well.
        n.pass(5_000);
        assert_eq!(n.a.stack.connect_result(c), Ok(()));
        let now = n.time();
        assert_eq!(read_all(&mut n.b.stack, now, s), Err(Error::WouldBlock));
        assert_eq!(n.b.stack.tcp_state(s), State::Established);
        let expected = if reply { Ok(b"world".to_vec()) } else { Err(Error::WouldBlock) };
        assert_eq!(read_all(&mut n.a.stack, now, c), expected);
        assert!(n.count(false, Counter::TCPSynRetrans) >= 1);
        assert_eq!(n.count(true, Counter::TCPFastOpenActive), 1);
    }
}

#[test]
fn a_client_that_is_never_heard_of_again_ends_the_connection() {
    let mut n = net(&[("tcp_synack_retries", "2")]);
    let l = n.fast_listener(1);
    n.get_cookie(l);
    n.send_fast(b"hello");
    let syn = n.sent_by(true).remove(0);
    n.deliver(true, &syn);
    let s = n.b.accept(l).unwrap();
    let now = n.time();
    assert_eq!(read_all(&mut n.b.stack, now, s).unwrap(), b"hello");
    let mut synacks = n.sent_by(false).len();
    for _ in 0..40 {
        n.now += 500_000;
        let now = n.time();
        n.b.stack.handle_timers(now);
        synacks += n.sent_by(false).len();
    }
    // 1 + 3, the last of which waits for 8 seconds.
    assert_eq!(synacks, 4);
    let now = n.time();
    assert_eq!(read_all(&mut n.b.stack, now, s), Err(Error::TimedOut));
    assert_eq!(n.count(false, Counter::TCPAbortOnTimeout), 1);
}

#[test]
fn beyond_the_queue_handshakes_are_ordinary() {
    let mut n = net(&[]);
    let l = n.fast_listener(2);
    n.get_cookie(l);
    for _ in 0..3 {
        n.send_fast(b"hello");
    }
    for syn in n.sent_by(true) {
        n.deliver(true, &syn);
    }
    assert_eq!(n.count(false, Counter::TCPFastOpenPassive), 2);
    assert_eq!(n.count(false, Counter::TCPFastOpenListenOverflow), 1);
    n.settle();
    assert_eq!(n.count(true, Counter::TCPFastOpenActive), 2);
    assert_eq!(n.count(true, Counter::TCPFastOpenActiveFail), 1);
    let now = n.time();
    for _ in 0..3 {
        let s = n.b.accept(l).unwrap();
        assert_eq!(read_all(&mut n.b.stack, now, s).unwrap(), b"hello");
    }
    // Their handshakes are over: there is room again.
    n.send_fast(b"hello");
    n.settle();
    assert_eq!(n.count(false, Counter::TCPFastOpenPassive), 3);
}

#[test]
fn a_reset_of_an_accepted_connection_counts_for_a_minute() {
    let mut n = net(&[]);
    let l = n.fast_listener(1);
    n.get_cookie(l);
    let syn_and_reset = |n: &mut Net, accepts: bool| {
        let (c, _) = n.send_fast(b"hello");
        let syn = n.sent_by(true).remove(0);
        n.deliver(true, &syn);
        let answers = n.sent_by(false);
        // The client is gone; its host resets what comes for it.
        let now = n.time();
        n.a.stack.release(now, c);
        let local = Endpoint::new(A, n.next_port);
        n.a.stack.port_create(local, PortKind::Bound).unwrap();
        let s = accepts.then(|| n.b.accept(l).unwrap());
        answers.iter().for_each(|p| n.deliver(false, p));
        n.settle();
        let s = s.unwrap_or_else(|| n.b.accept(l).unwrap());
        assert_eq!(read_all(&mut n.b.stack, now, s).unwrap(), b"hello");
        assert_eq!(read_all(&mut n.b.stack, now, s), Err(Error::ConnectionReset));
    };
    // Before accept(2) it makes room at once.
    syn_and_reset(&mut n, false);
    syn_and_reset(&mut n, true);
    assert_eq!(n.count(false, Counter::TCPFastOpenPassive), 2);
    n.send_fast(b"hello");
    n.pass(59_000);
    assert_eq!(n.count(false, Counter::TCPFastOpenListenOverflow), 1);
    n.pass(2_000);
    n.send_fast(b"hello");
    n.settle();
    assert_eq!(n.count(false, Counter::TCPFastOpenPassive), 3);
}

#[test]
fn keys_change() {
    let (old, new) = ([1u8; 16], [2u8; 16]);
    let mut n = net(&[]);
    let l = n.fast_listener(5);
    let st = &mut n.b.stack;
    assert_eq!(st.fastopen_key(l).unwrap(), []);
    assert_eq!(st.set_fastopen_key(l, &old[1..]), Err(Error::Invalid));
    st.set_fastopen_key(l, &old).unwrap();
    n.get_cookie(l);
    n.send_fast(b"hello");
    n.settle();
    assert_eq!(n.count(false, Counter::TCPFastOpenPassive), 1);
    // The cookie of the older key is good, and answered by one of the new key.
    let both = [new, old].concat();
    n.b.stack.set_fastopen_key(l, &both).unwrap();
    assert_eq!(n.b.stack.fastopen_key(l).unwrap(), both);
    for _ in 0..2 {
        n.send_fast(b"hello");
        n.settle();
    }
    assert_eq!(n.count(false, Counter::TCPFastOpenPassive), 3);
    assert_eq!(n.count(false, Counter::TCPFastOpenPassiveAltKey), 1);
    // That of a key that is gone is not, and is answered as well.
    n.b.stack.set_fastopen_key(l, &[3; 16]).unwrap();
    for _ in 0..2 {
        n.send_fast(b"hello");
        n.settle();
    }
    assert_eq!(n.count(false, Counter::TCPFastOpenPassive), 4);
    assert_eq!(n.count(false, Counter::TCPFastOpenPassiveFail), 1);
    assert_eq!(n.count(true, Counter::TCPFastOpenActiveFail), 1);
}

#[test]
fn a_deferred_connect_sends_nothing_before_the_first_write() {
    let mut n = net(&[]);
    let l = n.fast_listener(5);
    let route = Route { source: A, mtu: 1500 };
    for round in 0..2 {
        let c = n.fast_socket();
        let now = n.time();
        n.a.stack.set_option(now, c, SockOpt::FastOpenConnect, 1).unwrap();
        let begun = n.a.stack.connect(now, c, Endpoint::new(B, 80), &route);
        if round == 0 {
            // No cookie: an ordinary connect, which asks for one.
            assert_eq!(begun, Err(Error::InProgress));
        } else {
            assert_eq!(begun, Ok(()));
            assert!(n.a.stack.is_deferred(c));
            assert_eq!(n.sent_by(true).len(), 0);
            assert!(n.a.stack.readiness(c).any(Ready::OUT));
            n.a.stack.open_with_data(now, c).unwrap();
            assert_eq!(n.a.stack.write_syn(now, c, b"hello"), 5);
            assert!(!n.a.stack.is_deferred(c) && !n.a.stack.readiness(c).any(Ready::OUT));
        }
        n.settle();
        assert_eq!(n.a.stack.connect_result(c), Ok(()));
        n.b.accept(l).unwrap();
    }
    assert_eq!(n.count(false, Counter::TCPFastOpenPassive), 1);
    assert_eq!(n.count(true, Counter::ActiveOpens), 2);
}

#[test]
fn without_cookies() {
    // 4: the client needs none, 0x200: the server needs none.
    let mut n = net(&[("tcp_fastopen", "519")]);
    let l = n.fast_listener(5);
    let (_, taken) = n.send_fast(b"hello");
    assert_eq!(taken, 5);
    let syn = n.sent_by(true).remove(0);
    assert!(header_of(&syn).0.options.fast_open.is_absent());
    n.deliver(true, &syn);
    let s = n.b.accept(l).unwrap();
    let now = n.time();
    assert_eq!(read_all(&mut n.b.stack, now, s).unwrap(), b"hello");
}

#[test]
fn every_listener_if_the_sysctl_says_so() {
    for (value, queue) in [("3", 0), ("1027", 50), ("1024", 0)] {
        let mut n = net(&[("tcp_fastopen", value)]);
        let l = n.b.listener(80, 50);
        assert_eq!(n.b.stack.get_option(l, SockOpt::FastOpen), Ok(queue), "{value}");
    }
}

#[test]
fn a_server_that_does_not_answer_is_asked_in_the_other_form() {
    let mut n = net(&[]);
    // No TCP_FASTOPEN.
    n.b.listener(80, 50);
    let mut forms = Vec::new();
    for _ in 0..3 {
        let (c, taken) = n.send_fast(b"hello");
        assert_eq!(taken, 0);
        let syn = n.sent_by(true).remove(0);
        forms.push(header_of(&syn).0.options.fast_open.form as u8);
        n.deliver(true, &syn);
        n.settle();
        assert_eq!(n.a.stack.connect_result(c), Ok(()));
    }
    assert_eq!(forms, [1, 2, 1]);
}

/// tcp_fastopen_active_detect_blackhole: a pause, and twice as long the next time.
#[test]
fn a_blackhole_pauses_fast_open() {
    let mut n = net(&[("tcp_fastopen_blackhole_timeout_sec", "100")]);
    let l = n.fast_listener(5);
    n.get_cookie(l);
    for round in 0..2 {
        let (c, taken) = n.send_fast(b"hello");
        assert_eq!(taken, 5);
        n.sent_by(true);
        for _ in 0..10 {
            n.now += 500_000;
            let now = n.time();
            n.a.stack.handle_timers(now);
            n.sent_by(true);
        }
        assert_eq!(n.count(true, Counter::TCPFastOpenBlackhole), round + 1);
        let now = n.time();
        n.a.stack.release(now, c);
        let (c, taken) = n.send_fast(b"hello");
        assert_eq!(taken, 0, "it rests");
        let syn = n.sent_by(true).remove(0);
        assert!(header_of(&syn).0.options.fast_open.is_absent());
        n.a.stack.release(now, c);
        n.now += 100_000_000 << round;
    }
    // What works again ends it: the next blackhole begins anew.
    let (c, _) = n.send_fast(b"hello");
    n.settle();
    let now = n.time();
    let s = n.b.accept(l).unwrap();
    n.b.stack.send(now, s, &[b"world"], SendFlags::default()).unwrap();
    n.settle();
    assert_eq!(read_all(&mut n.a.stack, now, c).unwrap(), b"world");
    n.a.stack.release(now, c);
    n.b.stack.release(now, s);
    n.pass(61_000);
    let (_, taken) = n.send_fast(b"hello");
    assert_eq!(taken, 5);
}

/// tcp_close in SYN-RECEIVED: the FIN leaves at once; shutdown(2): with the end of the handshake.
#[test]
fn the_end_before_the_handshakes_end() {
    for closes in [true, false] {
        let mut n = net(&[]);
        let l = n.fast_listener(5);
        n.get_cookie(l);
        let (c, _) = n.send_fast(b"hello");
        let syn = n.sent_by(true).remove(0);
        n.deliver(true, &syn);
        let s = n.b.accept(l).unwrap();
        let now = n.time();
        read_all(&mut n.b.stack, now, s).unwrap();
        n.b.stack.send(now, s, &[b"world"], SendFlags::default()).unwrap();
        if closes {
            n.b.stack.release(now, s);
        } else {
            n.b.stack.shutdown(now, s, ShutdownHow::Write).unwrap();
        }
        let answers = n.sent_by(false);
        let fins = answers.iter().filter(|p| header_of(p).0.flags.has(crate::wire::Flags::FIN)).count();
        assert_eq!(fins, usize::from(closes));
        answers.iter().for_each(|p| n.deliver(false, p));
        n.settle();
        assert_eq!(read_all(&mut n.a.stack, now, c).unwrap(), b"world");
        assert_eq!(read_all(&mut n.a.stack, now, c).unwrap(), b"");
        n.a.stack.release(now, c);
        n.pass(61_000);
        assert!(n.a.stack.snapshot().is_empty());
    }
}

/// Both ends, with every fifth packet lost: all that was written arrives once and in order, whether it went in the SYN or not.
#[test]
fn nothing_is_lost_or_doubled_on_a_bad_line() {
    let mut early = 0;
    for seed in 1..25u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut lost = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 20) % 5 == 0
        };
        let mut n = net(&[]);
        let l = n.fast_listener(5);
        n.get_cookie(l);
        let request: Vec<u8> = (0..4000u32).map(|i| (i * 7) as u8).collect();
        let reply: Vec<u8> = (0..3000u32).map(|i| (i * 5) as u8).collect();
        let (c, mut written) = n.send_fast(&request[..(seed as usize * 37) % 1500]);
        let (mut s, mut answered) = (None, 0);
        let (mut got, mut heard) = (Vec::new(), Vec::new());
        let end = n.now + 60_000_000;
        while (got.len() < request.len() || heard.len() < reply.len()) && n.now < end {
            n.now += 50_000;
            let now = n.time();
            n.a.stack.handle_timers(now);
            n.b.stack.handle_timers(now);
            for a in [true, false] {
                for packet in n.sent_by(a) {
                    if !lost() {
                        n.deliver(a, &packet);
                    }
                }
            }
            s = s.or_else(|| n.b.accept(l).ok());
            written += n.a.stack.send(now, c, &[&request[written..]], SendFlags::default()).unwrap_or(0);
            heard.extend(read_all(&mut n.a.stack, now, c).unwrap_or_default());
            if let Some(s) = s {
                early += u64::from(n.b.stack.tcp_state(s) == State::SynReceived);
                got.extend(read_all(&mut n.b.stack, now, s).unwrap_or_default());
                let left = &reply[answered..];
                answered += n.b.stack.send(now, s, &[left], SendFlags::default()).unwrap_or(0);
            }
        }
        assert_eq!((&got, &heard), (&request, &reply), "seed {seed}");
    }
    assert!(early > 10, "{early} times only was a connection used before its handshake ended");
}

#[test]
fn a_death_in_the_lock_keeps_early_connections_and_their_count() {
    let mut n = net(&[]);
    let l = n.fast_listener(1);
    n.get_cookie(l);
    n.send_fast(b"hello");
    let syn = n.sent_by(true).remove(0);
    n.deliver(true, &syn);
    let now = n.time();
    n.b.stack.work_begins();
    n.b.stack.repair(now);
    // The SYN-ACK is lost with what was to be sent; timers are set again.
    n.sent_by(false);
    n.send_fast(b"hello");
    let second = n.sent_by(true).remove(0);
    n.deliver(true, &second);
    assert_eq!(n.count(false, Counter::TCPFastOpenListenOverflow), 1);
    let s = n.b.accept(l).unwrap();
    assert_eq!(n.b.stack.tcp_state(s), State::SynReceived);
    assert_eq!(read_all(&mut n.b.stack, now, s).unwrap(), b"hello");
    n.pass(5_000);
    assert_eq!(n.b.stack.tcp_state(s), State::Established);
}
