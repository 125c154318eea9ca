"""--btf: a file of this kernel is taken, one of another is refused with both named."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from pylsm.audit.btf_file import WrongKernel, first_difference, types_from_file
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


def test_no_file_and_no_btf(tmp_path: Path) -> None:
    with pytest.raises(BtfError, match="no such file"):
        types_from_file(str(tmp_path / "nothing"))
    (tmp_path / "text").write_text("hello")
    with pytest.raises(BtfError, match="neither BTF nor ELF"):
        types_from_file(str(tmp_path / "text"))
