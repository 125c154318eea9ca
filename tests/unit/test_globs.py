"""Patterns: what they match, what is none, and that the kernel's automaton agrees with them."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylsm.audit.globs import Glob, GlobError, automata

NAMES = st.text("abc/.", max_size=12)
PATTERNS = st.lists(st.sampled_from(["a", "b", "/", ".", "*", "?", "[ab]", "[!a]", "[a-c]"]), min_size=1, max_size=8)


@given(PATTERNS, NAMES)
def test_as_the_standard_library_matches(pattern: list[str], name: str) -> None:
    text = "".join(pattern)
    assert Glob(text).matches(name.encode()) == fnmatch.fnmatchcase(name, text)


@given(st.lists(PATTERNS, min_size=1, max_size=12), st.binary(max_size=15).map(lambda name: name.replace(b"\0", b"a")))
def test_the_automaton_agrees(patterns: list[list[str]], name: bytes) -> None:
    globs = [Glob("".join(pattern)) for pattern in patterns]
    machines = automata(globs)
    assert any(machine.matches(name) for machine in machines) == any(glob.matches(name) for glob in globs)
    for each in ("abc/", "a", "", "cab"):
        assert any(m.matches(each.encode()) for m in machines) == any(glob.matches(each.encode()) for glob in globs)


@given(PATTERNS, NAMES)
def test_the_prefix_is_what_all_begin_with(pattern: list[str], name: str) -> None:
    glob = Glob("".join(pattern))
    if glob.matches(name.encode()):
        assert name.encode().startswith(glob.prefix)
        assert len(name) >= glob.width
    if glob.opens:
        assert glob.matches(glob.prefix + name.encode())
    if glob.literal:
        assert glob.matches(glob.prefix)


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("/etc/*", "/etc/ssl/certs/x", True),
        ("/etc/*", "/etc", False),
        (r"a\*b", "a*b", True),
        (r"a\*b", "axb", False),
        ("[]]", "]", True),
        ("[^a]", "b", True),
        ("[a-]", "-", True),
        ("*.so.[0-9]", "/lib/libc.so.6", True),
        ("naïve-?", "naïve-1", True),
        ("*", "", True),
    ],
)
def test_what_matches(pattern: str, name: str, expected: bool) -> None:
    assert Glob(pattern).matches(name.encode()) is expected


@pytest.mark.parametrize("pattern", ["", "a[b", "[", "[!", "[]", "a\\", "a\0b", "[ä]", "[z-a]", "[a-", "[\\"])
def test_what_is_no_pattern(pattern: str) -> None:
    with pytest.raises(GlobError) as raised:
        Glob(pattern)
    assert repr(pattern) in str(raised.value)


@pytest.mark.parametrize("make", [lambda: Glob("[z-\t]"), lambda: list(automata([Glob("\x1b" * 99)]))])
def test_a_pattern_is_shown_harmless(make: Callable[[], object]) -> None:
    with pytest.raises(GlobError) as raised:
        make()
    assert str(raised.value).isprintable()
