"""Intervals and prices -> charges, in Decimal, by the provider's own granularity and minimum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from enum import StrEnum

from app.core.model import Lease, Span
from app.core.states import ORDER, State

QUANTUM = Decimal("0.000001")  # a millionth of the currency; amounts are rounded once, when they are booked
HOUR = Decimal(3600)


class ChargeKind(StrEnum):
    BEFORE_JOB = "before_job"
    JOB = "job"
    AFTER_JOB = "after_job"
    ROUNDING = "rounding"  # the provider's granularity and minimum
    STRAY = "stray"  # an instance under the lease's tag that was not its own: doubled, or late


@dataclass(frozen=True, slots=True)
class Charge:
    """One billed interval of one lease. Append-only."""

    lease_id: str
    kind: ChargeKind
    since: datetime
    until: datetime
    price_per_hour: Decimal
    amount: Decimal
    currency: str


def billed(used: timedelta, granularity: timedelta, minimum: timedelta) -> timedelta:
    """What a provider bills for a use: at least the minimum, rounded up to whole granules."""
    used = max(used, timedelta(0), minimum)
    if granularity <= timedelta(0):
        return used
    granules = -(-used // granularity)
    return granules * granularity


def price(duration: timedelta, per_hour: Decimal) -> Decimal:
    """The exact price of a duration, not rounded."""
    microseconds = Decimal(duration // timedelta(microseconds=1))
    return microseconds * per_hour / (HOUR * 1_000_000)


def accrued(lease: Lease, now: datetime) -> Decimal:
    """What the lease has cost so far; nothing before create was asked, nothing more after proven absence."""
    if lease.asked_at is None or lease.price_per_hour is None or (lease.instance_id == "" and lease.gone_at is not None):
        return Decimal(0)
    used = (lease.gone_at or now) - (lease.billed_from or lease.asked_at)
    return price(billed(used, lease.granularity, lease.minimum), lease.price_per_hour).quantize(QUANTUM, ROUND_HALF_UP)


def stray_charge(lease: Lease, instance_id: str, created_at: datetime, gone_at: datetime) -> Charge | None:
    """What an instance cost that came under the tag of `lease` beside or after its own; None where no price is known.

    If it is the lease's own, come back after its books were closed, only the time since then is charged."""
    if lease.price_per_hour is None:
        return None
    if instance_id == lease.instance_id and lease.gone_at is not None:
        created_at = max(created_at, lease.gone_at)
    used = billed(gone_at - created_at, lease.granularity, lease.minimum)
    amount = price(used, lease.price_per_hour).quantize(QUANTUM, ROUND_HALF_UP)
    return Charge(
        lease.id, ChargeKind.STRAY, created_at, max(gone_at, created_at), lease.price_per_hour, amount, lease.currency
    )


def close(lease: Lease, spans: Sequence[Span]) -> tuple[Charge, ...]:
    """The charges of a released lease, split by what the time was spent on; their sum is `accrued` to the last digit.

    A lease whose create surely never happened (no instance was ever named) is charged nothing."""
    total = accrued(lease, lease.gone_at) if lease.gone_at is not None else Decimal(0)
    if lease.asked_at is None or lease.gone_at is None or lease.price_per_hour is None or not lease.instance_id:
        return ()
    began = lease.billed_from or lease.asked_at
    busy = next((span for span in spans if span.state is State.BUSY), None)
    after = next((span for span in spans if ORDER[span.state] > ORDER[State.BUSY]), None)
    job_from = busy.entered_at if busy else (after.entered_at if after else lease.gone_at)
    job_until = after.entered_at if after else lease.gone_at
    edges = (
        (ChargeKind.BEFORE_JOB, began, job_from),
        (ChargeKind.JOB, job_from, job_until),
        (ChargeKind.AFTER_JOB, job_until, lease.gone_at),
    )
    charges: list[Charge] = []
    left = total
    for kind, since, until in edges:
        since, until = (min(max(edge, began), lease.gone_at) for edge in (since, until))
        amount = min(price(until - since, lease.price_per_hour).quantize(QUANTUM, ROUND_HALF_UP), left)
        if until > since:
            charges.append(Charge(lease.id, kind, since, until, lease.price_per_hour, amount, lease.currency))
            left -= amount
    if left:
        charges.append(
            Charge(lease.id, ChargeKind.ROUNDING, lease.gone_at, lease.gone_at, lease.price_per_hour, left, lease.currency)
        )
    return tuple(charges)
