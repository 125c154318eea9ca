"""The probe: what it records, the programs that record it, and an audit while it runs.

>>> from pylsm.audit import Audit
>>> with Audit() as audit:
...     audit.trace_families([4321])
...     for event in audit.read(timeout=None):
...         print(event)
"""

from __future__ import annotations

from pylsm.light import TYPE_CHECKING

if TYPE_CHECKING:
    from pylsm.audit.events import Connect, Event, FileOpen
    from pylsm.audit.session import Audit, BlindError, Counts, FamilyFull, UnavailableError

__all__ = ["Audit", "BlindError", "Connect", "Counts", "Event", "FamilyFull", "FileOpen", "UnavailableError"]


def __getattr__(name: str) -> object:
    # Only what is used is imported: a reader of events needs no loader.
    if name in ("Connect", "Event", "FileOpen"):
        from pylsm.audit import events as module
    elif name in __all__:
        from pylsm.audit import session as module  # type: ignore[no-redef]
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(module, name)
