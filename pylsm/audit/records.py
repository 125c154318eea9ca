"""What the kernel side writes and the Python side reads: each layout once.

Every record in the ring starts with its source, so that several producers can share one ring:
1 process, 2 TLS, 3 process monitor, 4 file watch, 5 file write, 6 UDP DNS, 7 scheduler, 8 LSM (ours).
"""

from __future__ import annotations

from pylsm.audit import names
from pylsm.audit.names import (
    KIND_BIND,
    KIND_BPF,
    KIND_CHMOD,
    KIND_CONNECT,
    KIND_EXEC,
    KIND_EXIT,
    KIND_FORK,
    KIND_KILL,
    KIND_LISTEN,
    KIND_MKDIR,
    KIND_MMAP,
    KIND_MODULE,
    KIND_MOUNT,
    KIND_OPEN,
    KIND_PTRACE,
    KIND_RENAME,
    KIND_SENDTO,
    KIND_UNLINK,
    SOURCE_LSM,
)
from pylsm.light import TYPE_CHECKING
from pylsm.record import Bytes, GreedyBytes, Int16ub, Int16un, Int32un, Int64un, Record

if TYPE_CHECKING:
    from typing import Final

__all__ = [
    "ACT",
    "ARGUMENTS_MOST",
    "CONNECT",
    "COUNTERS",
    "EXEC",
    "EXIT",
    "FILE_OPEN",
    "FLAG_ARGUMENTS",
    "FLAG_BASENAME",
    "FLAG_DIRECTORY",
    "FLAG_FASTOPEN",
    "FLAG_REQUESTED",
    "FLAG_TRUNCATED",
    "FLAG_UNLINKED",
    "FORK",
    "INTERPRETER_MOST",
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
    "LISTEN",
    "MEMBER",
    "NAME_MOST",
    "PATH_MAX",
    "PLACE",
    "SCRATCH",
    "SCRATCH_RECORD",
    "SEEN_SET",
    "SENDTO",
    "SENT_KEY",
    "SETTINGS",
    "SHORT_OPEN",
    "SOURCE_LSM",
    "TAIL_MOST",
    "TGID",
]

#: The path is only the last component: the directories above it could not be read.
FLAG_BASENAME: Final = 1
#: The front of the path is missing: it is longer than PATH_MAX, or a directory above could not be read.
FLAG_TRUNCATED: Final = 2
#: The file has no name any more: no link, or its directory entry is gone. A path's " (deleted)" can be part of a name.
FLAG_UNLINKED: Final = 4

#: The message opens a TCP connection (MSG_FASTOPEN).
FLAG_FASTOPEN: Final = 8
#: Not all arguments are in the record: there are more, or they could not be read.
FLAG_ARGUMENTS: Final = 16

#: What is removed is a directory; a module is asked for by the kernel, and not loaded by the process itself.
FLAG_DIRECTORY: Final = 32
FLAG_REQUESTED: Final = 64

#: Longest path in a record, its NUL included (include/uapi/linux/limits.h).
PATH_MAX: Final = 4096

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

_FILE_OPEN = (
    *_HEADER,
    "device" / Int32un,  # as in the kernel: major << 20 | minor
    "inode" / Int64un,
    "open_flags" / Int32un,  # file->f_flags, O_*
    "granted" / Int32un,  # file->f_mode, FMODE_*
    "mnt_ns" / Int32un,  # the process's mount namespace, as stat /proc/PID/ns/mnt gives it
)
FILE_OPEN: Final = Record("pylsm_file_open", *_FILE_OPEN, "path" / GreedyBytes)  # as long as it is, with its NUL
#: The same while it is put together on the stack, with room for the paths that are common.
SHORT_OPEN: Final = Record("pylsm_short_open", *_FILE_OPEN, "path" / Bytes(256))

#: Fingerprints of opens already recorded that share their lower bits, the latest first (pylsm.audit.programs.seen).
SEEN_SET: Final = Record(
    "pylsm_seen",
    "first" / Int64un,
    "second" / Int64un,
)

SENDTO: Final = Record(
    "pylsm_sendto",
    *_HEADER,
    "family" / Int16un,  # as in CONNECT
    "port" / Int16ub,
    "address" / Bytes(16),
    "protocol" / Int32un,  # IPPROTO_*
)

#: Most bytes of a program's name as it was given, of its interpreter's (BINPRM_BUF_SIZE), and of its arguments.
NAME_MOST: Final = 512
INTERPRETER_MOST: Final = 256
ARGUMENTS_MOST: Final = 4096
EXEC: Final = Record(
    "pylsm_exec",
    *_HEADER,
    "ppid" / Int32un,  # the parent's tgid, in the initial pid namespace
    "cgroup" / Int64un,  # id of the cgroup (v2)
    "mnt_ns" / Int32un,  # inode numbers of namespaces
    "net_ns" / Int32un,
    "euid" / Int32un,
    # Parts of the tail, each with its NUL, one behind the other; then the arguments, each with its NUL.
    "path_size" / Int16un,  # of what is executed: for a script, its interpreter
    "name_size" / Int16un,  # of a script, as it was given; 0 for other programs
    "interpreter_size" / Int16un,  # as the script has it; 0 for other programs
    "reserved" / Int16un,
    "texts" / GreedyBytes,
)

EXIT: Final = Record(
    "pylsm_exit",
    *_HEADER,
    "code" / Int32un,  # as wait(2) gives it
    "began" / Int64un,  # CLOCK_BOOTTIME, nanoseconds
)

LISTEN: Final = Record(
    "pylsm_listen",
    *_HEADER,
    "family" / Int16un,  # as in CONNECT
    "port" / Int16un,  # 0: the kernel will choose one
    "address" / Bytes(16),
    "backlog" / Int32un,
)

#: What is done to a process, or through a system call that has one number of interest.
ACT: Final = Record(
    "pylsm_act",
    *_HEADER,
    "target" / Int32un,  # a tgid in the initial pid namespace, or 0
    "number" / Int32un,  # of a signal, of a command
)

#: What is done to a place in the tree of files.
PLACE: Final = Record(
    "pylsm_place",
    *_HEADER,
    "value" / Int32un,  # mode bits, PROT_*, MS_*
    # Parts of the tail, each with its NUL, one behind the other.
    "path_size" / Int16un,
    "second_size" / Int16un,
    "third_size" / Int16un,
    "reserved" / Int16un,
    "texts" / GreedyBytes,
)

FORK: Final = Record(
    "pylsm_fork",
    *_HEADER,
    "child" / Int32un,  # tgids in the initial pid namespace
    "parent" / Int32un,  # the child's, which is not this process where that has said so (CLONE_PARENT)
)

#: Key of the table of destinations already recorded. The start time and the count of execs make a process incarnation
#: of a tgid: neither a later process with the same number nor a new program in the same process is taken for the old.
SENT_KEY: Final = Record(
    "pylsm_sent",
    "who" / Int64un,  # start time in units of 1,024 ns << 22 | tgid, which has no more bits (PID_MAX_LIMIT)
    "address" / Bytes(16),
    "family" / Int16un,
    "port" / Int16ub,
    "protocol" / Int32un,
    "execs" / Int32un,  # self_exec_id
    "reserved" / Int32un,
)

#: What user space tells the programs.
SETTINGS: Final = Record(
    "pylsm_settings",
    "marked" / Int32un,  # not 0: every traced process carries a mark (`pylsm.audit.maps.MARKS`)
    "reserved" / Int32un,
    "key" / Int64un,  # of the fingerprints: a secret, even
)

#: `pylsm.audit.names.COUNTERS` as `pylsm.asm` wants a layout.
COUNTERS: Final = Record("pylsm_counters", *(name / Int64un for name in names.COUNTERS))

TGID: Final = Record("pylsm_tgid", "tgid" / Int32un)

#: What the kernel keeps beside the leader of each traced process, and frees with it.
MEMBER: Final = Record(
    "pylsm_member",
    "tag" / Int32un,
)

# Where a record of variable length is put together. `owner` is the thread that does so: a program that preempts another
# on the same CPU must not write into its buffer. The fields up to `record` are the state of the walk over dentries
# (pylsm.audit.programs.path), which fills `build` from its end.
_BUILD = PATH_MAX + 256
#: The longest tail of a record.
TAIL_MOST: Final = PATH_MAX + NAME_MOST + INTERPRETER_MOST + ARGUMENTS_MOST
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
    "phase" / Int32un,  # which of a record's paths is being put together
    "at" / Int32un,  # how many bytes of the tail are there
    "fingerprint" / Int64un,  # of the open (pylsm.audit.programs.seen)
    "record" / Bytes(TAIL_MOST + 256),
    "build" / Bytes(_BUILD),
)
SCRATCH_RECORD: Final = SCRATCH.field("record")[0]
