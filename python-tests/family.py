"""The family that a program is run in, as c-tests/t.h has it: FAMILY=4, 6, or mapped (sockets of IPv6, addresses of IPv4)."""

import os
import socket

NAME = os.environ.get("FAMILY", "4")
AF = socket.AF_INET if NAME == "4" else socket.AF_INET6
HOST = {"4": "127.0.0.1", "6": "::1", "mapped": "::ffff:127.0.0.1"}[NAME]
ANY = "0.0.0.0" if NAME == "4" else "::"


def listener(backlog=None, port=0):
    """A listener on the loopback address."""
    return socket.create_server((HOST, port), family=AF, backlog=backlog, dualstack_ipv6=NAME == "mapped")


def name(of):
    """The host and port that a socket or a server has: IPv6's have more to them, which create_connection does not take."""
    return (of if isinstance(of, tuple) else of.getsockname())[:2]


def url(address):
    host, port = address[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
