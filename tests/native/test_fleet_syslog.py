"""Delivery to rsyslog, over TCP, TLS and a unix socket; it is started again and killed meanwhile."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cases.cli import PYLSM, pylsm
from cases.fleet import Server, Spool, authority, finish, free_port, listening, restart_and_outage
from cases.lab import eventually

RSYSLOGD = shutil.which("rsyslogd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(RSYSLOGD is None, reason="needs rsyslog (tools/test installs it)"),
]
_HEAD = (
    "%syslogfacility-text%.%syslogseverity-text% %timereported:::date-rfc3339% %hostname% %app-name% %msgid% "
    "%structured-data%"
)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    with authority(tmp_path_factory.mktemp("certificates")) as made:
        yield made


class Rsyslog(Server):
    """Writes the message of each record to a file, which has nothing but that, and its header to another."""

    def __init__(self, place: Path, module: str, listen: str, ready: str | int, more: str = "") -> None:
        self.out, self.heads = place / "received", place / "heads"
        config = place / "rsyslog.conf"
        config.write_text(
            f"""
global(workDirectory="{place}" maxMessageSize="64k" {more})
module(load="{module}" {listen.partition("|")[0]})
input(type="{module}" {listen.partition("|")[2]})
template(name="message" type="string" string="%msg%\\n")
template(name="head" type="string" string="{_HEAD}\\n")
action(type="omfile" file="{self.out}" template="message")
action(type="omfile" file="{self.heads}" template="head")
"""
        )
        command = [RSYSLOGD, "-n", "-f", config, "-i", place / "rsyslog.pid"]
        is_up = (lambda: listening(ready)) if isinstance(ready, int) else (lambda: os.path.exists(ready))
        super().__init__(command, is_up, place / "rsyslog.log")

    def stop(self, number: int = signal.SIGTERM) -> None:
        super().stop(number)
        (self.out.parent / "rsyslog.pid").unlink(missing_ok=True)
        (self.out.parent / "log").unlink(missing_ok=True)


def test_tcp(place: Path) -> None:
    spool, port = Spool(place / "spool"), free_port()
    with Rsyslog(place, "imtcp", f'|port="{port}"', port) as server:
        process = spool.ship(f"syslog+tcp://127.0.0.1:{port}?settle=2s&facility=local3")
        restart_and_outage(spool, process, server)
        err = finish(process)
        spool.check(server.out.read_bytes().splitlines())
        assert "Connection refused" in err
        assert f"syslog+tcp://127.0.0.1:{port}: delivering again" in err
        identity = spool.identity
        head = server.heads.read_text().splitlines()[0].split(" ", 5)
        assert head[:5] == ["local3.info", "2001-09-09T01:46:40.000000Z", identity.name, "pylsm", "connect"]
        assert head[5] == f'[meta sequenceId="1"][pylsm@32473 id="{identity.event_id(1, 1)}"]'


def test_unix_socket(place: Path) -> None:
    spool, path = Spool(place / "spool"), place / "log"
    listen = f'SysSock.Use="off"|socket="{path}" useSpecialParser="off" parseHostname="on" rateLimit.interval="0"'
    with Rsyslog(place, "imuxsock", listen, str(path)) as server:
        process = spool.ship(f"syslog+unix://{path}?settle=2s")
        restart_and_outage(spool, process, server)
        finish(process)
        spool.check(server.out.read_bytes().splitlines())


def tls(clients: str = "anon") -> str:
    """The listener's side: which clients it takes."""
    return f'streamDriver.name="gtls" streamDriver.mode="1" streamDriver.authMode="{clients}"|'


def defaults(certificates: dict[str, Path]) -> str:
    files = (("CA", "ca"), ("Cert", "cert"), ("Key", "key"))
    named = " ".join(f'defaultNetstreamDriver{name}File="{certificates[key]}"' for name, key in files)
    return f'defaultNetstreamDriver="gtls" {named}'


def test_tls(place: Path, certificates: dict[str, Path]) -> None:
    spool, port = Spool(place / "spool", 20_000), free_port()
    listen = tls("x509/certvalid") + f'port="{port}"'
    cert, key = certificates["cert"], certificates["key"]
    with Rsyslog(place, "imtcp", listen, port, defaults(certificates)) as server:
        url = f"syslog+tls://localhost:{port}?settle=2s&ca={certificates['ca']}&cert={cert}&key={key}"
        process = spool.ship(url)
        restart_and_outage(spool, process, server)
        finish(process)
        spool.check(server.out.read_bytes().splitlines())


def test_tls_that_is_refused_is_told_from_a_server_that_is_down(place: Path, certificates: dict[str, Path]) -> None:
    port = free_port()
    url = f"syslog+tls://127.0.0.1:{port}"
    down = pylsm("ship", "--check", "--sink", url)
    assert (down.returncode, down.stdout) == (
        1,
        f"NO  down: {url}: Connection refused (events wait in the spool until it answers again)\n",
    )
    with Rsyslog(place, "imtcp", tls() + f'port="{port}"', port, defaults(certificates)):
        unknown = pylsm("ship", "--check", "--sink", url)
        assert unknown.returncode == 1
        assert (
            "its certificate is refused: unable to get local issuer certificate (give the authority" in unknown.stdout
        )
        other = pylsm("ship", "--check", "--sink", f"{url}?ca={certificates['other']}")
        assert "NO  tls: " in other.stdout
        name = pylsm("ship", "--check", "--sink", f"syslog+tls://127.0.0.2:{port}?ca={certificates['ca']}")
        assert "its certificate is refused: IP address mismatch" in name.stdout
        good = pylsm("ship", "--check", "--sink", f"{url}?ca={certificates['ca']}")
        assert (good.returncode, good.stdout) == (0, f"ok  {url}\n")
    with socket.create_server(("127.0.0.1", 0)) as plain:
        port = plain.getsockname()[1]
        command = [*PYLSM, "ship", "--check", "--sink", f"syslog+tls://127.0.0.1:{port}"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        connection, _ = plain.accept()
        connection.sendall(b"220 no TLS here\r\n")
        out, _ = process.communicate(timeout=60)
        connection.close()
        assert "NO  tls: " in out
        assert "does it speak TLS on this port" in out


def test_audit_to_syslog(place: Path) -> None:
    port = free_port()
    with Rsyslog(place, "imtcp", f'|port="{port}"', port) as server:
        url = f"syslog+tcp://127.0.0.1:{port}?settle=1s"
        ran = pylsm("run", "-q", "--spool", place / "spool", "--sink", url, "--", "cat", "/etc/hostname")
        assert ran.returncode == 0, ran.stderr
        assert "not delivered" not in ran.stderr
        assert eventually(lambda: b'"path":"/etc/hostname"' in server.out.read_bytes())
