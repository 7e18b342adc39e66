"""What was offered, and what it cost when: the last sight of each offer, and a row for each price that it had."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

import sqlalchemy as sa

from app.core.offers import offer_json, offer_of
from app.store.db import Database
from app.store.rows import clean
from app.store.tables import offer, offer_price
from providers.contract import Offer

KEPT = timedelta(days=90)  # of price history
FORGOTTEN = timedelta(days=1)  # an offer that nobody saw for so long is none


@dataclass(frozen=True, slots=True)
class Price:
    """What one offer cost from `since` until it was last seen so."""

    provider: str
    offer: str
    region: str
    gpu: str
    gpus: int
    spot: bool
    price_per_hour: Decimal
    currency: str
    availability: str
    since: datetime
    until: datetime


_OPEN = (
    sa.select(offer_price.c.id, offer_price.c.offer, offer_price.c.price_per_hour, offer_price.c.availability)
    .where(
        offer_price.c.provider == sa.bindparam("name"),
        offer_price.c.offer.in_(sa.bindparam("ids", expanding=True)),
        offer_price.c.until >= sa.bindparam("lately", type_=offer_price.c.until.type),
    )
    .order_by(offer_price.c.until)
)  # the last one of an offer goes on
_LAST = sa.update(offer_price).where(offer_price.c.id == sa.bindparam("the_id")).values(until=sa.bindparam("seen"))
_GONE = sa.delete(offer).where(
    offer.c.provider == sa.bindparam("name"), offer.c.seen_at < sa.bindparam("before", type_=offer.c.seen_at.type)
)


def note(db: Database, provider: str, seen: Sequence[Offer], now: datetime, gap: timedelta) -> None:
    """Write down what a provider offers now. Two sights of one price no further than `gap` apart are one row of history;
    what was not seen for twice as long is offered no more."""
    with db.write() as conn:
        for start in range(0, len(seen), 300):
            _note(conn, db, provider, seen[start : start + 300], now, gap)
        conn.execute(_GONE, {"name": provider, "before": now - 2 * gap})


def _note(conn: sa.Connection, db: Database, provider: str, seen: Sequence[Offer], now: datetime, gap: timedelta) -> None:
    rows = [{"provider": provider, "id": one.id, "seen_at": now, "detail": offer_json(one)} for one in seen]
    insert = db.insert(offer)
    again = {"seen_at": insert.excluded.seen_at, "detail": insert.excluded.detail}
    conn.execute(insert.on_conflict_do_update(index_elements=["provider", "id"], set_=again), rows)
    ids = [one.id for one in seen]
    known = {row.offer: row for row in conn.execute(_OPEN, {"name": provider, "ids": ids, "lately": now - gap})}
    same = {
        one.id: known[one.id].id
        for one in seen
        if one.id in known
        and (known[one.id].price_per_hour, known[one.id].availability) == (one.price_per_hour, str(one.availability))
    }
    if same:
        conn.execute(_LAST, [{"the_id": row_id, "seen": now} for row_id in same.values()])
    fresh = [_price(one, now) for one in seen if one.id not in same]
    if fresh:
        conn.execute(sa.insert(offer_price), fresh)


def _price(one: Offer, now: datetime) -> dict[str, object]:
    return {
        "provider": one.provider,
        "offer": one.id,
        "region": clean(one.region, 200),
        "gpu": clean(one.gpu or "", 200),
        "gpus": one.gpus,
        "spot": one.spot,
        "price_per_hour": one.price_per_hour,
        "currency": clean(one.currency, 10),
        "availability": str(one.availability),
        "since": now,
        "until": now,
    }


def offers(db: Database, provider: str | None = None) -> list[Offer]:
    """Every offer as it was last seen, with the time of that; the cheapest first."""
    query = sa.select(offer.c.detail, offer.c.seen_at)
    if provider is not None:
        query = query.where(offer.c.provider == provider)
    with db.read() as conn:
        found = [offer_of({**row.detail, "seen_at": row.seen_at.isoformat()}) for row in conn.execute(query)]
    return sorted(found, key=lambda one: (one.price_per_hour, one.provider, one.id))


def prices(db: Database, since: datetime, *, provider: str | None = None, gpu: str | None = None) -> list[Price]:
    """The history of prices since then, the oldest first; of more than 20,000 rows the newest."""
    columns = [offer_price.c[name] for name in Price.__dataclass_fields__]
    query = sa.select(*columns).where(offer_price.c.until >= since)
    query = query.order_by(offer_price.c.since.desc(), offer_price.c.id.desc()).limit(20_000)
    if provider is not None:
        query = query.where(offer_price.c.provider == provider)
    if gpu is not None:
        query = query.where(offer_price.c.gpu == gpu)
    with db.read() as conn:
        return [Price(*row) for row in conn.execute(query)][::-1]


def tidy(db: Database, now: datetime) -> None:
    """Forget what is too old to be asked for."""
    with db.write() as conn:
        conn.execute(sa.delete(offer_price).where(offer_price.c.until < now - KEPT))
        conn.execute(sa.delete(offer).where(offer.c.seen_at < now - FORGOTTEN))
