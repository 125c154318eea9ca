"""tests/cases/outputs.py over LSM hooks."""

import pytest
from cases.outputs import *  # noqa: F403

pytestmark = pytest.mark.vm
