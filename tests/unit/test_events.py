"""The table of kinds, and how kinds are chosen."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylsm.audit import marks, names
from pylsm.audit.decode import Decoder
from pylsm.audit.events import DEFAULT, KINDS, Event, choose
from pylsm.audit.programs.table import ROWS
from pylsm.audit.records import SETTINGS, SOURCE_LSM
from pylsm.audit.sources import SOURCES, Plan, Source
from pylsm.errors import PylsmError
from pylsm.output import jsonl, text

NAMES = tuple(kind.name for kind in KINDS)


def test_chosen_by_name_in_the_order_of_the_table() -> None:
    assert choose(["open", "connect", "open"]) == ("connect", "open")
    assert choose(["default"]) == DEFAULT
    assert choose(["all"]) == NAMES


def test_what_a_start_knows_of_kinds_is_what_their_classes_say() -> None:
    assert tuple((kind.name, kind.kind, kind.programs, kind.default) for kind in KINDS) == names.EVENTS
    assert len({event.kind for event in names.EVENTS}) == len(names.EVENTS)


def test_what_a_start_reads_of_records_is_where_their_layouts_have_it() -> None:
    for kind in KINDS:
        record = kind.make(pid_tgid=7 << 32 | 9).record
        assert names.HEAD.unpack_from(record) == (SOURCE_LSM, kind.kind, 7 << 32 | 9)
    assert marks.SETTINGS.pack(1, 2, 3) == SETTINGS.unpacker.pack(1, 2, 3)


def test_a_name_that_is_none_gets_the_nearest() -> None:
    with pytest.raises(PylsmError, match=r"no kind of event 'conect'; did you mean 'connect'\?") as error:
        choose(["open", "conect"])
    assert "connect" in error.value.hint
    with pytest.raises(PylsmError, match="no kind of event is named"):
        choose([])


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_a_program_is_named_by_its_kind(source: Source) -> None:
    """By its name a program that was loaded from the cache is known for that of its kind."""
    for kind in KINDS:
        for variant in source.variants:
            assert {program.name for program in source.programs(variant, [kind.name])} <= set(kind.programs)
    names = [program.name for program in source.all(source.variants[0], NAMES)]
    assert len(names) == len(set(names))


def test_every_kind_has_its_programs() -> None:
    assert {row.event for row in ROWS} == set(NAMES)
    made = {program.name for source in SOURCES for program in source.programs(source.variants[0], NAMES)}
    assert made == {program for kind in KINDS for program in kind.programs}


def test_only_programs_of_the_chosen_kinds_are_made() -> None:
    lsm = SOURCES[0]
    plan = Plan("lsm", lsm.variants[0], ("open",))
    names = {program.name for program in plan.programs()}
    assert "file_open" in names and "socket_connect" not in names
    assert plan != Plan("lsm", lsm.variants[0]) and plan.name != Plan("lsm", lsm.variants[0]).name
    assert [walker.name for walker in plan.walkers()] == ["file_open_walk"]
    assert Plan("lsm", lsm.variants[0], ("connect",)).walkers() == []


def test_the_page_of_kinds_is_current() -> None:
    command = [sys.executable, Path(__file__).resolve().parents[2] / "tools/events", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@given(data=st.binary(max_size=400), sizes=st.lists(st.integers(0, 65_535), min_size=3, max_size=3))
def test_no_record_is_too_hostile_to_be_shown(kind: type[Event], data: bytes, sizes: list[int]) -> None:
    """Whatever is in a record, sizes of parts that do not fit it among it: an event is one printable line."""
    layout = kind.layout
    record = bytearray(data.ljust(layout.size + 1, b"\xff"))
    record[:6] = struct.pack("=IH", SOURCE_LSM, kind.kind)
    for name, size in zip(("path_size", "name_size", "interpreter_size"), sizes):
        if name in layout.fields:
            struct.pack_into("=H", record, layout.field(name)[0], size)
    event = Decoder().decode(bytes(record))
    assert type(event) is kind
    line = jsonl.render(event)
    assert line.isprintable() and json.loads(line) == jsonl.to_dict(event)
    assert text.render(event).isprintable()
