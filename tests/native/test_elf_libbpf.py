"""What pylsm writes on this machine, libbpf loads and attaches on other kernels, where nothing of pylsm is needed.

The C program is linked statically and runs in `tools/vm`; needs gcc, libbpf-dev and QEMU.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pylsm.audit.decode import Decoder
from pylsm.audit.events import Connect, Event, FileOpen

CHECKOUT = Path(__file__).resolve().parents[2]
SOURCE = CHECKOUT / "tests/fixtures/elf/attach.c"
DEEP = "/tmp/" + "/".join(["directory-with-a-long-name"] * 20) + "/file"

pytestmark = [
    pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="qemu-system-x86_64 is not installed"),
    pytest.mark.skipif(not Path("/usr/include/bpf/libbpf.h").exists(), reason="libbpf-dev is not installed"),
]


def decode(lines: list[str]) -> list[Event]:
    decoder = Decoder()
    decoder.synchronise()
    data, spans = b"", []
    for line in lines:
        record = bytes.fromhex(line)
        spans.append((len(data), len(record)))
        data += record
    return list(decoder.decode_batch(memoryview(data), spans))


@pytest.fixture(scope="module")
def loader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("libbpf") / "attach"
    command = ["gcc", "-Wall", "-static", "-o", str(made), str(SOURCE), "-lbpf", "-lelf", "-lz"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return made


@pytest.mark.parametrize(
    ("kernel", "source", "variant"),
    [
        ("6.12", "lsm", "d_path"),
        ("7.3", "lsm", "d_path"),
        ("5.10", "lsm", "walk-5.10"),
        ("5.10", "raw_tracepoint", "walk-5.10"),
    ],
)
def test_written_here_attached_there(loader: Path, tmp_path: Path, kernel: str, source: str, variant: str) -> None:
    probe = tmp_path / "probe.bpf.o"
    build = ["-m", "pylsm", "build", "--source", source, "--variant", variant, "-o", str(probe)]
    done = subprocess.run([sys.executable, *build], capture_output=True, text=True, check=False, cwd=CHECKOUT)
    assert done.returncode == 0, done.stderr
    inside = f"mkdir -p {DEEP[:-5]}; touch {DEEP}; {loader} {probe} {DEEP}"
    machine = [sys.executable, str(CHECKOUT / "tools/vm"), "--kernel", kernel]
    files = ["--file", str(loader), "--file", str(probe)]
    done = subprocess.run([*machine, *files, "--", "sh", "-c", inside], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, *lines = done.stdout.splitlines()
    pid = int(first.partition(" ")[2])
    events = decode(lines)
    opens = [e for e in events if isinstance(e, FileOpen)]
    connects = [e for e in events if isinstance(e, Connect)]
    assert [(e.pid, e.path, e.mode) for e in opens] == [(pid, DEEP.encode(), "r")]
    assert [(e.pid, e.dst_ip, e.port) for e in connects] == [(pid, "127.0.0.1", 9)]
    assert {e.comm for e in events} == {b"attach"}


def test_a_skeleton_of_it_compiles(tmp_path: Path) -> None:
    """bpftool takes the object for its own, and a C compiler takes what bpftool makes of it."""
    probe, header, main = tmp_path / "probe.bpf.o", tmp_path / "probe.skel.h", tmp_path / "main.c"
    build = ["-m", "pylsm", "build", "-o", str(probe)]
    subprocess.run([sys.executable, *build], capture_output=True, check=True, cwd=CHECKOUT)
    with header.open("wb") as out:
        subprocess.run(["bpftool", "gen", "skeleton", str(probe), "name", "probe"], stdout=out, check=True)
    main.write_text(
        '#include "probe.skel.h"\n'
        "int main(void) {\n"
        "    struct probe *opened = probe__open();\n"
        "    return !opened || !opened->progs.file_open || !opened->maps.traced_processes;\n"
        "}\n"
    )
    command = ["gcc", "-Wall", "-o", str(tmp_path / "main"), str(main), "-lbpf"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert subprocess.run([str(tmp_path / "main")], check=False).returncode == 0
