"""The root of every exception that pylsm raises on purpose."""

from __future__ import annotations

__all__ = ["PylsmError"]


class PylsmError(Exception):
    """Something pylsm refuses or could not do.

    Args:
        message: one line: what was needed and what was found.
        hint: the next step for the reader, or "" where there is none.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint
