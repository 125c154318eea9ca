"""A map as a program names it: plain data, created by the loader."""

from __future__ import annotations

from pylsm.light import TYPE_CHECKING
from pylsm.maptype import MapType

if TYPE_CHECKING:
    from typing import Protocol
else:
    Protocol = object

__all__ = ["Layout", "MapSpec", "MapType"]


class Layout(Protocol):
    """What the assembler asks of a record: its size and where its fields are (``pylsm.record.Record`` has it)."""

    @property
    def name(self) -> str: ...

    @property
    def size(self) -> int:
        """Bytes of the fixed part."""

    def field(self, name: str) -> tuple[int, int]:
        """(offset, size) of a field, in bytes; raises KeyError."""


class MapSpec:
    """A map by name, type and sizes.

    Args:
        name: letters, digits, '_' or '.'; the kernel is told the first 15 (BPF_OBJ_NAME_LEN with its NUL), as by
            libbpf.
        type: the map type.
        key, value: size in bytes, or a record whose layout is also shown by ``bpftool map dump``.
        max_entries: entries; bytes (a power of two, a multiple of the page size) for a ring buffer.
        flags: BPF_F_* flags of BPF_MAP_CREATE.

    Raises:
        OperandError: a name the kernel would refuse.
    """

    __slots__ = ("flags", "key", "key_size", "max_entries", "name", "type", "value", "value_size")

    def __init__(
        self,
        name: str,
        type: MapType,
        *,
        key: int | Layout = 0,
        value: int | Layout = 0,
        max_entries: int,
        flags: int = 0,
    ) -> None:
        if not name or not name.isascii() or not all(c.isalnum() or c in "_." for c in name):
            from pylsm.asm.errors import OperandError

            raise OperandError(f"map name {name!r}: letters, digits, '_' and '.' are allowed")
        self.name = name
        self.type = type
        self.key: Layout | None = None if isinstance(key, int) else key
        self.value: Layout | None = None if isinstance(value, int) else value
        self.key_size = key if isinstance(key, int) else key.size
        self.value_size = value if isinstance(value, int) else value.size
        self.max_entries = max_entries
        self.flags = flags

    @property
    def kernel_name(self) -> str:
        """The name as the kernel keeps and shows it."""
        return self.name[:15]

    def resized(self, max_entries: int) -> MapSpec:
        """The same map with another size."""
        return MapSpec(
            self.name,
            self.type,
            key=self.key or self.key_size,
            value=self.value or self.value_size,
            max_entries=max_entries,
            flags=self.flags,
        )

    def __repr__(self) -> str:
        return f"MapSpec({self.name!r}, {self.type.name}, key={self.key_size}, value={self.value_size})"
