"""``lsm/file_open(file, ret)``: record each file that a traced process opens, once per access mode.

The program at the hook sends what is common: a path that fits on the stack. All else, and every path where the kernel
gives none, is the walker's, which it tail-calls: a larger program, with buffers of its own.
"""

from __future__ import annotations

from collections.abc import Callable

from pylsm.arch import Architecture
from pylsm.asm import R0, R1, R2, R3, R4, R6, R7, R8, R9, Asm, Label, Program, Register, View, u32, u64
from pylsm.asm.typed import Field, Typed
from pylsm.audit.maps import RING, SCRATCHES, WALKERS, WITHIN
from pylsm.audit.programs.common import RECORDED, Probe
from pylsm.audit.programs.filters import require_mode, require_path
from pylsm.audit.programs.hooks import LSM, Hook
from pylsm.audit.programs.path import walk
from pylsm.audit.programs.seen import Getter, find, fingerprint, leave_seen, remember
from pylsm.audit.records import (
    FILE_OPEN,
    FLAG_BASENAME,
    FLAG_UNLINKED,
    KIND_OPEN,
    PATH_MAX,
    SCRATCH,
    SCRATCH_RECORD,
    SHORT_OPEN,
)
from pylsm.audit.sources import PLAIN, Options
from pylsm.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import TypeAlias

__all__ = ["DEDUP", "PATHS", "file_open", "file_walker", "open_walker", "walk_new"]

#: How the path is had: by the helper bpf_d_path, and by `walk` only if it is too long for that; or by `walk`.
PATHS = ("d_path", "walk")
#: Which opens are repeats and make no record: none; those of the same file by the same process incarnation; those with
#: the same access mode besides; the same, but only for a time after the last that was recorded.
DEDUP = ("off", "file", "file+mode", "window")
#: Units of time in the table of opens: 2**20 ns.
_WINDOW_SHIFT = 20

#: A file that the kernel opens for itself behind another: FMODE_NOACCOUNT (include/linux/fs.h), which has marked such
#: files since before 5.10. Not FMODE_BACKING, which marks some of them from 6.6 on: its bit has moved, and the old one
#: now marks what fanotify opens for a process.
_FMODE_INNER = 1 << 29
_SB_KERNMOUNT = 1 << 22
_MAX_ERRNO = 4095
_ROOM = SHORT_OPEN.field("path")[1]

#: Brings the file to r9, from the context in r6; goes to the label if there is none. May clobber r0-r5 and r8.
Find: TypeAlias = "Callable[[Probe, View, Label], object]"


def file_open(
    path: str = "d_path",
    hook: Hook = LSM,
    *,
    typed_task: bool = True,
    arch: Architecture | None = None,
    options: Options = PLAIN,
) -> Program:
    """Record each (process incarnation, device, inode, access mode) once; never change the verdict.

    Args:
        path: one of PATHS; the verifier takes "d_path" in the LSM hook from 6.1 on, in fentry always, in kprobes never.
        hook: how the program is entered.
        typed_task: the kernel has the helper get_current_task_btf (5.11), and task storage for all programs (5.12).
        arch: whose registers hold the arguments, where the hook does not give them; by default this machine's.
        options: what was asked for.
    """
    a = hook.asm("file_open")
    word = a.stack(8, "word")
    marks = hook.typed and typed_task
    probe = Probe(a, 1 if hook.verdict else None, typed_task=typed_task, marks=marks, select=options.by_event)
    here = path == "d_path" and marks and not _takes_walker(options)
    leader = probe.require_traced()
    hook.argument(a, R9, 0, arch)
    file = a.typed(R9, "file")
    get = _getter(a, word, hook.typed)
    get(R4, file.f_mode)
    probe.leave_if(R4, "&", _FMODE_INNER, "ignored")
    if here and leader is not None:
        _record(probe, file, get, word, leader, options)
    else:
        walk_new(probe, file, get, word, leader, options)
    probe.finish(None)
    return a.build()


def _takes_walker(options: Options) -> bool:
    """What is asked for is not done by the program at the hook."""
    return options.dedup in ("off", "window") or "path" in options.filters


def walk_new(
    probe: Probe, file: Typed, get: Getter, word: View, leader: Typed | None = None, options: Options = PLAIN
) -> None:
    """Let the walker record the file in r9 unless it is known; falls through, with the run to be counted, when there is
    no walker.

    Args:
        leader: with marks, as for `fingerprint`.
    """
    a = probe.a
    _require_mode(probe, file, get, options)
    if options.dedup != "off":
        fingerprint(probe, file, leader or probe.current_task(R8), get, word, mode=options.dedup != "file")
    if options.dedup == "window":
        recorded = a.stack(8, "recorded")
        a.stx(u64[recorded], R7)
        a.call("map_lookup_elem", WITHIN, recorded)
        _leave_within(probe, word, options)
    elif options.dedup != "off":
        leave_seen(probe)
    _hand_over(probe)


def _require_mode(probe: Probe, file: Typed, get: Getter, options: Options) -> None:
    """The filter of access modes; r4 is the file's mode as before."""
    if "mode" in options.filters:
        get(R1, file.f_mode)
        require_mode(probe, options.filters)
        get(R4, file.f_mode)


def _leave_within(probe: Probe, word: View, options: Options) -> None:
    """Leave if the open that r0 points to the time of, if to any, was recorded within the window; clobbers r0-r5."""
    a = probe.a
    first = a.label("first")
    a.jeq(R0, 0, first)
    a.ldx(R1, u32[R0])
    a.stx(u64[word], R1)
    a.call("ktime_get_ns")
    a.rsh(R0, _WINDOW_SHIFT)
    a.ldx(R1, u64[word])
    a.sub32(R0, R1)
    probe.count_as("deduplicated")
    a.jump32(R0, "<", (options.window_ms * 1_000_000 >> _WINDOW_SHIFT) + 1, probe.counted)
    a.bind(first)


def _record(probe: Probe, file: Typed, get: Getter, word: View, leader: Typed, options: Options) -> None:
    """Record the open of the file in r9 unless it is known; where that takes the walker, as `walk_new`."""
    a = probe.a
    event = a.stack(SHORT_OPEN)
    unusual = a.label("unusual")
    _require_mode(probe, file, get, options)
    a.stx(event.granted, R4)
    fingerprint(probe, file, leader, get, word, event, mode=options.dedup != "file")
    seen = leave_seen(probe)
    probe.stamp(event, KIND_OPEN)
    task = probe.current_task(R0)
    # Who has overridden credentials may be a filesystem that opens a file behind another: that takes a closer look.
    a.load(R1, task.cred)
    a.load(R2, task.real_cred)
    a.jne(R1, R2, unusual)
    get(R1, file.f_flags)
    a.stx(event.open_flags, R1)
    a.load(R1, task.nsproxy.mnt_ns.ns.inum)
    a.stx(event.mnt_ns, R1)
    # The name is all that the helper writes ("the target is not padded"); for the verifier it makes the room behind it
    # readable. What of that is no path is not sent.
    a.address(R3, task.comm)
    a.st(u64[event["comm"]], 0)
    a.st(u64[event["comm"] + 8], 0)
    a.call("probe_read_kernel_str", event["comm"], SHORT_OPEN.size - SHORT_OPEN.field("comm")[0], None)
    a.call("get_current_uid_gid")
    a.stx(event.uid_gid, R0)
    # As late as that, so that the verifier comes to little from each of its branches.
    get(R3, file.f_inode.i_nlink)
    _flag_unlinked(a, file, event, get, links=R3, entry=R2)
    # r0 = length of the path with its NUL; a negative error is a large unsigned number.
    a.call("d_path", file.f_path, event["path"], _ROOM)
    a.jgt(R0, _ROOM, unusual)
    a.mov(R9, R0)
    probe.number(R1)
    a.stx(event.sequence, R1)
    a.add(R9, FILE_OPEN.size)
    a.call("ringbuf_output", RING, event, R9, 0)
    probe.leave_if(R0, "!=", 0, "lost")
    remember(a, seen)
    probe.leave(RECORDED)
    a.bind(unusual)
    _hand_over(probe)


def _hand_over(probe: Probe) -> None:
    """Let the walker go on; falls through, to be counted as "unreadable", when there is none."""
    probe.a.call("tail_call", R6, WALKERS, 0)
    probe.count_as("unreadable")


def file_walker(
    path: str,
    hook: Hook = LSM,
    *,
    typed_task: bool = True,
    atomics: bool = True,
    arch: Architecture | None = None,
    options: Options = PLAIN,
) -> Program:
    """The walker of `file_open`; for the arguments see there, and `open_walker`."""
    return open_walker(
        hook.asm("file_open", "file_open_walk"),
        lambda probe, word, missing: hook.argument(probe.a, R9, 0, arch),
        path,
        1 if hook.verdict else None,
        trusted=hook.typed,
        typed_task=typed_task,
        atomics=atomics,
        options=options,
    )


def open_walker(
    a: Asm,
    find_file: Find,
    path: str,
    verdict: int | None = None,
    *,
    trusted: bool = False,
    may_miss: bool = False,
    typed_task: bool = True,
    atomics: bool = True,
    options: Options = PLAIN,
) -> Program:
    """The program that is tail-called for a new file: it records it, whatever its path, in runs that call each other.

    Args:
        a: its assembler; nothing emitted yet.
        find_file: where the file is.
        path: one of PATHS.
        verdict, typed_task: see `Probe`.
        trusted: the verifier knows the file for a BTF pointer, so that its fields can be loaded directly.
        may_miss: ``find_file`` can come without one.
        atomics: the kernel has fetching atomics (5.12). Without them the buffer is taken by a load and a store, which
            is as good where the kernel does not preempt itself: the distributions that ship such old kernels configure
            them so.
        options: what was asked for.
    """
    word, index, buffer = a.stack(8, "word"), a.stack(4, "index"), a.stack(8, "buffer")
    probe = Probe(a, verdict, typed_task=typed_task)
    get = _getter(a, word, trusted)
    begin, resume, none, ignored, send = (a.label(name) for name in ("begin", "resume", "no buffer", "ignored", "send"))
    missing = a.label("no file") if may_miss else none
    # A buffer of this CPU that is this thread's already, or that no preempted program is using. The index is counted in
    # a register, since that is where the verifier follows it.
    a.call("get_current_pid_tgid")
    a.mov32(R7, R0)
    a.rsh(R0, 32)
    a.stx(probe.tgid.tgid, R0)
    a.mov(R9, 0)
    search = a.here("search")
    a.stx(u32[index], R9)
    a.call("map_lookup_elem", SCRATCHES, index)
    a.jeq(R0, 0, none)
    a.mov(R8, R0)
    state = a.view(R8, SCRATCH)
    if atomics:
        a.mov(R0, 0)
        a.cmpxchg(state.owner, R7)
    else:
        a.ldx(R0, state.owner)
        with a.if_(R0, "==", 0):
            a.stx(state.owner, R7)
    a.jeq(R0, 0, begin)
    a.jeq(R0, R7, resume)
    a.add(R9, 1)
    a.jlt(R9, SCRATCHES.max_entries, search)
    a.bind(none)
    probe.number(R1)
    probe.leave("lost")
    a.bind(begin)
    a.stx(u64[buffer], R8)
    find_file(probe, word, missing)
    file = a.typed(R9, "file")
    if options.dedup != "off":
        fingerprint(probe, file, probe.current_task(R8), get, word, mode=options.dedup != "file")
    a.ldx(R8, u64[buffer])
    if options.dedup != "off":
        a.stx(state.fingerprint, R7)
    _leave_inner(probe, file, word, get, ignored)
    a.stx(state.file, R9)
    event = a.view(R8, FILE_OPEN, SCRATCH_RECORD)
    probe.header(event, KIND_OPEN, numbered=False)
    for field, name in (
        (file.f_inode.i_ino, "inode"),
        (file.f_inode.i_sb.s_dev, "device"),
        (file.f_flags, "open_flags"),
        (file.f_mode, "granted"),
    ):
        get(R1, field)
        a.stx(getattr(event, name), R1)
    task = probe.current_task(R7)
    probe.read_task(R1, task.nsproxy.mnt_ns.ns.inum, word)
    a.stx(event.mnt_ns, R1)
    get(R1, file.f_inode.i_nlink)
    _flag_unlinked(a, file, event, get, links=R1, entry=R7)
    if path == "d_path":
        a.call("d_path", file.f_path, event["path"], PATH_MAX)
        a.mov(R9, R0)
        a.jle(R9, PATH_MAX, send)
    a.bind(resume)
    walk(probe, state, event, word)
    a.bind(send)
    refused = a.label("refused") if "path" in options.filters else ignored
    if "path" in options.filters:
        a.stx(u64[word], R9)
        require_path(probe, event, word, refused)
        a.ldx(R9, u64[word])
    probe.number(R1)  # only now: what is filtered is no gap
    a.stx(event.sequence, R1)
    # Only the bytes that were written are sent; the buffer's older contents stay in the kernel.
    a.mov(R3, R9)
    a.add(R3, FILE_OPEN.size)
    a.address(R2, event)
    a.call("ringbuf_output", RING, None, None, 0)
    a.ldx(R7, state.fingerprint)
    a.ldx(R9, event.flags)
    _release(a, state)
    probe.leave_if(R0, "!=", 0, "lost")
    nameless = a.label("nameless")
    # Seen only now that the record is out: a lost record, or one without its path, leaves no mark.
    a.jset(R9, FLAG_BASENAME, nameless)
    if options.dedup == "window":
        recorded = a.stack(8, "recorded")
        a.stx(u64[recorded], R7)
        a.call("ktime_get_ns")
        a.rsh(R0, _WINDOW_SHIFT)
        a.stx(u32[word], R0)
        a.call("map_update_elem", WITHIN, recorded, word, 0)
    elif options.dedup != "off":
        remember(a, find(a))
    a.bind(nameless)
    probe.leave(RECORDED)
    if refused is not ignored:
        a.bind(refused)
        _release(a, state)
        probe.leave("filtered")
    if may_miss:
        a.bind(missing)
        a.ldx(R8, u64[buffer])
        _release(a, state)
        probe.leave("unreadable")
    a.bind(ignored)
    _release(a, state)
    probe.finish("ignored")
    return a.build()


def _release(a: Asm, scratch: View) -> None:
    """The buffer is free again; with its owner goes the count behind it of the walker's runs."""
    a.st(u64[scratch["owner"]], 0)


def _getter(a: Asm, word: View, trusted: bool) -> Getter:
    """A function that loads a field to a register, directly or through a helper; it may clobber r1-r5."""

    def get(dst: Register, field: Field) -> Typed | None:
        return a.load(dst, field) if trusted else a.probe_load(dst, field, word)

    return get


def _leave_inner(probe: Probe, file: Typed, word: View, get: Getter, inner: Label) -> None:
    """Go to ``inner`` for a file that a filesystem opens behind another without marking it (_FMODE_INNER); clobbers
    r0-r5.

    It lies on a mount of the kernel's own (mnt_ns is the error pointer MNT_NS_INTERNAL) of a filesystem that is not:
    overlayfs opens the directories and the sources of copies in its layers like that. Pipes and memfds are on mounts of
    the kernel's own as well, but so is all of their filesystem.
    """
    a = probe.a
    wanted = a.label("wanted")
    get(R3, file.f_path.mnt)
    a.ld_offset(R1, "mount", "mnt_ns")
    a.add(R3, R1)
    a.ld_offset(R1, "mount", "mnt")
    a.sub(R3, R1)
    a.call("probe_read_kernel", word, 8, None)
    a.ldx(R1, u64[word])
    a.jlt(R1, -_MAX_ERRNO, wanted)
    get(R1, file.f_inode.i_sb.s_flags)
    a.jump(R1, "&", _SB_KERNMOUNT, wanted)
    a.ja(inner)
    a.bind(wanted)


def _flag_unlinked(a: Asm, file: Typed, event: View, get: Getter, *, links: Register, entry: Register) -> None:
    """Set the flag of a file without a name: no link, or an entry that is no longer found; clobbers what ``get`` does.

    As d_unlinked of include/linux/dcache.h: what never had a place in a tree, such as a pipe, is its own parent.

    Args:
        links: a register with the inode's i_nlink.
        entry: a register to be clobbered that ``get`` does not clobber.
    """
    gone, linked = a.label("gone"), a.label("linked")
    a.jeq(links, 0, gone)
    dentry = get(entry, file.f_path.dentry)
    assert dentry is not None
    get(R1, dentry.d_hash.pprev)
    a.jne(R1, 0, linked)
    get(R1, dentry.d_parent)
    a.jeq(R1, entry, linked)
    a.bind(gone)
    a.st(event.flags, FLAG_UNLINKED)
    a.bind(linked)
