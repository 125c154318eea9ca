"""tests/cases/containers.py over LSM hooks."""

import pytest
from cases.containers import *  # noqa: F403

pytestmark = pytest.mark.vm
