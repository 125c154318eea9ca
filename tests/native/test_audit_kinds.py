"""tests/cases/kinds.py, natively over raw tracepoints."""

import pytest
from cases.kinds import *  # noqa: F403

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def kinds_source() -> str:
    return "raw_tracepoint"
