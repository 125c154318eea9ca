"""``pylsm query``: search the store that ``--sink sqlite://`` writes."""

from __future__ import annotations

import argparse
import ipaddress
import json
import os
import re
import sys
import time
from datetime import datetime, timezone
from typing import Any

from pylsm.cli.arguments import BadValue
from pylsm.cli.options import positive, user
from pylsm.errors import PylsmError

__all__ = ["add_parser", "moment"]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
#: What of an event is not in its line of text: said elsewhere in it, or of use to programs only.
_NOT_SHOWN = frozenset(
    (
        *("version", "id", "host", "host_name", "event", "time_ns", "pid", "tid", "uid", "gid", "cpu", "sequence"),
        *("comm", "dst_ip", "dport", "src_ip", "sport", "family", "device", "inode", "mnt_ns", "open_flags"),
        *("first", "last", "session", "number", "final", "continued", "next"),
    )
)


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "query",
        help="search the events that --sink sqlite:// stored",
        description="Print the stored events that match everything given, oldest first. In globs * matches / too, "
        "? one character, [...] one of several. Times: 2026-01-31, 2026-01-31T12:30 (UTC unless an offset is given), "
        "90m or 2d (ago), @1767225600 (Unix).",
        epilog="exit status: 0 something was found, 1 nothing, 125 the store cannot be searched.\n\n"
        "examples:\n"
        "  pylsm query --db /var/lib/pylsm/store/events.db --path '/etc/*' --since 2h\n"
        "  pylsm query --db events.db --cidr 10.0.0.0/8 --event connect --format json\n"
        "  pylsm query --db events.db --comm curl --count",
    )
    parser.add_argument("--db", required=True, metavar="FILE", help="the store: the file, or its sqlite:// URL")
    what = parser.add_argument_group("what to look for")
    what.add_argument("-e", "--event", action="append", default=[], metavar="KIND", help="this kind; may be repeated")
    what.add_argument("-p", "--pid", action="append", type=positive, default=[], metavar="PID", help="this process")
    what.add_argument("--comm", metavar="GLOB", help="the thread's name")
    what.add_argument("--exe", metavar="GLOB", help="the program (of events with context)")
    what.add_argument("--uid", type=user, metavar="UID", help="the user, by uid or name")
    what.add_argument("--path", metavar="GLOB", help="the file")
    what.add_argument("--cidr", type=_network, metavar="NET", help="the address, or the network it is in: 10.0.0.0/8")
    what.add_argument("--port", type=_port, metavar="N", help="the port")
    what.add_argument("--since", type=moment, metavar="TIME", help="not before")
    what.add_argument("--until", type=moment, metavar="TIME", help="before")
    what.add_argument("--host", metavar="NAME", help="the host, by name or id")
    output = parser.add_argument_group("output")
    output.add_argument("--format", choices=("text", "json"), default="text", help="one line an event (default: text)")
    output.add_argument("--limit", type=positive, default=0, metavar="N", help="only the newest N")
    output.add_argument("--count", action="store_true", help="only say how many there are")
    parser.set_defaults(handler=_query, parser=parser)


def _query(options: argparse.Namespace) -> int:
    from pylsm.ship.store import Query, search

    path = options.db[len("sqlite://") :].partition("?")[0] if options.db.startswith("sqlite://") else options.db
    found = search(
        path,
        Query(
            events=tuple(options.event),
            pids=tuple(options.pid),
            uid=options.uid,
            comm=options.comm,
            exe=options.exe,
            path=options.path,
            network=options.cidr,
            port=options.port,
            since=options.since,
            until=options.until,
            host=options.host,
            limit=options.limit,
        ),
    )
    count = 0
    try:
        for line in found:
            count += 1
            if not options.count:
                sys.stdout.write((line if options.format == "json" else _text(line)) + "\n")
        if options.count:
            print(count)
        sys.stdout.flush()
    except BrokenPipeError:  # head has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    except OSError as error:
        raise PylsmError(f"cannot write: {error.strerror}", hint="make room, or write elsewhere") from None
    return 0 if count else 1


def _text(line: str) -> str:
    """A stored event as a line of text."""
    from pylsm.output.escape import escape

    fields: dict[str, Any] = json.loads(line)
    seconds, rest = divmod(int(fields["time_ns"]), 1_000_000_000)
    when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest // 1000:06d}Z"

    def shown(value: object, spaces: bool = True) -> str:
        if isinstance(value, list):
            return ",".join(shown(item) for item in value)
        return escape(str(value).encode("utf-8", "surrogatepass"), spaces=spaces)

    parts = [when, shown(fields.get("host_name", "-")), "[LSM]", shown(fields.get("event", "?"))]
    parts += [f"{name}={shown(fields[name])}" for name in ("pid", "comm") if name in fields]
    for label, address, port in (("dst", "dst_ip", "dport"), ("src", "src_ip", "sport")):
        if address in fields:
            host = shown(fields[address])
            end = f":{shown(fields[port])}" if port in fields else ""
            parts.append(f"{label}={f'[{host}]' if ':' in host and end else host}{end}")
    late = ("path", "new_path")
    for name, value in fields.items():
        hidden = name in _NOT_SHOWN or name in late or name.endswith("_hex") or value is None or value is False
        if not hidden:
            parts.append(name if value is True else f"{name}={shown(value)}")
    parts += [f"{name}={shown(fields[name], spaces=False)}" for name in late if name in fields]
    return " ".join(parts)


def moment(text: str) -> int:
    """A time → Unix time in nanoseconds."""
    ago = re.fullmatch(r"([0-9]{1,9})([smhdw])", text)
    if ago:
        return time.time_ns() - int(ago[1]) * _UNITS[ago[2]] * 1_000_000_000
    if re.fullmatch(r"@[0-9]{1,10}(\.[0-9]{1,9})?", text):
        return round(float(text[1:]) * 1e9)
    try:
        parsed = datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith("Z") else text)
    except ValueError:
        raise BadValue(f"{text!r} is no time: 2026-01-31, 2026-01-31T12:30, 90m (ago), @1767225600") from None
    aware = parsed if parsed.tzinfo else parsed.replace(tzinfo=timezone.utc)
    return round(aware.timestamp() * 1e6) * 1000


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise BadValue(f"{text!r} is neither an address nor a network such as 10.0.0.0/8") from None


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) > 65535:
        raise BadValue(f"{text!r} is not a port")
    return int(text)
