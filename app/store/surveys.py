"""What the last look at each provider found: kept in the duty rows, so that every process can show it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from app.store import audit
from app.store.db import Database
from app.store.rows import clean
from app.store.tables import duty

PREFIX = "survey of "
_ONE = sa.select(duty.c.done_at, duty.c.note).where(duty.c.name == sa.bindparam("the_name"))
_ALL = sa.select(duty.c.name, duty.c.done_at, duty.c.note).where(duty.c.name.startswith(PREFIX))


@dataclass(frozen=True, slots=True)
class Survey:
    """One provider as the sweep last saw it."""

    provider: str
    at: datetime | None  # of the last whole list; None: there was none yet
    listed: int = 0  # instances under our owner tag
    owned: int = 0  # of them, those of live leases
    held: int = 0  # strays that wait for a person
    stopped_at: datetime | None = None  # since when the sweep destroys nothing here without a person's word
    trouble: str = ""  # why there has been no whole list since


def note(db: Database, provider: str, *, listed: int, owned: int, held: int, now: datetime) -> bool:
    """Write down a whole list. True if the sweep has stopped with it: `held` strays wait for a person, for the first time.

    That is audited once for each episode, which lasts until a whole list finds none that waits."""
    with db.write() as conn:
        before = _read(conn, provider)
        stopped_at = (before.stopped_at or now) if held else None
        _put(conn, db, Survey(provider, now, listed, owned, held, stopped_at), now)
        fresh = held > 0 and before.stopped_at is None
        if fresh:
            text = f"{held} of {listed} instances have no lease. None of them is destroyed: is this the right database?"
            audit.write(conn, at=now, actor="reaper", action="sweep.stopped", object=f"provider:{provider}", text=text)
        elif not held and before.stopped_at is not None:
            text = "No instance waits for a person any more."
            audit.write(conn, at=now, actor="reaper", action="sweep.goes_on", object=f"provider:{provider}", text=text)
    return fresh


def fail(db: Database, provider: str, trouble: str, now: datetime) -> None:
    """There was no whole list this time: the numbers stay as they were, and say since when."""
    with db.write() as conn:
        before = _read(conn, provider)
        if before.trouble != trouble[:300]:
            told = (before.listed, before.owned, before.held, before.stopped_at)
            _put(conn, db, Survey(provider, before.at, *told, clean(trouble, 300)), now)


def listing(db: Database) -> dict[str, Survey]:
    """The last look at each provider, by its name."""
    with db.read() as conn:
        found = conn.execute(_ALL)
        surveys = [_survey(str(row.name).removeprefix(PREFIX), row.done_at, row.note) for row in found]
    return {one.provider: one for one in sorted(surveys, key=lambda one: one.provider)}


def _read(conn: sa.Connection, provider: str) -> Survey:
    row = conn.execute(_ONE, {"the_name": PREFIX + provider}).first()
    return Survey(provider, None) if row is None else _survey(provider, row.done_at, row.note)


def _survey(provider: str, at: datetime | None, text: str) -> Survey:
    told: Mapping[str, Any] = json.loads(text or "{}")
    stopped = told.get("stopped_at")
    since = datetime.fromisoformat(stopped) if stopped else None
    listed, owned, held = (int(told.get(name, 0)) for name in ("listed", "owned", "held"))
    return Survey(provider, at, listed, owned, held, since, str(told.get("trouble", "")))


def _put(conn: sa.Connection, db: Database, survey: Survey, now: datetime) -> None:
    told = {
        "listed": survey.listed,
        "owned": survey.owned,
        "held": survey.held,
        "stopped_at": None if survey.stopped_at is None else survey.stopped_at.isoformat(),
        "trouble": survey.trouble,
    }
    values = {"done_at": survey.at, "note": json.dumps(told), "due": now}
    statement = db.insert(duty).values(name=PREFIX + survey.provider, holder="", **values)
    conn.execute(statement.on_conflict_do_update(index_elements=[duty.c.name], set_=values))
