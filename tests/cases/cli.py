"""The command line as a user runs it, and processes to point it at."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cases.lab import eventually
from pylsm.audit.targets import descendants
from pylsm.loader.attr import Cmd, IdAttr
from pylsm.loader.bpf import bpf_errno
from pylsm.loader.maps import Map
from pylsm.loader.program import LoadedProgram

#: In the environment of all that this test run starts, and of nothing else.
MARK = f"PYLSM_TEST_RUN={uuid.uuid4()}"
os.environ.update([MARK.split("=")])

PYLSM = (sys.executable, "-m", "pylsm")


def pylsm(*arguments: Any, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run it to its end; an error never is a traceback."""
    result = subprocess.run(
        [*PYLSM, *map(str, arguments)], capture_output=True, text=True, errors="surrogateescape", timeout=60, **options
    )
    assert "Traceback" not in result.stderr, result.stderr
    return result


class Running:
    """pylsm in the background, attached by the time this is made; `finish` collects its output."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        command = [*options.pop("before", ()), *PYLSM, *map(str, arguments)]
        options.setdefault("stdout", subprocess.PIPE)
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="surrogateescape", **options)
        assert self.process.stderr
        self.stderr = ""
        while "attached to" not in self.stderr:
            line = self.process.stderr.readline()
            assert line, f"pylsm ended: {self.stderr}"
            self.stderr += line

    @property
    def pid(self) -> int:
        return self.process.pid

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait_for(self, text: str) -> None:
        """Until it says so on standard error."""
        assert self.process.stderr
        while text not in self.stderr:
            line = self.process.stderr.readline()
            assert line, f"pylsm ended: {self.stderr}"
            self.stderr += line

    def finish(self, number: int = 0) -> tuple[int, str, str]:
        """(exit status, standard output, standard error); after a signal, if one is given."""
        if number:
            self.signal(number)
        out, err = self.process.communicate(timeout=60)
        self.stderr += err
        assert "Traceback" not in self.stderr, self.stderr
        return self.process.returncode, out, self.stderr


class Opener:
    """A process that opens what it is told to; untraced until somebody traces it."""

    def __init__(self, comm: bytes = b"opener", uid: int = 0) -> None:
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            try:
                os.close(self._commands)
                os.close(self._answers)
                with open("/proc/self/comm", "wb") as file:
                    file.write(comm)
                if uid:
                    os.setresuid(uid, uid, uid)
                os.write(answers, b"\n")
                with open(commands, "rb", closefd=False) as source:
                    for line in iter(source.readline, b"end\n"):  # not at its end: later openers inherit the pipe
                        for path in line[:-1].split(b"\0"):
                            os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
                        os.write(answers, b"\n")
            finally:
                os._exit(0)
        os.close(commands)
        os.close(answers)
        assert os.read(self._answers, 1)

    def open(self, *paths: Any) -> None:
        """Open each for writing, creating it."""
        os.write(self._commands, b"\0".join(map(os.fsencode, paths)) + b"\n")
        assert os.read(self._answers, 1) == b"\n", "the opener died"

    def end(self) -> None:
        if self.pid:
            pid, self.pid = self.pid, 0
            os.write(self._commands, b"end\n")
            os.close(self._commands)
            os.waitpid(pid, 0)
            os.close(self._answers)

    def __enter__(self) -> Opener:
        return self

    def __exit__(self, *exception: object) -> None:
        self.end()


# --- what is left in the kernel --------------------------------------------------------------------------------------

#: Names of our maps and programs, as the kernel cuts them.
OURS = (
    *("traced_processe", "pylsm_ring", "pylsm_seen", "pylsm_counts", "pylsm_scratch", "pylsm_walkers"),
    *(
        "socket_connect",
        "file_open",
        "sched_process_f",
        "sched_process_e",
        "sys_enter",
        "sys_exit",
        "file_open_walk",
        "sys_exit_walk",
        "task",
    ),
)


def objects() -> set[tuple[str, int]]:
    """Ids of all programs, maps and links in the kernel.

    They are not opened to look at their names: to open and close a program array whose last descriptor has just been
    closed makes the kernel leak it (prog_array_map_clear takes a reference for work that is queued already).
    """
    found = set()
    for kind, command in (("prog", Cmd.PROG_GET_NEXT_ID), ("map", Cmd.MAP_GET_NEXT_ID), ("link", Cmd.LINK_GET_NEXT_ID)):
        attr = IdAttr()
        while bpf_errno(command, attr) >= 0:
            attr.id = attr.next_id
            found.add((kind, attr.id))
    return found


def of_ours(found: set[tuple[str, int]]) -> set[tuple[str, int, str]]:
    """Those with names of ours, and all links."""
    named = set()
    for kind, number in found:
        if kind == "link":
            named.add((kind, number, ""))
            continue
        try:
            with LoadedProgram.from_id(number) if kind == "prog" else Map.from_id(number) as opened:
                name = opened.info.name
        except OSError:
            continue  # gone meanwhile
        if name in OURS:
            named.add((kind, number, name))
    return named


def held_by_strangers() -> set[tuple[str, int]]:
    """Objects that processes hold which this test run has not started: another pylsm on this machine."""
    ours = descendants([os.getpid()])
    held = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if int(pid) in ours or MARK.encode() in Path(f"/proc/{pid}/environ").read_bytes():
                continue
            for info in Path(f"/proc/{pid}/fdinfo").iterdir():
                held |= {(kind, int(n)) for kind, n in re.findall(r"(prog|map|link)_id:\s+(\d+)", info.read_text())}
        except OSError:
            continue  # it has ended, or closed the file
    return held


@contextmanager
def nothing_left() -> Iterator[None]:
    """No new program, map or link of ours is in the kernel, and no new child of ours runs, when the block ends.

    Freeing takes the kernel a moment.
    """
    before = objects()
    children = own_children()
    yield

    # What appears from now on is not ours; what is ours and stays is a leak.
    suspects = objects() - before

    def none_left() -> bool:
        suspects.intersection_update(objects())
        if suspects:
            suspects.difference_update(held_by_strangers())
        return not suspects

    if not eventually(none_left):
        assert not of_ours(suspects), "left in the kernel"
    assert own_children() <= children


def own_children() -> set[int]:
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return set(map(int, file.read().split()))
