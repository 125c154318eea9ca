"""The filters in the kernel: what is certainly not wanted makes no record.

What they mean is said in `pylsm.audit.filters`; the values are in maps (`pylsm.audit.rules`), so that they can change
while events flow. A run that ends here is counted as "filtered".
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pylsm.asm import R0, R1, R2, R3, Label, View, u8, u16, u32, u64
from pylsm.audit.programs.common import Probe
from pylsm.audit.records import FLAG_BASENAME, FLAG_TRUNCATED, FLAG_UNLINKED
from pylsm.audit.rules import DESTINATIONS, DESTINATIONS_V6, LPM_BYTES, PATHS, PORTS, SETTING, SETTINGS
from pylsm.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

__all__ = ["FILTERS", "require_destination", "require_mode", "require_path"]

FILTERS: Final = ("mode", "path", "dst", "port")

_AF_INET: Final = 2
_FMODE_READ_WRITE: Final = 3
_BYTE_SHIFT: Final = 3
_LAST_BIT: Final = 7
#: The third word of an IPv4-mapped IPv6 address, as it is loaded.
_MAPPED: Final = int.from_bytes(b"\0\0\xff\xff", sys.byteorder)


def require_mode(probe: Probe, filters: Sequence[str]) -> None:
    """Leave unless the open, whose f_mode is in r1, is granted what is asked for; clobbers r1-r2."""
    if "mode" not in filters:
        return
    a = probe.a
    a.ld_map_value(R2, SETTINGS, SETTING.field("mode")[0])
    a.ldx(R2, u32[R2])
    a.and_(R1, R2)
    a.and_(R1, _FMODE_READ_WRITE)
    probe.count_as("filtered")
    a.jump(R1, "!=", R2, probe.counted)


def require_destination(probe: Probe, address: View, filters: Sequence[str]) -> None:
    """Leave unless port and address are wanted; clobbers r0-r5.

    Args:
        address: a sockaddr_in or a sockaddr_in6 (its first 24 bytes) on the stack. It serves as the keys of the tries:
            a key begins with how many bits of it count, in the 4 bytes before the address, which are put back as far
            as a record has them.
    """
    a = probe.a
    if "port" in filters:
        a.ldx(R1, u16[address + 2])
        a.be(R1, 16)
        a.and_(R1, 0xFFFF)
        a.mov(R2, R1)
        a.and_(R2, _LAST_BIT)
        a.rsh(R1, _BYTE_SHIFT)
        a.ld_map_value(R3, PORTS)
        a.add(R3, R1)
        a.ldx(R1, u8[R3])
        a.rsh(R1, R2)
        a.and_(R1, 1)
        probe.leave_if(R1, "==", 0, "filtered")
    if "dst" not in filters:
        return
    ipv6, whole, looked, wanted = (a.label(name) for name in ("ipv6", "whole", "looked up", "wanted"))
    kept = a.stack(4, "family and port")
    a.ldx(R1, u32[address])
    a.stx(u32[kept], R1)
    a.ldx(R1, u16[address])
    a.jne(R1, _AF_INET, ipv6)
    a.st(u32[address], 32)
    a.call("map_lookup_elem", DESTINATIONS, address)
    a.ldx(R1, u32[kept])
    a.stx(u32[address], R1)
    a.ja(looked)
    a.bind(ipv6)
    a.ldx(R1, u64[address + 8])
    a.jne(R1, 0, whole)
    a.ldx(R1, u32[address + 16])
    a.lddw(R2, _MAPPED)
    a.jne(R1, R2, whole)
    a.st(u32[address + 16], 32)
    a.call("map_lookup_elem", DESTINATIONS, address + 16)
    a.lddw(R2, _MAPPED)
    a.stx(u32[address + 16], R2)
    a.ja(looked)
    a.bind(whole)
    a.st(u32[address + 4], 128)  # the flow label, which no record has
    a.call("map_lookup_elem", DESTINATIONS_V6, address + 4)
    a.bind(looked)
    a.jeq(R0, 0, wanted)  # the rules are just being changed
    a.ldx(R1, u32[R0])
    probe.leave_if(R1, "==", 0, "filtered")
    a.bind(wanted)


def require_path(probe: Probe, event: View, length: View, refused: Label) -> None:
    """Go to ``refused`` if the path of the record, which is in its buffer, is certainly not wanted; clobbers r0-r5.

    A path that could not be read whole, or has " (deleted)" behind it, is left to user space.

    Args:
        event: a FILE_OPEN in a map's value. The 4 bytes before its path serve as the beginning of the trie's key.
        length: 8 bytes of stack with the length of the path and its NUL.
    """
    a = probe.a
    wanted, short = a.label("wanted"), a.label("short")
    before = u32[event["path"] + -4]
    kept = a.stack(4, "before the path")
    a.ldx(R1, event.flags)
    a.jset(R1, FLAG_BASENAME | FLAG_TRUNCATED | FLAG_UNLINKED, wanted)
    a.ldx(R1, before)
    a.stx(u32[kept], R1)
    a.ldx(R1, u64[length])
    a.sub(R1, 1)
    a.jle(R1, LPM_BYTES, short)
    a.mov(R1, LPM_BYTES)
    a.bind(short)
    a.lsh(R1, _BYTE_SHIFT)
    a.stx(before, R1)
    a.call("map_lookup_elem", PATHS, event["path"] + -4)
    a.ldx(R1, u32[kept])
    a.stx(before, R1)
    a.jeq(R0, 0, wanted)
    a.ldx(R1, u32[R0])
    a.jeq(R1, 0, refused)
    a.bind(wanted)
