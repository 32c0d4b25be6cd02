#!/usr/bin/env python3
"""A program that does what it is told, line by line: socket calls on one socket, or on the one that it has accepted.

    listen PORT [BACKLOG] | accept | connect ADDRESS PORT | send N | recv N | shutdown rd|wr|rdwr | close | closel |
    nodelay | linger | cork 0|1 | sndbuf N | error | oob N | urgent | mark | inline 0|1 |
    fastopen QUEUE | sendfast ADDRESS PORT N | connectfast ADDRESS PORT | info
"""

import errno
import fcntl
import select
import socket
import struct
import sys
import termios

import family

MSG_FASTOPEN, TCP_FASTOPEN_CONNECT = 0x20000000, 30
SIOCATMARK = 0x8905

current = listener = None


def call(words):
    global current, listener
    what, *rest = words
    if what == "listen":
        listener = socket.socket(family.AF)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if len(rest) > 2:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, int(rest[2]))
        listener.bind(("", int(rest[0])))
        listener.listen(int(rest[1]) if len(rest) > 1 else 16)
        listener.setblocking(False)
    elif what == "accept":
        select.select([listener], [], [], 0.2)
        current, peer = listener.accept()
        current.setblocking(False)
        return peer[0]
    elif what == "connect":
        current = socket.socket(family.AF)
        current.setblocking(False)
        return errno.errorcode.get(current.connect_ex((rest[0], int(rest[1]))), 0)
    elif what == "send":
        return current.send(bytes(i % 251 for i in range(int(rest[0]))))
    elif what == "recv":
        select.select([current], [], [], 0.2)
        data = current.recv(int(rest[0]))
        return f"{len(data)} {data[:20]}"
    elif what == "oob":
        return current.send(bytes(i % 251 for i in range(int(rest[0]))), socket.MSG_OOB)
    elif what == "urgent":
        return current.recv(1, socket.MSG_OOB)
    elif what == "mark":
        waits = select.poll()
        waits.register(current, select.POLLIN | select.POLLPRI)
        events = dict(waits.poll(0)).get(current.fileno(), 0)
        at, waiting = (struct.unpack("i", fcntl.ioctl(current, request, b"\0" * 4))[0] for request in (SIOCATMARK, termios.FIONREAD))
        return f"at it {at}, before it {waiting}, events {events}"
    elif what == "inline":
        current.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, int(rest[0]))
    elif what == "sndbuf":
        current.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, int(rest[0]))
    elif what == "fastopen":
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, int(rest[0]))
    elif what == "sendfast":
        current = socket.socket(family.AF)
        current.setblocking(False)
        return current.sendto(bytes(i % 251 for i in range(int(rest[2]))), MSG_FASTOPEN, (rest[0], int(rest[1])))
    elif what == "connectfast":
        current = socket.socket(family.AF)
        current.setblocking(False)
        current.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
        return errno.errorcode.get(current.connect_ex((rest[0], int(rest[1]))), 0)
    elif what == "info":
        info = current.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        return f"state {info[0]}, data in the SYN {info[5] >> 5 & 1}, client's failure {info[7] >> 1 & 3}"
    elif what == "shutdown":
        current.shutdown({"rd": 0, "wr": 1, "rdwr": 2}[rest[0]])
    elif what == "close":
        current.close()
    elif what == "closel":
        listener.close()
    elif what == "nodelay":
        current.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    elif what == "cork":
        current.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, int(rest[0]))
    elif what == "linger":
        current.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    elif what == "error":
        return errno.errorcode.get(current.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), 0)
    else:
        raise ValueError(what)
    return 0


def main():
    print("ready", flush=True)
    # While there is nothing to do it waits in poll with its sockets, as programs do: who waits, drives.
    while True:
        waits = select.poll()
        waits.register(sys.stdin, select.POLLIN)
        for s in (current, listener):
            if s is not None and s.fileno() >= 0:
                waits.register(s, 0)
        ready = waits.poll(20)
        if not any(fd == sys.stdin.fileno() for fd, _ in ready):
            if ready:  # an error or a hang-up stays until somebody looks: do not spin
                select.poll().poll(5)
            continue
        line = sys.stdin.readline()
        if not line:
            return
        try:
            print(call(line.split()), flush=True)
        except OSError as error:
            print(errno.errorcode.get(error.errno, type(error).__name__), flush=True)


if __name__ == "__main__":
    main()
