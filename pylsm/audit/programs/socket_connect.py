"""``lsm/socket_connect(sock, address, addrlen, ret)``: record where a traced process tries to connect to."""

from __future__ import annotations

from pylsm.arch import Architecture
from pylsm.asm import R1, R2, R3, R8, R9, Program, View, u16, u32, u64
from pylsm.audit.programs.common import Probe
from pylsm.audit.programs.filters import require_destination
from pylsm.audit.programs.hooks import LSM, Hook
from pylsm.audit.records import CONNECT, KIND_BIND, KIND_CONNECT
from pylsm.audit.sources import PLAIN, Options

__all__ = ["READ", "record_connect", "socket_bind", "socket_connect"]

_AF_INET, _AF_INET6 = 2, 10
_SOCKADDR_IN = 16
#: The kernel takes an IPv6 address without its scope id (SIN6_LEN_RFC2133): a check against 28 could be evaded.
_SIN6_LEN_RFC2133 = 24
#: Bytes of the address that hold family, port and either address. Behind ``addrlen`` they are another's leftovers.
READ = _SIN6_LEN_RFC2133


def socket_bind(
    hook: Hook = LSM, *, typed_task: bool = True, arch: Architecture | None = None, options: Options = PLAIN
) -> Program:
    """Every attempt to bind a socket to an address; see `socket_connect`."""
    return _with_address("socket_bind", KIND_BIND, hook, typed_task, arch, options)


def socket_connect(
    hook: Hook = LSM, *, typed_task: bool = True, arch: Architecture | None = None, options: Options = PLAIN
) -> Program:
    """Every attempt is recorded, whatever becomes of it: the hook runs before the protocol looks at the address.

    Args:
        hook: how the program is entered.
        typed_task: see `file_open`.
        arch: whose registers hold the arguments, where the hook does not give them; by default this machine's.
        options: what was asked for.
    """
    return _with_address("socket_connect", KIND_CONNECT, hook, typed_task, arch, options)


def _with_address(
    name: str, kind: int, hook: Hook, typed_task: bool, arch: Architecture | None, options: Options
) -> Program:
    a = hook.asm(name)
    marks = hook.typed and typed_task
    verdict = 3 if hook.verdict else None
    probe = Probe(a, verdict, typed_task=typed_task, marks=marks, select=options.by_event)
    probe.require_traced()
    address = a.stack(READ, "address")
    hook.argument(a, R9, 2, arch)  # addrlen
    hook.argument(a, R3, 1, arch)
    a.call("probe_read_kernel", address, READ, None)
    record_connect(probe, address, kind, options)
    probe.finish("ignored")
    return a.build()


def record_connect(probe: Probe, address: View, kind: int = KIND_CONNECT, options: Options = PLAIN) -> None:
    """Record the ``READ`` bytes at ``address``, of which the low 32 bits of r9 are valid; falls through when it is no
    address of the internet.
    """
    a = probe.a
    ipv6 = a.label("ipv6")
    write = a.label("write")
    ignore = a.label("ignore")
    a.jump32(R9, "s<", _SOCKADDR_IN, ignore)
    a.ldx(R1, u16[address])
    a.jeq(R1, _AF_INET, write)
    unspecified = a.label("unspecified") if kind == KIND_BIND else None
    if unspecified is not None:  # bind takes AF_UNSPEC for AF_INET, for old programs
        a.jeq(R1, 0, unspecified)
    a.jne(R1, _AF_INET6, ignore)
    a.jump32(R9, "s<", _SIN6_LEN_RFC2133, ignore)

    if unspecified is not None:
        a.ja(write)
        a.bind(unspecified)
        a.st(u16[address], _AF_INET)
    a.bind(write)
    if kind == KIND_CONNECT:
        require_destination(probe, address, options.filters)
    event = probe.reserve(CONNECT, kind)
    a.ldx(R1, u16[address])
    a.stx(event.family, R1)
    a.ldx(R2, u16[address + 2])
    a.stx(event.port, R2)
    a.jeq(R1, _AF_INET6, ipv6)
    # A reserved record holds what was in the ring before: every byte is written.
    a.ldx(R1, u32[address + 4])
    a.stx(u32[event["address"]], R1)
    a.st(u32[event["address"] + 4], 0)
    a.st(u64[event["address"] + 8], 0)
    submit = a.label("submit")
    a.ja(submit)
    a.bind(ipv6)
    a.ldx(R1, u64[address + 8])
    a.stx(u64[event["address"]], R1)
    a.ldx(R1, u64[address + 16])
    a.stx(u64[event["address"] + 8], R1)
    a.bind(submit)
    a.call("ringbuf_submit", R8, 0)
    probe.leave("recorded")
    a.bind(ignore)
