"""Revoked images over HTTP: which digests may not run any more, and a person's word that adds one or takes it back."""

from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field, StringConstraints

from app.store import images
from app.web.auth import Gate, Visitor
from app.web.errors import Problem
from app.web.parts import WebParts
from app.web.schema import Moment, Reply, View

Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
IN_SETTINGS = "settings"


class RevokedView(View):
    digest: str
    why: str
    actor: str = Field(description="Who revoked it; `settings` for those that stand there.")
    at: Moment | None = Field(description="Null for those of the settings.")
    pool: str = Field(default="", description="Where only the settings of one pool revoke it.")


class RevokedReply(Reply):
    revoked: list[RevokedView]


class RevokeBody(BaseModel):
    digest: Digest = Field(
        description="Of an index, a manifest or a configuration: each stops every image that it is a part of."
    )
    reason: str = Field(min_length=1, max_length=200, description="Why, in your words; kept in the audit, and shown.")


class RevokedDoneReply(Reply):
    digest: str
    revoked: bool


def router(parts: WebParts, gate: Gate) -> APIRouter:
    """/api/v1/images: everybody looks, an operator revokes, and only an admin takes that back."""
    routes = APIRouter(prefix="/api/v1/images", tags=["for people and the CLI"])

    @routes.get("/revoked", dependencies=[Depends(gate.viewer)])
    async def listing() -> RevokedReply:
        """Digests that may not run any more, whoever signed them: the newest first, then those of the settings."""
        noted = await parts.lane(images.revoked, parts.db)
        told = [RevokedView(digest=one.digest, why=one.why, actor=one.actor, at=one.at) for one in noted]
        return RevokedReply(revoked=[*told, *_written(parts)])

    @routes.post("/revoke")
    async def revoke(body: RevokeBody, visitor: Annotated[Visitor, Depends(gate.operator)]) -> RevokedDoneReply:
        """From now on it does not run: not for a new lease, not for one that has no credential yet, in no container."""
        now = parts.clock.now()
        if not await parts.lane(images.revoke, parts.db, body.digest, body.reason.strip(), visitor.person, now):
            raise Problem(409, "This digest was revoked before.", hint="`sublet image list-revoked` shows by whom, and why.")
        parts.bell.ring()
        return RevokedDoneReply(digest=body.digest, revoked=True)

    @routes.post("/unrevoke")
    async def unrevoke(body: RevokeBody, visitor: Annotated[Visitor, Depends(gate.admin)]) -> RevokedDoneReply:
        """It may run again, if it passes. One that the settings revoke is taken out there."""
        now = parts.clock.now()
        if not await parts.lane(images.unrevoke, parts.db, body.digest, body.reason.strip(), visitor.person, now):
            there = any(one.digest == body.digest for one in _written(parts))
            where = "It is revoked in the settings: take it out of `revoked` there." if there else ""
            raise Problem(409 if there else 404, "Nobody has revoked this digest here.", hint=where)
        parts.bell.ring()
        return RevokedDoneReply(digest=body.digest, revoked=False)

    return routes


def _written(parts: WebParts) -> list[RevokedView]:
    """Those of the settings; one that every pool with an image has is said once."""
    rules = {name: pool.trust.revoked for name, pool in sorted(parts.pools.items()) if pool.trust is not None}
    named = {digest for revoked in rules.values() for digest in revoked}
    everywhere = {digest for digest in named if all(digest in revoked for revoked in rules.values())}
    found = [RevokedView(digest=digest, why="", actor=IN_SETTINGS, at=None) for digest in sorted(everywhere)]
    for name, revoked in rules.items():
        found += [
            RevokedView(digest=one, why="", actor=IN_SETTINGS, at=None, pool=name) for one in sorted(revoked - everywhere)
        ]
    return found
