"""Objects that clang made, loaded by pylsm and by libbpf (bpftool): the kernel has the same instructions of both."""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pylsm.asm import R0, Asm, MapSpec, MapType, Program
from pylsm.asm import opcodes as op
from pylsm.asm.proof import NotProved
from pylsm.asm.references import EnumRef, FieldRef
from pylsm.asm.verify import returns_unchanged
from pylsm.btf import Btf, BtfNotFound, Kind, declare
from pylsm.loader import BpfError, LoadedProgram, Map, MapMismatchError, Object, RingBuffer, SpecError, VerifierError
from pylsm.loader.elf import ElfError, ObjectFile
from pylsm.loader.elf.writer import write_object

pytestmark = pytest.mark.root

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "elf"
OBJECT = FIXTURES / "raw_tp.bpf.o"


@pytest.fixture
def pins() -> Iterator[Path]:
    """A directory of a BPF filesystem, gone afterwards."""
    directory = Path("/sys/fs/bpf/pylsm-test-elf")
    if not Path("/sys/fs/bpf").is_dir():
        pytest.skip("no /sys/fs/bpf here")
    shutil.rmtree(directory, ignore_errors=True)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


def bpftool(*arguments: str) -> str:
    if shutil.which("bpftool") is None:
        pytest.skip("bpftool is not installed")
    done = subprocess.run(["bpftool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def compiled(tmp_path: Path, source: str, *options: str) -> Path:
    """C → object, by clang."""
    if shutil.which("clang") is None:
        pytest.skip("clang is not installed")
    text = tmp_path / "made.bpf.c"
    text.write_text(source)
    made = tmp_path / "made.bpf.o"
    command = ["clang", "-target", "bpf", "-O2", "-g", "-Wall", f"-I{FIXTURES}", *options, "-c", str(text)]
    subprocess.run([*command, "-o", str(made)], check=True)
    return made


def test_the_kernel_has_the_same_of_both_loaders(pins: Path) -> None:
    """Same tag, which is the hash of all instructions: maps, data, subprograms and CO-RE all came out the same."""
    bpftool("prog", "loadall", str(OBJECT), str(pins))
    with Object.open(OBJECT).load() as made:
        assert set(made.programs) == {"on_enter", "on_exit"}
        for name, program in made.programs.items():
            with LoadedProgram.open_pinned(pins / name) as theirs:
                assert program.info.tag == theirs.info.tag
                assert len(program.xlated()) == len(theirs.xlated())


@pytest.mark.parametrize("cpu", ["v1", "v2", "v3"])
@pytest.mark.parametrize("name", ["raw_tp", "lsm"])
def test_what_clang_makes_here(name: str, cpu: str, tmp_path: Path, pins: Path) -> None:
    source = (FIXTURES / f"{name}.bpf.c").read_text()
    path = compiled(tmp_path, source, f"-mcpu={cpu}")
    opened = Object.open(path)
    if name == "lsm":
        # LSM programs cannot be loaded everywhere: what would be loaded is complete, and proved.
        for program, verdict in (("on_open", 1), ("on_connect", 3)):
            assert returns_unchanged(opened.program(program), verdict).exits
        return
    bpftool("prog", "loadall", str(path), str(pins))
    with opened.load() as made:
        for program_name, program in made.programs.items():
            with LoadedProgram.open_pinned(pins / program_name) as theirs:
                assert program.info.tag == theirs.info.tag


def test_every_question_has_the_kernels_answer() -> None:
    kernel = Btf.kernel()
    tgid = kernel.member("task_struct", "tgid")
    bits = kernel.member("task_struct", "sched_reset_on_fork")
    byte = bits.bit_offset // 32 * 4
    expected = {
        0: tgid.offset,
        1: 4,
        2: 1,
        3: 1,
        4: 32,
        5: 32,
        6: 0,
        7: 1,
        8: 0,
        9: kernel.size_of(kernel.find_struct("task_struct")),
        10: kernel.find_struct("task_struct"),
        11: 1,
        12: 1,
        13: kernel.enumerator("pid_type", "PIDTYPE_TGID"),
        14: 0,
        15: byte,
        16: 64 - (bits.bit_offset + 1 - byte * 8),
        17: 63,
        18: 16,
        19: kernel.member("task_struct", "comm").offset + 3,
        20: kernel.member("file", "f_path.dentry").offset,
        22: 7,
        23: ord("p"),
        24: 0 + 1 + 2 + 3,
        25: 0,
        31: 10,
    }
    with Object.open(OBJECT).load() as made:
        made.programs["on_enter"].test_run(ctx=bytes(16))
        answers = made.maps["answers"]
        got = {i: struct.unpack("=q", answers.lookup(struct.pack("=I", i)) or b"")[0] for i in range(32)}
        assert {i: got[i] for i in expected} == expected
        assert got[21] > 0
        (entry,) = made.maps["calls"].items()
        assert entry[0] == struct.pack("=I", 7) and entry[1][:4] == struct.pack("=I", 1)
        data, bss = made.maps["raw_tp.data"].lookup(bytes(4)), made.maps["raw_tp.bss"].lookup(bytes(4))
        assert data is not None and data.count(b"probe") == 1 and 15 in struct.unpack("=QQ", data[:16])
        assert bss == struct.pack("=Q", 1)


def test_settings_sizes_and_maps_of_others() -> None:
    opened = Object.open(OBJECT)
    opened.set("wanted", 9)
    opened.set("text", b"other\0\0\0\0\0\0\0")
    assert opened.variable("wanted") == struct.pack("=I", 9)
    opened.maps["calls"] = opened.maps["calls"].resized(3)
    ring = MapSpec("mine", MapType.RINGBUF, max_entries=8192)
    with Map.create(ring) as mine, opened.load(reuse={"ring": mine}) as made:
        assert made.maps["calls"].info.max_entries == 3
        made.programs["on_enter"].test_run(ctx=bytes(16))
        assert [key for key, _ in made.maps["calls"].items()] == [struct.pack("=I", 9)]
        answer = made.maps["answers"].lookup(struct.pack("=I", 23))
        assert answer == struct.pack("=Q", ord("o"))
        made.programs["on_exit"].test_run(ctx=struct.pack("=QQ", 0, 42))
        records: list[bytes] = []
        with RingBuffer(mine) as reader:
            reader.drain(lambda record: records.append(bytes(record)))
        assert records == [struct.pack("=Q", 42)]
        with pytest.raises(BpfError, match="EPERM"):
            made.maps["raw_tp.rodata"].update(bytes(4), bytes(4))
        made.close()
        assert not mine.closed and mine.info.max_entries == 8192


def test_a_program_array_is_filled_as_declared(tmp_path: Path) -> None:
    path = compiled(
        tmp_path,
        """
#include "types.h"
int next(void *c);
struct {
    __uint(type, 3); __uint(max_entries, 4); __uint(key_size, 4); __array(values, int(void *));
} jumps SEC(".maps") = {.values = {[2] = (void *)&next}};
int ran;
SEC("raw_tp/sys_enter") int next(void *c) { ran += 1; return 0; }
SEC("raw_tp/sys_exit") int first(void *c) { bpf_tail_call(c, &jumps, 2); ran += 100; return 0; }
char L[] SEC("license") = "GPL";
""",
    )
    with Object.open(path).load("first") as made:
        assert set(made.programs) == {"first", "next"}  # what it calls comes with it
        assert [made.maps["jumps"].lookup(struct.pack("=I", n)) is not None for n in range(4)] == [
            False,
            False,
            True,
            False,
        ]
        made.programs["first"].test_run(ctx=bytes(16))
        assert made.maps["made.bss"].lookup(bytes(4)) == struct.pack("=I", 1)
    past = compiled(tmp_path, (tmp_path / "made.bpf.c").read_text().replace("max_entries, 4", "max_entries, 2"))
    with pytest.raises(ElfError, match="has 2 entries; 'next' is at"):
        Object.open(past)


def test_one_program_of_many() -> None:
    with Object.open(OBJECT).load("on_exit") as made:
        assert set(made.programs) == {"on_exit"} and set(made.maps) == {"ring"}
        links = made.attach()
        assert list(links) == ["on_exit"]
    with pytest.raises(SpecError, match="no program 'nobody'"):
        Object.open(OBJECT).load("nobody")
    with pytest.raises(SpecError, match="no map 'nothing'"):
        Object.open(OBJECT).load(reuse={"nothing": 3})
    with pytest.raises(SpecError, match=r"no variable 'nothing'; there are: text, total, wanted, zeroed"):
        Object.open(OBJECT).set("nothing", 1)
    with pytest.raises(SpecError, match="has 4 bytes, not 1"):
        Object.open(OBJECT).set("wanted", b"1")
    with pytest.raises(SpecError, match="does not fit"):
        Object.open(OBJECT).set("wanted", 1 << 32)


def test_a_map_of_another_type_is_refused(tmp_path: Path) -> None:
    with Map.create(MapSpec("wrong", MapType.ARRAY, key=4, value=8, max_entries=1)) as wrong:
        before = len(list(Path("/proc/self/fd").iterdir()))
        with pytest.raises(MapMismatchError):
            Object.open(OBJECT, reuse={"ring": wrong}).load()
        assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_maps_show_their_fields() -> None:
    with Object.open(OBJECT).load() as made:
        made.programs["on_enter"].test_run(ctx=bytes(16))
        text = bpftool("map", "dump", "id", str(made.maps["calls"].info.id))
        assert '"count": 1' in text and '"last":' in text


def test_the_verifier_names_the_line_in_c(tmp_path: Path) -> None:
    source = """
#include "types.h"
SEC("raw_tp/sys_enter")
int bad(struct bpf_raw_tracepoint_args *ctx) {
    return *(int *)(long)ctx->args[0];
}
char LICENSE[] SEC("license") = "GPL";
"""
    with pytest.raises(VerifierError) as caught:
        Object.open(compiled(tmp_path, source)).load()
    assert caught.value.line is not None
    assert caught.value.line.file.endswith("made.bpf.c") and caught.value.line.line == 5


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ('extern int CONFIG_HZ __kconfig; SEC("raw_tp/x") int p(void *c) { return CONFIG_HZ; }', "configuration"),
        ('extern const void init_task __ksym; SEC("raw_tp/x") int p(void *c) '
                "{ return (long)&init_task == 5; }",
                "without a type",
            ),
        (
            'struct { int type; } old SEC("maps"); SEC("raw_tp/x") int p(void *c) '
            "{ return !!bpf_map_lookup_elem(&old, c); }",
            "before BTF",
        ),
        (
            'int one; int *at = &one; SEC("raw_tp/x") int p(void *c) { return *at; }',
            "an address in initialised data",
        ),
        ('SEC("raw_tp/x") static __attribute__((used)) int p(void *c) { return 0; }', "static function"),
        ("int p(void *c) { return 0; }", "no programs in it"),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_said(source: str, error: str, tmp_path: Path) -> None:
    path = compiled(tmp_path, f'#include "types.h"\n{source}\nchar L[] SEC("license") = "GPL";', "-Wno-everything")
    with pytest.raises(ElfError, match=error) as caught:
        Object.open(path).load()
    assert str(path) in str(caught.value)


def test_kernel_functions_and_variables(tmp_path: Path) -> None:
    source = """
#include "types.h"
struct task_struct___k {} __attribute__((preserve_access_index));
extern void bpf_rcu_read_lock(void) __ksym;
extern void bpf_no_such_thing(void) __ksym __attribute__((weak));
extern const int bpf_no_such_variable __ksym __attribute__((weak));
SEC("raw_tp/sys_enter")
int asks(void *ctx) {
    if (&bpf_no_such_variable)
        bpf_no_such_thing();
    return 0;
}
char LICENSE[] SEC("license") = "GPL";
"""
    with Object.open(compiled(tmp_path, source)).load() as made:
        assert made.programs["asks"].test_run(ctx=bytes(16)).retval == 0


def test_a_field_that_this_kernel_lacks(tmp_path: Path) -> None:
    """Unguarded, the verifier refuses it; what is behind a check never comes to it."""
    source = """
#include "types.h"
struct task_struct___gone { int gone; } __attribute__((preserve_access_index));
SEC("raw_tp/sys_enter")
int asks(void *ctx) {
    struct task_struct___gone *task = (void *)bpf_get_current_task();
    int value = 1;
    GUARD bpf_core_read(&value, sizeof(value), &task->gone);
    return value;
}
char LICENSE[] SEC("license") = "GPL";
"""
    with pytest.raises(BtfNotFound):
        Btf.kernel().member("task_struct", "gone")
    with pytest.raises(VerifierError, match=r"195896080|invalid func"):
        Object.open(compiled(tmp_path, source, "-DGUARD=")).load()
    guarded = compiled(tmp_path, source, "-DGUARD=if(bpf_core_field_exists(task->gone))")
    with Object.open(guarded).load() as made:
        assert made.programs["asks"].test_run(ctx=bytes(16)).retval == 1


def test_a_denying_object_is_not_proved(tmp_path: Path) -> None:
    source = """
#include "types.h"
#include <bpf/bpf_tracing.h>
SEC("lsm/file_open")
int BPF_PROG(deny, struct file *file, int ret) { return ret ? ret : (bpf_get_prandom_u32() & 1 ? -1 : 0); }
char LICENSE[] SEC("license") = "GPL";
"""
    opened = Object.open(compiled(tmp_path, source))
    with pytest.raises(NotProved) as caught:
        returns_unchanged(opened.program("deny"), 1)
    assert caught.value.line is not None and caught.value.line.file.endswith("made.bpf.c")


_EXISTS, _MATCHES = 8, 12  # BPF_CORE_TYPE_EXISTS, BPF_CORE_TYPE_MATCHES (include/uapi/linux/bpf.h)


def _asking(shapes: dict[str, dict[str, str]], ask: Callable[[Asm], None]) -> tuple[Program, Btf]:
    types = declare(shapes)
    a = Asm("raw_tp/sys_enter", types=types, name="asks")
    ask(a)
    a.exit_()
    return a.build(), types


def _both(data: bytes, tmp_path: Path, pins: Path) -> int:
    """What the program returns, of which libbpf and pylsm load the same instructions."""
    path = tmp_path / "asks.bpf.o"
    path.write_bytes(data)
    pins.mkdir(exist_ok=True)
    bpftool("prog", "load", str(path), str(pins / "asks"))
    try:
        with Object.open(path).load() as made, LoadedProgram.open_pinned(pins / "asks") as theirs:
            program = made.programs["asks"]
            assert program.info.tag == theirs.info.tag
            return program.test_run(ctx=bytes(16)).retval
    finally:
        (pins / "asks").unlink()


@pytest.mark.parametrize(
    ("shapes", "matches"),
    [
        ({"task_struct": {"tgid": "int"}}, 1),
        ({"task_struct": {"tgid": "int", "flags": "unsigned int"}}, 1),
        ({"task_struct": {"tgid": "unsigned long"}}, 0),
        ({"task_struct": {"no_such_field": "int"}}, 0),
        ({"task_struct": {"group_leader": "void *", "tgid": "int"}}, 0),  # it points to a struct
        ({"no_such_struct": {"tgid": "int"}}, 0),
    ],
)
def test_type_matches(shapes: dict[str, dict[str, str]], matches: int, tmp_path: Path, pins: Path) -> None:
    """The question that clang asks from LLVM 15 on: the record of "type exists" with another number in it."""
    name = next(iter(shapes))

    def ask(a: Asm) -> None:
        for field in shapes[name]:  # what nothing refers to is not written
            a.emit(op.ALU64 | op.MOV | op.K, R0, reference=FieldRef(name, field, "exists"))
        a.ld_type(R0, name, "exists")

    program, types = _asking(shapes, ask)
    data = bytearray(write_object([program], types=[types]))
    opened = ObjectFile(bytes(data))
    ((*_, record),) = opened._ext.relocations.values()
    section = opened._image.section(".BTF.ext")
    assert section is not None
    at = section.offset + record.place + 12
    assert data[at : at + 4] == struct.pack("=I", _EXISTS)
    data[at : at + 4] = struct.pack("=I", _MATCHES)
    assert _both(bytes(data), tmp_path, pins) == matches


def test_enumerators_of_64_bits(tmp_path: Path, pins: Path) -> None:
    kernel = Btf.kernel()
    found = [
        (kernel.type(id).name, e.name, e.value)
        for id in kernel.types()
        if kernel.type(id).kind is Kind.ENUM64 and kernel.type(id).name
        for e in kernel.type(id).enumerators[:1]
    ]
    if not found:
        pytest.skip("this kernel has no named enum of 64 bits")
    for enum, name, value in found[:3]:
        for shift in (0, 32):

            def ask(a: Asm, reference: EnumRef = EnumRef(enum, name), shift: int = shift) -> None:  # noqa: B008
                a.emit(op.LDDW, R0, reference=reference)
                a.rsh(R0, shift)

            program, types = _asking({}, ask)
            data = write_object([program], types=[types], kernel=kernel)
            assert _both(data, tmp_path, pins) == value >> shift & 0xFFFFFFFF
