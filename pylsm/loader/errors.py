"""What the loader refuses and what the kernel refused: one type per kind, each with its next step."""

from __future__ import annotations

import os

from pylsm.errors import PylsmError
from pylsm.light import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

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
ENOTSUPP = 524
_INTERNAL = {ENOTSUPP: ("ENOTSUPP", "operation not supported by this kernel")}


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
    """A reference that this kernel (or this set of maps) has nothing for: a type, field, function, hook or map.

    Looking for the nearest name among a hundred thousand takes a second, and a caller that tries one hook after
    another never reads it: ``reason`` and ``hint`` are put into words only when somebody reads them.

    Args:
        message: what could not be resolved, where.
        reason: why, appended to the message.
        hint: the next step, or a function that finds it.
    """

    def __init__(self, message: str, *, reason: object = "", hint: str | Callable[[], str] = "") -> None:
        super().__init__(message)
        self._message = message
        self._reason = reason
        self._hint = hint

    @property
    def hint(self) -> str:
        """The next step, or ""."""
        if callable(self._hint):
            self._hint = self._hint()
        return self._hint

    @hint.setter
    def hint(self, text: str) -> None:
        self._hint = text

    def __str__(self) -> str:
        reason = str(self._reason)
        return f"{self._message}: {reason}" if reason else self._message


class RingCorrupt(PylsmError):
    """A ring buffer whose positions or lengths contradict each other; nothing of it can be trusted any more.

    Attributes:
        consumer, producer: the positions (bytes since the ring was made) at which it was noticed.
    """

    def __init__(self, message: str, *, consumer: int, producer: int) -> None:
        super().__init__(f"{message} (consumer position {consumer}, producer position {producer})")
        self.consumer = consumer
        self.producer = producer
