"""CPython's own tests of its network modules, each natively and then under tcpreload: no test may end otherwise.

They come with Python, or in a package of their own, libpython3.N-testsuite. What this kernel or machine has not, Python's tests skip; under
tcpreload they have to skip the same. The kernel's counters tell that none of the sockets was the kernel's.
"""

import subprocess
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import net
from harness import Differs, Failed, Side, Skipped, Test, check_stacks, stage

# With whether it is in the short run, and the ways in which its sockets are opened.
BOTH = ("client", "server")
MODULES = {
    "test_socket": (False, BOTH), "test_socketserver": (False, BOTH), "test_ftplib": (True, BOTH), "test_poplib": (False, BOTH),
    "test_smtplib": (False, BOTH), "test_httpservers": (True, BOTH), "test_urllib2_localnet": (False, BOTH),
    "test_asyncore": (True, BOTH), "test_httplib": (False, BOTH), "test_xmlrpc": (False, BOTH), "test_ssl": (False, BOTH),
    "test_asyncio": (False, BOTH), "test_selectors": (False, ()), "test_epoll": (True, BOTH), "test_telnetlib": (False, BOTH),
    "test_imaplib": (False, BOTH), "test_nntplib": (False, BOTH), "test_docxmlrpc": (False, BOTH), "test_logging": (False, BOTH),
    "test_smtpd": (False, ()), "test_asynchat": (False, BOTH), "test_os": (False, BOTH), "test_timeout": (False, ()),
    "test_signal": (False, ()), "test_select": (False, ()), "test_poll": (False, ()),
}

# They open as many descriptors as the hard limit lets them, less 32: some 45 are the library's.
KNOWN = ("test_above_fd_setsize",)


def python_with(module):
    """A Python that has its tests: they may be a package of their own."""
    for candidate in (stage().python, "/usr/bin/python3"):
        if subprocess.run([candidate, "-c", f"import test.{module}"], capture_output=True, cwd="/").returncode == 0:
            return candidate
    raise Skipped(f"no Python here has test.{module} (package libpython3.N-testsuite)")


def results(python, module, shim):
    """How each test of the module ended, and a note on who served."""
    _, roles = MODULES[module]
    with net.Line() as line, tempfile.TemporaryDirectory(prefix="d", dir=stage().scratch) as directory:
        report = Path(directory, "report.xml")
        words = [python, "-m", "test", "-u", "network", "-i", "*VSOCK*", "--timeout", "120", "--junit-xml", report, module]
        side = Side(line.server, list(map(str, words)), shim, log=stage().file("log"), environment={"TMPDIR": directory})
        text = side.finish(600)
        # Failures are told by the comparison, a hang or a crash here.
        if not report.exists():
            raise Failed(text[-3000:])
        note = check_stacks(line.server, [(side, roles)])
        moved = {name: line.server.kernel_counters()[name] for name in ("TcpActiveOpens", "TcpPassiveOpens")}
        if shim and any(moved.values()):
            raise Failed(f"the kernel has served: {moved}")
        found = {}
        for case in ElementTree.parse(report).iter("testcase"):
            ends = [part.tag for part in case if part.tag in ("failure", "error", "skipped")]
            found[case.get("name")] = ends[0] if ends else "ok"
        if not found:
            raise Failed("no test has run: " + text[-3000:])
        return found, note, text


def compare(module):
    python = python_with(module)
    native, *_ = results(python, module, False)
    ours, note, text = results(python, module, True)
    differ = {name: (native.get(name), ours.get(name))
              for name in sorted({*native, *ours}) if native.get(name) != ours.get(name)}
    known = [name for name, ends in differ.items() if ends == ("ok", "skipped") and name.endswith(KNOWN)]
    if len(known) < len(differ):
        raise Differs("\n".join(f"{name}: natively {a}, under tcpreload {b}" for name, (a, b) in differ.items()) + "\n"
                      + text[-3000:])
    count = list(ours.values()).count
    but = f" but for {len(known)} (too few descriptors)" if known else ""
    return f"{len(ours)} tests, {count('ok')} passed, {count('skipped')} skipped, as natively{but}; {note}"


def tests(full=False):
    for module, (short, _) in MODULES.items():
        yield Test(f"CPython {module}", "tcpreload-tcpreload", lambda module=module: compare(module), not short)
