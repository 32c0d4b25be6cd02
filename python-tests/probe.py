#!/usr/bin/env python3
"""Probes a host with frames that a good network would not bring, and prints what it answers: a flag, or silence.

    probe.py INTERFACE SERVERS_MAC OWN_MAC
"""

import socket
import sys
import time

from packets import ACK, FIN, PSH, RST, SYN, URG, Segment, flag_names, ipv4, mac, segment

# An address of the wire that no host has, so that no kernel answers what is answered to us.
US = "10.77.1.77"
SERVER, OTHER_ADDRESS = "10.77.1.1", "10.77.1.3"
BROADCAST_MAC = b"\xff" * 6
OTHER_MAC = bytes.fromhex("020000000099")
OPTIONS = b"\x02\x04\x05\xb4"


def probes():
    """Name, and what is unusual about a SYN from US to SERVER, port 7003."""
    for name, port in (("all addresses", 7003), ("one address", 7002), ("loopback only", 7001), ("closed", 7004)):
        for to, address in (("the server's address", SERVER), ("its other address", OTHER_ADDRESS)):
            yield f"SYN to {to}, listener on {name}", dict(port=port, destination=address)
    for address in ("127.0.0.1", "127.9.9.9", "10.99.0.5", "10.77.1.200", "10.77.1.255", "255.255.255.255", "224.0.0.1",
                    "0.0.0.0"):
        for port in (7001, 7003):
            yield f"SYN to {address} port {port}", dict(destination=address, port=port)
    for address in ("127.0.0.1", SERVER, OTHER_ADDRESS, "0.0.0.0", "224.0.0.1", "255.255.255.255", "240.0.0.1",
                    "10.77.1.255"):
        yield f"SYN from {address}", dict(source=address)
        yield f"SYN from {address} to port 7001 of 127.0.0.1", dict(source=address, destination="127.0.0.1", port=7001)
    yield "SYN to another host's MAC", dict(to=OTHER_MAC)
    yield "SYN to the broadcast MAC", dict(to=BROADCAST_MAC)
    yield "SYN, bad IP checksum", dict(ip=dict(bad_checksum=True))
    yield "SYN, bad TCP checksum", dict(tcp=dict(bad_checksum=True))
    yield "SYN, first fragment", dict(ip=dict(fragment=0x2000))
    yield "SYN, later fragment", dict(ip=dict(fragment=0x0010))
    yield "SYN, TTL 1", dict(ip=dict(ttl=1))
    yield "SYN, TTL 255", dict(ip=dict(ttl=255))
    for flags in (0, FIN, ACK, RST, RST | ACK, FIN | ACK, PSH | ACK, SYN | ACK, SYN | RST, SYN | FIN,
                  FIN | PSH | URG, URG | PSH, SYN | PSH | URG, SYN | URG):
        for port in (7003, 7004):
            yield f"{flag_names(flags)} to port {port}", dict(port=port, tcp=dict(flags=flags, ack=12345))
    yield "SYN from port 0", dict(source_port=0)
    yield "SYN to port 0", dict(port=0)
    yield "SYN with data", dict(tcp=dict(payload=b"hello"))
    yield "SYN with an option of length 0", dict(tcp=dict(options=b"\x02\x00\x05\xb4"))
    yield "SYN with an option too long", dict(tcp=dict(options=b"\x02\x44\x05\xb4"))
    # At the end: the host is alive and well.
    yield "SYN as at the beginning", dict()


def main(interface, servers_mac, own_mac):
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
    wire.bind((interface, 0))
    wire.setblocking(False)
    servers_mac, own_mac = mac(servers_mac), mac(own_mac)
    for number, (name, what) in enumerate(probes()):
        source_port = what.get("source_port", 20000 + number)
        tcp = dict(flags=SYN, seq=1000000 + number, options=OPTIONS)
        tcp.update(what.get("tcp", {}))
        source, destination = what.get("source", US), what.get("destination", SERVER)
        packet = ipv4(source, destination, segment(source, destination, source_port, what.get("port", 7003), **tcp),
                      **what.get("ip", {}))
        wire.send(what.get("to", servers_mac) + own_mac + b"\x08\x00" + packet)
        answers, deadline = [], time.monotonic() + 0.12
        while time.monotonic() < deadline:
            try:
                frame = wire.recv(65536)
            except BlockingIOError:
                time.sleep(0.005)
                continue
            # Frames of the server's, to whatever address the probe claimed to come from.
            found = Segment.parse(frame[14:])
            if found and frame[6:12] == servers_mac and found.destination_port == source_port:
                answers.append(f"{flag_names(found.flags)} seq {'0' if found.seq == 0 else 'set'} "
                               f"ack {found.ack - tcp['seq'] if found.flags & ACK else '-'}")
                if found.flags & SYN:
                    # The half-open connection is taken back: retransmissions would come late and count elsewhere.
                    reset = segment(source, destination, source_port, what.get("port", 7003), seq=tcp["seq"] + 1, flags=RST)
                    wire.send(servers_mac + own_mac + b"\x08\x00" + ipv4(source, destination, reset))
        print(f"{name}: {', '.join(dict.fromkeys(answers)) or 'silence'}", flush=True)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
