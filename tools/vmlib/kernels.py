"""Debian's kernels: which there are, fetched by apt, kept unpacked in the cache."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from . import MachineError, cache_directory, debian
from .arch import Arch, host, of_release
from .locks import lock

__all__ = ["Kernel", "NoKernel", "available", "cached", "fetch", "find", "order", "series"]


class NoKernel(MachineError):
    """Debian's archive does not have it, or no longer: nothing is wrong with the machine."""


@dataclass(frozen=True)
class Kernel:
    """An unpacked kernel: `vmlinuz` and `modules/` in a directory named after the release."""

    directory: Path

    @property
    def release(self) -> str:
        return self.directory.name

    @property
    def arch(self) -> Arch:
        return of_release(self.release)

    @property
    def image(self) -> Path:
        return self.directory / "vmlinuz"

    @property
    def modules(self) -> Path:
        return self.directory / "modules"


def find(wanted: str, arch: Arch | None = None) -> Kernel:
    """The newest cached kernel of that series or release, fetched when there is none."""
    here = [kernel for kernel in cached(arch) if wanted != "newest" and _matches(kernel.release, wanted)]
    return here[-1] if here else fetch(wanted, arch)


def cached(arch: Arch | None = None) -> list[Kernel]:
    """Kernels in the cache, oldest release first."""
    wanted = (arch or host()).flavours
    paths = [path for path in cache_directory("kernels").iterdir() if path.name.endswith(wanted)]
    return [Kernel(path) for path in sorted(paths, key=lambda path: order(path.name))]


def available(arch: Arch | None = None) -> dict[str, list[str]]:
    """Release → packages that make it up, oldest release first, as apt's freshly read index has them."""
    arch = arch or host()
    with lock(f"apt-{arch.name}"):
        debian.update(arch)
        names = debian.apt(arch, "apt-cache", "pkgnames", "linux-").split()
    package = re.compile(rf"linux-(image|binary|modules|base)-(\d+\.\d+\.\S*-({'|'.join(arch.flavours)}))")
    found: dict[str, dict[str, str]] = {}
    for name in names:
        match = package.fullmatch(name)
        if match:
            found.setdefault(match[2], {})[match[1]] = name
    releases: dict[str, list[str]] = {}
    for release in sorted(found, key=order):
        parts = found[release]
        # From 6.19 on linux-image is a metapackage, from 7.2 on modules and metadata are apart as well.
        if "binary" in parts:
            parts.pop("image", None)
        if {"binary", "image"} & set(parts):
            releases[release] = sorted(parts.values())
    return releases


def fetch(wanted: str, arch: Arch | None = None) -> Kernel:
    """Download and unpack the newest kernel of that series, unless it is here already.

    Raises:
        NoKernel: the archive has none.
    """
    arch = arch or host()
    kernels = available(arch)
    if wanted == "newest":
        matching = [name for name in kernels if name.endswith(arch.flavours[0])]
    else:
        matching = [name for name in kernels if _matches(name, wanted)]
    if not matching:
        known = dict.fromkeys(series(name) for name in kernels)
        raise NoKernel(f"no {arch.name} kernel {wanted} in {', '.join(debian.SUITES)}: there are {', '.join(known)}")
    gone = []
    # Debian takes superseded packages out of the archive before the index forgets them, and the other way round.
    for release in reversed(matching):
        try:
            return _fetched(arch, release, kernels[release])
        except debian.Gone:
            gone.append(release)
    raise NoKernel(f"the archive no longer has {', '.join(gone)}, though its index names them")


def _fetched(arch: Arch, release: str, packages: list[str]) -> Kernel:
    target = cache_directory("kernels") / release
    with lock(f"kernel-{release}"):
        if not target.exists():
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".") as scratch:
                _unpack(arch, packages, release, Path(scratch)).rename(target)
    return Kernel(target)


def _unpack(arch: Arch, packages: list[str], release: str, scratch: Path) -> Path:
    """Lay the packages out in `scratch`; returns the directory to keep."""
    debian.apt(arch, "apt-get", "download", *packages, directory=scratch)
    tree = scratch / "tree"
    debian.unpack(list(scratch.glob("*.deb")), tree)
    images = [*tree.glob("boot/vmlinuz-*"), *tree.glob("usr/lib/modules/*/vmlinuz")]
    modules = [*tree.glob("lib/modules/*"), *tree.glob("usr/lib/modules/*")]
    if not images:
        raise MachineError(f"no vmlinuz in {', '.join(packages)}: has Debian moved it?")
    keep = scratch / release
    keep.mkdir()
    images[0].rename(keep / "vmlinuz")
    if modules:
        modules[0].rename(keep / "modules")
    else:  # 6.19 to 7.1: superseded, only the signed binary is still in the archive
        (keep / "modules").mkdir()
    return keep


def _matches(release: str, wanted: str) -> bool:
    return wanted in (release, series(release))


def series(release: str) -> str:
    """6.1.0-56-cloud-amd64 → 6.1; a kernel with pages of 16 KiB says so: 6.12.9+deb12-arm64-16k → 6.12-16k"""
    number = ".".join(release.split("-")[0].split(".")[:2])
    return f"{number}-16k" if release.endswith("-16k") else number


def order(release: str) -> list[int]:
    """A sort key: 6.1.0-9 comes before 6.1.0-56."""
    return [int(number) for number in re.findall(r"\d+", re.sub("amd64|arm64", "", release))]
