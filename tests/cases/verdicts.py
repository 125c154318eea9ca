"""Observe-only: what a traced process gets from the kernel is what it gets untraced."""

from __future__ import annotations

import ctypes
import os
import resource
import socket
import struct
from pathlib import Path
from typing import Any

from cases.connects import connect, in4, in6
from cases.lab import CONNECT, OPENAT2, Lab, mount, private_mounts, syscall
from cases.opens import raw_creat, raw_open, raw_openat, raw_openat2

FLAGS = (
    *("O_RDONLY", "O_WRONLY", "O_RDWR", "O_PATH", "O_DIRECTORY", "O_NOFOLLOW"),
    *("O_TRUNC", "O_APPEND", "O_TMPFILE", "O_DIRECT", "O_NOATIME"),
)


def operations(directory: Path) -> dict[str, Any]:
    """System calls that open or connect, each with its result or its negative errno."""
    base = os.fsencode(directory)
    got: dict[str, Any] = {}

    def openat(name: bytes, flags: int) -> int:
        fd = raw_openat(base + b"/" + name, flags)
        if fd >= 0:
            os.close(fd)
        return min(fd, 0)

    def everything(who: str) -> None:
        flags = {name: getattr(os, name) for name in FLAGS}
        flags["exclusive"] = os.O_CREAT | os.O_EXCL
        flags["writable"] = os.O_RDWR | os.O_CREAT
        for name in (b"open to all", b"root's own", b"nothing", b"directory", b"link", b"loop", b"fifo", b"file/below"):
            for word, value in flags.items():
                got[f"{who}: {name!r} {word}"] = openat(name, value | os.O_NONBLOCK)
        got[f"{who}: creat"] = min(raw_creat(base + b"/root's own", 0), 0)
        got[f"{who}: read-only"] = openat(b"read-only/file", os.O_WRONLY)
        got[f"{who}: program"] = openat(b"program", os.O_WRONLY)
        got[f"{who}: long name"] = openat(b"n" * 256, 0)
        got[f"{who}: long path"] = openat(b"n/" * 2048, 0)
        got[f"{who}: bad pointer"] = syscall(OPENAT2, -100, ctypes.c_void_p(8), struct.pack("=QQQ", 0, 0, 0), 24)
        got[f"{who}: bad how"] = syscall(OPENAT2, -100, b"/", struct.pack("=QQQ", 1 << 60, 0, 0), 24)
        for call in (raw_open, raw_creat, raw_openat, raw_openat2):
            got[f"{who}: {call.__name__}"] = min(call(b"/dev/null", 1), 0)

        got[f"{who}: bad socket"] = syscall(CONNECT, 999, in4(1), 16)
        got[f"{who}: no socket"] = syscall(CONNECT, os.open("/", os.O_RDONLY), in4(1), 16)
        for family, address in ((socket.AF_INET, in4(0)), (socket.AF_INET6, in6(0))):
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                for length in (0, 1, 2, 8, 15, 16, 23, 24, 27, 28, 128, 129, -1):
                    # Port 0: refused by TCP, and by nobody for UDP.
                    got[f"{who}: connect {family} {kind} {length}"] = connect(
                        family, kind, address.ljust(129, b"\0"), length
                    )

    # One process for both users: root's first.
    for name in ("open to all", "root's own", "program"):
        (directory / name).write_bytes(b"")
    (directory / "open to all").chmod(0o666)
    (directory / "root's own").chmod(0o600)
    (directory / "directory").mkdir()
    (directory / "link").symlink_to("open to all")
    (directory / "loop").symlink_to("loop")
    os.mkfifo(directory / "fifo")
    private_mounts()
    (directory / "read-only").mkdir()
    mount("tmpfs", "tmpfs", str(directory / "read-only"))
    (directory / "read-only/file").touch()
    mount("tmpfs", "tmpfs", str(directory / "read-only"), 0x21)  # MS_REMOUNT | MS_RDONLY
    everything("root")
    # Two connects of one socket, and the state between.
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
        client.connect(server.getsockname())
        got["connected already"] = client.connect_ex(server.getsockname())
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open("/", os.O_RDONLY)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 1, limits[1]))
    got["no descriptor left"] = raw_openat(base, 0)
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    everything("nobody")
    return got


def test_every_result_is_the_same(lab: Lab, tmp_path: Path) -> None:
    for parent in [tmp_path, *tmp_path.parents]:
        if not parent.stat().st_mode & 1:
            parent.chmod(parent.stat().st_mode | 0o11)
    for name in ("untraced", "traced"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o755)
    untraced = lab.run(lambda: operations(tmp_path / "untraced"), traced=False)
    traced = lab.run(lambda: operations(tmp_path / "traced"))
    assert untraced.events == []
    assert len(traced.events) > 50
    assert traced.result == untraced.result
    # The comparison is worth something: there are successes and many kinds of failure.
    assert len(traced.result) > 250
    assert len(set(traced.result.values())) >= 12
