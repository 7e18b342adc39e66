"""An account at Vast.ai, through the vendor's async SDK: the calls that a lease needs, each at its pace, and what errors say.

The SDK's client gives the addresses, the headers, the request's shape and the session; its verbs are not used, because they
raise by status alone: they lose the vendor's words (a daily quota, a contract made all the same), set no timeout, read a
whole listing after each create, and fetch a certificate from the network first. Paths and fields are as in
`vast-ai/docs` (api-reference/openapi.yaml of 2026-08).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from providers.clock import Clock
from providers.contract import NoCapacity, ProviderError, Refused, Secret, Throttled, Unclear, Why
from providers.http import MEBIBYTE, clean, table, tables
from providers.rate import Pace, shared
from providers.sdk import sdk

PACES: Mapping[str, timedelta] = {
    "list": timedelta(seconds=2),
    "search": timedelta(seconds=2),
    "user": timedelta(seconds=2),
    "create": timedelta(seconds=4.5),
    "destroy": timedelta(seconds=3),
}
"""The vendor allows one call per endpoint in so long, with no burst: the thresholds that its description's 429s name, and
docs/api-reference/rate-limit-endpoint-method-data."""
PATIENCE = timedelta(seconds=10)  # so long a call waits for its own turn
PAUSES = (0.5, 2.0)  # seconds before the second and the third try of a read
TIMEOUT = 30.0  # seconds for a whole call
CREATE_TIMEOUT = 60.0
CAP = 32 * MEBIBYTE
PAGE = 25  # the most that the vendor gives
PAGES = 400
COLUMNS = ("id", "label", "actual_status", "intended_status", "cur_state", "status_msg", "is_bid", "start_date", "geolocation")
"""And `extra_env`. Not the rest: it holds the start-up script and tokens of the instance."""
LONG_WORD = re.compile(r"[A-Za-z0-9+/=_-]{32,}")
NO_SUCH_ASK = re.compile(r"no_such_ask|no longer available|is not available", re.IGNORECASE)
NO_CREDIT = re.compile(r"insufficient_credit|lacks credit|billing page", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    content: Mapping[str, Any]  # empty where it is no JSON object
    text: str
    retry_after: str = ""


class Account:
    """Raises only `ProviderError` and what `guarded` catches. Belongs to one event loop."""

    def __init__(self, title: str, url: str, api_key: Secret, *, clock: Clock) -> None:
        self._sdk: Any = sdk("vastai.async_.client", "vast")
        self._http: Any = sdk("aiohttp", "vast")
        _quiet()
        # The key is given, so the SDK looks for none in the environment or in the home folder.
        self._client: Any = self._sdk.AsyncClient(api_key=api_key.reveal(), vast_server=url)
        self._title, self._key, self._clock = title, api_key, clock
        account = f"vast|{url}|{api_key.reveal()}"
        self._paces: dict[str, Pace] = {name: shared(f"{account}|{name}", every, clock=clock) for name, every in PACES.items()}
        self._closed = False

    def instance(self, **values: Any) -> dict[str, Any]:
        """The body of a create, as the SDK shapes it; what it has no field for (`price`, `cancel_unavail`) is added here."""
        extra = {key: values.pop(key) for key in ("price", "cancel_unavail") if key in values}
        return {**self._sdk.InstanceConfig(**values).to_dict(), **extra}

    async def search(self, query: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        answer = await self._read("search", "POST", "/api/v0/bundles/", json=query)
        return tables(answer.content["offers"])

    async def user(self) -> Mapping[str, Any]:
        return (await self._read("user", "GET", "/api/v0/users/current/")).content

    async def instances(self, filters: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """Every instance that fits, page after page. Raises `Unclear` if the listing is not whole."""
        params = {
            "select_filters": json.dumps(filters),
            "select_cols": json.dumps([*COLUMNS, "extra_env"]),
            "order_by": json.dumps([{"col": "id", "dir": "asc"}]),
            "limit": str(PAGE),
        }
        found: dict[int, Mapping[str, Any]] = {}
        seen: set[str] = set()
        for _ in range(PAGES):
            page = (await self._read("list", "GET", "/api/v1/instances/", params=params)).content
            if page.get("success") is False:
                raise Unclear(f"{self._title}: a page of the listing failed", maybe_created=False)
            found |= {int(row["id"]): row for row in tables(page["instances"])}
            token = page.get("next_token")
            if not token:
                return list(found.values())
            if not isinstance(token, str) or token in seen:
                break
            seen.add(token)
            params["after_token"] = token
        raise Unclear(f"{self._title}: the listing does not end", maybe_created=False)

    async def create(self, ask: int, body: Mapping[str, Any]) -> Answer:
        """The answer whatever it says, so that a contract in it is never lost. Sent once. Raises if there is none."""
        await self._turn("create")
        return await self._send("PUT", f"/api/v0/asks/{ask}/", json=body, timeout=CREATE_TIMEOUT, creates=True)

    async def destroy(self, instance_id: int) -> None:
        """Gone already is no error."""
        await self._turn("destroy")
        answer = await self._send("DELETE", f"/api/v0/instances/{instance_id}/")
        if answer.status == 404 or (answer.status == 200 and answer.content.get("success") is True):
            return
        raise self.no(answer, "destroy")

    def no(self, answer: Answer, endpoint: str, hidden: Sequence[str] = (), *, creates: bool = False) -> ProviderError:
        """What an answer that is no success means."""
        code, words = str(answer.content.get("error", "")), str(answer.content.get("msg") or answer.content.get("detail") or "")
        said = self._clean(f"{code} {words}" if code or words else answer.text, hidden)
        text = f"{self._title}: {endpoint}: {answer.status}: {said}"
        if answer.status == 429:
            wait = self._wait(answer.retry_after, quota=code == "search_quota_exceeded")
            self._paces[endpoint].hold(wait)
            return Throttled(text, wait=wait)
        if answer.status < 400 and not answer.content:
            return Unclear(text, maybe_created=creates)
        if answer.status == 402 or NO_CREDIT.search(f"{code} {words}"):
            return Refused(text, why=Why.FUNDS)
        if creates and answer.status < 500 and NO_SUCH_ASK.search(f"{code} {words}"):
            return NoCapacity(text)
        # 403 with invalid_args is about the offer ("Hosts can only rent their own machines"), not about the key.
        if answer.status == 401 or (answer.status == 403 and code != "invalid_args"):
            return Refused(text, why=Why.CREDENTIALS)
        if 400 <= answer.status < 500 and answer.status != 408:
            return Refused(text)
        if answer.status == 200 and answer.content.get("success") is False:
            return Refused(text)
        return Unclear(text, maybe_created=creates)

    async def aclose(self) -> None:
        self._closed = True
        await self._client.close(force=True)

    async def _read(self, endpoint: str, method: str, path: str, **rest: Any) -> Answer:
        """What changes nothing: tried three times."""
        for pause in (*PAUSES, None):
            await self._turn(endpoint)
            try:
                answer = await self._send(method, path, **rest)
            except Unclear:
                if pause is None:
                    raise
            else:
                if answer.status == 200 and answer.content:
                    return answer
                if answer.status < 500 or pause is None:
                    raise self.no(answer, endpoint)
            await self._clock.sleep(pause)
        raise AssertionError("the last try returns or raises")

    async def _turn(self, endpoint: str) -> None:
        """The vendor's intervals are longer than `Pace` waits by itself."""
        while True:
            try:
                await self._paces[endpoint].turn(f"{self._title}: {endpoint}")
            except Throttled as throttled:
                if throttled.wait > PATIENCE:
                    raise
                await self._clock.sleep(throttled.wait.total_seconds())
            else:
                return

    async def _send(self, method: str, path: str, *, timeout: float = TIMEOUT, creates: bool = False, **rest: Any) -> Answer:
        session, http = self._session(), self._http
        headers = {**self._client._headers(), "Accept-Encoding": "identity"}
        body = bytearray()
        try:
            async with asyncio.timeout(timeout):
                async with session.request(
                    method,
                    self._client._url(path),
                    headers=headers,
                    allow_redirects=False,
                    **rest,
                ) as response:
                    async for piece in response.content.iter_chunked(65536):
                        body += piece
                        if len(body) > CAP:
                            raise Unclear(f"{self._title}: the answer is larger than {CAP} bytes", maybe_created=creates)
        except TimeoutError:
            raise Unclear(f"{self._title}: {path}: no answer within {timeout:g} s", maybe_created=creates) from None
        except http.ClientConnectorError as error:
            raise Unclear(f"{self._title}: cannot connect: {type(error).__name__}", maybe_created=False) from None
        except (http.ClientError, OSError) as error:
            raise Unclear(f"{self._title}: {path}: {type(error).__name__}", maybe_created=creates) from None
        text, content = bytes(body).decode(errors="replace"), dict[str, Any]()
        with contextlib.suppress(ValueError, TypeError):
            content = dict(table(json.loads(text)))
        return Answer(response.status, content, text[:4096], response.headers.get("Retry-After", ""))

    def _session(self) -> Any:
        """The SDK's session, made by us: its own would download a certificate, keep cookies and hook the loop's end."""
        if self._closed:
            raise Unclear(f"{self._title} is closed", maybe_created=False)
        if not self._client.is_open():
            http = self._http
            session = http.ClientSession(
                connector=http.TCPConnector(limit=16),
                cookie_jar=http.DummyCookieJar(),
                timeout=http.ClientTimeout(total=None, connect=10),  # the whole call has its own
            )
            # aiohttp sends a PUT again when the line breaks, because RFC 9110 calls PUT idempotent; Vast's create is a PUT.
            session._retry_connection = False
            self._client._session = session
        return self._client._session

    def _wait(self, retry_after: str, *, quota: bool) -> timedelta:
        """As told; else until the daily search quota is new, at midnight UTC; else half a minute."""
        if retry_after.strip().isdigit():
            return min(max(timedelta(seconds=int(retry_after)), timedelta(seconds=1)), timedelta(days=1))
        now = self._clock.now()
        midnight = datetime(now.year, now.month, now.day, tzinfo=now.tzinfo) + timedelta(days=1)
        return midnight - now if quota else timedelta(seconds=30)

    def _clean(self, text: str, hidden: Sequence[str]) -> str:
        """Without our secrets and what was sent, on one short line."""
        for word in sorted((self._key.reveal(), *hidden), key=len, reverse=True):
            text = text.replace(word, "***") if len(word) >= 4 else text
        return clean(LONG_WORD.sub("***", text))


def _quiet() -> None:
    """The SDK's package prints its log to stderr by a handler of its own, past everybody's settings."""
    log = logging.getLogger("vastai")
    for handler in list(log.handlers):
        log.removeHandler(handler)
    log.propagate = True
    log.setLevel(logging.WARNING)
