"""What a live view shows: processes, destinations and files with counts and rates, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final

from pylsm.recording.touched import touches

__all__ = ["ORDERS", "Process", "Row", "State", "parent_of"]

#: Rows kept of each table, and processes; the ones not seen for the longest make room.
_LIMIT: Final = 20_000
#: How long a process that has ended is among those that live, in nanoseconds.
_REMEMBERED_NS: Final = 10_000_000_000
#: Processes looked for in a second.
_LOOKED_FOR: Final = 500
#: How much of a rate is of the latest second; the rest is of those before.
_WEIGHT: Final = 0.5


class Row:
    """A destination or a file.

    Attributes:
        name: of it.
        count: events so far.
        rate: events a second, of late.
        last: when it was touched last, in nanoseconds of Unix time.
        pids: by which processes → how often.
        write: it was written to.
    """

    __slots__ = ("_recent", "count", "last", "name", "pids", "rate", "write")

    def __init__(self, name: str) -> None:
        self.name = name
        self.count = self.last = self._recent = 0
        self.rate = 0.0
        self.pids: dict[int, int] = {}
        self.write = False

    def touch(self, pid: int, time_ns: int) -> None:
        """Count an event."""
        self.count += 1
        self._recent += 1
        self.last = max(self.last, time_ns)
        self.pids[pid] = self.pids.get(pid, 0) + 1

    def tick(self, seconds: float) -> None:
        """Some seconds have gone by."""
        if self._recent or self.rate:
            self.rate = self.rate * (1 - _WEIGHT) + self._recent / seconds * _WEIGHT
            if self.rate < 0.05 and not self._recent:
                self.rate = 0.0
            self._recent = 0


class Process(Row):
    """A process; ``name`` is its latest.

    Attributes:
        pid, parent: numbers; 0 for a parent that is not known.
        opens, connects: how many of its events.
        ended: it has.
    """

    __slots__ = ("connects", "ended", "opens", "parent", "pid")

    def __init__(self, pid: int, parent: int) -> None:
        super().__init__("")
        self.pid, self.parent = pid, parent
        self.opens = self.connects = 0
        self.ended = False


#: Orders of rows, by what they are called.
ORDERS: Final[dict[str, Callable[[Row], Any]]] = {
    "rate": lambda row: (-row.rate, -row.last),
    "count": lambda row: (-row.count, row.name),
    "latest": lambda row: -row.last,
    "name": lambda row: row.name,
}


class State:
    """Takes events in, and says what there is to see.

    Args:
        parent_of: finds the parent of a process that no event told of, raises LookupError for one that has ended; None
            where the processes are not of this machine's present.

    Attributes:
        events: so far.
        rate: events a second, of late.
        counts: the latest heartbeat's.
        dropped: rows that made room for others.
    """

    def __init__(self, parent_of: Callable[[int], int] | None = None) -> None:
        self.processes: dict[int, Process] = {}
        self.destinations: dict[str, Row] = {}
        self.files: dict[str, Row] = {}
        self.counts: Mapping[str, Any] = {}
        self.events = self.dropped = self._recent = self._latest = 0
        self.rate = 0.0
        self._parent_of = parent_of

    @property
    def lost(self) -> int:
        """Events that the kernel had no room for, as the latest heartbeat says."""
        lost = self.counts.get("lost", 0)
        return lost if isinstance(lost, int) else 0

    def add(self, values: Mapping[str, Any]) -> None:
        """Take a line of a recording into account."""
        event = values["event"]
        if event == "heartbeat":
            self.counts = values
            return
        self.events += 1
        self._recent += 1
        pid, time_ns = values.get("pid", 0), values["time_ns"]
        self._latest = max(self._latest, time_ns)
        process = self._process(pid, values.get("ppid"))
        process.name = str(values.get("comm", ""))
        process.touch(pid, time_ns)
        if event == "exit":
            process.ended = True
        elif event == "fork" and isinstance(values.get("child_pid"), int):
            child = self._process(values["child_pid"], pid)
            child.name = child.name or process.name
        else:
            process.ended = False
        for category, name in touches(values):
            if category == "hosts":
                process.connects += 1
                self._row(self.destinations, name).touch(pid, time_ns)
            elif category in ("read", "write"):
                # Of what is read and written in one, only one row.
                if category == "write" and values.get("mode") == "rw":
                    self.files[name].write = True
                    continue
                process.opens += 1
                row = self._row(self.files, name)
                row.touch(pid, time_ns)
                row.write |= category == "write"

    def _process(self, pid: int, parent: int | None) -> Process:
        process = self.processes.get(pid)
        if process is None:
            self._make_room(self.processes)
            process = self.processes[pid] = Process(pid, self._parent(pid) if parent is None else parent)
        elif parent is not None:
            process.parent = parent
        return process

    def _parent(self, pid: int) -> int:
        if self._parent_of is not None:
            with suppress(LookupError):
                return self._parent_of(pid)
        return 0

    def _row(self, table: dict[str, Row], name: str) -> Row:
        row = table.get(name)
        if row is None:
            self._make_room(table)
            row = table[name] = Row(name)
        return row

    def _make_room(self, table: dict[Any, Any]) -> None:
        if len(table) >= _LIMIT:
            oldest = sorted(table, key=lambda key: table[key].last)[: _LIMIT // 10]
            self.dropped += len(oldest)
            for key in oldest:
                del table[key]

    def tick(self, seconds: float) -> None:
        """Some seconds have gone by: rates are made of what came in them."""
        for table in (self.processes, self.destinations, self.files):
            for row in table.values():
                row.tick(seconds)
        self.rate = self.rate * (1 - _WEIGHT) + self._recent / seconds * _WEIGHT
        self._recent = 0
        if self._parent_of is not None:
            self._look_for_ended()

    def _look_for_ended(self) -> None:
        """Not every recording has the ends of processes: those that have been quiet are looked for."""
        assert self._parent_of is not None
        quiet = [process for process in self.processes.values() if not process.ended and not process.rate]
        for process in quiet[:_LOOKED_FOR]:
            try:
                self._parent_of(process.pid)
            except LookupError:
                process.ended = True

    def rows(self, table: Mapping[str, Row], *, text: str = "", pids: set[int] | None = None, order: str) -> list[Row]:
        """The rows of a table.

        Args:
            text: part of the name, in small letters.
            pids: only what these processes touched; None: any.
            order: one of `ORDERS`.
        """
        found: Iterable[Row] = table.values()
        if text:
            found = (row for row in found if text in row.name.lower())
        if pids is not None:
            found = (row for row in found if not pids.isdisjoint(row.pids))
        return sorted(found, key=ORDERS[order])

    def tree(self, *, text: str = "", ended: bool = True) -> Iterator[tuple[str, Process]]:
        """Processes below those that started them, in the order of their pids, each with the branches before it.

        Args:
            text: part of the name or the pid: of processes that have it, and of those above them.
            ended: also those that ended a while ago and have nobody below them that lives.
        """
        since = 0 if ended else self._latest - _REMEMBERED_NS
        shown = {
            pid
            for pid, process in self.processes.items()
            if (not process.ended or process.last >= since) and text in f"{process.name.lower()} {pid}"
        }
        for pid in list(shown):
            while pid in self.processes and self.processes[pid].parent not in shown:
                pid = self.processes[pid].parent
                if pid not in self.processes:
                    break
                shown.add(pid)
        children: dict[int, list[int]] = {}
        for pid in sorted(shown):
            parent = self.processes[pid].parent
            children.setdefault(parent if parent in shown and parent != pid else 0, []).append(pid)
        # Numbers are used again, and what a log says can be anything: who was shown is not shown again.
        done: set[int] = set()
        work = [(pid, "", "") for pid in reversed(children.get(0, ()))]
        while work:
            pid, branch, below = work.pop()
            if pid in done:
                continue
            done.add(pid)
            yield branch, self.processes[pid]
            own = children.get(pid, ())
            for index in range(len(own) - 1, -1, -1):
                last = index == len(own) - 1
                work.append((own[index], below + ("└ " if last else "├ "), below + ("  " if last else "│ ")))
        for pid in sorted(shown - done):  # a circle of parents
            yield "", self.processes[pid]

    def family(self, pid: int) -> set[int]:
        """A process and all below it."""
        children: dict[int, list[int]] = {}
        for other, process in self.processes.items():
            children.setdefault(process.parent, []).append(other)
        found: set[int] = set()
        work = [pid]
        while work:
            number = work.pop()
            if number not in found:
                found.add(number)
                work += children.get(number, ())
        return found


def parent_of(pid: int) -> int:
    """The parent of a process, as /proc shows it.

    Raises:
        LookupError: it has ended.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        raise ProcessEnded(pid) from None
    if not fields or fields[0] in (b"Z", b"X"):
        raise ProcessEnded(pid)
    return int(fields[1])


class ProcessEnded(LookupError):
    """There is no such process any more."""
