"""Peers that come as Debian packages: downloaded and unpacked, never installed, so that the machine stays as it is."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

__all__ = ["find", "headers", "libraries", "unpack"]

_LIBRARIES = ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu")
#: What the kernel's headers hold besides headers is not needed to compile a BPF program.
_INCLUDES = ("include", "arch/x86/include")


def unpack(root: Path, *packages: str) -> None:
    """Packages, and what they need that is not installed, unpacked below ``root``.

    Raises:
        RuntimeError: apt does not have them or cannot download them.
    """
    done = root / ".unpacked"
    have = set(done.read_text().split()) if done.exists() else set()
    if have.issuperset(packages):
        return
    plan = _apt("-s", "install", "--no-install-recommends", *packages)
    wanted = {*packages, *re.findall(r"^Inst (\S+)", plan, re.MULTILINE)} - have
    debs = root.parent / "debs"
    debs.mkdir(parents=True, exist_ok=True)
    root.mkdir(exist_ok=True)
    for name in sorted(wanted):
        _apt("download", name, cwd=debs)
        deb = max(debs.glob(f"{name}_*.deb"), key=lambda path: path.stat().st_mtime)
        subprocess.run(["dpkg-deb", "-x", deb, root], check=True)
    done.write_text("\n".join(sorted(have | wanted)))


def headers(root: Path, release: str) -> Path:
    """The kernel's headers as one tree, as BCC's BCC_KERNEL_SOURCE wants them.

    Raises:
        RuntimeError: apt does not have them.
    """
    tree = root.parent / f"headers-{release}"
    if tree.exists():
        return tree
    common = re.sub(r"-(cloud-)?amd64$", "-common", release)
    # Without what they depend on: a compiler is not needed to include them.
    names = (f"linux-headers-{common}", f"linux-headers-{release}")
    debs = root.parent / "debs"
    debs.mkdir(parents=True, exist_ok=True)
    part = tree.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    for name in names:
        _apt("download", name, cwd=debs)
        subprocess.run(["dpkg-deb", "-x", next(debs.glob(f"{name}_*.deb")), root], check=True)
        for includes in _INCLUDES:
            shutil.copytree(root / "usr/src" / name / includes, part / includes, dirs_exist_ok=True)
    part.rename(tree)
    return tree


def find(root: Path, name: str) -> Path | None:
    """A program, installed or unpacked."""
    installed = shutil.which(name)
    if installed:
        return Path(installed)
    for folder in ("usr/bin", "usr/sbin", "bin", "sbin"):
        if (root / folder / name).exists():
            return root / folder / name
    return None


def libraries(root: Path, *binaries: Path) -> tuple[list[Path], str]:
    """The shared libraries of programs and libraries, and the LD_LIBRARY_PATH that finds the unpacked ones."""
    path = ":".join(str(root / folder) for folder in _LIBRARIES)
    shown = subprocess.run(
        ["ldd", *binaries], env={"LD_LIBRARY_PATH": path, "PATH": "/usr/bin:/bin"}, capture_output=True, text=True
    ).stdout
    return [Path(found) for found in sorted(set(re.findall(r"=> (/\S+) \(0x", shown)))], path


def _apt(*arguments: str, cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(
            ["apt-get", "-o", "APT::Sandbox::User=root", *arguments], cwd=cwd, capture_output=True, text=True
        )
    except FileNotFoundError:
        raise RuntimeError("there is no apt-get here") from None
    if done.returncode:
        raise RuntimeError(f"apt-get {' '.join(arguments)}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
    return done.stdout
