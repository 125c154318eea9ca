"""Why bpf(2) says no: an errno and a command in words, with what this process and this kernel allow looked at."""

from __future__ import annotations

import os
from errno import E2BIG, EACCES, EBADF, EBUSY, EEXIST, EINVAL, ENOENT, ENOMEM, ENOSPC, ENOTSUP, EPERM

from pylsm.loader.attr import Cmd
from pylsm.loader.bpf import kernel_release
from pylsm.loader.errors import ENOTSUPP

__all__ = ["effective_capabilities", "hint"]

#: Bits of the effective set (include/uapi/linux/capability.h).
CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21, "CAP_PERFMON": 38, "CAP_BPF": 39}

#: With the kernel's release and machine.
_NO_TRAMPOLINE = (
    "Linux {} cannot attach to functions on {} (arm64 before 6.4): nearest are a kprobe and a raw tracepoint "
    "(--backend kprobe, raw_tracepoint)"
)

_FIXED: dict[tuple[int, Cmd | None], str] = {
    (ENOSPC, Cmd.PROG_LOAD): "the verifier's log did not fit its buffer",
    (E2BIG, Cmd.MAP_UPDATE_ELEM): "the map is full: create it with more max_entries",
    (E2BIG, Cmd.PROG_LOAD): "the program or one of its structures is larger than this kernel takes",
    (E2BIG, Cmd.MAP_CREATE): "key, value or number of entries are larger than this kernel takes",
    (E2BIG, None): "this kernel is older than one of the options in use",
    (ENOMEM, Cmd.MAP_CREATE): "not enough memory for the map (or for this memory cgroup): make it smaller",
    (ENOMEM, None): "not enough memory, or the memory cgroup's limit is reached",
    (EBUSY, Cmd.RAW_TRACEPOINT_OPEN): "something else holds this attach point, or the kernel is out of trampolines for "
    "this function: another BPF program or live patch may be attached to it (bpftool link)",
    (EBUSY, Cmd.LINK_CREATE): "something else holds this attach point (bpftool link)",
    (EBUSY, Cmd.MAP_UPDATE_ELEM): "another CPU holds this element; try again",
    (ENOENT, Cmd.RAW_TRACEPOINT_OPEN): "this kernel has no tracepoint of that name",
    (ENOENT, Cmd.OBJ_GET): "nothing is pinned there",
    (ENOENT, Cmd.OBJ_PIN): "the directory does not exist",
    (EEXIST, Cmd.OBJ_PIN): "something is pinned there already: remove it or choose another path",
    (EEXIST, Cmd.RAW_TRACEPOINT_OPEN): "this program is attached already",
    (EEXIST, Cmd.MAP_UPDATE_ELEM): "the key is in the map already",
    (ENOENT, Cmd.MAP_UPDATE_ELEM): "the key is not in the map",
    (ENOTSUPP, Cmd.RAW_TRACEPOINT_OPEN): _NO_TRAMPOLINE,
    (ENOTSUPP, Cmd.LINK_CREATE): _NO_TRAMPOLINE,
    (ENOTSUPP, Cmd.PROG_TEST_RUN): "this kernel cannot test-run programs of this type",
    (ENOTSUPP, Cmd.PROG_LOAD): "this kernel was built without what the program needs (JIT, kfuncs, subprograms)",
    (ENOTSUP, Cmd.LINK_DETACH): "links of this type are detached by closing them and removing their pins",
    (ENOTSUPP, None): "this kernel does not implement it",
    (EINVAL, Cmd.MAP_CREATE): "this kernel does not know this map type, or refuses its sizes or flags",
    (EINVAL, Cmd.BTF_LOAD): "this kernel refuses the type information",
    (EINVAL, None): "this kernel does not know the command or one of its options",
    (EACCES, Cmd.OBJ_GET): "the path is not on a BPF filesystem, or may not be read",
    (EBADF, None): "a file descriptor in the request is closed or of another kind",
}


def hint(cmd: Cmd, number: int) -> str:
    """The likely reason and the next step for errno ``number`` of ``cmd``, or ""."""
    if number == EPERM:
        return _permission(cmd)
    text = _FIXED.get((number, cmd)) or _FIXED.get((number, None), "")
    if text is _NO_TRAMPOLINE:
        kernel = os.uname()
        return text.format(kernel.release, kernel.machine)
    return text


def effective_capabilities() -> int | None:
    """This process's effective capability set as a bit mask, or None where /proc does not tell."""
    status = _read("/proc/self/status")
    for line in status.splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return None


def _permission(cmd: Cmd) -> str:
    held = effective_capabilities()
    names = {name for name, bit in CAPABILITIES.items() if held is not None and held >> bit & 1}
    if held is not None and "CAP_SYS_ADMIN" not in names:
        wanted = {"CAP_BPF"}
        if cmd in (Cmd.PROG_LOAD, Cmd.RAW_TRACEPOINT_OPEN, Cmd.LINK_CREATE):
            wanted.add("CAP_PERFMON")
        if kernel_release() < (5, 8) or not wanted <= names:
            text = f"needs root, or {' and '.join(sorted(wanted))}; missing: {', '.join(sorted(wanted - names))}"
            state = _read("/proc/sys/kernel/unprivileged_bpf_disabled").strip()
            if state in ("1", "2"):
                text += f" (kernel.unprivileged_bpf_disabled is {state})"
            return text
    lockdown = _read("/sys/kernel/security/lockdown")
    if "[integrity]" in lockdown or "[confidentiality]" in lockdown:
        mode = lockdown[lockdown.index("[") + 1 : lockdown.index("]")]
        return (
            f"kernel lockdown is in {mode} mode, which restricts BPF (boot with lockdown=none, or without secure boot)"
        )
    if kernel_release() < (5, 11) and cmd in (Cmd.MAP_CREATE, Cmd.PROG_LOAD, Cmd.BTF_LOAD):
        return "RLIMIT_MEMLOCK is too small and may not be raised (CAP_SYS_RESOURCE): raise `ulimit -l`"
    if os.geteuid() == 0 and not _initial_user_namespace():
        return "root of a user namespace is not enough: run in the initial user namespace"
    return (
        "the process has the capabilities; a security module, a seccomp filter or this kernel's own policy refuses "
        "it (`python -m pylsm check` says what this kernel takes)"
    )


def _initial_user_namespace() -> bool:
    fields = _read("/proc/self/uid_map").split()
    return not fields or fields == ["0", "0", "4294967295"]


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
