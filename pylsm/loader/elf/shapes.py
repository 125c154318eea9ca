"""The local types of an object that pylsm writes: the structs, fields and enumerators that its programs name.

A CO-RE relocation asks about a type of the object itself; the loader looks for the kernel's type of the same name. So
each struct that a program refers to is written with just the fields that it refers to, at the offsets C would give
them, which mean nothing for the kernel.
"""

from __future__ import annotations

from collections.abc import Sequence

from pylsm.asm.references import EnumRef, FieldRef, TypeRef
from pylsm.btf import Btf, BtfError, BtfNotFound, BtfWriter, Kind
from pylsm.btf.types import Type
from pylsm.loader.elf.core import (
    BYTE_OFFSET,
    BYTE_SIZE,
    ENUM_VALUE,
    FIELD_EXISTS,
    TYPE_EXISTS,
    TYPE_ID_TARGET,
    TYPE_SIZE,
)

__all__ = ["Question", "Shapes"]

_COMPOSITES = (Kind.STRUCT, Kind.UNION)
_ENUMS = (Kind.ENUM, Kind.ENUM64)
_FIELD_KINDS = {"offset": BYTE_OFFSET, "size": BYTE_SIZE, "exists": FIELD_EXISTS}
_TYPE_KINDS = {"id": TYPE_ID_TARGET, "size": TYPE_SIZE, "exists": TYPE_EXISTS}

_Key = tuple[object, ...]
#: (local type id, access string, relocation kind)
Question = tuple[int, str, int]


class Shapes:
    """Collects what programs refer to, then writes it.

    Args:
        sources: where the shapes of the kernel's types come from: declarations first; the running kernel's BTF, if it
            is to be used for what they leave out, last.
    """

    def __init__(self, sources: Sequence[Btf]) -> None:
        self._sources = sources
        self._fields: dict[_Key, dict[str, tuple[Btf, int]]] = {}
        self._heads: dict[_Key, Type] = {}
        self._written: dict[_Key, int] = {}
        self._enums: dict[str, dict[str, None]] = {}
        self._paths: dict[FieldRef, tuple[_Key, list[tuple[_Key, str, list[int]]]]] = {}

    # ---- collecting ----------------------------------------------------------------------------------------------

    def add(self, reference: FieldRef | TypeRef | EnumRef) -> None:
        """Note a reference.

        Raises:
            BtfError: no source has the type, or it is one that CO-RE relocations cannot express.
        """
        if isinstance(reference, FieldRef):
            if reference.alternatives:
                raise BtfError(
                    f"{reference.struct}.{reference.path} has alternatives, which an object file cannot express",
                    hint="ask for each with exists, and branch",
                )
            self._add_field(reference)
        elif isinstance(reference, EnumRef):
            self._enums.setdefault(_bare(reference.enum, "enum"), {})[reference.value] = None
        else:
            self._note_type(reference.name)

    def _struct(self, name: str) -> Type:
        """A struct by its name, from the first source that has it."""
        missing: BtfNotFound | None = None
        for source in self._sources:
            try:
                return source.type(source.find_struct(name))
            except BtfNotFound as error:
                missing = missing or error
        raise missing or BtfError(f"no types are given, and {name} is asked for")

    def _add_field(self, reference: FieldRef) -> None:
        type_ = self._struct(reference.struct)
        root = self._key(type_)
        steps: list[tuple[_Key, str, list[int]]] = []
        for component in reference.path.split("."):
            name, *rest = component.replace("]", "").split("[")
            indices = [int(index) for index in rest]
            source = type_.btf
            if type_.kind not in _COMPOSITES:
                raise BtfError(f"{reference.struct}.{reference.path}: {source.c_name(type_.id)} is no struct")
            member = source.member(type_.id, name)
            if member.is_bitfield:
                raise BtfError(f"{reference.struct}.{reference.path} is a bit field: it has no offset in bytes")
            self._fields[self._key(type_)].setdefault(name, (source, member.type_id))
            steps.append((self._key(type_), name, indices))
            id = source.resolve(member.type_id)
            for _ in indices:
                id = source.resolve(source.type(id).array.element_id)
            type_ = source.type(id)
            if type_.kind in _COMPOSITES:
                self._key(type_)
        self._paths[reference] = root, steps

    def _note_type(self, name: str) -> None:
        word, _, rest = name.partition(" ")
        if word == "enum" and rest:
            self._enums.setdefault(rest, {})
            return
        try:
            self._key(self._struct(name))
        except BtfNotFound:
            # Nobody knows its fields, and none is asked for: what counts is its name.
            kind = Kind.UNION if word == "union" else Kind.STRUCT
            self._fields.setdefault((kind, rest if word in ("struct", "union") and rest else name), {})

    def _key(self, type_: Type) -> _Key:
        name = type_.name
        key: _Key = (type_.kind, name) if name else ("anonymous", id(type_.btf), type_.id)
        self._fields.setdefault(key, {})
        self._heads.setdefault(key, type_)
        return key

    # ---- writing -------------------------------------------------------------------------------------------------

    def write(self, writer: BtfWriter) -> None:
        """Write all that was noted."""
        for key in self._fields:
            self._composite(key, writer)

    def _composite(self, key: _Key, writer: BtfWriter) -> int:
        known = self._written.get(key)
        if known is not None:
            return known
        members = [(name, self._type(*where, writer), None) for name, where in self._fields[key].items()]
        anonymous = key[0] == "anonymous"
        kind = self._heads[key].kind if anonymous else key[0]
        name = "" if anonymous else str(key[1])
        make = writer.union if kind is Kind.UNION else writer.struct
        made = self._written[key] = make(name, members)
        return made

    def _type(self, source: Btf, id: int, writer: BtfWriter) -> int:
        """A field's type, as far as a loader compares it with the kernel's: kind, name of structs, size of numbers."""
        type_ = source.type(source.resolve(id))
        kind = type_.kind
        if kind is Kind.INT:
            return writer.int_(type_.name, type_.size, encoding=type_.encoding)
        if kind is Kind.PTR:
            return writer.ptr(0)
        if kind is Kind.ARRAY:
            return writer.array(self._type(source, type_.array.element_id, writer), type_.array.length)
        if kind in _COMPOSITES:
            return self._composite(self._key(type_), writer)
        if kind in _ENUMS:
            return (writer.enum if kind is Kind.ENUM else writer.enum64)(type_.name, [], type_.size)
        if kind is Kind.FLOAT:
            return writer.float_(type_.name, type_.size)
        raise BtfError(f"a field of type {source.c_name(id)} cannot be asked about")

    def question(self, reference: FieldRef | TypeRef | EnumRef, writer: BtfWriter) -> Question:
        """What to ask for a reference, once all is written."""
        if isinstance(reference, FieldRef):
            root, steps = self._paths[reference]
            access = ["0"]
            for key, name, indices in steps:
                access.append(str(list(self._fields[key]).index(name)))
                access += [str(index) for index in indices]
            return self._written[root], ":".join(access), _FIELD_KINDS[reference.what]
        if isinstance(reference, EnumRef):
            name = _bare(reference.enum, "enum")
            values = list(self._enums[name])
            # The numbers are the kernel's to say; here they only have to be told apart.
            id = writer.enum(name, [(value, number) for number, value in enumerate(values)])
            return id, str(values.index(reference.value)), ENUM_VALUE
        word, _, rest = reference.name.partition(" ")
        if word == "enum" and rest:
            values = list(self._enums[rest])
            id = writer.enum(rest, [(value, number) for number, value in enumerate(values)])
        else:
            bare = rest if word in ("struct", "union") and rest else reference.name
            kinds = (Kind.UNION,) if word == "union" else (Kind.STRUCT, Kind.UNION)
            id = next(self._written[kind, bare] for kind in kinds if (kind, bare) in self._written)
        return id, "0", _TYPE_KINDS[reference.what]


def _bare(name: str, word: str) -> str:
    return name[len(word) + 1 :] if name.startswith(word + " ") else name
