"""tests/cases/load.py over LSM hooks."""

import pytest
from cases.load import *  # noqa: F403
from cases.load import pytestmark as needs_the_workload

pytestmark = [pytest.mark.vm, needs_the_workload]
