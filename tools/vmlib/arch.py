"""The architectures that a machine can have: one row each, all that differs between them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from . import MachineError

__all__ = ["ARCHITECTURES", "Arch", "by_name", "host", "of_release"]


@dataclass(frozen=True)
class Arch:
    """One architecture, under Debian's name for it.

    Attributes:
        name: Debian's.
        machine: uname(2)'s.
        flavours: Debian's names for kernels of it that are built for virtual machines, or for larger pages.
        qemu: the emulator, and the Debian package that has it.
        options: of QEMU: the board.
        cpu: the processor, as QEMU's -cpu has it.
        console: what Linux calls the first serial port.
        port: options of QEMU that make a second serial port of the character device "port".
    """

    name: str
    machine: str
    flavours: tuple[str, ...]
    qemu: tuple[str, str]
    options: tuple[str, ...]
    cpu: str
    console: str
    port: tuple[str, ...]


ARCHITECTURES = (
    Arch(
        "amd64",
        "x86_64",
        ("cloud-amd64",),  # small, built for virtual machines; BTF, BPF LSM and ftrace are on
        ("qemu-system-x86_64", "qemu-system-x86"),
        ("-machine", "pc"),
        # cx16: QEMU 7.2 corrupts 6.12 guests at random when it emulates cmpxchg16b
        "max,cx16=off",
        "ttyS0",
        ("-serial", "chardev:port"),
    ),
    Arch(
        "arm64",
        "aarch64",
        ("cloud-arm64", "arm64-16k"),
        ("qemu-system-aarch64", "qemu-system-arm"),
        ("-machine", "virt"),
        # pauth-impdef: the processor's own pointer authentication costs half of all time when it is emulated
        "max,pauth-impdef=on",
        "ttyAMA0",
        ("-device", "pci-serial,chardev=port"),
    ),
)


def by_name(name: str) -> Arch:
    """The row with Debian's name or the machine's."""
    for arch in ARCHITECTURES:
        if name in (arch.name, arch.machine):
            return arch
    raise MachineError(f"no architecture {name}: there are {', '.join(arch.name for arch in ARCHITECTURES)}")


def host() -> Arch:
    """This machine's."""
    return by_name(os.uname().machine)


def of_release(release: str) -> Arch:
    """6.1.0-56-cloud-arm64 → arm64"""
    for arch in ARCHITECTURES:
        if re.search(rf"\b{arch.name}\b", release):
            return arch
    raise MachineError(f"of what architecture is kernel {release}?")
