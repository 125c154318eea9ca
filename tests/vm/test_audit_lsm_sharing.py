"""tests/cases/sharing.py over LSM hooks."""

import pytest
from cases.sharing import *  # noqa: F403

pytestmark = pytest.mark.vm
