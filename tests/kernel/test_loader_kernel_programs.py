"""Programs, links and objects on the running kernel."""

from __future__ import annotations

import errno
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from pylsm.asm import R0, R1, R2, R6, R10, Asm, Function, Instruction, MapSpec, MapType, Program, u32, u64
from pylsm.asm import opcodes as op
from pylsm.asm.references import MapRef, MapValueRef
from pylsm.btf import Btf
from pylsm.loader import (
    BpfError,
    LoadedProgram,
    Map,
    MapMismatchError,
    Object,
    PinError,
    ResolveError,
    SpecError,
    VerifierError,
    features,
    progbtf,
)
from pylsm.loader import program as module
from pylsm.loader.bpf import kernel_release
from pylsm.loader.program import enable_run_time_stats

pytestmark = pytest.mark.root
IN_VM = "PYLSM_VM" in os.environ

HITS = MapSpec("hits", MapType.ARRAY, key=4, value=8, max_entries=1)


def returning(number: int, section: str = "socket", name: str = "tiny") -> Program:
    a = Asm(section, name=name)
    a.mov(R0, number)
    a.exit_()
    return a.build()


def counting(section: str, name: str = "counting") -> Program:
    """Adds one to the only element of HITS."""
    a = Asm(section, name=name)
    a.ld_map_value(R2, HITS)
    a.mov(R1, 1)
    a.atomic_add(u64[R2], R1)
    a.mov(R0, 0)
    a.exit_()
    return a.build()


def refused(section: str = "socket") -> Program:
    return Program(
        "refused",
        section,
        (Instruction(op.ALU64 | op.MOV | op.X, 0, 3), Instruction(op.JMP | op.EXIT)),
        (Function("refused", 0, 1),),
    )


def hits(map: Map) -> int:
    return int(struct.unpack("=Q", map.lookup(bytes(4)))[0])


def descriptors() -> dict[str, str]:
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            found[fd] = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue  # the descriptor of the listing itself
    return found


@pytest.fixture(autouse=True)
def _nothing_stays_open() -> Iterator[None]:
    Btf.kernel()  # stays mapped as long as the process lives
    before = descriptors()
    yield
    left = {fd: target for fd, target in descriptors().items() if fd not in before}
    assert left == {}


# --- loading and running ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("section", ["socket", "tc", "xdp", "cgroup_skb/egress", "syscall"])
def test_what_a_program_returns(section: str) -> None:
    if not features.program(section).supported:
        pytest.skip(f"this kernel has no {section} programs")
    with LoadedProgram.load(returning(1, section)) as program:
        assert program.test_run().retval == 1
        assert program.btf_refusal == ""


def test_64_bit_results_come_back_in_the_context_of_a_syscall_program() -> None:
    if not features.program("syscall").supported:
        pytest.skip("this kernel has no syscall programs")
    a = Asm("syscall", name="sum")
    a.ldx(R2, u64[R1])
    a.ldx(R6, u64[R1 + 8])
    a.mul(R2, R6)
    a.stx(u64[R1 + 16], R2)
    a.mov(R0, 0)
    a.exit_()
    with LoadedProgram.load(a.build()) as program:
        run = program.test_run(ctx=struct.pack("=QQQ", 1 << 40, 3, 0))
    assert struct.unpack("=QQQ", run.ctx_out) == (1 << 40, 3, 3 << 40)


def test_packets_and_their_context() -> None:
    a = Asm("xdp", name="cut")
    a.mov(R2, 4)
    a.call("xdp_adjust_head", None, None)
    a.mov(R0, 2)
    a.exit_()
    packet = bytes(range(64))
    with LoadedProgram.load(a.build()) as program:
        run = program.test_run(packet)
        assert len(program.test_run().data_out) == 14, "an Ethernet header of zeros, which cannot be cut"
        assert 0 < program.test_run(packet, repeat=100).duration_ns < 100_000
    assert run.retval == 2
    assert run.data_out == packet[4:]

    a = Asm("tc", name="mark")
    a.mov(R2, 77)
    a.stx(u32[R1 + 8], R2)  # __sk_buff.mark
    a.mov(R0, 0)
    a.exit_()
    with LoadedProgram.load(a.build()) as program:
        run = program.test_run(packet, ctx=bytes(192))
    assert struct.unpack_from("=I", run.ctx_out, 8) == (77,)
    assert run.data_out == packet


def test_types_that_cannot_be_run_say_so() -> None:
    with LoadedProgram.load(returning(0, "kprobe/do_exit")) as program, pytest.raises(BpfError) as caught:
        program.test_run()
    assert caught.value.errno == 524
    assert "ENOTSUPP" in str(caught.value)


def test_raw_tracepoint_arguments() -> None:
    a = Asm("raw_tp/sys_enter", name="arguments")
    a.ldx(R2, u64[R1 + 8])
    a.ld_map_value(R1, HITS)
    a.stx(u64[R1], R2)
    a.mov(R0, 5)
    a.exit_()
    with Object([a.build()]) as made:
        assert made.programs["arguments"].test_run(ctx=struct.pack("=QQ", 1, 1234)).retval == 5
        assert hits(made.maps["hits"]) == 1234


def test_info_and_code() -> None:
    with Object([counting("socket")]) as made:
        program = made.programs["counting"]
        info = program.info
        assert (info.name, info.type, info.uid, info.gpl_compatible) == ("counting", 1, os.geteuid(), True)
        assert info.map_ids == (made.maps["hits"].info.id,)
        assert info.verified_insns == (5 if kernel_release() >= (5, 16) else 0)
        assert len(info.tag) == 16
        assert len(program.xlated()) == info.xlated_len >= 6 * 8
        assert program.xlated()[-8:] == bytes([0x95, 0, 0, 0, 0, 0, 0, 0])
        assert len(program.jited()) == info.jited_len > 0
        with LoadedProgram.from_id(info.id) as again:
            assert again.info.tag == info.tag
            assert again.name == "counting"
            with pytest.raises(SpecError, match="does not say where it attaches"):
                again.attach()


def test_run_time_statistics() -> None:
    with LoadedProgram.load(returning(0, "raw_tp/sys_enter")) as program:
        before = program.info.run_cnt
        with enable_run_time_stats(), program.attach():
            for _ in range(100):
                os.getppid()
        info = program.info
        assert info.run_cnt - before >= 100
        assert info.run_time_ns > 0


def test_the_log_on_request() -> None:
    with LoadedProgram.load(returning(7), log_level=2) as program:
        assert "r0 = 7" in program.log


def test_a_log_of_megabytes() -> None:
    """30,000 instructions, every state printed: more than the first two buffers hold."""
    a = Asm("socket", name="long")
    for number in range(30_000):
        a.mov(R0, number)
    a.exit_()
    with LoadedProgram.load(a.build(), log_level=2, source_lines=False) as program:
        assert len(program.log) > 1 << 20
        assert "processed 30001 insns" in program.log


# --- refusals -----------------------------------------------------------------------------------------------------


def test_the_verifiers_word_comes_with_the_python_line() -> None:
    a = Asm("raw_tp/sys_enter", name="forgotten")
    lookup = MapSpec("lookup", MapType.HASH, key=4, value=8, max_entries=1)
    a.st(u32[R10 - 4], 0)
    a.mov(R2, R10)
    a.add(R2, -4)
    a.ld_map(R1, lookup)
    a.call("map_lookup_elem", None, None)
    a.ldx(R1, u64[R0])  # no check for null
    a.mov(R0, 0)
    a.exit_()
    with pytest.raises(VerifierError) as caught:
        Object([a.build()])
    error = caught.value
    assert error.errno == errno.EACCES
    assert error.reason == "R0 invalid mem access 'map_value_or_null'"
    assert error.line is not None and error.line.file == __file__
    if kernel_release() >= (5, 18):  # before, states are printed only behind jumps
        assert error.registers["R0"].startswith("map_value_or_null(")
    lines = str(error).splitlines()
    assert lines[0].endswith(f"at {__file__}:{error.line.line}")
    assert lines[1:4] == ["    a.ldx(R1, u64[R0])  # no check for null", "    ^", error.reason]
    assert "a.ldx(R1, u64[R0])  # no check for null" in error.log, "the kernel quotes the Python line"
    assert "compare the pointer with 0" in error.hint or "NULL check" in error.hint


@pytest.mark.skipif(IN_VM, reason="a million instructions take a minute in an emulated machine")
def test_a_program_that_takes_the_verifier_too_far() -> None:
    a = Asm("socket", name="explode")
    a.ldx(R2, u32[R1])
    a.mov(R6, 0)
    for bit in range(24):
        with a.if_(R2, "&", 1 << bit):
            a.add(R6, 1 << bit)
    with a.if_(R6, ">", 0):
        a.mov(R0, 0)
    a.mov(R0, 0)
    a.exit_()
    with pytest.raises(VerifierError) as caught:
        Object([a.build()])
    assert caught.value.errno == errno.E2BIG
    assert caught.value.reason == "BPF program is too large. Processed 1000001 insn"
    assert caught.value.instruction is not None
    assert "bpf_loop" in caught.value.hint


def test_refusals_of_the_whole_program() -> None:
    made = returning(0)
    with pytest.raises(VerifierError) as caught:
        LoadedProgram.load(made._replace(instructions=made.instructions * 2))
    assert caught.value.reason == "unreachable insn 2"
    assert caught.value.instruction == 2


def test_a_hook_that_is_not_there() -> None:
    with pytest.raises(ResolveError) as caught:
        LoadedProgram.load(returning(0, "fentry/security_file_opn"))
    assert "has no function 'security_file_opn' to attach to" in str(caught.value)
    assert os.uname().release in str(caught.value)
    assert "security_file_open" in caught.value.hint


def test_a_map_that_is_not_given() -> None:
    with pytest.raises(ResolveError, match="map 'hits' is not given"):
        LoadedProgram.load(counting("socket"))


def test_a_tracepoint_that_is_not_there() -> None:
    with LoadedProgram.load(returning(0, "raw_tp/sched_proces_exit")) as program, pytest.raises(BpfError) as caught:
        program.attach()
    assert caught.value.errno == errno.ENOENT
    said = f"kernel {os.uname().release} has no tracepoint of that name; nearest: sched_process_exit"
    assert caught.value.hint.startswith(said)


# --- links --------------------------------------------------------------------------------------------------------


def test_a_raw_tracepoint_fires_until_its_link_is_closed() -> None:
    with Object([counting("raw_tp/sys_enter")]) as made:
        map = made.maps["hits"]
        os.getppid()
        assert hits(map) == 0
        made.attach()
        assert made.links["counting"].info.program_id == made.programs["counting"].info.id
        os.getppid()
        after = hits(map)
        assert after > 0
        made.links["counting"].close()
        settled = hits(map)
        for _ in range(50):
            os.getppid()
        assert hits(map) == settled


def threads() -> int:
    return len(os.listdir("/proc/self/task"))


def test_what_is_begun_is_attached_when_the_kernel_has_answered() -> None:
    before = threads()
    with Object([counting("raw_tp/sys_enter", "one"), counting("raw_tp/sys_enter", "two")]) as made:
        made.begin("one")
        made.attach()
        assert list(made.links) == ["two"], "it is not attached twice"
        made.finish()
        assert not made.begun and set(made.links) == {"one", "two"}
        assert made.links["one"].info.program_id == made.programs["one"].info.id
        assert threads() == before, "what a thread may do is not left behind"
        made.links["two"].close()
        settled = hits(made.maps["hits"])
        os.getppid()
        assert hits(made.maps["hits"]) > settled


def test_what_the_kernel_refuses_is_raised_where_it_is_waited_for() -> None:
    with Object([counting("raw_tp/no_such", "one"), counting("raw_tp/nor_this", "two")]) as made:
        made.begin("one")
        made.begin("two")
        with pytest.raises(BpfError, match="cannot attach program 'one'"):
            made.finish()
        assert not made.links  # and closing it says nothing of the other


def test_closing_leaves_nothing_of_what_was_begun() -> None:
    before = set(os.listdir("/proc/self/fd"))
    with Object([counting("raw_tp/sys_enter")]) as made:
        made.begin("counting")
    assert set(os.listdir("/proc/self/fd")) == before


def test_without_a_thread_it_is_attached_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("pylsm.loader.object.start_new_thread", refuse)
    with Object([counting("raw_tp/sys_enter")]) as made:
        made.begin("counting")
        assert not made.begun and list(made.links) == ["counting"]


def test_a_socket_filter_decides_what_the_socket_gets() -> None:
    receiver, sender = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with receiver, sender, LoadedProgram.load(returning(3)) as cut:
        link = cut.attach(socket=receiver)
        sender.send(b"abcdef")
        assert receiver.recv(100) == b"abc"
        link.close()
        sender.send(b"abcdef")
        assert receiver.recv(100) == b"abcdef"
        with pytest.raises(SpecError, match="give socket="):
            cut.attach()
        link = cut.attach(socket=receiver)
        receiver.close()
        link.close()  # the filter went with the socket


def test_an_iterator_is_read() -> None:
    if not features.attach("iter").supported:
        pytest.skip("this kernel takes no iterator programs")
    a = Asm("iter/task", name="tasks")
    a.ldx(R2, u64[R1 + 8])  # ctx->task, null at the end
    a.mov(R6, R1)
    with a.if_(R2, "!=", 0):
        a.ldx(R1, u64[R6])  # ctx->meta
        a.ldx(R1, u64[R1])  # meta->seq
        a.st(u32[R10 - 4], 0x0A2E2E2E)
        a.mov(R2, R10)
        a.add(R2, -4)
        a.call("seq_write", None, None, 4)
    a.mov(R0, 0)
    a.exit_()
    with LoadedProgram.load(a.build()) as program:
        with program.attach() as link:
            text = link.read()
            again = link.read()
        if kernel_release() >= (6, 1):
            with program.attach(tid=os.getpid()) as link:
                assert link.read() == b"...\n"
        else:
            with pytest.raises(BpfError, match="cannot be restricted"):
                program.attach(tid=os.getpid())
    assert set(text.split(b"\n")) == {b"...", b""}
    assert text.count(b"\n") > 5
    assert again.count(b"\n") > 5, "each reading runs it anew"


def test_typed_tracepoints() -> None:
    if not features.attach("tp_btf").supported:
        pytest.skip("this kernel takes no typed tracepoints")
    with Object([counting("tp_btf/sched_process_fork")]) as made:
        made.attach()
        subprocess.run([sys.executable, "-I", "-S", "-c", ""], check=True)
        assert hits(made.maps["hits"]) >= 1


def test_a_kprobe_where_the_kernel_has_no_kprobes() -> None:
    if os.path.exists("/sys/bus/event_source/devices/kprobe"):
        pytest.skip("this kernel has them: tests/vm")
    with LoadedProgram.load(returning(0, "kprobe/do_exit")) as program, pytest.raises(BpfError) as caught:
        program.attach()
    assert f"kernel {os.uname().release} has no kprobe PMU" in str(caught.value)
    assert "nearest: raw tracepoints (--backend raw_tracepoint)" in caught.value.hint


# --- objects ------------------------------------------------------------------------------------------------------


def test_programs_share_the_maps_they_name() -> None:
    with Object([counting("socket", "one"), counting("tc", "two")]) as made:
        assert list(made.maps) == ["hits"]
        made.programs["one"].test_run(repeat=3)
        made.programs["two"].test_run(repeat=4)
        assert hits(made.maps["hits"]) == 7


def test_sizes_can_be_set_and_maps_added() -> None:
    spec = MapSpec("events", MapType.RINGBUF, max_entries=65536)
    used = MapSpec("table", MapType.HASH, key=4, value=8, max_entries=1)
    made_for = Program(
        "p",
        "socket",
        (
            Instruction(op.LDDW, 1, reference=MapRef("table")),
            Instruction(op.ALU64 | op.MOV | op.K, 0),
            Instruction(op.JMP | op.EXIT),
        ),
        (Function("p", 0, 1),),
        (used,),
    )
    with Object([made_for], maps=[used.resized(5), spec]) as made:
        assert made.maps["table"].info.max_entries == 5
        assert made.maps["events"].info.max_entries == 65536


def test_reused_maps_stay_their_owners() -> None:
    with Map.create(HITS) as ours:
        for given in (ours, ours.fileno()):
            before = hits(ours)
            with Object([counting("socket")], reuse={"hits": given}) as made:
                made.programs["counting"].test_run(repeat=2)
            assert hits(ours) == before + 2
        with Map.create(MapSpec("hits", MapType.ARRAY, key=4, value=16, max_entries=1)) as other:
            with pytest.raises(MapMismatchError, match="an array with 16-byte values; hits needs 8-byte values"):
                Object([counting("socket")], reuse={"hits": other})
            assert other.lookup(bytes(4)) == bytes(16), "refused, and still its owner's"


def _break_attach(monkeypatch: pytest.MonkeyPatch) -> list[Program]:
    return [counting("raw_tp/sys_enter", "first"), counting("raw_tp/no_such_thing", "second")]


def _break_load(monkeypatch: pytest.MonkeyPatch) -> list[Program]:
    return [counting("raw_tp/sys_enter", "first"), refused()]


def _break_resolve(monkeypatch: pytest.MonkeyPatch) -> list[Program]:
    return [counting("raw_tp/sys_enter", "first"), returning(0, "fentry/no_such_function", "second")]


def _break_map(monkeypatch: pytest.MonkeyPatch) -> list[Program]:
    bad = MapSpec("bad", MapType.RINGBUF, max_entries=12345)
    other = Program(
        "second",
        "socket",
        (Instruction(op.LDDW, 1, reference=MapRef("bad")), Instruction(op.JMP | op.EXIT)),
        (Function("second", 0, 1),),
        (bad,),
    )
    return [counting("raw_tp/sys_enter", "first"), other]


def _break_memory(monkeypatch: pytest.MonkeyPatch) -> list[Program]:
    """The kernel runs out of memory at the second program."""
    real, calls = module.bpf_errno, []

    def failing(cmd: object, attr: object) -> int:
        calls.append(cmd)
        return -errno.ENOMEM if len(calls) > 1 else real(cmd, attr)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "bpf_errno", failing)
    return [counting("raw_tp/sys_enter", "first"), counting("socket", "second")]


@pytest.mark.parametrize(
    ("broken", "error"),
    [
        (_break_attach, BpfError),
        (_break_load, VerifierError),
        (_break_resolve, ResolveError),
        (_break_map, SpecError),
        (_break_memory, BpfError),
    ],
)
def test_a_failure_half_way_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
    broken: Callable[[pytest.MonkeyPatch], list[Program]],
    error: type[Exception],
) -> None:
    programs = broken(monkeypatch)
    before = descriptors()
    with pytest.raises(error), Object(programs) as made:
        made.attach()
    assert {target for fd, target in descriptors().items() if fd not in before} == set()


def test_an_attach_that_fails_takes_off_what_it_attached() -> None:
    with Object([counting("raw_tp/sys_enter", "first"), counting("raw_tp/no_such_thing", "second")]) as made:
        with pytest.raises(BpfError):
            made.attach()
        assert made.links == {}
        settled = hits(made.maps["hits"])
        for _ in range(20):
            os.getppid()
        assert hits(made.maps["hits"]) == settled
        made.attach("first")
        assert list(made.links) == ["first"]
        with pytest.raises(SpecError, match="there is no program 'third'"):
            made.attach("third")
        with pytest.raises(SpecError, match="no attach option 'x'"):
            made.attach("second", second={"x": 1})


def test_one_close_that_fails_does_not_keep_the_rest_open() -> None:
    made = Object([counting("raw_tp/sys_enter")])
    made.attach()
    link = made.links["counting"]
    taken = link.fileno()
    os.close(taken)  # somebody closed it behind our back
    with pytest.raises(OSError, match="Bad file descriptor"):
        made.close()


def test_few_descriptors_are_a_sentence_and_not_a_leak() -> None:
    """ulimit -n 16, as the whole process sees it."""
    code = """
import resource, sys
sys.path.insert(0, sys.argv[1])
from pylsm.asm import Asm, MapSpec, MapType, R0, R1
from pylsm.loader import Object, BpfError
from pylsm.btf import Btf, BtfWriter
specs = [MapSpec(f"map{n}", MapType.ARRAY, key=4, value=8, max_entries=1) for n in range(20)]
resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))
import os
before = len(os.listdir("/proc/self/fd"))
try:
    Object([], maps=specs)
except BpfError as error:
    print(error, "|", error.hint, "|", len(os.listdir("/proc/self/fd")) - before)
"""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    shown = subprocess.run([sys.executable, "-c", code, root], capture_output=True, text=True, check=True).stdout
    assert "EMFILE (Too many open files)" in shown
    assert "raise `ulimit -n` | 0" in shown


# --- what others see ----------------------------------------------------------------------------------------------


def test_bpftool_shows_python_lines() -> None:
    with Object([counting("raw_tp/sys_enter")]) as made:
        assert made.programs["counting"].btf_refusal == ""
        id = str(made.programs["counting"].info.id)
        shown = subprocess.run(
            ["bpftool", "prog", "dump", "xlated", "id", id, "linum"], capture_output=True, text=True, check=True
        ).stdout
    assert "int counting(" in shown
    assert "; a.atomic_add(u64[R2], R1)" in shown
    assert f"[file:{__file__.removeprefix(progbtf._ABOVE)} line_num:" in shown


def test_offsets_into_a_value() -> None:
    spec = MapSpec("config", MapType.ARRAY, key=4, value=16, max_entries=1)
    made = Program(
        "second_half",
        "socket",
        (
            Instruction(op.LDDW, 1, reference=MapValueRef("config", 8)),
            Instruction(op.LDX | op.MEM | op.DW, 0, 1),
            Instruction(op.JMP | op.EXIT),
        ),
        (Function("second_half", 0, 1),),
        (spec,),
    )
    with Object([made]) as object:
        object.maps["config"].update(bytes(4), struct.pack("=QQ", 1, 99))
        assert object.programs["second_half"].test_run().retval == 99


def test_functions_and_callbacks() -> None:
    if not features.helper("loop", "socket").supported:
        pytest.skip("this kernel has no bpf_loop")
    a = Asm("socket", name="callback")
    a.st(u64[R10 - 8], 0)
    a.mov(R2, R10)
    a.add(R2, -8)
    a.mov(R6, R2)
    a.call("loop", 10, "step", R6, 0)
    a.ldx(R0, u64[R10 - 8])
    a.exit_()
    with a.function("step", 2):
        a.ldx(R0, u64[R2])
        a.add(R0, R1)
        a.stx(u64[R2], R0)
        a.mov(R0, 0)
        a.exit_()
    with LoadedProgram.load(a.build()) as program:
        assert program.btf_refusal == ""
        assert program.test_run().retval == sum(range(10))


def test_pinned_programs_and_missing_ones() -> None:
    with pytest.raises(PinError, match="/nowhere/x does not exist: no program is pinned there"):
        LoadedProgram.open_pinned("/nowhere/x")
