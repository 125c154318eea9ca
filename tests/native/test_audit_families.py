"""tests/cases/families.py, natively over raw tracepoints."""

import pytest
from cases.families import *  # noqa: F403

pytestmark = pytest.mark.root
