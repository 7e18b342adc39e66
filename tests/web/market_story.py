"""A market in the database: four providers, of which one is paused, one away, one cools down and one is new; and pilots."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

from app.core.billing import close
from app.core.breaker import failed
from app.core.cooling import Setback
from app.core.model import Lease, Reason, Scope, ScopeKind
from app.core.offers import offer_json
from app.core.states import State
from app.store import lease_views, ledger, market, pilots, standings, surveys
from app.store.db import Database
from app.store.pilots import Pilot
from app.web.parts import Make
from providers.contract import Availability, Health, Offer, Profile, Reach, Refused, Traits, Why
from tests.web.story import DECISION, KEY, NOW, a_job, a_lease, live_to, move, record

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
GAP = timedelta(hours=25)  # two sights a day apart are one row of history here
PROFILE = Profile(
    hardware="R100 and GB300 since 2026",
    footprint="Jakarta, Kulai, Dubai",
    own_keys="yes, disks with a key of the customer's",
    residency="disks stay in their region",
    pricing="by the vendor's price list",
    preemption="spot machines, taken with a notice",
    proven_against="a stateful stand-in, its requests and answers checked against the vendor's description",
)
TRAITS: Mapping[str, Traits] = {
    "cloud-a": Traits(
        billing_granularity=MINUTE, billing_minimum=10 * MINUTE, spot=True, spot_notice=2 * MINUTE, idempotent_create=True,
        creates_per_minute=20, profile=PROFILE, notes={"public_address": "none, unless the settings ask for one"},
    ),
    "cloud-b": Traits(spot=True, dead_man_switch=True),
    "cloud-c": Traits(),
    "lab": Traits(own_hardware=True),
}  # fmt: skip
MAKES = {
    "cloud-a": Make("aws", "sublet 0.1.0"),
    "cloud-b": Make("shadeform", "sublet 0.1.0"),
    "cloud-c": Make("acme", "sublet-acme 3.2"),
    "lab": Make("ssh", "sublet 0.1.0"),
}


async def well() -> Health:
    return Health(True, "3 hosts answer.")


async def refused() -> Health:
    return Health(False, "The key has expired.", {"account": "acme-ci"})


async def told() -> Health:
    return Health(True, "The key is good; 41 offers now.", {"balance": "812.40 USD", "quota": "8 of 16 GPUs"})


CHECKS = {"cloud-a": told, "cloud-b": refused, "cloud-c": well, "lab": well}


def offer(identity: str, price: str, **values: Any) -> Offer:
    given: dict[str, Any] = {
        "provider": "cloud-a", "region": "ap-southeast-3", "country": "ID", "currency": "USD", "seen_at": NOW, "gpu": "rubin",
        "gpus": 1, "gpu_memory_gib": 288, "memory_gib": 256, "disk_gib": 2000, "title": identity.replace("-", " "),
        "availability": Availability.AVAILABLE, "type": identity.partition("/")[0],
    }  # fmt: skip
    return Offer(identity, price_per_hour=Decimal(price), **{**given, **values})


OFFERS: Mapping[str, tuple[Offer, ...]] = {
    "cloud-a": (
        offer("r100-1x", "2.19"),
        offer("r100-1x/spot", "1.31", spot=True, notice=2 * MINUTE, availability=Availability.SCARCE),
        offer("r100-8x", "17.10", gpus=8, memory_gib=2048, disk_gib=30_000),
        offer("h100-1x", "1.99", gpu="h100", gpu_memory_gib=80, country="AE", region="me-central-1"),
        offer("vr200-1x", "2.80", architecture="arm64", availability=Availability.NONE),
    ),
    "cloud-b": (offer("1xR100", "2.35", provider="cloud-b", region="sg-1", country="SG", disk_gib=None),),
    "cloud-c": (
        offer("=R100.80S", "1.20", provider="cloud-c", region="fi-01", country=None, gpus=1, title="R100.80S <b>"),
        offer("cpu-8", "0.21", provider="cloud-c", gpu=None, gpus=0, gpu_memory_gib=0, region="fi-01", country="FI"),
    ),
}


def market_day(db: Database) -> None:
    """What was offered for two days: prices that moved, and what stands now."""
    moved = {"r100-1x/spot": ("0.98", "1.64", "1.31"), "r100-1x": ("2.40", "2.19", "2.19")}
    turns = [NOW - hours * HOUR for hours in (48, 24, 9, 0)]
    for name, offers in OFFERS.items():
        for place, (since, until) in enumerate(itertools.pairwise(turns)):
            then = [replace(one, price_per_hour=Decimal(moved.get(one.id, (one.price_per_hour,) * 3)[place])) for one in offers]
            for at in (since, until - 5 * MINUTE if until < NOW else NOW):
                market.note(db, name, [replace(one, seen_at=at) for one in then], at, GAP)


def noes(db: Database) -> None:
    """cloud-a had no machine of a type lately, cloud-b's key is refused, and somebody has paused cloud-c."""
    no = Setback(NOW - 30 * timedelta(seconds=1), "cloud-a", "ap-southeast-3", "r100-8x", "r100-8x", Reach.REGION,
                 Reason.NO_CAPACITY, "InsufficientInstanceCapacity: no r100-8x in ap-southeast-3")  # fmt: skip
    first = replace(no, at=NOW - 2 * MINUTE)
    standings.told(db, "cloud-a", lambda standing: standing, (first, no))
    error = Refused("the key has expired", why=Why.CREDENTIALS)
    standings.told(db, "cloud-b", lambda standing: failed(standing, error, NOW - MINUTE))
    standings.pause(db, "cloud-c", "ana", "prices went up; asking their sales", NOW - 3 * HOUR)
    surveys.note(db, "cloud-a", listed=4, owned=4, held=0, now=NOW - 12 * timedelta(seconds=1))
    surveys.note(db, "cloud-b", listed=0, owned=0, held=0, now=NOW - 40 * MINUTE)
    surveys.fail(db, "cloud-b", "cloud-b: the key has expired", NOW - MINUTE)


REPORT = {
    "gpu": {"name": "NVIDIA Rubin R100", "gpus": 1, "memory_gbs": 7900.4, "fp32_tflops": 96.5},
    "network": {"connect_ms": 41.2, "download_mbps": 940.0},
}
PILOT = replace(KEY, pool="(pilot)", forge="", scope=Scope(ScopeKind.REPOSITORY, "(pilot)"), labels=())


def a_pilot(db: Database, number: int, name: str, usable: int | None, region: str = "ap-southeast-3") -> Lease:
    """A pilot of cloud-a, `number` hours ago: usable after so many seconds, or never; its machine is gone."""
    asked, second = NOW - number * HOUR, timedelta(seconds=1)
    one = offer_json(replace(OFFERS["cloud-a"][0], region=region))
    lease = a_lease(900 + number, name, asked, key=PILOT, provider="cloud-a", mode="bare", signed=False)
    wanted = Pilot(f"p{number}", "cloud-a", region, lease.id, "ana", asked, one)
    assert not pilots.ask(db, wanted, lease, "how fast is it there?", asked)
    values: dict[str, Any] = {
        "provider": "cloud-a",
        "region": region,
        "offer": one,
        "price_per_hour": Decimal("2.19"),
        "asked_at": asked,
    }
    move(db, lease.id, State.LAUNCHING, asked + second, **values)
    move(db, lease.id, State.BOOTING, asked + 9 * second, instance_id=f"i-pilot-{number}")
    ended = asked + timedelta(seconds=(usable or 900) + 120)
    reason, text = Reason.BOOT_TIMEOUT, "The node said nothing for 15 min."
    if usable is not None:
        there = asked + usable * second
        move(db, lease.id, State.PROVING, there, joined_at=there)
        pilots.usable(db, lease.id, there)
        assert pilots.measured(db, lease.id, REPORT, there + 30 * second)
        reason, text = Reason.PILOT_DONE, "It was measured."
    move(db, lease.id, State.DESTROYING, ended, reason, text)
    lease = move(db, lease.id, State.RELEASED, ended + 8 * second, gone_at=ended + 8 * second)
    ledger.book(db, lease.id, close(lease, lease_views.spans(db, lease.id)), ended + 9 * second)
    pilots.close(db, ended + 10 * second)
    return lease


def no(provider: str, title: str, region: str, price: str, outcome: str, detail: str, seconds: int) -> dict[str, Any]:
    """A line of the decision record on an offer that said no."""
    at = NOW - timedelta(seconds=60 - seconds)
    return {
        "at": at.isoformat(), "provider": provider, "offer": title.lower(), "title": title, "region": region,
        "price_per_hour": price, "currency": "USD", "outcome": outcome, "detail": detail,
    }  # fmt: skip


THREE_NOES: Mapping[str, Any] = {
    **DECISION,
    "usual_minutes": 34.5,
    "tried": [
        no("cloud-a", "R100-8x", "ap-southeast-3", "1.98", "no_capacity", "InsufficientInstanceCapacity: no r100-8x left", 1),
        no("cloud-b", "1xR100", "sg-1", "2.05", "provider_refused", "the key has expired", 2),
        no("cloud-c", "R100.80S", "fi-01", "2.10", "throttled", "429: slow down <b>now</b>", 3),
    ],
    "cooldowns": [
        {"provider": "cloud-a", "region": "ap-southeast-3", "type": "r100-8x", "offer": "", "failures": 2,
         "since": (NOW - MINUTE).isoformat(), "until": (NOW + MINUTE).isoformat(),
         "why": "2 failed lately, last: no capacity (InsufficientInstanceCapacity: no r100-8x left)"},
    ],
    "closed": [{"provider": "cloud-b", "rule": "provider-away", "detail": "the key has expired; asked again at 12:21:05 UTC"}],
    "troubles": ["Provider lab: 2 of 3 hosts do not answer"],
    "verdicts": [
        {**row, "currency": "USD", "gpu": "rubin", "gpus": 1, "spot": place == 0, "availability": "available",
         "expected": format(Decimal(str(row["price_per_hour"])) * Decimal("0.575"), "f")}
        for place, row in enumerate(DECISION["verdicts"])
    ],
}  # fmt: skip


def failover(db: Database) -> None:
    """Three providers said no, each in its own way: one lease runs its job on the fourth, another one boots there."""
    for number, name, state in ((71, "proud-lynx-20", State.BUSY), (72, "quick-kite-33", State.BOOTING)):
        began = NOW - timedelta(minutes=5) if state is State.BUSY else NOW - MINUTE
        live_to(db, number, name, state, began, job=30_000 + number if state is State.BUSY else 0, decision=THREE_NOES)
    waiting = a_job(30_072, queued_at=NOW - MINUTE, name="gpu-tests")
    record(db, waiting, NOW - MINUTE, wait="Lease quick-kite-33 is booting. The provider says: starting.")


def market_place(db: Database) -> None:
    """All of it: offers and their history, who is paused, away or cooling down, three noes, and pilots."""
    market_day(db)
    noes(db)
    failover(db)
    a_pilot(db, 30, "keen-mole-11", 74)
    a_pilot(db, 26, "calm-wren-12", None, "me-central-1")
    a_pilot(db, 5, "wise-ibex-13", 68)
