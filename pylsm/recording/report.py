"""A recording as one page that a person can send to another: everything is in it, nothing is loaded from elsewhere.

The page's data is JSON, compressed and in base64: no name that a traced process chose is ever part of the page's
markup. Its own script, the only one that its policy lets run, puts names on the page as text.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import ipaddress
import json
import os
import pkgutil
import shlex
import signal as signals
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import pylsm
from pylsm.output.escape import escape
from pylsm.output.heartbeat import Verdict, verify
from pylsm.recording.read import Recording
from pylsm.recording.touched import name_of, touches

__all__ = ["page"]

#: Events on a page. A browser of today scrolls through as many without effort.
_MOST: Final = 500_000
#: What a kind does to what it touches: bits, as the page's script has them.
_READ, _WRITE, _NET, _RUN, _OTHER = 1, 2, 4, 8, 16
_DOES: Final = {"read": _READ, "write": _WRITE, "hosts": _NET, "listen": _NET, "run": _RUN, "other": _OTHER}
#: Fields that the page shows elsewhere, or that tell a reader nothing.
_SHOWN: Final = frozenset(
    (
        *("version", "event", "time_ns", "time", "pid", "comm", "comm_hex", "path", "path_hex", "cpu", "sequence"),
        *("dst_ip", "dport", "src_ip", "sport", "argv", "argv_hex"),
    )
)
_OPEN_FLAGS: Final = tuple(
    (getattr(os, name), name)
    for name in ("O_CREAT", "O_EXCL", "O_TRUNC", "O_APPEND", "O_NONBLOCK", "O_DIRECTORY", "O_NOFOLLOW", "O_CLOEXEC")
)


def page(recording: Recording, most: int = _MOST) -> tuple[str, int]:
    """Read a recording to its end and make the page.

    Args:
        recording: not yet read.
        most: events on the page; those behind are counted only.

    Returns:
        The page, and how many events it shows.

    Raises:
        RecordingError: the file cannot be read.
    """
    content = _Content(most)

    def lines() -> Iterator[bytes]:
        for line in recording.raw_lines():
            found = recording.parse(line)
            if found is not None:
                content.add(found)
            yield line

    verdict = verify(lines())
    name = "standard input" if recording.path == "-" else os.path.basename(recording.path)
    title = escape(os.fsencode(name))
    data = {
        "source": title,
        "pylsm": pylsm.__version__,
        "states": _states(recording, verdict, content),
        **content.to_dict(),
    }
    return _assemble(f"{title} · pylsm report", data), content.count


def _assemble(title: str, data: Mapping[str, Any]) -> str:
    style, script, frame = (_part(name) for name in ("page.css", "page.js", "page.html"))
    packed = gzip.compress(json.dumps(data, separators=(",", ":")).encode(), 6, mtime=0)
    allowed = f"style-src '{_hash(style)}'; script-src '{_hash(script)}'"
    policy = f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'"
    parts = {
        "POLICY": policy,
        "TITLE": html.escape(title),
        "STYLE": style,
        "SCRIPT": script,
        "DATA": base64.b64encode(packed).decode(),
    }
    pieces = frame.split("@")
    # Names of parts stand between pairs of @; what is put in is not looked at again.
    return "".join(piece if index % 2 == 0 else parts[piece] for index, piece in enumerate(pieces))


def _part(name: str) -> str:
    found = pkgutil.get_data(__package__, f"page/{name}")
    assert found is not None
    return found.decode()


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


class _Table:
    """Values, each once, by number."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._numbers: dict[Any, int] = {}

    def number(self, key: Any, value: Any = None) -> int:
        """The number of a key, whose value (the key itself, if none is given) is kept the first time."""
        found = self._numbers.get(key)
        if found is None:
            found = self._numbers[key] = len(self.values)
            self.values.append(key if value is None else value)
        return found


class _Content:
    """The events, as the page's script reads them."""

    def __init__(self, most: int) -> None:
        self.count = self.left_out = 0
        self._most = most
        self._texts = _Table()
        self._kinds = _Table()
        self._subjects = _Table()
        self._details = _Table()
        self._columns = {name: array("q") for name in ("t", "p", "c", "k", "s", "o", "d")}
        self._second: list[list[int]] = []  # further things that an event touched: its number, the thing, how
        self._processes = _Processes()
        self.gaps = _Gaps()

    def add(self, values: Mapping[str, Any]) -> None:
        """Take an event into account; a heartbeat is none."""
        event = values["event"]
        if event == "heartbeat":
            return
        self.gaps.add(values)
        if self.count >= self._most:
            self.left_out += 1
            return
        process = self._processes.of(values)
        touched: dict[int, int] = {}
        for category, name in touches(values):
            number = self._subject(category, name, values)
            touched[number] = touched.get(number, 0) | _DOES[category]
        (first, does), *others = touched.items() or [(-1, 0)]
        for number, how in others:
            self._second.append([self.count, number, how])
        row = {
            "t": values["time_ns"],
            "p": process,
            "c": self._text(name_of(values, "comm")),
            "k": self._kinds.number(_shown(event)),
            "s": first,
            "o": does,
            "d": self._detail(values),
        }
        for name_of_column, value in row.items():
            self._columns[name_of_column].append(value)
        self.count += 1

    def _text(self, name: str) -> int:
        return self._texts.number(_shown(name))

    def _subject(self, category: str, name: str, values: Mapping[str, Any]) -> int:
        """What was touched: its name, and of a host its scope and network."""
        kind = {"read": "file", "write": "file", "listen": "address"}.get(category, category)
        key = (kind, name)
        if kind == "hosts":
            return self._subjects.number(key, ["host", _shown(name), *_network(values["dst_ip"])])
        if kind == "run" and values.get("argv"):
            line = _command_line(values["argv"])
            return self._subjects.number((kind, name, line), ["run", _shown(name), line])
        return self._subjects.number(key, [kind, _shown(name)])

    def _detail(self, values: Mapping[str, Any]) -> int:
        """The fields that are shown only when an event is looked at."""
        rest = {
            key: value
            for key, value in values.items()
            if key not in _SHOWN and value is not False and not (key == "tid" and value == values.get("pid"))
        }
        if isinstance(rest.get("open_flags"), int):
            flags = rest["open_flags"]
            access = ("O_RDONLY", "O_WRONLY", "O_RDWR", "3")[flags & 3]
            names = [access] + [name for bit, name in _OPEN_FLAGS if flags & bit == bit]
            rest["open_flags"] = f"{' | '.join(names)} ({flags:#o})"
        # One string, since there can be as many as events: no name that is shown has a tabulator.
        return self._details.number("\t".join(f"{_shown(key)}\t{_value(value)}" for key, value in rest.items()))

    def to_dict(self) -> dict[str, Any]:
        """All of it, as JSON can have it: times in microseconds since the first."""
        times = self._columns["t"]
        begin = min(times, default=0)
        return {
            "from": begin // 1000,
            "count": self.count,
            "texts": self._texts.values,
            "kinds": self._kinds.values,
            "subjects": self._subjects.values,
            "details": self._details.values,
            "second": self._second,
            "processes": self._processes.rows(begin, self._texts),
            **{name: column.tolist() for name, column in self._columns.items()},
            "t": [(time_ns - begin) // 1000 for time_ns in times],
        }


class _Processes:
    """Processes, told apart by pid and, where forks and exits are recorded, by their life."""

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []
        self._now: dict[int, int] = {}  # pid → its row

    def of(self, values: Mapping[str, Any]) -> int:
        """The row of the process that did this."""
        pid, time_ns, event = values.get("pid", 0), values["time_ns"], values["event"]
        number = self._now.get(pid)
        if number is None:
            number = self._new(pid, time_ns)
        row = self._rows[number]
        row["last"] = max(row["last"], time_ns)
        row["first"] = min(row["first"], time_ns)
        if row["parent"] is None and values.get("ppid"):
            row["parent"] = self._now.get(values["ppid"])
        if event != "fork":
            row["name"] = name_of(values, "comm") or row["name"]
        if values.get("exe"):
            row["exe"] = name_of(values, "exe")
        if "uid" in values:
            row["uid"] = values["uid"]
        if event == "exec":
            row["exe"] = name_of(values, "path")
            if values.get("argv"):
                row["argv"] = values["argv"]
        elif event == "exit":
            status, signal = values.get("status"), values.get("signal")
            row["exit"] = _signal(signal) if signal else str(status) if status is not None else ""
        elif event == "fork" and "child_pid" in values:
            child = self._rows[self._new(values["child_pid"], time_ns)]
            child.update(parent=number, name=row["name"], exe=row["exe"], argv=row["argv"])
        return number

    def _new(self, pid: int, time_ns: int) -> int:
        self._now[pid] = len(self._rows)
        self._rows.append(
            {"pid": pid, "parent": None, "first": time_ns, "last": time_ns, "name": "", "exe": "", "argv": (),
             "exit": None, "uid": None}
        )  # fmt: skip
        return self._now[pid]

    def rows(self, begin: int, texts: _Table) -> list[list[Any]]:
        """[pid, parent's row or -1, first and last microsecond, name, command line, exit, uid] of each."""
        rows = []
        for number, row in enumerate(self._rows):
            line = _command_line(row["argv"]) or _shown(row["exe"])
            rows.append(
                [
                    row["pid"],
                    self._above(number),
                    (row["first"] - begin) // 1000,
                    (row["last"] - begin) // 1000,
                    texts.number(_shown(row["name"])),
                    texts.number(line),
                    row["exit"],
                    row["uid"],
                ]
            )
        return rows

    def _above(self, number: int) -> int:
        """The parent's row; -1 for none, or for one that is its own descendant, as only a forged recording has it."""
        parent = self._rows[number]["parent"]
        at, steps = parent, 0
        while at is not None:
            if at == number or steps > 10_000:
                self._rows[number]["parent"] = None
                return -1
            at, steps = self._rows[at]["parent"], steps + 1
        return -1 if parent is None else int(parent)


class _Gaps:
    """Numbers of records that no line has, in a recording without heartbeats."""

    def __init__(self) -> None:
        self._seen: dict[int, list[int]] = {}  # processor → first number, last, how many

    def add(self, values: Mapping[str, Any]) -> None:
        cpu, number = values.get("cpu"), values.get("sequence")
        if cpu is None or number is None:
            return
        seen = self._seen.setdefault(cpu, [number, number, 0])
        seen[0], seen[1], seen[2] = min(seen[0], number), max(seen[1], number), seen[2] + 1

    def missing(self) -> int:
        """How many: of one recording; of several in a file there can be fewer lines than that."""
        return sum(max(0, last - first + 1 - count) for first, last, count in self._seen.values())


def _states(recording: Recording, verdict: Verdict, content: _Content) -> list[list[Any]]:
    """[how bad: "ok", "warn" or "bad"; in short; in full; particulars] of all that a reader has to know first."""
    states: list[list[Any]] = []
    missing = [escape(sentence.encode("utf-8", "replace")) for sentence in verdict.missing]
    foreign = sum(count for count, _ in recording.skipped.values())
    if verdict.heartbeats:
        broken = [sentence for sentence in missing if "not a line of JSON" not in sentence]
        if recording.lost:
            states.append(
                ["bad", f"{_many(recording.lost, 'event')} lost.",
                 "There was no room for them when this was recorded: what is here is not all that happened.", []]
            )  # fmt: skip
        if broken:
            states.append(
                ["bad", "The recording is not whole.",
                 "Heartbeats and record numbers show that lines are missing, added or out of place.", broken[:50]]
            )  # fmt: skip
        if not recording.lost and not broken:
            states.append(
                ["ok", "Nothing is missing.",
                 "Heartbeats and record numbers show that every recorded event is here, and that none was lost.", []]
            )  # fmt: skip
    else:
        gone = content.gaps.missing()
        if gone:
            states.append(
                ["bad", f"{_many(gone, 'record')} missing.",
                 "Their numbers are in no line: they were lost, filtered, or taken out. The recording has no "
                 "heartbeats, which would tell.", []]
            )  # fmt: skip
        else:
            states.append(
                ["warn", "Whether anything is missing is not known.",
                 "The record numbers have no gap, but only heartbeats (--heartbeat SECONDS) prove that nothing was "
                 "lost at the end.", []]
            )  # fmt: skip
    if foreign:
        states.append(
            ["warn", f"{_many(foreign, 'line')} skipped",
             f"of {recording.lines:,}: not events of pylsm.",
             [escape(f"{count}: {why} (the first in line {first})".encode("utf-8", "replace"))
              for why, (count, first) in sorted(recording.skipped.items(), key=lambda item: -item[1][0])]]
        )  # fmt: skip
    if recording.disordered:
        states.append(
            ["warn", f"{_many(recording.disordered, 'event')} out of order.", "They are shown by their times.", []]
        )
    if content.left_out:
        states.append(
            ["warn", f"{_many(content.left_out, 'event')} not shown.",
             f"The page has the first {content.count:,} of the recording; --max-events shows more.", []]
        )  # fmt: skip
    return states


def _many(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _network(text: str) -> tuple[str, str]:
    """(scope, network) of an address."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return "unknown", _shown(text)
    if address.is_loopback:
        return "loopback", str(address) if address.version == 6 else "127.0.0.0/8"
    if address.is_multicast:
        return "multicast", str(address)
    scope = "link-local" if address.is_link_local else "private" if address.is_private else "public"
    return scope, str(ipaddress.ip_network(f"{address}/{24 if address.version == 4 else 48}", strict=False))


def _signal(number: int) -> str:
    try:
        return signals.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _command_line(words: Sequence[str]) -> str:
    """Arguments as a shell would take them, those of a very long line not all."""
    return " ".join(shlex.quote(_shown(word)) for word in words[:60])[:2000]


def _value(value: object) -> str:
    if type(value) is int:
        return str(value)
    if isinstance(value, str):
        return _shown(value)[:4000]
    return _shown(json.dumps(value, ensure_ascii=False))[:4000]


def _shown(name: str) -> str:
    """A name that fools nobody who reads it."""
    return escape(name.encode("utf-8", "surrogateescape"))
