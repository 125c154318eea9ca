"""The model itself, on the sentences of RFC 9669 that are easy to get wrong; the kernel agrees in tests/kernel."""

from __future__ import annotations

import pytest

from pylsm.asm import encode
from pylsm.asm.model import Machine, ModelError
from pylsm.asm.parse import parse

INT_MIN = 1 << 63
M64 = (1 << 64) - 1


def run(text: str, *arguments: int, **options: object) -> int:
    return Machine(encode(parse(text + "\nexit\n")), **options).run(*arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "first", "second", "result"),
    [
        ("r0 /= r2", 7, 0, 0),
        ("w0 /= w2", INT_MIN | 7, 0, 0),
        ("r0 %= r2", INT_MIN | 7, 0, INT_MIN | 7),
        ("w0 %= w2", INT_MIN | 7, 0, 7),
        ("r0 s/= r2", INT_MIN, M64, INT_MIN),
        ("r0 s%= r2", INT_MIN, M64, 0),
        ("r0 s/= r2", M64 - 6, 2, M64 - 2),  # -7 / 2 = -3, towards zero
        ("r0 s%= r2", M64 - 6, 2, M64),  # -7 % 2 = -1, the sign of the dividend
        ("r0 s%= r2", 7, M64 - 1, 1),
        ("w0 s/= w2", 0x80000000, 0xFFFFFFFF, 0x80000000),
        ("r0 <<= r2", 1, 65, 2),
        ("w0 <<= w2", 1, 33, 2),
        ("r0 s>>= r2", INT_MIN, 63, M64),
        ("w0 s>>= w2", 0x80000000, 31, 0xFFFFFFFF),
        ("r0 >>= r2", INT_MIN, 63, 1),
        ("w0 += w2", M64, 1, 0),
        ("w0 = -5", 0, 0, 0xFFFFFFFB),
        ("r0 = -5", 0, 0, M64 - 4),
        ("r0 = (s8)r2", 0, 0x80, M64 - 127),
        ("w0 = (s8)w2", 0, 0x80, 0xFFFFFF80),
        ("r0 = -r0", 1, 0, M64),
        ("w0 = -w0", 1, 0, 0xFFFFFFFF),
        ("r0 = bswap16 r0", 0x112233, 0, 0x3322),
        ("r0 = be32 r0", 0x1122334455667788, 0, 0x88776655),
        ("r0 = le16 r0", 0x11223344, 0, 0x3344),
    ],
)
def test_arithmetic(text: str, first: int, second: int, result: int) -> None:
    assert run(f"r0 = r1\n{text}", first, second) == result


def test_big_endian_host() -> None:
    code = encode(parse("r0 = r1\nr0 = le32 r0\nexit\n"), "big")
    assert Machine(code, byteorder="big").run(0x11223344) == 0x44332211
    code = encode(parse("*(u32 *)(r10 -4) = 0x11223344\nr0 = *(u8 *)(r10 -4)\nexit\n"), "big")
    assert Machine(code, byteorder="big").run() == 0x11


def test_helpers_are_given() -> None:
    calls: list[tuple[int, ...]] = []

    def helper(machine: Machine, *arguments: int) -> int:
        calls.append(arguments)
        return -1

    assert run("call ktime_get_ns", 1, 2, helpers={5: helper}) == M64
    assert calls == [(1, 2, 0, 0, 0)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("r0 = *(u64 *)(r10 +0)", "no memory of this program"),
        ("r0 = *(u64 *)(r10 -520)", "no memory of this program"),
        ("top: goto top", "no end after 1000000"),
        ("call ktime_get_ns", "helper 5 is not given"),
        (".insn 0x07 0 0 +7 0x1\n.insn 0xe7 0 0 +0 0x0", "arithmetic 0xe"),
        (".insn 0xb7 0 0 +3 0x0", "offset 3 is undefined"),
        (".insn 0xf5 0 0 +0 0x0", "jump 0xf is undefined"),
        (".insn 0xd4 0 0 +0 0x8", "byte swap of 8 bits"),
        (".insn 0xdb 10 0 -8 0x30", "atomic operation 0x30"),
        (".insn 0xcb 10 0 -8 0x0", "atomic of 2 bytes"),
        (".insn 0x99 0 10 -8 0x0", "opcode 0x99 .* undefined"),
        (".func f\ncall f", "more than 8 frames"),
    ],
)
def test_what_no_verified_program_does(text: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        run(text)


def test_packet_load_outside_ends_with_zero() -> None:
    assert run("r0 = 7\nr0 = *(u16 *)skb[3]\nr0 = 9", packet=b"abcd") == 0
    assert run("r0 = 7\nr0 = *(u16 *)skb[2]", packet=b"abcd") == 0x6364
