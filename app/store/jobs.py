"""Jobs as the forges tell them: every delivery counted once, every job only moved forward, and bound to its lease."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from operator import itemgetter
from typing import Any, Literal

import sqlalchemy as sa

from app.core.model import JOB_ORDER, Job, JobState, Scope
from app.core.states import State
from app.store.db import Database
from app.store.rows import JOB_COLUMNS, QUEUED_COLUMNS, clean, job_of, job_values, queued_of, whole
from app.store.tables import PINNED, delivery, job, lease

OPEN = (JobState.WAITING, JobState.QUEUED, JobState.IN_PROGRESS)
STARTED = (JobState.IN_PROGRESS, JobState.COMPLETED)
# Longest texts, in characters. An index of PostgreSQL takes no more than 2,704 bytes of one value.
LIMITS: Mapping[str, int] = {
    "repository": 500,
    "repository_id": 100,
    "run_id": 100,
    "name": 500,
    "workflow": 500,
    "url": 600,
    "branch": 500,
    "sha": 100,
    "actor": 200,
    "conclusion": 60,
    "runner_id": 100,
    "runner_name": 200,
    "installation": 100,
}
MOST_LABELS = 100
GONE = "gone"
"""The conclusion of a job that its forge no longer has: nobody will ever tell another."""
HEARD_AGAIN = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class Record:
    """One delivery, or one answer of a poll (no guid: nothing to count, the job moves forward all the same)."""

    forge: str
    guid: str
    event: str
    action: str
    job: Job | None = None  # None: an event that we do not act on


class Recorded(StrEnum):
    """What became of one record."""

    RECORDED = "recorded"
    DUPLICATE = "duplicate"  # this delivery was recorded before
    STALE = "stale"  # the job is further on already; what the delivery adds is kept, and nothing goes back
    IGNORED = "ignored"  # nothing to act on


def record(db: Database, records: Sequence[Record], now: datetime) -> list[Recorded]:
    """All of them in one transaction, durable when this returns; one answer for each, in the same order."""
    fresh, before = _write(db, records, now)
    answers: list[Recorded] = []
    for item, new in zip(records, fresh, strict=True):
        if not new:
            answers.append(Recorded.DUPLICATE)
        elif item.job is None or item.job.id not in before:
            answers.append(Recorded.IGNORED)  # nothing to act on, or an id that fits no row
        else:
            place, known = JOB_ORDER[item.job.state], before[item.job.id]
            before[item.job.id] = max(place, known)
            answers.append(Recorded.STALE if place < known else Recorded.RECORDED)
    return answers


def advance(db: Database, records: Sequence[Record], now: datetime) -> int:
    """The same for what a search found: how many of the jobs are new, or further on than was known."""
    _, before = _write(db, records, now)
    return sum(JOB_ORDER[item.job.state] > before.get(item.job.id, len(JOB_ORDER)) for item in records if item.job is not None)


def _write(db: Database, records: Sequence[Record], now: datetime) -> tuple[list[bool], dict[str, int]]:
    """For each record whether it is new, and how far each job was before."""
    if not records:
        return [], {}
    with db.write() as conn:
        fresh = _unseen(db, conn, records, now)
        changes: dict[str, list[Job]] = {}
        for item, new in zip(records, fresh, strict=True):
            if new and item.job is not None and fits(item.job):
                told = replace(admissible(item.job), heard_by="webhook" if item.guid else "poll")
                changes.setdefault(item.job.id, []).append(told)
        return fresh, _merge(db, conn, changes, now)


def fits(job: Job) -> bool:
    """Whether its id fits a row."""
    return 0 < len(job.id) <= 120 and clean(job.id, 120) == job.id


def _unseen(db: Database, conn: sa.Connection, records: Sequence[Record], now: datetime) -> list[bool]:
    """For each record, whether its delivery is seen for the first time. One without a guid always is."""
    keys = [(clean(item.forge, 60), _guid(item.guid)) for item in records]
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for (forge, guid), item in zip(keys, records, strict=True):
        if guid and (forge, guid) not in rows:
            values = {"event": clean(item.event, 100), "action": clean(item.action, 100), "received_at": now}
            rows[forge, guid] = {"forge": forge, "guid": guid, **values}
    left: set[tuple[str, str]] = set()
    if rows:  # in one order everywhere, so that two services never wait for each other in a circle
        statement = db.insert(delivery).on_conflict_do_nothing().returning(delivery.c.forge, delivery.c.guid)
        left = {(forge, guid) for forge, guid in conn.execute(statement, [rows[key] for key in sorted(rows)])}
    fresh: list[bool] = []
    for key in keys:
        fresh.append(not key[1] or key in left)
        left.discard(key)
    return fresh


def _guid(guid: str) -> str:
    """A forge's guid as it fits the column; an overlong one by its hash, so that two never count as one."""
    return guid if len(guid) <= 200 and clean(guid, 200) == guid else hashlib.sha256(repr(guid).encode()).hexdigest()


def admissible(job: Job) -> Job:
    """What a delivery of this state can know: GitHub's `queued` may carry a start time and a runner that mean nothing."""
    values: dict[str, Any] = {name: clean(getattr(job, name), limit) for name, limit in LIMITS.items()}
    if job.state not in STARTED:
        values |= {"runner_id": "", "runner_name": "", "started_at": None}
    if job.state is not JobState.COMPLETED:
        values |= {"conclusion": "", "completed_at": None}
    if job.labels is not None:
        values["labels"] = tuple(clean(label, 256) for label in job.labels[:MOST_LABELS])
    values |= {"forge": clean(job.forge, 60), "key": clean(job.key, 120), "attempt": whole(job.attempt)}
    ours = {"seen_at": None, "pool": None, "scope": None, "not_ours": "", "wait": "", "lease_id": ""}
    return replace(job, **values, **ours, cleared_at=None, heard_at=None, heard_by="", reopened_at=None)


def join(known: Job, told: Job) -> Job:
    """Both together. The same in any order and however often: the state further on, every fact that either has.

    Deliveries about one job agree where both say something; if ever they do not, the greater text wins, in any order."""
    texts = {name: max(getattr(known, name), getattr(told, name)) for name in LIMITS}
    state = max(known.state, told.state, key=JOB_ORDER.__getitem__)
    return replace(
        known,
        **texts,
        state=state,
        attempt=max(known.attempt, told.attempt),
        labels=max((labels for labels in (known.labels, told.labels) if labels is not None), default=None),
        queued_at=_earliest(known.queued_at, _queued_for_this_run(known, told.queued_at)),
        started_at=_earliest(known.started_at, told.started_at),
        completed_at=_earliest(known.completed_at, told.completed_at),
        wait="" if state in STARTED else known.wait,
    )


def _queued_for_this_run(known: Job, queued: datetime | None) -> datetime | None:
    """A forge that runs a job again under its old id goes on telling when it was made, which says nothing of this run."""
    return None if queued is None or (known.reopened_at is not None and queued < known.reopened_at) else queued


def _earliest(*times: datetime | None) -> datetime | None:
    return min((time for time in times if time is not None), default=None)


_FIND = sa.select(*JOB_COLUMNS).where(job.c.id.in_(sa.bindparam("ids", expanding=True))).order_by(job.c.id).with_for_update()
_UPDATE = sa.update(job).where(job.c.id == sa.bindparam("the_id"))
_TELL = sa.update(lease).where(lease.c.id == sa.bindparam("the_id")).values(version=lease.c.version + 1)


def _merge(db: Database, conn: sa.Connection, changes: Mapping[str, Sequence[Job]], now: datetime) -> dict[str, int]:
    """Write what the deliveries change. Returns how far each job was before, by JOB_ORDER; -1: not known."""
    before: dict[str, int] = {}
    # A microsecond apart, so that a page that ends between two of one group loses none.
    seen = {job_id: now + timedelta(microseconds=place) for place, job_id in enumerate(changes)}
    pending: list[str] = sorted(changes)  # in one order everywhere: jobs, then leases
    while pending:  # a second round only if another service inserted one of them meanwhile
        known = {one.id: one for one in (job_of(row) for row in conn.execute(_FIND, {"ids": pending}))}
        merged: dict[str, Job] = {}
        for job_id in pending:
            before[job_id] = JOB_ORDER[known[job_id].state] if job_id in known else -1
            told = changes[job_id]
            if job_id in known:
                merged[job_id] = functools.reduce(join, _of_this_run(conn, known[job_id], told), known[job_id])
            else:
                first = replace(told[0], seen_at=seen[job_id], heard_at=now)
                merged[job_id] = functools.reduce(join, told[1:], first)
        bound = _bind(conn, merged.values(), now)
        merged |= {job_id: replace(merged[job_id], lease_id=row["the_id"]) for job_id, row in bound.items()}
        written = set(known)
        new = [job_values(one) for job_id, one in merged.items() if job_id not in known]
        if new:
            statement = db.insert(job).on_conflict_do_nothing().returning(job.c.id)
            written |= {str(job_id) for job_id in conn.execute(statement, new).scalars()}
        changed = [one for job_id, one in merged.items() if job_id in known and _news(known[job_id], one, now)]
        if changed:
            heard = {"heard_at": now, "ask_after": None, "asks": 0}
            conn.execute(_UPDATE, [{"the_id": one.id, **_without_id(one), **heard} for one in changed])
        news = [row for job_id, row in bound.items() if job_id in written and row.pop("news")]
        if news:
            conn.execute(_TELL, sorted(news, key=itemgetter("the_id")))
        pending = [job_id for job_id in pending if job_id not in written]
    return before


def _of_this_run(conn: sa.Connection, known: Job, told: Sequence[Job]) -> Sequence[Job]:
    """Without the late words on an earlier run, of a job that was run again under its old id: they name a runner of ours that
    had served before."""
    if known.reopened_at is None:
        return told
    query = sa.select(lease.c.runner_name, lease.c.runner_id)
    served = conn.execute(query.where(lease.c.job_id == known.id, lease.c.job_done_at <= known.reopened_at))
    earlier = {str(text) for row in served for text in row} - {""}
    return [one for one in told if not earlier & {one.runner_name, one.runner_id}]


def _news(known: Job, merged: Job, now: datetime) -> bool:
    """Something that is worth a write: a fact, or after a while only that it was heard of again."""
    return merged != known or known.heard_at is None or known.heard_at < now - HEARD_AGAIN


def _without_id(job: Job) -> dict[str, Any]:
    values = job_values(job)
    del values["id"]
    return values


_FACTS = (
    "id",
    "forge",
    "runner_name",
    "runner_id",
    "created_at",
    "for_job",
    "job_id",
    "job_started_at",
    "job_done_at",
    "job_conclusion",
)
_BOUND = sa.select(*(lease.c[name] for name in _FACTS)).with_for_update()
_NAMED = _BOUND.where(lease.c.runner_name.in_(sa.bindparam("names", expanding=True)), lease.c.runner_name != "").order_by(
    lease.c.id
)
_NUMBERED = _BOUND.where(lease.c.runner_id.in_(sa.bindparam("keys", expanding=True)), lease.c.runner_id != "").order_by(
    lease.c.id
)
_PINNED = _BOUND.where(
    PINNED,
    lease.c.for_job.in_(sa.bindparam("ids", expanding=True)),
    sa.or_(lease.c.job_started_at.is_not(None), lease.c.state == State.BUSY),
).order_by(lease.c.created_at, lease.c.id)


def _bind(conn: sa.Connection, jobs: Iterable[Job], now: datetime) -> dict[str, dict[str, Any]]:
    """job id -> the lease that it runs on, by the runner's name, with what the job tells of it. An empty name never matches.

    A runner runs one job: the first that names it keeps it, whatever comes later. Gitea forgets the name of a one-job runner
    with its job's end, and tells its number still. A forge that tells neither pins a runner to its job: there it is the lease
    that was made for the job, once its node has said that a job began."""
    named = [one for one in jobs if one.state in STARTED]
    names, unnamed = sorted({one.runner_name for one in named} - {""}), [one for one in named if not one.runner_name]
    keys = sorted({one.runner_id for one in unnamed} - {""})
    rows = {(row.forge, row.runner_name): row for row in conn.execute(_NAMED, {"names": names})} if names else {}
    numbered = {(row.forge, row.runner_id): row for row in conn.execute(_NUMBERED, {"keys": keys})} if keys else {}
    ids = sorted(one.id for one in unnamed if not one.runner_id)
    pinned = {row.for_job: row for row in conn.execute(_PINNED, {"ids": ids})} if ids else {}
    bound: dict[str, dict[str, Any]] = {}
    taken: dict[str, str] = {}
    for one in named:
        row = rows.get((one.forge, one.runner_name)) or numbered.get((one.forge, one.runner_id)) or pinned.get(one.id)
        if row is None or taken.setdefault(row.id, row.job_id or one.id) != one.id:
            continue
        # The forge's clock is not ours: nothing happened before the lease was there, or is yet to come. Where the forge
        # says no time, now stands in; the earliest that is ever told stays, so that the order of deliveries does not matter.
        started = _earliest(row.job_started_at, _between(row.created_at, one.started_at, now)) or now
        done, conclusion = row.job_done_at, row.job_conclusion
        if one.state is JobState.COMPLETED:
            done = max(_earliest(done, _between(row.created_at, one.completed_at, now)) or now, started)
            conclusion = conclusion or one.conclusion
        facts = {"job_id": one.id, "job_started_at": started, "job_done_at": done, "job_conclusion": conclusion}
        news = any(getattr(row, name) != value for name, value in facts.items())
        bound[one.id] = {"the_id": row.id, **facts, "due": now, "news": news}
    return bound


def _between(earliest: datetime, told: datetime | None, now: datetime) -> datetime:
    return now if told is None else min(max(told.astimezone(UTC), earliest), now)


# --- what we make of them


def place(db: Database, job_id: str, *, pool: str | None, scope: Scope | None, not_ours: str) -> bool:
    """Write down whose job it is: a pool's, in a scope, or nobody's, with a sentence.

    False: there is no such job, or it is in a pool already."""
    values: dict[str, Any] = {"pool": pool, "scope": None if scope is None else str(scope), "not_ours": clean(not_ours, 1_000)}
    with db.write() as conn:
        found = conn.execute(sa.update(job).where(job.c.id == job_id, job.c.pool.is_(None)).values(**values))
        return found.rowcount == 1


_SCOPES = (
    sa.select(job.c.forge, job.c.pool, job.c.scope)
    .distinct()
    .where(job.c.seen_at >= sa.bindparam("since", type_=job.c.seen_at.type), job.c.pool.is_not(None), job.c.scope.is_not(None))
)


def scopes_since(db: Database, since: datetime) -> list[tuple[str, str, Scope]]:
    """Forge, pool and scope of every job that was first seen since then and has a pool."""
    with db.read() as conn:
        return sorted((forge, pool, Scope.parse(scope)) for forge, pool, scope in conn.execute(_SCOPES, {"since": since}))


_WAITING = (
    sa.select(*QUEUED_COLUMNS)
    .where(job.c.state == JobState.QUEUED, job.c.pool.is_not(None), job.c.cleared_at.is_not(None))
    .order_by(sa.func.coalesce(job.c.queued_at, job.c.seen_at), job.c.id)
)


def waiting(conn: sa.Connection) -> list[Job]:
    """Queued jobs that have a pool and may spend, the oldest first, with what policy needs of them."""
    return [queued_of(row) for row in conn.execute(_WAITING)]


# --- what people see


Tab = Literal["waiting", "started", "not_ours"]


def listing(db: Database, tab: Tab, limit: int = 100, before: datetime | None = None) -> list[Job]:
    """One tab of the queue, the newest first; `before` is the `seen_at` of the last job of the page before."""
    query = _select().order_by(job.c.seen_at.desc()).limit(limit)
    if tab == "not_ours":
        query = query.where(job.c.not_ours != "")
    else:
        states = (JobState.WAITING, JobState.QUEUED) if tab == "waiting" else STARTED
        query = query.where(job.c.state.in_(states), job.c.not_ours == "")
    return _all(db, query if before is None else query.where(job.c.seen_at < before))


def get(db: Database, job_id: str) -> Job | None:
    return many(db, [job_id]).get(job_id)


_THESE = sa.select(*JOB_COLUMNS).where(job.c.id.in_(sa.bindparam("ids", expanding=True)))


def many(db: Database, job_ids: Iterable[str]) -> dict[str, Job]:
    """Those that exist, by id."""
    wanted = sorted({job_id for job_id in job_ids if job_id})
    if not wanted:
        return {}
    with db.read() as conn:
        return {one.id: one for one in (job_of(row) for row in conn.execute(_THESE, {"ids": wanted}))}


def counts(db: Database) -> dict[str, int]:
    """How many open jobs: waiting, started (running now) and not_ours."""
    alien = job.c.not_ours != ""
    query = sa.select(job.c.state, alien, sa.func.count()).where(job.c.state.in_(OPEN)).group_by(job.c.state, alien)
    totals = {"waiting": 0, "started": 0, "not_ours": 0}
    with db.read() as conn:
        for state, not_ours, count in conn.execute(query):
            totals["not_ours" if not_ours else "started" if state == JobState.IN_PROGRESS else "waiting"] += count
    return totals


def _select() -> sa.Select[Any]:
    return sa.select(*JOB_COLUMNS)


def _all(db: Database, query: sa.Select[Any]) -> list[Job]:
    with db.read() as conn:
        return [job_of(row) for row in conn.execute(query)]
