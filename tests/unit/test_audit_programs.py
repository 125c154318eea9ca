"""The kernel side as plain data: its size, its single exit, and that making it needs no kernel."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pylsm.arch import native
from pylsm.asm import Program
from pylsm.asm.verify import returns_unchanged
from pylsm.audit.programs import family, syscalls
from pylsm.audit.programs.file_open import file_open, file_walker
from pylsm.audit.programs.hooks import KPROBE
from pylsm.audit.programs.socket_connect import socket_connect
from pylsm.audit.programs.task_iter import pid_table
from pylsm.audit.proof import TAIL_CALLS
from pylsm.audit.sources import SOURCES, Options

# RFC 9669: opcodes, and instruction classes (the low three bits)
CALL, EXIT, JEQ_IMM, JNE_IMM, LDDW = 0x85, 0x95, 0x15, 0x55, 0x18
LDX_DW, MOV_IMM, MOV_REGISTER = 0x79, 0xB7, 0xBF
WRITE_A_REGISTER = (0, 1, 4, 7)  # LD, LDX, ALU, ALU64
JUMPS = (5, 6)


def by_kind(kind: str) -> Program:
    """The program of a kind of event, at the LSM hook or at the tracepoint."""
    (program,) = SOURCES[0].programs(SOURCES[0].variants[0], [kind])
    return program


# Slots of 8 bytes. Every process on the machine pays for the first of them and every traced one for the rest, so a
# larger number needs a reason: give it in the commit that changes the number.
BUDGET: dict[str, tuple[Callable[[], Program], int]] = {
    "socket_connect": (socket_connect, 106),
    "file_open, d_path": (file_open, 151),
    "file_open, walk, 5.10": (lambda: file_open("walk", typed_task=False), 93),
    "file_open, kprobe": (lambda: file_open("walk", KPROBE, arch=native("x86_64")), 111),
    "file_open_walk": (lambda: file_walker("d_path"), 694),
    "sched_process_fork": (family.sched_process_fork, 66),
    "sched_process_fork, 5.10": (lambda: family.sched_process_fork(marks=False), 42),
    "sched_process_exec": (family.sched_process_exec, 31),
    "sched_process_exit": (family.sched_process_exit, 32),
    "socket_sendmsg": (lambda: by_kind("sendto"), 187),
    "exec": (lambda: by_kind("exec"), 746),
    "exit": (lambda: by_kind("exit"), 101),
    "fork": (lambda: by_kind("fork"), 118),
    "sys_enter": (lambda: syscalls.sys_enter(arch=native("x86_64")), 123),
    "sys_exit": (lambda: syscalls.sys_exit(arch=native("x86_64")), 178),
}


@pytest.mark.parametrize("name", BUDGET)
def test_budget(name: str) -> None:
    make, slots = BUDGET[name]
    assert make().slots == slots


def test_an_untraced_process_leaves_without_a_lookup() -> None:
    """What every process on the machine pays until it is counted: it has no storage, and all that are traced have."""
    for program in (socket_connect(), file_open()):
        code, way = program.instructions, []
        at, tested = 0, [0, 1]  # task->group_leader->bpf_storage, then `marked`
        while tested:
            way.append(code[at])
            taken = code[at].opcode in (JEQ_IMM, JNE_IMM) and (tested.pop(0) == 0) == (code[at].opcode == JEQ_IMM)
            at = code_after(program, at, jump=taken)
        assert [instruction.imm for instruction in way if instruction.opcode == CALL] == [158]  # get_current_task_btf
        assert len(way) == 9
        assert code[at].opcode == LDDW  # the counter


def code_after(program: Program, index: int, *, jump: bool) -> int:
    """The instruction that comes after another, by index."""
    if not jump:
        return index + 1
    slot = program.slot_of(index) + 1 + program.instructions[index].off
    return next(i for i in range(len(program.instructions)) if program.slot_of(i) == slot)


@pytest.mark.parametrize(
    ("program", "slot"),
    [
        (socket_connect(), 3),
        (file_open(), 1),
        (file_open("walk", typed_task=False), 1),
        (file_walker("d_path"), 1),
    ],
    ids=["socket_connect", "d_path", "walk", "walker"],
)
def test_the_only_exit_returns_the_verdict_as_it_came(program: Program, slot: int) -> None:
    code = program.instructions
    assert [i for i, instruction in enumerate(code) if instruction.opcode == EXIT] == [len(code) - 1]
    verdict = code[-2]
    assert (verdict.opcode, verdict.dst, verdict.src, verdict.off) == (LDX_DW, 0, 6, 8 * slot)
    # r6 is the context from the first instruction to the last.
    assert (code[0].opcode, code[0].dst, code[0].src) == (MOV_REGISTER, 6, 1)
    writers = [i for i in code[1:] if i.opcode & 7 in WRITE_A_REGISTER and i.dst == 6]
    assert writers == []
    # The jump to the exit cannot pass the verdict: nothing jumps to the last instruction itself.
    starts = [program.slot_of(i) for i in range(len(code))]
    targets = {
        starts[i] + 1 + instruction.off
        for i, instruction in enumerate(code)
        if instruction.opcode & 7 in JUMPS and instruction.opcode not in (EXIT, CALL)
    }
    assert starts[-1] not in targets


@pytest.mark.parametrize(
    "program",
    [syscalls.sys_enter(), syscalls.sys_exit(), family.sched_process_fork(), family.sched_process_exit(), pid_table(1)],
    ids=lambda program: str(program.name),
)
def test_programs_without_a_verdict_return_zero(program: Program) -> None:
    code = program.instructions
    for index, instruction in enumerate(code):
        if instruction.opcode == EXIT:
            before = code[index - 1]
            assert (before.opcode, before.dst, before.imm) == (MOV_IMM, 0, 0)


def test_the_same_program_each_time() -> None:
    assert file_open().instructions == file_open().instructions
    assert file_open().encode() == file_open().encode()


def test_hooks_and_maps() -> None:
    assert (socket_connect().section, file_open().section) == ("lsm/socket_connect", "lsm/file_open")
    assert {spec.name for spec in socket_connect().maps} == {
        "traced_processes",
        "pylsm_marks",
        "pylsm_set",
        "pylsm_ring",
        "pylsm_counts",
    }
    assert {spec.name for spec in file_open().maps} == {
        "traced_processes",
        "pylsm_marks",
        "pylsm_set",
        "pylsm_ring",
        "pylsm_counts",
        "pylsm_seen",
        "pylsm_walkers",
    }


FILTERS = ("mode", "path", "dst", "port")
ASKED = [
    Options(select=("uid", "cgroup", "cgroup/pids")),
    Options(select=("all",)),
    Options(select=("uid", "cgroup", "comm", "exe")),
    *(Options(filters=(name,)) for name in FILTERS),
    *(Options(filters=FILTERS, dedup=dedup, window_ms=1000) for dedup in ("off", "file", "window")),
]


@pytest.mark.parametrize("options", ASKED, ids=str)
def test_what_is_asked_for_observes_only(options: Options) -> None:
    """Whatever the options, each program is proved, on each source and for each variant."""
    verdicts = {"lsm/socket_connect": 3, "lsm/file_open": 1, "lsm/task_alloc": 2, "lsm/bprm_creds_for_exec": 1}
    for source in SOURCES:
        for variant in (*source.variants, *source.variants_of((7, 0))):
            for program in source.all(variant, options=options):
                verdict = verdicts.get(str(program.section))
                returns_unchanged(program, verdict, tail_calls=TAIL_CALLS)


def test_what_is_not_asked_for_emits_nothing() -> None:
    plain = {program.name: program.instructions for program in SOURCES[0].all(SOURCES[0].variants[0])}
    for options in ASKED:
        for program in SOURCES[0].all(SOURCES[0].variants[0], options=options):
            looks_at_opens = {"mode", "path"} & set(options.filters) or options.dedup != "file+mode"
            if program.name == "socket_connect":
                touched = bool({"dst", "port"} & set(options.filters) or options.by_event)
            elif program.name == "file_open":
                touched = bool(looks_at_opens or options.by_event)
            else:
                continue
            assert (program.instructions != plain[program.name]) == touched, options
