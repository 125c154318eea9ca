"""tests/cases/commands.py, natively over raw tracepoints."""

import pytest
from cases.commands import *  # noqa: F403

pytestmark = pytest.mark.root
