"""What becomes of sockets at fork, exec, spawn, in messages and at the ends of processes: each case a small program of its own, in
a process of its own; it prints what it saw."""

import multiprocessing
import os
import select
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time

import family

CASES = []


def case(function):
    CASES.append(function)
    return function


def listener(backlog=16):
    return family.listener(backlog)


def pair():
    with listener() as l:
        client = socket.create_connection(family.name(l))
        server, _ = l.accept()
    # The other side stays blocking: programs that inherit it know of no other.
    client.settimeout(10)
    return client, server


def dial(l):
    c = socket.create_connection(family.name(l), 10)
    return c


def say(*words):
    print(" ", *words, flush=True)


def read(s, n=100):
    try:
        return s.recv(n)
    except OSError as why:
        return type(why).__name__


def ask(s, word=b"ping"):
    """An echo, or what comes instead."""
    try:
        s.sendall(word)
    except OSError as why:
        return type(why).__name__
    return read(s)


def fork(act):
    """Runs `act` in a child, which then ends at once."""
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            code = act() or 0
        finally:
            os._exit(code)
    return pid


def status(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def echo_once(s):
    s.sendall(s.recv(100))


def echo_all(s):
    while data := s.recv(1000):
        s.sendall(data)


def serve(l, times):
    for _ in range(times):
        s, _ = l.accept()
        echo_all(s)
        s.close()


CAT = [sys.executable, "-c", "import os\nwhile d := os.read(0, 1000): os.write(1, d)"]
ECHO_FD = "import socket, sys\ns = socket.socket(fileno=int(sys.argv[1]))\ns.sendall(s.recv(100).upper())"
ACCEPT_FD = ("import socket, sys\nl = socket.socket(fileno=int(sys.argv[1]))\ns, _ = l.accept()\ns.sendall(s.recv(100).upper())")


# ---------------------------------------------------------------------------------------------------------------- fork

@case
def a_child_serves_the_connection():
    c, s = pair()
    pid = fork(lambda: echo_once(s))
    say(ask(c), status(pid))
    s.close()
    say(read(c))


@case
def a_child_accepts():
    l = listener()
    pid = fork(lambda: serve(l, 1))
    c = dial(l)
    say(ask(c))
    c.close()
    say(status(pid))


@case
def four_children_accept():
    l = listener()
    pids = [fork(lambda: serve(l, 3)) for _ in range(4)]
    for _ in range(12):
        c = dial(l)
        say(ask(c))
        c.close()
    say(sorted(map(status, pids)))


@case
def a_child_for_each_connection():
    l = listener()
    for _ in range(3):
        c = dial(l)
        s, _ = l.accept()
        pid = fork(lambda: (l.close(), c.close(), echo_all(s)) and 0)
        s.close()
        say(ask(c))
        c.shutdown(socket.SHUT_WR)
        say(read(c), status(pid))


@case
def the_child_closes_and_the_parent_goes_on():
    c, s = pair()
    say(status(fork(lambda: s.close())))
    c.sendall(b"x")
    say(read(s))
    s.sendall(b"z")
    say(read(c))


@case
def the_child_shuts_down_for_both():
    c, s = pair()
    say(status(fork(lambda: s.shutdown(socket.SHUT_WR))))
    say(read(c))
    try:
        s.send(b"x")
    except OSError as why:
        say(type(why).__name__)


@case
def parent_and_child_write_in_turns():
    c, s = pair()
    say(status(fork(lambda: s.sendall(b"from the child "))))
    s.sendall(b"from the parent")
    time.sleep(0.05)
    say(read(c))


@case
def a_flag_set_by_the_child_is_the_parents():
    c, s = pair()
    say(status(fork(lambda: s.setblocking(False))))
    try:
        os.read(s.fileno(), 1)
    except OSError as why:
        say(type(why).__name__)


@case
def an_option_set_by_the_child_is_the_parents():
    c, s = pair()
    say(status(fork(lambda: s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1))))
    say(s.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0)


@case
def a_daemon_by_double_fork():
    l = listener()

    def first():
        os.setsid()
        fork(lambda: serve(l, 1))

    say(status(fork(first)))
    c = dial(l)
    say(ask(c))


@case
def the_parent_ends_first():
    c, s = pair()
    r, w = os.pipe()

    def parent():
        fork(lambda: (os.close(r), time.sleep(0.1), echo_once(s)) and 0)

    say(status(fork(parent)))
    os.close(w)
    s.close()
    say(ask(c), read(c))
    # The pipe ends with its last holder.
    say(os.read(r, 1))


@case
def a_fork_in_a_thread():
    c, s = pair()
    pids = []
    t = threading.Thread(target=lambda: pids.append(fork(lambda: echo_once(s))))
    t.start()
    t.join()
    say(ask(c), status(pids[0]))


@case
def a_fork_while_another_thread_waits():
    l = listener()
    got = []
    t = threading.Thread(target=lambda: got.append(l.accept()[0]))
    t.start()
    time.sleep(0.05)
    c2, s2 = pair()
    pid = fork(lambda: echo_once(s2))
    say(ask(c2), status(pid))
    c = dial(l)
    t.join()
    got[0].sendall(b"served")
    say(read(c))


@case
def both_wait_for_one_connection():
    l = listener()
    pids = [fork(lambda: serve(l, 1)) for _ in range(2)]
    time.sleep(0.1)
    c = dial(l)
    say(ask(c))
    c.close()
    time.sleep(0.05)
    done = [pid for pid in pids if os.waitpid(pid, os.WNOHANG)[0]]
    say(len(done))
    for pid in set(pids) - set(done):
        d = dial(l)
        say(ask(d))
        d.close()
        say(status(pid))


@case
def an_epoll_set_is_inherited():
    c, s = pair()
    p = select.epoll()
    p.register(s, select.EPOLLIN)
    r, w = os.pipe()

    def child():
        os.write(w, str(len(p.poll(5))).encode())

    pid = fork(child)
    c.sendall(b"x")
    say(os.read(r, 10), status(pid))
    say(len(p.poll(0)))


@case
def what_a_child_adds_to_a_set_is_the_parents():
    c, s = pair()
    p = select.epoll()
    say(status(fork(lambda: p.register(s, select.EPOLLIN))))
    c.sendall(b"x")
    say(len(p.poll(1)))


@case
def a_child_opens_its_own():
    def child():
        c, s = pair()
        pid = os.fork()
        if pid == 0:
            echo_once(s)
            os._exit(0)
        os._exit(0 if ask(c) == b"ping" else 1)

    say([status(fork(child)) for _ in range(3)])


@case
def a_family_of_sixty_four():
    l = listener(128)
    pids = [fork(lambda: serve(l, 1)) for _ in range(63)]
    clients = [dial(l) for _ in range(63)]
    say(sum(ask(c) == b"ping" for c in clients))
    for c in clients:
        c.close()
    say(sum(status(pid) == 0 for pid in pids))


# ----------------------------------------------------------------------------------------------------------------- ends

@case
def a_child_is_killed_with_a_shared_connection():
    c, s = pair()
    pid = fork(lambda: time.sleep(60))
    os.kill(pid, signal.SIGKILL)
    say(status(pid))
    pid = fork(lambda: echo_once(s))
    say(ask(c), status(pid))


@case
def a_child_is_killed_with_its_own_connection():
    l = listener()
    pid = fork(lambda: serve(l, 9))
    c = dial(l)
    say(ask(c))
    os.kill(pid, signal.SIGKILL)
    say(read(c), status(pid))
    c = dial(l)
    s, _ = l.accept()
    s.sendall(b"the listener lives")
    say(read(c))


@case
def connections_that_wait_survive_the_death_of_one():
    l = listener()
    pid = fork(lambda: time.sleep(60))
    c = dial(l)
    c.sendall(b"early")
    os.kill(pid, signal.SIGKILL)
    say(status(pid))
    s, _ = l.accept()
    say(read(s))


@case
def a_zombie_holds_nothing():
    c, s = pair()
    pid = fork(lambda: 0)
    s.close()
    say(read(c))
    say(status(pid))


@case
def the_last_of_two_closes():
    c, s = pair()
    r, w = os.pipe()
    pid = fork(lambda: os.read(r, 1) and 0)
    s.close()
    c.settimeout(0.1)
    say(read(c))
    c.settimeout(10)
    os.write(w, b"x")
    say(status(pid), read(c))


@case
def wait_sees_our_own_children_only():
    c, s = pair()
    pids = {fork(lambda: 0) for _ in range(3)}
    seen = set()
    try:
        while True:
            seen.add(os.wait()[0])
    except ChildProcessError:
        say(seen == pids)


@case
def a_listener_that_all_have_closed():
    l = listener()
    name = family.name(l)
    pid = fork(lambda: time.sleep(60))
    l.close()
    c = socket.create_connection(name, 5)
    os.kill(pid, signal.SIGKILL)
    say(status(pid), read(c))
    try:
        socket.create_connection(name, 5)
    except OSError as why:
        say(type(why).__name__)


# ------------------------------------------------------------------------------------------------------- exec and spawn

@case
def a_program_gets_a_connection():
    c, s = pair()
    p = subprocess.Popen([sys.executable, "-c", ECHO_FD, str(s.fileno())], pass_fds=[s.fileno()])
    s.close()
    say(ask(c), read(c), p.wait())


@case
def a_program_gets_a_listener():
    l = listener()
    p = subprocess.Popen([sys.executable, "-c", ACCEPT_FD, str(l.fileno())], pass_fds=[l.fileno()])
    c = dial(l)
    say(ask(c), read(c), p.wait())


@case
def a_program_gets_both():
    l = listener()
    c, s = pair()
    code = ("import socket, sys\nl, s = (socket.socket(fileno=int(n)) for n in sys.argv[1:])\n"
            "s.sendall(b'one')\nl.accept()[0].sendall(b'two')")
    p = subprocess.Popen([sys.executable, "-c", code, str(l.fileno()), str(s.fileno())], pass_fds=[l.fileno(), s.fileno()])
    d = dial(l)
    say(read(c), read(d), p.wait())


@case
def a_connection_as_standard_input_and_output():
    c, s = pair()
    p = subprocess.Popen(CAT, stdin=s, stdout=s)
    s.close()
    say(ask(c), ask(c, b"again"))
    c.shutdown(socket.SHUT_WR)
    say(read(c), p.wait())


@case
def cat_is_an_echo_server():
    c, s = pair()
    p = subprocess.Popen(["cat"], stdin=s, stdout=s)
    s.close()
    say(ask(c))
    c.shutdown(socket.SHUT_WR)
    say(read(c), p.wait())


@case
def a_shell_reads_a_line():
    c, s = pair()
    n = s.fileno()
    p = subprocess.Popen(["sh", "-c", f"read x <&{n}; echo got $x >&{n}"], pass_fds=[n])
    s.close()
    say(ask(c, b"a line\n"), read(c), p.wait())


@case
def close_on_exec_closes():
    c, s = pair()
    p = subprocess.Popen(["sleep", "0.3"], close_fds=False)
    s.close()
    say(read(c))
    say(p.wait())


@case
def without_close_on_exec_it_stays_open():
    c, s = pair()
    s.set_inheritable(True)
    p = subprocess.Popen(["sleep", "0.3"], close_fds=False)
    s.close()
    c.settimeout(0.1)
    say(read(c))
    c.settimeout(10)
    say(p.wait(), read(c))


@case
def exec_in_place():
    l = listener()
    l.set_inheritable(True)
    pid = fork(lambda: os.execv(sys.executable, [sys.executable, "-c", ACCEPT_FD, str(l.fileno())]))
    c = dial(l)
    say(ask(c), status(pid))


@case
def exec_after_exec():
    c, s = pair()
    s.set_inheritable(True)
    code = "import os, sys\nos.execv(sys.executable, [sys.executable, '-c', sys.argv[2], sys.argv[1]])"
    pid = fork(lambda: os.execv(sys.executable, [sys.executable, "-c", code, str(s.fileno()), ECHO_FD]))
    say(ask(c), status(pid))


@case
def an_exec_that_fails():
    c, s = pair()

    def child():
        try:
            os.execv("/nonexistent", ["x"])
        except OSError as why:
            s.sendall(type(why).__name__.encode())

    say(status(fork(child)), read(c))
    say(ask(c) if fork(lambda: echo_once(s)) else "")


@case
def a_spawn_that_fails():
    c, s = pair()
    try:
        subprocess.Popen(["/nonexistent"], pass_fds=[s.fileno()])
    except OSError as why:
        say(type(why).__name__)
    c.sendall(b"x")
    say(read(s))


@case
def posix_spawn_with_file_actions():
    c, s = pair()
    pid = os.posix_spawn(CAT[0], CAT, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, s.fileno(), 0),
                                                              (os.POSIX_SPAWN_DUP2, s.fileno(), 1)])
    s.close()
    say(ask(c))
    c.shutdown(socket.SHUT_WR)
    say(read(c), status(pid))


@case
def posix_spawn_with_a_listener():
    l = listener()
    l.set_inheritable(True)
    argv = [sys.executable, "-c", ACCEPT_FD, str(l.fileno())]
    pid = os.posix_spawnp(sys.executable, argv, os.environ)
    c = dial(l)
    say(ask(c), status(pid))


@case
def system_and_popen():
    c, s = pair()
    say(os.system("true"), os.popen("echo popen").read().strip())
    c.sendall(b"x")
    say(read(s))


@case
def a_program_in_a_session_of_its_own():
    c, s = pair()
    p = subprocess.Popen([sys.executable, "-c", ECHO_FD, str(s.fileno())], pass_fds=[s.fileno()], start_new_session=True)
    say(ask(c), p.wait())


@case
def a_program_that_is_killed():
    c, s = pair()
    p = subprocess.Popen(["sleep", "60"], pass_fds=[s.fileno()])
    s.close()
    time.sleep(0.1)
    p.kill()
    say(p.wait(), read(c))


@case
def a_pipeline_of_programs():
    c, s = pair()
    first = subprocess.Popen(CAT, stdin=s, stdout=subprocess.PIPE)
    second = subprocess.Popen(["tr", "a-z", "A-Z"], stdin=first.stdout, stdout=s)
    s.close()
    first.stdout.close()
    c.sendall(b"through two")
    c.shutdown(socket.SHUT_WR)
    say(read(c), read(c), first.wait(), second.wait())


# ------------------------------------------------------------------------------------------------------------- messages

@case
def a_connection_in_a_message_to_a_child():
    a, b = socket.socketpair()

    def child():
        _, fds, _, _ = socket.recv_fds(b, 10, 1)
        echo_once(socket.socket(fileno=fds[0]))

    pid = fork(child)
    c, s = pair()
    socket.send_fds(a, [b"x"], [s.fileno()])
    s.close()
    say(ask(c), read(c), status(pid))


@case
def a_listener_in_a_message_to_a_child():
    a, b = socket.socketpair()

    def child():
        _, fds, _, _ = socket.recv_fds(b, 10, 1)
        serve(socket.socket(fileno=fds[0]), 1)

    pid = fork(child)
    l = listener()
    socket.send_fds(a, [b"x"], [l.fileno()])
    c = dial(l)
    say(ask(c))
    c.close()
    say(status(pid))


@case
def a_message_from_the_child():
    a, b = socket.socketpair()
    l = listener()

    def child():
        s, _ = l.accept()
        socket.send_fds(b, [b"x"], [s.fileno()])

    pid = fork(child)
    c = dial(l)
    _, fds, _, _ = socket.recv_fds(a, 10, 1)
    s = socket.socket(fileno=fds[0])
    s.sendall(b"hello")
    say(read(c), status(pid))


@case
def several_in_one_message():
    a, b = socket.socketpair()
    pairs = [pair() for _ in range(5)]
    socket.send_fds(a, [b"x"], [s.fileno() for _, s in pairs])
    for _, s in pairs:
        s.close()
    _, fds, _, _ = socket.recv_fds(b, 10, 5)
    for n, fd in enumerate(fds):
        socket.socket(fileno=fd).sendall(b"%d" % n)
    say([read(c) for c, _ in pairs])


# ------------------------------------------------------------------------------------------------- Python's own machinery

def worker(s):
    s.sendall(s.recv(100))


def multiprocess(how):
    c, s = pair()
    p = multiprocessing.get_context(how).Process(target=worker, args=(s,))
    p.start()
    say(ask(c))
    p.join()
    say(p.exitcode)


@case
def multiprocessing_by_fork():
    multiprocess("fork")


@case
def multiprocessing_by_spawn():
    multiprocess("spawn")


@case
def multiprocessing_by_a_fork_server():
    multiprocess("forkserver")


@case
def a_pool_of_processes():
    l = listener()

    with multiprocessing.get_context("fork").Pool(3) as pool:
        c = dial(l)
        s, _ = l.accept()
        say(sorted(pool.map(abs, [-3, 2, -1])))
        s.sendall(b"and the socket lives")
        say(read(c))


@case
def a_forking_server():
    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            self.wfile.write(self.rfile.readline().upper())

    class Server(socketserver.ForkingTCPServer):
        allow_reuse_address = True
        address_family = family.AF

    with Server((family.HOST, 0), Handler) as server:
        t = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        t.start()
        for word in (b"one\n", b"two\n", b"three\n"):
            c = socket.create_connection(family.name(server.server_address))
            say(ask(c, word), read(c))
        server.shutdown()
        t.join()


@case
def run_with_everything_captured():
    c, s = pair()
    say(subprocess.run(["echo", "said"], capture_output=True, text=True).stdout.strip())
    say(subprocess.check_output([sys.executable, "-c", "print(1 + 1)"], text=True).strip())
    c.sendall(b"x")
    say(read(s))


# ------------------------------------------------------------------------------------------------------- who and where

@case
def another_user():
    if os.geteuid():
        # Only root can.
        say(b"ping", 0)
        return say(b"ping", 0)
    c, s = pair()

    def child():
        os.setgid(65534)
        os.setuid(65534)
        echo_once(s)

    pid = fork(child)
    say(ask(c), status(pid))
    l = listener()

    def server():
        os.setuid(65534)
        serve(l, 1)

    pid = fork(server)
    d = dial(l)
    answer = ask(d)
    d.close()
    say(answer, status(pid))


@case
def all_descriptors_above_two_are_closed():
    c, s = pair()

    def child():
        os.closerange(3, 1 << 16)
        d, e = pair()
        e.sendall(b"new ones")
        return 0 if read(d) == b"new ones" else 1

    say(status(fork(child)))
    c.sendall(b"x")
    say(read(s))


@case
def a_number_is_reused_after_dup2():
    c, s = pair()
    d, e = pair()
    os.dup2(e.fileno(), s.fileno())
    say(read(c))
    d.sendall(b"under the other number")
    say(os.read(s.fileno(), 100))


@case
def more_processes_than_descriptors_of_one():
    c, s = pair()
    pids = [fork(lambda: (s.close(), time.sleep(0.05)) and 0) for _ in range(40)]
    s.close()
    say(read(c), sum(status(p) == 0 for p in pids))


def main():
    for run in CASES if len(sys.argv) == 1 else [c for c in CASES if c.__name__ in sys.argv[1:]]:
        print(run.__name__.replace("_", " "), flush=True)
        pid = os.fork()
        if pid == 0:
            signal.alarm(20)
            try:
                run()
            except BaseException as why:
                say("RAISES", type(why).__name__, why)
            sys.stdout.flush()
            os._exit(0)
        end = os.waitpid(pid, 0)[1]
        if end:
            say("ENDS", os.waitstatus_to_exitcode(end))
    print(len(CASES), "cases")


if __name__ == "__main__":
    main()
