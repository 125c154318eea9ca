"""The examples run, on this kernel; those that need BPF LSM run in tests/vm/test_examples_lsm.py."""

from __future__ import annotations

import os
import runpy
import struct
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

#: Examples whose programs this kernel may refuse to load.
ELSEWHERE = {"lsm_opens"}


def test_each_example_is_tested() -> None:
    here = Path(__file__).read_text() + (EXAMPLES.parent / "tests/vm/test_examples_lsm.py").read_text()
    for path in EXAMPLES.glob("*.py"):
        assert path.stem in here


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_each_example_builds_and_explains_itself(path: Path) -> None:
    names = runpy.run_path(str(path), run_name="example")
    assert f"examples/{path.name}" in names["__doc__"]
    assert names["program"]().slots > 5


@pytest.mark.parametrize("name", sorted({path.stem for path in EXAMPLES.glob("*.py")} - ELSEWHERE))
def test_each_example_runs(name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = {"count_syscalls": ["0.3"]}.get(name, [])
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert capsys.readouterr().out.strip()


def test_count_syscalls() -> None:
    import count_syscalls

    with count_syscalls.Object([count_syscalls.program()]) as probe:
        probe.attach()
        for _ in range(500):
            os.getppid()
        counts = dict(probe.maps["counts"].items())
    comm = Path("/proc/self/comm").read_text().rstrip("\n").encode().ljust(16, b"\0")
    assert struct.unpack("=Q", counts[comm])[0] >= 500


def test_socket_filter() -> None:
    import socket_filter

    from pylsm.loader import LoadedProgram

    with LoadedProgram.load(socket_filter.program()) as loaded:
        verdicts = {name: loaded.test_run(data).retval for name, data in socket_filter.PACKETS.items()}
    assert list(verdicts.values()) == [65_535, 65_535, 0, 0]


@pytest.mark.parametrize("limit", [0, 1, 10, 100_000])
def test_loop_callback(limit: int) -> None:
    import loop_callback

    for made in (loop_callback.program(), loop_callback.parse_program(loop_callback.TEXT)):
        assert loop_callback.run(made, limit) == sum(range(limit))


def test_task_of_pid() -> None:
    import task_of_pid

    task = task_of_pid.look_up(os.getpid())
    assert task is not None
    assert (task.tgid, task.parent) == (os.getpid(), os.getppid())
    assert task.threads == len(os.listdir("/proc/self/task"))
    assert task_of_pid.look_up(1 << 22) is None
