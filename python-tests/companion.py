"""The companion: what it does when programs die, compute or become others, and that it is not to be seen."""

import ctypes
import json
import mmap
import os
import re
import select
import signal
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path

import net
from harness import Failed, Side, Test, stage

ECHO = """
import os, signal, socket, sys
listener = socket.create_server(("", 7000), backlog=1024)
workers = int(sys.argv[1])
if not workers:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
def serve():
    import selectors
    listener.setblocking(False)
    s = selectors.DefaultSelector()
    s.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in s.select():
            if key.fileobj is listener:
                try:
                    c, _ = listener.accept()
                except BlockingIOError:
                    continue
                s.register(c, selectors.EVENT_READ)
            else:
                try:
                    data = key.fileobj.recv(65536)
                    if data:
                        key.fileobj.sendall(data)
                except OSError:
                    data = b""
                if not data:
                    s.unregister(key.fileobj)
                    key.fileobj.close()
print("up", flush=True)
def work():
    pid = os.fork()
    if pid == 0:
        serve()
    return pid
if not workers:
    serve()
for _ in range(workers):
    work()
while True:
    os.wait()
    work()
"""


def echo_server(line, workers=0, privilege="root", options=("--strict",)):
    side = Side(line.server, [stage().python, "-c", ECHO, workers], True, privilege, options)
    side.wait_for_line()
    return side


def command_line(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


def companions(namespace):
    return [pid for pid in namespace.inhabitants() if b"--companion" in command_line(pid)]


def only_ours(*namespaces):
    """The kernel's TCP has opened nothing there."""
    for namespace in namespaces:
        counters = namespace.kernel_counters()
        opens = {name: counters[name] for name in ("TcpActiveOpens", "TcpPassiveOpens") if counters[name]}
        if opens:
            raise Failed(f"the kernel's TCP was used: {opens}")


def eventually(what, test, seconds=5):
    """The first true value that `test` gives."""
    deadline = time.monotonic() + seconds
    while not (value := test()):
        if time.monotonic() > deadline:
            raise Failed(f"not after {seconds} s: {what}")
        time.sleep(0.01)
    return value


def inside(namespace, act):
    """Runs `act` on a thread in another network namespace: what it makes belongs there."""
    result = []

    def run():
        try:
            with open(f"/proc/{namespace.pid}/ns/net") as place:
                if ctypes.CDLL(None, use_errno=True).setns(place.fileno(), 0x40000000):  # CLONE_NEWNET
                    raise OSError(ctypes.get_errno(), "setns")
            result.append(act())
        except Exception as why:
            result.append(why)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(result[0], Exception):
        raise result[0]
    return result[0]


def connection(line, timeout=10):
    """A connection of the kernel's to the server."""
    c = inside(line.client, lambda: socket.create_connection((line.server_address, 7000), timeout))
    c.settimeout(timeout)
    return c


def echo(c, data=b"x" * 64):
    c.sendall(data)
    got = b""
    while len(got) < len(data):
        part = c.recv(65536)
        if not part:
            raise Failed(f"the end after {len(got)} of {len(data)} bytes")
        got += part
    if got != data:
        raise Failed("not what was sent")


def ends(c):
    try:
        return c.recv(1) == b""
    except ConnectionResetError:
        return True


class Load:
    """Connections that come, are echoed to, and go, until told to stop. Failures are counted: whoever is killed takes some along."""

    def __init__(self, line, threads=4):
        self.line, self.stopping = line, False
        self.good = self.bad = self.hung = 0
        self.threads = [threading.Thread(target=self.run) for _ in range(threads)]
        for thread in self.threads:
            thread.start()

    def run(self):
        while not self.stopping:
            try:
                with connection(self.line, 5) as c:
                    for _ in range(20):
                        echo(c)
                        self.good += 1
            except (OSError, Failed) as why:
                self.bad += 1
                self.hung += isinstance(why, TimeoutError)
                time.sleep(0.01)

    def stop(self):
        self.stopping = True
        for thread in self.threads:
            thread.join()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


def children(pid):
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Lock:
    """The futex word of an arena's lock: the thread that holds it."""

    OFFSET = 24  # behind magic, size and extents

    def __init__(self, pid):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            if os.readlink(entry) == "/memfd:tcpreload (deleted)":
                with open(entry, "r+b") as file:
                    self.map = mmap.mmap(file.fileno(), mmap.PAGESIZE)
                return
        raise Failed("no arena")

    def holder(self):
        return struct.unpack_from("<I", self.map, self.OFFSET)[0] & 0x3FFFFFFF


def killed_inside(pid, lock, tries=3000):
    """Stops a process until it is found in the lock, and kills it there."""
    for _ in range(tries):
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.0005)
        if lock.holder() == pid:
            os.kill(pid, signal.SIGKILL)
            return True
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    return False


def death_in_the_lock():
    """Workers are killed while they hold the arena's lock, under load: the others go on."""
    with net.Line() as line:
        server = echo_server(line, workers=2)
        lock, hits = Lock(server.process.pid), 0
        quiet = connection(line)
        echo(quiet)
        with Load(line) as load:
            for _ in range(8):
                pid = eventually("workers", lambda: children(server.process.pid))[0]
                hits += killed_inside(pid, lock)
                eventually("the dead one is replaced", lambda: pid not in children(server.process.pid))
            eventually("two workers", lambda: len(children(server.process.pid)) == 2)
            good = load.good
            eventually("echoes after the last death", lambda: load.good > good + 200, 10)
        if load.hung:
            raise Failed(f"{load.hung} connections were neither served nor ended")
        recovered = server.counters().get("TcpreloadLockRecovered", 0)
        with connection(line) as c:
            echo(c)
        if hits < 3 or recovered < hits:
            raise Failed(f"killed {hits} times in the lock, {recovered} recoveries are counted")
        server.stop()
        return f"{hits} deaths in the lock, {load.good} echoes, {load.bad} connections failed"


def companion_killed():
    """The companion is killed: connections go on, the next call starts another, and that does what the first one would have."""
    with net.Line() as line:
        server = echo_server(line)
        first = eventually("a companion", lambda: companions(line.server))
        c = connection(line)
        echo(c)
        os.kill(first[0], signal.SIGKILL)

        def another():
            echo(c)
            return [pid for pid in companions(line.server) if pid != first[0]]

        # Each echo is a call of the program's; it takes a moment until who was killed is dead.
        second = eventually("another companion", another)
        echo(c)
        d = connection(line)
        echo(d)
        server.kill()
        server.process.wait()
        if not (ends(c) and ends(d)):
            raise Failed("a connection has not ended")
        # The guard is the new one's: the port is refused, by us, or by the kernel when it is gone.
        try:
            connection(line, 3)
            raise Failed("somebody accepts")
        except ConnectionRefusedError:
            pass
        # Both at once: the kernel answers with resets.
        server = echo_server(line)
        c = connection(line)
        echo(c)
        new = eventually("a third companion", lambda: [pid for pid in companions(line.server) if pid not in first + second])
        os.kill(new[-1], signal.SIGKILL)
        server.kill()
        server.process.wait()
        c.sendall(b"anybody?")
        if not ends(c):
            raise Failed("no reset")
        return f"companions {first + second}"


MANY = """
import socket, sys
def more(n):
    return [socket.create_connection((sys.argv[1], 7000)) for _ in range(n)]
first = more(1)
for count in (400, 20):
    print("ready", flush=True)
    sys.stdin.readline()
    first += more(count)
print("done", flush=True)
sys.stdin.readline()
"""

TAKES = """
import socket, sys, time
l = socket.create_server(("", 7000), backlog=1024)
print("up", flush=True)
all = [l.accept()[0] for _ in range(421)]
ends = [c.recv(1) for c in all]
# The kernel's answer to our acknowledgment of the FIN, if it had one.
time.sleep(0.5)
state = [c.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] for c in all]
print(ends.count(b""), "ends,", state.count(8), "of them orderly")
"""


def many_guards():
    """A program opens many connections while its companion cannot listen: it is not held up, and at its end the companion has
    what keeps the kernel from resetting each of them."""
    with net.Line() as line:
        server = Side(line.server, [stage().python, "-c", TAKES], False)
        server.wait_for_line()
        client = line.client.start(stage().tcpreload, "--strict", stage().python, "-c", MANY, line.server_address,
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            client.stdout.readline()
            pid, = eventually("a companion", lambda: companions(line.client))
            os.kill(pid, signal.SIGSTOP)
            begin = time.monotonic()
            client.stdin.write("\n")
            client.stdin.flush()
            client.stdout.readline()
            took = time.monotonic() - begin
            os.kill(pid, signal.SIGCONT)
            client.communicate("\n\n", timeout=30)
        finally:
            client.kill()
        said = server.finish(30).splitlines()[-1]
        only_ours(line.client)
        if said != "421 ends, 421 of them orderly" or took > 5:
            raise Failed(f"{said}; {took:.1f} s")
        return f"{said}; 400 connections in {took * 1000:.0f} ms beside a companion that was stopped"


def strangers():
    """Anybody may connect to a companion and say nothing, or nonsense: it keeps no more than some of them, and does its work."""
    with net.Line() as line:
        server = echo_server(line)
        pid, = eventually("a companion", lambda: companions(line.server))
        names = inside(line.server, lambda: re.findall(r"@(tcpreload/[0-9a-f]{16})", Path("/proc/thread-self/net/unix").read_text()))

        def intrude():
            many = []
            for n in range(300):
                s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                s.settimeout(5)
                s.connect("\0" + names[0])
                if n % 3 == 0:
                    s.send(os.urandom(60))
                many.append(s)
            return many

        many = inside(line.server, intrude)
        kept = lambda: len(os.listdir(f"/proc/{pid}/fd"))
        eventually("most are sent away", lambda: kept() < 150)
        note = f"{kept()} descriptors"
        c = connection(line)
        echo(c)
        server.kill()
        server.process.wait()
        if not ends(c):
            raise Failed("a connection has not ended")
        for s in many:
            s.close()
        return note


def restarts(privilege, times=20):
    """A server is killed and started again and again, under load: it has its port at once."""
    with net.Line() as line:
        took = []
        server = echo_server(line, privilege=privilege)
        with Load(line) as load:
            for _ in range(times):
                good = load.good
                eventually("echoes", lambda: load.good > good + 20, 10)
                server.kill()
                server.process.wait()
                server.process.stdout.close()
                begin = time.monotonic()
                server = echo_server(line, privilege=privilege)
                took.append(time.monotonic() - begin)
            good = load.good
            eventually("echoes", lambda: load.good > good + 20, 10)
        server.stop()
        only_ours(line.server)
        return f"up again after {min(took) * 1000:.0f} to {max(took) * 1000:.0f} ms, {load.good} echoes"


VISIBLE = """
import json, os, resource, socket, sys
# Where there is nothing above the limit, the engine's own take its last quarter.
soft = min(resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4 * 3, 1 << 16)
before = sorted(os.listdir("/proc/self/fd"), key=int)
l = socket.create_server(("127.0.0.1", 0))
c = socket.create_connection(l.getsockname())
s, _ = l.accept()
c.sendall(b"x")
s.recv(1)
try:
    os.waitpid(-1, 0)
    waited = "a child"
except ChildProcessError:
    waited = "no child"
try:
    os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.__dict__.get("__WALL", 0x40000000))
    waited += ", a clone"
except (ChildProcessError, OSError):
    pass
low = sorted((n for n in os.listdir("/proc/self/fd") if int(n) < soft), key=int)
print(json.dumps({"waited": waited, "threads": len(os.listdir("/proc/self/task")), "new": len(low) - len(before),
                  "children": open("/proc/self/task/%d/children" % os.getpid()).read()}), flush=True)
for x in (s, c, l):
    x.close()
"""


def invisible():
    """No child, no thread, no descriptor below the limit, no pipe that is held open."""
    with net.Namespace() as namespace:
        side = Side(namespace, [stage().python, "-c", VISIBLE], True)
        # The end of its output comes with its own end, although the companion stays for TIME-WAIT.
        begin = time.monotonic()
        text = side.finish(10)
        took = time.monotonic() - begin
        found = json.loads(text)
        if found != {"waited": "no child", "threads": 1, "new": 3, "children": ""} or took > 5:
            raise Failed(f"{found}, after {took:.1f} s")
        stays = companions(namespace)
        if not stays:
            raise Failed("nobody keeps TIME-WAIT")
        kept = os.listdir(f"/proc/{stays[0]}/fd")
        links = [os.readlink(f"/proc/{stays[0]}/fd/{fd}") for fd in kept]
        if any(link.startswith("pipe:") or "scratch" in link for link in links):
            raise Failed(f"the companion holds {links}")
        return f"{len(kept)} descriptors in the companion"


def subreaper():
    """A program that takes in orphans does not get the companion for a child."""
    script = "import ctypes\nctypes.CDLL(None).prctl(36, 1, 0, 0, 0)\n" + VISIBLE
    with net.Namespace() as namespace:
        found = json.loads(Side(namespace, [stage().python, "-c", script], True).finish(10))
        if found["waited"] != "no child" or found["children"]:
            raise Failed(str(found))


def without_tcp():
    """A program that opens no TCP socket has no companion, and starts as fast as one that is preloaded with nothing."""
    with net.Namespace() as namespace:
        def runs(*prefix):
            begin = time.monotonic()
            for _ in range(50):
                subprocess.run([*prefix, "/bin/true"], check=True)
                if companions_here():
                    raise Failed("a companion for nothing")
            return (time.monotonic() - begin) / 50

        def companions_here():
            return companions(namespace)

        launcher = inside(namespace, lambda: runs(stage().tcpreload))
        preloaded = inside(namespace, lambda: runs("env", f"LD_PRELOAD={stage().path}/libtcpreload.so"))
        bare = inside(namespace, lambda: runs("env"))
        left = namespace.inhabitants()
        if left:
            raise Failed(f"left: {left}")
        return f"{launcher * 1000:.1f} ms by the launcher, {preloaded * 1000:.1f} preloaded, {bare * 1000:.1f} bare"


def all_gone():
    """Where nothing is in TIME-WAIT, nothing is left when a program has ended: no process, no memory, no guard."""
    for how in ("exits", "is killed"):
        with net.Line() as line:
            server = echo_server(line)
            c = connection(line)
            echo(c)
            # The peer closes first: TIME-WAIT is its own.
            c.close()
            time.sleep(0.2)
            if how == "exits":
                server.kill(signal.SIGTERM)
            else:
                server.kill()
            server.process.communicate(timeout=10)
            eventually(f"nobody is there when the program {how}", lambda: not line.server.inhabitants())
            if line.server.listens(7000):
                raise Failed("a guard is left")


COMPUTES = """
import socket, sys, time
l = socket.create_server(("", 7000))
print("up", flush=True)
c, _ = l.accept()
c.recv(1)
end = time.monotonic() + 3
while time.monotonic() < end:
    pass
print(len(c.recv(1 << 20, socket.MSG_WAITALL)) if len(sys.argv) > 1 else "done", flush=True)
"""


def computing():
    """While the program computes, what the peer sends is acknowledged."""
    with net.Line() as line:
        side = Side(line.server, [stage().python, "-c", COMPUTES], True)
        side.wait_for_line()
        c = connection(line)
        c.sendall(b"x")
        time.sleep(0.3)
        c.sendall(b"y" * 20000)

        def unacked():
            # tcp_info.tcpi_unacked
            return struct.unpack_from("<I", c.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 24)[0]

        begin = time.monotonic()
        eventually("all is acknowledged", lambda: unacked() == 0, 1)
        took = time.monotonic() - begin
        # And others can connect.
        d = connection(line, 1)
        text = side.finish(20)
        if "done" not in text:
            raise Failed(text)
        d.close()
        c.close()
        return f"acknowledged within {took * 1000:.0f} ms"


ROUND = """
import os, select, socket, sys, time
l = socket.create_server(("", 7000))
if len(sys.argv) > 1 and os.fork() == 0:
    # It waits, and so drives.
    other = socket.create_server(("", 7001))
    other.settimeout(10)
    try:
        other.accept()
    finally:
        os._exit(0)
time.sleep(0.1)
print("up", flush=True)
all = {}
p = select.epoll()
while len(all) < 3:
    c, _ = l.accept()
    all[c.fileno()] = c
    p.register(c, select.EPOLLIN)
def busy(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
def answer(fd):
    data = all[fd].recv(10)
    all[fd].sendall(data)
    return data
def round(wait):
    while True:
        events = p.poll()
        if [answer(fd) for fd, _ in events] == [b"go"]:
            break
    # All three are there when it looks.
    time.sleep(0.001)
    for n, (fd, _) in enumerate(p.poll()):
        answer(fd)
        if n == 0:
            wait()
for _ in range(5):
    round(lambda: busy(0.4))
for _ in range(5):
    round(lambda: select.select([], [], [], 0.4))
"""


def rounds(*others):
    """A program is told of three events, answers one, and then computes, or waits for something else, before it goes on: the
    answer does not wait for the others. `others`: another process of its drives meanwhile."""
    with net.Line() as line:
        side = Side(line.server, [stage().python, "-c", ROUND, *others], True)
        side.wait_for_line()
        clients = [connection(line) for _ in range(3)]
        took = []
        for _ in range(10):
            # There is traffic, and the companion has seen it: answers wait for company only then.
            end = time.monotonic() + 0.2
            while time.monotonic() < end:
                echo(clients[0], b"x")
            echo(clients[0], b"go")
            begin = time.monotonic()
            for c in clients:
                c.sendall(b"x")
            select.select(clients, [], [], 5)
            took.append(time.monotonic() - begin)
            for c in clients:
                c.recv(10)
        for c in clients:
            c.close()
        if others:
            inside(line.client, lambda: socket.create_connection((line.server_address, 7001), 5)).close()
        side.finish(20)
        only_ours(line.server)
        held = side.counters().get("TcpreloadTxHeld", 0)
        text = f"answers after {max(took) * 1000:.0f} ms at most, {held} times something has waited"
        if max(took) > 0.2 or not held:
            raise Failed(text)
        return text


def stopped():
    """The process that drives is stopped: the others go on."""
    with net.Line() as line:
        server = echo_server(line, workers=2)
        workers = eventually("workers", lambda: children(server.process.pid))
        waits = []
        for pid in workers:
            c = connection(line)
            echo(c)
            os.kill(pid, signal.SIGSTOP)
            begin = time.monotonic()
            # Whoever accepts is one that runs.
            with connection(line) as d:
                echo(d)
            waits.append(time.monotonic() - begin)
            os.kill(pid, signal.SIGCONT)
            echo(c)
            c.close()
        server.stop()
        if max(waits) > 1:
            raise Failed(f"{max(waits):.1f} s")
        return ", ".join(f"{wait * 1000:.0f} ms" for wait in waits)


def switches(pid):
    return int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.M)[1])


AGAIN = """
import os, socket, sys
left = int(sys.argv[1])
listener = socket.create_server(("", 7000))
if left == 20:
    print("up", flush=True)
c, _ = listener.accept()
c.sendall(b"%d" % left)
c.recv(10)
if left:
    os.execv(sys.executable, [sys.executable, sys.argv[0], str(left - 1)])
print("done")
"""


def again():
    """A program that replaces itself by exec, its sockets closed by that, has its port at once: the reloading of many servers."""
    with net.Line() as line:
        script = stage().file("again.py")
        Path(script).write_text(AGAIN)
        side = Side(line.server, [stage().python, script, 20], True)
        side.wait_for_line()
        for left in range(20, -1, -1):
            def reached():
                try:
                    c = connection(line, 5)
                    return c, c.recv(10)
                except ConnectionError:
                    # Between the two nobody listens.
                    return None
            c, said = eventually(f"the program with {left} to go", lambda: (got := reached()) and got[1] and got)
            if said != b"%d" % left:
                raise Failed(f"{said} instead of {left}")
            c.sendall(b"x")
            if left and not ends(c):
                raise Failed("a connection survives an exec that closes it")
            c.close()
        text = side.finish(10)
        if "done" not in text:
            raise Failed(text)


def cheap():
    """Under load the companion looks a few hundred times a second, and does not wake for a packet."""
    with net.Line() as line:
        seconds = 3
        side = Side(line.server, stage().command(["c:echo", "server", 7000, 200]), True)
        side.wait_for_line()
        pid = eventually("a companion", lambda: companions(line.server))[0]
        notes = []
        for connections in (1, 64):
            before = switches(pid)
            output = line.client.output(stage().program("load"), "client", line.server_address, 7000, connections, seconds)
            woken, rate = (switches(pid) - before) / seconds, float(output.split()[0])
            notes.append(f"{rate:.0f} requests/s, {woken:.0f} wake-ups/s")
            if woken > 400:
                raise Failed(notes[-1])
        side.stop()
        return "; ".join(notes)


def asked_to_end():
    """SIGTERM to all of a service: the companion goes after the program, and leaves nobody in TIME-WAIT to wait for."""
    with net.Line() as line:
        server = echo_server(line)
        c = connection(line)
        echo(c)
        pid = companions(line.server)[0]
        os.kill(pid, signal.SIGTERM)
        time.sleep(0.1)
        echo(c)
        if companions(line.server) != [pid]:
            raise Failed("it has not stayed with the family")
        server.kill(signal.SIGTERM)
        server.process.communicate()
        if not ends(c):
            raise Failed("the connection has not ended")
        c.close()
        eventually("nobody is there", lambda: not line.server.inhabitants())


def alone():
    """The library without the program beside it: the family does without, and says so in the log."""
    with net.Namespace() as namespace:
        lone = stage().path / "lone"
        lone.mkdir(exist_ok=True)
        library = lone / "libtcpreload.so"
        if not library.exists():
            os.link(stage().path / "libtcpreload.so", library)
        done = subprocess.run(
            namespace.command("env", f"LD_PRELOAD={library}", "RUST_LOG=info", stage().program("deaths")),
            capture_output=True, text=True, timeout=60, cwd="/")
        if done.returncode or "no companion" not in done.stderr:
            raise Failed(done.stdout + done.stderr)
        if companions(namespace):
            raise Failed("a companion")


def tests(full=False):
    scenarios = [
        ("death in the lock", death_in_the_lock), ("companion killed", companion_killed), ("strangers", strangers), ("many guards", many_guards),
        ("restart x20", lambda: restarts("root")), ("restart x20, net_raw", lambda: restarts("net_raw")),
        ("invisible", invisible), ("subreaper", subreaper), ("without TCP", without_tcp), ("all gone", all_gone),
        ("computing", computing), ("rounds", rounds),
        ("rounds, beside a driver", lambda: rounds("driver")), ("driver stopped", stopped), ("companion under load", cheap),
        ("asked to end", asked_to_end), ("exec again", again), ("no companion", alone),
    ]
    short = ("death in the lock", "companion killed", "many guards", "restart x20", "all gone", "computing", "rounds, beside a driver")
    return [Test(name, "tcpreload", run) for name, run in scenarios] + [
        Test("restart x100", "tcpreload", lambda: restarts("root", 100), slow=True)] + [
        Test(name, "tcpreload IPv6", lambda r=run: net.in_family("6", r), name not in short) for name, run in scenarios]
