"""The command line of tools/vm."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from . import CHECKOUT, MachineError, arch, image, kernels
from .machine import Machine

__all__ = ["main", "parse"]

NO_KERNEL = 69  # EX_UNAVAILABLE of sysexits.h
FAILED = 125  # as env(1), docker and git bisect say "not the command's own status"

EPILOG = """\
The machine has this checkout at its own path, this Python with the project's dependencies and its "test"
extra, a few tools, no network but loopback and no disk. It is gone when the command ends. Inside,
PYLSM_VM holds the kernel's release.

examples:
  tools/vm -- python3 -c 'print(1)'
  tools/vm --kernel 6.12 -- pytest tests/vm
  tools/vm --arch arm64 --kernel 6.12-16k -- uname -m    another architecture, 16 KiB pages
  tools/vm --kernel newest -- sh -c 'cat /sys/kernel/security/lsm; uname -r'
  tools/vm --lsm landlock -- python3 -m pylsm      a kernel where BPF LSM programs never fire
  tools/vm --share-out results -- pytest --junitxml /out/junit.xml
  tools/vm --modules overlay,veth -- unshare -n ip link add type veth
  tools/vm --icount -- tools/bench                 time counts instructions, so figures repeat
  tools/vm --fetch 5.10 6.1 6.12 6.18 7.3          download only

exit status: the command's, 128+N if signal N ended it; 69 when Debian has no such kernel, or no longer; 125
when the machine failed (no boot, panic, timeout, no network to fetch a kernel).
"""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/vm",
        usage="tools/vm [options] -- COMMAND [ARGUMENT...]\n       tools/vm --fetch KERNEL... | --list",
        description="Run a command under another Linux kernel, in a throw-away machine (QEMU, no KVM).",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    option = parser.add_argument
    option(
        "--kernel",
        default="6.1",
        metavar="VERSION",
        help="series, release or 'newest' (default: %(default)s)",
    )
    option(
        "--arch",
        default=arch.host().name,
        choices=[row.name for row in arch.ARCHITECTURES],
        help="architecture; of another than this machine's with Debian's Python (default: %(default)s)",
    )
    option(
        "--lsm",
        default="landlock,bpf",
        metavar="LIST",
        help="lsm= of the kernel; '' for its default (default: %(default)s)",
    )
    option("--append", default="", metavar="ARGS", help="further kernel parameters")
    option("--memory", type=int, default=1024, metavar="MB", help="(default: %(default)s)")
    option("--cpus", type=int, default=1, metavar="N", help="(default: %(default)s)")
    option("--cpu", default="", metavar="MODEL", help="the processor, as QEMU's -cpu has it (max: with cmpxchg16b)")
    option("--icount", action="store_true", help="clocks count guest instructions: repeatable, slower, one CPU")
    option(
        "--timeout",
        type=float,
        default=600,
        metavar="SECONDS",
        help="for boot and command (default: %(default)s)",
    )
    option(
        "--env",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="variable for the command; repeatable",
    )
    option("--modules", default="", metavar="NAME,...", help="kernel modules to load, with what they depend on")
    option(
        "--file",
        action="append",
        default=[],
        type=Path,
        metavar="PATH",
        help="take this file along too, at its own path; repeatable",
    )
    option("--share-out", type=Path, metavar="DIR", help="files the command leaves in /out come back here")
    option("--console", action="store_true", help="show kernel messages on standard error")
    option("--time", action="store_true", help="say on standard error how long the boot took")
    option("--fetch", nargs="+", metavar="KERNEL", help="download the newest of these, run nothing")
    option("--list", action="store_true", help="show the newest of each series, and those in the cache")
    option("command", nargs="*", help=argparse.SUPPRESS)

    # What follows -- is not ours to parse: it may hold a -- of its own.
    at = list(arguments).index("--") if "--" in arguments else len(arguments)
    own, command = list(arguments[:at]), list(arguments[at + 1 :])
    options = parser.parse_args(own)
    if options.command:
        parser.error(f"put -- before the command: tools/vm -- {' '.join(options.command)}")
    options.command = command
    if bool(command) + bool(options.fetch) + options.list != 1:
        parser.error("give a command after --, or --fetch, or --list")
    if options.icount and options.cpus != 1:
        parser.error("--icount works with one CPU only")
    for path in options.file:
        if not path.is_file():
            parser.error(f"--file {path}: no such file")
    for setting in options.env:
        if "=" not in setting:
            parser.error(f"--env {setting}: not NAME=VALUE")
    return options


def main() -> int:
    options = parse(sys.argv[1:])
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        if options.list:
            return _list(arch.by_name(options.arch))
        if options.fetch:
            for wanted in options.fetch:
                print(kernels.fetch(wanted, arch.by_name(options.arch)).release)
            return 0
        return _run(options)
    except MachineError as error:
        print(f"tools/vm: {error}", file=sys.stderr)
        return NO_KERNEL if isinstance(error, kernels.NoKernel) else FAILED
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:  # our reader has gone: tools/vm … | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + signal.SIGPIPE


def _run(options: argparse.Namespace) -> int:
    kernel = kernels.find(options.kernel, arch.by_name(options.arch))
    job = image.Job(
        command=options.command,
        environment=dict(setting.split("=", 1) for setting in options.env),
        modules=[name for name in options.modules.split(",") if name],
        share_out=options.share_out is not None,
    )
    if Path.cwd().is_relative_to(CHECKOUT):
        job.directory = os.getcwd()
    with open(os.memfd_create("initramfs"), "wb") as initramfs:
        image.write(initramfs, kernel, job, [path.absolute() for path in options.file])
        initramfs.flush()
        machine = Machine(
            kernel,
            initramfs,
            lsm=options.lsm,
            append=options.append,
            memory=options.memory,
            cpus=options.cpus,
            cpu=options.cpu,
            icount=options.icount,
            timeout=options.timeout,
            console=options.console,
            share_out=options.share_out,
        )
        status = machine.run()
    if options.time:
        print(f"tools/vm: {kernel.release} ran Python after {machine.boot_seconds:.1f} s", file=sys.stderr)
    return status


def _list(wanted: arch.Arch) -> int:
    here = [kernel.release for kernel in kernels.cached(wanted)]
    newest = {kernels.series(release): release for release in here}
    try:
        newest.update({kernels.series(release): release for release in kernels.available(wanted)})
    except MachineError as error:
        print(f"tools/vm: {error}\nOnly those in the cache:", file=sys.stderr)
    for release in sorted(newest.values(), key=kernels.order):
        series = kernels.series(release)
        cached = [each for each in here if kernels.series(each) == series]
        print(f"{series:6} {release:30} {'cached: ' + ', '.join(cached) if cached else ''}".rstrip())
    return 0
