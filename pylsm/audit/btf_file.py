"""A BTF file for a kernel that has no type information of its own; one of another kernel is refused."""

from __future__ import annotations

import os
import platform

from pylsm.audit.programs.common import KERNEL
from pylsm.btf import Btf, BtfError
from pylsm.errors import PylsmError

__all__ = ["WrongKernel", "types_from_file"]

_OWN = "/sys/kernel/btf/vmlinux"
_NOTES = "/sys/kernel/notes"
_NT_GNU_BUILD_ID = 3


class WrongKernel(PylsmError):
    """The file describes another kernel than the one that runs."""


def types_from_file(path: str) -> Btf:
    """The types in a raw BTF file or a vmlinux, for the running kernel.

    A vmlinux is known by its build id. Raw BTF has none: it is compared with the kernel's own, where there is one, in
    every field that the probe uses; where there is none, the audit's self-test has to tell.

    Raises:
        WrongKernel: it is of another kernel; the message names both and what differs.
        BtfError: the file cannot be read, or holds no BTF.
    """
    types = Btf.from_file(path)
    release = platform.release()
    theirs, ours = _build_id_of_file(path), _running_build_id()
    if theirs and ours and theirs != ours:
        raise WrongKernel(
            f"{path}{_release_of_file(path)} has build id {theirs.hex()}, "
            f"the running kernel {release} has {ours.hex()}",
            hint="give the vmlinux of this kernel (package linux-image-...-dbg)",
        )
    if os.path.exists(_OWN):
        difference = first_difference(types, Btf.kernel())
        if difference:
            raise WrongKernel(
                f"{path} is of another kernel than the running one, {release}: {difference}",
                hint=f"this kernel has its own types in {_OWN}: leave --btf out",
            )
    return types


def first_difference(theirs: Btf, ours: Btf) -> str:
    """The first field used by the probe that is not at the same place in both, in words; "" when there is none."""
    for id in KERNEL.types():
        struct = KERNEL.type(id)
        for member in struct.members:
            places = [_place(types, struct.name, member.name) for types in (theirs, ours)]
            if places[0] != places[1]:
                file, kernel = ("missing" if place is None else f"at byte {place}" for place in places)
                return f"{struct.name}.{member.name} is {file} in the file, {kernel} in the kernel"
    return ""


def _place(types: Btf, struct: str, field: str) -> int | None:
    try:
        return types.member(types.find_struct(struct), field).offset
    except BtfError:
        return None


def _build_id_of_file(path: str) -> bytes | None:
    with open(path, "rb") as file:
        if file.read(4) != b"\x7fELF":
            return None
        from elftools.elf.elffile import ELFFile

        for section in ELFFile(file).iter_sections():
            found = _build_id(section.data()) if section["sh_type"] == "SHT_NOTE" else None
            if found:
                return found
    return None


def _release_of_file(path: str) -> str:
    """ " (Linux 6.1.0-56)" from the banner in a vmlinux; "" where there is none."""
    import mmap
    import re

    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        banner = re.search(rb"Linux version ([\w.+~-]+) ", content)
        return f" (Linux {banner[1].decode()})" if banner else ""


def _running_build_id() -> bytes | None:
    try:
        with open(_NOTES, "rb") as file:
            return _build_id(file.read())
    except OSError:
        return None


def _build_id(notes: bytes) -> bytes | None:
    """The build id among ELF notes: each is three words (length of name, length of data, type), name, data."""
    import struct

    at = 0
    while at + 12 <= len(notes):
        name, size, kind = struct.unpack_from("=III", notes, at)
        data = at + 12 + (name + 3 & ~3)
        if kind == _NT_GNU_BUILD_ID and notes[at + 12 : at + 16] == b"GNU\0":
            return notes[data : data + size]
        at = data + (size + 3 & ~3)
    return None
