"""How a hook program is entered: the same body behind an LSM hook, at a function's entry, or in a kprobe."""

from __future__ import annotations

from pylsm.arch import Architecture, with_registers
from pylsm.asm import R6, Asm, Register, u64
from pylsm.audit.programs.common import KERNEL, field_of
from pylsm.light import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Final

__all__ = ["FENTRY", "HOOKS", "KPROBE", "LSM", "TRACEPOINT", "Hook", "at_entry"]


class Hook(NamedTuple):
    """One way to be called when the kernel asks its security modules.

    Attributes:
        name: also the first part of the section.
        function: what stands before the hook's name in that of the function attached to.
        verdict: the program's result is the verdict on the operation, so it has to return the one it was given.
        typed: arguments come as typed pointers in the context's slots, whose fields can be loaded directly; otherwise
            the context is the registers, and all behind a pointer is read through a helper.
    """

    name: str
    function: str
    verdict: bool
    typed: bool

    def section(self, hook: str) -> str:
        """Where a program for ``hook`` attaches: "lsm/file_open", "kprobe/security_file_open"."""
        return f"{self.name}/{self.function}{hook}"

    def asm(self, hook: str, name: str = "") -> Asm:
        """An empty program for ``hook``, called ``name`` in the kernel."""
        return Asm(self.section(hook), name=name or hook, types=KERNEL)

    def argument(self, a: Asm, dst: Register, index: int, arch: Architecture | None) -> None:
        """``dst`` = argument ``index`` of the hook, from the context in r6 (one instruction)."""
        if self.typed:
            a.ldx(dst, u64[R6 + 8 * index])
        else:
            a.load(dst, field_of(a.typed(R6, "pt_regs"), (arch or with_registers()).arguments[index]))


LSM: Final = Hook("lsm", "", True, True)
FENTRY: Final = Hook("fentry", "security_", False, True)
KPROBE: Final = Hook("kprobe", "security_", False, False)
HOOKS: Final = (LSM, FENTRY, KPROBE)
#: Raw tracepoints: what is there in the context differs from one to the next.
TRACEPOINT: Final = Hook("raw_tp", "", False, False)


def at_entry(hook: Hook) -> Hook:
    """For hooks whose arguments differ between kernels: at the entry of the function in place of the LSM hook, where a
    program can neither be asked for a verdict nor be mistaken in it."""
    return FENTRY if hook is LSM else hook
