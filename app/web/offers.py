"""The market over HTTP: what could be rented now and by which pool, with the history of prices; as JSON, page and CSV."""

import re
import shlex
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Request
from pydantic import StringConstraints
from starlette.responses import RedirectResponse, Response

from app.core.model import Pool
from app.core.placement import USUAL_JOB
from app.store import market as store
from app.store.db import Database
from app.store.market import Price
from app.store.situation import situation, usual
from app.web.auth import Gate, Visitor
from app.web.dashboard import digest
from app.web.errors import Problem
from app.web.offers_chart import as_csv, chart, lines
from app.web.offers_views import Filter, Market, OffersReply, offers_reply
from app.web.pages import Pages
from app.web.parts import WebParts
from app.web.providers_views import ProvidersReply

LEARNT_FOR = timedelta(minutes=10)
"""How long a pool's usual job time is believed, as in the engine."""
PAGE = 200
MOST_PRICES = 20_000
"""Rows of history that one answer is made of; where there are more, a shorter time is told."""
Word = Annotated[str, StringConstraints(max_length=100, strip_whitespace=True)]
Days = Annotated[int, Query(ge=1, le=90, description="How many days back; the history of ninety is kept.")]
ProviderList = Callable[[Market], Awaitable[ProvidersReply]]


class Markets:
    """Reads the market as it is now: offers, standings, and how long each pool's jobs take."""

    def __init__(self, parts: WebParts) -> None:
        self._parts = parts
        self._usual: tuple[datetime, Mapping[str, timedelta]] | None = None

    async def look(self) -> Market:
        parts, now = self._parts, self._parts.clock.now()
        offers = await parts.lane(store.offers, parts.db)
        known = await parts.lane(situation, parts.db, now)
        if self._usual is None or not timedelta(0) <= now - self._usual[0] < LEARNT_FOR:
            self._usual = (now, await parts.lane(_usual, parts.db, parts.pools, now))
        return Market(offers, known, self._usual[1], now)

    def filter(self, gpu: str, provider: str, pool: str, everything: bool) -> Filter:
        """What was asked for, in our words. Raises Problem (404) for a provider or a pool that there is not."""
        parts = self._parts
        if provider and provider not in parts.providers:
            raise Problem(404, f"There is no provider {provider}.", hint=_told(parts.providers))
        if pool and pool not in parts.pools:
            raise Problem(404, f"There is no pool {pool}.", hint=_told(parts.pools))
        return Filter(parts.gpu_names.canonical(gpu) if gpu else None, provider or None, pool or None, everything)

    async def offers(self, wanted: Filter, limit: int) -> tuple[OffersReply, Market]:
        """The offers of this filter, and all that was read."""
        parts, market = self._parts, await self.look()
        reply = await parts.lane(offers_reply, market, parts.pools, parts.traits, wanted, limit)  # pure, and long for thousands
        return reply, market

    async def prices(self, days: float, *, provider: str | None = None, gpu: str | None = None) -> tuple[list[Price], datetime]:
        """The history of that many days, or of as many as fit into one answer; and since when it is told."""
        parts, span = self._parts, timedelta(days=days)
        while True:
            since = parts.clock.now() - span
            found = await parts.lane(_prices, parts.db, since, provider, gpu)
            if len(found) < MOST_PRICES or span < timedelta(hours=1):
                return [one if one.since >= since else replace(one, since=since) for one in found], since
            span /= 2


def _prices(db: Database, since: datetime, provider: str | None, gpu: str | None) -> list[Price]:
    return store.prices(db, since, provider=provider, gpu=gpu)


def _usual(db: Database, pools: Mapping[str, Pool], now: datetime) -> dict[str, timedelta]:
    return {name: pool.usual or usual(db, name, now) or USUAL_JOB for name, pool in pools.items()}


def _told(names: Mapping[str, object]) -> str:
    return f"There are: {', '.join(sorted(names))}." if names else "There is none."


def api_router(gate: Gate, markets: Markets) -> APIRouter:
    """/api/v1/offers."""
    routes = APIRouter(prefix="/api/v1", tags=["for people and the CLI"])

    @routes.get("/offers", dependencies=[Depends(gate.viewer)])
    async def look(
        gpu: Word = "",
        provider: Word = "",
        pool: Word = "",
        all: Annotated[bool, Query(description="Also those that pass no pool.")] = False,
        limit: Annotated[int, Query(ge=1, le=5_000)] = 1_000,
    ) -> OffersReply:
        """What could be rented now, those that pass first; each with what every pool makes of it, and why not."""
        return (await markets.offers(markets.filter(gpu, provider, pool, all), limit))[0]

    return routes


def page_router(parts: WebParts, gate: Gate, pages: Pages, markets: Markets, providers: ProviderList) -> APIRouter:
    """/offers, its twin, and the history of prices as CSV."""
    routes = APIRouter(include_in_schema=False)
    viewer = Depends(gate.viewer)

    @routes.get("/offers")
    async def offers(
        request: Request,
        visitor: Annotated[Visitor, viewer],
        gpu: Word = "",
        provider: Word = "",
        pool: Word = "",
        all: bool = False,
        days: Days = 7,
        limit: Annotated[int, Query(ge=1, le=5_000)] = PAGE,
    ) -> Response:
        wanted = markets.filter(gpu, provider, pool, all)
        reply, market = await markets.offers(wanted, limit)
        listed = await providers(market)
        query = {key: value for key, value in (("gpu", gpu), ("provider", provider), ("pool", pool)) if value}
        here = {**query, **({"all": "true"} if all else {})}
        drawn, history = None, []
        if wanted.gpu is not None:
            found, _ = await markets.prices(days, provider=wanted.provider, gpu=wanted.gpu)
            history = lines(found, by_provider=True)
            drawn = chart(history, market.now)
        more = f"/offers?{urlencode({**here, 'limit': min(limit * 5, 5_000)})}" if reply.more else ""
        file = urlencode({**{key: value for key, value in query.items() if key != "pool"}, "days": days})
        return pages.listed(
            request, "offers.html", visitor, digest(reply) + digest(listed), reply=reply, providers=listed.providers,
            gpus=market.gpus, pools=sorted(parts.pools), wanted=wanted, query=query, days=days, chart=drawn, history=history,
            prices=f"/offers/prices.csv?{file}", more=more, known=len(market.offers),
            tabs=[(word, f"/offers?{urlencode({**query, **extra})}", bool(extra) is all)
                  for word, extra in (("Pass a pool", {}), ("All", {"all": "true"}))],
            live_page=True, poll=15, twin=f"/offers.json?{urlencode(here)}", cli=command(wanted),
        )  # fmt: skip

    @routes.get("/offers.json", dependencies=[viewer])
    async def offers_twin(
        gpu: Word = "",
        provider: Word = "",
        pool: Word = "",
        all: bool = False,
        limit: Annotated[int, Query(ge=1, le=5_000)] = 1_000,
    ) -> OffersReply:
        return (await markets.offers(markets.filter(gpu, provider, pool, all), limit))[0]

    @routes.get("/offers/prices.csv", dependencies=[viewer])
    async def prices(gpu: Word = "", provider: Word = "", days: Days = 7) -> Response:
        wanted = markets.filter(gpu, provider, "", True)
        found, _ = await markets.prices(days, provider=wanted.provider, gpu=wanted.gpu)
        return csv_of(found, f"prices-{wanted.gpu or 'all'}")

    @routes.get("/providers", dependencies=[viewer])
    async def listing() -> Response:
        return RedirectResponse("/offers#providers", 303)

    return routes


def csv_of(found: Sequence[Price], name: str) -> Response:
    """A file of the history."""
    plain = re.sub(r"[^a-z0-9-]+", "-", name.lower())[:60]
    headers = {"content-disposition": f'attachment; filename="{plain}.csv"'}
    return Response(as_csv(found), media_type="text/csv; charset=utf-8", headers=headers)


def command(wanted: Filter) -> str:
    """The same on the command line."""
    words = [
        f"--gpu {shlex.quote(wanted.gpu)}" if wanted.gpu else "",
        f"--provider {wanted.provider}" if wanted.provider else "",
    ]
    words += [f"--pool {wanted.pool}" if wanted.pool else "", "--all" if wanted.everything else ""]
    return " ".join(["sublet offers", *filter(None, words)])
