"""Work that one engine does for all of them: whoever finds it due takes it, until it is due again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from app.store.db import Database
from app.store.rows import clean
from app.store.tables import duty


@dataclass(frozen=True, slots=True)
class Duty:
    """One kind of shared work, as it was last done."""

    name: str
    due: datetime
    holder: str
    done_at: datetime | None
    note: str


_TAKE = (
    sa.update(duty)
    .where(duty.c.name == sa.bindparam("the_name"), duty.c.due <= sa.bindparam("now", type_=duty.c.due.type))
    .values(due=sa.bindparam("until", type_=duty.c.due.type), holder=sa.bindparam("taker"))
)


def take(db: Database, name: str, holder: str, now: datetime, period: timedelta) -> bool:
    """True for exactly one caller in each period. Whoever took it and died costs one period, no more."""
    row = {"name": name, "due": now + period, "holder": clean(holder, 60)}
    with db.write() as conn:
        if conn.execute(_TAKE, {"the_name": name, "now": now, "until": row["due"], "taker": row["holder"]}).rowcount == 1:
            return True
        first = db.insert(duty).values(**row).on_conflict_do_nothing().returning(duty.c.name)
        return conn.execute(first).first() is not None  # an INSERT's count of rows is not told by every driver


_DONE = (
    sa.update(duty)
    .where(duty.c.name == sa.bindparam("the_name"))
    .values(done_at=sa.bindparam("now", type_=duty.c.done_at.type), note=sa.bindparam("said"))
)


def done(db: Database, name: str, now: datetime, note: str = "") -> None:
    """The work was done to its end; `note` is for people, or for whoever does it next."""
    with db.write() as conn:
        conn.execute(_DONE, {"the_name": name, "now": now, "said": clean(note, 1_000)})


def listing(db: Database) -> list[Duty]:
    """All of them, by name."""
    columns = (duty.c.name, duty.c.due, duty.c.holder, duty.c.done_at, duty.c.note)
    with db.read() as conn:
        return [Duty(*row) for row in conn.execute(sa.select(*columns).order_by(duty.c.name))]
