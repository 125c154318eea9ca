"""What is fuzzed: every reader of bytes or text that somebody else chose.

A target takes any bytes. It may refuse them with an error of ours and must otherwise keep what it promises; anything
else that it raises, a hang or memory without bound is a finding.
"""

from __future__ import annotations

import atexit
import json
import shutil
import struct
from array import array
from collections.abc import Callable
from importlib.util import source_hash
from pathlib import Path
from tempfile import mkdtemp

from pylsm import toml
from pylsm.asm import MapSpec, MapType
from pylsm.asm.errors import AsmError
from pylsm.asm.parse import parse, parse_program
from pylsm.audit.decode import Decoder
from pylsm.audit.events import KINDS
from pylsm.audit.session import Counts
from pylsm.btf import Btf, BtfError, Kind
from pylsm.cli import config as settings
from pylsm.cli import parser_for
from pylsm.errors import PylsmError
from pylsm.loader.elf import ElfError, ObjectFile
from pylsm.loader.errors import RingCorrupt
from pylsm.loader.image import MAGIC, Image, ImageError
from pylsm.loader.prepare import prepare
from pylsm.loader.ringbuf import BUSY, DISCARD, walk
from pylsm.output import heartbeat, jsonl, text
from pylsm.output.heartbeat import verify
from pylsm.recording import expect
from pylsm.recording.read import Recording
from pylsm.recording.summary import summary
from pylsm.recording.touched import Touched

__all__ = ["SEEDS", "TARGETS"]

_decoder = Decoder()


def decode(data: bytes) -> None:
    """A record → an event → a line of each format: one line, printable, whatever the bytes."""
    counted = _decoder.foreign + _decoder.malformed
    events = _decoder.decode_batch(memoryview(data), ((0, len(data)),))
    assert len(events) + _decoder.foreign + _decoder.malformed - counted == 1
    for event in events:
        line = text.render(event, timestamps=True)
        assert line.isprintable(), ascii(line)
        line = jsonl.render(event)
        assert line.isascii() and line.isprintable(), ascii(line)
        fields = json.loads(line)
        assert fields["pid"] == event.pid
        repr(event)


def ring(data: bytes) -> None:
    """Two positions and the bytes of a ring of 4 KiB → records that lie between the positions, each whole."""
    if len(data) < 16:
        return
    size = 4096
    consumer, producer = struct.unpack_from("=QQ", data)
    if producer % 3:  # mostly positions that can be
        consumer &= ~7
        producer = consumer + (producer % (size // 8 + 2)) * 8
    content = array("I", (data[16:] * (size // max(1, len(data) - 16) + 1))[:size].ljust(size, b"\0"))
    words = memoryview(content)
    try:
        spans, position = walk(words, consumer, producer, size)
    except RingCorrupt:
        return
    assert consumer <= position <= producer <= consumer + size
    at = consumer
    for start, length in spans:
        while True:  # what was passed over is discarded records
            header = words[(at & size - 1) >> 2]
            if at + 8 & size - 1 == start & size - 1 and header == length:
                break
            assert header & DISCARD and not header & BUSY
            at += (header - DISCARD) + 15 & -8
        assert start + length <= 2 * size, "beyond the second mapping"
        at += length + 15 & -8
        assert at <= position
    if position < producer:
        header = words[(position & size - 1) >> 2]
        assert header >= BUSY or position + ((header & ~DISCARD) + 15 & -8) > producer


def btf(data: bytes) -> None:
    """Type information → every type and every attribute of it, or a BtfError."""
    try:
        types = Btf(data)
    except BtfError:
        return
    try:
        numbers = [0, 1, 0x7FFFFFFF, *types.types()][:16]
    except BtfError:
        return
    for number in numbers:
        for question in (types.size_of, types.align_of, types.c_name, types.dump_c, types.func_proto, types.body):
            _ask(question, number)  # type: ignore[arg-type]
        _ask(types.member, number, "next.a[2]")
        try:
            found = types.type(number)
        except BtfError:
            continue
        for name in ("name", "size", "members", "enumerators", "params", "variables", "array", "linkage", "component"):
            _ask(getattr, found, name)
    for name in ("node", "task_struct", ""):
        _ask(types.find, name, Kind.STRUCT)
        _ask(types.find_c, f"struct {name}")


def _ask(question: Callable[..., object], *arguments: object) -> None:
    try:
        question(*arguments)
    except BtfError as error:
        assert str(error)


def elf(data: bytes) -> None:
    """A BPF object → its programs, relocated against its own types, or an ElfError or BtfError."""
    try:
        file = ObjectFile(data, "fuzzed")
        for name in file.programs:
            file.program(name, file.btf)
    except (ElfError, BtfError, AsmError):
        return


def image(data: bytes) -> None:
    """A prepared start from the cache, with a sound checksum → maps and programs that come out as they went in."""
    body = MAGIC + source_hash(data) + data
    for whole in (data, body):
        try:
            found = Image.decode(whole)
        except ImageError:
            continue
        assert Image.decode(found.encode()) == found


def log(data: bytes) -> None:
    """A recording → events, what they touched as an allow-list, a verdict on its numbers; whatever the lines are."""
    lines = data.splitlines(keepends=True)
    recording, touched = Recording("fuzzed"), Touched(8)
    for line in lines:
        recording.lines += 1
        event = recording.parse(line)
        if event is not None and event["event"] != "heartbeat":
            touched.add(event)
    for said in (*recording.remarks(), *summary(touched), *verify(lines).missing):
        assert said.isprintable(), ascii(said)
    toml.loads(expect.generate(touched, "fuzzed"))


def config(data: bytes) -> None:
    """A configuration, or an allow-list → options, or an error in one line that names the file."""
    _FILE.write_bytes(data)
    readers: list[Callable[[], object]] = [lambda: expect.load(str(_FILE))]
    for line in (["run", "--config", str(_FILE), "--", "true"], ["attach", "--config", str(_FILE)]):
        readers.append(lambda line=line: settings.read(_PARSER, line))  # type: ignore[misc]
    for read in readers:
        try:
            read()
        except PylsmError as error:
            assert str(error).isprintable() and str(_FILE) in str(error), ascii(str(error))
        finally:
            for action, default in _DEFAULTS:
                action.default = default


_FILE = Path(mkdtemp(dir="/dev/shm"), "fuzzed")
atexit.register(shutil.rmtree, _FILE.parent)
_PARSER = parser_for(())
_DEFAULTS = [(action, action.default) for of in settings.configurable(_PARSER).values() for action in of._actions]


def asm(data: bytes) -> None:
    """Assembler text → instructions, or an AsmError."""
    source = data.decode("utf-8", "replace")
    for read in (parse, parse_program):
        try:
            read(source, "fuzzed.s")
        except AsmError:
            continue


def records() -> list[bytes]:
    """A plain and a hostile record of each kind there is."""
    plain = [kind.make(comm=b"cat").record for kind in KINDS]
    return plain + [record[:6] + b"\xff\xff" + record[8:] + b"\n\x1b[2J\xe2\x80\xae\xff\0" for record in plain]


def images() -> list[bytes]:
    """What is behind the checksum of a prepared map."""
    whole = prepare((), maps=[MapSpec("m", MapType.HASH, key=4, value=8, max_entries=2)]).encode()
    return [whole[len(MAGIC) + 8 :]]


def logs() -> list[bytes]:
    """Recordings: an event of each kind, and heartbeats around them."""
    lines = [jsonl.render(kind.make(comm=b"cat")) for kind in KINDS]
    first, last = (
        heartbeat.render("s", number, number * len(lines), Counts._make([0] * len(Counts._fields)), final=bool(number))
        for number in (0, 1)
    )
    return ["\n".join([first, *lines, last, ""]).encode(), *(line.encode() for line in lines)]


#: Inputs to begin with, beside those that are kept.
SEEDS: dict[str, Callable[[], list[bytes]]] = {"decode": records, "image": images, "log": logs}

TARGETS: dict[str, Callable[[bytes], None]] = {
    "decode": decode,
    "ring": ring,
    "btf": btf,
    "elf": elf,
    "asm": asm,
    "image": image,
    "log": log,
    "config": config,
}
