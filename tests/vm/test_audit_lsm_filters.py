"""tests/cases/filters.py, over each backend of the kernel."""

import pytest
from cases.filters import *  # noqa: F403

pytestmark = pytest.mark.vm
