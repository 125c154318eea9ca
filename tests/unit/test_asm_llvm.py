"""Against LLVM: what `llvm-mc` assembles and disassembles, and what we do, are the same bytes and the same text.

LLVM 19 knows all but the load-acquire and store-release pair, packet loads with a constant beside the register, and
the kernel's own spelling of atomics; it has no word for calls by pseudo source. The newest are checked against the
kernel itself in tests/kernel/test_asm_kernel.py.
"""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest
from test_asm_encoding import TABLE

from pylsm.asm import Instruction, decode, encode
from pylsm.asm import opcodes as op
from pylsm.asm.disasm import to_text

LLVM_MC = shutil.which("llvm-mc-19")
pytestmark = pytest.mark.skipif(LLVM_MC is None, reason="llvm-mc-19 is not installed (apt-get install llvm-19)")


def llvm(text: str, *options: str, triple: str = "bpfel") -> str:
    assert LLVM_MC is not None
    command = [LLVM_MC, "-triple", triple, "-mcpu=v4", *options]
    done = subprocess.run(command, input=text, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[:2000]
    return done.stdout


def spelled_for_llvm(text: str) -> str:
    """Our text in LLVM's spelling."""
    text = re.sub(r"goto pc", "goto ", text)
    text = re.sub(r"gotol pc", "gotol ", text)
    text = re.sub(
        r"^(if [rw]\d+ \S+ )0x([0-9a-f]+)", lambda m: m[1] + str(int(m[2], 16) - (int(m[2], 16) >> 31 << 32)), text
    )
    text = re.sub(r"atomic64_fetch", "atomic_fetch", text)
    text = re.sub(r"^r(\d+) = (atomic_fetch_\w+\(\(u32 \*\).*), r(\d+)\)", r"w\1 = \2, w\3)", text)
    text = re.sub(r"^(lock \*\(u32 \*\).*) r(\d+)$", r"\1 w\2", text)
    text = re.sub(r"= atomic64_xchg\(\(u64 \*\)\((.*?)\)", r"= xchg_64(\1", text)
    text = re.sub(r"^r(\d+) = atomic_xchg\(\(u32 \*\)\((.*?)\), r", r"w\1 = xchg32_32(\2, w", text)
    text = re.sub(r"= atomic64_cmpxchg\(\(u64 \*\)\((.*?)\)", r"= cmpxchg_64(\1", text)
    text = re.sub(r"^r0 = atomic_cmpxchg\(\(u32 \*\)\((.*?)\), r0, r", r"w0 = cmpxchg32_32(\1, w0, w", text)
    text = re.sub(r"skb\[(r\d+) \+ 0\]", r"skb[\1]", text)
    return re.sub(r"call \w+#(-?\d+)", r"call \1", text)


def same_spelling(text: str) -> str:
    """Differences that mean nothing: hexadecimal or decimal, spaces in addresses, a 32-bit register for u32."""
    text = re.sub(r"([+-]) ?0x", r"\g<1>0x", text)
    text = re.sub(r"0x([0-9a-f]+)", lambda m: str(int(m[1], 16)), text)
    text = re.sub(r"= (-\d+) ll", lambda m: f"= {int(m[1]) & op.U64_MAX} ll", text)
    text = re.sub(r"\((r\d+) ([+-]) ?(\d+)", r"(\1 \2\3", text)
    if re.search(r"\*\(u(8|16|32) \*\)|cmpxchg32_32|xchg32_32|^lock \*\(u32", text):
        text = re.sub(r"\bw(\d+)", r"r\1", text)
    return re.sub(r"\s+", " ", text).strip()


def random_instructions() -> Iterator[Instruction]:
    """Canonical instructions of every opcode that LLVM has a word for, over edge values."""
    rng = random.Random(9669)

    def reg() -> int:
        return rng.randrange(11)

    def imm() -> int:
        return rng.choice([0, 1, -1, op.S32_MIN, op.S32_MAX, rng.randrange(op.S32_MIN, op.S32_MAX)])

    def off() -> int:
        return rng.choice([0, 1, -1, op.S16_MIN, op.S16_MAX, rng.randrange(op.S16_MIN, op.S16_MAX)])

    for _ in range(40):
        for cls in (op.ALU, op.ALU64):
            for operation in op.ALU_NAMES:
                if operation == op.END:
                    bits = rng.choice([16, 32, 64])
                    yield Instruction(cls | op.END, reg(), imm=bits)
                    if cls == op.ALU:
                        yield Instruction(cls | op.END | op.TO_BE, reg(), imm=bits)
                elif operation == op.NEG:
                    yield Instruction(cls | op.NEG, reg())
                else:
                    sign = int(operation in (op.DIV, op.MOD)) * rng.randrange(2)
                    yield Instruction(cls | operation | op.K, reg(), 0, sign, imm())
                    yield Instruction(cls | operation | op.X, reg(), reg(), sign)
            for bits in (8, 16) if cls == op.ALU else (8, 16, 32):
                yield Instruction(cls | op.MOV | op.X, reg(), reg(), bits)
        for size in (op.B, op.H, op.W, op.DW):
            yield Instruction(op.LDX | op.MEM | size, reg(), reg(), off())
            yield Instruction(op.STX | op.MEM | size, reg(), reg(), off())
            if size != op.DW:
                yield Instruction(op.LDX | op.MEMSX | size, reg(), reg(), off())
                yield Instruction(op.LD | op.ABS | size, imm=abs(imm()) & op.S32_MAX)
                yield Instruction(op.LD | op.IND | size, 0, reg())
        for size in (op.W, op.DW):
            for atomic in (op.ADD, op.OR, op.AND, op.XOR):
                yield Instruction(op.STX | op.ATOMIC | size, reg(), reg(), off(), atomic)
                yield Instruction(op.STX | op.ATOMIC | size, reg(), reg(), off(), atomic | op.FETCH)
            for atomic in (op.XCHG, op.CMPXCHG):
                yield Instruction(op.STX | op.ATOMIC | size, reg(), reg(), off(), atomic)
        for cls in (op.JMP, op.JMP32):
            for operation in op.CONDITIONS.values():
                yield Instruction(cls | operation | op.K, reg(), 0, off(), imm())
                yield Instruction(cls | operation | op.X, reg(), reg(), off())
        yield Instruction(op.JMP | op.JA, off=off())
        yield Instruction(op.JMP | op.JCOND, off=off())
        yield Instruction(op.JMP32 | op.JA, imm=off())  # the assembler of LLVM takes 16 bits here
        yield Instruction(op.JMP | op.EXIT)
        yield Instruction(op.LDDW, reg(), imm=rng.choice([0, op.U64_MAX, 1 << 63, rng.randrange(1 << 64)]))
        yield Instruction(op.ALU64 | op.MOV | op.X, reg(), reg(), 1, 1 << 16)


ST = {op.ST | op.MEM | size: bits for size, bits in ((op.B, 8), (op.H, 16), (op.W, 32), (op.DW, 64))}


@pytest.mark.parametrize(("triple", "byteorder"), [("bpfel", "little"), ("bpfeb", "big")])
def test_llvm_assembles_our_text_to_our_bytes(triple: str, byteorder: str) -> None:
    rng = random.Random(1)
    code = list(random_instructions())
    code += [
        Instruction(opcode, rng.randrange(11), 0, rng.randrange(-999, 999), rng.randrange(-99, 99)) for opcode in ST
    ]
    text = "\n".join(spelled_for_llvm(to_text(i)) for i in code)
    theirs = [
        bytes(int(byte, 16) for byte in found[1].split(","))
        for found in re.finditer(r"encoding: \[(.*)\]", llvm(text, "--show-encoding", triple=triple))
    ]
    assert len(code) == len(theirs) > 5000
    for i, bytes_of_llvm in zip(code, theirs):
        assert encode([i], byteorder) == bytes_of_llvm, to_text(i)


def test_llvm_disassembles_our_bytes_to_our_text() -> None:
    code = list(random_instructions())
    code += [Instruction(op.JMP32 | op.JA, imm=imm) for imm in (op.S32_MIN, op.S32_MAX, 65_536)]
    given = " ".join(f"0x{byte:02x}" for byte in encode(code))
    lines = [line.strip() for line in llvm(given, "--disassemble").splitlines()]
    theirs = [line for line in lines if line and not line.startswith(".")]
    assert len(code) == len(theirs)
    for i, line in zip(code, theirs):
        assert same_spelling(line) == same_spelling(spelled_for_llvm(to_text(i)))


UNKNOWN_TO_LLVM = re.compile(r"load_acquire|store_release|skb\[r2 \+|[\[{]|call [a-z_]+(#kfunc)?$")


def test_llvm_agrees_with_the_table_of_methods() -> None:
    rows = [(code, text) for _, code, text in TABLE if not UNKNOWN_TO_LLVM.search(text) and "call" not in text]
    assert len(rows) > 170
    out = llvm("\n".join(spelled_for_llvm(text) for _, text in rows), "--show-encoding")
    theirs = re.findall(r"encoding: \[(.*)\]", out)
    assert [code for code, _ in rows] == ["".join(byte[2:] for byte in line.split(",")) for line in theirs]


def test_an_object_file_decodes(tmp_path: object) -> None:
    """Instructions that LLVM put into an ELF section come out of `decode` as they were written."""
    from io import BytesIO

    from elftools.elf.elffile import ELFFile

    assert LLVM_MC is not None
    source = "r0 = 1\nif r1 s> -5 goto +1\nr0 = 0x123456789 ll\nexit\n"
    command = [LLVM_MC, "-triple", "bpfel", "-mcpu=v4", "-filetype=obj"]
    done = subprocess.run(command, input=source.encode(), capture_output=True, check=True)
    section = ELFFile(BytesIO(done.stdout)).get_section_by_name(".text")
    assert [to_text(i) for i in decode(section.data())] == [
        "r0 = 1",
        "if r1 s> 0xfffffffb goto pc+1",
        "r0 = 0x123456789 ll",
        "exit",
    ]
