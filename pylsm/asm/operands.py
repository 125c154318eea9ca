"""What instructions are written with: registers, memory operands, views of records, labels.

``u64[R7 + 16]`` is the 64-bit memory operand ``*(u64 *)(r7 +16)``; ``u32[slot]`` and ``view.pid`` are others.
"""

from __future__ import annotations

from pylsm.asm.errors import FieldError, OperandError, RegisterError, SourceLine, caller_line
from pylsm.asm.maps import Layout
from pylsm.asm.references import FieldRef

__all__ = [
    "R0",
    "R1",
    "R2",
    "R3",
    "R4",
    "R5",
    "R6",
    "R7",
    "R8",
    "R9",
    "R10",
    "Address",
    "Label",
    "Mem",
    "Register",
    "View",
    "Width",
    "s8",
    "s16",
    "s32",
    "u8",
    "u16",
    "u32",
    "u64",
]


class Register:
    """r0 to r10 (RFC 9669 section 2.1): r0 result, r1-r5 arguments, r6-r9 kept over calls, r10 the frame pointer."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        if not 0 <= number <= 10:
            raise RegisterError(f"r{number} is not a register (r0-r10)", line=caller_line())
        self.number = number

    def __add__(self, off: int) -> Address:
        return Address(self, off)

    def __sub__(self, off: int) -> Address:
        return Address(self, -off)

    def __repr__(self) -> str:
        return f"r{self.number}"


class Address:
    """A register plus a constant, in bytes."""

    __slots__ = ("base", "off", "reference")

    def __init__(self, base: Register, off: int, reference: FieldRef | None = None) -> None:
        self.base = base
        self.off = off
        self.reference = reference

    def __add__(self, off: int) -> Address:
        if self.reference is not None:
            raise OperandError(
                "an offset that is only known when the program is loaded cannot be added to",
                hint="take the address, then add to the register",
                line=caller_line(),
            )
        return Address(self.base, self.off + off)

    def __repr__(self) -> str:
        return f"{self.base} {self.off:+d}"


class Mem:
    """A memory operand: ``size`` bytes at ``base + off``; a signed one is extended by its sign when loaded."""

    __slots__ = ("base", "off", "reference", "signed", "size")

    def __init__(
        self, base: Register, off: int, size: int, signed: bool = False, reference: FieldRef | None = None
    ) -> None:
        if size not in (1, 2, 4, 8):
            raise OperandError(
                f"{size} bytes at {base}{off:+d} are no single load or store (1, 2, 4 or 8)", line=caller_line()
            )
        self.base = base
        self.off = off
        self.size = size
        self.signed = signed
        self.reference = reference

    def __repr__(self) -> str:
        return f"*({'s' if self.signed else 'u'}{self.size * 8} *)({self.base} {self.off:+d})"


class Width:
    """A width in memory; subscript it with an address to get a memory operand."""

    __slots__ = ("signed", "size")

    def __init__(self, size: int, signed: bool) -> None:
        self.size = size
        self.signed = signed

    def __getitem__(self, where: Register | Address | View) -> Mem:
        if isinstance(where, Register):
            return Mem(where, 0, self.size, self.signed)
        address = where._address if isinstance(where, View) else where
        return Mem(address.base, address.off, self.size, self.signed, address.reference)


class View:
    """A record, or plain bytes, at an address.

    ``view.pid`` is the memory operand of field ``pid``, ``view["comm"]`` the address of a field;
    ``len(view)`` is its size in bytes; ``view + 8`` an address inside it.

    Raises:
        FieldError: on an attribute that is no field of the record; it lists the fields.
    """

    __slots__ = ("_address", "_layout", "_name", "_size")

    def __init__(self, base: Register, off: int, layout: int | Layout, name: str = "") -> None:
        self._address = Address(base, off)
        self._layout = None if isinstance(layout, int) else layout
        self._size = layout if isinstance(layout, int) else layout.size
        self._name = name or (self._layout.name if self._layout else "")

    def __getattr__(self, field: str) -> Mem:
        offset, size = self._field(field)
        return Mem(self._address.base, self._address.off + offset, size)

    def _field(self, field: str) -> tuple[int, int]:
        if self._layout is None:
            raise FieldError(
                f"{self._name or 'this slot'} is {self._size} plain bytes and has no field {field!r}",
                line=caller_line(),
            )
        try:
            return self._layout.field(field)
        except KeyError as error:
            raise FieldError(
                f"{self._layout.name} has no field {field!r}: {error.args[0]}", line=caller_line()
            ) from None

    def __getitem__(self, field: str) -> Address:
        """``view["comm"]``: the address of a field that is no single load, such as an array."""
        return self._address + self._field(field)[0]

    def __add__(self, off: int) -> Address:
        return self._address + off

    def __len__(self) -> int:
        return self._size

    def __repr__(self) -> str:
        return f"<{self._name or 'bytes'} at {self._address}, {self._size} bytes>"


class Label:
    """A place in a program that jumps lead to; made by `Asm.label`, placed by `Asm.bind`."""

    __slots__ = ("body", "index", "line", "name")

    def __init__(self, name: str, body: object, line: SourceLine) -> None:
        self.name = name
        self.body = body
        self.line = line
        self.index = -1

    def __repr__(self) -> str:
        return f"label {self.name or 'unnamed'} ({self.line})"


R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10 = (Register(number) for number in range(11))
u8, u16, u32, u64 = (Width(size, False) for size in (1, 2, 4, 8))
s8, s16, s32 = (Width(size, True) for size in (1, 2, 4))
