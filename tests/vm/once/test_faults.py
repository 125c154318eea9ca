"""tests/cases/faults.py over LSM hooks."""

import pytest
from cases.faults import *  # noqa: F403

pytestmark = pytest.mark.vm
