"""Typed pointers: a register that holds a pointer to a kernel type, and paths of fields from it.

``file.f_path.dentry.d_name.name`` is a path: embedded members add to an offset, each pointer crossed ends one load.
The offsets are those of the shapes given at build time only as placeholders; every access carries a `FieldRef` and is
resolved against the running kernel when the program is loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pylsm.asm.errors import FieldError
from pylsm.asm.operands import Address, Mem, Register
from pylsm.asm.references import FieldRef

if TYPE_CHECKING:
    from pylsm.btf import Btf, Member

__all__ = ["Field", "Typed"]


class Typed:
    """A register known to point to a struct or union; an attribute is a `Field` of it."""

    __slots__ = ("_register", "_struct", "_types")

    def __init__(self, register: Register, struct: int, types: Btf) -> None:
        self._register = register
        self._struct = struct
        self._types = types

    def __getattr__(self, name: str) -> Field:
        return Field(self._register, self._types, (), self._struct, "")._step(name)

    def __repr__(self) -> str:
        return f"({self._types.c_name(self._struct)} *){self._register}"


class Field:
    """A field reached from a typed pointer; attributes and indices go further.

    ``_arrows`` are the loads that have to happen first, one `FieldRef` each; ``_struct`` and ``_path`` name the field
    itself.
    """

    __slots__ = ("_arrows", "_member", "_path", "_register", "_struct", "_types")

    def __init__(
        self,
        register: Register,
        types: Btf,
        arrows: tuple[tuple[FieldRef, Member], ...],
        struct: int,
        path: str,
        member: Member | None = None,
    ) -> None:
        self._register = register
        self._types = types
        self._arrows = arrows
        self._struct = struct
        self._path = path
        self._member = member

    def _step(self, name: str) -> Field:
        from pylsm.btf import BtfError

        path = f"{self._path}.{name}" if self._path else name
        try:
            member = self._types.member(self._struct, path)
        except BtfError as error:
            raise FieldError(f"{self._types.c_name(self._struct)} has no field {path}: {error}") from None
        return Field(self._register, self._types, self._arrows, self._struct, path, member)

    def __getattr__(self, name: str) -> Field:
        from pylsm.btf import Kind

        target = self._types.type(self._types.resolve(self._found.type_id))
        if target.kind is not Kind.PTR:
            return self._step(name)
        pointee = self._types.resolve(target.type_id)
        arrows = (*self._arrows, (self._reference, self._found))
        return Field(self._register, self._types, arrows, pointee, "")._step(name)

    def __getitem__(self, index: int) -> Field:
        path = f"{self._path}[{index}]"
        return Field(
            self._register, self._types, self._arrows, self._struct, path, self._types.member(self._struct, path)
        )

    @property
    def _found(self) -> Member:
        assert self._member is not None
        return self._member

    @property
    def _reference(self) -> FieldRef:
        from pylsm.btf import Kind

        struct = self._types.type(self._struct)
        if not struct.name:
            raise FieldError(f"{self._path} lies in an unnamed type: it cannot be named to another kernel")
        return FieldRef(("union " if struct.kind is Kind.UNION else "") + struct.name, self._path)

    def _mem(self, base: Register) -> Mem:
        """The last load of the path, from ``base``."""
        member = self._found
        if member.is_bitfield:
            raise FieldError(f"{self!r} is a bit field: it takes more than one load")
        if member.size not in (1, 2, 4, 8):
            raise FieldError(f"{self!r} is {member.size} bytes: take its address instead")
        return Mem(base, member.offset, member.size, False, self._reference)

    def _address(self, base: Register) -> Address:
        return Address(base, self._found.offset, self._reference)

    def _pointee(self) -> int | None:
        """Type id of the struct this field points to, or None."""
        from pylsm.btf import Kind

        target = self._types.type(self._types.resolve(self._found.type_id))
        if target.kind is not Kind.PTR:
            return None
        pointee = self._types.resolve(target.type_id)
        return pointee if self._types.type(pointee).kind in (Kind.STRUCT, Kind.UNION) else None

    def __repr__(self) -> str:
        steps = [reference.path for reference, _ in self._arrows]
        return "->".join([repr(self._register), *steps, self._path])
