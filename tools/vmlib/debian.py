"""Debian's packages, of any suite and architecture, as apt reads and verifies them from this machine's mirror.

apt gets a configuration of its own (sources, lists, an empty status), so that this machine's apt is left alone
and nobody need be root.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from . import MachineError, cache_directory
from .arch import Arch

__all__ = ["SUITES", "USERLAND", "Gone", "apt", "run", "unpack", "update"]

# Kernels of several generations: 5.10; 6.1 and 6.12; 6.12; 6.16 and all that follow.
SUITES = ("bullseye-security", "bookworm-security", "bookworm-backports", "trixie-backports")
# Python and tools for a machine that cannot run this one's.
USERLAND = "bookworm"
# Debian's own names: others' repositories use the like of "bookworm-pgdg" or "nodistro".
DEBIAN = re.compile("(bullseye|bookworm|trixie|forky|duke|sid)(-updates|-security|-backports)?")
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


class Gone(MachineError):
    """A package that the index names is no longer in the archive."""


def update(arch: Arch) -> None:
    """Read the package index; one suite that fails (archived, renamed) does not hide the others."""
    result = subprocess.run(
        ["apt-get", "-c", str(_configuration(arch)), "-q", "update"], capture_output=True, text=True, check=False
    )
    lists = cache_directory(f"apt/{arch.name}/lists")
    if result.returncode and not list(lists.glob("*_Packages*")):
        raise MachineError(f"apt cannot read {', '.join(SUITES)}:\n{result.stderr.strip()}")


def apt(arch: Arch, tool: str, *arguments: str, directory: Path | None = None) -> str:
    """What an apt tool prints, with the lists of that architecture."""
    return run([tool, "-c", str(_configuration(arch)), "-q", *arguments], directory)


def unpack(archives: list[Path], tree: Path) -> None:
    """Lay packages out in one tree."""
    for package in sorted(archives):
        run(["dpkg-deb", "-x", str(package), str(tree)])


def run(command: list[str], directory: Path | None = None) -> str:
    """Output of a command that has to succeed.

    Raises:
        Gone: apt found a package in its lists and not in the archive.
    """
    if shutil.which(command[0]) is None:
        raise MachineError(f"{command[0]} is missing: tools/vm gets its kernels from Debian packages")
    result = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    if result.returncode:
        kind = Gone if re.search(r"\b404\b", result.stderr) else MachineError
        raise kind(f"{' '.join(command)} failed:\n{result.stderr.strip()}")
    return result.stdout


def _configuration(arch: Arch) -> Path:
    base = cache_directory(f"apt/{arch.name}")
    cache_directory(f"apt/{arch.name}/lists/partial")
    cache_directory(f"apt/{arch.name}/cache/archives/partial")
    mirrors = _mirrors()
    stanzas = []
    for suite in (*SUITES, USERLAND):
        security = suite.endswith("-security")
        signed = f"Signed-By: {KEYRING}\n" if os.path.exists(KEYRING) else ""
        stanzas.append(
            f"Types: deb\nURIs: {mirrors[security]}\nSuites: {suite}\nComponents: main\n"
            f"Architectures: {arch.name}\n{signed}"
        )
    _replace(base / "debian.sources", "\n".join(stanzas))
    # The post-invoke hooks of container images empty the machine's own cache: none of ours.
    _replace(
        base / "apt.conf",
        f'APT::Architecture "{arch.name}";\n'
        f'APT::Architectures "{arch.name}";\n'
        f'APT::Default-Release "{USERLAND}";\n'
        f'Dir::Etc::sourcelist "{base}/debian.sources";\n'
        'Dir::Etc::sourceparts "-";\n'
        f'Dir::State::lists "{base}/lists";\n'
        'Dir::State::status "/dev/null";\n'
        f'Dir::Cache "{base}/cache";\n'
        'Acquire::Languages "none";\n'
        'APT::Sandbox::User "";\n'
        'Debug::NoLocking "1";\n'
        'Acquire::Retries "3";\n'
        "#clear APT::Update::Post-Invoke;\n"
        "#clear APT::Update::Post-Invoke-Success;\n"
        "#clear DPkg::Post-Invoke;\n",
    )
    return base / "apt.conf"


def _mirrors() -> dict[bool, str]:
    """This machine's Debian mirrors, {False: the archive, True: its security archive}."""
    # What an update would fetch: unlike indextargets it needs no update before.
    uris = run(["apt-get", "--print-uris", "update"])
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
