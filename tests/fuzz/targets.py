"""What is fuzzed: every reader of bytes or text that somebody else chose.

A target takes any bytes. It may refuse them with an error of ours and must otherwise keep what it promises; anything
else that it raises, a hang or memory without bound is a finding.
"""

from __future__ import annotations

import atexit
import io
import json
import shutil
import struct
import sys
from array import array
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from importlib.util import source_hash
from itertools import islice
from operator import attrgetter
from pathlib import Path
from tempfile import mkdtemp
from zlib import crc32

from pylsm import toml
from pylsm.asm import MapSpec, MapType
from pylsm.asm.errors import AsmError
from pylsm.asm.parse import parse, parse_program
from pylsm.audit.decode import Decoder
from pylsm.audit.events import KINDS
from pylsm.audit.session import Counts
from pylsm.btf import Btf, BtfError, BtfWriter, Type, declare
from pylsm.btf.index import TypeIndex
from pylsm.cli import config as cli_config
from pylsm.cli import parser_for
from pylsm.errors import PylsmError
from pylsm.loader.elf import ElfError, ObjectFile
from pylsm.loader.elf.core import KINDS as QUESTIONS
from pylsm.loader.elf.image import EM_BPF
from pylsm.loader.elf.image import Image as Container
from pylsm.loader.elf.writer import write_object
from pylsm.loader.errors import RingCorrupt, SpecError
from pylsm.loader.image import MAGIC, Image, ImageError
from pylsm.loader.prepare import prepare
from pylsm.loader.ringbuf import BUSY, DISCARD, walk
from pylsm.output import heartbeat, jsonl, text
from pylsm.output.heartbeat import verify
from pylsm.recording import expect
from pylsm.recording.read import Recording
from pylsm.recording.summary import summary
from pylsm.recording.touched import CATEGORIES, Touched

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
    """Type information (of an odd length: it continues another) → all of every type, or a BtfError."""
    try:
        types = Btf(data, base=_BASE if len(data) % 2 else None)
        ids = [*islice(types.types(own=True), 16), 0x7FFFFFFF]
    except BtfError:
        return
    for id in ids:
        for question in _QUESTIONS:
            _ask(question, types, id)
        _ask(types.member, id, "next.a[2]")
        try:
            found = types.type(id)
        except BtfError:
            continue
        for attribute in _ATTRIBUTES:
            _ask(attribute, found)
    for name in ("node", "struct task_struct"):
        _ask(types.find_c, name)
    _ask(types.member, "node", "next.a[2]")
    _ask(types.enumerator, "node", "next")
    _ask(_marks, types)


def _ask(question: Callable[..., object], *arguments: object) -> None:
    try:
        question(*arguments)
    except BtfError as error:
        assert str(error)


def _marks(types: Btf) -> None:
    """How records of larger files are found."""
    index = TypeIndex(types._words, exact=False)
    for number in range(min(index.count(), 16)):
        position = index.locate(number)
        assert index.number(position) == number
        index.end(position)


def _parts(found: Type, name: str) -> None:
    """Members and their like, each with all that is asked of it when it is asked for."""
    for part in getattr(found, name)[:4]:
        repr(part)
        for attribute in ("size", "signed", "offset", "bit_size"):
            _ask(getattr, part, attribute, None)


_BASE = declare({"node": {"next": "struct node *", "a": "u32[4]"}}, name="base")
_QUESTIONS: list[Callable[[Btf, int], object]] = [
    *(Btf.size_of, Btf.align_of, Btf.is_signed, Btf.legacy_width, Btf.resolve, Btf.name_of, Btf.body),
    *(Btf.c_name, Btf.dump_c, Btf.func_proto),
]
_ATTRIBUTES: list[Callable[[Type], object]] = [
    repr,
    *(
        attrgetter(name)
        for name in ("type_id", "size", "signed", "encoding", "bits", "bit_shift", "array", "linkage", "component")
    ),
    *(partial(_parts, name=name) for name in ("members", "enumerators", "params", "variables")),
]


def elf(data: bytes) -> None:
    """A BPF object, or sections of one, → its programs for two kernels and its variables, or an error of ours."""
    try:
        file = ObjectFile(data if data[:4] == b"\x7fELF" else _object(data), "fuzzed")
    except (ElfError, BtfError, AsmError) as error:
        assert str(error)
        return
    for kernel in (file.btf, _KERNEL):
        for name in file.programs if kernel is not None else ():
            try:
                file.program(name, kernel)
            except (ElfError, BtfError, AsmError) as error:
                assert str(error)
    for symbol in file._image.symbols[:8]:
        try:
            file.variable(symbol.name)
        except SpecError as error:
            assert str(error)


_BETWEEN = b"\xff--\xff"


def _object(sections: bytes) -> bytes:
    """Sections (NAME, 0, type, flags, link, info, content) as an object: of any lengths, where a file is refused."""
    rows, names, contents = [bytes(64)], b"", bytes(64)
    parts = sections.split(_BETWEEN)
    for number, part in enumerate([*parts, b".names\0\3\0\0\0"], 1):
        name, _, rest = part.partition(b"\0")
        names += name + b"\0"
        kind, flags, link, info = rest[:4].ljust(4, b"\0")
        content = rest[4:] if number <= len(parts) else names
        place = len(names) - len(name) - 1, kind, flags, 0, len(contents), len(content), link, info, 8, 0
        rows.append(struct.pack("=IIQQQQIIQQ", *place))
        contents += content + bytes(-len(content) % 8)
    order = 1 if sys.byteorder == "little" else 2
    ident = b"\x7fELF" + bytes((2, order, 1)).ljust(12, b"\0")
    header = struct.pack("=HHIQQQIHHHHHH", 1, EM_BPF, 1, 0, 0, len(contents), 0, 64, 0, 0, 64, len(rows), len(rows) - 1)
    return ident + header + contents[64:] + b"".join(rows)


def _sections(file: bytes) -> bytes:
    """What `_object` makes of them is such a file."""
    return _BETWEEN.join(
        one.name.encode() + bytes((0, one.type, one.flags & 255, one.link, one.info)) + (one.data or bytes(one.size))
        for one in Container(file, "seed").sections[1:]
    )


#: What `objects` ask for, elsewhere and of other sizes.
_KERNEL = declare(
    {"s": {"first": "u64", "b": "u16[2]", "t": "struct t"}, "t": {"other": "u8", "v": "u8"}}, name="kernel"
)


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
    path = str(_FILE)
    try:
        table = toml.load(path)
    except PylsmError as error:
        _says(error)
        return
    try:
        expect.from_dict(table, path)
    except PylsmError as error:
        _says(error)
    try:
        found = cli_config.settings(table, path, _SHARED)
    except PylsmError as error:
        _says(error)
        return
    # Reading a command line takes a hundred times as long as that, and with what was refused it ends the same way.
    command, *_ = line = _LINES[crc32(data) % len(_LINES)]
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            options = cli_config.read(_PARSER, [*line, "--config", path, *_REST.get(command, ())])
        for name, action in _OWN[command].items():
            if name in found:
                assert getattr(options, action.dest) == found[name].converted, name
    except SystemExit:  # --print-config
        again = toml.loads(printed.getvalue())
        for name in _OWN[command].keys() & found.keys():
            assert repr(again.get(name, [])) == repr(found[name].value), name
    finally:
        for action, default in _DEFAULTS:
            action.default = default


def _says(error: PylsmError) -> None:
    assert str(error).isprintable() and str(_FILE) in str(error), ascii(str(error))


_FILE = Path(mkdtemp(dir="/dev/shm"), "fuzzed")
atexit.register(shutil.rmtree, _FILE.parent)
_PARSER = parser_for(())
_OWN = {name: cli_config.fields(command) for name, command in cli_config.configurable(_PARSER).items()}
_SHARED = cli_config.shared(_PARSER)
_LINES = [[name, *option] for name in _OWN for option in ((), ("--print-config",))]
_REST = {"run": ("--", "true")}
_DEFAULTS = [(action, action.default) for command in _OWN.values() for action in command.values()]


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


def type_information() -> list[bytes]:
    """One type of each kind, and a struct of others, small; on their own, after a base and in the other byte order."""
    made: list[Callable[[BtfWriter, int], object]] = [
        lambda w, n: w.float_("f", 8),
        lambda w, n: w.ptr(n),
        lambda w, n: w.array(n, 4, n),
        lambda w, n: w.struct("s", [("a", n, None), ("b", n, 32, 3), ("b", n, 35, 29)]),
        lambda w, n: w.union("u", [("", w.union("", [("a", n, None)]), None)]),
        lambda w, n: w.enum("e", [("a", -1), ("next", 1)]),
        lambda w, n: w.enum64("node", [("a", 1), ("next", 1 << 40)]),
        lambda w, n: w.fwd("node"),
        lambda w, n: w.typedef("node", w.struct("", [("next", n, None)])),
        lambda w, n: w.const(w.volatile(w.ptr(w.restrict(w.type_tag("rcu", n))))),
        lambda w, n: w.func("f", w.func_proto(n, [("a", n), ("", 0)])),
        lambda w, n: w.datasec(".data", [(w.var("v", n), 0, 4)]),
        lambda w, n: w.decl_tag("tag", w.struct("s", [("a", n, None)]), 0),
        lambda w, n: w.struct("node", [("next", w.struct("t", [("a", w.array(n, 4), None)]), None)]),
    ]
    seeds = []
    for base in (None, _BASE):
        for order in ("little", "big"):
            for make in made:
                writer = BtfWriter(order, base=base)
                make(writer, writer.int_("n", 4, signed=True))
                data = writer.encode()
                seeds.append(data + bytes((len(data) + bool(base)) % 2))  # the length says whether there is a base
    return seeds


def objects() -> list[bytes]:
    """Objects of one program that uses one thing of its loader each: fixtures/elf has those of a compiler."""
    writer = BtfWriter()
    number = writer.int_("int", 4, signed=True)
    writer.enum("e", [("one", 1)])
    writer.struct("s", [("t", writer.struct("t", [("v", number, None)]), None), ("b", writer.array(number, 4), None)])
    writer.struct("bits", [("low", number, 0, 3), ("high", number, 3, 29)])
    writer.func("kfunc", writer.func_proto(number, [("v", number)]))
    writer.var("ksym", number)
    kernel = Btf(writer.encode(), name="kernel")
    uses = (
        "",
        ".map m hash key=4 value=8 max_entries=1\nr1 = map[m]\n",
        ".map d array key=4 value=8 max_entries=1\nr1 = map[d][0]+4\n",
        ".map p prog_array key=4 value=4 max_entries=1\nr2 = map[p]\n",
        "call sub\nr0 = 0\nexit\n.func sub\n",
        "r2 = subprog[sub]\nr0 = 0\nexit\n.func sub\n",
        "call kfunc#kfunc\n",
        "r1 = ksym[ksym]\n",
        "r1 = *(u32 *)(r2 +{s.b[1]})\n",
        "r1 = {s.t.v}\nr2 = {size s.b}\nr3 = {exists s.t}\n",
        "r1 = {type id s}\nr2 = {type size s}\nr3 = {type exists t}\n",
        "r1 = *(u64 *)(r1 +{load bits.high})\nr1 <<= {lshift bits.high}\nr1 >>= {rshift bits.high}\n",
        "r1 = {enum e.one}\n",
    )
    programs = [parse_program(f'.section "lsm/f"\n{use}r0 = 0\nexit\n') for use in uses]
    files = [
        write_object([one], kernel=kernel, slots={"p": [one.name]} if one.maps and one.maps[0].name == "p" else None)
        for one in programs
    ]
    return files + [_sections(asking) for file in files for asking in [file, *_questions(file)]]


def _questions(file: bytes) -> list[bytes]:
    """The object with each question that CO-RE knows in the place of its first."""
    ext = Container(file, "seed").section(".BTF.ext")
    places = [one.place for asked in ObjectFile(file)._ext.relocations.values() for one in asked]
    if ext is None or not places:
        return []
    at = ext.offset + places[0] + 12
    return [file[:at] + struct.pack("=I", kind) + file[at + 4 :] for kind in range(len(QUESTIONS))]


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


def configs() -> list[bytes]:
    """A file of each field: as a switch, as the first of its choices or as a number, and as a list of texts."""
    seeds = []
    for name, action in _SHARED.items():
        values = [*map(str, action.choices or ()), "1"][:1]
        value = "true" if action.nargs == 0 else toml.quote(values if isinstance(action.default, list) else values[0])
        seeds.append(f"{name} = {value}\n".encode())
    return seeds + [f'{category} = ["/a*", "*:80"]\n'.encode() for category in CATEGORIES]


#: Inputs to begin with, beside those that are kept.
SEEDS: dict[str, Callable[[], list[bytes]]] = {
    "decode": records,
    "btf": type_information,
    "elf": objects,
    "image": images,
    "log": logs,
    "config": configs,
}

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
