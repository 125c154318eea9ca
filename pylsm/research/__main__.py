"""``python -m pylsm.research``: generate programs, load each, count the verdicts, shrink one if asked."""

from __future__ import annotations

import argparse
import sys

from pylsm.asm.disasm import disassemble
from pylsm.asm.generate import generate, mutate
from pylsm.asm.program import Program
from pylsm.errors import PylsmError
from pylsm.research.campaign import campaign
from pylsm.research.outcome import try_load
from pylsm.research.shrink import shrink


def main(argv: list[str] | None = None) -> int:
    """Exit status 0; 2 when programs cannot be loaded here."""
    parser = argparse.ArgumentParser(prog="python -m pylsm.research", description=__doc__)
    parser.add_argument("-n", "--count", type=int, default=10_000, help="programs (default %(default)s)")
    parser.add_argument("-s", "--seed", type=int, default=0, help="seed of the first (default %(default)s)")
    parser.add_argument("-l", "--length", type=int, default=30, help="random instructions in each")
    parser.add_argument("-m", "--mutate", type=int, default=0, metavar="TIMES", help="break each this many times")
    parser.add_argument("--unfriendly", action="store_true", help="random in every field")
    parser.add_argument("--section", default="socket", help="program type (default %(default)s)")
    parser.add_argument("--shrink", type=int, metavar="SEED", help="shrink the program of this seed, and print it")
    options = parser.parse_args(argv)

    def make(seed: int) -> Program:
        made = generate(seed, length=options.length, friendly=not options.unfriendly, section=options.section)
        return mutate(made, seed, times=options.mutate) if options.mutate else made

    try:
        if options.shrink is not None:
            program = make(options.shrink)
            outcome = try_load(program)
            small = shrink(program, lambda candidate: try_load(candidate).kind == outcome.kind)
            print(f"; {outcome.kind}: {len(program.instructions)} → {len(small.instructions)} instructions")
            print(disassemble(small.instructions, labels=False, numbers=True), end="")
            return 0
        print(campaign(make, range(options.seed, options.seed + options.count)))
    except PylsmError as error:
        print(f"pylsm.research: {error}" + (f"\n  {error.hint}" if error.hint else ""), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
