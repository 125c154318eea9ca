"""What only netlink knows, by pyroute2: routes, and the sockets that processes hold already; in any network namespace.

Sources: rtnetlink(7), sock_diag(7), network_namespaces(7); RFC 6890 and its registries for scopes.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import pickle
import socket
import struct
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

from pylsm.errors import PylsmError
from pylsm.light import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Any, Final, TypeVar

    _T = TypeVar("_T")

__all__ = ["Held", "Routes", "held_sockets", "inside", "listed_sockets", "namespace_of", "scope_of"]

_CLONE_NEWNET = 0x40000000  # include/uapi/linux/sched.h
_TABLES: Final = (255, 254, 253)  # local, main, default (include/uapi/linux/rtnetlink.h)
_UNICAST, _LOCAL = 1, 2  # RTN_*
_LISTEN, _CLOSED = 10, (6, 7)  # TCP_LISTEN; TIME_WAIT and CLOSE (include/net/tcp_states.h)
_UNIVERSE = 0  # RT_SCOPE_UNIVERSE


def scope_of(address: bytes) -> str:
    """Where an address leads to: "loopback", "private", "link-local", "multicast" or "public".

    "private" is all that the Internet does not route: RFC 1918, RFC 4193, RFC 6598 (shared), documentation, reserved.
    An address of all zeros is this host, as connect(2) takes it.
    """
    found = ipaddress.ip_address(address)
    if found.is_loopback or found.is_unspecified:
        return "loopback"
    if found.is_multicast:
        return "multicast"
    if found.is_link_local:
        return "link-local"
    return "public" if found.is_global else "private"


class _Route(NamedTuple):
    prefix: int
    bits: int
    rank: int
    metric: int
    interface: str | None
    source: str | None


class Routes:
    """Routes of network namespaces, as they were when they were learned. Rules of policy routing are not looked at."""

    def __init__(self) -> None:
        self._of: dict[int, dict[int, list[_Route]]] = {}

    def learn(self, net_ns: int, path: str) -> None:
        """Read those of a namespace, once.

        Args:
            net_ns: its inode number.
            path: where it is, such as /proc/PID/ns/net.
        """
        if net_ns in self._of:
            return
        self._of[net_ns] = {}
        with suppress(PylsmError):  # gone meanwhile: nothing is known of its routes
            self._of[net_ns] = inside(net_ns, path, _read_routes)

    def to(self, net_ns: int | None, address: bytes) -> tuple[str | None, str | None]:
        """(source address, interface) of what is sent to an address, None for what is not known."""
        table = self._of.get(net_ns or 0, {}).get(len(address), ())
        wanted, width = int.from_bytes(address, "big"), len(address) * 8
        for route in table:
            if (wanted ^ route.prefix) >> (width - route.bits) == 0:
                source = route.source
                if source is None and route.rank == 0:
                    source = str(ipaddress.ip_address(address))
                return source, route.interface
        return None, None


def _read_routes() -> dict[int, list[_Route]]:
    from pyroute2 import IPRoute

    found: dict[int, list[_Route]] = {4: [], 16: []}
    with IPRoute() as netlink:
        names = {link["index"]: link.get_attr("IFLA_IFNAME") for link in netlink.get_links()}
        addresses: dict[tuple[int, int], list[tuple[int, str]]] = {}
        for row in netlink.get_addr():
            text = row.get_attr("IFA_LOCAL") or row.get_attr("IFA_ADDRESS")
            addresses.setdefault((row["index"], row["family"]), []).append((row["scope"], text))
        for row in netlink.get_routes():
            size = {socket.AF_INET: 4, socket.AF_INET6: 16}.get(row["family"])
            table = row.get_attr("RTA_TABLE") or row["table"]
            if size is None or table not in _TABLES or row["type"] not in (_UNICAST, _LOCAL):
                continue
            index = row.get_attr("RTA_OIF")
            for hop in row.get_attr("RTA_MULTIPATH") or ():
                index = index or hop["oif"]
            text = row.get_attr("RTA_DST")
            prefix = int(ipaddress.ip_address(text)) if text else 0
            source = row.get_attr("RTA_PREFSRC")
            if source is None and row["type"] == _UNICAST:
                source = _source(addresses.get((index, row["family"]), ()), prefix, size)
            rank, metric = _TABLES.index(table), row.get_attr("RTA_PRIORITY") or 0
            found[size].append(_Route(prefix, row["dst_len"], rank, metric, names.get(index), source))
    for routes in found.values():
        routes.sort(key=lambda route: (route.rank, -route.bits, route.metric))
    return found


def _source(addresses: Iterable[tuple[int, str]], prefix: int, size: int) -> str | None:
    """The address of an interface that a route without a preferred one gets: of the destination's scope, the first."""
    link_local = size == 16 and prefix >> 118 == 0xFE80 >> 6
    wanted = [text for scope, text in addresses if (scope != _UNIVERSE) == link_local]
    return next(iter(wanted), None)


class Held(NamedTuple):
    """A socket that was there before.

    Attributes:
        inode: its number in sockfs, by which /proc/PID/fd names it.
        family, protocol: AF_*, IPPROTO_*.
        source, source_port, destination, destination_port: its ends.
        listens: it waits for connections.
    """

    inode: int
    family: int
    protocol: int
    source: str
    source_port: int
    destination: str
    destination_port: int
    listens: bool


def held_sockets() -> list[Held]:
    """The sockets of TCP and UDP in this network namespace that are connected or listen, but for connections that one
    that listens has accepted.

    Raises:
        PylsmError: this kernel does not answer (CONFIG_INET_DIAG is a module that is not there).
    """
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        return _outgoing(_ask())
    except (NetlinkError, OSError, KeyError) as error:  # KeyError: an answer that is no socket, but an error
        raise PylsmError(f"sock_diag: {error}") from error


def listed_sockets(directory: str) -> list[Held]:
    """The same from /proc/PID/net, of the namespace of that process.

    Raises:
        OSError: it has ended.
    """
    found: list[Held] = []
    for name, family, protocol in (
        ("tcp", socket.AF_INET, socket.IPPROTO_TCP),
        ("tcp6", socket.AF_INET6, socket.IPPROTO_TCP),
        ("udp", socket.AF_INET, socket.IPPROTO_UDP),
        ("udp6", socket.AF_INET6, socket.IPPROTO_UDP),
    ):
        try:
            with open(f"{directory}/net/{name}") as file:
                rows = [line.split() for line in file][1:]
        except FileNotFoundError:
            continue  # no IPv6
        for row in rows:
            ends = (*_end(family, row[1]), *_end(family, row[2]))
            found += _held(int(row[9]), family, protocol, int(row[3], 16), ends)
    return _outgoing(found)


def _end(family: int, text: str) -> tuple[str, int]:
    """An address of /proc/net/tcp: words in the order of this machine, and a port."""
    words, _, port = text.partition(":")
    raw = b"".join(struct.pack("=I", int(words[at : at + 8], 16)) for at in range(0, len(words), 8))
    return socket.inet_ntop(family, raw), int(port, 16)


def _held(inode: int, family: int, protocol: int, state: int, ends: tuple[str, int, str, int]) -> Iterator[Held]:
    listens = protocol == socket.IPPROTO_TCP and state == _LISTEN
    connected = ends[3] and (protocol == socket.IPPROTO_UDP or state not in _CLOSED)
    if inode and (listens or connected):
        yield Held(inode, family, protocol, *ends, listens)


def _outgoing(found: list[Held]) -> list[Held]:
    listening = {(each.protocol, each.source_port) for each in found if each.listens}
    return [each for each in found if each.listens or (each.protocol, each.source_port) not in listening]


def _ask() -> list[Held]:
    from pyroute2.netlink.diag import DiagSocket

    found: list[Held] = []
    with DiagSocket() as netlink:
        netlink.bind()
        for family in (socket.AF_INET, socket.AF_INET6):
            for protocol in (socket.IPPROTO_TCP, socket.IPPROTO_UDP):
                for row in netlink.get_sock_stats(family=family, protocol=protocol):
                    ends = (row["idiag_src"], row["idiag_sport"], row["idiag_dst"], row["idiag_dport"])
                    found += _held(row["idiag_inode"], family, protocol, row["idiag_state"], ends)
    return found


def namespace_of(directory: str, kind: str) -> int:
    """The inode number of a process's namespace.

    Args:
        directory: the process's in /proc.
        kind: "net" or "mnt".

    Raises:
        OSError: the process has ended, or is not for this one to look into.
    """
    path = f"{directory}/ns/{kind}"
    name = os.readlink(path)  # "net:[4026531840]"
    if not name:  # Linux 5.10 refuses nobody: it gives an empty name, and stat(2) the number of the directory
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
    return int(name[len(kind) + 2 : -1])


def inside(net_ns: int, path: str, work: Callable[[], _T]) -> _T:
    """The result of some work in a network namespace, done in a child of this process where that is another one's.

    Args:
        net_ns: the namespace's inode number.
        path: where it is.
        work: its result has to be picklable.

    Raises:
        PylsmError: the namespace is gone, or cannot be entered.
    """
    if os.stat("/proc/self/ns/net").st_ino == net_ns:
        return work()
    try:
        namespace = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise PylsmError(f"network namespace {net_ns} is gone: {path}: {error.strerror}") from error
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            _enter(namespace)
            data = memoryview(pickle.dumps((True, work())))
        except BaseException:
            data = memoryview(pickle.dumps((False, traceback.format_exc().splitlines()[-1])))
        try:
            while data:
                data = data[os.write(write, data) :]
        finally:
            os._exit(0)
    os.close(write)
    os.close(namespace)
    with open(read, "rb") as file:
        answer = file.read()
    os.waitpid(child, 0)
    done: bool
    result: Any
    done, result = pickle.loads(answer) if answer else (False, "it ended without a result")
    if not done:
        raise PylsmError(f"cannot look into network namespace {net_ns}: {result}")
    value: _T = result
    return value


def _enter(namespace: int) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")
