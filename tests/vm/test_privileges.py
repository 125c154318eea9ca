"""tests/cases/privileges.py over LSM hooks."""

import pytest
from cases.privileges import *  # noqa: F403

pytestmark = pytest.mark.vm
