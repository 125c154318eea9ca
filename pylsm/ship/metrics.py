"""Metrics for Prometheus and a health endpoint, served by the process that delivers: the audit stays confined."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from pylsm.ship.shipper import Shipper

__all__ = ["Metrics", "listen"]

#: An audit that has said nothing for so long is not well, in seconds; it speaks every second.
_SILENCE_SECONDS = 10.0
#: Counts of an audit that are events which never came → the reason.
_LOSSES = {
    "lost": "ring-full",
    "unreadable": "unreadable",
    "family_full": "family-full",
    "skipped": "skipped-by-the-kernel",
    "malformed": "malformed",
}


def listen(address: tuple[str, int]) -> socket.socket:
    """A socket that listens there.

    Raises:
        OSError: it cannot.
    """
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    return socket.create_server(address, family=family)


class Metrics:
    """Serves ``/metrics`` and ``/healthz`` from a thread of its own.

    Args:
        listening: see `listen`.
        shipper: whose sinks and spool are told of.
    """

    def __init__(self, listening: socket.socket, shipper: Shipper) -> None:
        from prometheus_client import CollectorRegistry, make_wsgi_app

        self._shipper = shipper
        self._said: dict[str, Any] = {}
        self._heard = 0.0
        registry = CollectorRegistry()
        registry.register(self)
        self._metrics = make_wsgi_app(registry)
        server = WSGIServer(("", 0), _Quiet, bind_and_activate=False)
        server.socket.close()
        server.socket = listening
        server.server_name, server.server_port = "localhost", listening.getsockname()[1]
        server.setup_environ()
        server.set_app(self._answer)
        threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()

    def hear(self, said: dict[str, Any]) -> None:
        """What the audit says of itself."""
        self._said, self._heard = said, time.monotonic()

    def _answer(self, environment: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if environment["PATH_INFO"] == "/metrics":
            answer: Iterable[bytes] = self._metrics(environment, start)
            return answer
        plain = [("Content-Type", "text/plain; charset=utf-8")]
        if environment["PATH_INFO"] != "/healthz":
            start("404 Not Found", plain)
            return [b"there are /metrics and /healthz\n"]
        well = self._heard and time.monotonic() - self._heard < _SILENCE_SECONDS
        start("200 OK" if well else "503 Service Unavailable", plain)
        return [b"ok\n" if well else b"the audit says nothing\n"]

    def collect(self) -> Iterator[Any]:
        """What is known now, for prometheus_client."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        counts: dict[str, int] = self._said.get("counts", {})
        for name, text in (
            ("recorded", "Events recorded"),
            ("deduplicated", "Events that were recorded before"),
            ("untraced", "Runs of hooks for processes that are not traced"),
        ):
            if name in counts:
                yield CounterMetricFamily(f"pylsm_{name}", text, value=counts[name])
        lost = CounterMetricFamily("pylsm_lost", "Events lost before they reached the spool", labels=["reason"])
        for name, reason in _LOSSES.items():
            if name in counts:
                lost.add_metric([reason], counts[name])
        if "dropped" in self._said:
            lost.add_metric(["spool-full"], self._said["dropped"])
        yield lost
        if "ring" in self._said:
            pending, size = self._said["ring"]
            yield GaugeMetricFamily("pylsm_ring_bytes", "Bytes that wait in the ring buffer", value=pending)
            yield GaugeMetricFamily("pylsm_ring_size_bytes", "Size of the ring buffer", value=size)
        seconds = CounterMetricFamily("pylsm_program_seconds", "Time in programs (BPF statistics)", labels=["program"])
        runs = CounterMetricFamily("pylsm_program_runs", "Runs of programs (BPF statistics)", labels=["program"])
        for program, (nanoseconds, count) in self._said.get("programs", {}).items():
            seconds.add_metric([program], nanoseconds / 1e9)
            runs.add_metric([program], count)
        yield seconds
        yield runs
        yield GaugeMetricFamily("pylsm_spool_bytes", "Bytes in the spool", value=self._shipper.bytes())
        yield from self._sinks()

    def _sinks(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        up = GaugeMetricFamily("pylsm_sink_up", "Whether a sink delivers", labels=["sink", "state"])
        delivered = CounterMetricFamily("pylsm_sink_delivered", "Events acknowledged", labels=["sink"])
        rejected = CounterMetricFamily("pylsm_sink_rejected", "Events an engine threw away", labels=["sink"])
        retries = CounterMetricFamily("pylsm_sink_retries", "Batches sent again", labels=["sink"])
        missing = CounterMetricFamily("pylsm_sink_lost", "Events missing in the spool", labels=["sink", "reason"])
        lag = GaugeMetricFamily("pylsm_sink_lag_events", "Events in the spool not acknowledged", labels=["sink"])
        age = GaugeMetricFamily("pylsm_sink_lag_seconds", "Age of the last event acknowledged", labels=["sink"])
        end = self._said.get("next")
        for standing in self._shipper.standings():
            up.add_metric([standing.name, standing.state], standing.state == "ok")
            delivered.add_metric([standing.name], standing.delivered)
            rejected.add_metric([standing.name], standing.rejected)
            retries.add_metric([standing.name], standing.retries)
            for reason, count in standing.lost.items():
                missing.add_metric([standing.name, reason], count)
            behind = max(0, end - max(standing.next, 1)) if end is not None else 0
            lag.add_metric([standing.name], behind)
            late = max(0.0, time.time() - standing.newest_ns / 1e9) if behind and standing.newest_ns else 0.0
            age.add_metric([standing.name], late)
        yield from (up, delivered, rejected, retries, missing, lag, age)


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Nothing: standard error is the audit's."""
