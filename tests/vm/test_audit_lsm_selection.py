"""tests/cases/selection.py, over each backend of the kernel."""

import pytest
from cases.selection import *  # noqa: F403

pytestmark = pytest.mark.vm
