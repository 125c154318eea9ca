"""Records with texts of any length: put together in a buffer of this CPU that no preempted program is using.

A program `begin`s a record, fills its fixed part, puts texts behind it one after the other, and `send`s it. A path that
takes more steps than one run may have is finished by a further run of the same program, which it calls itself
(`maps.again`): such a run finds the buffer that its thread has already.
"""

from __future__ import annotations

from pylsm.asm import R0, R1, R2, R3, R7, R8, R9, Label, Register, View, u32, u64
from pylsm.audit.maps import RING, SCRATCHES, again
from pylsm.audit.programs.common import Probe
from pylsm.audit.programs.path import walk
from pylsm.audit.records import SCRATCH, SCRATCH_RECORD
from pylsm.light import TYPE_CHECKING
from pylsm.record import Record

if TYPE_CHECKING:
    from typing import Final

__all__ = ["STEPS", "append", "begin", "path", "send"]

#: Components of a path passed in one run; most paths have fewer.
STEPS: Final = 24


def begin(probe: Probe, kind: int, layout: Record, resumed: Label, *, atomics: bool) -> tuple[View, View]:
    """r8 = a buffer, with the header of a record in it, r7 = pid_tgid; clobbers r0-r5 and r9.

    Args:
        probe: of a traced process.
        kind, layout: of the record.
        resumed: where to go when this thread has a buffer already, then in r8.
        atomics: see `file_open`.

    Returns:
        The buffer (a SCRATCH), and the record in it.
    """
    a = probe.a
    index = a.stack(4, "index")
    taken, none = a.label("taken"), a.label("none")
    scratch = a.view(R8, SCRATCH)
    a.call("get_current_pid_tgid")
    a.mov(R7, R0)
    for wanted in (resumed, taken):
        # The index is counted in a register, since that is where the verifier follows it.
        a.mov(R9, 0)
        search = a.here(f"search {wanted}")
        a.stx(u32[index], R9)
        a.call("map_lookup_elem", SCRATCHES, index)
        a.jeq(R0, 0, none)
        a.mov(R8, R0)
        if wanted is resumed:
            a.ldx(R1, scratch.owner)
            a.mov32(R2, R7)
            a.jeq(R1, R2, resumed)
        else:
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
    probe.number(R1)
    probe.leave("lost")
    a.bind(taken)
    record = a.view(R8, layout, SCRATCH_RECORD)
    probe.header(record, kind)
    a.st(u64[scratch["phase"]], 0)  # and `at`
    return scratch, record


def path(probe: Probe, program: str, record: View, layout: Record, word: View, *, named: bool = False) -> None:
    """The path in the buffer's state to the end of the texts; r9 = its length with the NUL. Clobbers all but r6 and r8.

    Args:
        program: name of this program.
        word: 8 bytes of stack.
        named: see `walk`.
    """
    to = record[layout.tail_name]
    walk(probe, probe.a.view(R8, SCRATCH), record, word, named=named, to=to, table=again(program), steps=STEPS)


def append(
    probe: Probe, record: View, layout: Record, source: Register, most: int, *, helper: str = "probe_read_kernel_str"
) -> None:
    """A text to the end of the texts, which are r9 bytes long; r0 = its length with the NUL, which is added to r9, 0
    where it cannot be read. Clobbers r1-r5.

    Args:
        source: a register with its address, not r1 or r2.
        most: bytes.
    """
    a = probe.a
    unread, read = a.label("unread"), a.label("read")
    if source is not R3:
        a.mov(R3, source)
    a.address(R1, record[layout.tail_name])
    a.add(R1, R9)
    a.call(helper, None, most, None)
    a.jslt(R0, 1, unread)
    a.jgt(R0, most, unread)
    a.add(R9, R0)
    a.ja(read)
    a.bind(unread)
    a.mov(R0, 0)
    a.bind(read)


def send(probe: Probe, record: View, layout: Record) -> None:
    """Send the record with r9 bytes of texts and free its buffer; falls through when it is sent."""
    a = probe.a
    a.mov(R3, R9)
    a.add(R3, layout.size)
    a.address(R2, record)
    a.call("ringbuf_output", RING, None, None, 0)
    a.st(u64[a.view(R8, SCRATCH)["owner"]], 0)  # and `resumed`
    probe.leave_if(R0, "!=", 0, "lost")
