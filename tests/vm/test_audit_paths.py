"""tests/cases/paths.py over every backend."""

import pytest
from cases.lab import BACKENDS
from cases.paths import *  # noqa: F403

pytestmark = pytest.mark.vm


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)
