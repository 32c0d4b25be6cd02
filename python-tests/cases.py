"""The programs that are compared with the kernel's TCP as oracle."""

from oracle import Case

BOTH = ("root", "net_raw")
ASYNCIO = "asyncio makes its listeners for IPv6 alone"
OWN = "it takes its families from its own tables"


def c(name, *args, **options):
    """A C program that holds both ends."""
    options.setdefault("privileges", BOTH)
    return Case(" ".join((name, *map(str, args))), alone=[f"c:{name}", *args], **options)


def py(name, *parts, **options):
    """A Python program that holds both ends, or some parts of it."""
    options.setdefault("privileges", BOTH)
    return Case(" ".join((name, *parts)), alone=[f"py:{name}.py", *parts], **options)


CASES = [
    c("calls"),
    c("nonblock"),
    c("epoll"),
    c("sets"),
    c("messages"),
    c("urgent"),
    Case("urgent pair", server=["c:urgent", "server", 7000], client=["c:urgent", "client", "{server}", 7000],
         privileges=BOTH),
    c("processes"),
    c("errors"),
    c("matrix"),
    c("ends"),
    c("waits"),
    c("signals"),
    c("signals", "cancel"),
    c("files"),
    c("doors"),
    c("entries"),
    c("options"),
    c("fastopen", sysctls={"net.ipv4.tcp_fastopen": 3}),
    c("fastopen", "off", sysctls={"net.ipv4.tcp_fastopen": 2}),
    c("zerocopy", sysctls={"net.ipv4.tcp_fastopen": 3}),
    c("zerocopy", "few", private={"net.core.optmem_max": 1407}),
    c("sigio"),
    c("handed", "static:tool"),
    c("files", "stdio"),
    c("files", "exec", timeout=6),
    c("addresses"),
    c("six", links=("scopes",), not_in={"4": OWN, "mapped": OWN}),
    c("deaths"),
    c("confined"),
    c("deaths", "killed", timeout=8),
    c("crowd"),
    c("crowd", 1500, slow=True, timeout=120),
    c("backlog"),
    c("binding"),
    c("threads"),
    c("bulk"),
    py("py_sockets", "basics", "files", "errors"),
    py("py_sockets", "spawns"),
    py("py_sockets", "processes"),
    py("py_sockets", "threads"),
    py("py_sockets", "executes", timeout=8),
    py("py_families"),
    py("py_loops", not_in={"mapped": ASYNCIO}),
    py("py_servers"),
    Case("bulk pair", server=["c:bulk", "server", 7000], client=["c:bulk", "client", "{server}", 7000, 64],
         privileges=BOTH),
    # A receive buffer that the default net.core.rmem_max allows to everybody; it cannot be set in a namespace.
    Case("bulk, small buffers", server=["c:bulk", "server", 7000, 212992],
         client=["c:bulk", "client", "{server}", 7000, 32, 212992], privileges=BOTH),
    Case("bulk, 2% loss", server=["c:bulk", "server", 7000], client=["c:bulk", "client", "{server}", 7000, 8],
         links=("loss",), privileges=BOTH, timeout=90),
    Case("bulk 1 GiB", server=["c:bulk", "server", 7000], client=["c:bulk", "client", "{server}", 7000, 1024],
         privileges=BOTH, timeout=300, slow=True),
    Case("bulk 100 MiB, 2% loss", server=["c:bulk", "server", 7000], client=["c:bulk", "client", "{server}", 7000, 100],
         links=("loss",), privileges=BOTH, timeout=600, slow=True),
    Case("bulk 100 MiB, 2% loss, small buffers", server=["c:bulk", "server", 7000, 212992],
         client=["c:bulk", "client", "{server}", 7000, 100, 212992], links=("loss",), timeout=600, slow=True),
]
