"""A real ring buffer, filled by the kernel with real records as fast as it can.

The records are captured from pylsm's own programs, so whatever their layout is, it is the true one. A socket filter
then writes them into the ring again and again (BPF_PROG_TEST_RUN), with nothing to open and nobody to wait for.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pylsm.asm import R0, R1, R2, R3, R7, Asm, MapSpec, MapType, Program, u32
from pylsm.audit import Audit
from pylsm.loader import LoadedProgram, Map, RingBuffer

__all__ = ["RING", "Filler", "capture"]

RING = MapSpec("pylsm_ring", MapType.RINGBUF, max_entries=4 << 20)
_LONGEST = 8192
_NEXT = MapSpec("bench_next", MapType.ARRAY, key=4, value=4, max_entries=1)
#: A record's length, then its bytes.
_RECORDS = MapSpec("bench_records", MapType.ARRAY, key=4, value=8 + _LONGEST, max_entries=1024)

_OPENER = """
import os, sys
paths = sys.stdin.buffer.read().split(b"\\0")
sys.stdout.write("ready\\n"); sys.stdout.flush()
os.read(3, 1)
for path in paths:
    os.close(os.open(path, os.O_RDONLY))
"""


def capture(paths: Sequence[Path]) -> list[bytes]:
    """The records that pylsm makes of opening these files, as they lie in the ring.

    Raises:
        RuntimeError: some opens were not recorded.
    """
    wanted = {bytes(path) for path in paths}
    with Map.create(RING) as records, Audit(ring=records) as audit:
        gate, opens = os.pipe()
        command = [sys.executable, "-S", "-c", _OPENER.replace("os.read(3,", f"os.read({gate},")]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[gate]) as opener:
            assert opener.stdin is not None and opener.stdout is not None
            opener.stdin.write(b"\0".join(map(bytes, paths)))
            opener.stdin.close()
            opener.stdout.readline()
            audit.trace([opener.pid])
            os.write(opens, b"g")
            opener.wait()
        os.close(gate)
        os.close(opens)
        with RingBuffer(records) as ring:
            raw = ring.read()
    # Whatever else Python opened on its way is not among those asked for.
    found = [record for record in raw if _is_of(record, wanted)]
    if len(found) < len(wanted):
        raise RuntimeError(f"{len(wanted)} files were opened, {len(found)} records came")
    return found


def _is_of(record: bytes, wanted: set[bytes]) -> bool:
    """Whether the record ends with one of the paths; a byte of an inode number may be a slash too."""
    text = record.rstrip(b"\0")
    at = text.find(b"/")
    while at >= 0:
        if text[at:] in wanted:
            return True
        at = text.find(b"/", at + 1)
    return False


class Filler:
    """Writes records into a ring.

    Args:
        records: 1 to 1,024 of them, written in turn.
        ring: the ring; it stays open as long as this.
        flags: of bpf_ringbuf_output: 0 wakes a sleeping reader, 1 (BPF_RB_NO_WAKEUP) does not.
    """

    def __init__(self, records: Sequence[bytes], ring: Map, flags: int = 0) -> None:
        self._records = Map.create(_RECORDS)
        for index, record in enumerate(records):
            value = struct.pack("=Q", len(record)) + record
            self._records.update(struct.pack("=I", index), value.ljust(8 + _LONGEST, b"\0"))
        self._next = Map.create(_NEXT)
        maps = {RING.name: ring, _NEXT.name: self._next, _RECORDS.name: self._records}
        self._program = LoadedProgram.load(_writer(len(records), flags), maps=maps)
        self.size = ring.info.max_entries
        self.mean = sum(8 + (len(record) + 7 & -8) for record in records) / len(records)

    @property
    def room(self) -> int:
        """How many records surely find room in the empty ring."""
        return int(self.size / self.mean * 0.9)

    def fill(self, count: int) -> None:
        """Write ``count`` records; those that find no room are gone."""
        self._program.test_run(bytes(64), repeat=count)

    def close(self) -> None:
        for each in (self._program, self._next, self._records):
            each.close()

    def __enter__(self) -> Filler:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _writer(count: int, flags: int) -> Program:
    a = Asm("socket", name="bench_fill")
    key = a.stack(4, "key")
    out = a.label("out")
    a.st(u32[key], 0)
    a.call("map_lookup_elem", _NEXT, key)
    a.jeq(R0, 0, out)
    a.ldx(R1, u32[R0])
    a.mov(R2, R1)
    a.add(R2, 1)
    with a.if_(R2, ">=", count):
        a.mov(R2, 0)
    a.stx(u32[R0], R2)
    a.stx(u32[key], R1)
    a.call("map_lookup_elem", _RECORDS, key)
    a.jeq(R0, 0, out)
    a.mov(R7, R0)
    a.ldx(R3, u32[R7])
    a.jgt(R3, _LONGEST, out)
    a.mov(R2, R7)
    a.add(R2, 8)
    a.call("ringbuf_output", RING, None, None, flags)
    a.bind(out)
    a.mov(R0, 0)
    a.exit_()
    return a.build()
