"""The maps that tell the kernel side whom and what to look at; imported only where something of it is asked for."""

from __future__ import annotations

from pylsm.asm import MapSpec, MapType
from pylsm.light import TYPE_CHECKING
from pylsm.record import Bytes, Int32un, Int64un, Record

if TYPE_CHECKING:
    from typing import Final

__all__ = [
    "CGROUPS",
    "CGROUPS_V1",
    "COMMS",
    "DESTINATIONS",
    "DESTINATIONS_V6",
    "EXECUTABLE",
    "EXECUTABLES",
    "GROUP",
    "LPM_BYTES",
    "NAMES",
    "PATHS",
    "PORTS",
    "SETTING",
    "SETTINGS",
    "USERS",
]

_NO_PREALLOC = 1  # BPF_F_NO_PREALLOC, include/uapi/linux/bpf.h: a trie has to have it

SETTING: Final = Record(
    "pylsm_setting",
    "tag" / Int32un,  # of the family, for who joins on its own
    "itself" / Int32un,  # tgid of the process that reads the events: it never joins
    "mode" / Int32un,  # FMODE_* bits that an open must have
    "reserved" / Int32un,
)
#: What is one number for all.
SETTINGS: Final = MapSpec("pylsm_settings", MapType.ARRAY, key=4, value=SETTING, max_entries=1)

# ---- whom ----------------------------------------------------------------------------------------------------------

#: Real uids in the initial user namespace.
USERS: Final = MapSpec("pylsm_users", MapType.HASH, key=4, value=4, max_entries=1024)
#: Cgroups of the unified hierarchy, from the first place on.
CGROUPS: Final = MapSpec("pylsm_cgroups", MapType.CGROUP_ARRAY, key=4, value=4, max_entries=16)
#: A cgroup of another hierarchy.
GROUP: Final = Record(
    "pylsm_group",
    "id" / Int64un,  # of its kernfs node: the inode number of its directory
    "controller" / Int64un,  # the index in the kernel's enum cgroup_subsys_id
)
CGROUPS_V1: Final = MapSpec("pylsm_groups", MapType.HASH, key=GROUP, value=4, max_entries=64)
#: Names of processes, as `pylsm.audit.globs.Automaton` packs them.
NAMES: Final = Record(
    "pylsm_names", "initial" / Int64un, "stay" / Int64un, "accept" / Int64un, "steps" / Bytes(256 * 8)
)
COMMS: Final = MapSpec("pylsm_comms", MapType.ARRAY, key=4, value=NAMES, max_entries=16)
#: A file that is executed.
EXECUTABLE: Final = Record(
    "pylsm_executable",
    "inode" / Int64un,
    "device" / Int64un,  # as in the kernel: major << 20 | minor
)
EXECUTABLES: Final = MapSpec("pylsm_exes", MapType.HASH, key=EXECUTABLE, value=4, max_entries=16_384)

# ---- what ----------------------------------------------------------------------------------------------------------

#: Longest prefix of a path in the trie: LPM_DATA_SIZE_MAX of kernel/bpf/lpm_trie.c.
LPM_BYTES: Final = 256

# A trie's value is 1 for what is wanted or has to be asked about in user space, 0 for what is not.
PATHS: Final = MapSpec(
    "pylsm_paths", MapType.LPM_TRIE, key=4 + LPM_BYTES, value=4, max_entries=16_384, flags=_NO_PREALLOC
)
DESTINATIONS: Final = MapSpec("pylsm_dst4", MapType.LPM_TRIE, key=8, value=4, max_entries=65_536, flags=_NO_PREALLOC)
DESTINATIONS_V6: Final = MapSpec(
    "pylsm_dst6", MapType.LPM_TRIE, key=20, value=4, max_entries=65_536, flags=_NO_PREALLOC
)
#: A bit for each port that is wanted.
PORTS: Final = MapSpec("pylsm_ports", MapType.ARRAY, key=4, value=65_536 // 8, max_entries=1)
