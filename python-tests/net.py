"""Network namespaces for tests: each fresh, empty, and gone when the test is."""

import os
import subprocess


class Namespace:
    """A network namespace, held by a process that waits for the end of its standard input."""

    def __init__(self):
        self.holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "echo up; exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        if self.holder.stdout.readline() != b"up\n":
            raise RuntimeError("unshare --net does not work here")
        self.pid = self.holder.pid
        self.call("ip", "link", "set", "lo", "up")

    def command(self, *words):
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net", "--", *map(str, words)]

    def call(self, *words):
        subprocess.run(self.command(*words), check=True)

    def start(self, *words, **options):
        options.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.Popen(self.command(*words), **options)

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

    def close(self):
        self.holder.stdin.close()
        self.holder.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def join(left, right, left_address, right_address, left_name="veth0", right_name="veth0"):
    """A veth pair between two namespaces."""
    subprocess.run(
        ["ip", "link", "add", left_name, "netns", str(left.pid), "type", "veth"]
        + ["peer", "name", right_name, "netns", str(right.pid)],
        check=True,
    )
    for namespace, name, address in ((left, left_name, left_address), (right, right_name, right_address)):
        namespace.call("ip", "address", "add", address, "dev", name)
        namespace.call("ip", "link", "set", name, "up")


class Line:
    """A server and a client with a cable between them."""

    server_address = "10.77.1.1"

    def __init__(self):
        self.server, self.client = Namespace(), Namespace()
        join(self.server, self.client, "10.77.1.1/24", "10.77.1.2/24")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.close()
        self.server.close()


class LossyLine(Line):
    """A server, a router that loses some of what it forwards, and a client.

    The loss is made in the router: the packet sockets of the two ends see frames before their own firewalls do. Segments
    are single ones, so that one packet in a hundred is meant where one in a hundred is said.
    """

    def __init__(self, loss_percent):
        self.server, self.router, self.client = Namespace(), Namespace(), Namespace()
        join(self.server, self.router, "10.77.1.1/24", "10.77.1.254/24", right_name="veth0")
        join(self.client, self.router, "10.77.2.2/24", "10.77.2.254/24", right_name="veth1")
        self.server.call("ip", "route", "add", "default", "via", "10.77.1.254")
        self.client.call("ip", "route", "add", "default", "via", "10.77.2.254")
        self.router.call("sysctl", "-qw", "net.ipv4.ip_forward=1")
        for namespace, names in ((self.server, ["veth0"]), (self.client, ["veth0"]), (self.router, ["veth0", "veth1"])):
            for name in names:
                namespace.call("ethtool", "-K", name, "tso", "off", "gso", "off", "gro", "off")
        rule = f"numgen random mod 1000 < {round(loss_percent * 10)} counter drop"
        self.router.call("nft", "add table ip loss; add chain ip loss forward { type filter hook forward priority 0; };"
                         f" add rule ip loss forward {rule}")

    def dropped(self):
        """Packets that the router has dropped."""
        listing = subprocess.run(self.router.command("nft", "list", "chain", "ip", "loss", "forward"),
                                 check=True, capture_output=True, text=True).stdout
        return int(listing.split("counter packets ")[1].split()[0])

    def __exit__(self, *_):
        self.client.close()
        self.router.close()
        self.server.close()


def become_root_of_a_namespace(argv):
    """Namespaces take root. Anybody else gets a user namespace in which he is, if the system allows it."""
    if os.geteuid() == 0:
        return
    if os.environ.get("TCPRELOAD_TEST_USERNS"):
        raise SystemExit("no network namespaces here: neither as root nor in a user namespace")
    os.environ["TCPRELOAD_TEST_USERNS"] = "1"
    os.execvp("unshare", ["unshare", "--user", "--map-root-user", *argv])
