"""func_info, line_info and BTF of a program: what would be given to the kernel, without one."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from pylsm.asm import Function, Instruction, MapSpec, MapType, Program, SourceLine
from pylsm.asm import opcodes as op
from pylsm.btf import Btf, BtfWriter, Kind
from pylsm.loader import progbtf
from pylsm.loader.image import MapTypes, ProgramTypes
from pylsm.loader.source import source_text

EXIT = op.JMP | op.EXIT
MOV = op.ALU64 | op.MOV | op.K


class Kernel:
    """Reads what it would be given."""

    def __init__(self) -> None:
        self.btf: Btf | None = None

    def program(self, program: Program) -> ProgramTypes | None:
        types, refusal = progbtf.program_btf(program)
        assert refusal == ""
        self.btf = Btf(types.btf, name="program") if types else None
        return types

    def map(self, spec: MapSpec) -> MapTypes | None:
        types = progbtf.map_btf(spec)
        self.btf = Btf(types.btf, name="map") if types else None
        return types


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


@pytest.fixture
def source(tmp_path: Path) -> str:
    path = tmp_path / "probe.py"
    path.write_text("".join(f"    line {number}\n" for number in range(1, 30)))
    return str(path)


def lines_of(described: ProgramTypes, btf: Btf) -> list[tuple[int, str, str, int, int]]:
    """(slot, file, text, line, column) of each record."""
    found = []
    for slot, file, text, position in struct.iter_unpack("=IIII", described.lines):
        found.append((slot, btf.string(file), btf.string(text), position >> 10, position & 1023))
    assert len(found) == len(described.lines) / 16
    return found


def functions_of(described: ProgramTypes, btf: Btf) -> list[tuple[int, str, int, int]]:
    """(slot, name, arguments, linkage) of each record."""
    found = []
    for slot, id in struct.iter_unpack("=II", described.functions):
        type = btf.type(id)
        assert type.kind is Kind.FUNC
        found.append((slot, type.name, len(btf.func_proto(id).params), type.linkage))
    assert len(found) == len(described.functions) / 8
    return found


def test_a_record_for_each_change_of_line(kernel: Kernel, source: str) -> None:
    made = Program(
        "p",
        "socket",
        (
            Instruction(op.LDDW, 1, imm=1, line=SourceLine(source, 3)),  # slots 0, 1
            Instruction(MOV, 2, line=SourceLine(source, 3)),  # 2: the same line
            Instruction(MOV, 3),  # 3: no line
            Instruction(MOV, 0, line=SourceLine(source, 4)),  # 4
            Instruction(EXIT, line=SourceLine(source, 3)),  # 5: back again
        ),
        (Function("p", 0, 1),),
    )
    described = kernel.program(made)
    assert described is not None and kernel.btf is not None
    assert lines_of(described, kernel.btf) == [
        (0, source, "    line 3", 3, 5),
        (4, source, "    line 4", 4, 5),
        (5, source, "    line 3", 3, 5),
    ]


def test_each_function_begins_with_a_record(kernel: Kernel, source: str) -> None:
    """The kernel refuses line records ("missing bpf_line_info for func#1") that leave out a function's beginning."""
    line = SourceLine(source, 1)
    made = Program(
        "entry",
        "socket",
        (
            Instruction(op.LDDW, 1, imm=1, line=line),
            Instruction(EXIT, line=line),
            Instruction(MOV, 0),  # 3: second, whose first line comes later
            Instruction(EXIT, line=SourceLine(source, 2)),  # 4
            Instruction(MOV, 0),  # 5: third, without a line of its own
            Instruction(EXIT),
            Instruction(EXIT, line=SourceLine(source, 2)),  # 7: fourth, on the line of the second
        ),
        (Function("entry", 0, 1), Function("second", 2, 3), Function("third", 4, 0), Function("fourth", 6, 5)),
    )
    described = kernel.program(made)
    assert described is not None and kernel.btf is not None
    assert functions_of(described, kernel.btf) == [
        (0, "entry", 0, 0),
        (3, "second", 3, 0),
        (5, "third", 0, 0),
        (7, "fourth", 5, 0),
    ]
    slots = [(slot, line) for slot, _, _, line, _ in lines_of(described, kernel.btf)]
    assert slots == [(0, 1), (3, 2), (5, 2), (7, 2)]


def test_names_that_btf_would_refuse_are_changed_and_kept_apart(kernel: Kernel) -> None:
    made = Program(
        "a.b",
        "socket",
        tuple(Instruction(EXIT) for _ in range(5)),
        (
            Function("a.b", 0, 1),
            Function("a-b", 1, 0),
            Function("1st", 2, 0),
            Function("größe", 3, 0),
            Function("x" * 300, 4, 0),
        ),
    )
    described = kernel.program(made)
    assert described is not None and kernel.btf is not None
    assert [name for _, name, _, _ in functions_of(described, kernel.btf)] == [
        "a_b", "a_b_2", "_1st", "gr__e", "x" * 120,
    ]  # fmt: skip


class Layout:
    """A record that describes itself."""

    name = "key"
    size = 8

    def field(self, name: str) -> tuple[int, int]:
        raise KeyError(name)

    def btf(self, writer: BtfWriter) -> int:
        u32 = writer.int_("unsigned int", 4)
        return writer.struct("key", [("tgid", u32, 0), ("mode", u32, 32)])


def test_records_of_the_program_and_its_maps_are_described_once(kernel: Kernel) -> None:
    layout = Layout()
    spec = MapSpec("seen", MapType.HASH, key=layout, value=4, max_entries=1)
    made = Program("p", "socket", (Instruction(EXIT),), (Function("p", 0, 1),), (spec,), "GPL", (layout,))
    described = kernel.program(made)
    assert described is not None and kernel.btf is not None
    names = [kernel.btf.name_of(id) for id in kernel.btf.types()]
    assert names.count("key") == 1
    assert kernel.btf.member("key", "mode").offset == 4


def test_a_program_with_nothing_to_say_gets_none(kernel: Kernel) -> None:
    made = Program("p", "socket", (Instruction(EXIT),), (Function("p", 0, 1),))
    assert kernel.program(made) is None
    assert kernel.btf is None


@pytest.mark.parametrize(
    ("key", "value", "names"),
    [
        (Layout(), 8, ("key", "unsigned long long")),
        (4, Layout(), ("unsigned int", "key")),
        (2, Layout(), ("unsigned short", "key")),
    ],
)
def test_keys_and_values_of_maps(kernel: Kernel, key: object, value: object, names: tuple[str, str] | None) -> None:
    spec = MapSpec("m", MapType.HASH, key=key, value=value, max_entries=1)  # type: ignore[arg-type]
    types = kernel.map(spec)
    assert types is not None and kernel.btf is not None
    assert (kernel.btf.size_of(types.key), kernel.btf.size_of(types.value)) == (spec.key_size, spec.value_size)
    if names:
        assert (kernel.btf.name_of(types.key), kernel.btf.name_of(types.value)) == names


def test_sizes_without_an_integer_become_bytes(kernel: Kernel) -> None:
    types = kernel.map(MapSpec("m", MapType.HASH, key=20, value=Layout(), max_entries=1))
    assert types is not None and kernel.btf is not None
    assert kernel.btf.c_name(types.key) == "unsigned char[20]"


def test_lines_beyond_what_a_record_holds_and_files_that_are_gone(kernel: Kernel) -> None:
    made = Program(
        "p",
        "socket",
        (
            Instruction(MOV, 0, line=SourceLine("/nowhere/gone.py", 5)),
            Instruction(EXIT, line=SourceLine("/nowhere/gone.py", 1 << 30)),
        ),
        (Function("p", 0, 1),),
    )
    described = kernel.program(made)
    assert described is not None and kernel.btf is not None
    assert lines_of(described, kernel.btf) == [
        (0, "/nowhere/gone.py", "", 5, 0),
        (1, "/nowhere/gone.py", "", (1 << 22) - 1, 0),
    ]


def test_source_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "odd.py"
    path.write_bytes(b"first\r\nsec\0ond\nth\xffird")
    assert [source_text(str(path), number) for number in (0, 1, 2, 3, 4)] == ["", "first", "second", "th\ufffdird", ""]
    assert source_text(str(tmp_path), 1) == ""
    assert source_text("\0", 1) == ""


def test_source_text_inside_a_zip_application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib
    import zipfile

    archive = tmp_path / "app.pyz"
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr("zipped_probe.py", "import sys\nline = sys._getframe().f_lineno  # here\nfile = __file__\n")
    monkeypatch.syspath_prepend(str(archive))
    module = importlib.import_module("zipped_probe")
    assert source_text(module.file, module.line) == "line = sys._getframe().f_lineno  # here"
    assert source_text(str(archive / "nothing.py"), 1) == ""
