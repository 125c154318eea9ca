"""Shapes of kernel structs, written down as field names and C types.

A program that follows `file->f_inode->i_ino` must know that `f_inode` is a pointer to a `struct inode` and
that `i_ino` is 8 bytes wide. It must not know where they are: that differs from kernel to kernel and is looked
up in the running kernel's BTF when the program is loaded (CO-RE). A declaration says the former only. Its own
offsets are those C would give these fields, and mean nothing for the kernel.
"""

from __future__ import annotations

from pylsm.btf.errors import BtfError
from pylsm.btf.reader import Btf
from pylsm.btf.writer import BtfWriter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["declare"]

# name → (name in BTF, bytes, encoding: 1 signed, 2 char, 4 bool)
_INTS = {
    "u8": ("unsigned char", 1, 0),
    "u16": ("unsigned short", 2, 0),
    "u32": ("unsigned int", 4, 0),
    "u64": ("unsigned long long", 8, 0),
    "s8": ("signed char", 1, 1),
    "s16": ("short", 2, 1),
    "s32": ("int", 4, 1),
    "s64": ("long long", 8, 1),
    "char": ("char", 1, 1),
    "signed char": ("signed char", 1, 1),
    "unsigned char": ("unsigned char", 1, 0),
    "short": ("short", 2, 1),
    "unsigned short": ("unsigned short", 2, 0),
    "int": ("int", 4, 1),
    "unsigned int": ("unsigned int", 4, 0),
    "unsigned": ("unsigned int", 4, 0),
    "long": ("long", 8, 1),
    "unsigned long": ("unsigned long", 8, 0),
    "long long": ("long long", 8, 1),
    "unsigned long long": ("unsigned long long", 8, 0),
    "bool": ("_Bool", 1, 4),
    "_Bool": ("_Bool", 1, 4),
}


def declare(shapes: Mapping[str, Mapping[str, str]], *, name: str = "declared") -> Btf:
    """Build a BTF that holds just these structs.

    Args:
        shapes: struct name → field name → type. A plain name or "struct X" is a struct, "union X" a union.
            Types: u8 u16 u32 u64 s8 s16 s32 s64, char, short, int, long, long long and their unsigned forms,
            bool, `void *`, `struct X`, `union X`, `enum X`, then any number of `*`, then any number of `[n]`.
            A struct or union that is not among the shapes can only be pointed to. An `enum X` is a 4-byte
            enum without values.
        name: what errors call the result.

    Returns:
        A Btf whose members have the names and types declared, at the offsets C would give them.

    Raises:
        BtfError: it names the struct, the field and the type string.
    """
    return _Declaration(shapes).build(name)


class _Declaration:
    __slots__ = ("_active", "_ids", "_shapes", "_types", "_writer")

    def __init__(self, shapes: Mapping[str, Mapping[str, str]]) -> None:
        self._writer = BtfWriter()
        self._types: dict[str, int] = {"void": 0}
        self._active: list[str] = []  # structs being laid out, outermost first
        self._shapes: dict[str, Mapping[str, str]] = {}
        self._ids: dict[str, int] = {}  # "struct file" → its id, reserved before its fields are looked at
        for key, fields in shapes.items():
            full = key if key.startswith(("struct ", "union ")) else f"struct {key}"
            if full in self._shapes:
                raise BtfError(f"{full} is declared twice")
            self._shapes[full] = fields

    def build(self, name: str) -> Btf:
        for full in self._shapes:
            self._ids[full] = self._writer.reserve()
        todo = set(self._shapes)
        for full in self._shapes:
            if full in todo:
                self._lay_out(full, todo)
        return Btf(self._writer.encode(), name=name)

    def _lay_out(self, full: str, todo: set[str]) -> None:
        todo.discard(full)
        self._active.append(full)
        members = []
        for field, text in self._shapes[full].items():
            try:
                members.append((field, self._type(text, todo), None))
            except _Placed:
                raise
            except BtfError as error:
                raise _Placed(f"{full}, field {field!r}, type {text!r}: {error}") from None
        word, _, bare = full.partition(" ")
        make = self._writer.struct if word == "struct" else self._writer.union
        make(bare, members, id=self._ids[full])
        self._active.pop()

    def _type(self, text: str, todo: set[str]) -> int:
        """The id of a type string; structs it embeds are laid out first."""
        known = self._types.get(text)
        if known is not None and text != "void":
            return known
        declarator, bracket, rest = text.partition("[")
        base = declarator.rstrip("* ")
        stars = declarator.count("*")
        if declarator.strip()[len(base.strip()) :].replace(" ", "") != "*" * stars:
            raise BtfError("'*' belongs behind the name of the type")
        id = self._base(" ".join(base.split()), stars > 0, todo)
        for _ in range(stars):
            id = self._writer.ptr(id)
        if bracket:
            for length in reversed(_lengths(bracket + rest)):
                id = self._writer.array(id, length)
        self._types[text] = id
        return id

    def _base(self, base: str, pointed: bool, todo: set[str]) -> int:
        if base in _INTS:
            return self._writer.int_(*_INTS[base][:2], encoding=_INTS[base][2])
        if base == "void":
            if not pointed:
                raise BtfError("void has no size: only a pointer to it can be a field")
            return 0
        word, _, name = base.partition(" ")
        if word in ("struct", "union") and name:
            if base in self._ids:
                if not pointed:
                    if base in self._active:
                        raise BtfError(f"{base} would contain itself")
                    if base in todo:
                        self._lay_out(base, todo)
                return self._ids[base]
            if pointed:
                return self._writer.fwd(name, union=word == "union")
            raise BtfError(f"{base} is not declared, so its size is not known: declare it, or use a pointer")
        if word == "enum" and name:
            return self._writer.enum(name, ())
        raise BtfError(f"unknown type {base!r}", hint="plain names are integers; write 'struct X' for a struct")


class _Placed(BtfError):
    """An error that already says which field it is about."""


def _lengths(text: str) -> list[int]:
    """[16][4] → 16, 4."""
    lengths = []
    for part in text.replace(" ", "").split("[")[1:]:
        digits = part[:-1]
        if not part.endswith("]") or not (digits.isascii() and digits.isdigit() and len(digits) <= 10):
            raise BtfError("an array length is a number in brackets, at the end")
        lengths.append(int(digits))
    return lengths
