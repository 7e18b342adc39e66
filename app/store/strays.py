"""Instances under our owner tag that are no lease's own, and instances that a lease misses: what the sweep writes down."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from app.core.billing import Charge, stray_charge
from app.core.model import Lease
from app.core.states import ORDER, State
from app.store import audit, ledger
from app.store.db import Database
from app.store.lease_views import one
from app.store.rows import clean
from app.store.tables import LIVE, lease, stray

CONFIRMED = timedelta(hours=1)
"""How long a person's word on a stray counts: what it is about may have changed by then."""
WATCHED = frozenset(str(state) for state in State if ORDER[State.BOOTING] <= ORDER[state] < ORDER[State.DESTROYING])
SPEAKING = (State.PROVING, State.REGISTERING, State.IDLE, State.BUSY)


@dataclass(frozen=True, slots=True)
class Owned:
    """What a live lease has at its provider."""

    lease_id: str
    tag: str
    instance_id: str  # empty: its create has no clear answer yet
    watched: bool  # it has an instance and is not being destroyed
    missing: bool
    speaks: bool  # its node has joined, and its end is not near


@dataclass(frozen=True, slots=True)
class Stray:
    """One instance that costs money for nobody."""

    provider: str
    instance_id: str
    tag: str
    lease_id: str  # that once owned the tag; empty: nobody knows it
    created_at: datetime | None
    found_at: datetime
    asked_at: datetime | None
    confirmed_at: datetime | None  # when a person said that it may go
    busy_at: datetime | None  # when a forge last said that a job runs on it
    tries: int
    gone_at: datetime | None

    def waits(self, now: datetime) -> bool:
        """Whether its end was never asked for, and no person has lately said that it may go."""
        return self.asked_at is None and (self.confirmed_at is None or self.confirmed_at + CONFIRMED <= now)


_STRAY = tuple(stray.c[name] for name in Stray.__dataclass_fields__)


_MISSING = sa.case((lease.c.missing_at.is_(None), 0), else_=1)  # in a list of columns, SQLite's IS NULL is not to be trusted
_OWNED = sa.select(lease.c.id, lease.c.tag, lease.c.instance_id, lease.c.state, _MISSING).where(
    LIVE, lease.c.provider == sa.bindparam("the_provider")
)


def owned(db: Database, provider: str) -> dict[str, Owned]:
    """tag -> what the live leases at this provider have; those that have asked nobody for anything yet own nothing."""
    with db.read() as conn:
        return {
            tag: Owned(lease_id, tag, instance_id, bool(instance_id) and state in WATCHED, bool(missed), state in SPEAKING)
            for lease_id, tag, instance_id, state, missed in conn.execute(_OWNED, {"the_provider": provider})
        }


def known_tags(db: Database, tags: Collection[str]) -> dict[str, str]:
    """tag -> the instance that the lease of this tag has or had, for tags that any lease ever had."""
    if not tags:
        return {}
    query = sa.select(lease.c.tag, lease.c.instance_id).where(lease.c.tag.in_(sorted(tags)))
    with db.read() as conn:
        return {str(row.tag): str(row.instance_id) for row in conn.execute(query)}


def miss(db: Database, gone: Collection[str], back: Collection[str], now: datetime) -> None:
    """Write down which leases' instances the last list lacks, or shows as stopped, and wake them; and which it shows again."""
    if not gone and not back:
        return
    with db.write() as conn:
        if gone:
            lost = sa.update(lease).where(
                lease.c.state.in_(WATCHED), lease.c.id.in_(sorted(gone)), lease.c.missing_at.is_(None)
            )
            conn.execute(lost.values(missing_at=now, due=now, version=lease.c.version + 1))
        if back:
            found = sa.update(lease).where(LIVE, lease.c.id.in_(sorted(back)))
            conn.execute(found.values(missing_at=None, version=lease.c.version + 1))


_NOW = sa.bindparam("now", type_=lease.c.due.type)
_QUIET = sa.func.coalesce(lease.c.heartbeat_at, lease.c.joined_at, type_=lease.c.due.type) < sa.bindparam(
    "heard_before", type_=lease.c.due.type
)
_WAKE = (
    sa.update(lease)
    .where(LIVE, lease.c.state.in_(SPEAKING), _QUIET, lease.c.claim == "", lease.c.due > _NOW)
    .values(due=_NOW, version=lease.c.version + 1)
)


def wake_silent(db: Database, heard_before: datetime, now: datetime) -> int:
    """Leases whose node has said nothing since then are looked at now; how many. One that is looked at anyway is left alone."""
    with db.write() as conn:
        return conn.execute(_WAKE, {"heard_before": heard_before, "now": now}).rowcount


# --- strays


def find(db: Database, provider: str, found: Mapping[str, tuple[str, datetime | None]], now: datetime) -> None:
    """Write down strays: instance id -> its tag, and when the provider says that it was made. A known one stays as it is."""
    if not found:
        return
    with db.write() as conn:
        leases = dict(
            conn.execute(
                sa.select(lease.c.tag, lease.c.id).where(lease.c.tag.in_(sorted({tag for tag, _ in found.values()})))
            ).all()
        )
        for instance_id, (tag, created_at) in sorted(found.items()):
            row = {
                "provider": provider,
                "instance_id": clean(instance_id, 200),
                "tag": clean(tag, 200),
                "lease_id": leases.get(tag, ""),
                "created_at": created_at,
                "found_at": now,
            }
            new = db.insert(stray).values(**row).on_conflict_do_nothing().returning(stray.c.instance_id)
            if conn.execute(new).first() is not None:
                text = f"{provider} lists {tag}, which is no lease's own; seen twice."
                audit.write(
                    conn,
                    at=now,
                    actor="reaper",
                    action="instance.orphan",
                    object=f"instance:{instance_id}",
                    text=clean(text, 500),
                )


_OPEN = sa.select(*_STRAY).where(stray.c.gone_at.is_(None)).order_by(stray.c.found_at, stray.c.instance_id)
_OPEN_THERE = _OPEN.where(stray.c.provider == sa.bindparam("the_provider"))


def open_ones(db: Database, provider: str | None = None) -> list[Stray]:
    """Strays that are not proven gone, the oldest first."""
    with db.read() as conn:
        found = conn.execute(_OPEN) if provider is None else conn.execute(_OPEN_THERE, {"the_provider": provider})
        return [Stray(*row) for row in found]


def confirm(
    db: Database, provider: str, actor: str, now: datetime, instance_ids: Collection[str] | None = None, text: str = ""
) -> int:
    """A person says that these strays may go, or all that were found so far; how many waited for it. Audited, each by name."""
    with db.write() as conn:
        open_here = sa.select(*_STRAY).where(stray.c.provider == provider, stray.c.gone_at.is_(None)).with_for_update()
        found = [Stray(*row) for row in conn.execute(open_here.order_by(stray.c.instance_id))]
        waiting = [each for each in found if each.waits(now) and (instance_ids is None or each.instance_id in instance_ids)]
        for one_stray in waiting:
            conn.execute(_this(one_stray).values(confirmed_at=now))
            audit.write(
                conn,
                at=now,
                actor=actor,
                action="instance.confirmed",
                object=f"instance:{one_stray.instance_id}",
                text=clean(f"{provider} may destroy {one_stray.tag}. {text}".strip(), 500),
            )
        if waiting:
            summary = clean(f"{len(waiting)} instances that no lease owns may be destroyed. {text}".strip(), 500)
            audit.write(conn, at=now, actor=actor, action="sweep.confirmed", object=f"provider:{provider}", text=summary)
    return len(waiting)


def busy(db: Database, found: Collection[Stray], now: datetime) -> None:
    """A forge says that a job runs on each of these."""
    with db.write() as conn:
        for one_stray in sorted(found, key=lambda each: each.instance_id):
            conn.execute(_this(one_stray).values(busy_at=now))


def so_far(db: Database, found: Collection[Stray], now: datetime) -> dict[str, Charge]:
    """instance id -> what it has cost by now, where it came under the tag of a lease whose price is known."""
    costs: dict[str, Charge] = {}
    with db.read() as conn:
        for one_stray in found:
            owner = one(conn, lease.c.id == one_stray.lease_id) if one_stray.lease_id else None
            since = one_stray.created_at or one_stray.found_at
            charge = None if owner is None else stray_charge(owner, one_stray.instance_id, since, now)
            if charge is not None:
                costs[one_stray.instance_id] = charge
    return costs


def ask(db: Database, one_stray: Stray, now: datetime) -> None:
    """Written before its end is asked for."""
    with db.write() as conn:
        asked = sa.func.coalesce(stray.c.asked_at, sa.literal(now, stray.c.asked_at.type))
        conn.execute(_this(one_stray).values(asked_at=asked, tries=stray.c.tries + 1))


def forget(db: Database, one_stray: Stray) -> None:
    """It turned out to be a lease's own."""
    this = (stray.c.provider == one_stray.provider, stray.c.instance_id == one_stray.instance_id)
    with db.write() as conn:
        conn.execute(sa.delete(stray).where(*this))


def gone(db: Database, one_stray: Stray, at: datetime, now: datetime) -> None:
    """Proven gone. Its cost is booked on the lease that once owned the tag, at that lease's price; else nobody knows it."""
    with db.write() as conn:
        closed = _this(one_stray).where(stray.c.gone_at.is_(None)).values(gone_at=at, booked_at=now)
        if conn.execute(closed).rowcount != 1:
            return
        owner: Lease | None = one(conn, lease.c.id == one_stray.lease_id) if one_stray.lease_id else None
        charge = (
            None
            if owner is None
            else stray_charge(owner, one_stray.instance_id, one_stray.created_at or one_stray.found_at, at)
        )
        if charge is not None:
            ledger.append(conn, [charge], now)
        text = "Its cost is not known." if charge is None else f"It cost {charge.amount:f} {charge.currency}."
        name = f"instance:{one_stray.instance_id}"
        audit.write(conn, at=now, actor="reaper", action="instance.gone", object=name, text=text)


def known(db: Database, provider: str, instance_ids: Collection[str]) -> set[str]:
    """Those of the instances that are written down as strays, open or closed."""
    if not instance_ids:
        return set()
    query = sa.select(stray.c.instance_id).where(stray.c.provider == provider, stray.c.instance_id.in_(sorted(instance_ids)))
    with db.read() as conn:
        return set(conn.scalars(query))


def _this(one_stray: Stray) -> sa.Update:
    return sa.update(stray).where(stray.c.provider == one_stray.provider, stray.c.instance_id == one_stray.instance_id)
