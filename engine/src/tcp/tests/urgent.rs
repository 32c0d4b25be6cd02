//! Urgent data on one connection: what segments say of it, and what is read of it.

use super::*;

/// Everything that the first end sends now.
fn sent(p: &mut Pair) -> Vec<OutSegment> {
    let now = p.time();
    let limits = TxLimits { max_bytes: 20_000 };
    core::iter::from_fn(|| p.ends[0].with(now, |tcb, env| tcb.output(env, &limits))).collect()
}

fn write_urgent(p: &mut Pair, data: &[u8]) {
    let now = p.time();
    p.ends[0].with(now, |tcb, env| {
        assert_eq!(tcb.write(env, data, false), data.len());
        tcb.mark_urgent();
    });
}

fn acknowledge(p: &mut Pair, window: u16) {
    let e = &p.ends[0].tcb;
    let hdr = Header { seq: e.rcv.nxt, ack: e.snd.nxt, flags: Flags::ACK, window, ..Header::default() };
    let now = p.time();
    p.ends[0].with(now, |tcb, env| tcb.input(env, &Segment { hdr: &hdr, payload: &[] }));
}

/// The pointer, where a segment has one.
fn pointer(seg: &OutSegment) -> Option<u16> {
    assert!(seg.flags.has(Flags::URG) || seg.urgent == 0);
    seg.flags.has(Flags::URG).then_some(seg.urgent)
}

#[test]
fn segments_point_behind_the_urgent_byte_until_it_is_acknowledged() {
    let mut p = Pair::connected(1, CLEAN);
    let now = p.time();
    p.ends[0].tcb.options.cork = true;
    write_urgent(&mut p, &[1; 4000]);
    let out = sent(&mut p);
    let shape: Vec<_> = out.iter().map(|s| (s.payload_len, pointer(s), s.gso_size)).collect();
    let mss = p.ends[0].tcb.snd.mss as usize;
    let expected: Vec<_> =
        (0..3).map(|n| (mss.min(4000 - n * mss), Some((4000 - n * mss) as u16), 0)).collect();
    assert_eq!(shape, expected, "one segment each, and the cork does not hold the last");
    p.ends[0].with(now, |tcb, env| tcb.write(env, b"more", false));
    let out = sent(&mut p);
    assert_eq!((out.len(), pointer(&out[0])), (1, None), "neither does it hold what follows");
    acknowledge(&mut p, 500);
    p.ends[0].with(now, |tcb, env| tcb.write(env, b"more", false));
    assert!(sent(&mut p).is_empty(), "held back again");
}

#[test]
fn what_is_sent_again_points_again() {
    let mut p = Pair::connected(2, CLEAN);
    write_urgent(&mut p, b"urgent");
    assert_eq!(pointer(&sent(&mut p)[0]), Some(6));
    for _ in 0..3 {
        p.now = p.ends[0].tcb.next_deadline().unwrap().as_us();
        let now = p.time();
        p.ends[0].with(now, |tcb, env| tcb.on_timers(env));
        let out = sent(&mut p);
        assert_eq!((out.len(), pointer(&out[0])), (1, Some(6)));
    }
}

#[test]
fn a_pointer_goes_no_further_than_it_can() {
    let mut p = Pair::connected(3, CLEAN);
    p.ends[0].tcb.options.sndbuf = 400_000;
    let start = p.ends[0].tcb.snd.nxt;
    write_urgent(&mut p, &[1; 90_000]);
    for seg in sent(&mut p) {
        assert_eq!(pointer(&seg), Some((90_000 - (seg.seq - start)).min(0xffff) as u16));
    }
    // Of what is sent again long before, nothing.
    let tcb = &mut p.ends[0].tcb;
    let nxt = tcb.snd.nxt;
    tcb.snd.nxt = start + 80_000;
    assert_eq!(tcb.urgent_pointer(start), None);
    assert_eq!(tcb.urgent_pointer(start + 80_000), Some(10_000));
    assert_eq!(tcb.urgent_pointer(start + 90_000), None);
    tcb.snd.nxt = nxt;
}

#[test]
fn probes_of_a_shut_window_tell_of_urgent_data() {
    let mut p = Pair::connected(4, CLEAN);
    acknowledge(&mut p, 0);
    write_urgent(&mut p, b"u");
    assert!(sent(&mut p).is_empty());
    p.now = p.ends[0].tcb.next_deadline().unwrap().as_us();
    let now = p.time();
    p.ends[0].with(now, |tcb, env| tcb.on_timers(env));
    let una = p.ends[0].tcb.snd.una;
    let out: Vec<_> = sent(&mut p).iter().map(|s| (s.seq, s.payload_len, pointer(s))).collect();
    assert_eq!(out, [(una, 0, Some(1)), (una - 1, 0, Some(2))]);
    assert_eq!(p.ends[0].counters.value(Counter::TCPWinProbe), 2);
}

/// A segment for the second end.
fn take(p: &mut Pair, offset: i32, payload: &[u8], urgent: Option<u16>) {
    let e = &p.ends[1].tcb;
    let hdr = Header {
        seq: e.rcv.irs + 1 + offset as u32,
        ack: e.snd.nxt,
        flags: if urgent.is_some() { Flags::ACK | Flags::URG } else { Flags::ACK },
        window: 500,
        urgent: urgent.unwrap_or(0),
        ..Header::default()
    };
    let now = p.time();
    p.ends[1].with(now, |tcb, env| tcb.input(env, &Segment { hdr: &hdr, payload }));
}

/// An ordinary read of the second end.
fn read(p: &mut Pair) -> Vec<u8> {
    let now = p.time();
    p.ends[1].with(now, |tcb, env| {
        let span = tcb.readable_span(0);
        let mut out = vec![0; span.len];
        assert_eq!(tcb.peek(env, span.from, &mut out), span.len);
        tcb.consume(env, span.len + usize::from(span.skips));
        out
    })
}

#[test]
fn pointers_at_what_was_and_what_comes() {
    for (urgent, byte, before) in
        [(0, Some(b'a'), 0), (1, Some(b'a'), 0), (2, Some(b'b'), 1), (5, Some(b'e'), 4), (6, None, 5)]
    {
        let mut p = Pair::connected(5, CLEAN);
        take(&mut p, 0, b"abcde", Some(urgent));
        let tcb = &mut p.ends[1].tcb;
        assert_eq!(tcb.take_urgent_news(), UrgentNews { announced: true, arrived: byte.is_some() });
        assert_eq!(tcb.take_urgent(true), byte);
        assert_eq!(tcb.readable_to_mark(), before);
        assert!(read(&mut p).len() <= 5 && p.ends[1].tcb.take_urgent_news().is_empty());
    }
    let mut p = Pair::connected(6, CLEAN);
    take(&mut p, 0, b"abc", None);
    take(&mut p, 1, b"bc", Some(1));
    take(&mut p, -10, b"", Some(11));
    assert_eq!(p.ends[1].tcb.urgent(), Urgent::None, "what is here already is not urgent any more");
    take(&mut p, 100_000_000, b"x", Some(1));
    assert_eq!(p.ends[1].tcb.urgent(), Urgent::None, "beyond the window");
    take(&mut p, 3, b"", Some(0xffff));
    assert_eq!(p.ends[1].tcb.urgent(), Urgent::Announced);
    assert_eq!(read(&mut p), b"abc");
}

#[test]
fn the_byte_is_taken_out_of_order_and_no_header_is_taken_for_it() {
    let mut p = Pair::connected(7, CLEAN);
    take(&mut p, 0, b"", Some(3));
    take(&mut p, 4, b"ef", None);
    assert_eq!(p.ends[1].tcb.urgent(), Urgent::Announced);
    take(&mut p, 2, b"cd", None);
    assert_eq!(p.ends[1].tcb.take_urgent(false), Some(b'c'));
    take(&mut p, 0, b"ab", None);
    assert_eq!((read(&mut p), read(&mut p)), (b"ab".to_vec(), b"def".to_vec()));
}

#[test]
fn a_second_byte_at_the_mark_swallows_the_first() {
    for (inline, first, second) in [(false, &b""[..], &b"c"[..]), (true, b"a", b"bc")] {
        let mut p = Pair::connected(8, CLEAN);
        p.ends[1].tcb.options.oob_inline = inline;
        take(&mut p, 0, b"a", Some(1));
        take(&mut p, 1, b"bc", Some(1));
        if inline {
            assert_eq!(read(&mut p), first);
        }
        assert_eq!(read(&mut p), second);
    }
    // One that comes before the mark was reached makes an ordinary byte of it.
    let mut p = Pair::connected(9, CLEAN);
    take(&mut p, 0, b"ab", Some(2));
    take(&mut p, 2, b"cd", Some(2));
    assert_eq!((read(&mut p), read(&mut p)), (b"abc".to_vec(), b"".to_vec()));
}

/// Whatever is lost, nothing but urgent bytes is missing in the stream, and with SO_OOBINLINE nothing at all.
#[test]
fn a_stream_with_urgent_bytes_survives_hostile_links() {
    for seed in 1..=24 {
        let link = Link { loss: seed % 15, reorder: seed * 7 % 30, duplicate: seed * 3 % 10, delay_us: 500 };
        let mut p = Pair::connected(seed, link);
        let inline = seed % 2 == 0;
        p.ends[1].tcb.options.oob_inline = inline;
        // Urgent bytes are odd, others even.
        let data: Vec<u8> =
            (0..30_000u32).map(|n| (n % 251 * 2) as u8 & 0xfe | u8::from(n % 701 == 700)).collect();
        let (mut written, mut got, mut urgent) = (0, Vec::new(), 0);
        for steps in 0.. {
            assert!(steps < 100_000, "seed {seed}: no end in sight");
            let now = p.time();
            let piece = data[written..].split_inclusive(|b| b & 1 == 1).next().unwrap_or(&[]);
            written += p.ends[0].with(now, |tcb, env| {
                let n = tcb.write(env, piece, false);
                if n == piece.len() && piece.last().is_some_and(|b| b & 1 == 1) {
                    tcb.mark_urgent();
                }
                n
            });
            got.extend(read(&mut p));
            if let Some(byte) = p.ends[1].tcb.take_urgent(false) {
                assert_eq!(byte & 1, 1, "seed {seed}");
                urgent += 1;
            }
            let rest = p.ends[0].tcb.unacked_bytes() + p.ends[1].tcb.readable_bytes() + data.len() - written;
            if !p.step() && rest == 0 {
                break;
            }
        }
        assert!(urgent > 0, "seed {seed}");
        if inline {
            assert!(got == data, "seed {seed}");
        } else {
            let ordinary = |bytes: &[u8]| bytes.iter().filter(|b| *b & 1 == 0).copied().collect::<Vec<_>>();
            assert!(ordinary(&got) == ordinary(&data), "seed {seed}");
        }
    }
}
