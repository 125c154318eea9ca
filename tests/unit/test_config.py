"""Configuration files: every option has its field, flags win, and what is wrong is said with field and value."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylsm import toml
from pylsm.cli import parser_for
from pylsm.cli.config import configurable, fields, read

ROOT = Path(__file__).resolve().parents[2]


def options(tmp_path: Path, text: str, *line: str) -> object:
    file = tmp_path / "pylsm.toml"
    file.write_text(text)
    return read(parser_for(()), [line[0], "--config", str(file), *line[1:]])


def pylsm(*line: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "pylsm", *map(str, line)], capture_output=True, text=True, cwd=ROOT)


def test_a_field_is_what_its_option_is(tmp_path: Path) -> None:
    found = vars(
        options(tmp_path, 'pid = [7, "8"]\nring_size = "8M"\nquiet = true\nstats = 2.5\nuid = "root"', "attach")
    )
    assert (found["pid"], found["ring_size"], found["quiet"], found["stats"], found["uid"]) == (
        [7, 8], 8 << 20, True, 2.5, [0],
    )  # fmt: skip


def test_the_command_line_wins(tmp_path: Path) -> None:
    found = vars(
        options(tmp_path, 'pid = [7]\nring_size = "8M"\nformat = "json"', "attach", "-p", "9", "--format", "text")
    )
    assert (found["pid"], found["format"], found["ring_size"]) == ([9], "text", 8 << 20)


def test_one_file_serves_both_commands(tmp_path: Path) -> None:
    text = 'pid = [7]\nroot = true\nquiet = true\noutput = "x"'
    assert vars(options(tmp_path, text, "run", "--", "true"))["root"] is True
    assert vars(options(tmp_path, text, "attach"))["pid"] == [7]


def test_an_audit_has_to_be_enabled_where_a_file_configures_it(tmp_path: Path) -> None:
    assert vars(options(tmp_path, "", "attach"))["enable_lsm_audit"] is False
    assert vars(options(tmp_path, "enable_lsm_audit = true", "attach"))["enable_lsm_audit"] is True
    assert vars(options(tmp_path, "", "attach", "--enable-lsm-audit"))["enable_lsm_audit"] is True
    off = tmp_path / "off.toml"
    off.write_text("pid = [1]")
    done = pylsm("attach", "--config", off)
    assert (done.returncode, done.stdout) == (0, "")
    assert f"not auditing: {off} does not say enable_lsm_audit = true" in done.stderr
    done = pylsm("run", "--config", off, "--", "sh", "-c", "echo out; exit 7")
    assert (done.returncode, done.stdout) == (7, "out\n")


@pytest.mark.parametrize("command", sorted(configurable(parser_for(()))))
def test_what_is_printed_gives_the_same_again(tmp_path: Path, command: str) -> None:
    file = tmp_path / "a.toml"
    file.write_text('ring_size = "8M"\nquiet = true\noutput = "/tmp/\\u001b a \\" file"\n')
    rest = ["--", "true"] if command == "run" else []
    first = pylsm(command, "--config", file, "--print-config", "--stats", "3", *rest)
    assert first.returncode == 0, first.stderr
    assert f'ring_size = "8M"{"":<24} # "{file}"\n' in first.stdout
    assert 'stats = "3"' in first.stdout and "# the command line" in first.stdout and "# default" in first.stdout
    assert "\x1b" not in first.stdout
    again = tmp_path / "again.toml"
    again.write_text(first.stdout)
    second = pylsm(command, "--config", again, "--print-config", *rest)
    assert toml.load(again) == toml.loads(second.stdout)


def test_every_option_has_its_field() -> None:
    example = (ROOT / "pylsm/share/pylsm.toml").read_text()
    lines = example.splitlines()
    assert "enable_lsm_audit = false" in lines
    for name, command in configurable(parser_for(())).items():
        assert fields(command), name
        for field in fields(command):
            assert any(line.lstrip("#").startswith(f"{field} = ") for line in lines), field
    toml.loads(example)
    # Each field at the value that it is shown with, where that is its default.
    shown = "\n".join(line[1:] for line in lines if line.startswith("#") and " = " in line and line[1] != " ")
    toml.loads(shown)


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        ('ring_sise = "4M"', "there is no field 'ring_sise'", "did you mean 'ring_size'?"),
        ('ring-size = "4M"', "there is no field 'ring-size'", "did you mean 'ring_size'?"),
        ("zzz = 1", "there is no field 'zzz'", "--print-config"),
        (f"ring_size = {'1' * 5000}", "is not TOML: ", "toml.io"),
        (f"ring_size = 0x{'f' * 5000}", "an integer has more than 64 bits", "smaller"),
        ("ring_size = 3", "field 'ring_size' = 3: '3' is not a ring size", "--print-config"),
        ('pid = ["x"]', "field 'pid' = \"x\": 'x' is not a pid", "--print-config"),
        ("pid = [[1]]", "field 'pid' = [1]: text or a number is wanted", "--print-config"),
        ("pid = {a = 1}", "field 'pid' = a table", "--print-config"),
        ('quiet = "yes"', "field 'quiet' = \"yes\": true or false is wanted", "--print-config"),
        ("quiet = 1", "field 'quiet' = 1: true or false is wanted", "--print-config"),
        ('format = "xml"', "field 'format' = \"xml\": one of text, json", "--print-config"),
        ("output = 3", "field 'output' = 3: text is wanted", "--print-config"),
        ("stats = true", "field 'stats' = true: text or a number is wanted", "--print-config"),
        ("stats = 1979-05-27", "field 'stats' = \"1979-05-27\"", "--print-config"),
        ("a =", "is not TOML: Invalid value (at ", "toml.io"),
        ("quiet = true\nquiet = true", "is not TOML: Cannot overwrite a value", "toml.io"),
        ("a = " + "[" * 5000, "is not TOML: nested too deeply", "toml.io"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path: Path, text: str, said: str, hint: str) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text(text)
    done = pylsm("attach", "--config", file)
    assert done.returncode == 125
    assert "Traceback" not in done.stderr
    assert f"{file}" in done.stderr and said in done.stderr and hint in done.stderr


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"# ok\noutput = '\xe9'")
    (tmp_path / "large").write_bytes(b"#" * (2 << 20))
    for name, said in {
        "none": "No such file",
        ".": "Is a directory",
        "latin": "line 2: not UTF-8",
        "large": "is larger than",
    }.items():
        done = pylsm("attach", "--config", tmp_path / name)
        assert done.returncode == 125
        assert said in done.stderr and "Traceback" not in done.stderr


SCALARS = st.booleans() | st.integers(-(1 << 60), 1 << 60) | st.text()


@given(st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3)))
def test_quoted_values_are_read_as_they_were(value: object) -> None:
    text = toml.quote(value)
    assert text.isprintable()
    assert toml.loads(f"a = {text}") == {"a": value}
