"""The text of a line of Python source, for line records in the kernel and for messages.

`linecache` would do, but importing it costs more than loading a program, and it does not look into zip archives.
"""

from __future__ import annotations

import os
import sys

__all__ = ["source_text"]

_LIMIT = 64
_files: dict[str, list[str]] = {}


def source_text(file: str, line: int) -> str:
    """Line ``line`` (from 1) of ``file`` without its newline, "" where it cannot be read."""
    lines = _files.get(file)
    if lines is None:
        if len(_files) >= _LIMIT:
            _files.clear()
        lines = _files[file] = _read(file).decode("utf-8", "replace").replace("\0", "").splitlines()
    return lines[line - 1] if 0 < line <= len(lines) else ""


def _read(file: str) -> bytes:
    try:
        with open(file, "rb") as opened:
            return opened.read()
    except (OSError, ValueError):
        pass
    # Inside a zip application the path continues below the archive: "x.pyz/pylsm/audit/file_open.py".
    archive = file
    while len(archive) > 1:
        archive = os.path.dirname(archive)
        importer = sys.path_importer_cache.get(archive)
        get_data = getattr(importer, "get_data", None)
        if get_data is not None:
            try:
                return bytes(get_data(file))
            except OSError:
                return b""
        if archive == os.path.dirname(archive):
            break
    return b""
