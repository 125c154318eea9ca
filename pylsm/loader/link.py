"""Attaching programs: a link holds a program at its place, closing it takes the program off."""

from __future__ import annotations

import os
from errno import EAGAIN, EINVAL, ENOENT, ENOTSUP
from struct import pack

from pylsm.libc import Memory
from pylsm.light import TYPE_CHECKING, NamedTuple
from pylsm.loader.attr import (
    Cmd,
    InfoAttr,
    IterCreateAttr,
    LinkCreateAttr,
    LinkFdAttr,
    LinkInfo,
    LinkUpdateAttr,
    RawTracepointAttr,
)
from pylsm.loader.bpf import Handle, bpf, bpf_errno, failure
from pylsm.loader.errors import BpfError, SpecError
from pylsm.loader.sections import AttachType

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from typing import Any

    from pylsm.loader.maps import Map
    from pylsm.loader.program import LoadedProgram

__all__ = ["Link", "LinkDetail", "attach"]


_REPLACE = 1 << 2  # BPF_F_REPLACE (include/uapi/linux/bpf.h)


class LinkDetail(NamedTuple):
    """What the kernel says of a link (BPF_OBJ_GET_INFO_BY_FD): enum bpf_link_type, ids, and the bytes of the union
    that follows."""

    type: int
    id: int
    program_id: int
    detail: bytes


class Link(Handle):
    """A program attached. Closing detaches it, unless the link is pinned or held by somebody else."""

    __slots__ = ("_beside", "_detach")

    def __init__(
        self,
        fd: int,
        *,
        label: str = "link",
        beside: Handle | None = None,
        detach: Callable[[], None] | None = None,
        owned: bool = True,
    ) -> None:
        super().__init__(fd, label=label, owned=owned)
        self._beside = beside
        self._detach = detach

    @classmethod
    def open_pinned(cls, path: str | os.PathLike[str]) -> Link:
        """The link pinned at ``path``; PinError where there is none."""
        from pylsm.loader.pins import open_pinned

        return cls(open_pinned(path, "link"), label=f"link {os.fspath(path)}")

    @property
    def info(self) -> LinkDetail:
        """Ids and type of the link; BpfError for an attachment that is none (a socket's, or a kprobe before 5.15)."""
        raw = LinkInfo()
        attr = InfoAttr(bpf_fd=self.fileno(), info_len=len(raw), info=raw.address)
        bpf(Cmd.OBJ_GET_INFO_BY_FD, attr, f"ask about {self.label}")
        return LinkDetail(raw.type, raw.id, raw.prog_id, bytes(raw.detail))

    def pin(self, path: str | os.PathLike[str]) -> None:
        """Pin the link at ``path`` on a BPF filesystem: the program stays attached when this process ends, until the
        path is removed. PinError as `pins.pin`."""
        from pylsm.loader.pins import pin

        pin(self.fileno(), path, self.label)

    def detach(self) -> None:
        """Take the program off for everybody, also where the link is pinned (BPF_LINK_DETACH; not every type)."""
        bpf(Cmd.LINK_DETACH, LinkFdAttr(link_fd=self.fileno()), f"detach {self.label}")

    def update(self, program: LoadedProgram, *, old: LoadedProgram | None = None) -> None:
        """Put another program of the same kind in the place of the link's, at once (BPF_LINK_UPDATE).

        Links of XDP, tcx, cgroups, network namespaces and iterators take it; those of LSM, tracing, raw tracepoints and
        perf events (kprobes) do not, on any kernel so far.

        Args:
            program: the new one.
            old: refuse when it is not this one that runs now.

        Raises:
            BpfError: EINVAL: this type of link takes no other program; EPERM: ``old`` is not the one that runs.
        """
        attr = LinkUpdateAttr(link_fd=self.fileno(), new_prog_fd=program.fileno())
        if old is not None:
            attr.flags, attr.old_prog_fd = _REPLACE, old.fileno()
        bpf(Cmd.LINK_UPDATE, attr, f"update {self.label}")

    def read(self) -> bytes:
        """Run an iterator program once over all its objects and return what it wrote (BPF_ITER_CREATE).

        Raises:
            BpfError: not an iterator's link, or the program failed.
        """
        fd = bpf(Cmd.ITER_CREATE, IterCreateAttr(link_fd=self.fileno()), f"run {self.label}")
        chunks: list[bytes] = []
        try:
            while True:
                try:
                    chunk = os.read(fd, 1 << 16)
                except OSError as error:
                    if error.errno == EAGAIN:
                        continue  # the kernel gave other tasks a turn: go on reading
                    raise failure(Cmd.ITER_CREATE, error.errno or 0, f"read from {self.label}") from error
                if not chunk:
                    return b"".join(chunks)
                chunks.append(chunk)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Detach. A second call does nothing."""
        if self.closed:
            return
        detach, self._detach = self._detach, None
        try:
            if detach is not None:
                detach()
        finally:
            try:
                super().close()
            finally:
                if self._beside is not None:
                    self._beside.close()


def attach(program: LoadedProgram, **options: Any) -> Link:
    """Attach a program where its section says.

    ==========================================  =======================================================================
    section                                     options
    ==========================================  =======================================================================
    lsm, fentry, fexit, fmod_ret, tp_btf        ``cookie`` (from Linux 5.19 and 6.10, by type)
    raw_tp                                      ``cookie`` (from 6.10)
    iter                                        ``map`` (a `Map`) for map elements, ``pid`` or ``tid`` for tasks
    kprobe, kretprobe, tracepoint               ``cookie`` (from 5.15)
    socket                                      ``socket``: a socket, kept open by the link
    xdp, tcx/…, cgroup…, sk_lookup              ``target``: interface index, or descriptor of the cgroup or namespace;
                                                ``flags``
    tc                                          as tcx, and ``direction``: "ingress" (default) or "egress" (from 6.6)
    ==========================================  =======================================================================

    Raises:
        SpecError: the section attaches nowhere, or an option is missing or not known.
        BpfError: the kernel refused.
    """
    section = program.section
    if section is None:
        raise SpecError(f"{program.label} does not say where it attaches")
    way = _WAYS.get(section.how)
    if way is None:
        raise SpecError(f"a program of section {section.name!r} is not attached, it is run: see test_run")
    function, allowed = way
    unknown = sorted(set(options) - allowed)
    if unknown:
        known = f"it takes {', '.join(sorted(allowed))}" if allowed else "it takes none"
        raise SpecError(f"{program.label} has no attach option {unknown[0]!r}: {known}")
    return function(program, **options)


def _attach_raw_tracepoint(program: LoadedProgram, cookie: int = 0) -> Link:
    """BPF_RAW_TRACEPOINT_OPEN: for LSM and tracing programs too, since 5.10 takes no LINK_CREATE for them."""
    section = program.section
    assert section is not None
    name = None if section.btf_kind else Memory(section.target.encode() + b"\0")
    attr = RawTracepointAttr(name=name.address if name else 0, prog_fd=program.fileno(), cookie=cookie)
    result = bpf_errno(Cmd.RAW_TRACEPOINT_OPEN, attr)
    if result < 0:
        error = failure(Cmd.RAW_TRACEPOINT_OPEN, -result, f"attach {program.label}")
        if -result == EINVAL and cookie:
            error.hint = "this kernel may be too old for attach cookies of this type"
        elif -result == ENOENT and name is not None:
            error.hint = _no_tracepoint(section.target)
        raise error
    return Link(result, label=f"link of {program.label}")


def _no_tracepoint(name: str) -> str:
    """In words: which kernel has none of that name, and what comes close, as far as its BTF says."""
    from pylsm.btf import Btf, BtfError, BtfNotFound, Kind

    said, prefix = f"kernel {os.uname().release} has no tracepoint of that name", "btf_trace_"
    try:
        Btf.kernel().find(prefix + name, Kind.TYPEDEF)
    except BtfNotFound as error:
        near = [each[len(prefix) :] for each in error.nearest if each.startswith(prefix)]
        return f"{said}; nearest: {', '.join(near)}" if near else said
    except BtfError:
        pass
    return said


def _link_create(
    program: LoadedProgram, target: int, attach_type: int, flags: int = 0, info: int = 0, length: int = 0
) -> Link:
    attr = LinkCreateAttr(
        prog_fd=program.fileno(), target_fd=target, attach_type=attach_type, flags=flags, iter_info=info, cookie=length
    )
    return Link(bpf(Cmd.LINK_CREATE, attr, f"attach {program.label}"), label=f"link of {program.label}")


def _attach_iter(program: LoadedProgram, map: Map | None = None, pid: int = 0, tid: int = 0) -> Link:
    if map is None and not pid and not tid:
        return _link_create(program, 0, AttachType.TRACE_ITER)
    # union bpf_iter_link_info: { map_fd } or { tid, pid, pid_fd }, 4 bytes each.
    numbers = (map.fileno(), 0, 0, 0) if map is not None else (tid, pid, 0, 0)
    words = Memory(pack("=4I", *numbers))
    link = _link_create(program, 0, AttachType.TRACE_ITER, 0, words.address, len(words))
    # Before Linux 6.1 the kernel ignores a task: what it took is at byte 32 of its answer (struct bpf_link_info).
    if map is None and link.info.detail[16:24] == bytes(8):
        link.close()
        raise BpfError(
            f"cannot attach {program.label}: on this kernel it cannot be restricted to a task", errno=ENOTSUP
        )
    return link


def _attach_kprobe(program: LoadedProgram, cookie: int = 0) -> Link:
    from pylsm.loader.perf import attach_kprobe

    return attach_kprobe(program, cookie)


def _attach_tracepoint(program: LoadedProgram, cookie: int = 0) -> Link:
    from pylsm.loader.perf import attach_tracepoint

    return attach_tracepoint(program, cookie)


def _attach_socket(program: LoadedProgram, socket: socket.socket | None = None) -> Link:
    import socket as module

    if socket is None:
        raise SpecError(f"{program.label} attaches to a socket: give socket=")
    target = socket
    so_attach_bpf, so_detach_bpf = 50, 27  # include/uapi/asm-generic/socket.h
    try:
        target.setsockopt(module.SOL_SOCKET, so_attach_bpf, program.fileno())
    except OSError as error:
        from pylsm.loader.errors import errno_name

        number = error.errno or 0
        raise BpfError(
            f"cannot attach {program.label}: setsockopt(SO_ATTACH_BPF): {errno_name(number)}", errno=number
        ) from error

    def detach() -> None:
        try:  # noqa: SIM105 (contextlib is not worth its import here)
            target.setsockopt(module.SOL_SOCKET, so_detach_bpf, 0)
        except OSError:
            pass  # the socket was closed, and its filter with it

    # What stands for the attachment is the socket; the link borrows its descriptor and keeps it from being collected.
    return Link(target.fileno(), label=f"socket filter {program.label}", detach=detach, owned=False)


def _attach_target(program: LoadedProgram, target: int = 0, flags: int = 0) -> Link:
    section = program.section
    assert section is not None
    if not target:
        what = "an interface index" if section.how == "interface" else "a file descriptor"
        raise SpecError(f"{program.label} attaches to {section.how}: give target=, {what}")
    return _link_create(program, target, section.attach, flags)


def _attach_tcx(program: LoadedProgram, target: int = 0, direction: str = "ingress", flags: int = 0) -> Link:
    if direction not in ("ingress", "egress"):
        raise SpecError(f"direction {direction!r} is neither 'ingress' nor 'egress'")
    if not target:
        raise SpecError(f"{program.label} attaches to an interface: give target=, an interface index")
    attach_type = AttachType.TCX_INGRESS if direction == "ingress" else AttachType.TCX_EGRESS
    return _link_create(program, target, attach_type, flags)


_WAYS: dict[str, tuple[Callable[..., Link], frozenset[str]]] = {
    "raw_tracepoint": (_attach_raw_tracepoint, frozenset({"cookie"})),
    "iter": (_attach_iter, frozenset({"map", "pid", "tid"})),
    "kprobe": (_attach_kprobe, frozenset({"cookie"})),
    "tracepoint": (_attach_tracepoint, frozenset({"cookie"})),
    "socket": (_attach_socket, frozenset({"socket"})),
    "interface": (_attach_target, frozenset({"target", "flags"})),
    "cgroup": (_attach_target, frozenset({"target", "flags"})),
    "netns": (_attach_target, frozenset({"target", "flags"})),
    "tcx": (_attach_tcx, frozenset({"target", "direction", "flags"})),
}
