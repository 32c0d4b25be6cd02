"""Well-known servers and clients, each on the kernel's TCP or under tcpreload. No errors are expected, whoever serves.

A short run takes some of the combinations; the full one takes all of them, on lo and across a veth pair, as root and with
CAP_NET_RAW only, with 50,000 requests where ab and redis-benchmark ask and up to 1,000 connections of wrk.
"""

import itertools
import os
import re
import shutil
import tempfile
from pathlib import Path

import net
from harness import Failed, Side, Skipped, Test, check_stacks, stage

NGINX = """
daemon off; worker_processes 1; {more} pid {dir}/nginx.pid; error_log {dir}/error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off; client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi; uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
    server {{ listen {listen} backlog=1024; location / {{ return 200 "Hello, world!\\n"; }} }}
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


def nginx(more, listen="8080"):
    def command(directory):
        # Started as root, nginx would give its workers to somebody who cannot read the test's directory.
        user = "user root;" if os.stat(directory).st_mode & 0o002 == 0 else ""
        Path(directory, "nginx.conf").write_text(NGINX.format(dir=directory, more=more + user, listen=listen))
        return ["nginx", "-c", f"{directory}/nginx.conf", "-e", f"{directory}/error.log"]
    return command


# Name: port, command (a directory of its own is given).
SERVERS = {
    "server.py": (8080, lambda d: ["py:server.py"]),
    "http.server": (8080, lambda d: [stage().python, "-m", "http.server", "--directory", d, "8080"]),
    "threading": (8080, lambda d: [stage().python, "-c", THREADING]),
    "asyncio": (8080, lambda d: [stage().python, "-c", ASYNCIO]),
    "nginx": (8080, nginx("")),
    "nginx alone": (8080, nginx("master_process off;")),
    "redis": (6379, lambda d: ["redis-server", "--save", "", "--protected-mode", "no", "--dir", d]),
}


# The same for clients of IPv6, and of both where `::` takes IPv4 as well.
SERVERS6 = {
    "server.py": (8080, lambda d: ["env", "FAMILY=6", *stage().command(["py:server.py"])], ("6", "4")),
    "http.server": (8080, lambda d: [stage().python, "-m", "http.server", "--bind", "::", "--directory", d, "8080"], ("6", "4")),
    "nginx ipv6only=off": (8080, nginx("", "[::]:8080 ipv6only=off"), ("6", "4")),
    "nginx ipv6only=on": (8080, nginx("", "[::]:8080 ipv6only=on"), ("6",)),
    "nginx of both": (8080, nginx("", "8080; listen [::]:8080 ipv6only=on"), ("6", "4")),
    "redis": (6379, lambda d: ["redis-server", "--save", "", "--protected-mode", "no", "--dir", d, "--bind", "0.0.0.0", "::"], ("6", "4")),
}


def ab_is_good(text):
    return re.search(r"Failed requests: +0\n", text) and "apr_" not in text


def wrk_is_good(text):
    rate = re.search(r"Requests/sec: +([\d.]+)", text)
    return rate and float(rate[1]) > 0 and "Socket errors" not in text and "Non-2xx" not in text


def wrk_is_good_for_threads(text):
    """A thread of Python for each of a thousand connections: some wait for the interpreter longer than wrk does (two seconds),
    on the kernel's TCP as well. Nothing else may go wrong."""
    return wrk_is_good(re.sub(r"Socket errors: connect 0, read 0, write 0, timeout \d+", "", text))


class Size:
    """How much the clients ask."""

    def __init__(self, full):
        self.requests, self.seconds = (50000, 3) if full else (2000, 1)
        self.wrk = (1, 16, 256, 1000) if full else (1, 64)


def clients(server, size):
    """Name: the command for a host, and whether its output is good."""
    if server.startswith("redis"):
        return {"redis-benchmark": (
            lambda h: ["redis-benchmark", "-h", h, "-q", "-n", size.requests, "-t", "ping,set,get"],
            lambda t: t.count("requests per second") >= 4 and "rror" not in t,
        )}
    # It listens with a backlog of five: what comes in larger crowds has to wait for retransmissions, on the kernel as well.
    small = server == "http.server"
    url = lambda host: f"http://[{host}]:8080/" if ":" in host else f"http://{host}:8080/"
    some = {
        "curl": (lambda h: ["curl", "-gsSf", "--max-time", "20", url(h)], lambda t: len(t) > 0),
        "wget": (lambda h: ["wget", "-q", "-T", "20", "-O-", url(h)], lambda t: len(t) > 0),
        "ab": (lambda h: ["ab", "-q", "-n", size.requests, "-c", "4" if small else "20", url(h)], ab_is_good),
        "urllib": (lambda h: [stage().python, "-c", URLLIB, url(h)], lambda t: "200 answers" in t),
    }
    # It keeps a connection to an HTTP/1.0 client open without saying so: ab waits for its end, whoever carries it.
    if not small and server != "threading":
        some["ab -k"] = (lambda h: ["ab", "-q", "-k", "-n", size.requests, "-c", "20", url(h)], ab_is_good)
    for n in size.wrk:
        if n == 1 or not small:
            patient = n >= 1000 and server in ("server.py", "threading")
            some[f"wrk {n}"] = (lambda h, n=n: ["wrk", "-t1" if n == 1 else "-t2", f"-c{n}", f"-d{size.seconds}s", url(h)],
                                wrk_is_good_for_threads if patient else wrk_is_good)
    return some


def visit(server, client, link, stacks, privilege, size, family=None):
    port, command = SERVERS6[server][:2] if family else SERVERS[server]
    client_command, is_good = clients(server, size)[client]
    with net.LINKS[link]() as line, tempfile.TemporaryDirectory(prefix="d", dir=stage().scratch) as directory:
        Path(directory).chmod(0o755 if privilege == "root" else 0o1777)
        words = command(directory)
        if not words[0].startswith("py:") and not shutil.which(words[0]):
            raise Skipped(f"{words[0]} is not installed")
        if not shutil.which(str(client_command("x")[0])):
            raise Skipped(f"{client_command('x')[0]} is not installed")
        serving = Side(line.server, stage().command(words), stacks[0], privilege, log=stage().file("log"))
        serving.wait_for_port(port)
        asking = Side(line.client, stage().command(client_command(line.address(family or "4"))), stacks[1], privilege)
        text = asking.finish(150)
        said = lambda: "\nserver: " + serving.logged()[-1500:]
        if "HANGS" in text or asking.process.returncode != 0 or not is_good(text):
            raise Failed(text[-2500:] + said())
        if serving.process.poll() is not None:
            raise Failed(f"the server has ended: {serving.process.returncode}{said()}")
        notes = []
        for namespace in dict.fromkeys((line.server, line.client)):
            here = [(side, role) for side, role in ((serving, ("server",)), (asking, ("client",)))
                    if side.namespace is namespace]
            notes.append(check_stacks(namespace, here))
        serving.stop()
    rate = re.search(r"(?:Requests/sec: +|Requests per second: +)([\d.]+)", text)
    return "; ".join(filter(None, notes)) + (f"; {float(rate[1]):.0f} requests/s" if rate else "")


STACKS = {"tcpreload-kernel": (True, False), "kernel-tcpreload": (False, True), "tcpreload-tcpreload": (True, True)}


def tests(full=False):
    size = Size(full)
    for server, (mode, stacks) in itertools.product(SERVERS, {"kernel-kernel": (False, False), **STACKS}.items()):
        for client in clients(server, size):
            for link, privilege in itertools.product(("veth", "lo"), ("root", "net_raw")):
                # The short run: every pair once, on lo for half of them; the kernel's own clients and servers not at all.
                if not full:
                    if (link, privilege) != (("veth", "root"), ("lo", "net_raw"))[len(server + client) % 2]:
                        continue
                    if stacks == (False, False) or (mode != "tcpreload-kernel" and server not in ("server.py", "nginx", "redis")):
                        continue
                if stacks == (False, False) and privilege != "root":
                    continue
                label = f"{mode} {link}" + ("" if privilege == "root" else f" {privilege}")
                yield Test(f"{server} - {client}", label,
                           lambda a=(server, client, link, stacks, privilege, size): visit(*a))
    for server, (mode, stacks), link in itertools.product(SERVERS6, {"kernel-kernel": (False, False), **STACKS}.items(), ("lo", "veth")):
        for family in SERVERS6[server][2]:
            for client in clients(server, size):
                # The short run: two clients of each server, on one link.
                short = stacks[0] and stacks[1] == (family == "6") and client in ("curl", "ab -k", "redis-benchmark") and link == "veth"
                if full or short:
                    label = f"{mode} {link}{net.FAMILIES[family]} to ::"
                    yield Test(f"{server} - {client}", label,
                               lambda a=(server, client, link, stacks, "root", size, family): visit(*a), not short)
