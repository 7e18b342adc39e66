"""OpenStack through openstacksdk: the conformance suite, and what Nova does that others do not."""

import asyncio
import base64
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from providers import openstack_cloud as wrapper
from providers.conformance import Check, Fault
from providers.contract import NoCapacity, Phase, ProviderError, Refused, Throttled, Unclear, Why
from tests.providers.openstack_bench import OFFER, OpenStackBench, bench
from tests.providers.openstack_cloud import IMAGE, NETWORK, NO_HOST, QUOTA, Trouble
from tests.providers.patience import eventually
from tests.providers.suite import suite


@suite(OpenStackBench.faults)
async def test_conformance(check: Check) -> None:
    async with bench() as stand:
        await check.run(stand)


@pytest.fixture
async def stand() -> AsyncIterator[OpenStackBench]:
    async with bench() as stand:
        yield stand


def server_id(instance_id: str) -> str:
    return instance_id.rpartition("/")[2]


async def test_what_a_create_carries(stand: OpenStackBench) -> None:
    order = stand.order()
    instance = await stand.openstack(security_groups=("runners",), availability_zone="az1", config_drive=True).create(order)
    ((_, target, headers, body),) = stand.cloud.calls("POST", "/servers")
    assert target == "/RegionOne/compute/v2.1/servers"
    assert headers["openstack-api-version"] == "compute 2.52"
    assert body == {
        "server": {
            "name": order.tag,
            "flavorRef": OFFER.partition("/")[2],
            "imageRef": IMAGE,
            "networks": [{"uuid": NETWORK}],
            "user_data": base64.b64encode(order.user_data.encode()).decode(),
            "metadata": {
                "sublet-owner": order.owner,
                "sublet-tag": order.tag,
                "sublet-key": order.key,
                "sublet-ends-at": order.ends_at.isoformat(),
            },
            "min_count": 1,
            "max_count": 1,
            "security_groups": [{"name": "runners"}],
            "availability_zone": "az1",
            "config_drive": True,
            "tags": ["sublet"],
        }
    }
    assert instance.id.startswith("RegionOne/")
    assert stand.cloud.servers[server_id(instance.id)].user_data == order.user_data


async def test_an_old_nova_is_sent_no_tags_and_no_microversion() -> None:
    async with bench(newest="2.42") as stand:
        await stand.openstack().create(stand.order())
        ((_, _, headers, body),) = stand.cloud.calls("POST", "/servers")
        assert "openstack-api-version" not in headers
        assert "tags" not in body["server"]


async def test_a_boot_volume_goes_with_its_server() -> None:
    async with bench(volume_gib=300, volume_type="fast") as stand:
        provider = stand.openstack()
        instance = await provider.create(stand.order())
        ((_, _, headers, body),) = stand.cloud.calls("POST", "/servers")
        assert headers["openstack-api-version"] == "compute 2.67"
        (disk,) = body["server"]["block_device_mapping_v2"]
        assert (disk["delete_on_termination"], disk["volume_size"], disk["volume_type"]) == (True, 300, "fast")
        assert "imageRef" not in body["server"]
        await provider.destroy(instance.id)
        assert await provider.get(instance.id) is None
        assert not stand.cloud.volumes


async def test_a_volume_type_needs_a_newer_nova() -> None:
    async with bench(newest="2.60", volume_gib=300, volume_type="fast") as stand:
        with pytest.raises(Refused, match="newer"):
            await stand.openstack().create(stand.order())
        assert not stand.cloud.calls("POST", "/servers")


ERRORS: list[tuple[int, str, str, type[ProviderError], Why | None]] = [
    (403, "forbidden", QUOTA, Refused, Why.QUOTA),
    (413, "overLimit", QUOTA, Refused, Why.QUOTA),
    (403, "forbidden", "Maximum number of ports exceeded", Refused, Why.QUOTA),
    (403, "forbidden", "Policy doesn't allow it to be performed.", Refused, Why.CREDENTIALS),
    (401, "unauthorized", "This server could not verify it.", Refused, Why.CREDENTIALS),
    (402, "paymentRequired", "Your account is out of credit.", Refused, Why.FUNDS),
    (400, "badRequest", "Invalid image", Refused, Why.REQUEST),
    (404, "itemNotFound", "Image could not be found.", Refused, Why.REQUEST),
    (409, "conflictingRequest", "Multiple possible networks found.", Refused, Why.REQUEST),
    (400, "badRequest", NO_HOST, NoCapacity, None),
    (413, "overLimit", "This request was rate-limited.", Throttled, None),
    (429, "overLimit", "", Throttled, None),
    (408, "requestTimeout", "", Unclear, None),
    (300, "choices", "", Unclear, None),
    (302, "found", "", Unclear, None),
    (500, "computeFault", NO_HOST, Unclear, None),
    (502, "badGateway", QUOTA, Unclear, None),
    (503, "serviceUnavailable", "", Unclear, None),
]


async def test_every_answer_is_sorted(stand: OpenStackBench) -> None:
    provider = stand.openstack()
    for status, kind, message, error, why in ERRORS:
        trouble = Trouble("POST", "/servers", status, {kind: {"code": status, "message": message}}, times=2)
        stand.cloud.troubles = [trouble]
        with pytest.raises(ProviderError) as caught:
            await provider.create(stand.order())
        assert type(caught.value) is error, (status, message, caught.value)
        assert getattr(caught.value, "why", None) is why, (status, message)
        assert getattr(caught.value, "maybe_created", True), status
        assert caught.value.__context__ is None
        await stand.clock.sleep(60)
    assert not stand.cloud.servers


@pytest.mark.parametrize("status", [413, 429])
@pytest.mark.parametrize(
    ("said", "wait"), [("17", 17), ("Mon, 01 Mar 2027 12:01:00 GMT", 60), ("soon", 30), ("", 30), ("99999999", 3600)]
)
async def test_retry_after_is_obeyed_by_the_whole_account(stand: OpenStackBench, status: int, said: str, wait: int) -> None:
    stand.cloud.troubles = [Trouble("GET", "/servers/detail", status, {}, {"Retry-After": said} if said else {})]
    with pytest.raises(Throttled) as caught:
        await stand.openstack().owned("owner")
    assert abs(caught.value.wait.total_seconds() - wait) < 1
    asked = len(stand.cloud.seen)
    with pytest.raises(Throttled):
        await stand.openstack().owned("owner")
    assert len(stand.cloud.seen) == asked


@pytest.mark.parametrize(
    ("said", "error", "why"),
    [
        (NO_HOST, NoCapacity, None),
        ("Exceeded maximum number of retries. Exhausted all hosts available for retrying build failures", NoCapacity, None),
        ("Quota exceeded for resources: ['volumes']", Refused, Why.QUOTA),
        ("Build of instance aborted: Failed to allocate the network(s), not rescheduling.", Unclear, None),
    ],
)
async def test_a_server_that_goes_into_error_is_sorted_once_it_is_gone(
    stand: OpenStackBench, said: str, error: type[ProviderError], why: Why | None
) -> None:
    stand.cloud.fate, stand.cloud.fault = "ERROR", said
    with pytest.raises(ProviderError) as caught:
        await stand.openstack().create(stand.order())
    assert type(caught.value) is error
    assert getattr(caught.value, "why", None) is why
    assert not getattr(caught.value, "maybe_created", False)
    assert not stand.cloud.servers


async def test_a_broken_server_that_does_not_go_is_unclear_and_listed_with_its_fault(stand: OpenStackBench) -> None:
    await stand.cause(Fault.NO_CAPACITY)
    stand.cloud.undying = True
    provider, order = stand.openstack(), stand.order()
    with pytest.raises(Unclear) as caught:
        await provider.create(order)
    assert caught.value.maybe_created
    (left,) = await provider.owned(order.owner)
    assert (left.tag, left.phase, left.detail) == (order.tag, Phase.FAILED, f"ERROR: {NO_HOST}")


async def test_a_create_that_does_not_listen_leaves_the_fault_to_get(stand: OpenStackBench) -> None:
    await stand.cause(Fault.NO_CAPACITY)
    provider = stand.openstack(watch=timedelta(0))
    instance = await provider.create(stand.order())
    assert instance.phase is Phase.STARTING
    found = await provider.get(instance.id)
    assert found is not None
    assert (found.phase, found.detail) == (Phase.FAILED, f"ERROR: {NO_HOST}")


async def test_what_is_there_under_the_tag_is_looked_at_first(stand: OpenStackBench) -> None:
    provider, order = stand.openstack(), stand.order()
    instance = await provider.create(order)
    with pytest.raises(Unclear, match="another attempt"):
        await provider.create(replace(order, key="another"))
    # The same name under another owner is none of our business: Nova takes two.
    other = await provider.create(replace(order, owner=order.owner + "x"))
    assert other.id != instance.id
    assert len(stand.cloud.calls("POST", "/servers")) == 2


async def test_what_an_earlier_try_left_broken_is_cleared_and_told(stand: OpenStackBench) -> None:
    await stand.cause(Fault.HALF_CREATED)
    provider, order = stand.openstack(), stand.order()
    with pytest.raises(Unclear):
        await provider.create(order)
    for one in stand.cloud.servers.values():
        one.fault = NO_HOST
    with pytest.raises(NoCapacity):
        await provider.create(order)
    assert not stand.cloud.servers
    assert len(stand.cloud.calls("POST", "/servers")) == 1


async def test_a_create_that_was_given_up_goes_on_and_the_close_waits_for_it(stand: OpenStackBench) -> None:
    provider, order = stand.openstack(), stand.order()
    task = asyncio.create_task(provider.create(order))
    await eventually(lambda: bool(stand.cloud.calls("GET", "/v3")), "on its way")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await provider.aclose()
    assert [one.row["name"] for one in stand.cloud.servers.values()] == [order.tag]
    with pytest.raises(Unclear, match="closed"):
        await provider.owned(order.owner)


async def test_pages_are_followed_by_marker_never_by_a_link(stand: OpenStackBench) -> None:
    provider = stand.openstack()
    for _ in range(12):
        await provider.create(stand.order())
    stand.cloud.seen.clear()
    assert len(await provider.owned(stand.order.owner)) == 12
    lists = stand.cloud.calls("GET", "/servers/detail")
    assert len(lists) == 3  # the links name a host that does not exist
    assert all("/RegionOne/compute/v2.1/servers/detail?limit=500" in target for _, target, _, _ in lists)


async def test_pages_without_end_or_in_a_circle_are_unclear(stand: OpenStackBench, monkeypatch: pytest.MonkeyPatch) -> None:
    provider, order = stand.openstack(), stand.order()
    for _ in range(12):
        await provider.create(stand.order())
    monkeypatch.setattr(wrapper, "MOST_PAGES", 2)
    with pytest.raises(Unclear, match="more than 2 pages"):
        await provider.owned(order.owner)
    page = {"servers": [{"id": "a"}], "servers_links": [{"rel": "next", "href": "http://x/?marker=a"}]}
    stand.cloud.troubles = [Trouble("GET", "/servers/detail", 200, page, times=9)]
    with pytest.raises(Unclear, match="circle"):
        await provider.owned(order.owner)


@pytest.mark.parametrize(
    "body", ["<html>", "[]", {}, {"servers": {}}, {"servers": [7]}, {"servers": [{"id": "a", "metadata": 7}]}]
)
async def test_listings_that_make_no_sense_are_unclear(stand: OpenStackBench, body: Any) -> None:
    stand.cloud.troubles = [Trouble("GET", "/servers/detail", 200, body, times=3)]
    with pytest.raises(Unclear):
        await stand.openstack().owned("owner")


async def test_a_strange_id_or_too_long_an_answer_is_unclear(stand: OpenStackBench, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"id": "../up", "status": "ACTIVE", "metadata": {"sublet-owner": "owner"}}
    stand.cloud.troubles = [Trouble("GET", "/servers/detail", 200, {"servers": [row]}, times=3)]
    with pytest.raises(Unclear):
        await stand.openstack().owned("owner")
    monkeypatch.setattr(wrapper, "CAP", 100)
    stand.cloud.troubles = [Trouble("GET", "/servers/detail", 200, "x" * 200, times=3)]
    with pytest.raises(Unclear, match="larger"):
        await stand.openstack().owned("owner")


async def test_only_novas_own_404_is_absence(stand: OpenStackBench) -> None:
    provider = stand.openstack()
    instance = await provider.create(stand.order())
    for body in ("<html>not found</html>", {"message": "no route"}):
        stand.cloud.troubles = [Trouble("GET", server_id(instance.id), 404, body, times=3)]
        with pytest.raises(ProviderError):
            await provider.get(instance.id)
    other = {"server": {"id": "00000000-0000-0000-0000-000000000000", "status": "ACTIVE"}}
    stand.cloud.troubles = [Trouble("GET", server_id(instance.id), 200, other, times=3)]
    with pytest.raises(Unclear, match="got another"):
        await provider.get(instance.id)


async def test_hostile_ids_are_never_sent(stand: OpenStackBench) -> None:
    provider = stand.openstack()
    good = "00000000-0000-0000-0000-000000000001"
    for stranger in (
        "",
        good,
        f"RegionTwo/{good}",
        f"RegionOne/{good}/x",
        f"RegionOne/{good}\n",
        f"../{good}",
        "RegionOne/detail",
    ):
        assert await provider.get(stranger) is None
        await provider.destroy(stranger)
    for offer_id in ("", "RegionOne", "RegionTwo/x", "RegionOne/a?b", "RegionOne/../x"):
        order = stand.order()
        with pytest.raises(Refused):
            await provider.create(replace(order, offer=replace(order.offer, id=offer_id)))
    assert not stand.cloud.seen


async def test_a_server_of_somebody_else_is_left_alone(stand: OpenStackBench) -> None:
    provider = stand.openstack()
    instance = await provider.create(stand.order())
    stand.cloud.servers[server_id(instance.id)].row["metadata"] = {}
    with pytest.raises(Refused):
        await provider.destroy(instance.id)
    assert not stand.cloud.calls("DELETE", "/servers")


async def test_a_server_that_the_cloud_keeps_back_is_deleted_for_good(stand: OpenStackBench) -> None:
    stand.cloud.keeps_back = True
    provider = stand.openstack()
    instance = await provider.create(stand.order())
    await provider.destroy(instance.id)
    found = await provider.get(instance.id)
    assert found is not None
    assert found.phase is Phase.DESTROYING
    await provider.destroy(instance.id)
    ((_, _, _, body),) = stand.cloud.calls("POST", "/action")
    assert body == {"forceDelete": None}
    assert await provider.get(instance.id) is None


async def test_a_record_of_a_deleted_server_dates_its_end(stand: OpenStackBench) -> None:
    provider = stand.openstack()
    instance = await provider.create(stand.order())
    await stand.put(instance.id, "DELETED")
    found = await provider.get(instance.id)
    assert found is not None
    assert found.phase is Phase.ENDED
    assert str(found.ended_at) == "2027-03-01 13:00:00+00:00"


async def test_images_and_networks_by_name_or_id(stand: OpenStackBench) -> None:
    await stand.openstack(image=IMAGE, network=NETWORK).create(stand.order())
    assert not stand.cloud.calls("GET", "/v2/images")
    assert not stand.cloud.calls("GET", "/v2.0/networks")
    for changes in ({"image": "no-such"}, {"network": "no-such"}):
        with pytest.raises(Refused, match="no-such"):
            await stand.openstack(**changes).create(stand.order())
    stand.cloud.networks *= 2
    with pytest.raises(Refused, match="2 networks"):
        await stand.openstack().create(stand.order())
    order = replace(stand.order(), image="another-image")
    with pytest.raises(Refused, match="another-image"):
        await stand.openstack(network=NETWORK).create(order)
    (query,) = [target for _, target, _, _ in stand.cloud.calls("GET", "/v2/images?name=another-image")]
    assert "status=active" in query
    assert "sort=created_at" in query
