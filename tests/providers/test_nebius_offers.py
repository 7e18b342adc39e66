"""What Nebius has on offer, and at what price: its platforms, its calculator and its advice, by way of its SDK."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from providers.contract import Availability, Need, Offer, Order, Refused
from tests.providers.nebius_bench import OFFER, NebiusBench, bench
from tests.providers.nebius_cloud import TENANT, Code, Trouble, capacity

ESTIMATE = "CalculatorService/EstimateBatch"
B200, H200, GB300 = "gpu-b200-sxm-a/1gpu-20vcpu-224gb", "gpu-h200-sxm/1gpu-16vcpu-200gb", "gpu-gb300-nvl/4gpu-144vcpu-960gb"


@pytest.fixture
async def stand() -> AsyncIterator[NebiusBench]:
    async with bench() as stand:
        yield stand


async def on_offer(stand: NebiusBench) -> dict[str, Offer]:
    return {offer.id: offer for offer in await stand.nebius().offers(Need())}


async def test_platforms_become_offers(stand: NebiusBench) -> None:
    offers = await on_offer(stand)
    eight = "gpu-b200-sxm-a/8gpu-160vcpu-1792gb"
    assert set(offers) == {f"me-west1/{name}" for name in (B200, f"{B200}/spot", eight, f"{eight}/spot", H200)}
    spot = offers[OFFER]
    assert (spot.gpu, spot.gpus, spot.gpu_memory_gib, spot.memory_gib) == ("gpu-b200-sxm-a", 1, 180, 200)
    assert (spot.country, spot.region, spot.architecture, spot.disk_gib) == ("IL", "me-west1", "amd64", 200)
    assert (spot.spot, spot.notice, spot.type) == (True, timedelta(seconds=60), B200)
    assert spot.price_per_hour == Decimal("5.50") * Decimal("0.4") + Decimal("0.02")
    assert spot.availability is Availability.UNKNOWN
    whole = offers[f"me-west1/{eight}"]
    assert (whole.price_per_hour, whole.notice, whole.title) == (Decimal("44.02"), None, "8 × NVIDIA® B200 NVLink")
    assert whole.seen_at == stand.clock.now()


async def test_an_offer_can_be_rented_by_its_id_alone(stand: NebiusBench) -> None:
    for offer in (await on_offer(stand)).values():
        order = stand.order()
        await stand.nebius().create(order_of(order, offer))
    sent = [call[1].spec.resources for call in stand.cloud.calls("Create")]
    assert {f"{one.platform}/{one.preset}" for one in sent} >= {B200, H200}


def order_of(order: Order, offer: Offer) -> Order:
    """As it is after a restart: the offer's id is all that counts."""
    return replace(order, offer=Offer(offer.id, offer.provider, offer.region, Decimal(0), "USD", offer.seen_at))


async def test_grace_and_vera_are_arm_and_offered_where_there_is_an_image_for_them() -> None:
    async with bench(image_arm64="ubuntu24.04-cuda13-arm64") as stand:
        offer = (await on_offer(stand))[f"me-west1/{GB300}"]
        assert (offer.architecture, offer.gpus, offer.price_per_hour) == ("arm64", 4, Decimal("36.02"))
        await stand.nebius().create(order_of(stand.order(), offer))
    async with bench(architectures={"gpu-gb300-nvl": "amd64"}) as stand:
        assert (await on_offer(stand))[f"me-west1/{GB300}"].architecture == "amd64"


async def test_named_platforms_only_and_those_without_gpus_too() -> None:
    prices = {"cpu-d3/4vcpu-16gb": Decimal("0.10")}
    async with bench(platforms=("cpu-d3",), prices=prices, spot=False) as stand:
        ((name, offer),) = (await on_offer(stand)).items()
        assert (name, offer.gpu, offer.gpus, offer.price_per_hour) == ("me-west1/cpu-d3/4vcpu-16gb", None, 0, Decimal("0.10"))
        assert not stand.cloud.calls("EstimateBatch")


async def test_one_machine_without_a_price_hides_no_other(stand: NebiusBench) -> None:
    stand.cloud.unpriceable = {H200}
    provider = stand.nebius()
    offers = {offer.id for offer in await provider.offers(Need())}
    assert offers == {f"me-west1/{name}" for name in (B200, f"{B200}/spot")} | {
        f"me-west1/gpu-b200-sxm-a/8gpu-160vcpu-1792gb{end}" for end in ("", "/spot")
    }
    health = await provider.check()
    assert health.ok
    assert "1 more have no price" in health.summary


async def test_prices_of_the_settings_go_before_the_calculator() -> None:
    prices = {B200: Decimal(4), f"me-west1/{B200}/spot": Decimal("1.5")}
    async with bench(prices=prices) as stand:
        stand.cloud.troubles = [Trouble(ESTIMATE, Code.PERMISSION_DENIED, "no billing role", times=99)]
        provider = stand.nebius()
        offers = {offer.id: offer.price_per_hour for offer in await provider.offers(Need())}
        assert offers == {f"me-west1/{B200}": Decimal(4), OFFER: Decimal("1.5")}
        health = await provider.check()
        assert health.ok
        assert "PERMISSION_DENIED" in health.facts["prices me-west1"]


async def test_without_any_price_the_check_says_so(stand: NebiusBench) -> None:
    stand.cloud.troubles = [Trouble(ESTIMATE, Code.UNAVAILABLE, "down", times=99)]
    health = await stand.nebius().check()
    assert not health.ok
    assert "no offer with a price" in health.summary


async def test_prices_are_asked_for_once_in_a_while(stand: NebiusBench) -> None:
    stand.cloud.unpriceable = {H200}
    provider = stand.nebius()
    await provider.offers(Need())
    asked = len(stand.cloud.calls("EstimateBatch"))
    await provider.offers(Need())
    assert len(stand.cloud.calls("EstimateBatch")) == asked
    await stand.clock.sleep(901)
    await provider.offers(Need())
    assert len(stand.cloud.calls("EstimateBatch")) > asked


async def test_a_calculator_that_answers_nonsense_prices_nothing(stand: NebiusBench) -> None:
    def spoiled(answer: Any) -> Any:
        words = iter(("NaN", "-1", "1e99", "cheap", "", "0"))
        for row in answer.resource_costs:
            row.general.total.cost = next(words, "0")
        return answer

    stand.cloud.troubles = [Trouble(ESTIMATE, spoil=spoiled, times=9)]
    assert await on_offer(stand) == {}


async def test_another_currency_is_not_taken_for_ours(stand: NebiusBench) -> None:
    def spoiled(answer: Any) -> Any:
        answer.currency = "ils"
        return answer

    stand.cloud.troubles = [Trouble(ESTIMATE, spoil=spoiled, times=9)]
    assert await on_offer(stand) == {}


def advice(platform: str, preset: str, fabric: str, on_demand: tuple[str, int], spot: tuple[str, int], state: str) -> Any:
    kind = capacity.ResourceAdviceStatus.Availability

    def said(level: tuple[str, int]) -> Any:
        return kind(
            data_state=kind.DataState[f"DATA_STATE_{state}"],
            availability_level=kind.AvailabilityLevel[f"AVAILABILITY_LEVEL_{level[0]}"],
            available=level[1],
        )

    machine = capacity.ComputeInstanceDetails(platform=platform, preset=capacity.ComputeInstanceDetails.Preset(name=preset))
    return capacity.ResourceAdvice(
        spec=capacity.ResourceAdviceSpec(region="me-west1", fabric=fabric, compute_instance=machine),
        status=capacity.ResourceAdviceStatus(on_demand=said(on_demand), preemptible=said(spot)),
    )


async def test_advice_becomes_availability_the_best_fabric_counts() -> None:
    async with bench(tenant=TENANT) as stand:
        b200, small = B200.split("/")
        eight = "8gpu-160vcpu-1792gb"
        stand.cloud.advice = [
            advice(b200, small, "f1", ("LIMIT_REACHED", 0), ("LOW", 2), "FRESH"),
            advice(b200, small, "f2", ("HIGH", 9), ("LOW", 0), "FRESH"),
            advice(b200, eight, "f1", ("LOW", 0), ("UNKNOWN", 0), "FRESH"),
            advice("gpu-h200-sxm", "1gpu-16vcpu-200gb", "f1", ("HIGH", 9), ("HIGH", 9), "STALE"),
            capacity.ResourceAdvice(),
        ]
        found = {name: offer.availability for name, offer in (await on_offer(stand)).items()}
        assert found == {
            f"me-west1/{B200}": Availability.AVAILABLE,
            f"me-west1/{B200}/spot": Availability.SCARCE,
            f"me-west1/{b200}/{eight}": Availability.NONE,
            f"me-west1/{b200}/{eight}/spot": Availability.UNKNOWN,
            f"me-west1/{H200}": Availability.UNKNOWN,
        }


async def test_advice_that_is_refused_leaves_the_offers_unknown() -> None:
    async with bench(tenant="tenant-e00other") as stand:
        provider = stand.nebius()
        offers = await provider.offers(Need())
        assert {offer.availability for offer in offers} == {Availability.UNKNOWN}
        assert "PERMISSION_DENIED" in (await provider.check()).facts["availability"]


async def test_a_platform_with_a_hostile_name_is_no_offer(stand: NebiusBench) -> None:
    stand.cloud.platforms[0].metadata.name = "gpu/../x"
    stand.cloud.platforms[1].spec.presets[0].name = "1gpu spot"
    assert await on_offer(stand) == {}


async def test_several_subnets_ask_for_a_choice(stand: NebiusBench) -> None:
    stand.cloud.subnets = ["vpcsubnet-e00one", "vpcsubnet-e00two"]
    with pytest.raises(Refused, match="say which in subnets"):
        await stand.nebius().create(stand.order())
    async with bench(subnets={"me-west1": "vpcsubnet-e00two"}) as other:
        other.cloud.subnets = ["vpcsubnet-e00one", "vpcsubnet-e00two"]
        await other.nebius().create(other.order())
        assert not other.cloud.calls("SubnetService/List")
