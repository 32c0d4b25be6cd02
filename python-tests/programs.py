"""Servers and clients that people run, with a workload of their own each: on the kernel's TCP, under tcpreload, and mixed.

A program has to give the same result whoever carries it: every workload here checks what it got, byte for byte where there are
bytes. The kernel's counters tell that a side that was meant for tcpreload opened nothing there. A short run takes both ends
under tcpreload, of what the test tools install; the full one every mode, every program, and IPv6.
"""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import net
from harness import NOBODY, Failed, Side, Skipped, Test, check_stacks, stage

MODES = {"kernel-kernel": (False, False), "tcpreload-kernel": (True, False), "kernel-tcpreload": (False, True),
         "tcpreload-tcpreload": (True, True)}
PROGRAMS = {}


def program(name, *needs, families=("4",), short=False):
    """A program of the list: `needs` are the commands that must be installed, `short` puts it into the short run."""
    def enter(play):
        PROGRAMS[name] = (play, needs, families, short)
        return play
    return enter


def find(command):
    """Where a command is; Debian keeps some outside of the PATH."""
    places = [os.environ["PATH"], "/usr/sbin", "/sbin", *sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")))]
    return shutil.which(command, path=":".join(places))


class Play:
    """One run of a program: its line, its directory, which ends are ours."""

    def __init__(self, stacks, family, directory, line):
        self.serving, self.asking, self.family, self.line = *stacks, family, line
        self.directory = Path(directory)
        self.host = line.address(family)
        self.url_host = f"[{self.host}]" if family == "6" else self.host
        self.any = "::" if family == "6" else "0.0.0.0"
        self.any_url = f"[{self.any}]" if family == "6" else self.any
        self.sides, self.servers = [], []

    def file(self, name, content, mode=0o644):
        path = self.directory / name
        path.write_text(content) if isinstance(content, str) else path.write_bytes(content)
        path.chmod(mode)
        return str(path)

    def words(self, command):
        return [find(command[0]) or command[0], *map(str, command[1:])]

    def serve(self, *command, port, roles=("server",), privilege="root", environment=None, shim=None, options=("--strict",)):
        """A server, which listens on `port` when this returns."""
        shim = self.serving if shim is None else shim
        side = Side(self.line.server, self.words(command), shim, privilege, options, environment, log=stage().file("log"))
        self.sides.append((side, roles))
        self.servers.append(side)
        side.wait_for_port(port, 60)
        return side

    def ask(self, *command, timeout=60, good=0, environment=None, where=None, roles=("client",), options=("--strict",)):
        """Runs a client to its end; its output."""
        side = Side(where or self.line.client, self.words(command), self.asking, "root", options, environment)
        self.sides.append((side, roles))
        text = side.finish(timeout)
        if side.process.returncode != good or "HANGS" in text:
            raise Failed(f"{command[0]}: {text[-2000:]}{self.said()}")
        return text

    def said(self):
        return "".join(f"\n{side.process.args[-1][:40]}: {side.logged()[-1000:]}" for side in self.servers)

    def expect(self, text, *patterns):
        for pattern in patterns:
            if not re.search(pattern, text):
                raise Failed(f"no {pattern!r} in: {text[-1500:]}{self.said()}")
        return text

    def wrk(self, port, path="/", connections=64, seconds=2):
        """A load of requests, none of which may fail."""
        text = self.ask("wrk", "-t1", f"-c{connections}", f"-d{seconds}s", f"http://{self.url_host}:{port}{path}")
        self.expect(text, r"Requests/sec: +[1-9]")
        if "Socket errors" in text or "Non-2xx" in text:
            raise Failed(text + self.said())
        return f"{float(re.search(r'Requests/sec: +([0-9.]+)', text)[1]):.0f} requests/s"

    def curl(self, *words, port=None, path="/", scheme="http"):
        return self.ask("curl", "-gsSf", "--max-time", "60", *words, f"{scheme}://{self.url_host}:{port}{path}")

    def blob(self, megabytes, name="blob"):
        """A file of bytes that do not repeat, and its digest."""
        data = b"".join(hashlib.sha256(b"%d" % n).digest() for n in range(1000)) * 33
        path = self.directory / name
        with open(path, "wb") as out:
            for n in range(megabytes):
                out.write((n.to_bytes(8, "big") + data)[:1 << 20])
        path.chmod(0o644)
        return path, hashlib.sha256(path.read_bytes()).hexdigest()

    def same(self, path, digest):
        got = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        if got != digest:
            raise Failed(f"{path} is not what was sent: {Path(path).stat().st_size} bytes")

    def close(self):
        """Who carried it; then everything ends."""
        notes = []
        for namespace in (self.line.server, self.line.client):
            here = [(side, roles) for side, roles in self.sides if side.namespace is namespace]
            if here:
                notes.append(check_stacks(namespace, here))
        for side in reversed(self.servers):
            if side.process.poll() is not None:
                raise Failed(f"a server has ended: {side.process.returncode}\n{side.logged()[-1500:]}")
            side.stop(30)
        return "; ".join(filter(None, notes))

    def kill(self):
        for side, _ in self.sides:
            if side.process.poll() is None:
                side.kill()
                side.process.wait()


NGINX = """
daemon off; {head} pid {d}/nginx.pid; error_log {d}/error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off; client_body_temp_path {d}/body; proxy_temp_path {d}/proxy;
    fastcgi_temp_path {d}/fastcgi; uwsgi_temp_path {d}/uwsgi; scgi_temp_path {d}/scgi;
    client_max_body_size 200m;
    {body}
}}
"""


def nginx(play, body, port, head="worker_processes 1;", name="nginx", **more):
    d = play.directory / name
    d.mkdir(mode=0o755)
    config = d / "nginx.conf"
    config.write_text(NGINX.format(d=d, head="user root; " + head, body=body))
    return play.serve("nginx", "-c", config, "-e", d / "error.log", port=port, **more)


HELLO = 'server {{ listen {at}:8080 backlog=1024 {more}; location / {{ return 200 "Hello, world!\\n"; }} }}'


@program("nginx, files", "nginx", "curl", families=("4", "6"), short=True)
def nginx_files(play):
    """sendfile and tcp_nopush; a large file, and a part of it."""
    path, digest = play.blob(60)
    body = f"sendfile on; tcp_nopush on; server {{ listen {play.any_url}:8080; root {play.directory}; }}"
    nginx(play, body, 8080)
    play.curl("-o", play.directory / "got", port=8080, path="/blob")
    play.same(play.directory / "got", digest)
    play.curl("-r", "1000000-2000000", "-o", play.directory / "part", port=8080, path="/blob")
    if (play.directory / "part").read_bytes() != path.read_bytes()[1000000:2000001]:
        raise Failed("another part than the one that was asked for")


@program("nginx, proxy", "nginx", "curl", "wrk", families=("4", "6"), short=True)
def nginx_proxy(play):
    """nginx before nginx, with connections that are kept."""
    _, digest = play.blob(20)
    at = play.any_url
    nginx(play, f"server {{ listen {at}:8081; root {play.directory}; location /hello {{ return 200 hello; }} }}", 8081, name="behind")
    nginx(play, f"""
        upstream behind {{ server {play.url_host}:8081; keepalive 16; }}
        server {{ listen {at}:8080; location / {{
            proxy_pass http://behind; proxy_http_version 1.1; proxy_set_header Connection ""; }} }}""",
          8080, "worker_processes 2;", name="before", roles=("server", "client"))
    play.curl("-o", play.directory / "got", port=8080, path="/blob")
    play.same(play.directory / "got", digest)
    return play.wrk(8080, "/hello")


@program("nginx, reuseport", "nginx", "wrk", families=("4", "6"))
def nginx_reuseport(play):
    """A listener for each of four workers."""
    nginx(play, HELLO.format(at=play.any_url, more="reuseport"), 8080, "worker_processes 4;")
    return play.wrk(8080)


@program("nginx, reload", "nginx", "wrk", families=("4", "6"), short=True)
def nginx_reload(play):
    """The configuration is read again each second under load."""
    server = nginx(play, HELLO.format(at=play.any_url, more=""), 8080, "worker_processes 4;")
    load = Side(play.line.client, play.words(["wrk", "-t1", "-c64", "-d4s", f"http://{play.url_host}:8080/"]), play.asking)
    play.sides.append((load, ("client",)))
    for _ in range(3):
        time.sleep(1)
        os.kill(int((play.directory / "nginx/nginx.pid").read_text()), signal.SIGHUP)
    text = play.expect(load.finish(30), r"Requests/sec: +[1-9]")
    # A worker that goes closes the connections that are idle at that moment, and wrk's next request on one of them fails: on
    # the kernel as well. No request is left without an answer.
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    if errors and (int(errors[1]) or int(errors[4])) or "Non-2xx" in text:
        raise Failed(text + play.said())
    if server.process.poll() is not None:
        raise Failed("nginx has ended" + play.said())


CERTIFICATE = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test",
               "-addext", "subjectAltName=DNS:test,IP:10.77.1.1,IP:fd77:1::1"]


def certificate(play):
    key, cert = play.directory / "key.pem", play.directory / "cert.pem"
    subprocess.run([*CERTIFICATE, "-keyout", key, "-out", cert], check=True, capture_output=True)
    # Whoever serves reads it, in a directory of the test's.
    key.chmod(0o644)
    return key, cert


@program("curl, HTTPS and HTTP/2", "nginx", "curl", "openssl", families=("4", "6"), short=True)
def tls(play):
    """A file by TLS, by HTTP/1.1 and HTTP/2."""
    key, cert = certificate(play)
    _, digest = play.blob(20)
    nginx(play, f"""server {{ listen {play.any_url}:8443 ssl http2; ssl_certificate {cert}; ssl_certificate_key {key};
        root {play.directory}; }}""", 8443)
    for version, said in (("--http1.1", "1.1"), ("--http2", "2")):
        text = play.curl(version, "--cacert", cert, "-o", play.directory / "got", "-w", "%{http_version}", port=8443,
                         path="/blob", scheme="https")
        if text != said:
            raise Failed(f"{version} became HTTP/{text}")
        play.same(play.directory / "got", digest)


@program("h2load", "nginx", "h2load", "openssl", families=("4", "6"), short=True)
def h2load(play):
    """HTTP/2 over TLS, twenty connections of ten streams."""
    key, cert = certificate(play)
    nginx(play, f"""server {{ listen {play.any_url}:8443 ssl http2; ssl_certificate {cert}; ssl_certificate_key {key};
        location / {{ return 200 "Hello, world!\\n"; }} }}""", 8443)
    text = play.ask("h2load", "-n", 5000, "-c", 20, "-m", 10, f"https://{play.url_host}:8443/")
    play.expect(text, r"5000 succeeded, 0 failed, 0 errored, 0 timeout")


@program("haproxy", "haproxy", "nginx", "wrk", "curl", families=("4", "6"), short=True)
def haproxy(play):
    """Both ends of it: before nginx, by HTTP and by TCP."""
    _, digest = play.blob(20)
    nginx(play, f"server {{ listen {play.any_url}:8081; root {play.directory}; location /hello {{ return 200 hello; }} }}", 8081)
    config = play.file("haproxy.cfg", f"""
global
    maxconn 2000
    nbthread 2
defaults
    timeout connect 5s
    timeout client 30s
    timeout server 30s
frontend web
    mode http
    bind {play.any}:8080
    default_backend behind
backend behind
    mode http
    server one {play.host}:8081 check inter 200ms
listen plain
    mode tcp
    bind {play.any}:8082
    server one {play.host}:8081
""")
    play.serve("haproxy", "-db", "-f", config, port=8080, roles=("server", "client"))
    time.sleep(0.5)
    for port in (8080, 8082):
        play.curl("-o", play.directory / "got", port=port, path="/blob")
        play.same(play.directory / "got", digest)
    return play.wrk(8080, "/hello")


@program("socat", "socat", families=("4", "6"), short=True)
def socat(play):
    """A child for each connection, and a relay that does both."""
    kind = "TCP6" if play.family == "6" else "TCP4"
    path, digest = play.blob(8)
    play.serve("socat", f"{kind}-LISTEN:7001,reuseaddr,fork", "EXEC:cat", port=7001)
    play.serve("socat", f"{kind}-LISTEN:7000,reuseaddr,fork", f"{kind}:{play.url_host}:7001", port=7000, roles=("server", "client"))
    for _ in range(3):
        play.ask("sh", "-c", f"socat -t 20 - {kind}:{play.url_host}:7000 < {path} > {play.directory}/got", timeout=60)
        play.same(play.directory / "got", digest)


@program("socat, a static program", "socat", families=("4", "6"), short=True)
def socat_static(play):
    """The connection itself becomes the standard input and output of a program that cannot be preloaded."""
    kind = "TCP6" if play.family == "6" else "TCP4"
    path, digest = play.blob(8)
    tool = stage().program("tool", "-static")
    play.serve("socat", f"{kind}-LISTEN:7000,reuseaddr,fork", f"EXEC:{tool} echo,nofork", port=7000, roles=("server",))
    for _ in range(3):
        play.ask("sh", "-c", f"socat -t 20 - {kind}:{play.url_host}:7000 < {path} > {play.directory}/got", timeout=60)
        play.same(play.directory / "got", digest)


@program("iperf3", "iperf3", families=("4", "6"), short=True)
def iperf3(play):
    """Both ways, four streams, and bounded in bytes."""
    play.serve("iperf3", "-s", "-B", play.any, port=5201)
    for way in ([], ["-R"], ["--bidir"], ["-P", "4"]):
        play.expect(play.ask("iperf3", "-c", play.host, "-n", "50M", *way), "iperf Done")


@program("sockperf", "sockperf")
def sockperf(play):
    """Ping-pong."""
    play.serve("sockperf", "server", "--tcp", "-i", play.any, "-p", 11111, port=11111)
    text = play.ask("sockperf", "ping-pong", "--tcp", "-i", play.host, "-p", 11111, "-t", 2, "-m", 64)
    play.expect(text, r"Valid Duration|Total Run", r"avg-lat|latency")
    if re.search(r"dropped messages = [1-9]|duplicated messages = [1-9]|out-of-order messages = [1-9]", text):
        raise Failed(text)


@program("memcached", "memcached", families=("4", "6"), short=True)
def memcached(play):
    """Four threads; values of up to 20 KB, by sixteen clients at once."""
    play.serve("memcached", "-u", "root", "-l", play.any, "-p", 11211, "-t", 4, port=11211)
    script = """
import socket, sys, threading
def work(n):
    s = socket.create_connection((sys.argv[1], 11211), 20)
    f = s.makefile("rwb")
    for i in range(300):
        value = (b"%d-%d " % (n, i)) * (1 + i * 17 % 3000)
        f.write(b"set k%d 0 0 %d\\r\\n%b\\r\\n" % (n, len(value), value)); f.flush()
        assert f.readline() == b"STORED\\r\\n"
        f.write(b"get k%d\\r\\n" % n); f.flush()
        assert f.readline() == b"VALUE k%d 0 %d\\r\\n" % (n, len(value))
        assert f.read(len(value) + 7) == value + b"\\r\\nEND\\r\\n"
    done.append(n)
done = []
threads = [threading.Thread(target=work, args=(n,)) for n in range(16)]
[t.start() for t in threads]; [t.join() for t in threads]
print(len(done), "clients")
"""
    play.expect(play.ask(stage().python, "-c", script, play.host), "16 clients")


@program("redis, replication", "redis-server", "redis-benchmark", "redis-cli", families=("4", "6"), short=True)
def redis(play):
    """BGSAVE forks, a replica follows, and a pipeline of requests goes on meanwhile."""
    common = ["--save", "", "--protected-mode", "no", "--bind", play.any]
    for port, more in ((6379, ()), (6380, ("--replicaof", play.host, "6379"))):
        d = play.directory / f"redis{port}"
        d.mkdir()
        play.serve("redis-server", *common, "--port", port, "--dir", d, *more, port=port,
                   roles=("server",) if port == 6379 else ("server", "client"))
    cli = lambda port, *words: play.ask("redis-cli", "-h", play.host, "-p", port, *words)
    text = play.ask("redis-benchmark", "-h", play.host, "-q", "-P", 16, "-c", 500, "-n", 100000, "-r", 10000, "-t", "set,get")
    if text.count("requests per second") < 2 or "rror" in text:
        raise Failed(text)
    play.expect(cli(6379, "bgsave"), "Background saving started")
    play.expect(cli(6379, "set", "last", "one"), "OK")
    deadline = time.monotonic() + 20
    while "rdb_bgsave_in_progress:0" not in cli(6379, "info", "persistence"):
        if time.monotonic() > deadline:
            raise Failed("BGSAVE does not end" + play.said())
        time.sleep(0.2)
    play.expect(cli(6379, "info", "persistence"), "rdb_last_bgsave_status:ok")
    while cli(6380, "get", "last").strip() != "one":
        if time.monotonic() > deadline:
            raise Failed("the replica does not follow: " + cli(6380, "info", "replication") + play.said())
        time.sleep(0.2)
    if cli(6379, "dbsize") != cli(6380, "dbsize"):
        raise Failed("the replica has another number of keys")


WSGI = """
def application(environ, start_response):
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    answer = body or b"Hello, world!\\n"
    start_response("200 OK", [("Content-Length", str(len(answer)))])
    return [answer]
"""


@program("gunicorn", "gunicorn", "wrk", "curl", families=("4", "6"))
def gunicorn(play):
    """Four workers that were forked, and are replaced while it runs."""
    play.file("app.py", WSGI)
    path, digest = play.blob(5)
    master = play.serve("gunicorn", "--chdir", play.directory, "-w", 4, "-b", f"{play.any_url}:8080", "app:application", port=8080)
    time.sleep(1)
    play.curl("--data-binary", f"@{path}", "-H", "Expect:", "-o", play.directory / "got", port=8080)
    play.same(play.directory / "got", digest)
    text = play.ask("ab", "-q", "-n", 1000, "-c", 10, f"http://{play.url_host}:8080/")
    play.expect(text, r"Failed requests: +0\n")
    os.kill(master.process.pid, signal.SIGHUP)
    time.sleep(2)
    text = play.ask("ab", "-q", "-n", 1000, "-c", 10, f"http://{play.url_host}:8080/")
    play.expect(text, r"Failed requests: +0\n")


ASGI = """
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    body = b""
    while True:
        event = await receive()
        body += event.get("body", b"")
        if not event.get("more_body"):
            break
    body = body or b"Hello, world!"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(body)).encode())]})
    await send({"type": "http.response.body", "body": body})
"""


@program("uvicorn, uvloop", "uvicorn", "wrk", "curl", families=("4", "6"))
def uvicorn(play):
    """libuv's loop; a large body up and down."""
    play.file("app.py", ASGI)
    path, digest = play.blob(5)
    play.serve("uvicorn", "--app-dir", play.directory, "--loop", "uvloop", "--host", play.any, "--port", 8080,
               "--log-level", "warning", "app:app", port=8080)
    play.curl("--data-binary", f"@{path}", "-H", "Expect:", "-o", play.directory / "got", port=8080)
    play.same(play.directory / "got", digest)
    return play.wrk(8080)


@program("PostgreSQL", "postgres", "initdb", "psql", "pgbench", families=("4", "6"))
def postgres(play):
    """pgbench -c 32 -S: a process for each connection."""
    data = play.directory / "data"
    play.directory.chmod(0o1777)
    as_nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    done = subprocess.run([*as_nobody, find("initdb"), "-D", data, "-U", "postgres", "-A", "trust", "--no-sync", "-E", "UTF8",
                           "--locale", "C"], capture_output=True, text=True, cwd="/")
    if done.returncode:
        raise Failed("initdb: " + done.stdout + done.stderr)
    with open(data / "pg_hba.conf", "a") as file:
        file.write("host all all 10.77.0.0/16 trust\nhost all all fd77::/16 trust\n")
    play.serve("postgres", "-D", data, "-c", f"listen_addresses={play.host}", "-c", f"unix_socket_directories={play.directory}",
               "-c", "fsync=off", port=5432, privilege="net_raw")
    time.sleep(1)
    bench = lambda *words: play.ask("pgbench", "-h", play.host, "-U", "postgres", *words, "postgres", timeout=90)
    bench("-i", "-s", 2, "-q")
    text = bench("-S", "-c", 32, "-j", 2, "-T", 3)
    play.expect(text, r"number of failed transactions: 0 ", r"tps = [1-9]")
    bench("-c", 8, "-T", 2)
    text = play.ask("psql", "-h", play.host, "-U", "postgres", "-Atc",
                    "copy (select repeat('x', 1000) || n from generate_series(1, 20000) n) to stdout", "postgres")
    if text != "".join("x" * 1000 + f"{n}\n" for n in range(1, 20001)):
        raise Failed(f"{len(text)} bytes of a copy that should be another")


NODE = """
const http = require("http"), cluster = require("cluster");
const [any, workers] = [process.argv[2], Number(process.argv[3])];
if (workers && cluster.isPrimary) {
    for (let n = 0; n < workers; n++) cluster.fork();
    process.on("SIGTERM", () => process.exit(0));
} else {
    http.createServer((request, response) => {
        const parts = [];
        request.on("data", part => parts.push(part));
        request.on("end", () => { const body = Buffer.concat(parts); response.end(body.length ? body : "Hello, world!\\n"); });
    }).listen({ host: any, port: 8080, backlog: 1024 });
}
"""
NODE_CLIENT = """
const http = require("http");
const agent = new http.Agent({ keepAlive: true, maxSockets: 20 });
let left = 2000, bad = 0;
for (let n = 0; n < 2000; n++) {
    const body = "x".repeat(n);
    const request = http.request({ host: process.argv[2], port: 8080, method: "POST", agent }, response => {
        let got = "";
        response.on("data", part => got += part);
        response.on("end", () => {
            if (n ? got !== body : got !== "Hello, world!\\n") bad++;
            if (--left === 0) { console.log("bad", bad); agent.destroy(); }
        });
    });
    request.on("error", error => { console.log(String(error)); process.exit(1); });
    request.end(body);
}
"""


@program("node", "node", "wrk", families=("4", "6"))
def node(play):
    """http with keep-alive, as a server and as a client."""
    script = play.file("server.js", NODE)
    client = play.file("client.js", NODE_CLIENT)
    play.serve("node", script, play.any, 0, port=8080)
    play.expect(play.ask("node", client, play.host), "bad 0")
    return play.wrk(8080)


@program("node, autocannon", "node", "autocannon", families=("4", "6"))
def autocannon(play):
    """Fifty connections, four requests on their way on each."""
    play.serve("node", play.file("server.js", NODE), play.any, 0, port=8080)
    found = json.loads(play.ask("autocannon", "--json", "-c", 50, "-p", 4, "-d", 3, f"http://{play.url_host}:8080/").splitlines()[-1])
    if found["errors"] or found["timeouts"] or found["non2xx"] or not found["2xx"]:
        raise Failed(str(found) + play.said())
    return f"{found['requests']['average']:.0f} requests/s"


@program("node, cluster", "node", "wrk", families=("4", "6"))
def node_cluster(play):
    """Workers that are handed a listener, or its connections, by their master."""
    script = play.file("server.js", NODE)
    client = play.file("client.js", NODE_CLIENT)
    play.serve("node", script, play.any, 2, port=8080)
    time.sleep(1)
    play.expect(play.ask("node", client, play.host), "bad 0")
    return play.wrk(8080)


JAVA = """
import com.sun.net.httpserver.*;
import java.net.*;
import java.net.http.*;
import java.util.concurrent.*;
public class Web {
    public static void main(String[] words) throws Exception {
        if (words[0].equals("server")) {
            HttpServer server = HttpServer.create(new InetSocketAddress(words[1], 8080), 1024);
            server.createContext("/", exchange -> {
                byte[] body = exchange.getRequestBody().readAllBytes();
                if (body.length == 0) body = "Hello, world!\\n".getBytes();
                exchange.sendResponseHeaders(200, body.length);
                exchange.getResponseBody().write(body);
                exchange.close();
            });
            server.setExecutor(Executors.newFixedThreadPool(8));
            server.start();
        } else {
            HttpClient client = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
            for (int n = 1; n <= 500; n++) {
                String body = "x".repeat(n * 37);
                HttpRequest request = HttpRequest.newBuilder(URI.create(words[1]))
                    .POST(HttpRequest.BodyPublishers.ofString(body)).build();
                String got = client.send(request, HttpResponse.BodyHandlers.ofString()).body();
                if (!got.equals(body)) throw new Exception("request " + n);
            }
            System.out.println("500 answers");
            System.exit(0);
        }
    }
}
"""


@program("OpenJDK", "java", "wrk", families=("4", "6"))
def java(play):
    """HttpServer with eight threads, and HttpClient."""
    path = play.file("Web.java", JAVA)
    flags = ["-Xmx128m", "-XX:+UseSerialGC"]
    play.serve("java", *flags, path, "server", play.any, port=8080)
    play.expect(play.ask("java", *flags, path, "client", f"http://{play.url_host}:8080/", timeout=120), "500 answers")
    return play.wrk(8080, connections=16)


@program("OpenSSH", "sshd", "ssh", "scp", "ssh-keygen", families=("4", "6"))
def ssh(play):
    """A command, a pipe, and scp of 100 MB both ways; sshd gives its sockets to processes in a sandbox."""
    d = play.directory
    d.chmod(0o700)
    for name in ("host", "user"):
        subprocess.run([find("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", d / name], check=True)
    keys = play.file("keys", (d / "user.pub").read_text(), 0o600)
    config = play.file("sshd_config", f"""
Port 2222
ListenAddress {play.any}
HostKey {d}/host
AuthorizedKeysFile {keys}
PasswordAuthentication no
PermitRootLogin yes
StrictModes no
UsePAM no
PidFile none
Subsystem sftp internal-sftp
""")
    os.makedirs("/run/sshd", 0o755, exist_ok=True)
    path, digest = play.blob(100)
    play.serve("sshd", "-D", "-e", "-f", config, port=2222)
    options = ["-F", "none", "-i", d / "user", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
               "-o", "LogLevel=ERROR", "-o", "BatchMode=yes"]
    text = play.ask("ssh", *options, "-p", 2222, f"root@{play.host}", "echo hello; exit 3", good=3)
    play.expect(text, "hello")
    play.ask("scp", *options, "-P", 2222, path, f"root@{play.url_host}:{d}/up", timeout=120)
    play.same(d / "up", digest)
    play.ask("scp", *options, "-P", 2222, f"root@{play.url_host}:{path}", d / "down", timeout=120)
    play.same(d / "down", digest)


@program("lighttpd", "lighttpd", "wrk", "curl", families=("4", "6"))
def lighttpd(play):
    """A large file, and small answers."""
    _, digest = play.blob(20)
    play.file("hello", "Hello, world!\n")
    config = play.file("lighttpd.conf", f"""
server.document-root = "{play.directory}"
server.bind = "{play.any_url}"
server.port = 8080
server.max-connections = 1000
""")
    play.serve("lighttpd", "-D", "-f", config, port=8080)
    play.curl("-o", play.directory / "got", port=8080, path="/blob")
    play.same(play.directory / "got", digest)
    return play.wrk(8080, "/hello")


def apache(play, mpm):
    _, digest = play.blob(20)
    play.file("hello", "Hello, world!\n")
    modules = "/usr/lib/apache2/modules"
    config = play.file("apache.conf", f"""
ServerRoot {play.directory}
ServerName test
Listen {play.any_url}:8080
LoadModule mpm_{mpm}_module {modules}/mod_mpm_{mpm}.so
LoadModule authz_core_module {modules}/mod_authz_core.so
PidFile {play.directory}/apache.pid
Mutex file:{play.directory}
ErrorLog {play.directory}/error.log
User nobody
Group nogroup
KeepAlive On
MaxKeepAliveRequests 0
DocumentRoot {play.directory}
StartServers 4
""")
    play.serve("apache2", "-DFOREGROUND", "-f", config, port=8080)
    play.curl("-o", play.directory / "got", port=8080, path="/blob")
    play.same(play.directory / "got", digest)
    text = play.ask("ab", "-q", "-k", "-n", 3000, "-c", 16, f"http://{play.url_host}:8080/hello")
    play.expect(text, r"Failed requests: +0\n")
    text = play.ask("ab", "-q", "-n", 1000, "-c", 16, f"http://{play.url_host}:8080/hello")
    play.expect(text, r"Failed requests: +0\n")


@program("Apache, prefork", "apache2", "ab", "curl", families=("4", "6"))
def apache_prefork(play):
    """A process for each connection, with and without keep-alive."""
    apache(play, "prefork")


@program("Apache, event", "apache2", "ab", "curl", families=("4", "6"))
def apache_event(play):
    """Threads and epoll, with and without keep-alive."""
    apache(play, "event")


def run(name, stacks, family):
    play_it, needs, *_ = PROGRAMS[name]
    missing = [command for command in needs if not find(command)]
    if missing:
        raise Skipped(f"not installed: {', '.join(missing)}")
    with net.Line() as line, tempfile.TemporaryDirectory(prefix="d", dir=stage().scratch) as directory:
        Path(directory).chmod(0o755)
        play = Play(stacks, family, directory, line)
        try:
            note = play_it(play)
            return "; ".join(filter(None, (note, play.close())))
        finally:
            play.kill()


def tests(full=False):
    for name, (_, _, families, short) in PROGRAMS.items():
        for mode, stacks in MODES.items():
            for family in families:
                quick = short and all(stacks) and family == "4"
                yield Test(name, f"{mode}{net.FAMILIES[family]}", lambda a=(name, stacks, family): run(*a), not quick)


def table(outcomes):
    """What became of each program, for the README: `outcomes` are words by the names of tests."""
    lines = ["| program | what it does | server | client | both | both, IPv6 |", "| --- | --- | --- | --- | --- | --- |"]
    for name, (play, *_) in PROGRAMS.items():
        cells = [outcomes.get(f"{name} [{mode}]", "-") for mode in list(MODES)[1:]]
        cells.append(outcomes.get(f"{name} [tcpreload-tcpreload{net.FAMILIES['6']}]", "-"))
        lines.append(f"| {name} | {play.__doc__.strip().rstrip('.')} | {' | '.join(cells)} |")
    return "\n".join(lines)
