"""tests/cases/kinds.py over LSM hooks."""

import pytest
from cases.kinds import *  # noqa: F403

pytestmark = pytest.mark.vm
