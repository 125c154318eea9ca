"""``pylsm top``: what a family does, live.

Two processes: an agent, which is ``pylsm attach`` with its privileges, and this one, which reads the agent's lines and
gives up its own privileges before the first of them. So nothing that a traced process chooses is shown by anybody who
may do harm.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import suppress

from pylsm.cli import attach
from pylsm.cli.status import REFUSED, say
from pylsm.errors import PylsmError
from pylsm.light import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace, _SubParsersAction
    from collections.abc import Sequence
    from typing import Any

    from pylsm.view.app import Top

__all__ = ["add_parser"]

#: Options of attach that have no meaning here: the agent's lines are for the screen.
_AGENTS = {"format": "text", "output": None, "heartbeat": 0.0, "stats": 0.0, "fields": None, "pin": None}


def add_parser(commands: _SubParsersAction[ArgumentParser]) -> None:
    """Add the subcommand, which has the options of ``attach``."""
    attach.add_parser(_Renamed(commands))  # type: ignore[arg-type]


class _Renamed:
    """Stands for ``commands``: what is declared as attach becomes top."""

    def __init__(self, commands: Any) -> None:
        self._commands = commands

    def add_parser(self, name: str, **how: Any) -> Any:
        parser = self._commands.add_parser(
            "top",
            help="watch live what running processes and all they start do",
            description="Show the process tree, destinations and files of running processes, with counts and rates, as "
            "they come. It takes the options of attach. Keys: / filter as you type, s order, Enter only this process "
            "and those below it, Esc everything, e those that ended, p pause, Tab the next table, q quit.",
            epilog="examples:\n"
            "  pylsm top -p 4321\n"
            "  pylsm top --read events.jsonl        (a recording, also while it is written)\n\n"
            "needs textual: pip install 'pylsm[top]'. NO_COLOR=1 for a screen without colours.",
        )
        parser.add_argument("--read", metavar="FILE", help="show a recording (--format json) instead of processes")
        return _Declared(parser)


class _Declared:
    """Stands for the parser: it is told `_top` for its handler."""

    def __init__(self, parser: Any) -> None:
        self._parser = parser

    def set_defaults(self, **values: Any) -> None:
        self._parser.set_defaults(**{**values, "handler": _top, "parser": self._parser})

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parser, name)


def _top(options: Namespace) -> int:
    try:
        from pylsm.view.app import Top
    except ModuleNotFoundError as error:
        raise PylsmError(
            f"pylsm top needs {error.name}, which is not installed", hint="pip install 'pylsm[top]'"
        ) from None
    if not (sys.stdin.isatty() and sys.stderr.isatty()):  # where the screen is written to
        raise PylsmError(
            "pylsm top needs a terminal", hint="pylsm attach prints lines, pylsm report makes a page of a recording"
        )
    if options.read is not None:
        try:
            fd = os.open(options.read, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise PylsmError(
                f"cannot read {options.read}: {error.strerror}", hint="name a recording (--format json)"
            ) from None
        return _shown(Top(fd, os.path.basename(options.read)))
    wrong = [name for name, unset in _AGENTS.items() if getattr(options, name, unset) != unset]
    if wrong:
        options.parser.error(
            f"--{wrong[0]} is not for top: record with pylsm attach, and look at it with pylsm top --read FILE"
        )
    # Forks make the tree whole: a child that never executes anything is told of by nothing else.
    more = [] if options.events is not None else ["--events", "default,fork"]
    with _Agent(options.line[1:], more) as agent:
        from pylsm.confine.invoker import become, invoker
        from pylsm.view.state import parent_of

        become(invoker())
        return _shown(Top(agent.fd, agent.what, agent.message, parent_of))


def _shown(screen: Top) -> int:
    screen.run()
    return screen.return_code or 0


class _Agent:
    """``pylsm attach`` in a process of its own, attached by the time this is made.

    Attributes:
        fd: its lines.
        what: it is attached to.
    """

    def __init__(self, options: Sequence[str], more: Sequence[str] = ()) -> None:
        from pylsm.cli.shipping import ourselves
        from pylsm.recording.summary import shown as escape

        command = [sys.executable, *ourselves(), "attach", *options, *more, "--format", "json", "--heartbeat", "1"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert self._process.stdout is not None and self._process.stderr is not None
        self.fd = self._process.stdout.fileno()
        self.what = self._latest = ""
        slow = threading.Timer(1.0, say, ["preparing programs; the first start on a kernel takes longest"])
        slow.start()
        try:
            for raw in self._process.stderr:
                line = raw.decode(errors="replace").strip().removeprefix("pylsm: ")
                if line.startswith("attached to "):
                    self.what = " ".join([*map(escape, options), " " + line.rpartition("; ")[2]])
                    break
                say(line)
            else:
                raise SystemExit(self._process.wait() or REFUSED)
        except BaseException:
            self.close()
            raise
        finally:
            slow.cancel()
        # A pipe that nobody reads would hold it up some day.
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stderr is not None
        for raw in self._process.stderr:
            line = raw.decode(errors="replace").strip().removeprefix("pylsm: ")
            if not line.startswith("not seen by it: "):
                self._latest = line

    def message(self) -> str:
        """What it said last."""
        return self._latest

    def close(self) -> None:
        """End it: it notices that nobody reads its lines."""
        assert self._process.stdout is not None
        self._process.stdout.close()
        with suppress(PermissionError):  # it runs as another user than this process by now
            self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(5)

    def __enter__(self) -> _Agent:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
