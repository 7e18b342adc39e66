"""What a placement has to know of the past, in one hop: standings, setbacks, and the leases that failed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from app.core.breaker import Standing
from app.core.cooling import Setback
from app.core.model import Lease
from app.store import lease_views, standings
from app.store.db import Database
from app.store.tables import job

LAST_JOBS = 20


@dataclass(frozen=True, slots=True)
class Situation:
    standings: dict[str, Standing]
    setbacks: list[Setback]
    recent: list[Lease]


def situation(db: Database, now: datetime) -> Situation:
    lately = standings.setbacks(db, now)
    places = {(one.provider, one.region) for one in lately}
    return Situation(standings.standings(db), lately, lease_views.recent(db, now, places))


_LAST = (
    sa.select(job.c.started_at, job.c.completed_at)
    .where(
        job.c.state == "completed",
        job.c.pool == sa.bindparam("the_pool"),
        job.c.seen_at >= sa.bindparam("since", type_=job.c.seen_at.type),
        job.c.lease_id != "",
        job.c.started_at.is_not(None),
        job.c.completed_at.is_not(None),
    )
    .order_by(job.c.seen_at.desc())
    .limit(LAST_JOBS)
)


def usual(db: Database, pool: str, now: datetime) -> timedelta | None:
    """The median of the pool's last jobs of the last week. None: it had none."""
    with db.read() as conn:
        rows = conn.execute(_LAST, {"the_pool": pool, "since": now - timedelta(days=7)})
        took = sorted(ended - began for began, ended in rows if ended > began)
    return took[len(took) // 2] if took else None
