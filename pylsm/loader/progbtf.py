"""BTF that is loaded with a program or a map: functions, source lines, records.

With it ``bpftool prog dump xlated linum`` shows the Python file, line and text of each instruction, the verifier's
log quotes them, and ``bpftool map dump`` prints the fields of keys and values.
"""

from __future__ import annotations

from struct import pack

from pylsm.asm.maps import Layout, MapSpec, MapType
from pylsm.asm.program import Function, Program
from pylsm.light import TYPE_CHECKING
from pylsm.loader.image import MapTypes, ProgramTypes
from pylsm.loader.source import source_text

if TYPE_CHECKING:
    from typing import Any

    from pylsm.asm.errors import SourceLine
    from pylsm.btf import BtfWriter

__all__ = ["map_btf", "program_btf"]

#: The directory that pylsm lies in.
_ABOVE = __file__[: -len("pylsm/loader/progbtf.py")]

#: Maps that the kernel makes only with BTF for key and value, and those that it refuses with (map_check_no_btf).
_WITH_BTF = frozenset({MapType.SK_STORAGE, MapType.INODE_STORAGE, MapType.TASK_STORAGE, MapType.CGRP_STORAGE})
_WITHOUT_BTF = frozenset({MapType.RINGBUF, MapType.USER_RINGBUF})

#: line_info keeps the line in the upper 22 bits of a word, the column in the lower 10.
_MAX_LINE = (1 << 22) - 1


def program_btf(program: Program) -> tuple[ProgramTypes | None, str]:
    """The BTF of a program with its function and line records.

    Returns:
        (None, "") for a program that has nothing to say: one function, no source lines, no records; (None, reason)
        where it cannot be written.
    """
    layouts = _layouts(program)
    if len(program.functions) <= 1 and not layouts and not any(i.line is not None for i in program.instructions):
        return None, ""
    from pylsm.btf import BtfError, BtfWriter

    writer = BtfWriter()
    try:
        for layout in layouts:
            layout.btf(writer)
        functions = _functions(program, writer)
        lines = _lines(program, writer)
        return ProgramTypes(writer.encode(), functions, lines), ""
    except BtfError as error:
        return None, str(error)


def map_btf(spec: MapSpec) -> MapTypes | None:
    """The BTF of a map's key and value, where one of them describes itself or the kernel insists."""
    if spec.type in _WITHOUT_BTF:
        return None
    if spec.type not in _WITH_BTF and not any(hasattr(layout, "btf") for layout in (spec.key, spec.value)):
        return None
    from pylsm.btf import BtfError, BtfWriter

    writer = BtfWriter()
    try:
        key = _side(writer, spec.key, spec.key_size)
        value = _side(writer, spec.value, spec.value_size)
        return MapTypes(writer.encode(), key, value)
    except BtfError:
        return None


def _layouts(program: Program) -> list[Any]:
    """The records of the program and of its maps that describe themselves, each once."""
    candidates: list[Layout | None] = list(program.records)
    for spec in program.maps:
        candidates += (spec.key, spec.value)
    found: list[Any] = []
    for layout in candidates:
        if hasattr(layout, "btf") and layout not in found:
            found.append(layout)
    return found


def _functions(program: Program, writer: BtfWriter) -> bytes:
    """struct bpf_func_info of each function: the slot it starts at, its type.

    All are static: a global one would be verified on its own, with nothing known of its arguments, and could not be
    a callback. The entry is described without its argument, since 5.10 and 6.1 begin their logs with a complaint
    about any type of context that they do not know.
    """
    number = writer.int_("int", 4, signed=True)
    word = writer.int_("unsigned long long", 8)
    used: set[str] = set()
    out = []
    starts = _starts(program)
    for index, function in enumerate(program.functions or (Function(program.name, 0, 1),)):
        count = function.arguments if index else 0
        arguments = [(f"r{register}", word) for register in range(1, count + 1)]
        name = _identifier(function.name, used)
        out.append(pack("=II", starts[function.start], writer.func(name, writer.func_proto(number, arguments))))
    return b"".join(out)


def _lines(program: Program, writer: BtfWriter) -> bytes:
    """struct bpf_line_info: a record wherever the source line changes, and at the start of each function."""
    instructions = program.instructions
    if not any(i.line is not None for i in instructions):
        return b""
    begins = {function.start for function in program.functions}
    begins.add(0)
    out = []
    slot = 0
    previous: SourceLine | None = None
    places: dict[SourceLine, tuple[int, int, int]] = {}
    for index, instruction in enumerate(instructions):
        line = instruction.line
        if index in begins and line is None:
            line = next((i.line for i in instructions[index:] if i.line is not None), previous)
        if line is not None and (line != previous or index in begins):
            place = places.get(line)
            if place is None:
                text = source_text(line.file, line.line)
                # Where pylsm lies differs between machines, and a template is for all of them.
                file = writer.string(line.file.replace("\0", "").removeprefix(_ABOVE))
                position = min(line.line, _MAX_LINE) << 10 | _column(text)
                place = places[line] = (file, writer.string(text), position)
            out.append(pack("=IIII", slot, *place))
            previous = line
        slot += instruction.slots
    return b"".join(out)


def _column(text: str) -> int:
    """The column of the first character that is not blank, from 1; 0 for an unknown line."""
    stripped = text.lstrip()
    return min(len(text) - len(stripped) + 1, 1023) if stripped else 0


def _starts(program: Program) -> dict[int, int]:
    """Index of an instruction → slot, for those that functions start at."""
    wanted = {function.start for function in program.functions} | {0}
    slot, found = 0, {}
    for index, instruction in enumerate(program.instructions):
        if index in wanted:
            found[index] = slot
        slot += instruction.slots
    return found


def _identifier(name: str, used: set[str]) -> str:
    """A name that BTF takes: a C identifier, once."""
    made = "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in name)[:120] or "_"
    if made[0].isdigit():
        made = "_" + made[:119]
    base, number = made, 1
    while made in used:
        number += 1
        made = f"{base}_{number}"
    used.add(made)
    return made


def _side(writer: BtfWriter, layout: Any, size: int) -> int:
    """The type of a key or a value: the record's own, an integer of that size, or that many bytes."""
    if hasattr(layout, "btf"):
        return int(layout.btf(writer))
    if size == 4:
        return writer.int_("unsigned int", 4)
    if size == 8:
        return writer.int_("unsigned long long", 8)
    if size in (1, 2):
        return writer.int_({1: "unsigned char", 2: "unsigned short"}[size], size)
    return writer.array(writer.int_("unsigned char", 1), size)
