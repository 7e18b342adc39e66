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
from app.store.tables import job, lease, run

_TAKEN = job.c.state.in_((JobState.IN_PROGRESS, JobState.COMPLETED))
"""What may be queued once more: a job may end and be run again before anybody has told of its end."""
_DOUBTED = (
    sa.select(*JOB_COLUMNS)
    .where(job.c.forge == sa.bindparam("the_forge", type_=job.c.forge.type), _TAKEN)
    .where(job.c.doubted_at <= sa.bindparam("now", type_=job.c.ask_after.type))
    .order_by(job.c.doubted_at, job.c.id)
    .limit(sa.bindparam("most", type_=sa.Integer))
)
_TAKEN_BEFORE = (
    sa.select(*JOB_COLUMNS)
    .where(job.c.id.in_(sa.bindparam("ids", expanding=True)), _TAKEN)
    .where(job.c.heard_at <= sa.bindparam("before", type_=job.c.heard_at.type))
    .order_by(job.c.id)
    .with_for_update()
)
_UPDATE = sa.update(job).where(job.c.id == sa.bindparam("the_id"))


def doubt(db: Database, job_id: str, now: datetime) -> None:
    """A delivery tells a job as less far than it was: late, or run again. Its forge is asked at the next round."""
    with db.write() as conn:
        conn.execute(sa.update(job).where(job.c.id == job_id, _TAKEN).values(doubted_at=now))


def doubted(db: Database, forge: str, now: datetime, limit: int) -> list[Job]:
    """Jobs that were further on than a delivery has told since."""
    with db.read() as conn:
        return [job_of(row) for row in conn.execute(_DOUBTED, {"the_forge": forge, "now": now, "most": limit})]


def settled(db: Database, job_id: str, asked: datetime) -> None:
    """The forge was asked at this time: a doubt from before is over; one that came meanwhile stays."""
    with db.write() as conn:
        conn.execute(sa.update(job).where(job.c.id == job_id, job.c.doubted_at <= asked).values(doubted_at=None))


def put_off(db: Database, job_id: str, asked: datetime, until: datetime) -> None:
    """The forge was asked at this time and did not say: the doubt stays, and is looked into again at `until`."""
    with db.write() as conn:
        conn.execute(sa.update(job).where(job.c.id == job_id, job.c.doubted_at <= asked).values(doubted_at=until))


def reopen(db: Database, told: Sequence[Job], before: datetime, now: datetime) -> int:
    """Those of the jobs that their forge now tells as run again under the same id: they start anew. How many.

    Only by the forge's own answer to a question asked at `before`, never by a delivery, which may be late. Who runs a job
    again counts, so its run is asked for again, too."""
    fresh = {one.id: admissible(one) for one in told if one.state is not JobState.COMPLETED and fits(one)}
    if not fresh:
        return 0
    with db.write() as conn:
        taken = [job_of(row) for row in conn.execute(_TAKEN_BEFORE, {"ids": sorted(fresh), "before": before})]
        again = [one for one in taken if _again(one, fresh[one.id])]
        for one in again:
            values = job_values(
                replace(fresh[one.id], seen_at=now, queued_at=now, heard_at=now, heard_by="poll", reopened_at=now)
            )
            del values["id"]
            conn.execute(_UPDATE, {"the_id": one.id, **values, "ask_after": None, "asks": 0, "doubted_at": None})
            # The forge itself says that the run before is over: whoever is bound by now served that one, but for the runner
            # of this one. It may have taken the job, and told of it, before anybody looked.
            runs_it, began = fresh[one.id].runner_name, fresh[one.id].state is JobState.IN_PROGRESS
            if runs_it or not began:
                before_it = (lease.c.job_id == one.id, lease.c.job_done_at.is_(None), lease.c.runner_name != runs_it)
                conn.execute(sa.update(lease).where(*before_it).values(job_done_at=now, due=now, version=lease.c.version + 1))
            same = (run.c.forge == one.forge, run.c.repository == one.repository, run.c.id == one.run_id)
            conn.execute(sa.delete(run).where(*same))
    return len(again)


def _again(known: Job, told: Job) -> bool:
    """One run of a job never goes back from running to waiting, and its try is counted when a runner takes it."""
    return (
        known.state is JobState.COMPLETED or told.state in (JobState.WAITING, JobState.QUEUED) or told.attempt > known.attempt
    )
