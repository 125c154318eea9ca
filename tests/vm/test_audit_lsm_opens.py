"""tests/cases/opens.py over LSM hooks."""

import pytest
from cases.opens import *  # noqa: F403

pytestmark = pytest.mark.vm
