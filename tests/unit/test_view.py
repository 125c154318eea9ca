"""The live view: what it makes of a recording, and its screen, driven key by key."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylsm.view import state as module
from pylsm.view.state import ORDERS, ProcessEnded, State, parent_of

pytest.importorskip("textual", reason='the extra "top" is not installed')

from pylsm.view.app import Top

BASE = {"version": 1, "time_ns": 10**18, "tid": 1, "uid": 0, "gid": 0, "cpu": 0, "sequence": 0, "comm": "sh"}
NAMES = st.text(max_size=5)
PIDS = st.integers(1, 9)


def events(kind: str, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {**{name: st.just(value) for name, value in BASE.items()}, "event": st.just(kind), **fields}
    )


EVENTS = st.one_of(
    events("open", pid=PIDS, path=NAMES, mode=st.sampled_from(["r", "w", "rw", "-"])),
    events("connect", pid=PIDS, dst_ip=NAMES, dport=PIDS),
    events("exec", pid=PIDS, ppid=st.integers(0, 9), path=NAMES),
    events("fork", pid=PIDS, child_pid=PIDS),
    events("exit", pid=PIDS),
)


NAME = {10: "make", 11: "cc"}


def opened(pid: int, path: str, mode: str = "r", **more: Any) -> dict[str, Any]:
    return {**BASE, "event": "open", "comm": NAME.get(pid, "sh"), "pid": pid, "path": path, "mode": mode, **more}


def connected(pid: int, address: str, port: int = 443) -> dict[str, Any]:
    return {**BASE, "event": "connect", "comm": NAME.get(pid, "sh"), "pid": pid, "dst_ip": address, "dport": port}


def executed(pid: int, ppid: int, comm: str) -> dict[str, Any]:
    return {**BASE, "event": "exec", "pid": pid, "ppid": ppid, "comm": comm, "path": f"/bin/{comm}"}


@given(st.lists(EVENTS, max_size=40))
def test_everything_is_counted_and_every_process_is_shown_once(made: list[dict[str, Any]]) -> None:
    state = State()
    for event in made:
        state.add(event)
    assert state.events == len(made)
    assert sorted(process.pid for _, process in state.tree()) == sorted(state.processes)
    assert sum(row.count for row in state.files.values()) == sum(event["event"] == "open" for event in made)
    assert sum(row.count for row in state.destinations.values()) == sum(e["event"] == "connect" for e in made)
    for order in ORDERS:
        assert len(state.rows(state.files, order=order)) == len(state.files)
    for pid in state.processes:
        assert pid in state.family(pid)


def test_the_tree_is_that_of_who_started_whom() -> None:
    state = State()
    for event in (executed(10, 1, "make"), executed(11, 10, "cc"), executed(12, 10, "ld"), executed(13, 11, "as")):
        state.add(event)
    assert [branch + process.name for branch, process in state.tree()] == ["make", "├ cc", "│ └ as", "└ ld"]
    assert [branch + process.name for branch, process in state.tree(text="as")] == ["make", "└ cc", "  └ as"]
    assert state.family(11) == {11, 13}


def test_who_ended_a_while_ago_is_left_out_unless_asked_for() -> None:
    state = State()
    for event in (executed(10, 1, "make"), executed(11, 10, "cc"), executed(12, 11, "as")):
        state.add(event)
    for pid in (10, 12):
        state.add({**BASE, "event": "exit", "pid": pid})
    state.add({**opened(11, "/a"), "time_ns": BASE["time_ns"] + 60 * 10**9})
    assert [process.pid for _, process in state.tree(ended=False)] == [10, 11]  # 10: somebody below it lives
    assert [process.pid for _, process in state.tree()] == [10, 11, 12]


def test_rates_rise_and_fall() -> None:
    state = State()
    for _ in range(100):
        state.add(opened(1, "/a"))
    state.tick(1.0)
    assert state.rate == state.files["/a"].rate == 50.0  # half of it is of the second before
    for _ in range(20):
        state.tick(1.0)
    assert state.files["/a"].rate == 0.0 and state.rate < 0.1


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LIMIT", 100)
    state = State()
    for number in range(1000):
        state.add({**opened(number, f"/{number}"), "time_ns": number})
    assert len(state.files) <= 100 and len(state.processes) <= 100
    assert "/999" in state.files and state.dropped > 0


def test_processes_that_end_without_a_word_are_noticed() -> None:
    def parent(pid: int) -> int:
        if pid == 11:
            raise ProcessEnded(pid)
        return 10

    state = State(parent)
    state.add(opened(11, "/a"))
    state.add(opened(12, "/a"))
    assert [state.processes[pid].parent for pid in (11, 12)] == [0, 10]
    for _ in range(20):
        state.tick(1.0)
    assert [state.processes[pid].ended for pid in (11, 12)] == [True, False]
    assert parent_of(os.getpid()) == os.getppid()
    with pytest.raises(LookupError):
        parent_of(2**22)


# ---- the screen --------------------------------------------------------------------------------------------------


def run(size: tuple[int, int], lines: list[dict[str, Any] | bytes], act: Callable[[Any, Top], Awaitable[None]]) -> None:
    """Show lines on a screen of that size, and do something there."""

    async def go() -> None:
        read, write = os.pipe()
        data = b"".join(x if isinstance(x, bytes) else json.dumps(x).encode() + b"\n" for x in lines)
        writer = threading.Thread(
            target=lambda: [os.write(write, data[at : at + 4096]) for at in range(0, len(data), 4096)]
        )
        writer.start()
        app = Top(read, "-p 10")
        async with app.run_test(size=size) as pilot:
            while app._recording.lines < len(lines):
                await pilot.pause(0.02)
            app._tick()
            await pilot.pause()
            await act(pilot, app)
        writer.join()
        os.close(read)
        os.close(write)

    asyncio.run(go())


def screen(app: Top) -> list[str]:
    """The text on it."""
    strips = app.screen._compositor.render_strips()
    return ["".join(segment.text for segment in strip) for strip in strips]


SOME = [
    executed(10, 1, "make"),
    executed(11, 10, "cc"),
    opened(11, "/src/a.c"),
    opened(11, "/out/a.o", "w"),
    connected(10, "192.0.2.1"),
    opened(10, "/etc/\x1b[2Jevil\n"),
]


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (40, 12)])
def test_it_fits(size: tuple[int, int]) -> None:
    async def look(pilot: Any, app: Top) -> None:
        text = screen(app)
        assert len(text) == size[1] and all(len(line) == size[0] for line in text)
        whole = "\n".join(text)
        assert "pylsm top -p 10" in whole and "0 lost" in whole
        if size[1] >= 24:
            for wanted in ("make", "└ cc", "192.0.2.1:443", "/src/a.c", "w /out/a.o", "\\x1b[2Jevil\\x0a"):
                assert wanted in whole, whole
        assert "\x1b" not in whole

    run(size, [*SOME], look)


def test_filter_as_you_type_order_and_one_process() -> None:
    async def act(pilot: Any, app: Top) -> None:
        await pilot.press("slash", *"a.o")
        await pilot.pause()
        whole = "\n".join(screen(app))
        assert "/out/a.o" in whole and "/src/a.c" not in whole and "192.0.2.1" not in whole
        await pilot.press("escape")
        await pilot.pause()
        assert "/src/a.c" in "\n".join(screen(app))
        await pilot.press("down", "enter")
        await pilot.pause()
        whole = "\n".join(screen(app))
        assert "only 11 and below" in whole and "/src/a.c" in whole and "192.0.2.1" not in whole
        await pilot.press("escape", "s")
        await pilot.pause()
        assert "order: count" in "\n".join(screen(app))
        await pilot.press("tab", "tab", "end", "home", "pagedown", "q")
        await pilot.pause()
        assert app.return_value == 0

    run((100, 30), [*SOME], act)


def test_losses_and_what_is_no_line_are_said() -> None:
    async def act(pilot: Any, app: Top) -> None:
        whole = "\n".join(screen(app))
        assert "LOST 7: give it a larger --ring-size" in whole and "2 lines skipped" in whole
        assert "5 deduplicated" in whole
        assert app.query_one("#status").has_class("bad")

    beat = {"version": 1, "event": "heartbeat", "time_ns": 1, "session": "x", "lost": 7, "deduplicated": 5}
    run((100, 24), [*SOME, b"garbage\n", b"\xff\xfe\n", beat], act)


def test_pause_stands_still_and_counts_on() -> None:
    async def act(pilot: Any, app: Top) -> None:
        await pilot.press("p")
        app.state.add(opened(11, "/later"))
        app._tick()
        await pilot.pause()
        assert "/later" not in "\n".join(screen(app)) and "PAUSED" in "\n".join(screen(app))
        await pilot.press("p")
        await pilot.pause()
        assert "/later" in "\n".join(screen(app))

    run((100, 30), [*SOME], act)


def test_many_rows_scroll() -> None:
    async def act(pilot: Any, app: Top) -> None:
        await pilot.press("tab", "tab", "s", "s", "s", "end")  # files, by name
        await pilot.pause()
        assert app.files.has_focus
        whole = "\n".join(screen(app))
        assert "/f/1999" in whole and "/f/1000" not in whole
        await pilot.press("home")
        await pilot.pause()
        assert "/f/1000" in "\n".join(screen(app))

    run((100, 30), [opened(11, f"/f/{number}") for number in range(1000, 2000)], act)


def test_a_file_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text("".join(json.dumps(event) + "\n" for event in SOME))

    async def go() -> None:
        fd = os.open(path, os.O_RDONLY)
        app = Top(fd, "events.jsonl")
        async with app.run_test(size=(100, 30)) as pilot:
            await pilot.pause(0.3)
            with open(path, "a") as file:
                file.write(json.dumps(opened(11, "/later")) + "\n")
            await pilot.pause(0.3)
            app._tick()
            await pilot.pause()
            assert "/later" in "\n".join(screen(app))
        os.close(fd)

    asyncio.run(go())
