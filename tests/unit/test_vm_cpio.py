"""tools/vm: what the cpio writer writes, cpio(1) reads."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

from vmlib.cpio import Archive

Entry = tuple[str, int, bytes]


def entries(data: bytes) -> list[Entry]:
    """Read newc archives back: (name, mode, contents), the end marker left out."""
    found = []
    at = 0
    while at < len(data):
        if data[at] == 0:  # padding between archives
            at += 1
            continue
        assert data[at : at + 6] == b"070701"
        numbers = [int(data[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        mode, size, name_size = numbers[1], numbers[6], numbers[11]
        name = os.fsdecode(data[at + 110 : at + 110 + name_size - 1])
        body = (at + 110 + name_size + 3) & ~3
        if name != "TRAILER!!!":
            found.append((name, mode, data[body : body + size]))
        at = (body + size + 3) & ~3
    return found


def archive_of(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with Archive(out) as archive:
        for path, data in files.items():
            archive.file(path, data)
    return out.getvalue()


def test_parents_are_made_once_and_first() -> None:
    names = [name for name, _, _ in entries(archive_of({"/a/b/c": b"1", "/a/b/d": b"2"}))]
    assert names == ["a", "a/b", "a/b/c", "a/b/d"]


def test_first_entry_of_a_name_wins() -> None:
    out = io.BytesIO()
    with Archive(out) as archive:
        archive.symlink("/lib", "usr/lib")
        archive.directory("/lib")
        archive.file("/lib", b"")
        assert "/lib" in archive
    assert entries(out.getvalue()) == [("lib", 0o120777, b"usr/lib")]


def test_relative_paths_are_refused() -> None:
    with pytest.raises(ValueError, match="absolute"):
        Archive(io.BytesIO()).file("etc/passwd", b"")


def test_copy_goes_by_way_of_the_same_links(tmp_path: Path) -> None:
    root = tmp_path.resolve()
    (root / "usr/bin").mkdir(parents=True)
    (root / "bin").symlink_to("usr/bin")
    (root / "usr/bin/dash").write_bytes(b"shell")
    (root / "usr/bin/dash").chmod(0o755)
    (root / "usr/bin/sh").symlink_to("dash")
    out = io.BytesIO()
    with Archive(out) as archive:
        assert archive.copy(root / "bin/sh") == f"{root}/usr/bin/dash"
    found = {name: (mode, data) for name, mode, data in entries(out.getvalue())}
    prefix = str(root)[1:]
    assert found[f"{prefix}/bin"] == (0o120777, b"usr/bin")
    assert found[f"{prefix}/usr/bin/sh"] == (0o120777, b"dash")
    assert found[f"{prefix}/usr/bin/dash"] == (0o100755, b"shell")


@given(st.dictionaries(st.from_regex(r"/[a-z]{1,9}\.[a-z]{1,9}", fullmatch=True), st.binary(max_size=99)))
def test_contents_survive(files: dict[str, bytes]) -> None:
    data = archive_of(files)
    assert len(data) % 512 == 0
    assert {f"/{name}": body for name, _, body in entries(data)} == files


@pytest.mark.skipif(shutil.which("cpio") is None, reason="cpio(1) is not installed")
def test_cpio_reads_it(tmp_path: Path) -> None:
    out = io.BytesIO()
    with Archive(out) as archive:
        archive.file("/bin/tool", b"\0\xff\n" * 7, 0o755)
        archive.directory("/tmp", 0o1777)
        archive.symlink("/sbin", "bin")
    listing = subprocess.run(["cpio", "-it", "--quiet"], input=out.getvalue(), capture_output=True, check=True)
    assert listing.stdout.decode().split() == ["bin", "bin/tool", "tmp", "sbin"]
    subprocess.run(["cpio", "-id", "--quiet"], input=out.getvalue(), cwd=tmp_path, check=True)
    assert (tmp_path / "sbin/tool").read_bytes() == b"\0\xff\n" * 7
    assert (tmp_path / "bin/tool").stat().st_mode & 0o7777 == 0o755
    assert (tmp_path / "tmp").stat().st_mode & 0o7777 == 0o1777
