"""What ended in a span of time: the rows that counters and histograms grow by. Writes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

import sqlalchemy as sa

from app.core.billing import ChargeKind
from app.core.model import Reason
from app.core.states import State
from app.store.db import Database
from app.store.tables import charge, job, lease, sighting, span

LONGEST_LIFE = timedelta(days=8)
"""No lease lives longer, so that older ones need not be looked through; an index serves `created_at`."""


@dataclass(frozen=True, slots=True)
class Stay:
    """A lease left a state."""

    state: State
    provider: str
    gpu: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Start:
    """A job began on a lease."""

    pool: str
    provider: str
    seconds: float  # from queued, by the forge's clock


@dataclass(frozen=True, slots=True)
class End:
    """A lease was released."""

    pool: str
    provider: str
    gpu: str
    reason: Reason | None
    conclusion: str  # of its job; empty: it had none


@dataclass(frozen=True, slots=True)
class Booked:
    """A charge was booked."""

    pool: str
    provider: str
    gpu: str
    kind: ChargeKind
    amount: Decimal


@dataclass(frozen=True, slots=True)
class Tally:
    stays: tuple[Stay, ...]
    starts: tuple[Start, ...]
    ends: tuple[End, ...]
    booked: tuple[Booked, ...]


def between(db: Database, after: datetime, until: datetime) -> Tally:
    """Everything that our own clock dates after the one time and not after the other."""
    young = lease.c.created_at >= after - LONGEST_LIFE

    def inside(column: sa.ColumnElement[datetime]) -> sa.ColumnElement[bool]:
        return sa.and_(column > after, column <= until)

    with db.read() as conn:
        stays = conn.execute(
            sa.select(span.c.state, span.c.entered_at, span.c.left_at, lease.c.provider, lease.c.need)
            .join_from(span, lease)
            .where(young, inside(span.c.left_at))
        ).all()
        starts = conn.execute(
            sa.select(lease.c.pool, lease.c.provider, lease.c.job_started_at, job.c.queued_at)
            .join_from(span, lease)
            .join(job, job.c.id == lease.c.job_id)
            .where(young, span.c.state == State.BUSY, inside(span.c.entered_at), job.c.queued_at.is_not(None))
        ).all()
        ends = conn.execute(
            sa.select(lease.c.pool, lease.c.provider, lease.c.need, lease.c.reason, lease.c.job_conclusion).where(
                young, lease.c.state == State.RELEASED, inside(lease.c.entered_at)
            )
        ).all()
        booked = conn.execute(
            sa.select(lease.c.pool, lease.c.provider, lease.c.need, charge.c.kind, charge.c.amount)
            .join_from(charge, lease)
            .where(young, inside(charge.c.booked_at))
        ).all()
    return Tally(
        tuple(Stay(State(row.state), row.provider, gpu(row.need), _seconds(row.entered_at, row.left_at)) for row in stays),
        tuple(
            Start(row.pool, row.provider, _seconds(row.queued_at, row.job_started_at))
            for row in starts
            if row.job_started_at is not None
        ),
        tuple(
            End(row.pool, row.provider, gpu(row.need), Reason(row.reason) if row.reason else None, row.job_conclusion)
            for row in ends
        ),
        tuple(Booked(row.pool, row.provider, gpu(row.need), ChargeKind(row.kind), row.amount) for row in booked),
    )


def orphans(db: Database) -> dict[str, int]:
    """Instances under our tag that no lease owns, by provider, as the last sweep saw them."""
    counted = sa.select(sighting.c.place, sa.func.count()).where(sighting.c.place.startswith("provider:"))
    with db.read() as conn:
        return {
            str(place).removeprefix("provider:"): count for place, count in conn.execute(counted.group_by(sighting.c.place))
        }


def gpu(need: dict[str, object]) -> str:
    """The label of what was asked for."""
    return str(need.get("gpu") or "none")


def _seconds(since: datetime, until: datetime) -> float:
    return max((until - since).total_seconds(), 0.0)
