"""Debian's kernels: which there are, fetched and verified by apt, kept unpacked in the cache.

apt gets a configuration of its own (sources, lists), so that this machine's apt is left alone, any suite
can be read, and nobody need be root. The mirror is the one that this machine's apt uses.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from . import MachineError, cache_directory

__all__ = ["Kernel", "available", "cached", "fetch", "find", "lock", "order", "series"]

# Suites with kernels of several generations: 5.10; 6.1 and 6.12; 6.12; 6.16 and all that follow.
SUITES = ("bullseye-security", "bookworm-security", "bookworm-backports", "trixie-backports")
FLAVOUR = "cloud-amd64"  # small, built for virtual machines; BTF, BPF LSM and ftrace are on
PACKAGE = re.compile(rf"linux-(image|binary|modules|base)-(\d+\.\d+\.\S*-{FLAVOUR})")
# Debian's own names: others' repositories use the like of "bookworm-pgdg" or "nodistro".
DEBIAN = re.compile("(bullseye|bookworm|trixie|forky|duke|sid)(-updates|-security|-backports)?")
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


@dataclass(frozen=True)
class Kernel:
    """An unpacked kernel: `vmlinuz` and `modules/` in a directory named after the release."""

    directory: Path

    @property
    def release(self) -> str:
        return self.directory.name

    @property
    def image(self) -> Path:
        return self.directory / "vmlinuz"

    @property
    def modules(self) -> Path:
        return self.directory / "modules"


def find(wanted: str) -> Kernel:
    """The newest cached kernel of that series or release, fetched when there is none."""
    here = [kernel for kernel in cached() if wanted != "newest" and _matches(kernel.release, wanted)]
    return here[-1] if here else fetch(wanted)


def cached() -> list[Kernel]:
    """Kernels in the cache, oldest release first."""
    paths = [path for path in cache_directory("kernels").iterdir() if path.name.endswith(FLAVOUR)]
    return [Kernel(path) for path in sorted(paths, key=lambda path: order(path.name))]


def available() -> dict[str, list[str]]:
    """Release → packages that make it up, oldest release first, as apt's freshly read index has them."""
    with lock("apt"):
        _update()
        names = _apt("apt-cache", "pkgnames", "linux-").split()
    found: dict[str, dict[str, str]] = {}
    for name in names:
        match = PACKAGE.fullmatch(name)
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


def fetch(wanted: str) -> Kernel:
    """Download and unpack the newest kernel of that series, unless it is here already."""
    kernels = available()
    matching = list(kernels) if wanted == "newest" else [name for name in kernels if _matches(name, wanted)]
    if not matching:
        known = sorted({series(name) for name in kernels}, key=order)
        raise MachineError(f"no kernel {wanted} in {', '.join(SUITES)}: there are {', '.join(known)}")
    release = matching[-1]
    target = cache_directory("kernels") / release
    with lock(f"kernel-{release}"):
        if not target.exists():
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".") as scratch:
                _unpack(kernels[release], release, Path(scratch)).rename(target)
    return Kernel(target)


@contextlib.contextmanager
def lock(name: str) -> Iterator[None]:
    """Of several tools/vm that want the same thing made, one makes it."""
    with open(cache_directory("locks") / name, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _unpack(packages: list[str], release: str, scratch: Path) -> Path:
    """Lay the packages out in `scratch`; returns the directory to keep."""
    _apt("apt-get", "download", *packages, directory=scratch)
    tree = scratch / "tree"
    for package in sorted(scratch.glob("*.deb")):
        _run(["dpkg-deb", "-x", str(package), str(tree)])
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
    return release == wanted or series(release) == wanted


def series(release: str) -> str:
    """6.1.0-56-cloud-amd64 → 6.1"""
    return ".".join(release.split("-")[0].split(".")[:2])


def order(release: str) -> list[int]:
    """A sort key: 6.1.0-9 comes before 6.1.0-56."""
    return [int(number) for number in re.findall(r"\d+", release.replace(FLAVOUR, ""))]


def _update() -> None:
    """Read the package index; one suite that fails (archived, renamed) does not hide the others."""
    result = subprocess.run(
        ["apt-get", "-c", str(_configuration()), "-q", "update"], capture_output=True, text=True, check=False
    )
    lists = cache_directory("apt/lists")
    if result.returncode and not list(lists.glob("*_Packages*")):
        raise MachineError(f"apt cannot read {', '.join(SUITES)}:\n{result.stderr.strip()}")


def _apt(tool: str, *arguments: str, directory: Path | None = None) -> str:
    return _run([tool, "-c", str(_configuration()), "-q", *arguments], directory)


def _configuration() -> Path:
    base = cache_directory("apt")
    cache_directory("apt/lists/partial")
    cache_directory("apt/cache/archives/partial")
    mirrors = _mirrors()
    stanzas = []
    for suite in SUITES:
        security = suite.endswith("-security")
        signed = f"Signed-By: {KEYRING}\n" if os.path.exists(KEYRING) else ""
        stanzas.append(
            f"Types: deb\nURIs: {mirrors[security]}\nSuites: {suite}\nComponents: main\nArchitectures: amd64\n{signed}"
        )
    _replace(base / "debian.sources", "\n".join(stanzas))
    # The post-invoke hooks of container images empty the machine's own cache: none of ours.
    _replace(
        base / "apt.conf",
        f'Dir::Etc::sourcelist "{base}/debian.sources";\n'
        'Dir::Etc::sourceparts "-";\n'
        f'Dir::State::lists "{base}/lists";\n'
        f'Dir::Cache "{base}/cache";\n'
        'Acquire::Languages "none";\n'
        'APT::Sandbox::User "";\n'
        "#clear APT::Update::Post-Invoke;\n"
        "#clear APT::Update::Post-Invoke-Success;\n",
    )
    return base / "apt.conf"


def _mirrors() -> dict[bool, str]:
    """This machine's Debian mirrors, {False: the archive, True: its security archive}."""
    # What an update would fetch: unlike indextargets it needs no update before.
    uris = _run(["apt-get", "--print-uris", "update"])
    mirrors: dict[bool, str] = {}
    for uri, suite in re.findall(r"'(\S+)/dists/([\w-]+)/InRelease'", uris):
        if DEBIAN.fullmatch(suite):
            mirrors.setdefault(suite.endswith("-security"), uri)
    if False not in mirrors:
        raise MachineError("apt on this machine has no Debian mirror configured (deb … main)")
    # A machine without security updates: Debian's mirrors keep both archives side by side.
    mirrors.setdefault(True, mirrors[False] + "-security")
    return mirrors


def _replace(path: Path, text: str) -> None:
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text(text)
    scratch.replace(path)


def _run(command: list[str], directory: Path | None = None) -> str:
    if shutil.which(command[0]) is None:
        raise MachineError(f"{command[0]} is missing: tools/vm gets its kernels from Debian packages")
    result = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    if result.returncode:
        raise MachineError(f"{' '.join(command)} failed:\n{result.stderr.strip()}")
    return result.stdout
