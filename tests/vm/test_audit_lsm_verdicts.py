"""tests/cases/verdicts.py over LSM hooks."""

import pytest
from cases.verdicts import *  # noqa: F403

pytestmark = pytest.mark.vm
