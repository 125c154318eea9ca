"""The times of events when the machine is suspended to memory, and when its clock is set."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cases.lab import X86_64, Lab, touch

from pylsm.audit.session import Audit

pytestmark = pytest.mark.vm

ALARM = Path("/sys/class/rtc/rtc0/wakealarm")
SLACK = 5 * 10**8  # nanoseconds


def suspend() -> None:
    """Suspend to memory for some seconds; the real-time clock wakes the machine."""
    ALARM.write_text("+3")
    Path("/sys/power/state").write_text("mem")


@pytest.mark.skipif(not X86_64, reason="QEMU's arm64 machine cannot be suspended to memory")
def test_suspended_to_memory(source: str, tmp_path: Path) -> None:
    """Events of before that are read afterwards keep their time; those of afterwards are seen, with theirs."""

    def work() -> dict[str, int]:
        made = {}
        for name in "abc":
            made[name] = time.time_ns()
            touch(tmp_path / name)
            suspend()
        return made

    awake = time.monotonic()
    began = time.time()
    with Audit(source=source) as audit:
        outcome = Lab(audit).run(work)
    assert time.time() - began - (time.monotonic() - awake) > 5, "it was not suspended"
    found = {event.path.decode()[-1]: event.time_ns for event in outcome.opens(tmp_path)}
    assert found.keys() == outcome.result.keys()
    for name, made in outcome.result.items():
        assert abs(found[name] - made) < SLACK, name
    assert outcome.counts.lost == 0


@pytest.fixture
def clock() -> Iterator[None]:
    before, since = time.time_ns(), time.monotonic_ns()
    yield
    time.clock_settime_ns(time.CLOCK_REALTIME, before + time.monotonic_ns() - since)


@pytest.mark.parametrize("hours", [1, -1])
def test_the_clock_is_set(source: str, tmp_path: Path, clock: None, hours: int) -> None:
    """Times follow it, also backwards."""
    with Audit(source=source) as audit:
        lab = Lab(audit)
        lab.run(lambda: touch(tmp_path / "before"))
        time.clock_settime_ns(time.CLOCK_REALTIME, time.time_ns() + hours * 3600 * 10**9)
        (event,) = lab.run(lambda: touch(tmp_path / "after")).opens(tmp_path)
        assert abs(event.time_ns - time.time_ns()) < 60 * 10**9
