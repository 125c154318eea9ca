"""tests/cases/pinning.py, natively over raw tracepoints."""

import pytest
from cases.pinning import *  # noqa: F403

pytestmark = pytest.mark.root
