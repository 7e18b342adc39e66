"""RunPod's catalogue as offers: prices with the disk, places and countries, stock, filters, settings."""

from collections.abc import AsyncGenerator
from decimal import Decimal
from typing import Any

import pytest

from providers.contract import Availability, Need, Offer, Secret, Unclear
from providers.registry import ProviderTrouble, build
from providers.runpod import RunPodSettings
from providers.runpod_catalogue import Cloud
from tests.providers import runpod_bench
from tests.providers.runpod_bench import RunPodBench
from tests.providers.runpod_cloud import DESCRIPTION, KEY, GpuType
from tests.providers.vendor_spec import Spec, standing


@pytest.fixture
async def bench() -> AsyncGenerator[RunPodBench, None]:
    async with standing(runpod_bench.bench) as found:
        yield found


def set_to(**values: Any) -> RunPodSettings:
    return RunPodSettings(Secret(KEY), **values)


async def offers(bench: RunPodBench, need: Need = Need(gpus=1), **values: Any) -> dict[str, Offer]:  # noqa: B008  frozen
    return {offer.id: offer for offer in await bench.runpod(set_to(**values)).offers(need)}


async def test_an_offer_says_all_that_the_catalogue_says(bench: RunPodBench) -> None:
    found = (await offers(bench))["secure/AP-JP-1/1/NVIDIA H100 80GB HBM3"]
    assert found == Offer(
        id="secure/AP-JP-1/1/NVIDIA H100 80GB HBM3",
        provider="runpod",
        region="AP-JP-1",
        price_per_hour=Decimal("2.6982"),  # 2.69, and 60 GB at 0.10 a month
        currency="USD",
        seen_at=bench.clock.now(),
        country="JP",
        gpu="NVIDIA H100 80GB HBM3",
        gpus=1,
        gpu_memory_gib=80,
        disk_gib=60,
        architecture="amd64",
        availability=Availability.AVAILABLE,
        title="1 x H100 SXM, secure cloud",
        type="1 x NVIDIA H100 80GB HBM3",
    )


async def test_stock_countries_and_architecture(bench: RunPodBench) -> None:
    found = await offers(bench)
    told = {offer_id: (one.availability.value, one.country, one.architecture) for offer_id, one in found.items()}
    assert told == {
        "secure/AP-JP-1/1/NVIDIA H100 80GB HBM3": ("available", "JP", "amd64"),
        "secure/US-KS-2/1/NVIDIA H100 80GB HBM3": ("scarce", "US", "amd64"),
        "secure/EU-RO-1/1/NVIDIA H200": ("available", "RO", "amd64"),
        "secure/CA-MTL-1/1/NVIDIA H200": ("none", "CA", "amd64"),
        "secure/EUR-IS-1/1/NVIDIA GeForce RTX 4090": ("available", "IS", "amd64"),
        "secure/ME-AE-1/1/NVIDIA GB300": ("scarce", "AE", "arm64"),  # a Grace host
    }


async def test_each_number_of_gpus_is_asked_for_by_itself_and_costs_so_many_times(bench: RunPodBench) -> None:
    found = await offers(bench, Need(), counts=(1, 4, 8))
    assert [query["count"] for query in bench.cloud.asked] == ["1", "4", "8"]
    eight = found["secure/AP-JP-1/8/NVIDIA H100 80GB HBM3"]
    assert eight.gpus == 8
    assert eight.price_per_hour == Decimal("21.5282")
    assert "secure/ME-AE-1/8/NVIDIA GB300" not in found  # four are the most on one machine


async def test_a_need_for_a_number_asks_for_that_alone(bench: RunPodBench) -> None:
    found = await offers(bench, Need(gpus=3))
    assert {offer.gpus for offer in found.values()} == {3}
    assert len(bench.cloud.asked) == 1


async def test_no_spot(bench: RunPodBench) -> None:
    assert await offers(bench, Need(spot=True)) == {}
    assert not bench.cloud.seen


async def test_the_community_cloud_has_its_own_prices(bench: RunPodBench) -> None:
    found = await offers(bench, clouds=(Cloud.COMMUNITY,), disk_price=Decimal(0))
    assert {offer_id: offer.price_per_hour for offer_id, offer in found.items()} == {
        "community/EUR-IS-1/1/NVIDIA GeForce RTX 4090": Decimal("0.3100")
    }


async def test_a_type_in_no_named_place_may_be_placed_anywhere(bench: RunPodBench) -> None:
    bench.cloud.gpus = [GpuType("NVIDIA B200", "B200", 180, 5.0, 0, {}, level="MEDIUM")]
    (found,) = (await offers(bench)).values()
    assert (found.id, found.region, found.country) == ("secure/any/1/NVIDIA B200", "any", None)
    assert found.availability is Availability.AVAILABLE
    assert not await offers(bench, data_centers=("AP-JP-1",)), "where it would be is not known"


async def test_places_can_be_limited_by_name_region_country_and_compliance(bench: RunPodBench) -> None:
    def places(found: dict[str, Offer]) -> set[str]:
        return {offer.region for offer in found.values()}

    assert places(await offers(bench, data_centers=("US-KS-2", "EU-RO-1"))) == {"US-KS-2", "EU-RO-1"}
    assert places(await offers(bench, regions=("ASIA", "MIDDLE_EAST"))) == {"AP-JP-1", "ME-AE-1"}
    assert places(await offers(bench, countries=("JP", "AE"))) == {"AP-JP-1", "ME-AE-1"}
    assert places(await offers(bench, compliance=("GDPR", "SOC_2_TYPE_2"))) == {"EU-RO-1"}
    assert places(await offers(bench, regions=("ASIA", "MIDDLE_EAST"), data_centers=("AP-JP-1",))) == {"AP-JP-1"}


async def test_the_places_of_a_region_are_asked_for_once_an_hour(bench: RunPodBench) -> None:
    provider = bench.runpod(set_to(regions=("ASIA",)))
    for _ in range(3):
        await provider.offers(Need(gpus=1))
    assert bench.cloud.seen.count(("GET", "/v2/catalog/datacenters")) == 1
    await bench.clock.sleep(3601)
    await provider.offers(Need(gpus=1))
    assert bench.cloud.seen.count(("GET", "/v2/catalog/datacenters")) == 2


async def test_a_country_can_be_set_where_the_name_misleads(bench: RunPodBench) -> None:
    found = await offers(bench, country_of={"US-KS-2": "CA"})
    assert found["secure/US-KS-2/1/NVIDIA H100 80GB HBM3"].country == "CA"


async def test_the_bench_complains_of_what_the_description_does_not_have() -> None:
    Spec.needed(DESCRIPTION)
    with pytest.raises(AssertionError, match="cloud"):
        async with runpod_bench.bench() as bench:
            catalogue = bench.runpod()._account  # pyright: ignore[reportPrivateUsage]
            with pytest.raises(AssertionError):
                await catalogue.gpus({"include": "AVAILABILITY", "product": "POD", "cloud": "secure"})


async def test_min_cuda_narrows_the_catalogue(bench: RunPodBench) -> None:
    await offers(bench, min_cuda="12.8")
    assert bench.cloud.asked[0]["minCudaVersion"] == "12.8"


@pytest.mark.parametrize("answer", [{"gpus": {}}, {"gpus": [{"id": 7}]}, {}, {"gpus": [None]}])
async def test_an_unreadable_catalogue_is_unclear(bench: RunPodBench, answer: Any) -> None:
    bench.cloud.trouble("GET", "/v2/catalog/gpus", 200, answer)
    with pytest.raises(Unclear):
        await offers(bench)


async def test_health_tells_a_cloud_without_prices(bench: RunPodBench) -> None:
    bench.cloud.gpus = bench.cloud.gpus[:2]
    assert not (await bench.runpod(set_to(clouds=(Cloud.COMMUNITY,))).check()).ok
    assert (await bench.runpod().check()).summary == "the key works; 2 GPU types have a price in the secure cloud"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"url": "http://api.runpod.io"}, "https"),
        ({"clouds": []}, "clouds"),
        ({"clouds": ["secret"]}, "secure, community"),
        ({"counts": [0]}, "counts"),
        ({"regions": ["SOUTH_EAST_ASIA"]}, "MIDDLE_EAST"),
        ({"countries": ["Singapore"]}, "SG"),
        ({"country_of": {"AP-JP-1": "jp"}}, "SG"),
        ({"disk_gib": 0}, "disk_gib"),
        ({"min_cuda": "12"}, "min_cuda"),
        ({"start": "exec"}, "replace, arguments"),
        ({"api_key": "plain"}, "secret"),
        ({"zone": "x"}, "unknown setting"),
    ],
)
def test_settings_that_make_no_sense_are_refused_with_a_sentence(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ProviderTrouble, match=said):
        build("runpod", "runpod", {"api_key": Secret(KEY), **values})


async def test_it_is_built_from_plain_settings() -> None:
    provider = build("runpod", "pods", {"api_key": Secret(KEY), "clouds": ["secure", "community"], "disk_price": "0.2"})
    assert provider.traits.profile.proven_against is not None
    assert KEY not in repr(provider)
    await provider.aclose()
