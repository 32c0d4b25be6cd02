#!/usr/bin/env python3
"""The experiment of the listen queues: a server that listens and does not accept, clients that come, Linux and tcpreload
side by side.

Each row is one setting of backlog, somaxconn, tcp_abort_on_overflow, tcp_syncookies. The clients are the kernel's. What is
compared: how each client fares, the two figures that `ss -ltn` shows for a listener, how many connections accept(2) gives
in the end, and the counters of this path under Linux's names.

    queues.py           the table; ends with 1 where a row differs
    queues.py --all     with the large backlogs, and in both families
    queues.py --kernel  Linux's column alone
"""

import collections
import concurrent.futures
import itertools
import json
import os
import resource
import select
import socket
import struct
import subprocess
import sys
import time

import net
from harness import PRIVILEGES, Failed, Test, stage

COUNTERS = """TcpExtListenOverflows TcpExtListenDrops TcpExtTCPReqQFullDoCookies TcpExtTCPReqQFullDrop
    TcpExtSyncookiesSent TcpExtSyncookiesRecv TcpExtSyncookiesFailed TcpExtEmbryonicRsts TcpPassiveOpens
    TcpAttemptFails TcpExtTCPDeferAcceptDrop""".split()
PORT = 8080
Row = collections.namedtuple("Row", "backlog somaxconn abort cookies clients way family", defaults=("4",))


def rows(family="4", full=False):
    """The settings, and what the clients do."""
    some = itertools.chain(small_rows(), large_rows() if full else ())
    return [row._replace(family=family) for row in some]


def large_rows():
    """Backlogs that somaxconn cuts, or that are too long for it to matter."""
    for backlog, somaxconn, abort, cookies in itertools.product((128, 1024, 70000), (4096, 128), (0, 1), (0, 1, 2)):
        yield Row(backlog, somaxconn, abort, cookies, min(backlog, somaxconn) + 6, "singly")


def small_rows():
    for backlog, abort, cookies in itertools.product((0, 1, 4), (0, 1), (0, 1, 2)):
        yield Row(backlog, 4096, abort, cookies, backlog + 6, "singly")
    for backlog, cookies in itertools.product((0, 4, 16), (0, 1, 2)):
        yield Row(backlog, 4096, 0, cookies, 2 * backlog + 8, "at once")
    for backlog, somaxconn in ((-1, 8), (70000, 8), (1024, 8), (4, 8), (128, 4096)):
        yield Row(backlog, somaxconn, 0, 1, min(backlog % 2**32, somaxconn) + 6, "singly")
    for way in ("with data", "then close", "then reset", "defer"):
        yield Row(2, 4096, 0, 1, 6, way)


def server(backlog, way, family):
    """Listens; answers each line of standard input."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    s = socket.socket(socket.AF_INET6 if family == "6" else socket.AF_INET)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if way == "defer":
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 4)
    s.bind(("", PORT))
    s.listen(backlog)
    s.setblocking(False)
    print("up", flush=True)
    for word in commands(s):
        if word == "queue":
            info = s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
            print(*struct.unpack_from("II", info, 24), flush=True)
        elif word == "accept":
            kept, seen = [], []
            try:
                while True:
                    c, _ = s.accept()
                    c.setblocking(False)
                    kept.append(c)
                    try:
                        seen.append("data" if c.recv(100) else "end")
                    except BlockingIOError:
                        seen.append("open")
                    except OSError as e:
                        seen.append(errno_name(e))
            except BlockingIOError:
                print(tally(seen), flush=True)


def commands(listener):
    """Lines of standard input. Waits in poll, and for the listener too, if for none of its events."""
    waiting = select.poll()
    waiting.register(listener, 0)
    waiting.register(0, select.POLLIN)
    text = b""
    while True:
        waiting.poll()
        more = os.read(0, 100)
        if not more:
            return
        text += more
        while b"\n" in text:
            line, text = text.split(b"\n", 1)
            yield line.decode()


def errno_name(e):
    return {111: "refused", 104: "reset", 110: "timed out", 11: "open"}.get(e if isinstance(e, int) else e.errno, str(e))


def gap(count, way):
    """Seconds between two clients."""
    return 0 if way == "at once" else min(0.03, 0.5 / count)


def tally(words):
    return ", ".join(f"{n} {w}" for w, n in sorted(collections.Counter(words).items())) or "none"


def client(count, way, family):
    """Opens connections, waits for a line, tells how they fare."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    of = socket.AF_INET6 if family == "6" else socket.AF_INET
    host = net.Line.server_address6 if family == "6" else net.Line.server_address
    socks = []
    if way == "at once":
        # Uses up what the link would let through at once.
        with socket.socket(of, socket.SOCK_DGRAM) as filler:
            for _ in range(2):
                filler.sendto(bytes(1400), (host, 9))
    for n in range(count):
        c = socket.socket(of)
        c.setblocking(False)
        c.connect_ex((host, PORT))
        socks.append(c)
        time.sleep(gap(count, way))
        if way == "with data" or way == "defer" and n % 2:
            try:
                c.send(b"hello")
            except BlockingIOError:
                pass
        if way == "then close":
            c.close()
        if way == "then reset":
            c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            c.close()
    print("opened", flush=True)
    for _ in sys.stdin:
        fates = []
        for c in socks:
            if c.fileno() < 0:
                fates.append("closed")
                continue
            error = c.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            state = c.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
            fates.append(errno_name(error) if error else {1: "up", 2: "waits", 7: "gone"}.get(state, f"state {state}"))
        print(tally(fates), flush=True)


def ask(process, word=""):
    process.stdin.write(word + "\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def observe(row, shim, privilege="root"):
    """Plays a row on one of the two stacks; what was seen, as words."""
    tcpreload = stage().tcpreload
    with net.Line() as line:
        for name, value in (
            ("net.core.somaxconn", row.somaxconn),
            ("net.ipv4.tcp_abort_on_overflow", row.abort),
            ("net.ipv4.tcp_syncookies", row.cookies),
        ):
            line.server.call("sysctl", "-qw", f"{name}={value}")
        # A queue in front of a slow link: all SYNs arrive before the first final ACK.
        if row.way == "at once":
            slow = "tbf rate 64kbit burst 1600 latency 10s".split()
            line.client.call("tc", "qdisc", "add", "dev", "veth0", "root", *slow)
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        prefix = [tcpreload, "--strict"] if shim else []
        me = stage().command(["py:queues.py"])
        serving = line.server.start(*PRIVILEGES[privilege], *prefix, *me, "server", row.backlog, row.way, row.family, **pipes)
        assert serving.stdout.readline() == "up\n"
        opening = line.client.start(*me, "client", row.clients, row.way, row.family, **pipes)
        opening.stdout.readline()
        # SYNs that were dropped have come again after a second, and will once more after another.
        time.sleep(1.5 - gap(row.clients, row.way) * row.clients / 2)
        seen = {"clients": ask(opening), "Recv-Q Send-Q": ask(serving, "queue")}
        if shim:
            command = [tcpreload, "nstat", "--json", "--pid", str(serving.pid)]
            counters = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        else:
            counters = line.server.kernel_counters()
        seen["accepted"] = ask(serving, "accept")
        for process in (serving, opening):
            process.stdin.close()
            process.wait()
        seen["counters"] = " ".join(
            f"{name.removeprefix('TcpExt').removeprefix('Tcp')}={counters[name]}" for name in COUNTERS if counters[name]
        )
        return seen


def play(sides, some):
    """Every row on every side, some at a time: pairs of a row and what was seen."""
    # Thousands of connections that are to be opened within a second have the machine for themselves.
    with concurrent.futures.ThreadPoolExecutor(6 if all(row.clients < 1000 for row in some) else 2) as pool:
        jobs = [(row, [pool.submit(observe, row, *side) for side in sides]) for row in some]
        for row, waiting in jobs:
            yield row, [job.result() for job in waiting]


def name_of(row):
    return " ".join(f"{name}={value}" for name, value in row._asdict().items())


def tests(full=False):
    """The table as a test, for run.py."""

    def table(privilege, some):
        wrong, count = [], 0
        for row, (linux, ours) in play([(False,), (True, privilege)], some):
            count += 1
            for what in linux:
                if linux[what] != ours[what]:
                    wrong.append(f"{name_of(row)}: {what}\n- {linux[what]}\n+ {ours[what]}")
        if wrong:
            raise Failed("\n".join(wrong))
        return f"{count} rows are Linux's"

    for family, privilege in itertools.product(("4", "6"), ("root", "net_raw")):
        label = "kernel and tcpreload" + net.FAMILIES[family] + (" net_raw" if privilege != "root" else "")
        yield Test("queues", label, lambda p=privilege, f=family: table(p, rows(f)), slow=privilege != "root")
        if privilege == "root":
            yield Test("queues, large", label, lambda f=family: table("root", [r._replace(family=f) for r in large_rows()]), slow=True)


def main(arguments):
    net.become_root_of_a_namespace([sys.executable, *sys.argv])
    sides = [(False,)] if "--kernel" in arguments else [(False,), (True,)]
    count = different = 0
    full = "--all" in arguments
    for row, both in play(sides, [row for family in ("4", "6")[: 1 + full] for row in rows(family, full)]):
        print(name_of(row))
        for what, linux in both[0].items():
            if linux == both[-1][what]:
                print(f"    {what}: {linux}")
            else:
                print(f"    {what}: Linux     {linux}\n    {' ' * len(what)}  tcpreload {both[-1][what]}")
        count += 1
        different += both[0] != both[-1]
        sys.stdout.flush()
    print(f"{count} rows, {different} differ")
    return different != 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["server"]:
        server(int(sys.argv[2]), *sys.argv[3:])
    elif sys.argv[1:2] == ["client"]:
        client(int(sys.argv[2]), *sys.argv[3:])
    else:
        sys.exit(main(sys.argv[1:]))
