"""A kernel that can do everything but has no `bpf` in its list of LSMs: programs attach there and never fire.

One boot of Debian's 6.1 with lsm=landlock.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    shutil.which("qemu-system-x86_64") is None, reason="qemu-system-x86_64 is not installed"
)

CHECKOUT = Path(__file__).resolve().parents[2]

# Each command's status, output and messages, as JSON on standard output.
INSIDE = """
import json, subprocess, sys
def pylsm(*arguments):
    done = subprocess.run([sys.executable, "-m", "pylsm", *arguments], capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr
json.dump({
    "auto": pylsm("run", "--", "cat", "/etc/hostname"),
    "fail": pylsm("run", "--if-unavailable", "fail", "--", "echo", "ran"),
    "skip": pylsm("run", "--if-unavailable", "skip", "--", "sh", "-c", "echo ran; exit 9"),
    "untried": pylsm("run", "--backend", "lsm", "--events", "unlink", "--", "true"),
    "check": pylsm("check"),
    "left": subprocess.run(["bpftool", "prog", "show"], capture_output=True, text=True).stdout,
}, sys.stdout)
"""


def test_attached_programs_that_never_fire_are_not_believed() -> None:
    machine = [CHECKOUT / "tools/vm", "--kernel", "6.1", "--lsm", "landlock"]
    done = subprocess.run([sys.executable, *machine, "--", "python3", "-c", INSIDE], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)

    status, out, err = found["auto"]
    assert status == 0
    assert re.search(r"^\[LSM\] open pid=\d+ comm=cat mode=r path=/etc/hostname$", out, re.MULTILINE)
    assert "warning: lsm cannot be used (" in err
    assert "Falling back to fentry, which does not see: " in err
    assert "connect: not seen, open: not seen" in err

    status, out, err = found["fail"]
    assert (status, out) == (125, "")
    assert "do not see this process's own open and connect" in err
    assert "hint: " in err

    status, out, err = found["skip"]
    assert (status, out) == (9, "ran\n")
    assert "warning: no audit: lsm: " in err

    status, _, err = found["untried"]
    assert status == 125
    assert "bpf is not among the active LSMs (" in err

    status, out, _ = found["check"]
    assert status == 1
    assert re.search(r"lsm=\S*landlock\S*bpf|lsm=\S*bpf\S*", out), "the boot parameter, in full"
    assert "socket_connect" not in found["left"]
