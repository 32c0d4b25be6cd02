#!/usr/bin/env python3
"""The doors: every function of libc through which a program can come to its sockets, and a play for each (c-tests/entries.c).

    doors.py                    takes each door out of the library in its turn, and tells whether its play notices
    doors.py WORD ...           those whose name contains one of the words

A door is taken out of a copy of the library that was built: its symbol becomes an undefined one, and the program gets libc's own
function. The library's calls of its own symbols stay as they are. Taken out of those as well, it is missing in syscall(2). A
door that nothing notices is a hole in the tests: the end is 1 then.
"""

import os
import re
import struct
import sys
from pathlib import Path

import net
from harness import RELEASE, ROOT, Failed, Side, Test, check_stacks, compare, stage

# Each name that is to be looked at. Those that the library has not are in NOT_HOOKED, and say why.
DOORS = {
    "socket calls": """socket bind listen accept accept4 connect shutdown close getsockname getpeername getsockopt setsockopt sockatmark
        isfdtype socketpair""",
    "data": """read readv write writev recv recvfrom recvmsg recvmmsg send sendto sendmsg sendmmsg sendfile sendfile64 splice tee vmsplice
        preadv2 pwritev2 preadv64v2 pwritev64v2 pread pread64 pwrite pwrite64 preadv preadv64 pwritev pwritev64 copy_file_range""",
    "what compilers put in, reserved names": """__read_chk __recv_chk __recvfrom_chk __poll_chk __ppoll_chk __pread_chk __pread64_chk
        __read __write __close __connect __send __recv __socket __select __fcntl __dup2 __poll __sendmmsg""",
    "waiting": "select pselect poll ppoll epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2",
    "descriptors": """dup dup2 dup3 fcntl fcntl64 ioctl close_range closefrom open open64 openat openat64 __open_2 __open64_2 __openat_2
        __openat64_2 creat creat64 pipe pipe2 eventfd timerfd_create signalfd inotify_init inotify_init1 memfd_create
        fopen fopen64 opendir mkstemp mkstemp64 mkostemp mkostemp64 shm_open posix_openpt pidfd_open""",
    "processes": """fork __fork vfork _Fork forkpty daemon execl execle execlp execv execve execvp execvpe fexecve execveat posix_spawn
        posix_spawnp posix_spawn_file_actions_adddup2 posix_spawn_file_actions_destroy exit _exit _Exit quick_exit prctl seccomp setuid""",
    "raw": "syscall",
    "streams and names": """fdopen fileno fileno_unlocked dprintf __dprintf_chk vdprintf __vdprintf_chk fgets fprintf fflush fclose
        getaddrinfo""",
    "signals": "sigaction signal siginterrupt pthread_cancel",
}
A_SOCKET = "the descriptor is a socket, and the kernel says of it what it says of every socket"
NOT_HOOKED = {
    **dict.fromkeys(("isfdtype", "tee", "vmsplice", "copy_file_range"), A_SOCKET),
    **dict.fromkeys("pread pread64 pwrite pwrite64 preadv preadv64 pwritev pwritev64 __pread_chk __pread64_chk".split(),
                    A_SOCKET + ": it has no position"),
    **dict.fromkeys(("fgets", "fprintf", "fflush", "fclose"), "a stream of fdopen's comes back through the doors"),
    "getaddrinfo": "it asks by UDP, which is the kernel's",
    "exit": "it ends in the functions that a library has for its end",
    "seccomp": "libc has no such function; syscall(2) knows its number",
    "setuid": "what the engine needs was opened before",
}
# Which program plays a door: entries, if nothing else is said here.
PLAYS = {"prctl": ["c:confined"], "seccomp": ["c:confined"]}
# Several plays in one.
TOGETHER = {**{name: "pread" for name in NOT_HOOKED if "pread" in name or "pwrite" in name},
            **dict.fromkeys(("fgets", "fprintf", "fflush", "fclose"), "fdopen")}
# With a companion an end that the program does not tell is noticed all the same: these play where there is none, as the first
# process of a PID namespace.
ALONE = {"exit", "_exit", "_Exit", "quick_exit"}
# What syscall(2) has as well: c-tests/doors.c calls them by their numbers only.
BY_NUMBER = """accept4 bind close close_range connect dup dup2 dup3 epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 fcntl getpeername
    getsockname getsockopt ioctl listen poll ppoll preadv2 pselect pwritev2 read readv recvfrom recvmmsg recvmsg select sendfile
    sendmmsg sendmsg sendto setsockopt shutdown socket splice write writev pipe2 socketpair fork execve _exit""".split()


class Library:
    """The symbols of a shared object, and what refers to them. ELF-64, little-endian."""

    RELOCATIONS = {62: ((1, 6), 8), 183: ((257, 1025), 1027)}

    def __init__(self, path):
        self.bytes = bytearray(Path(path).read_bytes())
        read = lambda form, at: struct.unpack_from("<" + form, self.bytes, at)
        machine, (table,) = read("H", 18)[0], read("Q", 40)
        size, count = read("HH", 58)
        self.symbolic, self.relative = self.RELOCATIONS[machine]
        sections = [read("IIQQQQIIQQ", table + n * size) for n in range(count)]
        symbols = next(s for s in sections if s[1] == 11)
        names = sections[symbols[6]][4]
        self.dynamic = next((s[4], s[4] + s[5]) for s in sections if s[1] == 6)
        self.defined, self.references = {}, {}
        for n, at in enumerate(range(symbols[4], symbols[4] + symbols[5], 24)):
            name, info, _, section, value, _ = read("IBBHQQ", at)
            if section and info & 15 == 2:
                end = self.bytes.index(0, names + name)
                self.defined[self.bytes[names + name:end].decode()] = (n, at, value)
        for section in (s for s in sections if s[1] == 4):
            for at in range(section[4], section[4] + section[5], 24):
                _, info, addend = read("QQq", at)
                if info & 0xffffffff in self.symbolic:
                    self.references.setdefault(info >> 32, []).append((at, addend))

    def without_end(self):
        """The library's bytes, without the functions for its end: DT_FINI_ARRAYSZ is zero."""
        changed = bytearray(self.bytes)
        tag = next(at for at in range(*self.dynamic, 16) if struct.unpack_from("<q", changed, at) == (28,))
        struct.pack_into("<Q", changed, tag + 8, 0)
        return bytes(changed)

    def without(self, name, everywhere=False):
        """The library's bytes, as if it did not define `name`. `everywhere`: what it calls by that name is libc's, too."""
        changed = bytearray(self.bytes)
        number, at, value = self.defined[name]
        struct.pack_into("<HQQ", changed, at + 6, 0, 0, 0)
        if not everywhere:
            for place, addend in self.references.get(number, ()):
                struct.pack_into("<Qq", changed, place + 8, self.relative, value + addend)
        return bytes(changed)


def listed():
    return [name for names in DOORS.values() for name in names.split()]


def check_list():
    """Every door of the list is exported, or says why not; and nothing else is exported."""
    exported, names = set(Library(RELEASE / "libtcpreload.so").defined), set(listed())
    wrong = [f"{name}: not exported, and no reason" for name in sorted(names - exported - NOT_HOOKED.keys())]
    wrong += [f"{name}: exported all the same" for name in sorted(exported & NOT_HOOKED.keys())]
    wrong += [f"{name}: exported, and in no list" for name in sorted(exported - names)]
    wrong += [f"{name}: in no list" for name in sorted((NOT_HOOKED.keys() | set(BY_NUMBER)) - names)]
    text = (ROOT / "c-tests/entries.c").read_text()
    for name in sorted(names):
        if name not in PLAYS and not any(re.search(rf"^{macro}\({TOGETHER.get(name, name)}\b", text, re.M)
                                         for macro in ("ENTRY", "GIVES", "GIVES_TWO", "EXECUTES", "CONTROLS", "NUMBERS", "PRINTS")):
            wrong.append(f"{name}: no play in c-tests/entries.c")
    if wrong:
        raise Failed("\n".join(wrong))
    return f"{len(exported)} exported, {len(NOT_HOOKED)} not"


def no_io_uring():
    """io_uring would carry calls past every door."""
    script = "import ctypes; c = ctypes.CDLL(None, use_errno=True); print(c.syscall(425, 8, 0), ctypes.get_errno())"
    with net.Loop() as line:
        said = Side(line.server, [stage().python, "-c", script], True).finish(20)
    if said != "-1 38\n":
        raise Failed(said)


def play(words, shim, alone=False, library=None, timeout=30):
    """What a program prints; and the counters have told who served it."""
    environment = {"FAMILY": "4", **({"TCPRELOAD_LIB": library} if library else {})}
    pin = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc") if alone else ()
    with net.Loop() as line:
        side = Side(line.server, stage().command(words), shim, pin=pin, environment=environment)
        output = side.finish(timeout)
        yield output
        check_stacks(line.server, [(side, ("client", "server"))])


ORACLES = {}


def notice(words, alone, library):
    """What a play under that library says that it does not say on the kernel's TCP."""
    key = (*words, alone)
    if key not in ORACLES:
        ORACLES[key], = play(words, False, alone)
    try:
        for output in play(words, True, alone, library, 5 if library else 30):
            compare(ORACLES[key], output)
    except Failed as why:
        lines = [line for line in str(why).splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")]
        return "; ".join(lines[:3])[:100] or str(why).splitlines()[-1][:100]
    return None


SAMPLE = "socket accept recv sendmsg writev __read_chk epoll_ctl poll dup fork execve dprintf openat".split()


def mutants(wanted=lambda name: True, numbers=True):
    """Each door taken out: its name, how, and what noticed it."""
    library = Library(RELEASE / "libtcpreload.so")
    file = stage().file("libtcpreload.so")
    for name in listed():
        if not wanted(name):
            continue
        program = PLAYS.get(name, ["c:entries", TOGETHER.get(name, name)])
        ways = [(program, name in ALONE, False)]
        if not numbers:
            pass
        elif name == "_exit":
            ways.append((["c:entries", "SYS_exit_group"], True, True))
        elif name in BY_NUMBER:
            ways.append((["c:doors", "numbers"], False, True))
        for program, alone, everywhere in ways:
            how = " ".join(program).replace("c:", "") + (", alone" if alone else "")
            if why := notice(program, alone, None):
                raise Failed(f"{how}: differs with every door in its place: {why}")
            if name == "exit":
                changed = library.without_end()
            elif name in library.defined:
                changed = library.without(name, everywhere)
            else:
                yield name, how, "not hooked", NOT_HOOKED.get(name, "")
                continue
            Path(file).write_bytes(changed)
            os.chmod(file, 0o755)
            why = notice(program, alone, file)
            yield name, how, "red" if why else "ALIVE", why


def taken_out(wanted=lambda name: True, numbers=True, show=lambda line: None):
    count, alive = {}, []
    for name, how, word, why in mutants(wanted, numbers):
        show(f"{word:<11} {name:<32} {how:<45} {why}")
        count[word] = count.get(word, 0) + 1
        alive += [f"{name} ({how})"] if word == "ALIVE" else []
    if alive:
        raise Failed("nothing notices that these are gone: " + ", ".join(alive))
    return ", ".join(f"{n} {word}" for word, n in count.items())


def tests(full=False):
    return [
        Test("doors, the list", "tcpreload", check_list),
        Test("doors, io_uring", "tcpreload", no_io_uring),
        Test("doors, a sample taken out", "tcpreload", lambda: taken_out(SAMPLE.__contains__, numbers=False)),
        Test("doors, each taken out", "tcpreload", taken_out, slow=True),
    ]


if __name__ == "__main__":
    net.become_root_of_a_namespace([sys.executable, *sys.argv])
    try:
        print(check_list())
        words = sys.argv[1:]
        print(taken_out(lambda name: not words or any(word in name for word in words), show=lambda line: print(line, flush=True)))
    except Failed as failure:
        sys.exit(str(failure))
