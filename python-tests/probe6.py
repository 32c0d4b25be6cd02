#!/usr/bin/env python3
"""Probes a host with IPv6 frames that a good network would not bring, above all chains of extension headers, and prints what it
answers: a flag, an ICMPv6 error, or silence.

    probe6.py INTERFACE SERVERS_MAC OWN_MAC
"""

import socket
import struct
import sys
import time

from packets import ACK, RST, SYN, flag_names, ipv6, mac, segment

US, SERVER, LINK_LOCAL = "fd77:1::77", "fd77:1::1", "fe80::1"
HOP, ROUTING, FRAGMENT, ESP, AH, NONE, DESTINATION, TCP = 0, 43, 44, 50, 51, 59, 60, 6
PAD = b"\x01\x04\0\0\0\0"


def options(*them):
    """A header of options, without its first byte."""
    body = b"".join(them)
    body += (b"", b"\0", b"\x01\0", b"\x01\x01\0", b"\x01\x02\0\0", b"\x01\x03\0\0\0", PAD, b"\x01\x05\0\0\0\0\0")[-(len(body) + 2) % 8]
    return bytes([(len(body) + 2) // 8 - 1]) + body


def routing(kind, left, blocks=2):
    return bytes([blocks, kind, left]) + bytes(4 + 8 * blocks)


def fragment(offset=0, more=0, reserved=0):
    return struct.pack("!BHI", reserved, offset << 3 | more, 0x1234)


def chains():
    """Name, and the headers between IPv6's and TCP's."""
    plain = options()
    for name, kind in (("hop-by-hop", HOP), ("destination", DESTINATION)):
        yield f"{name}, padding", [(kind, plain)]
        yield f"{name}, 2 blocks", [(kind, options(b"\x1e\x09abcdefghi"))]
        for option, what in ((0x1e, "skip"), (0x5e, "drop"), (0x9e, "error"), (0xde, "error, not multicast"), (5, "router alert"),
                             (0xc2, "jumbo"), (0xc9, "home address"), (4, "limit"), (0x3e, "skip, too")):
            yield f"{name}, option {option:#x} ({what}), 2 bytes", [(kind, options(bytes([option, 2, 0, 0])))]
        yield f"{name}, router alert of 4 bytes", [(kind, options(b"\x05\x04\0\0\0\0"))]
        yield f"{name}, jumbo of 4 bytes", [(kind, options(b"\xc2\x04\0\1\0\0"))]
        yield f"{name}, option beyond the end", [(kind, b"\0\x1e\x09abcd")]
        yield f"{name}, padding that is not zero", [(kind, b"\0\x01\x04\0\1\0\0")]
        for n in (7, 8):
            yield f"{name}, padding of {n}", [(kind, b"\1" + b"\x01" + bytes([n - 2]) + bytes(n - 2) + b"\x1e" + bytes([14 - n - 2]) + bytes(14 - n - 2))]
        for n in (8, 9):
            yield f"{name}, {n} options", [(kind, options(*[b"\x1e\0"] * n))]
        yield f"{name}, 8 Pad1", [(kind, b"\1" + bytes(8) + b"\x1e\4abcd")]
        yield f"{name}, twice", [(kind, plain), (kind, plain)]
    yield "hop-by-hop after destination", [(DESTINATION, plain), (HOP, plain)]
    yield "destination after hop-by-hop", [(HOP, plain), (DESTINATION, plain)]
    for kind in (0, 1, 2, 3, 4, 77):
        for left in (0, 1):
            yield f"routing, type {kind}, {left} left", [(ROUTING, routing(kind, left))]
    yield "routing, no addresses", [(ROUTING, routing(0, 0, 0))]
    yield "routing, destination", [(ROUTING, routing(0, 0)), (DESTINATION, plain)]
    yield "atomic fragment", [(FRAGMENT, fragment())]
    yield "atomic fragment, reserved bits", [(FRAGMENT, fragment(reserved=7, more=6))]
    yield "atomic fragment behind all others", [(HOP, plain), (DESTINATION, plain), (ROUTING, routing(0, 0)), (FRAGMENT, fragment())]
    yield "two atomic fragments", [(FRAGMENT, fragment()), (FRAGMENT, fragment())]
    yield "destination behind an atomic fragment", [(FRAGMENT, fragment()), (DESTINATION, plain)]
    yield "first fragment", [(FRAGMENT, fragment(more=1))]
    yield "last fragment", [(FRAGMENT, fragment(offset=100))]
    for name, kind in (("ESP", ESP), ("AH", AH), ("253", 253), ("IPv4", 4), ("mobility", 135)):
        yield f"unknown header {name}", [(kind, options())]
    yield "no next header", [(NONE, options())]


def build(headers, tcp):
    """The first next-header value, and what follows IPv6's header."""
    kinds = [kind for kind, _ in headers] + [TCP]
    return kinds[0], b"".join(bytes([after]) + body for (_, body), after in zip(headers, kinds[1:])) + tcp


def packets(port):
    """Name, source, and a packet with a SYN from `port`."""
    syn = lambda source=US, destination=SERVER, **more: segment(source, destination, port, 7003, **{
        "seq": 1000, "flags": SYN, "options": b"\x02\x04\x05\xa0", **more})
    yield "plain", US, ipv6(US, SERVER, syn())
    for name, headers in chains():
        kind, payload = build(headers, syn())
        yield name, US, ipv6(US, SERVER, payload, kind)
    for name, headers in (("hop-by-hop", [(HOP, options())]), ("destination", [(DESTINATION, options())]), ("routing", [(ROUTING, routing(0, 0))]),
                          ("fragment", [(FRAGMENT, fragment())])):
        kind, payload = build(headers, syn())
        for length in (0, 1, 4, 7, 8):
            yield f"{name}, cut off after {length}", US, ipv6(US, SERVER, payload[:length], kind)
    yield "bad TCP checksum", US, ipv6(US, SERVER, syn(bad_checksum=True))
    yield "longer than it is", US, ipv6(US, SERVER, syn(), length=100)
    yield "shorter than it is", US, ipv6(US, SERVER, syn(), length=10)
    yield "hop limit 0", US, ipv6(US, SERVER, syn(), hops=0)
    yield "hop limit 1", US, ipv6(US, SERVER, syn(), hops=1)
    for source in ("::1", "::", "ff02::1", "ff0e::9", SERVER, "::ffff:10.77.1.77", "fe80::77"):
        yield f"from {source}", source, ipv6(source, SERVER, syn(source))
    for destination in ("::1", "ff02::1", "ff02::1:ff00:1", "fd77:1::99", "::", "::ffff:10.77.1.1", "fd77:1::"):
        yield f"to {destination}", US, ipv6(US, destination, syn(US, destination))
    yield "plain, at the end", US, ipv6(US, SERVER, syn())


def said(frame, port):
    """What a frame of the server's answers to the SYN from `port`, if it is about it."""
    if frame[12:14] != b"\x86\xdd" or len(frame) < 62:
        return None
    if frame[20] == 58 and frame[54] in (1, 2, 3, 4):
        return f"ICMPv6 {frame[54]}, code {frame[55]}, pointer {struct.unpack_from('!I', frame, 58)[0]}" if struct.pack("!HH", port, 7003) in frame else None
    if frame[20] == TCP and struct.unpack_from("!HH", frame, 54) == (7003, port):
        label = "a flow label" if struct.unpack_from("!I", frame, 14)[0] & 0xFFFFF else "no flow label"
        return f"{flag_names(frame[67])} ack {struct.unpack_from('!I', frame, 62)[0] - 1000 if frame[67] & ACK else '-'}, {label}"
    return None


def main(interface, servers_mac, own_mac):
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    wire.bind((interface, 0))
    wire.setblocking(False)
    servers_mac, own_mac = mac(servers_mac), mac(own_mac)
    head = servers_mac + own_mac + b"\x86\xdd"
    probes = {}
    for number in range(sum(1 for _ in packets(0))):
        port = 20000 + number
        name, source, packet = next(p for n, p in enumerate(packets(port)) if n == number)
        probes[port] = name, source, []
        wire.send(head + packet)
        listen(wire, servers_mac, head, probes, 0.002)
    listen(wire, servers_mac, head, probes, 0.5)
    for name, _, answers in probes.values():
        print(f"{name}: {'; '.join(dict.fromkeys(answers)) or 'silence'}", flush=True)


def listen(wire, servers_mac, head, probes, seconds):
    """Notes what is answered for a while."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            frame = wire.recv(65536)
        except BlockingIOError:
            time.sleep(0.001)
            continue
        for port, (_, source, answers) in probes.items() if frame[6:12] == servers_mac else ():
            answer = said(frame, port)
            if answer:
                answers.append(answer)
                if answer.startswith("SYN"):
                    # The half-open connection is taken back: its SYN-ACK would come again.
                    wire.send(head + ipv6(source, SERVER, segment(source, SERVER, port, 7003, seq=1001, flags=RST)))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
