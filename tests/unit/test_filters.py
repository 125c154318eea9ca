"""Rules: what they mean, what the kernel side is told of them, and what is no rule."""

from __future__ import annotations

import ipaddress
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylsm.audit.events import Connect, FileOpen
from pylsm.audit.filters import FilterError, Filters, Network, parse_network, parse_ports
from pylsm.audit.globs import Glob, GlobError
from pylsm.audit.rules import LPM_BYTES

NAMES = st.text("ab/", max_size=6)
PATTERNS = st.lists(st.sampled_from(["/a", "/b", "a", "b", "/", "*", "?", "[ab]"]), min_size=1, max_size=5).map("".join)
V4 = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32))
V6 = st.tuples(st.integers(0, 2**128 - 1), st.integers(0, 128))


def cidr(given: tuple[int, int], version: int) -> str:
    address, bits = given
    network = ipaddress.IPv4Network if version == 4 else ipaddress.IPv6Network
    return str(network((address, bits), strict=False))


NETWORKS = st.one_of(V4.map(lambda n: cidr(n, 4)), V6.map(lambda n: cidr(n, 6)))


def longest(verdicts: dict[bytes, bool], path: bytes) -> bool:
    """As a trie finds it."""
    return verdicts[max((p for p in verdicts if path[:LPM_BYTES].startswith(p)), key=len)]


@given(st.lists(PATTERNS, max_size=4), st.lists(PATTERNS, max_size=4), NAMES)
def test_what_the_kernel_refuses_is_not_wanted(paths: list[str], not_paths: list[str], name: str) -> None:
    rules = Filters(paths=paths, not_paths=not_paths)
    if not longest(rules.path_verdicts(), name.encode()):
        assert not rules.wants_path(name.encode())


@given(st.lists(NAMES, max_size=4), st.lists(NAMES, max_size=4), NAMES)
def test_prefixes_are_decided_in_the_kernel(prefixes: list[str], refused: list[str], name: str) -> None:
    """Directories and what is below them, /etc/*, need nothing of user space."""
    rules = Filters(paths=[f"{p}*" for p in prefixes], not_paths=[f"{p}*" for p in refused])
    assert longest(rules.path_verdicts(), name.encode()) == rules.wants_path(name.encode())


@given(st.lists(PATTERNS, max_size=8), st.lists(PATTERNS, max_size=8), st.integers(0, 3))
def test_prefixes_are_told_rule_by_rule(paths: list[str], not_paths: list[str], stretched: int) -> None:
    """Each prefix is decided as if all rules were looked at for it; also where one is longer than a trie takes."""
    for rules in (paths, not_paths):
        rules[:] = ["/" + "d" * (LPM_BYTES - 2 + stretched) + each for each in rules[:2]] + rules[2:]
    wanted, refused = ([glob for each in rules for glob in below(each)] for rules in (paths, not_paths))
    expected = {}
    for prefix in (b"", *(glob.prefix[:LPM_BYTES] for glob in (*wanted, *refused))):
        never = any(glob.opens and len(glob.prefix) <= LPM_BYTES and prefix.startswith(glob.prefix) for glob in refused)
        may = not wanted or any(prefix.startswith(glob.prefix[:LPM_BYTES]) for glob in wanted)
        expected[prefix] = may and not never
    assert Filters(paths=paths, not_paths=not_paths).path_verdicts() == expected


def below(text: str) -> list[Glob]:
    """A rule's patterns: a path stands for what is below it too."""
    glob = Glob(text)
    return [glob, Glob(glob.text + (b"*" if glob.text.endswith(b"/") else b"/*"))] if glob.literal else [glob]


def test_many_rules_take_as_many_steps() -> None:
    def steps(number: int) -> int:
        """How many functions are called, Python's and C's, to decide on that many directories in a tree."""
        paths = [f"/usr/lib/{n % 50}/{n % 7}/{n}" for n in range(number)]
        rules = Filters(paths=paths[::2], not_paths=paths[1::2])
        calls = 0

        def count(frame: object, event: str, argument: object) -> None:
            nonlocal calls
            calls += event in ("call", "c_call")

        before = sys.getprofile()
        sys.setprofile(count)
        try:
            rules.path_verdicts()
        finally:
            sys.setprofile(before)
        return calls

    few, many = steps(500), steps(2000)
    assert 2000 < many < 4.5 * few


@given(st.lists(NETWORKS, max_size=5), st.lists(NETWORKS, max_size=5), st.one_of(V4, V6))
def test_networks(dsts: list[str], not_dsts: list[str], picked: tuple[int, int]) -> None:
    """As the standard library has it; and the smallest network says the same."""
    rules = Filters(dsts=dsts, not_dsts=not_dsts)
    number, bits = picked
    size = 4 if bits <= 32 and number < 2**32 else 16
    near = [parse_network(text).address for text in dsts + not_dsts]
    for address in [number.to_bytes(size, "big"), *near]:
        text = ipaddress.ip_address(address)

        def inside(networks: list[str], text: object = text) -> bool:
            meant = [ipaddress.ip_network((n.address, n.bits)) for n in map(parse_network, networks)]
            return any(text in network for network in meant)

        expected = (not dsts or inside(dsts)) and not inside(not_dsts)
        assert rules.wants_address(address) == expected
        verdicts = rules.network_verdicts(len(address))
        smallest = max((n for n in verdicts if n.has(address)), key=lambda n: n.bits)
        assert verdicts[smallest] == expected


@given(st.lists(st.tuples(st.integers(0, 65535), st.integers(0, 65535)), max_size=4), st.integers(0, 65535))
def test_ports(ranges: list[tuple[int, int]], port: int) -> None:
    rules = Filters(ports=[f"{min(r)}-{max(r)}" for r in ranges])
    expected = not ranges or any(min(r) <= port <= max(r) for r in ranges)
    assert bool(rules.port_bits()[port >> 3] >> (port & 7) & 1) == expected
    event = Connect.make(family=2, port=port, address=bytes(4))
    assert rules.wants(event) == expected


def test_paths_of_events() -> None:
    def shown(path: bytes, flags: int = 0, **rules: list[str]) -> bool:
        return Filters(**rules).wants(FileOpen.make(path=path, flags=flags))  # type: ignore[arg-type]

    assert shown(b"/etc", paths=["/etc"]) and shown(b"/etc/ssl/x", paths=["/etc"])
    assert not shown(b"/etcetera", paths=["/etc"])
    assert shown(b"/etc/x", paths=["/etc/"]) and not shown(b"/etc", paths=["/etc/"])
    assert not shown(b"/a/b.tmp", paths=["/a"], not_paths=["*.tmp"])
    assert shown(b"passwd", flags=1, paths=["/etc"]), "only the last component is known"
    assert shown(b"/x (deleted)", flags=4, paths=["/x"])
    assert not shown(b"/x (deleted)", paths=["/x"]), "its name"
    assert Filters(paths=["/etc"], mode="w").wants(Connect.make(family=2, port=1, address=bytes(4)))


def test_adding_and_removing() -> None:
    rules = Filters(paths=["/etc"]).adding(not_paths=["*.tmp"], dsts=["10.0.0.0/8"], mode="w")
    assert rules == Filters(paths=["/etc"], not_paths=["*.tmp"], dsts=["10.0.0.0/8"], mode="w")
    assert rules.kinds == ("mode", "path", "dst")
    assert rules.removing(paths=["/etc"], not_paths=["*.tmp"], mode=True) == Filters(dsts=["10.0.0.0/8"])
    assert Filters(**rules.rules()) == rules and hash(Filters(**rules.rules())) == hash(rules)
    assert not Filters() and rules
    with pytest.raises(FilterError, match="no rule '/usr' among paths"):
        rules.removing(paths=["/usr"])
    with pytest.raises(GlobError):
        rules.adding(paths=["["])


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("10.0.0.1/8", "'10.0.0.1/8' has host bits set behind its 8 bits", "the network is 10.0.0.0/8"),
        ("2001:db8::1/32", "has host bits set", "the network is 2001:db8::/32"),
        ("10.0.0/8", "'10.0.0/8' is not a network", "192.0.2.0/24"),
        ("example.org", "'example.org' is not a network", "192.0.2.0/24"),
        ("10.0.0.0/33", "'10.0.0.0/33' is not a network", ""),
        ("", "'' is not a network", ""),
        ("fe80::1%eth0", "is not a network", ""),
    ],
)
def test_what_is_no_network(text: str, message: str, hint: str) -> None:
    with pytest.raises(FilterError) as raised:
        parse_network(text)
    assert message in str(raised.value)
    assert hint in raised.value.hint


def test_networks_that_are() -> None:
    assert parse_network("10.0.0.0/8") == Network(bytes([10, 0, 0, 0]), 8)
    assert parse_network("10.0.0.1") == Network(bytes([10, 0, 0, 1]), 32)
    assert parse_network("::ffff:10.0.0.0/104") == Network(bytes([10, 0, 0, 0]), 8)
    assert parse_network("::/0") == Network(bytes(16), 0)


@pytest.mark.parametrize("text", ["", "-1", "65536", "80-", "90-80", "http", "1-70000", "80,81", "٨٠"])
def test_what_is_no_port(text: str) -> None:
    with pytest.raises(FilterError) as raised:
        parse_ports(text)
    assert repr(text) in str(raised.value)


def test_what_is_no_mode() -> None:
    with pytest.raises(FilterError, match="'x' is not a mode"):
        Filters(mode="x")
