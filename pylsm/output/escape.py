"""Bytes that somebody else chose → text that neither a terminal nor a line-based log can be fooled with."""

from __future__ import annotations

__all__ = ["escape"]


def escape(raw: bytes, *, spaces: bool = False) -> str:
    """Printable UTF-8 as it is, everything else as ``\\xNN`` for each byte, and a backslash doubled.

    Escaped are control characters, newlines and ESC, format characters such as bidirectional marks, separators other
    than the plain space, unassigned and private characters, and bytes that are no UTF-8: what ``str.isprintable``
    refuses. The original bytes can be had back.

    Args:
        raw: any bytes.
        spaces: escape the plain space too, for a value with further fields behind it on the line.
    """
    text = raw.decode("utf-8", "surrogateescape")
    if text.isprintable() and "\\" not in text and not (spaces and " " in text):
        return text
    return "".join(_one(c, spaces) for c in text)


def _one(character: str, spaces: bool) -> str:
    if character == "\\":
        return "\\\\"
    if character.isprintable() and not (spaces and character == " "):
        return character
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogateescape"))
