"""Machines that cost money and should not: destroys that do not come to their end, and strays; until each is proven gone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

import sqlalchemy as sa

from app.core.billing import Charge, accrued
from app.core.model import Lease
from app.core.states import State
from app.store import audit, strays, surveys
from app.store.db import Database
from app.store.rows import SLIM_COLUMNS, lease_of
from app.store.strays import Stray
from app.store.surveys import Survey
from app.store.tables import audit as audit_table
from app.store.tables import lease

STUCK = timedelta(minutes=15)
"""A destroy that has not come to its end by then is one that people are told of."""
ALARM = "lease.destroy_stuck"


_STUCK = (
    sa.select(*SLIM_COLUMNS)
    .where(lease.c.state == State.DESTROYING)
    .where(lease.c.entered_at <= sa.bindparam("latest", type_=lease.c.entered_at.type))
    .order_by(lease.c.entered_at, lease.c.id)
    .limit(500)
)
_TOLD = sa.select(audit_table.c.object).where(
    audit_table.c.action == ALARM, audit_table.c.object.in_(sa.bindparam("names", expanding=True))
)


@dataclass(frozen=True, slots=True)
class Leaks:
    """Everything that should be gone and is not proven to be."""

    stuck: tuple[Lease, ...]  # the longest first
    strays: tuple[Stray, ...]  # the oldest first
    costs: Mapping[str, Charge]  # instance id of a stray -> what it has cost, where a price is known
    surveys: Mapping[str, Survey]  # by provider

    def money(self, now: datetime) -> dict[tuple[str, str], Decimal]:
        """(provider, currency) -> what all of them have cost so far; strays without a known price are not in it."""
        sums: dict[tuple[str, str], Decimal] = {}
        amounts = [((one.provider, one.currency), accrued(one, now)) for one in self.stuck]
        for one in self.strays:
            charge = self.costs.get(one.instance_id)
            amounts += [] if charge is None else [((one.provider, charge.currency), charge.amount)]
        for place, amount in amounts:
            sums[place] = sums.get(place, Decimal(0)) + amount
        return sums


def leaks(db: Database, now: datetime) -> Leaks:
    """All of them now; their number is small, however many leases there are."""
    found = tuple(strays.open_ones(db))
    with db.read() as conn:
        stuck = tuple(_stuck(conn, now))
    return Leaks(stuck, found, strays.so_far(db, found, now), surveys.listing(db))


def alarm(db: Database, now: datetime) -> list[Lease]:
    """Leases whose destroy is stuck and whom nobody was told of yet; audited, so that each is told once."""
    with db.read() as conn:
        stuck = _stuck(conn, now)
        names = [f"lease:{one.id}" for one in stuck]
        told = set(conn.scalars(_TOLD, {"names": names})) if names else set[str]()
    new = [one for one in stuck if f"lease:{one.id}" not in told]
    for one in new:
        cost = f"{accrued(one, now):f} {one.currency}"
        text = f"Not proven gone after {STUCK // timedelta(minutes=1)} min; it has cost {cost} so far. {one.note}"
        audit.note(db, now, "engine", ALARM, f"lease:{one.id}", text.strip()[:500])
    return new


def _stuck(conn: sa.Connection, now: datetime) -> list[Lease]:
    return [lease_of(row) for row in conn.execute(_STUCK, {"latest": now - STUCK})]
