"""The layouts that bpf(2) takes and returns (include/uapi/linux/bpf.h), each as one structure.

``union bpf_attr`` is written here as one structure per command: the kernel takes any length as long as what it does
not know is zero, so each structure ends at its last field in use. Every hole is written out (``_hole…``): the layout
is the same where 64-bit integers are aligned to 4 bytes. Times are nanoseconds, sizes bytes.
"""

from __future__ import annotations

from pylsm.libc import Layout
from pylsm.light import IntEnum

__all__ = [
    "BatchAttr",
    "BtfInfo",
    "BtfLoadAttr",
    "Cmd",
    "EnableStatsAttr",
    "IdAttr",
    "InfoAttr",
    "IterCreateAttr",
    "LinkCreateAttr",
    "LinkFdAttr",
    "LinkInfo",
    "LinkUpdateAttr",
    "MapCreateAttr",
    "MapElementAttr",
    "MapInfoAttr",
    "PinAttr",
    "ProgInfoAttr",
    "ProgLoadAttr",
    "RawTracepointAttr",
    "TestRunAttr",
]


class Cmd(IntEnum):
    """enum bpf_cmd."""

    MAP_CREATE = 0
    MAP_LOOKUP_ELEM = 1
    MAP_UPDATE_ELEM = 2
    MAP_DELETE_ELEM = 3
    MAP_GET_NEXT_KEY = 4
    PROG_LOAD = 5
    OBJ_PIN = 6
    OBJ_GET = 7
    PROG_ATTACH = 8
    PROG_DETACH = 9
    PROG_TEST_RUN = 10
    PROG_GET_NEXT_ID = 11
    MAP_GET_NEXT_ID = 12
    PROG_GET_FD_BY_ID = 13
    MAP_GET_FD_BY_ID = 14
    OBJ_GET_INFO_BY_FD = 15
    PROG_QUERY = 16
    RAW_TRACEPOINT_OPEN = 17
    BTF_LOAD = 18
    BTF_GET_FD_BY_ID = 19
    TASK_FD_QUERY = 20
    MAP_LOOKUP_AND_DELETE_ELEM = 21
    MAP_FREEZE = 22
    BTF_GET_NEXT_ID = 23
    MAP_LOOKUP_BATCH = 24
    MAP_LOOKUP_AND_DELETE_BATCH = 25
    MAP_UPDATE_BATCH = 26
    MAP_DELETE_BATCH = 27
    LINK_CREATE = 28
    LINK_UPDATE = 29
    LINK_GET_FD_BY_ID = 30
    LINK_GET_NEXT_ID = 31
    ENABLE_STATS = 32
    ITER_CREATE = 33
    LINK_DETACH = 34
    PROG_BIND_MAP = 35
    TOKEN_CREATE = 36


#: BPF_MAP_CREATE.
MapCreateAttr = Layout(
    "MapCreateAttr",
    """
        u32 map_type
        u32 key_size
        u32 value_size
        u32 max_entries
        u32 map_flags
        u32 inner_map_fd
        u32 numa_node
        char map_name[16]
        u32 map_ifindex
        u32 btf_fd
        u32 btf_key_type_id
        u32 btf_value_type_id
        u32 btf_vmlinux_value_type_id
        u64 map_extra
    """,
)

#: BPF_MAP_*_ELEM and BPF_MAP_GET_NEXT_KEY (where ``value`` is the next key).
MapElementAttr = Layout(
    "MapElementAttr",
    """
        u32 map_fd
        u32 _hole0
        u64 key
        u64 value
        u64 flags
    """,
)

#: BPF_MAP_*_BATCH; ``count`` is elements, in and out.
BatchAttr = Layout(
    "BatchAttr",
    """
        u64 in_batch
        u64 out_batch
        u64 keys
        u64 values
        u32 count
        u32 map_fd
        u64 elem_flags
        u64 flags
    """,
)

#: BPF_PROG_LOAD; ``insn_cnt`` is 8-byte slots.
ProgLoadAttr = Layout(
    "ProgLoadAttr",
    """
        u32 prog_type
        u32 insn_cnt
        u64 insns
        u64 license
        u32 log_level
        u32 log_size
        u64 log_buf
        u32 kern_version
        u32 prog_flags
        char prog_name[16]
        u32 prog_ifindex
        u32 expected_attach_type
        u32 prog_btf_fd
        u32 func_info_rec_size
        u64 func_info
        u32 func_info_cnt
        u32 line_info_rec_size
        u64 line_info
        u32 line_info_cnt
        u32 attach_btf_id
        u32 attach_obj_fd
        u32 core_relo_cnt
        u64 fd_array
        u64 core_relos
        u32 core_relo_rec_size
        u32 log_true_size
    """,
)

#: BPF_OBJ_PIN and BPF_OBJ_GET.
PinAttr = Layout(
    "PinAttr",
    """
        u64 pathname
        u32 bpf_fd
        u32 file_flags
        s32 path_fd
        u32 _hole0
    """,
)

#: BPF_PROG_TEST_RUN; ``duration`` is the mean of one run.
TestRunAttr = Layout(
    "TestRunAttr",
    """
        u32 prog_fd
        u32 retval
        u32 data_size_in
        u32 data_size_out
        u64 data_in
        u64 data_out
        u32 repeat
        u32 duration
        u32 ctx_size_in
        u32 ctx_size_out
        u64 ctx_in
        u64 ctx_out
        u32 flags
        u32 cpu
        u32 batch_size
        u32 _hole0
    """,
)

#: BPF_*_GET_FD_BY_ID and BPF_*_GET_NEXT_ID.
IdAttr = Layout(
    "IdAttr",
    """
        u32 id
        u32 next_id
        u32 open_flags
    """,
)

#: BPF_OBJ_GET_INFO_BY_FD; ``info`` points to one of the *Info* structures below.
InfoAttr = Layout(
    "InfoAttr",
    """
        u32 bpf_fd
        u32 info_len
        u64 info
    """,
)

#: BPF_RAW_TRACEPOINT_OPEN; ``name`` is null for a program that was loaded for a BTF id (LSM, fentry, tp_btf).
RawTracepointAttr = Layout(
    "RawTracepointAttr",
    """
        u64 name
        u32 prog_fd
        u32 _hole0
        u64 cookie
    """,
)

#: BPF_BTF_LOAD.
BtfLoadAttr = Layout(
    "BtfLoadAttr",
    """
        u64 btf
        u64 btf_log_buf
        u32 btf_size
        u32 btf_log_size
        u32 btf_log_level
        u32 btf_log_true_size
    """,
)

#: BPF_LINK_CREATE. From byte 16 it is a union per attach type: ``iter_info`` is its first 8 bytes (also the perf
#: event's cookie, or the BTF id), ``iter_info_len`` the next 4; ``cookie`` is the one of a tracing link.
LinkCreateAttr = Layout(
    "LinkCreateAttr",
    """
        u32 prog_fd
        u32 target_fd
        u32 attach_type
        u32 flags
        u64 iter_info
        u64 cookie
    """,
)

#: BPF_LINK_DETACH.
LinkFdAttr = Layout("LinkFdAttr", "u32 link_fd")

#: BPF_LINK_UPDATE.
LinkUpdateAttr = Layout(
    "LinkUpdateAttr",
    """
        u32 link_fd
        u32 new_prog_fd
        u32 flags
        u32 old_prog_fd
    """,
)

#: BPF_ENABLE_STATS; ``type`` 0 is run time.
EnableStatsAttr = Layout("EnableStatsAttr", "u32 type")

#: BPF_ITER_CREATE.
IterCreateAttr = Layout(
    "IterCreateAttr",
    """
        u32 link_fd
        u32 flags
    """,
)

#: struct bpf_map_info.
MapInfoAttr = Layout(
    "MapInfoAttr",
    """
        u32 type
        u32 id
        u32 key_size
        u32 value_size
        u32 max_entries
        u32 map_flags
        char name[16]
        u32 ifindex
        u32 btf_vmlinux_value_type_id
        u64 netns_dev
        u64 netns_ino
        u32 btf_id
        u32 btf_key_type_id
        u32 btf_value_type_id
        u32 btf_vmlinux_id
        u64 map_extra
    """,
)

#: struct bpf_prog_info.
ProgInfoAttr = Layout(
    "ProgInfoAttr",
    """
        u32 type
        u32 id
        u8 tag[8]
        u32 jited_prog_len
        u32 xlated_prog_len
        u64 jited_prog_insns
        u64 xlated_prog_insns
        u64 load_time
        u32 created_by_uid
        u32 nr_map_ids
        u64 map_ids
        char name[16]
        u32 ifindex
        u32 gpl_compatible
        u64 netns_dev
        u64 netns_ino
        u32 nr_jited_ksyms
        u32 nr_jited_func_lens
        u64 jited_ksyms
        u64 jited_func_lens
        u32 btf_id
        u32 func_info_rec_size
        u64 func_info
        u32 nr_func_info
        u32 nr_line_info
        u64 line_info
        u64 jited_line_info
        u32 nr_jited_line_info
        u32 line_info_rec_size
        u32 jited_line_info_rec_size
        u32 nr_prog_tags
        u64 prog_tags
        u64 run_time_ns
        u64 run_cnt
        u64 recursion_misses
        u32 verified_insns
        u32 attach_btf_obj_id
        u32 attach_btf_id
        u32 _hole0
    """,
)

#: struct bpf_link_info; what follows ``prog_id`` is a union per link type, kept as it came.
LinkInfo = Layout(
    "LinkInfo",
    """
        u32 type
        u32 id
        u32 prog_id
        u32 _hole0
        u8 detail[64]
    """,
)

#: struct bpf_btf_info.
BtfInfo = Layout(
    "BtfInfo",
    """
        u64 btf
        u32 btf_size
        u32 id
        u64 name
        u32 name_len
        u32 kernel_btf
    """,
)
