"""Server-sent events for the overview, one lease and its log: what changed, as fragments; nothing for hidden tabs."""

import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response, StreamingResponse

from app.core.states import State
from app.kit.telemetry import logger
from app.store import board
from app.web import schema
from app.web.api import After
from app.web.auth import Gate, Visitor
from app.web.dashboard import lease_context
from app.web.errors import Problem
from app.web.pages import Pages, Taste, clock_text, rfc3339
from app.web.parts import WebParts
from app.web.reads import Reads
from app.web.sheet import told
from app.web.words import LOOKS, visible

log = logger(__name__)

LOOK = 1.0
"""Seconds between two looks at the stamp of what is shown."""
BEAT = 15.0
"""Seconds between two words of the server, so that proxies keep the stream and costs are corrected."""
LONGEST = 900.0
"""Seconds of one stream; the browser comes back with `Last-Event-ID`."""
MOST = 200
"""Streams at once; beyond it pages stay as they are and say so."""
HEADERS = {"x-accel-buffering": "no", "cache-control": "no-store"}
OVERVIEW: Mapping[str, str] = {
    "tiles": "overview_tiles.html",
    "attention": "overview_attention.html",
    "live-leases": "overview_live.html",
    "waiting": "overview_waiting.html",
    "recent": "overview_recent.html",
}
LEASE: Mapping[str, str] = {
    "lease-head": "lease_head.html",
    "lease-actions": "lease_actions.html",
    "timeline": "lease_timeline.html",
    "cost": "lease_cost.html",
    "why": "lease_why.html",
    "proof": "lease_proof.html",
    "audit": "lease_audit.html",
}


def event(name: str, data: Any, number: int | None = None) -> str:
    """One event. JSON has no raw line ends, so nothing can break out of its line."""
    head = "" if number is None else f"id: {number}\n"
    return f"{head}event: {name}\ndata: {json.dumps(data)}\n\n"


class Feed:
    """What one tab is told: fragments that differ from what it has, and sentences when a phase changes."""

    def __init__(self, pages: Pages, request: Request, visitor: Visitor, templates: Mapping[str, str]) -> None:
        self._pages, self._request, self._visitor, self._templates = pages, request, visitor, templates
        self._shown: dict[str, str] = {}

    def swap(self, context: Mapping[str, Any]) -> str:
        """The fragments that changed, and the time of this look."""
        values = {**self._pages.context(self._request, self._visitor), **context}
        fresh = {name: self._pages.render(template, values) for name, template in self._templates.items()}
        changed = {name: html for name, html in fresh.items() if self._shown.get(name) != html}
        self._shown = fresh
        style, now = Taste.of(self._request).times, values["now"]
        words = {"text": f"updated {clock_text(style, now)}{' UTC' if style.form == 'utc' else ''}"}
        return (event("swap", changed) if changed else "") + event("tick", words)


def router(parts: WebParts, gate: Gate, pages: Pages, reads: Reads) -> APIRouter:
    """/live/overview, /live/leases/{ref}."""
    routes = APIRouter(include_in_schema=False)
    viewer = Depends(gate.viewer)
    count = 0

    def stream(events: AsyncGenerator[str, None]) -> Response:
        async def counted() -> AsyncGenerator[str, None]:
            nonlocal count
            count += 1
            try:
                async with contextlib.aclosing(events):
                    async for piece in events:
                        yield piece
            except Exception as error:  # noqa: BLE001  it began with 200 already: end it, and the browser comes back by itself
                log.warning("live stream broke", error=f"{type(error).__name__}: {error}")
            finally:
                count -= 1

        if count >= MOST:
            raise Problem(503, "Too many live pages are open.", headers={"retry-after": "30"})
        return StreamingResponse(counted(), media_type="text/event-stream", headers=HEADERS)

    async def looks(request: Request, stamp: Callable[[], Awaitable[Any]]) -> AsyncIterator[tuple[bool, bool]]:
        """(did something change, is it time to speak anyway), once a second, as long as the visitor may see it."""
        began = spoke = known = parts.clock.monotonic()
        last: Any = object()
        while (now := parts.clock.monotonic()) - began < LONGEST:
            fresh, beat = await stamp(), now - spoke >= BEAT
            if now - known >= BEAT:  # by a clock of its own: a page that changes all the time has no beat
                if await gate.visitor(request) is None:
                    return  # logged out meanwhile
                known = now
            changed = fresh != last
            if changed or beat:
                spoke = now
            last = fresh
            yield changed, beat
            await parts.clock.sleep(LOOK)

    async def overview_events(request: Request, visitor: Visitor) -> AsyncGenerator[str, None]:
        feed = Feed(pages, request, visitor, OVERVIEW)
        states: dict[str, str] | None = None
        async for changed, beat in looks(request, lambda: parts.lane(board.overview_stamp, parts.db)):
            if not (changed or beat):
                continue
            reply = await reads.overview()
            sentences = _moves(states, reply)
            states = {view.name: view.state for view in (*reply.recent, *reply.live)}
            yield (": beat\n\n" if beat else "") + feed.swap({"board": reply})
            if sentences:
                yield event("say", {"text": " ".join(sentences[:3])})

    async def lease_events(request: Request, visitor: Visitor, ref: str, after: int) -> AsyncGenerator[str, None]:
        lease = await reads.find(ref)
        feed = Feed(pages, request, visitor, LEASE)
        said = ""
        async for changed, beat in looks(request, lambda: parts.lane(board.stamp, parts.db, lease.id)):
            taste = Taste.of(request).times
            while (page := await reads.log(lease, after)).lines:
                after = page.last
                lines = [
                    {"seq": line.seq, "at": rfc3339(line.at), "clock": clock_text(taste, line.at), "source": line.source,
                     "line": visible(line.line)}
                    for line in page.lines
                ]  # fmt: skip
                yield event("lines", lines, after)
            if not (changed or beat):
                continue
            detail = await reads.lease(lease.id)
            yield (": beat\n\n" if beat else "") + feed.swap(lease_context(detail, visitor, reads.now()))
            sentence = told(detail)
            if said and sentence != said:
                yield event("say", {"text": sentence})
            said = sentence
            if detail.gone and not detail.cost.estimate and not changed:
                yield event("over", {})
                return

    @routes.get("/live/overview")
    async def overview(request: Request, visitor: Annotated[Visitor, viewer]) -> Response:
        return stream(overview_events(request, visitor))

    @routes.get("/live/leases/{ref}")
    async def lease(request: Request, ref: str, visitor: Annotated[Visitor, viewer], after: After = -1) -> Response:
        found = await reads.find(ref)
        told_before = request.headers.get("last-event-id", "")
        if told_before.isascii() and told_before.isdigit():  # "²" is a digit, too, and no number
            after = max(after, int(told_before[:12]))
        return stream(lease_events(request, visitor, found.id, after))

    return routes


def _moves(before: Mapping[str, str] | None, reply: schema.OverviewReply) -> list[str]:
    """A sentence for each lease whose phase changed since the last look."""
    if before is None:
        return []
    return [
        f"{view.name} {LOOKS[State(view.state)].doing}."
        for view in (*reply.recent, *reply.live)
        if before.get(view.name) != view.state
    ]
