"""One registry over HTTP: every answer within limits, every login only where it belongs."""

from __future__ import annotations

import asyncio
import contextlib
from base64 import b64encode
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from datetime import UTC, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

import httpx

from app.kit.clock import Clock
from app.trust.access import RegistryAccess, forbidden
from app.trust.challenge import LARGEST_TOKEN, Challenge, Token, chosen, token_of
from app.trust.faults import Refused, RegistryAway, unreadable

PULL: Final = "pull"
PUSH: Final = "pull,push"
MOST_REDIRECTS: Final = 4
WHOLE_CALL: Final = 60.0
"""Seconds for one call with its redirects: a registry that sends a byte a minute must not hold a lease."""
TIMEOUTS: Final = httpx.Timeout(20.0, connect=5.0)
MARGIN: Final = 5.0
"""Seconds before its end from which on a token is not used any more."""
LONGEST_WAIT: Final = timedelta(hours=1)
NOT_NOW: Final = frozenset({408, 425, 429})


@dataclass(frozen=True, slots=True)
class Answer:
    """A status and a body within the limit."""

    status: int
    headers: httpx.Headers
    body: bytes

    @property
    def content_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


class Endpoint:
    """A registry, or a mirror of one, under its own name. Belongs to one event loop."""

    def __init__(self, access: RegistryAccess, client: httpx.AsyncClient, clock: Clock) -> None:
        self.access = access
        self._client, self._clock = client, clock
        self._tokens: dict[tuple[str, str], tuple[Token, float]] = {}
        self._basic = False  # whether it has asked for the login itself

    @property
    def host(self) -> str:
        return self.access.host

    async def call(
        self,
        method: str,
        path: str,
        repository: str,
        *,
        accept: str = "*/*",
        limit: int = LARGEST_TOKEN,
        actions: str = PULL,
        content: bytes | None = None,
        content_type: str = "",
        follow: bool = True,
    ) -> Answer:
        """Ask below /v2/ (or at the whole address that an upload was given). Raises RegistryAway for anything that is no
        answer to the question, Refused for a body above the limit; every other status is the caller's to judge."""
        url = httpx.URL(path) if "://" in path else httpx.URL(self.access.base + path)
        headers = {"Accept": accept, "Accept-Encoding": "identity"}  # a digest is over the bytes as they are
        if content_type:
            headers["Content-Type"] = content_type
        known = self._authorization(repository, actions)
        try:
            async with asyncio.timeout(WHOLE_CALL):
                answer = await self._follow(method, url, {**headers, **known}, content, limit, follow)
                if answer.status == 401:
                    fresh = await self._enter(answer.headers.get_list("www-authenticate"), repository, actions)
                    answer = await self._follow(method, url, {**headers, **fresh}, content, limit, follow)
        except TimeoutError:
            raise RegistryAway(f"{self.host} did not answer within {WHOLE_CALL:g} seconds.") from None
        self._usable(answer)
        return answer

    async def lend(self, path: str, repository: str) -> Token | tuple[str, str] | None:
        """What somebody else needs to read that path: a token that lets them pull, else the login itself; None where
        everybody may, or where we have no login to lend. Raises RegistryAway."""
        try:
            async with asyncio.timeout(WHOLE_CALL):
                answer = await self._follow("HEAD", httpx.URL(self.access.base + path), {"Accept": "*/*"}, None, 0, True)
                if answer.status != 401:
                    self._usable(answer)
                    return None
                challenge = chosen(answer.headers.get_list("www-authenticate"))
                login = self.access.login
                if challenge is None or login is None:
                    return None
                return login if challenge.scheme == "basic" else await self._fetch_token(challenge, repository, PULL)
        except TimeoutError:
            raise RegistryAway(f"{self.host} did not answer within {WHOLE_CALL:g} seconds.") from None

    # Logins

    def _authorization(self, repository: str, actions: str) -> dict[str, str]:
        """What this registry has asked for before, for this repository."""
        token, until = self._tokens.get((repository, actions), (None, 0.0))
        if token is not None and self._clock.monotonic() < until:
            return {"Authorization": f"Bearer {token.text}"}
        return self._login() if self._basic else {}

    def _login(self) -> dict[str, str]:
        login = self.access.login
        if login is None:
            return {}
        return {"Authorization": f"Basic {b64encode(':'.join(login).encode()).decode()}"}

    async def _enter(self, headers: list[str], repository: str, actions: str) -> dict[str, str]:
        """Answer a 401: a fresh token, or the login. Raises RegistryAway if there is nothing new to say."""
        self._tokens.pop((repository, actions), None)
        challenge = chosen(headers)
        if challenge is None:
            raise RegistryAway(f"{self.host} refuses us and names no way in.", timedelta(minutes=5))
        if challenge.scheme == "basic":
            self._basic = True
            answer = self._login()
            if not answer:
                raise RegistryAway(f"{self.host} wants a login and the settings have none for it.", timedelta(minutes=5))
            return answer
        token = await self._fetch_token(challenge, repository, actions)
        if len(self._tokens) > 200:
            self._tokens.clear()
        self._tokens[repository, actions] = (token, self._clock.monotonic() + max(token.seconds - MARGIN, 0.0))
        return {"Authorization": f"Bearer {token.text}"}

    async def _fetch_token(self, challenge: Challenge, repository: str, actions: str) -> Token:
        """Ask the token service that the registry names. The scope is ours, not what the challenge would have us ask."""
        try:
            realm = httpx.URL(challenge.fields["realm"])
        except (httpx.InvalidURL, TypeError):
            raise RegistryAway(f"{self.host} names a token service without a readable address.") from None
        if why := forbidden(realm, self.access, "its token service"):
            raise RegistryAway(f"{self.host}: {why}, so no login is sent there.", timedelta(minutes=5))
        asked = {"scope": f"repository:{repository}:{actions}"}
        if service := challenge.fields.get("service", ""):
            asked["service"] = service
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", **self._login()}
        try:
            answer = await self._send("GET", realm.copy_merge_params(asked), headers, None, LARGEST_TOKEN)
        except Refused as error:
            raise RegistryAway(error.why) from None
        if answer.status in (401, 403):
            has = "refuses the login of the settings" if self.access.login else "wants a login and the settings have none"
            raise RegistryAway(f"{realm.host}, the token service of {self.host}, {has}.", timedelta(minutes=5))
        self._usable(answer)
        token = token_of(answer.body) if answer.status == 200 else None
        if token is None:
            raise RegistryAway(f"{realm.host}, the token service of {self.host}, gave no token ({answer.status}).")
        return token

    # Transport

    def _usable(self, answer: Answer) -> None:
        """Raises RegistryAway for what means: not now, or not for you."""
        if answer.status == 401 and self.access.login:
            raise RegistryAway(f"{self.host} refuses the login of the settings.", timedelta(minutes=5))
        if answer.status in (401, 403):
            raise RegistryAway(
                f"{self.host} does not let us read this repository ({answer.status}): it is private, or not there.",
                timedelta(minutes=5),
            )
        if answer.status in NOT_NOW or answer.status >= 500:
            what = "throttles us" if answer.status == 429 else f"answered {answer.status}"
            raise RegistryAway(f"{self.host} {what}.", self._wait(answer))
        if answer.status in (301, 302, 303, 307, 308):
            raise RegistryAway(f"{self.host} sends us elsewhere ({answer.status}) without a usable address.")

    def _wait(self, answer: Answer) -> timedelta:
        """`Retry-After`, in seconds or as a date (RFC 9110, 10.2.3); between a second and an hour."""
        written = answer.headers.get("retry-after", "").strip()
        wait = timedelta(seconds=30)
        if written.isdigit() and len(written) < 8:
            wait = timedelta(seconds=int(written))
        elif written:
            with contextlib.suppress(ValueError, TypeError):
                date = parsedate_to_datetime(written)
                wait = (date if date.tzinfo else date.replace(tzinfo=UTC)) - self._clock.now()
        return min(max(wait, timedelta(seconds=1)), LONGEST_WAIT)

    async def _follow(
        self, method: str, url: httpx.URL, headers: Mapping[str, str], content: bytes | None, limit: int, follow: bool
    ) -> Answer:
        """Send, and follow redirects of reads; the login stays with the registry.

        Registries send readers of blobs to object storage with a signed address; a login beside it is refused there by
        some (S3 answers 400), and none of its business anyway."""
        own = httpx.URL(self.access.base)
        for _ in range(MOST_REDIRECTS + 1):
            sent = dict(headers)
            if (url.scheme, url.host, url.port) != (own.scheme, own.host, own.port):
                sent.pop("Authorization", None)
            answer = await self._send(method, url, sent, content, limit)
            if answer.status not in (301, 302, 303, 307, 308) or not follow or method not in ("GET", "HEAD"):
                return answer
            try:
                target = url.join(answer.headers.get("location", ""))
            except httpx.InvalidURL:
                raise RegistryAway(f"{self.host} sends us to an address that cannot be read.") from None
            if why := forbidden(target.copy_with(fragment=None), self.access, "where it sends us"):
                raise RegistryAway(f"{self.host}: {why}, so it is not followed.", timedelta(minutes=5))
            url = target.copy_with(fragment=None)
        raise RegistryAway(f"{self.host} sends us round in circles: more than {MOST_REDIRECTS} redirects.")

    async def _send(self, method: str, url: httpx.URL, headers: Mapping[str, str], content: bytes | None, limit: int) -> Answer:
        try:
            async with self._stream(method, url, headers, content) as response:
                if method == "HEAD":
                    return Answer(response.status_code, response.headers, b"")
                good = response.status_code < 300
                body = await self._read(response, limit if good else LARGEST_TOKEN, good)
                return Answer(response.status_code, response.headers, body)
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError) as error:
            raise RegistryAway(f"{url.host} cannot be reached ({type(error).__name__}).") from None

    @contextlib.asynccontextmanager
    async def _stream(
        self, method: str, url: httpx.URL, headers: Mapping[str, str], content: bytes | None
    ) -> AsyncGenerator[httpx.Response]:
        request = self._client.build_request(method, url, headers=dict(headers), content=content, timeout=TIMEOUTS)
        request.headers.pop("cookie", None)
        response = await self._client.send(request, stream=True, follow_redirects=False, auth=None)
        try:
            yield response
        finally:
            await response.aclose()

    async def _read(self, response: httpx.Response, limit: int, good: bool) -> bytes:
        """The bytes as they came, at most `limit`: nothing is unpacked, so nothing can swell."""
        found = bytearray()
        async for piece in response.aiter_raw():
            found += piece
            if len(found) > limit:
                if not good:
                    return b""  # an error's text is shown to nobody
                raise unreadable(f"{self.host} sent more than {limit} bytes where so much is never needed.")
        return bytes(found)
