"""Who did what to which object, and why: one row in the same transaction as the change itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from app.store.db import Database
from app.store.rows import clean, plain
from app.store.tables import audit

WRITE = sa.insert(audit)


@dataclass(frozen=True, slots=True)
class Entry:
    """One audited change. `object` reads "lease:ID", "person:NAME", ..."""

    seq: int  # 0 until it is written
    at: datetime
    actor: str
    action: str  # "lease.planned", "node.joined", ...
    object: str
    text: str = ""
    detail: Mapping[str, Any] | None = None


def write(
    conn: sa.Connection,
    *,
    at: datetime,
    actor: str,
    action: str,
    object: str,
    text: str = "",
    detail: Mapping[str, Any] | None = None,
) -> None:
    """One row, inside the caller's transaction. `detail` must hold no secret."""
    write_all(conn, [Entry(0, at, actor, action, object, text, detail)])


def write_all(conn: sa.Connection, entries: Iterable[Entry]) -> None:
    """Many rows in one statement, inside the caller's transaction."""
    values = [
        {
            "at": entry.at,
            "actor": clean(entry.actor, 200),
            "action": entry.action,
            "object": clean(entry.object, 200),
            "text": clean(entry.text),
            "detail": plain(entry.detail),
        }
        for entry in entries
    ]
    if values:
        conn.execute(WRITE, values)


def listing(db: Database, object: str | None = None, limit: int = 100, before: int | None = None) -> list[Entry]:
    """The newest first; of one object or of all; `before` is the `seq` of the last row of the page before."""
    query = sa.select(audit).order_by(audit.c.seq.desc()).limit(limit)
    if object is not None:
        query = query.where(audit.c.object == object)
    if before is not None:
        query = query.where(audit.c.seq < before)
    with db.read() as conn:
        return [Entry(*row) for row in conn.execute(query)]


def note(db: Database, now: datetime, actor: str, action: str, object: str, text: str = "") -> None:
    """One row in a transaction of its own, for what changes no other row."""
    with db.write() as conn:
        write(conn, at=now, actor=actor, action=action, object=object, text=text)
