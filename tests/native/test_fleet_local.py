"""Delivery without an engine: files, the store and its search; kills at any moment; bad input; a full disk."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cases.cli import PYLSM, Running, pylsm
from cases.fleet import Spool, finish, kill
from cases.lab import checked, eventually, libc
from jsonschema import Draft202012Validator

from pylsm.audit.targets import descendants
from pylsm.output.schema import schema

pytestmark = pytest.mark.root

_CONNECTS = "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
SCHEMA = Draft202012Validator(schema(strict=True))
#: An event each time, for as long as it is let, or so often.
BUSY = (sys.executable, "-c", _CONNECTS + "while True: s.connect(('127.0.0.1', 9))")
TWELVE_THOUSAND = (sys.executable, "-c", _CONNECTS + "for n in range(12_000): s.connect(('127.0.0.1', 9))")


@pytest.fixture
def tiny(place: Path) -> Iterator[Path]:
    """A disk of two megabytes."""
    disk = place / "disk"
    disk.mkdir()
    checked(libc.mount(b"none", os.fsencode(disk), b"tmpfs", 0, b"size=2m,mode=755"))
    yield disk
    checked(libc.umount2(os.fsencode(disk), 2))


def objects(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def accounted(delivered: list[dict[str, Any]]) -> int:
    """Every number of the spool is that of an event, or in a loss that is told; how many are lost."""
    for event in delivered[:100] + delivered[-100:] + [event for event in delivered if event["event"] == "spool_lost"]:
        SCHEMA.validate(event)
    following, lost = 1, 0
    for event in delivered:
        first, *last = map(int, event["id"].split("-")[1:])
        assert first == following
        following = (last[0] if last else first) + 1
        if event["event"] == "spool_lost":
            assert (event["first"], event["last"]) == (first, following - 1)
            lost += event["count"]
    return lost


def test_run_delivers_what_it_records(place: Path) -> None:
    out, store = place / "out.jsonl", place / "store/events.db"
    urls = ("--sink", f"file://{out}", "--sink", f"sqlite://{store}")
    ran = pylsm("run", "-q", "--format=json", "--spool", place / "spool", *urls, "--", "cat", "/etc/hostname")
    assert ran.returncode == 0, ran.stderr
    delivered = objects(out)
    events = [event for event in delivered if event["event"] != "heartbeat"]
    shown = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("{")]
    assert [{k: v for k, v in e.items() if k not in ("id", "host", "host_name")} for e in events] == shown
    assert delivered[-1]["event"] == "heartbeat"
    assert delivered[-1]["final"]
    assert accounted(delivered) == 0
    found = pylsm("query", "--db", store, "--path", "/etc/host*", "--comm", "cat", "--format", "json")
    assert found.returncode == 0, found.stderr
    wanted = [event for event in events if event.get("path", "").startswith("/etc/host") and event["comm"] == "cat"]
    assert wanted
    assert [json.loads(line) for line in found.stdout.splitlines()] == wanted


def test_what_delivers_has_no_privileges(place: Path) -> None:
    options = ("-q", "-o", "/dev/null", "--spool", place / "spool", "--sink", f"file://{place}/out")
    running = subprocess.Popen([*PYLSM, "run", *map(str, options), "--", *BUSY], stderr=subprocess.PIPE, text=True)
    try:
        assert eventually(lambda: (place / "out").exists() and (place / "out").stat().st_size)
        couriers = [pid for pid in descendants([running.pid]) if b"--for-audit" in _read(pid, "cmdline")]
        assert len(couriers) == 2
        for pid in couriers:
            status = dict(line.split(":\t", 1) for line in _read(pid, "status").decode().splitlines())
            assert "0" not in status["Uid"].split()
            assert "0" not in status["Gid"].split()
            assert status["Groups"].strip() == ""
            assert int(status["CapPrm"], 16) == 0
            assert status["NoNewPrivs"] == "1"
        assert {_status(pid, "Seccomp") for pid in couriers} == {"0", "2"}  # the one that imports libraries
    finally:
        running.send_signal(signal.SIGTERM)
        _, err = running.communicate(timeout=60)
    assert "Traceback" not in err


def test_a_root_that_may_not_change_its_user_delivers_itself(place: Path) -> None:
    """As in a systemd unit."""
    bounded = ("setpriv", "--bounding-set", "-setuid,-setgid,-chown", "--no-new-privs")
    options = ("-q", "-o", "/dev/null", "--spool", place / "spool", "--sink", f"file://{place}/out")
    ran = subprocess.run([*bounded, *PYLSM, "run", *map(str, options), "--", "true"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert objects(place / "out")[-1]["final"]
    assert (place / "spool").stat().st_mode & 0o777 == 0o700
    named = [*bounded, *PYLSM, "run", *map(str, options), "--sink-user", "nobody", "--", "true"]
    refused = subprocess.run(named, capture_output=True, text=True)
    assert refused.returncode == 125
    assert "this root cannot deliver as nobody" in refused.stderr


def _read(pid: int, name: str) -> bytes:
    return Path(f"/proc/{pid}/{name}").read_bytes()


def _status(pid: int, name: str) -> str:
    return dict(line.split(":\t", 1) for line in _read(pid, "status").decode().splitlines())[name]


def test_killed_at_any_moment(place: Path) -> None:
    """The audit, what delivers and what watches over that, in any order: all that was written arrives, in order."""
    out, spool = place / "out.jsonl", place / "spool"
    options = ("-q", "-o", "/dev/null", "--spool", spool, "--sink", f"file://{out}")
    dice = random.Random(7)
    for turn in range(4):
        before = out.stat().st_size if out.exists() else 0
        running = subprocess.Popen([*PYLSM, "run", *map(str, options), "--", *BUSY], stderr=subprocess.DEVNULL)
        assert eventually(lambda before=before: out.exists() and out.stat().st_size > before)  # type: ignore[misc]
        time.sleep(dice.uniform(0, 0.5))
        victims = sorted(descendants([running.pid]), key=lambda _: dice.random())
        for pid in victims if turn % 2 else [running.pid, *victims]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            time.sleep(dice.uniform(0, 0.05))
        if running.poll() is None:
            running.kill()
        running.wait()
    written = _newest(spool)
    finish(subprocess.Popen(_ship(spool, f"file://{out}"), stderr=subprocess.PIPE, text=True))
    delivered = objects(out)
    # Of a write that a kill has cut short, one record can be torn. It is counted.
    assert accounted(delivered) <= 4
    assert int(delivered[-1]["id"].split("-")[-1]) == written


def _newest(spool: Path) -> int:
    from pylsm.ship.spool import Reader

    reader, number = Reader(str(spool)), 0
    while items := reader.read(10_000):
        number = items[-1].last
    return number


def _ship(spool: Path, *urls: str) -> list[str]:
    sinks = [part for url in urls for part in ("--sink", url)]
    return [*PYLSM, "ship", "--spool", str(spool), *sinks, "--until-empty"]


def test_what_delivers_is_started_again(place: Path) -> None:
    out, spool = place / "out.jsonl", place / "spool"
    options = ("-q", "-o", "/dev/null", "--spool", str(spool), "--sink", f"file://{out}")
    running = subprocess.Popen([*PYLSM, "run", *options, "--", *BUSY], stderr=subprocess.PIPE, text=True)
    for _ in range(3):
        size = out.stat().st_size if out.exists() else 0
        assert eventually(lambda size=size: out.exists() and out.stat().st_size > size)  # type: ignore[misc]
        workers = [pid for pid in descendants([running.pid]) if b"--for-audit" in _read(pid, "cmdline")]
        os.kill(max(workers), signal.SIGKILL)
    running.send_signal(signal.SIGTERM)
    _, err = running.communicate(timeout=60)
    assert "what delivers died (signal 9): it is started again" in err
    assert "Traceback" not in err
    assert accounted(objects(out)) == 0
    assert objects(out)[-1]["final"]


def test_a_sink_that_is_down_delays_nobody(place: Path) -> None:
    """The events stay in the spool, and arrive with the next audit."""
    spool = place / "spool"
    down = f"sqlite://{place}/closed/events.db"
    (place / "closed").mkdir(mode=0o700)
    options = ("-q", "--spool", spool, "--drain", "0.5", "--sink", down)
    first = pylsm("run", *options, "--", "cat", "/etc/hostname")
    assert first.returncode == 0
    assert "closed is not writable for uid" in first.stderr
    assert f"they stay in {spool}" in first.stderr
    (place / "closed").chmod(0o777)
    second = pylsm("run", *options, "--", "cat", "/etc/passwd")
    assert second.returncode == 0
    assert "not delivered" not in second.stderr
    found = pylsm("query", "--db", f"{place}/closed/events.db", "--path", "/etc/*")
    assert "path=/etc/hostname" in found.stdout
    assert "path=/etc/passwd" in found.stdout


def test_many_events_to_a_file_and_a_store(place: Path) -> None:
    spool = Spool(place / "spool")
    out, store = place / "out.jsonl", place / "store/events.db"
    urls = (f"file://{out}", f"sqlite://{store}")
    process = spool.ship(*urls)
    spool.until(0.3, process)
    kill(process)
    finish(spool.ship(*urls))
    spool.check(out.read_text().splitlines())
    assert len(out.read_text().splitlines()) == spool.count  # each once
    assert pylsm("query", "--db", store, "--count").stdout == f"{spool.count}\n"
    # ---- search ----
    spool.check(pylsm("query", "--db", store, "--format", "json").stdout.splitlines())
    nets = [("192.0.2.0/24", 10_000), ("192.0.2.7", 10_000), ("192.0.3.0/24", 0), ("2001:db8::/32", 0)]
    for network, count in nets:
        assert pylsm("query", "--db", store, "--cidr", network, "--count").stdout == f"{count}\n"
    assert pylsm("query", "--db", store, "--pid", "1001", "--count").stdout == "2000\n"
    # Records of the library are made with a clock of 0: Unix time is what they say, 10**18 + n.
    since = pylsm("query", "--db", store, "--since", "2001-09-09T01:46:40.000090Z", "--limit", "3")
    assert [line.split()[0] for line in since.stdout.splitlines()] == ["2001-09-09T01:46:40.000099Z"] * 3
    one = pylsm("query", "--db", store, "--path", '/srv/data/11/*"x"*', "--event", "open")
    assert one.stdout.endswith(' [LSM] open pid=1011 comm=worker mode=r path=/srv/data/11/\ufffd "x"\\\\\\x0a\n')
    assert pylsm("query", "--db", store, "--path", "/nothing/*").returncode == 1


def test_the_store_keeps_to_its_bounds(place: Path) -> None:
    spool = Spool(place / "spool", 30_000)
    store = place / "store/events.db"
    finish(spool.ship(f"sqlite://{store}?max_size=4M"))
    spool.add(30_000)
    finish(spool.ship(f"sqlite://{store}?max_size=4M"))
    assert store.stat().st_size < 40 << 20
    # All of these events are of 2001.
    spool.add(10)
    finish(spool.ship(f"sqlite://{store}?max_age=30d"))
    assert pylsm("query", "--db", store, "--count").stdout == "0\n"
    assert store.stat().st_size < 1 << 20


# ---- bounds of the spool ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["drop-oldest", "drop-newest", "block"])
def test_a_full_spool(place: Path, policy: str) -> None:
    """The command goes on, whatever the policy; what is lost is counted where it was lost."""
    spool, out = place / "spool", place / "out"
    # Nobody delivers, and 40 % of what is opened fits the spool.
    # Who blocks needs a ring that is soon full; who does not, one that never is.
    ring = "64K" if policy == "block" else "16M"
    options = ("--spool", spool, "--spool-size", "1M", "--spool-policy", policy, "--ring-size", ring)
    ran = pylsm("run", *options, "-o", "/dev/null", "--", *TWELVE_THOUSAND)
    assert ran.returncode == 0, ran.stderr
    assert sum(file.stat().st_size for file in spool.glob("*.seg")) <= (1 << 20) + (128 << 10)
    finish(subprocess.Popen(_ship(spool, f"file://{out}"), stderr=subprocess.PIPE, text=True))
    delivered = objects(out)
    beats = [event for event in delivered if event["event"] == "heartbeat"]
    told = [event for event in delivered if event["event"] == "spool_lost"]
    if policy == "block":
        assert not told
        assert beats[-1]["final"]
        assert beats[-1]["lost"] > 0, "the ring has room for less than was blocked"
        events = len(delivered) - len(beats)
        assert events == beats[-1]["recorded"]
        return
    if policy == "drop-newest":
        assert {event["reason"] for event in told} == {"dropped-newest"}
        assert accounted(delivered) > 0
        assert "events found no room in the spool" in ran.stderr
    else:
        first = int(delivered[0]["id"].split("-")[1])
        assert first > 1, "what this sink has never seen is no loss of its own"
        assert beats[-1]["final"]


def test_a_full_disk(tiny: Path, place: Path) -> None:
    """The spool's disk has no room for what it may have: dropped and counted, no crash, and later it goes on."""
    spool, out = tiny / "spool", place / "out"
    options = ("--spool", spool, "--spool-policy", "drop-newest", "-o", "/dev/null")
    ran = pylsm("run", *options, "--", *TWELVE_THOUSAND)
    assert ran.returncode == 0, ran.stderr
    assert "events found no room in the spool" in ran.stderr
    urls = (f"file://{out}", f"file://{tiny}/no-room-for-this")
    process = subprocess.Popen(_ship(spool, *urls), stderr=subprocess.PIPE, text=True)
    time.sleep(3)
    process.terminate()
    err = finish(process, 1)
    assert "No space left on device" in err
    assert "they stay in" in err
    with open(tiny / "no-room-for-this", "rb") as file:
        assert all(line.endswith(b"\n") for line in file)
    finish(subprocess.Popen(_ship(spool, urls[0]), stderr=subprocess.PIPE, text=True))
    delivered = objects(out)
    assert len({event["id"] for event in delivered}) == len(delivered)
    again = pylsm("run", *options, "--sink", urls[0], "--", "cat", "/etc/hostname")
    assert again.returncode == 0, again.stderr
    assert accounted(objects(out)) > 0
    assert objects(out)[-1]["final"]


# ---- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "error", "hint"),
    [
        ("natz://127.0.0.1", "unknown scheme 'natz'", "did you mean nats://…?"),
        ("nothing", "unknown scheme 'nothing'", "known are otlp+http://"),
        ("syslog+tcp://", "it names no host", "syslog+tcp://127.0.0.1:514"),
        ("syslog+tcp://h:99999", "it is no URL: Port out of range", ""),
        ("syslog+tcp://h?facilty=x", "'facilty' is no option of syslog+tcp", "facility"),
        ("syslog+tcp://h?facility=x", "facility='x': not one of kern", "facility of the messages"),
        ("syslog+tls://h?ca=/none.pem", "ca='/none.pem': No such file", "certificates to trust"),
        ("syslog+tls://h?ca=/etc/hostname", "not a file in PEM", ""),
        ("sqlite://host/file", "it names no file", "sqlite:///var/lib"),
        ("sqlite:///x/y?max_size=much", "max_size='much': not a size", ""),
        ("file:///nowhere/x", "cannot write there: No such file", "directory that exists"),
    ],
)
def test_urls_that_name_no_sink(place: Path, url: str, error: str, hint: str) -> None:
    ran = pylsm("run", "-q", "--spool", place / "spool", "--sink", url, "--", "true")
    assert ran.returncode == 125
    assert error in ran.stderr
    assert hint in ran.stderr


def test_passwords_are_not_shown(place: Path) -> None:
    ran = pylsm("run", "--sink", "natz://me:secret@127.0.0.1", "--", "true")
    assert "secret" not in ran.stderr
    assert "natz://me:***@127.0.0.1" in ran.stderr


def test_a_spool_in_use_or_in_the_wrong_hands(place: Path) -> None:
    spool = place / "spool"
    running = Running("attach", "-p", os.getpid(), "-o", "/dev/null", "--spool", spool)
    second = pylsm("run", "--spool", spool, "--", "true")
    assert second.returncode == 125
    assert "in use by another pylsm" in second.stderr
    running.finish(signal.SIGINT)
    spool.chmod(0o777)
    assert "can be written to by anybody" in pylsm("run", "--spool", spool, "--", "true").stderr
    os.chown(spool, 12345, -1)
    assert "belongs to uid 12345" in pylsm("run", "--spool", spool, "--", "true").stderr
    assert "there is no spool" in pylsm("ship", "--spool", place / "none", "--sink", "file:///tmp/x").stderr


def test_a_corrupt_segment_costs_what_it_held(place: Path) -> None:
    spool = Spool(place / "spool", 1000)
    segment = next(Path(spool.directory).glob("*.seg"))
    content = bytearray(segment.read_bytes())
    content[5000:5600] = os.urandom(600)
    segment.write_bytes(content)
    out = place / "out"
    err = finish(spool.ship(f"file://{out}"))
    delivered = objects(out)
    lost = accounted(delivered)
    assert 1 <= lost <= 5
    assert f"warning: {lost} events were lost before they reached" in err
    assert [event["reason"] for event in delivered if event["event"] == "spool_lost"] == ["corrupt"]


def test_query_says_what_is_wrong(place: Path) -> None:
    other = place / "other"
    other.write_text("no database\n" * 100)
    assert "cannot search" in pylsm("query", "--db", other).stderr
    assert pylsm("query", "--db", place / "none").returncode == 125
    assert "neither an address nor a network" in pylsm("query", "--db", other, "--cidr", "10.0.0.0/40").stderr
    assert "is no time" in pylsm("query", "--db", other, "--since", "yesterday").stderr
