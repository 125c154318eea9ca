"""Sinks: one module for each kind of engine, which imports that engine's library when it connects and not before.

A sink is named by a URL. What it reads from disk (keys, passwords) it reads when it is made, so that a privileged
process can make it, and one that has given up its privileges use it.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Callable, Sequence
from hashlib import sha256
from importlib import import_module
from importlib.util import find_spec
from json.encoder import encode_basestring_ascii
from typing import Any, ClassVar, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from pylsm.errors import PylsmError
from pylsm.ship.identity import Identity
from pylsm.ship.spool import Item

__all__ = [
    "SCHEMES",
    "Address",
    "DeliveryError",
    "Denied",
    "Down",
    "Option",
    "Rejected",
    "Sink",
    "SinkURLError",
    "TlsRefused",
    "enrich",
    "make",
    "tls_context",
]

#: Scheme → the module that has it.
SCHEMES = {
    "otlp+http": "otlp_http",
    "otlp+https": "otlp_http",
    "otlp+grpc": "otlp_grpc",
    "otlp+grpcs": "otlp_grpc",
    "nats": "nats",
    "nats+tls": "nats",
    "kafka": "kafka",
    "kafka+tls": "kafka",
    "syslog+tcp": "syslog",
    "syslog+tls": "syslog",
    "syslog+unix": "syslog",
    "journald": "journald",
    "journal+http": "journal_remote",
    "journal+https": "journal_remote",
    "sqlite": "sqlite",
    "file": "file",
}

_SIZES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


class SinkURLError(PylsmError):
    """A URL that names no sink; ``str`` says which part and why."""


class DeliveryError(PylsmError):
    """Events that an engine has not taken.

    Args:
        message: what was tried, and what came of it.
        accepted: how many of the batch, from its beginning, the engine has acknowledged.
        hint: the next step.

    Attributes:
        state: a word for it, the same for all of its class.
    """

    state: ClassVar[str] = "failing"

    def __init__(self, message: str, *, accepted: int = 0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.accepted = accepted


class Down(DeliveryError):
    """Nobody answers, or answers that it cannot now."""

    state = "down"


class TlsRefused(DeliveryError):
    """One side does not accept the other's certificate, or they have no TLS in common."""

    state = "tls"


class Denied(DeliveryError):
    """The engine answers, and does not accept our credentials."""

    state = "credentials"


class Rejected(DeliveryError):
    """The engine will never take this batch, however often it is sent."""

    state = "rejected"


class Option(NamedTuple):
    """Something behind the ``?`` of a URL.

    Attributes:
        help: what it means.
        read: text → value; ValueError with the reason when it is none.
        default: when it is not given.
    """

    help: str
    read: Callable[[str], Any] = str
    default: Any = None


class Address:
    """A sink's URL, taken apart.

    Attributes:
        scheme, user, password, host, port, path: its parts; "" or 0 for none.
        options: values of those given and defaults of the others.
        name: for the cursor's file and for metrics; the same whatever the password.
    """

    def __init__(self, url: str, options: dict[str, Option]) -> None:
        self._url = url
        try:
            parts = urlsplit(url)
            self.port = parts.port or 0
        except ValueError as error:
            raise self.wrong(f"it is no URL: {error}") from None
        self.scheme = parts.scheme
        self.user, self.password = unquote(parts.username or ""), unquote(parts.password or "")
        self.host = parts.hostname or ""
        self.path = unquote(parts.path)
        self._given = dict(parse_qsl(parts.query, keep_blank_values=True))
        self.options: dict[str, Any] = {}
        for key in self._given:
            if key not in options:
                raise self.wrong(
                    f"{key!r} is no option of {self.scheme}", f"its options are {', '.join(options) or 'none'}"
                )
        for key, option in options.items():
            text = self._given.get(key)
            try:
                self.options[key] = option.default if text is None else option.read(text)
            except ValueError as error:
                raise self.wrong(f"{key}={text!r}: {error}", option.help) from None
            except OSError as error:
                raise self.wrong(f"{key}={text!r}: {error.strerror}", option.help) from None
        stable = f"{self.scheme}://{self.user}@{self.host}:{self.port}{self.path}"
        slug = re.sub(r"[^a-z0-9.]+", "-", (self.host or os.path.basename(self.path)).lower()).strip("-.")[:40]
        self.name = f"{self.scheme.replace('+', '-')}-{slug}-{sha256(stable.encode()).hexdigest()[:8]}"

    def wrong(self, what: str, hint: str = "") -> SinkURLError:
        """The error that something of it cannot be."""
        return SinkURLError(f"--sink {redact(self._url)}: {what}", hint=hint)

    def need_host(self, port: int) -> None:
        """Require a host, and set the port if none is given."""
        if not self.host:
            raise self.wrong("it names no host", f"for example {self.scheme}://127.0.0.1:{port}")
        self.port = self.port or port

    def need_path(self) -> None:
        """Require an absolute path and no host."""
        if self.host or not self.path.startswith("/") or self.path == "/":
            raise self.wrong("it names no file", f"for example {self.scheme}:///var/lib/pylsm/store/events")

    def __str__(self) -> str:
        return redact(self._url).partition("?")[0]


def redact(url: str) -> str:
    """A URL to be shown: without its password."""
    return re.sub(r"//([^/@:]*):[^/@]*@", r"//\1:***@", url)


# ---- values of options -----------------------------------------------------------------------------------------------


def size(text: str) -> int:
    """Bytes, with an optional K, M, G or T."""
    return _with_unit(text, _SIZES, "a size such as 512M or 2G")


def duration(text: str) -> float:
    """Seconds, with an optional s, m, h, d or w."""
    return float(_with_unit(text, _SECONDS, "a time such as 12h or 30d"))


def _with_unit(text: str, units: dict[str, int], what: str) -> int:
    match = re.fullmatch(r"([0-9]{1,15})([a-z]?)", text.lower())
    if not match or match[2] not in units or not int(match[1]):
        raise ValueError(f"not {what}")
    return int(match[1]) * units[match[2]]


def secret_file(path: str) -> str:
    """What a file holds, without the newline at its end."""
    with open(path, encoding="utf-8") as file:
        return file.read(1 << 16).rstrip("\r\n")


def pem_file(path: str) -> str:
    """A file in PEM; its path, for what takes only that, is kept by `tls_context`."""
    with open(path, encoding="ascii") as file:
        text = file.read(1 << 20)
    if "-----BEGIN " not in text:
        raise ValueError("not a file in PEM")
    return path


#: Options of all sinks that know TLS.
TLS = {
    "ca": Option("a file in PEM with the certificates to trust, in place of the system's", pem_file),
    "cert": Option("a file in PEM with our own certificate (chain)", pem_file),
    "key": Option("a file in PEM with its private key", pem_file),
}
#: Options of all sinks that know passwords.
PASSWORD = {
    "password_file": Option("a file with the password, so that it is in no command line", secret_file),
}


def tls_context(address: Address) -> ssl.SSLContext:
    """What to check the engine's certificate with, and our own.

    Raises:
        SinkURLError: a file is not what it has to be.
    """
    options = address.options
    if bool(options.get("cert")) != bool(options.get("key")):
        raise address.wrong("cert and key go together", "give both files, or neither")
    try:
        context = ssl.create_default_context(cafile=options.get("ca"))
        if options.get("cert"):
            context.load_cert_chain(options["cert"], options["key"])
    except (ssl.SSLError, OSError) as error:
        raise address.wrong(
            f"TLS cannot be set up: {error}", "are ca, cert and key whole, and the key the cert's?"
        ) from None
    return context


# ---- sinks -----------------------------------------------------------------------------------------------------------


class Sink:
    """An engine to deliver to. One thread uses it.

    Args:
        address: its URL.

    Attributes:
        OPTIONS: what may stand behind the ``?`` of the URL.
        LIBRARY: the module that has to be installed; "": none.
        EXTRA: the extra of pylsm that brings it.
        batch: how many events are sent at most at a time.
        settle: seconds for which a connection has to go on after events were sent until they count as acknowledged, for
            protocols without acknowledgements.
    """

    OPTIONS: ClassVar[dict[str, Option]] = {}
    LIBRARY: ClassVar[str] = ""
    EXTRA: ClassVar[str] = ""
    batch = 1000
    settle = 0.0

    def __init__(self, address: Address) -> None:
        self.address = address
        self.name = address.name
        self.readable: tuple[str, ...] = ()
        self.writable: tuple[str, ...] = ()

    def prepare(self, group: int) -> None:
        """Make what a privileged process has to make: files for members of this group (-1: this process's own)."""

    def connect(self, identity: Identity) -> None:
        """Connect to the engine.

        Raises:
            DeliveryError: it does not work now.
        """
        raise NotImplementedError

    def send(self, batch: Sequence[Item]) -> int:
        """Deliver events; when this returns the engine has them (see ``settle``).

        Returns:
            How many of them the engine says it has thrown away.

        Raises:
            DeliveryError: not all of them were acknowledged; its ``accepted`` says how many were.
        """
        raise NotImplementedError

    def alive(self) -> bool:
        """Whether the connection still stands and all that was sent has arrived; asked of those with ``settle``."""
        return True

    def close(self) -> None:
        """Disconnect; may be called at any time, also twice."""


def make(url: str) -> Sink:
    """The sink that a URL names; what it needs of files is read, no library is imported.

    Raises:
        SinkURLError: the URL names none, or the library it needs is not installed.
    """
    scheme = url.partition(":")[0]
    if scheme not in SCHEMES or not url[len(scheme) :].startswith("://"):
        import difflib

        near = difflib.get_close_matches(scheme, SCHEMES, n=1, cutoff=0.5)
        known = ", ".join(f"{name}://" for name in SCHEMES)
        guess = f"did you mean {near[0]}://…? " if near else ""
        raise SinkURLError(f"--sink {redact(url)}: unknown scheme {scheme!r}", hint=f"{guess}known are {known}")
    kind: type[Sink] = import_module(f"pylsm.ship.sinks.{SCHEMES[scheme]}").SINK
    if kind.LIBRARY:
        try:
            missing = find_spec(kind.LIBRARY) is None
        except ModuleNotFoundError:  # what the package is in
            missing = True
        if missing:
            raise SinkURLError(
                f"--sink {redact(url)}: the Python module {kind.LIBRARY!r} is not installed",
                hint=f"pip install 'pylsm[{kind.EXTRA}]'",
            )
    return kind(Address(url, kind.OPTIONS))


def enrich(identity: Identity, item: Item) -> bytes:
    """The event's line with its id and its host in front."""
    event_id = identity.event_id(item.first, item.last)
    return b'{"id":"%s","host":"%s","host_name":%s,%s' % (
        event_id.encode(),
        identity.host.encode(),
        encode_basestring_ascii(identity.name).encode(),
        item.line[1:],
    )


def failure(address: Address, error: Exception, accepted: int = 0) -> DeliveryError:
    """The delivery error for one of a socket or of TLS."""
    reason = ""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno is not None:
            reason = cause.strerror or reason
        if isinstance(cause, ssl.SSLCertVerificationError):
            return TlsRefused(
                f"{address}: its certificate is refused: {cause.verify_message}",
                accepted=accepted,
                hint="give the authority that signed it with ?ca=FILE, and the name that is in the certificate",
            )
        if isinstance(cause, ssl.SSLEOFError):
            break
        if isinstance(cause, ssl.SSLError):
            words = (cause.reason or str(cause)).replace("_", " ").lower()
            return TlsRefused(
                f"{address}: TLS is refused: {words}",
                accepted=accepted,
                hint="does it speak TLS on this port, and does it want a certificate of ours (?cert=FILE&key=FILE)?",
            )
        cause = cause.__cause__ or cause.__context__
    reason = reason or str(error) or type(error).__name__
    return Down(f"{address}: {reason}", accepted=accepted, hint="events wait in the spool until it answers again")
