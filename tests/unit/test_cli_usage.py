"""The command line without privilege: help, and usage errors."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import pylsm
from pylsm.cli import main


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "pylsm", *arguments], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("command", [(), ("run",), ("attach",), ("check",)], ids=" ".join)
def test_help(command: tuple[str, ...]) -> None:
    result = run(*command, "--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(f"usage: pylsm {' '.join(command)}".rstrip())
    assert max(map(len, result.stdout.splitlines())) <= 120
    for option in {
        "run": ["CMD"],
        "attach": ["--pid", "--comm", "--exe", "--uid", "--user", "--cgroup", "--container", "--all"],
    }.get("".join(command), []):
        assert option in result.stdout
    if not command:
        for name in ("run", "attach", "check"):
            assert f"\n    {name} " in result.stdout


@pytest.mark.parametrize("command", [("schema",), ("print", "man"), ("check",), ("btf", "dump")], ids=" ".join)
def test_who_reads_it_has_had_enough(command: tuple[str, ...]) -> None:
    """`pylsm check | head -1`: no traceback, not at its end either."""
    read, write = os.pipe()
    os.close(read)
    with open(write, "wb") as output:
        process = [sys.executable, "-m", "pylsm", *command]
        done = subprocess.run(process, stdout=output, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.stderr == ""
    assert done.returncode in (0, 128 + 13)


def test_version() -> None:
    assert run("--version").stdout == f"pylsm {pylsm.__version__}\n"


def test_nothing_to_do_is_wrong_usage(capfd: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "usage: pylsm" in capfd.readouterr().err


PIDS = ("0", "-1", "-5", "abc", "", "1.5", "0x10", " 7", "+7", "1e3", "99999999999", "²")
RINGS = ("0", "1", "4095", "5000", "12288", "3M", "-4096", "4G", "x", "", "4096.0", "K", "2048", "4 K")
USAGE = [
    *((("attach", f"--pid={pid}"), "is not a pid") for pid in PIDS),
    *((("run", f"--ring-size={size}", "true"), "is not a ring size: a power of two from 4096") for size in RINGS),
    *((("run", f"--family-size={n}", "true"), "is not a positive number") for n in ("0", "-1", "x", "")),
    *((("run", f"--stats={n}", "true"), "is not a number of seconds above 0") for n in ("0", "-1", "x", "nan", "inf")),
    (("attach", "--uid", "no-such-user"), "neither a uid nor the name of a user"),
    (("attach", "--uid", "-1"), "--uid"),
    (("attach", "--user", "roott"), "'roott' is neither a uid nor the name of a user; did you mean root?"),
    (("attach", "--all", "--comm", "x"), "--all is everybody: not with --comm x"),
    (("attach",), "name the processes with -p, --comm, --exe, --uid, --cgroup, --container or --all"),
    (
        ("run", "--dst", "10.0.0.1/8", "true"),
        "--dst: '10.0.0.1/8' has host bits set behind its 8 bits; the network is 10",
    ),
    (("run", "--not-dst", "example.org", "true"), "--not-dst: 'example.org' is not a network"),
    (("run", "--port", "90-80", "true"), "--port: '90-80' is not a port from 0 to 65535 or a range of them; turn it"),
    (("run", "--path", "a[b", "true"), "--path: 'a[b' is not a pattern: the [ at character 2 has no ]"),
    (("run", "--not-path", "", "true"), "--not-path: '' is not a pattern: it is empty"),
    (("run", "--mode", "x", "true"), "invalid choice: 'x'"),
    (("run", "--dedup", "some", "true"), "--dedup: 'some' is no way to tell repeats; off, file, file+mode or window"),
    (("run", "--dedup", "window", "true"), "--dedup: 'window' has no window from 0.001 to"),
    (("run", "--dedup", "window=nan", "true"), "--dedup: 'window=nan' has no window"),
    (("run", "--dedup", "off=3", "true"), "--dedup: 'off=3' is no way"),
    (("run",), "CMD is missing"),
    (("run", "--"), "CMD is missing"),
    (("run", "--", ""), "CMD is missing"),
    (("run", "--format", "xml", "true"), "invalid choice: 'xml'"),
    (("run", "--backend", "magic", "true"), "invalid choice: 'magic'"),
    (("run", "--if-unavailable", "maybe", "true"), "invalid choice: 'maybe'"),
    (("run", "--no-such-option", "true"), "unrecognized arguments"),
    (("frobnicate",), "invalid choice: 'frobnicate'"),
]


@pytest.mark.parametrize(("arguments", "why"), USAGE, ids=[" ".join(arguments) for arguments, _ in USAGE])
def test_wrong_usage_is_2_and_one_line_says_why(
    arguments: tuple[str, ...], why: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert why in err.splitlines()[-1]


def test_options_of_the_command_are_its_own() -> None:
    """What follows CMD is CMD's, also when it looks like an option of ours."""
    from pylsm.cli import parser_for

    assert parser_for(["run"]).parse_args(["run", "ls", "--format", "x", "-q"]).command == ["ls", "--format", "x", "-q"]
    assert parser_for(["run"]).parse_args(["run", "-q", "--", "ls", "--", "-o"]).command[-3:] == ["ls", "--", "-o"]


#: `python -m pylsm ARGUMENTS`, with SIGINT as a certain module is about to be imported.
INTERRUPTED = """
import runpy, signal, sys

class Interrupted:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            signal.raise_signal(signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Interrupted())
sys.argv = ["pylsm", *{arguments!r}]
runpy.run_module("pylsm", run_name="__main__")
"""


@pytest.mark.parametrize("arguments", [["check"], ["run", "true"], ["attach", "-p", "1"]], ids=" ".join)
@pytest.mark.parametrize("module", ["pylsm.cli", "pylsm.cli.status", "pylsm.errors"])
def test_ctrl_c_while_modules_are_imported(module: str, arguments: list[str]) -> None:
    code = INTERRUPTED.format(module=module, arguments=arguments)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (130, "")


def test_ctrl_c_while_a_command_is_imported() -> None:
    for command in ("check", "run", "attach"):
        code = INTERRUPTED.format(module=f"pylsm.cli.{command}", arguments=[command, "--help"])
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (130, "")
