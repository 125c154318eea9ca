"""tests/cases/pinning.py on this kernel, and what no kernel is asked for."""

from pathlib import Path

import pytest
from cases.cli import pylsm
from cases.pinning import *  # noqa: F403

pytestmark = pytest.mark.root


def test_options_that_contradict_each_other(place: Path) -> None:
    for options in (
        ["--adopt", place, "--backend", "fentry"],
        ["--adopt", place, "--ring-size", "8M"],
        ["--pin", place, "-p", "1", "--ringbuf", "/x"],
        ["--pin", place, "--traced-map", "/x"],
        ["--pin", place, "--adopt", place],
        ["--pin", place],
    ):
        done = pylsm("attach", *options)
        assert done.returncode == 2, (options, done.stderr)
