"""tests/cases/connects.py, natively over raw tracepoints."""

import pytest
from cases.connects import *  # noqa: F403

pytestmark = pytest.mark.root
