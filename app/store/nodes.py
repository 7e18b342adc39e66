"""What a node may write: that it joined, lives, measured and did; and the one fetch of its runner's credential.

Everything that a node says is untrusted, and touches no lease but its own. Hashes come in, never a
token or a session itself.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from app.core.model import Lease, Reason
from app.core.states import ORDER, State
from app.store import audit
from app.store.db import Database
from app.store.jobs import STARTED
from app.store.leases import mark_asked
from app.store.rows import LEASE_COLUMNS, clean, facts_of, plain, whole
from app.store.rows import lease_of as lease_row
from app.store.tables import audit as audit_table
from app.store.tables import job, lease, node_log, node_session

JOINABLE = (State.LAUNCHING, State.BOOTING)  # a fast node speaks before the provider's answer is written down
JUDGED_BY = (*JOINABLE, State.PROVING)  # facts that come after the proof can no longer change it
SERVED_IN = (State.REGISTERING, State.IDLE)
LONGEST_LINE = 4_000  # characters
MOST_LINES = 20_000  # of one lease

COLUMNS: Mapping[str, str] = {
    "runner_online": "runner_started_at",
    "job_started": "job_started_at",
    "runner_exited": "runner_exited_at",
}
BARE = frozenset({"booted", "job_finished", "power_off"})
"""Events that only make the engine look; what they claim is learned elsewhere."""


class Joined(StrEnum):
    JOINED = "joined"
    AGAIN = "again"  # the same session repeats its request after a lost answer
    REUSED = "reused"  # somebody used the token a second time: audited, and the lease is to be destroyed
    UNKNOWN = "unknown"  # no such lease, or not its token
    ENDED = "ended"  # the lease is on its way down


class Fetch(StrEnum):
    READY = "ready"
    WAIT = "wait"  # not minted yet
    GONE = "gone"  # another ticket had it, the runner has started, or the lease is on its way down


@dataclass(frozen=True, slots=True)
class Fetched:
    outcome: Fetch
    sealed: bytes | None = None  # with READY

    def __repr__(self) -> str:
        return f"Fetched({self.outcome})"


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of a node's log. `seq` is the node's own count, so that a repeated upload adds nothing."""

    seq: int
    at: datetime
    source: str  # "agent", "boot", "runner"
    line: str


def join(db: Database, lease_id: str, token_hash: str, session_hash: str, now: datetime, expires: datetime) -> Joined:
    """Trade the one-time token for a session. Of any number of callers at the same moment exactly one has joined."""
    if not token_hash or not session_hash:
        return Joined.UNKNOWN
    first = (
        sa.update(lease)
        .where(lease.c.id == lease_id, lease.c.join_hash == token_hash, lease.c.joined_at.is_(None))
        .where(lease.c.state.in_(JOINABLE))
        .values(joined_at=now, heartbeat_at=now, join_sealed=None, due=now, version=lease.c.version + 1)
    )
    with db.write() as conn:
        if conn.execute(first).rowcount == 1:
            session = {"hash": session_hash, "lease_id": lease_id, "created_at": now, "expires_at": expires}
            conn.execute(sa.insert(node_session).values(**session))
            audit.write(conn, at=now, actor="node", action="node.joined", object=f"lease:{lease_id}")
            return Joined.JOINED
        columns = (lease.c.join_hash, lease.c.joined_at, lease.c.state)
        found = conn.execute(sa.select(*columns).where(lease.c.id == lease_id)).first()
        if found is None or not hmac.compare_digest(found.join_hash, token_hash):
            return Joined.UNKNOWN
        if found.joined_at is None:
            return Joined.ENDED
        own = (node_session.c.lease_id == lease_id, node_session.c.hash == session_hash)
        same = conn.scalar(sa.select(node_session.c.hash).where(*own)) is not None
        if not same:
            _reused(conn, lease_id, now)
            return Joined.REUSED
        return Joined.ENDED if ORDER[State(found.state)] >= ORDER[State.DRAINING] else Joined.AGAIN


def _reused(conn: sa.Connection, lease_id: str, now: datetime) -> None:
    """Audited once for each lease: whoever holds a spent token must not be able to fill the audit."""
    action, name = "node.join_reused", f"lease:{lease_id}"
    told = sa.select(audit_table.c.seq).where(audit_table.c.object == name, audit_table.c.action == action)
    if conn.execute(told).first() is None:
        audit.write(conn, at=now, actor="node", action=action, object=name, text="The join token was used a second time.")
    mark_asked(conn, lease_id, "destroy", Reason.JOIN_REUSED, "The join token was used a second time.", "node", now)


_SPOKEN_FOR = (
    sa.select(*LEASE_COLUMNS)
    .join(node_session, node_session.c.lease_id == lease.c.id)
    .where(node_session.c.hash == sa.bindparam("session"), lease.c.state != State.RELEASED)
    .where(node_session.c.expires_at > sa.bindparam("now", type_=node_session.c.expires_at.type))
)


def lease_of(db: Database, session_hash: str, now: datetime) -> Lease | None:
    """The lease that this session speaks for; None once the session has run out or the lease is released."""
    if not session_hash:
        return None
    with db.read() as conn:
        row = conn.execute(_SPOKEN_FOR, {"session": session_hash, "now": now}).first()
    return None if row is None else lease_row(row)


def had_session(db: Database, session_hash: str) -> bool:
    """Whether this session was one of ours, though it may be over; forgotten a day after its end."""
    with db.read() as conn:
        return conn.scalar(sa.select(node_session.c.hash).where(node_session.c.hash == session_hash)) is not None


_NOW = sa.bindparam("now", type_=node_session.c.expires_at.type)
_LASTS = (
    sa.update(node_session)
    .where(node_session.c.hash == sa.bindparam("session"), node_session.c.lease_id == sa.bindparam("the_lease"))
    .where(node_session.c.expires_at > _NOW)
    .values(expires_at=sa.bindparam("until", type_=node_session.c.expires_at.type))
)
_LIVES = (
    sa.update(lease).where(lease.c.id == sa.bindparam("the_lease"), lease.c.state != State.RELEASED).values(heartbeat_at=_NOW)
)


def beat(db: Database, lease_id: str, session_hash: str, now: datetime, expires: datetime) -> bool:
    """The node lives, and its session lasts until `expires`. False: the session or the lease has ended."""
    told = {"session": session_hash, "the_lease": lease_id, "now": now, "until": expires}
    with db.write() as conn:
        if conn.execute(_LASTS, told).rowcount != 1:
            return False
        return conn.execute(_LIVES, {"the_lease": lease_id, "now": now}).rowcount == 1


def report_facts(db: Database, lease_id: str, facts: Mapping[str, Any], now: datetime) -> bool:
    """What the node measured, for the engine to judge. False: it was judged already, or there is no such lease."""
    told = plain(facts_of(facts))
    with db.write() as conn:
        return _tell(conn, lease_id, now, lease.c.state.in_(JUDGED_BY), facts=told, facts_at=now)


def event(db: Database, lease_id: str, kind: str, at: datetime, data: Mapping[str, Any], now: datetime) -> bool:
    """Something happened on the node: written once, never corrected. False: not new, not known, or the lease is released.

    `data` of "runner_exited" holds the exit status as "exit", and as "why" what kept it from starting at all. The node's
    clock is not ours: `at` is never taken for later than now, nor for earlier than the node joined."""
    if kind in BARE:
        with db.write() as conn:
            return _tell(conn, lease_id, now, lease.c.joined_at.is_not(None))
    if kind not in COLUMNS:
        return False
    column = lease.c[COLUMNS[kind]]
    with db.write() as conn:
        joined = conn.scalar(sa.select(lease.c.joined_at).where(lease.c.id == lease_id))
        if joined is None:
            return False
        values: dict[str, Any] = {column.key: min(max(aware(at), joined), now)}
        if kind == "runner_online":
            values["credential"] = None  # it has served
        if kind == "job_started":
            values |= _own_job(conn, lease_id)
        if kind == "runner_exited":
            values["runner_exit"] = whole(data.get("exit"))
            values["runner_why"] = clean(str(data.get("why") or ""), 500)
        return _tell(conn, lease_id, now, column.is_(None), **values)


def _own_job(conn: sa.Connection, lease_id: str) -> dict[str, Any]:
    """Of a lease that is for one job alone: this job, if its forge has told already that it runs.

    Before that the lease covers it, as any other does whose job has no name yet. Jobs before leases, as everywhere."""
    found = conn.execute(
        sa.select(job.c.id, job.c.lease_id)
        .join(lease, lease.c.for_job == job.c.id)
        .where(lease.c.id == lease_id, lease.c.for_job != "", lease.c.job_id == "", job.c.state.in_(STARTED))
    ).first()
    if found is None or found.lease_id not in ("", lease_id):
        return {}
    conn.execute(sa.update(job).where(job.c.id == found.id).values(lease_id=lease_id))
    return {"job_id": found.id}


def _tell(conn: sa.Connection, lease_id: str, now: datetime, where: sa.ColumnElement[bool], **values: Any) -> bool:
    """A fact: the engine looks at once, and a look that runs now will not sleep over it."""
    told = sa.update(lease).where(lease.c.id == lease_id, lease.c.state != State.RELEASED, where)
    return conn.execute(told.values(due=now, version=lease.c.version + 1, **values)).rowcount == 1


def take_job(db: Database, lease_id: str, wanted: str) -> bool:
    """A lease is for one job: True for the first that its node asks to start, however often it asks, and for no other."""
    first = sa.update(lease).where(lease.c.id == lease_id, lease.c.first_job == "").values(first_job=wanted)
    with db.write() as conn:
        if conn.execute(first).rowcount == 1:
            return True
        return conn.scalar(sa.select(lease.c.first_job).where(lease.c.id == lease_id)) == wanted


_TAKEN = (
    sa.update(lease)
    .where(lease.c.id == sa.bindparam("the_lease"), lease.c.state.in_(SERVED_IN), lease.c.credential.is_not(None))
    .where(lease.c.credential_ticket == "", lease.c.runner_started_at.is_(None))
    .values(credential_ticket=sa.bindparam("ticket"), credential_taken_at=_NOW, due=_NOW, version=lease.c.version + 1)
)
_CREDENTIAL = sa.select(lease.c.state, lease.c.credential, lease.c.credential_ticket, lease.c.runner_started_at).where(
    lease.c.id == sa.bindparam("the_lease")
)


def take_credential(db: Database, lease_id: str, ticket_hash: str, now: datetime) -> Fetched:
    """The sealed credential, for the first ticket that asks; the same ticket may ask again until the runner has started."""
    if not ticket_hash:
        return Fetched(Fetch.GONE)
    with db.write() as conn:
        if conn.execute(_TAKEN, {"the_lease": lease_id, "ticket": ticket_hash, "now": now}).rowcount == 1:
            audit.write(conn, at=now, actor="node", action="node.credential_taken", object=f"lease:{lease_id}")
        found = conn.execute(_CREDENTIAL, {"the_lease": lease_id}).first()
    if found is None or found.runner_started_at is not None or ORDER[State(found.state)] > ORDER[State.IDLE]:
        return Fetched(Fetch.GONE)
    if found.credential_ticket and not hmac.compare_digest(found.credential_ticket, ticket_hash):
        return Fetched(Fetch.GONE)
    if found.credential is None or not found.credential_ticket:
        return Fetched(Fetch.WAIT)
    return Fetched(Fetch.READY, bytes(found.credential))


def append_log(db: Database, lease_id: str, lines: Sequence[tuple[int, datetime, str, str]]) -> int:
    """Add lines (seq, at, source, line) that are new; how many were. `seq` runs from 0; beyond 20,000 lines nothing is kept."""
    rows = {
        seq: {"lease_id": lease_id, "seq": seq, "at": aware(at), "source": clean(source, 20), "line": clean(line, LONGEST_LINE)}
        for seq, at, source, line in lines
        if 0 <= seq < MOST_LINES
    }
    if not rows:
        return 0
    statement = db.insert(node_log).on_conflict_do_nothing().returning(node_log.c.seq)
    with db.write() as conn:
        return len(conn.execute(statement, [rows[seq] for seq in sorted(rows)]).all())


def log(db: Database, lease_id: str, after: int = -1, limit: int = 1000) -> list[LogLine]:
    """Lines whose `seq` is greater than `after`, in order."""
    columns = (node_log.c.seq, node_log.c.at, node_log.c.source, node_log.c.line)
    query = sa.select(*columns).where(node_log.c.lease_id == lease_id, node_log.c.seq > after)
    with db.read() as conn:
        return [LogLine(*row) for row in conn.execute(query.order_by(node_log.c.seq).limit(limit))]


def aware(at: datetime) -> datetime:
    """A node's time in UTC; one without a zone is taken for UTC."""
    if at.tzinfo is None:
        return at.replace(tzinfo=UTC)
    try:
        return at.astimezone(UTC)
    except OverflowError:  # the first or last hours that a datetime knows
        return at.replace(tzinfo=UTC)
