"""tests/cases/outputs.py, natively over raw tracepoints."""

import json
import sys
from pathlib import Path

import pytest
from cases.outputs import *  # noqa: F403
from cases.published import check_ecs, ocsf_validator
from jsonschema import Draft202012Validator

from pylsm.output import ecs, ocsf
from pylsm.output.schema import schema

pytestmark = pytest.mark.root

#: Does what raw tracepoints can record: programs, an exit by a signal, all that sockets do, a script without a name.
ACTS = """
cat /etc/hostname
sh -c 'kill -9 $$'
exec "$0" -IS -c '
import socket
s = socket.socket(); s.bind(("127.0.0.1", 0)); s.listen(5); socket.create_connection(s.getsockname())
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", 53))'
"""


@pytest.mark.parametrize("more", [(), ("--context",)], ids=["plain", "with context"])
def test_all_that_is_recorded_holds_the_definitions(tmp_path: Path, more: tuple[str, ...]) -> None:
    log = tmp_path / "log"
    arguments = ("--format", "json", "--heartbeat", "5", "--timestamps", "--events", "all", *more, "-o", log)
    result = pylsm("run", "-q", *arguments, "--", "sh", "-c", ACTS, sys.executable)  # noqa: F405
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    expected = {"open", "connect", "sendto", "exec", "exit", "fork", "bind", "listen", "heartbeat"}
    assert expected <= {line["event"] for line in lines}
    assert any(line["event"] == "exit" and line["signal"] == 9 and line["status"] is None for line in lines)
    validator = Draft202012Validator(schema(strict=True))
    for line in lines:
        validator.validate(line)
        if line["event"] != "heartbeat":
            check_ecs(ecs.from_dict(line))
            event = ocsf.from_dict(line)
            ocsf_validator(event, ocsf.VERSION).validate(event)
