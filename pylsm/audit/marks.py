"""The marks of traced processes (`pylsm.audit.maps.MARKS`), as user space sets them: by a pidfd of the process; and the
settings of the programs (`pylsm.audit.maps.SET`), which say whether marks can be relied on."""

from __future__ import annotations

import os
import struct
from errno import ENOENT, ESRCH

from pylsm.audit import names
from pylsm.audit.targets import in_initial_pid_namespace
from pylsm.light import TYPE_CHECKING
from pylsm.loader import BpfError, Map

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["Marks"]

#: `pylsm.audit.records.SETTINGS`: marked, reserved, key.
SETTINGS = struct.Struct("=IIQ")


class Marks:
    """Sets and clears the mark of a process.

    Where marks cannot be relied on, all processes are searched by number instead: for a family that others add to, and
    inside a pid namespace, where a tgid of the initial one opens no pidfd.

    Args:
        found: the maps of the loaded programs; those of kernels without task storage have none for marks.
        owned: nobody else adds to the map of traced processes.
        adopted: the maps carry an audit that goes on; it stays as it is.
    """

    def __init__(self, found: Mapping[str, Map], *, owned: bool, adopted: bool = False) -> None:
        self._storage = found.get(names.MARKS)
        self._settings = found.get(names.SET)
        # Of the fingerprints of what was seen; even, so that it is odd with what the programs make of it.
        self._key = int.from_bytes(os.urandom(8), "little") & -2
        if adopted and self._settings is not None:
            marked, _, self._key = SETTINGS.unpack(self._settings.lookup(bytes(4)) or bytes(SETTINGS.size))
            owned = bool(marked)
        if not owned or not in_initial_pid_namespace():
            self._storage = None
        self._set(self._storage is not None)

    @property
    def used(self) -> bool:
        """Processes are found by their marks."""
        return self._storage is not None

    @property
    def relied_on(self) -> bool:
        """They still are: the programs have not met a process that they could not mark."""
        if self._storage is None or self._settings is None:
            return False
        marked: int = SETTINGS.unpack(self._settings.lookup(bytes(4)) or bytes(SETTINGS.size))[0]
        return bool(marked)

    def set(self, tgid: int, tag: bytes) -> None:
        """Mark a process; one that has ended is passed over."""
        self._with_pidfd(tgid, lambda storage, key: storage.update(key, tag.ljust(storage.value_size, b"\0")))

    def clear(self, tgid: int) -> None:
        """Take the mark of a process, if it lives and has one."""
        self._with_pidfd(tgid, lambda storage, key: storage.delete(key))

    def get(self, tgid: int) -> bytes | None:
        """The tag in the mark of a process; None if it has none."""
        if self._storage is None:
            return None
        try:
            pidfd = os.pidfd_open(tgid)
        except OSError:
            return None
        try:
            found = self._storage.lookup(struct.pack("=i", pidfd))
        except BpfError:
            return None
        finally:
            os.close(pidfd)
        return found[:4] if found is not None else None

    def _with_pidfd(self, tgid: int, act: Callable[[Map, bytes], object]) -> None:
        if self._storage is None:
            return
        try:
            pidfd = os.pidfd_open(tgid)
        except OSError as error:
            if error.errno != ESRCH:
                self._give_up()
            return
        try:
            act(self._storage, struct.pack("=i", pidfd))
        except BpfError as error:
            if error.errno not in (ENOENT, ESRCH):
                self._give_up()
        finally:
            os.close(pidfd)

    def _give_up(self) -> None:
        self._storage = None
        self._set(False)

    def _set(self, marked: bool) -> None:
        if self._settings is not None:
            self._settings.update(bytes(4), SETTINGS.pack(marked, 0, self._key))
