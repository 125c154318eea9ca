"""``pylsm ship``: deliver a spool to its sinks; ``run`` and ``attach`` start it by themselves."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys

from pylsm.cli.options import add_sink_options
from pylsm.cli.status import say
from pylsm.errors import PylsmError
from pylsm.light import TYPE_CHECKING

if TYPE_CHECKING:
    from pylsm.ship.sinks import Sink

__all__ = ["add_parser"]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "ship",
        help="deliver recorded events to other systems",
        description="Deliver the events of a spool to engines: each at least once, in order, with an id by which a "
        "second delivery is told. `run` and `attach` with --sink do this by themselves; this is for a spool whose "
        "audit has ended, or that another process records to.",
        epilog="exit status: 0 all is delivered, 1 something is left in the spool, 125 it cannot be delivered from.\n\n"
        "examples:\n"
        "  pylsm ship --check --sink nats://127.0.0.1\n"
        "  pylsm ship --until-empty --sink syslog+tls://logs.example.org --sink sqlite:///var/lib/pylsm/store/events.db\n\n"
        "docs/fleet.md has every sink and its options.",
    )
    add_sink_options(parser)
    parser.add_argument("--until-empty", action="store_true", help="end when everything is delivered (default: Ctrl-C)")
    parser.add_argument("--check", action="store_true", help="only connect to each sink, and say what comes of it")
    parser.add_argument("--no-confine", action="store_true", help="use neither Landlock nor seccomp (to debug pylsm)")
    parser.add_argument("--for-audit", action="store_true", help=argparse.SUPPRESS)
    parser.set_defaults(handler=_ship, parser=parser, metrics=None)


def _ship(options: argparse.Namespace) -> int:
    from pylsm.ship.place import courier, default_directory, make_directory
    from pylsm.ship.process import Job, deliver
    from pylsm.ship.sinks import make

    audit = -1
    if options.for_audit:
        audit = 0
        for name, value in json.loads(_line(audit)).items():
            setattr(options, name, value)
    sinks = [make(url) for url in dict.fromkeys(options.sink)]
    if options.check:
        return _check(sinks)
    if not sinks and not options.for_audit:
        options.parser.error("name where to deliver to with --sink URL")
    who = courier(options.sink_user)
    directory = options.spool or default_directory()
    if not options.for_audit and not os.path.isdir(directory):
        raise PylsmError(f"there is no spool {directory}", hint="name the one of the audit with --spool DIR")
    job = Job(
        directory=make_directory(directory, who),
        sinks=sinks,
        who=who,
        drain=options.drain,
        confine=not options.no_confine,
        audit=audit,
        until_empty=options.until_empty,
        say=say,
        metrics=tuple(options.metrics) if options.metrics else None,
    )
    return deliver(job, _ready if options.for_audit else lambda: None)


def _line(fd: int) -> bytes:
    """The first line of a pipe, and nothing behind it."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(fd, 1)
        if not byte:
            break
        line += byte
    return line


def _ready() -> None:
    """Tell the audit, and let go of the pipe to it."""
    os.write(1, b"ready\n")
    null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(null, 1)
    os.close(null)


def _check(sinks: list[Sink]) -> int:
    """Connect to each sink."""
    from pylsm.ship.identity import Identity
    from pylsm.ship.sinks import DeliveryError

    signal.signal(signal.SIGINT, signal.SIG_DFL)
    failed = 0
    for sink in sinks:
        try:
            sink.prepare(-1)
            sink.connect(Identity("0" * 32, os.uname().nodename, "0" * 16))
            print(f"ok  {sink.address}")
        except DeliveryError as error:
            failed += 1
            print(f"NO  {error.state}: {error}" + (f" ({error.hint})" if error.hint else ""))
        finally:
            sink.close()
    sys.stdout.flush()
    return 1 if failed else 0
