"""Providers over HTTP: how each stands and what it can do, a look at it that costs nothing, and a person's pause and resume."""

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Path, Request
from starlette.responses import RedirectResponse, Response

from app.core.breaker import Standing
from app.kit.telemetry import logger
from app.store import audit, board, leaks, pilots, standings
from app.store.people import Role
from app.web import pilots as piloting
from app.web import schema
from app.web.auth import Gate, Visitor
from app.web.dashboard import digest
from app.web.errors import Problem
from app.web.offers import Days, Markets, csv_of
from app.web.offers_chart import PriceLine, chart, lines
from app.web.offers_views import Filter, Market, OfferView, offers_reply
from app.web.pages import Pages
from app.web.parts import WebParts
from app.web.providers_views import (
    ProbeReply,
    ProviderReply,
    ProvidersReply,
    ProviderView,
    StandingView,
    matrix,
    provider_views,
    regions_of,
    setback_views,
    standing_view,
)
from app.web.views import audit_view
from providers.contract import Traits

log = logger(__name__)
Name = Annotated[str, Path(max_length=60)]
PATIENCE = 20.0
"""Seconds for a provider's answer to a test."""
MOST_OFFERS = 100_000
SAID: Mapping[str, str] = {
    "pause": "Paused: nothing new is rented here.",
    "resume": "Resumed: it may be rented here again.",
}


class StandingReply(schema.Reply):
    provider: str
    standing: StandingView


class Providers:
    """Reads all that is known of providers, and writes down what people say of them."""

    def __init__(self, parts: WebParts, markets: Markets) -> None:
        self._parts, self._markets = parts, markets

    async def listing(self, market: Market | None = None) -> ProvidersReply:
        """All of them; `market` as it was read already, if it was."""
        return ProvidersReply(providers=await self._views(market or await self._markets.look()))

    async def _views(self, market: Market) -> list[ProviderView]:
        parts = self._parts
        judged = await parts.lane(self._judged, market)
        found = await parts.lane(leaks.leaks, parts.db, market.now)
        numbers = await parts.lane(board.numbers, parts.db)
        live: dict[str, int] = {}
        for (_, provider, _), count in numbers.leases.items():
            live[provider] = live.get(provider, 0) + count
        return provider_views(market, judged, parts.traits, parts.makes, live, found, sorted(parts.providers))

    def _judged(self, market: Market) -> list[OfferView]:
        """Every offer, the cheapest first."""
        reply = offers_reply(market, self._parts.pools, self._parts.traits, Filter(everything=True), MOST_OFFERS)
        places = {(one.provider, one.id): place for place, one in enumerate(market.offers)}
        return sorted(reply.offers, key=lambda one: places[one.provider, one.id])

    def known(self, name: str) -> str:
        """The name itself. Raises Problem (404)."""
        if name not in self._parts.providers:
            there = ", ".join(sorted(self._parts.providers))
            raise Problem(404, f"There is no provider {name}.", hint=f"There are: {there}." if there else "There is none.")
        return name

    async def one(self, name: str, days: int = 7) -> ProviderReply:
        """One provider whole. Raises Problem (404)."""
        parts, market = self._parts, await self._markets.look()
        view = next(one for one in await self._views(market) if one.name == self.known(name))
        prices, since = await self._markets.prices(days, provider=name)
        piloted = await piloting.views(parts, await parts.lane(pilots.listing, parts.db, name, 100))
        entries = await parts.lane(audit.listing, parts.db, f"provider:{name}", 20)
        return ProviderReply(
            **dict(view),
            matrix=matrix(parts.traits.get(name, Traits())),
            setbacks=setback_views(market.known.setbacks, name)[:50],
            days=round((market.now - since).total_seconds() / 86_400, 3),
            prices=await parts.lane(lines, prices),
            pilots=piloted,
            pilot_regions=regions_of(piloted),
            audit=[audit_view(entry) for entry in entries],
        )

    async def probe(self, name: str) -> ProbeReply:
        """Ask it for key, balance and quota; costs nothing. Raises Problem (404)."""
        parts, began = self._parts, self._parts.clock.monotonic()
        ok, summary, facts = False, "", dict[str, str]()
        try:
            async with asyncio.timeout(PATIENCE):
                health = await parts.providers[self.known(name)]()
            ok, summary, facts = health.ok, health.summary, dict(health.facts)
        except Problem:
            raise
        except TimeoutError:
            summary = f"No answer within {PATIENCE:.0f} s."
        except Exception as error:  # noqa: BLE001  a vendor's client may raise anything; whoever asks is told so
            log.warning("probe failed", provider=name, error=f"{type(error).__name__}: {error}")
            summary = f"{type(error).__name__}; the log has the cause."
        shown = {str(key)[:60]: str(value)[:300] for key, value in list(facts.items())[:30]}
        seconds = round(parts.clock.monotonic() - began, 3)
        return ProbeReply(provider=name, ok=ok, summary=summary[:500], facts=shown, seconds=seconds)

    async def pause(self, name: str, reason: str, visitor: Visitor) -> StandingReply:
        """Nothing new is rented there; audited, with a hint to the engine. Raises Problem: 404, and 409 where it is paused."""
        if (before := await self._standing(name)).paused_at is not None:
            raise Problem(409, f"{name} is paused already: {before.paused_why or 'nobody said why'}")
        text = reason.strip()[:200] or "no reason given"
        parts = self._parts
        return self._told(await parts.lane(standings.pause, parts.db, name, visitor.person, text, parts.clock.now()))

    async def resume(self, name: str, visitor: Visitor) -> StandingReply:
        """It may be rented there again; audited, with a hint to the engine. Raises Problem: 404, and 409 where it may be."""
        parts, now = self._parts, self._parts.clock.now()
        before = await self._standing(name)
        if before.no(now) is None and not before.failures:
            raise Problem(409, f"{name} is well: there is nothing to resume.")
        return self._told(await parts.lane(standings.resume, parts.db, name, visitor.person, now))

    async def _standing(self, name: str) -> Standing:
        parts = self._parts
        return (await parts.lane(standings.standings, parts.db)).get(self.known(name), Standing(name))

    def _told(self, after: Standing) -> StandingReply:
        self._parts.bell.ring()
        return StandingReply(provider=after.provider, standing=standing_view(after, self._parts.clock.now()))


def api_router(gate: Gate, providers: Providers) -> APIRouter:
    """/api/v1/providers."""
    routes = APIRouter(prefix="/api/v1/providers", tags=["for people and the CLI"])
    viewer, operator = Depends(gate.viewer), Depends(gate.operator)

    @routes.get("", dependencies=[viewer])
    async def listing() -> ProvidersReply:
        """How every provider stands, what it offers, and what cools down there."""
        return await providers.listing()

    @routes.get("/{name}", dependencies=[viewer])
    async def one(name: Name, days: Days = 7) -> ProviderReply:
        """One provider, with what it can do, its prices of the last days, and what pilots measured there."""
        return await providers.one(name, days)

    @routes.post("/{name}/test", dependencies=[operator])
    async def test(name: Name) -> ProbeReply:
        """Ask it for key, balance and quota. Costs nothing."""
        return await providers.probe(name)

    @routes.post("/{name}/pause")
    async def pause(name: Name, body: schema.AskBody, visitor: Annotated[Visitor, operator]) -> StandingReply:
        """Rent nothing new there; what lives goes on to its end."""
        return await providers.pause(name, body.reason, visitor)

    @routes.post("/{name}/resume")
    async def resume(name: Name, visitor: Annotated[Visitor, operator]) -> StandingReply:
        """Rent there again: ends a pause, and forgets the calls that failed."""
        return await providers.resume(name, visitor)

    return routes


def page_router(parts: WebParts, gate: Gate, pages: Pages, providers: Providers, markets: Markets) -> APIRouter:
    """/providers/NAME, its twin, its forms, and its prices as CSV."""
    routes = APIRouter(include_in_schema=False)
    viewer, operator = Depends(gate.viewer), Depends(gate.operator)

    @routes.get("/providers/{name}.json", dependencies=[viewer])
    async def twin(name: Name, days: Days = 7) -> ProviderReply:
        return await providers.one(name, days)

    @routes.get("/providers/{name}/prices.csv", dependencies=[viewer])
    async def prices(name: Name, days: Days = 7) -> Response:
        found, _ = await markets.prices(days, provider=providers.known(name))
        return csv_of(found, f"prices-{name}")

    @routes.get("/providers/{name}")
    async def page(
        request: Request, name: Name, visitor: Annotated[Visitor, viewer], gpu: str = "", days: Days = 7, asked: str = ""
    ) -> Response:
        reply = await providers.one(name, days)
        shown = _context(reply, visitor, gpu[:100], days, parts.clock.now())
        return pages.listed(request, "provider.html", visitor, digest(reply), **shown, said=SAID.get(asked, ""), poll=15)

    @routes.post("/providers/{name}/test")
    async def test(request: Request, name: Name, visitor: Annotated[Visitor, operator]) -> Response:
        """The page with the answer on it: nothing was changed, so nothing has to be led elsewhere."""
        probe, reply = await providers.probe(name), await providers.one(name)
        shown: dict[str, Any] = {**_context(reply, visitor, "", 7, parts.clock.now()), "probe": probe, "live_page": False}
        return pages.page(request, "provider.html", visitor, **shown)

    @routes.post("/providers/{name}/pause")
    async def pause(request: Request, name: Name, visitor: Annotated[Visitor, operator]) -> Response:
        reason = (await request.form()).get("reason")
        await providers.pause(name, reason if isinstance(reason, str) else "", visitor)
        return RedirectResponse(f"/providers/{name}?asked=pause", 303)

    @routes.post("/providers/{name}/resume")
    async def resume(name: Name, visitor: Annotated[Visitor, operator]) -> Response:
        await providers.resume(name, visitor)
        return RedirectResponse(f"/providers/{name}?asked=resume", 303)

    return routes


def _context(reply: ProviderReply, visitor: Visitor, gpu: str, days: int, now: datetime) -> dict[str, Any]:
    history: list[PriceLine] = [line for line in reply.prices if not gpu or line.gpu == gpu]
    return {
        "provider": reply,
        "history": history,
        "chart": chart(history, now),
        "gpus": sorted({line.gpu for line in reply.prices if line.gpu}),
        "gpu": gpu,
        "days": days,
        "may_act": visitor.may(Role.OPERATOR),
        "probe": None,
        "live_page": True,
        "twin": f"/providers/{reply.name}.json?{urlencode({'days': days})}",
        "cli": f"sublet provider test {reply.name}",
        "prices": f"/providers/{reply.name}/prices.csv?{urlencode({'days': days})}",
    }
