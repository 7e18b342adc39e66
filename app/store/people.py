"""People and what they log in with: one-time links, web sessions, API tokens. Only hashes are kept of all three."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

import sqlalchemy as sa

from app.store import audit
from app.store.db import Database
from app.store.rows import clean
from app.store.tables import api_token, login_link, person, web_session

SESSION_LIFETIME = timedelta(hours=12)
LINK_LIFETIME = timedelta(minutes=15)
SHOWN = 12  # letters of a token's hash, which name it in the audit
TOKEN_GRAIN = timedelta(minutes=1)  # how exactly the last use of a token is known: not one write for each request


class Role(StrEnum):
    VIEWER = "viewer"  # sees
    OPERATOR = "operator"  # drains and destroys
    ADMIN = "admin"


class LastAdmin(Exception):
    """The only admin would lose the role, and nobody could give it back."""


@dataclass(frozen=True, slots=True)
class Person:
    name: str
    role: Role


@dataclass(frozen=True, slots=True)
class WebSession:
    """A browser that is logged in."""

    person: Person
    csrf: str
    expires_at: datetime

    def __repr__(self) -> str:
        return f"WebSession({self.person.name})"


@dataclass(frozen=True, slots=True)
class Token:
    """An API token as people see it; `hash` names it and cannot be turned back into it."""

    hash: str
    person: str
    label: str
    created_at: datetime
    expires_at: datetime | None
    used_at: datetime | None
    revoked_at: datetime | None


def ensure_person(db: Database, name: str, role: Role | str, now: datetime, actor: str = "service") -> Person:
    """The person of this name, with this role from now on; made if there is none.

    Raises ValueError for an unknown role, and LastAdmin instead of leaving no admin at all."""
    wanted = Person(clean(name, 120), Role(role))
    with db.write() as conn:
        known = conn.execute(sa.select(person.c.role).where(person.c.name == wanted.name)).scalar_one_or_none()
        if known == wanted.role:
            return wanted
        if known == Role.ADMIN:
            # Every admin's row is held, so that of two who demote each other at once the second sees what the first did.
            admins = sa.select(person.c.name).where(person.c.role == str(Role.ADMIN)).order_by(person.c.name).with_for_update()
            if all(other == wanted.name for other in conn.scalars(admins).all()):
                raise LastAdmin(f"{wanted.name} is the only admin")
        row = {"name": wanted.name, "role": str(wanted.role), "created_at": now}
        statement = db.insert(person).values(**row)
        conn.execute(statement.on_conflict_do_update(index_elements=[person.c.name], set_={"role": str(wanted.role)}))
        action = "person.created" if known is None else "person.role"
        detail = {"was": known} if known else None
        audit.write(
            conn, at=now, actor=actor, action=action, object=f"person:{wanted.name}", text=str(wanted.role), detail=detail
        )
    return wanted


def get(db: Database, name: str) -> Person | None:
    with db.read() as conn:
        row = conn.execute(sa.select(person.c.name, person.c.role).where(person.c.name == name)).first()
        return None if row is None else Person(row.name, Role(row.role))


def listing(db: Database) -> list[Person]:
    with db.read() as conn:
        rows = conn.execute(sa.select(person.c.name, person.c.role).order_by(person.c.name))
        return [Person(name, Role(role)) for name, role in rows]


# --- login links


def add_link(
    db: Database, link_hash: str, name: str, now: datetime, lifetime: timedelta = LINK_LIFETIME, actor: str | None = None
) -> None:
    """A link that logs this person in, once, within its lifetime. `actor` made it; None: the person themself."""
    with db.write() as conn:
        conn.execute(sa.insert(login_link).values(hash=link_hash, person=name, expires_at=now + lifetime))
        audit.write(conn, at=now, actor=name if actor is None else actor, action="person.link", object=f"person:{name}")


def redeem_link(
    db: Database, link_hash: str, session_hash: str, csrf: str, now: datetime, lifetime: timedelta = SESSION_LIFETIME
) -> WebSession | None:
    """Trade the link for a session, in one transaction. None: no such link, used before, or too late."""
    mine = (login_link.c.hash == link_hash, login_link.c.used_at.is_(None), login_link.c.expires_at > now)
    with db.read() as conn:  # a guess costs a look: it does not take the place of a writer
        if conn.execute(sa.select(login_link.c.hash).where(*mine)).first() is None:
            return None
    with db.write() as conn:
        used = sa.update(login_link).where(*mine).values(used_at=now).returning(login_link.c.person)
        name = conn.execute(used).scalar_one_or_none()
        if name is None:
            return None
        role = conn.execute(sa.select(person.c.role).where(person.c.name == name)).scalar_one()
        row = {"hash": session_hash, "person": name, "csrf": csrf, "created_at": now, "expires_at": now + lifetime}
        conn.execute(sa.insert(web_session).values(**row))
        audit.write(conn, at=now, actor=name, action="person.logged_in", object=f"person:{name}")
        return WebSession(Person(name, Role(role)), csrf, now + lifetime)


# --- web sessions


def session(db: Database, session_hash: str, now: datetime) -> WebSession | None:
    """Who this browser is; None once the session has run out or was closed."""
    columns = (person.c.name, person.c.role, web_session.c.csrf, web_session.c.expires_at)
    query = sa.select(*columns).join_from(web_session, person)
    with db.read() as conn:
        row = conn.execute(query.where(web_session.c.hash == session_hash, web_session.c.expires_at > now)).first()
    return None if row is None else WebSession(Person(row.name, Role(row.role)), row.csrf, row.expires_at)


def close_session(db: Database, session_hash: str) -> None:
    """Log out. No error if it is closed already."""
    with db.write() as conn:
        conn.execute(sa.delete(web_session).where(web_session.c.hash == session_hash))


# --- API tokens


def add_token(
    db: Database, token_hash: str, name: str, label: str, now: datetime, expires: datetime | None = None, actor: str = "service"
) -> None:
    """A token that speaks for this person until it expires or is revoked."""
    label = clean(label, 200)
    with db.write() as conn:
        row = {"hash": token_hash, "person": name, "label": label, "created_at": now, "expires_at": expires}
        conn.execute(sa.insert(api_token).values(**row))
        detail = {"token": token_hash[:SHOWN]}
        audit.write(conn, at=now, actor=actor, action="token.created", object=f"person:{name}", text=label, detail=detail)


def token_person(db: Database, token_hash: str, now: datetime) -> Person | None:
    """Whom this token speaks for; None if it is unknown, revoked or expired."""
    alive = (api_token.c.hash == token_hash, *_alive(now))
    with db.read() as conn:
        query = sa.select(person.c.name, person.c.role, api_token.c.used_at).join_from(api_token, person).where(*alive)
        row = conn.execute(query).first()
    if row is None:
        return None
    if row.used_at is None or now - row.used_at >= TOKEN_GRAIN:
        with db.write() as conn:
            conn.execute(sa.update(api_token).where(*alive).values(used_at=now))
    return Person(row.name, Role(row.role))


def _alive(now: datetime) -> tuple[sa.ColumnElement[bool], ...]:
    return api_token.c.revoked_at.is_(None), sa.or_(api_token.c.expires_at.is_(None), api_token.c.expires_at > now)


def tokens(
    db: Database,
    name: str | None = None,
    *,
    alive_at: datetime | None = None,
    starts: str = "",
    before: datetime | None = None,
    limit: int | None = None,
) -> list[Token]:
    """The tokens of one person, or all, the newest first; only those that work at a moment, or whose hash starts so."""
    query = sa.select(api_token).order_by(api_token.c.created_at.desc(), api_token.c.hash).limit(limit)
    if name is not None:
        query = query.where(api_token.c.person == name)
    if alive_at is not None:
        query = query.where(*_alive(alive_at))
    if starts:
        query = query.where(api_token.c.hash.startswith(starts, autoescape=True))
    if before is not None:
        query = query.where(api_token.c.created_at < before)
    with db.read() as conn:
        return [Token(*row) for row in conn.execute(query)]


def revoke_token(db: Database, token_hash: str, now: datetime, actor: str) -> bool:
    """End a token at once. False: no such token, or it was revoked before."""
    mine = (api_token.c.hash == token_hash, api_token.c.revoked_at.is_(None))
    with db.write() as conn:
        ended = sa.update(api_token).where(*mine).values(revoked_at=now).returning(api_token.c.person, api_token.c.label)
        row = conn.execute(ended).first()
        if row is None:
            return False
        about, detail = f"person:{row.person}", {"token": token_hash[:SHOWN]}
        audit.write(conn, at=now, actor=actor, action="token.revoked", object=about, text=row.label, detail=detail)
        return True


def revoke_labelled(db: Database, name: str, label: str, now: datetime) -> int:
    """End every token of this person and label, before a new one takes its place. Returns how many."""
    mine = (api_token.c.person == name, api_token.c.label == label, api_token.c.revoked_at.is_(None))
    with db.write() as conn:
        return conn.execute(sa.update(api_token).where(*mine).values(revoked_at=now)).rowcount
