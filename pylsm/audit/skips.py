"""How often the kernel did not run the programs of an audit: what they would have seen, nobody knows.

A program is not entered again on a CPU where a run of it has not ended: the kernel then skips it and counts that
(``recursion_misses``). For most programs that happens when they interrupt themselves; but those of tracepoints can be
preempted since Linux 7, those at the entry of functions since 5.12 where the kernel preempts itself, and all other
tasks on that CPU find them busy meanwhile. Programs of LSM hooks are always run.

The count is the machine's: whether a traced process was concerned is not known.
"""

from __future__ import annotations

from pylsm.audit.sources import copies
from pylsm.light import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pylsm.loader import LoadedProgram

__all__ = ["Skips"]

_BIRTHS, _ENDS = copies("sched_process_fork"), copies("sched_process_exit")
#: Programs that do the same: only what all of them missed was missed.
_COPIED = (_BIRTHS, _ENDS, copies("sched_process_exec"))


class Skips:
    """Counts them.

    Args:
        programs: those that the kernel enters, by name; those of LSM hooks may be left out.
    """

    def __init__(self, programs: Mapping[str, LoadedProgram]) -> None:
        single = [(name,) for name in programs if not any(name in group for group in _COPIED)]
        self._groups = {
            group: present
            for group in (*_COPIED, *single)
            if (present := [programs[name] for name in group if name in programs])
        }

    def runs(self, *, births: bool = True) -> int:
        """Runs that were skipped: so many events at most are missing, or children with all that they do.

        Without ends of processes, which are no events.

        Args:
            births: False where a child is traced all the same: it was marked by a program of an LSM hook.
        """
        left_out = (_ENDS,) if births else (_ENDS, _BIRTHS)
        return sum(map(_missed, (programs for group, programs in self._groups.items() if group not in left_out)))

    def births(self) -> int:
        """Births that were skipped: it grows where the map of traced processes may lack one."""
        return _missed(self._groups.get(_BIRTHS, []))

    def ends(self) -> int:
        """Ends that were skipped: of so many processes at most the map of traced ones may still have the numbers."""
        return _missed(self._groups.get(_ENDS, []))


def _missed(group: list[LoadedProgram]) -> int:
    return min((program.info.recursion_misses for program in group), default=0)
