#!/usr/bin/env python3
"""Servers over long times: reloads under load, and connections that come and go.

    endurance.py SECONDS        redis, nginx and the Python server for so long; an hour, if nothing is said

What is in use of the arena has to be flat, and so has the memory; there may be no error that the kernel's TCP does not bring.
"""

import os
import random
import re
import shutil
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import net
from companion import children, companions, eventually, inside, only_ours
from harness import Failed, Side, Skipped, Test, stage
from lives import PAGE, Visitors, as_before, at_rest, many_ports, nginx


def reloaded(shim, seconds):
    """nginx reads its configuration again each second, under 256 connections of wrk's and visitors that check what they get:
    what was not served as it should be, for each reload."""
    with net.Line() as line:
        many_ports(line)
        server = nginx(line, shim)
        before = at_rest(line, server.process.pid) if shim else None
        load = line.client.start("wrk", "-t1", "-c256", f"-d{seconds}s", f"http://{net_host(line)}:7000/page", stdout=-1, stderr=-1, text=True)
        reloads = 0
        # A connection for each request: no worker that goes leaves one of them.
        with Visitors(line, "/page", PAGE, 1, threads=2) as visitors:
            end = time.monotonic() + seconds - 0.5
            while time.monotonic() < end:
                time.sleep(1)
                server.process.send_signal(signal.SIGHUP)
                reloads += 1
            said, _ = load.communicate(timeout=30)
        if visitors.bad or visitors.wrong:
            raise Failed(f"visitors: {len(visitors.bad)} failed, {len(visitors.wrong)} wrong: {(visitors.wrong + visitors.bad)[0]}")
        if "Non-2xx" in said or not re.search(r"Requests/sec: +[1-9]", said):
            raise Failed(said)
        errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", said)
        connect, read, write, timeout = map(int, errors.groups()) if errors else (0, 0, 0, 0)
        eventually("four workers", lambda: len(children(server.process.pid)) == 4, 20)
        left = as_before(line, server.process.pid, before) if shim else ""
        server.stop(20)
        if shim:
            only_ours(line.server)
        rate = re.search(r"Requests/sec: +([0-9]+)", said)[1]
        return reloads, connect, read, write, timeout, f"{rate} requests/s, {visitors.good} pages; {left}"


def net_host(line):
    return f"[{line.server_address}]" if net.family() == "6" else line.server_address


def reloads(seconds):
    if not shutil.which("wrk"):
        raise Skipped("not installed: wrk")
    natively, ours = reloaded(False, seconds), reloaded(True, seconds)
    # A worker that goes closes the connections that are idle, and wrk takes that for an error of reading: natively, too.
    for name, n, kernels in zip(("connect", "read", "write", "timeout"), ours[1:5], natively[1:5]):
        if n / ours[0] > max(kernels / natively[0], 256 if name == "read" else 0):
            raise Failed(f"{name}: {n} errors with {ours[0]} reloads; natively {kernels} with {natively[0]}")
    return f"{ours[0]} reloads; wrk: {ours[2]} of its connections closed, natively {natively[2]}; {ours[5]}"


class Churn:
    """Conversations with a server on connections that come and go, each in one of several ways, until told to stop."""

    def __init__(self, line, port, talk, threads=2):
        self.line, self.port, self.talk = line, port, talk
        self.good, self.errors, self.stopping = 0, [], False
        self.threads = [threading.Thread(target=self.run, args=(n,)) for n in range(threads)]
        for thread in self.threads:
            thread.start()

    def run(self, seed):
        dice = random.Random(seed)
        while not self.stopping:
            try:
                with inside(self.line.client, lambda: socket.create_connection((self.line.server_address, self.port), 20)) as c:
                    c.settimeout(20)
                    end = dice.random()
                    # The server goes first, and has the connection in TIME-WAIT then.
                    lasts = dice.choice((1, 1, 2, 5, 50)) if end < 0.8 or self.talk is redis else 0
                    for _ in range(lasts):
                        self.talk(c, dice)
                        self.good += 1
                    if not lasts:
                        self.talk(c, dice, b"Connection: close\r\n", b"close")
                        if c.recv(1):
                            raise ValueError("more than was asked for")
                    if end < 0.1:
                        # A reset.
                        c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    elif end < 0.2:
                        c.shutdown(socket.SHUT_WR)
                        if c.recv(1):
                            raise ValueError("more than was asked for")
            except (OSError, ValueError) as why:
                self.errors.append(f"port {self.port}: {type(why).__name__}: {why}")
                time.sleep(0.05)

    def stop(self):
        self.stopping = True
        for thread in self.threads:
            thread.join()


def exactly(c, expected):
    got = b""
    while len(got) < len(expected):
        part = c.recv(1 << 20)
        if not part:
            raise ValueError(f"the end after {len(got)} of {len(expected)} bytes")
        got += part
    if got != expected:
        raise ValueError("not what was asked for")


def page(c, dice, header=b"", said=b"keep-alive"):
    c.sendall(b"GET /page HTTP/1.1\r\nHost: x\r\n%b\r\n" % header)
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        # Byte by byte, so that nothing of the page is taken.
        part = c.recv(1)
        if not part:
            raise ValueError("the end in a head")
        head += part
    exactly(c, PAGE)


def hello(c, dice, header=b"", said=b"keep-alive"):
    c.sendall(b"POST / HTTP/1.1\r\nContent-Length: 1000\r\n%b\r\n" % header + bytes(1000))
    exactly(c, b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 14\r\nConnection: %b\r\n\r\nHello, world!\n" % said)


def redis(c, dice):
    key, value = b"k%d" % dice.randrange(5), dice.randbytes(dice.choice((10, 1000, 50000)))
    # Of its own: two threads set the same keys.
    key += b"-%d" % threading.get_ident()
    c.sendall(b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(key), key, len(value), value))
    exactly(c, b"+OK\r\n")
    c.sendall(b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(key), key))
    exactly(c, b"$%d\r\n%b\r\n" % (len(value), value))


def arena_kb(pid):
    """What the arena's file occupies."""
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            if os.readlink(entry) == "/memfd:tcpreload (deleted)":
                return os.stat(entry).st_blocks // 2
        except FileNotFoundError:
            # A connection that has gone meanwhile.
            continue
    raise Failed("no arena")


def family_of(pid):
    return [pid, *(one for child in children(pid) for one in family_of(child))]


def anonymous_kb(pid):
    """What the processes have for themselves; the arena is a file."""
    texts = [Path(f"/proc/{one}/smaps_rollup").read_text() for one in family_of(pid)]
    return sum(int(re.search(r"^Anonymous: +(\d+)", text, re.M)[1]) for text in texts)


def descriptors(pid):
    return sum(len(os.listdir(f"/proc/{one}/fd")) for one in family_of(pid))


def is_flat(sizes):
    """Whether the second half needs no more than the second quarter has needed, a tenth and half a megabyte aside."""
    quarter = len(sizes) // 4
    return max(sizes[2 * quarter:]) <= max(sizes[quarter:2 * quarter]) * 1.1 + 512


def flat(line, name, pid, before, sizes, seconds):
    """Nothing is in use that was not before, TIME-WAIT aside; and where it has gone on for so long that as many connections leave
    TIME-WAIT as come there, memory has not grown."""
    used, opened = before
    try:
        as_before(line, pid, used)
        eventually("as many descriptors", lambda: descriptors(pid) == opened)
    except Failed as why:
        raise Failed(f"{name}: {why}; {descriptors(pid)} descriptors, before {opened}") from None
    if seconds >= 240:
        for what, column in zip(("memory", "arena"), zip(*sizes)):
            if not is_flat(column):
                raise Failed(f"{name}: {what} grows: {column} KB")


def soak(seconds, tell=lambda line: None):
    """redis, nginx and the Python server at the same time, with conversations on connections that come and go."""
    if not shutil.which("redis-server"):
        raise Skipped("not installed: redis-server")
    with net.Line() as line:
        many_ports(line)
        place = stage().file("redis")
        os.mkdir(place)
        servers = {
            "nginx": nginx(line),
            "redis": Side(line.server, ["redis-server", "--save", "", "--protected-mode", "no", "--bind", "*", "-::*", "--port", 6379,
                                        "--dir", place], True, log=stage().file("log")),
            "Python": Side(line.server, [stage().python, stage().path / "python-tests/server.py", 8080], True, log=stage().file("log")),
        }
        ways = {"nginx": (7000, page), "redis": (6379, redis), "Python": (8080, hello)}
        for name, server in servers.items():
            server.wait_for_port(ways[name][0])
        pids = {name: server.process.pid for name, server in servers.items()}
        before = {name: (at_rest(line, pid), descriptors(pid)) for name, pid in pids.items()}
        # Guards are theirs.
        helpers = lambda: [descriptors(pid) for pid in sorted(companions(line.server))]
        guards = helpers()
        churns = {name: Churn(line, *way) for name, way in ways.items()}
        sizes = []
        begin = time.monotonic()
        try:
            while (passed := time.monotonic() - begin) < seconds:
                time.sleep(min(seconds / 3, max(seconds / 60, 5), seconds - passed))
                sizes.append({name: (anonymous_kb(pid), arena_kb(pid)) for name, pid in pids.items()})
                errors = [error for churn in churns.values() for error in churn.errors]
                tell(f"{time.monotonic() - begin:6.0f} s  " + "; ".join(
                    f"{name}: {churns[name].good} answers, {sizes[-1][name][0]} KB, arena {sizes[-1][name][1]} KB" for name in pids))
                if errors:
                    break
        finally:
            for churn in churns.values():
                churn.stop()
        errors = [error for churn in churns.values() for error in churn.errors]
        if errors:
            raise Failed(f"{len(errors)} errors: " + "; ".join(errors[:5]))
        for name, pid in pids.items():
            flat(line, name, pid, before[name], [size[name] for size in sizes], seconds)
        eventually(f"the companions have {guards} descriptors as before", lambda: helpers() == guards, 70)
        for server in servers.values():
            server.stop(20)
        only_ours(line.server)
        return f"{seconds} s; " + "; ".join(
            f"{name}: {churns[name].good} answers, {sizes[-1][name][0]} KB, arena {sizes[-1][name][1]} KB" for name in pids)


def tests(full=False):
    return [
        Test("nginx, reload each second", "tcpreload", lambda: reloads(4)),
        Test("nginx, reload each second for half a minute", "tcpreload", lambda: reloads(30), slow=True),
        Test("soak", "tcpreload", lambda: soak(5)),
        Test("soak, four minutes", "tcpreload", lambda: soak(240), slow=True),
    ]


if __name__ == "__main__":
    net.become_root_of_a_namespace([sys.executable, *sys.argv])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        print(soak(float(sys.argv[1]) if len(sys.argv) > 1 else 3600, lambda line: print(line, flush=True)))
    except Failed as failure:
        sys.exit(str(failure))
