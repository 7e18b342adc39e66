"""The calls to one Oracle tenancy through the oci SDK: clients per region, explicit timeouts, no retries of the SDK's own."""

import asyncio
import json
import logging
import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, cast

from providers.clock import Clock
from providers.contract import ProviderError, Throttled, Unclear
from providers.http import repeated
from providers.oci_errors import sort_answer, sort_failure
from providers.oci_settings import OciSettings
from providers.rate import Pace, shared
from providers.sdk import sdk

MOST_PAGES = 200
TIMEOUT = (5, 60)  # seconds to connect, and between bytes of an answer
WRITES = (timedelta(seconds=0.5), 5)
READS = (timedelta(seconds=0.1), 20)
"""Oracle names no rate; these are ours, of one tenancy, user and region."""
COMPUTE, IDENTITY = "compute", "identity"


class Tenancy:
    """Raises only `ProviderError`; belongs to one event loop."""

    def __init__(self, settings: OciSettings, *, clock: Clock, endpoints: dict[str, str] | None = None) -> None:
        """`endpoints` (region to address) is for tests. Raises ValueError if the SDK is missing or the key is no key."""
        self._core: Any = sdk("oci.core", "oci")
        self._identity: Any = sdk("oci.identity", "oci")
        self._failures: Any = sdk("oci.exceptions", "oci")
        self.models: Any = sdk("oci.core.models", "oci")
        logging.getLogger("oci").setLevel(logging.INFO)  # at DEBUG it prints requests with their signed headers
        self._settings, self._clock, self._endpoints = settings, clock, endpoints or {}
        try:
            self._signer: Any = sdk("oci.signer", "oci").Signer(
                settings.tenancy,
                settings.user,
                settings.fingerprint,
                None,
                pass_phrase=settings.pass_phrase.reveal() if settings.pass_phrase else None,
                private_key_content=settings.private_key.reveal(),
            )
        except Exception as error:  # noqa: BLE001  the SDK and its cryptography raise many kinds; none may show the key
            raise ValueError(
                f"private_key cannot be used ({type(error).__name__}): PEM, with pass_phrase if it has one"
            ) from None
        self._hidden = [secret.reveal() for secret in (settings.private_key, settings.pass_phrase) if secret]
        self._no_retry: Any = sdk("oci.retry", "oci").NoneRetryStrategy()
        self._no_breaker: Any = sdk("oci.circuit_breaker", "oci").NoCircuitBreakerStrategy()
        self._clients: dict[tuple[str, str], Any] = {}
        self._building = threading.Lock()
        self._paces: dict[tuple[str, bool], Pace] = {}

    async def read(self, region: str, operation: str, *words: Any, service: str = COMPUTE, **named: Any) -> Any:
        """The SDK's response. Asked again twice after no clear answer: reading changes nothing."""
        return await repeated(
            lambda: self._once(service, region, operation, words, named, creates=False, writes=False), self._clock
        )

    async def write(self, region: str, operation: str, *words: Any, creates: bool = False, **named: Any) -> Any:
        """The SDK's response. Sent once; only a reply with an unreadable header makes the SDK send it again, under the same
        token (`oci.base_client`)."""
        return await self._once(COMPUTE, region, operation, words, named, creates=creates, writes=True)

    async def pages(self, region: str, operation: str, *words: Any, service: str = COMPUTE, **named: Any) -> Sequence[Any]:
        """The rows of every page, or an error: never a part. Raises `Unclear` where the pages do not end."""
        rows: list[Any] = []
        page = ""
        for _ in range(MOST_PAGES):
            more = {"page": page} if page else {}
            answer = await self.read(region, operation, *words, service=service, **named, **more)
            found: object = answer.data
            if not isinstance(found, list):
                raise Unclear(f"oci {region} {operation}: the answer is no list", maybe_created=False)
            rows.extend(cast("list[Any]", found))
            following = answer.headers.get("opc-next-page") or ""
            if not following:
                return rows
            if following == page:
                break
            page = str(following)
        raise Unclear(f"oci {region} {operation}: its pages do not end", maybe_created=False)

    async def aclose(self) -> None:
        for client in self._clients.values():
            client.base_client.session.close()

    async def _once(
        self, service: str, region: str, operation: str, words: Any, named: Any, *, creates: bool, writes: bool
    ) -> Any:
        what = f"oci {region} {operation}"
        pace = self._pace(region, writes=writes)
        await pace.turn(what)
        answer = await asyncio.to_thread(self._ask, what, service, region, operation, words, named, creates)
        if isinstance(answer, Throttled):
            pace.hold(answer.wait)
        if isinstance(answer, ProviderError):
            raise answer
        return answer

    def _ask(self, what: str, service: str, region: str, operation: str, words: Any, named: Any, creates: bool) -> Any:
        """The error is given, not raised, so that nothing of the SDK's stays chained to it."""
        try:
            call = getattr(self._client(service, region), operation)
        except Exception as error:  # noqa: BLE001  a configuration that the SDK cannot use: nothing was sent
            return sort_failure(what, error, creates=False)
        try:
            return call(*words, retry_strategy=self._no_retry, **named)
        except self._failures.ServiceError as error:
            told: Any = error
            wait = told.headers.get("retry-after") if told.headers is not None else None
            return sort_answer(what, told.status, told.code, told.message, wait=wait, creates=creates, hidden=self._hidden)
        except Exception as error:  # noqa: BLE001  the SDK raises what its HTTP library and its models raise, too
            return sort_failure(what, error, creates=creates)

    def _client(self, service: str, region: str) -> Any:
        with self._building:
            if (service, region) not in self._clients:
                build = self._core.ComputeClient if service == COMPUTE else self._identity.IdentityClient
                settings = self._settings
                config = {
                    "tenancy": settings.tenancy,
                    "user": settings.user,
                    "fingerprint": settings.fingerprint,
                    "key_content": "held by the signer",
                    "region": region,
                    "additional_user_agent": "sublet",
                }
                endpoint = {"service_endpoint": self._endpoints[region]} if region in self._endpoints else {}
                client = build(
                    config,
                    signer=self._signer,
                    timeout=TIMEOUT,
                    retry_strategy=self._no_retry,
                    circuit_breaker_strategy=self._no_breaker,
                    **endpoint,
                )
                session = client.base_client.session
                session.trust_env = False  # no proxy and no certificate from the environment behind our back
                session.proxies = {"http": settings.proxy, "https": settings.proxy} if settings.proxy else {}
                client.base_client.deserialize_response_data = _strict(client.base_client.deserialize_response_data)
                self._clients[service, region] = client
            return self._clients[service, region]

    def _pace(self, region: str, *, writes: bool) -> Pace:
        if (region, writes) not in self._paces:
            account = f"oci|{self._settings.tenancy}|{self._settings.user}|{region}|{writes}"
            every, burst = WRITES if writes else READS
            self._paces[region, writes] = shared(account, every, burst, clock=self._clock)
        return self._paces[region, writes]


def _strict(read: Callable[..., Any]) -> Callable[..., Any]:
    """The SDK's reader of answers reads any text as a list of as many empty rows, and an object as an empty list: what is not
    of the shape that was asked for would look like nothing there. Raises ValueError, which becomes `Unclear`."""

    def strict(body: bytes, kind: str, *rest: Any) -> Any:
        if kind != "object":  # as which errors are read
            told: object = json.loads(body)
            rows = cast("list[object]", told) if isinstance(told, list) else [told]
            if kind.startswith("list[") != isinstance(told, list) or not all(isinstance(row, dict) for row in rows):
                raise ValueError("the answer is not of the shape that was asked for")
        return read(body, kind, *rest)

    return strict
