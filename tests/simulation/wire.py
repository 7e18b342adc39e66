"""HTTP without a network: what the forges' adapters send is answered in this process, after the faults had their say."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Coroutine, Generator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import github.Auth
import jwt.algorithms
import requests
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict

from tests.fakes.loopback import fields_of


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as it left."""

    host: str
    verb: str
    path: str  # still quoted
    query: str
    headers: Mapping[str, str]  # names in lower case
    body: bytes


@dataclass(frozen=True, slots=True)
class Told:
    """One answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes


Router = Callable[[Asked], Told]
"""Answers, or raises requests.ConnectionError for no answer."""


class Switchboard:
    """Stands in for `requests`' adapter: one router at a time, set by the world that runs."""

    def __init__(self) -> None:
        self.router: Router | None = None
        self.now: Callable[[], float] = lambda: 0.0

    def send(self, request: requests.PreparedRequest) -> requests.Response:
        assert self.router is not None and request.url is not None
        url = urlsplit(request.url)
        raw = request.body or b""
        asked = Asked(
            url.hostname or "",
            str(request.method),
            url.path,
            url.query,
            {name.lower(): value for name, value in request.headers.items()},
            raw.encode() if isinstance(raw, str) else bytes(raw),
        )
        told = self.router(asked)
        response = requests.Response()
        response.status_code, response.url, response.request = told.status, request.url, request
        response.headers = CaseInsensitiveDict(told.headers)
        response.encoding = "utf-8"
        response._content = told.body  # pyright: ignore[reportPrivateUsage]  how `requests` itself keeps a body that was read
        response._content_consumed = True  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]  as above: a stream gives it again
        return response


BOARD = Switchboard()


def _no_proxies(*_: object, **__: object) -> dict[str, str]:
    """`requests` reads the whole environment for each request."""
    return {}


@contextlib.contextmanager
def wired() -> Generator[Switchboard]:
    """While it lasts, no request leaves this process, and PyGithub signs by the world's clock."""
    adapter: Any = HTTPAdapter
    algorithm: Any = jwt.algorithms.RSAAlgorithm
    auth: Any = github.Auth
    sessions: Any = requests.sessions
    kept: tuple[Any, ...] = (adapter.send, algorithm.prepare_key, auth.time, sessions.get_environ_proxies)
    prepare: Callable[[Any, Any], Any] = kept[1]
    shared: Any = algorithm(algorithm.SHA256)

    @lru_cache(8)
    def parsed(key: str | bytes) -> Any:
        return prepare(shared, key)  # parsing an RSA key takes a tenth of a second

    def send(self: object, request: requests.PreparedRequest, *_: object, **__: object) -> requests.Response:
        return BOARD.send(request)

    def prepare_key(self: object, key: Any) -> Any:
        return parsed(key) if isinstance(key, str | bytes) else prepare(self, key)

    adapter.send, algorithm.prepare_key = send, prepare_key
    sessions.get_environ_proxies = _no_proxies
    auth.time = SimpleNamespace(time=lambda: BOARD.now(), sleep=time.sleep)
    try:
        yield BOARD
    finally:
        adapter.send, algorithm.prepare_key, auth.time, sessions.get_environ_proxies = kept


def at_once(work: Coroutine[Any, Any, Any]) -> None:
    """Runs a coroutine that waits for nothing to its end."""
    try:
        work.send(None)
    except StopIteration:
        return
    raise AssertionError("an application of the simulation waited for something outside of it")


def over_asgi(app: Any, asked: Asked) -> Told:
    """One request to an ASGI application whose routes never wait."""
    status, headers, pieces = 500, dict[str, str](), list[bytes]()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": asked.body, "more_body": False}

    async def send(message: Any) -> None:
        nonlocal status, headers
        if message["type"] == "http.response.start":
            status = message["status"]
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in message.get("headers", ())}
        else:
            pieces.append(message.get("body", b""))

    at_once(app(scope_of(replace(asked, headers={**asked.headers, "host": asked.host})), receive, send))
    return Told(status, headers, b"".join(pieces))


def scope_of(asked: Asked) -> dict[str, Any]:
    """The ASGI scope of a request."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": asked.verb,
        "scheme": "http",
        "path": asked.path,
        "raw_path": asked.path.encode(),
        "query_string": asked.query.encode(),
        "root_path": "",
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in asked.headers.items()],
        "client": ("127.0.0.1", 50_000),
        "server": (asked.host, 80),
    }


def query_of(asked: Asked) -> dict[str, str]:
    """The query's fields."""
    return fields_of(asked.query)
