"""tests/cases/commands.py over LSM hooks."""

import pytest
from cases.commands import *  # noqa: F403

pytestmark = pytest.mark.vm
