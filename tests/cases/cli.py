"""The command line as a user runs it, and processes to point it at."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cases.lab import eventually
from pylsm.loader.attr import Cmd, IdAttr
from pylsm.loader.bpf import bpf_errno
from pylsm.loader.maps import Map
from pylsm.loader.program import LoadedProgram

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
    *("traced_processe", "pylsm_ring", "pylsm_seen", "pylsm_counts", "pylsm_scratch"),
    *("socket_connect", "file_open", "sched_process_f", "sched_process_e", "sys_enter", "sys_exit", "task"),
)


def objects() -> set[tuple[str, int]]:
    """Programs and maps of ours in the kernel, links of any kind, by id."""
    found = set()
    for kind, command in (("prog", Cmd.PROG_GET_NEXT_ID), ("map", Cmd.MAP_GET_NEXT_ID), ("link", Cmd.LINK_GET_NEXT_ID)):
        attr = IdAttr()
        while bpf_errno(command, attr) >= 0:
            attr.id = attr.next_id
            if kind == "link":
                found.add((kind, attr.id))
                continue
            try:
                with LoadedProgram.from_id(attr.id) if kind == "prog" else Map.from_id(attr.id) as opened:
                    name = opened.info.name
            except OSError:
                continue  # gone meanwhile
            if name in OURS:
                found.add((kind, attr.id))
    return found


@contextmanager
def nothing_left() -> Iterator[None]:
    """No new program, map or link of ours is in the kernel, and no new child of ours runs, when the block ends.

    Freeing takes the kernel a moment; another pylsm on this machine may come and go meanwhile.
    """
    before = objects()
    children = own_children()
    yield
    assert eventually(lambda: objects() <= before), f"left in the kernel: {objects() - before}"
    assert own_children() <= children


def own_children() -> set[int]:
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return set(map(int, file.read().split()))
