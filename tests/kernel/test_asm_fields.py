"""Typed fields on this kernel: bit fields, signs, renamed fields, each compared with what /proc or the kernel says."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cases.kernel import needs

from pylsm.asm import R0, R6, R7, Asm
from pylsm.asm.typed import Field, Typed, renamed
from pylsm.btf import Btf, declare
from pylsm.loader import LoadedProgram, features

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

KERNEL = Btf.kernel()
TYPED = features.helper("get_current_task_btf", "raw_tp")
#: A pointer to the current task that the verifier knows the type of; without it everything is read through the helper.
typed_task = needs(TYPED, "bpf_get_current_task_btf", "5.11")


def of_current(
    field: Callable[[Typed], Field],
    *,
    types: Btf = KERNEL,
    cpu: str = "v3",
    signed: bool = False,
    probe: bool = False,
    upper: bool = False,
) -> int:
    """A field of the thread that calls this: the lower, or the upper, 32 bits of what was loaded."""
    a = Asm("raw_tp/sys_enter", name="field", types=types, cpu=cpu)
    slot = a.stack(8)
    a.call("get_current_task_btf" if TYPED.supported else "get_current_task")
    a.mov(R6, R0)
    wanted = field(a.typed(R6, "task_struct"))
    if probe or not TYPED.supported:
        a.probe_load(R7, wanted, slot)
    else:
        a.load(R7, wanted, signed=signed)
    a.mov(R0, R7)
    if upper:
        a.rsh(R0, 32)
    a.exit_()
    with LoadedProgram.load(a.build(), btf=KERNEL) as loaded:
        return loaded.test_run(ctx=bytes(8)).retval


@pytest.mark.parametrize("probe", [pytest.param(False, marks=typed_task), True])
def test_numbers(probe: bool) -> None:
    assert of_current(lambda task: task.tgid, probe=probe) == os.getpid()
    assert of_current(lambda task: task.real_parent.tgid, probe=probe) == os.getppid()
    assert of_current(lambda task: task.group_leader.real_parent.group_leader.pid, probe=probe) == os.getppid()


def test_array_element_and_anonymous_member() -> None:
    name = Path("/proc/self/comm").read_text().rstrip("\n").encode()
    assert of_current(lambda task: task.comm[1]) == name[1]
    assert of_current(lambda task: task.cred.uid.val) == os.getuid()
    assert of_current(lambda task: task.mm.mm_users.counter) >= 1  # mm_users is in an anonymous struct


@typed_task
@pytest.mark.parametrize("cpu", ["v3", pytest.param("v4", marks=needs(features.cpu_level("v4"), "cpu v4", "6.6"))])
def test_sign(cpu: str) -> None:
    """A thread that leads no process has exit_signal -1 (an int), a process SIGCHLD."""

    def halves(signed: bool) -> tuple[int, int]:
        lower, upper = (
            of_current(lambda task: task.exit_signal, cpu=cpu, signed=signed, upper=half) for half in (False, True)
        )
        return lower, upper

    assert halves(True) == halves(False) == (signal.SIGCHLD, 0)
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(halves, False).result() == (0xFFFFFFFF, 0)
        assert thread.submit(halves, True).result() == (0xFFFFFFFF, 0xFFFFFFFF)


@typed_task
def test_bit_field() -> None:
    member = KERNEL.member("task_struct", "sched_reset_on_fork")
    assert member.is_bitfield
    members = KERNEL.type(KERNEL.find_struct("task_struct")).members
    beside = [m.name for m in members if m.is_bitfield and m.name.startswith("sched_") and m.name != member.name]
    assert beside

    def others() -> list[int]:
        return [of_current(lambda task, name=name: getattr(task, name)) for name in beside]

    before = others()
    assert of_current(lambda task: task.sched_reset_on_fork) == 0
    os.sched_setscheduler(0, os.SCHED_OTHER | os.SCHED_RESET_ON_FORK, os.sched_param(0))
    try:
        assert of_current(lambda task: task.sched_reset_on_fork) == 1
        assert others() == before
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def test_renamed_field() -> None:
    """The name of another kernel first, this one's second: the loader takes what is there."""
    types = declare({"task_struct": {"thread_group_id": "int", "parent_before": "struct task_struct *", "tgid": "int"}})
    assert of_current(lambda task: renamed(task.thread_group_id, "tgid"), types=types) == os.getpid()
    assert of_current(lambda task: renamed(task.parent_before, "real_parent").tgid, types=types) == os.getppid()
