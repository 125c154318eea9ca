"""tests/cases/opens.py, natively over raw tracepoints."""

import pytest
from cases.opens import *  # noqa: F403

pytestmark = pytest.mark.root
