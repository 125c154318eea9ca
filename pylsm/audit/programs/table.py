"""Which program records which kind of event: a row for each, as `pylsm.audit.events.KINDS` has one class for each."""

from __future__ import annotations

from collections.abc import Callable

from pylsm.asm import Program
from pylsm.audit.programs.file_open import file_open
from pylsm.audit.programs.hooks import Hook
from pylsm.audit.programs.socket_connect import socket_connect
from pylsm.light import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Final

    from pylsm.audit.sources import Variant

__all__ = ["ROWS", "Row"]


class Row(NamedTuple):
    """The program of a kind of event.

    Attributes:
        event: the kind's name.
        hook: the security hook it is entered by, without "security_".
        make: the program, for a way to be entered and a variant.
    """

    event: str
    hook: str
    make: Callable[[Hook, Variant], Program]


def _open(hook: Hook, variant: Variant) -> Program:
    return file_open(variant.path, hook, typed_task=variant.typed_task, atomics=variant.fetching_atomics)


ROWS: Final = (
    Row("connect", "socket_connect", lambda hook, variant: socket_connect(hook, typed_task=variant.typed_task)),
    Row("open", "file_open", _open),
)
