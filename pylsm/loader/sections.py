"""Section names ("lsm/file_open", libbpf's syntax) → what the kernel has to be told when a program is loaded.

Numbers: enum bpf_prog_type and enum bpf_attach_type (include/uapi/linux/bpf.h). One table.
"""

from __future__ import annotations

from pylsm.light import IntEnum, NamedTuple
from pylsm.loader.errors import SpecError

__all__ = ["AttachType", "ProgType", "Section", "parse_section"]


class ProgType(IntEnum):
    """enum bpf_prog_type."""

    UNSPEC = 0
    SOCKET_FILTER = 1
    KPROBE = 2
    SCHED_CLS = 3
    SCHED_ACT = 4
    TRACEPOINT = 5
    XDP = 6
    PERF_EVENT = 7
    CGROUP_SKB = 8
    CGROUP_SOCK = 9
    LWT_IN = 10
    LWT_OUT = 11
    LWT_XMIT = 12
    SOCK_OPS = 13
    SK_SKB = 14
    CGROUP_DEVICE = 15
    SK_MSG = 16
    RAW_TRACEPOINT = 17
    CGROUP_SOCK_ADDR = 18
    LWT_SEG6LOCAL = 19
    LIRC_MODE2 = 20
    SK_REUSEPORT = 21
    FLOW_DISSECTOR = 22
    CGROUP_SYSCTL = 23
    RAW_TRACEPOINT_WRITABLE = 24
    CGROUP_SOCKOPT = 25
    TRACING = 26
    STRUCT_OPS = 27
    EXT = 28
    LSM = 29
    SK_LOOKUP = 30
    SYSCALL = 31
    NETFILTER = 32


class AttachType(IntEnum):
    """enum bpf_attach_type, what is used here of it."""

    CGROUP_INET_INGRESS = 0
    CGROUP_INET_EGRESS = 1
    CGROUP_INET_SOCK_CREATE = 2
    CGROUP_SOCK_OPS = 3
    CGROUP_DEVICE = 6
    CGROUP_INET4_CONNECT = 10
    CGROUP_INET6_CONNECT = 11
    CGROUP_UDP4_SENDMSG = 14
    CGROUP_UDP6_SENDMSG = 15
    TRACE_RAW_TP = 23
    TRACE_FENTRY = 24
    TRACE_FEXIT = 25
    MODIFY_RETURN = 26
    LSM_MAC = 27
    TRACE_ITER = 28
    SK_LOOKUP = 36
    XDP = 37
    PERF_EVENT = 41
    LSM_CGROUP = 43
    TCX_INGRESS = 46
    TCX_EGRESS = 47


#: BPF_F_SLEEPABLE: the program may fault and sleep.
SLEEPABLE = 1 << 4


class Section(NamedTuple):
    """What a section name says.

    ``name``: as given; ``program``, ``attach``: types; ``target``: what follows the slash ("" for none);
    ``flags``: BPF_F_* for PROG_LOAD; ``how``: which way it attaches ("raw_tracepoint", "kprobe", "link", …);
    ``btf_prefix``, ``btf_kind``: the kernel type whose id PROG_LOAD needs, as prefix of the target and "func" or
    "typedef" ("" where none is needed).
    """

    name: str
    program: ProgType
    attach: int
    target: str
    flags: int
    how: str
    btf_prefix: str = ""
    btf_kind: str = ""

    @property
    def btf_name(self) -> str:
        """The kernel type to attach to: "bpf_lsm_file_open"; "" where none is needed."""
        return self.btf_prefix + self.target if self.btf_kind else ""

    @property
    def sleepable(self) -> bool:
        """Whether it is loaded as sleepable."""
        return bool(self.flags & SLEEPABLE)


#: Prefix before the slash → program type, attach type ("" for 0), flags, how it attaches, BTF prefix, BTF kind.
#: These take a target after the slash.
_WITH_TARGET: dict[str, tuple[str, str, int, str, str, str]] = {
    "lsm": ("LSM", "LSM_MAC", 0, "raw_tracepoint", "bpf_lsm_", "func"),
    "lsm.s": ("LSM", "LSM_MAC", SLEEPABLE, "raw_tracepoint", "bpf_lsm_", "func"),
    "lsm_cgroup": ("LSM", "LSM_CGROUP", 0, "cgroup", "bpf_lsm_", "func"),
    "fentry": ("TRACING", "TRACE_FENTRY", 0, "raw_tracepoint", "", "func"),
    "fentry.s": ("TRACING", "TRACE_FENTRY", SLEEPABLE, "raw_tracepoint", "", "func"),
    "fexit": ("TRACING", "TRACE_FEXIT", 0, "raw_tracepoint", "", "func"),
    "fexit.s": ("TRACING", "TRACE_FEXIT", SLEEPABLE, "raw_tracepoint", "", "func"),
    "fmod_ret": ("TRACING", "MODIFY_RETURN", 0, "raw_tracepoint", "", "func"),
    "fmod_ret.s": ("TRACING", "MODIFY_RETURN", SLEEPABLE, "raw_tracepoint", "", "func"),
    "tp_btf": ("TRACING", "TRACE_RAW_TP", 0, "raw_tracepoint", "btf_trace_", "typedef"),
    "iter": ("TRACING", "TRACE_ITER", 0, "iter", "bpf_iter_", "func"),
    "iter.s": ("TRACING", "TRACE_ITER", SLEEPABLE, "iter", "bpf_iter_", "func"),
    "raw_tp": ("RAW_TRACEPOINT", "", 0, "raw_tracepoint", "", ""),
    "raw_tracepoint": ("RAW_TRACEPOINT", "", 0, "raw_tracepoint", "", ""),
    "raw_tp.w": ("RAW_TRACEPOINT_WRITABLE", "", 0, "raw_tracepoint", "", ""),
    "raw_tracepoint.w": ("RAW_TRACEPOINT_WRITABLE", "", 0, "raw_tracepoint", "", ""),
    "kprobe": ("KPROBE", "", 0, "kprobe", "", ""),
    "kretprobe": ("KPROBE", "", 0, "kprobe", "", ""),
    "tracepoint": ("TRACEPOINT", "", 0, "tracepoint", "", ""),
    "tp": ("TRACEPOINT", "", 0, "tracepoint", "", ""),
}

#: Whole section names.
_WHOLE: dict[str, tuple[str, str, int, str]] = {
    "socket": ("SOCKET_FILTER", "", 0, "socket"),
    "xdp": ("XDP", "XDP", 0, "interface"),
    "tc": ("SCHED_CLS", "", 0, "tcx"),
    "classifier": ("SCHED_CLS", "", 0, "tcx"),
    "tcx/ingress": ("SCHED_CLS", "TCX_INGRESS", 0, "interface"),
    "tcx/egress": ("SCHED_CLS", "TCX_EGRESS", 0, "interface"),
    "action": ("SCHED_ACT", "", 0, "none"),
    "cgroup_skb/ingress": ("CGROUP_SKB", "CGROUP_INET_INGRESS", 0, "cgroup"),
    "cgroup_skb/egress": ("CGROUP_SKB", "CGROUP_INET_EGRESS", 0, "cgroup"),
    "cgroup/skb": ("CGROUP_SKB", "", 0, "none"),
    "cgroup/sock_create": ("CGROUP_SOCK", "CGROUP_INET_SOCK_CREATE", 0, "cgroup"),
    "cgroup/dev": ("CGROUP_DEVICE", "CGROUP_DEVICE", 0, "cgroup"),
    "cgroup/connect4": ("CGROUP_SOCK_ADDR", "CGROUP_INET4_CONNECT", 0, "cgroup"),
    "cgroup/connect6": ("CGROUP_SOCK_ADDR", "CGROUP_INET6_CONNECT", 0, "cgroup"),
    "cgroup/sendmsg4": ("CGROUP_SOCK_ADDR", "CGROUP_UDP4_SENDMSG", 0, "cgroup"),
    "cgroup/sendmsg6": ("CGROUP_SOCK_ADDR", "CGROUP_UDP6_SENDMSG", 0, "cgroup"),
    "sockops": ("SOCK_OPS", "CGROUP_SOCK_OPS", 0, "cgroup"),
    "sk_lookup": ("SK_LOOKUP", "SK_LOOKUP", 0, "netns"),
    "perf_event": ("PERF_EVENT", "", 0, "perf_event"),
    "syscall": ("SYSCALL", "", SLEEPABLE, "none"),
}


def parse_section(name: str) -> Section:
    """What a section name says.

    Raises:
        SpecError: an unknown section (the message has the nearest one), or one without its target.
    """
    whole = _WHOLE.get(name)
    if whole is not None:
        program, attach, flags, how = whole
        return Section(name, ProgType[program], _number(attach), "", flags, how)
    prefix, slash, target = name.partition("/")
    row = _WITH_TARGET.get(prefix)
    if row is None:
        from difflib import get_close_matches

        near = get_close_matches(prefix if slash else name, [*_WITH_TARGET, *_WHOLE], 1)
        raise SpecError(
            f"section {name!r} is not known" + (f"; did you mean {near[0]!r}?" if near else ""),
            hint=f"known: {', '.join(sorted(f'{prefix}/…' for prefix in _WITH_TARGET))}, {', '.join(sorted(_WHOLE))}",
        )
    if not target or (row[3] == "tracepoint" and not all(target.partition("/")[::2])):
        example = "CATEGORY/NAME" if row[3] == "tracepoint" else "NAME"
        raise SpecError(f"section {name!r} does not say where to attach: write {prefix}/{example}")
    program, attach, flags, how, btf_prefix, btf_kind = row
    return Section(name, ProgType[program], _number(attach), target, flags, how, btf_prefix, btf_kind)


def _number(attach: str) -> int:
    return AttachType[attach] if attach else 0
