"""Typed pointers: a register that holds a pointer to a kernel type, and paths of fields from it.

``file.f_path.dentry.d_name.name`` is a path: embedded members add to an offset, each pointer crossed ends one load.
Where a field is, nobody knows when the program is built, whatever the shapes given then say: the offset is left 0, and
every access carries a `FieldRef` (or a `BitsRef`) that is resolved against the running kernel when it is loaded.
"""

from __future__ import annotations

from pylsm.asm import opcodes as op
from pylsm.asm.errors import FieldError, caller_line
from pylsm.asm.instruction import Instruction
from pylsm.asm.operands import Address, Mem, Register
from pylsm.asm.references import BitsRef, FieldRef
from pylsm.light import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pylsm.btf import Btf, Member

__all__ = ["Bits", "Field", "Typed", "bits_of", "fill_bits", "renamed"]


class Bits(NamedTuple):
    """A field within the smallest aligned load that holds all of it.

    ``offset`` and ``size`` of the load, in bytes; ``lshift`` and ``rshift`` of the 64-bit register, in bits.
    """

    offset: int
    size: int
    lshift: int
    rshift: int


def bits_of(member: Member, byteorder: str = "little") -> Bits:
    """How to cut a field out of memory with one load and two shifts (as BPF_CORE_READ_BITFIELD of libbpf does).

    Raises:
        FieldError: a field wider than 64 bits, or one that no aligned load of 8 bytes covers.
    """
    width = member.bit_size or member.size * 8
    size = min(member.size, 8)
    first = member.bit_offset
    while True:
        offset = first // 8 // size * size
        if first + width <= (offset + size) * 8:
            break
        size *= 2
        if size > 8:
            raise FieldError(f"{member.name}: no load of 8 bytes covers its {width} bits", line=caller_line())
    before = first - offset * 8
    unused = 64 - size * 8
    lshift = unused + (size * 8 - before - width if byteorder == "little" else before)
    return Bits(offset, size, lshift, 64 - width)


def fill_bits(i: Instruction, reference: BitsRef, member: Member, byteorder: str = "little") -> Instruction:
    """The instruction with what its `BitsRef` stands for, once the field's place in a kernel is known."""
    bits = bits_of(member, byteorder)
    if reference.what == "load":
        return i.replace(opcode=op.LDX | op.MEM | op.SIZE_OF_BYTES[bits.size], off=bits.offset)
    return i.replace(imm=bits.lshift if reference.what == "lshift" else bits.rshift)


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

    __slots__ = ("_alternatives", "_arrows", "_member", "_path", "_register", "_struct", "_types")

    def __init__(
        self,
        register: Register,
        types: Btf,
        arrows: tuple[FieldRef, ...],
        struct: int,
        path: str,
        member: Member | None = None,
        alternatives: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self._register = register
        self._types = types
        self._arrows = arrows
        self._struct = struct
        self._path = path
        self._member = member
        self._alternatives = alternatives

    def _step(self, name: str) -> Field:
        return self._reach(f".{name}" if self._path else name)

    def _reach(self, step: str) -> Field:
        """The field one step further into the same struct."""
        from pylsm.btf import BtfError

        path = self._path + step
        try:
            member = self._types.member(self._struct, path)
        except BtfError as error:
            raise FieldError(
                f"{self._types.c_name(self._struct)} has no field {path}: {error}", line=caller_line()
            ) from None
        alternatives = tuple((struct, other + step) for struct, other in self._alternatives)
        return Field(self._register, self._types, self._arrows, self._struct, path, member, alternatives)

    def __getattr__(self, name: str) -> Field:
        from pylsm.btf import Kind

        target = self._types.type(self._types.resolve(self._found.type_id))
        if target.kind is not Kind.PTR:
            return self._step(name)
        pointee = self._types.resolve(target.type_id)
        arrows = (*self._arrows, self._reference)
        return Field(self._register, self._types, arrows, pointee, "")._step(name)

    def __getitem__(self, index: int) -> Field:
        return self._reach(f"[{index}]")

    @property
    def _found(self) -> Member:
        assert self._member is not None
        return self._member

    @property
    def _reference(self) -> FieldRef:
        from pylsm.btf import Kind

        struct = self._types.type(self._struct)
        if not struct.name:
            raise FieldError(
                f"{self._path} lies in an unnamed type: it cannot be named to another kernel", line=caller_line()
            )
        name = ("union " if struct.kind is Kind.UNION else "") + struct.name
        return FieldRef(name, self._path, "offset", self._alternatives)

    def _mem(self, base: Register) -> Mem:
        """The last load of the path, from ``base``."""
        member = self._found
        if member.is_bitfield:
            raise FieldError(
                f"{self!r} is a bit field", hint="Asm.load cuts it out with two shifts", line=caller_line()
            )
        if member.size not in (1, 2, 4, 8):
            raise FieldError(
                f"{self!r} is {member.size} bytes, no single load", hint="take its address", line=caller_line()
            )
        return Mem(base, 0, member.size, False, self._reference)

    def _bits(self, what: str) -> BitsRef:
        reference = self._reference
        return BitsRef(reference.struct, reference.path, what, reference.alternatives)

    def _address(self, base: Register) -> Address:
        return Address(base, 0, self._reference)

    def _pointee(self) -> int | None:
        """Type id of the struct this field points to, or None."""
        from pylsm.btf import Kind

        target = self._types.type(self._types.resolve(self._found.type_id))
        if target.kind is not Kind.PTR:
            return None
        pointee = self._types.resolve(target.type_id)
        return pointee if self._types.type(pointee).kind in (Kind.STRUCT, Kind.UNION) else None

    def __repr__(self) -> str:
        steps = [reference.path for reference in self._arrows]
        return "->".join([repr(self._register), *steps, self._path])


def renamed(field: Field, *alternatives: str | tuple[str, str]) -> Field:
    """The same field with other names that it has in other kernels, tried in order when the first is not there.

    Args:
        field: for example ``task.__state``; steps taken from the result apply to the alternatives as well.
        alternatives: a path in the same struct ("state"), or (struct, path) where it moved to another one.
    """
    reference = field._reference
    others = tuple((reference.struct, a) if isinstance(a, str) else a for a in alternatives)
    return Field(
        field._register,
        field._types,
        field._arrows,
        field._struct,
        field._path,
        field._member,
        (*reference.alternatives, *others),
    )
