"""The calls to one AWS account through boto3: a client per region, explicit timeouts, no retries of the SDK's own."""

import asyncio
import logging
import threading
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from providers.aws_errors import sort_answer, sort_failure
from providers.aws_settings import AwsSettings
from providers.clock import Clock
from providers.contract import ProviderError, Throttled, Unclear
from providers.http import repeated, tables
from providers.rate import Pace, shared
from providers.sdk import sdk

PRICE_REGION = "us-east-1"
"""The price list is told by few regions, for all of them."""
MOST_PAGES = 200
WRITES = (timedelta(seconds=0.5), 5)
"""EC2's own bucket for RunInstances and TerminateInstances: five at once, two a second (its API throttling page)."""
READS = (timedelta(seconds=0.1), 20)
"""Half of what EC2 allows a region for describing with a filter: others use the account too."""


class Account:
    """One AWS account. Raises only `ProviderError`; belongs to one event loop."""

    def __init__(
        self, name: str, settings: AwsSettings, *, clock: Clock, session: Any = None, endpoint: str | None = None
    ) -> None:
        """`session` (of boto3) and `endpoint` are for tests. Raises ValueError if boto3 is missing or the profile unknown."""
        boto3: Any = sdk("boto3", "aws")
        self._failures: Any = sdk("botocore.exceptions", "aws")
        for logger in ("botocore", "boto3"):  # at DEBUG they print whole requests: user data and signed headers
            logging.getLogger(logger).setLevel(logging.INFO)
        self._name, self._settings, self._clock, self._endpoint = name, settings, clock, endpoint
        try:
            self._session: Any = session or boto3.session.Session(profile_name=settings.profile or None)
        except self._failures.ProfileNotFound:
            named = repr(settings.profile[:60]) if settings.profile else "of the name in AWS_PROFILE"
            raise ValueError(f"the AWS configuration has no profile {named}") from None
        self._options: Any = sdk("botocore.config", "aws").Config(
            connect_timeout=5,
            read_timeout=60,  # RunInstances may take its time
            retries={"total_max_attempts": 1},
            proxies={"http": settings.proxy, "https": settings.proxy} if settings.proxy else {},
            ignore_configured_endpoint_urls=True,
            user_agent_extra="sublet",
        )
        given = (settings.secret_access_key, settings.session_token)
        self._hidden = [secret.reveal() for secret in given if secret]
        self._clients: dict[tuple[str, str], Any] = {}
        self._building = threading.Lock()
        self._paces: dict[tuple[str, bool], Pace] = {}

    async def read(self, region: str, operation: str, *, service: str = "ec2", **arguments: Any) -> Mapping[str, Any]:
        """Asked again twice after no clear answer: reading changes nothing."""
        return await repeated(
            lambda: self._once(service, region, operation, arguments, creates=False, writes=False), self._clock
        )

    async def write(self, region: str, operation: str, *, creates: bool = False, **arguments: Any) -> Mapping[str, Any]:
        """Sent once."""
        return await self._once("ec2", region, operation, arguments, creates=creates, writes=True)

    async def pages(
        self, region: str, operation: str, key: str, *, service: str = "ec2", **arguments: Any
    ) -> Sequence[Mapping[str, Any]]:
        """The rows under `key` of every page, or an error: never a part. Raises `Unclear` where the pages do not end."""
        rows: list[Mapping[str, Any]] = []
        token = ""
        for _ in range(MOST_PAGES):
            more = {"NextToken": token} if token else {}
            answer = await self.read(region, operation, service=service, **arguments, **more)
            if key not in answer:  # AWS writes an empty list, too; any other page would be read as nothing there
                raise Unclear(f"aws {region} {operation}: an answer without {key}", maybe_created=False)
            rows.extend(tables(answer[key]))
            following = answer.get("NextToken") or ""
            if not following:
                return rows
            if following == token or not isinstance(following, str):
                break
            token = following
        raise Unclear(f"aws {region} {operation}: its pages do not end", maybe_created=False)

    async def aclose(self) -> None:
        for client in self._clients.values():
            client.close()

    async def _once(
        self, service: str, region: str, operation: str, arguments: Mapping[str, Any], *, creates: bool, writes: bool
    ) -> Mapping[str, Any]:
        what = f"aws {region} {operation}"
        pace = self._pace(region, writes=writes)
        await pace.turn(what)
        answer = await asyncio.to_thread(self._ask, what, service, region, operation, arguments, creates)
        if isinstance(answer, Throttled):
            pace.hold(answer.wait)
        if isinstance(answer, ProviderError):
            raise answer
        return answer

    def _ask(
        self, what: str, service: str, region: str, operation: str, arguments: Mapping[str, Any], creates: bool
    ) -> Mapping[str, Any] | ProviderError:
        """The error is given, not raised, so that nothing of the SDK's stays chained to it."""
        try:
            call = getattr(self._client(service, region), operation)
        except Exception as error:  # noqa: BLE001  a configuration that the SDK cannot use: nothing was sent
            return sort_failure(what, error, creates=False)
        try:
            answer: Any = call(**arguments)
        except self._failures.ClientError as error:
            return sort_answer(what, error.response, creates=creates, hidden=self._hidden)
        except Exception as error:  # noqa: BLE001  the SDK raises what urllib3 and the XML parser raise, too
            return sort_failure(what, error, creates=creates)
        return answer

    def _client(self, service: str, region: str) -> Any:
        """Thread-safe once it is made; the making is not."""
        with self._building:
            if (service, region) not in self._clients:
                settings = self._settings
                keys: dict[str, Any] = {}
                if settings.access_key_id and settings.secret_access_key is not None:
                    keys = {
                        "aws_access_key_id": settings.access_key_id,
                        "aws_secret_access_key": settings.secret_access_key.reveal(),
                        "aws_session_token": settings.session_token.reveal() if settings.session_token else None,
                    }
                self._clients[service, region] = self._session.client(
                    service, region_name=region, endpoint_url=self._endpoint, config=self._options, **keys
                )
            return self._clients[service, region]

    def _pace(self, region: str, *, writes: bool) -> Pace:
        if (region, writes) not in self._paces:
            settings = self._settings
            account = f"aws|{settings.access_key_id or settings.profile}|{region}|{writes}"
            every, burst = WRITES if writes else READS
            self._paces[region, writes] = shared(account, every, burst, clock=self._clock)
        return self._paces[region, writes]
