"""What to show of a family: rules about mode, path, destination and port.

Of the rules of one kind that ask for something any has to match, of those that refuse something none may. A rule says
nothing about kinds of events that have not what it looks at. What cannot be decided, since a path could not be read
whole, is shown.

This is what the rules mean. The kernel side looks at as much of them as it can tell for certain
(`pylsm.audit.programs.filters`), so that what is not wanted costs no record; this side looks at all of them again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from pylsm.audit.globs import Glob
from pylsm.errors import PylsmError
from pylsm.light import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Any, Final

    from pylsm.audit.events import Event

__all__ = ["MODES", "FilterError", "Filters", "Network", "parse_network", "parse_ports"]

#: What an open has to be granted: FMODE_READ (1), FMODE_WRITE (2), or both.
MODES: Final = {"r": 1, "w": 2, "rw": 3}
_PREFIX_BYTES: Final = 256  # as rules.LPM_BYTES
_DELETED: Final = b" (deleted)"
#: Kinds that --path looks at, each with the attributes that hold a path. Programs that are executed are always shown:
#: without them nobody can tell who did what.
_PATHS: Final = {
    **dict.fromkeys(("open", "unlink", "mkdir", "chmod", "mmap"), ("path",)),
    "rename": ("path", "new_path"),
}
_DESTINATIONS: Final = ("connect", "sendto")
_MAPPED: Final = bytes(10) + b"\xff\xff"  # ::ffff:0:0/96 (RFC 4291 section 2.5.5.2)


class FilterError(PylsmError):
    """A rule that cannot be meant as it is written."""


class Network(NamedTuple):
    """Addresses that begin with the same bits: 4 or 16 bytes in network order, and how many bits those are."""

    address: bytes
    bits: int

    def has(self, address: bytes) -> bool:
        """Whether an address of as many bytes lies in it."""
        if len(address) != len(self.address):
            return False
        rest = 8 * len(address) - self.bits
        return int.from_bytes(address, "big") >> rest == int.from_bytes(self.address, "big") >> rest


def _first_bits(address: bytes, bits: int) -> int:
    return int.from_bytes(address, "big") >> 8 * len(address) - bits


def parse_network(text: str) -> Network:
    """A network in CIDR notation, or an address.

    What is IPv4-mapped (::ffff:192.0.2.0/120) is the IPv4 network, as its addresses are shown.

    Raises:
        FilterError: it is none, or it has bits set behind its length.
    """
    from ipaddress import IPv6Network, ip_network

    try:
        if "%" in text:  # of an interface: no address that arrives in the kernel has it
            raise ValueError(text)
        found = ip_network(text, strict=False)
    except ValueError:
        raise FilterError(
            f"{text!r} is not a network", hint="write it as 192.0.2.0/24, 2001:db8::/32, or as one address"
        ) from None
    address, bits = found.network_address.packed, found.prefixlen
    given = text.partition("/")[0]
    if "/" in text and ip_network(given).network_address != found.network_address:
        raise FilterError(
            f"{text!r} has host bits set behind its {bits} bits",
            hint=f"the network is {found}; the address alone is {given}",
        )
    if isinstance(found, IPv6Network) and bits >= 96 and address.startswith(_MAPPED):
        return Network(address[12:], bits - 96)
    return Network(address, bits)


def parse_ports(text: str) -> tuple[int, int]:
    """A port, or the first and the last of a range: "443", "8000-8999".

    Raises:
        FilterError: it is none.
    """
    found = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", text, re.ASCII)
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if not first <= last <= 65_535:
        hint = f"turn it round: {last}-{first}" if found and last < first <= 65_535 else "write 443 or 8000-8999"
        raise FilterError(f"{text!r} is not a port from 0 to 65535 or a range of them", hint=hint)
    return first, last


class Filters:
    """Rules; they do not change.

    Args:
        mode: "r", "w" or "rw": opens that are granted (at least) that.
        paths, not_paths: patterns of paths (`Glob`). One without a wildcard stands for what is below it too.
        dsts, not_dsts: networks (`parse_network`); IPv4-mapped addresses are IPv4.
        ports: "443", "8000-8999".

    Raises:
        FilterError: a rule that cannot be meant so.
        GlobError: a pattern that is none.
    """

    def __init__(
        self,
        *,
        mode: str | None = None,
        paths: Iterable[str] = (),
        not_paths: Iterable[str] = (),
        dsts: Iterable[str] = (),
        not_dsts: Iterable[str] = (),
        ports: Iterable[str] = (),
    ) -> None:
        if mode is not None and mode not in MODES:
            raise FilterError(f"{mode!r} is not a mode", hint="r: read, w: written, rw: both at once")
        self.mode = mode
        self.paths, self.not_paths = (tuple(dict.fromkeys(given)) for given in (paths, not_paths))
        self.dsts, self.not_dsts, self.ports = (tuple(dict.fromkeys(map(str, g))) for g in (dsts, not_dsts, ports))
        self._wanted_paths = [glob for text in self.paths for glob in _globs(text)]
        self._refused_paths = [glob for text in self.not_paths for glob in _globs(text)]
        self._wanted_networks = [parse_network(text) for text in self.dsts]
        self._refused_networks = [parse_network(text) for text in self.not_dsts]
        self._ranges = [parse_ports(text) for text in self.ports]
        self._looks: dict[str, list[Callable[[Any], bool]]] = {}
        self._build()

    def _build(self) -> None:
        def look(kinds: Iterable[str], wanted: Callable[[Any], bool]) -> None:
            for kind in kinds:
                self._looks.setdefault(kind, []).append(wanted)

        if self.mode is not None:
            bits = MODES[self.mode]
            look(["open"], lambda event: event.granted & bits == bits)
        if self.paths or self.not_paths:
            for kind in _PATHS:
                look([kind], lambda event, names=_PATHS[kind]: self._wants_path(event, names))  # type: ignore[misc]
        if self.ports:
            look(_DESTINATIONS, lambda event: any(low <= event.port <= high for low, high in self._ranges))
        if self.dsts or self.not_dsts:
            look(_DESTINATIONS, lambda event: self.wants_address(event.address))

    # ---- what they mean ------------------------------------------------------------------------------------------

    def wants(self, event: Event) -> bool:
        """Whether the event is to be shown."""
        return all(look(event) for look in self._looks.get(event.name, ()))

    def wants_path(self, path: bytes) -> bool:
        """Whether the rules about paths want this one."""
        if self._wanted_paths and not any(glob.matches(path) for glob in self._wanted_paths):
            return False
        return not any(glob.matches(path) for glob in self._refused_paths)

    def wants_address(self, address: bytes) -> bool:
        """Whether the rules about destinations want this one, of 4 or 16 bytes."""
        if self._wanted_networks and not any(network.has(address) for network in self._wanted_networks):
            return False
        return not any(network.has(address) for network in self._refused_networks)

    def _wants_path(self, event: Any, names: tuple[str, ...]) -> bool:
        if getattr(event, "basename", False) or getattr(event, "truncated", False):
            return True
        gone = getattr(event, "unlinked", False)
        paths = [getattr(event, name) for name in names]
        # The kernel writes it behind the name of a file that has none any more.
        return any(self.wants_path(path.removesuffix(_DELETED) if gone else path) for path in paths)

    # ---- for the kernel side -------------------------------------------------------------------------------------

    @property
    def kinds(self) -> tuple[str, ...]:
        """What they look at: `Options.filters`."""
        used = {"mode": self.mode, "path": self.paths or self.not_paths, "dst": self.dsts or self.not_dsts}
        return tuple(name for name, given in {**used, "port": self.ports}.items() if given)

    def path_verdicts(self) -> dict[bytes, bool]:
        """Prefix → whether a path whose longest prefix here it is may be wanted."""
        wanted = {glob.prefix[:_PREFIX_BYTES] for glob in self._wanted_paths}
        refused = {glob.prefix for glob in self._refused_paths if glob.opens and len(glob.prefix) <= _PREFIX_BYTES}
        longer = {glob.prefix[:_PREFIX_BYTES] for glob in self._refused_paths}
        verdicts = {}
        # In order, those that a prefix begins with come before it, each longer than the last: they are on the stack.
        above = [(b"", not wanted, False)]
        for prefix in sorted({b"", *wanted, *longer}):
            while not prefix.startswith(above[-1][0]):
                above.pop()
            _, may, never = above[-1]
            may, never = may or prefix in wanted, never or prefix in refused
            above.append((prefix, may, never))
            verdicts[prefix] = may and not never
        return verdicts

    def network_verdicts(self, size: int) -> dict[Network, bool]:
        """Network → whether an address whose smallest network here it is is wanted.

        Args:
            size: of an address, 4 or 16 bytes.
        """
        networks = {n for n in (*self._wanted_networks, *self._refused_networks) if len(n.address) == size}
        networks.add(Network(bytes(size), 0))

        def prefixes(rules: Iterable[Network]) -> set[tuple[int, int]]:
            return {(n.bits, _first_bits(n.address, n.bits)) for n in rules if len(n.address) == size}

        def inside(network: Network, rules: set[tuple[int, int]], lengths: list[int]) -> bool:
            return any((n, _first_bits(network.address, n)) in rules for n in lengths if n <= network.bits)

        # By prefix, not rule by rule: each of them is a network to be decided on.
        wanted, refused = prefixes(self._wanted_networks), prefixes(self._refused_networks)
        wanted_lengths, refused_lengths = (sorted({bits for bits, _ in each}) for each in (wanted, refused))
        return {
            network: (not self._wanted_networks or inside(network, wanted, wanted_lengths))
            and not inside(network, refused, refused_lengths)
            for network in networks
        }

    def port_bits(self) -> bytes:
        """A bit for each port that is wanted, the lowest first."""
        if not self._ranges:
            return b"\xff" * (65_536 // 8)
        bits = 0
        for low, high in self._ranges:
            bits |= (1 << high + 1) - (1 << low)
        return bits.to_bytes(65_536 // 8, "little")

    # ---- as values -----------------------------------------------------------------------------------------------

    def rules(self) -> dict[str, Any]:
        """The arguments that make the same again; lists and strings only."""
        found = {name: getattr(self, name) for name in ("paths", "not_paths", "dsts", "not_dsts", "ports")}
        return {"mode": self.mode, **{name: list(value) for name, value in found.items()}}

    def adding(self, *, mode: str | None = None, **rules: Iterable[str]) -> Filters:
        """These and further rules; arguments as of the class."""
        changed = self.rules()
        for name, values in rules.items():
            changed[name] = [*changed[name], *map(str, values)]
        return Filters(**{**changed, "mode": mode or self.mode})

    def removing(self, *, mode: bool = False, **rules: Iterable[str]) -> Filters:
        """These without some, named as they were given; ``mode=True`` takes out that one.

        Raises:
            FilterError: there is no such rule.
        """
        changed = self.rules()
        for name, values in rules.items():
            for value in map(str, values):
                if value not in changed[name]:
                    raise FilterError(f"there is no rule {value!r} among {name}", hint=f"there are: {changed[name]}")
                changed[name].remove(value)
        return Filters(**{**changed, "mode": None if mode else self.mode})

    def __bool__(self) -> bool:
        return bool(self._looks)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Filters) and self.rules() == other.rules()

    def __hash__(self) -> int:
        return hash(repr(self.rules()))

    def __repr__(self) -> str:
        return f"Filters({', '.join(f'{name}={value!r}' for name, value in self.rules().items() if value)})"


def _globs(text: str) -> list[Glob]:
    """The patterns that a rule about paths stands for."""
    glob = Glob(text)
    if not glob.literal:
        return [glob]
    below = glob.text + (b"*" if glob.text.endswith(b"/") else b"/*")
    return [glob, Glob(below)]
