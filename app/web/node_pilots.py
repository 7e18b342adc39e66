"""What the node of a pilot is asked to measure, the bytes that it may fetch for that, and the report that it sends."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator
from datetime import datetime
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from app.core.model import Lease
from app.core.pilot import is_pilot
from app.store import pilots
from app.web.node_bodies import Measured
from app.web.parts import WebParts

SAMPLE_BYTES = 32 * 1024 * 1024
"""What a pilot's node may fetch, once: more than most lines carry in a second, and no load for us."""
PIECE = os.urandom(64 * 1024)  # nothing on the way can make it shorter
PATIENCE = 30.0
"""Seconds after which the sample ends, however slowly it is read."""


class Sample(StreamingResponse):
    """The bytes; a reader who stands still is hung up on."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await super().__call__(scope, receive, send)


class NodePilots:
    """Answers one node at a time; a lease that is no pilot's is told nothing."""

    def __init__(self, parts: WebParts) -> None:
        self._parts = parts

    def wanted(self, lease: Lease) -> dict[str, Any] | None:
        """For the join answer: what to measure. None: this is no pilot."""
        return {"bytes": SAMPLE_BYTES, "hosts": list(self._parts.settings.forge_hosts)} if is_pilot(lease.key) else None

    async def sample(self, lease: Lease, now: datetime) -> Sample | None:
        """Once for each pilot. None: it is none, had it before, or is over."""
        parts = self._parts
        if not is_pilot(lease.key) or not await parts.lane(pilots.sampled, parts.db, lease.id, now):
            return None
        return Sample(_pieces(), media_type="application/octet-stream", headers={"cache-control": "no-store"})

    async def measured(self, lease: Lease, told: Measured, now: datetime) -> bool:
        """Keep what it says. False: it is no pilot, said it before, or is over."""
        parts = self._parts
        if not is_pilot(lease.key):
            return False
        kept = await parts.lane(pilots.measured, parts.db, lease.id, told.model_dump(exclude_none=True), now)
        if kept:
            parts.bell.ring()
        return kept


async def _pieces() -> AsyncGenerator[bytes]:
    for _ in range(SAMPLE_BYTES // len(PIECE)):
        yield PIECE
