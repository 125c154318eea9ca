"""The rules of `pylsm.audit.filters` in the maps that the kernel side looks at (`pylsm.audit.rules`)."""

from __future__ import annotations

import struct
from collections.abc import Mapping

from pylsm.audit import rules
from pylsm.audit.filters import MODES, Filters
from pylsm.errors import PylsmError
from pylsm.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

    from pylsm.loader import Map

__all__ = ["KernelFilters"]

_FIRST: Final = bytes(4)
_NO, _YES = (struct.pack("=I", number) for number in (0, 1))


class KernelFilters:
    """The maps of a running audit; those that its programs do not look at are not there, and left alone.

    Args:
        maps: of the loaded programs.
    """

    def __init__(self, maps: Mapping[str, Map]) -> None:
        self._paths = maps.get(rules.PATHS.name)
        self._networks = {4: maps.get(rules.DESTINATIONS.name), 16: maps.get(rules.DESTINATIONS_V6.name)}
        self._ports = maps.get(rules.PORTS.name)
        self._settings = maps.get(rules.SETTINGS.name)

    def open(self) -> None:
        """Let everything through."""
        for trie in (self._paths, *self._networks.values()):
            if trie is not None:
                for key, _ in list(trie.items()):
                    trie.update(key, _YES)
                trie.update(_key(b"", 0, trie.key_size), _YES)
        if self._ports is not None:
            self._ports.update(_FIRST, Filters().port_bits())
        self._set_mode(0)

    def set(self, filters: Filters) -> None:
        """Let through what these rules may want.

        While it changes everything gets through, so that nothing is missed that both the old and the new rules want.

        Raises:
            PylsmError: there are more rules than the maps have room for.
        """
        wanted: list[tuple[Map, dict[bytes, bool]]] = []
        if self._paths is not None:
            size = self._paths.key_size
            verdicts = {_key(path, 8 * len(path), size): may for path, may in filters.path_verdicts().items()}
            wanted.append((self._paths, verdicts))
        for length, trie in self._networks.items():
            if trie is not None:
                found = filters.network_verdicts(length)
                wanted.append((trie, {_key(n.address, n.bits, trie.key_size): may for n, may in found.items()}))
        for trie, verdicts in wanted:
            most = trie.info.max_entries // 2  # the old ones stay until the new ones are there
            if len(verdicts) > most:
                raise PylsmError(f"too many rules for {trie.label}: {len(verdicts)}, there is room for {most}")
        self.open()
        for trie, verdicts in wanted:
            for key in verdicts:
                trie.update(key, _YES)
            for key in [key for key, _ in trie.items() if key not in verdicts]:
                trie.delete(key)
            for key, may in verdicts.items():
                if not may:
                    trie.update(key, _NO)
        if self._ports is not None:
            self._ports.update(_FIRST, filters.port_bits())
        self._set_mode(MODES[filters.mode] if filters.mode is not None else 0)

    def _set_mode(self, mode: int) -> None:
        if self._settings is None:
            return
        offset, size = rules.SETTING.field("mode")
        value = bytearray(self._settings.lookup(_FIRST) or bytes(rules.SETTING.size))
        value[offset : offset + size] = struct.pack("=I", mode)
        self._settings.update(_FIRST, bytes(value))


def _key(data: bytes, bits: int, size: int) -> bytes:
    """A key of a trie (struct bpf_lpm_trie_key)."""
    return struct.pack("=I", bits) + data.ljust(size - 4, b"\0")
