"""Offers over HTTP and on their page: what every pool makes of each, why not, in which order; and the empty states."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from app.core.gpus import GpuNames
from app.store import market, standings
from app.store.people import Role
from app.web.offers_views import RULES
from providers.contract import Need
from tests.web.conftest import Rebuilt, Service, pool
from tests.web.market_story import CHECKS, GAP, MAKES, TRAITS, market_day, noes, offer
from tests.web.story import NOW
from tests.web.test_pages import words

PAGE = {"accept": "text/html"}
POOLS = {
    "rubin": pool(),
    "cheap": pool(name="cheap", need=Need(gpu="rubin", gpus=1, max_price_per_hour=Decimal("1.50"), spot=False)),
    "abroad": pool(name="abroad", need=Need(gpus=1, regions=frozenset({"ae"}), max_price_per_hour=Decimal(9))),
}


@pytest.fixture
def trading(service: Service, rebuilt: Rebuilt) -> Service:
    """Three pools, four providers, and two days of offers."""
    market_day(service.db)
    noes(service.db)
    return rebuilt(providers=CHECKS, traits=TRAITS, makes=MAKES, pools=POOLS)


async def asked(service: Service, path: str) -> Any:
    async with service.client(Role.VIEWER) as client:
        reply = await client.get(f"/api/v1/offers{path}")
    assert reply.status_code == 200, reply.text
    return reply.json()


async def test_those_that_pass_come_first_and_each_pool_says_why_not(trading: Service) -> None:
    told = await asked(trading, "?all=true")
    assert (told["seen"], told["passing"], told["more"]) == (8, 3, False)
    shown = [(one["id"], one["passes"]) for one in told["offers"]]
    assert shown[:3] == [("r100-1x/spot", True), ("h100-1x", True), ("r100-1x", True)]
    assert not any(passes for _, passes in shown[3:])
    spot = next(one for one in told["offers"] if one["id"] == "r100-1x/spot")
    verdicts = {one["pool"]: (one["passes"], one["place"], one["rule"]) for one in spot["pools"]}
    assert verdicts == {"rubin": (True, 1, ""), "cheap": (False, None, "spot"), "abroad": (False, None, "region")}
    assert spot["pools"][0]["detail"] == "is in ap-southeast-3, allowed: ae"
    h100 = next(one for one in told["offers"] if one["id"] == "h100-1x")
    assert {one["pool"] for one in h100["pools"] if one["passes"]} == {"abroad"}, "a country is a region, too"
    big = next(one for one in told["offers"] if one["id"] == "r100-8x")
    assert next(one["detail"] for one in big["pools"] if one["pool"] == "rubin") == "17.10 USD/h, cap 9.50"


async def test_the_bill_of_a_usual_job_counts_granularity_and_minimum(trading: Service, rebuilt: Rebuilt) -> None:
    told = await asked(trading, "?gpu=h100")
    (abroad,) = [one for one in told["offers"][0]["pools"] if one["pool"] == "abroad"]
    assert abroad["expected"] == {"amount": "0.663333", "currency": "USD"}, "20 min of 1.99 an hour, in whole minutes"
    dear = replace(TRAITS["cloud-a"], billing_minimum=60 * TRAITS["cloud-a"].billing_granularity)
    told = await asked(rebuilt(pools=POOLS, traits={"cloud-a": dear}), "?gpu=h100")
    (abroad,) = [one for one in told["offers"][0]["pools"] if one["pool"] == "abroad"]
    assert abroad["expected"]["amount"] == "1.9900", "an hour is billed at least"


async def test_an_offer_says_all_that_is_known_of_it(trading: Service) -> None:
    (spot,) = [one for one in (await asked(trading, "?pool=rubin"))["offers"] if one["spot"]]
    known = {key: spot[key] for key in ("country", "gpu", "gpus", "gpu_memory_gib", "memory_gib", "disk_gib", "architecture")}
    assert known == {
        "country": "ID", "gpu": "rubin", "gpus": 1, "gpu_memory_gib": 288, "memory_gib": 256, "disk_gib": 2000,
        "architecture": "amd64",
    }  # fmt: skip
    assert (spot["notice_seconds"], spot["availability"], spot["own"]) == (120.0, "scarce", False)
    assert spot["price_per_hour"] == {"amount": "1.3100", "currency": "USD"}
    assert (spot["seen_at"], spot["age_seconds"], spot["type"]) == ("2026-11-21T12:16:05Z", 0.0, "r100-1x")
    trading.clock.advance(90)
    assert (await asked(trading, ""))["offers"][0]["age_seconds"] == 90.0


async def test_filters(trading: Service) -> None:
    for query, found in {
        "": ["r100-1x/spot", "h100-1x", "r100-1x"],
        "?gpu=R200": ["r100-1x/spot", "r100-1x"],
        "?gpu=NVIDIA%20H100%2080GB&all=true": ["h100-1x"],
        "?provider=cloud-b": [],
        "?provider=cloud-b&all=true": ["1xR100"],
        "?pool=abroad": ["h100-1x"],
        "?all=true&limit=2": ["r100-1x/spot", "h100-1x"],
    }.items():
        told = await asked(trading, query)
        assert [one["id"] for one in told["offers"]] == found, query
        assert told["more"] is ("limit" in query), query


async def test_a_sites_own_gpu_names_count(trading: Service) -> None:
    market.note(trading.db, "cloud-a", [offer("mi", "3", gpu="mi400")], NOW, GAP)
    own = Service(replace(trading.parts, gpu_names=GpuNames({"mi400": ("instinct 400",)})), *_rest(trading))
    async with own.client(Role.VIEWER) as client:
        assert (await client.get("/api/v1/offers?gpu=mi400&all=true")).json()["seen"] == 1


def _rest(service: Service) -> tuple[Any, ...]:
    return service.app, service.clock, service.db, service.tokens


async def test_what_is_not_there_is_not_found(trading: Service) -> None:
    async with trading.client(Role.VIEWER, **PAGE) as client:
        for path in ("/api/v1/offers", "/offers.json", "/offers"):
            for query in ("?provider=nobody", "?pool=nobody"):
                assert (await client.get(path + query)).status_code == 404, path + query
        assert (await client.get("/api/v1/offers?limit=0")).status_code == 422


async def test_rejections_are_counted_by_the_rule_that_an_offer_came_furthest_to(trading: Service) -> None:
    told = await asked(trading, "?all=true")
    assert told["rejected"] == {"paused": 2, "provider-away": 1, "capacity": 1, "price": 1}
    rules = {verdict["rule"] for one in told["offers"] for verdict in one["pools"]} - {""}
    assert rules <= set(RULES)
    standings.resume(trading.db, "cloud-c", "ana", NOW)
    rejected = (await asked(trading, "?all=true"))["rejected"]
    assert rejected == {"gpu-count": 1, "provider-away": 1, "capacity": 1, "price": 1}, "of the pool that it nearly passed"


async def test_a_service_without_pools_passes_nothing(trading: Service, rebuilt: Rebuilt) -> None:
    told = await asked(rebuilt(pools={}), "?all=true")
    assert (told["passing"], told["rejected"], told["offers"][0]["pools"]) == (0, {"no pool": 8}, [])


async def test_the_page_and_its_twin(trading: Service) -> None:
    async with trading.client(Role.VIEWER, **PAGE) as client:
        page = await client.get("/offers?all=true&gpu=rubin")
        twin = (await client.get("/offers.json?all=true&gpu=rubin")).json()
        assert twin == (await client.get("/api/v1/offers?all=true&gpu=rubin")).json()
        again = await client.get("/offers?all=true&gpu=rubin", headers={"if-none-match": page.headers["etag"]})
        assert again.status_code == 304
        trading.clock.advance(60)
        assert (await client.get("/offers?all=true", headers={"if-none-match": page.headers["etag"]})).status_code == 200
        assert (await client.get("/providers")).headers["location"] == "/offers#providers"
    shown = words(page)
    assert '<a href="/offers" aria-current="page"' in page.text
    for piece in (
        "rubin number 1, $0.44 for a usual job", "price: 17.10 USD/h, cap 9.50", "spot, told 2 min before", "2 TB disk",
        "paused by ana since 2026-11-21 09:16 UTC: prices went up", "sublet offers --gpu rubin --all", "Price of rubin",
        "Turned down: 1 paused", "1 cooling down", "asked again 12:20:05 UTC",
    ):  # fmt: skip
        assert piece in shown, piece
    assert "R100.80S &lt;b&gt;" in page.text and "<b>" not in page.text, "a vendor's words are not ours"


async def test_nothing_to_show_says_what_to_do(trading: Service) -> None:
    async with trading.client(Role.VIEWER, **PAGE) as client:
        none = await client.get("/offers?pool=cheap")
        assert "None of the 8 offers passes the pool cheap." in words(none) and "Show them all, with why not" in words(none)
        assert "/offers?pool=cheap&amp;all=true" in none.text
        assert "No offer matches this filter. Clear the filter" in words(await client.get("/offers?provider=lab&all=true"))
        assert "No price of it was seen in the last 30 days." in words(await client.get("/offers?gpu=b200&days=30"))


async def test_a_new_service_has_no_offer_and_says_so(service: Service, rebuilt: Rebuilt) -> None:
    async with service.client(Role.VIEWER, **PAGE) as client:
        page = words(await client.get("/offers"))
    assert "No offer is known yet." in page and "sublet provider test cloud-a" in page
    async with rebuilt(providers={}).client(Role.VIEWER, **PAGE) as client:
        page = words(await client.get("/offers"))
    assert "No provider is in the settings" in page and "sublet provider add KIND NAME" in page


async def test_a_page_asks_for_more_where_there_is_more(trading: Service) -> None:
    async with trading.client(Role.VIEWER, **PAGE) as client:
        page = (await client.get("/offers?all=true&limit=3")).text
    assert 'href="/offers?all=true&amp;limit=15"' in page and "3 are shown." in page


async def test_metrics_tell_of_the_market(trading: Service) -> None:
    async with trading.client(Role.VIEWER) as client:
        told = (await client.get("/metrics")).text
        assert 'sublet_offers{gpu="rubin",provider="cloud-a"} 4.0' in told
        assert 'sublet_offer_price_per_hour{gpu="rubin",provider="cloud-a"} 1.31' in told
        assert 'sublet_offer_price_per_hour{gpu="none",provider="cloud-a"} NaN' in told, "no offer is no price of nothing"
        assert 'sublet_offers_age_seconds{provider="cloud-a"} 0.0' in told
        assert 'sublet_provider_cooldown{provider="cloud-a"} 1.0' in told
