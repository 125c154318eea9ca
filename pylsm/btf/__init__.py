"""The kernel's type information (BTF): a lazy reader, a writer, declarations. Bytes in, types out."""

from __future__ import annotations

from pylsm.btf.errors import BtfError, BtfNotFound
from pylsm.btf.reader import Btf
from pylsm.btf.types import Array, Enumerator, FuncProto, Kind, Member, Param, Type, Variable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pylsm.btf.declarations import declare
    from pylsm.btf.writer import BtfWriter

__all__ = [
    "Array",
    "Btf",
    "BtfError",
    "BtfNotFound",
    "BtfWriter",
    "Enumerator",
    "FuncProto",
    "Kind",
    "Member",
    "Param",
    "Type",
    "Variable",
    "declare",
]


def __getattr__(name: str) -> object:
    """What makes BTF is imported when it is asked for: most that import this package only read."""
    if name == "declare":
        from pylsm.btf.declarations import declare

        return declare
    if name == "BtfWriter":
        from pylsm.btf.writer import BtfWriter

        return BtfWriter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
