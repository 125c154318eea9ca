"""--btf: a file of this kernel is taken, one of another is refused with both named."""

from __future__ import annotations

import platform
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from pylsm.audit.btf_file import WrongKernel, first_difference, types_from_file
from pylsm.audit.programs.common import KERNEL
from pylsm.audit.session import Audit
from pylsm.btf import Btf, BtfError, BtfWriter

OWN = Path("/sys/kernel/btf/vmlinux")


def test_a_copy_of_the_kernels_own(tmp_path: Path) -> None:
    copy = tmp_path / "vmlinux.btf"
    copy.write_bytes(OWN.read_bytes())
    assert first_difference(types_from_file(str(copy)), Btf.kernel()) == ""


@pytest.mark.root
def test_an_audit_with_a_file(tmp_path: Path) -> None:
    copy = tmp_path / "vmlinux.btf"
    copy.write_bytes(OWN.read_bytes())
    with Audit(source="raw_tracepoint", btf=str(copy)) as audit:
        assert audit.counts().malformed == 0


def test_another_kernels_file_is_refused(tmp_path: Path) -> None:
    writer = BtfWriter()
    writer.struct("file", [("f_mode", writer.int_("unsigned int", 4), 3200)], 500)
    other = tmp_path / "other.btf"
    other.write_bytes(writer.encode())
    with pytest.raises(WrongKernel) as caught:
        types_from_file(str(other))
    assert str(other) in str(caught.value) and platform.release() in str(caught.value)
    assert "file.f_inode is missing in the file, at byte" in str(caught.value)
    assert "leave --btf out" in caught.value.hint


@pytest.mark.root
def test_a_command_is_not_run_with_another_kernels_file(tmp_path: Path) -> None:
    """As a user sees it: file, kernel, what differs and what to do; nothing has been started."""
    writer = BtfWriter()
    writer.struct("file", [("f_mode", writer.int_("unsigned int", 4), 3200)], 500)
    other, made = tmp_path / "other.btf", tmp_path / "made"
    other.write_bytes(writer.encode())
    command = [sys.executable, "-m", "pylsm", "run", "--backend", "raw_tracepoint", "--btf", str(other), "--"]
    done = subprocess.run([*command, "touch", str(made)], capture_output=True, text=True, check=False)
    assert done.returncode == 125 and not made.exists()
    assert done.stderr.startswith(
        f"pylsm: error: {other} is of another kernel than the running one, {platform.release()}: "
        "file.f_inode is missing in the file, at byte"
    )
    assert f"pylsm: hint: this kernel has its own types in {OWN}: leave --btf out" in done.stderr


def vmlinux(types: bytes, build_id: bytes, banner: bytes = b"") -> bytes:
    """An ELF file with no more than what is read of a vmlinux: types, build id and version."""
    note = struct.pack("=III4s", 4, len(build_id), 3, b"GNU\0") + build_id
    names = b"\0.BTF\0.notes\0.rodata\0.shstrtab\0"
    contents = [(b".BTF", 1, types), (b".notes", 7, note), (b".rodata", 1, banner), (b".shstrtab", 3, names)]
    data, headers = bytearray(64), bytes(64)
    for name, kind, content in contents:
        data += bytes(-len(data) % 8)
        headers += struct.pack(
            "=IIQQQQIIQQ", names.index(name + b"\0"), kind, 0, 0, len(data), len(content), 0, 0, 4, 0
        )
        data += content
    data += bytes(-len(data) % 8)
    ident = b"\x7fELF" + bytes([2, 1 if sys.byteorder == "little" else 2, 1]) + bytes(9)
    data[:64] = struct.pack("=16sHHIQQQIHHHHHH", ident, 2, 62, 1, 0, 0, len(data), 0, 64, 0, 0, 64, 5, 4)
    return bytes(data) + headers


def running_build_id() -> bytes:
    notes = Path("/sys/kernel/notes").read_bytes()
    at = notes.index(struct.pack("=II4s", 20, 3, b"GNU\0")) + 12
    return notes[at : at + 20]


def test_a_vmlinux_of_this_kernel(tmp_path: Path) -> None:
    file = tmp_path / "vmlinux"
    file.write_bytes(vmlinux(OWN.read_bytes(), running_build_id()))
    assert first_difference(types_from_file(str(file)), Btf.kernel()) == ""


def test_a_vmlinux_with_another_build_id(tmp_path: Path) -> None:
    """Its types are the same to the byte: only the build id tells."""
    file = tmp_path / "vmlinux"
    file.write_bytes(vmlinux(OWN.read_bytes(), bytes(range(20)), b"Linux version 4.4.0-other (gcc)\0"))
    with pytest.raises(WrongKernel) as caught:
        types_from_file(str(file))
    said = str(caught.value)
    assert f"{file} (Linux 4.4.0-other) has build id 000102030405060708090a0b0c0d0e0f10111213" in said
    assert f"the running kernel {platform.release()} has {running_build_id().hex()}" in said
    assert "vmlinux of this kernel" in caught.value.hint


def test_a_field_that_moved(tmp_path: Path) -> None:
    """The same fields, one of them four bytes further on."""
    ours, writer = Btf.kernel(), BtfWriter()
    file = ours.find_struct("file")
    word = writer.int_("unsigned int", 4)
    names = [
        member.name for id in KERNEL.types() for member in KERNEL.type(id).members if KERNEL.type(id).name == "file"
    ]
    moved = names[-1]
    places = {name: ours.member(file, name).offset + (4 if name == moved else 0) for name in names}
    writer.struct("file", [(name, word, 8 * places[name]) for name in sorted(places, key=places.__getitem__)], 500)
    (tmp_path / "moved.btf").write_bytes(writer.encode())
    said = rf"file\.{moved} is at byte {places[moved]} in the file, at byte {places[moved] - 4} in the kernel"
    with pytest.raises(WrongKernel, match=said):
        types_from_file(str(tmp_path / "moved.btf"))


def test_no_file_and_no_btf(tmp_path: Path) -> None:
    with pytest.raises(BtfError, match="no such file"):
        types_from_file(str(tmp_path / "nothing"))
    (tmp_path / "text").write_text("hello")
    with pytest.raises(BtfError, match="neither BTF nor ELF"):
        types_from_file(str(tmp_path / "text"))
