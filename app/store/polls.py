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


_NOT_YET = sa.select(duty.c.name).where(
    duty.c.name == sa.bindparam("name"),
    duty.c.due > sa.bindparam("now", type_=duty.c.due.type),
    duty.c.done_at >= sa.bindparam("started", type_=duty.c.due.type),
)


def take(db: Database, name: str, now: datetime, period: timedelta, started: datetime) -> Round | None:
    """The last round, for exactly one caller in each period, and once for a process after its start; else None.

    What came while a process started may have been lost, so its first round does not wait."""
    row = {"name": name, "due": now + period, "done_at": now}
    here = duty.c.name == name
    with db.read() as conn:  # mostly it is nobody's turn
        if conn.execute(_NOT_YET, {"name": name, "now": now, "started": started}).first() is not None:
            return None
    with db.write() as conn:
        known = conn.execute(sa.select(duty.c.due, duty.c.done_at, duty.c.note).where(here)).first()
        free = sa.or_(duty.c.due <= now, duty.c.done_at.is_(None), duty.c.done_at < started)
        if conn.execute(sa.update(duty).where(here, free).values(**row)).rowcount == 1 and known is not None:
            return _round(name, known.due, known.done_at, known.note)
        fresh = db.insert(duty).values(**row).on_conflict_do_nothing().returning(duty.c.name)
        return Round(name, None, now) if conn.execute(fresh).first() is not None else None


def finish(db: Database, last: Round, said: str, since: datetime | None, again: datetime | None = None) -> None:
    """What came of a round; `again` is when the next is due, if not after the usual time."""
    note = json.dumps({"said": clean(said, 500), "since": None if since is None else since.isoformat()})
    told = sa.update(duty).where(duty.c.name == last.name).values(note=note)
    with db.write() as conn:
        conn.execute(told if again is None else told.values(due=again))


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


def places(db: Database, forge: str, since: datetime, named: Sequence[str], now: datetime) -> list[tuple[str, str]]:
    """Repository and installation of every one with an open job of ours, or one seen since then, and of those that are named.

    Those listed longest ago come first; those that the forge refuses are left out for a while."""
    ours = sa.and_(job.c.pool.is_not(None), sa.or_(job.c.seen_at >= since, job.c.state.in_(OPEN)))
    active = sa.select(job.c.repository, sa.func.max(job.c.installation)).where(job.c.forge == forge, ours)
    with db.read() as conn:
        known = {row.repository: row for row in conn.execute(sa.select(polled).where(polled.c.forge == forge))}
        found = {str(repository): str(inside) for repository, inside in conn.execute(active.group_by(job.c.repository))}
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


def unmentioned(db: Database, forge: str, repository: str, mentioned: Sequence[str], before: datetime) -> list[Job]:
    """Our open jobs of a repository that a whole listing lacks, and that were last heard of before it began."""
    query = _open_ours(forge).where(job.c.repository == repository, job.c.heard_at < before)
    with db.read() as conn:
        known = set(mentioned)
        return [one for one in (job_of(row) for row in conn.execute(query.order_by(job.c.id))) if one.id not in known]


def silent(db: Database, forge: str, before: datetime, now: datetime, limit: int) -> list[Job]:
    """Our open jobs of this forge that nobody heard of since `before`, the most silent first; not those put off."""
    due = sa.or_(job.c.ask_after.is_(None), job.c.ask_after <= now)
    quiet = sa.func.coalesce(job.c.heard_at, job.c.seen_at)
    with db.read() as conn:
        found = conn.execute(_open_ours(forge).where(quiet < before, due).order_by(quiet, job.c.id).limit(limit))
        return [job_of(row) for row in found]


def _open_ours(forge: str) -> sa.Select[tuple[object, ...]]:
    """Those in a pool, and those that may yet come into one: nobody has told their labels."""
    ours = sa.or_(job.c.pool.is_not(None), sa.and_(job.c.labels.is_(None), job.c.not_ours == ""))
    return sa.select(*JOB_COLUMNS).where(job.c.state.in_(OPEN), ours, job.c.forge == forge)


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
