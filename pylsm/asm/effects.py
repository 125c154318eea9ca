"""What a helper or kfunc does besides returning a value: the calls an observer may make, each with the reason.

An allow-list: what is not here is refused. Among what is missing, on purpose: ``send_signal``, ``override_return``,
``probe_write_user``, ``set_retval``, ``tail_call`` (the program that runs next is not the one that was proved),
``sys_bpf``, timers (they run later, elsewhere), everything that changes a packet or a socket, and ``copy_from_user``
(a page fault lasts as long as whoever serves it likes: userfaultfd).
"""

from __future__ import annotations

from pylsm.asm.maps import MapType
from pylsm.light import NamedTuple

__all__ = ["DATA_MAPS", "Effect", "helper_effect", "kfunc_effect"]


class Effect(NamedTuple):
    """What a call does with its arguments.

    ``arguments``: one letter each: ``m`` a map of the program; ``w`` memory that is written, as many bytes as the next
    argument (``#``) says; ``v`` memory that is written, as many bytes as a value of the map has; ``8`` memory of which
    8 bytes are written; ``f`` a function that is called back; ``s`` anything, only read.
    ``result``: "value" (address in a value of the map, or null), "record" (a ring buffer record, or null), "kernel"
    (an address of the kernel's) or "" (a number).
    ``reason``: why an observer may make the call.
    ``writes_map``: whether the map's contents change.
    """

    name: str
    arguments: str
    result: str
    reason: str
    writes_map: bool = False


#: Maps that are nothing but memory. Writing to a map of sockets, programs or devices changes what others do.
DATA_MAPS = frozenset(
    {
        MapType.HASH,
        MapType.ARRAY,
        MapType.PERCPU_HASH,
        MapType.PERCPU_ARRAY,
        MapType.LRU_HASH,
        MapType.LRU_PERCPU_HASH,
        MapType.LPM_TRIE,
        MapType.QUEUE,
        MapType.STACK,
        MapType.SK_STORAGE,
        MapType.INODE_STORAGE,
        MapType.TASK_STORAGE,
        MapType.CGRP_STORAGE,
        MapType.BLOOM_FILTER,
        MapType.RINGBUF,
        MapType.PERF_EVENT_ARRAY,
        MapType.STACK_TRACE,
    }
)

_READS_MAP = "reads a map of the probe"
_WRITES_MAP = "changes a map of the probe, nothing else"
_RING = "gives a record to the probe's own ring; never waits"
_COPY = "copies memory to the probe's own; what cannot be read gives an error, not a fault"
_WHO = "reads who the current task is"
_CLOCK = "reads a clock"
_LOOP = "calls a function of this program, which is analysed with it"
_HOOK = "reads the arguments of the hook"
_STORAGE = "memory of the probe that lives as long as the kernel object"
_READ = "reads a number"

_HELPERS = (
    Effect("map_lookup_elem", "ms", "value", _READS_MAP),
    Effect("map_lookup_percpu_elem", "mss", "value", _READS_MAP),
    Effect("map_update_elem", "msss", "", _WRITES_MAP, True),
    Effect("map_delete_elem", "ms", "", _WRITES_MAP, True),
    Effect("map_push_elem", "mss", "", _WRITES_MAP, True),
    Effect("map_pop_elem", "mv", "", _WRITES_MAP, True),
    Effect("map_peek_elem", "mv", "", _READS_MAP),
    Effect("for_each_map_elem", "mfss", "", _LOOP),
    Effect("loop", "sfss", "", _LOOP),
    Effect("ringbuf_output", "msss", "", _RING, True),
    Effect("ringbuf_reserve", "mss", "record", _RING, True),
    Effect("ringbuf_submit", "ss", "", _RING),
    Effect("ringbuf_discard", "ss", "", _RING),
    Effect("ringbuf_query", "ms", "", _READS_MAP),
    Effect("perf_event_output", "smsss", "", "gives a record to the probe's own perf buffers; never waits", True),
    Effect("probe_read", "w#s", "", _COPY),
    Effect("probe_read_str", "w#s", "", _COPY),
    Effect("probe_read_user", "w#s", "", _COPY),
    Effect("probe_read_user_str", "w#s", "", _COPY),
    Effect("probe_read_kernel", "w#s", "", _COPY),
    Effect("probe_read_kernel_str", "w#s", "", _COPY),
    Effect("d_path", "sw#", "", "writes a path to the probe's own memory; takes no lock that a task could hold"),
    Effect("get_current_comm", "w#", "", _WHO),
    Effect("get_current_pid_tgid", "", "", _WHO),
    Effect("get_current_uid_gid", "", "", _WHO),
    Effect("get_ns_current_pid_tgid", "ssw#", "", _WHO),
    Effect("get_current_task", "", "kernel", _WHO),
    Effect("get_current_task_btf", "", "kernel", _WHO),
    Effect("get_current_cgroup_id", "", "", _WHO),
    Effect("get_current_ancestor_cgroup_id", "s", "", _WHO),
    Effect("current_task_under_cgroup", "ms", "", _WHO),
    Effect("task_pt_regs", "s", "kernel", "reads where a task's registers are kept"),
    Effect("ktime_get_ns", "", "", _CLOCK),
    Effect("ktime_get_boot_ns", "", "", _CLOCK),
    Effect("ktime_get_coarse_ns", "", "", _CLOCK),
    Effect("ktime_get_tai_ns", "", "", _CLOCK),
    Effect("jiffies64", "", "", _CLOCK),
    Effect("get_smp_processor_id", "", "", _READ),
    Effect("get_numa_node_id", "", "", _READ),
    Effect("get_prandom_u32", "", "", "draws from BPF's own generator, which nobody else uses"),
    Effect("get_func_ip", "s", "", _HOOK),
    Effect("get_func_arg", "ss8", "", _HOOK),
    Effect("get_func_ret", "s8", "", _HOOK),
    Effect("get_func_arg_cnt", "s", "", _HOOK),
    Effect("get_attach_cookie", "s", "", _HOOK),
    Effect("get_stackid", "sms", "", "keeps a stack trace in a map of the probe", True),
    Effect("get_stack", "sw#s", "", "copies a stack trace to the probe's own memory"),
    Effect("task_storage_get", "msss", "value", _STORAGE, True),
    Effect("task_storage_delete", "ms", "", _STORAGE, True),
    Effect("inode_storage_get", "msss", "value", _STORAGE, True),
    Effect("inode_storage_delete", "ms", "", _STORAGE, True),
    Effect("sk_storage_get", "msss", "value", _STORAGE, True),
    Effect("sk_storage_delete", "ms", "", _STORAGE, True),
    Effect("cgrp_storage_get", "msss", "value", _STORAGE, True),
    Effect("cgrp_storage_delete", "ms", "", _STORAGE, True),
    Effect("get_socket_cookie", "s", "", "gives a socket a number, once; no one decides by it"),
    Effect("get_netns_cookie", "s", "", _READ),
    Effect("sock_from_file", "s", "kernel", "reads which socket a file is"),
    Effect("per_cpu_ptr", "ss", "kernel", "reads where a variable of a CPU is"),
    Effect("this_cpu_ptr", "s", "kernel", "reads where a variable of a CPU is"),
    Effect("strncmp", "sss", "", "compares memory"),
    Effect("snprintf", "w#sss", "", "writes text to the probe's own memory"),
    Effect("seq_write", "sss", "", "writes to the iterator's own output"),
    Effect("seq_printf", "sssss", "", "writes to the iterator's own output"),
)
_BY_NAME = {effect.name: effect for effect in _HELPERS}

_REFERENCE = "takes or returns a reference, which the verifier sees balanced"
_KFUNCS = {
    effect.name: effect
    for effect in (
        Effect("bpf_path_d_path", "sw#", "", "writes a path to the probe's own memory"),
        Effect("bpf_rcu_read_lock", "", "", "holds off the freeing of memory, not tasks; the verifier sees it ended"),
        Effect("bpf_rcu_read_unlock", "", "", "ends bpf_rcu_read_lock"),
        Effect("bpf_task_acquire", "s", "kernel", _REFERENCE),
        Effect("bpf_task_release", "s", "", _REFERENCE),
        Effect("bpf_task_from_pid", "s", "kernel", _REFERENCE),
        Effect("bpf_get_task_exe_file", "s", "kernel", _REFERENCE),
        Effect("bpf_put_file", "s", "", _REFERENCE),
        Effect("bpf_cast_to_kern_ctx", "s", "kernel", "changes the type of a pointer, not what it points to"),
    )
}


def helper_effect(name: str) -> Effect | None:
    """The effect of a helper, by its name without ``bpf_``; None for one that an observer may not call."""
    return _BY_NAME.get(name)


def kfunc_effect(name: str) -> Effect | None:
    """The effect of a kernel function, by its name; None for one that an observer may not call."""
    return _KFUNCS.get(name)
