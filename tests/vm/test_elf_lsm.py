"""An LSM probe in C, loaded by pylsm without libbpf, beside the same object under bpftool."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from cases.lab import TRAMPOLINES

from pylsm.audit.proof import require_observe_only, verdict_argument
from pylsm.loader import LoadedProgram, Object, RingBuffer
from pylsm.loader.readback import prove_loaded

pytestmark = pytest.mark.vm

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "elf"
PROBE = FIXTURES / "lsm.bpf.o"
_RECORD = struct.Struct("=IIQII16s64s")


@pytest.mark.skipif(not TRAMPOLINES, reason="this kernel calls no LSM programs")
def test_the_probe_sees_what_it_should() -> None:
    with Object.open(PROBE).load() as probe:
        probe.attach()
        probe.maps["traced"].update(struct.pack("=I", os.getpid()), bytes(4))
        os.close(os.open("/etc/hostname", os.O_RDONLY))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram, suppress(OSError):
            datagram.connect(("127.0.0.1", 9))
        probe.maps["traced"].delete(struct.pack("=I", os.getpid()))
        records: list[tuple[int, ...]] = []
        with RingBuffer(probe.maps["ring"]) as ring:
            ring.drain(lambda record: records.append(_RECORD.unpack(record)))
    opens = [r for r in records if r[0] == 2 and r[6].rstrip(b"\0") == b"hostname"]  # type: ignore[attr-defined]
    assert len(opens) == 1 and opens[0][1] == os.getpid() and opens[0][2] == os.stat("/etc/hostname").st_ino
    assert [r[4] for r in records if r[0] == 1] == [socket.AF_INET]


def test_the_kernel_has_the_same_of_both_loaders() -> None:
    if shutil.which("bpftool") is None:
        pytest.skip("bpftool is not in the machine")
    pins = Path("/sys/fs/bpf/pylsm-test-elf")
    done = subprocess.run(
        ["bpftool", "prog", "loadall", str(PROBE), str(pins)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    try:
        with Object.open(PROBE).load() as probe:
            for name, program in probe.programs.items():
                with LoadedProgram.open_pinned(pins / name) as theirs:
                    assert program.info.tag == theirs.info.tag
    finally:
        shutil.rmtree(pins)


def test_a_probe_in_c_is_proved_too() -> None:
    opened = Object.open(PROBE)
    for name in opened.programs:
        (proof,) = require_observe_only([opened.program(name)])
        assert proof.verdict == {"on_open": 1, "on_connect": 3}[name]
        assert "lsm.bpf.c" in str(proof)
    # And read back, with its functions as the kernel numbers them.
    with opened.load() as probe:
        for program in probe.programs.values():
            verdict = verdict_argument(program.program.section)  # type: ignore[union-attr]
            assert prove_loaded(program, verdict).verdict == verdict
