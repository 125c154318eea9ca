"""tests/cases/kinds.py over LSM hooks, fentry and kprobes; and over system calls on this kernel."""

import pytest
from cases.kinds import *  # noqa: F403
from cases.lab import BACKENDS

pytestmark = pytest.mark.vm


@pytest.fixture(scope="module", params=BACKENDS)
def kinds_source(request: pytest.FixtureRequest) -> str:
    return str(request.param)
