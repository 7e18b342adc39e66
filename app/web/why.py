"""Why a lease got its offer: the decision record as sentences, rows, and the story of who said no before. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any, cast

from app.core.breaker import Standing
from app.core.cooling import Cooldown
from app.kit.words import money as written
from app.web.schema import ClosedView, CooldownView, TriedView
from app.web.views import money
from app.web.words import duration

OUTCOMES: Mapping[str, str] = {
    "no_capacity": "had no machine",
    "provider_refused": "refused us",
    "throttled": "asked us to slow down",
    "away": "gave no clear answer",
}
SKIPPED = frozenset({"cooling-down", "paused", "provider-away"})
"""Rules that pass by themselves: the offer itself would do."""
Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Judged:
    """One offer and what was made of it."""

    provider: str
    title: str
    region: str
    spot: bool
    price: str
    verdict: str  # "chosen", "passed", "skipped" or "rejected"
    reason: str
    expected: str  # the bill for the usual job; empty: not kept


@dataclass(frozen=True, slots=True)
class Why:
    sentence: str
    rows: tuple[Judged, ...]
    seen: int
    rejected: tuple[tuple[str, int], ...]
    tried: tuple[TriedView, ...] = ()
    cooldowns: tuple[CooldownView, ...] = ()
    closed: tuple[ClosedView, ...] = ()
    troubles: tuple[str, ...] = ()
    usual: str = ""  # how long the pool's job was taken to last


def why(decision: Record | None) -> Why | None:
    """The placement's record as a table and one sentence; None before there is one."""
    if not decision:
        return None
    chosen = cast("Record", decision.get("chosen") or {})
    verdicts = cast("Sequence[Record]", decision.get("verdicts") or ())
    pick = (chosen.get("provider"), chosen.get("offer"))
    ours = next((row for row in verdicts if chosen and (row.get("provider"), row.get("offer")) == pick), None)
    cheapest = min((_expected(row) for row in verdicts if row.get("passed")), default=Decimal(0))
    best = next(iter(verdicts), None)
    rows = tuple(_judged(row, ours, best, cheapest) for row in verdicts)
    seen, passed = int(decision.get("seen", len(rows))), int(decision.get("passed", 0))
    tried = tried_views(decision.get("tried"))
    age = duration(float(decision.get("quote_age_seconds", 0)))
    looked = f"{_count(seen, 'offer')} looked at, {seen - passed} rejected. Quotes were {age} old."
    if not chosen:
        none = "No offer was taken:" if passed == 0 else f"None of the {passed} offers that passed could be had."
        sentence = f"{none} {looked}"
    elif passed == 1:
        sentence = f"The only offer that passed every rule. {looked}"
    else:
        place = next((number for number, row in enumerate(rows) if row.verdict == "chosen"), 0)
        rank = "The best" if place == 0 else f"Number {place + 1}, after better ones could not be had,"
        sentence = f"{rank} of {passed} offers that passed every rule. {looked}"
    if tried and chosen:
        sentence = f"{_count(len(tried), 'offer')} said no first, in the same lease. {sentence}"
    counts = cast("Mapping[str, int]", decision.get("rejected") or {})
    minutes = decision.get("usual_minutes")
    return Why(
        sentence,
        rows,
        seen,
        tuple((str(rule), int(count)) for rule, count in counts.items()),
        tried,
        tuple(_cooldown(one) for one in _records(decision.get("cooldowns"))),
        tuple(
            ClosedView(provider=_text(one, "provider"), rule=_text(one, "rule"), detail=_text(one, "detail"))
            for one in _records(decision.get("closed"))
        ),
        tuple(str(one) for one in cast("Sequence[object]", decision.get("troubles") or ())),
        "" if minutes is None else duration(60 * float(minutes)),
    )


def _judged(row: Record, ours: Record | None, best: Record | None, cheapest: Decimal) -> Judged:
    price = Decimal(str(row.get("price_per_hour", "0")))
    rule, detail = _text(row, "rule"), _text(row, "detail")
    if row is ours:
        verdict, reason = "chosen", "lowest expected total"
        if _expected(row) > cheapest:  # own machines and, where a pool says so, spot ones come before the price
            reason = "spot comes first in this pool" if row.get("spot") else "a machine of your own comes first"
        if row is not best:
            reason = "the best that could be had"
    elif row.get("passed"):
        verdict, reason = "passed", "" if ours is None else _difference(price - Decimal(str(ours.get("price_per_hour", "0"))))
    else:
        verdict = "skipped" if rule in SKIPPED else "rejected"
        reason = ruled(rule, detail)
    expected = written(_expected(row), _text(row, "currency"), 2) if row.get("expected") is not None else ""
    title = _text(row, "title") or _text(row, "offer")
    spot = bool(row.get("spot"))
    return Judged(_text(row, "provider"), title, _text(row, "region"), spot, f"{price:.2f}", verdict, reason, expected)


def ruled(rule: str, detail: str) -> str:
    """`price: 11.20 USD/h, cap 9.50`; a detail that begins with its rule stands alone."""
    word = rule.replace("-", " ")
    return detail if detail.startswith(word) else f"{word}: {detail}".strip(": ")


def _difference(more: Decimal) -> str:
    return "same price" if more == 0 else f"{more:+.2f} per hour"


def _expected(row: Record) -> Decimal:
    """What the offers were ranked by; older records have only the price."""
    try:
        return Decimal(str(row.get("expected", row.get("price_per_hour", "0"))))
    except InvalidOperation:
        return Decimal(0)


def tried_views(told: object) -> tuple[TriedView, ...]:
    """Offers that were asked for and said no, in the order of asking."""
    return tuple(
        TriedView(
            at=datetime.fromisoformat(_text(one, "at")),
            provider=_text(one, "provider"),
            offer=_text(one, "offer"),
            title=_text(one, "title") or _text(one, "offer"),
            region=_text(one, "region"),
            price_per_hour=money(Decimal(_text(one, "price_per_hour") or "0"), _text(one, "currency")),
            outcome=_text(one, "outcome"),
            detail=_text(one, "detail"),
        )
        for one in _records(told)
    )


def _cooldown(one: Record) -> CooldownView:
    since, until = (datetime.fromisoformat(_text(one, name)) for name in ("since", "until"))
    place = {name: _text(one, name) for name in ("provider", "region", "type", "offer", "why")}
    return CooldownView(**place, since=since, until=until, failures=int(one.get("failures", 1)))


def cooldown_view(one: Cooldown) -> CooldownView:
    """A cool-down of this moment."""
    return CooldownView(
        provider=one.provider,
        region=one.region,
        type=one.type,
        offer=one.offer,
        since=one.since,
        until=one.until,
        failures=one.failures,
        why=one.why,
    )


def closed_views(standings: Mapping[str, Standing], now: datetime) -> list[ClosedView]:
    """Providers where nothing is rented now."""
    found = [(name, standing.no(now)) for name, standing in sorted(standings.items())]
    return [ClosedView(provider=name, rule=no[0], detail=no[1]) for name, no in found if no is not None]


def answered(outcome: str) -> str:
    """What an offer said, after its provider's name."""
    return OUTCOMES.get(outcome, outcome.replace("_", " "))


def place_of(one: CooldownView) -> str:
    """`cloud-a`, `cloud-a / eu-1, p5.48xlarge`, and with the offer where only that one is meant."""
    where = " / ".join(part for part in (one.provider, one.region) if part)
    what = one.offer or one.type
    return f"{where}, {what}" if what else where


def story(tried: Sequence[TriedView], taker: str = "") -> str:
    """One sentence: who said no, and how; and who took it, if that is known. Empty for nobody."""
    said = [f"{one.provider} {answered(one.outcome)}" for one in tried]
    took = [f"then {taker} took it"] if taker else []
    return f"{'; '.join([*said, *took])}." if said else ""


def _records(told: object) -> Sequence[Record]:
    return [cast("Record", one) for one in cast("Sequence[object]", told or ()) if isinstance(one, Mapping)]


def _text(row: Record, name: str) -> str:
    value = row.get(name)
    return "" if value is None else str(value)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
