"""Every input kept in the corpora, and a few seconds of new ones for each target. The long run: fuzz.py by hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from targets import SEEDS, TARGETS  # noqa: E402

SECONDS = 6


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus(name: str) -> None:
    inputs = [path.read_bytes() for path in sorted((HERE / "corpus" / name).iterdir())]
    assert inputs
    for data in inputs + SEEDS.get(name, list)():
        for cut in (len(data), len(data) // 2, len(data) - 1):
            TARGETS[name](data[:cut])


@pytest.mark.parametrize("name", TARGETS)
def test_new_inputs(name: str, tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="coverage-guided fuzzing needs pip install 'pylsm[fuzz]'")
    command = [sys.executable, HERE / "fuzz.py", name, f"-max_total_time={SECONDS}", f"-artifact_prefix={tmp_path}/"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=200)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "Done " in done.stderr
