"""What lies in pylsm/share is made from what the command line declares, and works where it is installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHARE = ROOT / "pylsm/share"


def test_the_files_are_current() -> None:
    pytest.importorskip("shtab", reason='the extra "release" is not installed')
    pytest.importorskip("argparse_manpage", reason='the extra "release" is not installed')
    done = subprocess.run([sys.executable, ROOT / "tools/share", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("bash", "bash/pylsm"),
        ("zsh", "zsh/_pylsm"),
        ("man", "man/pylsm.1"),
        ("unit", "pylsm.service"),
        ("config", "pylsm.toml"),
    ],
)
def test_print(name: str, path: str) -> None:
    done = subprocess.run([sys.executable, "-m", "pylsm", "print", name], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, (SHARE / path).read_text())


def test_print_of_what_there_is_not() -> None:
    done = subprocess.run([sys.executable, "-m", "pylsm", "print", "fish"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert "'fish'" in done.stderr and "zsh" in done.stderr


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        (["pylsm", "ver"], "verify-log"),
        (["pylsm", "attach", "--ring"], "--ring-size"),
        (["pylsm", "run", "--backend", "ke"], ""),
        (["pylsm", "run", "--backend", "fe"], "fentry"),
        (["pylsm", "print", "z"], "zsh"),
    ],
)
def test_bash_completes(line: list[str], wanted: str) -> None:
    words = " ".join(map(repr, line))
    script = f"""
        . {SHARE / "bash/pylsm"}
        COMP_WORDS=({words}); COMP_CWORD={len(line) - 1}; COMP_LINE="${{COMP_WORDS[*]}}"
        "$(complete -p pylsm | sed 's/.*-F \\([^ ]*\\) .*/\\1/')"
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    found = done.stdout.split()
    assert wanted in found if wanted else not found


@pytest.mark.skipif(shutil.which("man") is None, reason="man is not installed")
def test_the_man_page_is_one() -> None:
    done = subprocess.run(
        ["man", "--warnings", "-l", SHARE / "man/pylsm.1"],
        capture_output=True,
        text=True,
        env={"MANWIDTH": "80", "PATH": "/usr/bin:/bin"},
    )
    assert "warning" not in done.stderr, done.stderr
    assert "pylsm - show every outbound connection attempt" in " ".join(done.stdout.split())


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_the_unit_is_sound(tmp_path: Path) -> None:
    unit = tmp_path / "pylsm.service"
    unit.write_text((SHARE / "pylsm.service").read_text().replace("/usr/local/bin/pylsm", sys.executable))
    unit.chmod(0o644)
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
