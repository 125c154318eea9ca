"""Loading programs: BPF_PROG_LOAD with references resolved, test runs, and what the kernel knows of a program."""

from __future__ import annotations

import os
from errno import EINVAL, EMFILE, ENFILE, ENOMEM, ENOSPC
from struct import pack_into

from pylsm.libc import Memory, Structure
from pylsm.light import TYPE_CHECKING, NamedTuple
from pylsm.loader.attr import Cmd, EnableStatsAttr, IdAttr, InfoAttr, ProgInfoAttr, ProgLoadAttr, TestRunAttr
from pylsm.loader.bpf import Handle, bpf, bpf_errno, failure, load_btf
from pylsm.loader.maps import Map
from pylsm.loader.sections import ProgType, Section, parse_section

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from pylsm.asm.program import Program
    from pylsm.btf import Btf
    from pylsm.loader.image import ProgramImage
    from pylsm.loader.link import Link
    from pylsm.loader.relocate import Known

__all__ = ["LoadedProgram", "ProgramInfo", "TestRun", "enable_run_time_stats"]

#: Sizes of the verifier's log buffer, bytes: most logs fit the first; the third is the most that a kernel before 5.15
#: takes (UINT_MAX >> 8); logs beyond the last are cut.
_LOG_SIZES = (1 << 16, 1 << 20, (1 << 24) - 1, 1 << 28)

#: Programs that are run on a packet, which has to have an Ethernet header.
_ON_PACKETS = frozenset(
    {ProgType.SOCKET_FILTER, ProgType.SCHED_CLS, ProgType.SCHED_ACT, ProgType.XDP, ProgType.CGROUP_SKB}
)
_ETHERNET_HEADER = 14


class ProgramInfo(NamedTuple):
    """What the kernel says of a program (BPF_OBJ_GET_INFO_BY_FD).

    ``tag``: the hash of its instructions, in hexadecimal; ``run_time_ns``, ``run_cnt``: counted only while
    `enable_run_time_stats` is on; ``recursion_misses``: runs that were skipped (from Linux 5.12); ``verified_insns``:
    instructions that the verifier looked at (from 5.16, else 0); ``xlated_len``, ``jited_len``: bytes; ``load_time``:
    ns since boot.
    """

    id: int
    name: str
    type: int
    tag: str
    run_time_ns: int
    run_cnt: int
    recursion_misses: int
    verified_insns: int
    jited_len: int
    xlated_len: int
    load_time: int
    uid: int
    gpl_compatible: bool
    btf_id: int
    attach_btf_id: int
    map_ids: tuple[int, ...]


class TestRun(NamedTuple):
    """The result of `LoadedProgram.test_run`.

    ``retval``: r0's lower 32 bits, as an unsigned number; ``data_out``, ``ctx_out``: packet and context as the program
    left them; ``duration_ns``: the mean of one run.
    """

    retval: int
    data_out: bytes
    ctx_out: bytes
    duration_ns: int


TestRun.__test__ = False  # type: ignore[attr-defined]  # no test case, whatever pytest makes of the name


class LoadedProgram(Handle):
    """A program that the verifier has accepted.

    Attributes:
        program: what it was made from, or None when it was opened by id or path, or came from a cache.
        log: the verifier's log, if ``log_level`` asked for one.
        btf_refusal: why it was loaded without source lines although it has some; "" normally.
    """

    __slots__ = ("_name", "btf_refusal", "log", "program", "section")

    def __init__(
        self,
        fd: int,
        program: Program | None,
        section: Section | None,
        *,
        log: str = "",
        label: str = "program",
        name: str = "",
    ) -> None:
        super().__init__(fd, label=label)
        self._name = name
        self.program = program
        self.section = section
        self.log = log
        self.btf_refusal = ""

    # --- making ---------------------------------------------------------------------------------------------------

    @classmethod
    def load(
        cls,
        program: Program,
        *,
        maps: Mapping[str, Map] | None = None,
        btf: Btf | None = None,
        log_level: int = 0,
        source_lines: bool = True,
        known: Known | None = None,
    ) -> LoadedProgram:
        """Resolve the program's references and load it (BPF_PROG_LOAD).

        Args:
            program: as built.
            maps: by the names that the program uses.
            btf: types of the running kernel; by default its own, read only if the program needs any.
            log_level: of the verifier: 0 none, 1 the failing path, 2 every state, 4 statistics; kept in ``log``.
            source_lines: describe functions and Python lines to the kernel where the program has any. Where the
                kernel refuses that (`btf_refusal`), the program is loaded without.
            known: keeps what was found in ``btf``, for further programs.

        Raises:
            SpecError: an unknown section.
            ResolveError: a map, type, field or function that is not there.
            VerifierError: the verifier refused the program.
            BpfError: the kernel refused it for another reason.
        """
        from pylsm.loader.prepare import prepare_program

        image = prepare_program(program, maps or (), btf=btf, known=known, source_lines=source_lines)
        return cls.load_image(image, maps or {}, log_level=log_level, program=program)

    @classmethod
    def load_image(
        cls, image: ProgramImage, maps: Mapping[str, Map], *, log_level: int = 0, program: Program | None = None
    ) -> LoadedProgram:
        """Load a program that was prepared before (BPF_PROG_LOAD).

        Args:
            image: the program.
            maps: by the names that it refers to.
            log_level: as for `load`.
            program: what the image was made from, if it is there: a refusal then names the Python line.

        Raises:
            VerifierError: the verifier refused the program.
            BpfError: the kernel refused it for another reason.
        """
        section = parse_section(image.section)
        label = f"program {image.name!r} ({section.name})"
        request = LoadRequest(image, section, maps)
        refusal = image.refusal
        types: Handle | None = None
        if image.types is not None:
            types, refusal = load_btf(image.types.btf)
        try:
            request.describe(types)
            fd, log = request.load(log_level)
            if fd < 0 and types is not None and not _was_verified(log):
                # Which of the two the kernel refused is not in the errno: try without, and if that fails as well
                # report the first failure, whose log speaks of Python lines.
                error = -fd
                request.describe(None)
                fd, plain_log = request.load(log_level)
                if fd >= 0:
                    refusal, log = f"PROG_LOAD with it failed with errno {error}: {log.strip()}", plain_log
                else:
                    fd = -error
        finally:
            if types is not None:
                types.close()
        if fd < 0:
            raise load_failure(program, label, -fd, log)
        loaded = cls(fd, program, section, log=log, label=label, name=image.name)
        loaded.btf_refusal = refusal
        return loaded

    @classmethod
    def from_id(cls, id: int) -> LoadedProgram:
        """A loaded program by its id, as ``bpftool prog`` shows it (BPF_PROG_GET_FD_BY_ID)."""
        fd = bpf(Cmd.PROG_GET_FD_BY_ID, IdAttr(id=id), f"open program id {id}")
        return cls(fd, None, None, label=f"program id {id}")

    @classmethod
    def open_pinned(cls, path: str | os.PathLike[str]) -> LoadedProgram:
        """The program pinned at ``path``; PinError where there is none."""
        from pylsm.loader.pins import open_pinned

        return cls(open_pinned(path, "program"), None, None, label=f"program {os.fspath(path)}")

    # --- using ----------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The name it was given; what the kernel shows is cut to 15 characters."""
        return self._name or (self.program.name if self.program is not None else self.info.name)

    def attach(self, **options: Any) -> Link:
        """Attach where its section says; the link detaches when it is closed.

        The options depend on the section: see `pylsm.loader.link.attach`.

        Raises:
            SpecError: a program without a section (opened by id), or an option missing or unknown.
            BpfError: the kernel refused.
        """
        from pylsm.loader.link import attach

        return attach(self, **options)

    def test_run(self, data: bytes = b"", ctx: bytes = b"", repeat: int = 1, flags: int = 0, cpu: int = 0) -> TestRun:
        """Run the program on made-up input (BPF_PROG_TEST_RUN).

        Args:
            data: the packet, for programs that see packets; less than an Ethernet header is filled up with zeros.
            ctx: the context: ``struct __sk_buff`` or ``xdp_md``, the arguments (8 bytes each) of a raw tracepoint,
                anything for a syscall program.
            repeat: how often, for the packet types; ``duration_ns`` is the mean. Others run once, with no duration.
            flags: BPF_F_TEST_RUN_ON_CPU (1): run on ``cpu`` (raw tracepoints).
            cpu: the CPU for that flag.

        Raises:
            BpfError: 524 (ENOTSUPP) for a program type that cannot be test-run, EINVAL for input it does not take.
        """
        kind = self.section.program if self.section is not None else self.info.type
        on_packet = kind in _ON_PACKETS
        if on_packet:
            data = data.ljust(_ETHERNET_HEADER, b"\0")
        data_in = Memory(data) if data else None
        # A program may grow its packet, by no more than the headroom.
        data_out = Memory(len(data) + 1024) if on_packet else None
        ctx_in = Memory(ctx) if ctx else None
        ctx_out = Memory(max(len(ctx), 256)) if on_packet and ctx else None
        attr = TestRunAttr(
            prog_fd=self.fileno(),
            data_size_in=len(data),
            data_size_out=len(data_out) if data_out is not None else 0,
            data_in=_address(data_in),
            data_out=_address(data_out),
            repeat=repeat if on_packet else 0,
            ctx_size_in=len(ctx),
            ctx_size_out=len(ctx_out) if ctx_out is not None else 0,
            ctx_in=_address(ctx_in),
            ctx_out=_address(ctx_out),
            flags=flags,
            cpu=cpu,
        )
        bpf(Cmd.PROG_TEST_RUN, attr, f"test-run {self.label}")
        # A syscall program's context is written back in place.
        left = ctx_out[: attr.ctx_size_out] if ctx_out is not None else ctx_in or b""
        return TestRun(
            retval=attr.retval,
            data_out=bytes(data_out[: attr.data_size_out]) if data_out is not None else b"",
            ctx_out=bytes(left),
            duration_ns=attr.duration,
        )

    @property
    def info(self) -> ProgramInfo:
        """What the kernel says of it now."""
        raw = self._info(ProgInfoAttr())
        ids = Memory(4 * raw.nr_map_ids)
        if raw.nr_map_ids:
            raw = self._info(ProgInfoAttr(nr_map_ids=raw.nr_map_ids, map_ids=ids.address))
        return ProgramInfo(
            id=raw.id,
            name=raw.name.decode(errors="replace"),
            type=raw.type,
            tag=bytes(raw.tag).hex(),
            run_time_ns=raw.run_time_ns,
            run_cnt=raw.run_cnt,
            recursion_misses=raw.recursion_misses,
            verified_insns=raw.verified_insns,
            jited_len=raw.jited_prog_len,
            xlated_len=raw.xlated_prog_len,
            load_time=raw.load_time,
            uid=raw.created_by_uid,
            gpl_compatible=bool(raw.gpl_compatible & 1),
            btf_id=raw.btf_id,
            attach_btf_id=raw.attach_btf_id,
            map_ids=tuple(memoryview(ids).cast("I")),
        )

    def xlated(self) -> bytes:
        """The instructions as the verifier left them; zeros where this process may not see kernel addresses."""
        return self._code("xlated_prog_len", "xlated_prog_insns")

    def jited(self) -> bytes:
        """The machine code, b"" where there is no JIT or this process may not see it."""
        return self._code("jited_prog_len", "jited_prog_insns")

    def _code(self, length: str, pointer: str) -> bytes:
        size = getattr(self._info(ProgInfoAttr()), length)
        if not size:
            return b""
        buffer = Memory(size)
        raw = self._info(ProgInfoAttr(**{length: size, pointer: buffer.address}))
        return bytes(buffer) if getattr(raw, pointer) else b""

    def _info(self, raw: Structure) -> Structure:
        attr = InfoAttr(bpf_fd=self.fileno(), info_len=len(raw), info=raw.address)
        bpf(Cmd.OBJ_GET_INFO_BY_FD, attr, f"ask about {self.label}")
        return raw

    def pin(self, path: str | os.PathLike[str]) -> None:
        """Pin the program at ``path`` on a BPF filesystem; PinError as `pins.pin`. What is attached is the link: pin
        that to stay attached."""
        from pylsm.loader.pins import pin

        pin(self.fileno(), path, self.label)


class LoadRequest:
    """One PROG_LOAD, tried with and without BTF, with and without a log. For `pylsm.loader` itself."""

    def __init__(self, image: ProgramImage, section: Section, maps: Mapping[str, Map]) -> None:
        #: The instructions, which may be changed between two attempts.
        self.code = Memory(image.code)
        for slot, name in image.references:
            # struct bpf_insn: the immediate is its second half
            pack_into("=i", self.code, slot * 8 + 4, maps[name].fileno())
        self._license = Memory(image.license.encode() + b"\0")
        types = image.types
        self._functions = Memory(types.functions) if types else None
        self._lines = Memory(types.lines) if types and types.lines else None
        self._attr = ProgLoadAttr(
            prog_type=section.program,
            insn_cnt=len(image.code) // 8,
            insns=self.code.address,
            license=self._license.address,
            prog_flags=section.flags,
            prog_name=_kernel_name(image.name),
            expected_attach_type=section.attach,
            attach_btf_id=image.attach_id,
        )

    def describe(self, types: Handle | None) -> None:
        """Load with the function and line records, whose types these are, or with none."""
        attr = self._attr
        functions, lines = (self._functions, self._lines) if types else (None, None)
        attr.prog_btf_fd = types.fileno() if types else 0
        attr.func_info, attr.func_info_cnt = _address(functions), len(functions) // 8 if functions else 0
        attr.func_info_rec_size = 8 if functions else 0
        attr.line_info, attr.line_info_cnt = _address(lines), len(lines) // 16 if lines else 0
        attr.line_info_rec_size = 16 if types else 0

    def load(self, log_level: int) -> tuple[int, str]:
        """(descriptor or negative errno, log). Without ``log_level`` the verifier first runs without a log, which is
        faster; it runs again for the log only to say why it refused."""
        first = 0
        if not log_level:
            first = self._once(0, None)
            if first >= 0:
                return first, ""
        log, size = "", _LOG_SIZES[0]
        while True:
            buffer = Memory(size)
            result = self._once(log_level or 1, buffer)
            text = buffer.text().decode(errors="replace")
            if result == -EINVAL and not text and log:
                result = -ENOSPC  # this kernel takes no buffer of this size
                break
            log = text
            if result != -ENOSPC:
                break
            # From Linux 6.4 the kernel says how much it would have needed; addresses may be longer next time.
            told = int(self._attr.log_true_size) + 4096
            larger = told if told > size + 4096 else next((each for each in _LOG_SIZES if each > size), 0)
            if not larger:
                break
            size = larger
        if result == -ENOSPC or (result == -EINVAL and log_level and not log):
            # The log does not fit (or the level is unknown), which hides what the verifier thinks of the program.
            result = self._once(0, None)
        if result < 0 and first:
            result = first
        return result, log

    def _once(self, log_level: int, buffer: Memory | None) -> int:
        attr = self._attr
        attr.log_level = log_level
        attr.log_size = len(buffer) if buffer is not None else 0
        attr.log_buf = _address(buffer)
        attr.log_true_size = 0
        return bpf_errno(Cmd.PROG_LOAD, attr)


def _was_verified(log: str) -> bool:
    """Whether the verifier came as far as the instructions: then it took the BTF, which it looks at before."""
    count = log.rpartition("processed ")[2].partition(" insns")[0]
    return count.isdigit() and int(count) > 0


def load_failure(program: Program | None, label: str, number: int, log: str) -> Exception:
    """The exception for a refused PROG_LOAD: `VerifierError` where the verifier has said why, else `BpfError`."""
    from pylsm.loader.verifier_log import verifier_error

    # Without descriptors or memory it may have begun to write its log; it is not what it objects to.
    if log.strip() and number not in (EMFILE, ENFILE, ENOMEM):
        return verifier_error(program, label, number, log)
    return failure(Cmd.PROG_LOAD, number, f"load {label}")


def _kernel_name(name: str) -> bytes:
    """What the kernel takes for a name: 15 letters, digits, '_' and '.'."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "_.") else "_" for c in name)[:15].encode()


def _address(buffer: Memory | None) -> int:
    return buffer.address if buffer is not None else 0


def enable_run_time_stats() -> Handle:
    """Count run time and runs of all programs of the machine while the handle is open (BPF_ENABLE_STATS).

    Raises:
        BpfError: not allowed, or before Linux 5.8.
    """
    return Handle(bpf(Cmd.ENABLE_STATS, EnableStatsAttr(type=0), "enable run-time statistics"), label="statistics")
