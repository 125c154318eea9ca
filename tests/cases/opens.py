"""What is recorded of opened files."""

from __future__ import annotations

import ctypes
import os
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cases.lab import (
    AT_FDCWD,
    CREAT,
    MS_BIND,
    NAME_TO_HANDLE_AT,
    OPEN,
    OPEN_BY_HANDLE_AT,
    OPENAT,
    OPENAT2,
    X86_64,
    Lab,
    checked,
    deep_directory,
    libc,
    look,
    mount,
    private_mounts,
    syscall,
    touch,
)

ACCESS = {os.O_RDONLY: "r", os.O_WRONLY: "w", os.O_RDWR: "rw"}


def raw_open(path: bytes, flags: int) -> int:
    return syscall(OPEN, path, flags, 0o600)


def raw_creat(path: bytes, flags: int) -> int:
    return syscall(CREAT, path, 0o600)


def raw_openat(path: bytes, flags: int) -> int:
    return syscall(OPENAT, AT_FDCWD, path, flags, 0o600)


def raw_openat2(path: bytes, flags: int) -> int:
    how = struct.pack("=QQQ", flags, 0, 0)
    return syscall(OPENAT2, AT_FDCWD, path, how, len(how))


def raw_open_by_handle_at(path: bytes, flags: int) -> int:
    handle = ctypes.create_string_buffer(struct.pack("=Ii", 128, 0), 8 + 128)
    mount_id = ctypes.c_int()
    checked(syscall(NAME_TO_HANDLE_AT, AT_FDCWD, path, handle, ctypes.byref(mount_id), 0))
    on_it = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        return syscall(OPEN_BY_HANDLE_AT, on_it, handle, flags)
    finally:
        os.close(on_it)


CALLS = [*([raw_open] if X86_64 else []), raw_openat, raw_openat2, raw_open_by_handle_at]


@pytest.mark.parametrize("flags", ACCESS, ids=ACCESS.values())
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__[4:])
def test_each_call_and_mode(lab: Lab, tmp_path: Path, call: Callable[[bytes, int], int], flags: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"")

    def work() -> os.stat_result:
        fd = checked(call(os.fsencode(path), flags | os.O_APPEND | os.O_NONBLOCK))
        return os.fstat(fd)

    outcome = lab.run(work)
    (event,) = outcome.opens(path)
    found = outcome.result
    assert (event.pid, event.tid, event.path, event.mode) == (
        outcome.pid,
        outcome.pid,
        os.fsencode(path),
        ACCESS[flags],
    )
    assert (event.inode, event.st_dev) == (found.st_ino, found.st_dev)
    kept = os.O_ACCMODE | os.O_APPEND | os.O_NONBLOCK
    assert event.open_flags & kept == flags | os.O_APPEND | os.O_NONBLOCK
    assert not event.basename
    assert not event.truncated


@pytest.mark.skipif(not X86_64, reason="no such system call here")
def test_creat(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "new"
    outcome = lab.run(lambda: raw_creat(os.fsencode(path), 0))
    assert [(e.path, e.mode) for e in outcome.events] == [(os.fsencode(path), "w")]
    assert outcome.counts.recorded == 1


def test_who_and_when(lab: Lab, tmp_path: Path) -> None:
    """Ids and the name are those of the thread at that moment."""

    def work() -> tuple[int, int, int]:
        with open("/proc/self/comm", "wb") as file:
            file.write(b"a b\n\x1b\xff")
        began = time.time_ns()
        os.setresgid(1234, 1234, 1234)
        os.setresuid(0xFFFFFFF0, 0, 0)
        ids = []

        def other() -> None:
            ids.append(threading.get_native_id())
            touch(tmp_path / "file")

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        return began, time.time_ns(), ids[0]

    outcome = lab.run(work)
    (event,) = outcome.opens(tmp_path)
    began, ended, tid = outcome.result
    assert tid != outcome.pid
    assert (event.pid, event.tid, event.uid, event.gid) == (outcome.pid, tid, 0xFFFFFFF0, 1234)
    assert event.comm == b"a b\n\x1b\xff"
    assert began - 50_000_000 <= event.time_ns <= ended + 50_000_000


def test_fifty_opens_are_one_record(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"")
    outcome = lab.run(lambda: [look(path) for _ in range(50)])
    assert [e.path for e in outcome.events] == [os.fsencode(path)]
    assert (outcome.counts.recorded, outcome.counts.deduplicated, outcome.counts.lost) == (1, 49, 0)


def test_hundreds_of_files_again_and_again(lab: Lab, tmp_path: Path) -> None:
    """Each file in each mode once, whichever thread opens it again."""
    files = [tmp_path / f"file{n}" for n in range(200)]
    for path in files:
        path.write_bytes(b"")

    def work() -> None:
        for path in (*files, *files, *files[::-1]):
            for flags in (os.O_RDONLY, os.O_RDWR, os.O_RDONLY):
                os.close(os.open(path, flags))
        thread = threading.Thread(target=lambda: [look(path) for path in files])
        thread.start()
        thread.join()

    outcome = lab.run(work)
    assert [(e.path, e.mode) for e in outcome.events] == [(os.fsencode(f), mode) for f in files for mode in ("r", "rw")]
    assert outcome.counts.deduplicated == len(files) * (1 + 3 + 3 + 1)


def test_an_earlier_read_hides_no_write(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"")

    def work() -> None:
        for _ in range(2):
            for flags in ACCESS:
                os.close(os.open(path, flags))

    outcome = lab.run(work)
    assert [e.mode for e in outcome.opens(path)] == ["r", "w", "rw"]
    assert outcome.counts.deduplicated == 3


def test_a_hard_link_is_the_same_file(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"")
    os.link(tmp_path / "one", tmp_path / "two")
    outcome = lab.run(lambda: (look(tmp_path / "one"), look(tmp_path / "two")))
    assert [e.path for e in outcome.events] == [os.fsencode(tmp_path / "one")]


def test_the_same_inode_number_on_another_filesystem(lab: Lab, tmp_path: Path) -> None:
    def work() -> list[tuple[int, int]]:
        private_mounts()
        found = []
        for name in ("a", "b"):
            directory = tmp_path / name
            directory.mkdir()
            mount("tmpfs", "tmpfs", str(directory))
            touch(directory / "file")
            stat = os.stat(directory / "file")
            found.append((stat.st_ino, stat.st_dev))
        return found

    outcome = lab.run(work)
    (ino_a, dev_a), (ino_b, dev_b) = outcome.result
    assert ino_a == ino_b, "the test needs two files with one inode number"
    assert dev_a != dev_b
    assert [(e.path, e.inode, e.st_dev) for e in outcome.opens(tmp_path)] == [
        (os.fsencode(tmp_path / "a/file"), ino_a, dev_a),
        (os.fsencode(tmp_path / "b/file"), ino_b, dev_b),
    ]


def test_a_new_process_with_the_pid_of_a_dead_one(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"")
    first = lab.run(lambda: look(path))
    second = lab.run(lambda: look(path), pid=first.pid)
    assert second.pid == first.pid
    assert len(first.opens(path)) == len(second.opens(path)) == 1


def test_a_new_program_in_the_same_process(lab: Lab, tmp_path: Path) -> None:
    """exec makes another program of it: what that opens is news."""
    path = tmp_path / "file"
    path.write_bytes(b"x")

    def work() -> None:
        look(path)
        pid = os.fork()
        if not pid:
            look(path)
            look(path)
            os.dup2(os.open("/dev/null", os.O_WRONLY), 1)
            os.execvp("cat", ["cat", str(path), str(path)])
        os.waitpid(pid, 0)

    outcome = lab.run(work)
    parent, child, cat = outcome.opens(path)
    assert parent.pid == outcome.pid
    assert child.pid == cat.pid != parent.pid
    assert cat.comm == b"cat"


def test_a_directory_is_opened_too(lab: Lab, tmp_path: Path) -> None:
    outcome = lab.run(lambda: (os.listdir(tmp_path), None)[1])
    assert [(e.path, e.mode) for e in outcome.events] == [(os.fsencode(tmp_path), "r")]


def test_opened_for_neither_reading_nor_writing(lab: Lab) -> None:
    """Access mode 3 is for ioctl only."""
    outcome = lab.run(lambda: checked(raw_openat(b"/dev/null", 3)))
    assert [(e.path, e.mode) for e in outcome.events] == [(b"/dev/null", "-")]


def test_a_path_handle_is_no_open_until_it_is_reopened(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"")

    def work() -> int:
        handle = os.open(path, os.O_PATH)
        os.open(f"/proc/self/fd/{handle}", os.O_WRONLY)
        return handle

    outcome = lab.run(work)
    assert [(e.path, e.mode) for e in outcome.opens(tmp_path)] == [(os.fsencode(path), "w")]


def test_what_does_not_open_is_not_recorded(lab: Lab, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"")
    secret.chmod(0)
    for parent in [tmp_path, *tmp_path.parents]:
        if parent.stat().st_uid == os.getuid() and not parent.stat().st_mode & 1:
            parent.chmod(parent.stat().st_mode | 0o11)

    def work() -> list[int]:
        os.setresuid(65534, 65534, 65534)
        return [raw_openat(os.fsencode(path), 0) for path in (secret, tmp_path / "nothing", secret / "x")]

    outcome = lab.run(work)
    assert outcome.result == [-13, -2, -20]  # EACCES, ENOENT, ENOTDIR
    assert outcome.events == []


def test_a_deleted_file(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "gone"

    def work() -> int:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.unlink(path)
        os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
        return os.fstat(fd).st_ino

    outcome = lab.run(work)
    created, reopened = outcome.opens(path)
    # The kernel's own word for it, which a name can fake; the flag cannot be faked.
    assert reopened.path == created.path + b" (deleted)"
    assert (created.unlinked, reopened.unlinked) == (False, True)
    assert created.inode == reopened.inode == outcome.result


def test_a_file_without_a_name_is_not_called_root(lab: Lab) -> None:
    def work() -> int:
        fd = os.memfd_create("secret")
        os.open(f"/proc/self/fd/{fd}", os.O_WRONLY)
        return os.fstat(fd).st_ino

    outcome = lab.run(work)
    (event,) = [e for e in outcome.opens() if e.inode == outcome.result and e.mode == "w"]
    assert (event.path, event.unlinked, event.basename) == (b"/memfd:secret (deleted)", True, False)


NAMES = [
    b"new\nline",
    b"esc\x1b[2J",
    b"\xff\xfe",
    "\u202eevil".encode(),
    b" ",
    b"[LSM] open pid=1 comm=x mode=r path=",
    b"n" * 255,
    bytes(set(range(1, 256)) - {ord("/")}),
]


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_hostile_names_arrive_byte_for_byte(lab: Lab, tmp_path: Path, name: bytes) -> None:
    path = os.fsencode(tmp_path) + b"/" + name
    outcome = lab.run(lambda: touch(path))
    assert [e.path for e in outcome.events] == [path]


# --- full paths ---------------------------------------------------------------------------------------------------


def test_hundreds_of_paths_are_what_the_kernel_calls_them(lab: Lab, tmp_path: Path) -> None:
    """Bind mounts, mounts in mounts, mounts over mounts, a chroot; compared with readlink /proc/self/fd/N."""

    def work() -> list[bytes]:
        private_mounts()
        links: list[bytes] = []
        names = os.open("/proc/self/fd", os.O_RDONLY)

        def visit(directory: Any) -> None:
            for index in range(40):
                fd = os.open(f"{directory}/f{index}" + "x" * index, os.O_RDWR | os.O_CREAT, 0o600)
                links.append(os.readlink(os.fsencode(str(fd)), dir_fd=names))
                os.close(fd)

        for name in ("plain/a b/c", "bound", "nested", "over", "root/in/side"):
            (tmp_path / name).mkdir(parents=True)
        visit(tmp_path)
        visit(tmp_path / "plain/a b/c")
        # Another name for a directory; its files are new inodes, so nothing is deduplicated.
        (tmp_path / "plain/behind").mkdir()
        mount("none", str(tmp_path / "plain/behind"), str(tmp_path / "bound"), MS_BIND)
        visit(tmp_path / "bound")
        # A filesystem in a filesystem in a filesystem.
        where = tmp_path / "nested"
        for _ in range(4):
            mount("tmpfs", "tmpfs", str(where))
            visit(where)
            where = where / "deeper"
            where.mkdir()
        # Two filesystems on one mount point: the upper one's files.
        mount("tmpfs", "tmpfs", str(tmp_path / "over"))
        mount("tmpfs", "tmpfs", str(tmp_path / "over"))
        visit(tmp_path / "over")
        # A bind mount of a subdirectory of another filesystem, below a chroot.
        mount("tmpfs", "tmpfs", str(tmp_path / "root"))
        (tmp_path / "root/in/side").mkdir(parents=True)
        (tmp_path / "nested/deeper/fresh").mkdir()
        mount("none", str(tmp_path / "nested/deeper/fresh"), str(tmp_path / "root/in/side"), MS_BIND)
        os.chroot(tmp_path / "root")
        os.chdir("/")
        visit("/in")
        visit("/in/side")
        visit("")
        return links

    outcome = lab.run(work)
    links = outcome.result
    assert len(links) == len(set(links)) == 440
    seen = [event.path for event in outcome.opens() if event.mode == "rw"]
    assert seen == links
    assert not any(event.basename or event.truncated for event in outcome.opens())
    assert links[-1] == b"/f39" + b"x" * 39


def test_the_root_itself(lab: Lab) -> None:
    outcome = lab.run(lambda: os.open("/", os.O_RDONLY))
    assert [e.path for e in outcome.events] == [b"/"]


def test_a_path_of_many_components(lab: Lab, tmp_path: Path) -> None:
    def work() -> bytes:
        os.chdir(tmp_path)
        for _ in range(300):
            os.mkdir("d")
            os.chdir("d")
        return os.readlink(f"/proc/self/fd/{os.open('file', os.O_WRONLY | os.O_CREAT)}".encode())

    outcome = lab.run(work)
    (event,) = [e for e in outcome.opens() if e.path.endswith(b"/file")]
    assert outcome.result == os.fsencode(tmp_path) + b"/d" * 300 + b"/file"
    assert (event.path, event.truncated) == (outcome.result, False)


def test_a_path_longer_than_any_buffer_is_flagged_not_dropped(lab: Lab, tmp_path: Path) -> None:
    def work() -> int:
        os.chdir(tmp_path)
        for index in range(20):
            os.mkdir(f"{index:03}" + "y" * 247)
            os.chdir(f"{index:03}" + "y" * 247)
        for _ in range(2):
            look(".")
        touch("file")
        return os.stat("file").st_ino

    outcome = lab.run(work)
    (event,) = [e for e in outcome.opens() if e.inode == outcome.result]
    assert event.truncated
    assert len(event.path) > 4096 - 256
    assert event.path == b"".join(b"/%03d" % i + b"y" * 247 for i in range(4, 20)) + b"/file"


@pytest.mark.parametrize("length", [3000, 4080, 4094, 4095])
def test_the_longest_path_that_open_takes(lab: Lab, tmp_path: Path, length: int) -> None:
    """PATH_MAX is 4096 with its NUL."""

    def work() -> bytes:
        path = deep_directory(tmp_path, length)
        name = b"f" * (length - len(path) - 1)
        fd = os.open(name[:255], os.O_WRONLY | os.O_CREAT)
        assert fd >= 0
        return path + b"/" + name[:255]

    outcome = lab.run(work)
    (event,) = [e for e in outcome.opens() if e.mode == "w"]
    assert len(outcome.result) == length
    assert (event.path, event.truncated, event.basename) == (outcome.result, False, False)


def test_a_lazily_unmounted_filesystem(lab: Lab, tmp_path: Path) -> None:
    """Its files have no path from the root any more: what is left of one is recorded."""

    def work() -> int:
        private_mounts()
        where = tmp_path / "m"
        where.mkdir()
        mount("tmpfs", "tmpfs", str(where))
        os.mkdir(where / "sub")
        directory = os.open(where / "sub", os.O_RDONLY)
        checked(libc.umount2(os.fsencode(where), 2))  # MNT_DETACH
        return os.stat(os.open("orphan", os.O_WRONLY | os.O_CREAT, dir_fd=directory)).st_ino

    outcome = lab.run(work)
    (event,) = [e for e in outcome.opens() if e.inode == outcome.result and e.mode == "w"]
    assert event.path.endswith(b"sub/orphan")
    assert os.fsencode(tmp_path) not in event.path
