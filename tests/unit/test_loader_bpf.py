"""bpf(2) with faults injected: retries, explained errors, memory limits, handles."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys

import pytest

from pylsm.arch import call_number
from pylsm.errors import PylsmError
from pylsm.loader import BpfError, bpf, hints, memlock
from pylsm.loader.attr import Cmd, MapCreateAttr
from pylsm.loader.bpf import RETRIES, Handle, bpf_errno, kernel_release
from pylsm.loader.errors import errno_name


class Kernel:
    """Answers bpf(2) from a list: an errno, or 0 and above for a result."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: int) -> None:
        self.answers = list(answers)
        self.calls: list[int] = []
        monkeypatch.setattr(bpf, "_syscall", self)

    def __call__(self, number: int, cmd: int, attr: int, size: int, *rest: int) -> int:
        self.calls.append(cmd)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer < 0:
            ctypes.set_errno(-answer)
            return -1
        return answer


@pytest.mark.parametrize("number", [errno.EINTR, errno.EAGAIN])
def test_interrupted_calls_are_repeated(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    kernel = Kernel(monkeypatch, -number, -number, 7)
    assert bpf.bpf(Cmd.MAP_CREATE, MapCreateAttr()) == 7
    assert kernel.calls == [Cmd.MAP_CREATE] * 3


def test_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(monkeypatch, -errno.EAGAIN)
    with pytest.raises(BpfError) as caught:
        bpf.bpf(Cmd.PROG_LOAD, MapCreateAttr(), "load it")
    assert len(kernel.calls) == RETRIES
    assert caught.value.errno == errno.EAGAIN


def test_other_failures_are_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(monkeypatch, -errno.ENOMEM, 3)
    assert bpf_errno(Cmd.MAP_CREATE, MapCreateAttr()) == -errno.ENOMEM
    assert len(kernel.calls) == 1


def test_an_error_names_command_purpose_and_errno_and_is_an_os_error(monkeypatch: pytest.MonkeyPatch) -> None:
    Kernel(monkeypatch, -errno.E2BIG)
    with pytest.raises(OSError) as caught:
        bpf.bpf(Cmd.MAP_CREATE, MapCreateAttr(), "create map 'events'")
    error = caught.value
    assert isinstance(error, BpfError)
    assert isinstance(error, PylsmError)
    assert error.errno == errno.E2BIG
    assert error.command is Cmd.MAP_CREATE
    assert str(error) == "cannot create map 'events': BPF_MAP_CREATE: E2BIG (Argument list too long)"
    assert "larger than this kernel takes" in error.hint


@pytest.mark.parametrize(
    ("cmd", "number", "part"),
    [
        (Cmd.RAW_TRACEPOINT_OPEN, 524, "a kprobe and a raw tracepoint"),
        (Cmd.PROG_TEST_RUN, 524, "test-run"),
        (Cmd.MAP_FREEZE, 524, "does not implement"),
        (Cmd.RAW_TRACEPOINT_OPEN, errno.EBUSY, "bpftool link"),
        (Cmd.RAW_TRACEPOINT_OPEN, errno.ENOENT, "no tracepoint of that name"),
        (Cmd.MAP_UPDATE_ELEM, errno.E2BIG, "the map is full"),
        (Cmd.MAP_CREATE, errno.ENOMEM, "memory"),
        (Cmd.LINK_DETACH, errno.ENOTSUP, "closing them"),
        (Cmd.PROG_QUERY, errno.EINVAL, "does not know"),
        (Cmd.PROG_QUERY, errno.ENOENT, ""),
    ],
)
def test_hints(cmd: Cmd, number: int, part: str) -> None:
    found = hints.hint(cmd, number)
    assert part in found
    assert bool(found) is bool(part)


def test_524_has_a_name() -> None:
    assert errno_name(524) == "ENOTSUPP (operation not supported by this kernel)"
    assert errno_name(errno.EPERM) == "EPERM (Operation not permitted)"
    assert errno_name(4000).startswith("errno 4000 (")


SYS_ADMIN, BPF, PERFMON = 1 << 21, 1 << 39, 1 << 38


@pytest.mark.parametrize(
    ("capabilities", "release", "files", "cmd", "part"),
    [
        (0, (6, 1), {}, Cmd.MAP_CREATE, "needs root, or CAP_BPF; missing: CAP_BPF"),
        (BPF, (6, 1), {}, Cmd.PROG_LOAD, "CAP_BPF and CAP_PERFMON; missing: CAP_PERFMON"),
        (
            0,
            (6, 1),
            {"/proc/sys/kernel/unprivileged_bpf_disabled": "2\n"},
            Cmd.PROG_LOAD,
            "kernel.unprivileged_bpf_disabled is 2",
        ),
        (
            SYS_ADMIN,
            (6, 1),
            {"/sys/kernel/security/lockdown": "none [integrity] confidentiality\n"},
            Cmd.PROG_LOAD,
            "lockdown is in integrity mode",
        ),
        (
            SYS_ADMIN,
            (6, 1),
            {"/sys/kernel/security/lockdown": "[none] integrity confidentiality\n"},
            Cmd.PROG_LOAD,
            "this kernel's own policy",
        ),
        (SYS_ADMIN, (5, 10), {}, Cmd.MAP_CREATE, "ulimit -l"),
        (SYS_ADMIN, (6, 1), {"/proc/self/uid_map": "0 1000 1\n"}, Cmd.PROG_LOAD, "initial user namespace"),
        (BPF | PERFMON, (6, 1), {}, Cmd.PROG_LOAD, "this kernel's own policy"),
        (SYS_ADMIN, (6, 18), {}, Cmd.LINK_CREATE, "pylsm check"),
    ],
)
def test_eperm_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
    capabilities: int,
    release: tuple[int, int],
    files: dict[str, str],
    cmd: Cmd,
    part: str,
) -> None:
    files = {"/proc/self/status": f"Name:\tx\nCapEff:\t{capabilities:016x}\n", **files}
    monkeypatch.setattr(hints, "_read", lambda path: files.get(path, ""))
    monkeypatch.setattr(hints, "kernel_release", lambda: release)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert part in hints.hint(cmd, errno.EPERM)


def test_capabilities_of_this_process() -> None:
    held = hints.effective_capabilities()
    assert held is not None
    assert (held >> 21 & 1) == (os.geteuid() == 0)


class Limits:
    """RLIMIT_MEMLOCK as this process would see it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, refuse: bool = False) -> None:
        import resource

        self.now = (soft, hard)
        self.refuse = refuse
        self.history: list[tuple[int, int]] = []
        monkeypatch.setattr(resource, "getrlimit", lambda which: self.now)
        monkeypatch.setattr(resource, "setrlimit", self.set)

    def set(self, which: int, limits: tuple[int, int]) -> None:
        if self.refuse and limits[1] == -1:
            raise ValueError("not allowed to raise maximum limit")
        self.history.append(limits)
        self.now = limits


def test_before_5_11_memlock_is_lifted_for_one_call_only(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(monkeypatch, 65536, 65536)
    monkeypatch.setattr(memlock, "kernel_release", lambda: (5, 10))
    kernel = Kernel(monkeypatch, -errno.EPERM, 5)
    assert bpf_errno(Cmd.MAP_CREATE, MapCreateAttr()) == 5
    assert len(kernel.calls) == 2
    assert limits.history == [(-1, -1), (65536, 65536)], "lifted, then put back"


def test_the_hard_limit_is_better_than_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(monkeypatch, 65536, 1 << 26, refuse=True)
    monkeypatch.setattr(memlock, "kernel_release", lambda: (5, 10))
    Kernel(monkeypatch, -errno.EPERM, 5)
    assert bpf_errno(Cmd.MAP_CREATE, MapCreateAttr()) == 5
    assert limits.history == [(1 << 26, 1 << 26), (65536, 1 << 26)]


@pytest.mark.parametrize(
    ("release", "soft", "cmd"),
    [((5, 11), 65536, Cmd.MAP_CREATE), ((5, 10), -1, Cmd.MAP_CREATE), ((5, 10), 65536, Cmd.OBJ_GET)],
    ids=["5.11 does not charge it", "no limit", "not a command that is charged"],
)
def test_otherwise_an_eperm_is_final(
    monkeypatch: pytest.MonkeyPatch, release: tuple[int, int], soft: int, cmd: Cmd
) -> None:
    limits = Limits(monkeypatch, soft, -1)
    monkeypatch.setattr(memlock, "kernel_release", lambda: release)
    kernel = Kernel(monkeypatch, -errno.EPERM, 5)
    assert bpf_errno(cmd, MapCreateAttr()) == -errno.EPERM
    assert len(kernel.calls) == 1
    assert limits.history == []


@pytest.mark.parametrize(
    ("release", "expected"),
    [("5.10.0-46-cloud-amd64", (5, 10)), ("6.18.44-fc-v657", (6, 18)), ("7.3-rc1", (7, 3)), ("6.1+", (6, 1))],
)
def test_kernel_release(monkeypatch: pytest.MonkeyPatch, release: str, expected: tuple[int, int]) -> None:
    made = os.uname_result(("Linux", "host", release, "#1", "x86_64"))
    monkeypatch.setattr(os, "uname", lambda: made)
    assert kernel_release() == expected


def test_system_call_numbers() -> None:
    assert [call_number(name, "x86_64", 64) for name in ("bpf", "perf_event_open")] == [321, 298]
    assert [call_number(name, "aarch64", 64) for name in ("bpf", "perf_event_open")] == [280, 241]
    assert call_number("membarrier", "s390x", 64) == 356
    assert call_number("bpf", "x86_64", 32) == 357, "a 32-bit Python under a 64-bit kernel"
    with pytest.raises(PylsmError, match="system call bpf for a 64-bit Python on pdp11 is not known"):
        call_number("bpf", "pdp11", 64)
    with pytest.raises(PylsmError, match="openat for a 32-bit Python on x86_64"):
        call_number("openat", "x86_64", 32)


def test_a_handle_closes_once_and_says_when_it_is_used_after() -> None:
    reading, writing = os.pipe()
    os.close(writing)
    with Handle(reading, label="map 'x'") as handle:
        assert handle.fileno() == handle.fd == reading
        assert not handle.closed
    assert handle.closed
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(reading)
    handle.close()
    with pytest.raises(ValueError, match="map 'x' is closed"):
        handle.fileno()
    assert repr(handle) == "<Handle map 'x', closed>"


def test_a_handle_that_is_dropped_is_closed_and_a_borrowed_one_is_not() -> None:
    reading, writing = os.pipe()
    Handle(reading)
    Handle(writing, owned=False)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(reading)
    os.fstat(writing)
    os.close(writing)


def test_importing_the_loader_is_cheap() -> None:
    """Each of these would cost more than loading a program does."""
    heavy = {"dataclasses", "inspect", "argparse", "logging", "pathlib", "linecache", "difflib", "resource", "socket"}
    heavy |= {"platform", "tempfile", "subprocess", "construct", "elftools", "pyroute2"}
    root = os.path.dirname(os.path.dirname(os.path.dirname(bpf.__file__)))
    code = (
        f"import sys; before = set(sys.modules); sys.path.insert(0, {root!r}); "
        "import pylsm.loader; print(*(set(sys.modules) - before))"
    )
    loaded = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "pylsm.loader.maps" in loaded
    assert not heavy & set(loaded), "imported on the start path"
