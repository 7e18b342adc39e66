"""Pilots over HTTP: what one would rent now and cost, a person's word that it shall, and what each has measured."""

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query
from pydantic import BaseModel, Field, StringConstraints

from app.core import names
from app.core.billing import billed, price
from app.core.cooling import FIRST_REST, cooldowns
from app.core.model import Ask, DemandKey, Lease, Pool
from app.core.offers import offer_json
from app.core.pilot import AT_MOST, LASTS, PLACED_WITHIN, USUAL, key_of, need_of, pilot_pool
from app.core.placement import Placement, rank
from app.core.states import State
from app.store import board, market, pilots
from app.store.pilots import Pilot
from app.store.situation import situation
from app.web.auth import Gate, Visitor
from app.web.errors import Problem
from app.web.parts import WebParts
from app.web.schema import Cost, Moment, Money, Reply, View
from app.web.views import cost, money
from providers.contract import BootsFrom, Need, Offer, Traits

Word = Annotated[str, StringConstraints(min_length=1, max_length=100)]
Name = Annotated[str, Path(max_length=60)]
Most = Annotated[Decimal, Field(ge=0, le=100_000, allow_inf_nan=False)]


class PilotBody(BaseModel):
    max_price_per_hour: Most = Field(description="Never rent anything dearer; a pool's own cap counts too.")
    reason: str = Field(min_length=1, max_length=200, description="Why, in your words; kept in the audit.")
    gpu: Word | None = Field(default=None, description="Only this GPU. Default: any; none where the provider has none.")
    region: Word | None = Field(default=None, description="Only this region or country. Default: any.")
    pool: Word | None = Field(default=None, description="Run this pool's image, within its limits.")


class PreviewReply(Reply):
    provider: str
    pool: str = Field(description="Whose image it would run; empty: none.")
    offer: dict[str, Any] | None = Field(description="The one that would be taken now. None: `why` says why not.")
    price_per_hour: Money | None
    expected: Money | None = Field(description="For five minutes, under the provider's granularity and minimum.")
    at_most: Money | None = Field(description="If it used all the time that it may have.")
    lasts_seconds: float = Field(description="From when it is usable, at most.")
    at_most_seconds: float = Field(description="From its launch to its hard end, whatever happens.")
    seen: int = Field(description="Offers that were looked at.")
    why: str = Field(description="A sentence where there is nothing to rent; else empty.")


class PilotView(View):
    id: str
    provider: str
    region: str
    asked_by: str
    asked_at: Moment
    lease: str = Field(description="Its lease's name.")
    state: str = Field(description="Of its lease.")
    note: str
    offer: dict[str, Any] | None
    price_per_hour: Money | None
    cost: Cost
    accepted_seconds: float | None = Field(description="From asking the provider until it named an instance.")
    running_seconds: float | None = Field(description="Until the machine's first call to us.")
    usable_seconds: float | None = Field(description="Until its GPU, driver and memory were proven.")
    usable_at: Moment | None
    ended_at: Moment | None
    gone: bool = Field(description="The provider proved that it is not there any more.")
    outcome: str = Field(description="Empty while it runs, then `usable` or why not.")
    report: dict[str, Any] | None = Field(description="What the machine says that it measured.")


class PilotReply(Reply, PilotView):
    """One of them."""


class PilotsReply(Reply):
    pilots: list[PilotView]


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody wants measured."""

    provider: str
    gpu: str | None
    region: str | None
    pool: str | None
    most: Decimal | None


@dataclass(frozen=True, slots=True)
class Prospect:
    """What a pilot of this wish would be now."""

    key: DemandKey
    need: Need
    pool: Pool
    traits: Traits
    placed: Placement
    closed: str  # why nothing is rented there now

    @property
    def offer(self) -> Offer | None:
        return next(iter(self.placed.ranked), None)

    @property
    def why(self) -> str:
        """Why there is nothing to rent; empty where there is."""
        if self.closed:
            return f"Nothing is rented there now: {self.closed}."
        if self.offer is not None:
            return ""
        if not self.placed.verdicts:
            return "No offer of it is known yet: it is asked every few minutes."
        told = self.placed.record(None)["rejected"]
        return "No offer passes: " + ", ".join(f"{count} {rule}" for rule, count in told.items()) + "."


async def prospect(parts: WebParts, wish: Wish) -> Prospect:
    """Raises Problem: 404 for an unknown provider or pool, 409 for a wish that cannot be fulfilled there."""
    traits = parts.traits.get(wish.provider)
    if traits is None:
        raise Problem(404, f"There is no provider {wish.provider}.", hint="`sublet provider list` shows those that there are.")
    base = None if wish.pool is None else parts.pools.get(wish.pool)
    if wish.pool is not None and base is None:
        raise Problem(404, f"There is no pool {wish.pool}.")
    if traits.boots_from is BootsFrom.CONTAINER_IMAGE and (base is None or not base.image):
        text = f"{wish.provider} boots from a container image, and a pilot has none of its own."
        raise Problem(409, text, hint="Name a pool that has an image: --pool NAME.")
    offers = await parts.lane(market.offers, parts.db, wish.provider)
    gpu = None if wish.gpu is None else parts.gpu_names.canonical(wish.gpu)
    try:
        need = need_of(base, gpu=gpu, region=wish.region, gpus=any(one.gpus for one in offers), most=wish.most)
    except ValueError as error:
        raise Problem(409, str(error)) from None
    key, now = key_of("" if base is None else base.name), parts.clock.now()
    pool = pilot_pool(key, need, wish.provider, parts.pools)
    known = await parts.lane(situation, parts.db, now)
    standing = known.standings.get(wish.provider)
    no = None if standing is None else standing.no(now)
    cold = cooldowns(known.setbacks, known.recent, now, FIRST_REST)
    closed = {} if no is None else {wish.provider: no}
    placed = rank(need, Ask(), pool, offers, {wish.provider: traits}, cold, now, closed=closed, usual=USUAL)
    return Prospect(key, need, pool, traits, placed, "" if no is None else no[1])


def preview(wish: Wish, found: Prospect) -> PreviewReply:
    """What it would rent, and what that would cost."""
    offer, traits = found.offer, found.traits

    def bill(lasting: timedelta) -> Money | None:
        if offer is None:
            return None
        amount = price(billed(lasting, traits.billing_granularity, traits.billing_minimum), offer.price_per_hour)
        return money(amount, offer.currency)

    return PreviewReply(
        provider=wish.provider,
        pool=wish.pool or "",
        offer=None if offer is None else offer_json(offer),
        price_per_hour=None if offer is None else money(offer.price_per_hour, offer.currency),
        expected=bill(USUAL),
        at_most=bill(AT_MOST),
        lasts_seconds=LASTS.total_seconds(),
        at_most_seconds=AT_MOST.total_seconds(),
        seen=len(found.placed.verdicts),
        why=found.why,
    )


async def start(parts: WebParts, wish: Wish, reason: str, visitor: Visitor) -> str:
    """Plan a pilot, audited, and hint to the engine; its id. Raises Problem (409) where it cannot be now."""
    found = await prospect(parts, wish)
    if found.offer is None:
        raise Problem(409, found.why, hint=f"`sublet offers --provider {wish.provider} --why` tells more.")
    now, identity = parts.clock.now(), secrets.token_hex(8)
    one = Pilot(secrets.token_hex(6), wish.provider, found.offer.region, identity, visitor.person, now, offer_json(found.offer))
    no = await parts.lane(pilots.ask, parts.db, one, _lease(found, wish.provider, identity, now), reason, now)
    if no:
        raise Problem(409, no)
    parts.bell.ring()
    return one.id


def _lease(found: Prospect, provider: str, identity: str, now: datetime) -> Lease:
    """As policy draws one, but by a person's wish: with its provider, and gone soon where there is nothing to rent."""
    name = names.draw(secrets.randbelow)
    return Lease(
        id=identity,
        name=name,
        key=found.key,
        state=State.PLANNED,
        attempt=1,
        tag=f"sublet-{name}-{identity[:6]}",
        created_at=now,
        entered_at=now,
        deadline=now + PLACED_WITHIN,
        due=now,
        need=found.need,
        provider=provider,
        mode=str(found.pool.mode),
        signed=found.pool.signed,
    )


def view(one: Pilot, row: board.LeaseRow, now: datetime) -> PilotView:
    """One pilot with its lease, which says what it costs and how far it is."""
    lease = row.lease
    accepted = next((span.entered_at for span in row.spans if span.state is State.BOOTING), None)
    offer = lease.offer or one.offer

    def after(at: datetime | None) -> float | None:
        return None if at is None or lease.asked_at is None else (at - lease.asked_at).total_seconds()

    return PilotView(
        id=one.id,
        provider=one.provider,
        region=lease.region or one.region,
        asked_by=one.asked_by,
        asked_at=one.asked_at,
        lease=lease.name,
        state=str(lease.state),
        note=lease.note,
        offer=None if offer is None else dict(offer),
        price_per_hour=None if lease.price_per_hour is None else money(lease.price_per_hour, lease.currency),
        cost=cost(lease, row.charges, now),
        accepted_seconds=after(accepted),
        running_seconds=after(lease.joined_at),
        usable_seconds=after(one.usable_at),
        usable_at=one.usable_at,
        ended_at=one.ended_at,
        gone=lease.state is State.RELEASED,
        outcome=one.outcome,
        report=None if one.report is None else dict(one.report),
    )


async def views(parts: WebParts, found: list[Pilot]) -> list[PilotView]:
    """Each with its lease, which was planned with it and is never deleted."""
    rows = await parts.lane(board.leases_of, parts.db, [one.lease_id for one in found])
    return [view(one, rows[one.lease_id], parts.clock.now()) for one in found]


def router(parts: WebParts, gate: Gate) -> APIRouter:
    """/api/v1/providers/NAME/pilot and /api/v1/pilots."""
    routes = APIRouter(prefix="/api/v1", tags=["for people and the CLI"])
    viewer = Depends(gate.viewer)

    @routes.get("/providers/{name}/pilot", dependencies=[viewer])
    async def look(
        name: Name,
        gpu: Word | None = None,
        region: Word | None = None,
        pool: Word | None = None,
        max_price_per_hour: Most | None = None,
    ) -> PreviewReply:
        """What a pilot of this provider would rent now, and what it would cost. Rents nothing."""
        wish = Wish(name, gpu, region, pool, max_price_per_hour)
        return preview(wish, await prospect(parts, wish))

    @routes.post("/providers/{name}/pilot")
    async def rent(name: Name, body: PilotBody, visitor: Annotated[Visitor, Depends(gate.operator)]) -> PilotReply:
        """Rent one machine for two minutes, measure it, and give it back. It is a lease like any other, and costs money."""
        wish = Wish(name, body.gpu, body.region, body.pool, body.max_price_per_hour)
        return await _one(await start(parts, wish, body.reason.strip() or "no reason given", visitor))

    @routes.get("/pilots", dependencies=[viewer])
    async def listing(provider: Word | None = None, limit: Annotated[int, Query(ge=1, le=500)] = 100) -> PilotsReply:
        """The pilots that were, the newest first."""
        found = await parts.lane(pilots.listing, parts.db, provider, limit)
        return PilotsReply(pilots=await views(parts, found))

    @routes.get("/pilots/{identity}", dependencies=[viewer])
    async def show(identity: Annotated[str, Path(max_length=40)]) -> PilotReply:
        """One pilot: how far it is, or how it ended and what it measured."""
        return await _one(identity)

    async def _one(identity: str) -> PilotReply:
        found = await parts.lane(pilots.get, parts.db, identity)
        if found is None:
            raise Problem(404, "There is no such pilot.")
        (one,) = await views(parts, [found])
        return PilotReply(**dict(one))

    return routes
