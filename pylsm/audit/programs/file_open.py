"""``lsm/file_open(file, ret)``: record each file that a traced process opens, once per access mode."""

from __future__ import annotations

from pylsm.asm import R0, R1, R2, R3, R6, R8, R9, Asm, Program, u32, u64
from pylsm.asm.typed import Field, Typed
from pylsm.audit.maps import RING, SCRATCHES, SEEN
from pylsm.audit.programs.common import KERNEL, Probe
from pylsm.audit.programs.path import basename, walk
from pylsm.audit.records import FILE_OPEN, FLAG_BASENAME, KIND_OPEN, PATH_MAX, SCRATCH_RECORD, SEEN_KEY

__all__ = ["PATHS", "file_open", "record_open"]

#: How the path is had: the helper bpf_d_path, a walk over dentries in bytecode, or only the last component.
PATHS = ("d_path", "walk", "basename")

_FMODE_READ_WRITE = 3


def file_open(path: str = "d_path", *, typed_task: bool = True, atomics: bool = True) -> Program:
    """Record each (process incarnation, device, inode, access mode) once; never change the verdict.

    Args:
        path: one of PATHS; the verifier takes "d_path" in this hook from 6.1 on.
        typed_task: the kernel has the helper get_current_task_btf (5.11).
        atomics: the kernel has fetching atomics (5.12).
    """
    a = Asm("lsm/file_open", types=KERNEL)
    probe = Probe(a, verdict=1, typed_task=typed_task)
    probe.require_traced()
    a.ldx(R9, u64[R6])
    record_open(probe, a.typed(R9, "file"), path, trusted=True, atomics=atomics)
    probe.finish("recorded")
    return a.build()


def record_open(probe: Probe, file: Typed, path: str, *, trusted: bool, atomics: bool) -> None:
    """Record the open of ``file`` (in r9); falls through when it is recorded.

    Args:
        path: one of PATHS.
        trusted: the verifier knows ``file`` for a BTF pointer, so that its fields can be loaded directly.
        atomics: see `file_open`. Without them the buffer is taken by a load and a store, which is as good where the
            kernel does not preempt itself: the distributions that ship such old kernels configure them so.
    """
    a = probe.a
    word = a.stack(8, "word")
    key = a.stack(SEEN_KEY, "key")

    def get(field: Field) -> None:
        if trusted:
            a.load(R1, field)
        else:
            a.probe_load(R1, field, word)

    # The key: who (an incarnation of a process), what (device and inode), how (access mode).
    task = probe.current_task(R8)
    probe.read_task(R1, task.group_leader.start_time, word)
    a.stx(key.start_time, R1)
    probe.read_task(R1, task.self_exec_id, word)
    a.stx(key.exec_id, R1)
    a.ldx(R1, probe.tgid.tgid)
    a.stx(key.tgid, R1)
    get(file.f_inode.i_ino)
    a.stx(key.inode, R1)
    get(file.f_inode.i_sb.s_dev)
    a.stx(key.device, R1)
    get(file.f_mode)
    a.and_(R1, _FMODE_READ_WRITE)
    a.stx(key.access, R1)
    a.call("map_lookup_elem", SEEN, key)
    with a.if_(R0, "!=", 0):
        probe.leave("deduplicated")

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
    if atomics:
        a.mov(R1, 1)
        a.xchg(u32[R8], R1)
    else:
        a.ldx(R1, u32[R8])
        a.st(u32[R8], 1)
    a.jeq(R1, 0, taken)
    a.add(R9, 1)
    a.jlt(R9, SCRATCHES.max_entries, search)
    a.bind(none)
    probe.leave("lost")
    a.bind(taken)
    a.ldx(R9, u64[word])

    event = a.view(R8, FILE_OPEN, SCRATCH_RECORD)
    probe.header(event, KIND_OPEN)
    a.ldx(R1, key.inode)
    a.stx(event.inode, R1)
    a.ldx(R1, key.device)
    a.stx(event.device, R1)
    get(file.f_flags)
    a.stx(event.open_flags, R1)
    get(file.f_mode)
    a.stx(event.granted, R1)
    a.st(event.reserved, 0)

    # r0 = length of the path with its NUL, at most PATH_MAX.
    if path == "walk":
        walk(probe, file, event, word)
    elif path == "d_path":
        a.call("d_path", file.f_path, event["path"], PATH_MAX)
        with a.if_(R0, ">", PATH_MAX):  # a negative error is a large unsigned number
            basename(probe, file, event, word, trusted)
    else:
        basename(probe, file, event, word, trusted)

    # Only the bytes written above are sent; the buffer's older contents stay in the kernel.
    a.mov(R3, R0)
    a.add(R3, FILE_OPEN.size)
    a.address(R2, event)
    a.call("ringbuf_output", RING, None, None, 0)
    a.ldx(R9, event.flags)
    a.st(u32[R8], 0)  # the buffer is free again
    with a.if_(R0, "!=", 0):
        probe.leave("lost")
    # Seen only now that the record is out: a lost record, or one without its path, leaves no mark.
    unmarked = a.label("unmarked")
    if path != "basename":
        a.jset(R9, FLAG_BASENAME, unmarked)
    a.st(u32[word], 1)
    a.call("map_update_elem", SEEN, key, word, 0)
    a.bind(unmarked)
