//! Urgent data as sockets have it: reads that stop at the mark, MSG_OOB, readiness.

use super::*;
use crate::stack::epoll::{EpollEvent, EpollOp};
use crate::stack::options::SockOpt;

const URGENT: SendFlags = SendFlags { more: false, urgent: true, zerocopy: crate::stack::ZeroCopy::No };

fn send(n: &mut Net, c: SockId, data: &[u8], flags: SendFlags) {
    let now = n.time();
    assert_eq!(n.a.stack.send(now, c, &[data], flags), Ok(data.len()));
    n.settle();
}

fn peek(stack: &mut Stack, now: Instant, id: SockId, offset: usize) -> Result<Vec<u8>, Error> {
    let mut buf = [0; 100];
    let how = RecvFlags { peek: true, discard: false };
    stack.recv(now, id, &mut [&mut buf], how, offset).map(|n| buf[..n].to_vec())
}

#[test]
fn a_read_stops_at_the_mark_and_then_skips_it() {
    let mut n = Net::new();
    let l = n.b.listener(80, 5);
    let (c, s) = n.connected(l, 80);
    assert_eq!(n.b.stack.recv_urgent(s, false), Err(Error::Invalid));
    assert_eq!(n.b.stack.recv_urgent(l, false), Err(Error::NotConnected));
    send(&mut n, c, b"abc", SendFlags::default());
    send(&mut n, c, b"d", URGENT);
    send(&mut n, c, b"ef", SendFlags::default());
    let now = n.time();
    let st = &mut n.b.stack;
    assert_eq!((st.readable_bytes(s), st.is_at_mark(s)), (Ok(3), false));
    assert!(st.readiness(s).any(Ready::IN) && st.readiness(s).any(Ready::PRI));
    assert_eq!(peek(st, now, s, 0).unwrap(), b"abc");
    assert!(st.read_ends(s, 3) && !st.read_ends(s, 2));
    assert_eq!(read_all(st, now, s).unwrap(), b"abc");
    assert!(st.is_at_mark(s) && st.read_ends(s, 0));
    assert_eq!(st.recv_urgent(s, true), Ok(Some(b'd')));
    assert_eq!(st.recv_urgent(s, false), Ok(Some(b'd')));
    assert_eq!(st.recv_urgent(s, false), Err(Error::Invalid));
    assert!(!st.readiness(s).any(Ready::PRI) && st.is_at_mark(s));
    assert_eq!(peek(st, now, s, 0).unwrap(), b"ef");
    assert_eq!(peek(st, now, s, 1).unwrap(), b"f");
    assert_eq!(read_all(st, now, s).unwrap(), b"ef");
    assert!(!st.is_at_mark(s));
}

#[test]
fn a_lone_urgent_byte_is_not_readable_and_a_read_drops_it() {
    let mut n = Net::new();
    let l = n.b.listener(80, 5);
    let (c, s) = n.connected(l, 80);
    send(&mut n, c, b"u", URGENT);
    let now = n.time();
    let st = &mut n.b.stack;
    assert!(!st.readiness(s).any(Ready::IN) && st.readiness(s).any(Ready::PRI));
    assert_eq!((st.readable_bytes(s), st.has_unread(s)), (Ok(0), true));
    assert_eq!(st.recv(now, s, &mut [], RecvFlags::default(), 0), Ok(0), "a read of nothing");
    assert_eq!(read_all(st, now, s), Err(Error::WouldBlock));
    assert_eq!((st.recv_urgent(s, false), st.has_unread(s)), (Err(Error::Invalid), false));
    // With SO_OOBINLINE it is a byte like others.
    st.set_option(now, s, SockOpt::OobInline, 1).unwrap();
    send(&mut n, c, b"v", URGENT);
    let st = &mut n.b.stack;
    assert!(st.readiness(s).any(Ready::IN) && st.readiness(s).any(Ready::PRI));
    assert_eq!(st.recv_urgent(s, false), Err(Error::Invalid));
    assert_eq!(read_all(st, now, s).unwrap(), b"v");
    assert!(!st.readiness(s).any(Ready::PRI));
}

#[test]
fn each_urgent_byte_is_an_edge() {
    const ET: u32 = 1 << 31;
    let mut n = Net::new();
    let l = n.b.listener(80, 5);
    let (c, s) = n.connected(l, 80);
    let set = n.b.stack.epoll_create().unwrap();
    let event = EpollEvent { events: Ready::PRI.0 | ET, data: 7 };
    n.b.stack.epoll_ctl(set, EpollOp::Add, 5, s, event).unwrap();
    let collect = |n: &mut Net| {
        let mut got = Vec::new();
        n.b.stack.epoll_collect(set, 8, |e| got.push(e.events));
        got
    };
    send(&mut n, c, b"abc", SendFlags::default());
    assert!(collect(&mut n).is_empty());
    let now = n.time();
    assert_eq!(read_all(&mut n.b.stack, now, s).unwrap(), b"abc");
    // In a row: the second takes the place of the first, and there is not a byte more to read than before.
    for _ in 0..3 {
        send(&mut n, c, b"u", URGENT);
        assert_eq!(collect(&mut n), [Ready::PRI.0]);
        assert!(collect(&mut n).is_empty());
    }
    send(&mut n, c, b"more", SendFlags::default());
    assert_eq!(collect(&mut n), [Ready::PRI.0], "ordinary data, and the urgent byte is still there");
    assert_eq!(n.b.stack.recv_urgent(s, false), Ok(Some(b'u')));
    send(&mut n, c, b"more", SendFlags::default());
    assert!(collect(&mut n).is_empty());
}

#[test]
fn what_ends_a_connection_ends_urgent_data_too() {
    let mut n = Net::new();
    let l = n.b.listener(80, 5);
    let (c, s) = n.connected(l, 80);
    send(&mut n, c, b"u", URGENT);
    let now = n.time();
    n.a.stack.shutdown(now, c, ShutdownHow::Write).unwrap();
    n.settle();
    assert_eq!(n.b.stack.recv_urgent(s, false), Ok(Some(b'u')), "before a FIN");
    // It was read, and lies in the stream all the same: the close loses it.
    n.b.stack.release(now, s);
    n.settle();
    assert_eq!(read_all(&mut n.a.stack, now, c), Err(Error::ConnectionReset));
    let (c, s) = n.connected(l, 80);
    send(&mut n, c, b"u", URGENT);
    let now = n.time();
    n.a.stack.disconnect(now, c);
    n.settle();
    assert_eq!(n.b.stack.recv_urgent(s, false), Err(Error::NotConnected), "before a RST");
}
