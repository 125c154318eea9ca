"""The maps of the probe."""

from __future__ import annotations

from pylsm.asm import MapSpec, MapType
from pylsm.audit import names
from pylsm.audit.records import COUNTERS, MEMBER, SCRATCH, SEEN_SET, SENT_KEY, SETTINGS, TGID
from pylsm.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

__all__ = [
    "COUNTS",
    "MARKS",
    "RING",
    "SCRATCHES",
    "SEEN",
    "SENT",
    "SET",
    "TRACED",
    "WALKERS",
    "WITHIN",
    "again",
    "table_of",
]

_NO_PREALLOC = 1  # BPF_F_NO_PREALLOC, include/uapi/linux/bpf.h: a storage map has to have it

#: The traced family: tgid in the initial pid namespace → a tag that children inherit.
TRACED: Final = MapSpec(names.TRACED, MapType.HASH, key=TGID, value=4, max_entries=names.FAMILY_SIZE)
#: Marks the leaders of traced processes, in storage of their tasks: where there is none, one load tells that a process
#: is not traced, and the map of numbers need not be searched.
MARKS: Final = MapSpec(names.MARKS, MapType.TASK_STORAGE, key=4, value=MEMBER, max_entries=0, flags=_NO_PREALLOC)
#: What user space sets. `marked` not 0: every traced process carries a mark. Otherwise each process has to be searched
#: by its number: for families that others add to, where a mark could not be made, and where others load the programs (0
#: is what they start with).
SET: Final = MapSpec(names.SET, MapType.ARRAY, key=4, value=SETTINGS, max_entries=1)
RING: Final = MapSpec(names.RING, MapType.RINGBUF, max_entries=names.RING_BYTES)
#: Opens already recorded (pylsm.audit.programs.seen): sets, whose number is a power of two. All are one value, whose
#: address a program has in it, so that no element is looked up; before 5.18 none may be larger.
SEEN: Final = MapSpec("pylsm_seen", MapType.ARRAY, key=4, value=SEEN_SET.size << 17, max_entries=1)
#: When an open was recorded last, by its fingerprint: with --dedup window only.
WITHIN: Final = MapSpec("pylsm_within", MapType.LRU_HASH, key=8, value=4, max_entries=65_536)
#: Destinations already recorded.
SENT: Final = MapSpec("pylsm_sent", MapType.LRU_HASH, key=SENT_KEY, value=4, max_entries=16_384)
#: One entry for each field of COUNTERS, in their order.
COUNTS: Final = MapSpec(names.COUNTS, MapType.PERCPU_ARRAY, key=4, value=8, max_entries=len(COUNTERS.fields))
#: One buffer for each program that can be preempted by another on a CPU; a fourth would count as lost.
SCRATCHES: Final = MapSpec("pylsm_scratch", MapType.PERCPU_ARRAY, key=4, value=SCRATCH, max_entries=3)
#: The program that walks a path (pylsm.audit.programs.path), to be tail-called.
WALKERS: Final = MapSpec(names.WALKERS, MapType.PROG_ARRAY, key=4, value=4, max_entries=1)


def table_of(walker: str) -> str:
    """The name of the program array in which the walker of this name is looked for."""
    return WALKERS.name


_AGAIN: dict[str, MapSpec] = {}


def again(program: str) -> MapSpec:
    """The program array that holds the program of this name alone, for it to call itself with more to be done.

    The kernel keeps 15 bytes of a map's name, by which a program that is read back is proved.
    """
    if program not in _AGAIN:
        _AGAIN[program] = MapSpec(names.again(program), MapType.PROG_ARRAY, key=4, value=4, max_entries=1)
    return _AGAIN[program]
