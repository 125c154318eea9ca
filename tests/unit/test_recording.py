"""Recordings: what was touched, what differs, what was not expected; and lines that are none of ours."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pylsm import toml
from pylsm.recording.diff import Side, difference
from pylsm.recording.expect import Expectation, ExpectationError, from_dict, generate, load
from pylsm.recording.patterns import PatternError, as_glob, glob, host, normal, shown_normal
from pylsm.recording.read import Recording
from pylsm.recording.summary import summary
from pylsm.recording.touched import Touched, touches

BASE = {"version": 1, "time_ns": 1_700_000_000_000_000_000, "pid": 7, "tid": 7, "comm": "sh"}


def opened(path: str, mode: str = "r", **more: Any) -> dict[str, Any]:
    return {**BASE, "event": "open", "path": path, "mode": mode, **more}


def connected(ip: str, port: int, event: str = "connect", **more: Any) -> dict[str, Any]:
    return {**BASE, "event": event, "dst_ip": ip, "dport": port, **more}


def pylsm(*arguments: Any, **options: Any) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        [sys.executable, "-m", "pylsm", *map(str, arguments)], capture_output=True, text=True, timeout=60, **options
    )
    assert "Traceback" not in result.stderr, result.stderr
    return result


def write(path: Path, *events: dict[str, Any] | bytes) -> Path:
    path.write_bytes(b"".join(e if isinstance(e, bytes) else json.dumps(e).encode() + b"\n" for e in events))
    return path


# --- what is touched ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (opened("/x"), [("read", "/x")]),
        (opened("/x", "w"), [("write", "/x")]),
        (opened("/x", "rw"), [("read", "/x"), ("write", "/x")]),
        (opened("/x", "-"), [("read", "/x")]),
        (opened("etc/x", truncated=True), [("read", "…/etc/x")]),
        (opened("/usr/lib/x", truncated=True), [("read", "…/usr/lib/x")]),
        (opened("passwd", basename=True), [("read", "…/passwd")]),
        (opened("/\ufffd", path_hex="2fff"), [("read", "/\udcff")]),
        (opened("/\ufffd", path_hex="zz"), [("read", "/\ufffd")]),
        (connected("192.0.2.1", 80), [("hosts", "192.0.2.1:80")]),
        (connected("2001:db8::1", 80), [("hosts", "[2001:db8::1]:80")]),
        (connected("192.0.2.1", 53, "sendto", protocol="udp"), [("hosts", "192.0.2.1:53/udp")]),
        (connected("192.0.2.1", 80, "sendto", protocol="tcp", fastopen=True), [("hosts", "192.0.2.1:80")]),
        (connected("192.0.2.1", 80, "some later kind"), [("hosts", "192.0.2.1:80")]),
        ({**BASE, "event": "exec", "path": "/bin/ls", "argv": ["ls"]}, [("run", "/bin/ls")]),
        ({**BASE, "event": "listen", "src_ip": "0.0.0.0", "sport": 80}, [("listen", "0.0.0.0:80")]),
        ({**BASE, "event": "rename", "path": "/a", "new_path": "/b"}, [("write", "/a"), ("write", "/b")]),
        ({**BASE, "event": "unlink", "path": "/a"}, [("write", "/a")]),
        ({**BASE, "event": "kill", "target_pid": 3, "signal_number": 9}, [("other", "kill 9")]),
        ({**BASE, "event": "module", "name": "loop"}, [("other", "module loop")]),
        ({**BASE, "event": "mmap", "path": "/lib/x.so", "protection": "r-x"}, [("read", "/lib/x.so")]),
        ({**BASE, "event": "mmap", "path": "", "protection": "r-x"}, [("other", "mmap r-x")]),
        ({**BASE, "event": "sneeze"}, [("other", "sneeze")]),
        ({**BASE, "event": "exit", "status": 0}, []),
        ({**BASE, "event": "fork", "child_pid": 8}, []),
    ],
)
def test_what_an_event_touches(values: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert list(touches(values)) == expected


def test_a_summary_is_short_whatever_was_touched() -> None:
    touched = Touched(limit=500)
    for number in range(1000):
        touched.add(opened(f"/srv/{number % 40}/{number}"))
        touched.add(connected("192.0.2.1", number))
    touched.add(opened("/tmp/a\x1b[2J\n", "w"))
    touched.add(opened("/tmp/\ud800", "w"))  # as JSON can say it, and no name is
    lines = summary(touched)
    assert len(lines) < 60
    assert lines[0] == "500 or more (500 further events) hosts"
    assert "500 or more (500 further events) files read" in lines
    assert "  /srv/  500 files" in lines
    assert "  /tmp/a\\x1b[2J\\x0a" in lines
    assert "  /tmp/\\xed\\xa0\\x80" in lines
    assert summary(Touched()) == ["0 hosts", "0 files read", "0 files written"]


# --- lines that are none of ours ------------------------------------------------------------------------------------

FOREIGN: list[tuple[bytes, str]] = [
    (b"plain text\n", "not JSON"),
    (b"\xff\xfe\x00\n", "not JSON"),
    (b"[" * 50_000 + b"\n", "not JSON"),
    (b"[1]\n", "JSON, but no object"),
    (b'{"a":1}\n', 'an object of something else: no "event" with a "time_ns"'),
    (b'{"event":3,"time_ns":1}\n', 'an object of something else: no "event" with a "time_ns"'),
    (b'{"@timestamp":"x","event":{"kind":"event"}}\n', "ECS, not what --format json writes"),
    (b'{"class_uid":1001,"time":1}\n', "OCSF, not what --format json writes"),
    (b'{"version":2,"event":"open","time_ns":1}\n', "of version 2: this pylsm knows 1"),
    (b'{"version":true,"event":"open","time_ns":1}\n', "of version true: this pylsm knows 1"),
    (b'{"event":"open","time_ns":"now"}\n', "field 'time_ns' is \"now\", not a whole number"),
    (b'{"event":"open","time_ns":null}\n', "field 'time_ns' is null"),
    (b'{"event":"open","time_ns":1,"path":7}\n', "field 'path' is 7, not a string"),
    (b'{"event":"connect","time_ns":1,"dst_ip":["x"]}\n', "field 'dst_ip' is [\"x\"], not a string"),
    (b'{"event":"open","time_ns":1,"pid":1.5}\n', "field 'pid' is 1.5, not a whole number"),
    (b'{"event":"open","time_ns":1,"pid":true}\n', "field 'pid' is true, not a whole number"),
    (b'{"event":"open","time_ns":' + b"9" * 30 + b"}\n", f"field 'time_ns' is {'9' * 30}, which is no such number"),
    (b'{"event":"exec","time_ns":1,"argv":[1]}\n', "field 'argv' is [1], not a list of strings"),
    (b'{"event":"open","time_ns":1,"path":"' + b"x" * (2 << 20) + b'"}\n', "longer than any event"),
    (b'{"event":"open","time_ns":1,"pa', "cut off: the file ends in the middle of a line"),
]


@pytest.mark.parametrize(("line", "why"), FOREIGN, ids=[why[:40] for _, why in FOREIGN])
def test_a_line_that_is_none_of_ours_is_skipped_and_told(tmp_path: Path, line: bytes, why: str) -> None:
    recording = Recording(str(write(tmp_path / "log", opened("/a"), b"\n", line)))
    assert [event["path"] for event in recording] == ["/a"]
    assert recording.skipped == {why: (1, 3)}
    (first, second) = recording.remarks()
    assert first.endswith(": 1 of 3 lines skipped")
    assert second == f"  1: {why} (the first in line 3)"


def test_reasons_are_bounded(tmp_path: Path) -> None:
    lines = [json.dumps({"event": "open", "time_ns": 1, "pid": str(n)}).encode() + b"\n" for n in range(500)]
    recording = Recording(str(write(tmp_path / "log", *lines)))
    assert list(recording) == []
    assert len(recording.skipped) <= 21
    assert sum(count for count, _ in recording.skipped.values()) == 500


@given(st.binary(max_size=300))
def test_no_line_is_too_strange(data: bytes) -> None:
    recording = Recording("x")
    for line in data.splitlines(keepends=True):
        recording.lines += 1
        found = recording.parse(line)
        if found is not None:
            list(touches(found))


values_of_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5) | st.just("\ud800"),
    lambda v: st.lists(v, max_size=3),
    max_leaves=4
)  # fmt: skip


@example({"dst_ip": None}, "connect")
@example({"path": "\ud800\udc80"}, "open")
@example({"mode": None, "path": "/x"}, "open")
@given(
    st.dictionaries(
        st.sampled_from(
            ["version", "event", "time_ns", "pid", "path", "path_hex", "mode", "dst_ip", "dport", "src_ip", "sport",
             "new_path", "argv", "protocol", "truncated", "name", "command", "comm", "session", "lost", "next"]
        ),
        values_of_json,
    ),
    st.sampled_from(["open", "connect", "exec", "rename", "listen", "heartbeat", "x"]),
)  # fmt: skip
def test_no_object_is_too_strange(fields: dict[str, Any], kind: str) -> None:
    recording = Recording("x")
    found = recording.parse(json.dumps({"event": kind, "time_ns": 1, **fields}).encode() + b"\n")
    if found is not None and found["event"] != "heartbeat":
        for _, name in touches(found):
            assert isinstance(name, str)
            summary_of = Touched()
            summary_of.touch("other", name)
            summary(summary_of)
    recording.remarks()


def test_out_of_order_and_losses_are_told(tmp_path: Path) -> None:
    late = {**opened("/b"), "time_ns": BASE["time_ns"] - 5_000_000_000}
    beat = {"event": "heartbeat", "time_ns": 1, "session": "s", "number": 0, "events": 0, "recorded": 0, "lost": 3}
    recording = Recording(str(write(tmp_path / "log", opened("/a"), late, beat)))
    assert len(list(recording)) == 2
    assert (recording.disordered, recording.lost) == (1, 3)
    assert len(recording.remarks()) == 2


# --- patterns -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("/etc/*", "/etc/a/b", True),
        ("/etc/", "/etc/a/b", True),
        ("/etc/", "/etc", False),
        ("/etc/?", "/etc/ab", False),
        ("/[ab]", "/b", True),
        ("/[!ab]", "/b", False),
        ("/etc", "/etc/passwd", False),
        (r"/a\*", "/a*", True),
        (r"/a\*", "/ab", False),
        ("*", "/a\nb", True),
        ("/a*", "/a\nb", True),
        ("/usr/*", "…/usr/x", False),
    ],
)
def test_globs(pattern: str, name: str, matches: bool) -> None:
    assert bool(glob(pattern)(name)) is matches


@given(st.binary(min_size=1, max_size=40).filter(lambda raw: b"\0" not in raw and b"\1" not in raw))
def test_a_glob_of_a_name_matches_it(raw: bytes) -> None:
    name = "/" + raw.decode("utf-8", "surrogateescape")
    assert glob(as_glob(name) if not name.endswith("/") else as_glob(name) + "*")(name)
    assert glob(as_glob(normal(name)) if not name.endswith("/") else as_glob(normal(name)) + "*")(name)


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("192.0.2.1:443", "192.0.2.1:443", True),
        ("192.0.2.1:443", "192.0.2.1:80", False),
        ("192.0.2.1", "192.0.2.1:80", True),
        ("192.0.2.0/24", "192.0.2.77:80", True),
        ("192.0.2.0/24:443", "192.0.2.77:80", False),
        ("192.0.2.0/24:*", "192.0.2.77:80", True),
        ("[2001:db8::/32]:443", "[2001:db8::5]:443", True),
        ("2001:db8::/32", "[2001:db8::5]:443", True),
        ("2001:db8::/32", "192.0.2.1:443", False),
        ("*:53/udp", "192.0.2.1:53/udp", True),
        ("*:53/udp", "192.0.2.1:53", False),
        ("*:53/tcp", "192.0.2.1:53", True),
        ("*", "anything:1", True),
    ],
)
def test_hosts(pattern: str, name: str, matches: bool) -> None:
    assert host(pattern)(name) is matches


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("example.org:443", "the kernel sees no names"),
        ("10.0.0.1/8", "10.0.0.0/8"),
        ("192.0.2.1:99999", "99999 is not a port"),
        ("999.0.0.1", "999.0.0.1"),
        ("", "is not a host"),
    ],
)
def test_what_is_no_host_is_refused(pattern: str, why: str) -> None:
    with pytest.raises(PatternError) as caught:
        host(pattern)
    assert why in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("/proc/123/stat", "/proc/*/stat"),
        ("/proc/123/task/124/comm", "/proc/*/task/*/comm"),
        ("/proc/self/stat", "/proc/self/stat"),
        ("/tmp/tmpab12_xyz/f", "/tmp/tmp????????/f"),
        ("/tmp/tmp.AbCdEf1234", "/tmp/tmp.??????????"),
        ("/tmp/ccAbCd12.o", "/tmp/cc??????.o"),
        ("/tmp/temporary", "/tmp/temporary"),
        ("/srv/123/stat", "/srv/123/stat"),
        ("pipe:[4711]", "pipe:[*]"),
        ("net:[4026531833]", "net:[*]"),
        ("127.0.0.1:45123", "127.0.0.1:*"),
        ("127.0.0.1:443", "127.0.0.1:443"),
        ("192.0.2.1:45123", "192.0.2.1:45123"),
    ],
)
def test_what_differs_from_run_to_run(name: str, shown: str) -> None:
    assert shown_normal(normal(name)) == shown


# --- diff -----------------------------------------------------------------------------------------------------------


def test_a_difference(tmp_path: Path) -> None:
    before = write(tmp_path / "a", opened("/etc/hosts"), opened("/proc/7/stat"), connected("192.0.2.1", 443))
    after = write(
        tmp_path / "b",
        opened("/etc/hosts"),
        opened("/proc/9/stat"),
        connected("198.51.100.7", 443),
        connected("198.51.100.7", 443),
        opened("/tmp/\x1b[2J", "w"),
    )
    result = pylsm("diff", before, after)
    assert (result.returncode, result.stderr) == (1, "")
    assert result.stdout == (
        f"--- {before}\n+++ {after}\n@@ hosts: 1 new, 1 gone @@\n- 192.0.2.1:443\n+ 198.51.100.7:443  (2 times)\n"
        "@@ files written: 1 new, 0 gone @@\n+ /tmp/\\x1b[2J\n"
    )
    found = json.loads(pylsm("diff", "--json", before, after).stdout)
    assert found["hosts"] == {"new": ["198.51.100.7:443"], "gone": ["192.0.2.1:443"]}
    assert found["differs"] is True
    assert pylsm("diff", before, before).returncode == 0
    assert pylsm("diff", "--exact", "--only", "read", before, after).stdout.count("stat") == 2
    assert pylsm("diff", "--only", "read", before, after).returncode == 0
    assert pylsm("diff", "--ignore", "1*", "--ignore", "/tmp/*", before, after).returncode == 0
    assert "- " not in pylsm("diff", "--new", before, after).stdout.replace("--- ", "")
    stdin = subprocess.run(
        [sys.executable, "-m", "pylsm", "diff", "-", str(after)],
        input=before.read_text(),
        capture_output=True,
        text=True,
    )
    assert stdin.returncode == 1


def test_a_difference_that_cannot_be_told(tmp_path: Path) -> None:
    sound, empty = write(tmp_path / "a", opened("/x")), write(tmp_path / "b", b"hello\n")
    for arguments, why in (
        ((sound, empty), "has no event"),
        ((sound, tmp_path / "none"), "No such file"),
        ((sound, tmp_path), "Is a directory"),
        (("--ignore", "", sound, sound), "is not a pattern"),
    ):
        result = pylsm("diff", *arguments)
        assert result.returncode == 2
        assert why in result.stderr
    assert "lines skipped" in pylsm("diff", sound, empty).stderr
    assert pylsm("diff", "--only", "colours", sound, sound).returncode == 2


def test_too_much_to_compare_is_said() -> None:
    side = Side(limit=2)
    for number in range(3):
        side.add(opened(f"/{number}"))
    assert not side.complete
    assert not difference(side, side)


# --- allow-lists ----------------------------------------------------------------------------------------------------


def unexpected(allowed: dict[str, list[str]], *events: dict[str, Any]) -> list[tuple[str, str]]:
    expectation = Expectation(allowed)
    for event in events:
        expectation.add(event)
    return [(category, name) for category, names in expectation.unexpected.names.items() for name in names]


def test_what_is_outside_an_allow_list() -> None:
    events = (opened("/etc/hosts"), opened("/etc/shadow"), opened("/tmp/x", "w"), connected("10.1.1.1", 1))
    assert unexpected({"read": ["/etc/hosts"]}, *events) == [("read", "/etc/shadow")]
    assert unexpected({"read": [], "hosts": ["10.0.0.0/8"]}, *events) == [
        ("read", "/etc/hosts"),
        ("read", "/etc/shadow"),
    ]
    assert unexpected({"write": ["/tmp/*"], "read": ["*"]}, *events) == []


def test_a_path_without_its_front_is_not_taken_for_another() -> None:
    event = opened("/usr/lib/x", truncated=True)
    assert unexpected({"read": ["/usr/*"]}, event) == [("read", "…/usr/lib/x")]
    assert unexpected({"read": ["…/*"]}, event) == []


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("hosts = [", "is not TOML"),
        ("\xff".encode("latin-1"), "not UTF-8"),
        ("", "has no list"),
        ("version = 1", "has no list"),
        ("version = 7\nhosts = []", "version is 7"),
        ("version = true\nhosts = []", "version is True"),
        ("host = []", "did you mean 'hosts'?"),
        ("colour = []", "the lists are hosts, read, write"),
        ('hosts = "x"', "not a list"),
        ("[hosts]\na = 1", "not a list"),
        ("read = [1]", "read has 1, which is not a string"),
        ('hosts = ["example.org"]', "hosts: 'example.org' is not a host"),
        ('read = ["etc/passwd"]', "matches no path"),
        ('read = [""]', "matches no path"),
    ],
)
def test_an_allow_list_that_is_none_is_refused(tmp_path: Path, text: str | bytes, why: str) -> None:
    path = tmp_path / "allow.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ExpectationError) as caught:
        load(str(path))
    assert why in f"{caught.value} {caught.value.hint}"
    assert str(path) in str(caught.value)


def test_no_such_allow_list(tmp_path: Path) -> None:
    with pytest.raises(ExpectationError, match="No such file"):
        load(str(tmp_path / "none"))


NAMES = (
    "/usr/lib/a.so",
    "/usr/lib/b/c.so",
    "/home/me/.ssh/id",
    "/tmp/tmpabcdefgh/x",
    "/srv/[a]*?",
    '/q"\\\n\x7f',
    "/\udcff",
    "/\U000105c0",  # beyond 16 bits, and not printable
    "pipe:[4711]",
    "net:[4026531833]",
)


def test_a_generated_list_allows_what_it_was_made_from(tmp_path: Path) -> None:
    events = [
        *(opened(name, mode) for name in NAMES for mode in ("r", "w")),
        *(connected(ip, 443) for ip in ("192.0.2.1", "2001:db8::1")),
        connected("127.0.0.1", 40001),
        connected("192.0.2.1", 53, "sendto", protocol="udp"),
        opened("/x", truncated=True),
        {**BASE, "event": "exec", "path": "/usr/bin/ls"},
        {**BASE, "event": "listen", "src_ip": "::", "sport": 80},
        {**BASE, "event": "module", "name": "loop"},
    ]
    touched = Touched()
    for event in events:
        touched.add(event)
    for options in ({}, {"exact": True}, {"fold": ["/srv"]}):
        path = tmp_path / "allow.toml"
        path.write_text(generate(touched, "x\ny", **options))
        expectation = load(str(path))
        assert expectation.unchecked == ()
        for event in events:
            expectation.add(event)
        assert not any(expectation.unexpected.names.values()), options
    allowed = path.read_text()
    assert '"/usr/lib/*"' not in allowed and '"/usr/*",  # 2' in allowed
    assert '"/home/me/.ssh/id"' in allowed
    assert '"/srv/*"' in allowed
    for event in (opened("/home/me/.ssh/other"), opened("/usr/lib/a.so.1", "w"), opened("/tmp/tmpabcdefgh/y")):
        assert unexpected_of(path, event), event


def unexpected_of(path: Path, event: dict[str, Any]) -> bool:
    expectation = load(str(path))
    expectation.add(event)
    return any(expectation.unexpected.names.values())


@given(st.lists(st.binary(min_size=1, max_size=20).filter(lambda raw: b"\0" not in raw), max_size=5))
def test_whatever_the_names_the_list_is_toml_that_allows_them(raws: list[bytes]) -> None:
    events = []
    for raw in raws:
        name = b"/" + raw
        events.append(opened(name.decode("utf-8", "replace"), "rw", path_hex=name.hex()))
    touched = Touched()
    for event in events:
        touched.add(event)
    expectation = from_dict(toml.loads(generate(touched, "x")), "x")
    for event in events:
        expectation.add(event)
    assert not any(expectation.unexpected.names.values())


def test_the_command(tmp_path: Path) -> None:
    log = write(tmp_path / "log", opened("/etc/hosts"), connected("192.0.2.1", 443))
    allow = tmp_path / "allow.toml"
    made = pylsm("expect", log)
    assert (made.returncode, made.stderr) == (0, "")
    allow.write_text(made.stdout)
    assert pylsm("expect", "--check", allow, log).returncode == 0
    other = write(tmp_path / "other", opened("/etc/\x1b[2J"), connected("192.0.2.1", 80))
    result = pylsm("expect", "--check", allow, log, other)
    assert result.returncode == 3
    assert "2 things touched outside" in result.stderr
    assert "  host: 192.0.2.1:80\n" in result.stderr
    assert "  file read: /etc/\\x1b[2J\n" in result.stderr
    beat = {"event": "heartbeat", "time_ns": 1, "session": "s", "number": 0, "events": 0, "recorded": 0, "lost": 3}
    lossy = write(tmp_path / "lossy", opened("/etc/hosts"), beat)
    assert pylsm("expect", "--check", allow, lossy).returncode == 4
    assert pylsm("expect", write(tmp_path / "none", b"x\n")).returncode == 125
