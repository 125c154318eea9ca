"""``pylsm.audit(…)``: an audit in an own program."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import pylsm
from pylsm.audit import Connect, Event, FileOpen
from pylsm.errors import PylsmError

WAITER = "import sys; sys.stdin.read(1); open(sys.argv[1])"


@pytest.fixture
def waiter(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that opens a file once it is told to."""
    (tmp_path / "file").touch()
    with subprocess.Popen(
        [sys.executable, "-ISc", WAITER, str(tmp_path / "file")], stdin=subprocess.PIPE, bufsize=0
    ) as process:
        yield process
        process.kill()


def tell(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.write(b"g")


def paths(events: list[Event]) -> list[bytes]:
    return [event.path for event in events if isinstance(event, FileOpen)]


def test_a_command_from_its_first_instruction(tmp_path: Path, source: str) -> None:
    path = tmp_path / "file"
    path.write_text("text")
    code = f"import os, socket; open({str(path)!r}); socket.socket(2, 2).connect(('127.0.0.9', 53)); os._exit(7)"
    with pylsm.audit(command=[sys.executable, "-ISc", code], source=source) as events:
        seen = list(events)
    assert os.fsencode(path) in paths(seen)
    assert "127.0.0.9:53" in [event.dst for event in seen if isinstance(event, Connect)]
    assert {event.pid for event in seen} == {seen[0].pid}
    assert events.wait() == 7
    assert events.counts().recorded == len(seen)
    assert events.counts().lost == 0


def test_running_processes_and_what_they_start(tmp_path: Path, waiter: subprocess.Popen[bytes], source: str) -> None:
    with pylsm.audit(pids=[waiter.pid], source=source) as events:
        tell(waiter)
        assert os.fsencode(tmp_path / "file") in paths(list(events))
    assert waiter.wait() == 0


def test_async_for(tmp_path: Path, waiter: subprocess.Popen[bytes], source: str) -> None:
    async def follow() -> list[Event]:
        async with pylsm.audit(pids=[waiter.pid], source=source) as events:
            asyncio.get_running_loop().call_later(0.3, tell, waiter)  # the loop goes on while nothing happens
            return [event async for event in events]

    assert os.fsencode(tmp_path / "file") in paths(asyncio.run(follow()))


def test_closing_ends_an_iteration_of_another_thread(waiter: subprocess.Popen[bytes], source: str) -> None:
    events = pylsm.audit(pids=[waiter.pid], source=source)
    closers = [threading.Timer(0.2, events.close) for _ in range(4)]
    for closer in closers:
        closer.start()
    assert paths(list(events)) == []  # and not for ever
    for closer in closers:
        closer.join()
    events.close()
    assert waiter.poll() is None  # it goes on
    with pytest.raises(PylsmError, match="have ended"):
        events.trace([waiter.pid])


def test_closing_ends_an_async_iteration(waiter: subprocess.Popen[bytes], source: str) -> None:
    async def follow() -> list[Event]:
        events = pylsm.audit(pids=[waiter.pid], source=source)
        threading.Timer(0.2, events.close).start()
        return [event async for event in events]

    assert asyncio.run(asyncio.wait_for(follow(), 20)) == []


def test_processes_named_later(tmp_path: Path, waiter: subprocess.Popen[bytes], source: str) -> None:
    with pylsm.audit(source=source) as events:
        events.trace([waiter.pid])
        tell(waiter)
        assert os.fsencode(tmp_path / "file") in paths(list(events))  # ends when they have


def test_a_command_outlives_events_that_are_closed(source: str) -> None:
    with pylsm.audit(command=["sleep", "60"], source=source) as events:
        first = next(iter(events))
    os.kill(first.pid, 0)
    os.kill(first.pid, signal.SIGTERM)
    assert events.wait() == 128 + signal.SIGTERM


def test_nothing_stays_open(source: str) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    with pylsm.audit(command=["true"], source=source) as events:
        list(events)
    assert sorted(os.listdir("/proc/self/fd")) == before
    with pytest.raises(PylsmError):
        pylsm.audit(command=["/nonexistent/command"], source=source)
    assert sorted(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pids": [2**22 - 1]}, "no process has pid 4194303"),
        ({"pids": [os.getpid()]}, "this program itself"),
        ({"command": []}, "command is missing"),
        ({"command": ["/nonexistent"]}, "/nonexistent: cannot be executed: No such file"),
        ({"command": ["/"]}, "/: cannot be executed: Permission denied"),
        ({"source": "none"}, "no source 'none'"),
    ],
)
def test_what_cannot_be_traced_is_said(options: dict[str, object], message: str, source: str) -> None:
    with pytest.raises(PylsmError, match=message) as caught:
        pylsm.audit(**{"source": source, **options})
    assert caught.value.hint


def test_who_was_not_started_has_no_status(source: str) -> None:
    with pylsm.audit(source=source) as events, pytest.raises(PylsmError, match="no command"):
        events.wait()


def test_a_busy_command_is_followed_by_a_slow_reader(tmp_path: Path, source: str) -> None:
    code = f"import os\nfor n in range(2000): os.close(os.open(f'{tmp_path}/{{n}}', os.O_CREAT))"
    seen = []
    with pylsm.audit(command=[sys.executable, "-ISc", code], source=source) as events:
        for event in events:
            if len(seen) % 500 == 0:
                time.sleep(0.05)
            seen.append(event)
        assert events.counts().recorded == len(seen)
    assert {os.fsencode(tmp_path / str(n)) for n in range(2000)} <= set(paths(seen))
