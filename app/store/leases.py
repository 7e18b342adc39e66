"""The only writer of a lease's state: planned in one transaction, claimed, and moved by compare-and-set.

Every change of state has its span and its audit row in the same transaction. A worker holds a
lease only by its claim, a short-lived token; whoever comes with an older one changes nothing.
"""

from __future__ import annotations

import functools
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Literal

import sqlalchemy as sa

from app.core.model import Lease, Reason
from app.core.policy import Plan, Snapshot
from app.core.states import LIVE as LIVE_STATES
from app.core.states import ORDER, State, judge
from app.store import audit, jobs, lease_views
from app.store.db import Database
from app.store.lease_views import (
    RECENT,
    covering,
    find,
    get,
    listing,
    live_count,
    next_due,
    spans,
    unbooked,
)
from app.store.rows import LEASE_COLUMNS, clean, lease_changes, lease_of, lease_values
from app.store.tables import LIVE, job, lease, node_session, span

__all__ = [
    "What",
    "ask",
    "claim",
    "enter",
    "find",
    "free_claims",
    "get",
    "keep",
    "listing",
    "live_count",
    "mark_asked",
    "move",
    "next_due",
    "plan",
    "rest",
    "spans",
    "unbooked",
]

PLAN_LOCK = 7_283_002  # PostgreSQL advisory lock: two engines never plan at the same time
DOWN = frozenset({State.DRAINING, State.DESTROYING, State.RELEASED})
WIPED = {"credential": None, "join_sealed": None}  # secrets that a lease on its way down has no more use for

What = Literal["drain", "destroy"]


# --- plan


_ALONE = sa.select(sa.func.pg_advisory_xact_lock(PLAN_LOCK))
_WAITS = sa.update(job).where(job.c.id == sa.bindparam("the_id"), job.c.state == "queued")


def plan(db: Database, decide: Callable[[Snapshot], Plan], now: datetime) -> Plan:
    """Count, decide and write in one transaction, so that the same demand is never planned twice.

    Returns the plan as written: a name that a lease had before gets a number."""
    with db.write() as conn:
        if db.postgresql:
            conn.execute(_ALONE)
        # Leases before jobs: PostgreSQL lets a web commit between two reads, and a machine that takes a job just then must
        # not be seen with its job beside the same job still waiting. The other way round costs nothing.
        coming = tuple(covering(conn))
        queued = jobs.waiting(conn)
        alive, ended = (lease_views.alive(conn), lease_views.ended(conn, now - RECENT)) if queued else ({}, [])
        wanted = decide(Snapshot(tuple(queued), coming, alive, tuple(ended), now))
        waits = {one.id: one.wait for one in queued}
        told = {job_id: clean(text, 1_000) for job_id, text in sorted(wanted.waits.items())}
        changed = [{"the_id": job_id, "wait": text} for job_id, text in told.items() if waits.get(job_id) not in (None, text)]
        if changed:  # jobs before leases, as everywhere: so no two services wait for each other in a circle
            conn.execute(_WAITS, changed)
        new = enter(conn, wanted.new, "policy", now)
        for lease_id, reason, text in sorted(wanted.drain):
            mark_asked(conn, lease_id, "drain", reason, text, "policy", now)
        return replace(wanted, new=new)


def enter(conn: sa.Connection, new: Sequence[Lease], actor: str, now: datetime) -> tuple[Lease, ...]:
    """Write new leases, each with its span and its audit row, inside the caller's transaction; as they are now named."""
    named = _named(conn, new)
    if named:
        conn.execute(sa.insert(lease), [lease_values(one) for one in named])
        rows = [{"lease_id": one.id, "state": str(one.state), "entered_at": one.entered_at} for one in named]
        conn.execute(sa.insert(span), rows)
        audit.write_all(conn, [_planned(one, actor, now) for one in named])
    return named


def _named(conn: sa.Connection, new: Sequence[Lease]) -> tuple[Lease, ...]:
    """Names are drawn at random and never given twice. Creation times differ, so that a page by time loses none."""
    names = [one.name for one in new]
    taken = (
        {str(name) for name in conn.scalars(sa.select(lease.c.name).where(lease.c.name.in_(names)))} if names else set[str]()
    )
    named: list[Lease] = []
    for place, one in enumerate(new):
        name, number = one.name, 1
        while name in taken or (number > 1 and conn.scalar(sa.select(lease.c.id).where(lease.c.name == name)) is not None):
            number += 1
            name = f"{one.name[:50]}-{number}"
        taken.add(name)
        named.append(replace(one, name=name, created_at=one.created_at + timedelta(microseconds=place)))
    return tuple(named)


def _planned(one: Lease, actor: str, now: datetime) -> audit.Entry:
    detail = {"pool": one.key.pool, "forge": one.key.forge, "scope": str(one.key.scope), "labels": one.key.labels}
    return audit.Entry(0, now, actor, "lease.planned", f"lease:{one.id}", f"{one.name}, try {one.attempt}", detail)


# --- claim, keep, rest, move


_DUE = sa.bindparam("now", type_=lease.c.due.type)
_PICKED = (
    sa.select(lease.c.id)
    .where(LIVE, lease.c.due <= _DUE, sa.or_(lease.c.claim == "", lease.c.claimed_until <= _DUE))
    .order_by(lease.c.due)
    .limit(sa.bindparam("most", type_=sa.Integer))
    .with_for_update(skip_locked=True)
    .cte("picked")
)
_CLAIM = (
    sa.update(lease)
    .where(lease.c.id.in_(sa.select(_PICKED.c.id)))
    .values(claim=sa.bindparam("token"), claimed_until=sa.bindparam("until", type_=lease.c.due.type))
    .returning(*LEASE_COLUMNS)
)


def claim(db: Database, worker: str, now: datetime, limit: int, hold: timedelta) -> list[Lease]:
    """Up to `limit` live leases that are due and that nobody else holds, the longest due first, held for `hold`.

    Several workers on several machines never get the same one."""
    values = {"now": now, "most": limit, "token": f"{worker[:40]}:{secrets.token_hex(8)}", "until": now + hold}
    with db.write() as conn:
        return sorted((lease_of(row) for row in conn.execute(_CLAIM, values)), key=lambda one: (one.due, one.id))


def free_claims(db: Database, worker: str | None = None) -> int:
    """Let go of every claim of a worker that ends in order, so that others need not wait for them to run out. How many.

    Without a worker, of everybody's: for the one process that may use this database, at its start. One that was killed
    leaves its claims behind, and nobody else can be at work on them."""
    whose = lease.c.claim != "" if worker is None else lease.c.claim.startswith(f"{worker[:40]}:", autoescape=True)
    with db.write() as conn:
        return conn.execute(sa.update(lease).where(LIVE, whose).values(claim="", claimed_until=None)).rowcount


def keep(db: Database, held: Lease, values: Mapping[str, Any], now: datetime) -> bool:
    """Write down what is about to be done, without letting go. False: somebody else went on, so do not do it."""
    changes = lease_changes(values)
    with db.write() as conn:
        return _write(conn, held, changes).rowcount == 1 if changes else _still_held(conn, held)


def rest(
    db: Database, held: Lease, *, until: datetime, note: str, values: Mapping[str, Any], failed: bool, now: datetime
) -> bool:
    """Let go and look again at `until`, or now if a fact came during the look. False: somebody else went on.

    An empty note leaves the last one; `failed` counts the looks in a row that failed."""
    changes = lease_changes(values)
    if note:
        changes["note"] = clean(note, 2_000)
    changes |= {"claim": "", "claimed_until": None}
    rules = (Rule.UNLESS_NEWS, Rule.FAILED) if failed else (Rule.UNLESS_NEWS, Rule.CAME_THROUGH)
    with db.write() as conn:
        return _write(conn, held, changes, *rules, until=until, soon=now).rowcount == 1


def move(
    db: Database,
    held: Lease,
    to: State,
    *,
    reason: Reason | None,
    text: str,
    values: Mapping[str, Any],
    now: datetime,
    deadline: datetime | None,
    due: datetime | None = None,
    hold: timedelta | None = None,
) -> Lease | None:
    """On to the next state, with its span and its audit row: held for `hold` more, or let go of until `due`.

    Returns the lease as it now is. None: somebody else went on, or the lease is there already. The first reason wins.
    Raises IllegalMove where the table has no arrow."""
    if not judge(held.state, to):
        return None
    text = clean(text, 2_000)
    changes = lease_changes(values) | {"state": str(to), "entered_at": now, "deadline": deadline, "note": text}
    rules, more = [Rule.MOVED, Rule.CAME_THROUGH, Rule.WHOLE], dict[str, Any]()
    if hold is None:
        changes |= {"claim": "", "claimed_until": None}
        rules.append(Rule.UNLESS_NEWS)
        more |= {"until": due or now, "soon": now}
    else:
        changes |= {"claimed_until": now + hold, "due": now}
    if reason is not None:
        rules.append(Rule.FIRST_REASON)
        more |= {"why": str(reason), "why_text": text}
    if to in DOWN:
        changes |= WIPED
    with db.write() as conn:
        row = _write(conn, held, changes, *rules, **more).first()
        if row is None:
            return None
        conn.execute(_LEFT, {"the_id": held.id, "the_state": str(held.state), "now": now})
        conn.execute(_ENTERED, {"lease_id": held.id, "state": str(to), "entered_at": now, "note": text})
        if to is State.RELEASED:
            conn.execute(_SESSION_OVER, {"the_id": held.id, "now": now})
        detail = {"from": held.state} | ({} if reason is None else {"reason": reason})
        audit.write(conn, at=now, actor="engine", action=f"lease.{to}", object=f"lease:{held.id}", text=text, detail=detail)
    return lease_of(row)


_LEFT = (
    sa.update(span)
    .where(span.c.lease_id == sa.bindparam("the_id"), span.c.state == sa.bindparam("the_state"), span.c.left_at.is_(None))
    .values(left_at=sa.bindparam("now"))
)
_ENTERED = sa.insert(span)
_SESSION_OVER = (
    sa.update(node_session)
    .where(node_session.c.lease_id == sa.bindparam("the_id"), node_session.c.expires_at > sa.bindparam("now"))
    .values(expires_at=sa.bindparam("now"))
)


class Rule(StrEnum):
    """What an update of a held lease does beside writing values."""

    UNLESS_NEWS = "unless news"  # due at `until`; or `soon`, if a fact came during the look: it is not slept over
    CAME_THROUGH = "came through"  # the row of failed looks is over
    FAILED = "failed"  # one more in the row
    MOVED = "moved"  # a fact like any other
    FIRST_REASON = "first reason"  # `why` and `why_text`, unless there is a reason already
    WHOLE = "whole"  # give back the row


def _write(conn: sa.Connection, held: Lease, changes: Mapping[str, Any], *rules: Rule, **more: Any) -> sa.CursorResult[Any]:
    """Write to the lease under its claim: no row of the result means that somebody else went on."""
    if not held.claim:
        raise ValueError(f"{held.name} is not claimed: only who holds a lease may write to it")
    mine = {"the_id": held.id, "the_claim": held.claim, "the_state": str(held.state)}
    seen = {"seen": held.version} if Rule.UNLESS_NEWS in rules else {}
    values = {f"new_{name}": value for name, value in changes.items()}
    return conn.execute(_update(frozenset(changes), frozenset(rules)), {**mine, **seen, **values, **more})


@functools.lru_cache(maxsize=256)
def _update(columns: frozenset[str], rules: frozenset[Rule]) -> sa.Update:
    """The statement for these columns and rules. Building it costs more than running it, and there are few of them."""
    values: dict[str, Any] = {name: sa.bindparam(f"new_{name}", type_=lease.c[name].type) for name in sorted(columns)}
    if Rule.UNLESS_NEWS in rules:
        until, soon = (sa.bindparam(name, type_=lease.c.due.type) for name in ("until", "soon"))
        values["due"] = sa.case((lease.c.version != sa.bindparam("seen"), soon), else_=until)
    if Rule.CAME_THROUGH in rules:
        values["tries"] = 0
    if Rule.FAILED in rules:
        values["tries"] = lease.c.tries + 1
    if Rule.MOVED in rules:
        values["version"] = lease.c.version + 1
    if Rule.FIRST_REASON in rules:
        text, why = (sa.bindparam(name, type_=lease.c.reason.type) for name in ("why_text", "why"))
        values["reason_text"] = sa.case((lease.c.reason.is_(None), text), else_=lease.c.reason_text)
        values["reason"] = sa.func.coalesce(lease.c.reason, why)
    mine = (lease.c.id == sa.bindparam("the_id"), lease.c.claim == sa.bindparam("the_claim"))
    statement = sa.update(lease).where(*mine, lease.c.state == sa.bindparam("the_state")).values(values)
    return statement.returning(*LEASE_COLUMNS) if Rule.WHOLE in rules else statement


def _still_held(conn: sa.Connection, held: Lease) -> bool:
    mine = (lease.c.id == held.id, lease.c.claim == held.claim, lease.c.state == held.state)
    return conn.scalar(sa.select(lease.c.id).where(*mine)) is not None


# --- ask


def ask(db: Database, lease_id: str, what: What, reason: Reason, text: str, actor: str, now: datetime) -> bool:
    """Write down that a drain or a destroy is wanted; the engine does it. The first reason wins.

    False: no such lease, it is that far down already, or the same was asked before."""
    with db.write() as conn:
        return mark_asked(conn, lease_id, what, reason, text, actor, now)


def mark_asked(conn: sa.Connection, lease_id: str, what: What, reason: Reason, text: str, actor: str, now: datetime) -> bool:
    """`ask`, inside the caller's transaction."""
    asked = lease.c.drain_asked_at if what == "drain" else lease.c.destroy_asked_at
    goal = State.DRAINING if what == "drain" else State.DESTROYING
    above = sorted(state for state in LIVE_STATES if ORDER[state] < ORDER[goal])
    text = clean(text, 1_000)
    changes: dict[str, Any] = {asked.key: now, "due": now, "version": lease.c.version + 1}
    changes["asked_text"] = sa.case((lease.c.asked_reason.is_(None), text), else_=lease.c.asked_text)
    changes["asked_reason"] = sa.func.coalesce(lease.c.asked_reason, str(reason))
    where = (lease.c.id == lease_id, asked.is_(None), lease.c.state.in_(above))
    if conn.execute(sa.update(lease).where(*where).values(**changes)).rowcount != 1:
        return False
    detail = {"reason": reason}
    audit.write(conn, at=now, actor=actor, action=f"lease.{what}_asked", object=f"lease:{lease_id}", text=text, detail=detail)
    return True
