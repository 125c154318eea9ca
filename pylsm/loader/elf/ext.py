""".BTF.ext: which function begins where, which source line made which instruction, and CO-RE relocations.

Layout: Documentation/bpf/btf.rst of Linux, ".BTF.ext section"; offsets of instructions are in bytes here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from pylsm.btf import Btf, BtfError
from pylsm.loader.elf.errors import ElfError

__all__ = ["CoreRelocation", "Ext", "FuncInfo", "LineInfo", "read_ext"]

_WHERE = ".BTF.ext"
_MAGIC = 0xEB9F
_MAX_TEXT = 32 << 20  # names and lines of all records; damaged records could repeat one long string for ever


class FuncInfo(NamedTuple):
    """A function begins at this byte of the section; ``type_id`` is its FUNC."""

    offset: int
    type_id: int


class LineInfo(NamedTuple):
    """From this byte of the section on: file, text of the line, its number and column."""

    offset: int
    file: str
    text: str
    line: int
    column: int


class CoreRelocation(NamedTuple):
    """What an instruction asks of the kernel's types.

    ``offset``: of the instruction in its section, bytes; ``type_id``: local type; ``access``: "0:1:2"; ``kind``: as in
    enum bpf_core_relo_kind; ``place``: of the record in .BTF.ext.
    """

    offset: int
    type_id: int
    access: str
    kind: int
    place: int


class Ext(NamedTuple):
    """Records by name of the section that their offsets count in."""

    functions: dict[str, list[FuncInfo]]
    lines: dict[str, list[LineInfo]]
    relocations: dict[str, list[CoreRelocation]]


def read_ext(data: bytes, btf: Btf, file: str) -> Ext:
    """Read .BTF.ext.

    Args:
        data: the section.
        btf: the object's types, whose strings it uses.
        file: for messages.

    Raises:
        ElfError: damaged; names the offset.
    """

    def bad(message: str, offset: int) -> ElfError:
        return ElfError(message, file=file, section=_WHERE, offset=offset)

    if len(data) < 24:
        raise bad(f"{len(data)} bytes are too few for a header", len(data))
    magic, version, _, length = struct.unpack_from("=HBBI", data)
    if magic != _MAGIC or version != 1:
        raise bad(f"magic {magic:#06x} version {version}, not {_MAGIC:#06x} version 1", 0)
    if not 24 <= length <= len(data):
        raise bad(f"a header of {length} bytes in a section of {len(data)}", 4)

    known: dict[int, str] = {}
    room = _MAX_TEXT

    def string(offset: int, place: int) -> str:
        nonlocal room
        text = known.get(offset)
        if text is None:
            try:
                text = known[offset] = btf.string(offset)
            except BtfError as error:
                raise bad(str(error), place) from None
            room -= len(text)
            if room < 0:
                raise bad(f"more than {_MAX_TEXT >> 20} MiB of text", place)
        return text

    def records(field: int, smallest: int) -> Iterator[tuple[str, int, tuple[int, ...]]]:
        """(section name, place, words) of each record of one of the three parts."""
        if field + 8 > length:
            return  # an older header, without this part
        start, size = struct.unpack_from("=II", data, field)
        at, end = length + start, length + start + size
        if end > len(data):
            raise bad(f"a part ends at {end:#x}, the section at {len(data):#x}", field)
        if not size:
            return
        if size < 4:
            raise bad("a part without the size of its records", field)
        (step,) = struct.unpack_from("=I", data, at)
        at += 4
        if step < smallest or step % 4 or step > 1024:
            raise bad(f"records of {step} bytes, at least {smallest} are needed", at - 4)
        while at < end:
            if at + 8 > end:
                raise bad("the name of a section is cut off", at)
            name_at, count = struct.unpack_from("=II", data, at)
            name = string(name_at, at)
            at += 8
            if at + count * step > end:
                raise bad(f"{count} records of {step} bytes for {name} do not fit", at - 4)
            for _ in range(count):
                yield name, at, struct.unpack_from(f"={smallest // 4}I", data, at)
                at += step

    functions: dict[str, list[FuncInfo]] = {}
    lines: dict[str, list[LineInfo]] = {}
    relocations: dict[str, list[CoreRelocation]] = {}
    for name, _, words in records(8, 8):
        functions.setdefault(name, []).append(FuncInfo(*words))
    for name, place, words in records(16, 16):
        offset, file_at, text_at, column = words
        made = LineInfo(offset, string(file_at, place), string(text_at, place), column >> 10, column & 1023)
        lines.setdefault(name, []).append(made)
    for name, place, words in records(24, 16):
        offset, type_id, access, kind = words
        made_relocation = CoreRelocation(offset, type_id, string(access, place), kind, place)
        relocations.setdefault(name, []).append(made_relocation)
    return Ext(functions, lines, relocations)
