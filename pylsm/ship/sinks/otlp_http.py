"""OTLP logs over HTTP, as protobuf: ``otlp+http://HOST[:4318][/v1/logs]``, ``otlp+https://HOST``."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, ClassVar

import pylsm
from pylsm.ship.identity import Identity
from pylsm.ship.sinks import (
    PASSWORD,
    TLS,
    Address,
    Denied,
    Down,
    Option,
    Rejected,
    Sink,
    failure,
    secret_file,
    tls_context,
)
from pylsm.ship.sinks.otlp import request
from pylsm.ship.spool import Item

__all__ = ["HEADERS", "SINK", "headers"]

_TIMEOUT_SECONDS = 10.0
#: Answers after which the same may be sent again (OTLP 1.x, "Retryable Response Codes").
_LATER = (408, 429, 502, 503, 504)

#: The option of both transports.
HEADERS = {"headers_file": Option("a file with headers such as 'authorization: Bearer …', one a line", secret_file)}


def headers(address: Address) -> dict[str, str]:
    """The headers that the file of the address has."""
    found = {}
    for line in (address.options["headers_file"] or "").splitlines():
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise address.wrong(f"headers_file: {line[:20]!r} is no header", "a line for each: NAME: VALUE")
        found[name.strip().lower()] = value.strip()
    return found


class OtlpHttp(Sink):
    """See the module."""

    OPTIONS: ClassVar[dict[str, Option]] = {**TLS, **PASSWORD, **HEADERS}
    LIBRARY = "opentelemetry.proto.collector.logs.v1"
    EXTRA = "otlp"

    def __init__(self, address: Address) -> None:
        super().__init__(address)
        address.need_host(4318)
        secure = address.scheme == "otlp+https"
        self._context = tls_context(address) if secure else None
        host = f"[{address.host}]" if ":" in address.host else address.host
        path = address.path if address.path not in ("", "/") else "/v1/logs"
        self._url = f"{'https' if secure else 'http'}://{host}:{address.port}{path}"
        self._headers = headers(address)
        self._session: Any = None

    def connect(self, identity: Identity) -> None:
        """Send an empty request, which every receiver takes."""
        import requests
        from requests.adapters import HTTPAdapter

        self._identity = identity
        self._errors: Any = requests.RequestException
        context = self._context

        class Trusting(HTTPAdapter):  # type: ignore[misc]
            def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
                super().init_poolmanager(*arguments, **options, ssl_context=context)

            def cert_verify(self, *_: Any) -> None:  # the context knows whom to trust
                return

        self._session = requests.Session()
        if context is not None:
            self._session.mount("https://", Trusting())
        self._session.headers.update(self._headers)
        if self.address.user:
            password = self.address.options["password_file"] or self.address.password
            self._session.auth = (self.address.user, password)
        self.send(())

    def send(self, batch: Sequence[Item]) -> int:
        """Post them, and look at the answer."""
        from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse

        body = gzip.compress(request(self._identity, batch, pylsm.__version__).SerializeToString(), 1)
        kinds = {"Content-Type": "application/x-protobuf", "Content-Encoding": "gzip"}
        try:
            answer = self._session.post(self._url, data=body, headers=kinds, timeout=_TIMEOUT_SECONDS)
        except self._errors as error:
            raise failure(self.address, error) from None
        status = answer.status_code
        if status in (401, 403):
            raise Denied(
                f"{self.address}: it does not accept the credentials ({status})",
                hint="give ?headers_file=FILE, or user and ?password_file=FILE",
            )
        if status in _LATER or status >= 500:
            raise Down(f"{self.address}: it answers {status} {answer.reason}")
        if status >= 300:
            raise Rejected(f"{self.address}: it answers {status} {answer.reason}: is that the path for OTLP logs?")
        taken = ExportLogsServiceResponse()
        with suppress(Exception):
            taken.ParseFromString(answer.content)
        return int(taken.partial_success.rejected_log_records)

    def close(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        if session is not None:
            session.close()


SINK = OtlpHttp
