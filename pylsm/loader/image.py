"""A prepared image: maps and programs with all that this kernel has to say about them filled in, as plain data.

An `Image` holds instructions, ids of kernel types and BTF as bytes. It knows no descriptor: what `Object` makes of it,
it makes of every image in the same way, whether it was just prepared (`pylsm.loader.prepare`) or comes from a file
(`pylsm.loader.cache`). The encoding is little-endian, the contents are for one kernel::

    magic "PYLSMIMG", a hash of all that follows (`importlib.util.source_hash`: damage is seen, intent is not)
    key                         what the image was prepared from and for, see `pylsm.loader.cache`
    u32 maps, each:             name, 7 u32 (type, key, value, entries, flags, ids of key and value), BTF
    u32 programs, each:         name, section, license, refusal, u32 id of the attach point, instructions,
                                u32 references (each u32 slot, map), BTF, func_info, line_info

Names and blobs are a u32 length and their bytes.
"""

from __future__ import annotations

from importlib.util import source_hash  # there already, under python -m
from struct import Struct, error

from pylsm.errors import PylsmError
from pylsm.light import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Image", "ImageError", "MapImage", "MapTypes", "ProgramImage", "ProgramTypes"]

MAGIC = b"PYLSMIMG"
_DIGEST = 8
_U32 = Struct("<I")
_MAP = Struct("<7I")
_REFERENCE = Struct("<II")


class ImageError(PylsmError):
    """Bytes that are no image, or not the one that was asked for."""


class MapTypes(NamedTuple):
    """The BTF of a map, and the ids of its key and its value in it."""

    btf: bytes
    key: int
    value: int


class MapImage(NamedTuple):
    """A map: the attributes of `pylsm.asm.MapSpec` as numbers; ``types`` where it is to have BTF."""

    name: str
    type: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    types: MapTypes | None = None

    @property
    def kernel_name(self) -> str:
        """The name as the kernel keeps and shows it."""
        return self.name[:15]


class ProgramTypes(NamedTuple):
    """The BTF of a program, its struct bpf_func_info records (8 bytes each) and struct bpf_line_info ones (16)."""

    btf: bytes
    functions: bytes
    lines: bytes


class ProgramImage(NamedTuple):
    """A program.

    Attributes:
        name, section, license: as `pylsm.asm.Program` has them.
        attach_id: BTF id of what it attaches to, or 0.
        code: its instructions in this machine's byte order; where a map's descriptor belongs there is 0.
        references: (slot, name of the map) of each of these places.
        types: its BTF, or None where it says nothing.
        refusal: why it has none although it has something to say; "" normally.
    """

    name: str
    section: str
    license: str
    attach_id: int
    code: bytes
    references: tuple[tuple[int, str], ...] = ()
    types: ProgramTypes | None = None
    refusal: str = ""


class Image(NamedTuple):
    """Maps and programs that belong together, in the order they are made."""

    maps: tuple[MapImage, ...]
    programs: tuple[ProgramImage, ...]

    def encode(self, key: bytes = b"") -> bytes:
        """The bytes of a file; ``key`` says what it was prepared from."""
        out = [_blob(key), _U32.pack(len(self.maps))]
        for map in self.maps:
            types = map.types or MapTypes(b"", 0, 0)
            out += (_blob(map.name.encode()), _MAP.pack(*map[1:6], types.key, types.value), _blob(types.btf))
        names = [map.name for map in self.maps]
        out.append(_U32.pack(len(self.programs)))
        for program in self.programs:
            out += map_(_blob, (text.encode() for text in (*program[:3], program.refusal)))
            out += (_U32.pack(program.attach_id), _blob(program.code), _U32.pack(len(program.references)))
            out += (_REFERENCE.pack(slot, names.index(name)) for slot, name in program.references)
            out += map_(_blob, program.types or (b"", b"", b""))
        body = b"".join(out)
        return MAGIC + source_hash(body) + body

    @classmethod
    def decode(cls, data: bytes, key: bytes = b"") -> Image:
        """The image that ``data`` holds.

        Raises:
            ImageError: damaged, cut short, or prepared for another ``key``.
        """
        begin = len(MAGIC) + _DIGEST
        if data[: len(MAGIC)] != MAGIC:
            raise ImageError("it is no image")
        if source_hash(data[begin:]) != data[len(MAGIC) : begin]:
            raise ImageError("it is damaged")
        try:
            return _decode(_Reader(data, begin), key)
        except (error, UnicodeDecodeError, IndexError) as wrong:
            raise ImageError(f"it is malformed: {wrong}") from None


map_ = map  # the fields above are called so too


def _blob(data: bytes) -> bytes:
    return _U32.pack(len(data)) + data


class _Reader:
    """Takes what is said to be there, or raises `struct.error`."""

    def __init__(self, data: bytes, position: int) -> None:
        self.data = data
        self.position = position

    def numbers(self, layout: Struct) -> tuple[int, ...]:
        found = layout.unpack_from(self.data, self.position)
        self.position += layout.size
        return found

    def count(self) -> int:
        """How many follow: no more than there are bytes left."""
        number = self.numbers(_U32)[0]
        if number > len(self.data) - self.position:
            raise error(f"{number} items do not fit")
        return number

    def blob(self) -> bytes:
        size = self.count()
        self.position += size
        return self.data[self.position - size : self.position]

    def text(self) -> str:
        return self.blob().decode()


def _decode(reader: _Reader, key: bytes) -> Image:
    if reader.blob() != key:
        raise ImageError("it was prepared for another kernel, another pylsm or other options")
    maps = []
    for _ in range(reader.count()):
        name = reader.text()
        type, key_size, value_size, entries, flags, key_id, value_id = reader.numbers(_MAP)
        btf = reader.blob()
        types = MapTypes(btf, key_id, value_id) if btf else None
        maps.append(MapImage(name, type, key_size, value_size, entries, flags, types))
    programs = []
    for _ in range(reader.count()):
        name, section, license, refusal = reader.text(), reader.text(), reader.text(), reader.text()
        attach_id = reader.numbers(_U32)[0]
        code = _whole(reader.blob(), 8)
        references = []
        for _ in range(reader.count()):
            slot, index = reader.numbers(_REFERENCE)
            if slot >= len(code) // 8:
                raise error(f"there is no slot {slot}")
            references.append((slot, maps[index].name))
        described = ProgramTypes(reader.blob(), _whole(reader.blob(), 8), _whole(reader.blob(), 16))
        found = described if described.btf else None
        programs.append(ProgramImage(name, section, license, attach_id, code, tuple(references), found, refusal))
    if reader.position != len(reader.data):
        raise error("bytes are left over")
    _distinct(map.name for map in maps)
    _distinct(program.name for program in programs)
    return Image(tuple(maps), tuple(programs))


def _whole(data: bytes, size: int) -> bytes:
    if len(data) % size:
        raise error(f"{len(data)} bytes are no multiple of {size}")
    return data


def _distinct(names: Iterable[str]) -> None:
    seen = list(names)
    if len(set(seen)) != len(seen):
        raise error("a name is there twice")
