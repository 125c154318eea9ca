"""Where events come from: the same records by different programs, best first."""

from __future__ import annotations

from pylsm.audit.names import DEFAULT
from pylsm.light import TYPE_CHECKING, NamedTuple
from pylsm.loader import BpfError, ResolveError, VerifierError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

    from pylsm.asm import Program
    from pylsm.audit.programs.hooks import Hook
    from pylsm.audit.programs.table import Row
    from pylsm.btf import Btf

__all__ = ["LACKING", "PLAIN", "SOURCES", "Options", "Plan", "Source", "Variant", "copies"]

#: What loading raises on a kernel that lacks something: a helper, an instruction, a map type, a field, a tracepoint.
LACKING: Final = (VerifierError, BpfError, ResolveError)


_COPIES = 3


def copies(name: str) -> tuple[str, ...]:
    """Names of a program of a tracepoint and of its copies: what one of them saw was seen.

    The kernel skips a program for a task where another one was preempted in it on that CPU; all of these only where one
    was preempted in each of them.
    """
    return (name, *(f"{name}_{number}" for number in range(2, _COPIES + 1)))


class Variant(NamedTuple):
    """What programs may use of a kernel; the first variant that the verifier takes is used.

    Attributes:
        name: for people.
        path: how the path of a file is had, one of ``file_open.PATHS``.
        typed_task: the kernel has the helper get_current_task_btf (5.11), and task storage for all programs (5.12).
        fetching_atomics: the kernel has fetching atomics (5.12).
        preempted: programs of tracepoints can be preempted, and are skipped for other tasks meanwhile (7.0).
    """

    name: str
    path: str
    typed_task: bool
    fetching_atomics: bool
    preempted: bool = False


class Options(NamedTuple):
    """What was asked for, as far as the programs depend on it: what is not asked for emits no instruction.

    Attributes:
        select: by what processes join the family on their own, of `pylsm.audit.programs.select.SELECTORS`.
        filters: what of an event is looked at, of `pylsm.audit.programs.filters.FILTERS`; the values are in maps.
        dedup: which opens are repeats, one of ``file_open.DEDUP``.
        window_ms: with dedup "window", how long a repeat is one, in milliseconds.
    """

    select: tuple[str, ...] = ()
    filters: tuple[str, ...] = ()
    dedup: str = "file+mode"
    window_ms: int = 0

    @property
    def by_exec(self) -> bool:
        """Who joins is seen when a program is executed, and then only."""
        return "comm" in self.select or "exe" in self.select

    @property
    def by_event(self) -> tuple[str, ...]:
        """By what processes join with an event of theirs."""
        return () if self.by_exec else self.select


#: Nothing asked for.
PLAIN: Final = Options()


class Source(NamedTuple):
    """A way to see events.

    Attributes:
        name: as given to ``--backend``.
        blind_spots: what it cannot see, for the operator.
        variants: in the order they are tried.
        kernel_btf: it needs the running kernel's own type information; otherwise a BTF file will do.
        hook: how its programs are entered: name of a `Hook`, "" where each has its own tracepoint.
    """

    name: str
    blind_spots: tuple[str, ...]
    variants: tuple[Variant, ...]
    kernel_btf: bool
    hook: str

    def variants_of(self, release: tuple[int, int]) -> tuple[Variant, ...]:
        """The variants as a kernel runs them.

        Args:
            release: (major, minor) of it.
        """
        preempted = release >= (7, 0)
        return tuple(variant._replace(preempted=preempted) for variant in self.variants)

    def family(self, variant: Variant, options: Options = PLAIN) -> list[Program]:
        """The programs that keep the family: attached before any process is added to it."""
        from pylsm.audit.programs import family

        marks = self.kernel_btf and variant.typed_task
        if "all" in options.select:
            return []
        if variant.preempted:
            programs = [family.sched_process_fork(marks=marks, name=name) for name in copies("sched_process_fork")]
            programs += [family.sched_process_exit(name=name) for name in copies("sched_process_exit")]
            if marks and self.hook == "LSM":
                programs += [family.task_alloc(), family.bprm_creds_for_exec()]
            elif marks:
                programs += [family.sched_process_exec(name=name) for name in copies("sched_process_exec")]
        else:
            programs = [family.sched_process_fork(marks=marks), family.sched_process_exit()]
            if marks:
                programs.append(family.sched_process_exec())
        if options.by_exec:
            from pylsm.audit.programs.select import join_by_exec

            programs.append(join_by_exec(options.select, marks=marks))
        return programs

    # The modules of the programs, and the assembler, are imported when programs are made: no start from the cache does.

    def rows(self, events: Sequence[str] = DEFAULT, kernel: Btf | None = None) -> list[Row]:
        """The rows of the programs that see these kinds of events.

        Args:
            kernel: its types: of the kinds that are recorded only when asked for, those are left out that have no place
                in this kernel to be entered at.
        """
        from pylsm.audit.programs.table import ROWS

        rows = [row for row in ROWS if row.event in events and self.name in row.sources]
        return [row for row in rows if kernel is None or row.event in DEFAULT or self._has(row, kernel)]

    def _has(self, row: Row, kernel: Btf) -> bool:
        """Whether a kernel has the function, or the tracepoint, that a row's program is entered at."""
        from pylsm.btf import BtfNotFound, Kind

        hook = self._entered()
        try:
            if row.tracepoint or not self.hook:
                kernel.find(f"btf_trace_{row.hook}", Kind.TYPEDEF)
            else:
                kernel.find(f"{'bpf_lsm_' if hook.verdict else hook.function}{row.hook}", Kind.FUNC)
        except BtfNotFound:
            return False
        return True

    def programs(
        self,
        variant: Variant,
        events: Sequence[str] = DEFAULT,
        options: Options = PLAIN,
        kernel: Btf | None = None,
    ) -> list[Program]:
        """The programs that see these kinds of events; for ``kernel``, see `rows`."""
        return [row.make(self._entered(), variant, options) for row in self.rows(events, kernel)]

    def walkers(self, variant: Variant, events: Sequence[str] = DEFAULT, options: Options = PLAIN) -> list[Program]:
        """The programs that those call (`maps.table_of` has where they are looked for)."""
        return [row.walker(self._entered(), variant, options) for row in self.rows(events) if row.walker is not None]

    def attached(
        self,
        variant: Variant,
        events: Sequence[str] = DEFAULT,
        options: Options = PLAIN,
        kernel: Btf | None = None,
    ) -> list[Program]:
        """All programs that are attached, in this order; for ``kernel``, see `rows`."""
        # What records an exit comes before what takes the process out of the family: programs of a tracepoint run in
        # the order in which they were attached.
        rows = self.rows(events)
        first = [row.event for row in rows if row.hook == "sched_process_exit"]
        rest = [row.event for row in rows if row.event not in first]
        return [
            *self.programs(variant, first, options, kernel),
            *self.family(variant, options),
            *self.programs(variant, rest, options, kernel),
        ]

    def all(self, variant: Variant, events: Sequence[str] = DEFAULT, options: Options = PLAIN) -> list[Program]:
        """All programs: those attached, and the walkers that they call."""
        return [*self.attached(variant, events, options), *self.walkers(variant, events, options)]

    def _entered(self) -> Hook:
        from pylsm.audit.programs import hooks

        entered: Hook = getattr(hooks, self.hook or "TRACEPOINT")
        return entered


class Plan(NamedTuple):
    """All that the programs of an audit depend on besides the kernel: what is equal gives the same programs.

    Attributes:
        source: name of the `Source`.
        variant: what they may use of the kernel.
        events: names of the kinds of events, in the order of `pylsm.audit.names.EVENTS`.
        options: what else was asked for; values compare and print by what they mean.
    """

    source: str
    variant: Variant
    events: tuple[str, ...] = DEFAULT
    options: Options = PLAIN

    @property
    def name(self) -> str:
        """A name for a file; not unique where there are options."""
        return "-".join((self.source, self.variant.name, *(self.events if self.events != DEFAULT else ())))

    @property
    def walks_late(self) -> bool:
        """The walker is for paths too long for the stack: the hooks are of use before it is there."""
        asked = self.options.dedup in ("off", "window") or "path" in self.options.filters
        return self.variant.path == "d_path" and self.variant.typed_task and not asked

    def programs(self, kernel: Btf | None = None) -> list[Program]:
        """The programs to be attached, in that order; for ``kernel``, see `Source.rows`."""
        return self._made_by().attached(self.variant, self.events, self.options, kernel)

    def walkers(self) -> list[Program]:
        """The programs that those call."""
        return self._made_by().walkers(self.variant, self.events, self.options)

    def _made_by(self) -> Source:
        return next(source for source in SOURCES if source.name == self.source)


_D_PATH: Final = Variant("d_path", "d_path", True, True)
_D_PATH_OLD: Final = Variant("d_path-5.10", "d_path", False, False)
_WALK: Final = Variant("walk", "walk", True, True)
_WALK_OLD: Final = Variant("walk-5.10", "walk", False, False)

_NOT_HOOKED: Final = (
    "opens and connects that fail before the kernel's security hooks (no such file, mode bits)",
    "O_PATH opens (they give no access; re-opening through /proc/self/fd is seen)",
    "packets that are made by hand (AF_PACKET)",
)
_DENIED: Final = "the verdict of the security modules: what one of them denies is shown like what is allowed"

SOURCES: Final = (
    # Before 6.1 the verifier refuses bpf_d_path in this hook.
    Source("lsm", _NOT_HOOKED, (_D_PATH, _WALK, _WALK_OLD), True, "LSM"),
    Source(
        "fentry",
        (*_NOT_HOOKED, _DENIED, "what a task does while another is preempted in the same program (it is counted)"),
        (_D_PATH, _D_PATH_OLD),
        True,
        "FENTRY",
    ),
    Source(
        "kprobe",
        (
            *_NOT_HOOKED,
            _DENIED,
            "the true path of a file that is renamed or unmounted just then",
            "what happens inside another kprobe of the same CPU",
        ),
        (_WALK, _WALK_OLD),
        False,
        "KPROBE",
    ),
    Source(
        "raw_tracepoint",
        (
            "io_uring",
            "32-bit system calls",
            "files that execve itself opens (the program and its interpreter)",
            "an address changed by another thread while connect reads it, or on a page not yet in memory",
            "opens that fail, O_PATH opens",
            "packets that are made by hand (AF_PACKET), messages of a sendmmsg behind its first",
        ),
        (_WALK, _WALK_OLD),
        False,
        "",
    ),
)
