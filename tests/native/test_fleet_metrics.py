"""What an audit says of itself: metrics, health, and to a service manager."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from cases.cli import PYLSM, pylsm
from cases.fleet import free_port, listening
from cases.lab import eventually

pytestmark = pytest.mark.root


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_metrics_and_health(place: Path) -> None:
    parser = pytest.importorskip("prometheus_client.parser", reason="needs the extra `sinks`")
    port = free_port()
    options = ("--metrics", str(port), "--spool", place / "spool", "--sink", f"file://{place}/out", "-o", "/dev/null")
    command = [*PYLSM, "run", "-q", *map(str, options), "--", "sh", "-c", "cat /etc/hostname; exec sleep 60"]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    def samples() -> dict[str, float]:
        status, text = get(port, "/metrics")
        assert status == 200
        families = parser.text_string_to_metric_families(text)
        return {
            sample.name + "".join(f",{v}" for k, v in sorted(sample.labels.items()) if k != "sink"): sample.value
            for family in families
            for sample in family.samples
        }

    try:
        assert eventually(lambda: listening(port))
        assert eventually(lambda: get(port, "/healthz") == (200, "ok\n"))
        assert eventually(lambda: samples().get("pylsm_recorded_total", 0) > 0)
        assert eventually(lambda: samples()["pylsm_sink_delivered_total"] > 0)
        found = samples()
        assert found["pylsm_lost_total,ring-full"] == 0
        assert found["pylsm_ring_size_bytes"] == 4 << 20
        assert found["pylsm_sink_up,ok"] == 1
        assert found["pylsm_sink_lag_events"] == 0
        assert found["pylsm_spool_bytes"] > 0
        assert any(name.startswith("pylsm_program_seconds_total,") and value > 0 for name, value in found.items())
        assert get(port, "/nothing")[0] == 404
        running.send_signal(signal.SIGSTOP)  # an audit that does nothing any more
        assert eventually(lambda: get(port, "/healthz")[0] == 503)
        running.send_signal(signal.SIGCONT)
        assert eventually(lambda: get(port, "/healthz")[0] == 200)
    finally:
        running.send_signal(signal.SIGCONT)
        running.terminate()
        _, err = running.communicate(timeout=60)
    assert "Traceback" not in err


def test_bad_addresses(place: Path) -> None:
    pytest.importorskip("prometheus_client", reason="needs the extra `sinks`")
    assert "is no address to listen at" in pylsm("run", "--metrics", "x", "--", "true").stderr
    assert "--metrics is with --sink or --spool" in pylsm("run", "--metrics", "9464", "--", "true").stderr
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ran = pylsm("run", "--metrics", port, "--spool", place / "spool", "--", "true")
        assert ran.returncode == 125
        assert f"--metrics 127.0.0.1:{port}: Address already in use" in ran.stderr


@pytest.mark.parametrize("abstract", [False, True])
def test_a_service_manager_is_told(place: Path, abstract: bool) -> None:
    """Ready after the self-test, alive at least as often as asked."""
    name = f"@pylsm-{os.getpid()}" if abstract else str(place / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name[1:] if abstract else name)
        manager.settimeout(20)
        environment = {**os.environ, "NOTIFY_SOCKET": name, "WATCHDOG_USEC": "1000000"}
        command = [*PYLSM, "run", "-o", "/dev/null", "--", "sleep", "60"]
        running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        try:
            assert manager.recv(100) == b"READY=1"
            assert [manager.recv(100) for _ in range(3)] == [b"WATCHDOG=1"] * 3
        finally:
            running.terminate()
            _, err = running.communicate(timeout=60)
        assert "attached to" in err
