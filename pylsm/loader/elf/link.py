"""Programs out of sections: functions cut at their symbols, relocations turned into references, subprograms linked in.

What each relocation becomes (see `pylsm.asm.references`): a map, an address in a data section, a function of the
object, a function or variable of the kernel.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import NamedTuple

from pylsm.asm import AsmError, Function, Instruction, MapSpec, Program, SourceLine, decode
from pylsm.asm import opcodes as op
from pylsm.asm.references import FunctionRef, KfuncRef, KsymRef, MapRef, MapValueRef, Reference
from pylsm.btf import Btf, BtfError, Kind
from pylsm.loader.elf.core import answer, patch
from pylsm.loader.elf.ext import CoreRelocation, Ext
from pylsm.loader.elf.image import (
    SHF_EXECINSTR,
    SHN_UNDEF,
    SHT_PROGBITS,
    STB_LOCAL,
    STB_WEAK,
    STT_FUNC,
    STT_SECTION,
    Image,
    Relocation,
    Section,
    Symbol,
)

__all__ = ["Linker", "Raw"]

_R_64_64, _R_64_32 = 1, 10
_TEXT = ".text"


class Raw(NamedTuple):
    """A program before the kernel's types are known: relocations for CO-RE by index of the instruction."""

    program: Program
    core: dict[int, CoreRelocation]
    weak: frozenset[int]
    """Indices of references that may be missing in the kernel."""


class _Body(NamedTuple):
    """A function: its instructions with references, CO-RE relocations, and which references are weak."""

    name: str
    instructions: list[Instruction]
    core: dict[int, CoreRelocation]
    weak: set[int]
    arguments: int


class Linker:
    """Makes programs of an image.

    Args:
        image: the file.
        btf: its types, or None where it has none.
        ext: its .BTF.ext.
        maps: offset in .maps → name.
        data: index of a data section → the map that stands for it.
        license: of all programs.
    """

    def __init__(
        self,
        image: Image,
        btf: Btf | None,
        ext: Ext,
        maps: Mapping[int, MapSpec],
        data: Mapping[int, MapSpec],
        license: str,
    ) -> None:
        self._image = image
        self._btf = btf
        self._ext = ext
        self._maps = maps
        self._data = data
        self._license = license
        self._functions: dict[int, list[Symbol]] = {}
        for symbol in image.symbols:
            if symbol.type == STT_FUNC and 0 < symbol.section < len(image.sections):
                self._functions.setdefault(symbol.section, []).append(symbol)
        for symbols in self._functions.values():
            symbols.sort(key=lambda symbol: symbol.value)
        self._relocations: dict[int, dict[int, Relocation]] = {}
        self._core: dict[str, dict[int, CoreRelocation]] = {}
        self._bodies: dict[tuple[int, int], _Body] = {}

    def programs(self) -> dict[str, Raw]:
        """Every program of the object, by name.

        Raises:
            ElfError: damaged, or a relocation that is not understood.
        """
        found: dict[str, Raw] = {}
        for section in self._image.sections:
            executable = section.type == SHT_PROGBITS and section.flags & SHF_EXECINSTR and section.size
            if not executable or section.name == _TEXT:
                continue
            symbols = self._functions.get(section.number, [])
            if not symbols:
                raise self._image.error("instructions without a function symbol", section.name, 0)
            for symbol in symbols:
                if symbol.binding == STB_LOCAL:
                    raise self._image.error(
                        f"static function {symbol.name!r} in a section of programs", section.name, symbol.value
                    )
                if symbol.name in found:
                    raise self._image.error(f"two programs are called {symbol.name!r}", section.name, symbol.value)
                found[symbol.name] = self._program(section, symbol)
        return found

    # ---- one program ---------------------------------------------------------------------------------------------

    def _program(self, section: Section, symbol: Symbol) -> Raw:
        """A program and, behind it, every function that it reaches."""
        bodies = [self._body(section, symbol)]
        names = {bodies[0].name}
        # Depth first, as libbpf does: the same object then makes the same program, to the byte.
        todo = [iter(bodies[0].instructions)]
        while todo:
            i = next(todo[-1], None)
            if i is None:
                todo.pop()
            elif isinstance(i.reference, FunctionRef) and i.reference.name not in names:
                names.add(i.reference.name)
                bodies.append(self._callee(i.reference.name))
                todo.append(iter(bodies[-1].instructions))
        instructions: list[Instruction] = []
        functions: list[Function] = []
        core: dict[int, CoreRelocation] = {}
        weak: set[int] = set()
        for body in bodies:
            start = len(instructions)
            functions.append(Function(body.name if start else symbol.name, start, body.arguments))
            core.update({start + index: relocation for index, relocation in body.core.items()})
            weak |= {start + index for index in body.weak}
            instructions += body.instructions
        used = {i.reference.name for i in instructions if isinstance(i.reference, (MapRef, MapValueRef))}
        maps = tuple(spec for spec in (*self._maps.values(), *self._data.values()) if spec.name in used)
        program = Program(
            symbol.name,
            section.name.lstrip("?"),
            tuple(instructions),
            tuple(functions),
            maps,
            self._license,
        )
        return Raw(program, core, frozenset(weak))

    def _callee(self, name: str) -> _Body:
        index, _, value = name.rpartition("@")[2].partition("+")
        section = self._image.sections[int(index)]
        return self._body(section, self._symbol(section, int(value), section.name, int(value)))

    def _symbol(self, section: Section, value: int, place: str, offset: int) -> Symbol:
        """The function that begins at a byte of a section."""
        for symbol in self._functions.get(section.number, []):
            if symbol.value == value:
                return symbol
        raise self._image.error(f"no function begins at {section.name}+{value:#x}, which is called", place, offset)

    def _label(self, section: Section, value: int, place: str, offset: int) -> str:
        """A function's name in programs; static functions of one name are told apart by where they are."""
        symbol = self._symbol(section, value, place, offset)
        return f"{symbol.name}@{section.number}+{value}"

    def _body(self, section: Section, symbol: Symbol) -> _Body:
        key = (section.number, symbol.value)
        made = self._bodies.get(key)
        if made is None:
            made = self._bodies[key] = self._cut(section, symbol)
        return made

    def _cut(self, section: Section, symbol: Symbol) -> _Body:
        image = self._image
        start, end = symbol.value, symbol.value + symbol.size
        if start % 8 or symbol.size % 8 or not symbol.size or end > len(section.data):
            raise image.error(
                f"function {symbol.name!r} of {symbol.size} bytes at {start:#x} does not fit {section.size:#x} bytes",
                section.name,
                start,
            )
        if symbol.size // 8 > op.MAX_INSNS:
            raise image.error(
                f"function {symbol.name!r} has more than {op.MAX_INSNS} instructions", section.name, start
            )
        try:
            code = list(decode(section.data[start:end], sys.byteorder))
        except AsmError as error:
            raise image.error(f"function {symbol.name!r}: {error}", section.name, start) from error
        relocations = self._section_relocations(section)
        core = self._section_core(section)
        lines = iter(sorted(info for info in self._ext.lines.get(section.name, []) if start <= info.offset < end))
        following = next(lines, None)
        line: SourceLine | None = None
        out: list[Instruction] = []
        asked: dict[int, CoreRelocation] = {}
        weak: set[int] = set()
        offset = start
        for i in code:
            while following is not None and following.offset <= offset:
                line = SourceLine(following.file, following.line) if following.line else line
                following = next(lines, None)
            relocation = relocations.get(offset)
            is_weak = False
            if relocation is not None:
                i, is_weak = self._referring(section, offset, i, relocation)
            elif i.opcode == op.JMP | op.CALL and i.src == op.CALL_FUNCTION:
                i = self._to_function(i, section, offset + 8 * (i.imm + 1), section.name, offset)
            elif i.opcode == op.LDDW and i.src == op.PSEUDO_FUNC:
                raise image.error("the address of a function without a relocation", section.name, offset)
            if is_weak:
                weak.add(len(out))
            if offset in core:
                asked[len(out)] = core[offset]
            i.line = line
            out.append(i)
            offset += 8 * i.slots
        name = self._label(section, start, section.name, start)
        return _Body(name, out, asked, weak, self._arguments(section.name, start))

    def _section_relocations(self, section: Section) -> dict[int, Relocation]:
        known = self._relocations.get(section.number)
        if known is None:
            known = {relocation.offset: relocation for relocation in self._image.relocations(section)}
            self._relocations[section.number] = known
        return known

    def _section_core(self, section: Section) -> dict[int, CoreRelocation]:
        known = self._core.get(section.name)
        if known is None:
            known = self._core[section.name] = {}
            for relocation in self._ext.relocations.get(section.name, []):
                if relocation.offset % 8 or relocation.offset >= section.size:
                    raise self._image.error(
                        f"a CO-RE relocation for {section.name}+{relocation.offset:#x}, where no instruction is",
                        ".BTF.ext",
                        relocation.place,
                    )
                known[relocation.offset] = relocation
        return known

    def _arguments(self, section: str, offset: int) -> int:
        """How many arguments a function takes, by its type; 5 where it has none."""
        for info in self._ext.functions.get(section, []):
            if info.offset == offset and self._btf is not None:
                try:
                    return min(len(self._btf.func_proto(info.type_id).params), 5)
                except BtfError as error:
                    raise self._image.error(f"function at {section}+{offset:#x}: {error}", ".BTF.ext") from error
        return 5

    # ---- relocations ---------------------------------------------------------------------------------------------

    def _to_function(self, i: Instruction, section: Section, value: int, place: str, offset: int) -> Instruction:
        if not section.flags & SHF_EXECINSTR:
            raise self._image.error(f"a call into {section.name}, which holds no instructions", place, offset)
        source = op.PSEUDO_FUNC if i.opcode == op.LDDW else op.CALL_FUNCTION
        return _refer(i, FunctionRef(self._label(section, value, place, offset)), src=source)

    def _referring(
        self, section: Section, offset: int, i: Instruction, relocation: Relocation
    ) -> tuple[Instruction, bool]:
        """The instruction with a reference, and whether that may be missing in the kernel."""
        image, symbol = self._image, relocation.symbol
        place = relocation.section, relocation.place
        what = f"for {section.name}+{offset:#x}"
        if relocation.type == _R_64_32 and i.opcode == op.JMP | op.CALL:
            if symbol.section == SHN_UNDEF:
                return _refer(i, KfuncRef(symbol.name), src=op.CALL_KFUNC), symbol.binding == STB_WEAK
            target = self._section_of(symbol, *place)
            return self._to_function(i, target, symbol.value + 8 * (i.imm + 1), *place), False
        if relocation.type != _R_64_64 or i.opcode != op.LDDW:
            raise image.error(f"relocation type {relocation.type} {what}, opcode {i.opcode:#04x}, is not known", *place)
        if symbol.section == SHN_UNDEF:
            return self._extern(i, symbol, *place), symbol.binding == STB_WEAK
        target = self._section_of(symbol, *place)
        distance = symbol.value + (
            i.imm & op.U32_MAX if symbol.type == STT_SECTION or target.number in self._data else 0
        )
        if target.name == ".maps":
            spec = self._maps.get(distance)
            if spec is None:
                raise image.error(f"no map is at .maps+{distance:#x}, which is used {what}", *place)
            return _refer(i, MapRef(spec.name), src=op.PSEUDO_MAP_FD), False
        spec = self._data.get(target.number)
        if spec is not None:
            if distance > spec.value_size:
                raise image.error(f"{target.name}+{distance:#x} is outside of the section", *place)
            return _refer(i, MapValueRef(spec.name, distance), src=op.PSEUDO_MAP_VALUE), False
        if target.flags & SHF_EXECINSTR:
            return self._to_function(i, target, symbol.value + (i.imm & op.U32_MAX), *place), False
        if target.name == "maps":
            raise image.error("maps in a section 'maps' are of a form before BTF: declare them in .maps", *place)
        raise image.error(f"a reference to section {target.name!r} is not understood", *place)

    def _section_of(self, symbol: Symbol, place: str, offset: int) -> Section:
        if not 0 < symbol.section < len(self._image.sections):
            raise self._image.error(f"symbol {symbol.name!r} is in no section", place, offset)
        return self._image.sections[symbol.section]

    def _extern(self, i: Instruction, symbol: Symbol, place: str, offset: int) -> Instruction:
        """A variable that the object declares and the kernel has."""
        btf, name = self._btf, symbol.name
        where = self._extern_sections().get(name, "")
        if where == ".kconfig":
            raise self._image.error(
                f"{name!r} is a value of the kernel's configuration (.kconfig), which is not supported",
                place,
                offset,
                "ask for a type or a field with CO-RE instead",
            )
        if btf is None or where != ".ksyms":
            raise self._image.error(f"{name!r} is defined nowhere", place, offset)
        try:
            id = btf.find(name)
        except BtfError as error:
            raise self._image.error(f"{name!r}: {error}", place, offset) from error
        type = btf.type(id)
        if type.kind is Kind.FUNC:
            raise self._image.error(
                f"the address of kernel function {name!r} is not supported, only calls of it", place, offset
            )
        if btf.resolve(type.type_id) == 0:
            raise self._image.error(
                f"{name!r} is a kernel symbol without a type, which is not supported",
                place,
                offset,
                f"declare it with its type: extern const struct … {name} __ksym",
            )
        return _refer(i, KsymRef(name), src=op.PSEUDO_BTF_ID)

    def _extern_sections(self) -> dict[str, str]:
        """Name of an extern → ".ksyms" or ".kconfig"."""
        btf = self._btf
        found: dict[str, str] = {}
        if btf is None:
            return found
        for section in (".ksyms", ".kconfig"):
            try:
                types = btf.type(btf.find(section, Kind.DATASEC))
            except BtfError:
                continue
            for variable in types.variables:
                found[btf.name_of(variable.type_id)] = section
        return found


def _refer(i: Instruction, reference: Reference, src: int) -> Instruction:
    return Instruction(i.opcode, i.dst, src, i.off, 0, reference, i.line)


def relocate(raw: Raw, local: Btf | None, kernel: Btf, image: Image) -> Program:
    """A program with its CO-RE relocations answered from the kernel's types.

    Raises:
        ElfError: a relocation that is not understood or contradicts the object; names its place in .BTF.ext.
    """
    if not raw.core and not raw.weak:
        return raw.program
    instructions: list[Instruction] = []
    starts = {function.start for function in raw.program.functions}
    moved: dict[int, int] = {}
    for index, i in enumerate(raw.program.instructions):
        if index in starts:
            moved[index] = len(instructions)
        asked = raw.core.get(index)
        if asked is not None:
            assert local is not None
            try:
                found = answer(local, kernel, asked.type_id, asked.access, asked.kind)
                instructions += patch(i, found)
            except (BtfError, AsmError) as error:
                line = f" ({i.line})" if i.line else ""
                raise image.error(
                    f"program {raw.program.name!r}, instruction {index}{line}: {error}", ".BTF.ext", asked.place
                ) from error
        elif index in raw.weak and not _exists(kernel, i.reference):
            # As libbpf: the address of what is not there is 0; a call of it must not be reached.
            instructions.append(i.replace(src=0, imm=0 if i.opcode == op.LDDW else _MISSING))
        else:
            instructions.append(i)
    functions = tuple(function._replace(start=moved[function.start]) for function in raw.program.functions)
    return raw.program._replace(instructions=tuple(instructions), functions=functions)


def _exists(kernel: Btf, reference: Reference | None) -> bool:
    assert reference is not None
    try:
        kernel.find(reference[0], Kind.FUNC if isinstance(reference, KfuncRef) else Kind.VAR)
    except BtfError:
        return False
    return True


#: A helper that does not exist: the verifier refuses it where control gets to it (libbpf's POISON_CALL_KFUNC_BASE).
_MISSING = 2_002_000_000
