#!/usr/bin/env python3
"""Measures tcpreload beside the kernel's TCP: echo requests at several numbers of connections, and bulk.

The server is on one of the two stacks, the client always on the kernel's, a veth pair between them; runs of the two take
turns, so that both see the same machine. Ratios count, not figures.

    bench.py [SECONDS] [ROUNDS]
"""

import statistics
import subprocess
import sys
import time

import net
from harness import stage

# Both ends on one CPU: what counts is CPU time, not the luck of the scheduler.
PIN = ["taskset", "-c", "0"]


def served(command, shim, visit):
    """Runs `visit(line)` while `command` serves."""
    with net.Line() as line:
        server = line.server.start(*PIN, *([stage().tcpreload, "--strict"] if shim else []), *command,
                                   stdout=subprocess.PIPE, text=True)
        server.stdout.readline()
        try:
            return visit(line)
        finally:
            server.kill()
            server.wait()


def echo(shim, connections, seconds):
    def visit(line):
        client = line.client.start(*PIN, binary, "client", line.server_address, 7000, connections, seconds,
                                   stdout=subprocess.PIPE, text=True)
        return [float(word) for word in client.communicate()[0].split()]

    binary = stage().program("echo")
    return served([binary, "server", "7000"], shim, visit)


def bulk(shim, megabytes):
    def visit(line):
        begin = time.monotonic()
        client = line.client.start(*PIN, binary, "client", line.server_address, 7000, megabytes,
                                   stdout=subprocess.PIPE, text=True)
        client.communicate()
        return megabytes / (time.monotonic() - begin)

    binary = stage().program("bulk")
    return served([binary, "server", "7000"], shim, visit)


def main(seconds=2.0, rounds=5):
    net.become_root_of_a_namespace([sys.executable, *sys.argv])
    print(f"{'echo, 64 bytes':<24}{'kernel':>12}{'tcpreload':>12}{'ratio':>8}   p50/p99 us, kernel and tcpreload")
    for connections in (1, 16, 64, 512):
        results = {False: [], True: []}
        for _ in range(rounds):
            for shim in (False, True):
                results[shim].append(echo(shim, connections, seconds))
        rate, p50, p99 = ({s: statistics.median(r[i] for r in results[s]) for s in results} for i in range(3))
        print(f"{connections:>4} connections       {rate[False]:>12.0f}{rate[True]:>12.0f}{rate[True] / rate[False]:>8.2f}"
              f"   {p50[False]:.0f}/{p99[False]:.0f} {p50[True]:.0f}/{p99[True]:.0f}", flush=True)
    results = {False: [], True: []}
    for _ in range(rounds):
        for shim in (False, True):
            results[shim].append(bulk(shim, 256))
    kernel, own = (statistics.median(results[shim]) for shim in (False, True))
    print(f"{'bulk both ways, MB/s':<24}{kernel:>12.0f}{own:>12.0f}{own / kernel:>8.2f}")


if __name__ == "__main__":
    main(*map(float, sys.argv[1:2]), *map(int, sys.argv[2:3]))
