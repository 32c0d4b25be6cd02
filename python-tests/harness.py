"""What the tests share: programs on one of the two stacks, the proof of which one has served, and the report.

A program is started natively or under tcpreload, as root or as somebody with CAP_NET_RAW only, in a namespace of its own.
Which stack has served is read from the counters: those of the kernel in that namespace, and those of the engine.
"""

import atexit
import difflib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import net

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RELEASE = Path(os.environ.get("TCPRELOAD_DIR", ROOT / "target" / "release"))
NOBODY = 65534


class Failed(Exception):
    pass


class Differs(Failed):
    """The output is not the kernel's."""


class Skipped(Exception):
    pass


class Stage:
    """A directory that everybody can read, with all that a test runs: the clone itself may lie under somebody's home."""

    def __init__(self):
        self.path = Path(tempfile.mkdtemp(prefix="tcpreload-test-"))
        atexit.register(shutil.rmtree, self.path, ignore_errors=True)
        self.path.chmod(0o755)
        self.scratch = self.path / "scratch"
        self.scratch.mkdir()
        self.scratch.chmod(0o1777)
        (self.path / "c-tests").mkdir()
        shutil.copytree(HERE, self.path / "python-tests", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("tcpreload", "libtcpreload.so"):
            if (RELEASE / name).exists():
                shutil.copy2(RELEASE / name, self.path / name)
        self.tcpreload = str(self.path / "tcpreload")
        self.building = threading.Lock()
        self.numbers = itertools.count()
        self.python = self.find_python()

    def find_python(self):
        """A Python that nobody in particular can run."""
        for candidate in (os.path.realpath(sys.executable), "/usr/bin/python3"):
            if subprocess.run([*PRIVILEGES["none"], "env", candidate, "-c", ""], stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL, cwd="/").returncode == 0:
                return candidate
        return sys.executable

    def program(self, name, *flags):
        """A C program, compiled at its first use."""
        binary = self.path / "c-tests" / name
        with self.building:
            if not binary.exists():
                source = ROOT / "c-tests" / f"{name}.c"
                subprocess.run(["cc", "-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Wno-unused-parameter",
                                *flags, "-o", binary, source, "-lpthread"], check=True)
        return str(binary)

    def file(self, name):
        """A path for a scratch file."""
        return str(self.scratch / f"{next(self.numbers)}-{name}")

    def command(self, words, **places):
        """`c:NAME` stands for a compiled program, `static:NAME` for one that nothing can be preloaded into, `py:FILE` for Python and a file, {server} for the server's address."""
        out = []
        for word in map(str, words):
            if word.startswith("c:"):
                out.append(self.program(word[2:]))
            elif word.startswith("static:"):
                out.append(self.program(word[7:], "-static"))
            elif word.startswith("py:"):
                out += [self.python, str(self.path / "python-tests" / word[3:])]
            else:
                for name, value in places.items():
                    word = word.replace("{" + name + "}", str(value))
                out.append(word)
        return out


_stage = None


def stage():
    global _stage
    if _stage is None:
        _stage = Stage()
    return _stage


PRIVILEGES = {
    "root": [],
    "net_raw": ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--inh-caps=-all,+net_raw",
                "--ambient-caps=-all,+net_raw", "--bounding-set=-all,+net_raw", "--no-new-privs"],
    "none": ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--inh-caps=-all",
             "--ambient-caps=-all", "--bounding-set=-all"],
}


class Side:
    """One program of a test, on one of the two stacks."""

    def __init__(self, namespace, command, shim, privilege="root", options=("--strict",), environment=None, pin=(),
                 log=None):
        self.namespace, self.shim = namespace, shim
        self.stats = stage().file("stats")
        prefix = [stage().tcpreload, *options, "--stats", self.stats] if shim else []
        # A server that talks a lot needs a file: nobody reads its pipe while it serves.
        self.log = log
        if net.family() == "6":
            environment = {"FAMILY": "6", "PYTHONPATH": str(stage().path / "python-tests/six"), **(environment or {})}
        self.process = namespace.start(
            *pin, *PRIVILEGES[privilege], *prefix, *command, stdout=open(log, "w") if log else subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="backslashreplace", cwd=stage().scratch,
            env={**os.environ, "HOME": str(stage().scratch), "PYTHONUNBUFFERED": "1", **(environment or {})},
        )
        self.head = ""
        self.last = {}

    def wait_for_line(self, timeout=20):
        """The first line that the program prints: it is up."""
        timer = threading.Timer(timeout, self.kill)
        timer.start()
        try:
            self.head = self.process.stdout.readline()
        finally:
            timer.cancel()
        if not self.head:
            raise Failed("the program has not come up: " + self.finish(5))

    def wait_for_port(self, port, timeout=20):
        deadline = time.monotonic() + timeout
        while not self.namespace.listens(port):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise Failed(f"nothing listens on port {port}: " + self.finish(5)[-2000:])
            time.sleep(0.02)

    def kill(self, how=signal.SIGKILL):
        try:
            os.killpg(self.process.pid, how)
        except ProcessLookupError:
            pass

    def finish(self, timeout=60):
        """The program's output, and what is wrong with its end."""
        try:
            rest, _ = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            hung = self.where()
            self.kill()
            try:
                rest, _ = self.process.communicate(timeout=10)
            except subprocess.TimeoutExpired:
                rest = ""
            rest = (rest or "") + f"HANGS: killed after {timeout} s; {hung}\n"
        if self.process.returncode != 0:
            rest = (rest or "") + f"EXIT {self.process.returncode}\n"
        return self.head + (rest or "") + self.logged()

    def logged(self):
        return Path(self.log).read_text(errors="replace") if self.log else ""

    def where(self):
        """In which system calls the threads of a program that hangs are."""
        calls = []
        try:
            for thread in os.listdir(f"/proc/{self.process.pid}/task"):
                calls.append(Path(f"/proc/{self.process.pid}/task/{thread}/wchan").read_text() or "running")
        except OSError:
            pass
        return "threads are in " + ", ".join(sorted(set(calls))) if calls else "it is gone"

    def stop(self, timeout=10):
        """Ends a server as an administrator does; its output."""
        self.counters()
        self.kill(signal.SIGTERM)
        try:
            rest, _ = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            rest, _ = self.process.communicate()
            raise Failed(f"SIGTERM does not end it; {rest or self.logged()}")
        return self.head + (rest or "") + self.logged()

    def left_behind(self):
        """Whole lines of counters: one for each family that has ended."""
        try:
            return [line for line in Path(self.stats).read_text().splitlines(keepends=True) if line.endswith("\n")]
        except FileNotFoundError:
            return []

    def counters(self):
        """The engine's counters: of the live program, or what it has left behind at its end."""
        if not self.shim:
            return {}
        if self.process.poll() is None:
            done = subprocess.run([stage().tcpreload, "nstat", "--json", "--pid", str(self.process.pid)],
                                  capture_output=True, text=True)
            try:
                self.last = json.loads(done.stdout)
            except ValueError:
                self.last = {}
        else:
            # The last process of the family writes them, or its companion: when peers have closed the last connections, too.
            deadline = time.monotonic() + 20
            while not self.left_behind() and not self.last and time.monotonic() < deadline:
                time.sleep(0.02)
        total = {}
        for line in self.left_behind():
            for name, value in json.loads(line).items():
                total[name] = total.get(name, 0) + value
        self.last = total or self.last
        return self.last


def check_stacks(namespace, sides):
    """Each side was served by the stack that was meant; `sides` are pairs of a side and its role in opening connections."""
    kernel = namespace.kernel_counters()
    notes = []
    for name, role in (("TcpActiveOpens", "client"), ("TcpPassiveOpens", "server")):
        here = [side for side, roles in sides if role in roles]
        if not here:
            continue
        if all(side.shim for side in here):
            if kernel[name]:
                raise Failed(f"the kernel's {name} is {kernel[name]} where tcpreload should have served")
        elif not any(side.shim for side in here):
            if not kernel[name]:
                raise Failed(f"the kernel's {name} has not moved where it should have served")
            notes.append(f"kernel {name[3:]} {kernel[name]}")
        for side in here:
            if side.shim:
                count = side.counters().get(name, 0)
                if not count:
                    raise Failed(f"tcpreload's {name} has not moved: " + ("it is 0" if side.last else "no counters at all"))
                notes.append(f"tcpreload {name[3:]} {count}")
    return ", ".join(notes)


def compare(oracle, output, who=""):
    if oracle != output:
        lines = difflib.unified_diff(
            oracle.splitlines(), output.splitlines(), f"{who}kernel", f"{who}tcpreload", n=2, lineterm=""
        )
        raise Differs("\n".join(lines) or "only white space differs")


def known_to_differ(why, run):
    """Runs what is known to print something else than on the kernel: that is told, and so is the end of it. Whatever else
    goes wrong is a failure as ever."""
    if not why:
        return run()
    try:
        run()
    except Differs:
        raise Skipped(f"known difference: {why}") from None
    raise Failed(f"no difference any more, so it is not known: {why}")


class Test:
    """A thing to run: `run()` gives a note, or raises Failed or Skipped."""

    def __init__(self, name, mode, run, slow=False):
        self.name, self.mode, self.run, self.slow = name, mode, run, slow

    def __str__(self):
        return f"{self.name} [{self.mode}]"


class Report:
    """Prints a line a test as it ends, and the sum."""

    def __init__(self, verbose=False):
        self.verbose, self.lock = verbose, threading.Lock()
        self.count = {"ok": 0, "FAIL": 0, "skip": 0}
        self.failures, self.skips, self.again = [], [], []
        self.outcomes = {}

    def run(self, test):
        begin = time.monotonic()
        word, note = self.attempt(test)
        # A shared machine may have starved it. A second try is never silent: it is shown, with what went wrong first. None
        # for what no want of CPU explains: a hang, a crash, the wrong stack.
        if word == "FAIL" and "kernel" != test.mode and not any(m in note for m in ("HANGS", "EXIT ", "the kernel's T")):
            first, (word, note) = note, self.attempt(test)
            if word == "ok":
                with self.lock:
                    self.again.append(f"{test}: " + "; ".join(first.splitlines())[:300])
                note = f"AT THE SECOND TRY; {note}"
        with self.lock:
            self.count[word] += 1
            self.outcomes[str(test)] = word
            line = f"{word:<4} {test.name:<22} {test.mode:<34} {time.monotonic() - begin:6.1f} s"
            if word == "FAIL":
                self.failures.append(str(test))
                lines = note.splitlines()
                shown = lines if self.verbose else lines[:40]
                line += "".join("\n       " + text[:300] for text in shown)
                if len(shown) < len(lines):
                    line += f"\n       ... {len(lines) - len(shown)} more lines (-v shows all)"
            elif note:
                line += "  " + note.replace("\n", "; ")[:300]
            if word == "skip":
                self.skips.append(f"{test}: {note}")
            print(line, flush=True)
        return word == "ok"

    @staticmethod
    def attempt(test):
        """What became of one run: a word and a note."""
        try:
            return "ok", test.run() or ""
        except Failed as why:
            return "FAIL", str(why)
        except Skipped as why:
            return "skip", str(why)
        except Exception as why:  # a test's own fault is a failure too
            return "FAIL", f"{type(why).__name__}: {why}"

    def close(self):
        for title, names in (
            ("failed", self.failures), ("passed at the second try only", self.again), ("skipped", self.skips)
        ):
            if names:
                print(f"\n{title}:")
                for name in names:
                    print("  " + name)
        print(f"{self.count['ok']} passed, {self.count['FAIL']} failed, {self.count['skip']} skipped", flush=True)
        return 1 if self.count["FAIL"] or not sum(self.count.values()) else 0
