"""The runner records that stay online so that a forge does not fail waiting jobs: one for each forge, scope and label set."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from app.store.db import Database
from app.store.tables import beacon


@dataclass(frozen=True, slots=True)
class Beacon:
    """`credential` is sealed. `labels` reads as it was put; only a list too long for its column shows as a hash."""

    forge: str
    scope: str
    labels: str
    runner_id: str
    credential: bytes | None
    lit_at: datetime | None

    def __repr__(self) -> str:
        return f"Beacon({self.forge}, {self.scope}, {self.labels!r}, runner_id={self.runner_id!r})"


_COLUMNS = (beacon.c.forge, beacon.c.scope, beacon.c.labels, beacon.c.runner_id, beacon.c.credential, beacon.c.lit_at)
_THIS = tuple(beacon.c[name] == sa.bindparam(f"the_{name}") for name in ("forge", "scope", "labels"))
_ONE = sa.select(*_COLUMNS).where(*_THIS)
_ALL = sa.select(*_COLUMNS).order_by(*beacon.primary_key)
_REMOVE = sa.delete(beacon).where(*_THIS)


def get(db: Database, forge: str, scope: str, labels: str) -> Beacon | None:
    with db.read() as conn:
        row = conn.execute(_ONE, _key(forge, scope, labels)).first()
        return None if row is None else _of(row)


def put(db: Database, forge: str, scope: str, labels: str, runner_id: str, credential: bytes | None, now: datetime) -> None:
    """Write down that it is lit now, under this record."""
    values: dict[str, Any] = {"runner_id": runner_id, "credential": credential, "lit_at": now}
    row = {"forge": forge, "scope": _fit(scope, 300), "labels": _fit(labels, 500), **values}
    statement = db.insert(beacon).values(**row).on_conflict_do_update(index_elements=list(beacon.primary_key), set_=values)
    with db.write() as conn:
        conn.execute(statement)


def as_listed(labels: str) -> str:
    """How these labels read in a `Beacon` of the list."""
    return _fit(labels, 500)


def remove(db: Database, forge: str, scope: str, labels: str) -> bool:
    """Forget it; False if there was none."""
    with db.write() as conn:
        return conn.execute(_REMOVE, _key(forge, scope, labels)).rowcount == 1


def listing(db: Database) -> list[Beacon]:
    with db.read() as conn:
        return [_of(row) for row in conn.execute(_ALL)]


def _of(row: Sequence[Any]) -> Beacon:
    return Beacon(*row)


def _key(forge: str, scope: str, labels: str) -> dict[str, str]:
    return {"the_forge": forge, "the_scope": _fit(scope, 300), "the_labels": _fit(labels, 500)}


def _fit(text: str, limit: int) -> str:
    return text if len(text) <= limit else "sha256:" + hashlib.sha256(text.encode()).hexdigest()
