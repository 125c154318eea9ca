"""tests/cases/connects.py over LSM hooks."""

import pytest
from cases.connects import *  # noqa: F403

pytestmark = pytest.mark.vm
