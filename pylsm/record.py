"""A record's layout, written once in construct's notation, and everything that derives from it.

The assembler asks for offsets and widths (`Record.field`), the reader for a fast decoder (`Record.unpacker`), the
loader for BTF (`Record.btf`). Construct's own parser (`Record.construct`) is the oracle in tests: it is too slow for
the hot path, and importing it takes three times as long as starting Python. So the names that records are written with
(``Int32un``, ``Bytes(16)``, ``GreedyBytes``) are here too, and mean what they mean in construct, which is imported only
when `Record.construct` is asked for. Fields of construct itself are taken as well.
"""

from __future__ import annotations

import struct

from pylsm.errors import PylsmError
from pylsm.light import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from construct import Construct

    from pylsm.btf import BtfWriter

__all__ = [
    "Bytes",
    "GreedyBytes",
    "Int8un",
    "Int16ub",
    "Int16un",
    "Int32sn",
    "Int32ub",
    "Int32un",
    "Int64sn",
    "Int64un",
    "LayoutError",
    "Record",
]

# size → (struct's code, C type, C type without a sign)
_C_TYPES = {
    1: ("b", "s8", "u8"),
    2: ("h", "s16", "u16"),
    4: ("i", "s32", "u32"),
    8: ("q", "s64", "u64"),
}


class LayoutError(PylsmError):
    """A layout that C, BTF or the decoder cannot express, or bytes that are no such record."""


class Kind:
    """The type of a field: how construct writes it, the code of its bytes in `struct`, and its size."""

    __slots__ = ("big_endian", "code", "count", "notation", "signed", "size")

    def __init__(self, notation: str, code: str, size: int, count: int = 0) -> None:
        self.notation = notation
        self.code = code.lstrip("><=")
        self.size = size  # of one element; 0: as long as it is
        self.count = count  # 0: a scalar
        self.signed = code[-1].islower() and code[-1] != "s"
        self.big_endian = code[0] == ">"

    def __rtruediv__(self, name: str) -> Field:
        return Field(name, self)


class Field:
    """A named field of a `Kind`: ``"pid" / Int32un``."""

    __slots__ = ("kind", "name")

    def __init__(self, name: str, kind: Kind) -> None:
        self.name = name
        self.kind = kind


Int8un, Int16un, Int32un, Int64un = (Kind(f"Int{8 * size}un", code, size) for code, size in zip("BHIQ", (1, 2, 4, 8)))
Int32sn, Int64sn = Kind("Int32sn", "i", 4), Kind("Int64sn", "q", 8)
Int16ub, Int32ub = Kind("Int16ub", ">H", 2), Kind("Int32ub", ">I", 4)
#: The part of variable length, last in a record.
GreedyBytes = Kind("GreedyBytes", "s", 0)


def Bytes(length: int) -> Kind:
    """``length`` bytes, as one value."""
    return Kind(f"Bytes({length})", f"{length}s", 1, length)


class _Placed:
    """A field at its place."""

    __slots__ = ("big_endian", "code", "count", "name", "offset", "signed", "size")

    def __init__(self, name: str, offset: int, kind: Kind) -> None:
        self.name = name
        self.offset = offset
        self.size = kind.size
        self.count = kind.count
        self.code = kind.code
        self.signed = kind.signed
        self.big_endian = kind.big_endian


class Record:
    """A C struct in a map or in a ring buffer.

    Args:
        name: the struct's name in BTF.
        *fields: ``"pid" / Int32un``, with the kinds of this module or of construct: integers, ``Bytes(n)``,
            ``Array(n, integer)`` and, last, one ``GreedyBytes`` for a part of variable length. Fields lie where C would
            put them: each is aligned to its own size by the definition, no hidden padding.

    Attributes:
        size: bytes of the fixed part.
        tail_name: name of the variable part, or "".
        unpacker: a compiled ``struct.Struct`` of the fixed part; a ``Bytes`` field is one value, an ``Array`` is
            as many values as it has elements. Integers declared big-endian (``Int16ub``) come in host order: swap them.

    Raises:
        LayoutError: a field of another kind, or a misaligned one.
    """

    def __init__(self, name: str, *fields: Field | Construct) -> None:
        self.name = name
        self._written = fields
        self._construct: Construct | None = None
        self.tail_name = ""
        self._fields: dict[str, _Placed] = {}
        offset = 0
        codes = "="
        for field in fields:
            if self.tail_name:
                raise LayoutError(f"{name}.{field.name} comes after the variable part {self.tail_name}")
            kind = field.kind if isinstance(field, Field) else _kind_of(name, field)
            if not kind.size:
                self.tail_name = field.name
                continue
            if offset % kind.size:
                raise LayoutError(f"{name}.{field.name} at byte {offset} is not aligned to its {kind.size} bytes")
            codes += kind.code if kind.code.endswith("s") else f"{kind.count or ''}{kind.code}"
            self._fields[field.name] = _Placed(field.name, offset, kind)
            offset += kind.size * (kind.count or 1)
        self.size = offset
        self.unpacker = struct.Struct(codes)
        assert self.unpacker.size == self.size

    @property
    def construct(self) -> Construct:
        """The construct ``Struct`` of the same layout."""
        if self._construct is None:
            import construct

            def written(field: Field | Construct) -> Construct:
                if not isinstance(field, Field):
                    return field
                if field.kind.count:
                    return field.name / construct.Bytes(field.kind.count)
                return field.name / getattr(construct, field.kind.notation)

            self._construct = construct.Struct(*(written(field) for field in self._written))
        return self._construct

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields of the fixed part, in order."""
        return tuple(self._fields)

    def field(self, name: str) -> tuple[int, int]:
        """(offset, size) of a field in bytes; the variable part has size 0.

        Raises:
            KeyError: no such field; its text lists the fields.
        """
        if name == self.tail_name and name:
            return self.size, 0
        try:
            found = self._fields[name]
        except KeyError:
            raise KeyError(f"it has {', '.join(self._fields)}") from None
        return found.offset, found.size * (found.count or 1)

    def unpack(self, data: bytes | memoryview) -> dict[str, Any]:
        """A record → values by field, the variable part as bytes; equal to what construct parses.

        Raises:
            LayoutError: shorter than the fixed part.
        """
        if len(data) < self.size:
            raise LayoutError(f"{len(data)} bytes are shorter than the {self.size} of {self.name}")
        values = iter(self.unpacker.unpack_from(data))
        out: dict[str, Any] = {}
        for f in self._fields.values():
            if f.count and f.code.endswith("s"):
                out[f.name] = next(values)
            elif f.count:
                out[f.name] = [self._native(f, next(values)) for _ in range(f.count)]
            else:
                out[f.name] = self._native(f, next(values))
        if self.tail_name:
            out[self.tail_name] = bytes(data[self.size :])
        return out

    def _native(self, f: _Placed, value: int) -> int:
        if not f.big_endian:
            return value
        return int.from_bytes(struct.pack("=" + f.code, value), "big", signed=f.signed)

    def pack(self, values: Mapping[str, Any]) -> bytes:
        """Values by field → bytes, through construct."""
        return bytes(self.construct.build(dict(values)))

    def btf(self, writer: BtfWriter) -> int:
        """Write the struct as BTF; the variable part becomes a flexible array of char.

        Returns:
            The struct's type id.
        """
        members: list[tuple[str, int, int | None]] = []
        for f in self._fields.values():
            if f.code.endswith("s"):
                element = writer.int_("u8", 1)
            else:
                element = writer.int_(_C_TYPES[f.size][1 if f.signed else 2], f.size, signed=f.signed)
            members.append((f.name, writer.array(element, f.count) if f.count else element, f.offset * 8))
        if self.tail_name:
            char = writer.int_("char", 1, signed=True)
            members.append((self.tail_name, writer.array(char, 0), self.size * 8))
        return writer.struct(self.name, members, self.size)

    def __repr__(self) -> str:
        return f"Record({self.name}, {self.size} bytes)"


def _kind_of(record: str, field: Construct) -> Kind:
    """What a field of construct's own is here."""
    from construct import Array, FormatField
    from construct import Bytes as Text
    from construct import GreedyBytes as Rest

    inner, count = field.subcon, 0
    if inner is Rest:
        return GreedyBytes
    if isinstance(inner, Array):
        inner, count = inner.subcon, inner.count
    if isinstance(inner, Text) and isinstance(inner.length, int):
        return Bytes(inner.length)
    if isinstance(inner, FormatField) and inner.length in _C_TYPES and inner.fmtstr[1] not in "fde":
        code = _C_TYPES[inner.length][0]
        order = ">" if inner.fmtstr[0] == ">" else ""
        return Kind("", order + (code if inner.fmtstr[1].islower() else code.upper()), inner.length, count)
    raise LayoutError(f"{record}.{field.name}: {inner!r} has no C type that a record can hold")
