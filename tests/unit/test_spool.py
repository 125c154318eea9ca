"""The spool on disk: order, bounds, damage, cursors."""

from __future__ import annotations

import json
import os
import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylsm.ship.identity import identify
from pylsm.ship.spool import (
    LEAST_BYTES,
    LOST,
    Cursor,
    Item,
    Position,
    Reader,
    SpoolError,
    SpoolWriter,
    remove_behind,
    segments,
    used_bytes,
)

START = Position()


def lines(start: int, count: int, size: int = 40) -> list[bytes]:
    return [json.dumps({"event": "open", "n": n, "pad": "x" * size}).encode() for n in range(start, start + count)]


def write(directory: Path, *batches: list[bytes], limit: int = 64 << 20, policy: str = "drop-oldest") -> int:
    """Append the batches with one writer; how many it dropped."""
    writer = SpoolWriter(str(directory), limit, policy)
    for batch in batches:
        writer.append(batch)
    writer.close()
    return writer.dropped


def read(directory: Path, position: Position = START, most: int = 1000) -> list[Item]:
    reader = Reader(str(directory), position)
    items: list[Item] = []
    while True:
        more = reader.read(most)
        if not more:
            reader.close()
            return items
        items += more


def losses(items: list[Item]) -> list[tuple[str, int, int]]:
    found = [json.loads(item.line) for item in items if f'"{LOST}"'.encode() in item.line]
    assert all(loss["count"] == loss["last"] - loss["first"] + 1 for loss in found)
    return [(loss["reason"], loss["first"], loss["last"]) for loss in found]


def accounted(items: list[Item]) -> bool:
    """Whether every number is that of an event or of a loss, in order."""
    return all(item.last + 1 == following.first for item, following in zip(items, items[1:]))


def test_what_is_written_is_read_in_order(tmp_path: Path) -> None:
    sent = lines(0, 5000)
    write(tmp_path, sent[:10], sent[10:4000], sent[4000:])
    items = read(tmp_path, most=7)
    assert [item.line for item in items] == sent
    assert [item.first for item in items] == list(range(1, 5001))
    assert accounted(items)


def test_a_writer_goes_on_where_the_last_one_ended(tmp_path: Path) -> None:
    for n in range(5):
        write(tmp_path, lines(10 * n, 10))
    items = read(tmp_path)
    assert [json.loads(item.line)["n"] for item in items] == list(range(50))
    assert [item.first for item in items] == list(range(1, 51))


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    first = SpoolWriter(str(tmp_path), LEAST_BYTES, "block")
    with pytest.raises(SpoolError, match="in use by another"):
        SpoolWriter(str(tmp_path), LEAST_BYTES, "block")
    first.close()
    SpoolWriter(str(tmp_path), LEAST_BYTES, "block").close()


def test_a_reader_follows_a_writer(tmp_path: Path) -> None:
    writer = SpoolWriter(str(tmp_path), 64 << 20, "block")
    reader = Reader(str(tmp_path))
    assert reader.read(10) == []
    for n in range(300):
        batch = lines(n * 100, 100, 500)
        writer.append(batch)
        assert [item.line for item in reader.read(1000)] == batch
    assert len(segments(str(tmp_path))) > 1
    writer.close()
    reader.close()


def test_every_position_is_one_to_go_on_from(tmp_path: Path) -> None:
    sent = lines(0, 400, 1000)
    write(tmp_path, sent, limit=LEAST_BYTES)
    items = read(tmp_path)
    for item in random.Random(1).sample(items, 40):
        assert read(tmp_path, item.position) == items[items.index(item) + 1 :]
        # Where the hints are of no use, the number is enough.
        assert [i.line for i in read(tmp_path, Position(item.first + 1))] == sent[item.first :]


# ---- bounds ----------------------------------------------------------------------------------------------------------


def test_the_oldest_are_dropped_and_that_is_said(tmp_path: Path) -> None:
    for n in range(40):
        write(tmp_path, lines(n * 100, 100, 1000), limit=LEAST_BYTES)
        assert used_bytes(str(tmp_path)) <= LEAST_BYTES
    items = read(tmp_path, Position(11))
    assert losses(items) == [("dropped-oldest", 11, items[1].first - 1)]
    assert items[-1].first == 4000
    assert accounted(items)


def test_a_reader_that_is_overtaken_says_so(tmp_path: Path) -> None:
    writer = SpoolWriter(str(tmp_path), LEAST_BYTES, "drop-oldest")
    reader = Reader(str(tmp_path))
    writer.append(lines(0, 10))
    items = reader.read(10)
    for n in range(50):
        writer.append(lines(10 + n * 100, 100, 1000))
    while more := reader.read(1000):
        items += more
    writer.close()
    ((reason, _, _),) = losses(items)
    assert reason == "dropped-oldest"
    assert accounted(items)
    assert items[-1].first == 5010
    assert reader.lost == {"dropped-oldest": 5010 - (len(items) - 1)}


def test_the_newest_are_dropped_and_that_is_said(tmp_path: Path) -> None:
    sent = [lines(n * 100, 100, 1000) for n in range(20)]
    dropped = write(tmp_path, *sent, limit=LEAST_BYTES, policy="drop-newest")
    assert dropped > 0
    items = read(tmp_path)
    assert losses(items) == [("dropped-newest", 2000 - dropped + 1, 2000)]
    assert accounted(items)
    assert used_bytes(str(tmp_path)) <= LEAST_BYTES + 100


def test_after_the_newest_were_dropped_it_goes_on(tmp_path: Path) -> None:
    writer = SpoolWriter(str(tmp_path), LEAST_BYTES, "drop-newest")
    for n in range(20):
        writer.append(lines(n * 100, 100, 1000))
    reader = Reader(str(tmp_path))
    items = reader.read(1 << 20, 1 << 30)
    remove_behind(str(tmp_path), items[-1].position.number)
    writer._looked = 0.0
    assert writer.append(lines(2000, 100, 1000)) == 100
    items += reader.read(1 << 20, 1 << 30)
    assert losses(items) == [("dropped-newest", 2000 - writer.dropped + 1, 2000)]
    assert accounted(items)
    writer.close()


def test_who_blocks_is_told_when_there_is_room(tmp_path: Path) -> None:
    writer = SpoolWriter(str(tmp_path), LEAST_BYTES, "block")
    n = 0
    while writer.room():
        writer.append(lines(n, 100, 1000))
        n += 100
    items = read(tmp_path)
    assert len(items) == n
    assert losses(items) == []
    remove_behind(str(tmp_path), items[-1].position.number)
    writer._looked = 0.0
    assert writer.room()
    writer.close()
    assert writer.dropped == 0


# ---- damage ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=60)), min_size=1, max_size=4))
def test_damage_costs_what_it_hits_and_nothing_else(damage: list[tuple[float, bytes]]) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:  # nobody waits for a disk
        directory = Path(name)
        sent = lines(0, 200)
        write(directory, sent[:150])
        write(directory, sent[150:])
        first = directory / f"{1:020d}.seg"
        content = bytearray(first.read_bytes())
        for where, noise in damage:
            at = int(where * (len(content) - 1))
            content[at : at + len(noise)] = noise[: len(content) - at]
        first.write_bytes(content)
        items = read(directory)
        events = [item for item in items if f'"{LOST}"'.encode() not in item.line]
        assert all(sent[item.first - 1] == item.line for item in events)
        assert len(events) >= 200 - 4 * len(damage)
        assert {reason for reason, _, _ in losses(items)} <= {"corrupt"}
        assert accounted(items)
        assert items[-1].last == 200


def test_a_segment_of_rubbish_is_passed_over(tmp_path: Path) -> None:
    for n in range(3):
        write(tmp_path, lines(n * 100, 100))
    middle = tmp_path / f"{101:020d}.seg"
    middle.write_bytes(os.urandom(6 << 20))
    items = read(tmp_path)
    assert losses(items) == [("corrupt", 101, 200)]
    assert accounted(items)
    assert items[-1].first == 300


def test_a_record_torn_by_a_crash_is_counted(tmp_path: Path) -> None:
    write(tmp_path, lines(0, 10))
    segment = tmp_path / f"{1:020d}.seg"
    os.truncate(segment, segment.stat().st_size - 7)
    follower = Reader(str(tmp_path))
    items = follower.read(100)
    assert len(items) == 9
    assert follower.read(100) == []
    write(tmp_path, lines(10, 10))
    items += follower.read(100)
    follower.close()
    assert losses(items) == [("corrupt", 10, 10)]
    assert accounted(items)
    assert json.loads(items[-1].line)["n"] == 19


def test_a_header_torn_by_a_crash_is_nothing(tmp_path: Path) -> None:
    write(tmp_path, lines(0, 10))
    with open(tmp_path / f"{1:020d}.seg", "ab") as file:
        file.write(b"\xde\xc0\xe5")
    write(tmp_path, lines(10, 10))
    items = read(tmp_path)
    assert [json.loads(item.line)["n"] for item in items] == list(range(20))


def test_damage_at_the_end_is_found_by_the_next_writer(tmp_path: Path) -> None:
    write(tmp_path, lines(0, 10))
    segment = tmp_path / f"{1:020d}.seg"
    content = segment.read_bytes()
    segment.write_bytes(content.replace(b'"n": 8', b'"n": 7').replace(b'"n": 9', b'"n": 7'))
    write(tmp_path, lines(10, 10))
    items = read(tmp_path)
    assert losses(items) == [("corrupt", 9, 10)]
    assert accounted(items)


def test_a_number_that_was_acknowledged_is_never_given_again(tmp_path: Path) -> None:
    """As when the disk lost what the engine has: the segments are gone, the cursor is not."""
    write(tmp_path, lines(0, 10))
    cursor = Cursor(str(tmp_path / "cursor-x"))
    cursor.move(Position(11, 1, 500))
    cursor.close()
    (tmp_path / f"{1:020d}.seg").unlink()
    write(tmp_path, lines(10, 1))
    assert [item.first for item in read(tmp_path, Position(11, 1, 500))] == [11]


def test_an_event_cannot_hold_a_record(tmp_path: Path) -> None:
    """What a traced process chooses comes as JSON in ASCII; the mark is none."""
    from pylsm.audit.events import FileOpen
    from pylsm.output import jsonl

    write(tmp_path, lines(0, 1))
    forged = (tmp_path / f"{1:020d}.seg").read_bytes().replace(b"\0", b"")
    line = jsonl.render(FileOpen.make(path=forged, comm=forged[:15])).encode()
    assert line.isascii()
    write(tmp_path, [line])
    segment = tmp_path / f"{2:020d}.seg"
    segment.write_bytes(b"\0" + segment.read_bytes()[1:])  # so that it is looked through
    write(tmp_path, lines(2, 1))
    assert losses(read(tmp_path)) == [("corrupt", 2, 2)]


# ---- cursors and names -----------------------------------------------------------------------------------------------


def test_a_cursor_survives_a_torn_write(tmp_path: Path) -> None:
    path = str(tmp_path / "cursor-x")
    cursor = Cursor(path)
    assert cursor.position == Position()
    for n in range(1, 6):
        cursor.move(Position(n, 1, n * 10))
    cursor.close()
    again = Cursor(path)
    assert again.position == Position(5, 1, 50)
    again.close()
    content = bytearray(Path(path).read_bytes())
    content[512 + 8] ^= 1  # the fifth went to the second place
    Path(path).write_bytes(content)
    assert Cursor(path).position == Position(4, 1, 40)


def test_ids_differ_by_spool_and_stay(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    first, second = identify(str(one)), identify(str(two))
    assert first.spool != second.spool
    assert identify(str(one)) == first
    assert first.event_id(3, 3) != first.event_id(3, 4) != second.event_id(3, 4)
    (one / "identity").write_text("{")
    with pytest.raises(SpoolError, match="damaged"):
        identify(str(one))
