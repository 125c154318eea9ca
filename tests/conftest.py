"""Which tests run here, and the audit that most tests of the probe share."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

pytest.register_assert_rewrite("cases")

# An example may take long on a busy machine; a test that hangs is ended by its timeout.
settings.register_profile("busy", deadline=None)
settings.load_profile("busy")

from cases.lab import BACKENDS, CONNECTS_AND_OPENS, Lab  # noqa: E402

from pylsm.audit.session import Audit  # noqa: E402

# A shell starts what runs in its background with INT and QUIT ignored, nohup does so with HUP; children inherit that.
for _number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _number is signal.SIGINT else signal.SIG_DFL)

_BPFFS = "/sys/fs/bpf"
IN_VM = bool(os.environ.get("PYLSM_VM"))
# Natively these are not even collected: one line says so, in place of a skip for each.
collect_ignore = [] if IN_VM else ["vm"]


_BEGAN = time.monotonic()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--minutes", type=float, default=0.0, help="skip tests that have not begun by then (0: none)")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    minutes = item.config.getoption("--minutes")
    if minutes and time.monotonic() - _BEGAN > minutes * 60:
        pytest.skip(f"not begun after {minutes:g} minutes, which is all that this kernel gets (tools/test)")


def pytest_configure() -> None:
    # Where no systemd has done so; it stays, since another run of the tests may be using it.
    if os.geteuid() == 0 and not os.path.ismount(_BPFFS):
        subprocess.run(["mount", "-t", "bpf", "bpf", _BPFFS], check=False)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not IN_VM:
        terminalreporter.write_line("tests/vm: not run here; they need tools/vm -- python3 -m pytest tests/vm")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    no_root = pytest.mark.skip(reason="needs root")
    for item in items:
        if item.get_closest_marker("root") and os.geteuid() != 0:
            item.add_marker(no_root)


@pytest.fixture(scope="session")
def source() -> str:
    """The source of events under test: the best that this kernel is known to have."""
    return BACKENDS[0] if IN_VM else "raw_tracepoint"


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that every user can reach, as those of pytest cannot be: what delivers events is nobody."""
    with tempfile.TemporaryDirectory(prefix="pylsm-") as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.fixture(scope="session")
def shared_audit(source: str) -> Iterator[Audit]:
    with Audit(source=source, events=CONNECTS_AND_OPENS) as audit:
        yield audit


@pytest.fixture
def lab(shared_audit: Audit) -> Iterator[Lab]:
    """Processes made to order, traced by one audit that lasts as long as the session."""
    lab = Lab(shared_audit)
    lab.drain()
    yield lab
    lab.drain()
    counts = shared_audit.counts()
    assert (counts.leaked, counts.malformed, counts.foreign) == (0, 0, 0)
    assert shared_audit.family() == set(), "processes stayed behind, or their entries did"
