"""Segment scripts over a tun device: the kernel's TCP and tcpreload's give the same answers to the same segments."""

import net
import play
from harness import Failed, Test, compare, stage


# Of one script. Tail loss probes come when they come.
SYSCTLS = {"too_big": {"net.ipv4.tcp_early_retrans": 0}}


class Script:
    def __init__(self, name, family):
        self.name, self.family, self.expected = name, family, None

    def run(self, shim):
        with net.Namespace() as namespace:
            # Challenge ACKs and answers in TIME-WAIT are limited in number; here each one counts.
            # The key makes the cookies of Fast Open the same in each run, and on both stacks.
            namespace.sysctl({"net.ipv4.tcp_invalid_ratelimit": 0, "net.ipv4.tcp_fastopen": 3,
                              "net.ipv4.tcp_fastopen_blackhole_timeout_sec": 1,
                              "net.ipv4.tcp_fastopen_key": "03020100-07060504-0b0a0908-0f0e0d0c",
                              **SYSCTLS.get(self.name, {})})
            prefix = [stage().tcpreload, "--strict"] if shim else []
            command = ["env", f"FAMILY={self.family}", *stage().command(["py:play.py", self.name])]
            output = namespace.output(*command, *prefix, *stage().command(["py:actor.py"]))
            opens = namespace.kernel_counters()["TcpPassiveOpens"]
        if "Traceback" in output or "come up" in output:
            raise Failed(output)
        if shim and opens:
            raise Failed(f"the kernel's TCP has accepted {opens} connections")
        return output

    def check(self, shim):
        if self.expected is None:
            self.expected = self.run(False)
        if shim:
            compare(self.expected, self.run(True))
        lines = self.expected.splitlines()
        return f"{sum(line.startswith('in') for line in lines)} segments in, {sum(line.startswith('out') for line in lines)} answers"


def tests(full=False):
    for family in ("4", "6"):
        for name in play.SCRIPTS:
            script = Script(name, family)
            # Those of Fast Open wait long.
            slow = family == "6" and name.startswith("fast_open")
            for mode, shim in (("kernel", False), ("tcpreload", True)):
                yield Test(f"segments {name}", mode + net.FAMILIES[family], lambda s=script, t=shim: s.check(t), slow)
