"""Section names."""

from __future__ import annotations

import pytest

from pylsm.loader.errors import SpecError
from pylsm.loader.sections import SLEEPABLE, ProgType, parse_section


@pytest.mark.parametrize(
    ("name", "program", "attach", "btf_name", "btf_kind"),
    [
        ("lsm/file_open", ProgType.LSM, 27, "bpf_lsm_file_open", "func"),
        ("fentry/security_file_open", ProgType.TRACING, 24, "security_file_open", "func"),
        ("fexit/do_exit", ProgType.TRACING, 25, "do_exit", "func"),
        ("tp_btf/sched_process_fork", ProgType.TRACING, 23, "btf_trace_sched_process_fork", "typedef"),
        ("iter/task", ProgType.TRACING, 28, "bpf_iter_task", "func"),
        ("raw_tp/sys_enter", ProgType.RAW_TRACEPOINT, 0, "", ""),
        ("kprobe/do_exit", ProgType.KPROBE, 0, "", ""),
        ("tracepoint/sched/sched_process_exit", ProgType.TRACEPOINT, 0, "", ""),
        ("socket", ProgType.SOCKET_FILTER, 0, "", ""),
        ("xdp", ProgType.XDP, 37, "", ""),
        ("cgroup_skb/egress", ProgType.CGROUP_SKB, 1, "", ""),
        ("cgroup_skb/ingress", ProgType.CGROUP_SKB, 0, "", ""),
    ],
)
def test_what_the_kernel_is_told(name: str, program: ProgType, attach: int, btf_name: str, btf_kind: str) -> None:
    section = parse_section(name)
    assert (section.program, section.attach, section.btf_name, section.btf_kind) == (
        program,
        attach,
        btf_name,
        btf_kind,
    )
    assert section.name == name


@pytest.mark.parametrize(
    ("name", "flags"), [("lsm.s/file_open", SLEEPABLE), ("lsm/file_open", 0), ("syscall", SLEEPABLE)]
)
def test_sleepable_is_part_of_the_name(name: str, flags: int) -> None:
    assert parse_section(name).flags == flags
    assert parse_section(name).sleepable is bool(flags)


def test_a_target_may_contain_slashes_and_offsets() -> None:
    assert parse_section("kprobe/do_exit+4").target == "do_exit+4"
    assert parse_section("tp/sched/sched_switch").target == "sched/sched_switch"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fentri/x", "did you mean 'fentry'"),
        ("sockett", "did you mean 'socket'"),
        ("", "is not known"),
        ("lsm", "write lsm/NAME"),
        ("lsm/", "write lsm/NAME"),
        ("tracepoint/sched", "write tracepoint/CATEGORY/NAME"),
        ("tracepoint/sched/", "write tracepoint/CATEGORY/NAME"),
    ],
)
def test_mistakes_are_named(name: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse_section(name)
