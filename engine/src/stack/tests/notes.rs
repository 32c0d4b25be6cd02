//! Error queues: ranges, what ends them early, and a death in the lock.

use super::*;
use crate::stack::options::SockOpt;
use crate::stack::{Completed, Told, ZeroCopy};

fn zerocopy(host: &mut Host, now: Instant, id: SockId) {
    host.stack.set_option(now, id, SockOpt::ZeroCopy, 1).unwrap();
}

fn send(n: &mut Net, c: SockId, bytes: usize) {
    let now = n.time();
    assert_eq!(n.a.stack.wants_note(c, bytes), Ok(true));
    let flags = SendFlags { zerocopy: ZeroCopy::Begins(bytes as u64), ..SendFlags::default() };
    assert_eq!(n.a.stack.send(now, c, &[&vec![7; bytes]], flags), Ok(bytes));
}

fn told(first: u32, last: u32) -> Result<Told, Error> {
    Ok(Told::Completed(Completed { first, last, copied: true }))
}

/// Calls that were sent one by one are told of one by one while somebody reads, and together if not.
#[test]
fn ranges_grow_while_nobody_reads() {
    let mut n = Net::new();
    let l = n.b.listener(80, 5);
    let (c, _) = n.connected(l, 80);
    let now = n.time();
    zerocopy(&mut n.a, now, c);
    send(&mut n, c, 10);
    assert_eq!(n.a.stack.take_note(c), Err(Error::WouldBlock), "not acknowledged");
    n.pass(100);
    assert!(n.a.stack.readiness(c).any(Ready::ERR));
    assert_eq!(n.a.stack.take_note(c), told(0, 0));
    for _ in 0..3 {
        send(&mut n, c, 10);
        n.pass(100);
    }
    assert_eq!(n.a.stack.take_note(c), told(1, 3));
    assert!(!n.a.stack.readiness(c).any(Ready::ERR));
    n.a.stack.release(now, c);
    assert_eq!(n.a.stack.notes.len(), 0);
}

/// Of a connection that is reset, what was never sent is told of first, and as that.
#[test]
fn a_reset_gives_up_what_waits() {
    let mut n = Net::new();
    let l = n.b.listener(80, 5);
    let (c, s) = n.connected(l, 80);
    let now = n.time();
    zerocopy(&mut n.a, now, c);
    send(&mut n, c, 10);
    let mut out = Out::default();
    n.a.stack.transmit(now, &mut out);
    n.a.stack.set_option(now, c, SockOpt::Cork, 1).unwrap();
    send(&mut n, c, 10);
    send(&mut n, c, 10);
    n.b.stack.options_mut(s).unwrap().linger_on = true;
    n.b.stack.release(now, s);
    n.settle();
    assert_eq!(n.a.stack.take_note(c), Ok(Told::Completed(Completed { first: 1, last: 2, copied: false })));
    assert_eq!(n.a.stack.take_note(c), told(0, 0));
    assert_eq!(n.a.stack.take_note(c), Err(Error::WouldBlock));
}

#[test]
fn a_death_in_the_lock_loses_none() {
    let mut n = Net::new();
    let l = n.b.listener(80, 5);
    let (c, _) = n.connected(l, 80);
    let now = n.time();
    zerocopy(&mut n.a, now, c);
    send(&mut n, c, 10);
    n.pass(100);
    send(&mut n, c, 10);
    n.a.stack.work_begins();
    n.a.stack.repair(now);
    assert_eq!(n.a.stack.take_note(c), told(0, 0));
    n.pass(100);
    assert_eq!(n.a.stack.take_note(c), told(1, 1));
    n.a.stack.release(now, c);
    assert_eq!(n.a.stack.notes.len(), 0);
}

/// net.core.optmem_max bounds what may be unread; a call that shares its notification needs none.
#[test]
fn unread_notifications_are_bounded() {
    let mut n = Net::with(Sysctls { optmem_max: [1000], ..Sysctls::default() });
    let l = n.b.listener(80, 5);
    let (c, _) = n.connected(l, 80);
    let now = n.time();
    zerocopy(&mut n.a, now, c);
    n.a.stack.set_option(now, c, SockOpt::Cork, 1).unwrap();
    send(&mut n, c, 10);
    send(&mut n, c, 10);
    assert_eq!(n.a.stack.wants_note(c, 600_000), Err(Error::NoBuffers));
    n.a.stack.set_option(now, c, SockOpt::Cork, 0).unwrap();
    n.pass(100);
    assert_eq!(n.a.stack.wants_note(c, 10), Err(Error::NoBuffers));
    assert_eq!(n.a.stack.take_note(c), told(0, 1));
    assert_eq!(n.a.stack.wants_note(c, 10), Ok(true));
}
