"""`pylsm asm --load`, and `pylsm disasm` of what this kernel holds: by id, and where it is pinned."""

from __future__ import annotations

import argparse
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pylsm.asm import R0, R1, Asm, MapSpec, MapType, u32
from pylsm.cli.asm import add_parser
from pylsm.loader import LoadedProgram, Map, VerifierError

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    options = parser.parse_args(arguments)
    return int(options.handler(options))


@pytest.fixture(scope="module")
def loaded() -> Iterator[LoadedProgram]:
    counts = MapSpec("counts", MapType.HASH, key=4, value=8, max_entries=1)
    a = Asm("socket", name="shown")
    key = a.stack(4)
    a.st(u32[key], 0)
    a.call("map_lookup_elem", counts, key)
    a.call("ktime_get_ns")
    a.call_function("one", R0)
    a.exit_()
    with a.function("one", 1):
        a.mov(R0, 1)
        a.add(R0, R1)
        a.exit_()
    with Map.create(counts) as held, LoadedProgram.load(a.build(), maps={"counts": held}) as program:
        yield program


EXPECTED = ["r1 = map[counts]", "call bpf_ktime_get_ns#", "call func_", "r0 += r1"]


def test_by_id(loaded: LoadedProgram, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("disasm", str(loaded.info.id)) == 0
    out = capsys.readouterr().out
    for text in EXPECTED:
        assert text in out
    assert "unknown" not in out
    assert ".insn" not in out


@pytest.fixture
def bpffs(tmp_path: Path) -> Iterator[Path]:
    """A BPF filesystem of our own, or the one that is there where mounting is not allowed."""
    if subprocess.run(["mount", "-t", "bpf", "bpf", str(tmp_path)], capture_output=True, check=False).returncode == 0:
        yield tmp_path
        subprocess.run(["umount", str(tmp_path)], check=True)
    elif os.path.ismount("/sys/fs/bpf"):
        yield Path("/sys/fs/bpf")
    else:
        pytest.skip("no BPF filesystem, and none can be mounted")


def test_where_it_is_pinned(loaded: LoadedProgram, bpffs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = bpffs / f"pylsm_test_{os.getpid()}"
    loaded.pin(path)
    try:
        assert run("disasm", str(path)) == 0
    finally:
        path.unlink()
    out = capsys.readouterr().out
    for text in EXPECTED:
        assert text in out


def test_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "prog.s"
    path.write_text(
        '.section "socket"\n.map hits array key=4 value=8 max_entries=1\n'
        "*(u32 *)(r10 -4) = 0\nr1 = map[hits]\nr2 = r10\nr2 += -4\ncall bpf_map_lookup_elem\n"
        "if r0 == 0 goto out\nr1 = 1\nlock *(u64 *)(r0 +0) += r1\nout: r0 = 0\nexit\n"
    )
    assert run("asm", str(path), "--load") == 0
    assert capsys.readouterr().out.startswith("main: accepted, ")


def test_load_names_the_line_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "prog.s"
    path.write_text("r0 = 0\nr0 = *(u64 *)(r1 +0)\nr2 = *(u64 *)(r10 -8)\nr0 = r9\nexit\n")
    with pytest.raises(VerifierError) as caught:
        run("asm", str(path), "--load")
    assert caught.value.line is not None
    assert caught.value.line.file == str(path)
    assert str(path) in str(caught.value)
