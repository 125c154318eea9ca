"""A module of this package, run in a virtual machine by tools/vm; its result comes back as JSON."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tools.benchlib import CHECKOUT, KERNEL

__all__ = ["run", "save"]


def run(
    module: str,
    arguments: Sequence[object] = (),
    *,
    files: Iterable[Path] = (),
    icount: bool = True,
    cpus: int = 1,
    memory: int = 1024,
    timeout: int = 900,
) -> Any:
    """Run ``tools.benchlib.MODULE`` in the machine; what it gave to `save` is returned.

    Raises:
        RuntimeError: it failed; the message ends with what it said last.
    """
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, str(CHECKOUT / "tools" / "vm"), "--kernel", KERNEL, "--share-out", out]
        command += ["--timeout", str(timeout), "--memory", str(memory), "--cpus", str(cpus)]
        if icount:
            command.append("--icount")
        for path in sorted(set(files)):
            command += ["--file", str(path)]
        command += ["--", "python3", "-m", f"tools.benchlib.{module}", *map(str, arguments)]
        done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)
        if done.returncode:
            said = (done.stdout + done.stderr).strip().splitlines()
            raise RuntimeError(f"{module} in the machine: status {done.returncode}\n" + "\n".join(said[-15:]))
        return json.loads(Path(out, f"{module}.json").read_text())


def save(module: str, result: Any) -> None:
    """In the machine: hand a result back."""
    Path(f"/out/{module}.json").write_text(json.dumps(result))
