"""`Asm`: a program written as its own listing, one call one instruction.

Destination first, always. Forms that make more than one instruction say so in their docstring and are:
`Asm.load` (one per pointer crossed), `Asm.address` (two), `Asm.call`, `Asm.kfunc` and `Asm.call_function` with
arguments (at most two per argument), and the blocks `Asm.if_`, `Asm.else_`, `Asm.loop`.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from pylsm.asm import helpers
from pylsm.asm import opcodes as op
from pylsm.asm.check import check_registers
from pylsm.asm.errors import (
    AsmError,
    BlockError,
    CallError,
    CpuError,
    FieldError,
    LabelError,
    OperandError,
    ProgramSizeError,
    RangeError,
    RegisterError,
    SourceLine,
    StackError,
    UnknownNameError,
    UnreachableError,
    caller_line,
)
from pylsm.asm.instruction import Instruction
from pylsm.asm.maps import Layout, MapSpec
from pylsm.asm.operands import R0, R1, R2, R3, R4, R5, R10, Address, Label, Mem, Register, View
from pylsm.asm.program import Function, Program
from pylsm.asm.references import (
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
from pylsm.asm.typed import Field, Typed, bits_of
from pylsm.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import TypeAlias

    from pylsm.btf import Btf

__all__ = ["Argument", "Asm"]

_LEVELS = {"v1": 1, "v2": 2, "v3": 3, "v4": 4}

Source: TypeAlias = "Register | int"
#: What a call takes: a register, a constant, a map, an address (a slot, a view), a function's name, or None for
#: "already in place".
Argument: TypeAlias = "Register | int | MapSpec | View | Address | Field | str | None"


class _Body:
    """One function while it is written."""

    def __init__(self, name: str, arguments: int, line: SourceLine) -> None:
        self.name = name
        self.arguments = arguments
        self.line = line
        self.instructions: list[Instruction] = []
        self.jumps: dict[int, Label] = {}
        self.labels: list[Label] = []
        self.last_bound: list[Label] = []
        self.calls: dict[int, int] = {}
        self.stack = 0
        self.slots: list[tuple[str, int]] = []
        self.closed_if: _If | None = None

    def reachable_end(self, ignored: Label) -> bool:
        """Whether control comes to where the next instruction goes, by falling through or to a label but ``ignored``.

        The kernel refuses a goto that nothing leads to, so a block that ends in ``exit`` must not get one.
        """
        end = len(self.instructions)
        if not end or self.instructions[-1].opcode not in (op.JMP | op.EXIT, op.JMP | op.JA, op.JMP32 | op.JA):
            return True
        return any(label.index == end and label is not ignored for label in self.last_bound)

    def place(self, label: Label) -> None:
        """Put ``label`` where the next instruction goes."""
        label.index = len(self.instructions)
        if self.last_bound and self.last_bound[0].index != label.index:
            self.last_bound.clear()
        self.last_bound.append(label)


class Asm:
    """Builds one `Program`.

    Args:
        section: what the program is, in libbpf's section syntax ("lsm/file_open", "raw_tp/sys_exit", "socket").
        name: its name in the kernel; by default the last part of the section.
        license: "GPL" unlocks GPL-only helpers.
        cpu: "v1" to "v4": instructions above it are refused (v2: ``<`` and ``<=`` jumps; v3: 32-bit jumps and fetching
            atomics; v4: sign extension, signed division, bswap, gotol, may_goto, acquire and release).
        types: shapes of kernel types for `typed` (from `pylsm.btf.declare` or a kernel's BTF).

    Every method that emits raises `RangeError`, `OperandError` or `CpuError` at the line that wrote it.
    """

    def __init__(
        self,
        section: str,
        *,
        name: str = "",
        license: str = "GPL",
        cpu: str = "v3",
        types: Btf | None = None,
    ) -> None:
        if cpu not in _LEVELS:
            raise CpuError(f"cpu {cpu!r} is none of {', '.join(_LEVELS)}")
        self.section = section
        self.name = name or section.rpartition("/")[2]
        self._license = license
        self._cpu = cpu
        self._types = types
        self._body = _Body(self.name, 1, caller_line())
        self._bodies = [self._body]
        self._maps: dict[str, MapSpec] = {}
        self._records: list[Layout] = []
        self._open_blocks: list[_Block] = []

    # ---- emitting ------------------------------------------------------------------------------------------------

    def emit(
        self,
        opcode: int,
        dst: Register | None = None,
        src: Register | int | None = None,
        off: int = 0,
        imm: int = 0,
        *,
        reference: Reference | None = None,
        target: Label | None = None,
    ) -> Instruction:
        """Emit one instruction by its fields: what every other method ends in.

        Args:
            opcode: the opcode byte.
            dst, src: registers; ``src`` may be the number of a pseudo source.
            off, imm: as in `Instruction`; ``off`` is filled in later for a jump with a ``target``.
            reference: what the loader fills in.
            target: the label a jump leads to.
        """
        body = self._body
        line = caller_line()
        if dst is None:
            into = 0
        elif isinstance(dst, Register):
            into = dst.number
            if into == 10 and opcode & 7 in _WRITING_CLASSES:
                raise RegisterError("r10 is the frame pointer and read-only", line=line)
        else:
            raise OperandError(f"{dst!r} is no register", line=line)
        made = Instruction(
            opcode, into, src.number if isinstance(src, Register) else src or 0, off, imm, reference, line
        )
        if target is not None:
            if target.body is not body:
                raise LabelError(f"{target} belongs to another function", line=made.line)
            body.jumps[len(body.instructions)] = target
        body.instructions.append(made)
        return made

    def _need(self, level: int, what: str) -> None:
        if _LEVELS[self._cpu] < level:
            raise CpuError(f"{what} needs cpu v{level}; this program is for {self._cpu}", line=caller_line())

    # ---- arithmetic ----------------------------------------------------------------------------------------------

    def _alu(self, cls: int, operation: int, dst: Register, src: Source, off: int = 0) -> None:
        if isinstance(src, Register):
            self.emit(cls | operation | op.X, dst, src, off)
        elif isinstance(src, int):
            self.emit(cls | operation | op.K, dst, None, off, self._imm32(src, cls == op.ALU))
        else:
            raise OperandError(f"{src!r} is neither a register nor an integer", line=caller_line())

    def _imm32(self, value: int, unsigned: bool) -> int:
        """A 32-bit immediate; 32-bit operations also take it unsigned, since the bits are all that counts there."""
        if unsigned and op.S32_MAX < value <= op.U32_MAX:
            return value - (1 << 32)
        if not op.S32_MIN <= value <= op.S32_MAX:
            raise RangeError(
                f"immediate {value:#x} does not fit 32 signed bits",
                hint="load it with lddw and use the register",
                line=caller_line(),
            )
        return value

    def mov(self, dst: Register, src: Source) -> None:
        """``dst = src``."""
        self._alu(op.ALU64, op.MOV, dst, src)

    def add(self, dst: Register, src: Source) -> None:
        """``dst += src``."""
        self._alu(op.ALU64, op.ADD, dst, src)

    def sub(self, dst: Register, src: Source) -> None:
        """``dst -= src``."""
        self._alu(op.ALU64, op.SUB, dst, src)

    def mul(self, dst: Register, src: Source) -> None:
        """``dst *= src``."""
        self._alu(op.ALU64, op.MUL, dst, src)

    def div(self, dst: Register, src: Source) -> None:
        """``dst /= src``, unsigned; 0 when ``src`` is 0."""
        self._alu(op.ALU64, op.DIV, dst, src)

    def mod(self, dst: Register, src: Source) -> None:
        """``dst %= src``, unsigned; unchanged when ``src`` is 0."""
        self._alu(op.ALU64, op.MOD, dst, src)

    def or_(self, dst: Register, src: Source) -> None:
        """``dst |= src``."""
        self._alu(op.ALU64, op.OR, dst, src)

    def and_(self, dst: Register, src: Source) -> None:
        """``dst &= src``."""
        self._alu(op.ALU64, op.AND, dst, src)

    def xor(self, dst: Register, src: Source) -> None:
        """``dst ^= src``."""
        self._alu(op.ALU64, op.XOR, dst, src)

    def lsh(self, dst: Register, src: Source) -> None:
        """``dst <<= src & 63``."""
        self._shift(op.ALU64, op.LSH, dst, src)

    def rsh(self, dst: Register, src: Source) -> None:
        """``dst >>= src & 63``, logical."""
        self._shift(op.ALU64, op.RSH, dst, src)

    def arsh(self, dst: Register, src: Source) -> None:
        """``dst s>>= src & 63``, arithmetic."""
        self._shift(op.ALU64, op.ARSH, dst, src)

    def _shift(self, cls: int, operation: int, dst: Register, src: Source) -> None:
        bits = 64 if cls == op.ALU64 else 32
        if isinstance(src, int) and not 0 <= src < bits:
            raise RangeError(f"a shift by {src} is outside 0..{bits - 1}", line=caller_line())
        self._alu(cls, operation, dst, src)

    def neg(self, dst: Register) -> None:
        """``dst = -dst``."""
        self._alu(op.ALU64, op.NEG, dst, 0)

    def sdiv(self, dst: Register, src: Source) -> None:
        """``dst s/= src``, signed, towards zero."""
        self._need(4, "signed division")
        self._alu(op.ALU64, op.DIV, dst, src, 1)

    def smod(self, dst: Register, src: Source) -> None:
        """``dst s%= src``, signed, with the sign of ``dst``."""
        self._need(4, "signed modulo")
        self._alu(op.ALU64, op.MOD, dst, src, 1)

    def movsx(self, dst: Register, src: Register, bits: int) -> None:
        """``dst = (s8|s16|s32) src``, sign-extended to 64 bits."""
        self._movsx(op.ALU64, dst, src, bits, (8, 16, 32))

    def movsx32(self, dst: Register, src: Register, bits: int) -> None:
        """``w_dst = (s8|s16) w_src``, sign-extended to 32 bits, upper half zeroed."""
        self._movsx(op.ALU, dst, src, bits, (8, 16))

    def _movsx(self, cls: int, dst: Register, src: Register, bits: int, allowed: tuple[int, ...]) -> None:
        self._need(4, "movsx")
        if bits not in allowed or not isinstance(src, Register):
            raise OperandError(f"movsx extends a register from one of {allowed} bits, not {bits}", line=caller_line())
        self._alu(cls, op.MOV, dst, src, bits)

    def mov32(self, dst: Register, src: Source) -> None:
        """``w_dst = w_src``, upper half zeroed (as in all 32-bit arithmetic)."""
        self._alu(op.ALU, op.MOV, dst, src)

    def add32(self, dst: Register, src: Source) -> None:
        """``w_dst += w_src``."""
        self._alu(op.ALU, op.ADD, dst, src)

    def sub32(self, dst: Register, src: Source) -> None:
        """``w_dst -= w_src``."""
        self._alu(op.ALU, op.SUB, dst, src)

    def mul32(self, dst: Register, src: Source) -> None:
        """``w_dst *= w_src``."""
        self._alu(op.ALU, op.MUL, dst, src)

    def div32(self, dst: Register, src: Source) -> None:
        """``w_dst /= w_src``, unsigned."""
        self._alu(op.ALU, op.DIV, dst, src)

    def mod32(self, dst: Register, src: Source) -> None:
        """``w_dst %= w_src``, unsigned."""
        self._alu(op.ALU, op.MOD, dst, src)

    def or32(self, dst: Register, src: Source) -> None:
        """``w_dst |= w_src``."""
        self._alu(op.ALU, op.OR, dst, src)

    def and32(self, dst: Register, src: Source) -> None:
        """``w_dst &= w_src``."""
        self._alu(op.ALU, op.AND, dst, src)

    def xor32(self, dst: Register, src: Source) -> None:
        """``w_dst ^= w_src``."""
        self._alu(op.ALU, op.XOR, dst, src)

    def lsh32(self, dst: Register, src: Source) -> None:
        """``w_dst <<= w_src & 31``."""
        self._shift(op.ALU, op.LSH, dst, src)

    def rsh32(self, dst: Register, src: Source) -> None:
        """``w_dst >>= w_src & 31``, logical."""
        self._shift(op.ALU, op.RSH, dst, src)

    def arsh32(self, dst: Register, src: Source) -> None:
        """``w_dst s>>= w_src & 31``, arithmetic."""
        self._shift(op.ALU, op.ARSH, dst, src)

    def neg32(self, dst: Register) -> None:
        """``w_dst = -w_dst``."""
        self._alu(op.ALU, op.NEG, dst, 0)

    def sdiv32(self, dst: Register, src: Source) -> None:
        """``w_dst s/= w_src``."""
        self._need(4, "signed division")
        self._alu(op.ALU, op.DIV, dst, src, 1)

    def smod32(self, dst: Register, src: Source) -> None:
        """``w_dst s%= w_src``."""
        self._need(4, "signed modulo")
        self._alu(op.ALU, op.MOD, dst, src, 1)

    def le(self, dst: Register, bits: int) -> None:
        """Host to little endian (and back) of the low 16, 32 or 64 bits; zero above."""
        self._swap(op.ALU | op.TO_LE, dst, bits)

    def be(self, dst: Register, bits: int) -> None:
        """Host to big endian (and back) of the low 16, 32 or 64 bits; zero above."""
        self._swap(op.ALU | op.TO_BE, dst, bits)

    def bswap(self, dst: Register, bits: int) -> None:
        """Swap the bytes of the low 16, 32 or 64 bits, whatever the host; zero above."""
        self._need(4, "bswap")
        self._swap(op.ALU64, dst, bits)

    def _swap(self, opcode: int, dst: Register, bits: int) -> None:
        if bits not in (16, 32, 64):
            raise OperandError(f"a byte swap is of 16, 32 or 64 bits, not {bits}", line=caller_line())
        self.emit(opcode | op.END, dst, imm=bits)

    def addr_space_cast(self, dst: Register, src: Register, to: int, from_: int) -> None:
        """``dst = addr_space_cast(src, to, from)``: between an arena's pointers (1) and kernel pointers (0)."""
        self._need(4, "addr_space_cast")
        if {to, from_} != {0, 1}:
            raise OperandError(f"addr_space_cast is between spaces 0 and 1, not {from_} and {to}", line=caller_line())
        self.emit(op.ALU64 | op.MOV | op.X, dst, src, op.ADDR_SPACE_CAST, to << 16 | from_)

    # ---- loads and stores ----------------------------------------------------------------------------------------

    def ldx(self, dst: Register, mem: Mem | Field) -> None:
        """``dst = *(u32 *)(base + off)``: zero-extended, or sign-extended from a signed width (cpu v4).

        A typed field that needs more than one load is refused; `load` follows pointers.
        """
        if isinstance(mem, Field):
            if mem._arrows:
                raise OperandError(
                    f"{mem!r} takes {len(mem._arrows) + 1} loads", hint="Asm.load follows pointers", line=caller_line()
                )
            mem = mem._mem(mem._register)
        mode = op.MEM
        if mem.signed:
            self._need(4, "a sign-extending load")
            mode = op.MEMSX
        self.emit(op.LDX | mode | op.SIZE_OF_BYTES[mem.size], dst, mem.base, mem.off, reference=mem.reference)

    def load(self, dst: Register, field: Field, *, signed: bool = False) -> Typed | None:
        """Load a typed field, one ``ldx`` per pointer crossed, all through ``dst``.

        A bit field takes two more instructions: ``lsh`` and ``rsh`` cut it out of the load around it.

        Args:
            dst: the destination and only scratch register.
            field: for example ``file.f_inode.i_sb.s_dev`` (three instructions).
            signed: keep the sign of a field declared signed: by a sign-extending load (cpu v4), or by ``lsh`` and
                ``arsh`` behind the load below v4 and for bit fields. Otherwise, zeros are above the field.

        Returns:
            ``dst`` as a typed pointer when the field points to a struct, else None.
        """
        base = field._register
        for reference in field._arrows:
            self.emit(op.LDX | op.MEM | op.DW, dst, base, reference=reference)
            base = dst
        member = field._found
        extend = signed and member.signed and (member.is_bitfield or member.size < 8)
        if member.is_bitfield or (extend and _LEVELS[self._cpu] < 4):
            self._load_bits(dst, base, field, extend)
            return None
        mem = field._mem(base)
        mem.signed = extend
        self.ldx(dst, mem)
        pointee = field._pointee()
        return Typed(dst, pointee, field._types) if pointee is not None else None

    def _load_bits(self, dst: Register, base: Register, field: Field, extend: bool) -> None:
        width = op.SIZE_OF_BYTES[bits_of(field._found).size]
        self.emit(op.LDX | op.MEM | width, dst, base, reference=field._bits("load"))
        self.emit(op.ALU64 | op.LSH, dst, reference=field._bits("lshift"))
        self.emit(op.ALU64 | (op.ARSH if extend else op.RSH), dst, reference=field._bits("rshift"))

    def probe_load(self, dst: Register, field: Field, slot: View) -> Typed | None:
        """`load` through ``bpf_probe_read_kernel``, for pointers the verifier does not trust.

        Six instructions for each pointer crossed and for the field itself: the address to r3, ``slot`` to r1, the size
        to r2, the call, and ``dst`` from ``slot``. What cannot be read is 0.

        Args:
            dst: the destination; r1-r5 are clobbered by the calls, so a pointer to be kept belongs in r6-r9.
            field: as in `load`, but no bit field.
            slot: at least 8 bytes of stack.
        """
        base = field._register
        if len(slot) < 8:
            raise OperandError(f"{slot!r} is shorter than 8 bytes", line=caller_line())
        steps = [(reference, 8) for reference in field._arrows]
        for reference, size in [*steps, (field._reference, field._mem(base).size)]:
            self.address(_REGISTERS[3], Address(base, 0, reference))
            self.address(_REGISTERS[1], slot)
            self.mov(_REGISTERS[2], size)
            self.call("probe_read_kernel")
            self.ldx(dst, Mem(slot._address.base, slot._address.off, size))
            base = dst
        pointee = field._pointee()
        return Typed(dst, pointee, field._types) if pointee is not None else None

    def stx(self, mem: Mem, src: Register) -> None:
        """``*(u32 *)(base + off) = src``."""
        if not isinstance(src, Register):
            raise OperandError(f"{src!r} is no register; st stores constants", line=caller_line())
        self.emit(op.STX | op.MEM | op.SIZE_OF_BYTES[mem.size], mem.base, src, mem.off, reference=mem.reference)

    def st(self, mem: Mem, value: int) -> None:
        """``*(u32 *)(base + off) = value``; a 64-bit store sign-extends its 32-bit constant."""
        bits = mem.size * 8
        if not -(1 << bits - 1) <= value < 1 << bits:
            raise RangeError(f"{value:#x} does not fit the {bits}-bit {mem!r}", line=caller_line())
        imm = self._imm32(value, mem.size == 4)
        self.emit(op.ST | op.MEM | op.SIZE_OF_BYTES[mem.size], mem.base, None, mem.off, imm, reference=mem.reference)

    def address(self, dst: Register, where: View | Address | Field) -> Typed | None:
        """``dst = base; dst += off`` (two instructions, or one when ``off`` is a constant 0).

        Args:
            where: a slot, a view, ``R10 - 8``, or a typed field whose pointers are followed first.

        Returns:
            ``dst`` as a typed pointer when ``where`` is an embedded struct of a typed pointer, else None.
        """
        typed = None
        if isinstance(where, Field):
            base = where._register
            for reference in where._arrows:
                self.emit(op.LDX | op.MEM | op.DW, dst, base, reference=reference)
                base = dst
            target = where._types.resolve(where._found.type_id)
            if where._types.type(target).kind.name in ("STRUCT", "UNION"):
                typed = Typed(dst, target, where._types)
            where = where._address(base)
        elif isinstance(where, View):
            where = where._address
        if where.base is not dst:
            self.mov(dst, where.base)
        if where.off or where.reference:
            self.emit(op.ALU64 | op.ADD | op.K, dst, imm=where.off, reference=where.reference)
        return typed

    def lddw(self, dst: Register, value: int) -> None:
        """``dst = value ll``: any 64 bits, signed or unsigned (two slots)."""
        if not isinstance(value, int):
            raise OperandError(f"{value!r} is no integer", line=caller_line())
        self.emit(op.LDDW, dst, imm=value)

    def ld_map(self, dst: Register, spec: MapSpec) -> None:
        """``dst = map[NAME]``: the map itself, for helpers (two slots)."""
        self.emit(op.LDDW, dst, op.PSEUDO_MAP_FD, reference=MapRef(self._use(spec).name))

    def ld_map_value(self, dst: Register, spec: MapSpec, offset: int = 0) -> None:
        """``dst = &map[NAME][0] + offset``: direct access to a single-entry array map (two slots)."""
        if not 0 <= offset < spec.value_size:
            raise RangeError(
                f"offset {offset} lies outside the {spec.value_size} bytes of {spec.name}", line=caller_line()
            )
        self.emit(op.LDDW, dst, op.PSEUDO_MAP_VALUE, reference=MapValueRef(self._use(spec).name, offset))

    def ld_ksym(self, dst: Register, name: str) -> None:
        """``dst = &NAME``: a kernel variable by its BTF id (two slots)."""
        self.emit(op.LDDW, dst, op.PSEUDO_BTF_ID, reference=KsymRef(name))

    def ld_function(self, dst: Register, name: str) -> None:
        """``dst = &NAME``: a function of this program, as a callback (two slots)."""
        self.emit(op.LDDW, dst, op.PSEUDO_FUNC, reference=FunctionRef(name))

    def ld_offset(self, dst: Register, struct: str, path: str, *alternatives: tuple[str, str]) -> None:
        """``dst = offset of a kernel field`` in bytes, known when loaded.

        Args:
            struct, path: the field: "file", "f_path.dentry".
            alternatives: (struct, path) of the same field in other kernels, tried in order.
        """
        self.emit(op.ALU64 | op.MOV | op.K, dst, reference=FieldRef(struct, path, "offset", alternatives))

    def ld_field_size(self, dst: Register, struct: str, path: str, *alternatives: tuple[str, str]) -> None:
        """``dst = size of a kernel field`` in bytes, known when loaded; arguments as in `ld_offset`."""
        self.emit(op.ALU64 | op.MOV | op.K, dst, reference=FieldRef(struct, path, "size", alternatives))

    def ld_field_exists(self, dst: Register, struct: str, path: str) -> None:
        """``dst = 1`` when the kernel has the field, else 0; the verifier then drops the dead branch."""
        self.emit(op.ALU64 | op.MOV | op.K, dst, reference=FieldRef(struct, path, "exists"))

    def ld_type(self, dst: Register, name: str, what: str) -> None:
        """``dst =`` "id", "size" or "exists" of a kernel type, known when loaded."""
        if what not in ("id", "size", "exists"):
            raise OperandError(f"{what!r} is none of id, size, exists", line=caller_line())
        self.emit(op.ALU64 | op.MOV | op.K, dst, reference=TypeRef(name, what))

    def ld_enum(self, dst: Register, enum: str, value: str) -> None:
        """``dst =`` the value of a kernel enumerator, known when loaded."""
        self.emit(op.ALU64 | op.MOV | op.K, dst, reference=EnumRef(enum, value))

    def ld_abs(self, bits: int, offset: int) -> None:
        """``r0 = *(u8|u16|u32 *)skb[offset]``: legacy packet load; r6 must hold the context; clobbers r1-r5."""
        self.emit(op.LD | op.ABS | self._packet(bits), imm=offset)

    def ld_ind(self, bits: int, index: Register, offset: int = 0) -> None:
        """``r0 = *(u8|u16|u32 *)skb[index + offset]``; see `ld_abs`."""
        self.emit(op.LD | op.IND | self._packet(bits), None, index, imm=offset)

    def _packet(self, bits: int) -> int:
        if bits not in (8, 16, 32):
            raise OperandError(f"a packet load is of 8, 16 or 32 bits, not {bits}", line=caller_line())
        return op.SIZE_OF_BYTES[bits // 8]

    # ---- atomics -------------------------------------------------------------------------------------------------

    def _atomic(self, mem: Mem, src: Register, operation: int) -> None:
        if mem.size not in (4, 8):
            raise OperandError(f"an atomic is of 32 or 64 bits, not of {mem.size * 8}", line=caller_line())
        if operation != op.ADD:
            self._need(3, "an atomic other than a plain add")
        if operation & op.FETCH and operation != op.CMPXCHG and src.number == 10:
            raise RegisterError("r10 is the frame pointer and read-only", line=caller_line())
        self.emit(
            op.STX | op.ATOMIC | op.SIZE_OF_BYTES[mem.size],
            mem.base,
            src,
            mem.off,
            operation,
            reference=mem.reference,
        )

    def atomic_add(self, mem: Mem, src: Register, *, fetch: bool = False) -> None:
        """``lock *mem += src``; with ``fetch``, ``src`` gets the old value."""
        self._atomic(mem, src, op.ADD | fetch)

    def atomic_or(self, mem: Mem, src: Register, *, fetch: bool = False) -> None:
        """``lock *mem |= src``; with ``fetch``, ``src`` gets the old value."""
        self._atomic(mem, src, op.OR | fetch)

    def atomic_and(self, mem: Mem, src: Register, *, fetch: bool = False) -> None:
        """``lock *mem &= src``; with ``fetch``, ``src`` gets the old value."""
        self._atomic(mem, src, op.AND | fetch)

    def atomic_xor(self, mem: Mem, src: Register, *, fetch: bool = False) -> None:
        """``lock *mem ^= src``; with ``fetch``, ``src`` gets the old value."""
        self._atomic(mem, src, op.XOR | fetch)

    def xchg(self, mem: Mem, src: Register) -> None:
        """``src = atomic_xchg(mem, src)``."""
        self._atomic(mem, src, op.XCHG)

    def cmpxchg(self, mem: Mem, src: Register) -> None:
        """``r0 = atomic_cmpxchg(mem, r0, src)``."""
        self._atomic(mem, src, op.CMPXCHG)

    def load_acquire(self, dst: Register, mem: Mem) -> None:
        """``dst = load_acquire(mem)``, of any width."""
        self._need(4, "load_acquire")
        if dst.number == 10:
            raise RegisterError("r10 is the frame pointer and read-only", line=caller_line())
        opcode = op.STX | op.ATOMIC | op.SIZE_OF_BYTES[mem.size]
        self.emit(opcode, dst, mem.base, mem.off, op.LOAD_ACQ, reference=mem.reference)

    def store_release(self, mem: Mem, src: Register) -> None:
        """``store_release(mem, src)``, of any width."""
        self._need(4, "store_release")
        opcode = op.STX | op.ATOMIC | op.SIZE_OF_BYTES[mem.size]
        self.emit(opcode, mem.base, src, mem.off, op.STORE_REL, reference=mem.reference)

    # ---- labels and jumps ----------------------------------------------------------------------------------------

    def label(self, name: str = "") -> Label:
        """A new label of the current function, to be placed with `bind`."""
        made = Label(name, self._body, caller_line())
        self._body.labels.append(made)
        return made

    def bind(self, label: Label) -> Label:
        """Place a label here.

        Raises:
            LabelError: it is placed already, or belongs to another function.
        """
        if label.body is not self._body:
            raise LabelError(f"{label} belongs to another function", line=caller_line())
        if label.index >= 0:
            raise LabelError(f"{label} is bound twice", line=caller_line())
        self._body.place(label)
        return label

    def here(self, name: str = "") -> Label:
        """A new label, placed here: the target of a backward jump."""
        return self.bind(self.label(name))

    def ja(self, target: Label) -> None:
        """``goto target``; becomes ``gotol`` when 16 bits do not reach (cpu v4)."""
        self.emit(op.JMP | op.JA, target=target)

    def gotol(self, target: Label) -> None:
        """``gotol target``: 32-bit distance."""
        self._need(4, "gotol")
        self.emit(op.JMP32 | op.JA, target=target)

    def may_goto(self, target: Label) -> None:
        """``may_goto target``: taken once the kernel's loop budget is used up."""
        self._need(4, "may_goto")
        self.emit(op.JMP | op.JCOND, target=target)

    def jump(self, dst: Register, condition: str, src: Source, target: Label) -> None:
        """``if dst CONDITION src goto target``, 64 bits.

        Args:
            condition: one of ``== != > >= < <= s> s>= s< s<= &`` (the kernel's own spelling).
        """
        self._jump(op.JMP, self._condition(condition), dst, src, target)

    def jump32(self, dst: Register, condition: str, src: Source, target: Label) -> None:
        """``if w_dst CONDITION w_src goto target``, the low 32 bits."""
        self._jump(op.JMP32, self._condition(condition), dst, src, target)

    def _condition(self, condition: str) -> int:
        try:
            return op.CONDITIONS[condition]
        except KeyError:
            raise OperandError(
                f"condition {condition!r} is none of {' '.join(op.CONDITIONS)}", line=caller_line()
            ) from None

    def _jump(self, cls: int, operation: int, dst: Register, src: Source, target: Label) -> None:
        if operation in (op.JLT, op.JLE, op.JSLT, op.JSLE):
            self._need(2, f"{op.JUMP_NAMES[operation]}")
        if cls == op.JMP32:
            self._need(3, "a 32-bit jump")
        if isinstance(src, Register):
            self.emit(cls | operation | op.X, dst, src, target=target)
        elif isinstance(src, int):
            self.emit(cls | operation | op.K, dst, imm=self._imm32(src, cls == op.JMP32), target=target)
        else:
            raise OperandError(f"{src!r} is neither a register nor an integer", line=caller_line())

    def jeq(self, dst: Register, src: Source, target: Label) -> None:
        """``if dst == src goto target``."""
        self._jump(op.JMP, op.JEQ, dst, src, target)

    def jne(self, dst: Register, src: Source, target: Label) -> None:
        """``if dst != src goto target``."""
        self._jump(op.JMP, op.JNE, dst, src, target)

    def jgt(self, dst: Register, src: Source, target: Label) -> None:
        """``if dst > src goto target``, unsigned."""
        self._jump(op.JMP, op.JGT, dst, src, target)

    def jge(self, dst: Register, src: Source, target: Label) -> None:
        """``if dst >= src goto target``, unsigned."""
        self._jump(op.JMP, op.JGE, dst, src, target)

    def jlt(self, dst: Register, src: Source, target: Label) -> None:
        """``if dst < src goto target``, unsigned."""
        self._jump(op.JMP, op.JLT, dst, src, target)

    def jle(self, dst: Register, src: Source, target: Label) -> None:
        """``if dst <= src goto target``, unsigned."""
        self._jump(op.JMP, op.JLE, dst, src, target)

    def jset(self, dst: Register, src: Source, target: Label) -> None:
        """``if dst & src goto target``."""
        self._jump(op.JMP, op.JSET, dst, src, target)

    def jsgt(self, dst: Register, src: Source, target: Label) -> None:
        """``if dst s> src goto target``."""
        self._jump(op.JMP, op.JSGT, dst, src, target)

    def jsge(self, dst: Register, src: Source, target: Label) -> None:
        """``if dst s>= src goto target``."""
        self._jump(op.JMP, op.JSGE, dst, src, target)

    def jslt(self, dst: Register, src: Source, target: Label) -> None:
        """``if dst s< src goto target``."""
        self._jump(op.JMP, op.JSLT, dst, src, target)

    def jsle(self, dst: Register, src: Source, target: Label) -> None:
        """``if dst s<= src goto target``."""
        self._jump(op.JMP, op.JSLE, dst, src, target)

    def exit_(self) -> None:
        """``exit``: return r0."""
        self.emit(op.JMP | op.EXIT)

    # ---- blocks --------------------------------------------------------------------------------------------------

    def if_(self, dst: Register, condition: str, src: Source) -> _If:
        """``with a.if_(R0, "==", 0):`` the block runs when the condition holds.

        One instruction: the inverse jump over the block (``&`` has no inverse and takes two).
        """
        return _If(self, op.JMP, self._condition(condition), dst, src)

    def if32(self, dst: Register, condition: str, src: Source) -> _If:
        """`if_` on the low 32 bits."""
        return _If(self, op.JMP32, self._condition(condition), dst, src)

    def else_(self) -> _Else:
        """``with a.else_():`` directly after an ``if_`` block; one ``goto`` at the end of that block."""
        previous = self._body.closed_if
        if previous is None or previous.end_index != len(self._body.instructions):
            raise BlockError("else_ does not follow an if_ block", line=caller_line())
        return _Else(self, previous)

    def loop(self, counter: Register, count: int) -> Loop:
        """``with a.loop(R6, 10) as loop:`` the block runs with r6 = 0 … 9.

        Three instructions: ``counter = 0`` before, ``counter += 1`` and a jump back after. The counter must survive
        the block: use r6-r9 when the block calls. ``loop.break_`` and ``loop.continue_`` are labels to jump to.
        """
        if count < 1:
            raise RangeError(f"a loop of {count} rounds", line=caller_line())
        return Loop(self, counter, count)

    # ---- stack, records, types -----------------------------------------------------------------------------------

    def stack(self, layout: int | Layout, name: str = "") -> View:
        """A slot of the stack, aligned to 8 bytes: plain bytes by size, or a record by layout.

        Raises:
            StackError: more than 512 bytes in this function; lists its slots.
        """
        body = self._body
        size = layout if isinstance(layout, int) else layout.size
        label = name or ("bytes" if isinstance(layout, int) else layout.name)
        if size < 1:
            raise StackError(f"slot {label} of {size} bytes", line=caller_line())
        body.slots.append((label, size))
        body.stack += size + 7 & ~7
        if body.stack > op.MAX_STACK:
            listing = ", ".join(f"{name} {size}" for name, size in body.slots)
            raise StackError(
                f"the stack of {body.name} needs {body.stack} bytes; {op.MAX_STACK} are allowed: {listing}",
                hint="keep large data in a per-CPU array map",
                line=caller_line(),
            )
        return View(R10, -body.stack, layout, label)

    def view(self, register: Register, layout: Layout, offset: int = 0) -> View:
        """A record at ``register + offset``; it is also described in the program's BTF."""
        if layout not in self._records:
            self._records.append(layout)
        return View(register, offset, layout)

    def typed(self, register: Register, struct: str) -> Typed:
        """``register`` as a pointer to a kernel type: ``file = a.typed(R7, "file")``.

        Raises:
            FieldError: the program was made without ``types``, or they lack the type.
        """
        if self._types is None:
            raise FieldError(f"typed({struct!r}) needs Asm(types=…)", line=caller_line())
        from pylsm.btf import BtfNotFound, Kind

        union = struct.startswith("union ")
        name = struct[6:] if union else struct[7:] if struct.startswith("struct ") else struct
        try:
            found = self._types.find(name, Kind.UNION if union else Kind.STRUCT)
        except BtfNotFound as error:
            raise FieldError(str(error), line=caller_line()) from None
        return Typed(register, found, self._types)

    def _use(self, spec: MapSpec) -> MapSpec:
        known = self._maps.setdefault(spec.name, spec)
        if known is not spec:
            raise OperandError(f"two maps are called {spec.name}", line=caller_line())
        return spec

    # ---- calls ---------------------------------------------------------------------------------------------------

    def call(self, helper: str | int, *arguments: Argument) -> None:
        """Call a helper by name ("map_lookup_elem") or number; r0 is its result, r1-r5 are clobbered.

        Given arguments are moved to r1, r2, … in order (None: already in place), each at most two instructions; without
        any, they are expected in place.

        Raises:
            UnknownNameError: no such helper.
            CallError: too few or too many arguments, or one of the wrong kind.
        """
        if isinstance(helper, int):
            found = helpers.by_number(helper)
            number = helper
        else:
            found = helpers.by_name(helper)
            number = found.number
        if arguments and found is not None:
            self._check_prototype(found, arguments)
        self._arguments(arguments)
        if found is None:
            self._body.calls[len(self._body.instructions)] = len(arguments)
        self.emit(op.JMP | op.CALL, imm=number)

    def kfunc(self, name: str, *arguments: Argument) -> None:
        """Call a kernel function by name; arguments as in `call`. The loader finds its BTF id."""
        self._arguments(arguments)
        self._body.calls[len(self._body.instructions)] = len(arguments)
        self.emit(op.JMP | op.CALL, src=op.CALL_KFUNC, reference=KfuncRef(name))

    def call_function(self, name: str, *arguments: Argument) -> None:
        """Call a function of this program (see `function`), which may be written later; arguments as in `call`."""
        self._arguments(arguments)
        self._body.calls[len(self._body.instructions)] = len(arguments)
        self.emit(op.JMP | op.CALL, src=op.CALL_FUNCTION, reference=FunctionRef(name))

    def function(self, name: str, arguments: int) -> _FunctionBlock:
        """``with a.function("walk", 2):`` a subprogram or callback; it has its own stack and labels.

        Args:
            arguments: how many of r1-r5 it is called with (0-5).
        """
        if not 0 <= arguments <= 5:
            raise CallError(f"a function takes 0 to 5 arguments, not {arguments}", line=caller_line())
        if any(body.name == name for body in self._bodies):
            raise CallError(f"two functions are called {name}", line=caller_line())
        return _FunctionBlock(self, _Body(name, arguments, caller_line()))

    def _check_prototype(self, helper: helpers.Helper, arguments: Sequence[Argument]) -> None:
        fixed = helper.arguments.rstrip("*")
        variadic = fixed != helper.arguments
        if len(arguments) < len(fixed) or (len(arguments) > len(fixed) and not variadic):
            raise CallError(
                f"{helper.name} takes {'at least ' if variadic else ''}{len(fixed)} arguments, not {len(arguments)}",
                line=caller_line(),
            )
        for position, (kind, argument) in enumerate(zip(fixed, arguments), 1):
            wrong = (
                (kind == "m" and not isinstance(argument, (MapSpec, Register, type(None))))
                or (kind != "m" and isinstance(argument, MapSpec))
                or (kind == "s" and isinstance(argument, (View, Address, Field, str)))
                or (kind == "p" and (isinstance(argument, str) or (isinstance(argument, int) and argument != 0)))
                or (kind == "f" and not isinstance(argument, (str, Register, type(None))))
            )
            if wrong:
                wanted = {"m": "a map", "p": "a pointer", "s": "a number", "f": "a function of this program"}[kind]
                raise CallError(
                    f"argument {position} of {helper.name} is {wanted}, not {argument!r}", line=caller_line()
                )

    def _arguments(self, arguments: Sequence[Argument]) -> None:
        if len(arguments) > 5:
            raise CallError(f"{len(arguments)} arguments; a call has at most 5", line=caller_line())
        for position, argument in enumerate(arguments, 1):
            register = _REGISTERS[position]
            source = _base(argument)
            if source is not None and 1 <= source.number < position:
                raise CallError(
                    f"argument {position} is in {source}, which argument {source.number} has just overwritten",
                    hint="keep values in r6-r9 over the setting up of a call",
                    line=caller_line(),
                )
            if argument is None:
                continue
            if isinstance(argument, Register):
                if argument is not register:
                    self.mov(register, argument)
            elif isinstance(argument, int):
                if op.S32_MIN <= argument <= op.S32_MAX:
                    self.mov(register, argument)
                else:
                    self.lddw(register, argument)
            elif isinstance(argument, MapSpec):
                self.ld_map(register, argument)
            elif isinstance(argument, str):
                self.ld_function(register, argument)
            else:
                self.address(register, argument)

    # ---- building ------------------------------------------------------------------------------------------------

    def build(self) -> Program:
        """Lay out functions, resolve labels, check, and return the finished program.

        Raises:
            LabelError: a label that was used or made and never bound.
            BlockError: a block left open.
            RegisterError, FallThroughError, UnreachableError: see `pylsm.asm.check`.
            RangeError: a jump that does not reach.
            ProgramSizeError: too many instructions for any kernel.
        """
        if self._open_blocks:
            raise BlockError("a block is still open", line=self._open_blocks[-1].line)
        instructions: list[Instruction] = []
        functions: list[Function] = []
        known = {body.name: body for body in self._bodies}
        used = {self._bodies[0].name} | {
            i.reference.name for body in self._bodies for i in body.instructions if isinstance(i.reference, FunctionRef)
        }
        for body in self._bodies:
            self._check_calls(body, known)
            _check_labels(body)
            if body.name not in used:
                raise UnreachableError(
                    f"{body.name} is never called: the kernel refuses what nothing leads to", line=body.line
                )
            if not body.instructions:
                raise AsmError(f"{body.name} has no instructions", line=body.line)
            targets = [-1] * len(body.instructions)
            for index, label in body.jumps.items():
                targets[index] = label.index
            check_registers(body.instructions, targets, body.arguments, body.calls, body.name, body is self._bodies[0])
            functions.append(Function(body.name, len(instructions), body.arguments))
            instructions.extend(_lay_out(body, targets, _LEVELS[self._cpu] >= 4))
        _check_size(instructions)
        return Program(
            self.name,
            self.section,
            tuple(instructions),
            tuple(functions),
            tuple(self._maps.values()),
            self._license,
            tuple(self._records),
        )

    def _check_calls(self, body: _Body, known: dict[str, _Body]) -> None:
        for index, i in enumerate(body.instructions):
            if not isinstance(i.reference, FunctionRef):
                continue
            callee = known.get(i.reference.name)
            if callee is None:
                from difflib import get_close_matches

                near = get_close_matches(i.reference.name, known, 1)
                raise UnknownNameError(
                    f"no function {i.reference.name!r} in this program"
                    + (f"; did you mean {near[0]}?" if near else ""),
                    line=i.line,
                )
            given = body.calls.get(index)
            if given == 0:  # in place: the callee's prototype says how many registers are read
                body.calls[index] = callee.arguments
            elif given is not None and given != callee.arguments:
                raise CallError(f"{callee.name} takes {callee.arguments} arguments, not {given}", line=i.line)


_REGISTERS = (R0, R1, R2, R3, R4, R5)
_WRITING_CLASSES = (op.LD, op.LDX, op.ALU, op.ALU64)


def _base(argument: Argument) -> Register | None:
    """The register that an argument is computed from."""
    if isinstance(argument, Register):
        return argument
    if isinstance(argument, View):
        return argument._address.base
    if isinstance(argument, Address):
        return argument.base
    if isinstance(argument, Field):
        return argument._register
    return None


def _check_size(instructions: Sequence[Instruction]) -> None:
    slots = len(instructions) + sum(i.opcode == op.LDDW for i in instructions)
    if slots <= op.MAX_INSNS:
        return
    over = 0
    for i in instructions:
        over += i.slots
        if over > op.MAX_INSNS:
            raise ProgramSizeError(
                f"{slots:,} instructions; the kernel takes {op.MAX_INSNS:,}, which this line exceeds",
                hint="split the program into subprograms reached by tail calls, or loop",
                line=i.line,
            )


def _check_labels(body: _Body) -> None:
    for label in body.labels:
        if label.index < 0:
            raise LabelError(f"{label.name or 'a label'} of {body.name} is never bound", line=label.line)


def _lay_out(body: _Body, targets: list[int], long_jumps: bool) -> list[Instruction]:
    """Resolve jumps; those out of 16-bit reach become ``gotol``, over an inverted condition where there is one.

    A jump that grows can push others out of reach, so this repeats until none does.
    """
    instructions = body.instructions
    grown: dict[int, int] = {}  # index of a jump → slots it takes
    while True:
        slot, slots = 0, []
        for index, i in enumerate(instructions):
            slots.append(slot)
            slot += grown.get(index) or (2 if i.opcode == op.LDDW else 1)
        slots.append(slot)
        far = [
            index
            for index in body.jumps
            if index not in grown
            and instructions[index].opcode != op.JMP32 | op.JA
            and not op.S16_MIN <= slots[targets[index]] - slots[index] - 1 <= op.S16_MAX
        ]
        if not far:
            break
        for index in far:
            i = instructions[index]
            if not long_jumps or i.opcode == op.JMP | op.JCOND:
                distance = slots[targets[index]] - slots[index] - 1
                raise RangeError(
                    f"the jump to {body.jumps[index]} is {distance:+d} instructions far; 16 bits reach 32,767",
                    hint="build with cpu='v4' for gotol, or split the program",
                    line=i.line,
                )
            operation = i.opcode & 0xF0
            grown[index] = 1 if operation == op.JA else 2 if operation in op.INVERSE else 3
    out: list[Instruction] = []
    for index, i in enumerate(instructions):
        if index not in body.jumps:
            out.append(i)
            continue
        size = grown.get(index, 0)
        distance = slots[targets[index]] - slots[index] - (size or 1)
        gotol = Instruction(op.JMP32 | op.JA, imm=distance, line=i.line)
        if i.opcode == op.JMP32 | op.JA or size == 1:
            out.append(gotol)
        elif size == 0:
            out.append(i.replace(off=distance))
        elif size == 2:
            inverse = op.INVERSE[i.opcode & 0xF0]
            out += [i.replace(opcode=i.opcode & 0x0F | inverse, off=1), gotol]
        else:
            out += [i.replace(off=1), Instruction(op.JMP | op.JA, off=1, line=i.line), gotol]
    return out


class _Block:
    """Something opened by ``with``; knows where, for the error when it is left open."""

    def __init__(self, asm: Asm) -> None:
        self.asm = asm
        self.line = caller_line()

    def _enter(self) -> None:
        self.asm._open_blocks.append(self)

    def _leave(self) -> None:
        self.asm._open_blocks.pop()


class _If(_Block):
    def __init__(self, asm: Asm, cls: int, operation: int, dst: Register, src: Source) -> None:
        super().__init__(asm)
        self._jump = (cls, operation, dst, src)
        self.end_index = -1

    def __enter__(self) -> _If:
        a = self.asm
        cls, operation, dst, src = self._jump
        self.otherwise = a.label("else")
        if operation in op.INVERSE:
            a._jump(cls, op.INVERSE[operation], dst, src, self.otherwise)
        else:
            then = a.label("then")
            a._jump(cls, operation, dst, src, then)
            a.ja(self.otherwise)
            a.bind(then)
        self._enter()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self._leave()
        if kind is None:
            body = self.asm._body
            self.asm.bind(self.otherwise)
            self.end_index = len(body.instructions)
            body.closed_if = self


class _Else(_Block):
    def __init__(self, asm: Asm, previous: _If) -> None:
        super().__init__(asm)
        self._previous = previous

    def __enter__(self) -> None:
        a = self.asm
        self._end = a.label("end")
        if a._body.reachable_end(self._previous.otherwise):
            a.ja(self._end)
        # The condition's jump now has to land behind the goto just emitted.
        a._body.place(self._previous.otherwise)
        self._enter()

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self._leave()
        if kind is None:
            self.asm.bind(self._end)


class Loop(_Block):
    """A bounded loop; ``break_`` leaves it, ``continue_`` goes on with the next round."""

    def __init__(self, asm: Asm, counter: Register, count: int) -> None:
        super().__init__(asm)
        self._counter = counter
        self._count = count

    def __enter__(self) -> Loop:
        a = self.asm
        self.break_ = a.label("break")
        self.continue_ = a.label("continue")
        a.mov(self._counter, 0)
        self._top = a.here("loop")
        self._enter()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self._leave()
        if kind is None:
            a = self.asm
            a.bind(self.continue_)
            a.add(self._counter, 1)
            a._jump(op.JMP, op.JNE, self._counter, self._count, self._top)
            a.bind(self.break_)


class _FunctionBlock(_Block):
    def __init__(self, asm: Asm, body: _Body) -> None:
        super().__init__(asm)
        self._new = body

    def __enter__(self) -> None:
        self._outer = self.asm._body
        self.asm._bodies.append(self._new)
        self.asm._body = self._new
        self._enter()

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self._leave()
        self.asm._body = self._outer
