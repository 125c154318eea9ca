"""Kafka: ``kafka://HOST[:9092]/TOPIC``, ``kafka+tls://HOST[:9093]/TOPIC``, by librdkafka's idempotent producer.

The key is the host's id, so that a host's events are in one partition, in order.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, ClassVar

from pylsm.ship.identity import Identity
from pylsm.ship.sinks import (
    PASSWORD,
    TLS,
    Address,
    DeliveryError,
    Denied,
    Down,
    Option,
    Rejected,
    Sink,
    TlsRefused,
    enrich,
    tls_context,
)
from pylsm.ship.spool import Item

__all__ = ["SINK"]

_TIMEOUT_SECONDS = 10.0
_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


def _mechanism(text: str) -> str:
    if text not in _MECHANISMS:
        raise ValueError(f"not one of {', '.join(_MECHANISMS)}")
    return text


class Kafka(Sink):
    """See the module."""

    OPTIONS: ClassVar[dict[str, Option]] = {
        **TLS,
        **PASSWORD,
        "mechanism": Option("of SASL, with a user (default: SCRAM-SHA-512)", _mechanism, "SCRAM-SHA-512"),
    }
    LIBRARY = "confluent_kafka"
    EXTRA = "kafka"
    batch = 2000

    def __init__(self, address: Address) -> None:
        super().__init__(address)
        tls = address.scheme == "kafka+tls"
        address.need_host(9093 if tls else 9092)
        self._topic = address.path.strip("/")
        if not self._topic or "/" in self._topic:
            raise address.wrong("it names no topic", f"for example {address.scheme}://127.0.0.1/pylsm")
        options = address.options
        self._settings: dict[str, Any] = {
            "bootstrap.servers": f"{address.host}:{address.port}",
            "client.id": "pylsm",
            "enable.idempotence": True,
            "acks": "all",
            "linger.ms": 5,
            "message.timeout.ms": int(_TIMEOUT_SECONDS * 1000),
            "socket.timeout.ms": int(_TIMEOUT_SECONDS * 1000),
            "security.protocol": ("SASL_" if address.user else "") + ("SSL" if tls else "PLAINTEXT"),
        }
        if tls:
            tls_context(address)  # for its complaints
            for name, key in (("ca", "ssl.ca.pem"), ("cert", "ssl.certificate.pem"), ("key", "ssl.key.pem")):
                if options[name]:
                    with open(options[name], encoding="ascii") as file:
                        self._settings[key] = file.read()
        if address.user:
            self._settings["sasl.mechanism"] = options["mechanism"]
            self._settings["sasl.username"] = address.user
            self._settings["sasl.password"] = options["password_file"] or address.password
        self._producer: Any = None
        self._problem: DeliveryError | None = None

    def connect(self, identity: Identity) -> None:
        """Make a producer, and see that the topic is there."""
        from confluent_kafka import KafkaException, Producer

        self._identity = identity
        self._problem = None
        self._producer = Producer({**self._settings, "error_cb": self._note, "logger": _Silent()})
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        while True:
            try:
                self._producer.list_topics(self._topic, timeout=1.0)
                return
            except KafkaException as error:
                self._producer.poll(0)
                if self._problem is not None or time.monotonic() > deadline:
                    raise self._problem or self._explain(error.args[0]) from None

    def _note(self, error: Any) -> None:
        """What the library's own threads met; they go on trying, we have a spool for that."""
        problem = self._explain(error)
        if self._problem is None or isinstance(problem, (Denied, TlsRefused)):
            self._problem = problem

    def _explain(self, error: Any, accepted: int = 0) -> DeliveryError:
        from confluent_kafka import KafkaError

        where, code = self.address, error.code()
        if code in (KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED):
            return Denied(
                f"{where}: it does not accept the credentials: {error.str()}",
                accepted=accepted,
                hint="give user and password (?password_file=FILE), and the ?mechanism= that it has",
            )
        if code in (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED):
            return Denied(f"{where}: it does not allow writing to {self._topic!r}", accepted=accepted)
        if code == KafkaError._SSL:
            return TlsRefused(f"{where}: TLS is refused: {error.str()}", accepted=accepted, hint="give ?ca=FILE")
        if code in (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_RECORD):
            return Rejected(f"{where}: {error.str()}", accepted=accepted)
        return Down(
            f"{where}: {error.str()}", accepted=accepted, hint="events wait in the spool until it answers again"
        )

    def send(self, batch: Sequence[Item]) -> int:
        """Produce all, and wait for every acknowledgement."""
        from confluent_kafka import KafkaException

        answers: list[Any] = []
        refused: Any = None
        key = self._identity.host.encode()

        def told(index: int) -> Any:
            def delivered(error: Any, _: object) -> None:
                answers[index] = error

            return delivered

        for index, item in enumerate(batch):
            event_id = self._identity.event_id(item.first, item.last).encode()
            line = enrich(self._identity, item)
            try:
                self._producer.produce(self._topic, line, key, headers={"id": event_id}, on_delivery=told(index))
            except KafkaException as error:  # the library itself does not take it; what is behind it waits its turn
                refused = error.args[0]
                break
            answers.append(_PENDING)
            self._producer.poll(0)
        self._producer.flush(_TIMEOUT_SECONDS + 2)
        for accepted, answer in enumerate(answers):
            if answer is _PENDING:
                raise Down(f"{self.address}: it does not acknowledge", accepted=accepted)
            if answer is not None:
                problem = self._problem
                if isinstance(problem, (Denied, TlsRefused)):
                    problem.accepted = accepted
                    raise problem
                raise self._explain(answer, accepted)
        if refused is not None:
            raise self._explain(refused, len(answers))
        self._problem = None
        return 0

    def close(self) -> None:
        """Forget what is not acknowledged: the spool has it."""
        producer, self._producer = self._producer, None
        if producer is not None:
            with suppress(Exception):
                producer.purge()
                producer.flush(1)


_PENDING = object()


class _Silent:
    """librdkafka's log would go to standard error; what matters comes as errors."""

    def log(self, *_: object, **__: object) -> None:
        """Nothing."""


SINK = Kafka
