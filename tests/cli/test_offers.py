"""`offers` and `explain`: what could be rented, by which pool, and why not; and who said no before."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from app.web.offers_views import OffersReply, OfferView, PoolVerdict
from app.web.schema import ClosedView, CooldownView, Money, TriedView
from tests.cli import samples
from tests.cli.conftest import Json, Run, Service
from tests.cli.samples import BEGAN, written


def verdict(pool: str, rule: str = "", detail: str = "", place: int | None = None) -> PoolVerdict:
    expected = Money(amount="0.730000", currency="USD")
    return PoolVerdict(pool=pool, passes=not rule, place=place, rule=rule, detail=detail, expected=expected)


def offer(identity: str, *pools: PoolVerdict, **changed: Any) -> OfferView:
    values: Json = {
        "provider": "cloud-a", "id": identity, "title": identity, "type": "t", "region": "sg-1", "country": "SG", "gpu": "h100",
        "gpus": 2, "gpu_memory_gib": 80, "memory_gib": 256, "disk_gib": None, "architecture": "amd64", "spot": False,
        "notice_seconds": None, "own": False, "availability": "scarce", "seen_at": BEGAN, "age_seconds": 75.0,
        "price_per_hour": Money(amount="2.1900", currency="USD"), "passes": any(one.passes for one in pools),
        "pools": list(pools),
    }  # fmt: skip
    return OfferView(**values | changed)


def reply(*offers: OfferView, **changed: Any) -> Json:
    values: Json = {
        "offers": list(offers), "seen": 41, "passing": sum(one.passes for one in offers), "more": False,
        "rejected": {"region": 22, "price": 9},
    }  # fmt: skip
    return written(OffersReply, {"schema_version": 1} | values | changed)


GOOD = offer("a-1", verdict("rubin", place=1), verdict("cheap", "price", "2.19 USD/h, cap 1.50"), spot=True)
BAD = offer("=b-2", verdict("rubin", "region", "is in sg-1, allowed: eu"), gpu=None, gpus=0, country=None)


def test_offers_shows_what_passes_a_pool(sublet: Run, service: Service) -> None:
    service.says("GET offers", reply(GOOD))
    told = sublet("offers")
    assert told.code == 0 and service.asked[-1] == ("GET offers", {"limit": "200"})
    header, row = told.out.splitlines()
    assert header.split() == [
        "OFFER", "PROVIDER", "MACHINE", "REGION", "ARCH", "PRICE/H", "KIND", "STOCK", "SEEN", "PASSES",
    ]  # fmt: skip
    assert row.split("  ")[0] == "a-1" and "2 x h100 80 GB" in row and "sg-1 SG" in row and "$2.1900" in row
    assert "spot" in row and "1 min 15 s ago" in row and row.endswith("rubin")
    sublet("offers", "--gpu", "H100", "--provider", "cloud-a", "--pool", "rubin", "--all", "--limit", "5")
    asked = {"gpu": "H100", "provider": "cloud-a", "pool": "rubin", "all": "true", "limit": "5"}
    assert service.asked[-1] == ("GET offers", asked)


def test_offers_ends_with_6_where_none_passes(sublet: Run, service: Service) -> None:
    service.says("GET offers", reply())
    told = sublet("offers")
    assert (told.code, told.out) == (6, "")
    assert "None of the 41 offers passes (22 region, 9 price). For the values: sublet offers --why" in told.err
    service.says("GET offers", reply(BAD))
    told = sublet("offers", "--all")
    assert told.code == 6 and "no GPU" in told.out and "None of the 41 offers passes" in told.err
    service.says("GET offers", reply(seen=0, rejected={}))
    told = sublet("offers")
    assert told.code == 6 and "No offer is known" in told.err
    assert sublet("offers", "--json").code == 6


def test_why_has_a_line_for_each_offer_and_pool(sublet: Run, service: Service) -> None:
    service.says("GET offers", reply(GOOD, BAD))
    told = sublet("offers", "--why")
    assert told.code == 0 and service.asked[-1][1]["all"] == "true"
    header, *rows = told.out.splitlines()
    assert header.split() == ["OFFER", "PROVIDER", "REGION", "PRICE/H", "POOL", "VERDICT", "BECAUSE"]
    assert [" ".join(row.split()) for row in rows] == [
        "a-1 cloud-a sg-1 SG $2.1900 rubin passes, number 1 $0.73 for a usual job",
        "a-1 cloud-a sg-1 SG $2.1900 cheap price 2.19 USD/h, cap 1.50",
        "=b-2 cloud-a sg-1 $2.1900 rubin region is in sg-1, allowed: eu",
    ]
    table = list(csv.reader(io.StringIO(sublet("offers", "--why", "-o", "csv").out)))
    assert len(table) == 4 and table[3][0] == "'=b-2", "a spreadsheet takes no name for a formula"
    assert sublet("offers", "--why", "--json").json == reply(GOOD, BAD)
    lines = sublet("offers", "--why", "-o", "ndjson").out.splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["a-1", "=b-2"]


def test_more_offers_are_named_with_their_command(sublet: Run, service: Service) -> None:
    service.says("GET offers", reply(GOOD, more=True))
    told = sublet("offers", "--gpu", "rtx pro", "--limit", "1", "--all")
    assert "Shown 1; for more: sublet offers --gpu 'rtx pro' --all --limit 4" in told.err


NO = TriedView(
    at=BEGAN, provider="cloud-b", offer="b", title="2xH100", region="sg-1", outcome="throttled", detail="429 \x1b[2Jslow down",
    price_per_hour=Money(amount="2.0500", currency="USD"),
)  # fmt: skip
COLD = CooldownView(
    provider="cloud-b", region="", type="p5", offer="", since=BEGAN, until=BEGAN, failures=2,
    why="2 failed lately, last: no capacity",
)  # fmt: skip
CLOSED = ClosedView(provider="cloud-c", rule="paused", detail="paused by ana: quarter's end")


def test_explain_tells_who_said_no_before_the_chosen_one(sublet: Run, service: Service) -> None:
    lease = samples.lease()
    seen = {"provider": "mine", "offer": "o-1", "title": "1×H100", "region": "here", "price_per_hour": "2.19"}
    decision = {
        "seen": 2, "passed": 1, "chosen": {"provider": "mine", "offer": "o-1"}, "troubles": ["Provider lab: no answer"],
        "verdicts": [seen | {"passed": True, "detail": "", "expected": "0.730000", "currency": "USD"}],
        "tried": [NO.model_dump(mode="json") | {"price_per_hour": "2.05", "currency": "USD"}],
        "cooldowns": [COLD.model_dump(mode="json")], "closed": [CLOSED.model_dump(mode="json")],
    }  # fmt: skip
    service.says("GET resolve", {"id": samples.ID, "name": "brave-otter-41"})
    service.says(f"GET leases/{samples.ID}", lease | {"decision": decision})
    out = sublet("explain", "brave-otter-41").out
    assert "\x1b" not in out
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "2xH100 cloud-b sg-1 2.05 12:00:00 asked us to slow down 429 [2Jslow down" in lines
    assert "cloud-c paused paused by ana: quarter's end" in lines and "Provider lab: no answer" in lines
    assert "cloud-b any p5 12:00:00 2 failed lately, last: no capacity" in lines
    assert "1×H100 mine here 2.19 0.73 chosen -" in lines
    assert sublet("explain", "brave-otter-41", "--json").json["decision"]["tried"][0]["outcome"] == "throttled"


def test_explain_tells_of_a_job_that_waits_what_is_not_asked_now(sublet: Run, service: Service) -> None:
    waiting = samples.waiting() | {"tried": [NO.model_dump(mode="json")]}
    told = {"closed": [CLOSED.model_dump(mode="json")], "cooldowns": [COLD.model_dump(mode="json")]}
    service.says("GET queue", {"schema_version": 1, "jobs": [waiting], **told})
    url = "https://github.com/acme/train/actions/runs/9/job/30021"
    lines = [" ".join(line.split()) for line in sublet("explain", url).out.splitlines()]
    assert "2xH100 cloud-b sg-1 $2.05 12:00:00 asked us to slow down 429 [2Jslow down" in lines
    assert "cloud-c paused paused by ana: quarter's end" in lines
    told = sublet("explain", url, "--json").json
    assert (told["cooldowns"][0]["type"], told["closed"][0]["rule"]) == ("p5", "paused")
