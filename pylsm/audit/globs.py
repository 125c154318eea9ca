"""Patterns of names and paths, as in the shell's ``case``: ``*``, ``?``, ``[a-z]``, ``[!a-z]``, ``\\`` before any.

A star matches slashes too, so that ``/etc/*`` is all that is below /etc. All is bytes: ``?`` stands for one.

The kernel side knows patterns of names as automata (`automata`): a state is a bit, a step for a byte is a load, two
ands, an or and a shift, whatever the pattern.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable, Sequence

from pylsm.errors import PylsmError
from pylsm.light import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Final

__all__ = ["STATES", "Automaton", "Glob", "GlobError", "automata"]

_ANY: Final = (1 << 256) - 1  # a set of bytes, a bit for each
#: States of an automaton: the bits of a word.
STATES: Final = 64


class GlobError(PylsmError):
    """A pattern that is none."""


class Glob:
    """A pattern.

    Args:
        text: as the user wrote it.

    Attributes:
        text: the same, as bytes.
        tokens: what it consists of: a set of bytes (a bit for each), or None for a star.
        prefix: the bytes that all it matches begin with.

    Raises:
        GlobError: it is empty, has a NUL, or a ``[`` or ``\\`` without its end.
    """

    __slots__ = ("_match", "prefix", "text", "tokens")

    def __init__(self, text: str | bytes) -> None:
        self.text = os.fsencode(text)
        self.tokens = tuple(_tokens(self.text))
        prefix = bytearray()
        for token in self.tokens:
            if token is None or token & (token - 1):
                break
            prefix.append(token.bit_length() - 1)
        self.prefix = bytes(prefix)
        self._match: Callable[[bytes], object] | None = None

    @property
    def literal(self) -> bool:
        """It has no wildcard: `prefix` is all that it matches."""
        return len(self.prefix) == len(self.tokens)

    @property
    def opens(self) -> bool:
        """It matches all that begins with `prefix`."""
        return self.tokens[len(self.prefix) :] == (None,)

    @property
    def width(self) -> int:
        """The fewest bytes that it matches."""
        return sum(token is not None for token in self.tokens)

    def matches(self, name: bytes) -> bool:
        """Whether it matches all of a name."""
        if self._match is None:
            self._match = _compile(self.tokens)
        return self._match(name) is not None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Glob) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __str__(self) -> str:
        return os.fsdecode(self.text)

    def __repr__(self) -> str:
        return f"Glob({str(self)!r})"


def _tokens(text: bytes) -> Iterable[int | None]:
    if not text:
        raise GlobError("'' is not a pattern: it is empty", hint="'*' matches everything")
    if b"\0" in text:
        raise GlobError(f"{_shown(text)} is not a pattern: no name has a NUL byte")
    at = 0
    star = False
    while at < len(text):
        char = text[at : at + 1]
        at += 1
        if char == b"*":
            if not star:
                yield None
            star = True
            continue
        star = False
        if char == b"?":
            yield _ANY
        elif char == b"[":
            at, members = _set(text, at)
            yield members
        elif char == b"\\":
            if at == len(text):
                raise GlobError(
                    f"{_shown(text)} is not a pattern: nothing follows the last \\", hint="write \\\\ for one"
                )
            yield 1 << text[at]
            at += 1
        else:
            yield 1 << char[0]


def _set(text: bytes, at: int) -> tuple[int, int]:
    """The set whose ``[`` is before ``at``: where it ends, and its members."""
    begin = at
    negated = text[at : at + 1] in (b"!", b"^")
    at += negated
    first, members = True, 0
    while first or text[at : at + 1] != b"]":
        first = False
        low = text[at : at + 1]
        if low == b"\\":
            at += 1
            low = text[at : at + 1]
        at += 1
        high = low
        if text[at : at + 1] == b"-" and text[at + 1 : at + 2] not in (b"]", b""):
            high = text[at + 1 : at + 2]
            at += 2
        if not low or not high:
            raise GlobError(
                f"{_shown(text)} is not a pattern: the [ at character {begin} has no ]", hint="write \\[ for a bracket"
            )
        if low[0] > 127 or high[0] > 127:
            raise GlobError(f"{_shown(text)} is not a pattern that works: [ ] takes ASCII characters only")
        if low > high:
            raise GlobError(f"{_shown(text)} is not a pattern: {_shown(low + b'-' + high)} is an empty range")
        members |= (1 << high[0] + 1) - (1 << low[0])
    return at + 1, _ANY ^ members if negated else members


def _compile(tokens: Sequence[int | None]) -> Callable[[bytes], object]:
    import re

    parts = []
    for token in tokens:
        if token is None:
            parts.append(b".*")
        elif token == _ANY:
            parts.append(b".")
        elif not token & (token - 1):
            parts.append(re.escape(bytes([token.bit_length() - 1])))
        else:
            parts.append(b"[" + b"".join(b"\\x%02x" % byte for byte in range(256) if token >> byte & 1) + b"]")
    return re.compile(b"".join(parts), re.DOTALL).fullmatch


def _shown(text: bytes) -> str:
    return repr(os.fsdecode(text))


class Automaton(NamedTuple):
    """Some patterns, for the kernel: states are bits, those of each pattern follow each other.

    Attributes:
        initial: the states before the first byte.
        stay: the states that any byte leads back to (a star follows).
        accept: the states in which a pattern has matched.
        steps: for each byte, the states that it leads to the next from.
    """

    initial: int
    stay: int
    accept: int
    steps: tuple[int, ...]

    def matches(self, name: bytes) -> bool:
        """Whether one of the patterns matches, as the kernel side finds it."""
        states = self.initial
        for byte in name:
            states = states & self.stay | (states & self.steps[byte]) << 1
        return bool(states & self.accept)

    def pack(self) -> bytes:
        """As it is in a map."""
        return struct.pack("=259Q", self.initial, self.stay, self.accept, *self.steps)


def automata(globs: Iterable[Glob]) -> list[Automaton]:
    """As few automata as take all the patterns; each pattern needs `Glob.width` + 1 states.

    Raises:
        GlobError: a pattern has too many states for one.
    """
    groups: list[list[Glob]] = []
    room = 0
    for glob in globs:
        need = glob.width + 1
        if need > STATES:
            raise GlobError(
                f"{_shown(glob.text)} is too long a pattern: {need - 1} characters, {STATES - 1} are possible"
            )
        if need > room:
            groups.append([])
            room = STATES
        groups[-1].append(glob)
        room -= need
    return [_automaton(group) for group in groups]


def _automaton(globs: Sequence[Glob]) -> Automaton:
    initial = stay = accept = at = 0
    steps = [0] * 256
    for glob in globs:
        initial |= 1 << at
        for token in glob.tokens:
            if token is None:
                stay |= 1 << at
                continue
            for byte in range(256):
                if token >> byte & 1:
                    steps[byte] |= 1 << at
            at += 1
        accept |= 1 << at
        at += 1
    return Automaton(initial, stay, accept, tuple(steps))
