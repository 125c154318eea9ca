"""The probe: what it records, the programs that record it, and an audit while it runs.

>>> import pylsm
>>> with pylsm.audit(pids=[4321]) as events:
...     for event in events:
...         print(event)

`Audit` is the part below it, for those who have a loop of their own.
"""

from __future__ import annotations

import sys

from pylsm.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from pylsm.audit.events import Connect, Context, Event, Exec, Exit, FileOpen, Fork, Sendto
    from pylsm.audit.live import Events, watch
    from pylsm.audit.session import Audit, BlindError, Counts, FamilyFull, UnavailableError

__all__ = [
    "Audit",
    "BlindError",
    "Connect",
    "Context",
    "Counts",
    "Event",
    "Events",
    "Exec",
    "Exit",
    "FamilyFull",
    "FileOpen",
    "Fork",
    "Sendto",
    "UnavailableError",
    "watch",
]


def __getattr__(name: str) -> object:
    # Only what is used is imported: a reader of events needs no loader.
    if name in ("Connect", "Context", "Event", "Exec", "Exit", "FileOpen", "Fork", "Sendto"):
        from pylsm.audit import events as module
    elif name in ("Events", "watch"):
        from pylsm.audit import live as module  # type: ignore[no-redef]
    elif name in __all__:
        from pylsm.audit import session as module  # type: ignore[no-redef]
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(module, name)


class _Callable(type(sys)):  # type: ignore[misc]
    """This module, which is also what it is for: ``pylsm.audit(…)`` is `watch`."""

    def __call__(self, **options: Any) -> Events:
        from pylsm.audit.live import watch

        return watch(**options)


sys.modules[__name__].__class__ = _Callable
