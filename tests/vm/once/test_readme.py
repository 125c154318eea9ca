"""The README's transcript is what its command prints."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from cases.lab import X86_64

pytestmark = [pytest.mark.vm, pytest.mark.skipif(not X86_64, reason="the README ran another machine's programs")]

README = Path(__file__).parents[3] / "README.md"


def _normal(text: str) -> list[str]:
    """Lines without what differs from run to run and from library to library: pids by their order, times, versions."""
    pids: dict[str, str] = {}
    text = re.sub(r"pid=(\d+)", lambda m: "pid=" + pids.setdefault(m[1], f"P{len(pids)}"), text)
    text = re.sub(r"duration_ns=\d+", "duration_ns=N", text)
    return re.sub(r"\.so\.[\d.]+", ".so", text).splitlines()


def test_transcript() -> None:
    found = re.search(r"`tools/vm -- python3 (-m pylsm run .*)`\):\n```\n(.*?)```", README.read_text(), re.DOTALL)
    assert found, "README.md has no transcript"
    command, transcript = found.groups()
    ran = subprocess.run([sys.executable, *shlex.split(command)], capture_output=True, text=True, timeout=60)
    assert _normal(ran.stdout) == _normal(transcript)
    assert "connect" in transcript and "mode=w" in transcript
