"""tests/cases/losses.py over LSM hooks."""

import pytest
from cases.losses import *  # noqa: F403

pytestmark = pytest.mark.vm
