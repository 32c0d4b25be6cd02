"""How programs live and die: what peers see of every kind of end, workers killed all the time, and that nothing is left."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import threading
import time

import net
from companion import Load, children, companions, connection, echo, echo_server, eventually, inside, only_ours
from harness import Failed, Side, Skipped, Test, stage

ENDS = {"return": "return", "exit": "exit", "_exit": "_exit", "abort": signal.SIGABRT, "SIGTERM": signal.SIGTERM,
        "SIGKILL": signal.SIGKILL}
# What the peer does: writes before the program ends, or after, or waits before it reads.
PEERS = ("reads", "writes before", "writes after", "idles")
BYTES = 200000


class Ending:
    """A program of c-tests that ends as it is told, and its peer, on the kernel's TCP."""

    def __init__(self, line, shim, role, how, port):
        self.line, self.role, self.port = line, role, port
        listener = None
        if role == "client":
            listener = inside(line.client, lambda: socket.create_server((line.client_address, port), family=line.af))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        words = [stage().tcpreload, "--strict"] if shim else []
        self.program = line.server.start(*words, stage().program("ender"), role, str(int(how) if isinstance(how, int) else how),
                                         port, line.client_address, env={**os.environ, "FAMILY": net.family()}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if listener:
            listener.settimeout(10)
            with listener:
                self.peer, _ = listener.accept()
        else:
            self.program.stdout.readline()
            self.peer = inside(line.client, self.connect)
        if self.program.stdout.readline() != "ready\n":
            raise Failed("the program has not come so far")

    def connect(self):
        peer = socket.socket(self.line.af)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        peer.settimeout(10)
        peer.connect((self.line.server_address, self.port))
        return peer

    def end(self):
        self.program.stdin.write("\n")
        self.program.stdin.flush()
        self.program.wait(10)
        self.program.stdin.close()
        self.program.stdout.close()

    def seen(self, peer_does):
        """What the peer sees of the program's end."""
        peer = self.peer
        peer.settimeout(10)
        if peer_does == "writes before":
            peer.sendall(b"w" * 1000)
            time.sleep(0.02)
        self.end()
        wrote = ""
        if peer_does == "writes after":
            # Until what the end brings about has arrived.
            time.sleep(0.1)
            try:
                peer.sendall(b"w" * 1000)
            except OSError as why:
                wrote = f"write: {why.strerror}; "
            time.sleep(0.05)
        if peer_does == "idles":
            time.sleep(0.15)
        got = 0
        try:
            while part := peer.recv(65536):
                got += len(part)
            end = "the end"
        except OSError as why:
            end = why.strerror or "nothing more"
        peer.close()
        return f"{wrote}{'all' if got == BYTES else 'a part' if got else 'nothing'}, then {end}"


def endings(natively, times):
    """Every kind of end, for accepted, queued and client sockets and peers of every kind: the peer sees what it sees natively."""
    count, wrong, kernels = 0, [], 0
    with net.Line() as line:
        ports = iter(range(8000, 60000))

        def outcomes(shim, times):
            nonlocal kernels
            kernels += 0 if shim else times
            return {Ending(line, shim, role, how, next(ports)).seen(peer) for _ in range(times)}

        for role in ("accepted", "client", "queued"):
            for name, how in ENDS.items():
                for peer in PEERS:
                    expected = outcomes(False, natively)
                    got = outcomes(True, times)
                    count += times
                    if not got <= expected:
                        # Natively it may depend on the moment.
                        expected |= outcomes(False, 10)
                    if not got <= expected:
                        wrong.append(f"{role}, {name}, the peer {peer}: {sorted(got)}; natively {sorted(expected)}")
        opens = line.server.kernel_counters()
        made = opens["TcpActiveOpens"] + opens["TcpPassiveOpens"]
        if made != kernels:
            wrong.append(f"the kernel's TCP has opened {made} connections for {kernels} native runs")
        if wrong:
            raise Failed("\n".join(wrong))
        return f"{count} ends, {len(ENDS) * len(PEERS) * 3} kinds; the kernel's opens are those of the native runs"


def nothing_left(line, seconds):
    """A minute after the end there is nothing: no process, no guard; and memory that nobody has is none."""
    eventually("nobody is there", lambda: not line.server.inhabitants(), seconds)
    # The kernel closes a process's descriptors a moment after it has left its namespaces.
    eventually("no socket is there", lambda: not line.server.output("ss", "-Htan").strip())


def leftovers():
    """After every kind of end, with connections of every kind: a minute later nothing is left."""
    with net.Line() as line:
        for n, (how, peer) in enumerate((how, peer) for how in ENDS.values() for peer in PEERS):
            Ending(line, True, ("accepted", "client", "queued")[n % 3], how, 8000 + n).seen(peer)
        only_ours(line.server)
        resting = len(companions(line.server))
        begin = time.monotonic()
        nothing_left(line, 75)
        return f"{n + 1} ends, {resting} companions at rest after the last; nothing after {time.monotonic() - begin:.0f} s"


def shown(line, pid=None):
    """The sockets of the family, by state."""
    text = line.server.output(stage().tcpreload, "ss", "-a", "--json", *(["--pid", pid] if pid else []))
    states = {}
    for s in json.loads(text):
        if s.get("stack", "tcpreload") == "tcpreload":
            states[s["state"]] = states.get(s["state"], 0) + 1
    return states


def many_ports(line):
    """The client closes first: in a minute of short connections its ports would all be in TIME-WAIT."""
    line.client.sysctl({"net.ipv4.ip_local_port_range": "1024 65535", "net.ipv4.tcp_tw_reuse": 1})


def killed_workers(seconds):
    """One of four workers is killed every 200 ms, under load: the others go on, no byte is wrong, and no place is lost."""
    with net.Line() as line:
        many_ports(line)
        server = echo_server(line, workers=4)
        eventually("workers", lambda: len(children(server.process.pid)) == 4)
        kills, gaps = 0, []
        with Load(line) as load:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                time.sleep(0.2)
                workers = children(server.process.pid)
                if not workers:
                    continue
                good, begin = load.good, time.monotonic()
                os.kill(random.choice(workers), signal.SIGKILL)
                kills += 1
                eventually("echoes after a death", lambda: load.good > good + 4, 5)
                gaps.append(time.monotonic() - begin)
        if load.hung:
            raise Failed(f"{load.hung} connections were neither served nor ended")
        eventually("four workers", lambda: len(children(server.process.pid)) == 4)
        with connection(line) as c:
            echo(c)
        # What was in the hands of the dead has ended, TIME-WAIT aside: only the listener is left.
        eventually("nothing but the listener", lambda: not set(shown(line)) - {"LISTEN", "TIME-WAIT"}, 10)
        states = shown(line)
        if states.get("LISTEN") != 1:
            raise Failed(f"{states}")
        server.stop()
        only_ours(line.server)
        return f"{kills} killed, {load.good} echoes, {load.bad} connections failed; goes on after {max(gaps) * 1000:.0f} ms at most"


NGINX = """
daemon off; worker_processes 4; pid {dir}/pid; error_log {dir}/errors crit; {user}
events {{ worker_connections 1024; }}
http {{
    access_log off; client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/f;
    uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
    server {{ listen 7000 backlog=1024; location / {{ root {dir}; }} }}
}}
"""


class Visitors:
    """Requests for a page, on connections that come and go, until told to stop. The page is known: no byte of it may be wrong."""

    def __init__(self, line, path, page, requests, threads=4):
        self.line, self.page, self.requests, self.stopping = line, page, requests, False
        self.request = f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        self.good, self.bad, self.wrong = 0, [], []
        self.threads = [threading.Thread(target=self.run) for _ in range(threads)]
        for thread in self.threads:
            thread.start()

    def visit(self, c):
        c.sendall(self.request)
        answer, whole = b"", None
        while whole is None or len(answer) < whole:
            part = c.recv(1 << 20)
            if not part:
                raise ConnectionResetError("the end")
            answer += part
            if whole is None and b"\r\n\r\n" in answer:
                whole = answer.index(b"\r\n\r\n") + 4 + len(self.page)
        if answer[whole - len(self.page):] != self.page or b" 200 OK\r\n" not in answer[:20]:
            self.wrong.append("not the page")
        self.good += 1

    def run(self):
        while not self.stopping:
            try:
                with connection(self.line, 5) as c:
                    for _ in range(self.requests):
                        self.visit(c)
            except TimeoutError:
                self.wrong.append("neither served nor ended")
            except OSError as why:
                self.bad.append(str(why))
                time.sleep(0.01)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stopping = True
        for thread in self.threads:
            thread.join()


PAGE = random.Random(7).randbytes(30000)
APPLICATION = """
page = open({page!r}, "rb").read()
def application(environ, start_response):
    start_response("200 OK", [("Content-Length", str(len(page)))])
    return [page]
"""


def nginx(line, shim=True):
    """Four workers that serve PAGE as /page."""
    place = fresh_place("nginx")
    (place / "page").write_bytes(PAGE)
    (place / "conf").write_text(NGINX.format(dir=place, user="user root;"))
    server = Side(line.server, ["nginx", "-c", place / "conf"], shim)
    server.wait_for_port(7000)
    eventually("workers", lambda: len(children(server.process.pid)) == 4)
    return server


def gunicorn(line, shim=True):
    """The same; a connection for each request."""
    if not shutil.which("gunicorn"):
        raise Skipped("not installed: gunicorn")
    place = fresh_place("gunicorn")
    (place / "page").write_bytes(PAGE)
    (place / "app.py").write_text(APPLICATION.format(page=str(place / "page")))
    at = f"[::]:7000" if net.family() == "6" else "0.0.0.0:7000"
    server = Side(line.server, ["gunicorn", "--chdir", place, "--log-level", "critical", "-w", 4, "-b", at, "--backlog", 1024,
                                "app:application"], shim, log=stage().file("log"))
    server.wait_for_port(7000)
    eventually("workers", lambda: len(children(server.process.pid)) == 4)
    # Each has said that it is there when it waits.
    time.sleep(1)
    return server


def fresh_place(name):
    place = stage().path / f"{name}-{os.getpid()}-{next(stage().numbers)}"
    place.mkdir()
    place.chmod(0o777)
    return place


def usage(line, pid):
    """What of the arena is in use, TIME-WAIT aside."""
    text = line.server.output(stage().tcpreload, "ss", "--summary", "--json", "--pid", pid)
    used = json.loads(text)[0]["usage"]
    resting = shown(line, pid).get("TIME-WAIT", 0)
    return {**used, "connections": used["connections"] - resting, "timers": used["timers"] - resting}


# What changes from one moment to the next: who sleeps at the moment, and for what.
OF_THE_MOMENT = ("waiters", "wait_links")


def at_rest(line, pid):
    return {name: n for name, n in usage(line, pid).items() if name not in OF_THE_MOMENT}


def as_before(line, pid, before, seconds=15):
    """What was in use is in use again, and no more."""
    deadline = time.monotonic() + seconds
    while (now := at_rest(line, pid)) != before:
        if time.monotonic() > deadline:
            raise Failed(f"in use before: {before}; afterwards: {now}; {shown(line, pid)}")
        time.sleep(0.1)
    return ", ".join(f"{n} {name}" for name, n in now.items() if n)


def killed_server(start, requests, seconds):
    """A worker of a server is killed every 200 ms, and its master starts another: the others go on, no byte is wrong, nobody
    waits in vain, and of the arena is in use what was before."""
    with net.Line() as line:
        many_ports(line)
        server = start(line)
        pid = server.process.pid
        workers = lambda: children(pid)
        before = at_rest(line, pid)
        kills, gaps = 0, []
        with Visitors(line, "/page", PAGE, requests) as visitors:
            end = time.monotonic() + seconds
            while time.monotonic() < end and not visitors.wrong:
                time.sleep(0.2)
                pids = workers()
                if pids:
                    seen, begin = visitors.good, time.monotonic()
                    os.kill(random.choice(pids), signal.SIGKILL)
                    kills += 1
                    eventually("pages after a death", lambda: visitors.good > seen + 4, 5)
                    gaps.append(time.monotonic() - begin)
        if visitors.wrong:
            raise Failed(f"{len(visitors.wrong)} times: {visitors.wrong[0]}")
        eventually("four workers", lambda: len(workers()) == 4)
        eventually("nothing but the listener", lambda: not set(shown(line)) - {"LISTEN", "TIME-WAIT"}, 10)
        left = as_before(line, pid, before)
        server.kill(signal.SIGTERM)
        server.process.communicate(timeout=20)
        only_ours(line.server)
        return (f"{kills} killed, {visitors.good} pages, {len(visitors.bad)} connections failed; as before: {left}; "
                f"after {max(gaps) * 1000:.0f} ms at most")


def tests(full=False):
    some = [
        Test("kinds of end", "tcpreload", lambda: endings(1, 1)),
        Test("kinds of end", "tcpreload IPv6", lambda: net.in_family("6", lambda: endings(1, 1))),
        Test("kinds of end, x50", "tcpreload", lambda: endings(3, 50), slow=True),
        Test("leftovers", "tcpreload", leftovers, slow=True),
        Test("killed workers", "tcpreload", lambda: killed_workers(4)),
        Test("killed workers, a minute", "tcpreload", lambda: killed_workers(60), slow=True),
        Test("killed workers", "tcpreload IPv6", lambda: net.in_family("6", lambda: killed_workers(4)), slow=True),
        Test("killed workers of nginx", "tcpreload", lambda: killed_server(nginx, 10, 4)),
        Test("killed workers of nginx, half a minute", "tcpreload", lambda: killed_server(nginx, 10, 30), slow=True),
        Test("killed workers of gunicorn", "tcpreload", lambda: killed_server(gunicorn, 1, 4)),
        Test("killed workers of gunicorn, half a minute", "tcpreload", lambda: killed_server(gunicorn, 1, 30), slow=True),
    ]
    return some
