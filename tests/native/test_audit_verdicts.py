"""tests/cases/verdicts.py, natively over raw tracepoints."""

import pytest
from cases.verdicts import *  # noqa: F403

pytestmark = pytest.mark.root
