"""What the sweep remembers: strangers seen at a provider or forge, and this installation's own tag; and what it clears away."""

from __future__ import annotations

import hashlib
import secrets
import string
from datetime import datetime, timedelta

import sqlalchemy as sa

from app.store import polls
from app.store.db import Database
from app.store.rows import clean
from app.store.tables import delivery, login_link, node_session, run, sighting, web_session
from app.store.tables import installation as installation_table

ALPHABET = string.ascii_lowercase + string.digits
KEPT_SESSIONS = timedelta(days=1)
KEPT_DELIVERIES = timedelta(days=30)
KEPT_RUNS = timedelta(days=40)  # an approval may come after 30; a run that was forgotten is asked for again


_HERE = sighting.c.place == sa.bindparam("the_place")
_SEEN = sa.select(sighting).where(_HERE).with_for_update()
_SEEN_AGAIN = sa.update(sighting).where(_HERE).values(last_seen=sa.bindparam("now", type_=sighting.c.last_seen.type))
_FORGET = sa.delete(sighting).where(_HERE, sighting.c.thing == sa.bindparam("the_thing"))


def sight(db: Database, place: str, things: set[str], now: datetime, apart: timedelta) -> set[str]:
    """Those of `things` that were first seen at this place at least `apart` ago and at every look since.

    Whatever is not seen now is forgotten. `place` reads "provider:NAME" or "forge:NAME"."""
    place = clean(place, 120)
    keys = {_key(thing): thing for thing in things}
    with db.write() as conn:
        known = {row.thing: row.first_seen for row in conn.execute(_SEEN, {"the_place": place})}
        gone = [{"the_place": place, "the_thing": thing} for thing in sorted(known.keys() - keys)]
        if gone:
            conn.execute(_FORGET, gone)
        if known:
            conn.execute(_SEEN_AGAIN, {"the_place": place, "now": now})
        new = [{"place": place, "thing": key, "first_seen": now, "last_seen": now} for key in sorted(keys.keys() - known)]
        if new:
            conn.execute(db.insert(sighting).on_conflict_do_nothing(), new)
    return {thing for key, thing in keys.items() if key in known and known[key] <= now - apart}


def _key(thing: str) -> str:
    """The thing as it fits the column; an overlong one by its hash, so that two never count as one."""
    return thing if len(thing) <= 200 and clean(thing, 200) == thing else hashlib.sha256(repr(thing).encode()).hexdigest()


def installation(db: Database, now: datetime) -> str:
    """This installation's owner tag at every provider, unguessable; made at the first call and the same ever after."""
    fresh = "".join(secrets.choice(ALPHABET) for _ in range(16))
    with db.write() as conn:
        row = {"id": 1, "owner": fresh, "created_at": now}
        conn.execute(db.insert(installation_table).values(**row).on_conflict_do_nothing())
        return str(conn.execute(sa.select(installation_table.c.owner).where(installation_table.c.id == 1)).scalar_one())


def tidy(db: Database, now: datetime) -> int:
    """Delete what nobody asks for any more: ended sessions and links, and deliveries past every redelivery. Returns how many.

    A forge redelivers for days (GitHub 3, GHES 7); a job moves only forward, so even a later one does no harm."""
    old = (
        sa.delete(node_session).where(node_session.c.expires_at < now - KEPT_SESSIONS),
        sa.delete(web_session).where(web_session.c.expires_at < now),
        sa.delete(login_link).where(login_link.c.expires_at < now - KEPT_SESSIONS),
        sa.delete(delivery).where(delivery.c.received_at < now - KEPT_DELIVERIES),
        sa.delete(run).where(sa.func.coalesce(run.c.told_at, run.c.ask_after) < now - KEPT_RUNS),
    )
    with db.write() as conn:
        return sum(conn.execute(statement).rowcount for statement in old) + polls.tidy(conn, now)
