"""A spool with many events, engines that come and go, and what has arrived."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cases.cli import PYLSM
from cases.lab import eventually
from pylsm.audit.events import Connect, FileOpen
from pylsm.output import jsonl
from pylsm.ship.identity import identify
from pylsm.ship.place import courier, make_directory
from pylsm.ship.spool import Cursor, SpoolWriter

MANY = 100_000
_ADDRESS = socket.inet_aton("192.0.2.7") + bytes(12)


def events(start: int, count: int) -> Iterator[str]:
    """Lines as an audit writes them, each with a number of its own (``sequence``); every tenth is a connect."""
    fields = {"pid_tgid": 7 << 32 | 7, "time": 10**18, "sequence": 424242, "comm": b"worker"}
    opened = jsonl.render(FileOpen.make(path=b'/srv/data/424242/\xff "x"\\\n', granted=1, **fields))
    family = int(socket.AF_INET)
    connected = jsonl.render(Connect.make(family=family, address=_ADDRESS, port=443, **fields))
    for n in range(start, start + count):
        line = (opened if n % 10 else connected).replace("424242", str(n))
        yield line.replace('"pid":7,', f'"pid":{1000 + n % 50},').replace(str(10**18), str(10**18 + n))


class Spool:
    """A spool that a writer has left."""

    def __init__(self, directory: Path, count: int = MANY) -> None:
        self.directory = make_directory(str(directory), courier())
        self.identity = identify(self.directory)
        self.count = 0
        self.add(count)

    def add(self, count: int) -> None:
        writer = SpoolWriter(self.directory, 1 << 30, "drop-oldest")
        lines = [line.encode() for line in events(self.count, count)]
        for start in range(0, count, 4096):
            writer.append(lines[start : start + 4096])
        writer.close()
        self.count += count

    def delivered(self) -> int:
        """How many the slowest sink has acknowledged."""
        names = [name for name in os.listdir(self.directory) if name.startswith("cursor-")]
        numbers = []
        for name in names:
            cursor = Cursor(os.path.join(self.directory, name), read_only=True)
            numbers.append(max(0, cursor.position.number - 1))
            cursor.close()
        return min(numbers, default=0)

    def ship(self, *urls: str, options: Iterable[str] = ("--until-empty",)) -> subprocess.Popen[str]:
        """Begin to deliver."""
        sinks = [argument for url in urls for argument in ("--sink", url)]
        command = [*PYLSM, "ship", "--spool", self.directory, *sinks, *options]
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)

    def until(self, part: float, process: subprocess.Popen[str]) -> None:
        """Until so much of it is delivered."""
        wanted = part * self.count
        assert eventually(lambda: self.delivered() >= wanted or process.poll() is not None, 60)
        assert process.poll() is None, process.communicate()[1]

    def check(self, lines: Iterable[bytes | str]) -> None:
        """All have arrived, in order; those that came twice are told by their id."""
        seen: set[str] = set()
        numbers = []
        for line in lines:
            event = json.loads(line)
            if event["id"] not in seen:
                seen.add(event["id"])
                numbers.append(event["sequence"])
        assert len(numbers) == self.count, f"{self.count - len(numbers)} are missing"
        assert numbers == list(range(self.count)), "the order is another"


def finish(process: subprocess.Popen[str], status: int = 0) -> str:
    """What a delivery said until its end."""
    _, err = process.communicate(timeout=120)
    assert "Traceback" not in err, err
    assert process.returncode == status, err
    return err


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL to it and to the process that it has started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Server:
    """An engine of the system's, as a process; ``start`` and ``stop`` as often as wanted."""

    def __init__(self, command: list[Any], ready: Callable[[], bool], log: Path, **options: Any) -> None:
        self._command = [str(argument) for argument in command]
        self._ready, self._log, self._options = ready, log, options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Server:
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, **self._options)
        process = self._process
        assert eventually(lambda: self._ready() or process.poll() is not None), "it does not listen"
        assert process.poll() is None, self._log.read_text()
        return self

    def stop(self, number: int = signal.SIGTERM) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            process.wait(30)

    def __enter__(self) -> Server:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop(signal.SIGKILL)


def restart_and_outage(spool: Spool, process: subprocess.Popen[str], server: Server, outage: float = 1.5) -> None:
    """In the middle of a delivery: the server is started again, then killed and gone for a while."""
    spool.until(0.2, process)
    server.stop()
    server.start()
    spool.until(0.5, process)
    server.stop(signal.SIGKILL)
    time.sleep(outage)
    server.start()


@contextmanager
def authority(directory: Path) -> Iterator[dict[str, Path]]:
    """Certificates: an authority's, a server's for 127.0.0.1 and localhost, another authority's."""

    def openssl(*arguments: Any) -> None:
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, cwd=directory)

    made = {name: directory / f"{name}.pem" for name in ("ca", "ca_key", "cert", "key", "other", "other_key")}
    for ca, key in (("ca", "ca_key"), ("other", "other_key")):
        openssl(
            *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", 2, "-subj", f"/CN={ca}"),
            *("-keyout", made[key], "-out", made[ca]),
        )
    names = directory / "names"
    names.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    request = directory / "request"
    openssl(
        *("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-keyout", made["key"], "-out", request)
    )
    openssl(
        *("x509", "-req", "-in", request, "-CA", made["ca"], "-CAkey", made["ca_key"], "-CAcreateserial", "-days", 2),
        *("-extfile", names, "-out", made["cert"]),
    )
    yield made


def python(code: str, *arguments: Any) -> list[Any]:
    """A command that runs this code."""
    return [sys.executable, "-c", code, *arguments]
