"""What is not told by comparing one program's output: hostile networks, idle servers, missing privileges, loss, bulk."""

import itertools
import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import net
from harness import NOBODY, PRIVILEGES, Failed, Side, Test, check_stacks, compare, known_to_differ, stage

STACKS = {"kernel": False, "tcpreload": True}


def mac_of(namespace, name="veth0"):
    return re.search(r"link/ether (\S+)", namespace.output("ip", "link", "show", name))[1]


class Same:
    """A scenario with an output: what the kernel's TCP gave is what tcpreload has to give."""

    def __init__(self, name, run, privileges=("root", "net_raw"), slow=False, known=None, family="4"):
        self.name, self.privileges, self.slow, self.known, self.family = name, privileges, slow, known, family
        self.run = lambda *a: net.in_family(family, lambda: run(*a))
        self.expected = None

    def oracle(self):
        if self.expected is None:
            self.expected = self.run(False, "root")
        return self.expected

    def check(self, shim, privilege):
        expected, note = self.oracle()
        return known_to_differ(self.known, lambda: self.compared(expected, privilege)) if shim else note

    def compared(self, expected, privilege):
        output, note = self.run(True, privilege)
        compare(expected, output)
        return note

    def tests(self):
        yield Test(self.name, "kernel" + net.FAMILIES[self.family], lambda: self.check(False, "root"), self.slow)
        for privilege in self.privileges:
            label = "tcpreload" + net.FAMILIES[self.family] + ("" if privilege == "root" else f" {privilege}")
            yield Test(self.name, label, lambda p=privilege: self.check(True, p), self.slow)


def exposure(forwards):
    """What a host answers to forged frames, with listeners on a loopback address, on one address, and on all."""

    def run(shim, privilege):
        with net.Line() as line:
            server, client = line.server, line.client
            server.call("ip", "address", "add", "10.77.1.3/24", "dev", "veth0")
            # Room for connections that were begun and never finished, and no answers that depend on the second.
            server.sysctl({"net.ipv4.ip_forward": int(forwards), "net.ipv4.tcp_challenge_ack_limit": 1000000,
                           "net.ipv4.tcp_syncookies": 0})
            servers_mac, own_mac = mac_of(server), mac_of(client)
            for address in ("10.77.1.77", "10.77.1.200"):
                server.call("ip", "neigh", "add", address, "lladdr", own_mac, "dev", "veth0")
            side = Side(server, stage().command(["py:listeners.py"]), shim, privilege)
            side.wait_for_line()
            output = client.output(*stage().command(["py:probe.py", "veth0", servers_mac, own_mac]))
            kernel, own = server.kernel_counters(), side.counters()
            if shim and (kernel["TcpPassiveOpens"] or not own.get("TcpreloadRxFrames")):
                raise Failed(f"tcpreload has seen no frames, or the kernel served: {own or 'no counters'}")
            drops = {name[13:]: n for name, n in own.items() if name.startswith("TcpreloadDrop") and n}
            return output, f"{len(output.splitlines())} probes" + (f", dropped: {drops}" if shim else "")

    return run


def extensions(shim, privilege):
    """What a host answers to IPv6 frames with chains of extension headers, and from and to impossible addresses."""
    with net.Line() as line:
        server, client = line.server, line.client
        own_mac = mac_of(client)
        # Nobody has these addresses, so that no kernel resets what is answered to them.
        for address in ("fd77:1::77", "fe80::77"):
            server.call("ip", "neigh", "add", address, "lladdr", own_mac, "dev", "veth0")
        # Each error counts, and no answer depends on the second.
        server.sysctl({"net.ipv6.icmp.ratelimit": 0, "net.ipv4.tcp_syncookies": 0})
        side = Side(server, stage().command(["c:echo", "server", 7003]), shim, privilege, environment={"FAMILY": "6"})
        side.wait_for_line()
        output = client.output(*stage().command(["py:probe6.py", "veth0", mac_of(server), own_mac]))
        kernel, own = server.kernel_counters(), side.counters()
        if shim and (kernel["TcpOutRsts"] or not own.get("TcpreloadRxFrames")):
            raise Failed(f"tcpreload has seen no frames, or the kernel answered: {own or 'no counters'}")
        drops = {name[13:]: n for name, n in own.items() if name.startswith("TcpreloadDrop") and n}
        return output, f"{len(output.splitlines())} probes" + (f", dropped: {drops}" if shim else "")


def malformed(frames):
    """Live connections that go on echoing under a rain of malformed frames."""

    def run(shim, privilege):
        with net.Line() as line:
            side = Side(line.server, stage().command(["c:echo", "server", 7000]), shim, privilege)
            side.wait_for_line()
            done = subprocess.run(
                line.client.command(*stage().command(["py:malformed.py", "veth0", line.server_address, 7000, frames, 1])),
                capture_output=True, text=True, timeout=240, stdin=subprocess.DEVNULL)
            if side.process.poll() is not None:
                raise Failed(f"the server has ended: {side.process.returncode}\n{side.finish(5)}")
            if done.returncode:
                raise Failed(done.stdout + done.stderr)
            own = side.counters()
            note = check_stacks(line.server, [(side, ("server",))]) + "; " + done.stderr.strip()
            if shim:
                drops = {name: n for name, n in own.items()
                         if n and (name.startswith("TcpreloadDrop") or name.endswith(("InErrs", "CsumErrors")))}
                if sum(drops.values()) < int(frames) // 10:
                    raise Failed(f"{frames} malformed frames, and the drops say {drops}")
                note += f"; {drops}"
            return done.stdout, note

    return run


def cpu_and_switches(pids):
    ticks = switches = 0
    for pid in pids:
        for thread in os.listdir(f"/proc/{pid}/task"):
            base = f"/proc/{pid}/task/{thread}"
            ticks += sum(map(int, Path(f"{base}/stat").read_text().rsplit(")", 1)[1].split()[11:13]))
            status = Path(f"{base}/status").read_text()
            switches += int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", status, re.M)[1])
    return ticks, switches


def idle(command, seconds):
    """A server with 100 idle connections uses no CPU and is not woken, nor is anything that tcpreload has started."""

    def run(shim, privilege="root"):
        with net.Line() as line:
            side = Side(line.server, stage().command(command), shim, privilege)
            side.wait_for_line()
            script = ("import socket, sys\n"
                      "all = [socket.create_connection((sys.argv[1], 7000), 20) for _ in range(100)]\n"
                      "print('connected', flush=True)\nsys.stdin.read()")
            client = line.client.start(stage().python, "-c", script, line.server_address, stdin=subprocess.PIPE,
                                       stdout=subprocess.PIPE, text=True)
            if client.stdout.readline() != "connected\n":
                raise Failed("100 connections could not be made")
            time.sleep(2)  # the handshakes' last ACKs, delayed ACKs and the like
            pids = line.server.inhabitants()
            ticks, switches = cpu_and_switches(pids)
            time.sleep(seconds)
            after = cpu_and_switches(line.server.inhabitants())
            note = check_stacks(line.server, [(side, ("server",))])
            client.stdin.close()
            client.wait(10)
            client.stdout.close()
            ticks, switches = after[0] - ticks, after[1] - switches
            text = f"{len(pids)} processes, in {seconds} s: {ticks} ticks of CPU, {switches} wake-ups; {note}"
            # What an interpreter does on its own account is nothing to tcpreload, but then the kernel's run shows it too.
            if shim and (ticks > 1 or switches > 3):
                raise Failed(text)
            side.stop()
            return text

    return run


def without_privilege():
    """No CAP_NET_RAW: the kernel's TCP serves, and one line says why."""
    with net.Namespace() as namespace:
        native = subprocess.run(namespace.command(stage().program("calls")), capture_output=True, text=True, timeout=60)
    with net.Namespace() as namespace:
        done = subprocess.run(namespace.command(*PRIVILEGES["none"], stage().tcpreload, stage().program("calls")),
                              capture_output=True, text=True, timeout=60, cwd="/")
        compare(native.stdout, done.stdout)
        if not namespace.kernel_counters()["TcpPassiveOpens"]:
            raise Failed("the kernel's TCP has not served")
    lines = done.stderr.splitlines()
    if len(lines) != 1 or "CAP_NET_RAW" not in lines[0]:
        raise Failed(f"one line about CAP_NET_RAW was expected on standard error: {done.stderr!r}")
    return lines[0]


def preloaded_without_privilege():
    """The same where LD_PRELOAD alone is set."""
    with net.Namespace() as namespace:
        done = subprocess.run(
            namespace.command(*PRIVILEGES["none"], "env", f"LD_PRELOAD={stage().path}/libtcpreload.so",
                              stage().program("threads")),
            capture_output=True, text=True, timeout=60, cwd="/")
        if done.returncode or not namespace.kernel_counters()["TcpPassiveOpens"]:
            raise Failed(f"the kernel's TCP has not served: {done.stdout}{done.stderr}")
    lines = done.stderr.splitlines()
    if len(lines) != 1 or "CAP_NET_RAW" not in lines[0]:
        raise Failed(f"one line about CAP_NET_RAW was expected on standard error: {done.stderr!r}")
    return lines[0]


STRICT = """
import socket
for family, kind, name in ((socket.AF_INET, socket.SOCK_STREAM, "TCP"), (socket.AF_INET, socket.SOCK_DGRAM, "UDP"),
                           (socket.AF_UNIX, socket.SOCK_STREAM, "Unix")):
    try:
        socket.socket(family, kind).close()
        print(name, "yes")
    except OSError as error:
        import errno
        print(name, errno.errorcode[error.errno])
"""


def strict_without_privilege():
    """TCPRELOAD_STRICT=1: socket() fails with EPERM, for TCP only."""
    with net.Namespace() as namespace:
        done = subprocess.run(
            namespace.command(*PRIVILEGES["none"], "env", "TCPRELOAD_STRICT=1",
                              f"LD_PRELOAD={stage().path}/libtcpreload.so", stage().python, "-c", STRICT),
            capture_output=True, text=True, timeout=60, cwd="/")
    if done.stdout.split("\n") != ["TCP EPERM", "UDP yes", "Unix yes", ""]:
        raise Failed(done.stdout + done.stderr)
    return done.stdout.strip()


def preloaded():
    """LD_PRELOAD without the launcher serves as well."""
    with net.Namespace() as namespace:
        stats = stage().file("stats")
        done = subprocess.run(
            namespace.command("env", f"LD_PRELOAD={stage().path}/libtcpreload.so", f"TCPRELOAD_STATS={stats}",
                              stage().program("threads")),
            capture_output=True, text=True, timeout=60, cwd="/")
        opens = namespace.kernel_counters()["TcpPassiveOpens"]
    if done.returncode or opens or not os.path.exists(stats):
        raise Failed(f"the kernel opened {opens}; {done.stdout}{done.stderr}")
    return done.stdout.strip()


def nothing_left():
    """When a program has ended, so has everything that was started beside it."""
    with net.Namespace() as namespace:
        side = Side(namespace, stage().command(["c:threads"]), True)
        text = side.finish(60)
        deadline = time.monotonic() + 90  # TIME-WAIT lasts 60 s, and somebody keeps it
        while namespace.inhabitants() and time.monotonic() < deadline:
            time.sleep(0.5)
        left = [Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ") for pid in namespace.inhabitants()]
        if left:
            raise Failed(f"still there after 90 s: {left}")
        if "EXIT" in text or "HANGS" in text:
            raise Failed(text)


HANDED = """
import os, socket, subprocess, sys, time
tool = sys.argv[1]
run = lambda what, s: subprocess.Popen([tool, what], stdin=s, stdout=s, stderr=subprocess.PIPE, text=True)
l = socket.create_server(("127.0.0.1", 0))
print("a listener:", run("accept", l).communicate(timeout=10)[1], end="")

def connection():
    c = socket.create_connection(l.getsockname())
    return c, l.accept()[0]

c, s = connection()
child = run("drain", s)
s.close()
print("it is up:", c.recv(2))
here = os.readlink("/proc/self/ns/net")
relays = []
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        if os.readlink(f"/proc/{pid}/ns/net") == here and open(f"/proc/{pid}/cmdline").read().split("\\0")[1:3].count("--relay"):
            relays.append(int(pid))
    except (OSError, IndexError):
        pass
print("relays:", len(relays))
os.kill(relays[0], 9)
print("its program:", child.communicate(timeout=10)[1], end="")
print("its peer:", c.recv(1))

c, s = connection()
t, u = connection()
child = subprocess.Popen([tool, "echo"], stdin=s, stdout=u)
s.close(), u.close()
c.sendall(b"from one to the other")
c.shutdown(socket.SHUT_WR)
print("two connections:", t.makefile("rb").read(), child.wait())

c, s = connection()
os.set_inheritable(s.fileno(), True)
done = subprocess.run([tool, "say", "a word"], pass_fds=[s.fileno()], stdout=subprocess.PIPE)
s.sendall(b"another")
print("above 2:", done.stdout, c.recv(100))
"""

HANDED_SAYS = """a listener: accept: Invalid argument
it is up: b'up'
relays: 1
its program: read: the end
its peer: b''
two connections: b'from one to the other' 3
above 2: b'a word' b'another'
"""


def handed(privilege):
    """Programs that cannot be preloaded: what they find where the kernel's TCP would give something else, or nothing."""
    with net.Namespace() as namespace:
        command = [stage().python, "-c", HANDED, stage().program("tool", "-static")]
        if privilege == "file":
            # The capability comes from the launcher's own file, which would keep the library out of it when it is the relay.
            place = Path(tempfile.mkdtemp(dir=stage().path))
            place.chmod(0o755)
            for name in ("tcpreload", "libtcpreload.so"):
                shutil.copy2(stage().path / name, place / name)
            subprocess.run(["setcap", "cap_net_raw+ep", place / "tcpreload"], check=True)
            user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
            command = [*user, str(place / "tcpreload"), "--strict", *command]
            text = Side(namespace, command, False).finish(30)
        else:
            text = Side(namespace, command, True, privilege).finish(30)
    compare(HANDED_SAYS, text)


def sight():
    """`tcpreload ss` shows the listener and the connections of a running program, with its addresses and states."""
    with net.Line() as line:
        side = Side(line.server, stage().command(["c:echo", "server", 7000]), True)
        side.wait_for_line()
        client = line.client.start(stage().python, "-c",
                                   "import socket, sys\nc = socket.create_connection((sys.argv[1], 7000))\nprint(flush=True)\nsys.stdin.read()",
                                   line.server_address, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        client.stdout.readline()
        listing = lambda *words: subprocess.run([stage().tcpreload, "ss", *words, "--pid", str(side.process.pid)],
                                                capture_output=True, text=True).stdout
        # The client's connect may return before the server has seen the last ACK.
        deadline = time.monotonic() + 2
        while "ESTAB" not in listing("-a") and time.monotonic() < deadline:
            time.sleep(0.05)
        everything, listeners = listing("-a"), listing("-l")
        client.stdin.close()
        client.wait()
        client.stdout.close()
        side.stop()
    for text, words in ((listeners, ("LISTEN", ":7000", "1024")), (everything, ("ESTAB", "10.77.1.1:7000", "10.77.1.2:"))):
        if not all(word in text for word in words):
            raise Failed(f"{words} not in:\n{text}")
    return "LISTEN and ESTAB are shown"


def restart(shim, privilege):
    """A server with live connections is killed and started again: it gets its port at once, and the old ones are ended."""
    with net.Line() as line:
        command = stage().command(["c:echo", "server", 7000])
        first = Side(line.server, command, shim, privilege)
        first.wait_for_line()
        script = ("import socket, sys\nc = socket.create_connection((sys.argv[1], 7000), 10)\nc.sendall(b'x'*64)\n"
                  "print(len(c.recv(64)), flush=True)\nsys.stdin.readline()\n"
                  "try:\n    print('then', len(c.recv(64)))\nexcept OSError as e:\n    print('then', type(e).__name__)\n"
                  "d = socket.create_connection((sys.argv[1], 7000), 10)\nd.sendall(b'y'*64)\nprint('anew', len(d.recv(64)), flush=True)\n")
        client = line.client.start(stage().python, "-c", script, line.server_address, stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        out = client.stdout.readline()
        first.kill()
        first.process.wait()
        begin = time.monotonic()
        second = Side(line.server, command, shim, privilege)
        try:
            second.wait_for_line()
        except Failed as why:
            client.kill()
            client.communicate()
            raise Failed(f"the second server: {why}") from None
        took = time.monotonic() - begin
        try:
            rest, _ = client.communicate("go\n", timeout=30)
        except subprocess.TimeoutExpired:
            client.kill()
            rest, _ = client.communicate()
            rest += "the client hangs\n"
        second.stop()
        return out + rest, f"up again after {took * 1000:.0f} ms"


def overflow(shim, privilege):
    """listen(4) and nobody accepts: how many of a kernel client's connections come up, and what is counted."""
    with net.Line() as line:
        script = "import socket, time\nl = socket.create_server(('', 7000), backlog=4)\nprint('up', flush=True)\ntime.sleep(60)\n"
        side = Side(line.server, [stage().python, "-c", script], shim, privilege)
        side.wait_for_line()
        client = ("import socket, sys, time, select\nall = []\nfor _ in range(12):\n    c = socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET)\n    c.setblocking(False)\n"
                  "    c.connect_ex((sys.argv[1], 7000))\n    all.append(c)\n    time.sleep(0.02)\ntime.sleep(0.3)\n"
                  "print('connected', len(select.select([], all, [], 0)[1]))\n")
        output = line.client.output(stage().python, "-c", client, line.server_address)
        counters = side.counters() if shim else line.server.kernel_counters()
        for name in ("TcpPassiveOpens", "TcpExtListenOverflows", "TcpExtListenDrops"):
            output += f"{name} {counters.get(name)}\n"
        if shim and line.server.kernel_counters()["TcpExtListenOverflows"]:
            raise Failed("the kernel's queue has overflown, not tcpreload's")
        return output, output.strip().replace("\n", ", ")


HOLDER = """
import errno, socket, sys
host, only, reuse = sys.argv[1], int(sys.argv[2]), sys.argv[3]
s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
if ":" in host:
    s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
if reuse != "none":
    s.setsockopt(socket.SOL_SOCKET, getattr(socket, reuse), 1)
for what, call in (("bind", lambda: s.bind((host, 7000))), ("listen", lambda: s.listen(5))):
    try:
        call()
    except OSError as e:
        print(what, errno.errorcode[e.errno], flush=True)
        sys.exit()
print("listens", flush=True)
s.settimeout(10)
while True:
    c, _ = s.accept()
    c.sendall(sys.argv[4].encode())
    c.close()
"""


def two_programs(shim, privilege):
    """A port in both families, in two programs: who gets it, and whom a client of each family reaches."""
    output, notes = "", []
    wild = (("::", 0), ("::", 1), ("0.0.0.0", 0))
    # A group of SO_REUSEPORT is the kernel's to spread where it is shared with others.
    for (first, second), reuse in itertools.product(itertools.permutations(wild, 2), ("none", "SO_REUSEADDR")):
        with net.Line() as line:
            output += f"{first} and then {second}, {reuse}: "
            sides = []
            for name, (host, only) in (("first", first), ("second", second)):
                side = Side(line.server, [stage().python, "-c", HOLDER, host, only, reuse, name], shim, privilege)
                side.wait_for_line()
                output += side.head.strip() + "; "
                if side.head == "listens\n":
                    sides.append((side, ("server",)))
            for family in ("4", "6"):
                script = "import socket, sys\nc = socket.create_connection((sys.argv[1], 7000), 5)\nprint(c.recv(100).decode())\n"
                got = line.client.output(stage().python, "-c", script, line.address(family))
                output += f"{family}: {got.strip().splitlines()[-1]}; "
            kernel = line.server.kernel_counters()["TcpPassiveOpens"]
            if shim and kernel:
                raise Failed(f"{output}: the kernel has accepted {kernel} connections")
            notes.append(str(sum(side.counters().get("TcpPassiveOpens", 0) for side, _ in sides) if shim else kernel))
            for side, _ in sides:
                side.kill()
                side.process.wait()
        output += "\n"
    return output, "connections accepted: " + ", ".join(notes)


ASKING = """
import socket, sys, time
end, served, worst = time.monotonic() + float(sys.argv[2]), 0, 0
while time.monotonic() < end:
    begin = time.monotonic()
    with socket.create_connection((sys.argv[1], 7000), 20) as c:
        c.sendall(b"x" * 64)
        got = 0
        while got < 64:
            got += len(c.recv(64))
    served += 1
    worst = max(worst, time.monotonic() - begin)
print(served, worst)
"""


def resident(pids):
    return sum(int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) for pid in pids)


def siege(rate, seconds):
    """SYNs from ten thousand made-up sources while a client makes requests, one connection each."""

    def run(shim, privilege):
        with net.Line() as line:
            six = ":" in line.server_address
            # SYN-ACKs to nobody leave by the cable, and get lost there.
            for words in (("route", "add", "default", "via", line.client_address, "dev", "veth0"),
                          ("neigh", "replace", line.client_address, "lladdr", mac_of(line.client), "dev", "veth0")):
                line.server.call("ip", *(("-6",) if six else ()), *words)
            side = Side(line.server, stage().command(["c:echo", "server", 7000]), shim, privilege)
            side.wait_for_line()
            asked = lambda t: line.client.output(stage().python, "-c", ASKING, line.server_address, t, timeout=120)
            asked(0.5)
            before = resident(line.server.inhabitants())
            flood = line.client.start(stage().program("synflood"), "veth0", mac_of(line.client), mac_of(line.server),
                                      line.server_address, 7000, 10000, rate, seconds, stdout=subprocess.PIPE, text=True)
            served, worst = asked(seconds).split()
            sent = int(flood.communicate()[0])
            after = resident(line.server.inhabitants())
            # Half-open connections have gone, or are not in the way.
            again, later = asked(1).split()
            counters = side.counters() if shim else line.server.kernel_counters()
            note = (f"{sent / seconds:.0f} SYNs a second, {served} requests meanwhile, the slowest took {float(worst) * 1000:.0f} ms; "
                    f"cookies {counters.get('TcpExtSyncookiesSent')}; memory {before} and {after} KB")
            if sent < rate * seconds * 0.7:
                raise Failed(f"not much of a flood: {note}")
            output = (f"served throughout: {int(served) > 20 * seconds and float(worst) < 1.5}\n"
                      f"and after it: {int(again) > 20 and float(later) < 1.5}\n"
                      f"by cookies: {counters.get('TcpExtSyncookiesSent', 0) > sent // 2}\nmemory bounded: {after < before + 65536}\n")
            return output, note + "; " + check_stacks(line.server, [(side, ("server",))])

    return run


UNREACHABLE = """
import errno, socket, sys, time
def attempt(family, host, port):
    s = socket.socket(family)
    s.settimeout(10)
    begin = time.monotonic()
    try:
        s.connect((host, port))
        return "connected"
    except OSError as e:
        took = time.monotonic() - begin
        # Linux passes over an ICMPv6 error that comes while connect() still holds the socket; the next one counts.
        when = "" if family == socket.AF_INET6 else " at once" if took < 0.9 else " later"
        return errno.errorcode.get(e.errno, str(e)) + when
for family, host, nobody in ((socket.AF_INET, sys.argv[1], "10.77.2.77"), (socket.AF_INET6, sys.argv[2], "fd77:2::77")):
    for port in range(7001, 7007):
        print(family.name, port, attempt(family, host, port))
    print(family.name, "nobody has the address:", attempt(family, nobody, 7000))
"""

ALL_OF_IT = """
import socket, sys
for family, host in ((socket.AF_INET, sys.argv[1]), (socket.AF_INET6, sys.argv[2])):
    s = socket.socket(family)
    s.settimeout(20)
    s.connect((host, 7000))
    s.sendall(bytes(range(256)) * 8192)
    s.shutdown(socket.SHUT_WR)
    print(family.name, s.recv(100).decode())
    size = s.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
    print("segments are small now" if size < 1400 else f"MSS {size}")
"""

DIGEST = """
import hashlib, socket
l = socket.create_server(("::", 7000), family=socket.AF_INET6, dualstack_ipv6=True)
print("up", flush=True)
for _ in range(2):
    c, _ = l.accept()
    h, n = hashlib.sha256(), 0
    while data := c.recv(65536):
        h.update(data)
        n += len(data)
    c.sendall(f"{n} {h.hexdigest()[:16]}".encode())
    c.close()
"""


TOLD = """
import errno, select, socket, struct, sys, time
ICMP, ICMP6 = 2, 3
def told(s):
    'What waits in the error queue; how often it was said depends on how long connect(2) held the socket.'
    entries = set()
    while True:
        try:
            data, control, flags, name = s.recvmsg(100, 200, socket.MSG_ERRQUEUE)
        except BlockingIOError:
            return sorted(entries)
        for level, kind, value in control:
            number, origin, icmp, code, pad, info, more = struct.unpack("IBBBBII", value[:16])
            offender = value[16:]
            family = struct.unpack("H", offender[:2])[0]
            at = offender[4:8] if family == socket.AF_INET else offender[8:24]
            to = struct.unpack("!HH", data[:4])[1]
            entries.add((flags & ~socket.MSG_ERRQUEUE, level, kind, errno.errorcode[number], origin, icmp, code, info, more,
                         socket.inet_ntop(family, at), name[:2], len(data), to))
for family, host, level, option in ((socket.AF_INET, sys.argv[1], 0, 11), (socket.AF_INET6, sys.argv[2], 41, 25),
                                    (socket.AF_INET6, "::ffff:" + sys.argv[1], 41, 25)):
    for port in (7001, 7003, 7004):
        for wanted in (0, 1):
            s = socket.socket(family)
            s.setsockopt(level, option, wanted)
            s.setblocking(False)
            s.connect_ex((host, port))
            p = select.poll()
            p.register(s, select.POLLOUT)
            end = time.monotonic() + 5
            events = 0
            while not events & select.POLLHUP and time.monotonic() < end:
                events = dict(p.poll(100)).get(s.fileno(), 0)
            print(family.name, port, "asked for" if wanted else "not asked for", events, *told(s))
            print(dict(p.poll(0)).get(s.fileno()), errno.errorcode.get(s.connect_ex((host, port))))
            s.close()
"""


def refusals_told(shim, privilege):
    """What the error queue has of a router's refusals: in IPv4 always, in IPv6 with IPV6_RECVERR."""
    with net.RefusingLine() as line:
        client = Side(line.client, [stage().python, "-c", TOLD, line.server_address, line.server_address6], shim, privilege)
        output = client.finish(120)
        return output, check_stacks(line.client, [(client, ("client",))])


HARDENED = """
import errno, socket, struct, sys, time
def attempt(what, call):
    try:
        print(what, call())
    except OSError as e:
        print(what, errno.errorcode[e.errno])
pairs = []
for family, host, level, option in ((socket.AF_INET, sys.argv[1], 0, 11), (socket.AF_INET6, sys.argv[2], 41, 25)):
    for wanted in (0, 1):
        s = socket.create_connection((host, 7000))
        s.setsockopt(level, option, wanted)
        pairs.append((f"{family.name}, {'asked for' if wanted else 'not asked for'}:", s))
print("connected", flush=True)
time.sleep(1.5)
for what, s in pairs:
    s.sendall(b"never arrives")
time.sleep(1.5)
for what, s in pairs:
    s.setblocking(False)
    attempt(what, lambda: s.recv(10))
    attempt(what, lambda: s.recv(10, socket.MSG_ERRQUEUE))
    attempt(what, lambda: s.getpeername()[1])
    attempt(what, lambda: s.send(b"more"))
    # What is unsent would keep the family.
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
"""


def refusals_hardened(shim, privilege):
    """A router refuses what a connection sends, which IP_RECVERR and IPV6_RECVERR make an error; it goes on all the same."""
    with net.RefusingLine() as line:
        server = Side(line.server, [stage().python, "-c", DIGEST], False, "root")
        server.wait_for_line()
        client = Side(line.client, [stage().python, "-c", HARDENED, line.server_address, line.server_address6], shim, privilege)
        client.wait_for_line()
        line.router.call("nft", "insert rule inet refuse forward tcp dport 7000 reject with icmpx type host-unreachable")
        output = client.finish(60)
        note = check_stacks(line.client, [(client, ("client",))])
        server.stop()
        return output, note


def unreachable(shim, privilege):
    """connect(2) through a router that refuses in every way there is, and to an address that nobody has."""
    with net.RefusingLine() as line:
        client = Side(line.client, [stage().python, "-c", UNREACHABLE, line.server_address, line.server_address6], shim,
                      privilege)
        output = client.finish(60)
        note = check_stacks(line.client, [(client, ("client",))])
        return output, note


def path_mtu(shim, privilege):
    """A client sends over a link that takes less than its own; the router says so (and the server's MSS, made wide, does not)."""
    with net.RefusingLine() as line:
        # The server announces a large MSS: only the router knows of the narrow link.
        line.server.call("ip", "link", "set", "veth0", "mtu", "9000")
        server = Side(line.server, [stage().python, "-c", DIGEST], False)
        server.wait_for_line()
        client = Side(line.client, [stage().python, "-c", ALL_OF_IT, line.server_address, line.server_address6], shim, privilege)
        output = client.finish(60)
        note = check_stacks(line.client, [(client, ("client",))])
        server.stop()
        return output, note


FAST = """
import socket, sys
MSG_FASTOPEN = 0x20000000
who, family, host = sys.argv[1:4]
family = socket.AF_INET6 if family == "6" else socket.AF_INET
def info(s):
    t = s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    return f"data in the SYN {t[5] >> 5 & 1}, client's failure {t[7] >> 1 & 3}"
if who == "server":
    l = socket.create_server(("", 7000), family=family)
    l.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 16)
    print("up", flush=True)
    for n in range(5):
        c, _ = l.accept()
        data = b""
        while len(data) < 4000:
            data += c.recv(4000)
        c.sendall(data)
        # Until the client has what it is sent: the handshake is over then.
        assert c.recv(1) == b""
        print(n, len(data), info(c), flush=True)
        c.close()
else:
    data = bytes(range(250)) * 16
    for n in range(5):
        c = socket.socket(family)
        if n < 3:
            sent = c.sendto(data, MSG_FASTOPEN, (host, 7000))
        else:
            c.setsockopt(socket.IPPROTO_TCP, 30, 1)
            c.connect((host, 7000))
            sent = c.send(data[:100])
            c.sendall(data[100:])
        got = b""
        while len(got) < 4000:
            got += c.recv(4000)
        print(n, sent, got == data, info(c), flush=True)
        c.shutdown(socket.SHUT_WR)
        c.recv(1)
        c.close()
"""

FAST_COUNTERS = ("Active", "ActiveFail", "Passive", "PassiveFail", "ListenOverflow", "CookieReqd", "Blackhole", "PassiveAltKey")


def fast_open(ends):
    """A client of TCP Fast Open and its server on the two stacks: what they see, and what is counted on both ends."""

    def run(shim, privilege):
        output, notes = "", []
        for family in ("4", "6"):
            with net.Line() as line:
                for namespace in (line.server, line.client):
                    namespace.sysctl({"net.ipv4.tcp_fastopen": 3})
                address = line.address(family)
                sides = {}
                for who, namespace in (("server", line.server), ("client", line.client)):
                    sides[who] = Side(namespace, [stage().python, "-c", FAST, who, family, address], shim and who in ends, privilege)
                    if who == "server":
                        sides[who].wait_for_line()
                output += sides["client"].finish(30) + sides["server"].finish(30)
                for who, side in sides.items():
                    counters = side.counters() if side.shim else side.namespace.kernel_counters()
                    output += f"{who}: " + ", ".join(
                        f"{name} {counters.get('TcpExtTCPFastOpen' + name, 0)}" for name in FAST_COUNTERS) + "\n"
                    notes.append(check_stacks(side.namespace, [(side, (who,))]))
        return output, "; ".join(notes)

    return run


LINK_LOCAL = """
import errno, hashlib, os, socket, sys
who, host = sys.argv[1:3]
link = socket.if_nametoindex("veth0")
def shown(name):
    return f"{name[0]} scope {'veth0' if name[3] == link else name[3]}"
def received(s):
    digest, size = hashlib.sha256(), 0
    while data := s.recv(65536):
        digest.update(data)
        size += len(data)
    return f"{size} {digest.hexdigest()[:16]}"
if who == "server":
    l = socket.socket(socket.AF_INET6)
    l.bind((host, 7000, 0, link))
    l.listen(8)
    print("up", flush=True)
    for _ in range(2):
        c, peer = l.accept()
        print("peer", shown(peer), "own", shown(c.getsockname()), "sent", received(c), flush=True)
        c.sendall(b"answer" * 50000)
        c.close()
else:
    for name in ((host, 7000), (host, 7000, 0, socket.if_nametoindex("lo")), (host, 7000, 0, link), (host + "%veth0", 7000), "device"):
        c = socket.socket(socket.AF_INET6)
        try:
            if name == "device":
                c.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"veth0")
                name = (host, 7000)
            c.connect(name)
            print("own", shown(c.getsockname()), "peer", shown(c.getpeername()), flush=True)
            c.sendall(b"request" * 30000)
            c.shutdown(socket.SHUT_WR)
            print("got", received(c), flush=True)
        except OSError as e:
            print(errno.errorcode[e.errno], flush=True)
        c.close()
"""


def link_local(ends):
    """Two hosts that know each other by link-local addresses alone."""

    def run(shim, privilege):
        with net.Line() as line:
            sides = {}
            for who, namespace, address in (("server", line.server, "fe80::77:1"), ("client", line.client, "fe80::77:2")):
                namespace.call("ip", "-6", "address", "flush", "dev", "veth0")
                namespace.call("ip", "address", "add", address + "/64", "dev", "veth0")
            for who, namespace in (("server", line.server), ("client", line.client)):
                sides[who] = Side(namespace, [stage().python, "-c", LINK_LOCAL, who, "fe80::77:1"], shim and who in ends, privilege)
                if who == "server":
                    sides[who].wait_for_line()
            output = sides["client"].finish(30) + sides["server"].finish(30)
            return output, "; ".join(check_stacks(side.namespace, [(side, (who,))]) for who, side in sides.items())

    return run


FLOODED = """
import socket, sys
l = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
l.bind((sys.argv[1], 7000))
l.listen(16)
print("up", flush=True)
while True:
    c, _ = l.accept()
    c.sendall(c.recv(100))
    c.close()
"""

FLOODING = """
import socket, struct, sys
from packets import SYN, ipv4, ipv6, mac, segment
server, forged, servers_mac, own_mac = sys.argv[1:]
six = ":" in server
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind(("veth0", 0))
head = mac(servers_mac) + mac(own_mac) + (b"\\x86\\xdd" if six else b"\\x08\\x00")
def flood(first):
    for port in range(first, first + 500):
        syn = segment(forged, server, port, 7000, seq=port, flags=SYN, options=b"\\x02\\x04\\x05\\xb4")
        wire.send(head + (ipv6 if six else ipv4)(forged, server, syn))
served = 0
for n in range(8):
    flood(10000 + 500 * n)
    try:
        with socket.create_connection((server, 7000), timeout=0.6) as c:
            c.sendall(b"hello")
            served += c.recv(100) == b"hello"
    except TimeoutError:
        pass
print("served", served)
"""


def syn_flood(shim, privilege):
    """4000 SYNs of nobody's, and clients of the kernel's among them: who is served, with cookies and without."""
    output, passive = "", 0
    for family, cookies in itertools.product(("4", "6"), (0, 1, 2)):
        with net.Line() as line:
            address, forged = line.address(family), {"4": "10.77.1.77", "6": "fd77:1::77"}[family]
            servers_mac, own_mac = mac_of(line.server), mac_of(line.client)
            line.server.call("ip", "neigh", "add", forged, "lladdr", own_mac, "dev", "veth0")
            line.server.sysctl({"net.ipv4.tcp_syncookies": cookies})
            side = Side(line.server, [stage().python, "-c", FLOODED, address], shim, privilege)
            side.wait_for_line()
            got = line.client.output("env", f"PYTHONPATH={stage().path / 'python-tests'}", stage().python, "-c", FLOODING,
                                     address, forged, servers_mac, own_mac)
            kernel = line.server.kernel_counters()
            counters = side.counters() if shim else kernel
            if shim and kernel["TcpPassiveOpens"]:
                raise Failed("the kernel has served")
            passive += counters["TcpPassiveOpens"]
            output += f"family {family}, cookies {cookies}: {got.strip()}" + "".join(
                f", {name} {counters.get('TcpExt' + name, 0)}"
                for name in ("SyncookiesSent", "SyncookiesRecv", "SyncookiesFailed", "TCPReqQFullDoCookies", "TCPReqQFullDrop")) + "\n"
            side.kill()
            side.process.wait()
    return output, f"connections accepted: {passive}"


FAST_SERVER = """
import socket, sys
family = socket.AF_INET6 if sys.argv[1] == "6" else socket.AF_INET
l = socket.create_server(("", int(sys.argv[2])), family=family)
l.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 16)
print("up", flush=True)
while True:
    c, _ = l.accept()
    c.sendall(c.recv(100))
    c.recv(1)
    c.close()
"""

FAST_CLIENT = """
import socket, sys
family = socket.AF_INET6 if sys.argv[1] == "6" else socket.AF_INET
for port in sys.argv[3:]:
    c = socket.socket(family)
    c.sendto(b"hello", 0x20000000, (sys.argv[2], int(port)))
    t = c.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    print(port, c.recv(10), f"data in the SYN {t[5] >> 5 & 1}, client's failure {t[7] >> 1 & 3}", flush=True)
    c.close()
"""

OLD_KEY, NEW_KEY = "03020100-07060504-0b0a0908-0f0e0d0c", "00112233-44556677-8899aabb-ccddeeff"


def fast_open_keys(shim, privilege):
    """Two servers on one host with the same key, one of them the kernel's: the cookie of each is good at the other. Then the
    key is changed, and the old one kept beside it."""
    output, notes = "", []
    for family in ("4", "6"):
        for first, second in ((7000, 7001), (7001, 7000)):
            with net.Line() as line:
                line.client.sysctl({"net.ipv4.tcp_fastopen": 1})
                line.server.sysctl({"net.ipv4.tcp_fastopen": 2, "net.ipv4.tcp_fastopen_key": OLD_KEY})
                serve = lambda port, ours: Side(line.server, [stage().python, "-c", FAST_SERVER, family, port], shim and ours, privilege)
                kernel, own = serve(7000, False), serve(7001, True)
                for side in (kernel, own):
                    side.wait_for_line()
                ask = lambda *ports: line.client.output(stage().python, "-c", FAST_CLIENT, family, line.address(family), *ports)
                output += ask(first, second, first)
                line.server.sysctl({"net.ipv4.tcp_fastopen_key": f"{NEW_KEY},{OLD_KEY}"})
                # The sysctls are read when a stack is made.
                own.stop()
                own = serve(7001, True)
                own.wait_for_line()
                output += ask(second, first, second)
                alt = "TcpExtTCPFastOpenPassiveAltKey"
                counted = line.server.kernel_counters()[alt] + (own.counters().get(alt, 0) if shim else 0)
                output += f"the older key: {counted}\n"
                fast = "TcpExtTCPFastOpenPassive"
                opened = [line.server.kernel_counters()[fast], own.counters().get(fast, 0)]
                if not opened[0] or (shim and not opened[1]):
                    raise Failed(f"the kernel and tcpreload have opened {opened} fast")
                notes.append(f"opened fast: kernel {opened[0]}" + f", tcpreload {opened[1]}" * shim)
                for side in (own, kernel):
                    side.stop()
    return output, "; ".join(notes)


def tests(full=False):
    scenarios = [
        Same("unreachable", unreachable),
        Same("refusals, told", refusals_told),
        Same("refusals, hardened", refusals_hardened),
        Same("path MTU", path_mtu),
        Same("two programs, a port", two_programs),
        Same("exposure", exposure(False)),
        Same("exposure, router", exposure(True), privileges=("root",)),
        Same("exposure, IPv6", extensions),
        Same("malformed", malformed(100000 if full else 20000), privileges=("root",) if not full else ("root", "net_raw")),
        Same("malformed", malformed(100000 if full else 5000), privileges=("net_raw",), family="6"),
        Same("restart", restart),
        Same("restart", restart, privileges=("root",), family="6"),
        Same("overflow", overflow, privileges=("root",), family="6"),
        Same("overflow", overflow),
        Same("siege", siege(50000, 5), privileges=("net_raw",)),
        Same("siege", siege(50000, 5), privileges=("root",), family="6", slow=True),
        Same("fast open, client", fast_open(("client",))),
        Same("fast open, server", fast_open(("server",))),
        Same("fast open, both", fast_open(("client", "server"))),
        # The key is root's to read.
        Same("fast open, keys", fast_open_keys, privileges=("root",)),
        Same("link-local, client", link_local(("client",)), privileges=("root",)),
        Same("link-local, server", link_local(("server",)), privileges=("root",)),
        Same("link-local, both", link_local(("client", "server"))),
        Same("SYN flood", syn_flood, privileges=("root",)),
    ]
    out = [test for scenario in scenarios for test in scenario.tests()]
    for name, command in (("idle", ["c:echo", "server", 7000]), ("idle, threads", ["py:server.py", 7000])):
        for stack, shim in STACKS.items():
            out.append(Test(name, stack, lambda c=command, s=shim: idle(c, 10 if full else 5)(s)))
    out.append(Test("idle", "tcpreload IPv6", lambda: net.in_family("6", lambda: idle(["c:echo", "server", 7000], 3)(True))))
    out += [
        Test("no privilege", "launcher, then kernel", without_privilege),
        Test("no privilege", "LD_PRELOAD, then kernel", preloaded_without_privilege),
        Test("no privilege", "tcpreload strict", strict_without_privilege),
        Test("LD_PRELOAD", "tcpreload", preloaded),
        Test("tcpreload ss", "tcpreload", sight),
        *(Test("handed", f"tcpreload {p}", lambda p=p: handed(p)) for p in ("root", "net_raw", "file")),
        Test("nothing left", "tcpreload", nothing_left, slow=True),
    ]
    return out
