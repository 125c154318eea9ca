"""tests/cases/faults.py over system call tracepoints."""

import pytest
from cases.faults import *  # noqa: F403

pytestmark = pytest.mark.root
