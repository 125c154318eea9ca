"""Building the peers: the C probe, its libbpf loader, the workloads."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

__all__ = ["Peers", "build"]

_SOURCES = Path(__file__).parent / "peers"
#: Debian packages for all of it.
PACKAGES = ("clang", "llvm", "libbpf-dev", "libelf-dev", "zlib1g-dev", "gcc", "libc6-dev", "bpftool")


class Peers(NamedTuple):
    """Built programs by name, and the peers that could not be built with the reason."""

    programs: dict[str, Path]
    missing: dict[str, str]


def build(into: Path) -> Peers:
    """Build everything that can be built; what cannot be is in ``missing``."""
    into.mkdir(parents=True, exist_ok=True)
    programs: dict[str, Path] = {}
    missing: dict[str, str] = {}
    for name, steps in (("work", _work(into)), ("loader", _loader(into))):
        try:
            for step in steps:
                _run(step, into)
            programs[name] = into / name
        except RuntimeError as error:
            missing[name] = str(error)
    return Peers(programs, missing)


def _work(into: Path) -> list[list[str]]:
    return [["gcc", "-O2", "-static", "-o", "work", str(_SOURCES / "work.c")]]


def _loader(into: Path) -> list[list[str]]:
    vmlinux = "bpftool btf dump file /sys/kernel/btf/vmlinux format c > vmlinux.h"
    probe = str(_SOURCES / "probe.bpf.c")
    flags = "-O2 -mcpu=v3 -g -target bpf -D__TARGET_ARCH_x86 -I."
    return [
        ["sh", "-c", vmlinux],
        ["sh", "-c", f"clang {flags} -I/usr/include/$(gcc -dumpmachine) -c {probe} -o probe.bpf.o"],
        ["sh", "-c", "bpftool gen skeleton probe.bpf.o name probe > probe.skel.h"],
        ["gcc", "-O2", "-static", "-I.", "-o", "loader", str(_SOURCES / "loader.c"), "-lbpf", "-lelf", "-lz"],
    ]


def _run(command: list[str], into: Path) -> None:
    if shutil.which(command[0]) is None:
        raise RuntimeError(f"{command[0]} is not installed; packages: {' '.join(PACKAGES)}")
    done = subprocess.run(command, cwd=into, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"{' '.join(command)[:60]}…: {last} (packages: {' '.join(PACKAGES)})")
