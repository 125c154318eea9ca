"""The container: ELF headers, sections, symbols, relocations. Everything is checked before it is believed.

Nothing is read outside of the file or in sizes that the file does not have, so time and memory are bounded by its
length. Formats: the System V ABI, chapter 4; relocation types: Documentation/bpf/llvm_reloc.rst of Linux.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from typing import NamedTuple

from pylsm.loader.elf.errors import ElfError

__all__ = [
    "EM_BPF",
    "SHF_ALLOC",
    "SHF_EXECINSTR",
    "SHF_WRITE",
    "SHN_UNDEF",
    "SHT_NOBITS",
    "SHT_PROGBITS",
    "SHT_REL",
    "STB_LOCAL",
    "STB_WEAK",
    "STT_FUNC",
    "STT_SECTION",
    "Image",
    "Relocation",
    "Section",
    "Symbol",
]

EM_BPF = 247
SHT_PROGBITS, SHT_SYMTAB, SHT_STRTAB, SHT_RELA, SHT_NOBITS, SHT_REL = 1, 2, 3, 4, 8, 9
SHF_WRITE, SHF_ALLOC, SHF_EXECINSTR, SHF_COMPRESSED = 1, 2, 4, 0x800
SHN_UNDEF, SHN_LORESERVE = 0, 0xFF00
STB_LOCAL, STB_WEAK = 0, 2
STT_OBJECT, STT_FUNC, STT_SECTION = 1, 2, 3

#: Larger files are no BPF objects; reading stops there.
MAX_FILE = 32 << 20
_MAX_SECTIONS = 4096
_MAX_NAME = 4096
_HEADER, _SECTION_HEADER, _SYMBOL, _RELOCATION = 64, 64, 24, 16


class Section(NamedTuple):
    """A section: its number and name, SHT_ type, SHF_ flags, bytes (empty for SHT_NOBITS), size, links."""

    number: int
    name: str
    type: int
    flags: int
    data: bytes
    size: int
    link: int
    info: int
    offset: int


class Symbol(NamedTuple):
    """A symbol: STB_ binding, STT_ type, number of its section (0: defined elsewhere), offset in it, size in bytes."""

    number: int
    name: str
    binding: int
    type: int
    section: int
    value: int
    size: int


class Relocation(NamedTuple):
    """A relocation: offset in the section it is for, R_BPF_ type, symbol; ``place`` is for messages."""

    offset: int
    type: int
    symbol: Symbol
    section: str
    place: int


class _Row(NamedTuple):
    """A section header, as the ABI has it."""

    name: int
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    alignment: int
    entry_size: int


class Image:
    """An ELF file of machine BPF in this machine's byte order.

    Args:
        data: the file.
        name: what messages call it.

    Raises:
        ElfError: not such a file, or damaged.
    """

    def __init__(self, data: bytes, name: str) -> None:
        self.name = name
        self._data = data
        self._identify()
        self.sections = self._sections()
        self._by_name: dict[str, Section] = {}
        for section in self.sections:
            self._by_name.setdefault(section.name, section)
        self.symbols = self._symbols()

    def section(self, name: str) -> Section | None:
        """The first section of that name, or None."""
        return self._by_name.get(name)

    def error(self, message: str, section: str = "", offset: int | None = None, hint: str = "") -> ElfError:
        """An error about this file."""
        return ElfError(message, file=self.name, section=section, offset=offset, hint=hint)

    # ---- headers -------------------------------------------------------------------------------------------------

    def _identify(self) -> None:
        data = self._data
        where = "ELF header"
        if data[:4] != b"\x7fELF"[: len(data)] or not data:
            raise self.error(f"begins with {data[:4].hex() or 'nothing'}, not 7f454c46: this is no ELF file", where, 0)
        if len(data) < _HEADER:
            raise self.error(f"the file ends after {len(data)} bytes, the header has {_HEADER}", where, len(data))
        if data[4] != 2:
            raise self.error("not a 64-bit file", where, 4)
        wanted = 1 if sys.byteorder == "little" else 2
        if data[5] != wanted:
            order = {1: "little-endian", 2: "big-endian"}.get(data[5], f"in byte order {data[5]}")
            hint = f"compile it with -target {'bpfel' if wanted == 1 else 'bpfeb'}"
            raise self.error(f"the object is {order}, this machine {sys.byteorder}-endian", where, 5, hint)
        (machine,) = struct.unpack_from("=H", data, 18)
        if machine != EM_BPF:
            raise self.error(
                f"machine {machine}, not BPF ({EM_BPF})", where, 18, "compile it with clang -target bpf -g -O2 -c"
            )
        (kind,) = struct.unpack_from("=H", data, 16)
        if kind != 1:
            raise self.error(f"file type {kind}, not a relocatable object (1)", where, 16)

    def _sections(self) -> list[Section]:
        data = self._data
        (start,) = struct.unpack_from("=Q", data, 40)
        length, count, names = struct.unpack_from("=HHH", data, 58)
        if length != _SECTION_HEADER:
            raise self.error(f"section headers of {length} bytes, not {_SECTION_HEADER}", "ELF header", 58)
        if not 0 < count <= _MAX_SECTIONS:
            raise self.error(f"{count} sections; 1 to {_MAX_SECTIONS} are possible", "ELF header", 60)
        end = start + count * length
        if end > len(data):
            raise self.error(f"section headers end at {end:#x}, the file at {len(data):#x}", "ELF header", 40)
        rows = [_Row(*fields) for fields in struct.iter_unpack("=IIQQQQIIQQ", memoryview(data)[start:end])]
        bodies: list[bytes] = []
        total = 0
        for number, row in enumerate(rows):
            where, place = f"section header {number}", start + number * length
            if row.type == SHT_NOBITS or number == 0:
                bodies.append(b"")
                if row.size > 1 << 32:
                    raise self.error(f"a size of {row.size:#x} bytes", where, place + 32)
                continue
            if row.offset + row.size > len(data):
                raise self.error(
                    f"the section ends at {row.offset + row.size:#x}, the file at {len(data):#x}", where, place + 24
                )
            if row.flags & SHF_COMPRESSED:
                raise self.error("compressed sections are not read", where, place + 8)
            total += row.size
            if total > 2 * len(data):  # else a small file could ask for any amount of memory
                raise self.error("sections overlap", where, place + 24)
            bodies.append(data[row.offset : row.offset + row.size])
        if not 0 < names < count:
            raise self.error(f"the names of sections are in section {names} of {count}", "ELF header", 62)
        found = []
        for number, row in enumerate(rows):
            where = f"section header {number}"
            name = self._string(bodies[names], row.name, where, start + number * length) or f"section {number}"
            body = bodies[number]
            found.append(Section(number, name, row.type, row.flags, body, row.size, row.link, row.info, row.offset))
        return found

    def _string(self, table: bytes, offset: int, section: str, place: int) -> str:
        end = table.find(b"\0", offset, offset + _MAX_NAME)
        if offset >= len(table) or end < 0:
            raise self.error(
                f"no name of at most {_MAX_NAME} bytes at {offset:#x} of a string table of {len(table):#x}",
                section,
                place,
            )
        return table[offset:end].decode("utf-8", "backslashreplace")

    # ---- symbols and relocations ---------------------------------------------------------------------------------

    def _symbols(self) -> list[Symbol]:
        table = next((section for section in self.sections if section.type == SHT_SYMTAB), None)
        if table is None:
            raise self.error("there is none", "symbol table", 0, "was the object stripped?")
        if table.size % _SYMBOL:
            raise self.error(f"{table.size} bytes are no whole number of symbols", table.name, 0)
        if not 0 < table.link < len(self.sections):
            raise self.error(f"names of symbols in section {table.link}, which does not exist", table.name, 0)
        strings = self.sections[table.link].data
        found = []
        for index, row in enumerate(struct.iter_unpack("=IBBHQQ", table.data)):
            name_at, info, _, section, value, size = row
            name = self._string(strings, name_at, table.name, index * _SYMBOL) if name_at else ""
            if len(self.sections) <= section < SHN_LORESERVE:
                raise self.error(
                    f"symbol {name!r} is in section {section}, which does not exist", table.name, index * _SYMBOL
                )
            found.append(Symbol(index, name, info >> 4, info & 15, section, value, size))
        return found

    def relocations(self, section: Section) -> Iterator[Relocation]:
        """The relocations for a section, from all SHT_REL sections that apply to it.

        Raises:
            ElfError: damaged, or with explicit addends, which BPF does not use.
        """
        for table in self.sections:
            if table.type == SHT_RELA and table.info == section.number and table.size:
                raise self.error("relocations with addends (SHT_RELA) are not used for BPF", table.name, 0)
            if table.type != SHT_REL or table.info != section.number:
                continue
            if table.size % _RELOCATION:
                raise self.error(f"{table.size} bytes are no whole number of relocations", table.name, 0)
            for number, (offset, info) in enumerate(struct.iter_unpack("=QQ", table.data)):
                symbol = info >> 32
                if symbol >= len(self.symbols):
                    raise self.error(f"symbol {symbol} does not exist", table.name, number * _RELOCATION)
                if offset >= max(section.size, 1):
                    raise self.error(
                        f"offset {offset:#x} is outside of {section.name}", table.name, number * _RELOCATION
                    )
                yield Relocation(offset, info & 0xFFFFFFFF, self.symbols[symbol], table.name, number * _RELOCATION)
