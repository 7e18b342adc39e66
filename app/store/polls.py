"""What is looked for where webhooks were lost: whose turn it is, which repositories, which deliveries, which silent jobs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from app.core.model import Job
from app.store.db import Database
from app.store.jobs import OPEN
from app.store.rows import JOB_COLUMNS, clean, job_of
from app.store.tables import delivery, duty, job, missed, polled

TRIES = 4  # at one delivery: after 2 minutes, 10, 50 and 250; whatever still fails then is left to the poll
FIRST_TRY = timedelta(minutes=2)
KEPT_MISSES = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Round:
    """One kind of search at one forge, as it was last made."""

    name: str  # "poll github", "redeliver gitlab"
    at: datetime | None
    due: datetime
    since: datetime | None = None  # redelivery: what was sent before this needs no more looking at
    said: str = ""  # what came of it, for people


# --- whose turn it is


_NOW, _STARTED = (sa.bindparam(name, type_=duty.c.due.type) for name in ("now", "started"))
_HERE = duty.c.name == sa.bindparam("the_name")
_NOT_YET = sa.select(duty.c.name).where(_HERE, duty.c.due > _NOW, duty.c.done_at >= _STARTED)
_BEFORE = sa.select(duty.c.due, duty.c.done_at, duty.c.note).where(_HERE)
_TURN = (
    sa.update(duty)
    .where(_HERE, sa.or_(duty.c.due <= _NOW, duty.c.done_at.is_(None), duty.c.done_at < _STARTED))
    .values(due=sa.bindparam("until", type_=duty.c.due.type), done_at=_NOW)
)
_SAID = sa.update(duty).where(_HERE).values(note=sa.bindparam("said"))
_SAID_AND_DUE = _SAID.values(due=sa.bindparam("again", type_=duty.c.due.type))


def take(db: Database, name: str, now: datetime, period: timedelta, started: datetime) -> Round | None:
    """The last round, for exactly one caller in each period, and once for a process after its start; else None.

    What came while a process started may have been lost, so its first round does not wait."""
    asked = {"the_name": name, "now": now, "started": started}
    with db.read() as conn:  # mostly it is nobody's turn
        if conn.execute(_NOT_YET, asked).first() is not None:
            return None
    with db.write() as conn:
        known = conn.execute(_BEFORE, {"the_name": name}).first()
        if conn.execute(_TURN, {**asked, "until": now + period}).rowcount == 1 and known is not None:
            return _round(name, known.due, known.done_at, known.note)
        row = {"name": name, "due": now + period, "done_at": now}
        fresh = db.insert(duty).values(**row).on_conflict_do_nothing().returning(duty.c.name)
        return Round(name, None, now) if conn.execute(fresh).first() is not None else None


def finish(db: Database, last: Round, said: str, since: datetime | None, again: datetime | None = None) -> None:
    """What came of a round; `again` is when the next is due, if not after the usual time."""
    note = json.dumps({"said": clean(said, 500), "since": None if since is None else since.isoformat()})
    told = {"the_name": last.name, "said": note}
    with db.write() as conn:
        if again is None:
            conn.execute(_SAID, told)
        else:
            conn.execute(_SAID_AND_DUE, {**told, "again": again})


def rounds(db: Database) -> list[Round]:
    """Every kind of search at every forge, by name."""
    here = sa.or_(duty.c.name.startswith("poll "), duty.c.name.startswith("redeliver "))
    query = sa.select(duty.c.name, duty.c.due, duty.c.done_at, duty.c.note).where(here).order_by(duty.c.name)
    with db.read() as conn:
        return [_round(*row) for row in conn.execute(query)]


def _round(name: str, due: datetime, at: datetime | None, note: str) -> Round:
    told: dict[str, str | None] = json.loads(note or "{}")
    since = told.get("since")
    return Round(name, at, due, None if since is None else datetime.fromisoformat(since), told.get("said") or "")


# --- repositories


_FORGE = sa.bindparam("the_forge", type_=job.c.forge.type)
_POLLED = sa.select(polled).where(polled.c.forge == _FORGE)
_ACTIVE = (
    sa.select(job.c.repository, sa.func.max(job.c.installation))
    .where(job.c.forge == _FORGE, job.c.pool.is_not(None))
    .where(sa.or_(job.c.seen_at >= sa.bindparam("since", type_=job.c.seen_at.type), job.c.state.in_(OPEN)))
    .group_by(job.c.repository)
)


def places(db: Database, forge: str, since: datetime, named: Sequence[str], now: datetime) -> list[tuple[str, str]]:
    """Repository and installation of every one with an open job of ours, or one seen since then, and of those that are named.

    Those listed longest ago come first; those that the forge refuses are left out for a while."""
    with db.read() as conn:
        known = {row.repository: row for row in conn.execute(_POLLED, {"the_forge": forge})}
        active = conn.execute(_ACTIVE, {"the_forge": forge, "since": since})
        found = {str(repository): str(inside) for repository, inside in active}
    seen = {repository.casefold() for repository in found}
    found |= {repository: "" for repository in named if repository.casefold() not in seen}

    def listed(repository: str) -> tuple[str, str]:
        row = known.get(repository)
        return ("" if row is None or row.listed_at is None else row.listed_at.isoformat(), repository)

    def refused(repository: str) -> bool:
        row = known.get(repository)
        return row is not None and row.ask_after is not None and row.ask_after > now

    return [(repository, found[repository]) for repository in sorted(found, key=listed) if not refused(repository)]


def listed(
    db: Database, forge: str, repository: str, now: datetime, *, ask_after: datetime | None = None, note: str = ""
) -> None:
    """The repository's open jobs were listed; or, with `ask_after`, the forge refused."""
    key = {"forge": forge, "repository": clean(repository, 500)}
    values: dict[str, object] = {"listed_at": now, "ask_after": ask_after, "note": clean(note, 500)}
    statement = db.insert(polled).values(**key, **values)
    with db.write() as conn:
        conn.execute(statement.on_conflict_do_update(index_elements=list(key), set_=values))


# --- jobs that nobody speaks of


_OPEN_OURS = (  # those in a pool, and those that may yet come into one: nobody has told their labels
    sa.select(*JOB_COLUMNS)
    .where(job.c.state.in_(OPEN), job.c.forge == _FORGE)
    .where(sa.or_(job.c.pool.is_not(None), sa.and_(job.c.labels.is_(None), job.c.not_ours == "")))
)
_HEARD_BEFORE = sa.bindparam("before", type_=job.c.heard_at.type)
_UNMENTIONED = _OPEN_OURS.order_by(job.c.id).where(
    job.c.repository == sa.bindparam("the_repository"), job.c.heard_at < _HEARD_BEFORE
)
_HEARD = sa.func.coalesce(job.c.heard_at, job.c.seen_at, type_=job.c.heard_at.type)
_SILENT = (
    _OPEN_OURS.where(_HEARD < _HEARD_BEFORE, sa.or_(job.c.ask_after.is_(None), job.c.ask_after <= _NOW))
    .order_by(_HEARD, job.c.id)
    .limit(sa.bindparam("most", type_=sa.Integer))
)


def unmentioned(db: Database, forge: str, repository: str, mentioned: Sequence[str], before: datetime) -> list[Job]:
    """Our open jobs of a repository that a whole listing lacks, and that were last heard of before it began."""
    asked = {"the_forge": forge, "the_repository": repository, "before": before}
    with db.read() as conn:
        known = set(mentioned)
        return [one for one in (job_of(row) for row in conn.execute(_UNMENTIONED, asked)) if one.id not in known]


def silent(db: Database, forge: str, before: datetime, now: datetime, limit: int) -> list[Job]:
    """Our open jobs of this forge that nobody heard of since `before`, the most silent first; not those put off."""
    asked = {"the_forge": forge, "before": before, "now": now, "most": limit}
    with db.read() as conn:
        return [job_of(row) for row in conn.execute(_SILENT, asked)]


def doubts(db: Database, job_ids: Sequence[str]) -> Mapping[str, int]:
    """How often in a row each of these jobs was asked for without a useful answer."""
    with db.read() as conn:
        return {str(key): int(asks) for key, asks in conn.execute(sa.select(job.c.id, job.c.asks).where(job.c.id.in_(job_ids)))}


# --- deliveries


def owed(db: Database, forge: str, guids: Sequence[str], now: datetime) -> tuple[list[str], list[str]]:
    """Of these deliveries, those that never arrived and are still to be asked for: due now, and later."""
    with db.read() as conn:
        here = (delivery.c.forge == forge, delivery.c.guid.in_(guids))
        arrived = set(conn.scalars(sa.select(delivery.c.guid).where(*here)))
        tried = {
            row.guid: row for row in conn.execute(sa.select(missed).where(missed.c.forge == forge, missed.c.guid.in_(guids)))
        }
    open_ones = [guid for guid in guids if guid not in arrived and (guid not in tried or tried[guid].asks < TRIES)]
    due = [guid for guid in open_ones if guid not in tried or tried[guid].ask_after <= now]
    return due, [guid for guid in open_ones if guid not in set(due)]


def asked(db: Database, forge: str, guid: str, now: datetime) -> None:
    """The forge was asked to send a delivery again: not too soon once more, and not for ever."""
    key = {"forge": forge, "guid": guid}
    with db.write() as conn:
        before = conn.scalar(sa.select(missed.c.asks).where(missed.c.forge == forge, missed.c.guid == guid)) or 0
        values = {"asks": before + 1, "ask_after": now + FIRST_TRY * 5**before}
        statement = db.insert(missed).values(**key, **values)
        conn.execute(statement.on_conflict_do_update(index_elements=list(key), set_=values))


def tidy(conn: sa.Connection, now: datetime) -> int:
    """Forget deliveries that no forge would send again, and repositories that nobody lists any more. Inside a transaction."""
    old = (
        sa.delete(missed).where(missed.c.ask_after < now - KEPT_MISSES),
        sa.delete(polled).where(polled.c.listed_at < now - timedelta(days=30)),
    )
    return sum(conn.execute(statement).rowcount for statement in old)
