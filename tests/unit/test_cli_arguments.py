"""A plain command line is read without argparse, and as argparse reads it; every other one is argparse's."""

from __future__ import annotations

import argparse
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pylsm.cli import _COMMANDS, _declared, arguments, parser_for

#: Words of which lines are made: options of the start with sound and unsound values, and what argparse alone reads.
OPTIONS = (
    *("-p", "--pid", "--comm", "--uid", "--pin", "--adopt", "--format", "-o", "--output", "--timestamps", "--stats"),
    *(
        "-q",
        "--quiet",
        "--no-confine",
        "--backend",
        "--btf",
        "--if-unavailable",
        "--ring-size",
        "--root",
        "--heartbeat",
    ),
    *("--form", "--no-such", "--stat", "-x", "-h"),
)
VALUES = ("1", "4242", "0", "json", "text", "xml", "lsm", "auto", "4M", "3M", "root", "a b", "", "-", "--", "-1", "ls")
WORDS = st.one_of(
    st.sampled_from(OPTIONS),
    st.sampled_from(VALUES),
    st.builds("{}={}".format, st.sampled_from(OPTIONS), st.sampled_from(VALUES)),
    st.builds("{}{}".format, st.sampled_from(("-p", "-q", "-o")), st.sampled_from(VALUES)),
)


def loses_its_value(word: str) -> bool:
    """Argparse of Python before 3.13 takes "--" for no value even where it is one, as in --output=--."""
    return sys.version_info < (3, 13) and word.endswith("--") and word != "--"


def by_argparse(line: list[str]) -> dict[str, Any] | None:
    """The values as argparse has them, or None where it refuses the line or shows its help."""
    try:
        found = vars(parser_for(line).parse_args(line))
    except SystemExit:
        return None
    return {name: value for name, value in found.items() if name != "parser"}


@given(st.sampled_from(("run", "attach", "check")), st.lists(WORDS, max_size=7))
def test_what_is_read_is_what_argparse_reads(command: str, words: list[str]) -> None:
    assume(not any(map(loses_its_value, words)))
    line = [command, *words]
    read = _declared(line).read(line)
    if read is not None:
        assert {name: value for name, value in vars(read).items() if name != "parser"} == by_argparse(line)


@pytest.mark.parametrize(
    "line",
    [
        "attach -p 1",
        "attach -p 1 --pid 2 --pid=3 -q",
        "attach --comm nginx --format json -o events.jsonl",
        "attach -p 4321 --stats 10 --timestamps --ring-size 8M",
        "attach --adopt /sys/fs/bpf/audit",
        "run ls -l",
        "run -q -- ls -l --format x",
        "run --format json -o events.jsonl -- make test",
        "check --json",
    ],
)
def test_what_people_type_is_plain(line: str) -> None:
    words = line.split()
    read = _declared(words).read(words)
    assert read is not None
    assert {name: value for name, value in vars(read).items() if name != "parser"} == by_argparse(words)


@pytest.mark.parametrize("line", ["attach -p 0", "attach --pin a --adopt b", "attach -p", "attach -p1", "attach ls"])
def test_what_is_not_plain_is_left_to_argparse(line: str) -> None:
    words = line.split()
    assert _declared(words).read(words) is None


@pytest.mark.parametrize("command", _COMMANDS)
def test_every_command_can_be_declared(command: str) -> None:
    assert parser_for([command]).parse_args  # repeats every note; argparse refuses what it does not know
    _declared([command]).read([command])


def test_the_words_are_those_of_argparse() -> None:
    assert (arguments.REMAINDER, arguments.SUPPRESS) == (argparse.REMAINDER, argparse.SUPPRESS)


def test_a_default_can_be_asked_for() -> None:
    found = vars(_declared(["attach"]).read(["attach", "-p", "1"]) or {})
    assert found["parser"].get_default("ring_size") == 4 << 20
    with pytest.raises(KeyError):
        found["parser"].get_default("no_such")


def test_a_mistake_names_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    found = vars(_declared(["attach"]).read(["attach"]) or {})
    with pytest.raises(SystemExit) as ended:
        found["parser"].error("name the processes")
    assert ended.value.code == 2
    assert capsys.readouterr().err == "pylsm attach: error: name the processes (see pylsm attach --help)\n"


@pytest.mark.parametrize("line", ["attach -p 1", "run -q -- true"])
def test_a_plain_line_imports_neither_argparse_nor_enum(line: str) -> None:
    code = f"""
import sys
before = set(sys.modules)
from pylsm.cli import _declared
line = {line.split()!r}
assert _declared(line).read(line) is not None
print(*sorted(set(sys.modules) - before))
"""
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    heavy = {"argparse", "enum", "re", "gettext", "locale", "typing", "dataclasses", "inspect", "signal", "socket"}
    assert heavy.isdisjoint(done.stdout.split())
