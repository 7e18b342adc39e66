"""What an OpenStack cloud has on offer: its flavors, by the settings' prices, with what can be read from extra specs."""

from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import pytest

from providers.contract import Availability, Need, Offer
from providers.openstack_offers import architecture_of, gpus_of
from tests.providers.openstack_bench import OFFER, OpenStackBench, bench
from tests.providers.openstack_cloud import Trouble


@pytest.fixture
async def stand() -> AsyncIterator[OpenStackBench]:
    async with bench() as stand:
        yield stand


async def titles(stand: OpenStackBench) -> dict[str, Offer]:
    return {offer.title: offer for offer in await stand.openstack().offers(Need())}


async def test_flavors_with_a_price_are_offers(stand: OpenStackBench) -> None:
    offers = await titles(stand)
    assert set(offers) == {"g-h100-1", "g-h100-8", "m1.large"}
    one, eight, plain = offers["g-h100-1"], offers["g-h100-8"], offers["m1.large"]
    assert (one.id, one.type, one.region, one.price_per_hour) == (OFFER, "g-h100-1", "RegionOne", Decimal("2.90"))
    assert (one.gpu, one.gpus, one.memory_gib, one.disk_gib, one.architecture) == ("h100", 1, 200, 100, "amd64")
    assert (eight.gpu, eight.gpus, one.spot, one.notice, one.own) == ("h100", 8, False, None, False)
    assert (plain.gpu, plain.gpus) == (None, 0)
    assert one.availability is Availability.UNKNOWN
    assert len(stand.cloud.calls("GET", "/flavors/detail")) == 3  # a page holds five
    assert not stand.cloud.calls("GET", "/os-extra_specs")


async def test_the_settings_know_better_than_extra_specs() -> None:
    prices = {"g-vgpu": Decimal(1), "RegionOne/g-gh200": Decimal(2), "g-gh200": Decimal(9), "m1.large": Decimal("0.1")}
    async with bench(
        prices=prices,
        gpu={"g-vgpu": "L40S", "m1.large": "T4"},
        gpus={"g-vgpu": 2},
        gpu_memory_gib={"g-vgpu": 24, "g-gh200": 96},
        architectures={"m1.large": "arm64"},
        countries={"RegionOne": "SG"},
        volume_gib=300,
        own=True,
    ) as stand:
        offers = await titles(stand)
        vgpu, grace, plain = offers["g-vgpu"], offers["g-gh200"], offers["m1.large"]
        assert (vgpu.gpu, vgpu.gpus, vgpu.gpu_memory_gib, vgpu.country) == ("L40S", 2, 24, "SG")
        assert (grace.gpu, grace.gpus, grace.architecture, grace.price_per_hour) == ("gh200_gpu", 1, "arm64", Decimal(2))
        assert (plain.gpu, plain.gpus, plain.architecture, plain.disk_gib, plain.own) == ("T4", 1, "arm64", 300, True)
        assert stand.openstack().traits.own_hardware


async def test_older_clouds_tell_extra_specs_one_by_one() -> None:
    async with bench(newest="2.42") as stand:
        assert (await titles(stand))["g-h100-8"].gpus == 8
        assert len(stand.cloud.calls("GET", "/os-extra_specs")) == 3  # of the flavors with a price only


async def test_clouds_that_hide_extra_specs_still_offer(stand: OpenStackBench) -> None:
    async with bench(newest="2.42", gpu={"g-h100-1": "H100"}) as other:
        other.cloud.hides_specs = True
        offers = await titles(other)
        assert (offers["g-h100-1"].gpus, offers["g-h100-8"].gpus) == (1, 0)
        health = await other.openstack().check()
        assert health.ok
        assert "403" in health.facts["extra specs RegionOne"]


async def test_what_the_quota_has_no_room_for_is_not_available(stand: OpenStackBench) -> None:
    stand.cloud.used["totalCoresUsed"] = 100
    found = {title: offer.availability for title, offer in (await titles(stand)).items()}
    assert found["g-h100-8"] is Availability.NONE
    assert found["g-h100-1"] is Availability.UNKNOWN
    stand.cloud.used["totalInstancesUsed"] = 10
    assert {offer.availability for offer in (await titles(stand)).values()} == {Availability.NONE}


@pytest.mark.parametrize("body", ["<html>", {"limits": 7}, {"limits": {"absolute": {"maxTotalCores": "many"}}}])
async def test_limits_that_cannot_be_read_are_unknown(stand: OpenStackBench, body: object) -> None:
    stand.cloud.troubles = [Trouble("GET", "/limits", 200, body, times=9)]
    assert {offer.availability for offer in (await titles(stand)).values()} == {Availability.UNKNOWN}


async def test_the_check_names_prices_without_a_flavor() -> None:
    async with bench(prices={"g-h100-1": Decimal(1), "g-h200": Decimal(2)}) as stand:
        health = await stand.openstack().check()
        assert health.ok
        assert "no flavor is called g-h200" in health.summary
    async with bench(prices={"g-h200": Decimal(2)}) as stand:
        assert not (await stand.openstack().check()).ok


async def test_a_disabled_flavor_or_one_with_a_hostile_id_is_no_offer(stand: OpenStackBench) -> None:
    stand.cloud.flavors[0]["OS-FLV-DISABLED:disabled"] = True
    stand.cloud.flavors[1]["id"] = "../x?y"
    assert set(await titles(stand)) == {"m1.large"}


@pytest.mark.parametrize(
    ("specs", "found"),
    [
        ({}, ("", 0)),
        ({"pci_passthrough:alias": "a100:2"}, ("a100", 2)),
        ({"pci_passthrough:alias": "h100:8,nvswitch:4,mlx5:8"}, ("h100", 8)),
        ({"pci_passthrough:alias": "nic:2"}, ("", 0)),
        ({"pci_passthrough:alias": "broken"}, ("", 0)),
        ({"resources:VGPU": "1"}, ("vgpu", 1)),
        ({"resources1:PGPU": "4"}, ("pgpu", 4)),
        ({"resources:CUSTOM_B200_GPU": "8"}, ("b200_gpu", 8)),
        ({"resources:VGPU": "many", "resources:VCPU": "9"}, ("", 0)),
        ({"pci_passthrough:alias": None}, ("", 0)),
    ],
)
def test_gpus_in_extra_specs(specs: dict[str, object], found: tuple[str, int]) -> None:
    assert gpus_of(specs) == found


@pytest.mark.parametrize(
    ("specs", "found"),
    [
        ({}, "amd64"),
        ({"capabilities:cpu_arch": "aarch64"}, "arm64"),
        ({"hw:architecture": "s== aarch64"}, "arm64"),
        ({"trait:COMPUTE_ARCH_AARCH64": "required"}, "arm64"),
        ({"trait:COMPUTE_ARCH_AARCH64": "forbidden"}, "amd64"),
        ({"hw:architecture": "sparc"}, "amd64"),
    ],
)
def test_architectures_in_extra_specs(specs: dict[str, object], found: str) -> None:
    assert architecture_of(specs) == found


def test_the_page_shows_every_status() -> None:
    page = (Path(__file__).parents[2] / "docs/how-to/providers/openstack.md").read_text()
    for status, phase in OpenStackBench.states.items():
        if status.isupper() and "_OF_" not in status:
            (row,) = [line for line in page.splitlines() if f"`{status}`" in line and line.startswith("|")]
            assert f"| {phase} |" in row
