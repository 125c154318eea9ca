"""The path of a file where bpf_d_path cannot be called: a walk from its dentry up to the process's root.

What fs/d_path.c does, in bytecode: components are written from the end of a buffer towards its front; at the root of a
mount the walk goes on at its mount point.
"""

from __future__ import annotations

from typing import Final

from pylsm.asm import R0, R1, R2, R3, R4, R7, R8, R9, Asm, Register, View, u8, u64
from pylsm.asm.typed import Field, Typed
from pylsm.audit.programs.common import Probe
from pylsm.audit.records import FILE_OPEN, FLAG_BASENAME, FLAG_TRUNCATED, PATH_MAX, SCRATCH, SCRATCH_RECORD

__all__ = ["MAX_STEPS", "basename", "walk"]

#: Components and mount points that the walk passes at most; a longer path is truncated at its front.
MAX_STEPS: Final = 200

_NAME_MAX = 255
_BUILD = SCRATCH.field("build")[0]
_PATH = SCRATCH_RECORD + FILE_OPEN.size
_LAST = PATH_MAX - 1


def basename(probe: Probe, file: Typed, event: View, word: View, trusted: bool) -> None:
    """The last component of ``file`` to ``event``'s path; r0 = its length with the NUL, 1 when it cannot be read."""
    name = file.f_path.dentry.d_name.name
    if trusted:
        probe.a.load(R3, name)
    else:
        probe.a.probe_load(R3, name, word)
    _name_only(probe, event)


def _name_only(probe: Probe, event: View) -> None:
    """The name at r3 to ``event``'s path, flagged; r0 = its length with the NUL, 1 when it cannot be read."""
    a = probe.a
    a.st(event.flags, FLAG_BASENAME)
    a.call("probe_read_kernel_str", event["path"], _NAME_MAX + 1, None)
    failed = a.label("failed")
    a.jsle(R0, 0, failed)
    with a.if_(R0, ">", _NAME_MAX + 1):
        a.bind(failed)
        a.st(u8[event["path"]], 0)
        a.mov(R0, 1)


def walk(probe: Probe, file: Typed, event: View, word: View) -> None:
    """The full path of ``file`` (in r9) to ``event`` (in r8); r0 = its length with the NUL.

    r7 is the place of the path's first byte in the buffer; r9 becomes the step. Nothing here is trusted: a file that
    is renamed or unmounted meanwhile gives a path that was never true, or one flagged as truncated, and no more.
    """
    a = probe.a
    dentry, mount, parent, length = (a.stack(8, name) for name in ("dentry", "mount", "parent", "length"))
    root_dentry, root_mount = (a.stack(8, name) for name in ("root dentry", "root mount"))

    def read(field: Field, to: View) -> None:
        a.probe_load(R1, field, word)
        a.stx(u64[to], R1)

    read(file.f_path.dentry, dentry)
    read(file.f_path.mnt, mount)
    a.call("get_current_task")
    a.mov(R9, R0)
    task = a.typed(R9, "task_struct")
    read(task.fs.root.dentry, root_dentry)
    read(task.fs.root.mnt, root_mount)

    a.st(u8[R8 + (_BUILD + _LAST)], 0)
    a.mov(R7, _LAST)
    done = a.label("done")
    truncated = a.label("truncated")
    nameless = a.label("nameless")
    finished = a.label("finished")
    with a.loop(R9, MAX_STEPS) as step:
        inside = a.label("inside")
        a.ldx(R1, u64[dentry])
        a.ldx(R2, u64[root_dentry])
        a.jne(R1, R2, inside)
        a.ldx(R3, u64[mount])
        a.ldx(R4, u64[root_mount])
        a.jeq(R3, R4, done)
        a.bind(inside)

        component = a.label("component")
        a.ldx(R3, u64[mount])
        a.probe_load(R1, a.typed(R3, "vfsmount").mnt_root, word)
        a.ldx(R3, u64[dentry])
        a.jne(R1, R3, component)
        # At the root of a mount: go on at its mount point, unless it has no parent.
        a.ldx(R3, u64[mount])
        a.ld_offset(R1, "mount", "mnt")
        a.sub(R3, R1)
        a.stx(u64[mount], R3)
        a.probe_load(R1, a.typed(R3, "mount").mnt_parent, word)
        a.stx(u64[parent], R1)
        a.ldx(R3, u64[mount])
        a.jeq(R1, R3, done)
        a.probe_load(R1, a.typed(R3, "mount").mnt_mountpoint, word)
        a.stx(u64[dentry], R1)
        a.ldx(R3, u64[parent])
        a.ld_offset(R1, "mount", "mnt")
        a.add(R3, R1)
        a.stx(u64[mount], R3)
        a.ja(step.continue_)

        a.bind(component)
        here = a.typed(R3, "dentry")
        read(here.d_parent, parent)
        a.ldx(R3, u64[dentry])
        a.jeq(R1, R3, nameless)  # its own parent, yet no mount's root: in no directory
        a.probe_load(R1, here.d_name.len, word)
        a.and_(R1, _NAME_MAX)
        a.stx(u64[length], R1)
        a.add(R1, 1)
        a.jlt(R7, R1, truncated)  # no room for "/" and the name
        a.ldx(R3, u64[dentry])
        a.probe_load(R3, here.d_name.name, word)
        a.ldx(R2, u64[length])
        a.and_(R2, _NAME_MAX)
        a.sub(R7, R2)
        _bounded(a, R7)
        _place(a, R1)
        a.call("probe_read_kernel")
        _slash(a)
        a.ldx(R1, u64[parent])
        a.stx(u64[dentry], R1)
    a.bind(truncated)
    a.st(event.flags, FLAG_TRUNCATED)
    a.bind(done)
    with a.if_(R7, "==", _LAST):  # the root itself
        _slash(a)
    a.mov(R9, PATH_MAX)
    a.sub(R9, R7)
    _place(a, R3)
    a.call("probe_read_kernel", event["path"], R9, None)
    a.mov(R0, R9)
    a.ja(finished)
    # A memfd or a pipe, opened again through /proc: it has a name but no path. "/" would be another file's.
    a.bind(nameless)
    a.jne(R7, _LAST, done)
    a.probe_load(R3, a.typed(R3, "dentry").d_name.name, word)
    _name_only(probe, event)
    a.bind(finished)


def _bounded(a: Asm, register: Register) -> None:
    """Changes nothing: it tells the verifier that the place lies in the buffer."""
    a.and_(register, _LAST)


def _place(a: Asm, dst: Register) -> None:
    """``dst`` = the address of the path's first byte so far."""
    a.mov(dst, R8)
    a.add(dst, _BUILD)
    a.add(dst, R7)


def _slash(a: Asm) -> None:
    a.sub(R7, 1)
    _bounded(a, R7)
    _place(a, R1)
    a.st(u8[R1], ord("/"))
