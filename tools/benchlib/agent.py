"""``python -m pylsm attach`` as a process to be measured: from outside, through its command line only."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from tools.benchlib import CHECKOUT

__all__ = ["Agent"]


class Agent:
    """A running agent; the constructor returns when it has said "attached".

    Args:
        pid: the process to trace.
        options: further options of ``pylsm attach``.
        stdout: where its events go, if not into a file.

    Raises:
        RuntimeError: it ended instead; the message holds what it said.
    """

    def __init__(self, pid: int, *options: str, stdout: int = subprocess.DEVNULL) -> None:
        command = [sys.executable, "-m", "pylsm", "attach", "-p", str(pid), *options]
        environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
        self.process = subprocess.Popen(
            command, cwd=CHECKOUT, env=environment, stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE
        )
        self._said: list[bytes] = []
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._said.append(line)
            if b"attached" in line:
                break
        else:
            raise RuntimeError(f"pylsm attach: {self.said.strip()}")
        # It may say more at any time, and must never wait for us to read it.
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self.process.stderr is not None
        self._said += self.process.stderr

    @property
    def said(self) -> str:
        """Its standard error so far."""
        return b"".join(self._said).decode(errors="replace")

    @property
    def cpu(self) -> float:
        """Seconds of processor time it has used, to the nanosecond (CONFIG_SCHED_INFO), or to the tick."""
        tasks = Path(f"/proc/{self.process.pid}/task")
        try:
            return sum(int(task.joinpath("schedstat").read_text().split()[0]) for task in tasks.iterdir()) / 1e9
        except (OSError, IndexError):
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def peak_kb(self) -> int:
        """Its peak resident size."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"^VmHWM:\s+(\d+)", status, re.MULTILINE)[0])

    def stop(self) -> dict[str, int]:
        """End it and return its last counts by name."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()
        self._listener.join()
        counts = [line for line in self.said.splitlines() if "recorded" in line and "lost" in line]
        if not counts:
            raise RuntimeError(f"pylsm attach gave no counts: {self.said.strip()[-400:]}")
        return {name.strip(): int(number) for name, number in re.findall(r"([a-z ]+) (\d+)", counts[-1])}

    def kill(self) -> None:
        """For a failed measurement."""
        self.process.kill()
        self.process.wait()

    @staticmethod
    def json_to(path: str) -> Sequence[str]:
        """The options that write JSON to a file."""
        return ("--format", "json", "-o", path)
