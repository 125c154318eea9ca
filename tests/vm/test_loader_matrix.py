"""Feature probes against what was found by hand on each kernel of the matrix."""

from __future__ import annotations

import pytest
from cases.lab import X86_64

from pylsm.asm import MapType
from pylsm.loader import features
from pylsm.loader.bpf import kernel_release
from pylsm.loader.features import Feature

pytestmark = pytest.mark.vm

#: The first kernel with BPF trampolines.
TRAMPOLINE = (5, 10) if X86_64 else (6, 4)
#: Question → the first kernel of 5.10, 6.1, 6.12, 6.18 and 7.3 that says yes.
SINCE = {
    "lsm": (lambda: features.attach("lsm"), TRAMPOLINE),
    "fentry": (lambda: features.attach("fentry"), TRAMPOLINE),
    "tp_btf": (lambda: features.attach("tp_btf"), (5, 10)),
    "kprobe": (lambda: features.attach("kprobe"), (5, 10)),
    "tracepoint": (lambda: features.attach("tracepoint"), (5, 10)),
    "iter": (lambda: features.attach("iter"), (5, 10)),
    "sleepable file_open": (lambda: features.attach("lsm.s"), max(TRAMPOLINE, (6, 1))),
    "syscall programs": (lambda: features.program("syscall"), (6, 1)),
    "ring buffer": (lambda: features.map_type(MapType.RINGBUF), (5, 10)),
    "task storage": (lambda: features.map_type(MapType.TASK_STORAGE), (6, 1)),
    "bloom filter": (lambda: features.map_type(MapType.BLOOM_FILTER), (6, 1)),
    "netfilter programs": (lambda: features.program("netfilter"), (6, 12)),
    "connect of AF_UNIX": (lambda: features.program("cgroup/connect_unix"), (6, 12)),
    "fsession": (lambda: features.program("fsession/security_file_open"), (7, 3)),
    "fentry of many functions": (lambda: features.program("fentry.multi"), (7, 3)),
    "fsession of many functions": (lambda: features.program("fsession.multi"), (7, 3)),
    "struct_ops": (lambda: features.program("struct_ops"), (5, 10)),
    "struct_ops map": (lambda: features.map_type(MapType.STRUCT_OPS), (5, 10)),
    "user ring buffer": (lambda: features.map_type(MapType.USER_RINGBUF), (6, 1)),
    "d_path in lsm/file_open": (lambda: features.helper("d_path", "lsm/file_open"), (6, 1)),
    "d_path in fentry/security_file_open": (lambda: features.helper("d_path", "fentry"), (5, 10)),
    "get_current_task_btf": (lambda: features.helper("get_current_task_btf", "lsm"), (6, 1)),
    "task_storage_get": (lambda: features.helper("task_storage_get", "lsm"), (6, 1)),
    "ktime_get_boot_ns": (lambda: features.helper("ktime_get_boot_ns", "lsm"), (5, 10)),
    "bpf_loop": (lambda: features.helper("loop", "lsm"), (6, 1)),
    "map_lookup_percpu_elem": (lambda: features.helper("map_lookup_percpu_elem", "lsm"), (6, 1)),
    "bpf_path_d_path": (lambda: features.kfunc("bpf_path_d_path", "lsm"), (6, 12)),
    "atomic fetch": (lambda: features.instruction("atomic_fetch"), (6, 1)),
    "v3": (lambda: features.cpu_level("v3"), (5, 10)),
    "v4": (lambda: features.cpu_level("v4"), (6, 12)),
    "movsx": (lambda: features.instruction("movsx"), (6, 12)),
    "bswap": (lambda: features.instruction("bswap"), (6, 12)),
    "may_goto": (lambda: features.instruction("may_goto"), (6, 12)),
    "load_acquire": (lambda: features.instruction("load_acquire"), (6, 18)),
    "BTF": (features.btf, (5, 10)),
    "large programs": (features.large_programs, (5, 10)),
}


@pytest.mark.parametrize("question", SINCE)
def test_the_answer_is_this_kernels(question: str) -> None:
    ask, since = SINCE[question]
    answer: Feature = ask()
    assert answer.supported is (kernel_release() >= since), answer.detail


@pytest.mark.parametrize(("helper", "hook"), [("d_path", "lsm/file_permission"), ("d_path", "lsm/file_mprotect")])
def test_helpers_refused_everywhere(helper: str, hook: str) -> None:
    assert features.helper(helper, hook).supported is False


def test_the_kfunc_is_refused_in_fentry() -> None:
    assert features.kfunc("bpf_path_d_path", "fentry").supported is False
