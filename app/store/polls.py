"""What is looked for where webhooks were lost: whose turn it is, which repositories, which deliveries, which silent jobs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

import sqlalchemy as sa

from app.core.model import Job, JobState
from app.store.db import Database
from app.store.jobs import OPEN
from app.store.rows import JOB_COLUMNS, clean, job_of
from app.store.tables import delivery, duty, job, missed, polled

TRIES = 4  # at one delivery: after 2 minutes, 10, 50 and 250; whatever still fails then is left to the poll
FIRST_TRY = timedelta(minutes=2)
KEPT_MISSES = timedelta(days=7)
FOUND = timedelta(hours=3)  # so long a repository is listed after its owner last named it


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


class Place(NamedTuple):
    """What one listing covers: a repository, or an owner with all of its repositories."""

    path: str
    installation: str = ""


_INSTALLED = (
    sa.select(job.c.repository, sa.func.max(job.c.installation)).where(job.c.forge == _FORGE).group_by(job.c.repository)
)


def places(
    db: Database,
    forge: str,
    since: datetime,
    named: Sequence[str],
    now: datetime,
    *,
    owners: Sequence[str] = (),
    seldom: timedelta = timedelta(0),
) -> list[Place]:
    """Every repository with an open job of ours, or one seen since then, those that are named, and those that a listing of
    their owner named lately: of these last only such as were not listed for `seldom`. An owner of `owners` stands for all of
    its repositories: one listing covers them.

    Those listed longest ago come first; those that the forge refuses are left out for a while."""
    with db.read() as conn:
        known = {row.repository: row for row in conn.execute(_POLLED, {"the_forge": forge})}
        active = conn.execute(_ACTIVE, {"the_forge": forge, "since": since})
        found = {str(repository): str(inside) for repository, inside in active}
    lately = [path for path, row in known.items() if row.found_at is not None and row.found_at > now - FOUND]
    lately = [path for path in lately if (at := known[path].listed_at) is None or at <= now - seldom]
    found = _merged(found, [*named, *lately])
    covered = {owner.casefold() for owner in owners}
    found = {path: inside for path, inside in found.items() if path.rpartition("/")[0].casefold() not in covered}
    found = _merged(found, owners)

    def listed(repository: str) -> tuple[str, str]:
        row = known.get(repository)
        return ("" if row is None or row.listed_at is None else row.listed_at.isoformat(), repository)

    def refused(repository: str) -> bool:
        row = known.get(repository)
        return row is not None and row.ask_after is not None and row.ask_after > now

    return [Place(path, found[path]) for path in sorted(found, key=listed) if not refused(path)]


def _merged(found: Mapping[str, str], more: Sequence[str]) -> dict[str, str]:
    """With those of `more` that are not there yet, whatever their case: forges take no notice of it."""
    seen = {path.casefold() for path in found}
    merged = dict(found)
    for path in more:
        if path.casefold() not in seen:
            seen.add(path.casefold())
            merged[path] = ""
    return merged


def due_owners(db: Database, forge: str, owners: Sequence[str], now: datetime, every: timedelta) -> list[Place]:
    """Of these owners, those whose repositories were not listed for so long, with an installation that reaches them."""
    with db.read() as conn:
        known = {row.repository: row for row in conn.execute(_POLLED, {"the_forge": forge})}

        def rested(owner: str) -> bool:
            row = known.get(owner)
            waits = row is not None and row.ask_after is not None and row.ask_after > now
            return not waits and (row is None or row.listed_at is None or row.listed_at <= now - every)

        due = [owner for owner in owners if rested(owner)]
        told = conn.execute(_INSTALLED, {"the_forge": forge}) if due else ()
        inside = {str(path).rpartition("/")[0].casefold(): str(key) for path, key in told}
    return [Place(owner, inside.get(owner.casefold(), "")) for owner in due]


def found(db: Database, forge: str, owner: str, repositories: Sequence[str], now: datetime) -> None:
    """The owner's repositories as its forge lists them now."""
    rows = [
        {"forge": forge, "repository": path, "found_at": now} for path in sorted({clean(path, 500) for path in repositories})
    ]
    with db.write() as conn:
        for start in range(0, len(rows), 200):
            fresh = db.insert(polled).values(rows[start : start + 200])
            conn.execute(fresh.on_conflict_do_update(index_elements=["forge", "repository"], set_={"found_at": now}))
    listed(db, forge, owner, now)


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


MOST_ASKED = 200  # of one place in one round

_OPEN_OURS = (  # those in a pool, and those that may yet come into one: nobody has told their labels
    sa.select(*JOB_COLUMNS)
    .where(job.c.state.in_(OPEN), job.c.forge == _FORGE)
    .where(sa.or_(job.c.pool.is_not(None), sa.and_(job.c.labels.is_(None), job.c.not_ours == "")))
)
_HEARD_BEFORE = sa.bindparam("before", type_=job.c.heard_at.type)
_NOT_PUT_OFF = sa.or_(job.c.ask_after.is_(None), job.c.ask_after <= _NOW)
_UNHEARD = _OPEN_OURS.where(job.c.heard_at < _HEARD_BEFORE, job.c.state != JobState.WAITING, _NOT_PUT_OFF).order_by(
    job.c.heard_at, job.c.id
)
_UNMENTIONED = _UNHEARD.where(job.c.repository == sa.bindparam("the_repository"))
_HEARD = sa.func.coalesce(job.c.heard_at, job.c.seen_at, type_=job.c.heard_at.type)
_SILENT = (
    _OPEN_OURS.where(_HEARD < _HEARD_BEFORE, _NOT_PUT_OFF)
    .order_by(_HEARD, job.c.id)
    .limit(sa.bindparam("most", type_=sa.Integer))
)


def unmentioned(
    db: Database, forge: str, place: str, mentioned: Sequence[str], before: datetime, now: datetime, *, owner: bool = False
) -> list[Job]:
    """Our open jobs of a place that a whole listing lacks, and that were last heard of before it began: those that cost
    something or are about to, and were not put off; so many at the most.

    Jobs that wait for others, or for a person, are not listed everywhere, and may wait for ever: `silent` has them in turn."""
    asked, known, within = {"the_forge": forge, "before": before, "now": now}, set(mentioned), f"{place}/".casefold()
    with db.read() as conn:
        found = conn.execute(_UNHEARD, asked) if owner else conn.execute(_UNMENTIONED, {**asked, "the_repository": place})
        silent = [one for one in (job_of(row) for row in found) if one.id not in known]
    return [one for one in silent if not owner or one.repository.casefold().startswith(within)][:MOST_ASKED]


def hasten(db: Database, name: str, now: datetime) -> None:
    """The next round of this kind is due now: something came that only the forge's own answer can settle."""
    with db.write() as conn:
        conn.execute(sa.update(duty).where(duty.c.name == name, duty.c.due > now).values(due=now))


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
        sa.delete(polled).where(sa.func.coalesce(polled.c.listed_at, polled.c.found_at) < now - timedelta(days=30)),
    )
    return sum(conn.execute(statement).rowcount for statement in old)
