"""The `lambda` provider: what its catalogue becomes, its settings, and its check."""

import json
from collections.abc import AsyncGenerator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import httpx
import pytest
import pytest_asyncio

from providers.contract import Availability, Need, Secret
from providers.registry import ProviderTrouble, build, installed
from tests.providers import lambda_server
from tests.providers.lambda_bench import SETTINGS, LambdaBench, bench
from tests.providers.vendor_spec import standing


@pytest_asyncio.fixture
async def stand() -> AsyncGenerator[LambdaBench, None]:
    async with standing(bench) as made:
        yield made


async def test_offers_are_what_the_catalogue_has_now(stand: LambdaBench) -> None:
    offers = {offer.id: offer for offer in await (await stand.provider()).offers(Need())}
    assert list(offers) == [
        "us-west-1/gpu_1x_h100_sxm5",
        "asia-south-1/gpu_1x_h100_sxm5",
        "me-west-1/gpu_8x_b200_sxm6",
        "us-south-1/gpu_1x_gh200",
        "moon-1/gpu_1x_gh200",
        "us-west-1/cpu_4x_general",
    ]
    big = offers["me-west-1/gpu_8x_b200_sxm6"]
    assert (big.gpu, big.gpus, big.gpu_memory_gib, big.memory_gib, big.disk_gib) == ("B200", 8, 180, 225, 2816)
    assert (big.price_per_hour, big.currency, big.country, big.region) == (Decimal("39.92"), "USD", "IL", "me-west-1")
    assert (big.availability, big.type, big.spot) == (Availability.AVAILABLE, "gpu_8x_b200_sxm6", False)
    assert big.seen_at == stand.clock.now()
    assert {offer.architecture for offer in offers.values() if offer.type == "gpu_1x_gh200"} == {"arm64"}
    assert big.architecture == "amd64"
    assert offers["moon-1/gpu_1x_gh200"].country is None
    assert offers["asia-south-1/gpu_1x_h100_sxm5"].country == "IN"
    plain = offers["us-west-1/cpu_4x_general"]
    assert (plain.gpu, plain.gpus, plain.gpu_memory_gib) == (None, 0, 0)


@pytest.mark.parametrize(
    ("name", "gpu", "architecture"),
    [
        ("gpu_1x_gb300", "GB300 (288 GB)", "arm64"),
        ("gpu_72x_vr200", "VR200 (288 GB)", "arm64"),
        ("gpu_8x_rubin", "Vera Rubin (288 GB)", "arm64"),
        ("gpu_8x_r200", "R200 (288 GB SXM)", "amd64"),
        ("gpu_1x_h100_pcie", "H100 (80 GB PCIe)", "amd64"),
    ],
)
async def test_architectures(name: str, gpu: str, architecture: str, stand: LambdaBench) -> None:
    stand.cloud.catalogue = {name: lambda_server.kind(name, gpu, 999, 8, lambda_server.TEXAS)}
    (offer,) = await (await stand.provider()).offers(Need())
    assert offer.architecture == architecture
    assert offer.gpu == gpu.partition(" (")[0]


async def test_odd_rows_of_the_catalogue_hide_themselves_only(stand: LambdaBench) -> None:
    good = lambda_server.kind("gpu_1x_l4", "L4 24GB", 50, 1, lambda_server.TEXAS, lambda_server.TEXAS)
    rows = {"good": good, "free": lambda_server.kind("gpu_1x_free", "L4 (24 GB)", 0, 1, lambda_server.TEXAS)}
    for number, (place, value) in enumerate(
        [
            ("price_cents_per_hour", 0.5),
            ("price_cents_per_hour", True),
            ("price_cents_per_hour", "75"),
            ("specs", None),
            ("name", "a/b"),
        ]
    ):
        row = json.loads(json.dumps(lambda_server.kind(f"gpu_{number}", "L4 (24 GB)", 50, 1, lambda_server.TEXAS)))
        row["instance_type"][place] = value
        rows[str(number)] = row
    answer = httpx.Response(200, json={"data": {**rows, "nothing": None}})
    stand.cloud.meet("/instance-types", answer)
    (offer,) = await (await stand.provider()).offers(Need())
    assert (offer.type, offer.gpu, offer.gpu_memory_gib) == ("gpu_1x_l4", "L4 24GB", 0)


async def test_regions_can_be_chosen(stand: LambdaBench) -> None:
    provider = stand.made(replace(SETTINGS, regions=("me-west-1",)))
    assert [offer.region for offer in await provider.offers(Need())] == ["me-west-1"]


async def test_check_wants_the_ssh_key(stand: LambdaBench) -> None:
    health = await (await stand.provider()).check()
    assert health.ok
    assert health.facts == {"offers now": "6", "ssh keys": "2"}
    health = await stand.made(replace(SETTINGS, ssh_key_name="mine")).check()
    assert not health.ok
    assert "no SSH key named 'mine'" in health.summary


async def test_check_tells_of_a_bad_key(stand: LambdaBench) -> None:
    health = await stand.made(replace(SETTINGS, api_key=Secret("secret_other"))).check()
    assert not health.ok
    assert "global/invalid-api-key" in health.summary
    assert "secret_other" not in health.summary


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"api_key": Secret("")}, "api_key is empty"),
        ({"ssh_key_name": ""}, "ssh_key_name"),
        ({"regions": ("US West",)}, "is no region"),
        ({"firewall_rulesets": {"": "x"}}, "is no region"),
        ({"file_systems": {"a/b": "x"}}, "is no region"),
    ],
)
def test_settings_that_make_no_sense(values: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        replace(SETTINGS, **values)


def test_it_is_built_from_a_table_of_settings() -> None:
    known = installed()
    provider = build(
        "lambda", "lambda-west", {"api_key": Secret("secret"), "ssh_key_name": "ci", "regions": ["us-west-1"]}, known
    )
    assert provider.traits.creates_per_minute == 4
    assert provider.traits.profile.proven_against
    with pytest.raises(ProviderTrouble, match="ssh_key_name is missing"):
        build("lambda", "lambda-west", {"api_key": Secret("secret")}, known)
