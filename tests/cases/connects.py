"""What is recorded of connect."""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cases.lab import CONNECT, Lab, syscall

INET, INET6, TCP, UDP = socket.AF_INET, socket.AF_INET6, socket.SOCK_STREAM, socket.SOCK_DGRAM
LOCAL4, LOCAL6 = b"\x7f\0\0\1", bytes(15) + b"\1"
MAPPED = bytes(10) + b"\xff\xff" + LOCAL4
JUNK = b"\xaa" * 128


def in4(port: int, address: bytes = LOCAL4) -> bytes:
    return struct.pack("=H", INET) + struct.pack(">H", port) + address + bytes(8)


def in6(port: int, address: bytes = LOCAL6, scope: int = 0) -> bytes:
    return struct.pack("=H", INET6) + struct.pack(">HI", port, 0) + address + struct.pack("=I", scope)


def connect(family: int, kind: int, address: bytes, length: int | None = None, flags: int = 0) -> int:
    """The result of connect(2), or its negative errno, on a new socket."""
    with socket.socket(family, kind | flags) as sock:
        buffer = ctypes.create_string_buffer(address, max(len(address), 1))
        return syscall(CONNECT, sock.fileno(), buffer, len(address) if length is None else length)


class Ports(NamedTuple):
    """A listener on both loopback addresses, and a port that refuses."""

    open: int
    refused: int


@pytest.fixture(scope="module")
def ports() -> Iterator[Ports]:
    with (
        socket.create_server(("::", 0), family=INET6, dualstack_ipv6=True, backlog=128) as server,
        socket.socket(INET6) as bound,
    ):
        bound.bind(("::", 0))  # reserved, and nobody listens
        yield Ports(server.getsockname()[1], bound.getsockname()[1])


class Case(NamedTuple):
    family: int
    kind: int
    address: bytes  # with OPEN or REFUSED for its port
    length: int | None
    result: int  # of connect(2)
    seen: str | None  # destination without port, or None where nothing must be recorded
    flags: int = 0
    mapped: bool = False


OPEN, REFUSED = 0xAAAA, 0xBBBB  # stand for the ports in the table
MARKS = {struct.pack(">H", OPEN): "open", struct.pack(">H", REFUSED): "refused"}

CASES = {
    "IPv4": Case(INET, TCP, in4(OPEN), None, 0, "127.0.0.1"),
    "IPv4 refused": Case(INET, TCP, in4(REFUSED), None, -errno.ECONNREFUSED, "127.0.0.1"),
    "IPv4 long": Case(INET, TCP, in4(OPEN) + JUNK, 128, 0, "127.0.0.1"),
    "IPv4 too short": Case(INET, TCP, in4(OPEN), 15, -errno.EINVAL, None),
    "IPv4 eight bytes": Case(INET, TCP, in4(OPEN), 8, -errno.EINVAL, None),
    "IPv4 non-blocking": Case(INET, TCP, in4(OPEN), None, -errno.EINPROGRESS, "127.0.0.1", flags=socket.SOCK_NONBLOCK),
    "IPv4 UDP": Case(INET, UDP, in4(REFUSED), None, 0, "127.0.0.1"),
    "IPv4 any address": Case(INET, TCP, in4(OPEN, bytes(4)), None, 0, "0.0.0.0"),
    "IPv4 broadcast": Case(INET, UDP, in4(OPEN, b"\x7f\xff\xff\xff"), None, -errno.EACCES, "127.255.255.255"),
    "IPv6": Case(INET6, TCP, in6(OPEN), None, 0, "::1"),
    "IPv6 without its scope": Case(INET6, TCP, in6(OPEN), 24, 0, "::1"),
    "IPv6 one byte short of that": Case(INET6, TCP, in6(OPEN), 23, -errno.EINVAL, None),
    "IPv6 as long as IPv4": Case(INET6, TCP, in6(OPEN), 16, -errno.EINVAL, None),
    "IPv6 128 bytes": Case(INET6, TCP, in6(OPEN) + JUNK, 128, 0, "::1"),
    "IPv6 129 bytes": Case(INET6, TCP, in6(OPEN) + JUNK, 129, -errno.EINVAL, None),
    "IPv6 refused": Case(INET6, TCP, in6(REFUSED), None, -errno.ECONNREFUSED, "::1"),
    "IPv6 UDP": Case(INET6, UDP, in6(OPEN), None, 0, "::1"),
    "IPv6 link-local without a scope": Case(
        INET6, UDP, in6(OPEN, b"\xfe\x80" + bytes(13) + b"\5"), None, -errno.EINVAL, "fe80::5"
    ),
    "IPv4-mapped": Case(INET6, TCP, in6(OPEN, MAPPED), None, 0, "127.0.0.1", mapped=True),
    "IPv4-mapped, 24 bytes": Case(INET6, TCP, in6(OPEN, MAPPED), 24, 0, "127.0.0.1", mapped=True),
    "IPv4 address on an IPv6 socket": Case(INET6, UDP, in4(OPEN), None, 0, "127.0.0.1"),
    "IPv6 address on an IPv4 socket": Case(INET, TCP, in6(OPEN), None, -errno.EAFNOSUPPORT, "::1"),
    "disconnect": Case(INET, UDP, struct.pack("=H", 0) + bytes(14), None, 0, None),
    "disconnect, two bytes": Case(INET6, UDP, struct.pack("=H", 0), None, 0, None),
    "no address": Case(INET, TCP, b"", 0, -errno.EINVAL, None),
    "negative length": Case(INET, TCP, in4(OPEN), -1, -errno.EINVAL, None),
    "AF_UNIX": Case(socket.AF_UNIX, TCP, struct.pack("=H", 1) + b"\0nobody listens", None, -errno.ECONNREFUSED, None),
    "AF_NETLINK": Case(socket.AF_NETLINK, socket.SOCK_RAW, struct.pack("=HHII", 16, 0, 0, 0), None, 0, None),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_each_kind_of_destination(lab: Lab, ports: Ports, case: Case) -> None:
    address, port = case.address, 0
    mark = MARKS.get(address[2:4])
    if mark:
        port = getattr(ports, mark)
        address = address[:2] + struct.pack(">H", port) + address[4:]

    def work() -> int:
        return connect(case.family, case.kind, address, case.length, case.flags)

    assert lab.run(work, traced=False).result == case.result
    outcome = lab.run(work)
    assert outcome.result == case.result
    seen = [(e.dst_ip, e.port, e.mapped) for e in outcome.connects]
    assert seen == ([(case.seen, port, case.mapped)] if case.seen else [])
    assert outcome.counts.recorded == len(outcome.events)
    assert (outcome.counts.lost, outcome.counts.unreadable) == (0, 0)
    for event in outcome.connects:
        assert (event.pid, event.tid) == (outcome.pid, outcome.pid)
        assert event.family == struct.unpack_from("=H", address)[0]


def test_every_attempt_counts(lab: Lab, ports: Ports) -> None:
    """Connects are not deduplicated: a hundredth attempt is as much news as the first."""
    outcome = lab.run(lambda: [connect(INET, TCP, in4(ports.refused)) for _ in range(100)])
    assert len(outcome.connects) == outcome.counts.recorded == 100
    assert outcome.counts.deduplicated == 0


def test_ignored_ones_are_counted(lab: Lab) -> None:
    def work() -> None:
        with socket.socket(socket.AF_UNIX) as unix:
            for _ in range(5):
                unix.connect_ex("\0nobody listens")

    outcome = lab.run(work)
    assert (outcome.counts.ignored, outcome.counts.recorded) == (5, 0)


def test_an_address_that_cannot_be_read(lab: Lab, source: str) -> None:
    def work() -> int:
        with socket.socket() as sock:
            return syscall(CONNECT, sock.fileno(), ctypes.c_void_p(8), 16)

    outcome = lab.run(work)
    assert outcome.result == -errno.EFAULT
    assert outcome.events == []
    assert outcome.counts.unreadable == (1 if source == "raw_tracepoint" else 0)


def test_port_zero_and_the_highest(lab: Lab) -> None:
    outcome = lab.run(lambda: [connect(INET, UDP, in4(port)) for port in (0, 65535)])
    assert [e.port for e in outcome.connects] == [0, 65535]


def test_in_the_order_they_were_made(lab: Lab) -> None:
    def work() -> None:
        for number in range(1, 200):
            connect(INET, UDP, in4(number, struct.pack(">BBBB", 127, 0, number, 1)))

    outcome = lab.run(work)
    assert [(e.dst_ip, e.port) for e in outcome.connects] == [(f"127.0.{n}.1", n) for n in range(1, 200)]
    times = [e.time_ns for e in outcome.connects]
    assert times == sorted(times)


def test_resolving_and_connecting_as_programs_do(lab: Lab, ports: Ports) -> None:
    def work() -> Any:
        with socket.create_connection(("::1", ports.open)) as sock:
            return sock.getpeername()[:2]

    outcome = lab.run(work)
    assert [(e.dst_ip, e.port) for e in outcome.connects] == [outcome.result]
    assert outcome.connects[0].comm == Path("/proc/self/comm").read_bytes()[:-1]
