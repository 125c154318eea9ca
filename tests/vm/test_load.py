"""tests/cases/load.py over LSM hooks."""

import subprocess
from pathlib import Path

import pytest
from cases.cli import PYLSM
from cases.load import *  # noqa: F403
from cases.load import ROOT, SKIPS_PROGRAMS
from cases.load import pytestmark as needs_the_workload

pytestmark = [pytest.mark.vm, needs_the_workload]


def test_births_that_the_kernel_skips_are_said(tmp_path: Path) -> None:
    """Linux 7 preempts the programs of tracepoints; before it there is nothing to be said."""
    flood = [str(ROOT / "build/bench/flood"), str(tmp_path), "4", "1", "1", "3"]
    command = [*PYLSM, "run", "-q", "--events", "open", "-o", "/dev/null", "--", *flood]
    running = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        _, err = running.communicate("g", timeout=60)
    except subprocess.TimeoutExpired:
        assert SKIPS_PROGRAMS, "it waits for processes that have ended"
        running.terminate()
        _, err = running.communicate(timeout=60)
    assert ("births and" in err) == SKIPS_PROGRAMS, err
