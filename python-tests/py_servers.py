"""The servers and clients of Python's library: socketserver, http.server, http.client, urllib, xmlrpc, multiprocessing."""

import http.client
import http.server
import multiprocessing
import socket
import socketserver
import sys
import threading
import urllib.error
import urllib.request
import xmlrpc.client
import xmlrpc.server

import family


class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(line.upper())


def ask(address, lines=3):
    with socket.create_connection(family.name(address), 10) as client:
        file = client.makefile("rwb")
        out = []
        for number in range(lines):
            file.write(b"line %d\n" % number)
            file.flush()
            out.append(file.readline())
        # Not by close: a server that forks in this very process has copies of this socket in its children.
        client.shutdown(socket.SHUT_WR)
        return out


def socketservers():
    for kind in (socketserver.TCPServer, socketserver.ThreadingTCPServer, socketserver.ForkingTCPServer):
        kind.allow_reuse_address, kind.address_family = True, family.AF
        with kind((family.HOST, 0), Echo) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.05,))
            thread.start()
            print(kind.__name__, [ask(server.server_address)[-1] for _ in range(5)])
            server.shutdown()
            thread.join()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/missing":
            return self.send_error(404)
        body = b"path " + self.path.encode() + b"\n" + b"." * (100000 if self.path == "/large" else 0)
        self.answer(body)

    def do_POST(self):
        self.answer(self.rfile.read(int(self.headers["Content-Length"]))[::-1])

    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class WebServer(http.server.ThreadingHTTPServer):
    address_family = family.AF


class CallServer(xmlrpc.server.SimpleXMLRPCServer):
    address_family = family.AF


def web():
    with WebServer((family.HOST, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        url = family.url(server.server_address)
        client = http.client.HTTPConnection(*family.name(server.server_address), timeout=10)
        for path in ("/a", "/b", "/large"):
            client.request("GET", path)
            answer = client.getresponse()
            print(answer.status, len(answer.read()))
        client.request("POST", "/", body=b"x" * 50000 + b"end")
        answer = client.getresponse().read()
        print(answer[:5], len(answer))
        client.close()
        for path in ("/c", "/missing"):
            try:
                with urllib.request.urlopen(url + path, timeout=10) as answer:
                    print(answer.status, answer.read())
            except urllib.error.HTTPError as error:
                print(error.code)
        threads = [threading.Thread(target=lambda: [urllib.request.urlopen(url + "/t", timeout=10).read() for _ in range(10)])
                   for _ in range(8)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        print("80 more")
        server.shutdown()
        thread.join()
    try:
        urllib.request.urlopen(url, timeout=5)
    except urllib.error.URLError as error:
        print(type(error.reason).__name__)


def calls():
    with CallServer((family.HOST, 0), logRequests=False) as server:
        server.register_function(pow)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        with xmlrpc.client.ServerProxy(family.url(server.server_address)) as proxy:
            print(proxy.pow(2, 10), proxy.pow(3, 3))
        server.shutdown()
        thread.join()


def worker(listener, number):
    while True:
        connection, _ = listener.accept()
        with connection:
            word = connection.recv(100)
            if word == b"end":
                return
            connection.sendall(word * 2)


def give(connection, gift):
    gift.sendall(b"given " + connection.recv())
    gift.close()


def processes():
    context = multiprocessing.get_context("fork")
    listener = family.listener(64)
    workers = [context.Process(target=worker, args=(listener, n)) for n in range(4)]
    for process in workers:
        process.start()
    good = 0
    for number in range(40):
        with socket.create_connection(family.name(listener), 10) as client:
            client.sendall(b"%d" % number)
            good += client.recv(100) == b"%d" % number * 2
    print("prefork", good)
    for process in workers:
        with socket.create_connection(family.name(listener), 10) as client:
            client.sendall(b"end")
            client.recv(1)
    print([process.join(10) or process.exitcode for process in workers])
    listener.close()
    # A listener of multiprocessing's own, over TCP.
    if family.NAME != "4":
        print("multiprocessing.connection knows IPv4 only")
        return
    with multiprocessing.connection.Listener(("127.0.0.1", 0), authkey=b"key") as listener:
        def client():
            with multiprocessing.connection.Client(listener.address, authkey=b"key") as connection:
                connection.send({"an": ["object", 1]})
                print(connection.recv())
        thread = threading.Thread(target=client)
        thread.start()
        with listener.accept() as connection:
            connection.send(connection.recv()["an"])
        thread.join()


if __name__ == "__main__":
    import multiprocessing.connection
    for part in (socketservers, web, calls, processes):
        if len(sys.argv) > 1 and part.__name__ not in sys.argv[1:]:
            continue
        print("--", part.__name__, flush=True)
        part()
