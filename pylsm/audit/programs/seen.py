"""Which opens were recorded already: a table of fingerprints that is read and written in place.

An open's fingerprint is a hash of what (device and inode), how (access mode) and who (the process: its tgid, when it
started, how often it has called exec). Its lower bits choose a set of the table; the set keeps the two latest.

There is no lock and no helper that looks for room: an entry is one word, which one store writes, and only ever the
fingerprint of an open whose record was sent. So whatever programs on several processors read and write here at a time,
an open is taken for known only if its fingerprint is; what is pushed out, or lost in a race, is recorded once more.

Two opens with one fingerprint (of 2⁶⁴) would be taken for one. That one cannot be made to have another's on purpose,
by who chooses inode numbers (a filesystem in user space), is what the key is for: a secret of each audit.
"""

from __future__ import annotations

from collections.abc import Callable

from pylsm.asm import R1, R3, R4, R5, R7, R8, Asm, Register, View, u64
from pylsm.asm.typed import Field, Typed
from pylsm.audit.maps import SEEN, SET
from pylsm.audit.programs.common import Probe
from pylsm.audit.records import SEEN_SET, SETTINGS
from pylsm.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import TypeAlias

__all__ = ["Getter", "fingerprint", "leave_seen", "remember"]

#: Loads a field to a register; may clobber r1-r5.
Getter: TypeAlias = "Callable[[Register, Field], Typed | None]"

_FMODE_READ_WRITE = 3
#: Where there is no key (others have loaded the programs) it is this alone: 2⁶⁴ by the golden ratio, sign-extended.
_ODD = 0x9E3779B1 - (1 << 32)


def fingerprint(
    probe: Probe, file: Typed, task: Typed, get: Getter, word: View, event: View | None = None, *, mode: bool = True
) -> None:
    """r7 = the fingerprint of the open of ``file`` (in r9); clobbers r0-r5 and, unless the probe has marks, r8.

    Args:
        task: with marks, the leader of the current process, in r8; r7 is the address of the SETTINGS and r4 the file's
            mode then. Without, the current task.
        get: loads the fields of ``file``.
        word: 8 bytes of stack.
        event: a FILE_OPEN to which inode and device are written meanwhile.
        mode: opens with different access modes are different.
    """
    a = probe.a
    key = None if probe.marks else a.stack(8, "key")
    if key is not None:
        a.ld_map_value(R7, SET)
    a.ldx(R5, a.view(R7, SETTINGS).key)
    a.xor(R5, _ODD)
    if key is not None:
        a.stx(u64[key], R5)

    def then(number: Register = R1) -> None:
        a.mul(R7, R5)
        a.add(R7, number)

    # Who. One number for start and execs: of two processes of one tgid the later starts more nanoseconds after the
    # former than that one can have called exec. (Not so of two leaders at one address, which is at hand: an old process
    # gets to where a younger one was by an exec in a thread of its own.)
    if key is None:
        a.load(R7, task.start_time)
        a.load(R1, task.self_exec_id)
        a.add(R7, R1)
        a.load(R1, task.tgid)
    else:
        probe.read_task(R7, task.group_leader.start_time, word)
        probe.read_task(R1, task.self_exec_id, word)
        a.add(R7, R1)
        a.ldx(R5, u64[key])  # helpers may have been called
        a.ldx(R1, probe.tgid.tgid)
    then()
    # What.
    inode = get(R3 if key is None else R8, file.f_inode)
    assert inode is not None
    get(R1, inode.i_sb.s_dev)
    if key is not None:
        a.ldx(R5, u64[key])
    if event is not None:
        a.stx(event.device, R1)
    then()
    get(R1, inode.i_ino)
    if key is not None:
        a.ldx(R5, u64[key])
    if event is not None:
        a.stx(event.inode, R1)
    then()
    # The upper bits, which depend on all so far, to the lower, which choose the set.
    a.mov(R1, R7)
    a.rsh(R1, 32)
    a.xor(R7, R1)
    if not mode:
        return
    # How.
    how = R4
    if key is not None:
        how = R1
        get(R1, file.f_mode)
        a.ldx(R5, u64[key])
    a.and_(how, _FMODE_READ_WRITE)
    then(how)


def leave_seen(probe: Probe) -> View:
    """End a run as "deduplicated" if the open whose fingerprint is in r7 is in its set; clobbers r0-r5.

    Returns:
        The set, in r8.
    """
    a = probe.a
    found = find(a)
    probe.count_as("deduplicated")
    for name in SEEN_SET.fields:
        a.ldx(R1, getattr(found, name))
        a.jeq(R1, R7, probe.counted)
    return found


def find(a: Asm) -> View:
    """The set (in r8) of the fingerprint in r7; clobbers r1."""
    a.mov(R1, R7)
    # The lowest bits too: with --dedup file neighbouring inodes differ in no others, otherwise access modes.
    a.lsh(R1, SEEN_SET.size.bit_length() - 1)
    a.and_(R1, SEEN.value_size - SEEN_SET.size)
    a.ld_map_value(R8, SEEN)
    a.add(R8, R1)
    return a.view(R8, SEEN_SET)


def remember(a: Asm, found: View) -> None:
    """Put the fingerprint in r7 first in its set, when its record is out; clobbers r1."""
    places = [getattr(found, name) for name in SEEN_SET.fields]
    for place, next_ in reversed(list(zip(places, places[1:]))):
        a.ldx(R1, place)
        a.stx(next_, R1)
    a.stx(places[0], R7)
