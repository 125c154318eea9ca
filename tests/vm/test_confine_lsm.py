"""tests/native/test_confine.py on kernels with BPF LSM, and each backend with as few capabilities as it needs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from cases.cli import PYLSM, Running
from cases.lab import BACKENDS, eventually

from pylsm.loader.bpf import kernel_release

pytestmark = pytest.mark.vm

OLD = kernel_release() < (5, 11)
#: Maps are charged to RLIMIT_MEMLOCK before 5.11, which has to be raised.
LEAST = "+bpf,+perfmon" + (",+sys_resource" if OLD else "")


@pytest.fixture
def directory() -> Path:
    """One that an ordinary user can go to."""
    path = Path("/tmp/unprivileged")
    path.mkdir(exist_ok=True)
    os.chown(path, 1000, 1000)
    return path


def with_capabilities(wanted: str, directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    held = (f"--inh-caps={wanted}", f"--ambient-caps={wanted}", f"--bounding-set={wanted}")
    user = ("setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups", *held)
    return subprocess.run([*user, *PYLSM, *arguments], capture_output=True, text=True, cwd=directory, timeout=120)


@pytest.mark.parametrize("backend", BACKENDS)
def test_each_backend_with_as_little_as_it_needs(backend: str, directory: Path) -> None:
    paranoid = Path("/proc/sys/kernel/perf_event_paranoid")
    before = paranoid.read_text()
    command = ("run", "-q", "--backend", backend, "--", "cat", "/proc/self/status")
    try:
        if backend == "kprobe":  # Debian's 3 means CAP_SYS_ADMIN, and the message says so
            refused = with_capabilities(LEAST, directory, *command)
            assert refused.returncode == 125
            assert "CAP_SYS_ADMIN" in refused.stderr
            assert "sysctl kernel.perf_event_paranoid=2" in refused.stderr
            paranoid.write_text("2")
        done = with_capabilities(LEAST, directory, *command)
    finally:
        paranoid.write_text(before)
    assert done.returncode == 0, done.stderr
    assert "comm=cat mode=r path=/proc/" in done.stdout
    assert "CapEff:\t0000000000000000" in done.stdout, "the command was given capabilities"


@pytest.mark.parametrize("missing", ["bpf", "perfmon", *(["sys_resource"] if OLD else [])])
def test_what_is_missing_is_named(missing: str, directory: Path) -> None:
    held = ",".join(name for name in LEAST.split(",") if name != f"+{missing}")
    refused = with_capabilities(held, directory, "run", "--backend", "lsm", "--", "true")
    assert refused.returncode == 125
    assert f"CAP_{missing.upper()}" in refused.stderr
    assert "hint:" in refused.stderr


def test_attach_with_as_little_as_it_needs(directory: Path) -> None:
    with subprocess.Popen(["sleep", "20"]) as sleeper:
        done = with_capabilities(LEAST, directory, "attach", "-p", str(sleeper.pid), "-o", "out")
    assert done.returncode == 0, done.stderr
    assert "all traced processes have ended" in done.stderr


def test_threads_that_waited_for_the_kernel_are_gone_before_it_confines_itself() -> None:
    """What is given up is a thread's own: one that is left would keep every privilege."""
    with subprocess.Popen(["sleep", "100"]) as sleeper:
        running = Running("attach", "-p", sleeper.pid)
        status = Path(f"/proc/{running.pid}/status")
        assert eventually(lambda: "Seccomp:\t2\n" in status.read_text())
        assert "Threads:\t1\n" in status.read_text()
        sleeper.kill()
        assert running.finish()[0] == 0
