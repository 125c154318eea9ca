"""Prepared images: what was written is read back; what is damaged, cut or foreign is refused; nothing else happens."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylsm.asm import MapType
from pylsm.audit.cache import Cache, kernel_build_id, stamp
from pylsm.loader import image as module
from pylsm.loader.image import MAGIC, Image, ImageError, MapImage, MapTypes, ProgramImage, ProgramTypes

u32 = st.integers(0, (1 << 32) - 1)
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
blobs = st.binary(min_size=1, max_size=40)


def maps(name: str) -> st.SearchStrategy[MapImage]:
    return st.builds(MapImage, st.just(name), u32, u32, u32, u32, u32, st.none() | st.builds(MapTypes, blobs, u32, u32))


@st.composite
def images(draw: st.DrawFn) -> Image:
    made = tuple(draw(maps(name)) for name in draw(st.lists(names, unique=True, max_size=3)))
    programs = []
    for name in draw(st.lists(names, unique=True, max_size=3)):
        slots = draw(st.integers(1, 6))
        reference = (
            st.tuples(st.integers(0, slots - 1), st.sampled_from([m.name for m in made])) if made else st.nothing()
        )
        types = st.builds(ProgramTypes, blobs, st.just(bytes(8)), st.sampled_from([b"", bytes(32)]))
        programs.append(
            ProgramImage(
                name,
                draw(names),
                draw(names),
                draw(u32),
                draw(st.binary(min_size=8 * slots, max_size=8 * slots)),
                tuple(draw(st.lists(reference, max_size=3))) if made else (),
                draw(st.none() | types),
                draw(st.text(st.characters(codec="utf-8"), max_size=9)),
            )
        )
    return Image(made, tuple(programs))


@given(images(), st.binary(max_size=30))
def test_what_was_written_is_read_back(image: Image, key: bytes) -> None:
    assert Image.decode(image.encode(key), key) == image


@given(images(), st.binary(max_size=9), st.binary(max_size=9))
def test_another_key_is_refused(image: Image, one: bytes, other: bytes) -> None:
    if one != other:
        with pytest.raises(ImageError, match="prepared for another"):
            Image.decode(image.encode(one), other)


@given(images(), st.data())
def test_one_changed_byte_or_a_shorter_file_is_refused(image: Image, data: st.DataObject) -> None:
    good = image.encode(b"key")
    at = data.draw(st.integers(0, len(good) - 1))
    flipped = bytearray(good)
    flipped[at] ^= data.draw(st.integers(1, 255))
    for bad in (bytes(flipped), good[:at], good + b"\0"):
        with pytest.raises(ImageError):
            Image.decode(bad, b"key")


@given(st.binary(max_size=400) | images().map(lambda image: image.encode()[40:]), st.data())
def test_any_bytes_with_a_true_digest_are_an_image_or_refused(body: bytes, data: st.DataObject) -> None:
    """Whoever can write there can make the digest too: the reader has to hold without it."""
    changed = bytearray(body)
    for _ in range(data.draw(st.integers(0, 4)) if changed else 0):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    body = bytes(changed)
    try:
        found = Image.decode(MAGIC + module.source_hash(body) + body)
    except ImageError:
        return
    for program in found.programs:
        assert all(slot < len(program.code) // 8 for slot, _ in program.references)
        assert {name for _, name in program.references} <= {map.name for map in found.maps}
    assert Image.decode(found.encode()) == found


@pytest.fixture
def image() -> Image:
    ring = MapImage("ring", MapType.RINGBUF, 0, 0, 4096, 0)
    return Image((ring,), (ProgramImage("p", "socket", "GPL", 0, bytes(16), ((0, "ring"),)),))


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path / "cache" / "pylsm")


def test_a_cache_gives_back_what_was_stored_for_the_same_request_only(folder: str, image: Image) -> None:
    cache = Cache(folder)
    assert cache.load("x", ("a", 1)) is None and not cache.ignored
    cache.store("x", ("a", 1), image)
    assert cache.written == ["x"] and os.listdir(folder) == ["x"], "nothing is left beside it"
    assert (os.stat(folder).st_mode & 0o777, os.stat(f"{folder}/x").st_mode & 0o777) == (0o700, 0o600)
    assert Cache(folder).load("x", ("a", 1)) == image
    other = Cache(folder)
    assert other.load("x", ("a", 2)) is None
    assert "another kernel" in other.ignored["x"]


def test_a_changed_source_file_makes_an_image_stale(folder: str, image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    Cache(folder).store("x", (), image)
    monkeypatch.setattr("pylsm.audit.cache.stamp", lambda: "another")
    assert Cache(folder).load("x", ()) is None


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A package of source files like pylsm's."""
    root = tmp_path / "pylsm"
    for package in ("asm", "audit/programs", "btf", "loader"):
        (root / package).mkdir(parents=True)
        (root / package / "a.py").write_text("x = 1")
    (root / "__init__.py").touch()
    monkeypatch.setattr("pylsm.__file__", str(root / "__init__.py"))
    return root


def test_the_stamp_of_a_checkout_follows_every_source_file(root: Path) -> None:
    (root.parent / "pyproject.toml").touch()
    seen = {stamp()}
    for change in ("asm/a.py", "audit/programs/a.py", "loader/b.py"):
        (root / change).write_text("x = 22")
        seen.add(stamp())
    os.utime(root / "btf" / "a.py", ns=(1, 1))
    seen.add(stamp())
    assert len(seen) == 5


def test_the_stamp_of_what_is_installed_follows_every_file_that_is_replaced(root: Path, tmp_path: Path) -> None:
    seen = {stamp()}
    for change in ("asm/a.py", "audit/programs/a.py", "loader/b.py"):
        (tmp_path / "new").write_text("x = 1")
        os.utime(tmp_path / "new", ns=(1, 1))
        os.replace(tmp_path / "new", root / change)
        seen.add(stamp())
    assert len(seen) == 4 and stamp() in seen


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda file, folder: os.chmod(file, 0o620), "somebody else may write it"),
        (lambda file, folder: os.chmod(folder, 0o777), "somebody else may write it"),
        (lambda file, folder: os.truncate(file, 100), "damaged"),
        (lambda file, folder: Path(file).write_bytes(b"x" * 200), "no image"),
        (lambda file, folder: (os.rename(file, file + "2"), os.symlink(file + "2", file)), "symbolic link"),
        (lambda file, folder: (os.unlink(file), os.mkfifo(file, 0o600)), "no image"),
        (lambda file, folder: (os.rename(folder, folder + "2"), os.symlink(folder + "2", folder)), "Not a directory"),
    ],
    ids=["file-writable", "folder-writable", "truncated", "foreign", "link", "fifo", "folder-link"],
)
def test_what_cannot_be_trusted_is_ignored_and_said(
    folder: str, image: Image, spoil: Callable[[str, str], object], why: str
) -> None:
    Cache(folder).store("x", (), image)
    spoil(f"{folder}/x", folder)
    cache = Cache(folder)
    assert cache.load("x", ()) is None
    assert why in cache.ignored["x"]


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file away: needs root")
def test_a_file_of_another_user_is_ignored(folder: str, image: Image) -> None:
    Cache(folder).store("x", (), image)
    os.chown(f"{folder}/x", 65534, 65534)
    cache = Cache(folder)
    assert cache.load("x", ()) is None
    assert "belongs to uid 65534" in cache.ignored["x"]


def test_a_cache_that_cannot_be_written_says_so_and_no_more(tmp_path: Path, image: Image) -> None:
    (tmp_path / "file").touch()
    cache = Cache(str(tmp_path / "file" / "pylsm"))
    cache.store("x", (), image)
    assert not cache.written and "x" in cache.ignored
    none = Cache("")
    none.store("x", (), image)
    assert none.load("x", ()) is None and not none.ignored


def test_the_kernels_build_id_is_found_among_its_notes(tmp_path: Path) -> None:
    def note(name: bytes, kind: int, contents: bytes) -> bytes:
        head = struct.pack("=III", len(name), len(contents), kind)
        return head + name.ljust(-(-len(name) // 4) * 4, b"\0") + contents.ljust(-(-len(contents) // 4) * 4, b"\0")

    path = tmp_path / "notes"
    path.write_bytes(note(b"Xen\0", 3, b"no") + note(b"GNU\0", 3, bytes(range(20))) + note(b"Linux\0", 256, b"x"))
    assert kernel_build_id(str(path)) == bytes(range(20))
    for cut in range(40):
        path.write_bytes(note(b"GNU\0", 3, bytes(range(20)))[:cut])
        kernel_build_id(str(path))
    assert kernel_build_id(str(tmp_path / "none")) == b""
