#!/usr/bin/env python3
"""Sends malformed frames to an echo server while live connections go on echoing, and prints how those fared.

Nine frames in ten have valid checksums and the addresses and ports of a live connection, and one field changed. Frames for
most connections repeat what the server has had already, so that nothing in them may have an effect; frames for a few
connections are exact copies of the latest one, and may legitimately end or corrupt those: they are opened anew.

    malformed.py INTERFACE ADDRESS PORT FRAMES SEED         ADDRESS: of either family
"""

import random
import socket
import struct
import sys

from packets import checksum, tcp_checksum

KEPT, SACRIFICED, BATCH = 16, 4, 100
SIX = len(sys.argv) > 2 and ":" in sys.argv[2]
# Where in a frame the TCP header begins, if there are no IP options; the next header's number, its TTL, its addresses.
TCP, PROTOCOL, TTL, SOURCE, DESTINATION, SIZE = (54, 20, 21, 22, 38, 16) if SIX else (34, 23, 22, 26, 30, 4)
ETHERTYPE = b"\x86\xdd" if SIX else b"\x08\x00"


class Live:
    """Connections of the kernel's, and the latest frame that each has sent."""

    def __init__(self, interface, server):
        self.server, self.latest = server, {}
        self.wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self.wire.bind((interface, 0))
        self.wire.setblocking(False)
        self.sent = 0

    def connect(self, patience=20):
        made = socket.create_connection(self.server, timeout=20)
        made.settimeout(patience)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made

    def look(self):
        """Takes in what the wire has carried."""
        while True:
            try:
                frame, address = self.wire.recvfrom(65536)
            except BlockingIOError:
                return
            if address[2] == socket.PACKET_OUTGOING and frame[12:14] == ETHERTYPE and frame[PROTOCOL] == 6:
                port = struct.unpack_from("!H", frame, TCP)[0]
                if struct.unpack_from("!H", frame, TCP + 2)[0] == self.server[1] and not frame[TCP + 13] & 6:
                    self.latest[port] = frame

    def send(self, frame):
        try:
            self.wire.send(frame)
            self.sent += 1
        except OSError:
            pass  # the queue was full


def whole(frame):
    """The frame with valid checksums, as far as its lengths make sense."""
    frame = bytearray(frame)
    if SIX:
        tcp = frame[TCP:TCP + struct.unpack_from("!H", frame, 18)[0]] if len(frame) > TCP else b""
        if len(tcp) >= 20:
            tcp[16:18] = b"\0\0"
            struct.pack_into("!H", frame, TCP + 16, tcp_checksum(bytes(frame[22:38]), bytes(frame[38:54]), bytes(tcp)))
        return bytes(frame)
    ihl = (frame[14] & 15) * 4 if len(frame) > 34 else 0
    if 20 <= ihl <= len(frame) - 14:
        frame[24:26] = b"\0\0"
        struct.pack_into("!H", frame, 24, checksum(bytes(frame[14:14 + ihl])))
        length = struct.unpack_from("!H", frame, 16)[0]
        at = 14 + ihl
        tcp = frame[at:14 + length]
        if len(tcp) >= 20:
            tcp[16:18] = b"\0\0"
            total = tcp_checksum(bytes(frame[26:30]), bytes(frame[30:34]), bytes(tcp))
            struct.pack_into("!H", frame, at + 16, total)
    return bytes(frame)


def mutate(dice, frame):
    """One field, changed."""
    frame = bytearray(frame)
    what = dice.randrange(17)
    put = lambda kind, at, value: struct.pack_into(kind, frame, at, value)
    if what == 0:  # a sequence number, far from the window
        seq = struct.unpack_from("!I", frame, TCP + 4)[0]
        put("!I", TCP + 4, (seq + dice.randrange(1 << 26, (1 << 32) - (1 << 26))) % (1 << 32))
    elif what == 1:
        put("!I", TCP + 8, dice.getrandbits(32))
    elif what == 2:
        frame[TCP + 13] = dice.getrandbits(8)
    elif what == 3:
        frame[TCP + 12] = dice.getrandbits(8)
    elif what == 4:
        put("!H", TCP + 14, dice.getrandbits(16))
    elif what == 5:
        put("!H", TCP + 18, dice.getrandbits(16))
        frame[TCP + 13] |= 32
    elif what in (6, 7) and len(frame) >= TCP + 32:
        frame[TCP + 20 + dice.randrange(12)] = dice.getrandbits(8)
    elif what == 8:  # shorter than it says
        del frame[dice.randrange(14, len(frame)):]
    elif what == 9:  # the IP length
        put("!H", 18 if SIX else 16, dice.choice([0, 10, 20, 21, 39, 40, len(frame) - 15, len(frame), 65535]))
    elif what == 10:
        frame[14] = dice.getrandbits(8)
    elif what == 11 and SIX:  # extension headers that are none
        frame[PROTOCOL] = dice.choice((0, 43, 44, 50, 51, 59, 60, 135))
    elif what == 11:  # a fragment
        put("!H", 20, dice.getrandbits(16))
    elif what == 12:
        frame[TTL] = dice.getrandbits(8)
    elif what == 13:
        frame[PROTOCOL] = dice.getrandbits(8)
    elif what == 14:
        frame[SOURCE + dice.randrange(SIZE)] = dice.getrandbits(8)
    elif what == 15:
        frame[DESTINATION + dice.randrange(SIZE)] = dice.getrandbits(8)
    else:
        put("!H", dice.choice((TCP, TCP + 2)), dice.getrandbits(16))
    return bytes(frame)


def stale(frame):
    """The same from a while ago: whatever it says has been said."""
    frame = bytearray(frame)
    seq = struct.unpack_from("!I", frame, TCP + 4)[0]
    struct.pack_into("!I", frame, TCP + 4, (seq - 200000) % (1 << 32))
    return bytes(frame)


def echo(connection, number):
    data = struct.pack("!Q", number) * 8
    connection.sendall(data)
    got = b""
    while len(got) < len(data):
        more = connection.recv(4096)
        if not more:
            return False
        got += more
    return got == data


def main(interface, address, port, frames, seed):
    dice = random.Random(int(seed))
    live = Live(interface, (address, int(port)))
    kept = [live.connect() for _ in range(KEPT)]
    given = [live.connect(0.5) for _ in range(SACRIFICED)]
    rounds = broken = lost = 0
    problems = []
    while live.sent < int(frames):
        for group in (kept, given):
            at = rounds % len(group)
            try:
                good, why = echo(group[at], rounds), "a wrong echo"
            except OSError as error:
                good, why = False, str(error)
            if not good and group is kept:
                broken += 1
                problems.append(f"connection {at} after {live.sent} frames: {why}")
                group[at].close()
                group[at] = live.connect()
            elif not good:
                lost += 1
                group[at].close()
                group[at] = live.connect(0.5)
        if broken > 5:
            break
        rounds += 1
        live.look()
        old = [live.latest[c.getsockname()[1]] for c in kept if c.getsockname()[1] in live.latest]
        new = [live.latest[c.getsockname()[1]] for c in given if c.getsockname()[1] in live.latest]
        for _ in range(BATCH):
            base = dice.choice(new) if new and dice.random() < 0.2 else stale(dice.choice(old))
            frame = mutate(dice, base)
            live.send(frame if dice.random() < 0.1 else whole(frame))
    for problem in problems:
        print(problem)
    print(f"{KEPT} connections that nothing should have touched, broken: {broken}")
    last = sum(echo(c, 7) for c in kept)
    print(f"echoing at the end: {last}")
    print(f"a new one: {echo(live.connect(), 8)}")
    print(f"{live.sent} frames, {rounds} rounds of echoes, {lost} of the connections that might be lost were", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
