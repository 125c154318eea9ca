"""What can be wrong with BTF, or with a question put to it."""

from __future__ import annotations

from pylsm.errors import PylsmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Callable, Union

    from pylsm.btf.types import Kind

    Nearest = Union[Iterable[str], Callable[[], Iterable[str]]]

__all__ = ["BtfError", "BtfNotFound"]


class BtfError(PylsmError):
    """BTF that is damaged, or a question that it cannot answer.

    Args:
        message: one line, without the place: `section` and `offset` are put in front of it.
        source: the name of the BTF ("vmlinux", a file name), or "".
        section: "header", "type", "string" or "layout" when bytes are at fault, else "".
        offset: bytes from the start of that section, or None.
        hint: the next step for the reader, or "".
    """

    def __init__(
        self,
        message: str,
        *,
        source: str = "",
        section: str = "",
        offset: int | None = None,
        hint: str = "",
    ) -> None:
        place = []
        if source:
            place.append(source)
        if section:
            part = f"BTF {section} section" if section != "header" else "BTF header"
            place.append(part if offset is None else f"{part}, offset {offset:#x}")
        super().__init__(": ".join([*place, message]), hint=hint)
        self.source = source
        self.section = section
        self.offset = offset


class BtfNotFound(BtfError):
    """The BTF is sound, but holds no such type, member or enumerator.

    Args:
        kind: the kind of type asked for; for a member or an enumerator, the kind of what was searched;
            None when any kind would have done.
        name: the name asked for.
        nearest: names that do exist, or a function that finds them. The function runs only when somebody
            reads `nearest` or the message: most callers try one name after another and never do.
        what: how to call the thing in the message, by default the kind in lower case.
        where: what was searched ("struct file"), or "" for all of the BTF.
    """

    def __init__(
        self,
        kind: Kind | None,
        name: str,
        nearest: Nearest = (),
        *,
        what: str = "",
        where: str = "",
        source: str = "",
    ) -> None:
        super().__init__("", source=source)
        self.kind = kind
        self.name = name
        self.what = what or ("type" if kind is None else kind.name.lower())
        self.where = where
        self._nearest = nearest

    @property
    def nearest(self) -> list[str]:
        """Names that exist and look like the one asked for, best first."""
        if callable(self._nearest):
            self._nearest = tuple(self._nearest())
        return list(self._nearest)

    def __str__(self) -> str:
        place = " of ".join(part for part in (self.where, self.source) if part)
        name = self.name if len(self.name) <= 100 else self.name[:100] + "…"
        text = f"no {self.what} {name!r}" + (f" in {place}" if place else "")
        near = self.nearest
        return f"{text}; nearest: {', '.join(near)}" if near else text
