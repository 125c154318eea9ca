"""Types that say the same become one: what libbpf's ``btf__dedup`` does to the types of a whole program.

Two types are the same when everything that can be reached from them is, cycles included. That is the coarsest partition
of the types in which members of a class agree in all but ids, and refer to the same classes: it is found by beginning
with one class for each kind, name and layout, and splitting classes until nothing splits (partition refinement).

A forward declaration stands for the struct, union or enum of its name, as long as all of that name are one class. It
begins as such, so that two structs that differ only in what one of them has seen of a third become one.
"""

from __future__ import annotations

from pylsm.btf.types import IDENTIFIED, Kind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence

    #: name, info, size or type, and the words that follow (struct btf_type, include/uapi/linux/btf.h)
    Words = tuple[int, ...]

__all__ = ["deduplicated", "references"]

#: Kind → (first word of the body that is a type id, distance to the next); an array has two.
_IN_BODY = {
    Kind.ARRAY: (3, 1),
    Kind.STRUCT: (4, 3),
    Kind.UNION: (4, 3),
    Kind.FUNC_PROTO: (4, 2),
    Kind.DATASEC: (3, 3),
}
_ARRAY_IDS = 5  # where those of an array end
#: What is never one with another: variables and sections are places, not types.
_PLACES = (Kind.VAR, Kind.DATASEC)


def references(record: Words) -> Iterable[int]:
    """The words of a record that are type ids, by their index."""
    kind = record[1] >> 24 & 0x7F
    if kind in IDENTIFIED:
        yield 2
    first, step = _IN_BODY.get(kind, (0, 0))  # type: ignore[call-overload]
    if step:
        yield from range(first, _ARRAY_IDS if kind == Kind.ARRAY else len(record), step)


def deduplicated(records: Sequence[Words], first: int) -> tuple[list[Words], list[int]]:
    """The types that are left, and the new id of each.

    Args:
        records: types with the ids ``first``, ``first`` + 1, …; equal names have equal offsets.
        first: smaller ids are a base's (or void) and stay.
    """
    places = [tuple(references(record)) for record in records]
    targets = [[record[at] for at in ats] for record, ats in zip(records, places)]
    numbers: dict[Hashable, int] = {}

    def number(value: Hashable) -> int:
        return numbers.setdefault(value, len(numbers))

    colours = [number(_without(record, ats, index)) for index, (record, ats) in enumerate(zip(records, places))]
    groups = [group for group in _by_name(records).values() if group[1]]
    seen = _seen(colours, groups)
    classes = 0
    while len(set(seen)) != classes:
        classes = len(set(seen))
        numbers = {}
        colours = [
            number((colour, *(~id if id < first else seen[id - first] for id in ids)))
            for colour, ids in zip(colours, targets)
        ]
        seen = _seen(colours, groups)
    declared = {index for group in groups for index in group[1]}
    chosen: dict[int, int] = {}
    for index, colour in enumerate(seen):
        if colour not in chosen or (chosen[colour] in declared and index not in declared):
            chosen[colour] = index
    kept = sorted(chosen.values())
    new = {index: first + position for position, index in enumerate(kept)}
    ids = [new[chosen[colour]] for colour in seen]
    return [_mapped(records[index], places[index], ids, first) for index in kept], ids


def _without(record: Words, ats: tuple[int, ...], index: int) -> Hashable:
    """A record without the ids in it."""
    if record[1] >> 24 & 0x7F in _PLACES:
        return (index,)
    blank = list(record)
    for at in ats:
        blank[at] = 0
    return (len(record), *blank)


def _by_name(records: Sequence[Words]) -> dict[Hashable, tuple[list[int], list[int]]]:
    """(definitions, declarations) of each name that a declaration could stand for."""
    found: dict[Hashable, tuple[list[int], list[int]]] = {}
    for index, record in enumerate(records):
        name, info, third = record[:3]
        kind = info >> 24 & 0x7F
        if not name:
            continue
        if kind in (Kind.STRUCT, Kind.UNION):
            found.setdefault((kind, name), ([], []))[0].append(index)
        elif kind == Kind.FWD:
            found.setdefault((Kind.UNION if info >> 31 else Kind.STRUCT, name), ([], []))[1].append(index)
        elif kind in (Kind.ENUM, Kind.ENUM64):
            empty = not info & 0xFFFF
            found.setdefault((Kind.ENUM, name, third), ([], []))[empty].append(index)
    return found


def _seen(colours: list[int], groups: Sequence[tuple[list[int], list[int]]]) -> list[int]:
    """The classes as others see them: a declaration is in its definition's, while there is one class of those."""
    seen = colours[:]
    for definitions, declarations in groups:
        of = {colours[index] for index in definitions}
        if len(of) == 1:
            (colour,) = of
            for index in declarations:
                seen[index] = colour
    return seen


def _mapped(record: Words, ats: tuple[int, ...], ids: list[int], first: int) -> Words:
    words = list(record)
    for at in ats:
        if words[at] >= first:
            words[at] = ids[words[at] - first]
    return tuple(words)
