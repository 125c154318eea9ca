"""tests/cases/paths.py over the backend that this kernel has in any case."""

import pytest
from cases.paths import *  # noqa: F403

pytestmark = pytest.mark.root


@pytest.fixture
def backend() -> str:
    return "raw_tracepoint"
