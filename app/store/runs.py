"""Which jobs may spend: each is placed, and cleared by what the forge says of its run, asked once for all jobs of the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from app.core.model import Job, JobState, Reason, Run, Scope
from app.store.db import Database
from app.store.jobs import OPEN
from app.store.leases import mark_asked
from app.store.rows import JOB_COLUMNS, clean, job_of
from app.store.tables import UNSETTLED, duty, job, run

FIRST_PAUSE = timedelta(seconds=5)
LONGEST_PAUSE = timedelta(minutes=5)
CLAIMED = timedelta(minutes=1)  # longer than any one call: for so long no other engine asks the same

Placing = Callable[[Job], tuple[str | None, Scope | None, str]]
"""A job's pool and scope; or neither, and a sentence."""
Judge = Callable[[Run], str]
"""Why a run may not spend here; empty: it may."""

_RUN_NAMES = tuple(part.name for part in fields(Run))
_RUN_COLUMNS = tuple(run.c[name] for name in _RUN_NAMES)
_SAME_RUN = sa.and_(
    run.c.forge == job.c.forge, run.c.repository == job.c.repository, run.c.id == job.c.run_id, run.c.attempt == job.c.attempt
)
_PLACED = (UNSETTLED, job.c.pool.is_not(None))
_UNPLACED = (UNSETTLED, job.c.pool.is_(None), job.c.labels.is_not(None))
_AT_WORK = sa.or_(job.c.state == JobState.QUEUED, sa.and_(job.c.state == JobState.IN_PROGRESS, job.c.lease_id != ""))
"""What is worth a question: a job that wants a machine, or one that has taken one of ours."""
_ANY = sa.select(job.c.id).where(UNSETTLED).limit(1)
"""Mostly there is none, and this is asked every second: one look at a small index, from a statement made once."""
_SETTLES = (
    sa.select(job.c.id)
    .where(*_UNPLACED)
    .union_all(sa.select(job.c.id).select_from(job).join(run, _SAME_RUN).where(*_PLACED, run.c.told_at.is_not(None)))
    .limit(1)
)


# Asked at every beat: building such a statement costs more than running it.
_NOW = sa.bindparam("now", type_=job.c.ask_after.type)
_MOST = sa.bindparam("most", type_=sa.Integer)
_FORGE: sa.BindParameter[str] = sa.bindparam("forge", type_=sa.Text)
_FRESH = (
    sa.select(*JOB_COLUMNS).where(*_UNPLACED).order_by(job.c.seen_at, job.c.id).limit(_MOST).with_for_update(skip_locked=True)
)
_TOLD = (
    sa.select(run.c.refusal, *_RUN_COLUMNS, *JOB_COLUMNS)
    .select_from(job)
    .join(run, _SAME_RUN)
    .where(*_PLACED, run.c.told_at.is_not(None))
    .order_by(job.c.id)
    .with_for_update(of=job, skip_locked=True)
)
_UNLABELLED = (
    sa.select(*JOB_COLUMNS)
    .where(UNSETTLED, job.c.forge == _FORGE, job.c.labels.is_(None), job.c.pool.is_(None))
    .where(sa.or_(job.c.ask_after.is_(None), job.c.ask_after <= _NOW))
    .where(job.c.state.in_((JobState.QUEUED, JobState.IN_PROGRESS)))
    .order_by(sa.func.coalesce(job.c.ask_after, job.c.seen_at), job.c.id)
    .limit(_MOST)
)
_UNKNOWN = (
    sa.select(sa.func.min(job.c.id))
    .select_from(job)
    .outerjoin(run, _SAME_RUN)
    .where(*_PLACED, job.c.forge == _FORGE, _AT_WORK, run.c.told_at.is_(None))
    .where(sa.or_(run.c.ask_after.is_(None), run.c.ask_after <= _NOW))
    .group_by(job.c.repository, job.c.run_id, job.c.attempt)
    .order_by(sa.func.min(sa.func.coalesce(run.c.ask_after, job.c.seen_at)), sa.func.min(job.c.id))
    .limit(_MOST)
)
_THESE = sa.select(*JOB_COLUMNS).where(job.c.id.in_(sa.bindparam("ids", expanding=True)))
_REST = sa.select(duty.c.due, duty.c.note).where(duty.c.name == sa.bindparam("name"))


@dataclass(frozen=True, slots=True)
class Questions:
    """What is to be asked of one forge now."""

    labels: tuple[Job, ...] = ()  # jobs whose labels nobody knows
    runs: tuple[Job, ...] = ()  # one job for each run that nobody knows
    quiet: str = ""  # the forge is left alone for a while: why


# --- place and clear


def enlist(db: Database, placing: Placing, judge: Judge, now: datetime, limit: int) -> int:
    """Place new jobs whose labels are known, and settle those whose run is known, in one transaction. How many were.

    What is placed and not settled is a question for its forge."""
    with db.read() as conn:
        if conn.execute(_ANY).first() is None or conn.execute(_SETTLES).first() is None:
            return 0
    with db.write() as conn:
        found = [job_of(row) for row in conn.execute(_FRESH, {"most": limit})]
        changes = [_placement(one, placing, now) for one in found]
        if changes:
            conn.execute(_CHANGE, sorted(changes, key=_by_id))
        return len(found) + _settle(conn, judge, now)


def _placement(one: Job, placing: Placing, now: datetime) -> dict[str, Any]:
    pool, scope, no = placing(one)
    if not no and not one.run_id:
        pool, scope, no = None, None, "The forge does not say to which run this job belongs: nobody can say whose code it is."
    return {
        "the_id": one.id,
        "pool": pool,
        "scope": None if scope is None else str(scope),
        "not_ours": clean(no, 1_000),
        "cleared_at": None,
        "wait": one.wait,
    }


_CHANGE = (
    sa.update(job)
    .where(job.c.id == sa.bindparam("the_id"))
    .values({name: sa.bindparam(name) for name in ("pool", "scope", "not_ours", "cleared_at", "wait")})
)


def _by_id(change: Mapping[str, Any]) -> str:
    return change["the_id"]


def _settle(conn: sa.Connection, judge: Judge, now: datetime) -> int:
    """Every placed job whose run is known: cleared, or not ours with a sentence. How many there were."""
    changes: list[dict[str, Any]] = []
    for refusal, *row in conn.execute(_TOLD):
        one, about = job_of(row[len(_RUN_COLUMNS) :]), Run(*row[: len(_RUN_COLUMNS)])
        no = refusal or judge(about)
        if not no:
            kept = {"pool": one.pool, "scope": None if one.scope is None else str(one.scope), "not_ours": "", "wait": ""}
            changes.append({"the_id": one.id, "cleared_at": now, **kept})
            continue
        changes.append(
            {"the_id": one.id, "pool": None, "scope": None, "not_ours": clean(no, 1_000), "cleared_at": None, "wait": ""}
        )
        if one.lease_id and not refusal:  # it got past the check at its start, by what its own environment claimed
            mark_asked(conn, one.lease_id, "destroy", Reason.JOB_REFUSED, no, "policy", now)
    if changes:
        conn.execute(_CHANGE, changes)
    return len(changes)


def reconsider(db: Database, still: Callable[[Job], bool], judge: Judge) -> int:
    """Look again at every open job that was not ours (the settings may have a pool for it now), and at every waiting one
    that is not `still` where it was placed, or whose run may no longer spend. Returns how many."""
    ours = sa.update(job).where(job.c.state.in_(OPEN), job.c.pool.is_(None), job.c.not_ours != "").values(not_ours="")
    placed = sa.select(run.c.refusal, *_RUN_COLUMNS, *JOB_COLUMNS).select_from(job)
    placed = placed.outerjoin(run, sa.and_(_SAME_RUN, run.c.told_at.is_not(None)))
    placed = placed.where(job.c.state.in_((JobState.WAITING, JobState.QUEUED)), job.c.pool.is_not(None)).order_by(job.c.id)
    blank = {"pool": None, "scope": None, "not_ours": "", "cleared_at": None, "wait": ""}
    with db.write() as conn:
        found = conn.execute(ours).rowcount
        moved: list[dict[str, Any]] = []
        for refusal, *row in conn.execute(placed.with_for_update(of=job)):
            one, told = job_of(row[len(_RUN_COLUMNS) :]), row[: len(_RUN_COLUMNS)]
            spends = one.cleared_at is None or refusal is None or not (refusal or judge(Run(*told)))
            if not (spends and still(one)):
                moved.append({"the_id": one.id, **blank})
        if moved:
            conn.execute(_CHANGE, moved)
    return found + len(moved)


# --- what the forge is asked, and what it answers


def questions(db: Database, forge: str, now: datetime, limit: int) -> Questions:
    """What nobody knows of this forge's jobs, those that have waited longest first; not those that were put off.

    With several engines on PostgreSQL nobody else gets the same questions for a minute."""
    with db.read() as conn:
        if conn.execute(_ANY).first() is None:
            return Questions()
    with db.read() as conn:
        asked = {"forge": forge, "now": now, "most": limit}
        rest = conn.execute(_REST, {"name": _learning(forge)}).first()
        labels = [job_of(row) for row in conn.execute(_UNLABELLED, asked)]
        ids = [str(job_id) for job_id in conn.scalars(_UNKNOWN, asked)]
        found = {one.id: one for one in [job_of(row) for row in conn.execute(_THESE, {"ids": ids})]} if ids else {}
    runs = [found[job_id] for job_id in ids if job_id in found]
    if rest is not None and rest.due > now:
        return Questions(quiet=rest.note) if labels or runs else Questions()
    if db.postgresql and (labels or runs):  # one process alone uses an SQLite file: nobody else can be asking
        labels, runs = _claimed(db, labels, runs, now)
    return Questions(tuple(labels), tuple(runs))


def _claimed(db: Database, labels: Sequence[Job], runs: Sequence[Job], now: datetime) -> tuple[list[Job], list[Job]]:
    until = now + CLAIMED
    free = sa.or_(job.c.ask_after.is_(None), job.c.ask_after <= now)
    picked = sa.select(job.c.id).where(job.c.id.in_([one.id for one in labels]), free).with_for_update(skip_locked=True)
    unknown = sa.and_(run.c.told_at.is_(None), sa.or_(run.c.ask_after.is_(None), run.c.ask_after <= now))
    mine: list[Job] = []
    with db.write() as conn:
        won = set(conn.scalars(sa.update(job).where(job.c.id.in_(picked)).values(ask_after=until).returning(job.c.id)))
        for one in sorted(runs, key=_key):
            row = {"forge": one.forge, "repository": one.repository, "id": one.run_id, "attempt": one.attempt}
            fresh = db.insert(run).values(**row, ask_after=until)
            taken = fresh.on_conflict_do_update(index_elements=list(row), set_={"ask_after": until}, where=unknown)
            if conn.execute(taken.returning(run.c.id)).first() is not None:
                mine.append(one)
    return [one for one in labels if one.id in won], mine


def _key(one: Job) -> tuple[str, str, str, int]:
    return (one.forge, one.repository, one.run_id, one.attempt)


def _learning(forge: str) -> str:
    return clean(f"learn {forge}", 200)


def tell(db: Database, answers: Sequence[tuple[Job, Run | None]], judge: Judge, now: datetime) -> int:
    """The forge's answers about the runs of these jobs, and what follows for every job of those runs. How many were settled.

    None: the forge no longer has the run."""
    with db.write() as conn:
        for one, told in sorted(answers, key=lambda answer: _key(answer[0])):
            key = {"forge": one.forge, "repository": one.repository, "id": one.run_id, "attempt": one.attempt}
            values: dict[str, Any] = {"told_at": now, "ask_after": None, "asks": 0, "refusal": _refusal(one, told)}
            if told is not None:
                values |= {name: clean(getattr(told, name), 500) for name in ("event", "head_repository", "actor")}
                values["fork"] = told.fork
            conn.execute(db.insert(run).values(**key, **values).on_conflict_do_update(index_elements=list(key), set_=values))
        return _settle(conn, judge, now)


def _refusal(one: Job, told: Run | None) -> str:
    if told is None:
        return f"{one.forge} no longer has the run of this job."
    if told.repository.casefold() != one.repository.casefold():  # whoever knows a hook's token can write any repository there
        return clean(f"The job says that it belongs to {one.repository}; {one.forge} says {told.repository}.", 1_000)
    return ""


def known(db: Database, forge: str, repository: str, run_id: str, attempt: int) -> Run | None:
    """The run as the forge told it; None where it has not, or no longer has it."""
    same = (run.c.forge == forge, run.c.repository == repository, run.c.id == run_id, run.c.attempt == attempt)
    with db.read() as conn:
        row = conn.execute(sa.select(*_RUN_COLUMNS).where(*same, run.c.told_at.is_not(None), run.c.refusal == "")).first()
    return None if row is None else Run(*row)


# --- no answer


def put_off_run(db: Database, one: Job, wait: str, now: datetime) -> None:
    """Nobody could say: the run is asked for again after a pause that grows, and its jobs wait with this sentence."""
    key = {"forge": one.forge, "repository": one.repository, "id": one.run_id, "attempt": one.attempt}
    same = (run.c.repository == one.repository, run.c.id == one.run_id, run.c.attempt == one.attempt)
    with db.write() as conn:
        asks = conn.scalar(sa.select(run.c.asks).where(run.c.forge == one.forge, *same)) or 0
        values = {"asks": asks + 1, "ask_after": now + _pause(asks)}
        conn.execute(db.insert(run).values(**key, **values).on_conflict_do_update(index_elements=list(key), set_=values))
        mine = (job.c.forge == one.forge, job.c.repository == one.repository, job.c.run_id == one.run_id)
        _explain(conn, wait, *_PLACED, *mine, job.c.attempt == one.attempt)


def put_off_job(db: Database, one: Job, wait: str, now: datetime, *, unclear: bool = False) -> None:
    """The same for what is asked of one job. `unclear`: nothing is rented for it until its run was asked about anew."""
    with db.write() as conn:
        asks = conn.scalar(sa.select(job.c.asks).where(job.c.id == one.id)) or 0
        told = {"asks": asks + 1, "ask_after": now + _pause(asks), "wait": clean(wait, 1_000)}
        if unclear:
            told |= {"cleared_at": None}
            same = (run.c.forge == one.forge, run.c.repository == one.repository, run.c.id == one.run_id)
            conn.execute(sa.delete(run).where(*same))
        conn.execute(sa.update(job).where(job.c.id == one.id).values(**told))


def put_off_forge(db: Database, forge: str, wait: str, until: datetime) -> None:
    """The forge does not answer, or asked to be left alone: nothing is asked of it before `until`; all its jobs say so."""
    row = {"name": _learning(forge), "due": until, "note": clean(wait, 1_000)}
    with db.write() as conn:
        conn.execute(db.insert(duty).values(**row).on_conflict_do_update(index_elements=["name"], set_=row))
    explain_all(db, forge, wait)


def explain_all(db: Database, forge: str, wait: str) -> None:
    """A sentence for every job that waits for this forge's answer. Written only where it is new."""
    waits = sa.or_(job.c.pool.is_not(None), job.c.labels.is_(None))
    with db.write() as conn:
        _explain(conn, wait, UNSETTLED, job.c.forge == forge, _AT_WORK, waits)


def _explain(conn: sa.Connection, wait: str, *where: sa.ColumnElement[bool] | sa.TextClause) -> None:
    told = clean(wait, 1_000)
    conn.execute(sa.update(job).where(*where, job.c.wait != told).values(wait=told))


def _pause(asks: int) -> timedelta:
    return min(FIRST_PAUSE * 2 ** min(asks, 10), LONGEST_PAUSE)
