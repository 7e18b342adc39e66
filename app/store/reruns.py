"""Jobs that a forge runs again under their old id: doubted when a delivery says so, begun anew when the forge itself does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import sqlalchemy as sa

from app.core.model import Job, JobState
from app.store.db import Database
from app.store.jobs import admissible, fits
from app.store.rows import JOB_COLUMNS, job_of, job_values
from app.store.tables import job, run

_ENDED = job.c.state == JobState.COMPLETED
_DOUBTED = (
    sa.select(*JOB_COLUMNS)
    .where(job.c.forge == sa.bindparam("the_forge", type_=job.c.forge.type), _ENDED)
    .where(job.c.ask_after <= sa.bindparam("now", type_=job.c.ask_after.type))
    .order_by(job.c.ask_after, job.c.id)
    .limit(sa.bindparam("most", type_=sa.Integer))
)
_ENDED_BEFORE = (
    sa.select(*JOB_COLUMNS)
    .where(job.c.id.in_(sa.bindparam("ids", expanding=True)), _ENDED)
    .where(job.c.heard_at < sa.bindparam("before", type_=job.c.heard_at.type))
    .order_by(job.c.id)
    .with_for_update()
)
_UPDATE = sa.update(job).where(job.c.id == sa.bindparam("the_id"))


def doubt(db: Database, job_id: str, now: datetime) -> None:
    """A delivery says that a job waits or runs which had ended: late, or run again. Its forge is asked at the next round."""
    with db.write() as conn:
        conn.execute(sa.update(job).where(job.c.id == job_id, _ENDED).values(ask_after=now, asks=0))


def doubted(db: Database, forge: str, now: datetime, limit: int) -> list[Job]:
    """Jobs that had ended, and that a delivery since told as open."""
    with db.read() as conn:
        return [job_of(row) for row in conn.execute(_DOUBTED, {"the_forge": forge, "now": now, "most": limit})]


def settled(db: Database, job_id: str) -> None:
    """The forge says that the job has ended: there is no doubt any more."""
    with db.write() as conn:
        conn.execute(sa.update(job).where(job.c.id == job_id, _ENDED).values(ask_after=None))


def reopen(db: Database, told: Sequence[Job], before: datetime, now: datetime) -> int:
    """Those of the jobs that had ended, and that their forge now tells as open under the same id: they start anew. How many.

    Only by the forge's own answer to a question asked at `before`, never by a delivery, which may be late. Who runs a job
    again counts, so its run is asked for again, too."""
    fresh = {one.id: admissible(one) for one in told if one.state is not JobState.COMPLETED and fits(one)}
    if not fresh:
        return 0
    with db.write() as conn:
        ended = [job_of(row) for row in conn.execute(_ENDED_BEFORE, {"ids": sorted(fresh), "before": before})]
        for one in ended:
            values = job_values(replace(fresh[one.id], seen_at=now, queued_at=now, heard_at=now, heard_by="poll"))
            del values["id"]
            conn.execute(_UPDATE, {"the_id": one.id, **values, "ask_after": None, "asks": 0})
            same = (run.c.forge == one.forge, run.c.repository == one.repository, run.c.id == one.run_id)
            conn.execute(sa.delete(run).where(*same))
    return len(ended)
