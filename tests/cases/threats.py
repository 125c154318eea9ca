"""What docs/threat-model.md says of attackers, tried: what each can do to an audit, and cannot."""

from __future__ import annotations

import errno
import json
import os
import re
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from cases.cli import Opener, Running, nothing_left, pylsm
from cases.lab import CONNECTS_AND_OPENS, Lab, checked, eventually, libc, look, mount, touch
from pylsm.audit import maps
from pylsm.audit.records import SEEN_SET, SETTINGS
from pylsm.audit.session import Audit
from pylsm.audit.targets import descendants
from pylsm.confine.restrict import Needs, restrict
from pylsm.loader.attr import Cmd, IdAttr, LinkFdAttr
from pylsm.loader.bpf import bpf_errno
from pylsm.loader.errors import BpfError
from pylsm.loader.maps import Map

NOBODY = 65534
WORD = 1 << 64


# --- the fingerprints of opens that were recorded (pylsm/audit/programs/seen.py) -------------------------------------


def factor(key: int) -> int:
    """What fingerprints are multiplied by: odd, so that it can be undone by who knows it."""
    return key ^ (0x9E3779B1 - (1 << 32)) % WORD


def before_the_mode(fingerprint: int, mode: int, by: int) -> int:
    """The number that process, device and inode gave, of which the mode made this fingerprint."""
    mixed = (fingerprint - mode) * pow(by, -1, WORD) % WORD
    return mixed ^ mixed >> 32


def opens_differ_by(found: os.stat_result, other: os.stat_result) -> tuple[int, int]:
    """(device, inode) of the second less those of the first, as the kernel numbers them (MKDEV)."""
    numbers = [((os.major(s.st_dev) << 20 | os.minor(s.st_dev)), s.st_ino) for s in (found, other)]
    return numbers[1][0] - numbers[0][0], numbers[1][1] - numbers[0][1]


def aimed(device: int, inode: int) -> int | None:
    """The factor by which two opens that differ so have one fingerprint, if there is an odd one."""
    shift = (device & -device).bit_length() - 1
    if device == 0 or inode % (1 << shift) or not inode >> shift & 1:
        return None
    return -(inode >> shift) * pow(device >> shift, -1, WORD) % WORD


@pytest.fixture
def audit(source: str) -> Iterator[Audit]:
    with Audit(source=source, events=CONNECTS_AND_OPENS) as running:
        yield running


def settings(audit: Audit) -> Map:
    return audit._object.maps[maps.SET.name]


def secret(audit: Audit) -> int:
    return int(SETTINGS.unpacker.unpack(settings(audit).lookup(bytes(4)))[2])


def remembered(audit: Audit) -> set[int]:
    table = audit._object.maps[maps.SEEN.name]
    found: set[int] = set()
    for each in SEEN_SET.unpacker.iter_unpack(table.lookup(bytes(4)) or b""):
        found.update(each)
    return found - {0}


def test_the_secret_is_another_one_in_each_audit(source: str) -> None:
    keys = []
    for _ in range(3):
        with Audit(source=source, events=CONNECTS_AND_OPENS) as audit:
            keys.append(secret(audit))
    assert len(set(keys)) == 3
    assert all(key % 2 == 0 and key >> 32 for key in keys)


def test_fingerprints_are_what_is_said_of_them(audit: Audit, tmp_path: Path) -> None:
    """Two opens of one process: taken back by the secret, their fingerprints differ as the files do."""
    for name in ("one", "other"):
        touch(tmp_path / name)
    before = remembered(audit)
    assert len(Lab(audit).run(lambda: [look(tmp_path / name) for name in ("one", "other")]).opens(tmp_path)) == 2
    first, second = (before_the_mode(found, 1, factor(secret(audit))) for found in remembered(audit) - before)
    _, inode = opens_differ_by(*(os.stat(tmp_path / name) for name in ("one", "other")))
    assert (second - first) % WORD in (inode % WORD, -inode % WORD)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[str, str, int]]:
    """Two files on two devices, and the factor by which a process's opens of both have one fingerprint."""
    other = tmp_path / "other"
    other.mkdir()
    mount("tmpfs", "none", str(other))
    try:
        target = tmp_path / "target"
        touch(target)
        for number in range(4096):
            decoy = other / str(number)
            touch(decoy)
            by = aimed(*opens_differ_by(os.stat(decoy), os.stat(target)))
            if by is not None:
                break
        assert by is not None, "no such pair of inodes"
        yield str(decoy), str(target), by
    finally:
        checked(libc.umount2(os.fsencode(other), 0))


@pytest.mark.parametrize("known", [True, False], ids=["by who knows it", "by nobody"])
def test_a_collision_is_aimed(audit: Audit, pair: tuple[str, str, int], known: bool) -> None:
    """Files chosen for one secret are taken for one under it: what follows the decoy is not recorded. Under the audit's
    own, both are."""
    decoy, target, by = pair
    if known:
        marked, reserved, _ = SETTINGS.unpacker.unpack(settings(audit).lookup(bytes(4)))
        settings(audit).update(bytes(4), SETTINGS.unpacker.pack(marked, reserved, factor(by)))
    outcome = Lab(audit).run(lambda: (look(decoy), look(target)))
    seen = [os.fsdecode(event.path) for event in outcome.opens()]
    assert [path for path in seen if path in (decoy, target)] == [decoy, target][: 1 if known else 2]
    assert outcome.counts.deduplicated == (1 if known else 0)


def test_how_much_of_the_secret_is_to_be_guessed() -> None:
    """Of two devices whose numbers differ by 2ⁿ times an odd number, all but n bits: devices that a user can mount are
    numbered below 2²⁰."""
    device, inode = 3 << 19, 5 << 19
    by = aimed(device, inode)
    assert by is not None
    for bit in range(1, 64):
        other = by ^ 1 << bit
        collides = (device * other + inode) % WORD == 0
        assert collides == (bit >= 64 - 19)


def test_the_secret_is_not_for_others(audit: Audit) -> None:
    """By its number, through /proc, from memory: another user gets at it by none."""
    number, ours = settings(audit).info.id, os.getpid()

    def attempt() -> list[str]:
        os.setgroups([])
        os.setresuid(NOBODY, NOBODY, NOBODY)
        attr = IdAttr()
        attr.id = number
        said = [errno.errorcode.get(-bpf_errno(Cmd.MAP_GET_FD_BY_ID, attr), "done")]
        for path in (f"/proc/{ours}/fd", f"/proc/{ours}/mem", f"/proc/{ours}/environ"):
            try:
                os.listdir(path) if path.endswith("fd") else look(path)
                said.append("done")
            except OSError as error:
                said.append(errno.errorcode[error.errno or 0])
        return said

    assert Lab(audit).run(attempt, traced=False).result == ["EPERM", "EACCES", "EACCES", "EACCES"]


# --- a traced program, and who works for it --------------------------------------------------------------------------


def test_what_another_process_does_for_it(audit: Audit, tmp_path: Path) -> None:
    """A process of no traced family, asked by a traced one: not seen. By design; docs/threat-model.md says so."""
    with Opener() as servant:
        outcome = Lab(audit).run(lambda: servant.open(tmp_path / "by the servant"))
        assert (tmp_path / "by the servant").exists()
        assert outcome.opens(tmp_path) == []


# --- who takes over pylsm --------------------------------------------------------------------------------------------


def test_what_a_taken_over_pylsm_can_do(audit: Audit, tmp_path: Path) -> None:
    """Confined, its maps and its output are open all the same: it can forget the family, and write what it likes."""

    output = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT, 0o600)

    def works() -> bool:  # before Linux 5.19, and where a sysctl says so, not without CAP_BPF
        try:
            return bool(settings(audit).lookup(bytes(4)))
        except BpfError:
            return False

    def taken_over() -> int:
        restrict(Needs(signals=True), works)
        settings(audit).update(bytes(4), bytes(SETTINGS.size))
        os.kill(os.getppid(), 0)
        return os.write(output, b"[LSM] open pid=1 comm=init mode=r path=/never\n")

    assert Lab(audit).run(taken_over, traced=False).result > 0
    assert secret(audit) == 0
    assert "/never" in (tmp_path / "log").read_text()
    os.close(output)


# --- root ------------------------------------------------------------------------------------------------------------


def held_objects(pid: int, kind: str) -> list[int]:
    """Ids of the BPF objects that a process has open."""
    infos = [path.read_text() for path in Path(f"/proc/{pid}/fdinfo").iterdir()]
    return sorted({int(number) for info in infos for number in re.findall(rf"{kind}_id:\s+(\d+)", info)})


def beats(log: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [line for line in lines if line["event"] == "heartbeat"]


def test_links_are_not_detached_by_their_numbers(tmp_path: Path) -> None:
    """`bpftool link detach`: the kernel does not do it for the kinds that pylsm uses, not for root either."""
    with nothing_left(), Opener() as opener:
        running = Running("attach", "-p", opener.pid, "-o", tmp_path / "log")
        links = held_objects(running.pid, "link")
        for number in links:
            attr = IdAttr()
            attr.id = number
            fd = bpf_errno(Cmd.LINK_GET_FD_BY_ID, attr)
            assert fd >= 0
            assert bpf_errno(Cmd.LINK_DETACH, LinkFdAttr(link_fd=fd)) in (-errno.EOPNOTSUPP, -errno.EINVAL)
            os.close(fd)
        opener.open(tmp_path / "afterwards")
        opener.end()
        assert running.finish()[0] == 0
        assert "/afterwards" in (tmp_path / "log").read_text()


def forget_marks(opened: dict[str, Map], pids: set[int]) -> None:
    """Take the marks by which the programs know processes, where there are any."""
    settings = opened[maps.SET.name]
    _, reserved, key = SETTINGS.unpacker.unpack(settings.lookup(bytes(4)))
    settings.update(bytes(4), SETTINGS.unpacker.pack(0, reserved, key))
    for pid in pids if maps.MARKS.name in opened else ():
        with suppress(ProcessLookupError):
            pidfd = os.pidfd_open(pid)
            opened[maps.MARKS.name].delete(struct.pack("=i", pidfd))
            os.close(pidfd)


def test_root_makes_the_programs_blind(tmp_path: Path) -> None:
    """It takes the marks and empties the map by which they find the family: the log stays whole for `verify-log`; that
    counts stand still while the family lives is all there is to see."""
    log = tmp_path / "log"
    loop = f"while [ ! -e {tmp_path}/end ]; do n=$((n+1)); : >{tmp_path}/$n; sleep 0.02; done"
    running = Running("run", "--format", "json", "--heartbeat", "0.1", "-o", log, "--", "sh", "-c", loop)
    assert eventually(lambda: len(beats(log)) > 2 and beats(log)[-1]["recorded"] > 9)
    opened = {found.info.name: found for found in map(Map.from_id, held_objects(running.pid, "map"))}
    for _ in range(3):  # a child that is being born has a mark, or a place, of its own
        forget_marks(opened, descendants([running.pid]) - {running.pid})
        family = opened[maps.TRACED.name[:15]]
        for key in list(family.keys()):
            family.delete(key)
    for each in opened.values():
        each.close()

    def stand_still() -> bool:
        latest = [beat["recorded"] for beat in beats(log)[-6:]]
        return len(latest) == 6 and len(set(latest)) == 1

    assert eventually(stand_still)
    made = len(os.listdir(tmp_path))
    assert eventually(lambda: len(os.listdir(tmp_path)) > made), "the family lives"
    (tmp_path / "end").touch()
    assert running.finish()[0] == 0
    assert pylsm("verify-log", log).returncode == 0


def test_a_log_is_rewritten(tmp_path: Path) -> None:
    """A path in a line, or an event with its number and all that was counted of it: nobody can tell from the file."""
    log = tmp_path / "log"
    recorded = pylsm("run", "-q", "--format", "json", "--heartbeat", "9", "-o", log, "--", "cat", "/etc/hostname")
    assert recorded.returncode == 0
    lines = log.read_bytes().splitlines(keepends=True)
    index = next(index for index, line in enumerate(lines) if b"/etc/hostname" in line)
    lines[index] = lines[index].replace(b"/etc/hostname", b"/etc/nothing")
    log.write_bytes(b"".join(lines))
    assert pylsm("verify-log", log).returncode == 0
    taken = json.loads(lines.pop(index))
    written = []
    for line in map(json.loads, lines):
        if line["event"] == "heartbeat" and line["final"]:
            line["events"] -= 1
            line["recorded"] -= 1
            line["next"][taken["cpu"]] -= 1
        elif line["event"] != "heartbeat" and (line["cpu"], line["sequence"]) > (taken["cpu"], taken["sequence"]):
            line["sequence"] -= line["cpu"] == taken["cpu"]
        written.append(json.dumps(line) + "\n")
    log.write_text("".join(written))
    assert pylsm("verify-log", log).returncode == 0
