"""The wheel is the same bytes whenever it is built, and the lock is of the dependencies as they stand."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_two_builds_are_one(tmp_path: Path) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("needs the repository, not an archive of it")
    pytest.importorskip("setuptools", minversion="70.1", reason="its bdist_wheel came with 70.1")
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", "--shared", ROOT, clone], check=True)
    path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
    done = subprocess.run(
        [clone / "tools/release", "--wheel"], capture_output=True, text=True, env={"PATH": path, "HOME": str(tmp_path)}
    )
    assert done.returncode == 0, done.stderr
    assert "built twice, the same" in done.stdout
    (wheel,) = (clone / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {"pylsm/confine/seccomp.py", "pylsm/share/programs"} <= set(names)
    assert not [name for name in names if name.startswith(("tests", "tools"))]


def test_every_line_of_the_lock_has_hashes() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    pinned = [line for line in lock.splitlines() if "==" in line and not line.lstrip().startswith("#")]
    assert {"construct", "pyelftools", "pyroute2", "pytest"} <= {line.split("==")[0] for line in pinned}
    assert all(line.endswith("\\") for line in pinned)
    assert lock.count("--hash=sha256:") > len(pinned)
