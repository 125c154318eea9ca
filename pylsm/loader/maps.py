"""BPF maps: create, open, check, read and write."""

from __future__ import annotations

import os
import sys
from errno import ENOENT, ENOSPC
from mmap import PAGESIZE

from pylsm.errors import PylsmError
from pylsm.libc import Memory, Structure
from pylsm.light import TYPE_CHECKING, NamedTuple
from pylsm.loader.attr import BatchAttr, Cmd, InfoAttr, MapCreateAttr, MapElementAttr, MapInfoAttr
from pylsm.loader.bpf import Handle, bpf, bpf_errno, failure, load_btf, object_kind
from pylsm.loader.errors import ENOTSUPP, BpfError, MapMismatchError, SpecError
from pylsm.loader.image import MapImage
from pylsm.maptype import MapType

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from pylsm.asm.maps import MapSpec

__all__ = ["ANY", "EXIST", "NOEXIST", "Map", "MapInfo", "possible_cpus"]

#: Flags of `Map.update` (BPF_ANY, BPF_NOEXIST, BPF_EXIST).
ANY = 0
NOEXIST = 1
EXIST = 2

_HASHES = frozenset({MapType.HASH, MapType.LRU_HASH, MapType.PERCPU_HASH, MapType.LRU_PERCPU_HASH})
_ARRAYS = frozenset({MapType.ARRAY, MapType.PERCPU_ARRAY})
_PER_CPU = frozenset(
    {MapType.PERCPU_HASH, MapType.PERCPU_ARRAY, MapType.LRU_PERCPU_HASH, MapType.PERCPU_CGROUP_STORAGE}
)
_RINGS = frozenset({MapType.RINGBUF, MapType.USER_RINGBUF})
#: Maps of objects that keep data beside themselves; the kernel wants BTF for their key and value.
_STORAGES = frozenset({MapType.SK_STORAGE, MapType.INODE_STORAGE, MapType.TASK_STORAGE, MapType.CGRP_STORAGE})
#: Maps that grow with what they belong to: the kernel wants no number of entries.
_UNCOUNTED = _STORAGES | {MapType.CGROUP_STORAGE, MapType.PERCPU_CGROUP_STORAGE}

_WORDS = {
    "HASH": "a hash map",
    "ARRAY": "an array",
    "PROG_ARRAY": "a program array",
    "PERCPU_HASH": "a per-CPU hash map",
    "PERCPU_ARRAY": "a per-CPU array",
    "LRU_HASH": "an LRU hash map",
    "LRU_PERCPU_HASH": "a per-CPU LRU hash map",
    "LPM_TRIE": "a longest-prefix-match trie",
    "ARRAY_OF_MAPS": "an array of maps",
    "HASH_OF_MAPS": "a hash map of maps",
    "PERF_EVENT_ARRAY": "a perf event array",
    "RINGBUF": "a ring buffer",
    "USER_RINGBUF": "a user ring buffer",
    "TASK_STORAGE": "a task storage",
    "BLOOM_FILTER": "a bloom filter",
}


def possible_cpus() -> int:
    """CPUs that this kernel may ever have: the number of values of an element of a per-CPU map.

    Source: /sys/devices/system/cpu/possible, "0-3,8".
    """
    global _possible_cpus
    if not _possible_cpus:
        with open("/sys/devices/system/cpu/possible", "rb", buffering=0) as file:  # no text: that imports a codec
            ranges = [part.split(b"-") for part in file.read().strip().split(b",")]
        _possible_cpus = sum(int(part[-1]) - int(part[0]) + 1 for part in ranges)
    return _possible_cpus


_possible_cpus = 0


class MapInfo(NamedTuple):
    """What the kernel says of a map (BPF_OBJ_GET_INFO_BY_FD); sizes in bytes, ``max_entries`` of a ring too."""

    type: int
    id: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    name: str
    btf_id: int
    key_type_id: int
    value_type_id: int


class Map(Handle):
    """A map of the kernel.

    Made by `Map.create`, `Map.open_pinned` or `Map.from_fd`. Keys and values are bytes, of exactly the map's sizes.
    A per-CPU map has a value for each possible CPU: its values are lists of bytes, one per CPU.
    """

    __slots__ = ("_info", "_per_cpu", "_value_bytes", "key_size", "max_entries", "type", "value_size")

    def __init__(
        self, fd: int, info: MapInfo | MapSpec | MapImage | Map, *, owned: bool = True, label: str = ""
    ) -> None:
        super().__init__(fd, owned=owned, label=label)
        self._info = info if isinstance(info, MapInfo) else None
        self.type: int = info.type
        self.key_size: int = info.key_size
        self.value_size: int = info.value_size
        self.max_entries: int = info.max_entries
        self._per_cpu = info.type in _PER_CPU
        # The kernel moves per-CPU values in 8-byte steps, all CPUs in a row.
        self._value_bytes = -(-info.value_size // 8) * 8 * possible_cpus() if self._per_cpu else info.value_size

    # --- making ---------------------------------------------------------------------------------------------------

    @classmethod
    def create(cls, spec: MapSpec | MapImage, *, inner: Map | None = None, extra: int = 0) -> Map:
        """Create the map (BPF_MAP_CREATE).

        Args:
            spec: type and sizes, or the same as it was prepared. If its key or value is a record that describes itself
                (``btf(writer)``), the map carries BTF and ``bpftool map dump`` prints its fields, where the kernel and
                the map type take that.
            inner: a map like those that a map of maps is to hold.
            extra: ``map_extra``: hash functions of a bloom filter, address of an arena.

        Raises:
            SpecError: a size that the kernel would refuse, named.
            BpfError: the kernel refused the map.
        """
        _check_sizes(spec)
        attr = MapCreateAttr(
            map_type=spec.type,
            key_size=spec.key_size,
            value_size=spec.value_size,
            max_entries=spec.max_entries,
            map_flags=spec.flags,
            inner_map_fd=inner.fileno() if inner else 0,
            map_name=spec.kernel_name.encode(),
            map_extra=extra,
        )
        fd = _create_with_btf(spec, attr)
        if fd < 0:
            fd = bpf(Cmd.MAP_CREATE, attr, f"create {_words(spec.type)} {spec.name!r}")
        return cls(fd, spec, label=f"map {spec.name!r}")

    @classmethod
    def open_pinned(cls, path: str | os.PathLike[str], expect: MapSpec | MapImage | None = None) -> Map:
        """Open the map pinned at ``path`` (BPF_OBJ_GET).

        Raises:
            PinError: there is no map at that path; the message says what there is.
            MapMismatchError: not of the type or the sizes of ``expect``.
        """
        from pylsm.loader.pins import open_pinned

        fd = open_pinned(path, "map")
        return cls._adopt(fd, True, os.fspath(path), expect)

    @classmethod
    def from_fd(cls, fd: int, expect: MapSpec | MapImage | None = None, *, owned: bool = False) -> Map:
        """A map by its descriptor, made by somebody else.

        Args:
            fd: the descriptor.
            expect: what type and sizes it must have.
            owned: close it with the map (also when this call fails).

        Raises:
            MapMismatchError: not a map, or not of the type or the sizes of ``expect``.
        """
        kind = object_kind(fd)
        if kind != "bpf-map" and os.path.exists("/proc/self/fd"):
            what = {"bpf-prog": "a BPF program", "": "no BPF object"}.get(kind, f"{kind!r}")
            try:
                os.fstat(fd)
            except OSError:
                what = "not open"
            else:
                if owned:
                    os.close(fd)
            needed = f"; {expect.name} needs {_words(expect.type)}" if expect else ", not a map"
            raise MapMismatchError(f"file descriptor {fd} is {what}{needed}")
        return cls._adopt(fd, owned, f"file descriptor {fd}", expect)

    @classmethod
    def from_id(cls, id: int) -> Map:
        """A map by its id (BPF_MAP_GET_FD_BY_ID), as ``bpftool map`` shows it."""
        from pylsm.loader.attr import IdAttr

        fd = bpf(Cmd.MAP_GET_FD_BY_ID, IdAttr(id=id), f"open map id {id}")
        return cls._adopt(fd, True, f"map id {id}")

    @classmethod
    def _adopt(cls, fd: int, owned: bool, label: str, expect: MapSpec | MapImage | None = None) -> Map:
        """Make the object, or close what is owned."""
        try:
            info = _info(fd, label)
            if expect is not None:
                check_map(info, expect, label)
            return cls(fd, info, owned=owned, label=label)
        except BaseException:
            if owned:
                os.close(fd)
            raise

    # --- elements -------------------------------------------------------------------------------------------------

    def borrowed(self) -> Map:
        """The same map by the same descriptor, which stays this one's."""
        other = Map(self.fileno(), self, owned=False, label=self.label)
        other._info = self._info
        return other

    @property
    def info(self) -> MapInfo:
        """What the kernel says of it; of a map made here it is asked when somebody wants to know."""
        if self._info is None:
            self._info = _info(self.fileno(), self.label)
        return self._info

    @property
    def per_cpu(self) -> bool:
        """Whether each element has a value for each possible CPU."""
        return self._per_cpu

    def lookup(self, key: bytes = b"") -> Any:
        """The value at ``key``: bytes (a list of bytes, one per possible CPU, for a per-CPU map), or None.

        The empty key peeks at a queue or a stack.
        """
        value = Memory(self._value_bytes)
        result = self._element(Cmd.MAP_LOOKUP_ELEM, key, value)
        if result == -ENOENT:
            return None
        if result < 0:
            raise failure(Cmd.MAP_LOOKUP_ELEM, -result, f"look up a key of {self.label}")
        return self._value(bytes(value))

    def pop(self, key: bytes = b"") -> Any:
        """Take out the value at ``key`` (the next one of a queue or a stack) and return it; None if there is none."""
        value = Memory(self._value_bytes)
        result = self._element(Cmd.MAP_LOOKUP_AND_DELETE_ELEM, key, value)
        if result == -ENOENT:
            return None
        if result < 0:
            raise failure(Cmd.MAP_LOOKUP_AND_DELETE_ELEM, -result, f"take an element out of {self.label}")
        return self._value(bytes(value))

    def update(self, key: bytes, value: bytes | Sequence[bytes], flags: int = ANY) -> None:
        """Set the value at ``key``.

        Args:
            key: of the map's key size; empty for a queue or a stack.
            value: of the map's value size. For a per-CPU map one per possible CPU, or one for all of them.
            flags: ANY, NOEXIST (only a new key) or EXIST (only a key that is there).

        Raises:
            SpecError: a key or value of another length.
            BpfError: the map is full (E2BIG), or ``flags`` are not met (EEXIST, ENOENT).
        """
        raw = self._raw_value(value)
        result = self._element(Cmd.MAP_UPDATE_ELEM, key, Memory(raw or 1), flags)
        if result < 0:
            raise failure(Cmd.MAP_UPDATE_ELEM, -result, f"set a key of {self.label}")

    def delete(self, key: bytes) -> bool:
        """Remove ``key``; whether it was there."""
        result = self._element(Cmd.MAP_DELETE_ELEM, key, None)
        if result == -ENOENT:
            return False
        if result < 0:
            raise failure(Cmd.MAP_DELETE_ELEM, -result, f"delete a key of {self.label}")
        return True

    def keys(self) -> Iterator[bytes]:
        """Every key. One that is there from beginning to end is given exactly once, whatever comes and goes meanwhile;
        the consumer may delete what it is given."""
        if self.type in _ARRAYS:
            for index in range(self.max_entries):
                yield index.to_bytes(4, sys.byteorder)
        elif self.type in _HASHES:
            for key, _ in self._batches():
                yield key
        else:
            yield from self._chain()

    def items(self) -> Iterator[tuple[bytes, Any]]:
        """Every key with its value, as `keys` and `lookup` have them."""
        if self.type in _HASHES or self.type in _ARRAYS:
            try:
                for key, raw in self._batches():
                    yield key, self._value(raw)
                return
            except BpfError as error:
                if error.errno != ENOTSUPP or self.type in _HASHES:  # which a per-CPU array answers before Linux 5.13
                    raise
        for key in self.keys():
            value = self.lookup(key)
            if value is not None:  # deleted since its key was read
                yield key, value

    # --- the object -----------------------------------------------------------------------------------------------

    def pin(self, path: str | os.PathLike[str]) -> None:
        """Pin the map at ``path`` on a BPF filesystem, where it outlives this process; PinError as `pins.pin`."""
        from pylsm.loader.pins import pin

        pin(self.fileno(), path, self.label)

    def freeze(self) -> None:
        """No more writes from user space (BPF_MAP_FREEZE): the verifier may then take the values for constants."""
        bpf(Cmd.MAP_FREEZE, MapElementAttr(map_fd=self.fileno()), f"freeze {self.label}")

    # --- inside ---------------------------------------------------------------------------------------------------

    def _element(self, cmd: Cmd, key: bytes, value: Memory | None, flags: int = 0) -> int:
        if len(key) != self.key_size:
            raise SpecError(f"{self.label} has {self.key_size}-byte keys; a key of {len(key)} bytes was given")
        held = Memory(key)
        attr = MapElementAttr(
            map_fd=self.fileno(),
            key=held.address,
            value=value.address if value is not None else 0,
            flags=flags,
        )
        return bpf_errno(cmd, attr)

    def _value(self, raw: bytes) -> Any:
        if not self._per_cpu:
            return raw
        stride, size = -(-self.value_size // 8) * 8, self.value_size
        return [raw[at : at + size] for at in range(0, len(raw), stride)]

    def _raw_value(self, value: bytes | Sequence[bytes]) -> bytes:
        values = [value] if isinstance(value, bytes) else list(value)
        for one in values:
            if len(one) != self.value_size:
                raise SpecError(
                    f"{self.label} has {self.value_size}-byte values; a value of {len(one)} bytes was given"
                )
        if not self._per_cpu:
            if len(values) != 1:
                raise SpecError(f"{self.label} has one value per key; {len(values)} were given")
            return bytes(values[0])
        cpus = possible_cpus()
        if len(values) not in (1, cpus):
            raise SpecError(f"{self.label} has a value for each of {cpus} CPUs; {len(values)} were given")
        padded = [bytes(one) + bytes(-len(one) % 8) for one in values]
        return b"".join(padded) * (cpus if len(values) == 1 else 1)

    def _batches(self) -> Iterator[tuple[bytes, bytes]]:
        """Elements of a hash map or an array by MAP_LOOKUP_BATCH (Linux 5.6; for per-CPU arrays 5.13): the cursor is a
        bucket, which no deletion moves, or an index."""
        key_size, value_size = self.key_size, self._value_bytes
        room = min(max(self.max_entries, 1), 256)
        position = Memory(4)
        first = True
        while True:
            keys, values = Memory(room * key_size), Memory(room * value_size)
            following = Memory(4)
            attr = BatchAttr(
                in_batch=0 if first else position.address,
                out_batch=following.address,
                keys=keys.address,
                values=values.address,
                count=room,
                map_fd=self.fileno(),
            )
            result = bpf_errno(Cmd.MAP_LOOKUP_BATCH, attr)
            if result == -ENOSPC:
                room *= 4  # one bucket alone holds more
                continue
            if result < 0 and result != -ENOENT:
                raise failure(Cmd.MAP_LOOKUP_BATCH, -result, f"read {self.label}")
            raw_keys, raw_values = bytes(keys), bytes(values)
            for index in range(attr.count):
                yield (
                    raw_keys[index * key_size : (index + 1) * key_size],
                    raw_values[index * value_size : (index + 1) * value_size],
                )
            if result == -ENOENT:
                return
            position, first = following, False

    def _chain(self) -> Iterator[bytes]:
        """Keys by BPF_MAP_GET_NEXT_KEY: the kernel starts over when the key it continues from is gone, so what was
        given before is skipped, and a map that changes faster than it is read ends in an error, not in a loop."""
        seen: set[bytes] = set()
        current, following = Memory(self.key_size), Memory(self.key_size)
        has_current = False
        for _ in range(8 * self.max_entries + 1024):
            attr = MapElementAttr(
                map_fd=self.fileno(),
                key=current.address if has_current else 0,
                value=following.address,
            )
            result = bpf_errno(Cmd.MAP_GET_NEXT_KEY, attr)
            if result == -ENOENT:
                return
            if result < 0:
                raise failure(Cmd.MAP_GET_NEXT_KEY, -result, f"read the keys of {self.label}")
            key = bytes(following)
            current, following, has_current = following, current, True
            if key not in seen:
                seen.add(key)
                yield key
        raise PylsmError(f"{self.label} changes faster than its keys can be read", hint="read it when less is going on")


def check_map(info: MapInfo | Map, expect: MapSpec | MapImage, label: str) -> None:
    """Refuse a map that is not of the type, key size and value size of ``expect``.

    The number of entries and the flags are the owner's business.

    Raises:
        MapMismatchError: "/sys/fs/bpf/x is a hash map with 8-byte keys; traced_processes needs 4-byte keys".
    """
    found, needed = [], []
    if info.type != expect.type:
        found.append(_words(info.type))
        needed.append(_words(expect.type))
    for what, have, want in (
        ("keys", info.key_size, expect.key_size),
        ("values", info.value_size, expect.value_size),
    ):
        if have != want and (info.type == expect.type or expect.type not in _RINGS):
            found.append(f"{have}-byte {what}" if have else f"no {what}")
            needed.append(f"{want}-byte {what}" if want else f"no {what}")
    if not found:
        return
    if info.type == expect.type:
        found.insert(0, _words(info.type))
        message = f"{found[0]} with {' and '.join(found[1:])}; {expect.name} needs {' and '.join(needed)}"
    else:
        message = f"{_with(found)}; {expect.name} needs {_with(needed)}"
    raise MapMismatchError(f"{label} is {message}", hint="give the path or descriptor of a map made for this purpose")


def _with(parts: list[str]) -> str:
    return parts[0] + (f" with {' and '.join(parts[1:])}" if len(parts) > 1 else "")


def _words(type: int) -> str:
    try:
        name = MapType(type).name
    except ValueError:
        return f"a map of the unknown type {type}"
    return _WORDS.get(name, f"a map of type {name}")


def _check_sizes(spec: MapSpec | MapImage) -> None:
    if spec.type in _RINGS:
        size = spec.max_entries
        if size < PAGESIZE or size & (size - 1) or size % PAGESIZE:
            raise SpecError(
                f"ring buffer {spec.name!r}: {size} bytes is not a power of two and a multiple of the page size "
                f"({PAGESIZE})",
                hint=f"the nearest sizes are {_ring_sizes(size)}",
            )
        if spec.key_size or spec.value_size:
            raise SpecError(f"ring buffer {spec.name!r} has neither keys nor values")
        return
    if not 0 <= spec.max_entries <= 0xFFFFFFFF:
        raise SpecError(f"map {spec.name!r}: {spec.max_entries} entries do not fit 32 bits")
    if spec.type in _ARRAYS and spec.key_size != 4:
        raise SpecError(f"array {spec.name!r} needs 4-byte keys, not {spec.key_size}-byte ones")
    if spec.type in _UNCOUNTED:
        if spec.max_entries:
            raise SpecError(f"storage {spec.name!r} has no max_entries; {spec.max_entries} was given")
    elif not spec.max_entries and spec.type != MapType.ARENA:
        raise SpecError(f"map {spec.name!r} needs at least one entry")
    if spec.type in _HASHES and not (spec.key_size and spec.value_size):
        raise SpecError(f"hash map {spec.name!r} needs keys and values of at least one byte")


def _ring_sizes(size: int) -> str:
    above = PAGESIZE
    while above < size:
        above *= 2
    below = above // 2
    return f"{below} and {above}" if below >= PAGESIZE else f"{above}"


def _create_with_btf(spec: MapSpec | MapImage, attr: Structure) -> int:
    """The map with BTF, or -1 where it has none, or the kernel takes no such BTF and the map can do without."""
    if isinstance(spec, MapImage):
        types = spec.types
    else:
        from pylsm.loader.progbtf import map_btf

        types = map_btf(spec)
    handle = load_btf(types.btf)[0] if types is not None else None
    if types is None or handle is None:
        return -1
    with handle:
        attr.btf_fd, attr.btf_key_type_id, attr.btf_value_type_id = handle.fileno(), types.key, types.value
        result = bpf_errno(Cmd.MAP_CREATE, attr)
    if result < 0:
        attr.btf_fd = attr.btf_key_type_id = attr.btf_value_type_id = 0
        if spec.type in _STORAGES:
            raise failure(Cmd.MAP_CREATE, -result, f"create {_words(spec.type)} {spec.name!r}")
    return result if result >= 0 else -1


def _info(fd: int, label: str) -> MapInfo:
    raw = MapInfoAttr()
    attr = InfoAttr(bpf_fd=fd, info_len=len(raw), info=raw.address)
    bpf(Cmd.OBJ_GET_INFO_BY_FD, attr, f"ask about {label}")
    return MapInfo(
        type=raw.type,
        id=raw.id,
        key_size=raw.key_size,
        value_size=raw.value_size,
        max_entries=raw.max_entries,
        flags=raw.map_flags,
        name=raw.name.decode(errors="replace"),
        btf_id=raw.btf_id,
        key_type_id=raw.btf_key_type_id,
        value_type_id=raw.btf_value_type_id,
    )
