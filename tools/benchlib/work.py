"""The workload process (peers/work.c): it waits, is traced or not, and then runs one workload at a time."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

__all__ = ["BYTES", "FOLDER", "Work", "make_files"]

#: workload → the byte that starts it
BYTES = {"same": b"s", "new": b"n", "again": b"a", "connect": b"c"}
FOLDER = "/tmp/work"


class Work:
    """A workload process that waits for `run`.

    Args:
        program: the built ``work``.
        rounds: system calls (open and close count as one) in a run.
        wrap: a command to run it under, such as strace.
        folder: where its files are.
    """

    def __init__(self, program: Path, rounds: int, wrap: Sequence[str] = (), folder: str = FOLDER) -> None:
        command = [*wrap, str(program), "all", str(rounds)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, env={**os.environ, "WORK": folder}
        )
        self.pid = self._process.pid

    def start(self, workload: str) -> None:
        """Begin a run; `result` waits for its end."""
        assert self._process.stdin is not None
        self._process.stdin.write(BYTES[workload])

    def result(self) -> float:
        """Nanoseconds per round of the run begun last."""
        assert self._process.stdout is not None
        return float(self._process.stdout.readline())

    def run(self, workload: str) -> float:
        """Nanoseconds per round."""
        self.start(workload)
        return self.result()

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> Work:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def make_files(program: Path, count: int, folder: str = FOLDER) -> None:
    """The files that the workload "new" opens."""
    os.makedirs(folder, exist_ok=True)
    subprocess.run([program, "make", str(count)], check=True, env={**os.environ, "WORK": folder})
