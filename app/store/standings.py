"""How we stand with each provider: paused, away or well; and what it said no to lately."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from app.core.breaker import Standing
from app.core.cooling import Setback
from app.core.model import Reason
from app.store import audit
from app.store.db import Database
from app.store.rows import clean
from app.store.tables import provider_standing, setback
from providers.contract import Reach

LATELY = timedelta(minutes=30)
KEPT = timedelta(days=7)
COLUMNS = tuple(provider_standing.c[name] for name in Standing.__dataclass_fields__)
_ALL = sa.select(*COLUMNS).order_by(provider_standing.c.provider)
_ONE = sa.select(*COLUMNS).where(provider_standing.c.provider == sa.bindparam("name"))
_SETBACKS = (
    sa.select(*(setback.c[name] for name in Setback.__dataclass_fields__))
    .where(setback.c.at >= sa.bindparam("since", type_=setback.c.at.type))
    .order_by(setback.c.at)
    .limit(5_000)
)


def standings(db: Database) -> dict[str, Standing]:
    """By provider; one that never failed and was never paused is missing."""
    with db.read() as conn:
        return {row.provider: Standing(*row) for row in conn.execute(_ALL)}


def setbacks(db: Database, now: datetime) -> list[Setback]:
    """Those of the last half hour, the oldest first."""
    with db.read() as conn:
        return [_setback(row) for row in conn.execute(_SETBACKS, {"since": now - LATELY})]


def _setback(row: sa.Row[Any]) -> Setback:
    reach, reason = Reach(row.reach), Reason(row.reason)
    return Setback(row.at, row.provider, row.region, row.type, row.offer, reach, reason, row.detail)


def told(
    db: Database, provider: str, judge: Callable[[Standing], Standing], failures: Sequence[Setback] = (), lease_id: str = ""
) -> Standing:
    """What a call to this provider came to: its standing after it, and the setbacks that it left, in one transaction.

    `judge` sees the standing as it is in the database, so that two engines count on one counter."""
    with db.write() as conn:
        before = _read(conn, provider)
        after = judge(before)
        if after != before:
            _put(conn, db, after)
        if failures:
            conn.execute(sa.insert(setback), [_row(one, lease_id) for one in failures])
    return after


def pause(db: Database, provider: str, actor: str, why: str, now: datetime) -> Standing:
    """Rent nothing new there; what lives goes on to its end. Audited. Repeatable: the first pause counts."""
    with db.write() as conn:
        before = _read(conn, provider)
        if before.paused_at is not None:
            return before
        after = replace(before, paused_at=now, paused_by=clean(actor, 200), paused_why=clean(why, 500))
        _put(conn, db, after)
        audit.write(conn, at=now, actor=actor, action="provider.paused", object=f"provider:{provider}", text=why)
    return after


def resume(db: Database, provider: str, actor: str, now: datetime) -> Standing:
    """Rent there again: ends a pause, and closes the breaker, because a person says that it works. Audited."""
    with db.write() as conn:
        before = _read(conn, provider)
        after = Standing(provider)
        if after != before:
            _put(conn, db, after)
            audit.write(conn, at=now, actor=actor, action="provider.resumed", object=f"provider:{provider}")
            conn.execute(sa.delete(setback).where(setback.c.provider == provider))
    return after


def tidy(db: Database, now: datetime) -> None:
    with db.write() as conn:
        conn.execute(sa.delete(setback).where(setback.c.at < now - KEPT))


def _read(conn: sa.Connection, provider: str) -> Standing:
    row = conn.execute(_ONE, {"name": provider}).first()
    return Standing(provider) if row is None else Standing(*row)


def _put(conn: sa.Connection, db: Database, standing: Standing) -> None:
    values = asdict(standing) | {"trouble": clean(standing.trouble, 500)}
    insert = db.insert(provider_standing).values(**values)
    conn.execute(insert.on_conflict_do_update(index_elements=["provider"], set_=values))


def _row(one: Setback, lease_id: str) -> dict[str, object]:
    return {
        **asdict(one),
        "region": clean(one.region, 200),
        "type": clean(one.type, 500),
        "offer": clean(one.offer, 500),
        "detail": clean(one.detail, 500),
        "reach": str(one.reach),
        "reason": str(one.reason),
        "lease_id": lease_id,
    }
