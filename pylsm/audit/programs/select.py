"""Who joins the family on its own: by user, by cgroup, by what it executes, or everybody.

Whoever matches joins with its next event and stays, with all that it starts, whatever becomes of its user or cgroup. A
name or an executable is looked at when a program is executed: the process joins before the program's first instruction.
"""

from __future__ import annotations

from collections.abc import Sequence

from pylsm.asm import R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, Asm, Label, Program, View, u8, u32, u64
from pylsm.asm.typed import Typed
from pylsm.audit.maps import MARKS, SET, TRACED
from pylsm.audit.programs.common import KERNEL, count
from pylsm.audit.records import MEMBER, TGID
from pylsm.audit.rules import (
    CGROUPS,
    CGROUPS_V1,
    COMMS,
    EXECUTABLE,
    EXECUTABLES,
    GROUP,
    NAMES,
    SETTING,
    SETTINGS,
    USERS,
)
from pylsm.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

__all__ = ["BY_EXEC", "EVERYBODY", "SELECTORS", "join", "join_by_exec"]

EVERYBODY: Final = "all"
#: Looked at when a program is executed, and nowhere else: those of them that are asked for decide together.
BY_EXEC: Final = ("comm", "exe")
#: All there are, but for "cgroup/CONTROLLER": a cgroup of that controller's own hierarchy (version 1).
SELECTORS: Final = (EVERYBODY, "uid", "cgroup", *BY_EXEC)

_CREATE = 1  # BPF_LOCAL_STORAGE_GET_F_CREATE, include/uapi/linux/bpf.h
_COMM = 16
#: How far above a process's cgroup of version 1 the named one may be.
_LEVELS = 16
_CHARACTER_SIZE = 3  # 8 bytes, as a shift


def join(a: Asm, select: Sequence[str], tgid: View, out: Label, *, leader: Typed | None) -> None:
    """Take the current process, of no family yet, into the family, or go to ``out``; clobbers r0-r5.

    Args:
        select: of `SELECTORS`, none of `BY_EXEC`.
        tgid: a TGID on the stack: set already, unless there is a ``leader``.
        leader: of the process, in r8, where processes carry marks.
    """
    word, tag = a.stack(8, "word"), a.stack(4, "new tag")
    if leader is not None:
        a.load(R1, leader.tgid)
        a.stx(tgid.tgid, R1)
    _require_selected(a, select, tgid, word, out)
    if EVERYBODY not in select:
        # Its number goes with the last of its threads; what one of those that are left does then is no reason to join.
        if leader is not None:
            a.load(R1, leader.signal.live.counter)
            a.jeq(R1, 0, out)
        _take_tag(a, tag)
        a.call("map_update_elem", TRACED, tgid, tag, 0)
    else:
        _take_tag(a, tag)
    if leader is None:
        return
    joined = a.label("joined")
    a.ld_map_value(R1, SET)
    a.ldx(R1, u32[R1])  # `marked`
    a.jeq(R1, 0, joined)
    a.call("task_storage_get", MARKS, R8, 0, _CREATE)
    a.jeq(R0, 0, joined)
    a.ldx(R1, u32[tag])
    a.stx(a.view(R0, MEMBER).tag, R1)
    a.bind(joined)


def join_by_exec(select: Sequence[str], *, marks: bool) -> Program:
    """``sched_process_exec(task, old_pid, bprm)``: the process is the new program already, and has not begun it.

    Args:
        select: of `SELECTORS`, all of which have to match.
        marks: see `Probe`.
    """
    point = "sched_process_exec"
    a = Asm(f"tp_btf/{point}" if marks else f"raw_tp/{point}", name="join_by_exec", types=KERNEL)
    key, word, tag = a.stack(TGID, "tgid"), a.stack(8, "word"), a.stack(4, "tag")
    out = a.label("out")
    a.ldx(R9, u64[R1])
    a.ldx(R8, u64[R1 + 16])
    a.call("get_current_pid_tgid")
    a.rsh(R0, 32)
    a.stx(key.tgid, R0)
    a.call("map_lookup_elem", TRACED, key)
    a.jne(R0, 0, out)
    _require_selected(a, select, key, word, out)
    if "exe" in select:
        _require_executable(a, word, out)
    if "comm" in select:
        _require_name(a, out)
    _take_tag(a, tag)
    a.call("map_update_elem", TRACED, key, tag, 0)
    with a.if_(R0, "!=", 0):
        count(a, "family_full")
    if marks:
        a.ld_map_value(R6, SET)
        a.ldx(R1, u32[R6])
        a.jeq(R1, 0, out)
        a.call("task_storage_get", MARKS, R9, 0, _CREATE)
        with a.if_(R0, "==", 0):
            a.st(u32[R6], 0)  # all are searched by number from now on
        with a.else_():
            a.ldx(R1, u32[tag])
            a.stx(a.view(R0, MEMBER).tag, R1)
    a.bind(out)
    a.mov(R0, 0)
    a.exit_()
    return a.build()


def _take_tag(a: Asm, tag: View) -> None:
    a.ld_map_value(R1, SETTINGS, SETTING.field("tag")[0])
    a.ldx(R1, u32[R1])
    a.stx(u32[tag], R1)


def _require_selected(a: Asm, select: Sequence[str], tgid: View, word: View, out: Label) -> None:
    """Go to ``out`` unless the current process is another than this one and matches; clobbers r0-r5."""
    a.ld_map_value(R1, SETTINGS, SETTING.field("itself")[0])
    a.ldx(R1, u32[R1])
    a.ldx(R2, tgid.tgid)
    a.jeq(R1, R2, out)
    if "uid" in select:
        a.call("get_current_uid_gid")
        a.stx(u32[word], R0)
        a.call("map_lookup_elem", USERS, word)
        a.jeq(R0, 0, out)
    hierarchies = [name for name in select if name.partition("/")[0] == "cgroup"]
    if hierarchies:
        inside = a.label("inside")
        for name in hierarchies:
            controller = name.partition("/")[2]
            if controller:
                _find_v1(a, controller, word, inside)
            else:
                _find_v2(a, inside)
        a.ja(out)
        a.bind(inside)


def _find_v2(a: Asm, inside: Label) -> None:
    """Go to ``inside`` from a cgroup of the unified hierarchy that is named or lies below one."""
    none = a.label("no further cgroup")
    for index in range(CGROUPS.max_entries):
        a.call("current_task_under_cgroup", CGROUPS, index)
        a.jeq(R0, 1, inside)
        a.jne(R0, 0, none)  # an error: the place is empty
    a.bind(none)


def _find_v1(a: Asm, controller: str, word: View, inside: Label) -> None:
    """The same for a hierarchy of version 1: from the task's cgroup there upwards."""
    none = a.label("the root")
    key, css = a.stack(GROUP, "group"), a.stack(8, "css")
    a.ld_enum(R1, "cgroup_subsys_id", f"{controller}_cgrp_id")
    a.stx(key.controller, R1)
    a.call("get_current_task")
    a.mov(R3, R0)
    a.probe_load(R3, a.typed(R3, "task_struct").cgroups, word)
    a.ld_offset(R1, "css_set", "subsys")
    a.add(R3, R1)
    a.ldx(R1, key.controller)
    a.lsh(R1, 3)
    a.add(R3, R1)
    a.call("probe_read_kernel", css, 8, None)
    for _ in range(_LEVELS):
        a.ldx(R3, u64[css])
        a.jeq(R3, 0, none)
        group = a.probe_load(R3, a.typed(R3, "cgroup_subsys_state").cgroup, word)
        assert group is not None
        a.probe_load(R1, group.kn.id, word)
        a.stx(key.id, R1)
        a.call("map_lookup_elem", CGROUPS_V1, key)
        a.jne(R0, 0, inside)
        a.ldx(R3, u64[css])
        a.probe_load(R1, a.typed(R3, "cgroup_subsys_state").parent, word)
        a.stx(u64[css], R1)
    a.bind(none)


def _require_executable(a: Asm, word: View, out: Label) -> None:
    """Go to ``out`` unless the file of the ``linux_binprm`` in r8 is named; clobbers r0-r5."""
    key = a.stack(EXECUTABLE, "executable")
    inode = a.typed(R8, "linux_binprm").file.f_inode
    a.probe_load(R1, inode.i_ino, word)
    a.stx(key.inode, R1)
    a.probe_load(R1, inode.i_sb.s_dev, word)
    a.stx(key.device, R1)
    a.call("map_lookup_elem", EXECUTABLES, key)
    a.jeq(R0, 0, out)


def _require_name(a: Asm, out: Label) -> None:
    """Go to ``out`` unless one of the automata accepts the current thread's name; clobbers r0-r5 and r7."""
    name, index = a.stack(_COMM, "name"), a.stack(4, "index")
    accepted = a.label("accepted")
    # Zeros behind the name: the helper itself writes them on some kernels only.
    a.st(u64[name], 0)
    a.st(u64[name + 8], 0)
    a.call("get_current_comm", name, _COMM)
    with a.loop(R7, COMMS.max_entries):
        a.stx(u32[index], R7)
        a.call("map_lookup_elem", COMMS, index)
        a.jeq(R0, 0, out)
        machine = a.view(R0, NAMES)
        a.ldx(R5, machine.initial)
        a.jeq(R5, 0, out)  # the first that is not used
        end = a.label("end of the name")
        for place in range(_COMM - 1):
            a.ldx(R2, u8[name + place])
            a.jeq(R2, 0, end)
            a.lsh(R2, _CHARACTER_SIZE)
            a.add(R2, R0)
            a.ldx(R3, u64[R2 + NAMES.field("steps")[0]])
            a.ldx(R4, machine.stay)
            a.and_(R4, R5)
            a.and_(R5, R3)
            a.lsh(R5, 1)
            a.or_(R5, R4)
        a.bind(end)
        a.ldx(R4, machine.accept)
        a.jset(R5, R4, accepted)
    a.ja(out)
    a.bind(accepted)
