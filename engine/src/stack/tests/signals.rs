//! Which events send a signal, and to whom.

use super::*;
use crate::values::signal::{Event, OwnerKind};

fn own(host: &mut Host, id: SockId, fd: i32) {
    host.stack.set_owner(id, OwnerKind::Process, 1000 + fd, 0, 40).unwrap();
    host.stack.set_async(id, true, fd).unwrap();
}

fn sent(host: &mut Host) -> Vec<(i32, Event)> {
    core::iter::from_fn(|| host.stack.take_signal()).map(|s| (s.to.fd, s.event)).collect()
}

#[test]
fn a_life_in_signals() {
    let mut n = Net::new();
    let l = n.b.listener(80, 5);
    own(&mut n.b, l, 1);
    let c = n.connect(80);
    own(&mut n.a, c, 2);
    n.settle();
    assert_eq!(sent(&mut n.a), [(2, Event::Writable)]);
    assert_eq!(sent(&mut n.b), [(1, Event::Readable)]);
    let s = n.b.accept(l).unwrap();
    let now = n.time();
    n.a.stack.send(now, c, &[b"unheard"], SendFlags::default()).unwrap();
    n.settle();
    assert!(!n.b.stack.has_signals(), "it has no owner");
    own(&mut n.b, s, 3);
    n.b.stack.set_async(s, true, 4).unwrap();
    n.a.stack.send(now, c, &[b"heard"], SendFlags::default()).unwrap();
    n.settle();
    assert_eq!(sent(&mut n.b), [(3, Event::Readable)]);
    n.a.stack.shutdown(now, c, ShutdownHow::Write).unwrap();
    n.settle();
    assert_eq!(sent(&mut n.b), [(3, Event::Readable), (3, Event::Readable)]);
    n.b.stack.shutdown(now, s, ShutdownHow::Write).unwrap();
    n.settle();
    assert_eq!(sent(&mut n.a), [(2, Event::HangUp), (2, Event::Readable)]);
}

#[test]
fn a_reader_is_not_told_twice() {
    let mut n = Net::new();
    let l = n.b.listener(80, 5);
    let (c, s) = n.connected(l, 80);
    own(&mut n.b, s, 3);
    let now = n.time();
    let reader = n.b.stack.waiter_begin(1, WakeKind::Futex).unwrap();
    n.b.stack.wait_on(reader, s, Ready::IN | Ready::READER, false).unwrap();
    n.a.stack.send(now, c, &[b"x"], SendFlags::default()).unwrap();
    n.settle();
    assert!(!n.b.stack.has_signals());
    n.b.stack.waiter_end(reader);
    let poller = n.b.stack.waiter_begin(1, WakeKind::Futex).unwrap();
    n.b.stack.wait_on(poller, s, Ready::IN | Ready::RDHUP, false).unwrap();
    n.a.stack.send(now, c, &[b"x"], SendFlags::default()).unwrap();
    n.settle();
    assert_eq!(sent(&mut n.b), [(3, Event::Readable)]);
}

/// SIGURG needs an owner alone; with O_ASYNC, what announces urgent data announces data as well.
#[test]
fn urgent_data() {
    let mut n = Net::new();
    let l = n.b.listener(80, 5);
    let (c, s) = n.connected(l, 80);
    let send = |n: &mut Net| {
        let now = n.time();
        let flags = SendFlags { urgent: true, ..SendFlags::default() };
        n.a.stack.send(now, c, &[b"!"], flags).unwrap();
        n.settle();
        sent(&mut n.b)
    };
    assert_eq!(send(&mut n), [], "it has no owner");
    n.b.stack.set_owner(s, OwnerKind::Group, 7, 0, 0).unwrap();
    assert_eq!(send(&mut n), [(0, Event::Urgent)]);
    n.b.stack.set_async(s, true, 3).unwrap();
    assert_eq!(send(&mut n), [(3, Event::Urgent), (3, Event::Readable)]);
}

#[test]
fn more_than_the_queue_holds() {
    let mut n = Net::new();
    let l = n.b.listener(80, 5);
    own(&mut n.b, l, 1);
    for _ in 0..300 {
        n.b.stack.signal_urgent(l);
    }
    assert_eq!(sent(&mut n.b).len(), 256);
    n.b.stack.signal_urgent(l);
    assert_eq!(sent(&mut n.b).len(), 1);
}
