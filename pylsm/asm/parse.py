"""Text → instructions: the kernel's own syntax (see `pylsm.asm.disasm`), with labels, comments and directives.

Lines of a verifier log can be pasted as they are: ``12: (b7) r0 = 0 ; R0_w=0``.

=============================  =====================================================================
``name:``                      a label of the current function; ``goto name`` leads to it
``; …``, ``// …``, ``# …``     a comment, to the end of the line
``.func NAME [ARGUMENTS]``     begins a function; ``call NAME`` and ``r1 = subprog[NAME]`` refer to it
``.section "TEXT"``            what the program is (`parse_program` only, as the next three)
``.name NAME``                 its name
``.license "TEXT"``            its license
``.map NAME TYPE key=N …``     a map: ``key= value= max_entries= flags=``
``.insn OP DST SRC OFF IMM``   an instruction by its fields
``{file.f_inode}``             a number the loader fills in: the offset of a field; also ``{size …}``,
                               ``{exists …}``, ``{type id|size|exists NAME}``, ``{enum TYPE.NAME}``,
                               and ``{load …}``, ``{lshift …}``, ``{rshift …}`` for bit fields
=============================  =====================================================================

In ``if r1 == 0xffffffff`` the hexadecimal constant is the 32 bits of the immediate, as the kernel prints it; a 64-bit
jump extends its sign.
"""

from __future__ import annotations

import re
from typing import NamedTuple, NoReturn

from pylsm.asm import helpers
from pylsm.asm import opcodes as op
from pylsm.asm.disasm import (
    ADDR_PERCPU,
    ATOMICS,
    GOTOX,
    NOSPEC,
    OPERATORS,
    SIGNED_SIZES,
    SIZES,
    jump_distance,
)
from pylsm.asm.errors import (
    FallThroughError,
    JumpTargetError,
    LabelError,
    RangeError,
    SourceLine,
    SyntaxTextError,
    UnknownNameError,
)
from pylsm.asm.instruction import Instruction
from pylsm.asm.maps import MapSpec, MapType
from pylsm.asm.program import Function, Program
from pylsm.asm.references import (
    BitsRef,
    EnumRef,
    FieldRef,
    FunctionRef,
    KfuncRef,
    KsymRef,
    MapRef,
    MapValueRef,
    Reference,
    TypeRef,
)

__all__ = ["link", "parse", "parse_program"]

_PREFIX = re.compile(r"\s*(?:\d+:)?\s*(?:\(([0-9a-f]{2})\)(?=\s*[\w*]))?")
_TOKEN = re.compile(
    r"""\s*(?:
      (?P<comment>;.*|//.*|(?:(?<=\s)|^)\#.*)
    | (?P<number>0[xX][0-9a-fA-F]+\b|\d+\b)
    | (?P<operator>s>>=|s/=|s%=|s>=|s<=|s>|s<|<<=|>>=|[-+*/%&|^=!<>]=|[-+*/%&|^=<>()\[\],:\#])
    | (?P<name>kernel-function\b|[A-Za-z_.$][\w.$]*)
    | (?P<string>"[^"]*")
    | (?P<brace>\{[^{}]*\})
    )""",
    re.VERBOSE,
)
_REGISTER = re.compile(r"([rw])(\d+)\Z")
_SWAP = re.compile(r"(le|be|bswap)(16|32|64)\Z")
_ATOMIC = re.compile(r"atomic(64|)_(?:fetch_(add|and|or|xor)|(xchg)|(cmpxchg))\Z")
_ALU_OF = {text: number for number, text in OPERATORS.items()}
_SIZE_OF = {text: number for number, text in SIZES.items()}
_SIGNED_SIZE_OF = {text: number for number, text in SIGNED_SIZES.items()}
_ATOMIC_OF = {text: number for number, text in ATOMICS.items()}


class _Token(NamedTuple):
    kind: str
    text: str
    column: int


class _Jump(NamedTuple):
    """A jump to a label, still open: the index of the instruction, the label, where it was written."""

    instruction: int
    label: str
    line: SourceLine


class _Function:
    """A function being read."""

    def __init__(self, name: str, arguments: int, start: int, line: SourceLine) -> None:
        self.name = name
        self.arguments = arguments
        self.start = start
        self.line = line
        self.labels: dict[str, tuple[int, SourceLine]] = {}
        self.jumps: list[_Jump] = []


class _Line:
    """One line being read: tokens with columns, and the errors that name them."""

    def __init__(self, text: str, line: SourceLine) -> None:
        self.text = text
        self.line = line
        prefix = _PREFIX.match(text)
        assert prefix is not None
        self.opcode = int(prefix[1], 16) if prefix[1] else None
        self.tokens: list[_Token] = []
        self.at = 0
        position, end = prefix.end(), len(text.rstrip())
        while position < end:
            found = _TOKEN.match(text, position)
            if found is None:
                column = position + len(text[position:]) - len(text[position:].lstrip()) + 1
                raise SyntaxTextError(line, column, "an instruction, a label or a comment", text)
            kind = found.lastgroup or ""
            if kind == "comment":
                break
            self.tokens.append(_Token(kind, found[kind], found.start(kind) + 1))
            position = found.end()

    @property
    def column(self) -> int:
        """Of the token to be read next."""
        if self.at < len(self.tokens):
            return self.tokens[self.at].column
        last = self.tokens[-1] if self.tokens else None
        return last.column + len(last.text) if last else 1

    def fail(self, expected: str, *, back: int = 0) -> NoReturn:
        """Refuse the token to be read next (or the one ``back`` tokens before)."""
        self.at -= back
        raise SyntaxTextError(self.line, self.column, expected, self.text)

    def peek(self) -> str:
        """The text to be read next, "" at the end."""
        return self.tokens[self.at].text if self.at < len(self.tokens) else ""

    def kind(self) -> str:
        """Its kind, "" at the end."""
        return self.tokens[self.at].kind if self.at < len(self.tokens) else ""

    def next(self) -> str:
        """Read on."""
        self.at += 1
        return self.tokens[self.at - 1].text

    def take(self, text: str) -> bool:
        """Read ``text`` if it is next."""
        if self.peek() == text:
            self.at += 1
            return True
        return False

    def need(self, *texts: str) -> None:
        """Read these, in this order."""
        for text in texts:
            if not self.take(text):
                self.fail(repr(text))

    def end(self) -> None:
        """Nothing may follow."""
        if self.at < len(self.tokens):
            self.fail("the end of the line")

    def name(self, expected: str) -> str:
        """Read a name."""
        if self.kind() != "name":
            self.fail(expected)
        return self.next()

    def register(self, kind: str = "r") -> int:
        """Read a register: "r" for 64 bits, "w" for 32."""
        found = _REGISTER.match(self.peek())
        if found is None or found[1] != kind or int(found[2]) > 10:
            self.fail(f"a register {kind}0-{kind}10")
        self.at += 1
        return int(found[2])

    def number(self) -> int:
        """Read an integer without a sign."""
        if self.kind() != "number":
            self.fail("a number")
        text = self.next()
        return int(text, 16 if text[:2] in ("0x", "0X") else 10)

    def signed(self) -> int:
        """Read an integer with or without a sign."""
        if self.take("-"):
            return -self.number()
        self.take("+")
        return self.number()

    def fits(self, value: int, low: int, high: int, what: str) -> int:
        """``value``, or a RangeError when it is out of range."""
        if not low <= value <= high:
            raise RangeError(f"{what} {value:#x} is outside {low}..{high}", line=self.line)
        return value

    def imm32(self, *, bits: bool = False) -> int:
        """Read a 32-bit immediate; with ``bits`` also an unsigned one, taken bit by bit."""
        value = self.signed()
        if bits and op.S32_MAX < value <= op.U32_MAX:
            return value - (1 << 32)
        return self.fits(value, op.S32_MIN, op.S32_MAX, "immediate")


class _Made(NamedTuple):
    """What a line says: the fields of an instruction, and the label it jumps to if it does."""

    opcode: int
    dst: int = 0
    src: int = 0
    off: int = 0
    imm: int = 0
    reference: Reference | None = None
    label: str = ""


# ---- one instruction ---------------------------------------------------------------------------------------------


def _statement(line: _Line, functions: frozenset[str]) -> _Made:
    word = line.peek()
    reader = _KEYWORDS.get(word)
    if reader is not None:
        line.at += 1
        return reader(line)
    if word == "call":
        line.at += 1
        return _call(line, functions)
    if word == "*":
        return _store(line)
    if _REGISTER.match(word):
        return _assignment(line)
    return line.fail("an instruction, a label or a directive")


def _target(line: _Line) -> tuple[int, str]:
    """Read ``pc+3``, ``+3`` or a label: (distance, "") or (0, label)."""
    if line.peek() in ("+", "-"):
        return line.signed(), ""
    label = line.name("a label, or a distance such as pc+3")
    if label == "pc" and line.peek() in ("+", "-"):
        return line.signed(), ""
    return 0, label


def _goto(opcode: int, line: _Line) -> _Made:
    distance, label = _target(line)
    if opcode == op.JMP32 | op.JA:
        return _Made(opcode, imm=line.fits(distance, op.S32_MIN, op.S32_MAX, "distance"), label=label)
    return _Made(opcode, off=line.fits(distance, op.S16_MIN, op.S16_MAX, "distance"), label=label)


def _gotox(line: _Line) -> _Made:
    return _Made(GOTOX, line.register())


def _if(line: _Line) -> _Made:
    kind = "w" if line.peek().startswith("w") else "r"
    cls = op.JMP32 if kind == "w" else op.JMP
    dst = line.register(kind)
    condition = line.peek()
    if condition not in op.CONDITIONS:
        line.fail(f"one of {' '.join(op.CONDITIONS)}")
    operation = op.CONDITIONS[line.next()]
    src = imm = 0
    reference: Reference | None = None
    if line.kind() == "name":
        source, src = op.X, line.register(kind)
    elif line.kind() == "brace":
        source, reference = op.K, _brace(line)
    else:
        hexadecimal = line.peek().lower().startswith("0x")
        source, imm = op.K, line.imm32(bits=hexadecimal or kind == "w")
    line.need("goto")
    distance, label = _target(line)
    off = line.fits(distance, op.S16_MIN, op.S16_MAX, "distance")
    return _Made(cls | operation | source, dst, src, off, imm, reference, label)


def _call(line: _Line, functions: frozenset[str]) -> _Made:
    if line.kind() == "number":
        return _Made(op.JMP | op.CALL, imm=line.imm32())
    name = line.name("a helper, a function, or a distance such as pc+3")
    if name == "pc" and line.peek() in ("+", "-"):
        return _Made(op.JMP | op.CALL, src=op.CALL_FUNCTION, imm=line.imm32())
    if not line.take("#"):
        if name in functions:
            return _Made(op.JMP | op.CALL, src=op.CALL_FUNCTION, reference=FunctionRef(name))
        try:
            return _Made(op.JMP | op.CALL, imm=helpers.by_name(name).number)
        except UnknownNameError as error:
            message = str(error).partition(": ")[2]
            raise UnknownNameError(
                message, hint=f"write `call {name}#kfunc` for a kernel function", line=line.line
            ) from None
    if line.take("kfunc"):
        return _Made(op.JMP | op.CALL, src=op.CALL_KFUNC, reference=KfuncRef(name))
    number = line.imm32()
    try:
        known = helpers.by_name(name)
    except UnknownNameError:
        return _Made(op.JMP | op.CALL, src=op.CALL_HELPER if name == "unknown" else op.CALL_KFUNC, imm=number)
    if known.number != number:
        line.fail(f"{known.number}, the number of {name}", back=1)
    return _Made(op.JMP | op.CALL, imm=number)


def _memory(line: _Line, *, signed: bool = False) -> tuple[int, int, int, Reference | None]:
    """Read ``(u64 *)(r1 +8)``: (size bits or mode, base, offset, reference)."""
    size = _width(line, signed)
    line.need("(")
    base = line.register()
    reference: Reference | None = None
    off = 0
    if line.take("+") and line.kind() == "brace":
        reference = _brace(line)
    elif line.peek() != ")":
        if line.kind() == "number":
            off = line.number()
        elif line.peek() == "-":
            off = line.signed()
        else:
            line.fail("an offset such as +8 or -8")
        off = line.fits(off, op.S16_MIN, op.S16_MAX, "offset")
    line.need(")")
    return size, base, off, reference


def _width(line: _Line, signed: bool) -> int:
    """Read ``(u64 *)``: the size bits, or size bits and mode of a sign-extending load."""
    line.need("(")
    word = line.peek()
    if word in _SIZE_OF:
        size = _SIZE_OF[line.next()]
    elif signed and word in _SIGNED_SIZE_OF:
        size = op.MEMSX | _SIGNED_SIZE_OF[line.next()]
    else:
        line.fail("one of " + " ".join([*_SIZE_OF, *(_SIGNED_SIZE_OF if signed else ())]))
    line.need("*", ")")
    return size


def _store(line: _Line) -> _Made:
    line.need("*")
    size, base, off, reference = _memory(line)
    line.need("=")
    if line.kind() == "name":
        return _Made(op.STX | op.MEM | size, base, line.register(), off, 0, reference)
    return _Made(op.ST | op.MEM | size, base, 0, off, line.imm32(bits=size == op.W), reference)


def _lock(line: _Line) -> _Made:
    line.need("*")
    size, base, off, reference = _memory(line)
    operation = _ALU_OF.get(line.peek(), -1)
    if operation not in ATOMICS:
        line.fail("one of += &= |= ^=")
    line.at += 1
    _atomic_width(line, size)
    return _Made(op.STX | op.ATOMIC | size, base, line.register(), off, operation, reference)


def _atomic_width(line: _Line, size: int) -> None:
    if size not in (op.W, op.DW):
        line.at = next(at for at, token in enumerate(line.tokens) if token.text in _SIZE_OF)
        line.fail("u32 or u64")


def _store_release(line: _Line) -> _Made:
    line.need("(")
    size, base, off, reference = _memory(line)
    line.need(",")
    src = line.register()
    line.need(")")
    return _Made(op.STX | op.ATOMIC | size, base, src, off, op.STORE_REL, reference)


def _assignment(line: _Line) -> _Made:
    kind = line.peek()[0]
    cls = op.ALU if kind == "w" else op.ALU64
    dst = line.register(kind)
    operator = line.peek()
    if operator in ("s/=", "s%="):
        line.at += 1
        return _operand(line, kind, cls | _ALU_OF[operator[1:]], dst, 1)
    if operator not in _ALU_OF:
        line.fail(f"one of {' '.join(_ALU_OF)} s/= s%=")
    line.at += 1
    if operator != "=":
        return _operand(line, kind, cls | _ALU_OF[operator], dst, 0)
    if line.take("("):
        width = line.peek()
        allowed = ("s8", "s16") if kind == "w" else ("s8", "s16", "s32")
        if width not in allowed:
            line.fail("one of " + " ".join(allowed))
        line.at += 1
        line.need(")")
        return _Made(cls | op.MOV | op.X, dst, line.register(kind), int(width[1:]))
    if line.peek() == "-" and line.at + 1 < len(line.tokens) and line.tokens[line.at + 1].kind == "name":
        line.at += 1
        if line.register(kind) != dst:
            line.fail(f"{kind}{dst}: a negation is in place", back=1)
        return _Made(cls | op.NEG, dst)
    if kind == "r":
        made = _load(line, dst)
        if made is not None:
            return made
    return _operand(line, kind, cls | op.MOV, dst, 0)


def _operand(line: _Line, kind: str, opcode: int, dst: int, off: int) -> _Made:
    """Read the right side of an arithmetic instruction."""
    if line.kind() == "name":
        return _Made(opcode | op.X, dst, line.register(kind), off)
    if line.kind() == "brace":
        return _Made(opcode | op.K, dst, 0, off, 0, _brace(line))
    return _Made(opcode | op.K, dst, 0, off, line.imm32(bits=kind == "w"))


def _load(line: _Line, dst: int) -> _Made | None:
    """Read what else can stand after ``rN =``; None when it is a plain move."""
    word = line.peek()
    if word == "*":
        line.at += 1
        return _load_memory(line, dst)
    if line.take("&"):
        line.need("(", "void", "__percpu", "*", ")", "(")
        src = line.register()
        line.need(")")
        return _Made(op.ALU64 | op.MOV | op.X, dst, src, ADDR_PERCPU)
    wide = _load_wide(line, dst)
    if wide is not None:
        return wide
    if line.kind() != "name" or _REGISTER.match(word):
        return None
    swap = _SWAP.match(word)
    if swap is not None:
        line.at += 1
        if line.register() != dst:
            line.fail(f"r{dst}: a byte swap is in place", back=1)
        opcode = {"le": op.ALU | op.TO_LE, "be": op.ALU | op.TO_BE, "bswap": op.ALU64}[swap[1]]
        return _Made(opcode | op.END, dst, imm=int(swap[2]))
    atomic = _ATOMIC.match(word)
    if atomic is not None:
        line.at += 1
        return _atomic(line, dst, atomic)
    if line.take("load_acquire"):
        line.need("(")
        size, base, off, reference = _memory(line)
        line.need(")")
        return _Made(op.STX | op.ATOMIC | size, dst, base, off, op.LOAD_ACQ, reference)
    if line.take("addr_space_cast"):
        line.need("(")
        src = line.register()
        line.need(",")
        to = line.fits(line.number(), 0, 0xFFFF, "address space")
        line.need(",")
        from_ = line.fits(line.number(), 0, 0xFFFF, "address space")
        line.need(")")
        imm = to << 16 | from_
        return _Made(op.ALU64 | op.MOV | op.X, dst, src, op.ADDR_SPACE_CAST, imm - (imm >> 31 << 32))
    return line.fail("a register, a number, a load, map[…], ksym[…] or subprog[…]")


def _load_memory(line: _Line, dst: int) -> _Made:
    start = line.at
    size = _width(line, True)
    if not line.take("skb"):
        line.at = start
        size, base, off, reference = _memory(line, signed=True)
        return _Made(op.LDX | (size if size & op.MEMSX else op.MEM | size), dst, base, off, 0, reference)
    if dst or size & op.MEMSX or size == op.DW:
        line.at = 0 if dst else start + 1
        line.fail("r0, where packet loads go" if dst else "u8, u16 or u32 for a packet load")
    line.need("[")
    if line.kind() != "name":
        imm = line.imm32()
        line.need("]")
        return _Made(op.LD | op.ABS | size, imm=imm)
    src = line.register()
    if line.peek() != "]":
        line.need("+")
        imm = line.imm32()
    else:
        imm = 0
    line.need("]")
    return _Made(op.LD | op.IND | size, 0, src, 0, imm)


def _atomic(line: _Line, dst: int, atomic: re.Match[str]) -> _Made:
    """Read ``atomic64_fetch_add((u64 *)(r1 +0), r2)`` and its like, the left side being ``rDST``."""
    line.need("(")
    size, base, off, reference = _memory(line)
    wanted = op.DW if atomic[1] else op.W
    if size != wanted:
        line.at = next(at for at, token in enumerate(line.tokens) if token.text in _SIZE_OF)
        line.fail(SIZES[wanted])
    line.need(",")
    if atomic[4]:
        line.need("r0", ",")
    src = line.register()
    if dst != (0 if atomic[4] else src):
        line.at = 0
        line.fail(f"r{0 if atomic[4] else src}, where the old value goes")
    line.need(")")
    imm = op.CMPXCHG if atomic[4] else op.XCHG if atomic[3] else _ATOMIC_OF[atomic[2]] | op.FETCH
    return _Made(op.STX | op.ATOMIC | size, base, src, off, imm, reference)


def _load_wide(line: _Line, dst: int) -> _Made | None:
    """Read the right side of a 64-bit immediate load; None when it is none."""
    start = line.at
    if line.peek() == "-" or line.kind() == "number":
        value = line.signed()
        if line.take("ll") or line.opcode == op.LDDW:
            return _Made(op.LDDW, dst, imm=line.fits(value, op.S64_MIN, op.U64_MAX, "immediate"))
        line.at = start
        return None
    if line.peek() not in ("map", "ksym", "subprog"):
        return None
    what = line.next()
    line.need("[")
    if what == "subprog":
        if line.peek() in ("+", "-"):
            imm = line.imm32() & op.U32_MAX
            made = _Made(op.LDDW, dst, op.PSEUDO_FUNC, imm=imm)
        else:
            made = _Made(op.LDDW, dst, op.PSEUDO_FUNC, reference=FunctionRef(line.name("a function")))
        line.need("]")
        return made
    name = line.name("a name, fd:N, idx:N or id:N")
    number = None
    if name in ("fd", "idx", "id") and line.take(":"):
        number = line.fits(line.number(), 0, op.U32_MAX, "number")
    line.need("]")
    if what == "ksym":
        if number is not None:
            return _Made(op.LDDW, dst, op.PSEUDO_BTF_ID, imm=number)
        return _Made(op.LDDW, dst, op.PSEUDO_BTF_ID, reference=KsymRef(name))
    if not line.take("["):
        if number is None:
            return _Made(op.LDDW, dst, op.PSEUDO_MAP_FD, reference=MapRef(name))
        return _Made(op.LDDW, dst, op.PSEUDO_MAP_IDX if name == "idx" else op.PSEUDO_MAP_FD, imm=number)
    line.need("0", "]")
    offset = line.fits(line.number(), 0, op.U32_MAX, "offset") if line.take("+") else 0
    if number is None:
        return _Made(op.LDDW, dst, op.PSEUDO_MAP_VALUE, reference=MapValueRef(name, offset))
    pseudo = op.PSEUDO_MAP_IDX_VALUE if name == "idx" else op.PSEUDO_MAP_VALUE
    return _Made(op.LDDW, dst, pseudo, imm=number | offset << 32)


def _brace(line: _Line) -> Reference:
    """Read ``{…}``, a number the loader fills in."""
    words = line.next()[1:-1].split()
    if len(words) == 3 and words[0] == "type" and words[1] in ("id", "size", "exists"):
        return TypeRef(words[2], words[1])
    if len(words) == 2 and words[0] == "enum" and "." in words[1]:
        enum, _, value = words[1].rpartition(".")
        return EnumRef(enum, value)
    cutting = words and words[0] in ("load", "lshift", "rshift")
    what = words.pop(0) if words and (cutting or words[0] in ("size", "exists")) else "offset"
    places = [place.strip() for place in " ".join(words).split("|")]
    if all(re.fullmatch(r"(?:union )?\w+\.[\w.\[\]]+", place) for place in places):
        (struct, path), *others = ((p[: p.index(".")], p[p.index(".") + 1 :]) for p in places)
        return BitsRef(struct, path, what, tuple(others)) if cutting else FieldRef(struct, path, what, tuple(others))
    return line.fail("{type.field}, {size …}, {exists …}, {type id|size|exists NAME} or {enum TYPE.NAME}", back=1)


def _raw(line: _Line) -> _Made:
    opcode = line.fits(line.number(), 0, 0xFF, "opcode")
    dst = line.fits(line.number(), 0, 10, "register")
    src = line.fits(line.number(), 0, 10, "register")
    off = line.fits(line.signed(), op.S16_MIN, op.S16_MAX, "offset")
    if opcode == op.LDDW:
        return _Made(opcode, dst, src, off, line.fits(line.signed(), op.S64_MIN, op.U64_MAX, "immediate"))
    return _Made(opcode, dst, src, off, line.imm32(bits=True))


_KEYWORDS = {
    "exit": lambda line: _Made(op.JMP | op.EXIT),
    "nospec": lambda line: _Made(NOSPEC),
    "goto": lambda line: _goto(op.JMP | op.JA, line),
    "gotol": lambda line: _goto(op.JMP32 | op.JA, line),
    "may_goto": lambda line: _goto(op.JMP | op.JCOND, line),
    "gotox": _gotox,
    "if": _if,
    "lock": _lock,
    "store_release": _store_release,
    ".insn": _raw,
}


# ---- whole texts -------------------------------------------------------------------------------------------------


class _Text:
    """A text being read, line by line."""

    def __init__(self, text: str, file: str) -> None:
        self.file = file
        self.lines = text.split("\n")  # as editors count them; str.splitlines knows more ends of line
        names = (re.match(r"\s*\.func\s+([\w.$]+)", line) for line in self.lines)
        self.names = frozenset(found[1] for found in names if found)
        self.instructions: list[Instruction] = []
        self.functions = [_Function("", 1, 0, SourceLine(file, 1))]
        self.maps: dict[str, MapSpec] = {}
        self.facts: dict[str, str] = {}

    def read(self) -> None:
        for number, text in enumerate(self.lines, 1):
            line = _Line(text, SourceLine(self.file, number))
            while line.kind() == "name" and line.at + 1 < len(line.tokens) and line.tokens[line.at + 1].text == ":":
                self.label(line)
            if not line.tokens or line.at == len(line.tokens):
                continue
            directive = line.peek()
            if directive.startswith(".") and directive != ".insn":
                self.directive(line)
            else:
                self.instruction(line)
            line.end()
        self.resolve()

    def label(self, line: _Line) -> None:
        name, function = line.next(), self.functions[-1]
        if name in function.labels:
            raise LabelError(f"label {name} is already at {function.labels[name][1]}", line=line.line)
        function.labels[name] = len(self.instructions), line.line
        line.need(":")

    def instruction(self, line: _Line) -> None:
        made = _statement(line, self.names)
        if made.label:
            self.functions[-1].jumps.append(_Jump(len(self.instructions), made.label, line.line))
        self.instructions.append(Instruction(*made[:6], line.line))

    def directive(self, line: _Line) -> None:
        word = line.next()
        if word in (".section", ".license"):
            if line.kind() != "string":
                line.fail("a text in double quotes")
            self.facts[word] = line.next()[1:-1]
        elif word == ".name":
            self.facts[word] = line.name("a name")
        elif word == ".func":
            self.function(line)
        elif word == ".map":
            self.map(line)
        else:
            line.fail(".func .insn .license .map .name or .section", back=1)

    def function(self, line: _Line) -> None:
        name = line.name("the function's name")
        if any(function.name == name for function in self.functions):
            raise LabelError(f"two functions are called {name}", line=line.line)
        entry = len(self.functions) == 1 and not self.instructions
        arguments = line.fits(line.number(), 0, 5, "arguments") if line.kind() == "number" else 1 if entry else 5
        if entry:
            self.functions.clear()
        self.functions.append(_Function(name, arguments, len(self.instructions), line.line))

    def map(self, line: _Line) -> None:
        name = line.name("the map's name")
        kind = line.name("the map's type").upper()
        if kind not in MapType.__members__:
            line.fail("a map type such as hash or ringbuf", back=1)
        if name in self.maps:
            raise LabelError(f"two maps are called {name}", line=line.line)
        sizes = {"key": 0, "value": 0, "max_entries": 0, "flags": 0}
        while line.kind() == "name":
            if line.peek() not in sizes:
                line.fail("key= value= max_entries= or flags=")
            size = line.next()
            line.need("=")
            sizes[size] = line.number()
        self.maps[name] = MapSpec(name, MapType[kind], **sizes)

    def resolve(self) -> None:
        """Labels → distances; every distance, written or computed, must lead to an instruction of the function."""
        code = self.instructions
        if not code:
            raise FallThroughError("there is no instruction", line=SourceLine(self.file, max(1, len(self.lines))))
        slots, slot = [], 0
        for i in code:
            slots.append(slot)
            slot += i.slots
        slots.append(slot)
        ends = [function.start for function in self.functions[1:]] + [len(code)]
        for function, end in zip(self.functions, ends):
            self.resolve_labels(function, slots)
            self.check_targets(function, end, slots)

    def resolve_labels(self, function: _Function, slots: list[int]) -> None:
        for index, label, line in function.jumps:
            if label not in function.labels:
                from difflib import get_close_matches

                near = get_close_matches(label, function.labels, 1)
                raise LabelError(
                    f"label {label} is nowhere in this function" + (f"; did you mean {near[0]}?" if near else ""),
                    line=line,
                )
            distance = slots[function.labels[label][0]] - slots[index] - 1
            i = self.instructions[index]
            if i.opcode == op.JMP32 | op.JA:
                self.instructions[index] = i.replace(imm=distance)
            elif op.S16_MIN <= distance <= op.S16_MAX:
                self.instructions[index] = Instruction(i.opcode, i.dst, i.src, distance, i.imm, i.reference, line)
            else:
                raise RangeError(
                    f"label {label} is {distance:+d} instructions far; 16 bits reach 32,767",
                    hint="use gotol",
                    line=line,
                )

    def check_targets(self, function: _Function, end: int, slots: list[int]) -> None:
        code = self.instructions[function.start : end]
        if not code:
            raise FallThroughError(f"function {function.name} has no instruction", line=function.line)
        starts = set(slots[function.start : end])
        for i, slot in zip(code, slots[function.start : end]):
            distance = jump_distance(i)
            if distance is None or slot + 1 + distance in starts:
                continue
            inside = slots[function.start] <= slot + 1 + distance < slots[end]
            where = "the middle of a 64-bit load" if inside else "outside its function"
            raise JumpTargetError(f"this jump leads {where} (slot {slot + 1 + distance})", line=i.line)
        if code[-1].opcode not in (op.JMP | op.EXIT, op.JMP | op.JA, op.JMP32 | op.JA, GOTOX):
            raise FallThroughError("control runs off the end: exit is missing", line=code[-1].line)


def parse(text: str, file: str = "<text>") -> list[Instruction]:
    """Text → instructions; calls between functions of the text are resolved, other references kept.

    Args:
        text: see the module's description.
        file: its name, for messages and for the instructions' lines.

    Raises:
        SyntaxTextError: with line, column and what was expected.
        RangeError, LabelError, JumpTargetError, FallThroughError, UnknownNameError: with the line.
    """
    reading = _Text(text, file)
    reading.read()
    starts = {function.name: function.start for function in reading.functions}
    return link(reading.instructions, starts)


def parse_program(text: str, file: str = "<text>") -> Program:
    """Text → a `Program`, ready for the loader; raises as `parse`.

    The section is "socket" and the name the first function's (or "main") where no directive says otherwise.
    """
    reading = _Text(text, file)
    reading.read()
    entry = reading.functions[0].name or reading.facts.get(".name", "main")
    functions = [Function(f.name or entry, f.start, f.arguments) for f in reading.functions]
    return Program(
        reading.facts.get(".name", entry),
        reading.facts.get(".section", "socket"),
        tuple(reading.instructions),
        tuple(functions),
        _used_maps(reading),
        reading.facts.get(".license", "GPL"),
    )


def _used_maps(reading: _Text) -> tuple[MapSpec, ...]:
    for i in reading.instructions:
        if isinstance(i.reference, (MapRef, MapValueRef)) and i.reference.name not in reading.maps:
            raise UnknownNameError(
                f"map {i.reference.name} is not declared", hint=f".map {i.reference.name} hash key=…", line=i.line
            )
    return tuple(reading.maps.values())


def link(instructions: list[Instruction], starts: dict[str, int]) -> list[Instruction]:
    """Resolve calls and addresses of functions of the same program to distances, as the instruction set has them.

    Args:
        instructions: all functions, one after the other.
        starts: index of each function's first instruction, by name.

    Raises:
        UnknownNameError: a function that is not in ``starts``.
    """
    slots, slot = [], 0
    for i in instructions:
        slots.append(slot)
        slot += i.slots
    out = []
    for i, at in zip(instructions, slots):
        if not isinstance(i.reference, FunctionRef):
            out.append(i)
            continue
        if i.reference.name not in starts:
            raise UnknownNameError(f"no function {i.reference.name!r} in this program", line=i.line)
        distance = slots[starts[i.reference.name]] - at - 1
        out.append(i.replace(imm=distance & op.U32_MAX if i.opcode == op.LDDW else distance))
    return out
