"""The pages for people: each is the API's own answer, put into a template; each has its JSON twin at the same path."""

import hashlib
import shlex
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel
from starlette.datastructures import FormData
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from app.core.model import Lease
from app.store import leases
from app.store.people import Role
from app.web import schema, sheet
from app.web.api import Before, ask
from app.web.auth import Gate, Visitor
from app.web.image_views import image_sheet
from app.web.pages import YEAR_SECONDS, Pages, local_path, rfc3339
from app.web.parts import WebParts
from app.web.reads import Reads, Tab, Which
from app.web.sweep import confirm
from app.web.why import why

PAGE = 50
TAIL = 500
"""Lines of the log that the page begins with; the stream brings the rest."""
TICKING = frozenset({"cost", "waiting_seconds", "oldest_wait_seconds", "now", "age_seconds", "seen_at", "offers_seen_at"})
"""Fields that change with the time alone; the quarter minute in the ETag covers them."""
TASTES: Mapping[str, tuple[str, ...]] = {
    "times": ("utc", "local", "relative"),
    "theme": ("system", "light", "dark"),
    "keys": ("on", "off"),
}
SAID: Mapping[str, str] = {
    "sweep": "Written down; the sweep destroys them within a minute.",
    "drain": "Asked to drain; the engine does it now.",
    "destroy": "Asked to destroy; the engine does it now.",
}


def digest(reply: BaseModel) -> str:
    """Changes when the rows do, not with every tick of a cost."""

    def still(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: still(inner) for key, inner in value.items() if key not in TICKING}  # pyright: ignore[reportUnknownVariableType]
        if isinstance(value, list):
            return [still(inner) for inner in value]  # pyright: ignore[reportUnknownVariableType]
        return value

    return hashlib.sha256(repr(still(reply.model_dump(mode="json"))).encode()).hexdigest()


def lease_context(detail: schema.LeaseDetail, visitor: Visitor, now: datetime) -> dict[str, Any]:
    """What the templates of one lease need beside the common things."""
    return {
        "lease": detail,
        "line": sheet.timeline(detail, now),
        "why": why(detail.decision),
        "proof": sheet.proof(detail),
        "image_sheet": image_sheet(detail),
        "actions": sheet.actions(detail, visitor, now),
        "forecast": sheet.forecast(detail),
        "before_job": sheet.before_job(detail),
        "owed_since": detail.billing.since,
    }


def router(parts: WebParts, gate: Gate, pages: Pages, reads: Reads) -> APIRouter:
    """Every page and its twin."""
    routes = APIRouter(include_in_schema=False)
    viewer, operator = Depends(gate.viewer), Depends(gate.operator)

    @routes.get("/")
    async def overview(request: Request, visitor: Annotated[Visitor, viewer]) -> Response:
        board = await reads.overview()
        return pages.page(
            request, "overview.html", visitor, board=board, live_page=True, stream="/live/overview",
            twin="/overview.json", cli="sublet ps",
        )  # fmt: skip

    @routes.get("/overview.json", dependencies=[viewer])
    async def overview_twin() -> schema.OverviewReply:
        return await reads.overview()

    @routes.get("/queue")
    async def queue(
        request: Request, visitor: Annotated[Visitor, viewer], tab: Tab = "waiting", before: Before = None
    ) -> Response:
        reply, live = await reads.queue(tab, PAGE, before)
        query = urlencode({"tab": tab})
        older = f"/queue?{urlencode({'tab': tab, 'before': rfc3339(reply.before)})}" if reply.before else ""
        return pages.listed(
            request, "queue.html", visitor, digest(reply), reply=reply, items=reply.jobs, counts=reply.counts, tab=tab,
            live=live, more=older, live_page=True, poll=5, twin=f"/queue.json?{query}",
            cli="sublet queue" if tab == "waiting" else f"sublet queue list --tab {tab}",
        )  # fmt: skip

    @routes.get("/queue.json", dependencies=[viewer])
    async def queue_twin(tab: Tab = "waiting", before: Before = None) -> schema.QueueReply:
        return (await reads.queue(tab, PAGE, before))[0]

    @routes.get("/leases")
    async def list_leases(
        request: Request,
        visitor: Annotated[Visitor, viewer],
        which: Which = "live",
        text: str = "",
        before: Before = None,
    ) -> Response:
        text = text.strip()[:100]
        reply = await reads.leases(which, PAGE, before, text)
        here = {"which": which, **({"text": text} if text else {})}
        older = f"/leases?{urlencode({**here, 'before': rfc3339(reply.before)})}" if reply.before else ""
        return pages.listed(
            request, "leases.html", visitor, digest(reply), leases=reply.leases, which=which, text=text, more=older,
            live_page=True, poll=5, twin=f"/leases.json?{urlencode(here)}",
            cli=f"sublet lease list --which {which}{f' --text={shlex.quote(text)}' if text else ''}" if text or which != "live"
            else "sublet ps",
        )  # fmt: skip

    @routes.get("/leases.json", dependencies=[viewer])
    async def leases_twin(which: Which = "live", text: str = "", before: Before = None) -> schema.LeasesReply:
        return await reads.leases(which, PAGE, before, text.strip()[:100])

    @routes.get("/leases/{ref}.json", dependencies=[viewer])
    async def lease_twin(ref: str) -> schema.LeaseReply:
        return await reads.lease(ref)

    @routes.get("/leases/{ref}/log.txt", dependencies=[viewer])
    async def log_file(ref: str) -> Response:
        lease = await reads.find(ref)
        lines: list[str] = []
        after = -1
        while (page := await reads.log(lease, after, 5_000)).lines:
            lines += [f"{rfc3339(line.at)} {line.source:8} {line.line}" for line in page.lines]
            after = page.last
        name = f"attachment; filename*=UTF-8''{quote(lease.name)}.log"
        return PlainTextResponse("\n".join([*lines, ""]), headers={"content-disposition": name})

    @routes.get("/leases/{ref}")
    async def show_lease(request: Request, ref: str, visitor: Annotated[Visitor, viewer], asked: str = "") -> Response:
        detail = await reads.lease(ref)
        if ref != detail.name:  # one address for each page
            return RedirectResponse(f"/leases/{quote(detail.name)}", 303)
        over = detail.gone and not detail.cost.estimate
        found = await reads.find(detail.id)
        tail = await reads.log(found, max(detail.log_lines - TAIL, 0) - 1)
        return pages.page(
            request, "lease.html", visitor, **lease_context(detail, visitor, reads.now()), log=tail.lines, log_last=tail.last,
            live_page=not over, stream="" if over else f"/live/leases/{quote(detail.id)}",
            twin=f"/leases/{quote(detail.name)}.json", said=SAID.get(asked, ""),
        )  # fmt: skip

    @routes.post("/leases/{ref}/drain")
    async def drain(request: Request, ref: str, visitor: Annotated[Visitor, operator]) -> Response:
        return await _asked(request, await reads.find(ref), "drain", visitor)

    @routes.post("/leases/{ref}/destroy")
    async def destroy(request: Request, ref: str, visitor: Annotated[Visitor, operator]) -> Response:
        return await _asked(request, await reads.find(ref), "destroy", visitor)

    async def _asked(request: Request, lease: Lease, what: leases.What, visitor: Visitor) -> Response:
        form = await request.form()
        await ask(parts, lease, what, _field(form, "reason"), visitor)
        return RedirectResponse(f"/leases/{quote(lease.name)}?asked={what}", 303)

    @routes.get("/health-page")
    async def health(request: Request, visitor: Annotated[Visitor, viewer], asked: str = "") -> Response:
        reply, told = await reads.doctor(), await reads.sweep()
        return pages.page(
            request, "health.html", visitor, checks=reply.checks, sweeps=[one for one in told.providers if one.strays],
            may_confirm=visitor.may(Role.OPERATOR), twin="/health-page.json", cli="sublet doctor", said=SAID.get(asked, ""),
        )  # fmt: skip

    @routes.post("/sweep/{provider}/confirm")
    async def let_go(request: Request, provider: str, visitor: Annotated[Visitor, operator]) -> Response:
        form = await request.form()
        named = [value for value in form.getlist("instance") if isinstance(value, str)]
        await confirm(parts, provider, named, _field(form, "reason"), visitor)
        return RedirectResponse("/health-page?asked=sweep", 303)

    @routes.get("/health-page.json", dependencies=[viewer])
    async def health_twin() -> schema.DoctorReply:
        return await reads.doctor()

    @routes.post("/preferences", dependencies=[viewer])
    async def preferences(request: Request) -> Response:
        form = await request.form()
        answer = RedirectResponse(local_path(_field(form, "back") or "/"), 303)
        for name, values in TASTES.items():
            value = _field(form, name)
            if value in values:
                answer.set_cookie(name, value, max_age=YEAR_SECONDS, samesite="lax", secure=parts.settings.https, path="/")
        return answer

    @routes.get("/static/{name}")
    async def static(name: str) -> Response:
        asset = pages.assets.get(name)
        if asset is None:
            return PlainTextResponse("There is no such file.\n", 404)
        headers = {"cache-control": f"public, max-age={YEAR_SECONDS}, immutable"}
        return Response(asset.content, media_type=asset.media_type, headers=headers)

    return routes


def _field(form: FormData, name: str) -> str:
    value = form.get(name)
    return value if isinstance(value, str) else ""
