"""Providers as the API and the pages show them: how we stand, what they offer, what they can do, what pilots saw. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from statistics import median

from pydantic import Field

from app.core.breaker import Standing
from app.core.cooling import Setback
from app.store.leaks import Leaks
from app.web.offers_chart import PriceLine
from app.web.offers_views import Market, OfferView
from app.web.parts import Make
from app.web.pilots import PilotView
from app.web.schema import Attention, AuditView, CooldownView, Moment, Reply, View
from app.web.why import cooldown_view
from app.web.words import duration
from providers.contract import BootsFrom, Traits

UNKNOWN = "unknown"
"""What a vendor does not document."""
BOOTS: Mapping[BootsFrom, str] = {
    BootsFrom.MACHINE_IMAGE: "a machine image",
    BootsFrom.CONTAINER_IMAGE: "a container image, by its digest",
    BootsFrom.PROCESS: "nothing: a process on a machine that is there",
}


class StandingView(View):
    state: str = Field(description="`well`, `paused` by a person, or `away`: its calls fail, and nothing is rented meanwhile.")
    sentence: str = Field(description="Why; empty while it is well.")
    since: Moment | None
    until: Moment | None = Field(description="When one that is away is asked again.")
    by: str = Field(description="Who paused it.")
    failures: int = Field(description="Calls that failed in a row.")
    trouble: str = Field(description="The last failure since it last worked.")
    trouble_at: Moment | None


class BriefOffer(View):
    id: str
    title: str
    region: str
    spot: bool
    price_per_hour: str
    currency: str


class SurveyView(View):
    at: Moment | None = Field(description="When it last gave a whole list of what it has under our owner tag.")
    listed: int
    owned: int = Field(description="Of them, those of live leases.")
    held: int = Field(description="Of the others, those that wait for a person.")
    trouble: str


class ProviderView(View):
    name: str
    kind: str
    package: str = Field(description="The package that its wrapper came with, and its version.")
    own_hardware: bool
    standing: StandingView
    cooldowns: list[CooldownView]
    offers: int
    passing: int = Field(description="Offers that pass a pool now.")
    offers_seen_at: Moment | None = Field(description="When its offers were last seen.")
    cheapest: BriefOffer | None
    cheapest_passing: BriefOffer | None
    live_leases: int
    sweep: SurveyView | None


class ProvidersReply(Reply):
    providers: list[ProviderView]


class MatrixRow(View):
    name: str
    title: str
    value: str = Field(description="What a vendor does not document reads `unknown`.")


class SetbackView(View):
    at: Moment
    region: str
    type: str
    offer: str
    reach: str = Field(description="How far the no goes: `offer`, `region` or `provider`.")
    reason: str
    detail: str


class RegionPilots(View):
    """How the pilots of one region went."""

    region: str
    pilots: int
    usable: int
    usable_p50_seconds: float | None = Field(description="From asking to a proven machine, of those that were usable.")
    last_at: Moment


class ProviderReply(Reply, ProviderView):
    matrix: list[MatrixRow]
    setbacks: list[SetbackView] = Field(description="Its definite noes of the last half hour, the newest first.")
    days: float = Field(description="How many days of prices follow.")
    prices: list[PriceLine]
    pilots: list[PilotView]
    pilot_regions: list[RegionPilots]
    audit: list[AuditView]


class ProbeReply(Reply):
    provider: str
    ok: bool
    summary: str
    facts: dict[str, str]
    seconds: float = Field(description="How long the answer took.")


def standing_view(one: Standing, now: datetime) -> StandingView:
    no = one.no(now)
    state = "well" if no is None else "paused" if no[0] == "paused" else "away"
    return StandingView(
        state=state,
        sentence=_sentence(one, state),
        since=one.paused_at if state == "paused" else one.trouble_at if state == "away" else None,
        until=one.open_until if state == "away" else None,
        by=one.paused_by,
        failures=one.failures,
        trouble=one.trouble,
        trouble_at=one.trouble_at,
    )


def _sentence(one: Standing, state: str) -> str:
    if state == "paused":
        by = f"Paused by {one.paused_by}" if one.paused_by else "Paused"
        return f"{by}: {one.paused_why}" if one.paused_why else f"{by}."
    return (one.trouble or "Its calls fail.") if state == "away" else ""


def provider_views(
    market: Market,
    judged: Sequence[OfferView],
    traits: Mapping[str, Traits],
    makes: Mapping[str, Make],
    live: Mapping[str, int],
    found: Leaks,
    names: Sequence[str],
) -> list[ProviderView]:
    """One for each provider of the settings; `judged` is every offer with what the pools make of it."""
    cold = [cooldown_view(one) for one in market.cold]
    views: list[ProviderView] = []
    for name in names:
        mine = [one for one in judged if one.provider == name]
        passing = [one for one in mine if one.passes]
        survey, make = found.surveys.get(name), makes.get(name, Make())
        views.append(
            ProviderView(
                name=name,
                kind=make.kind,
                package=make.package,
                own_hardware=traits.get(name, Traits()).own_hardware,
                standing=standing_view(market.known.standings.get(name, Standing(name)), market.now),
                cooldowns=[one for one in cold if one.provider == name],
                offers=len(mine),
                passing=len(passing),
                offers_seen_at=max((one.seen_at for one in mine), default=None),
                cheapest=_brief(mine),
                cheapest_passing=_brief(passing),
                live_leases=live.get(name, 0),
                sweep=None if survey is None else SurveyView(
                    at=survey.at, listed=survey.listed, owned=survey.owned, held=survey.held, trouble=survey.trouble
                ),
            )
        )  # fmt: skip
    return views


def _brief(offers: Sequence[OfferView]) -> BriefOffer | None:
    """The first: they come the cheapest first."""
    one = next(iter(offers), None)
    if one is None:
        return None
    price = one.price_per_hour
    return BriefOffer(
        id=one.id, title=one.title, region=one.region, spot=one.spot, price_per_hour=price.amount, currency=price.currency
    )


def setback_views(setbacks: Sequence[Setback], name: str) -> list[SetbackView]:
    return [
        SetbackView(
            at=one.at,
            region=one.region,
            type=one.type,
            offer=one.offer,
            reach=str(one.reach),
            reason=str(one.reason),
            detail=one.detail,
        )
        for one in reversed(setbacks)
        if one.provider == name
    ]


def matrix(traits: Traits) -> list[MatrixRow]:
    """What a buyer asks of a provider. Nothing is decided by what its profile says; the engine plans around the rest."""
    told = traits.profile
    granules = "by the second" if traits.billing_granularity <= timedelta(seconds=1) else (
        f"in steps of {duration(traits.billing_granularity)}"
    )  # fmt: skip
    least = f", at least {duration(traits.billing_minimum)}" if traits.billing_minimum > timedelta(0) else ""
    billing = "nothing is rented" if traits.own_hardware else f"billed {granules}{least}, in {traits.currency}"
    rows = [
        ("hardware", "Hardware freshness", told.hardware),
        ("footprint", "Footprint", told.footprint),
        ("own_keys", "Own keys", told.own_keys),
        ("audit_logs", "Audit logs", told.audit_logs),
        ("residency", "Residency", told.residency),
        ("pricing", "Pricing model", f"{told.pricing}; {billing}" if told.pricing else billing),
        ("preemption", "Preemption", told.preemption),
        ("notice", "Preemption notice", _notice(traits)),
        ("dead_man_switch", "Dead-man switch", "yes: the vendor itself ends a machine at its end time"
         if traits.dead_man_switch else "no: the machine ends itself, and the sweep ends what is left"),
        ("idempotent_create", "Create asked twice", _twice(traits)),
        ("unknown_window", "After an unclear create", f"looked for during {duration(traits.unknown_window)}"),
        ("boots_from", "Boots from", BOOTS[traits.boots_from]),
        ("user_data", "Start-up script", None if traits.user_data_limit is None else f"at most {traits.user_data_limit} bytes"),
        ("creates", "Creates per minute", None if traits.creates_per_minute is None else str(traits.creates_per_minute)),
        ("offers", "Offers are asked for", f"at most every {duration(traits.offers_every)}"),
        ("proven_against", "Proven against", told.proven_against),
        ("source", "Source", told.source),
        *((f"note_{name}", name.replace("_", " ").capitalize(), text) for name, text in traits.notes.items()),
    ]  # fmt: skip
    return [MatrixRow(name=name, title=title, value=value or UNKNOWN) for name, title, value in rows]


def _notice(traits: Traits) -> str:
    if not traits.spot:
        return "no spot machines are offered"
    return UNKNOWN if traits.spot_notice is None else duration(traits.spot_notice)


def _twice(traits: Traits) -> str:
    if traits.idempotent_create:
        return "one machine: the vendor honours our key"
    if traits.unique_names:
        return "one machine: the vendor refuses a second of one name"
    return "the vendor would make two, so it is asked again only once its list surely lacks the first"


def regions_of(pilots: Sequence[PilotView]) -> list[RegionPilots]:
    """By region, those of the last pilots first."""
    groups: dict[str, list[PilotView]] = {}
    for one in pilots:
        groups.setdefault(one.region, []).append(one)
    found: list[RegionPilots] = []
    for region, group in groups.items():
        took = [one.usable_seconds for one in group if one.usable_seconds is not None]
        found.append(
            RegionPilots(
                region=region,
                pilots=len(group),
                usable=len(took),
                usable_p50_seconds=median(took) if took else None,
                last_at=max(one.asked_at for one in group),
            )
        )
    return sorted(found, key=lambda one: one.last_at, reverse=True)


def troubles(standings: Mapping[str, Standing], now: datetime) -> list[Attention]:
    """Providers that a person should look at: those whose calls fail."""
    found: list[Attention] = []
    for name, standing in sorted(standings.items()):
        told = standing_view(standing, now)
        if told.state == "away":
            text = f"Nothing is rented at {name} now: {told.sentence}"
            since = standing.trouble_at or now
            found.append(Attention(kind="provider", text=text, since=since, command=f"sublet provider test {name}"))
    return found
