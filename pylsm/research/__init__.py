"""Experiments with verifiers: load generated programs by the thousand, sort what comes back, shrink what is odd.

Uses `pylsm.asm` and `pylsm.loader`; nothing else of pylsm knows it. On the command line: ``python -m pylsm.research``.
"""

from pylsm.research.campaign import Campaign, Tally, campaign
from pylsm.research.outcome import Outcome, reason_class, try_load
from pylsm.research.shrink import shrink

__all__ = ["Campaign", "Outcome", "Tally", "campaign", "reason_class", "shrink", "try_load"]
