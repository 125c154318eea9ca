"""tests/cases/threats.py over system call tracepoints."""

import pytest
from cases.threats import *  # noqa: F403

pytestmark = pytest.mark.root
