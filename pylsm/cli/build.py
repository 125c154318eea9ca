"""``pylsm build``: programs as a BPF ELF object, for libbpf, bpftool or pylsm on another machine."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pylsm.cli.status import say
from pylsm.errors import PylsmError

if TYPE_CHECKING:
    from pylsm.asm import Program
    from pylsm.btf import Btf

__all__ = ["add_parser"]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "build",
        help="write programs as a BPF ELF object that libbpf and bpftool load",
        description="Write pylsm's own programs, or those that a Python function returns, as an object file with BTF, "
        "maps and CO-RE relocations: it loads on other kernels than this one. Needs no privilege.",
        epilog="examples:\n"
        "  pylsm build -o probe.bpf.o && bpftool gen skeleton probe.bpf.o > probe.skel.h\n"
        "  pylsm build --source raw_tracepoint --variant walk-5.10 -o probe.bpf.o\n\n"
        "The program whose name ends in _walk is called by the others, through the map pylsm_walkers: do not attach it "
        "(bpf_program__set_autoattach(…, false)).",
    )
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="the object file to write")
    parser.add_argument(
        "--source",
        choices=("lsm", "fentry", "kprobe", "raw_tracepoint"),
        default="lsm",
        help="which of pylsm's own programs (default: lsm)",
    )
    parser.add_argument(
        "--variant", metavar="NAME", default="", help="which variant of them (default: the first, for new kernels)"
    )
    parser.add_argument(
        "functions",
        nargs="*",
        metavar="MODULE:FUNCTION",
        help="Python functions that return a Program or a list of them, in place of pylsm's own",
    )
    parser.set_defaults(handler=_build, parser=parser)


def _build(options: argparse.Namespace) -> int:
    from pylsm.loader.elf.writer import write_object

    slots: dict[str, list[str]] = {}
    if options.functions:
        programs, types = _named(options.functions)
    else:
        programs, types, slots = _own(options)
    data = write_object(programs, types=types, kernel=_kernel_types(programs), slots=slots)
    try:
        with open(options.output, "wb") as file:
            file.write(data)
    except OSError as error:
        raise PylsmError(f"{options.output}: {error.strerror}") from error
    names = ", ".join(program.name for program in programs)
    say(f"{options.output}: {len(data)} bytes; programs {names}")
    return 0


def _own(options: argparse.Namespace) -> tuple[list[Program], list[Btf], dict[str, list[str]]]:
    """Pylsm's programs, the types they name, and what their program arrays hold."""
    from pylsm.audit.maps import table_of
    from pylsm.audit.programs.common import KERNEL
    from pylsm.audit.sources import SOURCES

    source = next(source for source in SOURCES if source.name == options.source)
    wanted = [variant for variant in source.variants if options.variant in ("", variant.name)]
    if not wanted:
        raise PylsmError(
            f"source {source.name} has no variant {options.variant!r}",
            hint="there are: " + ", ".join(variant.name for variant in source.variants),
        )
    slots = {table_of(walker.name): [walker.name] for walker in source.walkers(wanted[0])}
    return source.all(wanted[0]), [KERNEL], slots


def _named(functions: Sequence[str]) -> tuple[list[Program], list[Btf]]:
    """The programs of MODULE:FUNCTION, and the declarations of types in those modules."""
    from pylsm.asm import Program
    from pylsm.btf import Btf

    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    programs: list[Program] = []
    types: list[Btf] = []
    for text in functions:
        name, colon, function = text.partition(":")
        if not colon or not function.isidentifier():
            raise PylsmError(f"{text!r} is not MODULE:FUNCTION")
        try:
            module = importlib.import_module(name)
            made = getattr(module, function)()
        except (ImportError, AttributeError) as error:
            raise PylsmError(f"{text}: {error}") from error
        listed = [made] if isinstance(made, Program) else list(made)
        if not all(isinstance(program, Program) for program in listed):
            raise PylsmError(f"{text} returns no Program and no list of them")
        programs += listed
        types += [value for value in vars(module).values() if isinstance(value, Btf)]
    return programs, types


def _kernel_types(programs: Sequence[Program]) -> Btf | None:
    """The running kernel's types, where it has any: for kfuncs, and for fields that no declaration has."""
    from pylsm.btf import Btf, BtfError

    try:
        return Btf.kernel()
    except BtfError:
        return None
