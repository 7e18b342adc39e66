"""The history of prices as steps, and as a drawing that the server makes: SVG lines on a scale of their own. Pure."""

from __future__ import annotations

import csv
import heapq
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from pydantic import Field

from app.store.market import Price
from app.web.schema import Moment, Money, View
from app.web.views import money
from providers.contract import Availability

GAP = timedelta(minutes=15)
"""Two sights of an offer lie apart by what a provider may be asked; a shorter gap is none."""
MOST_LINES = 6
WIDTH, HEIGHT = 1000, 160
"""The drawing's own units: it is stretched to the page, and its lines keep their strength."""
LEAST = 3.0
"""Units: what was offered for a moment can be seen."""


class PriceStep(View):
    since: Moment
    until: Moment
    price: Money
    region: str
    offer: str
    gpus: int


class PriceLine(View):
    """The cheapest price of one GPU over time."""

    provider: str = Field(description="Empty: of all providers.")
    gpu: str = Field(description="Empty: machines without a GPU.")
    spot: bool
    currency: str
    per: str = Field(description="`gpu`: of one GPU for an hour; `machine`: of a machine without one.")
    steps: list[PriceStep]


@dataclass(frozen=True, slots=True)
class Stroke:
    """One line of the drawing."""

    name: str
    path: str
    now: Money  # its last price
    least: Money
    most: Money


@dataclass(frozen=True, slots=True)
class Chart:
    strokes: tuple[Stroke, ...]
    hidden: int  # lines for which there is no room
    top: Money  # the price at the upper edge; the lower one is nothing
    middle: Money
    since: datetime
    until: datetime


def lines(prices: Iterable[Price], *, by_provider: bool = False) -> list[PriceLine]:
    """The cheapest price of each GPU at every moment; the dearest lines last. Prices are of one GPU for an hour."""
    groups: dict[tuple[str, str, bool, str], list[Price]] = {}
    for one in prices:
        if one.availability == Availability.NONE:
            continue  # a price at which there was nothing
        groups.setdefault((one.provider if by_provider else "", one.gpu, one.spot, one.currency), []).append(one)
    found = [
        PriceLine(
            provider=provider,
            gpu=gpu,
            spot=spot,
            currency=currency,
            per="gpu" if gpu else "machine",
            steps=[_step(one, since, until) for since, until, one in _cheapest(group)],
        )
        for (provider, gpu, spot, currency), group in groups.items()
    ]
    return sorted(found, key=lambda line: (Decimal(line.steps[-1].price.amount), line.provider, line.gpu, line.spot))


def each(one: Price) -> Decimal:
    """The price of one of its GPUs for an hour; of the machine where it has none."""
    return one.price_per_hour / max(one.gpus, 1)


def _step(one: Price, since: datetime, until: datetime) -> PriceStep:
    return PriceStep(
        since=since, until=until, price=money(each(one), one.currency), region=one.region, offer=one.offer, gpus=one.gpus
    )


def _cheapest(group: Sequence[Price]) -> list[tuple[datetime, datetime, Price]]:
    """What was cheapest from when to when; never empty for a group that has a price."""
    begins = sorted(group, key=lambda one: one.since)
    moments = sorted({one.since for one in group} | {one.until for one in group})
    standing: list[tuple[Decimal, int, Price]] = []
    steps: list[tuple[datetime, datetime, Price]] = []
    place = 0
    for at, then in zip(moments, [*moments[1:], moments[-1]], strict=True):
        while place < len(begins) and begins[place].since <= at:
            heapq.heappush(standing, (each(begins[place]), place, begins[place]))
            place += 1
        while standing and standing[0][2].until <= at and standing[0][2].since < at:
            heapq.heappop(standing)
        if standing:
            one = standing[0][2]
            until = min(then, max(one.until, at))
            if until > at or not steps or one.since == one.until == at:
                _append(steps, at, until, one)
    return steps


def _append(steps: list[tuple[datetime, datetime, Price]], since: datetime, until: datetime, one: Price) -> None:
    if steps:
        began, ended, before = steps[-1]
        if since - ended <= GAP:
            if each(before) == each(one):
                steps[-1] = (began, until, before)
                return
            steps[-1] = (began, since, before)
    steps.append((since, until, one))


def chart(found: Sequence[PriceLine], until: datetime) -> Chart | None:
    """A drawing of the cheapest lines of one currency, the commonest, from the first price on; None for no price."""
    currencies = [line.currency for line in found]
    alike = [line for line in found if line.currency == max(currencies, key=currencies.count)]
    if not alike:
        return None
    drawn = alike[:MOST_LINES]
    since = min(line.steps[0].since for line in drawn)
    highest = max(Decimal(step.price.amount) for line in drawn for step in line.steps)
    top = _round_up(highest)
    strokes = tuple(_stroke(line, since, until, top) for line in drawn)
    currency = drawn[0].currency
    return Chart(strokes, len(found) - len(drawn), money(top, currency), money(top / 2, currency), since, until)


def _round_up(value: Decimal) -> Decimal:
    """The next of 1, 2, 4, 5, 8 or 10 times a power of ten."""
    if value <= 0:
        return Decimal(1)
    power = Decimal(10) ** value.adjusted()
    return next(power * step for step in (1, 2, 4, 5, 8, 10) if power * step >= value)


def _stroke(line: PriceLine, since: datetime, until: datetime, top: Decimal) -> Stroke:
    length = max((until - since).total_seconds(), 1.0)
    pieces: list[str] = []
    end: datetime | None = None
    for step in line.steps:
        left = _bounded((step.since - since).total_seconds() / length)
        right = max(_bounded((step.until - since).total_seconds() / length), min(left + LEAST, WIDTH))
        height = HEIGHT - 2 - float(Decimal(step.price.amount) / top) * (HEIGHT - 4)
        joined = end is not None and step.since <= end
        pieces.append(f"{'V' if joined else f'M{left:.1f} '}{height:.1f}H{right:.1f}")
        end = step.until
    prices = [step.price for step in line.steps]
    least, most = (pick(prices, key=lambda price: Decimal(price.amount)) for pick in (min, max))
    return Stroke(title(line), "".join(pieces), prices[-1], least, most)


def _bounded(share: float) -> float:
    return WIDTH * min(max(share, 0.0), 1.0)


def title(line: PriceLine) -> str:
    """`h100 on demand`, `cloud-a h100 spot`."""
    words = (line.provider, line.gpu or "no GPU", "spot" if line.spot else "on demand")
    return " ".join(word for word in words if word)


def as_csv(prices: Iterable[Price]) -> str:
    """Every row of the history, for spreadsheets; times are RFC 3339 in UTC."""
    names = (
        "provider",
        "offer",
        "region",
        "gpu",
        "gpus",
        "spot",
        "price_per_hour",
        "currency",
        "availability",
        "since",
        "until",
    )
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(names)
    writer.writerows([_cell(getattr(one, name)) for name in names] for one in prices)
    return text.getvalue()


def _cell(value: object) -> str:
    """As a spreadsheet takes it for text: offers' names are strangers' words, and `=` begins a formula there."""
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, bool):
        return str(value).lower()
    plain = format(value, "f") if isinstance(value, Decimal) else str(value)
    return f"'{plain}" if plain[:1] in ("=", "+", "-", "@", "\t", "\r") else plain
