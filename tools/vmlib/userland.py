"""Python and tools for a machine of another architecture than this one's: Debian's packages, unpacked in the cache."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

from . import cache_directory, debian
from .arch import Arch
from .locks import lock

__all__ = ["DISTRIBUTIONS", "PYTHON", "VERSION", "files", "tree"]

VERSION = (3, 11)
PYTHON = "/usr/bin/python3.11"
#: where this Python looks for modules that come from elsewhere
DISTRIBUTIONS = "/usr/local/lib/python3.11/dist-packages"

PACKAGES = (
    *("python3.11", "bash", "dash", "coreutils", "findutils", "grep", "sed"),
    *("iproute2", "util-linux", "mount", "procps", "bpftool", "libgcc-s1"),
)
UNUSED = re.compile(
    r"/usr/(share/(?!misc)|include|games|lib/(systemd|init|udev|terminfo|mime|apt|dpkg|python3/dist-packages)|sbin/pam)"
    r"|/(etc|var)/|.*/(perl|perl5|gconv|security|engines-3|ossl-modules|__pycache__)/"
)


def tree(arch: Arch) -> Path:
    """The directory with the packages laid out, fetched when it is not there."""
    target = cache_directory("userland") / f"{debian.USERLAND}-{arch.name}"
    with lock(f"userland-{arch.name}"):
        if not target.exists():
            debian.update(arch)
            archives = cache_directory(f"apt/{arch.name}/cache/archives")
            install = ("install", "-y", "--no-install-recommends", "--download-only", *PACKAGES)
            debian.apt(arch, "apt-get", *install)
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".") as scratch:
                made = Path(scratch) / "tree"
                debian.unpack(list(archives.glob("*.deb")), made)
                for name in ("bin", "lib", "sbin"):  # in /usr, as Debian's installer makes them
                    shutil.copytree(made / name, made / "usr" / name, symlinks=True, dirs_exist_ok=True)
                    shutil.rmtree(made / name)
                    (made / name).symlink_to(f"usr/{name}")
                made.rename(target)
            debian.apt(arch, "apt-get", "clean")
    return target


def files(arch: Arch) -> list[tuple[str, Path]]:
    """(path in the machine, file or link here) of what a machine needs."""
    root = tree(arch)
    found = [(f"/{path.relative_to(root)}", path) for path in sorted(root.rglob("*"))]
    return [(name, path) for name, path in found if not UNUSED.match(name) and (path.is_symlink() or path.is_file())]
