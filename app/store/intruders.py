"""A job of a repository that may not spend here, on a machine of ours: the machine goes."""

from __future__ import annotations

from datetime import datetime

from app.core.model import Job, JobState, Reason
from app.store import leases
from app.store.db import Database
from app.store.lease_views import of_runner


def turn_out(db: Database, job: Job, now: datetime) -> str:
    """Destroy the lease whose runner took this job, which nobody allowed; its name, or empty where it is not on one of ours.

    The job-started hook refuses such a job on the machine itself. A runner that calls none, or whose hook was got round, is
    stopped here, as soon as its forge says what runs there: an organisation's runner may be given a job of any of its
    repositories."""
    if job.state is not JobState.IN_PROGRESS:
        return ""
    lease = of_runner(db, job.forge, job.runner_name)
    if lease is None:
        return ""
    text = f"A job of {job.repository} took it, and that repository is not in the allow list."
    leases.ask(db, lease.id, "destroy", Reason.JOB_REFUSED, text, "policy", now)
    return lease.name
