"""NATS JetStream: ``nats://HOST[:4222]``, ``nats+tls://HOST``; each event is acknowledged by the stream.

Events go to the subject ``pylsm.HOST``, HOST being the host's id, with their own id as ``Nats-Msg-Id``, by which the
stream drops one that comes twice within its window; behind that window a reader tells it by the id.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import threading
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Any, ClassVar, TypeVar

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
    enrich,
    failure,
    secret_file,
    tls_context,
)
from pylsm.ship.spool import Item

__all__ = ["SINK"]

_TIMEOUT_SECONDS = 10.0
_ID = "Nats-Msg-Id"
#: Bytes that come before each event, but for the id's own.
_HEADER = f"NATS/1.0\r\n{_ID}: \r\n\r\n"
_T = TypeVar("_T")


def _yes(text: str) -> bool:
    if text not in ("yes", "no"):
        raise ValueError("not yes or no")
    return text == "yes"


class Nats(Sink):
    """See the module."""

    OPTIONS: ClassVar[dict[str, Option]] = {
        **TLS,
        **PASSWORD,
        "token_file": Option("a file with a token", secret_file),
        "subject": Option("events go to the subject SUBJECT.HOST (default: pylsm)", str, "pylsm"),
        "stream": Option("the stream that takes them (default: PYLSM)", str, "PYLSM"),
        "create": Option("make the stream where there is none: yes or no (default)", _yes, False),
    }
    LIBRARY = "nats"
    EXTRA = "nats"
    batch = 500

    def __init__(self, address: Address) -> None:
        super().__init__(address)
        address.need_host(4222)
        self._context: ssl.SSLContext | None = tls_context(address) if address.scheme == "nats+tls" else None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: Any = None
        self._stream: Any = None

    def _wait(self, work: Coroutine[Any, Any, _T]) -> _T:
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(3 * _TIMEOUT_SECONDS)

    def connect(self, identity: Identity) -> None:
        """Connect, and see that a stream takes the subject."""
        self._identity = identity
        self._subject = f"{self.address.options['subject']}.{identity.host}"
        if self._loop is None:
            logging.getLogger("asyncio").propagate = False  # what matters comes as errors
            logging.getLogger("asyncio").addHandler(logging.NullHandler())
            # A loop that always runs answers the server's pings while there is nothing to send.
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._loop.run_forever, name="nats", daemon=True).start()
        self._wait(self._connect())

    async def _connect(self) -> None:
        import nats
        from nats.errors import Error, NoServersError
        from nats.js.errors import NotFoundError, ServiceUnavailableError

        address, options = self.address, self.address.options
        given: dict[str, Any] = {}
        if address.user:
            given = {"user": address.user, "password": options["password_file"] or address.password}
        if options["token_file"]:
            given["token"] = options["token_file"]
        if self._context is not None:
            given["tls"] = self._context
        errors: list[Exception] = []
        failed = asyncio.Event()

        async def note(error: Exception) -> None:
            errors.append(error)
            failed.set()

        connecting = asyncio.ensure_future(
            nats.connect(
                f"{'tls' if self._context else 'nats'}://{address.host}:{address.port}",
                allow_reconnect=False,
                connect_timeout=int(_TIMEOUT_SECONDS),
                name="pylsm",
                error_cb=note,
                **given,
            )
        )
        # By itself it would try for minutes; we know when to try again.
        failing = asyncio.ensure_future(failed.wait())
        await asyncio.wait([connecting, failing], timeout=_TIMEOUT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        failing.cancel()
        try:
            if not connecting.done():
                connecting.cancel()
                raise errors[0] if errors else asyncio.TimeoutError("no answer")
            self._client = connecting.result()
            self._stream = self._client.jetstream(timeout=_TIMEOUT_SECONDS)
            name, subject = options["stream"], options["subject"]
            try:
                await self._stream.stream_info(name)
            except NotFoundError:
                if not options["create"]:
                    raise DeliveryError(
                        f"{address}: there is no stream {name!r}",
                        hint=f"make one for the subjects {subject}.>, or let it be made with ?create=yes",
                    ) from None
                await self._stream.add_stream(name=name, subjects=[f"{subject}.>"])
        except (NoServersError, OSError, asyncio.TimeoutError, Error) as error:
            raise self._explain(error, errors) from None
        except ServiceUnavailableError:
            raise Down(
                f"{address}: JetStream is not available there", hint="is jetstream in its configuration?"
            ) from None

    def _explain(self, error: Exception, others: Sequence[Exception] = (), accepted: int = 0) -> DeliveryError:
        words = " ".join(str(e).lower() for e in (error, *others))
        if "authorization" in words or "authentication" in words or "permissions violation" in words:
            return Denied(
                f"{self.address}: it does not accept the credentials",
                accepted=accepted,
                hint="give user and password (?password_file=FILE) or ?token_file=FILE",
            )
        for one in (*others, error):
            if isinstance(one, (ssl.SSLError, OSError)) or one.__cause__ is not None:
                return failure(self.address, one, accepted)
        return failure(self.address, error, accepted)

    def send(self, batch: Sequence[Item]) -> int:
        """Publish all, then wait for the acknowledgements."""
        self._wait(self._publish(batch))
        return 0

    async def _publish(self, batch: Sequence[Item]) -> None:
        from nats.js.errors import APIError

        if self._client is None or not self._client.is_connected:
            raise Down(f"{self.address}: it closed the connection")
        most = self._client.max_payload
        messages = []
        for item in batch:
            line, event_id = enrich(self._identity, item), self._identity.event_id(item.first, item.last)
            # The server counts the header too, and hangs up. What is behind such an event waits, so that order is kept.
            if len(_HEADER) + len(event_id) + len(line) > most:
                break
            messages.append((line, {_ID: event_id}))
        answers = await asyncio.gather(
            *(self._stream.publish(self._subject, line, headers=headers) for line, headers in messages),
            return_exceptions=True,
        )
        for accepted, answer in enumerate(answers):
            if not isinstance(answer, BaseException):
                continue
            if isinstance(answer, APIError):
                raise Down(f"{self.address}: {answer.description or answer}", accepted=accepted)
            if type(answer).__name__ == "NoStreamResponseError":
                raise Down(
                    f"{self.address}: no stream takes {self._subject}, or JetStream is not ready", accepted=accepted
                )
            if isinstance(answer, asyncio.TimeoutError):
                raise Down(f"{self.address}: it does not acknowledge", accepted=accepted)
            raise self._explain(answer if isinstance(answer, Exception) else OSError(str(answer)), (), accepted)
        if len(messages) < len(batch):
            raise Rejected(
                f"{self.address}: the event is larger than it takes ({most} bytes)",
                accepted=len(messages),
                hint="raise its max_payload",
            )

    def close(self) -> None:
        """Disconnect."""
        client, self._client = self._client, None
        if client is not None and self._loop is not None:
            with suppress(Exception):
                asyncio.run_coroutine_threadsafe(client.close(), self._loop).result(2)


SINK = Nats
