"""Types as C text: short names for messages, whole definitions with offsets for people.

The form of a definition is that of pahole: a comment behind each member gives its offset and size in bytes
(`offset:bit size` for a bitfield).
"""

from __future__ import annotations

from pylsm.btf.errors import BtfError
from pylsm.btf.types import Kind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pylsm.btf.reader import Btf
    from pylsm.btf.types import Type

__all__ = ["c_name", "dump_c"]

_WORDS = {Kind.STRUCT: "struct", Kind.UNION: "union", Kind.ENUM: "enum", Kind.ENUM64: "enum"}
_QUALIFIERS = {Kind.CONST: "const", Kind.VOLATILE: "volatile", Kind.RESTRICT: "restrict"}

# Damaged BTF can nest without end, or double at each level: text is cut off, not computed for ever.
_MAX_STEPS = 20_000
_MAX_DUMP_STEPS = 500_000
_MAX_CHAIN = 256
_MAX_DEPTH = 24
_MAX_LINES = 100_000


def c_name(btf: Btf, id: int) -> str:
    """The type as C would write it without a variable: "struct file *", "char[16]"."""
    try:
        return _Declarator(btf).text(id, "")
    except BtfError:
        return f"(damaged type {id})"


def dump_c(btf: Btf, type: int | str) -> str:
    """A C-like definition of one type, without a closing newline.

    Raises:
        BtfNotFound: no such type.
        BtfError: the type is damaged, or nests without end.
    """
    id = btf.find_c(type) if isinstance(type, str) else type
    return _Dump(btf).definition(btf.type(id))


class _Declarator:
    """Writes a type around a name, inside out, as C declarations are read."""

    def __init__(self, btf: Btf, steps: int = _MAX_STEPS) -> None:
        self._btf = btf
        self._steps = steps
        self._open: set[int] = set()  # prototypes being written: only a damaged one is its own parameter

    def text(self, id: int, inner: str, depth: int = 0) -> str:
        """`inner` declared as the type: text(id of `char *`, "p") is "char *p"."""
        before: list[str] = []  # const and volatile of what comes next
        behind: list[str] = []  # type tags of what comes next
        passed: set[int] = set()
        for _ in range(_MAX_CHAIN):
            self._steps -= 1
            if self._steps < 0 or depth > _MAX_DEPTH or id in self._open or id in passed:
                break
            passed.add(id)
            type = self._btf.type(id)
            kind = type.kind
            if kind in _QUALIFIERS:
                before.append(_QUALIFIERS[kind])
            elif kind is Kind.TYPE_TAG:
                behind.append(_tag(type.name))
            elif kind is Kind.PTR:
                words = " ".join(before + behind)
                gap = " " if words and inner[:1] not in ("", ")", "[") else ""
                inner = f"*{words}{gap}{inner}"
                before, behind = [], []
            elif kind is Kind.ARRAY:
                array = type.array
                inner = f"{_bracket(inner)}[{array.length or ''}]"
                id = array.element_id
                continue
            elif kind is Kind.FUNC_PROTO:
                inner = f"{_bracket(inner)}({self.params(type, depth)})"
            else:
                return _join(" ".join([*before, self._base(type), *behind]), inner)
            id = type.type_id
        return _join("…", inner)

    def params(self, proto: Type, depth: int) -> str:
        """The parameters of a prototype, as between its parentheses."""
        parts = []
        self._open.add(proto.id)
        for param in proto.params:
            if self._steps < 0:
                parts.append("…")
                break
            if param.type_id == 0 and not param.name:
                parts.append("...")
            else:
                parts.append(self.text(param.type_id, param.name, depth + 1))
        self._open.discard(proto.id)
        return ", ".join(parts) or "void"

    def _base(self, type: Type) -> str:
        if type.kind in _WORDS:
            return f"{_WORDS[type.kind]} {type.name or '{...}'}"
        if type.kind is Kind.FWD:
            return f"{'union' if type.kind_flag else 'struct'} {type.name}"
        if type.kind in (Kind.FUNC, Kind.VAR, Kind.DATASEC, Kind.DECL_TAG):
            return f"{type.kind.name.lower()} {type.name}"
        return type.name


class _Dump:
    def __init__(self, btf: Btf) -> None:
        self._btf = btf
        self._declare = _Declarator(btf, _MAX_DUMP_STEPS).text
        self._lines = 0

    def definition(self, type: Type) -> str:
        kind = type.kind
        if kind in (Kind.STRUCT, Kind.UNION, Kind.ENUM, Kind.ENUM64):
            return f"{self._body(type, 0, 0)};"
        if kind is Kind.TYPEDEF:
            target = self._btf.type(type.type_id)
            if target.kind in _WORDS and not target.name:
                return f"typedef {self._body(target, 0, 0)} {type.name};"
            return f"typedef {self._declare(type.type_id, type.name)};"
        if kind is Kind.FWD:
            return f"{c_name(self._btf, type.id)};"
        if kind is Kind.FUNC:
            return f"{('static ', '', 'extern ')[min(type.linkage, 2)]}{self._declare(type.type_id, type.name)};"
        if kind is Kind.VAR:
            return f"{('static ', '', 'extern ')[min(type.linkage, 2)]}{self._declare(type.type_id, type.name)};"
        if kind is Kind.DATASEC:
            return self._section(type)
        if kind is Kind.DECL_TAG:
            part = "" if type.component < 0 else f", part {type.component}"
            return f'/* tag "{type.name}" on {c_name(self._btf, type.type_id)}{part} */'
        if kind is Kind.INT:
            words = [word for bit, word in ((1, "signed"), (2, "char"), (4, "bool")) if type.encoding & bit]
            return f"/* {type.name}: {', '.join([f'{type.bits} bits in {type.size} bytes', *words])} */"
        if kind is Kind.FLOAT:
            return f"/* {type.name}: {type.size} bytes, floating point */"
        return f"{c_name(self._btf, type.id)};"

    def _count(self, lines: int, type: Type) -> None:
        self._lines += lines
        if self._lines > _MAX_LINES:
            raise BtfError(f"type {type.id} needs more than {_MAX_LINES} lines", source=self._btf.name)

    def _body(self, type: Type, depth: int, start: int) -> str:
        """`struct x { … }`; `start` is the bit offset of this in the outermost type."""
        if depth > _MAX_DEPTH:
            raise BtfError(f"type {type.id} nests deeper than {_MAX_DEPTH}", source=self._btf.name)
        head = f"{_WORDS[type.kind]} {type.name}".rstrip()
        indent = "\t" * depth
        if type.kind in (Kind.ENUM, Kind.ENUM64):
            self._count(type.vlen, type)
            values = "".join(f"{indent}\t{one.name} = {one.value},\n" for one in type.enumerators)
            return f"{head} {{\n{values}{indent}}}"
        rows: list[tuple[str, str]] = []
        self._count(type.vlen, type)
        for member in type.members:
            bit = start + member.bit_offset
            target = self._btf.type(member.type_id)
            if target.kind in (Kind.STRUCT, Kind.UNION) and not target.name:
                text = self._body(target, depth + 1, bit) + (f" {member.name}" if member.name else "")
            else:
                text = self._declare(member.type_id, member.name)
            if member.bit_size:
                rows.append((f"{text}:{member.bit_size};", f"{bit >> 3:5}:{bit & 7} {self._size(member.type_id):>5}"))
            else:
                rows.append((f"{text};", f"{bit >> 3:5}   {self._size(member.type_id):>5}"))
        width = min(max((len(text) for text, _ in rows if "\n" not in text), default=0), 56)
        lines = []
        for text, place in rows:
            pad = "" if "\n" in text else " " * (width - len(text))
            lines.append(f"{indent}\t{text}{pad} /* {place} */\n")
        size = f"\n{indent}\t/* size: {type.size} */\n" if depth == 0 else ""
        return f"{head} {{\n{''.join(lines)}{size}{indent}}}"

    def _size(self, id: int) -> str:
        try:
            return str(self._btf.size_of(id))
        except BtfError:
            return "?"

    def _section(self, type: Type) -> str:
        self._count(type.vlen, type)
        lines = [f"/* section {type.name}, size: {type.size} */"]
        for variable in type.variables:
            var = self._btf.type(variable.type_id)
            text = self._declare(var.type_id, var.name) if var.kind is Kind.VAR else c_name(self._btf, var.id)
            lines.append(f"{text}; /* {variable.offset:5}   {variable.size:>5} */")
        return "\n".join(lines)


def _join(base: str, inner: str) -> str:
    return f"{base}{'' if not inner or inner[0] == '[' else ' '}{inner}"


def _bracket(inner: str) -> str:
    # In `*p[3]` the brackets bind first: a pointer to an array needs (*p)[3].
    return f"({inner})" if inner[:1] == "*" else inner


def _tag(name: str) -> str:
    # Linux writes __user, __rcu and __percpu for these.
    return f"__{name}" if name.isidentifier() else f'__attribute__((btf_type_tag("{name}")))'
