"""The machine's file system: an initramfs of a cached base (Python, libraries, tools) and the checkout."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

from . import CHECKOUT, cache_directory, cpio, guest_init, modules, python
from .cpio import Archive
from .kernels import Kernel, lock

__all__ = ["base", "checkout_files", "guest_path", "write"]

# What tests reach for; those that this machine has.
TOOLS = """
    bash cat chmod chown cp dd echo env false find grep head id kill ln ls mkdir mknod mv nproc pwd readlink rm
    rmdir sed seq sh sleep sort stat tail tee timeout touch true uname wc yes
    bpftool chroot dmesg ip mount nsenter prlimit ps setpriv setsid taskset umount unshare
"""
SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Opened at run time by name, so no ldd shows them.
LOADED_LATER = (
    "/lib/*/libgcc_s.so.1",
    "/lib/*/libnss_files.so.2",
    "/lib*/ld-linux-*.so.*",
    "/etc/ld.so.cache",
)
ETC = {
    "/etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/sh\n",
    "/etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "/etc/hosts": "127.0.0.1 localhost pylsm-vm\n::1 localhost ip6-localhost ip6-loopback\n",
    "/etc/hostname": "pylsm-vm\n",
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}
DIRECTORIES = ("/proc", "/sys", "/dev", "/tmp", "/run", "/root", "/mnt", "/var/tmp", "/home")
KEPT_IMAGES = 4  # the last used: 100 MB each


def guest_path() -> str:
    """This interpreter first, so that `python3` and `pytest` are its."""
    return f"{os.path.dirname(sys.executable)}:{SEARCH}"


def base() -> Path:
    """The cached base image for this interpreter, its distributions and this machine's tools."""
    directory = cache_directory("images")
    distributions = python.closure(python.required())
    tools = [path for path in (shutil.which(name, path=SEARCH) for name in TOOLS.split()) if path]
    versions = [f"{dist.metadata['Name']} {dist.version} {dist.locate_file('')}" for dist in distributions]
    stamps = [
        f"{path} {os.stat(path).st_mtime_ns}" for path in [sys.executable, *tools, *_expand(LOADED_LATER)]
    ]
    sources = [Path(source).read_text() for source in (__file__, python.__file__, cpio.__file__)]
    key = hashlib.sha256(
        "\0".join([sys.version, sys.prefix, *versions, *stamps, *sources]).encode()
    ).hexdigest()
    image = directory / f"{key[:16]}.cpio"
    with lock(f"image-{key[:16]}"):
        if not image.exists():
            files = [path for dist in distributions for path in python.distribution_files(dist)]
            part = image.with_suffix(".part")
            with open(part, "wb") as file:
                _write_base(file, [*python.interpreter_files(), *files], tools)
            part.rename(image)
    os.utime(image)
    for unused in sorted(directory.glob("*.cpio"), key=os.path.getmtime)[:-KEPT_IMAGES]:
        unused.unlink(missing_ok=True)
    return image


def checkout_files(root: Path = CHECKOUT) -> list[Path]:
    """Tracked files and new ones that git does not ignore; all of them where there is no git."""
    listing = (
        subprocess.run(
            ["git", "-C", str(root), "ls-files", "-coz", "--exclude-standard"],
            capture_output=True,
            check=False,
        )
        if shutil.which("git")
        else None
    )
    if listing is not None and listing.returncode == 0:
        paths = [root / os.fsdecode(name) for name in listing.stdout.split(b"\0") if name]
    else:
        paths = [path for path in root.rglob("*") if not {".git", "__pycache__"} & set(path.parts)]
    return sorted({path for path in paths if path.is_symlink() or path.is_file()})


def write(
    out: BinaryIO,
    *,
    kernel: Kernel,
    wanted_modules: Sequence[str],
    command: Sequence[str],
    environment: dict[str, str],
    share_out: bool,
) -> None:
    """The whole initramfs: base, then checkout, modules, init and what it is to do."""
    with open(base(), "rb") as file:
        shutil.copyfileobj(file, out, 1 << 20)
    with Archive(out) as archive:
        loaded = []
        for name, data in modules.closure(kernel.modules, wanted_modules):
            loaded.append(f"/modules/{name}")  # not /lib: a link in the base, which a directory would replace
            archive.file(loaded[-1], data)
        config = {
            "command": list(command),
            "directory": os.getcwd() if Path.cwd().is_relative_to(CHECKOUT) else str(CHECKOUT),
            "environment": {
                "PATH": guest_path(),
                "HOME": "/root",
                "USER": "root",
                "LOGNAME": "root",
                "SHELL": "/bin/sh",
                "PYTHONPATH": str(CHECKOUT),
                "PYTHONDONTWRITEBYTECODE": "1",
                "PYTHONUNBUFFERED": "1",  # a machine that dies takes what is buffered with it
                **environment,
            },
            "modules": loaded,
            "share_out": share_out,
        }
        archive.file("/vm.json", json.dumps(config).encode())
        init = f"#!{_base_executable()} -IS\n" + Path(guest_init.__file__).read_text()
        archive.file("/init", init.encode(), 0o755)
        archive.directory(str(CHECKOUT))
        for path in checkout_files():
            _add(archive, path, checked=True)


def _write_base(out: BinaryIO, files: Iterable[Path], tools: Sequence[str]) -> None:
    with Archive(out) as archive:
        for directory in DIRECTORIES:
            archive.directory(directory, 0o1777 if directory.endswith("tmp") else 0o755)
        for name, text in ETC.items():
            archive.file(name, text.encode())
        elf = [archive.copy(tool) for tool in tools]
        for source in files:
            real = _add(archive, source, checked=False)
            if source.suffix == ".so" or ".so." in source.name or os.access(source, os.X_OK):
                elf.append(real)
        for library in [*_libraries(elf), *_expand(LOADED_LATER)]:
            archive.copy(library)
        for name in ("python", "python3"):
            archive.symlink(f"{os.path.dirname(sys.executable)}/{name}", os.path.basename(sys.executable))


def _add(archive: Archive, path: Path, checked: bool) -> str:
    """A file, and its bytecode when it is a Python module, since compiling is slow under emulation."""
    real = archive.copy(path)
    if real.endswith(".py"):
        pyc = python.bytecode(Path(real), checked)
        if pyc is not None:
            archive.file(*pyc)
    return real


def _libraries(binaries: Sequence[str]) -> list[str]:
    """Shared libraries and the ELF interpreter, as the dynamic loader itself finds them."""
    elf = [path for path in binaries if _is_elf(path)]
    found = subprocess.run(["ldd", *elf], capture_output=True, text=True, check=False).stdout
    return sorted(set(re.findall(r"(/\S+) \(0x", found)))


def _is_elf(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(4) == b"\x7fELF"


def _expand(patterns: Iterable[str]) -> list[str]:
    return sorted(path for pattern in patterns for path in glob.glob(pattern))


def _base_executable() -> str:
    """Not the virtual environment's: init wants the standard library only."""
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable))
