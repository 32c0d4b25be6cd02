"""Plain sockets in Python: blocking, time-outs, files, sendfile, many connections, inheritance by subprocesses."""

import array
import errno
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time

import family


def name(error):
    return errno.errorcode.get(error.errno, type(error).__name__) if error.errno else type(error).__name__


def attempt(what, call):
    try:
        print(what, call())
    except OSError as error:
        print(what, type(error).__name__, name(error))


def pair():
    listener = family.listener()
    client = socket.create_connection(family.name(listener))
    server, peer = listener.accept()
    assert peer == client.getsockname() and client.getpeername() == listener.getsockname()
    return listener, client, server


def basics():
    listener, client, server = pair()
    print(client.family.name, client.type.name, client.proto)
    client.sendall(b"x" * 100000)
    print(len(server.recv(100000, socket.MSG_WAITALL)))
    buffer = bytearray(10)
    client.sendall(b"0123456789abc")
    print(server.recv_into(buffer, 4), bytes(buffer[:4]), server.recv(2, socket.MSG_PEEK), server.recv(20))
    print(client.sendmsg([b"one", b"", b"two"]), server.recvmsg(100)[0])
    a, b = bytearray(4), bytearray(4)
    client.sendall(b"abcdefg")
    time.sleep(0.05)
    print(server.recvmsg_into([a, b])[0], bytes(a), bytes(b))
    client.settimeout(0.05)
    attempt("time-out", lambda: client.recv(1))
    attempt("accept time-out", lambda: (listener.settimeout(0.05), listener.accept()))
    client.setblocking(False)
    attempt("non-blocking", lambda: client.recv(1))
    print(client.getblocking(), client.gettimeout())
    client.close()
    print(server.recv(10), server.recv(10))
    attempt("closed", lambda: client.send(b"x"))
    print(client.fileno())
    number = server.detach()
    again = socket.socket(fileno=number)
    print(again.family.name, again.fileno() == number)
    attempt("send to who has gone", lambda: [again.send(b"x" * 1000) or time.sleep(0.02) for _ in range(3)])
    again.close()
    listener.close()


def files():
    listener, client, server = pair()
    reader, writer = server.makefile("rb"), client.makefile("w", encoding="utf-8", newline="\n")
    for word in ("first", "zweite", "τρίτη"):
        print(word, file=writer)
    writer.flush()
    print([reader.readline().decode().strip() for _ in range(3)])
    with tempfile.TemporaryFile() as file:
        file.write(os.urandom(10) + b"s" * 300000)
        file.seek(10)
        taken = []
        taker = threading.Thread(target=lambda: taken.append(len(reader.read(300000))))
        taker.start()
        print(client.sendfile(file, 10))
        taker.join()
        print(taken)
    writer.close()
    client.shutdown(socket.SHUT_WR)
    print(reader.read())
    reader.close()
    print(os.fstat(server.fileno()).st_mode & 0o170000 == 0o140000)
    for s in (listener, client, server):
        s.close()


def errors():
    listener, client, server = pair()
    address = listener.getsockname()
    attempt("bind in use", lambda: socket.socket(family.AF).bind(address))
    attempt("connect again", lambda: client.connect(address))
    listener.close()
    attempt("refused", lambda: socket.create_connection(family.name(address), 1))
    with socket.socket(family.AF) as s:
        attempt("connect_ex", lambda: errno.errorcode[s.connect_ex(address)])
    attempt("no connection", lambda: socket.socket(family.AF).recv(1))
    server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, array.array("i", [1, 0]).tobytes())
    server.close()
    attempt("reset", lambda: client.recv(1))
    client.close()


def executes():
    listener, client, server = pair()
    # A connection as the standard input and output of a program.
    done = subprocess.Popen(["cat"], stdin=server, stdout=server)
    server.close()
    client.sendall(b"through cat")
    client.shutdown(socket.SHUT_WR)
    print(client.makefile("rb").read(), done.wait())
    client.close()
    # A listener by its number.
    child = "import socket, sys\nl = socket.socket(fileno=int(sys.argv[1]))\nc, _ = l.accept()\nc.sendall(c.recv(100).upper())\n"
    done = subprocess.Popen([sys.executable, "-c", child, str(listener.fileno())], pass_fds=[listener.fileno()])
    client = socket.create_connection(family.name(listener))
    client.sendall(b"by number")
    print(client.makefile("rb").read(), done.wait())
    client.close()
    # And programs that have nothing to do with it.
    print(subprocess.run(["echo", "echo"], capture_output=True).stdout, subprocess.getoutput("exit 3; true"))
    listener.close()


def ended_by_close(what, between):
    """A connection that is closed after something that has copied it and gone: the peer sees the end."""
    listener, client, server = pair()
    os.set_inheritable(server.fileno(), True)
    between()
    server.close()
    client.settimeout(3)
    attempt(what, lambda: client.recv(1))
    client.close()
    listener.close()


def fork_exec(program):
    if os.fork() == 0:
        try:
            os.execvp(program, [program])
        except OSError:
            os._exit(1)
    os.wait()


def spawns():
    """Programs that are started beside a connection, and have nothing to do with it."""
    ended_by_close("subprocess", lambda: subprocess.run(["true"]))
    ended_by_close("all descriptors", lambda: subprocess.run(["true"], close_fds=False))
    ended_by_close("system", lambda: os.system("true"))
    ended_by_close("posix_spawn", lambda: (os.posix_spawnp("true", ["true"], os.environ), os.wait()))
    ended_by_close("exec", lambda: fork_exec("true"))
    ended_by_close("failed exec", lambda: fork_exec("no such program"))


def processes():
    listener = family.listener()
    # fork: the child serves.
    if (pid := os.fork()) == 0:
        for _ in range(3):
            server, _ = listener.accept()
            with server:
                server.sendall(server.recv(100)[::-1])
        os._exit(0)
    for word in (b"abc", b"12345", b"xy"):
        with socket.create_connection(family.name(listener)) as client:
            client.sendall(word)
            print(client.makefile("rb").read())
    print(os.waitpid(pid, 0)[1])
    listener.close()


def threads():
    listener = family.listener(64)

    def serve(connection):
        with connection:
            while data := connection.recv(4096):
                connection.sendall(data)

    def accept():
        for _ in range(32):
            threading.Thread(target=serve, args=(listener.accept()[0],)).start()

    good = []

    def ask(number):
        with socket.create_connection(family.name(listener)) as client:
            for i in range(50):
                client.sendall(b"%d %d" % (number, i))
                good.append(client.recv(100) == b"%d %d" % (number, i))

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    clients = [threading.Thread(target=ask, args=(n,)) for n in range(32)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    acceptor.join()
    listener.close()
    print(good.count(True), "echoes")


for part in (basics, files, errors, spawns, processes, threads, executes):
    if len(sys.argv) > 1 and part.__name__ not in sys.argv[1:]:
        continue
    print("--", part.__name__, flush=True)
    part()
