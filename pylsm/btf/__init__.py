"""The kernel's type information (BTF): a lazy reader, a writer, declarations. Bytes in, types out."""

from __future__ import annotations

from pylsm.btf.declare import declare
from pylsm.btf.errors import BtfError, BtfNotFound
from pylsm.btf.reader import Btf
from pylsm.btf.types import Array, Enumerator, FuncProto, Kind, Member, Param, Type, Variable
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
