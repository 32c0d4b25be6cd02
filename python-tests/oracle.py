"""Ordinary programs on the kernel's TCP and under tcpreload: they have to print the same.

A `Case` names a program that holds both ends (`alone`), or a server and a client, and where they run: over which links,
on which stacks, with which privileges. The kernel's own output is the oracle of all the others.
"""

import itertools
import threading

import net
from harness import Failed, Side, Skipped, Test, check_stacks, compare, known_to_differ, stage

# Which stack serves which end: server, client.
MODES = {
    "kernel-kernel": (False, False),
    "tcpreload-kernel": (True, False),
    "kernel-tcpreload": (False, True),
    "tcpreload-tcpreload": (True, True),
}


class Case:
    def __init__(self, name, alone=None, server=None, client=None, links=None, modes=tuple(MODES), privileges=("root",),
                 sysctls=None, timeout=40, port=None, stops=False, known=None, private=None,
                 opens=("server", "client"), slow=False, not_in=None):
        self.name, self.alone, self.server, self.client = name, alone, server, client
        self.links = links or (("lo",) if alone else ("lo", "veth"))
        self.modes, self.privileges, self.sysctls = modes, privileges, sysctls or {}
        self.timeout, self.port, self.stops, self.opens, self.slow = timeout, port, stops, opens, slow
        # Sysctls that the engine's own sockets could not live with: the kernel is told, or the program alone.
        self.private = private or {}
        # Families in which it makes no sense, and why.
        self.known, self.not_in = known, not_in or {}
        self.oracles, self.lock = {}, threading.Lock()

    def tests(self):
        for family, link, privilege, (mode, stacks) in itertools.product(net.FAMILIES, self.links, self.privileges, MODES.items()):
            if mode not in self.modes or (self.alone and stacks[0] != stacks[1]):
                continue
            # Privileges are nothing to the kernel's own TCP.
            if stacks == (False, False) and privilege != self.privileges[0]:
                continue
            name = ("kernel", "tcpreload")[stacks[0]] if self.alone else mode
            label = f"{name} {link}{net.FAMILIES[family]}" + ("" if privilege == "root" else f" {privilege}")
            yield Test(self.name, label, lambda s=stacks, l=link, p=privilege, f=family: self.check(l, p, s, f),
                       self.slow or not self.is_short(family, link, privilege, stacks))

    def is_short(self, family, link, privilege, stacks):
        """Whether the default run has it: all of IPv4, and of IPv6 one run; the kernel's, which it is compared
        with, is not told apart."""
        return family == "4" or (family == "6" and link == self.links[-1] and privilege == self.privileges[-1] and all(stacks))

    def oracle(self, link, family):
        """What the kernel's TCP makes the program print."""
        with self.lock:
            if (link, family) not in self.oracles:
                self.oracles[link, family] = self.run(link, "root", (False, False), family)
                for text in self.oracles[link, family][0]:
                    if "HANGS" in text or "\nEXIT" in "\n" + text:
                        raise Failed("on the kernel's own TCP:\n" + text)
            return self.oracles[link, family]

    def check(self, link, privilege, stacks, family):
        if family in self.not_in:
            raise Skipped(self.not_in[family])
        expected, note = self.oracle(link, family)
        if stacks == (False, False):
            return note
        return known_to_differ(self.known, lambda: self.run(link, privilege, stacks, family, expected)[1])

    def run(self, link, privilege, stacks, family, expected=None):
        """One run; its outputs, compared with what was expected, and a note about who served."""
        environment = {"FAMILY": family}
        with net.LINKS[link]() as line:
            for namespace in {line.server, line.client}:
                namespace.sysctl(self.sysctls if any(stacks) else self.sysctls | self.private)
            if any(stacks) and self.private:
                environment["TCPRELOAD_SYSCTL"] = ",".join(f"{name}={value}" for name, value in self.private.items())
            if self.alone:
                side = Side(line.server, stage().command(self.alone), stacks[0], privilege, environment=environment)
                sides = [(side, self.opens)]
                outputs = [side.finish(self.timeout)]
            else:
                command = lambda words: stage().command(words, server=line.address(family))
                server = Side(line.server, command(self.server), stacks[0], privilege, environment=environment)
                if self.port:
                    server.wait_for_port(self.port)
                else:
                    server.wait_for_line()
                client = Side(line.client, command(self.client), stacks[1], privilege, environment=environment)
                sides = [(server, ("server",)), (client, ("client",))]
                output = client.finish(self.timeout)
                if self.stops:
                    outputs = [output, server.stop()]
                else:
                    outputs = [output, server.finish(10)]
            if expected:
                for who, oracle, output in zip(("",) if self.alone else ("client: ", "server: "), expected, outputs):
                    compare(oracle, output, who)
            notes = []
            for namespace in dict.fromkeys((line.server, line.client)):
                here = [(side, roles) for side, roles in sides if side.namespace is namespace]
                notes.append(check_stacks(namespace, here))
            notes += self.loss(line, sides)
        return outputs, "; ".join(filter(None, notes))

    def loss(self, line, sides):
        """Where packets were to be lost, some were, and were sent again."""
        if line.dropped() is None:
            return []
        dropped, again = line.dropped(), {}
        for side, _ in sides:
            source = side.counters() if side.shim else side.namespace.kernel_counters()
            again["tcpreload" if side.shim else "kernel"] = source.get("TcpRetransSegs", 0)
        if not dropped:
            raise Failed("the router has dropped nothing")
        if not any(again.values()):
            raise Failed(f"the router has dropped {dropped} packets, and nobody has sent one again")
        return [f"router dropped {dropped}", "retransmitted " + ", ".join(f"{n} by {who}" for who, n in again.items())]
