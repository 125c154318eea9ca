"""What this kernel takes, found by trying: nothing is concluded from version numbers.

Each function answers with a `Feature` and never raises. ``supported`` is None where the question could not be put,
for lack of privilege or of BTF. Nothing is left behind: what a probe makes is closed before it returns, and a probe
that attaches uses a program that changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import E2BIG, EAGAIN, EINTR, EMFILE, ENFILE, ENOMEM, EPERM
from typing import NamedTuple

from pylsm.asm import opcodes as op
from pylsm.asm.instruction import Instruction
from pylsm.asm.maps import MapSpec, MapType
from pylsm.asm.program import Function, Program
from pylsm.asm.references import FunctionRef, KfuncRef
from pylsm.errors import PylsmError
from pylsm.loader.errors import BpfError, ResolveError, VerifierError
from pylsm.loader.maps import Map
from pylsm.loader.program import LoadedProgram

__all__ = [
    "INSTRUCTIONS",
    "SECTIONS",
    "Feature",
    "attach",
    "btf",
    "cached_survey",
    "cpu_level",
    "helper",
    "instruction",
    "kfunc",
    "map_type",
    "program",
    "survey",
]


class Feature(NamedTuple):
    """An answer: ``supported`` (None: could not be found out) and the kernel's own words, "" when it said yes."""

    supported: bool | None
    detail: str = ""


#: Errnos that say nothing about the feature.
_PASSING = (EAGAIN, EINTR, EMFILE, ENFILE, ENOMEM)

#: One section per program type that is probed, attached where it disturbs nobody.
SECTIONS = {
    "socket": "socket",
    "xdp": "xdp",
    "tc": "tc",
    "cgroup_skb": "cgroup_skb/egress",
    "syscall": "syscall",
    "raw_tp": "raw_tp/sched_process_exit",
    "tracepoint": "tracepoint/sched/sched_process_exit",
    "kprobe": "kprobe/security_file_open",
    "kretprobe": "kretprobe/security_file_open",
    "tp_btf": "tp_btf/sched_process_exit",
    "fentry": "fentry/security_file_open",
    "fexit": "fexit/security_file_open",
    "lsm": "lsm/file_open",
    "lsm.s": "lsm.s/file_open",
    "iter": "iter/task",
}

_MOV = op.ALU64 | op.MOV | op.K
_EXIT = Instruction(op.JMP | op.EXIT)
_ZERO = Instruction(_MOV, 0, imm=0)

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


def _privileged() -> bool:
    """Whether an EPERM is the kernel's word on the feature, and not on this process."""
    from pylsm.loader.hints import CAPABILITIES, effective_capabilities

    held = effective_capabilities() or 0
    has = {name for name, bit in CAPABILITIES.items() if held >> bit & 1}
    return "CAP_SYS_ADMIN" in has or {"CAP_BPF", "CAP_PERFMON"} <= has


# --- types --------------------------------------------------------------------------------------------------------


def program(section: str) -> Feature:
    """Whether a program of this section loads: "lsm/file_open", "fentry/FUNC", or a key of `SECTIONS`."""
    return _answer(lambda: _load(_program(SECTIONS.get(section, section), _ZERO, _EXIT)))


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
    sizes = _MAP_SIZES.get(type, (4, 4, 1, 0))
    if sizes is None:
        return Feature(None, f"{type.name} maps need an object of their own and are not probed")
    key, value, entries, flags = sizes

    def attempt() -> None:
        if type in (MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS):
            with Map.create(MapSpec("inner", MapType.ARRAY, key=4, value=4, max_entries=1)) as inner:
                Map.create(MapSpec("probe", type, key=4, value=4, max_entries=1), inner=inner).close()
        else:
            Map.create(MapSpec("probe", type, key=key, value=value, max_entries=entries, flags=flags)).close()

    return _answer(attempt)


_NO_PREALLOC, _MMAPABLE = 1, 1 << 10

#: key size, value size, entries, flags; None: not probed. What is not here is (4, 4, 1, 0).
_MAP_SIZES: dict[MapType, tuple[int, int, int, int] | None] = {
    MapType.UNSPEC: None,
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
    MapType.STRUCT_OPS: None,
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
    return _call(section, Instruction(op.JMP | op.CALL, imm=number))


def kfunc(name: str, section: str) -> Feature:
    """Whether programs of a section may call a kernel function by its BTF id; ``section`` as for `helper`."""
    from pylsm.btf import Btf, BtfError, BtfNotFound, Kind

    try:
        types = Btf.kernel()
        types.find(name, Kind.FUNC)
    except BtfNotFound:
        return Feature(False, f"{types.name} has no function {name!r}")
    except BtfError as error:
        return Feature(None, str(error))
    return _call(section, Instruction(op.JMP | op.CALL, reference=KfuncRef(name)))


def _call(section: str, call: Instruction) -> Feature:
    """Call with arguments that are probably wrong: a complaint about them means that the call is known."""
    arguments = [Instruction(_MOV, register, imm=0) for register in range(1, 6)]
    made = _program(SECTIONS.get(section, section), *arguments, call, _ZERO, _EXIT)

    def attempt() -> None:
        try:
            _load(made)
        except VerifierError as error:
            # Where the call itself is not refused, its arguments are, or the type of program: that is asked for.
            if error.instruction is None or any(part in error.reason for part in _REFUSED_CALLS):
                raise
            _load(_program(made.section, _ZERO, _EXIT))

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


def cached_survey(directory: str = "/run/pylsm") -> dict[str, dict[str, Feature]]:
    """`survey`, kept in a file until the next boot: the kernel does not change while it runs.

    Args:
        directory: where to keep it. A survey that had to leave questions open, or that cannot be written, is not kept;
            a file that is not this user's or that others may write is not believed.
    """
    import json
    import os
    import stat

    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        boot = file.read().strip()
    path = f"{directory}/features-{boot}.json"
    try:
        with open(path, encoding="utf-8") as file:
            found = os.fstat(file.fileno())
            if found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                kept = json.load(file)
                return {group: {name: Feature(*row) for name, row in rows.items()} for group, rows in kept.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        pass  # none, or not one that was written here: look again
    made = survey()
    if all(feature.supported is not None for rows in made.values() for feature in rows.values()):
        beside = f"{path}.{os.getpid()}"
        try:
            os.makedirs(directory, mode=0o755, exist_ok=True)
            with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "w", encoding="utf-8") as file:
                json.dump(made, file)
            os.replace(beside, path)
        except OSError:
            pass  # it is only a cache
    return made


def survey() -> dict[str, dict[str, Feature]]:
    """All of the above: group → name → answer, in some hundred probes (well under a second)."""
    return {
        "kernel": {"btf": btf(), "large_programs": large_programs()},
        "program_types": {name: program(name) for name in SECTIONS},
        "attach": {
            name: attach(name)
            for name in ("raw_tp", "tracepoint", "kprobe", "tp_btf", "fentry", "fexit", "lsm", "lsm.s", "iter")
        },
        "map_types": {type.name.lower(): map_type(type) for type in MapType if type is not MapType.UNSPEC},
        "instructions": {name: instruction(name) for name in INSTRUCTIONS},
        "cpu_levels": {level: cpu_level(level) for level in _LEVELS},
    }
