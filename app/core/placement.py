"""need + offers -> ranked placements; every rejection keeps its rule and the values it saw."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from app.core.billing import billed, price
from app.core.cooling import Cooldown
from app.core.images import Mode
from app.core.model import Ask, Pool, Verdict
from providers.contract import Availability, BootsFrom, Need, Offer, Traits

USUAL_JOB = timedelta(minutes=20)
"""What a job is taken to last when offers are ranked by expected total."""
DEAREST = Decimal(100_000)  # an hour; anything above is a slip of a wrapper
LONGEST_NAME = 500  # characters
KEPT_VERDICTS = 200  # of one decision: those that pass come first, and every rejection is counted


@dataclass(frozen=True, slots=True)
class Placement:
    """The ranked offers that pass, best first, and the verdict on every offer that was looked at."""

    ranked: tuple[Offer, ...]
    verdicts: tuple[Verdict, ...]
    looked_at: datetime
    usual: timedelta = USUAL_JOB

    def record(self, chosen: Offer | None) -> dict[str, Any]:
        """The decision record that the lease keeps, as JSON values."""
        counts: dict[str, int] = {}
        for verdict in self.verdicts:
            if not verdict.passed:
                counts[verdict.rule] = counts.get(verdict.rule, 0) + 1
        oldest = min((offer.seen_at for offer in self.ranked), default=self.looked_at)
        return {
            "at": self.looked_at.isoformat(),
            "seen": len(self.verdicts),
            "passed": len(self.ranked),
            "quote_age_seconds": max(0.0, (self.looked_at - oldest).total_seconds()),
            "chosen": None if chosen is None else {"provider": chosen.provider, "offer": chosen.id},
            "rejected": dict(sorted(counts.items(), key=lambda item: -item[1])),
            "usual_minutes": round(self.usual.total_seconds() / 60, 1),
            "verdicts": [
                {
                    "provider": verdict.provider,
                    "offer": verdict.offer,
                    "title": verdict.title,
                    "region": verdict.region,
                    "price_per_hour": format(verdict.price_per_hour, "f"),
                    "currency": verdict.currency,
                    "expected": format(verdict.expected, "f"),
                    "gpu": verdict.gpu,
                    "gpus": verdict.gpus,
                    "spot": verdict.spot,
                    "availability": verdict.availability,
                    "passed": verdict.passed,
                    "rule": verdict.rule,
                    "detail": verdict.detail,
                }
                for verdict in self.verdicts[:KEPT_VERDICTS]
            ],
        }


def rank(
    need: Need,
    ask: Ask,
    pool: Pool,
    offers: Sequence[Offer],
    traits: Mapping[str, Traits],
    cooling: Sequence[Cooldown],
    now: datetime,
    built_for: Collection[str] = (),
    *,
    closed: Mapping[str, tuple[str, str]] | None = None,
    usual: timedelta = USUAL_JOB,
) -> Placement:
    """Own hosts first, then spot where the pool wants it first, then the lowest expected total for the usual job, then the
    provider's place in the pool's list.

    `built_for`: the architectures that the pool's image has; empty: any. `closed`: providers where nothing is rented now,
    each with the rule and the sentence."""
    passed: list[Offer] = []
    verdicts: dict[tuple[str, str], Verdict] = {}
    for offer in offers:
        no = (
            (closed or {}).get(offer.provider)
            or _cannot_hold(offer, pool, traits, built_for)
            or reject(offer, need, ask, pool, cooling, now)
        )
        if no is None:
            passed.append(offer)
        verdicts[offer.provider, offer.id] = verdict_on(offer, no, traits.get(offer.provider, Traits()), usual)

    def order(offer: Offer) -> tuple[Any, ...]:
        preferred = pool.providers.index(offer.provider) if offer.provider in pool.providers else len(pool.providers)
        return (
            not offer.own,
            pool.spot_first and not offer.spot,
            verdicts[offer.provider, offer.id].expected,
            offer.availability is Availability.SCARCE,
            preferred,
            offer.provider,
            offer.id,
        )

    ranked = tuple(sorted(passed, key=order))
    first = [verdicts[offer.provider, offer.id] for offer in ranked]
    rest = [verdict for verdict in verdicts.values() if not verdict.passed]
    return Placement(ranked, (*first, *rest), now, usual)


def verdict_on(offer: Offer, no: tuple[str, str] | None, traits: Traits, usual: timedelta = USUAL_JOB) -> Verdict:
    """What is kept of one offer: `no` is the rule that it broke and the values it broke it with."""
    rule, detail = no or ("", "")
    return Verdict(
        offer.provider,
        offer.id,
        offer.title or offer.id,
        offer.region,
        offer.price_per_hour,
        no is None,
        rule,
        detail,
        currency=offer.currency,
        expected=expected(offer, traits, usual),
        gpu=offer.gpu or "",
        gpus=offer.gpus,
        spot=offer.spot,
        availability=str(offer.availability),
    )


def sound(offers: Sequence[Offer], provider: str, traits: Traits) -> list[Offer]:
    """The offers that make sense: the provider's own, with a name, a finite price that is not below nothing, in the currency
    that its bill is in. Of two with one name the dearer counts, because only the name is ordered by."""
    kept: dict[str, Offer] = {}
    for offer in offers:
        if (
            not _is_price(offer.price_per_hour)
            or offer.provider != provider
            or offer.currency != traits.currency
            or offer.seen_at.tzinfo is None
        ):
            continue
        if not 0 < len(offer.id) <= LONGEST_NAME or max(len(offer.title), len(offer.region)) > LONGEST_NAME:
            continue
        known = kept.get(offer.id)
        kept[offer.id] = offer if known is None else max(known, offer, key=lambda one: one.price_per_hour)
    return list(kept.values())


def _is_price(value: object) -> bool:
    return isinstance(value, Decimal) and value.is_finite() and 0 <= value < DEAREST


def expected(offer: Offer, traits: Traits, usual: timedelta = USUAL_JOB) -> Decimal:
    """The bill for the usual job under this provider's granularity and minimum."""
    return price(billed(usual, traits.billing_granularity, traits.billing_minimum), offer.price_per_hour)


def _cannot_hold(offer: Offer, pool: Pool, traits: Mapping[str, Traits], built_for: Collection[str]) -> tuple[str, str] | None:
    """Where the pool's image, or its mode, could not run."""
    if built_for and offer.architecture not in built_for:
        return "image", f"is {offer.architecture}, the image is built for {', '.join(sorted(built_for))}"
    boots = traits.get(offer.provider, Traits()).boots_from
    if pool.mode is Mode.GUARDED and boots is BootsFrom.CONTAINER_IMAGE:
        return "mode", "boots a container, and a guarded pool needs a machine with an engine of its own"
    return None


def reject(
    offer: Offer, need: Need, ask: Ask, pool: Pool, cooling: Sequence[Cooldown], now: datetime
) -> tuple[str, str] | None:
    """The first rule that the offer breaks, with the values it saw; None if it passes all."""
    if pool.providers and offer.provider not in pool.providers:
        return "provider", f"the pool rents only from {', '.join(pool.providers)}"
    if offer.availability is Availability.NONE:
        return "capacity", "the provider says there is none now"
    if need.gpu is not None and (offer.gpu is None or offer.gpu.lower() != need.gpu.lower()):
        return "gpu", f"has {offer.gpu or 'no GPU'}, needs {need.gpu}"
    if offer.gpus < need.gpus:
        return "gpu-count", f"has {offer.gpus}, needs {need.gpus}"
    if offer.gpu_memory_gib < need.gpu_memory_gib:
        return "gpu-memory", f"has {offer.gpu_memory_gib} GiB, needs {need.gpu_memory_gib} GiB"
    if need.memory_gib and offer.memory_gib is not None and offer.memory_gib < need.memory_gib:
        return "memory", f"has {offer.memory_gib} GiB, needs {need.memory_gib} GiB"
    if need.disk_gib and offer.disk_gib is not None and offer.disk_gib < need.disk_gib:
        return "disk", f"has {offer.disk_gib} GiB, needs {need.disk_gib} GiB"
    if need.architecture is not None and offer.architecture != need.architecture:
        return "architecture", f"is {offer.architecture}, needs {need.architecture}"
    if need.regions and offer.region.lower() not in need.regions and (offer.country or "").lower() not in need.regions:
        return "region", f"is in {offer.region or 'an unnamed region'}, allowed: {', '.join(sorted(need.regions))}"
    if need.spot is not None and offer.spot != need.spot:
        return "spot", "is spot, needs on-demand" if offer.spot else "is on-demand, needs spot"
    if pool.rent_on_burst_only and not offer.own and not ask.burst:
        return "burst", "rented machines are only for jobs that say burst"
    if need.max_price_per_hour is not None and offer.price_per_hour > need.max_price_per_hour:
        return "price", f"{offer.price_per_hour} {offer.currency}/h, cap {need.max_price_per_hour}"
    cold = next((one for one in cooling if one.until > now and one.covers(offer)), None)
    if cold is not None:
        return "cooling-down", f"{cold.why}; until {cold.until:%H:%M:%S} UTC"
    return None
