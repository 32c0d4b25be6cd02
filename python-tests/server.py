#!/usr/bin/env python3
"""An HTTP server in plain sockets: port 8080 (or the first argument), listen(1024), a thread for each connection.

It reads each request to its end and answers with a Content-Length. A connection stays open until the client closes it, or
says that it wants no more: HTTP/1.0, or "Connection: close".
"""

import socket
import sys
import threading

import family

BODY = b"Hello, world!\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\nConnection: %%s\r\n\r\n%s" % (len(BODY), BODY)
KEPT, CLOSED = ANSWER % b"keep-alive", ANSWER % b"close"


def requests(connection):
    """Whole requests, one after the other, until the client closes."""
    data = b""
    while True:
        while b"\r\n\r\n" not in data:
            more = connection.recv(65536)
            if not more:
                return
            data += more
        head, data = data.split(b"\r\n\r\n", 1)
        length = 0
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.strip().lower() == b"content-length":
                length = int(value)
        while len(data) < length:
            more = connection.recv(65536)
            if not more:
                return
            data += more
        data = data[length:]
        yield head


def is_last(head):
    request, *headers = head.lower().split(b"\r\n")
    options = [line.partition(b":")[2] for line in headers if line.startswith(b"connection:")]
    if request.endswith(b"http/1.0"):
        return not any(b"keep-alive" in option for option in options)
    return any(b"close" in option for option in options)


def serve(connection):
    with connection:
        try:
            for head in requests(connection):
                if is_last(head):
                    connection.sendall(CLOSED)
                    return
                connection.sendall(KEPT)
        except ConnectionError:
            pass


def main():
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8080
    listener = socket.socket(family.AF, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((family.ANY, port))
    listener.listen(1024)
    print(f"listening on port {port}", flush=True)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    main()
