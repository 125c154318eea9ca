"""tests/cases/filters.py, natively over raw tracepoints."""

import pytest
from cases.filters import *  # noqa: F403

pytestmark = pytest.mark.root
