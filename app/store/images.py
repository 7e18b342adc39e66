"""Images: which digests were revoked, what a job's containers were made from, and which pools ask for no signature."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from app.core.images import ImageVerdict, to_json, verdict_of
from app.store import audit
from app.store.db import Database
from app.store.rows import clean, kept
from app.store.tables import audit as audit_table
from app.store.tables import installation, lease_image, revoked_image

MOST_ASKED = 50
"""Different images that the containers of one lease may be asked for: a job needs a few."""
LONGEST_ASKED = 600
UNSIGNED, SIGNED = "pool.unsigned", "pool.signed"


@dataclass(frozen=True, slots=True)
class Revoked:
    """A digest that may not run any more, whoever signed it."""

    digest: str
    why: str
    actor: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Asked:
    """An image that a lease's job wanted a container from."""

    asked: str
    verdict: ImageVerdict
    at: datetime


# --- revoked


def revoked(db: Database) -> list[Revoked]:
    """All of them, the newest first."""
    query = sa.select(revoked_image).order_by(revoked_image.c.at.desc(), revoked_image.c.digest)
    with db.read() as conn:
        return [Revoked(*row) for row in conn.execute(query)]


def revoked_digests(db: Database) -> frozenset[str]:
    with db.read() as conn:
        return frozenset(conn.scalars(sa.select(revoked_image.c.digest)))


def revoked_among(db: Database, digests: Collection[str]) -> Mapping[str, str]:
    """Those of these that were revoked, each with why."""
    if not digests:
        return {}
    query = sa.select(revoked_image.c.digest, revoked_image.c.why).where(revoked_image.c.digest.in_(sorted(digests)))
    with db.read() as conn:
        return {str(digest): str(why) for digest, why in conn.execute(query)}


def revoke(db: Database, digest: str, why: str, actor: str, now: datetime) -> bool:
    """From now on it does not run. False: it was revoked before."""
    values = {"digest": digest, "why": clean(why, 1_000), "actor": clean(actor, 200), "at": now}
    with db.write() as conn:
        new = db.insert(revoked_image).values(**values).on_conflict_do_nothing().returning(revoked_image.c.digest)
        if conn.execute(new).first() is None:
            return False
        audit.write(conn, at=now, actor=actor, action="image.revoked", object=f"image:{digest}", text=why)
        return True


def unrevoke(db: Database, digest: str, why: str, actor: str, now: datetime) -> bool:
    """It may run again, if it passes. False: it was not revoked here."""
    with db.write() as conn:
        if conn.execute(sa.delete(revoked_image).where(revoked_image.c.digest == digest)).rowcount != 1:
            return False
        audit.write(conn, at=now, actor=actor, action="image.unrevoked", object=f"image:{digest}", text=why)
        return True


# --- what containers were made from


def asked_of(db: Database, lease_id: str) -> list[Asked]:
    """Every image that the lease's containers were asked for, the first one first."""
    with db.read() as conn:
        return asked_on(conn, lease_id)


def asked_on(conn: sa.Connection, lease_id: str) -> list[Asked]:
    """The same, inside the caller's transaction."""
    query = sa.select(lease_image.c.asked, lease_image.c.verdict, lease_image.c.at).where(lease_image.c.lease_id == lease_id)
    rows = conn.execute(query.order_by(lease_image.c.at, lease_image.c.asked)).all()
    return [Asked(asked, verdict_of(verdict), at) for asked, verdict, at in rows]


def remember(db: Database, lease_id: str, asked: str, verdict: ImageVerdict, now: datetime) -> ImageVerdict | None:
    """Keep what was found for an image that a job asked for. The verdict that stands: the first digest that passed, unless
    this look refuses it.

    None: so many others were asked for by this lease that no further one is taken."""
    asked = clean(asked, LONGEST_ASKED)
    mine = lease_image.c.lease_id == lease_id
    told: dict[str, Any] = {
        "digest": clean(verdict.digest, 200),
        "allowed": verdict.allowed,
        "verdict": kept(to_json(verdict)),
        "at": now,
    }
    with db.write() as conn:
        this = (mine, lease_image.c.asked == asked)
        known = conn.execute(sa.select(lease_image.c.allowed, lease_image.c.verdict).where(*this)).first()
        if known is not None and known.allowed:
            earlier = verdict_of(known.verdict)
            return earlier if verdict.allowed else verdict
        if known is not None:
            conn.execute(sa.update(lease_image).where(*this).values(**told))
        elif (conn.scalar(sa.select(sa.func.count()).select_from(lease_image).where(mine)) or 0) >= MOST_ASKED:
            return None
        else:
            conn.execute(db.insert(lease_image).values(lease_id=lease_id, asked=asked, **told).on_conflict_do_nothing())
        if known is None or verdict.allowed:
            action = "image.allowed" if verdict.allowed else "image.refused"
            text = f"{asked} is {verdict.reference}" if verdict.allowed else f"{asked}: {verdict.why}"
            audit.write(conn, at=now, actor="node", action=action, object=f"lease:{lease_id}", text=text)
        return verdict


# --- pools that ask for no signature


def note_pools(db: Database, unsigned: Mapping[str, str], pools: Collection[str], now: datetime) -> list[str]:
    """Write down which pools ask for no signature, where that is new or has changed; and which do again. The new ones.

    `unsigned` is by pool, with what it says of itself. Engines that start at once take turns."""
    new: list[str] = []
    with db.write() as conn:
        conn.execute(sa.select(installation.c.id).with_for_update())
        for pool in sorted(pools):
            last = (
                sa.select(audit_table.c.action, audit_table.c.text)
                .where(audit_table.c.object == f"pool:{pool}", audit_table.c.action.in_((UNSIGNED, SIGNED)))
                .order_by(audit_table.c.seq.desc())
                .limit(1)
            )
            before = conn.execute(last).first()
            now_text = clean(unsigned[pool]) if pool in unsigned else ""
            if pool in unsigned and (before is None or (before.action, before.text) != (UNSIGNED, now_text)):
                audit.write(conn, at=now, actor="settings", action=UNSIGNED, object=f"pool:{pool}", text=now_text)
                new.append(pool)
            elif pool not in unsigned and before is not None and before.action == UNSIGNED:
                audit.write(
                    conn, at=now, actor="settings", action=SIGNED, object=f"pool:{pool}", text="A signature is required again."
                )
    return new
