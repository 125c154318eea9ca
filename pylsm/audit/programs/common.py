"""What all audit programs share.

Registers: r6 the context, r8 the record, r9 the subject (a file, an address).
Every program ends in one place, `Probe.finish`, which counts the run and returns the verdict it was given.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Sequence

from pylsm.asm import R0, R1, R2, R3, R6, R7, R8, R9, Asm, Label, Register, View, u32, u64
from pylsm.asm.typed import Field, Typed
from pylsm.audit.maps import COUNTS, MARKS, RING, SET, TRACED
from pylsm.audit.records import COUNTERS, SETTINGS, SOURCE_LSM, TGID
from pylsm.btf import declare
from pylsm.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

    from pylsm.record import Record

__all__ = ["KERNEL", "RECORDED", "Probe", "count", "field_of", "find_traced", "take_number"]

#: How a run ends whose record was sent: its number is its count.
RECORDED: Final = "recorded"

#: The shapes of the kernel's types that the probe relies on; offsets are those of the running kernel (CO-RE).
KERNEL: Final = declare(
    {
        "file": {
            "f_inode": "struct inode *",
            "f_path": "struct path",
            "f_flags": "unsigned int",
            "f_mode": "unsigned int",
            "private_data": "struct socket *",  # in sockfs
        },
        "socket": {"sk": "struct sock *"},
        "sock": {"__sk_common": "struct sock_common", "sk_type": "u16", "sk_protocol": "u16"},
        "sock_common": {
            "skc_family": "unsigned short",
            "skc_num": "unsigned short",
            "skc_rcv_saddr": "unsigned int",
            "skc_v6_rcv_saddr": "struct in6_addr",
        },
        "in6_addr": {"u6_addr32": "u32[4]"},
        "module": {"name": "char[56]"},
        "file_system_type": {"name": "char *"},
        "msghdr": {"msg_name": "void *", "msg_namelen": "int", "msg_flags": "unsigned int"},
        "linux_binprm": {"file": "struct file *", "filename": "char *", "interp": "char *"},
        "mm_struct": {"arg_start": "unsigned long", "arg_end": "unsigned long"},
        "path": {"mnt": "struct vfsmount *", "dentry": "struct dentry *"},
        "inode": {
            "i_ino": "unsigned long",
            "i_sb": "struct super_block *",
            "i_nlink": "unsigned int",
            "i_private": "struct ns_common *",  # in nsfs
        },
        "super_block": {
            "s_dev": "unsigned int",
            "s_flags": "unsigned long",
            "s_magic": "unsigned long",
            "s_type": "struct file_system_type *",
        },
        "dentry": {
            "d_parent": "struct dentry *",
            "d_name": "struct qstr",
            "d_hash": "struct hlist_bl_node",
            "d_op": "struct dentry_operations *",
        },
        "hlist_bl_node": {"pprev": "struct hlist_bl_node **"},
        "dentry_operations": {"d_dname": "void *"},
        "qstr": {"len": "unsigned int", "name": "unsigned char *"},
        "vfsmount": {"mnt_root": "struct dentry *", "mnt_sb": "struct super_block *"},
        "mount": {
            "mnt_parent": "struct mount *",
            "mnt_mountpoint": "struct dentry *",
            "mnt": "struct vfsmount",
            "mnt_ns": "struct mnt_namespace *",
            "mnt_devname": "char *",
        },
        "nsproxy": {"mnt_ns": "struct mnt_namespace *", "net_ns": "struct net *"},
        "net": {"ns": "struct ns_common"},
        "mnt_namespace": {"ns": "struct ns_common"},
        "ns_common": {"inum": "unsigned int", "ops": "struct proc_ns_operations *"},
        "proc_ns_operations": {"name": "char *"},
        "thread_info": {"status": "unsigned int", "flags": "unsigned long"},  # of x86 and of arm64
        "task_struct": {
            "thread_info": "struct thread_info",
            "pid": "int",
            "tgid": "int",
            "group_leader": "struct task_struct *",
            "start_time": "u64",
            "start_boottime": "u64",
            "self_exec_id": "u64",
            "signal": "struct signal_struct *",
            "real_parent": "struct task_struct *",
            "exit_code": "int",
            "mm": "struct mm_struct *",
            "real_cred": "struct cred *",
            "files": "struct files_struct *",
            "fs": "struct fs_struct *",
            "nsproxy": "struct nsproxy *",
            "bpf_storage": "struct bpf_local_storage *",
            "cred": "struct cred *",
            "comm": "char[16]",
            "cgroups": "struct css_set *",
        },
        "cgroup_subsys_state": {"cgroup": "struct cgroup *", "parent": "struct cgroup_subsys_state *"},
        "cgroup": {"kn": "struct kernfs_node *"},
        "kernfs_node": {"id": "u64"},
        "cred": {"uid": "struct kuid_t", "gid": "struct kgid_t", "euid": "struct kuid_t"},
        "kuid_t": {"val": "unsigned int"},
        "kgid_t": {"val": "unsigned int"},
        "atomic": {"counter": "int"},
        "signal_struct": {"live": "struct atomic", "flags": "unsigned int", "group_exit_code": "int"},
        "files_struct": {"fdt": "struct fdtable *"},
        "fdtable": {"max_fds": "unsigned int", "fd": "struct file **"},
        "fs_struct": {"root": "struct path"},
        # Of every architecture: which of them a program names depends on pylsm.arch.
        "pt_regs": {
            **dict.fromkeys(("di", "si", "dx", "cx", "r8", "r9", "r10", "orig_ax"), "unsigned long"),
            "regs": "unsigned long[31]",
            "syscallno": "int",
        },
    }
)


def field_of(typed: Typed, path: str) -> Field:
    """The field of a typed pointer that is named by a string, such as "thread_info.flags" or "regs[2]"."""
    name, *rest = path.partition("[")[0].split(".")
    found: Field = getattr(typed, name)
    for name in rest:
        found = getattr(found, name)
    index = path.partition("[")[2]
    return found[int(index[:-1])] if index else found


class Probe:
    """One audit program while it is written.

    Args:
        a: its assembler; nothing emitted yet.
        verdict: the index of the argument that holds the verdict so far, or None where there is none to return.
        typed_task: the kernel has the helper get_current_task_btf (5.11), whose fields can be loaded directly.
        tgid: where to keep the current tgid, a TGID on the stack; by default a slot of its own.
        marks: traced processes carry a mark (`pylsm.audit.maps.MARKS`); needs typed_task, and task storage (5.12).
        select: by what a process that is not traced joins the family now (`pylsm.audit.programs.select`).

    Attributes:
        counted: where a run ends that is counted as was said last (`count_as`).
    """

    def __init__(
        self,
        a: Asm,
        verdict: int | None,
        *,
        typed_task: bool = True,
        tgid: View | None = None,
        marks: bool = False,
        select: Sequence[str] = (),
    ) -> None:
        self.a = a
        self._select = select
        self._verdict = verdict
        self._typed_task = typed_task
        self.marks = marks
        self.counted = a.label("count")
        self._out = a.label("out")
        # In a slot and not in a register, so that the verifier follows what all runs end with only once.
        self._slot = a.stack(4, "counter")
        self._counter = u32[self._slot]
        self.tgid = tgid or a.stack(TGID, "tgid")
        a.mov(R6, R1)

    def require_traced(self) -> Typed | None:
        """Leave unless the current process is of a traced family; clobbers r0-r5, r7 and r8.

        Returns:
            With marks, the leader of the process, in r8, and r7 = the address of the SETTINGS; without, None, and the
            tgid is on the stack.
        """
        a = self.a
        self.count_as("untraced")
        if self.marks:
            if self._select:
                unknown, traced = a.label("of no family"), a.label("of the family")
                leader = find_traced(a, self.tgid, unknown)
                a.ja(traced)
                a.bind(unknown)
                self._join(leader)
                a.bind(traced)
                return leader
            return find_traced(a, self.tgid, self.counted)
        a.call("get_current_pid_tgid")
        a.rsh(R0, 32)
        a.stx(self.tgid.tgid, R0)
        a.call("map_lookup_elem", TRACED, self.tgid)
        if not self._select:
            a.jeq(R0, 0, self.counted)
            return None
        with a.if_(R0, "==", 0):
            self._join()
        return None

    def _join(self, leader: Typed | None = None) -> None:
        from pylsm.audit.programs import select

        select.join(self.a, self._select, self.tgid, self.counted, leader=leader)

    def leave(self, counter: str) -> None:
        """Count the run as ``counter`` (a field of COUNTERS, or `RECORDED`) and end."""
        if counter == RECORDED:
            self.a.ja(self._out)
            return
        self.count_as(counter)
        self.a.ja(self.counted)

    def count_as(self, counter: str) -> None:
        """What the run is to be counted as, if nothing else is said before it ends (one instruction)."""
        self.a.st(self._counter, COUNTERS.fields.index(counter))

    def leave_if(self, left: Register, condition: str, right: int, counter: str) -> None:
        """Count the run as ``counter`` and end when the condition holds (two instructions)."""
        self.count_as(counter)
        self.a.jump(left, condition, right, self.counted)

    def current_task(self, dst: Register) -> Typed:
        """``dst`` = the current task; clobbers r0-r5. Its fields are read with `read_task`."""
        a = self.a
        a.call("get_current_task_btf" if self._typed_task else "get_current_task")
        if dst is not R0:
            a.mov(dst, R0)
        return a.typed(dst, "task_struct")

    def read_task(self, dst: Register, field: Field, word: View) -> None:
        """``dst`` = a field reached from the current task; may clobber r1-r5 and the 8 bytes of ``word``."""
        if self._typed_task:
            self.a.load(dst, field)
        else:
            self.a.probe_load(dst, field, word)

    def number(self, dst: Register) -> None:
        """``dst`` = the number of the record to come (`take_number`); clobbers r0-r5.

        The record is then sent, or counted as "lost"; no room for it may be reserved yet.
        """
        take_number(self.a, dst, self._slot, self._out, atomics=self.marks)

    def reserve(self, layout: Record, kind: int) -> View:
        """r8 = a record with its header, reserved in the ring; r9 = its number. Clobbers r0-r5."""
        a = self.a
        self.number(R9)
        a.call("ringbuf_reserve", RING, layout.size, 0)
        with a.if_(R0, "==", 0):
            self.leave("lost")
        a.mov(R8, R0)
        record = a.view(R8, layout)
        self.header(record, kind, R9)
        return record

    def header(self, record: View, kind: int, number: Register | None = None, *, numbered: bool = True) -> None:
        """Fill the header of a record; clobbers r0-r5.

        Args:
            number: a register that holds what `number` gave; None takes one now, for a record that can still be lost.
            numbered: False leaves the number out, for a record that can still be filtered.
        """
        a = self.a
        if numbered:
            if number is None:
                self.number(R1)
            a.stx(record.sequence, number or R1)
        self.stamp(record, kind)
        if self.marks:
            self._who(record)
            return
        a.call("get_current_uid_gid")
        a.stx(record.uid_gid, R0)
        # The helper pads with zeros on some kernels only; on 6.1 it leaves what was behind the name.
        a.st(u64[record["comm"]], 0)
        a.st(u64[record["comm"] + 8], 0)
        a.call("get_current_comm", record["comm"], 16)

    def stamp(self, record: View, kind: int) -> None:
        """What a record is, when, where and of which thread; clobbers r0-r5."""
        a = self.a
        a.st(record.source, SOURCE_LSM)
        # With the flags, which are 0, in one store.
        a.st(u32[record["kind"]], int.from_bytes(struct.pack("=HH", kind, 0), sys.byteorder))
        a.call("get_smp_processor_id")
        a.stx(record.cpu, R0)
        a.call("get_current_pid_tgid")
        a.stx(record.pid_tgid, R0)
        a.call("ktime_get_boot_ns")
        a.stx(record.time, R0)

    def _who(self, record: View) -> None:
        """Ids and name of the current task by loads, which cost a fifth of the helpers; clobbers r0-r5."""
        a = self.a
        task = self.current_task(R0)
        cred = a.load(R3, task.cred)
        assert cred is not None
        a.load(R1, cred.gid.val)
        a.lsh(R1, 32)
        a.load(R2, cred.uid.val)
        a.or_(R1, R2)
        a.stx(record.uid_gid, R1)
        a.address(R3, task.comm)
        for offset in (0, 8):
            a.ldx(R1, u64[R3 + offset])
            a.stx(u64[record["comm"] + offset], R1)

    def finish(self, counter: str | None) -> None:
        """The only exit: count the run (when control falls through as ``counter``, or None: as was said) and return the
        verdict.
        """
        a = self.a
        if counter is not None:
            self.leave(counter) if counter == RECORDED else self.count_as(counter)
        a.bind(self.counted)
        _count(a, self._slot)
        a.bind(self._out)
        if self._verdict is None:
            a.mov(R0, 0)
        else:
            a.ldx(R0, u64[R6 + 8 * self._verdict])
        a.exit_()


def find_traced(a: Asm, tgid: View, out: Label) -> Typed:
    """r0 = the address of the current process's tag, found by the mark of its leader or else by number; goes to ``out``
    if it is not traced. Returns the leader, in r8; r7 = the address of the SETTINGS; clobbers r1-r5.

    What is not traced has no storage at all on most machines: a load tells, and no map is searched. No mark: somebody
    else's storage, a mark that could not be made, or one that another program of this CPU is just looking for (before
    6.2 the kernel then finds none).
    """
    stored, traced = a.label("storage"), a.label("traced")
    a.ld_map_value(R7, SET)
    a.call("get_current_task_btf")
    leader = a.load(R8, a.typed(R0, "task_struct").group_leader)
    assert leader is not None
    a.load(R1, leader.bpf_storage)
    a.jne(R1, 0, stored)
    a.ldx(R1, a.view(R7, SETTINGS).marked)
    a.jne(R1, 0, out)
    unmarked = a.here("no mark")
    a.load(R1, leader.tgid)
    a.stx(tgid.tgid, R1)
    a.call("map_lookup_elem", TRACED, tgid)
    a.jeq(R0, 0, out)
    a.ja(traced)
    a.bind(stored)
    a.call("task_storage_get", MARKS, R8, 0, 0)
    a.jeq(R0, 0, unmarked)
    a.bind(traced)
    return leader


def take_number(a: Asm, dst: Register, slot: View, out: Label, *, atomics: bool) -> None:
    """``dst`` = how many records this CPU has numbered before, and one more is; clobbers r0-r5.

    Args:
        slot: 4 bytes of stack.
        out: where the verifier is told to go on if there is no such counter; there always is.
        atomics: the kernel has fetching atomics (5.12). A load and an add are as good where no other program comes in
            between: kprobes and tracepoints are not preempted, nor are the kernels that old that distributions ship.
    """
    a.st(u32[slot], COUNTERS.fields.index("numbered"))
    a.call("map_lookup_elem", COUNTS, slot)
    a.jeq(R0, 0, out)
    a.mov(dst, 1)
    if atomics:
        a.atomic_add(u64[R0], dst, fetch=True)
    else:
        a.mov(R2, dst)
        a.ldx(dst, u64[R0])
        a.atomic_add(u64[R0], R2)


def count(a: Asm, counter: str) -> None:
    """Add one to ``counter``, a field of COUNTERS; clobbers r0-r5."""
    slot = a.stack(4, "counter")
    a.st(u32[slot], COUNTERS.fields.index(counter))
    _count(a, slot)


def _count(a: Asm, slot: View) -> None:
    a.call("map_lookup_elem", COUNTS, slot)
    with a.if_(R0, "!=", 0):
        a.mov(R1, 1)
        # Atomic although per CPU: a program of a task that preempts this one counts here too.
        a.atomic_add(u64[R0], R1)
