"""The path of a file where bpf_d_path cannot be called, or fails: what fs/d_path.c does, in bytecode.

Components are written from the end of a buffer towards its front, from the file's dentry up to the process's root; at
the root of a mount the walk goes on at its mount point. Files that are in no tree (pipes, sockets, memfds, namespaces)
are named as their filesystem names them to /proc.

Nothing read here is trusted: a file that is renamed or unmounted meanwhile gives a path that was never true, or one
flagged as truncated, and no more.
"""

from __future__ import annotations

from pylsm.asm import R0, R1, R2, R3, R4, R6, R7, R8, R9, Address, Asm, Label, MapSpec, Mem, Register, View, u8
from pylsm.asm.typed import Field
from pylsm.audit.maps import WALKERS
from pylsm.audit.programs.common import Probe
from pylsm.audit.records import FLAG_BASENAME, FLAG_TRUNCATED, PATH_MAX, SCRATCH
from pylsm.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

__all__ = ["RUNS", "STEPS", "walk"]

#: Components and mount points passed in one run, which the verifier follows one by one; and runs, each started by the
#: one before it (MAX_TAIL_CALL_CNT, include/linux/bpf.h, was 32 before 5.16). Their product exceeds the number of
#: components in a path of PATH_MAX bytes.
STEPS: Final = 72
RUNS: Final = 32

_NAME_MAX = 255
_LAST = PATH_MAX - 1
_BUILD = SCRATCH.field("build")[0]
_DELETED = b" (deleted)"
# Filesystems that name their files themselves (include/uapi/linux/magic.h)
_PIPEFS, _SOCKFS, _NSFS, _ANON_INODE_FS, _PIDFS = 0x50495045, 0x534F434B, 0x6E736673, 0x09041934, 0x50494446
_DIGITS = 20  # of 2**64


def walk(
    probe: Probe,
    state: View,
    event: View,
    word: View,
    *,
    named: bool = False,
    to: Address | None = None,
    table: MapSpec = WALKERS,
    steps: int = STEPS,
) -> None:
    """The path of the file in ``state`` (a SCRATCH in r8) to ``event`` (in the same buffer); r9 = its length with the
    NUL. Clobbers all registers but r6 (the context) and r8; r7 is the place of the path's first byte in the buffer.

    Args:
        named: not of a file, but of the dentry and the mount in ``state``, which may be the name of nothing yet.
        to: where the path goes, by default the event's ``path``; ``state.at`` bytes behind its begin.
        table: holds the program that goes on where this one ends.
        steps: see STEPS.
    """
    a = probe.a
    qstr = a.stack(16, "qstr")
    resume, finished, cut, send = (a.label(name) for name in ("resume", "finished", "cut", "send"))

    a.ldx(R1, state.resumed)
    a.jne(R1, 0, resume)
    _start(probe, state, word, qstr, send, named)
    a.bind(resume)
    # Also where it is known: the verifier then follows the steps for all beginnings at once.
    a.ldx(R7, state.place)
    _bounded(a, R7)

    escaped = a.label("escaped")
    with a.loop(R9, steps) as step:
        inside, component = a.label("inside"), a.label("component")
        a.ldx(R3, state.dentry)
        a.ldx(R1, state.root_dentry)
        a.jne(R1, R3, inside)
        a.ldx(R1, state.mount)
        a.ldx(R2, state.root_mount)
        a.jeq(R1, R2, finished)
        a.bind(inside)

        a.ldx(R1, state.mount_root)
        a.jne(R1, R3, component)
        # At the root of a mount: go on at its mount point, unless nothing is above it.
        a.ldx(R3, state.mount)
        a.ld_offset(R1, "mount", "mnt")
        a.sub(R3, R1)
        a.stx(state.mount, R3)
        a.probe_load(R1, a.typed(R3, "mount").mnt_parent, word)
        a.ldx(R3, state.mount)
        a.jeq(R1, R3, finished)
        a.jeq(R1, 0, cut)
        a.ld_offset(R2, "mount", "mnt")
        a.add(R1, R2)
        a.stx(state.mount, R1)
        a.probe_load(R1, a.typed(R3, "mount").mnt_mountpoint, word)
        a.stx(state.dentry, R1)
        _read_mount_root(a, state, word)
        a.ja(step.continue_)

        a.bind(component)
        a.probe_load(R1, a.typed(R3, "dentry").d_parent, word)
        a.ldx(R3, state.dentry)
        a.jeq(R1, R3, escaped)
        a.jeq(R1, 0, cut)
        a.stx(state.dentry, R1)
        _prepend_name(a, qstr, cut, slash=True)
    # Not yet there: go on in a further run.
    a.stx(state.place, R7)
    a.ldx(R1, state.resumed)
    a.add(R1, 1)
    a.stx(state.resumed, R1)
    a.call("tail_call", R6, table, 0)
    a.mov(R9, steps)
    a.bind(cut)
    flagged = a.label("flagged")
    a.ldx(R1, event.flags)
    a.or_(R1, FLAG_TRUNCATED)
    a.ldx(R2, state.resumed)
    a.jne(R2, 0, flagged)
    a.jgt(R9, 1, flagged)
    a.xor(R1, FLAG_TRUNCATED | FLAG_BASENAME)
    a.bind(flagged)
    a.stx(event.flags, R1)
    a.ja(finished)
    a.bind(escaped)  # its own parent, yet no mount's root: d_path shows no more than the root
    a.ldx(R7, state.start)
    _bounded(a, R7)
    a.bind(finished)
    a.ldx(R1, state.start)
    a.jne(R1, R7, send)
    _prepend(a, b"/")
    a.bind(send)
    a.mov(R9, PATH_MAX)
    a.sub(R9, R7)
    if to is not None:
        a.ldx(R2, state.at)
        with a.if_(R2, ">", PATH_MAX):
            a.mov(R2, PATH_MAX)
        a.address(R1, to)
        a.add(R1, R2)
        _place(a, R3)
        a.call("probe_read_kernel", None, R9, None)
        return
    _place(a, R3)
    a.call("probe_read_kernel", event["path"], R9, None)


def _start(probe: Probe, state: View, word: View, qstr: View, send: Label, named: bool) -> None:
    """Where the walk begins: dentry, mount and root, and what stands behind the path. Jumps to ``send`` when that is
    all, for a file in no tree."""
    a = probe.a

    def read(field: Field, to: Mem) -> None:
        a.probe_load(R1, field, word)
        a.stx(to, R1)

    a.mov(R7, _LAST)
    _place(a, R1)
    a.st(u8[R1], 0)
    if not named:
        a.ldx(R9, state.file)
        file = a.typed(R9, "file")
        read(file.f_path.dentry, state.dentry)
        read(file.f_path.mnt, state.mount)
    _read_mount_root(a, state, word)
    if not named:
        _file_name(a, state, word, qstr, send)
    a.stx(state.start, R7)
    a.stx(state.place, R7)
    a.call("get_current_task")
    a.mov(R9, R0)
    task = a.typed(R9, "task_struct")
    read(task.fs.root.dentry, state.root_dentry)
    read(task.fs.root.mnt, state.root_mount)


def _file_name(a: Asm, state: View, word: View, qstr: View, send: Label) -> None:
    """What a file has besides its place in a tree: another name, and then jumps to ``send``; or none any more."""
    in_tree, linked = a.label("in a tree"), a.label("linked")
    # d_path's first test: the filesystem names its files, and this is not what is mounted of it.
    a.ldx(R9, state.dentry)
    dentry = a.typed(R9, "dentry")
    a.probe_load(R1, dentry.d_op.d_dname, word)
    a.jeq(R1, 0, in_tree)
    a.ldx(R1, state.mount_root)
    a.jeq(R1, R9, in_tree)
    _name_outside_trees(a, state, word, qstr, send)

    a.bind(in_tree)
    a.ldx(R9, state.dentry)
    a.probe_load(R1, dentry.d_hash.pprev, word)
    a.jne(R1, 0, linked)
    a.probe_load(R1, dentry.d_parent, word)
    a.jeq(R1, R9, linked)
    _prepend(a, _DELETED)
    a.bind(linked)


def _name_outside_trees(a: Asm, state: View, word: View, qstr: View, send: Label) -> None:
    """What the filesystem's d_dname would say; jumps to ``send``."""
    numbered, anonymous, pidfd, socket, namespace = (
        a.label(name) for name in ("numbered", "anonymous", "pidfd", "socket", "namespace")
    )
    a.ldx(R9, state.file)
    file = a.typed(R9, "file")
    a.probe_load(R1, file.f_inode.i_sb.s_magic, word)
    for magic in (_PIPEFS, _SOCKFS, _NSFS):
        a.jeq(R1, magic, numbered)
    a.jeq(R1, _ANON_INODE_FS, anonymous)
    a.jeq(R1, _PIDFS, pidfd)

    # memfds, hugetlbfs, System V shared memory: simple_dname
    _prepend(a, _DELETED)
    a.ldx(R3, state.dentry)
    _prepend_name(a, qstr, send, slash=True)
    a.ja(send)

    a.bind(anonymous)
    a.ldx(R3, state.dentry)
    _prepend_name(a, qstr, send, slash=False)
    _prepend(a, b"anon_inode:")
    a.ja(send)

    a.bind(pidfd)
    _prepend(a, b"anon_inode:[pidfd]")
    a.ja(send)

    a.bind(numbered)
    a.probe_load(R4, file.f_inode.i_ino, word)
    _prepend(a, b"]")
    with a.loop(R9, _DIGITS) as digits:
        a.mov(R2, R4)
        a.mod(R2, 10)
        a.add(R2, ord("0"))
        a.sub(R7, 1)
        _bounded(a, R7)
        _place(a, R1)
        a.stx(u8[R1], R2)
        a.div(R4, 10)
        a.jeq(R4, 0, digits.break_)
    a.ldx(R9, state.file)  # the loop needed the register
    a.probe_load(R1, file.f_inode.i_sb.s_magic, word)
    a.jeq(R1, _SOCKFS, socket)
    a.jeq(R1, _NSFS, namespace)
    _prepend(a, b"pipe:[")
    a.ja(send)
    a.bind(socket)
    _prepend(a, b"socket:[")
    a.ja(send)
    a.bind(namespace)
    _prepend(a, b":[")
    a.probe_load(R9, file.f_inode.i_private.ops.name, word)
    # Its length: with its NUL it has to fit 16 bytes, the longest is "cgroup".
    a.call("probe_read_kernel_str", qstr, 16, R9)
    a.jslt(R0, 2, send)
    a.jgt(R0, 16, send)
    a.mov(R2, R0)
    a.sub(R2, 1)
    a.and_(R2, 15)
    a.sub(R7, R2)
    _bounded(a, R7)
    _place(a, R1)
    a.mov(R3, R9)
    a.call("probe_read_kernel")
    a.ja(send)


def _read_mount_root(a: Asm, state: View, word: View) -> None:
    """The root of the mount in ``state``, to ``state``; clobbers r0-r5."""
    a.ldx(R3, state.mount)
    a.probe_load(R1, a.typed(R3, "vfsmount").mnt_root, word)
    a.stx(state.mount_root, R1)


def _prepend_name(a: Asm, qstr: View, full: Label, *, slash: bool) -> None:
    """Prepend the name of a dentry (in r3); goes to ``full`` when there is no room for it or it cannot be read.

    Clobbers r0-r5 and the 16 bytes of ``qstr``.
    """
    a.ld_offset(R1, "dentry", "d_name")
    a.add(R3, R1)
    a.call("probe_read_kernel", qstr, 16, None)
    a.jne(R0, 0, full)
    a.address(R4, qstr)
    name = a.typed(R4, "qstr")
    a.load(R2, name.len)
    a.load(R3, name.name)
    a.and_(R2, _NAME_MAX)
    a.mov(R1, R2)
    a.add(R1, 1)
    a.jlt(R7, R1, full)
    a.and_(R2, _NAME_MAX)  # 6.12 forgets it over a comparison of what was copied from r2
    a.sub(R7, R2)
    _bounded(a, R7)
    _place(a, R1)
    a.call("probe_read_kernel")
    if slash:
        _prepend(a, b"/")


def _prepend(a: Asm, text: bytes) -> None:
    """Prepend a constant; clobbers r1."""
    a.sub(R7, len(text))
    _bounded(a, R7)
    _place(a, R1)
    for offset, byte in enumerate(text):
        a.st(u8[R1 + offset], byte)


def _bounded(a: Asm, register: Register) -> None:
    """Changes nothing: it tells the verifier that the place lies in the buffer."""
    a.and_(register, _LAST)


def _place(a: Asm, dst: Register) -> None:
    """``dst`` = the address of the path's first byte so far."""
    a.mov(dst, R8)
    a.add(dst, _BUILD)
    a.add(dst, R7)
