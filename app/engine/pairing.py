"""Which job runs here, where no delivery has said so: the forge is asked for those that it may be."""

from __future__ import annotations

from datetime import timedelta

from app.core.model import Lease
from app.engine.step import Deps
from app.forges.contract import ForgeError
from app.store import jobs, lease_views, leases

UNTOLD = timedelta(seconds=5)
"""So long after a runner has begun its job a delivery may tell which. Where webhooks work, nobody is asked."""
AGAIN = timedelta(minutes=1)
MOST = 5  # jobs asked for; forges give the oldest first


async def pair(lease: Lease, deps: Deps) -> bool:
    """Ask the forge for the waiting jobs that this lease may have taken. Whether its job is known now.

    Without this a job that begins and ends between two listings would look as if it still waited, and a second machine would
    be rented for it. No answer is no harm: the next listing tells."""
    forge = deps.forges.get(lease.key.forge)
    if forge is None or lease.job_id:
        return bool(lease.job_id)
    for job in await deps.store(lease_views.may_have_taken, deps.db, lease.key, MOST):
        try:
            fresh = await deps.lane(forge)(forge.fetch_job, job)
        except ForgeError:
            return False
        if fresh is None or fresh.state not in jobs.STARTED or fresh.repository.casefold() != job.repository.casefold():
            continue
        record = jobs.Record(job.forge, "", "look", str(fresh.state), fresh)
        await deps.store(jobs.advance, deps.db, [record], deps.clock.now())
        known = await deps.store(leases.get, deps.db, lease.id)
        if known is not None and known.job_id:
            return True
    return False
