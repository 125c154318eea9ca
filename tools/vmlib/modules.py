"""Kernel modules: which file a name means, what it needs first, as plain bytes ready for init_module(2)."""

from __future__ import annotations

import lzma
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from . import MachineError

__all__ = ["closure"]

SUFFIX = re.compile(r"\.ko(\.xz)?$")


def closure(tree: Path, names: Iterable[str]) -> list[tuple[str, bytes]]:
    """(file name, contents) of those modules and all they depend on, in the order to load them.

    Debian's packages have no modules.dep (depmod writes it at installation), so dependencies are read
    from the modules themselves. What is built into the kernel needs no loading.
    """
    wanted = [_canonical(name) for name in names]
    if not wanted:
        return []
    files = {_canonical(SUFFIX.sub("", path.name)): path for path in tree.rglob("*.ko*")}
    if not files:
        raise MachineError(f"the archive no longer has the modules of kernel {tree.parent.name}")
    builtin = set(_builtin(tree))
    order: dict[str, tuple[str, bytes]] = {}

    def visit(name: str) -> None:
        if name in order or (name in builtin and name not in files):
            return
        if name not in files:
            raise MachineError(f"kernel {tree.parent.name} has no module {name}")
        path = files[name]
        data = path.read_bytes()
        if path.suffix == ".xz":
            data = lzma.decompress(data)
        for dependency in _depends(data):
            visit(dependency)
        order[name] = (f"{name}.ko", data)

    for name in wanted:
        visit(name)
    return list(order.values())


def _depends(data: bytes) -> Iterator[str]:
    """`depends=a,b` in .modinfo, a section of NUL-separated strings that no other looks like."""
    match = re.search(rb"\0depends=([\w,-]*)\0", data)
    if match and match[1]:
        yield from (_canonical(name) for name in match[1].decode().split(","))


def _builtin(tree: Path) -> Iterator[str]:
    listing = tree / "modules.builtin"
    if listing.exists():
        for line in listing.read_text().splitlines():
            yield _canonical(SUFFIX.sub("", line.rsplit("/", 1)[-1]))


def _canonical(name: str) -> str:
    return name.strip().replace("-", "_")
