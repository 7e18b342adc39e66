"""What the sweep found, as the API and the pages show it. Pure: rows and a time in, views out."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from app.store.leaks import Leaks
from app.store.strays import Stray
from app.web.parts import WebParts
from app.web.schema import Moment, Money, Reply, View
from app.web.views import money


class StrayView(View):
    instance_id: str
    tag: str
    created_at: Moment | None = Field(description="As the provider says.")
    found_at: Moment
    busy_at: Moment | None = Field(description="When a forge last said that a job runs on it; it is left alone meanwhile.")
    confirmed_at: Moment | None
    asked_at: Moment | None = Field(description="When its end was first asked for.")
    tries: int
    waits: bool = Field(description="It is not destroyed before a person says so, if too many wait at once.")
    cost: Money | None = Field(description="So far; None where no lease ever had its tag, so that no price is known.")


class SweepView(View):
    provider: str
    at: Moment | None = Field(description="When the provider last gave a whole list of what it has under our owner tag.")
    listed: int
    owned: int = Field(description="Of them, those of live leases.")
    held: int = Field(description="Strays that wait for a person.")
    stopped_at: Moment | None = Field(description="Since when nothing is destroyed here without a person's word.")
    trouble: str = Field(description="Why there has been no whole list since `at`.")
    strays: list[StrayView]


class SweepReply(Reply):
    providers: list[SweepView]


def sweep_views(parts: WebParts, found: Leaks, now: datetime) -> list[SweepView]:
    """One for each provider of the settings, and for each other one that strays are known of."""
    names = sorted({*parts.providers, *(stray.provider for stray in found.strays)})
    return [_view(name, found, now) for name in names]


def _view(name: str, found: Leaks, now: datetime) -> SweepView:
    told = found.surveys.get(name)
    mine = [_stray(stray, found, now) for stray in found.strays if stray.provider == name]
    numbers = {"listed": told.listed, "owned": told.owned, "held": told.held} if told else {"listed": 0, "owned": 0, "held": 0}
    at, stopped_at, trouble = (told.at, told.stopped_at, told.trouble) if told else (None, None, "")
    return SweepView(provider=name, at=at, **numbers, stopped_at=stopped_at, trouble=trouble, strays=mine)


def _stray(stray: Stray, found: Leaks, now: datetime) -> StrayView:
    charge = found.costs.get(stray.instance_id)
    return StrayView(
        instance_id=stray.instance_id,
        tag=stray.tag,
        created_at=stray.created_at,
        found_at=stray.found_at,
        busy_at=stray.busy_at,
        confirmed_at=stray.confirmed_at,
        asked_at=stray.asked_at,
        tries=stray.tries,
        waits=stray.waits(now),
        cost=None if charge is None else money(charge.amount, charge.currency),
    )
