#!/usr/bin/env python3
"""Runs the tests that need a kernel: programs compared with the kernel's TCP as oracle, well-known programs as servers
and clients, scenarios, and segment scripts. Each has fresh network namespaces; counters tell which stack has served.

    run.py                       what `make test` runs
    run.py --list                the names
    run.py -k epoll -k 'net_raw' those whose name contains one of the words
    run.py --mode kernel         on the kernel's TCP alone: are the programs themselves right?
    run.py --all                 the long ones as well
"""

import argparse
import concurrent.futures
import signal
import sys
from pathlib import Path

import cases
import net
import programs
from harness import RELEASE, Report, stage


def all_tests(arguments):
    tests = [test for case in cases.CASES for test in case.tests()]
    for name in ("scenarios", "companion", "doors", "lives", "endurance", "queues", "segments", "apps", "programs", "cpython"):
        try:
            module = __import__(name)
        except ModuleNotFoundError:
            continue
        tests += module.tests(full=arguments.all)
    if not arguments.all:
        tests = [test for test in tests if not test.slow]
    if arguments.mode == "kernel":
        tests = [test for test in tests if "tcpreload" not in test.mode]
    elif arguments.mode == "tcpreload":
        tests = [test for test in tests if "tcpreload" in test.mode]
    elif arguments.mode:
        tests = [test for test in tests if arguments.mode in test.mode]
    words = arguments.words + arguments.k
    if words:
        tests = [test for test in tests if any(word in str(test) for word in words)]
    return tests


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="WORD", help="only tests whose name contains one of the words")
    parser.add_argument("-k", action="append", default=[], metavar="WORD", help="the same")
    parser.add_argument("--mode", help="kernel, tcpreload, or a part of the mode's name")
    parser.add_argument("--list", action="store_true", help="only the names")
    parser.add_argument("--all", action="store_true", help="the long ones as well")
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time; timing suffers")
    parser.add_argument("--table", metavar="FILE", help="write the table of programs there, as the README has it")
    parser.add_argument("-v", action="store_true", help="whole diffs")
    arguments = parser.parse_args()
    tests = all_tests(arguments)
    if arguments.list:
        for test in tests:
            print(test)
        return 0
    net.become_root_of_a_namespace([sys.executable, *sys.argv])
    # So that what atexit has to clear away is cleared away.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if arguments.mode != "kernel" and not (RELEASE / "tcpreload").exists():
        print(f"{RELEASE} has no tcpreload: every test under it will fail (make build)")
    report = Report(arguments.v)
    stage()
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(report.run, tests))
    if arguments.table:
        Path(arguments.table).write_text(programs.table(report.outcomes) + "\n")
    return report.close()


if __name__ == "__main__":
    sys.exit(main())
