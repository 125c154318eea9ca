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
        """The class of `IntEnum`'s subclasses: their constants become members."""

        def __new__(mcs, name, bases, namespace):
            numbers = {key: value for key, value in namespace.items() if type(value) is int and key[0] != "_"}
            made = super().__new__(mcs, name, bases, {k: v for k, v in namespace.items() if k not in numbers})
            made.__members__ = members = {}
            made._of = {}
            for key, number in numbers.items():
                member = made._of.get(number)
                if member is None:
                    member = made._of[number] = int.__new__(made, number)
                    member.name = key
                members[key] = member
                setattr(made, key, member)
            return made

        def __call__(cls, number):
            try:
                return cls._of[number]
            except KeyError:
                raise ValueError(f"{number!r} is not a valid {cls.__qualname__}") from None

        def __getitem__(cls, name):
            return cls.__members__[name]

        def __iter__(cls):
            return iter(cls._of.values())

        def __len__(cls):
            return len(cls._of)

        def __contains__(cls, number):
            return number in cls._of

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

    class _Tuples(type):
        """The class of `NamedTuple`: a subclass of it is made by `collections.namedtuple`."""

        def __new__(mcs, name, bases, namespace):
            if not bases:
                return super().__new__(mcs, name, bases, namespace)
            from collections import namedtuple

            fields = list(namespace.get("__annotations__", ()))
            defaults = [namespace[field] for field in fields if field in namespace]
            made = namedtuple(name, fields, defaults=defaults, module=namespace["__module__"])
            for key, value in namespace.items():
                if key not in fields and key not in ("__module__", "__classcell__"):
                    setattr(made, key, value)
            return made

    class NamedTuple(metaclass=_Tuples):
        """A tuple with named fields."""
