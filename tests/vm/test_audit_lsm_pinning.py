"""tests/cases/pinning.py over LSM hooks."""

import pytest
from cases.pinning import *  # noqa: F403

pytestmark = pytest.mark.vm
