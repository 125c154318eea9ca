"""Processes made to order, and what an audit says of them."""

from __future__ import annotations

import ctypes
import os
import pickle
import time
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

from pylsm.audit.events import Connect, Event, FileOpen
from pylsm.audit.session import Audit, Counts
from pylsm.loader.bpf import kernel_release

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long

#: In an emulated machine (tools/vm), where a start of pylsm takes a second, or some.
EMULATED = bool(os.environ.get("PYLSM_VM"))
X86_64 = os.uname().machine == "x86_64"
if X86_64:  # arch/x86/entry/syscalls/syscall_64.tbl
    CONNECT, EXIT, OPENAT, NAME_TO_HANDLE_AT, OPEN_BY_HANDLE_AT = 42, 60, 257, 303, 304
    OPEN, CREAT = 2, 85
else:  # include/uapi/asm-generic/unistd.h; it has neither open nor creat
    CONNECT, EXIT, OPENAT, NAME_TO_HANDLE_AT, OPEN_BY_HANDLE_AT = 203, 93, 56, 264, 265
    OPEN = CREAT = -1
OPENAT2 = 437

#: BPF trampolines, which LSM and fentry programs are called by: on arm64 from 6.4 on.
TRAMPOLINES = X86_64 or kernel_release() >= (6, 4)
#: The backends that a kernel of tools/vm is known to have, best first.
BACKENDS = ("lsm", "fentry", "kprobe", "raw_tracepoint") if TRAMPOLINES else ("kprobe", "raw_tracepoint")
AT_FDCWD = -100
#: What most tests look at; tests/cases/kinds.py has the others.
CONNECTS_AND_OPENS = ("connect", "open")

CLONE_NEWNS, CLONE_NEWPID = 0x20000, 0x20000000
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000


def syscall(number: int, *arguments: Any) -> int:
    """A system call's result, or its negative errno: no library in between."""
    converted = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = int(libc.syscall(ctypes.c_long(number), *converted))
    return result if result >= 0 else -ctypes.get_errno()


def checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno() if result == -1 else -result
        raise OSError(number, os.strerror(number))
    return result


def private_mounts() -> None:
    """A mount namespace of its own for this process."""
    checked(libc.unshare(CLONE_NEWNS))
    checked(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None))


def mount(kind: str, source: str, target: str, flags: int = 0) -> None:
    checked(libc.mount(source.encode(), target.encode(), kind.encode(), flags, None))


class Outcome(NamedTuple):
    """What a process returned, and what the audit saw meanwhile."""

    pid: int
    result: Any
    events: list[Event]
    counts: Counts

    def opens(self, prefix: Any = "") -> list[FileOpen]:
        """Opens of paths that begin so; an interpreter that imports something opens files of its own."""
        wanted = os.fsencode(prefix)
        return [e for e in self.events if isinstance(e, FileOpen) and e.path.startswith(wanted)]

    @property
    def connects(self) -> list[Connect]:
        return [e for e in self.events if isinstance(e, Connect)]


class Worker:
    """A process that waits for `release`, then does its work, whose result is that of `wait`."""

    def __init__(self, work: Callable[[], Any], wanted_pid: int = 0) -> None:
        self._result, write = os.pipe()
        go, self._go = os.pipe()
        self.pid = fork_as(wanted_pid) if wanted_pid else os.fork()
        if not self.pid:
            try:
                os.close(self._go)
                os.close(self._result)
                os.read(go, 1)
                try:
                    value = (True, work())
                except BaseException:
                    value = (False, traceback.format_exc())
                data = memoryview(pickle.dumps(value))
                while data:
                    data = data[os.write(write, data) :]
            finally:
                os._exit(0)
        os.close(write)
        os.close(go)

    def release(self) -> None:
        os.write(self._go, b"g")  # not only closed: a later worker has inherited the pipe
        os.close(self._go)

    def wait(self) -> Any:
        """What the work returned; when this returns, its forked children have ended as well."""
        with open(self._result, "rb") as file:
            data = file.read()
        os.waitpid(self.pid, 0)
        assert data, "the worker ended without a result"
        done, value = pickle.loads(data)
        assert done, f"in the worker:\n{value}"
        return value


class Lab:
    def __init__(self, audit: Audit) -> None:
        self.audit = audit

    def drain(self) -> list[Event]:
        return self.audit.read()

    def run(self, work: Callable[[], Any], *, traced: bool = True, pid: int = 0) -> Outcome:
        """Run ``work`` in a forked process, traced from before its first instruction, and wait for its family."""
        before = self.audit.counts()
        worker = Worker(work, pid)
        if traced:
            self.audit.trace([worker.pid])
        worker.release()
        result = worker.wait()
        self.settle()
        events = self.drain()
        counts = Counts._make(a - b for a, b in zip(self.audit.counts(), before))
        return Outcome(worker.pid, result, events, counts)

    def settle(self) -> None:
        """Until the last of the family has gone through its exit."""
        eventually(lambda: not self.audit.family())


def eventually(condition: Callable[[], Any], seconds: float = 20) -> Any:
    """Wait for a condition; what it returned last."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value or time.monotonic() > deadline:
            return value
        time.sleep(0.01)


def fork_as(pid: int) -> int:
    """fork(2) with a child of that pid in this pid namespace; 0 in the child."""
    for _ in range(200):
        with open("/proc/sys/kernel/ns_last_pid", "w") as file:
            file.write(str(pid - 1))
        child = os.fork()
        if not child:
            if os.getpid() == pid:
                return 0
            os._exit(0)
        if child == pid:
            return child
        os.waitpid(child, 0)
    raise AssertionError(f"pid {pid} was never free")


def sampled(steps: int, of_emulated: int) -> range:
    """Which of many steps to try, each of which takes a start of pylsm: all of them; where that is emulated, one of so
    many, not the same ones on all kernels."""
    if not EMULATED:
        return range(steps)
    return range(sum(kernel_release()) % of_emulated, steps, of_emulated)


def forked(work: Callable[[], Any]) -> int:
    """Do the work in a child of this process; the child's pid, when it has ended."""
    pid = os.fork()
    if not pid:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert status == 0
    return pid


def touch(path: Any) -> None:
    """Open for writing, creating it, and close."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o644))


def look(path: Any) -> None:
    """Open for reading and close."""
    os.close(os.open(path, os.O_RDONLY))


def deep_directory(base: Any, length: int) -> bytes:
    """Make directories below ``base`` and go there; a file with a name of what is missing to ``length`` has a path of
    that length."""
    os.chdir(base)
    path = os.fsencode(base)
    while len(path) + 251 < length - 2:
        os.mkdir(b"z" * 250)
        os.chdir(b"z" * 250)
        path += b"/" + b"z" * 250
    return path
