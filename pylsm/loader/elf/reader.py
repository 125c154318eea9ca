"""`ObjectFile`: an object file opened, to be looked at, changed and loaded."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pylsm.asm import MapSpec, MapType, Program
from pylsm.btf import Btf, BtfError
from pylsm.loader.elf.errors import ElfError
from pylsm.loader.elf.ext import Ext, read_ext
from pylsm.loader.elf.image import (
    MAX_FILE,
    SHF_ALLOC,
    SHF_EXECINSTR,
    SHF_WRITE,
    SHT_NOBITS,
    SHT_PROGBITS,
    STT_FUNC,
    STT_OBJECT,
    Image,
    Relocation,
    Section,
)
from pylsm.loader.elf.link import Linker, relocate
from pylsm.loader.elf.maps import Declared, declared_maps
from pylsm.loader.errors import SpecError

if TYPE_CHECKING:
    from pylsm.loader.maps import Map
    from pylsm.loader.object import Object, Reused

__all__ = ["ObjectFile"]

_RDONLY_PROG, _MMAPABLE = 1 << 7, 1 << 10  # BPF_F_* of BPF_MAP_CREATE (include/uapi/linux/bpf.h)
_DATA = (".data", ".bss", ".rodata")
_PIN_ROOT = "/sys/fs/bpf"


class ObjectFile:
    """A BPF ELF object, as clang makes it, not loaded yet.

    Args:
        data: the file.
        name: the object's name: the file's, without what follows its first dot.
        file: what messages call it.

    Attributes:
        license: of all its programs.
        programs: name → `Program`, with offsets as compiled: `program` gives one for a kernel.
        maps: name → `MapSpec`. Entries may be replaced before `load` (``spec.resized(…)``). Data sections are maps too,
            named as libbpf names them: "probe.rodata".
        btf: its types, None where it has none.
        reuse: maps of others by name, which `load` takes in place of its own.

    Raises:
        ElfError: not a BPF object, damaged, or with something that is not supported; names section and offset.
    """

    def __init__(self, data: bytes, name: str = "object", *, file: str = "") -> None:
        self._image = image = Image(data, file or name)
        self.name = name
        self.btf = self._types()
        section = image.section(".BTF.ext")
        self._ext = Ext({}, {}, {})
        if section is not None and self.btf is not None:
            self._ext = read_ext(section.data, self.btf, image.name)
        self.license = self._license()
        self._declared: dict[str, Declared] = {}
        self._slots: dict[str, dict[int, str]] = {}
        try:
            self._read_maps()
            raw = Linker(
                image,
                self.btf,
                self._ext,
                {declared.offset: declared.spec for declared in self._declared.values()},
                {index: spec for index, (spec, _) in self._data.items()},
                self.license,
            ).programs()
        except BtfError as error:
            raise image.error(str(error), error.section or ".BTF", error.offset) from error
        self._raw = raw
        if not raw:
            raise image.error("no programs in it", hint='a program is a function in a section: SEC("lsm/file_open")')
        for array, entries in self._slots.items():
            for called in entries.values():
                if called not in raw:
                    raise image.error(f"program array {array!r} holds {called!r}, which is no program", ".maps", 0)
        self.reuse: dict[str, Reused] = {}
        self.programs: dict[str, Program] = {program_name: one.program for program_name, one in raw.items()}

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> ObjectFile:
        """Open an object file.

        Raises:
            ElfError: as the class; or the file cannot be read.
        """
        name = os.fspath(path)
        try:
            with open(name, "rb") as file:
                data = file.read(MAX_FILE + 1)
        except (OSError, ValueError) as error:
            raise ElfError(str(getattr(error, "strerror", None) or error), file=name) from error
        if len(data) > MAX_FILE:
            raise ElfError(f"larger than {MAX_FILE >> 20} MiB: no BPF object is", file=name)
        return cls(data, os.path.basename(name).partition(".")[0] or "object", file=name)

    # ---- reading -------------------------------------------------------------------------------------------------

    def _types(self) -> Btf | None:
        section = self._image.section(".BTF")
        if section is None or not section.data:
            return None
        try:
            return Btf(section.data, name=f"{self._image.name} (.BTF)")
        except BtfError as error:
            raise self._image.error(str(error), ".BTF", error.offset) from error

    def _license(self) -> str:
        section = self._image.section("license")
        if section is None:
            return ""
        return section.data.partition(b"\0")[0][:128].decode("ascii", "replace")

    def _read_maps(self) -> None:
        image = self._image
        declared = image.section(".maps")
        if declared is not None:
            if self.btf is None:
                raise image.error("maps without types: the object has no .BTF", ".maps", 0, "compile with -g")
            self._declared = declared_maps(image, declared, self.btf)
            for relocation in image.relocations(declared):
                self._fill_slot(relocation)
        if image.section("maps") is not None:
            raise image.error("maps of a form before BTF", "maps", 0, 'declare them in SEC(".maps")')
        self._data: dict[int, tuple[MapSpec, bytes]] = {}
        for section in image.sections:
            spec = self._data_map(section)
            if spec is not None:
                for relocation in image.relocations(section):
                    raise image.error(
                        f"an address in initialised data ({relocation.symbol.name or 'of a section'})",
                        relocation.section,
                        relocation.place,
                    )
                content = section.data if section.type != SHT_NOBITS else bytes(section.size)
                self._data[section.number] = (spec, content)
        self.maps: dict[str, MapSpec] = {name: one.spec for name, one in self._declared.items()}
        for spec, _ in self._data.values():
            if spec.name in self.maps:
                raise image.error(f"two maps are called {spec.name!r}")
            self.maps[spec.name] = spec

    def _fill_slot(self, relocation: Relocation) -> None:
        """Note a program that a program array is declared with."""
        image = self._image
        place = relocation.section, relocation.place
        behind = [one for one in self._declared.values() if one.offset <= relocation.offset]
        array = max(behind, key=lambda one: one.offset, default=None)
        if array is None or array.slots < 0 or relocation.symbol.type != STT_FUNC:
            raise image.error(
                f"map values set in the source ({relocation.symbol.name or 'a section'}) are not supported",
                *place,
                "fill the map after loading",
            )
        index, rest = divmod(relocation.offset - array.slots, 8)
        if rest or not 0 <= index < array.spec.max_entries:
            raise image.error(
                f"program array {array.spec.name!r} has {array.spec.max_entries} entries; "
                f"{relocation.symbol.name!r} is at +{relocation.offset - array.slots:#x} of them",
                *place,
            )
        self._slots.setdefault(array.spec.name, {})[index] = relocation.symbol.name

    def _data_map(self, section: Section) -> MapSpec | None:
        """The array map that stands for a data section, None for other sections."""
        base = next((base for base in _DATA if section.name == base or section.name.startswith(base + ".")), None)
        if base is None or not section.size or section.type not in (SHT_PROGBITS, SHT_NOBITS):
            return None
        if not section.flags & SHF_ALLOC or section.flags & SHF_EXECINSTR:
            return None
        if section.size > MAX_FILE:
            raise self._image.error(f"{section.size:#x} bytes of data", section.name, 0)
        flags = _MMAPABLE if section.flags & SHF_WRITE else _MMAPABLE | _RDONLY_PROG
        prefix = self.name[: max(15 - len(section.name), 0)][:8] if section.name == base else ""
        label = "".join(c if c.isascii() and (c.isalnum() or c in "_.") else "_" for c in prefix + section.name)
        return MapSpec(label, MapType.ARRAY, key=4, value=section.size, max_entries=1, flags=flags)

    # ---- data ----------------------------------------------------------------------------------------------------

    def variable(self, name: str) -> bytes:
        """The bytes that a global variable begins with.

        Raises:
            SpecError: there is no such variable.
        """
        index, at, size = self._variable(name)
        return self._data[index][1][at : at + size]

    def set(self, name: str, value: bytes | int) -> None:
        """Give a global variable another value to begin with, for example a ``const volatile`` setting.

        Args:
            name: of the variable.
            value: bytes of its size, or a number that fits it.

        Raises:
            SpecError: no such variable, or a value of another size.
        """
        index, at, size = self._variable(name)
        if isinstance(value, bytes):
            raw = value
        else:
            try:
                raw = value.to_bytes(size, sys.byteorder, signed=value < 0)
            except OverflowError:
                raise SpecError(f"{value} does not fit the {size} bytes of {name!r}") from None
        if len(raw) != size:
            raise SpecError(f"{name!r} has {size} bytes, not {len(raw)}")
        spec, content = self._data[index]
        self._data[index] = (spec, content[:at] + raw + content[at + size :])

    def _variable(self, name: str) -> tuple[int, int, int]:
        known = []
        for symbol in self._image.symbols:
            if symbol.type == STT_OBJECT and symbol.section in self._data:
                size = self._data[symbol.section][0].value_size
                if symbol.name == name and symbol.value + symbol.size <= size:
                    return symbol.section, symbol.value, symbol.size
                known.append(symbol.name)
        raise SpecError(f"there is no variable {name!r}; there are: {', '.join(sorted(known)) or 'none'}")

    # ---- loading -------------------------------------------------------------------------------------------------

    def program(self, name: str, kernel: Btf | None = None) -> Program:
        """A program with its CO-RE relocations answered.

        Args:
            name: of its function.
            kernel: types of the kernel it is for, by default the running one's; read only if it needs any.

        Raises:
            SpecError: there is no such program.
            ElfError: a relocation cannot be answered; a field that the kernel does not have is no error, unless
                control gets to it: the verifier then refuses the program.
        """
        raw = self._raw.get(name)
        if raw is None:
            raise SpecError(f"there is no program {name!r}; there are: {', '.join(self._raw)}")
        if not raw.core and not raw.weak:
            return self.programs[name]
        return relocate(raw, self.btf, kernel or Btf.kernel(), self._image)

    def load(
        self,
        *names: str,
        reuse: Mapping[str, Reused] | None = None,
        btf: Btf | None = None,
        log_level: int = 0,
    ) -> Object:
        """Create the maps and load the programs.

        Args:
            names: which programs, by default all but those in sections that begin with "?".
            reuse: maps of others by name, in place of those declared, beside `self.reuse`.
            btf: types of the running kernel, by default its own.
            log_level: of the verifier.

        Returns:
            The object: `Object.attach` attaches its programs.

        Raises:
            ElfError, SpecError: as `program`.
            MapMismatchError, PinError, ResolveError, VerifierError, BpfError: as `Object`.
        """
        from pylsm.loader.object import Object

        chosen = list(names or [name for name in self._raw if not self._optional(name)])
        for name in chosen:  # which grows while it is looked at
            for spec in self.programs[name].maps if name in self.programs else ():
                chosen += [called for called in self._slots.get(spec.name, {}).values() if called not in chosen]
        programs = [self.program(name, btf) for name in chosen]
        needed = {spec.name for program in programs for spec in program.maps}
        if not names:
            needed = set(self.maps)
        given = {**self.reuse, **(reuse or {})}
        strangers = sorted(set(given) - set(self.maps))
        if strangers:
            raise SpecError(f"there is no map {strangers[0]!r}; there are: {', '.join(self.maps) or 'none'}")
        changed = {name: spec for name, spec in self.maps.items() if name in needed}
        given = {name: map_ for name, map_ in given.items() if name in needed}
        programs = [
            program._replace(maps=tuple(changed.get(spec.name, spec) for spec in program.maps)) for program in programs
        ]
        made = self._make_maps(changed, given)
        try:
            opened = Object(programs, maps=changed.values(), reuse={**given, **made}, btf=btf, log_level=log_level)
        except BaseException:
            for map_ in made.values():
                map_.close()
            raise
        opened.maps.update(made)  # from here on they are the object's: it closes them
        try:
            for name in self._slots.keys() & changed.keys() - given.keys():
                for index, called in self._slots[name].items():
                    if called in opened.programs:
                        number = opened.programs[called].fileno().to_bytes(4, sys.byteorder)
                        opened.maps[name].update(index.to_bytes(4, sys.byteorder), number)
        except BaseException:
            opened.close()
            raise
        return opened

    def _optional(self, name: str) -> bool:
        symbol = next(s for s in self._image.symbols if s.name == name and 0 < s.section < len(self._image.sections))
        return self._image.sections[symbol.section].name.startswith("?")

    def _make_maps(self, specs: Mapping[str, MapSpec], given: Mapping[str, Reused]) -> dict[str, Map]:
        """The maps that need more than their spec: contents, an inner map, a pin."""
        made: dict[str, Map] = {}
        contents = {spec.name: content for spec, content in self._data.values()}
        try:
            for name, spec in specs.items():
                if name in given:
                    continue
                declared = self._declared.get(name)
                if name in contents:
                    made[name] = _filled(spec, contents[name])
                elif declared is not None and (declared.inner is not None or declared.extra):
                    made[name] = _holding(spec, declared)
                elif declared is not None and declared.pinned:
                    made[name] = _pinned(spec)
        except BaseException:
            for map_ in made.values():
                map_.close()
            raise
        return made

    def __repr__(self) -> str:
        return f"<ObjectFile {self._image.name}: {', '.join(self.programs)}; maps {', '.join(self.maps) or 'none'}>"


def _filled(spec: MapSpec, content: bytes) -> Map:
    from pylsm.loader.maps import Map

    map_ = Map.create(spec)
    try:
        if any(content) or spec.flags & _RDONLY_PROG:
            map_.update(bytes(4), content)
        if spec.flags & _RDONLY_PROG:
            map_.freeze()
    except BaseException:
        map_.close()
        raise
    return map_


def _holding(spec: MapSpec, declared: Declared) -> Map:
    from pylsm.loader.maps import Map

    if declared.inner is None:
        return Map.create(spec, extra=declared.extra)
    inner = declared.inner
    template = MapSpec(
        "inner",
        inner.type,
        key=inner.key_size,
        value=inner.value_size,
        max_entries=inner.max_entries,
        flags=inner.flags,
    )
    with Map.create(template) as example:
        return Map.create(spec, inner=example, extra=declared.extra)


def _pinned(spec: MapSpec) -> Map:
    """The map pinned by its name, or a new one pinned there, as libbpf does for LIBBPF_PIN_BY_NAME."""
    from pylsm.loader.maps import Map

    path = f"{_PIN_ROOT}/{spec.name}"
    if os.path.lexists(path):
        return Map.open_pinned(path, spec)
    map_ = Map.create(spec)
    try:
        map_.pin(path)
    except BaseException:
        map_.close()
        raise
    return map_
