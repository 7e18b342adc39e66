"""The way back: small JSON requests to the service, over TLS that is verified, without redirects and without proxies."""

from __future__ import annotations

import http.client
import ipaddress
import json
import ssl
import threading
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from . import clock, shape
from .settings import Unusable

LARGEST_ANSWER = 4 << 20
PATIENCE = 10.0
"""Seconds for one step of a request (connect, send, receive)."""


class Away(Exception):
    """The service gave no usable answer: ask again later."""

    def __init__(self, message: str, wait: float = 0.0) -> None:
        super().__init__(message)
        self.wait = wait  # seconds that the service asked for; 0: it did not say


class Answer(NamedTuple):
    status: int
    body: dict[str, Any]

    @property
    def code(self) -> str:
        """The word of an error answer, for example "join_reused"; empty if there is none."""
        return str(shape.table(self.body.get("error")).get("code", ""))

    @property
    def message(self) -> str:
        return str(shape.table(self.body.get("error")).get("message", ""))[:300]

    @property
    def final(self) -> bool:
        """Whether the service itself says that this session is over. A proxy's own 401 does not count."""
        return self.status in (401, 410) and self.code not in ("", "no_session")

    @property
    def unknown(self) -> bool:
        """Whether the service has never heard of this session: so it is after its database was put back from a backup."""
        return self.status == 401 and self.code == "no_session"


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Wire:
    """One service. Safe to use from several threads: each request has a connection of its own."""

    def __init__(self, url: str, ca: str | None = None) -> None:
        """Raises `Unusable` for an address that is neither https nor loopback, and for a CA file that cannot be read."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise Unusable("the service's address cannot be read") from None
        self.host, self._prefix = parts.hostname or "", parts.path.rstrip("/")
        self.port = port or (443 if parts.scheme == "https" else 80)
        if parts.scheme not in ("http", "https") or not self.host or parts.username is not None:
            raise Unusable("the service's address is not an http address")
        if parts.scheme == "http" and not is_loopback(self.host):
            raise Unusable("the service's address must be https, for it is not loopback")
        self._tls: ssl.SSLContext | None = None
        if parts.scheme == "https":
            try:
                self._tls = ssl.create_default_context(cafile=ca)  # with a file: only that CA, not the system's
            except (OSError, ValueError) as error:
                raise Unusable(f"the pinned CA cannot be used: {error}") from None
            self._tls.minimum_version = ssl.TLSVersion.TLSv1_2
        self.session = ""
        self.time = clock.ServiceTime()
        self.heard = clock.monotonic()  # when the service last answered
        self._lock = threading.Lock()

    def post(self, path: str, body: dict[str, Any], patience: float = PATIENCE) -> Answer:
        """The service's answer, be it yes or no. Raises `Away` if there is none, or only one of a proxy in between."""
        try:
            status, headers, raw = self._exchange(path, json.dumps(body).encode(), patience)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Away(f"{type(error).__name__}: {error}") from None
        if len(raw) > LARGEST_ANSWER:
            raise Away("the answer is too large")
        if status == 429 or status >= 500 or 300 <= status < 400:
            raise Away(f"the service answers {status}", seconds(headers.get("Retry-After", "")))
        try:
            parsed = shape.table(json.loads(raw))
        except (ValueError, RecursionError):
            parsed = {}
        if not parsed or (status in (401, 410) and not shape.table(parsed.get("error"))):
            raise Away(f"the answer {status} is not the service's own")
        with self._lock:
            self.heard = clock.monotonic()
            if "now" in parsed:
                self.time.set(parsed["now"])
        return Answer(status, parsed)

    def fetch(self, path: str, most: int, patience: float) -> tuple[int, float]:
        """How many bytes of a large answer came, and in how many seconds: until `most` have, or the time is over.

        They are thrown away. Raises `Away` if there are none."""
        connection = self._connect(PATIENCE)
        try:
            connection.request("POST", self._prefix + path, b"{}", self._headers())
            response = connection.getresponse()
            if response.status != 200:
                raise Away(f"the service answers {response.status}")
            began, size = clock.monotonic(), 0
            while size < most and clock.monotonic() - began < patience:
                piece = response.read(min(65536, most - size))
                if not piece:
                    break
                size += len(piece)
            return size, clock.monotonic() - began
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Away(f"{type(error).__name__}: {error}") from None
        finally:
            connection.close()

    def _connect(self, patience: float) -> http.client.HTTPConnection:
        if self._tls is not None:
            return http.client.HTTPSConnection(self.host, self.port, timeout=patience, context=self._tls)
        return http.client.HTTPConnection(self.host, self.port, timeout=patience)

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "sublet-agent/1"}
        if self.session:
            headers["Authorization"] = "Bearer " + self.session
        return headers

    def _exchange(self, path: str, body: bytes, patience: float) -> tuple[int, http.client.HTTPMessage, bytes]:
        connection = self._connect(patience)
        try:
            connection.request("POST", self._prefix + path, body, self._headers())
            response = connection.getresponse()
            return response.status, response.headers, response.read(LARGEST_ANSWER + 1)
        finally:
            connection.close()


def seconds(text: str) -> float:
    """What `Retry-After` asks for, 0 to 60 seconds; NaN is no number of seconds."""
    try:
        return min(max(0.0, float(text)), 60.0)
    except ValueError:
        return 0.0
