#!/usr/bin/env python3
"""Plays a script of segments against a program's TCP, over a tun device, and prints what was done and answered.

    play.py SCRIPT COMMAND ...      COMMAND starts actor.py, with whatever TCP; FAMILY=6: in IPv6

Numbers are relative: to our initial sequence number, and to that of the TCP under test. Of timestamps, windows and the
like only what does not change from run to run is printed.
"""

import fcntl
import os
import select
import struct
import subprocess
import sys
import time

import family
from packets import ACK, FIN, PSH, RST, SYN, URG, Segment, checksum, flag_names, icmpv6, ipv4, ipv6, segment

SIX = family.NAME == "6"
HOST, US = ("fd66::1", "fd66::2") if SIX else ("10.66.0.1", "10.66.0.2")
ip = ipv6 if SIX else ipv4
ISS = 1000000
MSS, SACK_OK = b"\x02\x04\x05\xb4", b"\x04\x02"
SCALE = b"\x03\x03\x07\x01"
STAMP = 5000
MAGIC = b"\xf9\x89"


def fast(cookie=b"", experimental=False):
    body = (MAGIC if experimental else b"") + cookie
    return bytes((254 if experimental else 34, 2 + len(body))) + body


def stamps(value, echo):
    return b"\x01\x01\x08\x0a" + struct.pack("!II", value & 0xFFFFFFFF, echo & 0xFFFFFFFF)


class Player:
    def __init__(self, command):
        self.tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(self.tun, 0x400454CA, struct.pack("16sH", b"tun0", 0x0001 | 0x1000))
        for words in (["address", "add", f"{HOST}/{64 if SIX else 24}", "dev", "tun0"], ["link", "set", "tun0", "up"]):
            subprocess.run(["ip", *words], check=True)
        self.actor = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if self.actor.stdout.readline() != "ready\n":
            raise SystemExit("the program has not come up")
        self.port, self.peer_port = 7000, 40000
        self.iss = None  # of the TCP under test
        self.stamp, self.their_stamp, self.with_stamps = STAMP, 0, False
        self.port_known = True
        self.cookie = b""  # the last that was heard
        self.hears_all = True  # also what is for connections of before

    # What is done

    def note(self, text):
        print(text, flush=True)

    def call(self, line, quiet=False):
        self.actor.stdin.write(line + "\n")
        self.actor.stdin.flush()
        answer = self.actor.stdout.readline().strip()
        if not quiet:
            print(f"call {line}: {answer}", flush=True)

    def say(self, flags, seq=0, ack=None, payload=b"", options=b"", window=65535, iss=None, **more):
        """A segment of ours; `seq` and `ack` are relative."""
        base = ISS if iss is None else iss
        if self.with_stamps and not options:
            options = stamps(more.pop("stamp", self.stamp), self.their_stamp)
        absolute = 0 if ack is None else (self.iss or 0) + ack
        packet = ip(US, HOST, segment(US, HOST, self.peer_port, self.port, seq=base + seq, ack=absolute,
                                      flags=flags | (ACK if ack is not None else 0), options=options, window=window,
                                      payload=payload, **more))
        print(f"in   {flag_names(flags | (ACK if ack is not None else 0))} seq {seq}"
              f" ack {'-' if ack is None else ack} length {len(payload)}", flush=True)
        os.write(self.tun, packet)

    def too_big(self, mtu):
        """An ICMP error about what was heard last."""
        print(f"in   ICMP: the path takes {mtu}", flush=True)
        self.tell(*((2, 0) if SIX else (3, 4)), mtu)

    def trouble(self, kind, code):
        print(f"in   ICMP: type {kind}, code {code}", flush=True)
        self.tell(kind, code, 0)

    def tell(self, kind, code, number):
        if SIX:
            body = struct.pack("!I", number) + self.last[:48]
            os.write(self.tun, ipv6(US, HOST, icmpv6(US, HOST, kind, code, body), next_header=58))
            return
        head, body = bytes((kind, code)), struct.pack("!I", number) + self.last[:28]
        os.write(self.tun, ipv4(US, HOST, head + struct.pack("!H", checksum(head + b"\0\0" + body)) + body, protocol=1))

    def segments(self, wait=0.15, quiet=0.03):
        """What the TCP under test sends: until it is silent, or not at all for a while."""
        deadline = time.monotonic() + wait
        while select.select([self.tun], [], [], max(0, deadline - time.monotonic()))[0]:
            packet = os.read(self.tun, 65536)
            found = Segment.parse(packet)
            if found and found.destination == US and (self.hears_all or found.destination_port == self.peer_port):
                self.last = packet
                deadline = max(time.monotonic() + quiet, 0)
                yield found

    def hear(self, wait=0.15, quiet=0.03, kinds=True):
        """Prints what is answered."""
        any_ = False
        for found in self.segments(wait, quiet):
            any_ = True
            if found.flags & SYN:
                if self.iss is None or found.seq != self.iss:
                    self.iss = found.seq
                self.port = found.source_port
            print(f"out  {self.describe(found)}", flush=True)
        if not any_:
            print("out  silence", flush=True)

    def describe(self, found):
        seq = (found.seq - self.iss) & 0xFFFFFFFF if self.iss is not None else found.seq
        if found.flags & RST and not found.flags & ACK and self.iss is None:
            seq = "as our ack" if found.seq == 0 else found.seq
        if seq == (0 - (self.iss or 0)) & 0xFFFFFFFF:
            seq = "zero"
        parts = [flag_names(found.flags & ~PSH), f"seq {seq}"]
        if found.flags & ACK:
            parts.append(f"ack {(found.ack - ISS) & 0xFFFFFFFF}")
        parts.append(f"length {len(found.payload)}")
        if found.flags & URG:
            parts.append(f"urgent {found.urgent}")
        if found.window == 0:
            parts.append("window 0")
        for kind, value in found.option_list():
            if kind == 2:
                parts.append(f"mss {struct.unpack('!H', value)[0]}")
            elif kind == 3:
                parts.append("window scale")
            elif kind == 4:
                parts.append("sack permitted")
            elif kind == 5:
                blocks = struct.unpack(f"!{len(value) // 4}I", value)
                parts.append("sack " + " ".join(f"{(a - ISS) & 0xFFFFFFFF}-{(b - ISS) & 0xFFFFFFFF}"
                                                for a, b in zip(blocks[::2], blocks[1::2])))
            elif kind == 8:
                value, echo = struct.unpack("!II", value)
                self.their_stamp = value
                parts.append(f"timestamps echo {echo - STAMP if echo else 'none'}")
            elif kind == 34 or (kind == 254 and value[:2] == MAGIC):
                name, cookie = ("cookie", value) if kind == 34 else ("experimental cookie", value[2:])
                self.cookie = cookie or self.cookie
                parts.append(f"{name} {cookie.hex() or 'wanted'}")
            else:
                parts.append(f"option {kind}")
        return ", ".join(parts)

    # Beginnings

    def established(self, options=MSS + SACK_OK + SCALE, listen="listen 7000", stamped=False, accept=True, **more):
        """A connection that we have opened to a listener; silent."""
        print("-- established", flush=True)
        if listen:
            self.call(listen, quiet=True)
        if stamped:
            self.with_stamps = True
            options = MSS + SACK_OK + b"\x08\x0a" + struct.pack("!II", self.stamp, 0) + SCALE
        self.say(SYN, 0, options=options, **more)
        self.hear()
        self.say(0, 1, 1, **more)
        if accept:
            self.call("accept", quiet=True)

    def opened(self, options=MSS + SACK_OK + SCALE):
        """A connection that the program has opened to us; silent."""
        self.peer_port = 7000
        self.call(f"connect {US} 7000", quiet=True)
        self.hear()
        self.say(SYN, 0, 1, options=options)
        self.hear()


# The scripts

def handshake(p):
    """Options are answered where they were offered."""
    p.call("listen 7000")
    for number, (name, options) in enumerate({
        "all": MSS + SACK_OK + b"\x08\x0a" + struct.pack("!II", STAMP, 0) + SCALE, "none": b"", "mss": MSS,
        "scale": SCALE, "sack": SACK_OK, "timestamps": stamps(STAMP, 0), "unknown": b"\xfd\x04ab" + MSS,
        "broken": b"\x02\x03\x05" + SACK_OK, "mss 0": b"\x02\x04\0\0", "scale 15": b"\x03\x03\x0f\x01",
    }.items()):
        p.note(f"-- {name}")
        p.peer_port, p.iss = 40000 + number, None
        p.say(SYN, 0, options=options)
        p.hear()
        p.say(RST, 1)
    p.hear()


def embryo(p):
    """A half-open connection: repeated and strange segments."""
    p.call("listen 7000")
    p.say(SYN, 0, options=MSS)
    p.hear()
    p.note("-- the SYN again")
    p.say(SYN, 0, options=MSS)
    p.hear()
    p.note("-- an ACK of something that was not sent")
    p.say(0, 1, 77)
    p.hear()
    p.note("-- outside of the window")
    p.say(0, 100000, 1)
    p.hear()
    p.note("-- a RST outside of the window")
    p.say(RST, 200000)
    p.hear()
    p.note("-- a RST inside of it")
    p.say(RST, 100)
    p.hear()
    p.note("-- data with the last ACK")
    p.say(0, 1, 1, payload=b"early")
    p.hear()
    p.call("accept")
    p.call("recv 10")
    p.peer_port, p.iss = 40001, None
    p.note("-- a RST")
    p.say(SYN, 0, options=MSS)
    p.hear()
    p.say(RST, 1)
    p.hear()
    p.call("accept")
    p.say(0, 1, 1)
    p.hear()
    p.peer_port, p.iss = 40002, None
    p.note("-- FIN with the last ACK")
    p.say(SYN, 0, options=MSS)
    p.hear()
    p.say(FIN, 1, 1)
    p.hear()
    p.call("accept")
    p.call("recv 10")


def refusals(p):
    """Where nobody listens, and what a listener does not take."""
    p.call("listen 7000")
    p.port = 7001
    for flags, ack in ((SYN, None), (0, 55), (FIN, 55), (RST, None), (SYN, 55), (FIN, None), (SYN | FIN, None)):
        p.iss = None
        p.say(flags, 0, ack)
        p.hear()
    p.port = 7000
    p.note("-- a listener")
    for number, (flags, ack) in enumerate(((0, 55), (FIN, 55), (RST, None), (SYN, 55), (FIN, None), (0, None), (SYN | RST, None))):
        p.iss, p.peer_port = None, 41000 + number
        p.say(flags, 0, ack)
        p.hear()


def data(p):
    """Data in and out, in order."""
    p.established()
    p.say(PSH, 1, 1, payload=b"hello")
    p.hear()
    p.call("recv 10")
    p.call("send 100")
    p.hear()
    p.say(0, 6, 101)
    p.hear()
    p.call("send 3000")
    p.hear()
    p.say(0, 6, 3101)
    p.hear()


def disorder(p):
    """Out of order, twice, and overlapping: SACK and D-SACK."""
    p.established()
    p.say(0, 11, 1, payload=b"c" * 10)
    p.hear()
    p.say(0, 31, 1, payload=b"e" * 10)
    p.hear()
    p.note("-- twice, out of order")
    p.say(0, 31, 1, payload=b"e" * 10)
    p.hear()
    p.note("-- the gap")
    p.say(0, 1, 1, payload=b"b" * 10)
    p.hear()
    p.say(0, 16, 1, payload=b"c" * 5 + b"d" * 10)
    p.hear()
    p.call("recv 100")
    p.note("-- old data")
    p.say(0, 1, 1, payload=b"b" * 10)
    p.hear()
    p.note("-- partly old")
    p.say(0, 35, 1, payload=b"e" * 6 + b"f" * 4)
    p.hear()
    p.call("recv 100")


def window(p):
    """Segments outside of the window, and ACKs of what was not sent."""
    p.established()
    for seq in (-5, 10000000, -2000000000):
        p.say(0, seq, 1, payload=b"out")
        p.hear()
    p.note("-- ACKs")
    p.say(0, 1, 5000)
    p.hear()
    p.say(0, 1, -5)
    p.hear()
    p.say(0, 1, -100000000)
    p.hear()
    p.call("recv 10")
    p.note("-- without ACK")
    p.say(0, 1, None, payload=b"no ack")
    p.hear()
    p.call("recv 10")


def resets(p):
    """RFC 5961: only the exact RST resets, others in the window are challenged."""
    p.established()
    p.say(RST, 5)
    p.hear()
    p.say(RST, 100000000)
    p.hear()
    p.say(RST, -1)
    p.hear()
    p.call("error")
    p.say(RST, 1)
    p.hear()
    p.call("recv 10")
    p.call("recv 10")
    p.note("-- and afterwards")
    p.say(0, 1, 1, payload=b"late")
    p.hear()


def synchronised(p):
    """A SYN on a connection is challenged."""
    p.established()
    p.say(SYN, 0)
    p.hear()
    p.say(SYN, 5)
    p.hear()
    p.say(SYN, 1, 1)
    p.hear()
    p.say(SYN, 100000000, 1)
    p.hear()
    p.say(PSH, 1, 1, payload=b"alive")
    p.hear()
    p.call("recv 10")


def passive_close(p):
    """The peer closes first."""
    p.established()
    p.say(FIN, 1, 1, payload=b"last")
    p.hear()
    p.call("recv 10")
    p.call("recv 10")
    p.note("-- the FIN again")
    p.say(FIN, 5, 1)
    p.hear()
    p.call("send 10")
    p.hear()
    p.say(0, 6, 11)
    p.call("close")
    p.hear()
    p.say(0, 6, 12)
    p.hear()
    p.note("-- closed")
    p.say(0, 6, 12)
    p.hear()


def active_close(p):
    """The program closes first: TIME-WAIT."""
    p.established()
    p.call("send 10")
    p.hear()
    p.call("close")
    p.hear()
    p.say(0, 1, 12)
    p.hear()
    p.say(FIN, 1, 12)
    p.hear()
    p.note("-- the FIN again")
    p.say(FIN, 1, 12)
    p.hear(wait=0.7)
    p.note("-- a RST in TIME-WAIT, outside")
    p.say(RST, 100000000)
    p.hear()
    p.note("-- data in TIME-WAIT")
    p.say(0, 2, 12, payload=b"late")
    p.hear(wait=0.7)
    p.note("-- an old SYN")
    p.say(SYN, -1000, options=MSS)
    p.hear(wait=0.7)
    p.note("-- a new SYN")
    p.iss = None
    p.say(SYN, 1000000, options=MSS)
    p.hear()


def simultaneous_close(p):
    p.established()
    p.call("close")
    p.hear()
    p.say(FIN, 1, 1)
    p.hear()
    p.say(0, 2, 2)
    p.hear()


def half_close(p):
    """After its FIN the program still takes data."""
    p.established()
    p.call("shutdown wr")
    p.hear()
    p.say(0, 1, 2)
    p.hear()
    p.say(0, 1, 2, payload=b"still")
    p.hear()
    p.call("recv 10")
    p.say(FIN, 6, 2)
    p.hear()
    p.call("recv 10")
    p.call("close")
    p.hear()


def unread(p):
    """A close with data unread is a reset."""
    p.established()
    p.say(0, 1, 1, payload=b"unread")
    p.hear()
    p.call("close")
    p.hear()
    p.say(0, 7, 1)
    p.hear()


def lingering(p):
    """SO_LINGER 0."""
    p.established()
    p.call("linger")
    p.call("close")
    p.hear()
    p.say(0, 1, 1, payload=b"late")
    p.hear()


def orphan(p):
    """Data that comes after close."""
    p.established()
    p.call("close")
    p.hear()
    p.say(0, 1, 2)
    p.hear()
    p.say(0, 1, 2, payload=b"too late")
    p.hear()


def connecting(p):
    """An active open and its answers."""
    p.peer_port = 7000
    p.note("-- refused")
    p.call(f"connect {US} 7000")
    p.hear()
    p.say(RST, 0, 1)
    p.hear()
    p.call("error")
    p.note("-- strange answers")
    p.iss = None
    p.call(f"connect {US} 7000")
    p.hear()
    p.say(SYN, 0, 55)
    p.hear()
    p.say(RST, 0)
    p.hear()
    p.say(RST, 0, 55)
    p.hear()
    p.say(0, 0, 1)
    p.hear()
    p.say(FIN, 0, 1)
    p.hear()
    p.note("-- the right one")
    p.say(SYN, 0, 1, options=MSS + SACK_OK + SCALE)
    p.hear()
    p.call("send 5")
    p.hear()
    p.note("-- the SYN-ACK again")
    p.say(SYN, 0, 1, options=MSS + SACK_OK + SCALE)
    p.hear()


def simultaneous_open(p):
    p.peer_port = 7000
    p.call(f"connect {US} 7000")
    p.hear()
    p.say(SYN, 0, options=MSS)
    p.hear()
    p.say(SYN, 0, 1, options=MSS)
    p.hear()
    p.call("send 5")
    p.hear()


def zero_window(p):
    """Nothing goes into a closed window; it goes when it opens."""
    p.established(window=0)
    p.call("send 100")
    p.hear(wait=0.1)
    p.say(0, 1, 1, window=10)
    p.hear(wait=0.1)
    p.say(0, 1, 11, window=65535)
    p.hear(wait=0.1)
    p.say(0, 1, 101)
    p.hear()


def full(p):
    """A receiver that does not read closes its window, and opens it."""
    p.established(listen="listen 7000 16 4608", options=MSS)
    at, chunk = 1, b"f" * 1000
    for _ in range(20):
        p.say(0, at, 1, payload=chunk)
        closed = False
        for found in p.segments(0.1):
            at = (found.ack - ISS) & 0xFFFFFFFF
            closed = found.window < 1000
        if closed:
            break
    p.note("the window closes" if closed else "the window does not close")


def nagle(p):
    """A small segment waits for the ACK of the one before; not with TCP_NODELAY, and not without end with TCP_CORK."""
    p.established()
    p.call("send 10")
    p.call("send 10")
    p.call("send 10")
    p.hear(quiet=0.01)
    p.say(0, 1, 11)
    p.hear()
    p.say(0, 1, 31)
    p.call("nodelay")
    p.call("send 10")
    p.hear(wait=0.05, quiet=0.005)
    p.call("send 10")
    p.hear(wait=0.05, quiet=0.005)
    p.say(0, 1, 51)
    p.call("cork 1")
    p.call("send 10")
    p.hear(wait=0.05)
    p.call("cork 0")
    p.hear(wait=0.05)


def small_segments(p):
    """The peer's MSS is respected."""
    p.established(options=b"\x02\x04\x02\x18")
    p.call("send 1500")
    p.hear()
    p.say(0, 1, 1501)
    p.hear()


def paws(p):
    """RFC 7323: an old timestamp drops a segment."""
    p.established(stamped=True)
    p.stamp = STAMP + 100
    p.say(0, 1, 1, payload=b"new")
    p.hear()
    p.stamp = STAMP + 50
    p.say(0, 4, 1, payload=b"old")
    p.hear()
    p.call("recv 10")
    p.note("-- a RST with an old one")
    p.say(RST, 4)
    p.hear()
    p.call("recv 10")
    p.note("-- none at all")
    p.with_stamps = False
    p.say(0, 4, 1, payload=b"none", options=b"\1\1\1\1")
    p.hear()
    p.call("recv 10")


def losses(p):
    """Three duplicate ACKs with SACK: what is missing is sent again."""
    p.established(options=b"\x02\x04\x03\xe8" + SACK_OK + SCALE)
    p.call("send 8000")
    p.hear()
    base = (p.iss or 0) + 1
    for end in (2, 3, 4):
        block = b"\x01\x01\x05\x0a" + struct.pack("!II", (base + 1000) & 0xFFFFFFFF, (base + 1000 * end) & 0xFFFFFFFF)
        p.say(0, 1, 1, options=block)
    first = next(p.segments(0.15), None)
    p.note(f"sent again: {p.describe(first)}" if first else "nothing is sent again")
    for _ in p.segments(0.05):
        pass
    p.say(0, 1, 8001)
    p.hear()


def timeout(p):
    """Nobody answers: the segment is sent again, with pauses that double."""
    p.established(options=MSS)
    p.call("send 10")
    begin, times = time.monotonic(), []
    for found in p.segments(1.6, 1.6):
        times.append(time.monotonic() - begin)
        p.note(f"out  {p.describe(found)}")
        if len(times) == 4:
            break
    pauses = [b - a for a, b in zip(times[1:], times[2:])]
    p.note(f"pauses double: {all(1.6 < b / a < 2.5 for a, b in zip(pauses, pauses[1:]))}")


def urgent(p):
    """Urgent data that comes in: pointers at bytes that are there, that will be, that were, and that never come."""
    def look(name, *segments, inline=False):
        p.note(f"-- {name}")
        p.peer_port, p.iss = p.peer_port + 1, None
        p.established(listen=None)
        p.call(f"inline {int(inline)}", quiet=True)
        for flags, seq, payload, pointer in segments:
            p.note(f"     urgent {pointer}")
            p.say(flags, seq, 1, payload=payload, urgent=pointer)
            p.hear(0.1)
            p.call("mark")
        for call in ("urgent", "recv 20", "mark", "urgent", "recv 20", "mark", "recv 20"):
            p.call(call)
        p.call("linger", quiet=True)
        p.call("close", quiet=True)
        p.hear(0.05)

    p.call("listen 7000")
    for pointer in (0, 1, 2, 5, 6, 7, 0x7fff, 0xffff):
        look(f"urgent {pointer}", (URG, 1, b"abcde", pointer), (0, 6, b"fghij", 0))
    look("no flag", (0, 1, b"abcde", 3))
    look("inline", (URG, 1, b"abcde", 3), inline=True)
    look("no data yet", (URG, 1, b"", 1), (0, 1, b"abc", 0))
    look("no data yet, far away", (URG, 1, b"", 3), (0, 1, b"ab", 0), (0, 3, b"cd", 0))
    look("a second pointer", (URG, 1, b"abc", 2), (URG, 4, b"def", 2))
    look("a second pointer, of the next byte", (URG, 1, b"a", 1), (URG, 2, b"b", 1))
    look("a second pointer, further, without data", (URG, 1, b"abc", 2), (URG, 4, b"", 2), (0, 4, b"def", 0))
    look("the same pointer again", (URG, 1, b"abc", 2), (URG, 1, b"abc", 2))
    look("a lower pointer", (URG, 1, b"abc", 6), (URG, 4, b"def", 1))
    look("a pointer at what is old", (0, 1, b"abc", 0), (URG, 2, b"bcdef", 1))
    look("one that is partly old", (0, 1, b"abc", 0), (URG, 2, b"bcdef", 3))
    look("out of order", (URG, 4, b"def", 2), (0, 1, b"abc", 0))
    look("out of order, the byte first", (0, 4, b"def", 0), (URG, 1, b"", 5), (0, 1, b"abc", 0))
    look("out of order, at the mark", (URG, 3, b"cd", 1), (0, 1, b"ab", 0))
    look("beyond the window", (URG, 1000000, b"abc", 1))
    look("before the window", (URG, -10, b"abc", 1))
    look("with a FIN", (URG | FIN, 1, b"abc", 2))
    look("with a FIN alone", (URG | FIN, 1, b"", 1))
    look("after a FIN", (FIN, 1, b"abc", 0), (URG, 5, b"", 1))
    look("data after a FIN", (FIN, 1, b"abc", 0), (URG, 5, b"def", 2))
    look("behind a FIN", (URG | FIN, 1, b"abc", 20))
    look("with a RST", (URG | RST, 1, b"", 1))
    look("before a RST", (URG, 1, b"abc", 2), (RST, 4, b"", 0))


def urgent_out(p):
    """Urgent data that goes out: small and large, held back and not, lost, behind a window that is shut."""
    p.established(options=b"\x02\x04\x03\xe8" + SCALE)
    end = 1

    def ack(n, **more):
        nonlocal end
        end += n
        p.say(0, 1, end, **more)

    for n in (1, 3, 1000, 2500):
        p.call(f"oob {n}")
        p.hear()
        ack(n)
    p.note("-- nothing waits while it is not acknowledged")
    for call in ("oob 1", "send 10", "send 5", "oob 2", "send 3"):
        p.call(call)
        p.hear()
    ack(21)
    p.call("send 10")
    p.hear()
    p.call("send 10")
    p.hear(0.05)
    ack(10)
    p.hear()
    ack(10)
    p.note("-- corked")
    p.call("cork 1")
    p.call("send 10")
    p.hear(0.1)
    p.call("oob 1")
    p.hear()
    p.call("send 5")
    p.hear()
    ack(16)
    p.call("send 5")
    p.hear(0.1)
    p.call("cork 0")
    p.hear()
    ack(5)
    p.note("-- the window is shut")
    p.say(0, 1, end, window=0)
    p.call("oob 1")
    p.hear(0.05)
    p.say(0, 1, 1, payload=b"question")
    p.hear(0.1)
    for _, found in zip(range(4), p.segments(1, 1)):
        p.note(f"out  {p.describe(found)}")
    p.say(0, 9, end)
    p.hear()
    p.say(0, 9, end + 1, window=0)
    end += 1
    p.note("-- shut, and far away")
    p.call("sndbuf 200000")
    p.call("send 70000")
    p.call("oob 1")
    for _, found in zip(range(2), p.segments(1, 1)):
        p.note(f"out  {p.describe(found)}")
    p.note("-- open again, for two segments at a time")
    p.say(0, 9, end, window=16)
    p.hear()
    for end in range(end + 2000, end + 70002, 2000):
        p.say(0, 9, end, window=16)
        p.hear(0.06)
    p.say(0, 9, end + 1)
    end += 1
    p.note("-- lost")
    p.call("send 10")
    p.hear()
    p.call("oob 1")
    p.hear()
    found = next(p.segments(1), None)
    p.note(f"sent again: {p.describe(found)}" if found else "nothing is sent again")
    p.say(0, 9, end + 10)
    found = next(p.segments(1), None)
    p.note(f"sent again: {p.describe(found)}" if found else "nothing is sent again")
    p.say(0, 9, end + 11)
    p.hear(0.05)


def too_big(p):
    """Routers say what the path takes: less and less, less than any path may take, and of what was never sent."""
    p.established()
    p.call("nodelay", quiet=True)
    begin = 1
    for mtu in (1400, 1300, 1280, 1279, 1000, 600, 300, 0):
        p.note(f"-- {mtu}")
        p.call("send 1400")
        p.hear()
        p.too_big(mtu)
        # Not as long as a tail loss probe takes.
        p.hear(0.03)
        begin += 1400
        p.say(0, 1, begin)
        p.hear()
    p.note("-- of another's")
    p.say(0, 1, begin)
    p.last = p.last[:-1500] + p.last[-1500:].replace(struct.pack("!I", (p.iss + begin - 1400) & 0xFFFFFFFF), b"away", 1)
    p.too_big(600)
    p.hear(0.03)
    p.call("send 1400")
    p.hear()


def trouble(p):
    """Every error that a router or a host tells of: to one who connects, and on a connection."""
    if SIX:
        kinds = [(1, code) for code in range(8)] + [(3, 0), (3, 1), (4, 0), (4, 1), (4, 2), (5, 0), (128, 0)]
    else:
        kinds = [(3, code) for code in range(17) if code != 4] + [(4, 0), (5, 0), (11, 0), (11, 1), (12, 0), (12, 1), (8, 0)]
    p.hears_all = False
    for n, (kind, code) in enumerate(kinds):
        p.peer_port = 7100 + n
        p.call(f"connect {US} {p.peer_port}", quiet=True)
        p.hear()
        p.trouble(kind, code)
        p.hear(0.03)
        p.call("error")
        p.call("close", quiet=True)
    p.peer_port = 40000
    p.established()
    begin = 1
    for kind, code in kinds:
        p.call("send 10")
        p.hear()
        p.trouble(kind, code)
        p.hear(0.03)
        p.call("error")
        begin += 10
        p.say(0, 1, begin)
    p.hear()


def fast_open(p):
    """A server of Fast Open: cookies, and connections that are read and answered before their handshakes end."""
    p.hears_all = False
    p.call("listen 7000")
    p.call("fastopen 50")
    number = 40000

    def begin(name, options, payload=b"hello", hears=True):
        nonlocal number
        number += 1
        p.note(f"-- {name}")
        p.peer_port, p.iss = number, None
        p.say(SYN, 0, payload=payload, options=MSS + SACK_OK + options)
        if hears:
            p.hear()

    begin("a cookie is wanted", fast(), payload=b"")
    good = fast(p.cookie)
    p.say(RST, 1)
    begin("in the form of the experiment", fast(experimental=True), payload=b"")
    p.say(RST, 1)
    begin("a cookie is wanted, with data", fast())
    p.say(RST, 1)
    begin("data and no option", b"")
    p.say(RST, 1)
    for name, option in (("a wrong cookie", fast(b"8 wrong!")), ("a short one", fast(p.cookie[:4])),
                         ("a long one", fast(p.cookie * 2)), ("an odd one", fast(p.cookie[:7])),
                         ("one that is too long", fast(p.cookie * 2 + b"xx")), ("two bytes", fast(b"xx"))):
        begin(name, option)
        p.say(RST, 1)
    begin("a good one, and the handshake ends", good)
    p.call("accept"), p.call("info"), p.call("recv 10"), p.call("recv 10")
    p.say(0, 6, 1)
    p.hear()
    p.call("info"), p.call("send 50")
    p.hear()
    p.say(0, 6, 51)
    begin("in the form of the experiment", fast(p.cookie, experimental=True))
    p.call("accept"), p.call("recv 10")
    begin("answered before its end", good)
    p.call("accept"), p.call("recv 10"), p.call("send 50"), p.call("info")
    p.hear()
    p.note("-- the SYN again")
    p.say(SYN, 0, options=MSS + SACK_OK)
    p.hear()
    p.say(SYN, 0, payload=b"hello", options=MSS + SACK_OK + good)
    p.hear()
    p.note("-- an ACK of something that was not sent, and of too little")
    p.say(0, 6, 77)
    p.hear()
    p.say(0, 6, 0)
    p.hear()
    p.note("-- outside of the window")
    p.say(0, 100000, 1)
    p.hear()
    p.say(RST, 200000)
    p.hear()
    p.note("-- another SYN")
    p.say(SYN, 10)
    p.hear()
    p.note("-- without ACK")
    p.say(0, 6, payload=b"no ack")
    p.hear()
    p.call("info")
    p.note("-- the SYN-ACK is acknowledged, the answer is not")
    p.say(0, 6, 1)
    p.hear(wait=0.6)
    p.call("info")
    p.say(0, 6, 51)
    p.hear()
    begin("no data, with a cookie", good, payload=b"")
    p.call("accept"), p.call("info"), p.call("recv 10"), p.call("send 50")
    p.hear()
    p.say(0, 1, 51, payload=b"later")
    p.hear()
    p.call("recv 10")
    begin("nobody answers", good)
    p.call("accept"), p.call("send 50")
    p.hear(wait=1.5, quiet=1.5)
    p.say(0, 6, 51, payload=b" more")
    p.hear()
    p.call("recv 20"), p.call("info")
    begin("nobody answers for long", good)
    p.call("accept"), p.call("send 1000")
    p.hear(wait=3.3, quiet=2.2)
    p.note("-- the SYN-ACK is acknowledged, the answer is not")
    p.say(0, 6, 1)
    p.hear()
    p.say(0, 6, 1001)
    p.hear()
    begin("a RST before accept", good)
    p.say(RST, 6)
    p.hear()
    p.call("accept"), p.call("info"), p.call("recv 10"), p.call("recv 10")
    begin("a RST after it, somewhere in the window", good)
    p.call("accept"), p.call("recv 10")
    p.say(RST, 100)
    p.hear()
    p.call("info"), p.call("recv 10"), p.call("send 10")
    begin("closed before its end", good)
    p.call("accept"), p.call("recv 10"), p.call("send 20"), p.call("close")
    p.hear()
    p.say(0, 6, 1)
    p.hear(wait=0.6, quiet=0.5)
    p.say(FIN, 6, 22)
    p.hear()
    begin("closed with data unread", good)
    p.call("accept"), p.call("close")
    p.hear()
    begin("shut down before its end", good)
    p.call("accept"), p.call("recv 10"), p.call("send 20"), p.call("shutdown wr")
    p.hear()
    p.call("send 1")
    p.say(0, 6, 21)
    p.hear()
    p.say(FIN, 6, 22)
    p.hear()
    begin("a FIN as the first segment", good)
    p.call("accept"), p.call("recv 10")
    p.say(FIN, 6, 1, payload=b"and last")
    p.hear()
    p.call("recv 20"), p.call("recv 20")
    p.call("close")
    p.hear()
    begin("the listener ends", good)
    p.call("closel")
    p.hear()


def fast_open_queue(p):
    """TCP_FASTOPEN's bound."""
    p.hears_all = False
    p.call("listen 7000")
    p.call("fastopen 2")
    p.say(SYN, 0, options=MSS + fast())
    p.hear()
    p.say(RST, 1)
    good = fast(p.cookie)
    for number in range(4):
        p.peer_port, p.iss = 41000 + number, None
        p.say(SYN, 0, payload=b"hello", options=MSS + good)
        p.hear()
    p.note("-- one of them gets on")
    p.peer_port, p.iss = 41000, None
    p.say(SYN, 0, options=MSS)
    p.hear()
    p.say(0, 6, 1)
    p.hear()
    for number in range(2):
        p.peer_port, p.iss = 42000 + number, None
        p.say(SYN, 0, payload=b"hello", options=MSS + good)
        p.hear()
    p.note("-- one is reset before accept, one after it")
    p.peer_port, p.iss = 42000, None
    p.say(RST, 6)
    p.hear()
    for number in range(2):
        p.peer_port, p.iss = 43000 + number, None
        p.say(SYN, 0, payload=b"hello", options=MSS + good)
        p.hear()
    for _ in range(4):
        p.call("accept"), p.call("recv 10")
    p.peer_port, p.iss = 43000, None
    p.say(RST, 6)
    p.hear()
    p.peer_port, p.iss = 44000, None
    p.say(SYN, 0, payload=b"hello", options=MSS + good)
    p.hear()


def fast_open_client(p):
    """A client of Fast Open: how it gets a cookie, and what it makes of the answers."""
    p.peer_port = 7000

    def begin(name, how="sendfast", n=10):
        p.note(f"-- {name}")
        p.iss = None
        p.call(f"{how} {US} {p.peer_port}" + (f" {n}" if how == "sendfast" else ""))
        p.hear()

    begin("there is no cookie, and none comes")
    p.say(SYN, 0, 1, options=MSS)
    p.hear()
    p.call("info"), p.call("send 10")
    p.hear()
    p.say(RST, 1)
    begin("it tries the experiment")
    p.say(SYN, 0, 1, options=MSS)
    p.hear()
    p.say(RST, 1)
    begin("and the option once more: a cookie")
    p.say(SYN, 0, 1, options=MSS + fast(b"a cookie"))
    p.hear()
    p.say(RST, 1)
    begin("data, all of it acknowledged")
    p.say(SYN, 0, 11, options=MSS)
    p.hear()
    p.call("info"), p.call("send 10")
    p.hear()
    p.say(0, 1, 21, payload=b"answer")
    p.hear()
    p.call("recv 20")
    p.say(RST, 7)
    begin("none of it acknowledged, and another cookie")
    p.say(SYN, 0, 1, options=MSS + fast(b"another cookie!!"))
    p.hear()
    p.call("info")
    p.say(0, 1, 11)
    p.hear()
    p.say(RST, 1)
    begin("a part of it acknowledged")
    p.say(SYN, 0, 5, options=MSS)
    p.hear()
    p.call("info")
    p.say(0, 1, 11)
    p.hear()
    p.say(RST, 1)
    begin("more than was sent")
    p.say(SYN, 0, 12, options=MSS)
    p.hear()
    p.say(SYN, 0, 11, options=MSS, payload=b"data in the SYN-ACK")
    p.hear()
    p.call("recv 30"), p.call("info")
    p.say(RST, 20)
    begin("data that is too large", n=3000)
    p.say(SYN, 0, 1421, options=MSS)
    p.hear()
    p.call("info")
    p.say(RST, 1)
    begin("the MSS of the peer counts", n=3000)
    p.say(SYN, 0, 1421, options=b"\x02\x04\x02\x58")
    p.hear()
    p.say(RST, 1)
    begin("... the next time", n=3000)
    p.say(RST, 0, 561)
    p.hear()
    p.call("error")
    begin("the answer does not come")
    p.hear(wait=1.3)
    p.say(SYN, 0, 1, options=MSS)
    p.hear()
    p.call("info")
    p.say(0, 1, 11)
    p.hear()
    p.say(RST, 1)
    begin("it comes late")
    p.hear(wait=1.3)
    p.say(SYN, 0, 11, options=MSS)
    p.hear()
    p.call("info")
    p.say(RST, 1)
    begin("a SYN crosses it")
    p.say(SYN, 0, options=MSS)
    p.hear()
    p.say(0, 1, 1)
    p.hear(wait=1.5)
    p.call("info")
    p.say(0, 1, 11)
    p.hear()
    p.say(RST, 1)
    begin("connect", how="connectfast")
    p.call("info"), p.call("send 10")
    p.hear()
    p.say(SYN, 0, 11, options=MSS)
    p.hear()
    p.call("info")
    p.say(RST, 1)
    begin("connect, and close", how="connectfast")
    p.call("close")
    p.hear()
    begin("nothing to send", n=0)
    p.say(SYN, 0, 1, options=MSS)
    p.hear()
    p.call("info")
    p.say(RST, 1)
    p.note("-- a SYN that does not get through")
    p.hears_all = False
    p.peer_port = 7001
    # No path of IPv6 takes less than 1280: that is not believed.
    for mtu in (700, 1300) if SIX else (1300,):
        begin("it is too large", n=1390)
        p.too_big(mtu)
        p.hear()
        p.say(SYN, 0, 1, options=MSS)
        p.hear()
        p.call("info")
        p.peer_port += 1


def fast_open_blackhole(p):
    """Fast Open rests for a while where something on the way does not seem to let it through: here a second, then two."""
    p.hears_all = False

    def begin(name):
        p.note(f"-- {name}")
        p.iss, p.port = None, 7000
        p.call(f"sendfast {US} {p.peer_port} 10")
        p.hear()

    def end(seq=1):
        p.say(RST, seq, 1)
        p.call("close")
        p.peer_port += 1

    begin("a cookie")
    p.say(SYN, 0, 1, options=MSS + fast(b"a cookie"))
    p.hear()
    end()
    begin("nobody answers")
    for _ in range(3):
        p.hear(wait=1.3)
    p.say(RST, 0, 1)
    p.hear()
    p.call("error")
    p.peer_port += 1
    begin("it rests")
    p.say(SYN, 0, 1, options=MSS)
    p.hear()
    end()
    time.sleep(1)
    begin("it is tried again")
    p.say(SYN, 0, 11, options=MSS)
    p.hear()
    p.note("-- a RST that is not where it should be")
    p.say(RST, 100)
    p.hear()
    end()
    begin("it rests")
    end()
    time.sleep(1)
    begin("... for longer")
    end()
    time.sleep(1.2)
    begin("it is tried again, and works")
    p.say(SYN, 0, 11, options=MSS)
    p.hear()
    p.say(0, 1, 11, payload=b"answer")
    p.hear()
    p.call("recv 10")
    end(7)
    begin("a FIN and nothing before it")
    p.say(SYN, 0, 11, options=MSS)
    p.hear()
    p.say(FIN, 10, 11)
    p.hear()
    end()
    begin("it rests")
    end()
    time.sleep(1.1)
    begin("... for a second only")
    end()


SCRIPTS = {f.__name__: f for f in (
    handshake, embryo, refusals, data, disorder, window, resets, synchronised, passive_close, active_close,
    simultaneous_close, half_close, unread, lingering, orphan, connecting, simultaneous_open, zero_window, full, nagle,
    small_segments, paws, losses, timeout, urgent, urgent_out, too_big, trouble, fast_open, fast_open_queue, fast_open_client,
    fast_open_blackhole)}


def main(script, *command):
    player = Player(command)
    try:
        SCRIPTS[script](player)
    finally:
        player.actor.kill()
        player.actor.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
