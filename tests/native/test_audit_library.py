"""tests/cases/library.py, natively over raw tracepoints."""

import pytest
from cases.library import *  # noqa: F403

pytestmark = pytest.mark.root
