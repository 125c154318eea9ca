#!/usr/bin/env python3
"""Print each file that is opened for writing, with inode and user, from the LSM hook file_open.

    sudo python3 examples/lsm_opens.py [SECONDS]

Needs a kernel with BPF LSM active (`bpf` in /sys/kernel/security/lsm). The program observes only: it returns the
verdict that it was called with. Shown: an LSM hook, typed pointers, a ring buffer, a record reserved and submitted.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

from construct import Bytes, Int32un, Int64un

from pylsm.asm import R0, R1, R2, R6, R7, R8, Asm, MapSpec, MapType, Program, u64
from pylsm.btf import declare
from pylsm.loader import Object, RingBuffer
from pylsm.record import Record

TYPES = declare(
    {
        "file": {"f_mode": "u32", "f_inode": "struct inode *"},
        "inode": {"i_ino": "u64"},
    }
)
EVENT = Record("opened", "inode" / Int64un, "uid" / Int32un, "pid" / Int32un, "comm" / Bytes(16))
RING = MapSpec("opened", MapType.RINGBUF, max_entries=1 << 16)
FMODE_WRITE = 2  # include/linux/fs.h


class Opened(NamedTuple):
    """One open for writing."""

    inode: int
    uid: int
    pid: int
    comm: str


def program() -> Program:
    """int file_open(struct file *file, int verdict)."""
    a = Asm("lsm/file_open", name="writes", types=TYPES)
    leave = a.label("leave")
    a.mov(R6, R1)
    a.ldx(R7, u64[R6])
    file = a.typed(R7, "file")
    a.load(R1, file.f_mode)
    a.and_(R1, FMODE_WRITE)
    a.jeq(R1, 0, leave)

    a.call("ringbuf_reserve", RING, EVENT.size, 0)
    a.jeq(R0, 0, leave)
    a.mov(R8, R0)
    event = a.view(R8, EVENT)
    a.load(R1, file.f_inode.i_ino)
    a.stx(event.inode, R1)
    a.call("get_current_uid_gid")
    a.stx(event.uid, R0)  # the lower half
    a.call("get_current_pid_tgid")
    a.rsh(R0, 32)
    a.stx(event.pid, R0)
    a.call("get_current_comm", event["comm"], 16)
    a.call("ringbuf_submit", R8, 0)

    a.bind(leave)
    a.ldx(R2, u64[R6 + 8])  # the verdict so far: returned as it is
    a.mov(R0, R2)
    a.exit_()
    return a.build()


def opened(seconds: float) -> Iterator[Opened]:
    """What is opened for writing from now on."""
    with Object([program()]) as probe, RingBuffer(probe.maps["opened"]) as ring:
        probe.attach()
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            ring.wait(min(left, 0.1))
            for data in ring.read():
                inode, uid, pid, comm = EVENT.unpacker.unpack(data)
                yield Opened(inode, uid, pid, comm.rstrip(b"\0").decode(errors="replace"))


def main() -> None:
    for event in opened(float(sys.argv[1]) if len(sys.argv) > 1 else 10.0):
        print(f"inode {event.inode:<10} uid {event.uid:<6} pid {event.pid:<7} {event.comm}", flush=True)


if __name__ == "__main__":
    main()
