#!/usr/bin/env python3
"""The demonstration: server.py on the kernel's TCP and under tcpreload, each visited by curl and by wrk, side by side."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
TCPRELOAD = HERE.parent / "target" / "release" / "tcpreload"
PORT = 8080
SECONDS = 5
CONNECTIONS = 128


def kernel_passive_opens():
    lines = Path("/proc/net/snmp").read_text().splitlines()
    names, values = (line.split() for line in lines if line.startswith("Tcp:"))
    return int(values[names.index("PassiveOpens")])


def output_of(*words):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    return (done.stdout + done.stderr).strip()


def wrk():
    text = output_of("wrk", "-t2", f"-c{CONNECTIONS}", f"-d{SECONDS}s", "--latency", f"http://127.0.0.1:{PORT}/")
    find = lambda pattern: (re.search(pattern, text) or [None, "-"])[1]
    errors = re.search(r"Socket errors: (.*)", text)
    other = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    return {
        "requests/s": find(r"Requests/sec:\s+(\S+)"),
        "latency, median": find(r"50%\s+(\S+)"),
        "latency, 99%": find(r"99%\s+(\S+)"),
        "errors": "; ".join(filter(None, [errors and errors[1], other and f"{other[1]} bad answers"])) or "none",
    }


def visit(prefix):
    """Starts the server, visits it, stops it; what was seen."""
    before = kernel_passive_opens()
    server = subprocess.Popen(
        [*prefix, sys.executable, HERE / "server.py", str(PORT)], stdout=subprocess.PIPE, text=True
    )
    try:
        if not server.stdout.readline():
            raise SystemExit(f"the server did not start (is port {PORT} free?)")
        seen = {"curl": output_of("curl", "-sS", "--max-time", "10", f"http://127.0.0.1:{PORT}/")}
        seen |= wrk()
        seen["kernel's TcpPassiveOpens"] = f"+{kernel_passive_opens() - before}"
        if prefix:
            seen |= look_into(server.pid)
        return seen
    finally:
        server.terminate()
        server.wait()


def look_into(pid):
    counters = json.loads(output_of(TCPRELOAD, "nstat", "--json", "--pid", pid))
    listeners = output_of(TCPRELOAD, "ss", "-l", "-p", "--pid", pid)
    return {
        "tcpreload's TcpPassiveOpens": f"+{counters['TcpPassiveOpens']}",
        "tcpreload's TcpRetransSegs": str(counters["TcpRetransSegs"]),
        "listeners": listeners,
    }


def main():
    print(f"python-tests/server.py, unmodified, under wrk -t2 -c{CONNECTIONS} -d{SECONDS}s\n", flush=True)
    columns = [("on the kernel's TCP", visit([]))]
    time.sleep(0.5)
    columns.append(("under tcpreload", visit([TCPRELOAD, "--strict"])))
    listeners = columns[1][1].pop("listeners")
    rows = list(dict.fromkeys(name for _, seen in columns for name in seen))
    print(f"{'':<28}" + "".join(f"{title:<24}" for title, _ in columns))
    for name in rows:
        print(f"{name:<28}" + "".join(f"{seen.get(name, '-'):<24}" for _, seen in columns))
    print(f"\n$ tcpreload ss -lp\n{listeners}")
    kernel, own = (seen for _, seen in columns)
    good = own["errors"] == "none" and own["curl"] == kernel["curl"] and own["kernel's TcpPassiveOpens"] == "+0"
    print("\n" + ("tcpreload served every connection of the second run." if good else "Something is wrong: see above."))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
