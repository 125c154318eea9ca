"""``pylsm btf``: types of the kernel or of a file, as C with offsets."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from pylsm.cli.status import complain

if TYPE_CHECKING:
    from pylsm.btf import Btf

__all__ = ["add_parser"]

_NOT_FOUND = 1
_SYSFS = "/sys/kernel/btf/"


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand and its own."""
    parser = commands.add_parser("btf", help="print types of the kernel, of a module or of an object file")
    inner = parser.add_subparsers(dest="btf_command", metavar="COMMAND", required=True)
    dump = inner.add_parser(
        "dump",
        help="print types as C, with offsets and sizes",
        description="Print types by name: struct, union, enum, typedef or function, with offsets and sizes in bytes.",
        epilog="exit status: 0 all were found, 1 some were not. example: pylsm btf dump task_struct 'enum pid_type'",
    )
    dump.add_argument("names", nargs="*", metavar="NAME", help="types; without any, the names of all types")
    dump.add_argument(
        "--file",
        metavar="PATH",
        help="raw BTF, an ELF object, or the name of a kernel module (default: the running kernel's vmlinux)",
    )
    dump.add_argument("--base", metavar="PATH", help="the BTF that --file continues (default for modules: vmlinux)")
    dump.set_defaults(handler=_dump, parser=dump)


def _dump(options: argparse.Namespace) -> int:
    from pylsm.btf import BtfError

    btf = _open(options.file, options.base)
    status = 0
    try:
        if not options.names:
            _list(btf)
        for name in options.names:
            try:
                print(btf.dump_c(name), flush=True)
            except BtfError as error:
                complain(error)
                status = _NOT_FOUND
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


def _open(path: str | None, base: str | None) -> Btf:
    from pylsm.btf import Btf

    below = Btf.from_file(base) if base is not None else None
    if path is None:
        return Btf.kernel()
    module = os.path.join(_SYSFS, path)
    if "/" not in path and not os.path.exists(path) and os.path.exists(module):
        path = module
    if below is None and path.startswith(_SYSFS) and os.path.basename(path) != "vmlinux":
        below = Btf.kernel()
    return Btf.from_file(path, below)


def _list(btf: Btf) -> None:
    from pylsm.btf import Kind

    words = {Kind.STRUCT: "struct", Kind.UNION: "union", Kind.ENUM: "enum", Kind.ENUM64: "enum"}
    for id in btf.types(own=True):
        type_ = btf.type(id)
        name = type_.name
        if name and type_.kind not in (Kind.INT, Kind.FLOAT, Kind.DECL_TAG, Kind.TYPE_TAG, Kind.FWD):
            print(f"{words.get(type_.kind, type_.kind.name.lower())} {name}")
