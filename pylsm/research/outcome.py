"""What a kernel says to one program: accepted, or refused for a reason that can be counted."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from pylsm.asm.program import Program
from pylsm.loader import BpfError, LoadedProgram, VerifierError

if TYPE_CHECKING:
    from pylsm.loader import Map

__all__ = ["ACCEPTED", "Outcome", "reason_class", "try_load"]

#: The class of programs that were loaded.
ACCEPTED = "accepted"


class Outcome(NamedTuple):
    """Of one attempt to load.

    ``kind`` is "accepted" or the class of the reason (`reason_class`); ``reason`` the verifier's own words;
    ``instruction`` the index of the instruction at fault, or None where the log does not tell.
    """

    kind: str
    reason: str = ""
    instruction: int | None = None

    @property
    def accepted(self) -> bool:
        """Whether the program was loaded."""
        return self.kind == ACCEPTED


_STACK = re.compile(r"\bfp[+-]?\d+")
_REGISTER = re.compile(r"\b[Rr](?:10|[0-9])\b")
_NUMBER = re.compile(r"(?<![\w.])[+-]?(?:0x[0-9a-fA-F]+|\d+)(?!\w|\.\d)|(?<=opcode )[0-9a-f]+\b")
_VALUES = re.compile(r"=\S*")


def reason_class(reason: str) -> str:
    """A refusal without what differs from program to program: registers are R#, numbers #.

    >>> reason_class("invalid write to stack R10 off=-600 size=8")
    'invalid write to stack R# off=# size=#'
    """
    reason = _STACK.sub("fp#", reason.strip())
    reason = _REGISTER.sub("R#", reason)
    return _VALUES.sub("=#", _NUMBER.sub("#", reason))


def try_load(program: Program, maps: Mapping[str, Map] | None = None) -> Outcome:
    """Load the program, forget it at once, and say what came of it.

    Raises:
        ResolveError, SpecError: the program names something this kernel or ``maps`` does not have; that is no verdict.
        BpfError: without the privilege to load programs (EPERM), nothing can be learned.
    """
    try:
        LoadedProgram.load(program, maps=maps, source_lines=False).close()
    except VerifierError as error:
        return Outcome(reason_class(error.reason) or f"errno {error.errno}", error.reason, error.instruction)
    except BpfError as error:
        import errno

        if error.errno in (errno.EPERM, errno.EACCES):
            raise
        number = error.errno or 0
        return Outcome(f"errno {errno.errorcode.get(number, number)}", str(error))
    return Outcome(ACCEPTED)
