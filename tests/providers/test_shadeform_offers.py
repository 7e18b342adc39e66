"""The `shadeform` provider: what its catalogue becomes, its settings, and its check."""

import copy
from collections.abc import AsyncGenerator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import httpx
import pytest
import pytest_asyncio

from providers.contract import Availability, Need, Secret, Unclear
from providers.registry import ProviderTrouble, build, installed
from tests.providers.shadeform_bench import SETTINGS, ShadeformBench, bench
from tests.providers.shadeform_server import HOUSTON, KEY, SSH_KEY, TORONTO, kind
from tests.providers.vendor_spec import standing


@pytest_asyncio.fixture
async def stand() -> AsyncGenerator[ShadeformBench, None]:
    async with standing(bench) as made:
        yield made


async def test_offers_are_the_catalogue_with_its_stock(stand: ShadeformBench) -> None:
    offers = {offer.id: offer for offer in await (await stand.provider()).offers(Need())}
    assert list(offers) == [
        "hyperstack/canada-1/A6000",
        "hyperstack/us-central-2/A6000",
        "massedcompute/us-central-2/A6000",
        "lambdalabs/moon-1/GH200",
        "hyperstack/canada-1/CPU",
    ]
    one = offers["hyperstack/canada-1/A6000"]
    assert (one.gpu, one.gpus, one.gpu_memory_gib, one.memory_gib, one.disk_gib) == ("A6000", 1, 48, 46, 256)
    assert (one.price_per_hour, one.currency, one.country, one.region) == (Decimal("0.50"), "USD", "CA", "canada-1")
    assert (one.availability, one.type, one.architecture) == (Availability.AVAILABLE, "hyperstack/A6000", "amd64")
    assert (one.seen_at, one.title) == (stand.clock.now(), "hyperstack A6000 (gpu_1x_a6000)")
    full = offers["massedcompute/us-central-2/A6000"]
    assert (full.availability, full.country, full.price_per_hour) == (Availability.NONE, "US", Decimal("0.57"))
    super_chip = offers["lambdalabs/moon-1/GH200"]
    assert (super_chip.architecture, super_chip.country) == ("arm64", None)
    plain = offers["hyperstack/canada-1/CPU"]
    assert (plain.gpu, plain.gpus, plain.gpu_memory_gib) == (None, 0, 0)


@pytest.mark.parametrize(
    ("settings", "ids"),
    [
        ({"clouds": ("massedcompute",)}, ["massedcompute/us-central-2/A6000"]),
        ({"regions": ("moon-1",)}, ["lambdalabs/moon-1/GH200"]),
        ({"deployments": ("baremetal",)}, ["datacrunch/houston-usa-1/B200x8"]),
        ({"deployments": ("vm", "container"), "regions": ("houston-usa-1",)}, ["vultr/houston-usa-1/A16"]),
        ({"os": "windows"}, []),
        ({"os": "ubuntu_22_shade_os", "clouds": ("lambdalabs",)}, ["lambdalabs/moon-1/GH200"]),
    ],
)
async def test_what_counts_can_be_chosen(settings: dict[str, Any], ids: list[str], stand: ShadeformBench) -> None:
    offers = await stand.made(replace(SETTINGS, **settings)).offers(Need())
    assert [offer.id for offer in offers] == ids


@pytest.mark.parametrize(
    ("title", "country"),
    [
        ("US, Houston, TX", "US"),
        ("Toronto, Canada", "CA"),
        ("Canada", "CA"),
        ("Helsinki, Finland", "FI"),
        ("UK, London", "GB"),
        ("Norway, Oslo", "NO"),
        ("", None),
        ("Mars", None),
    ],
)
async def test_countries(title: str, country: str | None, stand: ShadeformBench) -> None:
    stand.cloud.catalogue = [kind("nebius", "H100", "H100", 299, 1, ("r-1", True, title))]
    (offer,) = await (await stand.provider()).offers(Need())
    assert offer.country == country


@pytest.mark.parametrize(
    ("gpu", "name", "architecture"),
    [("GB300", "GB300x4", "arm64"), ("VR200", "VR200", "arm64"), ("Rubin", "vera_rubin", "arm64"), ("R200", "R200", "amd64")],
)
async def test_architectures(gpu: str, name: str, architecture: str, stand: ShadeformBench) -> None:
    stand.cloud.catalogue = [kind("nebius", name, gpu, 299, 1, HOUSTON)]
    (offer,) = await (await stand.provider()).offers(Need())
    assert (offer.architecture, offer.gpu) == (architecture, gpu)


async def test_of_two_rows_with_one_name_the_one_that_can_be_had_counts(stand: ShadeformBench) -> None:
    empty = ("canada-1", False, "Toronto, Canada")
    stand.cloud.catalogue = [
        kind("a", "H100", "H100", cents, 1, place) for cents, place in ((400, empty), (200, TORONTO), (300, TORONTO))
    ]
    (offer,) = await (await stand.provider()).offers(Need())
    assert (offer.price_per_hour, offer.availability) == (Decimal(3), Availability.AVAILABLE)


async def test_odd_rows_of_the_catalogue_hide_themselves_only(stand: ShadeformBench) -> None:
    good = kind("good", "H100", "H100", 299, 1, HOUSTON)
    rows: list[Any] = [None, {}, good]
    spoilt: list[tuple[str, Any]] = [
        ("hourly_price", 0),
        ("hourly_price", True),
        ("hourly_price", "299"),
        ("hourly_price", 2.5),
        ("cloud", "a/b"),
        ("shade_instance_type", ""),
        ("configuration", None),
        ("availability", "everywhere"),
    ]
    for key, value in spoilt:
        rows.append({**copy.deepcopy(good), "cloud": "odd", key: value})
    stand.cloud.meet("/types", httpx.Response(200, json={"instance_types": rows}))
    (offer,) = await (await stand.provider()).offers(Need())
    assert offer.id == "good/houston-usa-1/H100"
    stand.cloud.meet(
        "/types",
        httpx.Response(200, json={"instance_types": [{**good, "availability": [{"region": "x", "available": "yes"}]}]}),
    )
    (offer,) = await (await stand.provider()).offers(Need())
    assert offer.availability is Availability.UNKNOWN


@pytest.mark.parametrize("body", [{}, [], {"instance_types": {}}, {"instance_types": None}])
async def test_what_is_no_catalogue_is_unclear(body: object, stand: ShadeformBench) -> None:
    stand.cloud.meet("/types", httpx.Response(200, json=body))
    with pytest.raises(Unclear):
        await (await stand.provider()).offers(Need())


async def test_check_tells_stock_and_wants_the_ssh_key(stand: ShadeformBench) -> None:
    health = await stand.made(replace(SETTINGS, ssh_key_id=SSH_KEY)).check()
    assert health.ok
    assert health.summary == "the key is good, and 3 of 5 offers are in stock"
    assert health.facts == {"offers": "5", "in stock": "3", "clouds with stock": "hyperstack, lambdalabs"}
    other = SSH_KEY[:-1] + "1"
    health = await stand.made(replace(SETTINGS, ssh_key_id=other)).check()
    assert not health.ok
    assert other in health.summary
    health = await stand.made(replace(SETTINGS, os="windows")).check()
    assert not health.ok
    assert "nothing in the catalogue fits" in health.summary


async def test_check_tells_of_a_bad_key(stand: ShadeformBench) -> None:
    health = await stand.made(replace(SETTINGS, api_key=Secret("sf-other-key"))).check()
    assert not health.ok
    assert "401" in health.summary
    assert "sf-other-key" not in health.summary


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"api_key": Secret("")}, "api_key is empty"),
        ({"ssh_key_id": "ci"}, "ssh_key_id is an id"),
        ({"clouds": ("hyper stack",)}, "is no cloud"),
        ({"regions": ("a/b",)}, "is no region"),
        ({"deployments": ()}, "deployments are some of"),
        ({"deployments": ("vm", "pod")}, "deployments are some of"),
    ],
)
def test_settings_that_make_no_sense(values: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        replace(SETTINGS, **values)


def test_it_is_built_from_a_table_of_settings() -> None:
    known = installed()
    provider = build("shadeform", "many", {"api_key": Secret(KEY), "clouds": ["hyperstack"], "shade_cloud": False}, known)
    assert provider.traits.dead_man_switch
    assert not provider.traits.spot
    with pytest.raises(ProviderTrouble, match="api_key is missing"):
        build("shadeform", "many", {}, known)
