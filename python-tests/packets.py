"""Frames by hand, for tests that say to a host what no TCP says: built, sent and taken apart here."""

import socket
import struct

FIN, SYN, RST, PSH, ACK, URG = 1, 2, 4, 8, 16, 32
NAMES = ((SYN, "SYN"), (FIN, "FIN"), (RST, "RST"), (PSH, "PSH"), (ACK, "ACK"), (URG, "URG"))


def flag_names(flags):
    return " ".join(name for bit, name in NAMES if flags & bit) or "none"


def checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def packed(address):
    """An address of either family as it is in a packet."""
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def tcp_checksum(source, destination, segment):
    return checksum(source + destination + struct.pack("!BBH", 0, 6, len(segment)) + segment)


def segment(source, destination, source_port, destination_port, seq=0, ack=0, flags=0, window=65535, options=b"",
            payload=b"", urgent=0, bad_checksum=False):
    """A TCP segment; options are padded."""
    options += b"\0" * (-len(options) % 4)
    offset = (20 + len(options)) // 4 << 4
    head = struct.pack("!HHIIBBHHH", source_port, destination_port, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF, offset, flags,
                       window, 0, urgent) + options
    total = tcp_checksum(packed(source), packed(destination), head + payload)
    if bad_checksum:
        total ^= 0x5555
    return head[:16] + struct.pack("!H", total) + head[18:] + payload


def ipv4(source, destination, payload, ttl=64, fragment=0, bad_checksum=False, protocol=6, identification=1):
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), identification, fragment, ttl, protocol, 0,
                       socket.inet_aton(source), socket.inet_aton(destination))
    total = checksum(head) ^ (0x5555 if bad_checksum else 0)
    return head[:10] + struct.pack("!H", total) + head[12:] + payload


def ipv6(source, destination, payload, next_header=6, hops=64, length=None):
    head = struct.pack("!IHBB", 6 << 28, len(payload) if length is None else length, next_header, hops)
    return head + packed(source) + packed(destination) + payload


def icmpv6(source, destination, kind, code, body):
    """An ICMPv6 message; `body` begins behind the checksum."""
    message = struct.pack("!BBH", kind, code, 0) + body
    total = checksum(packed(source) + packed(destination) + struct.pack("!II", len(message), 58) + message)
    return message[:2] + struct.pack("!H", total) + message[4:]


def mac(text):
    return bytes.fromhex(text.replace(":", ""))


class Segment:
    """What an IP packet with a TCP segment and no IPv6 extension headers says; `None` of `parse` where it is none."""

    @staticmethod
    def parse(packet):
        if len(packet) < 40:
            return None
        six = packet[0] >> 4 == 6
        if packet[6 if six else 9] != 6 or packet[0] >> 4 not in (4, 6):
            return None
        found, family = Segment(), socket.AF_INET6 if six else socket.AF_INET
        if six:
            start, length = 40, 40 + struct.unpack_from("!H", packet, 4)[0]
        else:
            start, length = (packet[0] & 15) * 4, struct.unpack_from("!H", packet, 2)[0]
        at, size = (8, 16) if six else (12, 4)
        found.source = socket.inet_ntop(family, packet[at:at + size])
        found.destination = socket.inet_ntop(family, packet[at + size:at + 2 * size])
        tcp = packet[start:length]
        if len(tcp) < 20:
            return None
        (found.source_port, found.destination_port, found.seq, found.ack, offset, found.flags, found.window, _,
         found.urgent) = struct.unpack_from("!HHIIBBHHH", tcp)
        offset = (offset >> 4) * 4
        found.options, found.payload = tcp[20:offset], tcp[offset:]
        return found

    def option_list(self):
        """Kinds and values, without padding."""
        at, out = 0, []
        while at < len(self.options):
            kind = self.options[at]
            if kind == 0:
                break
            if kind == 1:
                at += 1
                continue
            if at + 1 >= len(self.options) or self.options[at + 1] < 2:
                break
            length = self.options[at + 1]
            out.append((kind, self.options[at + 2:at + length]))
            at += length
        return out
