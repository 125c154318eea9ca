"""An audit that is pinned goes on without its process, and loses and doubles nothing when another one continues it."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from cases.cli import Opener, Running, pylsm
from cases.lab import CONNECTS_AND_OPENS, EMULATED, Lab, Worker, eventually, sampled, touch
from pylsm.asm import MapSpec, MapType
from pylsm.audit import maps, pinned
from pylsm.audit.events import Event, FileOpen
from pylsm.audit.filters import Filters
from pylsm.audit.pinned import PinnedError, remove
from pylsm.audit.selection import Selection
from pylsm.audit.session import Audit
from pylsm.loader import Map
from pylsm.loader.link import Link

PAGE = os.sysconf("SC_PAGESIZE")


@pytest.fixture
def place() -> Iterator[Path]:
    """Where an audit can be pinned; whatever is left there is a test's failure."""
    path = Path("/sys/fs/bpf") / f"pylsm-test-{uuid.uuid4().hex[:8]}"
    yield path
    if path.exists():
        shutil.rmtree(path)
        raise AssertionError("the directory is still there")


def paths(events: list[Event], below: Path) -> list[str]:
    """Names of the files below a directory that were opened."""
    start = os.fsencode(below) + b"/"
    return [os.fsdecode(e.path[len(start) :]) for e in events if isinstance(e, FileOpen) and e.path.startswith(start)]


def running_programs(place: Path) -> dict[str, bytes]:
    """Hook → id of the program that runs there."""
    found = {}
    for path in place.glob("slot-*"):
        with Map.open_pinned(path) as slot:
            found[path.name] = slot.lookup(bytes(4))
    return found


# --- what was asked for ---------------------------------------------------------------------------------------------


def test_filters_and_selectors_go_on(source: str, place: Path, tmp_path: Path) -> None:
    """In the kernel while nobody is there, and in the process that adopts it."""
    tmp_path.chmod(0o777)
    for parent in tmp_path.parents:
        if not parent.stat().st_mode & 1:
            parent.chmod(parent.stat().st_mode | 0o11)

    def work(name: str) -> None:
        os.setresuid(54321, 54321, 54321)
        for suffix in ("", ".tmp"):
            touch(tmp_path / f"{name}{suffix}")
            touch(tmp_path / f"no-{name}{suffix}")

    def run(name: str) -> None:
        worker = Worker(lambda: work(name))
        worker.release()
        worker.wait()

    rules = Filters(paths=[f"{tmp_path}/*"], not_paths=[f"{tmp_path}/no*", "*.tmp"])
    select = Selection(uids=[54321])
    with Audit(source=source, events=CONNECTS_AND_OPENS, pin=place, select=select, filters=rules) as audit:
        run("one")
        assert paths(audit.read(), tmp_path) == ["one"]
    try:
        run("two")
        with Audit.adopt(place) as audit:
            assert audit.open_ended and audit.filters == rules
            run("three")
            assert paths(audit.read(), tmp_path) == ["two", "three"]
            assert audit.counts().filtered >= 8
            audit.set_filters(rules.removing(not_paths=["*.tmp"]))
            run("four")
            assert paths(audit.read(), tmp_path) == ["four", "four.tmp"]
            touch(tmp_path / "of its own")
            assert audit.read() == []
        with Audit.adopt(place) as audit:
            assert audit.filters == rules.removing(not_paths=["*.tmp"])
    finally:
        remove(place)


def test_more_rules_than_the_state_has_room_for(source: str, place: Path) -> None:
    rules = Filters(not_paths=[f"/a/long/path/to/number/{number}" for number in range(2000)])
    with pytest.raises(PinnedError, match="the rules take"):
        Audit(source=source, events=CONNECTS_AND_OPENS, pin=place, filters=rules)
    assert not place.exists()


# --- going on -----------------------------------------------------------------------------------------------------


def test_killed_and_continued_every_open_is_shown_once(source: str, place: Path, tmp_path: Path) -> None:
    opener = Opener()
    first = Running("attach", "-p", opener.pid, "--backend", source, "--pin", place)
    try:
        opener.open(tmp_path / "before")
        first.signal(signal.SIGKILL)
        first.process.communicate()
        assert not [e for e in place.iterdir() if not stat.S_ISREG(e.stat().st_mode)]
        names = [f"alone-{n}" for n in range(100)]
        opener.open(*(tmp_path / name for name in names))
        second = Running("attach", "--adopt", place)
        opener.open(tmp_path / "after")
        opener.end()
        # The family has ended, and with it the command.
        status, out, err = second.finish()
    finally:
        assert pylsm("detach", place).returncode == 0
    shown = [line.rpartition("/")[2] for line in out.splitlines() if str(tmp_path) in line]
    # "before" may have been read by the process that was killed before it could write it.
    assert [name for name in shown if name != "before"] == [*names, "after"]
    assert status == 0 and "all traced processes have ended" in err and "lost 0" in err
    assert f"pylsm detach {place}" in err


def test_a_family_lives_on_without_a_process(source: str, place: Path, tmp_path: Path) -> None:
    """Children that are born, and processes that die, while nobody is there."""
    hold, release = os.pipe()

    def parent() -> None:
        if not os.fork():
            os.closerange(release + 1, release + 9)  # the worker's pipes: it is waited for, this child is not
            touch(tmp_path / "child")
            os.read(hold, 1)
            touch(tmp_path / "late")
            os._exit(0)

    worker = Worker(parent)
    with Audit(source=source, events=CONNECTS_AND_OPENS, pin=place) as audit:
        audit.trace([worker.pid])
        family = audit.family()
    assert family == {worker.pid}
    worker.release()
    worker.wait()
    with Audit.adopt(place) as audit:
        assert eventually(lambda: len(audit.family()) == 1 and worker.pid not in audit.family())
        assert paths(audit.read(), tmp_path) == ["child"]
        os.write(release, b"x")
        assert eventually(lambda: not audit.family())
        assert paths(audit.read(), tmp_path) == ["late"]
    remove(place)


def test_what_finds_no_room_is_counted(source: str, place: Path, tmp_path: Path) -> None:
    with Audit(source=source, events=CONNECTS_AND_OPENS, pin=place, ring_bytes=PAGE) as audit:
        lab = Lab(audit)
        lab.run(lambda: touch(tmp_path / "x"))
        before = audit.counts()
        worker = Worker(lambda: [touch(tmp_path / f"{n}") for n in range(300)] and None)
        audit.trace([worker.pid])
    worker.release()
    worker.wait()
    with Audit.adopt(place) as audit:
        assert eventually(lambda: not audit.family())
        events = audit.read()
        after = audit.counts()
    remove(place)
    seen = paths(events, tmp_path)
    # The oldest wait, the newest are lost, and every one is counted.
    assert 0 < len(seen) < 300 and seen == [str(n) for n in range(len(seen))]
    assert after.recorded - before.recorded == len(events) == len(seen)
    assert after.lost - before.lost == 300 - len(seen)


# --- taking over ----------------------------------------------------------------------------------------------------


def test_taken_over_under_load_with_every_open_accounted_for(source: str, place: Path, tmp_path: Path) -> None:
    """Processes open file after file while one audit after the other takes over: each is seen once, by one of them."""
    stop = tmp_path / "stop"
    work = tmp_path / "work"
    work.mkdir()

    def opens(number: int) -> Callable[[], int]:
        def until_stopped() -> int:
            count = 0
            os.nice(10)  # it is a load, but who takes over has only so long
            while not stop.exists() and count < 100_000:
                touch(work / f"{number}-{count}")
                count += 1
            return count

        return until_stopped

    workers = [Worker(opens(number)) for number in range(2)]
    seen: list[str] = []
    programs = []
    audit = Audit(source=source, events=CONNECTS_AND_OPENS, pin=place, ring_bytes=16 << 20)
    began = audit.counts()
    audit.trace([worker.pid for worker in workers])
    for worker in workers:
        worker.release()
    for _ in range(2 if EMULATED else 4):
        programs.append(running_programs(place))
        seen += paths(audit.read(), work)
        audit.close()
        audit = Audit.adopt(place)
    programs.append(running_programs(place))
    stop.touch()
    made = [worker.wait() for worker in workers]
    assert eventually(lambda: not audit.family())
    seen += paths(audit.read(), work)
    counts = audit.counts()
    audit.close()
    remove(place)
    # Each hook ran another program each time.
    for hook in programs[0]:
        assert len({running[hook] for running in programs}) == len(programs)
    assert min(made) > 0
    expected = Counter(f"{number}-{n}" for number, count in enumerate(made) for n in range(count))
    found = Counter(seen)
    assert not found - expected
    missing = sum((expected - found).values())
    # On a machine that is slow to take over, the ring can run full.
    assert missing == counts.lost, f"{missing} of {sum(made)} opens are missing, {counts.lost} counted as lost"
    assert counts.recorded - began.recorded >= sum(made)


def test_a_takeover_that_is_killed_anywhere_can_be_repeated(source: str, place: Path, tmp_path: Path) -> None:
    """Killed before any of its steps, it leaves an audit that runs and that the next one continues."""
    worker = Worker(lambda: [_on_command(tmp_path, n) for n in range(40)] and None)
    with Audit(source=source, events=CONNECTS_AND_OPENS, pin=place) as audit:
        audit.trace([worker.pid])
    worker.release()
    seen: list[str] = []
    tried = 0
    try:
        for steps in sampled(30, 4):
            killed = _killed_after(steps, _take_over_and_stop, place)
            (tmp_path / f"go-{tried}").touch()
            assert eventually(lambda number=tried: (tmp_path / f"done-{number}").exists())  # type: ignore[misc]
            tried += 1
            if not killed:
                break
        assert not killed and steps > 6
        with Audit.adopt(place) as audit:
            seen += paths(audit.read(), tmp_path)
            assert audit.counts().lost == 0
            assert len(list(place.glob("table-*"))) == 1
    finally:
        os.kill(worker.pid, signal.SIGKILL)
        os.waitpid(worker.pid, 0)
        remove(place)
    assert [name for name in seen if name.startswith("open")] == [f"open-{n}" for n in range(tried)]


def _on_command(directory: Path, number: int) -> None:
    while not os.access(directory / f"go-{number}", os.F_OK):
        time.sleep(0.005)
    touch(directory / f"open-{number}")
    touch(directory / f"done-{number}")


def _pin(source: str, place: Path) -> None:
    Audit(source=source, events=CONNECTS_AND_OPENS, pin=place).close()


def _take_over_and_stop(place: Path) -> None:
    """Until the new programs run. What comes after reads the ring: what was read dies with its reader."""

    class Stop(Exception):
        pass

    def stop(*_: object) -> None:
        raise Stop

    Audit._self_test = stop  # type: ignore[method-assign]
    with suppress(Stop):
        Audit.adopt(place)


def _killed_after(steps: int, work: Callable[..., object], *arguments: object) -> bool:
    """Do the work in a child that is killed (SIGKILL) before it changes a map, a slot or the directory once more than
    ``steps`` times; whether it was."""
    child = os.fork()
    if not child:
        left = [steps]

        def counted(function: Callable[..., object]) -> Callable[..., object]:
            def call(*arguments: object, **options: object) -> object:
                if not left[0]:
                    os.kill(os.getpid(), signal.SIGKILL)
                left[0] -= 1
                return function(*arguments, **options)

            return call

        try:
            for owner, name in ((Map, "pin"), (Map, "update"), (Link, "pin"), (os, "unlink")):
                setattr(owner, name, counted(getattr(owner, name)))
            work(*arguments)
        except BaseException:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def test_pinning_that_is_killed_anywhere_leaves_what_detach_removes(source: str, place: Path) -> None:
    attached = []
    for steps in sampled(80, 5):
        killed = _killed_after(steps, lambda: Audit(source=source, events=CONNECTS_AND_OPENS, pin=place).close())
        if killed:
            with pytest.raises(PinnedError, match="holds no audit, or one that was never finished"):
                Audit.adopt(place)
        attached.append(sum(entry.startswith("link-") for entry in remove(place)))
        if not killed:
            break
    assert not killed
    assert attached[0] == 0 and attached[-1] == max(attached) >= 4


def test_a_start_that_fails_leaves_no_directory(source: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(*_: object) -> None:
        raise pinned.PinnedError("blind")

    monkeypatch.setattr(Audit, "_self_test", blind)
    with pytest.raises(Exception, match="blind"):
        Audit(source=source, events=CONNECTS_AND_OPENS, pin=place)
    assert not place.exists()


# --- who may ------------------------------------------------------------------------------------------------------


def test_for_root_alone(source: str, place: Path) -> None:
    old = os.umask(0)
    try:
        with Audit(source=source, events=CONNECTS_AND_OPENS, pin=place):
            pass
    finally:
        os.umask(old)
    try:
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
        assert {stat.S_IMODE(entry.stat().st_mode) for entry in place.iterdir()} == {0o600}
        place.chmod(0o770)
        with pytest.raises(PinnedError, match="is not this user's alone"):
            Audit.adopt(place)
    finally:
        remove(place)


def test_one_at_a_time(source: str, place: Path) -> None:
    with Audit(source=source, events=CONNECTS_AND_OPENS, pin=place):
        for refused in (Audit.adopt, remove):
            with pytest.raises(PinnedError, match=f"is in use by process {os.getpid()}"):
                refused(place)
        with pytest.raises(PinnedError, match="exists already"):
            Audit(source=source, events=CONNECTS_AND_OPENS, pin=place)
    remove(place)


def test_places_where_nothing_can_be_pinned(source: str, place: Path, tmp_path: Path) -> None:
    for path, why in (
        (tmp_path / "x", "is not on a BPF filesystem"),
        (tmp_path, "is not on a BPF filesystem"),
        (place / "below", "there is no directory"),
        (place.with_name("with.dot"), "takes no dots"),
    ):
        with pytest.raises(PinnedError, match=why):
            Audit(source=source, events=CONNECTS_AND_OPENS, pin=path)
    done = pylsm("attach", "-p", os.getppid(), "--pin", tmp_path / "x")
    assert done.returncode == 125 and "mount -t bpf bpf /sys/fs/bpf" in done.stderr


# --- directories that are not as they were made ---------------------------------------------------------------------


def test_a_state_that_is_not_ours_to_continue(source: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PinnedError, match="No such file or directory"):
        Audit.adopt(place)
    with Audit(source=source, events=CONNECTS_AND_OPENS, pin=place):
        pass
    try:
        real = pinned.layouts()
        monkeypatch.setattr(pinned, "layouts", lambda: {**real, "pylsm_file_open": "another"})
        with pytest.raises(PinnedError, match=r"whose pylsm_file_open this pylsm .* lays out otherwise"):
            Audit.adopt(place)
        monkeypatch.setattr(pinned, "layouts", lambda: {k: v for k, v in real.items() if k != "pylsm_connect"})
        with pytest.raises(PinnedError, match=r"whose pylsm_connect this pylsm .* does not know"):
            Audit.adopt(place)
        # A version that has more records than the old one can read all of its own.
        monkeypatch.setattr(pinned, "layouts", lambda: {**real, "pylsm_new": "x"})
        with Audit.adopt(place) as audit:
            assert audit.family() == set()
        monkeypatch.undo()
        with pytest.raises(PinnedError, match=r"pylsm_new this pylsm .* does not know"):
            Audit.adopt(place)
        with Map.open_pinned(place / "state") as state:
            for text in (b"", b"{", b"[]", b'{"version": 1}', b"\xff" * 16_384):
                state.update(bytes(4), text.ljust(16_384, b"\0"))
                with pytest.raises(PinnedError, match="state is not what pylsm writes"):
                    Audit.adopt(place)
        (place / f"map-{maps.RING.name}").unlink()
        with pytest.raises(PinnedError, match="state is not what pylsm writes"):
            Audit.adopt(place)
    finally:
        remove(place)


def test_a_ring_that_is_gone_is_named(source: str, place: Path) -> None:
    with Audit(source=source, events=CONNECTS_AND_OPENS, pin=place):
        pass
    (place / f"map-{maps.RING.name}").unlink()
    with pytest.raises(PinnedError, match="is incomplete: map-pylsm_ring is missing"):
        Audit.adopt(place)
    remove(place)


def test_links_that_are_gone_are_attached_again(source: str, place: Path, tmp_path: Path) -> None:
    with Audit(source=source, events=CONNECTS_AND_OPENS, pin=place):
        pass
    gone = sorted(place.glob("link-*")) + sorted(place.glob("slot-*"))[:1]
    for path in gone:
        path.unlink()
    with Audit.adopt(place) as audit:
        assert paths(Lab(audit).run(lambda: touch(tmp_path / "x")).events, tmp_path) == ["x"]
        assert all(path.exists() for path in gone)
    remove(place)


def test_detach_takes_what_is_ours_and_names_what_is_not(source: str, place: Path) -> None:
    with Audit(source=source, events=CONNECTS_AND_OPENS, pin=place):
        pass
    for path in sorted(place.iterdir())[::2]:
        path.unlink()
    with Map.create(MapSpec("theirs", MapType.ARRAY, key=4, value=4, max_entries=1)) as theirs:
        theirs.pin(place / "theirs")
        theirs.pin(place / "map-pylsm_ring2")
        theirs.pin(place / "link-file_open2")
    (place / "directory").mkdir()
    done = pylsm("detach", place)
    assert done.returncode == 125
    assert "holds what is not pylsm's: directory, link-file_open2, map-pylsm_ring2, theirs" in _sorted(done.stderr)
    assert {e.name for e in place.iterdir()} == {"theirs", "map-pylsm_ring2", "link-file_open2", "directory"}
    for name in ("theirs", "map-pylsm_ring2", "link-file_open2"):
        (place / name).unlink()
    (place / "directory").rmdir()
    assert pylsm("detach", place).returncode == 0
    assert not place.exists()
    again = pylsm("detach", place)
    assert again.returncode == 125 and "No such file or directory" in again.stderr


def _sorted(text: str) -> str:
    before, middle, after = text.partition("pylsm's: ")
    names, end, rest = after.partition(";")
    return before + middle + ", ".join(sorted(names.split(", "))) + end + rest


def test_detach_of_a_directory_that_is_no_audit(tmp_path: Path, place: Path) -> None:
    done = pylsm("detach", tmp_path)
    assert done.returncode == 125 and "is not on a BPF filesystem" in done.stderr
    (tmp_path / "file").touch()
    assert "Not a directory" in pylsm("detach", tmp_path / "file").stderr


def test_nothing_is_attached_after_detach(source: str, place: Path) -> None:
    before = _links()
    with Audit(source=source, events=CONNECTS_AND_OPENS, pin=place):
        pass
    assert len(_links()) >= len(before) + 4
    remove(place)
    assert _links() == before


def _links() -> set[str]:
    done = subprocess.run(["bpftool", "link", "show"], capture_output=True, text=True, check=True)
    return {line.partition(":")[0] for line in done.stdout.splitlines() if line[:1].isdigit()}
