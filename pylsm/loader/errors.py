"""What the loader refuses and what the kernel refused: one type per kind, each with its next step."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pylsm.errors import PylsmError

if TYPE_CHECKING:
    from pylsm.asm.errors import SourceLine
    from pylsm.loader.attr import Cmd

__all__ = [
    "BpfError",
    "MapMismatchError",
    "PinError",
    "ResolveError",
    "RingCorrupt",
    "SpecError",
    "VerifierError",
    "errno_name",
]

#: Kernel-internal errnos that reach user space from bpf(2) although libc has no name for them (include/linux/errno.h).
_INTERNAL = {524: ("ENOTSUPP", "operation not supported by this kernel")}


def errno_name(number: int) -> str:
    """ "EPERM (Operation not permitted)" for 1; also for the kernel-internal ones such as 524."""
    if number in _INTERNAL:
        name, text = _INTERNAL[number]
        return f"{name} ({text})"
    import errno

    return f"{errno.errorcode.get(number, f'errno {number}')} ({os.strerror(number)})"


class BpfError(PylsmError, OSError):
    """bpf(2), or a call beside it, failed.

    Attributes:
        errno: the kernel's error number (524, ENOTSUPP, included).
        command: the bpf(2) command, or None where another system call failed.
        hint: what usually causes this here, and the next step; "" when nothing is known.
    """

    def __init__(self, message: str, *, errno: int, command: Cmd | None = None, hint: str = "") -> None:
        OSError.__init__(self, errno, message)
        self.command = command
        self.hint = hint

    def __str__(self) -> str:
        return str(self.strerror)


class PinError(BpfError):
    """A path that cannot be pinned to, or that holds no object of the wanted kind."""


class VerifierError(BpfError):
    """The verifier refused a program.

    Attributes:
        log: the verifier's whole log as the kernel wrote it (the newest part, if even its largest buffer is too small).
        reason: the line of the log that says why; a best guess, since the log is no stable interface.
        instruction: index in ``Program.instructions`` of the instruction at fault, or None.
        line: the Python line of that instruction, or None.
        registers: register → state, as last printed before the failure, in the verifier's own words.
    """

    def __init__(
        self,
        message: str,
        *,
        errno: int,
        command: Cmd | None = None,
        hint: str = "",
        log: str = "",
        reason: str = "",
        instruction: int | None = None,
        line: SourceLine | None = None,
        registers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message, errno=errno, command=command, hint=hint)
        self.log = log
        self.reason = reason
        self.instruction = instruction
        self.line = line
        self.registers = registers or {}


class MapMismatchError(PylsmError):
    """A map that is given is not of the type or the sizes that the program needs."""


class SpecError(PylsmError, ValueError):
    """A size, length or option that is refused before the kernel is asked."""


class ResolveError(PylsmError):
    """A reference that this kernel (or this set of maps) has nothing for: a type, field, function, hook or map."""


class RingCorrupt(PylsmError):
    """A ring buffer whose positions or lengths contradict each other; nothing of it can be trusted any more.

    Attributes:
        consumer, producer: the positions (bytes since the ring was made) at which it was noticed.
    """

    def __init__(self, message: str, *, consumer: int, producer: int) -> None:
        super().__init__(f"{message} (consumer position {consumer}, producer position {producer})")
        self.consumer = consumer
        self.producer = producer
