"""`pylsm asm` and `pylsm disasm` on files: text, raw instructions, ELF objects, pylsm's own programs."""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
from pathlib import Path

import pytest

from pylsm.asm import encode
from pylsm.asm.errors import SyntaxTextError
from pylsm.asm.parse import parse, parse_program
from pylsm.cli.asm import SourceError, add_parser

TEXT = """\
.func main
r0 = 0
if r1 == 0x0 goto out
call twice
out: exit
.func twice 1
r0 = 0x123456789 ll
exit
"""


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    options = parser.parse_args(arguments)
    return int(options.handler(options))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "prog.s"
    path.write_text(TEXT)
    return path


def test_asm_prints_bytes_and_text(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("asm", str(source)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split(";")[0].split() == ["15", "01", "01", "00", "00", "00", "00", "00"]
    assert [line.split("; ")[1] for line in lines] == [
        "r0 = 0",
        "if r1 == 0x0 goto pc+1",
        "call pc+1",
        "exit",
        "r0 = 0x123456789 ll",
        "exit",
    ]


@pytest.mark.parametrize("byteorder", ["little", "big"])
def test_asm_and_disasm_are_inverse(
    source: Path, tmp_path: Path, byteorder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "prog.bin"
    assert run("asm", str(source), "-o", str(out), "--byteorder", byteorder) == 0
    assert out.read_bytes() == encode(parse(TEXT), byteorder)
    assert run("disasm", str(out), "--byteorder", byteorder) == 0
    printed = capsys.readouterr().out
    assert "    call func_4\n" in printed
    assert encode(parse(printed), byteorder) == out.read_bytes()
    assert run("disasm", str(out), "--byteorder", byteorder, "--numbers", "--distances") == 0
    numbered = capsys.readouterr().out
    assert numbered.splitlines()[4:] == ["    4: r0 = 0x123456789 ll", "    6: exit"]
    assert encode(parse(numbered), byteorder) == out.read_bytes()


def test_standard_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("r0 = 0\nexit\n"))
    assert run("asm", "-") == 0
    assert "; exit" in capsys.readouterr().out
    monkeypatch.setattr("sys.stdin", io.StringIO("r0 = r11\nexit\n"))
    with pytest.raises(SyntaxTextError, match="<stdin>:1:6: expected a register"):
        run("asm", "-")


def test_raw_output_cannot_hold_names(tmp_path: Path) -> None:
    path = tmp_path / "prog.s"
    path.write_text("r1 = 0\ncall bpf_path_d_path#kfunc\nexit\n")
    with pytest.raises(SourceError, match=r"prog\.s:2: .*bpf_path_d_path"):
        run("asm", str(path), "-o", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_files_that_are_not_there(tmp_path: Path) -> None:
    for command in ("asm", "disasm"):
        with pytest.raises(SourceError, match="nothing"):
            run(command, str(tmp_path / "nothing"))


@pytest.mark.parametrize("name", ["file_open", "socket_connect", "sched_process_fork", "lsm/file_open"])
def test_a_program_of_pylsm(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("disasm", "--probe", name) == 0
    program = parse_program(capsys.readouterr().out)
    assert name.endswith(program.name)
    assert run("disasm", "--probe", name, "--lines") == 0
    listing = capsys.readouterr().out
    assert "pylsm/audit/programs/" in listing
    assert listing.splitlines()[-1].endswith(": exit") or "goto" in listing.splitlines()[-1]


def test_a_program_pylsm_does_not_have() -> None:
    with pytest.raises(SourceError, match="'file_opn'") as caught:
        run("disasm", "--probe", "file_opn")
    assert "file_open" in caught.value.hint


OBJECT = """\
.section socket,"ax",@progbits
.globl main
.type main,@function
main:
  r1 = counts ll
  call twice
  exit
.type local,@function
local:
  r0 = 0
  exit
.section .text,"ax",@progbits
.globl twice
.type twice,@function
twice:
  r0 = 2
  exit
.section .maps,"aw",@progbits
.globl counts
counts:
  .zero 32
"""


@pytest.mark.skipif(shutil.which("llvm-mc-19") is None, reason="llvm-mc-19 is not installed")
def test_an_elf_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "prog.o"
    command = ["llvm-mc-19", "-triple", "bpfel", "-mcpu=v4", "-filetype=obj", "-o", str(path)]
    subprocess.run(command, input=OBJECT, text=True, check=True)
    assert run("disasm", str(path), "--section", "socket") == 0
    assert capsys.readouterr().out.splitlines() == [
        '.section "socket"',
        ".func main",
        "    r1 = map[counts]",
        "    call twice",
        "    exit",
        ".func local",
        "    r0 = 0",
        "    exit",
    ]
    assert run("disasm", str(path)) == 0
    assert capsys.readouterr().out.count(".section") == 2
    with pytest.raises(SourceError, match="no section of code 'xdp'") as caught:
        run("disasm", str(path), "--section", "xdp")
    assert "socket" in caught.value.hint


def test_an_elf_object_for_another_machine() -> None:
    with pytest.raises(SourceError, match="not for BPF"):
        run("disasm", "/bin/true")
