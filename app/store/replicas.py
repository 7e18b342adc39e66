"""Every process that serves this database, as it last said of itself."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta

import sqlalchemy as sa

from app.store.db import Database
from app.store.rows import clean
from app.store.tables import replica

FORGOTTEN = timedelta(minutes=10)
"""How long one that fell silent is still shown: long enough to be seen, short enough that old ones do not pile up."""


@dataclass(frozen=True, slots=True)
class Replica:
    """One process. `role` is what it runs: "all", "web" or "engine"."""

    name: str
    role: str
    version: str
    started_at: datetime
    seen_at: datetime
    beat_at: datetime | None = None  # when its engine finished its last look
    note: str = ""  # what is wrong with it, in its own words

    @property
    def moves_leases(self) -> bool:
        return self.role != "web"


def tell(db: Database, one: Replica) -> None:
    """This process lives; those that have been silent for long are forgotten."""
    row = asdict(replace(one, name=clean(one.name, 60), note=clean(one.note, 500)))
    with db.write() as conn:
        statement = db.insert(replica).values(**row)
        conn.execute(statement.on_conflict_do_update(index_elements=[replica.c.name], set_=row))
        conn.execute(sa.delete(replica).where(replica.c.seen_at < one.seen_at - FORGOTTEN))


def leave(db: Database, name: str) -> None:
    """This process ends in order."""
    with db.write() as conn:
        conn.execute(sa.delete(replica).where(replica.c.name == name))


def listing(db: Database) -> list[Replica]:
    """All that are known, by role and name."""
    columns = (
        replica.c.name,
        replica.c.role,
        replica.c.version,
        replica.c.started_at,
        replica.c.seen_at,
        replica.c.beat_at,
        replica.c.note,
    )
    with db.read() as conn:
        return [Replica(*row) for row in conn.execute(sa.select(*columns).order_by(replica.c.role, replica.c.name))]
