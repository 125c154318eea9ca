"""What this machine offers to an audit, found out by looking and by trying."""

from __future__ import annotations

import os
import platform
from typing import NamedTuple

from pylsm.audit.session import Audit, UnavailableError
from pylsm.audit.sources import SOURCES
from pylsm.errors import PylsmError

__all__ = ["Finding", "Support", "survey"]

_LSM_LIST = "/sys/kernel/security/lsm"
_BTF = "/sys/kernel/btf/vmlinux"
_LOCKDOWN = "/sys/kernel/security/lockdown"
# include/uapi/linux/capability.h
_CAPABILITIES = {"CAP_SYS_ADMIN": 21, "CAP_PERFMON": 38, "CAP_BPF": 39}


class Finding(NamedTuple):
    """One thing that an audit needs.

    Attributes:
        name: what it is.
        ok: whether it is there; None when that could not be told.
        found: what was found.
        todo: what to do about it, or "".
    """

    name: str
    ok: bool | None
    found: str
    todo: str = ""


class Support(NamedTuple):
    """The survey's result.

    Attributes:
        supported: whether LSM hooks work here, seen by using them; None when that could not be told.
        source: the best source that works, or None.
        blind_spots: what that source cannot see.
        findings: one per thing needed, in the order they depend on each other.
    """

    supported: bool | None
    source: str | None
    blind_spots: tuple[str, ...]
    findings: tuple[Finding, ...]


def survey() -> Support:
    """Look at privileges, BTF and the active LSMs, then start an audit with each source and see whether it sees."""
    findings = [_privileges(), _btf(), _lsm_list(), _lockdown()]
    privileged = findings[0].ok
    works: dict[str, bool | None] = {}
    for source in SOURCES:
        if not privileged:
            finding = Finding(f"source {source.name}", None, "not tried without the privileges above")
        else:
            finding = _try(source.name)
        works[source.name] = finding.ok
        findings.append(finding)
    supported = works["lsm"]
    if supported is None and findings[2].ok is False:
        supported = False
    best = next((source for source in SOURCES if works[source.name]), None)
    if best is not None:
        findings.append(_kinds(best.name))
    return Support(supported, best.name if best else None, best.blind_spots if best else (), tuple(findings))


def _privileges() -> Finding:
    held = _effective_capabilities()
    if held is None:
        return Finding("privileges", None, "/proc/self/status could not be read", "mount /proc")
    names = [name for name, bit in _CAPABILITIES.items() if held >> bit & 1]
    found = f"uid {os.geteuid()}, {', '.join(names) or 'none of ' + ', '.join(_CAPABILITIES)}"
    if "CAP_SYS_ADMIN" in names or {"CAP_BPF", "CAP_PERFMON"} <= set(names):
        return Finding("privileges", True, found)
    return Finding("privileges", False, found, "run it with sudo (CAP_BPF and CAP_PERFMON are what it needs)")


def _effective_capabilities() -> int | None:
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1], 16) for line in status if line.startswith("CapEff:"))
    except (OSError, StopIteration):
        return None


def _btf() -> Finding:
    try:
        size = os.stat(_BTF).st_size
    except OSError as error:
        return Finding(
            "kernel types (BTF)", False, f"{_BTF}: {error.strerror}", "use a kernel with CONFIG_DEBUG_INFO_BTF=y"
        )
    return Finding("kernel types (BTF)", True, f"{_BTF}, {size:,} bytes")


def _lsm_list() -> Finding:
    name = "bpf among the active LSMs"
    try:
        with open(_LSM_LIST) as file:
            active = [module for module in file.read().strip().split(",") if module]
    except OSError as error:
        return Finding(
            name,
            None,
            f"{_LSM_LIST}: {error.strerror}",
            "mount -t securityfs securityfs /sys/kernel/security, and check again",
        )
    found = "active: " + ",".join(active)
    if "bpf" in active:
        return Finding(name, True, found)
    # capability is always there and not to be named (security/security.c)
    wanted = [module.strip() for module in active if module.strip() != "capability"] + ["bpf"]
    return Finding(
        name,
        False,
        found,
        f"boot with lsm={','.join(wanted)} (GRUB: add it to GRUB_CMDLINE_LINUX, update-grub, reboot); the kernel must "
        "be built with CONFIG_BPF_LSM=y",
    )


def _lockdown() -> Finding:
    try:
        with open(_LOCKDOWN) as file:
            modes = file.read().strip()
    except OSError:
        return Finding("no lockdown of BPF", True, "lockdown is not active")
    if "[confidentiality]" in modes:
        return Finding("no lockdown of BPF", False, modes, "boot without lockdown=confidentiality")
    return Finding("no lockdown of BPF", True, modes)


def _try(source: str) -> Finding:
    name = f"source {source}"
    try:
        with Audit(source=source):
            return Finding(name, True, "attached; saw an open and a connect of its own")
    except UnavailableError as error:
        reason = error.reasons[source]
        return Finding(name, False, str(reason), reason.hint)
    except PylsmError as error:
        return Finding(name, False, str(error), error.hint)


def _kinds(source: str) -> Finding:
    """Which kinds of events a source that works cannot record."""
    name = f"kinds of events of {source}"
    try:
        with Audit(source=source, events=["all"]) as audit:
            found = f"all but {', '.join(audit.unseen)}" if audit.unseen else "all"
            return Finding(name, True, found)
    except PylsmError as error:
        return Finding(name, False, f"not all: {error}", error.hint)


def kernel() -> str:
    """Release and architecture of the running kernel."""
    return f"{platform.release()} {platform.machine()}"
