"""`enum.IntEnum` and `typing.NamedTuple` for modules that are imported at every start.

Importing `enum` and `typing` costs more than half of what starting Python does (20 of 36 million instructions), and an
`enum` class about as much as a module. To a type checker these are the standard library's own, so that nothing is
checked less; tests/unit/test_light.py compares the two.
"""

from __future__ import annotations

TYPE_CHECKING = False

__all__ = ["TYPE_CHECKING", "IntEnum", "NamedTuple"]

if TYPE_CHECKING:
    from enum import IntEnum as IntEnum
    from typing import NamedTuple as NamedTuple
else:

    class _Numbers(type):
        """The class of `IntEnum`'s subclasses: their constants become members, each when it is first asked for, since
        of the many that there are a start uses a few."""

        def __new__(mcs, name, bases, namespace):
            numbers = {key: value for key, value in namespace.items() if type(value) is int and key[0] != "_"}
            for key in numbers:
                del namespace[key]
            namespace["_numbers"] = numbers
            namespace["_names"] = {number: key for key, number in reversed(numbers.items())}
            namespace["_made"] = {}
            return super().__new__(mcs, name, bases, namespace)

        def __getattr__(cls, name):
            try:
                number = cls._numbers[name]
            except KeyError:
                raise AttributeError(f"type object {cls.__name__!r} has no attribute {name!r}") from None
            member = cls(number)
            setattr(cls, name, member)
            return member

        @property
        def __members__(cls):
            return {name: getattr(cls, name) for name in cls._numbers}

        def __call__(cls, number):
            member = cls._made.get(number)
            if member is None:
                try:
                    name = cls._names[number]
                except KeyError:
                    raise ValueError(f"{number!r} is not a valid {cls.__qualname__}") from None
                member = cls._made[number] = int.__new__(cls, number)
                member.name = name
            return member

        def __getitem__(cls, name):
            if name not in cls._numbers:
                raise KeyError(name)
            return getattr(cls, name)

        def __iter__(cls):
            return iter(dict.fromkeys(cls.__members__.values()))

        def __len__(cls):
            return len(cls._names)

        def __contains__(cls, number):
            return number in cls._names

    class IntEnum(int, metaclass=_Numbers):
        """Named numbers: ``.name``, ``.value``, by number (``Cls(3)``), by name (``Cls["X"]``), in their order."""

        @property
        def value(self):
            return int(self)

        def __repr__(self):
            return f"<{type(self).__name__}.{self.name}: {int(self)}>"

        def __str__(self):
            return int.__repr__(self)

        __format__ = int.__format__

        def __reduce__(self):
            return type(self), (int(self),)

    try:
        from _collections import _tuplegetter  # what collections.namedtuple has its fields read by
    except ImportError:

        def _tuplegetter(index, doc):
            return property(lambda row: row[index], doc=doc)

    class _Tuple(tuple):
        """What the classes made of `NamedTuple` inherit; collections.namedtuple compiles it anew for each of them."""

        __slots__ = ()

        def __new__(cls, *values, **named):
            if named or len(values) != len(cls._fields):
                values = cls._complete(values, named)
            return tuple.__new__(cls, values)

        @classmethod
        def _complete(cls, values, named):
            fields = cls._fields
            given = dict(zip(fields, values))
            wrong = [name for name in named if name not in fields or name in given]
            given = {**cls._field_defaults, **given, **named}
            missing = [name for name in fields if name not in given]
            if wrong or missing or len(values) > len(fields):
                what = f"unexpected {wrong}" if wrong else f"missing {missing}" if missing else f"{len(values)} values"
                raise TypeError(f"{cls.__name__}() takes {', '.join(fields)}: {what}")
            return [given[name] for name in fields]

        @classmethod
        def _make(cls, values):
            return cls(*values)

        def _replace(self, **named):
            return self._make(self._complete((), {**self._asdict(), **named}))

        def _asdict(self):
            return dict(zip(self._fields, self))

        def __repr__(self):
            return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in zip(self._fields, self))})"

        def __getnewargs__(self):
            return tuple(self)

    class _Tuples(type):
        """The class of `NamedTuple`: a subclass of it is a plain class of tuples."""

        def __new__(mcs, name, bases, namespace):
            if not bases:
                return super().__new__(mcs, name, bases, namespace)
            fields = tuple(namespace.get("__annotations__", ()))
            defaults = {field: namespace[field] for field in fields if field in namespace}
            for index, field in enumerate(fields):
                namespace[field] = _tuplegetter(index, "")
            namespace.update(__slots__=(), _fields=fields, _field_defaults=defaults, __match_args__=fields)
            return type(name, (_Tuple,), namespace)

    class NamedTuple(metaclass=_Tuples):
        """A tuple with named fields."""
