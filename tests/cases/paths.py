"""Every path is the one that /proc/PID/fd shows for the same open: each and every one, in order, and no event more."""

from __future__ import annotations

import os
import random
import resource
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from cases.lab import CLONE_NEWNS, CONNECTS_AND_OPENS, MS_BIND, Lab, checked, libc, mount, private_mounts
from pylsm.audit.session import Audit


class Opened(NamedTuple):
    """What a process knows of a file it has just opened."""

    link: bytes
    mode: str
    device: int
    inode: int
    mnt_ns: int
    unlinked: bool


MODES = {os.O_RDONLY: "r", os.O_WRONLY: "w", os.O_RDWR: "rw"}


class Opener:
    """Opens files and writes down how /proc names them; what was opened alike before is no event and not kept."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.done: list[Opened] = []
        self._seen: set[tuple[int, int, int]] = set()
        # All stay open: the number of an inode that is gone would be another's.
        resource.setrlimit(resource.RLIMIT_NOFILE, (20_000, 20_000))

    def open(self, path: bytes, flags: int = os.O_RDWR | os.O_CREAT, *, at: int | None = None) -> int:
        fd = os.open(path, flags, 0o600, dir_fd=at)
        found = os.fstat(fd)
        key = (found.st_dev, found.st_ino, flags & os.O_ACCMODE)
        assert key not in self._seen, "the test opens a file twice alike"
        self._seen.add(key)
        link = os.readlink(b"/proc/self/fd/%d" % fd)
        self.done.append(
            Opened(
                link,
                MODES[flags & os.O_ACCMODE],
                found.st_dev,
                found.st_ino,
                os.stat("/proc/self/ns/mnt").st_ino,
                link.endswith(b" (deleted)") and (found.st_nlink == 0 or not os.path.lexists(path)),
            )
        )
        return fd

    def name(self) -> bytes:
        """A file name of any bytes that a file name may have, short ones more often."""
        length = min(255, int(self.random.paretovariate(0.7)))
        name = bytes(self.random.choice(LETTERS) for _ in range(length))
        return name if name not in (b".", b"..") else b"..."

    def tree(self, top: bytes, files: int) -> None:
        """New files in new directories, most of them a few levels deep, some of them unlinked or renamed at once."""
        directories = [top]
        for _ in range(files):
            if self.random.random() < 0.2:
                directory = self.random.choice(directories) + b"/" + self.name()
                if len(directory) < 3000 and not os.path.lexists(directory):
                    os.mkdir(directory)
                    directories.append(directory)
            path = self.random.choice(directories) + b"/" + self.name()
            if os.path.lexists(path):
                continue
            fd = self.open(path)
            fate = self.random.random()
            if fate < 0.15:
                os.unlink(path)
                self.open(b"/proc/self/fd/%d" % fd, os.O_RDONLY)
            elif fate < 0.3:
                os.rename(path, path[: path.rindex(b"/")] + b"/renamed %d (deleted)" % len(self.done))
                self.open(b"/proc/self/fd/%d" % fd, os.O_WRONLY)


LETTERS = [byte for byte in range(1, 256) if byte != ord("/")]


@pytest.fixture
def backend_lab(backend: str) -> Iterator[Lab]:
    """A lab over an audit of its own with the backend under test."""
    with Audit(source=backend, events=CONNECTS_AND_OPENS) as audit:
        assert audit.source.name == backend
        yield Lab(audit)
        counts = audit.counts()
        assert (counts.leaked, counts.malformed, counts.lost, counts.unreadable) == (0, 0, 0, 0)


def compare(lab: Lab, opener: Opener, work: object) -> list[Opened]:
    """Run ``work`` of the opener traced; its events have to be what it wrote down."""

    def run() -> list[Opened]:
        work()  # type: ignore[operator]
        return opener.done

    outcome = lab.run(run)
    expected: list[Opened] = outcome.result
    seen = [
        Opened(e.path, e.mode, e.st_dev, e.inode, e.mnt_ns, e.unlinked) for e in outcome.opens() if e.pid == outcome.pid
    ]
    for number, (event, wanted) in enumerate(zip(seen, expected)):
        assert event == wanted, f"open {number} of {len(expected)}"
    assert len(seen) == len(expected)
    assert not any(e.truncated or e.basename for e in outcome.opens())
    return expected


def test_trees_on_mounts_of_all_kinds(backend_lab: Lab, tmp_path: Path) -> None:
    opener = Opener(1)
    base = os.fsencode(tmp_path)

    def work() -> None:
        opener.tree(base, 300)
        private_mounts()
        for name in ("tmpfs", "bound", "inner", "new root"):
            (tmp_path / name).mkdir()
        mount("tmpfs", "tmpfs", str(tmp_path / "tmpfs"))
        (tmp_path / "tmpfs/sub").mkdir()
        mount("none", str(tmp_path / "tmpfs/sub"), str(tmp_path / "bound"), MS_BIND)
        opener.tree(base + b"/tmpfs", 300)
        opener.tree(base + b"/bound", 300)
        (tmp_path / "bound/deep").mkdir()
        mount("tmpfs", "tmpfs", str(tmp_path / "bound/deep"))
        opener.tree(base + b"/bound/deep", 200)
        opener.tree(base + b"/tmpfs/sub", 100)
        # A file as a mount point.
        os.mknod(tmp_path / "a file", 0o600)
        os.mknod(tmp_path / "mounted on", 0o600)
        mount("none", str(tmp_path / "a file"), str(tmp_path / "mounted on"), MS_BIND)
        opener.open(base + b"/mounted on", os.O_RDONLY)
        opener.open(base + b"/a file", os.O_WRONLY)
        # Another mount namespace; paths are meant in it.
        checked(libc.unshare(CLONE_NEWNS))
        opener.tree(base + b"/tmpfs", 100)
        # A root of its own, with files opened from outside of it.
        root = tmp_path / "new root"
        mount("tmpfs", "tmpfs", str(root))
        for name in ("proc", "in", "in/side"):
            (root / name).mkdir()
        mount("none", "/proc", str(root / "proc"), MS_BIND)
        mount("none", str(tmp_path / "tmpfs"), str(root / "in/side"), MS_BIND)
        outside = os.open(base, os.O_PATH)
        os.chroot(root)
        os.chdir("/")
        opener.tree(b"", 200)
        opener.tree(b"/in/side", 200)
        opener.open(b"from outside", at=outside)

    done = compare(backend_lab, opener, work)
    assert len(done) > 1500
    assert len({opened.mnt_ns for opened in done}) == 3
    assert sum(opened.unlinked for opened in done) > 100
    assert any(opened.link.endswith(b" (deleted)") and not opened.unlinked for opened in done)


def test_a_tree_as_deep_as_a_path_can_be(backend_lab: Lab, tmp_path: Path) -> None:
    opener = Opener(2)

    def work() -> None:
        private_mounts()
        mount("tmpfs", "tmpfs", str(tmp_path))  # gone with the process
        os.chdir(tmp_path)
        length = len(os.fsencode(tmp_path))
        while length < 4080:
            os.mkdir("d")
            os.chdir("d")
            length += 2
            if length > 2500:
                opener.open(b"f", os.O_WRONLY | os.O_CREAT)

    assert max(len(opened.link) for opened in compare(backend_lab, opener, work)) > 4070


def test_longer_paths_lose_whole_components_at_the_front(backend_lab: Lab, tmp_path: Path) -> None:
    """As much of the end as 4096 bytes with the NUL hold, flagged; /proc names no path as long as that."""

    def work() -> list[tuple[bytes, int]]:
        private_mounts()
        mount("tmpfs", "tmpfs", str(tmp_path))  # gone with the process
        os.chdir(tmp_path)
        names = Opener(5)
        path, opened = os.fsencode(tmp_path), []
        while len(path) < 9000:
            name = b"%d." % len(opened) + names.name()[:240]
            os.mkdir(name)
            os.chdir(name)
            path += b"/" + name
            if len(path) > 3900:
                fd = os.open(b"file", os.O_WRONLY | os.O_CREAT, 0o600)
                opened.append((path + b"/file", os.fstat(fd).st_ino))
        return opened

    outcome = backend_lab.run(work)
    events = {e.inode: e for e in outcome.opens() if e.path.endswith(b"/file")}
    cut = 0
    for path, inode in outcome.result:
        at = next(at for at in range(len(path)) if path[at] == ord("/") and len(path) - at < 4096)
        event = events.pop(inode)
        assert (event.path, event.truncated, event.basename) == (path[at:], at > 0, False)
        cut += at > 0
    assert cut > 20 and cut < len(outcome.result) and not events


def test_files_that_are_in_no_tree(backend_lab: Lab, tmp_path: Path) -> None:
    opener = Opener(3)
    # The others are the same files.
    namespaces = [name for name in sorted(os.listdir("/proc/self/ns")) if not name.endswith("_for_children")]

    def work() -> None:
        again = b"/proc/self/fd/%d"
        for number in range(100):
            unnamed = opener.open(os.fsencode(tmp_path), os.O_TMPFILE | os.O_RDWR)
            opener.open(again % unnamed, os.O_RDONLY)
            memory = os.memfd_create("mem " * (number % 60))
            opener.open(again % memory, os.O_RDONLY)
            reading, writing = os.pipe()
            opener.open(again % reading, os.O_RDONLY | os.O_NONBLOCK)
            opener.open(again % writing, os.O_WRONLY)
        for name in namespaces:
            opener.open(b"/proc/self/ns/" + os.fsencode(name), os.O_RDONLY)
        for device in (b"/dev/null", b"/dev/zero", b"/proc/self/status", b"/proc", b"/sys", b"/"):
            opener.open(device, os.O_RDONLY)

    links = [opened.link for opened in compare(backend_lab, opener, work)]
    for part in (b"pipe:[", b"net:[", b"/memfd:mem ", b"/#"):
        assert any(link.startswith(part) or part in link for link in links), part


def test_sockets_opened_again(backend_lab: Lab) -> None:
    """The kernel refuses that (ENXIO), but only after its security hooks; system calls that fail show no open."""

    def work() -> list[bytes]:
        links = []
        kept = [*socket.socketpair(), socket.socket(), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)]
        for sock in kept:
            name = b"/proc/self/fd/%d" % sock.fileno()
            links.append(os.readlink(name))
            with pytest.raises(OSError, match="No such device or address"):
                os.open(name, os.O_RDWR)
        return links

    outcome = backend_lab.run(work)
    assert all(link.startswith(b"socket:[") for link in outcome.result)
    wanted = [] if backend_lab.audit.source.name == "raw_tracepoint" else outcome.result
    seen = outcome.opens(b"socket:")
    assert [e.path for e in seen] == wanted
    assert [b"socket:[%d]" % e.inode for e in seen] == wanted
    assert {(e.mode, e.unlinked) for e in seen} <= {("rw", False)}


def test_one_open_on_overlayfs_is_one_event(backend_lab: Lab, tmp_path: Path) -> None:
    with open("/proc/filesystems") as file:
        if "\toverlay\n" not in file.read():
            pytest.skip("needs overlayfs: tools/vm --modules overlay")
    opener = Opener(4)
    merged = os.fsencode(tmp_path) + b"/merged"

    def prepare() -> None:
        private_mounts()
        mount("tmpfs", "tmpfs", str(tmp_path))
        for name in ("lower", "upper", "work", "merged", "lower/dir", "lower/dir/deeper"):
            (tmp_path / name).mkdir()
        for number in range(40):
            (tmp_path / f"lower/{number}").write_bytes(b"x")
            (tmp_path / f"lower/dir/deeper/{number}").write_bytes(b"x")
        options = ",".join(f"{name}dir={tmp_path}/{name}" for name in ("lower", "upper", "work"))
        checked(libc.mount(b"overlay", merged, b"overlay", 0, options.encode()))

    def work() -> None:
        for number in range(40):
            for directory in (merged, merged + b"/dir/deeper"):
                name = directory + b"/%d" % number
                opener.open(name, os.O_RDONLY)  # from below
                if number % 2:
                    opener.open(name, os.O_WRONLY)  # copied up
                    opener.open(name, os.O_RDWR)
        opener.tree(merged, 200)
        opener.tree(merged + b"/dir", 100)
        for directory in (b"", b"/dir", b"/dir/deeper"):
            fd = opener.open(merged + directory, os.O_RDONLY)
            os.listdir(fd)  # reads the layers

    def run() -> list[Opened]:
        prepare()
        work()
        return opener.done

    outcome = backend_lab.run(run)
    events = [e for e in outcome.opens() if e.pid == outcome.pid]
    # First what the preparation opened in the layer below, by its own name.
    first = next(number for number, e in enumerate(events) if e.path.startswith(merged + b"/"))
    below = os.fsencode(tmp_path) + b"/"
    odd = [e.path for e in events[:first] if e.path.startswith(below) and not e.path.startswith(below + b"lower/")]
    assert odd in ([], [below + b"work"])  # mount(2) opens that one itself
    # Inode numbers on an overlay are those of a layer or its own, depending on how it is mounted: not compared.
    assert [(e.path, e.mode) for e in events[first:]] == [(opened.link, opened.mode) for opened in outcome.result]
