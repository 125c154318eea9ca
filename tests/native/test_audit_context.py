"""tests/cases/context.py, natively over raw tracepoints."""

import pytest
from cases.context import *  # noqa: F403

pytestmark = pytest.mark.root
