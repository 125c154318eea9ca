"""Options that ``run`` and ``attach`` share, and how their values are read."""

from __future__ import annotations

import functools
import mmap
import os

from pylsm.audit.names import DEFAULT, FAMILY_SIZE, RING_BYTES, choose
from pylsm.audit.session import Audit, UnavailableError
from pylsm.cli.arguments import BadValue
from pylsm.cli.status import say
from pylsm.errors import PylsmError
from pylsm.light import TYPE_CHECKING
from pylsm.loader import BpfError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace, _ArgumentGroup
    from collections.abc import Callable

    from pylsm.audit.events import Event
    from pylsm.audit.filters import Filters
    from pylsm.audit.selection import Selection
    from pylsm.cli.follow import Follower
    from pylsm.cli.notify import Notifier
    from pylsm.cli.shipping import Shipping
    from pylsm.cli.signals import Signals
    from pylsm.cli.sink import Sink
    from pylsm.cli.watch import Watch

__all__ = [
    "SkipAudit",
    "add_audit_options",
    "add_sink_options",
    "announce",
    "check_output",
    "confine",
    "enabled",
    "following",
    "last_words",
    "open_audit",
    "open_shipping",
    "pid",
    "service_manager",
    "user",
    "watching",
]

_SUFFIXES = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


class SkipAudit(Exception):
    """There is no audit to be had, and ``--if-unavailable skip`` said to go without; ``status`` is the exit status."""

    def __init__(self, status: int) -> None:
        self.status = status


def pid(text: str) -> int:
    """A pid as a positive decimal number."""
    if not (text.isascii() and text.isdigit()) or not 0 < int(text) < 1 << 31:
        raise BadValue(f"{text!r} is not a pid: give a positive number, as ps shows it")
    return int(text)


def user(text: str) -> int:
    """A uid, as a number or as a user's name."""
    if text.isascii() and text.isdigit() and int(text) < (1 << 32) - 1:
        return int(text)
    import pwd

    try:
        return pwd.getpwnam(text).pw_uid
    except KeyError:
        from difflib import get_close_matches

        near = get_close_matches(text, [row.pw_name for row in pwd.getpwall()], 3)
        meant = f"; did you mean {' or '.join(near)}?" if near else ""
        raise BadValue(f"{text!r} is neither a uid nor the name of a user{meant}") from None


def ring_size(text: str) -> int:
    """A power of two and multiple of the page size, in bytes, with an optional K, M or G."""
    number, factor = (text[:-1], _SUFFIXES[text[-1].lower()]) if text[-1:].lower() in _SUFFIXES else (text, 1)
    size = int(number) * factor if number.isascii() and number.isdigit() else 0
    if size < mmap.PAGESIZE or size & (size - 1) or size >= 1 << 32:
        raise BadValue(
            f"{text!r} is not a ring size: a power of two from {mmap.PAGESIZE} (a page) to 2G, for example 4M"
        )
    return size


def spool_size(text: str) -> int:
    """Bytes from 1M on, with an optional K, M or G."""
    number, factor = (text[:-1], _SUFFIXES[text[-1].lower()]) if text[-1:].lower() in _SUFFIXES else (text, 1)
    size = int(number) * factor if number.isascii() and number.isdigit() and len(number) < 16 else 0
    if not 1 << 20 <= size < 1 << 50:
        raise BadValue(f"{text!r} is not a spool's size: at least 1M, for example 256M or 4G")
    return size


def address(text: str) -> tuple[str, int]:
    """A port, with a host before it unless it is this one alone."""
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdigit()) or not 0 < int(port) < 1 << 16:
        raise BadValue(f"{text!r} is no address to listen at: 9464, or 192.0.2.1:9464, or [::]:9464")
    return host.strip("[]") or "127.0.0.1", int(port)


def positive(text: str) -> int:
    """A positive number."""
    if not (text.isascii() and text.isdigit()) or not 0 < int(text) < 1 << 31:
        raise BadValue(f"{text!r} is not a positive number")
    return int(text)


def seconds(text: str) -> float:
    """A time in seconds, above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise BadValue(f"{text!r} is not a number of seconds above 0")
    return value


def kinds(text: str) -> tuple[str, ...]:
    """Kinds of events, joined by commas."""
    try:
        return choose(name.strip() for name in text.split(",") if name.strip())
    except PylsmError as error:
        raise BadValue(f"{error}; {error.hint}") from None


def add_audit_options(parser: ArgumentParser) -> None:
    """What is recorded; output, source and map options."""
    parser.add_argument(
        "--events",
        type=kinds,
        metavar="KIND,...",
        help='what to record: kinds of events, "default" or "all" (default: ' + ",".join(DEFAULT) + "; "
        "docs/events.md has all kinds)",
    )
    parser.add_argument(
        "--context",
        action="store_true",
        help="with each event what is known of its process: ppid, exe, user, cgroup, container, network "
        "namespace; with those that go to an address the source address, the interface and the scope (adds exec, exit "
        "and fork)",
    )
    what = parser.add_argument_group("what to show of them (docs/filters.md)")
    what.add_argument(
        "--mode",
        choices=("r", "w", "rw"),
        help="only opens for reading (r), for writing (w), or for both at once (rw), whatever else they are for",
    )
    for name, of in (("path", "only files"), ("not-path", "no files")):
        what.add_argument(
            f"--{name}",
            type=pattern,
            action="append",
            default=[],
            metavar="GLOB",
            help=f"{of} with these paths, such as /etc (and all below it) or '*.key'; may be repeated",
        )
    for name, of in (("dst", "only connections"), ("not-dst", "no connections")):
        what.add_argument(
            f"--{name}",
            type=network,
            action="append",
            default=[],
            metavar="CIDR",
            help=f"{of} to these networks, such as 10.0.0.0/8 or 2001:db8::1; may be repeated",
        )
    what.add_argument(
        "--port",
        type=ports,
        action="append",
        default=[],
        metavar="N[-M]",
        help="only connections to these ports; may be repeated",
    )
    what.add_argument(
        "--dedup",
        type=dedup,
        metavar="HOW",
        help="which opens of a process are repeats and not shown: off (none), file, file+mode (default), or "
        "window=SECONDS (file+mode, for so long)",
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--format",
        choices=("text", "json", "ecs", "ocsf"),
        default="text",
        help="text (default): '[LSM] open pid=1 comm=cat mode=r path=/etc/passwd'; json: one object a line (`pylsm "
        "schema`); ecs, ocsf: the same in the Elastic Common Schema or the Open Cybersecurity Schema Framework",
    )
    output.add_argument("-o", "--output", metavar="FILE", help="write events to FILE, emptied first (default: stdout)")
    output.add_argument(
        "--timestamps",
        action="store_true",
        help='begin each text line with the UTC time; in json a field "time" (ecs and ocsf have one always)',
    )
    output.add_argument(
        "--fields",
        type=fields,
        metavar="NAME,...",
        help="text and json: only these fields, by their names in json, in this order",
    )
    output.add_argument(
        "--color",
        choices=("auto", "always", "never"),
        default="auto",
        help="text in colours: on a terminal unless NO_COLOR is set (auto, the default), always or never",
    )
    output.add_argument(
        "--on-loss",
        choices=("warn", "exit"),
        default="warn",
        help="when events are lost: say so and go on (default), or end at once (`run`: CMD too) with exit status 4",
    )
    output.add_argument(
        "--summary",
        action="store_true",
        help="at the end print to stderr what was touched: hosts, files read, files written, commands run",
    )
    output.add_argument(
        "--stats",
        type=seconds,
        default=0.0,
        metavar="SECONDS",
        help="print the counts to stderr this often (also: at the end, and on SIGUSR1)",
    )
    output.add_argument(
        "--heartbeat",
        type=seconds,
        default=0.0,
        metavar="SECONDS",
        help="with --format json: a line with the counts this often, by which `pylsm verify-log` proves that no event "
        "is missing",
    )
    output.add_argument("-q", "--quiet", action="store_true", help="no banner, no counts at the end unless any is lost")
    output.add_argument(
        "--no-confine",
        action="store_true",
        help="keep capabilities, and use neither Landlock nor seccomp, once attached (to debug pylsm itself)",
    )
    spool = add_sink_options(parser)
    spool.add_argument(
        "--spool-size", type=spool_size, default=256 << 20, metavar="BYTES", help="size of the spool (default: 256M)"
    )
    spool.add_argument(
        "--spool-policy",
        choices=("drop-oldest", "drop-newest", "block"),
        default="drop-oldest",
        help="what to do when the spool is full: drop the oldest events (default), drop the newest, or block: stop "
        "reading, so that the kernel counts what is lost. The traced processes never wait",
    )
    spool.add_argument(
        "--spool-sync",
        choices=("background", "always"),
        default="background",
        help="when the disk has what is recorded: within a second or so, and before it is delivered (background, the "
        "default); or before the next events are read (always)",
    )
    spool.add_argument(
        "--metrics",
        type=address,
        metavar="[HOST:]PORT",
        help="with --sink or --spool: serve /metrics (Prometheus) and /healthz there (HOST: 127.0.0.1)",
    )
    kernel = parser.add_argument_group("kernel side")
    kernel.add_argument(
        "--backend",
        choices=("auto", "lsm", "fentry", "kprobe", "raw_tracepoint"),
        default="auto",
        help="where events come from: LSM hooks; the entry of the kernel functions that call them, by trampoline or by "
        "kprobe; or system call tracepoints, which see less (default: the first of these that works)",
    )
    kernel.add_argument(
        "--btf",
        metavar="FILE",
        help="type information of this kernel, for one without its own: a vmlinux or raw BTF (kprobe, raw_tracepoint)",
    )
    kernel.add_argument(
        "--if-unavailable",
        choices=("auto", "skip", "fail"),
        default="auto",
        help="what to do where LSM hooks cannot be used: fall back with a warning (auto), go on without an audit "
        "(skip), or refuse with exit status 125 (fail)",
    )
    kernel.add_argument(
        "--ring-size", type=ring_size, default=RING_BYTES, metavar="BYTES", help="size of the ring buffer (default: 4M)"
    )
    kernel.add_argument(
        "--family-size",
        type=positive,
        default=FAMILY_SIZE,
        metavar="N",
        help="how many processes can be traced at a time (default: 16384)",
    )
    kernel.add_argument(
        "--traced-map", metavar="PATH", help="use the map of traced processes that is pinned at PATH, of another tool"
    )
    kernel.add_argument("--ringbuf", metavar="PATH", help="use the ring buffer that is pinned at PATH, of another tool")
    config = parser.add_argument_group("configuration")
    config.add_argument(
        "--config",
        metavar="FILE",
        help='take options from a TOML file: a field for each, such as ring_size = "16M"; those given here win',
    )
    config.add_argument(
        "--print-config", action="store_true", help="print the resulting configuration, and where each value comes from"
    )
    config.add_argument(
        "--enable-lsm-audit",
        action="store_true",
        default=None,
        help="audit although the file of --config does not say enable_lsm_audit = true, without which it does not",
    )


def add_sink_options(parser: ArgumentParser) -> _ArgumentGroup:
    """Where to deliver to, and from where; the group, for further options."""
    group = parser.add_argument_group("delivery to other systems (docs/fleet.md)")
    group.add_argument(
        "--sink",
        action="append",
        default=[],
        metavar="URL",
        help="deliver events there as well, at least once and in order; may be repeated. Schemes: otlp+http, "
        "otlp+https, otlp+grpc, otlp+grpcs, nats, nats+tls, kafka, kafka+tls, syslog+tcp, syslog+tls, syslog+unix, "
        "journald, journal+http, journal+https, sqlite, file",
    )
    group.add_argument(
        "--spool",
        metavar="DIR",
        help="where events wait until they are delivered (default with --sink: /var/lib/pylsm/spool)",
    )
    group.add_argument("--sink-user", metavar="USER", help="who delivers for root (default: pylsm, or else nobody)")
    group.add_argument(
        "--drain",
        type=seconds,
        default=10.0,
        metavar="SECONDS",
        help="at the end, how long to wait until all is delivered (default: 10); the rest stays in the spool",
    )
    return group


def enabled(options: Namespace) -> bool:
    """Whether there is to be an audit; says why not. Only a file can turn it off."""
    if options.enable_lsm_audit is not False:
        return True
    say(f"not auditing: {options.config} does not say enable_lsm_audit = true")
    return False


def pattern(text: str) -> str:
    """A pattern of paths."""
    from pylsm.audit.globs import Glob

    return _sound(text, Glob)


def network(text: str) -> str:
    """A network."""
    from pylsm.audit.filters import parse_network

    return _sound(text, parse_network)


def ports(text: str) -> str:
    """A port or a range of them."""
    from pylsm.audit.filters import parse_ports

    return _sound(text, parse_ports)


def dedup(text: str) -> str:
    """Which opens are repeats."""
    from pylsm.audit.session import dedup_options

    return _sound(text, dedup_options)


def _sound(text: str, parse: Callable[[str], object]) -> str:
    """The text, if it can be parsed."""
    try:
        parse(text)
    except PylsmError as error:
        raise BadValue(f"{error}; {error.hint}" if error.hint else str(error)) from None
    return text


def filters(options: Namespace) -> Filters | None:
    """The rules that the options give, None for none."""
    given = (options.mode, options.path, options.not_path, options.dst, options.not_dst, options.port)
    if not any(given):
        return None
    from pylsm.audit.filters import Filters

    mode, paths, not_paths, dsts, not_dsts, ports = given
    return Filters(mode=mode, paths=paths, not_paths=not_paths, dsts=dsts, not_dsts=not_dsts, ports=ports)


def fields(text: str) -> tuple[str, ...]:
    """Names of fields, with commas between them."""
    from pylsm.output.fields import known

    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        if name not in known():
            from pylsm.btf.nearest import nearest_names

            near = nearest_names(name, known(), 1)
            meant = f"; did you mean {near[0]!r}?" if near else f"; there are: {', '.join(known())}"
            raise BadValue(f"there is no field {name!r}{meant}")
    if not names:
        raise BadValue(f"no field is named; there are: {', '.join(known())}")
    return names


def check_output(options: Namespace) -> None:
    """Refuse options of the output that contradict each other.

    Raises:
        PylsmError: they do.
    """
    form = options.format
    if options.heartbeat and form != "json":
        raise PylsmError("--heartbeat is for --format json", hint="add --format json, or use --stats")
    if options.heartbeat and options.fields and not {"cpu", "sequence"} <= set(options.fields):
        raise PylsmError(
            "--heartbeat proves by the numbers of records that none is missing, and --fields leaves them out",
            hint="add cpu,sequence to --fields",
        )
    if options.fields and form in ("ecs", "ocsf"):
        raise PylsmError(f"--fields is for text and json: {form} has its own", hint="leave it out, or --format json")


def _renderer(options: Namespace) -> Callable[[Event], str]:
    """The function that makes a line of an event."""
    form = options.format
    if form == "ecs":
        from pylsm.output import ecs

        return ecs.render
    if form == "ocsf":
        from pylsm.output import ocsf

        return ocsf.render
    if options.fields:
        from pylsm.output.fields import render_json, render_text

        chosen = render_json if form == "json" else render_text
        return functools.partial(chosen, names=options.fields, timestamps=options.timestamps)
    if form == "json" and options.timestamps:
        from pylsm.output.fields import render_stamped

        return render_stamped
    if form == "json":
        from pylsm.output import jsonl

        return jsonl.render_with_context if options.context else jsonl.render
    from pylsm.output import text

    return functools.partial(text.render, timestamps=options.timestamps, colour=_in_colour(options))


def _in_colour(options: Namespace) -> bool:
    """Whether text is for a terminal that shows colours (https://no-color.org)."""
    if options.color != "auto":
        return bool(options.color == "always")
    if options.output is not None or os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb":
        return False
    return os.isatty(1)


def watching(options: Namespace) -> Watch | None:
    """What looks at the events besides, for ``--summary`` and ``--expect``; None when neither is asked for.

    Raises:
        PylsmError: the allow-list cannot be used.
    """
    expect = getattr(options, "expect", None)
    if not options.summary and expect is None:
        return None
    from pylsm.cli.watch import Watch
    from pylsm.recording.expect import load
    from pylsm.recording.touched import Touched

    return Watch(Touched() if options.summary else None, load(expect) if expect is not None else None)


def open_audit(options: Namespace, *, settle: bool = True, select: Selection | None = None) -> Audit:
    """Start the audit that the options ask for.

    Args:
        options: as `add_audit_options` makes them.
        settle, select: see `Audit`.

    Raises:
        SkipAudit: LSM hooks cannot be used, and the user said to go on without.
        PylsmError: it cannot be started.
    """
    # Who refuses or skips what is weaker means LSM hooks, unless another backend is asked for by name.
    source = "lsm" if options.backend == "auto" and options.if_unavailable != "auto" else options.backend
    pin = getattr(options, "pin", None)
    rules = filters(options)
    try:
        if getattr(options, "adopt", None) is not None:
            audit = Audit.adopt(options.adopt, btf=options.btf, events=options.events, context=options.context)
            if rules is not None:
                audit.set_filters(rules)
            return audit
        return Audit(
            source=source,
            ring_bytes=options.ring_size,
            family_size=options.family_size,
            traced_map=options.traced_map,
            ring=options.ringbuf,
            btf=options.btf,
            pin=pin,
            settle=settle,
            events=options.events,
            context=options.context,
            select=select,
            filters=rules,
            dedup=options.dedup or "file+mode",
        )
    except UnavailableError as error:
        if options.if_unavailable != "skip":
            raise
        say(f"warning: no audit: {error}")
        raise SkipAudit(0) from None


def announce(audit: Audit, what: str, quiet: bool) -> None:
    """Say what is traced, by what, and what that cannot see."""
    blind_spots = "; ".join(audit.source.blind_spots)
    if audit.refused:
        (first, reason), *others = audit.refused.items()
        more = f", nor {', '.join(name for name, _ in others)}" if others else ""
        say(
            f"warning: {first} cannot be used ({reason}){more}; `pylsm check` has all the reasons. "
            f"Falling back to {audit.source.name}, which does not see: {blind_spots}"
        )
    if audit.unseen:
        say(f"warning: {audit.source.name} cannot record here: {', '.join(audit.unseen)}")
    if not quiet:
        say(f"attached to {what}; source {audit.source.name}")
        if not audit.refused:
            say(f"not seen by it: {blind_spots}")


def confine(
    options: Namespace, audit: Audit, follower: Follower, *, signals: bool = False, shipping: Shipping | None = None
) -> None:
    """Give up what is not needed to read events and to write them.

    Args:
        options: with ``no_confine``.
        audit: attached, with its family.
        follower: is told how much memory it may take.
        signals: the command's signals are to be passed on.
        shipping: goes on to write to its spool.
    """
    from pylsm.cli.memory import limit

    follower.stay_within(limit())
    if options.no_confine:
        return
    from pylsm.confine.restrict import Needs, restrict

    def counts_are_there() -> bool:
        try:
            audit.counts()
        except BpfError:
            return False
        return True

    audit.members()  # keeps open what translates pids inside a container
    writable = shipping.writable if shipping is not None else ()
    readable: tuple[str, ...] = ()
    if options.context:
        from pylsm.audit.context import READABLE

        readable = READABLE
    restrict(Needs(signals=signals, writable=writable, readable=readable), counts_are_there)


def following(
    options: Namespace,
    audit: Audit,
    sink: Sink,
    signals: Signals,
    watch: Watch | None,
    shipping: Shipping | None,
    manager: Notifier | None,
) -> Follower:
    """What writes the events of an audit to all that the options name (which `check_output` has seen)."""
    from pylsm.cli.follow import Follower

    timers: list[tuple[float, Callable[[], object]]] = []  # what to do every so often
    if shipping is not None and shipping.metrics:
        timers.append((1.0, lambda: shipping.report(audit)))
    if manager is not None and manager.period:
        timers.append((manager.period, manager.alive))
    return Follower(
        audit,
        sink,
        _renderer(options),
        signals,
        options.stats,
        options.heartbeat,
        watch,
        options.on_loss,
        shipping,
        timers,
    )


def service_manager() -> Notifier | None:
    """Who waits to be told that the audit has begun."""
    if "NOTIFY_SOCKET" not in os.environ:
        return None
    from pylsm.cli.notify import notifier

    return notifier()


def open_shipping(options: Namespace) -> Shipping | None:
    """Where events go besides the output, if the options name anything."""
    if not options.sink and options.spool is None:
        if options.metrics is not None:
            options.parser.error("--metrics is with --sink or --spool, whose process serves them")
        return None
    from pylsm.cli.shipping import Shipping

    return Shipping(options)


def last_words(audit: Audit, quiet: bool) -> None:
    """The final counts, and what to do when something was lost."""
    from pylsm.cli.follow import describe

    counts = audit.counts()
    trouble = counts.lost or counts.family_full or counts.skipped or counts.malformed
    if not quiet or trouble:
        say(describe(counts))
    if counts.lost:
        say("warning: events were lost because the ring was full; give it more room with --ring-size")
    if counts.family_full:
        say("warning: children were not traced because the family was full; make it larger with --family-size")
    if counts.skipped:
        say(
            f"warning: this kernel skipped {counts.skipped} runs of programs that another task was preempted in: so "
            "many events at most, or children with all that they did, are missing (docs/kernels.md)"
        )
        if audit.source.name in ("fentry", "raw_tracepoint"):
            say("hint: programs of kprobes are not preempted: --backend kprobe")
