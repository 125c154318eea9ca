"""tools/vm with a real machine: Debian's 6.1 under QEMU. Four boots, one of them cut short."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    shutil.which("qemu-system-x86_64") is None, reason="qemu-system-x86_64 is not installed"
)

CHECKOUT = Path(__file__).resolve().parents[2]
BYTES = bytes(range(256)) + b"\r\n\n\r\x1b[0m\xff\x00"

INSIDE = f"""
import json, os, platform, socket, sys
with open("/dev/kmsg", "w") as log:
    log.write("<0>an emergency that belongs to the console")
server = socket.create_server(("::1", 0), family=socket.AF_INET6)
facts = dict(
    release=os.uname().release,
    pylsm_vm=os.environ["PYLSM_VM"],
    extra=os.environ["EXTRA"],
    python=platform.python_version(),
    executable=sys.executable,
    directory=os.getcwd(),
    lsm=open("/sys/kernel/security/lsm").read(),
    filesystems=[line.split()[1] for line in open("/proc/mounts")],
    modules=[line.split()[0] for line in open("/proc/modules")],
    user=os.getuid(),
)
import construct, elftools, pylsm, pytest
facts["pylsm"] = pylsm.__file__
with open("/out/facts.json", "w") as file:
    json.dump(facts, file)
sys.stdout.buffer.write({BYTES!r})
sys.stderr.buffer.write({BYTES[::-1]!r})
sys.exit(7)
"""


def vm(*arguments: object) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, CHECKOUT / "tools/vm", "--kernel", "6.1", *arguments]
    return subprocess.run(list(map(str, command)), cwd=CHECKOUT, capture_output=True, check=False, timeout=280)


def test_a_command_sees_this_checkout_and_this_python(tmp_path: Path) -> None:
    options = ["--share-out", tmp_path / "out", "--modules", "overlay", "--env", "EXTRA=a=b"]
    result = vm(*options, "--", "python3", "-c", INSIDE)
    assert result.returncode == 7, result.stderr
    assert result.stdout == BYTES
    assert result.stderr == BYTES[::-1]
    facts = json.loads((tmp_path / "out/facts.json").read_text())
    assert facts["release"].startswith("6.1.")
    assert facts["pylsm_vm"] == facts["release"]
    assert facts["extra"] == "a=b"
    assert facts["python"] == ".".join(map(str, sys.version_info[:3]))
    # An interpreter has several names in a virtual environment: python, python3.
    assert os.path.dirname(facts["executable"]) == os.path.dirname(sys.executable)
    assert facts["directory"] == str(CHECKOUT)
    assert facts["pylsm"] == str(CHECKOUT / "pylsm/__init__.py")
    assert "bpf" in facts["lsm"].split(",")
    assert {"/sys/fs/bpf", "/sys/kernel/tracing", "/sys/fs/cgroup"} <= set(facts["filesystems"])
    assert "overlay" in facts["modules"]
    assert facts["user"] == 0


def test_lsm_list_is_a_choice_and_success_is_zero() -> None:
    result = vm("--lsm", "landlock", "--", "cat", "/sys/kernel/security/lsm")
    assert (result.returncode, result.stderr) == (0, b"")
    assert "bpf" not in result.stdout.decode().split(",")


def test_a_signal_shows_in_the_status() -> None:
    assert vm("--", "sh", "-c", "kill -KILL $$").returncode == 128 + 9


def test_a_timeout_is_the_machines_failure() -> None:
    result = vm("--timeout", "1", "--", "true")
    assert result.returncode == 125
    assert b"timeout after 1 s" in result.stderr


@pytest.mark.skipif(
    shutil.which("qemu-system-aarch64") is None, reason="qemu-system-aarch64 is not installed: tools/test --all does it"
)
def test_another_architecture() -> None:
    """Debian's Python, this project's distributions, this checkout; output and status as ever."""
    inside = "import os, sys, construct, pytest, pylsm; print(os.uname().machine, pylsm.__file__); sys.exit(7)"
    result = vm("--arch", "arm64", "--", "python3", "-c", inside)
    assert result.returncode == 7, result.stderr
    assert result.stdout.decode() == f"aarch64 {CHECKOUT}/pylsm/__init__.py\n"
