#!/usr/bin/env python3
"""Real servers and real clients, each on the kernel's TCP or under tcpreload, on lo and across a veth pair.

    apps.py              short runs
    apps.py --full       ab -n 50000, wrk with 1 to 1000 connections
    apps.py WORD ...     those whose server, client, place or stacks contain every word
"""

import itertools
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import net
from run import HERE, TCPRELOAD, Failed, report

FULL = "--full" in sys.argv
PYTHON = sys.executable

NGINX = """
daemon off; worker_processes 1; pid {dir}/nginx.pid; error_log {dir}/error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off; client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi; uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
    server {{ listen 8080 backlog=1024; location / {{ return 200 "Hello, world!\\n"; }} }}
}}
"""

THREADING = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "14")
        self.end_headers()
        self.wfile.write(b"Hello, world!\\n")
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer.request_queue_size = 1024
http.server.ThreadingHTTPServer(("", 8080), Handler).serve_forever()
"""

ASYNCIO = """
import asyncio
async def serve(reader, writer):
    try:
        while True:
            head = await reader.readuntil(b"\\r\\n\\r\\n")
            writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 14\\r\\n\\r\\nHello, world!\\n")
            await writer.drain()
            if b"HTTP/1.0" in head:
                break
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    writer.close()
async def main():
    server = await asyncio.start_server(serve, "0.0.0.0", 8080, backlog=1024)
    await server.serve_forever()
asyncio.run(main())
"""

URLLIB = """
import sys, urllib.request
for _ in range(200):
    with urllib.request.urlopen(sys.argv[1]) as answer:
        assert answer.status == 200 and answer.read()
print("200 answers")
"""


def nginx(directory):
    Path(directory, "nginx.conf").write_text(NGINX.format(dir=directory))
    return ["nginx", "-c", f"{directory}/nginx.conf", "-e", f"{directory}/error.log"]


# Name, port, command (a directory of its own is given).
SERVERS = {
    "server.py": (8080, lambda d: [PYTHON, str(HERE / "server.py")]),
    "http.server": (8080, lambda d: [PYTHON, "-m", "http.server", "--directory", d, "8080"]),
    "threading": (8080, lambda d: [PYTHON, "-c", THREADING]),
    "asyncio": (8080, lambda d: [PYTHON, "-c", ASYNCIO]),
    "nginx": (8080, nginx),
    "redis": (6379, lambda d: ["redis-server", "--save", "", "--protected-mode", "no", "--dir", d]),
}


def ab_is_good(text):
    return "Failed requests:        0" in text and "apr_" not in text


def wrk_is_good(text):
    return "Requests/sec" in text and "Socket errors" not in text and "Non-2xx" not in text


def wrk(connections):
    seconds = "3s" if FULL else "1s"
    threads = "1" if connections == 1 else "2"
    return lambda host: ["wrk", f"-t{threads}", f"-c{connections}", f"-d{seconds}", f"http://{host}:8080/"]


serving = ""
REQUESTS = "50000" if FULL else "3000"
# Name: the command for a host, and what its output has to say.
CLIENTS = {
    "curl": (lambda h: ["curl", "-sS", "--max-time", "20", f"http://{h}:8080/"], lambda t: len(t) > 0),
    "wget": (lambda h: ["wget", "-q", "-T", "20", "-O-", f"http://{h}:8080/"], lambda t: len(t) > 0),
    "ab": (lambda h: ["ab", "-q", "-n", REQUESTS, "-c", CROWD.get(serving, "20"), f"http://{h}:8080/"], ab_is_good),
    "urllib": (lambda h: [PYTHON, "-c", URLLIB, f"http://{h}:8080/"], lambda t: "200 answers" in t),
    **{f"wrk {c}": (wrk(c), wrk_is_good) for c in ((1, 10, 128, 1000) if FULL else (1, 64))},
}
REDIS = {
    "redis-benchmark": (
        lambda h: ["redis-benchmark", "-h", h, "-q", "-n", REQUESTS, "-t", "ping,set,get"],
        lambda t: t.count("requests per second") >= 4 and "rror" not in t,
    )
}
# It listens with a backlog of five: what comes in larger crowds has to wait for retransmissions, on the kernel as well.
NOT_FOR = {"http.server": {"wrk 64", "wrk 128", "wrk 1000"}}
CROWD = {"http.server": "4"}


class OnePlace:
    """Server and client in one namespace, over lo."""

    server_address = "127.0.0.1"

    def __init__(self):
        self.server = self.client = net.Namespace()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.close()


def wait_for_port(namespace, port):
    """Until something listens there, on either stack: both show it in /proc/net/tcp."""
    wanted = f":{port:04X} "
    for _ in range(200):
        tables = [Path(f"/proc/{namespace.pid}/net/{table}").read_text() for table in ("tcp", "tcp6")]
        if any(wanted in line and " 0A " in line for text in tables for line in text.splitlines()):
            return
        time.sleep(0.05)
    raise Failed("the server does not listen")


def visit(server, client, place, server_shim, client_shim):
    global serving
    serving = server
    port, command = SERVERS[server]
    client_command, is_good = (REDIS if server == "redis" else CLIENTS)[client]
    prefix = {False: [], True: [TCPRELOAD, "--strict"]}
    with place() as where, tempfile.TemporaryDirectory(prefix="tcpreload-") as directory:
        Path(directory).chmod(0o755)
        errors = open(Path(directory, "stderr"), "w+")
        process = where.server.start(*prefix[server_shim], *command(directory), stdout=subprocess.DEVNULL, stderr=errors)
        try:
            wait_for_port(where.server, port)
            done = subprocess.run(
                where.client.command(*prefix[client_shim], *client_command(where.server_address)),
                capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL,
            )
            if done.returncode != 0 or not is_good(done.stdout + done.stderr):
                raise Failed(f"exit {done.returncode}\n{done.stdout[-1500:]}{done.stderr[-1500:]}")
            if process.poll() is not None:
                errors.seek(0)
                raise Failed(f"the server has ended: {process.returncode}\n{errors.read()[-1500:]}")
            check_kernel(where, place, server_shim, client_shim)
        except subprocess.TimeoutExpired:
            raise Failed("the client hangs") from None
        finally:
            process.kill()
            process.wait()
            errors.close()
    return ""


def check_kernel(where, place, server_shim, client_shim):
    """The kernel has opened what it should, and nothing else."""
    server, client = where.server.kernel_counters(), where.client.kernel_counters()
    passive, active = server["TcpPassiveOpens"], client["TcpActiveOpens"]
    if server_shim and passive:
        raise Failed(f"the kernel's TCP has accepted {passive} connections")
    if client_shim and active:
        raise Failed(f"the kernel's TCP has opened {active} connections")


def main():
    net.become_root_of_a_namespace([sys.executable, *sys.argv])
    words = [word for word in sys.argv[1:] if not word.startswith("--")]
    results = []
    names = {False: "kernel", True: "tcpreload"}
    stacks = [(True, False), (False, True), (True, True)]
    for server, (server_shim, client_shim) in itertools.product(SERVERS, stacks):
        for client, (place_name, place) in itertools.product(
            REDIS if server == "redis" else CLIENTS, (("lo", OnePlace), ("veth", net.Line))
        ):
            name = f"{server} - {client}"
            mode = f"{place_name}: {names[server_shim]} - {names[client_shim]}"
            if client in NOT_FOR.get(server, ()) or not all(word in f"{name} {mode}" for word in words):
                continue
            program = (REDIS if server == "redis" else CLIENTS)[client][0]("x")[0]
            if not shutil.which(program) or (server in ("nginx", "redis") and not shutil.which(SERVERS[server][1]("/tmp")[0])):
                print(f"skip {name}: {program} or its server is not installed")
                continue
            results.append(report(name, mode, lambda: visit(server, client, place, server_shim, client_shim)))
    print(f"{results.count(True)} passed, {results.count(False)} failed")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
