"""Programs that only a kernel with BPF LSM, trampolines and kprobes takes: attached, fired, taken off."""

from __future__ import annotations

import os
import resource
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cases.lab import TRAMPOLINES

from pylsm.asm import R0, R1, R2, R6, Asm, MapSpec, MapType, Program, u64
from pylsm.asm.references import FieldRef
from pylsm.btf import Btf
from pylsm.loader import BpfError, Link, LoadedProgram, Map, Object, ResolveError, VerifierError, features, progbtf
from pylsm.loader.bpf import kernel_release

pytestmark = pytest.mark.vm

HITS = MapSpec("hits", MapType.ARRAY, key=4, value=8, max_entries=1)
BPF_LSM = "bpf" in Path("/sys/kernel/security/lsm").read_text().strip().split(",")


def counting(section: str, verdict_slot: int | None = None) -> Program:
    """Adds one to the only element of HITS; an LSM program returns the verdict it was given."""
    a = Asm(section, name="counting")
    a.mov(R6, R1)
    a.ld_map_value(R2, HITS)
    a.mov(R1, 1)
    a.atomic_add(u64[R2], R1)
    if verdict_slot is None:
        a.mov(R0, 0)
    else:
        a.ldx(R0, u64[R6 + 8 * verdict_slot])
    a.exit_()
    return a.build()


def hits(map: Map) -> int:
    return int(struct.unpack("=Q", map.lookup(bytes(4)))[0])


def open_a_file() -> None:
    with open("/etc/passwd"):
        pass


def start_a_process() -> None:
    subprocess.run([sys.executable, "-I", "-S", "-c", ""], check=True)


@pytest.mark.parametrize(
    ("section", "slot", "trigger"),
    [
        ("lsm/file_open", 1, open_a_file),
        ("lsm.s/file_open", 1, open_a_file),
        ("fentry/security_file_open", None, open_a_file),
        ("fexit/security_file_open", None, open_a_file),
        ("tp_btf/sched_process_fork", None, start_a_process),
        ("raw_tp/sched_process_fork", None, start_a_process),
        ("kprobe/security_file_open", None, open_a_file),
        ("kprobe/security_file_open+0", None, open_a_file),
        ("kretprobe/security_file_open", None, open_a_file),
        ("tracepoint/sched/sched_process_fork", None, start_a_process),
    ],
)
def test_fires_while_its_link_is_open(section: str, slot: int | None, trigger: Callable[[], None]) -> None:
    if section.startswith("lsm") and not BPF_LSM:
        pytest.skip("bpf is not among the active LSMs")
    if section == "lsm.s/file_open" and kernel_release() < (6, 0):
        with pytest.raises(VerifierError, match="bpf_lsm_file_open is not sleepable"):
            Object([counting(section, slot)])
        return
    if section.startswith(("lsm", "fentry", "fexit")) and not TRAMPOLINES:
        with Object([counting(section, slot)]) as made, pytest.raises(BpfError, match="ENOTSUPP") as caught:
            made.attach()
        assert "arm64 before 6.4" in caught.value.hint and os.uname().release in caught.value.hint
        return
    before = len(os.listdir("/proc/self/fd"))
    with Object([counting(section, slot)]) as made:
        map = made.maps["hits"]
        assert made.programs["counting"].btf_refusal == ""
        trigger()
        assert hits(map) == 0
        made.attach()
        trigger()
        fired = hits(map)
        assert fired >= 1
        made.links["counting"].close()
        settled = hits(map)
        trigger()
        assert hits(map) == settled
    Btf.kernel()
    assert len(os.listdir("/proc/self/fd")) <= before + 1, "no more than the kernel's types stays open"


@pytest.mark.skipif(not TRAMPOLINES, reason="this kernel calls no fentry programs")
def test_a_program_runs_before_the_kernel_has_answered() -> None:
    """Why who sees it at work need not wait for the answer: until Linux 6.8 that of the first takes 20 ms and more."""

    def seen_first() -> bool:
        with Object([counting("fentry/security_file_open")]) as made:
            made.begin("counting")
            answered, deadline = False, time.monotonic() + 10
            while not hits(made.maps["hits"]) and time.monotonic() < deadline:
                answered = not made.begun
                open_a_file()
            assert hits(made.maps["hits"]) and not made.links
            made.finish()
            assert made.links["counting"].info.program_id == made.programs["counting"].info.id
        return not answered

    # A host that is busy may stop the machine between the two.
    assert any(seen_first() for _ in range(5)) or kernel_release() >= (6, 9)


def test_without_bpf_among_the_lsms_programs_attach_and_never_run() -> None:
    """The reason for the self-test of the audit; run with tools/vm --lsm landlock."""
    if BPF_LSM:
        pytest.skip("bpf is among the active LSMs")
    with Object([counting("lsm/file_open", 1)]) as made:
        made.attach()
        open_a_file()
        assert hits(made.maps["hits"]) == 0


@pytest.mark.skipif(not TRAMPOLINES, reason="this kernel calls no fentry programs")
def test_typed_loads_follow_this_kernels_offsets() -> None:
    """file->f_inode->i_ino, offsets and widths from the running kernel, against stat(2)."""
    values = MapSpec("values", MapType.ARRAY, key=4, value=16, max_entries=1)
    a = Asm("fentry/security_file_open", name="inode", types=Btf.kernel())
    a.ldx(R6, u64[R1])
    file = a.typed(R6, "file")
    a.load(R2, file.f_inode.i_ino)
    a.ld_map_value(R1, values)
    a.stx(u64[R1], R2)
    a.mov(R0, 0)
    a.exit_()
    with Object([a.build()]) as made:
        made.attach()
        with open("/etc/passwd") as opened:
            value = made.maps["values"].lookup(bytes(4))
            expected = os.fstat(opened.fileno()).st_ino
    assert struct.unpack_from("=Q", value)[0] == expected


def test_a_hook_that_is_not_there_names_hook_and_kernel() -> None:
    with pytest.raises(ResolveError) as caught:
        Object([counting("lsm/file_opn", 1)])
    assert f"kernel {os.uname().release} has no LSM hook 'file_opn' to attach to" in str(caught.value)
    assert "file_open" in caught.value.hint


@pytest.mark.skipif(not TRAMPOLINES, reason="a kprobe cannot be pinned")
def test_a_pinned_link_stays_attached_until_its_pin_is_removed() -> None:
    pin = Path("/sys/fs/bpf/pylsm_test_link")
    section, slot = ("lsm/file_open", 1) if BPF_LSM else ("fentry/security_file_open", None)
    with Object([counting(section, slot)]) as made:
        made.attach()
        made.links["counting"].pin(pin)
        made.links["counting"].close()
        before = hits(made.maps["hits"])
        open_a_file()
        assert hits(made.maps["hits"]) > before
        with Link.open_pinned(pin) as again:
            assert again.info.program_id == made.programs["counting"].info.id
        pin.unlink()
        deadline = time.monotonic() + 10
        while True:  # the kernel takes its time to free what was pinned
            before = hits(made.maps["hits"])
            open_a_file()
            if hits(made.maps["hits"]) == before:
                break
            assert time.monotonic() < deadline, "still attached"
            time.sleep(0.05)


def test_a_task_iterator_sees_every_task() -> None:
    a = Asm("iter/task", name="tasks", types=Btf.kernel())
    a.mov(R6, R1)
    a.ldx(R2, u64[R6 + 8])
    with a.if_(R2, "!=", 0):
        a.ld_map_value(R2, HITS)
        a.mov(R1, 1)
        a.atomic_add(u64[R2], R1)
    a.mov(R0, 0)
    a.exit_()
    with Object([a.build()]) as made:
        made.attach()
        assert made.links["tasks"].read() == b""
        tasks = sum(len(os.listdir(f"/proc/{pid}/task")) for pid in os.listdir("/proc") if pid.isdigit())
        assert abs(hits(made.maps["hits"]) - tasks) <= 5


def test_cookies_where_the_kernel_has_them() -> None:
    if not features.helper("get_attach_cookie", "kprobe").supported:
        pytest.skip("this kernel has no attach cookies")
    a = Asm("kprobe/security_file_open", name="cookie")
    a.call("get_attach_cookie", None)
    a.ld_map_value(R1, HITS)
    a.stx(u64[R1], R0)
    a.mov(R0, 0)
    a.exit_()
    with Object([a.build()]) as made:
        made.attach(cookie={"cookie": 0x1122334455667788})
        open_a_file()
        assert hits(made.maps["hits"]) == 0x1122334455667788


def test_functions_that_are_not_there() -> None:
    missing = counting_nothing("kprobe/security_file_opn")
    with LoadedProgram.load(missing) as program, pytest.raises(BpfError) as caught:
        program.attach()
    assert "function 'security_file_opn'" in str(caught.value)
    assert f"kernel {os.uname().release} has no such function" in caught.value.hint
    assert "; nearest: security_file_open" in caught.value.hint
    for event, near in (
        ("sched/sched_proces_exit", "sched/sched_process_exit"),
        ("shed/sched_process_exit", "sched/sched_process_exit"),
    ):
        with LoadedProgram.load(counting_nothing(f"tracepoint/{event}")) as program, pytest.raises(BpfError) as caught:
            program.attach()
        assert f"there is no tracepoint {event} in /sys/kernel/" in str(caught.value)
        assert caught.value.hint.startswith(f"kernel {os.uname().release} has no such tracepoint; nearest: {near}")


def counting_nothing(section: str) -> Program:
    a = Asm(section, name="nothing")
    a.mov(R0, 0)
    a.exit_()
    return a.build()


def test_bpftool_shows_python_lines_of_an_lsm_program() -> None:
    with Object([counting("lsm/file_open", 1)]) as made:
        id = str(made.programs["counting"].info.id)
        shown = subprocess.run(
            ["bpftool", "prog", "dump", "xlated", "id", id, "linum"], capture_output=True, text=True, check=True
        ).stdout
    assert "; a.atomic_add(u64[R2], R1)" in shown
    assert f"[file:{__file__.removeprefix(progbtf._ABOVE)} line_num:" in shown


def test_a_small_memlock_limit_is_no_obstacle_and_stays_as_it_was() -> None:
    """Before 5.11 maps are charged to RLIMIT_MEMLOCK: 64 KiB, as distributions set it, is less than this ring."""
    limits = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536))
    try:
        with Map.create(MapSpec("events", MapType.RINGBUF, max_entries=1 << 22)):
            assert resource.getrlimit(resource.RLIMIT_MEMLOCK) == (65536, 65536)
        LoadedProgram.load(counting_nothing("raw_tp/sys_enter")).close()
    finally:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, limits)


def test_a_field_that_moved_between_kernels_is_found_by_its_alternatives() -> None:
    """task_struct.__state was called state before 5.14."""
    kernel = Btf.kernel()
    names = {name for name in ("state", "__state") if _has(kernel, name)}
    assert len(names) == 1
    reference = FieldRef("task_struct", "__state", "offset", (("task_struct", "state"),))
    made = counting_nothing("socket")
    first = made.instructions[0].replace()
    first.reference = reference
    with LoadedProgram.load(made._replace(instructions=(first, *made.instructions[1:]))) as program:
        assert program.test_run().retval == kernel.member("task_struct", names.pop()).offset


def _has(kernel: Btf, name: str) -> bool:
    from pylsm.btf.relocate import exists

    return exists(kernel, "task_struct", name)
