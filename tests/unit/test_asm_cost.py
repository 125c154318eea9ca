"""The budgets of the assembler, by its own benchmark: linear in instructions, a light import."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[2] / "tools" / "bench_asm"


def test_budgets() -> None:
    """100,000 instructions assemble and encode in a second, and the import costs 15 ms.

    A machine may be busy: the best of three counts.
    """
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, str(BENCH), "20000", "100000"], text=True, capture_output=True, check=False
        )
        if done.returncode == 0:
            break
    assert done.returncode == 0, done.stdout
    sizes = [line.split() for line in done.stdout.splitlines()[1:3]]
    assert [size[0] for size in sizes] == ["20,000", "100,000"]
    assert re.search(r"^import pylsm.asm: [\d.]+ ms", done.stdout, re.MULTILINE)


def test_import_leaves_the_heavy_modules_alone() -> None:
    code = "import sys, pylsm.asm; print(*sorted(sys.modules))"
    loaded = set(
        subprocess.run(
            [sys.executable, "-S", "-c", code], text=True, capture_output=True, cwd=BENCH.parents[1], check=True
        ).stdout.split()
    )
    heavy = {"construct", "elftools", "ctypes", "inspect", "dataclasses", "pylsm.btf", "pylsm.loader", "difflib"}
    assert not loaded & heavy
