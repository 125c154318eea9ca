"""What is done to a place in the tree of files: one record with up to three texts (PLACE).

The kernel hands these hooks directory entries, not paths: paths are put together by a walk (`path.walk`), as the
process's root sees them.
"""

from __future__ import annotations

from pylsm.asm import R0, R1, R3, R6, R7, R9, Asm, Program, u8, u64
from pylsm.audit.maps import again
from pylsm.audit.programs import texts
from pylsm.audit.programs.common import KERNEL, Probe
from pylsm.audit.programs.hooks import Hook, at_entry
from pylsm.audit.records import (
    FLAG_DIRECTORY,
    FLAG_REQUESTED,
    KIND_CHMOD,
    KIND_MKDIR,
    KIND_MMAP,
    KIND_MODULE,
    KIND_MOUNT,
    KIND_RENAME,
    KIND_UNLINK,
    NAME_MOST,
    PATH_MAX,
    PLACE,
)
from pylsm.light import TYPE_CHECKING

if TYPE_CHECKING:
    from pylsm.audit.sources import Options, Variant

__all__ = [
    "kernel_module_request",
    "mmap_file",
    "module_load",
    "move_mount",
    "path_chmod",
    "path_mkdir",
    "path_rename",
    "path_rmdir",
    "path_unlink",
    "sb_mount",
]

_PROT_EXEC = 4


class _Place:
    """A program of this module while it is written: entered, and its record begun.

    Args:
        name: of the hook, and of the program.
        verdict: the index of the argument that holds the verdict at an LSM hook.
    """

    def __init__(
        self, name: str, kind: int, hook: Hook, variant: Variant, options: Options, verdict: int | None
    ) -> None:
        self.a = a = hook.asm(name)
        self.name, self.kind, self.hook, self.variant = name, kind, hook, variant
        self.verdict = verdict if hook.verdict else None
        self.word = a.stack(8, "word")
        marks = hook.typed and variant.typed_task
        self.probe = Probe(a, self.verdict, typed_task=variant.typed_task, marks=marks, select=options.by_event)
        self.resumed = a.label("resumed")

    def begin(self, flags: int = 0) -> None:
        """Leave unless traced; r8 = a record with its header and no texts, r9 = 0."""
        a = self.a
        self.probe.require_traced()
        self.state, self.record = texts.begin(
            self.probe, self.kind, PLACE, self.resumed, atomics=self.variant.fetching_atomics
        )
        if flags:
            a.st(self.record.flags, flags)
        a.st(self.record.value, 0)
        a.st(u64[self.record["path_size"]], 0)  # and the other sizes

    def argument(self, index: int) -> None:
        """r3 = an argument."""
        self.hook.argument(self.a, R3, index, None)

    def value(self, index: int, mask: int = 0) -> None:
        """An argument becomes the record's number; clobbers r1."""
        a = self.a
        self.hook.argument(a, R1, index, None)
        if mask:
            a.and_(R1, mask)
        a.stx(self.record.value, R1)

    def of_path(self, index: int) -> None:
        """The walk begins at the ``struct path`` that is an argument."""
        a = self.a
        self.argument(index)
        a.mov(R9, R3)
        for field, to in (
            (a.typed(R9, "path").dentry, self.state.dentry),
            (a.typed(R9, "path").mnt, self.state.mount),
        ):
            a.probe_load(R1, field, self.word)
            a.stx(to, R1)

    def of_entry(self, directory: int, entry: int) -> None:
        """The walk begins at an entry (struct dentry) of a directory (struct path), both arguments."""
        self.of_path(directory)
        self.argument(entry)
        self.a.stx(self.state.dentry, R3)

    def walk(self, *, named: bool = True) -> None:
        """r9 = the length of the path with its NUL, now in the record; a further run begins here."""
        self.a.bind(self.resumed)
        texts.path(self.probe, self.name, self.record, PLACE, self.word, named=named)

    def end(self) -> Program:
        """Send the record with r9 bytes of texts."""
        texts.send(self.probe, self.record, PLACE)
        self.probe.finish("recorded")
        return self.a.build()

    def place(self) -> Program:
        """The path, and no more."""
        self.walk()
        self.a.stx(self.record.path_size, R9)
        return self.end()


def path_unlink(hook: Hook, variant: Variant, options: Options) -> Program:
    """``path_unlink(dir, dentry)``: a name is removed."""
    return _entry(_Place("path_unlink", KIND_UNLINK, hook, variant, options, 2))


def path_rmdir(hook: Hook, variant: Variant, options: Options) -> Program:
    """``path_rmdir(dir, dentry)``: a directory is removed."""
    return _entry(_Place("path_rmdir", KIND_UNLINK, hook, variant, options, 2), FLAG_DIRECTORY)


def _entry(place: _Place, flags: int = 0) -> Program:
    place.begin(flags)
    place.of_entry(0, 1)
    return place.place()


def path_mkdir(hook: Hook, variant: Variant, options: Options) -> Program:
    """``path_mkdir(dir, dentry, mode)``: a directory is made."""
    place = _Place("path_mkdir", KIND_MKDIR, hook, variant, options, 3)
    place.begin()
    place.value(2, 0o7777)
    place.of_entry(0, 1)
    return place.place()


def path_chmod(hook: Hook, variant: Variant, options: Options) -> Program:
    """``path_chmod(path, mode)``: permissions are changed."""
    place = _Place("path_chmod", KIND_CHMOD, hook, variant, options, 2)
    place.begin()
    place.value(1, 0o7777)
    place.of_path(0)
    return place.place()


def path_rename(hook: Hook, variant: Variant, options: Options) -> Program:
    """``security_path_rename(old_dir, old_dentry, new_dir, new_dentry)``. At function entry for LSM hooks too: from
    5.19 on it has an argument more (see `acts.bpf`).

    Two walks: the second begins in a further run, as if nothing had been before.
    """
    place = _Place("path_rename", KIND_RENAME, at_entry(hook), variant, options, None)
    a = place.a
    second, whole = a.label("second"), a.label("whole")
    place.begin()
    place.of_entry(0, 1)
    place.walk()
    state = place.state
    a.ldx(R1, state.phase)
    a.jne(R1, 0, second)
    a.stx(place.record.path_size, R9)
    a.stx(state.at, R9)
    a.st(state.phase, 1)
    a.st(state.resumed, 0)
    place.of_entry(2, 3)
    a.call("tail_call", R6, again(place.name), 0)
    a.ldx(R9, state.at)
    with a.if_(R9, ">", PATH_MAX):
        a.mov(R9, PATH_MAX)
    a.ja(whole)
    a.bind(second)
    a.stx(place.record.second_size, R9)
    a.ldx(R1, state.at)
    with a.if_(R1, ">", PATH_MAX):
        a.mov(R1, PATH_MAX)
    a.add(R9, R1)
    a.bind(whole)
    return place.end()


def mmap_file(hook: Hook, variant: Variant, options: Options) -> Program:
    """``security_mmap_file(file, prot, flags)``: memory that can be executed. At function entry for LSM hooks too,
    whose arguments are others. A mapping that cannot be executed is not counted."""
    place = _Place("mmap_file", KIND_MMAP, at_entry(hook), variant, options, None)
    a = place.a
    other, anonymous, done = a.label("not executable"), a.label("anonymous"), a.label("done")
    place.hook.argument(a, R1, 1, None)
    a.and_(R1, _PROT_EXEC)
    a.jeq(R1, 0, other)
    place.begin()
    place.value(1)
    place.argument(0)
    a.jeq(R3, 0, anonymous)
    a.stx(place.state.file, R3)
    place.walk(named=False)
    a.stx(place.record.path_size, R9)
    a.ja(done)
    a.bind(anonymous)
    a.st(u8[place.record["texts"]], 0)
    a.st(place.record.path_size, 1)
    a.mov(R9, 1)
    a.bind(done)
    texts.send(place.probe, place.record, PLACE)
    place.probe.finish("recorded")
    a.bind(other)
    a.mov(R0, 0)
    a.exit_()
    return a.build()


def sb_mount(hook: Hook, variant: Variant, options: Options) -> Program:
    """``sb_mount(dev_name, path, type, flags, data)``: mount(2)."""
    place = _Place("sb_mount", KIND_MOUNT, hook, variant, options, 5)
    a = place.a
    place.begin()
    place.value(3)
    place.of_path(1)
    place.walk()
    a.stx(place.record.path_size, R9)
    for index, to in ((0, place.record.second_size), (2, place.record.third_size)):
        place.argument(index)
        texts.append(place.probe, place.record, PLACE, R3, NAME_MOST if index == 0 else 256)
        a.stx(to, R0)
    return place.end()


def move_mount(hook: Hook, variant: Variant, options: Options) -> Program:
    """``move_mount(from_path, to_path)``: how mounts are made since fsopen(2), and moved."""
    place = _Place("move_mount", KIND_MOUNT, hook, variant, options, 2)
    a = place.a
    place.begin()
    place.of_path(1)
    place.walk()
    a.stx(place.record.path_size, R9)
    place.argument(0)
    vfsmount = a.probe_load(R7, a.typed(R3, "path").mnt, place.word)
    assert vfsmount is not None
    a.mov(R3, R7)
    a.ld_offset(R1, "mount", "mnt")
    a.sub(R3, R1)
    a.probe_load(R0, a.typed(R3, "mount").mnt_devname, place.word)
    texts.append(place.probe, place.record, PLACE, R0, NAME_MOST)
    a.stx(place.record.second_size, R0)
    a.probe_load(R7, vfsmount.mnt_sb.s_type.name, place.word)
    texts.append(place.probe, place.record, PLACE, R7, 256)
    a.stx(place.record.third_size, R0)
    return place.end()


def kernel_module_request(hook: Hook, variant: Variant, options: Options) -> Program:
    """``kernel_module_request(kmod_name)``: the kernel asks for a module, on behalf of the process."""
    place = _Place("kernel_module_request", KIND_MODULE, hook, variant, options, 1)
    a = place.a
    place.begin(FLAG_REQUESTED)
    a.bind(place.resumed)
    a.mov(R9, 0)
    place.argument(0)
    texts.append(place.probe, place.record, PLACE, R3, 256)
    a.stx(place.record.path_size, R0)
    return place.end()


def module_load(hook: Hook, variant: Variant, options: Options) -> Program:
    """``module_load(mod)``, a tracepoint: a module is in the kernel and is about to begin."""
    a = Asm("raw_tp/module_load", name="module_load", types=KERNEL)
    marks = hook.typed and variant.typed_task
    probe = Probe(a, None, typed_task=variant.typed_task, marks=marks, select=options.by_event)
    resumed = a.label("resumed")
    probe.require_traced()
    _, record = texts.begin(probe, KIND_MODULE, PLACE, resumed, atomics=variant.fetching_atomics)
    a.st(record.value, 0)
    a.st(u64[record["path_size"]], 0)
    a.bind(resumed)
    a.mov(R9, 0)
    a.ldx(R3, u64[R6])
    a.address(R3, a.typed(R3, "module").name)
    texts.append(probe, record, PLACE, R3, 256)
    a.stx(record.path_size, R0)
    texts.send(probe, record, PLACE)
    probe.finish("recorded")
    return a.build()
