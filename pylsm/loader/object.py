"""Maps and programs that belong together: made, attached and taken away as one."""

from __future__ import annotations

import os
from _thread import allocate_lock, get_native_id, start_new_thread  # of threading it takes no more than these

from pylsm.light import TYPE_CHECKING
from pylsm.loader.bpf import Handle
from pylsm.loader.errors import SpecError
from pylsm.loader.image import Image, MapImage
from pylsm.loader.link import Link
from pylsm.loader.maps import Map, check_map
from pylsm.loader.program import LoadedProgram

if TYPE_CHECKING:
    from _thread import LockType
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from typing_extensions import TypeAlias

    from pylsm.asm.maps import MapSpec
    from pylsm.asm.program import Program
    from pylsm.btf import Btf
    from pylsm.loader.elf import ObjectFile

__all__ = ["Object"]

#: A map that somebody else made: open, by descriptor, or by the path it is pinned at.
Reused: TypeAlias = "Map | int | str | os.PathLike[str]"


class Object:
    """Programs and their maps, all or nothing.

    Making the object creates every map, then loads every program; `attach` then attaches them. Between the two there
    is time to fill maps. If a step fails, everything before it is undone. A ``with`` block closes it.

    Args:
        programs: the programs; their maps are taken from ``Program.maps``. Or an `Image`, prepared of them before.
        maps: further maps, or other sizes for maps of the programs (by name); an image has its own.
        reuse: maps of others by name: not created, checked for type, key and value size. A `Map` or a descriptor
            stays its owner's; one opened by path is closed with the object.
        btf: types of the running kernel; by default its own.
        log_level: of the verifier, see `LoadedProgram.load`.

    Attributes:
        maps: name → `Map`.
        programs: name → `LoadedProgram`.
        links: name of the program → `Link`, for those attached.

    Raises:
        SpecError: two programs (or two maps) of one name that differ, or a ``reuse`` name that nobody uses.
        MapMismatchError, PinError, ResolveError, VerifierError, BpfError: as the steps raise them.
    """

    __slots__ = ("_answer", "_begun", "links", "maps", "programs")

    def __init__(
        self,
        programs: Sequence[Program] | Image,
        *,
        maps: Iterable[MapSpec] = (),
        reuse: Mapping[str, Reused] | None = None,
        btf: Btf | None = None,
        log_level: int = 0,
    ) -> None:
        self.maps: dict[str, Map] = {}
        self.programs: dict[str, LoadedProgram] = {}
        self.links: dict[str, Link] = {}
        self._begun: dict[str, _Attaching] = {}
        self._answer = allocate_lock()
        written: dict[str, Program] = {}
        if isinstance(programs, Image):
            image = programs
        else:
            from pylsm.loader.prepare import prepare

            image = prepare(programs, maps=maps, btf=btf)
            written = {program.name: program for program in programs}
        reuse = reuse or {}
        names = {map.name for map in image.maps}
        strangers = sorted(set(reuse) - names)
        if strangers:
            raise SpecError(f"no program uses a map {strangers[0]!r}; there are: {', '.join(sorted(names)) or 'none'}")
        try:
            for spec in image.maps:
                name = spec.name
                self.maps[name] = _reused(reuse[name], spec) if name in reuse else Map.create(spec)
            for each in image.programs:
                self.programs[each.name] = LoadedProgram.load_image(
                    each, self.maps, log_level=log_level, program=written.get(each.name)
                )
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, reuse: Mapping[str, Reused] | None = None) -> ObjectFile:
        """Open a BPF ELF object (clang's), to be loaded: ``Object.open("probe.bpf.o").load().attach()``.

        Args:
            path: the file.
            reuse: maps of others by name, in place of those that it declares; `ObjectFile.load` may add more.

        Raises:
            ElfError: not such a file, damaged, or with something that is not supported.
        """
        from pylsm.loader.elf import ObjectFile

        file = ObjectFile.read(path)
        file.reuse.update(reuse or {})
        return file

    def attach(self, *names: str, **options: Mapping[str, Any]) -> dict[str, Link]:
        """Attach programs, in the order they were given; all or, if one fails, none.

        Args:
            names: which ones; by default all that are not attached yet.
            options: name of a program → its attach options, as `pylsm.loader.link.attach` has them.

        Returns:
            `links`.
        """
        done: list[str] = []
        for name in names or [name for name in self.programs if name not in self.links and name not in self._begun]:
            if name not in self.programs:
                self._detach(done)
                raise SpecError(f"there is no program {name!r}; there are: {', '.join(self.programs)}")
            try:
                self.links[name] = self.programs[name].attach(**options.get(name, {}))
            except BaseException:
                self._detach(done)
                raise
            done.append(name)
        return self.links

    def begin(self, name: str) -> None:
        """Begin to attach a program: the kernel is waited for by a thread, until `finish`.

        The first program that is attached to the entry of any function runs at once, but who attaches it sleeps until
        no task can be in what the kernel used before (synchronize_rcu_tasks in register_ftrace_direct, kernel/trace/
        ftrace.c; until Linux 6.8 for each function): 20 ms at the least, and 100 ms more for each task that does not
        sleep meanwhile. `finish` alone says that it is attached: before, only what it was seen to do.

        Args:
            name: of a program that is not attached yet.
        """
        try:
            self._answer.acquire(blocking=False)
            self._begun[name] = _Attaching(self.programs[name], self._answer)
        except RuntimeError:  # no thread is to be had
            self.attach(name)

    @property
    def begun(self) -> bool:
        """Whether the kernel has not answered yet to what was begun."""
        return any(attaching.waits for attaching in self._begun.values())

    def wait(self, seconds: float) -> None:
        """Wait, at most so long, until the kernel has answered to one more of those that were begun."""
        self._answer.acquire(timeout=seconds)

    def finish(self) -> None:
        """Wait until what was begun is attached, and the threads are gone.

        Raises:
            BpfError: the kernel refused.
        """
        while self._begun:
            name, attaching = next(iter(self._begun.items()))
            attaching.join()  # which a signal may interrupt
            del self._begun[name]
            self.links[name] = attaching.result()

    def _detach(self, names: list[str]) -> None:
        _close_all([self.links.pop(name) for name in names])

    def close(self) -> None:
        """Detach, unload and close everything, in reverse order; one failure does not keep the rest open."""
        while self._begun:
            try:
                self.finish()
            except Exception:  # whatever the thread ran into
                continue  # then there is nothing of it to be taken away
        links, programs, maps = list(self.links.values()), list(self.programs.values()), list(self.maps.values())
        self.links, self.programs, self.maps = {}, {}, {}
        _close_all([*maps, *programs, *links])

    def __enter__(self) -> Object:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        attached = f"attached: {', '.join(self.links)}" if self.links else "not attached"
        return f"<Object of {', '.join(self.programs) or 'no programs'}; {attached}>"


class _Attaching:
    """A program that a thread attaches.

    Args:
        program: the program.
        answer: released when the kernel has answered.

    Raises:
        RuntimeError: no thread is to be had.
    """

    __slots__ = ("_answer", "_answered", "_error", "_link", "_program", "_thread")

    def __init__(self, program: LoadedProgram, answer: LockType) -> None:
        self._program = program
        self._link: Link | None = None
        self._error: BaseException | None = None
        self._thread = 0
        self._answer = answer
        self._answered = allocate_lock()
        self._answered.acquire()
        start_new_thread(self._attach, ())

    def _attach(self) -> None:
        self._thread = get_native_id()
        try:
            self._link = self._program.attach()
        except BaseException as error:
            self._error = error
        finally:
            self._answered.release()
            try:  # noqa: SIM105 (contextlib is not worth its import here)
                self._answer.release()
            except RuntimeError:
                pass  # another one's answer has not been waited for yet

    @property
    def waits(self) -> bool:
        """Whether the kernel has not answered yet."""
        return self._answered.locked()

    def join(self) -> None:
        """Wait until the kernel has answered and the thread is gone, with all that it may do."""
        with self._answered:
            pass
        while os.path.exists(f"/proc/self/task/{self._thread}"):
            os.sched_yield()

    def result(self) -> Link:
        """The link, after `join`; raises what attaching it raised."""
        if self._link is None:
            assert self._error is not None
            raise self._error
        return self._link


def _reused(given: Reused, spec: MapImage) -> Map:
    if isinstance(given, Map):
        check_map(given, spec, given.label)
        return given.borrowed()
    if isinstance(given, int):
        return Map.from_fd(given, spec, owned=False)
    return Map.open_pinned(given, spec)


def _close_all(handles: Sequence[Handle]) -> None:
    """Close from the last to the first; the first error is raised when all are closed."""
    failed: OSError | None = None
    for handle in reversed(handles):
        try:
            handle.close()
        except OSError as error:
            failed = failed or error
    if failed is not None:
        raise failed
