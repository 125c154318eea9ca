"""Behind ``tools/bench``: pylsm and its peers, measured side by side."""

from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
#: Built peers, unpacked packages, results; git ignores it.
FOLDER = CHECKOUT / "build" / "bench"
#: The kernel that is measured in the machine.
KERNEL = "6.1"
