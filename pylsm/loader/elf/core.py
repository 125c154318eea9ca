"""CO-RE: what a compiled program asks of its own types, answered from the kernel's.

The questions (enum bpf_core_relo_kind, include/uapi/linux/bpf.h) and the rules of matching are those of libbpf
(tools/lib/bpf/relo_core.c): types are matched by kind and name without a ``___suffix``, members by name through
anonymous structs and unions, array elements by index. Where a kernel has several types of a name, its first is taken.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

from pylsm.asm import Instruction
from pylsm.asm import opcodes as op
from pylsm.btf import Btf, BtfError, Kind
from pylsm.btf.types import Member, Type

__all__ = ["KINDS", "Answer", "CoreError", "answer", "essential", "patch"]

(
    BYTE_OFFSET,
    BYTE_SIZE,
    FIELD_EXISTS,
    SIGNED,
    LSHIFT_U64,
    RSHIFT_U64,
    TYPE_ID_LOCAL,
    TYPE_ID_TARGET,
    TYPE_EXISTS,
    TYPE_SIZE,
    ENUM_EXISTS,
    ENUM_VALUE,
    TYPE_MATCHES,
) = range(13)
KINDS = (
    "byte offset",
    "byte size",
    "field exists",
    "signed",
    "left shift",
    "right shift",
    "local type id",
    "target type id",
    "type exists",
    "type size",
    "enumerator exists",
    "enumerator value",
    "type matches",
)

_FIELDS = frozenset(range(BYTE_OFFSET, RSHIFT_U64 + 1))
_ENUMS = (Kind.ENUM, Kind.ENUM64)
_COMPOSITES = (Kind.STRUCT, Kind.UNION)
_MAX_DEPTH = 32
_MAX_ACCESSORS = 64
_MAX_STEPS = 100_000
#: What a relocation that cannot be answered leaves: a call of a helper that does not exist. The verifier refuses it
#: only where control gets to it, as behind a check that the field exists it does not.
_POISON = 0xBAD2310


class CoreError(BtfError):
    """A relocation that contradicts the object's own types, or that this kernel's types make ambiguous."""


class Answer(NamedTuple):
    """What to write into an instruction.

    ``value``: None where the kernel has no such thing (the instruction is poisoned); ``local``: what the compiler wrote
    there, to be checked, or None; ``size``, ``local_size``: bytes of the field, 0 where the access has no width;
    ``resizable``: whether a load may take the kernel's width.
    """

    value: int | None
    local: int | None = None
    size: int = 0
    local_size: int = 0
    resizable: bool = True


class _Place(NamedTuple):
    """What an access string leads to: bit offset from the start of the root type; the member, or None for an array
    element or the root itself; its type; the width of a bitfield or 0."""

    bit_offset: int
    member: Member | None
    type_id: int
    bits: int


def essential(name: str) -> str:
    """A type's name without the suffix that tells variants of it apart: "task_struct___old" is task_struct."""
    return name.partition("___")[0] or name


def answer(local: Btf, target: Btf, type_id: int, access: str, kind: int) -> Answer:
    """Answer one relocation.

    Args:
        local: the object's types.
        target: the kernel's.
        type_id, access, kind: of the relocation.

    Raises:
        CoreError: an unknown kind, or an access that the local type does not have.
        BtfError: damaged types.
    """
    if not 0 <= kind < len(KINDS):
        raise CoreError(f"CO-RE relocation kind {kind} is not known")
    root = local.type(type_id)
    if kind == TYPE_ID_LOCAL:
        return Answer(type_id, None)
    indices = _accessors(access)
    if kind in (ENUM_EXISTS, ENUM_VALUE):
        return _enumerator(local, target, root, indices, kind)
    if kind not in _FIELDS:
        if indices != [0]:
            raise CoreError(f"a question about a type has access string {access!r}, not '0'")
        return _whole_type(local, target, root, kind)
    here = _local_place(local, type_id, indices)
    there = None
    for candidate in _candidates(local, target, type_id):
        there = _target_place(local, target, type_id, candidate, indices)
        if there is not None:
            break
    if kind == FIELD_EXISTS:
        return Answer(int(there is not None), 1)
    mine, my_size, my_type, checked = _field(local, here, kind)
    if there is None:
        return Answer(None)
    value, size, type_, _ = _field(target, there, kind)
    return Answer(
        value,
        mine if checked else None,
        size,
        my_size,
        size == my_size or _resizable(local, my_type, target, type_),
    )


def patch(i: Instruction, found: Answer) -> list[Instruction]:
    """The instruction with an answer filled in: one, or two poisoned ones in place of a wide load.

    Raises:
        CoreError: no instruction that a relocation can be for, or not what the compiler should have written there.
    """
    if found.value is None:
        return _poison(i)
    cls = i.opcode & 7
    if cls in (op.ALU, op.ALU64):
        if i.opcode & op.X:
            raise CoreError("a relocation is for arithmetic without a constant")
        _expect(i.imm & op.U32_MAX, found, op.U32_MAX)
        value = found.value & op.U32_MAX if found.value < 1 << 32 else -1
        if value < 0:
            raise CoreError(f"{found.value} does not fit 32 bits")
        return [i.replace(imm=value - (value >> 31 << 32))]
    if i.opcode == op.LDDW:
        _expect(i.imm & op.U64_MAX, found, op.U64_MAX)
        return [i.replace(imm=found.value & op.U64_MAX)]
    if cls in (op.LDX, op.ST, op.STX):
        _expect(i.off, found, None)
        if found.value > op.S16_MAX:
            raise CoreError(f"offset {found.value} does not fit 16 bits")
        if not found.resizable:
            return _poison(i)
        opcode = i.opcode
        if found.size != found.local_size:
            if op.SIZE_BYTES[opcode & 0x18] != found.local_size or found.size not in op.SIZE_OF_BYTES:
                raise CoreError(
                    f"an access of {op.SIZE_BYTES[opcode & 0x18]} bytes to a field of {found.local_size} bytes, "
                    f"which has {found.size} in the kernel"
                )
            opcode = (opcode & ~0x18) | op.SIZE_OF_BYTES[found.size]
        return [i.replace(off=found.value, opcode=opcode)]
    raise CoreError(f"a relocation is for an instruction of opcode {i.opcode:#04x}, which has nothing to fill in")


def _expect(written: int, found: Answer, mask: int | None) -> None:
    """The compiler has written its own answer: anything else means that instruction and record do not belong."""
    if found.local is not None and written != (found.local if mask is None else found.local & mask):
        raise CoreError(f"the instruction holds {written}, by its own types it should be {found.local}")


def _poison(i: Instruction) -> list[Instruction]:
    # A wide load keeps its two slots, so that jumps over it still lead where they did.
    return [Instruction(op.JMP | op.CALL, imm=_POISON, line=i.line)] * i.slots


# ---- access strings --------------------------------------------------------------------------------------------------


def _accessors(access: str) -> list[int]:
    parts = access.split(":")
    if len(parts) > _MAX_ACCESSORS or not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        raise CoreError(f"access string {access[:100]!r} is not made of numbers and colons")
    return [int(part) for part in parts]


def _skip(btf: Btf, id: int) -> int:
    """The type behind typedefs and qualifiers."""
    return btf.resolve(id)


def _local_place(local: Btf, type_id: int, indices: list[int]) -> _Place:
    """Follow an access string in the object's own types."""
    at = _skip(local, type_id)
    offset = indices[0] * local.size_of(at) * 8 if indices[0] else 0
    place = _Place(offset, None, at, 0)
    for index in indices[1:]:
        type_ = local.type(at)
        if type_.kind in _COMPOSITES:
            members = type_.members
            if index >= len(members):
                raise CoreError(f"{local.c_name(at)} has {len(members)} members, no number {index}")
            member = members[index]
            offset += member.bit_offset
            at = _skip(local, member.type_id)
            place = _Place(offset, member, member.type_id, member.bit_size)
        elif type_.kind is Kind.ARRAY:
            array = type_.array
            if index >= array.length > 0:
                raise CoreError(f"{local.c_name(at)} has no element {index}")
            at = _skip(local, array.element_id)
            offset += index * local.size_of(at) * 8
            place = _Place(offset, None, at, 0)
        else:
            raise CoreError(f"{local.c_name(at)} has no members, and its number {index} is asked for")
    return place


def _target_place(local: Btf, target: Btf, type_id: int, candidate: int, indices: list[int]) -> _Place | None:
    """Follow the same access in the kernel's types, by the names of its members; None where there is no such."""
    mine = _skip(local, type_id)
    theirs = _skip(target, candidate)
    if indices[0]:
        try:
            offset = indices[0] * target.size_of(theirs) * 8
        except BtfError:
            return None
    else:
        offset = 0
    place = _Place(offset, None, theirs, 0)
    for position, index in enumerate(indices[1:], 1):
        type_ = local.type(mine)
        if type_.kind in _COMPOSITES:
            member = type_.members[index]
            mine = _skip(local, member.type_id)
            if not member.name:
                # What an anonymous struct holds is found from the struct around it.
                if position == len(indices) - 1:
                    return None
                continue
            found = _named(target, theirs, member.name)
            if found is None or not _fields_compatible(local, mine, target, found.type_id):
                return None
            offset += found.bit_offset
            theirs = _skip(target, found.type_id)
            place = _Place(offset, found, found.type_id, found.bit_size)
        else:
            array = type_.array
            mine = _skip(local, array.element_id)
            kernel_array = target.type(theirs)
            if kernel_array.kind is not Kind.ARRAY:
                return None
            if index >= kernel_array.array.length > 0:
                return None
            theirs = _skip(target, kernel_array.array.element_id)
            offset += index * target.size_of(theirs) * 8
            place = _Place(offset, None, theirs, 0)
    return place


def _named(btf: Btf, id: int, name: str) -> Member | None:
    """A member by name, through anonymous structs and unions; its offset counts from ``id``."""
    from pylsm.btf import BtfNotFound

    if btf.type(id).kind not in _COMPOSITES:
        return None
    try:
        return btf.member(id, name)
    except BtfNotFound:
        return None


def _fields_compatible(local: Btf, mine: int, target: Btf, theirs: int) -> bool:
    """Whether a field may stand for another (bpf_core_fields_are_compat)."""
    for _ in range(_MAX_DEPTH):
        mine, theirs = _skip(local, mine), _skip(target, theirs)
        if mine == 0 or theirs == 0:
            return mine == theirs
        a, b = local.type(mine), target.type(theirs)
        if a.kind in _COMPOSITES and b.kind in _COMPOSITES:
            return True
        if a.kind in _ENUMS and b.kind in _ENUMS:
            return _names_match(a, b, anonymous=True)
        if a.kind is not b.kind:
            return False
        if a.kind is Kind.FWD:
            return _names_match(a, b, anonymous=True)
        if a.kind is Kind.INT:
            return a.bit_shift == 0 and b.bit_shift == 0
        if a.kind is Kind.ARRAY:
            mine, theirs = a.array.element_id, b.array.element_id
            continue
        return a.kind in (Kind.PTR, Kind.FLOAT)
    return False


def _names_match(a: Type, b: Type, *, anonymous: bool = False) -> bool:
    mine, theirs = essential(a.name), essential(b.name)
    return mine == theirs or (anonymous and (not mine or not theirs))


def _candidates(local: Btf, target: Btf, type_id: int) -> list[int]:
    """The kernel's types of the same name and kind."""
    from pylsm.btf import BtfNotFound

    type_ = local.type(type_id)
    name = essential(type_.name)
    if not name or type_id == 0:
        raise CoreError(f"type {type_id} has no name to look for in the kernel")
    kinds = _ENUMS if type_.kind in _ENUMS else (type_.kind,)
    found = []
    for kind in kinds:
        try:
            found.append(target.find(name, kind))
        except BtfNotFound:
            continue
    return found


# ---- fields ----------------------------------------------------------------------------------------------------------


def _field(btf: Btf, place: _Place, kind: int) -> tuple[int, int, int, bool]:
    """(value, bytes of the access or 0, its type, whether the compiler's value can be told for certain)."""
    if place.member is None:
        size = btf.size_of(place.type_id)
        if kind == BYTE_OFFSET:
            return place.bit_offset // 8, size, place.type_id, True
        if kind == BYTE_SIZE:
            return size, 0, 0, True
        raise CoreError(f"{KINDS[kind]} of an array element is not defined")
    id = _skip(btf, place.type_id)
    type_ = btf.type(id)
    start = place.bit_offset
    if place.bits:
        size = btf.size_of(id)
        offset = start // 8 // size * size
        while start + place.bits - offset * 8 > size * 8:
            if size >= 8:
                raise CoreError(f"bitfield {place.member.name} cannot be loaded at once")
            size *= 2
            offset = start // 8 // size * size
        bits = place.bits
    else:
        size, offset = btf.size_of(id), start // 8
        bits = size * 8
    if kind == BYTE_OFFSET:
        if place.bits:
            return offset, 0, 0, False
        while btf.type(id).kind is Kind.ARRAY:
            id = _skip(btf, btf.type(id).array.element_id)
        return offset, btf.size_of(id), id, True
    if kind == BYTE_SIZE:
        return size, 0, 0, not place.bits
    if kind == SIGNED:
        return int(type_.signed), 0, 0, True
    if kind == LSHIFT_U64:
        value = 64 - (start + bits - offset * 8) if sys.byteorder == "little" else (8 - size) * 8 + start - offset * 8
        return value, 0, 0, not place.bits
    return 64 - bits, 0, 0, True


def _resizable(local: Btf, mine: int, target: Btf, theirs: int) -> bool:
    """Whether a load may take the kernel's width: pointers and unsigned integers."""
    a, b = local.type(_skip(local, mine)), target.type(_skip(target, theirs))
    if a.kind is b.kind is Kind.PTR:
        return True
    return a.kind is b.kind is Kind.INT and not a.signed and not b.signed


# ---- types and enumerators -------------------------------------------------------------------------------------------


def _whole_type(local: Btf, target: Btf, root: Type, kind: int) -> Answer:
    for candidate in _candidates(local, target, root.id):
        budget = _Budget()
        if kind == TYPE_MATCHES:
            fits = _match(local, root.id, target, candidate, False, budget, 0)
        else:
            fits = _compatible(local, root.id, target, candidate, budget, 0)
        if fits:
            value = {TYPE_ID_TARGET: candidate, TYPE_EXISTS: 1, TYPE_MATCHES: 1}.get(kind)
            return Answer(target.size_of(candidate) if value is None else value, None)
    # As libbpf: the answer about a type that is not there is 0, also for its id and its size.
    return Answer(0, None)


def _enumerator(local: Btf, target: Btf, root: Type, indices: list[int], kind: int) -> Answer:
    at = local.type(_skip(local, root.id))
    values = at.enumerators
    if at.kind not in _ENUMS or len(indices) != 1 or indices[0] >= len(values):
        raise CoreError(f"{local.c_name(root.id)} has no enumerator {indices}")
    wanted = essential(values[indices[0]].name)
    for candidate in _candidates(local, target, root.id):
        for one in target.type(_skip(target, candidate)).enumerators:
            if essential(one.name) == wanted:
                return Answer(1 if kind == ENUM_EXISTS else one.value & op.U64_MAX, None)
    return Answer(0 if kind == ENUM_EXISTS else None)


class _Budget:
    """Types looked at: two damaged or hostile types could make the comparison take for ever."""

    def __init__(self) -> None:
        self.left = _MAX_STEPS

    def spend(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise CoreError(f"comparing two types takes more than {_MAX_STEPS} steps")


def _compatible(local: Btf, mine: int, target: Btf, theirs: int, budget: _Budget, depth: int) -> bool:
    """Whether types are of a kind: names are the caller's, members not looked at (bpf_core_types_are_compat)."""
    while True:
        budget.spend()
        depth += 1
        if depth > _MAX_DEPTH:
            raise CoreError("types nest too deeply to be compared")
        mine, theirs = _skip(local, mine), _skip(target, theirs)
        a, b = local.type(mine), target.type(theirs)
        if a.kind in _ENUMS and b.kind in _ENUMS:
            return True
        if a.kind is not b.kind:
            return False
        if a.kind is Kind.INT:
            return a.bit_shift == 0 and b.bit_shift == 0
        if a.kind is Kind.PTR:
            mine, theirs = a.type_id, b.type_id
        elif a.kind is Kind.ARRAY:
            mine, theirs = a.array.element_id, b.array.element_id
        elif a.kind is Kind.FUNC_PROTO:
            if len(a.params) != len(b.params):
                return False
            for one, other in zip(a.params, b.params):
                if not _compatible(local, one.type_id, target, other.type_id, budget, depth):
                    return False
            mine, theirs = a.type_id, b.type_id
        else:
            return a.kind in (Kind.VOID, Kind.FWD, *_COMPOSITES)


def _match(local: Btf, mine: int, target: Btf, theirs: int, behind_pointer: bool, budget: _Budget, depth: int) -> bool:
    """Whether the kernel's type has all that the local one has (bpf_core_types_match)."""
    while True:
        budget.spend()
        depth += 1
        if depth > _MAX_DEPTH:
            raise CoreError("types nest too deeply to be compared")
        mine, theirs = _skip(local, mine), _skip(target, theirs)
        a, b = local.type(mine), target.type(theirs)
        if a.kind is Kind.VOID or b.kind is Kind.VOID:
            return a.kind is b.kind
        if not _names_match(a, b):
            return False
        if a.kind is Kind.FWD:
            if behind_pointer and b.kind is not Kind.FWD:
                return b.kind is (Kind.UNION if a.kind_flag else Kind.STRUCT)
            return b.kind is Kind.FWD and a.kind_flag == b.kind_flag
        if a.kind in _ENUMS:
            names = {essential(one.name) for one in b.enumerators} if b.kind in _ENUMS else set()
            return bool(names) and all(essential(one.name) in names for one in a.enumerators)
        if a.kind in _COMPOSITES:
            if behind_pointer:
                return a.kind is b.kind or (b.kind is Kind.FWD and b.kind_flag == (a.kind is Kind.UNION))
            return a.kind is b.kind and _members_match(local, a, target, b, budget, depth)
        if a.kind is not b.kind:
            return False
        if a.kind is Kind.INT:
            return a.size == b.size and a.signed == b.signed
        if a.kind is Kind.PTR:
            behind_pointer = True
            mine, theirs = a.type_id, b.type_id
        elif a.kind is Kind.ARRAY:
            if a.array.length != b.array.length:
                return False
            mine, theirs = a.array.element_id, b.array.element_id
        elif a.kind is Kind.FUNC_PROTO:
            if len(a.params) != len(b.params):
                return False
            for one, other in zip(a.params, b.params):
                if not _match(local, one.type_id, target, other.type_id, behind_pointer, budget, depth):
                    return False
            mine, theirs = a.type_id, b.type_id
        else:
            return a.kind is Kind.FLOAT and a.size == b.size


def _members_match(local: Btf, a: Type, target: Btf, b: Type, budget: _Budget, depth: int) -> bool:
    theirs = b.members
    if len(a.members) > len(theirs):
        return False
    for one in a.members:
        budget.spend()
        name = essential(one.name)
        if not any(
            essential(other.name) == name and _match(local, one.type_id, target, other.type_id, False, budget, depth)
            for other in theirs
        ):
            return False
    return True
