"""The verifier's log → which instruction was refused, why, and with what in its registers.

The log is made for people and changes with every kernel. What is relied on has held from 5.10 to 7.3:

- an instruction is printed as ``5: (79) r1 = *(u64 *)(r0 +0)``, its number counting 8-byte slots;
- what is wrong comes on the lines after the last instruction; before any instruction if the program as a whole is
  refused (``unreachable insn 2``);
- a state is a list of ``R7=scalar(umin=101)``, after ``from 2 to 5:`` or ``5:`` in full, after ``;`` only what changed;
- 7.3 adds paragraphs of explanation between "Verification failed:" and "processed", the last one "Suggestion:".

Everything else is a guess, and the whole log is kept beside it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from pylsm.loader.attr import Cmd
from pylsm.loader.errors import VerifierError, errno_name

if TYPE_CHECKING:
    from pylsm.asm.program import Program

__all__ = ["Verdict", "parse_log", "verifier_error"]

#: Also "1: BUG_db", for an instruction that the kernel has no words for.
_INSTRUCTION = re.compile(r"(\d+): (?:\([0-9a-f]{2}\) |BUG_)")
#: A state in full: on a line of its own, or behind a jump ("2: (25) if r7 > 0x64 goto pc+2 5: R1=ctx() …").
_STATE = re.compile(r"(?:from [^:]*:|\d+:)? *((?:frame\d+: *)?(?:R\d+|fp-\d+)(?:_\w+)?=.*)")
_STATE_BEHIND = re.compile(r" \d+: *((?:frame\d+: *)?(?:R\d+|fp-\d+)(?:_\w+)?=.*)")
_VALUE = re.compile(r"(?:^|\s)(R\d+|fp-\d+)(?:_[rwP]+)?=")
_STATE_TAIL = re.compile(r"(?:\s+(?:refs=[\d,]+|cb|async_cb))+$")
_NUMBER_IN_REASON = re.compile(r"\binsn (\d+)\b")

#: Lines that never say why.
_NOISE = re.compile(
    r"""\s*$ | ; | processed\ \d | verification\ time | stack\ depth | func\#\d | from\ \d+\ to | caller:$ | callee:$
    | returning\ from\ callee | to\ caller\ at | cur\ state: | old\ state: | last_idx | regs= | parent\ | mark_precise
    | propagating | \s*frame\d+:\ | \s*(?:R\d+|fp-\d+)(?:_\w+)?=\S | \d+:\ (?:frame\d+:\ )?(?:R\d|fp-) | \d+:\ safe$
    | Live\ regs\ before | \s*\d+:\ [.0-9r]{10,11}\ \( | func\ '\w+'\ arg\d+\ has\ btf_id | max_states | Reg\ state
    | arg\#\d+\ (?:type|reference) | Unrecognized\ arg | reg\ type\ unsupported | (?:subprog|insn|line)_cnt
    | Func\#\d+\ .*\ is\ (?:global|safe) | Validating\ """,
    re.VERBOSE,
)

#: What to do about a reason, where the kernel does not say so itself: a part of the reason → the next step.
_ADVICE = (
    ("_or_null'", "compare the pointer with 0 before using it"),
    ("!read_ok", "the register has no value here: calls destroy r1-r5, and each path has to set it"),
    ("Unreleased reference", "submit, discard or release what was acquired on every path to exit"),
    ("infinite loop", "give the loop a bound that the verifier can see, or use bpf_loop"),
    ("back-edge", "give the loop a bound that the verifier can see (from Linux 5.3), or use bpf_loop"),
    ("too large", "the verifier follows too many paths: fewer branches, smaller loops, or bpf_loop"),
    ("too complex", "the verifier follows too many paths: fewer branches, smaller loops, or bpf_loop"),
    ("unknown func", "this kernel does not allow that helper in programs of this type"),
    ("cannot use helper", "use a program type that this helper is for"),
    ("invalid mem access 'scalar'", "a number is no pointer: arithmetic, a spill or a call may have lost its type"),
    ("invalid mem access 'inv'", "a number is no pointer: arithmetic, a spill or a call may have lost its type"),
    ("unbounded memory access", "compare the length or index with its bound before using it"),
    ("unreachable insn", "remove the instruction, or jump to it"),
)

#: Reasons are one line of at most this many characters.
_LONGEST = 400

#: How much of a long log is read for the last state.
_TAIL = 1 << 18


class Verdict(NamedTuple):
    """What was made of a log.

    ``reason``: the line that says why, "" if none does; ``slot``: of the instruction at fault, or None; ``registers``:
    the last state printed before; ``suggestion``: the next step, from the kernel (7.3) or by the reason, or "".
    """

    reason: str
    slot: int | None
    registers: dict[str, str]
    suggestion: str


def parse_log(log: str) -> Verdict:
    """Find the reason in a verifier's log; never raises."""
    body, suggestion = _without_explanation(log[-_TAIL:])
    lines = body.splitlines()
    last = -1
    slot: int | None = None
    registers: dict[str, str] = {}
    for number, line in enumerate(lines):
        found = _INSTRUCTION.match(line)
        if found:
            last, slot = number, int(found[1])
        _follow_state(line, registers)
    after = [line.strip() for line in lines[last + 1 :] if not _NOISE.match(line)]
    # What is wrong comes right after the instruction; without one, the last word is the most specific.
    reason = after[0 if last >= 0 else -1] if after else ""
    reason = reason if len(reason) <= _LONGEST else reason[:_LONGEST] + "…"
    named = _NUMBER_IN_REASON.search(reason)
    if named:
        slot = int(named[1])
    if not suggestion:
        suggestion = next((advice for part, advice in _ADVICE if part in reason), "")
    return Verdict(reason, slot, registers, suggestion)


def verifier_error(program: Program | None, label: str, number: int, log: str) -> VerifierError:
    """The exception for a refused program; ``program`` is None for one that came from a cache.

    Its message has the Python line with a caret under its first character, the verifier's reason, and the state of
    the registers that the reason names.
    """
    verdict = parse_log(log)
    index = _index_of(program, verdict.slot) if program is not None else None
    line = program.instructions[index].line if program is not None and index is not None else None
    message = [f"the verifier refuses {label}"]
    if line is not None:
        from pylsm.loader.source import source_text

        message[0] += f" at {line}"
        text = source_text(line.file, line.line)
        if text.strip():
            message += [f"    {text.strip()}", "    ^"]
    elif index is not None:
        message[0] += f" at instruction {index}"
    message.append(verdict.reason or f"it does not say why: {errno_name(number)}")
    for register in dict.fromkeys(re.findall(r"\bR\d+\b", verdict.reason)):
        if register in verdict.registers:
            message.append(f"    {register} = {verdict.registers[register]}")
    return VerifierError(
        "\n".join(message),
        errno=number,
        command=Cmd.PROG_LOAD,
        hint=verdict.suggestion,
        log=log,
        reason=verdict.reason,
        instruction=index,
        line=line,
        registers=verdict.registers,
    )


def _without_explanation(log: str) -> tuple[str, str]:
    """The log without what 7.3 explains in paragraphs, and its suggestion on one line."""
    begin = log.find("\nVerification failed: ")
    if begin < 0 and not log.startswith("Verification failed: "):
        return log, ""
    begin = max(begin, 0)
    suggestion = ""
    mark = log.find("\nSuggestion:\n", begin)
    end = log.find("\nprocessed ", begin)
    if mark >= 0:
        paragraph: list[str] = []
        for line in log[mark + len("\nSuggestion:\n") :].splitlines():
            if not line.startswith(" "):
                break
            paragraph.append(line.strip())
        suggestion = " ".join(paragraph)
    return log[:begin] + (log[end:] if end >= 0 else ""), suggestion


def _follow_state(line: str, registers: dict[str, str]) -> None:
    """Keep up with the states that the log prints."""
    if line.startswith(("cur state:", "old state:", "regs=", "mark_precise", "parent")):
        return
    instruction = _INSTRUCTION.match(line)
    if instruction is None:
        found = _STATE.match(line)
    else:
        if line.startswith("call ", instruction.end()):
            for clobbered in ("R1", "R2", "R3", "R4", "R5"):
                registers.pop(clobbered, None)
        _, changes, changed = line.partition("; ")
        if changes:
            registers.update(_registers(changed))
            return
        found = _STATE_BEHIND.search(line)
    if found is not None:
        registers.clear()
        registers.update(_registers(found[1]))


def _registers(text: str) -> dict[str, str]:
    text = _STATE_TAIL.sub("", text.strip())
    marks = list(_VALUE.finditer(text))
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    return {mark[1]: text[mark.end() : end].strip() for mark, end in zip(marks, ends)}


def _index_of(program: Program, slot: int | None) -> int | None:
    """The instruction in a slot (or in the second half of it), None for none."""
    if slot is None:
        return None
    at = 0
    for index, instruction in enumerate(program.instructions):
        at += instruction.slots
        if slot < at:
            return index
    return None
