"""Delivery to NATS JetStream, Kafka's mock, OTLP receivers and the journal: started again and killed meanwhile."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cases.cli import PYLSM, pylsm
from cases.fleet import MANY, Server, Spool, authority, events, finish, free_port, listening, restart_and_outage
from cases.lab import eventually

from pylsm.audit.events import FileOpen
from pylsm.output import jsonl
from pylsm.ship.spool import SpoolWriter

pytestmark = pytest.mark.root

REMOTE = "/lib/systemd/systemd-journal-remote"
JOURNALD = "/lib/systemd/systemd-journald"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    with authority(tmp_path_factory.mktemp("certificates")) as made:
        yield made


def check(url: str) -> str:
    """What `ship --check` says of a sink."""
    said = pylsm("ship", "--check", "--sink", url)
    assert said.stderr == ""
    return said.stdout


# ---- NATS JetStream --------------------------------------------------------------------------------------------------


def nats_server(place: Path, port: int, *more: Any) -> Server:
    path = shutil.which("nats-server", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if path is None:
        pytest.skip("needs nats-server (tools/test installs it)")
    command = [path, "-a", "127.0.0.1", "-p", port, "-js", "-sd", place / "jetstream", *more]
    return Server(command, lambda: listening(port), place / "nats.log")


def stored(port: int) -> list[bytes]:
    """All messages of the stream."""
    nats = pytest.importorskip("nats")

    async def fetch() -> list[bytes]:
        client = await nats.connect(f"nats://127.0.0.1:{port}")
        stream = client.jetstream()
        last = (await stream.stream_info("PYLSM")).state.messages
        subscription = await stream.subscribe("pylsm.>", ordered_consumer=True)
        data = [(await subscription.next_msg(20)).data for _ in range(last)]
        await client.close()
        return data

    return asyncio.run(fetch())


def test_nats(place: Path) -> None:
    pytest.importorskip("nats", reason="needs the extra `sinks`")
    spool, port = Spool(place / "spool"), free_port()
    with nats_server(place, port) as server:
        url = f"nats://127.0.0.1:{port}"
        assert "there is no stream 'PYLSM' (make one for the subjects pylsm.>" in check(url)
        process = spool.ship(f"{url}?create=yes")
        restart_and_outage(spool, process, server)
        err = finish(process)
        assert f"warning: {url}: " in err
        assert f"{url}: delivering again" in err
        messages = stored(port)
        spool.check(messages)
        assert len(messages) == MANY  # the stream drops what comes twice


def with_a_large_event(directory: Path, size: int) -> Spool:
    """Ten events, one of at least so many bytes, ten more."""
    spool = Spool(directory, 10)
    large = jsonl.render(FileOpen.make(path=b"/" + b"x" * size, granted=1, time=10**18, comm=b"worker"))
    writer = SpoolWriter(spool.directory, 1 << 30, "drop-oldest")
    writer.append([large.encode()])
    writer.close()
    spool.add(10)
    return spool


def told_in_its_place(messages: list[bytes]) -> None:
    """The large one is, as lost; nothing behind it came first."""
    events = [json.loads(message) for message in messages]
    assert [int(event["id"].split("-")[1]) for event in events] == list(range(1, 22))
    assert [(event["count"], event["reason"]) for event in events if event["event"] == "spool_lost"] == [
        (1, "rejected")
    ]


def test_nats_order_around_an_event_that_is_too_large(place: Path) -> None:
    pytest.importorskip("nats", reason="needs the extra `sinks`")
    port = free_port()
    spool = with_a_large_event(place / "spool", 2000)
    (place / "nats.conf").write_text("max_payload: 1000\n")
    with nats_server(place, port, "-c", place / "nats.conf"):
        err = finish(spool.ship(f"nats://127.0.0.1:{port}?create=yes"))
        assert "the event is larger than it takes (1000 bytes)" in err
        told_in_its_place(stored(port))


def test_a_fleet_in_simulation(place: Path) -> None:
    """tools/fleet, small: every host's events are in the stream, and the costs are printed."""
    pytest.importorskip("nats", reason="needs the extra `sinks`")
    recording = place / "events.jsonl"
    recording.write_text("".join(line + "\n" for line in events(0, 100)))
    tool = Path(__file__).resolve().parents[2] / "tools/fleet"
    command = [sys.executable, tool, "--hosts", "7", "--events", "700", "--recording", recording]
    printed = json.loads(subprocess.run(list(map(str, command)), capture_output=True, check=True, timeout=120).stdout)
    assert (printed["hosts"], printed["events"]) == (7, 700)
    assert printed["bytes_per_event"] > 300


def test_nats_credentials_and_tls_are_told_from_down(place: Path, certificates: dict[str, Path]) -> None:
    pytest.importorskip("nats", reason="needs the extra `sinks`")
    port = free_port()
    url = f"nats://127.0.0.1:{port}"
    assert check(url).startswith(f"NO  down: {url}: ")
    with nats_server(place, port, "--user", "me", "--pass", "right"):
        assert check(url).startswith("NO  credentials: ")
        assert check(f"nats://me:wrong@127.0.0.1:{port}").startswith("NO  credentials: ")
        (place / "password").write_text("right\n")
        good = f"nats://me@127.0.0.1:{port}?create=yes&password_file={place}/password"
        assert check(good).startswith("ok  ")
    more = ("--tls", "--tlscert", certificates["cert"], "--tlskey", certificates["key"])
    with nats_server(place, port, *more):
        tls = f"nats+tls://127.0.0.1:{port}"
        assert check(f"{tls}?create=yes&ca={certificates['ca']}").startswith("ok  ")
        assert check(f"{tls}?ca={certificates['other']}").startswith("NO  tls: ")


# ---- Kafka: the mock cluster of librdkafka; it keeps everything in memory, so it can be stopped, not started again ---

MOCK = """
import sys, time
from confluent_kafka import Producer
producer = Producer({"bootstrap.servers": "none", "test.mock.num.brokers": 1})
broker = next(iter(producer.list_topics(timeout=20).brokers.values()))
print(broker.port, flush=True)
while True: producer.poll(1)
"""


@contextmanager
def mock_broker() -> Iterator[tuple[subprocess.Popen[str], int, list[Any]]]:
    """The mock, its port, and the messages of the topic "pylsm" as they come."""
    kafka = pytest.importorskip("confluent_kafka", reason="needs the extra `sinks`")
    broker = subprocess.Popen(
        [sys.executable, "-c", MOCK], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert broker.stdout
    port = int(broker.stdout.readline())
    messages: list[Any] = []
    ended = threading.Event()

    def consume() -> None:
        """All the time: the mock forgets what is more than 5 MB."""
        settings = {"bootstrap.servers": f"127.0.0.1:{port}", "group.id": "test", "auto.offset.reset": "earliest"}
        consumer = kafka.Consumer({**settings, "fetch.wait.max.ms": 10})
        consumer.assign([kafka.TopicPartition("pylsm", n, kafka.OFFSET_BEGINNING) for n in partitions])
        while not ended.is_set():
            messages.extend(message for message in consumer.consume(10_000, 0.1) if not message.error())
        consumer.close()

    reader = threading.Thread(target=consume)
    try:
        asking = kafka.Producer({"bootstrap.servers": f"127.0.0.1:{port}"})
        partitions = list(asking.list_topics("pylsm", timeout=20).topics["pylsm"].partitions)  # makes it
        reader.start()
        yield broker, port, messages
    finally:
        ended.set()
        if reader.ident is not None:
            reader.join()
        broker.kill()
        broker.wait()


def test_kafka_against_its_mock(place: Path) -> None:
    with mock_broker() as (broker, port, messages):
        spool = Spool(place / "spool")
        process = spool.ship(f"kafka://127.0.0.1:{port}/pylsm")
        for part in (0.2, 0.5):
            spool.until(part, process)
            broker.send_signal(signal.SIGSTOP)
            time.sleep(1.5)
            broker.send_signal(signal.SIGCONT)
        finish(process)
        assert eventually(lambda: len(messages) >= MANY, 30), len(messages)
        assert len({message.partition() for message in messages}) == 1
        spool.check([message.value() for message in messages])


def test_kafka_order_around_an_event_that_is_too_large(place: Path) -> None:
    with mock_broker() as (_, port, messages):
        spool = with_a_large_event(place / "spool", 1_030_000)
        err = finish(spool.ship(f"kafka://127.0.0.1:{port}/pylsm"))
        assert "is left out" in err
        assert eventually(lambda: len(messages) >= 21, 30), len(messages)
        told_in_its_place([message.value() for message in messages])


# ---- OTLP ------------------------------------------------------------------------------------------------------------

RECEIVER = """
import gzip, json, sys
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse

port, out, token, certificate, key, reject = int(sys.argv[1]), open(sys.argv[2], "a"), *sys.argv[3:7]
assert sys.argv[7] in ("http", "grpc")

def take(request):
    answer = ExportLogsServiceResponse()
    for resource in request.resource_logs:
        names = {a.key: a.value.string_value for a in resource.resource.attributes}
        for record in resource.scope_logs[0].log_records:
            attributes = {a.key: a.value for a in record.attributes}
            line = json.loads(record.body.string_value)
            line.update(id=attributes["log.record.uid"].string_value, resource=names, event_name=record.event_name,
                path_attribute=attributes["file.path"].string_value if "file.path" in attributes else None,
                time=record.time_unix_nano, pid_attribute=attributes["process.pid"].int_value)
            if reject and line["sequence"] == int(reject):
                answer.partial_success.rejected_log_records += 1
                continue
            out.write(json.dumps(line) + "\\n")
    out.flush()
    return answer

if sys.argv[7] == "http":
    import ssl
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            status = 200 if self.path == "/v1/logs" else 404
            if token and self.headers["authorization"] != "Bearer " + token:
                status = 401
            answer = b""
            if status == 200:
                assert self.headers["content-type"] == "application/x-protobuf"
                answer = take(ExportLogsServiceRequest.FromString(gzip.decompress(body))).SerializeToString()
            self.send_response(status)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)
        def log_message(self, *_): pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()
else:
    from concurrent.futures import ThreadPoolExecutor
    import grpc
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2_grpc import (
        LogsServiceServicer, add_LogsServiceServicer_to_server)

    class Service(LogsServiceServicer):
        def Export(self, request, context):
            if token and ("authorization", "Bearer " + token) not in context.invocation_metadata():
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you")
            return take(request)

    server = grpc.server(ThreadPoolExecutor(2))
    add_LogsServiceServicer_to_server(Service(), server)
    if certificate:
        pair = (open(key, "rb").read(), open(certificate, "rb").read())
        server.add_secure_port("127.0.0.1:%d" % port, grpc.ssl_server_credentials([pair]))
    else:
        server.add_insecure_port("127.0.0.1:%d" % port)
    server.start()
    server.wait_for_termination()
"""

Receiver = Callable[..., Server]


@pytest.fixture(params=["http", "grpc"])
def protocol(request: pytest.FixtureRequest) -> str:
    pytest.importorskip("opentelemetry.proto", reason="needs the extra `sinks`")
    pytest.importorskip("grpc", reason="needs the extra `sinks`")
    return str(request.param)


def receiver(
    place: Path, protocol: str, port: int, token: str = "", cert: Any = "", key: Any = "", reject: str = ""
) -> Server:
    command = [sys.executable, "-c", RECEIVER, port, place / "received", token, cert, key, reject, protocol]
    return Server(command, lambda: listening(port), place / "receiver.log")


def test_otlp(place: Path, protocol: str) -> None:
    spool, port = Spool(place / "spool"), free_port()
    with receiver(place, protocol, port) as server:
        process = spool.ship(f"otlp+{protocol}://127.0.0.1:{port}")
        restart_and_outage(spool, process, server)
        err = finish(process)
        assert "delivering again" in err
        lines = (place / "received").read_text().splitlines()
        spool.check(lines)
        one = json.loads(lines[1])
        assert one["resource"]["service.name"] == "pylsm"
        assert one["resource"]["host.id"] == spool.identity.host
        assert one["event_name"] == "pylsm.open"
        assert (one["time"], one["pid_attribute"], one["path_attribute"]) == (one["time_ns"], one["pid"], one["path"])


def test_otlp_rejections_are_counted(place: Path, protocol: str) -> None:
    """A collector that throws an event away says so: that is no failure, and not passed over in silence."""
    spool, port = Spool(place / "spool", 100), free_port()
    with receiver(place, protocol, port, reject="42"):
        err = finish(spool.ship(f"otlp+{protocol}://127.0.0.1:{port}"))
    assert "it has thrown away 1 events of 100" in err
    assert len((place / "received").read_text().splitlines()) == 99


def test_otlp_credentials_and_tls_are_told_from_down(place: Path, protocol: str, certificates: dict[str, Path]) -> None:
    port = free_port()
    url = f"otlp+{protocol}://127.0.0.1:{port}"
    assert check(url).startswith(f"NO  down: {url}: Connection refused")
    (place / "headers").write_text("Authorization: Bearer right\n")
    (place / "wrong").write_text("Authorization: Bearer wrong\n")
    with receiver(place, protocol, port, "right"):
        assert check(url).startswith("NO  credentials: ")
        assert check(f"{url}?headers_file={place}/wrong").startswith("NO  credentials: ")
        assert check(f"{url}?headers_file={place}/headers").startswith("ok  ")
    secure = url.replace(f"+{protocol}:", f"+{protocol}s:")
    with receiver(place, protocol, port, "", certificates["cert"], certificates["key"]):
        assert check(f"{secure}?ca={certificates['ca']}").startswith("ok  ")
        assert check(f"{secure}?ca={certificates['other']}").startswith("NO  tls: ")
        assert check(secure).startswith("NO  tls: ")


# ---- the journal -----------------------------------------------------------------------------------------------------


def journal(directory: Path, *matches: str) -> list[dict[str, Any]]:
    found = subprocess.run(
        ["journalctl", "-D", str(directory), "-o", "json", "--all", "-q", *matches], capture_output=True, check=True
    )
    return [json.loads(line) for line in found.stdout.splitlines()]


@pytest.mark.skipif(not os.path.exists(REMOTE), reason="needs systemd-journal-remote (tools/test installs it)")
def test_journal_remote(place: Path) -> None:
    spool, port, out = Spool(place / "spool"), free_port(), place / "journal"
    out.mkdir()
    command = [REMOTE, f"--listen-http=127.0.0.1:{port}", "--split-mode=none", "-o", out / "all.journal"]
    with Server(command, lambda: listening(port), place / "remote.log") as server:
        process = spool.ship(f"journal+http://127.0.0.1:{port}")
        restart_and_outage(spool, process, server)
        err = finish(process)
        assert "Connection refused" in err
        server.stop()
        entries = journal(out)
        spool.check([entry["MESSAGE"] for entry in entries])
        last = entries[-1]
        line = json.loads(last["MESSAGE"])
        assert last["PYLSM_ID"] == line["id"]
        assert int(last["__REALTIME_TIMESTAMP"]) == line["time_ns"] // 1000
        assert last["PYLSM_EVENT"] == line["event"]


@pytest.fixture
def namespace() -> Iterator[str]:
    """A namespace of the journal: a journald of its own, which leaves that of the host alone."""
    name = f"pylsm{os.getpid()}"
    settings = Path(f"/run/systemd/journald@{name}.conf.d")
    settings.mkdir(parents=True)
    (settings / "test.conf").write_text("[Journal]\nStorage=volatile\nRateLimitIntervalSec=0\nRuntimeMaxUse=800M\n")
    yield name
    for directory in (settings, Path(f"/run/systemd/journal.{name}"), *Path("/run/log/journal").glob(f"*.{name}")):
        shutil.rmtree(directory, ignore_errors=True)


@pytest.mark.skipif(not os.path.exists(JOURNALD), reason="needs systemd (tools/test installs it)")
def test_journald(place: Path, namespace: str) -> None:
    """The native protocol, with its fields."""
    spool, native = Spool(place / "spool"), f"/run/systemd/journal.{namespace}/socket"
    with Server([JOURNALD, namespace], lambda: os.path.exists(native), place / "journald.log") as server:
        process = spool.ship(f"journald://{native}")
        spool.until(0.2, process)
        server.stop()
        os.unlink(native)
        server.start()
        spool.until(0.5, process)
        server.stop(signal.SIGKILL)
        time.sleep(1.5)
        os.unlink(native)
        server.start()
        err = finish(process)
        assert "delivering again" in err
        (out,) = Path("/run/log/journal").glob(f"*.{namespace}")
        server.stop()
        entries = journal(out, "SYSLOG_IDENTIFIER=pylsm")
        spool.check([entry["MESSAGE"] for entry in entries])
        (one,) = journal(out, f"PYLSM_ID={spool.identity.event_id(2, 2)}")[:1]
        assert (one["PYLSM_PID"], one["PYLSM_EVENT"], one["PYLSM_MODE"]) == ("1001", "open", "r")


def test_a_missing_library_is_named(place: Path) -> None:
    """As on a host where only the core is installed."""
    code = (
        "import sys, importlib.util as u\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'nats' else find(name, *a)\n"
        "from pylsm.cli import main\n"
        "sys.exit(main(['ship', '--check', '--sink', 'nats://127.0.0.1']))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 125
    assert "the Python module 'nats' is not installed" in ran.stderr
    assert "pip install 'pylsm[nats]'" in ran.stderr


def test_the_audit_imports_no_library_of_a_sink(place: Path) -> None:
    options = ("run", "-q", "--drain", "0.2", "--spool", str(place / "spool"), "--sink", "nats://127.0.0.1:1")
    ran = subprocess.run(
        [sys.executable, "-X", "importtime", *PYLSM[1:], *options, "--", "true"], capture_output=True, text=True
    )
    imported = {line.split("|")[-1].strip().split(".")[0] for line in ran.stderr.splitlines() if "import time:" in line}
    assert "pylsm" in imported
    assert not imported & {"nats", "grpc", "google", "confluent_kafka", "requests", "prometheus_client"}
