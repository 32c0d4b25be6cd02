//! Two connections and a seeded link that loses, reorders and duplicates, in virtual time.

use super::handshake::Handshake;
use super::*;
use crate::wire::Header;
use std::collections::BTreeMap;

mod urgent;

/// A small generator, so that a seed reproduces a failure anywhere.
pub struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn percent(&mut self, p: u64) -> bool {
        self.next() % 100 < p
    }
}

struct End {
    tcb: Tcb,
    pool: Pool,
    counters: Counters,
    sysctls: Sysctls,
}

impl End {
    fn new() -> End {
        End {
            tcb: Tcb::zeroed(),
            pool: Pool::leak(1024),
            counters: Counters::default(),
            sysctls: Sysctls::default(),
        }
    }

    fn with<T>(&mut self, now: Instant, f: impl FnOnce(&mut Tcb, &mut Env) -> T) -> T {
        let mut env = Env { now, pool: &mut self.pool, counters: &mut self.counters, sysctls: &self.sysctls };
        let result = f(&mut self.tcb, &mut env);
        self.tcb.check();
        result
    }
}

#[derive(Clone)]
struct Wire {
    to: usize,
    hdr: Header,
    payload: Vec<u8>,
}

struct Link {
    loss: u64,
    reorder: u64,
    duplicate: u64,
    delay_us: u64,
}

struct Pair {
    ends: [End; 2],
    now: u64,
    flight: BTreeMap<(u64, u64), Wire>,
    count: u64,
    link: Link,
    rng: Rng,
    sent: u64,
}

const PARAMS: OpenParams = OpenParams {
    iss: SeqNum(0),
    path_mss: 1460,
    device_limit: 4 << 20,
    ts_offset: 77,
    options: TcpOptions {
        nodelay: false,
        cork: false,
        keepalive: false,
        quickack_off: false,
        reno: false,
        oob_inline: false,
        sndbuf: 0,
        rcvbuf: 0,
        keepidle_s: 0,
        keepintvl_s: 0,
        keepcnt: 0,
        user_timeout_ms: 0,
        syncnt: 0,
        linger2_s: 0,
        maxseg: 0,
        window_clamp: 0,
        notsent_lowat: 0,
    },
};

impl Pair {
    /// Two ends that have just completed a handshake; sequence numbers are about to wrap.
    fn connected(seed: u64, link: Link) -> Pair {
        let mut pair = Pair {
            ends: [End::new(), End::new()],
            now: 5_000_000,
            flight: BTreeMap::new(),
            count: 0,
            link,
            rng: Rng(seed | 1),
            sent: 0,
        };
        let (a, b) = (SeqNum(u32::MAX - 5000), SeqNum(u32::MAX - 200_000));
        let t = Instant::from_us(pair.now);
        for (n, (iss, irs)) in [(a, b), (b, a)].into_iter().enumerate() {
            let h = Handshake {
                iss,
                irs,
                peer_mss: 1460,
                window: 65_535,
                ts_recent: 1,
                rtt_us: 0,
                peer_scale: 7,
                our_scale: 7,
                sack: true,
                timestamps: true,
            };
            pair.ends[n].with(t, |tcb, env| {
                tcb.open_passive(env, &OpenParams { iss, ..PARAMS }, &h);
                tcb.ts.recent = (env.now.as_ms() as u32).wrapping_add(70);
            });
        }
        pair
    }

    fn time(&self) -> Instant {
        Instant::from_us(self.now)
    }

    fn put(&mut self, wire: Wire) {
        self.sent += 1;
        if self.rng.percent(self.link.loss) {
            return;
        }
        let mut at = self.now + self.link.delay_us;
        if self.rng.percent(self.link.reorder) {
            at += self.rng.next() % (2 * self.link.delay_us);
        }
        let copies = 1 + u64::from(self.rng.percent(self.link.duplicate));
        for _ in 0..copies {
            self.count += 1;
            self.flight.insert((at, self.count), wire.clone());
        }
    }

    fn put_reply(&mut self, from: usize, reply: Option<Reply>) {
        let Some(r) = reply else { return };
        let mut hdr = Header {
            seq: r.seq,
            ack: r.ack,
            flags: r.flags,
            window: r.window,
            urgent: r.urgent,
            ..Header::default()
        };
        hdr.options.timestamps = r.timestamps;
        self.put(Wire { to: 1 - from, hdr, payload: Vec::new() });
    }

    /// Sends all that both ends want to send, in segments of one MSS as a device would cut them.
    fn flush(&mut self) {
        for from in 0..2 {
            let now = self.time();
            loop {
                let out = self.ends[from].with(now, |tcb, env| {
                    let seg = tcb.output(env, &TxLimits { max_bytes: 20_000 })?;
                    let bytes: Vec<u8> = tcb.payload(env.pool, &seg).flatten().copied().collect();
                    Some((seg, bytes))
                });
                let Some((seg, bytes)) = out else { break };
                assert_eq!(bytes.len(), seg.payload_len);
                let size = if seg.gso_size == 0 { bytes.len().max(1) } else { seg.gso_size as usize };
                let pieces: Vec<&[u8]> =
                    if bytes.is_empty() { vec![&[][..]] } else { bytes.chunks(size).collect() };
                for (n, piece) in pieces.iter().enumerate() {
                    let last = n + 1 == pieces.len();
                    let mut flags = seg.flags;
                    if !last {
                        flags = Flags(flags.0 & !(Flags::FIN.0 | Flags::PSH.0));
                    }
                    let hdr = Header {
                        seq: seg.seq + (n * size) as u32,
                        ack: seg.ack,
                        flags,
                        window: seg.window,
                        urgent: seg.urgent,
                        options: seg.options,
                        ..Header::default()
                    };
                    self.put(Wire { to: 1 - from, hdr, payload: piece.to_vec() });
                }
            }
        }
    }

    /// On to the next thing that happens; false when nothing will any more.
    fn step(&mut self) -> bool {
        self.flush();
        let arrival = self.flight.keys().next().map(|k| k.0);
        let timer = self.ends.iter().filter_map(|e| e.tcb.next_deadline()).min().map(Instant::as_us);
        let Some(next) = arrival.into_iter().chain(timer).min() else { return false };
        self.now = self.now.max(next);
        let now = self.time();
        for n in 0..2 {
            if self.ends[n].tcb.next_deadline().is_some_and(|d| d <= now) {
                let out = self.ends[n].with(now, |tcb, env| tcb.on_timers(env));
                self.put_reply(n, out.reply);
            }
        }
        while let Some((&key, _)) = self.flight.iter().next().filter(|(k, _)| k.0 <= self.now) {
            let wire = self.flight.remove(&key).unwrap();
            let seg = Segment { hdr: &wire.hdr, payload: &wire.payload };
            let out = self.ends[wire.to].with(now, |tcb, env| tcb.input(env, &seg));
            self.put_reply(wire.to, out.reply);
        }
        true
    }
}

fn pattern(n: usize, salt: u8) -> Vec<u8> {
    (0..n).map(|i| (i as u32).wrapping_mul(2_654_435_761).to_le_bytes()[3] ^ salt).collect()
}

/// Sends `bytes` each way at once, then closes; returns the virtual time it took.
fn exchange(seed: u64, link: Link, bytes: usize) -> u64 {
    let mut p = Pair::connected(seed, link);
    let data = [pattern(bytes, 1), pattern(bytes, 2)];
    let mut written = [0; 2];
    let mut got = [Vec::new(), Vec::new()];
    let begin = p.now;
    let mut done_at = 0;
    for steps in 0.. {
        assert!(steps < 4_000_000, "seed {seed}: no end in sight, {} of {bytes} read", got[0].len());
        let now = p.time();
        for n in 0..2 {
            written[n] += p.ends[n].with(now, |tcb, env| tcb.write(env, &data[n][written[n]..], false));
            if written[n] == bytes && tcb_open(&p.ends[n].tcb) {
                p.ends[n].with(now, |tcb, env| tcb.shutdown_send(env));
            }
            let mut buf = vec![0; 3_000_000];
            let take = p.ends[n].with(now, |tcb, env| {
                let take = tcb.peek(env, 0, &mut buf);
                tcb.consume(env, take);
                take
            });
            got[n].extend_from_slice(&buf[..take]);
        }
        if done_at == 0 && got.iter().all(|g| g.len() == bytes) {
            done_at = p.now;
        }
        if !p.step() && p.ends.iter().all(|e| e.tcb.readable_bytes() == 0) {
            break;
        }
    }
    let show = |t: &Tcb| {
        format!(
            "{} una {:?} nxt {:?} wnd {} unsent {} cwnd {} pipe {} phase {:?} | nxt {:?} offered {} held {} ooo {}",
            t.state(),
            t.snd.una,
            t.snd.nxt,
            t.snd.wnd,
            t.unsent_bytes(),
            t.cc.cwnd,
            t.pipe(),
            t.rec.phase,
            t.rcv.nxt,
            t.offered(),
            t.recv.len(),
            t.reorder.as_slice().len()
        )
    };
    let states = format!("{}\n{}", show(&p.ends[0].tcb), show(&p.ends[1].tcb));
    for n in 0..2 {
        assert!(
            got[n] == data[1 - n],
            "seed {seed}: {} bytes of {bytes}, or wrong ones\n{states}",
            got[n].len()
        );
        assert_eq!(p.ends[n].tcb.state(), State::Closed, "seed {seed}");
        assert_eq!(p.ends[n].tcb.error(), 0, "seed {seed}");
        let e = &mut p.ends[n];
        e.tcb.release(&mut e.pool);
        assert_eq!(e.pool.used(), 0, "seed {seed}: chunks leaked");
    }
    let ideal = 2 * bytes as u64 / 1448 * 2;
    assert!(p.sent < ideal * 6 + 2000, "seed {seed}: a storm of {} segments for {ideal}", p.sent);
    done_at - begin
}

fn tcb_open(tcb: &Tcb) -> bool {
    tcb.state().may_send()
}

const CLEAN: Link = Link { loss: 0, reorder: 0, duplicate: 0, delay_us: 500 };

#[test]
fn a_clean_link_loses_nothing_and_no_time() {
    let us = exchange(1, CLEAN, 2_000_000);
    assert!(us < 60_000, "{us} us for 2 MB each way over 1 ms");
}

#[test]
fn hostile_links_are_survived() {
    for seed in 1..=40 {
        let link = Link {
            loss: seed % 20,
            reorder: seed * 7 % 30,
            duplicate: seed * 3 % 10,
            delay_us: 300 + seed * 100,
        };
        exchange(seed * 7919, link, 150_000);
    }
}

/// Virtual time, so these are exact on any machine: a regression table of recovery.
#[test]
fn recovery_keeps_its_pace() {
    let median = |loss, reorder| {
        let mut t: Vec<u64> = (1..=9)
            .map(|seed| {
                exchange(seed * 104_729, Link { loss, reorder, duplicate: 0, delay_us: 500 }, 1_000_000)
            })
            .collect();
        t.sort_unstable();
        t[4]
    };
    // Microseconds for 1 MB each way, round trip 1 ms.
    for (loss, reorder, most) in [(0, 5, 25_000), (1, 0, 80_000), (2, 0, 300_000), (2, 5, 150_000)] {
        let us = median(loss, reorder);
        assert!(us < most, "loss {loss}%, reorder {reorder}%: {us} us, at most {most}");
    }
}

#[test]
fn a_closed_window_is_probed_until_it_opens() {
    let mut p = Pair::connected(3, CLEAN);
    let data = pattern(400_000, 9);
    let mut written = 0;
    // Nobody reads for ten minutes of virtual time.
    while p.now < 605_000_000 {
        let now = p.time();
        written += p.ends[0].with(now, |tcb, env| tcb.write(env, &data[written..], false));
        assert!(p.step(), "probes go on");
    }
    assert!(p.ends[0].counters.value(Counter::TCPWinProbe) > 5);
    assert!(p.ends[0].counters.value(Counter::TCPWinProbe) < 100);
    let mut got = Vec::new();
    while got.len() < data.len() {
        let now = p.time();
        written += p.ends[0].with(now, |tcb, env| tcb.write(env, &data[written..], false));
        let mut buf = vec![0; 50_000];
        let n = p.ends[1].with(now, |tcb, env| {
            let n = tcb.peek(env, 0, &mut buf);
            tcb.consume(env, n);
            n
        });
        got.extend_from_slice(&buf[..n]);
        p.step();
        assert!(p.sent < 100_000, "no end in sight");
    }
    assert!(got == data);
}

#[test]
fn a_silent_peer_is_given_up() {
    let mut p = Pair::connected(4, Link { loss: 100, ..CLEAN });
    let now = p.time();
    p.ends[0].with(now, |tcb, env| tcb.write(env, b"hello", false));
    while p.step() {}
    assert_eq!(p.ends[0].tcb.error(), libc::ETIMEDOUT);
    let waited = p.now / 1_000_000;
    assert!((900..1100).contains(&waited), "R2 is 924 s by default, was {waited}");
}

#[test]
fn unread_data_at_close_resets() {
    let mut p = Pair::connected(5, CLEAN);
    let now = p.time();
    p.ends[0].with(now, |tcb, env| tcb.write(env, b"hello", false));
    for _ in 0..3 {
        p.step();
    }
    let now = p.time();
    let action = p.ends[1].with(now, |tcb, env| tcb.close(env, false));
    let user::CloseAction::Reset(reply) = action else { panic!("{action:?}") };
    p.put_reply(1, Some(reply));
    while p.step() {}
    assert_eq!(p.ends[0].tcb.error(), libc::ECONNRESET);
}

fn segment(hdr: Header) -> Header {
    hdr
}

#[test]
fn only_an_exact_reset_counts() {
    let mut p = Pair::connected(6, CLEAN);
    let now = p.time();
    let nxt = p.ends[0].tcb.rcv.nxt;
    for (seq, dies) in [(nxt + 1, false), (nxt + 60_000, false), (nxt - 1, false), (nxt, true)] {
        let hdr = segment(Header { seq, flags: Flags::RST, ..Header::default() });
        p.ends[0].with(now, |tcb, env| tcb.input(env, &Segment { hdr: &hdr, payload: &[] }));
        assert_eq!(p.ends[0].tcb.state() == State::Closed, dies, "RST at {seq:?}, RCV.NXT {nxt:?}");
    }
}

#[test]
fn an_ack_that_is_too_old_brings_no_data_in() {
    let mut p = Pair::connected(9, CLEAN);
    let now = p.time();
    let (nxt, una) = (p.ends[0].tcb.rcv.nxt, p.ends[0].tcb.snd.una);
    for (ack, taken) in [(una - 70_000, false), (una - 1_000_000_000, false), (una - 2, false), (una, true)] {
        let hdr = Header { seq: nxt, ack, flags: Flags::ACK, window: 500, ..Header::default() };
        let out = p.ends[0].with(now, |tcb, env| tcb.input(env, &Segment { hdr: &hdr, payload: b"forged" }));
        assert_eq!(out.acceptable, taken, "{ack:?}");
        assert_eq!(out.reply.is_some(), !taken, "a challenge ACK, or none");
        assert_eq!(p.ends[0].tcb.readable_bytes() > 0, taken);
    }
}

#[test]
fn a_stale_syn_ack_is_reset_and_changes_nothing() {
    let mut e = End::new();
    let now = Instant::from_us(1_000_000);
    e.with(now, |tcb, env| {
        tcb.open_active(env, &OpenParams { iss: SeqNum(1000), ..PARAMS });
        tcb.send_syn(env);
    });
    let syn = e.with(now, |tcb, env| tcb.output(env, &TxLimits { max_bytes: 0 })).unwrap();
    assert_eq!((syn.flags, syn.seq), (Flags::SYN, SeqNum(1000)));
    let stale =
        Header { seq: SeqNum(5), ack: SeqNum(900), flags: Flags::SYN | Flags::ACK, ..Header::default() };
    let out = e.with(now, |tcb, env| tcb.input(env, &Segment { hdr: &stale, payload: &[] }));
    assert_eq!(out.reply.map(|r| (r.flags, r.seq)), Some((Flags::RST, SeqNum(900))));
    assert_eq!(e.tcb.state(), State::SynSent);
}

#[test]
fn nothing_a_segment_says_breaks_an_invariant() {
    for seed in 1..80u64 {
        let mut p = Pair::connected(seed, CLEAN);
        let mut rng = Rng(seed * 31);
        let data = pattern(20_000, 3);
        for _ in 0..60 {
            let now = p.time();
            p.ends[0].with(now, |tcb, env| tcb.write(env, &data[..(rng.next() % 5000) as usize], false));
            let e = &p.ends[0].tcb;
            let mut near = |s: SeqNum| s + (rng.next() % 200_000) as u32 - 100_000;
            let mut hdr = Header { seq: near(e.rcv.nxt), ack: near(e.snd.nxt), ..Header::default() };
            hdr.flags = Flags((rng.next() & 63) as u8 & !Flags::RST.0);
            hdr.window = rng.next() as u16;
            hdr.urgent = rng.next() as u16;
            for _ in 0..rng.next() % 4 {
                hdr.options
                    .sack
                    .push(hdr.ack + (rng.next() % 9000) as u32, hdr.ack + (rng.next() % 9000) as u32);
            }
            let len = (rng.next() % 3000) as usize;
            p.ends[0].with(now, |tcb, env| tcb.input(env, &Segment { hdr: &hdr, payload: &data[..len] }));
            // What is read crosses no mark, wherever hostile pointers put it.
            p.ends[0].with(now, |tcb, env| {
                let span = tcb.readable_span(0);
                assert!(span.len + usize::from(span.skips) <= tcb.readable_bytes());
                let n = span.len.min((rng.next() % 3000) as usize);
                tcb.consume(env, n + usize::from(span.skips));
                tcb.take_urgent(rng.percent(50));
                if rng.percent(10) {
                    tcb.mark_urgent();
                }
            });
            p.step();
        }
    }
}

#[test]
fn reading_is_possible_after_shutdown_and_unread_data_still_resets() {
    let mut p = Pair::connected(7, CLEAN);
    let now = p.time();
    p.ends[1].tcb.shutdown_recv();
    p.ends[0].with(now, |tcb, env| tcb.write(env, b"after", false));
    for _ in 0..3 {
        p.step();
    }
    assert_eq!(p.ends[1].tcb.readable_bytes(), 5);
    let now = p.time();
    let action = p.ends[1].with(now, |tcb, env| tcb.close(env, false));
    assert!(matches!(action, user::CloseAction::Reset(_)), "{action:?}");
}

#[test]
fn ten_minutes_of_a_closed_window_are_not_held_against_the_path() {
    let mut p = Pair::connected(8, CLEAN);
    let data = pattern(400_000, 9);
    let mut written = 0;
    while p.now < 605_000_000 {
        let now = p.time();
        written += p.ends[0].with(now, |tcb, env| tcb.write(env, &data[written..], false));
        assert!(p.step(), "probes go on");
    }
    assert!(p.ends[0].tcb.rec.backoff > 5);
    let now = p.time();
    let all = p.ends[1].tcb.readable_bytes();
    p.ends[1].with(now, |tcb, env| tcb.consume(env, all));
    // The window update arrives, then the line is cut for a second: the retransmission comes at the usual time.
    p.flush();
    p.link.loss = 100;
    while p.ends[0].tcb.snd.una == p.ends[0].tcb.snd.nxt {
        assert!(p.step(), "the window opens");
    }
    assert!(p.ends[0].tcb.rec.backoff <= 1, "one time-out of its own at most");
    let cut = p.now;
    while p.now < cut + 1_000_000 {
        p.step();
    }
    p.link.loss = 0;
    while p.ends[0].tcb.snd.una != p.ends[0].tcb.snd.nxt {
        assert!(p.step() && p.now < cut + 5_000_000, "{}", p.now - cut);
    }
    assert_eq!(p.ends[0].tcb.error(), 0);
}

#[test]
fn acks_that_arrive_together_all_open_the_window() {
    let mut e = End::new();
    let now = Instant::from_us(1_000_000);
    let h = Handshake {
        iss: SeqNum(1),
        irs: SeqNum(1),
        peer_mss: 1460,
        window: 4 << 20,
        ts_recent: 0,
        rtt_us: 100,
        peer_scale: 7,
        our_scale: 7,
        sack: true,
        timestamps: false,
    };
    e.with(now, |tcb, env| tcb.open_passive(env, &OpenParams { iss: SeqNum(1), ..PARAMS }, &h));
    let data = pattern(100_000, 1);
    e.with(now, |tcb, env| {
        tcb.write(env, &data, false);
        while tcb.output(env, &TxLimits { max_bytes: 64_000 }).is_some() {}
    });
    assert_eq!(e.tcb.snd.nxt - e.tcb.snd.una, 10 * 1460);
    for n in 1..=5 {
        let ack = Header {
            seq: SeqNum(2),
            ack: SeqNum(2) + n * 2 * 1460,
            flags: Flags::ACK,
            window: 32_768,
            ..Header::default()
        };
        e.with(now, |tcb, env| tcb.input(env, &Segment { hdr: &ack, payload: &[] }));
    }
    assert_eq!(e.tcb.cc.cwnd, 20 * 1460);
}

#[test]
fn new_data_in_recovery_counts_against_the_reduction() {
    let mut e = End::new();
    let now = Instant::from_us(1_000_000);
    let h = Handshake {
        iss: SeqNum(1),
        irs: SeqNum(1),
        peer_mss: 1000,
        window: 4 << 20,
        ts_recent: 0,
        rtt_us: 100,
        peer_scale: 7,
        our_scale: 7,
        sack: true,
        timestamps: false,
    };
    let options = TcpOptions { sndbuf: 2 << 20, ..PARAMS.options };
    e.with(now, |tcb, env| {
        tcb.open_passive(env, &OpenParams { iss: SeqNum(1), options, ..PARAMS }, &h);
        tcb.cc.cwnd = 100_000;
        tcb.write(env, &pattern(1_000_000, 1), false);
        while tcb.output(env, &TxLimits { max_bytes: 64_000 }).is_some() {}
    });
    // The first segment is lost, all others arrive: a window's worth of SACKs, one segment each.
    let mut most = 0;
    for n in 2..=100u32 {
        let mut ack =
            Header { seq: SeqNum(2), ack: SeqNum(2), flags: Flags::ACK, window: 32_768, ..Header::default() };
        ack.options.sack.push(SeqNum(1002), SeqNum(2) + n * 1000);
        let sent = e.with(now, |tcb, env| {
            tcb.input(env, &Segment { hdr: &ack, payload: &[] });
            let mut sent = 0;
            while let Some(seg) = tcb.output(env, &TxLimits { max_bytes: 64_000 }) {
                sent += seg.payload_len;
            }
            sent
        });
        if n > 5 {
            most = most.max(sent);
        }
    }
    assert!(most <= 2000, "{most} bytes for one that left the network");
    let pipe = e.tcb.pipe();
    let ssthresh = e.tcb.cc.ssthresh;
    assert!(pipe <= ssthresh + 2000, "pipe {pipe}, ssthresh {ssthresh}");
}
