"""bpf(2) without libbpf: maps, programs, links and ring buffers of this kernel. Knows nothing of auditing."""

from pylsm.loader.errors import (
    BpfError,
    MapMismatchError,
    PinError,
    ResolveError,
    RingCorrupt,
    SpecError,
    VerifierError,
)
from pylsm.loader.link import Link
from pylsm.loader.maps import Map
from pylsm.loader.object import Object
from pylsm.loader.program import LoadedProgram
from pylsm.loader.ringbuf import RingBuffer

__all__ = [
    "BpfError",
    "Link",
    "LoadedProgram",
    "Map",
    "MapMismatchError",
    "Object",
    "PinError",
    "ResolveError",
    "RingBuffer",
    "RingCorrupt",
    "SpecError",
    "VerifierError",
]
