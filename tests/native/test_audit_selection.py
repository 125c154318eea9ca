"""tests/cases/selection.py, natively over raw tracepoints."""

import pytest
from cases.selection import *  # noqa: F403

pytestmark = pytest.mark.root
