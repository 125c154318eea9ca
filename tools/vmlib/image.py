"""The machine's file system: an initramfs of a cached base (Python, libraries, tools) and the checkout."""

from __future__ import annotations

import dataclasses
import glob
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from . import CHECKOUT, MachineError, cache_directory, cpio, guest_init, modules, python, userland
from .arch import Arch, host
from .cpio import Archive
from .kernels import Kernel
from .locks import lock

__all__ = ["Job", "base", "checkout_files", "write"]

# What tests reach for; those that this machine has.
TOOLS = """
    bash cat chmod chown cp cut date dd echo env false find grep head id kill ln ls mkdir mknod mktemp mv nproc
    pwd readlink rm rmdir sed seq sh sleep sort stat sync tail tee timeout touch tr true uname wc yes
    bpftool chroot dmesg ip mount nsenter prlimit ps setpriv setsid ss taskset umount unshare
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
KEPT_IMAGES = 6  # the last used: 100 MB each


@dataclass
class Job:
    """What process 1 is to do, as it reads it (guest_init.py)."""

    command: Sequence[str]
    directory: str = str(CHECKOUT)
    environment: dict[str, str] = field(default_factory=dict)
    modules: Sequence[str] = ()
    share_out: bool = False


def write(out: BinaryIO, kernel: Kernel, job: Job, files: Iterable[Path] = ()) -> None:
    """The whole initramfs: the base, then the checkout and further files, modules, init and its job."""
    foreign = kernel.arch != host()
    with open(base(kernel.arch), "rb") as file:
        shutil.copyfileobj(file, out, 1 << 20)
    with Archive(out) as archive:
        archive.directory(job.directory)
        for path in sorted({*checkout_files(), *files}):
            compiled = not foreign or sys.version_info[:2] == userland.VERSION
            _add(archive, path, checked=True, compiled=compiled)
            if compiled and path.suffix == ".py" and path.is_relative_to(CHECKOUT / "tests"):
                pyc = python.rewritten(path)
                if pyc is not None:
                    archive.file(*pyc)
        loaded = modules.closure(kernel.modules, job.modules)
        for name, data in loaded:  # not in /lib: a link in the base, which a directory would replace
            archive.file(f"/modules/{name}", data)
        job = dataclasses.replace(
            job,
            modules=[f"/modules/{name}" for name, _ in loaded],
            environment={**_environment(userland.PYTHON if foreign else sys.executable), **job.environment},
        )
        archive.file(guest_init.JOB, json.dumps(dataclasses.asdict(job)).encode())
        # Of a virtual environment not its own Python: init needs the standard library only, and quickly.
        interpreter = userland.PYTHON if foreign else os.path.realpath(python.base_executable())
        init = f"#!{interpreter} -IS\n" + Path(guest_init.__file__).read_text()
        archive.file("/init", init.encode(), 0o755)


def base(arch: Arch) -> Path:
    """The cached base image for this interpreter, its distributions and this machine's tools.

    For another architecture: Debian's interpreter and tools, and the same distributions.
    """
    distributions = python.closure(python.required())
    foreign = arch != host()
    tools = [] if foreign else [path for path in (shutil.which(name, path=SEARCH) for name in TOOLS.split()) if path]
    directory = cache_directory("images")
    image = directory / f"{_key(arch, distributions, tools)}.cpio"
    with lock(f"image-{image.stem}"):
        if not image.exists():
            part = image.with_suffix(".part")
            with open(part, "wb") as file:
                if foreign:
                    _write_foreign_base(file, arch, distributions)
                else:
                    _write_base(file, distributions, tools)
            part.rename(image)
    os.utime(image)
    for unused in sorted(directory.glob("*.cpio"), key=os.path.getmtime)[:-KEPT_IMAGES]:
        unused.unlink(missing_ok=True)
    return image


def checkout_files(root: Path = CHECKOUT) -> list[Path]:
    """Tracked files and new ones that git does not ignore; where git has no answer, all but hidden ones."""
    try:
        # A checkout that someone else owns is as good to list as to run.
        listing = subprocess.run(
            ["git", "-c", "safe.directory=*", "-C", root, "ls-files", "-coz", "--exclude-standard"],
            capture_output=True,
            check=True,
        ).stdout
        paths = [root / os.fsdecode(name) for name in listing.split(b"\0") if name]
    except (OSError, subprocess.CalledProcessError):
        hidden = re.compile(r"(^|/)(\.|__pycache__)")
        paths = [path for path in root.rglob("*") if not hidden.search(str(path.relative_to(root)))]
    return sorted({path for path in paths if path.is_symlink() or path.is_file()})


def _environment(interpreter: str) -> dict[str, str]:
    return {
        # This interpreter's directory first, so that `python3` and `pytest` are its.
        "PATH": f"{os.path.dirname(interpreter)}:{SEARCH}",
        "HOME": "/root",
        "USER": "root",
        "LOGNAME": "root",
        "SHELL": "/bin/sh",
        "PYTHONPATH": str(CHECKOUT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",  # a machine that dies takes along what is buffered
        # Named, since pytest rewrites the asserts of all that belongs to a plugin that it finds by itself: all of
        # hypothesis, which takes longer than most tests.
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTEST_PLUGINS": ",".join(python.pytest_plugins(python.closure(python.required()))),
    }


def _key(arch: Arch, distributions: Sequence[python.Distribution], tools: Sequence[str]) -> str:
    """Names the contents of a base image; they are not read for it."""
    content = [arch.name, sys.version, sys.prefix]
    if arch != host():
        content.append(str(userland.tree(arch).stat().st_ctime_ns))
    content += [f"{each.metadata['Name']} {each.version} {each.locate_file('')}" for each in distributions]
    watched = [sys.executable, *tools, *_expand(LOADED_LATER)]
    content += [f"{path} {os.stat(path).st_mtime_ns}" for path in watched]
    content += [Path(source).read_text() for source in (__file__, python.__file__, cpio.__file__, userland.__file__)]
    return hashlib.sha256("\0".join(content).encode()).hexdigest()[:16]


def _write_base(out: BinaryIO, distributions: Sequence[python.Distribution], tools: Sequence[str]) -> None:
    with Archive(out) as archive:
        _skeleton(archive)
        files = [archive.copy(tool) for tool in tools]
        for source in python.interpreter_files():
            files.append(_add(archive, source, checked=False))
        for distribution in distributions:
            for source in python.distribution_files(distribution):
                files.append(_add(archive, source, checked=False))
        for library in [*_libraries(files), *_expand(LOADED_LATER)]:
            archive.copy(library)
        for name in ("python", "python3"):
            archive.symlink(f"{os.path.dirname(sys.executable)}/{name}", os.path.basename(sys.executable))


def _write_foreign_base(out: BinaryIO, arch: Arch, distributions: Sequence[python.Distribution]) -> None:
    compiled = sys.version_info[:2] == userland.VERSION
    with Archive(out) as archive:
        _skeleton(archive)
        found = userland.files(arch)
        for distribution in distributions:
            root = Path(str(distribution.locate_file("")))
            for source in python.distribution_files(distribution):
                if source.suffix == ".so":
                    raise MachineError(f"{distribution.metadata['Name']} has a part of its own for each architecture")
                if source.is_relative_to(root):  # scripts are not: python3 -m pytest
                    found.append((f"{userland.DISTRIBUTIONS}/{source.relative_to(root)}", source))
        for name, source in found:
            if source.is_symlink():
                archive.symlink(name, os.readlink(source))
                continue
            archive.file(name, source.read_bytes(), source.stat().st_mode & 0o7777)
            pyc = python.bytecode(source, False, name) if compiled and source.suffix == ".py" else None
            if pyc is not None:
                archive.file(*pyc)
        for name in ("python", "python3"):
            archive.symlink(f"{os.path.dirname(userland.PYTHON)}/{name}", os.path.basename(userland.PYTHON))


def _skeleton(archive: Archive) -> None:
    for directory in DIRECTORIES:
        archive.directory(directory, 0o1777 if directory.endswith("tmp") else 0o755)
    for name, text in ETC.items():
        archive.file(name, text.encode())


def _add(archive: Archive, path: Path, checked: bool, compiled: bool = True) -> str:
    """A file, and its bytecode when it is a Python module, since compiling is slow under emulation."""
    if not path.exists():  # a symbolic link that leads nowhere: tests have those
        archive.symlink(str(path), os.readlink(path))
        return str(path)
    real = archive.copy(path)
    if compiled and real.endswith(".py"):
        pyc = python.bytecode(Path(real), checked)
        if pyc is not None:
            archive.file(*pyc)
    return real


def _libraries(files: Iterable[str]) -> list[str]:
    """Shared libraries and the ELF interpreter of executables among the files, as the loader finds them."""
    binaries = [path for path in files if os.access(path, os.X_OK) or ".so" in path]
    elf = [path for path in binaries if _is_elf(path)]
    found = subprocess.run(["ldd", *elf], capture_output=True, text=True, check=False).stdout
    return sorted(set(re.findall(r"(/\S+) \(0x", found)))


def _is_elf(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(4) == b"\x7fELF"


def _expand(patterns: Iterable[str]) -> list[str]:
    return sorted(path for pattern in patterns for path in glob.glob(pattern))
