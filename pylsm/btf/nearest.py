"""Names that come close to one that was not found."""

from __future__ import annotations

from pylsm.btf.errors import BtfError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from pylsm.btf.reader import Btf
    from pylsm.btf.types import Kind

__all__ = ["nearest_members", "nearest_names", "nearest_types"]

_MAX_COMPARED = 3000  # difflib takes some 10 microseconds a name


def nearest_names(name: str, names: Iterable[str], count: int = 3) -> list[str]:
    """The names most like one, best first; other spellings of case and underscores count as alike."""
    from difflib import get_close_matches

    if len(name) > 200:
        return []
    shapes: dict[str, str] = {}
    for candidate in names:
        if candidate and abs(len(candidate) - len(name)) <= 2 + len(name) // 2:
            shapes.setdefault(candidate.lower(), candidate)
            if len(shapes) >= _MAX_COMPARED:
                break
    return [shapes[shape] for shape in get_close_matches(name.lower(), shapes, n=count, cutoff=0.6)]


def nearest_types(btf: Btf, name: str, kind: Kind | None) -> list[str]:
    """Type names of a kind most like one; [] when the BTF is too damaged to tell."""

    def candidates() -> Iterable[str]:
        # Of 50,000 functions only those that share some part of the name can be meant.
        parts = [part for part in name.lower().split("_") if len(part) > 2] or [name.lower()[:2]]
        for id in btf.types():
            found = btf.type(id)
            if kind in (None, found.kind):
                text = found.name
                if any(part in text.lower() for part in parts) or text[:3] == name[:3]:
                    yield text

    try:
        return nearest_names(name, candidates())
    except BtfError:
        return []


def nearest_members(btf: Btf, id: int, name: str) -> list[str]:
    """Member names of a struct, anonymous members' included, most like one."""
    names: list[str] = []
    todo, seen = [id], {id}
    try:
        while todo:
            for member in btf.type(todo.pop()).members:
                if member.name:
                    names.append(member.name)
                else:
                    inner = btf.resolve(member.type_id)
                    if inner not in seen:
                        seen.add(inner)
                        todo.append(inner)
    except BtfError:
        pass  # the names before the damage will do
    return nearest_names(name, names)
