"""``lsm/socket_sendmsg(sock, msg, size, ret)``: record where a traced process sends to without connecting.

That is UDP, raw sockets and SCTP, each destination once per process incarnation; and TCP Fast Open (MSG_FASTOPEN),
which is a connect and recorded each time. A message without an address goes where its socket is connected: such a run
ends before it is counted, since most of what is sent is that.
"""

from __future__ import annotations

from pylsm.arch import Architecture, with_registers
from pylsm.asm import R0, R1, R2, R3, R6, R7, R8, R9, Address, Asm, Program, Register, View, u16, u32, u64
from pylsm.asm.typed import Typed
from pylsm.audit.maps import SENT
from pylsm.audit.programs.common import KERNEL, Probe, field_of
from pylsm.audit.programs.file_open import _getter
from pylsm.audit.programs.filters import require_destination
from pylsm.audit.programs.hooks import LSM, Hook
from pylsm.audit.programs.socket_connect import READ
from pylsm.audit.programs.syscalls import ignore_compat, socket_behind
from pylsm.audit.records import FLAG_FASTOPEN, KIND_SENDTO, SENDTO, SENT_KEY
from pylsm.audit.sources import PLAIN, Options
from pylsm.light import TYPE_CHECKING
from pylsm.record import Int16un, Int32un, Record

if TYPE_CHECKING:
    from typing import Final

__all__ = ["sendto_call", "socket_sendmsg"]

_AF_INET, _AF_INET6 = 2, 10
_SOCK_RAW = 3
_IPPROTO_TCP, _IPPROTO_MPTCP = 6, 262
_MSG_FASTOPEN = 0x20000000
_SOCKADDR_IN, _SIN6_LEN_RFC2133 = 16, 24  # see socket_connect
_SENDS = ("sendto", "sendmsg", "sendmmsg")
_UNIT_BITS, _TGID_BITS = 10, 22  # of SENT_KEY's `who`

#: What is known of a message besides its address.
_MESSAGE: Final = Record(
    "message",
    "family" / Int16un,  # the socket's
    "type" / Int16un,
    "protocol" / Int32un,
    "flags" / Int32un,
    "reserved" / Int32un,
)


def socket_sendmsg(
    hook: Hook = LSM, *, typed_task: bool = True, arch: Architecture | None = None, options: Options = PLAIN
) -> Program:
    """Record the destination of a message that has one, whatever becomes of it.

    Args:
        hook, typed_task, arch, options: see `socket_connect`.
    """
    a = hook.asm("socket_sendmsg")
    marks = hook.typed and typed_task
    probe = Probe(a, verdict=3 if hook.verdict else None, typed_task=typed_task, marks=marks, select=options.by_event)
    address, word, message = a.stack(READ, "address"), a.stack(8, "word"), a.stack(_MESSAGE, "message")
    kept = a.stack(8, "kept")
    connected = a.label("connected")
    get = _getter(a, word, hook.typed)
    hook.argument(a, R9, 1, arch)
    msg = a.typed(R9, "msghdr")
    get(R1, msg.msg_name)
    a.jeq(R1, 0, connected)
    probe.require_traced()
    get(R1, msg.msg_flags)
    a.stx(message.flags, R1)
    hook.argument(a, R8, 0, arch)
    sock = get(R8, a.typed(R8, "socket").sk)
    assert sock is not None
    # Never so for a socket that is sent through; kernels from 6.12 on want to be shown that.
    probe.leave_if(R8, "==", 0, "ignored")
    _describe(probe, sock, message, word, trusted=hook.typed)
    # r9 last: it is what the fields are reached from.
    get(R1, msg.msg_name)
    a.stx(u64[kept], R1)
    get(R9, msg.msg_namelen)
    a.ldx(R3, u64[kept])
    a.call("probe_read_kernel", address, READ, None)
    _record(probe, address, message, word, options)
    probe.finish("ignored")
    a.bind(connected)
    if hook.verdict:
        a.ldx(R0, u64[R6 + 24])
    else:
        a.mov(R0, 0)
    a.exit_()
    return a.build()


def sendto_call(*, typed_task: bool = True, arch: Architecture | None = None, options: Options = PLAIN) -> Program:
    """``sys_enter(regs, id)``: sendto and sendmsg, and the first message of sendmmsg, as user space gave them.

    Args:
        typed_task: see `file_open`.
        arch: the machine, by default this one.
        options: what was asked for.
    """
    arch = arch or with_registers()
    a = Asm("raw_tp/sys_enter", name="sys_enter_send", types=KERNEL)
    untouched, sends, by_header, with_header, ignored, unreadable = (
        a.label(name) for name in ("other call", "sends", "by header", "with header", "ignored", "unreadable")
    )
    probe = Probe(a, verdict=None, typed_task=typed_task, select=options.by_event)
    a.ldx(R8, u64[R6 + 8])
    for name in _SENDS:
        a.jeq(R8, arch.call(name), sends)
    a.bind(untouched)
    a.mov(R0, 0)
    a.exit_()

    a.bind(sends)
    address, word, message = a.stack(READ, "address"), a.stack(8, "word"), a.stack(_MESSAGE, "message")
    given = a.stack(16, "given")
    a.ldx(R9, u64[R6])
    regs = a.typed(R9, "pt_regs")

    def argument(dst: Register, index: int) -> None:
        a.probe_load(dst, field_of(regs, arch.call_arguments[index]), word)

    a.jne(R8, arch.call("sendto"), by_header)
    argument(R1, 4)
    a.stx(u64[given], R1)
    argument(R1, 5)
    a.stx(u64[given + 8], R1)
    argument(R1, 3)
    a.stx(message.flags, R1)
    a.ja(with_header)
    a.bind(by_header)
    argument(R1, 2)
    with a.if_(R8, "==", arch.call("sendmmsg")):
        argument(R1, 3)
    a.stx(message.flags, R1)
    argument(R3, 1)
    a.call("probe_read_user", given, 16, None)
    a.jne(R0, 0, untouched)
    a.bind(with_header)
    a.ldx(R1, u64[given])
    a.jeq(R1, 0, untouched)
    probe.require_traced()
    ignore_compat(probe, arch, word, ignored)

    argument(R9, 0)
    sock = socket_behind(probe, word, ignored)
    _describe(probe, sock, message, word, trusted=False)

    a.ldx(R9, u32[given + 8])
    for offset in range(0, READ, 8):
        a.st(u64[address + offset], 0)
    a.mov32(R2, R9)
    with a.if_(R2, ">", READ):
        a.mov(R2, READ)
    a.ldx(R3, u64[given])
    a.call("probe_read_user", address, None, None)
    a.jne(R0, 0, unreadable)
    _record(probe, address, message, word, options)
    a.ja(ignored)
    a.bind(unreadable)
    probe.leave("unreadable")
    a.bind(ignored)
    probe.finish("ignored")
    return a.build()


def _describe(probe: Probe, sock: Typed, message: View, word: View, *, trusted: bool) -> None:
    """What the socket in r8 is, to ``message``; clobbers r0-r5."""
    a = probe.a
    get = _getter(a, word, trusted)
    for field, to in (
        (getattr(sock, "__sk_common").skc_family, message.family),
        (sock.sk_type, message.type),
        (sock.sk_protocol, message.protocol),
    ):
        get(R1, field)
        a.stx(to, R1)


def _record(probe: Probe, address: View, message: View, word: View, options: Options) -> None:
    """Record the ``READ`` bytes at ``address``, of which the low 32 bits of r9 are valid; falls through when they are
    no address of the internet, or one that is not used."""
    a = probe.a
    key = a.stack(SENT_KEY, "key")
    stream, named, opening, ipv4, ipv6, write, once, ignore = (
        a.label(name) for name in ("stream", "named", "opening", "IPv4", "IPv6", "write", "once", "ignore")
    )
    # A stream is connected: an address is used only where it is not yet, and the message connects it.
    a.ldx(R1, message.protocol)
    a.jeq(R1, _IPPROTO_TCP, stream)
    a.jne(R1, _IPPROTO_MPTCP, named)
    a.bind(stream)
    a.ldx(R1, message.flags)
    a.and_(R1, _MSG_FASTOPEN)
    a.jeq(R1, 0, ignore)
    a.ja(opening)
    a.bind(named)
    a.mov(R1, 0)
    a.bind(opening)
    a.stx(message.flags, R1)
    a.ldx(R1, u16[address])
    a.jeq(R1, _AF_INET, ipv4)
    a.jeq(R1, _AF_INET6, ipv6)
    a.jne(R1, 0, ignore)
    # Without a family an address is taken for one of the socket's, by UDP over IPv4 and by raw sockets.
    a.ldx(R1, message.family)
    a.jeq(R1, _AF_INET, ipv4)
    a.jne(R1, _AF_INET6, ignore)
    a.ldx(R2, message.type)
    a.jne(R2, _SOCK_RAW, ignore)
    a.bind(ipv6)
    a.jump32(R9, "s<", _SIN6_LEN_RFC2133, ignore)
    _destination(a, key, _AF_INET6, address + 8, address + 16)
    a.ja(write)
    a.bind(ipv4)
    a.jump32(R9, "s<", _SOCKADDR_IN, ignore)
    _destination(a, key, _AF_INET, None, None)
    a.ldx(R1, u32[address + 4])
    a.stx(u32[key["address"]], R1)
    a.bind(write)
    a.ldx(R1, u16[address + 2])
    a.stx(key.port, R1)
    a.ldx(R1, message.protocol)
    a.stx(key.protocol, R1)
    a.st(key.reserved, 0)
    if {"dst", "port"} & set(options.filters):
        a.ldx(R1, key.family)
        a.stx(u16[address], R1)
        require_destination(probe, address, options.filters)
    _incarnation(probe, key, word)
    a.ldx(R1, message.flags)
    a.jne(R1, 0, once)
    a.call("map_lookup_elem", SENT, key)
    probe.leave_if(R0, "!=", 0, "deduplicated")

    a.bind(once)
    event = probe.reserve(SENDTO, KIND_SENDTO)
    for offset in (0, 8):
        a.ldx(R1, u64[key["address"] + offset])
        a.stx(u64[event["address"] + offset], R1)
    for name in ("family", "port", "protocol"):
        a.ldx(R1, getattr(key, name))
        a.stx(getattr(event, name), R1)
    a.ldx(R1, message.flags)
    with a.if_(R1, "!=", 0):
        a.st(event.flags, FLAG_FASTOPEN)
    a.call("ringbuf_submit", R8, 0)
    a.st(u32[word], 1)
    a.call("map_update_elem", SENT, key, word, 0)
    probe.leave("recorded")
    a.bind(ignore)


def _destination(a: Asm, key: View, family: int, first: Address | None, second: Address | None) -> None:
    """Family and address of a key; without parts, an address of zeros. Clobbers r1."""
    a.st(key.family, family)
    for offset, part in ((0, first), (8, second)):
        if part is None:
            a.st(u64[key["address"] + offset], 0)
        else:
            a.ldx(R1, u64[part])
            a.stx(u64[key["address"] + offset], R1)


def _incarnation(probe: Probe, key: View, word: View) -> None:
    """Whose destination it is: start time, tgid and count of execs, to ``key``; clobbers r0-r5, r7 and r8."""
    a = probe.a
    a.call("get_current_pid_tgid")
    a.mov(R7, R0)
    task = probe.current_task(R8)
    probe.read_task(R1, task.self_exec_id, word)
    a.stx(key.execs, R1)
    probe.read_task(R1, task.group_leader.start_time, word)
    a.rsh(R1, _UNIT_BITS)
    a.lsh(R1, _TGID_BITS)
    a.mov(R2, R7)
    a.rsh(R2, 32)
    a.or_(R1, R2)
    a.stx(key.who, R1)
