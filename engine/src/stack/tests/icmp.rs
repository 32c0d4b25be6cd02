//! ICMP errors made by hand about segments that a stack has sent: the right ones, and those of somebody who guesses.

use super::*;
use crate::stack::Told;
use crate::stack::options::SockOpt;
use crate::wire::Sum;
use crate::wire::ip::PROTO_ICMP;

/// A router on the way, or whoever says that he is one.
const ROUTER: Addr = Addr::v4([10, 0, 0, 77]);
const HOST_UNREACHABLE: [u8; 2] = [3, 1];
const PORT_UNREACHABLE: [u8; 2] = [3, 3];
const TOO_BIG: [u8; 2] = [3, 4];

/// An ICMP error about `segment`, a whole IP packet, of which it quotes the header and eight bytes more (RFC 792).
fn error_about(to: Addr, segment: &[u8], [kind, code]: [u8; 2], mtu: u16) -> Vec<u8> {
    let mut icmp = vec![kind, code, 0, 0, 0, 0];
    icmp.extend(mtu.to_be_bytes());
    icmp.extend(&segment[..28]);
    let sum = Sum::default().plus(&icmp).finish();
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    let header = ip::Header {
        src: ROUTER,
        dst: to,
        proto: PROTO_ICMP,
        ttl: 64,
        tos: 0,
        id: 1,
        payload_bytes: icmp.len(),
    };
    let mut packet = vec![0; ip::MAX_HEADER_BYTES];
    let len = header.emit(&mut packet);
    packet.truncate(len);
    packet.extend(icmp);
    packet
}

/// What `host` has to send now.
fn sent(host: &mut Host, now: Instant) -> Vec<Vec<u8>> {
    let mut out = Out::default();
    host.stack.transmit(now, &mut out);
    out.0
}

fn count(host: &Host, counter: Counter) -> u64 {
    host.stack.counters().value(counter)
}

/// The same segment with another sequence number: that of a blind attacker.
fn guessed(segment: &[u8]) -> Vec<u8> {
    let mut other = segment.to_vec();
    other[25] ^= 0x40;
    other
}

#[test]
fn an_attempt_ends_with_what_is_said_of_its_syn() {
    let mut n = Net::new();
    let c = n.connect(80);
    let now = n.time();
    let syn = sent(&mut n.a, now).remove(0);
    n.deliver(false, &error_about(A, &guessed(&syn), HOST_UNREACHABLE, 0));
    assert_eq!(n.a.stack.connect_result(c), Err(Error::Already));
    assert_eq!(count(&n.a, Counter::OutOfWindowIcmps), 1);
    let mut broken = error_about(A, &syn, HOST_UNREACHABLE, 0);
    broken[22] ^= 1;
    n.deliver(false, &broken);
    assert_eq!(count(&n.a, Counter::IcmpInErrors), 1);
    n.deliver(false, &error_about(A, &syn, HOST_UNREACHABLE, 0));
    assert_eq!(n.a.stack.connect_result(c), Err(Error::HostUnreachable));
    assert_eq!(count(&n.a, Counter::AttemptFails), 1);
}

#[test]
fn a_connection_goes_on_and_remembers() {
    let mut n = Net::new();
    let l = n.b.listener(80, 5);
    let (c, s) = n.connected(l, 80);
    let now = n.time();
    n.a.stack.send(now, c, &[b"lost"], SendFlags::default()).unwrap();
    let data = sent(&mut n.a, now).remove(0);
    n.deliver(false, &error_about(A, &data, PORT_UNREACHABLE, 0));
    assert_eq!(n.a.stack.tcp_state(c), State::Established);
    assert_eq!(n.a.stack.take_error(c), libc::ECONNREFUSED);
    assert_eq!(n.a.stack.take_error(c), 0, "told once");
    // An acknowledgment is better news than any router's.
    n.deliver(false, &error_about(A, &data, HOST_UNREACHABLE, 0));
    n.pass(1000);
    let now = n.time();
    assert_eq!(read_all(&mut n.b.stack, now, s).unwrap(), b"lost");
    assert_eq!(n.a.stack.take_error(c), 0);
}

/// Who reads the error queue has taken the error that came with it (sock_dequeue_err_skb).
#[test]
fn an_attempt_leaves_a_report() {
    let mut n = Net::new();
    let c = n.connect(80);
    let now = n.time();
    let syn = sent(&mut n.a, now).remove(0);
    n.deliver(false, &error_about(A, &guessed(&syn), PORT_UNREACHABLE, 0));
    assert_eq!(n.a.stack.take_note(c), Err(Error::WouldBlock));
    n.deliver(false, &error_about(A, &syn, PORT_UNREACHABLE, 0));
    let Ok(Told::Report(report)) = n.a.stack.take_note(c) else { panic!("nothing told") };
    assert_eq!((report.errno, report.kind, report.code), (libc::ECONNREFUSED, 3, 3));
    assert_eq!((report.offender, report.destination), (ROUTER, Endpoint::new(B, 80)));
    assert_eq!(report.quoted[..usize::from(report.quoted_bytes)], syn[20..28]);
    assert_eq!(n.a.stack.take_error(c), 0);
}

#[test]
fn a_connection_with_recverr_tells_at_once() {
    let mut n = Net::new();
    let l = n.b.listener(80, 5);
    let (c, _) = n.connected(l, 80);
    let now = n.time();
    n.a.stack.set_option(now, c, SockOpt::RecvErr, 1).unwrap();
    n.a.stack.send(now, c, &[b"lost"], SendFlags::default()).unwrap();
    let data = sent(&mut n.a, now).remove(0);
    n.deliver(false, &error_about(A, &data, HOST_UNREACHABLE, 0));
    assert!(n.a.stack.readiness(c).any(Ready::ERR));
    assert_eq!(n.a.stack.take_note(c), Err(Error::WouldBlock));
    assert_eq!(read_all(&mut n.a.stack, now, c), Err(Error::HostUnreachable));
    assert_eq!(n.a.stack.tcp_state(c), State::Established);
}

#[test]
fn a_connection_that_is_given_up_ends_with_what_was_said() {
    let sysctls = Sysctls { tcp_retries2: [3], ..Sysctls::default() };
    let mut n = Net::with(sysctls);
    let l = n.b.listener(80, 5);
    let (c, _) = n.connected(l, 80);
    let now = n.time();
    n.a.stack.send(now, c, &[b"lost"], SendFlags::default()).unwrap();
    let data = sent(&mut n.a, now).remove(0);
    n.deliver(false, &error_about(A, &data, HOST_UNREACHABLE, 0));
    // Nothing arrives any more.
    while n.a.stack.tcp_state(c) != State::Closed {
        let at = n.a.stack.next_deadline().expect("a time-out");
        n.now = n.now.max(at.as_us());
        n.a.stack.handle_timers(at);
        sent(&mut n.a, at);
    }
    assert_eq!(n.a.stack.take_error(c), libc::EHOSTUNREACH);
}

#[test]
fn a_half_open_connection_ends_by_a_router_and_not_by_its_peer() {
    let mut n = Net::new();
    n.b.listener(80, 5);
    n.connect(80);
    let now = n.time();
    let syn = sent(&mut n.a, now).remove(0);
    n.deliver(true, &syn);
    let synack = sent(&mut n.b, now).remove(0);
    let requests = |n: &Net| n.b.stack.snapshot().iter().filter(|i| i.state == State::SynReceived).count();
    assert_eq!(requests(&n), 1);
    n.deliver(true, &error_about(B, &synack, PORT_UNREACHABLE, 0));
    n.deliver(true, &error_about(B, &guessed(&synack), HOST_UNREACHABLE, 0));
    assert_eq!((requests(&n), count(&n.b, Counter::OutOfWindowIcmps)), (1, 1));
    n.deliver(true, &error_about(B, &synack, HOST_UNREACHABLE, 0));
    assert_eq!((requests(&n), count(&n.b, Counter::ListenDrops)), (0, 1));
}

#[test]
fn segments_become_as_small_as_the_path_and_no_smaller_than_any() {
    let mut n = Net::new();
    let l = n.b.listener(80, 5);
    let (c, s) = n.connected(l, 80);
    let now = n.time();
    n.a.stack.send(now, c, &[&[7; 4000]], SendFlags::default()).unwrap();
    let data = sent(&mut n.a, now).remove(0);
    assert_eq!(data.len(), 1500);
    n.deliver(false, &error_about(A, &guessed(&data), TOO_BIG, 1000));
    assert!(sent(&mut n.a, now).is_empty(), "guessed");
    for (said, largest) in [(1000, 1000), (1400, 1000), (68, 552)] {
        n.deliver(false, &error_about(A, &data, TOO_BIG, said));
        let again = sent(&mut n.a, now);
        assert_eq!(again.iter().map(Vec::len).max(), (said < 1400).then_some(largest), "{said}");
        if said == 68 {
            again.iter().for_each(|packet| n.deliver(true, packet));
        }
    }
    n.settle();
    n.pass(2000);
    let now = n.time();
    assert_eq!(read_all(&mut n.b.stack, now, s).unwrap(), [7; 4000]);
}
