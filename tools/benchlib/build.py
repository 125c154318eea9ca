"""Building the peers: what is compiled here, and what comes as Debian packages."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tools.benchlib import KERNEL, packages

__all__ = ["Peer", "Peers", "build", "fetch"]

SOURCES = Path(__file__).parent / "peers"
#: Debian packages for what is compiled.
PACKAGES = ("clang", "llvm", "libbpf-dev", "libelf-dev", "zlib1g-dev", "gcc", "libc6-dev", "bpftool")


class Peers(NamedTuple):
    """Built programs by name, and the peers that could not be built with the reason."""

    programs: dict[str, Path]
    missing: dict[str, str]


class Peer(NamedTuple):
    """A peer from packages: its program, the files it needs inside the machine, and its environment."""

    program: Path
    files: tuple[Path, ...]
    environment: dict[str, str]


def build(into: Path) -> Peers:
    """Build everything that can be built; what cannot be is in ``missing``."""
    into.mkdir(parents=True, exist_ok=True)
    programs: dict[str, Path] = {}
    missing: dict[str, str] = {}
    for name, steps in (("work", _work()), ("loader", _loader())):
        try:
            for step in steps:
                _run(step, into)
            programs[name] = into / name
        except RuntimeError as error:
            missing[name] = str(error)
    return Peers(programs, missing)


def fetch(into: Path) -> tuple[dict[str, Peer], dict[str, str]]:
    """The peers that come as packages, by name; and why others are missing."""
    root = into / "root"
    found: dict[str, Peer] = {}
    missing: dict[str, str] = {}
    makers: dict[str, Callable[[Path], Peer]] = {
        "strace": _strace,
        "bpftrace": _bpftrace,
        "bcc": _bcc,
        "auditd": _auditd,
    }
    for name, make in makers.items():
        try:
            found[name] = make(root)
        except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
            missing[name] = str(error)
    return found, missing


def _work() -> list[list[str]]:
    return [["gcc", "-O2", "-static", "-o", "work", str(SOURCES / "work.c")]]


def _loader() -> list[list[str]]:
    vmlinux = "bpftool btf dump file /sys/kernel/btf/vmlinux format c > vmlinux.h"
    probe = str(SOURCES / "probe.bpf.c")
    flags = "-O2 -mcpu=v3 -g -target bpf -D__TARGET_ARCH_x86 -I."
    return [
        ["sh", "-c", vmlinux],
        ["sh", "-c", f"clang {flags} -I/usr/include/$(gcc -dumpmachine) -c {probe} -o probe.bpf.o"],
        ["sh", "-c", "bpftool gen skeleton probe.bpf.o name probe > probe.skel.h"],
        ["gcc", "-O2", "-static", "-I.", "-o", "loader", str(SOURCES / "loader.c"), "-lbpf", "-lelf", "-lz"],
    ]


def _strace(root: Path) -> Peer:
    packages.unpack(root, "strace")
    return _peer(root, _program(root, "strace"))


def _bpftrace(root: Path) -> Peer:
    packages.unpack(root, "bpftrace")
    return _peer(root, _program(root, "bpftrace"))


def _bcc(root: Path) -> Peer:
    packages.unpack(root, "libbpfcc", "python3-bpfcc")
    from tools.vmlib import kernels  # only this peer needs to know the release before the machine starts

    release = kernels.find(KERNEL).release
    tree = packages.headers(root, release)
    library = next(root.glob("usr/lib/*/libbcc.so.0"))
    modules = root / "usr/lib/python3/dist-packages"
    librt = next(Path("/lib").glob("*-linux-gnu/librt.so.1"))
    peer = _peer(root, library, librt, *(modules / "bcc").glob("*.py"), *(p for p in tree.rglob("*") if p.is_file()))
    environment = {**peer.environment, "PYTHONPATH": str(modules), "BCC_KERNEL_SOURCE": str(tree)}
    return peer._replace(program=SOURCES / "probe_bcc.py", environment=environment)


def _auditd(root: Path) -> Peer:
    packages.unpack(root, "auditd", "libauparse0")
    return _peer(root, _program(root, "auditd"), _program(root, "auditctl"))


def _program(root: Path, name: str) -> Path:
    found = packages.find(root, name)
    if found is None:
        raise RuntimeError(f"the package of {name} has no such program")
    return found


def _peer(root: Path, program: Path, *others: Path) -> Peer:
    binaries = [path for path in (program, *others) if path.suffix in ("", ".0", ".1")]
    libraries, path = packages.libraries(root, *binaries)
    return Peer(program, (program, *others, *libraries), {"LD_LIBRARY_PATH": path})


def _run(command: list[str], into: Path) -> None:
    if shutil.which(command[0]) is None:
        raise RuntimeError(f"{command[0]} is not installed; packages: {' '.join(PACKAGES)}")
    done = subprocess.run(command, cwd=into, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"{' '.join(command)[:60]}…: {last} (packages: {' '.join(PACKAGES)})")
