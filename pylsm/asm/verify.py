"""A proof that a program observes and nothing more, by abstract interpretation of its instructions.

What is proved, for every path to every exit:

- r0 holds the verdict that the hook was called with, loaded from the context and never computed with, or the kernel
  ignores what a program of this kind returns;
- every helper and kfunc called is on the list of `pylsm.asm.effects`, with a map of the program where it takes one;
- a tail call hands on the context it was given, to a program array that is named as holding proved programs only;
- every store goes to the stack, to a value of one of the program's maps, or to a ring buffer record.

What is taken for granted: that the kernel's verifier accepts the program, which is what bounds each access (a store
into a map value stays inside of it). What is proved here is what that verifier does not ask.

How: each register and each 8 bytes of stack hold one of the abstract values below; where paths meet, values that differ
become "anything", so the analysis ends after a few rounds of any loop. Fields, sizes and enumerators that only the
kernel knows are "anything" too, so a proof of a program with references holds on every kernel that it is loaded on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from pylsm.asm import opcodes as op
from pylsm.asm.effects import DATA_MAPS, Effect, helper_effect, kfunc_effect
from pylsm.asm.helpers import by_number
from pylsm.asm.instruction import Instruction
from pylsm.asm.maps import MapSpec, MapType
from pylsm.asm.program import Program
from pylsm.asm.proof import PATH_LIMIT, Exit, NotProved, Proof
from pylsm.asm.references import FunctionRef, KfuncRef, KsymRef, MapRef, MapValueRef
from pylsm.light import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Any

    from typing_extensions import TypeAlias

__all__ = ["Code", "named_callee", "prove", "returns_unchanged", "why_no_veto"]

# ---- abstract values -------------------------------------------------------------------------------------------------
# (kind, detail): small tuples, compared by value. Anything not listed is ANY.

_ANY = ("any", None)
_KERNEL = ("kernel", None)  # loaded from the kernel's memory, or given by it: an address or a number
_VERDICT = ("verdict", None)  # the low 32 bits are those of the verdict; that is all of it the kernel looks at
_ZERO = ("number", 0)

_Value: TypeAlias = "tuple[str, Any]"

#: Kinds of program whose return value decides nothing, and why (kernel/bpf/trampoline.c, kernel/trace/bpf_trace.c).
_NO_VETO = {
    "raw_tp": "the kernel ignores what a raw tracepoint program returns",
    "raw_tracepoint": "the kernel ignores what a raw tracepoint program returns",
    "tp_btf": "the kernel ignores what a tracepoint program returns",
    "fentry": "the kernel ignores what an fentry program returns",
    "fexit": "the kernel ignores what an fexit program returns",
    "tp": "the value only says whether perf sees the event",
    "tracepoint": "the value only says whether perf sees the event",
    "kprobe": "the value only says whether perf sees the event",
    "kretprobe": "the value only says whether perf sees the event",
    "perf_event": "the value only says whether perf sees the event",
    "iter": "the value only says whether the iterator goes on",
    "syscall": "it runs only when a process asks for it",
}
#: Kinds that get the verdict so far as their last argument and return the next.
_VETO = frozenset({"lsm", "fmod_ret"})

_MAX_DEPTH = 8  # MAX_CALL_FRAMES (include/linux/bpf_verifier.h)
#: Instructions that the analysis walks; every program that the kernel takes and that is not made to be costly is done
#: long before.
_MAX_STEPS = 2_000_000


class Code(NamedTuple):
    """What `prove` looks at: instructions, and what their numbers stand for.

    Attributes:
        name, section: of the program.
        instructions: with references, or with numbers filled in.
        maps: the program's maps by name.
        map_of: number in a map load (a descriptor, or an id in what the kernel shows) → name of the map.
        starts: name of a function → index of its first instruction.
        callee: call of a helper or kfunc → (its name for people, its effect or None when it may not be called).
        translated: the instructions are the kernel's, which replaces lookups by instructions of its own.
        tail_calls: names of the program arrays whose programs are proved themselves, for the same hook.
    """

    name: str
    section: str
    instructions: Sequence[Instruction]
    maps: Mapping[str, MapSpec]
    map_of: Mapping[int, str]
    starts: Mapping[str, int]
    callee: Callable[[Instruction], tuple[str, Effect | None]]
    translated: bool = False
    tail_calls: frozenset[str] = frozenset()


def returns_unchanged(
    program: Program | Sequence[Instruction],
    verdict_argument: int | None,
    *,
    section: str = "",
    maps: Mapping[int, MapSpec] | None = None,
    tail_calls: Iterable[str] = (),
) -> Proof:
    """Prove that a program observes only: see the head of this module for what that means.

    Args:
        program: as built, with references or resolved; or instructions, for example from `decode`.
        verdict_argument: which argument of the hook holds the verdict so far (the last one: 1 for file_open). None for
            a hook whose return value decides nothing.
        section: what the program is, where ``program`` is only instructions.
        maps: the maps by descriptor, where ``program`` has numbers in place of references.
        tail_calls: names of program arrays that will hold nothing but programs proved for the same hook.

    Raises:
        NotProved: at the first instruction that may do more than observe.
    """
    names = {number: spec.name for number, spec in (maps or {}).items()}
    if isinstance(program, Program):
        code = Code(
            program.name,
            program.section,
            program.instructions,
            {**{spec.name: spec for spec in program.maps}, **{spec.name: spec for spec in (maps or {}).values()}},
            names,
            {function.name: function.start for function in program.functions},
            named_callee,
            tail_calls=frozenset(tail_calls),
        )
    else:
        specs = {spec.name: spec for spec in (maps or {}).values()}
        code = Code(
            section.rpartition("/")[2],
            section,
            tuple(program),
            specs,
            names,
            {},
            named_callee,
            False,
            frozenset(tail_calls),
        )
    return prove(code, verdict_argument)


def why_no_veto(section: str) -> str:
    """Why a program of this section cannot change what the kernel does by its return value; "" when it can."""
    return _NO_VETO.get(_kind(section), "")


def named_callee(i: Instruction) -> tuple[str, Effect | None]:
    """What a call in a program that was not loaded yet calls: helpers by number, kfuncs by reference."""
    if i.src == op.CALL_KFUNC:
        if not isinstance(i.reference, KfuncRef):
            return f"kernel function of BTF id {i.imm}", None
        return i.reference.name, kfunc_effect(i.reference.name)
    helper = by_number(i.imm)
    if helper is None:
        return f"helper {i.imm}", None
    return helper.name, helper_effect(helper.name)


def prove(code: Code, verdict_argument: int | None) -> Proof:
    """`returns_unchanged` for code of any origin.

    Raises:
        NotProved: see there.
    """
    kind = _kind(code.section)
    why = _NO_VETO.get(kind, "")
    if verdict_argument is None and not why:
        if kind not in _VETO:
            raise NotProved(
                f"what a program of section {code.section!r} returns is a decision of its own", program=code.name
            )
        why = "the hook returns nothing"
    if verdict_argument is not None and (why or kind not in _VETO):
        raise NotProved(f"a program of section {code.section!r} is given no verdict to return", program=code.name)
    if verdict_argument is not None and verdict_argument < 0:
        raise NotProved(f"argument {verdict_argument} does not exist", program=code.name)
    return _Prover(code, verdict_argument).proof(why)


def _kind(section: str) -> str:
    prefix = section.partition("/")[0]
    return prefix[:-2] if prefix.endswith(".s") else prefix


class _State:
    """Registers, stack, and whether the verdict is known to be 0.

    The stack is keyed by frame * 64 + slot, slots of 8 bytes from the lowest address up; what is missing is ANY.
    """

    __slots__ = ("regs", "stack", "zero")

    def __init__(self, regs: list[_Value], stack: dict[int, _Value], zero: bool) -> None:
        self.regs = regs
        self.stack = stack
        self.zero = zero

    def copy(self) -> _State:
        return _State(self.regs[:], dict(self.stack), self.zero)

    def join(self, other: _State) -> bool:
        """Take in another state that reaches the same place; whether this one changed."""
        changed = False
        regs = self.regs
        for number, value in enumerate(other.regs):
            if regs[number] != value:
                joined = _join(regs[number], self.zero, value, other.zero)
                if joined != regs[number]:
                    regs[number] = joined
                    changed = True
        for key, value in list(self.stack.items()):
            new = other.stack.get(key, _ANY)
            if new != value:
                joined = _join(value, self.zero, new, other.zero)
                if joined != value:
                    changed = True
                    if joined == _ANY:
                        del self.stack[key]
                    else:
                        self.stack[key] = joined
        if self.zero and not other.zero:
            self.zero = False
            # A 0 that stood for the verdict does so no more: what was joined above as the verdict stays it.
            changed = True
        return changed


def _join(a: _Value, a_zero: bool, b: _Value, b_zero: bool) -> _Value:
    """The least value that covers both; ``…_zero``: on that path the verdict is known to be 0."""
    if a == b:
        return a
    if (a == _VERDICT and b == _ZERO and b_zero) or (b == _VERDICT and a == _ZERO and a_zero):
        return _VERDICT
    kinds = {a[0], b[0]}
    # Null or a pointer: the kernel's verifier sees to it that null is not followed.
    if a == _ZERO and b[0] in ("value", "record", "percpu"):
        return b
    if b == _ZERO and a[0] in ("value", "record", "percpu"):
        return a
    if kinds == {"value"} or kinds == {"percpu"}:
        return (a[0], frozenset(a[1]) | frozenset(b[1]))
    if kinds == {"stack"}:
        (frame, _), (other, _) = a[1], b[1]
        if frame == other:
            return ("stack", (frame, None))
    if kinds == {"context"}:
        return ("context", None)
    return _ANY


_JUMPS = (op.JMP, op.JMP32)
_NOSPEC = op.ST | op.ATOMIC  # BPF_ST | BPF_NOSPEC (include/linux/filter.h)


class _Prover:
    def __init__(self, code: Code, verdict: int | None) -> None:
        self._code = code
        self._verdict = verdict
        self._instructions = code.instructions
        self._steps = 0
        self._seen: set[int] = set()
        self._calls: dict[int, tuple[str, str]] = {}
        self._used: dict[str, str] = {}
        self._stores: dict[int, str] = {}
        self._exits: dict[int, str] = {}
        self._index_of: dict[int, int] = {}
        slot = 0
        self._slots: list[int] = []
        for index, i in enumerate(code.instructions):
            self._index_of[slot] = index
            self._slots.append(slot)
            slot += i.slots
        self._targets = [self._target(index) for index in range(len(code.instructions))]
        self._numbered: list[int] | None = None
        self._heads = {target for target in self._targets if target >= 0}

    def _target(self, index: int) -> int:
        """The index that a jump leads to, -1 for what is no jump."""
        i = self._instructions[index]
        if i.opcode & 7 not in _JUMPS or i.opcode & 0xF0 in (op.CALL, op.EXIT) or i.opcode == op.JMP | op.JA | op.X:
            return -1
        distance = i.imm if i.opcode == op.JMP32 | op.JA else i.off
        target = self._index_of.get(self._slots[index] + 1 + distance)
        if target is None:
            raise self._fail(index, "it jumps to where no instruction begins")
        return target

    def _fail(self, index: int, reason: str, hint: str = "") -> NotProved:
        return NotProved(reason, program=self._code.name, index=index, instruction=self._instructions[index], hint=hint)

    # ---- the whole -----------------------------------------------------------------------------------------------

    def proof(self, why: str) -> Proof:
        if not self._instructions:
            raise NotProved("it has no instructions", program=self._code.name)
        regs: list[_Value] = [_ANY] * 12  # r11: the kernel's own, in what it gives back
        regs[1] = ("context", 0)
        regs[10] = ("stack", (0, 512))
        self._walk(0, _State(regs, {}, False), 0)
        helpers: dict[tuple[str, str], int] = {}
        for called in self._calls.values():
            helpers[called] = helpers.get(called, 0) + 1
        stores: dict[str, int] = {}
        for where in self._stores.values():
            stores[where] = stores.get(where, 0) + 1
        paths, loops = self._paths()
        instructions = self._instructions
        return Proof(
            self._code.name,
            self._code.section,
            tuple(instructions),
            self._verdict,
            why,
            len(instructions),
            paths,
            loops,
            tuple(Exit(index, instructions[index].line, what) for index, what in sorted(self._exits.items())),
            tuple((name, count, reason) for (name, reason), count in sorted(helpers.items())),
            tuple(sorted(self._used.items())),
            tuple(sorted(stores.items())),
            tuple(index for index in range(len(instructions)) if index not in self._seen),
        )

    def _paths(self) -> tuple[int, int]:
        """(paths of the outermost function with each loop taken at most once, jumps backwards)."""
        loops = 0
        known: dict[int, int] = {}
        open_: set[int] = set()
        todo = [(0, False)]
        while todo:
            index, done = todo.pop()
            if not done and (index in known or index in open_):
                continue
            following = self._following(index)
            if not done:
                open_.add(index)
                todo.append((index, True))
                todo += [(target, False) for target in following]
                continue
            open_.discard(index)
            total = 0 if following else 1
            for target in following:
                if target in open_:
                    loops += 1
                total += known.get(target, 0)
            known[index] = min(total, PATH_LIMIT)
        return known[0], loops

    def _following(self, index: int) -> list[int]:
        i = self._instructions[index]
        cls, operation = i.opcode & 7, i.opcode & 0xF0
        if i.opcode == op.JMP | op.EXIT:
            return []
        target = self._targets[index]
        if cls in _JUMPS and operation == op.JA:
            return [target]
        following = [index + 1] if index + 1 < len(self._instructions) else []
        return [*following, target] if target >= 0 else following

    # ---- one function --------------------------------------------------------------------------------------------

    def _walk(self, start: int, entry: _State, frame: int) -> _State | None:
        """Walk a function from a state; the state at its exits, or None when it has none."""
        instructions, targets, heads, seen = self._instructions, self._targets, self._heads, self._seen
        states: dict[int, _State] = {start: entry}
        work = [start]
        result: _State | None = None
        while work:
            index = work.pop()
            state = states[index].copy()
            while True:
                self._steps += 1
                if self._steps > _MAX_STEPS:
                    raise self._fail(index, f"the analysis takes more than {_MAX_STEPS} steps")
                seen.add(index)
                i = instructions[index]
                cls = i.opcode & 7
                if cls == op.ALU64 or cls == op.ALU:
                    self._arithmetic(index, i, state.regs)
                elif cls == op.LDX:
                    self._load(index, i, state)
                elif cls == op.STX or cls == op.ST:
                    self._store(index, i, state)
                elif cls == op.LD:
                    self._load_wide(index, i, state.regs)
                else:
                    operation = i.opcode & 0xF0
                    if i.opcode == op.JMP | op.EXIT:
                        if frame == 0:
                            self._leave(index, state)
                        if result is None:
                            result = state
                        else:
                            result.join(state)
                        break
                    if operation == op.CALL and cls == op.JMP:
                        after = self._call(index, i, state, frame)
                        if after is None:
                            break
                        state = after
                    else:
                        target = targets[index]
                        if target < 0:
                            raise self._fail(index, f"opcode {i.opcode:#04x} is not understood")
                        taken, state.zero = self._branch(i, state)
                        known = states.get(target)
                        if known is None:
                            states[target] = _State(state.regs[:], dict(state.stack), taken)
                            work.append(target)
                        elif known.join(_State(state.regs, state.stack, taken)) and target not in work:
                            work.append(target)
                        if operation == op.JA:
                            break
                index += 1
                if index >= len(instructions):
                    raise self._fail(index - 1, "control runs off the end of the program")
                if index in heads:
                    known = states.get(index)
                    if known is None:
                        states[index] = state.copy()
                    elif not known.join(state):
                        break
                    else:
                        state = known.copy()
        return result

    def _branch(self, i: Instruction, state: _State) -> tuple[bool, bool]:
        """Whether the verdict is known to be 0 where a jump is taken, and where it is not."""
        zero = state.zero
        operation = i.opcode & 0xF0
        with_zero = not i.opcode & op.X and i.imm == 0 and i.reference is None
        if operation in (op.JEQ, op.JNE) and with_zero and state.regs[i.dst] == _VERDICT:
            return zero or operation == op.JEQ, zero or operation == op.JNE
        return zero, zero

    def _leave(self, index: int, state: _State) -> None:
        value = state.regs[0]
        if self._verdict is None:
            self._exits[index] = "anything, and ignored"
        elif value == _VERDICT:
            self._exits[index] = f"the verdict (argument {self._verdict})"
        elif value == _ZERO and state.zero:
            self._exits[index] = f"0, where the verdict (argument {self._verdict}) is 0"
        else:
            raise self._fail(
                index,
                f"r0 is {_words(value)} where the program ends, not the verdict of the hook (argument {self._verdict})",
                hint=f"load it just before exit: r0 = *(u64 *)(context + {8 * self._verdict})",
            )

    # ---- instructions --------------------------------------------------------------------------------------------

    def _arithmetic(self, index: int, i: Instruction, regs: list[_Value]) -> None:
        operation = i.opcode & 0xF0
        dst = i.dst
        if dst == 10:
            raise self._fail(index, "it changes the frame pointer")
        wide = i.opcode & 7 == op.ALU64
        if operation == op.MOV:
            if i.opcode & op.X:
                value = regs[i.src]
                if i.off == 0 and (wide or value == _VERDICT or value[0] == "number"):
                    # A 32-bit move keeps the low half, which is all of a verdict.
                    regs[dst] = value if wide or value[0] != "number" else ("number", value[1] & op.U32_MAX)
                elif i.off == -1 and self._code.translated and value[0] == "percpu":
                    regs[dst] = ("value", value[1])  # BPF_ADDR_PERCPU: this CPU's value
                else:
                    regs[dst] = _ANY
            elif i.reference is not None:
                regs[dst] = _ANY
            else:
                regs[dst] = ("number", i.imm if wide else i.imm & op.U32_MAX)
            return
        base = regs[dst]
        regs[dst] = _ANY
        if not wide or operation not in (op.ADD, op.SUB) or (i.off and operation in (op.ADD, op.SUB)):
            return
        if i.opcode & op.X:
            other = regs[i.src] if i.src != dst else base
            if operation == op.ADD and base[0] not in _POINTERS and other[0] in _POINTERS:
                base, other = other, base
            number = other[1] if other[0] == "number" else None
            if other[0] in _POINTERS:
                return
        else:
            number = i.imm if i.reference is None else None
        regs[dst] = self._moved(base, number, operation)

    def _moved(self, base: _Value, number: int | None, operation: int) -> _Value:
        """A pointer plus or minus a number (None: not known)."""
        kind, detail = base
        if kind == "stack":
            frame, at = detail
            if at is None or number is None:
                return ("stack", (frame, None))
            distance = number
            return ("stack", (frame, at + distance if operation == op.ADD else at - distance))
        if kind == "context":
            if detail is None or number is None:
                return ("context", None)
            distance = number
            return ("context", detail + (distance if operation == op.ADD else -distance))
        if kind in ("value", "record", "kernel"):
            return base
        if kind == "map" and self._code.translated:
            # The kernel's own lookup in an array: its values lie behind struct bpf_array.
            spec = self._code.maps.get(detail)
            if spec is not None and spec.type in (MapType.ARRAY, MapType.PERCPU_ARRAY):
                return ("value" if spec.type is MapType.ARRAY else "slots", frozenset({detail}))
        if kind == "slots":
            return base
        return _ANY

    def _load_wide(self, index: int, i: Instruction, regs: list[_Value]) -> None:
        if i.opcode != op.LDDW:
            raise self._fail(index, "a legacy packet load may end the program with 0")
        if i.dst == 10:
            raise self._fail(index, "it changes the frame pointer")
        reference = i.reference
        if isinstance(reference, MapRef):
            regs[i.dst] = ("map", self._map(index, reference.name))
        elif isinstance(reference, MapValueRef):
            regs[i.dst] = ("value", frozenset({self._data_map(index, self._map(index, reference.name))}))
        elif isinstance(reference, FunctionRef):
            start = self._code.starts.get(reference.name)
            if start is None:
                raise self._fail(index, f"there is no function {reference.name!r}")
            regs[i.dst] = ("function", start)
        elif isinstance(reference, KsymRef):
            regs[i.dst] = _KERNEL
        elif reference is not None:
            regs[i.dst] = _ANY
        elif i.src == 0:
            regs[i.dst] = ("number", i.imm)
        elif i.src in (op.PSEUDO_MAP_FD, op.PSEUDO_MAP_VALUE):
            number = i.imm & op.U32_MAX
            name = self._code.map_of.get(number)
            if name is None:
                raise self._fail(index, f"map {number} is none of the program's")
            self._map(index, name)
            regs[i.dst] = ("map", name)
            if i.src == op.PSEUDO_MAP_VALUE:
                regs[i.dst] = ("value", frozenset({self._data_map(index, name)}))
        elif i.src == op.PSEUDO_BTF_ID:
            regs[i.dst] = _KERNEL
        elif i.src == op.PSEUDO_FUNC:
            low = i.imm & op.U32_MAX
            start = self._index_of.get(self._slots[index] + 1 + low - (low >> 31 << 32))
            if start is None:
                raise self._fail(index, "it takes the address of no function")
            regs[i.dst] = ("function", start)
        else:
            raise self._fail(index, f"a wide load of kind {i.src} is not understood")

    def _map(self, index: int, name: str) -> str:
        if name not in self._code.maps:
            raise self._fail(index, f"map {name!r} is none of the program's")
        self._used.setdefault(name, "read")
        return name

    def _data_map(self, index: int, name: str) -> str:
        """The map, if it is nothing but memory."""
        kind = self._code.maps[name].type
        if kind not in DATA_MAPS:
            raise self._fail(index, f"map {name!r} is no plain memory ({kind.name}): writing to it has other effects")
        return name

    def _load(self, index: int, i: Instruction, state: _State) -> None:
        if i.dst == 10:
            raise self._fail(index, "it changes the frame pointer")
        kind, detail = state.regs[i.src]
        size = op.SIZE_BYTES[i.opcode & 0x18]
        mode = i.opcode & 0xE0
        plain = mode == op.MEM and i.reference is None
        value: _Value = _ANY
        if kind == "stack":
            if detail is not None and plain:
                frame, at = detail
                if at is not None:
                    place = at + i.off
                    if size == 8 and place % 8 == 0:
                        value = state.stack.get(frame * 64 + place // 8, _ANY)
        elif kind == "context":
            value = _KERNEL
            wanted = 8 * self._verdict if self._verdict is not None else -1
            if plain and detail is not None and detail + i.off == wanted:
                # Its lower half comes first in memory only where the machine is little-endian.
                value = _VERDICT if size == 8 or (size == 4 and sys.byteorder == "little") else _KERNEL
        elif kind == "kernel":
            value = _KERNEL
        elif kind == "slots" and plain and size == 8:
            value = ("percpu", detail)  # the array of per-CPU addresses
        elif kind == "value" and self._code.translated and plain and size == 8:
            names: frozenset[str] = detail
            if all(self._code.maps[name].type in _PER_CPU_HASHES for name in names):
                value = ("percpu", detail)
        state.regs[i.dst] = value

    def _store(self, index: int, i: Instruction, state: _State) -> None:
        atomic = i.opcode & 7 == op.STX and i.opcode & 0xE0 == op.ATOMIC
        size = op.SIZE_BYTES[i.opcode & 0x18]
        if atomic and i.imm == op.LOAD_ACQ:
            self._load(index, Instruction(op.LDX | op.MEMSX, i.dst, i.src, i.off), state)
            return
        if i.opcode == _NOSPEC and self._code.translated:
            return  # a barrier against speculation, which the kernel puts in
        if i.opcode & 0xE0 not in (op.MEM, op.ATOMIC) or i.opcode == _NOSPEC:
            raise self._fail(index, "a store of this kind is not understood")
        regs = state.regs
        base = regs[i.dst]
        # Once the analysis is past here, the store is to memory of the program.
        where = self._own(index, base, "stores")
        self._stores[index] = where
        if base[0] == "stack":
            frame, at = base[1]
            place = at + i.off if at is not None and i.reference is None else None
            value: _Value = _ANY
            if not atomic and size == 8 and i.opcode & 7 == op.STX:
                value = regs[i.src]
            self._write_stack(index, state, frame, place, size, value)
        if atomic and i.imm != op.STORE_REL:
            if i.imm & 0xF0 == op.CMPXCHG & 0xF0:
                regs[0] = _ANY
            elif i.imm & op.FETCH:
                if i.src == 10:
                    raise self._fail(index, "it changes the frame pointer")
                regs[i.src] = _ANY

    def _own(self, index: int, base: _Value, does: str) -> str:
        """Say whose memory a pointer is of.

        Raises:
            NotProved: not, or not for certain, the program's.
        """
        kind, detail = base
        if kind == "stack":
            return "stack"
        if kind == "value":
            names = sorted(detail)
            for name in names:
                self._used[self._data_map(index, name)] = "written"
            return "value of " + " or ".join(names)
        if kind == "record":
            self._used[detail] = "written"
            return f"record of {detail}"
        raise self._fail(index, f"it {does} through {_words(base)}, not to memory of the program")

    def _write_stack(
        self, index: int, state: _State, frame: int, place: int | None, size: int | None, value: _Value = _ANY
    ) -> None:
        """Note a write to a frame's stack at byte ``place`` from its lower end; None: somewhere, or of any length."""
        stack = state.stack
        if place is None:
            for key in [key for key in stack if key // 64 == frame]:
                del stack[key]
            return
        end = place + size if size is not None else 512
        if not 0 <= place <= end <= 512:
            raise self._fail(index, f"it writes {size} bytes at r10{place - 512:+}, outside of the stack")
        for slot in range(place // 8, -(-end // 8)):
            stack.pop(frame * 64 + slot, None)
        if size == 8 and place % 8 == 0 and value != _ANY:
            stack[frame * 64 + place // 8] = value

    # ---- calls ---------------------------------------------------------------------------------------------------

    def _call(self, index: int, i: Instruction, state: _State, frame: int) -> _State | None:
        if i.opcode & op.X:
            raise self._fail(index, "a call to an address in a register is not understood")
        if i.src == op.CALL_FUNCTION or isinstance(i.reference, FunctionRef):
            start = self._function(index, i)
            if start is None:
                raise self._fail(index, "it calls a function that is not found")
            return self._enter(index, start, state, state.regs[1:6], frame)
        name, effect = self._code.callee(i)
        if name == "tail_call" and self._code.tail_calls:
            return self._tail_call(index, state, frame)
        if effect is None:
            raise self._fail(index, f"{name} is not among the calls that an observer may make")
        self._calls[index] = (name, effect.reason)
        regs = state.regs
        map_: str | None = None
        callback: int | None = None
        for number, letter in enumerate(effect.arguments, 1):
            value = regs[number]
            if letter == "m":
                if value[0] != "map":
                    raise self._fail(index, f"the map given to {name} in r{number} is {_words(value)}")
                map_ = value[1]
                if effect.writes_map:
                    self._used[self._data_map(index, map_)] = "written"
            elif letter == "f":
                if value[0] != "function":
                    raise self._fail(index, f"the function given to {name} in r{number} is {_words(value)}")
                callback = value[1]
            elif letter in "wv8":
                size: int | None = 8
                if letter == "w":
                    length = regs[number + 1]
                    size = length[1] if length[0] == "number" else None
                elif letter == "v":
                    assert map_ is not None
                    size = self._code.maps[map_].value_size
                self._own(index, value, f"has {name} write")
                if value[0] == "stack":
                    owner, at = value[1]
                    self._write_stack(index, state, owner, at, size)
        if callback is not None:
            state = self._loop(index, name, callback, state, map_, frame)
            regs = state.regs
        result: _Value = _ANY
        if effect.result == "value":
            assert map_ is not None
            result = ("value", frozenset({map_})) if self._code.maps[map_].type in DATA_MAPS else _ANY
        elif effect.result == "record":
            result = ("record", map_)
        elif effect.result == "kernel":
            result = _KERNEL
        regs[0] = result
        regs[1:6] = [_ANY] * 5
        return state

    def _function(self, index: int, i: Instruction) -> int | None:
        """Where the function begins that a call leads to, or None."""
        if isinstance(i.reference, FunctionRef):
            return self._code.starts.get(i.reference.name)
        if not self._code.translated:
            return self._index_of.get(self._slots[index] + 1 + i.imm)
        # jit_subprogs (kernel/bpf/verifier.c) leaves the distance in ``off``, which may be too small for it, and the
        # function's number in ``imm``: numbers count functions in their order, so the two check each other.
        start = self._index_of.get(self._slots[index] + 1 + i.off)
        if self._numbered is None:
            self._numbered = sorted({0, *self._called()})
        known = self._numbered
        return start if start is not None and 0 <= i.imm < len(known) and known[i.imm] == start else None

    def _called(self) -> Iterator[int]:
        """Where functions begin, as translated code says."""
        for index, i in enumerate(self._instructions):
            distance = None
            if i.opcode == op.JMP | op.CALL and i.src == op.CALL_FUNCTION:
                distance = i.off
            elif i.opcode == op.LDDW and i.src == op.PSEUDO_FUNC:
                low = i.imm & op.U32_MAX
                distance = low - (low >> 31 << 32)
            if distance is not None:
                start = self._index_of.get(self._slots[index] + 1 + distance)
                if start is not None:
                    yield start

    def _tail_call(self, index: int, state: _State, frame: int) -> _State:
        """The state after a tail call that did not happen; when it happens, the program called ends this one's run.

        From a function of the program it would end that function only: its caller would go on with what the program
        called returned (arch/x86/net/bpf_jit_comp.c: one frame is unwound).
        """
        if frame:
            raise self._fail(index, "a tail call from a function returns to that function's caller")
        regs = state.regs
        if regs[1] != ("context", 0):
            raise self._fail(index, f"the context given to tail_call in r1 is {_words(regs[1])}")
        if regs[2][0] != "map" or regs[2][1] not in self._code.tail_calls:
            raise self._fail(index, f"tail_call goes to {_words(regs[2])}, whose programs are not proved")
        self._calls[index] = ("tail_call", "runs a program that is proved as this one is")
        self._used.setdefault(regs[2][1], "read")
        regs[0:6] = [_ANY] * 6
        return state

    def _enter(self, index: int, start: int, state: _State, arguments: list[_Value], frame: int) -> _State | None:
        """The state after a call to a function of the program, or None when it never returns."""
        if frame + 1 >= _MAX_DEPTH:
            raise self._fail(index, f"calls nest deeper than {_MAX_DEPTH}")
        regs: list[_Value] = [_ANY] * 12
        regs[1:6] = arguments
        regs[10] = ("stack", (frame + 1, 512))
        after = self._walk(start, _State(regs, dict(state.stack), state.zero), frame + 1)
        if after is None:
            return None
        kept = {key: value for key, value in after.stack.items() if key // 64 <= frame}
        back = state.regs[:]
        back[0] = after.regs[0]
        back[1:6] = [_ANY] * 5
        return _State(back, kept, after.zero)

    def _loop(self, index: int, name: str, start: int, state: _State, map_: str | None, frame: int) -> _State:
        """The state after a helper that calls a function any number of times."""
        given = state.regs[3]
        if name == "loop":
            arguments = [_ANY, given, _ANY, _ANY, _ANY]
        else:
            value: _Value = _ANY
            if map_ is not None and self._code.maps[map_].type in DATA_MAPS:
                value = ("value", frozenset({map_}))
            arguments = [("map", map_), _ANY, value, given, _ANY]
        while True:
            after = self._enter(index, start, state.copy(), arguments, frame)
            if after is None or not state.join(_State(state.regs, after.stack, after.zero)):
                return state


_POINTERS = frozenset({"stack", "context", "value", "record", "map", "slots"})
_PER_CPU_HASHES = frozenset({MapType.PERCPU_HASH, MapType.LRU_PERCPU_HASH})


def _words(value: _Value) -> str:
    """A value for a message."""
    kind, detail = value
    if kind == "number":
        return f"the number {detail}"
    if kind == "value":
        return "a pointer to a value of " + " or ".join(sorted(detail))
    if kind == "record":
        return f"a pointer to a record of {detail}"
    if kind == "map":
        return f"map {detail}"
    return {
        "any": "something that was computed, or differs between paths",
        "kernel": "an address or number of the kernel's",
        "verdict": "the verdict",
        "stack": "a pointer to the stack",
        "context": "the hook's context",
        "function": "a function",
    }.get(kind, "an address of the kernel's")
