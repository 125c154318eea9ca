"""One machine: QEMU, the command's output and status as they come, and an end in every case."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import selectors
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from . import MachineError
from .kernels import Kernel

__all__ = ["Frames", "Machine"]

HEADER = struct.Struct(">cI")
# Virtual time counts instructions; so that runs follow the same path, neither the random numbers of the
# processor (address layout, hash seeds) nor the date come from this machine.
REPEATABLE = ("-icount", "shift=0,sleep=off", "-seed", "1", "-rtc", "base=2026-01-01,clock=vm")
CONSOLE_LINES = 40
PR_SET_PDEATHSIG = 1


class Frames:
    """Cut the byte stream of a serial port into what guest_init.Port.send wrote."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[bytes, bytes]]:
        self._buffer += data
        while len(self._buffer) >= HEADER.size:
            kind, length = HEADER.unpack_from(self._buffer)
            end = HEADER.size + length
            if len(self._buffer) < end:
                return
            yield kind, bytes(self._buffer[HEADER.size : end])
            del self._buffer[:end]


@dataclass
class Machine:
    """How to run one; `run` does."""

    kernel: Kernel
    initramfs: IO[bytes]  # with a file descriptor that QEMU can map, such as a memfd
    lsm: str = "landlock,bpf"
    append: str = ""
    memory: int = 1024
    cpus: int = 1
    cpu: str = ""  # QEMU's -cpu; "": the architecture's
    icount: bool = False
    timeout: float = 600
    console: bool = False
    share_out: Path | None = None
    boot_seconds: float | None = field(default=None, init=False)

    def run(self) -> int:
        """The command's exit status. Its output goes to this process's, kernel messages do not."""
        qemu, package = self.kernel.arch.qemu
        if shutil.which(qemu) is None:
            raise MachineError(f"{qemu} is missing: apt-get install {package}")
        started = time.monotonic()
        read, write = os.pipe()
        with contextlib.ExitStack() as stack:
            port = stack.enter_context(open(read, "rb", buffering=0))
            with open(write, "wb", buffering=0):
                process = subprocess.Popen(
                    self.command(write),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    pass_fds=(write, self.initramfs.fileno()),
                    preexec_fn=_die_with(os.getpid(), ctypes.CDLL(None)),
                )
            stack.callback(process.wait)
            stack.callback(process.kill)
            assert process.stdout is not None
            console = stack.enter_context(process.stdout)
            outbox = stack.enter_context(tempfile.TemporaryFile())
            status = self._listen(port, console, outbox, started)
            if self.share_out:
                outbox.seek(0)
                _unpack(outbox, self.share_out)
            return status

    def command(self, port: int) -> list[str]:
        """QEMU's command line: console on standard output, the command's port on that descriptor."""
        accel = "tcg,thread=single" if self.icount else "tcg,thread=multi"
        arch = self.kernel.arch
        append = [f"console={arch.console}", "panic=-1", "rdinit=/init"]
        if not self.console:
            append.append("quiet")  # a line on a serial console costs milliseconds
        if arch.machine == "x86_64" and not self.icount:
            append.append("no_timer_check")  # on a host that is busy the kernel finds its timer too slow, and panics
        if self.lsm:
            append.append(f"lsm={self.lsm}")
        append.append(self.append)
        return [
            *(arch.qemu[0], "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
            *(
                *arch.options,
                "-cpu",
                self.cpu or arch.cpu,
                "-accel",
                accel,
                "-smp",
                str(self.cpus),
                "-m",
                str(self.memory),
            ),
            *(REPEATABLE if self.icount else ()),
            *("-kernel", str(self.kernel.image), "-initrd", f"/proc/self/fd/{self.initramfs.fileno()}"),
            *("-append", " ".join(append).strip()),
            *("-add-fd", f"fd={port},set=1", "-chardev", "file,id=port,path=/dev/fdset/1,append=on"),
            *("-serial", "stdio", *arch.port),
        ]

    def _listen(self, port: IO[bytes], console: IO[bytes], outbox: IO[bytes], started: float) -> int:
        frames = Frames()
        printed = bytearray()
        streams = {b"o": sys.stdout.buffer, b"e": sys.stderr.buffer, b"t": outbox}
        with selectors.DefaultSelector() as selector:
            selector.register(port, selectors.EVENT_READ)
            selector.register(console, selectors.EVENT_READ)
            while selector.get_map():
                ready = selector.select(max(0, started + self.timeout - time.monotonic()))
                if not ready:
                    raise self._failure(f"timeout after {self.timeout:g} s", printed)
                for key, _ in ready:
                    data = os.read(key.fd, 65536)
                    if not data:
                        selector.unregister(key.fileobj)
                    elif key.fileobj is console:
                        printed += data
                        if self.console:
                            _emit(sys.stderr.buffer, data)
                    else:
                        for kind, payload in frames.feed(data):
                            if kind in streams:
                                _emit(streams[kind], payload)
                            elif kind == b"b":
                                self.boot_seconds = time.monotonic() - started
                            elif kind == b"x":
                                return payload[0]
                            else:
                                raise self._failure(f"init failed: {payload.decode()}", printed)
        panic = re.search(rb"Kernel panic - not syncing: ([^\r\n]*)", printed)
        what = f"kernel panic: {panic[1].decode(errors='replace')}" if panic else "the machine went off"
        raise self._failure(what, printed)

    def _failure(self, what: str, printed: bytearray) -> MachineError:
        """The message with when it was and the end of what the kernel, or QEMU, said."""
        when = "before the command ran" if self.boot_seconds is None else "while the command ran"
        lines = printed.decode(errors="replace").replace("\r", "").strip().splitlines()[-CONSOLE_LINES:]
        if self.console or not lines:
            return MachineError(f"{what}, {when}")
        return MachineError("\n".join([f"{what}, {when}; last console lines:", *(f"  {line}" for line in lines)]))


def _emit(stream: IO[bytes], data: bytes) -> None:
    stream.write(data)
    stream.flush()


def _unpack(archive: IO[bytes], directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=archive) as tar:
        if hasattr(tarfile, "data_filter"):
            tar.extractall(directory, filter="data")
        else:  # before 3.11.4: the archive comes from this checkout's own command
            tar.extractall(directory)


def _die_with(parent: int, libc: ctypes.CDLL) -> Callable[[], None]:
    """For Popen: a machine does not outlive its tools/vm, not even one that was killed with SIGKILL."""

    def prepare() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return prepare
