"""JSON for people's programs and the CLI, under /api/v1; the fields are described in schema.py."""

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from pydantic import AfterValidator, AwareDatetime

from app.core.model import Lease, Reason
from app.core.states import State
from app.store import leases, people
from app.web import schema
from app.web.auth import Gate, Visitor, issue_login_link
from app.web.errors import Problem
from app.web.parts import WebParts
from app.web.reads import Reads, Tab, Which


def _in_utc(at: datetime) -> datetime:
    """Raises ValueError for a moment that has no year in UTC, as the first hour of year 1 in the east."""
    try:
        return at.astimezone(UTC)
    except OverflowError:
        raise ValueError("no such moment in UTC") from None


Limit = Annotated[int, Query(ge=1, le=500)]
After = Annotated[int, Query(ge=-1, le=2**31 - 1, description="The number of the last line that is known; -1: none.")]
Before = Annotated[
    Annotated[AwareDatetime, AfterValidator(_in_utc)] | None, Query(description="The `before` of the page before.")
]


async def ask(parts: WebParts, lease: Lease, what: leases.What, reason: str, visitor: Visitor) -> None:
    """Write down a person's wish, audited, and hint to the engine. Raises Problem (409) if it is too late or asked before."""
    if lease.state is State.RELEASED:
        raise Problem(409, f"{lease.name} is gone already.")
    text, now = reason.strip()[:200] or "no reason given", parts.clock.now()
    done = await parts.lane(leases.ask, parts.db, lease.id, what, Reason.OPERATOR, text, visitor.person, now)
    if not done:
        raise Problem(409, f"{lease.name} is {lease.state} and was asked to {what} before, or is past it.")
    parts.bell.ring()


def router(parts: WebParts, gate: Gate, reads: Reads) -> APIRouter:
    """Every route asks for a role; errors hold the exit code that the CLI ends with."""
    routes = APIRouter(prefix="/api/v1", tags=["for people and the CLI"])
    viewer, operator = Depends(gate.viewer), Depends(gate.operator)

    @routes.get("/whoami")
    async def whoami(visitor: Annotated[Visitor, viewer]) -> schema.WhoamiReply:
        """Whom the token or the session speaks for."""
        return schema.WhoamiReply(person=visitor.person, role=visitor.role)

    @routes.get("/overview", dependencies=[viewer])
    async def overview() -> schema.OverviewReply:
        """What the first page shows."""
        return await reads.overview()

    @routes.get("/leases", dependencies=[viewer])
    async def list_leases(
        which: Which = "live", limit: Limit = 100, before: Before = None, text: str = ""
    ) -> schema.LeasesReply:
        """Leases, the newest first."""
        return await reads.leases(which, limit, before, text[:100])

    @routes.get("/leases/{ref}", dependencies=[viewer])
    async def show_lease(ref: str) -> schema.LeaseReply:
        """One lease whole, by id, name or the start of its id."""
        return await reads.lease(ref)

    @routes.get("/leases/{ref}/logs", dependencies=[viewer])
    async def read_log(ref: str, after: After = -1, limit: Annotated[int, Query(ge=1, le=5000)] = 1000) -> schema.LogReply:
        """Lines of the node's log after the one of this number."""
        return await reads.log(await reads.find(ref), after, limit)

    @routes.post("/leases/{ref}/drain")
    async def drain(ref: str, body: schema.AskBody, visitor: Annotated[Visitor, operator]) -> schema.AskedReply:
        """Let its job end, then give the machine back."""
        return await _asked(ref, "drain", body, visitor)

    @routes.post("/leases/{ref}/destroy")
    async def destroy(ref: str, body: schema.AskBody, visitor: Annotated[Visitor, operator]) -> schema.AskedReply:
        """End its job now and give the machine back."""
        return await _asked(ref, "destroy", body, visitor)

    async def _asked(ref: str, what: leases.What, body: schema.AskBody, visitor: Visitor) -> schema.AskedReply:
        lease = await reads.find(ref)
        await ask(parts, lease, what, body.reason, visitor)
        return schema.AskedReply(id=lease.id, name=lease.name, asked=what, state=lease.state)

    @routes.get("/queue", dependencies=[viewer])
    async def queue(tab: Tab = "waiting", limit: Limit = 100, before: Before = None) -> schema.QueueReply:
        """Jobs, each with the sentence why it waits."""
        return (await reads.queue(tab, limit, before))[0]

    @routes.get("/resolve", dependencies=[viewer])
    async def resolve(ref: str) -> schema.ResolveReply:
        """The lease that a name, an id, the start of an id or a job's address means."""
        lease = await reads.find(ref)
        return schema.ResolveReply(id=lease.id, name=lease.name)

    @routes.get("/doctor", dependencies=[viewer])
    async def doctor() -> schema.DoctorReply:
        """Every check with its state and one thing to do; costs nothing."""
        return await reads.doctor()

    @routes.post("/login-links")
    async def login_link(request: Request, visitor: Annotated[Visitor, viewer]) -> schema.LoginLinkReply:
        """A link that opens the dashboard once, as the person whom the token speaks for."""
        now = parts.clock.now()
        path = await parts.lane(issue_login_link, parts.db, now, visitor.person)
        base = str(request.base_url).rstrip("/")  # the address that the asker reached us at works for its browser too
        return schema.LoginLinkReply(url=base + path, expires_at=now + people.LINK_LIFETIME)

    return routes
