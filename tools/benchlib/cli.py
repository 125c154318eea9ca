"""The command line of tools/bench."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from typing import Any

from tools.benchlib import CHECKOUT, FOLDER
from tools.benchlib.sections import SECTIONS, Plan
from tools.benchlib.show import tables, verdicts
from tools.benchlib.tables import text
from tools.benchlib.targets import judge

__all__ = ["main", "parse"]

RESULTS = FOLDER / "results.json"

EPILOG = """\
Peers are built or unpacked below build/bench, from Debian packages; nothing is installed. What could not be had
is said, and the rest is measured without it. What runs in the kernel is measured in the machine of tools/vm with
--icount: its clock counts guest instructions, so the figures do not depend on how busy this computer is. What is
measured natively needs root, and is given per second of processor time.

examples:
  tools/bench                      everything (about half an hour)
  tools/bench hooks                what a system call costs; a minute
  tools/bench --quick hooks reader
  tools/bench --docs               everything, and docs/performance.md with its pictures from it
  tools/bench --docs --from-results       write the document again from build/bench/results.json

exit status: 0, 1 when a section could not be measured; a missed target is said and is no failure.
"""


def parse(arguments: list[str]) -> argparse.Namespace:
    sections = "\n".join(f"  {section.name:9} {section.about}" for section in SECTIONS)
    parser = argparse.ArgumentParser(
        prog="tools/bench",
        usage="tools/bench [options] [SECTION...]",
        description=f"pylsm beside its peers: same workload, same run.\n\nsections (default: all):\n{sections}",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    option = parser.add_argument
    option("sections", nargs="*", metavar="SECTION", help=argparse.SUPPRESS)
    option("--quick", action="store_true", help="fewer runs, and without BCC, which takes minutes")
    option("--docs", action="store_true", help="write docs/performance.md and its pictures")
    option("--from-results", action="store_true", help="measure nothing, show the results of the last run")
    options = parser.parse_args(arguments)
    names = [section.name for section in SECTIONS]
    for name in options.sections:
        if name not in names:
            parser.error(f"there is no section {name!r}; there are {', '.join(names)}")
    if not options.sections:
        options.sections = names
    return options


def main() -> int:
    options = parse(sys.argv[1:])
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    failed = False
    if not options.from_results:
        failed = _measure(options, results)
        RESULTS.write_text(json.dumps(results, indent=1))
        print(f"results: {RESULTS.relative_to(CHECKOUT)}")
    shown = {name: results[name] for name in results if name in options.sections or name not in _names()}
    if options.from_results:
        for name in options.sections:
            _show(name, results)
    found = judge(shown)
    if found:
        print(text(verdicts(found)))
        print(f"{sum(verdict.ok for verdict in found)} of {len(found)} targets met")
    if options.docs:
        from tools.benchlib import report

        report.write(results)
    return int(failed)


def _names() -> list[str]:
    return [section.name for section in SECTIONS]


def _measure(options: argparse.Namespace, results: dict[str, Any]) -> bool:
    """Measure the sections asked for into ``results``; whether one of them failed."""
    plan = Plan.prepare(options.quick)
    for name, reason in plan.missing.items():
        print(f"without {name}: {reason}")
    results["about"] = {
        "time": time.strftime("%Y-%m-%d %H:%M", time.gmtime()) + " UTC",
        "commit": _commit(),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "processors": os.cpu_count(),
        "missing": plan.missing,
        "quick": options.quick,
    }
    failed = False
    for section in SECTIONS:
        if section.name not in options.sections:
            continue
        print(f"measuring {section.name} …", flush=True)
        try:
            results[section.name] = section.run(plan)
        except Exception as error:  # the other sections are worth having all the same
            results[section.name] = {"failed": f"{type(error).__name__}: {error}"}
            print(f"tools/bench: {section.name}: {error}", file=sys.stderr)
            failed = True
            continue
        _show(section.name, results)
    return failed


def _show(name: str, results: dict[str, Any]) -> None:
    if name in results:
        for table in tables(name, results[name]):
            print(text(table), flush=True)


def _commit() -> str:
    done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=CHECKOUT, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"
