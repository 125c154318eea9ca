"""tools/zipapp: one file that runs where there is a Python and nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

if not (ROOT / ".git").exists():
    pytest.skip("needs the repository, not an archive of it", allow_module_level=True)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean checkout, with the file built in it."""
    clone = tmp_path_factory.mktemp("zipapp") / "clone"
    subprocess.run(["git", "clone", "--quiet", "--shared", ROOT, clone], check=True)
    build(clone, clone / "pylsm.pyz")
    return clone


def build(clone: Path, target: Path) -> None:
    done = subprocess.run([sys.executable, clone / "tools/zipapp", target], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_same_commit_gives_the_same_bytes(clone: Path, tmp_path: Path) -> None:
    build(clone, tmp_path / "again.pyz")
    assert (tmp_path / "again.pyz").read_bytes() == (clone / "pylsm.pyz").read_bytes()
    names = zipfile.ZipFile(clone / "pylsm.pyz").namelist()
    modules = {"pylsm/cli/run.py", "pylsm/cli/run.pyc", "construct/core.py", "elftools/__init__.py"}
    assert {"__main__.py", "pylsm/share/programs", *modules} <= set(names)
    assert not [name for name in names if name.startswith(("tests", "tools", "bin")) or name.endswith(".so")]


def interpreters() -> list[str]:
    """Every Python from 3.9 on that is found here; this one always."""
    places = [*Path("/root/.pyenv/versions").glob("3.*/bin/python"), Path("/usr/bin/python3")]
    found = {os.path.realpath(sys.executable)}
    for place in places:
        if os.access(place, os.X_OK):
            code = "import sys; sys.exit(sys.version_info < (3, 9))"
            if subprocess.run([place, "-IS", "-c", code]).returncode == 0:
                found.add(os.path.realpath(place))
    return sorted(found)


@pytest.mark.root
@pytest.mark.parametrize("python", interpreters())
def test_it_needs_nothing_but_python(clone: Path, tmp_path: Path, python: str) -> None:
    environment = {"PATH": "/usr/bin:/bin", "PYLSM_CACHE": ""}  # all of it made now, by its own libraries
    missing = subprocess.run([python, "-IS", "-c", "import construct"], capture_output=True, env=environment)
    assert b"ModuleNotFoundError" in missing.stderr
    (tmp_path / "file").write_text("x")
    done = subprocess.run(
        [python, "-IS", clone / "pylsm.pyz", "run", "--", "cat", tmp_path / "file"],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert f"mode=r path={tmp_path}/file\n" in done.stdout
    assert "lost 0" in done.stderr


@pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="qemu-system-x86_64 is not installed")
def test_on_a_bare_machine_with_bpf_lsm(clone: Path) -> None:
    script = """
        ! python3 -IS -c 'import construct' 2>/dev/null && ! python3 -IS -m pip --version 2>/dev/null &&
        python3 -IS pylsm.pyz check && python3 -IS pylsm.pyz run --backend lsm -- cat /etc/hostname"""
    done = subprocess.run(
        [sys.executable, clone / "tools/vm", "--kernel", "6.1", "--", "sh", "-c", script],
        cwd=clone,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert "supported: LSM hooks work here" in done.stdout
    assert "comm=cat mode=r path=/etc/hostname" in done.stdout
