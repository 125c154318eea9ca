#!/usr/bin/env python3
"""A socket filter that passes DNS answers and drops the rest, tried on made-up packets.

    sudo python3 examples/socket_filter.py

Nothing is attached: BPF_PROG_TEST_RUN gives a packet to the program and returns what it returned and how long it took.
Shown: packet loads, labels shared by several jumps, `LoadedProgram.test_run`.
"""

from __future__ import annotations

import struct

from pylsm.asm import R0, R1, R6, R7, Asm, Program
from pylsm.loader import LoadedProgram

ETHERNET = bytes(12) + struct.pack(">H", 0x0800)
#: Where things are from the start of the IPv4 header: a socket filter does not see the Ethernet header.
VERSION_AND_LENGTH, PROTOCOL, UDP = 0, 9, 17


def program() -> Program:
    """Return 65,535 (keep so many bytes) for UDP from port 53, else 0 (drop)."""
    a = Asm("socket", name="dns_answers")
    drop = a.label("drop")
    a.mov(R6, R1)  # packet loads find the context in r6
    a.ld_abs(8, PROTOCOL)
    a.jne(R0, UDP, drop)
    a.ld_abs(8, VERSION_AND_LENGTH)
    a.and_(R0, 0x0F)
    a.lsh(R0, 2)  # the header's length is in words of four bytes
    a.mov(R7, R0)
    a.ld_ind(16, R7, 0)  # the source port is the first thing of a UDP header
    a.jne(R0, 53, drop)
    a.mov(R0, 65_535)
    a.exit_()
    a.bind(drop)
    a.mov(R0, 0)
    a.exit_()
    return a.build()


def packet(protocol: int, source_port: int, options: int = 0) -> bytes:
    """An IPv4 packet with ``options`` words of options in front of its ports."""
    header = struct.pack(">BBHHHBBH8x", 0x45 + options, 0, 28 + 4 * options, 0, 0, 64, protocol, 0)
    return ETHERNET + header + bytes(4 * options) + struct.pack(">HHHH", source_port, 40_000, 8, 0)


PACKETS = {
    "UDP from port 53": packet(17, 53),
    "the same behind IP options": packet(17, 53, options=3),
    "UDP from port 123": packet(17, 123),
    "TCP from port 53": packet(6, 53),
}


def main() -> None:
    with LoadedProgram.load(program()) as loaded:
        for name, data in PACKETS.items():
            result = loaded.test_run(data, repeat=1000)
            verdict = "kept" if result.retval else "dropped"
            print(f"{name:<28} {verdict:<8} {result.duration_ns} ns")


if __name__ == "__main__":
    main()
