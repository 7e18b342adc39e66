"""Pilots: machines that were rented to be measured. Asked for with their lease in one transaction, kept as history."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from app.core.model import Lease, Reason
from app.core.states import State
from app.store import audit, leases
from app.store.db import Database
from app.store.rows import clean, plain
from app.store.tables import lease, pilot, provider_standing

USABLE = "usable"
PILOT_LOCK = 7_283_003  # PostgreSQL advisory lock: two people who ask at once get one pilot and one sentence


@dataclass(frozen=True, slots=True)
class Pilot:
    """One pilot as it is kept."""

    id: str
    provider: str
    region: str
    lease_id: str
    asked_by: str
    asked_at: datetime
    offer: Mapping[str, Any] | None = None  # contract.Offer as JSON: the one that was shown, then the one that was taken
    usable_at: datetime | None = None  # when its node had proven itself
    ended_at: datetime | None = None  # when its lease was released
    outcome: str = ""  # "" while it runs, then "usable" or why not
    report: Mapping[str, Any] | None = None  # "sample_at", then "measured_at" and what the node says: untrusted


COLUMNS = tuple(pilot.c[part.name] for part in fields(Pilot))


def ask(db: Database, one: Pilot, planned: Lease, why: str, now: datetime) -> str:
    """Write down that a pilot is wanted, and plan its lease: both or neither. Audited. Empty, or a sentence that says why not.

    There is one pilot of a provider at a time, and none of one that is paused. Raises ValueError for a lease under way."""
    if planned.state is not State.PLANNED:
        raise ValueError("a lease begins as planned")
    paused = sa.select(provider_standing.c.paused_at).where(provider_standing.c.provider == one.provider)
    running = sa.select(lease.c.name).join(pilot, pilot.c.lease_id == lease.c.id)
    running = running.where(pilot.c.provider == one.provider, pilot.c.ended_at.is_(None))
    with db.write() as conn:
        if db.postgresql:
            conn.execute(sa.select(sa.func.pg_advisory_xact_lock(PILOT_LOCK)))
        if conn.scalar(paused) is not None:
            return f"{one.provider} is paused: nothing is rented there."
        if (name := conn.scalar(running)) is not None:
            return f"A pilot of {one.provider} runs already: lease {name}."
        leases.enter(conn, [planned], one.asked_by, now)
        values = {part.name: getattr(one, part.name) for part in fields(Pilot)}
        values |= {"asked_by": clean(one.asked_by, 200), "region": clean(one.region, 200), "offer": plain(one.offer)}
        conn.execute(sa.insert(pilot).values(**values))
        detail = {"lease": planned.id, "most": planned.need.max_price_per_hour}
        audit.write(
            conn,
            at=now,
            actor=one.asked_by,
            action="provider.pilot_asked",
            object=f"provider:{one.provider}",
            text=clean(why, 500),
            detail=detail,
        )
    return ""


def get(db: Database, pilot_id: str) -> Pilot | None:
    with db.read() as conn:
        return _one(conn, pilot.c.id == pilot_id)


def of_lease(db: Database, lease_id: str) -> Pilot | None:
    with db.read() as conn:
        return _one(conn, pilot.c.lease_id == lease_id)


def listing(db: Database, provider: str | None = None, limit: int = 100) -> list[Pilot]:
    """The newest first."""
    query = sa.select(*COLUMNS).order_by(pilot.c.asked_at.desc(), pilot.c.id).limit(limit)
    if provider is not None:
        query = query.where(pilot.c.provider == provider)
    with db.read() as conn:
        return [Pilot(*row) for row in conn.execute(query)]


def usable(db: Database, lease_id: str, now: datetime) -> Pilot | None:
    """Its node has proven itself: the first time counts. None: there is no such pilot."""
    with db.write() as conn:
        first = sa.update(pilot).where(pilot.c.lease_id == lease_id, pilot.c.usable_at.is_(None), pilot.c.ended_at.is_(None))
        conn.execute(first.values(usable_at=now))
        return _one(conn, pilot.c.lease_id == lease_id)


def sampled(db: Database, lease_id: str, now: datetime) -> bool:
    """Whether its node may fetch the sample by which its network is measured: once, and not after it has measured."""
    with db.write() as conn:
        found = _open(conn, lease_id)
        if found is None or found.report:
            return False
        _report(conn, found, {"sample_at": now})
    return True


def measured(db: Database, lease_id: str, told: Mapping[str, Any], now: datetime) -> bool:
    """What its node measured: said once, and the engine looks at once. False: it was said before, or comes too late."""
    with db.write() as conn:
        found = _open(conn, lease_id)
        if found is None or "measured_at" in (found.report or {}):
            return False
        _report(conn, found, {**(found.report or {}), "measured_at": now, **told})
        news = sa.update(lease).where(lease.c.id == lease_id, lease.c.state != State.RELEASED)
        conn.execute(news.values(due=now, version=lease.c.version + 1))
    return True


_OVER = (
    sa.select(
        pilot.c.id, pilot.c.usable_at, lease.c.region, lease.c.offer, lease.c.gone_at, lease.c.reason, lease.c.reason_text
    )
    .join(lease, lease.c.id == pilot.c.lease_id)
    .where(pilot.c.ended_at.is_(None), lease.c.state == State.RELEASED)
)


def close(db: Database, now: datetime) -> int:
    """Write down how those ended whose machine is proven gone: usable, or why not. How many. Repeatable."""
    with db.read() as conn:
        over = conn.execute(_OVER).all()
    if not over:
        return 0
    with db.write() as conn:
        for row in over:
            why = f"{str(row.reason or Reason.OPERATOR).replace('_', ' ')}: {row.reason_text}".strip(": ")
            values = {"ended_at": row.gone_at or now, "outcome": USABLE if row.usable_at else clean(why, 1_000)}
            if row.offer is not None:
                values |= {"offer": row.offer, "region": row.region}
            conn.execute(sa.update(pilot).where(pilot.c.id == row.id, pilot.c.ended_at.is_(None)).values(**values))
    return len(over)


def _one(conn: sa.Connection, where: sa.ColumnElement[bool]) -> Pilot | None:
    row = conn.execute(sa.select(*COLUMNS).where(where)).first()
    return None if row is None else Pilot(*row)


def _open(conn: sa.Connection, lease_id: str) -> Pilot | None:
    """One that runs, held until the transaction ends: of two who write a report at once, the second sees the first's."""
    where = (pilot.c.lease_id == lease_id, pilot.c.ended_at.is_(None))
    row = conn.execute(sa.select(*COLUMNS).where(*where).with_for_update()).first()
    return None if row is None else Pilot(*row)


def _report(conn: sa.Connection, found: Pilot, report: Mapping[str, Any]) -> None:
    conn.execute(sa.update(pilot).where(pilot.c.id == found.id).values(report=plain(report)))
