"""A cluster's API through kubernetes-asyncio: every call with a time-out and a cap, and its errors as the contract sorts them.

401                          `Refused` for the credentials, after they were read anew once: a 401 did nothing
403 "exceeded quota"         `Refused` for the quota; "status unknown for quota": `Throttled`, the quota is still being counted
403 PodSecurity, webhooks    `Refused` for the request
other 403                    `Refused` for the credentials: the Role does not allow it
409 of a resourcequota       `Throttled`: two creates met, nothing was created
429                          `Throttled`, with the wait of `Retry-After`
404 400 422 …                `Refused` for the request, unless the caller accepts the status
5xx, broken, not JSON        `Unclear`
"""

import asyncio
import contextlib
import json
import logging
import re
from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import Any, cast

from providers.clock import SYSTEM, Clock
from providers.contract import ProviderError, Refused, Throttled, Unclear, Why
from providers.http import LONGEST_WAIT, table
from providers.kubernetes_settings import KubernetesSettings
from providers.rate import shared
from providers.sdk import sdk

CAP = 32 * 1024 * 1024  # bytes of an answer; a page of 200 pods has one or two
REQUEST_FAULTS = ("violates PodSecurity", "admission webhook", "maximum ", "minimum ", "must specify", "no providers available")
BURST = 20
EVERY = timedelta(milliseconds=100)


class Forbidden(Refused):
    """The key is good, and its Role does not allow this."""

    def __init__(self, message: str) -> None:
        super().__init__(message, why=Why.CREDENTIALS)


class Cluster:
    """One cluster with one login. Belongs to one event loop."""

    def __init__(self, settings: KubernetesSettings, *, title: str, clock: Clock = SYSTEM) -> None:
        # Its rest client prints whole answers at DEBUG, and with them the Secrets that were written.
        logging.getLogger("kubernetes_asyncio").setLevel(logging.INFO)
        self._sdk = sdk("kubernetes_asyncio", "kubernetes")
        self._aiohttp = sdk("aiohttp", "kubernetes")
        self._settings, self._title = settings, title
        self._pace = shared(
            f"kubernetes|{settings.server or settings.kubeconfig}|{settings.context}", EVERY, BURST, clock=clock
        )
        self._client: Any = None
        self._making = asyncio.Lock()

    async def read(self, verb: str, *words: str, accept: Collection[int] = (), **rest: Any) -> tuple[int, Any]:
        """A status and its JSON. Asked again, once, where no answer or a 5xx came: asking changes nothing."""
        with contextlib.suppress(Unclear):
            return await self.call(verb, *words, accept=accept, **rest)
        return await self.call(verb, *words, accept=accept, **rest)

    async def call(
        self, verb: str, *words: str, accept: Collection[int] = (), creates: bool = False, api: str = "CoreV1Api", **rest: Any
    ) -> tuple[int, Any]:
        """Sent once. `verb` is a method of the client; `creates` marks the call after which something may be there."""
        await self._pace.turn(f"{self._title}: {verb}")
        status, body, wait = await self._once(verb, words, creates, api, rest)
        if status == 401:  # nothing was done, and a login that is made anew every hour may just have ended
            await self.aclose()
            status, body, wait = await self._once(verb, words, creates, api, rest)
        content: Any = None
        with contextlib.suppress(ValueError):
            content = json.loads(body)
        if not isinstance(content, dict):  # a proxy's page, perhaps: its 404 proves nothing
            if status in (401, 403, 429):
                raise self.error(verb, status, {}, wait, creates=creates)
            raise Unclear(f"{self._title}: {verb}: {status}, and the answer is no JSON object", maybe_created=creates)
        if 200 <= status < 300 or status in accept:
            return status, cast("dict[str, Any]", content)
        raise self.error(verb, status, cast("dict[str, Any]", content), wait, creates=creates)

    async def aclose(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _once(self, verb: str, words: tuple[str, ...], creates: bool, api: str, rest: Any) -> tuple[int, bytes, str]:
        """Status, body and Retry-After. What the client raises may hold our headers, so it is not kept as a context."""
        what, trouble = f"{self._title}: {verb}", Unclear()
        try:
            client = await self._connected()
            async with asyncio.timeout(self._settings.timeout.total_seconds()):
                answer = await getattr(getattr(self._sdk.client, api)(client), verb)(*words, _preload_content=False, **rest)
                async with answer:
                    body = bytearray()
                    async for piece in answer.content.iter_chunked(65536):
                        body += piece
                        if len(body) > CAP:
                            raise Unclear(f"{what}: the answer is larger than {CAP} bytes", maybe_created=creates)
                    return answer.status, bytes(body), answer.headers.get("Retry-After", "")
        except ProviderError:
            raise
        except self._aiohttp.ClientConnectorError as error:
            trouble = Unclear(f"{what}: cannot connect: {type(error).__name__}", maybe_created=False)
        except TimeoutError:
            trouble = Unclear(f"{what}: no answer within {self._settings.timeout.total_seconds():g} s", maybe_created=creates)
        except (self._aiohttp.ClientError, OSError, ValueError) as error:
            trouble = Unclear(f"{what}: {type(error).__name__}", maybe_created=creates)
        raise trouble

    async def _connected(self) -> Any:
        async with self._making:
            if self._client is None:
                self._client = await self._login()
            return self._client

    async def _login(self) -> Any:
        """A client with the login as it is now. Raises `Refused` if there is none to be had."""
        settings, trouble, client = self._settings, "", cast("Any", None)
        configuration: Any = type.__call__(self._sdk.client.Configuration)  # a fresh one: not what others set as the default
        try:
            if settings.server and settings.token is not None:
                configuration.host = settings.server.rstrip("/")
                configuration.api_key["BearerToken"] = f"Bearer {settings.token.reveal()}"
                configuration.ssl_ca_cert = str(settings.ca) if settings.ca is not None else None
            elif settings.kubeconfig is not None:
                await self._sdk.config.load_kube_config(
                    config_file=str(settings.kubeconfig),
                    context=settings.context or None,
                    client_configuration=configuration,
                    persist_config=False,  # by default it writes refreshed tokens into the user's file
                )
            else:
                self._sdk.config.load_incluster_config(client_configuration=configuration)
            client = self._sdk.client.ApiClient(configuration=configuration)
        except (self._sdk.config.ConfigException, OSError, ValueError, KeyError) as error:
            trouble = type(error).__name__  # its text may quote the file
        if trouble:
            where = f"kubeconfig {settings.kubeconfig}" if settings.kubeconfig is not None else "the cluster's login"
            raise Refused(f"{self._title}: {where} cannot be used: {trouble}", why=Why.CREDENTIALS)
        session = client.rest_client.pool_manager  # replaced, since it takes proxies and .netrc from the environment
        client.rest_client.pool_manager = self._aiohttp.ClientSession(
            connector=session.connector, trust_env=False, read_bufsize=2**21, headers={"Accept-Encoding": "identity"}
        )
        session.detach()
        return client

    def error(
        self, verb: str, status: int, said: Mapping[str, Any], retry_after: str = "", *, creates: bool = False
    ) -> ProviderError:
        """What a status and the cluster's own words mean."""
        what = f"{self._title}: {verb}"
        message = " ".join(str(said.get("message") or said.get("reason") or "").split())[:300]
        text = f"{what}: {status}{': ' if message else ''}{message}"
        if status == 429:
            wait = _wait(retry_after or str(_detail(said, "retryAfterSeconds")))
            self._pace.hold(wait)
            return Throttled(text, wait=wait)
        if status == 403 and "exceeded quota" in message:
            return Refused(text, why=Why.QUOTA)
        if status == 403 and "status unknown for quota" in message:
            return Throttled(text, wait=timedelta(seconds=5))
        if status == 403 and any(fault in message for fault in REQUEST_FAULTS):
            return Refused(text, why=Why.REQUEST)
        if status == 403:
            return Forbidden(text)
        if status == 401:
            return Refused(text, why=Why.CREDENTIALS)
        if status == 409 and _detail(said, "kind") == "resourcequotas":
            return Throttled(text, wait=timedelta(seconds=2))
        if status < 400 or status == 408 or status >= 500:
            return Unclear(text, maybe_created=creates)
        return Refused(text, why=Why.REQUEST)


def _detail(said: Mapping[str, Any], name: str) -> object:
    return table(said.get("details") or {}).get(name, "")


def _wait(text: str) -> timedelta:
    """`Retry-After` in whole seconds, as the API server writes it; 5 s where it is missing."""
    match = re.fullmatch(r"\d{1,9}", text.strip())
    return min(max(timedelta(seconds=int(match[0])), timedelta(seconds=1)), LONGEST_WAIT) if match else timedelta(seconds=5)
