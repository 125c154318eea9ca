"""`write_object`: pylsm's programs as a BPF ELF object, for libbpf, bpftool and any other loader.

The object is what clang would have made: instructions by section, subprograms in .text, maps in .maps, the license,
BTF, and .BTF.ext with functions, source lines (the Python ones) and CO-RE relocations, so that it fits kernels other
than the one it was made on. Nothing of a kernel is needed to write it, except the prototypes of kfuncs.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pylsm.asm import Instruction, MapSpec, MapType, Program, SourceLine, encode
from pylsm.asm import opcodes as op
from pylsm.asm.references import EnumRef, FieldRef, FunctionRef, KfuncRef, KsymRef, MapRef, MapValueRef, TypeRef
from pylsm.btf import Btf, BtfError, BtfWriter, Kind
from pylsm.loader.elf.core import Answer, answer, patch
from pylsm.loader.elf.errors import ElfError
from pylsm.loader.elf.image import (
    EM_BPF,
    SHF_ALLOC,
    SHF_EXECINSTR,
    SHF_WRITE,
    SHT_PROGBITS,
    SHT_REL,
    SHT_STRTAB,
    SHT_SYMTAB,
    STT_FUNC,
    STT_OBJECT,
    STT_SECTION,
)
from pylsm.loader.elf.shapes import Question, Shapes
from pylsm.loader.source import source_text

__all__ = ["write_object"]

_R_64_64, _R_64_ABS64, _R_64_32 = 1, 2, 10
_TEXT = ".text"
_LOCAL, _GLOBAL, _WEAK = 0, 1, 2
_MAX_LINE, _MAX_COLUMN = (1 << 22) - 1, 1023


class _Symbol(NamedTuple):
    name: str
    binding: int
    type: int
    section: str  # "": defined elsewhere
    value: int
    size: int


class _Code:
    """One section of instructions."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.relocations: list[tuple[int, int, str]] = []  # offset, type, name of the symbol
        self.functions: list[tuple[int, int]] = []  # offset, BTF id
        self.lines: list[tuple[int, SourceLine]] = []
        self.core: list[tuple[int, Question]] = []


def write_object(
    programs: Sequence[Program],
    *,
    types: Sequence[Btf] = (),
    kernel: Btf | None = None,
    maps: Sequence[MapSpec] = (),
    slots: Mapping[str, Sequence[str]] | None = None,
) -> bytes:
    """Programs and their maps as an object file.

    Args:
        programs: with references by symbol, as built.
        types: shapes of the kernel types that they refer to (`pylsm.btf.declare`).
        kernel: types of some kernel, for shapes that ``types`` leaves out and for prototypes of kfuncs.
        maps: further maps, or other sizes for maps of the programs, by name.
        slots: names of the programs that a program array begins with, by its name; loaders put them there.

    Returns:
        The bytes of the file, for this machine's byte order.

    Raises:
        ElfError: something that an object file cannot express: names the program and the line.
    """
    return _Writer(programs, [*types, *([kernel] if kernel is not None else [])], kernel, maps, slots or {}).encode()


class _Writer:
    def __init__(
        self,
        programs: Sequence[Program],
        sources: Sequence[Btf],
        kernel: Btf | None,
        maps: Sequence[MapSpec],
        slots: Mapping[str, Sequence[str]],
    ) -> None:
        if not programs:
            raise ElfError("no programs to write")
        self._programs = programs
        self._kernel = kernel
        self._types = BtfWriter()
        self._shapes = Shapes(sources)
        self._code: dict[str, _Code] = {_TEXT: _Code()}
        self._symbols: list[_Symbol] = []
        self._externs: dict[str, int] = {}
        self._names: set[str] = set()
        given = {spec.name: spec for spec in maps}
        self._maps: dict[str, MapSpec] = dict(given)
        for program in programs:
            for spec in program.maps:
                self._maps.setdefault(spec.name, spec)
        licenses = {program.license for program in programs}
        if len(licenses) > 1:
            raise ElfError(f"programs of different licenses in one object: {', '.join(sorted(licenses))}")
        self._license = licenses.pop()
        self._slots = slots
        self._symbol_of: dict[str, str] = {}  # program → its symbol
        self._map_relocations: list[tuple[int, int, str]] = []

    def encode(self) -> bytes:
        self._collect()
        self._shapes.write(self._types)
        questions = self._questions()
        local = Btf(self._types.encode(), name="the object's types")
        for program in self._programs:
            self._write_program(program, questions, local)
        declared = self._write_maps()
        self._write_externs()
        ids = [0, *self._types.dedup()]
        for code in self._code.values():
            code.functions = [(offset, ids[id]) for offset, id in code.functions]
            code.core = [(offset, (ids[id], access, kind)) for offset, (id, access, kind) in code.core]
        return self._assemble(declared)

    # ---- references ----------------------------------------------------------------------------------------------

    def _collect(self) -> None:
        for program in self._programs:
            for i in program.instructions:
                if isinstance(i.reference, (FieldRef, TypeRef, EnumRef)):
                    try:
                        self._shapes.add(i.reference)
                    except BtfError as error:
                        raise _bad(program, i, str(error), error.hint) from error

    def _questions(self) -> dict[FieldRef | TypeRef | EnumRef, Question]:
        found: dict[FieldRef | TypeRef | EnumRef, Question] = {}
        for program in self._programs:
            for i in program.instructions:
                reference = i.reference
                if isinstance(reference, (FieldRef, TypeRef, EnumRef)) and reference not in found:
                    found[reference] = self._shapes.question(reference, self._types)
        return found

    # ---- programs ------------------------------------------------------------------------------------------------

    def _write_program(
        self, program: Program, questions: dict[FieldRef | TypeRef | EnumRef, Question], local: Btf
    ) -> None:
        ends = [function.start for function in program.functions[1:]] + [len(program.instructions)]
        number = self._types.int_("int", 4, signed=True)
        word = self._types.int_("unsigned long long", 8)
        places: dict[str, tuple[str, int]] = {}
        # Places first: a call may lead forwards.
        sizes: list[tuple[str, int]] = []
        text_end = len(self._code[_TEXT].data)
        for index, (function, end) in enumerate(zip(program.functions, ends)):
            size = 8 * sum(i.slots for i in program.instructions[function.start : end])
            if index:
                places[function.name] = _TEXT, text_end
                sizes.append((_TEXT, size))
                text_end += size
            else:
                places[function.name] = program.section, len(self._code.setdefault(program.section, _Code()).data)
                sizes.append((program.section, size))
        for index, (function, end) in enumerate(zip(program.functions, ends)):
            section, size = sizes[index]
            code = self._code[section]
            start = len(code.data)
            name = self._unique(function.name)
            if not index:
                self._symbol_of[program.name] = name
                proto = self._types.func_proto(number, [])
                binding = _GLOBAL
            else:
                registers = [(f"r{register}", word) for register in range(1, function.arguments + 1)]
                proto = self._types.func_proto(number, registers)
                binding = _LOCAL
            code.functions.append((start, self._types.func(name, proto, linkage=int(binding == _GLOBAL))))
            self._symbols.append(_Symbol(name, binding, STT_FUNC, section, start, size))
            self._write_function(program, program.instructions[function.start : end], code, places, questions, local)

    def _write_function(
        self,
        program: Program,
        instructions: Sequence[Instruction],
        code: _Code,
        places: dict[str, tuple[str, int]],
        questions: dict[FieldRef | TypeRef | EnumRef, Question],
        local: Btf,
    ) -> None:
        line: SourceLine | None = None
        first = next((i.line for i in instructions if i.line is not None), None)
        for index, i in enumerate(instructions):
            offset = len(code.data)
            here = i.line or (first if not index else None)
            if here is not None and (here != line or not index):
                code.lines.append((offset, here))
                line = here
            reference = i.reference
            written = i
            if isinstance(reference, (FieldRef, TypeRef, EnumRef)):
                question = questions[reference]
                code.core.append((offset, question))
                written = self._local_answer(program, i, question, local)
            elif isinstance(reference, MapRef):
                code.relocations.append((offset, _R_64_64, reference.name))
                written = i.replace(src=0, imm=0)
            elif isinstance(reference, MapValueRef):
                code.relocations.append((offset, _R_64_64, self._data_section(program, i, reference)))
                written = i.replace(src=0, imm=reference.offset)
            elif isinstance(reference, FunctionRef):
                written = self._call(program, i, reference, offset, code, places)
            elif isinstance(reference, KfuncRef):
                self._extern(program, i, reference)
                code.relocations.append((offset, _R_64_32, reference.name))
                written = i.replace(src=op.CALL_KFUNC, imm=-1)
            elif isinstance(reference, KsymRef):
                self._extern(program, i, reference)
                code.relocations.append((offset, _R_64_64, reference.name))
                written = i.replace(src=0, imm=0)
            elif i.opcode == op.LDDW and i.src not in (0, op.PSEUDO_FUNC):
                raise _bad(program, i, "a map or variable by number has no meaning in a file: refer to it by name")
            code.data += encode([written], sys.byteorder)

    def _local_answer(self, program: Program, i: Instruction, question: Question, local: Btf) -> Instruction:
        """The instruction with what the object's own types say, which loaders check before they replace it."""
        try:
            found = answer(local, local, *question)
            (written,) = patch(i.replace(), Answer(found.value, None, found.size, found.size))
        except BtfError as error:
            raise _bad(program, i, str(error)) from error
        return written

    def _call(
        self,
        program: Program,
        i: Instruction,
        reference: FunctionRef,
        offset: int,
        code: _Code,
        places: dict[str, tuple[str, int]],
    ) -> Instruction:
        section, start = places.get(reference.name, ("", 0))
        if section != _TEXT:
            raise _bad(program, i, f"there is no subprogram {reference.name!r}")
        # As clang does for static functions: relative to the section.
        if i.opcode == op.LDDW:
            code.relocations.append((offset, _R_64_64, _TEXT))
            return i.replace(src=0, imm=start)
        if code is self._code[_TEXT]:
            return i.replace(src=op.CALL_FUNCTION, imm=(start - offset) // 8 - 1)
        code.relocations.append((offset, _R_64_32, _TEXT))
        return i.replace(src=op.CALL_FUNCTION, imm=start // 8 - 1)

    def _data_section(self, program: Program, i: Instruction, reference: MapValueRef) -> str:
        spec = self._maps[reference.name]
        if spec.type is not MapType.ARRAY or spec.max_entries != 1:
            raise _bad(program, i, f"the value of map {spec.name!r} cannot be a data section: it is no array of one")
        return _section_of(spec)

    def _extern(self, program: Program, i: Instruction, reference: KfuncRef | KsymRef) -> None:
        name = reference.name
        if name in self._externs:
            return
        if self._kernel is None:
            raise _bad(program, i, f"{name}: its type has to be known", "give the types of a kernel that has it")
        try:
            if isinstance(reference, KfuncRef):
                proto = self._kernel.func_proto(name)
                params = [
                    (param.name or f"a{number}", self._plain(param.type_id))
                    for number, param in enumerate(proto.params)
                ]
                made = self._types.func_proto(self._plain(proto.return_type_id), params)
                self._externs[name] = self._types.func(name, made, linkage=2)
            else:
                variable = self._kernel.type(self._kernel.find(name, Kind.VAR))
                self._externs[name] = self._types.var(name, self._plain(variable.type_id), linkage=2)
        except BtfError as error:
            raise _bad(program, i, str(error), error.hint) from error

    def _plain(self, id: int) -> int:
        """A type of the kernel, as far as loaders compare the types of externs."""
        assert self._kernel is not None
        id = self._kernel.resolve(id)
        type_ = self._kernel.type(id)
        if id == 0:
            return 0
        if type_.kind is Kind.INT:
            return self._types.int_(type_.name, type_.size, encoding=type_.encoding)
        if type_.kind is Kind.PTR:
            target = self._kernel.type(self._kernel.resolve(type_.type_id))
            if target.kind in (Kind.STRUCT, Kind.UNION) and target.name:
                return self._types.ptr(self._types.struct(target.name, [], 0))
            return self._types.ptr(self._plain(type_.type_id) if target.kind is Kind.INT else 0)
        if type_.kind in (Kind.ENUM, Kind.ENUM64):
            return self._types.enum(type_.name, [], type_.size)
        if type_.kind in (Kind.STRUCT, Kind.UNION):
            return self._types.struct(type_.name, [], 0)
        raise BtfError(f"{self._kernel.c_name(id)} is not supported in the type of an extern")

    def _unique(self, name: str) -> str:
        from pylsm.loader.progbtf import _identifier

        return _identifier(name, self._names)

    # ---- maps ----------------------------------------------------------------------------------------------------

    def _write_maps(self) -> list[tuple[str, bytes, int]]:
        """Data sections for maps that programs refer to by address; the others become variables of .maps."""
        addressed = {
            i.reference.name for p in self._programs for i in p.instructions if isinstance(i.reference, MapValueRef)
        }
        looked_up = {
            i.reference.name for p in self._programs for i in p.instructions if isinstance(i.reference, MapRef)
        }
        both = sorted(addressed & looked_up)
        if both:
            raise ElfError(f"map {both[0]!r} is used by address and as a map, which an object file cannot express")
        data: list[tuple[str, bytes, int]] = []
        variables: list[tuple[int, int, int]] = []
        at = 0
        for spec in self._maps.values():
            if spec.name in addressed:
                section = _section_of(spec)
                inner = self._types.array(self._types.int_("unsigned char", 1), spec.value_size)
                variable = self._types.var(self._unique(spec.name), inner, linkage=1)
                self._types.datasec(section, [(variable, 0, spec.value_size)], spec.value_size)
                self._symbols.append(_Symbol(_identifier_of(spec), _GLOBAL, STT_OBJECT, section, 0, spec.value_size))
                data.append((section, bytes(spec.value_size), SHF_ALLOC | SHF_WRITE))
                continue
            id, size = self._map_type(spec)
            for name in self._slots.get(spec.name, ()):
                if name not in self._symbol_of:
                    raise ElfError(f"program array {spec.name!r} is to hold {name!r}, which is none of the programs")
                self._map_relocations.append((at + size, _R_64_ABS64, self._symbol_of[name]))
                size += 8
            variables.append((self._types.var(spec.name, id, linkage=1), at, size))
            self._symbols.append(_Symbol(spec.name, _GLOBAL, STT_OBJECT, ".maps", at, size))
            at += size
        if variables:
            self._types.datasec(".maps", variables, at)
            data.append((".maps", bytes(at), SHF_ALLOC | SHF_WRITE))
        return data

    def _map_type(self, spec: MapSpec) -> tuple[int, int]:
        """``struct { __uint(type, …); __type(key, …); … }``: (type id, size)."""
        from pylsm.loader.progbtf import _side

        if not spec.name.isidentifier():
            raise ElfError(f"map {spec.name!r}: its name is no C identifier, which a variable needs")
        if spec.type in (MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS):
            raise ElfError(f"map {spec.name!r}: maps of maps cannot be written: what they hold is not declared")
        types = self._types
        number = types.int_("int", 4, signed=True)

        def uint(value: int) -> int:
            return types.ptr(types.array(number, value))

        members: list[tuple[str, int, int | None]] = [("type", uint(spec.type), None)]
        for side, layout, size in (("key", spec.key, spec.key_size), ("value", spec.value, spec.value_size)):
            if size:
                members.append((side, types.ptr(_side(types, layout, size)), None))
        if spec.max_entries:
            members.append(("max_entries", uint(spec.max_entries), None))
        if spec.flags:
            members.append(("map_flags", uint(spec.flags), None))
        size = 8 * len(members)
        if spec.name in self._slots:
            if spec.type is not MapType.PROG_ARRAY or len(self._slots[spec.name]) > spec.max_entries:
                raise ElfError(f"map {spec.name!r} is no program array of {len(self._slots[spec.name])} entries")
            # __array(values, int (void)): behind the struct follows one address for each entry.
            programs = types.array(types.ptr(types.func_proto(number, [])), 0)
            members.append(("values", programs, 8 * size))
        return types.struct("", members, size), size

    def _write_externs(self) -> None:
        if self._externs:
            self._types.datasec(".ksyms", [(id, 0, 0) for id in self._externs.values()], 0)
            for name in self._externs:
                self._symbols.append(_Symbol(name, _GLOBAL, 0, "", 0, 0))

    # ---- the file ------------------------------------------------------------------------------------------------

    def _ext(self) -> bytes:
        """.BTF.ext."""
        types = self._types
        functions, lines, core = (bytearray(struct.pack("=I", size)) for size in (8, 16, 16))
        for section, code in self._code.items():
            if not code.data:
                continue
            name = types.string(section)
            functions += struct.pack("=II", name, len(code.functions))
            for offset, id in code.functions:
                functions += struct.pack("=II", offset, id)
            if code.lines:
                lines += struct.pack("=II", name, len(code.lines))
                for offset, line in code.lines:
                    text = source_text(line.file, line.line)
                    column = min(len(text) - len(text.lstrip()) + 1, _MAX_COLUMN) if text.strip() else 0
                    lines += struct.pack(
                        "=IIII",
                        offset,
                        types.string(line.file.replace("\0", "")),
                        types.string(text),
                        min(line.line, _MAX_LINE) << 10 | column,
                    )
            if code.core:
                core += struct.pack("=II", name, len(code.core))
                for offset, (type_id, access, kind) in code.core:
                    core += struct.pack("=IIII", offset, type_id, types.string(access), kind)
        parts = [bytes(part) if len(part) > 4 else b"" for part in (functions, lines, core)]
        header = struct.pack("=HBBI", 0xEB9F, 1, 0, 32)
        at = 0
        for part in parts:
            header += struct.pack("=II", at, len(part))
            at += len(part)
        return header + b"".join(parts)

    def _assemble(self, data: list[tuple[str, bytes, int]]) -> bytes:
        ext = self._ext()
        # name, type, flags, bytes, alignment, size of entries
        sections: list[tuple[str, int, int, bytes, int, int]] = []
        for name, code in self._code.items():
            if code.data:
                flags = SHF_ALLOC | SHF_EXECINSTR
                sections.append((name, SHT_PROGBITS, flags, bytes(code.data), 8, 0))
        sections.append(("license", SHT_PROGBITS, SHF_ALLOC | SHF_WRITE, self._license.encode() + b"\0", 1, 0))
        for name, content, flags in data:
            sections.append((name, SHT_PROGBITS, flags, content, 8, 0))
        sections.append((".BTF", SHT_PROGBITS, 0, self._types.encode(), 4, 0))
        sections.append((".BTF.ext", SHT_PROGBITS, 0, ext, 4, 0))
        numbers = {section[0]: number for number, section in enumerate(sections, 1)}
        strings = _Strings()
        # Local symbols come first: the sections' own, then static functions.
        symbols = [_Symbol("", _LOCAL, STT_SECTION, name, 0, 0) for name in numbers]
        symbols += [symbol for symbol in self._symbols if symbol.binding == _LOCAL]
        first_global = len(symbols) + 1
        symbols += [symbol for symbol in self._symbols if symbol.binding != _LOCAL]
        by_name: dict[str, int] = {}
        table = bytearray(24)
        for number, symbol in enumerate(symbols, 1):
            by_name.setdefault(symbol.section if symbol.type == STT_SECTION else symbol.name, number)
            table += struct.pack(
                "=IBBHQQ",
                strings.add(symbol.name),
                symbol.binding << 4 | symbol.type,
                0,
                numbers.get(symbol.section, 0),
                symbol.value,
                symbol.size,
            )
        symbol_table = len(sections) + 1
        links: dict[int, tuple[int, int]] = {symbol_table: (0, first_global)}
        sections.append((".symtab", SHT_SYMTAB, 0, bytes(table), 8, 24))
        relocated = {name: code.relocations for name, code in self._code.items()}
        for name, relocations in {**relocated, ".maps": self._map_relocations}.items():
            if relocations:
                rows = [struct.pack("=QQ", offset, by_name[to] << 32 | kind) for offset, kind, to in relocations]
                links[len(sections) + 1] = (symbol_table, numbers[name])
                sections.append((f".rel{name}", SHT_REL, 0, b"".join(rows), 8, 16))
        string_table = len(sections) + 1
        links[symbol_table] = (string_table, first_global)
        names = [strings.add(section[0]) for section in sections]
        names.append(strings.add(".strtab"))
        sections.append((".strtab", SHT_STRTAB, 0, bytes(strings.data), 1, 0))
        return _file(sections, names, links, string_table)


class _Strings:
    """A string table."""

    def __init__(self) -> None:
        self.data = bytearray(b"\0")
        self._known = {"": 0}

    def add(self, text: str) -> int:
        at = self._known.get(text)
        if at is None:
            at = self._known[text] = len(self.data)
            self.data += text.encode("utf-8", "surrogateescape") + b"\0"
        return at


def _file(
    sections: list[tuple[str, int, int, bytes, int, int]],
    names: list[int],
    links: dict[int, tuple[int, int]],
    string_table: int,
) -> bytes:
    """ELF header, sections, section headers."""
    body = bytearray(64)
    headers = bytearray(64)
    for number, ((_, kind, flags, content, alignment, entry), name) in enumerate(zip(sections, names), 1):
        body += bytes(-len(body) % alignment)
        link, info = links.get(number, (0, 0))
        headers += struct.pack(
            "=IIQQQQIIQQ", name, kind, flags, 0, len(body), len(content), link, info, alignment, entry
        )
        body += content
    body += bytes(-len(body) % 8)
    order = 1 if sys.byteorder == "little" else 2
    body[:64] = struct.pack(
        "=4sBBB9xHHIQQQIHHHHHH",
        b"\x7fELF",
        2,
        order,
        1,
        1,
        EM_BPF,
        1,
        0,
        0,
        len(body),
        0,
        64,
        0,
        0,
        64,
        len(sections) + 1,
        string_table,
    )
    return bytes(body + headers)


def _section_of(spec: MapSpec) -> str:
    return f".data.{spec.name}"


def _identifier_of(spec: MapSpec) -> str:
    return spec.name.replace(".", "_")


def _bad(program: Program, i: Instruction, message: str, hint: str = "") -> ElfError:
    place = f"{i.line}: " if i.line else ""
    return ElfError(f"{place}program {program.name!r}: {message}", hint=hint)
