"""A loaded program, read back from the kernel and proved as it runs, not as it was sent.

What the kernel gives back (``xlated``) is the program after the verifier has rewritten it: map descriptors are ids,
calls of helpers are distances to functions of the kernel, lookups in maps are instructions of its own, dead branches
are gone. Nothing is compared: `pylsm.asm.verify` proves those instructions by themselves, with

- maps: looked up by the ids in the loads, with type and sizes as the kernel has them;
- helpers: the called address (``__bpf_call_base`` + immediate) by its name in /proc/kallsyms. A map operation is
  called by the function that implements it ("htab_lru_map_update_elem");
- the instructions that stand for lookups: arrays' values behind the map's own address, per-CPU values through the
  CPU's offset;
- the kernel's guards around loads through pointers that it does not trust (from 6.11, but not on x86), which use a
  register of its own, r11.

`tags` ties what was sent to what the kernel has: the kernel keeps a hash of the instructions it was given.

The machine code that is made of these instructions is the kernel's business.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

from pylsm.asm import MapSpec, MapType, decode, encode
from pylsm.asm import opcodes as op
from pylsm.asm.effects import Effect, helper_effect
from pylsm.asm.instruction import Instruction, Rewritten
from pylsm.asm.verify import Code, prove
from pylsm.loader.errors import ResolveError
from pylsm.loader.maps import Map

if TYPE_CHECKING:
    from pylsm.asm.proof import Proof
    from pylsm.loader.program import LoadedProgram

__all__ = ["prove_loaded", "tags"]

_KALLSYMS = "/proc/kallsyms"
_BASE = "__bpf_call_base"
#: The kernel shows this call by the helper's number, having replaced it by an instruction of its own.
_TAIL_CALL = 12
#: Helpers that some machines' compilers make instructions of (arm64, riscv): shown by their number as well.
_INLINED = {8: "get_smp_processor_id", 35: "get_current_task", 158: "get_current_task_btf"}
#: Map operations by the function that implements them: "__htab_map_lookup_elem", "percpu_array_map_lookup_elem".
_MAP_OPERATION = re.compile(r"_*(?:bpf_)?(?:[a-z0-9]+_)*map_(lookup|update|delete|push|pop|peek)_elem\Z")
#: Variants of a helper for some kinds of program do the same ("bpf_get_stackid_raw_tp").
_VARIANTS = ("_raw_tp", "_tp", "_tracing", "_recur", "_compat", "_pe")


def prove_loaded(
    program: LoadedProgram, verdict_argument: int | None, *, section: str = "", tail_calls: Iterable[str] = ()
) -> Proof:
    """Prove of a loaded program that it only observes (`pylsm.asm.verify`), from what the kernel gives back.

    Args:
        program: loaded by this process, or opened by id or path.
        verdict_argument: as for `returns_unchanged`.
        section: what it is, where ``program`` does not say.
        tail_calls: as for `returns_unchanged`.

    Raises:
        NotProved: it may do more.
        ResolveError: this process may not see the instructions or the kernel's addresses; so nothing was proved.
    """
    info = program.info
    data = program.xlated()
    if not any(data):
        raise ResolveError(
            f"{program.label}: the kernel does not show its instructions",
            hint="be root with CAP_PERFMON (CAP_SYS_ADMIN before 5.8) and kernel.kptr_restrict below 2",
        )
    instructions = tuple(decode(data, sys.byteorder, Rewritten))
    specs: dict[int, MapSpec] = {}
    for id in info.map_ids:
        with Map.from_id(id) as map_:
            known = map_.info
            taken = {spec.name for spec in specs.values()}
            specs[id] = MapSpec(
                known.name if known.name and known.name not in taken else f"{known.name}.{id}",
                MapType(known.type),
                key=known.key_size,
                value=known.value_size,
                max_entries=known.max_entries,
            )
    calls = {i.imm for i in instructions if i.opcode == op.JMP | op.CALL and i.src == op.CALL_HELPER}
    names = _functions(calls)

    def callee(i: Instruction) -> tuple[str, Effect | None]:
        if i.imm == _TAIL_CALL:
            return "tail_call", None
        if i.src != op.CALL_HELPER:
            return f"kernel function {i.imm}", None
        found = names.get(i.imm, [])
        if not found and i.imm in _INLINED:
            return _INLINED[i.imm], helper_effect(_INLINED[i.imm])
        for name in found:
            helper = _helper(name)
            if helper is not None:
                return name, helper
        return found[0] if found else f"the function at {_BASE}{i.imm:+#x}", None

    where = section or (program.section.name if program.section is not None else "")
    code = Code(
        info.name,
        where,
        instructions,
        {spec.name: spec for spec in specs.values()},
        {id: spec.name for id, spec in specs.items()},
        {},
        callee,
        translated=True,
        tail_calls=frozenset(tail_calls),
    )
    return prove(code, verdict_argument)


def tags(instructions: Iterable[Instruction]) -> set[str]:
    """What the kernel's tag of a program (``ProgramInfo.tag``) can be, in hexadecimal, for instructions sent to it.

    The first 8 bytes of SHA-1, since Linux 6.18 of SHA-256, with zeros for maps (kernel/bpf/core.c,
    bpf_prog_calc_tag).

    Args:
        instructions: with references filled in.
    """
    import hashlib

    maps = (op.PSEUDO_MAP_FD, op.PSEUDO_MAP_VALUE)
    plain = [i.replace(imm=0) if i.opcode == op.LDDW and i.src in maps else i for i in instructions]
    code = encode(plain, sys.byteorder)
    return {hashlib.sha1(code).hexdigest()[:16], hashlib.sha256(code).hexdigest()[:16]}


def _helper(symbol: str) -> Effect | None:
    operation = _MAP_OPERATION.match(symbol)
    if operation is not None:
        return helper_effect(f"map_{operation[1]}_elem")
    if not symbol.startswith("bpf_"):
        return None
    name = symbol[4:]
    for suffix in ("", *_VARIANTS):
        found = helper_effect(name[: len(name) - len(suffix)]) if name.endswith(suffix) else None
        if found is not None:
            return found
    return None


def _functions(distances: Iterable[int]) -> dict[int, list[str]]:
    """Distance from __bpf_call_base → names of the functions there.

    Raises:
        ResolveError: addresses are hidden.
    """
    wanted = set(distances)
    if not wanted:
        return {}
    base, text = _symbols(_KALLSYMS)
    if wanted == {0}:
        raise _hidden()
    return {distance: list(_names(text, (base + distance) & op.U64_MAX)) for distance in wanted}


# Once for all programs of a process: it is millions of bytes that the kernel writes anew for each reader, and where the
# functions are that programs call stays as it is until the next boot.
@lru_cache(maxsize=1)
def _symbols(path: str) -> tuple[int, bytes]:
    """The address of __bpf_call_base, and kallsyms, every line after a newline.

    Raises:
        ResolveError: as for `_functions`.
    """
    try:
        with open(path, "rb") as file:
            text = b"\n" + file.read()
    except OSError as error:
        raise ResolveError(f"{path}: {error.strerror}: helpers cannot be told apart") from error
    at = text.find(f" {_BASE}\n".encode())
    base = int(text[text.rfind(b"\n", 0, at) + 1 : at].split()[0], 16) if at >= 0 else 0
    if not base:
        raise _hidden()
    return base, text


def _names(text: bytes, address: int) -> Iterator[str]:
    """Names of the functions at an address. Lines are searched for as bytes: to take all apart takes seconds."""
    start = f"\n{address:016x} ".encode()
    at = text.find(start)
    while at >= 0:
        end = text.find(b"\n", at + 1)
        yield text[at:end].split()[2].decode(errors="replace")  # ADDRESS KIND NAME [MODULE]
        at = text.find(start, end)


def _hidden() -> ResolveError:
    return ResolveError(
        f"{_KALLSYMS} does not show addresses, so helpers cannot be told apart",
        hint="be root with CAP_SYSLOG and kernel.kptr_restrict below 2",
    )
