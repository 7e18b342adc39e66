"""build(parts) -> the ASGI application: routes, the shield around them, and one place for every error."""

import asyncio
from datetime import timedelta
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from app.kit.telemetry import logger
from app.web import api, auth, dashboard, docs_page, images, intake, live, nodes, offers, people_api, pilots, providers, sweep
from app.web.doctor import beat_age, beat_late, engines_alive
from app.web.errors import LoginNeeded, Problem, explain, reply, wants_page
from app.web.head import Heads
from app.web.pages import Pages
from app.web.parts import WebParts
from app.web.reads import Reads
from app.web.scrape import Scrape
from app.web.shield import Shield

log = logger(__name__)
READY_PATIENCE = 3.0
"""Seconds that the database may take before the service calls itself not ready."""


def build(parts: WebParts) -> FastAPI:
    """The whole web as one application; it starts nothing in the background and needs no start or stop."""
    app = FastAPI(
        title="Sublet",
        summary="Leases one GPU machine for one queued CI job, and gives it back.",
        version=parts.settings.version,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    pages, gate, reads, markets = Pages(parts), auth.Gate(parts), Reads(parts), offers.Markets(parts)
    known = providers.Providers(parts, markets)

    def respond(request: Request, problem: Problem) -> Response:
        request_id = str(getattr(request.state, "request_id", ""))
        if wants_page(request):
            return pages.trouble(request, problem, request_id)
        return reply(problem, request_id)

    async def failed(request: Request, error: Exception) -> Response:
        return respond(request, explain(error))

    app.add_exception_handler(HTTPException, failed)
    app.add_exception_handler(RequestValidationError, failed)
    deliveries = intake.Intake(parts)
    app.add_middleware(intake.Door, intake=deliveries)
    app.add_middleware(Heads)
    app.add_middleware(Shield, clock=parts.clock, respond=respond, https=parts.settings.https)
    for routes in (
        service_router(parts, gate),
        intake.router(deliveries),
        nodes.router(parts),
        api.router(parts, gate, reads),
        people_api.router(parts, gate),
        sweep.router(parts, gate, reads),
        offers.api_router(gate, markets),
        providers.api_router(gate, known),
        pilots.router(parts, gate),
        images.router(parts, gate),
        auth.router(parts, gate, pages),
        live.router(parts, gate, pages, reads),
        dashboard.router(parts, gate, pages, reads),
        offers.page_router(parts, gate, pages, markets, known.listing),
        providers.page_router(parts, gate, pages, known, markets),
        docs_page.router(app, gate, pages, parts.settings.public_url),
    ):
        app.router.routes.extend(routes.routes)  # one flat list: a router inside it would be searched at each request
    return app


def build_probe(parts: WebParts) -> FastAPI:
    """What a process without a web answers: whether it lives and works, and its metrics. Nothing else can be reached there."""
    app = FastAPI(title="Sublet engine", version=parts.settings.version, docs_url=None, redoc_url=None, openapi_url=None)

    def respond(request: Request, problem: Problem) -> Response:
        return reply(problem, str(getattr(request.state, "request_id", "")))

    async def failed(request: Request, error: Exception) -> Response:
        return respond(request, explain(error))

    app.add_exception_handler(HTTPException, failed)
    app.add_middleware(Shield, clock=parts.clock, respond=respond, https=parts.settings.https)
    app.include_router(service_router(parts, auth.Gate(parts)))
    return app


def service_router(parts: WebParts, gate: auth.Gate) -> APIRouter:
    """What machines ask of the service itself."""
    routes = APIRouter(tags=["service"])
    scrape = Scrape(parts)

    @routes.get("/healthz")
    async def alive() -> dict[str, Any]:
        """The process answers."""
        return {"ok": True, "version": parts.settings.version}

    @routes.get("/readyz")
    async def ready() -> JSONResponse:
        """The database answers, and the engine of this process, if it has one, keeps looking. 503 otherwise.

        A web without any engine stays ready: it records deliveries and serves nodes, and they wait for an engine. Were it
        taken out of a balancer, they would be lost instead. `engine` and `engines` say what is missing."""
        database = await _answers(parts)
        age = beat_age(parts)
        seconds = None if age is None else age / timedelta(seconds=1)
        engines = await engines_alive(parts) if database else 0
        engine = not beat_late(parts) if parts.engine_beat is not None else engines > 0
        ok = database and (engine or parts.engine_beat is None)
        found = {
            "ok": ok,
            "database": database,
            "engine": engine,
            "engine_beat_age_seconds": seconds,
            "engines": engines,
            "replica": parts.replica,
        }
        return JSONResponse(found, 200 if ok else 503)

    @routes.get("/metrics")
    async def metrics(request: Request) -> Response:
        """Prometheus text; gauges and counters are read from the database at each scrape."""
        if not parts.settings.metrics_open and await gate.visitor(request) is None:
            raise LoginNeeded
        text, media_type = await scrape.text()
        return Response(text, headers={"content-type": media_type})

    return routes


async def _answers(parts: WebParts) -> bool:
    try:
        async with asyncio.timeout(READY_PATIENCE):
            await parts.lane(parts.db.ping)
    except Exception as error:  # noqa: BLE001  whatever it is, the service is not ready
        log.warning("not ready", error=f"{type(error).__name__}: {error}")
        return False
    return True
