"""Vast's search as offers: the query, prices with the disk, bids, countries, the daily quota, settings."""

from collections.abc import AsyncGenerator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from providers.contract import Availability, Need, Offer, Refused, Secret, Throttled, Unclear
from providers.registry import ProviderTrouble, build
from providers.vast_offers import Ask
from tests.providers import vast_bench
from tests.providers.vast_bench import VastBench
from tests.providers.vast_cloud import KEY
from tests.providers.vendor_spec import standing

SEARCH = "/api/v0/bundles"


@pytest.fixture
async def bench() -> AsyncGenerator[VastBench, None]:
    async with standing(vast_bench.bench) as found:
        yield found


async def offers(bench: VastBench, need: Need = Need(), **values: Any) -> dict[str, Offer]:  # noqa: B008  frozen
    return {offer.id: offer for offer in await bench.vast(**values).offers(need)}


async def test_an_offer_says_all_that_the_search_says(bench: VastBench) -> None:
    assert (await offers(bench))["7001"] == Offer(
        id="7001",
        provider="vast",
        region="SG",
        price_per_hour=Decimal("2.1124"),  # 2.10, and 60 GB at 0.15 a month
        currency="USD",
        seen_at=bench.clock.now(),
        country="SG",
        gpu="H100 SXM",
        gpus=1,
        gpu_memory_gib=80,
        memory_gib=128,
        disk_gib=60,
        architecture="amd64",
        availability=Availability.AVAILABLE,
        title="1 x H100 SXM, machine 700, reliability 0.995",
        type="1 x H100 SXM",
    )


async def test_what_is_asked(bench: VastBench) -> None:
    await offers(bench, countries=("SG", "MY"), gpus=("H100_SXM", "B200"), counts=(1,), min_cuda="12.8", datacenter=True)
    assert bench.cloud.searches == [
        {
            "type": "ondemand",
            "limit": 200,
            "order": [["dph_total", "asc"], ["id", "asc"]],
            "allocated_storage": 60,
            "rentable": {"eq": True},
            "rented": {"eq": False},
            "external": {"eq": False},
            "gpu_arch": {"eq": "nvidia"},
            "cpu_arch": {"in": ["amd64", "arm64"]},
            "num_gpus": {"in": [1]},
            "disk_space": {"gte": 60},
            "reliability": {"gte": 0.98},
            "duration": {"gte": 21600.0},
            "verified": {"eq": True},
            "datacenter": {"eq": True},
            "geolocation": {"in": ["SG", "MY"]},
            "gpu_name": {"in": ["H100 SXM", "B200"]},
            "cuda_max_good": {"gte": 12.8},
        }
    ]


async def test_filters_leave_what_they_say(bench: VastBench) -> None:
    assert set(await offers(bench)) == {"7001", "7002", "7006"}  # reliable, verified, and there for six hours
    assert set(await offers(bench, verified=False)) == {"7001", "7002", "7004", "7006"}
    assert set(await offers(bench, min_reliability=Decimal("0.9"))) == {"7001", "7002", "7003", "7006"}
    assert set(await offers(bench, countries=("AE", "ID"))) == {"7002"}
    assert set(await offers(bench, Need(gpus=8))) == {"7002"}
    assert set(await offers(bench, Need(gpus=1, gpu_memory_gib=180))) == {"7006"}
    assert set(await offers(bench, Need(gpus=1, gpu_memory_gib=80))) == {"7001", "7006"}


async def test_arm_hosts_shares_and_unknown_places(bench: VastBench) -> None:
    found = await offers(bench, verified=False, min_duration=timedelta(0))
    assert (found["7005"].architecture, found["7005"].country) == ("arm64", "MY")
    assert (found["7006"].region, found["7006"].country) == ("unknown", None)
    assert found["7004"].memory_gib == 32  # a quarter of the machine


async def test_bids_are_offers_of_their_own(bench: VastBench) -> None:
    found = await offers(bench, bids=True)
    assert set(found) == {"7001", "7002", "7006", "7001/bid/0.0124", "7002/bid/0.0124", "7006/bid/0.0124"}
    bid = found["7001/bid/0.0124"]
    assert (bid.spot, bid.price_per_hour, bid.notice) == (True, Decimal("1.1674"), None)  # 1.05 and a tenth, and the disk
    assert Ask.of(bid.id).bid(bid.price_per_hour) == Decimal("1.1550")
    assert {offer.spot for offer in (await offers(bench, Need(spot=True), bids=True)).values()} == {True}
    assert {offer.spot for offer in (await offers(bench, Need(spot=False), bids=True)).values()} == {False}
    assert not await offers(bench, Need(spot=True))


async def test_a_bids_id_is_the_same_when_the_market_moves(bench: VastBench) -> None:
    before = await offers(bench, Need(spot=True), bids=True)
    for ask in bench.cloud.asks:
        ask["min_bid"] *= 1.5
    after = await offers(bench, Need(spot=True), bids=True)
    assert set(before) == set(after)
    assert all(after[one].price_per_hour > before[one].price_per_hour for one in after)


def test_a_bid_outside_the_vendors_limits_is_refused() -> None:
    with pytest.raises(Refused):
        Ask(7001, Decimal("0.5")).bid(Decimal("0.5"))


async def test_rows_that_do_not_keep_to_the_search_are_left_out(bench: VastBench) -> None:
    rows: list[dict[str, Any]] = [
        {**ask, "dph_total": 1.0, "storage_total_cost": 0.01} for ask in bench.cloud.asks if ask["id"] in (7001, 7002)
    ]
    rows[0]["geolocation"] = "Texas, US"
    more = [
        {**rows[1], "id": 1, **change}
        for change in ({"dph_total": None}, {"num_gpus": 0}, {"cpu_arch": "riscv"}, {"rentable": False})
    ]
    bench.cloud.trouble("POST", SEARCH, 200, {"offers": [*rows, *more]})
    assert set(await offers(bench, countries=("AE",))) == {"7002"}


@pytest.mark.parametrize("answer", [{"offers": {}}, {}, {"offers": [7]}, {"offers": [{"id": "x", "num_gpus": 1}]}])
async def test_an_unreadable_search_is_unclear(bench: VastBench, answer: Any) -> None:
    for _ in range(3):
        bench.cloud.trouble("POST", SEARCH, 200, str(answer).replace("'", '"').encode())
    with pytest.raises(Unclear):
        await offers(bench)


async def test_the_daily_quota_is_waited_for_until_midnight_utc_and_only_by_the_search(bench: VastBench) -> None:
    body = b'{"success": false, "error": "search_quota_exceeded", "msg": "Daily search quota exceeded"}'
    bench.cloud.trouble("POST", SEARCH, 429, body)
    with pytest.raises(Throttled) as caught:
        await offers(bench)
    assert caught.value.wait == timedelta(hours=12)  # the bench's clock says noon
    with pytest.raises(Throttled):
        await offers(bench)
    assert len(bench.cloud.seen) == 1
    await bench.vast().create(bench.order())
    await bench.clock.sleep(timedelta(hours=12).total_seconds())
    assert await offers(bench)


async def test_the_daily_quota_goes_by_retry_after_where_it_is_told(bench: VastBench) -> None:
    body = b'{"error": "search_quota_exceeded"}'
    bench.cloud.trouble("POST", SEARCH, 429, body, headers={"Retry-After": "30000"})
    with pytest.raises(Throttled) as caught:
        await offers(bench)
    assert caught.value.wait == timedelta(seconds=30000)


async def test_health_tells_credit_and_a_bad_key(bench: VastBench) -> None:
    health = await bench.vast().check()
    assert (health.ok, health.facts) == (True, {"credit": "25.5", "balance": "0.0"})
    bench.cloud.credit = 0
    assert not (await bench.vast().check()).ok
    bench.cloud.trouble("GET", "/api/v0/users", 401, {"success": False, "error": "auth_error", "msg": "Invalid user key"})
    health = await bench.vast().check()
    assert not health.ok
    assert "Invalid user key" in health.summary


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"url": "http://console.vast.ai"}, "https"),
        ({"countries": ["Singapore"]}, "SG"),
        ({"counts": []}, "counts"),
        ({"min_reliability": "1.1"}, "min_reliability"),
        ({"disk_gib": 0}, "disk_gib"),
        ({"bid_margin": "0.9"}, "never starts"),
        ({"rows": 0}, "rows"),
        ({"min_cuda": "12"}, "min_cuda"),
        ({"start": "ssh"}, "onstart, arguments"),
        ({"api_key": "plain"}, "secret"),
        ({"country": "SG"}, "countries"),
    ],
)
def test_settings_that_make_no_sense_are_refused_with_a_sentence(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ProviderTrouble, match=said):
        build("vast", "vast", {"api_key": Secret(KEY), **values})


async def test_it_is_built_from_plain_settings() -> None:
    provider = build("vast", "hosts", {"api_key": Secret(KEY), "countries": ["SG"], "bids": True, "min_duration": "2 h"})
    assert provider.traits.spot
    assert KEY not in repr(provider)
    await provider.aclose()
