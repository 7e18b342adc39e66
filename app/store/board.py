"""What a page shows, read in one transaction so that its numbers agree with each other. Writes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from statistics import median
from typing import Any

import sqlalchemy as sa

from app.core.billing import Charge
from app.core.model import Job, JobState, Lease, Span
from app.core.states import ORDER, State
from app.store.audit import Entry
from app.store.db import Database
from app.store.images import Asked, asked_on
from app.store.rows import (
    CHARGE_COLUMNS,
    JOB_COLUMNS,
    LEASE_COLUMNS,
    SLIM_COLUMNS,
    SPAN_COLUMNS,
    charge_of,
    job_of,
    lease_of,
    span_of,
)
from app.store.tables import audit, charge, job, lease, node_log, span

TYPICAL_WINDOW = timedelta(days=7)
TYPICAL_LEASES = 100
"""How many of the last leases a median is taken over: enough for a p50, and a bounded read."""
START_WINDOW = timedelta(hours=1)
OPEN = (str(JobState.WAITING), str(JobState.QUEUED))
UNFINISHED = (*OPEN, str(JobState.IN_PROGRESS))
LIVE = lease.c.state != str(State.RELEASED)


@dataclass(frozen=True, slots=True)
class LeaseRow:
    """A lease with what a list shows beside it."""

    lease: Lease
    job: Job | None
    spans: tuple[Span, ...]
    charges: tuple[Charge, ...]


@dataclass(frozen=True, slots=True)
class LeaseSheet:
    """A lease with everything its own page shows."""

    row: LeaseRow
    audit: tuple[Entry, ...]  # newest first
    typical: Mapping[State, float]  # median seconds in each state, of leases with the same provider and pool
    log_lines: int
    asked: tuple[Asked, ...] = ()  # images that its job wanted containers from


@dataclass(frozen=True, slots=True)
class QueueRow:
    """A job and the lease that has it, if one has."""

    job: Job
    lease: Lease | None


@dataclass(frozen=True, slots=True)
class Queue:
    """One tab of the queue, and how many jobs the others hold."""

    rows: tuple[QueueRow, ...]
    counts: Mapping[str, int]  # "waiting", "started", "not_ours"
    live: Mapping[str, State]  # names of live leases, for links in sentences


@dataclass(frozen=True, slots=True)
class Overview:
    """What the first page shows."""

    live: tuple[LeaseRow, ...]
    recent: tuple[LeaseRow, ...]  # released lately, newest first
    waiting: tuple[Job, ...]  # the longest waiting first
    counts: Mapping[str, int]
    starts: tuple[float, ...]  # seconds from queued to running, of the last hour
    booked: Mapping[str, Decimal]  # by currency, since the day began (UTC)
    ever: bool  # was there ever a lease


@dataclass(frozen=True, slots=True)
class Numbers:
    """The gauges of one scrape."""

    leases: Mapping[tuple[str, str, str], int]  # phase, provider, gpu
    rates: Mapping[tuple[str, str], Decimal]  # provider, gpu -> money per hour
    waiting: Mapping[str, tuple[int, datetime]]  # pool -> how many, since when the oldest
    destroying: Mapping[str, datetime]  # provider -> since when the oldest


def leases(db: Database, which: str = "live", limit: int = 100, before: datetime | None = None) -> list[LeaseRow]:
    """The newest first; "live", "past" or "all"; `before` is the `created_at` of the last row of the page before."""
    query = sa.select(*SLIM_COLUMNS).order_by(lease.c.created_at.desc(), lease.c.id).limit(limit)
    if which != "all":
        query = query.where(LIVE if which == "live" else ~LIVE)
    if before is not None:
        query = query.where(lease.c.created_at < before)
    with db.read() as conn:
        return _rows(conn, query)


def leases_of(db: Database, lease_ids: Iterable[str]) -> dict[str, LeaseRow]:
    """These, by id."""
    query = sa.select(*SLIM_COLUMNS).where(lease.c.id.in_(sorted(set(lease_ids))))
    with db.read() as conn:
        return {row.lease.id: row for row in _rows(conn, query)}


def lease_sheet(db: Database, lease_id: str, now: datetime) -> LeaseSheet | None:
    """Everything of one lease, or None if there is none of this id."""
    with db.read() as conn:
        found = conn.execute(sa.select(*LEASE_COLUMNS).where(lease.c.id == lease_id)).first()
        if found is None:
            return None
        (row,) = _joined(conn, [lease_of(found)])
        query = sa.select(audit).where(audit.c.object == f"lease:{lease_id}").order_by(audit.c.seq.desc()).limit(200)
        entries = tuple(Entry(*values) for values in conn.execute(query))
        lines = conn.scalar(sa.select(sa.func.count()).where(node_log.c.lease_id == lease_id)) or 0
        return LeaseSheet(row, entries, _typical(conn, row.lease, now), lines, tuple(asked_on(conn, lease_id)))


def stamp(db: Database, lease_id: str) -> tuple[Any, ...] | None:
    """Changes whenever the lease's page would; cheap enough to be asked every second by every open tab."""
    query = sa.select(
        lease.c.version,
        lease.c.state,
        lease.c.note,
        lease.c.tries,
        lease.c.deadline,
        lease.c.instance_id,
        lease.c.provider,
        lease.c.facts_at,
        lease.c.runner_id,
        lease.c.job_id,
        lease.c.booked_at,
        sa.select(sa.func.max(audit.c.seq)).where(audit.c.object == f"lease:{lease_id}").scalar_subquery(),
    ).where(lease.c.id == lease_id)
    with db.read() as conn:
        found = conn.execute(query).first()
        return None if found is None else tuple(found)


def overview_stamp(db: Database) -> tuple[Any, ...]:
    """Changes whenever a lease moves or a job comes, starts or ends."""
    with db.read() as conn:
        moves = conn.execute(
            sa.select(sa.func.count(), sa.func.max(lease.c.entered_at), sa.func.sum(lease.c.version)).where(LIVE)
        ).one()
        jobs = conn.execute(
            sa.select(job.c.state, sa.func.count()).where(job.c.state.in_(UNFINISHED)).group_by(job.c.state)
        ).all()
        waits = conn.execute(sa.select(job.c.wait, job.c.pool).where(job.c.state.in_(OPEN)).limit(20)).all()
        return (*moves, *sorted(tuple(row) for row in jobs), *(tuple(row) for row in waits))


def queue(db: Database, tab: str, limit: int = 100, before: datetime | None = None) -> Queue:
    """One tab: "waiting" (the longest first), "started" or "not_ours" (the newest first)."""
    query = sa.select(*JOB_COLUMNS).where(_tab(tab)).limit(limit)
    if tab == "waiting":
        query = query.order_by(sa.func.coalesce(job.c.queued_at, job.c.seen_at), job.c.id)
    else:
        query = query.order_by(job.c.seen_at.desc(), job.c.id)
        if before is not None:
            query = query.where(job.c.seen_at < before)
    with db.read() as conn:
        jobs = [job_of(row) for row in conn.execute(query)]
        ids = {found.lease_id for found in jobs if found.lease_id}
        holders = {one.id: one for one in _leases(conn, sa.select(*SLIM_COLUMNS).where(lease.c.id.in_(ids)))} if ids else {}
        names = conn.execute(sa.select(lease.c.name, lease.c.state).where(LIVE))
        live = {str(name): State(state) for name, state in names}
        return Queue(tuple(QueueRow(found, holders.get(found.lease_id)) for found in jobs), _counts(conn), live)


def overview(db: Database, now: datetime) -> Overview:
    """The first page. Lists are short here; their own pages hold the rest."""
    day = now.replace(hour=0, minute=0, second=0, microsecond=0)
    with db.read() as conn:
        newest = sa.select(*SLIM_COLUMNS).order_by(lease.c.created_at.desc(), lease.c.id)
        live = _rows(conn, newest.where(LIVE).limit(200))
        past = sa.select(*SLIM_COLUMNS).where(~LIVE).order_by(lease.c.entered_at.desc(), lease.c.id).limit(8)
        waiting = sa.select(*JOB_COLUMNS).where(_tab("waiting")).order_by(sa.func.coalesce(job.c.queued_at, job.c.seen_at))
        starts = conn.execute(
            sa.select(job.c.queued_at, job.c.started_at).where(
                job.c.started_at >= now - START_WINDOW, job.c.queued_at.is_not(None), job.c.lease_id != ""
            )
        )
        booked: dict[str, Decimal] = {}
        for currency, amount in conn.execute(sa.select(charge.c.currency, charge.c.amount).where(charge.c.booked_at >= day)):
            booked[currency] = booked.get(currency, Decimal(0)) + amount
        return Overview(
            live=tuple(live),
            recent=tuple(_rows(conn, past)),
            waiting=tuple(job_of(row) for row in conn.execute(waiting.limit(50))),
            counts=_counts(conn),
            starts=tuple(sorted(max((started - queued).total_seconds(), 0.0) for queued, started in starts)),
            booked=booked,
            ever=bool(live) or conn.execute(sa.select(lease.c.id).limit(1)).first() is not None,
        )


def numbers(db: Database) -> Numbers:
    """What the gauges say, from live rows only: the cost does not grow with history."""
    phases: dict[tuple[str, str, str], int] = {}
    rates: dict[tuple[str, str], Decimal] = {}
    destroying: dict[str, datetime] = {}
    with db.read() as conn:
        columns = (lease.c.state, lease.c.provider, lease.c.need, lease.c.price_per_hour, lease.c.asked_at, lease.c.entered_at)
        for state, provider, need, price, asked, entered in conn.execute(sa.select(*columns).where(LIVE)):
            gpu = str(need.get("gpu") or "none")
            phases[state, provider, gpu] = phases.get((state, provider, gpu), 0) + 1
            if price is not None and asked is not None:
                rates[provider, gpu] = rates.get((provider, gpu), Decimal(0)) + price
            if state == str(State.DESTROYING):
                destroying[provider] = min(destroying.get(provider, entered), entered)
        since = sa.func.min(sa.func.coalesce(job.c.queued_at, job.c.seen_at), type_=job.c.seen_at.type)
        queued = sa.select(job.c.pool, sa.func.count(), since).where(
            job.c.state == str(JobState.QUEUED), job.c.pool.is_not(None)
        )
        waiting = {str(pool): (int(count), oldest) for pool, count, oldest in conn.execute(queued.group_by(job.c.pool))}
    return Numbers(phases, rates, waiting, destroying)


def _tab(tab: str) -> sa.ColumnElement[bool]:
    if tab == "not_ours":
        return job.c.not_ours != ""
    if tab == "waiting":
        return sa.and_(job.c.not_ours == "", job.c.state.in_(OPEN))
    return sa.and_(job.c.not_ours == "", job.c.state.not_in(OPEN))


def _counts(conn: sa.Connection) -> dict[str, int]:
    """How many open jobs each tab has; those that ended are not counted, so that the cost does not grow with history."""
    found: dict[str, int] = {}
    for tab in ("waiting", "started", "not_ours"):
        where = sa.and_(_tab(tab), job.c.state.in_(UNFINISHED))
        found[tab] = conn.scalar(sa.select(sa.func.count()).select_from(job).where(where)) or 0
    return found


def _leases(conn: sa.Connection, query: sa.Select[Any]) -> list[Lease]:
    """Leases of a query over SLIM_COLUMNS; their decision stays None."""
    return [lease_of(row) for row in conn.execute(query)]


def _rows(conn: sa.Connection, query: sa.Select[Any]) -> list[LeaseRow]:
    return _joined(conn, _leases(conn, query))


def _joined(conn: sa.Connection, found: Sequence[Lease]) -> list[LeaseRow]:
    """Three reads for any number of leases, not three for each."""
    if not found:
        return []
    ids = [one.id for one in found]
    wanted = {one.job_id for one in found if one.job_id}
    jobs: dict[str, Job] = {}
    for row in conn.execute(sa.select(*JOB_COLUMNS).where(job.c.id.in_(wanted))):
        jobs[row.id] = job_of(row)
    spans: dict[str, list[Span]] = {}
    for row in conn.execute(sa.select(*SPAN_COLUMNS, span.c.lease_id).where(span.c.lease_id.in_(ids))):
        *columns, lease_id = row
        spans.setdefault(lease_id, []).append(span_of(columns))
    for stays in spans.values():
        stays.sort(key=lambda stay: ORDER[stay.state])  # several may have begun in the same moment
    charges: dict[str, list[Charge]] = {}
    for row in conn.execute(sa.select(*CHARGE_COLUMNS).where(charge.c.lease_id.in_(ids)).order_by(charge.c.id)):
        charges.setdefault(row.lease_id, []).append(charge_of(row))
    return [LeaseRow(one, jobs.get(one.job_id), tuple(spans.get(one.id, ())), tuple(charges.get(one.id, ()))) for one in found]


def _typical(conn: sa.Connection, like: Lease, now: datetime) -> dict[State, float]:
    alike = (
        sa.select(lease.c.id)
        .where(
            lease.c.pool == like.key.pool,
            lease.c.provider == like.provider,
            lease.c.id != like.id,
            lease.c.created_at >= now - TYPICAL_WINDOW,
            lease.c.job_started_at.is_not(None),
        )
        .order_by(lease.c.created_at.desc())
        .limit(TYPICAL_LEASES)
    )
    stays = sa.select(span.c.state, span.c.entered_at, span.c.left_at).where(
        span.c.lease_id.in_(alike), span.c.left_at.is_not(None)
    )
    lengths: dict[State, list[float]] = {}
    for state, entered, left in conn.execute(stays):
        lengths.setdefault(State(state), []).append((left - entered).total_seconds())
    return {state: median(seconds) for state, seconds in lengths.items() if len(seconds) >= 3}
