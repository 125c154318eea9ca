"""tests/cases/sharing.py, natively over raw tracepoints."""

import pytest
from cases.sharing import *  # noqa: F403

pytestmark = pytest.mark.root
