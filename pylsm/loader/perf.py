"""kprobes and tracepoints: perf events that a program is attached to (perf_event_open(2))."""

from __future__ import annotations

import os
from errno import EACCES, EINVAL, ENOENT, ENOTSUP, EPERM
from fcntl import ioctl

from pylsm.arch import call_number
from pylsm.libc import Layout, Memory, Structure, last_errno, syscall
from pylsm.loader.attr import Cmd, LinkCreateAttr
from pylsm.loader.bpf import Handle, bpf_errno, failure
from pylsm.loader.errors import BpfError, errno_name
from pylsm.loader.link import Link
from pylsm.loader.program import LoadedProgram
from pylsm.loader.sections import AttachType

__all__ = ["PerfEventAttr", "attach_kprobe", "attach_tracepoint", "tracefs"]

PERF_TYPE_TRACEPOINT = 2
PERF_FLAG_FD_CLOEXEC = 1 << 3
PERF_EVENT_IOC_ENABLE = 0x2400
PERF_EVENT_IOC_SET_BPF = 0x40042408

_KPROBE_PMU = "/sys/bus/event_source/devices/kprobe"
_TRACEFS = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")

#: struct perf_event_attr (include/uapi/linux/perf_event.h) up to PERF_ATTR_SIZE_VER5, 112 bytes. Of a kprobe
#: ``config1`` is the address of the function's name, ``config2`` the bytes into it.
PerfEventAttr = Layout(
    "PerfEventAttr",
    """
        u32 type
        u32 size
        u64 config
        u64 sample_period
        u64 sample_type
        u64 read_format
        u64 flags
        u32 wakeup_events
        u32 bp_type
        u64 config1
        u64 config2
        u64 branch_sample_type
        u64 sample_regs_user
        u32 sample_stack_user
        s32 clockid
        u64 sample_regs_intr
        u32 aux_watermark
        u32 sample_max_stack
    """,
)


def attach_kprobe(program: LoadedProgram, cookie: int = 0) -> Link:
    """Attach at the entry (kprobe/FUNC, kprobe/FUNC+OFFSET) or the return (kretprobe/FUNC) of a kernel function.

    Raises:
        BpfError: this kernel has no kprobe PMU (before 4.17, or built without kprobes), or no such function.
    """
    section = program.section
    assert section is not None
    function, _, offset = section.target.partition("+")
    try:
        kind = int(_read(f"{_KPROBE_PMU}/type"))
        # "config:0": the bit of config that asks for the return
        bit = int(_read(f"{_KPROBE_PMU}/format/retprobe").partition(":")[2] or 0)
    except OSError as error:
        raise BpfError(
            f"cannot attach {program.label}: kernel {os.uname().release} has no kprobe PMU ({_KPROBE_PMU})",
            errno=ENOTSUP,
            hint="it was built without CONFIG_KPROBE_EVENTS; nearest: raw tracepoints (--backend raw_tracepoint)",
        ) from error
    name = Memory(function.encode() + b"\0")
    attr = PerfEventAttr(
        type=kind,
        config=1 << bit if section.name.startswith("kretprobe/") else 0,
        config1=name.address,
        config2=int(offset, 0) if offset else 0,
    )
    return _attach(program, attr, f"function {function!r}", cookie)


def attach_tracepoint(program: LoadedProgram, cookie: int = 0) -> Link:
    """Attach to a tracepoint by category and name (tracepoint/sched/sched_process_exit).

    Raises:
        BpfError: no such tracepoint, or tracefs is not mounted.
    """
    section = program.section
    assert section is not None
    root = tracefs()
    if root is None:
        raise BpfError(
            f"cannot attach {program.label}: tracefs is not mounted",
            errno=ENOENT,
            hint="mount -t tracefs tracefs /sys/kernel/tracing",
        )
    try:
        config = int(_read(f"{root}/events/{section.target}/id"))
    except OSError as error:
        near = _nearest_event(f"{root}/events", section.target)
        raise BpfError(
            f"cannot attach {program.label}: there is no tracepoint {section.target} in {root}/events",
            errno=error.errno or ENOENT,
            hint=f"kernel {os.uname().release} has no such tracepoint{near}",
        ) from error
    attr = PerfEventAttr(type=PERF_TYPE_TRACEPOINT, config=config, sample_period=1)
    return _attach(program, attr, f"tracepoint {section.target}", cookie)


def tracefs() -> str | None:
    """Where tracefs is mounted, or None."""
    return next((root for root in _TRACEFS if os.path.isdir(f"{root}/events")), None)


def _attach(program: LoadedProgram, attr: Structure, target: str, cookie: int) -> Link:
    event = _open(program, attr, target)
    try:
        link = LinkCreateAttr(
            prog_fd=program.fileno(), target_fd=event.fileno(), attach_type=AttachType.PERF_EVENT, iter_info=cookie
        )
        result = bpf_errno(Cmd.LINK_CREATE, link)
        if result >= 0:
            return Link(result, label=f"link of {program.label}", beside=event)
        if result != -EINVAL or cookie:
            raise failure(Cmd.LINK_CREATE, -result, f"attach {program.label}")
        # Before Linux 5.15 there is no link of this type: the event itself holds the program.
        try:
            ioctl(event.fileno(), PERF_EVENT_IOC_SET_BPF, program.fileno())
            ioctl(event.fileno(), PERF_EVENT_IOC_ENABLE, 0)
        except OSError as error:
            number = error.errno or 0
            raise BpfError(
                f"cannot attach {program.label}: ioctl(PERF_EVENT_IOC_SET_BPF): {errno_name(number)}", errno=number
            ) from error
        return Link(event.fileno(), label=f"perf event of {program.label}", beside=event, owned=False)
    except BaseException:
        event.close()
        raise


def _open(program: LoadedProgram, attr: Structure, target: str) -> Handle:
    """perf_event_open(2) for all processes; the CPU given does not restrict kprobes and tracepoints."""
    attr.size = len(attr)
    fd = syscall(call_number("perf_event_open"), attr.address, -1, 0, -1, PERF_FLAG_FD_CLOEXEC, 0)
    if fd >= 0:
        return Handle(fd, label=f"perf event of {program.label}")
    errno = last_errno()
    hint = ""
    if errno in (EPERM, EACCES):
        hint = _permission()
    elif errno in (ENOENT, EINVAL):
        near = _nearest(program.section.target.partition("+")[0] if program.section is not None else "")
        hint = "kernel " + os.uname().release + " has no such function, or it may not be probed" + near
    raise BpfError(
        f"cannot attach {program.label} to {target}: perf_event_open: {errno_name(errno)}", errno=errno, hint=hint
    )


def _nearest_event(events: str, wanted: str) -> str:
    """Tracepoints like one, in words: those of its category most like it, or its name elsewhere; "" for none."""
    from pylsm.btf.nearest import nearest_names

    category, _, name = wanted.partition("/")
    try:
        if os.path.isdir(f"{events}/{category}"):
            near = [f"{category}/{other}" for other in nearest_names(name, os.listdir(f"{events}/{category}"))]
        else:
            near = [
                f"{other}/{name}" for other in sorted(os.listdir(events)) if os.path.isdir(f"{events}/{other}/{name}")
            ]
    except OSError:
        return ""
    return f"; nearest: {', '.join(near)}" if near else ""


def _nearest(function: str) -> str:
    """Functions of this kernel with the same beginning, the most alike first, in words; "" when there is none."""
    import difflib

    beginning = function.partition("_")[0]
    try:
        with open("/proc/kallsyms", encoding="ascii", errors="replace") as file:
            names = {line.split()[2] for line in file if f" {beginning}" in line}
    except OSError:
        return ""
    near = [] if function in names else difflib.get_close_matches(function, names, 3)
    return f"; nearest: {', '.join(near)}" if near else ""


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read().strip()


def _permission() -> str:
    """Which capability perf_event_open(2) wants here."""
    from pylsm.loader.hints import CAPABILITIES, effective_capabilities

    held = effective_capabilities() or 0
    try:
        with open("/proc/sys/kernel/perf_event_paranoid", encoding="ascii") as file:
            paranoid = int(file.read())
    except (OSError, ValueError):
        paranoid = 0
    if held >> CAPABILITIES["CAP_PERFMON"] & 1 and paranoid >= 3:
        # A patch of Debian's and Android's, which asks for it at 3 and above.
        return (
            f"kernel.perf_event_paranoid is {paranoid}: needs root, or CAP_SYS_ADMIN; or allow it for CAP_PERFMON with "
            "`sysctl kernel.perf_event_paranoid=2`"
        )
    return f"needs root or CAP_PERFMON (kernel.perf_event_paranoid is {paranoid})"
