"""The examples that need BPF LSM, on a kernel that has it."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest
from cases.lab import TRAMPOLINES

pytestmark = pytest.mark.vm

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))


@pytest.mark.skipif(not TRAMPOLINES, reason="this kernel calls no LSM programs")
def test_lsm_opens(tmp_path: Path) -> None:
    import lsm_opens

    path = tmp_path / "written"
    stop = threading.Event()

    def keep_writing() -> None:
        while not stop.wait(0.05):
            path.write_text("x")
            path.read_text()

    writer = threading.Thread(target=keep_writing)
    writer.start()
    try:
        events = list(lsm_opens.opened(2.0))
    finally:
        stop.set()
        writer.join()
    mine = [event for event in events if event.inode == path.stat().st_ino]
    assert len(mine) >= 5, "each open for writing is seen"
    assert {event.pid for event in mine} == {os.getpid()}
    assert {event.uid for event in mine} == {os.getuid()}
    comm = Path("/proc/self/comm").read_text().rstrip("\n")
    assert {event.comm for event in mine} == {comm}


@pytest.mark.parametrize("name", ["socket_filter", "loop_callback", "task_of_pid"])
def test_examples_run_on_other_kernels(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    release = tuple(int(part) for part in os.uname().release.split(".")[:2])
    needs = {"socket_filter": (5, 10), "loop_callback": (5, 17), "task_of_pid": (6, 12)}[name]
    if release < needs:
        pytest.skip(f"needs Linux {needs[0]}.{needs[1]}")
    monkeypatch.setattr(sys, "argv", [name])
    __import__(name).main()
    assert capsys.readouterr().out
