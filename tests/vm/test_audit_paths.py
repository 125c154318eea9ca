"""tests/cases/paths.py over every backend."""

import pytest
from cases.paths import *  # noqa: F403

pytestmark = pytest.mark.vm


@pytest.fixture(params=["lsm", "fentry", "kprobe", "raw_tracepoint"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)
