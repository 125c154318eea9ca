"""tests/cases/load.py over system call tracepoints."""

import pytest
from cases.load import *  # noqa: F403
from cases.load import pytestmark as needs_the_workload

pytestmark = [pytest.mark.root, needs_the_workload]
