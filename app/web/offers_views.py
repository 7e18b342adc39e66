"""The market as the API and the pages show it: each offer with what every pool makes of it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from pydantic import Field

from app.core.cooling import FIRST_REST, Cooldown, cooldowns
from app.core.model import Ask, Pool, Verdict
from app.core.placement import USUAL_JOB, rank
from app.store.situation import Situation
from app.web.schema import Moment, Money, Reply, View
from app.web.views import money
from providers.contract import Offer, Traits


class PoolVerdict(View):
    pool: str
    passes: bool
    place: int | None = Field(description="Its rank among those that pass this pool; 1 would be taken now.")
    rule: str = Field(description="The first rule that it breaks; empty if it passes.")
    detail: str = Field(description="The values it was turned down with.")
    expected: Money = Field(description="The bill for a job of this pool's usual length.")


class OfferView(View):
    provider: str
    id: str
    title: str
    type: str = Field(description="The vendor's machine type.")
    region: str
    country: str | None
    gpu: str | None = Field(description="Our name of it; `[gpu_names]` has what vendors call it.")
    gpus: int
    gpu_memory_gib: int = Field(description="Of each GPU.")
    memory_gib: int | None
    disk_gib: int | None
    architecture: str
    spot: bool
    notice_seconds: float | None = Field(description="What a spot machine is told before it goes; null: nothing is promised.")
    own: bool = Field(description="A machine of your own: nothing is rented.")
    availability: str = Field(examples=["available", "scarce", "none", "unknown"])
    price_per_hour: Money
    seen_at: Moment
    age_seconds: float = Field(description="Of the quote.")
    passes: bool = Field(description="Whether it passes for any of the pools that were asked for.")
    pools: list[PoolVerdict]


class OffersReply(Reply):
    seen: int = Field(description="Offers that were looked at, with those that are not listed.")
    passing: int
    rejected: dict[str, int] = Field(
        description="Of those that pass no pool, how many broke which rule first; of the pool for which they came furthest."
    )
    offers: list[OfferView] = Field(description="Those that pass first, then the cheapest.")
    more: bool


@dataclass(frozen=True, slots=True)
class Market:
    """Everything that a look at the offers needs, read at one moment."""

    offers: Sequence[Offer]
    known: Situation
    usual: Mapping[str, timedelta]  # by pool
    now: datetime

    @property
    def closed(self) -> dict[str, tuple[str, str]]:
        """Providers where nothing is rented now: the rule, and the sentence."""
        found = {name: standing.no(self.now) for name, standing in self.known.standings.items()}
        return {name: no for name, no in found.items() if no is not None}

    @property
    def cold(self) -> tuple[Cooldown, ...]:
        return cooldowns(self.known.setbacks, self.known.recent, self.now, FIRST_REST)

    @property
    def gpus(self) -> list[str]:
        """The GPUs that are offered now, by our names."""
        return sorted({one.gpu for one in self.offers if one.gpu})


@dataclass(frozen=True, slots=True)
class Filter:
    """What a reader wants to see."""

    gpu: str | None = None  # by our name
    provider: str | None = None
    pool: str | None = None
    everything: bool = False  # with those that pass no pool

    def holds(self, offer: Offer) -> bool:
        return (self.gpu is None or offer.gpu == self.gpu) and self.provider in (None, offer.provider)


def offers_reply(
    market: Market, pools: Mapping[str, Pool], traits: Mapping[str, Traits], wanted: Filter, limit: int
) -> OffersReply:
    """The offers of this filter. A pool's verdict is the placement's own; only its image is not looked at."""
    chosen = [pool for name, pool in sorted(pools.items()) if wanted.pool in (None, name)]
    judged = judge(market, chosen, traits)
    seen = [one for one in market.offers if wanted.holds(one)]
    views = [_offer(one, judged[one.provider, one.id], market.now) for one in seen]
    shown = sorted((view for view in views if wanted.everything or view.passes), key=lambda view: not view.passes)
    rules = [_furthest(view.pools) for view in views if not view.passes]
    counts = {rule: rules.count(rule) for rule in dict.fromkeys(rules)}
    return OffersReply(
        seen=len(seen),
        passing=sum(view.passes for view in views),
        rejected=dict(sorted(counts.items(), key=lambda item: -item[1])),
        offers=shown[:limit],
        more=len(shown) > limit,
    )


def judge(
    market: Market, pools: Iterable[Pool], traits: Mapping[str, Traits]
) -> dict[tuple[str, str], list[tuple[str, int | None, Verdict]]]:
    """(provider, offer) -> what each pool makes of it: its name, the offer's rank if it passes, the verdict."""
    found: dict[tuple[str, str], list[tuple[str, int | None, Verdict]]] = {(one.provider, one.id): [] for one in market.offers}
    closed, cold = market.closed, market.cold
    for pool in pools:
        usual = market.usual.get(pool.name, USUAL_JOB)
        placed = rank(pool.need, Ask(), pool, market.offers, traits, cold, market.now, closed=closed, usual=usual)
        places = {(one.provider, one.id): place for place, one in enumerate(placed.ranked, 1)}
        for verdict in placed.verdicts:
            key = (verdict.provider, verdict.offer)
            found[key].append((pool.name, places.get(key), verdict))
    return found


def _offer(one: Offer, judged: Sequence[tuple[str, int | None, Verdict]], now: datetime) -> OfferView:
    pools = [
        PoolVerdict(
            pool=name,
            passes=verdict.passed,
            place=place,
            rule=verdict.rule,
            detail=verdict.detail,
            expected=money(verdict.expected, one.currency),
        )
        for name, place, verdict in judged
    ]
    return OfferView(
        provider=one.provider,
        id=one.id,
        title=one.title or one.type or one.id,
        type=one.type,
        region=one.region,
        country=one.country,
        gpu=one.gpu,
        gpus=one.gpus,
        gpu_memory_gib=one.gpu_memory_gib,
        memory_gib=one.memory_gib,
        disk_gib=one.disk_gib,
        architecture=one.architecture,
        spot=one.spot,
        notice_seconds=None if one.notice is None else one.notice.total_seconds(),
        own=one.own,
        availability=str(one.availability),
        price_per_hour=money(one.price_per_hour, one.currency),
        seen_at=one.seen_at,
        age_seconds=max((now - one.seen_at).total_seconds(), 0.0),
        passes=any(verdict.passes for verdict in pools),
        pools=pools,
    )


RULES = (
    "paused", "provider-away", "image", "mode", "provider", "capacity", "gpu", "gpu-count", "gpu-memory", "memory", "disk",
    "architecture", "region", "spot", "burst", "price", "cooling-down",
)  # fmt: skip
"""In the order in which the placement asks them: an offer that breaks a later one came further."""


def _furthest(pools: Sequence[PoolVerdict]) -> str:
    """The rule that keeps an offer from the pool that it nearly passed."""
    if not pools:
        return "no pool"
    return max(pools, key=lambda one: RULES.index(one.rule) if one.rule in RULES else 0).rule
