"""What this kernel takes, found by trying: nothing is concluded from version numbers.

Each function answers with a `Feature` and never raises. ``supported`` is None where the question could not be put,
for lack of privilege or of BTF. Nothing is left behind: what a probe makes is closed before it returns, and a probe
that attaches uses a program that changes nothing.

A program type or an attach type is asked for by loading a program of it; what attaches where it disturbs nobody is
attached as well (`attach`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from errno import E2BIG, EAGAIN, EINTR, EMFILE, ENFILE, ENOMEM, EPERM
from functools import cache, partial
from typing import Any, NamedTuple, Union

from pylsm.asm import opcodes as op
from pylsm.asm.instruction import Instruction, encode
from pylsm.asm.maps import MapSpec, MapType
from pylsm.asm.program import Function, Program
from pylsm.asm.references import FunctionRef
from pylsm.errors import PylsmError
from pylsm.loader.attr import Cmd, MapCreateAttr
from pylsm.loader.bpf import bpf, load_btf
from pylsm.loader.errors import BpfError, ResolveError, VerifierError
from pylsm.loader.image import ProgramImage
from pylsm.loader.maps import Map
from pylsm.loader.prepare import prepare_program
from pylsm.loader.program import LoadedProgram, LoadRequest, load_failure
from pylsm.loader.sections import ProgType, Section, parse_section

__all__ = [
    "INSTRUCTIONS",
    "SECTIONS",
    "Calls",
    "Feature",
    "Survey",
    "attach",
    "btf",
    "cached_survey",
    "cpu_level",
    "helper",
    "helpers",
    "instruction",
    "kfunc",
    "kfuncs",
    "map_type",
    "program",
    "survey",
]


class Feature(NamedTuple):
    """An answer: ``supported`` (None: could not be found out) and the kernel's own words, "" when it said yes."""

    supported: bool | None
    detail: str = ""


#: Which calls the programs of a section may make: section → name → whether (None: could not be found out).
Calls = dict[str, dict[str, Union[bool, None]]]


class Survey(NamedTuple):
    """All answers about a kernel.

    Attributes:
        features: group ("kernel", "program_types", "attach_types", "attach", "map_types", "instructions",
            "cpu_levels") → name → answer.
        helpers: which helpers each of `SECTIONS` may call.
        kfuncs: which kernel functions each of `SECTIONS` may call.
    """

    features: dict[str, dict[str, Feature]]
    helpers: Calls
    kfuncs: Calls


#: Errnos that say nothing about the feature.
_PASSING = (EAGAIN, EINTR, EMFILE, ENFILE, ENOMEM)
_NOT_PROBED = "not probed: "

#: At least one section per program type, with a target that every kernel has.
SECTIONS = {
    "socket": "socket",
    "xdp": "xdp",
    "tc": "tc",
    "action": "action",
    "cgroup_skb": "cgroup_skb/egress",
    "cgroup_sock": "cgroup/sock_create",
    "cgroup_device": "cgroup/dev",
    "cgroup_sock_addr": "cgroup/connect4",
    "cgroup_sysctl": "cgroup/sysctl",
    "cgroup_sockopt": "cgroup/getsockopt",
    "sockops": "sockops",
    "sk_skb": "sk_skb",
    "sk_msg": "sk_msg",
    "sk_lookup": "sk_lookup",
    "sk_reuseport": "sk_reuseport",
    "flow_dissector": "flow_dissector",
    "netfilter": "netfilter",
    "lwt_in": "lwt_in",
    "lwt_out": "lwt_out",
    "lwt_xmit": "lwt_xmit",
    "lwt_seg6local": "lwt_seg6local",
    "lirc_mode2": "lirc_mode2",
    "perf_event": "perf_event",
    "syscall": "syscall",
    "raw_tp": "raw_tp/sched_process_exit",
    "raw_tp.w": "raw_tp.w/sched_process_exit",
    "tracepoint": "tracepoint/sched/sched_process_exit",
    "kprobe": "kprobe/security_file_open",
    "kretprobe": "kretprobe/security_file_open",
    "tp_btf": "tp_btf/sched_process_exit",
    "fentry": "fentry/security_file_open",
    "fexit": "fexit/security_file_open",
    "lsm": "lsm/file_open",
    "lsm.s": "lsm.s/file_open",
    "iter": "iter/task",
    "struct_ops": "struct_ops/tcp_congestion_ops.ssthresh",
}

_P = ProgType
#: Sections of types that pylsm does not load itself, by libbpf's names → program type, attach type.
_FOREIGN: dict[str, tuple[ProgType, int]] = {
    "cgroup/sysctl": (_P.CGROUP_SYSCTL, 18),
    "cgroup/getsockopt": (_P.CGROUP_SOCKOPT, 21),
    "cgroup/setsockopt": (_P.CGROUP_SOCKOPT, 22),
    "cgroup/sock_release": (_P.CGROUP_SOCK, 34),
    "cgroup/post_bind4": (_P.CGROUP_SOCK, 12),
    "cgroup/post_bind6": (_P.CGROUP_SOCK, 13),
    "cgroup/bind4": (_P.CGROUP_SOCK_ADDR, 8),
    "cgroup/bind6": (_P.CGROUP_SOCK_ADDR, 9),
    "cgroup/recvmsg4": (_P.CGROUP_SOCK_ADDR, 19),
    "cgroup/recvmsg6": (_P.CGROUP_SOCK_ADDR, 20),
    "cgroup/getpeername4": (_P.CGROUP_SOCK_ADDR, 29),
    "cgroup/getpeername6": (_P.CGROUP_SOCK_ADDR, 30),
    "cgroup/getsockname4": (_P.CGROUP_SOCK_ADDR, 31),
    "cgroup/getsockname6": (_P.CGROUP_SOCK_ADDR, 32),
    "cgroup/connect_unix": (_P.CGROUP_SOCK_ADDR, 49),
    "cgroup/sendmsg_unix": (_P.CGROUP_SOCK_ADDR, 50),
    "cgroup/recvmsg_unix": (_P.CGROUP_SOCK_ADDR, 51),
    "cgroup/getpeername_unix": (_P.CGROUP_SOCK_ADDR, 52),
    "cgroup/getsockname_unix": (_P.CGROUP_SOCK_ADDR, 53),
    "sk_skb": (_P.SK_SKB, 0),
    "sk_skb/stream_parser": (_P.SK_SKB, 4),
    "sk_skb/stream_verdict": (_P.SK_SKB, 5),
    "sk_skb/verdict": (_P.SK_SKB, 38),
    "sk_msg": (_P.SK_MSG, 7),
    "sk_reuseport": (_P.SK_REUSEPORT, 39),
    "sk_reuseport/migrate": (_P.SK_REUSEPORT, 40),
    "flow_dissector": (_P.FLOW_DISSECTOR, 17),
    "netfilter": (_P.NETFILTER, 45),
    "lwt_in": (_P.LWT_IN, 0),
    "lwt_out": (_P.LWT_OUT, 0),
    "lwt_xmit": (_P.LWT_XMIT, 0),
    "lwt_seg6local": (_P.LWT_SEG6LOCAL, 0),
    "lirc_mode2": (_P.LIRC_MODE2, 16),
    "xdp/devmap": (_P.XDP, 33),
    "xdp/cpumap": (_P.XDP, 35),
    "netkit/primary": (_P.SCHED_CLS, 54),
    "netkit/peer": (_P.SCHED_CLS, 55),
    "kprobe.multi": (_P.KPROBE, 42),
    "kprobe.session": (_P.KPROBE, 56),
    "uprobe.multi": (_P.KPROBE, 48),
    "uprobe.session": (_P.KPROBE, 57),
    "fentry.multi": (_P.TRACING, 59),
    "fexit.multi": (_P.TRACING, 60),
    "fsession.multi": (_P.TRACING, 61),
}

#: Attach types that are told to the kernel when a program is loaded, as sections.
_ATTACH_TYPES = (
    *_FOREIGN,
    "cgroup_skb/ingress",
    "cgroup_skb/egress",
    "cgroup/sock_create",
    "cgroup/dev",
    "cgroup/connect4",
    "cgroup/connect6",
    "cgroup/sendmsg4",
    "cgroup/sendmsg6",
    "sockops",
    "sk_lookup",
    "tcx/ingress",
    "tcx/egress",
    "xdp",
    "lsm/file_open",
    "lsm.s/file_open",
    "lsm_cgroup/socket_bind",
    "fentry/security_file_open",
    "fexit/security_file_open",
    "fmod_ret/security_file_open",
    "fsession/security_file_open",
    "tp_btf/sched_process_exit",
    "iter/task",
)
#: What the kernel allows no 0 to be returned from.
_RETURNING_ONE = ("recvmsg", "getpeername", "getsockname")

_MOV = op.ALU64 | op.MOV | op.K
_EXIT = Instruction(op.JMP | op.EXIT)
_ZERO = Instruction(_MOV, 0, imm=0)
_ONE = Instruction(_MOV, 0, imm=1)

#: What the verifier says when it does not know or not allow a call; anything else is about the arguments.
_REFUSED_CALLS = (
    "invalid func unknown",
    "unknown func",
    "cannot use helper",
    "not allowed",
    "calling kernel function",
    "kernel function calls",
    "kernel btf",
    "uses reserved fields",
    "cannot call",
    "not supported",
)


def _program(section: str, *instructions: Instruction, functions: tuple[Function, ...] = ()) -> Program:
    return Program("probe", section, instructions, functions or (Function("probe", 0, 1),))


def _answer(attempt: Callable[[], object]) -> Feature:
    """Run an attempt: it succeeds, or what it raises is the detail."""
    try:
        attempt()
    except VerifierError as error:
        return Feature(False, error.reason or str(error))
    except BpfError as error:
        unknown = error.errno in _PASSING or (error.errno == EPERM and not _privileged())
        return Feature(None if unknown else False, str(error))
    except ResolveError as error:
        return Feature(False, str(error))
    except (PylsmError, OSError) as error:
        return Feature(None, str(error))
    return Feature(True)


def _load(program: Program) -> None:
    LoadedProgram.load(program, source_lines=False).close()


def _section(name: str) -> Section:
    """A section, those of other types, ``struct_ops/STRUCT.MEMBER`` and ``fsession/FUNC`` too.

    Raises:
        SpecError: there is no such section.
    """
    name = SECTIONS.get(name, name)
    if name in _FOREIGN:
        type, attach = _FOREIGN[name]
        return Section(name, type, attach, "", 0, "none")
    prefix, _, target = name.partition("/")
    if prefix == "struct_ops":
        return Section(name, ProgType.STRUCT_OPS, 0, target, 0, "none")
    if prefix == "fsession":
        return Section(name, ProgType.TRACING, 58, target, 0, "none", "", "func")
    return parse_section(name)


def _image(section: Section, *instructions: Instruction) -> ProgramImage:
    """A program of any section, ready to be loaded.

    Raises:
        ResolveError: this kernel has no such hook.
        BtfError: its types are needed, and cannot be read.
    """
    if section.how != "none" or section.program is ProgType.SYSCALL:
        return prepare_program(_program(section.name, *instructions), (), source_lines=False)
    image = prepare_program(_program("socket", *instructions), (), source_lines=False)
    if section.program is ProgType.STRUCT_OPS:
        image = image._replace(attach_id=_struct_ops(section)[0])
    elif section.btf_kind:
        image = image._replace(attach_id=_function(section.target))
    return image._replace(section=section.name)


def _function(name: str) -> int:
    """The kernel's id of a function."""
    from pylsm.btf import Btf, BtfNotFound, Kind

    types = Btf.kernel()
    try:
        return types.find(name, Kind.FUNC)
    except BtfNotFound as error:
        raise ResolveError(str(error)) from error


def _struct_ops(section: Section) -> tuple[int, int]:
    """The kernel's id of the struct, and which of its members a ``struct_ops`` program stands for."""
    from pylsm.btf import Btf, BtfNotFound

    struct, _, member = section.target.partition(".")
    types = Btf.kernel()
    try:
        id = types.find_struct(struct)
        return id, [field.name for field in types.members(id)].index(member)
    except (BtfNotFound, ValueError) as error:
        raise ResolveError(f"{types.name} has no {section.target}") from error


def _request(section: Section, *instructions: Instruction) -> LoadRequest:
    image = _image(section, *instructions)
    if section.program is ProgType.STRUCT_OPS:
        section = section._replace(attach=_struct_ops(section)[1])
    return LoadRequest(image, section, {})


def _privileged() -> bool:
    """Whether an EPERM is the kernel's word on the feature, and not on this process."""
    from pylsm.loader.hints import CAPABILITIES, effective_capabilities

    held = effective_capabilities() or 0
    has = {name for name, bit in CAPABILITIES.items() if held >> bit & 1}
    return "CAP_SYS_ADMIN" in has or {"CAP_BPF", "CAP_PERFMON"} <= has


# --- types --------------------------------------------------------------------------------------------------------


def program(section: str) -> Feature:
    """Whether a program of this section loads: "lsm/file_open", "fentry/FUNC", or a key of `SECTIONS`."""

    def attempt() -> None:
        found = _section(section)
        returned = _ONE if any(part in found.name for part in _RETURNING_ONE) else _ZERO
        number, log = _request(found, returned, _EXIT).load(0)
        if number < 0:
            raise load_failure(None, f"a program of section {found.name}", -number, log)
        os.close(number)

    return _answer(attempt)


def attach(section: str) -> Feature:
    """Whether a program of this section loads and attaches; it does nothing and is taken off at once.

    For LSM programs that is not the whole truth: without "bpf" in /sys/kernel/security/lsm they attach and never run.
    """
    name = SECTIONS.get(section, section)
    if name.startswith("tracepoint/"):
        from pylsm.loader.perf import tracefs

        if tracefs() is None:
            return Feature(None, "tracefs is not mounted")

    def attempt() -> None:
        with LoadedProgram.load(_program(name, _ZERO, _EXIT), source_lines=False) as loaded, loaded.attach():
            pass

    return _answer(attempt)


def map_type(type: MapType) -> Feature:
    """Whether a map of this type can be created, with sizes that suit it; None for types that need more than sizes."""
    if type is MapType.UNSPEC:
        return Feature(None, f"{_NOT_PROBED}{type.name} is no type of map")
    key, value, entries, flags = _MAP_SIZES.get(type, (4, 4, 1, 0))

    def attempt() -> None:
        if type is MapType.STRUCT_OPS:
            return _create_struct_ops_map()
        if type in (MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS):
            with Map.create(MapSpec("inner", MapType.ARRAY, key=4, value=4, max_entries=1)) as inner:
                Map.create(MapSpec("probe", type, key=4, value=4, max_entries=1), inner=inner).close()
        else:
            Map.create(MapSpec("probe", type, key=key, value=value, max_entries=entries, flags=flags)).close()

    return _answer(attempt)


def _create_struct_ops_map() -> None:
    """A map for a struct tcp_congestion_ops: its value is the kernel's own struct around that one."""
    from pylsm.btf import Btf, BtfNotFound, BtfWriter

    types = Btf.kernel()
    try:
        value = types.find_struct("bpf_struct_ops_tcp_congestion_ops")
    except BtfNotFound as error:
        raise ResolveError(str(error)) from error
    writer = BtfWriter()
    writer.int_("int", 4)
    # The kernel looks at nothing in it, but wants some (map_create in kernel/bpf/syscall.c).
    some, refusal = load_btf(writer.encode())
    if some is None:
        raise PylsmError(refusal)
    with some:
        attr = MapCreateAttr(
            map_type=MapType.STRUCT_OPS,
            key_size=4,
            value_size=types.size_of(value),
            max_entries=1,
            map_name=b"probe",
            btf_fd=some.fileno(),
            btf_vmlinux_value_type_id=value,
        )
        os.close(bpf(Cmd.MAP_CREATE, attr, "create a struct_ops map"))


_NO_PREALLOC, _MMAPABLE = 1, 1 << 10

#: key size, value size, entries, flags. What is not here is (4, 4, 1, 0).
_MAP_SIZES: dict[MapType, tuple[int, int, int, int]] = {
    MapType.STACK_TRACE: (4, 8, 1, 0),
    MapType.LPM_TRIE: (8, 4, 1, _NO_PREALLOC),
    MapType.CGROUP_STORAGE: (16, 4, 0, 0),
    MapType.PERCPU_CGROUP_STORAGE: (16, 4, 0, 0),
    MapType.QUEUE: (0, 4, 1, 0),
    MapType.STACK: (0, 4, 1, 0),
    MapType.SK_STORAGE: (4, 4, 0, _NO_PREALLOC),
    MapType.INODE_STORAGE: (4, 4, 0, _NO_PREALLOC),
    MapType.TASK_STORAGE: (4, 4, 0, _NO_PREALLOC),
    MapType.CGRP_STORAGE: (4, 4, 0, _NO_PREALLOC),
    MapType.REUSEPORT_SOCKARRAY: (4, 8, 1, 0),
    MapType.RINGBUF: (0, 0, 1 << 16, 0),
    MapType.USER_RINGBUF: (0, 0, 1 << 16, 0),
    MapType.BLOOM_FILTER: (0, 4, 1, 0),
    MapType.ARENA: (0, 0, 1, _MMAPABLE),
}


# --- calls --------------------------------------------------------------------------------------------------------


def helper(name: str | int, section: str) -> Feature:
    """Whether programs of a section may call a helper.

    Args:
        name: with or without ``bpf_``, or its number.
        section: "lsm/file_open", or a key of `SECTIONS`: helpers differ between hooks of one type too.
    """
    from pylsm.asm.helpers import by_name

    if isinstance(name, str):
        try:
            number = by_name(name).number
        except PylsmError:
            return Feature(False, f"no helper is called {name!r}")
    else:
        number = name
    return _Calling(section).ask(0, number)


def kfunc(name: str, section: str) -> Feature:
    """Whether programs of a section may call a kernel function by its BTF id; ``section`` as for `helper`."""
    from pylsm.btf import Btf, BtfError, BtfNotFound, Kind

    try:
        types = Btf.kernel()
        number = types.find(name, Kind.FUNC)
    except BtfNotFound:
        return Feature(False, f"{types.name} has no function {name!r}")
    except BtfError as error:
        return Feature(None, str(error))
    return _Calling(section).ask(op.CALL_KFUNC, number)


def helpers(section: str) -> dict[str, bool | None]:
    """Which of all known helpers programs of a section may call, by name; ``section`` as for `helper`."""
    from itertools import count

    from pylsm.asm.helpers import by_number

    calling = _Calling(section)
    known = []
    for number in count(1):
        found = by_number(number)
        if found is None:
            break
        known.append(found)
    return {found.name: calling.ask(0, found.number).supported for found in known}


def kfuncs(section: str) -> dict[str, bool | None]:
    """Which kernel functions programs of a section may call, by name; ``section`` as for `helper`.

    Asked for is what the kernel itself marks as such: by "bpf_kfunc" in its BTF, where that is new enough (about
    Linux 6.13), and by the sets of ids that /proc/kallsyms shows. Modules' are not looked for. Of a kernel that shows
    neither (6.1 of Debian for arm64 is built without CONFIG_KALLSYMS_ALL) nothing is said: ask `kfunc` by name.
    """
    calling = _Calling(section)
    return {name: calling.ask(op.CALL_KFUNC, number).supported for name, number in _marked_kfuncs().items()}


_KALLSYMS = "/proc/kallsyms"


@cache
def _marked_kfuncs() -> dict[str, int]:
    """Name → BTF id of the functions that the kernel marks as callable."""
    from pylsm.btf import Btf, BtfError, Kind

    try:
        types = Btf.kernel()
        names = {
            types.type(tag.type_id).name
            for tag in map(types.type, types.types())
            if tag.kind is Kind.DECL_TAG and tag.name == "bpf_kfunc"
        }
        names |= _kfuncs_by_symbols()
        found = {}
        for name in sorted(names):
            try:
                found[name] = types.find(name, Kind.FUNC)
            except BtfError:
                continue  # a config option left it out
        return found
    except BtfError:
        return {}


def _kfuncs_by_symbols() -> set[str]:
    """Functions in the kernel's sets of ids (include/linux/btf_ids.h); those of kfuncs are sets of eight bytes."""
    names: set[str] = set()
    inside = False
    try:
        with open(_KALLSYMS, encoding="ascii", errors="replace") as file:
            # In the order of addresses, with these hidden as well.
            for line in file:
                _, mark, rest = line.partition(" __BTF_ID__")
                if not mark:
                    continue
                kind, _, name = rest.partition("__")
                if kind in ("set", "set8"):
                    inside = kind == "set8"
                elif kind == "func" and inside:
                    names.add(name.rpartition("__")[0])
    except OSError:
        pass
    return names


class _Calling:
    """Programs of a section that make one call, with arguments that are probably wrong.

    A complaint about them means that the call is known. Only the call differs: the rest is prepared once.
    """

    def __init__(self, section: str) -> None:
        #: Whether programs of this type load at all; where they do not, a complaint says nothing of the call.
        self.base = program(section)
        if self.base.supported:
            arguments = [Instruction(_MOV, register, imm=0) for register in range(1, 6)]
            call = Instruction(op.JMP | op.CALL, imm=1)
            self._request = _request(_section(section), *arguments, call, _ZERO, _EXIT)
            self._slot = len(arguments)

    def ask(self, kind: int, number: int) -> Feature:
        """``kind``: 0 for a helper, CALL_KFUNC; ``number``: the helper's, or a BTF id."""
        if not self.base.supported:
            return self.base
        call = Instruction(op.JMP | op.CALL, src=kind, imm=number)
        memoryview(self._request.code).cast("B")[8 * self._slot : 8 * self._slot + 8] = encode([call], sys.byteorder)

        def attempt() -> None:
            result, log = self._request.load(1)
            if result >= 0:
                os.close(result)
                return
            error = load_failure(None, "a call", -result, log)
            if not isinstance(error, VerifierError):
                raise error
            if f"{self._slot}: (85)" not in log or any(part in error.reason for part in _REFUSED_CALLS):
                raise error

        return _answer(attempt)


# --- instructions -------------------------------------------------------------------------------------------------


def _instructions(*listing: Instruction) -> tuple[Instruction, ...]:
    return (*listing, _ZERO, _EXIT)


#: Name → (level of `pylsm.asm` that it belongs to, a program that has it).
INSTRUCTIONS: dict[str, tuple[str, tuple[Instruction, ...]]] = {
    "jlt": ("v2", _instructions(_ZERO, Instruction(op.JMP | op.JLT | op.K, 0, off=0, imm=1))),
    "jump32": ("v3", _instructions(_ZERO, Instruction(op.JMP32 | op.JEQ | op.K, 0, off=0, imm=1))),
    "atomic_fetch": (
        "v3",
        _instructions(
            Instruction(op.ST | op.MEM | op.DW, 10, off=-8),
            Instruction(_MOV, 1, imm=1),
            Instruction(op.STX | op.ATOMIC | op.DW, 10, 1, -8, op.ADD | op.FETCH),
        ),
    ),
    "movsx": ("v4", _instructions(_ZERO, Instruction(op.ALU64 | op.MOV | op.X, 1, 0, 8))),
    "ldsx": (
        "v4",
        _instructions(
            Instruction(op.ST | op.MEM | op.DW, 10, off=-8), Instruction(op.LDX | op.MEMSX | op.B, 1, 10, -8)
        ),
    ),
    "bswap": ("v4", _instructions(_ZERO, Instruction(op.ALU64 | op.END, 0, imm=64))),
    "sdiv": ("v4", _instructions(_ZERO, Instruction(op.ALU64 | op.DIV | op.K, 0, off=1, imm=3))),
    # 6.1 takes a gotol of distance 0 for a plain goto.
    "gotol": (
        "v4",
        _instructions(
            _ZERO, Instruction(op.JMP | op.JEQ | op.K, 0, off=1, imm=1), Instruction(op.JMP32 | op.JA, imm=1), _ZERO
        ),
    ),
    # A distance of 0 is refused.
    "may_goto": ("v4", _instructions(_ZERO, Instruction(op.JMP | op.JCOND, off=1), _ZERO)),
    "load_acquire": (
        "v4",
        _instructions(
            Instruction(op.ST | op.MEM | op.DW, 10, off=-8),
            Instruction(op.STX | op.ATOMIC | op.DW, 1, 10, -8, op.LOAD_ACQ),
        ),
    ),
    "function_call": (
        "v1",
        (Instruction(op.JMP | op.CALL, reference=FunctionRef("inner")), _EXIT, _ZERO, _EXIT),
    ),
}

#: What compilers mean by a level; the later additions to v4 are asked for by name.
_LEVELS = {"v1": (), "v2": ("jlt",), "v3": ("jump32",), "v4": ("movsx", "ldsx", "bswap", "sdiv", "gotol")}


def instruction(name: str) -> Feature:
    """Whether the kernel knows an instruction, by its name in `INSTRUCTIONS`."""
    row = INSTRUCTIONS.get(name)
    if row is None:
        return Feature(None, f"{name!r} is none of {', '.join(INSTRUCTIONS)}")
    functions = (Function("probe", 0, 1), Function("inner", 2, 0)) if name == "function_call" else ()
    return _answer(lambda: _load(_program("socket", *row[1], functions=functions)))


def cpu_level(level: str) -> Feature:
    """Whether the kernel knows all instructions of a level, "v1" to "v4", as compilers count them.

    Later additions that `pylsm.asm` counts to a level (``atomic_fetch``, ``may_goto``, ``load_acquire``) are asked
    for by name.
    """
    if level not in _LEVELS:
        return Feature(None, f"{level!r} is none of {', '.join(_LEVELS)}")
    below = list(_LEVELS)[: list(_LEVELS).index(level) + 1]
    for name in [name for each in below for name in _LEVELS[each]]:
        answer = instruction(name)
        if answer.supported is not True:
            return Feature(answer.supported, f"{name}: {answer.detail}")
    return program("socket")


def large_programs() -> Feature:
    """Whether programs of more than 4,096 instructions are taken (Linux 5.2, with CAP_BPF)."""

    def attempt() -> None:
        try:
            _load(_program("socket", *[_ZERO] * 5000, _EXIT))
        except BpfError as error:
            if error.errno == E2BIG:
                raise ResolveError("more than 4,096 instructions are refused") from error
            raise

    return _answer(attempt)


# --- the rest -----------------------------------------------------------------------------------------------------


def btf() -> Feature:
    """Whether the kernel shows its types (/sys/kernel/btf/vmlinux)."""

    def attempt() -> None:
        from pylsm.btf import Btf

        Btf.kernel()

    answer = _answer(attempt)
    return Feature(False, answer.detail) if answer.supported is None else answer


def cached_survey(directory: str = "/run/pylsm") -> Survey:
    """`survey`, kept in a file until the next boot: the kernel does not change while it runs.

    Args:
        directory: where to keep it; where that cannot be written, it is not kept. A file that is not this user's, or
            that others may write, is not believed. What was left open (for lack of privilege, or of tracefs) is asked
            again.
    """
    import json
    import stat

    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        boot = file.read().strip()
    path = f"{directory}/features-{boot}.json"
    kept = None
    try:
        with open(path, encoding="utf-8") as file:
            found = os.fstat(file.fileno())
            if found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                kept = _from_json(json.load(file))
    except (OSError, ValueError, TypeError, AttributeError):
        pass  # none, or not one that was written here: look again
    made = survey(kept)
    if made != kept:
        beside = f"{path}.{os.getpid()}"
        try:
            os.makedirs(directory, mode=0o755, exist_ok=True)
            with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "w", encoding="utf-8") as file:
                json.dump({"version": _VERSION, **made._asdict()}, file)
            os.replace(beside, path)
        except OSError:
            pass  # it is only a cache
    return made


#: Of what is kept: one that another pylsm wrote is not read.
_VERSION = 2


def _from_json(kept: Any) -> Survey:
    """Raises ValueError, TypeError or AttributeError for what this version did not write."""
    if kept.pop("version", 1) != _VERSION:
        raise ValueError("another version's")
    found = Survey(**kept)
    features = {
        group: {name: Feature(*answer) for name, answer in rows.items()} for group, rows in found.features.items()
    }
    for calls in (found.helpers, found.kfuncs):
        if not all(answer in (True, False, None) for rows in calls.values() for answer in rows.values()):
            raise ValueError("an answer is neither yes nor no")
    return found._replace(features=features)


#: What `attach` is asked for.
_ATTACHED = ("raw_tp", "tracepoint", "kprobe", "kretprobe", "tp_btf", "fentry", "fexit", "lsm", "lsm.s", "iter")


def _ext() -> Feature:
    return Feature(None, _NOT_PROBED + "replaces a function of another program, which has to be there")


def _questions() -> dict[str, dict[str, Callable[[], Feature]]]:
    """Group → name → who answers."""
    return {
        "kernel": {"btf": btf, "large_programs": large_programs},
        "program_types": {**{name: partial(program, name) for name in SECTIONS}, "ext": _ext},
        "attach_types": {name: partial(program, name) for name in _ATTACH_TYPES},
        "attach": {name: partial(attach, name) for name in _ATTACHED},
        "map_types": {type.name.lower(): partial(map_type, type) for type in MapType if type is not MapType.UNSPEC},
        "instructions": {name: partial(instruction, name) for name in INSTRUCTIONS},
        "cpu_levels": {level: partial(cpu_level, level) for level in _LEVELS},
    }


def survey(known: Survey | None = None) -> Survey:
    """All of the above: some 15,000 probes, most of them of calls (two seconds of CPU time, many where emulated).

    Args:
        known: answers of this kernel from before; asked is what they leave open.
    """
    before = known or Survey({}, {}, {})

    def answer(group: str, name: str, ask: Callable[[], Feature]) -> Feature:
        found = before.features.get(group, {}).get(name)
        return ask() if found is None or found.supported is None else found

    def calls(found: Calls, ask: Callable[[str], dict[str, bool | None]]) -> Calls:
        return {
            name: ask(name) if name not in found or None in found[name].values() else found[name] for name in SECTIONS
        }

    return Survey(
        {group: {name: answer(group, name, ask) for name, ask in rows.items()} for group, rows in _questions().items()},
        calls(before.helpers, helpers),
        calls(before.kfuncs, kfuncs),
    )
