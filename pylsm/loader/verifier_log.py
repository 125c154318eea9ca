"""The verifier's log → an error that says which Python line was refused, and why."""

from __future__ import annotations

from pylsm.asm.program import Program
from pylsm.loader.attr import Cmd
from pylsm.loader.errors import VerifierError

__all__ = ["verifier_error"]


def verifier_error(program: Program, label: str, number: int, log: str) -> VerifierError:
    """The exception for a refused program."""
    return VerifierError(f"cannot load {label}: {log}", errno=number, command=Cmd.PROG_LOAD, log=log)
