"""``.maps`` sections: maps declared as C variables whose type says everything (``__uint``, ``__type``, ``__array``)."""

from __future__ import annotations

from typing import NamedTuple

from pylsm.asm import MapSpec, MapType
from pylsm.asm.errors import OperandError
from pylsm.btf import Btf, BtfError, Kind
from pylsm.btf.types import Type
from pylsm.loader.elf.errors import ElfError
from pylsm.loader.elf.image import Image, Section
from pylsm.loader.elf.types import TypeLayout

__all__ = ["Declared", "declared_maps"]

_MAPS_OF_MAPS = (MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS)
#: enum libbpf_pin_type
_PIN_NONE, _PIN_BY_NAME = 0, 1


class Declared(NamedTuple):
    """A map as it is declared.

    ``offset``: of its variable in .maps; ``inner``: what a map of maps holds; ``pinned``: libbpf would keep it at
    /sys/fs/bpf/NAME; ``extra``: map_extra; ``slots``: where in .maps the addresses of a program array's entries begin.
    """

    spec: MapSpec
    offset: int
    inner: MapSpec | None
    pinned: bool
    extra: int
    slots: int = -1


def declared_maps(image: Image, section: Section, btf: Btf) -> dict[str, Declared]:
    """The maps of a .maps section, by name.

    Raises:
        ElfError: a declaration that is not understood; names the map and the member.
    """
    try:
        types = btf.type(btf.find(section.name, Kind.DATASEC))
    except BtfError as error:
        raise image.error(f"no types for it in .BTF ({error})", section.name, 0, "compile with -g") from None
    # The compiler leaves offsets to the symbols.
    places = {symbol.name: symbol.value for symbol in image.symbols if symbol.section == section.number and symbol.name}
    found: dict[str, Declared] = {}
    for variable in types.variables:
        var = btf.type(variable.type_id)
        name = var.name
        place = places.get(name)
        if var.kind is not Kind.VAR or place is None:
            raise image.error(f"map {name!r} has no symbol", section.name, 0)
        try:
            found[name] = _Declaration(image, section.name, btf, name, place).read(btf.type(btf.resolve(var.type_id)))
        except (BtfError, OperandError) as error:
            raise image.error(f"map {name!r}: {error}", section.name, place) from error
    return found


class _Declaration:
    def __init__(self, image: Image, section: str, btf: Btf, name: str, place: int) -> None:
        self._image = image
        self._section = section
        self._btf = btf
        self._name = name
        self._place = place

    def _bad(self, message: str, hint: str = "") -> ElfError:
        return self._image.error(f"map {self._name!r}: {message}", self._section, self._place, hint)

    def read(self, type: Type, inner: bool = False) -> Declared:
        if type.kind is not Kind.STRUCT:
            raise self._bad(f"it is declared as {self._btf.c_name(type.id)}, not as a struct")
        numbers: dict[str, int] = {}
        layouts: dict[str, TypeLayout] = {}
        held: MapSpec | None = None
        slots = -1
        for member in type.members:
            if member.name in ("key", "value"):
                layouts[member.name] = TypeLayout(self._btf, self._pointee(member.type_id, member.name))
            elif member.name == "values":
                held = self._values(member.type_id, inner)
                slots = self._place + member.bit_offset // 8 if held is None else -1
            elif member.name in _NUMBERS:
                numbers[member.name] = self._number(member.type_id, member.name)
            else:
                raise self._bad(
                    f"member {member.name!r} is not understood", f"known: {', '.join(_NUMBERS)}, key, value"
                )
        kind = numbers.get("type", 0)
        try:
            map_type = MapType(kind)
        except ValueError:
            raise self._bad(f"type {kind} is not known") from None
        if map_type is MapType.UNSPEC:
            raise self._bad("it has no type")
        sides: dict[str, TypeLayout | int] = {}
        for side in ("key", "value"):
            size = numbers.get(f"{side}_size")
            layout = layouts.get(side)
            if layout is not None and size not in (None, layout.size):
                raise self._bad(f"{side} has {layout.size} bytes, {side}_size says {size}")
            sides[side] = layout if layout is not None else size or 0
        if map_type in _MAPS_OF_MAPS:
            sides["key"] = sides["key"] or 4
            sides["value"] = 4
        if map_type in (MapType.PERF_EVENT_ARRAY, MapType.PROG_ARRAY):
            sides = {side: given or 4 for side, given in sides.items()}
        pinning = numbers.get("pinning", _PIN_NONE)
        if pinning not in (_PIN_NONE, _PIN_BY_NAME):
            raise self._bad(f"pinning {pinning} is not known")
        spec = MapSpec(
            self._name,
            map_type,
            key=sides["key"],
            value=sides["value"],
            max_entries=numbers.get("max_entries", 0),
            flags=numbers.get("map_flags", 0),
        )
        return Declared(spec, self._place, held, pinning == _PIN_BY_NAME, numbers.get("map_extra", 0), slots)

    def _number(self, type_id: int, member: str) -> int:
        """``__uint(name, value)`` is ``int (*name)[value]``."""
        array = self._btf.type(self._btf.resolve(self._pointee(type_id, member)))
        if array.kind is not Kind.ARRAY:
            raise self._bad(f"{member} is not written with __uint()")
        return array.array.length

    def _pointee(self, type_id: int, member: str) -> int:
        pointer = self._btf.type(self._btf.resolve(type_id))
        if pointer.kind is not Kind.PTR:
            raise self._bad(f"{member} is not written with __uint() or __type()")
        return pointer.type_id

    def _values(self, type_id: int, inner: bool) -> MapSpec | None:
        """``__array(values, struct {...})`` is ``typeof(struct {...}) *values[]``."""
        array = self._btf.type(self._btf.resolve(type_id))
        if array.kind is not Kind.ARRAY or inner:
            raise self._bad("values are not written with __array(), or nest")
        target = self._btf.type(self._btf.resolve(self._pointee(array.array.element_id, "values")))
        if target.kind is Kind.FUNC_PROTO:
            return None  # a program array
        return self.read(target, inner=True).spec


_NUMBERS = ("type", "max_entries", "map_flags", "key_size", "value_size", "numa_node", "pinning", "map_extra")
