"""``pylsm run``: start a command, traced from its first instruction."""

from __future__ import annotations

import errno
import os
import sys
import time
from contextlib import ExitStack, suppress

from pylsm.audit.held import HeldProcess, execute
from pylsm.audit.pidns import to_initial
from pylsm.audit.session import Audit
from pylsm.cli.arguments import REMAINDER, SUPPRESS
from pylsm.cli.options import (
    SkipAudit,
    add_audit_options,
    announce,
    check_output,
    confine,
    enabled,
    following,
    last_words,
    open_audit,
    open_shipping,
    service_manager,
    watching,
)
from pylsm.cli.signals import Signals
from pylsm.cli.sink import Sink, SinkError
from pylsm.cli.status import CANNOT_EXECUTE, LOST, NOT_FOUND, REFUSED, complain, say
from pylsm.confine.invoker import Invoker, become, invoker
from pylsm.light import TYPE_CHECKING

if TYPE_CHECKING:
    import signal
    from argparse import ArgumentParser, Namespace, _SubParsersAction
    from typing import NoReturn

    from pylsm.cli.shipping import Shipping
    from pylsm.cli.watch import Watch
else:
    import _signal as signal  # without its enums, which cost more than a start has to spare

__all__ = ["add_parser"]

_FORWARDED = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
#: How long a command may take to end when its audit can go no further, before it is killed.
_GRACE_SECONDS = 2.0


def add_parser(commands: _SubParsersAction[ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "run",
        help="start a command and trace all it does",
        usage="pylsm run [options] [--] CMD [ARG ...]",
        description="Start CMD, traced from its first instruction, and print what it and all it starts connect to and "
        "open, until the last of them has ended. Nothing is ever denied or delayed. Under sudo CMD runs as the user "
        "who called sudo, with that user's ids, groups and environment.",
        epilog="exit status: that of CMD (128+n when signal n ended it); 3 when what was touched is not in --expect; "
        "4 when events were lost and --on-loss exit or --expect is given; 125 when pylsm cannot do its work, 126 when "
        "CMD cannot be executed, 127 when it is not found, 2 for wrong usage.\n"
        "signals: Ctrl-C is CMD's, as without pylsm; TERM, HUP and QUIT are passed on; USR1 prints the counts.\n\n"
        "examples:\n"
        "  pylsm run -- curl -s https://example.org\n"
        "  pylsm run --format json -o events.jsonl -- make test\n"
        "  pylsm run --summary -o /dev/null -- npm install\n"
        "  pylsm expect events.jsonl > allow.toml; pylsm run --expect allow.toml -- make test",
    )
    add_audit_options(parser)
    parser.add_argument(
        "--root", action="store_true", help="under sudo: run CMD as root, not as the user who called sudo"
    )
    parser.add_argument(
        "--expect",
        metavar="FILE",
        help="exit with status 3 when something is touched that is not in the allow-list FILE (nothing is denied; "
        "`pylsm expect` makes one from a recording)",
    )
    parser.add_argument("command", nargs=REMAINDER, metavar="CMD", help=SUPPRESS)
    parser.set_defaults(handler=_run, parser=parser)


def _run(options: Namespace) -> int:
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command or not command[0]:
        options.parser.error("CMD is missing: pylsm run -- CMD ARG ...")
    check_output(options)
    if options.expect is not None and options.if_unavailable == "skip":
        options.parser.error("--expect is not with --if-unavailable skip: without an audit nothing is known")
    who = None if options.root else invoker()
    if not enabled(options):
        if options.expect is not None:
            options.parser.error("--expect is not without an audit: nothing is known then")
        _execute(command, who)
    watch = watching(options)
    try:
        with ExitStack() as stack:
            sink = stack.enter_context(Sink(options.output))
            shipping = open_shipping(options)
            if shipping is not None:
                stack.enter_context(shipping)
            audit = stack.enter_context(open_audit(options))
            signals = stack.enter_context(Signals(signal.SIGINT, signal.SIGUSR1, signal.SIGCHLD, *_FORWARDED))
            child = stack.enter_context(_Child(command, who))
            return _follow(options, audit, sink, signals, child, watch, shipping)
    except SkipAudit:
        _execute(command, who)


def _follow(
    options: Namespace,
    audit: Audit,
    sink: Sink,
    signals: Signals,
    child: _Child,
    watch: Watch | None,
    shipping: Shipping | None,
) -> int:
    if shipping is not None:
        shipping.started()
    audit.trace(to_initial([child.pid]))
    whose = f" of user {child.who.name}" if child.who is not None else ""
    announce(audit, f"process {child.pid}{whose} before its first instruction", options.quiet)
    manager = service_manager()
    follower = following(options, audit, sink, signals, watch, shipping, manager)
    failed = child.release()
    if failed:
        return failed
    # Before the first byte that CMD chose is read.
    confine(options, audit, follower, signals=True, shipping=shipping)
    if manager is not None:
        manager.tell("READY=1")
    try:
        follower.run(lambda: not audit.family(), child.on_signal, [child.pidfd])
        if follower.lossy:
            say(f"ending {child.name}, since not all that it does is seen")
            child.end(audit)
        follower.finish()
    except SinkError as error:
        # Untrusted and unseen is what CMD must not go on to be.
        complain(error)
        say(f"ending {child.name}, since it can no longer be audited")
        child.end(audit)
        return REFUSED
    finally:
        last_words(audit, options.quiet)
    asked = watch.conclude(audit.counts()) if watch is not None else 0
    if asked or follower.lossy:
        status = child.wait()
        if status:
            say(f"{child.name} itself ended with status {status}")
        return asked or LOST
    return child.wait()


class _Child:
    """The command, held before it begins."""

    def __init__(self, command: list[str], who: Invoker | None) -> None:
        self.name = command[0]
        self.who = who
        self._interrupted = False
        environment = None if who is None else who.environment
        self._held = HeldProcess(command, prepare=lambda: become(who), environment=environment)
        self.pid, self.pidfd, self.wait = self._held.pid, self._held.pidfd, self._held.wait

    def release(self) -> int:
        """Let it execute the command; the exit status if that failed, else 0."""
        number = self._held.release()
        return explain(self.name, number) if number else 0

    def on_signal(self, number: int) -> bool:
        """Pass a signal on; whether to stop following."""
        if number == signal.SIGCHLD:
            return False
        if self.wait(os.WNOHANG) >= 0:
            return True  # the command is gone; what it left behind is no reason to stay
        if number == signal.SIGINT and _on_terminal() and not self._interrupted:
            # The terminal has sent it to the command too. A second one means that the command does not listen.
            self._interrupted = True
            return False
        self._held.send(signal.SIGTERM if self._interrupted else number)
        return False

    def end(self, audit: Audit) -> None:
        """End the command and its family: ask, wait a little, kill."""
        for number, patience in ((signal.SIGTERM, _GRACE_SECONDS), (signal.SIGKILL, _GRACE_SECONDS)):
            members = audit.members()
            for pid in members if self._held.ended else {self.pid, *members}:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)
            deadline = time.monotonic() + patience
            while time.monotonic() < deadline:
                if self.wait(os.WNOHANG) >= 0 and not audit.family():
                    return
                time.sleep(0.02)

    def __enter__(self) -> _Child:
        return self

    def __exit__(self, *exception: object) -> None:
        # Never released, or given up with an error: nothing may stay behind.
        self._held.close(kill=exception[0] is not None)


def _execute(command: list[str], who: Invoker | None) -> NoReturn:
    """Become the command, as ``who``, or explain why not and exit."""
    try:
        become(who)
        execute(command, None if who is None else who.environment)
    except OSError as error:
        sys.exit(explain(command[0], error.errno or 0))


def explain(name: str, number: int) -> int:
    """Say why a command cannot be executed.

    Returns:
        The exit status for that, as shells have it.
    """
    if number in (errno.ENOENT, errno.ENOTDIR):
        say(f"error: {name}: command not found")
        say("hint: give its path, or a command of $PATH")
        return NOT_FOUND
    say(f"error: {name}: cannot be executed: {os.strerror(number)}")
    say("hint: is it an executable file (chmod +x), with an interpreter that exists?")
    return CANNOT_EXECUTE


def _on_terminal() -> bool:
    """Whether this process runs in the foreground of a terminal, whose Ctrl-C every process there gets."""
    try:
        fd = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(fd)
