#!/usr/bin/env python3
"""Runs ordinary programs on the kernel's TCP and under tcpreload, and compares what they print.

The kernel is the oracle: a difference is a bug of the stack (or of the program, where the kernel answers two ways). Each run
has fresh network namespaces, so that the kernel's counters there tell which stack has served.

    run.py              all tests
    run.py epoll bulk   those whose name contains one of the words
"""

import difflib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import net

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
TARGET = ROOT / "target"
TCPRELOAD = os.environ.get("TCPRELOAD", str(TARGET / "release" / "tcpreload"))
TIMEOUT = 120

# Programs with both ends in one process: name, command.
ALONE = ["calls", "nonblock", "epoll", "messages", "processes", "backlog", "threads", "bulk"]
# Programs with two roles: name, server's arguments, client's arguments. The server prints a line when it listens.
PAIRS = [("bulk", ["server", "7000"], ["client", net.Line.server_address, "7000", "64"])]


class Failed(Exception):
    pass


def build(name):
    """A C program, compiled where it is newer than its binary."""
    source, binary = ROOT / "c-tests" / f"{name}.c", TARGET / "c-tests" / name
    newest = max(source.stat().st_mtime, (ROOT / "c-tests" / "t.h").stat().st_mtime)
    if not binary.exists() or binary.stat().st_mtime < newest:
        binary.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cc", "-O1", "-g", "-Wall", "-o", binary, source, "-lpthread"], check=True)
    return str(binary)


class Side:
    """One program of a test, on one of the two stacks."""

    def __init__(self, namespace, command, shim):
        self.namespace, self.shim = namespace, shim
        self.stats = tempfile.NamedTemporaryFile(prefix="tcpreload-stats-")
        prefix = [TCPRELOAD, "--strict", "--stats", self.stats.name] if shim else []
        self.process = namespace.start(
            *prefix, *command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.head = ""

    def wait_for_line(self):
        self.head = self.process.stdout.readline()

    def finish(self):
        try:
            rest, _ = self.process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            rest, _ = self.process.communicate()
            rest += f"HANGS: killed after {TIMEOUT} s\n"
        if self.process.returncode != 0:
            rest += f"EXIT {self.process.returncode}\n"
        return self.head + rest

    def check_stack(self):
        """The counters of the stack that was meant to serve have moved, those of the other have not."""
        kernel = self.namespace.kernel_counters()
        opens = kernel["TcpActiveOpens"] + kernel["TcpPassiveOpens"]
        if not self.shim:
            if opens == 0:
                raise Failed("the kernel's TCP was not used")
            return f"kernel {opens} opens"
        if opens != 0:
            raise Failed(f"the kernel's TCP has opened {opens} connections")
        text = Path(self.stats.name).read_text()
        if not text.strip():
            raise Failed("no counters in TCPRELOAD_STATS")
        # A line for each family of processes.
        counters = [json.loads(line) for line in text.splitlines() if line.strip()]
        own = sum(c["TcpActiveOpens"] + c["TcpPassiveOpens"] for c in counters)
        if own == 0:
            raise Failed("tcpreload's TCP was not used")
        return f"tcpreload {own} opens"


def compare(oracle, output):
    if oracle != output:
        lines = difflib.unified_diff(
            oracle.splitlines(), output.splitlines(), "kernel", "tcpreload", n=2, lineterm=""
        )
        raise Failed("\n".join(lines))


def report(name, mode, run):
    """Runs one test and prints a line about it."""
    begin = time.monotonic()
    try:
        note, good = run(), True
    except Failed as why:
        note, good = str(why), False
    print(f"{'ok  ' if good else 'FAIL'} {name:<22} {mode:<26} {time.monotonic() - begin:6.1f} s  ", end="")
    print(note if good else "\n" + "\n".join("     " + line for line in note.splitlines()), flush=True)
    return good


def run_alone(name):
    command = [build(name)]
    results = []
    oracle = []

    def native():
        with net.Namespace() as namespace:
            side = Side(namespace, command, False)
            oracle.append(side.finish())
            note = side.check_stack()
        if "HANGS" in oracle[0] or "EXIT" in oracle[0]:
            raise Failed(oracle[0])
        return note

    def shimmed():
        with net.Namespace() as namespace:
            side = Side(namespace, command, True)
            compare(oracle[0], side.finish())
            return side.check_stack()

    if report(name, "kernel", native):
        results.append(report(name, "tcpreload", shimmed))
    else:
        results.append(False)
    return results


def run_pair(name, server_args, client_args):
    binary = build(name)
    results = []
    oracle = {}

    def run(server_shim, client_shim):
        with net.Line() as line:
            server = Side(line.server, [binary, *server_args], server_shim)
            server.wait_for_line()
            client = Side(line.client, [binary, *client_args], client_shim)
            outputs = {"client": client.finish(), "server": server.finish()}
            notes = {}
            for role, side in (("server", server), ("client", client)):
                if oracle:
                    compare(oracle[role], outputs[role])
                notes[role] = side.check_stack()
        oracle.update(outputs)
        return ", ".join(f"{role}: {note}" for role, note in notes.items())

    for server_shim, client_shim in ((False, False), (True, False), (False, True), (True, True)):
        names = {False: "kernel", True: "tcpreload"}
        mode = f"{names[server_shim]} - {names[client_shim]}"
        good = report(name, mode, lambda: run(server_shim, client_shim))
        results.append(good)
        if not oracle:
            break
    return results


def main(words):
    net.become_root_of_a_namespace([sys.executable, *sys.argv])
    wanted = lambda name: not words or any(word in name for word in words)
    results = []
    for name in filter(wanted, ALONE):
        results += run_alone(name)
    for name, server_args, client_args in PAIRS:
        if wanted(name):
            results += run_pair(name, server_args, client_args)
    print(f"{results.count(True)} passed, {results.count(False)} failed")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
