"""Jobs, leases and moments that the store's tests tell their stories with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from app.core.model import DemandKey, Job, JobState, Lease, Reason, Run, Scope, ScopeKind
from app.core.policy import Plan
from app.core.states import State
from app.store import jobs, leases, runs
from app.store.db import Database

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)
HOLD = timedelta(seconds=90)
SCOPE = Scope(ScopeKind.REPOSITORY, "acme/train")
KEY = DemandKey("rubin", "github", SCOPE, ("gpu", "rubin"))
_numbers = count(1)


def a_job(key: str = "1", state: JobState = JobState.QUEUED, **values: Any) -> Job:
    """A job of acme/train on GitHub."""
    usual: dict[str, Any] = {"labels": ("gpu", "rubin"), "run_id": "70"}
    return Job(f"github-{key}", "github", key, "acme/train", state, **(usual | values))


def told(job: Job | None, guid: str | None = None, action: str = "") -> jobs.Record:
    """A delivery about a job, with a guid of its own unless one is given."""
    guid = f"guid-{next(_numbers)}" if guid is None else guid
    return jobs.Record("github", guid, "workflow_job", action or (job.state if job else "ping"), job)


def a_run(job: Job, **values: Any) -> Run:
    """What the forge says of the job's run: a push to the repository itself."""
    usual: dict[str, Any] = {"event": "push", "head_repository": job.repository, "fork": False, "actor": "ada"}
    return Run(job.forge, job.repository, job.run_id, job.attempt, **(usual | values))


def cleared(db: Database, *asked: Job, now: datetime = NOW) -> None:
    """Every recorded job with labels goes to the pool, and those of the runs of the `asked` may spend."""
    runs.enlist(db, lambda _: (KEY.pool, SCOPE, ""), lambda _: "", now, 1_000)
    runs.tell(db, [(job, a_run(job)) for job in asked], lambda _: "", now)


def queued(db: Database, key: str = "1", now: datetime = NOW, **values: Any) -> Job:
    """A job that is recorded, placed and may spend."""
    job = a_job(key, queued_at=now, **values)
    jobs.record(db, [told(job)], now)
    cleared(db, job, now=now)
    found = jobs.get(db, job.id)
    assert found is not None
    return found


def a_lease(number: int = 1, now: datetime = NOW, **values: Any) -> Lease:
    """A planned lease, as policy draws it."""
    identity = f"{number:04x}beef"
    usual: dict[str, Any] = {"name": f"brave-otter-{number:02d}", "tag": f"sublet-brave-otter-{number:02d}-{identity}"}
    usual |= {"created_at": now, "entered_at": now, "deadline": now + timedelta(minutes=10), "due": now}
    usual |= {"id": identity, "key": KEY, "state": State.PLANNED, "attempt": 1}
    return Lease(**(usual | values))


def planned(db: Database, *new: Lease, now: datetime = NOW) -> tuple[Lease, ...]:
    """Leases that are written down as planned."""
    return leases.plan(db, lambda _: Plan(new or (a_lease(now=now),)), now).new


def claimed(db: Database, now: datetime = NOW) -> Lease:
    """The one lease that is due, held."""
    (held,) = leases.claim(db, "worker", now, 10, HOLD)
    return held


PATH = (State.LAUNCHING, State.BOOTING, State.PROVING, State.REGISTERING, State.IDLE, State.BUSY)
DOWN: Mapping[State, tuple[State, ...]] = {
    State.DRAINING: (*PATH, State.DRAINING),
    State.DESTROYING: (*PATH, State.DRAINING, State.DESTROYING),
    State.RELEASED: (*PATH, State.DRAINING, State.DESTROYING, State.RELEASED),
}


def led_to(
    db: Database, state: State, now: datetime = NOW, lease: Lease | None = None, *, reason: Reason | None = None, **values: Any
) -> Lease:
    """A lease that went the whole way to this state, unclaimed; `reason` and `values` are written with the last move."""
    (start,) = planned(db, lease or a_lease(now=now), now=now)
    way = DOWN.get(state) or PATH[: PATH.index(state) + 1]
    for place, step in enumerate(way):
        held = next(one for one in leases.claim(db, "worker", now, 100, HOLD) if one.id == start.id)
        last, why = (values, reason) if place == len(way) - 1 else ({}, None)
        assert leases.move(db, held, step, reason=why, text="", values=last, now=now, deadline=None, due=now)
    found = leases.get(db, start.id)
    assert found is not None
    return found


def again(db: Database, lease: Lease) -> Lease:
    """The lease as it is now."""
    found = leases.get(db, lease.id)
    assert found is not None
    return found


def without_time(job: Job) -> Job:
    """Two stories about one job are the same whenever they were heard."""
    return replace(job, seen_at=None, heard_at=None)
