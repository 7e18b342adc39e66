"""One HTTP client for every wrapper: explicit timeouts, safe retries only, a cap on answers, errors as the contract sorts them.

    read    GET: repeated twice after a broken connection or a 5xx, since asking again changes nothing
    write   everything else: sent once, unless the caller says that it may be repeated (DELETE, PUT)

What an answer becomes, unless the caller accepts its status and judges for itself:

    2xx                          an `Answer`
    401 403                      `Refused` for the credentials, with the vendor's own words
    402                          `Refused` for the funds
    other 4xx                    `Refused` for the request
    429                          `Throttled`, with the wait of `Retry-After`, which the account's pace keeps to
    3xx 408 5xx, no answer,      `Unclear`; a write that never left this machine says `maybe_created=False`
    too large, not JSON

Secrets given as headers are revealed only while a request is built, and cut out of every error text.
"""

import asyncio
import contextlib
import json
import ssl
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, TypeVar, cast

import httpx

from providers.clock import SYSTEM, Clock
from providers.contract import ProviderError, Refused, Secret, Throttled, Unclear, Why
from providers.rate import Pace

MEBIBYTE = 1024 * 1024
PAUSES = (0.2, 0.8)  # seconds before the second and the third try of what may be repeated
NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)
LONGEST_WAIT = timedelta(hours=1)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answer:
    """A status and a body within the cap."""

    status: int
    body: bytes
    headers: Mapping[str, str]
    what: str
    writing: bool

    def json(self) -> Any:
        """The parsed body. Raises `Unclear` if it is not JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            raise Unclear(f"{self.what}: the answer is not JSON", maybe_created=self.writing) from None

    @property
    def text(self) -> str:
        return self.body.decode(errors="replace")


class Api:
    """An account at one address. Raises only `ProviderError`; belongs to one event loop."""

    def __init__(
        self,
        base: str,
        *,
        title: str,
        headers: Mapping[str, str | Secret] | None = None,
        secrets: Iterable[Secret] = (),
        socket: Path | None = None,
        tls: ssl.SSLContext | None = None,
        proxy: str | None = None,
        connect_timeout: float = 5.0,
        timeout: float = 30.0,
        cap: int = 8 * MEBIBYTE,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Clock = SYSTEM,
        pace: Pace | None = None,
    ) -> None:
        """`timeout` is seconds for a whole call, `cap` the most bytes of an answer; `transport` is for tests; `pace` is that
        of the account."""
        self._pace = pace
        self._title = title
        self._headers = dict(headers or {})
        given = [*secrets, *(value for value in self._headers.values() if isinstance(value, Secret))]
        words = {word for secret in given for word in (secret.reveal(), *secret.reveal().split()) if len(word) >= 6}
        self._hidden = sorted(words, key=len, reverse=True)
        self._connect_timeout = connect_timeout
        self._timeout = timeout
        self._cap = cap
        self._clock = clock
        if transport is None and socket is not None:
            transport = httpx.AsyncHTTPTransport(uds=str(socket))
        self._client = httpx.AsyncClient(
            base_url=base,
            transport=transport,
            verify=tls if tls is not None else True,
            proxy=proxy,
            trust_env=False,  # no proxy, no .netrc and no certificate from the environment behind our back
            follow_redirects=False,
            limits=httpx.Limits(max_connections=16, max_keepalive_connections=4, keepalive_expiry=15),
        )

    async def read(
        self,
        path: str,
        *,
        params: Mapping[str, str | int] | None = None,
        accept: Collection[int] = (),
        timeout: float | None = None,
    ) -> Answer:
        """GET, with two repeats."""
        return await self._repeated("GET", path, params=params, accept=accept, timeout=timeout)

    async def write(
        self,
        method: str,
        path: str,
        *,
        content: object = None,
        params: Mapping[str, str | int] | None = None,
        headers: Mapping[str, str | Secret] | None = None,
        accept: Collection[int] = (),
        timeout: float | None = None,
        creates: bool = False,
        repeatable: bool = False,
    ) -> Answer:
        """Send once. `content` becomes JSON. `creates` marks the call after which something may be rented;
        `repeatable` one whose repeat changes nothing.
        """
        send = self._repeated if repeatable else self._once
        return await send(
            method,
            path,
            params=params,
            content=None if content is None else json.dumps(content).encode(),
            headers=headers,
            accept=accept,
            timeout=timeout,
            creates=creates,
        )

    async def aclose(self) -> None:
        await self._client.aclose()

    def redact(self, text: str) -> str:
        """Without our secrets and control characters, and short enough for a log line."""
        return clean(text, self._hidden)

    async def _repeated(self, method: str, path: str, **rest: Any) -> Answer:
        return await repeated(lambda: self._once(method, path, **rest), self._clock)

    async def _once(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int] | None = None,
        content: bytes | None = None,
        headers: Mapping[str, str | Secret] | None = None,
        accept: Collection[int] = (),
        timeout: float | None = None,
        creates: bool = False,
    ) -> Answer:
        seconds = timeout if timeout is not None else self._timeout
        what = f"{self._title}: {method} {path.partition('?')[0]}"
        if self._pace is not None:
            await self._pace.turn(what)
        try:
            async with asyncio.timeout(seconds):
                answer = await self._send(method, path, params, content, headers or {}, seconds, what, creates)
        except NEVER_SENT as error:
            raise Unclear(self.redact(f"{what}: cannot connect: {error}"), maybe_created=False) from None
        except TimeoutError:
            raise Unclear(f"{what}: no answer within {seconds:g} s", maybe_created=creates) from None
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError, OSError) as error:
            raise Unclear(self.redact(f"{what}: {type(error).__name__}: {error}"), maybe_created=creates) from None
        if answer.status not in accept and not 200 <= answer.status < 300:
            raise self._error(answer, what, creates)
        return answer

    async def _send(
        self,
        method: str,
        path: str,
        params: Mapping[str, str | int] | None,
        content: bytes | None,
        headers: Mapping[str, str | Secret],
        seconds: float,
        what: str,
        creates: bool,
    ) -> Answer:
        ours = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if content is not None:
            ours["Content-Type"] = "application/json"
        for name, value in (*self._headers.items(), *headers.items()):
            ours[name] = value.reveal() if isinstance(value, Secret) else value
        request = self._client.build_request(
            method,
            path,
            params=params,
            content=content,
            headers=ours,
            timeout=httpx.Timeout(seconds, connect=min(self._connect_timeout, seconds)),
        )
        response = await self._client.send(request, stream=True)
        try:
            body = bytearray()
            async for piece in response.aiter_bytes(65536):
                body += piece
                if len(body) > self._cap:
                    raise Unclear(f"{what}: the answer is larger than {self._cap} bytes", maybe_created=creates)
            return Answer(response.status_code, bytes(body), response.headers, what, creates)
        finally:
            await response.aclose()

    def _error(self, answer: Answer, what: str, creates: bool) -> ProviderError:
        said = self.redact(said_by_vendor(answer.body))
        text = f"{what}: {answer.status}" + (f": {said}" if said else "")
        if answer.status == 429:
            wait = wait_of(answer.headers.get("Retry-After", ""), self._clock.now())
            if self._pace is not None:
                self._pace.hold(wait)
            return Throttled(text, wait=wait)
        if answer.status < 400 or answer.status == 408 or answer.status >= 500:
            return Unclear(text, maybe_created=creates)
        why = {401: Why.CREDENTIALS, 403: Why.CREDENTIALS, 402: Why.FUNDS}.get(answer.status, Why.REQUEST)
        return Refused(text, why=why)


async def repeated(ask: Callable[[], Awaitable[T]], clock: Clock) -> T:
    """What `ask` gives; it is asked again twice after no clear answer, so it is to be something that changes nothing."""
    for pause in PAUSES:
        with contextlib.suppress(Unclear):
            return await ask()
        await clock.sleep(pause)
    return await ask()


def wait_of(retry_after: str, now: datetime) -> timedelta:
    """`Retry-After` as RFC 9110 10.2.3 has it: seconds, or a date; 30 s where it is missing or unreadable."""
    wait = timedelta(seconds=30)
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        if retry_after.strip().isdigit():
            wait = timedelta(seconds=int(retry_after))
        elif retry_after:
            until = parsedate_to_datetime(retry_after)
            wait = (until if until.tzinfo else until.replace(tzinfo=UTC)) - now
    return min(max(wait, timedelta(seconds=1)), LONGEST_WAIT)


def clean(text: str, hidden: Iterable[str] = (), *, most: int = 300) -> str:
    """One printable line of at most so many characters, without the hidden words."""
    for word in hidden:
        text = text.replace(word, "***")
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())[:most]


def table(value: object) -> Mapping[str, Any]:
    """The JSON object that a wrapper expects here. Raises TypeError, which `guarded` makes `Unclear`."""
    if not isinstance(value, dict):
        raise TypeError(f"expected a JSON object, not {type(value).__name__}")
    return cast("Mapping[str, Any]", value)


def tables(value: object) -> Sequence[Mapping[str, Any]]:
    """The JSON array of objects that a wrapper expects here. Raises TypeError."""
    if not isinstance(value, list):
        raise TypeError(f"expected a JSON array, not {type(value).__name__}")
    return [table(row) for row in cast("list[object]", value)]


def said_by_vendor(body: bytes) -> str:
    """The sentence in an error's body, where the usual shapes hold one; else its first characters."""
    text = body[:4096].decode(errors="replace")
    try:
        content: object = json.loads(body)
    except ValueError:
        return text
    for _ in range(3):  # {"errors": [{"message": "..."}]} is the deepest that vendors go
        if isinstance(content, list):
            content = next(iter(cast("list[object]", content)), text)
        if isinstance(content, dict):
            said = cast("dict[str, object]", content)
            content = next((said[key] for key in ("message", "error", "detail", "title", "errors") if said.get(key)), text)
    return content if isinstance(content, str) else text
