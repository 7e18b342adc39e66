"""/metrics: gauges from the live rows, counters from what ended since the last scrape. The database is the only witness.

So nothing is lost when the engine runs in another process, and nothing is counted that was not committed.
Several processes on one database each count everything: take `max`, not `sum`, over them. Only what a process itself does
is its own: requests, deliveries, logins, calls of providers and forges."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal

from app.core.cooling import FIRST_REST, cooldowns
from app.core.model import Reason
from app.kit.telemetry import ROLES, logger
from app.store import board, hearing, leaks, market, replicas, tally
from app.store.situation import situation
from app.web.doctor import beat_age, is_alive
from app.web.parts import WebParts
from providers.contract import Availability, Offer

log = logger(__name__)

PATIENCE = 3.0
"""Seconds that the database may take; a scrape must not hang on it."""
MARKET_FOR = timedelta(minutes=1)
"""How long one look at the offers counts."""
SETTLED = timedelta(seconds=2)
"""Rows are dated when their transaction begins: younger ones may not be visible yet, and wait for the next scrape."""
OUTCOMES: Mapping[Reason, str] = {
    Reason.JOB_DONE: "completed",
    Reason.JOB_GONE: "unused",
    Reason.IDLE_TIMEOUT: "unused",
    Reason.NO_OFFER: "no_offer",
    Reason.NO_CAPACITY: "no_offer",
    Reason.PROVIDER_REFUSED: "no_offer",
    Reason.PLAN_TIMEOUT: "no_offer",
    Reason.LAUNCH_TIMEOUT: "boot_failed",
    Reason.BOOT_TIMEOUT: "boot_failed",
    Reason.PROVE_TIMEOUT: "verify_failed",
    Reason.IMAGE_REFUSED: "verify_failed",
    Reason.BAD_NODE: "verify_failed",
    Reason.JOB_TIMEOUT: "timeout",
    Reason.INSTANCE_LOST: "preempted",
    Reason.OPERATOR: "destroyed_by_user",
    Reason.SHUTDOWN: "destroyed_by_user",
    Reason.PILOT_DONE: "pilot",
}
RESULTS: Mapping[str, str] = {
    "success": "success",
    "neutral": "success",
    "failure": "failure",
    "failed": "failure",
    "cancelled": "cancellation",
    "canceled": "cancellation",
    "timed_out": "timeout",
    "skipped": "skip",
}
"""The forges' words -> those of OpenTelemetry's `cicd.pipeline.result`; any other is an error."""


class Scrape:
    """Remembers until when it has counted."""

    def __init__(self, parts: WebParts) -> None:
        self._parts = parts
        self._counted_until = parts.clock.now()
        self._offers: tuple[datetime, list[Offer]] | None = None
        self._gpus = sorted({"none", *(pool.need.gpu for pool in parts.pools.values() if pool.need.gpu is not None)})
        self._turn = asyncio.Lock()  # two scrapes at once must not count the same rows

    async def text(self) -> tuple[bytes, str]:
        """The text of one scrape and its content type; told even when the database does not answer."""
        parts = self._parts
        age = beat_age(parts)
        parts.telemetry.engine_beat_age.set(-1.0 if age is None else age.total_seconds())
        try:
            async with self._turn, asyncio.timeout(PATIENCE):
                await self._gauges()
                await self._counters()
        except Exception as error:  # noqa: BLE001  the other metrics are worth more than an error
            log.warning("metrics not read", error=f"{type(error).__name__}: {error}")
            parts.telemetry.database_up.set(0)
        else:
            parts.telemetry.database_up.set(1)
        return parts.telemetry.exposition()

    async def _gauges(self) -> None:
        parts, told, now = self._parts, self._parts.telemetry, self._parts.clock.now()
        numbers = await parts.lane(board.numbers, parts.db)
        strangers = await parts.lane(tally.orphans, parts.db)
        told.leases.replace(numbers.leases)
        told.spend_rate.replace({at: float(rate) for at, rate in numbers.rates.items()})
        told.jobs_waiting.replace({(pool,): count for pool, (count, _) in numbers.waiting.items()})
        waits = {(pool,): max((now - since).total_seconds(), 0.0) for pool, (_, since) in numbers.waiting.items()}
        told.jobs_oldest_wait.replace(waits)
        pending = {(name,): max((now - since).total_seconds(), 0.0) for name, since in numbers.destroying.items()}
        told.destroy_pending.replace(pending)
        known = await parts.lane(replicas.listing, parts.db)
        alive: dict[tuple[str, str], float] = {}
        for one in known:
            if is_alive(one, now, parts.settings.beat_seconds):
                alive[one.role, one.version] = alive.get((one.role, one.version), 0) + 1
        told.replicas.replace(alive)
        for role in ROLES:
            ages = [(now - one.seen_at).total_seconds() for one in known if one.role == role]
            told.replica_age.set(max(min(ages), 0.0) if ages else -1.0, role=role)
        await self._leaks()
        await self._market()
        told.orphans.replace({(name,): count for name, count in strangers.items()})

    async def _leaks(self) -> None:
        parts, told, now = self._parts, self._parts.telemetry, self._parts.clock.now()
        found = await parts.lane(leaks.leaks, parts.db, now)
        told.held_back.replace({(name,): survey.held for name, survey in found.surveys.items()})
        for name in parts.providers:
            at = found.surveys[name].at if name in found.surveys else None
            told.sweep_age.set(-1.0 if at is None else max((now - at).total_seconds(), 0.0), provider=name)
        sums: dict[tuple[str, ...], float] = {}
        for (name, _), amount in found.money(now).items():
            sums[name,] = sums.get((name,), 0.0) + float(amount)
        told.leak_cost.replace(sums)

    async def _market(self) -> None:
        """From a look at the offers that is a minute old at most: there may be thousands, and scrapes come often."""
        parts, told, now = self._parts, self._parts.telemetry, self._parts.clock.now()
        if self._offers is None or not timedelta(0) <= now - self._offers[0] < MARKET_FOR:
            self._offers = (now, await parts.lane(market.offers, parts.db))
        known, gpus = await parts.lane(situation, parts.db, now), self._gpus
        counts: dict[tuple[str, ...], float] = {}
        prices: dict[tuple[str, str], Decimal] = {}
        for one in self._offers[1]:
            at = (one.provider, one.gpu or "none")
            counts[at] = counts.get(at, 0) + 1
            if one.availability is not Availability.NONE:
                prices[at] = min(prices.get(at, one.price_per_hour), one.price_per_hour)
        told.offers.replace(counts)
        cold = [one.provider for one in cooldowns(known.setbacks, known.recent, now, FIRST_REST)]
        cold += [name for name, standing in known.standings.items() if standing.no(now) is not None]
        for name in parts.providers:
            for gpu in gpus:
                told.offer_price.set(float(prices.get((name, gpu), math.nan)), provider=name, gpu=gpu)
            seen = max((one.seen_at for one in self._offers[1] if one.provider == name), default=None)
            told.offers_age.set(-1.0 if seen is None else max((now - seen).total_seconds(), 0.0), provider=name)
            told.provider_cooldown.set(cold.count(name), provider=name)

    async def _counters(self) -> None:
        parts, told, until = self._parts, self._parts.telemetry, self._parts.clock.now() - SETTLED
        if until <= self._counted_until:
            return
        found = await parts.lane(tally.between, parts.db, self._counted_until, until)
        heard = await parts.lane(hearing.between, parts.db, self._counted_until, until)
        self._counted_until = until
        for one in heard:
            told.job_heard.observe(one.seconds, forge=one.forge, by=one.by)
        for stay in found.stays:
            told.lease_phase.observe(stay.seconds, phase=str(stay.state), provider=stay.provider, gpu=stay.gpu)
        for start in found.starts:
            told.job_start.observe(start.seconds, pool=start.pool, provider=start.provider)
        for end in found.ends:
            outcome = "failed" if end.reason is None else OUTCOMES.get(end.reason, "failed")
            told.leases_ended.add(provider=end.provider, gpu=end.gpu, outcome=outcome)
            if end.conclusion:
                told.jobs.add(pool=end.pool, result=RESULTS.get(end.conclusion, "error"))
        for row in found.booked:
            told.spend.add(float(row.amount), provider=row.provider, gpu=row.gpu, pool=row.pool, kind=str(row.kind))
