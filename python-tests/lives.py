"""How programs live and die: what peers see of every kind of end, workers killed all the time, and that nothing is left."""

import json
import os
import random
import signal
import socket
import subprocess
import threading
import time

import net
from companion import Load, children, companions, connection, echo, echo_server, eventually, inside, only_ours
from harness import Failed, Side, Test, stage

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


def shown(line):
    """The sockets of the family, by state."""
    text = line.server.output(stage().tcpreload, "ss", "-a", "--json")
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


def killed_nginx(seconds):
    """The same with nginx, whose master starts other workers."""
    place = stage().path / f"nginx-{os.getpid()}-{threading.get_ident()}"
    place.mkdir(exist_ok=True)
    place.chmod(0o777)
    content = random.Random(7).randbytes(30000)
    (place / "page").write_bytes(content)
    (place / "conf").write_text(NGINX.format(dir=place, user="user root;"))
    with net.Line() as line:
        many_ports(line)
        server = Side(line.server, ["nginx", "-c", place / "conf"], True)
        server.wait_for_port(7000)
        workers = lambda: children(server.process.pid)
        eventually("workers", lambda: len(workers()) == 4)
        good, bad, wrong, stopping = [0], [0], [], False

        def visit():
            while not stopping:
                try:
                    with connection(line, 5) as c:
                        for _ in range(10):
                            c.sendall(b"GET /page HTTP/1.1\r\nHost: x\r\n\r\n")
                            answer = b""
                            while b"\r\n\r\n" not in answer or len(answer.split(b"\r\n\r\n", 1)[1]) < len(content):
                                part = c.recv(1 << 20)
                                if not part:
                                    raise ConnectionResetError("the end")
                                answer += part
                            if answer.split(b"\r\n\r\n", 1)[1] != content:
                                wrong.append("not the page")
                            good[0] += 1
                except TimeoutError:
                    wrong.append("neither served nor ended")
                except OSError:
                    bad[0] += 1
                    time.sleep(0.01)

        visitors = [threading.Thread(target=visit) for _ in range(4)]
        for v in visitors:
            v.start()
        kills, gaps = 0, []
        try:
            end = time.monotonic() + seconds
            while time.monotonic() < end and not wrong:
                time.sleep(0.2)
                pids = workers()
                if pids:
                    seen, begin = good[0], time.monotonic()
                    os.kill(random.choice(pids), signal.SIGKILL)
                    kills += 1
                    eventually("pages after a death", lambda: good[0] > seen + 4, 5)
                    gaps.append(time.monotonic() - begin)
        finally:
            stopping = True
            for v in visitors:
                v.join()
        if wrong:
            raise Failed(f"{len(wrong)} times: {wrong[0]}")
        eventually("nothing but the listener", lambda: not set(shown(line)) - {"LISTEN", "TIME-WAIT"}, 10)
        states = shown(line)
        server.kill(signal.SIGTERM)
        server.process.communicate(timeout=20)
        only_ours(line.server)
        return f"{kills} killed, {good[0]} pages, {bad[0]} connections failed; {states}; after {max(gaps) * 1000:.0f} ms at most"


def tests(full=False):
    some = [
        Test("kinds of end", "tcpreload", lambda: endings(1, 1)),
        Test("kinds of end", "tcpreload IPv6", lambda: net.in_family("6", lambda: endings(1, 1))),
        Test("kinds of end, x50", "tcpreload", lambda: endings(3, 50), slow=True),
        Test("leftovers", "tcpreload", leftovers, slow=True),
        Test("killed workers", "tcpreload", lambda: killed_workers(4)),
        Test("killed workers, a minute", "tcpreload", lambda: killed_workers(60), slow=True),
        Test("killed workers", "tcpreload IPv6", lambda: net.in_family("6", lambda: killed_workers(4)), slow=True),
        Test("killed workers of nginx", "tcpreload", lambda: killed_nginx(4)),
        Test("killed workers of nginx, a minute", "tcpreload", lambda: killed_nginx(60), slow=True),
    ]
    return some
