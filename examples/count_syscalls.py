#!/usr/bin/env python3
"""Count the system calls of every program, by its name, for a few seconds.

    sudo python3 examples/count_syscalls.py [SECONDS]

A raw tracepoint runs at each system call of the machine. It keeps one counter per command name in a hash map; this
side reads the map when the time is up. Shown: stack slots, a map with a 16-byte key, `if_` and `else_`, an atomic add.
"""

from __future__ import annotations

import sys
import time

from pylsm.asm import R0, R1, Asm, MapSpec, MapType, Program, u64
from pylsm.loader import Object

COUNTS = MapSpec("counts", MapType.HASH, key=16, value=8, max_entries=4096)


def program() -> Program:
    """``counts[comm] += 1`` at each system call."""
    a = Asm("raw_tp/sys_enter", name="count_syscalls")
    comm = a.stack(16, "comm")
    one = a.stack(8, "one")
    a.call("get_current_comm", comm, len(comm))
    a.call("map_lookup_elem", COUNTS, comm)
    with a.if_(R0, "!=", 0):
        a.mov(R1, 1)
        a.atomic_add(u64[R0], R1)
    with a.else_():
        a.st(u64[one], 1)
        a.call("map_update_elem", COUNTS, comm, one, 0)
    a.mov(R0, 0)
    a.exit_()
    return a.build()


def count(seconds: float) -> dict[str, int]:
    """Run for so long, and return the counts by command."""
    with Object([program()]) as probe:
        probe.attach()
        time.sleep(seconds)
        return {
            key.rstrip(b"\0").decode(errors="replace"): int.from_bytes(value, sys.byteorder)
            for key, value in probe.maps["counts"].items()
        }


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 3.0
    counts = count(seconds)
    for comm, calls in sorted(counts.items(), key=lambda item: -item[1]):
        print(f"{calls:>10,}  {comm}")


if __name__ == "__main__":
    main()
