"""OTLP logs over gRPC: ``otlp+grpc://HOST[:4317]``, ``otlp+grpcs://HOST``."""

from __future__ import annotations

import base64
import os
import socket
import ssl
from collections.abc import Sequence
from typing import Any, ClassVar

import pylsm
from pylsm.ship.identity import Identity
from pylsm.ship.sinks import PASSWORD, TLS, Address, Denied, Down, Option, Rejected, Sink, failure, tls_context
from pylsm.ship.sinks.otlp import request
from pylsm.ship.sinks.otlp_http import HEADERS, headers
from pylsm.ship.spool import Item

__all__ = ["SINK"]

_TIMEOUT_SECONDS = 10.0


def _content(path: str | None) -> bytes | None:
    if path is None:
        return None
    with open(path, "rb") as file:
        return file.read()


class OtlpGrpc(Sink):
    """See the module."""

    OPTIONS: ClassVar[dict[str, Option]] = {**TLS, **PASSWORD, **HEADERS}
    LIBRARY = "grpc"
    EXTRA = "otlp-grpc"

    def __init__(self, address: Address) -> None:
        super().__init__(address)
        address.need_host(4317)
        self._context = tls_context(address) if address.scheme == "otlp+grpcs" else None
        options = address.options
        self._pem = [_content(options[name] or _system_authorities()) for name in ("ca",)]
        self._pem += [_content(options[name]) for name in ("key", "cert")]
        self._metadata = headers(address)
        if address.user:
            pair = f"{address.user}:{options['password_file'] or address.password}".encode()
            self._metadata["authorization"] = "Basic " + base64.b64encode(pair).decode()
        self._channel: Any = None

    def connect(self, identity: Identity) -> None:
        """Open a channel and send an empty request."""
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # it logs to standard error what we say ourselves
        import grpc
        from opentelemetry.proto.collector.logs.v1.logs_service_pb2_grpc import LogsServiceStub

        self._identity = identity
        self._grpc = grpc
        target = f"{self.address.host}:{self.address.port}"
        if self._context is None:
            self._channel = grpc.insecure_channel(target)
        else:
            self._channel = grpc.secure_channel(target, grpc.ssl_channel_credentials(*self._pem))
        self._stub = LogsServiceStub(self._channel)
        self.send(())

    def send(self, batch: Sequence[Item]) -> int:
        """Call Export, and look at the answer."""
        code = self._grpc.StatusCode
        try:
            answer = self._stub.Export(
                request(self._identity, batch, pylsm.__version__),
                timeout=_TIMEOUT_SECONDS,
                metadata=tuple(self._metadata.items()),
            )
        except self._grpc.RpcError as error:
            status, details = error.code(), error.details()
            if status in (code.UNAUTHENTICATED, code.PERMISSION_DENIED):
                raise Denied(
                    f"{self.address}: it does not accept the credentials: {details}",
                    hint="give ?headers_file=FILE, or user and ?password_file=FILE",
                ) from None
            if status in (code.INVALID_ARGUMENT, code.UNIMPLEMENTED, code.OUT_OF_RANGE):
                raise Rejected(f"{self.address}: it answers {status.name}: {details}") from None
            self._probe()
            raise Down(f"{self.address}: it answers {status.name}: {details}") from None
        return int(answer.partial_success.rejected_log_records)

    def _probe(self) -> None:
        """gRPC says of a server that is down and of TLS that is refused the same: look ourselves."""
        try:
            with socket.create_connection((self.address.host, self.address.port), 3) as plain:
                if self._context is not None:
                    self._context.set_alpn_protocols(["h2"])
                    self._context.wrap_socket(plain, server_hostname=self.address.host).close()
        except OSError as error:
            raise failure(self.address, error) from None

    def close(self) -> None:
        """Close the channel."""
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()


def _system_authorities() -> str | None:
    """The system's own certificates: gRPC brings others."""
    return ssl.get_default_verify_paths().cafile


SINK = OtlpGrpc
