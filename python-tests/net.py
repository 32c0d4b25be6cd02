"""Network namespaces for tests: each fresh, empty, and gone when the test is.

They have no names: a namespace lives as long as the process that holds it, and that one ends with the test's standard
input, also when the test is killed. So nothing is ever left behind that would have to be swept.
"""

import os
import signal
import socket
import subprocess
import threading
import time


class Namespace:
    """A network namespace, held by a process that waits for the end of its standard input."""

    def __init__(self):
        self.holder = subprocess.Popen(
            # No duplicate address detection: link-local addresses, with which routers ask for neighbours, would not be there for
            # a second or two.
            ["unshare", "--net", "sh", "-c", "echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad; echo up; exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        if self.holder.stdout.readline() != b"up\n":
            raise RuntimeError("unshare --net does not work here")
        self.pid = self.holder.pid
        self.identity = os.readlink(f"/proc/{self.pid}/ns/net")
        self.call("ip", "link", "set", "lo", "up")

    def command(self, *words):
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net", "--", *map(str, words)]

    def call(self, *words, **options):
        subprocess.run(self.command(*words), check=True, **options)

    def output(self, *words, timeout=60):
        """What a command prints, standard error as well."""
        done = subprocess.run(self.command(*words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=timeout)
        return done.stdout

    def start(self, *words, **options):
        options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("start_new_session", True)
        return subprocess.Popen(self.command(*words), **options)

    def sysctl(self, settings):
        for name, value in settings.items():
            self.call("sysctl", "-qw", f"{name}={value}")

    def kernel_counters(self):
        """What the kernel's own TCP has counted in this namespace, under the names of nstat(8)."""
        counters = {}
        for table in ("snmp", "netstat"):
            with open(f"/proc/{self.pid}/net/{table}") as lines:
                for names, values in zip(lines, lines):
                    group, names = names.split(":")
                    values = values.split(":")[1]
                    for name, value in zip(names.split(), values.split()):
                        counters[group + name] = int(value)
        return counters

    def listens(self, port):
        """Whether a socket listens on that port: a listener of the kernel's or a guard of ours."""
        for table in ("tcp", "tcp6"):
            with open(f"/proc/{self.pid}/net/{table}") as lines:
                next(lines)
                for line in lines:
                    _, local, _, state = line.split()[:4]
                    if state == "0A" and int(local.rsplit(":", 1)[1], 16) == port:
                        return True
        return False

    def inhabitants(self):
        """Processes in this namespace besides its holder."""
        found = []
        for name in os.listdir("/proc"):
            if name.isdigit() and int(name) != self.pid:
                try:
                    if os.readlink(f"/proc/{name}/ns/net") == self.identity:
                        found.append(int(name))
                except OSError:
                    pass
        return found

    def close(self):
        """Ends whatever the test has left in the namespace, and the namespace."""
        for how in (signal.SIGTERM, signal.SIGKILL):
            left = self.inhabitants()
            for pid in left:
                try:
                    os.kill(pid, how)
                except ProcessLookupError:
                    pass
            if not left:
                break
            time.sleep(0.05)
        self.holder.stdin.close()
        self.holder.stdout.close()
        self.holder.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def join(left, right, left_addresses, right_addresses, left_name="veth0", right_name="veth0"):
    """A veth pair between two namespaces."""
    subprocess.run(
        ["ip", "link", "add", left_name, "netns", str(left.pid), "type", "veth"]
        + ["peer", "name", right_name, "netns", str(right.pid)],
        check=True,
    )
    for namespace, name, addresses in ((left, left_name, left_addresses), (right, right_name, right_addresses)):
        for address in addresses:
            namespace.call("ip", "address", "add", address, "dev", name)
        namespace.call("ip", "link", "set", name, "up")


class Loop:
    """A server and a client on the same host, by its loopback interface."""

    name = "lo"
    server_address, server_address6 = "127.0.0.1", "::1"
    # What stands for 127.0.0.2 and the like: IPv6's loopback address is one.
    MORE_ADDRESSES = ("fd77:7f::2", "fd77:7f::9", "fd77:7f::102")

    def __init__(self):
        self.server = self.client = Namespace()
        self.server.call("ip", "-batch", "-", text=True, input="".join(
            f"address add {address}/128 dev lo\n" for address in self.MORE_ADDRESSES))

    def address(self, family):
        """The server's in one of FAMILIES."""
        return {"4": self.server_address, "6": self.server_address6, "mapped": "::ffff:" + self.server_address}[family]

    def namespaces(self):
        return [self.server]

    def dropped(self):
        return None

    def close(self):
        for namespace in self.namespaces():
            namespace.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Line(Loop):
    """A server and a client with a cable between them."""

    name = "veth"
    server_address, server_address6 = "10.77.1.1", "fd77:1::1"
    client_address, client_address6 = "10.77.1.2", "fd77:1::2"
    af = socket.AF_INET

    def __init__(self):
        self.server, self.client = Namespace(), Namespace()
        if family() == "6":
            self.af, self.server_address, self.client_address = socket.AF_INET6, self.server_address6, self.client_address6
        join(self.server, self.client, ["10.77.1.1/24", "fd77:1::1/64"], ["10.77.1.2/24", "fd77:1::2/64"])

    def namespaces(self):
        return [self.client, self.server]


class Scopes(Loop):
    """A host with an interface six0 of several addresses, for c-tests/six.c."""

    name = "scopes"
    ADDRESSES = ("fd77:6::1/64", "fd77:6::2/64", "fd77:6::dead/64 preferred_lft 0", "fd77:66::1/64", "fe80::6/64", "10.66.6.1/24")

    def __init__(self):
        super().__init__()
        self.server.call("ip", "-batch", "-", text=True, input="\n".join((
            "link add six0 type veth peer name six1", "link set six1 up", "link set six0 addrgenmode none up",
            *(f"address add {address} dev six0" for address in self.ADDRESSES))) + "\n")


class LossyLine(Line):
    """A server, a router that loses some of what it forwards, and a client.

    The loss is made in the router: the packet sockets of the two ends see frames before their own firewalls do. Segments
    are single ones, so that one packet in a hundred is meant where one in a hundred is said.
    """

    name = "loss"

    def __init__(self, loss_percent=2):
        self.server, self.router, self.client = Namespace(), Namespace(), Namespace()
        join(self.server, self.router, ["10.77.1.1/24", "fd77:1::1/64"], ["10.77.1.254/24", "fd77:1::fe/64"])
        join(self.client, self.router, ["10.77.2.2/24", "fd77:2::2/64"], ["10.77.2.254/24", "fd77:2::fe/64"], right_name="veth1")
        for namespace, net in ((self.server, 1), (self.client, 2)):
            namespace.call("ip", "route", "add", "default", "via", f"10.77.{net}.254")
            namespace.call("ip", "-6", "route", "add", "default", "via", f"fd77:{net}::fe")
        self.router.sysctl({"net.ipv4.ip_forward": 1, "net.ipv6.conf.all.forwarding": 1})
        for namespace, names in ((self.server, ["veth0"]), (self.client, ["veth0"]), (self.router, ["veth0", "veth1"])):
            for name in names:
                namespace.call("ethtool", "-K", name, "tso", "off", "gso", "off", "gro", "off")
        rule = f"meta l4proto tcp numgen random mod 1000 < {round(loss_percent * 10)} counter drop"
        self.router.call("nft", "add table inet loss; add chain inet loss forward { type filter hook forward priority 0; };"
                         f" add rule inet loss forward {rule}")

    def namespaces(self):
        return [self.client, self.router, self.server]

    def dropped(self):
        """Packets that the router has dropped."""
        listing = self.router.output("nft", "list", "chain", "inet", "loss", "forward")
        return int(listing.split("counter packets ")[1].split()[0])


class RefusingLine(Line):
    """A server, a router, and a client with a wide cable; the server's takes packets of 1,400 bytes only. The router answers
    for some ports of the server, each with an ICMP error of its own: see REFUSALS.
    """

    name = "refusing"
    NARROW = 1400
    REFUSALS = {7001: ("port-unreachable", "port-unreachable"), 7002: ("host-unreachable", "addr-unreachable"),
                7003: ("net-unreachable", "no-route"), 7004: ("admin-prohibited", "admin-prohibited"),
                7005: ("prot-unreachable", "policy-fail"), 7006: ("host-prohibited", "reject-route")}

    def __init__(self):
        self.server, self.router, self.client = Namespace(), Namespace(), Namespace()
        join(self.server, self.router, ["10.77.1.1/24", "fd77:1::1/64"], ["10.77.1.254/24", "fd77:1::fe/64"])
        join(self.client, self.router, ["10.77.2.2/24", "fd77:2::2/64"], ["10.77.2.254/24", "fd77:2::fe/64"], right_name="veth1")
        for namespace, net in ((self.server, 1), (self.client, 2)):
            namespace.call("ip", "route", "add", "default", "via", f"10.77.{net}.254")
            namespace.call("ip", "-6", "route", "add", "default", "via", f"fd77:{net}::fe")
        # ICMP of the router's is limited, for each destination and over all.
        self.router.sysctl({"net.ipv4.ip_forward": 1, "net.ipv6.conf.all.forwarding": 1, "net.ipv4.icmp_ratelimit": 0,
                            "net.ipv6.icmp.ratelimit": 0})
        self.client.call("ip", "link", "set", "veth0", "mtu", "9000")
        self.router.call("ip", "link", "set", "veth1", "mtu", "9000")
        self.router.call("ip", "link", "set", "veth0", "mtu", str(self.NARROW))
        for rule in ("table inet refuse", "chain inet refuse forward { type filter hook forward priority 0; }"):
            self.router.call("nft", f"add {rule}")
        for port, (v4, v6) in self.REFUSALS.items():
            for family, name, code in (("ipv4", "icmp", v4), ("ipv6", "icmpv6", v6)):
                self.router.call("nft", f"add rule inet refuse forward meta nfproto {family} tcp dport {port} "
                                        f"reject with {name} type {code}")

    def namespaces(self):
        return [self.client, self.router, self.server]


_current = threading.local()


def family():
    """In which family the test that this thread runs is played."""
    return getattr(_current, "family", "4")


def in_family(name, run):
    """Runs a test in one of FAMILIES: addresses of lines are that family's, and programs learn it by FAMILY."""
    _current.family = name
    try:
        return run()
    finally:
        _current.family = "4"


# The families that programs are run in: the variable FAMILY of c-tests/t.h and python-tests/family.py, and its name.
FAMILIES = {"4": "", "6": " IPv6", "mapped": " IPv4-mapped"}
LINKS = {link.name: link for link in (Loop, Scopes, Line, LossyLine, RefusingLine)}


def become_root_of_a_namespace(argv):
    """Namespaces take root. Anybody else gets a user namespace in which he is, if the system allows it."""
    if os.geteuid() == 0:
        return
    if os.environ.get("TCPRELOAD_TEST_USERNS"):
        raise SystemExit("no network namespaces here: neither as root nor in a user namespace")
    os.environ["TCPRELOAD_TEST_USERNS"] = "1"
    os.execvp("unshare", ["unshare", "--user", "--map-root-user", *argv])
