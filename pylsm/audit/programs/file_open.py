"""``lsm/file_open(file, ret)``: record each file that a traced process opens, once per access mode."""

from __future__ import annotations

from collections.abc import Callable

from pylsm.arch import Architecture
from pylsm.asm import R0, R1, R2, R3, R6, R7, R8, R9, Asm, Program, Register, View, u32, u64
from pylsm.asm.typed import Field, Typed
from pylsm.audit.maps import MARKS, RING, SCRATCHES, SEEN, WALKERS
from pylsm.audit.programs.common import KERNEL, Probe
from pylsm.audit.programs.filters import require_mode, require_path
from pylsm.audit.programs.hooks import LSM, Hook
from pylsm.audit.programs.path import walk
from pylsm.audit.records import (
    FILE_OPEN,
    FLAG_BASENAME,
    FLAG_UNLINKED,
    KIND_OPEN,
    MEMBER,
    OPENED,
    PATH_MAX,
    RECENT,
    SCRATCH,
    SCRATCH_RECORD,
    SEEN_KEY,
)
from pylsm.audit.sources import PLAIN, Options
from pylsm.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import TypeAlias

__all__ = ["DEDUP", "PATHS", "file_open", "path_walker", "record_open"]

#: How the path is had: by the helper bpf_d_path, and by the walker only if it is too long for that; or by the walker.
PATHS = ("d_path", "walk")
#: Which opens are repeats and make no record: none; those of the same file by the same process incarnation; those with
#: the same access mode besides; the same, but only for a time after the last that was recorded.
DEDUP = ("off", "file", "file+mode", "window")
#: Units of time in the table of opens: 2**20 ns.
_WINDOW_SHIFT = 20

_FMODE_READ_WRITE = 3
#: A file that the kernel opens for itself behind another: FMODE_NOACCOUNT (include/linux/fs.h), which has marked such
#: files since before 5.10. Not FMODE_BACKING, which marks some of them from 6.6 on: its bit has moved, and the old one
#: now marks what fanotify opens for a process.
_FMODE_INNER = 1 << 29
_SB_KERNMOUNT = 1 << 22
_MAX_ERRNO = 4095
#: Of SEEN_KEY's `who`.
_UNIT_BITS, _TGID_BITS = 10, 22


def file_open(
    path: str = "d_path",
    hook: Hook = LSM,
    *,
    typed_task: bool = True,
    atomics: bool = True,
    arch: Architecture | None = None,
    options: Options = PLAIN,
) -> Program:
    """Record each (process incarnation, device, inode, access mode) once; never change the verdict.

    Args:
        path: one of PATHS; the verifier takes "d_path" in the LSM hook from 6.1 on, in fentry always, in kprobes never.
        hook: how the program is entered.
        typed_task: the kernel has the helper get_current_task_btf (5.11), and task storage for all programs (5.12).
        atomics: the kernel has fetching atomics (5.12).
        arch: whose registers hold the arguments, where the hook does not give them; by default this machine's.
        options: what was asked for.
    """
    a = hook.asm("file_open")
    key, word = a.stack(SEEN_KEY, "key"), a.stack(8, "word")
    verdict = 1 if hook.verdict else None
    marks = hook.typed and typed_task
    probe = Probe(a, verdict, typed_task=typed_task, marks=marks, select=options.by_event)
    leader = None
    if marks:
        leader = probe.require_marked(R7)
    else:
        probe.require_traced()
    hook.argument(a, R9, 0, arch)
    file = a.typed(R9, "file")
    _getter(a, word, hook.typed)(R1, file.f_mode)
    probe.leave_if(R1, "&", _FMODE_INNER, "ignored")
    record_open(
        probe, file, path, key, word, trusted=hook.typed, atomics=atomics, inner=True, leader=leader, options=options
    )
    probe.finish(None)
    return a.build()


def path_walker(
    section: str, name: str, verdict: int | None = None, *, typed_task: bool = True, options: Options = PLAIN
) -> Program:
    """The program that `record_open` tail-calls: it finishes the record that was begun, with the path by `walk`.

    Args:
        section: that of the program it is called from.
        name: its name in the kernel.
        verdict, typed_task: see `Probe`.
        options: what was asked for.
    """
    a = Asm(section, name=name, types=KERNEL)
    key, word, index = a.stack(SEEN_KEY, "key"), a.stack(8, "word"), a.stack(4, "index")
    probe = Probe(a, verdict, typed_task=typed_task)
    a.call("get_current_pid_tgid")
    a.mov32(R7, R0)
    a.rsh(R0, 32)
    a.stx(probe.tgid.tgid, R0)
    found = a.label("found")
    a.mov(R9, 0)
    search = a.here("search")
    a.stx(u32[index], R9)
    a.call("map_lookup_elem", SCRATCHES, index)
    missing = a.label("missing")
    a.jeq(R0, 0, missing)
    a.mov(R8, R0)
    a.ldx(R1, a.view(R8, SCRATCH).owner)
    a.jeq(R1, R7, found)
    a.add(R9, 1)
    a.jlt(R9, SCRATCHES.max_entries, search)
    a.bind(missing)
    probe.leave("unreadable")

    a.bind(found)
    event = a.view(R8, FILE_OPEN, SCRATCH_RECORD)
    walk(probe, a.view(R8, SCRATCH), event, word)
    a.ldx(R1, event.inode)
    a.stx(key.inode, R1)
    a.ldx(R1, event.device)
    a.stx(key.device, R1)
    task = probe.current_task(R7)
    a.ldx(R1, event.granted)
    _set_how(probe, key, word, task, options)
    _set_who(probe, key, word, task.group_leader)
    a.mov(R0, R9)
    _send(probe, event, key, word, whole=False, options=options)
    probe.finish("recorded")
    return a.build()


def record_open(
    probe: Probe,
    file: Typed,
    path: str,
    key: View,
    word: View,
    *,
    trusted: bool,
    atomics: bool,
    inner: bool = False,
    leader: Typed | None = None,
    options: Options = PLAIN,
) -> None:
    """Record the open of ``file`` (in r9); comes to its end with the run counted.

    Args:
        path: one of PATHS.
        key: a SEEN_KEY on the stack.
        word: 8 bytes of stack.
        trusted: the verifier knows ``file`` for a BTF pointer, so that its fields can be loaded directly.
        atomics: see `file_open`. Without them the buffer is taken by a load and a store, which is as good where the
            kernel does not preempt itself: the distributions that ship such old kernels configure them so.
        inner: it may be a file that a filesystem opens behind another.
        leader: of the current process (in r8), whose MEMBER is in r7, or 0; with marks only. Without, r7 = pid_tgid.
        options: what was asked for.
    """
    a = probe.a
    mnt_ns = a.stack(4, "mnt_ns")
    get = _getter(a, word, trusted)

    recent = leader is not None and options.dedup in ("file", "file+mode")
    if "mode" in options.filters:
        get(R1, file.f_mode)
        require_mode(probe, options.filters)

    # The key: what (device and inode), how (access mode), who (an incarnation of a process).
    inode = get(R3 if trusted else R8, file.f_inode)
    assert inode is not None
    get(R1, inode.i_ino)
    a.stx(key.inode, R1)
    get(R1, inode.i_sb.s_dev)
    a.stx(key.device, R1)
    remember = a.label("remember")
    task = leader or probe.current_task(R8)
    if options.dedup != "off":
        get(R1, file.f_mode)
        _set_how(probe, key, word, task, options)
        if recent:
            _leave_recent(probe, key)
        _set_who(probe, key, word, task.group_leader if leader is None else leader)
        a.call("map_lookup_elem", SEEN, key)
        if options.dedup == "window":
            _leave_within(probe, word, options)
        elif leader is None:
            probe.leave_if(R0, "!=", 0, "deduplicated")
        else:
            probe.count_as("deduplicated")
            a.jne(R0, 0, remember)
    if leader is not None:
        probe.load_ids()
        a.mov(R8, R0)
        task = a.typed(R8, "task_struct")
    # Only now: what is looked at here is never seen, and a repeat need not pay for it.
    if inner:
        _leave_inner(probe, file, word, task if trusted and leader is not None else None, trusted=trusted)
    probe.read_task(R1, task.nsproxy.mnt_ns.ns.inum, word)
    a.stx(u32[mnt_ns], R1)

    # A buffer of this CPU that no preempted program is using. The index is counted in a register, since that is where
    # the verifier follows it.
    index = a.stack(4, "index")
    taken = a.label("taken")
    none = a.label("none")
    a.stx(u64[word], R9)
    a.mov(R9, 0)
    search = a.here("search")
    a.stx(u32[index], R9)
    a.call("map_lookup_elem", SCRATCHES, index)
    a.jeq(R0, 0, none)
    a.mov(R8, R0)
    scratch = a.view(R8, SCRATCH)
    if atomics:
        a.mov(R0, 0)
        a.cmpxchg(scratch.owner, R7)
    else:
        a.ldx(R0, scratch.owner)
        with a.if_(R0, "==", 0):
            a.stx(scratch.owner, R7)
    a.jeq(R0, 0, taken)
    a.add(R9, 1)
    a.jlt(R9, SCRATCHES.max_entries, search)
    a.bind(none)
    probe.leave("lost")
    a.bind(taken)
    a.ldx(R9, u64[word])

    event = a.view(R8, FILE_OPEN, SCRATCH_RECORD)
    probe.header(event, KIND_OPEN, numbered="path" not in options.filters)
    a.ldx(R1, key.inode)
    a.stx(event.inode, R1)
    a.ldx(R1, key.device)
    a.stx(event.device, R1)
    a.ldx(R1, u32[mnt_ns])
    a.stx(event.mnt_ns, R1)
    get(R1, file.f_flags)
    a.stx(event.open_flags, R1)
    get(R1, file.f_mode)
    a.stx(event.granted, R1)
    _flag_unlinked(a, file, event, get)

    if path == "walk":
        _hand_over(probe, scratch)
        if leader is None:
            probe.count_as("unreadable")
        else:
            probe.leave("unreadable")
    else:
        # r0 = length of the path with its NUL; a negative error is a large unsigned number.
        a.call("d_path", file.f_path, event["path"], PATH_MAX)
        with a.if_(R0, ">", PATH_MAX):
            _hand_over(probe, scratch)
            probe.leave("unreadable")
        _send(probe, event, key, word, whole=True, options=options)
        probe.count_as("recorded")
    a.bind(remember)
    if recent:
        _remember(probe, key)


def _place(a: Asm, key: View, dst: Register, member: Register) -> View:
    """``dst`` = where the MEMBER at ``member`` keeps the open of ``key``; r1 = its inode number."""
    a.ldx(R1, key.inode)
    a.mov(dst, R1)
    a.and_(dst, RECENT - 1)
    a.lsh(dst, OPENED.size.bit_length() - 1)
    a.add(dst, member)
    return a.view(dst, OPENED, MEMBER.field("recent")[0])


def _leave_recent(probe: Probe, key: View) -> None:
    """Leave if the open of ``key`` is among those kept with the process, whose MEMBER is in r7; clobbers r1-r3."""
    a = probe.a
    other = a.label("other")
    a.jeq(R7, 0, other)
    kept = _place(a, key, R2, R7)
    a.ldx(R3, kept.inode)
    a.jne(R3, R1, other)
    a.ldx(R3, u64[kept["device"]])
    a.ldx(R1, u64[key["device"]])
    probe.count_as("deduplicated")
    a.jump(R3, "==", R1, probe.counted)
    a.bind(other)


def _remember(probe: Probe, key: View) -> None:
    """Keep the open of ``key``, which is recorded, with its process, for `_leave_recent`; clobbers r0-r5.

    Only by a process of one thread: no other can be reading or writing there, and none can come to be meanwhile.
    """
    a = probe.a
    leader = a.load(R2, probe.current_task(R0).group_leader)
    assert leader is not None
    a.load(R1, leader.signal.live.counter)
    a.jne(R1, 1, probe.counted)
    a.call("task_storage_get", MARKS, R2, 0, 0)
    a.jeq(R0, 0, probe.counted)
    kept = _place(a, key, R2, R0)
    a.stx(kept.inode, R1)
    a.ldx(R1, u64[key["device"]])
    a.stx(u64[kept["device"]], R1)


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


def _hand_over(probe: Probe, scratch: View) -> None:
    """Let the walker finish the record of the file in r9; falls through only when there is no walker to call."""
    a = probe.a
    a.stx(scratch.file, R9)
    a.call("tail_call", R6, WALKERS, 0)
    _release(a, scratch)


def _release(a: Asm, scratch: View) -> None:
    """The buffer is free again; with its owner goes the count behind it of the walker's runs."""
    a.st(u64[scratch["owner"]], 0)


_Getter: TypeAlias = "Callable[[Register, Field], Typed | None]"


def _getter(a: Asm, word: View, trusted: bool) -> _Getter:
    """A function that loads a field to a register, directly or through a helper; it may clobber r1-r5."""

    def get(dst: Register, field: Field) -> Typed | None:
        return a.load(dst, field) if trusted else a.probe_load(dst, field, word)

    return get


def _leave_inner(probe: Probe, file: Typed, word: View, task: Typed | None, *, trusted: bool) -> None:
    """Leave for a file that a filesystem opens behind another without marking it (_FMODE_INNER); clobbers r0-r5.

    It does so with its own credentials in place of the ``task``'s, which is cheap to look at first.


    It lies on a mount of the kernel's own (mnt_ns is the error pointer MNT_NS_INTERNAL) of a filesystem that is not:
    overlayfs opens the directories and the sources of copies in its layers like that. Pipes and memfds are on mounts of
    the kernel's own as well, but so is all of their filesystem.
    """
    a = probe.a
    get = _getter(a, word, trusted)
    wanted = a.label("wanted")
    if task is not None:
        a.load(R1, task.cred)
        a.load(R2, task.real_cred)
        a.jump(R1, "==", R2, wanted)
    get(R3, file.f_path.mnt)
    a.ld_offset(R1, "mount", "mnt_ns")
    a.add(R3, R1)
    a.ld_offset(R1, "mount", "mnt")
    a.sub(R3, R1)
    a.call("probe_read_kernel", word, 8, None)
    a.ldx(R1, u64[word])
    a.jlt(R1, -_MAX_ERRNO, wanted)
    get(R1, file.f_inode.i_sb.s_flags)
    a.jset(R1, _SB_KERNMOUNT, wanted)
    probe.leave("ignored")
    a.bind(wanted)


def _flag_unlinked(a: Asm, file: Typed, event: View, get: _Getter) -> None:
    """Set the flag of a file without a name: no link, or an entry that is no longer found; clobbers r0-r5, r7.

    As d_unlinked of include/linux/dcache.h: what never had a place in a tree, such as a pipe, is its own parent.
    """
    gone, linked = a.label("gone"), a.label("linked")
    get(R1, file.f_inode.i_nlink)
    a.jeq(R1, 0, gone)
    dentry = get(R7, file.f_path.dentry)
    assert dentry is not None
    get(R1, dentry.d_hash.pprev)
    a.jne(R1, 0, linked)
    get(R1, dentry.d_parent)
    a.jeq(R1, R7, linked)
    a.bind(gone)
    a.st(event.flags, FLAG_UNLINKED)
    a.bind(linked)


def _set_how(probe: Probe, key: View, word: View, task: Typed, options: Options) -> None:
    """Fill the part of a key that says how: r1 is f_mode, ``task`` a thread of the process; clobbers r1-r5."""
    a = probe.a
    a.and_(R1, 0 if options.dedup == "file" else _FMODE_READ_WRITE)
    a.stx(key.how, R1)
    probe.read_task(R1, task.self_exec_id, word)
    a.lsh(R1, 2)
    a.ldx(R2, key.how)
    a.or_(R1, R2)
    a.stx(key.how, R1)


def _set_who(probe: Probe, key: View, word: View, leader: Typed | Field) -> None:
    """Fill the part of a key that says who; clobbers r1-r5. The stack has the tgid if ``leader`` is not loaded yet."""
    a = probe.a
    probe.read_task(R1, leader.start_time, word)
    a.rsh(R1, _UNIT_BITS)
    a.lsh(R1, _TGID_BITS)
    if isinstance(leader, Typed):
        a.load(R2, leader.tgid)
    else:
        a.ldx(R2, probe.tgid.tgid)
    a.or_(R1, R2)
    a.stx(key.who, R1)


def _send(probe: Probe, event: View, key: View, word: View, *, whole: bool, options: Options) -> None:
    """Send the record at ``event`` (in r8) with r0 bytes of path, free its buffer, mark it as seen."""
    a = probe.a
    if "path" in options.filters:
        refused, wanted = a.label("refused"), a.label("wanted")
        a.stx(u64[word], R0)
        require_path(probe, event, word, refused)
        a.ja(wanted)
        a.bind(refused)
        _release(a, a.view(R8, SCRATCH))
        probe.leave("filtered")
        a.bind(wanted)
        probe.number(R1)  # only now: what is filtered is no gap
        a.stx(event.sequence, R1)
        a.ldx(R0, u64[word])
    # Only the bytes that were written are sent; the buffer's older contents stay in the kernel.
    a.mov(R3, R0)
    a.add(R3, FILE_OPEN.size)
    a.address(R2, event)
    a.call("ringbuf_output", RING, None, None, 0)
    if not whole:
        a.ldx(R9, event.flags)
    _release(a, a.view(R8, SCRATCH))
    probe.leave_if(R0, "!=", 0, "lost")
    # Seen only now that the record is out: a lost record, or one without its path, leaves no mark.
    unmarked = a.label("unmarked")
    if not whole:
        a.jset(R9, FLAG_BASENAME, unmarked)
    if options.dedup == "window":
        a.call("ktime_get_ns")
        a.rsh(R0, _WINDOW_SHIFT)
        a.stx(u32[word], R0)
    elif options.dedup != "off":
        a.st(u32[word], 1)
    if options.dedup != "off":
        a.call("map_update_elem", SEEN, key, word, 0)
    a.bind(unmarked)
