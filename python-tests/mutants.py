#!/usr/bin/env python3
"""Breaks the path of bind, listen, accept and connect on purpose, one line at a time, in a copy of the tree, and tells whether
the tests notice.

    mutants.py [WORD ...]       those whose name contains one of the words; all by default

Each mutant is built and played against the programs that look at this path. One that they let pass is a hole in them: the end
is 1 then.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TESTS = ("matrix [tcpreload lo]", "errors [tcpreload lo]", "calls [tcpreload lo]", "binding [tcpreload lo]", "backlog [tcpreload lo]",
         "nonblock [tcpreload lo]")
LISTEN, SOCKETS, READY = (f"engine/src/stack/{name}.rs" for name in ("listen", "sockets", "ready"))
PORTS, CALLS = "engine/src/stack/ports.rs", "shim/src/calls/socket.rs"
# Name: file, what stands there, what stands there instead.
MUTANTS = {
    "the accept queue holds one less": (LISTEN, "if s.accept_queue.len() as u32 > s.backlog {",
                                        "if s.accept_queue.len() as u32 >= s.backlog {"),
    "a negative backlog is zero": (LISTEN, "let backlog = (backlog as u32).min(", "let backlog = (backlog.max(0) as u32).min("),
    "a connection may listen": (CALLS, "        SocketPhase::Unconnected => {}\n        _ => return Err(Errno(libc::EINVAL)),",
                                "        SocketPhase::Unconnected => {}\n        _ => return Ok(0),"),
    "listen keeps TCP_QUICKACK off": (LISTEN, "        s.options.tcp.quickack_off = false;\n", ""),
    "accept of what does not listen waits": (SOCKETS, """        if s.phase != SocketPhase::Listening {
            return Err(Error::Invalid);
        }
        let conn = s.accept_queue""", """        if s.phase != SocketPhase::Listening {
            return Err(Error::WouldBlock);
        }
        let conn = s.accept_queue"""),
    "a connection has its listener's TCP_DEFER_ACCEPT": (SOCKETS, "        s.options.defer_accept_s = 0;\n", ""),
    "the error of an attempt is told twice": (SOCKETS, """                s.error = 0;
                self.disconnect(Instant::ZERO, id);
                Err(error)""", "                Err(error)"),
    "connect of a connection: EALREADY": (CALLS, "        _ => Err(Errno(libc::EISCONN)),\n    };\n    let waiting",
                                          "        _ => Err(Errno(libc::EALREADY)),\n    };\n    let waiting"),
    "connect looks at the address first": (CALLS, "(phase == SocketPhase::Unconnected || !could_be_copied)", "true"),
    "shutdown of what was never connected": (SOCKETS, "shut |= how.bits();\n                return Err(Error::NotConnected);",
                                             "shut |= how.bits();\n                return Ok(());"),
    "SO_REUSEADDR of the other does not count": (PORTS, "(s.options.reuse_addr && p.strict == 0)", "s.options.reuse_addr"),
    "a listener is never readable": (READY, "return if s.accept_queue.is_empty() { Ready::NONE } else { Ready::IN };",
                                             "return Ready::NONE;"),
    "a fresh socket has not hung up": (READY, "return Ready::OUT | Ready::HUP | err | shut;", "return Ready::OUT | err | shut;"),
}


def main(words):
    environment = {**os.environ, "CARGO_PROFILE_RELEASE_LTO": "off", "CARGO_PROFILE_RELEASE_CODEGEN_UNITS": "16",
                   "CARGO_PROFILE_RELEASE_OPT_LEVEL": "1", "CARGO_PROFILE_RELEASE_INCREMENTAL": "true"}
    alive = []
    with tempfile.TemporaryDirectory() as directory:
        tree = Path(directory, "tree")
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns("target", ".git", "__pycache__"))
        build = lambda: subprocess.run(["cargo", "build", "--release", "--locked", "--workspace"], cwd=tree, env=environment,
                                       capture_output=True, text=True)
        play = lambda: subprocess.run([sys.executable, tree / "python-tests/run.py", *(f"-k{test}" for test in TESTS)],
                                      capture_output=True, text=True, timeout=600)
        for name, (file, old, new) in [("nothing", (LISTEN, "", "")), *MUTANTS.items()]:
            if words and name != "nothing" and not any(word in name for word in words):
                continue
            text = (tree / file).read_text()
            if old not in text:
                raise SystemExit(f"{name}: not to be found in {file}")
            (tree / file).write_text(text.replace(old, new) if old else text)
            built = build()
            if built.returncode:
                raise SystemExit(f"{name}: {built.stderr[-2000:]}")
            try:
                done = play()
                red = sorted({line.split()[1] for line in done.stdout.splitlines() if line.startswith("FAIL")})
                lost = done.returncode == 0
            except subprocess.TimeoutExpired:
                red, lost = ["a hang"], False
            (tree / file).write_text(text)
            if name == "nothing":
                if not lost:
                    raise SystemExit(f"the tests fail without a mutant:\n{done.stdout[-3000:]}")
                print(f"without a mutant: {done.stdout.splitlines()[-1]}", flush=True)
                continue
            print(f"{'ALIVE' if lost else 'red  '}  {name}: {', '.join(red)}", flush=True)
            alive += [name] if lost else []
    print(f"{len(alive)} of them were not noticed" if alive else "every one was noticed")
    return bool(alive)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
