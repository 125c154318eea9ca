"""Pinned audits over each source, and why they are taken over as they are."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest
from cases.lab import BACKENDS, TRAMPOLINES, Lab, touch
from cases.pinning import paths, place

from pylsm.asm import R0, R6, Asm, u64
from pylsm.audit.pinned import PinnedError, relay, remove
from pylsm.audit.session import Audit, UnavailableError
from pylsm.loader import BpfError, LoadedProgram, Object

pytestmark = pytest.mark.vm
assert place  # a fixture


@pytest.mark.parametrize("source", BACKENDS)
def test_every_source_can_be_pinned_and_taken_over(source: str, place: Path, tmp_path: Path) -> None:
    try:
        audit = Audit(source=source, pin=place)
    except UnavailableError as error:
        # Before Linux 5.15 a kprobe has no link, so nothing can keep it.
        assert source == "kprobe" and "that needs 5.15" in str(error)
        assert isinstance(error.reasons["kprobe"], PinnedError) and not place.exists()
        assert tuple(map(int, os.uname().release.split(".")[:2])) < (5, 15)
        return
    audit.close()
    with Audit.adopt(place) as audit:
        assert audit.source.name == source
        assert paths(Lab(audit).run(lambda: touch(tmp_path / "x")).events, tmp_path) == ["x"]
    remove(place)


def program(section: str, verdict: int | None = None) -> LoadedProgram:
    a = Asm(section, name="made")
    a.mov(R6, 1)
    if verdict is None:
        a.mov(R0, 0)
    else:
        from pylsm.asm import R1

        a.ldx(R0, u64[R1 + 8 * verdict])
    a.exit_()
    return LoadedProgram.load(a.build())


@pytest.mark.parametrize(
    ("section", "verdict", "fine"),
    [
        ("lsm/file_open", 1, False),
        ("fentry/security_file_open", None, False),
        ("raw_tp/sys_enter", None, False),
        ("kprobe/security_file_open", None, False),
        ("iter/task", None, True),
    ],
)
def test_which_links_take_another_program(section: str, verdict: int | None, fine: bool) -> None:
    """BPF_LINK_UPDATE is no way to a new version at any hook of ours, on any kernel."""
    if section.startswith(("lsm", "fentry")) and not TRAMPOLINES:
        pytest.skip("this kernel calls no LSM or fentry programs")
    with program(section, verdict) as first, program(section, verdict) as second, first.attach() as link:
        if fine:
            link.update(second)
            assert link.info.program_id == second.info.id
            return
        with pytest.raises(BpfError) as caught:
            link.update(second)
        assert caught.value.errno == errno.EINVAL


def test_an_interfaces_program_is_replaced(tmp_path: Path) -> None:
    number = int(Path("/sys/class/net/lo/ifindex").read_text())
    a = Asm("xdp", name="passes")
    a.mov(R0, 2)
    a.exit_()
    first, second = LoadedProgram.load(a.build()), LoadedProgram.load(a.build())
    with first, second, first.attach(target=number, flags=2) as link:  # XDP_FLAGS_SKB_MODE
        link.update(second, old=first)
        assert link.info.program_id == second.info.id
        with pytest.raises(BpfError, match="EPERM"):
            link.update(second, old=first)  # it is no longer the one that runs


@pytest.mark.skipif(not TRAMPOLINES, reason="this kernel calls no LSM programs")
def test_a_relay_leaves_the_verdict_of_others(place: Path, tmp_path: Path) -> None:
    """What another program denied stays denied, whether the slot is full or empty."""
    (tmp_path / "x").touch()
    denying = Asm("lsm/file_open", name="denies")
    from pylsm.asm import R1

    denying.mov(R6, R1)
    denying.call("get_current_pid_tgid")
    denying.rsh(R0, 32)
    denying.mov(R1, R0)
    denying.mov(R0, 0)
    with denying.if_(R1, "==", os.getpid()):
        denying.mov(R0, -errno.EPERM)
    denying.exit_()
    with Object([relay("lsm/file_open", "file_open", 1)]) as empty:
        with Audit(source="lsm", pin=place):
            pass
        try:
            with LoadedProgram.load(denying.build()) as program_, program_.attach():
                empty.attach()
                # No import, no other file: this process opens nothing now.
                with pytest.raises(PermissionError):
                    os.open(tmp_path / "x", os.O_RDONLY)
            os.close(os.open(tmp_path / "x", os.O_RDONLY))
        finally:
            remove(place)


@pytest.mark.skipif(not TRAMPOLINES, reason="this kernel calls no LSM programs")
def test_bpftool_sees_what_is_pinned(place: Path) -> None:
    with Audit(source="lsm", pin=place):
        pass
    try:
        for entry in place.glob("link-*"):
            done = subprocess.run(["bpftool", "link", "show", "pinned", str(entry)], capture_output=True, check=False)
            assert done.returncode == 0, done.stderr
    finally:
        remove(place)
