"""References by symbol → instructions that this kernel and these maps can run.

What each kind of reference becomes (include/uapi/linux/bpf.h, "BPF_PSEUDO_*"):

============  ===========================================================================================
MapRef        ``lddw`` with src 1, imm = file descriptor
MapValueRef   ``lddw`` with src 2, imm = file descriptor, upper half = offset
KsymRef       ``lddw`` with src 3, imm = BTF id of the variable
FunctionRef   ``lddw`` with src 4 or ``call`` with src 1, imm = distance in slots from the next slot
KfuncRef      ``call`` with src 2, imm = BTF id of the function
FieldRef      ``off`` of a load or store, ``imm`` of anything else
BitsRef       opcode and ``off`` of a load, ``imm`` of a shift
TypeRef       ``imm``
EnumRef       ``imm``
============  ===========================================================================================
"""

from __future__ import annotations

import sys

from pylsm.asm import opcodes as op
from pylsm.asm.instruction import Instruction
from pylsm.asm.references import (
    BitsRef,
    EnumRef,
    FieldRef,
    FunctionRef,
    KfuncRef,
    KsymRef,
    MapRef,
    MapValueRef,
    Reference,
    TypeRef,
)
from pylsm.errors import PylsmError
from pylsm.light import TYPE_CHECKING
from pylsm.loader.errors import ResolveError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from typing_extensions import TypeAlias

    from pylsm.asm.program import Program
    from pylsm.btf import Btf, Member

__all__ = ["OF_KERNEL", "Known", "resolve", "resolve_one"]

#: References that only a kernel can fill in; the others need nothing but maps and the program itself.
OF_KERNEL = (FieldRef, BitsRef, TypeRef, EnumRef, KfuncRef, KsymRef)

#: (type, reference) → its value, and (struct, path, alternatives) → the member found.
Known: TypeAlias = "dict[Any, Any]"

_MEMORY_CLASSES = (op.LDX, op.ST, op.STX)


def resolve(
    program: Program, maps: Mapping[str, int], kernel: Callable[[], Btf] | None, known: Known | None = None
) -> tuple[Instruction, ...]:
    """The program's instructions with every reference filled in.

    Args:
        program: as built.
        maps: map name → file descriptor.
        kernel: gives the kernel's BTF; called only if a reference needs it. None leaves these references as they are.
        known: what is found is kept here, for further programs on the same kernel.

    Raises:
        ResolveError: a map that is not given, or a type, field, function or variable that this kernel does not have;
            the message names it, the program and the line.
    """
    instructions = program.instructions
    known = {} if known is None else known
    if not any(i.reference is not None for i in instructions):
        return instructions
    slots: list[int] = []
    starts: dict[str, int] = {}
    if any(isinstance(i.reference, FunctionRef) for i in instructions):
        at = 0
        for instruction in instructions:
            slots.append(at)
            at += instruction.slots
        starts = {function.name: slots[function.start] for function in program.functions}
    out = []
    for index, instruction in enumerate(instructions):
        reference = instruction.reference
        if reference is None:
            out.append(instruction)
        elif not isinstance(reference, OF_KERNEL):
            try:
                out.append(_resolve_inner(instruction, reference, index, maps, slots, starts))
            except ResolveError as error:
                raise _located(error, program.name, instruction) from None
        else:
            out.append(instruction if kernel is None else resolve_one(instruction, program.name, kernel, known))
    return tuple(out)


def resolve_one(instruction: Instruction, program: str, kernel: Callable[[], Btf], known: Known) -> Instruction:
    """One instruction whose reference is one of `OF_KERNEL`, filled in.

    Args:
        program: the name of its program, for the error.
        kernel, known: see `resolve`.

    Raises:
        ResolveError: see `resolve`.
    """
    assert instruction.reference is not None
    try:
        return _resolve_kernel(instruction, instruction.reference, kernel, known)
    except PylsmError as error:
        raise _located(error, program, instruction) from (error if _is_btf_error(error) else None)


def _resolve_inner(
    instruction: Instruction,
    reference: MapRef | MapValueRef | FunctionRef,
    index: int,
    maps: Mapping[str, int],
    slots: list[int],
    starts: dict[str, int],
) -> Instruction:
    if not isinstance(reference, FunctionRef):
        fd = maps.get(reference.name)
        if fd is None:
            raise ResolveError(f"map {reference.name!r} is not given")
        if isinstance(reference, MapRef):
            return instruction.replace(src=op.PSEUDO_MAP_FD, imm=fd)
        return instruction.replace(src=op.PSEUDO_MAP_VALUE, imm=fd | reference.offset << 32)
    target = starts.get(reference.name)
    if target is None:
        raise ResolveError(f"there is no function {reference.name!r} in the program")
    source = op.PSEUDO_FUNC if instruction.opcode == op.LDDW else op.CALL_FUNCTION
    # The address is 64 bits wide in the instruction, of which the kernel reads the lower half as signed.
    distance = target - slots[index] - 1
    return instruction.replace(src=source, imm=distance & op.U32_MAX if source == op.PSEUDO_FUNC else distance)


def _resolve_kernel(
    instruction: Instruction, reference: Reference, kernel: Callable[[], Btf], known: Known
) -> Instruction:
    if isinstance(reference, FieldRef) and reference.what == "offset":
        return _field_offset(instruction, reference, kernel(), known)
    if isinstance(reference, BitsRef):
        from pylsm.asm.typed import fill_bits

        return fill_bits(instruction, reference, _member(kernel(), reference, known), sys.byteorder)
    # With its type: tuples of different types are equal, and KfuncRef("x") is not KsymRef("x").
    key = (type(reference), reference)
    value = known.get(key)
    if value is None:
        value = known[key] = _value(reference, kernel(), known)
    if isinstance(reference, KfuncRef):
        return instruction.replace(src=op.CALL_KFUNC, imm=value)
    if isinstance(reference, KsymRef):
        return instruction.replace(src=op.PSEUDO_BTF_ID, imm=value)
    return instruction.replace(imm=value)


def _value(reference: Reference, kernel: Btf, known: Known) -> int:
    """What a reference other than to a map or an offset is in this kernel."""
    from pylsm.btf import BtfNotFound, Kind

    if isinstance(reference, KfuncRef):
        return kernel.find(reference.name, Kind.FUNC)
    if isinstance(reference, KsymRef):
        return kernel.find(reference.name, Kind.VAR)
    if isinstance(reference, EnumRef):
        return kernel.enumerator(reference.enum, reference.value)
    if isinstance(reference, TypeRef):
        try:
            id = _find_type(kernel, reference.name)
        except BtfNotFound:
            if reference.what == "exists":
                return 0
            raise
        return {"exists": 1, "id": id}.get(reference.what) or kernel.size_of(id)
    assert isinstance(reference, FieldRef)
    try:
        member = _member(kernel, reference, known)
    except BtfNotFound:
        if reference.what == "exists":
            return 0
        raise
    return 1 if reference.what == "exists" else member.size


def _find_type(kernel: Btf, name: str) -> int:
    from pylsm.btf import BtfNotFound, Kind

    word, _, rest = name.partition(" ")
    if word in ("struct", "union"):
        return kernel.find_struct(name)
    if word == "enum" and rest:
        return kernel.find_enum(name)
    for kind in (Kind.STRUCT, Kind.UNION, Kind.TYPEDEF, Kind.ENUM, Kind.ENUM64):
        try:
            return kernel.find(name, kind)
        except BtfNotFound:
            continue
    return kernel.find(name)


def _member(kernel: Btf, reference: FieldRef | BitsRef, known: Known) -> Member:
    place = (reference.struct, reference.path, reference.alternatives)
    member: Member | None = known.get(place)
    if member is None:
        from pylsm.btf.relocate import resolve_field

        member = known[place] = resolve_field(kernel, *place)
    return member


def _field_offset(instruction: Instruction, reference: FieldRef, kernel: Btf, known: Known) -> Instruction:
    member = _member(kernel, reference, known)
    field = f"{reference.struct}.{reference.path}"
    if member.is_bitfield:
        raise ResolveError(f"{field} is a bit field in {kernel.name}: it has no offset in bytes")
    cls = instruction.opcode & 7
    if cls not in _MEMORY_CLASSES:
        return instruction.replace(imm=member.offset)
    if cls == op.LDX:
        return instruction.replace(off=member.offset, opcode=_widened(instruction.opcode, member, kernel, field))
    return instruction.replace(off=member.offset)


def _widened(opcode: int, member: Member, kernel: Btf, field: str) -> int:
    """The opcode of a load, with the width that the field has in this kernel.

    Only for numbers and pointers: what is loaded of a struct or an array is the author's choice. As libbpf does for
    CO-RE, since a load of 8 bytes from a field of 4 would read its neighbour too.
    """
    width = member.size
    access = op.SIZE_BYTES[opcode & 0x18]
    if width == access or width not in op.SIZE_OF_BYTES or not _is_scalar(member, kernel):
        return opcode
    mode = opcode & 0xE0
    if mode == op.MEM and width < access and member.signed:
        raise ResolveError(
            f"{field} is a signed number of {width} bytes in {kernel.name}; the program loads {access} bytes of it, "
            "and the shorter load would lose its sign",
            hint="load it with a sign-extending load (cpu v4)",
        )
    if mode == op.MEMSX and width == 8:
        mode = op.MEM  # there is nothing to extend, and no such instruction
    return op.LDX | mode | op.SIZE_OF_BYTES[width]


def _is_scalar(member: Member, kernel: Btf) -> bool:
    from pylsm.btf import Kind

    kind = kernel.type(kernel.resolve(member.type_id)).kind
    return kind in (Kind.INT, Kind.PTR, Kind.ENUM, Kind.ENUM64)


def _is_btf_error(error: Exception) -> bool:
    from pylsm.btf import BtfError

    return isinstance(error, BtfError)


def _located(error: Exception, program: str, instruction: Instruction) -> ResolveError:
    place = f"{instruction.line}: " if instruction.line else ""
    return ResolveError(f"{place}program {program!r}", reason=error, hint=lambda: getattr(error, "hint", ""))
