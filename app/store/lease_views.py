"""Leases as they are read: by name, by list, by what is due. Writes nothing."""

from __future__ import annotations

import functools
from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any, Literal

import sqlalchemy as sa

from app.core.labels import normalise
from app.core.model import DemandKey, Job, JobState, Lease, Span
from app.core.states import State
from app.store.db import Database
from app.store.rows import (
    COMING_COLUMNS,
    JOB_COLUMNS,
    LEASE_COLUMNS,
    SLIM_COLUMNS,
    SPAN_COLUMNS,
    coming_of,
    job_of,
    lease_of,
    span_of,
)
from app.store.tables import COVERING, FAILED, LIVE, SERVED, UNBOOKED, job, lease, span

RECENT = timedelta(minutes=30)
FAR = 100  # leases back: whatever served before them speaks for nothing any more
SHORTEST_PREFIX = 4  # characters of an id that name a lease, if no other starts with them

Which = Literal["live", "past", "all"]


_BY_ID = sa.select(*LEASE_COLUMNS).where(lease.c.id == sa.bindparam("the_lease"))


def get(db: Database, lease_id: str) -> Lease | None:
    """The lease, whole."""
    with db.read() as conn:
        row = conn.execute(_BY_ID, {"the_lease": lease_id}).first()
    return None if row is None else lease_of(row)


def find(db: Database, ref: str) -> Lease | None:
    """By name, id, the start of an id (4 characters or more, of one lease only), or the address of its job."""
    ref = ref.strip()
    if not ref:
        return None
    with db.read() as conn:
        found = one(conn, sa.or_(lease.c.name == ref, lease.c.id == ref))
        if found is not None:
            return found
        if "://" in ref:
            newest = sa.select(job.c.lease_id).where(job.c.url == ref, job.c.lease_id != "").order_by(job.c.seen_at.desc())
            lease_id = conn.scalar(newest.limit(1))
            return None if lease_id is None else one(conn, lease.c.id == lease_id)
        if len(ref) < SHORTEST_PREFIX:
            return None
        ids = conn.scalars(sa.select(lease.c.id).where(lease.c.id.startswith(ref, autoescape=True)).limit(2)).all()
        return one(conn, lease.c.id == ids[0]) if len(ids) == 1 and str(ids[0]).startswith(ref) else None


@functools.cache
def _listing(which: Which, goes_on: bool) -> sa.Select[Any]:
    query = sa.select(*SLIM_COLUMNS).order_by(lease.c.created_at.desc()).limit(sa.bindparam("most", type_=sa.Integer))
    if which != "all":
        query = query.where(LIVE if which == "live" else lease.c.state == State.RELEASED)
    return query.where(lease.c.created_at < sa.bindparam("before", type_=lease.c.created_at.type)) if goes_on else query


def listing(db: Database, *, which: Which = "live", limit: int = 100, before: datetime | None = None) -> list[Lease]:
    """The newest first, without `decision`; `before` is the `created_at` of the last lease of the page before."""
    asked = {"most": limit} if before is None else {"most": limit, "before": before}
    with db.read() as conn:
        return [lease_of(row) for row in conn.execute(_listing(which, before is not None), asked)]


_COVERING = sa.select(*COMING_COLUMNS).where(COVERING).order_by(lease.c.created_at)
_SINCE = sa.bindparam("since", type_=lease.c.entered_at.type)
_FAILED_SINCE = sa.select(*SLIM_COLUMNS).where(FAILED, lease.c.entered_at >= _SINCE).order_by(lease.c.entered_at)
_SERVED_SINCE = sa.select(*SLIM_COLUMNS).where(SERVED, lease.c.entered_at >= _SINCE).order_by(lease.c.entered_at.desc())
_SERVED_KEY = _SERVED_SINCE.limit(FAR).where(
    lease.c.pool == sa.bindparam("the_pool"),
    lease.c.forge == sa.bindparam("the_forge"),
    lease.c.scope == sa.bindparam("the_scope"),
)
_SERVED_THERE = _SERVED_SINCE.limit(FAR).where(
    lease.c.provider == sa.bindparam("the_provider"),
    lease.c.region == sa.bindparam("the_region"),
    lease.c.job_started_at.is_not(None),
)
_ALIVE = sa.select(lease.c.pool, sa.func.count()).where(LIVE).group_by(lease.c.pool)
_UNBOOKED = sa.select(*SLIM_COLUMNS).where(UNBOOKED).order_by(lease.c.entered_at).limit(sa.bindparam("most", type_=sa.Integer))


def covering(conn: sa.Connection) -> list[Lease]:
    """Live leases that may still serve a job that waits: not on their way down, and with no job that has a name.

    With what policy needs of them."""
    return [coming_of(row) for row in conn.execute(_COVERING)]


def alive(conn: sa.Connection) -> dict[str, int]:
    """How many live leases each pool has, from its index alone."""
    return {str(pool): int(count) for pool, count in conn.execute(_ALIVE)}


def ended(conn: sa.Connection, since: datetime) -> list[Lease]:
    """Those that failed since then, gone or on their way, and the last that served of each key that has a failed one."""
    found = [lease_of(row) for row in conn.execute(_FAILED_SINCE, {"since": since})]
    for key in {one.key for one in found}:
        same = {"the_pool": key.pool, "the_forge": key.forge, "the_scope": str(key.scope)}
        rows = conn.execute(_SERVED_KEY, {**same, "since": since})
        last = next((one for one in (lease_of(row) for row in rows) if one.key == key), None)
        found += [] if last is None else [last]
    return found


def recent(db: Database, now: datetime, places: Collection[tuple[str, str]] = ()) -> list[Lease]:
    """What is known of offers that failed in the last half hour: those leases, and the last ones that served from there or
    from the other `places` (provider, region)."""
    with db.read() as conn:
        found = [lease_of(row) for row in conn.execute(_FAILED_SINCE, {"since": now - RECENT})]
        for provider, region in {*places, *((one.provider, one.region) for one in found if one.offer is not None)}:
            there = {"the_provider": provider, "the_region": region, "since": now - RECENT}
            found += [lease_of(row) for row in conn.execute(_SERVED_THERE, there)]
    return found


_SPANS = sa.select(*SPAN_COLUMNS).where(span.c.lease_id == sa.bindparam("the_lease"))


def spans(db: Database, lease_id: str) -> list[Span]:
    """The states that the lease was in, in order."""
    with db.read() as conn:
        found = [span_of(row) for row in conn.execute(_SPANS, {"the_lease": lease_id})]
    return sorted(found, key=lambda stay: list(State).index(stay.state))


def live_count(db: Database) -> int:
    with db.read() as conn:
        return conn.scalar(sa.select(sa.func.count()).select_from(lease).where(LIVE)) or 0


def live_tags(db: Database) -> set[str]:
    """The instance names that live leases own."""
    with db.read() as conn:
        return {str(tag) for tag in conn.scalars(sa.select(lease.c.tag).where(LIVE))}


_RUNNERS = sa.select(lease.c.runner_name).where(LIVE, lease.c.runner_name != "")


def live_runners(db: Database) -> set[str]:
    """The names of the runners that live leases have registered, or are about to."""
    with db.read() as conn:
        return {str(name) for name in conn.scalars(_RUNNERS)}


_OF_RUNNER = sa.select(*LEASE_COLUMNS).where(
    LIVE, lease.c.runner_name == sa.bindparam("the_runner"), lease.c.forge == sa.bindparam("the_forge")
)


def of_runner(db: Database, forge: str, runner_name: str) -> Lease | None:
    """The live lease that registered this runner."""
    if not runner_name:
        return None
    with db.read() as conn:
        row = conn.execute(_OF_RUNNER, {"the_runner": runner_name, "the_forge": forge}).first()
    return None if row is None else lease_of(row)


def counts(db: Database) -> dict[tuple[str, State], int]:
    """How many live leases by pool and state."""
    query = sa.select(lease.c.pool, lease.c.state, sa.func.count()).where(LIVE).group_by(lease.c.pool, lease.c.state)
    with db.read() as conn:
        return {(pool, State(state)): count for pool, state, count in conn.execute(query)}


_UNCLAIMED_DUE = sa.select(lease.c.due).where(LIVE, lease.c.claim == "").order_by(lease.c.due).limit(1)
_CLAIM_ENDS = sa.select(sa.func.min(lease.c.claimed_until, type_=lease.c.due.type)).where(LIVE, lease.c.claim != "")
_CLAIM_ENDS_BEFORE = _CLAIM_ENDS.where(lease.c.due <= sa.bindparam("first", type_=lease.c.due.type))


def next_due(db: Database) -> datetime | None:
    """When the next live lease may be claimed: it is due, or the claim on it runs out. None: there is none."""
    with db.read() as conn:
        due = conn.scalar(_UNCLAIMED_DUE)
        # A claimed one that is due later than this cannot be the next, so only the front of the index is read.
        ends = conn.scalar(_CLAIM_ENDS) if due is None else conn.scalar(_CLAIM_ENDS_BEFORE, {"first": due})
    return min((time for time in (due, ends) if time is not None), default=None)


def unbooked(db: Database, limit: int = 100) -> list[Lease]:
    """Released leases that money may be owed for and whose books are open, the oldest end first."""
    with db.read() as conn:
        return [lease_of(row) for row in conn.execute(_UNBOOKED, {"most": limit})]


def join_sealed(db: Database, lease_id: str) -> bytes:
    """The sealed join token; empty once the node has joined."""
    with db.read() as conn:
        return conn.scalar(sa.select(lease.c.join_sealed).where(lease.c.id == lease_id)) or b""


_NEWEST = sa.select(*JOB_COLUMNS).order_by(job.c.seen_at.desc()).limit(200)
_ITS_OWN = _NEWEST.where(job.c.id == sa.bindparam("the_job"))
_LIKE_IT = _NEWEST.where(*(job.c[name] == sa.bindparam(f"the_{name}") for name in ("pool", "forge", "scope")))
_QUEUED_LIKE_IT = _LIKE_IT.where(job.c.state == JobState.QUEUED)


def mint_hints(db: Database, wanted: Lease) -> tuple[str, tuple[str, ...]]:
    """GitHub App installation and labels as written, of a job that this lease may serve: its own, a waiting one, the last one.

    Both empty where no such job is known."""
    key = wanted.key
    own = wanted.job_id or key.job
    asked = {"the_pool": key.pool, "the_forge": key.forge, "the_scope": str(key.scope)}
    queries: list[tuple[sa.Select[Any], dict[str, str]]] = [(_QUEUED_LIKE_IT, asked), (_LIKE_IT, asked)]
    if own:
        queries.insert(0, (_ITS_OWN, {"the_job": own}))
    installation = ""
    with db.read() as conn:
        for query, values in queries:
            for found in (job_of(row) for row in conn.execute(query, values)):
                installation = installation or found.installation
                if _alike(found, key.labels):
                    return found.installation or installation, found.labels or ()
    return installation, ()


_OLDEST_LIKE_IT = _QUEUED_LIKE_IT.order_by(None).order_by(sa.func.coalesce(job.c.queued_at, job.c.seen_at), job.c.id)


def may_have_taken(db: Database, key: DemandKey, most: int) -> list[Job]:
    """Jobs that, as far as we know, wait for a runner of this key, the oldest first; of a key for one job, that one."""
    asked = {"the_pool": key.pool, "the_forge": key.forge, "the_scope": str(key.scope)}
    with db.read() as conn:
        found = [job_of(row) for row in conn.execute(_OLDEST_LIKE_IT, asked)]
    return [one for one in found if _alike(one, key.labels) and key.job in ("", one.id)][:most]


def _alike(found: Job, labels: tuple[str, ...]) -> bool:
    return found.labels is not None and normalise(found.labels) == labels


def one(conn: sa.Connection, where: sa.ColumnElement[bool]) -> Lease | None:
    """The one lease of this condition, whole."""
    row = conn.execute(sa.select(*LEASE_COLUMNS).where(where)).first()
    return None if row is None else lease_of(row)
