#!/usr/bin/env python3
"""The demonstration: server.py on the kernel's TCP and under tcpreload, each visited by curl and by wrk, side by side.

Server and client are in network namespaces of their own with a cable between them, so that nothing else on the machine is
touched or counted. The exit status says whether tcpreload has served as well as the kernel: the same answer, no errors that
the kernel has not, and not one connection opened by the kernel.

Requests per second are noisy where threads contend for an interpreter: the two are visited in turns, and the medians count.

    demo.py [SECONDS [root|net_raw]]

net_raw: the server runs as an ordinary user with CAP_NET_RAW only.
"""

import json
import re
import statistics
import subprocess
import sys

import net
from harness import RELEASE, Side, stage

PORT = 8080
CONNECTIONS = 128
ROUNDS = 3
KERNEL_TITLE = "on the kernel's TCP"
KERNEL_OPENS, OWN_OPENS = "kernel's TcpPassiveOpens", "tcpreload's TcpPassiveOpens"


def wrk(line, seconds):
    text = line.client.output("wrk", "-t2", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency",
                              f"http://{line.server_address}:{PORT}/", timeout=seconds + 30)
    find = lambda pattern: (re.search(pattern, text) or [None, "-"])[1]
    errors = re.search(r"Socket errors: (.*)", text)
    other = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    return {
        "requests/s": find(r"Requests/sec:\s+(\S+)"),
        "latency, median": find(r"\n\s+50%\s+(\S+)"),
        "latency, 99%": find(r"\n\s+99%\s+(\S+)"),
        "errors": "; ".join(filter(None, [errors and errors[1], other and f"{other[1]} bad answers"])) or "none",
    }


def visit(shim, seconds, privilege):
    """Starts the server, visits it, stops it; what was seen."""
    with net.Line() as line:
        server = Side(line.server, stage().command(["py:server.py", PORT]), shim, privilege)
        server.wait_for_line()
        seen = {"curl": line.client.output("curl", "-sS", "--max-time", "10",
                                           f"http://{line.server_address}:{PORT}/").strip()}
        seen |= wrk(line, seconds)
        kernel = line.server.kernel_counters()
        own = server.counters()
        seen[KERNEL_OPENS] = f"+{kernel['TcpPassiveOpens']}"
        seen["kernel's TcpInSegs"] = f"+{kernel['TcpInSegs']}"
        seen[OWN_OPENS] = f"+{own['TcpPassiveOpens']}" if own else "-"
        seen["tcpreload's TcpInSegs"] = f"+{own['TcpInSegs']}" if own else "-"
        listing = ("ss -ltn", line.server.output("ss", "-ltn"))
        if shim:
            done = subprocess.run([stage().tcpreload, "ss", "-l", "-p", "--pid", str(server.process.pid)],
                                  capture_output=True, text=True)
            listing = ("tcpreload ss -lp", done.stdout + done.stderr)
        server.stop()
        return seen, listing


def together(rounds):
    """The rounds of one stack as one: the median where there is a rate or a latency, sums where something is counted."""
    whole = dict(rounds[-1])
    rates = [float(seen["requests/s"]) for seen in rounds if seen["requests/s"] != "-"]
    middle = statistics.median_low(rates) if rates else None
    for seen in rounds:
        if middle is not None and seen["requests/s"] != "-" and float(seen["requests/s"]) == middle:
            whole |= {name: seen[name] for name in ("requests/s", "latency, median", "latency, 99%")}
    whole["errors"] = next((seen["errors"] for seen in rounds if seen["errors"] != "none"), "none")
    whole["curl"] = next((seen["curl"] for seen in rounds if seen["curl"] != rounds[0]["curl"]), rounds[0]["curl"])
    for name in (name for name, value in whole.items() if str(value).startswith("+")):
        whole[name] = f"+{sum(int(seen[name]) for seen in rounds)}"
    return whole


def ratio(kernel, own):
    """The median of the rounds' ratios, each of two runs one after the other; None where a run gave none."""
    try:
        return statistics.median(float(o["requests/s"]) / float(k["requests/s"]) for k, o in zip(kernel, own))
    except (ValueError, ZeroDivisionError):
        return None


def verdict(kernel, own):
    """What is wrong with the second run, sentence by sentence."""
    wrong = []
    if own["curl"] != kernel["curl"]:
        wrong.append(f"curl got {own['curl']!r}, and {kernel['curl']!r} from the kernel's TCP.")
    if own["errors"] != "none" and kernel["errors"] == "none":
        wrong.append(f"wrk saw errors: {own['errors']}.")
    if own["requests/s"] in ("-", "0.00"):
        wrong.append("wrk got no answers.")
    if own[KERNEL_OPENS] != "+0":
        wrong.append(f"The kernel has accepted connections: {own[KERNEL_OPENS]}.")
    if own[OWN_OPENS] in ("-", "+0"):
        wrong.append("tcpreload has accepted no connection.")
    return wrong


def main(seconds=5, privilege="root"):
    net.become_root_of_a_namespace([sys.executable, *sys.argv])
    if not (RELEASE / "tcpreload").exists():
        raise SystemExit("target/release/tcpreload is missing: make build")
    print(f"python-tests/server.py, unmodified, port {PORT}, under wrk -t2 -c{CONNECTIONS} -d{seconds}s, "
          f"{ROUNDS} times each in turns\n", flush=True)
    kernel_rounds, own_rounds = [], []
    for _ in range(ROUNDS):
        seen, kernel_listing = visit(False, seconds, privilege)
        kernel_rounds.append(seen)
        seen, own_listing = visit(True, seconds, privilege)
        own_rounds.append(seen)
    kernel, own = together(kernel_rounds), together(own_rounds)
    print(f"{'':<30}{KERNEL_TITLE:<24}under tcpreload")
    for name in kernel:
        print(f"{name:<30}{kernel[name]:<24}{own[name]}")
    if (times := ratio(kernel_rounds, own_rounds)) is not None:
        print(f"{'requests/s, ratio':<54}{times:.2f}")
    for command, text in (kernel_listing, own_listing):
        print(f"\n$ {command}\n" + "\n".join(text.strip().splitlines()[:4]))
    wrong = verdict(kernel, own)
    if wrong:
        print("\nSomething is wrong. " + " ".join(wrong))
        return 1
    print(f"\nThe first were served by the kernel: it opened {kernel[KERNEL_OPENS][1:]} connections. "
          f"The second were served by tcpreload: it opened {own[OWN_OPENS][1:]}, and the kernel none.")
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:2]), *sys.argv[2:3]))
