"""What the assembler refuses: one base class, one type per kind of mistake.

Every error is raised at the Python line that made the mistake wherever that line is known, and ``line`` repeats it
as data.
"""

from __future__ import annotations

import sys

from pylsm.errors import PylsmError
from pylsm.light import NamedTuple

__all__ = [
    "AsmError",
    "BlockError",
    "CallError",
    "CpuError",
    "FallThroughError",
    "FieldError",
    "JumpTargetError",
    "LabelError",
    "OperandError",
    "ProgramSizeError",
    "RangeError",
    "RegisterError",
    "SourceLine",
    "StackError",
    "SyntaxTextError",
    "UnknownNameError",
    "UnreachableError",
    "caller_line",
]


class SourceLine(NamedTuple):
    """The place in a source file that an instruction was written at."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


def caller_line() -> SourceLine:
    """The line outside `pylsm.asm` that is being executed: what an instruction or a mistake is pinned to."""
    frame = sys._getframe(1)
    while frame.f_back and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    return SourceLine(frame.f_code.co_filename, frame.f_lineno)


#: The directory of this package, as its code objects spell it.
_PACKAGE = caller_line.__code__.co_filename[: -len("errors.py")]


class AsmError(PylsmError):
    """Base of all assembler errors; ``line`` is the Python (or text) line at fault, or None where none is known."""

    def __init__(self, message: str, *, hint: str = "", line: SourceLine | None = None) -> None:
        super().__init__(f"{line}: {message}" if line else message, hint=hint)
        self.line = line


class RegisterError(AsmError):
    """A register that does not exist, was never written, or was clobbered by a call."""


class RangeError(AsmError):
    """An immediate or an offset that does not fit its field."""


class OperandError(AsmError):
    """An operand of the wrong kind for this instruction."""


class LabelError(AsmError):
    """A label bound twice, never bound, or of another program."""


class JumpTargetError(LabelError):
    """A jump out of the program, or into the second half of a ``lddw``."""


class UnreachableError(AsmError):
    """Instructions that nothing leads to; the kernel refuses them ("unreachable insn", check_cfg)."""


class BlockError(AsmError):
    """A block left open, or ``else_`` without ``if_``."""


class FallThroughError(AsmError):
    """Control runs off the end of a function."""


class StackError(AsmError):
    """More than 512 bytes of stack (MAX_BPF_STACK, include/linux/filter.h)."""


class CallError(AsmError):
    """A call whose arguments do not fit the callee's prototype."""


class UnknownNameError(AsmError):
    """A helper, field or function that nobody knows; the message has the nearest name."""


class FieldError(AsmError):
    """A typed access that this type does not have."""


class CpuError(AsmError):
    """An instruction above the chosen ``cpu`` level."""


class ProgramSizeError(AsmError):
    """More instructions than the kernel takes (BPF_COMPLEXITY_LIMIT_INSNS, 1,000,000)."""


class SyntaxTextError(AsmError):
    """Assembler text that does not parse.

    Attributes:
        line: file and line.
        column: of the first character at fault, from 1.
        expected: what would have been right there, for example "a register".
    """

    def __init__(self, line: SourceLine, column: int, expected: str, text: str, *, hint: str = "") -> None:
        found = text[column - 1 :].split(None, 1)
        what = repr(found[0]) if found else "the end of the line"
        super().__init__(f"{line}:{column}: expected {expected}, found {what}\n    {text}\n    {' ' * (column - 1)}^")
        self.hint = hint
        self.line = line
        self.column = column
        self.expected = expected
