"""What the kernel's helpers alone cost of recording a file that is opened first: programs that only call them.

No program that records as much with the same helpers can cost less.
"""

from __future__ import annotations

from pylsm.asm import R0, R1, R3, R6, R9, Asm, Program, u64
from pylsm.audit.maps import RING
from pylsm.audit.programs.common import KERNEL
from pylsm.audit.records import FILE_OPEN, SHORT_OPEN

__all__ = ["ALL", "PARTS", "WITH_COMPONENT", "calling"]

#: Helpers that a record takes → what they are for.
PARTS = {
    "who": "who, when, where: get_current_pid_tgid, get_current_uid_gid, ktime_get_boot_ns, get_smp_processor_id",
    "name": "the thread's name: get_current_task_btf, probe_read_kernel_str",
    "path": "the full path: d_path",
    "component": "instead, the last component: probe_read_kernel_str",
    "send": "the record, written and sent: ringbuf_output",
}
ALL = ("who", "name", "path", "send")
WITH_COMPONENT = ("who", "name", "component", "send")
#: Bytes of a path that is sent: those of the workload's files.
_PATH = 24


def calling(*parts: str) -> Program:
    """A program that calls the helpers of these ``PARTS`` at each open."""
    a = Asm("lsm/file_open", types=KERNEL)
    event = a.stack(SHORT_OPEN)
    a.mov(R6, R1)
    a.ldx(R9, u64[R6])
    file = a.typed(R9, "file")
    if "send" in parts:
        for offset in range(0, FILE_OPEN.size + _PATH, 8):
            a.st(u64[event["source"] + offset], 0)
    if "who" in parts:
        for name in ("get_smp_processor_id", "get_current_pid_tgid", "get_current_uid_gid", "ktime_get_boot_ns"):
            a.call(name)
    if "name" in parts:
        a.call("get_current_task_btf")
        a.address(R3, a.typed(R0, "task_struct").comm)
        a.call("probe_read_kernel_str", event["comm"], SHORT_OPEN.field("comm")[1], None)
    if "path" in parts:
        a.call("d_path", file.f_path, event["path"], SHORT_OPEN.field("path")[1])
    if "component" in parts:
        a.load(R3, file.f_path.dentry.d_name.name)
        a.call("probe_read_kernel_str", event["path"], SHORT_OPEN.field("path")[1], None)
    if "send" in parts:
        a.call("ringbuf_output", RING, event, FILE_OPEN.size + _PATH, 0)
    a.ldx(R0, u64[R6 + 8])
    a.exit_()
    return a.build()
