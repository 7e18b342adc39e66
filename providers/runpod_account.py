"""An account at RunPod: the calls of its REST API v2 that a lease needs, and what its errors say.

Every path and field is as the vendor's description has it (`runpod/docs`, api-reference-v2/openapi.json of 2026-08-20).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Generator, Mapping, Sequence
from datetime import timedelta
from typing import Any, cast
from urllib.parse import quote

import httpx

from providers.clock import Clock
from providers.contract import ProviderError, Secret, Unclear
from providers.http import MEBIBYTE, Answer, Api, said_by_vendor, table, tables
from providers.rate import shared

EVERY, BURST = timedelta(seconds=1), 20
"""The example of the description's RateLimit-Policy header: 60 in a minute, 3000 in an hour, 50000 in a day."""
LIST_CAP = 64 * MEBIBYTE
"""The listing has no pages, and every pod in it shows its whole environment, the start-up script with it."""
WINDOW = re.compile(r'"(?P<window>\w{1,16})";r=(?P<left>\d{1,9});t=(?P<seconds>\d{1,9})')
LONG_WORD = re.compile(r"[A-Za-z0-9+/=]{32,}")
"""Keys, tokens and our own encoded script; an error may quote what was sent."""
TOO_MANY = 10_000


class Account:
    """Raises only `ProviderError`."""

    def __init__(
        self, title: str, url: str, api_key: Secret, *, clock: Clock, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._pace = shared(f"runpod|{url}|{api_key.reveal()}", EVERY, BURST, clock=clock)
        self._api = Api(
            url,
            title=title,
            headers={"Authorization": Secret(f"Bearer {api_key.reveal()}")},
            secrets=(api_key,),
            timeout=60,
            cap=LIST_CAP,
            transport=transport,
            clock=clock,
            pace=self._pace,
        )

    async def pods(self) -> Sequence[Mapping[str, Any]]:
        """Every pod of the account: the API filters by nothing. Raises `Unclear` if the listing is not whole."""
        answer = self._noted(await self._api.read("/v2/pods"))
        found = table(answer.json())
        more = [key for key, value in found.items() if key != "pods" and value]
        pods = tables(found["pods"])
        if more or len(pods) > TOO_MANY:
            # The description has no pages (2026-08); should they come, a listing of the first one is not the whole.
            raise Unclear(f"the listing of the pods says more than pods: {', '.join(more)[:100]}", maybe_created=False)
        return pods

    async def pod(self, pod_id: str) -> Mapping[str, Any] | None:
        """None where the account has no such pod.

        Its 404 is "not found or is not accessible to the caller", so it counts only with a listing that agrees."""
        answer = self._noted(await self._api.read(f"/v2/pods/{quote(pod_id, safe='')}", accept=(404,)))
        if answer.status == 404:
            return next((pod for pod in await self.pods() if pod.get("id") == pod_id), None)
        pod = table(answer.json())
        if pod["id"] != pod_id:
            raise Unclear("another pod was shown than was asked for", maybe_created=False)
        return pod

    async def create_pod(self, body: Mapping[str, Any], hidden: Sequence[str]) -> Answer:
        """The answer to the one create: 2xx, 400, 403 or 422; other errors are raised, without `hidden` in them."""
        with self._without(hidden):
            return self._noted(await self._api.write("POST", "/v2/pods", content=body, accept=(400, 403, 422), creates=True))

    async def delete_pod(self, pod_id: str) -> None:
        path = f"/v2/pods/{quote(pod_id, safe='')}"
        self._noted(await self._api.write("DELETE", path, accept=(404,), repeatable=True))

    async def gpus(self, params: Mapping[str, str | int]) -> Sequence[Mapping[str, Any]]:
        answer = self._noted(await self._api.read("/v2/catalog/gpus", params=params))
        return tables(table(answer.json())["gpus"])

    async def data_centers(self, params: Mapping[str, str | int]) -> Sequence[Mapping[str, Any]]:
        answer = self._noted(await self._api.read("/v2/catalog/datacenters", params=params))
        return tables(table(answer.json())["dataCenters"])

    async def registries(self) -> Sequence[Mapping[str, Any]]:
        return tables(table(self._noted(await self._api.read("/v2/registries")).json())["registries"])

    async def create_registry(self, name: str, username: str, password: Secret) -> str:
        """The id of the stored login. Nothing is rented by it."""
        content = {"name": name, "username": username, "password": password.reveal()}
        with self._without((password.reveal(), username)):
            answer = self._noted(await self._api.write("POST", "/v2/registries", content=content))
        return str(table(answer.json())["id"])

    async def delete_registry(self, registry_id: str) -> bool:
        """False while a pod still uses it: the vendor refuses that with 400."""
        path = f"/v2/registries/{quote(registry_id, safe='')}"
        return self._noted(await self._api.write("DELETE", path, accept=(400, 404), repeatable=True)).status != 400

    def said(self, answer: Answer, hidden: Sequence[str]) -> str:
        """The vendor's own words in an error, with each violation that it lists, and without what we sent."""
        text = said_by_vendor(answer.body)
        with contextlib.suppress(Unclear, TypeError):
            text += "".join(f"; {one}" for one in cast("list[object]", table(answer.json()).get("errors") or []))
        return self._api.redact(_clean(text, hidden))

    async def aclose(self) -> None:
        await self._api.aclose()

    def _noted(self, answer: Answer) -> Answer:
        """Keeps still when a window of the quota is used up, before the vendor says 429."""
        for match in WINDOW.finditer(answer.headers.get("RateLimit", "")):
            if match["left"] == "0":
                self._pace.hold(min(timedelta(seconds=int(match["seconds"])), timedelta(hours=1)))
        return answer

    @contextlib.contextmanager
    def _without(self, hidden: Sequence[str]) -> Generator[None, None, None]:
        """An error that passes through loses what we sent: a vendor may quote the request."""
        try:
            yield
        except ProviderError as error:
            error.args = (_clean(str(error), hidden),)
            raise


def _clean(text: str, hidden: Sequence[str]) -> str:
    for word in sorted((word for word in hidden if len(word) >= 4), key=len, reverse=True):
        text = text.replace(word, "***")
    return LONG_WORD.sub("***", text)
