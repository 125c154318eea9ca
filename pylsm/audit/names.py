"""Names and numbers that the kernel side and user space have in common: kinds of events, maps, counters.

This is all that a start from the cache has to know of them. The layouts are in `pylsm.audit.records`, the maps in
`pylsm.audit.maps`, the events in `pylsm.audit.events`: they are imported when something is prepared, or comes.
"""

from __future__ import annotations

from struct import Struct

from pylsm.errors import PylsmError
from pylsm.light import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Final

__all__ = [
    "CONTEXT_EVENTS",
    "COUNTERS",
    "COUNTS",
    "DEFAULT",
    "EVENTS",
    "FAMILY_SIZE",
    "HEAD",
    "KIND_BIND",
    "KIND_BPF",
    "KIND_CHMOD",
    "KIND_CONNECT",
    "KIND_EXEC",
    "KIND_EXIT",
    "KIND_FORK",
    "KIND_KILL",
    "KIND_LISTEN",
    "KIND_MKDIR",
    "KIND_MMAP",
    "KIND_MODULE",
    "KIND_MOUNT",
    "KIND_OPEN",
    "KIND_PTRACE",
    "KIND_RENAME",
    "KIND_SENDTO",
    "KIND_UNLINK",
    "MARKS",
    "RING",
    "RING_BYTES",
    "SET",
    "SOURCE_LSM",
    "TRACED",
    "WALKERS",
    "EventName",
    "again",
    "choose",
]

SOURCE_LSM: Final = 8
KIND_CONNECT: Final = 1
KIND_OPEN: Final = 2
KIND_SENDTO: Final = 3
KIND_EXEC: Final = 4
KIND_EXIT: Final = 5
KIND_FORK: Final = 6
KIND_BIND: Final = 7
KIND_LISTEN: Final = 8
KIND_UNLINK: Final = 9
KIND_RENAME: Final = 10
KIND_MKDIR: Final = 11
KIND_CHMOD: Final = 12
KIND_MMAP: Final = 13
KIND_PTRACE: Final = 14
KIND_KILL: Final = 15
KIND_MOUNT: Final = 16
KIND_MODULE: Final = 17
KIND_BPF: Final = 18
#: What every record begins with: source, kind, and tgid << 32 | tid.
HEAD: Final = Struct("=IHxxQ")

#: The maps of `pylsm.audit.maps` that user space looks into.
TRACED: Final = "traced_processes"
RING: Final = "pylsm_ring"
MARKS: Final = "pylsm_marks"
SET: Final = "pylsm_set"
COUNTS: Final = "pylsm_counts"
WALKERS: Final = "pylsm_walkers"
#: How many processes can be traced at a time, and the size of the ring, unless said otherwise.
FAMILY_SIZE: Final = 16_384
RING_BYTES: Final = 4 << 20

#: Per-CPU counters, in the order of the map's entries. Each run of a hook increments one of "untraced" to "unreadable"
#: or "filtered", or sends a record. What is numbered is sent or counted as lost, so that the records sent need no count
#: of their own.
COUNTERS: Final = (
    "family_full",  # children that could not be added to the family
    "untraced",  # the process is of no traced family
    "ignored",  # traced, but no event: AF_UNIX, AF_UNSPEC, an address too short to be one
    "deduplicated",
    "lost",  # numbered, but there was no room for it
    "unreadable",  # the subject could not be read (a page not present, a file closed meanwhile)
    "numbered",  # sequence numbers taken: the next one, for each CPU
    "filtered",  # traced, but not what the filters ask for
)


class EventName(NamedTuple):
    """A kind of event.

    Attributes:
        name: as in ``--events`` and in the output.
        kind: its number in a record.
        programs: names of the programs that record it, each in some of the sources.
        default: it is recorded unless events are chosen.
    """

    name: str
    kind: int
    programs: tuple[str, ...]
    default: bool = False


#: Every kind of event, in the order in which they are listed.
EVENTS: Final = (
    EventName("connect", KIND_CONNECT, ("socket_connect", "sys_enter"), True),
    EventName("open", KIND_OPEN, ("file_open", "sys_exit"), True),
    EventName("sendto", KIND_SENDTO, ("socket_sendmsg", "sys_enter_send"), True),
    EventName("exec", KIND_EXEC, ("exec",), True),
    EventName("exit", KIND_EXIT, ("exit",), True),
    EventName("fork", KIND_FORK, ("fork",)),
    EventName("bind", KIND_BIND, ("socket_bind", "sys_enter_bind")),
    EventName("listen", KIND_LISTEN, ("socket_listen", "sys_enter_listen")),
    EventName("unlink", KIND_UNLINK, ("path_unlink", "path_rmdir")),
    EventName("rename", KIND_RENAME, ("path_rename",)),
    EventName("mkdir", KIND_MKDIR, ("path_mkdir",)),
    EventName("chmod", KIND_CHMOD, ("path_chmod",)),
    EventName("mmap", KIND_MMAP, ("mmap_file",)),
    EventName("ptrace", KIND_PTRACE, ("ptrace_access_check",)),
    EventName("kill", KIND_KILL, ("task_kill",)),
    EventName("mount", KIND_MOUNT, ("sb_mount", "move_mount")),
    EventName("module", KIND_MODULE, ("kernel_module_request", "module_load")),
    EventName("bpf", KIND_BPF, ("bpf", "sys_enter_bpf")),
)

#: Names of those that are recorded unless events are chosen.
DEFAULT: Final = tuple(event.name for event in EVENTS if event.default)
#: Kinds of events that contexts are made of.
CONTEXT_EVENTS: Final = ("exec", "exit", "fork")


def choose(names: Iterable[str]) -> tuple[str, ...]:
    """The kinds that these names stand for, in the order of `EVENTS`.

    Args:
        names: of kinds; "default" stands for `DEFAULT`, "all" for all.

    Raises:
        PylsmError: there is no such kind, or none is named.
    """
    groups = {"default": DEFAULT, "all": tuple(event.name for event in EVENTS)}
    known = {**{name: (name,) for name in groups["all"]}, **groups}
    chosen: set[str] = set()
    for name in names:
        if name not in known:
            from pylsm.btf.nearest import nearest_names

            near = nearest_names(name, known, 1)
            raise PylsmError(
                f"there is no kind of event {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""),
                hint="there are: " + ", ".join(known),
            )
        chosen.update(known[name])
    if not chosen:
        raise PylsmError("no kind of event is named", hint="there are: " + ", ".join(known))
    return tuple(name for name in groups["all"] if name in chosen)


def again(program: str) -> str:
    """The name of the map by which a program calls itself with more to be done (`pylsm.audit.maps.again`)."""
    return f"on_{program}"
