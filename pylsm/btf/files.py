"""Getting at BTF in files: /sys/kernel/btf, raw files, ELF objects."""

from __future__ import annotations

import os

from pylsm.btf.errors import BtfError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import mmap
    from typing import BinaryIO

__all__ = ["read"]

_SYSFS = "/sys/kernel/btf/"
_MAX_RAW = 1 << 30  # raw BTF is a few MB: more is a mistake, and would be read into memory


def read(path: str) -> tuple[bytes | mmap.mmap, bytes | None, str]:
    """The BTF in a file.

    Returns:
        The BTF, its base when the file is an ELF object that carries one (.BTF.base, in kernel modules since
        Linux 6.11), and a name for it.

    Raises:
        BtfError: the file cannot be read or holds no BTF.
    """
    name = path[len(_SYSFS) :] if path.startswith(_SYSFS) else path
    try:
        with open(path, "rb", buffering=0) as file:
            magic = file.read(4) or b""
            if magic == b"\x7fELF":
                return (*_from_elf(file, path), name)
            if magic[:2] not in (b"\x9f\xeb", b"\xeb\x9f"):
                raise BtfError(f"{path} is neither BTF nor ELF", section="header", offset=0)
            if path.startswith(_SYSFS):
                return _from_sysfs(file), None, name
            if os.fstat(file.fileno()).st_size > _MAX_RAW:
                raise BtfError(f"{path} is larger than {_MAX_RAW >> 20} MiB: no BTF is")
            return magic + file.read(), None, name
    except FileNotFoundError:
        if path != _SYSFS + "vmlinux":
            raise BtfError(f"{path}: no such file") from None
        raise BtfError(
            "this kernel has no BTF (/sys/kernel/btf/vmlinux is missing)",
            hint="use a kernel built with CONFIG_DEBUG_INFO_BTF=y, or give a BTF file made for this kernel",
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a path with NUL
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise BtfError(f"{path}: {reason}") from error


def _from_sysfs(file: BinaryIO) -> bytes | mmap.mmap:
    import mmap

    try:
        # Since Linux 6.16: one mapping in place of more than a thousand reads of one page each.
        return mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
    except (OSError, ValueError):
        file.seek(0)
        return file.read()


def _from_elf(file: BinaryIO, path: str) -> tuple[bytes, bytes | None]:
    from elftools.elf.elffile import ELFFile

    try:
        elf = ELFFile(file)
        section = elf.get_section_by_name(".BTF")
        base = elf.get_section_by_name(".BTF.base")
        found = section.data() if section is not None else None
        return_base = base.data() if base is not None else None
    except Exception as error:  # damaged ELF makes elftools raise nearly anything
        raise BtfError(f"{path}: damaged ELF file ({type(error).__name__}: {error})") from error
    if found is None:
        raise BtfError(f"{path}: no .BTF section in this ELF file", hint="compile with -g, or add one with pahole -J")
    return found, return_base
