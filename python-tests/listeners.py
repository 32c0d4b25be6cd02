#!/usr/bin/env python3
"""Listeners on a loopback address, on one address of an interface, and on all; they greet whoever comes."""

import selectors
import socket
import sys

ADDRESSES = [("127.0.0.1", 7001), ("10.77.1.1", 7002), ("0.0.0.0", 7003)]


def main():
    wait = selectors.DefaultSelector()
    for address in ADDRESSES:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(64)
        wait.register(listener, selectors.EVENT_READ)
    print("listening", flush=True)
    while True:
        for key, _ in wait.select():
            connection, _ = key.fileobj.accept()
            with connection:
                try:
                    connection.sendall(b"hello\n")
                except OSError:
                    pass


if __name__ == "__main__":
    sys.exit(main())
