"""tests/cases/containers.py, natively over raw tracepoints."""

import pytest
from cases.containers import *  # noqa: F403

pytestmark = pytest.mark.root
