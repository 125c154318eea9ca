"""The command and pylsm share standard output; neither overwrites the other."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.root


def test_a_command_that_moves_the_file_offset(tmp_path: Path) -> None:
    """As cat does without meaning to: copy_file_range(2) reads the offset, copies, and sets it, while others write."""
    out = tmp_path / "out"
    script = "import os\nfor n in range(50):\n    os.lseek(1, 0, 0); os.write(1, b'mine\\n')"
    with out.open("w") as stdout:
        before = fcntl.fcntl(stdout, fcntl.F_GETFL)
        command = [sys.executable, "-m", "pylsm", "run", "--", sys.executable, "-c", script]
        ran = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=60)
        assert fcntl.fcntl(stdout, fcntl.F_GETFL) == before
    lines = out.read_text().splitlines()
    recorded = int(ran.stderr.partition("recorded ")[2].partition(",")[0])
    assert lines.count("mine") == 50
    assert sum(line.startswith("[LSM] ") for line in lines) == recorded == len(lines) - 50


def test_a_pipe_stays_as_it_was() -> None:
    read, write = os.pipe()
    with os.fdopen(read, "rb") as reader:
        before = fcntl.fcntl(write, fcntl.F_GETFL)
        command = [sys.executable, "-m", "pylsm", "run", "-q", "--", "true"]
        subprocess.run(command, stdout=write, stderr=subprocess.DEVNULL, timeout=60, check=True)
        assert fcntl.fcntl(write, fcntl.F_GETFL) == before
        os.close(write)
        assert b"[LSM] open" in reader.read()
