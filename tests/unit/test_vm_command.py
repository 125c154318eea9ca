"""tools/vm: its command line, QEMU's, the choice of a kernel, and what process 1 says to the host."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

from vmlib import CHECKOUT, MachineError, arch, cli, debian, kernels
from vmlib.guest_init import Port
from vmlib.kernels import Kernel
from vmlib.machine import Frames, Machine

TOOLS = CHECKOUT / "tools"


def test_defaults() -> None:
    options = cli.parse(["--", "true"])
    assert options.command == ["true"]
    assert (options.kernel, options.lsm, options.memory, options.cpus) == ("6.1", "landlock,bpf", 1024, 1)


def test_command_is_not_parsed() -> None:
    options = cli.parse(["--cpus", "2", "--cpu", "max", "--", "sh", "--kernel", "x", "--", "--list"])
    assert (options.cpus, options.cpu) == (2, "max")
    assert options.command == ["sh", "--kernel", "x", "--", "--list"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ls"], "put -- before the command: tools/vm -- ls"),
        ([], "give a command after --"),
        (["--list", "--", "true"], "give a command after --"),
        (["--icount", "--cpus", "2", "--", "true"], "one CPU"),
        (["--env", "NAME", "--", "true"], "not NAME=VALUE"),
    ],
)
def test_mistakes_are_explained(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.parse(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_help_teaches() -> None:
    shown = subprocess.run([sys.executable, TOOLS / "vm", "--help"], capture_output=True, text=True, check=True)
    assert "tools/vm -- python3 -c 'print(1)'" in shown.stdout


def machine(initramfs: io.FileIO, **options: object) -> list[str]:
    return Machine(Kernel(Path("/cache/6.1.0-1-cloud-amd64")), initramfs, **options).command(9)  # type: ignore[arg-type]


def test_qemu_command(tmp_path: Path) -> None:
    with io.FileIO(tmp_path / "i", "w") as initramfs:
        plain = machine(initramfs)
        assert plain[plain.index("-cpu") + 1] == "max,cx16=off"
        assert plain[plain.index("-accel") + 1] == "tcg,thread=multi"
        assert "lsm=landlock,bpf" in plain[plain.index("-append") + 1].split()
        assert "-icount" not in plain
        counted = machine(initramfs, icount=True)
        assert counted[counted.index("-icount") + 1] == "shift=0,sleep=off"
        assert counted[counted.index("-accel") + 1] == "tcg,thread=single"
        bare = machine(initramfs, lsm="", append="debug x=1")
        assert "lsm=" not in " ".join(bare)
        assert bare[bare.index("-append") + 1].endswith(" debug x=1")


def test_qemu_command_of_another_architecture(tmp_path: Path) -> None:
    with io.FileIO(tmp_path / "i", "w") as initramfs:
        command = Machine(Kernel(Path("/cache/6.1.0-1-cloud-arm64")), initramfs).command(9)
    assert command[0] == "qemu-system-aarch64"
    assert command[command.index("-machine") + 1] == "virt"
    assert command[command.index("-append") + 1].startswith("console=ttyAMA0 ")
    assert "pci-serial,chardev=port" in command


def test_missing_qemu_names_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    missing = pytest.raises(MachineError, match="apt-get install qemu-system-x86")
    with io.FileIO(tmp_path / "i", "w") as initramfs, missing:
        Machine(Kernel(tmp_path / "6.1.0-1-cloud-amd64"), initramfs).run()


PACKAGES = """
linux-image-5.10.0-46-cloud-amd64 linux-image-5.10.0-46-cloud-amd64-unsigned linux-image-6.1-cloud-amd64
linux-image-6.1.0-0.deb11.52-cloud-amd64 linux-image-6.1.0-9-cloud-amd64 linux-image-6.1.0-56-cloud-amd64
linux-image-6.1.0-56-cloud-amd64-dbg linux-image-6.1.0-56-rt-amd64 linux-headers-6.1.0-99-cloud-amd64
linux-image-6.12.9+deb12-cloud-amd64 linux-image-6.12.9+deb12.1-cloud-amd64
linux-image-6.12.10+deb12-cloud-amd64 linux-image-cloud-amd64
linux-image-7.3.4+deb13-cloud-amd64 linux-binary-7.3.4+deb13-cloud-amd64 linux-modules-7.3.4+deb13-cloud-amd64
linux-image-5.10.0-45-cloud-arm64 linux-image-5.10.0-46-cloud-arm64 linux-image-6.1.0-56-cloud-arm64
linux-image-6.12.10+deb12-cloud-arm64 linux-image-6.12.10+deb12-arm64-16k linux-image-6.12.10+deb12-rt-arm64
linux-image-6.16.1+deb13-cloud-arm64 linux-image-6.16.1+deb13-arm64-16k
linux-base-7.3.4+deb13-cloud-amd64 linux-binary-unsigned-7.3.4+deb13-cloud-amd64 linux-base-cloud-amd64
"""
# Named by the index, but no longer in the archive.
GONE = ("5.10.0-46-cloud-arm64", "6.16.1+deb13-cloud-arm64")
AMD64, ARM64 = arch.by_name("amd64"), arch.by_name("arm64")


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache, an apt that knows the packages above, and no unpacking."""

    def unpack(arch: arch.Arch, packages: list[str], release: str, scratch: Path) -> Path:
        if release in GONE:
            raise debian.Gone(release)
        (scratch / release).mkdir()
        return scratch / release

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(arch, "host", lambda: AMD64)
    monkeypatch.setattr(kernels, "host", lambda: AMD64)
    monkeypatch.setattr(debian, "update", lambda arch: None)
    monkeypatch.setattr(debian, "apt", lambda *arguments: PACKAGES)
    monkeypatch.setattr(kernels, "_unpack", unpack)
    return tmp_path


def test_kernels_are_ordered_by_number(cache: Path) -> None:
    assert list(kernels.available()) == [
        "5.10.0-46-cloud-amd64",
        "6.1.0-0.deb11.52-cloud-amd64",
        "6.1.0-9-cloud-amd64",
        "6.1.0-56-cloud-amd64",
        "6.12.9+deb12-cloud-amd64",
        "6.12.9+deb12.1-cloud-amd64",
        "6.12.10+deb12-cloud-amd64",
        "7.3.4+deb13-cloud-amd64",
    ]


def test_kernel_in_several_packages(cache: Path) -> None:
    assert kernels.available()["7.3.4+deb13-cloud-amd64"] == [
        "linux-base-7.3.4+deb13-cloud-amd64",
        "linux-binary-7.3.4+deb13-cloud-amd64",
        "linux-modules-7.3.4+deb13-cloud-amd64",
    ]


@pytest.mark.parametrize(
    ("wanted", "release"),
    [
        ("6.1", "6.1.0-56-cloud-amd64"),
        ("6.12", "6.12.10+deb12-cloud-amd64"),
        ("newest", "7.3.4+deb13-cloud-amd64"),
        ("6.1.0-9-cloud-amd64", "6.1.0-9-cloud-amd64"),
    ],
)
def test_kernel_of_a_series(cache: Path, wanted: str, release: str) -> None:
    assert kernels.find(wanted).release == release
    assert [kernel.release for kernel in kernels.cached()] == [release], "and no scratch directory stays"


@pytest.mark.parametrize(
    ("wanted", "release"),
    [
        ("6.1", "6.1.0-56-cloud-arm64"),
        ("6.12", "6.12.10+deb12-cloud-arm64"),
        ("6.12-16k", "6.12.10+deb12-arm64-16k"),
        ("5.10", "5.10.0-45-cloud-arm64"),  # the newest that can be had
    ],
)
def test_kernel_of_another_architecture(cache: Path, wanted: str, release: str) -> None:
    kernels.find("6.1", AMD64)
    kernel = kernels.find(wanted, ARM64)
    assert (kernel.release, kernel.arch) == (release, ARM64)
    assert kernels.cached(ARM64) == [kernel]


def test_a_series_that_is_gone_is_no_failure_of_the_machine(cache: Path) -> None:
    with pytest.raises(kernels.NoKernel, match=r"no longer has 6\.16\.1\+deb13-cloud-arm64, though its index"):
        kernels.find("6.16", ARM64)
    with pytest.raises(kernels.NoKernel, match=r"no arm64 kernel 4\.19 .*: there are 5\.10, 6\.1, 6\.12, 6\.12-16k"):
        kernels.find("4.19", ARM64)


def test_its_exit_status_is_its_own(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["tools/vm", "--arch", "arm64", "--kernel", "6.16", "--", "true"])
    assert cli.main() == cli.NO_KERNEL == 69

    def unreachable(arch: arch.Arch) -> None:
        raise MachineError("apt cannot read anything")

    monkeypatch.setattr(debian, "update", unreachable)
    assert cli.main() == cli.FAILED == 125


def test_cached_kernel_needs_no_apt(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels.fetch("6.1.0-9-cloud-amd64")
    monkeypatch.setattr(debian, "apt", lambda *arguments: pytest.fail("apt was asked"))
    assert kernels.find("6.1").release == "6.1.0-9-cloud-amd64"


def test_unknown_kernel_lists_the_known_ones(cache: Path) -> None:
    with pytest.raises(MachineError, match=r"no amd64 kernel 4\.19 .*: there are 5\.10, 6\.1, 6\.12, 7\.3"):
        kernels.find("4.19")


@pytest.mark.parametrize(
    ("listing", "mirrors"),
    [
        (
            "'http://m/debian/dists/bookworm/InRelease' f 0\n'http://m/sec/dists/bookworm-security/InRelease' f 0\n"
            "'http://m/debian/dists/bookworm/main/binary-amd64/Packages.xz' f 0\n",
            {False: "http://m/debian", True: "http://m/sec"},
        ),
        (
            "'http://other/dists/bookworm-pgdg/InRelease' f 0\n'http://m/debian/dists/sid/InRelease' f 0\n",
            {False: "http://m/debian", True: "http://m/debian-security"},
        ),
    ],
)
def test_mirrors_are_those_of_this_machine(
    monkeypatch: pytest.MonkeyPatch, listing: str, mirrors: dict[bool, str]
) -> None:
    monkeypatch.setattr(debian, "run", lambda command: listing)
    assert debian._mirrors() == mirrors


@given(st.lists(st.tuples(st.sampled_from([b"o", b"e"]), st.binary(max_size=300))), st.integers(1, 400))
def test_frames_survive_any_cut(messages: list[tuple[bytes, bytes]], step: int) -> None:
    read, write = os.pipe()
    with open(read, "rb") as reader, open(write, "wb") as writer:
        for kind, data in messages[:100]:
            Port(writer.fileno()).send(kind, data)
        writer.close()
        stream = reader.read()
    frames = Frames()
    got = [frame for at in range(0, len(stream), step) for frame in frames.feed(stream[at : at + step])]
    assert got == messages[:100]


RUN = """
import json, sys
sys.path.insert(0, sys.argv[1])
from vmlib.guest_init import Port, run
status = run(Port(1), json.loads(sys.argv[2]), {"PATH": "/usr/bin:/bin", "X": "1"}, "/")
sys.stdout.buffer.write(bytes([status]))
"""


def supervised(*command: str) -> tuple[int, bytes, bytes]:
    """Run a command under process 1's supervision, on this machine: status, output, errors."""
    arguments = [sys.executable, "-c", RUN, str(TOOLS), json.dumps(command)]
    raw = subprocess.run(arguments, capture_output=True, check=True, timeout=30).stdout
    sent = list(Frames().feed(raw[:-1]))
    return raw[-1], b"".join(d for k, d in sent if k == b"o"), b"".join(d for k, d in sent if k == b"e")


def test_process_1_passes_output_and_status() -> None:
    assert supervised("sh", "-c", "pwd; echo $X >&2; exit 7") == (7, b"/\n", b"1\n")
    assert supervised("sh", "-c", "kill -TERM $$")[0] == 128 + 15
    assert supervised("no-such-command") == (
        127,
        b"",
        b"tools/vm: no-such-command: No such file or directory\n",
    )
    assert supervised("/etc/passwd")[0] == 126


def test_process_1_does_not_wait_for_daemons() -> None:
    assert supervised("sh", "-c", "sleep 25 & (exit 3) & echo out; exit 0") == (0, b"out\n", b"")


def test_process_1_keeps_the_last_words() -> None:
    status, out, _ = supervised("sh", "-c", "head -c 300000 /dev/zero; printf end")
    assert (status, len(out), out[-3:]) == (0, 300003, b"end")
