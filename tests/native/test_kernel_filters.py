"""Rules in the kernel's own tries: what a look-up finds there is what the rules say."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pylsm.audit import rules
from pylsm.audit.filters import Filters, parse_network
from pylsm.audit.kernel_filters import KernelFilters
from pylsm.errors import PylsmError
from pylsm.loader import Map

pytestmark = pytest.mark.root

PATTERNS = st.lists(st.sampled_from(["/a", "/b", "a" * 100, "b", "/", "*", "?"]), min_size=1, max_size=6).map("".join)
NAMES = st.lists(st.sampled_from(["/a", "/b", "a" * 100, "b", "/"]), max_size=6).map(lambda p: "".join(p).encode())
OCTETS = st.integers(0, 3)
V4 = st.builds(lambda a, b, bits: (a << 24 | b, bits), OCTETS, OCTETS, st.sampled_from([0, 7, 8, 9, 31, 32]))
V6 = st.builds(lambda a, b, bits: (a << 120 | b, bits), OCTETS, OCTETS, st.sampled_from([0, 7, 8, 9, 127, 128]))


def network(given: tuple[int, int], size: int) -> str:
    from ipaddress import ip_network

    address, bits = given
    return str(ip_network((address.to_bytes(size, "big"), bits), strict=False))


NETWORKS = st.one_of(V4.map(lambda n: network(n, 4)), V6.map(lambda n: network(n, 16)))
ADDRESSES = st.one_of(V4.map(lambda n: n[0].to_bytes(4, "big")), V6.map(lambda n: n[0].to_bytes(16, "big")))


@pytest.fixture(scope="module")
def tries() -> Iterator[dict[str, Map]]:
    specs = (rules.PATHS, rules.DESTINATIONS, rules.DESTINATIONS_V6, rules.PORTS, rules.SETTINGS)
    found = {spec.name: Map.create(spec) for spec in specs}
    yield found
    for map in found.values():
        map.close()


def lookup(trie: Map, data: bytes, bits: int) -> bool:
    found = trie.lookup(struct.pack("=I", bits) + data.ljust(trie.key_size - 4, b"\0"))
    assert found is not None, "the root is always there"
    return any(found)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(PATTERNS, max_size=4), st.lists(PATTERNS, max_size=4), st.lists(NETWORKS, max_size=4),
    st.lists(NETWORKS, max_size=4), st.lists(NAMES, max_size=8), st.lists(ADDRESSES, max_size=8),
)  # fmt: skip
def test_the_kernel_agrees(
    tries: dict[str, Map],
    paths: list[str],
    not_paths: list[str],
    dsts: list[str],
    not_dsts: list[str],
    names: list[bytes],
    addresses: list[bytes],
) -> None:
    """Each example changes the rules of the one before."""
    wanted = Filters(paths=paths, not_paths=not_paths, dsts=dsts, not_dsts=not_dsts)
    KernelFilters(tries).set(wanted)
    for name in [*names, *(glob.replace("*", "").encode() for glob in paths + not_paths)]:
        bits = 8 * min(len(name), rules.LPM_BYTES)
        if not lookup(tries[rules.PATHS.name], name[: rules.LPM_BYTES], bits):
            assert not wanted.wants_path(name)
    for address in [*addresses, *(parse_network(text).address for text in dsts + not_dsts)]:
        spec = rules.DESTINATIONS if len(address) == 4 else rules.DESTINATIONS_V6
        assert lookup(tries[spec.name], address, 8 * len(address)) == wanted.wants_address(address)


def test_open_lets_everything_through(tries: dict[str, Map]) -> None:
    filters = KernelFilters(tries)
    filters.set(Filters(mode="w", paths=["/etc"], dsts=["10.0.0.0/8"], not_dsts=["::/0"], ports=["80"]))
    assert not lookup(tries[rules.DESTINATIONS.name], bytes([11, 0, 0, 0]), 32)
    filters.open()
    assert lookup(tries[rules.DESTINATIONS.name], bytes([11, 0, 0, 0]), 32)
    assert lookup(tries[rules.DESTINATIONS_V6.name], bytes(16), 128)
    assert lookup(tries[rules.PATHS.name], b"/usr", 32)
    assert tries[rules.PORTS.name].lookup(bytes(4)) == b"\xff" * 8192
    assert tries[rules.SETTINGS.name].lookup(bytes(4)) == bytes(rules.SETTING.size)


def test_more_rules_than_there_is_room_for(tries: dict[str, Map]) -> None:
    before = dict(tries[rules.PATHS.name].items())
    with pytest.raises(PylsmError, match=r"too many rules for .*: 8194, there is room for 8192"):
        KernelFilters(tries).set(Filters(paths=[f"/{number}*" for number in range(8193)]))
    assert dict(tries[rules.PATHS.name].items()) == before
