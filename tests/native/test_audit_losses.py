"""tests/cases/losses.py, natively over raw tracepoints."""

import pytest
from cases.losses import *  # noqa: F403

pytestmark = pytest.mark.root
