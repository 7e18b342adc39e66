"""Who asks, and what they may: one-time links, session cookies, API tokens, roles, and the check that a form is ours."""

import hashlib
import hmac
import secrets
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, Request
from starlette.datastructures import FormData
from starlette.responses import RedirectResponse, Response

from app.kit.telemetry import logger
from app.store import people
from app.store.db import Database
from app.store.people import Role
from app.web.errors import LoginNeeded, Problem
from app.web.head import only_looks
from app.web.pages import Pages, local_path
from app.web.parts import WebParts
from providers.contract import Secret

log = logger(__name__)

OWNER = "admin"
"""The person whom the service's own links and tokens speak for."""
CLI_LABEL = "command line on the service's own machine"
"""With the machine's name: each has its own token, so that a service which starts on one ends no other's."""
RANK: Mapping[Role, int] = {Role.VIEWER: 0, Role.OPERATOR: 1, Role.ADMIN: 2}
SESSION_SECONDS = int(people.SESSION_LIFETIME.total_seconds())
MOST_FAILURES, FAILURE_WINDOW = 10, 300.0
"""Wrong links or tokens of one address within so many seconds; both are unguessable, this only keeps the noise down.
So each process counts for itself: behind a balancer a guesser has as many times more as there are webs, and no hope still."""
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


def hashed(secret: str) -> str:
    """What is stored of a link, a session or a token: they are 256 random bits, so a plain hash cannot be searched."""
    return hashlib.sha256(secret.encode()).hexdigest()


def issue_login_link(db: Database, now: datetime, person: str = OWNER) -> str:
    """A path that logs in once within 15 minutes: `/login?once=…`. Makes the owner's account if there is none."""
    if person == OWNER:
        people.ensure_person(db, OWNER, Role.ADMIN, now)
    once = secrets.token_urlsafe(32)
    people.add_link(db, hashed(once), person, now)
    return f"/login?once={once}"


def issue_cli_token(db: Database, now: datetime, host: str = "") -> Secret:
    """A token for the CLI beside the service on this machine; the one issued there before ends."""
    label = f"{CLI_LABEL} {host}".strip()
    people.ensure_person(db, OWNER, Role.ADMIN, now)
    people.revoke_labelled(db, OWNER, label, now)
    return issue_token(db, OWNER, label, now)


def is_owners(db: Database, token: str, now: datetime) -> bool:
    """Whether this token speaks for the owner."""
    person = people.token_person(db, hashed(token), now) if token else None
    return person is not None and person.name == OWNER and person.role is Role.ADMIN


def issue_token(db: Database, person: str, label: str, now: datetime, expires: datetime | None = None) -> Secret:
    """An API token; it is shown once and kept only as a hash. The person must be there."""
    token = f"sbl_{secrets.token_urlsafe(32)}"
    people.add_token(db, hashed(token), person, label, now, expires)
    return Secret(token)


@dataclass(frozen=True, slots=True)
class Visitor:
    """Whoever sent the request."""

    person: str
    role: Role
    csrf: str = ""  # of a browser's session; a token needs none

    def may(self, role: Role) -> bool:
        return RANK[self.role] >= RANK[role]


class Failures:
    """How often an address was wrong lately; forgets the quietest first, so that it stays small."""

    def __init__(self) -> None:
        self._times: OrderedDict[str, deque[float]] = OrderedDict()

    def check(self, address: str, now: float) -> None:
        """Raises Problem (429) when the address was wrong too often."""
        times = self._times.get(address)
        while times and times[0] < now - FAILURE_WINDOW:
            times.popleft()
        if times and len(times) >= MOST_FAILURES:
            wait = max(1, int(times[0] + FAILURE_WINDOW - now))
            raise Problem(429, "Too many wrong logins from your address.", headers={"retry-after": str(wait)})

    def note(self, address: str, now: float) -> None:
        self._times.setdefault(address, deque(maxlen=MOST_FAILURES)).append(now)
        self._times.move_to_end(address)
        if len(self._times) > 1_000:
            self._times.popitem(last=False)


class Gate:
    """Finds the visitor of a request, and turns away those who may not."""

    def __init__(self, parts: WebParts) -> None:
        self._parts = parts
        self._failures = Failures()
        self.cookie = "__Host-sublet" if parts.settings.https else "sublet"
        self.viewer, self.operator, self.admin = (Need(self, role) for role in (Role.VIEWER, Role.OPERATOR, Role.ADMIN))

    async def visitor(self, request: Request) -> Visitor | None:
        """By API token if one is sent, else by session cookie. Raises Problem for a token that is not good."""
        header = request.headers.get("authorization", "")
        if header:
            return await self._bearer(request, header)
        cookie = request.cookies.get(self.cookie, "")
        if not cookie or len(cookie) > 200:
            return None
        parts = self._parts
        session = await parts.lane(people.session, parts.db, hashed(cookie), parts.clock.now())
        return None if session is None else Visitor(session.person.name, session.person.role, session.csrf)

    async def _bearer(self, request: Request, header: str) -> Visitor:
        parts, address = self._parts, address_of(request)
        scheme, _, token = header.partition(" ")
        person = None
        if scheme.lower() == "bearer" and 0 < len(token) <= 200:
            person = await parts.lane(people.token_person, parts.db, hashed(token.strip()), parts.clock.now())
        if person is None:  # only then: behind one proxy, a stranger's guesses must not lock out who has a good token
            self._failures.check(address, parts.clock.monotonic())
            self._failed(address, "bad_token")
            raise LoginNeeded
        return Visitor(person.name, person.role)

    async def log_in(self, request: Request, once: str) -> tuple[str, Visitor] | None:
        """Trade a link for a new session: the cookie's value and who it is. None: the link is no good any more."""
        parts, address = self._parts, address_of(request)
        session, csrf = secrets.token_urlsafe(32), secrets.token_urlsafe(24)
        now = parts.clock.now()
        made = None
        if 0 < len(once) <= 200:
            made = await parts.lane(people.redeem_link, parts.db, hashed(once), hashed(session), csrf, now)
        if made is None:  # only then: whoever shares an address with somebody who guesses can still log in with a good link
            try:
                self._failures.check(address, parts.clock.monotonic())
            except Problem:
                parts.telemetry.logins.add(result="limited")
                raise
            self._failed(address, "bad_link")
            return None
        parts.telemetry.logins.add(result="ok")
        log.info("logged in", person=made.person.name)
        return session, Visitor(made.person.name, made.person.role, made.csrf)

    async def log_out(self, request: Request) -> None:
        cookie = request.cookies.get(self.cookie, "")
        if cookie:
            await self._parts.lane(people.close_session, self._parts.db, hashed(cookie))

    def _failed(self, address: str, result: str) -> None:
        self._failures.note(address, self._parts.clock.monotonic())
        self._parts.telemetry.logins.add(result=result)
        log.warning("login failed", result=result, address=address)

    async def check_form(self, request: Request, visitor: Visitor) -> None:
        """A write by a browser must come from our own page. Raises Problem (403)."""
        self.check_origin(request)
        sent = request.headers.get("x-csrf-token", "")
        if not sent:
            form: FormData = await request.form()
            field = form.get("csrf")
            sent = field if isinstance(field, str) else ""
        if not visitor.csrf or not hmac.compare_digest(sent.encode(), visitor.csrf.encode()):
            raise Problem(
                403, "This form is not from your session any more.", hint="Go back, reload the page and send it again."
            )

    def check_origin(self, request: Request) -> None:
        """What the browser itself says of where the form was. Raises Problem (403) if it was elsewhere."""
        site = request.headers.get("sec-fetch-site")
        origin = request.headers.get("origin")
        by_origin = origin is None or origin in self._origins(request)
        ours = by_origin if site is None else site in ("same-origin", "none")
        if not ours:
            log.warning("form from elsewhere refused", origin=origin, site=site)
            raise Problem(403, "This form was sent from another site.")

    def _origins(self, request: Request) -> tuple[str, str]:
        public = urlsplit(self._parts.settings.public_url)
        return f"{public.scheme}://{public.netloc}", f"{request.url.scheme}://{request.headers.get('host', '')}"


class Need:
    """The one dependency that asks for a role; on a write by a browser it also asks for the form's token."""

    def __init__(self, gate: Gate, role: Role) -> None:
        self._gate, self.role = gate, role

    async def __call__(self, request: Request) -> Visitor:
        visitor = await self._gate.visitor(request)
        if visitor is None:
            raise LoginNeeded
        request.state.visitor = visitor
        if request.method not in SAFE_METHODS and visitor.csrf:
            await self._gate.check_form(request, visitor)
        if not visitor.may(self.role):
            raise Problem(403, f"This needs the role {self.role}; {visitor.person} is {visitor.role}.")
        return visitor


def address_of(request: Request) -> str:
    """The caller's address as the server knows it; a proxy in front must be named to the server to be looked through."""
    return request.client.host if request.client else "unknown"


def router(parts: WebParts, gate: Gate, pages: Pages) -> APIRouter:
    """/login and /logout."""
    routes = APIRouter(include_in_schema=False)
    https = parts.settings.https

    @routes.get("/login")
    async def login(request: Request, once: str = "", next: str = "/") -> Response:
        """A link logs in at once. Whoever only looks (HEAD, prefetch) gets a button, so that the link is not used up."""
        acts = bool(once) and not only_looks(request)
        if acts:
            made = await gate.log_in(request, once)
            if made is not None:
                answer = RedirectResponse(local_path(next), 303)
                answer.set_cookie(
                    gate.cookie, made[0], max_age=SESSION_SECONDS, httponly=True, samesite="lax", secure=https, path="/"
                )
                return answer
        if await gate.visitor(request) is not None:
            return RedirectResponse(local_path(next), 303)
        if acts:
            trouble = "This login link was used before, or is older than 15 minutes."
            return pages.page(request, "login.html", None, 403, trouble=trouble, once="")
        return pages.page(request, "login.html", None, trouble="", once=once[:200])

    @routes.post("/logout")
    async def logout(request: Request, visitor: Annotated[Visitor, Depends(gate.viewer)]) -> Response:
        await gate.log_out(request)
        log.info("logged out", person=visitor.person)
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(gate.cookie, path="/", secure=https, httponly=True, samesite="lax")
        return answer

    return routes
