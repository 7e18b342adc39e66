"""Counts calls by wrapping: no provider, forge or station knows of metrics. What breaks in a wrapper becomes `Unclear`."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TypeVar

from app.core.images import ImageVerdict, TrustRule
from app.core.model import Job, Run, Scope
from app.forges.contract import (
    Credential,
    Delivery,
    Forge,
    ForgeError,
    ForgeRefused,
    HeldBack,
    Minted,
    Missed,
    NameTaken,
    Pace,
    RunnerBusy,
    RunnerOrder,
    RunnerView,
)
from app.kit.telemetry import Telemetry
from app.trust.judge import ImageTrust, PullAccess
from providers.contract import (
    Health,
    Instance,
    Need,
    NoCapacity,
    Offer,
    Order,
    Provider,
    ProviderError,
    Refused,
    Throttled,
    Unclear,
)

T = TypeVar("T")


class MeteredProvider:
    """A provider whose calls are counted and timed."""

    def __init__(self, inner: Provider, telemetry: Telemetry) -> None:
        self.name, self.traits = inner.name, inner.traits
        self._inner, self._telemetry = inner, telemetry

    async def offers(self, need: Need) -> Sequence[Offer]:
        return await self._call("offers", self._inner.offers(need))

    async def create(self, order: Order) -> Instance:
        return await self._call("create", self._inner.create(order))

    async def get(self, instance_id: str) -> Instance | None:
        return await self._call("get", self._inner.get(instance_id))

    async def owned(self, owner: str) -> Sequence[Instance]:
        return await self._call("owned", self._inner.owned(owner))

    async def destroy(self, instance_id: str) -> None:
        try:
            await self._call("destroy", self._inner.destroy(instance_id))
        except ProviderError:
            self._telemetry.destroy_failures.add(provider=self.name)
            raise

    async def check(self) -> Health:
        return await self._call("check", self._inner.check())

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def _call(self, operation: str, call: Awaitable[T]) -> T:
        began, outcome = time.monotonic(), "late"  # a call that is cut off by its deadline counts as late
        try:
            result = await call
            outcome = "ok"
            return result
        except ProviderError as error:
            outcome = _provider_outcome(error)
            raise
        except Exception as error:  # a stranger's wrapper may forget the contract; its words may hold a key
            outcome = "unclear"
            raise Unclear(f"{self.name}: unexpected {type(error).__name__} in {operation}") from error
        finally:
            self._telemetry.provider_requests.add(provider=self.name, operation=operation, outcome=outcome)
            self._telemetry.provider_request.observe(time.monotonic() - began, provider=self.name, operation=operation)


def _provider_outcome(error: ProviderError) -> str:
    kinds: Mapping[type[ProviderError], str] = {NoCapacity: "no_capacity", Refused: "refused", Throttled: "throttled"}
    return next((word for kind, word in kinds.items() if isinstance(error, kind)), "unclear")


class MeteredTrust:
    """What judges images, with its verdicts counted."""

    def __init__(self, inner: ImageTrust, telemetry: Telemetry) -> None:
        self._inner, self._telemetry = inner, telemetry

    async def judge(self, reference: str, rule: TrustRule, *, region: str = "") -> ImageVerdict:
        result = "away"
        try:
            verdict = await self._inner.judge(reference, rule, region=region)
            result = verdict.code or ("allowed" if verdict.allowed else "other")
            return verdict
        finally:
            self._telemetry.image_verifications.add(result=result)

    async def pull_access(self, reference: str) -> PullAccess | None:
        return await self._inner.pull_access(reference)


class MeteredForge:
    """A forge whose calls are counted. Called from the forge lane's threads; the counters are safe for that."""

    def __init__(self, inner: Forge, telemetry: Telemetry) -> None:
        self.name, self.kind = inner.name, inner.kind
        self.always_2xx, self.single_use, self.pinned = inner.always_2xx, inner.single_use, inner.pinned
        self.wide, self.reruns_in_place = inner.wide, inner.reruns_in_place
        self._inner, self._telemetry = inner, telemetry

    def parse(self, headers: Mapping[str, str], body: bytes) -> Delivery:
        return self._inner.parse(headers, body)

    def unfit(self, labels: Sequence[str]) -> str:
        return self._inner.unfit(labels)

    def fetch_job(self, job: Job) -> Job | None:
        with self._count("fetch_job"):
            return self._inner.fetch_job(job)

    def fetch_run(self, job: Job) -> Run | None:
        with self._count("fetch_run"):
            return self._inner.fetch_run(job)

    def open_jobs(self, place: str, installation: str = "") -> Sequence[Job]:
        with self._count("open_jobs"):
            return self._inner.open_jobs(place, installation)

    def repositories(self, owner: str, installation: str = "") -> Sequence[str]:
        with self._count("repositories"):
            return self._inner.repositories(owner, installation)

    def missed(self, since: datetime) -> Sequence[Missed] | None:
        with self._count("missed"):
            return self._inner.missed(since)

    def redeliver(self, missed: Missed) -> None:
        with self._count("redeliver"):
            self._inner.redeliver(missed)

    def pace(self) -> Pace:
        return self._inner.pace()

    def mint_runner(self, order: RunnerOrder) -> Minted:
        with self._count("mint"):
            return self._inner.mint_runner(order)

    def runner(self, scope: Scope, runner_id: str, installation: str = "") -> RunnerView | None:
        with self._count("find_runner"):
            return self._inner.runner(scope, runner_id, installation)

    def runners(self, scope: Scope, prefix: str, installation: str = "") -> Sequence[RunnerView]:
        with self._count("runners"):
            return self._inner.runners(scope, prefix, installation)

    def job_started(self, scope: Scope, runner_id: str, installation: str = "") -> None:
        self._inner.job_started(scope, runner_id, installation)

    def remove_runner(self, scope: Scope, runner_id: str, installation: str = "") -> None:
        with self._count("remove"):
            self._inner.remove_runner(scope, runner_id, installation)

    def light_beacon(self, scope: Scope, labels: tuple[str, ...], known: Credential | None, runner_id: str) -> Minted | None:
        return self._inner.light_beacon(scope, labels, known, runner_id)

    def check(self) -> str:
        with self._count("check"):
            return self._inner.check()

    @contextmanager
    def _count(self, operation: str) -> Generator[None]:
        outcome = "late"
        try:
            yield
            outcome = "ok"
        except ForgeError as error:
            kinds: Mapping[type[ForgeError], str] = {
                NameTaken: "name_taken",
                RunnerBusy: "busy",
                ForgeRefused: "refused",
                HeldBack: "held_back",
            }
            outcome = next((word for kind, word in kinds.items() if isinstance(error, kind)), "down")
            raise
        finally:
            self._telemetry.forge_requests.add(forge=self.name, operation=operation, outcome=outcome)
