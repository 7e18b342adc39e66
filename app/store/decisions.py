"""What decision records say of offers that were asked for and said no, of many leases at once and without the rest of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from app.store.db import Database
from app.store.tables import lease

Tried = Sequence[Mapping[str, Any]]


def tried(db: Database, *, ids: Collection[str] = (), names: Collection[str] = ()) -> dict[str, Tried]:
    """By lease id and by lease name, of those that are meant by either; a lease whose first offer took it is missing."""
    if not ids and not names:
        return {}
    meant = sa.or_(lease.c.id.in_(sorted(set(ids))), lease.c.name.in_(sorted(set(names))))
    query = sa.select(lease.c.id, lease.c.name, lease.c.decision["tried"].label("tried")).where(
        meant, lease.c.decision.is_not(None)
    )
    found: dict[str, Tried] = {}
    with db.read() as conn:
        for row in conn.execute(query):
            if row.tried:
                found[row.id] = found[row.name] = row.tried
    return found
