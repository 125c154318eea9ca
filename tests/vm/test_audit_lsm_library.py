"""tests/cases/library.py over LSM hooks."""

import pytest
from cases.library import *  # noqa: F403

pytestmark = pytest.mark.vm
