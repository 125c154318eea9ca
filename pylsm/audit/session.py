"""An audit while it runs: programs attached, a family in the kernel, events coming out."""

from __future__ import annotations

import errno
import os
import struct
import sys
import time
from contextlib import ExitStack, suppress

from pylsm.audit import names
from pylsm.audit.cache import Cache
from pylsm.audit.marks import Marks
from pylsm.audit.names import CONTEXT_EVENTS, DEFAULT, EVENTS, KIND_CONNECT, KIND_OPEN, EventName, choose
from pylsm.audit.pidns import from_initial, initial_tgid, to_initial
from pylsm.audit.sources import LACKING, PLAIN, SOURCES, Options, Plan, Source
from pylsm.audit.targets import NoSuchProcess, descendants, has_ended, in_initial_pid_namespace, lives, pids_of_all
from pylsm.errors import PylsmError
from pylsm.libc import Memory, function, last_errno
from pylsm.light import TYPE_CHECKING, NamedTuple
from pylsm.loader import BpfError, Map, Object, RingBuffer
from pylsm.loader.bpf import kernel_release

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from typing_extensions import TypeAlias

    from pylsm.asm import Program
    from pylsm.audit.context import Processes
    from pylsm.audit.decode import Decoder
    from pylsm.audit.events import Event
    from pylsm.audit.filters import Filters
    from pylsm.audit.kernel_filters import KernelFilters
    from pylsm.audit.pinned import PinnedAudit
    from pylsm.audit.selection import Selection
    from pylsm.audit.shipped import Shipped
    from pylsm.audit.skips import Skips
    from pylsm.btf import Btf
    from pylsm.loader.image import Image, MapImage

__all__ = ["Audit", "BlindError", "Counts", "FamilyFull", "UnavailableError"]

#: A map that somebody else owns: open, by descriptor, or by the path it is pinned at.
Shared: TypeAlias = "Map | int | str | None"

_SELF_TEST_SECONDS = 3.0
#: How long to wait for the kernel to answer before it is looked whether the hooks see already.
_ANSWER_SECONDS = 0.02
_LSM_LIST = "/sys/kernel/security/lsm"
_LONGEST_WINDOW_MS = 1_000_000_000  # the kernel side counts in 32 bits of 1.05 ms
_AF_INET, _SOCK_DGRAM = 2, 2  # include/linux/socket.h, include/linux/net.h
_PORT = 9  # discard (RFC 863): the self-test sends nothing there, it only connects


class UnavailableError(PylsmError):
    """No source of events works here; ``reasons`` says why, by source."""

    def __init__(self, reasons: Mapping[str, PylsmError]) -> None:
        self.reasons = dict(reasons)
        first = next(iter(reasons.values()))
        super().__init__("; ".join(f"{name}: {reason}" for name, reason in reasons.items()), hint=first.hint)


class BlindError(PylsmError):
    """Attached without an error, yet the probe does not see what it must see."""


class FamilyFull(PylsmError):
    """The map of traced processes has no room."""


class Counts(NamedTuple):
    """What became of every run of the hooks, and of every record read.

    The first six and ``filtered`` add up to the number of runs. ``skipped`` are runs that the kernel left out, of any
    process on the machine: so many events at most, or children, are missing (`pylsm.audit.skips`). All but the last
    four are counted in the kernel. ``numbered`` records were given a sequence number: those recorded, those lost, and
    those ``withheld``: filtered by what the kernel cannot look at, as patterns of paths (part of ``filtered``).
    """

    untraced: int
    ignored: int
    deduplicated: int
    recorded: int
    lost: int
    unreadable: int
    family_full: int
    numbered: int
    filtered: int
    skipped: int
    foreign: int
    malformed: int
    leaked: int
    withheld: int


class Audit:
    """Traces families of processes from construction to `close`.

    Construction loads and attaches everything, and proves that it sees: an open and a connect of this process's own
    have to come out of the ring before it returns.

    Args:
        source: "auto", or the name of a source ("lsm", "raw_tracepoint"). "auto" takes the first that works;
            `refused` then says why those before it did not.
        ring_bytes: size of the ring buffer, a power of two and a multiple of the page size.
        family_size: how many processes can be traced at a time.
        btf: a file with the running kernel's types, for a kernel that has none of its own.
        traced_map, ring: maps of others to use in place of ours: a pinned path, a descriptor or a `Map`.
        pin: a new directory below /sys/fs/bpf that keeps the audit in the kernel: it goes on when this process ends,
            until another one continues it (`adopt`) or `pylsm.audit.pinned.remove` ends it.
        settle: False leaves to the caller when `settle` is called, which has to be soon.
        events: names of the kinds of events to be recorded (`pylsm.audit.names.EVENTS`), "default" and "all" among
            them; by default those that say so. Programs of other kinds are not loaded.
        context: give each event what is known of its process (`Event.context`); exec, exit and fork are then among the
            kinds.
        select: whom to trace besides those given to `trace` and `trace_families`: who matches now with all its
            descendants, and who will match later.
        filters: what to show of them; `set_filters` changes it.
        dedup: which opens are repeats, that make no event: "off" none, "file" those of the same file by the same
            process incarnation, "file+mode" those with the same access mode besides, "window=SECONDS" the same, but
            only so long after the last that was recorded.

    Attributes:
        source: the `Source` in use.
        events: names of the kinds of events that were asked for.
        unseen: those of them that no program of `source` can record on this kernel.
        variant: which `Variant` of it this kernel took.
        shipped: names of the images that were made of what the installation brings along (`pylsm.audit.shipped`).
        refused: reasons by name of the better sources that could not be used.
        continued: it was another process's before (`adopt`); `counts` has that one's too.
        selected: pids, as /proc shows them here, of those that matched ``select`` at the start.

    Raises:
        UnavailableError: no source works; BlindError is among its reasons when one attached and saw nothing.
        PylsmError: a map that cannot be shared, a size the kernel does not take, a kind of event that there is not.
    """

    def __init__(
        self,
        *,
        source: str = "auto",
        ring_bytes: int = names.RING_BYTES,
        family_size: int = names.FAMILY_SIZE,
        traced_map: Shared = None,
        ring: Shared = None,
        btf: str | None = None,
        pin: str | os.PathLike[str] | PinnedAudit | None = None,
        settle: bool = True,
        events: Iterable[str] | None = None,
        select: Selection | None = None,
        context: bool = False,
        filters: Filters | None = None,
        dedup: str = "file+mode",
    ) -> None:
        self._selection = select
        self._filters = filters
        self._withheld = 0
        self._births_skipped = 0
        self._may_list_ended = False
        self._skipped: Skips | None = None
        self._options = PLAIN
        if select is not None or filters is not None or dedup != PLAIN.dedup:
            self._options = dedup_options(dedup)._replace(
                select=select.select if select is not None else (),
                filters=filters.kinds if filters is not None else (),
            )
        self.selected: list[int] = []
        self._settings: Map | None = None
        self._kernel_filters: KernelFilters | None = None
        self.events = DEFAULT if events is None else choose(events)
        self._processes: Processes | None = None
        if context:
            from pylsm.audit.context import Processes

            self.events = choose([*self.events, *CONTEXT_EVENTS])
            self._processes = Processes()
        self.refused: dict[str, PylsmError] = {}
        self._btf = None
        if btf is not None:
            from pylsm.audit.btf_file import types_from_file

            self._btf = types_from_file(btf)
        self._tag = struct.pack("=I", int.from_bytes(os.urandom(4), sys.byteorder) | 1)
        self._owns_family = traced_map is None
        self._decoder: Decoder | None = None
        self._waiting: list[bytes] = []  # records that came during the self-test, of others
        self._cache = Cache()
        self._cached: dict[str, Image | None] = {}  # what the cache has, or has not, until it is used
        self._shipped: Shipped | None = None
        self.shipped: list[str] = []
        self._prepared: list[tuple[str, Sequence[object], Image]] = []
        self._walkers: Object | None = None
        self._walker_names: set[str] = set()
        self._baseline = Counts._make([0] * len(Counts._fields))
        with ExitStack() as stack:
            self._pinned = stack.enter_context(_pinned(pin)) if pin is not None else None
            self.continued = self._pinned is not None and self._pinned.state is not None
            if self._pinned is not None and self.continued:
                if events is None:
                    assert self._pinned.state is not None
                    self.events = choose([*self._pinned.state.events, *(CONTEXT_EVENTS if context else ())])
                source, traced_map, ring = self._continue(self._pinned)
            own = self._maps(source, family_size, ring_bytes)
            self._traced = stack.enter_context(_shared(traced_map, own[names.TRACED]))
            self._ring_map = stack.enter_context(_shared(ring, own[names.RING]))
            self._mapped: RingBuffer | None = None
            stack.callback(self._unmap)
            if self._pinned is None:
                stack.callback(self._leave_family)
            self._object = stack.enter_context(self._first_source(source))
            # What the self-test did is not part of the audit; what others did meanwhile is.
            if self._pinned is None or self._pinned.state is None:
                began = self._counts()
                ours = names.SOURCE_LSM.to_bytes(4, sys.byteorder)
                waiting = sum(record.startswith(ours) for record in self._waiting)
                self._baseline = began._replace(recorded=began.recorded - waiting, numbered=began.numbered - waiting)
            else:
                recorded, numbered = self._baseline.recorded + self._tested, self._baseline.numbered + self._tested
                self._baseline = self._baseline._replace(recorded=recorded, numbered=numbered)
            if self._pinned is not None:
                counted = self._baseline[: Counts._fields.index("foreign")]
                self._pinned.finish(self.source.name, self._tag, counted, self.events, self._options, self._filters)
            stack.callback(self._close_walkers)
            if self._pinned is not None:
                stack.callback(self._set_itself, 0)
            if self._filters is not None:
                self.set_filters(self._filters)
            if select is not None:
                self.selected = [process.pid for process in select.find()]
                self.trace_families(self.selected, may_end=True)
            if settle:
                self.settle()
            self._stack = stack.pop_all()
        if self._pinned is not None:
            self._skips.runs()  # while this process may still open what others loaded

    @classmethod
    def adopt(
        cls,
        path: str | os.PathLike[str],
        *,
        btf: str | None = None,
        events: Iterable[str] | None = None,
        context: bool = False,
    ) -> Audit:
        """Continue an audit that another process pinned: its family, its records that wait, its counts.

        The programs of this version take over from those that run, without a run of a hook that is seen by neither or
        by both.

        Args:
            path: the directory that ``pin`` was given.
            btf: see `Audit`.
            events: kinds of events from now on; by default those that are recorded already.
            context: see `Audit`.

        Raises:
            PinnedError: there is no whole audit of a version that fits, or another process has it; it is left as it is.
            UnavailableError: the programs of this version cannot run in place of the old.
        """
        from pylsm.audit.pinned import PinnedAudit

        return cls(pin=PinnedAudit.adopt(path), btf=btf, events=events, context=context)

    def _continue(self, pinned: PinnedAudit) -> tuple[str, Map, Map]:
        """Source, family and ring of the audit that is adopted."""
        assert pinned.state is not None
        self._tag = struct.pack("=I", pinned.state.tag)
        counted = [*pinned.state.baseline, *[0] * len(Counts._fields)]
        self._baseline = Counts._make(counted[: len(Counts._fields)])
        known = {**PLAIN._asdict(), **pinned.state.options}
        values = (known[name] for name in Options._fields)
        self._options = Options._make(tuple(value) if isinstance(value, list) else value for value in values)
        if pinned.state.filters:
            from pylsm.audit.filters import Filters

            self._filters = Filters(**pinned.state.filters)
        from pylsm.audit import maps

        return pinned.state.source, pinned.map(maps.TRACED), pinned.map(maps.RING)

    @property
    def cache(self) -> Cache:
        """What of this start came from disk."""
        return self._cache

    @property
    def pinned(self) -> str | None:
        """The directory that keeps this audit when this process ends, or None."""
        return self._pinned.path if self._pinned is not None else None

    # ---- starting ------------------------------------------------------------------------------------------------

    @property
    def _ring(self) -> RingBuffer:
        """Mapped when first asked for: programs are loaded by then, and the kernel's types out of memory again."""
        if self._mapped is None:
            self._mapped = RingBuffer(self._ring_map)
        return self._mapped

    def _unmap(self) -> None:
        if self._mapped is not None:
            self._mapped.close()

    def _first_source(self, wanted: str) -> Object:
        """Open the first source that works, and set `source`."""
        for candidate in SOURCES:
            if wanted not in ("auto", candidate.name):
                continue
            try:
                opened = self._open(candidate)
            except PylsmError as error:
                # Want of memory or descriptors says nothing about the source: no reason to see less through another.
                if isinstance(error, BpfError) and error.errno in (errno.ENOMEM, errno.EMFILE, errno.ENFILE):
                    raise UnavailableError({candidate.name: error}) from error
                self.refused[candidate.name] = error
            else:
                self.source = candidate
                return opened
        if not self.refused:
            raise PylsmError(
                f"there is no source {wanted!r}", hint="the sources are " + ", ".join(s.name for s in SOURCES)
            )
        raise UnavailableError(self.refused)

    def _open(self, source: Source) -> Object:
        variants = source.variants_of(kernel_release())
        for variant in variants:
            plan = Plan(source.name, variant, self.events, self._options)
            try:
                opened = self._load(plan)
            except LACKING:
                # Older kernels take less; the error of the last, least demanding variant is the one to show.
                if variant is variants[-1]:
                    raise
                continue
            try:
                for name in opened.programs:
                    if names.again(name) in opened.maps:
                        self._set(opened, names.again(name), opened, name)
                if self._pinned is None:
                    self._attach(opened)
                else:
                    hooked = [name for name in opened.programs if name not in self._walker_names]
                    self._pinned.install(opened, hooked, self._btf)
                self._self_test(source, opened)
                self.variant, self._plan = variant, plan
                self.unseen = tuple(
                    kind.name
                    for kind in EVENTS
                    if kind.name in self.events and opened.programs.keys().isdisjoint(kind.programs)
                )
            except BaseException:
                self._close_walkers()
                opened.close()
                if self._pinned is not None:
                    self._pinned.abandon()
                raise
            return opened
        raise AssertionError("a source without variants")

    def _attach(self, opened: Object) -> None:
        """Attach the programs; those that the self-test will see at work without waiting for the kernel to say so."""
        proved = {name for event in self._proved() for name in event.programs}
        begun = [
            name
            for name, program in opened.programs.items()
            if name in proved and program.section is not None and program.section.name.startswith(("lsm/", "fentry/"))
        ]
        for name in begun:
            opened.begin(name)
        if begun:
            # When it has answered to one, no other is in the way any more: it lets one wait, and goes on to the next.
            opened.wait(_ANSWER_SECONDS)
        opened.attach()

    def _proved(self) -> list[EventName]:
        """Kinds of events that the self-test sees."""
        return [event for event in EVENTS if event.kind in (KIND_CONNECT, KIND_OPEN) and event.name in self.events]

    def _load(self, plan: Plan) -> Object:
        if self._pinned is not None:
            from pylsm.audit.proof import require_observe_only

            walkers = plan.walkers()
            programs = [*plan.programs(self._kernel()), *walkers]
            require_observe_only(programs, self._btf)
            used = {spec.name for program in programs for spec in program.maps}
            loaded = Object(programs, btf=self._btf, reuse={**self._pinned.reuse(programs), **self._own(used)})
            self._marks = Marks(loaded.maps, owned=self._owns_family, adopted=self._pinned.state is not None)
            self._set_walkers(loaded, loaded, [program.name for program in walkers])
            self._tell(loaded)
            return loaded
        image = self._image(plan, "hooks", lambda: plan.programs(self._kernel()))
        loaded = Object(image, reuse=self._own(map.name for map in image.maps))
        self._marks = Marks(loaded.maps, owned=self._owns_family)
        try:
            if not plan.walks_late:
                self._add_walkers(plan, loaded)
            self._tell(loaded)
        except BaseException:
            self._close_walkers()
            loaded.close()
            raise
        return loaded

    def _tell(self, loaded: Object) -> None:
        """Tell the programs what the options that they were made for leave open."""
        if self._options == PLAIN:
            return
        from pylsm.audit import rules

        # One that only a program uses that is called by another is not among those of the others.
        found = {**(self._walkers.maps if self._walkers is not None else {}), **loaded.maps}
        self._settings = found.get(rules.SETTINGS.name)
        self._set_itself(initial_tgid())
        if self._options.filters:
            from pylsm.audit.kernel_filters import KernelFilters

            # Open until it is seen to see: what is not wanted is left out on this side.
            self._kernel_filters = KernelFilters(found)
            self._kernel_filters.open()
        if self._selection is not None:
            self._selection.fill(found)

    def _kernel(self) -> Btf | None:
        """Types by which it is told what this kernel has; None where there are none, or no kind that it may lack."""
        if set(self.events) <= set(DEFAULT):
            return None
        from pylsm.btf import Btf, BtfError

        try:
            return self._btf or Btf.kernel()
        except BtfError:
            return None

    def _set_itself(self, tgid: int) -> None:
        """Say who reads the events, and never joins the family: this process, or nobody while the audit is pinned."""
        if self._settings is None:
            return
        from pylsm.audit import rules

        old = rules.SETTING.unpack(self._settings.lookup(bytes(4)) or bytes(rules.SETTING.size))
        setting = {**old, "tag": int.from_bytes(self._tag, sys.byteorder), "itself": tgid}
        self._settings.update(bytes(4), rules.SETTING.pack(setting))

    @property
    def filters(self) -> Filters:
        """What is shown of the family."""
        from pylsm.audit.filters import Filters

        return self._filters or Filters()

    def set_filters(self, filters: Filters) -> None:
        """Show from now on what these rules want, of events in the ring too that were recorded before.

        Rules of the kinds that the audit was started with (mode, path, destination, port) are looked at in the kernel,
        others here: with the same result, at a higher cost. No event that the old and the new rules both want is missed
        meanwhile.

        Args:
            filters: ``audit.filters.adding(not_paths=["/proc/*"])``, for example.
        """
        self._filters = filters
        if self._kernel_filters is not None:
            self._kernel_filters.set(filters)
        if self._pinned is not None and self._pinned.state is not None:
            self._pinned.note_filters(filters)

    def _own(self, used: Iterable[str]) -> dict[str, Map]:
        """Of the maps that are there before any program, those that are used."""
        there = {names.TRACED: self._traced, names.RING: self._ring_map}
        return {name: there[name] for name in used if name in there}

    def _image(self, plan: Plan, part: str, programs: Callable[[], list[Program]]) -> Image:
        """The prepared programs, from the cache, or brought along, or made and proved now; `settle` keeps them."""
        name, request = _filed(plan, part)
        image = self._cached.pop(name) if name in self._cached else self._from_cache(name, request)
        if image is not None:
            return image
        image = self._brought().programs(plan, part) if self._btf is None else None
        if image is None:
            from pylsm.audit.proof import require_observe_only
            from pylsm.loader.prepare import prepare

            made = programs()
            require_observe_only(made, self._btf)
            image = prepare(made, btf=self._btf)
        else:
            self.shipped.append(name)
        if self._btf is None:
            self._prepared.append((name, request, image))
        return image

    def _brought(self) -> Shipped:
        if self._shipped is None:
            from pylsm.audit.shipped import Shipped

            self._shipped = Shipped()
        return self._shipped

    def _from_cache(self, name: str, request: Sequence[object]) -> Image | None:
        return self._cache.load(name, request) if self._btf is None else None

    def _maps(self, source: str, family_size: int, ring_bytes: int) -> dict[str, MapImage]:
        """Maps to be created before any program is there."""
        sizes = {names.TRACED: family_size, names.RING: ring_bytes}
        # They are those of the programs that are tried first, where these are at hand.
        first = next((candidate for candidate in SOURCES if source in ("auto", candidate.name)), SOURCES[0])
        plan = Plan(first.name, first.variants_of(kernel_release())[0], self.events, self._options)
        name, request = _filed(plan, "hooks")
        image = self._cached[name] = self._from_cache(name, request) if self._pinned is None else None
        found = {map.name: map for map in image.maps} if image is not None else {}
        if not found.keys() >= sizes.keys():
            image = self._brought().maps(sizes)
            if image is None:
                from pylsm.audit import maps
                from pylsm.loader.prepare import prepare

                image = prepare((), maps=[maps.TRACED, maps.RING])
            found = {map.name: map for map in image.maps}
        return {name: found[name]._replace(max_entries=size) for name, size in sizes.items()}

    def _add_walkers(self, plan: Plan, loaded: Object) -> None:
        if names.WALKERS not in loaded.maps:
            return  # no program calls one
        image = self._image(plan, "walkers", plan.walkers)
        used = {map.name for map in image.maps}
        known = {name: map for name, map in loaded.maps.items() if name in used}
        self._walkers = Object(image, reuse={**known, **self._own(used)})
        self._set_walkers(loaded, self._walkers, [program.name for program in image.programs])

    def _set_walkers(self, loaded: Object, holder: Object, walkers: Iterable[str]) -> None:
        from pylsm.audit.maps import table_of

        self._walker_names = set(walkers)
        for name in self._walker_names:
            self._set(loaded, table_of(name), holder, name)

    def _set(self, loaded: Object, table: str, holder: Object, name: str) -> None:
        loaded.maps[table].update(bytes(4), struct.pack("=I", holder.programs[name].fileno()))

    def _close_walkers(self) -> None:
        walkers, self._walkers = self._walkers, None
        if walkers is not None:
            walkers.close()

    def settle(self) -> None:
        """Do what a start need not wait for; done by the constructor unless it was told not to.

        Until then the program at the hook has none to hand over to: an open whose path is longer than 256 bytes, or by
        a process with overridden credentials, makes no event and is counted as ``unreadable``.
        """
        self._object.finish()
        self._decoding()
        if self._pinned is None and self._walkers is None:
            self._add_walkers(self._plan, self._object)
        prepared, self._prepared = self._prepared, []
        for name, request, image in prepared:
            self._cache.store(name, request, image)

    def _self_test(self, source: Source, opened: Object) -> None:
        """Open a file and connect a socket as a traced process, and see both.

        Raises:
            BlindError: one of them did not come out of the ring.
        """
        wanted = {event.name: event.kind for event in self._proved()}
        if not wanted and source.hook == "LSM":
            _require_active()
        # What waits in the ring of an adopted audit makes room, and may be of an earlier process with this number.
        self._waiting += self._records()
        self._tested = 0
        me = initial_tgid()
        seen: set[int] = set()
        while True:
            attached = not opened.begun  # by now, so that it has to see what is tried
            if attached:
                opened.finish()
            self._try(me)
            patience = _SELF_TEST_SECONDS if attached else 0
            if self._sees(set(wanted.values()), seen, me, time.monotonic() + patience):
                return
            if attached:
                break
            opened.wait(_ANSWER_SECONDS)
        got = ", ".join(f"{name}: {'seen' if kind in seen else 'not seen'}" for name, kind in wanted.items())
        raise BlindError(
            f"{source.name} programs are attached but do not see this process's own open and connect ({got})",
            hint="is bpf in /sys/kernel/security/lsm? python -m pylsm check says what is missing",
        )

    def _try(self, me: int) -> None:
        """Open and connect, being traced."""
        self.trace([me])
        try:
            # A new file, since an adopted audit may have seen this process open any other.
            memory = os.memfd_create("pylsm")
            os.close(os.open(f"/proc/self/fd/{memory}", os.O_RDONLY))
            os.close(memory)
            _connect_once()
        finally:
            self._untrace([me])

    def _sees(self, wanted: set[int], seen: set[int], me: int, deadline: float) -> bool:
        """Add to ``seen`` the kinds of our own events that come out of the ring; whether all that are wanted did."""
        while True:
            for record in self._records():
                source_number, kind, pid_tgid = names.HEAD.unpack_from(record.ljust(names.HEAD.size, b"\0"))
                if source_number == names.SOURCE_LSM and pid_tgid >> 32 == me:
                    seen.add(kind)
                    self._tested += 1
                else:
                    self._waiting.append(record)
            if seen >= wanted:
                return True
            left = deadline - time.monotonic()
            if left <= 0 or not self._ring.wait(left):
                return False

    # ---- the family ----------------------------------------------------------------------------------------------

    def trace(self, tgids: Iterable[int]) -> None:
        """Add processes to the family, by their tgids in the initial pid namespace.

        Children that they start from now on follow by themselves.

        Raises:
            FamilyFull: the map has no room; those before are traced.
        """
        for tgid in tgids:
            try:
                self._traced.update(_key(tgid), self._tag)
            except BpfError as error:
                if error.errno != errno.E2BIG:
                    raise
                raise FamilyFull(
                    f"{self._traced.label} is full: it has room for {self._traced.info.max_entries} processes",
                    hint="make it larger with --family-size, or trace fewer families",
                ) from None
            # After its number, which its children need to follow it.
            self._marks.set(tgid, self._tag)
            if self._processes is not None and in_initial_pid_namespace():
                self._processes.seed(tgid)

    def already_open(self) -> list[Event]:
        """What the family holds now: its sockets as connects (and as listens, if that kind was asked for), its files as
        opens, each with ``already_open``. They are in none of the counts."""
        from pylsm.audit.already import already_open

        if not in_initial_pid_namespace():
            return []
        found = already_open(self.members(), self.events)
        if self._processes is not None:
            self._processes.join(found)
        wants = self._filters.wants if self._filters else None
        return [event for event in found if wants is None or wants(event)]

    def _untrace(self, tgids: Iterable[int]) -> None:
        for tgid in tgids:
            self._traced.delete(_key(tgid))
            self._marks.clear(tgid)

    def trace_families(self, pids: Sequence[int], *, may_end: bool = False) -> int:
        """Add running processes and all their descendants, without a gap for children started meanwhile.

        Args:
            pids: as /proc shows them here.
            may_end: those that have ended meanwhile are passed over.

        Returns:
            How many were added.

        Raises:
            NoSuchProcess: one of them has ended.
            FamilyFull: the map has no room.
        """
        if not pids:
            return 0
        # Never this process itself, as a child of a shell that is traced: it would see its own doings, without end.
        known, count = {os.getpid()}, 0
        gone = {*pids} - known
        # A child of a traced process joins in the kernel. One started before its parent was added may still be
        # missing, so look again until a look finds nobody new.
        while True:
            new = descendants(pids) - known
            if not new:
                break
            added = to_initial(new)
            self.trace(added)
            known |= new
            # One that ended before it was added will not be taken out by its exit, and its number will be another's.
            living = {pid for pid in new if lives(pid)}
            ended = set(added) - set(to_initial(living))
            self._untrace(ended)
            gone -= living
            count += len(added) - len(ended)
        for pid in pids:
            if not may_end and pid in gone:
                raise NoSuchProcess(
                    f"process {pid} ended while it was being attached", hint="name a process that lives longer"
                )
        return count

    @property
    def open_ended(self) -> bool:
        """Processes can join on their own: that the family is empty is no end of it."""
        return bool(self._options.select)

    @property
    def marked(self) -> bool:
        """Traced processes carry marks in the kernel: the family may be larger than the map that lists it."""
        return self._marks.used

    def family(self) -> set[int]:
        """The tgids (in the initial pid namespace) that this audit traces now."""
        if self.variant.preempted:
            births = self._skips.births()
            if births != self._births_skipped:
                self._births_skipped = births
                self._list_missed()
            self._may_list_ended |= self._skips.ends() > 0
            if self._may_list_ended:
                self._drop_ended()
        return self._listed()

    def _listed(self) -> set[int]:
        return {struct.unpack("=I", key)[0] for key, tag in self._traced.items() if tag == self._tag}

    def _list_missed(self) -> None:
        """Add the children whose births were skipped: known by their marks, or else by parents that still live."""
        listed = self._listed()
        if self.marked:
            # One that ended keeps its mark until its parent has asked for its status.
            found = {pid for pid in pids_of_all() if self._marks.get(pid) == self._tag and not has_ended(pid)}
        else:
            found = descendants(from_initial(listed))
        missed = {*to_initial(found)} - listed - {initial_tgid()}
        with suppress(FamilyFull):
            self.trace(missed)
        self._may_list_ended |= bool(missed)  # one of them may have been about to end

    def _drop_ended(self) -> None:
        """Take out those that have ended; to be repeated, since one that is about to end has not ended."""
        listed = self._listed()
        living = [pid for pid in from_initial(listed) if not has_ended(pid)]
        self._untrace(listed.difference(to_initial(living)))

    def members(self) -> list[int]:
        """The pids, as /proc shows them here, of the processes that this audit traces now."""
        return from_initial(self.family())

    def _leave_family(self) -> None:
        """Take our entries out of a map that outlives us."""
        for tgid in self._listed():
            self._traced.delete(_key(tgid))

    # ---- events --------------------------------------------------------------------------------------------------

    def fileno(self) -> int:
        """The ring's descriptor, readable while there are events."""
        return self._ring.fileno()

    def read(self, timeout: float | None = 0) -> list[Event]:
        """Events that are there; waits for the first at most ``timeout`` seconds (None: for ever)."""
        events = self._wanted(self._drain())
        if not events and timeout != 0 and self._ring.wait(timeout):
            events = self._wanted(self._drain())
            if not events and self._filters:  # what came is not shown
                return self._read_until(None if timeout is None else time.monotonic() + timeout)
        return events

    def _read_until(self, deadline: float | None) -> list[Event]:
        events: list[Event] = []
        while not events:
            left = None if deadline is None else deadline - time.monotonic()
            if (left is not None and left <= 0) or not self._ring.wait(left):
                break
            events = self._wanted(self._drain())
        return events

    def _wanted(self, events: list[Event]) -> list[Event]:
        """Those that the filters want; the others are counted."""
        if not self._filters:
            return events
        wants = self._filters.wants
        shown = [event for event in events if wants(event)]
        self._withheld += len(events) - len(shown)
        return shown

    def _drain(self) -> list[Event]:
        decoder = self._decoding()
        decoder.synchronise()
        events: list[Event] = []
        waiting, self._waiting = self._waiting, []
        for record in waiting:
            events += decoder.decode_batch(memoryview(record), ((0, len(record)),))
        self._ring.drain_spans(lambda data, spans: events.extend(decoder.decode_batch(data, spans)))
        if self._processes is not None:
            self._processes.join(events)
        return events

    def _records(self) -> list[bytes]:
        """Records that are in the ring, as they are."""
        found: list[bytes] = []
        self._ring.drain_spans(lambda data, spans: found.extend(bytes(data[at : at + size]) for at, size in spans))
        return found

    def _decoding(self) -> Decoder:
        if self._decoder is None:
            from pylsm.audit.decode import Decoder

            self._decoder = Decoder()
        return self._decoder

    @property
    def leaked(self) -> int:
        """Records read so far with bytes behind their path that are not zero; always 0 unless pylsm is wrong."""
        return self._decoding().leaked

    @property
    def taken(self) -> int:
        """Bytes of records taken out of the ring since it was made, their headers included."""
        return self._ring.consumed

    @property
    def ring_fill(self) -> tuple[int, int]:
        """(bytes that wait in the ring, its size)."""
        return self._ring.pending, self._ring.size

    def run_times(self) -> dict[str, tuple[int, int]]:
        """By program the nanoseconds it ran and how often, while `enable_run_time_stats` is on."""
        found = {}
        for name, program in self._object.programs.items():
            info = program.info
            found[name] = (info.run_time_ns, info.run_cnt)
        return found

    def counts(self) -> Counts:
        """The counts since the audit began."""
        # Where programs can be skipped those of LSM hooks mark every child.
        marked = self.variant.preempted and self.source.hook == "LSM" and self._marks.relied_on
        return self._counts(skipped=self._skips.runs(births=not marked) - self._baseline.skipped)

    def _counts(self, skipped: int = 0) -> Counts:
        read = (values for _, values in self._object.maps[names.COUNTS].items())
        found = {name: sum(_numbers(values)) for name, values in zip(names.COUNTERS, read)}
        # What is numbered is sent, unless it is counted as lost.
        found["recorded"] = found["numbered"] - found["lost"]
        decoder = self._decoder  # none before the first event
        for name in ("foreign", "malformed", "leaked"):
            found[name] = getattr(decoder, name, 0)
        found["skipped"] = 0
        found["withheld"] = withheld = self._withheld
        counts = Counts._make(found[name] - before for name, before in zip(Counts._fields, self._baseline))
        # What is not shown is not among what was recorded, although the kernel side had recorded it.
        return counts._replace(
            recorded=counts.recorded - withheld, filtered=counts.filtered + withheld, skipped=max(0, skipped)
        )

    @property
    def _skips(self) -> Skips:
        """Made when first asked for: a start has nothing that could have been skipped."""
        if self._skipped is None:
            from pylsm.audit.skips import Skips

            entered = {
                name: program
                for name, program in self._object.programs.items()
                if name not in self._walker_names and program.section is not None and program.section.name[:4] != "lsm/"
            }
            if self._pinned is not None:  # the kernel enters what holds the place of others
                entered = self._pinned.relays(entered)
                for program in entered.values():
                    self._stack.callback(program.close)
            self._skipped = Skips(entered)
        return self._skipped

    def next_numbers(self) -> list[int]:
        """The sequence number that the next record gets on each possible CPU."""
        return _numbers(self._object.maps[names.COUNTS].lookup(_key(names.COUNTERS.index("numbered"))))

    # ---- ending --------------------------------------------------------------------------------------------------

    def stop(self) -> list[Event]:
        """Detach the programs and return the events that were still in the ring; `counts` are final then.

        A pinned audit goes on: these are the events so far.
        """
        self._object.finish()
        for name in list(self._object.links):
            self._object.links.pop(name).close()
        from pylsm.loader.rcu import synchronize

        synchronize()
        return self._wanted(self._drain())

    def close(self) -> None:
        """Detach, unload, leave shared maps as they were found, close everything."""
        self._stack.close()

    def __enter__(self) -> Audit:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _connect_once() -> None:
    """Connect a socket to a port of this machine. By libc: to import the socket module takes twice as long as all else
    of the self-test."""
    datagram = function("socket", 3)(_AF_INET, _SOCK_DGRAM | os.O_CLOEXEC, 0)
    if datagram < 0:
        raise OSError(last_errno(), os.strerror(last_errno()))
    address = Memory(struct.pack("=H", _AF_INET) + struct.pack(">H4s8x", _PORT, b"\x7f\0\0\1"))  # struct sockaddr_in
    # Without a route it fails; the hook has run all the same.
    function("connect", 3)(datagram, address.address, len(address))
    os.close(datagram)


def dedup_options(dedup: str) -> Options:
    """What ``dedup`` of `Audit` means.

    Raises:
        PylsmError: it means nothing.
    """
    kind, equals, seconds = dedup.partition("=")
    window_ms = 0
    if kind == "window":
        with suppress(ValueError, OverflowError):
            window_ms = round(float(seconds) * 1000)
        if not 1 <= window_ms <= _LONGEST_WINDOW_MS:
            longest = _LONGEST_WINDOW_MS // 1000
            raise PylsmError(f"{dedup!r} has no window from 0.001 to {longest} seconds", hint="for example window=10")
    elif equals or kind not in ("off", "file", "file+mode"):
        raise PylsmError(f"{dedup!r} is no way to tell repeats", hint="off, file, file+mode or window=SECONDS")
    return Options(dedup=kind, window_ms=window_ms)


def _pinned(given: str | os.PathLike[str] | PinnedAudit) -> PinnedAudit:
    from pylsm.audit.pinned import PinnedAudit

    return given if isinstance(given, PinnedAudit) else PinnedAudit.create(given)


def _shared(given: Shared, spec: MapImage) -> Map:
    if given is None:
        try:
            return Map.create(spec)
        except BpfError as error:
            if error.errno in (errno.EPERM, errno.ENOSYS):  # no privilege, or no bpf(2): no source can work
                raise UnavailableError({"any source": error}) from error
            raise
    if isinstance(given, Map):
        return Map.from_fd(given.fileno(), spec)
    if isinstance(given, int):
        return Map.from_fd(given, spec)
    return Map.open_pinned(given, spec)


def _require_active() -> None:
    """Believe the kernel's word for it that LSM programs are called, where nothing that was asked for can be tried.

    Raises:
        BlindError: it says that they are not, or does not say.
    """
    try:
        with open(_LSM_LIST) as file:
            active = file.read()
    except OSError as error:
        raise BlindError(
            f"{_LSM_LIST}: {error.strerror}: it cannot be told whether LSM programs are called here",
            hint="mount -t securityfs securityfs /sys/kernel/security; or record connect as well, which can be tried",
        ) from error
    if "bpf" not in (name.strip() for name in active.split(",")):
        raise BlindError(
            f"bpf is not among the active LSMs ({active.strip()}): LSM programs would attach and see nothing",
            hint="python -m pylsm check says what to do",
        )


def _numbers(values: Iterable[bytes]) -> list[int]:
    return [int.from_bytes(value, sys.byteorder) for value in values]


def _filed(plan: Plan, part: str) -> tuple[str, Sequence[object]]:
    """Name and request of an image in the cache."""
    return f"{plan.name}-{part}", (part, *plan)


def _key(tgid: int) -> bytes:
    return struct.pack("=I", tgid)
