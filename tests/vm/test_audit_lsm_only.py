"""What only LSM hooks see, and what only they could break."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from cases.cli import pylsm
from cases.connects import connect, in4
from cases.lab import BACKENDS, CONNECTS_AND_OPENS, OPENAT, TRAMPOLINES, Lab, Worker, checked, forked, syscall, touch

from pylsm.asm import R0, R1, R6, Asm, u64
from pylsm.audit.programs.hooks import Hook
from pylsm.audit.session import Audit, UnavailableError
from pylsm.loader import LoadedProgram

pytestmark = pytest.mark.vm


def test_auto_is_the_best_there_is() -> None:
    with Audit() as audit:
        assert audit.source.name == BACKENDS[0]
        # What is refused says why: no trampolines.
        assert all("arm64 before 6.4" in error.hint for error in audit.refused.values())
        assert (*audit.refused, *BACKENDS) == ("lsm", "fentry", "kprobe", "raw_tracepoint")
    assert pylsm("check").returncode == (0 if TRAMPOLINES else 1)


@pytest.mark.parametrize("backend", BACKENDS[:-1])
def test_a_hook_that_is_not_there(backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the kernel, the hook and the nearest one that there is."""
    monkeypatch.setenv("PYLSM_CACHE", str(tmp_path))  # where no prepared programs are
    section = Hook.section
    monkeypatch.setattr(Hook, "section", lambda hook, name: section(hook, name.replace("file_open", "file_opeen")))
    with pytest.raises(UnavailableError) as caught:
        Audit(source=backend)
    error = caught.value.reasons[backend]
    said = f"{error} {error.hint}"
    assert os.uname().release in said
    assert "file_opeen" in str(error)
    assert "file_open" in said.partition("nearest: ")[2]


def test_the_fallback_works_here_too(tmp_path: Path) -> None:
    """On kernels older than the one that CI runs on."""
    with Audit(source="raw_tracepoint") as audit:
        outcome = Lab(audit).run(lambda: (touch(tmp_path / "x"), forked(lambda: connect(2, 1, in4(1)))))
        assert [e.path for e in outcome.opens()] == [os.fsencode(tmp_path / "x")]
        assert [e.dst_ip for e in outcome.connects] == ["127.0.0.1"]


def test_files_that_execve_opens(lab: Lab) -> None:
    def work() -> None:
        subprocess.run(["/bin/true"], check=True)

    opened = [(os.path.realpath(e.path), e.mode) for e in lab.run(work).opens()]
    assert (os.fsencode(os.path.realpath("/bin/true")), "r") in opened
    assert any(b"/ld-linux" in path for path, _ in opened)


def test_a_script_and_its_interpreter(lab: Lab, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\nexit 0\n")
    script.chmod(0o755)
    opened = {e.path for e in lab.run(lambda: subprocess.run([script], check=True) and None).opens()}
    assert {os.fsencode(script), os.fsencode(os.path.realpath("/bin/sh"))} <= opened


# --- another LSM-BPF program that denies ------------------------------------------------------------------------------


@contextmanager
def denying(hook: str, verdict_slot: int, pid: int) -> Iterator[None]:
    """A program that answers EPERM to one process."""
    a = Asm(f"lsm/{hook}", name="denier")
    a.mov(R6, R1)
    other = a.label("other")
    a.call("get_current_pid_tgid")
    a.rsh(R0, 32)
    a.jne(R0, pid, other)
    a.mov(R0, -errno.EPERM)
    a.exit_()
    a.bind(other)
    a.ldx(R0, u64[R6 + 8 * verdict_slot])
    a.exit_()
    with LoadedProgram.load(a.build(), maps={}) as program, program.attach():
        yield


def attempt(hook: str, path: Path) -> int:
    if hook == "socket_connect":
        return connect(socket.AF_INET, socket.SOCK_DGRAM, in4(9))
    return syscall(OPENAT, -100, os.fsencode(path), os.O_RDONLY)


@pytest.mark.skipif(not TRAMPOLINES, reason="this kernel calls no LSM programs")
@pytest.mark.parametrize("order", ["denier first", "audit first"])
@pytest.mark.parametrize(("hook", "slot"), [("file_open", 1), ("socket_connect", 3)])
def test_a_denial_of_another_program_stands(order: str, hook: str, slot: int, tmp_path: Path) -> None:
    """Whichever was attached first. The last one runs first, and one that denies ends the row."""
    path = tmp_path / "file"
    path.touch()
    worker = Worker(lambda: attempt(hook, path))
    with ExitStack() as stack:
        if order == "denier first":
            stack.enter_context(denying(hook, slot, worker.pid))
        audit = stack.enter_context(Audit(source="lsm", events=CONNECTS_AND_OPENS))
        if order == "audit first":
            stack.enter_context(denying(hook, slot, worker.pid))
        audit.trace([worker.pid])
        worker.release()
        assert worker.wait() == -errno.EPERM
        assert len(audit.read()) == (1 if order == "denier first" else 0)
        # Nobody else is denied, traced or not.
        lab = Lab(audit)
        assert lab.run(lambda: attempt(hook, path)).result >= 0
        assert lab.run(lambda: attempt(hook, path), traced=False).result >= 0


# --- io_uring ---------------------------------------------------------------------------------------------------------

SETUP, ENTER = 425, 426
OP_CONNECT, OP_OPENAT = 16, 18


def io_uring(opcode: int, fd: int, address: int, length: int, offset: int, flags: int) -> int:
    """One operation through a ring of its own; its result, or its negative errno."""
    parameters = ctypes.create_string_buffer(120)
    ring = checked(syscall(SETUP, 4, parameters))
    fields = struct.unpack_from("=10I", parameters, 0)
    sq = struct.unpack_from("=8I", parameters, 40)
    cq = struct.unpack_from("=8I", parameters, 80)
    entries, cq_entries = fields[0], fields[1]
    submission = mmap.mmap(ring, sq[6] + entries * 4, offset=0)
    completion = mmap.mmap(ring, cq[5] + cq_entries * 16, offset=0x8000000)
    sqes = mmap.mmap(ring, entries * 64, offset=0x10000000)
    struct.pack_into("=BBHiQQII", sqes, 0, opcode, 0, 0, fd, offset, address, length, flags)
    struct.pack_into("=I", submission, sq[6], 0)
    struct.pack_into("=I", submission, sq[1], 1)
    checked(syscall(ENTER, ring, 1, 1, 1, 0, 0))
    return int(struct.unpack_from("=Qi", completion, cq[5])[1])


def test_io_uring_opens_and_connects(lab: Lab, tmp_path: Path) -> None:
    path = ctypes.create_string_buffer(os.fsencode(tmp_path / "by io_uring"))
    address = ctypes.create_string_buffer(in4(4321), 16)

    def work() -> Any:
        opened = io_uring(OP_OPENAT, -100, ctypes.addressof(path), 0o600, 0, os.O_WRONLY | os.O_CREAT)
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            return opened, io_uring(OP_CONNECT, sock.fileno(), ctypes.addressof(address), 0, 16, 0)

    try:
        outcome = lab.run(work)
    except AssertionError as error:
        if "Function not implemented" in str(error) or "Operation not permitted" in str(error):
            pytest.skip("this kernel has no io_uring")
        raise
    opened, connected = outcome.result
    assert opened >= 0
    assert connected == 0
    assert [(e.path, e.mode) for e in outcome.opens(tmp_path)] == [(path.value, "w")]
    assert [(e.dst_ip, e.port) for e in outcome.connects] == [("127.0.0.1", 4321)]
