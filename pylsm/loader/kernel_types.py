"""The running kernel's types as bpf(2) hands them out: in one copy, where /sys/kernel/btf/vmlinux takes a call, and two
copies, for each page of some thousand."""

from __future__ import annotations

import os

from pylsm.libc import Memory, Structure
from pylsm.loader.attr import BtfInfo, Cmd, IdAttr, InfoAttr
from pylsm.loader.bpf import bpf_errno

__all__ = ["kernel_types"]

#: At how many ids it is looked: the kernel's own types are there before all others, or not there.
_LOOKS = 8
_LARGEST = 1 << 28


def kernel_types() -> Memory | None:
    """The BTF called vmlinux; None where the kernel does not show it like this: before 5.11, or without CAP_SYS_ADMIN,
    or as long as nobody needed it."""
    asked = IdAttr()
    for _ in range(_LOOKS):
        if bpf_errno(Cmd.BTF_GET_NEXT_ID, asked) < 0:
            break
        asked.id = asked.next_id
        fd = bpf_errno(Cmd.BTF_GET_FD_BY_ID, IdAttr(id=asked.id))
        if fd < 0:
            break
        try:
            name = Memory(16)
            info = BtfInfo(name=name.address, name_len=len(name))
            if _ask(fd, info) and info.kernel_btf and name.text() == b"vmlinux" and info.btf_size <= _LARGEST:
                types = Memory(info.btf_size)
                info = BtfInfo(btf=types.address, btf_size=len(types))
                found = _ask(fd, info)
                types.loosen()  # some megabytes
                return types if found else None
        finally:
            os.close(fd)
    return None


def _ask(fd: int, info: Structure) -> bool:
    return bpf_errno(Cmd.OBJ_GET_INFO_BY_FD, InfoAttr(bpf_fd=fd, info_len=len(info), info=info.address)) >= 0
