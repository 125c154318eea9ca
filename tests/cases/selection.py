"""Whom to trace by user, cgroup, name, executable: who matches at the start, and who does so later."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from cases.lab import BACKENDS, EMULATED, Outcome, Worker, checked, eventually, forked, libc, touch
from pylsm.audit.cgroups import resolve
from pylsm.audit.events import FileOpen
from pylsm.audit.globs import Glob
from pylsm.audit.selection import Executable, Selection
from pylsm.audit.session import Audit, Counts

with open("/proc/self/mountinfo") as _mounts:
    ROOT = Path(next((line.split()[4] for line in _mounts if " - cgroup2 " in line), "/sys/fs/cgroup"))


# Of those with marks one, and one without; `EVERY` where the kernel side is as different as it gets.
EVERY = BACKENDS if EMULATED else ("raw_tracepoint",)


@pytest.fixture(params=dict.fromkeys((EVERY[0], EVERY[-1])))
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def group() -> Iterator[Path]:
    """A cgroup of the unified hierarchy, and one in it called inner."""
    made = ROOT / f"pylsm-{uuid.uuid4().hex[:8]}"
    try:
        (made / "inner").mkdir(parents=True)
    except OSError as error:
        pytest.skip(f"no cgroup can be made here: {error}")
    assert (made / "cgroup.procs").exists()
    yield made
    remove(made / "inner", made)


def remove(*groups: Path) -> None:
    for group in groups:
        with suppress(FileNotFoundError):
            assert eventually(lambda group=group: not (group / "cgroup.procs").read_text()), "somebody is left"
            group.rmdir()


def enter(group: Path) -> None:
    (group / "cgroup.procs").write_text(str(os.getpid()))


def seen(audit: Audit, work: Callable[[], Any], folder: Path) -> Outcome:
    """What the audit records of a new process that nobody told it of, below a directory."""
    before = audit.counts()
    audit.read()
    worker = Worker(work)
    worker.release()
    result = worker.wait()
    events = [e for e in audit.read() if isinstance(e, FileOpen) and e.path.startswith(os.fsencode(folder) + b"/")]
    counts = Counts._make(a - b for a, b in zip(audit.counts(), before))
    return Outcome(worker.pid, result, list(events), counts)


def names(outcome: Outcome) -> list[str]:
    return [os.path.basename(event.path.decode()) for event in outcome.opens()]


def test_a_user(backend: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    for parent in tmp_path.parents:
        if not parent.stat().st_mode & 1:
            parent.chmod(parent.stat().st_mode | 0o11)

    def becomes() -> None:
        touch(tmp_path / "before")
        os.setresuid(54321, 54321, 0)
        touch(tmp_path / "as the user")
        os.setresuid(0, 0, 0)
        touch(tmp_path / "afterwards")
        forked(lambda: touch(tmp_path / "child"))

    with Audit(source=backend, select=Selection(uids=[54321, 54322])) as audit:
        assert names(seen(audit, becomes, tmp_path)) == ["as the user", "afterwards", "child"]
        assert names(seen(audit, lambda: touch(tmp_path / "other"), tmp_path)) == []
        assert eventually(lambda: not audit.family()), "who has joined leaves with its end"


def test_a_cgroup(backend: str, tmp_path: Path, group: Path) -> None:
    def joins() -> None:
        touch(tmp_path / "before")
        enter(group / "inner")
        touch(tmp_path / "inside")
        enter(ROOT)
        touch(tmp_path / "left")
        forked(lambda: touch(tmp_path / "child"))

    with Audit(source=backend, select=Selection(cgroups=[resolve(str(group))])) as audit:
        assert names(seen(audit, joins, tmp_path)) == ["inside", "left", "child"]
        assert names(seen(audit, lambda: touch(tmp_path / "other"), tmp_path)) == []


def test_a_cgroup_made_later_below(backend: str, tmp_path: Path, group: Path) -> None:
    def joins() -> None:
        (group / "late").mkdir()
        enter(group / "late")
        touch(tmp_path / "inside")

    with Audit(source=backend, select=Selection(cgroups=[resolve(str(group))])) as audit:
        try:
            assert names(seen(audit, joins, tmp_path)) == ["inside"]
        finally:
            remove(group / "late")


def test_a_cgroup_of_version_1(backend: str, tmp_path: Path) -> None:
    hierarchy = tmp_path / "pids"
    hierarchy.mkdir()
    if libc.mount(b"none", os.fsencode(hierarchy), b"cgroup", 0, b"pids"):
        pytest.skip("this kernel mounts no cgroup hierarchy of version 1 for pids")
    files = tmp_path / "files"
    files.mkdir()
    deep = hierarchy / "one" / "two" / "three"
    try:
        deep.mkdir(parents=True)

        def joins() -> None:
            enter(deep)
            touch(files / "inside")

        def joins_another() -> None:
            enter(hierarchy)
            touch(files / "outside")

        with Audit(source=backend, select=Selection(cgroups=[resolve(str(hierarchy / "one"))])) as audit:
            assert names(seen(audit, joins, files)) == ["inside"]
            assert names(seen(audit, joins_another, files)) == []
        remove(deep, deep.parent, deep.parent.parent)
    finally:
        checked(libc.umount2(os.fsencode(hierarchy), 2))


def test_a_name(backend: str, tmp_path: Path) -> None:
    """From the first instruction of the program on: the dynamic loader's opens are there."""
    for name in ("agent-1", "agent", "an-agent-1"):
        shutil.copy("/bin/cat", tmp_path / name)
    (tmp_path / "text").write_text("x")

    def executes(name: str) -> Callable[[], None]:
        return lambda: subprocess.run([tmp_path / name, tmp_path / "text"], stdout=subprocess.DEVNULL, check=True)

    with Audit(source=backend, select=Selection(comms=[Glob("nobody"), Glob("agent-[0-9]*")])) as audit:
        assert names(seen(audit, executes("agent-1"), tmp_path)) == ["text"]
        assert names(seen(audit, executes("agent"), tmp_path)) == []
        assert names(seen(audit, executes("an-agent-1"), tmp_path)) == []


def test_an_executable(backend: str, tmp_path: Path) -> None:
    """By whatever path it is executed."""
    shutil.copy("/bin/cat", tmp_path / "tool")
    os.link(tmp_path / "tool", tmp_path / "linked")
    os.symlink(tmp_path / "tool", tmp_path / "symbolic")
    shutil.copy("/bin/cat", tmp_path / "other")
    (tmp_path / "text").write_text("x")

    def executes(name: str) -> Callable[[], None]:
        return lambda: subprocess.run([tmp_path / name, tmp_path / "text"], stdout=subprocess.DEVNULL, check=True)

    with Audit(source=backend, select=Selection(exes=[Executable(f"{tmp_path}/to*")])) as audit:
        for name in ("tool", "linked", "symbolic"):
            assert names(seen(audit, executes(name), tmp_path)) == ["text"], name
        assert names(seen(audit, executes("other"), tmp_path)) == []


def test_everybody(backend: str, tmp_path: Path) -> None:
    with Audit(source=backend, select=Selection(everybody=True)) as audit:
        outcome = seen(audit, lambda: [touch(tmp_path / "a"), touch(tmp_path / "a"), touch(tmp_path / "b")], tmp_path)
        assert names(outcome) == ["a", "b"]
        assert outcome.counts.deduplicated >= 1
        touch(tmp_path / "of its own")
        assert not [event for event in audit.read() if event.pid == os.getpid()]
        assert not audit.family()
        assert not audit.counts().family_full


@pytest.mark.parametrize("backend", EVERY)
def test_each_that_is_given_has_to_match(backend: str, tmp_path: Path, group: Path) -> None:
    tmp_path.chmod(0o777)
    shutil.copy("/bin/cat", tmp_path / "tool")
    (tmp_path / "text").write_text("x")

    def executes(inside: bool, uid: int) -> Callable[[], None]:
        def work() -> None:
            if inside:
                enter(group)
            os.setresuid(uid, uid, uid)
            subprocess.run([tmp_path / "tool", tmp_path / "text"], stdout=subprocess.DEVNULL, check=True)

        return work

    for parent in tmp_path.parents:
        if not parent.stat().st_mode & 1:
            parent.chmod(parent.stat().st_mode | 0o11)
    cgroup = resolve(str(group))
    for select in (
        Selection(uids=[54321], cgroups=[cgroup]),
        Selection(uids=[54321], cgroups=[cgroup], comms=[Glob("to?l")], exes=[Executable(str(tmp_path / "tool"))]),
    ):
        with Audit(source=backend, select=select) as audit:
            assert "text" in names(seen(audit, executes(True, 54321), tmp_path))
            assert names(seen(audit, executes(True, 54322), tmp_path)) == []
            assert names(seen(audit, executes(False, 54321), tmp_path)) == []


def test_who_matches_when_it_starts(backend: str, tmp_path: Path) -> None:
    """With all its descendants, whatever their names."""
    mine = f"m{uuid.uuid4().hex[:8]}"

    def work() -> None:
        Path("/proc/self/comm").write_text(mine)
        forked(lambda: [ready(), touch(tmp_path / "child")])

    def ready() -> None:
        Path("/proc/self/comm").write_text("other")
        (tmp_path / "ready").write_text("")
        assert eventually((tmp_path / "go").exists)

    worker = Worker(work)
    worker.release()
    assert eventually((tmp_path / "ready").exists)
    with Audit(source=backend, select=Selection(comms=[Glob(mine[:-1] + "?")])) as audit:
        assert audit.selected == [worker.pid]
        (tmp_path / "go").write_text("")
        worker.wait()
        opened = [event.path for event in audit.read() if isinstance(event, FileOpen)]
        assert os.fsencode(tmp_path / "child") in opened
