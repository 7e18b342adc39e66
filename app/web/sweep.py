"""A person's look at the sweep over HTTP, and their word that strays may go."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path
from pydantic import BaseModel, Field, StringConstraints

from app.store import strays
from app.web.auth import Gate, Visitor
from app.web.errors import Problem
from app.web.parts import WebParts
from app.web.reads import Reads
from app.web.schema import Reply
from app.web.sweep_views import SweepReply

InstanceId = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class ConfirmBody(BaseModel):
    instances: list[InstanceId] = Field(min_length=1, max_length=5000, description="Exactly these may go, and no others.")
    reason: str = Field(min_length=1, max_length=200, description="Why, in your words; kept in the audit.")


class ConfirmedReply(Reply):
    provider: str
    confirmed: int = Field(description="How many of them waited. The word counts for an hour.")


async def confirm(parts: WebParts, provider: str, instances: list[str], reason: str, visitor: Visitor) -> int:
    """Write down that these strays may go, audited, and hint to the engine. Raises Problem (409) if none of them waits."""
    now, text = parts.clock.now(), reason.strip()[:200] or "no reason given"
    count = await parts.lane(strays.confirm, parts.db, provider, visitor.person, now, frozenset(instances), text)
    if not count:
        raise Problem(
            409, f"None of these instances of {provider} waits for a word.", hint="`sublet sweep` shows those that do."
        )
    parts.bell.ring()
    return count


def router(parts: WebParts, gate: Gate, reads: Reads) -> APIRouter:
    """/api/v1/sweep."""
    routes = APIRouter(prefix="/api/v1", tags=["for people and the CLI"])

    @routes.get("/sweep", dependencies=[Depends(gate.viewer)])
    async def look() -> SweepReply:
        """What each provider has under our owner tag, and what of it is no lease's own."""
        return await reads.sweep()

    @routes.post("/sweep/{provider}/confirm")
    async def let_go(
        provider: Annotated[str, Path(max_length=60)], body: ConfirmBody, visitor: Annotated[Visitor, Depends(gate.operator)]
    ) -> ConfirmedReply:
        """Let exactly these strays be destroyed, however many they are. The word counts for an hour."""
        count = await confirm(parts, provider, list(body.instances), body.reason, visitor)
        return ConfirmedReply(provider=provider, confirmed=count)

    return routes
