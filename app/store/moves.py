"""Jobs of a repository that was renamed or moved: the forge itself tells them under another path."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from app.core.model import Job, JobState
from app.store.db import Database
from app.store.jobs import admissible, fits
from app.store.tables import job

_WHERE = sa.select(job.c.id, job.c.repository, job.c.state).where(job.c.id.in_(sa.bindparam("ids", expanding=True)))


def follow(db: Database, told: Sequence[Job]) -> int:
    """Those of the jobs that are known under another path get this one. How many.

    Only by the forge's own answer about the job, never by a delivery. One that nobody has taken is judged anew: the new
    path may be of another pool's, or allowed to nobody, and where its runner would be registered is another place."""
    fresh = {one.id: admissible(one) for one in told if fits(one)}
    with db.read() as conn:
        known = list(conn.execute(_WHERE, {"ids": sorted(fresh)})) if fresh else []
    moved = [row for row in known if str(row.repository).casefold() != fresh[row.id].repository.casefold()]
    if not moved:
        return 0
    with db.write() as conn:
        for row in moved:
            now = fresh[row.id]
            values: dict[str, object] = {"repository": now.repository, "repository_id": now.repository_id}
            if row.state in (JobState.WAITING, JobState.QUEUED) and now.state is not JobState.COMPLETED:
                values |= {"pool": None, "scope": None, "cleared_at": None, "not_ours": "", "wait": ""}
            conn.execute(sa.update(job).where(job.c.id == row.id, job.c.repository == row.repository).values(**values))
    return len(moved)
