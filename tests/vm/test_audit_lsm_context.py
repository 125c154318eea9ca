"""tests/cases/context.py over LSM hooks."""

import pytest
from cases.context import *  # noqa: F403

pytestmark = pytest.mark.vm
