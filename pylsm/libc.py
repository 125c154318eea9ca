"""System calls that Python has no function for, and memory that has an address, as the kernel wants it.

By `_ctypes`, the half of ctypes that is written in C: importing the other half costs a fifth of what starting Python
does, and a structure or a buffer of its own type each about as much as a module.
"""

from __future__ import annotations

import sys
from _ctypes import FUNCFLAG_CDECL, FUNCFLAG_USE_ERRNO, CFuncPtr, _SimpleCData, addressof, dlopen, dlsym, get_errno
from struct import Struct, calcsize

from pylsm.light import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["Layout", "Memory", "Structure", "function", "last_errno", "syscall"]


class _Byte(_SimpleCData):  # type: ignore[type-arg]
    _type_ = "c"


class _Long(_SimpleCData):  # type: ignore[type-arg]
    _type_ = "l"


class _Function(CFuncPtr):
    _flags_ = FUNCFLAG_CDECL | FUNCFLAG_USE_ERRNO
    _restype_ = _Long


def function(name: str, arguments: int) -> Callable[..., int]:
    """A function of libc that takes that many integers or addresses and returns a long; `last_errno` is as it left
    it."""
    found = _Function(dlsym(dlopen(None, 0), name))  # type: ignore[arg-type]
    found.argtypes = (_Long,) * arguments
    return found


#: syscall(2): the number of a system call, and its six arguments.
syscall = function("syscall", 7)
#: errno after the last call.
last_errno = get_errno


class Memory(bytearray):
    """Bytes, or that many zeros, which stay where they are for as long as this object lives.

    Attributes:
        address: where that is; 0 for none.
    """

    __slots__ = ("_held", "address")

    def __init__(self, contents: bytes | bytearray | memoryview | int) -> None:
        super().__init__(contents)
        if self:
            self._held = _Byte.from_buffer(self)  # an exported buffer is not moved
            self.address = addressof(self._held)
        else:
            self.address = 0

    def loosen(self) -> None:
        """Let it be moved, and freed with its last reference: what holds it in place is a circle, which only the
        garbage collector takes away. `address` is of no use any more."""
        del self._held
        self.address = 0

    def text(self) -> bytes:
        """Up to the first NUL."""
        return bytes(self.partition(b"\0")[0])


class Layout:
    """The layout of a structure of the kernel; called, it makes one. An object, since a class of its own for each would
    cost what importing a module does.

    Args:
        name: of the structure.
        fields: in C's words, a line each (``u32 map_type``, ``char map_name[16]``). They follow each other without
            holes: what C would leave is written out, as ``_hole…``.
    """

    __slots__ = ("_fields", "_places", "name", "size")

    def __init__(self, name: str, fields: str) -> None:
        self.name = name
        self.size = 0
        self._fields = fields
        self._places: dict[str, tuple[int, Struct, bool]] = {}

    def places(self) -> dict[str, tuple[int, Struct, bool]]:
        """Where each field is: its offset, its form as a `struct.Struct`, and whether it is text, which a NUL ends."""
        if not self._places:
            places: dict[str, tuple[int, Struct, bool]] = {}
            end = 0
            for line in self._fields.split("\n"):
                kind, _, name = line.strip().partition(" ")
                if name:
                    name, _, count = name.rstrip("]").partition("[")
                    form = Struct(f"{count}s") if count else _FORMS[kind]
                    places[name] = (end, form, kind == "char")
                    end += form.size
            self.size = end
            self._places = places  # last: another thread finds all of it, or nothing
        return self._places

    def __call__(self, **values: int | bytes) -> Structure:
        """A structure with these fields; all others are 0."""
        places = self.places()
        made = Structure(self, Memory(self.size))
        for name, value in values.items():
            offset, form, _ = places[name]
            form.pack_into(made.memory, offset, value)
        return made


class Structure:
    """A structure of the kernel in memory, its fields as attributes: numbers, bytes for a ``u8`` array, and for one of
    ``char`` those before its first NUL. Its `Layout` makes it."""

    __slots__ = ("layout", "memory")

    layout: Layout
    memory: Memory

    def __init__(self, layout: Layout, memory: Memory) -> None:
        object.__setattr__(self, "layout", layout)
        object.__setattr__(self, "memory", memory)

    @property
    def address(self) -> int:
        """Where it is."""
        return self.memory.address

    def __len__(self) -> int:
        return len(self.memory)

    def __getattr__(self, name: str) -> Any:
        found = self.layout.places().get(name)
        if found is None:
            raise AttributeError(f"{self.layout.name} has no field {name!r}")
        offset, form, text = found
        value = form.unpack_from(self.memory, offset)[0]
        return value.partition(b"\0")[0] if text else value

    def __setattr__(self, name: str, value: int | bytes) -> None:
        offset, form, _ = self.layout.places()[name]
        form.pack_into(self.memory, offset, value)


_FORMS = {kind: Struct("=" + code) for kind, code in zip(("u8", "u16", "u32", "s32", "u64"), "BHIiQ")}

assert calcsize("P") == calcsize("l"), f"{sys.platform}: an address is no long"
