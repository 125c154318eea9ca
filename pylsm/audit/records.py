"""What the kernel side writes and the Python side reads: each layout once.

Every record in the ring starts with its source, so that several producers can share one ring:
1 process, 2 TLS, 3 process monitor, 4 file watch, 5 file write, 6 UDP DNS, 7 scheduler, 8 LSM (ours).
"""

from __future__ import annotations

from typing import Final

from construct import Bytes, GreedyBytes, Int16ub, Int16un, Int32un, Int64un

from pylsm.record import Record

__all__ = [
    "CONNECT",
    "COUNTERS",
    "FILE_OPEN",
    "FLAG_BASENAME",
    "FLAG_TRUNCATED",
    "KIND_CONNECT",
    "KIND_OPEN",
    "PATH_MAX",
    "SCRATCH",
    "SCRATCH_RECORD",
    "SEEN_KEY",
    "SOURCE_LSM",
    "TGID",
]

SOURCE_LSM: Final = 8
KIND_CONNECT: Final = 1
KIND_OPEN: Final = 2

#: The path is only the last component: the full path could not be had.
FLAG_BASENAME: Final = 1
#: The front of the path is missing: it is longer than the kernel side walks.
FLAG_TRUNCATED: Final = 2

#: Longest path in a record, its NUL included (include/uapi/linux/limits.h).
PATH_MAX: Final = 4096

# pid_tgid and uid_gid are stored as the helpers return them: one store each, whatever the byte order.
_HEADER = (
    "source" / Int32un,
    "kind" / Int16un,
    "flags" / Int16un,
    "pid_tgid" / Int64un,  # tgid << 32 | tid, in the initial pid namespace
    "uid_gid" / Int64un,  # gid << 32 | uid
    "time" / Int64un,  # CLOCK_MONOTONIC, nanoseconds
    "comm" / Bytes(16),
)

CONNECT: Final = Record(
    "pylsm_connect",
    *_HEADER,
    "family" / Int16un,  # AF_INET or AF_INET6
    "port" / Int16ub,
    "reserved" / Int32un,
    "address" / Bytes(16),  # an IPv4 address in the first four, then zeros
)

FILE_OPEN: Final = Record(
    "pylsm_file_open",
    *_HEADER,
    "inode" / Int64un,
    "device" / Int32un,  # as in the kernel: major << 20 | minor
    "open_flags" / Int32un,  # file->f_flags, O_*
    "granted" / Int32un,  # file->f_mode, FMODE_*
    "reserved" / Int32un,
    "path" / GreedyBytes,  # as long as it is, with its NUL
)

#: Key of the table of opens already recorded. The start time and the count of execs make a process incarnation of a
#: tgid: neither a later process with the same number nor a new program in the same process is taken for the old.
SEEN_KEY: Final = Record(
    "pylsm_seen",
    "start_time" / Int64un,
    "inode" / Int64un,
    "device" / Int32un,
    "tgid" / Int32un,
    "exec_id" / Int32un,
    "access" / Int32un,  # FMODE_READ | FMODE_WRITE
)

#: Per-CPU counters. Each run of a hook increments exactly one of the first six.
COUNTERS: Final = Record(
    "pylsm_counters",
    "untraced" / Int64un,  # the process is of no traced family
    "ignored" / Int64un,  # traced, but no event: AF_UNIX, AF_UNSPEC, an address too short to be one
    "deduplicated" / Int64un,
    "recorded" / Int64un,
    "lost" / Int64un,  # no room in the ring
    "unreadable" / Int64un,  # the subject could not be read (a page not present, a file closed meanwhile)
    "family_full" / Int64un,  # children that could not be added to the family
)

TGID: Final = Record("pylsm_tgid", "tgid" / Int32un)

# Where a record of variable length is put together. `busy` keeps a program that preempts another on the same CPU
# from writing into the other's buffer. `build` is filled from its end by the walk over dentries.
_BUILD = PATH_MAX + 256
SCRATCH_RECORD: Final = 8
SCRATCH: Final = Record(
    "pylsm_scratch",
    "busy" / Int32un,
    "reserved" / Int32un,
    "record" / Bytes(FILE_OPEN.size + PATH_MAX),
    "build" / Bytes(_BUILD),
)
