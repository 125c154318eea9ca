"""Giving up what is no longer needed: capabilities, new privileges, files, system calls.

An audit needs privilege to load and attach its programs. From then on it reads a memory-mapped ring that hostile
processes fill, and writes lines: `restrict` leaves it able to do that and little else. There is no way back.
"""

from __future__ import annotations

import os
from contextlib import suppress

from pylsm.light import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Confined", "Needs", "restrict"]


class Needs(NamedTuple):
    """What must still work afterwards, besides using descriptors that are open.

    Attributes:
        signals: send signals to processes, of other users too.
        network: sockets, and threads (an exporter's).
        inspect: /proc/PID of other users' processes (their exe, cwd).
        writable: directories in which files are made, renamed and removed, such as those of a rotated output.
        readable: files and directories to be opened for reading.
    """

    signals: bool = False
    network: bool = False
    inspect: bool = False
    writable: tuple[str, ...] = ()
    readable: tuple[str, ...] = ()


class Confined(NamedTuple):
    """What `restrict` achieved.

    Attributes:
        capabilities: names of those kept.
        landlock: the kernel's Landlock ABI that was used; 0: none.
        seccomp: a system call filter is in place.
        missing: what this kernel has not, or refused, with its reason.
    """

    capabilities: tuple[str, ...]
    landlock: int
    seccomp: bool
    missing: tuple[str, ...]


def restrict(needs: Needs = Needs(), works: Callable[[], bool] = lambda: True) -> Confined:  # noqa: B008 (immutable)
    """Confine this thread and all it starts, for good.

    Call it before other threads are started: capabilities and Landlock are a thread's own.

    Args:
        needs: what must still work.
        works: tries what has to work without a capability: reading the audit's maps. Before Linux 6.0 with
            kernel.unprivileged_bpf_disabled set bpf(2) answers nobody without CAP_BPF, which is then kept.

    Returns:
        What was achieved. A kernel without Landlock or seccomp is no error; it is named in ``missing``.
    """
    # Imported here: a start need not wait for them.
    from pylsm.confine import landlock, seccomp
    from pylsm.confine.capabilities import (
        CAP_BPF,
        CAP_DAC_OVERRIDE,
        CAP_KILL,
        CAP_SYS_PTRACE,
        effective_only,
        keep_only,
        names,
        permitted,
    )
    from pylsm.confine.kernel import PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, prctl

    _close_inherited()
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    missing = []
    abi = 0
    # A process in a Landlock domain may not look into those outside it (ptrace_may_access), whatever its capabilities.
    if needs.inspect:
        missing.append("landlock: not used, since other processes are looked into")
    else:
        try:
            abi = landlock.restrict(
                readable=needs.readable, writable=needs.writable, network=needs.network, signals=needs.signals
            )
        except OSError as error:
            missing.append(f"landlock: {error.strerror}")
    wanted = {CAP_KILL} if needs.signals else set()
    if needs.inspect:
        wanted.add(CAP_SYS_PTRACE)
    if any(os.stat(directory).st_uid != os.geteuid() for directory in needs.writable):
        wanted.add(CAP_DAC_OVERRIDE)
    wanted &= permitted()
    if CAP_BPF in permitted():
        effective_only(wanted)
        if not works():
            wanted.add(CAP_BPF)
    keep_only(wanted)
    prctl(PR_SET_DUMPABLE, 0)  # after the change of credentials, which resets it
    filtered = True
    try:
        seccomp.install(writable=bool(needs.writable), network=needs.network, signals=needs.signals)
    except OSError as error:
        filtered = False
        missing.append(f"seccomp: {error.strerror}")
    return Confined(names(wanted), abi, filtered, tuple(missing))


def _close_inherited() -> None:
    """Close what the caller left open: all of pylsm's own descriptors are close-on-exec, an inherited one cannot be."""
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if int(name) > 2 and os.get_inheritable(int(name)):
                os.close(int(name))
