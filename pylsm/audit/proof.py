"""No program is attached that could do more than observe: each is proved first, as it is, on every start."""

from __future__ import annotations

from collections.abc import Sequence

from pylsm.asm import Program
from pylsm.asm.verify import returns_unchanged, why_no_veto
from pylsm.audit.events import KINDS
from pylsm.audit.maps import WALKERS, again
from pylsm.light import TYPE_CHECKING

if TYPE_CHECKING:
    from pylsm.asm.proof import Proof
    from pylsm.btf import Btf

__all__ = ["TAIL_CALLS", "require_observe_only", "verdict_argument"]

#: Program arrays that the audit fills, with programs that are proved like the others: walkers, and programs themselves.
TAIL_CALLS = (WALKERS.name, *(again(name).name for kind in KINDS for name in kind.programs))


def require_observe_only(programs: Sequence[Program], kernel: Btf | None = None) -> list[Proof]:
    """Prove that the programs observe only; about 1 ms for all of an audit.

    Args:
        programs: with or without references.
        kernel: its types, by default the running kernel's; read only if a program can veto.

    Raises:
        NotProved: one of them may do more; nothing of it should be attached then.
        BtfNotFound: this kernel has no such hook.
    """
    return [
        returns_unchanged(program, verdict_argument(program.section, kernel), tail_calls=TAIL_CALLS)
        for program in programs
    ]


def verdict_argument(section: str, kernel: Btf | None = None) -> int | None:
    """Which argument of a hook holds the verdict so far: the one after those of the kernel function, or None.

    A program at a hook that returns a value is called with the hook's arguments and, behind them, what the hook has
    returned so far (kernel/bpf/trampoline.c). How many those are is asked of the kernel, not of the program.

    Raises:
        BtfNotFound: this kernel has no such hook.
    """
    if why_no_veto(section):
        return None
    kind, _, target = section.partition("/")
    if kind not in ("lsm", "lsm.s", "fmod_ret", "fmod_ret.s"):
        return None
    if kernel is None:
        from pylsm.btf import Btf

        kernel = Btf.kernel()
    function = kernel.func_proto(f"bpf_lsm_{target}" if kind.startswith("lsm") else target)
    return len(function.params) if function.return_type_id else None
