"""tests/cases/outputs.py, natively over raw tracepoints."""

import pytest
from cases.outputs import *  # noqa: F403

pytestmark = pytest.mark.root
