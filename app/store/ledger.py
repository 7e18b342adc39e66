"""All charges, append-only, in exact Decimals. A lease's books are closed once, after it was proven gone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal

import sqlalchemy as sa

from app.core.billing import Charge
from app.core.states import State
from app.store import audit
from app.store.db import Database
from app.store.rows import CHARGE_COLUMNS, charge_of
from app.store.tables import charge, lease


def book(db: Database, lease_id: str, charges: Sequence[Charge], now: datetime) -> bool:
    """Append the charges and close the lease's books, in one transaction. False: closed before, or not released yet.

    Raises ValueError if a charge is another lease's."""
    if any(one.lease_id != lease_id for one in charges):
        raise ValueError(f"a charge of another lease cannot be booked on {lease_id}")
    open_books = (lease.c.id == lease_id, lease.c.state == State.RELEASED, lease.c.booked_at.is_(None))
    with db.write() as conn:
        if conn.execute(sa.update(lease).where(*open_books).values(booked_at=now)).rowcount != 1:
            return False
        append(conn, charges, now)
        sums = sum_up(charges)
        text = ", ".join(f"{amount:f} {currency}" for currency, amount in sorted(sums.items())) or "nothing owed"
        audit.write(conn, at=now, actor="engine", action="lease.booked", object=f"lease:{lease_id}", text=text, detail=sums)
    return True


def append(conn: sa.Connection, charges: Sequence[Charge], now: datetime) -> None:
    """Add charges, inside the caller's transaction, which must make sure that it does so once."""
    rows = [
        {
            "lease_id": one.lease_id,
            "kind": str(one.kind),
            "since": one.since,
            "until": one.until,
            "price_per_hour": one.price_per_hour,
            "amount": one.amount,
            "currency": one.currency,
            "booked_at": now,
        }
        for one in charges
    ]
    if rows:
        conn.execute(sa.insert(charge), rows)


def charges(db: Database, lease_id: str) -> list[Charge]:
    """The lease's charges in the order of their intervals; empty until its books are closed."""
    return charges_of(db, [lease_id]).get(lease_id, [])


def charges_of(db: Database, lease_ids: Iterable[str]) -> dict[str, list[Charge]]:
    """The charges of many leases, by lease; one without any is missing."""
    wanted = sorted(set(lease_ids))
    found: dict[str, list[Charge]] = {}
    if not wanted:
        return found
    query = sa.select(*CHARGE_COLUMNS).where(charge.c.lease_id.in_(wanted)).order_by(charge.c.id)
    with db.read() as conn:
        for one in (charge_of(row) for row in conn.execute(query)):
            found.setdefault(one.lease_id, []).append(one)
    return found


def total(db: Database, since: datetime | None = None) -> dict[str, Decimal]:
    """Everything booked since then (or ever), by currency."""
    query = sa.select(*CHARGE_COLUMNS)
    if since is not None:
        query = query.where(charge.c.booked_at >= since)
    with db.read() as conn:
        return sum_up(charge_of(row) for row in conn.execute(query))


def sum_up(charges: Iterable[Charge]) -> dict[str, Decimal]:
    """Amounts by currency, exact: different currencies are never added."""
    sums: dict[str, Decimal] = {}
    for one in charges:
        sums[one.currency] = sums.get(one.currency, Decimal(0)) + one.amount
    return sums
