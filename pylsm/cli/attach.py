"""``pylsm attach``: trace running processes and their families."""

from __future__ import annotations

import os
from contextlib import ExitStack

from pylsm.audit import targets
from pylsm.audit.session import Audit
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
    pid,
    service_manager,
    user,
    watching,
)
from pylsm.cli.signals import Signals
from pylsm.cli.sink import Sink
from pylsm.cli.status import LOST, say
from pylsm.errors import PylsmError
from pylsm.light import TYPE_CHECKING

if TYPE_CHECKING:
    import signal
    from argparse import ArgumentParser, Namespace, _ArgumentGroup, _SubParsersAction
    from collections.abc import Sequence

    from pylsm.audit.cgroups import Cgroup
    from pylsm.audit.events import Event
    from pylsm.audit.selection import Selection
    from pylsm.cli.shipping import Shipping
    from pylsm.cli.watch import Watch
else:
    import _signal as signal  # without its enums, which cost more than a start has to spare

__all__ = ["add_parser"]

#: How often it is looked whether cgroups that are traced are still there, in seconds.
_JOIN_SECONDS = 0.5


def add_parser(commands: _SubParsersAction[ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "attach",
        help="trace running processes and all they start",
        description="Trace running processes, their descendants, and all that these start from now on, until Ctrl-C or "
        "until none is left. Named by anything but a pid, processes that match later are traced too, and it goes on "
        "until Ctrl-C; who is traced once stays so, with all that it starts. Of --comm, --exe, --uid and --cgroup (or "
        "--container) each that is given has to match; given several times, one of its values; -p adds to them. "
        "Nothing is ever denied or delayed.",
        epilog="examples:\n"
        "  pylsm attach -p 4321\n"
        "  pylsm attach --comm nginx --format json -o events.jsonl\n"
        "  pylsm attach --cgroup ssh.service\n"
        "  pylsm attach --container web --uid www-data\n"
        "  pylsm attach -p 4321 --stats 10 --timestamps\n"
        "  pylsm attach -p 4321 --pin /sys/fs/bpf/audit     (Ctrl-C: the audit goes on, in the kernel)\n"
        "  pylsm attach --adopt /sys/fs/bpf/audit           (goes on where the other ended)\n"
        "  pylsm detach /sys/fs/bpf/audit",
    )
    who = parser.add_argument_group("processes (at least one)")
    who.add_argument(
        "-p",
        "--pid",
        type=pid,
        action="append",
        default=[],
        metavar="PID",
        help="a process, by its pid (or a thread's) as you see it here; may be repeated",
    )
    _add_selectors(who)
    keep = parser.add_argument_group("an audit that goes on when pylsm ends").add_mutually_exclusive_group()
    keep.add_argument(
        "--pin",
        metavar="DIR",
        help="keep the audit in the kernel, pinned in the new directory DIR below /sys/fs/bpf: when pylsm ends, "
        "programs go on, records wait in the ring, and what finds no room there is counted as lost",
    )
    keep.add_argument(
        "--adopt",
        metavar="DIR",
        help="continue the audit pinned in DIR with the programs of this pylsm, which take over between one event and "
        "the next: its processes (and those named here), what waits in its ring, its counts",
    )
    parser.add_argument(
        "--already-open",
        action="store_true",
        help="begin with the sockets and files that the processes hold already, marked already_open",
    )
    add_audit_options(parser)
    parser.set_defaults(handler=_attach, parser=parser)


def _add_selectors(group: _ArgumentGroup) -> None:
    """Add those that name processes other than by pid; `pylsm.cli.who` says what they stand for."""
    group.add_argument(
        "--comm",
        action="append",
        default=[],
        metavar="GLOB",
        help="processes by name, such as nginx or 'php-*'; those too that execute a program of that name later",
    )
    group.add_argument(
        "--exe",
        action="append",
        default=[],
        metavar="PATH",
        help="processes by their executable, such as /usr/bin/ssh or '/opt/agent/*'; those too that execute it later",
    )
    group.add_argument(
        "--uid",
        "--user",
        type=user,
        action="append",
        default=[],
        metavar="USER",
        help="processes of this user, by uid or name, those that start later included",
    )
    group.add_argument(
        "--cgroup",
        action="append",
        default=[],
        metavar="PATH",
        help="processes in this cgroup or below it, those that join later included: a directory, a path such as "
        "/system.slice/ssh.service, or the name of a systemd unit",
    )
    group.add_argument(
        "--container",
        action="append",
        default=[],
        metavar="ID|NAME",
        help="the processes of a running container (docker, podman, containerd, CRI-O, LXC, nspawn)",
    )
    group.add_argument("--all", action="store_true", help="every process of this machine but pylsm: expect a lot")


def _anybody(options: Namespace) -> bool:
    """One of them is given."""
    return options.all or any((options.comm, options.exe, options.uid, options.cgroup, options.container))


def _attach(options: Namespace) -> int:
    _check(options)
    if not enabled(options):
        from pylsm.cli.notify import notifier

        manager = notifier()
        if manager is not None:
            manager.tell("READY=1")  # to have nothing to do is no failure
        return 0
    pids = list(dict.fromkeys(targets.resolve(number).pid for number in options.pid))
    select = None
    if _anybody(options):
        from pylsm.cli.who import selection

        select = selection(options)
    if os.getpid() in pids:
        raise PylsmError(f"process {os.getpid()} is this pylsm itself", hint="name another process")
    seen = watching(options)
    try:
        with ExitStack() as stack:
            sink = stack.enter_context(Sink(options.output))
            shipping = open_shipping(options)
            if shipping is not None:
                stack.enter_context(shipping)
            audit = stack.enter_context(open_audit(options, settle=False, select=select))
            signals = stack.enter_context(Signals(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1))
            count = audit.trace_families(pids)
            if select is not None and not select.everybody and not audit.selected:
                from pylsm.cli.who import unmatched

                unmatched(options)
            if select is not None or options.traced_map is not None or audit.continued:
                count = len(audit.family())
            held = audit.already_open() if options.already_open else []
            if options.exe or options.already_open or options.context:
                _tell_what_is_hidden(options, audit)
            whom = "all processes" if options.all else f"{count} process{'es' if count != 1 else ''}"
            announce(audit, whom, options.quiet)
            return _follow(options, audit, sink, signals, pids, held, select, shipping, seen)
    except SkipAudit as skip:
        return skip.status


def _check(options: Namespace) -> None:
    """Refuse options that contradict each other."""
    check_output(options)
    if not options.pid and not _anybody(options) and options.traced_map is None and options.adopt is None:
        options.parser.error(
            "name the processes with -p, --comm, --exe, --uid, --cgroup, --container or --all, or share --traced-map "
            "with another tool"
        )
    if options.pin is None and options.adopt is None:
        return
    kept = "--pin" if options.pin is not None else "--adopt"
    fixed = {"--traced-map": options.traced_map is not None, "--ringbuf": options.ringbuf is not None}
    if options.adopt is not None:
        unset = options.parser.get_default
        fixed["--backend"] = options.backend != unset("backend")
        fixed["--ring-size"] = options.ring_size != unset("ring_size")
        fixed["--family-size"] = options.family_size != unset("family_size")
        fixed["--dedup"] = options.dedup is not None
        if _anybody(options):
            from pylsm.cli.who import named

            fixed[named(options) or "--all"] = True
    wrong = next((option for option, given in fixed.items() if given), None)
    if wrong is not None:
        options.parser.error(f"{kept} has {'its own' if options.pin is not None else 'that of DIR'}: not with {wrong}")


def _follow(
    options: Namespace,
    audit: Audit,
    sink: Sink,
    signals: Signals,
    pids: list[int],
    held: list[Event],
    select: Selection | None,
    shipping: Shipping | None,
    seen: Watch | None,
) -> int:
    if shipping is not None:
        shipping.started()
    manager = service_manager()
    follower = following(options, audit, sink, signals, seen, shipping, manager)
    if options.all:
        say("warning: all that this machine does is recorded, which can be thousands of events a second")
    audit.settle()  # the hooks see; what is left to do is no reason to wait for the word of it
    with ExitStack() as stack:
        watch = []
        for number in () if audit.open_ended else pids:
            try:
                fd = os.pidfd_open(number)
            except OSError:
                continue  # ended already, or too many to watch: the family itself is looked at
            stack.callback(os.close, fd)
            watch.append(fd)
        confine(options, audit, follower, shipping=shipping)
        if manager is not None:
            manager.tell("READY=1")
        # A family that another tool owns has no end of its own, and one that anybody may join only that of its cgroups.
        shared = options.traced_map is not None and not pids
        groups = _Groups(select.cgroups if select is not None else ())

        def ended() -> bool:
            if audit.open_ended:
                return groups.gone() and not audit.family()
            return not shared and not audit.family()

        try:
            follower.tell(held)
            follower.run(ended, lambda _: True, watch, _JOIN_SECONDS if audit.open_ended else None)
        finally:
            if not sink.failed:
                follower.finish()
            last_words(audit, options.quiet)
            if audit.pinned is not None and not options.quiet:
                say(
                    f"the audit goes on in the kernel: `pylsm attach --adopt {audit.pinned}` shows what it records, "
                    f"`pylsm detach {audit.pinned}` ends it"
                )
    if not options.quiet and not shared and not options.all and not audit.family():
        say("all traced processes have ended")
    if seen is not None:
        seen.conclude(audit.counts())
    return LOST if follower.lossy else 0


def _tell_what_is_hidden(options: Namespace, audit: Audit) -> None:
    from pylsm.cli.hidden import warn_of_hidden

    if options.exe:
        everybody = (process.pid for process in targets.processes())
        warn_of_hidden(everybody, "exe", "it is not known whether --exe means any")
    if options.already_open:
        warn_of_hidden(audit.members(), "fd", "what is open already is not shown")
    if options.context:
        warn_of_hidden(audit.members(), "exe", "the executable is not known")


class _Groups:
    """Cgroups while they are traced."""

    def __init__(self, cgroups: Sequence[Cgroup]) -> None:
        self._any = bool(cgroups)
        self._left = list(cgroups)

    def gone(self) -> bool:
        """Whether all have been removed, if there were any; says so of each once."""
        for cgroup in [one for one in self._left if not one.exists]:
            self._left.remove(cgroup)
            say(f"cgroup {cgroup.path} has been removed: nobody can join there any more")
        return self._any and not self._left
