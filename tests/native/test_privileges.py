"""tests/cases/privileges.py over system call tracepoints."""

import pytest
from cases.privileges import *  # noqa: F403

pytestmark = pytest.mark.root
