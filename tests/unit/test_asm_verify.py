"""`returns_unchanged`: what it proves, and what it refuses, one way to do more than observe at a time."""

from __future__ import annotations

import time

import pytest

from pylsm.asm import R0, R1, R2, R3, R6, R7, R10, Asm, MapSpec, MapType, Program, decode, u8, u32, u64
from pylsm.asm.instruction import Instruction
from pylsm.asm.proof import NotProved
from pylsm.asm.verify import returns_unchanged
from pylsm.audit.proof import TAIL_CALLS
from pylsm.audit.sources import SOURCES
from pylsm.btf import declare

HASH = MapSpec("hash", MapType.HASH, key=8, value=16, max_entries=4)
RING = MapSpec("ring", MapType.RINGBUF, max_entries=4096)
SOCKETS = MapSpec("sockets", MapType.SOCKHASH, key=8, value=4, max_entries=4)
VERDICTS = {"lsm/file_open": 1, "lsm/socket_connect": 3, "lsm/task_alloc": 2, "lsm/bprm_creds_for_exec": 1}
SHIPPED = [
    pytest.param(program, id=f"{source.name}-{variant.name}-{release[0]}-{program.name}")
    for source in SOURCES
    for release in ((6, 18), (7, 0))
    for variant in source.variants_of(release)
    for program in source.all(variant)
]


def hook(section: str = "lsm/file_open", *, cpu: str = "v4", types: object = None) -> Asm:
    return Asm(section, cpu=cpu, types=types)  # type: ignore[arg-type]


def refused(a: Asm, reason: str, verdict: int | None = 1) -> NotProved:
    with pytest.raises(NotProved, match=reason) as caught:
        returns_unchanged(a.build(), verdict)
    return caught.value


@pytest.mark.parametrize("program", SHIPPED)
def test_every_shipped_program_observes_only(program: Program) -> None:
    proof = returns_unchanged(program, VERDICTS.get(program.section), tail_calls=TAIL_CALLS)
    assert proof.exits and proof.paths >= len(proof.exits) and not proof.unreachable
    if program.section in VERDICTS:
        assert [end.returns for end in proof.exits] == [f"the verdict (argument {VERDICTS[program.section]})"]
    else:
        assert proof.why
    called = {i.imm for i in program.instructions if i.opcode == 0x85}
    assert len(proof.helpers) == len(called) and all(reason for _, _, reason in proof.helpers)
    assert {name for name, _ in proof.maps} == {spec.name for spec in program.maps}
    text = str(proof)
    assert "observe-only, proved" in text and proof.digest in text and str(proof.exits[0].line) in text


def test_the_start_of_an_audit_pays_a_few_milliseconds() -> None:
    """It took 0.8 ms here; ten times that, with room for a busy machine, means something is wrong."""
    programs = SOURCES[0].attached(SOURCES[0].variants[0])
    best = 1.0
    for _ in range(5):
        began = time.perf_counter()
        for program in programs:
            returns_unchanged(program, VERDICTS.get(program.section), tail_calls=TAIL_CALLS)
        best = min(best, time.perf_counter() - began)
    assert best < 0.060


@pytest.mark.parametrize("load", [u64, u32])
def test_the_verdict_may_travel(load: object) -> None:
    """Through moves, a spill, a copy of the context, a context pointer that was moved, both branches of a test."""
    a = hook()
    slot, other = a.stack(8), a.stack(8)
    a.mov(R6, R1)
    a.stx(u64[slot], R6)
    a.ldx(R7, u64[slot])
    a.add(R7, 4)
    a.add(R7, 4)
    a.ldx(R2, load[R7])  # type: ignore[index]
    a.mov(R3, R2)
    a.stx(u64[other], R3)
    a.call("get_current_pid_tgid")
    with a.if_(R0, "==", 7):
        a.ldx(R0, u64[R6 + 8])
        a.exit_()
    a.ldx(R0, u64[other])
    a.exit_()
    assert len(returns_unchanged(a.build(), 1).exits) == 2


def test_zero_is_the_verdict_where_the_verdict_is_zero() -> None:
    """What compilers make of ``if (ret) return ret; … return 0;``."""
    a = hook()
    out = a.label()
    a.ldx(R0, u64[R1 + 8])
    a.jne(R0, 0, out)
    a.call("get_current_pid_tgid")
    a.mov(R0, 0)
    a.bind(out)
    a.exit_()
    assert returns_unchanged(a.build(), 1).exits[0].returns == "the verdict (argument 1)"
    b = hook()
    b.ldx(R0, u64[R1 + 8])
    with b.if_(R0, "==", 1):
        b.mov(R0, 0)
        b.exit_()
    b.exit_()
    refused(b, "the number 0 where the program ends")


def test_a_loop_ends_in_the_analysis() -> None:
    a = hook()
    slot = a.stack(64)
    a.mov(R6, R1)
    a.mov(R7, R10)
    a.add(R7, -64)
    again = a.here()
    a.st(u64[slot], 0)
    a.call("get_prandom_u32")
    a.add(R7, 8)
    a.jne(R0, 3, again)
    a.ldx(R0, u64[R6 + 8])
    a.exit_()
    proof = returns_unchanged(a.build(), 1)
    assert proof.loops == 1 and proof.paths == 1


def test_a_store_somewhere_in_the_stack_may_have_hit_the_verdict() -> None:
    a = hook()
    slot = a.stack(64)
    a.ldx(R6, u64[R1 + 8])
    a.stx(u64[slot], R6)
    a.call("get_prandom_u32")
    a.and_(R0, 56)
    a.mov(R7, R10)
    a.add(R7, -64)
    a.add(R7, R0)
    a.st(u64[R7], 0)
    a.ldx(R0, u64[slot])
    a.exit_()
    error = refused(a, "something that was computed")
    assert error.index == 9 and error.line is not None and error.line.file == __file__


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda a: a.mov(R0, 0), "the number 0"),
        (lambda a: a.mov(R0, -1), "the number -1"),
        (lambda a: a.ldx(R0, u64[R6]), "number of the kernel"),
        (lambda a: a.ldx(R0, u64[R6 + 16]), "number of the kernel"),
        (lambda a: a.ldx(R0, u8[R6 + 8]), "number of the kernel"),
        (lambda a: a.or_(R0, 1), "computed"),
        (lambda a: a.neg(R0), "computed"),
        (lambda a: a.add(R0, 0), "computed"),
        (lambda a: (a.lsh(R0, 32), a.arsh(R0, 32)), "computed"),
        (lambda a: a.movsx(R0, R0, 32), "computed"),
        (lambda a: a.call("get_current_pid_tgid"), "computed"),
        (lambda a: a.mov(R0, R6), "the hook's context"),
        (lambda a: a.mov(R0, R10), "pointer to the stack"),
        (lambda a: a.be(R0, 64), "computed"),
    ],
)
def test_another_verdict_is_refused(spoil: object, reason: str) -> None:
    a = hook()
    a.mov(R6, R1)
    a.ldx(R0, u64[R6 + 8])
    spoil(a)  # type: ignore[operator]
    a.exit_()
    error = refused(a, reason)
    assert error.index == len(a.build().instructions) - 1 and str(error.line) in str(error)


def test_another_verdict_on_one_path_is_refused() -> None:
    a = hook()
    a.mov(R6, R1)
    a.call("get_current_pid_tgid")
    with a.if_(R0, "==", 1):
        a.mov(R0, -1)
        a.exit_()
    a.ldx(R0, u64[R6 + 8])
    a.exit_()
    assert refused(a, "the number -1").index == 4


NEXT = MapSpec("next", MapType.PROG_ARRAY, key=4, value=4, max_entries=1)


def tail_caller(context: int = 0) -> Asm:
    a = hook()
    a.mov(R6, R1)
    a.mov(R7, R6)
    if context:
        a.add(R7, context)
    a.call("tail_call", R7, NEXT, 0)
    a.ldx(R0, u64[R6 + 8])
    a.exit_()
    return a


def test_a_tail_call_goes_where_proved_programs_are() -> None:
    proof = returns_unchanged(tail_caller().build(), 1, tail_calls=["next"])
    assert ("next", "read") in proof.maps
    assert [row[0] for row in proof.helpers] == ["tail_call"]
    for context, allowed in ((0, []), (0, ["other"]), (8, ["next"])):
        with pytest.raises(NotProved, match="tail_call"):
            returns_unchanged(tail_caller(context).build(), 1, tail_calls=allowed)


def test_a_tail_call_from_a_function_is_refused() -> None:
    """What the program called returns is then the function's result, whatever the function itself would return."""
    a = hook()
    a.mov(R6, R1)
    a.call_function("onward", R1)
    a.ldx(R0, u64[R6 + 8])
    a.exit_()
    with a.function("onward", 1):
        a.call("tail_call", R1, NEXT, 0)
        a.mov(R0, 0)
        a.exit_()
    with pytest.raises(NotProved, match="returns to that function's caller"):
        returns_unchanged(a.build(), 1, tail_calls=["next"])


@pytest.mark.parametrize(
    "helper", ["send_signal", "override_return", "probe_write_user", "tail_call", "set_retval", "sys_bpf", "bind", 9999]
)
def test_helpers_with_effects_are_refused(helper: str | int) -> None:
    a = hook()
    a.mov(R6, R1)
    for register in (R2, R3):
        a.mov(register, 0)
    if isinstance(helper, str):
        a.call(helper)
    else:
        a.emit(0x85, imm=helper)
    a.ldx(R0, u64[R6 + 8])
    a.exit_()
    program = a._bodies[0].instructions  # the builder would refuse a helper called without its arguments
    with pytest.raises(NotProved, match="not among the calls") as caught:
        returns_unchanged(tuple(program), 1, section="lsm/file_open")
    assert caught.value.index == 3


def test_kfuncs_are_on_the_list_too() -> None:
    for name, fine in (("bpf_rcu_read_lock", True), ("bpf_throw", False), ("bpf_set_dentry_xattr", False)):
        a = hook()
        a.ldx(R6, u64[R1 + 8])
        a.kfunc(name)
        a.mov(R0, R6)
        a.exit_()
        if fine:
            assert returns_unchanged(a.build(), 1).helpers[0][0] == name
        else:
            refused(a, f"{name} is not among the calls")


def test_stores_through_kernel_pointers_are_refused() -> None:
    types = declare({"file": {"f_flags": "unsigned int"}})
    a = hook(types=types)
    a.mov(R6, R1)
    a.ldx(R2, u64[R1])
    a.st(u32[R2 + 64], 0)
    a.ldx(R0, u64[R6 + 8])
    a.exit_()
    assert refused(a, "stores through an address or number of the kernel's").index == 2
    for how in (lambda b: b.atomic_add(u64[R2], R3), lambda b: b.xchg(u64[R2], R3), lambda b: b.stx(u8[R2], R3)):
        b = hook()
        b.ldx(R2, u64[R1])
        b.mov(R3, 0)
        how(b)
        b.ldx(R0, u64[R1 + 8])
        b.exit_()
        refused(b, "stores through")


def test_the_context_is_not_written() -> None:
    a = hook()
    a.mov(R6, R1)
    a.st(u64[R6 + 8], 0)
    a.ldx(R0, u64[R6 + 8])
    a.exit_()
    assert refused(a, "through the hook's context").index == 1


def test_a_helper_writes_to_memory_of_the_program_only() -> None:
    a = hook()
    a.mov(R6, R1)
    a.ldx(R1, u64[R6])
    a.mov(R2, 8)
    a.mov(R3, 0)
    a.call("probe_read_kernel")
    a.ldx(R0, u64[R6 + 8])
    a.exit_()
    refused(a, "has probe_read_kernel write through an address or number of the kernel's")


def test_a_helper_may_overwrite_a_spilled_verdict() -> None:
    for size, fine in ((8, True), (9, False), (16, False)):
        a = hook()
        a.mov(R6, R1)
        a.ldx(R2, u64[R1 + 8])
        slot = u64[R10 - 16]
        buffer = R10 - 24
        a.stx(slot, R2)
        a.call("probe_read_kernel", buffer, size, R6)
        a.ldx(R0, slot)
        a.exit_()
        program = a.build()
        if fine:
            returns_unchanged(program, 1)
        else:
            with pytest.raises(NotProved, match="computed"):
                returns_unchanged(program, 1)


def test_map_values_and_records_are_the_programs_own() -> None:
    a = hook()
    key = a.stack(8)
    a.mov(R6, R1)
    a.st(u64[key], 1)
    a.call("map_lookup_elem", HASH, key)
    with a.if_(R0, "!=", 0):
        a.add(R0, 8)
        a.st(u64[R0], 5)
    a.call("ringbuf_reserve", RING, 8, 0)
    with a.if_(R0, "!=", 0):
        a.st(u64[R0], 5)
        a.call("ringbuf_submit", R0, 0)
    a.ldx(R0, u64[R6 + 8])
    a.exit_()
    proof = returns_unchanged(a.build(), 1)
    assert dict(proof.maps) == {"hash": "written", "ring": "written"}
    assert dict(proof.stores) == {"stack": 1, "value of hash": 1, "record of ring": 1}


def test_a_verdict_kept_in_a_map_is_not_the_verdict_any_more() -> None:
    """Another CPU may have written there meanwhile."""
    a = hook()
    key = a.stack(8)
    a.ldx(R6, u64[R1 + 8])
    a.st(u64[key], 1)
    a.call("map_lookup_elem", HASH, key)
    with a.if_(R0, "==", 0):
        a.mov(R0, R6)
        a.exit_()
    a.stx(u64[R0], R6)
    a.ldx(R0, u64[R0])
    a.exit_()
    refused(a, "computed")


def test_maps_that_are_more_than_memory_are_not_written() -> None:
    a = hook()
    key = a.stack(8)
    a.ldx(R6, u64[R1 + 8])
    a.st(u64[key], 1)
    a.call("map_update_elem", SOCKETS, key, key, 0)
    a.mov(R0, R6)
    a.exit_()
    refused(a, "'sockets' is no plain memory")


def test_functions_are_walked_with_their_callers_state() -> None:
    def program(spoil: bool) -> Asm:
        a = hook()
        slot = a.stack(8)
        a.ldx(R6, u64[R1 + 8])
        a.stx(u64[slot], R6)
        a.address(R1, slot)
        a.call_function("look", None)
        a.ldx(R0, u64[slot])
        a.exit_()
        with a.function("look", 1):
            if spoil:
                a.st(u64[R1], 0)
            a.ldx(R0, u64[R1])
            a.exit_()
        return a

    assert returns_unchanged(program(False).build(), 1).exits
    refused(program(True), "computed")


def test_callbacks_are_walked_until_nothing_changes() -> None:
    def program(spoil: bool) -> Asm:
        a = hook()
        slot = a.stack(8)
        a.ldx(R6, u64[R1 + 8])
        a.stx(u64[slot], R6)
        a.call("loop", 10, "each", slot, 0)
        a.ldx(R0, u64[slot])
        a.exit_()
        with a.function("each", 2):
            if spoil:
                a.st(u8[R2 + 1], 0)
            a.mov(R0, 0)
            a.exit_()
        return a

    assert [row[0] for row in returns_unchanged(program(False).build(), 1).helpers] == ["loop"]
    refused(program(True), "computed")


def test_recursion_is_bounded() -> None:
    a = hook()
    a.call_function("self")
    a.exit_()
    with a.function("self", 0):
        a.call_function("self")
        a.exit_()
    refused(a, "nest deeper")


def test_kinds_of_program() -> None:
    a = hook("raw_tp/sys_enter")
    a.mov(R0, 1)
    a.exit_()
    program = a.build()
    assert "ignores" in returns_unchanged(program, None).why
    with pytest.raises(NotProved, match="is given no verdict"):
        returns_unchanged(program, 1)
    for section in ("xdp", "socket", "cgroup/connect4", "lsm_cgroup/socket_bind", "nonsense/x", ""):
        with pytest.raises(NotProved, match="decision of its own"):
            returns_unchanged(program._replace(section=section), None)
    for section in ("lsm/bprm_committed_creds", "lsm.s/bprm_committed_creds"):
        assert returns_unchanged(program._replace(section=section), None).why == "the hook returns nothing"


def test_bytes_are_proved_as_well_as_programs() -> None:
    a = hook()
    a.ldx(R0, u64[R1 + 8])
    a.exit_()
    code = tuple(decode(a.build().encode()))
    assert returns_unchanged(code, 1, section="lsm/file_open").exits[0].at == 1
    with pytest.raises(NotProved, match="argument 0"):
        returns_unchanged(code, 0, section="lsm/file_open")
    with pytest.raises(NotProved, match="map 7 is none of the program's"):
        returns_unchanged((Instruction(0x18, 1, 1, 0, 7), *code), 1, section="lsm/file_open")


@pytest.mark.parametrize(
    ("instruction", "reason"),
    [
        (Instruction(0x05, off=5), "where no instruction begins"),
        (Instruction(0x30, imm=0), "legacy packet load"),
        (Instruction(0xB7, 10, imm=0), "frame pointer"),
        (Instruction(0x79, 10, 1), "frame pointer"),
        (Instruction(0x0D, 1), "not understood"),
        (Instruction(0x8D, 1), "address in a register"),
        (Instruction(0x86), "not understood"),
        (Instruction(0xC2, 0), "not understood"),
        (Instruction(0x18, 1, 9), "not understood"),
        (Instruction(0x7A, 10, off=-520), "outside of the stack"),
        (Instruction(0x7A, 10, off=0), "outside of the stack"),
        (Instruction(0x85, src=1, imm=77), "function that is not found"),
        (Instruction(0x85, src=2, imm=77), "BTF id 77"),
    ],
)
def test_what_is_not_understood_is_refused(instruction: Instruction, reason: str) -> None:
    code = (instruction, Instruction(0x79, 0, 1, 8), Instruction(0x95))
    with pytest.raises(NotProved, match=reason):
        returns_unchanged(code, 1, section="lsm/file_open")


def test_control_must_not_run_off() -> None:
    with pytest.raises(NotProved, match="runs off the end"):
        returns_unchanged((Instruction(0x79, 0, 1, 8),), 1, section="lsm/file_open")
    with pytest.raises(NotProved, match="no instructions"):
        returns_unchanged((), 1, section="lsm/file_open")
