"""Natively: how fast records become events, and events lines; how late a line is; what an idle agent costs.

The machine's other work disturbs wall-clock times, so rates are per second of processor time of the thread or process
that reads, contenders take turns, and medians come with their spread.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pylsm.audit import Audit
from pylsm.loader import Map, RingBuffer
from tools.benchlib import FOLDER
from tools.benchlib.agent import Agent
from tools.benchlib.ringfill import RING, Filler, capture
from tools.benchlib.work import Work, make_files

__all__ = ["measure"]

_SIZES = (16, 32, 64, 128, 256, 512, 1024, 2048, 4000)
_IDLE_SECONDS = 20.0


def measure(quick: bool) -> dict[str, Any]:
    """All of the section."""
    runs = 5 if quick else 15
    records = capture(_some_files(1000))
    decode, reference = _decode(records, runs)
    result: dict[str, Any] = {
        "record_bytes": sum(map(len, records)) / len(records),
        "decode": decode,
        "reference": reference,
    }
    result["sizes"] = _sizes(2 if quick else 4)
    disk = tempfile.mkdtemp(dir=FOLDER)
    memory = tempfile.mkdtemp(dir="/dev/shm")
    try:
        result["lines"] = _lines(records, {"tmpfs": memory, "disk": disk}, 3 if quick else 7)
    finally:
        shutil.rmtree(disk)
        shutil.rmtree(memory)
    result["latency_us"] = {"idle": _latency(200 if quick else 1000, False), "loaded": _latency(0, True)}
    result["idle_percent"], result["idle_rss_kb"] = _idle(5.0 if quick else _IDLE_SECONDS)
    return result


def _some_files(count: int) -> list[Path]:
    """Files with paths as they are: of the standard library."""
    library = Path(sysconfig.get_path("stdlib")).resolve()
    return sorted(path for path in library.rglob("*.py") if path.is_file() and not path.is_symlink())[:count]


# ---- records → events ------------------------------------------------------------------------------------------------


@contextmanager
def _filled(records: list[bytes]) -> Iterator[tuple[Filler, Audit]]:
    with Map.create(RING) as ring, Audit(ring=ring) as audit, Filler(records, ring, flags=1) as filler:
        audit.read()
        yield filler, audit


def _decode(records: list[bytes], runs: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Records per second of processor time: by `Audit.read` from a ring that the kernel filled; and references."""
    ours: dict[str, list[float]] = {"pylsm": [], "pylsm, every field read": []}
    reference: dict[str, list[float]] = {}
    references = _references(records)
    with _filled(records) as (filler, audit):
        count = filler.room
        _batch(filler, audit)
        for _ in range(runs):
            for name, rates in ours.items():
                filler.fill(count)
                began = time.thread_time()
                events = audit.read()
                if name != "pylsm":
                    _touch(events)
                rates.append(len(events) / (time.thread_time() - began))
                assert len(events) == count, (len(events), count)
                del events
            for name, parse in references.items():
                share = records if "construct" in name else records * 10
                began = time.thread_time()
                kept = [parse(record) for record in share]
                reference.setdefault(name, []).append(len(share) / (time.thread_time() - began))
                del kept
    return ours, reference


def _touch(events: list[Any]) -> None:
    """Read every field, so that nothing lazy stays undone."""
    for event in events:
        event.pid, event.tid, event.uid, event.gid, event.comm, event.time_ns  # noqa: B018
        event.path, event.open_flags, event.granted, event.device, event.inode  # noqa: B018
        event.basename, event.truncated  # noqa: B018


def _references(records: list[bytes]) -> dict[str, Callable[[bytes], object]]:
    """Other ways to take the same record apart: struct alone (no event, no path); an object of as many fields as an
    event has, all made at once and read; construct, construct compiled."""
    from pylsm.audit.records import FILE_OPEN

    fixed = struct.Struct(FILE_OPEN.unpacker.format)
    found: dict[str, Callable[[bytes], object]] = {
        "struct, tuples only": fixed.unpack_from,
        "an object of 13 fields, made and read": lambda record: _plain(fixed.unpack_from(record), record[fixed.size :]),
        "construct": FILE_OPEN.construct.parse,
    }
    compiled = FILE_OPEN.construct.compile()
    found["construct, compiled"] = compiled.parse
    return found


class _Plain:
    """As many fields as `_touch` reads, and nothing else: no names for numbers, no words for addresses."""

    __slots__ = tuple("abcdefghijklm")

    def __init__(self, *values: Any) -> None:
        self.a, self.b, self.c, self.d, self.e, self.f, self.g, *rest = values
        self.h, self.i, self.j, self.k, self.l, self.m = rest


def _plain(values: tuple[Any, ...], path: bytes) -> _Plain:
    comm = values[7].partition(b"\0")[0].decode("utf-8", "surrogateescape")
    made = _Plain(*values[:7], comm, *values[8:12], path[:-1].decode("utf-8", "surrogateescape"))
    made.a, made.b, made.c, made.d, made.e, made.f, made.g, made.h, made.i, made.j, made.k, made.l, made.m  # noqa: B018
    return made


def _sizes(runs: int) -> list[dict[str, Any]]:
    """Rates by record size: files whose paths have certain lengths."""
    root = Path(tempfile.mkdtemp(prefix="b", dir="/tmp"))
    try:
        sets = []
        for length in _SIZES:
            records = capture(_files_of_length(root, length, 64))
            sets.append((sum(map(len, records)) / len(records), records))
        rates: list[list[float]] = [[] for _ in sets]
        for _ in range(runs):
            for (_, records), found in zip(sets, rates):
                with _filled(records) as (filler, audit):
                    found += [_batch(filler, audit) for _ in range(4)][1:]
        return [{"bytes": size, "rates": found} for (size, _), found in zip(sets, rates)]
    finally:
        shutil.rmtree(root)


def _batch(filler: Filler, audit: Audit) -> float:
    """Records per second of processor time, for a ring full of them. The first time, pages are still to be mapped."""
    filler.fill(filler.room)
    began = time.thread_time()
    events = audit.read()
    return len(events) / (time.thread_time() - began)


def _files_of_length(root: Path, length: int, count: int) -> list[Path]:
    """New files whose absolute paths have ``length`` bytes."""
    name = 4
    folder = str(root)
    if length < len(folder) + 1 + name:  # too short for a folder of its own
        return [_touched(root / f"{index:0{name}d}") for index in range(count)]
    while length - len(folder) - 1 - name > 1:
        step = min(200, length - len(folder) - 1 - name - 1)
        # What is left must be none, or room for a slash and a letter.
        left = length - len(folder) - 1 - name - 1 - step
        folder += "/" + "d" * (step - 1 if left == 1 else step)
    if length - len(folder) - 1 - name == 1:
        name += 1
    os.makedirs(folder, exist_ok=True)
    return [_touched(Path(folder) / f"{index:0{name}d}") for index in range(count)]


def _touched(path: Path) -> Path:
    path.touch()
    return path


# ---- events → lines --------------------------------------------------------------------------------------------------


def _lines(records: list[bytes], folders: dict[str, str], runs: int) -> dict[str, list[float]]:
    """Lines of JSON per second of the agent's processor time, from its ring to its file."""
    rates: dict[str, list[float]] = {}
    for _ in range(runs):
        for medium, folder in folders.items():
            rates.setdefault(medium, []).append(_one_file(records, os.path.join(folder, "events.jsonl")))
    return rates


def _one_file(records: list[bytes], path: str) -> float:
    pinned = f"/sys/fs/bpf/pylsm-bench-{os.getpid()}"
    with Map.create(RING) as ring, Filler(records, ring) as filler, RingBuffer(ring) as seen:
        ring.pin(pinned)
        try:
            with subprocess.Popen(["sleep", "1000"]) as victim:
                agent = Agent(victim.pid, "--ringbuf", pinned, *Agent.json_to(path))
                try:
                    before, used = _count(path), agent.cpu
                    for _ in range(8):
                        filler.fill(filler.room)
                        while seen.pending:
                            time.sleep(0.002)
                    # What is read is not yet written.
                    wanted = before + 8 * filler.room
                    deadline = time.monotonic() + 30
                    while _count(path) < wanted and time.monotonic() < deadline:
                        time.sleep(0.02)
                    lines, used = _count(path) - before, agent.cpu - used
                    if lines != 8 * filler.room:
                        raise RuntimeError(f"{8 * filler.room} records went into the ring, {lines} lines came out")
                    return lines / used
                finally:
                    agent.kill()
                    victim.kill()
        finally:
            os.unlink(pinned)


def _count(path: str) -> int:
    with open(path, "rb") as file:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))


# ---- lateness, idleness ----------------------------------------------------------------------------------------------

_SLOW_OPENER = """
import os, sys, time
os.read(0, 1)
for index in range(int(sys.argv[1])):
    os.close(os.open(f"/tmp/work/f{index:06d}", os.O_RDONLY))
    time.sleep(0.005)
"""


def _latency(opens: int, loaded: bool) -> list[float]:
    """Microseconds from the kernel's time stamp in a record to the arrival of its line at a reader of the pipe.

    Idle: an open every 5 ms. Loaded: opens as fast as they come, 20,000 of them.
    """
    work = FOLDER / "work"
    opens = opens or 20_000
    make_files(work, opens)
    read, write = os.pipe()
    if loaded:
        worker = Work(work, opens)
        pid = worker.pid
    else:
        opener = subprocess.Popen([sys.executable, "-S", "-c", _SLOW_OPENER, str(opens)], stdin=subprocess.PIPE)
        pid = opener.pid
        time.sleep(0.5)  # it has started up and waits: what Python opens for itself is over
    agent = Agent(pid, "--format", "json", stdout=write)
    os.close(write)
    arrived: list[tuple[int, bytes]] = []
    lines = 0
    try:
        if loaded:
            worker.start("new")
        else:
            assert opener.stdin is not None
            opener.stdin.write(b"g")
            opener.stdin.close()
        while lines < opens:
            chunk = os.read(read, 1 << 20)
            if not chunk:
                break
            arrived.append((time.time_ns(), chunk))  # taken apart later: a reader that is slow holds up the agent
            lines += chunk.count(b"/tmp/work/f")
    finally:
        agent.kill()
        os.close(read)
        if loaded:
            worker.close()
        else:
            opener.wait()
    return _lateness(arrived)


def _lateness(arrived: list[tuple[int, bytes]]) -> list[float]:
    late = []
    rest = b""
    for now, chunk in arrived:
        *lines, rest = (rest + chunk).split(b"\n")
        late += [(now - json.loads(line)["time_ns"]) / 1000 for line in lines if b"/tmp/work/f" in line]
    return late


def _idle(seconds: float) -> tuple[float, int]:
    """Per cent of a processor that an agent uses while nothing it traces does anything; its peak RSS in kB."""
    with subprocess.Popen(["sleep", "1000"]) as victim:
        agent = Agent(victim.pid)
        try:
            time.sleep(1)
            used = agent.cpu
            time.sleep(seconds)
            return (agent.cpu - used) / seconds * 100, agent.peak_kb
        finally:
            agent.kill()
            victim.kill()
