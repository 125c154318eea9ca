"""Objects that pylsm writes, read back: the same programs, whatever they refer to; and what cannot be written."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import pytest

from pylsm.asm import R0, R1, R2, R3, R6, Asm, MapSpec, MapType, Program, s32, u32, u64
from pylsm.asm.errors import SourceLine
from pylsm.asm.instruction import Instruction
from pylsm.asm.references import FieldRef
from pylsm.audit.maps import SEEN, SET
from pylsm.audit.programs.common import KERNEL
from pylsm.audit.sources import SOURCES
from pylsm.btf import Btf, BtfWriter, declare
from pylsm.loader.elf import ElfError, ObjectFile
from pylsm.loader.elf.writer import write_object
from pylsm.loader.relocate import resolve
from pylsm.record import Record

HASH = MapSpec("hash", MapType.HASH, key=8, value=24, max_entries=4, flags=1)
RING = MapSpec("ring", MapType.RINGBUF, max_entries=1 << 20)
SETTINGS = MapSpec("settings", MapType.ARRAY, key=4, value=16, max_entries=1)


_MMAPABLE = 1 << 10  # BPF_F_MMAPABLE, which libbpf gives data sections


#: Maps that programs load from directly: data sections of an object.
ADDRESSED = (SET, SEEN)


def kernel_like() -> Btf:
    """Types of a made-up kernel: everything is elsewhere than where the declarations of pylsm put it."""
    shapes: dict[str, dict[str, str]] = {}
    for id in KERNEL.types():
        type_ = KERNEL.type(id)
        if type_.kind.name == "STRUCT":
            fields = {member.name: KERNEL.c_name(member.type_id) for member in type_.members}
            shapes[type_.name] = {"_first": "u64", **dict(reversed(list(fields.items())))}
    shapes["thing"] = {"_first": "u64[3]", "array": "u32[8]", "count": "u64", "inner": "struct inner"}
    shapes["inner"] = {"_other": "u16", "value": "int"}
    return declare(shapes, name="made-up kernel")


def resolved(program: Program, kernel: Btf) -> tuple[Instruction, ...]:
    return resolve(program, {spec.name: number for number, spec in enumerate(program.maps, 1)}, lambda: kernel)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_the_shipped_programs_come_back(source: object) -> None:
    kernel = kernel_like()
    for variant in source.variants:  # type: ignore[attr-defined]
        programs = source.attached(variant)  # type: ignore[attr-defined]
        opened = ObjectFile(write_object(programs, types=[KERNEL]), "probe")
        # An object keeps those of a section together.
        assert sorted(opened.programs) == sorted(program.name for program in programs)
        assert opened.license == "GPL"
        for program in programs:
            back = opened.program(program.name, kernel)
            names = {spec.name: f".data.{spec.name}" if spec in ADDRESSED else spec.name for spec in program.maps}
            assert {spec.name for spec in back.maps} == set(names.values())
            # Maps are numbered in the order of the object's; give both the same.
            numbers = {spec.name: number for number, spec in enumerate(program.maps, 1)}
            numbers.update({names[name]: number for name, number in numbers.items()})
            assert resolve(back, numbers, lambda: kernel) == resolve(program, numbers, lambda: kernel)
            assert back.section == program.section
            assert [i.line for i in back.instructions] == [i.line for i in program.instructions]
            for spec in program.maps:
                mine = back.map(names[spec.name])
                assert mine is not None
                assert (mine.type, mine.key_size, mine.value_size, mine.max_entries, mine.flags) == (
                    spec.type,
                    spec.key_size,
                    spec.value_size,
                    spec.max_entries,
                    spec.flags | (_MMAPABLE if spec in ADDRESSED else 0),
                )
                if isinstance(spec.value, Record) and spec not in ADDRESSED:
                    assert mine.value is not None
                    assert [mine.value.field(f) for f in spec.value.fields] == [
                        spec.value.field(f) for f in spec.value.fields
                    ]


def everything() -> tuple[Program, Btf]:
    """A program with a reference of every kind that a file can hold."""
    types = declare(
        {"thing": {"inner": "struct inner", "count": "unsigned int", "array": "u32[4]"}, "inner": {"value": "int"}}
    )
    a = Asm("raw_tp/sys_enter", name="all", types=types, cpu="v4")
    slot = a.stack(8)
    a.mov(R6, R1)
    thing = a.typed(R6, "thing")
    a.load(R2, thing.inner.value)
    a.load(R2, thing.count)
    a.ld_offset(R2, "thing", "array[2]")
    a.ld_field_size(R3, "thing", "inner")
    a.ld_field_exists(R3, "thing", "count")
    a.ld_type(R3, "thing", "size")
    a.ld_type(R3, "thing", "exists")
    a.ld_type(R3, "struct nobody_knows", "exists")
    a.st(u64[slot], 1)
    a.call("map_lookup_elem", HASH, slot)
    a.ld_map_value(R1, SETTINGS, 8)
    a.ldx(R1, u64[R1])
    a.call_function("sub", R1)
    a.call("loop", 3, "each", slot, 0)
    a.call("ringbuf_output", RING, slot, 8, 0)
    a.mov(R0, 0)
    a.exit_()
    with a.function("each", 2):
        a.mov(R0, 0)
        a.exit_()
    with a.function("sub", 1):
        a.call_function("subsub", R1)
        a.mov(R0, 0)
        a.exit_()
    with a.function("subsub", 1):
        a.ldx(R0, s32[R1])
        a.exit_()
    return a.build(), types


def test_a_reference_of_every_kind() -> None:
    program, types = everything()
    opened = ObjectFile(write_object([program], types=[types], maps=[HASH.resized(9)]), "x")
    kernel = kernel_like()
    back = opened.program("all", kernel)
    assert opened.maps["hash"].max_entries == 9
    assert set(opened.maps) == {"hash", ".data.settings", "ring"}
    mine = resolve(program, {"hash": 1, "settings": 2, "ring": 3}, lambda: kernel)
    theirs = resolve(back, {"hash": 1, ".data.settings": 2, "ring": 3}, lambda: kernel)
    entry = program.functions[1].start
    # Subprograms come in another order (depth first); calls of them differ by where they lead, and nothing else.
    strip = [
        [(i.opcode, i.dst, i.src, i.off, i.imm if i.src != 1 or i.opcode != 0x85 else 0) for i in code[:entry]]
        for code in (mine, theirs)
    ]
    for ours, its in zip(*strip):
        assert ours == its or ours[0] == its[0] == 0x18
    # The entry is described without its argument: 5.10 and 6.1 complain of a context's type that they do not know.
    assert len(mine) == len(theirs) and [f.arguments for f in back.functions] == [0, 1, 1, 2]
    assert [f.name.partition("@")[0] for f in back.functions] == ["all", "sub", "subsub", "each"]
    # Each call leads to the function of its name.
    names = {back.slot_of(f.start): f.name.partition("@")[0] for f in back.functions}
    called = [
        names[back.slot_of(index) + 1 + i.imm] for index, i in enumerate(theirs) if i.opcode == 0x85 and i.src == 1
    ]
    assert called == ["sub", "subsub"]
    (address,) = [(index, i) for index, i in enumerate(theirs) if i.opcode == 0x18 and i.src == 4]
    low = address[1].imm & 0xFFFFFFFF
    assert names[back.slot_of(address[0]) + 1 + low - (low >> 31 << 32)] == "each"


def test_the_file_says_nothing_of_this_machine() -> None:
    """The same bytes without any kernel, in another process, with another hash seed."""
    programs = SOURCES[0].attached(SOURCES[0].variants[0])
    data = write_object(programs, types=[KERNEL])
    script = (
        "import sys; from pylsm.audit.programs.common import KERNEL;"
        "from pylsm.audit.sources import SOURCES;"
        "from pylsm.loader.elf.writer import write_object; s = SOURCES[0];"
        "sys.stdout.buffer.write(write_object(s.attached(s.variants[0]), types=[KERNEL]))"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        check=True,
        cwd=root,
        env={"PYTHONHASHSEED": "7", "PATH": ""},
    )
    assert done.stdout == data


def test_build_writes_it(tmp_path: Path) -> None:
    out = tmp_path / "probe.bpf.o"
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", "pylsm", "build", "-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    assert done.returncode == 0, done.stderr
    programs = SOURCES[0].all(SOURCES[0].variants[0])
    slots = {"pylsm_walkers": [programs[-1].name]}
    assert out.read_bytes() == write_object(programs, types=[KERNEL], slots=slots)
    (tmp_path / "mine.py").write_text(
        "from pylsm.asm import *\nfrom pylsm.btf import declare\nT = declare({'task_struct': {'tgid': 'int'}})\n"
        "def made():\n    a = Asm('raw_tp/sys_enter', types=T)\n    a.call('get_current_task_btf')\n"
        "    a.load(R0, a.typed(R0, 'task_struct').tgid)\n    a.exit_()\n    return a.build()\n"
    )
    import os

    done = subprocess.run(
        [*command, "mine:made"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert done.returncode == 0, done.stderr
    assert list(ObjectFile.read(out).programs) == ["sys_enter"]
    for bad, said in (("mine:nothing", "nothing"), ("mine", "MODULE:FUNCTION"), ("no_such_module:x", "no_such_module")):
        done = subprocess.run(
            [*command, bad],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(root)},
        )
        assert done.returncode == 125 and said in done.stderr and "Traceback" not in done.stderr


def program(*instructions: Instruction, maps: tuple[MapSpec, ...] = (), license: str = "GPL") -> Program:
    a = Asm("raw_tp/sys_enter", name="made", license=license)
    a.mov(R0, 0)
    a.exit_()
    made = a.build()
    return made._replace(instructions=(*instructions, *made.instructions), maps=maps)


LINE = SourceLine("probe.py", 12)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (program(Instruction(0x18, 1, 1, 0, 5, None, LINE)), "by number has no meaning in a file"),
        (program(Instruction(0xB7, 1, 0, 0, 0, FieldRef("nobody", "x"), LINE)), "no struct 'nobody'"),
        (
            program(Instruction(0xB7, 1, 0, 0, 0, FieldRef("file", "f_mode", "offset", (("file", "g"),)), LINE)),
            "alternatives",
        ),
        (program(Instruction(0xB7, 1, 0, 0, 0, FieldRef("file", "f_inode.i_ino"), LINE)), "is no struct"),
    ],
)
def test_what_cannot_be_written_names_the_line(bad: Program, said: str) -> None:
    with pytest.raises(ElfError, match=said) as caught:
        write_object([bad], types=[KERNEL])
    assert "probe.py:12" in str(caught.value) and "'made'" in str(caught.value)


def test_what_cannot_be_written_at_all() -> None:
    with pytest.raises(ElfError, match="no programs"):
        write_object([])
    with pytest.raises(ElfError, match="different licenses"):
        write_object([program(), program(license="MIT")])
    nested = MapSpec("nested", MapType.ARRAY_OF_MAPS, key=4, value=4, max_entries=1)
    with pytest.raises(ElfError, match="maps of maps"):
        write_object([program(maps=(nested,))])
    dotted = MapSpec("a.b", MapType.HASH, key=4, value=4, max_entries=1)
    with pytest.raises(ElfError, match="no C identifier"):
        write_object([program(maps=(dotted,))])
    a = Asm("raw_tp/x")
    slot = a.stack(4)
    a.st(u32[slot], 0)
    a.call("map_lookup_elem", SETTINGS, slot)
    a.ld_map_value(R1, SETTINGS)
    a.mov(R0, 0)
    a.exit_()
    with pytest.raises(ElfError, match="by address and as a map"):
        write_object([a.build()])
    b = Asm("raw_tp/x")
    b.kfunc("bpf_rcu_read_lock")
    b.mov(R0, 0)
    b.exit_()
    with pytest.raises(ElfError, match="its type has to be known"):
        write_object([b.build()])


def test_kfuncs_carry_the_prototype_of_a_kernel() -> None:
    writer = BtfWriter()
    number = writer.int_("int", 4, signed=True)
    task = writer.struct("task_struct", [("pid", number, None)])
    proto = writer.func_proto(writer.ptr(task), [("pid", number)])
    writer.func("bpf_task_from_pid", proto)
    kernel = Btf(writer.encode(), name="a kernel")
    a = Asm("syscall", name="asks")
    a.mov(R1, 1)
    a.kfunc("bpf_task_from_pid", None)
    a.mov(R0, 0)
    a.exit_()
    opened = ObjectFile(write_object([a.build()], kernel=kernel), "x")
    assert opened.btf is not None
    function = opened.btf.type(opened.btf.find("bpf_task_from_pid"))
    assert (
        function.linkage == 2
        and opened.btf.c_name(opened.btf.func_proto(function.id).return_type_id) == "struct task_struct *"
    )
    (call,) = [i for i in resolved(opened.program("asks", kernel), kernel) if i.opcode == 0x85]
    assert (call.src, call.imm) == (2, kernel.find("bpf_task_from_pid"))


def test_sections_and_symbols_are_what_the_abi_says() -> None:
    """Read by readelf's library, not by pylsm."""
    import io

    from elftools.elf.elffile import ELFFile

    made, types = everything()
    data = write_object([made], types=[types])
    elf = ELFFile(io.BytesIO(data))
    assert (elf.header.e_machine, elf.header.e_type) == ("EM_BPF", "ET_REL")
    table = elf.get_section_by_name(".symtab")
    names = {symbol.name: symbol for symbol in table.iter_symbols()}
    assert names["all"]["st_info"]["bind"] == "STB_GLOBAL" and names["sub"]["st_info"]["bind"] == "STB_LOCAL"
    bindings = [symbol["st_info"]["bind"] for symbol in table.iter_symbols()]
    assert table.header.sh_info == bindings.index("STB_GLOBAL")
    text = elf.get_section_by_name(".text")
    assert names["each"]["st_value"] == 0 and names["sub"]["st_value"] == names["each"]["st_size"]
    assert len(text.data()) == sum(names[name]["st_size"] for name in ("each", "sub", "subsub"))
    for section in elf.iter_sections():
        assert section.header.sh_addralign in (0, 1, 4, 8)
        if section.header.sh_addralign:
            assert section.header.sh_offset % section.header.sh_addralign == 0
    magic, _, _, length = struct.unpack_from("=HBBI", elf.get_section_by_name(".BTF.ext").data())
    assert (magic, length) == (0xEB9F, 32)


def test_a_program_array_is_written_with_its_programs() -> None:
    variant = SOURCES[0].variants[0]
    (walker,) = SOURCES[0].walkers(variant, ["open"])
    programs = [*SOURCES[0].programs(variant, ["open"]), walker]
    data = write_object(programs, types=[KERNEL], slots={"pylsm_walkers": [walker.name]})
    assert ObjectFile(data)._slots == {"pylsm_walkers": {0: walker.name}}
    for slots, said in (
        ({"pylsm_walkers": ["nobody"]}, "is to hold 'nobody', which is none of the programs"),
        ({"pylsm_walkers": [walker.name] * 2}, "no program array of 2 entries"),
        ({"pylsm_ring": [walker.name]}, "is no program array"),
    ):
        with pytest.raises(ElfError, match=said):
            write_object(programs, types=[KERNEL], slots=slots)
