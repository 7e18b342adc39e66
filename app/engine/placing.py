"""Which offer a lease takes: from the catalogue in memory, with every verdict, cool-down and closed provider written down."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from app.core.breaker import Standing, failed, worked
from app.core.cooling import Cooldown, Setback, cooldowns, type_of
from app.core.images import ImageVerdict
from app.core.labels import sharpen
from app.core.model import Lease, Pool, Reason
from app.core.offers import offer_json
from app.core.placement import USUAL_JOB, Placement, rank
from app.core.verdicts import architectures
from app.engine.step import Deps
from app.store import market, standings
from app.store.situation import Situation, situation, usual
from providers.contract import (
    BootsFrom,
    Need,
    NoCapacity,
    Offer,
    ProviderError,
    Reach,
    Refused,
    Throttled,
    Traits,
    Unclear,
    Why,
)

MOST_TRIED = 25  # offers of one lease: a market that says no so often is asked again later
OUTCOMES = ((NoCapacity, "no_capacity"), (Refused, "provider_refused"), (Throttled, "throttled"))
LEARNT_FOR = timedelta(minutes=10)  # how long a pool's usual job time is believed


@dataclass(frozen=True, slots=True)
class Choice:
    """The offer that a lease takes, if one passes, with the columns to write; and the record of the decision either way."""

    offer: Offer | None
    values: Mapping[str, Any]
    note: str  # for people


async def pick(
    lease: Lease, pool: Pool, deps: Deps, judged: ImageVerdict | None, tried: Sequence[Mapping[str, Any]] = ()
) -> Choice:
    """Rank what the pool's providers offer now. `tried`: what was asked for in this lease before, and said no."""
    need = _need(lease, deps)
    names = [name for name in (pool.providers or tuple(deps.providers)) if name in deps.providers]
    now = deps.clock.now()
    known = await deps.store(situation, deps.db, now)
    closed = _closed(names, known, now)
    answers = await asyncio.gather(*(_offers(name, need, name in closed, known, deps) for name in names))
    offers = [offer for answer in answers for offer in answer[0]]
    troubles = [f"Provider {name}: {answer[1]}" for name, answer in zip(names, answers, strict=True) if answer[1]]
    now = deps.clock.now()
    traits = {name: deps.providers[name].traits for name in names}
    cold = cooldowns(known.setbacks, known.recent, now, deps.timing.ban)
    placed = rank(
        need, lease.ask, pool, offers, traits, cold, now, architectures(judged), closed=closed, usual=await _usual(pool, deps)
    )
    offer = placed.ranked[0] if placed.ranked and len(tried) < MOST_TRIED else None
    record = placed.record(offer) | {
        "troubles": troubles,
        "tried": list(tried),
        "cooldowns": [_cold(one) for one in cold],
        "closed": [{"provider": name, "rule": rule, "detail": detail} for name, (rule, detail) in closed.items()],
    }
    if offer is not None:
        standing = known.standings.get(offer.provider)
        record["doubted"] = standing is not None and bool(standing.failures or standing.trouble)
    if offer is None:
        return Choice(None, {"decision": record}, _no_offer(placed, troubles, closed, pool.providers if not names else ()))
    note = f"Chose {offer.title or offer.id} of {offer.provider} at {offer.price_per_hour} {offer.currency}/h."
    return Choice(offer, _columns(lease, pool, offer, traits[offer.provider], judged) | {"decision": record}, note)


def _need(lease: Lease, deps: Deps) -> Need:
    need = sharpen(lease.need, lease.ask, lease.key.labels)
    return need if need.gpu is None else replace(need, gpu=deps.catalogue.canonical(need.gpu))


def _closed(names: Sequence[str], known: Situation, now: datetime) -> dict[str, tuple[str, str]]:
    """Providers where nothing is rented now: the rule, and the sentence."""
    found = {name: known.standings.get(name, Standing(name)).no(now) for name in names}
    return {name: no for name, no in found.items() if no is not None}


async def _offers(name: str, need: Need, closed: bool, known: Situation, deps: Deps) -> tuple[Sequence[Offer], str]:
    """What the provider offers, or what it was last known to; and the trouble with asking it."""
    if closed:
        return deps.catalogue.remembered(name, need), ""
    before = known.standings.get(name)
    try:
        quote, asked = await deps.catalogue.offers(name, need)
    except ProviderError as error:
        await told(name, error, deps)
        return (), str(error)
    if asked:
        await note(name, quote.offers, deps)
        if before is not None and (before.failures or before.trouble):
            await told(name, None, deps)
    return quote.offers, ""


async def note(name: str, offers: Sequence[Offer], deps: Deps) -> None:
    """Write down what was just seen, for the pages and for the history of prices; the same again only now and then."""
    now, sight = deps.clock.now(), frozenset((offer.id, offer.price_per_hour, offer.availability) for offer in offers)
    before = deps.catalogue.noted.get(name)
    if before is not None and before[1] == sight and now - before[0] < deps.timing.market / 5:
        return
    deps.catalogue.noted[name] = (now, sight)
    gap = max(2 * deps.timing.market, 2 * deps.providers[name].traits.offers_every)
    await deps.store(market.note, deps.db, name, offers, now, gap)


async def told(
    name: str, error: ProviderError | None, deps: Deps, setbacks: Sequence[Setback] = (), lease_id: str = ""
) -> None:
    """Keep what a call to this provider came to."""
    now = deps.clock.now()

    def judge(standing: Standing) -> Standing:
        return worked(standing) if error is None else failed(standing, error, now)

    await deps.store(standings.told, deps.db, name, judge, setbacks, lease_id)


async def _usual(pool: Pool, deps: Deps) -> timedelta:
    """How long the pool's jobs take: as its settings say, else as the last ones took."""
    if pool.usual is not None:
        return pool.usual
    known, now = deps.catalogue.usual.get(pool.name), deps.clock.now()
    if known is None or now - known[0] > LEARNT_FOR:
        known = deps.catalogue.usual[pool.name] = (now, await deps.store(usual, deps.db, pool.name, now) or USUAL_JOB)
    return known[1]


def _columns(lease: Lease, pool: Pool, offer: Offer, traits: Traits, judged: ImageVerdict | None) -> dict[str, Any]:
    return {
        "provider": offer.provider,
        "region": offer.region,
        "offer": offer_json(offer),
        "price_per_hour": offer.price_per_hour,
        "currency": offer.currency,
        "granularity_s": traits.billing_granularity.total_seconds(),
        "minimum_s": traits.billing_minimum.total_seconds(),
        "image": _boots(pool, judged, traits),
        "create_key": hashlib.sha256(f"{lease.id}|{lease.attempt}|{offer.provider}|{offer.id}".encode()).hexdigest()[:40],
    }


def _boots(pool: Pool, judged: ImageVerdict | None, traits: Traits) -> str | None:
    """What the provider is told to boot: a container by its digest and never by a tag, else what lies below."""
    return judged.reference if judged is not None and traits.boots_from is BootsFrom.CONTAINER_IMAGE else pool.machine_image


def setback_of(offer: Offer, error: ProviderError, now: datetime) -> Setback | None:
    """How far a definite no goes. None: it speaks against the whole provider, which its breaker counts."""
    match error:
        case NoCapacity():
            reach, reason = error.reach, Reason.NO_CAPACITY
        case Refused(why=Why.QUOTA):
            reach, reason = Reach.REGION, Reason.PROVIDER_REFUSED
        case Refused(why=Why.REQUEST):
            reach, reason = Reach.OFFER, Reason.PROVIDER_REFUSED
        case Unclear():
            reach, reason = Reach.PROVIDER, Reason.PROVIDER_REFUSED
        case _:
            return None
    return Setback(now, offer.provider, offer.region, type_of(offer), offer.id, reach, reason, str(error)[:300])


def tried_of(offer: Offer, error: ProviderError, now: datetime) -> dict[str, Any]:
    """The line of the decision record on an offer that was asked for and said no."""
    outcome = next((word for kind, word in OUTCOMES if isinstance(error, kind)), "away")
    return {
        "at": now.isoformat(),
        "provider": offer.provider,
        "offer": offer.id,
        "title": offer.title or offer.id,
        "region": offer.region,
        "price_per_hour": format(offer.price_per_hour, "f"),
        "currency": offer.currency,
        "outcome": outcome,
        "detail": str(error)[:300],
    }


def _cold(one: Cooldown) -> dict[str, Any]:
    return {
        "provider": one.provider,
        "region": one.region,
        "type": one.type,
        "offer": one.offer,
        "since": one.since.isoformat(),
        "until": one.until.isoformat(),
        "failures": one.failures,
        "why": one.why,
    }


def _no_offer(placed: Placement, troubles: Sequence[str], closed: Mapping[str, tuple[str, str]], missing: Sequence[str]) -> str:
    counts = placed.record(None)["rejected"]
    seen = ", ".join(f"{count} {rule}" for rule, count in counts.items())
    parts = [f"No offer passes ({seen})." if seen else "No provider has an offer now."]
    if missing:
        parts = [f"The pool's providers ({', '.join(missing)}) are not in the settings."]
    away = [f"Provider {name}: {detail}." for name, (_, detail) in closed.items()]
    return " ".join([*parts, *troubles, *away])
