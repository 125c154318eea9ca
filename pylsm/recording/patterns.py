"""Patterns of what may be touched: paths by globs, hosts by networks; and names that differ from run to run.

Globs are those of `pylsm.audit.globs`; one that ends in a slash is all below it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Final

from pylsm.audit.globs import Glob, GlobError
from pylsm.errors import PylsmError

__all__ = ["NAMED", "PatternError", "as_glob", "glob", "host", "normal", "shown_normal"]

# Characters of a name that is made anew each time, by what makes it. None of them is in a path or an address.
_ONE, _ANY = "\0", "\1"
_RANDOM: Final = (
    (re.compile(r"^/proc/\d+(?=/|$)"), f"/proc/{_ANY}"),
    (re.compile(r"(?<=/task/)\d+(?=/|$)"), _ANY),
    (re.compile(r"(?<=/)tmp[a-z0-9_]{8}(?=[/.]|$)"), "tmp" + _ONE * 8),  # Python's tempfile
    (re.compile(r"(?<=/)tmp\.[A-Za-z0-9]{10}(?=[/.]|$)"), "tmp." + _ONE * 10),  # mktemp(1)
    (re.compile(r"(?<=/tmp/)cc[A-Za-z0-9]{6}(?=\.|$)"), "cc" + _ONE * 6),  # gcc
    (re.compile(r"^([a-z_]+:\[)\d+(?=\])"), rf"\g<1>{_ANY}"),  # pipe:[4711], as the kernel names what has no path
    (re.compile(r"^((?:127\.\d+\.\d+\.\d+|\[::1\]):)(?:3[3-9]|[4-6]\d)\d{3}\b"), rf"\g<1>{_ANY}"),  # ephemeral ports
)
#: How a glob of such a name begins; it is the only one that is not absolute.
NAMED: Final = re.compile(r"[a-z_]+:\\?\[")


class PatternError(PylsmError):
    """A pattern that is none."""


def normal(name: str) -> str:
    """A name with what differs from run to run taken out: pids in /proc, names of temporary files, a loopback address's
    ephemeral port."""
    for pattern, replacement in _RANDOM:
        name = pattern.sub(replacement, name)
    return name


def shown_normal(name: str) -> str:
    """What `normal` gave, for people: ``?`` and ``*`` in the place of what it took out."""
    return name.replace(_ONE, "?").replace(_ANY, "*")


def as_glob(name: str) -> str:
    """A glob of exactly this name, or of all that `normal` makes it of; a byte that is no UTF-8 is a ``?``."""
    quoted = re.sub(r"[*?[\\]", lambda found: f"\\{found[0]}", name)
    return shown_normal(re.sub("[\ud800-\udfff]", "?", quoted))


def glob(text: str) -> Callable[[str], object]:
    """Whether a name matches a glob, as a function.

    Raises:
        PatternError: it is none.
    """
    try:
        matches = Glob(text + "*" if text.endswith("/") else text).matches
    except GlobError as error:
        raise PatternError(str(error), hint=error.hint) from None
    return lambda name: matches(name.encode("utf-8", "surrogateescape"))


_HOST = re.compile(
    r"(?:\[(?P<six>[0-9A-Fa-f:.]+(?:/\d+)?)\]|(?P<bare>\*|[0-9.]+(?:/\d+)?|[0-9A-Fa-f]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(?:/\d+)?))"
    r"(?::(?P<port>\d+|\*))?(?:/(?P<protocol>[a-z]+))?"
)


def host(text: str) -> Callable[[str], bool]:
    """Whether "address:port" or "address:port/protocol" matches a pattern, as a function.

    Args:
        text: an address, a network, or "*"; then ":port" (an IPv6 address is in brackets before it); then "/udp" or
            what else the protocol is.

    Raises:
        PatternError: it is none of these; a network has host bits.
    """
    found = _HOST.fullmatch(text)
    if not found:
        raise PatternError(
            f"{text!r} is not a host: an address or network, with a port or without",
            hint="for example 192.0.2.1:443, 10.0.0.0/8, [2001:db8::/32]:443, *:53/udp; the kernel sees no names",
        )
    address = found["six"] or found["bare"]
    port, protocol = found["port"], found["protocol"]
    if port not in (None, "*") and int(port) > 65535:
        raise PatternError(f"{text!r} is not a host: {port} is not a port", hint="ports go from 0 to 65535")
    network = None
    if address != "*":
        try:
            network = ipaddress.ip_network(address)
        except ValueError as error:
            hint = ""
            if "host bits" in str(error):
                hint = f"for the network, write {ipaddress.ip_network(address, strict=False)}"
            raise PatternError(f"{text!r} is not a host: {error}", hint=hint) from None

    def matches(name: str) -> bool:
        place, _, name_protocol = name.partition("/")
        name_host, _, name_port = place.rpartition(":")
        if port not in (None, "*") and name_port != port:
            return False
        if protocol is not None and (name_protocol or "tcp") != protocol:
            return False
        if network is None:
            return True
        try:
            return ipaddress.ip_address(name_host.strip("[]")) in network
        except ValueError:
            return False

    return matches
