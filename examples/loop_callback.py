#!/usr/bin/env python3
"""Sum numbers with `bpf_loop`: the kernel calls a function of ours once per round.

    sudo python3 examples/loop_callback.py [LIMIT]

The verifier looks at the callback once, however many rounds there are. Shown: a callback as a function of the program,
a pointer to our stack passed to it, a syscall program whose context is plain memory, and a program written as text.
"""

from __future__ import annotations

import struct
import sys

from pylsm.asm import R0, R1, R2, R3, R6, Asm, Program, u64
from pylsm.asm.parse import parse_program
from pylsm.loader import LoadedProgram


def program() -> Program:
    """context[1] = 0 + 1 + … + context[0] - 1, by the rounds of a loop."""
    a = Asm("syscall", name="sum")
    total = a.stack(8, "total")
    a.mov(R6, R1)
    a.st(u64[total], 0)
    a.ldx(R1, u64[R6])
    a.call("loop", R1, "add_one", total, 0)  # rounds, callback, what it is given, flags
    a.ldx(R1, u64[total])
    a.stx(u64[R6 + 8], R1)
    a.mov(R0, 0)
    a.exit_()
    with a.function("add_one", 2):  # r1: the round, r2: what bpf_loop was given
        a.ldx(R3, u64[R2])
        a.add(R3, R1)
        a.stx(u64[R2], R3)
        a.mov(R0, 0)  # 1 would end the loop
        a.exit_()
    return a.build()


#: The same as text, as `python -m pylsm asm` reads it.
TEXT = """
.section "syscall"
.func sum 1
    r6 = r1
    *(u64 *)(r10 -8) = 0
    r1 = *(u64 *)(r6 +0)
    r2 = subprog[add_one]
    r3 = r10
    r3 += -8
    r4 = 0
    call bpf_loop
    r1 = *(u64 *)(r10 -8)
    *(u64 *)(r6 +8) = r1
    r0 = 0
    exit
.func add_one 2
    r3 = *(u64 *)(r2 +0)
    r3 += r1
    *(u64 *)(r2 +0) = r3
    r0 = 0
    exit
"""


def run(made: Program, limit: int) -> int:
    """Run it once; what it left in its context."""
    with LoadedProgram.load(made) as loaded:
        left = loaded.test_run(ctx=struct.pack("=QQ", limit, 0)).ctx_out
    return int(struct.unpack("=QQ", left)[1])


def main() -> None:
    limit = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    for made in (program(), parse_program(TEXT)):
        print(f"the numbers below {limit} add up to {run(made, limit)}")


if __name__ == "__main__":
    main()
