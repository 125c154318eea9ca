"""Writing BTF that every kernel from 5.10 on accepts.

The kernel checks what it is given (`btf_check_meta` and `btf_resolve` in kernel/bpf/btf.c): names must be C
identifiers, offsets ascend, references point at something. What can be checked early is checked here, where the
mistake is made, because EINVAL from BPF_BTF_LOAD names no Python line.
"""

from __future__ import annotations

import sys
from struct import pack

from pylsm.btf.errors import BtfError
from pylsm.btf.types import Kind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Optional, Union

    from pylsm.btf.reader import Btf

    # (name, type id, bit offset or None for where C would put it[, width in bits of a bitfield])
    MemberSpec = Union[tuple[str, int, Optional[int]], tuple[str, int, Optional[int], int]]

__all__ = ["BtfWriter"]

_MAX_NAME = 127  # KSYM_NAME_LEN is 128 in 5.10
_MAX_VLEN = 0xFFFF  # BTF_MAX_VLEN
_MAX_STRINGS = 0xFFFFFF  # BTF_MAX_NAME_OFFSET
_MAX_DEPTH = 64


#: Kind → which words of a body are names, for a body of so many words.
_NAMES = {
    Kind.STRUCT: lambda length: range(0, length, 3),
    Kind.UNION: lambda length: range(0, length, 3),
    Kind.ENUM: lambda length: range(0, length, 2),
    Kind.ENUM64: lambda length: range(0, length, 3),
    Kind.FUNC_PROTO: lambda length: range(0, length, 2),
}


class BtfWriter:
    """Collects types and gives their ids: 1, 2, … in the order they are added.

    A type that was added before, with the same content, gets the same id again. An id may be used before its
    type is added: `reserve()` gives such an id, and `id=` of the struct, union, typedef … that is added later
    fills it, which is how a struct can point to itself.

    Args:
        byteorder: "little" or "big".
        base: write split BTF that continues this one: its ids can be referred to, new ones count on.

    Every method raises BtfError for what the kernel would refuse or the format cannot hold.
    """

    def __init__(self, byteorder: str = sys.byteorder, *, base: Btf | None = None) -> None:
        if byteorder not in ("little", "big"):
            raise BtfError(f"byteorder is 'little' or 'big', not {byteorder!r}")
        self._order = "<" if byteorder == "little" else ">"
        self._base = base
        self._first = 1 if base is None else len(base) + 1
        self._string_base = 0 if base is None else base.string_end
        self._text = bytearray(b"\0" if base is None else b"")
        self._strings: dict[str, int] = {"": 0}
        self._records: list[tuple[int, ...] | None] = []
        self._known: dict[tuple[int, ...], int] = {}
        self._farthest = (0, "")  # highest id referred to, and by what

    # -- strings -------------------------------------------------------------------------------------------

    def string(self, text: str) -> int:
        """The offset of a string in the string section; it is added the first time.

        Used for names, and for the file names and source lines of BTF.ext's line_info.
        """
        offset = self._strings.get(text)
        if offset is None:
            raw = text.encode("utf-8", "surrogateescape") if _encodable(text) else b"\0"
            if b"\0" in raw:
                raise BtfError(f"{text[:100]!r} cannot be a BTF string")
            offset = self._string_base + len(self._text)
            if offset + len(raw) > _MAX_STRINGS:
                raise BtfError(f"more than {_MAX_STRINGS} bytes of strings", section="string", offset=offset)
            self._text += raw + b"\0"
            self._strings[text] = offset
        return offset

    # -- plain types ---------------------------------------------------------------------------------------

    def int_(
        self,
        name: str,
        size: int,
        signed: bool = False,
        encoding: int | None = None,
        *,
        bits: int | None = None,
    ) -> int:
        """An INT.

        Args:
            name: as in C, "unsigned int".
            size: 1, 2, 4, 8 or 16 bytes.
            signed: shorthand for encoding 1.
            encoding: 0, or one of 1 (signed), 2 (char), 4 (bool).
            bits: width, when less than the size.
        """
        if encoding is None:
            encoding = int(signed)
        if size not in (1, 2, 4, 8, 16):
            raise BtfError(f"int {name!r} of {size} bytes: 1, 2, 4, 8 or 16 are possible")
        if encoding not in (0, 1, 2, 4):
            raise BtfError(f"int {name!r} with encoding {encoding}: 0, 1 (signed), 2 (char) or 4 (bool)")
        width = 8 * size if bits is None else bits
        if not 0 < width <= 8 * size:
            raise BtfError(f"int {name!r} of {size} bytes cannot have {width} bits")
        if not name:
            raise BtfError("an int needs a name")
        return self._add(Kind.INT, self.string(name), False, 0, size, encoding << 24 | width)

    def float_(self, name: str, size: int) -> int:
        """A FLOAT of 2, 4, 8, 12 or 16 bytes."""
        if size not in (2, 4, 8, 12, 16):
            raise BtfError(f"float {name!r} of {size} bytes: 2, 4, 8, 12 or 16 are possible")
        if not name:
            raise BtfError("a float needs a name")
        return self._add(Kind.FLOAT, self.string(name), False, 0, size)

    def ptr(self, type_id: int) -> int:
        """A pointer to a type; 0 for void."""
        return self._refer(Kind.PTR, "", type_id)

    def array(self, element: int, length: int, index_type: int | None = None) -> int:
        """An array of `length` elements (0: flexible); the index is a 32-bit int unless given."""
        self._u32(length, "array length")
        if index_type is None:
            index_type = self.int_("__ARRAY_SIZE_TYPE__", 4)
        self._check(element, "an array")
        self._check(index_type, "an array")
        return self._add(Kind.ARRAY, 0, False, 0, 0, element, index_type, length)

    def const(self, type_id: int) -> int:
        """A const-qualified type."""
        return self._refer(Kind.CONST, "", type_id)

    def volatile(self, type_id: int) -> int:
        """A volatile-qualified type."""
        return self._refer(Kind.VOLATILE, "", type_id)

    def restrict(self, type_id: int) -> int:
        """A restrict-qualified pointer."""
        return self._refer(Kind.RESTRICT, "", type_id)

    def typedef(self, name: str, type_id: int, *, id: int | None = None) -> int:
        """A typedef."""
        return self._refer(Kind.TYPEDEF, _identifier(name, "a typedef"), type_id, id=id)

    def fwd(self, name: str, union: bool = False) -> int:
        """A forward declaration of a struct, or of a union."""
        return self._add(Kind.FWD, self.string(_identifier(name, "a forward declaration")), union, 0, 0)

    # -- structs, unions, enums ----------------------------------------------------------------------------

    def reserve(self) -> int:
        """An id for a type that is added later with `id=`."""
        self._records.append(None)
        return self._first + len(self._records) - 1

    def struct(
        self, name: str, members: Iterable[MemberSpec] = (), size: int | None = None, *, id: int | None = None
    ) -> int:
        """A struct.

        Args:
            name: "" for an anonymous one.
            members: (name, type id, bit offset) or (name, type id, bit offset, width in bits) for a bitfield.
                An offset of None is where C puts the member after the one before it. Offsets must not
                descend.
            size: bytes; None takes the end of the last member, rounded up to the alignment.
            id: an id from `reserve()` that this becomes.
        """
        return self._composite(Kind.STRUCT, name, members, size, id)

    def union(
        self, name: str, members: Iterable[MemberSpec] = (), size: int | None = None, *, id: int | None = None
    ) -> int:
        """A union; arguments as for `struct`, an offset of None is 0."""
        return self._composite(Kind.UNION, name, members, size, id)

    def _composite(self, kind: Kind, name: str, members: Iterable[MemberSpec], size: int | None, id: int | None) -> int:
        what = f"{kind.name.lower()} {name or '(anonymous)'}"
        if name:
            _identifier(name, what)
        body: list[int] = []
        widths: list[int] = []
        end = 0  # bits that are taken
        alignment = 1
        last = 0
        for spec in members:
            member, type_id, offset = spec[:3]
            bits = spec[3] if len(spec) > 3 else 0
            where = f"{what}: member {member or '(anonymous)'}"
            if member:
                _identifier(member, where)
            self._check(type_id, where)
            if offset is None or size is None:
                length, align = self._layout(type_id, where)
                alignment = max(alignment, align)
                if offset is None:
                    offset = 0 if kind is Kind.UNION else _place(end, length, align, bits, where)
                end = max(end, offset + (bits or 8 * length))
            if not 0 <= bits <= 128 or (bits and size is None and bits > 8 * length):
                raise BtfError(f"{where}: a bitfield of {bits} bits does not fit its type")
            if not bits and offset & 7:
                raise BtfError(f"{where}: bit offset {offset} is not at a byte, and this is no bitfield")
            if kind is Kind.UNION and offset:
                raise BtfError(f"{where}: members of a union are at offset 0, not {offset}")
            if offset < last:
                raise BtfError(f"{where}: bit offset {offset} is before the last member's, {last}")
            last = offset
            self._u32(offset, f"{where}: bit offset")
            body += (self.string(member), type_id, offset)
            widths.append(bits)
        if size is None:
            size = -(-end // (8 * alignment)) * alignment
        self._u32(size, f"{what}: size")
        if last > 8 * size:
            raise BtfError(f"{what}: a member at bit {last} is beyond the size of {size} bytes")
        flag = any(widths)
        if flag:
            if last > 0xFFFFFF:
                raise BtfError(f"{what}: with bitfields, offsets end at bit {0xFFFFFF}, and a member is at {last}")
            for number, bits in enumerate(widths):
                body[3 * number + 2] |= bits << 24
        self._vlen(len(widths), what)
        return self._add(kind, self.string(name), flag, len(widths), size, *body, id=id)

    def enum(self, name: str, values: Iterable[tuple[str, int]], size: int = 4, *, signed: bool | None = None) -> int:
        """An ENUM.

        Args:
            name: "" for an anonymous one.
            values: (name, value), each within 32 bits.
            size: 1, 2, 4 or 8 bytes.
            signed: whether values are signed; None: when one of them is negative.
        """
        return self._enum(Kind.ENUM, name, values, size, signed)

    def enum64(self, name: str, values: Iterable[tuple[str, int]], size: int = 8, *, signed: bool | None = None) -> int:
        """An ENUM64 (kernels from 6.0 on); arguments as for `enum`, values within 64 bits."""
        return self._enum(Kind.ENUM64, name, values, size, signed)

    def _enum(self, kind: Kind, name: str, values: Iterable[tuple[str, int]], size: int, signed: bool | None) -> int:
        what = f"enum {name or '(anonymous)'}"
        if name:
            _identifier(name, what)
        if size not in (1, 2, 4, 8):
            raise BtfError(f"{what} of {size} bytes: 1, 2, 4 or 8 are possible")
        listed = list(values)
        width = 32 if kind is Kind.ENUM else 64
        flag = any(value < 0 for _, value in listed) if signed is None else signed
        low, high = (-(1 << (width - 1)), (1 << (width - 1)) - 1) if flag else (0, (1 << width) - 1)
        body: list[int] = []
        for value_name, value in listed:
            _identifier(value_name, f"{what}: enumerator")
            if not low <= value <= high:
                wider = "; use enum64" if kind is Kind.ENUM and -(1 << 63) <= value < 1 << 64 else ""
                sign = "signed" if flag else "unsigned"
                raise BtfError(f"{what}: {value_name} = {value} does not fit {width} {sign} bits{wider}")
            body += (self.string(value_name), value & 0xFFFFFFFF)
            if width == 64:
                body.append(value >> 32 & 0xFFFFFFFF)
        self._vlen(len(listed), what)
        return self._add(kind, self.string(name), flag, len(listed), size, *body)

    # -- functions, variables, tags ------------------------------------------------------------------------

    def func_proto(self, return_type: int, params: Sequence[tuple[str, int]] = ()) -> int:
        """A prototype; parameters are (name, type id), a closing ("", 0) is `...`."""
        self._check(return_type, "a prototype")
        body: list[int] = []
        for number, (name, type_id) in enumerate(params):
            where = f"parameter {number} of a prototype"
            if name:
                _identifier(name, where)
            self._check(type_id, where)
            if type_id == 0 and (name or number != len(params) - 1):
                raise BtfError(f"{where} is void, which only the closing ('', 0) may be")
            body += (self.string(name), type_id)
        self._vlen(len(params), "a prototype")
        return self._add(Kind.FUNC_PROTO, 0, False, len(params), return_type, *body)

    def func(self, name: str, proto: int, linkage: int = 0) -> int:
        """A function.

        Args:
            name: a C identifier.
            proto: id of a FUNC_PROTO whose parameters all have names.
            linkage: 0 static, 1 global, 2 extern (which the kernel refuses; for object files).
        """
        what = f"function {name}"
        _identifier(name, what)
        self._check(proto, what)
        if linkage not in (0, 1, 2):
            raise BtfError(f"{what}: linkage {linkage} is not 0 (static), 1 (global) or 2 (extern)")
        record = self._own(proto)
        if record is not None:
            if record[1] >> 24 & 0x7F != Kind.FUNC_PROTO:
                raise BtfError(f"{what}: type {proto} is no prototype")
            for at in range(3, len(record), 2):
                if record[at] == 0 and record[at + 1]:
                    raise BtfError(f"{what}: parameter {(at - 3) // 2} needs a name")
        return self._add(Kind.FUNC, self.string(name), False, linkage, proto)

    def var(self, name: str, type_id: int, linkage: int = 1) -> int:
        """A variable; linkage 0 static, 1 global, 2 extern."""
        what = f"variable {name}"
        _identifier(name, what)
        self._check(type_id, what)
        if linkage not in (0, 1, 2):
            raise BtfError(f"{what}: linkage {linkage} is not 0 (static), 1 (global) or 2 (extern)")
        return self._add(Kind.VAR, self.string(name), False, 0, type_id, linkage)

    def datasec(self, name: str, variables: Iterable[tuple[int, int, int]], size: int | None = None) -> int:
        """A data section.

        Args:
            name: the section's name: ".maps", ".rodata".
            variables: (id of a VAR, offset in bytes, size in bytes), by ascending offset, not overlapping.
            size: bytes; None takes the end of the last variable.
        """
        what = f"data section {name}"
        if not name or len(name) > _MAX_NAME or not (name.isascii() and name.isprintable()) or " " in name:
            raise BtfError(f"{name!r} is no name for a data section")
        body: list[int] = []
        end = 0
        for var, offset, length in variables:
            self._check(var, what)
            self._u32(offset, f"{what}: offset")
            self._u32(length, f"{what}: size")
            if offset < end:
                raise BtfError(f"{what}: a variable at {offset} begins before the last one ends, {end}")
            end = offset + length
            body += (var, offset, length)
        if size is None:
            size = end
        self._u32(size, f"{what}: size")
        if end > size:
            raise BtfError(f"{what}: variables end at {end}, beyond the size of {size} bytes")
        self._vlen(len(body) // 3, what)
        return self._add(Kind.DATASEC, self.string(name), False, len(body) // 3, size, *body)

    def decl_tag(self, value: str, type_id: int, component: int = -1) -> int:
        """A tag on a declaration: a struct, union, function, variable or typedef.

        Args:
            value: the text of the tag.
            type_id: what it is on.
            component: index of the member or parameter it is on; -1: the declaration itself.
        """
        if not value:
            raise BtfError("a declaration tag needs a value")
        self._check(type_id, "a declaration tag")
        if not -1 <= component <= _MAX_VLEN:
            raise BtfError(f"a declaration tag's component is an index or -1, not {component}")
        return self._add(Kind.DECL_TAG, self.string(value), False, 0, type_id, component & 0xFFFFFFFF)

    def type_tag(self, value: str, type_id: int) -> int:
        """A tag in a type, between a pointer and what it points to ("user", "rcu", "percpu")."""
        if not value:
            raise BtfError("a type tag needs a value")
        return self._refer(Kind.TYPE_TAG, value, type_id)

    # -- whole sets of types -------------------------------------------------------------------------------

    def append(self, types: Btf) -> int:
        """Add all types of other BTF (which has no base), as they are, without looking for what is there already.

        Returns:
            What is to be added to an id there to have it here.

        Raises:
            BtfError: a damaged type; those before it were added.
        """
        from pylsm.btf.dedup import references

        shift = self._first + len(self._records) - 1
        for id in types.types():
            one = types.type(id)
            body = types.body(id)
            for at in _NAMES.get(one.kind, lambda _: range(0))(len(body)):
                body[at] = self.string(types.string(body[at]))
            info = int(one.kind_flag) << 31 | one.kind << 24 | one.vlen
            words = [self.string(one.name), info, one._third, *body]
            for at in references(tuple(words)):
                if words[at] > len(types):
                    raise BtfError(
                        f"type {id} refers to type {words[at]} of {len(types)}", source=types.name, section="type"
                    )
                if words[at]:
                    words[at] += shift
            self._records.append(tuple(words))
        return shift

    def dedup(self) -> list[int]:
        """Make types that say the same one: also structs, unions and prototypes that refer to each other in circles,
        and forward declarations of what is defined. Types of the base are not looked at.

        Returns:
            The new ids, by old id less the first.

        Raises:
            BtfError: as `encode`.
        """
        from pylsm.btf.dedup import deduplicated

        records = self._complete()
        left, ids = deduplicated(records, self._first)
        self._records = list(left)
        self._known = {}
        for id, record in enumerate(left, self._first):
            self._known.setdefault(record, id)
        farthest, where = self._farthest
        self._farthest = (ids[farthest - self._first] if farthest >= self._first else farthest, where)
        return ids

    # -- the result ----------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """The number of types added or reserved, without the base's."""
        return len(self._records)

    def __bool__(self) -> bool:
        return True

    def encode(self) -> bytes:
        """Header, types and strings.

        Raises:
            BtfError: a reserved id was not filled, or an id refers to no type.
        """
        words = [word for record in self._complete() for word in record]
        types = pack(f"{self._order}{len(words)}I", *words)
        header = pack(f"{self._order}HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(self._text))
        return header + types + self._text

    # -- inside --------------------------------------------------------------------------------------------

    def _complete(self) -> list[tuple[int, ...]]:
        """The records, when none is missing."""
        found: list[tuple[int, ...]] = []
        for number, record in enumerate(self._records):
            if record is None:
                raise BtfError(f"type {self._first + number} was reserved and never added", section="type")
            found.append(record)
        farthest, where = self._farthest
        if farthest >= self._first + len(found):
            raise BtfError(f"{where} refers to type {farthest}, which was never added", section="type")
        return found

    def _add(self, kind: Kind, name: int, flag: bool, vlen: int, third: int, *body: int, id: int | None = None) -> int:
        record = (name, int(flag) << 31 | kind << 24 | vlen, third, *body)
        if id is None:
            known = self._known.get(record)
            if known is not None:
                return known
            self._records.append(record)
            id = self._first + len(self._records) - 1
        else:
            number = id - self._first
            if not 0 <= number < len(self._records) or self._records[number] is not None:
                raise BtfError(f"type {id} is not reserved")
            self._records[number] = record
        self._known.setdefault(record, id)
        return id

    def _refer(self, kind: Kind, name: str, type_id: int, *, id: int | None = None) -> int:
        self._check(type_id, f"a {kind.name.lower()}")
        return self._add(kind, self.string(name), False, 0, type_id, id=id)

    def _check(self, type_id: int, where: str) -> None:
        if not 0 <= type_id <= 0x7FFFFFFF:
            raise BtfError(f"{where}: {type_id} is no type id")
        if type_id > self._farthest[0]:
            self._farthest = (type_id, where)

    def _u32(self, value: int, what: str) -> None:
        if not 0 <= value <= 0xFFFFFFFF:
            raise BtfError(f"{what} {value} does not fit 32 bits")

    def _vlen(self, count: int, what: str) -> None:
        if count > _MAX_VLEN:
            raise BtfError(f"{what}: {count} parts, at most {_MAX_VLEN} are possible")

    def _own(self, type_id: int) -> tuple[int, ...] | None:
        number = type_id - self._first
        return self._records[number] if 0 <= number < len(self._records) else None

    def _layout(self, type_id: int, where: str) -> tuple[int, int]:
        """Size and alignment in bytes of a type that was already added."""
        count = 1
        for _ in range(_MAX_DEPTH):
            if 0 < type_id < self._first:
                assert self._base is not None
                return count * self._base.size_of(type_id), self._base.align_of(type_id)
            record = self._own(type_id)
            if record is None:
                break
            kind = record[1] >> 24 & 0x7F
            third = record[2]
            if kind == Kind.PTR:
                return count * 8, 8
            if kind in (Kind.INT, Kind.ENUM, Kind.ENUM64, Kind.FLOAT):
                return count * third, min(third & -third, 16)
            if kind in (Kind.STRUCT, Kind.UNION):
                return count * third, self._alignment(type_id, 0)
            if kind == Kind.ARRAY:
                count *= record[5]
                type_id = record[3]
            elif kind in (Kind.TYPEDEF, Kind.CONST, Kind.VOLATILE, Kind.RESTRICT, Kind.TYPE_TAG):
                type_id = third
            else:
                break
        raise BtfError(f"{where}: the size of type {type_id} is not known, so give offset and size")

    def _alignment(self, type_id: int, depth: int) -> int:
        record = self._own(type_id)
        assert record is not None
        if depth > _MAX_DEPTH:
            raise BtfError(f"type {type_id} contains itself")
        alignment = 1
        for member in set(record[4::3]):
            inner = self._own(member)
            if inner is not None and inner[1] >> 24 & 0x7F in (Kind.STRUCT, Kind.UNION):
                alignment = max(alignment, self._alignment(member, depth + 1))
            else:
                alignment = max(alignment, self._layout(member, "a member")[1])
        return alignment


def _place(end: int, length: int, align: int, bits: int, where: str) -> int:
    """The bit where C puts the next member of a struct whose first `end` bits are taken (System V ABI)."""
    if not bits:
        return -(-end // (8 * align)) * 8 * align
    if not length:
        raise BtfError(f"{where}: a bitfield needs a type with a size")
    unit = 8 * length  # a bitfield does not straddle the units of its type
    return end if end // unit == (end + bits - 1) // unit else -(-end // unit) * unit


def _identifier(name: str, where: str) -> str:
    if not (name.isascii() and name.isidentifier()) or len(name) > _MAX_NAME:
        raise BtfError(f"{where}: {name[:200]!r} is no C identifier of at most {_MAX_NAME} characters")
    return name


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True
