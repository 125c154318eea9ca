"""What the kernel side writes and the Python side reads: each layout once.

Every record in the ring starts with its source, so that several producers can share one ring:
1 process, 2 TLS, 3 process monitor, 4 file watch, 5 file write, 6 UDP DNS, 7 scheduler, 8 LSM (ours).
"""

from __future__ import annotations

from pylsm.light import TYPE_CHECKING
from pylsm.record import Bytes, GreedyBytes, Int16ub, Int16un, Int32un, Int64un, Record

if TYPE_CHECKING:
    from typing import Final

__all__ = [
    "CONNECT",
    "COUNTERS",
    "FILE_OPEN",
    "FLAG_BASENAME",
    "FLAG_TRUNCATED",
    "FLAG_UNLINKED",
    "KIND_CONNECT",
    "KIND_OPEN",
    "MEMBER",
    "OPENED",
    "PATH_MAX",
    "RECENT",
    "SCRATCH",
    "SCRATCH_RECORD",
    "SEEN_KEY",
    "SOURCE_LSM",
    "TGID",
]

SOURCE_LSM: Final = 8
KIND_CONNECT: Final = 1
KIND_OPEN: Final = 2

#: The path is only the last component: the directories above it could not be read.
FLAG_BASENAME: Final = 1
#: The front of the path is missing: it is longer than PATH_MAX, or a directory above could not be read.
FLAG_TRUNCATED: Final = 2
#: The file has no name any more: no link, or its directory entry is gone. A path's " (deleted)" can be part of a name.
FLAG_UNLINKED: Final = 4

#: Longest path in a record, its NUL included (include/uapi/linux/limits.h).
PATH_MAX: Final = 4096

#: How many of its latest opens are kept with a process, a power of two.
RECENT: Final = 16

# pid_tgid and uid_gid are stored as the helpers return them: one store each, whatever the byte order.
_HEADER = (
    "source" / Int32un,
    "kind" / Int16un,
    "flags" / Int16un,
    "pid_tgid" / Int64un,  # tgid << 32 | tid, in the initial pid namespace
    "uid_gid" / Int64un,  # gid << 32 | uid
    "time" / Int64un,  # CLOCK_BOOTTIME, nanoseconds: it goes on while the machine is suspended
    "sequence" / Int64un,  # 0, 1, 2 … on each processor, taken before the record is sent: a lost record leaves a gap
    "comm" / Bytes(16),
    "cpu" / Int32un,
)

CONNECT: Final = Record(
    "pylsm_connect",
    *_HEADER,
    "family" / Int16un,  # AF_INET or AF_INET6
    "port" / Int16ub,
    "address" / Bytes(16),  # an IPv4 address in the first four, then zeros
)

FILE_OPEN: Final = Record(
    "pylsm_file_open",
    *_HEADER,
    "device" / Int32un,  # as in the kernel: major << 20 | minor
    "inode" / Int64un,
    "open_flags" / Int32un,  # file->f_flags, O_*
    "granted" / Int32un,  # file->f_mode, FMODE_*
    "mnt_ns" / Int32un,  # the process's mount namespace, as stat /proc/PID/ns/mnt gives it
    "path" / GreedyBytes,  # as long as it is, with its NUL
)

# What a process opens, and how.
_OPENED = (
    "inode" / Int64un,
    "device" / Int32un,
    "how" / Int32un,  # self_exec_id << 2 | (FMODE_READ | FMODE_WRITE)
)
OPENED: Final = Record("pylsm_opened", *_OPENED)

#: Key of the table of opens already recorded. The start time and the count of execs make a process incarnation of a
#: tgid: neither a later process with the same number nor a new program in the same process is taken for the old.
SEEN_KEY: Final = Record(
    "pylsm_seen",
    *_OPENED,
    "who" / Int64un,  # start time in units of 1,024 ns << 22 | tgid, which has no more bits (PID_MAX_LIMIT)
)

#: Per-CPU counters. Each run of a hook increments exactly one of the first six and `filtered`.
COUNTERS: Final = Record(
    "pylsm_counters",
    "untraced" / Int64un,  # the process is of no traced family
    "ignored" / Int64un,  # traced, but no event: AF_UNIX, AF_UNSPEC, an address too short to be one
    "deduplicated" / Int64un,
    "recorded" / Int64un,
    "lost" / Int64un,  # no room in the ring
    "unreadable" / Int64un,  # the subject could not be read (a page not present, a file closed meanwhile)
    "family_full" / Int64un,  # children that could not be added to the family
    "numbered" / Int64un,  # sequence numbers taken: the next one, for each CPU
    "filtered" / Int64un,  # traced, but not what the filters ask for
)

TGID: Final = Record("pylsm_tgid", "tgid" / Int32un)

#: What the kernel keeps beside the leader of each traced process, and frees with it.
MEMBER: Final = Record(
    "pylsm_member",
    "tag" / Int32un,
    "reserved" / Int32un,
    "recent" / Bytes(RECENT * OPENED.size),  # opens already recorded, each in the place of its inode number
)

# Where a record of variable length is put together. `owner` is the thread that does so: a program that preempts another
# on the same CPU must not write into its buffer. The fields up to `record` are the state of the walk over dentries
# (pylsm.audit.programs.path), which fills `build` from its end.
_BUILD = PATH_MAX + 256
SCRATCH: Final = Record(
    "pylsm_scratch",
    "owner" / Int32un,  # a tid, 0: free
    "resumed" / Int32un,  # how often the walk went on in a further run
    "file" / Int64un,
    "dentry" / Int64un,
    "mount" / Int64un,  # struct vfsmount
    "mount_root" / Int64un,  # its root
    "root_dentry" / Int64un,
    "root_mount" / Int64un,
    "start" / Int32un,  # of the text behind the path, in `build`
    "place" / Int32un,  # of the path's first byte so far, in `build`
    "record" / Bytes(FILE_OPEN.size + PATH_MAX),
    "build" / Bytes(_BUILD),
)
SCRATCH_RECORD: Final = SCRATCH.field("record")[0]
