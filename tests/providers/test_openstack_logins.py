"""OpenStack's logins, regions and `clouds.yaml`, and settings that make no sense."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from providers.contract import Refused, Throttled, Unclear, Why
from providers.openstack import OpenStackSettings
from tests.providers.openstack_bench import OFFER, OpenStackBench, bench
from tests.providers.openstack_cloud import IMAGE, PASSWORD, Trouble


@pytest.fixture
async def stand() -> AsyncIterator[OpenStackBench]:
    async with bench() as stand:
        yield stand


def server_id(instance_id: str) -> str:
    return instance_id.rpartition("/")[2]


async def test_a_wrong_password_is_told_by_every_verb_and_sends_no_create(stand: OpenStackBench) -> None:
    stand.cloud.clouds_file(stand.folder, "another-password")
    provider = stand.openstack()
    for call in (provider.create(stand.order()), provider.owned("owner"), provider.get(f"RegionOne/{IMAGE}")):
        with pytest.raises(Refused) as caught:
            await call
        assert caught.value.why is Why.CREDENTIALS
    health = await provider.check()
    assert not health.ok
    assert "another-password" not in health.summary
    assert not stand.cloud.calls("POST", "/servers")


async def test_a_token_that_has_ended_is_renewed(stand: OpenStackBench) -> None:
    provider = stand.openstack()
    instance = await provider.create(stand.order())
    stand.cloud.token = "gAAAAAB-the-next-token"
    assert await provider.get(instance.id) is not None
    assert len(stand.cloud.calls("POST", "/auth/tokens")) == 2


async def test_a_login_that_is_down_leaves_nothing_open(stand: OpenStackBench) -> None:
    stand.cloud.troubles = [Trouble("POST", "/auth/tokens", 503, {}, times=9)]
    with pytest.raises(Unclear) as caught:
        await stand.openstack().create(stand.order())
    assert not caught.value.maybe_created
    stand.cloud.troubles = [Trouble("POST", "/auth/tokens", 429, {}, {"Retry-After": "9"})]
    with pytest.raises(Throttled):
        await stand.openstack().create(stand.order())


async def test_nobody_answers(stand: OpenStackBench) -> None:
    await stand.cloud.stop()
    with pytest.raises(Unclear) as caught:
        await stand.openstack().create(stand.order())
    assert not caught.value.maybe_created


@pytest.mark.parametrize(
    "content",
    [
        None,
        "clouds: [",
        f"clouds: {{lab: {{auth: {{password: {PASSWORD}, x: : }}}}}}",
        "clouds: {other: {}}",
        "clouds: {lab: {auth: {}}}",
    ],
)
async def test_a_clouds_file_that_is_none_is_refused_and_not_quoted(
    stand: OpenStackBench, tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "clouds.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(Refused) as caught:
        await stand.openstack(clouds_file=path).owned("owner")
    assert caught.value.why is Why.CREDENTIALS
    assert PASSWORD not in str(caught.value)


async def test_a_region_that_is_nowhere_is_refused(stand: OpenStackBench) -> None:
    with pytest.raises(Refused, match="Region RegionNine is not a valid region name for cloud lab"):
        await stand.openstack(regions=("RegionNine",)).owned("owner")
    stand.cloud.clouds_file(stand.folder, region_name="RegionNine")
    with pytest.raises(Refused, match="no such service or region"):
        await stand.openstack().owned("owner")


async def test_regions_are_apart(stand: OpenStackBench) -> None:
    stand.cloud.clouds_file(stand.folder, region_name=None, regions=["RegionOne", "RegionTwo"])
    provider = stand.openstack(regions=("RegionOne", "RegionTwo"))
    order = stand.order()
    one = await provider.create(order)
    flavor = OFFER.partition("/")[2]
    two = await provider.create(replace(stand.order(), offer=replace(order.offer, id=f"RegionTwo/{flavor}")))
    assert {found.id for found in await provider.owned(order.owner)} == {one.id, two.id}
    assert (one.region, two.region) == ("RegionOne", "RegionTwo")
    assert await provider.get(f"RegionTwo/{server_id(one.id)}") is None
    await provider.destroy(f"RegionTwo/{server_id(one.id)}")
    assert await provider.get(one.id) is not None


GOOD: dict[str, Any] = {"cloud": "lab", "image": "i", "network": "n", "prices": {"f": Decimal(1)}}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cloud": ""}, "cloud is empty"),
        ({"image": ""}, "image is empty"),
        ({"network": ""}, "network is empty"),
        ({"prices": {}}, "at least one flavor"),
        ({"prices": {"f": Decimal(-1)}}, "negative"),
        ({"regions": ("a/b",)}, "regions are made of"),
        ({"regions": ("a", "a")}, "twice"),
        ({"architectures": {"f": "sparc"}}, "amd64 or arm64"),
        ({"volume_type": "fast"}, "volume_gib"),
        ({"billing_granularity": timedelta(0)}, "billing_granularity"),
        ({"watch": timedelta(hours=1)}, "a minute"),
    ],
)
def test_settings_that_make_no_sense(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        OpenStackSettings(**{**GOOD, **change})
