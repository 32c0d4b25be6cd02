#!/usr/bin/env python3
"""Measures tcpreload beside the kernel's TCP. Ratios count, not figures.

The two take turns, so that both see the same machine; each row is the median of its rounds, with the least and the greatest
ratio of two neighbouring runs as its spread. The server is on one of the two stacks, the client always on the kernel's. The
kernel uses cubic as we do, where it lets a namespace choose. Where both ends are on one CPU it is CPU time that counts, and not the luck of the scheduler.

    bench.py [--json] [--rounds N] [--seconds S] [ROW ...]       rows whose name contains one of the words; all by default
"""

import argparse
import functools
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import apps
import net
from harness import RELEASE, stage

ONE_CPU = ["taskset", "-c", "0"]
OTHER_CPU = ["taskset", "-c", "1"]
ANY_CPU = []
PORT = 7000
ECHO = ["c:echo", "server", PORT, 200]
ROWS = {}


def row(name, unit="requests/s", less_is_better=False):
    """A row of the table: `measure(shim, seconds)` gives its figure."""
    def enter(measure):
        ROWS[name] = (measure, unit, less_is_better)
        return measure
    return enter


def congestion_control(namespace):
    return namespace.output("sysctl", "-n", "net.ipv4.tcp_congestion_control").strip()


class Served:
    """A server on one of the two stacks and its line to the client."""

    def __init__(self, command, shim, pin=ONE_CPU, link="veth", wait="line", options=()):
        self.line = net.LINKS[link]()
        for namespace in (self.line.server, self.line.client):
            # Not every kernel lets a namespace choose; the head of the table names what is in force.
            namespace.output("sysctl", "-qw", "net.ipv4.tcp_congestion_control=cubic")
        words = [*pin, *([stage().tcpreload, "--strict", *options] if shim else []), *stage().command(command)]
        self.server = self.line.server.start(*words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        if wait == "line":
            self.server.stdout.readline()
        else:
            until = time.monotonic() + 10
            while not self.line.server.listens(wait):
                if time.monotonic() > until:
                    raise SystemExit(f"{command[0]} does not listen on port {wait}")
                time.sleep(0.02)

    def client(self, *words, pin=ONE_CPU):
        return self.line.client.output(*pin, *words, timeout=120)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.kill()
        self.server.wait()
        self.line.close()


def echo(shim, seconds, connections, pins=(ONE_CPU, ONE_CPU), figure=0, link="veth", options=()):
    binary = stage().program("load")
    with Served(ECHO, shim, pins[0], link, options=options) as served:
        return float(served.client(binary, "client", served.line.server_address, PORT, connections, seconds,
                                   pin=pins[1]).split()[figure])


for count in (1, 16, 64, 512):
    row(f"echo, {count} connections, one CPU")(functools.partial(echo, connections=count))
for count in (1, 64, 512):
    row(f"echo, {count} connections, two CPUs")(functools.partial(echo, connections=count, pins=(OTHER_CPU, ONE_CPU)))
row("ping-pong, median", "us", True)(functools.partial(echo, connections=1, pins=(OTHER_CPU, ONE_CPU), figure=1))
row("ping-pong, median, spin of 50 us", "us", True)(
    functools.partial(echo, connections=1, pins=(OTHER_CPU, ONE_CPU), figure=1, options=("--spin-us", "50")))


@row("a connection for each request", "connections/s")
def visits(shim, seconds):
    binary = stage().program("load")
    with Served(ECHO, shim) as served:
        return float(served.client(binary, "visits", served.line.server_address, PORT, seconds).split()[0])


def flood(shim, seconds, way, link):
    binary = stage().program("flood")
    with Served([binary, "server", PORT], shim, ANY_CPU, link) as served:
        return float(served.client(binary, way, served.line.server_address, PORT, int(400 * seconds), pin=ANY_CPU))


for kind in ("veth", "lo"):
    row(f"bulk to the server, {kind}", "MB/s")(functools.partial(flood, way="send", link=kind))
    row(f"bulk from the server, {kind}", "MB/s")(functools.partial(flood, way="receive", link=kind))


def nginx(shim, seconds, workers):
    with tempfile.TemporaryDirectory(dir=stage().scratch) as directory:
        config = apps.NGINX.replace("worker_processes 1", f"worker_processes {workers}")
        Path(directory, "nginx.conf").write_text(config.format(dir=directory, more="user root;", listen="8080"))
        command = ["nginx", "-c", f"{directory}/nginx.conf", "-e", f"{directory}/error.log"]
        with Served(command, shim, ANY_CPU, wait=8080) as served:
            text = served.client("wrk", "-t1", "-c64", f"-d{max(1, round(seconds))}s",
                                 f"http://{served.line.server_address}:8080/", pin=ANY_CPU)
            return float(re.search(r"Requests/sec: +([\d.]+)", text)[1])


for count in (1, 2, 4):
    row(f"nginx, {count} workers, wrk -c64")(functools.partial(nginx, workers=count))


def redis(shim, seconds, pipeline):
    with tempfile.TemporaryDirectory(dir=stage().scratch) as directory:
        command = ["redis-server", "--save", "", "--protected-mode", "no", "--dir", directory]
        with Served(command, shim, ANY_CPU, wait=6379) as served:
            text = served.client("redis-benchmark", "-h", served.line.server_address, "-q", "-t", "get", "-P", pipeline,
                                 "-n", int(30000 * seconds * (4 if pipeline > 1 else 1)), pin=ANY_CPU)
            return float(re.search(r"GET: ([\d.]+) requests per second", text)[1])


for depth in (1, 16):
    row(f"redis, get, -P {depth}")(functools.partial(redis, pipeline=depth))


def memcached(shim, seconds):
    """Gets of a missing key over 64 connections."""
    with Served(["memcached", "-t", "4", "-p", PORT, "-U", "0", "-u", "root"], shim, ANY_CPU, wait=PORT) as served:
        text = served.client(sys.executable, "-c", GETS, served.line.server_address, PORT, seconds, pin=ANY_CPU)
        return float(text.split()[-1])


GETS = """
import selectors, socket, sys, time
host, port, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
selector = selectors.DefaultSelector()
for _ in range(64):
    s = socket.create_connection((host, port))
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    selector.register(s, selectors.EVENT_READ)
    s.sendall(b"get x\\r\\n")
begin, done = time.monotonic(), 0
while time.monotonic() - begin < seconds:
    for key, _ in selector.select():
        assert key.fileobj.recv(4096) == b"END\\r\\n"
        key.fileobj.sendall(b"get x\\r\\n")
        done += 1
print(done / (time.monotonic() - begin))
"""
if shutil.which("memcached"):
    row("memcached -t 4, get")(memcached)


@row("read of a foreign descriptor", "ns", True)
def foreign(shim, _):
    with net.Namespace() as alone:
        return float(alone.output(*ONE_CPU, *([stage().tcpreload, "--strict"] if shim else []), stage().program("foreign")))


@row("start of a program without TCP", "ms", True)
def start(shim, _):
    preload = {"LD_PRELOAD": str(RELEASE / "libtcpreload.so")} if shim else {}
    took = []
    for _ in range(40):
        begin = time.monotonic()
        subprocess.run(["/bin/true"], env=preload, check=True)
        took.append(time.monotonic() - begin)
    return statistics.median(took) * 1000


def memory_of(pid):
    """Proportional memory of a process in KB, shared pages of the arena included."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(re.search(r"^Pss: +(\d+)", text, re.M)[1])


def kernel_memory():
    """What the kernel holds for its own objects, in KB."""
    return int(re.search(r"^Slab: +(\d+)", Path("/proc/meminfo").read_text(), re.M)[1])


@row("memory of an idle connection, server's end", "KB", True)
def memory(shim, _):
    """The kernel's end at the client is in both figures."""
    connections, binary = 900, stage().program("load")
    with Served(ECHO, shim, ANY_CPU) as served:
        pid = int(subprocess.run(["pgrep", "-n", "-f", f"echo server {PORT}"], capture_output=True, text=True).stdout)
        before = memory_of(pid) + kernel_memory()
        client = served.line.client.start(binary, "idle", served.line.server_address, PORT, connections,
                                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        client.stdout.readline()
        after = memory_of(pid) + kernel_memory()
        client.communicate("")
        return max(after - before, 0) / connections


@row("CPU of 100 idle connections in 3 s", "ticks", True)
def idle(shim, _):
    binary = stage().program("load")
    with Served(ECHO, shim, ANY_CPU) as served:
        client = served.line.client.start(binary, "idle", served.line.server_address, PORT, 100,
                                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        client.stdout.readline()
        pid = int(subprocess.run(["pgrep", "-n", "-f", f"echo server {PORT}"], capture_output=True, text=True).stdout)
        ticks = lambda: sum(map(int, Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]))
        time.sleep(0.5)
        before = ticks()
        time.sleep(3)
        used = ticks() - before
        client.communicate("")
        return float(used)


def measure(name, rounds, seconds):
    """Both stacks in turns: medians, the median of the ratios and their spread. A ratio above 1 is in our favour."""
    run, unit, less_is_better = ROWS[name]
    pairs = [tuple(run(shim, seconds) for shim in (False, True)) for _ in range(rounds)]
    ratios = sorted((k / o if less_is_better else o / k) for k, o in pairs if k > 0 and o > 0)
    return {
        "row": name, "unit": unit, "rounds": rounds,
        "kernel": statistics.median(k for k, _ in pairs), "tcpreload": statistics.median(o for _, o in pairs),
        "ratio": statistics.median(ratios) if ratios else None,
        "least": ratios[0] if ratios else None, "greatest": ratios[-1] if ratios else None,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="one object a row, a line each")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each run")
    parser.add_argument("row", nargs="*")
    options = parser.parse_args()
    net.become_root_of_a_namespace([sys.executable, *sys.argv])
    chosen = [name for name in ROWS if not options.row or any(word in name for word in options.row)]
    if not chosen:
        raise SystemExit("no such row: " + ", ".join(ROWS))
    if not options.json:
        with net.Namespace() as alone:
            alone.output("sysctl", "-qw", "net.ipv4.tcp_congestion_control=cubic")
            print(f"congestion control: the kernel's {congestion_control(alone)}, tcpreload's cubic")
        print(f"{'':<46}{'kernel':>10}{'tcpreload':>11} {'':<14}{'ratio':>7}  spread")
    for name in chosen:
        found = measure(name, options.rounds, options.seconds)
        if options.json:
            print(json.dumps(found), flush=True)
            continue
        ratio = "-" if found["ratio"] is None else f"{found['ratio']:.2f}"
        spread = "" if found["ratio"] is None else f"{found['least']:.2f}-{found['greatest']:.2f}"
        print(f"{name:<46}{found['kernel']:>10.6g}{found['tcpreload']:>11.6g} {found['unit']:<14}{ratio:>7}  {spread}", flush=True)


if __name__ == "__main__":
    main()
