"""pylsm.light behaves like what it stands for, in all that pylsm uses of it."""

from __future__ import annotations

import copy
import enum
import pickle
import typing

import pytest

from pylsm import light


def _number(base: type) -> typing.Any:
    class Colour(base):  # type: ignore[misc,valid-type]
        """Colours."""

        RED = 1
        GREEN = 7
        ALSO_RED = 1

        @property
        def loud(self) -> bool:
            return self.name == "RED"

    return Colour


ours, theirs = _number(light.IntEnum), _number(enum.IntEnum)


@pytest.mark.parametrize(
    "look",
    [
        lambda c: [(m.name, m.value, int(m), repr(m), f"{m}", f"{m:03}", hash(m), m.loud) for m in c],
        lambda c: (c(7).name, c["GREEN"].value, c.ALSO_RED.name, c.ALSO_RED is c.RED or c.ALSO_RED == c.RED, len(c)),
        lambda c: (list(c.__members__), c.RED == 1, c.RED | c.GREEN, {1: "x"}[c.RED], c.__name__, c.__doc__),
        lambda c: (isinstance(c.RED, c), isinstance(c.RED, int), c(c.RED) is c.RED, copy.deepcopy(c.GREEN) == 7),
        lambda c: (c.RED in c, f"{c.GREEN:d}", sorted([c.GREEN, c.RED])),
    ],
)
def test_numbers_are_those_of_enum(look: typing.Callable[[typing.Any], object]) -> None:
    if look(theirs) != look(ours):
        # str() of an IntEnum is its number from Python 3.11 on only; ours always is
        assert str(look(theirs)).replace("Colour.", "") == str(look(ours)).replace("Colour.", "")


def test_unknown_numbers_are_refused_with_the_same_words() -> None:
    said = []
    for colour in (ours, theirs):
        with pytest.raises(ValueError, match="not a valid") as caught:
            colour(3)
        said.append(str(caught.value).rpartition(".")[2])
        with pytest.raises(KeyError):
            colour["BLUE"]
    assert said[0] == said[1]


class Ours(light.NamedTuple):
    """A row."""

    a: int
    b: str = "x"

    @property
    def both(self) -> str:
        return f"{self.a}{self.b}"

    @classmethod
    def made(cls) -> Ours:
        return cls(9)


class Theirs(typing.NamedTuple):
    """A row."""

    a: int
    b: str = "x"

    @property
    def both(self) -> str:
        return f"{self.a}{self.b}"

    @classmethod
    def made(cls) -> Theirs:
        return cls(9)


def test_tuples_are_those_of_typing() -> None:
    for row in (Ours, Theirs):
        assert row._fields == ("a", "b")
        assert row(1) == (1, "x") and row(1, b="z").both == "1z" and row.made()._replace(a=2) == (2, "x")
        assert row.__doc__ == "A row." and row.__module__ == __name__ and row.__qualname__ == row.__name__
        assert pickle.loads(pickle.dumps(row(4))) == row(4) and type(row._make([1, "y"])) is row
        assert not hasattr(row(1), "__dict__")
        assert row(1)._asdict() == {"a": 1, "b": "x"} and row.__match_args__ == ("a", "b")  # type: ignore[attr-defined]
        assert (
            copy.copy(row(5)) == copy.deepcopy(row(5)) == row(5) and row(1) < row(2) and hash(row(1)) == hash((1, "x"))
        )
        for wrong in ((), (1, "x", 2)):
            with pytest.raises(TypeError):
                row(*wrong)
        for named in ({"b": "z"}, {"a": 1, "c": 2}):
            with pytest.raises(TypeError):
                row(**named)
        with pytest.raises(TypeError):
            row(1, a=2)  # type: ignore[misc]
        with pytest.raises((TypeError, ValueError)):
            row(1)._replace(c=2)  # type: ignore[call-arg]
        with pytest.raises(AttributeError):
            row(1).a = 2  # type: ignore[misc]
    assert repr(Ours(1)) == repr(Theirs(1)).replace("Theirs", "Ours")
    assert Ours._field_defaults == Theirs._field_defaults  # type: ignore[attr-defined]
