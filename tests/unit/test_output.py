"""Lines: the shapes promised, and what a hostile name can do to them: nothing."""

from __future__ import annotations

import io
import json
import re
import socket
import unicodedata
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pylsm.audit.events import COMMON, KINDS, Connect, Event, FileOpen
from pylsm.audit.programs.table import ROWS
from pylsm.audit.records import FLAG_BASENAME, FLAG_TRUNCATED, FLAG_UNLINKED
from pylsm.output import jsonl, text
from pylsm.output.escape import escape

V6 = socket.inet_pton(socket.AF_INET6, "2606:2800::1")


def curl(**changes: Any) -> Connect:
    fields = {
        "pid_tgid": 4321 << 32 | 4322,
        "time": 1_700_000_000_123_456_789,
        "sequence": 1 << 63,
        "cpu": 3,
        "comm": b"curl",
        "family": socket.AF_INET,
        "address": b"\x5d\xb8\xd8\x22",
        "port": 443,
    }
    return Connect.make(**{**fields, **changes})


def cat(**changes: Any) -> FileOpen:
    fields = {
        "pid_tgid": 4321 << 32 | 4321,
        "time": 1_700_000_000_000_000_007,
        "comm": b"cat",
        "path": b"/etc/passwd",
        "granted": 1,
        "device": 8 << 20 | 1,
        "inode": 42,
        "mnt_ns": 7,
    }
    return FileOpen.make(**{**fields, **changes})


CURL, CAT = curl(), cat()

#: Names that have fooled logs and terminals.
HOSTILE = (
    b"/tmp/a\n[LSM] open pid=1 comm=sh mode=r path=/etc/hostname",
    b"/tmp/\x1b[1A\x1b[2K",
    b"/tmp/\x1b]0;title\x07",
    b"/tmp/\r/etc/motd",
    b"/tmp/\xc2\x9b2J",  # the C1 form of ESC [
    "/tmp/\u202egnp.exe".encode(),
    "/tmp/\u2066x\u2069\u200b\ufeff".encode(),
    "/tmp/\u2028\u2029\u0085".encode(),
    b"/tmp/\xff\xfe\xed\xa0\x80",
    b"/tmp/\\x0a\\\\",
    "/tmp/\U000e0041\ue000".encode(),
    b"/tmp/\x00" + b"\x7f",
    bytes(range(1, 256)),
)


def unescape(line: str) -> bytes:
    """The inverse of `escape`, for any value of its argument ``spaces``."""
    parts = re.findall(r"\\\\|\\x[0-9a-f]{2}|[^\\]", line)
    assert "".join(parts) == line
    return b"".join(
        b"\\" if p == "\\\\" else bytes([int(p[2:], 16)]) if len(p) == 4 and p[0] == "\\" else p.encode() for p in parts
    )


hostile_bytes = st.one_of(
    st.binary(),
    st.text().map(lambda s: s.encode("utf-8", "surrogatepass")),
    st.sampled_from(HOSTILE),
    st.text(alphabet=" \\x0a\n=pidcom\x1b\u202e").map(str.encode),
)
# What a record can hold: no NUL, and 15 bytes of comm.
paths = hostile_bytes.map(lambda raw: raw.replace(b"\0", b"?"))
comms = paths.map(lambda raw: raw[:15])


@given(raw=hostile_bytes, spaces=st.booleans())
@example(b"\\x0a", False)
@example(b" ", True)
def test_escaping_hides_nothing_and_lets_nothing_through(raw: bytes, spaces: bool) -> None:
    shown = escape(raw, spaces=spaces)
    assert unescape(shown) == raw
    for character in shown:
        assert unicodedata.category(character)[0] not in "C", repr(character)
        assert character == " " or unicodedata.category(character)[0] != "Z", repr(character)
    assert shown.isprintable()
    assert not (spaces and " " in shown)


def test_ordinary_names_stay_as_they_are() -> None:
    for name in ("/etc/passwd", "/home/jürgen/日本語 file (1).txt", "/a=b,c;d'\"$`"):
        assert escape(name.encode()) == name


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (CURL, "[LSM] connect pid=4321 comm=curl dst=93.184.216.34:443"),
        (
            curl(family=socket.AF_INET6, address=V6),
            "[LSM] connect pid=4321 comm=curl dst=[2606:2800::1]:443",
        ),
        (
            curl(family=socket.AF_INET6, address=bytes(10) + b"\xff\xff\x5d\xb8\xd8\x22"),
            "[LSM] connect pid=4321 comm=curl dst=93.184.216.34:443 flags=v4mapped",
        ),
        (CAT, "[LSM] open pid=4321 comm=cat mode=r path=/etc/passwd"),
        (cat(granted=2), "[LSM] open pid=4321 comm=cat mode=w path=/etc/passwd"),
        (cat(granted=3), "[LSM] open pid=4321 comm=cat mode=rw path=/etc/passwd"),
        (
            cat(flags=FLAG_BASENAME, path=b"passwd"),
            "[LSM] open pid=4321 comm=cat mode=r flags=basename path=passwd",
        ),
        (
            cat(flags=FLAG_TRUNCATED, path=b"/b/c d"),
            "[LSM] open pid=4321 comm=cat mode=r flags=truncated path=/b/c d",
        ),
        (
            cat(flags=FLAG_TRUNCATED | FLAG_UNLINKED, path=b"/b (deleted)"),
            "[LSM] open pid=4321 comm=cat mode=r flags=truncated,unlinked path=/b (deleted)",
        ),
    ],
)
def test_text_lines_exactly(event: Event, line: str) -> None:
    assert text.render(event) == line


def test_a_time_stamp_only_when_asked_for() -> None:
    assert text.render(CURL, timestamps=True) == f"2023-11-14T22:13:20.123456789Z {text.render(CURL)}"
    assert text.render(CAT, timestamps=True).startswith("2023-11-14T22:13:20.000000007Z [LSM] open ")


FIELDS = re.compile(
    r"\[LSM\] (?:open pid=(\d+) comm=(\S*) mode=(r|w|rw|-) (?:flags=(?:basename|truncated|unlinked) )?path=(.*)"
    r"|connect pid=(\d+) comm=(\S*) dst=(\S+)(?: flags=v4mapped)?)",
    re.DOTALL,
)


@given(comm=comms, path=paths, basename=st.booleans())
@example(b"a mode=r path=/", b"/y", False)
@example(b"", b"", False)
def test_no_name_can_fake_a_field_or_a_line(comm: bytes, path: bytes, basename: bool) -> None:
    """Whatever comm and path are, they come back from exactly the fields they belong to."""
    line = text.render(cat(comm=comm, path=path, flags=FLAG_BASENAME if basename else 0))
    assert len(line.splitlines()) == 1
    found = FIELDS.fullmatch(line)
    assert found
    assert found[1] == "4321"
    assert unescape(found[2]) == comm
    assert found[3] == "r"
    assert unescape(found[4]) == path

    found = FIELDS.fullmatch(text.render(curl(comm=comm)))
    assert found
    assert unescape(found[6]) == comm
    assert found[7] == "93.184.216.34:443"


def original(value: dict[str, Any], name: str) -> bytes:
    return bytes.fromhex(value[name + "_hex"]) if name + "_hex" in value else value[name].encode()


@given(comm=comms, path=paths)
def test_json_is_one_ascii_line_that_keeps_every_byte(comm: bytes, path: bytes) -> None:
    line = jsonl.render(cat(comm=comm, path=path))
    assert re.fullmatch(r"[\x20-\x7e]+", line)
    value = json.loads(line)
    assert original(value, "comm") == comm
    assert original(value, "path") == path
    assert json.loads(io.StringIO(line + "\n").readline()) == value
    assert jsonl.to_dict(cat(comm=comm, path=path)) == value


def test_json_fields() -> None:
    assert json.loads(jsonl.render(CURL)) == {
        "version": 1,
        "event": "connect",
        "time_ns": 1_700_000_000_123_456_789,
        "pid": 4321,
        "tid": 4322,
        "uid": 0,
        "gid": 0,
        "cpu": 3,
        "sequence": 1 << 63,
        "comm": "curl",
        "dst_ip": "93.184.216.34",
        "dport": 443,
        "family": "ipv4",
        "v4mapped": False,
    }
    assert json.loads(jsonl.render(CAT)) == {
        "version": 1,
        "event": "open",
        "time_ns": 1_700_000_000_000_000_007,
        "pid": 4321,
        "tid": 4321,
        "uid": 0,
        "gid": 0,
        "cpu": 0,
        "sequence": 0,
        "comm": "cat",
        "path": "/etc/passwd",
        "mode": "r",
        "open_flags": 0,
        "device": "8:1",
        "inode": 42,
        "mnt_ns": 7,
        "unlinked": False,
        "basename": False,
        "truncated": False,
    }


@given(comm=comms, path=paths, flags=st.integers(0, 7), number=st.integers(0, (1 << 32) - 1))
def test_lines_made_by_hand_are_those_of_the_table(comm: bytes, path: bytes, flags: int, number: int) -> None:
    """The two common kinds have a faster way to their JSON; it may not be another."""
    event = cat(comm=comm, path=path, flags=flags, granted=number, device=number, inode=number, mnt_ns=number)
    assert jsonl.render(event) == jsonl.render_by_table(event)
    for family, address in ((2, path), (10, path), (10, bytes(10) + b"\xff\xff" + path)):
        event = curl(comm=comm, family=family, address=address[:16], port=number & 0xFFFF)
        assert jsonl.render(event) == jsonl.render_by_table(event)


def test_each_kind_is_in_the_table_once() -> None:
    assert len({row.name for row in KINDS}) == len({row.kind for row in KINDS}) == len(KINDS)
    assert {row.event for row in ROWS} <= {row.name for row in KINDS}
    for row in KINDS:
        event = row.make(**({row.layout.tail_name: b""} if row.layout.tail_name else {}))
        value = json.loads(jsonl.render(event))
        assert [name for name in value if not name.endswith("_hex")] == [
            "version",
            *(f.name for f in (*COMMON, *row.fields)),
        ]
        assert jsonl.to_dict(event) == value
        assert value["event"] == row.name
        assert text.render(event).startswith(f"[LSM] {row.name} pid=0 comm=")
        assert repr(event).startswith(type(event).__name__)
        assert row.summary and all(field.meaning for field in row.fields)
