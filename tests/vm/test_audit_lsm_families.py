"""tests/cases/families.py over LSM hooks."""

import pytest
from cases.families import *  # noqa: F403

pytestmark = pytest.mark.vm
