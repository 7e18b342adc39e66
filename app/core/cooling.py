"""Setbacks -> cool-downs: what failed lately is left alone for a while, the longer the more often in a row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from app.core.model import FAULTY, Lease, Reason
from providers.contract import Offer, Reach

FIRST_REST = timedelta(minutes=1)
"""How long what failed once is left alone."""
AT_CREATE = frozenset({Reason.NO_CAPACITY, Reason.PROVIDER_REFUSED})
"""Reasons that a setback of its own stands for: a lease goes on to its next offer after them."""


@dataclass(frozen=True, slots=True)
class Setback:
    """One definite no of a provider, or one machine that did not do."""

    at: datetime
    provider: str
    region: str
    type: str
    offer: str
    reach: Reach
    reason: Reason
    detail: str = ""

    @property
    def place(self) -> tuple[str, str, str, str]:
        """What it speaks against: the same key for the same thing."""
        match self.reach:
            case Reach.OFFER:
                return self.provider, self.region, self.type, self.offer
            case Reach.REGION:
                return self.provider, self.region, self.type, ""
            case Reach.PROVIDER:
                return self.provider, "", "", ""


@dataclass(frozen=True, slots=True)
class Cooldown:
    """What is left alone, until when, and why. An empty field means: whatever it is."""

    provider: str
    region: str
    type: str
    offer: str
    since: datetime
    until: datetime
    failures: int
    why: str

    def covers(self, offer: Offer) -> bool:
        return (
            self.provider == offer.provider
            and self.region in ("", offer.region)
            and self.type in ("", type_of(offer))
            and self.offer in ("", offer.id)
        )


def type_of(offer: Offer) -> str:
    """The machine type that setbacks are kept by."""
    return offer.type or offer.id


def cooldowns(setbacks: Iterable[Setback], recent: Sequence[Lease], now: datetime, lasting: timedelta) -> tuple[Cooldown, ...]:
    """What cools down now. `lasting` is for one failure; each further one in a row doubles it, up to eightfold.

    A lease that served from an offer wipes its slate clean."""
    told = sorted([*setbacks, *_of_leases(recent)], key=lambda one: one.at)
    served = [(lease.entered_at, lease) for lease in recent if lease.job_started_at is not None and lease.reason not in FAULTY]
    places: dict[tuple[str, str, str, str], list[Setback]] = {}
    for one in told:
        places.setdefault(one.place, []).append(one)
    found: list[Cooldown] = []
    for (provider, region, kind, offer), failed in places.items():
        since = [at for at, lease in served if _served_there(lease, provider, region, offer)]
        failed = [one for one in failed if not since or one.at > max(since)]
        if not failed:
            continue
        last = failed[-1]
        until = last.at + lasting * min(2 ** (len(failed) - 1), 8)
        if until > now:
            why = f"{len(failed)} failed lately, last: {_said(last)}"
            found.append(Cooldown(provider, region, kind, offer, failed[0].at, until, len(failed), why))
    return tuple(sorted(found, key=lambda one: (one.until, one.provider)))


def _said(one: Setback) -> str:
    return f"{str(one.reason).replace('_', ' ')}" + (f" ({one.detail[:160]})" if one.detail else "")


def _served_there(lease: Lease, provider: str, region: str, offer: str) -> bool:
    if lease.provider != provider or region not in ("", lease.region) or lease.offer is None:
        return False
    return offer in ("", str(lease.offer["id"]))


def _of_leases(recent: Sequence[Lease]) -> list[Setback]:
    """The machines that were rented and did not do."""
    return [
        Setback(
            lease.gone_at or lease.entered_at,
            lease.provider,
            lease.region,
            str(lease.offer.get("type") or lease.offer["id"]),
            str(lease.offer["id"]),
            Reach.OFFER,
            lease.reason,
        )
        for lease in recent
        if lease.offer is not None and lease.reason is not None and lease.reason in FAULTY - AT_CREATE
    ]
