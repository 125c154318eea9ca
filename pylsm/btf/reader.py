"""Reading BTF: names to type ids, type ids to what they are, members to offsets.

Nothing is decoded before it is asked for; `pylsm.btf.index` explains how ids are found without a walk.
Sources: Documentation/bpf/btf.rst, include/uapi/linux/btf.h, kernel/bpf/btf.c of Linux.
"""

from __future__ import annotations

import os
import sys

from pylsm.btf.errors import BtfError, BtfNotFound
from pylsm.btf.index import KIND, VLEN, TypeIndex
from pylsm.btf.types import MODIFIERS, Enumerator, FuncProto, Kind, Member, Param, Type

TYPE_CHECKING = False
if TYPE_CHECKING:
    import mmap
    from collections.abc import Iterator
    from typing import Literal, Union

    Data = Union[bytes, bytearray, memoryview, mmap.mmap]

__all__ = ["Btf"]

_MAGIC = 0xEB9F
_SYSFS = "/sys/kernel/btf/"

_INT, _PTR, _ARRAY, _STRUCT, _UNION, _ENUM, _FWD, _TYPEDEF = range(1, 9)
_FUNC, _FUNC_PROTO, _VAR, _DATASEC, _FLOAT, _DECL_TAG, _TYPE_TAG, _ENUM64 = range(12, 20)
_SIZED = frozenset({_INT, _STRUCT, _UNION, _ENUM, _DATASEC, _FLOAT, _ENUM64})

_KINDS = {int(kind): kind for kind in Kind}

# What to look for when C says "struct x", and when it just says "x".
_C_WORDS = {"struct": (Kind.STRUCT,), "union": (Kind.UNION,), "enum": (Kind.ENUM, Kind.ENUM64)}
_C_KINDS = (Kind.STRUCT, Kind.UNION, Kind.ENUM, Kind.ENUM64, Kind.TYPEDEF, Kind.FUNC)

# The kernel follows at most 32 (MAX_RESOLVE_DEPTH); a longer chain is a circle for all purposes.
_MAX_CHAIN = 64

# Records whose place is remembered: who asks for a few types asks for them often, who asks for all does so once.
_MANY_PLACES = 1024


class Btf:
    """The types in one BTF, or in a split BTF together with its base.

    Args:
        data: header, types and strings; bytes, or anything that gives a contiguous buffer (an mmap is not
            copied: pages that are not asked for are not read).
        base: the BTF that this one continues, for split BTF: the BTF of a module continues vmlinux's. Ids and
            string offsets count on from the base's.
        name: what errors call this BTF.

    Raises:
        BtfError: not BTF, or its header points outside of the data. Damage further in is reported when a
            question meets it.
    """

    def __init__(self, data: Data, *, base: Btf | None = None, name: str = "vmlinux") -> None:
        self.name = name
        self.base = base
        self.pointer_size = 8
        view = memoryview(data)
        if view.ndim != 1 or view.itemsize != 1 or not view.contiguous:
            raise BtfError("the data is no plain run of bytes", source=name)
        view = view.cast("B")
        types, strings, layout, self.byteorder = _sections(view, name, base is not None)
        words = view[types[0] : types[1]]
        find = None
        if self.byteorder != sys.byteorder:
            from array import array

            swapped = array("I", words.tobytes())
            swapped.byteswap()
            words = memoryview(swapped).cast("B")
        elif isinstance(data, (bytes, bytearray)):
            within, first = data.find, types[0]

            def find(needle: bytes, start: int, stop: int) -> int:
                return max(within(needle, start + first, stop + first) - first, -1)

        self._words: memoryview[int] = words.cast("I")
        # The string section, within the data where that can be searched without a copy.
        self._strings: bytes | bytearray
        if isinstance(data, (bytes, bytearray)):
            self._strings, (start, self._strings_end) = data, strings
        else:
            self._strings, start = view[strings[0] : strings[1]].tobytes(), 0
            self._strings_end = strings[1] - strings[0]
        self._strings_start = start
        self._index = TypeIndex(self._words, layout=layout, source=name, find=find)
        self._string_base: int = base.string_end if base is not None else 0
        self.string_end: int = self._string_base + strings[1] - strings[0]
        self._string_shift = start - self._string_base  # of an offset, to where it is in `_strings`
        self._first = 1 if base is None else -1  # id of the first record; -1: not asked for yet
        self._found: dict[tuple[str, Kind | None], int] = {}
        self._named = -2  # number of the first named type in sorted BTF; -1: not sorted, -2: not looked at
        self._places: dict[int, int] = {}  # ids whose record has been come upon

    # -- where BTF comes from ------------------------------------------------------------------------------

    _kernel: Btf | None = None

    @classmethod
    def kernel(cls) -> Btf:
        """The running kernel's BTF, read once per process.

        Raises:
            BtfError: the kernel shows none.
        """
        if Btf._kernel is None:
            Btf._kernel = cls.from_file(_SYSFS + "vmlinux", name=f"kernel {os.uname().release}")
        return Btf._kernel

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], base: Btf | None = None, *, name: str | None = None) -> Btf:
        """Read BTF from a file: raw BTF, or an ELF object with a .BTF section.

        Args:
            path: the file; /sys/kernel/btf/NAME for the running kernel and its modules.
            base: the base of a split BTF. For an ELF object that carries its own (.BTF.base), that is taken.
            name: what errors call it; None takes the file's name.

        Raises:
            BtfError: no such file, unreadable, neither BTF nor ELF, or ELF without BTF.
        """
        from pylsm.btf.files import read

        data, own_base, file_name = read(os.fspath(path))
        if base is None and own_base is not None:
            base = cls(own_base, name=f"{file_name} (.BTF.base)")
        return cls(data, base=base, name=file_name if name is None else name)

    # -- names ---------------------------------------------------------------------------------------------

    def find(self, name: str, kind: Kind | None = None) -> int:
        """The id of the first type with this name.

        Args:
            name: the bare name: "file", not "struct file".
            kind: the kind wanted; None takes any. A base BTF is searched first.

        Raises:
            BtfNotFound: no such type; its `nearest` has names that come close.
            BtfError: damage on the way.
        """
        id = self._find(name, kind)
        if id < 0:
            raise BtfNotFound(kind, name, lambda: self._nearest(name, kind), source=self.name)
        return id

    def _find(self, name: str, kind: Kind | None) -> int:
        key = (name, kind)
        id = self._found.get(key)
        if id is None:
            id = self._search(name, kind)
            self._found[key] = id
        return id

    def _search(self, name: str, kind: Kind | None) -> int:
        if self.base is not None:
            id = self.base._find(name, kind)
            if id >= 0:
                return id
        text = _encode(name)
        if not text or b"\0" in text:
            return -1
        wanted = -1 if kind is None else int(kind)
        offsets = list(self._offsets(text))
        if offsets and self._sorted_from() >= 0:
            number = self._bisect(text, wanted)
            if number >= 0:
                return self.first_id + number
        for offset in offsets:
            position = self._index.search(offset, wanted)
            if position >= 0:
                break
        else:
            # The format lets a name be the tail of another string; a writer that does so does not also store
            # it whole, so all records are looked at only when there is no string of that name.
            tails = set() if offsets else set(self._tails(text))
            position = self._index.search_any(tails, wanted) if tails else -1
            if position < 0:
                return -1
        id = self.first_id + self._index.number(position)
        self._places[id] = position
        return id

    def _sorted_from(self) -> int:
        """Number of the first named type, if this BTF looks sorted by name; -1 if it does not.

        From Linux 7.0 on, vmlinux has its unnamed types first and then the named ones in the order of strcmp.
        Nothing in the header says so, but any other BTF of that size names one of its first types.
        """
        if self._named == -2:
            self._named = -1
            index, words = self._index, self._words
            if index.has(100) and not index.exact and not any(words[index.locate(at)] for at in range(100)):
                count = index.count()
                low, high = 0, count
                while low < high:
                    middle = (low + high) // 2
                    if words[index.locate(middle)]:
                        high = middle
                    else:
                        low = middle + 1
                # A sample will do: what is not found by bisection is still searched for.
                names = [self._raw_name(number) for number in range(low, count, max((count - low) // 32, 1))]
                if names and names == sorted(names):
                    self._named = low
        return self._named

    def _bisect(self, text: bytes, kind: int) -> int:
        """Number of the first type with a name and kind in sorted BTF, or -1."""
        low, high = self._named, self._index.count()
        while low < high:
            middle = (low + high) // 2
            if self._raw_name(middle) < text:
                low = middle + 1
            else:
                high = middle
        while low < self._index.count() and self._raw_name(low) == text:
            if kind in (-1, self._words[self._index.locate(low) + 1] >> 24 & KIND):
                return low
            low += 1
        return -1

    def _raw_name(self, number: int) -> bytes:
        """The name of an own type as it stands in the string section; b"" for one outside of it."""
        offset = self._words[self._index.locate(number)]
        if not self._string_base <= offset < self.string_end:
            return b""
        at = offset + self._string_shift
        return bytes(self._strings[at : self._strings.find(b"\0", at)])

    def _offsets(self, text: bytes) -> Iterator[int]:
        """Where the string sections hold a name as a string of its own."""
        if self.base is not None:
            yield from self.base._offsets(text)
        start, end = self._strings_start, self._strings_end
        at = self._strings.find(b"\0" + text + b"\0", start, end)
        if at >= 0:
            yield at + 1 - self._string_shift
        elif self._strings.startswith(text + b"\0", start, end):  # the strings of split BTF may start with a name
            yield self._string_base

    def _tails(self, text: bytes) -> Iterator[int]:
        """Where the string sections hold a name as the end of another string."""
        if self.base is not None:
            yield from self.base._tails(text)
        at = self._strings.find(text + b"\0", self._strings_start, self._strings_end)
        while at >= 0:
            yield at - self._string_shift
            at = self._strings.find(text + b"\0", at + 1, self._strings_end)

    def find_c(self, name: str) -> int:
        """The id of a type by how C writes its name.

        Args:
            name: "struct file", "union sigval", "enum pid_type", or a bare name, for which structs, unions,
                enums, typedefs and functions are tried in that order before any other kind.

        Raises:
            BtfNotFound: there is none.
        """
        word, _, rest = name.partition(" ")
        kinds = _C_WORDS.get(word) if rest else None
        bare, tried = (rest, kinds) if kinds else (name, _C_KINDS)
        for kind in tried:
            id = self._find(bare, kind)
            if id >= 0:
                return id
        return self.find(bare, kinds[0] if kinds else None)

    def string(self, offset: int) -> str:
        """The string at an offset of the string section (the base's come first); bytes that are not UTF-8 are
        escaped.

        Raises:
            BtfError: the offset is outside of the section.
        """
        if offset < self._string_base and self.base is not None:
            return self.base.string(offset)
        if not self._string_base <= offset < self.string_end:
            if offset == 0:
                return ""
            raise BtfError(
                f"name at {offset:#x}, but the strings end at {self.string_end:#x}",
                source=self.name,
                section="string",
                offset=offset,
            )
        at = offset + self._string_shift
        return self._strings[at : self._strings.index(0, at)].decode("utf-8", "backslashreplace")

    def _is_name(self, offset: int, text: bytes) -> bool:
        """Whether the string at an offset is `text`, which ends in NUL; cheaper than decoding it."""
        btf = self
        while offset < btf._string_base and btf.base is not None:
            btf = btf.base
        return btf._strings.startswith(text, offset + btf._string_shift, btf._strings_end)

    def name_of(self, id: int) -> str:
        """The name of a type, "" when it has none, "void" for id 0.

        Raises:
            BtfError: no such id, or a name outside of the string section.
        """
        if id == 0:
            return "void"
        words, position, _, _ = self._record(id)
        return self.string(words[position])

    def _nearest(self, name: str, kind: Kind | None) -> list[str]:
        from pylsm.btf.nearest import nearest_types

        return nearest_types(self, name, kind)

    # -- types ---------------------------------------------------------------------------------------------

    @property
    def first_id(self) -> int:
        """The id of the first type that is this BTF's own: 1, or one past the base's last."""
        if self._first < 0:
            assert self.base is not None
            self._first = len(self.base) + 1
        return self._first

    def __len__(self) -> int:
        """The number of types, the base's included; ids run from 1 to this number."""
        return self.first_id - 1 + self._index.count()

    def __bool__(self) -> bool:
        return True  # else `if base:` would count all types

    def types(self, *, own: bool = False) -> Iterator[int]:
        """The type ids in order, counted as they are taken.

        Args:
            own: leave out those of the base.

        Raises:
            BtfError: when the iteration meets damage.
        """
        if self.base is not None and not own:
            yield from self.base.types()
        first = self.first_id
        number = 0
        while self._index.has(number):
            yield first + number
            number += 1

    def _record(self, id: int) -> tuple[memoryview[int], int, int, int]:
        """The words, position, info word and end of a type; all within the section."""
        if self.base is not None and id < self.first_id:
            return self.base._record(id)
        position = self._places.get(id, -1)
        if position < 0:
            number = id - self.first_id
            position = self._index.locate(number) if number >= 0 else -1
            if position < 0:
                raise BtfError(f"no type with id {id}", source=self.name, section="type")
            if len(self._places) < _MANY_PLACES:
                self._places[id] = position
        return self._words, position, self._words[position + 1], self._index.end(position)

    def type(self, id: int) -> Type:
        """The type with an id; 0 is void.

        Raises:
            BtfError: no such id, or a kind newer than this reader.
        """
        if id == 0:
            return Type(self, 0, Kind.VOID, False, 0, 0)
        words, position, info, _ = self._record(id)
        kind = _KINDS.get(info >> 24 & KIND)
        if kind is None:
            raise BtfError(
                f"type {id} is of kind {info >> 24 & KIND}, newer than this reader",
                source=self.name,
                section="type",
                offset=position * 4,
            )
        return Type(self, id, kind, bool(info >> 31), info & VLEN, words[position + 2])

    def body(self, id: int) -> list[int]:
        """The 32-bit words after a type's three header words (btf.rst says what they mean for each kind).

        Raises:
            BtfError: no such id.
        """
        words, position, _, end = self._record(id)
        return words[position + 3 : end].tolist()

    def resolve(self, id: int) -> int:
        """The type behind typedefs, const, volatile, restrict and type tags.

        Raises:
            BtfError: no such id, or a chain that never ends.
        """
        for _ in range(_MAX_CHAIN):
            if id == 0:
                return 0
            words, position, info, _ = self._record(id)
            if (info >> 24) & KIND not in MODIFIERS:
                return id
            id = words[position + 2]
        raise self._endless(id)

    def size_of(self, id: int) -> int:
        """The size of a type in bytes, through typedefs, arrays and variables; pointers have 8.

        Raises:
            BtfError: no such id; a type without size (void, functions, forward declarations, declaration
                tags); a chain that never ends.
        """
        count = 1
        for _ in range(_MAX_CHAIN):
            if id == 0:
                raise BtfError("void has no size", source=self.name)
            words, position, info, _ = self._record(id)
            kind = (info >> 24) & KIND
            if kind in _SIZED:
                return count * words[position + 2]
            if kind == _PTR:
                return count * self.pointer_size
            if kind == _ARRAY:
                count *= words[position + 5]
                id = words[position + 3]
            elif kind in MODIFIERS or kind == _VAR:
                id = words[position + 2]
            else:
                raise BtfError(f"{self.c_name(id)} has no size", source=self.name)
        raise self._endless(id)

    def align_of(self, id: int) -> int:
        """The natural alignment of a type in bytes on a 64-bit machine (1 for what has none).

        Raises:
            BtfError: no such id, or a chain that never ends.
        """
        alignment = 1
        todo = [id]
        seen: set[int] = set()
        while todo:
            id = todo.pop()
            if id == 0 or id in seen:
                continue
            seen.add(id)
            words, position, info, end = self._record(id)
            kind = (info >> 24) & KIND
            if kind in (_STRUCT, _UNION):
                todo += words[position + 4 : end : 3].tolist()
            elif kind == _ARRAY:
                todo.append(words[position + 3])
            elif kind in MODIFIERS or kind == _VAR:
                todo.append(words[position + 2])
            elif kind == _PTR:
                alignment = max(alignment, self.pointer_size)
            elif kind in _SIZED:
                size = words[position + 2]
                # A power of two, no more than the machine's largest alignment (16: __int128, long double).
                alignment = max(alignment, min(size & -size, 16) or 1)
        return alignment

    def is_signed(self, id: int) -> bool:
        """Whether a type is a signed integer or an enum with negative values, behind typedefs.

        Raises:
            BtfError: no such id, or a chain that never ends.
        """
        id = self.resolve(id)
        return id != 0 and self.type(id).signed

    def _endless(self, id: int) -> BtfError:
        return BtfError(
            f"type {id} is one of a circle or chain of more than {_MAX_CHAIN} types",
            source=self.name,
            section="type",
        )

    # -- structs -------------------------------------------------------------------------------------------

    def members(self, id: int) -> tuple[Member, ...]:
        """The direct members of a STRUCT or UNION, anonymous ones included, offsets from its start.

        Raises:
            BtfError: no such id, another kind, or a name outside of the string section.
        """
        words, position, info, end = self._record(id)
        if (info >> 24) & KIND not in (_STRUCT, _UNION):
            raise BtfError(f"{self.c_name(id)} is no struct or union", source=self.name)
        found = []
        for at in range(position + 3, end, 3):
            offset, bits = _place(words[at + 2], info)
            found.append(Member(self, self.string(words[at]), words[at + 1], offset, bits))
        return tuple(found)

    def member(self, struct: int | str, path: str) -> Member:
        """What a path of members of a struct leads to, inside of that struct.

        Args:
            struct: type id, or a name: "file", "struct file", "union sigval", or a typedef of one.
            path: member names joined by dots, `name[3]` for an array element: "f_path.dentry",
                "sk_v6_daddr.in6_u.u6_addr8[0]". Members of anonymous structs and unions are found as if they
                were direct. A pointer is not followed: it may only come last.

        Returns:
            A Member whose offset counts from the start of `struct`.

        Raises:
            BtfNotFound: no such struct or member.
            BtfError: a component is no struct (it says which and what it is), an index is outside of the
                array, or the BTF is damaged.
        """
        id = struct if isinstance(struct, int) else self.find_struct(struct)
        type_id, bit_offset, bits, name = id, 0, 0, ""
        walked = ""
        for component in path.split("."):
            name, indices = _component(component, path, self.name)
            at = self.resolve(type_id)
            if not self._holds_members(at):
                self._refuse(id, path, walked, type_id)
            type_id, offset, bits = self._member(at, name)
            bit_offset += offset
            walked += ("." if walked else "") + component
            for index in indices:
                array = self.type(self.resolve(type_id)).array
                if array.element_id == 0:
                    raise BtfError(
                        f"{path!r} of {self.c_name(id)}: {name} is {self.c_name(type_id)}, no array",
                        source=self.name,
                    )
                if index >= array.length > 0:
                    raise BtfError(
                        f"{path!r} of {self.c_name(id)}: {name} has {array.length} elements, no index {index}",
                        source=self.name,
                    )
                bits = 0
                bit_offset += index * self.size_of(array.element_id) * 8
                type_id = array.element_id
        return Member(self, name, type_id, bit_offset, bits)

    def find_struct(self, name: str) -> int:
        """The id of a struct or union by name.

        Args:
            name: "file", "struct file", "union sigval"; a bare name may be a typedef of a struct or union, if
                there is no struct and no union of that name.

        Raises:
            BtfNotFound: there is none.
        """
        word, _, rest = name.partition(" ")
        if rest and word in ("struct", "union"):
            return self.find(rest, Kind.STRUCT if word == "struct" else Kind.UNION)
        for kind in (Kind.STRUCT, Kind.UNION, Kind.TYPEDEF):
            id = self._find(name, kind)
            if id >= 0:
                if kind is not Kind.TYPEDEF:
                    return id
                id = self.resolve(id)
                if self._holds_members(id):
                    return id
        return self.find(name, Kind.STRUCT)

    def _holds_members(self, id: int) -> bool:
        return id != 0 and (self._record(id)[2] >> 24) & KIND in (_STRUCT, _UNION)

    def _refuse(self, id: int, path: str, walked: str, type_id: int) -> None:
        at = self.resolve(type_id)
        what = self.c_name(type_id)
        if not walked:
            raise BtfError(f"{what} is no struct or union: it has no {path!r}", source=self.name)
        if at and self.type(at).kind is Kind.PTR:
            raise BtfError(
                f"{path!r} of {self.c_name(id)}: {walked} is a pointer ({what}): a path stays inside the struct",
                source=self.name,
                hint="load the pointer first, then ask for the rest of the path in what it points to",
            )
        raise BtfError(f"{path!r} of {self.c_name(id)}: {walked} is {what}, no struct", source=self.name)

    def _member(self, id: int, name: str) -> tuple[int, int, int]:
        """Type id, bit offset and width (-1: ask the type) of a member, also of anonymous members'."""
        text = _encode(name) + b"\0"
        todo = [(id, 0)]
        seen = {id}
        while todo:
            at, start = todo.pop(0)
            words, position, info, end = self._record(at)
            body = position + 3
            names = words[body:end:3].tolist()
            own, first = self._strings, self._string_base
            shift, last = self._string_shift, self._strings_end
            for number, offset in enumerate(names):
                if own.startswith(text, offset + shift, last) if offset >= first else self._is_name(offset, text):
                    place, bits = _place(words[body + 3 * number + 2], info)
                    return words[body + 3 * number + 1], start + place, bits
            for number, offset in enumerate(names):
                if offset == 0 or self._is_name(offset, b"\0"):
                    inner = self.resolve(words[body + 3 * number + 1])
                    # The same anonymous type a second time would be searched in vain again.
                    if inner not in seen and self._holds_members(inner):
                        seen.add(inner)
                        todo.append((inner, start + _place(words[body + 3 * number + 2], info)[0]))
        kind = self.type(id).kind
        raise BtfNotFound(
            kind,
            name,
            lambda: self._nearest_member(id, name),
            what="member",
            where=self._title(id),
            source=self.name,
        )

    def _nearest_member(self, id: int, name: str) -> list[str]:
        from pylsm.btf.nearest import nearest_members

        return nearest_members(self, id, name)

    def legacy_width(self, id: int) -> int:
        """Width in bits that a narrow INT lends to a member, where the struct's record does not give one
        (kind_flag 0); 0 for a type that fills its bytes.

        Raises:
            BtfError: no such id, or a chain that never ends.
        """
        id = self.resolve(id)
        if id:
            type = self.type(id)
            if type.kind is Kind.INT and type.bits < 8 * type.size:
                return type.bits
        return 0

    # -- enums and functions -------------------------------------------------------------------------------

    def enumerators(self, id: int) -> tuple[Enumerator, ...]:
        """The named values of an ENUM or ENUM64.

        Raises:
            BtfError: no such id, another kind, or a name outside of the string section.
        """
        words, position, info, end = self._record(id)
        kind = (info >> 24) & KIND
        if kind not in (_ENUM, _ENUM64):
            raise BtfError(f"{self.c_name(id)} is no enum", source=self.name)
        step = 2 if kind == _ENUM else 3
        found = []
        for at in range(position + 3, end, step):
            value = words[at + 1] if kind == _ENUM else words[at + 1] | words[at + 2] << 32
            width = 32 if kind == _ENUM else 64
            if info >> 31 and value >> (width - 1):
                value -= 1 << width
            found.append(Enumerator(self.string(words[at]), value))
        return tuple(found)

    def enumerator(self, enum_name: str, value_name: str) -> int:
        """The value of a named constant.

        Args:
            enum_name: the enum: "pid_type", "enum pid_type", or a typedef of one.
            value_name: the constant: "PIDTYPE_TGID".

        Raises:
            BtfNotFound: no such enum, or no such value in it.
        """
        id = self.find_enum(enum_name)
        for enumerator in self.enumerators(id):
            if enumerator.name == value_name:
                return enumerator.value
        raise BtfNotFound(
            self.type(id).kind,
            value_name,
            lambda: self._nearest_value(id, value_name),
            what="enumerator",
            where=self._title(id),
            source=self.name,
        )

    def find_enum(self, name: str) -> int:
        """The id of an ENUM or ENUM64 by name: "pid_type", "enum pid_type", or a typedef of one.

        Raises:
            BtfNotFound: there is none.
        """
        bare = name[5:] if name.startswith("enum ") else name
        for kind in (Kind.ENUM, Kind.ENUM64, Kind.TYPEDEF):
            id = self._find(bare, kind)
            if id >= 0 and (kind is not Kind.TYPEDEF or bare == name):
                id = self.resolve(id)
                if id and self.type(id).kind in (Kind.ENUM, Kind.ENUM64):
                    return id
        return self.find(bare, Kind.ENUM)

    def _nearest_value(self, id: int, name: str) -> list[str]:
        from pylsm.btf.nearest import nearest_names

        return nearest_names(name, [enumerator.name for enumerator in self.enumerators(id)])

    def func_proto(self, func: int | str) -> FuncProto:
        """The signature of a function.

        Args:
            func: the name of a FUNC, or the id of a FUNC, a FUNC_PROTO, or a pointer or typedef to one.

        Raises:
            BtfNotFound: no function of that name.
            BtfError: the id is of something else.
        """
        id = self.find(func, Kind.FUNC) if isinstance(func, str) else func
        at = id
        for _ in range(_MAX_CHAIN):
            type = self.type(at)
            if type.kind is Kind.FUNC_PROTO:
                params = type.params
                variadic = bool(params) and params[-1] == Param("", 0)
                return FuncProto(at, type.type_id, params[:-1] if variadic else params, variadic)
            if type.kind not in (Kind.FUNC, Kind.PTR) and at == self.resolve(at):
                raise BtfError(f"{self.c_name(id)} is no function", source=self.name)
            at = type.type_id
        raise self._endless(id)

    # -- text ----------------------------------------------------------------------------------------------

    def c_name(self, id: int) -> str:
        """The type as C would write it: "struct file *", "char[16]", "int (*)(struct file *)".

        Never raises: this is for messages, and damage is part of what they report.
        """
        from pylsm.btf.printer import c_name

        return c_name(self, id)

    def _title(self, id: int) -> str:
        """As c_name, of a struct, union or enum, and without loading the printer."""
        type = self.type(id)
        word = "enum" if type.kind is Kind.ENUM64 else type.kind.name.lower()
        return f"{word} {type.name or '(anonymous)'}"

    def dump_c(self, type: int | str) -> str:
        """A C-like definition of one type, with the offsets and sizes of its members in comments.

        Args:
            type: type id or name ("file", "struct file", "enum pid_type", "vfs_open").

        Raises:
            BtfNotFound: no such type.
            BtfError: it is damaged.
        """
        from pylsm.btf.printer import dump_c

        return dump_c(self, type)

    def __repr__(self) -> str:
        return f"<Btf {self.name!r}>"


def _sections(
    view: memoryview, name: str, split: bool
) -> tuple[tuple[int, int], tuple[int, int], dict[int, tuple[int, int]], Literal["little", "big"]]:
    """Check the header; byte ranges of types and strings, layout of unknown kinds, byte order."""

    def bad(offset: int, message: str, hint: str = "") -> BtfError:
        return BtfError(message, source=name, section="header", offset=offset, hint=hint)

    size = len(view)
    if size < 24:
        raise bad(0, f"{size} bytes are too few for a header (24)")
    order: Literal["little", "big"] = "little" if view[0] == _MAGIC & 0xFF else "big"
    head = bytes(view[:40])

    def u32(offset: int) -> int:
        return int.from_bytes(head[offset : offset + 4], order)

    if int.from_bytes(head[:2], order) != _MAGIC:
        raise bad(0, f"magic is {head[:2].hex()}, not 9feb or eb9f: this is no BTF")
    if head[2] != 1:
        raise bad(2, f"version {head[2]}, only 1 is known", "is this BTF from a newer kernel?")
    length = u32(4)
    if not 24 <= length <= size:
        raise bad(4, f"header length {length} is not between 24 and the size of the data, {size}")

    def section(offset: int, what: str) -> tuple[int, int]:
        start = length + u32(offset)
        end = start + u32(offset + 4)
        if end > size:
            raise bad(offset, f"the {what} section ends at {end:#x}, the data at {size:#x}")
        return start, end

    types = section(8, "type")
    strings = section(16, "string")
    if u32(8) & 3 or u32(12) & 3:
        raise bad(8, f"type section at {u32(8):#x} with {u32(12):#x} bytes is not made of 32-bit words")
    if strings[0] == strings[1]:
        if not split:
            raise BtfError("the string section is empty", source=name, section="string", offset=0)
    elif view[strings[1] - 1] != 0:
        raise BtfError(
            "the last string does not end", source=name, section="string", offset=strings[1] - strings[0] - 1
        )
    elif not split and view[strings[0]] != 0:
        raise BtfError("the first string is not empty", source=name, section="string", offset=0)
    layout: dict[int, tuple[int, int]] = {}
    if length >= 32:
        # struct btf_layout, one a kind: u8 bytes after the header words, u8 bytes an element, u16 flags
        start, end = section(24, "layout")
        for kind in range(20, min((end - start) // 4, KIND + 1)):
            fixed, element = view[start + 4 * kind], view[start + 4 * kind + 1]
            if not (fixed | element) & 3:
                layout[kind] = (fixed // 4, element // 4)
    return types, strings, layout, order


def _place(word: int, info: int) -> tuple[int, int]:
    """Bit offset and width of a member from its third word; width -1: the struct does not say."""
    return (word & 0xFFFFFF, word >> 24) if info >> 31 else (word, -1)


def _encode(name: str) -> bytes:
    return name.encode("utf-8", "backslashreplace")


def _component(component: str, path: str, source: str) -> tuple[str, list[int]]:
    """Split "name[3][4]" into the name and its indices."""
    name, bracket, rest = component.partition("[")
    indices: list[int] = []
    while bracket:
        digits, close, rest = rest.partition("]")
        if not close or not (digits.isascii() and digits.isdigit() and len(digits) <= 10):
            raise BtfError(f"{component!r} in path {path!r} is not name[number]", source=source)
        indices.append(int(digits))
        if rest and rest[0] != "[":
            raise BtfError(f"{component!r} in path {path!r} is not name[number]", source=source)
        bracket, rest = rest[:1], rest[1:]
    if not name:
        raise BtfError(f"path {path!r} has an empty component", source=source)
    return name, indices
