"""A Nebius account: its SDK client, calls at the account's pace, whole listings, and errors sorted.

The SDK's own retries are off: reads are repeated here, by the injected clock, and a write is sent once. The token is fetched
before the call, so that bad credentials are told as such, and never leave it open whether something was created.
"""

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from providers.clock import Clock
from providers.contract import ProviderError, Refused, Secret, Throttled, Unclear, Why
from providers.http import repeated
from providers.nebius_errors import BUSY, CREDENTIALS, is_absent, sorted_status
from providers.rate import shared
from providers.sdk import sdk

EXTRA = "nebius"
CALL_SECONDS = 30.0
LOOK_SECONDS = 10.0  # at an operation, while its create is waiting
TOKEN_SECONDS = 20.0
PAGE = 100
MOST_PAGES = 200
EVERY, BURST = timedelta(milliseconds=100), 20  # Nebius publishes no rate; this is far below any that was reported
KEY_HEADER = "x-idempotency-key"
TOKEN_OPTIONS: Mapping[str, str] = {  # the words of nebius/aio/token/options.py: fail at once, and say why
    "token_renew_synchronous": "1",
    "token_renew_report_error": "1",
    "token_renew_request_timeout": "15",
    "max_fetch_token_retries": "1",
}


class Account:
    """Belongs to one event loop; the client is made on the first call in it. Raises only `ProviderError`."""

    def __init__(self, *, token: Secret | None, credentials_file: Path | None, clock: Clock, endpoint: str = "") -> None:
        """`endpoint` is host:port of a server on loopback without TLS, for tests. Raises ValueError without the SDK."""
        self._sdk = sdk("nebius.sdk", EXTRA)
        self._channel = sdk("nebius.aio.channel", EXTRA)
        self._failures = sdk("nebius.aio.service_error", EXTRA)
        self.compute = sdk("nebius.api.nebius.compute.v1", EXTRA)
        self.common = sdk("nebius.api.nebius.common.v1", EXTRA)
        self.vpc = sdk("nebius.api.nebius.vpc.v1", EXTRA)
        self.billing = sdk("nebius.api.nebius.billing.v1", EXTRA)
        self.capacity = sdk("nebius.api.nebius.capacity.v1", EXTRA)
        # At DEBUG the SDK writes parts of tokens into its log.
        logging.getLogger("nebius").setLevel(logging.WARNING)
        self._token, self._file, self._clock, self._endpoint = token, credentials_file, clock, endpoint
        name = f"nebius|{endpoint}|{credentials_file}|{token.reveal() if token else ''}"
        self._pace = shared(name, EVERY, BURST, clock=clock)
        self._client: Any = None
        self._closed = False

    async def read(self, service: Any, verb: str, request: Any) -> Any:
        """The answer, or None where the vendor says that it does not exist; asked up to three times."""
        return await repeated(lambda: self._once(service, verb, request, absent=True), self._clock)

    async def write(self, service: Any, verb: str, request: Any, *, key: str = "", creates: bool = False) -> Any:
        """Sent once. Gives the SDK's operation, or None where the vendor says that what is meant does not exist."""
        return await self._once(service, verb, request, key=key, creates=creates, absent=not creates)

    async def pages(self, service: Any, request: Any) -> Sequence[Any]:
        """Every item of a listing. Raises `Unclear` if a page fails, a page token comes twice, or there is no end."""
        items, tokens = list[Any](), set[str]()
        what = _title(service, "list")
        for _ in range(MOST_PAGES):
            answer = await self.read(service, "list", request)
            if answer is None:
                raise Refused(f"{what}: there is no {request.parent_id}", why=Why.REQUEST)
            items += list(answer.items)
            token = str(answer.next_page_token)
            if not token:
                return items
            if token in tokens:
                raise Unclear(f"{what}: the pages go round in a circle", maybe_created=False)
            tokens.add(token)
            request.page_token = token
        raise Unclear(f"{what}: more than {MOST_PAGES} pages", maybe_created=False)

    async def refresh(self, operation: Any) -> None:
        """Look again at an operation that is not done. Raises `ProviderError`."""
        failure: Any = None
        await self._pace.turn("nebius operation")
        try:
            await operation.update(
                timeout=LOOK_SECONDS,
                per_retry_timeout=LOOK_SECONDS,
                auth_timeout=LOOK_SECONDS + TOKEN_SECONDS,
                auth_options=dict(TOKEN_OPTIONS),
                retries=0,
            )
        except Exception as error:  # noqa: BLE001  whatever the SDK raises is sorted
            failure = error
        if failure is not None:
            raise self._sorted(failure, "nebius operation", creates=False)

    async def aclose(self) -> None:
        self._closed = True
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(Exception):
                await client.close(0.5)

    async def _once(
        self, service: Any, verb: str, request: Any, *, key: str = "", creates: bool = False, absent: bool = False
    ) -> Any:
        what = _title(service, verb)
        await self._pace.turn(what)
        client = await self._ready(what)
        failure: Any = None
        try:
            call = getattr(service(client), verb)(
                request,
                metadata=[(KEY_HEADER, key)] if key else None,
                timeout=CALL_SECONDS,
                per_retry_timeout=CALL_SECONDS,
                auth_timeout=CALL_SECONDS + TOKEN_SECONDS,
                auth_options=dict(TOKEN_OPTIONS),
                retries=0,
            )
            call.wait_for_ready = False  # the SDK's default would sit out the whole time where nobody answers
            return await call
        except Exception as error:  # noqa: BLE001  whatever the SDK raises is sorted
            failure = error
        # Raised out here, the SDK's own error, with the vendor's whole text in it, is no context of ours.
        if absent and isinstance(failure, self._failures.RequestError) and is_absent(failure.status):
            return None
        raise self._sorted(failure, what, creates=creates)

    def _sorted(self, failure: Any, what: str, *, creates: bool) -> ProviderError:
        if isinstance(failure, self._failures.RequestError):
            error = sorted_status(failure.status, what, creates=creates)
            if isinstance(error, Throttled) and error.wait != BUSY:
                self._pace.hold(error.wait)
            return error
        if isinstance(failure, TimeoutError):
            return Unclear(f"{what}: no answer in time", maybe_created=creates)
        return Unclear(f"{what}: {type(failure).__name__}", maybe_created=creates)

    async def _ready(self, what: str) -> Any:
        """The client, with a token in hand. Raises `Refused` for bad credentials; nothing was sent for `what` yet."""
        failure: Any = None
        try:
            client = self._opened()
            await client.get_token(TOKEN_SECONDS, dict(TOKEN_OPTIONS))
            return client
        except Exception as error:  # noqa: BLE001  whatever the SDK raises is sorted
            failure = error
        if isinstance(failure, self._failures.RequestError):
            code = failure.status.code.name
            why = f"{what}: no token for the service account: {code}"
            if code in CREDENTIALS or code in ("INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION"):
                raise Refused(why, why=Why.CREDENTIALS)
            raise Unclear(why, maybe_created=False)
        if isinstance(failure, OSError | KeyError | ValueError | TypeError) and self._client is None:
            problem = type(failure).__name__
            raise Refused(f"{what}: {self._file or 'the token'} is no credential of Nebius: {problem}", why=Why.CREDENTIALS)
        raise Unclear(f"{what}: no token: {type(failure).__name__}", maybe_created=False)

    def _opened(self) -> Any:
        if self._closed:
            raise Unclear("nebius: this provider is closed", maybe_created=False)
        if self._client is None:
            more: dict[str, Any] = {}
            if self._endpoint:
                more["resolver"] = sdk("nebius.base.resolver", EXTRA).Constant(self._endpoint)
                more["options"] = [(sdk("nebius.base.options", EXTRA).INSECURE, True)]
            self._client = self._sdk.SDK(
                credentials=self._token.reveal() if self._token is not None else None,
                credentials_file_name=self._file,
                user_agent_prefix="sublet/1",
                event_loop=asyncio.get_running_loop(),  # ours, so that no thread of the SDK's own is left behind
                **more,
            )
        return self._client


def _title(service: Any, verb: str) -> str:
    return f"nebius {service.__name__.removesuffix('ServiceClient')} {verb}"
