"""Types of an object file as layouts of map keys and values, which carry their BTF into the kernel."""

from __future__ import annotations

from pylsm.btf import Btf, BtfError, BtfWriter, Kind
from pylsm.btf.types import Type

__all__ = ["TypeLayout", "copy_type"]

_MAX_TYPES = 20_000


class TypeLayout:
    """A type of an object file as a `pylsm.asm.Layout` that can describe itself in BTF.

    Args:
        btf: the object's types.
        id: the type.
    """

    def __init__(self, btf: Btf, id: int) -> None:
        self._btf = btf
        self._id = id
        self.name = btf.c_name(id)
        self.size = btf.size_of(id)

    def field(self, name: str) -> tuple[int, int]:
        """(offset, size) of a member, in bytes; KeyError where there is none."""
        try:
            member = self._btf.member(self._btf.resolve(self._id), name)
        except BtfError as error:
            raise KeyError(str(error)) from None
        return member.offset, member.size

    def btf(self, writer: BtfWriter) -> int:
        """Write the type; returns its id there."""
        return copy_type(self._btf, self._id, writer)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TypeLayout) and other._btf is self._btf and other._id == self._id

    def __hash__(self) -> int:
        return hash(self._id)


def copy_type(btf: Btf, id: int, writer: BtfWriter) -> int:
    """Copy a type and what it is made of; what pointers point to is left out (``void *``), tagged pointers excepted.

    Raises:
        BtfError: damaged types, or more than a map can be made of.
    """
    return _Copier(btf, writer).copy(id)


class _Copier:
    def __init__(self, btf: Btf, writer: BtfWriter) -> None:
        self._btf = btf
        self._writer = writer
        self._known: dict[int, int] = {0: 0}
        self._open: set[int] = set()

    def copy(self, id: int) -> int:
        known = self._known.get(id)
        if known is not None:
            return known
        if id in self._open or len(self._known) > _MAX_TYPES or len(self._open) > 200:
            raise BtfError(f"type {id} contains itself or nests without end", source=self._btf.name)
        self._open.add(id)
        made = self._known[id] = self._make(self._btf.type(id))
        self._open.discard(id)
        return made

    def _make(self, type: Type) -> int:
        writer, kind = self._writer, type.kind
        if kind is Kind.INT:
            return writer.int_(type.name, type.size, encoding=type.encoding, bits=type.bits)
        if kind is Kind.PTR:
            # The kernel looks for tags behind pointers (kptr, percpu_kptr): those are kept, with their structs by name.
            target = self._btf.type(type.type_id)
            if target.kind is not Kind.TYPE_TAG:
                return writer.ptr(0)
            inner = self._btf.type(self._btf.resolve(type.type_id))
            named = writer.fwd(inner.name, union=inner.kind is Kind.UNION) if inner.name and inner.id else 0
            if inner.kind is Kind.STRUCT and inner.name:
                named = writer.struct(inner.name, [], 0)
            return writer.ptr(writer.type_tag(target.name, named))
        if kind is Kind.ARRAY:
            return writer.array(self.copy(type.array.element_id), type.array.length)
        if kind in (Kind.STRUCT, Kind.UNION):
            members = [
                (member.name, self.copy(member.type_id), member.bit_offset, member.bit_size)
                if member.bit_size
                else (member.name, self.copy(member.type_id), member.bit_offset)
                for member in type.members
            ]
            make = writer.struct if kind is Kind.STRUCT else writer.union
            return make(type.name, members, type.size)
        if kind is Kind.ENUM:
            return writer.enum(type.name, [(e.name, e.value) for e in type.enumerators], type.size, signed=type.signed)
        if kind is Kind.ENUM64:
            return writer.enum64(
                type.name, [(e.name, e.value) for e in type.enumerators], type.size, signed=type.signed
            )
        if kind is Kind.TYPEDEF:
            return writer.typedef(type.name, self.copy(type.type_id))
        if kind in (Kind.CONST, Kind.VOLATILE, Kind.RESTRICT, Kind.TYPE_TAG):
            return self.copy(type.type_id)
        if kind is Kind.FLOAT:
            return writer.int_("unsigned int", type.size)
        raise BtfError(f"{self._btf.c_name(type.id)} cannot be part of a map", source=self._btf.name)
