"""The report's content: what is in the page's data, and what is said at its top. The page itself: tests/native."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylsm.audit.session import Counts
from pylsm.output.heartbeat import render as heartbeat
from pylsm.recording.read import Recording
from pylsm.recording.report import page

BASE = {"version": 1, "pid": 7, "tid": 7, "uid": 1000, "gid": 1000, "comm": "sh"}
PID, PARENT, FIRST, LAST, NAME, LINE, EXIT, UID = range(8)


class Log:
    """A recording that is made line by line, its records numbered."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[bytes] = []
        self.events = 0

    def add(self, event: str, **fields: Any) -> None:
        number = {"cpu": 0, "sequence": self.events, "time_ns": 1_700_000_000_000_000_000 + self.events * 1_000_000}
        self.lines.append(json.dumps({**BASE, **number, "event": event, **fields}).encode() + b"\n")
        self.events += 1

    def beat(self, final: bool, number: int, lost: int = 0) -> None:
        counts = Counts._make([0] * len(Counts._fields))._replace(recorded=self.events, lost=lost)
        numbers = [self.events + lost]
        self.lines.append(
            heartbeat("ab", number, self.events, counts, final=final, next_numbers=numbers).encode() + b"\n"
        )

    def write(self) -> Path:
        self.path.write_bytes(b"".join(self.lines))
        return self.path


def parts(text: str) -> dict[str, Any]:
    """The data of a page."""
    packed = re.search(r'<script type="application/octet-stream" id="data">([A-Za-z0-9+/=]*)</script>', text)
    assert packed
    return dict(json.loads(gzip.decompress(base64.b64decode(packed[1]))))


def made(path: Path, **options: Any) -> dict[str, Any]:
    return parts(page(Recording(str(path)), **options)[0])


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "events.jsonl")


def states(data: dict[str, Any]) -> list[tuple[str, str]]:
    return [(level, short) for level, short, _, _ in data["states"]]


def test_a_whole_recording(log: Log) -> None:
    log.beat(False, 0)
    log.add("open", path="/etc/hosts", mode="r", open_flags=0o2000000, inode=3)
    log.add("open", path="/tmp/x", mode="rw")
    log.add("connect", dst_ip="198.51.100.7", dport=443, family="ipv4")
    log.add("connect", dst_ip="8.8.8.8", dport=443, family="ipv4")
    log.add("connect", dst_ip="2606:4700::1", dport=443, family="ipv6")
    log.add("rename", path="/a", new_path="/b")
    log.beat(True, 1)
    data = made(log.write())
    assert states(data) == [("ok", "Nothing is missing.")]
    assert (data["count"], data["t"]) == (6, [0, 1000, 2000, 3000, 4000, 5000])
    assert data["subjects"] == [
        ["file", "/etc/hosts"],
        ["file", "/tmp/x"],
        ["host", "198.51.100.7:443", "private", "198.51.100.0/24"],  # TEST-NET-2 is nobody's (RFC 5737)
        ["host", "8.8.8.8:443", "public", "8.8.8.0/24"],
        ["host", "[2606:4700::1]:443", "public", "2606:4700::/48"],
        ["file", "/a"],
        ["file", "/b"],
    ]
    assert (data["s"], data["o"]) == ([0, 1, 2, 3, 4, 5], [1, 3, 4, 4, 4, 2])
    assert data["second"] == [[5, 6, 2]]
    assert "open_flags\tO_RDONLY | O_CLOEXEC (0o2000000)\tinode\t3" in data["details"][data["d"][0]]


def test_losses_come_first(log: Log) -> None:
    log.beat(False, 0)
    log.add("open", path="/x", mode="r")
    log.beat(True, 1, lost=3)
    assert states(made(log.write())) == [("bad", "3 events lost.")]


def test_what_was_taken_out_is_noticed(log: Log) -> None:
    log.beat(False, 0)
    for number in range(3):
        log.add("open", path=f"/{number}", mode="r")
    log.beat(True, 1)
    del log.lines[2]
    data = made(log.write())
    assert states(data) == [("bad", "The recording is not whole.")]
    assert any("1 event is missing" in sentence for sentence in data["states"][0][3])


def test_without_heartbeats_only_the_numbers_tell(log: Log) -> None:
    for number in range(4):
        log.add("open", path=f"/{number}", mode="r")
    assert states(made(log.write())) == [("warn", "Whether anything is missing is not known.")]
    del log.lines[1:3]
    assert states(made(log.write())) == [("bad", "2 records missing.")]


def test_truncated_reordered_and_foreign_lines_are_told(log: Log) -> None:
    log.add("open", path="/a", mode="r")
    log.add("open", path="/b", mode="r", time_ns=0)
    log.lines.append(b'<b>{"x":1}\n')
    log.lines.append(log.lines[0][:40])
    data = made(log.write())
    assert states(data)[1:] == [("warn", "2 lines skipped"), ("warn", "1 event out of order.")]
    assert any("cut off" in reason for reason in data["states"][1][3])
    assert data["t"] == [1_700_000_000_000_000_000 // 1000, 0]


def test_more_events_than_the_page_takes(log: Log) -> None:
    for number in range(10):
        log.add("open", path=f"/{number}", mode="r")
    data = made(log.write(), most=4)
    assert data["count"] == 4
    assert ("warn", "6 events not shown.") in states(data)


def test_processes_and_their_parents(log: Log) -> None:
    log.add("exec", path="/bin/sh", argv=["sh", "-c", "a b"], ppid=1)
    log.add("fork", child_pid=8)
    log.add("exec", pid=8, comm="cat", path="/bin/cat", argv=["cat", "x\x1b"], ppid=7)
    log.add("exit", pid=8, comm="cat", status=1, signal=0)
    log.add("fork", child_pid=8)
    log.add("open", pid=8, path="/again", mode="r")
    log.add("exit", pid=8, signal=9, status=0)
    log.add("open", pid=99, comm="other", path="/x", mode="r", ppid=7)
    data = made(log.write())
    rows = data["processes"]
    texts = data["texts"]
    assert [(row[PID], row[PARENT], row[EXIT]) for row in rows] == [
        (7, -1, None),
        (8, 0, "1"),
        (8, 0, "SIGKILL"),
        (99, 0, None),
    ]
    assert [texts[row[LINE]] for row in rows] == ["sh -c 'a b'", "cat 'x\\x1b'", "sh -c 'a b'", ""]
    assert data["p"] == [0, 0, 1, 1, 0, 2, 2, 3]


def test_parents_that_are_their_own_children(log: Log) -> None:
    log.add("open", path="/a", mode="r", ppid=8)
    log.add("open", pid=8, path="/a", mode="r", ppid=7)
    log.add("open", path="/a", mode="r", ppid=8)
    log.add("open", pid=9, path="/a", mode="r", ppid=9)
    rows = made(log.write())["processes"]
    for number, row in enumerate(rows):
        seen, at = {number}, row[PARENT]
        while at >= 0:
            assert at not in seen
            seen.add(at)
            at = rows[at][PARENT]


HOSTILE = (
    b"</script><script>owned()</script>",
    b'"><img src=x onerror=owned()>',
    b"\x1b]0;title\x07",
    "\u202egnp.exe".encode(),
    b"\xff\xfe",
    b"@DATA@@SCRIPT@",
    b"<!--",
    b"]]>",
)


def test_no_name_is_part_of_the_markup(log: Log) -> None:
    for name in HOSTILE:
        path = b"/" + name
        log.add(
            "open",
            path=path.decode("utf-8", "replace"),
            path_hex=path.hex(),
            mode="w",
            comm=name.decode("utf-8", "replace"),
        )
        log.add("exec", path=path.decode("utf-8", "replace"), argv=[name.decode("utf-8", "replace")] * 2)
        log.add(name.decode("utf-8", "replace"), **{name.decode("utf-8", "replace"): name.decode("utf-8", "replace")})
    log.path = log.path.with_name("<img src=x onerror=owned()>\u202e.jsonl")
    text, shown = page(Recording(str(log.write())))
    assert shown == 3 * len(HOSTILE)
    assert "owned" not in re.sub(r"&lt;img src=x onerror=owned\(\)&gt;\\xe2\\x80\\xae.jsonl", "", text)
    assert text.count("<script") == 2 and text.count("<img") == 0
    data = parts(text)
    for strings in (data["texts"], data["kinds"], [subject[1] for subject in data["subjects"]]):
        assert all(string.isprintable() for string in strings)


def test_the_policy_lets_only_our_own_script_run(log: Log) -> None:
    log.add("open", path="/x", mode="r")
    text, _ = page(Recording(str(log.write())))
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert policy
    script = text[text.rindex("<script>") + 8 : text.rindex("</script>")]
    style = text[text.index("<style>") + 7 : text.index("</style>")]
    hashes = {
        name: "sha256-" + base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()
        for name, part in (("script-src", script), ("style-src", style))
    }
    rules = dict(rule.split(" ", 1) for rule in html.unescape(policy[1]).split("; "))
    assert rules == {
        "default-src": "'none'",
        **{name: f"'{found}'" for name, found in hashes.items()},
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert not re.search(r"https?://", text.replace("http://www.w3.org/2000/svg", ""))
    assert "innerHTML" not in script and "eval(" not in script and "document.write" not in script


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(
                ["event", "time_ns", "pid", "path", "path_hex", "mode", "dst_ip", "dport", "argv", "ppid", "child_pid",
                 "status", "signal", "open_flags", "cpu", "sequence", "exe", "uid", "x"]
            ),
            st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.lists(st.text(max_size=2), max_size=2)
            | st.sampled_from(["open", "exec", "fork", "exit", "connect", "heartbeat", "10.0.0.1"]),
        ),
        max_size=8,
    )
)  # fmt: skip
def test_no_recording_is_too_strange(lines: list[dict[str, Any]]) -> None:
    with tempfile.NamedTemporaryFile("w") as file:
        file.write("".join(json.dumps({"event": "open", "time_ns": 1, **line}) + "\n" for line in lines))
        file.flush()
        made(Path(file.name))


def test_the_command(log: Log, tmp_path: Path) -> None:
    log.add("open", path="/x", mode="r")
    log.lines.append(b"junk\n")
    out = tmp_path / "report.html"

    def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pylsm", "report", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)

    result = run(str(log.write()), "-o", str(out))
    assert (result.returncode, result.stdout) == (0, "")
    assert "1 of 2 lines skipped" in result.stderr
    assert "1: not JSON (the first in line 2)" in result.stderr
    assert parts(out.read_text())["count"] == 1
    piped = run("-", input=log.path.read_text())
    assert parts(piped.stdout)["source"] == "standard input"
    for arguments, why in (
        ((str(tmp_path / "none"),), "No such file"),
        ((str(tmp_path),), "Is a directory"),
        ((str(log.path), "-o", str(tmp_path / "no/such/x")), "cannot write to"),
    ):
        result = run(*arguments)
        assert result.returncode == 125
        assert why in result.stderr and "Traceback" not in result.stderr
    log.path.write_text("junk\n")
    result = run(str(log.path), "-o", str(tmp_path / "other"))
    assert result.returncode == 125
    assert "has no event" in result.stderr
    assert not (tmp_path / "other").exists()
    assert run(str(log.path), "--max-events", "0").returncode == 2
