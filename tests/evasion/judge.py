"""Whether a backend saw what a case did."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from typing import Any

from cases.lab import Lab, eventually

from evasion.attempts import Attempt, accomplice
from evasion.raw import Missing
from pylsm.audit.events import Event
from pylsm.output import jsonl, text

__all__ = ["judge"]


def judge(lab: Lab, case: Attempt) -> tuple[str, str]:
    """Run a case in a traced process.

    Returns:
        ("seen", ""), ("not seen", what is missing), or ("absent", what this kernel has not).
    """
    directory = os.path.realpath(tempfile.mkdtemp(prefix="evasion-"))
    os.chmod(directory, 0o777)

    def work() -> tuple[str, Any]:
        try:
            return "done", case.work(directory)
        except Missing as error:
            return "absent", str(error)

    try:
        with accomplice(directory):
            outcome = lab.run(work)
        state, wanted = outcome.result
        if state == "absent":
            return "absent", wanted
        while eventually(lambda: os.waitpid(-1, os.WNOHANG)[0], 0) if children() else False:
            pass  # siblings made with CLONE_PARENT
        for event in outcome.events:
            require_harmless(event)
        missing = Counter(wanted) - Counter(found(outcome.events))
        if missing:
            (first, count) = next(iter(missing.items()))
            return "not seen", f"{count} times {first!r}, lost {outcome.counts.lost}"
        return "seen", ""
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def children() -> bool:
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return bool(file.read())


def require_harmless(event: Event) -> None:
    """Whatever a process calls itself and its files: an event is one line, without a control character."""
    for line in (text.render(event, timestamps=True), jsonl.render(event)):
        assert line.isprintable(), ascii(line)


def found(events: Any) -> list[tuple[Any, ...]]:
    """Events as the cases name them."""
    seen: list[tuple[Any, ...]] = []
    inodes = set()
    for event in events:
        if event.name in ("connect", "sendto"):
            seen.append((event.name, event.dst_ip, event.port))
        elif event.name == "open":
            seen += [("open", event.path), ("mode", event.mode, os.fsdecode(event.path))]
            inodes.add(event.inode)
    return [*seen, *(("inode", str(inode), 1) for inode in inodes)]
