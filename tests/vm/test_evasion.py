"""tests/evasion by every backend: each case is seen, or not seen for the reason that is given.

The burst of processes that tools/evasion makes takes an emulated machine most of a minute by each backend, all of which
trace the family by the same programs: here it is a tenth of that.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cases.lab import BACKENDS, Lab
from evasion import attempts
from evasion.attempts import ATTEMPTS, Attempt
from evasion.judge import judge

from pylsm.audit.session import Audit

pytestmark = pytest.mark.vm


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[Lab]:
    with Audit(source=request.param, ring_bytes=16 << 20) as audit:
        yield Lab(audit)


@pytest.mark.parametrize("case", ATTEMPTS, ids=[f"{case.group}: {case.name}" for case in ATTEMPTS])
def test_seen_or_said_why_not(backend: Lab, case: Attempt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "BURST", attempts.BURST // 10)
    reason = case.unseen.get(backend.audit.source.name, "")
    result, detail = judge(backend, case)
    if result == "absent":
        pytest.skip(detail)
    if reason.startswith("may: "):
        return
    assert result == ("not seen" if reason else "seen"), detail
