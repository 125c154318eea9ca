"""What an instruction needs from elsewhere, by name: resolved by the loader (or by an ELF writer), never here."""

from __future__ import annotations

from pylsm.light import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing_extensions import TypeAlias


__all__ = [
    "BitsRef",
    "EnumRef",
    "FieldRef",
    "FunctionRef",
    "KfuncRef",
    "KsymRef",
    "MapRef",
    "MapValueRef",
    "Reference",
    "TypeRef",
]


class MapRef(NamedTuple):
    """The file descriptor of a map, in a ``lddw`` (BPF_PSEUDO_MAP_FD)."""

    name: str


class MapValueRef(NamedTuple):
    """The address of byte ``offset`` of the only value of an array map, in a ``lddw`` (BPF_PSEUDO_MAP_VALUE)."""

    name: str
    offset: int


class FieldRef(NamedTuple):
    """A property of a field of a kernel type: CO-RE without clang.

    ``struct``: the type's name ("file"; "union x" for a union); ``path``: members, dotted, through embedded and
    anonymous types but never through a pointer. ``what``: "offset" (bytes), "size" (bytes) or "exists" (0 or 1).
    It is written to ``off`` of a load or store and to ``imm`` of anything else. ``alternatives`` are further
    (struct, path) pairs to try in order when the field is not there.
    """

    struct: str
    path: str
    what: str = "offset"
    alternatives: tuple[tuple[str, str], ...] = ()


class BitsRef(NamedTuple):
    """How a bit field, or a number whose sign counts, is cut out of the load around it: load, shift left, shift right.

    ``what`` is "load" (offset and width of an ``ldx``), "lshift" (bits that move the field to the top of the register)
    or "rshift" (bits that move it to the bottom); `pylsm.asm.typed.fill_bits` works them out from the field's place.
    The other attributes are as in `FieldRef`.
    """

    struct: str
    path: str
    what: str
    alternatives: tuple[tuple[str, str], ...] = ()


class TypeRef(NamedTuple):
    """A property of a kernel type: ``what`` is "id", "size" (bytes) or "exists" (0 or 1)."""

    name: str
    what: str


class EnumRef(NamedTuple):
    """The value of an enumerator of a kernel enum."""

    enum: str
    value: str


class KfuncRef(NamedTuple):
    """A kernel function called by BTF id (BPF_PSEUDO_KFUNC_CALL)."""

    name: str


class KsymRef(NamedTuple):
    """A kernel variable by BTF id, in a ``lddw`` (BPF_PSEUDO_BTF_ID)."""

    name: str


class FunctionRef(NamedTuple):
    """A function of the same program, for a call (BPF_PSEUDO_CALL) or a callback's address (BPF_PSEUDO_FUNC)."""

    name: str


Reference: TypeAlias = (
    "MapRef | MapValueRef | FieldRef | BitsRef | TypeRef | EnumRef | KfuncRef | KsymRef | FunctionRef"
)
