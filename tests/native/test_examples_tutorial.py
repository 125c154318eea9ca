"""docs/tutorial.md: each block of Python runs, in order, and prints what stands below it."""

from __future__ import annotations

import contextlib
import io
import linecache
import os
import re
from pathlib import Path

import pytest

TUTORIAL = Path(__file__).resolve().parents[2] / "docs" / "tutorial.md"

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)


def test_tutorial() -> None:
    blocks = BLOCK.findall(TUTORIAL.read_text())
    assert len(blocks) >= 7
    names: dict[str, object] = {}
    for number, (code, printed) in enumerate(blocks, 1):
        file = f"step{number}.py"
        linecache.cache[file] = (len(code), None, code.splitlines(True), file)
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(code, file, "exec"), names)
        assert out.getvalue() == printed, f"block {number}"
    counter = names["counter"]
    assert 'a.call("map_lookup_elem", RUNS, key)' in counter.listing()  # type: ignore[attr-defined]
