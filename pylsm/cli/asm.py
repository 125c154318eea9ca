"""``pylsm asm`` and ``pylsm disasm``: eBPF text to code, and code from anywhere to text."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pylsm.errors import PylsmError

if TYPE_CHECKING:
    from elftools.elf.elffile import ELFFile
    from elftools.elf.sections import Section

    from pylsm.asm import Instruction, Program
    from pylsm.asm.disasm import Names
    from pylsm.asm.references import FunctionRef, MapRef
    from pylsm.loader import LoadedProgram

__all__ = ["add_parser"]

_ELF_MAGIC = b"\x7fELF"
#: Relocations of BPF objects (llvm/BinaryFormat/ELFRelocs/BPF.def): a 64-bit load, and a call.
_R_BPF_64_64, _R_BPF_64_32 = 1, 10


class SourceError(PylsmError):
    """What is to be assembled or disassembled cannot be read, or is not what it should be."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add both subcommands."""
    parser = commands.add_parser(
        "asm",
        help="assemble eBPF text",
        description="Read eBPF assembly in the kernel's own syntax (docs/reference/asm.parse.md) and print or write "
        "the instructions.",
        epilog="exit status: 0; 125 when the text is wrong, or refused by the verifier (--load).",
    )
    parser.add_argument("file", metavar="FILE", help="the text; - is standard input")
    parser.add_argument("-o", "--output", metavar="OUT", help="write the raw instructions to OUT; - is standard output")
    parser.add_argument("--byteorder", choices=("little", "big"), default="little", help="of the target")
    parser.add_argument("--load", action="store_true", help="have this kernel's verifier judge the program (root)")
    parser.set_defaults(handler=_asm, parser=parser)

    parser = commands.add_parser(
        "disasm",
        help="disassemble eBPF code",
        description="Print eBPF instructions as the kernel's verifier does, with labels and names where they are "
        "known. What is printed can be assembled again.",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "target",
        nargs="?",
        metavar="FILE|ID|PATH",
        help="a file of raw instructions or an ELF object, the id of a loaded program, or a path where one is pinned",
    )
    source.add_argument("--probe", metavar="NAME", help="a program of pylsm itself, such as file_open")
    parser.add_argument("--section", metavar="NAME", help="of an ELF object; by default every section of code")
    parser.add_argument("--byteorder", choices=("little", "big"), default="little", help="of raw instructions")
    parser.add_argument("--numbers", action="store_true", help="begin each line with its slot")
    parser.add_argument("--distances", action="store_true", help="write jumps as distances, not as labels")
    parser.add_argument("--lines", action="store_true", help="with --probe: the Python lines and what each expands to")
    parser.set_defaults(handler=_disasm, parser=parser)


# ---- asm ---------------------------------------------------------------------------------------------------------


def _asm(options: argparse.Namespace) -> int:
    from pylsm.asm import encode
    from pylsm.asm.disasm import to_text
    from pylsm.asm.parse import link, parse_program

    name = "<stdin>" if options.file == "-" else options.file
    program = parse_program(_read_text(options.file), name)
    starts = {function.name: function.start for function in program.functions}
    code = link(list(program.instructions), starts)
    if options.load:
        _judge(program)
    if options.output:
        for i in code:
            if i.reference is not None:
                raise SourceError(
                    f"{i.line}: `{to_text(i)}` names what only a loader can fill in: raw instructions cannot hold it",
                    hint="use numbers, such as map[fd:3], or load the text with pylsm.asm.parse.parse_program",
                )
        data = encode(code, options.byteorder)
        if options.output == "-":
            sys.stdout.buffer.write(data)
        else:
            Path(options.output).write_bytes(data)
    elif not options.load:
        for i in code:
            print(f"{encode([i], options.byteorder).hex(' '):<48}; {to_text(i)}")
    return 0


def _read_text(file: str) -> str:
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"cannot read {file}: {error}") from error


def _judge(program: Program) -> None:
    from pylsm.loader import Object

    with Object([program]) as loaded:
        info = loaded.programs[program.name].info
    print(f"{program.name}: accepted, {info.verified_insns} instructions verified, {info.jited_len} bytes of code")


# ---- disasm ------------------------------------------------------------------------------------------------------


def _disasm(options: argparse.Namespace) -> int:
    if options.probe is not None:
        return _probe(options)
    path = Path(options.target)
    if not path.exists() and options.target.isdecimal():
        from pylsm.loader import LoadedProgram

        with LoadedProgram.from_id(int(options.target)) as loaded:
            return _loaded(loaded, options)
    try:
        data = path.read_bytes()
    except OSError as error:
        # A pinned program has a path, but opening it as a file fails.
        if not path.exists():
            raise SourceError(
                f"there is no file {options.target}", hint="a loaded program is named by its id, a number"
            ) from error
        return _pinned(options)
    if data.startswith(_ELF_MAGIC):
        return _object(data, options)
    if not data:
        return _pinned(options)
    from pylsm.asm import decode

    _print(list(decode(data, options.byteorder)), options)
    return 0


def _print(code: list[Instruction], options: argparse.Namespace, names: Names | None = None) -> None:
    from pylsm.asm.disasm import Names, disassemble

    print(disassemble(code, names or Names(), labels=not options.distances, numbers=options.numbers), end="")


def _probe(options: argparse.Namespace) -> int:
    from pylsm.asm.disasm import listing, program_text
    from pylsm.audit.events import choose
    from pylsm.audit.sources import SOURCES

    programs: dict[str, Program] = {}
    everything = choose(["all"])
    variants = ((s, variant) for s in SOURCES for variant in (s.variants[0], s.variants_of((7, 0))[0]))
    for made in [p for s, variant in variants for p in s.attached(variant, everything)]:
        programs.setdefault(made.name, made)
    wanted = programs.get(options.probe) or next((p for p in programs.values() if p.section == options.probe), None)
    if wanted is None:
        raise SourceError(f"pylsm has no program {options.probe!r}", hint=f"there are: {', '.join(sorted(programs))}")
    print(listing(wanted) if options.lines else program_text(wanted), end="")
    return 0


def _pinned(options: argparse.Namespace) -> int:
    from pylsm.loader import LoadedProgram

    with LoadedProgram.open_pinned(options.target) as loaded:
        return _loaded(loaded, options)


def _loaded(loaded: LoadedProgram, options: argparse.Namespace) -> int:
    from pylsm.asm import decode
    from pylsm.loader import Map

    data = loaded.xlated()
    if not data:
        raise SourceError(
            f"the kernel does not show the instructions of {loaded.label}",
            hint="that needs root, and kernel.kptr_restrict and lockdown not in the way",
        )
    code = [_as_written(i) for i in decode(data, sys.byteorder)]
    maps: dict[int, str] = {}
    for id in loaded.info.map_ids:
        with Map.from_id(id) as one:
            maps[id] = one.info.name or f"fd:{id}"
    _print(code, options, _kernel_names(code, maps))
    return 0


def _as_written(i: Instruction) -> Instruction:
    """Calls between functions as they were before the JIT (jit_subprogs, kernel/bpf/verifier.c, keeps both)."""
    from pylsm.asm import opcodes as op

    if i.opcode == op.JMP | op.CALL and i.src == op.CALL_FUNCTION and i.off:
        return i.replace(imm=i.off, off=0)
    if i.opcode == op.LDDW and i.src == op.PSEUDO_FUNC:
        return i.replace(imm=i.imm & op.U32_MAX, off=0)
    return i


def _kernel_names(code: list[Instruction], maps: dict[int, str]) -> Names:
    """Names of the kernel functions called: translated code has their distance from ``__bpf_call_base``."""
    from pylsm.asm import helpers
    from pylsm.asm import opcodes as op
    from pylsm.asm.disasm import Names

    called = {i.imm for i in code if i.opcode == op.JMP | op.CALL and i.src != op.CALL_FUNCTION}
    called = {imm for imm in called if helpers.by_number(imm) is None}
    names: dict[int, str] = {}
    if called:
        addresses, base = {}, 0
        with open("/proc/kallsyms") as symbols:
            for line in symbols:
                address, _, name = line.split()[:3]
                if name == "__bpf_call_base":
                    base = int(address, 16)
                addresses[int(address, 16)] = name
        if base:
            names = {imm: addresses[base + imm] for imm in called if base + imm in addresses}
    return Names(maps=maps, kfuncs=names, calls=names)


# ---- ELF ---------------------------------------------------------------------------------------------------------


def _object(data: bytes, options: argparse.Namespace) -> int:
    from io import BytesIO

    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    try:
        elf = ELFFile(BytesIO(data))
        machine = elf["e_machine"]
        sections = [s for s in elf.iter_sections() if s["sh_flags"] & 4 and s["sh_type"] == "SHT_PROGBITS" and s.data()]
    except ELFError as error:
        raise SourceError(f"{options.target}: {error}") from error
    if machine != "EM_BPF":
        raise SourceError(f"{options.target} is an object for {machine}, not for BPF")
    known = [section.name for section in sections]
    if options.section is not None and options.section not in known:
        raise SourceError(
            f"{options.target} has no section of code {options.section!r}", hint=f"there are: {', '.join(known)}"
        )
    for section in sections:
        if options.section in (None, section.name):
            print(f'.section "{section.name}"')
            code, names = _section(elf, section)
            _print(code, options, names)
    return 0


def _section(elf: ELFFile, section: Section) -> tuple[list[Instruction], Names]:
    """A section's instructions with its relocations as references, and the names of its functions."""
    from elftools.elf.relocation import RelocationSection

    from pylsm.asm import decode
    from pylsm.asm.disasm import Names
    from pylsm.asm.references import FunctionRef, MapRef

    byteorder = "little" if elf.little_endian else "big"
    number = elf.get_section_index(section.name)
    functions: dict[int, str] = {}
    references: dict[int, MapRef | FunctionRef] = {}
    for other in elf.iter_sections():
        if other["sh_type"] == "SHT_SYMTAB":
            for symbol in other.iter_symbols():
                if symbol["st_info"]["type"] == "STT_FUNC" and symbol["st_shndx"] == number:
                    functions[symbol["st_value"] // 8] = symbol.name
        elif isinstance(other, RelocationSection) and other["sh_info"] == number:
            symbols = elf.get_section(other["sh_link"])
            for relocation in other.iter_relocations():
                name = symbols.get_symbol(relocation["r_info_sym"]).name
                if name and relocation["r_info_type"] in (_R_BPF_64_64, _R_BPF_64_32):
                    is_map = relocation["r_info_type"] == _R_BPF_64_64
                    references[relocation["r_offset"] // 8] = MapRef(name) if is_map else FunctionRef(name)
    code, slot = [], 0
    for i in decode(section.data(), byteorder):
        slots = i.slots
        if slot in references:
            i = _referring(i, references[slot])
        code.append(i)
        slot += slots
    return code, Names(functions=functions)


def _referring(i: Instruction, reference: MapRef | FunctionRef) -> Instruction:
    """The instruction with what the linker would have filled in as a reference."""
    from pylsm.asm import Instruction
    from pylsm.asm import opcodes as op
    from pylsm.asm.references import FunctionRef, MapRef

    if i.opcode == op.LDDW and isinstance(reference, MapRef):
        return Instruction(i.opcode, i.dst, op.PSEUDO_MAP_FD, reference=reference)
    if i.opcode == op.JMP | op.CALL and isinstance(reference, FunctionRef):
        return Instruction(i.opcode, 0, op.CALL_FUNCTION, reference=reference)
    return i
