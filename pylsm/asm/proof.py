"""What a proof of observing only says, and the error in its place."""

from __future__ import annotations

from pylsm.asm import opcodes as op
from pylsm.asm.errors import AsmError, SourceLine
from pylsm.asm.instruction import Instruction
from pylsm.light import NamedTuple

__all__ = ["PATH_LIMIT", "Exit", "NotProved", "Proof"]

#: Paths are counted up to here.
PATH_LIMIT = 10**18


class Exit(NamedTuple):
    """Where the program ends: ``at``, index of the instruction, its line, and what r0 holds there, in words."""

    at: int
    line: SourceLine | None
    returns: str


class Proof(NamedTuple):
    """What was found; to print it, use ``str``.

    Attributes:
        name, section: of the program.
        code: the proof is of exactly these instructions.
        verdict: the number of the argument that holds the verdict, or None where there is none.
        why: why the value returned cannot veto, where ``verdict`` is None.
        instructions: how many.
        paths: from the first instruction to an exit, each loop taken at most once (cut off at 10^18).
        loops: jumps backwards.
        exits: each ``exit`` of the outermost function that can be reached.
        helpers: (name, number of places that call it, reason why it may be called); kfuncs are among them.
        maps: (name, "read" or "written").
        stores: (what is stored to, number of places).
        unreachable: indices of instructions that nothing leads to.
    """

    name: str
    section: str
    code: tuple[Instruction, ...]
    verdict: int | None
    why: str
    instructions: int
    paths: int
    loops: int
    exits: tuple[Exit, ...]
    helpers: tuple[tuple[str, int, str], ...]
    maps: tuple[tuple[str, str], ...]
    stores: tuple[tuple[str, int], ...]
    unreachable: tuple[int, ...]

    @property
    def digest(self) -> str:
        """SHA-256 (hexadecimal) of the instructions with what they refer to; lines do not count."""
        import hashlib  # brings OpenSSL along

        made = hashlib.sha256()
        for i in self.code:
            made.update(f"{i.opcode},{i.dst},{i.src},{i.off},{i.imm & op.U64_MAX},{i.reference!r};".encode())
        return made.hexdigest()

    def __str__(self) -> str:
        lines = [f"{self.name} ({self.section}): observe-only, proved"]
        if self.verdict is None:
            lines.append(f"  verdict: none to change: {self.why}")
        else:
            lines.append(f"  verdict: argument {self.verdict} of the hook, returned unchanged on every path")
        paths = f"{self.paths:,}" if self.paths < PATH_LIMIT else "more than 10^18"
        loops = f" (each of {self.loops} loops at most once)" if self.loops else ""
        lines.append(f"  paths: {paths}{loops} through {self.instructions} instructions; all of them walked")
        for end in self.exits:
            where = f" at {end.line}" if end.line else ""
            lines.append(f"  exit: instruction {end.at}{where}: r0 = {end.returns}")
        for name, count, reason in self.helpers:
            lines.append(f"  calls {name} ({count}x): {reason}")
        lines.append("  maps: " + (", ".join(f"{name} ({use})" for name, use in self.maps) or "none"))
        lines.append("  stores: " + (", ".join(f"{where} ({count}x)" for where, count in self.stores) or "none"))
        lines.append(f"  sha256: {self.digest}")
        return "\n".join(lines)


class NotProved(AsmError):
    """A program of which it cannot be shown that it only observes.

    Attributes:
        program: its name.
        index: of the instruction at fault in the program, or None when it is the program as a whole.
        line: the Python line that the instruction was written at, or None.
        reason: what is wrong, without the place.
    """

    def __init__(
        self,
        reason: str,
        *,
        program: str = "",
        index: int | None = None,
        instruction: Instruction | None = None,
        hint: str = "",
    ) -> None:
        place = f"program {program!r}"
        if index is not None:
            place += f", instruction {index}"
            if instruction is not None:
                from pylsm.asm.disasm import to_text

                place += f" ({to_text(instruction).strip()})"
        line = instruction.line if instruction is not None else None
        super().__init__(f"{place}: not proved to observe only: {reason}", hint=hint, line=line)
        self.program = program
        self.index = index
        self.reason = reason
