"""JSON for admins, under /api/v1: people and their roles, links that let them in, API tokens, and the key of sealed secrets."""

import re
import secrets
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path, Query
from pydantic import AfterValidator, AwareDatetime, BaseModel, Field, StringConstraints
from pydantic_core import PydanticCustomError

from app.kit.telemetry import logger
from app.store import people
from app.store.people import LINK_LIFETIME, LastAdmin, Role, Token
from app.store.vault import VaultError, change_key
from app.web.auth import OWNER, Gate, Visitor, hashed
from app.web.errors import Problem
from app.web.parts import WebParts
from app.web.schema import LoginLinkReply, Moment, Reply, View

log = logger(__name__)

NAME = re.compile(r"[A-Za-z0-9._@-]{1,120}")
OURS = frozenset({"service", "engine", "node", "demo"})
"""Who acts in the audit without being a person; nobody may look like them."""
LEAST_HASH = 8
"""Letters of a token's hash that name it: a chance of one in four billion that two tokens share them."""
USUAL_DAYS, MOST_DAYS = 90, 365


def _person_name(name: str) -> str:
    if not NAME.fullmatch(name) or set(name) == {"."}:  # an address of dots alone would lead elsewhere
        raise PydanticCustomError("name", "a name has 1 to 120 letters (a-z), digits or . _ - @")
    if name.lower() in OURS:
        raise PydanticCustomError("name", "this name stands in the audit for a part of the service")
    return name


PersonName = Annotated[str, AfterValidator(_person_name), Field(description="1 to 120 letters (a-z), digits or . _ - @")]
PathName = Annotated[str, AfterValidator(_person_name), Path(description="Name of the person.")]
Label = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]


class PersonBody(BaseModel):
    name: PersonName
    role: Role


class PersonView(View):
    name: str
    role: str


class PersonReply(PersonView):
    schema_version: int = 1


class PeopleReply(Reply):
    people: list[PersonView]


class TokenBody(BaseModel):
    label: Label = Field(description="What it is for, in your words.")
    person: PersonName | None = Field(None, description="Whom it speaks for; yourself unless you are an admin.")
    days: int = Field(USUAL_DAYS, ge=1, le=MOST_DAYS, description="How long it works.")


class TokenView(View):
    hash: str = Field(description="Names the token and cannot be turned back into it.")
    person: str
    label: str
    state: Literal["live", "expired", "revoked"]
    created_at: Moment
    expires_at: Moment | None
    used_at: Moment | None = Field(description="Its last use, to the minute.")
    revoked_at: Moment | None


class TokensReply(Reply):
    tokens: list[TokenView]
    more: bool
    before: Moment | None = Field(None, description="Give this as `before` for the next page.")


class TokenReply(TokenView):
    schema_version: int = 1


class NewTokenReply(TokenReply):
    token: str = Field(description="The token itself. It is shown this once and kept only as a hash.")


class RotatedReply(Reply):
    key: str = Field(description="Id of the key that seals from now on, the first in the key file.")
    resealed: int = Field(description="How many secrets were sealed again with it.")
    failed: list[str] = Field(description="Secrets that no key opens; they are left as they are.")


def _view(token: Token, now: datetime) -> TokenView:
    over = token.expires_at is not None and token.expires_at <= now
    return TokenView(
        hash=token.hash,
        person=token.person,
        label=token.label,
        state="revoked" if token.revoked_at is not None else "expired" if over else "live",
        created_at=token.created_at,
        expires_at=token.expires_at,
        used_at=token.used_at,
        revoked_at=token.revoked_at,
    )


def router(parts: WebParts, gate: Gate) -> APIRouter:
    """Admins only, but for one's own tokens; every change is audited with the person who made it."""
    routes = APIRouter(prefix="/api/v1", tags=["for admins"])
    viewer, admin = Depends(gate.viewer), Depends(gate.admin)

    async def known(name: str) -> str:
        """The name, if somebody has it. Raises Problem (404)."""
        if await parts.lane(people.get, parts.db, name) is None:
            raise Problem(404, f"There is no person {name}.", hint="`sublet people list` shows who there is.")
        return name

    @routes.get("/people", dependencies=[admin])
    async def list_people() -> PeopleReply:
        """Everybody, and what each may do."""
        found = await parts.lane(people.listing, parts.db)
        return PeopleReply(people=[PersonView(name=person.name, role=person.role) for person in found])

    @routes.post("/people")
    async def set_person(body: PersonBody, visitor: Annotated[Visitor, admin]) -> PersonReply:
        """Make a person, or change their role; it counts at once, for their sessions and tokens too."""
        if body.name == OWNER and body.role is not Role.ADMIN:
            hint = "Whoever reads the data folder is this person; the role would come back at the next start."
            raise Problem(409, f"{OWNER} is the service's own account and stays an admin.", hint=hint)
        try:
            person = await parts.lane(
                people.ensure_person, parts.db, body.name, body.role, parts.clock.now(), actor=visitor.person
            )
        except LastAdmin:
            raise Problem(409, f"{body.name} is the only admin.", hint="Make somebody else an admin first.") from None
        return PersonReply(name=person.name, role=person.role)

    @routes.post("/people/{name}/login-links")
    async def make_link(name: PathName, visitor: Annotated[Visitor, admin]) -> LoginLinkReply:
        """A link that opens the dashboard once, as that person."""
        person, once, now = await known(name), secrets.token_urlsafe(32), parts.clock.now()
        await parts.lane(people.add_link, parts.db, hashed(once), person, now, actor=visitor.person)
        # Unlike a link for oneself it is opened elsewhere, so it names the address that everybody knows.
        return LoginLinkReply(url=f"{parts.settings.public_url}/login?once={once}", expires_at=now + LINK_LIFETIME)

    @routes.get("/tokens")
    async def list_tokens(
        visitor: Annotated[Visitor, viewer],
        which: Literal["live", "all"] = "live",
        limit: Annotated[int, Query(ge=1, le=500)] = 100,
        before: Annotated[AwareDatetime | None, Query(description="The `before` of the page before.")] = None,
    ) -> TokensReply:
        """Your own API tokens; an admin sees everybody's. The newest first."""
        now, name = parts.clock.now(), None if visitor.may(Role.ADMIN) else visitor.person
        alive_at = now if which == "live" else None
        found = await parts.lane(people.tokens, parts.db, name, alive_at=alive_at, before=before, limit=limit + 1)
        more, shown = len(found) > limit, found[:limit]
        views = [_view(token, now) for token in shown]
        return TokensReply(tokens=views, more=more, before=shown[-1].created_at if more else None)

    @routes.post("/tokens")
    async def make_token(body: TokenBody, visitor: Annotated[Visitor, viewer]) -> NewTokenReply:
        """A new API token, for yourself or, as an admin, for anybody. The reply alone ever shows it."""
        person = body.person or visitor.person
        if person != visitor.person:
            if not visitor.may(Role.ADMIN):
                raise Problem(403, f"A token for somebody else needs the role admin; {visitor.person} is {visitor.role}.")
            await known(person)
        token, now = f"sbl_{secrets.token_urlsafe(32)}", parts.clock.now()
        ends = now + timedelta(days=body.days)
        await parts.lane(people.add_token, parts.db, hashed(token), person, body.label, now, ends, actor=visitor.person)
        view = _view(Token(hashed(token), person, body.label, now, ends, None, None), now)
        return NewTokenReply(**view.model_dump(), token=token)

    @routes.delete("/tokens/{start}")
    async def revoke(
        start: Annotated[str, Path(description="The token's hash, or at least its first 8 letters.")],
        visitor: Annotated[Visitor, viewer],
    ) -> TokenReply:
        """End a token at once: your own or, as an admin, anybody's."""
        if not re.fullmatch(rf"[0-9a-fA-F]{{{LEAST_HASH},64}}", start):
            raise Problem(422, f"A token goes by at least the first {LEAST_HASH} letters of its hash.")
        name = None if visitor.may(Role.ADMIN) else visitor.person
        found = await parts.lane(people.tokens, parts.db, name, starts=start.lower(), limit=2)
        if not found:
            raise Problem(404, f"There is no token {start}.", hint="`sublet token list --all` shows those that there were.")
        if len(found) > 1:
            raise Problem(409, f"More than one token's hash starts with {start}.", hint="Say more of it.")
        now = parts.clock.now()
        if not await parts.lane(people.revoke_token, parts.db, found[0].hash, now, visitor.person):
            raise Problem(409, f"The token {start} was revoked before.")
        return TokenReply(**_view(replace(found[0], revoked_at=now), now).model_dump())

    @routes.post("/keys/rotate")
    async def rotate(visitor: Annotated[Visitor, admin]) -> RotatedReply:
        """Add a key to the key file and seal every secret in the database again with it; old keys still open."""
        try:
            key, done = await parts.lane(change_key, parts.db, parts.vault, visitor.person, parts.clock.now())
        except (VaultError, OSError) as error:
            log.warning("keys not rotated", error=f"{type(error).__name__}: {error}")
            hint = "Nothing was sealed again. The service must be able to write the key file and its folder."
            raise Problem(500, "The key file cannot be changed.", hint=hint) from None
        log.info("keys rotated", key=key, person=visitor.person, resealed=done.moved, failed=len(done.failed))
        return RotatedReply(key=key, resealed=done.moved, failed=list(done.failed))

    return routes
