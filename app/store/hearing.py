"""How long after its forge queued a job we heard of it: what polling costs, and what a lost webhook does. Writes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from app.core.model import Job
from app.store.db import Database
from app.store.tables import job

LAST = 50  # jobs that the words on a forge speak of
WINDOW = timedelta(days=7)  # older ones say nothing of today; an index serves `seen_at`


@dataclass(frozen=True, slots=True)
class Heard:
    """One job that was heard of for the first time."""

    forge: str
    by: str  # "webhook" or "poll"
    seconds: float


@dataclass(frozen=True, slots=True)
class Lately:
    """What the last polled jobs of a forge waited before they were heard of, in seconds."""

    count: int  # of those whose queue time the forge says; 0: it says none, and the rest means nothing
    average: float = 0.0
    longest: float = 0.0


def heard_after(one: Job) -> float | None:
    """Seconds from the forge's queue time to our hearing of it, 0 where the clocks differ; None where the forge says no time.

    A job that is run again under its own id has no queue time of the forge's: it is written down as queued when it was found,
    so the two are the same to the microsecond (app.store.reruns)."""
    return _after(one.queued_at, one.seen_at, one.heard_by)


def _after(queued: datetime | None, seen: datetime | None, by: str) -> float | None:
    if queued is None or seen is None or not by or (by == "poll" and queued == seen):
        return None
    return max((seen - queued).total_seconds(), 0.0)


_COLUMNS = (job.c.forge, job.c.heard_by, job.c.queued_at, job.c.seen_at)
_POLLED = (
    sa.select(*_COLUMNS)
    .where(job.c.forge == sa.bindparam("the_forge"), job.c.heard_by == "poll")
    .where(job.c.seen_at >= sa.bindparam("since", type_=job.c.seen_at.type))
    .order_by(job.c.seen_at.desc())
    .limit(LAST)
)


def lately(db: Database, forges: Sequence[str], now: datetime) -> Mapping[str, Lately]:
    """Of the last jobs of each of these forges that a poll told of; a forge without any is left out."""
    found: dict[str, Lately] = {}
    with db.read() as conn:
        for forge in forges:
            rows = conn.execute(_POLLED, {"the_forge": forge, "since": now - WINDOW}).all()
            waits = [one.seconds for one in _heard(rows)]
            if rows:
                found[forge] = Lately(len(waits), sum(waits) / len(waits), max(waits)) if waits else Lately(0)
    return found


def between(db: Database, after: datetime, until: datetime) -> list[Heard]:
    """Every job that was first heard of after the one time and not after the other, and whose forge says when it was queued."""
    query = sa.select(*_COLUMNS).where(job.c.seen_at > after, job.c.seen_at <= until, job.c.queued_at.is_not(None))
    with db.read() as conn:
        return _heard(conn.execute(query))


def _heard(rows: Iterable[Any]) -> list[Heard]:
    waits = ((str(forge), str(by), _after(queued, seen, by)) for forge, by, queued, seen in rows)
    return [Heard(forge, by, seconds) for forge, by, seconds in waits if seconds is not None]
