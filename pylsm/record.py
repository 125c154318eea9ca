"""A record's layout, written once with construct, and everything that derives from it.

The assembler asks for offsets and widths (`Record.field`), the reader for a fast decoder (`Record.unpacker`,
`Record.tail`), the loader for BTF (`Record.btf`). Construct itself stays the definition, and the oracle in tests: it
is too slow for the hot path.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from construct import Array, Bytes, Construct, FormatField, GreedyBytes, Struct

from pylsm.errors import PylsmError

if TYPE_CHECKING:
    from pylsm.btf import BtfWriter

__all__ = ["LayoutError", "Record"]

# construct's codes → (struct's code with a fixed size, C type, signed)
_C_TYPES = {
    1: ("b", "s8", "u8"),
    2: ("h", "s16", "u16"),
    4: ("i", "s32", "u32"),
    8: ("q", "s64", "u64"),
}


class LayoutError(PylsmError):
    """A layout that C, BTF or the decoder cannot express, or bytes that are no such record."""


class _Field:
    __slots__ = ("big_endian", "code", "count", "name", "offset", "signed", "size")

    def __init__(
        self, name: str, offset: int, size: int, count: int, code: str, signed: bool, big_endian: bool
    ) -> None:
        self.name = name
        self.offset = offset
        self.size = size  # of one element
        self.count = count  # 0: a scalar
        self.code = code
        self.signed = signed
        self.big_endian = big_endian


class Record:
    """A C struct in a map or in a ring buffer.

    Args:
        name: the struct's name in BTF.
        *fields: construct fields, ``"pid" / Int32un``: integers, ``Bytes(n)``, ``Array(n, integer)`` and, last, one
            ``GreedyBytes`` for a part of variable length. Fields lie where C would put them: each is aligned to its
            own size by the definition, no hidden padding.

    Attributes:
        construct: the construct ``Struct``.
        size: bytes of the fixed part.
        tail_name: name of the variable part, or "".
        unpacker: a compiled ``struct.Struct`` of the fixed part; a ``Bytes`` field is one value, an ``Array`` is
            as many values as it has elements. Integers declared big-endian (``Int16ub``) come in host order: swap them.

    Raises:
        LayoutError: a field of another kind, or a misaligned one.
    """

    def __init__(self, name: str, *fields: Construct) -> None:
        self.name = name
        self.construct = Struct(*fields)
        self.tail_name = ""
        self._fields: dict[str, _Field] = {}
        offset = 0
        codes = "="
        for field in fields:
            if self.tail_name:
                raise LayoutError(f"{name}.{field.name} comes after the variable part {self.tail_name}")
            inner, count = field.subcon, 0
            if inner is GreedyBytes:
                self.tail_name = field.name
                continue
            if isinstance(inner, Array):
                inner, count = inner.subcon, inner.count
            if isinstance(inner, Bytes) and isinstance(inner.length, int):
                made = _Field(field.name, offset, 1, inner.length, f"{inner.length}s", False, False)
                codes += made.code
            elif isinstance(inner, FormatField) and inner.length in _C_TYPES and inner.fmtstr[1] not in "fde":
                signed = inner.fmtstr[1].islower()
                code = _C_TYPES[inner.length][0]
                made = _Field(
                    field.name,
                    offset,
                    inner.length,
                    count,
                    code if signed else code.upper(),
                    signed,
                    inner.fmtstr[0] == ">",
                )
                codes += f"{count or ''}{made.code}"
            else:
                raise LayoutError(f"{name}.{field.name}: {inner!r} has no C type that a record can hold")
            if offset % made.size:
                raise LayoutError(f"{name}.{field.name} at byte {offset} is not aligned to its {made.size} bytes")
            self._fields[field.name] = made
            offset += made.size * (made.count or 1)
        self.size = offset
        self.unpacker = struct.Struct(codes)
        assert self.unpacker.size == self.size

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

    def _native(self, f: _Field, value: int) -> int:
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
