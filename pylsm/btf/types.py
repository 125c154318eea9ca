"""What a BTF can say: the kinds, and plain values for what they hold.

Sources: include/uapi/linux/btf.h and Documentation/bpf/btf.rst of Linux. Sizes and offsets are in bytes unless
the name says bits.
"""

from __future__ import annotations

from pylsm.btf.errors import BtfError
from pylsm.light import IntEnum

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pylsm.btf.reader import Btf

__all__ = [
    "IDENTIFIED",
    "MODIFIERS",
    "Array",
    "Enumerator",
    "FuncProto",
    "Kind",
    "Member",
    "Param",
    "Type",
    "Variable",
]


class Kind(IntEnum):
    """BTF_KIND_*; VOID is id 0, which has no record."""

    VOID = 0
    INT = 1
    PTR = 2
    ARRAY = 3
    STRUCT = 4
    UNION = 5
    ENUM = 6
    FWD = 7
    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    RESTRICT = 11
    FUNC = 12
    FUNC_PROTO = 13
    VAR = 14
    DATASEC = 15
    FLOAT = 16
    DECL_TAG = 17
    TYPE_TAG = 18
    ENUM64 = 19


# Kinds that stand for the type they point to.
MODIFIERS = frozenset({Kind.TYPEDEF, Kind.VOLATILE, Kind.CONST, Kind.RESTRICT, Kind.TYPE_TAG})

# Kinds whose third header word is a type id (the others have a size there, or nothing).
IDENTIFIED = MODIFIERS | {Kind.PTR, Kind.FUNC, Kind.FUNC_PROTO, Kind.VAR, Kind.DECL_TAG}


class _Value:
    """Plain data: compared, hashed and printed by its slots (dataclasses would cost 10 ms of import)."""

    __slots__: tuple[str, ...] = ()

    def _values(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in self.__slots__)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other._values() == self._values()

    def __hash__(self) -> int:
        return hash(self._values())

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__)
        return f"{type(self).__name__}({inside})"


class Param(_Value):
    """A parameter of a function prototype: `name` ("" when unnamed) and `type_id`."""

    __slots__ = ("name", "type_id")

    def __init__(self, name: str, type_id: int) -> None:
        self.name = name
        self.type_id = type_id


class FuncProto(_Value):
    """A function's signature: type id of the prototype, of what it returns (0: void), and its parameters.

    `variadic` tells of a closing `...`, which is not among `params`.
    """

    __slots__ = ("id", "params", "return_type_id", "variadic")

    def __init__(self, id: int, return_type_id: int, params: tuple[Param, ...], variadic: bool) -> None:
        self.id = id
        self.return_type_id = return_type_id
        self.params = params
        self.variadic = variadic


class Enumerator(_Value):
    """A named value of an ENUM or ENUM64; negative only when the enum is marked signed."""

    __slots__ = ("name", "value")

    def __init__(self, name: str, value: int) -> None:
        self.name = name
        self.value = value


class Variable(_Value):
    """A variable's place in a DATASEC: type id of its VAR, `offset` and `size` in bytes."""

    __slots__ = ("offset", "size", "type_id")

    def __init__(self, type_id: int, offset: int, size: int) -> None:
        self.type_id = type_id
        self.offset = offset
        self.size = size


class Array(_Value):
    """An ARRAY: type ids of its elements and of its index, and how many elements it has (0: flexible)."""

    __slots__ = ("element_id", "index_id", "length")

    def __init__(self, element_id: int, index_id: int, length: int) -> None:
        self.element_id = element_id
        self.index_id = index_id
        self.length = length


class Member:
    """A member of a struct or union, or what a path of members leads to.

    Attributes:
        name: the member's own name ("" for an anonymous struct or union).
        type_id: the type as declared, typedefs and qualifiers included.
        bit_offset: bits from the start of the struct asked about, as its record says. (In BTF without kind_flag
            an INT could shift its bits further, `Type.bit_shift`; no compiler has used that.)
    """

    __slots__ = ("_bits", "_btf", "bit_offset", "name", "type_id")

    def __init__(self, btf: Btf, name: str, type_id: int, bit_offset: int, bits: int) -> None:
        self._btf = btf
        self._bits = bits  # from the struct's record; -1 when only the member's INT can tell
        self.name = name
        self.type_id = type_id
        self.bit_offset = bit_offset

    @property
    def bit_size(self) -> int:
        """Width in bits of a bitfield; 0 for any other member.

        Raises:
            BtfError: the member's type is damaged.
        """
        if self._bits < 0:
            # Without kind_flag (before Linux 5.0), the INT itself is narrower than its bytes.
            self._bits = self._btf.legacy_width(self.type_id)
        return self._bits

    @property
    def is_bitfield(self) -> bool:
        """Whether this is a bitfield (even of a whole number of bytes)."""
        return self.bit_size != 0

    @property
    def offset(self) -> int:
        """Bytes from the start of the struct asked about, rounded down for a bitfield."""
        return self.bit_offset >> 3

    @property
    def size(self) -> int:
        """Bytes of the member's type; for a bitfield, of the type it was declared with.

        Raises:
            BtfError: the type has no size (a function, a forward declaration, void) or is damaged.
        """
        return self._btf.size_of(self.type_id)

    @property
    def signed(self) -> bool:
        """Whether this is a signed integer or an enum with negative values.

        Raises:
            BtfError: the type is damaged.
        """
        return self._btf.is_signed(self.type_id)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Member)
            and other._btf is self._btf
            and (other.name, other.type_id, other.bit_offset) == (self.name, self.type_id, self.bit_offset)
            and other.bit_size == self.bit_size
        )

    def __hash__(self) -> int:
        return hash((self.name, self.type_id))

    def __repr__(self) -> str:
        bits = f", bit_size={self._bits}" if self._bits > 0 else ""
        return f"Member(name={self.name!r}, type_id={self.type_id}, bit_offset={self.bit_offset}{bits})"


class Type:
    """One type of a BTF, decoded as far as it is looked at.

    Attributes that do not apply to the kind are empty: `members` of an INT is `()`, `type_id` of a STRUCT is 0.
    Any of them raises BtfError when what it needs is damaged.

    Attributes:
        btf: the Btf that answered; `id` counts in it.
        id: the type id; 0 is void.
        kind: the kind of type.
        kind_flag: bit 31 of the record: signed enum, struct with bitfield widths, forward declaration of a
            union, tag that is an attribute.
        vlen: number of members, enumerators, parameters or variables; the linkage of a FUNC.
    """

    __slots__ = ("_third", "btf", "id", "kind", "kind_flag", "vlen")

    def __init__(self, btf: Btf, id: int, kind: Kind, kind_flag: bool, vlen: int, third: int) -> None:
        self.btf = btf
        self.id = id
        self.kind = kind
        self.kind_flag = kind_flag
        self.vlen = vlen
        self._third = third

    @property
    def name(self) -> str:
        """The name, "" when it has none; "void" for id 0."""
        return self.btf.name_of(self.id)

    @property
    def type_id(self) -> int:
        """The type this one refers to: pointee, aliased or qualified type, FUNC's prototype, return type."""
        return self._third if self.kind in IDENTIFIED else 0

    @property
    def size(self) -> int:
        """Size in bytes, through typedefs and arrays; BtfError when the type has none."""
        return self.btf.size_of(self.id)

    @property
    def members(self) -> tuple[Member, ...]:
        """Members of a STRUCT or UNION in order, anonymous ones included."""
        return self.btf.members(self.id) if self.kind in (Kind.STRUCT, Kind.UNION) else ()

    @property
    def enumerators(self) -> tuple[Enumerator, ...]:
        """Named values of an ENUM or ENUM64."""
        return self.btf.enumerators(self.id) if self.kind in (Kind.ENUM, Kind.ENUM64) else ()

    @property
    def params(self) -> tuple[Param, ...]:
        """Parameters of a FUNC_PROTO; a closing `...` is Param("", 0)."""
        if self.kind is not Kind.FUNC_PROTO:
            return ()
        words = self._words()
        return tuple(Param(self.btf.string(words[i]), words[i + 1]) for i in range(0, len(words), 2))

    @property
    def variables(self) -> tuple[Variable, ...]:
        """Variables of a DATASEC."""
        if self.kind is not Kind.DATASEC:
            return ()
        words = self._words()
        return tuple(Variable(*words[i : i + 3]) for i in range(0, len(words), 3))

    @property
    def array(self) -> Array:
        """What an ARRAY is of."""
        return Array(*self._words()) if self.kind is Kind.ARRAY else Array(0, 0, 0)

    @property
    def signed(self) -> bool:
        """Whether an INT is signed, or an enum has negative values."""
        if self.kind is Kind.INT:
            return bool(self._words()[0] >> 24 & 1)
        return self.kind in (Kind.ENUM, Kind.ENUM64) and self.kind_flag

    @property
    def encoding(self) -> int:
        """Bits of an INT: 1 signed, 2 char, 4 bool."""
        return self._words()[0] >> 24 & 0xF if self.kind is Kind.INT else 0

    @property
    def bits(self) -> int:
        """Width of an INT in bits, which is less than its size in old BTF's bitfields."""
        return self._words()[0] & 0xFF if self.kind is Kind.INT else 0

    @property
    def bit_shift(self) -> int:
        """Where an INT starts inside its bytes, in bits; not 0 only in old BTF's bitfields."""
        return self._words()[0] >> 16 & 0xFF if self.kind is Kind.INT else 0

    @property
    def linkage(self) -> int:
        """Linkage of a FUNC or VAR: 0 static, 1 global, 2 extern."""
        if self.kind is Kind.VAR:
            return self._words()[0]
        return self.vlen if self.kind is Kind.FUNC else 0

    @property
    def component(self) -> int:
        """What a DECL_TAG is about: the index of a member or parameter, -1 the type itself."""
        if self.kind is not Kind.DECL_TAG:
            return -1
        index = self._words()[0]
        return index - (1 << 32) if index >> 31 else index

    def _words(self) -> list[int]:
        return self.btf.body(self.id)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Type) and other.btf is self.btf and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        try:
            name: Any = self.name
        except BtfError as error:
            name = error
        return f"<Type {self.id} {self.kind.name} {name!r}>"
