#!/usr/bin/env python3
"""Look a process up in the kernel: a kernel function called by name, and fields followed by name.

    sudo python3 examples/task_of_pid.py [PID]

`bpf_task_from_pid` is a kfunc: it has no number, the loader finds it in this kernel's BTF. What it returns is a pointer
the verifier knows the type of, so fields are plain loads; where they are is looked up when the program is loaded.
Shown: kfunc calls, typed pointers, the release that the verifier insists on.
"""

from __future__ import annotations

import os
import struct
import sys
from typing import NamedTuple

from pylsm.asm import R0, R1, R2, R6, R7, Asm, Program, u32, u64
from pylsm.btf import declare
from pylsm.loader import LoadedProgram

#: What the program follows, in C's words; where the fields are, only the kernel knows.
TYPES = declare(
    {
        "task_struct": {
            "tgid": "int",
            "start_time": "u64",
            "real_parent": "struct task_struct *",
            "signal": "struct signal_struct *",
        },
        "signal_struct": {"nr_threads": "int"},
    }
)


class Task(NamedTuple):
    """What is read: process, its parent, threads, and when it began (ns after boot)."""

    tgid: int
    parent: int
    threads: int
    start: int


CONTEXT = struct.Struct("=iiIIQ")  # pid asked for, tgid, parent, threads, start time


def program() -> Program:
    """Fill the context in, for the pid that it begins with; all zeros when there is no such process."""
    a = Asm("syscall", name="task_of_pid", types=TYPES)
    a.mov(R6, R1)
    a.ldx(R1, u32[R6])
    a.kfunc("bpf_task_from_pid", R1)
    with a.if_(R0, "!=", 0):
        a.mov(R7, R0)
        task = a.typed(R7, "task_struct")
        a.load(R2, task.tgid)
        a.stx(u32[R6 + 4], R2)
        a.load(R2, task.real_parent.tgid)
        a.stx(u32[R6 + 8], R2)
        a.load(R2, task.signal.nr_threads)
        a.stx(u32[R6 + 12], R2)
        a.load(R2, task.start_time)
        a.stx(u64[R6 + 16], R2)
        a.kfunc("bpf_task_release", R7)
    a.mov(R0, 0)
    a.exit_()
    return a.build()


def look_up(pid: int) -> Task | None:
    """The process of that number, or None."""
    with LoadedProgram.load(program()) as loaded:
        left = loaded.test_run(ctx=CONTEXT.pack(pid, 0, 0, 0, 0)).ctx_out
    _, tgid, parent, threads, start = CONTEXT.unpack(left)
    return Task(tgid, parent, threads, start) if tgid else None


def main() -> None:
    pid = int(sys.argv[1]) if len(sys.argv) > 1 else os.getpid()
    print(look_up(pid) or f"no process {pid}")


if __name__ == "__main__":
    main()
