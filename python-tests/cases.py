"""The programs that are compared with the kernel's TCP as oracle."""

from oracle import Case

BOTH = ("root", "net_raw")


def c(name, *args, **options):
    """A C program that holds both ends."""
    options.setdefault("privileges", BOTH)
    return Case(name, alone=[f"c:{name}", *args], **options)


def py(name, **options):
    """A Python program that holds both ends."""
    options.setdefault("privileges", BOTH)
    return Case(name, alone=[f"py:{name}.py"], **options)


CASES = [
    c("calls"),
    c("nonblock"),
    c("epoll"),
    c("messages"),
    c("processes"),
    c("backlog"),
    c("binding"),
    c("threads"),
    c("bulk"),
    Case("bulk pair", server=["c:bulk", "server", 7000], client=["c:bulk", "client", "{server}", 7000, 64],
         privileges=BOTH),
]
