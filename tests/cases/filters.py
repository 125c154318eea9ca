"""What is shown of a family: filters in the kernel and here, with every run of a hook counted once."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from cases.lab import (
    BACKENDS,
    CONNECTS_AND_OPENS,
    EMULATED,
    Lab,
    Outcome,
    Worker,
    deep_directory,
    forked,
    look,
    touch,
)
from pylsm.audit.filters import Filters
from pylsm.audit.session import Audit

EVERY = BACKENDS if EMULATED else ("raw_tracepoint",)
O_CREAT = os.O_WRONLY | os.O_CREAT


@pytest.fixture(params=EVERY)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def audited(source: str, **asked: Any) -> Audit:
    return Audit(source=source, events=CONNECTS_AND_OPENS, **asked)


def connect(address: str, port: int) -> None:
    """Try to connect a datagram socket: nothing is sent, and no route is needed for it to be seen."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock, suppress(OSError):
        sock.connect((address, port))


def destinations(outcome: Outcome) -> list[str]:
    return [event.dst for event in outcome.connects]


def sound(outcome: Outcome, runs: int) -> None:
    """Every run of a hook is one of the counts, and what is shown is what was recorded."""
    counts = outcome.counts
    mine = counts.ignored + counts.deduplicated + counts.recorded + counts.lost + counts.unreadable + counts.filtered
    assert mine == runs
    assert counts.recorded == len(outcome.events)


def test_all_at_once(backend: str, tmp_path: Path) -> None:
    """Whatever passes is what the rules say, and each run is counted."""
    (tmp_path / "read").write_text("")
    (tmp_path / "skip").mkdir()
    rules = Filters(
        mode="w",
        paths=[f"{tmp_path}/*"],
        not_paths=[f"{tmp_path}/skip", "*.tmp"],
        dsts=["10.0.0.0/8", "192.0.2.7", "2001:db8::/32"],
        not_dsts=["10.9.0.0/16", "2001:db8:9::/48"],
        ports=["80", "8000-8010"],
    )

    def work() -> None:
        for name in ("a", "b.tmp", "skip/c", "d"):
            touch(tmp_path / name)
        look(tmp_path / "read")
        look("/etc/passwd")
        touch("/tmp/pylsm-elsewhere")
        for host in ("10.1.2.3", "10.9.2.3", "192.0.2.7", "192.0.2.8", "::ffff:10.0.0.1", "::ffff:11.0.0.1"):
            connect(host, 80)
        connect("2001:db8::1", 8000)
        connect("2001:db8::1", 8011)
        connect("2001:db8:9::1", 8010)
        connect("2001:db9::1", 8010)
        connect("10.1.2.3", 8010)
        connect("10.1.2.3", 79)

    with audited(backend, filters=rules) as audit:
        outcome = Lab(audit).run(work)
        assert [e.path for e in outcome.opens()] == [os.fsencode(tmp_path / "a"), os.fsencode(tmp_path / "d")]
        assert destinations(outcome) == [
            "10.1.2.3:80",
            "192.0.2.7:80",
            "10.0.0.1:80",
            "[2001:db8::1]:8000",
            "10.1.2.3:8010",
        ]
        sound(outcome, 7 + 12)
        assert outcome.counts.withheld == 1, "only *.tmp is for user space"
        assert audit.counts().lost == 0
    os.unlink("/tmp/pylsm-elsewhere")


def test_numbers_have_no_gap(source: str, tmp_path: Path) -> None:
    """What the kernel side filters was given no number."""

    def work() -> None:
        for index in range(20):
            touch(tmp_path / f"{'no' if index % 2 else 'yes'}-{index}")

    with audited(source, filters=Filters(not_paths=[f"{tmp_path}/no*"])) as audit:
        before = sum(audit.next_numbers())
        outcome = Lab(audit).run(work)
        assert len(outcome.opens(tmp_path)) == 10
        assert sum(audit.next_numbers()) - before == len(outcome.events)
        assert outcome.counts.filtered == 10


@pytest.mark.parametrize(("mode", "shown"), [("r", ["r", "rw"]), ("w", ["w", "rw"]), ("rw", ["rw"])])
def test_modes(source: str, tmp_path: Path, mode: str, shown: list[str]) -> None:
    (tmp_path / "x").write_text("")

    def work() -> None:
        for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
            os.close(os.open(tmp_path / "x", flags))

    with audited(source, filters=Filters(mode=mode)) as audit:
        outcome = Lab(audit).run(work)
        assert [event.mode for event in outcome.opens()] == shown
        assert outcome.counts.filtered == 3 - len(shown)


def test_a_path_beyond_the_kernels_helper(backend: str, tmp_path: Path) -> None:
    """The walk over dentries filters too; and a prefix is looked at as far as a trie goes, 256 bytes."""
    start = os.getcwd()
    try:
        deep = deep_directory(tmp_path, 1000)

        def work() -> None:
            touch(b"wanted")
            touch(b"other")
            touch(tmp_path / "short")

        with audited(backend, filters=Filters(paths=[os.fsdecode(deep) + "/w*"])) as audit:
            outcome = Lab(audit).run(work)
            assert [e.path for e in outcome.opens()] == [deep + b"/wanted"]
            sound(outcome, 3)
            assert outcome.counts.withheld == 1, "the other one begins with the same 256 bytes"
    finally:
        os.chdir(start)


def test_what_cannot_be_decided_is_shown(source: str, tmp_path: Path) -> None:
    """A path that is longer than a record has room for, of which the beginning is missing."""
    start = os.getcwd()
    try:
        deep_directory(tmp_path, 6000)
        with audited(source, filters=Filters(paths=["/no/such"])) as audit:
            outcome = Lab(audit).run(lambda: [touch(b"deep"), touch(tmp_path / "short")])
            (event,) = outcome.opens()
            assert event.truncated or event.basename
            assert event.path.endswith(b"deep")
    finally:
        os.chdir(start)


def test_an_unlinked_file_is_meant_by_its_name(source: str, tmp_path: Path) -> None:
    def work() -> None:
        fd = os.open(tmp_path / "gone", O_CREAT | os.O_RDWR)
        os.unlink(tmp_path / "gone")
        look(f"/proc/self/fd/{fd}")

    with audited(source, filters=Filters(paths=[f"{tmp_path}/gone"])) as audit:
        assert [event.unlinked for event in Lab(audit).run(work).opens(tmp_path)] == [False, True]
    with audited(source, filters=Filters(not_paths=[f"{tmp_path}/gone"])) as audit:
        assert Lab(audit).run(work).opens(tmp_path) == []


def test_rules_change_while_events_flow(backend: str, tmp_path: Path) -> None:
    """In the kernel and, for kinds that were not there at the start, here; the result is the same."""

    def work() -> None:
        for name in ("a", "b", "c"):
            touch(tmp_path / name)
        connect("10.0.0.1", 80)
        connect("10.0.0.2", 81)

    def shown(audit: Audit) -> tuple[list[str], list[str]]:
        outcome = Lab(audit).run(work)
        sound(outcome, 5)
        return [os.path.basename(os.fsdecode(e.path)) for e in outcome.opens(tmp_path)], destinations(outcome)

    both = ["10.0.0.1:80", "10.0.0.2:81"]
    with audited(backend, filters=Filters(paths=[f"{tmp_path}/a"])) as audit:
        assert shown(audit) == (["a"], both)
        audit.set_filters(audit.filters.adding(paths=[f"{tmp_path}/b"]))
        assert shown(audit) == (["a", "b"], both)
        audit.set_filters(audit.filters.adding(not_paths=["*/a"], dsts=["10.0.0.2"]))
        assert shown(audit) == (["b"], ["10.0.0.2:81"])
        audit.set_filters(audit.filters.removing(paths=[f"{tmp_path}/a", f"{tmp_path}/b"]))
        assert shown(audit) == (["b", "c"], ["10.0.0.2:81"])
        audit.set_filters(audit.filters.adding(mode="r"))
        assert shown(audit) == ([], ["10.0.0.2:81"])
        audit.set_filters(Filters(ports=["80"]))
        assert shown(audit) == (["a", "b", "c"], ["10.0.0.1:80"])
        audit.set_filters(Filters())
        assert shown(audit) == (["a", "b", "c"], both)


def test_nothing_that_both_rules_want_is_missed(source: str, tmp_path: Path) -> None:
    """Rules change as fast as they can while a process opens files that all of them want."""

    def work() -> None:
        for index in range(300):
            touch(tmp_path / f"wanted-{index}")
            touch(tmp_path / f"refused-{index}")

    one = Filters(paths=[f"{tmp_path}/wanted*", "/a"], not_paths=[f"{tmp_path}/refused*"])
    two = Filters(paths=[f"{tmp_path}/*"], not_paths=[f"{tmp_path}/ref*", "/b"])
    with audited(source, filters=one) as audit:
        worker = Worker(work)
        audit.trace([worker.pid])
        events = []
        worker.release()
        while audit.family():
            for rules in (two, one):
                audit.set_filters(rules)
            events += audit.read()
        worker.wait()
        events += audit.read()
        assert sorted(os.fsdecode(e.path) for e in events) == sorted(f"{tmp_path}/wanted-{n}" for n in range(300))  # type: ignore[attr-defined]
        counts = audit.counts()
        assert (counts.lost, counts.filtered) == (0, 300)


def test_reading_waits_for_what_is_shown(source: str, tmp_path: Path) -> None:
    def work() -> None:
        touch(tmp_path / "no.tmp")
        time.sleep(0.3)
        touch(tmp_path / "yes")

    with audited(source, filters=Filters(not_paths=["*.tmp"])) as audit:
        worker = Worker(work)
        audit.trace([worker.pid])
        worker.release()
        (event,) = audit.read(timeout=None)
        assert event.path == os.fsencode(tmp_path / "yes")  # type: ignore[attr-defined]
        worker.wait()
        assert audit.read(timeout=0.1) == []


# --- repeats ---------------------------------------------------------------------------------------------------------


def opened(path: Path, flags: Iterator[int]) -> Callable[[], Any]:
    def work() -> None:
        for flag in flags:
            os.close(os.open(path, flag))

    return work


READ, WRITE = os.O_RDONLY, os.O_WRONLY


@pytest.mark.parametrize(
    ("dedup", "shown"),
    [("off", ["r", "r", "w", "w", "r"]), ("file", ["r"]), ("file+mode", ["r", "w"]), ("window=3600", ["r", "w"])],
)
def test_repeats(backend: str, tmp_path: Path, dedup: str, shown: list[str]) -> None:
    (tmp_path / "x").write_text("")
    with audited(backend, dedup=dedup) as audit:
        outcome = Lab(audit).run(opened(tmp_path / "x", iter((READ, READ, WRITE, WRITE, READ))))
        assert [event.mode for event in outcome.opens(tmp_path)] == shown
        sound(outcome, 5)
        assert outcome.counts.deduplicated == 5 - len(shown)


def test_neighbours_are_remembered(source: str, tmp_path: Path) -> None:
    """Files whose inode numbers follow each other do not push each other out, nor do access modes."""
    files = [tmp_path / str(number) for number in range(64)]
    for path in files:
        path.write_text("")
    for dedup, modes in (("file", 1), ("file+mode", 3)):
        with audited(source, dedup=dedup) as audit:
            outcome = Lab(audit).run(
                lambda: [opened(path, iter((READ, WRITE, os.O_RDWR)))() for _ in range(3) for path in files]
            )
            assert len(outcome.opens(tmp_path)) == modes * len(files)
            assert outcome.counts.deduplicated == (9 - modes) * len(files)


def test_a_window_ends(backend: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")

    def work() -> None:
        for pause in (0, 0, 0.7, 0):
            time.sleep(pause)
            look(tmp_path / "x")

    with audited(backend, dedup="window=0.5") as audit:
        outcome = Lab(audit).run(work)
        assert len(outcome.opens(tmp_path)) == 2
        assert outcome.counts.deduplicated == 2


def test_a_child_repeats_nothing(source: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")

    def work() -> None:
        look(tmp_path / "x")
        forked(lambda: [look(tmp_path / "x"), look(tmp_path / "x")])

    with audited(source, dedup="file") as audit:
        assert len(Lab(audit).run(work).opens(tmp_path)) == 2
