"""Which kinds of events are recorded."""

from __future__ import annotations

import socket
from contextlib import suppress

import pytest

from cases.lab import Lab, look
from pylsm.audit.session import Audit


def _both() -> None:
    look("/etc/hostname")
    with socket.socket(type=socket.SOCK_DGRAM) as sock, suppress(OSError):
        sock.connect(("127.0.0.1", 9))


@pytest.mark.parametrize("chosen", [("connect",), ("open",), ("connect", "open")], ids=",".join)
def test_only_what_was_chosen_is_recorded(source: str, chosen: tuple[str, ...]) -> None:
    with Audit(source=source, events=chosen) as audit:
        assert (audit.events, audit.unseen) == (chosen, ())
        outcome = Lab(audit).run(_both)
        assert {event.name for event in outcome.events} == set(chosen)
        assert outcome.counts.recorded == len(outcome.events)
