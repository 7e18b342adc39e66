"""jobs + pools -> demand: how many runners are wanted per pool, forge, scope and label set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime

from app.core.labels import match, normalise
from app.core.model import Demand, DemandKey, Job, JobState, Pool, RepositoryRule, Scope, ScopeKind
from app.core.rules import allowed_repository

NEVER = datetime.max.replace(tzinfo=UTC)


def scope_of(job: Job, pool: Pool) -> Scope:
    """Where the runner for this job is registered: the job's repository unless the pool says wider."""
    kind = pool.scope or pool.scopes.get(job.forge, ScopeKind.REPOSITORY)
    if kind is ScopeKind.REPOSITORY:
        return Scope(ScopeKind.REPOSITORY, job.repository)
    return Scope(kind, pool.scope_path or job.repository.rpartition("/")[0])


def place(job: Job, pools: Sequence[Pool], repositories: Sequence[RepositoryRule]) -> tuple[Pool, Scope] | str:
    """The pool and scope that serve a job, or a sentence that says why it is not ours."""
    if allowed_repository(job.repository, repositories) is None:
        return f"The repository {job.repository} is not in the allow list; add a [[repository]] that matches it."
    reach = [pool for pool in pools if _reaches(scope_of(job, pool), job)]
    found = match(job.labels or (), reach, job.forge)
    if found.pool is not None:
        return found.pool, scope_of(job, found.pool)
    beyond = match(job.labels or (), pools, job.forge).pool
    if beyond is None:
        return found.why_not
    where = scope_of(job, beyond).path
    return f"The pool {beyond.name} registers its runners in {where}, and {job.repository} is not part of it."


def _reaches(scope: Scope, job: Job) -> bool:
    """Could a runner of this scope ever take the job? One that could not would be rented for nothing, again and again."""
    within = scope.path.casefold() + "/"
    return scope.kind is not ScopeKind.ORGANIZATION or job.repository.casefold().startswith(within)


def demand(queued: Sequence[Job], pools: Mapping[str, Pool], pinned: AbstractSet[str] = frozenset()) -> tuple[Demand, ...]:
    """Count queued jobs by key, oldest first within a key and between keys.

    On the forges of `pinned` each job has a key of its own: a runner takes the one job that it was made for.
    Jobs that are in no pool, or whose run was not found to be one that may spend, count nowhere."""
    groups: dict[DemandKey, list[Job]] = {}
    for job in queued:
        if (
            job.state is not JobState.QUEUED
            or job.cleared_at is None
            or job.pool is None
            or job.pool not in pools
            or job.scope is None
            or job.labels is None
        ):
            continue
        own = job.id if job.forge in pinned else ""
        key = DemandKey(job.pool, job.forge, job.scope, normalise(job.labels), own)
        groups.setdefault(key, []).append(job)
    found: list[Demand] = []
    for key, jobs in groups.items():
        jobs.sort(key=_age)
        matched = match(key.labels, [pools[key.pool]], key.forge)
        if matched.pool is not None:  # the settings may have changed since the job was placed
            found.append(Demand(key, tuple(jobs), matched.ask))
    return tuple(sorted(found, key=lambda demand: _age(demand.jobs[0])))


def _age(job: Job) -> tuple[datetime, str]:
    return (job.queued_at or job.seen_at or NEVER, job.id)
