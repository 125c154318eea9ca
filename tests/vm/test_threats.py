"""tests/cases/threats.py over LSM hooks."""

import pytest
from cases.threats import *  # noqa: F403

pytestmark = pytest.mark.vm
